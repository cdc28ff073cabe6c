use std::time::Duration;

use audio::AudioError;
use http::StatusCode;
use model::FaultKind;
use rpc::recognition::RecognizeError;

use super::{hearing::RECORDING_HOURS_MAX, sound::SHORTEST};

/// When a request may come again that found every place taken.
const FULL_RETRY: Duration = Duration::from_secs(2);

/// Why nothing was made of a request. The texts are for the client, and quote nothing of what it sent.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Problem {
    /// As many recordings are being heard as may be at a time.
    #[error("too many recordings at a time, try again")]
    Full,
    /// The file, or all that was sent, is larger than it may be, in bytes.
    #[error("file too large: at most {0} bytes are taken")]
    TooLarge(u64),
    /// It did not come in time.
    #[error("the upload took too long")]
    TooSlow,
    /// Neither a form nor a JSON object.
    #[error("send multipart/form-data with a file in it{0}")]
    NotAForm(&'static str),
    /// A form that breaks off before its end.
    #[error("the form breaks off before its end")]
    CutOff,
    /// A form that breaks the rules (RFC 7578, RFC 2046).
    #[error("the form cannot be read: {0}")]
    FormBroken(&'static str),
    /// JSON that cannot be read, or a field of another type.
    #[error("the JSON object cannot be read: {0}")]
    JsonBroken(&'static str),
    /// A field that says something that nobody knows: which, and what it may say.
    #[error("{0} must be {1}")]
    Field(&'static str, &'static str),
    /// There is no recording in it.
    #[error("no file provided")]
    NoFile,
    /// The recording cannot be decoded.
    #[error("{0}")]
    Audio(AudioError),
    /// What begins like no container.
    #[error("this is no sound that can be read: send WAV, FLAC, MP3, or Opus in WebM or Ogg")]
    NotSound,
    /// Nothing, or next to nothing, is to be heard in it.
    #[error("the recording holds no sound, or less than {} s of it", SHORTEST.seconds())]
    TooShort,
    /// More sound than is heard at once.
    #[error("the recording is longer than {RECORDING_HOURS_MAX} hours")]
    TooLong,
    /// A text that is longer than may be translated at once, in bytes.
    #[error("the text is too long: at most {0} bytes are taken")]
    TextTooLong(usize),
    /// The workers did not do it.
    #[error("{0}")]
    Recognize(#[from] RecognizeError),
    /// A thread of ours has panicked.
    #[error("the sound could not be converted")]
    Defect,
}

impl From<AudioError> for Problem {
    fn from(error: AudioError) -> Self {
        match error {
            // Its text is about messages.
            AudioError::TooMuchSound => Self::TooLong,
            error => Self::Audio(error),
        }
    }
}

impl Problem {
    /// Who must act.
    pub(super) fn fault(&self) -> FaultKind {
        match self {
            Self::Full => FaultKind::Overloaded,
            Self::TooLarge(_) | Self::TooLong | Self::TextTooLong(_) => FaultKind::TooLarge,
            Self::TooSlow | Self::NotAForm(_) | Self::Field(..) | Self::NoFile => FaultKind::Caller,
            Self::CutOff | Self::FormBroken(_) | Self::JsonBroken(_) | Self::NotSound | Self::TooShort => {
                FaultKind::BadData
            }
            Self::Audio(error) => error.fault(),
            Self::Recognize(error) => error.fault(),
            Self::Defect => FaultKind::Defect,
        }
    }

    /// What HTTP calls it.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            _ => {
                StatusCode::from_u16(self.fault().http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            }
        }
    }

    /// When the same request may succeed.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Full => Some(FULL_RETRY),
            Self::Recognize(RecognizeError::Busy { retry_after }) => Some(*retry_after),
            _ if self.fault() == FaultKind::Dependency => Some(FULL_RETRY),
            _ => None,
        }
    }

    /// Whether the recording itself is at fault.
    pub(super) const fn is_of_sound(&self) -> bool {
        matches!(self, Self::Audio(_) | Self::NotSound | Self::TooShort)
    }
}
