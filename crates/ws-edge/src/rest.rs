//! The REST routes of notifications: system C's for users, ours beside them, and the one by which back ends publish.

mod body;
mod publish;
mod user;

use auth::User;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header, request::Parts};
use hyper::body::Body;
use model::FaultKind;
use rpc::HubError;

use crate::{
    Edge,
    answers::{self, Answer, object},
    handshake::bearer,
};

/// Notifications of whoever asks.
const USER_PATH: &str = "/api/user/notifications";

/// Where back ends publish.
const SERVICE_PATH: &str = "/api/notifications";

/// When a request that the hub cannot answer may come again.
const HUB_RETRY: std::time::Duration = std::time::Duration::from_secs(1);

/// Why a request is not done.
pub(crate) enum Refused {
    /// Nobody has proven who asks.
    Unauthenticated,
    /// Whoever asks may not do this.
    Forbidden(&'static str),
    /// The request is wrong: the text, and a code for programs.
    Wrong(&'static str, &'static str),
    /// What it is about does not exist.
    Missing(&'static str, &'static str),
    /// No such method here; the ones that there are.
    Method(&'static str),
    /// The body is too large, too slow or no JSON.
    Body(StatusCode, &'static str, &'static str),
    /// The hub did not do it.
    Hub(HubError),
}

impl From<HubError> for Refused {
    fn from(error: HubError) -> Self {
        Self::Hub(error)
    }
}

impl From<model::Refusal> for Refused {
    fn from(refusal: model::Refusal) -> Self {
        Self::Hub(refusal.into())
    }
}

impl Refused {
    fn answer(self, edge: &Edge) -> Answer {
        let problem =
            |status, text: &str, code: &str| object(status, [("error", text.into()), ("code", code.into())]);
        match self {
            Self::Unauthenticated => {
                edge.stats.auth_failure();
                object(StatusCode::UNAUTHORIZED, [("error", "Authentication required".into())])
            }
            Self::Forbidden(text) => problem(StatusCode::FORBIDDEN, text, FaultKind::Forbidden.label()),
            Self::Wrong(text, code) => problem(StatusCode::BAD_REQUEST, text, code),
            Self::Missing(text, code) => problem(StatusCode::NOT_FOUND, text, code),
            Self::Method(allowed) => {
                let mut answer =
                    problem(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed", "method_not_allowed");
                answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
                answer
            }
            Self::Body(status, text, code) => problem(status, text, code),
            Self::Hub(HubError::Refused(refusal)) => {
                let status = StatusCode::from_u16(refusal.fault().http_status());
                problem(status.unwrap_or(StatusCode::BAD_REQUEST), &refusal.to_string(), refusal.code())
            }
            Self::Hub(error) => {
                tracing::warn!(%error, "ask the notification hub");
                edge.stats.error();
                let fault = error.fault();
                let status = StatusCode::from_u16(fault.http_status());
                let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                let text = match fault {
                    FaultKind::Dependency | FaultKind::Overloaded => {
                        "Notifications are not available, try again"
                    }
                    _ => "Internal error",
                };
                let answer = problem(status, text, fault.label());
                if status == StatusCode::SERVICE_UNAVAILABLE {
                    answers::retry_after(answer, HUB_RETRY)
                } else {
                    answer
                }
            }
        }
    }
}

/// Whether a path is one of these routes.
pub(crate) fn serves(path: &str) -> bool {
    path == SERVICE_PATH
        || path.strip_prefix(USER_PATH).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Answers a request for one of these routes.
pub(crate) async fn answer<B>(edge: &Edge, head: &Parts, body: B) -> Answer
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let path = head.uri.path();
    let mut answer = match path.strip_prefix(USER_PATH) {
        Some(rest) => user::answer(edge, head, rest.trim_end_matches('/'), body).await,
        None => publish::answer(edge, head, body).await,
    }
    .unwrap_or_else(|refused| refused.answer(edge));
    // What a user reads is nobody else's.
    let headers = answer.headers_mut();
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("private, no-cache"));
    headers.append(header::VARY, HeaderValue::from_static("Authorization"));
    answer
}

/// Who asks. A wallet, in a header or in the query, proves nothing.
fn caller(edge: &Edge, head: &Parts) -> Result<User, Refused> {
    let token = bearer(&head.headers).ok_or(Refused::Unauthenticated)?;
    edge.users.verify(token).map_err(|_| Refused::Unauthenticated)
}

/// Whether a trusted back end asks.
fn is_service(edge: &Edge, head: &Parts) -> bool {
    bearer(&head.headers).is_some_and(|key| edge.keys.accepts(key))
}
