use crate::{AudioError, CHANNELS_MAX, resample::Resampler};

/// Most samples that one push may become, 16 kHz mono: 5 minutes. A full message holds 2.2 minutes of 8 kHz mu-law
/// or 4.4 of `MediaRecorder`'s Opus; a message with more was made to cost us memory.
pub const DECODED_SAMPLES_PER_PUSH_MAX: usize = 300 * model::SAMPLE_RATE_HZ as usize;

/// Most samples of a source, all channels counted, that one push may decode to: 5 minutes of 48 kHz stereo. It bounds
/// the work that a few bytes of hostile FLAC or MP3 can ask for.
pub const SOURCE_SAMPLES_PER_PUSH_MAX: usize = 300 * 48_000 * 2;

/// Where all readers deliver: mixes to one channel, resamples, and keeps within the limits of one push.
pub(crate) struct Sink {
    /// None until the first sound tells its rate.
    resampler: Option<Resampler>,
    mono: Vec<f32>,
    out: Vec<i16>,
    source_samples: usize,
    out_before: usize,
    concealed: u64,
}

impl Sink {
    pub(crate) const fn new() -> Self {
        Self {
            resampler: None,
            mono: Vec::new(),
            out: Vec::new(),
            source_samples: 0,
            out_before: 0,
            concealed: 0,
        }
    }

    /// Runs one push: what is delivered within is appended to `out`, also when it ends in an error.
    pub(crate) fn during<E>(
        &mut self,
        out: &mut Vec<i16>,
        push: impl FnOnce(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.out = std::mem::take(out);
        (self.source_samples, self.out_before) = (0, self.out.len());
        let result = push(self);
        *out = std::mem::take(&mut self.out);
        result
    }

    /// Takes interleaved samples, full scale 1.0, and averages the channels.
    pub(crate) fn interleaved(
        &mut self,
        rate_hz: u32,
        channels: u16,
        samples: &[f32],
    ) -> Result<(), AudioError> {
        match channels {
            0 => Err(AudioError::Channels(0)),
            1 => self.mono(rate_hz, samples),
            2..=CHANNELS_MAX => {
                // Beyond the first channel they are counted here, the first one in `mono`.
                self.source_samples += samples.len() - samples.len() / usize::from(channels);
                let mut mono = std::mem::take(&mut self.mono);
                mono.clear();
                let share = 1.0 / f32::from(channels);
                mono.extend(
                    samples
                        .chunks_exact(usize::from(channels))
                        .map(|frame| frame.iter().sum::<f32>() * share),
                );
                let result = self.mono(rate_hz, &mono);
                self.mono = mono;
                result
            }
            _ => Err(AudioError::Channels(channels)),
        }
    }

    /// Takes samples of one channel, full scale 1.0.
    pub(crate) fn mono(&mut self, rate_hz: u32, samples: &[f32]) -> Result<(), AudioError> {
        self.source_samples += samples.len();
        if self.source_samples > SOURCE_SAMPLES_PER_PUSH_MAX {
            return Err(AudioError::TooMuchSound);
        }
        if self.resampler.as_ref().is_some_and(|resampler| resampler.rate_hz() != rate_hz) {
            self.flush()?;
            self.resampler = None;
        }
        let resampler = match &mut self.resampler {
            Some(resampler) => resampler,
            None => self.resampler.insert(Resampler::new(rate_hz)?),
        };
        resampler.push(samples, &mut self.out)?;
        if self.out.len() - self.out_before > DECODED_SAMPLES_PER_PUSH_MAX {
            return Err(AudioError::TooMuchSound);
        }
        Ok(())
    }

    /// Takes `samples` of silence in the place of sound that could not be decoded, so that the clock stays right.
    pub(crate) fn silence(&mut self, rate_hz: u32, samples: usize) -> Result<(), AudioError> {
        const PIECE: [f32; 1_024] = [0.0; 1_024];
        self.conceal();
        let mut left = samples;
        while left > 0 {
            let piece = PIECE.get(..left).unwrap_or(&PIECE);
            self.mono(rate_hz, piece)?;
            left -= piece.len();
        }
        Ok(())
    }

    /// Counts a packet that could not be decoded.
    pub(crate) fn conceal(&mut self) {
        self.concealed += 1;
    }

    /// Packets that could not be decoded.
    pub(crate) fn concealed(&self) -> u64 {
        self.concealed
    }

    /// Delivers what the resampler holds back: nothing follows, or something unrelated.
    pub(crate) fn flush(&mut self) -> Result<(), AudioError> {
        match &mut self.resampler {
            Some(resampler) => resampler.finish(&mut self.out),
            None => Ok(()),
        }
    }
}
