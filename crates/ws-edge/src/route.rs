//! HTTP by door and path: what says how this server is, here; what back ends do with sessions, in `transcription`; the
//! routes of notifications, of what is kept and of chat, in `rest`; recordings, in `recording`; pages, in `pages`.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use hyper::body::Body;
use serde::Serialize;

use crate::{
    Edge,
    answers::{self, Answer, error, object},
    door::Door,
    handshake::{self, TAB_PATH, WEBSOCKET_PATH, bearer},
    metrics::SessionFigures,
    pages, recording, rest, socketio,
    transcript::Transcript,
    transcription,
};

/// Answers one request.
pub(crate) async fn answer<B>(edge: &Arc<Edge>, door: Door, client: IpAddr, request: Request<B>) -> Answer
where
    B: Body<Data = Bytes> + std::fmt::Debug + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + std::fmt::Debug,
{
    let asking = answers::Asking::of(request.headers());
    let (began, is_post) = (Instant::now(), request.method() == Method::POST);
    let path = request.uri().path();
    let (is_caption, is_rest) = (transcription::is_caption(path), rest::serves(path));
    let is_for_recordings = door == Door::Translate || recording::route(door, path).is_some();
    let mut answer = if handshake::is_upgrade(&request) {
        handshake::upgrade(edge, door, client, request)
    } else if socketio::serves(request.uri().path()) && request.method() != Method::OPTIONS {
        socketio::answer(edge, client, request).await
    } else {
        route(edge, door, client, request).await
    };
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (headers, origins) = (answer.headers_mut(), &edge.settings.origins);
        match door {
            _ if is_for_recordings => answers::allow_anything(headers, origins, &asking),
            Door::Main if !is_rest => {
                answers::allow_origin(headers, origins, asking.origin(), answers::OF_SYSTEM_A);
            }
            _ => answers::allow_origin(headers, origins, asking.origin(), answers::OF_SYSTEM_C),
        }
    }
    edge.tally.request(answer.status().as_u16());
    if is_post {
        edge.tally.posted(began.elapsed(), is_caption && answer.status().is_success());
    }
    answer
}

async fn route<B>(edge: &Arc<Edge>, door: Door, client: IpAddr, request: Request<B>) -> Answer
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (head, body) = request.into_parts();
    let (method, path) = (&head.method, head.uri.path());
    if method == Method::OPTIONS {
        return answers::empty(StatusCode::NO_CONTENT);
    }
    if let Some(route) = recording::route(door, path) {
        return recording::answer(edge, route, &head, body).await;
    }
    if door == Door::Translate {
        return recording::not_found();
    }
    if rest::serves(path) {
        return rest::answer(edge, client, &head, body).await;
    }
    if path == TAB_PATH {
        return answers::text(StatusCode::UPGRADE_REQUIRED, "text/plain", "Upgrade Required".to_owned());
    }
    let is_read = method == Method::GET || method == Method::HEAD;
    if door == Door::Chat {
        return match path {
            "/" if is_read => rest::index(edge),
            "/health" if is_read => rest::health(edge),
            _ => rest::not_found(method, path),
        };
    }
    if path == WEBSOCKET_PATH {
        return error(StatusCode::UPGRADE_REQUIRED, "WebSocket endpoint. Use WebSocket upgrade.");
    }
    if is_read {
        match path {
            "/" => return index(edge),
            "/test" => return test(edge),
            "/health" => return health(edge),
            "/metrics" => return metrics(edge, &head.headers),
            _ => {}
        }
        if let Some(page) = pages::answer(path, &head.headers) {
            return page;
        }
    }
    if let Some(route) = transcription::route(method, path) {
        return transcription::answer(edge, route, &head.headers, body).await;
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
            start_transcription: transcription::START_PATH,
            stop_transcription: transcription::STOP_PATH,
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
    let mut sessions = BTreeMap::new();
    if bearer(headers).is_some_and(|key| edge.keys.accepts(key)) {
        let lags = edge.transcripts.stories(Transcript::lag).into_iter();
        let figures = lags.map(|(session, lag)| {
            let clients = edge.transcripts.hub.followers(&session) as u64;
            (session.to_string(), SessionFigures { clients, lag })
        });
        sessions = figures.collect();
    }
    let dropped = edge.transcripts.hub.dropped();
    answers::text(
        StatusCode::OK,
        "application/json",
        edge.tally.json(edge.sessions.queue(), dropped, sessions),
    )
}
