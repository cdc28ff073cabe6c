//! The file that goes there and the JSON that comes back. Source: platform.openai.com, "Create transcription".

use model::SAMPLE_RATE_HZ;
use serde::Deserialize;

use crate::{
    Detected, Hypothesis, HypothesisWord, Task, Wanted, agreement::same_word, languages::language_named,
    phantoms,
};

/// Most words of an utterance that are taken: ten times what is said in its longest time.
const WORDS_MAX: usize = 1_024;

/// A segment of which the server is so sure that nobody speaks, with no surer a text, is left out.
const SILENCE: (f32, f32) = (0.6, -0.6);

/// A segment that can be packed better than this is a loop of the decoder.
const COMPRESSION_MAX: f32 = 2.4;

/// `verbose_json`, or `json`, which has the text alone.
#[derive(Deserialize)]
pub(super) struct Answer {
    text: String,
    language: Option<String>,
    #[serde(default)]
    segments: Vec<Segment>,
    #[serde(default)]
    words: Vec<Word>,
}

#[derive(Deserialize)]
struct Segment {
    start: f32,
    end: f32,
    text: String,
    #[serde(default)]
    avg_logprob: f32,
    #[serde(default)]
    no_speech_prob: f32,
    #[serde(default)]
    compression_ratio: f32,
}

#[derive(Deserialize)]
struct Word {
    word: String,
    /// Seconds.
    start: f32,
    end: f32,
}

impl Answer {
    /// What it says of `samples` of sound.
    pub(super) fn hypothesis(&self, samples: usize, wanted: &Wanted) -> Hypothesis {
        let asked = wanted.language.is_none() && wanted.task == Task::Transcribe;
        // The server tells which, and not how sure it is.
        let detected = self.language.as_deref().filter(|_| asked).and_then(language_named);
        let detected = detected.map(|language| Detected { language: language.to_owned(), probability: 1.0 });
        let kept: Vec<&str> = self
            .segments
            .iter()
            .filter(|segment| segment.said())
            .map(|segment| segment.text.trim())
            .collect();
        let text = if kept.len() == self.segments.len() { self.text.clone() } else { kept.join(" ") };
        if phantoms::is_unsaid(&text) {
            return Hypothesis { detected, ..Hypothesis::default() };
        }
        let texts: Vec<&str> = text.split_whitespace().take(WORDS_MAX).collect();
        let places = if wanted.task == Task::Translate { None } else { self.places(&texts) };
        let mean = self.mean_logprob();
        let words = texts.iter().enumerate().map(|(index, text)| {
            let at = places.as_ref().and_then(|places| places.get(index));
            let segment = at.and_then(|(from, to)| self.segment_at((from + to) / 2.0));
            let logprob = segment.map_or(mean, |segment| segment.avg_logprob);
            let logprob = if logprob.is_finite() { logprob.min(0.0) } else { 0.0 };
            HypothesisWord { text: (*text).to_owned(), logprob }
        });
        let sample = |seconds: f32| ((seconds.max(0.0) * SAMPLE_RATE_HZ as f32) as usize).min(samples);
        let mut reached = 0;
        let spans = places.iter().flatten().map(|(from, to)| {
            let from = sample(*from).max(reached);
            let to = sample(*to).max(from);
            reached = to;
            (from, to)
        });
        let spans = spans.collect();
        Hypothesis { words: words.collect(), spans, detected, tokens: Vec::new() }
    }

    /// Where each word of the text was said, in seconds. The server's list of words has no punctuation and may divide them
    /// otherwise; where the two cannot be brought together there are no places.
    fn places(&self, texts: &[&str]) -> Option<Vec<(f32, f32)>> {
        let mut listed = self.words.iter().peekable();
        let mut places = Vec::with_capacity(texts.len());
        for text in texts {
            if !text.chars().any(char::is_alphanumeric) {
                let end = places.last().map_or(0.0, |(_, end)| *end);
                places.push((end, end));
                continue;
            }
            let first = listed.next()?;
            let (mut said, mut end) = (first.word.clone(), first.end);
            while !same_word(text, &said) {
                let next = listed.next_if(|_| said.len() < text.len())?;
                said.push_str(&next.word);
                end = next.end;
            }
            places.push((first.start, end));
        }
        Some(places)
    }

    fn segment_at(&self, seconds: f32) -> Option<&Segment> {
        self.segments.iter().find(|segment| segment.start <= seconds && seconds <= segment.end)
    }

    fn mean_logprob(&self) -> f32 {
        let sum: f32 = self.segments.iter().map(|segment| segment.avg_logprob).sum();
        sum / self.segments.len().max(1) as f32
    }
}

impl Segment {
    fn said(&self) -> bool {
        let silent = self.no_speech_prob > SILENCE.0 && self.avg_logprob < SILENCE.1;
        !silent && self.compression_ratio <= COMPRESSION_MAX && !phantoms::is_unsaid(&self.text)
    }
}

/// A WAV file: 16 kHz, mono, 16 bit.
pub(super) fn wav(pcm: &[f32]) -> Vec<u8> {
    let bytes = u32::try_from(pcm.len() * 2).unwrap_or(u32::MAX);
    let mut file = Vec::with_capacity(44 + pcm.len() * 2);
    file.extend_from_slice(b"RIFF");
    file.extend_from_slice(&bytes.saturating_add(36).to_le_bytes());
    file.extend_from_slice(b"WAVEfmt ");
    file.extend_from_slice(&16_u32.to_le_bytes());
    for value in [1_u16, 1] {
        file.extend_from_slice(&value.to_le_bytes());
    }
    file.extend_from_slice(&SAMPLE_RATE_HZ.to_le_bytes());
    file.extend_from_slice(&(SAMPLE_RATE_HZ * 2).to_le_bytes());
    for value in [2_u16, 16] {
        file.extend_from_slice(&value.to_le_bytes());
    }
    file.extend_from_slice(b"data");
    file.extend_from_slice(&bytes.to_le_bytes());
    for sample in pcm {
        let sample = (sample * 32_768.0).clamp(-32_768.0, 32_767.0) as i16;
        file.extend_from_slice(&sample.to_le_bytes());
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(answer: &str, wanted: &Wanted) -> Hypothesis {
        serde_json::from_str::<Answer>(answer).unwrap().hypothesis(32_000, wanted)
    }

    #[test]
    fn words_keep_their_punctuation_and_get_places() {
        let answer = r#"{"task":"transcribe","language":"russian","duration":2.0,"text":"Да, какой-то день...","segments":[
            {"id":0,"seek":0,"start":0.0,"end":2.0,"text":" Да, какой-то день...","tokens":[1],"temperature":0.0,
            "avg_logprob":-0.25,"compression_ratio":1.1,"no_speech_prob":0.01}],
            "words":[{"word":"Да","start":0.1,"end":0.4},{"word":"какой","start":0.5,"end":0.8},
            {"word":"то","start":0.8,"end":1.0},{"word":"день","start":1.0,"end":9.0}]}"#;
        let all = heard(answer, &Wanted::default());
        assert_eq!(all.text(), "Да, какой-то день...");
        assert_eq!(all.spans, [(1_600, 6_400), (8_000, 16_000), (16_000, 32_000)]);
        assert!((all.logprob() + 0.25).abs() < 1e-6);
        assert_eq!(all.detected.unwrap().language, "ru");
        let pinned = Wanted { language: Some("ru".to_owned()), task: Task::Transcribe };
        assert!(heard(answer, &pinned).detected.is_none());
        let translated = heard(answer, &Wanted { task: Task::Translate, ..Wanted::default() });
        assert!(translated.spans.is_empty() && translated.detected.is_none());
    }

    #[test]
    fn a_text_alone_will_do() {
        let all =
            heard(r#"{"text":" Hello there. ","usage":{"type":"duration","seconds":2}}"#, &Wanted::default());
        assert_eq!((all.words.len(), all.spans.len(), all.detected), (2, 0, None));
    }

    #[test]
    fn other_words_than_the_text_has_get_no_places() {
        let answer = r#"{"text":"twenty three","words":[{"word":"23","start":0.0,"end":1.0}]}"#;
        let all = heard(answer, &Wanted::default());
        assert_eq!((all.words.len(), all.spans.len()), (2, 0));
    }

    #[test]
    fn what_nobody_said_is_left_out() {
        let segment = |text: &str, logprob: f32, silence: f32, packed: f32| {
            format!(
                r#"{{"start":0,"end":1,"text":"{text}","avg_logprob":{logprob},"no_speech_prob":{silence},"compression_ratio":{packed}}}"#
            )
        };
        for (segment, expected) in [
            (segment("Yes.", -0.5, 0.7, 1.0), "Yes."),
            (segment("Thank you.", -0.9, 0.8, 1.0), ""),
            (segment("la la la la", -0.1, 0.1, 3.0), ""),
            (segment("Субтитры сделал DimaTorzok", -0.1, 0.1, 1.0), ""),
        ] {
            let answer = format!(r#"{{"text":"Yes.","language":"klingon","segments":[{segment}]}}"#);
            let all = heard(&answer, &Wanted::default());
            assert_eq!((all.text().as_str(), all.detected), (expected, None), "{segment}");
        }
    }

    #[test]
    fn the_file_is_what_it_says() {
        let file = wav(&[0.0, 1.0, -1.0]);
        assert_eq!(file.len(), 50);
        assert_eq!(&file[..16], b"RIFF\x2a\0\0\0WAVEfmt ");
        assert_eq!(&file[20..28], [1, 0, 1, 0, 0x80, 0x3e, 0, 0]);
        assert_eq!(&file[36..], b"data\x06\0\0\0\0\0\xff\x7f\0\x80");
    }
}
