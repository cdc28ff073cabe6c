use std::borrow::Cow;

use ort::{
    session::{Session, SessionInputValue},
    value::{DynValue, Tensor},
};

use crate::{
    Hypothesis, ModelFiles, Recognizer, SpeechError, UTTERANCE_SAMPLES_MAX, Wanted, runtime,
    tokenizer::Tokenizer,
};

const LAYERS: usize = 6;
const HEADS: usize = 8;
const HEAD_WIDTH: usize = 36;
const TOKEN_START: u32 = 1;
const TOKEN_END: u32 = 2;

/// The encoder makes a frame of about this many samples, and none of less; shorter sound is padded with silence.
const SAMPLES_MIN: usize = 4_000;

/// Speech yields fewer tokens than this; more is a loop.
const TOKENS_PER_S: f32 = 6.5;

/// The shortest sound may still be a word of several tokens.
const TOKENS_MIN: usize = 6;

/// A run of tokens said this often in a row is a loop of the decoder, not speech.
const REPEATS_MAX: usize = 4;

/// People do say "no, no, no, no": a loop fills at least this many tokens.
const LOOP_TOKENS_MIN: usize = 8;

/// The longest run of tokens looked at for loops.
const REPEAT_TOKENS_MAX: usize = 12;

/// Moonshine tiny (English) on ONNX Runtime: an encoder over the samples and a decoder that writes a token at a
/// time, given its own past.
pub struct Moonshine {
    encoder: Session,
    decoder: Session,
    tokenizer: Tokenizer,
}

/// Past keys and values of one layer, and the decoder's names for them.
struct Past {
    of_encoder: bool,
    input: String,
    output: String,
    value: DynValue,
}

impl Moonshine {
    /// Loads the model; about 120 MB of memory. `threads` compute one utterance together: 1 when every core has
    /// its own recognizer.
    pub fn load(files: &ModelFiles, threads: usize) -> Result<Self, SpeechError> {
        let environment = runtime::environment(&files.runtime)?;
        Ok(Self {
            encoder: runtime::session(&environment, &files.encoder(), threads)?,
            decoder: runtime::session(&environment, &files.decoder(), threads)?,
            tokenizer: Tokenizer::load(&files.tokenizer())?,
        })
    }

    /// Greedy decoding. `draft` is a guess of the tokens: one pass of the decoder checks all of it, what it
    /// would not have written itself is dropped, and it goes on alone from there. The tokens are the same as
    /// without a draft but for rounding: the model is quantized by the range of all that is computed at once.
    fn decode(&mut self, pcm: &[f32], draft: &[u32]) -> Result<Hypothesis, SpeechError> {
        if pcm.len() > UTTERANCE_SAMPLES_MAX {
            return Err(SpeechError::TooLong(pcm.len()));
        }
        let mut pcm = pcm.to_vec();
        let tokens_max = ((pcm.len() as f32 / model::SAMPLE_RATE_HZ as f32 * TOKENS_PER_S).ceil() as usize)
            .max(TOKENS_MIN);
        if pcm.len() < SAMPLES_MIN {
            pcm.resize(SAMPLES_MIN, 0.0);
        }
        let samples = pcm.len();

        // Both masks count samples: the decoder strides its own to encoder frames.
        let mask = Tensor::from_array(([1, samples], vec![1_i64; samples])).map_err(failed)?;
        let sound = Tensor::from_array(([1, samples], pcm)).map_err(failed)?;
        let hidden = self
            .encoder
            .run(ort::inputs!["input_values" => sound, "attention_mask" => &mask])
            .map_err(failed)?
            .remove("last_hidden_state")
            .ok_or_else(|| failed("no last_hidden_state"))?;

        let draft: Vec<u32> = draft.iter().copied().take(tokens_max.saturating_sub(1)).collect();
        let mut tokens: Vec<u32> = Vec::with_capacity(tokens_max);
        let mut logprobs: Vec<f32> = Vec::with_capacity(tokens_max);
        let mut past = empty_past()?;
        let mut input: Vec<u32> = std::iter::once(TOKEN_START).chain(draft.iter().copied()).collect();
        let mut first = true;
        while tokens.len() < tokens_max {
            let ids: Vec<i64> = input.iter().map(|&id| i64::from(id)).collect();
            let mut inputs: Vec<(Cow<'_, str>, SessionInputValue<'_>)> = Vec::with_capacity(4 + past.len());
            inputs.push(("encoder_attention_mask".into(), (&mask).into()));
            inputs.push((
                "input_ids".into(),
                Tensor::from_array(([1, ids.len()], ids)).map_err(failed)?.into(),
            ));
            inputs.push(("encoder_hidden_states".into(), (&hidden).into()));
            for part in &past {
                inputs.push((part.input.as_str().into(), (&part.value).into()));
            }
            inputs.push((
                "use_cache_branch".into(),
                Tensor::from_array(([1], vec![!first])).map_err(failed)?.into(),
            ));
            let mut outputs = self.decoder.run(inputs).map_err(failed)?;

            let (_, logits) = outputs
                .get("logits")
                .ok_or_else(|| failed("no logits"))?
                .try_extract_tensor::<f32>()
                .map_err(failed)?;
            let mut ended = false;
            let mut agreed = 0;
            for (position, row) in logits.chunks_exact(self.tokenizer.len()).enumerate() {
                let (token, logprob) = likeliest(row);
                if token == TOKEN_END {
                    ended = true;
                    break;
                }
                tokens.push(token);
                logprobs.push(logprob);
                if input.get(position + 1) != Some(&token) {
                    break;
                }
                agreed = position + 1;
            }
            if ended || trim_loop(&mut tokens) {
                break;
            }
            for part in &mut past {
                // Keys and values of the encoder are made in the first step only.
                if part.of_encoder && !first {
                    continue;
                }
                if let Some(value) = outputs.remove(&part.output) {
                    part.value = value;
                }
            }
            drop(outputs);
            if agreed + 1 < input.len() {
                for part in past.iter_mut().filter(|part| !part.of_encoder) {
                    part.value = shortened(&part.value, agreed + 1)?;
                }
            }
            input.clear();
            input.extend(tokens.last());
            first = false;
        }
        logprobs.truncate(tokens.len());
        let words = self.tokenizer.words(&tokens, &logprobs);
        if words.iter().any(|word| word.text.contains(foreign)) {
            return Ok(Hypothesis::default());
        }
        Ok(Hypothesis { words, tokens, ..Hypothesis::default() })
    }
}

impl Recognizer for Moonshine {
    fn recognize(&mut self, pcm: &[f32], _: &Wanted) -> Result<Hypothesis, SpeechError> {
        self.decode(pcm, &[])
    }

    fn recognize_again(
        &mut self,
        pcm: &[f32],
        _: &Wanted,
        earlier: &Hypothesis,
    ) -> Result<Hypothesis, SpeechError> {
        self.decode(pcm, &earlier.tokens)
    }
}

fn failed(error: impl std::fmt::Display) -> SpeechError {
    SpeechError::Run(error.to_string())
}

/// The decoder's first step takes a past all the same; it does not look at it.
fn empty_past() -> Result<Vec<Past>, SpeechError> {
    let mut past = Vec::with_capacity(LAYERS * 4);
    for layer in 0..LAYERS {
        for side in ["decoder", "encoder"] {
            for kind in ["key", "value"] {
                past.push(Past {
                    of_encoder: side == "encoder",
                    input: format!("past_key_values.{layer}.{side}.{kind}"),
                    output: format!("present.{layer}.{side}.{kind}"),
                    value: Tensor::from_array(([1, HEADS, 1, HEAD_WIDTH], vec![0_f32; HEADS * HEAD_WIDTH]))
                        .map_err(failed)?
                        .into_dyn(),
                });
            }
        }
    }
    Ok(past)
}

/// The first `positions` of a past of shape (1, heads, length, width).
fn shortened(value: &DynValue, positions: usize) -> Result<DynValue, SpeechError> {
    let (_, all) = value.try_extract_tensor::<f32>().map_err(failed)?;
    let per_head = all.len() / HEADS;
    let kept: Vec<f32> = all
        .chunks(per_head.max(1))
        .flat_map(|head| head.iter().take(positions * HEAD_WIDTH))
        .copied()
        .collect();
    Ok(Tensor::from_array(([1, HEADS, positions, HEAD_WIDTH], kept)).map_err(failed)?.into_dyn())
}

/// The token with the greatest logit, and the logarithm of its probability.
fn likeliest(logits: &[f32]) -> (u32, f32) {
    let mut best = (0, f32::NEG_INFINITY);
    for (token, &logit) in logits.iter().enumerate() {
        if logit > best.1 {
            best = (token, logit);
        }
    }
    let sum: f32 =
        logits.iter().map(|&logit| logit - best.1).filter(|&below| below > -16.0).map(f32::exp).sum();
    (u32::try_from(best.0).unwrap_or(TOKEN_END), -sum.max(1.0).ln())
}

/// Whether a character has no place in English: for music the model writes notes, emoji and foreign scripts.
fn foreign(character: char) -> bool {
    !matches!(character, '\0'..='\u{24f}' | '\u{2010}'..='\u{2044}' | '\u{20a0}'..='\u{20cf}')
}

/// Ends a loop: when the newest tokens are one run said [`REPEATS_MAX`] times or more, keeps it once.
fn trim_loop(tokens: &mut Vec<u32>) -> bool {
    for run in 1..=REPEAT_TOKENS_MAX {
        let repeats = REPEATS_MAX.max(LOOP_TOKENS_MIN.div_ceil(run));
        let Some(from) = tokens.len().checked_sub(run * repeats) else { continue };
        let (kept, tail) = tokens.split_at(from);
        let Some(pattern) = tail.get(..run) else { break };
        if tail.chunks(run).all(|said| said == pattern) {
            tokens.truncate(kept.len() + run);
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_is_said_once() {
        let mut tokens = vec![9, 1, 2, 1, 2, 1, 2, 1, 2];
        assert!(trim_loop(&mut tokens));
        assert_eq!(tokens, [9, 1, 2]);
        let mut tokens = vec![1, 1, 1, 2, 2, 2];
        assert!(!trim_loop(&mut tokens));
        assert_eq!(tokens.len(), 6);
    }

    #[test]
    fn the_likeliest_token_has_its_probability() {
        let (token, logprob) = likeliest(&[0.0, 1.0, 0.0]);
        assert_eq!(token, 1);
        assert!((logprob - (1f32.exp() / (1f32.exp() + 2.0)).ln()).abs() < 1e-5);
    }
}
