//! From an upgrade request to an established WebSocket, or to a refusal that the client can read.

use std::{net::IpAddr, sync::Arc, time::Duration};

use auth::{AuthError, User};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version, header};
use model::{FaultKind, Sequence, SessionSlug};
use tokio::sync::OwnedSemaphorePermit;
use tungstenite::handshake::derive_accept_key;

use crate::{
    Edge,
    answers::{self, Answer},
    close::Close,
    connection::{self, Connection, Peer},
    door::Door,
    egress::{self, EGRESS_PATH},
    interpreter,
    limits::TooOften,
    line::Line,
    listen::{self, LISTEN_PATH},
    protocol, recording,
    settings::UpgradeAuth,
    socket::Socket,
    socketio::{self, Denied},
    tab::{self, Tab, protocol::Problem},
};

/// Where clients of captions connect.
pub(crate) const WEBSOCKET_PATH: &str = "/api/realtime/transcribe";

/// Where clients of notifications connect.
pub(crate) const TAB_PATH: &str = "/ws";

/// When a client that came during a drain may try another edge.
pub(crate) const DRAINING_RETRY: Duration = Duration::from_secs(1);

/// A place among the connections of this edge; given back when the last clone is dropped.
pub(crate) type Place = Arc<OwnedSemaphorePermit>;

/// Whether a request asks for a WebSocket (RFC 6455 section 4.2.1).
pub(crate) fn is_upgrade<B>(request: &Request<B>) -> bool {
    let names = |name: &header::HeaderName, token: &str| {
        let values = request.headers().get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case(token))
    };
    request.version() == Version::HTTP_11
        && request.method() == Method::GET
        && names(&header::CONNECTION, "upgrade")
        && names(&header::UPGRADE, "websocket")
}

/// Why a handshake is refused, once it is one.
pub(crate) struct Refusal {
    fault: FaultKind,
    message: String,
    close: Close,
    retry_after: Option<Duration>,
}

impl Refusal {
    fn wrong(message: &str) -> Self {
        Self {
            fault: FaultKind::Caller,
            message: message.to_owned(),
            close: Close::Policy,
            retry_after: None,
        }
    }
}

impl From<AuthError> for Refusal {
    fn from(error: AuthError) -> Self {
        let close = Close::refusing(error);
        Self { fault: error.fault(), message: error.to_string(), close, retry_after: None }
    }
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Self { fault: refusal.fault, text: refusal.message }
    }
}

/// What is behind a path.
enum Behind {
    SocketIo,
    Captions,
    Notifications,
    Egress,
    /// Deepgram's live protocol.
    Listen,
    /// System D's.
    Interpreter,
}

fn behind(door: Door, path: &str) -> Option<Behind> {
    match (door, path) {
        _ if socketio::serves(path) => Some(Behind::SocketIo),
        (_, LISTEN_PATH) => Some(Behind::Listen),
        (Door::Translate, _) if path.strip_suffix('/').unwrap_or(path) == TAB_PATH => {
            Some(Behind::Interpreter)
        }
        (Door::Main, WEBSOCKET_PATH) => Some(Behind::Captions),
        (Door::Main, _) if path.starts_with(EGRESS_PATH) => Some(Behind::Egress),
        (Door::Main, _) if path.strip_suffix('/').unwrap_or(path) == TAB_PATH => Some(Behind::Notifications),
        // System C takes any path.
        (Door::Chat, _) => Some(Behind::Notifications),
        _ => None,
    }
}

/// Answers an upgrade request and, if that is 101, starts the connection.
pub(crate) fn upgrade<B>(edge: &Arc<Edge>, door: Door, client: IpAddr, request: Request<B>) -> Answer {
    let path = request.uri().path().to_owned();
    tracing::info!(path, %client, "upgrade requested");
    let Some(behind) = behind(door, &path) else {
        return refused(edge, &path, FaultKind::NotFound, answers::empty(StatusCode::NOT_FOUND));
    };
    if request.headers().get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let mut answer = answers::error(StatusCode::UPGRADE_REQUIRED, "Sec-WebSocket-Version must be 13");
        answer.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return refused(edge, &path, FaultKind::Caller, answer);
    }
    let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY) else {
        let answer = answers::error(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing");
        return refused(edge, &path, FaultKind::Caller, answer);
    };
    // Not checked to be 16 bytes in base64: documents of system A try the door with `Sec-WebSocket-Key: test`.
    let accept = derive_accept_key(key.as_bytes());
    if edge.life.draining().is_cancelled() {
        let answer = answers::error(StatusCode::SERVICE_UNAVAILABLE, "This server is restarting, reconnect");
        return refused(edge, &path, FaultKind::Overloaded, answers::retry_after(answer, DRAINING_RETRY));
    }
    let query = request.uri().query().unwrap_or_default();
    // Whoever goes over to a WebSocket has been counted.
    let is_known = matches!(behind, Behind::SocketIo) && socketio::has_sid(query);
    if !is_known && let Err(TooOften { retry_after }) = edge.limits.address_handshake(client) {
        let answer =
            answers::error(StatusCode::TOO_MANY_REQUESTS, "Too many new connections from this address");
        return refused(edge, &path, FaultKind::Overloaded, answers::retry_after(answer, retry_after));
    }
    if matches!(behind, Behind::SocketIo)
        && let Err(answer) = socketio::check_upgrade(query)
    {
        return refused(edge, &path, FaultKind::Caller, *answer);
    }
    match behind {
        Behind::Captions => {
            let peer = peer(edge, request.headers(), |name| parameter(query, name));
            if let Err(refusal) = &peer
                && edge.settings.upgrade_auth == UpgradeAuth::Reject
            {
                let status = match refusal.fault {
                    // System A answers 401 for a session that does not match as well.
                    FaultKind::Forbidden => StatusCode::UNAUTHORIZED,
                    fault => StatusCode::from_u16(fault.http_status()).unwrap_or(StatusCode::FORBIDDEN),
                };
                return refused(edge, &path, refusal.fault, answers::empty(status));
            }
            let bytes_max = connection::MESSAGE_BYTES_MAX;
            establish(edge, client, path, request, bytes_max, move |edge, socket, visit| async move {
                match peer {
                    Ok(peer) => {
                        visit.established(&edge);
                        connection::serve(Connection::new(&edge, Line::WebSocket(socket), peer)).await;
                    }
                    Err(Refusal { fault, message, close, retry_after }) => {
                        visit.refused(&edge, fault, close, &message);
                        let error = protocol::error(fault, &message, retry_after);
                        Box::pin(socket.close(Some(error), close, edge.life.stopping())).await;
                    }
                }
            });
        }
        Behind::SocketIo => join(edge, client, path, request),
        Behind::Egress => egress(edge, client, path, request),
        Behind::Listen => return listen(edge, client, path, request, &accept),
        Behind::Interpreter => return interpret(edge, client, path, request, &accept),
        Behind::Notifications => {
            let user = user(edge, request.headers(), parameter(query, "token"));
            let bytes_max = tab::MESSAGE_BYTES_MAX;
            establish(edge, client, path, request, bytes_max, move |edge, socket, visit| async move {
                match user {
                    Ok(user) => {
                        visit.established(&edge);
                        tab::serve(Tab::new(&edge, Line::WebSocket(socket), user)).await;
                    }
                    Err((problem, close)) => {
                        visit.refused(&edge, problem.fault(), close, problem.text());
                        let error = tab::protocol::error(problem, None);
                        Box::pin(socket.close(Some(error), close, edge.life.stopping())).await;
                    }
                }
            });
        }
    }
    switching_protocols(&accept)
}

/// The joining of a WebSocket to Socket.IO, which has its own ways to say who may not.
fn join<B>(edge: &Arc<Edge>, client: IpAddr, path: String, mut request: Request<B>) {
    let upgraded = hyper::upgrade::on(&mut request);
    let Some(place) = request.extensions_mut().remove::<Place>() else { return };
    let (head, _) = request.into_parts();
    let task_edge = edge.clone();
    edge.life.spawn(async move {
        if !socketio::join(&task_edge, client, place, Request::from_parts(head, ()), upgraded).await {
            tracing::info!(path, %client, "upgrade abandoned by the client");
        }
    });
}

/// The establishing of an egress: who it is may have to be looked up.
fn egress<B>(edge: &Arc<Edge>, client: IpAddr, path: String, request: Request<B>) {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let (asked, bytes_max) = (path.clone(), egress::MESSAGE_BYTES_MAX);
    establish(edge, client, path, request, bytes_max, move |edge, socket, visit| async move {
        match egress::decide(&edge, &asked, &query).await {
            Ok(permit) => {
                visit.established(&edge);
                egress::serve(edge, socket, permit).await;
            }
            Err(denied) => {
                let (close, text) = (denied.close(), denied.to_string());
                visit.refused(&edge, FaultKind::Forbidden, close, &text);
                let error = protocol::error(FaultKind::Forbidden, &text, None);
                Box::pin(socket.close(Some(error), close, edge.life.stopping())).await;
            }
        }
    });
}

/// The establishing of a client of Deepgram, which is refused before there is a socket.
fn listen<B>(edge: &Arc<Edge>, client: IpAddr, path: String, request: Request<B>, accept: &str) -> Answer {
    let query = request.uri().query().unwrap_or_default();
    let permit = match listen::decide(edge, request.headers(), query) {
        Ok(permit) => permit,
        Err(denied) => return refused(edge, &path, denied.fault, denied.answer),
    };
    let mut answer = switching_protocols(accept);
    permit.mark(&mut answer);
    let bytes_max = listen::MESSAGE_BYTES_MAX;
    establish(edge, client, path, request, bytes_max, move |edge, socket, visit| async move {
        visit.established(&edge);
        listen::serve(edge, socket, permit).await;
    });
    answer
}

/// The establishing of a client of system D.
fn interpret<B>(edge: &Arc<Edge>, client: IpAddr, path: String, request: Request<B>, accept: &str) -> Answer {
    let token = parameter(request.uri().query().unwrap_or_default(), "token");
    let permit = match interpreter::decide(edge, request.headers(), token.as_deref()) {
        Ok(permit) => permit,
        Err(denied) => {
            let answer = recording::not_admitted(denied);
            return refused(edge, &path, denied.fault(), answer);
        }
    };
    let bytes_max = interpreter::MESSAGE_BYTES_MAX;
    establish(edge, client, path, request, bytes_max, move |edge, socket, visit| async move {
        visit.established(&edge);
        interpreter::serve(edge, socket, permit).await;
    });
    switching_protocols(accept)
}

/// Who upgrades what, for the log.
struct Visit {
    path: String,
    client: IpAddr,
}

impl Visit {
    fn established(&self, edge: &Edge) {
        let Self { path, client } = self;
        edge.tally.upgrade("established");
        tracing::info!(path, %client, "upgrade established");
    }

    fn refused(&self, edge: &Edge, fault: FaultKind, close: Close, reason: &str) {
        let Self { path, client } = self;
        edge.tally.upgrade(fault.label());
        edge.tally.closed(close);
        tracing::info!(path, %client, code = close.code(), reason, "upgrade refused");
    }
}

/// Waits for the socket behind the answer and hands it on.
fn establish<B, F: Future<Output = ()> + Send>(
    edge: &Arc<Edge>,
    client: IpAddr,
    path: String,
    mut request: Request<B>,
    bytes_max: usize,
    serve: impl FnOnce(Arc<Edge>, Socket, Visit) -> F + Send + 'static,
) {
    let upgraded = hyper::upgrade::on(&mut request);
    let place = request.extensions_mut().remove::<Place>();
    let task_edge = edge.clone();
    edge.life.spawn(async move {
        let _place = place;
        let edge = task_edge;
        let Some(socket) = Box::pin(Socket::after(upgraded, edge.settings.write_limit, bytes_max)).await
        else {
            tracing::info!(path, %client, "upgrade abandoned by the client");
            return;
        };
        serve(edge, socket, Visit { path, client }).await;
    });
}

fn switching_protocols(accept: &str) -> Answer {
    let mut answer = answers::empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    // Base64 is always a legal value. No extension is ever agreed on: compression broke clients behind proxies.
    if let Ok(accept) = HeaderValue::from_str(accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    answer
}

fn refused(edge: &Edge, path: &str, fault: FaultKind, mut answer: Answer) -> Answer {
    if path == LISTEN_PATH {
        // Of what was refused before anybody knew that it is Deepgram's.
        let error = answer.headers_mut().entry(listen::ERROR);
        error.or_insert(HeaderValue::from_static(fault.label()));
    }
    edge.tally.upgrade(fault.label());
    tracing::info!(path, status = answer.status().as_u16(), reason = %fault, "upgrade refused");
    answer
}

/// Who asks, and for what; whatever is asked for has a name.
pub(crate) fn peer(
    edge: &Edge,
    headers: &HeaderMap,
    value: impl Fn(&str) -> Option<String>,
) -> Result<Peer, Refusal> {
    if !answers::is_allowed(&edge.settings.origins, headers.get(header::ORIGIN)) {
        return Err(Refusal {
            fault: FaultKind::Forbidden,
            ..Refusal::wrong("pages of this origin may not connect: see CORS_ORIGIN of the server")
        });
    }
    let token = value("token").or_else(|| bearer(headers).map(str::to_owned)).unwrap_or_default();
    let principal = match value("sessionSlug").filter(|slug| !slug.is_empty()) {
        None => edge.tokens.verify(&token)?,
        Some(slug) => match slug.parse::<SessionSlug>() {
            Ok(slug) => edge.tokens.verify_for(&token, &slug)?,
            Err(_) => edge.tokens.verify(&token).and(Err(AuthError::OtherSession))?,
        },
    };
    if !principal.may_follow(principal.session()) {
        let fault = FaultKind::Forbidden;
        return Err(Refusal { fault, ..Refusal::wrong("this token sends a track and nothing else") });
    }
    if let Err(TooOften { retry_after }) =
        edge.limits.identity_handshake(principal.session(), principal.identity())
    {
        return Err(Refusal {
            fault: FaultKind::Overloaded,
            message: "this participant connects too often".to_owned(),
            close: Close::Busy,
            retry_after: Some(retry_after),
        });
    }
    let position = |name: &str, wrong: &str| {
        let given = value(name).filter(|given| !given.is_empty());
        given.map(|given| given.parse().map(Sequence).map_err(|_| Refusal::wrong(wrong))).transpose()
    };
    let since = position("since", "since must be a whole number, not negative")?;
    let shape = match value("messages") {
        None => edge.settings.shape,
        Some(shape) => {
            shape.parse().map_err(|()| Refusal::wrong("messages must be split, transcript or both"))?
        }
    };
    let partials = match value("partials").as_deref() {
        None | Some("true" | "1") => true,
        Some("false" | "0") => false,
        Some(_) => return Err(Refusal::wrong("partials must be true or false")),
    };
    let chat = match value("chat").as_deref() {
        None | Some("false" | "0" | "") => false,
        Some("true" | "1") => true,
        Some(_) => return Err(Refusal::wrong("chat must be true or false")),
    };
    let chat_since = position("chatSince", "chatSince must be a whole number, not negative")?;
    Ok(Peer { principal, shape, since, partials, chat, chat_since })
}

/// Which user asks, or what it is told instead and how its socket ends.
pub(crate) fn user(
    edge: &Edge,
    headers: &HeaderMap,
    token: Option<String>,
) -> Result<User, (Problem, Close)> {
    if !answers::is_allowed(&edge.settings.origins, headers.get(header::ORIGIN)) {
        return Err((Problem::Origin, Close::Policy));
    }
    let token = token.filter(|token| !token.trim().is_empty());
    // Some clients encode it twice; no token holds a percent sign by itself.
    let token = token.map(|token| if token.contains('%') { decoded(&token) } else { token });
    let token = token.or_else(|| bearer(headers).map(str::to_owned)).unwrap_or_default();
    let user = edge.users.verify(&token).map_err(|error| {
        edge.stats.auth_failure();
        (Problem::Unauthorized(error.fault()), Close::Unauthorized)
    })?;
    edge.limits
        .user_handshake(user.id())
        .map_err(|TooOften { retry_after }| (Problem::TooManyConnections { retry_after }, Close::Busy))?;
    Ok(user)
}

/// The token of an `Authorization: Bearer …` header (RFC 6750 section 2.1).
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The first value of a query parameter (URL standard section 5.1, `application/x-www-form-urlencoded`).
pub(crate) fn parameter(query: &str, name: &str) -> Option<String> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(key) == name).then(|| decoded(value))
    })
}

/// One part of a path (RFC 3986 section 3.3): a plus is a plus there.
pub(crate) fn path_part(text: &str) -> String {
    decoded(&text.replace('+', "%2B"))
}

/// Text with its percent signs and plus signs resolved.
pub(crate) fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        match (byte, after) {
            (b'+', _) => bytes.push(b' '),
            (b'%', [high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                bytes.push(hex(*high) << 4 | hex(*low));
                rest = after;
            }
            _ => bytes.push(*byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The value of a hexadecimal digit.
const fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit.wrapping_sub(b'A').wrapping_add(10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        for (query, value) in [
            ("token=a.b-c_d", Some("a.b-c_d")),
            ("x=1&token=a%2Eb", Some("a.b")),
            ("token=a+b%20c", Some("a b c")),
            ("token=%zz%4", Some("%zz%4")),
            ("token=%F0%9F%98%80", Some("😀")),
            ("token=%ff", Some("\u{fffd}")),
            ("%74oken=x&token=y", Some("x")),
            ("token", Some("")),
            ("token=", Some("")),
            ("token=a=b", Some("a=b")),
            ("tokens=x", None),
            ("", None),
        ] {
            assert_eq!(parameter(query, "token").as_deref(), value, "{query}");
        }
        assert_eq!(path_part("a+b%20c%2Fd%zz"), "a+b c/d%zz");
    }

    #[test]
    fn an_upgrade_is_known_by_its_headers() {
        let request = |method: &str, connection: &str, upgrade: &str| {
            let builder = Request::builder().method(method).header("connection", connection);
            is_upgrade(&builder.header("upgrade", upgrade).body(()).unwrap())
        };
        assert!(request("GET", "Upgrade", "websocket"));
        assert!(request("GET", "keep-alive, upgrade", "WebSocket"));
        assert!(!request("POST", "Upgrade", "websocket"));
        assert!(!request("GET", "close", "websocket"));
        assert!(!request("GET", "Upgrade", "h2c"));
    }
}
