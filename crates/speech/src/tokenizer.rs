use std::path::Path;

use crate::{HypothesisWord, SpeechError};

/// What a piece begins with when a new word does (U+2581, as SentencePiece writes a space).
const WORD_START: &str = "\u{2581}";

/// The pieces of text that the model's tokens stand for.
pub struct Tokenizer {
    pieces: Vec<Vec<u8>>,
}

impl Tokenizer {
    /// Reads `tokenizer.bin`: for each token the length of its piece (one byte below 128, else two: the low
    /// seven bits of the first after 128 times the second) and its bytes.
    pub fn load(file: &Path) -> Result<Self, SpeechError> {
        let failed = |what: &dyn std::fmt::Display| SpeechError::Load(format!("{}: {what}", file.display()));
        let bytes = std::fs::read(file).map_err(|error| failed(&error))?;
        Self::parse(&bytes).ok_or_else(|| failed(&"not a tokenizer"))
    }

    fn parse(mut bytes: &[u8]) -> Option<Self> {
        let mut pieces = Vec::new();
        while let Some((&first, rest)) = bytes.split_first() {
            let (length, rest) = match rest.split_first() {
                Some((&second, rest)) if first >= 128 => {
                    (usize::from(second) * 128 + usize::from(first) - 128, rest)
                }
                _ => (usize::from(first), rest),
            };
            let (piece, rest) = rest.split_at_checked(length)?;
            pieces.push(piece.to_vec());
            bytes = rest;
        }
        (!pieces.is_empty()).then_some(Self { pieces })
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// The words that `tokens` spell. `logprobs` are the tokens' own, in the same order.
    pub fn words(&self, tokens: &[u32], logprobs: &[f32]) -> Vec<HypothesisWord> {
        let mut words: Vec<(Vec<u8>, f32, u32)> = Vec::new();
        for (&token, &logprob) in tokens.iter().zip(logprobs) {
            let Some(piece) = self.pieces.get(token as usize) else { continue };
            let (starts, bytes) = match piece.strip_prefix(WORD_START.as_bytes()) {
                Some(rest) => (true, rest.to_vec()),
                None => (false, byte_piece(piece).map_or_else(|| spelled(piece), |byte| vec![byte])),
            };
            match words.last_mut() {
                Some((text, sum, count)) if !starts => {
                    text.extend_from_slice(&bytes);
                    *sum += logprob;
                    *count += 1;
                }
                _ => words.push((bytes, logprob, 1)),
            }
        }
        words
            .into_iter()
            .flat_map(|(text, sum, count)| {
                let text = String::from_utf8_lossy(&text).replace(WORD_START, " ");
                let logprob = sum / count as f32;
                let words: Vec<HypothesisWord> = text
                    .split_whitespace()
                    .map(|word| HypothesisWord { text: without_stutter(word), logprob })
                    .collect();
                words
            })
            .collect()
    }
}

/// The model now and then writes a comma twice ("short,,").
fn without_stutter(word: &str) -> String {
    let mut text = String::with_capacity(word.len());
    for letter in word.chars() {
        if letter != ',' || !text.ends_with(',') {
            text.push(letter);
        }
    }
    text
}

/// `<0xE2>` stands for the byte itself: the model spells rare characters with these.
fn byte_piece(piece: &[u8]) -> Option<u8> {
    let hex = piece.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()
}

/// Markers such as `</s>` and `<<ST_12>>` spell nothing.
fn spelled(piece: &[u8]) -> Vec<u8> {
    let marker = piece.len() > 2 && piece.starts_with(b"<") && piece.ends_with(b">");
    if marker { Vec::new() } else { piece.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer(pieces: &[&str]) -> Tokenizer {
        let mut bytes = Vec::new();
        for piece in pieces {
            bytes.push(u8::try_from(piece.len()).unwrap());
            bytes.extend_from_slice(piece.as_bytes());
        }
        Tokenizer::parse(&bytes).unwrap()
    }

    #[test]
    fn pieces_become_words() {
        let tokenizer = tokenizer(&[
            "<unk>",
            "<s>",
            "</s>",
            "\u{2581}Print",
            "ing",
            ",",
            "\u{2581}caf",
            "<0xC3>",
            "<0xA9>",
        ]);
        let words = tokenizer.words(&[3, 4, 5, 6, 7, 8, 2], &[-1.0, -2.0, -3.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(words.iter().map(|word| word.text.as_str()).collect::<Vec<_>>(), ["Printing,", "café"]);
        assert_eq!(words[0].logprob, -2.0);
    }

    #[test]
    fn a_cut_file_is_no_tokenizer() {
        assert!(Tokenizer::parse(&[5, b'a']).is_none());
        assert!(Tokenizer::parse(&[]).is_none());
    }

    #[test]
    fn long_pieces_have_two_length_bytes() {
        let mut bytes = vec![128 + 2, 1];
        bytes.extend_from_slice(&[b'x'; 130]);
        assert_eq!(Tokenizer::parse(&bytes).unwrap().pieces[0].len(), 130);
    }

    #[test]
    fn a_comma_is_written_once() {
        for (word, expected) in [("short,,", "short,"), ("1,000,", "1,000,"), ("so...", "so..."), (",,", ",")]
        {
            assert_eq!(without_stutter(word), expected);
        }
    }
}
