use crate::{Hypothesis, phantoms, utterance::Sound};

/// Voiced sound shorter than this is a click, not a word: 80 ms. "Yes" has about 250 ms.
const VOICED_FRAMES_MIN: usize = 5;

/// Mean log probability below which a text is a guess at noise. Finals of real speech lie above -0.7.
const LOGPROB_MIN: f32 = -1.1;

/// At this and above the voice detector is certain.
const CLEAR_VOICE: f32 = 0.9;

/// Share of the voiced frames that are clear voice. Recordings of speech have 0.24 and more, also when turned
/// down by 30 dB; knocking has none and chords on a keyboard up to 0.2.
const CLEAR_SHARE_MIN: f32 = 0.2;

/// What is not clearly voice must be so sure a text: 78 % for a phrase,
const PHRASE_LOGPROB_MIN: f32 = -0.25;

/// 90 % for fewer words than a phrase has, or for slow ones.
const WORD_LOGPROB_MIN: f32 = -0.1;

/// Words that make a phrase.
const PHRASE_WORDS: usize = 3;

/// More voice per word than this, 1.5 s, is no speech but a tone.
const VOICED_FRAMES_PER_WORD_MAX: usize = 94;

/// Whether the first `frames` frames of `sound` hold enough voice for a word.
pub fn voiced_enough(sound: &Sound, frames: usize) -> bool {
    voiced(sound, frames).count() >= VOICED_FRAMES_MIN
}

/// Whether `hypothesis` can have been said in the first `frames` frames of `sound`.
pub fn plausible(hypothesis: &Hypothesis, sound: &Sound, frames: usize) -> bool {
    let (count, text) = (hypothesis.words.len(), hypothesis.text());
    let voiced_frames = voiced(sound, frames).count();
    let spelled = hypothesis.words.iter().any(|word| word.text.chars().any(char::is_alphanumeric));
    if !spelled || voiced_frames < VOICED_FRAMES_MIN || phantoms::is_unsaid(&text) {
        return false;
    }
    let clear =
        voiced(sound, frames).filter(|voice| *voice >= CLEAR_VOICE).count() as f32 / voiced_frames as f32;
    let least = if voiced_frames > count * VOICED_FRAMES_PER_WORD_MAX {
        WORD_LOGPROB_MIN
    } else if clear >= CLEAR_SHARE_MIN {
        LOGPROB_MIN
    } else if phantoms::is_line(&text) {
        return false;
    } else if count < PHRASE_WORDS {
        WORD_LOGPROB_MIN
    } else {
        PHRASE_LOGPROB_MIN
    };
    hypothesis.logprob() >= least
}

fn voiced(sound: &Sound, frames: usize) -> impl Iterator<Item = f32> {
    sound.frames().iter().take(frames).filter(|frame| frame.voiced()).map(|frame| frame.voice)
}

#[cfg(test)]
mod tests {
    use model::Samples;

    use super::*;
    use crate::{
        HypothesisWord,
        voice::{FRAME, Frame},
    };

    fn check(text: &str, logprob: f32, frames: usize, voice: f32, expected: bool) {
        let mut sound = Sound::starting(Samples(0));
        for _ in 0..frames {
            sound.push(&[0; FRAME], Frame { voice, level_db: -20.0 });
        }
        let words =
            text.split_whitespace().map(|word| HypothesisWord { text: word.to_owned(), logprob }).collect();
        let hypothesis = Hypothesis { words, ..Hypothesis::default() };
        assert_eq!(plausible(&hypothesis, &sound, frames), expected, "{text}");
    }

    #[test]
    fn what_sounds_like_voice_is_believed() {
        check("Yes.", -0.8, 16, 0.95, true);
        check("Thank you.", -0.3, 40, 0.95, true);
        check("Yes.", -1.5, 16, 0.95, false);
        check("Yes.", -0.1, 3, 0.95, false);
    }

    #[test]
    fn what_hardly_does_must_be_a_sure_text() {
        check("You", -0.05, 30, 0.6, false);
        check("Yes.", -0.05, 30, 0.6, true);
        check("Thank you for", -0.5, 100, 0.6, false);
        check("the other way", -0.2, 60, 0.6, true);
    }

    #[test]
    fn a_long_tone_is_no_word() {
        check("Oh", -0.5, 200, 0.95, false);
        check("...", -0.01, 50, 0.95, false);
    }
}
