//! Generated types and their conversions; nothing else in the workspace names them but the worker's handler.

use std::time::Duration;

use bytes::Bytes;
use model::{
    EngineName, Fallback, FaultKind, Identity, PcmFrame, Samples, SessionSlug, Speaker, StreamId, Timestamp,
    UserId,
};
use tonic::Status;

use crate::AUDIO_SAMPLES_MAX;

#[expect(
    missing_docs,
    unused_qualifications,
    clippy::allow_attributes,
    reason = "generated; documented in proto/"
)]
mod generated {
    tonic::include_proto!("parley.transcription.v1");
}

pub use generated::{
    Acknowledged, Audio, Begin, Done, Ended, Finalize, Hearing, Open, Opened, RecognizeRequest,
    RecognizeResponse, Segment, Speak, Stop, Task, Traced, TranscribeRequest, TranscribeResponse,
    TranslateRequest, TranslateResponse, Unserved, Word, recognize_request::Message as RecognizeIn,
    recognize_response::Message as RecognizeOut, transcribe_request::Message as Request,
    transcribe_response::Message as Response, transcription_client::TranscriptionClient,
    transcription_server::Transcription, transcription_server::TranscriptionServer,
};

/// Longest language tag, in bytes (RFC 5646 section 4.4.1 recommends room for 35).
pub const LANGUAGE_BYTES_MAX: usize = 35;

/// Most languages that the finals of a stream are translated into.
pub const TRANSLATIONS_MAX: usize = 8;

/// Longest display name, in bytes.
const NAME_BYTES_MAX: usize = 256;

/// Silence that may end an utterance, in milliseconds.
pub const ENDPOINTING_MS: std::ops::RangeInclusive<u32> = 100..=5000;

/// A source of audio, as it introduces itself to a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The stream.
    pub stream: StreamId,
    /// The session it belongs to.
    pub session: SessionSlug,
    /// Who speaks.
    pub speaker: Speaker,
    /// Language (BCP 47); the worker's default when absent.
    pub language: Option<String>,
    /// Silence that ends an utterance; the worker's default when absent. Within [`ENDPOINTING_MS`].
    pub endpointing_ms: Option<u32>,
    /// Whether text of open utterances is published.
    pub partials: bool,
    /// Wall time of sample 0.
    pub started_at: Timestamp,
    /// The user behind the participant, whose active streams are limited.
    pub user: Option<UserId>,
    /// Several people may be heard in it; `speaker` stands in when nobody knows which of them speaks.
    pub is_room: bool,
    /// Languages (BCP 47) that its finals are translated into, at most [`TRANSLATIONS_MAX`]; none for those of the worker's
    /// settings.
    pub translate_to: Vec<String>,
}

/// A message that breaks the contract of `proto/`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A field holds what it must not.
    #[error("{field}: {expected}")]
    Field {
        /// The field.
        field: &'static str,
        /// What it must hold.
        expected: String,
    },
    /// A message is empty, or of a kind that may not come now.
    #[error("{0}")]
    Order(&'static str),
}

impl WireError {
    fn field(field: &'static str, expected: impl ToString) -> Self {
        Self::Field { field, expected: expected.to_string() }
    }

    /// Who must act: the caller.
    pub fn fault(&self) -> FaultKind {
        FaultKind::Caller
    }
}

impl From<WireError> for Status {
    fn from(error: WireError) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

/// A status whose code follows from the kind of fault. Its text goes to our own services only.
pub fn status(fault: FaultKind, message: impl Into<String>) -> Status {
    Status::new(tonic::Code::from_i32(fault.grpc_code()), message)
}

/// The kind of fault that a status tells of.
pub fn fault(status: &Status) -> FaultKind {
    FaultKind::from_grpc_code(status.code() as i32)
}

/// The RESOURCE_EXHAUSTED status with its hint when to try again.
pub fn busy(retry_after: Duration) -> Status {
    let mut status = Status::resource_exhausted("all capacity is in use");
    if let Ok(millis) = retry_after.as_millis().to_string().parse() {
        status.metadata_mut().insert(crate::RETRY_AFTER_MS, millis);
    }
    status
}

/// The hint of a RESOURCE_EXHAUSTED status.
pub fn retry_after(status: &Status) -> Option<Duration> {
    let millis = status.metadata().get(crate::RETRY_AFTER_MS)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_millis(millis))
}

impl Source {
    /// The first message of a call. Everything before `first_sample` is gone.
    pub fn to_open(&self, first_sample: Samples) -> TranscribeRequest {
        let open = Open {
            stream_id: self.stream.to_string(),
            session_slug: self.session.to_string(),
            identity: self.speaker.identity.to_string(),
            name: self.speaker.name.clone().unwrap_or_default(),
            language: self.language.clone().unwrap_or_default(),
            endpointing_ms: self.endpointing_ms.unwrap_or(0),
            partials: self.partials,
            first_sample: first_sample.0,
            started_at_ms: self.started_at.0,
            user_id: self.user.as_ref().map(ToString::to_string).unwrap_or_default(),
            is_room: self.is_room,
            translate_to: self.translate_to.clone(),
        };
        TranscribeRequest { message: Some(Request::Open(open)) }
    }

    /// The source that a first message introduces, and the first sample that it still has.
    ///
    /// # Errors
    /// The field that breaks the contract.
    pub fn from_open(open: Open) -> Result<(Self, Samples), WireError> {
        let identity: Identity = open.identity.parse().map_err(|e| WireError::field("identity", e))?;
        if open.name.len() > NAME_BYTES_MAX {
            return Err(WireError::field("name", format!("at most {NAME_BYTES_MAX} bytes")));
        }
        check_language(&open.language)?;
        check_endpointing(open.endpointing_ms)?;
        let are_languages =
            open.translate_to.iter().all(|tag| !tag.is_empty() && check_language(tag).is_ok());
        if open.translate_to.len() > TRANSLATIONS_MAX || !are_languages {
            let expected = format!("at most {TRANSLATIONS_MAX} languages of 1 to {LANGUAGE_BYTES_MAX} bytes");
            return Err(WireError::field("translate_to", expected));
        }
        let user = match open.user_id.as_str() {
            "" => None,
            user => Some(user.parse().map_err(|e| WireError::field("user_id", e))?),
        };
        let source = Self {
            stream: open.stream_id.parse().map_err(|e| WireError::field("stream_id", e))?,
            session: open.session_slug.parse().map_err(|e| WireError::field("session_slug", e))?,
            speaker: Speaker { identity, name: Some(open.name).filter(|name| !name.is_empty()) },
            language: Some(open.language).filter(|language| !language.is_empty()),
            endpointing_ms: Some(open.endpointing_ms).filter(|millis| *millis != 0),
            partials: open.partials,
            started_at: Timestamp(open.started_at_ms),
            user,
            is_room: open.is_room,
            translate_to: open.translate_to,
        };
        Ok((source, Samples(open.first_sample)))
    }
}

/// Whether this has the shape of a language tag (RFC 5646 section 2.1), or is empty.
///
/// # Errors
/// It is longer than [`LANGUAGE_BYTES_MAX`], or has other characters than such a tag.
pub fn check_language(language: &str) -> Result<(), WireError> {
    let fits = language.len() <= LANGUAGE_BYTES_MAX
        && language.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if fits { Ok(()) } else { Err(WireError::field("language", "a language tag such as en, or auto")) }
}

pub(crate) fn check_endpointing(millis: u32) -> Result<(), WireError> {
    if millis != 0 && !ENDPOINTING_MS.contains(&millis) {
        return Err(WireError::field("endpointing_ms", format!("0 or {ENDPOINTING_MS:?}")));
    }
    Ok(())
}

/// What a worker tells of the engine that understands a stream.
pub fn to_hearing(engine: EngineName, fallback: Option<&Fallback>) -> TranscribeResponse {
    let hearing = Hearing {
        engine: engine.label().to_owned(),
        fallback_from: fallback.map(|fallback| fallback.from.label().to_owned()).unwrap_or_default(),
        fallback_reason: fallback.map(|fallback| fallback.reason.clone()).unwrap_or_default(),
    };
    TranscribeResponse { message: Some(Response::Hearing(hearing)) }
}

/// The engine, if this version knows it, and why it is not the one before.
pub(crate) fn from_hearing(hearing: Hearing) -> (Option<EngineName>, Option<Fallback>) {
    let fallback = EngineName::from_label(&hearing.fallback_from)
        .map(|from| Fallback { from, reason: hearing.fallback_reason });
    (EngineName::from_label(&hearing.engine), fallback)
}

/// The message that carries a frame of at most [`AUDIO_SAMPLES_MAX`].
pub(crate) fn to_audio(start: Samples, samples: impl IntoIterator<Item = i16>) -> TranscribeRequest {
    let pcm: Bytes = samples.into_iter().flat_map(i16::to_le_bytes).collect::<Vec<u8>>().into();
    TranscribeRequest { message: Some(Request::Audio(Audio { start: start.0, pcm })) }
}

/// The frame that a message carries.
///
/// # Errors
/// Too much sound, or half a sample.
pub fn from_audio(audio: &Audio) -> Result<PcmFrame, WireError> {
    let (samples, rest) = audio.pcm.as_chunks::<2>();
    if !rest.is_empty() || samples.len() > AUDIO_SAMPLES_MAX {
        return Err(WireError::field("pcm", format!("whole samples, at most {AUDIO_SAMPLES_MAX}")));
    }
    let samples = samples.iter().map(|sample| i16::from_le_bytes(*sample)).collect();
    Ok(PcmFrame { start: Samples(audio.start), samples })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_language_is_a_tag_or_not_said() {
        for good in ["", "ru", "auto", "zh-Hans-CN"] {
            assert_eq!(check_language(good), Ok(()));
        }
        for bad in ["ru RU", "en_US", "<b>", &"x".repeat(36)] {
            assert!(check_language(bad).is_err(), "{bad}");
        }
    }

    fn source() -> Source {
        Source {
            stream: StreamId(Uuid::from_u128(9)),
            session: "demo".parse().unwrap(),
            speaker: Speaker { identity: "alice".parse().unwrap(), name: Some("Alice".into()) },
            language: None,
            endpointing_ms: Some(500),
            partials: true,
            started_at: Timestamp(17),
            user: Some("u1".parse().unwrap()),
            is_room: true,
            translate_to: vec!["ar".into(), "es-419".into()],
        }
    }

    fn open(change: impl FnOnce(&mut Open)) -> Result<(Source, Samples), WireError> {
        let Some(Request::Open(mut open)) = source().to_open(Samples(320)).message else {
            panic!("not open")
        };
        change(&mut open);
        Source::from_open(open)
    }

    #[test]
    fn a_source_survives_the_wire() {
        assert_eq!(open(|_| ()).unwrap(), (source(), Samples(320)));
    }

    #[test]
    fn every_bad_field_is_named() {
        let field = |result: Result<_, WireError>| match result {
            Err(WireError::Field { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        assert_eq!(field(open(|o| o.stream_id = "x".into())), "stream_id");
        assert_eq!(field(open(|o| o.session_slug.clear())), "session_slug");
        assert_eq!(field(open(|o| o.identity = "x".repeat(257))), "identity");
        assert_eq!(field(open(|o| o.name = "x".repeat(257))), "name");
        assert_eq!(field(open(|o| o.user_id = "x".repeat(257))), "user_id");
        assert_eq!(field(open(|o| o.language = "x".repeat(36))), "language");
        assert_eq!(field(open(|o| o.endpointing_ms = 99)), "endpointing_ms");
        assert_eq!(field(open(|o| o.translate_to = vec!["ar".into(); 9])), "translate_to");
        assert_eq!(field(open(|o| o.translate_to = vec![String::new()])), "translate_to");
    }

    #[test]
    fn sound_survives_the_wire_and_half_samples_do_not() {
        let Some(Request::Audio(audio)) = to_audio(Samples(5), [1, -2, i16::MIN]).message else { panic!() };
        let frame = from_audio(&audio).unwrap();
        assert_eq!((frame.start, &*frame.samples), (Samples(5), &[1, -2, i16::MIN][..]));
        assert!(from_audio(&Audio { start: 0, pcm: Bytes::from_static(&[1, 2, 3]) }).is_err());
        assert!(from_audio(&Audio { start: 0, pcm: vec![0; 2 * AUDIO_SAMPLES_MAX + 2].into() }).is_err());
    }

    #[test]
    fn a_busy_status_keeps_its_hint() {
        let status = busy(Duration::from_millis(1500));
        assert_eq!(retry_after(&status), Some(Duration::from_millis(1500)));
        assert_eq!(fault(&status), FaultKind::Overloaded);
    }
}
