//! When the sound of a stream came in, to tell later how long its captions took.

use std::{collections::VecDeque, time::Duration};

use model::Samples;
use tokio::time::Instant;

/// Moments are told apart by so much; a position may seem to have come so much later than it did.
const STEP: Duration = Duration::from_millis(50);

/// Moments that are kept, 24 bytes each: of half a minute of live sound, or more.
const MARKS_MAX: usize = 640;

/// The moments of one stream.
#[derive(Debug)]
pub(crate) struct Arrivals {
    /// Up to where sound had come by when; both rise.
    marks: VecDeque<(Samples, Instant)>,
    /// What lies before came to another edge, or so long ago that nobody knows when.
    floor: Samples,
}

impl Arrivals {
    /// Of a stream whose sound comes here from this position on.
    pub(crate) fn from(first: Samples) -> Self {
        Self { marks: VecDeque::new(), floor: first }
    }

    /// Sound had come up to there by then.
    pub(crate) fn note(&mut self, received: Samples, at: Instant) {
        if self.marks.back().is_some_and(|(last, _)| received <= *last) {
            return;
        }
        let before_last = self.marks.iter().nth_back(1);
        if before_last.is_some_and(|(_, before)| at.saturating_duration_since(*before) < STEP) {
            self.marks.pop_back();
        }
        self.marks.push_back((received, at));
        if self.marks.len() > MARKS_MAX
            && let Some((position, _)) = self.marks.pop_front()
        {
            self.floor = position;
        }
    }

    /// When all sound before this position had come.
    pub(crate) fn came(&self, end: Samples) -> Option<Instant> {
        if end <= self.floor {
            return None;
        }
        let at = self.marks.partition_point(|(position, _)| *position < end);
        self.marks.get(at).map(|(_, came)| *came)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_came_with_the_message_that_held_it() {
        let began = Instant::now();
        let mut arrivals = Arrivals::from(Samples(1_000));
        arrivals.note(Samples(2_600), began);
        arrivals.note(Samples(4_200), began + 2 * STEP);
        // Nothing new, however late.
        arrivals.note(Samples(4_200), began + 9 * STEP);
        assert_eq!(arrivals.came(Samples(1_000)), None, "it came elsewhere");
        assert_eq!(arrivals.came(Samples(2_600)), Some(began));
        assert_eq!(arrivals.came(Samples(2_601)), Some(began + 2 * STEP));
        assert_eq!(arrivals.came(Samples(4_201)), None, "it has not come");
    }

    #[test]
    fn small_messages_are_told_apart_by_a_step_and_memory_has_a_bound() {
        let (began, every) = (Instant::now(), Duration::from_millis(8));
        let mut arrivals = Arrivals::from(Samples(0));
        let last: u64 = 20_000;
        for message in 1..=last {
            let at = began + every * u32::try_from(message).unwrap();
            arrivals.note(Samples(128 * message), at);
        }
        assert!(arrivals.marks.len() <= MARKS_MAX);
        assert_eq!(arrivals.came(Samples(128)), None, "forgotten");
        // Of the last 20 s.
        for message in last - 2_500..=last {
            let came = arrivals.came(Samples(128 * message)).unwrap();
            let late = came - (began + every * u32::try_from(message).unwrap());
            assert!(late < STEP, "{message}: {late:?}");
        }
    }
}
