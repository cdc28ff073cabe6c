use crate::{
    AudioError, CHECKSUMS_IGNORED, Encoding, Format,
    codec::{Codec, Heard},
    decoder::Reader,
    sink::Sink,
    window::Window,
};

/// Largest frame that is waited for. A block of 16,384 samples, the most a streamable file has, of eight channels
/// of 24 bit takes 384 KiB when nothing compresses.
const FRAME_BYTES_MAX: usize = 512 * 1024;

/// Longest header of a frame: sync, codes, seven bytes of number, block size, rate, check sum.
const HEADER_BYTES_MAX: usize = 16;

pub(crate) const STREAM_INFO_BYTES: usize = 34;

fn broken(what: &'static str) -> AudioError {
    AudioError::Malformed { encoding: Encoding::Flac, what }
}

/// What STREAMINFO says (RFC 9639 section 8.2), with the decoder made for it. Native FLAC and Ogg share it.
pub(crate) struct FlacStream {
    codec: Codec,
    pub(crate) format: Format,
}

impl FlacStream {
    pub(crate) fn new(encoding: Encoding, info: &[u8; STREAM_INFO_BYTES]) -> Result<Self, AudioError> {
        let [_, _, _, _, _, _, _, _, _, _, a, b, c, ..] = *info;
        let rate_hz = u32::from_be_bytes([0, a, b, c]) >> 4;
        let format = Format::new(encoding, rate_hz, u16::from((c >> 1) & 7) + 1)?;
        Ok(Self { codec: Codec::flac(info)?, format })
    }

    /// One frame of `samples` samples a channel; silence when the codec refuses it.
    pub(crate) fn frame(&mut self, frame: &[u8], samples: usize, sink: &mut Sink) -> Result<(), AudioError> {
        match self.codec.packet(frame, &mut 0, sink)? {
            Heard::Sound(..) => Ok(()),
            Heard::Nothing => sink.silence(self.format.sample_rate_hz, samples),
        }
    }
}

/// Native FLAC. A frame does not say how long it is: it ends where its check sum comes out and another header begins.
#[derive(Default)]
pub(crate) struct Flac {
    window: Window,
    part: Part,
    stream: Option<FlacStream>,
}

#[derive(Default, Clone, Copy)]
enum Part {
    /// `fLaC`.
    #[default]
    Mark,
    /// The header of a metadata block.
    Metadata,
    /// Bytes of a metadata block still to skip, and whether it is the last.
    Skip(u64, bool),
    /// Looking for the header of a frame; so many bytes were none.
    Search(usize),
    /// Within a frame: its header, how far it was looked through, and the check sum so far.
    Frame { header: FrameHeader, seen: usize, crc: u16 },
}

impl Flac {
    fn step(&mut self, sink: &mut Sink) -> Result<Option<Part>, AudioError> {
        let rest = self.window.rest();
        match self.part {
            Part::Mark => {
                let Some(mark) = rest.first_chunk::<4>() else { return Ok(None) };
                if mark != b"fLaC" {
                    return Err(broken("it does not begin with fLaC"));
                }
                self.window.advance(4);
                self.stream = None;
                Ok(Some(Part::Metadata))
            }
            Part::Metadata => {
                let Some(&[kind, a, b, c]) = rest.first_chunk::<4>() else { return Ok(None) };
                let (last, size) = (kind & 0x80 != 0, u64::from(u32::from_be_bytes([0, a, b, c])));
                if kind & 0x7f != 0 {
                    self.window.advance(4);
                    return Ok(Some(Part::Skip(size, last)));
                }
                let Some(info) = rest.get(4..).and_then(|body| body.first_chunk::<STREAM_INFO_BYTES>())
                else {
                    return Ok(None);
                };
                self.stream = Some(FlacStream::new(Encoding::Flac, info)?);
                self.window.advance(4);
                Ok(Some(Part::Skip(size, last)))
            }
            Part::Skip(mut left, last) => {
                self.window.skip(&mut left);
                self.part = Part::Skip(left, last);
                Ok((left == 0).then_some(if last { Part::Search(0) } else { Part::Metadata }))
            }
            Part::Search(strays) => {
                if self.stream.is_none() {
                    return Err(broken("its stream information is missing"));
                }
                if rest.starts_with(b"fLaC") {
                    return Ok(Some(Part::Mark));
                }
                if b"fLaC".starts_with(rest) {
                    return Ok(None);
                }
                match FrameHeader::read(rest) {
                    Found::Header(header) => Ok(Some(Part::Frame { header, seen: 0, crc: 0 })),
                    Found::Unclear => Ok(None),
                    Found::None if strays >= FRAME_BYTES_MAX => Err(broken("no frames can be found")),
                    Found::None => {
                        self.window.advance(1);
                        Ok(Some(Part::Search(strays + 1)))
                    }
                }
            }
            Part::Frame { header, mut seen, mut crc } => {
                let mut next = None;
                for (at, &byte) in rest.iter().enumerate().skip(seen) {
                    // `crc` covers the bytes before `at`: zero when they end in their own check sum.
                    let whole = crc == 0 || CHECKSUMS_IGNORED;
                    if at > header.bytes + 2 && matches!(byte, 0xff | b'f') {
                        let after = rest.get(at..).unwrap_or_default();
                        match FrameHeader::read(after) {
                            // Damage is no reason to lose the frames behind it.
                            Found::Header(found) if whole || header.precedes(&found) => {
                                next = Some((at, whole));
                                break;
                            }
                            Found::Unclear => break,
                            _ if whole && after.starts_with(b"fLaC") => {
                                next = Some((at, true));
                                break;
                            }
                            _ if whole && b"fLaC".starts_with(after) => break,
                            _ => {}
                        }
                    }
                    crc = crc16(crc, byte);
                    seen = at + 1;
                }
                let Some((end, whole)) = next else {
                    self.part = Part::Frame { header, seen, crc };
                    if seen > FRAME_BYTES_MAX {
                        self.window.advance(1);
                        return Ok(Some(Part::Search(FRAME_BYTES_MAX / 2)));
                    }
                    return Ok(None);
                };
                self.deliver(header, end, whole, sink)?;
                Ok(Some(Part::Search(0)))
            }
        }
    }

    fn deliver(
        &mut self,
        header: FrameHeader,
        end: usize,
        whole: bool,
        sink: &mut Sink,
    ) -> Result<(), AudioError> {
        if let Some(stream) = &mut self.stream {
            if whole {
                stream.frame(self.window.rest().get(..end).unwrap_or_default(), header.samples, sink)?;
            } else {
                sink.silence(stream.format.sample_rate_hz, header.samples)?;
            }
        }
        self.window.advance(end);
        Ok(())
    }
}

impl Reader for Flac {
    fn push(&mut self, bytes: &[u8], sink: &mut Sink) -> Result<(), AudioError> {
        self.window.extend(bytes);
        while let Some(next) = self.step(sink)? {
            self.part = next;
        }
        Ok(())
    }

    fn finish(&mut self, sink: &mut Sink) -> Result<(), AudioError> {
        // Nothing follows the last frame that would show its end.
        let Part::Frame { header, .. } = self.part else { return Ok(()) };
        let rest = self.window.rest();
        let whole = rest.iter().fold(0, |crc, byte| crc16(crc, *byte)) == 0;
        if whole { self.deliver(header, rest.len(), true, sink) } else { Ok(()) }
    }

    fn format(&self) -> Option<Format> {
        self.stream.as_ref().map(|stream| stream.format)
    }
}

/// Header of a frame (RFC 9639 section 9.1), as far as the search needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    /// Block sizes may differ, and the number counts samples instead of frames.
    variable: bool,
    number: u64,
    pub(crate) samples: usize,
    bytes: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Header(FrameHeader),
    None,
    /// More bytes decide.
    Unclear,
}

impl FrameHeader {
    pub(crate) fn read(bytes: &[u8]) -> Found {
        let begins_wrong = [(0usize, 0xffu8, 0xffu8), (1, 0xfe, 0xf8)]
            .iter()
            .any(|(at, mask, sync)| bytes.get(*at).is_some_and(|byte| byte & mask != *sync));
        if begins_wrong {
            return Found::None;
        }
        match Self::parse(bytes) {
            Some(found) => found,
            None if bytes.len() >= HEADER_BYTES_MAX => Found::None,
            None => Found::Unclear,
        }
    }

    /// None when the bytes end too early.
    fn parse(bytes: &[u8]) -> Option<Found> {
        let (&sync, &sizes, &layout, &lead) = (bytes.get(1)?, bytes.get(2)?, bytes.get(3)?, bytes.get(4)?);
        let (size_code, rate_code) = (sizes >> 4, sizes & 0x0f);
        // Reserved: block size 0, rate 15, channels above 10, sample size 3, the last bit.
        if size_code == 0 || rate_code == 15 || layout >> 4 > 10 || (layout >> 1) & 7 == 3 || layout & 1 != 0
        {
            return Some(Found::None);
        }
        // The number is written like UTF-8, with up to seven bytes.
        let ones = lead.leading_ones() as usize;
        let following = match ones {
            0 => 0,
            2..=7 => ones - 1,
            _ => return Some(Found::None),
        };
        let mut number = if ones == 0 { u64::from(lead) } else { u64::from(lead) & (0x7f >> ones) };
        let mut at = 5;
        for _ in 0..following {
            let byte = *bytes.get(at)?;
            if byte & 0xc0 != 0x80 {
                return Some(Found::None);
            }
            number = number << 6 | u64::from(byte & 0x3f);
            at += 1;
        }
        let samples = match size_code {
            1 => 192,
            2..=5 => 144usize << size_code,
            6 => {
                at += 1;
                usize::from(*bytes.get(at - 1)?) + 1
            }
            7 => {
                at += 2;
                usize::from(u16::from_be_bytes([*bytes.get(at - 2)?, *bytes.get(at - 1)?])) + 1
            }
            code => 1usize << code,
        };
        at += match rate_code {
            12 => 1,
            13 | 14 => 2,
            _ => 0,
        };
        let check = *bytes.get(at)?;
        if bytes.iter().take(at).fold(0, |crc, byte| crc8(crc, *byte)) != check && !CHECKSUMS_IGNORED {
            return Some(Found::None);
        }
        Some(Found::Header(Self { variable: sync & 1 == 1, number, samples, bytes: at + 1 }))
    }

    /// Whether `next` is numbered as the frame behind this one.
    fn precedes(&self, next: &Self) -> bool {
        let expected = if self.variable { self.number + self.samples as u64 } else { self.number + 1 };
        next.variable == self.variable && next.number == expected
    }
}

/// Polynomial x^8 + x^2 + x + 1 (RFC 9639 section 9.1.8).
const fn crc8(crc: u8, byte: u8) -> u8 {
    let mut crc = crc ^ byte;
    let mut bit = 0;
    while bit < 8 {
        crc = crc << 1 ^ if crc & 0x80 != 0 { 0x07 } else { 0 };
        bit += 1;
    }
    crc
}

/// Polynomial x^16 + x^15 + x^2 + 1 (RFC 9639 section 9.3).
fn crc16(crc: u16, byte: u8) -> u16 {
    const TABLE: [u16; 256] = {
        let mut table = [0u16; 256];
        let mut byte = 0usize;
        while byte < 256 {
            let mut crc = (byte as u16) << 8;
            let mut bit = 0;
            while bit < 8 {
                crc = crc << 1 ^ if crc & 0x8000 != 0 { 0x8005 } else { 0 };
                bit += 1;
            }
            #[expect(clippy::indexing_slicing, reason = "evaluated at compile time")]
            {
                table[byte] = crc;
            }
            byte += 1;
        }
        table
    };
    let [high, low] = crc.to_be_bytes();
    TABLE.get(usize::from(high ^ byte)).copied().unwrap_or_default() ^ u16::from(low) << 8
}
