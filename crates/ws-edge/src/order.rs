//! Puts what is stored of one topic in order. Pure: what comes in by the bus and from the store goes in, what followers
//! may be told comes out.
//!
//! The promise: records come out by rising sequence, each once, and none is left out between the first and the last.

use std::collections::BTreeMap;

use model::Sequence;

/// Records that wait for an earlier one. Those beyond it are let go: they are stored, and will be looked up where the
/// earlier one is.
pub(crate) const WAITING_MAX: usize = 256;

/// Something that has a place in its topic.
pub(crate) trait Record: Send + 'static {
    /// The place.
    fn sequence(&self) -> Sequence;
}

/// Records after a position, as they are stored.
pub(crate) struct Page<R> {
    /// In their order, none left out.
    pub(crate) records: Vec<R>,
    /// Up to here nothing else is stored, now or ever.
    pub(crate) through: Sequence,
    /// Whether it ends where the store did.
    pub(crate) is_last: bool,
    /// Whether something after the position is kept no longer.
    pub(crate) is_incomplete: bool,
}

/// What became of a record that came by the bus.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Accepted<R> {
    /// These may be told now.
    Ready(Vec<R>),
    /// An earlier one is missing: ask the store.
    Waits,
    /// It was told before.
    Duplicate,
}

/// Where a topic's followers are.
pub(crate) struct Order<R> {
    /// The last record that was told, or that was stored before anybody followed; `None` until the store has said.
    last: Option<Sequence>,
    waiting: BTreeMap<Sequence, R>,
}

impl<R> Default for Order<R> {
    fn default() -> Self {
        Self { last: None, waiting: BTreeMap::new() }
    }
}

impl<R: Record> Order<R> {
    /// The position after which to ask the store.
    pub(crate) fn last(&self) -> Option<Sequence> {
        self.last
    }

    /// Whether a record is known whose predecessor is not.
    pub(crate) fn has_gap(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The store says that `stored` was the last record when it was asked. What came by the bus since then, also while
    /// the answer was on its way, is news to the followers.
    pub(crate) fn begin(&mut self, stored: Sequence) -> Vec<R> {
        let before_waiting = self.waiting.keys().next().map(|first| Sequence(first.0.saturating_sub(1)));
        self.last = Some(before_waiting.map_or(stored, |before| before.min(stored)));
        self.ready()
    }

    /// A record came by the bus.
    pub(crate) fn accept(&mut self, record: R) -> Accepted<R> {
        let sequence = record.sequence();
        if self.last.is_some_and(|last| sequence <= last) || self.waiting.contains_key(&sequence) {
            return Accepted::Duplicate;
        }
        self.waiting.insert(sequence, record);
        if self.waiting.len() > WAITING_MAX {
            self.waiting.pop_last();
        }
        let ready = self.ready();
        if ready.is_empty() { Accepted::Waits } else { Accepted::Ready(ready) }
    }

    /// The store gave what comes after [`Order::last`]. It leaves nothing out, so a hole in its numbers is one that
    /// nothing will fill.
    pub(crate) fn refill(&mut self, page: Page<R>) -> Vec<R> {
        let mut told = Vec::with_capacity(page.records.len());
        for record in page.records {
            let sequence = record.sequence();
            if self.last.is_none_or(|last| sequence > last) {
                self.last = Some(sequence);
                told.push(record);
            }
        }
        self.last = self.last.max(Some(page.through));
        if let Some(last) = self.last {
            self.waiting = self.waiting.split_off(&last.next());
        }
        told.extend(self.ready());
        told
    }

    fn ready(&mut self) -> Vec<R> {
        let mut told = Vec::new();
        while let Some(last) = self.last
            && let Some(next) = self.waiting.remove(&last.next())
        {
            self.last = Some(last.next());
            told.push(next);
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Record for Sequence {
        fn sequence(&self) -> Sequence {
            *self
        }
    }

    enum Step {
        /// The store says what the last record is.
        Begin(u64),
        /// A record comes by the bus.
        Bus(u64),
        /// The store gives a page, and says that there is nothing else up to a position.
        Page(&'static [u64], u64),
    }
    use Step::{Begin, Bus};

    const fn page(records: &'static [u64]) -> Step {
        Step::Page(records, 0)
    }

    fn given(records: &[u64], through: u64) -> Page<Sequence> {
        let records = records.iter().map(|sequence| Sequence(*sequence)).collect();
        Page { records, through: Sequence(through), is_last: true, is_incomplete: false }
    }

    fn check(steps: &[Step], told: &[u64], has_gap: bool) {
        let mut order = Order::default();
        let mut out = Vec::new();
        for step in steps {
            match step {
                Begin(stored) => out.extend(order.begin(Sequence(*stored))),
                Bus(sequence) => {
                    if let Accepted::Ready(ready) = order.accept(Sequence(*sequence)) {
                        out.extend(ready);
                    }
                }
                Step::Page(records, through) => out.extend(order.refill(given(records, *through))),
            }
        }
        let out: Vec<u64> = out.iter().map(|sequence| sequence.0).collect();
        assert_eq!((out.as_slice(), order.has_gap()), (told, has_gap));
    }

    #[test]
    fn records_are_told_in_order_and_once() {
        check(&[Begin(0), Bus(1), Bus(2), Bus(3)], &[1, 2, 3], false);
        check(&[Begin(4), Bus(5), Bus(5), Bus(4), Bus(1)], &[5], false);
        check(&[Begin(0), Bus(2), Bus(1), Bus(3)], &[1, 2, 3], false);
        check(&[Begin(0), Bus(3), Bus(3), Bus(2)], &[], true);
    }

    #[test]
    fn what_comes_before_the_start_is_known_is_news() {
        check(&[Bus(6), Begin(5)], &[6], false);
        check(&[Bus(6), Begin(6)], &[6], false);
        check(&[Bus(7), Begin(6), Bus(6)], &[7], false);
        check(&[Bus(7), Begin(5)], &[], true);
        check(&[Bus(7), Begin(5), page(&[6, 7])], &[6, 7], false);
    }

    #[test]
    fn gaps_are_refilled_from_the_store() {
        check(&[Begin(0), Bus(1), Bus(4), page(&[2, 3, 4])], &[1, 2, 3, 4], false);
        check(&[Begin(0), Bus(4), page(&[1]), page(&[2, 3])], &[1, 2, 3, 4], false);
        check(&[Begin(0), Bus(4), page(&[1, 2, 3]), Bus(2), Bus(5)], &[1, 2, 3, 4, 5], false);
        check(&[Begin(0), page(&[]), Bus(1)], &[1], false);
        // Retention took 2 and 3.
        check(&[Begin(1), Bus(5), page(&[4, 5])], &[4, 5], false);
        // It took everything up to 4, and the store says so.
        check(&[Begin(1), Bus(5), Step::Page(&[], 4)], &[5], false);
        check(&[Begin(1), Step::Page(&[2], 4), Bus(3), Bus(5)], &[2, 5], false);
    }

    #[test]
    fn what_waits_is_bounded_and_nothing_is_lost_by_it() {
        let mut order = Order::default();
        order.begin(Sequence(0));
        for sequence in 2..2_000 {
            assert_eq!(order.accept(Sequence(sequence)), Accepted::Waits);
        }
        assert!(order.waiting.len() <= WAITING_MAX);
        let all: Vec<u64> = (1..2_000).collect();
        assert_eq!(order.refill(given(&all, 0)).len(), 1_999);
        assert!(!order.has_gap());
    }
}
