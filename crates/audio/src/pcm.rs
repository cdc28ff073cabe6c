use crate::{AudioError, Encoding, Format, decoder::Reader, sink::Sink};

/// How one sample is written. All little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sample {
    U8,
    S16,
    S24,
    S32,
    F32,
    F64,
    Mulaw,
    Alaw,
}

impl Sample {
    pub(crate) const fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::Mulaw | Self::Alaw => 1,
            Self::S16 => 2,
            Self::S24 => 3,
            Self::S32 | Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    /// The sample at full scale 1.0. Floats that are no number become silence, floats beyond full scale are clipped.
    fn read(self, bytes: &[u8]) -> f32 {
        match (self, bytes) {
            (Self::U8, &[a]) => (f32::from(a) - 128.0) / 128.0,
            (Self::S16, &[a, b]) => f32::from(i16::from_le_bytes([a, b])) / 32_768.0,
            (Self::S24, &[a, b, c]) => i32::from_le_bytes([0, a, b, c]) as f32 / 2_147_483_648.0,
            (Self::S32, &[a, b, c, d]) => i32::from_le_bytes([a, b, c, d]) as f32 / 2_147_483_648.0,
            (Self::F32, &[a, b, c, d]) => bounded(f32::from_le_bytes([a, b, c, d])),
            (Self::F64, &[a, b, c, d, e, f, g, h]) => {
                bounded(f64::from_le_bytes([a, b, c, d, e, f, g, h]) as f32)
            }
            (Self::Mulaw, &[a]) => f32::from(mulaw(a)) / 32_768.0,
            (Self::Alaw, &[a]) => f32::from(alaw(a)) / 32_768.0,
            _ => 0.0,
        }
    }
}

fn bounded(sample: f32) -> f32 {
    if sample.is_nan() { 0.0 } else { sample.clamp(-1.0, 1.0) }
}

/// ITU-T G.711 table 2: sign, 3 bits of exponent, 4 of mantissa, all bits inverted.
const fn mulaw(code: u8) -> i16 {
    let code = !code;
    let magnitude = ((((code & 0x0f) as i16) << 3) + 0x84) << ((code >> 4) & 7);
    if code & 0x80 == 0 { magnitude - 0x84 } else { 0x84 - magnitude }
}

/// ITU-T G.711 table 1: like mu-law, but the lowest two exponents share a step and every other bit is inverted.
const fn alaw(code: u8) -> i16 {
    let code = code ^ 0x55;
    let mantissa = ((code & 0x0f) as i16) << 4;
    let magnitude = match (code >> 4) & 7 {
        0 => mantissa + 8,
        exponent => (mantissa + 0x108) << (exponent - 1),
    };
    if code & 0x80 == 0 { -magnitude } else { magnitude }
}

/// Samples without a container, or the payload of one. Messages may cut anywhere, also within a sample.
pub(crate) struct Pcm {
    format: Format,
    sample: Sample,
    /// The beginning of a sample of all channels.
    leftover: Vec<u8>,
    mono: Vec<f32>,
}

/// Samples of one channel that are converted at a time.
const PIECE_SAMPLES: usize = 1_024;

impl Pcm {
    pub(crate) const fn new(format: Format, sample: Sample) -> Self {
        Self { format, sample, leftover: Vec::new(), mono: Vec::new() }
    }

    fn frames(&mut self, bytes: &[u8], sink: &mut Sink) -> Result<(), AudioError> {
        let (width, share) = (self.sample.bytes(), 1.0 / f32::from(self.format.channels));
        let frame_bytes = width * usize::from(self.format.channels);
        for piece in bytes.chunks(frame_bytes * PIECE_SAMPLES) {
            self.mono.clear();
            self.mono.extend(piece.chunks_exact(frame_bytes).map(|frame| {
                frame.chunks_exact(width).map(|bytes| self.sample.read(bytes)).sum::<f32>() * share
            }));
            sink.mono(self.format.sample_rate_hz, &self.mono)?;
        }
        Ok(())
    }
}

impl Reader for Pcm {
    fn push(&mut self, bytes: &[u8], sink: &mut Sink) -> Result<(), AudioError> {
        let frame_bytes = self.sample.bytes() * usize::from(self.format.channels);
        let mut rest = bytes;
        if !self.leftover.is_empty() {
            let missing = frame_bytes.saturating_sub(self.leftover.len()).min(rest.len());
            let (first, later) = rest.split_at(missing);
            self.leftover.extend_from_slice(first);
            rest = later;
            if self.leftover.len() < frame_bytes {
                return Ok(());
            }
            let whole = std::mem::take(&mut self.leftover);
            self.frames(&whole, sink)?;
        }
        let (whole, leftover) = rest.split_at(rest.len() - rest.len() % frame_bytes);
        self.leftover.extend_from_slice(leftover);
        self.frames(whole, sink)
    }

    fn finish(&mut self, _: &mut Sink) -> Result<(), AudioError> {
        self.leftover.clear();
        Ok(())
    }

    fn format(&self) -> Option<Format> {
        Some(self.format)
    }
}

/// The sample of a raw encoding; None for the others.
pub(crate) const fn raw_sample(encoding: Encoding) -> Option<Sample> {
    match encoding {
        Encoding::PcmS16le => Some(Sample::S16),
        Encoding::PcmF32le => Some(Sample::F32),
        Encoding::Mulaw => Some(Sample::Mulaw),
        Encoding::Alaw => Some(Sample::Alaw),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g711_codes_have_the_values_of_the_recommendation() {
        for (code, value) in
            [(0x00, -32_124), (0x80, 32_124), (0xff, 0), (0x7f, 0), (0xfe, 8), (0x2a, -5_372)]
        {
            assert_eq!(mulaw(code), value, "{code:#x}");
        }
        for (code, value) in [(0x55, -8), (0xd5, 8), (0x2a, -32_256), (0xaa, 32_256), (0x80, 5_504)] {
            assert_eq!(alaw(code), value, "{code:#x}");
        }
    }

    #[test]
    fn every_width_reads_full_scale_and_silence() {
        let cases: [(Sample, &[u8], f32); 12] = [
            (Sample::U8, &[0], -1.0),
            (Sample::U8, &[128], 0.0),
            (Sample::S16, &[0x00, 0x80], -1.0),
            (Sample::S24, &[0x00, 0x00, 0x80], -1.0),
            (Sample::S24, &[0x00, 0x00, 0x40], 0.5),
            (Sample::S32, &[0x00, 0x00, 0x00, 0x80], -1.0),
            (Sample::F32, &0.25f32.to_le_bytes(), 0.25),
            (Sample::F32, &f32::NAN.to_le_bytes(), 0.0),
            (Sample::F32, &f32::NEG_INFINITY.to_le_bytes(), -1.0),
            (Sample::F32, &1e30f32.to_le_bytes(), 1.0),
            (Sample::F64, &(-0.75f64).to_le_bytes(), -0.75),
            (Sample::F64, &f64::NAN.to_le_bytes(), 0.0),
        ];
        for (sample, bytes, value) in cases {
            assert_eq!(bytes.len(), sample.bytes());
            assert_eq!(sample.read(bytes), value, "{sample:?} {bytes:?}");
        }
    }
}
