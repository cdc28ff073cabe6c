//! The REST routes: of notifications, system C's for users, ours beside them, and the one by which back ends publish; of
//! what is kept of sessions, transcripts and usage; of chat, system B's; in dev, of tokens for our own pages.

mod body;
mod chat;
mod dev;
mod publish;
mod transcripts;
mod usage;
mod user;

use std::net::IpAddr;

use auth::{Principal, User};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header, request::Parts};
use hyper::body::Body;
use model::{FaultKind, SessionSlug};
use rpc::HubError;
use storage::StorageError;

pub(crate) use chat::{health, index, not_found};
pub(crate) use transcripts::READERS_MAX;
pub(crate) use usage::CostPerMinute;

use crate::{
    Edge,
    answers::{self, Answer, object},
    handshake::{bearer, parameter, path_part},
    proof::{self, Caller},
};

/// Notifications of whoever asks.
const USER_PATH: &str = "/api/user/notifications";

/// Where back ends publish.
const SERVICE_PATH: &str = "/api/notifications";

/// Sessions, each under its slug.
const SESSIONS_PATH: &str = "/api/sessions/";

/// Where what was said is looked for.
const SEARCH_PATH: &str = "/api/transcripts/search";

/// Where clients say what they used.
const SAVE_USAGE_PATH: &str = "/api/transcription/usage/save";

/// What was used in all.
const STATS_PATH: &str = "/api/transcription/stats";

/// Where a page gets tokens in dev.
const DEV_TOKEN_PATH: &str = "/api/dev/token";

/// When a request that the hub, or Postgres, cannot answer may come again.
const RETRY: std::time::Duration = std::time::Duration::from_secs(1);

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
    /// Anything else, under its own status.
    Status(StatusCode, &'static str, &'static str),
    /// Too often: when it may come again.
    Often(std::time::Duration),
    /// The hub did not do it.
    Hub(HubError),
    /// Postgres did not.
    Storage(StorageError),
}

impl From<StorageError> for Refused {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

impl From<FaultKind> for Refused {
    fn from(fault: FaultKind) -> Self {
        match fault {
            FaultKind::Forbidden => Self::Forbidden("This token does not allow this in this session"),
            _ => Self::Unauthenticated,
        }
    }
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
            Self::Status(status, text, code) => problem(status, text, code),
            Self::Often(retry_after) => {
                let answer = problem(StatusCode::TOO_MANY_REQUESTS, "Too many messages", "rate_limited");
                answers::retry_after(answer, retry_after)
            }
            Self::Hub(HubError::Refused(refusal)) => {
                let status = StatusCode::from_u16(refusal.fault().http_status());
                problem(status.unwrap_or(StatusCode::BAD_REQUEST), &refusal.to_string(), refusal.code())
            }
            Self::Hub(error) => {
                tracing::warn!(%error, "ask the notification hub");
                edge.stats.error();
                away(error.fault(), "Notifications and chat are not available, try again")
            }
            Self::Storage(error) => {
                tracing::warn!(%error, "ask Postgres");
                away(error.fault(), "The database is not available, try again")
            }
        }
    }
}

/// Something that we depend on did not do what was asked.
fn away(fault: FaultKind, unavailable: &str) -> Answer {
    let status = StatusCode::from_u16(fault.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let text = match fault {
        FaultKind::Dependency | FaultKind::Overloaded => unavailable,
        _ => "Internal error",
    };
    let answer = object(status, [("error", text.into()), ("code", fault.label().into())]);
    if status == StatusCode::SERVICE_UNAVAILABLE { answers::retry_after(answer, RETRY) } else { answer }
}

/// What is behind a path.
enum Route<'a> {
    /// A user's notifications, and what follows in the path.
    Inbox(&'a str),
    Publish,
    /// A session, as the path writes its slug.
    Session(&'a str),
    Transcript(&'a str),
    Usage(&'a str),
    Search,
    SaveUsage,
    Stats,
    DevToken,
    Chat(chat::Route<'a>),
}

fn route(path: &str) -> Option<Route<'_>> {
    match path {
        SERVICE_PATH => return Some(Route::Publish),
        SEARCH_PATH => return Some(Route::Search),
        SAVE_USAGE_PATH => return Some(Route::SaveUsage),
        STATS_PATH => return Some(Route::Stats),
        DEV_TOKEN_PATH => return Some(Route::DevToken),
        _ => {}
    }
    if let Some(route) = chat::route(path) {
        return Some(Route::Chat(route));
    }
    if let Some(rest) = path.strip_prefix(USER_PATH).filter(|rest| rest.is_empty() || rest.starts_with('/')) {
        return Some(Route::Inbox(rest.trim_end_matches('/')));
    }
    let (slug, rest) = match path.strip_prefix(SESSIONS_PATH)?.split_once('/') {
        Some(parts) => parts,
        None => (path.strip_prefix(SESSIONS_PATH)?, ""),
    };
    match rest {
        "" if !slug.is_empty() => Some(Route::Session(slug)),
        "transcript" => Some(Route::Transcript(slug)),
        "transcription/usage" => Some(Route::Usage(slug)),
        _ => None,
    }
}

/// A path of these routes without what differs from one to another.
pub(crate) fn pattern(path: &str) -> Option<&'static str> {
    Some(match route(path)? {
        Route::Inbox("") => USER_PATH,
        Route::Inbox(_) => "/api/user/notifications/{*}",
        Route::Publish => SERVICE_PATH,
        Route::Session(_) => "/api/sessions/{slug}",
        Route::Transcript(_) => "/api/sessions/{slug}/transcript",
        Route::Usage(_) => "/api/sessions/{slug}/transcription/usage",
        Route::Search => SEARCH_PATH,
        Route::SaveUsage => SAVE_USAGE_PATH,
        Route::Stats => STATS_PATH,
        Route::DevToken => DEV_TOKEN_PATH,
        Route::Chat(_) => "/api/chat/{*}",
    })
}

/// Whether a path is one of these routes.
pub(crate) fn serves(path: &str) -> bool {
    route(path).is_some()
}

/// Answers a request for one of these routes.
pub(crate) async fn answer<B>(edge: &Edge, client: IpAddr, head: &Parts, body: B) -> Answer
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut answer = match route(head.uri.path()) {
        Some(Route::Inbox(rest)) => user::answer(edge, head, rest, body).await,
        Some(Route::Publish) => publish::answer(edge, head, body).await,
        Some(Route::Session(slug)) => transcripts::delete(edge, head, slug).await,
        Some(Route::Transcript(slug)) => transcripts::read(edge, head, slug).await,
        Some(Route::Usage(slug)) => usage::of_session(edge, head, slug).await,
        Some(Route::Search) => transcripts::search(edge, head).await,
        Some(Route::SaveUsage) => usage::save(edge, head, body).await,
        Some(Route::Stats) => usage::stats(edge, head).await,
        Some(Route::DevToken) => dev::answer(edge, client, head, body).await,
        Some(Route::Chat(route)) => chat::answer(edge, client, head, route, body).await,
        None => Err(Refused::Missing("Not found", "not_found")),
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

/// Who asks for something of a session.
fn session_caller(edge: &Edge, head: &Parts) -> Result<Caller, Refused> {
    let token = parameter(head.uri.query().unwrap_or_default(), "token");
    Ok(proof::caller(edge, &head.headers, token.as_deref())?)
}

/// The session that a path names, if whoever asks may read it.
fn readable_session(edge: &Edge, head: &Parts, slug: &str) -> Result<SessionSlug, Refused> {
    let caller = session_caller(edge, head)?;
    let session = path_part(slug).parse::<SessionSlug>().ok();
    let may_follow =
        |principal: &Principal| session.as_ref().is_some_and(|session| principal.may_follow(session));
    caller.allowed(may_follow)?;
    session.ok_or(NO_SESSION)
}

/// Nothing is known of the session.
const NO_SESSION: Refused = Refused::Missing("Session not found", "not_found");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_these_paths_are_served() {
        for path in [
            "/api/notifications",
            "/api/user/notifications",
            "/api/user/notifications/",
            "/api/user/notifications/push",
            "/api/sessions/a",
            "/api/sessions/a/",
            "/api/sessions/a%2Fb/transcript",
            "/api/sessions/a/transcription/usage",
            "/api/transcripts/search",
            "/api/transcription/usage/save",
            "/api/transcription/stats",
            "/api/dev/token",
            "/api/messages",
            "/api/messages/type/image",
            "/api/chat/users/u1/messages",
            "/socket-health",
        ] {
            assert!(serves(path), "{path}");
        }
        for path in [
            "/",
            "/api/user/notificationsx",
            "/api/sessions",
            "/api/sessions/",
            "/api/sessions//",
            "/api/sessions/a/token",
            "/api/sessions/a/transcript/b",
            "/api/transcription/start",
            "/api/transcription/stats/x",
            "/api/messages/x",
            "/api/messages/type/",
            "/api/chat",
            "/health",
        ] {
            assert!(!serves(path), "{path}");
        }
    }
}
