//! Where the words of a final lie in its sound.
//!
//! The recognizer gives no times, so they are estimated, in three steps. Voiced time is shared out by the length
//! of the words as written. Pauses are then matched with the gaps between words, sooner after punctuation. Last,
//! what each partial had already heard bounds when a word ended. `benches/live.rs` measures the error.

use model::{Samples, Word};

use crate::{
    agreement::common_prefix,
    utterance::Sound,
    voice::{FRAME, Frame},
};

/// A hypothesis on the way to the final: how many frames it had heard, and its words.
pub struct Sighting {
    pub frames: usize,
    pub words: Vec<String>,
}

/// Unvoiced frames in a row that make a pause between words rather than a stop consonant: 112 ms.
const PAUSE_FRAMES: usize = 7;

/// A pause belongs to the nearest gap between words, if the estimate is off by at most this: 0.6 s of voice.
const PAUSE_REACH_FRAMES: f32 = 37.0;

/// How much nearer a gap after punctuation counts: 0.25 s.
const PUNCTUATION_FRAMES: f32 = 16.0;

/// A word is written once about this much of the sound after its end was heard: 80 ms.
const HEARD_FRAMES: usize = 5;

/// What every word takes beside its letters, in letters.
const WORD_LETTERS: f32 = 2.0;

/// Places `words` in `sound`, in order and without overlap.
pub fn place(sound: &Sound, words: &[String], sightings: &[Sighting]) -> Vec<Word> {
    let Some(voice) = Voice::of(sound.frames()) else {
        return words
            .iter()
            .map(|text| Word { text: text.clone(), start: sound.start, end: sound.end() })
            .collect();
    };
    let ends = word_ends(&voice, words);
    let bounds = latest_ends(words, sightings, sound.frames().len());

    let mut placed: Vec<Word> = Vec::with_capacity(words.len());
    let mut from = 0.0_f32;
    let mut floor = sound.at(0);
    for ((text, &end), &bound) in words.iter().zip(&ends).zip(&bounds) {
        let start_frame = voice.frame_after(from);
        let end_frame = voice.frame_before(end).min(bound as f32).max(start_frame);
        let start = (sound.start + frames_to_samples(start_frame.min(bound as f32))).max(floor);
        let end_at = (sound.start + frames_to_samples(end_frame)).max(start).min(sound.end());
        placed.push(Word { text: text.clone(), start, end: end_at });
        floor = end_at;
        from = end;
    }
    placed
}

fn frames_to_samples(frames: f32) -> Samples {
    Samples((frames.max(0.0) * FRAME as f32) as u64)
}

/// The voiced stretches of a sound: (first frame, frame after the last, voiced frames before it).
struct Voice {
    runs: Vec<(usize, usize, usize)>,
    total: usize,
}

impl Voice {
    fn of(frames: &[Frame]) -> Option<Self> {
        let mut runs: Vec<(usize, usize, usize)> = Vec::new();
        let mut total = 0;
        for (index, _) in frames.iter().enumerate().filter(|(_, frame)| frame.voiced()) {
            match runs.last_mut() {
                Some((_, end, _)) if index - *end < PAUSE_FRAMES => {
                    total += index + 1 - *end;
                    *end = index + 1;
                }
                _ => {
                    runs.push((index, index + 1, total));
                    total += 1;
                }
            }
        }
        (!runs.is_empty()).then_some(Self { runs, total })
    }

    /// The frame at which `voiced` frames of voice lie behind; of the two ends of a pause, the earlier.
    fn frame_before(&self, voiced: f32) -> f32 {
        let run = self.runs.iter().rev().find(|(_, _, before)| (*before as f32) < voiced);
        run.or(self.runs.first()).map_or(0.0, |(start, end, before)| {
            (*start as f32 + (voiced - *before as f32).max(0.0)).min(*end as f32)
        })
    }

    /// Of the two ends of a pause, the later.
    fn frame_after(&self, voiced: f32) -> f32 {
        let run = self.runs.iter().rev().find(|(_, _, before)| *before as f32 <= voiced + 0.5);
        run.map_or(0.0, |(start, end, before)| {
            (*start as f32 + (voiced - *before as f32).max(0.0)).min(*end as f32)
        })
    }
}

/// The end of each word in voiced frames.
fn word_ends(voice: &Voice, words: &[String]) -> Vec<f32> {
    let weights: Vec<f32> = words.iter().map(|word| word.chars().count() as f32 + WORD_LETTERS).collect();
    let total: f32 = weights.iter().sum();
    let mut sum = 0.0;
    let guess: Vec<f32> = weights
        .iter()
        .map(|weight| {
            sum += weight;
            sum / total * voice.total as f32
        })
        .collect();

    // Match each pause with a gap; both lists are in order, and so are the matches.
    let mut anchors: Vec<(usize, f32)> = Vec::new();
    let mut first = 0;
    for (_, _, before) in voice.runs.iter().skip(1) {
        let pause = *before as f32;
        let gap = guess
            .iter()
            .zip(words)
            .enumerate()
            .take(words.len().saturating_sub(1))
            .skip(first)
            .map(|(index, (guess, word))| {
                let punctuated = word.ends_with([',', '.', ';', ':', '!', '?']);
                (index, (guess - pause).abs() - if punctuated { PUNCTUATION_FRAMES } else { 0.0 })
            })
            .filter(|(_, distance)| *distance <= PAUSE_REACH_FRAMES)
            .min_by(|a, b| a.1.total_cmp(&b.1));
        if let Some((index, _)) = gap {
            anchors.push((index, pause));
            first = index + 1;
        }
    }
    anchors.push((words.len().saturating_sub(1), voice.total as f32));

    // Between anchors the words share the voice by their length again.
    let mut ends = Vec::with_capacity(words.len());
    let (mut word, mut from) = (0, 0.0_f32);
    for (anchor, to) in anchors {
        let span = weights.get(word..=anchor).unwrap_or_default();
        let total: f32 = span.iter().sum();
        let mut sum = 0.0;
        for weight in span {
            sum += weight;
            ends.push(from + sum / total * (to - from).max(0.0));
        }
        (word, from) = (anchor + 1, to.max(from));
    }
    ends
}

/// The frame by which each word had ended, as far as partials tell.
fn latest_ends(words: &[String], sightings: &[Sighting], frames: usize) -> Vec<usize> {
    let mut bounds = vec![frames; words.len()];
    for sighting in sightings {
        let heard = common_prefix(&sighting.words, words);
        let by = sighting.frames.saturating_sub(HEARD_FRAMES);
        for bound in bounds.iter_mut().take(heard) {
            *bound = (*bound).min(by);
        }
    }
    bounds
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound(voiced: &[(usize, bool)]) -> Sound {
        let mut sound = Sound::starting(Samples(16_000));
        for &(count, voice) in voiced {
            for _ in 0..count {
                sound.push(&[0; FRAME], Frame { voice: if voice { 1.0 } else { 0.0 }, level_db: -20.0 });
            }
        }
        sound
    }

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn words_stay_in_order_and_inside_the_sound() {
        let sound = sound(&[(19, false), (40, true), (20, false), (60, true), (15, false)]);
        let placed = place(&sound, &words("one two, three four five"), &[]);
        let mut at = sound.start;
        for word in &placed {
            assert!(word.start >= at && word.end >= word.start && word.end <= sound.end(), "{word:?}");
            at = word.end;
        }
        assert_eq!(placed.len(), 5);
    }

    #[test]
    fn a_pause_lies_between_words_and_after_punctuation() {
        let sound = sound(&[(10, false), (40, true), (30, false), (60, true), (15, false)]);
        let placed = place(&sound, &words("one two, three four five"), &[]);
        assert_eq!(placed[1].end, sound.at(50));
        assert_eq!(placed[2].start, sound.at(80));
    }

    #[test]
    fn a_word_seen_in_a_partial_had_ended() {
        let sound = sound(&[(100, true)]);
        let sightings = [Sighting { frames: 40, words: words("one two") }];
        let placed = place(&sound, &words("one two three four"), &sightings);
        assert!(placed[1].end <= sound.at(40 - HEARD_FRAMES));
    }

    #[test]
    fn sound_without_voice_still_places_every_word() {
        let placed = place(&sound(&[(10, false)]), &words("yes"), &[]);
        assert_eq!(placed.len(), 1);
    }
}
