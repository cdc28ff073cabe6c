use std::time::Duration;

use model::{SAMPLE_RATE_HZ, Samples};

/// Bytes within which a WAV's `data` chunk must begin. Cover art and notes may stand before it.
pub const HEAD_BYTES_MAX: usize = 1 << 20;

/// How bytes and time relate in sound whose every sample takes the same room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measure {
    /// Samples a second and channel.
    pub rate_hz: u32,
    /// Bytes of one sample of every channel.
    pub sample_bytes: u32,
}

impl Measure {
    /// The time that `bytes` last, in samples of 16 kHz, rounded down.
    pub fn samples(self, bytes: u64) -> Samples {
        let samples = u128::from(bytes) / u128::from(self.sample_bytes.max(1));
        Samples(
            u64::try_from(samples * u128::from(SAMPLE_RATE_HZ) / u128::from(self.rate_hz.max(1)))
                .unwrap_or(u64::MAX),
        )
    }

    /// The bytes before a position, rounded down to whole samples, so that what is sent from there misses nothing.
    pub fn bytes(self, position: Samples) -> u64 {
        let samples = u128::from(position.0) * u128::from(self.rate_hz) / u128::from(SAMPLE_RATE_HZ);
        u64::try_from(samples * u128::from(self.sample_bytes)).unwrap_or(u64::MAX)
    }

    /// Whole samples that last about `span`; at least one.
    pub fn bytes_of(self, span: Duration) -> usize {
        let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let samples = millis.saturating_mul(u64::from(self.rate_hz)) / 1000;
        usize::try_from(samples.max(1).saturating_mul(u64::from(self.sample_bytes))).unwrap_or(usize::MAX)
    }
}

/// What kind of sound a source holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Samples without a header.
    Raw {
        /// The protocol's name of the encoding.
        encoding: &'static str,
        /// Channels, interleaved.
        channels: u16,
        /// How bytes and time relate.
        measure: Measure,
    },
    /// A WAV whose samples all take the same room.
    Wav {
        /// Bytes before the first sample.
        header_bytes: usize,
        /// Bytes of samples; `None` when the writer did not know (a pipe).
        data_bytes: Option<u64>,
        /// How bytes and time relate.
        measure: Measure,
    },
    /// A container that only the server looks into; bytes say nothing about time.
    Packed {
        /// The protocol's name of the encoding.
        encoding: &'static str,
    },
}

impl Kind {
    /// How bytes and time relate, where they do.
    pub fn measure(&self) -> Option<Measure> {
        match self {
            Self::Raw { measure, .. } | Self::Wav { measure, .. } => Some(*measure),
            Self::Packed { .. } => None,
        }
    }

    /// The name in `init`.
    pub fn encoding(&self) -> &'static str {
        match self {
            Self::Raw { encoding, .. } | Self::Packed { encoding } => encoding,
            Self::Wav { .. } => "wav",
        }
    }
}

/// What the first bytes of a source tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sniffed {
    /// This.
    Kind(Kind),
    /// No container that is known; raw samples look like that.
    Unknown,
    /// A container that the server does not read, by its usual name.
    Foreign(&'static str),
    /// A container that is broken at its beginning.
    Broken(&'static str),
    /// More bytes are needed to tell.
    More,
}

/// Tells a container by its first bytes. `ended` when no more will come.
pub fn sniff(head: &[u8], ended: bool) -> Sniffed {
    if head.starts_with(b"RIFF") || (!ended && b"RIFF".starts_with(head)) {
        return match head.get(8..12) {
            None if !ended => Sniffed::More,
            Some(b"WAVE") => wav(head, ended),
            _ => Sniffed::Foreign("RIFF, but not WAVE"),
        };
    }
    if head.len() < 12 && !ended {
        return Sniffed::More;
    }
    let packed = |encoding| Sniffed::Kind(Kind::Packed { encoding });
    match head {
        [0x1A, 0x45, 0xDF, 0xA3, ..] => packed("webm"),
        [b'O', b'g', b'g', b'S', ..] => packed("ogg"),
        [b'f', b'L', b'a', b'C', ..] => packed("flac"),
        [b'I', b'D', b'3', ..] => packed("mp3"),
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => Sniffed::Foreign("MP4 or M4A"),
        [b'F', b'O', b'R', b'M', ..] => Sniffed::Foreign("AIFF"),
        [b'R', b'F', b'6', b'4', ..] | [b'B', b'W', b'6', b'4', ..] => Sniffed::Foreign("RF64"),
        [b'F', b'L', b'V', ..] => Sniffed::Foreign("FLV"),
        [b'.', b's', b'n', b'd', ..] => Sniffed::Foreign("AU"),
        [b'#', b'!', b'A', b'M', b'R', ..] => Sniffed::Foreign("AMR"),
        [0xFF, 0xF1 | 0xF9, ..] => Sniffed::Foreign("AAC"),
        [0xFF, second, third, ..] if mpeg_layer_3(*second, *third) => packed("mp3"),
        _ => Sniffed::Unknown,
    }
}

/// Whether two bytes after 0xFF continue the header of a frame of MPEG audio layer III (ISO 11172-3, 2.4.1.3).
fn mpeg_layer_3(second: u8, third: u8) -> bool {
    let (sync, version, layer) = (second & 0xE0, second >> 3 & 3, second >> 1 & 3);
    let (bit_rate, sample_rate) = (third >> 4, third >> 2 & 3);
    sync == 0xE0 && version != 1 && layer == 1 && bit_rate != 0 && bit_rate != 15 && sample_rate != 3
}

/// Reads a RIFF WAVE header ("Multimedia Programming Interface and Data Specifications 1.0") up to its samples.
fn wav(head: &[u8], ended: bool) -> Sniffed {
    let more = if ended || head.len() >= HEAD_BYTES_MAX {
        Sniffed::Broken("its header names no samples")
    } else {
        Sniffed::More
    };
    let mut measure = None;
    let mut at = 12_usize;
    loop {
        let Some([i0, i1, i2, i3, l0, l1, l2, l3]) = head.get(at..at.saturating_add(8)) else { return more };
        let length = u32::from_le_bytes([*l0, *l1, *l2, *l3]);
        let body = at.saturating_add(8);
        match &[*i0, *i1, *i2, *i3] {
            b"data" => {
                return match measure {
                    None => Sniffed::Broken("its samples come before their description"),
                    Some(None) => Sniffed::Kind(Kind::Packed { encoding: "wav" }),
                    Some(Some(measure)) => Sniffed::Kind(Kind::Wav {
                        header_bytes: body,
                        // Writers to a pipe put 0 or the greatest numbers.
                        data_bytes: Some(u64::from(length)).filter(|_| length != 0 && length < 0xFFFF_F000),
                        measure,
                    }),
                };
            }
            b"fmt " => {
                let Some(fields) = head.get(body..body.saturating_add(16)) else { return more };
                let Some(found) = wav_measure(fields) else {
                    return Sniffed::Broken("it describes no samples");
                };
                measure = Some(found);
            }
            _ => {}
        }
        // Chunks are padded to an even length.
        at = body
            .saturating_add(usize::try_from(length).unwrap_or(usize::MAX))
            .saturating_add((length & 1) as usize);
        if at > HEAD_BYTES_MAX {
            return Sniffed::Broken("its header is too long");
        }
    }
}

/// Outer `None`: nonsense. Inner `None`: a compressed kind, whose bytes say nothing about time.
fn wav_measure(fields: &[u8]) -> Option<Option<Measure>> {
    let [t0, t1, c0, c1, r0, r1, r2, r3, _, _, _, _, b0, b1, ..] = fields else { return None };
    let (tag, channels) = (u16::from_le_bytes([*t0, *t1]), u16::from_le_bytes([*c0, *c1]));
    let rate_hz = u32::from_le_bytes([*r0, *r1, *r2, *r3]);
    let sample_bytes = u32::from(u16::from_le_bytes([*b0, *b1]));
    if channels == 0 || rate_hz == 0 || sample_bytes == 0 {
        return None;
    }
    // PCM, float, A-law, mu-law, extensible (whose sub-format is one of these in practice).
    let even = matches!(tag, 1 | 3 | 6 | 7 | 0xFFFE);
    Some(even.then_some(Measure { rate_hz, sample_bytes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CD: Measure = Measure { rate_hz: 44_100, sample_bytes: 4 };

    /// A WAV header with chunks before `data`.
    fn header(
        tag: u16,
        rate_hz: u32,
        channels: u16,
        bits: u16,
        before: &[(&[u8; 4], usize)],
        data: u32,
    ) -> Vec<u8> {
        let mut bytes = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0".to_vec();
        let block = channels * bits / 8;
        bytes.extend(tag.to_le_bytes());
        bytes.extend(channels.to_le_bytes());
        bytes.extend(rate_hz.to_le_bytes());
        bytes.extend((rate_hz * u32::from(block)).to_le_bytes());
        bytes.extend(block.to_le_bytes());
        bytes.extend(bits.to_le_bytes());
        for (name, length) in before {
            bytes.extend(*name);
            bytes.extend((*length as u32).to_le_bytes());
            bytes.extend(vec![0; length + (length & 1)]);
        }
        bytes.extend(b"data");
        bytes.extend(data.to_le_bytes());
        bytes
    }

    #[test]
    fn bytes_and_time_agree() {
        assert_eq!(CD.samples(44_100 * 4), Samples(16_000));
        assert_eq!(CD.bytes(Samples(16_000)), 44_100 * 4);
        assert_eq!(CD.bytes(Samples(1)), 2 * 4);
        assert_eq!(CD.bytes_of(Duration::from_millis(100)), 4410 * 4);
        let phone = Measure { rate_hz: 8000, sample_bytes: 1 };
        assert_eq!(phone.samples(8000), Samples(16_000));
        assert_eq!(phone.bytes_of(Duration::ZERO), 1);
        assert_eq!(CD.bytes(Samples(u64::MAX)), u64::MAX);
        for position in [0, 1, 999, 15_999, 123_457] {
            assert!(
                CD.samples(CD.bytes(Samples(position))) <= Samples(position),
                "re-sending starts no later"
            );
        }
    }

    #[test]
    fn wav_headers_give_the_pace() {
        for (bytes, header_bytes, data_bytes, measure) in [
            (header(1, 44_100, 2, 16, &[], 400), 44, Some(400), CD),
            (header(1, 44_100, 2, 16, &[(b"LIST", 5)], u32::MAX), 58, None, CD),
            (
                header(3, 16_000, 1, 32, &[(b"fact", 4)], 0),
                56,
                None,
                Measure { rate_hz: 16_000, sample_bytes: 4 },
            ),
            (header(7, 8000, 1, 8, &[], 1), 44, Some(1), Measure { rate_hz: 8000, sample_bytes: 1 }),
        ] {
            let expected = Sniffed::Kind(Kind::Wav { header_bytes, data_bytes, measure });
            assert_eq!(sniff(&bytes, false), expected);
            for cut in 1..bytes.len() {
                assert_eq!(sniff(&bytes[..cut], false), Sniffed::More, "{cut}");
                assert!(!matches!(sniff(&bytes[..cut], true), Sniffed::Kind(_) | Sniffed::More), "{cut}");
            }
        }
        let adpcm = header(17, 8000, 1, 8, &[], 99);
        assert_eq!(sniff(&adpcm, false), Sniffed::Kind(Kind::Packed { encoding: "wav" }));
        let silent = header(1, 0, 1, 16, &[], 99);
        assert!(matches!(sniff(&silent, false), Sniffed::Broken(_)));
        let endless = header(1, 8000, 1, 16, &[(b"junk", HEAD_BYTES_MAX)], 99);
        assert!(matches!(sniff(&endless[..100], false), Sniffed::Broken(_)));
    }

    #[test]
    fn containers_are_told_by_their_first_bytes() {
        for (head, encoding) in [
            (&b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\xf7\x81"[..], "webm"),
            (b"OggS\0\x02\0\0\0\0\0\0", "ogg"),
            (b"fLaC\0\0\0\x22\x10\0\x10\0", "flac"),
            (b"ID3\x04\0\0\0\0\0\0\0\0", "mp3"),
            (b"\xff\xfb\x90\x64\0\0\0\0\0\0\0\0", "mp3"),
        ] {
            assert_eq!(sniff(head, false), Sniffed::Kind(Kind::Packed { encoding }), "{encoding}");
        }
        for head in [
            &b"\0\0\0\x20ftypM4A "[..],
            b"FORM\0\0\0\0AIFF",
            b"\xff\xf1\x50\x80\0\0\0\0\0\0\0\0",
            b"RIFF\0\0\0\0AVI ",
        ] {
            assert!(matches!(sniff(head, false), Sniffed::Foreign(_)), "{head:?}");
        }
        for head in [&[0; 12][..], b"\xff\xff\xfe\xff\xff\xff\0\0\0\0\0\0", b"# A text file"] {
            assert_eq!(sniff(head, false), Sniffed::Unknown, "{head:?}");
        }
        assert_eq!(sniff(b"Ogg", false), Sniffed::More);
        assert_eq!(sniff(b"", true), Sniffed::Unknown);
        assert_eq!(sniff(b"RI", true), Sniffed::Unknown);
    }
}
