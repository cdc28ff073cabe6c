use tokio::time::Instant;

/// The finals of a session as one client was told them, across all its connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    finals: Vec<String>,
    /// What no client may ever see: a final that came twice, or without the one before it.
    pub faults: Vec<String>,
    /// When each of a follower's connections was there.
    pub connected: Vec<Instant>,
}

impl Told {
    /// Takes the final with this sequence. Sequences begin at 1 and have no holes.
    pub fn take(&mut self, sequence: u64, text: &str) {
        let newest = self.newest();
        if sequence == newest + 1 {
            self.finals.push(text.to_owned());
        } else if sequence <= newest {
            self.faults.push(format!("final {sequence} came after final {newest}"));
        } else {
            self.faults.push(format!("final {sequence} came without those after {newest}"));
        }
    }

    /// The sequence of the newest final, 0 before the first.
    pub fn newest(&self) -> u64 {
        self.finals.len() as u64
    }

    /// How many of the finals that `other` was told are missing here or differ, and the other way round.
    pub fn differences(&self, other: &Self) -> usize {
        let common = self.finals.iter().zip(&other.finals);
        common.filter(|(one, two)| one != two).count() + self.finals.len().abs_diff(other.finals.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(finals: &[(u64, &str)]) -> Told {
        let mut told = Told::default();
        for (sequence, text) in finals {
            told.take(*sequence, text);
        }
        told
    }

    #[test]
    fn finals_come_once_and_in_order() {
        let good = told(&[(1, "a"), (2, "b")]);
        assert_eq!((good.newest(), good.faults.len()), (2, 0));
        let twice = told(&[(1, "a"), (2, "b"), (2, "b"), (1, "a"), (3, "c")]);
        assert_eq!(twice.faults, ["final 2 came after final 2", "final 1 came after final 2"]);
        let hole = told(&[(1, "a"), (3, "c"), (2, "b")]);
        assert_eq!(
            (hole.newest(), hole.faults.as_slice()),
            (2, &["final 3 came without those after 1".to_owned()][..])
        );
    }

    #[test]
    fn two_clients_were_told_the_same_or_not() {
        let one = told(&[(1, "a"), (2, "b")]);
        for (other, differences) in [
            (told(&[(1, "a"), (2, "b")]), 0),
            (told(&[(1, "a")]), 1),
            (told(&[(1, "a"), (2, "x"), (3, "c")]), 2),
            (told(&[]), 2),
        ] {
            assert_eq!(
                (one.differences(&other), other.differences(&one)),
                (differences, differences),
                "{other:?}"
            );
        }
    }
}
