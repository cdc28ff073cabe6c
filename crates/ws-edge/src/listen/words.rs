//! Words as Deepgram has them: in lower case and without punctuation, beside how they are written.

use model::{Final, Partial, Samples};
use serde::Serialize;

use crate::protocol::seconds;

/// Confidence in what will not change any more. No probability: the recognizer's is not kept.
const SETTLED: f64 = 1.0;

/// Confidence in what may still change.
const OPEN: f64 = 0.5;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Word {
    pub(super) word: String,
    pub(super) start: f64,
    pub(super) end: f64,
    pub(super) confidence: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) punctuated_word: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) language: Option<String>,
}

/// How words are to be told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    pub(super) punctuated: bool,
    /// Whether each says its language.
    pub(super) is_multi: bool,
}

/// The words of a final, where it has them; else spread over it.
pub(super) fn of_final(segment: &Final, manner: Manner) -> Vec<Word> {
    let language = segment.language.as_deref();
    if segment.words.is_empty() {
        return spread(&segment.text, u32::MAX, segment.start, segment.end, language, manner);
    }
    let words = segment.words.iter();
    words.filter_map(|word| made(&word.text, word.start, word.end, SETTLED, language, manner)).collect()
}

/// The words of an open utterance. Their places are estimated by their lengths.
pub(super) fn of_partial(partial: &Partial, manner: Manner) -> Vec<Word> {
    let language = partial.language.as_deref();
    spread(&partial.text, partial.stable, partial.start, partial.end, language, manner)
}

/// The words of a text, of which so many characters are settled, over a span by their lengths.
fn spread(
    text: &str,
    stable: u32,
    start: Samples,
    end: Samples,
    language: Option<&str>,
    manner: Manner,
) -> Vec<Word> {
    let stable = usize::try_from(stable).unwrap_or(usize::MAX);
    let total = text.chars().count().max(1) as u64;
    let at = |chars: usize| start + Samples((end - start).0.saturating_mul(chars as u64) / total);
    let mut words = Vec::new();
    let mut passed = 0;
    for part in text.split_inclusive(char::is_whitespace) {
        let written = part.trim();
        let until = passed + written.chars().count();
        let confidence = if until <= stable { SETTLED } else { OPEN };
        words.extend(made(written, at(passed), at(until), confidence, language, manner));
        passed += part.chars().count();
    }
    words
}

fn made(
    written: &str,
    start: Samples,
    end: Samples,
    confidence: f64,
    language: Option<&str>,
    manner: Manner,
) -> Option<Word> {
    let word = bare(written);
    (!word.is_empty()).then(|| Word {
        word,
        start: seconds(start),
        end: seconds(end),
        confidence,
        punctuated_word: manner.punctuated.then(|| written.to_owned()),
        language: language.filter(|_| manner.is_multi).map(str::to_owned),
    })
}

/// A word without case and without the punctuation around it.
fn bare(written: &str) -> String {
    written.trim_matches(|char: char| !char.is_alphanumeric()).to_lowercase()
}

/// Words as one text.
pub(super) fn joined(words: &[Word]) -> String {
    words.iter().map(|word| word.word.as_str()).collect::<Vec<_>>().join(" ")
}

/// The mean confidence in words; none in nothing.
pub(super) fn confidence(words: &[Word]) -> f64 {
    let sum: f64 = words.iter().map(|word| word.confidence).sum();
    if words.is_empty() { 0.0 } else { sum / words.len() as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Manner = Manner { punctuated: false, is_multi: false };

    #[test]
    fn words_lie_where_their_letters_do() {
        let manner = Manner { punctuated: true, is_multi: true };
        let words =
            spread("It's — \"Well, done!\"", 14, Samples(16_000), Samples(16_000 * 21), Some("en"), manner);
        let told: Vec<_> = words
            .iter()
            .map(|word| (word.word.as_str(), word.punctuated_word.as_deref().unwrap(), word.confidence))
            .collect();
        assert_eq!(told, [("it's", "It's", 1.0), ("well", "\"Well,", 1.0), ("done", "done!\"", 0.5)]);
        assert_eq!((words[0].start, words[0].end, words[2].end), (1.0, 5.0, 21.0));
        assert!(words.windows(2).all(|pair| pair[0].end <= pair[1].start));
        assert_eq!(words[1].language.as_deref(), Some("en"));
        assert_eq!(joined(&words), "it's well done");
        assert!((confidence(&words) - 2.5 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn nothing_has_no_words() {
        for text in ["", "  ", "… —"] {
            let words = spread(text, 0, Samples(0), Samples(0), None, PLAIN);
            assert!(words.is_empty() && confidence(&words).abs() < 1e-9, "{text}");
        }
    }
}
