//! What can be heard of a track, by the wall clock.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::Instant;

/// Samples of a second as they are played.
const RATE_HZ: usize = 16_000;

/// The time that a frame lasts.
pub(super) const FRAME: Duration = Duration::from_millis(20);

/// Samples of a frame.
pub(super) const FRAME_SAMPLES: usize = RATE_HZ / 50;

/// Pieces that ended so long ago are forgotten.
const MEMORY: Duration = Duration::from_secs(60);

/// One frame, 16 kHz mono.
pub(super) type Frame = [i16; FRAME_SAMPLES];

/// What a track plays and has played: pieces that do not overlap, silence between them.
#[derive(Default)]
pub(super) struct Sound(VecDeque<Piece>);

struct Piece {
    begins: Instant,
    samples: Arc<[i16]>,
}

impl Piece {
    fn ends(&self) -> Instant {
        self.begins + Duration::from_micros(self.samples.len() as u64 * 1_000_000 / RATE_HZ as u64)
    }

    /// The place of this moment within the samples, rounded down; moments that are a frame apart are exactly
    /// [`FRAME_SAMPLES`] apart.
    fn place(&self, moment: Instant) -> i64 {
        let samples = |span: Duration| span.as_nanos() as i64 * RATE_HZ as i64;
        let nanoseconds = match moment.checked_duration_since(self.begins) {
            Some(after) => samples(after),
            None => -samples(self.begins.duration_since(moment)),
        };
        nanoseconds.div_euclid(1_000_000_000)
    }
}

impl Sound {
    /// Plays this now, or after what plays now. Says when it ends.
    pub(super) fn play(&mut self, samples: &[i16], now: Instant) -> Instant {
        self.0.retain(|piece| piece.ends() + MEMORY > now);
        let begins = self.0.back().map_or(now, |last| last.ends().max(now));
        let piece = Piece { begins, samples: samples.into() };
        let ends = piece.ends();
        self.0.push_back(piece);
        ends
    }

    /// The frame that begins at this moment.
    pub(super) fn frame(&self, begins: Instant) -> Frame {
        let mut frame: Frame = [0; FRAME_SAMPLES];
        for piece in &self.0 {
            let first = piece.place(begins);
            for (place, sample) in (first..).zip(&mut frame) {
                let heard = usize::try_from(place).ok().and_then(|place| piece.samples.get(place));
                *sample = sample.saturating_add(*heard.unwrap_or(&0));
            }
        }
        frame
    }
}

/// 16 kHz mono as 48 kHz stereo, interleaved: what egresses send. Remembers the last sample between frames.
#[derive(Default)]
pub(super) struct Upsampler(i16);

impl Upsampler {
    /// The bytes of a frame, s16le.
    pub(super) fn bytes(&mut self, frame: &Frame) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(frame.len() * 12);
        for sample in frame {
            let (from, to) = (i32::from(self.0), i32::from(*sample));
            for third in 1..=3 {
                let between = ((from * (3 - third) + to * third) / 3) as i16;
                let pair = between.to_le_bytes();
                bytes.extend_from_slice(&pair);
                bytes.extend_from_slice(&pair);
            }
            self.0 = *sample;
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_hold_every_sample_once_wherever_they_begin() {
        let now = Instant::now() + Duration::from_secs(1);
        let samples: Vec<i16> = (1..=1000).collect();
        let mut sound = Sound::default();
        let middle = sound.play(&samples, now);
        sound.play(&samples, now);
        let start = now - Duration::from_micros(7_777);
        let heard: Vec<i16> = (0..9).flat_map(|number| sound.frame(start + FRAME * number)).collect();
        let heard: Vec<i16> = heard.into_iter().filter(|sample| *sample != 0).collect();
        assert_eq!(heard, [&samples[..], &samples[..]].concat());
        assert_eq!(middle, now + Duration::from_micros(62_500));
    }

    #[test]
    fn a_frame_becomes_stereo_at_three_times_the_rate() {
        let mut upsampler = Upsampler::default();
        let bytes = upsampler.bytes(&[300; FRAME_SAMPLES]);
        assert_eq!(bytes.len(), 3840);
        let samples: Vec<i16> = bytes.as_chunks().0.iter().map(|pair| i16::from_le_bytes(*pair)).collect();
        assert_eq!(samples[..8], [100, 100, 200, 200, 300, 300, 300, 300]);
    }
}
