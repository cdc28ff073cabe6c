//! A recording as samples, decoded piece by piece off the async threads.

use std::collections::VecDeque;

use audio::{AudioError, Decoder, Encoding, Format};
use bytes::Bytes;
use model::{SAMPLE_RATE_HZ, Samples};

use super::{problem::Problem, upload::File};

/// Bytes that are decoded at once: even the thinnest codec has less than a push of a decoder in it.
const PIECE_BYTES: usize = 4 * 1024;

/// Samples that are decoded in one go, and a piece's worth beyond: 10 s.
const GO_SAMPLES: usize = 10 * SAMPLE_RATE_HZ as usize;

/// Less sound than this is none: as OpenAI has it.
pub(super) const SHORTEST: Samples = Samples::from_millis(100);

/// What is sound at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accept {
    /// Only containers.
    Containers,
    /// Samples without a header as well, 16 kHz, mono, signed 16 bit little-endian, unless they say that they are
    /// something else, or look like text.
    Samples,
}

/// Where in its recording a decoder is.
pub(super) struct Sound {
    accept: Accept,
    /// `None` once all is decoded.
    decoding: Option<Decoding>,
    length: Samples,
}

struct Decoding {
    decoder: Box<Decoder>,
    pieces: VecDeque<Bytes>,
    /// What it is, once that is known: raw samples or a container.
    is_raw: Option<bool>,
}

impl Sound {
    /// A recording at its beginning.
    ///
    /// # Errors
    /// It says that it is no sound, or looks like text.
    pub(super) fn new(file: File, accept: Accept) -> Result<Self, Problem> {
        let is_sound = file.media_type.as_deref().is_none_or(may_be_sound);
        if !is_sound || is_text(&file.pieces) {
            return Err(Problem::NotSound);
        }
        let mut format = Format::default();
        format.encoding = Encoding::Auto;
        let decoder = Box::new(Decoder::new(format));
        let decoding = Decoding { decoder, pieces: file.pieces.into(), is_raw: None };
        Ok(Self { accept, decoding: Some(decoding), length: Samples(0) })
    }

    /// The samples that follow; `None` after the last.
    ///
    /// # Errors
    /// The recording cannot be decoded any further, or is too short, which shows at its end.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<i16>>, Problem> {
        let Some(mut decoding) = self.decoding.take() else { return Ok(None) };
        let go = move || {
            let mut samples = Vec::new();
            let more = decoding.go(&mut samples);
            (decoding, samples, more)
        };
        let (decoding, samples, more) = tokio::task::spawn_blocking(go).await.map_err(|_| Problem::Defect)?;
        let has_more = more?;
        if self.accept == Accept::Containers && decoding.is_raw == Some(true) {
            return Err(Problem::NotSound);
        }
        self.length = self.length + Samples::of(samples.len());
        self.decoding = has_more.then_some(decoding);
        // A stretch of samples may well be the rest of a recording.
        let shortest = if self.accept == Accept::Containers { SHORTEST } else { Samples(1) };
        if self.decoding.is_none() && self.length < shortest {
            return Err(Problem::TooShort);
        }
        Ok(Some(samples))
    }

    /// How much has been decoded.
    pub(super) const fn length(&self) -> Samples {
        self.length
    }
}

impl Decoding {
    /// Decodes some; whether there is more.
    fn go(&mut self, samples: &mut Vec<i16>) -> Result<bool, AudioError> {
        while samples.len() < GO_SAMPLES {
            let Some(piece) = self.pieces.front_mut() else {
                self.decoder.finish(samples)?;
                return Ok(false);
            };
            let now = piece.split_to(piece.len().min(PIECE_BYTES));
            if piece.is_empty() {
                self.pieces.pop_front();
            }
            self.decoder.push(&now, samples)?;
            if self.is_raw.is_none() {
                self.is_raw = self.decoder.detected().map(|format| format.encoding == Encoding::PcmS16le);
            }
        }
        Ok(true)
    }
}

/// Whether something of this media type may be sound. Recorders call theirs video, and many do not know.
fn may_be_sound(media_type: &str) -> bool {
    let name = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let (kind, subtype) = name.split_once('/').unwrap_or(("", ""));
    matches!(kind, "" | "audio" | "video") || matches!(subtype, "octet-stream" | "ogg")
}

/// Whether samples could hardly look like this: so many letters in a row.
fn is_text(pieces: &[Bytes]) -> bool {
    const LETTERS: usize = 64;
    let is_letter = |byte: &u8| matches!(byte, b' '..=b'~' | b'\n' | b'\r' | b'\t');
    pieces.iter().flatten().take(LETTERS).all(is_letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8], media_type: Option<&str>) -> File {
        let pieces = bytes.chunks(5).map(Bytes::copy_from_slice).collect();
        File { pieces, media_type: media_type.map(str::to_owned) }
    }

    async fn decoded(file: File, accept: Accept) -> Result<Vec<i16>, Problem> {
        let mut sound = Sound::new(file, accept)?;
        let mut all = Vec::new();
        while let Some(samples) = sound.next().await? {
            all.extend(samples);
        }
        assert_eq!(sound.length(), Samples::of(all.len()));
        Ok(all)
    }

    #[tokio::test]
    async fn samples_without_a_header_are_sound_where_they_may_be() {
        let bytes: Vec<u8> = (0..8_000_i16).flat_map(i16::to_le_bytes).collect();
        for media_type in [None, Some("audio/wav"), Some("application/octet-stream")] {
            let samples = decoded(file(&bytes, media_type), Accept::Samples).await.unwrap();
            assert_eq!((samples.len(), samples[7_999]), (8_000, 7_999));
        }
        for (bytes, media_type, accept) in [
            (&bytes[..], None, Accept::Containers),
            (&bytes[..], Some("image/png"), Accept::Samples),
            (&b"It was the best of times"[..], None, Accept::Samples),
        ] {
            let problem = decoded(file(bytes, media_type), accept).await.unwrap_err();
            assert!(matches!(problem, Problem::NotSound), "{problem:?}");
        }
        assert_eq!(decoded(file(&bytes[..20], None), Accept::Samples).await.unwrap().len(), 10);
    }

    #[tokio::test]
    async fn what_holds_no_sound_is_refused() {
        let head = b"\x1a\x45\xdf\xa3\x84\x42\x86\x81\x01";
        for (bytes, accept) in
            [(&head[..], Accept::Samples), (b"", Accept::Samples), (b"", Accept::Containers)]
        {
            let problem = decoded(file(bytes, None), accept).await.unwrap_err();
            assert!(matches!(problem, Problem::TooShort | Problem::NotSound), "{problem:?}");
        }
        let cluster = b"\x1f\x43\xb6\x75\x01\xff\xff\xff\xff\xff\xff\xff\xe7\x81\x00";
        let problem = decoded(file(cluster, None), Accept::Samples).await.unwrap_err();
        assert!(matches!(problem, Problem::Audio(AudioError::HeaderMissing(Encoding::Webm))), "{problem:?}");
    }
}
