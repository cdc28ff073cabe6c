use std::{fmt, str::FromStr};

use crate::AudioError;

/// Lowest sample rate that is read, in Hz: telephony.
pub const SAMPLE_RATE_HZ_MIN: u32 = 8_000;

/// Highest sample rate that is read, in Hz: the fastest of studio interfaces.
pub const SAMPLE_RATE_HZ_MAX: u32 = 192_000;

/// Most channels that are read: 7.1 surround.
pub const CHANNELS_MAX: u16 = 8;

/// What a connection sends that declares nothing and does not begin like a container.
pub const DEFAULT_FORMAT: Format =
    Format { encoding: Encoding::PcmS16le, sample_rate_hz: model::SAMPLE_RATE_HZ, channels: 1 };

/// How sound is written in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Signed 16 bit little-endian, channels interleaved, no header.
    PcmS16le,
    /// IEEE 754 single precision little-endian, full scale 1.0, channels interleaved, no header.
    PcmF32le,
    /// ITU-T G.711 mu-law, one byte a sample, no header.
    Mulaw,
    /// ITU-T G.711 A-law, one byte a sample, no header.
    Alaw,
    /// Opus packets without a container, one in each message (RFC 6716).
    Opus,
    /// WebM or Matroska with Opus or PCM, as `MediaRecorder` of Chromium sends it.
    Webm,
    /// Ogg with Opus (RFC 7845) or FLAC.
    Ogg,
    /// RIFF WAVE with PCM, float, mu-law or A-law.
    Wav,
    /// Native FLAC (RFC 9639).
    Flac,
    /// MPEG audio layer III (ISO 11172-3, 13818-3), MPEG 1, 2 and 2.5.
    Mp3,
    /// AAC access units (ISO 14496-3); only as [`crate::Packets`].
    Aac,
    /// A container, told by its first bytes; otherwise [`Encoding::PcmS16le`].
    Auto,
}

impl Encoding {
    /// The name in `init`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PcmS16le => "pcm_s16le",
            Self::PcmF32le => "f32le",
            Self::Mulaw => "mulaw",
            Self::Alaw => "alaw",
            Self::Opus => "opus",
            Self::Webm => "webm",
            Self::Ogg => "ogg",
            Self::Wav => "wav",
            Self::Flac => "flac",
            Self::Mp3 => "mp3",
            Self::Aac => "aac",
            Self::Auto => "auto",
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Reads the names of `init`, those that other speech services use, and media types. Case does not matter, nor do
/// the parameters of a media type, except that a bare `audio/pcm` means 16 bit.
impl FromStr for Encoding {
    type Err = AudioError;
    fn from_str(text: &str) -> Result<Self, AudioError> {
        let name = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let name = name.strip_prefix("audio/").or_else(|| name.strip_prefix("video/")).unwrap_or(&name);
        match name.strip_prefix("x-").unwrap_or(name) {
            "pcm_s16le" | "s16le" | "pcm_s16" | "pcm16" | "pcm" | "linear16" | "l16" | "raw" => {
                Ok(Self::PcmS16le)
            }
            "f32le" | "pcm_f32le" | "pcm_f32" | "float32" | "linear32" => Ok(Self::PcmF32le),
            "mulaw" | "ulaw" | "mu-law" | "pcm_mulaw" | "pcmu" | "basic" => Ok(Self::Mulaw),
            "alaw" | "a-law" | "pcm_alaw" | "pcma" => Ok(Self::Alaw),
            "opus" => Ok(Self::Opus),
            "webm" | "webm-opus" | "matroska" | "mkv" => Ok(Self::Webm),
            "ogg" | "ogg-opus" | "ogg_opus" | "oga" | "application/ogg" => Ok(Self::Ogg),
            "wav" | "wave" | "vnd.wave" | "pn-wav" => Ok(Self::Wav),
            "flac" => Ok(Self::Flac),
            "mp3" | "mpeg" | "mpeg3" => Ok(Self::Mp3),
            "auto" | "container" => Ok(Self::Auto),
            _ => Err(AudioError::UnknownEncoding),
        }
    }
}

/// An encoding and what a raw one does not say about itself. Containers overrule rate and channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Format {
    /// How the bytes are written.
    pub encoding: Encoding,
    /// Samples a second, [`SAMPLE_RATE_HZ_MIN`] to [`SAMPLE_RATE_HZ_MAX`].
    pub sample_rate_hz: u32,
    /// Interleaved channels, 1 to [`CHANNELS_MAX`].
    pub channels: u16,
}

impl Format {
    /// Checks rate and channels.
    ///
    /// # Errors
    /// [`AudioError::SampleRate`] and [`AudioError::Channels`] when they are out of range.
    pub const fn new(encoding: Encoding, sample_rate_hz: u32, channels: u16) -> Result<Self, AudioError> {
        if sample_rate_hz < SAMPLE_RATE_HZ_MIN || sample_rate_hz > SAMPLE_RATE_HZ_MAX {
            return Err(AudioError::SampleRate(sample_rate_hz));
        }
        if channels == 0 || channels > CHANNELS_MAX {
            return Err(AudioError::Channels(channels));
        }
        Ok(Self { encoding, sample_rate_hz, channels })
    }
}

/// [`DEFAULT_FORMAT`].
impl Default for Format {
    fn default() -> Self {
        DEFAULT_FORMAT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_known_by_many_names() {
        for (text, encoding) in [
            ("pcm_s16le", Encoding::PcmS16le),
            ("linear16", Encoding::PcmS16le),
            ("audio/pcm", Encoding::PcmS16le),
            ("audio/l16;rate=16000", Encoding::PcmS16le),
            ("pcm_f32le", Encoding::PcmF32le),
            ("ULAW", Encoding::Mulaw),
            ("audio/pcmu", Encoding::Mulaw),
            ("audio/PCMA", Encoding::Alaw),
            ("audio/webm;codecs=opus", Encoding::Webm),
            ("video/webm; codecs=\"vp8,opus\"", Encoding::Webm),
            ("audio/ogg; codecs=opus", Encoding::Ogg),
            ("application/ogg", Encoding::Ogg),
            ("audio/x-wav", Encoding::Wav),
            ("audio/x-flac", Encoding::Flac),
            ("audio/mpeg", Encoding::Mp3),
        ] {
            assert_eq!(text.parse(), Ok(encoding), "{text}");
            assert_eq!(encoding.to_string().parse(), Ok(encoding), "{encoding}");
        }
        for text in ["", "aac", "audio/", "pcm_s24be", "opus2"] {
            assert_eq!(text.parse::<Encoding>(), Err(AudioError::UnknownEncoding), "{text}");
        }
    }

    #[test]
    fn formats_out_of_range_are_refused() {
        assert!(Format::new(Encoding::PcmS16le, 8_000, 1).is_ok());
        assert!(Format::new(Encoding::PcmF32le, 192_000, 8).is_ok());
        assert_eq!(Format::new(Encoding::PcmS16le, 7_999, 1), Err(AudioError::SampleRate(7_999)));
        assert_eq!(Format::new(Encoding::PcmS16le, 192_001, 1), Err(AudioError::SampleRate(192_001)));
        assert_eq!(Format::new(Encoding::PcmS16le, 16_000, 0), Err(AudioError::Channels(0)));
        assert_eq!(Format::new(Encoding::PcmS16le, 16_000, 9), Err(AudioError::Channels(9)));
        assert_eq!(Format::default(), DEFAULT_FORMAT);
    }
}
