//! What back ends and clients of system A do with sessions over HTTP: start and stop their transcription, say who speaks,
//! hand in captions of their own, and LiveKit's webhooks.

use std::time::Duration;

use auth::Principal;
use bytes::Bytes;
use event_bus::Event;
use http::{HeaderMap, Method, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Body;
use livekit::WebhookError;
use model::{
    AppEvent, Caption, FaultKind, Identity, InvalidJson, JsonObject, Outside, Partial, Samples, SessionSlug,
    Speaker, Timestamp, Topic, UserId, UtteranceId,
};
use serde_json::{Map, Value};
use storage::Revision;

use crate::{
    Edge,
    answers::{self, Answer, error, object},
    handshake::bearer,
    proof, protocol, rooms,
};

pub(crate) const START_PATH: &str = "/api/transcription/start";
pub(crate) const STOP_PATH: &str = "/api/transcription/stop";
const ACTIVE_SPEAKER_PATH: &str = "/api/active-speaker";
const BROADCAST_PATH: &str = "/api/realtime/transcribe/broadcast";
const TRANSCRIPTS_PATH: &str = "/api/transcripts";
const LIVEKIT_PATH: &str = "/hooks/livekit";

/// Where these routes are.
pub(crate) const PATHS: [&str; 6] =
    [START_PATH, STOP_PATH, ACTIVE_SPEAKER_PATH, BROADCAST_PATH, TRANSCRIPTS_PATH, LIVEKIT_PATH];

/// Largest request body, in bytes.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// How long a request body may take.
const BODY_LIMIT: Duration = Duration::from_secs(10);

/// When a request may come again that Postgres or Redis cannot take now.
const RETRY: Duration = Duration::from_secs(5);

/// Longest text that a back end may hand in, in bytes.
const TEXT_BYTES_MAX: usize = 16 * 1024;

/// Largest message that is sent on as it is, in bytes.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Clocks of LiveKit and ours may differ by so much.
const CLOCKS_DIFFER: Duration = Duration::from_secs(10);

/// One of these routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    Start,
    Stop,
    ActiveSpeaker,
    Broadcast,
    Transcripts,
    LiveKit,
}

/// Which of these routes a request is for, if any.
pub(crate) fn route(method: &Method, path: &str) -> Option<Route> {
    if method != Method::POST {
        return None;
    }
    match path {
        BROADCAST_PATH => Some(Route::Broadcast),
        TRANSCRIPTS_PATH => Some(Route::Transcripts),
        LIVEKIT_PATH => Some(Route::LiveKit),
        // System A matches these by their beginning.
        _ if path.starts_with(START_PATH) => Some(Route::Start),
        _ if path.starts_with(STOP_PATH) => Some(Route::Stop),
        _ if path.starts_with(ACTIVE_SPEAKER_PATH) => Some(Route::ActiveSpeaker),
        _ => None,
    }
}

/// Whether captions are handed in there.
pub(crate) fn is_caption(path: &str) -> bool {
    path == BROADCAST_PATH || path == TRANSCRIPTS_PATH
}

/// Answers a request for one of these routes.
pub(crate) async fn answer<B>(edge: &Edge, route: Route, headers: &HeaderMap, body: B) -> Answer
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let bytes = match read(body).await {
        Ok(bytes) => bytes,
        Err(refused) => return *refused,
    };
    match route {
        Route::Start => start(edge, headers, parse(&bytes)),
        Route::Stop => stop(edge, headers, parse(&bytes)),
        Route::ActiveSpeaker => active_speaker(edge, parse(&bytes)),
        Route::Broadcast => broadcast(edge, headers, parse(&bytes)).await,
        Route::Transcripts => transcripts(edge, headers, parse(&bytes)).await,
        Route::LiveKit => livekit(edge, headers, &bytes).await,
    }
    .unwrap_or_else(|refused| *refused)
}

async fn read<B>(body: B) -> Result<Bytes, Refused>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let reading = Limited::new(Box::pin(body), BODY_BYTES_MAX).collect();
    match tokio::time::timeout(BODY_LIMIT, reading).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(_)) => Err(error(StatusCode::PAYLOAD_TOO_LARGE, "Request body too large or cut off").into()),
        Err(_) => Err(error(StatusCode::REQUEST_TIMEOUT, "Request body took too long").into()),
    }
}

/// An answer that ends a request early.
type Refused = Box<Answer>;

/// A JSON object, or why it is none.
type Fields = Result<Map<String, Value>, String>;

fn parse(bytes: &[u8]) -> Fields {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(Value::Null) => Err("expected a JSON object".to_owned()),
        // Has none of the fields, as system A finds.
        Ok(_) => Ok(Map::new()),
        Err(error) => Err(error.to_string()),
    }
}

/// A text that is there and says anything. U+0000 says nothing: Postgres cannot keep it.
fn text<'a>(body: &'a Map<String, Value>, field: &str) -> Option<&'a str> {
    let says = |text: &str| text.chars().any(|letter| letter != '\0' && !letter.is_whitespace());
    body.get(field).and_then(Value::as_str).map(str::trim).filter(|text| says(text))
}

/// When it was said, as a back end has it. A moment before 1970 is none that anybody meant.
fn said_at(body: &Map<String, Value>) -> Option<Timestamp> {
    body.get("ts").and_then(Value::as_i64).filter(|ms| *ms >= 0).map(Timestamp)
}

/// Whether the caller may do this, or how it is told that it may not.
fn authorised(
    edge: &Edge,
    headers: &HeaderMap,
    body: &Map<String, Value>,
    suits: impl FnOnce(&Principal) -> bool,
) -> Result<(), FaultKind> {
    if edge.settings.legacy_open_routes {
        return Ok(());
    }
    proof::authorised(edge, headers, text(body, "token"), suits)
}

fn status(fault: FaultKind) -> StatusCode {
    StatusCode::from_u16(fault.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// What every route but `start` says of a caller that may not.
fn refused(fault: FaultKind) -> Answer {
    error(status(fault), proof::refusal(fault))
}

fn wrong(problem: &impl std::fmt::Display) -> Answer {
    error(StatusCode::BAD_REQUEST, &problem.to_string())
}

/// What is away, and when to come again.
fn away(text: &str) -> Answer {
    answers::retry_after(error(StatusCode::SERVICE_UNAVAILABLE, text), RETRY)
}

const DATABASE_AWAY: &str = "The database is away, try again";

fn start(edge: &Edge, headers: &HeaderMap, body: Fields) -> Result<Answer, Refused> {
    let failed = |status, text: &str| object(status, [("ok", false.into()), ("error", text.into())]);
    let body = body.map_err(|message| {
        object(
            StatusCode::INTERNAL_SERVER_ERROR,
            [
                ("ok", false.into()),
                ("mode", "live".into()),
                ("error", "transcription_start_failed".into()),
                ("reason", "internal_error".into()),
                ("message", message.into()),
            ],
        )
    })?;
    let (Some(external_id), Some(slug)) = (text(&body, "sessionId"), text(&body, "sessionSlug")) else {
        return Err(failed(StatusCode::BAD_REQUEST, "Missing sessionId or sessionSlug").into());
    };
    let external_id = rpc::session::session_id(external_id)
        .map_err(|problem| failed(StatusCode::BAD_REQUEST, problem.message()))?;
    let session: SessionSlug =
        slug.parse().map_err(|problem| failed(StatusCode::BAD_REQUEST, &format!("{problem}")))?;
    authorised(edge, headers, &body, |principal| principal.may_speak(&session))
        .map_err(|fault| failed(status(fault), proof::refusal(fault)))?;
    let language = rpc::session::language(text(&body, "language").unwrap_or_default().to_owned())
        .map_err(|problem| failed(StatusCode::BAD_REQUEST, problem.message()))?;
    // Answered at once, whatever Postgres and LiveKit do.
    edge.sessions
        .start(session, external_id.to_owned(), language)
        .map_err(|_| answers::retry_after(failed(StatusCode::SERVICE_UNAVAILABLE, DATABASE_AWAY), RETRY))?;
    let mode = if edge.settings.test_mode { "test" } else { "live" };
    Ok(object(StatusCode::OK, [("ok", true.into()), ("mode", mode.into())]))
}

fn stop(edge: &Edge, headers: &HeaderMap, body: Fields) -> Result<Answer, Refused> {
    let body = body.map_err(|message| error(StatusCode::INTERNAL_SERVER_ERROR, &message))?;
    let external_id =
        text(&body, "sessionId").ok_or_else(|| error(StatusCode::BAD_REQUEST, "Missing sessionId"))?;
    let suits = |principal: &Principal| {
        principal.session_id() == Some(external_id) && principal.may_speak(principal.session())
    };
    authorised(edge, headers, &body, suits).map_err(refused)?;
    edge.sessions.stop(external_id.to_owned()).map_err(|_| away(DATABASE_AWAY))?;
    Ok(object(StatusCode::OK, [("success", true.into()), ("sessionId", external_id.into())]))
}

fn active_speaker(edge: &Edge, body: Fields) -> Result<Answer, Refused> {
    let body = body.map_err(|message| error(StatusCode::INTERNAL_SERVER_ERROR, &message))?;
    let fields = (text(&body, "sessionSlug"), text(&body, "identity"), text(&body, "token"));
    let (Some(slug), Some(identity), Some(token)) = fields else {
        return Err(
            error(StatusCode::BAD_REQUEST, "Missing required fields: sessionSlug, identity, token").into()
        );
    };
    let principal = edge
        .tokens
        .verify(token)
        .map_err(|_| error(StatusCode::UNAUTHORIZED, "Invalid or expired transcription token"))?;
    if !slug.parse().is_ok_and(|session| principal.may_speak(&session)) {
        return Err(refused(FaultKind::Forbidden).into());
    }
    let identity: Identity = identity.parse().map_err(|problem| wrong(&problem))?;
    let name = body.get("name").and_then(protocol::shown_name).flatten();
    let is_active = body.get("isActive").and_then(Value::as_bool).unwrap_or(true);
    edge.sessions.speaks(principal.session(), is_active.then_some(Speaker { identity, name }));
    Ok(object(StatusCode::OK, [("success", true.into())]))
}

/// `Invalid JSON` and why, as system A says it on the two routes below.
fn invalid_json(details: String) -> Answer {
    object(StatusCode::BAD_REQUEST, [("error", "Invalid JSON".into()), ("details", details.into())])
}

/// A back end hands in a caption that it made itself.
async fn broadcast(edge: &Edge, headers: &HeaderMap, body: Fields) -> Result<Answer, Refused> {
    let body = body.map_err(invalid_json)?;
    let missing = |what: &str| error(StatusCode::BAD_REQUEST, what);
    let slug = text(&body, "sessionSlug").ok_or_else(|| missing("Missing sessionSlug"))?;
    let said = text(&body, "text").ok_or_else(|| missing("Missing or invalid text"))?;
    let utterance = text(&body, "utteranceId").ok_or_else(|| missing("Missing utteranceId"))?;
    let session: SessionSlug = slug.parse().map_err(|problem| wrong(&problem))?;
    authorised(edge, headers, &body, |principal| principal.may_speak(&session)).map_err(refused)?;
    if said.len() > TEXT_BYTES_MAX {
        return Err(error(StatusCode::PAYLOAD_TOO_LARGE, "text is longer than 16 KiB").into());
    }
    let utterance: UtteranceId = utterance.parse().map_err(|problem| wrong(&problem))?;
    let user = text(&body, "userId").map(str::parse::<UserId>).transpose();
    let outside =
        Outside { user: user.map_err(|problem| wrong(&problem))?, said_at: said_at(&body), message: None };
    let given = Given {
        session: session.clone(),
        utterance,
        speaker: speaker(&body, ["speakerId", "speaker_id"])?,
        text: said.to_owned(),
        outside,
    };
    let sent = edge.transcripts.hub.followers(&session);
    if body.get("isFinal").and_then(Value::as_bool).unwrap_or(false) {
        given.keep(edge).await?;
    } else {
        given.show(edge).await?;
    }
    Ok(match sent {
        0 => object(
            StatusCode::OK,
            [("ok", true.into()), ("sent", 0.into()), ("message", "no clients for sessionSlug".into())],
        ),
        sent => object(StatusCode::OK, [("ok", true.into()), ("sent", sent.into())]),
    })
}

/// An RTMP server of system A hands in a message that clients are to be sent as it is.
async fn transcripts(edge: &Edge, headers: &HeaderMap, body: Fields) -> Result<Answer, Refused> {
    let shown = bearer(headers).unwrap_or_default();
    if !edge.keys.accepts(shown) {
        if edge.rtmp_server_keys.is_empty() {
            return Err(error(StatusCode::INTERNAL_SERVER_ERROR, "Server configuration error").into());
        }
        if !edge.rtmp_server_keys.accepts(shown) {
            return Err(error(StatusCode::UNAUTHORIZED, "Unauthorized").into());
        }
    }
    let mut body = body.map_err(invalid_json)?;
    let slug = text(&body, "sessionSlug");
    let slug = slug.ok_or_else(|| error(StatusCode::BAD_REQUEST, "Missing sessionSlug"))?;
    let session: SessionSlug = slug.parse().map_err(|problem| wrong(&problem))?;
    body.remove("sessionSlug");
    let message =
        JsonObject::from_value(&Value::Object(body.clone()), MESSAGE_BYTES_MAX).map_err(|problem| {
            match problem {
                InvalidJson::TooLong(_) => error(StatusCode::PAYLOAD_TOO_LARGE, &problem.to_string()),
                _ => wrong(&problem),
            }
        })?;
    match finished(&body, &session, &message)? {
        Some(given) => given.keep(edge).await?,
        None => {
            let event = Event::App(AppEvent { sequence: None, payload: message });
            publish(edge, &session, &event).await?;
        }
    }
    Ok(object(StatusCode::OK, [("ok", true.into()), ("status", "ok".into())]))
}

/// The final that a message tells of, if it does: it is kept, as well as sent on.
fn finished(
    body: &Map<String, Value>,
    session: &SessionSlug,
    message: &JsonObject,
) -> Result<Option<Given>, Refused> {
    let flag = |name| body.get(name).and_then(Value::as_bool).unwrap_or(false);
    let is_final = flag("isFinal") || flag("is_final") || text(body, "type") == Some("transcript_final");
    let utterance = text(body, "utteranceId").or_else(|| text(body, "utterance_id"));
    let (Some(utterance), Some(said), true) = (utterance, text(body, "text"), is_final) else {
        return Ok(None);
    };
    let user = text(body, "userId").and_then(|user| user.parse().ok());
    let said_at = said_at(body);
    Ok(Some(Given {
        session: session.clone(),
        utterance: utterance.parse().map_err(|problem| wrong(&problem))?,
        speaker: speaker(body, ["speakerId", "speaker_id"])?,
        text: said.to_owned(),
        outside: Outside { user, said_at, message: Some(message.clone()) },
    }))
}

/// Who spoke, by name and id; each stands in for the other.
fn speaker(body: &Map<String, Value>, ids: [&str; 2]) -> Result<Option<Speaker>, Refused> {
    let name = body.get("speaker").and_then(protocol::shown_name).flatten();
    let id = ids.into_iter().find_map(|id| text(body, id)).map(str::to_owned).or_else(|| name.clone());
    let Some(id) = id else { return Ok(None) };
    let name = name.or_else(|| Some(id.clone()));
    Ok(Some(Speaker { identity: id.parse().map_err(|problem| wrong(&problem))?, name }))
}

/// A caption from outside.
struct Given {
    session: SessionSlug,
    utterance: UtteranceId,
    speaker: Option<Speaker>,
    text: String,
    outside: Outside,
}

impl Given {
    /// Stores it as a final, or as the next revision of one; its followers hear of it from there.
    async fn keep(self, edge: &Edge) -> Result<(), Refused> {
        let now = edge.clock.now();
        let revision = Revision {
            session: self.session,
            utterance: self.utterance,
            speaker: self.speaker,
            text: self.text,
            language: None,
            said_at: self.outside.said_at.unwrap_or(now),
            outside: Some(self.outside),
            at: now,
        };
        match edge.storage.revise(&revision).await {
            Ok(Some(_)) => edge.announce.ring(),
            Ok(None) => edge.tally.duplicate(),
            Err(problem) => {
                tracing::warn!(error = %problem, "store a caption from outside");
                let failed = || error(StatusCode::INTERNAL_SERVER_ERROR, "The caption could not be stored");
                return Err(if problem.is_retryable() { away(DATABASE_AWAY) } else { failed() }.into());
            }
        }
        Ok(())
    }

    /// Shows it as text of an open utterance.
    async fn show(self, edge: &Edge) -> Result<(), Refused> {
        let nobody = || Speaker::ROOM.parse().map(|identity| Speaker { identity, name: None });
        let speaker = self.speaker.map_or_else(nobody, Ok).map_err(|problem| wrong(&problem))?;
        let partial = Partial {
            session: self.session.clone(),
            utterance: self.utterance,
            speaker,
            text: self.text,
            stable: 0,
            language: None,
            start: Samples(0),
            end: Samples(0),
            at: edge.clock.now(),
            outside: Some(self.outside),
        };
        publish(edge, &self.session, &Event::Caption(Caption::Partial(partial))).await
    }
}

async fn publish(edge: &Edge, session: &SessionSlug, event: &Event) -> Result<(), Refused> {
    edge.bus.publish(&Topic::Session(session.clone()), event).await.map_err(|error| {
        tracing::warn!(%error, "publish what a back end handed in");
        away("Redis is away, try again")
    })?;
    Ok(())
}

/// News of a room. LiveKit sends it again until it is answered with 200.
async fn livekit(edge: &Edge, headers: &HeaderMap, body: &[u8]) -> Result<Answer, Refused> {
    use livekit::Event as News;
    let heard = object(StatusCode::OK, [("ok", true.into())]);
    let Some(webhooks) = &edge.webhooks else {
        return Err(error(StatusCode::NOT_FOUND, "LiveKit is not set up here: see LIVEKIT_API_KEY").into());
    };
    let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let news = webhooks.read(body, shown).map_err(|problem: WebhookError| {
        tracing::info!(reason = %problem, "webhook refused");
        error(status(problem.fault()), &problem.to_string())
    })?;
    let now = edge.clock.now();
    let noted = async {
        if !edge.storage.hear_livekit_event(&news.id, now).await? {
            return Ok(());
        }
        let Some(session) = news.room.as_deref().and_then(|room| room.parse::<SessionSlug>().ok()) else {
            return Ok(());
        };
        match news.event {
            News::RoomFinished => {
                let over_at = news.created_at.unwrap_or(now).after(CLOCKS_DIFFER);
                // One that finds no room is found out by looking.
                let _ = edge.sessions.finish(session, over_at);
                Ok(())
            }
            News::Other => Ok(()),
            _ => rooms::wake(edge, &session, now).await,
        }
    };
    noted.await.map_err(|error: storage::StorageError| {
        tracing::warn!(%error, "note a webhook");
        away(DATABASE_AWAY)
    })?;
    Ok(heard)
}
