//! The story of a session: finals from Postgres and the bus, partials and states from the bus alone.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use event_bus::Event;
use futures_util::future::BoxFuture;
use model::{Caption, Final, Sequence, SessionSlug, StreamId, StreamState, StreamStatus, Topic, UtteranceId};
use storage::StorageError;
use tokio::time::Instant;

use crate::{
    Edge,
    feed::{Feeds, Story},
    order::{Page, Record},
    update::Update,
};

/// Finals in one page from Postgres.
const PAGE: u32 = 200;

/// A stream of which nothing was heard for so long is gone with its edge. Sources repeat their state every ping
/// interval.
const STATE_LIMIT: Duration = Duration::from_secs(60);

/// Streams of one session whose state is kept.
const STREAMS_MAX: usize = 256;

/// Streams whose last finished utterance is remembered, to pass over its late partials.
const FINISHED_MAX: usize = 64;

/// What followers of one session know.
pub(crate) struct Transcript {
    session: SessionSlug,
    heard: Mutex<Heard>,
}

#[derive(Default)]
struct Heard {
    states: States,
    finished: Finished,
}

impl Transcript {
    /// What is known of the session's streams.
    pub(crate) fn state(&self) -> Option<StreamState> {
        self.lock().states.overall()
    }

    fn update(&self, edge: &Edge, state: Option<StreamState>) -> Option<Update> {
        state.map(|state| Update::state(self.session.clone(), state, edge.clock.now()))
    }

    fn caption(edge: &Edge, caption: Caption) -> Update {
        let made_at = match &caption {
            Caption::Partial(partial) => partial.at,
            Caption::Final(segment) => segment.at,
        };
        edge.tally.caption(made_at, edge.clock.now());
        Update::caption(caption)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record for Final {
    fn sequence(&self) -> Sequence {
        self.sequence
    }
}

impl Story for Transcript {
    type Topic = SessionSlug;
    type Record = Final;
    type Item = Update;
    type Away = StorageError;

    fn new(session: &SessionSlug) -> Self {
        Self { session: session.clone(), heard: Mutex::default() }
    }

    fn feeds(edge: &Edge) -> &Feeds<Self> {
        &edge.transcripts
    }

    fn on_the_bus(session: &SessionSlug) -> Topic {
        Topic::Session(session.clone())
    }

    fn last(edge: &Edge, session: &SessionSlug) -> BoxFuture<'static, Result<Sequence, StorageError>> {
        let (storage, topic) = (edge.storage.clone(), Topic::Session(session.clone()));
        Box::pin(async move { storage.last_sequence(&topic).await })
    }

    fn after(
        edge: &Edge,
        session: &SessionSlug,
        after: Sequence,
    ) -> BoxFuture<'static, Result<Page<Final>, StorageError>> {
        let (storage, session) = (edge.storage.clone(), session.clone());
        Box::pin(async move {
            let records = storage.finals_since(&session, after, PAGE).await?;
            let through = match records.last() {
                Some(segment) => segment.sequence,
                // Whoever asks may be ahead of the session.
                None => storage.last_sequence(&Topic::Session(session)).await?.min(after),
            };
            let is_last = records.len() < usize::try_from(PAGE).unwrap_or(usize::MAX);
            Ok(Page { records, through, is_last, is_incomplete: false })
        })
    }

    fn hear(&self, edge: &Edge, event: Event, told: &mut Vec<Update>) -> Option<Final> {
        match event {
            Event::Caption(Caption::Partial(partial)) => {
                let mut heard = self.lock();
                let changed = heard.states.note(partial.utterance.stream, StreamState::Ready);
                told.extend(self.update(edge, changed));
                if heard.finished.is_open(partial.utterance) {
                    told.push(Self::caption(edge, Caption::Partial(partial)));
                }
            }
            Event::Caption(Caption::Final(segment)) => return Some(segment),
            Event::Status(StreamStatus { stream, state, .. }) => {
                let changed = self.lock().states.note(stream, state);
                told.extend(self.update(edge, changed));
            }
            Event::SessionEnded => edge.sessions.ended(&self.session),
            Event::Notification { .. }
            | Event::NotificationChanged(_)
            | Event::Message(_)
            | Event::App(_) => {}
        }
        None
    }

    fn tell(&self, edge: &Edge, segment: Final) -> Update {
        self.lock().finished.note(segment.utterance);
        Self::caption(edge, Caption::Final(segment))
    }

    fn look(&self, edge: &Edge) -> Option<Update> {
        let changed = self.lock().states.forget(STATE_LIMIT);
        self.update(edge, changed)
    }
}

/// The last utterance of each stream whose final was told.
#[derive(Default)]
struct Finished(VecDeque<(StreamId, u32)>);

impl Finished {
    /// Whether text of this open utterance is still news.
    fn is_open(&self, utterance: UtteranceId) -> bool {
        let finished = self.0.iter().find(|(stream, _)| *stream == utterance.stream);
        finished.is_none_or(|(_, number)| utterance.number > *number)
    }

    fn note(&mut self, UtteranceId { stream, number }: UtteranceId) {
        match self.0.iter_mut().find(|(known, _)| *known == stream) {
            Some((_, highest)) => *highest = number.max(*highest),
            None => {
                if self.0.len() >= FINISHED_MAX {
                    self.0.pop_front();
                }
                self.0.push_back((stream, number));
            }
        }
    }
}

/// What is known of the streams of a session.
#[derive(Default)]
struct States {
    streams: HashMap<StreamId, (StreamState, Instant)>,
    told: Option<StreamState>,
}

impl States {
    /// Takes in a stream's state; returns the session's when that changed by it.
    fn note(&mut self, stream: StreamId, state: StreamState) -> Option<StreamState> {
        if state == StreamState::Stopped {
            self.streams.remove(&stream);
        } else if self.streams.len() < STREAMS_MAX || self.streams.contains_key(&stream) {
            self.streams.insert(stream, (state, Instant::now()));
        }
        self.changed()
    }

    /// Lets go of streams that are silent for longer than `limit`.
    fn forget(&mut self, limit: Duration) -> Option<StreamState> {
        self.streams.retain(|_, (_, heard)| heard.elapsed() < limit);
        self.changed()
    }

    fn changed(&mut self) -> Option<StreamState> {
        let overall = if self.streams.values().any(|(state, _)| *state == StreamState::Ready) {
            StreamState::Ready
        } else if self.streams.is_empty() {
            // Before anything was heard there is nothing to say.
            self.told.map(|_| StreamState::Stopped)?
        } else {
            StreamState::Connecting
        };
        let changed = self.told != Some(overall);
        self.told = Some(overall);
        changed.then_some(overall)
    }

    fn overall(&self) -> Option<StreamState> {
        self.told
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_session_is_ready_while_any_stream_is() {
        use StreamState::{Connecting, Ready, Stopped};
        let (one, two) = (StreamId(Uuid::from_u128(1)), StreamId(Uuid::from_u128(2)));
        let mut states = States::default();
        assert_eq!(states.note(one, Stopped), None, "nothing was ever there");
        for (stream, state, told) in [
            (one, Connecting, Some(Connecting)),
            (one, Connecting, None),
            (one, Ready, Some(Ready)),
            (two, Connecting, None),
            (one, Stopped, Some(Connecting)),
            (two, Ready, Some(Ready)),
            (two, Stopped, Some(Stopped)),
            (two, Stopped, None),
        ] {
            assert_eq!(states.note(stream, state), told);
        }
        assert_eq!(states.overall(), Some(Stopped));
        states.note(one, Ready);
        assert_eq!(states.forget(Duration::ZERO), Some(Stopped));
    }

    #[test]
    fn partials_of_finished_utterances_are_old() {
        let of = |stream, number| UtteranceId { stream: StreamId(Uuid::from_u128(stream)), number };
        let mut finished = Finished::default();
        assert!(finished.is_open(of(1, 1)));
        finished.note(of(1, 3));
        finished.note(of(1, 2));
        assert!(!finished.is_open(of(1, 3)) && finished.is_open(of(1, 4)) && finished.is_open(of(2, 1)));
    }
}
