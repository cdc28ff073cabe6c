//! Puts the finals of one session in order. Pure: what comes in by the bus and from Postgres goes in, what followers
//! may be told comes out.
//!
//! The promise: finals come out by rising sequence, each once, and none is left out between the first and the last.

use std::collections::{BTreeMap, VecDeque};

use model::{Final, Sequence, StreamId, UtteranceId};

/// Finals that wait for an earlier one. Those beyond it are let go: they are in Postgres, where the earlier one will
/// be looked up.
const WAITING_MAX: usize = 256;

/// Streams whose last finished utterance is remembered, to pass over its late partials.
const FINISHED_MAX: usize = 64;

/// What became of a final that came by the bus.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Accepted {
    /// These may be told now.
    Ready(Vec<Final>),
    /// An earlier one is missing: ask Postgres.
    Waits,
    /// It was told before.
    Duplicate,
}

/// Where a session's followers are.
#[derive(Default)]
pub(crate) struct Order {
    /// The last final that was told, or that was stored before anybody followed; `None` until Postgres has said.
    last: Option<Sequence>,
    waiting: BTreeMap<Sequence, Final>,
    finished: VecDeque<(StreamId, u32)>,
}

impl Order {
    /// The position after which to ask Postgres.
    pub(crate) fn last(&self) -> Option<Sequence> {
        self.last
    }

    /// Whether a final is known whose predecessor is not.
    pub(crate) fn has_gap(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Postgres says that `stored` was the last final when it was asked. What came by the bus since then, also while
    /// the answer was on its way, is news to the followers.
    pub(crate) fn begin(&mut self, stored: Sequence) -> Vec<Final> {
        let before_waiting = self.waiting.keys().next().map(|first| Sequence(first.0.saturating_sub(1)));
        self.last = Some(before_waiting.map_or(stored, |before| before.min(stored)));
        self.ready()
    }

    /// A final came by the bus.
    pub(crate) fn accept(&mut self, segment: Final) -> Accepted {
        if self.last.is_some_and(|last| segment.sequence <= last)
            || self.waiting.contains_key(&segment.sequence)
        {
            return Accepted::Duplicate;
        }
        self.waiting.insert(segment.sequence, segment);
        if self.waiting.len() > WAITING_MAX {
            self.waiting.pop_last();
        }
        let ready = self.ready();
        if ready.is_empty() { Accepted::Waits } else { Accepted::Ready(ready) }
    }

    /// Postgres gave the finals after [`Order::last`], in order. It leaves none out, so a hole in its numbers is one
    /// that nothing will fill.
    pub(crate) fn refill(&mut self, page: Vec<Final>) -> Vec<Final> {
        let mut told = Vec::with_capacity(page.len());
        for segment in page {
            if self.last.is_none_or(|last| segment.sequence > last) {
                self.tell(segment, &mut told);
            }
        }
        if let Some(last) = self.last {
            self.waiting = self.waiting.split_off(&last.next());
        }
        told.extend(self.ready());
        told
    }

    /// Whether text of this open utterance is still news.
    pub(crate) fn is_open(&self, utterance: UtteranceId) -> bool {
        let finished = self.finished.iter().find(|(stream, _)| *stream == utterance.stream);
        finished.is_none_or(|(_, number)| utterance.number > *number)
    }

    fn ready(&mut self) -> Vec<Final> {
        let mut told = Vec::new();
        while let Some(last) = self.last
            && let Some(next) = self.waiting.remove(&last.next())
        {
            self.tell(next, &mut told);
        }
        told
    }

    fn tell(&mut self, segment: Final, told: &mut Vec<Final>) {
        self.last = Some(segment.sequence);
        let UtteranceId { stream, number } = segment.utterance;
        match self.finished.iter_mut().find(|(known, _)| *known == stream) {
            Some((_, highest)) => *highest = number.max(*highest),
            None => {
                if self.finished.len() >= FINISHED_MAX {
                    self.finished.pop_front();
                }
                self.finished.push_back((stream, number));
            }
        }
        told.push(segment);
    }
}

#[cfg(test)]
mod tests {
    use model::{Samples, Speaker, Timestamp};
    use uuid::Uuid;

    use super::*;

    fn utterance(number: u32) -> UtteranceId {
        UtteranceId { stream: StreamId(Uuid::from_u128(1)), number }
    }

    fn segment(sequence: u64) -> Final {
        Final {
            session: "room".parse().unwrap(),
            sequence: Sequence(sequence),
            utterance: utterance(u32::try_from(sequence).unwrap()),
            revision: 0,
            speaker: Speaker { identity: "alice".parse().unwrap(), name: None },
            text: "so".into(),
            language: None,
            start: Samples(0),
            end: Samples(1),
            words: Vec::new(),
            at: Timestamp(0),
        }
    }

    enum Step {
        /// Postgres says what the last stored final is.
        Begin(u64),
        /// A final comes by the bus.
        Bus(u64),
        /// Postgres gives a page.
        Page(&'static [u64]),
    }
    use Step::{Begin, Bus, Page};

    fn check(steps: &[Step], told: &[u64], has_gap: bool) {
        let mut order = Order::default();
        let mut out = Vec::new();
        for step in steps {
            match step {
                Begin(stored) => out.extend(order.begin(Sequence(*stored))),
                Bus(sequence) => {
                    if let Accepted::Ready(ready) = order.accept(segment(*sequence)) {
                        out.extend(ready);
                    }
                }
                Page(page) => {
                    out.extend(order.refill(page.iter().map(|sequence| segment(*sequence)).collect()))
                }
            }
        }
        let out: Vec<u64> = out.iter().map(|segment| segment.sequence.0).collect();
        assert_eq!((out.as_slice(), order.has_gap()), (told, has_gap));
    }

    #[test]
    fn finals_are_told_in_order_and_once() {
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
        check(&[Bus(7), Begin(5), Page(&[6, 7])], &[6, 7], false);
    }

    #[test]
    fn gaps_are_refilled_from_postgres() {
        check(&[Begin(0), Bus(1), Bus(4), Page(&[2, 3, 4])], &[1, 2, 3, 4], false);
        check(&[Begin(0), Bus(4), Page(&[1]), Page(&[2, 3])], &[1, 2, 3, 4], false);
        check(&[Begin(0), Bus(4), Page(&[1, 2, 3]), Bus(2), Bus(5)], &[1, 2, 3, 4, 5], false);
        check(&[Begin(0), Page(&[]), Bus(1)], &[1], false);
        // Retention took 2 and 3.
        check(&[Begin(1), Bus(5), Page(&[4, 5])], &[4, 5], false);
    }

    #[test]
    fn what_waits_is_bounded_and_nothing_is_lost_by_it() {
        let mut order = Order::default();
        order.begin(Sequence(0));
        for sequence in 2..2_000 {
            assert_eq!(order.accept(segment(sequence)), Accepted::Waits);
        }
        assert!(order.waiting.len() <= WAITING_MAX);
        let told = order.refill((1..2_000).map(segment).collect());
        assert_eq!(told.len(), 1_999);
        assert!(!order.has_gap());
    }

    #[test]
    fn partials_of_finished_utterances_are_old() {
        let mut order = Order::default();
        assert!(order.is_open(utterance(1)));
        order.begin(Sequence(0));
        order.accept(segment(1));
        assert!(!order.is_open(utterance(1)) && order.is_open(utterance(2)));
        order.accept(segment(3));
        assert!(order.is_open(utterance(3)), "its final waits");
    }
}
