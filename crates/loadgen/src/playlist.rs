use std::ops::Range;

use model::{SAMPLE_RATE_HZ, Samples};

use crate::recording::Recording;

/// Silence before the first recording, so that a server's voice detection stands where it stands before every
/// other one.
const LEAD_SAMPLES: usize = 12_800;

/// Least silence after each recording: 1.2 s, more than twice what ends an utterance.
const GAP_SAMPLES: usize = 19_200;

/// Recordings begin at multiples of this: 400 ms, which holds whole frames of 16, 20 and 100 ms. So a recording is
/// cut into the same frames wherever it stands, and its transcripts can be compared.
const GRID_SAMPLES: usize = 6_400;

/// What one stream says: recordings with silence between, and where in the stream what is said.
#[derive(Debug, Default)]
pub struct Playlist {
    /// 16 kHz mono.
    pub pcm: Vec<i16>,
    /// The recordings as they follow each other.
    pub items: Vec<Item>,
    /// Where somebody speaks without a long pause, seconds in the stream.
    pub runs: Vec<Range<f64>>,
}

/// A recording in a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Which.
    pub recording: usize,
    /// Its time in the stream in seconds, with the silence after it.
    pub span: Range<f64>,
}

impl Playlist {
    /// The recordings from number `first` on, around, until each was said once or `length` is reached.
    pub fn new(recordings: &[Recording], first: usize, length: Option<Samples>) -> Self {
        let mut list = Self { pcm: vec![0; LEAD_SAMPLES], ..Self::default() };
        let around = (0..recordings.len()).cycle().skip(first % recordings.len().max(1));
        for (count, number) in around.enumerate() {
            let full = match length {
                Some(length) => Samples::of(list.pcm.len()) >= length,
                None => count == recordings.len(),
            };
            if full {
                break;
            }
            if let Some(recording) = recordings.get(number) {
                list.push(number, recording);
            }
        }
        list
    }

    fn push(&mut self, number: usize, recording: &Recording) {
        let start = self.pcm.len();
        self.pcm.extend_from_slice(&recording.pcm);
        self.pcm.resize((self.pcm.len() + GAP_SAMPLES).next_multiple_of(GRID_SAMPLES), 0);
        self.items.push(Item { recording: number, span: seconds(start)..seconds(self.pcm.len()) });
        let runs = recording.runs.iter();
        self.runs.extend(runs.map(|run| seconds(start + run.start)..seconds(start + run.end)));
    }

    /// Its length.
    pub fn length(&self) -> Samples {
        Samples::of(self.pcm.len())
    }

    /// What is said between these seconds, without the sound.
    pub fn part(&self, span: Range<f64>) -> Self {
        let within = |part: &Range<f64>| span.contains(&part.start) && part.end <= span.end;
        Self {
            pcm: Vec::new(),
            items: self.items.iter().filter(|item| within(&item.span)).cloned().collect(),
            runs: self.runs.iter().filter(|run| within(run)).cloned().collect(),
        }
    }

    /// The number of the item that is played at this second.
    pub fn item_at(&self, second: f64) -> Option<usize> {
        self.items.iter().position(|item| item.span.contains(&second))
    }
}

fn seconds(sample: usize) -> f64 {
    sample as f64 / f64::from(SAMPLE_RATE_HZ)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recording(name: &str, length: usize) -> Recording {
        let run = 320..length;
        Recording { name: name.to_owned(), text: name.to_owned(), pcm: vec![7; length], runs: vec![run] }
    }

    #[test]
    fn every_recording_is_said_once_from_any_first() {
        let recordings = [recording("a", 16_000), recording("b", 8_000), recording("c", 100)];
        let list = Playlist::new(&recordings, 4, None);
        let order: Vec<usize> = list.items.iter().map(|item| item.recording).collect();
        assert_eq!(order, [1, 2, 0]);
        assert!(list.pcm.len().is_multiple_of(GRID_SAMPLES));
        for item in &list.items {
            let start = (item.span.start * 16_000.0) as usize;
            assert!(start.is_multiple_of(GRID_SAMPLES));
            assert_eq!((list.pcm[start - 1], list.pcm[start]), (0, 7));
            assert_eq!(list.item_at(item.span.start + 0.1).map(|at| &list.items[at]), Some(item));
        }
        assert_eq!(list.runs[0], seconds(LEAD_SAMPLES + 320)..seconds(LEAD_SAMPLES + 8_000));
        assert_eq!(list.item_at(0.1), None, "the silence at the start belongs to nobody");
        let first = list.items[0].span.clone();
        let part = list.part(first);
        assert_eq!((part.items.as_slice(), part.runs.as_slice()), (&list.items[..1], &list.runs[..1]));
    }

    #[test]
    fn a_length_repeats_or_shortens() {
        let recordings = [recording("a", 16_000), recording("b", 16_000)];
        let lengths = |seconds: u64| {
            let length = Some(Samples::from_millis(seconds * 1000));
            Playlist::new(&recordings, 0, length).items.len()
        };
        assert_eq!([lengths(0), lengths(1), lengths(3), lengths(10)], [0, 1, 1, 4]);
        assert_eq!(Playlist::new(&[], 0, Some(Samples::from_millis(1000))).items.len(), 0);
    }
}
