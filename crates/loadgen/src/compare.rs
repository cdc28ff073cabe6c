//! What one transcript lacks of another.

/// Words of `expected` that are missing in `heard`; both normalised.
///
/// Words are matched in order, as many as possible. Between two matches, where the transcripts differ, as large a
/// share of the words is missing as of their letters, rounded down: `wood cutters` heard as `woodcutters` lacks
/// nothing, a word heard as another lacks nothing, words with nothing in their place are missing.
pub fn missing(expected: &[String], heard: &[String]) -> usize {
    let mut lost = 0;
    let (mut from, mut heard_from) = (0, 0);
    let ends = matches(expected, heard).into_iter().chain([(expected.len(), heard.len())]);
    for (to, heard_to) in ends {
        let differing = expected.get(from..to).unwrap_or_default();
        let said_letters = letters(differing);
        let heard_letters = letters(heard.get(heard_from..heard_to).unwrap_or_default());
        let lacking = differing.len() * said_letters.saturating_sub(heard_letters);
        lost += lacking.checked_div(said_letters).unwrap_or(0);
        (from, heard_from) = (to + 1, heard_to + 1);
    }
    lost
}

fn letters(words: &[String]) -> usize {
    words.iter().map(|word| word.chars().count()).sum()
}

/// The places of a longest common subsequence, in order.
fn matches(left: &[String], right: &[String]) -> Vec<(usize, usize)> {
    // lengths[i][j]: of the longest common subsequence of left[i..] and right[j..].
    let mut lengths = vec![vec![0_usize; right.len() + 1]; left.len() + 1];
    let at = |lengths: &[Vec<usize>], i: usize, j: usize| {
        lengths.get(i).and_then(|row| row.get(j)).copied().unwrap_or(0)
    };
    for (i, word) in left.iter().enumerate().rev() {
        for (j, other) in right.iter().enumerate().rev() {
            let length = if word == other {
                at(&lengths, i + 1, j + 1) + 1
            } else {
                at(&lengths, i + 1, j).max(at(&lengths, i, j + 1))
            };
            if let Some(cell) = lengths.get_mut(i).and_then(|row| row.get_mut(j)) {
                *cell = length;
            }
        }
    }
    let (mut i, mut j, mut found) = (0, 0, Vec::new());
    while let (Some(word), Some(other)) = (left.get(i), right.get(j)) {
        if word == other {
            found.push((i, j));
            (i, j) = (i + 1, j + 1);
        } else if at(&lengths, i + 1, j) >= at(&lengths, i, j + 1) {
            i += 1;
        } else {
            j += 1;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_words_are_those_with_nothing_in_their_place() {
        for (expected, heard, lost) in [
            ("", "", 0),
            ("", "a b", 0),
            ("a b c", "a b c", 0),
            ("a b c", "", 3),
            ("a b c d", "a d", 2),
            ("a b c d", "c d", 2),
            ("a b c d", "a b", 2),
            ("the wood cutters came", "the woodcutters came", 0),
            ("its late", "it late", 0),
            ("we had nothing before us", "we had something before us", 0),
            ("one two three four five six", "one x six", 3),
            ("a b a b a b", "a b a b", 2),
            ("a b", "a b c d", 0),
        ] {
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(missing(&words(expected), &words(heard)), lost, "{expected} / {heard}");
        }
    }
}
