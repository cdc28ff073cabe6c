/// How far a timestamp may step back and still be a packet that came late, in milliseconds. Senders that interleave
/// several sources step back by a frame or two; a restarted encoder steps back by all it had counted.
pub const BACKWARD_MS_MAX: u32 = 1_000;

/// How much further than the time that really passed a timestamp may step forward, in milliseconds. Files that are
/// pushed faster than real time step by one packet at a time; only another clock steps further than this at once.
pub const FORWARD_MS_MAX: u32 = 10_000;

/// Packets that may come late one after another. More of them are a sender that has stepped back and goes on from there.
pub const LATE_PACKETS_MAX: u32 = 10;

/// The longest step between two packets that is taken for the length of a packet, in milliseconds.
const PACKET_MS_MAX: u32 = 250;

/// Where a packet lies, and what its timestamp did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds since the start of the timeline; never less than the moment before.
    pub at_ms: u64,
    /// How the timestamp related to the one before.
    pub step: Step,
}

/// How a timestamp related to the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Forward by a believable amount, or the first of all.
    Forward {
        /// Milliseconds; more than the packet before lasted means a gap in the sound.
        by_ms: u32,
    },
    /// Back by at most [`BACKWARD_MS_MAX`]: the packet came late, and the timeline waits where it is.
    Late {
        /// Milliseconds.
        by_ms: u32,
    },
    /// The sender counts from somewhere else now; the timeline goes on without a jump.
    Rebased {
        /// What the timestamp jumped by, in milliseconds; negative is backward.
        by_ms: i64,
    },
}

/// Turns the 32-bit timestamps of RTMP into milliseconds that never run backward and never jump.
///
/// Timestamps wrap at 2^32 ms (49.7 days) and are compared by serial number arithmetic (RTMP 1.0 section 5.3, RFC
/// 1982). A step forward is believed when it is not longer than the time that really passed and
/// [`FORWARD_MS_MAX`]; a step back of at most [`BACKWARD_MS_MAX`] is a late packet, of which [`LATE_PACKETS_MAX`] may follow
/// each other; everything else is a *re-base*: the next position follows the last by one packet, and by one for each that
/// was thought late, and later steps count from the new timestamp. An encoder that
/// wraps at 2^24 ms (4 h 40 min) because it knows no extended timestamps is re-based there and is not heard to jump.
#[derive(Debug, Clone)]
pub struct Timeline {
    at_ms: u64,
    last: Option<u32>,
    /// The step that was last taken for the length of a packet.
    packet_ms: u32,
    /// Packets that came late since one that did not.
    late: u32,
}

impl Timeline {
    /// A timeline whose first timestamp, whatever it is, lies at `at_ms`: 0, or where a publisher that returns goes on.
    pub const fn starting_at(at_ms: u64) -> Self {
        Self { at_ms, last: None, packet_ms: 0, late: 0 }
    }

    /// Milliseconds since the start, of the last packet.
    pub const fn at_ms(&self) -> u64 {
        self.at_ms
    }

    /// Takes the next timestamp of a packet of sound; configurations often carry 0 wherever the sound is. `elapsed_ms` is the
    /// real time since the last one, by the caller's clock.
    pub fn advance(&mut self, timestamp: u32, elapsed_ms: u64) -> Moment {
        let step = match self.last {
            None => Step::Forward { by_ms: 0 },
            Some(last) => {
                // Serial numbers: the difference modulo 2^32, read as signed, is what the sender meant.
                let difference = i64::from(timestamp.wrapping_sub(last).cast_signed());
                let believable = u64::from(FORWARD_MS_MAX).saturating_add(elapsed_ms);
                match u32::try_from(difference) {
                    Ok(by_ms) if u64::from(by_ms) <= believable => Step::Forward { by_ms },
                    Err(_) if difference >= -i64::from(BACKWARD_MS_MAX) && self.late < LATE_PACKETS_MAX => {
                        Step::Late { by_ms: difference.unsigned_abs().try_into().unwrap_or(BACKWARD_MS_MAX) }
                    }
                    _ => Step::Rebased { by_ms: difference },
                }
            }
        };
        match step {
            Step::Forward { by_ms } => {
                self.at_ms = self.at_ms.saturating_add(u64::from(by_ms));
                if (1..=PACKET_MS_MAX).contains(&by_ms) {
                    self.packet_ms = by_ms;
                }
                (self.last, self.late) = (Some(timestamp), 0);
            }
            Step::Late { .. } => self.late += 1,
            Step::Rebased { .. } => {
                let by_ms = u64::from(self.packet_ms) * u64::from(self.late + 1);
                self.at_ms = self.at_ms.saturating_add(by_ms);
                (self.last, self.late) = (Some(timestamp), 0);
            }
        }
        Moment { at_ms: self.at_ms, step }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Half of every 21 or 22 ms, as encoders round 1024 samples at 48 kHz.
    fn packet_times() -> impl Iterator<Item = u64> {
        (0_u64..).map(|packet| packet * 1024 * 1000 / 48_000)
    }

    /// Feeds timestamps made from true times and expects the timeline to keep to the true times.
    fn keeps_time(first: u32, bits: u32, true_ms_max: u64, stretch: u64) -> usize {
        let mask = u32::try_from((1_u64 << bits) - 1).unwrap();
        let (mut timeline, mut rebased) = (Timeline::starting_at(0), 0);
        let mut before = 0;
        for time in packet_times().map(|time| time * stretch).take_while(|time| *time <= true_ms_max) {
            let timestamp = (u64::from(first) + time) as u32 & mask;
            let moment = timeline.advance(timestamp, time - before);
            match moment.step {
                Step::Rebased { .. } => rebased += 1,
                step => assert!(matches!(step, Step::Forward { .. }), "{step:?} at {time}"),
            }
            assert!(moment.at_ms.abs_diff(time) <= 1, "{} at {time}", moment.at_ms);
            before = time;
        }
        rebased
    }

    #[test]
    fn four_hours_forty_of_packets_pass_without_a_jump() {
        // 2^24 ms is 4 h 39 min 37 s; each packet of five hours.
        assert_eq!(keeps_time(0, 32, 5 * 3_600_000, 1), 0);
    }

    #[test]
    fn an_encoder_that_wraps_at_24_bits_is_rebased_and_not_heard_to_jump() {
        assert_eq!(keeps_time(0, 24, 5 * 3_600_000, 1), 1);
    }

    #[test]
    fn the_wrap_at_32_bits_passes_without_a_jump() {
        // Each packet of an hour around 49.7 days, and a packet every 2 s of all the 60 days.
        assert_eq!(keeps_time(u32::MAX - 1_800_000, 32, 3_600_000, 1), 0);
        assert_eq!(keeps_time(7, 32, 60 * 86_400_000, 94), 0);
    }

    #[test]
    fn steps_follow_the_policy() {
        use Step::{Forward, Late, Rebased};
        // (timestamp, real time since the last, position, step)
        let cases: &[(u32, u64, u64, Step)] = &[
            (5_000, 0, 100, Forward { by_ms: 0 }),
            (5_021, 21, 121, Forward { by_ms: 21 }),
            (5_021, 0, 121, Forward { by_ms: 0 }),
            (5_000, 0, 121, Late { by_ms: 21 }),
            (5_043, 21, 143, Forward { by_ms: 22 }),
            (4_043, 0, 143, Late { by_ms: 1_000 }),
            // One packet of 22 ms, and one that was thought late.
            (4_042, 0, 187, Rebased { by_ms: -1_001 }),
            (4_064, 21, 209, Forward { by_ms: 22 }),
            (14_064, 0, 10_209, Forward { by_ms: 10_000 }),
            (24_065, 0, 10_231, Rebased { by_ms: 10_001 }),
            // A long pause that really was one.
            (624_065, 600_000, 610_231, Forward { by_ms: 600_000 }),
            (0x8000_0000, 21, 610_253, Rebased { by_ms: 2_146_859_583 }),
            (0, 21, 610_275, Rebased { by_ms: -2_147_483_648 }),
        ];
        let mut timeline = Timeline::starting_at(100);
        for &(timestamp, elapsed_ms, at_ms, step) in cases {
            assert_eq!(timeline.advance(timestamp, elapsed_ms), Moment { at_ms, step }, "{timestamp}");
            assert_eq!(timeline.at_ms(), at_ms);
        }
    }

    #[test]
    fn a_sender_that_steps_back_a_little_and_stays_there_is_rebased() {
        let mut timeline = Timeline::starting_at(0);
        for timestamp in (10_000..=11_000).step_by(20) {
            timeline.advance(timestamp, 20);
        }
        let mut at_ms = 1_000;
        for (packet, timestamp) in (1..=30).zip((10_500_u32..).step_by(20)) {
            let moment = timeline.advance(timestamp, 20);
            assert!(moment.at_ms >= at_ms);
            at_ms = moment.at_ms;
            match packet {
                1..=10 => assert!(matches!(moment.step, Step::Late { .. }), "{packet}: {moment:?}"),
                11 => assert_eq!(moment.step, Step::Rebased { by_ms: -300 }),
                _ => assert_eq!(moment.step, Step::Forward { by_ms: 20 }),
            }
        }
        assert_eq!(at_ms, 1_000 + 30 * 20, "no packet of the thirty is lost to the clock");
    }

    #[test]
    fn positions_never_run_backward() {
        let mut timeline = Timeline::starting_at(u64::MAX - 50);
        let (mut timestamp, mut before) = (0_u32, 0);
        for _ in 0..100_000 {
            timestamp = timestamp.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at_ms = timeline.advance(timestamp, u64::from(timestamp) % 50).at_ms;
            assert!(at_ms >= before);
            before = at_ms;
        }
    }
}
