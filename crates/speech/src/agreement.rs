use crate::Hypothesis;

/// What followers see of an open utterance.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Shown {
    /// The words, as they were when they were first shown or last changed.
    pub words: Vec<String>,
    /// How many of them two consecutive hypotheses agree on.
    pub stable: usize,
}

impl Shown {
    pub fn text(&self) -> String {
        self.words.join(" ")
    }

    /// Characters (Unicode scalar values) of the text that are stable.
    pub fn stable_chars(&self) -> u32 {
        let stable = self.words.iter().take(self.stable);
        let letters: usize = stable.map(|word| word.chars().count()).sum();
        u32::try_from(letters + self.stable.saturating_sub(1)).unwrap_or(u32::MAX)
    }
}

/// Makes calm partials of the hypotheses of one utterance, each over more sound than the one before.
#[derive(Default)]
pub struct Agreement {
    previous: Vec<String>,
    shown: Shown,
}

/// How many of the newest words stay unshown until the next hypothesis has them too: a word that is still being
/// spoken is usually heard as another.
const HELD_BACK: usize = 1;

impl Agreement {
    /// What is shown now.
    pub fn shown(&self) -> &Shown {
        &self.shown
    }

    /// Takes the next hypothesis; `paused` when silence follows its last word, which is then complete.
    pub fn hear(&mut self, hypothesis: &Hypothesis, paused: bool) -> &Shown {
        let words: Vec<String> = hypothesis.words.iter().map(|word| word.text.clone()).collect();
        let agreed = common_prefix(&words, &self.previous);

        // Stable words stay as they are shown. Where the newest hypothesis contradicts them, what it says after
        // them is found by alignment.
        let stable = self.shown.words.get(..self.shown.stable).unwrap_or_default();
        let after_stable = aligned_end(stable, &words);
        let newly_stable = agreed.saturating_sub(after_stable);
        let known = if paused { words.len() } else { words.len().saturating_sub(HELD_BACK) };
        let showable = known.max(agreed).max(after_stable);

        let mut next: Vec<String> = stable.to_vec();
        next.extend(words.get(after_stable..showable).unwrap_or_default().iter().cloned());
        if !paused && showable == words.len() {
            // The model ends every text like a sentence, also one that goes on.
            if let Some(last) = next.get_mut(stable.len()..).and_then(<[String]>::last_mut) {
                let open = last.trim_end_matches(['.', '!', '?', ',']).len();
                if open > 0 {
                    last.truncate(open);
                }
            }
        }
        // A word that was shown keeps its case and punctuation while it stays the same word.
        for (new, old) in next.iter_mut().zip(&self.shown.words) {
            if same_word(new, old) {
                new.clone_from(old);
            } else {
                break;
            }
        }
        self.shown = Shown { stable: (stable.len() + newly_stable).min(next.len()), words: next };
        self.previous = words;
        &self.shown
    }
}

/// Whether two writings are of one word: case and punctuation aside.
pub fn same_word(a: &str, b: &str) -> bool {
    letters(a).eq(letters(b))
}

fn letters(word: &str) -> impl Iterator<Item = char> {
    word.chars().filter(|letter| letter.is_alphanumeric()).flat_map(char::to_lowercase)
}

/// How many leading words two texts share.
pub fn common_prefix<A: AsRef<str>, B: AsRef<str>>(a: &[A], b: &[B]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| same_word(a.as_ref(), b.as_ref())).count()
}

/// How many leading words of `words` say what `stable` says: the prefix nearest to it by word edits, the longest
/// of equals that is not longer than `stable`, else the shortest.
fn aligned_end(stable: &[String], words: &[String]) -> usize {
    let mut row: Vec<usize> = (0..=words.len()).collect();
    for (index, said) in stable.iter().enumerate() {
        let mut diagonal = row.first().copied().unwrap_or(0);
        if let Some(first) = row.first_mut() {
            *first = index + 1;
        }
        let mut left = index + 1;
        for (cell, word) in row.iter_mut().skip(1).zip(words) {
            let substituted = diagonal + usize::from(!same_word(said, word));
            diagonal = *cell;
            left = substituted.min(diagonal + 1).min(left + 1);
            *cell = left;
        }
    }
    row.iter()
        .enumerate()
        .min_by_key(|&(end, &edits)| (edits, end.abs_diff(stable.len())))
        .map_or(0, |(end, _)| end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HypothesisWord;

    fn hypothesis(text: &str) -> Hypothesis {
        let words =
            text.split_whitespace().map(|word| HypothesisWord { text: word.to_owned(), logprob: 0.0 });
        Hypothesis { words: words.collect(), tokens: Vec::new() }
    }

    fn check(hypotheses: &[(&str, bool)], expected: &[(&str, u32)]) {
        let mut agreement = Agreement::default();
        let shown: Vec<(String, u32)> = hypotheses
            .iter()
            .map(|(text, paused)| {
                let shown = agreement.hear(&hypothesis(text), *paused);
                (shown.text(), shown.stable_chars())
            })
            .collect();
        let expected: Vec<(String, u32)> =
            expected.iter().map(|(text, stable)| ((*text).to_owned(), *stable)).collect();
        assert_eq!(shown, expected);
    }

    #[test]
    fn the_word_being_spoken_waits_for_agreement() {
        check(
            &[("And so.", false), ("And so my fell.", false), ("And so my fellow American.", false)],
            &[("And", 0), ("And so my", 6), ("And so my fellow", 9)],
        );
    }

    #[test]
    fn a_pause_shows_the_last_word_with_its_punctuation() {
        check(&[("Yes.", false), ("Yes.", true)], &[("", 0), ("Yes.", 4)]);
        check(&[("Yes.", true)], &[("Yes.", 0)]);
    }

    #[test]
    fn an_agreed_last_word_loses_its_full_stop() {
        check(&[("It was.", false), ("It was.", false)], &[("It", 0), ("It was", 6)]);
    }

    #[test]
    fn stable_words_stay_when_a_later_hypothesis_contradicts_them() {
        check(
            &[
                ("one two three four", false),
                ("one two three four five", false),
                ("won two three four five six", false),
                ("one three four five six seven", false),
            ],
            &[
                ("one two three", 0),
                ("one two three four", 18),
                ("one two three four five", 18),
                ("one two three four five six", 18),
            ],
        );
    }

    #[test]
    fn stable_characters_are_unicode_scalar_values() {
        check(&[("Ça va là bas", false), ("Ça va là bas", false)], &[("Ça va là", 0), ("Ça va là bas", 12)]);
    }

    #[test]
    fn an_empty_hypothesis_takes_back_only_what_is_not_stable() {
        check(&[("so it goes", false), ("", false)], &[("so it", 0), ("", 0)]);
        check(
            &[("so it", false), ("so it goes", false), ("", false)],
            &[("so", 0), ("so it", 5), ("so it", 5)],
        );
    }
}
