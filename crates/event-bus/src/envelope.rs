//! The one JSON form of an event in Redis, and its conversions from and to `model`.
//!
//! `{"v":1,"id":UUID,"topic":"session:demo","sequence":7,"kind":"final","origin":UUID,"payload":{…}}`, with `traceparent`
//! (W3C Trace Context) when what is told belongs to a trace. Fields may be added; a reader skips those it does not know. A change that old readers would misread is a new `v`, and a new
//! meaning is a new `kind`: readers skip both, counted, since processes of two releases run while one is rolled out.

use std::collections::BTreeMap;

use model::{
    AppEvent, Caption, Change, EngineName, Fallback, Final, Identity, JsonObject, Message, Notification,
    NotificationChange, Outside, Partial, RoomSign, Samples, SeatId, Sequence, SessionSlug, Speaker,
    StreamId, StreamState, StreamStatus, Timestamp, Topic, TraceContext, TranscriptionError, Translation,
    Unread, Untranslated, UserId, UtteranceId, Word,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::{BusError, Event};

const VERSION: u32 = 1;

const PARTIAL: &str = "partial";
const FINAL: &str = "final";
const TRANSLATION: &str = "translation";
const STATUS: &str = "status";
const SESSION_ENDED: &str = "session_ended";
const TRANSCRIPTION_ERROR: &str = "transcription_error";
const NOTIFICATION: &str = "notification";
const NOTIFICATION_CHANGED: &str = "notification_changed";
const MESSAGE: &str = "message";
const SIGN: &str = "sign";
const APP: &str = "app";

pub(crate) const KINDS: [&str; 11] = [
    PARTIAL,
    FINAL,
    TRANSLATION,
    STATUS,
    SESSION_ENDED,
    TRANSCRIPTION_ERROR,
    NOTIFICATION,
    NOTIFICATION_CHANGED,
    MESSAGE,
    SIGN,
    APP,
];

/// Why a message was skipped; its label in metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreadable {
    Version,
    Kind,
    Malformed,
}

impl Unreadable {
    pub(crate) const ALL: [Self; 3] = [Self::Version, Self::Kind, Self::Malformed];

    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Kind => "kind",
            Self::Malformed => "malformed",
        }
    }
}

#[derive(Serialize)]
struct Outgoing<'a, P> {
    v: u32,
    id: Uuid,
    topic: &'a Topic,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<Sequence>,
    kind: &'a str,
    /// The process that published it, for whoever reads along.
    origin: Uuid,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<TraceContext>,
    payload: P,
}

#[derive(Deserialize)]
struct Version {
    v: u32,
}

#[derive(Deserialize)]
struct Incoming<'a> {
    topic: Topic,
    sequence: Option<Sequence>,
    kind: &'a str,
    #[serde(default, borrow)]
    traceparent: Option<&'a RawValue>,
    #[serde(borrow)]
    payload: &'a RawValue,
}

#[derive(Serialize, Deserialize)]
struct CaptionPayload {
    session: SessionSlug,
    utterance: UtteranceId,
    identity: Identity,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    language: Option<String>,
    /// Samples.
    start: Samples,
    /// Samples.
    end: Samples,
    /// Milliseconds since 1970.
    at: Timestamp,
    /// Partials.
    #[serde(default)]
    stable: u32,
    /// Finals.
    #[serde(default)]
    revision: u32,
    /// Finals.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    words: Vec<WordPayload>,
    /// Of a back end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    outside: Option<OutsidePayload>,
}

/// The sequence is that of the envelope. With `text` or with `failure`.
#[derive(Serialize, Deserialize)]
struct TranslationPayload {
    session: SessionSlug,
    utterance: UtteranceId,
    #[serde(default)]
    revision: u32,
    identity: Identity,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    language: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// Label of an [`Untranslated`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
    at: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct OutsidePayload {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<UserId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    said_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message: Option<JsonObject>,
}

#[derive(Serialize, Deserialize)]
struct WordPayload {
    text: String,
    start: Samples,
    end: Samples,
}

#[derive(Serialize, Deserialize)]
struct StatusPayload {
    session: SessionSlug,
    stream: StreamId,
    /// Label of a [`StreamState`].
    state: String,
    /// Label of an [`EngineName`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    engine: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fallback: Option<FallbackPayload>,
    at: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct FallbackPayload {
    /// Label of an [`EngineName`].
    from: String,
    reason: String,
}

#[derive(Serialize, Deserialize)]
struct TranscriptionErrorPayload {
    reason: String,
    message: String,
    at: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct SessionEndedPayload {}

/// The sequence is that of the envelope.
#[derive(Serialize, Deserialize)]
struct NotificationPayload {
    notification: Notification,
    unread: u64,
}

/// The sequence is that of the envelope.
#[derive(Serialize, Deserialize)]
struct ChangePayload {
    user: UserId,
    change: Change,
    unread: u64,
    at: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct SignPayload {
    from: SeatId,
    #[serde(flatten)]
    sign: RoomSign,
}

/// The event as it is; what another back end published has no sequence and is not passed on.
#[derive(Serialize, Deserialize)]
struct AppPayload {
    event: JsonObject,
}

pub(crate) fn kind(event: &Event) -> &'static str {
    match event {
        Event::Caption(Caption::Partial(_)) => PARTIAL,
        Event::Caption(Caption::Final(_)) => FINAL,
        Event::Caption(Caption::Translation(_)) => TRANSLATION,
        Event::Status(_) => STATUS,
        Event::SessionEnded => SESSION_ENDED,
        Event::TranscriptionError(_) => TRANSCRIPTION_ERROR,
        Event::Notification { .. } => NOTIFICATION,
        Event::NotificationChanged(_) => NOTIFICATION_CHANGED,
        Event::Message(_) => MESSAGE,
        Event::Sign { .. } => SIGN,
        Event::App(_) => APP,
    }
}

/// What a message says, and the trace that it belongs to.
pub(crate) type Heard = (Topic, Event, Option<TraceContext>);

pub(crate) fn encode(origin: Uuid, topic: &Topic, event: &Event) -> Result<Vec<u8>, BusError> {
    let kind = kind(event);
    let encoded = match event {
        Event::Caption(Caption::Partial(partial)) => {
            seal(origin, topic, None, kind, partial_payload(partial))
        }
        Event::Caption(Caption::Final(segment)) => {
            seal(origin, topic, Some(segment.sequence), kind, final_payload(segment))
        }
        Event::Caption(Caption::Translation(translation)) => {
            seal(origin, topic, Some(translation.sequence), kind, translation_payload(translation))
        }
        Event::Status(status) => seal(origin, topic, None, kind, status_payload(status)),
        Event::SessionEnded => seal(origin, topic, None, kind, SessionEndedPayload {}),
        Event::TranscriptionError(TranscriptionError { reason, message, at }) => {
            let payload =
                TranscriptionErrorPayload { reason: reason.clone(), message: message.clone(), at: *at };
            seal(origin, topic, None, kind, payload)
        }
        Event::Notification { notification, unread } => {
            let payload = NotificationPayload { notification: notification.clone(), unread: unread.count };
            seal(origin, topic, Some(notification.sequence), kind, payload)
        }
        Event::NotificationChanged(changed) => {
            let payload = ChangePayload {
                user: changed.user.clone(),
                change: changed.change.clone(),
                unread: changed.unread.count,
                at: changed.at,
            };
            seal(origin, topic, Some(changed.unread.version), kind, payload)
        }
        Event::Message(message) => seal(origin, topic, Some(message.sequence), kind, message),
        Event::Sign { sign, from } => {
            seal(origin, topic, None, kind, SignPayload { from: *from, sign: sign.clone() })
        }
        Event::App(AppEvent { sequence, payload }) => {
            seal(origin, topic, *sequence, kind, AppPayload { event: payload.clone() })
        }
    };
    // Only a map with keys that are no text could fail, and there is none.
    encoded.map_err(|error| BusError::Unavailable(format!("the event cannot be encoded: {error}")))
}

fn seal(
    origin: Uuid,
    topic: &Topic,
    sequence: Option<Sequence>,
    kind: &str,
    payload: impl Serialize,
) -> serde_json::Result<Vec<u8>> {
    let traceparent = telemetry::current();
    let id = Uuid::new_v4();
    serde_json::to_vec(&Outgoing { v: VERSION, id, topic, sequence, kind, origin, traceparent, payload })
}

pub(crate) fn decode(message: &[u8]) -> Result<Heard, Unreadable> {
    fn read<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, Unreadable> {
        serde_json::from_slice(json).map_err(|_| Unreadable::Malformed)
    }
    // The version first: another one may mean anything by the other fields.
    if read::<Version>(message)?.v != VERSION {
        return Err(Unreadable::Version);
    }
    let Incoming { topic, sequence, kind, traceparent, payload } = read(message)?;
    // One that cannot be read concerns the trace alone.
    let trace = traceparent.and_then(|text| serde_json::from_str(text.get()).ok());
    let payload = payload.get().as_bytes();
    let event = match kind {
        PARTIAL => Event::Caption(Caption::Partial(partial(read(payload)?))),
        FINAL => {
            Event::Caption(Caption::Final(segment(read(payload)?, sequence.ok_or(Unreadable::Malformed)?)))
        }
        TRANSLATION => {
            let sequence = sequence.ok_or(Unreadable::Malformed)?;
            let translation = translation(read(payload)?, sequence).ok_or(Unreadable::Kind)?;
            Event::Caption(Caption::Translation(translation))
        }
        STATUS => Event::Status(status(read(payload)?).ok_or(Unreadable::Kind)?),
        SESSION_ENDED => Event::SessionEnded,
        TRANSCRIPTION_ERROR => {
            let TranscriptionErrorPayload { reason, message, at } = read(payload)?;
            Event::TranscriptionError(TranscriptionError { reason, message, at })
        }
        NOTIFICATION => {
            let version = sequence.ok_or(Unreadable::Malformed)?;
            let NotificationPayload { notification, unread: count } = read(payload)?;
            Event::Notification {
                notification: Notification { sequence: version, ..notification },
                unread: Unread { count, version },
            }
        }
        NOTIFICATION_CHANGED => {
            let version = sequence.ok_or(Unreadable::Malformed)?;
            let ChangePayload { user, change, unread: count, at } = read(payload)?;
            Event::NotificationChanged(NotificationChange {
                user,
                change,
                unread: Unread { count, version },
                at,
            })
        }
        MESSAGE => {
            let message: Message = read(payload)?;
            Event::Message(Message { sequence: sequence.ok_or(Unreadable::Malformed)?, ..message })
        }
        SIGN => {
            let SignPayload { from, sign } = read(payload)?;
            Event::Sign { sign, from }
        }
        APP => {
            let AppPayload { event } = read(payload)?;
            Event::App(AppEvent { sequence, payload: event })
        }
        _ => return Err(Unreadable::Kind),
    };
    Ok((topic, event, trace))
}

fn status_payload(status: &StreamStatus) -> StatusPayload {
    let fallback = status.fallback.as_ref();
    StatusPayload {
        session: status.session.clone(),
        stream: status.stream,
        state: status.state.label().to_owned(),
        engine: status.engine.map(|engine| engine.label().to_owned()),
        fallback: fallback.map(|fallback| FallbackPayload {
            from: fallback.from.label().to_owned(),
            reason: fallback.reason.clone(),
        }),
        at: status.at,
    }
}

/// `None` when it is in a state that this release does not know; an engine that it does not know is none.
fn status(payload: StatusPayload) -> Option<StreamStatus> {
    let fallback = payload.fallback.and_then(|fallback| {
        Some(Fallback { from: EngineName::from_label(&fallback.from)?, reason: fallback.reason })
    });
    Some(StreamStatus {
        session: payload.session,
        stream: payload.stream,
        state: StreamState::from_label(&payload.state)?,
        engine: payload.engine.as_deref().and_then(EngineName::from_label),
        fallback,
        at: payload.at,
    })
}

fn outside_payload(outside: Option<&Outside>) -> Option<OutsidePayload> {
    outside.map(|outside| OutsidePayload {
        user: outside.user.clone(),
        said_at: outside.said_at,
        message: outside.message.clone(),
    })
}

fn outside(payload: Option<OutsidePayload>) -> Option<Outside> {
    payload.map(|OutsidePayload { user, said_at, message }| Outside { user, said_at, message })
}

fn partial_payload(partial: &Partial) -> CaptionPayload {
    CaptionPayload {
        session: partial.session.clone(),
        utterance: partial.utterance.clone(),
        identity: partial.speaker.identity.clone(),
        name: partial.speaker.name.clone(),
        text: partial.text.clone(),
        language: partial.language.clone(),
        start: partial.start,
        end: partial.end,
        at: partial.at,
        stable: partial.stable,
        revision: 0,
        words: Vec::new(),
        outside: outside_payload(partial.outside.as_ref()),
    }
}

fn partial(payload: CaptionPayload) -> Partial {
    Partial {
        session: payload.session,
        utterance: payload.utterance,
        speaker: Speaker { identity: payload.identity, name: payload.name },
        text: payload.text,
        stable: payload.stable,
        language: payload.language,
        start: payload.start,
        end: payload.end,
        at: payload.at,
        outside: outside(payload.outside),
    }
}

fn final_payload(segment: &Final) -> CaptionPayload {
    let word = |word: &Word| WordPayload { text: word.text.clone(), start: word.start, end: word.end };
    CaptionPayload {
        session: segment.session.clone(),
        utterance: segment.utterance.clone(),
        identity: segment.speaker.identity.clone(),
        name: segment.speaker.name.clone(),
        text: segment.text.clone(),
        language: segment.language.clone(),
        start: segment.start,
        end: segment.end,
        at: segment.at,
        stable: 0,
        revision: segment.revision,
        words: segment.words.iter().map(word).collect(),
        outside: outside_payload(segment.outside.as_ref()),
    }
}

fn segment(payload: CaptionPayload, sequence: Sequence) -> Final {
    let word = |word: WordPayload| Word { text: word.text, start: word.start, end: word.end };
    Final {
        session: payload.session,
        sequence,
        utterance: payload.utterance,
        revision: payload.revision,
        speaker: Speaker { identity: payload.identity, name: payload.name },
        text: payload.text,
        language: payload.language,
        start: payload.start,
        end: payload.end,
        words: payload.words.into_iter().map(word).collect(),
        at: payload.at,
        outside: outside(payload.outside),
        // None is known yet of one that was just stored.
        translations: BTreeMap::new(),
    }
}

fn translation_payload(translation: &Translation) -> TranslationPayload {
    TranslationPayload {
        session: translation.session.clone(),
        utterance: translation.utterance.clone(),
        revision: translation.revision,
        identity: translation.speaker.identity.clone(),
        name: translation.speaker.name.clone(),
        language: translation.language.clone(),
        text: translation.outcome.as_ref().ok().cloned(),
        failure: translation.outcome.as_ref().err().map(|failure| failure.label().to_owned()),
        at: translation.at,
    }
}

/// `None` for a failure of a later release.
fn translation(payload: TranslationPayload, sequence: Sequence) -> Option<Translation> {
    Some(Translation {
        session: payload.session,
        sequence,
        utterance: payload.utterance,
        revision: payload.revision,
        speaker: Speaker { identity: payload.identity, name: payload.name },
        language: payload.language,
        outcome: match payload.text {
            Some(text) => Ok(text),
            None => Err(Untranslated::from_label(&payload.failure?)?),
        },
        at: payload.at,
    })
}

#[cfg(test)]
mod tests {
    use model::{Member, MessageKind};

    use super::*;

    fn topic() -> Topic {
        "session:demo".parse().unwrap()
    }

    fn events() -> Vec<Event> {
        let session: SessionSlug = "demo".parse().unwrap();
        let stream = StreamId(Uuid::from_u128(3));
        let utterance = UtteranceId::Heard { stream, number: 4 };
        let speaker = Speaker { identity: "alice".parse().unwrap(), name: Some("Alice".to_owned()) };
        let partial = Partial {
            session: session.clone(),
            utterance: utterance.clone(),
            speaker: speaker.clone(),
            text: "приве".to_owned(),
            stable: 3,
            language: None,
            start: Samples(10),
            end: Samples(20),
            at: Timestamp(5),
            outside: None,
        };
        let segment = Final {
            session: session.clone(),
            sequence: Sequence(7),
            utterance,
            revision: 2,
            speaker: Speaker { name: None, ..speaker },
            text: "مرحبا \"you\"".to_owned(),
            language: Some("ar".to_owned()),
            start: Samples(10),
            end: Samples(30),
            words: vec![Word { text: "مرحبا".to_owned(), start: Samples(10), end: Samples(12) }],
            at: Timestamp(6),
            outside: Some(Outside {
                user: Some("u1".parse().unwrap()),
                said_at: Some(Timestamp(2)),
                message: Some(JsonObject::parse(r#"{"type":"transcript"}"#, 100).unwrap()),
            }),
            translations: BTreeMap::new(),
        };
        let translated = Translation {
            session: session.clone(),
            sequence: Sequence(8),
            utterance: segment.utterance.clone(),
            revision: 2,
            speaker: segment.speaker.clone(),
            language: "de-AT".to_owned(),
            outcome: Ok("Grüß \"dich\"".to_owned()),
            at: Timestamp(7),
        };
        let untranslated = Translation { outcome: Err(Untranslated::TooLate), ..translated.clone() };
        let status = StreamStatus {
            session,
            stream,
            state: StreamState::Ready,
            engine: Some(EngineName::Moonshine),
            fallback: Some(Fallback { from: EngineName::Gladia, reason: "quota".to_owned() }),
            at: Timestamp(1),
        };
        let user: UserId = "u1".parse().unwrap();
        let ids = vec![model::NotificationId(Uuid::from_u128(6))];
        let metadata = JsonObject::parse(r#"{"postId":"7"}"#, 100).unwrap();
        let version = Sequence(12);
        let notification = Notification {
            id: model::NotificationId(Uuid::from_u128(5)),
            user: user.clone(),
            sequence: version,
            kind: "LIKE_POST".parse().unwrap(),
            title: "A \"like\"".to_owned(),
            message: String::new(),
            metadata: Some(metadata.clone()),
            priority: model::Priority::High,
            is_read: false,
            is_archived: false,
            created_at: Timestamp(9),
            expires_at: Some(Timestamp(10)),
            collapse_key: Some("likes".to_owned()),
            replaces: ids.clone(),
        };
        let changes = [Change::Read(ids.clone()), Change::AllRead, Change::Cleared(3), Change::Expired(ids)];
        let changes = changes.map(|change| {
            let unread = Unread { count: 1, version };
            let change = NotificationChange { user: user.clone(), change, unread, at: Timestamp(4) };
            Event::NotificationChanged(change)
        });
        let message = Message {
            id: model::MessageId(Uuid::from_u128(8)),
            room: "r".parse().unwrap(),
            sequence: version,
            position: Sequence(11),
            author: user.clone(),
            author_name: Some("Älice".to_owned()),
            client_message_id: Some("c".to_owned()),
            kind: MessageKind::Image,
            text: "https://example.com/cat.png".to_owned(),
            metadata: None,
            reply_to: Some(model::MessageId(Uuid::from_u128(7))),
            created_at: Timestamp(1),
            edited_at: Some(Timestamp(2)),
            deleted_at: None,
        };
        let name = "Älice".to_owned();
        let signs = [
            RoomSign::Joined(Member { user: user.clone(), name: name.clone(), joined_at: Timestamp(8) }),
            RoomSign::Left { user: user.clone() },
            RoomSign::Typing { user, name, is_typing: true },
        ];
        let signs = signs.map(|sign| Event::Sign { sign, from: SeatId(Uuid::from_u128(9)) });
        let unread = Unread { count: 2, version };
        let mut events = vec![
            Event::Notification { notification, unread },
            Event::Message(message),
            Event::App(AppEvent { sequence: Some(version), payload: metadata.clone() }),
            Event::App(AppEvent { sequence: None, payload: metadata }),
        ];
        events.extend(changes);
        events.extend(signs);
        events.extend([
            Event::Caption(Caption::Partial(partial)),
            Event::Caption(Caption::Final(segment)),
            Event::Caption(Caption::Translation(translated)),
            Event::Caption(Caption::Translation(untranslated)),
            Event::Status(status),
            Event::SessionEnded,
            Event::TranscriptionError(TranscriptionError {
                reason: "livekit_unauthorized".to_owned(),
                message: "check the key".to_owned(),
                at: Timestamp(3),
            }),
        ]);
        events
    }

    #[test]
    fn every_event_survives_the_envelope() {
        for event in events() {
            let message = encode(Uuid::nil(), &topic(), &event).unwrap();
            assert_eq!(decode(&message), Ok((topic(), event, None)));
        }
    }

    #[test]
    fn a_trace_that_cannot_be_read_is_none() {
        let trace = |traceparent: &str| {
            let message = format!(
                r#"{{"v":1,"topic":"session:a","kind":"session_ended","traceparent":{traceparent},"payload":{{}}}}"#
            );
            decode(message.as_bytes()).unwrap().2
        };
        let context = TraceContext { trace: 1, span: 2, is_sampled: true };
        assert_eq!(trace(&format!("\"{context}\"")), Some(context));
        for unreadable in ["\"00-1\"", "7", "null", "{}"] {
            assert_eq!(trace(unreadable), None, "{unreadable}");
        }
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        for (message, why) in [
            (r#"{"v":2,"subject":"new"}"#, Unreadable::Version),
            (r#"{"v":1,"topic":"session:a","kind":"poll","payload":{}}"#, Unreadable::Kind),
            (r#"{"v":1,"topic":"session:a","kind":"final","payload":{}}"#, Unreadable::Malformed),
            (r#"{"v":1,"topic":"planet:a","kind":"session_ended","payload":{}}"#, Unreadable::Malformed),
            (r#"{"topic":"session:a"}"#, Unreadable::Malformed),
            ("hello", Unreadable::Malformed),
            ("", Unreadable::Malformed),
        ] {
            assert_eq!(decode(message.as_bytes()), Err(why), "{message}");
        }
    }

    #[test]
    fn fields_of_a_later_release_are_skipped() {
        let message =
            r#"{"v":1,"topic":"session:a","kind":"session_ended","trace":"00-1","payload":{"why":"idle"}}"#;
        assert_eq!(decode(message.as_bytes()).unwrap().1, Event::SessionEnded);
    }
}
