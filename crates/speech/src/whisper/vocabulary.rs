use std::{collections::HashMap, path::Path};

use crate::SpeechError;

/// Largest vocabulary file that is read, in bytes: that of the multilingual models has 460,000.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// What a model's tokens stand for. The first ones spell text in UTF-8, a token some bytes; the others are
/// marks.
pub(super) struct Vocabulary {
    pieces: Vec<Vec<u8>>,
    /// From `<|endoftext|>` on.
    marks: Vec<String>,
}

impl Vocabulary {
    /// Reads `vocabulary.txt`, a token in a line, or `vocabulary.json`, an array of tokens.
    pub(super) fn load(dir: &Path) -> Result<Self, SpeechError> {
        let json = dir.join("vocabulary.json");
        let file = if json.is_file() { json } else { dir.join("vocabulary.txt") };
        let failed = |what: &dyn std::fmt::Display| SpeechError::Load(format!("{}: {what}", file.display()));
        if std::fs::metadata(&file).map_err(|error| failed(&error))?.len() > FILE_BYTES_MAX {
            return Err(failed(&"too large for a vocabulary"));
        }
        let text = std::fs::read_to_string(&file).map_err(|error| failed(&error))?;
        let tokens: Vec<String> = if file.extension().is_some_and(|ending| ending == "json") {
            serde_json::from_str(&text).map_err(|error| failed(&error))?
        } else {
            text.split('\n').map(str::to_owned).collect()
        };
        Self::of(&tokens).ok_or_else(|| failed(&"not the vocabulary of a multilingual Whisper"))
    }

    fn of(tokens: &[String]) -> Option<Self> {
        let end = tokens.iter().position(|token| token == "<|endoftext|>")?;
        let bytes = letters();
        let spell = |token: &String| token.chars().filter_map(|letter| bytes.get(&letter).copied()).collect();
        let (pieces, marks) = tokens.split_at_checked(end)?;
        let vocabulary = Self { pieces: pieces.iter().map(spell).collect(), marks: marks.to_vec() };
        let needed = [
            "<|startoftranscript|>",
            "<|transcribe|>",
            "<|translate|>",
            "<|notimestamps|>",
            "<|en|>",
            "<|ru|>",
        ];
        needed.iter().all(|mark| vocabulary.mark(mark).is_some()).then_some(vocabulary)
    }

    /// The token of a mark such as `<|ru|>`.
    pub(super) fn mark(&self, mark: &str) -> Option<usize> {
        Some(self.pieces.len() + self.marks.iter().position(|known| known == mark)?)
    }

    /// The mark that a token is.
    pub(super) fn name(&self, token: usize) -> Option<&str> {
        self.marks.get(token.checked_sub(self.pieces.len())?).map(String::as_str)
    }

    /// Whether a token spells text.
    pub(super) fn spells(&self, token: usize) -> bool {
        token < self.pieces.len()
    }

    /// The words that tokens spell: for each its text, and how many tokens it takes. The counts add up to the tokens.
    pub(super) fn words(&self, tokens: &[usize]) -> Vec<(String, usize)> {
        let mut words: Vec<(Vec<u8>, usize)> = Vec::new();
        for &token in tokens {
            let piece = self.pieces.get(token).map(Vec::as_slice).unwrap_or_default();
            match words.last_mut() {
                // What follows no letters yet belongs to what comes.
                Some((text, count)) if !piece.starts_with(b" ") || text.trim_ascii().is_empty() => {
                    text.extend_from_slice(piece);
                    *count += 1;
                }
                _ => words.push((piece.to_vec(), 1)),
            }
        }
        let readable = |(bytes, count): (Vec<u8>, usize)| {
            // A decode that was cut short may end within a letter.
            (
                String::from_utf8_lossy(&bytes).replace(char::REPLACEMENT_CHARACTER, "").trim().to_owned(),
                count,
            )
        };
        words.into_iter().map(readable).collect()
    }
}

/// The byte that each letter of a token stands for: bytes that print stand for themselves, the others follow from U+0100
/// on (`bytes_to_unicode` of openai/gpt-2).
fn letters() -> HashMap<char, u8> {
    let prints = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let plain = (0..=u8::MAX).filter(prints).map(|byte| (char::from(byte), byte));
    let others = (0..=u8::MAX).filter(|byte| !prints(byte));
    plain.chain(('\u{100}'..).zip(others)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary(pieces: &[&str]) -> Vocabulary {
        let marks = [
            "<|endoftext|>",
            "<|startoftranscript|>",
            "<|en|>",
            "<|ru|>",
            "<|translate|>",
            "<|transcribe|>",
            "<|notimestamps|>",
        ];
        let tokens: Vec<String> = pieces.iter().chain(&marks).map(|token| (*token).to_owned()).collect();
        Vocabulary::of(&tokens).unwrap()
    }

    #[test]
    fn tokens_become_words() {
        // "да" is D0 B4 D0 B0; its first byte is a token of its own here.
        let vocabulary = vocabulary(&["\u{120}Ð", "´Ð°", "!", "\u{120}yes", "\u{120}"]);
        let words = vocabulary.words(&[0, 1, 2, 4, 3, 2]);
        assert_eq!(words, [("да!".to_owned(), 3), ("yes!".to_owned(), 3)]);
        assert_eq!(
            vocabulary.words(&[3, 0]),
            [("yes".to_owned(), 1), (String::new(), 1)],
            "half a letter is none"
        );
        assert!(vocabulary.spells(4) && !vocabulary.spells(5));
        assert_eq!(vocabulary.mark("<|ru|>"), Some(8));
        assert_eq!((vocabulary.name(8), vocabulary.name(4)), (Some("<|ru|>"), None));
    }

    #[test]
    fn every_byte_has_a_letter() {
        let mut bytes: Vec<u8> = letters().into_values().collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=u8::MAX).collect::<Vec<_>>());
        assert_eq!(letters().get(&'\u{120}'), Some(&b' '));
    }

    #[test]
    fn another_vocabulary_is_refused() {
        assert!(Vocabulary::of(&["a".to_owned(), "<|endoftext|>".to_owned()]).is_none());
    }
}
