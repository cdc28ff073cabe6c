//! The sound of a session, and where in the stream it lies: kept until Gladia has it and its words are here.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use model::{SAMPLE_RATE_HZ, Samples};

const SAMPLE_BYTES: u64 = 2;

/// Acknowledgements within this time are one mark.
const MARK_INTERVAL: Duration = Duration::from_millis(500);

/// Moments of sending that are remembered, to know how long transcripts take.
const SENDINGS_MAX: usize = 1_024;

/// Times that Gladia heard sound twice that are remembered: the newest.
const REPEATS_MAX: usize = 64;

/// Three clocks meet here. *Position* is the stream's. *Count* is of the samples that we gave to the tape, without
/// the stream's gaps. Gladia's *clock* is the count and whatever Gladia heard twice.
pub(crate) struct Tape {
    /// From `first` on.
    sound: VecDeque<i16>,
    /// Count of the first sample that is kept.
    first: u64,
    /// Bytes, from the session's start, that Gladia has.
    acknowledged: u64,
    /// Bytes that are sent on this connection, or need no sending.
    sent: u64,
    /// Whether anything was acknowledged on this connection.
    fresh: bool,
    /// Count up to which nobody needs the sound, unless Gladia does.
    settled: u64,
    /// Count of what is [old](Tape::old).
    old: u64,
    /// Where the sound lies: count and position, both rising. Never empty.
    pieces: VecDeque<(u64, Samples)>,
    repeats: VecDeque<Repeat>,
    /// Counts that were acknowledged, and when.
    marks: VecDeque<(u64, Instant)>,
    /// Counts that were sent, and when.
    sendings: VecDeque<(u64, Instant)>,
    /// No more sound comes.
    ended: bool,
    owed_since: Option<Instant>,
    /// Since when there is a connection.
    connected: Option<Instant>,
}

/// Gladia heard a stretch of sound once more, as its acknowledgement was lost with the connection.
#[derive(Clone, Copy)]
struct Repeat {
    /// Where it begins, and where what is new begins, on Gladia's clock.
    again: (u64, u64),
    /// Count at which it begins.
    count: u64,
}

impl Tape {
    pub(crate) fn starting(position: Samples) -> Self {
        Self {
            sound: VecDeque::new(),
            first: 0,
            acknowledged: 0,
            sent: 0,
            fresh: true,
            settled: 0,
            old: 0,
            pieces: VecDeque::from([(0, position)]),
            repeats: VecDeque::new(),
            marks: VecDeque::new(),
            sendings: VecDeque::new(),
            ended: false,
            owed_since: None,
            connected: None,
        }
    }

    /// The samples that follow those before.
    pub(crate) fn push(&mut self, pcm: &[i16]) {
        if !self.ended {
            self.sound.extend(pcm);
        }
    }

    /// Goes on at a later position.
    pub(crate) fn skip_to(&mut self, position: Samples) {
        let count = self.count();
        if position <= self.heard() {
            return;
        }
        if self.pieces.back().is_some_and(|(begin, _)| *begin == count) {
            self.pieces.pop_back();
        }
        self.pieces.push_back((count, position));
    }

    pub(crate) fn end(&mut self) {
        self.ended = true;
    }

    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    /// Position after the last sample.
    pub(crate) fn heard(&self) -> Samples {
        self.place(self.count(), true)
    }

    fn count(&self) -> u64 {
        self.first + self.sound.len() as u64
    }

    /// A new connection: what is not acknowledged is to be sent again.
    pub(crate) fn connected(&mut self, now: Instant) {
        self.sent = self.acknowledged;
        self.fresh = true;
        self.connected = Some(now);
        self.owed_since = None;
        self.sendings.clear();
    }

    pub(crate) fn disconnected(&mut self) {
        self.connected = None;
    }

    pub(crate) fn connection(&self) -> Option<Instant> {
        self.connected
    }

    /// The next bytes to send, at most `bytes_max`, which count as sent from now on.
    pub(crate) fn take_unsent(&mut self, bytes_max: usize, now: Instant) -> Option<Vec<u8>> {
        let offset = usize::try_from(self.sent.saturating_sub(self.first * SAMPLE_BYTES)).ok()?;
        let (skip, odd) = (offset / 2, offset % 2);
        let samples = self.sound.len().saturating_sub(skip).min(bytes_max / 2);
        if samples == 0 {
            return None;
        }
        let sound = self.sound.iter().skip(skip).take(samples);
        let bytes: Vec<u8> = sound.flat_map(|sample| sample.to_le_bytes()).skip(odd).collect();
        self.sent += bytes.len() as u64;
        self.owed_since.get_or_insert(now);
        if self.sendings.len() == SENDINGS_MAX {
            self.sendings.pop_front();
        }
        self.sendings.push_back((self.sent / SAMPLE_BYTES, now));
        Some(bytes)
    }

    /// Since when Gladia has owed an acknowledgement without giving any.
    pub(crate) fn owed_since(&self) -> Option<Instant> {
        self.owed_since
    }

    pub(crate) fn all_acknowledged(&self) -> bool {
        self.acknowledged == self.count() * SAMPLE_BYTES
    }

    /// Gladia has the bytes `from..to` of the session, as it counts them. What goes backward or beyond what was sent is
    /// cut to what can be.
    pub(crate) fn acknowledge(&mut self, from: u64, to: u64, now: Instant) {
        let doubled = self.doubled() * SAMPLE_BYTES;
        let expected = self.acknowledged + doubled;
        if std::mem::replace(&mut self.fresh, false) && from > expected {
            // The first since we connected: it counts bytes that we have sent twice.
            let again = (from - expected) / SAMPLE_BYTES;
            let unacknowledged = self.count() - self.acknowledged / SAMPLE_BYTES;
            if again > 0 && again <= unacknowledged {
                let clock = expected / SAMPLE_BYTES;
                self.repeats.push_back(Repeat {
                    again: (clock + again, clock + again + again),
                    count: self.acknowledged / SAMPLE_BYTES,
                });
                if self.repeats.len() > REPEATS_MAX {
                    self.repeats.pop_front();
                }
            }
        }
        let to = to.saturating_sub(self.doubled() * SAMPLE_BYTES).min(self.sent);
        if to <= self.acknowledged {
            return;
        }
        self.acknowledged = to;
        self.owed_since = (self.sent > to).then_some(now);
        let count = to / SAMPLE_BYTES;
        match self.marks.back_mut() {
            // So little early is nothing beside the time that marks wait.
            Some((last, at)) if now.saturating_duration_since(*at) < MARK_INTERVAL => *last = count,
            _ => self.marks.push_back((count, now)),
        }
        self.forget();
    }

    /// How much longer Gladia's clock is than the count, in samples.
    fn doubled(&self) -> u64 {
        self.repeats.back().map_or(0, |repeat| repeat.again.0.saturating_sub(repeat.count))
    }

    /// Position up to which Gladia has had all sound for at least `lag`.
    pub(crate) fn old(&mut self, now: Instant, lag: Duration) -> Samples {
        while let Some((count, _)) =
            self.marks.pop_front_if(|(_, at)| now.saturating_duration_since(*at) >= lag)
        {
            self.old = count;
        }
        self.place(self.old, false)
    }

    /// Where something begins that Gladia says begins at `seconds` of the session. Never beyond what was heard.
    pub(crate) fn begin(&self, seconds: f64) -> Samples {
        self.place(self.counted(clock(seconds), true), true)
    }

    /// Where something ends that Gladia says ends at `seconds`. At the edge of a gap that is before it.
    pub(crate) fn end_at(&self, seconds: f64) -> Samples {
        self.place(self.counted(clock(seconds), false), false)
    }

    /// Whether Gladia heard all between these seconds once before.
    pub(crate) fn repeated(&self, start: f64, end: f64) -> bool {
        let (start, end) = (clock(start), clock(end));
        self.repeats.iter().any(|repeat| start >= repeat.again.0 && end <= repeat.again.1)
    }

    /// When the sound before `seconds` of the session was sent, if that was not long ago.
    pub(crate) fn sent_at(&self, seconds: f64) -> Option<Instant> {
        let count = self.counted(clock(seconds), false);
        let index = self.sendings.partition_point(|(sent, _)| *sent < count);
        // What was sent before the oldest that is remembered may have been sent long before.
        if index == 0 && self.sendings.len() == SENDINGS_MAX {
            return None;
        }
        self.sendings.get(index).map(|(_, at)| *at)
    }

    /// The sound before `position` is not needed any more, unless Gladia has not got it yet.
    pub(crate) fn settle(&mut self, position: Samples) {
        let piece = self.pieces.iter().enumerate().rev().find(|(_, (_, begin))| *begin <= position);
        let Some((index, (count, begin))) = piece else { return };
        let next = self.pieces.get(index + 1).map_or(self.count(), |(count, _)| *count);
        let settled = count.saturating_add((position - *begin).0).min(next);
        self.settled = self.settled.max(settled);
        self.forget();
    }

    /// The sound from `position` on, in stretches and where each begins, without what lies in `done` (in order).
    pub(crate) fn rest(&self, position: Samples, done: &[(Samples, Samples)]) -> Vec<(Samples, Vec<i16>)> {
        let mut rest = Vec::new();
        for (index, (count, begin)) in self.pieces.iter().enumerate() {
            let next = self.pieces.get(index + 1).map_or(self.count(), |(count, _)| *count);
            let end = *begin + Samples(next.saturating_sub(*count));
            let kept = *begin + Samples(self.first.saturating_sub(*count));
            let mut from = position.max(kept).min(end);
            for (done_start, done_end) in done.iter().chain([&(end, end)]) {
                let to = (*done_start).min(end);
                if to > from {
                    let skip = count.saturating_add((from - *begin).0).saturating_sub(self.first);
                    let length = usize::try_from((to - from).0).unwrap_or(usize::MAX);
                    let skip = usize::try_from(skip).unwrap_or(usize::MAX);
                    rest.push((from, self.sound.iter().skip(skip).take(length).copied().collect()));
                }
                from = from.max((*done_end).min(end));
            }
        }
        rest
    }

    /// The count that Gladia's clock shows so.
    fn counted(&self, clock: u64, begins: bool) -> u64 {
        let before = |repeat: &&Repeat| repeat.again.0 < clock || (begins && repeat.again.0 == clock);
        let count = match self.repeats.iter().rev().find(before) {
            Some(repeat) => repeat.count.saturating_add(clock - repeat.again.0),
            None => clock,
        };
        count.min(self.count())
    }

    fn place(&self, count: u64, begins: bool) -> Samples {
        let before = |(begin, _): &&(u64, Samples)| *begin < count || (begins && *begin == count);
        let piece = self.pieces.iter().rev().find(before).or(self.pieces.front());
        piece.map_or(Samples(0), |(begin, position)| {
            Samples(position.0.saturating_add(count).saturating_sub(*begin))
        })
    }

    fn forget(&mut self) {
        let keep = self.settled.min(self.acknowledged / SAMPLE_BYTES).max(self.first);
        let gone = usize::try_from(keep - self.first).unwrap_or(usize::MAX).min(self.sound.len());
        self.sound.drain(..gone);
        self.first = keep;
        // The end of what lies before a gap is still asked for when its sound is gone.
        while self.pieces.get(1).is_some_and(|(begin, _)| *begin < keep) {
            self.pieces.pop_front();
        }
    }
}

/// Seconds of the session in samples. What is not a time is the beginning.
fn clock(seconds: f64) -> u64 {
    (seconds * f64::from(SAMPLE_RATE_HZ)).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound(from: i16, count: usize) -> Vec<i16> {
        (from..).take(count).collect()
    }

    fn bytes(samples: &[i16]) -> Vec<u8> {
        samples.iter().flat_map(|sample| sample.to_le_bytes()).collect()
    }

    /// A tape that starts at 100 s, connected, with three seconds heard and sent.
    fn sent() -> (Tape, Instant) {
        let (mut tape, now) = (Tape::starting(Samples(1_600_000)), Instant::now());
        tape.push(&vec![1; 48_000]);
        tape.connected(now);
        while tape.take_unsent(50_000, now).is_some() {}
        (tape, now)
    }

    #[test]
    fn what_is_not_acknowledged_is_sent_again_even_from_within_a_sample() {
        let (mut tape, now) = (Tape::starting(Samples(0)), Instant::now());
        tape.push(&sound(0, 100));
        tape.connected(now);
        let all = bytes(&sound(0, 100));
        assert_eq!(tape.take_unsent(60, now).unwrap(), all[..60]);
        assert_eq!(tape.take_unsent(1_000, now).unwrap(), all[60..]);
        assert_eq!(tape.take_unsent(1_000, now), None);
        assert!(tape.owed_since().is_some() && !tape.all_acknowledged());
        tape.acknowledge(0, 51, now);
        tape.connected(now);
        assert_eq!(tape.take_unsent(1_000, now).unwrap(), all[51..]);
        tape.push(&sound(100, 2));
        assert_eq!(tape.take_unsent(1_000, now).unwrap(), bytes(&sound(100, 2)));
        tape.acknowledge(51, 204, now);
        assert!(tape.owed_since().is_none() && tape.all_acknowledged());
    }

    #[test]
    fn senseless_acknowledgements_change_nothing() {
        let (mut tape, now) = sent();
        tape.acknowledge(0, 10_000, now);
        tape.acknowledge(0, 400, now);
        tape.acknowledge(10_000, 10_000, now);
        tape.acknowledge(u64::MAX, 0, now);
        assert_eq!(tape.acknowledged, 10_000, "never backward");
        tape.acknowledge(10_000, u64::MAX, now);
        assert_eq!(tape.acknowledged, 96_000, "never beyond what was sent");
        tape.connected(now);
        tape.acknowledge(u64::MAX, u64::MAX, now);
        assert!(tape.repeats.is_empty(), "so much was never sent");
    }

    #[test]
    fn sound_is_kept_until_both_have_it() {
        let (mut tape, now) = sent();
        tape.settle(Samples(1_616_000));
        assert_eq!(tape.sound.len(), 48_000, "Gladia may have to hear it again");
        tape.acknowledge(0, 64_000, now);
        assert_eq!((tape.first, tape.sound.len()), (16_000, 32_000));
        tape.settle(Samples(9_999_999));
        assert_eq!((tape.first, tape.sound.len()), (32_000, 16_000));
        assert_eq!(tape.heard(), Samples(1_648_000));
    }

    #[test]
    fn a_gap_is_not_on_gladias_clock() {
        let (mut tape, now) = (Tape::starting(Samples(16_000)), Instant::now());
        tape.skip_to(Samples(32_000));
        tape.push(&[1; 16_000]);
        tape.skip_to(Samples(16_000));
        tape.skip_to(Samples(3_200_000));
        assert_eq!(tape.heard(), Samples(3_200_000));
        tape.skip_to(Samples(1_600_000_000));
        tape.push(&[2; 8_000]);
        assert_eq!(tape.pieces.len(), 2);
        assert_eq!(tape.heard(), Samples(1_600_008_000));
        assert_eq!((tape.begin(0.5), tape.end_at(0.5)), (Samples(40_000), Samples(40_000)));
        assert_eq!((tape.begin(1.0), tape.end_at(1.0)), (Samples(1_600_000_000), Samples(48_000)));
        assert_eq!(tape.end_at(1.25), Samples(1_600_004_000));
        assert_eq!(tape.end_at(1e300), Samples(1_600_008_000));
        tape.settle(Samples(100_000));
        tape.connected(now);
        while tape.take_unsent(1 << 20, now).is_some() {}
        tape.acknowledge(0, 48_000, now);
        assert_eq!((tape.first, tape.end_at(1.0)), (16_000, Samples(48_000)));
        let rest = tape.rest(Samples(0), &[]);
        assert_eq!(rest, [(Samples(1_600_000_000), vec![2; 8_000])]);
    }

    #[test]
    fn the_rest_leaves_out_what_is_done() {
        let mut tape = Tape::starting(Samples(0));
        tape.push(&sound(0, 100));
        tape.skip_to(Samples(1_000));
        tape.push(&sound(100, 100));
        let done =
            [(Samples(5), Samples(10)), (Samples(90), Samples(1_010)), (Samples(1_050), Samples(1_200))];
        let expected =
            [(Samples(2), sound(2, 3)), (Samples(10), sound(10, 80)), (Samples(1_010), sound(110, 40))];
        assert_eq!(tape.rest(Samples(2), &done), expected);
    }

    #[test]
    fn what_gladia_heard_twice_lies_where_it_lay() {
        let (mut tape, now) = sent();
        tape.acknowledge(0, 32_000, now);
        tape.connected(now);
        while tape.take_unsent(1 << 20, now).is_some() {}
        // It had another half second, whose acknowledgement was lost.
        tape.acknowledge(48_000, 64_000, now);
        assert_eq!(tape.acknowledged, 48_000);
        let at = |seconds: f64| Samples(1_600_000 + (seconds * 16_000.0) as u64);
        assert_eq!((tape.begin(0.5), tape.end_at(1.5)), (at(0.5), at(1.5)));
        assert_eq!((tape.begin(1.5), tape.end_at(2.0), tape.end_at(2.5)), (at(1.0), at(1.5), at(2.0)));
        assert!(tape.repeated(1.5, 2.0) && !tape.repeated(1.4, 1.9) && !tape.repeated(1.6, 2.1));
        tape.acknowledge(64_000, 112_000, now);
        assert!(tape.owed_since().is_none() && tape.all_acknowledged());
    }

    #[test]
    fn sound_grows_old_and_transcripts_have_an_age() {
        let (mut tape, now) = sent();
        let lag = Duration::from_secs(10);
        let later = |seconds: u64| now + Duration::from_secs(seconds);
        tape.acknowledge(0, 32_000, now);
        tape.acknowledge(32_000, 64_000, later(5));
        assert_eq!(tape.old(later(9), lag), Samples(1_600_000));
        assert_eq!(tape.old(later(10), lag), Samples(1_616_000));
        assert_eq!(tape.old(later(15), lag), Samples(1_632_000));
        assert_eq!(tape.old(now, lag), Samples(1_632_000));
        assert_eq!(tape.sent_at(2.0), Some(now));
        assert_eq!(tape.sent_at(3.0), Some(now));
    }
}
