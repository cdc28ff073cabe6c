//! What one stream's captions are worth: pure arithmetic over who said what when and which message came when.
//!
//! All times are seconds since the stream's first sample was spoken, on the client's clock: sample N is spoken at
//! N / 16000 s. A delay runs from the moment something was spoken, so it holds the client's own buffering of up to
//! 100 ms.

use std::{collections::HashMap, time::Duration};

use testkit::wer::{WordErrors, normalise};

use crate::{delays::Delays, message::Caption, playlist::Playlist, recording::Recording};

/// How far before the loudness rises a server may see speech begin. Less than the pauses between runs.
const EARLY_S: f64 = 0.5;

/// A caption and when it came.
#[derive(Debug, Clone, PartialEq)]
pub struct Heard {
    /// Since the stream's first sample was spoken.
    pub at: Duration,
    /// Whether it finishes its utterance.
    pub is_final: bool,
    /// What came.
    pub caption: Caption,
}

/// The measures of one or more streams.
#[derive(Debug, Clone, Default)]
pub struct Measures {
    /// From the start of each run of speech to the first text of an utterance that begins with it.
    pub first: Delays,
    /// From the end of each run of speech to the last final of it.
    pub last: Delays,
    /// From the end of each word of a final to the message since which it stood at its place without a change.
    pub stable: Delays,
    /// Words that came to be shown. A word shown again behind one that changed counts again.
    pub words_shown: usize,
    /// Words that were shown and then, at their place or before it, changed or removed.
    pub words_taken_back: usize,
    /// Words of all finals.
    pub words_final: usize,
    /// Runs of speech for which no text came.
    pub runs_without_text: usize,
    /// Utterances whose final never came.
    pub unfinished: usize,
    /// Of finals against what was said.
    pub errors: WordErrors,
}

impl Measures {
    /// Adds those of another stream.
    pub fn add(&mut self, other: &Self) {
        self.first.add(&other.first);
        self.last.add(&other.last);
        self.stable.add(&other.stable);
        self.words_shown += other.words_shown;
        self.words_taken_back += other.words_taken_back;
        self.words_final += other.words_final;
        self.runs_without_text += other.runs_without_text;
        self.unfinished += other.unfinished;
        self.errors = self.errors + other.errors;
    }
}

/// The normalised words that were heard of each item of a playlist, in its order.
pub type Transcripts = Vec<Vec<String>>;

/// What a stream's captions are worth.
pub fn measure(heard: &[Heard], list: &Playlist, recordings: &[Recording]) -> (Measures, Transcripts) {
    let mut measures = Measures::default();
    let utterances = utterances(heard, &mut measures);
    for run in &list.runs {
        let begun = utterances
            .iter()
            .filter(|utterance| (run.start - EARLY_S..run.end).contains(&utterance.start))
            .map(|utterance| utterance.first_at)
            .min();
        match begun {
            Some(at) => measures.first.record(run.start, at),
            None => measures.runs_without_text += 1,
        }
        let finished = utterances
            .iter()
            .filter(|utterance| utterance.start < run.end && utterance.end > run.start)
            .filter_map(|utterance| utterance.final_at)
            .max();
        if let Some(at) = finished {
            measures.last.record(run.end, at);
        }
    }
    let mut texts: Vec<Vec<&Utterance>> = vec![Vec::new(); list.items.len()];
    for utterance in utterances.iter().filter(|utterance| utterance.final_at.is_some()) {
        let item = list.item_at((utterance.start + utterance.end) / 2.0);
        if let Some(text) = item.and_then(|item| texts.get_mut(item)) {
            text.push(utterance);
        }
    }
    let mut transcripts = Transcripts::new();
    for (item, mut said) in list.items.iter().zip(texts) {
        said.sort_by(|a, b| a.start.total_cmp(&b.start));
        let text = said.iter().map(|utterance| utterance.text.as_str()).collect::<Vec<_>>().join(" ");
        if let Some(recording) = recordings.get(item.recording) {
            measures.errors = measures.errors + WordErrors::between(&recording.text, &text);
        }
        transcripts.push(normalise(&text));
    }
    (measures, transcripts)
}

/// How far the timestamps of a recording moved from its first hearing in the stream to its last: the longest such way,
/// in seconds, of all recordings that were heard twice. Each begins on the same grid of frames, so that nothing but a
/// clock that goes wrong can move them.
pub fn drift_s(heard: &[Heard], list: &Playlist) -> Option<f64> {
    let mut offsets: HashMap<usize, (f64, f64)> = HashMap::new();
    for item in &list.items {
        let finals = heard.iter().filter(|heard| heard.is_final && item.span.contains(&heard.caption.start));
        let Some(start) = finals.map(|heard| heard.caption.start).min_by(f64::total_cmp) else { continue };
        let offset = start - item.span.start;
        offsets.entry(item.recording).and_modify(|(_, last)| *last = offset).or_insert((offset, offset));
    }
    offsets.values().map(|(first, last)| (last - first).abs()).max_by(f64::total_cmp)
}

/// An utterance as a reader saw it.
#[derive(Debug, Default)]
struct Utterance {
    start: f64,
    end: f64,
    /// The first text.
    first_at: Duration,
    final_at: Option<Duration>,
    text: String,
    /// The words of the newest message, normalised one by one.
    shown: Vec<String>,
    /// Since when each of them stands at its place.
    since: Vec<Duration>,
}

impl Utterance {
    /// Takes the next text; counts what it adds and what it takes back.
    fn show(&mut self, at: Duration, caption: &Caption, measures: &mut Measures) {
        let words: Vec<String> =
            caption.text.split_whitespace().map(|word| normalise(word).join(" ")).collect();
        let same = words.iter().zip(&self.shown).take_while(|(new, old)| new == old).count();
        measures.words_taken_back += self.shown.len() - same;
        measures.words_shown += words.len() - same;
        self.since.resize(words.len(), at);
        for (index, (word, since)) in words.iter().zip(&mut self.since).enumerate() {
            if self.shown.get(index) != Some(word) {
                *since = at;
            }
        }
        self.shown = words;
        (self.start, self.end) = (caption.start, caption.end);
        self.text.clone_from(&caption.text);
    }

    fn finish(&mut self, at: Duration, caption: &Caption, measures: &mut Measures) {
        self.final_at = Some(at);
        measures.words_final += self.shown.len();
        for (end, since) in word_ends(caption, self.shown.len()).zip(&self.since) {
            measures.stable.record(end, *since);
        }
    }
}

/// Where each of `count` words of a final ends: as the server says, or evenly where it says nothing.
fn word_ends(caption: &Caption, count: usize) -> impl Iterator<Item = f64> {
    let told = caption.words.len() == count;
    let step = (caption.end - caption.start) / count.max(1) as f64;
    (0..count).map(move |index| {
        let even = caption.start + step * (index + 1) as f64;
        caption.words.get(index).filter(|_| told).map_or(even, |word| word.end)
    })
}

fn utterances(heard: &[Heard], measures: &mut Measures) -> Vec<Utterance> {
    let mut open: HashMap<&str, Utterance> = HashMap::new();
    let mut finished: HashMap<&str, Utterance> = HashMap::new();
    for Heard { at, is_final, caption } in heard {
        let id = caption.utterance_id.as_str();
        // What comes late or twice is passed over, as a reader's program does.
        if finished.contains_key(id) || (caption.text.is_empty() && !open.contains_key(id)) {
            continue;
        }
        let utterance = open.entry(id).or_insert_with(|| Utterance { first_at: *at, ..Utterance::default() });
        utterance.show(*at, caption, measures);
        if *is_final {
            utterance.finish(*at, caption, measures);
            finished.extend(open.remove_entry(id));
        } else if caption.text.is_empty() {
            // It was no speech; the id may come to mean another utterance.
            open.remove(id);
        }
    }
    measures.unfinished += open.len();
    finished.into_values().chain(open.into_values()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Word;

    fn heard(
        at_ms: u64,
        utterance: &str,
        is_final: bool,
        text: &str,
        span: (f64, f64),
        ends: &[f64],
    ) -> Heard {
        let words = ends.iter().map(|&end| Word { end }).collect();
        let (start, end) = span;
        let caption =
            Caption { utterance_id: utterance.into(), text: text.into(), start, end, words, sequence: None };
        Heard { at: Duration::from_millis(at_ms), is_final, caption }
    }

    /// Two recordings of 4 s; in the first two runs of speech, in the second one.
    fn said() -> (Vec<Recording>, Playlist) {
        let recording = |text: &str, runs: &[(usize, usize)]| Recording {
            name: String::new(),
            text: text.into(),
            pcm: vec![0; 64_000],
            runs: runs.iter().map(|&(from, to)| from * 16..to * 16).collect(),
        };
        let recordings = vec![
            recording("one two three four", &[(0, 1500), (2500, 4000)]),
            recording("five", &[(0, 2000)]),
        ];
        let list = Playlist::new(&recordings, 0, None);
        assert_eq!(list.runs, [0.8..2.3, 3.3..4.8, 6.0..8.0]);
        (recordings, list)
    }

    #[test]
    fn delays_run_from_what_was_spoken_to_what_came() {
        let (recordings, list) = said();
        let (measures, transcripts) = measure(
            &[
                heard(1300, "u-1", false, "One", (0.8, 1.1), &[]),
                heard(1800, "u-1", false, "One to", (0.8, 1.6), &[]),
                heard(2300, "u-1", false, "One two", (0.8, 2.1), &[]),
                heard(3000, "u-1", true, "One, two.", (0.8, 2.4), &[1.2, 2.2]),
                heard(5500, "u-2", true, "Three four!", (3.3, 4.8), &[4.0, 4.8]),
                heard(5600, "u-2", true, "Three four!", (3.3, 4.8), &[4.0, 4.8]),
                heard(5700, "u-2", false, "late", (3.3, 4.8), &[]),
                heard(6600, "u-3", false, "Fife", (5.9, 6.3), &[]),
                heard(8800, "u-3", true, "Five", (5.9, 8.0), &[]),
            ],
            &list,
            &recordings,
        );
        let delays = |delays: &Delays| delays.percentiles().map(|it| (it.count, it.p50_ms, it.max_ms));
        // 1.3 - 0.8, 5.5 - 3.3 and 6.6 - 6.0.
        assert_eq!(delays(&measures.first), Some((3, 600, 2200)));
        // 3.0 - 2.3, 5.5 - 4.8 and 8.8 - 8.0.
        assert_eq!(delays(&measures.last), Some((3, 700, 800)));
        // "one" 1.3 - 1.2, "two" 2.3 - 2.2, "three" 5.5 - 4.0, "four" 5.5 - 4.8, "five" 8.8 - 8.0.
        assert_eq!(delays(&measures.stable), Some((5, 700, 1500)));
        // Shown: one, to, two, three, four, fife, five. Taken back: to, fife.
        assert_eq!((measures.words_shown, measures.words_taken_back, measures.words_final), (7, 2, 5));
        assert_eq!((measures.runs_without_text, measures.unfinished), (0, 0));
        assert_eq!((measures.errors.words, measures.errors.rate()), (5, 0.0));
        assert_eq!(transcripts, [vec!["1", "2", "3", "4"], vec!["5"]]);
    }

    #[test]
    fn a_change_takes_back_all_that_stands_behind_it() {
        let (recordings, list) = said();
        for (texts, shown, taken_back) in [
            (&["a b c", "a b c d"][..], 4, 0),
            (&["a b c", "a x b c"], 6, 2),
            (&["a b c", "a b"], 3, 1),
            (&["a b c", "A, b. C!"], 3, 0),
            (&["a b", "", "c"], 3, 2),
        ] {
            let count = texts.len();
            let messages: Vec<Heard> = texts
                .iter()
                .enumerate()
                .map(|(index, text)| heard(1000, "u-1", index + 1 == count, text, (1.0, 2.0), &[]))
                .collect();
            let (measures, _) = measure(&messages, &list, &recordings);
            assert_eq!((measures.words_shown, measures.words_taken_back), (shown, taken_back), "{texts:?}");
        }
    }

    #[test]
    fn a_word_is_stable_since_it_stands_at_its_place() {
        let (recordings, list) = said();
        for (early, late, stable_since_ms) in [
            ("a b c", "a b c", [1000, 1000, 1000]),
            ("x b c", "a b c", [2000, 1000, 1000]),
            ("b c", "a b c", [2000, 2000, 2000]),
            ("a b", "a b c", [1000, 1000, 2000]),
            ("a b c d", "a b c", [1000, 1000, 1000]),
        ] {
            let (measures, _) = measure(
                &[
                    heard(1000, "u-1", false, early, (0.0, 0.9), &[]),
                    heard(2000, "u-1", true, late, (0.0, 0.9), &[0.0, 0.0, 0.0]),
                ],
                &list,
                &recordings,
            );
            let mut expected = Delays::default();
            stable_since_ms.iter().for_each(|&ms| expected.record(0.0, Duration::from_millis(ms)));
            assert_eq!(measures.stable.percentiles(), expected.percentiles(), "{early} / {late}");
        }
    }

    #[test]
    fn a_cut_inside_a_run_is_neither_its_start_nor_its_end() {
        let (recordings, list) = said();
        let (measures, _) = measure(
            &[
                heard(6500, "u-1", true, "five", (6.0, 7.0), &[]),
                heard(7500, "u-2", false, "six", (7.0, 7.4), &[]),
                heard(8700, "u-2", true, "six", (7.0, 8.0), &[]),
            ],
            &list,
            &recordings,
        );
        let only = |delays: &Delays| delays.percentiles().map(|it| (it.count, it.max_ms));
        assert_eq!((only(&measures.first), only(&measures.last)), (Some((1, 500)), Some((1, 700))));
        assert_eq!(measures.runs_without_text, 2);
    }

    #[test]
    fn silence_of_a_server_is_counted() {
        let (recordings, list) = said();
        let (measures, transcripts) = measure(&[], &list, &recordings);
        assert_eq!((measures.runs_without_text, measures.errors.deleted), (3, 5));
        assert!(transcripts.iter().all(Vec::is_empty) && measures.last.percentiles().is_none());
        let (measures, _) = measure(&[heard(9, "u", false, "a", (1.0, 2.0), &[])], &list, &recordings);
        assert_eq!((measures.unfinished, measures.words_final), (1, 0));
    }
}
