//! Client JSON, both ways: what a socket's text messages say, converted from and to `model`. The shapes of system A
//! come first in each message, our own fields after them.

use std::collections::BTreeMap;

use audio::{AudioError, Encoding, Format};
use model::{
    Caption, EngineName, Fallback, FaultKind, Final, Identity, JsonObject, Outside, Partial, Samples,
    Sequence, SessionSlug, Speaker, StreamId, Timestamp, TranscriptionError, Translation, UserId,
    UtteranceId,
};
use rpc::wire;
use serde::Serialize;
use serde_json::{Map, Value, value::RawValue};
use tungstenite::Utf8Bytes;

use crate::transcript::Hearing;

/// Longest text message that is parsed, in bytes. The longest that makes sense is an `init` or a `refresh` of a few
/// KiB, and parsed JSON takes many times its size.
pub(crate) const TEXT_BYTES_MAX: usize = 64 * 1024;

/// Silence that may end an utterance, in milliseconds (proto/parley/transcription/v1).
const ENDPOINTING_MS: std::ops::RangeInclusive<u64> = 100..=5_000;

/// Most languages that a client may ask translations into (proto/parley/transcription/v1).
const TRANSLATIONS_MAX: usize = 8;

/// Longest name to show, in bytes.
const NAME_BYTES_MAX: usize = 256;

/// Which messages carry captions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `transcript_partial` and `transcript_final`, as system A's session page reads them.
    #[default]
    Split,
    /// `transcript`, as system A's older component reads it.
    Transcript,
    /// Each caption in both shapes.
    Both,
}

impl std::str::FromStr for Shape {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "split" => Ok(Self::Split),
            "transcript" => Ok(Self::Transcript),
            "both" => Ok(Self::Both),
            _ => Err(()),
        }
    }
}

/// What a client says in text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ClientMessage {
    Init(Init),
    Follow {
        since: Sequence,
    },
    /// From here on another language is spoken (BCP 47 or `auto`).
    Language(String),
    Finalize,
    Stop,
    Ping,
    /// A new token for the open socket.
    Refresh(settings::Secret),
    ActiveSpeaker(ActiveSpeaker),
    Chat(Chat),
    /// A type that we do not know, from a newer or another kind of client.
    Unknown,
}

/// How a client wants to speak and be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Init {
    pub(crate) format: Format,
    /// BCP 47; `auto` to have it found out; `None` for the default of the workers.
    pub(crate) language: Option<String>,
    pub(crate) translate_to: Vec<String>,
    pub(crate) partials: bool,
    pub(crate) endpointing_ms: Option<u32>,
    pub(crate) shape: Option<Shape>,
    pub(crate) resume: Option<Resume>,
}

/// A stream that a client wants to go on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Resume {
    pub(crate) stream: StreamId,
    /// What it was told needs no re-sending.
    pub(crate) acked: Samples,
}

/// Something for the room beside the captions: an event of chat as Socket.IO has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chat {
    pub(crate) event: String,
    pub(crate) data: Value,
    /// What its acknowledgement is called by, when one is wanted.
    pub(crate) id: Option<Value>,
}

/// Who a client says is speaking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ActiveSpeaker {
    /// The client's own identity when absent.
    pub(crate) identity: Option<Identity>,
    pub(crate) name: Option<String>,
    /// Whether they go on: older clients say when they stop.
    pub(crate) is_active: bool,
}

/// A text message that cannot be followed. The texts are for the client: they name the field, and quote only
/// language tags.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadMessage {
    #[error("a text message may have at most {TEXT_BYTES_MAX} bytes")]
    TooLong,
    #[error("a text message must be a JSON object with a type")]
    NotJson,
    #[error("{field} must be {expected}")]
    Field { field: &'static str, expected: &'static str },
    #[error(transparent)]
    Audio(#[from] AudioError),
}

impl BadMessage {
    pub(crate) fn fault(&self) -> FaultKind {
        match self {
            Self::TooLong => FaultKind::TooLarge,
            Self::NotJson | Self::Field { .. } => FaultKind::Caller,
            Self::Audio(error) => error.fault(),
        }
    }
}

impl ClientMessage {
    /// Reads a text message.
    pub(crate) fn parse(text: &str) -> Result<Self, BadMessage> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(BadMessage::TooLong);
        }
        let Ok(Value::Object(object)) = serde_json::from_str(text) else { return Err(BadMessage::NotJson) };
        let fields = Fields(&object);
        let Some(kind) = object.get("type").and_then(Value::as_str) else {
            return Err(BadMessage::Field { field: "type", expected: "a string" });
        };
        match kind {
            "init" => fields.init().map(Self::Init),
            "language" => fields.language()?.map(Self::Language).ok_or(LANGUAGE_MISSING),
            "follow" => Ok(Self::Follow { since: Sequence(fields.whole("since")?.unwrap_or(0)) }),
            "finalize" => Ok(Self::Finalize),
            "stop" => Ok(Self::Stop),
            "ping" => Ok(Self::Ping),
            "refresh" => {
                let token = fields.text("token")?;
                let missing = BadMessage::Field { field: "token", expected: "a new transcription token" };
                token.map(|token| Self::Refresh(token.into())).ok_or(missing)
            }
            "chat" => fields.chat().map(Self::Chat),
            "active_speaker" => fields.active_speaker().map(Self::ActiveSpeaker),
            _ => Ok(Self::Unknown),
        }
    }
}

const LANGUAGE_MISSING: BadMessage =
    BadMessage::Field { field: "language", expected: "a language tag such as en, or auto" };

/// The fields of a message; null is the same as absent.
struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    fn get(&self, field: &str) -> Option<&'a Value> {
        self.0.get(field).filter(|value| !value.is_null())
    }

    fn read<T>(
        &self,
        field: &'static str,
        expected: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, BadMessage> {
        let Some(value) = self.get(field) else { return Ok(None) };
        read(value).map(Some).ok_or(BadMessage::Field { field, expected })
    }

    fn text(&self, field: &'static str) -> Result<Option<&'a str>, BadMessage> {
        self.read(field, "a string", Value::as_str)
    }

    fn flag(&self, field: &'static str) -> Result<Option<bool>, BadMessage> {
        self.read(field, "true or false", Value::as_bool)
    }

    fn whole(&self, field: &'static str) -> Result<Option<u64>, BadMessage> {
        self.read(field, "a whole number, not negative", whole)
    }

    fn init(&self) -> Result<Init, BadMessage> {
        let encoding = match self.text("encoding")? {
            Some(name) => name.parse::<Encoding>()?,
            None => Encoding::Auto,
        };
        let rate = self.whole("sampleRate")?.unwrap_or(u64::from(model::SAMPLE_RATE_HZ));
        let channels = self.whole("channels")?.unwrap_or(1);
        let format = Format::new(
            encoding,
            u32::try_from(rate).unwrap_or(u32::MAX),
            u16::try_from(channels).unwrap_or(u16::MAX),
        )?;
        let endpointing_ms = self.read("endpointingMs", "100 to 5000 milliseconds", |value| {
            whole(value).filter(|ms| ENDPOINTING_MS.contains(ms)).and_then(|ms| u32::try_from(ms).ok())
        })?;
        let resume = self.read("resume", "an object with stream and acked", Value::as_object)?;
        Ok(Init {
            format,
            language: self.language()?,
            translate_to: self.translate_to()?,
            partials: self.flag("partials")?.unwrap_or(true),
            endpointing_ms,
            shape: self
                .read("messages", "split, transcript or both", |value| value.as_str()?.parse().ok())?,
            resume: resume.map(|resume| Fields(resume).resume()).transpose()?.flatten(),
        })
    }

    /// A `resume` without a stream, as of a client that never had one, asks for nothing.
    fn resume(&self) -> Result<Option<Resume>, BadMessage> {
        let bad = |field, expected| BadMessage::Field { field, expected };
        let stream = self.read("stream", "a stream id", |value| value.as_str()?.parse::<StreamId>().ok());
        let stream = stream.map_err(|_| bad("resume.stream", "a stream id"))?;
        let acked = self.whole("acked").map_err(|_| bad("resume.acked", "a whole number, not negative"))?;
        Ok(stream.map(|stream| Resume { stream, acked: Samples(acked.unwrap_or(0)) }))
    }

    fn language(&self) -> Result<Option<String>, BadMessage> {
        self.read("language", "a language tag such as en, or auto", language_tag)
    }

    fn translate_to(&self) -> Result<Vec<String>, BadMessage> {
        let asked = self.read("translateTo", "a list of at most 8 language tags", |value| {
            let list = value.as_array().filter(|list| list.len() <= TRANSLATIONS_MAX)?;
            list.iter().map(language_tag).collect::<Option<Vec<_>>>()
        })?;
        // As clients of system D say it.
        let one = self.read("targetLanguage", "a language tag such as ar", language_tag)?;
        let mut languages: Vec<String> = Vec::new();
        for language in asked.unwrap_or_else(|| one.into_iter().collect()) {
            if !languages.iter().any(|known| known.eq_ignore_ascii_case(&language)) {
                languages.push(language);
            }
        }
        Ok(languages)
    }

    /// Without an `event` it is a message to be sent, whose `type` is called `kind`, since it has one already.
    fn chat(&self) -> Result<Chat, BadMessage> {
        let event = self.text("event")?;
        let id = self.read("id", "a string or a number", |id| {
            (id.is_string() || id.is_number()).then(|| id.clone())
        })?;
        let data = match event {
            Some(_) => self.get("data").cloned().unwrap_or_default(),
            None => {
                let mut draft = self.0.clone();
                let kind = draft.remove("kind").unwrap_or_default();
                draft.insert("type".to_owned(), kind);
                Value::Object(draft)
            }
        };
        Ok(Chat { event: event.unwrap_or("sendMessage").to_owned(), data, id })
    }

    fn active_speaker(&self) -> Result<ActiveSpeaker, BadMessage> {
        // By the client's clock, which says nothing here.
        self.read("timestamp", "milliseconds since 1970", |value| {
            value.as_i64().or_else(|| whole(value)?.try_into().ok())
        })?;
        Ok(ActiveSpeaker {
            identity: self
                .read("identity", "1 to 256 bytes of text", |value| value.as_str()?.parse().ok())?,
            name: self.read("name", "at most 256 bytes of text", shown_name)?.flatten(),
            is_active: self.flag("isActive")?.unwrap_or(true),
        })
    }
}

/// A whole number, also when the client writes it as `16000.0`.
fn whole(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| {
        let number = value.as_f64().filter(|number| number.fract() == 0.0 && (0.0..1e15).contains(number))?;
        Some(number as u64)
    })
}

fn language_tag(value: &Value) -> Option<String> {
    let tag = value.as_str()?.trim();
    (!tag.is_empty() && wire::check_language(tag).is_ok()).then(|| tag.to_owned())
}

/// A name to show; an empty one is none.
pub(crate) fn shown_name(value: &Value) -> Option<Option<String>> {
    let name = value.as_str()?.trim();
    (name.len() <= NAME_BYTES_MAX).then(|| Some(name.to_owned()).filter(|name| !name.is_empty()))
}

pub(crate) fn encode(message: &impl Serialize) -> Utf8Bytes {
    // Nothing here can fail to serialize: no maps but those of texts, no foreign `Serialize`.
    serde_json::to_string(message).unwrap_or_default().into()
}

/// The first message of every socket.
pub(crate) fn connected(session: &SessionSlug, user: &str, now: Timestamp) -> Utf8Bytes {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Connected<'a> {
        r#type: &'static str,
        session_slug: &'a str,
        user_id: &'a str,
        message: &'static str,
        ts: Timestamp,
    }
    encode(&Connected {
        r#type: "connected",
        session_slug: session.as_str(),
        user_id: user,
        message: "WebSocket connection established",
        ts: now,
    })
}

/// Whether the session's audio is being understood.
pub(crate) fn stt_status(session: &SessionSlug, hearing: &Hearing, at: Timestamp) -> Utf8Bytes {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct SttStatus<'a> {
        r#type: &'static str,
        status: &'static str,
        session_slug: &'a str,
        timestamp: Timestamp,
        #[serde(skip_serializing_if = "Option::is_none")]
        engine: Option<&'static str>,
        /// The engine that failed.
        #[serde(skip_serializing_if = "Option::is_none")]
        fallback_from: Option<&'static str>,
        /// Why it failed.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'a str>,
    }
    let fallback: Option<&Fallback> = hearing.fallback.as_ref();
    encode(&SttStatus {
        r#type: "stt_status",
        status: hearing.state.label(),
        session_slug: session.as_str(),
        timestamp: at,
        engine: hearing.engine.map(EngineName::label),
        fallback_from: fallback.map(|fallback| fallback.from.label()),
        reason: fallback.map(|fallback| fallback.reason.as_str()),
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Transcript<'a> {
    r#type: &'static str,
    session_slug: &'a str,
    utterance_id: &'a UtteranceId,
    text: &'a str,
    is_final: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    speaker: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    speaker_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a UserId>,
    ts: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<Sequence>,
    #[serde(skip_serializing_if = "is_first")]
    revision: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<f64>,
    stable: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    words: Vec<TranscriptWord<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    language: Option<&'a str>,
    /// What is known of it in other languages.
    #[serde(skip_serializing_if = "Option::is_none")]
    translations: Option<&'a BTreeMap<String, String>>,
    /// Where it was heard; one from outside has no place in a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<StreamId>,
}

#[derive(Serialize)]
struct TranscriptWord<'a> {
    text: &'a str,
    start: f64,
    end: f64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_first(revision: &u32) -> bool {
    *revision == 0
}

/// Seconds in the stream, in whole milliseconds.
pub(crate) fn seconds(position: Samples) -> f64 {
    position.millis() as f64 / 1000.0
}

/// Name and identity to show; the identity stands in for a name. Neither, when a back end has named nobody.
fn speaker<'a>(speaker: &'a Speaker, outside: Option<&Outside>) -> (Option<&'a str>, Option<&'a str>) {
    let identity = speaker.identity.as_str();
    if outside.is_some() && identity == Speaker::ROOM && speaker.name.is_none() {
        return (None, None);
    }
    (Some(speaker.name.as_deref().unwrap_or(identity)), Some(identity))
}

/// What a back end wants clients to read, as it wrote it.
pub(crate) fn verbatim(message: &JsonObject) -> Utf8Bytes {
    message.as_str().to_owned().into()
}

/// The session is not transcribed although somebody asked for it.
pub(crate) fn transcription_error(session: &SessionSlug, error: &TranscriptionError) -> Utf8Bytes {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Message<'a> {
        r#type: &'static str,
        reason: &'a str,
        message: &'a str,
        session_slug: &'a str,
        ts: Timestamp,
    }
    encode(&Message {
        r#type: "transcription_error",
        reason: &error.reason,
        message: &error.message,
        session_slug: session.as_str(),
        ts: error.at,
    })
}

/// A caption under the type that `split` asks for: `transcript_partial` and `transcript_final`, or `transcript`.
pub(crate) fn transcript(caption: &Caption, split: bool) -> Utf8Bytes {
    match caption {
        Caption::Partial(partial) => {
            transcript_partial(partial, if split { "transcript_partial" } else { "transcript" })
        }
        Caption::Final(segment) => {
            transcript_final(segment, if split { "transcript_final" } else { "transcript" })
        }
        // It has one shape.
        Caption::Translation(told) => translation(told),
    }
}

fn transcript_partial(partial: &Partial, r#type: &'static str) -> Utf8Bytes {
    let (stream, outside) = (partial.utterance.stream(), partial.outside.as_ref());
    let (speaker, speaker_id) = speaker(&partial.speaker, outside);
    encode(&Transcript {
        r#type,
        session_slug: partial.session.as_str(),
        utterance_id: &partial.utterance,
        text: &partial.text,
        is_final: false,
        speaker,
        speaker_id,
        user_id: outside.and_then(|outside| outside.user.as_ref()),
        ts: outside.and_then(|outside| outside.said_at).unwrap_or(partial.at),
        sequence: None,
        revision: 0,
        start: stream.map(|_| seconds(partial.start)),
        end: stream.map(|_| seconds(partial.end)),
        stable: partial.stable,
        words: Vec::new(),
        language: partial.language.as_deref(),
        translations: None,
        stream,
    })
}

fn transcript_final(segment: &Final, r#type: &'static str) -> Utf8Bytes {
    if let Some(message) = segment.verbatim() {
        return verbatim(message);
    }
    let (stream, outside) = (segment.utterance.stream(), segment.outside.as_ref());
    let (speaker, speaker_id) = speaker(&segment.speaker, outside);
    let words = segment.words.iter();
    encode(&Transcript {
        r#type,
        session_slug: segment.session.as_str(),
        utterance_id: &segment.utterance,
        text: &segment.text,
        is_final: true,
        speaker,
        speaker_id,
        user_id: outside.and_then(|outside| outside.user.as_ref()),
        ts: outside.and_then(|outside| outside.said_at).unwrap_or(segment.at),
        sequence: Some(segment.sequence),
        revision: segment.revision,
        start: stream.map(|_| seconds(segment.start)),
        end: stream.map(|_| seconds(segment.end)),
        stable: u32::try_from(segment.text.chars().count()).unwrap_or(u32::MAX),
        words: words
            .map(|word| TranscriptWord {
                text: &word.text,
                start: seconds(word.start),
                end: seconds(word.end),
            })
            .collect(),
        language: segment.language.as_deref(),
        translations: Some(&segment.translations).filter(|translations| !translations.is_empty()),
        stream,
    })
}

/// What became of a translation.
pub(crate) fn translation(translation: &Translation) -> Utf8Bytes {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Message<'a> {
        r#type: &'static str,
        session_slug: &'a str,
        utterance_id: &'a UtteranceId,
        language: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        text: Option<&'a str>,
        /// Why there is none.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<&'static str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        speaker: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        speaker_id: Option<&'a str>,
        ts: Timestamp,
        sequence: Sequence,
        #[serde(skip_serializing_if = "is_first")]
        revision: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        stream: Option<StreamId>,
    }
    let (speaker, speaker_id) = speaker(&translation.speaker, None);
    encode(&Message {
        r#type: "translation",
        session_slug: translation.session.as_str(),
        utterance_id: &translation.utterance,
        language: &translation.language,
        text: translation.outcome.as_deref().ok(),
        error: translation.outcome.as_ref().err().map(|failure| failure.label()),
        speaker,
        speaker_id,
        ts: translation.at,
        sequence: translation.sequence,
        revision: translation.revision,
        stream: translation.utterance.stream(),
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Trouble<'a> {
    r#type: &'static str,
    message: &'a str,
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

/// Something that was not done, and why.
pub(crate) fn error(fault: FaultKind, message: &str, retry_after: Option<std::time::Duration>) -> Utf8Bytes {
    let retry_after_ms = retry_after.map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
    encode(&Trouble { r#type: "error", message, code: fault.label(), retry_after_ms })
}

/// Something that was done, with a loss.
pub(crate) fn warning(code: &'static str, message: &str) -> Utf8Bytes {
    encode(&Trouble { r#type: "warning", message, code, retry_after_ms: None })
}

/// The answer to `init`. Audio up to `acked` needs no sending, and up to `received` has come to this edge.
pub(crate) fn initialized(stream: StreamId, acked: Samples, received: Samples, init: &Init) -> Utf8Bytes {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Initialized<'a> {
        r#type: &'static str,
        stream: StreamId,
        acked: Samples,
        received: Samples,
        encoding: &'static str,
        sample_rate: u32,
        channels: u16,
        language: &'a str,
        partials: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        endpointing_ms: Option<u32>,
    }
    encode(&Initialized {
        r#type: "initialized",
        stream,
        acked,
        received,
        encoding: init.format.encoding.name(),
        sample_rate: init.format.sample_rate_hz,
        channels: init.format.channels,
        language: init.language.as_deref().unwrap_or("auto"),
        partials: init.partials,
        endpointing_ms: init.endpointing_ms,
    })
}

#[derive(Serialize)]
struct Position {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<StreamId>,
    samples: Samples,
}

/// Audio up to `samples` need not be sent again.
pub(crate) fn ack(stream: StreamId, samples: Samples) -> Utf8Bytes {
    encode(&Position { r#type: "ack", stream: Some(stream), samples })
}

/// The answer to `stop`: all finals are stored. Without a stream when there was no audio.
pub(crate) fn stopped(stream: Option<StreamId>, samples: Samples) -> Utf8Bytes {
    encode(&Position { r#type: "stopped", stream, samples })
}

/// The answer to `ping`.
pub(crate) const fn pong() -> Utf8Bytes {
    Utf8Bytes::from_static(r#"{"type":"pong"}"#)
}

/// The answer to `refresh`.
pub(crate) fn refreshed(expires_at: Timestamp) -> Utf8Bytes {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Refreshed {
        r#type: &'static str,
        expires_at: Timestamp,
    }
    encode(&Refreshed { r#type: "refreshed", expires_at })
}

/// An event of chat, beside captions.
pub(crate) fn chat(event: &str, data: &RawValue, id: Option<&Value>) -> Utf8Bytes {
    #[derive(Serialize)]
    struct Chat<'a> {
        r#type: &'static str,
        event: &'a str,
        data: &'a RawValue,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a Value>,
    }
    encode(&Chat { r#type: "chat", event, data, id })
}

/// The last message before the edge goes away.
pub(crate) fn reconnect(retry_after: std::time::Duration) -> Utf8Bytes {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Reconnect {
        r#type: &'static str,
        retry_after_ms: u64,
    }
    encode(&Reconnect {
        r#type: "reconnect",
        retry_after_ms: u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX),
    })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn parse(text: &str) -> Result<ClientMessage, String> {
        ClientMessage::parse(text).map_err(|error| error.to_string())
    }

    #[test]
    fn every_wrong_type_names_its_field() {
        for (text, named) in [
            (r#"{"type":"init","encoding":7}"#, "encoding"),
            (r#"{"type":"init","encoding":"aac"}"#, "encoding"),
            (r#"{"type":"init","sampleRate":"16000"}"#, "sampleRate"),
            (r#"{"type":"init","sampleRate":-1}"#, "sampleRate"),
            (r#"{"type":"init","sampleRate":1.5}"#, "sampleRate"),
            (r#"{"type":"init","sampleRate":1e300}"#, "sampleRate"),
            (r#"{"type":"init","sampleRate":99999999999}"#, "sample rate"),
            (r#"{"type":"init","channels":[]}"#, "channels"),
            (r#"{"type":"init","channels":0}"#, "channels"),
            (r#"{"type":"init","language":5}"#, "language"),
            (r#"{"type":"init","language":"<script>"}"#, "language"),
            (r#"{"type":"init","translateTo":"ar"}"#, "translateTo"),
            (r#"{"type":"init","translateTo":[1]}"#, "translateTo"),
            (r#"{"type":"init","partials":"yes"}"#, "partials"),
            (r#"{"type":"init","endpointingMs":1}"#, "endpointingMs"),
            (r#"{"type":"init","messages":"all"}"#, "messages"),
            (r#"{"type":"init","resume":"x"}"#, "resume"),
            (r#"{"type":"init","resume":{"stream":"x"}}"#, "resume.stream"),
            (r#"{"type":"init","resume":{"acked":"x"}}"#, "resume.acked"),
            (r#"{"type":"follow","since":"now"}"#, "since"),
            (r#"{"type":"refresh"}"#, "token"),
            (r#"{"type":"refresh","token":{}}"#, "token"),
            (r#"{"type":"active_speaker","identity":1}"#, "identity"),
            (r#"{"type":"active_speaker","identity":""}"#, "identity"),
            (r#"{"type":"active_speaker","name":1}"#, "name"),
            (r#"{"type":"active_speaker","timestamp":"now"}"#, "timestamp"),
            (r#"{"type":7}"#, "type"),
            (r#"{"hello":1}"#, "type"),
            ("[]", "JSON object"),
            ("7", "JSON object"),
            ("{", "JSON object"),
            ("", "JSON object"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(named), "{text}: {error}");
        }
        assert!(parse(&"[".repeat(10_000)).is_err());
        assert_eq!(ClientMessage::parse(&" ".repeat(TEXT_BYTES_MAX + 1)), Err(BadMessage::TooLong));
    }

    #[test]
    fn an_empty_init_means_the_defaults() {
        let Ok(ClientMessage::Init(init)) = parse(r#"{"type":"init","language":null}"#) else {
            panic!("no init")
        };
        assert_eq!(init.format, Format::new(Encoding::Auto, 16_000, 1).unwrap());
        assert_eq!((init.language, init.partials, init.endpointing_ms, init.shape), (None, true, None, None));
    }

    #[test]
    fn a_language_is_passed_on_as_it_was_said() {
        for language in ["en", "EN-us", "auto"] {
            let text = format!(r#"{{"type":"init","language":"{language}"}}"#);
            let Ok(ClientMessage::Init(init)) = ClientMessage::parse(&text) else { panic!("{language}") };
            assert_eq!(init.language.as_deref(), Some(language));
        }
        let parse = ClientMessage::parse;
        assert_eq!(parse(r#"{"type":"language","language":"ru"}"#), Ok(ClientMessage::Language("ru".into())));
        assert_eq!(
            parse(r#"{"type":"language"}"#).unwrap_err().to_string(),
            "language must be a language tag such as en, or auto"
        );
    }

    #[test]
    fn other_messages_are_read_or_passed_over() {
        assert_eq!(
            parse(r#"{"type":"follow","since":7.0}"#),
            Ok(ClientMessage::Follow { since: Sequence(7) })
        );
        assert_eq!(parse(r#"{"type":"follow"}"#), Ok(ClientMessage::Follow { since: Sequence(0) }));
        assert_eq!(parse(r#"{"type":"dance","since":[]}"#), Ok(ClientMessage::Unknown));
        let Ok(ClientMessage::ActiveSpeaker(speaker)) =
            parse(r#"{"type":"active_speaker","identity":"bob","name":" Bob ","timestamp":1700000000000}"#)
        else {
            panic!("no speaker")
        };
        assert_eq!(speaker.identity, Some("bob".parse().unwrap()));
        assert_eq!(speaker.name.as_deref(), Some("Bob"));
        assert!(speaker.is_active);
    }

    fn segment() -> Final {
        Final {
            session: "room".parse().unwrap(),
            sequence: Sequence(3),
            utterance: UtteranceId::Heard { stream: StreamId(Uuid::from_u128(1)), number: 2 },
            revision: 0,
            speaker: Speaker { identity: "alice".parse().unwrap(), name: None },
            text: "Über alles".into(),
            language: Some("en".into()),
            start: Samples(16_000),
            end: Samples(24_000),
            words: vec![model::Word { text: "Über".into(), start: Samples(16_000), end: Samples(20_000) }],
            at: Timestamp(1_700_000_000_000),
            outside: None,
            translations: BTreeMap::new(),
        }
    }

    #[test]
    fn the_fields_of_system_a_come_first() {
        let stream = "00000000-0000-0000-0000-000000000001";
        let expected = format!(
            r#"{{"type":"transcript_final","sessionSlug":"room","utteranceId":"{stream}-2","text":"Über alles","isFinal":true,"speaker":"alice","speakerId":"alice","ts":1700000000000,"sequence":3,"start":1.0,"end":1.5,"stable":10,"words":[{{"text":"Über","start":1.0,"end":1.25}}],"language":"en","stream":"{stream}"}}"#
        );
        assert_eq!(transcript(&Caption::Final(segment()), true).as_str(), expected);
        let partial = Partial {
            session: "room".parse().unwrap(),
            utterance: segment().utterance,
            speaker: Speaker { identity: "alice".parse().unwrap(), name: Some("Alice".into()) },
            text: "Ü".into(),
            stable: 0,
            language: None,
            start: Samples(0),
            end: Samples(800),
            at: Timestamp(5),
            outside: None,
        };
        let expected = format!(
            r#"{{"type":"transcript","sessionSlug":"room","utteranceId":"{stream}-2","text":"Ü","isFinal":false,"speaker":"Alice","speakerId":"alice","ts":5,"start":0.0,"end":0.05,"stable":0,"stream":"{stream}"}}"#
        );
        assert_eq!(transcript(&Caption::Partial(partial), false).as_str(), expected);
    }

    #[test]
    fn languages_of_translations_are_asked_for_in_either_way() {
        let asked = |fields: &str| match ClientMessage::parse(&format!(r#"{{"type":"init",{fields}}}"#)) {
            Ok(ClientMessage::Init(init)) => Ok(init.translate_to),
            other => Err(other),
        };
        assert_eq!(asked(r#""translateTo":["ar","es-419","AR"]"#), Ok(vec!["ar".into(), "es-419".into()]));
        assert_eq!(asked(r#""targetLanguage":"ar""#), Ok(vec!["ar".into()]));
        assert_eq!(asked(r#""targetLanguage":null"#), Ok(vec![]));
        assert!(asked(&format!(r#""translateTo":{:?}"#, ["ar"; 9])).is_err());
    }

    #[test]
    fn a_translation_has_a_text_or_a_reason() {
        let of = |outcome: Result<&str, model::Untranslated>| Translation {
            session: "room".parse().unwrap(),
            sequence: Sequence(4),
            utterance: segment().utterance,
            revision: 0,
            speaker: segment().speaker,
            language: "ar".into(),
            outcome: outcome.map(str::to_owned),
            at: Timestamp(5),
        };
        let stream = "00000000-0000-0000-0000-000000000001";
        let expected = |what: &str| {
            format!(
                r#"{{"type":"translation","sessionSlug":"room","utteranceId":"{stream}-2","language":"ar",{what},"speaker":"alice","speakerId":"alice","ts":5,"sequence":4,"stream":"{stream}"}}"#
            )
        };
        assert_eq!(translation(&of(Ok("فوق"))).as_str(), expected(r#""text":"فوق""#));
        let late = of(Err(model::Untranslated::TooLate));
        assert_eq!(translation(&late).as_str(), expected(r#""error":"too_late""#));
        let known = Final { translations: [("ar".into(), "فوق".into())].into(), ..segment() };
        let text = transcript(&Caption::Final(known), true);
        assert!(text.contains(r#""language":"en","translations":{"ar":"فوق"},"stream""#), "{text}");
    }

    #[test]
    fn what_a_back_end_hands_in_has_the_shape_of_system_a() {
        let outside =
            Outside { user: Some("u1".parse().unwrap()), said_at: Some(Timestamp(7)), message: None };
        let nobody = Speaker { identity: Speaker::ROOM.parse().unwrap(), name: None };
        let said = Final {
            utterance: "utt-1".parse().unwrap(),
            speaker: nobody,
            language: None,
            words: Vec::new(),
            outside: Some(outside),
            ..segment()
        };
        let expected = r#"{"type":"transcript_final","sessionSlug":"room","utteranceId":"utt-1","text":"Über alles","isFinal":true,"userId":"u1","ts":7,"sequence":3,"stable":10}"#;
        assert_eq!(transcript(&Caption::Final(said.clone()), true).as_str(), expected);
        let message = JsonObject::parse(r#"{"type":"x","a":[1]}"#, 100).unwrap();
        let outside = Outside { message: Some(message), ..Outside::default() };
        let said = Final { outside: Some(outside), ..said };
        assert_eq!(transcript(&Caption::Final(said), true).as_str(), r#"{"a":[1],"type":"x"}"#);
    }

    fn hearing(engine: Option<EngineName>, fallback: Option<Fallback>) -> Hearing {
        Hearing { state: model::StreamState::Ready, engine, fallback }
    }

    #[test]
    fn the_greeting_is_that_of_system_a() {
        assert_eq!(
            connected(&"room".parse().unwrap(), "u1", Timestamp(1_700_000_000_000)).as_str(),
            r#"{"type":"connected","sessionSlug":"room","userId":"u1","message":"WebSocket connection established","ts":1700000000000}"#
        );
        assert_eq!(
            stt_status(&"room".parse().unwrap(), &hearing(None, None), Timestamp(7)).as_str(),
            r#"{"type":"stt_status","status":"ready","sessionSlug":"room","timestamp":7}"#
        );
        let fallback = Fallback { from: EngineName::Gladia, reason: "quota".into() };
        let hearing = hearing(Some(EngineName::Moonshine), Some(fallback));
        assert_eq!(
            stt_status(&"room".parse().unwrap(), &hearing, Timestamp(7)).as_str(),
            r#"{"type":"stt_status","status":"ready","sessionSlug":"room","timestamp":7,"engine":"moonshine","fallbackFrom":"gladia","reason":"quota"}"#
        );
        assert_eq!(
            error(FaultKind::Overloaded, "busy", Some(std::time::Duration::from_secs(2))).as_str(),
            r#"{"type":"error","message":"busy","code":"overloaded","retryAfterMs":2000}"#
        );
    }
}
