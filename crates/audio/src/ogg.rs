use crate::{
    AudioError, CHECKSUMS_IGNORED, Encoding, Format,
    decoder::Reader,
    flac::{FlacStream, Found, FrameHeader, STREAM_INFO_BYTES},
    opus::{CLOCK_HZ, OpusHead, OpusStream},
    sink::Sink,
    window::Window,
};

/// Largest packet that is kept. Sound packets are far smaller; comments with a picture are larger, and only their
/// beginning matters.
const PACKET_BYTES_MAX: usize = 128 * 1024;

/// Bytes without a page before the data is called no Ogg.
const STRAY_BYTES_MAX: usize = 128 * 1024;

const PAGE_HEADER_BYTES: usize = 27;

fn broken(what: &'static str) -> AudioError {
    AudioError::Malformed { encoding: Encoding::Ogg, what }
}

/// Ogg pages (RFC 3533) with one sound stream after another: the first of each group of logical streams that holds
/// Opus or FLAC.
#[derive(Default)]
pub(crate) struct Ogg {
    window: Window,
    stray: usize,
    stream: Option<Stream>,
    /// A logical stream began that we cannot read.
    other_began: bool,
}

/// The logical stream that is heard.
struct Stream {
    serial: u32,
    codec: Codec,
    packet: Vec<u8>,
    /// Packets of headers still to come; None while FLAC does not say how many.
    headers_left: Option<u16>,
    ended: bool,
    /// Position at the end of the page before, in ticks of the codec.
    position: Option<u64>,
}

enum Codec {
    Opus(OpusStream),
    Flac(Box<FlacStream>),
}

/// One page, still where it was received.
#[derive(Clone, Copy)]
struct Page<'a> {
    continues: bool,
    begins: bool,
    ends: bool,
    granule: Option<u64>,
    serial: u32,
    lacing: &'a [u8],
    body: &'a [u8],
}

impl Ogg {
    /// One page or a search for one; false when more bytes are needed.
    fn step(&mut self, sink: &mut Sink) -> Result<bool, AudioError> {
        let Self { window, stray, stream, other_began } = self;
        let rest = window.rest();
        if rest.len() < PAGE_HEADER_BYTES {
            return Ok(false);
        }
        let Some(page_bytes) = page_bytes(rest) else {
            let next = rest.iter().skip(1).position(|byte| *byte == b'O').map_or(rest.len(), |at| at + 1);
            *stray += next;
            window.advance(next);
            return if *stray > STRAY_BYTES_MAX { Err(broken("no pages can be found")) } else { Ok(true) };
        };
        let Some(bytes) = rest.get(..page_bytes) else { return Ok(false) };
        let Some(page) = Page::read(bytes) else {
            *stray += 1;
            window.advance(1);
            return Ok(true);
        };
        *stray = 0;
        if page.begins {
            // A new group follows the sound or the end of the one before; beside it, others are ignored.
            if stream.as_ref().is_none_or(|stream| stream.ended || stream.headers_left == Some(0)) {
                match Stream::begin(page)? {
                    Some(begun) => *stream = Some(begun),
                    None => *other_began = true,
                }
            }
        } else if let Some(stream) = stream {
            if stream.serial == page.serial {
                stream.page(page, sink)?;
            }
        } else if *other_began {
            return Err(AudioError::Unsupported("this codec inside Ogg"));
        } else {
            return Err(AudioError::HeaderMissing(Encoding::Ogg));
        }
        window.advance(page_bytes);
        Ok(true)
    }
}

impl Reader for Ogg {
    fn push(&mut self, bytes: &[u8], sink: &mut Sink) -> Result<(), AudioError> {
        self.window.extend(bytes);
        while self.step(sink)? {}
        Ok(())
    }

    fn finish(&mut self, _: &mut Sink) -> Result<(), AudioError> {
        Ok(())
    }

    fn format(&self) -> Option<Format> {
        match &self.stream.as_ref()?.codec {
            Codec::Opus(opus) => Format::new(Encoding::Ogg, CLOCK_HZ, u16::from(opus.channels)).ok(),
            Codec::Flac(flac) => Some(flac.format),
        }
    }
}

impl Stream {
    /// The stream that a first page opens, or None when its codec is not ours.
    fn begin(page: Page<'_>) -> Result<Option<Self>, AudioError> {
        let (codec, headers_left) = if page.body.starts_with(b"OpusHead") {
            (
                Codec::Opus(OpusStream::new(Encoding::Ogg, &OpusHead::read(Encoding::Ogg, page.body)?)?),
                Some(1),
            )
        } else if page.body.starts_with(b"\x7fFLAC\x01") {
            // RFC 9639 section 10.1: version, number of header packets (0: unknown), `fLaC`, block header, STREAMINFO.
            let (Some(&[h0, h1]), Some(info)) = (
                page.body.get(7..9).and_then(|n| n.first_chunk()),
                page.body.get(17..17 + STREAM_INFO_BYTES),
            ) else {
                return Err(broken("its FLAC header is too short"));
            };
            let Some(info) = info.first_chunk::<STREAM_INFO_BYTES>() else { return Ok(None) };
            let headers = u16::from_be_bytes([h0, h1]);
            (Codec::Flac(Box::new(FlacStream::new(Encoding::Ogg, info)?)), (headers > 0).then_some(headers))
        } else {
            return Ok(None);
        };
        let (serial, ended) = (page.serial, page.ends);
        Ok(Some(Self { serial, codec, packet: Vec::new(), headers_left, ended, position: None }))
    }

    fn page(&mut self, page: Page<'_>, sink: &mut Sink) -> Result<(), AudioError> {
        // The rest of a packet whose beginning was lost, or a beginning whose rest was.
        let mut dropped = page.continues && self.packet.is_empty();
        if !page.continues {
            self.packet.clear();
        }
        // Only the last page says that less was recorded than was encoded (RFC 7845 section 4.4).
        let mut ticks_left = match (page.ends, page.granule, self.position) {
            (true, Some(end), position) if end >= position.unwrap_or(0) => end - position.unwrap_or(0),
            _ => u64::MAX,
        };
        let mut body = page.body;
        for &size in page.lacing {
            let (piece, later) = body.split_at_checked(usize::from(size)).unwrap_or((body, &[]));
            body = later;
            if !dropped && self.packet.len() < PACKET_BYTES_MAX {
                self.packet.extend_from_slice(piece);
            }
            if size < 255 {
                if !std::mem::take(&mut dropped) {
                    let packet = std::mem::take(&mut self.packet);
                    let ticks = self.packet(&packet, ticks_left, sink)?;
                    ticks_left =
                        if ticks_left == u64::MAX { u64::MAX } else { ticks_left.saturating_sub(ticks) };
                    self.packet = packet;
                }
                self.packet.clear();
            }
        }
        self.position = page.granule.or(self.position);
        self.ended |= page.ends;
        Ok(())
    }

    /// Ticks that the packet lasted.
    fn packet(&mut self, packet: &[u8], ticks_max: u64, sink: &mut Sink) -> Result<u64, AudioError> {
        match (&mut self.codec, &mut self.headers_left) {
            (_, Some(left)) if *left > 0 => {
                *left -= 1;
                Ok(0)
            }
            (Codec::Opus(opus), _) => opus.packet(packet, ticks_max, sink),
            (Codec::Flac(flac), headers_left) => {
                if let Found::Header(header) = FrameHeader::read(packet) {
                    *headers_left = Some(0);
                    flac.frame(packet, header.samples, sink)?;
                }
                Ok(0)
            }
        }
    }
}

/// The length of the page at the start of `bytes`, which hold a header at least; None when there is no page. It is
/// an estimate of the header alone while the lacing is not complete.
fn page_bytes(bytes: &[u8]) -> Option<usize> {
    if !bytes.starts_with(b"OggS\0") {
        return None;
    }
    let lacing = usize::from(*bytes.get(26)?);
    match bytes.get(PAGE_HEADER_BYTES..PAGE_HEADER_BYTES + lacing) {
        Some(sizes) => {
            Some(PAGE_HEADER_BYTES + lacing + sizes.iter().map(|size| usize::from(*size)).sum::<usize>())
        }
        None => Some(PAGE_HEADER_BYTES + lacing),
    }
}

impl<'a> Page<'a> {
    /// None when the check sum is wrong.
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (header, rest) = bytes.split_first_chunk::<PAGE_HEADER_BYTES>()?;
        let [
            _,
            _,
            _,
            _,
            _,
            flags,
            g0,
            g1,
            g2,
            g3,
            g4,
            g5,
            g6,
            g7,
            s0,
            s1,
            s2,
            s3,
            _,
            _,
            _,
            _,
            c0,
            c1,
            c2,
            c3,
            lacing,
        ] = *header;
        // The check sum is taken with zeros in its own place.
        let crc = bytes
            .iter()
            .enumerate()
            .fold(0, |crc, (at, byte)| crc32(crc, if (22..26).contains(&at) { 0 } else { *byte }));
        if crc != u32::from_le_bytes([c0, c1, c2, c3]) && !CHECKSUMS_IGNORED {
            return None;
        }
        let (lacing, body) = rest.split_at_checked(usize::from(lacing))?;
        let granule = u64::from_le_bytes([g0, g1, g2, g3, g4, g5, g6, g7]);
        Some(Self {
            continues: flags & 1 != 0,
            begins: flags & 2 != 0,
            ends: flags & 4 != 0,
            // All ones: no packet ends on this page.
            granule: (granule != u64::MAX).then_some(granule),
            serial: u32::from_le_bytes([s0, s1, s2, s3]),
            lacing,
            body,
        })
    }
}

/// Polynomial 0x04c11db7, no reflection (RFC 3533 section 6).
fn crc32(crc: u32, byte: u8) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0u32; 256];
        let mut byte = 0usize;
        while byte < 256 {
            let mut crc = (byte as u32) << 24;
            let mut bit = 0;
            while bit < 8 {
                crc = crc << 1 ^ if crc & 0x8000_0000 != 0 { 0x04c1_1db7 } else { 0 };
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
    let [high, ..] = crc.to_be_bytes();
    TABLE.get(usize::from(high ^ byte)).copied().unwrap_or_default() ^ crc << 8
}
