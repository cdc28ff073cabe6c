//! Word error rate: how far a transcript is from what was said.

/// Words of a reference and how a transcript differs from them. Add up those of several recordings before
/// taking the rate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WordErrors {
    /// Words of the reference.
    pub words: usize,
    /// Words that are another in the transcript.
    pub substituted: usize,
    /// Words that the transcript lacks.
    pub deleted: usize,
    /// Words that nobody said.
    pub inserted: usize,
}

impl WordErrors {
    /// Compares normalised texts with the fewest edits.
    #[expect(clippy::indexing_slicing, reason = "the row has one cell more than `heard` has words")]
    pub fn between(reference: &str, transcript: &str) -> Self {
        let (said, heard) = (normalise(reference), normalise(transcript));
        // Each cell: (edits, substituted, deleted, inserted) between a prefix of `said` and one of `heard`.
        let mut row: Vec<(usize, usize, usize, usize)> =
            (0..=heard.len()).map(|count| (count, 0, 0, count)).collect();
        for (index, word) in said.iter().enumerate() {
            let mut diagonal = std::mem::replace(&mut row[0], (index + 1, 0, index + 1, 0));
            for (column, other) in heard.iter().enumerate() {
                let above = row[column + 1];
                let left = row[column];
                let differs = usize::from(word != other);
                let matched = (diagonal.0 + differs, diagonal.1 + differs, diagonal.2, diagonal.3);
                let deleted = (above.0 + 1, above.1, above.2 + 1, above.3);
                let inserted = (left.0 + 1, left.1, left.2, left.3 + 1);
                row[column + 1] = matched.min(deleted).min(inserted);
                diagonal = above;
            }
        }
        let (_, substituted, deleted, inserted) = row[heard.len()];
        Self { words: said.len(), substituted, deleted, inserted }
    }

    /// Errors per word of the reference; without reference, 0 when there are no errors and 1 when there are.
    pub fn rate(&self) -> f64 {
        let errors = self.substituted + self.deleted + self.inserted;
        errors as f64 / self.words.max(usize::from(errors > 0)).max(1) as f64
    }
}

impl std::ops::Add for WordErrors {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            words: self.words + other.words,
            substituted: self.substituted + other.substituted,
            deleted: self.deleted + other.deleted,
            inserted: self.inserted + other.inserted,
        }
    }
}

impl std::iter::Sum for WordErrors {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| sum + one)
    }
}

/// The words that count: lower case, without punctuation, hyphens read as spaces, numbers below a hundred and
/// years written in digits.
pub fn normalise(text: &str) -> Vec<String> {
    let plain: String = text
        .chars()
        .filter(|letter| !matches!(letter, '\'' | '\u{2019}'))
        .flat_map(char::to_lowercase)
        .map(|letter| if letter.is_alphanumeric() { letter } else { ' ' })
        .collect();
    let mut words: Vec<String> = Vec::new();
    // The number that the newest words spell: its value, and whether a unit may follow.
    let mut number: Option<(u32, bool)> = None;
    for word in plain.split_whitespace() {
        let spelled = spelled_number(word);
        number = match (number, spelled) {
            (Some((tens, true)), Some(unit)) if (1..10).contains(&unit) => {
                words.pop();
                push_number(&mut words, tens + unit);
                Some((tens + unit, false))
            }
            // Years are spelled in pairs: "fourteen fifty" is 1450.
            (Some((century, _)), Some(pair)) if (10..100).contains(&century) && (10..100).contains(&pair) => {
                words.pop();
                push_number(&mut words, century * 100 + pair);
                Some((century * 100 + pair, pair >= 20 && pair % 10 == 0))
            }
            (_, Some(value)) => {
                push_number(&mut words, value);
                Some((value, value >= 20 && value % 10 == 0))
            }
            (_, None) => {
                words.push(word.to_owned());
                None
            }
        };
    }
    words
}

fn push_number(words: &mut Vec<String>, value: u32) {
    words.push(value.to_string());
}

fn spelled_number(word: &str) -> Option<u32> {
    const SMALL: [&str; 20] = [
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
    ];
    const TENS: [&str; 8] = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
    let position =
        |words: &[&str]| words.iter().position(|&known| known == word).and_then(|at| u32::try_from(at).ok());
    position(&SMALL).or_else(|| Some(position(&TENS)? * 10 + 20))
}

#[cfg(test)]
mod tests {
    #[test]
    fn texts_are_compared_by_their_words() {
        assert_eq!(super::normalise("The \"forty-two line Bible\","), ["the", "42", "line", "bible"]);
        assert_eq!(super::normalise("about fourteen fifty-five."), ["about", "1455"]);
        assert_eq!(super::normalise("It's twenty one"), ["its", "21"]);
        assert_eq!(super::normalise("1455"), ["1455"]);
    }

    #[test]
    fn errors_are_told_apart() {
        let check = |reference, transcript, substituted, deleted, inserted| {
            let errors = super::WordErrors::between(reference, transcript);
            assert_eq!(
                (errors.substituted, errors.deleted, errors.inserted),
                (substituted, deleted, inserted)
            );
        };
        check("a b c", "A, b. c", 0, 0, 0);
        check("a b c", "a x c", 1, 0, 0);
        check("a b c", "a c", 0, 1, 0);
        check("a b c", "a b b c", 0, 0, 1);
        check("", "a", 0, 0, 1);
        assert_eq!(super::WordErrors::between("a b c d", "a b c").rate(), 0.25);
        assert_eq!(super::WordErrors::between("", "a").rate(), 1.0);
    }
}
