use rubato::{
    Async, Fft, FixedAsync, FixedSync, Indexing, SincInterpolationParameters, SincInterpolationType,
    WindowFunction, audioadapter_buffers::direct::SequentialSlice,
};

use crate::{AudioError, SAMPLE_RATE_HZ_MAX, SAMPLE_RATE_HZ_MIN};

const OUT_HZ: u32 = model::SAMPLE_RATE_HZ;

/// Blocks are this many in a second where the ratio allows: sound waits for a block, then half a block for the filter.
const BLOCKS_PER_SECOND: u32 = 100;

/// Fewer and longer blocks than this many in a second would delay speech by more than 30 ms.
const BLOCKS_PER_SECOND_MIN: u32 = 50;

/// Length of the filter for ratios that blocks cannot express, in samples of the lower rate.
const SINC_SAMPLES: u32 = 96;

/// One channel from a fixed rate to 16 kHz. The filter's delay is taken out, so sample N of the output is the sound
/// at N / 16000 s of the input, and after [`Resampler::finish`] both are equally long.
pub(crate) struct Resampler {
    rate_hz: u32,
    /// None when there is nothing to do.
    engine: Option<Box<dyn rubato::Resampler<f32>>>,
    /// Input that does not fill a block yet.
    pending: Vec<f32>,
    block: Vec<f32>,
    /// Output of the filter's delay that is still to be thrown away.
    delay_left: usize,
    samples_in: u64,
    samples_out: u64,
}

impl Resampler {
    pub(crate) fn new(rate_hz: u32) -> Result<Self, AudioError> {
        if !(SAMPLE_RATE_HZ_MIN..=SAMPLE_RATE_HZ_MAX).contains(&rate_hz) {
            return Err(AudioError::SampleRate(rate_hz));
        }
        let engine = if rate_hz == OUT_HZ { None } else { Some(engine(rate_hz)?) };
        let block = vec![0.0; engine.as_ref().map_or(0, |engine| engine.output_frames_max())];
        let delay_left = engine.as_ref().map_or(0, |engine| engine.output_delay());
        Ok(Self { rate_hz, engine, pending: Vec::new(), block, delay_left, samples_in: 0, samples_out: 0 })
    }

    pub(crate) fn rate_hz(&self) -> u32 {
        self.rate_hz
    }

    /// Appends what `mono` makes ready.
    pub(crate) fn push(&mut self, mono: &[f32], out: &mut Vec<i16>) -> Result<(), AudioError> {
        self.samples_in += mono.len() as u64;
        if self.engine.is_none() {
            out.extend(mono.iter().copied().map(to_i16));
            self.samples_out += mono.len() as u64;
            return Ok(());
        }
        let mut rest = mono;
        while let Some(needed) = self.engine.as_ref().map(|engine| engine.input_frames_next()) {
            let take = needed.saturating_sub(self.pending.len()).min(rest.len());
            let (now, later) = rest.split_at(take);
            self.pending.extend_from_slice(now);
            rest = later;
            if self.pending.len() < needed {
                break;
            }
            self.process(None, u64::MAX, out)?;
        }
        Ok(())
    }

    /// Appends the rest, to the length that the input had, and begins anew.
    pub(crate) fn finish(&mut self, out: &mut Vec<i16>) -> Result<(), AudioError> {
        let rate = u64::from(self.rate_hz);
        let target = (self.samples_in * u64::from(OUT_HZ) + rate / 2) / rate;
        while self.engine.is_some() && self.samples_out < target {
            // Silence behind the end pushes the last samples through the filter.
            self.process(Some(self.pending.len()), target, out)?;
        }
        if let Some(engine) = &mut self.engine {
            engine.reset();
            self.delay_left = engine.output_delay();
        }
        self.pending.clear();
        (self.samples_in, self.samples_out) = (0, 0);
        Ok(())
    }

    /// One block: `partial` samples of it are there, the rest is silence.
    fn process(&mut self, partial: Option<usize>, target: u64, out: &mut Vec<i16>) -> Result<(), AudioError> {
        let Some(engine) = &mut self.engine else { return Ok(()) };
        let (needed, room) = (engine.input_frames_next(), self.block.len());
        self.pending.resize(needed, 0.0);
        let input = SequentialSlice::new(&self.pending, 1, needed).map_err(|_| AudioError::Conversion)?;
        let mut output =
            SequentialSlice::new_mut(&mut self.block, 1, room).map_err(|_| AudioError::Conversion)?;
        let indexing = partial.map(|samples| Indexing::new().partial_len(samples));
        let (_, made) = engine
            .process_into_buffer(&input, &mut output, indexing.as_ref())
            .map_err(|_| AudioError::Conversion)?;
        self.pending.clear();
        let skipped = self.delay_left.min(made);
        self.delay_left -= skipped;
        let room = usize::try_from(target.saturating_sub(self.samples_out)).unwrap_or(usize::MAX);
        let fresh = self.block.get(skipped..made).unwrap_or_default();
        let fresh = fresh.get(..room).unwrap_or(fresh);
        self.samples_out += fresh.len() as u64;
        out.extend(fresh.iter().copied().map(to_i16));
        Ok(())
    }
}

/// Whole blocks through an FFT are cheapest. Rates whose ratio to 16 kHz has a long period (11,025 Hz, or 44,056 Hz)
/// would need blocks that delay speech, and take an interpolated sinc instead.
fn engine(rate_hz: u32) -> Result<Box<dyn rubato::Resampler<f32>>, AudioError> {
    let period = rate_hz / greatest_common_divisor(rate_hz, OUT_HZ);
    let block = (rate_hz / BLOCKS_PER_SECOND).div_ceil(period) * period;
    if block * BLOCKS_PER_SECOND_MIN <= rate_hz {
        let fft = Fft::<f32>::new(rate_hz as usize, OUT_HZ as usize, block as usize, 1, FixedSync::Both);
        return Ok(Box::new(fft.map_err(|_| AudioError::Conversion)?));
    }
    let taps = (SINC_SAMPLES * rate_hz.max(OUT_HZ)).div_ceil(OUT_HZ);
    let parameters = SincInterpolationParameters::new(taps as usize, WindowFunction::BlackmanHarris2)
        .interpolation(SincInterpolationType::Linear)
        .oversampling_factor(128);
    let ratio = f64::from(OUT_HZ) / f64::from(rate_hz);
    let block = (rate_hz / BLOCKS_PER_SECOND) as usize;
    let sinc = Async::<f32>::new_sinc(ratio, 1.0, &parameters, block, 1, FixedAsync::Input);
    Ok(Box::new(sinc.map_err(|_| AudioError::Conversion)?))
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// Full scale 1.0 to 16 bit; beyond full scale is clipped, and what is no number becomes silence.
fn to_i16(sample: f32) -> i16 {
    (sample * 32_768.0).round() as i16
}

#[cfg(test)]
mod tests {
    use std::f64::consts::TAU;

    use super::*;

    fn tone(rate_hz: u32, hertz: f64, samples: usize) -> Vec<f32> {
        (0..samples).map(|n| (0.5 * (TAU * hertz * n as f64 / f64::from(rate_hz)).sin()) as f32).collect()
    }

    /// How a tone came out: the ratio of tone to everything else in dB, and how many samples it is late.
    fn fidelity(out: &[i16], hertz: f64) -> (f64, f64) {
        // The edges of a tone that begins and ends abruptly ring; speech does not. Whole periods remain.
        let inside: Vec<_> = out.iter().enumerate().skip(480).take((out.len() - 960) / 160 * 160).collect();
        let angle = |n: usize| TAU * hertz * n as f64 / f64::from(OUT_HZ);
        let (mut sine, mut cosine, mut power) = (0.0, 0.0, 0.0);
        for &(n, &sample) in &inside {
            let sample = f64::from(sample) / 32_768.0;
            sine += sample * angle(n).sin();
            cosine += sample * angle(n).cos();
            power += sample * sample;
        }
        let tone = (sine * sine + cosine * cosine) * 2.0 / inside.len() as f64;
        (10.0 * (tone / (power - tone).abs()).log10(), -cosine.atan2(sine) / angle(1))
    }

    const RATES: [u32; 15] = [
        8_000, 11_025, 12_000, 16_000, 18_900, 22_050, 24_000, 32_000, 37_800, 44_056, 44_100, 48_000,
        88_200, 96_000, 192_000,
    ];

    #[test]
    fn a_tone_keeps_its_place_and_its_length_at_every_rate() {
        for rate in RATES {
            for count in [rate as usize * 2, rate as usize + 7] {
                let mut resampler = Resampler::new(rate).unwrap();
                let mut out = Vec::new();
                for piece in tone(rate, 1_000.0, count).chunks(777) {
                    resampler.push(piece, &mut out).unwrap();
                }
                resampler.finish(&mut out).unwrap();
                let expected = (count as f64 * f64::from(OUT_HZ) / f64::from(rate)).round();
                assert!(
                    (out.len() as f64 - expected).abs() <= 1.0,
                    "{rate} Hz: {} for {expected}",
                    out.len()
                );
                let (fidelity, late) = fidelity(&out, 1_000.0);
                println!("{rate} Hz: {fidelity:.1} dB, late by {late:.3} samples");
                assert!(fidelity > 60.0, "{rate} Hz: {fidelity:.1} dB");
                assert!(late.abs() < 1.0, "{rate} Hz: {late:.3} samples");
            }
        }
    }

    #[test]
    fn sound_above_the_new_band_is_removed() {
        for rate in [22_050, 44_056, 44_100, 48_000, 192_000] {
            let mut resampler = Resampler::new(rate).unwrap();
            let mut out = Vec::new();
            resampler.push(&tone(rate, 10_000.0, rate as usize), &mut out).unwrap();
            resampler.finish(&mut out).unwrap();
            let loudest =
                out.iter().skip(400).take(15_000).map(|sample| sample.unsigned_abs()).max().unwrap();
            assert!(loudest < 60, "{rate} Hz: {loudest} of 16384 remains");
        }
    }

    #[test]
    fn no_more_than_30_ms_are_held_back() {
        for rate in RATES {
            let mut resampler = Resampler::new(rate).unwrap();
            let mut out = Vec::new();
            let (mut sent, mut held_most) = (0, 0.0f64);
            for piece in tone(rate, 300.0, rate as usize).chunks(rate as usize / 50) {
                resampler.push(piece, &mut out).unwrap();
                sent += piece.len();
                let held = sent as f64 / f64::from(rate) - out.len() as f64 / f64::from(OUT_HZ);
                held_most = held_most.max(held);
            }
            assert!(held_most <= 0.0301, "{rate} Hz: {held_most}");
        }
    }

    #[test]
    fn ten_minutes_do_not_drift() {
        for rate in [11_025, 44_100, 48_000] {
            let mut resampler = Resampler::new(rate).unwrap();
            let (mut out, mut total) = (Vec::new(), 0);
            let piece = vec![0.0; rate as usize];
            for _ in 0..600 {
                resampler.push(&piece, &mut out).unwrap();
                total += out.len();
                out.clear();
            }
            resampler.finish(&mut out).unwrap();
            assert_eq!(total + out.len(), 600 * OUT_HZ as usize, "{rate} Hz");
        }
    }

    #[test]
    fn extremes_become_legal_samples() {
        assert_eq!([2.0, -2.0, f32::NAN, f32::INFINITY].map(to_i16), [i16::MAX, i16::MIN, 0, i16::MAX]);
        for sample in [i16::MIN, -1, 0, 1, 12_345, i16::MAX] {
            assert_eq!(to_i16(f32::from(sample) / 32_768.0), sample);
        }
    }

    #[test]
    fn rates_out_of_range_are_refused() {
        for rate in [0, 1, 7_999, 192_001, u32::MAX] {
            assert!(matches!(Resampler::new(rate), Err(AudioError::SampleRate(_))));
        }
    }
}
