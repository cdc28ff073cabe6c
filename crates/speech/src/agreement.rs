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
///
/// The newest words of a hypothesis are the ones that change: the last is half spoken, and where sound ends in
/// mid-sentence the model invents a continuation. So a word is shown when two hypotheses agree on it, or at once
/// when the model is sure of it and has heard what follows. Words agreed on are stable: they stay as they are
/// shown unless two hypotheses in a row agree against them.
#[derive(Default)]
pub struct Agreement {
    previous: Option<Vec<String>>,
    shown: Shown,
}

/// A word heard once is shown when its log probability is above this: 82 %. At this value a ninth of the words
/// shown is taken back (`benches/live.rs`); half of them would be if all were shown.
const SURE_LOGPROB: f32 = -0.2;

/// The first word of an utterance is shown sooner: 67 %. Who speaks wants to see that they are heard.
const FIRST_WORD_LOGPROB: f32 = -0.4;

/// Not more words than this are shown on the word of one hypothesis: what people say in half a second. A text
/// that grows faster is invented.
const UNCONFIRMED_WORDS_MAX: usize = 3;

impl Agreement {
    /// What is shown now.
    pub fn shown(&self) -> &Shown {
        &self.shown
    }

    /// Takes the next hypothesis; `paused` when silence follows its last word, which is then complete.
    pub fn hear(&mut self, hypothesis: &Hypothesis, paused: bool) -> &Shown {
        let words: Vec<String> = hypothesis.words.iter().map(|word| word.text.clone()).collect();
        let agreed = self.previous.as_ref().map_or(0, |previous| common_prefix(&words, previous));

        let mut stable = self.shown.words.get(..self.shown.stable).unwrap_or_default();
        let unchanged = common_prefix(&words, stable);
        if unchanged < stable.len() && agreed > unchanged {
            stable = stable.get(..unchanged).unwrap_or_default();
        }
        // Where this hypothesis alone contradicts stable words, what it says after them is found by alignment.
        let after_stable = aligned_end(stable, &words);
        let confirmed = agreed.max(after_stable);
        let surely = hypothesis.words.iter().enumerate().skip(confirmed).take(UNCONFIRMED_WORDS_MAX);
        let unconfirmed = surely
            .take_while(|(index, word)| {
                let followed = index + 1 < words.len();
                let sure = followed && word.logprob >= SURE_LOGPROB;
                let greets = *index == 0 && (word.logprob >= FIRST_WORD_LOGPROB || self.previous.is_some());
                paused || sure || greets
            })
            .count();
        let showable = confirmed + unconfirmed;

        let mut next: Vec<String> = stable.to_vec();
        next.extend(words.get(after_stable..showable).unwrap_or_default().iter().cloned());
        if !paused && showable == words.len() && next.len() > stable.len() {
            // The model ends every text like a sentence, also one that goes on.
            if let Some(last) = next.last_mut() {
                let open = last.trim_end_matches(['.', '!', '?', ',']).len();
                if open > 0 {
                    last.truncate(open);
                }
            }
        }
        // A word that was shown keeps its case and punctuation while it stays the same word.
        let same = common_prefix(&next, &self.shown.words);
        for (new, old) in next.iter_mut().zip(&self.shown.words).take(same) {
            new.clone_from(old);
        }
        let stable = (stable.len() + agreed.saturating_sub(after_stable)).min(next.len());
        self.shown = Shown { words: next, stable };
        self.previous = Some(words);
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

    /// Words with `?` are unsure.
    fn hypothesis(text: &str) -> Hypothesis {
        let words = text.split_whitespace().map(|word| match word.strip_suffix('?') {
            Some(unsure) => HypothesisWord { text: unsure.to_owned(), logprob: -1.0 },
            None => HypothesisWord { text: word.to_owned(), logprob: 0.0 },
        });
        Hypothesis { words: words.collect(), ..Hypothesis::default() }
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
    fn unsure_words_wait_for_agreement_with_all_that_follow() {
        check(
            &[("In grave? do now", false), ("In grave? do now then", false)],
            &[("In", 0), ("In grave do now", 15)],
        );
    }

    #[test]
    fn a_text_that_grows_too_fast_waits() {
        check(&[("a b c d e f g", false), ("a b", false)], &[("a b c", 0), ("a b", 3)]);
    }

    #[test]
    fn the_first_word_is_shown_from_the_second_hypothesis_on() {
        check(&[("Print?", false), ("Printing?", false)], &[("", 0), ("Printing", 0)]);
        check(&[("Yes.", false)], &[("Yes", 0)]);
    }

    #[test]
    fn a_pause_shows_the_last_word_with_its_punctuation() {
        check(&[("Yes?", false), ("Yes.", true)], &[("", 0), ("Yes.", 4)]);
        check(&[("Yes. No.", true)], &[("Yes. No.", 0)]);
    }

    #[test]
    fn an_agreed_last_word_loses_its_full_stop() {
        check(&[("It was.", false), ("It was.", false)], &[("It", 0), ("It was", 6)]);
    }

    #[test]
    fn one_hypothesis_alone_does_not_move_stable_words() {
        check(
            &[
                ("one two three four", false),
                ("one two three four five", false),
                ("won two three four five six", false),
                ("one two three four five six", false),
            ],
            &[
                ("one two three", 0),
                ("one two three four", 18),
                ("one two three four five", 18),
                ("one two three four five", 18),
            ],
        );
    }

    #[test]
    fn two_hypotheses_in_a_row_move_stable_words() {
        check(
            &[
                ("the sum of", false),
                ("the sum of its", false),
                ("that some of its", false),
                ("that some of its", false),
            ],
            &[("the sum", 0), ("the sum of", 10), ("the sum of", 10), ("that some of its", 16)],
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
