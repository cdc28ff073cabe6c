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

/// News of a stream for the followers of its session. Never stored; the newest counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamStatus {
    /// The session it belongs to.
    pub session: SessionSlug,
    /// The stream.
    pub stream: StreamId,
    /// Its state.
    pub state: StreamState,
    /// Since when.
    pub at: Timestamp,
}
