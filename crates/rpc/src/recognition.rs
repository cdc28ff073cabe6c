//! Recordings and texts that are done at once: the road beside the live streams.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use model::{EngineName, FaultKind, Samples, Word};
use tokio::{sync::mpsc, time::timeout};
use tonic::{Code, Status, Streaming};

use crate::{
    AUDIO_SAMPLES_MAX, MESSAGES_WAITING_MAX, WireError, Workers,
    wire::{self, Begin, RecognizeIn, RecognizeOut, RecognizeRequest, RecognizeResponse, TranslateRequest},
    workers::{Pick, Worker},
};

/// How long a worker may take to answer the first question.
const BEGIN_LIMIT: Duration = Duration::from_secs(5);

/// How long a recording waits for a worker that has room, or is there at all.
const PICK_LIMIT: Duration = Duration::from_secs(10);

/// Longest silence of a worker that has sound to decode: the longest utterance on the slowest engine, several times.
const SILENCE_LIMIT: Duration = Duration::from_secs(120);

/// How long a translation may take on its way; the worker's own limit is shorter.
const TRANSLATE_LIMIT: Duration = Duration::from_secs(60);

/// Longest text that is translated at once, in bytes.
pub const TEXT_BYTES_MAX: usize = 16_000;

/// What is made of a recording.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Task {
    /// Its words, in the language that they were said in.
    #[default]
    Transcribe,
    /// Their meaning, in English.
    Translate,
    /// Only which language is spoken.
    Detect,
}

/// What is wanted of a recording.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The language (BCP 47); `None` to have it detected.
    pub language: Option<String>,
    /// What to make of it.
    pub task: Task,
    /// Silence that ends a segment, within [`wire::ENDPOINTING_MS`]; the worker's default when absent.
    pub endpointing_ms: Option<u32>,
}

/// A stretch of a recording that somebody speaks in.
#[derive(Clone, PartialEq)]
pub struct Segment {
    /// Where it begins.
    pub start: Samples,
    /// Where it ends.
    pub end: Samples,
    /// Never empty.
    pub text: String,
    /// Its words, with their places.
    pub words: Vec<Word>,
    /// What language was spoken (BCP 47), when it is known.
    pub language: Option<String>,
    /// Mean natural logarithm of the probabilities of its tokens.
    pub logprob: f32,
}

/// The end of a recording.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// How long it is.
    pub length: Samples,
    /// Its language (BCP 47), as asked for or as detected; `None` when nobody speaks.
    pub language: Option<String>,
    /// How sure that is, 0 to 1.
    pub probability: f32,
    /// What heard it, when this version knows it.
    pub engine: Option<EngineName>,
}

/// What a worker tells of a recording.
#[derive(Debug, Clone, PartialEq)]
pub enum Recognized {
    /// The next segment.
    Segment(Segment),
    /// No more will come.
    Done(Done),
}

/// A text in another language.
#[derive(Clone, PartialEq, Eq)]
pub struct Translated {
    /// The text.
    pub text: String,
    /// The language that it was translated from, when it is known.
    pub source: Option<String>,
}

/// Why nothing was made of a recording or a text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecognizeError {
    /// Nobody serves the language, the task or the pair of languages; the text says who is served, for the user.
    #[error("{0}")]
    Unserved(String),
    /// All workers are busy.
    #[error("all transcription workers are busy")]
    Busy {
        /// When to try again.
        retry_after: Duration,
    },
    /// No worker could be reached, or the one that had it went away.
    #[error("no transcription worker could be reached")]
    Unreachable,
    /// It took longer than it may.
    #[error("it took too long")]
    TooSlow,
    /// The worker refused or failed.
    #[error("the transcription worker failed")]
    Failed {
        /// Who must act.
        fault: FaultKind,
        /// What the worker said; not for clients.
        detail: String,
    },
}

impl RecognizeError {
    /// Who must act.
    pub fn fault(&self) -> FaultKind {
        match self {
            Self::Unserved(_) => FaultKind::Caller,
            Self::Busy { .. } => FaultKind::Overloaded,
            Self::Unreachable | Self::TooSlow => FaultKind::Dependency,
            Self::Failed { fault, .. } => *fault,
        }
    }
}

/// The answers to a recording. Dropping it ends the work.
pub struct Recognition {
    down: Streaming<RecognizeResponse>,
}

impl Recognition {
    /// Finds a worker that takes the recording. Send it from a task of its own while the answers are taken here: a worker
    /// whose answers nobody takes stops reading.
    ///
    /// # Errors
    /// See [`RecognizeError`].
    pub async fn begin(workers: &Workers, wanted: &Wanted) -> Result<(Recording, Self), RecognizeError> {
        let begin = || async {
            loop {
                let worker = picked(workers).await?;
                match open(workers, &worker, wanted).await {
                    Err(RecognizeError::Busy { retry_after }) => worker.is_busy(retry_after),
                    Err(RecognizeError::Unreachable) => worker.is_away(),
                    other => return other,
                }
            }
        };
        timeout(PICK_LIMIT, begin()).await.unwrap_or(Err(RecognizeError::Unreachable))
    }

    /// The next answer; `None` after the last. Cancel-safe.
    ///
    /// # Errors
    /// The worker has failed, and nothing will follow.
    pub async fn next(&mut self) -> Result<Option<Recognized>, RecognizeError> {
        loop {
            let answer =
                timeout(SILENCE_LIMIT, self.down.message()).await.map_err(|_| RecognizeError::TooSlow)?;
            match answer.map_err(|status| failed(&status))? {
                None => return Ok(None),
                Some(RecognizeResponse { message: Some(message) }) => return Ok(Some(recognized(message))),
                // A kind of answer that this version does not know.
                Some(RecognizeResponse { message: None }) => {}
            }
        }
    }
}

/// A recording on its way to a worker. Dropping it says that it is complete.
pub struct Recording(mpsc::Sender<RecognizeRequest>);

impl Recording {
    /// Sends the samples (16 kHz mono) that follow those sent before; waits while the worker has enough.
    ///
    /// # Errors
    /// The worker takes no more; [`Recognition::next`] says why.
    pub async fn send(&self, samples: &[i16]) -> Result<(), Closed> {
        for part in samples.chunks(AUDIO_SAMPLES_MAX) {
            let pcm: Bytes = part.iter().flat_map(|sample| sample.to_le_bytes()).collect::<Vec<u8>>().into();
            let message = RecognizeRequest { message: Some(RecognizeIn::Pcm(pcm)) };
            self.0.send(message).await.map_err(|_| Closed)?;
        }
        Ok(())
    }
}

/// The worker takes no more of a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the worker takes no more of the recording")]
pub struct Closed;

/// Translates a text of at most [`TEXT_BYTES_MAX`]. `source` is `None` when nobody knows.
///
/// # Errors
/// See [`RecognizeError`].
pub async fn translate(
    workers: &Workers,
    text: &str,
    source: Option<&str>,
    target: &str,
) -> Result<Translated, RecognizeError> {
    let worker = picked(workers).await?;
    let message = TranslateRequest {
        text: text.to_owned(),
        source: source.unwrap_or_default().to_owned(),
        target: target.to_owned(),
    };
    let mut client = worker.client();
    let answer = client.translate(workers.request(message));
    let answer = timeout(TRANSLATE_LIMIT, answer).await.map_err(|_| RecognizeError::TooSlow)?;
    let answer = answer.map_err(|status| failed(&status))?.into_inner();
    Ok(Translated { text: answer.text, source: Some(answer.source).filter(|source| !source.is_empty()) })
}

/// A worker that may be asked, as soon as there is one.
async fn picked(workers: &Workers) -> Result<Worker, RecognizeError> {
    match workers.pick().await {
        Pick::Worker(worker) => Ok(worker),
        Pick::Nobody { until, busy: true } => {
            let retry_after = until.saturating_duration_since(tokio::time::Instant::now());
            Err(RecognizeError::Busy { retry_after })
        }
        Pick::Nobody { busy: false, .. } => Err(RecognizeError::Unreachable),
    }
}

async fn open(
    workers: &Workers,
    worker: &Worker,
    wanted: &Wanted,
) -> Result<(Recording, Recognition), RecognizeError> {
    let mut client = worker.client();
    let (up, outgoing) = mpsc::channel(MESSAGES_WAITING_MAX);
    // The channel was just made and has room.
    let _ = up.try_send(RecognizeRequest { message: Some(RecognizeIn::Begin(wanted.to_begin())) });
    let outgoing = stream::unfold(outgoing, |mut outgoing| async move {
        outgoing.recv().await.map(|message| (message, outgoing))
    });
    let opening = client.recognize(workers.request(outgoing));
    let opened = timeout(BEGIN_LIMIT, opening).await.map_err(|_| RecognizeError::Unreachable)?;
    let down = opened.map_err(|status| failed(&status))?.into_inner();
    Ok((Recording(up), Recognition { down }))
}

fn failed(status: &Status) -> RecognizeError {
    match status.code() {
        Code::OutOfRange => RecognizeError::Unserved(status.message().to_owned()),
        Code::ResourceExhausted => {
            RecognizeError::Busy { retry_after: wire::retry_after(status).unwrap_or(Duration::from_secs(1)) }
        }
        Code::Unavailable | Code::Cancelled | Code::Unknown => RecognizeError::Unreachable,
        Code::DeadlineExceeded => RecognizeError::TooSlow,
        code => {
            tracing::error!(?code, detail = status.message(), "a worker refused a recording");
            let fault = match code {
                // Our own services disagree; the client can do nothing about it.
                Code::Unauthenticated | Code::Unimplemented => FaultKind::Defect,
                _ => wire::fault(status),
            };
            RecognizeError::Failed { fault, detail: status.message().to_owned() }
        }
    }
}

impl Wanted {
    fn to_begin(&self) -> Begin {
        let task = match self.task {
            Task::Transcribe => wire::Task::Transcribe,
            Task::Translate => wire::Task::Translate,
            Task::Detect => wire::Task::Detect,
        };
        Begin {
            language: self.language.clone().unwrap_or_default(),
            task: task.into(),
            endpointing_ms: self.endpointing_ms.unwrap_or(0),
        }
    }

    /// What a first message asks for.
    ///
    /// # Errors
    /// The field that breaks the contract.
    pub fn from_begin(begin: Begin) -> Result<Self, WireError> {
        let task = match begin.task() {
            wire::Task::Transcribe => Task::Transcribe,
            wire::Task::Translate => Task::Translate,
            wire::Task::Detect => Task::Detect,
        };
        wire::check_language(&begin.language)?;
        wire::check_endpointing(begin.endpointing_ms)?;
        Ok(Self {
            language: Some(begin.language)
                .filter(|language| !language.is_empty() && !language.eq_ignore_ascii_case("auto")),
            task,
            endpointing_ms: Some(begin.endpointing_ms).filter(|millis| *millis != 0),
        })
    }
}

/// What a worker answers.
pub fn to_response(recognized: Recognized) -> RecognizeResponse {
    let message = match recognized {
        Recognized::Segment(segment) => RecognizeOut::Segment(wire::Segment {
            start: segment.start.0,
            end: segment.end.0,
            text: segment.text,
            words: segment
                .words
                .into_iter()
                .map(|word| wire::Word { text: word.text, start: word.start.0, end: word.end.0 })
                .collect(),
            language: segment.language.unwrap_or_default(),
            logprob: segment.logprob,
        }),
        Recognized::Done(done) => RecognizeOut::Done(wire::Done {
            samples: done.length.0,
            language: done.language.unwrap_or_default(),
            probability: done.probability,
            engine: done.engine.map(|engine| engine.label().to_owned()).unwrap_or_default(),
        }),
    };
    RecognizeResponse { message: Some(message) }
}

fn recognized(message: RecognizeOut) -> Recognized {
    let language = |language: String| Some(language).filter(|language| !language.is_empty());
    match message {
        RecognizeOut::Segment(segment) => Recognized::Segment(Segment {
            start: Samples(segment.start),
            end: Samples(segment.end),
            text: segment.text,
            words: segment
                .words
                .into_iter()
                .map(|word| Word { text: word.text, start: Samples(word.start), end: Samples(word.end) })
                .collect(),
            language: language(segment.language),
            logprob: segment.logprob,
        }),
        RecognizeOut::Done(done) => Recognized::Done(Done {
            length: Samples(done.samples),
            language: language(done.language),
            probability: done.probability,
            engine: EngineName::from_label(&done.engine),
        }),
    }
}

// What people said must not reach a log by way of `{:?}`.

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Segment({} bytes, {}..{})", self.text.len(), self.start, self.end)
    }
}

impl std::fmt::Debug for Translated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Translated({} bytes)", self.text.len())
    }
}
