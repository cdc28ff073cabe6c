use crate::{Hypothesis, utterance::Sound};

/// Voiced sound shorter than this is a click, not a word: 80 ms. "Yes" has about 250 ms.
const VOICED_FRAMES_MIN: usize = 5;

/// Mean log probability below which a text is a guess at noise. Real speech lies above -0.6.
const LOGPROB_MIN: f32 = -1.1;

/// Whether the first `frames` frames of `sound` hold enough voice for a word.
pub fn voiced_enough(sound: &Sound, frames: usize) -> bool {
    sound.frames().iter().take(frames).filter(|frame| frame.voiced()).count() >= VOICED_FRAMES_MIN
}

/// Whether `hypothesis` can have been said in the first `frames` frames of `sound`.
pub fn plausible(hypothesis: &Hypothesis, sound: &Sound, frames: usize) -> bool {
    let count = hypothesis.words.len();
    if count == 0 || !voiced_enough(sound, frames) {
        return false;
    }
    let mean = hypothesis.words.iter().map(|word| word.logprob).sum::<f32>() / count as f32;
    mean >= LOGPROB_MIN && hypothesis.words.iter().any(|word| word.text.chars().any(char::is_alphanumeric))
}
