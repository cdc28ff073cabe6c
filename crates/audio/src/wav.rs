use crate::{
    AudioError, Encoding, Format,
    decoder::Reader,
    pcm::{Pcm, Sample},
    sink::Sink,
    window::Window,
};

/// RIFF WAVE as it is streamed: sizes may be 0, all ones, or wrong.
#[derive(Default)]
pub(crate) struct Wav {
    window: Window,
    part: Part,
    pcm: Option<Pcm>,
}

#[derive(Default, Clone, Copy)]
enum Part {
    /// `RIFF`, size, `WAVE`.
    #[default]
    Riff,
    /// The header of a chunk. True after sound: a wrong size may have led us into more sound.
    Chunk {
        after_sound: bool,
    },
    /// The `fmt ` chunk of this size.
    Fmt(u64),
    /// A chunk that says nothing of interest.
    Skip {
        left: u64,
        after_sound: bool,
    },
    /// Sound: so many bytes and whether a byte of padding follows, or to the end.
    Sound {
        left: u64,
        padded: bool,
    },
    Endless,
}

/// As much of a `fmt ` chunk as is read: WAVEFORMATEXTENSIBLE.
const FMT_BYTES: usize = 40;

impl Wav {
    fn broken(what: &'static str) -> AudioError {
        AudioError::Malformed { encoding: Encoding::Wav, what }
    }

    /// One part, or None when it must wait for more bytes.
    fn step(&mut self, sink: &mut Sink) -> Result<Option<Part>, AudioError> {
        let rest = self.window.rest();
        match self.part {
            Part::Riff => {
                let Some(header) = rest.first_chunk::<12>() else { return Ok(None) };
                let [r, i, f, g, _, _, _, _, wave @ ..] = header;
                if !matches!(&[*r, *i, *f, *g], b"RIFF" | b"RF64") || wave != b"WAVE" {
                    return Err(Self::broken("it does not begin with RIFF and WAVE"));
                }
                self.window.advance(12);
                Ok(Some(Part::Chunk { after_sound: false }))
            }
            Part::Chunk { after_sound } => {
                let Some(&[a, b, c, d, s0, s1, s2, s3]) = rest.first_chunk::<8>() else { return Ok(None) };
                let (name, size) = ([a, b, c, d], u32::from_le_bytes([s0, s1, s2, s3]));
                if after_sound && matches!(&name, b"RIFF" | b"RF64") {
                    return Ok(Some(Part::Riff));
                }
                if !name.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ') {
                    return if after_sound {
                        Ok(Some(Part::Endless))
                    } else {
                        Err(Self::broken("a chunk has no name"))
                    };
                }
                self.window.advance(8);
                Ok(Some(match &name {
                    b"fmt " => Part::Fmt(u64::from(size)),
                    b"data" if self.pcm.is_none() => {
                        return Err(Self::broken("sound comes before its format"));
                    }
                    b"data" if matches!(size, 0 | u32::MAX) => Part::Endless,
                    b"data" => Part::Sound { left: u64::from(size), padded: size % 2 == 1 },
                    _ => Part::Skip { left: u64::from(size) + u64::from(size % 2), after_sound },
                }))
            }
            Part::Fmt(size) => {
                let wanted = usize::try_from(size).unwrap_or(usize::MAX).min(FMT_BYTES);
                let Some(fmt) = rest.get(..wanted) else { return Ok(None) };
                let (format, sample) = read_fmt(fmt)?;
                self.pcm = Some(Pcm::new(format, sample));
                self.window.advance(wanted);
                Ok(Some(Part::Skip { left: size - wanted as u64 + size % 2, after_sound: false }))
            }
            Part::Skip { mut left, after_sound } => {
                self.window.skip(&mut left);
                self.part = Part::Skip { left, after_sound };
                Ok((left == 0).then_some(Part::Chunk { after_sound }))
            }
            Part::Sound { left, padded } => {
                let here = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                if let Some(pcm) = &mut self.pcm {
                    pcm.push(rest.get(..here).unwrap_or_default(), sink)?;
                }
                self.window.advance(here);
                let left = left - here as u64;
                self.part = Part::Sound { left, padded };
                Ok((left == 0).then_some(Part::Skip { left: u64::from(padded), after_sound: true }))
            }
            Part::Endless => {
                if let Some(pcm) = &mut self.pcm {
                    pcm.push(rest, sink)?;
                }
                self.window.advance(rest.len());
                Ok(None)
            }
        }
    }
}

impl Reader for Wav {
    fn push(&mut self, bytes: &[u8], sink: &mut Sink) -> Result<(), AudioError> {
        self.window.extend(bytes);
        while let Some(next) = self.step(sink)? {
            self.part = next;
        }
        Ok(())
    }

    fn finish(&mut self, _: &mut Sink) -> Result<(), AudioError> {
        Ok(())
    }

    fn format(&self) -> Option<Format> {
        self.pcm.as_ref().and_then(Pcm::format)
    }
}

/// WAVEFORMATEX and WAVEFORMATEXTENSIBLE (RFC 2361 lists the tags).
fn read_fmt(fmt: &[u8]) -> Result<(Format, Sample), AudioError> {
    let Some(&[t0, t1, c0, c1, r0, r1, r2, r3, _, _, _, _, a0, a1, b0, b1]) = fmt.first_chunk::<16>() else {
        return Err(Wav::broken("its format is too short"));
    };
    let channels = u16::from_le_bytes([c0, c1]);
    let rate_hz = u32::from_le_bytes([r0, r1, r2, r3]);
    let format = Format::new(Encoding::Wav, rate_hz, channels)?;
    let tag = match (u16::from_le_bytes([t0, t1]), fmt.get(24..26)) {
        // The first two bytes of the sub-format are the tag.
        (0xfffe, Some(&[s0, s1])) => u16::from_le_bytes([s0, s1]),
        (tag, _) => tag,
    };
    // The block says how wide a sample is stored; bits may be fewer.
    let (block, bits) = (u16::from_le_bytes([a0, a1]), u16::from_le_bytes([b0, b1]));
    let stored = if block != 0 && block % channels == 0 { block / channels } else { bits.div_ceil(8) };
    let sample = match (tag, stored) {
        (1, 1) => Sample::U8,
        (1, 2) => Sample::S16,
        (1, 3) => Sample::S24,
        (1, 4) => Sample::S32,
        (3, 4) => Sample::F32,
        (3, 8) => Sample::F64,
        (6, 1) => Sample::Alaw,
        (7, 1) => Sample::Mulaw,
        _ => return Err(AudioError::Unsupported("this codec inside WAV")),
    };
    Ok((format, sample))
}
