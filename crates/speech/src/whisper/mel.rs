use std::{f32::consts::TAU, sync::Arc};

use model::SAMPLE_RATE_HZ;
use realfft::{RealFftPlanner, RealToComplex};

use crate::SpeechError;

/// Samples that one spectrum is made of: 25 ms.
const WINDOW: usize = 400;

/// Samples from one spectrum to the next: 10 ms.
pub(super) const HOP: usize = 160;

/// Where the scale of Slaney's filters turns from even steps to even ratios.
const BREAK_HZ: f64 = 1_000.0;

/// Steps of that scale below the break: 200/3 Hz each. Above, 27 of them are a ratio of 6.4.
const STEP_HZ: f64 = 200.0 / 3.0;

/// The picture of sound that Whisper was trained on: the logarithm of the power in bands of the mel scale, 100 times a
/// second. As `log_mel_spectrogram` of openai/whisper computes it, with the filters of librosa.
pub(super) struct Mel {
    fft: Arc<dyn RealToComplex<f32>>,
    window: Vec<f32>,
    /// For each band the first bin that it weighs, and the weights.
    bands: Vec<(usize, Vec<f32>)>,
}

impl Mel {
    pub(super) fn new(bands: usize) -> Self {
        Self {
            fft: RealFftPlanner::new().plan_fft_forward(WINDOW),
            window: (0..WINDOW).map(|at| 0.5 - 0.5 * (TAU * at as f32 / WINDOW as f32).cos()).collect(),
            bands: filters(bands),
        }
    }

    /// The spectrum of `pcm` and of silence after it, `frames` of 10 ms together: band by band, each in the order of time.
    pub(super) fn spectrum(&self, pcm: &[f32], frames: usize) -> Result<Vec<f32>, SpeechError> {
        let failed = |error: &dyn std::fmt::Display| SpeechError::Run(format!("spectrum: {error}"));
        let half = WINDOW as isize / 2;
        // The sound is mirrored at its borders, as the model has learnt it.
        let length = (frames * HOP) as isize;
        let sample = |at: isize| {
            let at = if at < 0 {
                -at
            } else if at >= length {
                2 * (length - 1) - at
            } else {
                at
            };
            usize::try_from(at).ok().and_then(|at| pcm.get(at)).copied().unwrap_or_default()
        };
        let mut input = self.fft.make_input_vec();
        let mut output = self.fft.make_output_vec();
        let mut scratch = self.fft.make_scratch_vec();
        let mut by_time = Vec::with_capacity(frames * self.bands.len());
        for frame in 0..frames {
            let from = (frame * HOP) as isize - half;
            for ((cell, weight), at) in input.iter_mut().zip(&self.window).zip(from..) {
                *cell = sample(at) * weight;
            }
            self.fft
                .process_with_scratch(&mut input, &mut output, &mut scratch)
                .map_err(|error| failed(&error))?;
            for (first, weights) in &self.bands {
                let bins = output.iter().skip(*first);
                let power: f32 = bins.zip(weights).map(|(bin, weight)| bin.norm_sqr() * weight).sum();
                by_time.push(power.max(1e-10).log10());
            }
        }
        // What is 80 dB below the loudest is silence.
        let floor = by_time.iter().copied().fold(f32::NEG_INFINITY, f32::max) - 8.0;
        let count = self.bands.len();
        let band = |band: usize| by_time.iter().skip(band).step_by(count);
        Ok((0..count).flat_map(band).map(|power| (power.max(floor) + 4.0) / 4.0).collect())
    }
}

/// Triangles of the same area, evenly spaced on the mel scale from 0 Hz to half the sample rate.
fn filters(bands: usize) -> Vec<(usize, Vec<f32>)> {
    let top = f64::from(SAMPLE_RATE_HZ) / 2.0;
    let corner = |index: usize| hertz(mel(top) * index as f64 / (bands + 1) as f64);
    (0..bands)
        .map(|band| {
            let (low, middle, high) = (corner(band), corner(band + 1), corner(band + 2));
            let weight = |bin: usize| {
                let at = bin as f64 * f64::from(SAMPLE_RATE_HZ) / WINDOW as f64;
                let height = ((at - low) / (middle - low)).min((high - at) / (high - middle));
                (height.max(0.0) * 2.0 / (high - low)) as f32
            };
            let bins = 0..=WINDOW / 2;
            let first = bins.clone().find(|bin| weight(*bin) > 0.0).unwrap_or_default();
            (first, bins.skip(first).map(weight).take_while(|weight| *weight > 0.0).collect())
        })
        .collect()
}

fn mel(hertz: f64) -> f64 {
    if hertz < BREAK_HZ {
        return hertz / STEP_HZ;
    }
    BREAK_HZ / STEP_HZ + (hertz / BREAK_HZ).ln() * 27.0 / 6.4_f64.ln()
}

fn hertz(mel: f64) -> f64 {
    let above = mel - BREAK_HZ / STEP_HZ;
    if above < 0.0 { mel * STEP_HZ } else { BREAK_HZ * (above * 6.4_f64.ln() / 27.0).exp() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a band weighs most, and how much: computed in NumPy by the definition of librosa.filters.mel(sr=16000, n_fft=400,
    /// n_mels=80).
    #[test]
    fn the_filters_are_those_of_librosa() {
        let filters = filters(80);
        for (band, bin, weight) in [(0, 1, 0.024_862_6), (40, 43, 0.014_735_6), (79, 192, 0.003_164_7)] {
            let (first, weights) = &filters[band];
            let (at, most) = weights.iter().enumerate().max_by(|one, two| one.1.total_cmp(two.1)).unwrap();
            assert_eq!(first + at, bin, "{band}");
            assert!((most - weight).abs() < 1e-6, "{band}: {most}");
        }
    }

    #[test]
    fn a_tone_lies_in_its_band() {
        let tone: Vec<f32> = (0..16_000).map(|at| (TAU * 1_000.0 * at as f32 / 16_000.0).sin()).collect();
        let spectrum = Mel::new(80).spectrum(&tone, 200).unwrap();
        assert_eq!(spectrum.len(), 80 * 200);
        let at = |band: usize, frame: usize| spectrum[band * 200 + frame];
        let loudest = (0..80).max_by(|one, two| at(*one, 50).total_cmp(&at(*two, 50))).unwrap();
        assert!((26..=28).contains(&loudest), "{loudest}");
        // The second half is silence: 80 dB below.
        assert!((at(loudest, 50) - at(loudest, 150) - 2.0).abs() < 1e-4);
    }
}
