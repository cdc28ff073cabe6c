use std::collections::VecDeque;

use model::Samples;

use crate::AUDIO_SAMPLES_MAX;

/// The audio of a stream that no worker has acknowledged yet.
///
/// Positions: `start <= sent <= end`. Before `start` all is acknowledged, up to `sent` the present call has it.
#[derive(Debug)]
pub(crate) struct Window {
    samples: VecDeque<i16>,
    /// Stretches of `samples` that did not come and are silence: from, to. Nobody is sent them; a worker puts silence
    /// in by itself, and knows that nobody has spoken it.
    silences: VecDeque<(Samples, Samples)>,
    start: Samples,
    sent: Samples,
    /// What the source still has to bring although it is stored already: it is passed over.
    stored_ahead: Samples,
    limit: Samples,
}

impl Window {
    pub(crate) fn new(start: Samples, limit: Samples) -> Self {
        Self {
            samples: VecDeque::new(),
            silences: VecDeque::new(),
            start,
            sent: start,
            stored_ahead: Samples(0),
            limit,
        }
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
        let known = self.stored_ahead.min(Samples::of(samples.len()));
        self.stored_ahead = self.stored_ahead - known;
        self.samples.extend(samples.iter().skip(usize::try_from(known.0).unwrap_or(usize::MAX)));
    }

    /// The source goes on at `position`. What lies between and is not stored is silence, at most a limit of it.
    pub(crate) fn go_on_at(&mut self, position: Samples) {
        let missing = position - (self.end() - self.stored_ahead);
        let known = self.stored_ahead.min(missing);
        self.stored_ahead = self.stored_ahead - known;
        let silence = (missing - known).min(self.limit);
        if silence > Samples(0) {
            self.silences.push_back((self.end(), self.end() + silence));
        }
        self.samples.extend(std::iter::repeat_n(0, usize::try_from(silence.0).unwrap_or(0)));
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
            // The worker knows more of the stream than we do: we are a source that came back.
            self.stored_ahead = self.stored_ahead + (resume_at - self.end());
            self.samples.clear();
            self.silences.clear();
            self.start = resume_at;
        } else {
            self.release(resume_at);
        }
        self.sent = self.start;
    }

    /// Passes over silence that comes next: nobody is sent it.
    pub(crate) fn pass_silence(&mut self) {
        for (from, to) in &self.silences {
            if *from <= self.sent {
                self.sent = self.sent.max(*to);
            }
        }
    }

    /// The next audio that the present call does not have, at most one message of it.
    pub(crate) fn next_unsent(&mut self) -> Option<(Samples, Vec<i16>)> {
        self.pass_silence();
        let next_silence = self.silences.iter().map(|(from, _)| *from).find(|from| *from > self.sent);
        let sound_end = next_silence.unwrap_or(self.end());
        let from = usize::try_from((self.sent - self.start).0).ok()?;
        let count = usize::try_from((sound_end - self.sent).0).ok()?.min(AUDIO_SAMPLES_MAX);
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
        while self.silences.front().is_some_and(|(_, to)| *to <= self.start) {
            self.silences.pop_front();
        }
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
    fn what_is_stored_already_is_passed_over_when_it_comes_again() {
        let mut window = Window::new(Samples(40), Samples(100));
        window.resume(Samples(80));
        window.push(&(40..70).collect::<Vec<_>>());
        assert_eq!((window.end(), window.next_unsent()), (Samples(80), None));
        window.push(&(70..90).collect::<Vec<_>>());
        assert_eq!(window.next_unsent().unwrap(), (Samples(80), (80..90).collect()));
    }

    #[test]
    fn a_source_that_goes_on_later_leaves_silence_where_nothing_is_stored() {
        let mut window = Window::new(Samples(0), Samples(100));
        window.resume(Samples(30));
        window.go_on_at(Samples(20));
        window.push(&[7; 10]);
        assert_eq!(window.next_unsent(), None, "it came until 30, which is stored");
        window.go_on_at(Samples(33));
        window.go_on_at(Samples(31));
        window.push(&[1]);
        assert_eq!(window.next_unsent().unwrap(), (Samples(33), vec![1]), "and the worker puts it in");
        window.go_on_at(Samples(40));
        assert_eq!(window.next_unsent(), None);
        assert_eq!((window.sent(), window.end()), (Samples(40), Samples(40)));
        window.resume(Samples(31));
        assert_eq!(window.next_unsent().unwrap(), (Samples(33), vec![1]), "again in the next call");
        assert!(window.acknowledge(Samples(33)));
        assert_eq!(window.next_unsent(), None);
    }

    #[test]
    fn sound_between_silences_keeps_its_place() {
        let mut window = Window::new(Samples(0), Samples(100));
        window.push(&[1, 2]);
        window.go_on_at(Samples(5));
        window.push(&[3]);
        window.go_on_at(Samples(9));
        window.push(&[4]);
        let sent: Vec<_> = std::iter::from_fn(|| window.next_unsent()).collect();
        assert_eq!(sent, [(Samples(0), vec![1, 2]), (Samples(5), vec![3]), (Samples(9), vec![4])]);
    }

    #[test]
    fn messages_are_bounded() {
        let mut window = Window::new(Samples(0), Samples(1 << 20));
        window.push(&vec![0; AUDIO_SAMPLES_MAX + 5]);
        assert_eq!(window.next_unsent().unwrap().1.len(), AUDIO_SAMPLES_MAX);
        assert_eq!(window.next_unsent().unwrap().1.len(), 5);
    }
}
