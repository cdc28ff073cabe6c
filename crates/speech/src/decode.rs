use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Instant,
};

use model::Samples;

use crate::{Hypothesis, Wanted};

/// Names one [`Decode`] of one listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(pub(crate) u64);

/// What a decode is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DecodeKind {
    /// The text of a finished utterance; goes first and is never dropped.
    Final,
    /// The text so far of an open one; may be dropped.
    Partial,
    /// The text of a finished utterance of a recording: nobody waits for it as they do for who speaks now. Never dropped.
    Recording,
}

impl DecodeKind {
    /// Metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Final => "final",
            Self::Partial => "partial",
            Self::Recording => "recording",
        }
    }
}

/// A stretch of sound that a listener wants decoded.
pub struct Decode {
    /// Comes back with the answer.
    pub ticket: Ticket,
    /// 16 kHz mono, -1 to 1.
    pub pcm: Vec<f32>,
    /// What is to be made of it.
    pub wanted: Wanted,
    /// What was made of the same utterance when less of it had been heard.
    pub earlier: Option<Hypothesis>,
    /// When the listener asked.
    pub asked: Instant,
    pub(crate) standing: Standing,
    /// The answer, when exactly this sound was decoded before.
    pub(crate) known: Option<Hypothesis>,
}

impl Decode {
    /// What it is for, now: a queued partial may become final.
    pub fn kind(&self) -> DecodeKind {
        self.standing.kind()
    }

    /// The answer, when exactly this sound was decoded before. The pool gives it at once.
    pub fn known(&self) -> Option<&Hypothesis> {
        self.known.as_ref()
    }

    /// The same sound once more, for something else to be made of it.
    pub fn again(&self, wanted: Wanted) -> Self {
        Self {
            ticket: self.ticket,
            pcm: self.pcm.clone(),
            wanted,
            earlier: None,
            asked: self.asked,
            standing: Standing::new(self.kind()),
            known: None,
        }
    }

    /// How much sound there is to decode.
    pub fn length(&self) -> Samples {
        Samples::of(self.pcm.len())
    }
}

impl fmt::Debug for Decode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Decode({:?}, {:?}, {})", self.ticket, self.kind(), self.length())
    }
}

const PARTIAL: u8 = 0;
const FINAL: u8 = 1;
const RECORDING: u8 = 2;
const SUPERSEDED: u8 = 3;

/// Shared by the listener that asked and the pool that decodes: the listener may change its mind while the
/// decode waits.
#[derive(Clone)]
pub struct Standing(Arc<AtomicU8>);

impl Standing {
    pub fn new(kind: DecodeKind) -> Self {
        let standing = match kind {
            DecodeKind::Final => FINAL,
            DecodeKind::Partial => PARTIAL,
            DecodeKind::Recording => RECORDING,
        };
        Self(Arc::new(AtomicU8::new(standing)))
    }

    pub fn kind(&self) -> DecodeKind {
        match self.0.load(Ordering::Relaxed) {
            FINAL => DecodeKind::Final,
            RECORDING => DecodeKind::Recording,
            _ => DecodeKind::Partial,
        }
    }

    /// The partial covers exactly what turned out to be the whole utterance.
    pub fn promote(&self) {
        self.0.store(FINAL, Ordering::Relaxed);
    }

    /// Nobody waits for it any more.
    pub fn supersede(&self) {
        self.0.store(SUPERSEDED, Ordering::Relaxed);
    }

    pub fn superseded(&self) -> bool {
        self.0.load(Ordering::Relaxed) == SUPERSEDED
    }
}
