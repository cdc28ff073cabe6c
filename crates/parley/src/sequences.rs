use std::collections::BTreeSet;

/// Most sequences remembered above a hole. A hole that long does not close any more.
const ABOVE_MAX: usize = 4096;

/// Which finals of a session have been seen, so that a reconnect asks for exactly the others and none is shown
/// twice, in whatever order they come.
#[derive(Debug, Default)]
pub struct Sequences {
    /// Everything up to here was seen, or is before what was asked for; `None` until the first is known.
    seen_to: Option<u64>,
    /// What was seen above a hole.
    above: BTreeSet<u64>,
}

impl Sequences {
    /// Starts after `since`, or with the first final that comes.
    pub fn after(since: Option<u64>) -> Self {
        Self { seen_to: since, above: BTreeSet::new() }
    }

    /// Notes one; false when it was seen before.
    pub fn note(&mut self, sequence: u64) -> bool {
        let seen_to = *self.seen_to.get_or_insert(sequence.saturating_sub(1));
        if sequence <= seen_to || !self.above.insert(sequence) {
            return false;
        }
        if self.above.len() > ABOVE_MAX {
            self.seen_to = self.above.first().copied().map(|first| first.saturating_sub(1));
        }
        while let Some(first) = self.above.first().copied()
            && self.seen_to.is_some_and(|seen_to| first == seen_to.saturating_add(1))
        {
            self.above.pop_first();
            self.seen_to = Some(first);
        }
        true
    }

    /// What to ask for after a reconnect: everything after this. `None` until anything is known.
    pub fn since(&self) -> Option<u64> {
        self.seen_to
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_new_once_and_holes_are_asked_for_again() {
        let mut seen = Sequences::after(None);
        assert_eq!(seen.since(), None);
        assert!(seen.note(5));
        assert!(!seen.note(5));
        assert!(seen.note(8));
        assert!(seen.note(7));
        assert_eq!(seen.since(), Some(5));
        assert!(seen.note(6));
        assert_eq!(seen.since(), Some(8));
        assert!(!seen.note(7));

        let mut seen = Sequences::after(Some(0));
        assert!(seen.note(2));
        assert_eq!(seen.since(), Some(0));
    }

    #[test]
    fn a_hole_that_never_closes_takes_bounded_memory() {
        let mut seen = Sequences::after(Some(0));
        for sequence in 2..20_000 {
            assert!(seen.note(sequence));
        }
        assert!(seen.above.len() <= ABOVE_MAX);
        assert_eq!(seen.since(), Some(19_999));
    }
}
