use std::fmt;

use model::{FaultKind, SAMPLE_RATE_HZ};

/// Longest utterance a recognizer is given: 12 s. Its memory grows with length, and its errors too.
pub const UTTERANCE_SAMPLES_MAX: usize = 12 * SAMPLE_RATE_HZ as usize;

/// A word as a recognizer writes it.
#[derive(Clone, PartialEq)]
pub struct HypothesisWord {
    /// With case and punctuation, without surrounding space.
    pub text: String,
    /// Mean natural logarithm of the probabilities of its tokens: 0 is certain.
    pub logprob: f32,
}

/// What a recognizer makes of an utterance.
#[derive(Clone, Default, PartialEq)]
pub struct Hypothesis {
    /// The words in order; empty when there is no speech.
    pub words: Vec<HypothesisWord>,
    /// The recognizer's own tokens, for it to start from when it hears the same utterance again, longer.
    /// Meaningless to others, and empty when the recognizer has no use for them.
    pub tokens: Vec<u32>,
}

impl Hypothesis {
    /// The words joined by single spaces.
    pub fn text(&self) -> String {
        let words: Vec<&str> = self.words.iter().map(|word| word.text.as_str()).collect();
        words.join(" ")
    }
}

// What people said must not reach a log by way of `{:?}`.

impl fmt::Debug for HypothesisWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HypothesisWord({} bytes, {:.2})", self.text.len(), self.logprob)
    }
}

impl fmt::Debug for Hypothesis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hypothesis({} words)", self.words.len())
    }
}

/// Turns the sound of one utterance into words. Not shared: each engine thread has its own.
pub trait Recognizer: Send {
    /// Recognizes one utterance: 16 kHz mono, -1 to 1, at most [`UTTERANCE_SAMPLES_MAX`] samples. The same
    /// samples always give the same words.
    fn recognize(&mut self, pcm: &[f32]) -> Result<Hypothesis, SpeechError>;

    /// Nearly always the same words as [`Recognizer::recognize`] gives, but sooner, by way of what was made of a
    /// shorter stretch of the same utterance. Good enough for partials; finals are recognized from nothing.
    fn recognize_again(&mut self, pcm: &[f32], earlier: &Hypothesis) -> Result<Hypothesis, SpeechError> {
        let _ = earlier;
        self.recognize(pcm)
    }
}

/// Why no words could be made of an utterance.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpeechError {
    /// The model or its runtime cannot be loaded.
    #[error("load the speech model: {0}")]
    Load(String),
    /// The model ran and failed.
    #[error("run the speech model: {0}")]
    Run(String),
    /// More samples than [`UTTERANCE_SAMPLES_MAX`].
    #[error("an utterance of {0} samples is longer than {max}", max = UTTERANCE_SAMPLES_MAX)]
    TooLong(usize),
    /// The recognizer panicked; its thread has a new one.
    #[error("the recognizer panicked")]
    Panicked,
    /// A partial that newer audio replaced before its turn came.
    #[error("a newer decode replaced this one")]
    Superseded,
    /// The engines were shut down before this decode's turn came.
    #[error("the speech engines are shut down")]
    ShutDown,
}

impl SpeechError {
    /// Who must act.
    pub fn fault(&self) -> FaultKind {
        match self {
            Self::Load(_) | Self::ShutDown => FaultKind::Dependency,
            Self::Run(_) | Self::Panicked | Self::TooLong(_) => FaultKind::Defect,
            Self::Superseded => FaultKind::Overloaded,
        }
    }
}
