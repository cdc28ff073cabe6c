use crate::{
    AudioError, Encoding, Format,
    codec::{Codec, Heard},
    decoder::Reader,
    sink::Sink,
    window::Window,
};

/// Bytes without a frame before the data is called no MP3. Tags and covers have their own lengths and do not count.
const STRAY_BYTES_MAX: usize = 64 * 1024;

/// Samples by which any decoder of layer III is late, which encoders reckon with.
const DECODER_DELAY_SAMPLES: usize = 529;

/// Header of a frame of layer III (ISO 11172-3 section 2.4.1.3; MPEG 2.5 is the common extension).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    mpeg1: bool,
    pub(crate) rate_hz: u32,
    pub(crate) channels: u16,
    protected: bool,
    /// With the header; at most 1,441 (320 kbit/s at 32 kHz).
    pub(crate) frame_bytes: usize,
    /// Of each channel.
    pub(crate) samples: usize,
}

const KBITS_MPEG1: [usize; 16] = [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0];
const KBITS_MPEG2: [usize; 16] = [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0];

impl Header {
    /// None when the four bytes are no header, or one with a free bit rate.
    pub(crate) fn read([sync, kind, rates, mode]: [u8; 4]) -> Option<Self> {
        // Eleven bits of sync, the version, layer III (01), protection.
        if sync != 0xff || kind & 0xe6 != 0xe2 {
            return None;
        }
        let (mpeg1, divisor) = match (kind >> 3) & 3 {
            3 => (true, 1),
            2 => (false, 2),
            0 => (false, 4),
            _ => return None,
        };
        let rate_hz = match (rates >> 2) & 3 {
            0 => 44_100 / divisor,
            1 => 48_000 / divisor,
            2 => 32_000 / divisor,
            _ => return None,
        };
        let table = if mpeg1 { &KBITS_MPEG1 } else { &KBITS_MPEG2 };
        let bits = 1_000 * table.get(usize::from(rates >> 4)).copied().filter(|kbits| *kbits > 0)?;
        let samples = if mpeg1 { 1_152 } else { 576 };
        // Emphasis 2 is reserved.
        if mode & 3 == 2 {
            return None;
        }
        let padding = usize::from((rates >> 1) & 1);
        Some(Self {
            mpeg1,
            rate_hz,
            channels: if mode >> 6 == 3 { 1 } else { 2 },
            protected: kind & 1 == 0,
            frame_bytes: samples / 8 * bits / rate_hz as usize + padding,
            samples,
        })
    }

    /// Whether both can belong to one stream.
    pub(crate) fn fits(&self, other: &Self) -> bool {
        self.mpeg1 == other.mpeg1 && self.rate_hz == other.rate_hz
    }
}

/// Whether these bytes, fewer than a header, can be the beginning of one.
pub(crate) fn may_begin(bytes: &[u8]) -> bool {
    bytes.first().is_none_or(|sync| *sync == 0xff) && bytes.get(1).is_none_or(|kind| kind & 0xe6 == 0xe2)
}

/// MP3 frames one after another, with tags before, between and behind them.
#[derive(Default)]
pub(crate) struct Mp3 {
    window: Window,
    /// Bytes of a tag still to come.
    tag: u64,
    /// The header before, while each frame begins where the one before it ended.
    synced: Option<Header>,
    stray: usize,
    codec: Option<(Codec, Header)>,
    /// Samples of the encoder's and decoder's delay still to leave out.
    skip: usize,
}

impl Mp3 {
    /// One frame or one byte of search; false when more bytes are needed.
    fn step(&mut self, at_end: bool, sink: &mut Sink) -> Result<bool, AudioError> {
        self.window.skip(&mut self.tag);
        let rest = self.window.rest();
        if self.tag > 0 || rest.is_empty() {
            return Ok(false);
        }
        if b"ID3".starts_with(rest.get(..3).unwrap_or(rest)) {
            // ID3v2 section 3.1: ten bytes, the last four hold seven bits each; a footer may follow.
            if let Some(&[_, _, _, version, _, flags, a, b, c, d]) = rest.first_chunk::<10>() {
                if version != 0xff && [a, b, c, d].iter().all(|byte| byte & 0x80 == 0) {
                    let size = [a, b, c, d].iter().fold(0, |size, byte| size << 7 | u64::from(*byte));
                    self.tag = size + if flags & 0x10 != 0 { 20 } else { 10 };
                    return Ok(true);
                }
            } else if !at_end {
                return Ok(false);
            }
        }
        let Some(bytes) = rest.first_chunk::<4>() else { return Ok(false) };
        let Some(header) = Header::read(*bytes) else { return self.stray() };
        let frame_bytes = header.frame_bytes;
        let follows = rest.get(frame_bytes..).and_then(|next| next.first_chunk::<4>()).copied();
        let trusted = match (self.synced.is_some_and(|synced| synced.fits(&header)), follows) {
            (true, _) => true,
            (false, Some(next)) => Header::read(next).is_some_and(|next| header.fits(&next)),
            // The only frame there is, whole or with a tag behind it.
            (false, None) if at_end => rest.len() >= frame_bytes,
            (false, None) => return Ok(false),
        };
        if !trusted {
            return self.stray();
        }
        let Some(frame) = rest.get(..frame_bytes) else { return Ok(false) };
        if let Some(delay) = encoder_delay(&header, frame) {
            // A frame of information in place of sound: a file begins.
            self.skip = delay;
            self.codec = None;
        } else {
            if !self.codec.as_ref().is_some_and(|(_, of)| of.fits(&header) && of.channels == header.channels)
            {
                self.codec = Some((Codec::mp3()?, header));
            }
            if let Some((codec, _)) = &mut self.codec
                && codec.packet(frame, &mut self.skip, sink)? == Heard::Nothing
            {
                let skipped = self.skip.min(header.samples);
                self.skip -= skipped;
                sink.silence(header.rate_hz, header.samples - skipped)?;
            }
        }
        self.window.advance(frame_bytes);
        self.synced = Some(header);
        self.stray = 0;
        Ok(true)
    }

    fn stray(&mut self) -> Result<bool, AudioError> {
        self.window.advance(1);
        self.synced = None;
        self.stray += 1;
        if self.stray > STRAY_BYTES_MAX {
            return Err(AudioError::Malformed { encoding: Encoding::Mp3, what: "no frames can be found" });
        }
        Ok(true)
    }
}

impl Reader for Mp3 {
    fn push(&mut self, bytes: &[u8], sink: &mut Sink) -> Result<(), AudioError> {
        self.window.extend(bytes);
        while self.step(false, sink)? {}
        Ok(())
    }

    fn finish(&mut self, sink: &mut Sink) -> Result<(), AudioError> {
        while self.step(true, sink)? {}
        Ok(())
    }

    fn format(&self) -> Option<Format> {
        let (_, header) = self.codec.as_ref()?;
        Format::new(Encoding::Mp3, header.rate_hz, header.channels).ok()
    }
}

/// For a frame that describes its file (Xing, Info or VBRI, by custom of encoders) the samples to leave out at the
/// start; None for a frame of sound.
fn encoder_delay(header: &Header, frame: &[u8]) -> Option<usize> {
    if frame.get(36..40) == Some(b"VBRI") {
        return Some(0);
    }
    let side_info = match (header.mpeg1, header.channels) {
        (true, 2) => 32,
        (false, 1) => 9,
        _ => 17,
    };
    let info = frame.get(4 + if header.protected { 2 } else { 0 } + side_info..)?;
    if !(info.starts_with(b"Xing") || info.starts_with(b"Info")) {
        return None;
    }
    // Which of the counts of frames and bytes, the table of contents and the quality follow.
    let flags = info.get(7).copied()?;
    let fields = [(1, 4), (2, 4), (4, 100), (8, 4)];
    let encoder =
        8 + fields.iter().map(|(flag, bytes)| if flags & flag != 0 { *bytes } else { 0 }).sum::<usize>();
    match info.get(encoder..encoder + 24) {
        Some([b'L', .., a, b, _]) => {
            Some(DECODER_DELAY_SAMPLES + (usize::from(*a) << 4 | usize::from(*b) >> 4))
        }
        _ => Some(0),
    }
}
