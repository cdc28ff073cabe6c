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

/// What is made of an utterance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Task {
    /// Its words, in the language that they were said in.
    #[default]
    Transcribe,
    /// Its meaning, in English.
    Translate,
}

/// What a recognizer is to know before it hears an utterance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The language that is spoken: the primary subtag of BCP 47, in lower case. `None`: the recognizer finds out.
    pub language: Option<String>,
    /// What to make of it.
    pub task: Task,
}

/// A language that a recognizer has found out.
#[derive(Debug, Clone, PartialEq)]
pub struct Detected {
    /// The primary subtag of BCP 47, in lower case.
    pub language: String,
    /// How sure it is: 0 to 1.
    pub probability: f32,
}

/// What a recognizer makes of an utterance.
#[derive(Clone, Default, PartialEq)]
pub struct Hypothesis {
    /// The words in order; empty when there is no speech.
    pub words: Vec<HypothesisWord>,
    /// The recognizer's own tokens, for it to start from when it hears the same utterance again, longer.
    /// Meaningless to others, and empty when the recognizer has no use for them.
    pub tokens: Vec<u32>,
    /// Where each word lies, in samples of what was heard; empty when the recognizer does not tell.
    pub spans: Vec<(usize, usize)>,
    /// The language, when the recognizer had to find out.
    pub detected: Option<Detected>,
}

impl Hypothesis {
    /// The words joined by single spaces.
    pub fn text(&self) -> String {
        let words: Vec<&str> = self.words.iter().map(|word| word.text.as_str()).collect();
        words.join(" ")
    }

    /// Mean natural logarithm of the probabilities of its tokens, word by word; 0 when there are none.
    pub fn logprob(&self) -> f32 {
        let sum: f32 = self.words.iter().map(|word| word.logprob).sum();
        sum / self.words.len().max(1) as f32
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
    fn recognize(&mut self, pcm: &[f32], wanted: &Wanted) -> Result<Hypothesis, SpeechError>;

    /// Nearly always the same words as [`Recognizer::recognize`] gives, but sooner, by way of what was made of a
    /// shorter stretch of the same utterance. Good enough for partials; finals are recognized from nothing.
    fn recognize_again(
        &mut self,
        pcm: &[f32],
        wanted: &Wanted,
        earlier: &Hypothesis,
    ) -> Result<Hypothesis, SpeechError> {
        let _ = earlier;
        self.recognize(pcm, wanted)
    }

    /// Which language is spoken. At most [`UTTERANCE_SAMPLES_MAX`] samples; several seconds of speech make it sure.
    /// `None` when the recognizer knows one language only, or nobody speaks.
    fn detect(&mut self, pcm: &[f32]) -> Result<Option<Detected>, SpeechError> {
        let _ = pcm;
        Ok(None)
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
    /// The model does not know the language that was asked for.
    #[error("the model does not know the language {0:?}")]
    Language(String),
    /// A recognizer elsewhere did not hear the utterance. Says nothing of keys, addresses or words.
    #[error("{what}")]
    Remote {
        /// What came of it.
        what: &'static str,
        /// Who must act.
        fault: FaultKind,
    },
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
            Self::Language(_) => FaultKind::Caller,
            Self::Remote { fault, .. } => *fault,
        }
    }
}
