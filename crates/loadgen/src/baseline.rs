use std::collections::HashMap;

use crate::{compare::missing, measure::Transcripts, playlist::Playlist};

/// A recording that was heard again, against its first hearing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// Which.
    pub recording: usize,
    /// Words that it had and has not.
    pub lost: usize,
    /// Words that it has and had not.
    pub added: usize,
}

/// What was heard of each recording when it was heard first; later hearings are compared with it.
#[derive(Debug, Clone, Default)]
pub struct Baseline(HashMap<usize, Vec<String>>);

impl Baseline {
    /// Compares these transcripts with those before. A recording that was never heard before becomes the baseline itself.
    pub fn compare(&mut self, list: &Playlist, transcripts: Transcripts) -> Vec<Comparison> {
        let mut comparisons = Vec::new();
        for (item, words) in list.items.iter().zip(transcripts) {
            match self.0.get(&item.recording) {
                Some(first) => {
                    let (lost, added) = (missing(first, &words), missing(&words, first));
                    comparisons.push(Comparison { recording: item.recording, lost, added });
                }
                None => {
                    self.0.insert(item.recording, words);
                }
            }
        }
        comparisons
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::Recording;

    #[test]
    fn the_first_hearing_is_the_baseline_of_the_others() {
        let recording = |name: &str| Recording {
            name: name.to_owned(),
            text: String::new(),
            pcm: vec![0; 16_000],
            runs: Vec::new(),
        };
        let list = Playlist::new(&[recording("a"), recording("b")], 0, None);
        let transcripts = |texts: [&str; 2]| -> Transcripts {
            texts.iter().map(|text| text.split_whitespace().map(str::to_owned).collect()).collect()
        };
        let mut baseline = Baseline::default();
        assert_eq!(baseline.compare(&list, transcripts(["one two", "three"])), []);
        let shorter = Comparison { recording: 0, lost: 1, added: 0 };
        let same = |recording| Comparison { recording, lost: 0, added: 0 };
        assert_eq!(baseline.compare(&list, transcripts(["one", "three"])), [shorter, same(1)]);
        let longer = Comparison { recording: 1, lost: 0, added: 2 };
        assert_eq!(baseline.compare(&list, transcripts(["one two", "three four five"])), [same(0), longer]);
        assert_eq!(
            baseline.compare(&list, transcripts(["one six", "three"])),
            [same(0), same(1)],
            "heard as another"
        );
    }
}
