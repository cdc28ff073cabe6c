use model::FaultKind;

use crate::{CHANNELS_MAX, Encoding, MESSAGE_BYTES_MAX, SAMPLE_RATE_HZ_MAX, SAMPLE_RATE_HZ_MIN};

/// Why bytes cannot become samples. The texts are meant for the client who sent them and quote none of its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AudioError {
    /// A name that is no encoding.
    #[error("encoding must be one of pcm_s16le, f32le, mulaw, alaw, opus, webm, ogg, wav, flac, mp3, auto")]
    UnknownEncoding,
    /// A sample rate, declared or in a header, that no microphone has.
    #[error("sample rate {0} Hz is outside {SAMPLE_RATE_HZ_MIN} to {SAMPLE_RATE_HZ_MAX} Hz")]
    SampleRate(u32),
    /// A number of channels, declared or in a header, outside the range.
    #[error("{0} channels: 1 to {CHANNELS_MAX} can be read")]
    Channels(u16),
    /// A container or codec that is recognized and not supported.
    #[error("{0} is not supported; send PCM, WAV, FLAC, MP3, or Opus in WebM or Ogg")]
    Unsupported(&'static str),
    /// A piece from the middle of a recording whose beginning never came.
    #[error("this {0} data begins without its header; send the recording from its first piece")]
    HeaderMissing(Encoding),
    /// Bytes that break the rules of their encoding.
    #[error("broken {encoding} data: {what}")]
    Malformed {
        /// What the bytes were taken for.
        encoding: Encoding,
        /// Which rule they break.
        what: &'static str,
    },
    /// A message above [`MESSAGE_BYTES_MAX`].
    #[error("a message of {0} bytes: at most {MESSAGE_BYTES_MAX} are read at once")]
    MessageTooLarge(usize),
    /// An element inside a container above the limit for its kind.
    #[error("{what} in {encoding} data is larger than {bytes_max} bytes")]
    ElementTooLarge {
        /// The container.
        encoding: Encoding,
        /// The kind of element.
        what: &'static str,
        /// Its limit.
        bytes_max: usize,
    },
    /// One message that holds more sound than [`crate::DECODED_SAMPLES_PER_PUSH_MAX`].
    #[error("one message holds too many minutes of sound; send it in smaller pieces")]
    TooMuchSound,
    /// The resampler or a codec refused its own configuration: a mistake of ours.
    #[error("the sound could not be converted")]
    Conversion,
}

impl AudioError {
    /// Who must act.
    pub const fn fault(&self) -> FaultKind {
        match self {
            Self::UnknownEncoding | Self::SampleRate(_) | Self::Channels(_) | Self::Unsupported(_) => {
                FaultKind::Caller
            }
            Self::HeaderMissing(_) | Self::Malformed { .. } => FaultKind::BadData,
            Self::MessageTooLarge(_) | Self::ElementTooLarge { .. } | Self::TooMuchSound => {
                FaultKind::TooLarge
            }
            Self::Conversion => FaultKind::Defect,
        }
    }
}
