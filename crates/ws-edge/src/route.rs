//! HTTP by door and path: the routes of system A that need no LiveKit here, those of notifications in `rest`.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use auth::Principal;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Body;
use model::{FaultKind, SessionSlug, Speaker};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    Edge,
    answers::{self, Answer, error, object},
    caller,
    door::Door,
    handshake::{self, TAB_PATH, WEBSOCKET_PATH, bearer},
    protocol, rest,
};

/// Largest request body, in bytes.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// How long a request body may take.
const BODY_LIMIT: Duration = Duration::from_secs(10);

/// When a request that Postgres cannot take note of may come again.
const NOTES_RETRY: Duration = Duration::from_secs(5);

const START_PATH: &str = "/api/transcription/start";
const STOP_PATH: &str = "/api/transcription/stop";
const ACTIVE_SPEAKER_PATH: &str = "/api/active-speaker";

/// Answers one request.
pub(crate) async fn answer<B>(edge: &Arc<Edge>, door: Door, client: IpAddr, request: Request<B>) -> Answer
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let origin = request.headers().get(header::ORIGIN).cloned();
    let mut answer = if handshake::is_upgrade(&request) {
        handshake::upgrade(edge, door, client, request)
    } else {
        route(edge, door, request).await
    };
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        answers::allow_origin(answer.headers_mut(), &edge.settings.origins, origin.as_ref());
    }
    edge.tally.request(answer.status().as_u16());
    answer
}

async fn route<B>(edge: &Edge, door: Door, request: Request<B>) -> Answer
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (head, body) = request.into_parts();
    let (method, path) = (&head.method, head.uri.path());
    if method == Method::OPTIONS {
        return answers::empty(StatusCode::NO_CONTENT);
    }
    if rest::serves(path) {
        return rest::answer(edge, &head, body).await;
    }
    if door == Door::Chat || path == TAB_PATH {
        return answers::text(StatusCode::UPGRADE_REQUIRED, "text/plain", "Upgrade Required".to_owned());
    }
    if path == WEBSOCKET_PATH {
        return error(StatusCode::UPGRADE_REQUIRED, "WebSocket endpoint. Use WebSocket upgrade.");
    }
    if method == Method::GET || method == Method::HEAD {
        match path {
            "/" => return index(edge),
            "/test" => return test(edge),
            "/health" => return health(edge),
            "/metrics" => return metrics(edge, &head.headers),
            _ => {}
        }
    }
    if method == Method::POST {
        // System A matches these by their beginning.
        if path.starts_with(START_PATH) {
            return start(edge, &head.headers, read(body).await);
        }
        if path.starts_with(STOP_PATH) {
            return stop(edge, &head.headers, read(body).await);
        }
        if path.starts_with(ACTIVE_SPEAKER_PATH) {
            return active_speaker(edge, read(body).await);
        }
    }
    let fields = [("error", "Not found".into()), ("path", path.into()), ("method", method.as_str().into())];
    object(StatusCode::NOT_FOUND, fields)
}

fn index(edge: &Edge) -> Answer {
    #[derive(Serialize)]
    struct Index {
        service: &'static str,
        status: &'static str,
        version: &'static str,
        mode: &'static str,
        endpoints: Endpoints,
        timestamp: String,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Endpoints {
        health: &'static str,
        metrics: &'static str,
        websocket: &'static str,
        start_transcription: &'static str,
        stop_transcription: &'static str,
    }
    let index = Index {
        service: "Sessions WebSocket Transcription Server",
        status: "running",
        version: "1.0.0",
        mode: "both",
        endpoints: Endpoints {
            health: "/health",
            metrics: "/metrics",
            websocket: WEBSOCKET_PATH,
            start_transcription: START_PATH,
            stop_transcription: STOP_PATH,
        },
        timestamp: edge.clock.now().to_string(),
    };
    answers::json(StatusCode::OK, &index)
}

fn test(edge: &Edge) -> Answer {
    #[derive(Serialize)]
    struct Test<'a> {
        status: &'static str,
        message: &'static str,
        timestamp: String,
        port: u16,
        env: Environment<'a>,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
    struct Environment<'a> {
        port: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        node_env: Option<&'a str>,
        server_mode: &'a str,
    }
    let port = edge.settings.address.port();
    let test = Test {
        status: "ok",
        message: "Server is running",
        timestamp: edge.clock.now().to_string(),
        port,
        env: Environment {
            port: port.to_string(),
            node_env: edge.settings.node_env.as_deref(),
            server_mode: edge.settings.server_mode.as_deref().unwrap_or("both"),
        },
    };
    answers::json(StatusCode::OK, &test)
}

fn health(edge: &Edge) -> Answer {
    object(
        StatusCode::OK,
        [
            ("status", "ok".into()),
            ("timestamp", edge.clock.now().to_string().into()),
            ("queueLength", edge.sessions.waiting().into()),
        ],
    )
}

fn metrics(edge: &Edge, headers: &HeaderMap) -> Answer {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if accept.contains("text/plain") || accept.contains("openmetrics") {
        return answers::text(StatusCode::OK, "text/plain; version=0.0.4", telemetry::Metrics::prometheus());
    }
    // The names of sessions can be secrets.
    let mut clients = BTreeMap::new();
    if bearer(headers).is_some_and(|key| edge.keys.accepts(key)) {
        let followers = edge.transcripts.followers().into_iter();
        clients = followers.map(|(session, count)| (session.to_string(), count as u64)).collect();
    }
    let dropped = edge.transcripts.hub.dropped();
    answers::text(
        StatusCode::OK,
        "application/json",
        edge.tally.json(edge.sessions.queue(), dropped, clients),
    )
}

/// Why a body is no JSON object.
enum BadBody {
    Refused(Answer),
    NotJson(String),
}

async fn read<B>(body: B) -> Result<Map<String, Value>, BadBody>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let reading = Limited::new(Box::pin(body), BODY_BYTES_MAX).collect();
    let bytes = match tokio::time::timeout(BODY_LIMIT, reading).await {
        Ok(Ok(collected)) => collected.to_bytes(),
        Ok(Err(_)) => {
            return Err(BadBody::Refused(error(
                StatusCode::PAYLOAD_TOO_LARGE,
                "Request body too large or cut off",
            )));
        }
        Err(_) => {
            return Err(BadBody::Refused(error(StatusCode::REQUEST_TIMEOUT, "Request body took too long")));
        }
    };
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(BadBody::NotJson("expected a JSON object".to_owned())),
        Err(error) => Err(BadBody::NotJson(error.to_string())),
    }
}

/// A text that is there and not empty.
fn text<'a>(body: &'a Map<String, Value>, field: &str) -> Option<&'a str> {
    body.get(field).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty())
}

/// Whether a caller with a service key, or a token that `suits`, has called.
fn authorised(
    edge: &Edge,
    headers: &HeaderMap,
    body: &Map<String, Value>,
    suits: impl FnOnce(&Principal) -> bool,
) -> Result<(), FaultKind> {
    if edge.settings.legacy_open_routes {
        return Ok(());
    }
    let proof = bearer(headers).or_else(|| text(body, "token"));
    caller::identify(edge, proof)?.allowed(suits)
}

fn status(fault: FaultKind) -> StatusCode {
    StatusCode::from_u16(fault.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

const fn refusal(fault: FaultKind) -> &'static str {
    match fault {
        FaultKind::Forbidden => "This token is not for this session",
        _ => "A token of this session or a service key is required",
    }
}

fn start(edge: &Edge, headers: &HeaderMap, body: Result<Map<String, Value>, BadBody>) -> Answer {
    let failed = |status, text: &str| object(status, [("ok", false.into()), ("error", text.into())]);
    let body = match body {
        Ok(body) => body,
        Err(BadBody::Refused(answer)) => return answer,
        Err(BadBody::NotJson(message)) => {
            return object(
                StatusCode::INTERNAL_SERVER_ERROR,
                [
                    ("ok", false.into()),
                    ("mode", "live".into()),
                    ("error", "transcription_start_failed".into()),
                    ("reason", "internal_error".into()),
                    ("message", message.into()),
                ],
            );
        }
    };
    let (Some(external_id), Some(slug)) = (text(&body, "sessionId"), text(&body, "sessionSlug")) else {
        return failed(StatusCode::BAD_REQUEST, "Missing sessionId or sessionSlug");
    };
    let session: SessionSlug = match slug.parse() {
        Ok(session) => session,
        Err(error) => return failed(StatusCode::BAD_REQUEST, &format!("{error}")),
    };
    if let Err(fault) = authorised(edge, headers, &body, |principal| principal.may_speak(&session)) {
        return failed(status(fault), refusal(fault));
    }
    // Answered at once, whatever Postgres does.
    match edge.sessions.start(session, external_id.to_owned()) {
        Ok(()) => object(StatusCode::OK, [("ok", true.into()), ("mode", "live".into())]),
        Err(_) => answers::retry_after(
            failed(StatusCode::SERVICE_UNAVAILABLE, "The database is away, try again"),
            NOTES_RETRY,
        ),
    }
}

fn stop(edge: &Edge, headers: &HeaderMap, body: Result<Map<String, Value>, BadBody>) -> Answer {
    let body = match body {
        Ok(body) => body,
        Err(BadBody::Refused(answer)) => return answer,
        Err(BadBody::NotJson(message)) => return error(StatusCode::INTERNAL_SERVER_ERROR, &message),
    };
    let Some(external_id) = text(&body, "sessionId") else {
        return error(StatusCode::BAD_REQUEST, "Missing sessionId");
    };
    let suits = |principal: &Principal| {
        principal.session_id() == Some(external_id) && principal.may_speak(principal.session())
    };
    if let Err(fault) = authorised(edge, headers, &body, suits) {
        return error(status(fault), refusal(fault));
    }
    match edge.sessions.stop(external_id.to_owned()) {
        Ok(()) => object(StatusCode::OK, [("success", true.into()), ("sessionId", external_id.into())]),
        Err(_) => answers::retry_after(
            error(StatusCode::SERVICE_UNAVAILABLE, "The database is away, try again"),
            NOTES_RETRY,
        ),
    }
}

fn active_speaker(edge: &Edge, body: Result<Map<String, Value>, BadBody>) -> Answer {
    let body = match body {
        Ok(body) => body,
        Err(BadBody::Refused(answer)) => return answer,
        Err(BadBody::NotJson(message)) => return error(StatusCode::INTERNAL_SERVER_ERROR, &message),
    };
    let fields = (text(&body, "sessionSlug"), text(&body, "identity"), text(&body, "token"));
    let (Some(slug), Some(identity), Some(token)) = fields else {
        return error(StatusCode::BAD_REQUEST, "Missing required fields: sessionSlug, identity, token");
    };
    let Ok(principal) = edge.tokens.verify(token) else {
        return error(StatusCode::UNAUTHORIZED, "Invalid or expired transcription token");
    };
    let allowed = slug.parse().is_ok_and(|session| principal.may_speak(&session));
    if !allowed {
        return error(StatusCode::FORBIDDEN, refusal(FaultKind::Forbidden));
    }
    let identity = match identity.parse() {
        Ok(identity) => identity,
        Err(problem) => return error(StatusCode::BAD_REQUEST, &format!("{problem}")),
    };
    let name = body.get("name").and_then(protocol::shown_name).flatten();
    let is_active = body.get("isActive").and_then(Value::as_bool).unwrap_or(true);
    edge.sessions.speaks(principal.session(), is_active.then_some(Speaker { identity, name }));
    object(StatusCode::OK, [("success", true.into())])
}
