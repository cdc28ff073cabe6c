//! Whisper, multilingual, on CTranslate2: int8 on the processor.
//!
//! In the order data passes: a spectrum of the sound (mel), the tokens that the model writes of it, their words
//! (vocabulary), and whether anybody can have said them (guard).

mod guard;
mod mel;
mod vocabulary;

use std::{path::Path, sync::Arc};

use ct2rs::sys::{self, ComputeType, StorageView, WhisperOptions};
use model::SAMPLE_RATE_HZ;

use self::{
    guard::{Verdict, is_loop, judge},
    mel::{HOP, Mel},
    vocabulary::Vocabulary,
};
use crate::{
    Detected, Hypothesis, HypothesisWord, Recognizer, SpeechError, Task, UTTERANCE_SAMPLES_MAX, Wanted,
};

/// What the model was trained on: 30 s, the rest silence.
const WINDOW_FRAMES: usize = 3_000;

/// Silence after the sound, in frames: 8 s. The cost of an utterance grows with all that is looked at, yet with less silence
/// than this the model goes on writing after the end (measured: docs/languages.md).
const PADDING_FRAMES: usize = 800;

/// Frames of the spectrum that are one of the encoder's.
const FRAMES_PER_STATE: usize = 2;

/// Hypotheses that are followed at a time.
const BEAM: usize = 5;

/// Text that may be written of each second of sound, in tokens: scripts of which a letter is three tokens are spoken at 15
/// letters a second by the fastest.
const TOKENS_PER_S: usize = 20;

/// And of any sound.
const TOKENS_MIN: usize = 16;

/// Tokens in a row that may be said again where the model went astray before: "no, no".
const REPEATABLE: usize = 4;

/// The most that the model can write.
const TOKENS_MAX: usize = 224;

/// Width of the filter that smooths what the decoder looked at, in the encoder's frames (openai/whisper: `medfilt_width`).
const SMOOTHING: i64 = 7;

/// Less sound than this holds no word, in samples: 50 ms.
const SAMPLES_MIN: usize = SAMPLE_RATE_HZ as usize / 20;

/// A multilingual Whisper model, loaded once. Clones share it: each engine thread has its own.
#[derive(Clone)]
pub struct Whisper(Arc<Loaded>);

struct Loaded {
    model: sys::Whisper,
    vocabulary: Vocabulary,
    mel: Mel,
}

/// What the model wrote.
struct Written {
    tokens: Vec<usize>,
    text: String,
    /// Mean of the tokens.
    logprob: f32,
    no_speech: f32,
}

impl Whisper {
    /// Loads the model in `dir` (the converter of CTranslate2 wrote it: `model.bin`, `config.json`, `vocabulary.txt` or
    /// `vocabulary.json`). `threads` utterances are decoded at a time, each on one core; each beyond the first costs a copy of
    /// the weights, 80 MB for the base model.
    ///
    /// # Errors
    /// [`SpeechError::Load`]: the folder holds no such model, or one that knows English only.
    pub fn load(dir: &Path, threads: usize) -> Result<Self, SpeechError> {
        let failed = |what: &dyn std::fmt::Display| {
            SpeechError::Load(format!(
                "{}: {what}; run `make model-whisper`, or set WHISPER_MODEL_DIR",
                dir.display()
            ))
        };
        if !dir.join("model.bin").is_file() {
            return Err(failed(&"no model.bin"));
        }
        sys::set_log_level(sys::LogLevel::Error);
        let vocabulary = Vocabulary::load(dir)?;
        let config = sys::Config {
            compute_type: ComputeType::INT8,
            device_indices: vec![0; threads.max(1)],
            num_threads_per_replica: 1,
            ..sys::Config::default()
        };
        let model = sys::Whisper::new(dir, config).map_err(|error| failed(&error))?;
        if !model.is_multilingual() {
            return Err(failed(&"knows English only"));
        }
        let mel = Mel::new(model.n_mels());
        Ok(Self(Arc::new(Loaded { model, vocabulary, mel })))
    }
}

impl Recognizer for Whisper {
    fn recognize(&mut self, pcm: &[f32], wanted: &Wanted) -> Result<Hypothesis, SpeechError> {
        self.0.recognize(pcm, wanted)
    }

    fn detect(&mut self, pcm: &[f32]) -> Result<Option<Detected>, SpeechError> {
        self.0.detect(pcm)
    }
}

impl Loaded {
    fn recognize(&self, pcm: &[f32], wanted: &Wanted) -> Result<Hypothesis, SpeechError> {
        check(pcm)?;
        if pcm.len() < SAMPLES_MIN {
            return Ok(Hypothesis::default());
        }
        let mut whole = None;
        let detected = match &wanted.language {
            Some(_) => None,
            None => Some(self.language_of(whole.insert(self.encode(pcm, WINDOW_FRAMES)?))?),
        };
        let language = wanted.language.as_deref().or(detected.as_ref().map(|found| found.language.as_str()));
        let start = self.start(language.unwrap_or("en"), wanted.task)?;
        let frames = pcm.len().div_ceil(HOP);
        let tokens_max = (TOKENS_MIN + pcm.len() * TOKENS_PER_S / SAMPLE_RATE_HZ as usize).min(TOKENS_MAX);

        let padded = (frames + PADDING_FRAMES).next_multiple_of(FRAMES_PER_STATE).min(WINDOW_FRAMES);
        let mut states = match whole {
            Some(whole) => whole,
            None => self.encode(pcm, padded)?,
        };
        let mut written = self.write(&states, &start, tokens_max, 0)?;
        if written.judged() == Verdict::Astray {
            // With all the silence that it was trained on, and no leave to say the same twice, the model keeps to the sound
            // more often.
            let whole = self.encode(pcm, WINDOW_FRAMES)?;
            let again = self.write(&whole, &start, tokens_max, REPEATABLE)?;
            if is_loop(&written.text) || again.logprob > written.logprob {
                (states, written) = (whole, again);
            }
        }
        if written.judged() == Verdict::Silence || is_loop(&written.text) {
            return Ok(Hypothesis { detected, ..Hypothesis::default() });
        }
        let placed = self.placed(&states, &start, &written, frames, pcm.len(), wanted.task)?;
        Ok(Hypothesis { detected, ..placed })
    }

    fn detect(&self, pcm: &[f32]) -> Result<Option<Detected>, SpeechError> {
        check(pcm)?;
        if pcm.len() < SAMPLES_MIN {
            return Ok(None);
        }
        let states = self.encode(pcm, WINDOW_FRAMES)?;
        let found = self.language_of(&states)?;
        let start = self.start(&found.language, Task::Transcribe)?;
        // Silence too has a likeliest language.
        let written = self.write(&states, &start, TOKENS_MIN, 0)?;
        Ok((written.judged() != Verdict::Silence).then_some(found))
    }

    /// What the encoder makes of `frames` frames: the sound, and silence after it.
    fn encode(&self, pcm: &[f32], frames: usize) -> Result<StorageView<'static>, SpeechError> {
        let mut spectrum = self.mel.spectrum(pcm, frames)?;
        let shape = [1, self.model.n_mels(), frames];
        let features = StorageView::new(&shape, &mut spectrum, sys::Device::CPU).map_err(failed)?;
        self.model.encode(&features, false).map_err(failed)
    }

    fn language_of(&self, states: &StorageView<'_>) -> Result<Detected, SpeechError> {
        let found = self.model.detect_language(states).map_err(failed)?;
        let best = found.into_iter().flatten().max_by(|one, two| one.probability.total_cmp(&two.probability));
        let best = best.ok_or_else(|| failed("no language"))?;
        let language = best.language.trim_start_matches("<|").trim_end_matches("|>");
        let language = if language == "jw" { "jv" } else { language };
        Ok(Detected { language: language.to_owned(), probability: best.probability })
    }

    /// The tokens that tell the model what to write.
    fn start(&self, language: &str, task: Task) -> Result<Vec<usize>, SpeechError> {
        let mark = |mark: &str| self.vocabulary.mark(mark);
        let spoken = mark(&format!("<|{}|>", known_as(language)));
        let spoken = spoken.ok_or_else(|| SpeechError::Language(language.to_owned()))?;
        let task = match task {
            Task::Transcribe => "<|transcribe|>",
            Task::Translate => "<|translate|>",
        };
        let missing = || failed("a mark is missing in the vocabulary");
        Ok(vec![mark("<|startoftranscript|>").ok_or_else(missing)?, spoken, mark(task).ok_or_else(missing)?])
    }

    /// `repeatable` tokens in a row may come again, no more; any number of them when it is 0.
    fn write(
        &self,
        states: &StorageView<'_>,
        start: &[usize],
        tokens_max: usize,
        repeatable: usize,
    ) -> Result<Written, SpeechError> {
        let options = WhisperOptions {
            beam_size: BEAM,
            return_scores: true,
            return_no_speech_prob: true,
            // It writes half as much, as the other half is for what was said before.
            max_length: tokens_max * 2,
            no_repeat_ngram_size: if repeatable == 0 { 0 } else { repeatable + 1 },
            ..WhisperOptions::default()
        };
        let without_times = self.vocabulary.mark("<|notimestamps|>");
        let prompt: Vec<&str> = start
            .iter()
            .copied()
            .chain(without_times)
            .filter_map(|mark| self.vocabulary.name(mark))
            .collect();
        let results = self.model.generate(states, &[prompt], &options).map_err(failed)?;
        let result = results.into_iter().next().ok_or_else(|| failed("no result"))?;
        let tokens: Vec<usize> = result.sequences_ids.into_iter().next().unwrap_or_default();
        let tokens: Vec<usize> = tokens.into_iter().filter(|token| self.vocabulary.spells(*token)).collect();
        let words = self.vocabulary.words(&tokens).into_iter().map(|(word, _)| word);
        let text: Vec<String> = words.filter(|word| !word.is_empty()).collect();
        Ok(Written {
            tokens,
            text: text.join(" "),
            logprob: result.scores.first().copied().unwrap_or_default(),
            no_speech: result.no_speech_prob,
        })
    }

    /// The words with their probabilities, and where each lies in the sound. One more pass of the decoder tells both, from
    /// what it looks at as it writes a token. A translation has no places.
    fn placed(
        &self,
        states: &StorageView<'_>,
        start: &[usize],
        written: &Written,
        frames: usize,
        samples: usize,
        task: Task,
    ) -> Result<Hypothesis, SpeechError> {
        let tokens = std::slice::from_ref(&written.tokens);
        let aligned = self.model.align(states, start, tokens, &[frames], SMOOTHING).map_err(failed)?;
        let aligned = aligned.into_iter().next().ok_or_else(|| failed("no alignment"))?;
        // Where each token begins, and where the last one ends.
        let mut begins = vec![0; written.tokens.len() + 1];
        for step in aligned.alignments.iter().rev() {
            let at = usize::try_from(step.frame_x).unwrap_or_default() * FRAMES_PER_STATE * HOP;
            if let Some(begin) = usize::try_from(step.token_x).ok().and_then(|token| begins.get_mut(token)) {
                *begin = at.min(samples);
            }
        }
        let mut words = Vec::new();
        let mut spans = Vec::new();
        let mut token = 0;
        for (text, count) in self.vocabulary.words(&written.tokens) {
            let probabilities = aligned.text_token_probs.iter().skip(token).take(count);
            let sum: f32 = probabilities.map(|probability| probability.max(f32::MIN_POSITIVE).ln()).sum();
            let place = |token: usize| begins.get(token).copied().unwrap_or(samples);
            let (from, to) = (place(token), place(token + count));
            token += count;
            if text.is_empty() {
                continue;
            }
            words.push(HypothesisWord { text, logprob: sum / count as f32 });
            spans.push((from, to.max(from)));
        }
        if task == Task::Translate {
            spans.clear();
        }
        Ok(Hypothesis { words, spans, ..Hypothesis::default() })
    }
}

impl Written {
    fn judged(&self) -> Verdict {
        judge(&self.text, self.logprob, self.no_speech)
    }
}

/// How Whisper writes a language that has another code today, or belongs to one that it knows.
fn known_as(language: &str) -> &str {
    match language {
        "jv" => "jw",
        "nb" => "no",
        "fil" => "tl",
        "iw" => "he",
        "in" => "id",
        "ji" => "yi",
        "cmn" => "zh",
        other => other,
    }
}

fn check(pcm: &[f32]) -> Result<(), SpeechError> {
    if pcm.len() > UTTERANCE_SAMPLES_MAX {
        return Err(SpeechError::TooLong(pcm.len()));
    }
    Ok(())
}

fn failed(error: impl std::fmt::Display) -> SpeechError {
    SpeechError::Run(error.to_string())
}
