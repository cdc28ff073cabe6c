use std::fmt;

use crate::{SessionSlug, StreamId, Timestamp};

/// Whether a stream's audio is being understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamState {
    /// Its source is there, a worker is not (yet, or any more).
    Connecting,
    /// A worker listens.
    Ready,
    /// It has ended.
    Stopped,
}

impl StreamState {
    /// The word that clients read.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Ready => "ready",
            Self::Stopped => "stopped",
        }
    }

    /// The state that a label names.
    pub fn from_label(label: &str) -> Option<Self> {
        [Self::Connecting, Self::Ready, Self::Stopped].into_iter().find(|state| state.label() == label)
    }
}

/// What understands the sound of a stream. Its label stands in messages, rows and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EngineName {
    /// Embedded: Moonshine.
    Moonshine,
    /// Embedded: Whisper through CTranslate2.
    Whisper,
    /// Gladia v2 live.
    Gladia,
    /// A server with OpenAI's `/v1/audio/transcriptions`.
    OpenAi,
}

impl EngineName {
    /// Every engine, for metrics that start at zero.
    pub const ALL: [Self; 4] = [Self::Moonshine, Self::Whisper, Self::Gladia, Self::OpenAi];

    /// Its name in messages, rows and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Moonshine => "moonshine",
            Self::Whisper => "whisper",
            Self::Gladia => "gladia",
            Self::OpenAi => "openai",
        }
    }

    /// The engine that a label names.
    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|engine| engine.label() == label)
    }
}

/// Why a stream is heard by another engine than it began with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fallback {
    /// The engine that failed.
    pub from: EngineName,
    /// Why, as one word: `unauthorized`, `quota`, `refused`, `unavailable`.
    pub reason: String,
}

/// Why a session is not transcribed although somebody asked for it.
#[derive(Clone, PartialEq, Eq)]
pub struct TranscriptionError {
    /// One word for programs: `livekit_unauthorized`, `internal_error` and others.
    pub reason: String,
    /// What a person can do about it. Holds no secret.
    pub message: String,
    /// Since when.
    pub at: Timestamp,
}

impl fmt::Debug for TranscriptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TranscriptionError({})", self.reason)
    }
}

/// News of a stream for the followers of its session. Never stored; the newest counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamStatus {
    /// The session it belongs to.
    pub session: SessionSlug,
    /// The stream.
    pub stream: StreamId,
    /// Its state.
    pub state: StreamState,
    /// What understands it, once a worker has said.
    pub engine: Option<EngineName>,
    /// Why that is not the engine it began with.
    pub fallback: Option<Fallback>,
    /// Since when.
    pub at: Timestamp,
}
