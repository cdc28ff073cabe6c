use crate::{
    AudioError, Encoding, Format,
    decoder::Reader,
    opus::{CLOCK_HZ, OpusHead, OpusStream},
    pcm::{Pcm, Sample},
    sink::Sink,
    window::Window,
};

/// Largest block of the sound track: the longest message of PCM a recorder makes is a tenth of it.
const BLOCK_BYTES_MAX: usize = 256 * 1024;

/// Largest value that is read inside a track entry; longer ones are skipped.
const VALUE_BYTES_MAX: u64 = 4 * 1024;

/// Longest header of an element: four bytes of id, eight of size.
const ELEMENT_HEADER_BYTES_MAX: usize = 12;

/// Ids of the elements that are looked at (RFC 9559 section 5, RFC 8794 section 11).
mod id {
    pub(super) const EBML: u32 = 0x1a45_dfa3;
    pub(super) const SEGMENT: u32 = 0x1853_8067;
    pub(super) const CLUSTER: u32 = 0x1f43_b675;
    pub(super) const BLOCK_GROUP: u32 = 0xa0;
    pub(super) const BLOCK: u32 = 0xa1;
    pub(super) const SIMPLE_BLOCK: u32 = 0xa3;
    pub(super) const TRACKS: u32 = 0x1654_ae6b;
    pub(super) const TRACK_ENTRY: u32 = 0xae;
    pub(super) const TRACK_NUMBER: u32 = 0xd7;
    pub(super) const TRACK_TYPE: u32 = 0x83;
    pub(super) const CODEC_ID: u32 = 0x86;
    pub(super) const CODEC_PRIVATE: u32 = 0x63a2;
    pub(super) const AUDIO: u32 = 0xe1;
    pub(super) const SAMPLING_FREQUENCY: u32 = 0xb5;
    pub(super) const CHANNELS: u32 = 0x9f;
    pub(super) const BIT_DEPTH: u32 = 0x6264;
}

fn broken(what: &'static str) -> AudioError {
    AudioError::Malformed { encoding: Encoding::Webm, what }
}

/// WebM as one endless stream of elements. Masters that matter are entered without remembering where they end, so
/// segments and clusters of unknown size need no care; everything else is skipped by its size.
#[derive(Default)]
pub(crate) struct Webm {
    window: Window,
    skip: u64,
    /// The EBML header was seen.
    begun: bool,
    entry: Entry,
    track: Option<Track>,
}

/// A track entry while it is read.
#[derive(Default)]
struct Entry {
    number: u64,
    kind: u64,
    codec_id: Vec<u8>,
    codec_private: Vec<u8>,
    rate_hz: f64,
    channels: u64,
    bit_depth: u64,
}

/// The track that is heard: the first with a codec of ours.
struct Track {
    number: u64,
    codec: Codec,
}

enum Codec {
    Opus(OpusStream),
    Pcm(Pcm),
}

impl Webm {
    /// One element; false when more bytes are needed.
    fn step(&mut self, sink: &mut Sink) -> Result<bool, AudioError> {
        self.window.skip(&mut self.skip);
        let rest = self.window.rest();
        if self.skip > 0 || rest.is_empty() {
            return Ok(false);
        }
        let Some(element) = Element::read(rest)? else {
            // A wrong beginning is told before its header is complete.
            if !self.begun && !id::EBML.to_be_bytes().starts_with(rest.get(..4).unwrap_or(rest)) {
                return Err(AudioError::HeaderMissing(Encoding::Webm));
            }
            return Ok(false);
        };
        if !self.begun && element.id != id::EBML {
            return Err(AudioError::HeaderMissing(Encoding::Webm));
        }
        match element.id {
            id::EBML => {
                // A recorder that was stopped and started again.
                *self = Self { window: std::mem::take(&mut self.window), begun: true, ..Self::default() };
            }
            id::SEGMENT | id::TRACKS | id::AUDIO | id::BLOCK_GROUP => {
                self.window.advance(element.header_bytes);
                return Ok(true);
            }
            id::TRACK_ENTRY | id::CLUSTER => {
                self.window.advance(element.header_bytes);
                let entry = std::mem::take(&mut self.entry);
                if self.track.is_none() {
                    self.track = entry.open()?;
                }
                if element.id == id::CLUSTER && self.track.is_none() {
                    return Err(AudioError::Unsupported("WebM without an Opus or PCM track"));
                }
                return Ok(true);
            }
            id::SIMPLE_BLOCK | id::BLOCK => return self.block(element, sink),
            id::TRACK_NUMBER
            | id::TRACK_TYPE
            | id::CODEC_ID
            | id::CODEC_PRIVATE
            | id::SAMPLING_FREQUENCY
            | id::CHANNELS
            | id::BIT_DEPTH
                if element.size.is_some_and(|size| size <= VALUE_BYTES_MAX) =>
            {
                let Some(value) = element.body(rest) else { return Ok(false) };
                self.entry.value(element.id, value);
            }
            _ => {}
        }
        self.skip = element.size.ok_or_else(|| broken("an element of unknown size cannot be skipped"))?;
        self.window.advance(element.header_bytes);
        Ok(true)
    }

    fn block(&mut self, element: Element, sink: &mut Sink) -> Result<bool, AudioError> {
        let size = element.size.ok_or_else(|| broken("a block has no size"))?;
        let rest = self.window.rest();
        let inside = rest.get(element.header_bytes..).unwrap_or_default();
        let inside = inside.get(..usize::try_from(size).unwrap_or(usize::MAX)).unwrap_or(inside);
        let Some((number, _)) = vint(inside) else {
            // Eight bytes or the whole block always hold the number, when it is one.
            return if inside.len() >= 8 || inside.len() as u64 == size {
                Err(broken("a block has no track"))
            } else {
                Ok(false)
            };
        };
        let Some(track) = self.track.as_mut().filter(|track| Some(track.number) == number) else {
            self.skip = size;
            self.window.advance(element.header_bytes);
            return Ok(true);
        };
        if size > BLOCK_BYTES_MAX as u64 {
            let (encoding, bytes_max) = (Encoding::Webm, BLOCK_BYTES_MAX);
            return Err(AudioError::ElementTooLarge { encoding, what: "a block", bytes_max });
        }
        let Some(block) = element.body(rest) else { return Ok(false) };
        frames(block, |frame| match &mut track.codec {
            Codec::Opus(opus) => opus.packet(frame, u64::MAX, sink).map(|_| ()),
            Codec::Pcm(pcm) => pcm.push(frame, sink),
        })?;
        self.window.advance(element.header_bytes + block.len());
        Ok(true)
    }
}

impl Reader for Webm {
    fn push(&mut self, bytes: &[u8], sink: &mut Sink) -> Result<(), AudioError> {
        self.window.extend(bytes);
        while self.step(sink)? {}
        Ok(())
    }

    fn finish(&mut self, _: &mut Sink) -> Result<(), AudioError> {
        Ok(())
    }

    fn format(&self) -> Option<Format> {
        match &self.track.as_ref()?.codec {
            Codec::Opus(opus) => Format::new(Encoding::Webm, CLOCK_HZ, u16::from(opus.channels)).ok(),
            Codec::Pcm(pcm) => pcm.format(),
        }
    }
}

impl Entry {
    fn value(&mut self, id: u32, value: &[u8]) {
        let number = || value.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte));
        match id {
            id::TRACK_NUMBER => self.number = number(),
            id::TRACK_TYPE => self.kind = number(),
            id::CODEC_ID => self.codec_id = value.to_vec(),
            id::CODEC_PRIVATE => self.codec_private = value.to_vec(),
            id::CHANNELS => self.channels = number(),
            id::BIT_DEPTH => self.bit_depth = number(),
            _ => {
                self.rate_hz = match *value {
                    [a, b, c, d] => f64::from(f32::from_be_bytes([a, b, c, d])),
                    [a, b, c, d, e, f, g, h] => f64::from_be_bytes([a, b, c, d, e, f, g, h]),
                    _ => 0.0,
                }
            }
        }
    }

    /// The track to hear, or None when this one is no sound of ours.
    fn open(self) -> Result<Option<Track>, AudioError> {
        const SOUND: u64 = 2;
        if self.kind != SOUND {
            return Ok(None);
        }
        // One channel when nothing is said (RFC 9559 section 5.1.4.1.29.3).
        let channels = u16::try_from(self.channels.max(1)).unwrap_or(u16::MAX);
        let codec_id = self.codec_id.split(|byte| *byte == 0).next().unwrap_or_default();
        let sample = match (codec_id, self.bit_depth) {
            (b"A_OPUS", _) => {
                let head = if self.codec_private.is_empty() {
                    OpusHead::plain(u8::try_from(channels).unwrap_or(u8::MAX))
                } else {
                    OpusHead::read(Encoding::Webm, &self.codec_private)?
                };
                let codec = Codec::Opus(OpusStream::new(Encoding::Webm, &head)?);
                return Ok(Some(Track { number: self.number, codec }));
            }
            (b"A_PCM/FLOAT/IEEE", 64) => Sample::F64,
            (b"A_PCM/FLOAT/IEEE", _) => Sample::F32,
            (b"A_PCM/INT/LIT", 8) => Sample::U8,
            (b"A_PCM/INT/LIT", 24) => Sample::S24,
            (b"A_PCM/INT/LIT", 32) => Sample::S32,
            (b"A_PCM/INT/LIT", _) => Sample::S16,
            _ => return Ok(None),
        };
        let format = Format::new(Encoding::Webm, self.rate_hz.round() as u32, channels)?;
        Ok(Some(Track { number: self.number, codec: Codec::Pcm(Pcm::new(format, sample)) }))
    }
}

/// The header of an element (RFC 8794 sections 4 to 6).
#[derive(Debug, Clone, Copy)]
struct Element {
    id: u32,
    /// None: unknown.
    size: Option<u64>,
    header_bytes: usize,
}

impl Element {
    /// None when the bytes end too early.
    fn read(bytes: &[u8]) -> Result<Option<Self>, AudioError> {
        let Some(first) = bytes.first() else { return Ok(None) };
        let id_bytes = first.leading_zeros() as usize + 1;
        if id_bytes > 4 {
            return Err(broken("an element has no legal id"));
        }
        let Some((id, rest)) = bytes.split_at_checked(id_bytes) else { return Ok(None) };
        let id = id.iter().fold(0, |id, byte| id << 8 | u32::from(*byte));
        match vint(rest) {
            Some((size, size_bytes)) => Ok(Some(Self { id, size, header_bytes: id_bytes + size_bytes })),
            None if rest.len() >= ELEMENT_HEADER_BYTES_MAX - 4 => Err(broken("an element has no legal size")),
            None => Ok(None),
        }
    }

    /// The body, when all of it is there.
    fn body<'a>(&self, from_header: &'a [u8]) -> Option<&'a [u8]> {
        from_header.get(self.header_bytes..)?.get(..usize::try_from(self.size?).ok()?)
    }
}

/// A number of variable length, None for all ones, and how many bytes it took. None when the bytes end too early or
/// when the first is zero, which no length has.
fn vint(bytes: &[u8]) -> Option<(Option<u64>, usize)> {
    let first = *bytes.first()?;
    let count = first.leading_zeros() as usize + 1;
    if count > 8 {
        return None;
    }
    let tail = bytes.get(1..count)?;
    let bits = 7 * count as u32;
    let number = tail.iter().fold(u64::from(first), |number, byte| number << 8 | u64::from(*byte));
    let all_ones = (1u64 << bits) - 1;
    let number = number & all_ones;
    Some(((number != all_ones).then_some(number), count))
}

/// Calls `each` with the frames of a block (RFC 9559 section 10): track, two bytes of time, flags, lacing, frames.
fn frames(block: &[u8], mut each: impl FnMut(&[u8]) -> Result<(), AudioError>) -> Result<(), AudioError> {
    let short = || broken("a block is too short");
    let (_, track_bytes) = vint(block).ok_or_else(short)?;
    let (&[_, _, flags], body) =
        block.get(track_bytes..).and_then(|rest| rest.split_first_chunk::<3>()).ok_or_else(short)?;
    let lacing = (flags >> 1) & 3;
    if lacing == 0 {
        return each(body);
    }
    let (&last, mut rest) = body.split_first().ok_or_else(short)?;
    let last = usize::from(last);
    // The sizes of all frames but the last, which takes what remains.
    let mut sizes = Vec::with_capacity(last);
    match lacing {
        1 => {
            for _ in 0..last {
                let mut size = 0;
                loop {
                    let (&byte, later) = rest.split_first().ok_or_else(short)?;
                    rest = later;
                    size += usize::from(byte);
                    if byte < 255 {
                        break;
                    }
                }
                sizes.push(size);
            }
        }
        2 => sizes.resize(last, rest.len() / (last + 1)),
        _ => {
            let mut size = 0i64;
            for frame in 0..last {
                let (number, bytes) = vint(rest).ok_or_else(short)?;
                let number = i64::try_from(number.unwrap_or(0)).map_err(|_| short())?;
                // Sizes after the first are differences, with the middle of their range as zero.
                let middle = if frame == 0 { 0 } else { (1i64 << (7 * bytes - 1)) - 1 };
                size = size.checked_add(number - middle).filter(|size| *size >= 0).ok_or_else(short)?;
                rest = rest.get(bytes..).ok_or_else(short)?;
                sizes.push(usize::try_from(size).map_err(|_| short())?);
            }
        }
    }
    for size in sizes {
        let (frame, later) = rest.split_at_checked(size).ok_or_else(short)?;
        rest = later;
        each(frame)?;
    }
    each(rest)
}

/// Whether a stream begins in the middle of a WebM recording: with a cluster, or with two blocks of track 1, as the
/// later pieces of a recorder do.
pub(crate) fn begins_inside(first: &[u8]) -> bool {
    if first.starts_with(&id::CLUSTER.to_be_bytes()) {
        return true;
    }
    let is_block = |bytes: &[u8]| match Element::read(bytes) {
        Ok(Some(Element { id: id::SIMPLE_BLOCK, size: Some(size), header_bytes })) => {
            match bytes.get(header_bytes..header_bytes + 4) {
                Some(&[0x81, _, _, 0 | 0x80]) => usize::try_from(size).ok().map(|size| header_bytes + size),
                _ => None,
            }
        }
        _ => None,
    };
    is_block(first).is_some_and(|next| first.get(next..).and_then(is_block).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn laced(block: &[u8]) -> Result<Vec<Vec<u8>>, AudioError> {
        let mut found = Vec::new();
        frames(block, |frame| {
            found.push(frame.to_vec());
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn every_lacing_is_read() {
        let cases: [(&[u8], &[&[u8]]); 4] = [
            (b"\x81\0\0\x80abc", &[b"abc"]),
            (b"\x81\0\0\x02\x02\x01\x02abbccc", &[b"a", b"bb", b"ccc"]),
            (b"\x81\0\0\x04\x02aabbcc", &[b"aa", b"bb", b"cc"]),
            // The second is one shorter than the first: 62 stands for -1.
            (b"\x81\0\0\x06\x02\x82\xbeaabccc", &[b"aa", b"b", b"ccc"]),
        ];
        for (block, expected) in cases {
            assert_eq!(laced(block).unwrap(), expected, "{block:?}");
        }
        for block in [
            &b"\x81\0"[..],
            b"",
            b"\x81\0\0\x02\x02\xff",
            b"\x81\0\0\x02\x01\x09a",
            b"\x81\0\0\x06\x02\x82\x80",
        ] {
            assert!(laced(block).is_err(), "{block:?}");
        }
    }

    #[test]
    fn numbers_of_variable_length() {
        assert_eq!(vint(&[0x81]), Some((Some(1), 1)));
        assert_eq!(vint(&[0x40, 0x02]), Some((Some(2), 2)));
        assert_eq!(vint(&[0xff]), Some((None, 1)));
        assert_eq!(vint(&[0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), Some((None, 8)));
        assert_eq!(vint(&[0x40]), None);
        assert_eq!(vint(&[0x00; 12]), None);
    }
}
