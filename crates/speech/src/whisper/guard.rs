use std::io::Write as _;

use flate2::{Compression, write::ZlibEncoder};

use crate::phantoms;

/// A text that zlib makes so many times shorter is a loop of the decoder (openai/whisper: `compression_ratio_threshold`).
const COMPRESSION_MAX: f32 = 2.4;

/// Shorter texts may repeat themselves, in bytes: "no, no, no, no, no".
const LOOP_BYTES_MIN: usize = 48;

/// A phrase said so often in a row, with nothing else after it, is a loop.
const REPEATS_MAX: usize = 4;

/// Mean log probability below which a text is hardly more than a guess (openai/whisper: `logprob_threshold`).
const LOGPROB_MIN: f32 = -1.0;

/// What the model says of silence: so probably nobody speaks, and the text is no surer than this. Measured: of silence, hum,
/// noise, music and knocking it says 0.53 and more, of whole utterances 0.49 and less, of scraps of speech up to 0.88.
const SILENCES: [(f32, f32); 2] = [(0.6, -0.6), (0.45, -0.9)];

/// What to make of a text that the model wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may have been said.
    Said,
    /// Nobody spoke.
    Silence,
    /// The decoder ran astray: another look at the sound may help.
    Astray,
}

/// Judges a text by its mean log probability and by the probability that nobody speaks.
pub(super) fn judge(text: &str, logprob: f32, no_speech: f32) -> Verdict {
    let silent = SILENCES.iter().any(|(least, most)| no_speech > *least && logprob < *most);
    if text.is_empty() || silent || phantoms::is_unsaid(text) {
        return Verdict::Silence;
    }
    // A loop where nobody speaks is not worth another look.
    let loops = is_loop(text);
    let (doubtful, _) = SILENCES[0];
    match loops {
        true if no_speech > doubtful => Verdict::Silence,
        true => Verdict::Astray,
        false if logprob < LOGPROB_MIN => Verdict::Astray,
        false => Verdict::Said,
    }
}

/// Whether a text says the same again and again.
pub(super) fn is_loop(text: &str) -> bool {
    if text.len() < LOOP_BYTES_MIN {
        return false;
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    let repeats = (1..=words.len() / REPEATS_MAX).any(|run| {
        let mut tail = words.rchunks(run).take(REPEATS_MAX);
        let last = words.rchunks(run).next();
        tail.clone().count() == REPEATS_MAX && tail.all(|said| Some(said) == last)
    });
    repeats || compression(text) > COMPRESSION_MAX
}

/// How many times shorter zlib makes a text.
fn compression(text: &str) -> f32 {
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::default());
    let written = packed.write_all(text.as_bytes()).and_then(|()| packed.finish());
    written.map_or(0.0, |packed| text.len() as f32 / packed.len().max(1) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_judged() {
        let cases = [
            (
                "Printing, in the only sense with which we are at present concerned,",
                -0.2,
                0.01,
                Verdict::Said,
            ),
            ("تكفة طمني أنا اليوم", -0.70, 0.49, Verdict::Said),
            ("", 0.0, 0.0, Verdict::Silence),
            ("Редактор субтитров А.Синецкая Корректор А.Егорова", -0.4, 0.1, Verdict::Silence),
            ("you", -0.98, 0.92, Verdict::Silence),
            ("I don't know what to do.", -1.69, 0.53, Verdict::Silence),
            ("I don't know what to do.", -1.69, 0.2, Verdict::Astray),
            ("No, no, no, no, no.", -0.4, 0.1, Verdict::Said),
        ];
        for (text, logprob, no_speech, expected) in cases {
            assert_eq!(judge(text, logprob, no_speech), expected, "{text}");
        }
        let cases =
            [("يجب أن ".repeat(30), 0.1, Verdict::Astray), ("las ".repeat(60), 0.93, Verdict::Silence)];
        for (text, no_speech, expected) in cases {
            assert_eq!(judge(text.trim(), -0.1, no_speech), expected, "{text}");
        }
    }
}
