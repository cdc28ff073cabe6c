use std::collections::VecDeque;

use model::Samples;

use crate::AUDIO_SAMPLES_MAX;

/// The audio of a stream that no worker has acknowledged yet.
///
/// Positions: `start <= sent <= end`. Before `start` all is acknowledged, up to `sent` the present call has it.
#[derive(Debug)]
pub(crate) struct Window {
    samples: VecDeque<i16>,
    start: Samples,
    sent: Samples,
    limit: Samples,
}

impl Window {
    pub(crate) fn new(start: Samples, limit: Samples) -> Self {
        Self { samples: VecDeque::new(), start, sent: start, limit }
    }

    pub(crate) fn start(&self) -> Samples {
        self.start
    }

    pub(crate) fn end(&self) -> Samples {
        self.start + Samples::of(self.samples.len())
    }

    pub(crate) fn sent(&self) -> Samples {
        self.sent
    }

    /// Whether there is no room for another message of the longest kind.
    pub(crate) fn is_full(&self) -> bool {
        Samples::of(self.samples.len()) >= self.limit
    }

    pub(crate) fn push(&mut self, samples: &[i16]) {
        self.samples.extend(samples);
    }

    /// Makes room for a source that cannot wait: gives up the oldest audio beyond the limit and says which.
    pub(crate) fn give_up_oldest(&mut self) -> Option<(Samples, Samples)> {
        let excess = Samples::of(self.samples.len()) - self.limit;
        (excess > Samples(0)).then(|| {
            let from = self.start;
            self.release(from + excess);
            (from, self.start)
        })
    }

    /// Everything before `position` needs no keeping. An acknowledgement from the past or of what was never sent
    /// in this call changes nothing.
    pub(crate) fn acknowledge(&mut self, position: Samples) -> bool {
        let news = position > self.start && position <= self.sent;
        if news {
            self.release(position);
        }
        news
    }

    /// A new call begins: everything from `resume_at` is to be sent again, nothing before it.
    pub(crate) fn resume(&mut self, resume_at: Samples) {
        if resume_at > self.end() {
            // The worker knows more of the stream than we do (we are a source that came back): continue there.
            self.samples.clear();
            self.start = resume_at;
        } else {
            self.release(resume_at);
        }
        self.sent = self.start;
    }

    /// The next audio that the present call does not have, at most one message of it.
    pub(crate) fn next_unsent(&mut self) -> Option<(Samples, Vec<i16>)> {
        let from = usize::try_from((self.sent - self.start).0).ok()?;
        let count = self.samples.len().saturating_sub(from).min(AUDIO_SAMPLES_MAX);
        if count == 0 {
            return None;
        }
        let start = self.sent;
        let samples = self.samples.range(from..from + count).copied().collect();
        self.sent = start + Samples::of(count);
        Some((start, samples))
    }

    fn release(&mut self, position: Samples) {
        let count = usize::try_from((position - self.start).0).unwrap_or(usize::MAX).min(self.samples.len());
        drop(self.samples.drain(..count));
        self.start = self.start + Samples::of(count);
        self.sent = self.sent.max(self.start);
        // After a stall the ring is large; give that memory back once little is left.
        if self.samples.capacity() > 4 * self.samples.len().max(AUDIO_SAMPLES_MAX) {
            self.samples.shrink_to(AUDIO_SAMPLES_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(limit: u64, count: i16) -> Window {
        let mut window = Window::new(Samples(0), Samples(limit));
        window.push(&(0..count).collect::<Vec<_>>());
        window
    }

    #[test]
    fn what_is_not_acknowledged_is_sent_again() {
        let mut window = window(100, 50);
        assert_eq!(window.next_unsent().unwrap().1.len(), 50);
        assert_eq!(window.next_unsent(), None);
        assert!(window.acknowledge(Samples(20)));
        window.resume(Samples(20));
        let (start, samples) = window.next_unsent().unwrap();
        assert_eq!((start, samples.first(), samples.len()), (Samples(20), Some(&20), 30));
    }

    #[test]
    fn acknowledgements_neither_go_back_nor_run_ahead() {
        let mut window = window(100, 50);
        assert!(!window.acknowledge(Samples(10)), "nothing was sent yet");
        window.next_unsent();
        assert!(window.acknowledge(Samples(30)));
        assert!(!window.acknowledge(Samples(10)));
        assert!(!window.acknowledge(Samples(51)));
        assert_eq!((window.start(), window.end()), (Samples(30), Samples(50)));
    }

    #[test]
    fn a_source_that_cannot_wait_loses_its_oldest() {
        let mut window = window(40, 50);
        assert!(window.is_full());
        assert_eq!(window.give_up_oldest(), Some((Samples(0), Samples(10))));
        assert_eq!(window.give_up_oldest(), None);
        assert_eq!(window.next_unsent().unwrap().0, Samples(10));
    }

    #[test]
    fn a_worker_that_stored_more_moves_the_window_on() {
        let mut window = window(100, 50);
        window.resume(Samples(80));
        assert_eq!((window.start(), window.end(), window.next_unsent()), (Samples(80), Samples(80), None));
    }

    #[test]
    fn messages_are_bounded() {
        let mut window = Window::new(Samples(0), Samples(1 << 20));
        window.push(&vec![0; AUDIO_SAMPLES_MAX + 5]);
        assert_eq!(window.next_unsent().unwrap().1.len(), AUDIO_SAMPLES_MAX);
        assert_eq!(window.next_unsent().unwrap().1.len(), 5);
    }
}
