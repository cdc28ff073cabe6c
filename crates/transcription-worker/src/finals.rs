//! Finals of one stream on their way into Postgres: in order, until each is stored.

use std::{collections::VecDeque, future::Future, pin::Pin, time::Duration};

use model::{Clock, Samples, SessionId, Speaker, StreamId, TraceContext, Untranslated, UtteranceId, Word};
use outbox::Bell;
use rpc::Source;
use storage::{NewFinal, NewTranslation, OpenStream, Recorded, Revision, Storage, StorageError};
use telemetry::{SpanKind, Tracer};

use crate::translating::Targets;

/// Wait between attempts while Postgres is away: doubles from the first to the last.
pub(crate) const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// The text of a finished utterance, before it is stored.
pub(crate) struct Utterance {
    pub(crate) number: u32,
    pub(crate) speaker: Speaker,
    pub(crate) text: String,
    pub(crate) words: Vec<Word>,
    pub(crate) language: Option<String>,
    pub(crate) start: Samples,
    pub(crate) end: Samples,
    /// Where in a trace it was recognized.
    pub(crate) trace: Option<TraceContext>,
}

/// The finals of one stream that are not stored yet. Bounded by the uplink's window: what is not stored is not
/// acknowledged, and the source sends no further than that.
pub(crate) struct Finals {
    session_id: SessionId,
    source: Source,
    epoch: i64,
    storage: Storage,
    bell: Bell,
    targets: Targets,
    tracer: Tracer,
    clock: Clock,
    waiting: VecDeque<Waiting>,
    storing: Option<Storing>,
}

/// Storing the oldest, attempt after attempt.
type Storing = Pin<Box<dyn Future<Output = Result<(), StorageError>> + Send>>;

/// What is to be stored.
#[derive(Clone)]
enum Waited {
    Final(NewFinal),
    /// Another text for a final that is stored, or waits before this one.
    Correction(Revision),
    /// One that was stored, or waits before this, in another language.
    Translation(NewTranslation),
}

struct Waiting {
    what: Waited,
    /// Audio before this is settled even while the final waits.
    settled: Samples,
    trace: Option<TraceContext>,
}

impl Finals {
    pub(crate) fn new(
        source: &Source,
        open: &OpenStream,
        storage: Storage,
        bell: Bell,
        targets: Targets,
        tracer: Tracer,
        clock: Clock,
    ) -> Self {
        Self {
            session_id: open.session_id,
            source: source.clone(),
            epoch: open.epoch,
            storage,
            bell,
            targets,
            tracer,
            clock,
            waiting: VecDeque::new(),
            storing: None,
        }
    }

    /// Queues a final. `settled` is the position up to which audio was settled before it.
    pub(crate) fn push(&mut self, utterance: Utterance, settled: Samples) {
        let translate_to = self.targets.of(utterance.language.as_deref());
        let segment = NewFinal {
            session_id: self.session_id,
            session: self.source.session.clone(),
            epoch: self.epoch,
            stream: self.source.stream,
            number: utterance.number,
            speaker: utterance.speaker,
            text: utterance.text.trim().to_owned(),
            language: utterance.language,
            start: utterance.start,
            end: utterance.end,
            words: utterance.words,
            translate_to,
            at: self.clock.now(),
        };
        self.waiting.push_back(Waiting { what: Waited::Final(segment), settled, trace: utterance.trace });
    }

    /// Queues another text for an utterance whose final was queued before.
    pub(crate) fn correct(&mut self, number: u32, text: String, language: Option<String>, settled: Samples) {
        let now = self.clock.now();
        let correction = Revision {
            session: self.source.session.clone(),
            utterance: UtteranceId::Heard { stream: self.source.stream, number },
            speaker: None,
            text: text.trim().to_owned(),
            language,
            outside: None,
            said_at: now,
            at: now,
        };
        self.waiting.push_back(Waiting { what: Waited::Correction(correction), settled, trace: None });
    }

    /// Whether its engine is to translate them to English.
    pub(crate) fn speech_to_english(&self) -> bool {
        self.targets.english().is_some()
    }

    /// Queues what a final that was queued before is in English; `None` when the engine could not say.
    pub(crate) fn translated(&mut self, number: u32, text: Option<String>) {
        let Some(target) = self.targets.english() else { return };
        let text = text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let translation = NewTranslation {
            session: self.source.session.clone(),
            utterance: UtteranceId::Heard { stream: self.source.stream, number },
            revision: 0,
            target: target.to_owned(),
            outcome: text.ok_or(Untranslated::Refused),
            at: self.clock.now(),
        };
        // No sound waits for it.
        self.waiting.push_back(Waiting {
            what: Waited::Translation(translation),
            settled: Samples(u64::MAX),
            trace: None,
        });
    }

    /// Where the oldest ends; the sound before must be metered before it is stored. `None` when none waits.
    pub(crate) fn next_end(&self) -> Option<Samples> {
        self.waiting.front().map(|first| match &first.what {
            Waited::Final(segment) => segment.end,
            Waited::Correction(_) | Waited::Translation(_) => Samples(0),
        })
    }

    /// Languages that nobody translates into, for the user; each is told once.
    pub(crate) fn unserved(&mut self) -> Option<String> {
        self.targets.unserved()
    }

    /// Whether all are stored.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How far audio is settled, when the listener has settled it up to `listened`.
    pub(crate) fn settled(&self, listened: Samples) -> Samples {
        self.waiting.front().map_or(listened, |first| first.settled.min(listened))
    }

    /// Waits until the oldest is stored, trying again while Postgres is away. Pending when there is none.
    /// Cancel-safe: an attempt under way is continued by the next call.
    ///
    /// # Errors
    /// Another worker has the stream.
    pub(crate) async fn store_next(&mut self) -> Result<(), StorageError> {
        let Some(first) = self.waiting.front() else { return std::future::pending().await };
        let storing = self.storing.get_or_insert_with(|| {
            let span = self.tracer.span("store", SpanKind::Internal, first.trace);
            let storing = store(self.storage.clone(), self.source.stream, first.what.clone());
            // The span ends with the work.
            Box::pin(async move { span.within(storing).await })
        });
        let stored = storing.await;
        self.storing = None;
        stored?;
        self.waiting.pop_front();
        self.bell.ring();
        self.targets.ring();
        Ok(())
    }

    /// Notes the end of the stream, once; a stream whose end could not be noted is closed by idleness.
    pub(crate) async fn close(&mut self) {
        let closed = self.storage.close_stream(self.source.stream, self.epoch, self.clock.now()).await;
        if let Err(error) = closed {
            tracing::warn!(%error, stream = %self.source.stream, "close the stream");
        }
    }
}

async fn store(storage: Storage, stream: StreamId, what: Waited) -> Result<(), StorageError> {
    let mut pause = BACK_OFF.0;
    loop {
        let stored = match &what {
            Waited::Final(segment) => {
                storage.record_final(segment).await.map(|recorded| recorded == Recorded::AlreadyStored)
            }
            Waited::Correction(correction) => storage.revise(correction).await.map(|stored| stored.is_none()),
            Waited::Translation(translation) => {
                storage.tell_translation(translation).await.map(|told| told.is_none())
            }
        };
        match stored {
            Err(StorageError::Superseded | StorageError::Forbidden) => return Err(StorageError::Superseded),
            Err(error) => {
                // Whatever it is, the words are still ours to keep.
                tracing::warn!(%error, %stream, "store a final; trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(BACK_OFF.1);
            }
            Ok(before) => {
                if before {
                    tracing::debug!(%stream, "a final was stored before");
                }
                return Ok(());
            }
        }
    }
}
