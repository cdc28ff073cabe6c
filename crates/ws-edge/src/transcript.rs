//! The story of a session: finals and their translations from Postgres and the bus, partials and states from the bus alone.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use event_bus::Event;
use futures_util::future::BoxFuture;
use model::{
    AppEvent, Caption, EngineName, Entry, Fallback, OutsideId, Sequence, SessionSlug, StreamId, StreamState,
    StreamStatus, Topic, UtteranceId,
};
use storage::StorageError;
use tokio::time::Instant;

use crate::{
    Edge,
    feed::{Feeds, Story},
    metrics::Kind,
    order::{Page, Record},
    spread::{Latency, Spread},
    update::Update,
};

/// Finals and translations in one page from Postgres.
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
    /// Age of its captions when they are handed on.
    lag: Mutex<Spread>,
}

#[derive(Default)]
struct Heard {
    states: States,
    finished: Finished,
}

impl Transcript {
    /// What is known of the session's streams.
    pub(crate) fn hearing(&self) -> Option<Hearing> {
        self.lock().states.told.clone()
    }

    fn update(&self, edge: &Edge, hearing: Option<Hearing>) -> Option<Update> {
        hearing.map(|hearing| Update::state(self.session.clone(), hearing, edge.clock.now()))
    }

    /// How old its captions were when they were handed on.
    pub(crate) fn lag(&self) -> Option<Latency> {
        self.lag.lock().unwrap_or_else(PoisonError::into_inner).latency()
    }

    fn caption(&self, edge: &Edge, caption: Caption) -> Update {
        let (made_at, utterance, end, kind) = match &caption {
            Caption::Partial(partial) => (partial.at, &partial.utterance, partial.end, Kind::Partial),
            Caption::Final(segment) => (segment.at, &segment.utterance, segment.end, Kind::Final),
            // It comes after its caption, when its translator likes.
            Caption::Translation(_) => return Update::caption(caption),
        };
        let age = edge.tally.caption(made_at, edge.clock.now());
        self.lag.lock().unwrap_or_else(PoisonError::into_inner).record_duration(age);
        // A correction comes when its author likes.
        let is_first = !matches!(&caption, Caption::Final(segment) if segment.revision > 0);
        if let Some(stream) = utterance.stream().filter(|_| is_first)
            && let Some(came) = edge.desks.came(stream, end)
        {
            edge.tally.end_to_caption(came.elapsed(), kind);
        }
        Update::caption(caption)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record for Entry {
    fn sequence(&self) -> Sequence {
        Self::sequence(self)
    }
}

impl Story for Transcript {
    type Topic = SessionSlug;
    type Record = Entry;
    type Item = Update;
    type Away = StorageError;

    fn new(session: &SessionSlug) -> Self {
        Self { session: session.clone(), heard: Mutex::default(), lag: Mutex::default() }
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
    ) -> BoxFuture<'static, Result<Page<Entry>, StorageError>> {
        let (storage, session) = (edge.storage.clone(), session.clone());
        Box::pin(async move {
            let records = storage.entries_since(&session, after, PAGE).await?;
            let through = match records.last() {
                Some(entry) => entry.sequence(),
                // Whoever asks may be ahead of the session.
                None => storage.last_sequence(&Topic::Session(session)).await?.min(after),
            };
            let is_last = records.len() < usize::try_from(PAGE).unwrap_or(usize::MAX);
            Ok(Page { records, through, is_last, is_incomplete: false })
        })
    }

    fn hear(&self, edge: &Edge, event: Event, told: &mut Vec<Update>) -> Option<Entry> {
        match event {
            Event::Caption(Caption::Partial(partial)) => {
                let mut heard = self.lock();
                let stream = partial.utterance.stream();
                let changed = stream.and_then(|stream| heard.states.is_heard(stream));
                told.extend(self.update(edge, changed));
                if heard.finished.is_open(&partial.utterance) {
                    told.push(self.caption(edge, Caption::Partial(partial)));
                }
            }
            Event::Caption(Caption::Final(segment)) => return Some(Entry::Final(segment)),
            Event::Caption(Caption::Translation(translation)) => {
                return Some(Entry::Translation(translation));
            }
            Event::Status(StreamStatus { stream, state, engine, fallback, .. }) => {
                let changed = self.lock().states.note(stream, Hearing { state, engine, fallback });
                told.extend(self.update(edge, changed));
            }
            Event::SessionEnded => {}
            Event::TranscriptionError(error) => told.push(Update::error(self.session.clone(), error)),
            Event::App(AppEvent { payload, .. }) => told.push(Update::verbatim(payload)),
            Event::Notification { .. }
            | Event::NotificationChanged(_)
            | Event::Message(_)
            | Event::Sign { .. } => {}
        }
        None
    }

    fn tell(&self, edge: &Edge, entry: Entry) -> Update {
        if let Entry::Final(segment) = &entry {
            self.lock().finished.note(&segment.utterance);
        }
        self.caption(edge, entry.into())
    }

    fn look(&self, edge: &Edge) -> Option<Update> {
        let changed = self.lock().states.forget(STATE_LIMIT);
        self.update(edge, changed)
    }
}

/// The last utterance of each stream whose final was told, and the last ones from outside.
#[derive(Default)]
struct Finished {
    heard: VecDeque<(StreamId, u32)>,
    outside: VecDeque<OutsideId>,
}

impl Finished {
    /// Whether text of this open utterance is still news.
    fn is_open(&self, utterance: &UtteranceId) -> bool {
        match utterance {
            UtteranceId::Heard { stream, number } => {
                let finished = self.heard.iter().find(|(known, _)| known == stream);
                finished.is_none_or(|(_, highest)| number > highest)
            }
            UtteranceId::Outside(id) => !self.outside.contains(id),
        }
    }

    fn note(&mut self, utterance: &UtteranceId) {
        match utterance {
            UtteranceId::Heard { stream, number } => {
                match self.heard.iter_mut().find(|(known, _)| known == stream) {
                    Some((_, highest)) => *highest = (*number).max(*highest),
                    None => push(&mut self.heard, (*stream, *number)),
                }
            }
            UtteranceId::Outside(id) if self.outside.contains(id) => {}
            UtteranceId::Outside(id) => push(&mut self.outside, id.clone()),
        }
    }
}

/// Adds to what is remembered, and forgets the oldest when that is too much.
fn push<T>(remembered: &mut VecDeque<T>, new: T) {
    if remembered.len() >= FINISHED_MAX {
        remembered.pop_front();
    }
    remembered.push_back(new);
}

/// Whether the sound of a stream, or of a whole session, is being understood, and by what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hearing {
    pub(crate) state: StreamState,
    pub(crate) engine: Option<EngineName>,
    pub(crate) fallback: Option<Fallback>,
}

/// What is known of the streams of a session.
#[derive(Default)]
struct States {
    streams: HashMap<StreamId, (Hearing, Instant)>,
    told: Option<Hearing>,
}

impl States {
    /// Takes in how a stream does; returns how the session does when that changed by it.
    fn note(&mut self, stream: StreamId, hearing: Hearing) -> Option<Hearing> {
        if hearing.state == StreamState::Stopped {
            self.streams.remove(&stream);
        } else if self.streams.len() < STREAMS_MAX || self.streams.contains_key(&stream) {
            self.streams.insert(stream, (hearing, Instant::now()));
        }
        self.changed()
    }

    /// A caption of a stream came: a worker listens to it.
    fn is_heard(&mut self, stream: StreamId) -> Option<Hearing> {
        let (engine, fallback) = match self.streams.get(&stream) {
            Some((known, _)) => (known.engine, known.fallback.clone()),
            None => (None, None),
        };
        self.note(stream, Hearing { state: StreamState::Ready, engine, fallback })
    }

    /// Lets go of streams that are silent for longer than `limit`.
    fn forget(&mut self, limit: Duration) -> Option<Hearing> {
        self.streams.retain(|_, (_, heard)| heard.elapsed() < limit);
        self.changed()
    }

    fn changed(&mut self) -> Option<Hearing> {
        // Of several streams, the one whose engine has failed is news.
        let notable = |(hearing, _): &&(Hearing, Instant)| {
            (hearing.state == StreamState::Ready, hearing.fallback.is_some(), hearing.engine.is_some())
        };
        let overall = match self.streams.values().max_by_key(notable) {
            Some((hearing, _)) => hearing.clone(),
            // Before anything was heard there is nothing to say.
            None => {
                self.told.as_ref()?;
                Hearing { state: StreamState::Stopped, engine: None, fallback: None }
            }
        };
        let changed = self.told.as_ref() != Some(&overall);
        self.told = Some(overall.clone());
        changed.then_some(overall)
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
        let plain = |state| Hearing { state, engine: None, fallback: None };
        let mut states = States::default();
        assert_eq!(states.note(one, plain(Stopped)), None, "nothing was ever there");
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
            assert_eq!(states.note(stream, plain(state)), told.map(plain));
        }
        assert_eq!(states.told, Some(plain(Stopped)));
        states.note(one, plain(Ready));
        assert_eq!(states.forget(Duration::ZERO), Some(plain(Stopped)));
    }

    #[test]
    fn an_engine_that_failed_is_told_and_stays_told() {
        let stream = StreamId(Uuid::from_u128(1));
        let fallback = Fallback { from: EngineName::Gladia, reason: "quota".to_owned() };
        let failed = Hearing {
            state: StreamState::Ready,
            engine: Some(EngineName::Moonshine),
            fallback: Some(fallback),
        };
        let mut states = States::default();
        let first = Hearing { engine: Some(EngineName::Gladia), fallback: None, ..failed.clone() };
        assert_eq!(states.note(stream, first.clone()), Some(first));
        assert_eq!(states.note(stream, failed.clone()), Some(failed.clone()));
        assert_eq!(states.is_heard(stream), None);
        assert_eq!(states.told, Some(failed));
    }

    #[test]
    fn partials_of_finished_utterances_are_old() {
        let of = |stream, number| UtteranceId::Heard { stream: StreamId(Uuid::from_u128(stream)), number };
        let outside = |id: &str| UtteranceId::Outside(id.parse().unwrap());
        let mut finished = Finished::default();
        assert!(finished.is_open(&of(1, 1)) && finished.is_open(&outside("a")));
        finished.note(&of(1, 3));
        finished.note(&of(1, 2));
        finished.note(&outside("a"));
        assert!(!finished.is_open(&of(1, 3)) && finished.is_open(&of(1, 4)) && finished.is_open(&of(2, 1)));
        assert!(!finished.is_open(&outside("a")) && finished.is_open(&outside("b")));
    }
}
