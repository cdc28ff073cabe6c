use crate::{Encoding, mpeg, webm};

/// What the first bytes of a stream look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guess {
    Is(Encoding),
    Unsupported(&'static str),
    /// More bytes decide. Never said of more bytes than two MPEG frames and a header have.
    Unclear,
}

const RAW: Guess = Guess::Is(Encoding::PcmS16le);

/// Tells a container by its first bytes. What is none is raw samples.
pub(crate) fn sniff(first: &[u8]) -> Guess {
    if let Some(encoding) = begins_container(first) {
        return Guess::Is(encoding);
    }
    // A piece from the middle of a WebM recording: its reader says what is missing.
    if webm::begins_inside(first) {
        return Guess::Is(Encoding::Webm);
    }
    if first.get(4..8) == Some(b"ftyp") {
        return Guess::Unsupported("MP4");
    }
    if first.first_chunk::<4>() == Some(b"caff") {
        return Guess::Unsupported("CAF");
    }
    if first.first_chunk::<4>() == Some(b"FORM") {
        return Guess::Unsupported("AIFF");
    }
    if first.len() < MARK_BYTES_MAX && may_become_container(first) {
        return Guess::Unclear;
    }
    mpeg_or_raw(first)
}

/// What a message looks like that begins a stream, or is all of it; `None` for what is no sound that can be read. One that
/// `goes_on` with a container begins another only with the mark of that.
pub fn guess(message: &[u8], goes_on: bool) -> Option<Encoding> {
    if goes_on {
        return begins_container(message);
    }
    match sniff(message) {
        Guess::Is(encoding) => Some(encoding),
        Guess::Unsupported(_) | Guess::Unclear => None,
    }
}

/// Longest mark: `RIFF`, a size, `WAVE`.
const MARK_BYTES_MAX: usize = 12;

/// The container whose mark stands at the start, when it stands there in full.
pub(crate) fn begins_container(bytes: &[u8]) -> Option<Encoding> {
    match bytes {
        [0x1a, 0x45, 0xdf, 0xa3, ..] => Some(Encoding::Webm),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E', ..]
        | [b'R', b'F', b'6', b'4', _, _, _, _, b'W', b'A', b'V', b'E', ..] => Some(Encoding::Wav),
        [b'O', b'g', b'g', b'S', 0, ..] => Some(Encoding::Ogg),
        [b'f', b'L', b'a', b'C', ..] => Some(Encoding::Flac),
        [b'I', b'D', b'3', 2..=4, ..] => Some(Encoding::Mp3),
        _ => None,
    }
}

fn may_become_container(first: &[u8]) -> bool {
    let begins = |mark: &[u8]| first.iter().zip(mark).all(|(a, b)| a == b);
    begins(b"\x1a\x45\xdf\xa3")
        || begins(b"\x1f\x43\xb6\x75")
        || begins(b"OggS\0")
        || begins(b"fLaC")
        || begins(b"ID3")
        || begins(b"caff")
        || begins(b"FORM")
        || [&b"RIFF"[..], b"RF64"].iter().any(|mark| begins(mark) && (first.len() <= 8 || tail_begins(first, b"WAVE")))
        // A box size of less than 64 KiB in front of `ftyp`; silence begins like that too.
        || (begins(b"\0\0") && (first.len() <= 4 || (first.len() < 8 && tail_of(first, 4, b"ftyp"))))
}

fn tail_begins(first: &[u8], mark: &[u8]) -> bool {
    tail_of(first, 8, mark)
}

fn tail_of(first: &[u8], from: usize, mark: &[u8]) -> bool {
    first.iter().skip(from).zip(mark).all(|(a, b)| a == b)
}

/// Samples can look like the header of an MPEG frame. Three headers in a row, each where the one before it says,
/// and all alike, are no accident.
fn mpeg_or_raw(first: &[u8]) -> Guess {
    let mut at = 0;
    let mut before: Option<mpeg::Header> = None;
    for _ in 0..3 {
        let Some(bytes) = first.get(at..).and_then(|rest| rest.first_chunk::<4>()) else {
            let seen = first.get(at..).unwrap_or_default();
            return if mpeg::may_begin(seen) { Guess::Unclear } else { RAW };
        };
        match mpeg::Header::read(*bytes) {
            Some(header) if before.is_none_or(|before| before.fits(&header)) => {
                at += header.frame_bytes;
                before = Some(header);
            }
            _ => return RAW,
        }
    }
    Guess::Is(Encoding::Mp3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_recognized_in_any_pieces() {
        let cases: [(&[u8], Guess); 9] = [
            (b"\x1a\x45\xdf\xa3\x9f", Guess::Is(Encoding::Webm)),
            (b"\x1f\x43\xb6\x75\x01\xff\xff\xff", Guess::Is(Encoding::Webm)),
            (b"RIFF\xff\xff\xff\xffWAVEfmt ", Guess::Is(Encoding::Wav)),
            (b"OggS\0\x02", Guess::Is(Encoding::Ogg)),
            (b"fLaC\0\0\0\x22", Guess::Is(Encoding::Flac)),
            (b"ID3\x04\0\0", Guess::Is(Encoding::Mp3)),
            (b"\0\0\0\x20ftypisom", Guess::Unsupported("MP4")),
            (b"RIFF\0\0\0\0AVI LIST", RAW),
            (b"\0\0\0\0\0\0\0\0\0\0\0\0", RAW),
        ];
        for (bytes, guess) in cases {
            let first_clear =
                (1..=bytes.len()).map(|end| sniff(&bytes[..end])).find(|guess| *guess != Guess::Unclear);
            assert_eq!(first_clear, Some(guess), "{bytes:?}");
        }
    }

    #[test]
    fn samples_that_look_like_mpeg_stay_samples() {
        // -1025 at 128 kbit/s, 44.1 kHz: a valid header followed by none.
        let mut samples = vec![0xff, 0xfb, 0x90, 0x00];
        assert_eq!(sniff(&samples), Guess::Unclear);
        samples.resize(3_000, 7);
        assert_eq!(sniff(&samples), RAW);
        assert_eq!(sniff(&[0xff; 8]), RAW);
    }
}
