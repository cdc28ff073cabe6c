//! What is told of every request: its id, in the answer and in the logs, and its span.

use http::{HeaderName, HeaderValue, Method, Request};
use telemetry::{RequestId, Span, SpanKind, Tracer};

use crate::{
    answers::Answer,
    egress::EGRESS_PATH,
    handshake::{TAB_PATH, WEBSOCKET_PATH},
    listen::LISTEN_PATH,
    recording, rest, socketio, transcription,
};

/// The id of a request, from whoever has sent it and to whoever reads the answer.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A request that is being answered.
pub(crate) struct Asked {
    id: RequestId,
    span: Span,
}

impl Asked {
    /// A request has come. Its id is kept if it is harmless to log; so is its place in a trace.
    pub(crate) fn new<B>(tracer: &Tracer, request: &Request<B>) -> Self {
        let id = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok()?.parse().ok());
        let id = id.unwrap_or_else(RequestId::random);
        let asked = rpc::carried(request.headers()).filter(|_| tracer.follows_others());
        let mut span = tracer.root("HTTP", SpanKind::Server, asked);
        if span.is_recorded() {
            let method = method(request.method());
            let path = request.uri().path();
            if let Some(pattern) = pattern(path) {
                span.rename(format!("{method} {pattern}"));
                span.set("http.route", pattern);
            } else {
                span.rename(method.to_owned());
            }
            span.set("http.request.method", method);
            span.set("parley.request.id", id.to_string());
        }
        Self { id, span }
    }

    /// Answers it.
    pub(crate) async fn answer(mut self, answering: impl Future<Output = Answer>) -> Answer {
        let mut answer = self.id.within(self.span.within(answering)).await;
        // Harmless characters only.
        if let Ok(id) = HeaderValue::from_str(&self.id.to_string()) {
            answer.headers_mut().insert(REQUEST_ID, id);
        }
        let status = answer.status();
        self.span.set("http.response.status_code", i64::from(status.as_u16()));
        if status.is_server_error() {
            self.span.failed("http");
        }
        answer
    }
}

/// A method as conventions want it: one that nobody knows may be any text.
fn method(method: &Method) -> &'static str {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or("_OTHER")
}

/// The route of a path without what differs from request to request: ids, and names of sessions, which can be secrets.
fn pattern(path: &str) -> Option<&'static str> {
    const WHOLE: [&str; 8] =
        ["/", "/health", "/metrics", "/test", "/docs", WEBSOCKET_PATH, TAB_PATH, LISTEN_PATH];
    let is_it = |whole: &&'static str| *whole == path;
    WHOLE
        .into_iter()
        .find(is_it)
        .or_else(|| rest::pattern(path))
        .or_else(|| recording::PATHS.into_iter().find(is_it))
        .or_else(|| transcription::PATHS.into_iter().find(is_it))
        .or_else(|| path.starts_with(EGRESS_PATH).then_some("/egress/{stream}"))
        .or_else(|| socketio::serves(path).then_some("/socket.io/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_names_no_session_and_nobody() {
        for (path, expected) in [
            ("/api/realtime/transcribe", Some("/api/realtime/transcribe")),
            ("/api/transcription/start", Some("/api/transcription/start")),
            ("/api/sessions/my-secret/transcript", Some("/api/sessions/{slug}/transcript")),
            ("/api/user/notifications/7/read", Some("/api/user/notifications/{*}")),
            ("/api/chat/users/u1/messages", Some("/api/chat/{*}")),
            ("/v1/audio/transcriptions", Some("/v1/audio/transcriptions")),
            ("/egress/audio", Some("/egress/{stream}")),
            ("/socket.io/", Some("/socket.io/")),
            ("/my-secret", None),
        ] {
            assert_eq!(pattern(path), expected, "{path}");
        }
    }

    #[test]
    fn a_method_that_nobody_knows_has_one_name() {
        assert_eq!(method(&Method::GET), "GET");
        assert_eq!(method(&Method::from_bytes(b"BREW").unwrap()), "_OTHER");
    }
}
