use model::Samples;

use crate::{
    engine::UTTERANCE_SAMPLES_MAX,
    voice::{FRAME, Frame},
};

/// Frames of the longest utterance.
pub const FRAMES_MAX: usize = UTTERANCE_SAMPLES_MAX / FRAME;

/// A cut at the cap leaves at least this much before it: 6 s, so that a recognizer has context on both sides.
const CUT_FRAMES_MIN: usize = 375;

/// A cut at the cap leaves at least this much after it: 0.3 s.
const CUT_FRAMES_AFTER: usize = 19;

/// Width of the window whose quietness is compared when looking for a cut: 112 ms, the length of a short pause.
const CUT_WINDOW: usize = 7;

/// Consecutive sound of a stream with what the voice detector says of it.
#[derive(Default)]
pub struct Sound {
    /// Position of the first sample in the stream.
    pub start: Samples,
    pcm: Vec<i16>,
    frames: Vec<Frame>,
}

impl Sound {
    pub fn starting(start: Samples) -> Self {
        Self { start, ..Self::default() }
    }

    pub fn push(&mut self, pcm: &[i16], frame: Frame) {
        self.pcm.extend_from_slice(pcm);
        self.frames.push(frame);
    }

    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// The position just after the last sample.
    pub fn end(&self) -> Samples {
        self.at(self.frames.len())
    }

    /// The position where frame `index` begins.
    pub fn at(&self, index: usize) -> Samples {
        self.start + Samples::of(index * FRAME)
    }

    /// The samples of the first `frames` frames, as recognizers take them.
    pub fn samples(&self, frames: usize) -> Vec<f32> {
        self.pcm.iter().take(frames * FRAME).map(|&sample| f32::from(sample) / 32_768.0).collect()
    }

    /// Keeps the first `frames` frames and returns what follows.
    pub fn split_off(&mut self, frames: usize) -> Self {
        let frames = frames.min(self.frames.len());
        Self {
            start: self.at(frames),
            pcm: self.pcm.split_off((frames * FRAME).min(self.pcm.len())),
            frames: self.frames.split_off(frames),
        }
    }

    /// Keeps the last `frames` frames at most.
    pub fn keep_last(&mut self, frames: usize) {
        let dropped = self.frames.len().saturating_sub(frames);
        if dropped > 0 {
            *self = self.split_off(dropped);
        }
    }

    /// How many frames end with the last voiced one.
    pub fn voiced_end(&self) -> usize {
        self.frames.iter().rposition(Frame::voiced).map_or(0, |last| last + 1)
    }

    /// How many unvoiced frames in a row end with frame `frames`, exclusive.
    pub fn silence_before(&self, frames: usize) -> usize {
        let before = self.frames.get(..frames).unwrap_or(&self.frames);
        before.iter().rev().take_while(|frame| !frame.voiced()).count()
    }

    /// Where to cut sound that reached the cap.
    pub fn quietest(&self) -> usize {
        let last = self.frames.len().saturating_sub(CUT_FRAMES_AFTER);
        self.quietest_in(CUT_FRAMES_MIN.min(last), last).unwrap_or(last)
    }

    /// The middle of the quietest stretch whose middle lies from `first` on and before `last`, the later one of equals.
    /// Voice counts as much as level: the gap between two loud words beats a soft consonant inside one.
    pub fn quietest_in(&self, first: usize, last: usize) -> Option<usize> {
        let loudness = |frame: &Frame| frame.level_db.max(-70.0) + 20.0 * frame.voice;
        self.frames
            .windows(CUT_WINDOW)
            .enumerate()
            .map(|(index, window)| (index + CUT_WINDOW / 2, window.iter().map(loudness).sum::<f32>()))
            .filter(|(middle, _)| (first..last).contains(middle))
            .min_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)))
            .map(|(middle, _)| middle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound(frames: usize, quiet_at: usize) -> Sound {
        let mut sound = Sound::starting(Samples(1000));
        for index in 0..frames {
            let quiet = index.abs_diff(quiet_at) < 6;
            let level_db = if quiet { -60.0 } else { -20.0 };
            sound.push(&[index as i16; FRAME], Frame { voice: if quiet { 0.1 } else { 0.9 }, level_db });
        }
        sound
    }

    #[test]
    fn a_cut_falls_into_the_pause() {
        assert_eq!(sound(FRAMES_MAX, 500).quietest(), 502);
        // A pause too early to cut at is not looked for.
        assert!(sound(FRAMES_MAX, 100).quietest() >= CUT_FRAMES_MIN);
    }

    #[test]
    fn splitting_loses_and_doubles_nothing() {
        let mut left = sound(10, 5);
        let right = left.split_off(4);
        assert_eq!(
            (left.end(), right.start),
            (Samples(1000 + 4 * FRAME as u64), Samples(1000 + 4 * FRAME as u64))
        );
        assert_eq!(left.samples(10).len() + right.samples(10).len(), 10 * FRAME);
        assert_eq!(right.frames().len(), 6);
    }
}
