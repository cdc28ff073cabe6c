//! Texts that are none: without a letter or digit of any script, or what recognizers trained on films write into a long
//! silence.

use std::time::Duration;

use model::Timestamp;

/// What is written into silences, without case and a dot at the end.
const PHANTOMS: [&str; 2] = ["спасибо", "продолжение"];

/// Longer texts are none of them.
const WORDS_MAX: usize = 3;

/// In characters.
const CHARS_MAX: usize = 20;

/// So long nothing was heard and nothing was said before one of them is believed to be one.
const QUIET: Duration = Duration::from_millis(3_500);

/// Sound below this is silence: -50 dB of full scale, as mean amplitude.
const SILENCE_MAX: u64 = 104;

/// What became of the texts of one stream.
pub(crate) struct Filter {
    sounded_at: Timestamp,
    said_at: Timestamp,
    /// How many finals were dropped as hallucinations.
    pub(crate) filtered: u32,
}

/// What is to be done with a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It was said.
    Said,
    /// It holds nothing that anybody could read.
    Blank,
    /// Nobody said it.
    Hallucination,
}

impl Filter {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self { sounded_at: now, said_at: now, filtered: 0 }
    }

    /// Takes note of sound that comes in.
    pub(crate) fn hear(&mut self, pcm: &[i16], now: Timestamp) {
        let sum: u64 = pcm.iter().map(|sample| u64::from(sample.unsigned_abs())).sum();
        if sum > SILENCE_MAX * pcm.len() as u64 {
            self.sounded_at = now;
        }
    }

    /// Judges the text of an open utterance.
    pub(crate) fn partial(text: &str) -> Verdict {
        if text.chars().any(char::is_alphanumeric) { Verdict::Said } else { Verdict::Blank }
    }

    /// Judges the text of a finished utterance.
    pub(crate) fn finish(&mut self, text: &str, now: Timestamp) -> Verdict {
        if Self::partial(text) == Verdict::Blank {
            return Verdict::Blank;
        }
        if is_phantom(text) && now.since(self.sounded_at) > QUIET && now.since(self.said_at) > QUIET {
            self.filtered = self.filtered.saturating_add(1);
            return Verdict::Hallucination;
        }
        self.said_at = now;
        Verdict::Said
    }
}

fn is_phantom(text: &str) -> bool {
    let text = text.trim();
    if text.chars().count() > CHARS_MAX || text.split_whitespace().count() > WORDS_MAX {
        return false;
    }
    let text = text.strip_suffix('.').unwrap_or(text).to_lowercase();
    PHANTOMS.contains(&text.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOUD: [i16; 4] = [3_000, -3_000, 2_000, -2_000];

    fn at(millis: i64) -> Timestamp {
        Timestamp(millis)
    }

    #[test]
    fn every_script_has_letters_and_digits() {
        for said in ["hello", "Привет", "مرحبا", "字幕", "42", "٤٢", "a."] {
            assert_eq!(Filter::partial(said), Verdict::Said, "{said}");
        }
        for blank in ["", " ", "...", "♪", "—?!"] {
            assert_eq!(Filter::new(at(0)).finish(blank, at(9)), Verdict::Blank, "{blank}");
        }
    }

    #[test]
    fn thanks_into_a_long_silence_were_said_by_nobody() {
        let mut filter = Filter::new(at(0));
        for phantom in ["Спасибо.", "спасибо", "ПРОДОЛЖЕНИЕ"] {
            assert_eq!(filter.finish(phantom, at(3_501)), Verdict::Hallucination, "{phantom}");
        }
        assert_eq!(filter.filtered, 3);
        for said in ["Спасибо всем", "спасибо..", "Продолжение следует", "thank you"]
        {
            assert_eq!(Filter::new(at(0)).finish(said, at(9_000)), Verdict::Said, "{said}");
        }
    }

    #[test]
    fn thanks_soon_after_sound_or_words_are_believed() {
        let mut filter = Filter::new(at(0));
        filter.hear(&LOUD, at(2_000));
        filter.hear(&[0; 100], at(9_000));
        assert_eq!(filter.finish("Спасибо", at(5_500)), Verdict::Said, "after sound");
        assert_eq!(filter.finish("Спасибо", at(9_000)), Verdict::Said, "after words");
        assert_eq!(filter.finish("Спасибо", at(12_501)), Verdict::Hallucination, "after silence");
    }
}
