//! Engine.IO's two transports, from our HTTP into the library: long polling, request by request, and WebSockets that were
//! upgraded here.

use std::{
    collections::{HashMap, hash_map::Entry},
    io,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Either, Full};
use hyper::{
    body::Body,
    service::Service as _,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use socketioxide::{TransportType, socket::Socket};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::{
    Edge,
    answers::{self, Answer},
    handshake::{Place, parameter},
    limits::TooOften,
};

/// Where Socket.IO is.
pub(crate) const PATH: &str = "/socket.io";

/// The headers of a request that are kept as long as the connection that it opens.
const KEPT_HEADERS: [header::HeaderName; 3] = [header::ORIGIN, header::AUTHORIZATION, header::CONTENT_TYPE];

/// Whether a path is Socket.IO's.
pub(crate) fn serves(path: &str) -> bool {
    path.strip_prefix(PATH).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What a connection is opened with, beside what the client sent.
#[derive(Clone)]
pub(super) struct Opening {
    pub(super) client: IpAddr,
    /// Its place among the connections of this edge, as long as it lasts.
    _place: Place,
    /// Ends it, when it was opened as a WebSocket.
    cut: Option<CancellationToken>,
}

/// WebSockets that took a connection over from polling, by its id.
#[derive(Default)]
pub(super) struct Upgrades(Mutex<HashMap<String, CancellationToken>>);

impl Upgrades {
    /// Another WebSocket takes a connection over; none when one does already.
    fn begin(&self, edge: &Arc<Edge>, sid: String, cut: CancellationToken, place: Place) -> Option<Upgrade> {
        match self.lock().entry(sid.clone()) {
            Entry::Occupied(_) => None,
            Entry::Vacant(vacant) => {
                vacant.insert(cut);
                Some(Upgrade { edge: edge.clone(), sid, _place: place })
            }
        }
    }

    fn get(&self, sid: &str) -> Option<CancellationToken> {
        self.lock().get(sid).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, CancellationToken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a connection is not opened, as Engine.IO says it.
pub(crate) fn refusal(status: StatusCode, code: u8, message: &str) -> Answer {
    answers::object(status, [("code", code.into()), ("message", message.into())])
}

/// What is wrong with the query of a request that wants to become a WebSocket.
pub(crate) fn check_upgrade(query: &str) -> Result<(), Box<Answer>> {
    if parameter(query, "transport").as_deref() != Some("websocket") {
        return Err(Box::new(refusal(StatusCode::BAD_REQUEST, 0, "Transport unknown")));
    }
    if !matches!(parameter(query, "EIO").as_deref(), Some("3" | "4")) {
        return Err(Box::new(refusal(StatusCode::BAD_REQUEST, 5, "Unsupported protocol version")));
    }
    Ok(())
}

/// Whether a request belongs to a connection that is open.
pub(crate) fn has_sid(query: &str) -> bool {
    parameter(query, "sid").is_some()
}

/// Answers a request that is no upgrade: one of long polling.
pub(crate) async fn answer<B>(edge: &Arc<Edge>, client: IpAddr, request: Request<B>) -> Answer
where
    B: Body<Data = Bytes> + std::fmt::Debug + Send + Unpin + 'static,
    B::Error: std::fmt::Debug,
{
    let (mut head, body) = request.into_parts();
    if !has_sid(head.uri.query().unwrap_or_default()) {
        match open(edge, client, &head.headers) {
            Ok(place) => head.extensions.insert(Opening { client, _place: place, cut: None }),
            Err(refused) => return *refused,
        };
    }
    keep_few(&mut head.headers);
    ask(edge, Request::from_parts(head, body)).await
}

/// Whether one more connection may be opened by polling, and its place.
fn open(edge: &Edge, client: IpAddr, headers: &HeaderMap) -> Result<Place, Box<Answer>> {
    let busy = |text, retry_after| {
        let answer = refusal(StatusCode::SERVICE_UNAVAILABLE, 4, text);
        Err(Box::new(answers::retry_after(answer, retry_after)))
    };
    if edge.life.draining().is_cancelled() {
        return busy("This server is restarting, reconnect", crate::handshake::DRAINING_RETRY);
    }
    if !answers::is_allowed(&edge.settings.origins, headers.get(header::ORIGIN)) {
        return Err(Box::new(refusal(StatusCode::FORBIDDEN, 4, "Forbidden")));
    }
    if let Err(TooOften { retry_after }) = edge.limits.address_handshake(client) {
        let answer = refusal(StatusCode::TOO_MANY_REQUESTS, 4, "Too many new connections from this address");
        return Err(Box::new(answers::retry_after(answer, retry_after)));
    }
    match edge.places.clone().try_acquire_owned() {
        Ok(place) => Ok(Arc::new(place)),
        Err(_) => busy("Too many connections, try later", crate::handshake::DRAINING_RETRY),
    }
}

async fn ask<B>(edge: &Edge, request: Request<B>) -> Answer
where
    B: Body<Data = Bytes> + std::fmt::Debug + Send + Unpin + 'static,
    B::Error: std::fmt::Debug,
{
    let Ok(answer) = edge.socketio.service.call(request).await;
    let (head, body) = answer.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    // The library says nothing about some, and writes the code as a text; clients of Engine.IO know a number.
    if head.status == StatusCode::BAD_REQUEST && body.is_empty() {
        return refusal(head.status, 3, "Bad request");
    }
    if head.status == StatusCode::BAD_REQUEST
        && let Ok(Value::Object(refused)) = serde_json::from_slice(&body)
        && let Some(code) = refused.get("code").and_then(Value::as_str).and_then(|code| code.parse().ok())
    {
        let message = refused.get("message").and_then(Value::as_str).unwrap_or_default();
        return refusal(head.status, code, message);
    }
    Answer::from_parts(head, Either::Left(Full::new(body)))
}

/// A connection keeps the head of the request that opened it.
fn keep_few(headers: &mut HeaderMap) {
    let kept: HeaderMap = KEPT_HEADERS
        .into_iter()
        .filter_map(|name| headers.get(&name).cloned().map(|value| (name, value)))
        .collect();
    *headers = kept;
}

/// Hands a WebSocket to the library once it is one; false when the client went away meanwhile.
pub(crate) async fn join(
    edge: &Arc<Edge>,
    client: IpAddr,
    place: Place,
    mut head: Request<()>,
    upgraded: OnUpgrade,
) -> bool {
    let Ok(upgraded) = upgraded.await else { return false };
    let cut = CancellationToken::new();
    let Some(wire) = Wire::new(upgraded, &cut, edge.settings.write_limit) else { return false };
    keep_few(head.headers_mut());
    let sid = parameter(head.uri().query().unwrap_or_default(), "sid");
    let wire = match sid {
        None => {
            let opening = Opening { client, _place: place, cut: Some(cut) };
            head.extensions_mut().insert(opening);
            wire
        }
        Some(sid) => {
            let upgrade = edge.socketio.upgrades.begin(edge, sid, cut, place);
            // The library refuses a second one.
            if upgrade.is_none() {
                return true;
            }
            Wire { _upgrade: upgrade, ..wire }
        }
    };
    // What it answers is that it has begun; how it goes on nobody is told.
    let _ = edge.socketio.service.call((wire, head)).await;
    true
}

/// Ends a connection, with every namespace on it, in the way in which clients return by themselves. What was emitted
/// before it is sent first.
pub(super) async fn cut(edge: &Arc<Edge>, socket: &Socket) {
    let sid = socket.id.to_string();
    let opening = socket.req_parts().extensions.get::<Opening>();
    let cut = edge.socketio.upgrades.get(&sid).or_else(|| opening.and_then(|opening| opening.cut.clone()));
    match cut {
        Some(cut) => cut.cancel(),
        // The library closes a connection that polls when its client says so.
        None if socket.transport_type() == TransportType::Polling => {
            let (version, close) = match socket.protocol() {
                socketioxide::ProtocolVersion::V4 => (3, "1:1"),
                socketioxide::ProtocolVersion::V5 => (4, "1"),
            };
            let request = Request::post(format!("{PATH}/?EIO={version}&transport=polling&sid={sid}"))
                .header(header::CONTENT_TYPE, "text/plain; charset=UTF-8")
                .body(Full::new(Bytes::from_static(close.as_bytes())));
            if let Ok(request) = request {
                ask(edge, request).await;
            }
        }
        None => {}
    }
}

/// What a client sends to close its connection: Engine.IO's packet `1` in a masked frame (RFC 6455 section 5.2).
const CLOSE_FRAME: &[u8] = &[0x81, 0x81, 0, 0, 0, 0, b'1'];

/// A WebSocket's bytes, with an end that we can bring about: as if the client had closed its connection, upon which the
/// library sends what is waiting, closes, and tells the namespaces. It comes by itself when a write waits too long: the
/// library passes over a write that failed, and would keep everything that it writes after that in memory.
struct Wire {
    stream: TcpStream,
    /// What is to be read before anything else: what came together with the request.
    early: Bytes,
    end: CancellationToken,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    has_ended: bool,
    write_limit: Duration,
    /// Set while a write waits.
    stuck: Option<Pin<Box<Sleep>>>,
    _upgrade: Option<Upgrade>,
}

/// That a WebSocket has taken a connection over.
struct Upgrade {
    edge: Arc<Edge>,
    sid: String,
    _place: Place,
}

impl Drop for Upgrade {
    fn drop(&mut self) {
        self.edge.socketio.upgrades.lock().remove(&self.sid);
    }
}

impl Wire {
    fn new(upgraded: Upgraded, cut: &CancellationToken, write_limit: Duration) -> Option<Self> {
        let parts = upgraded.downcast::<TokioIo<TcpStream>>().ok()?;
        // A copy: as it is, it keeps the buffer in which the request was read.
        let (stream, early) = (parts.io.into_inner(), Bytes::copy_from_slice(&parts.read_buf));
        let (end, ended) = (cut.clone(), Box::pin(cut.clone().cancelled_owned()));
        Some(Self { stream, early, end, ended, has_ended: false, write_limit, stuck: None, _upgrade: None })
    }

    /// What a write has come to, unless it has waited too long.
    fn in_time(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stuck = None;
            return written;
        }
        let limit = self.write_limit;
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(sleep(limit)));
        std::task::ready!(stuck.as_mut().poll(context));
        self.end.cancel();
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.has_ended && self.ended.as_mut().poll(context).is_ready() {
            self.has_ended = true;
            self.early = Bytes::from_static(CLOSE_FRAME);
        }
        if self.has_ended || !self.early.is_empty() {
            let count = self.early.len().min(buffer.remaining());
            buffer.put_slice(&self.early.split_to(count));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.in_time(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.in_time(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_path_is_socketio() {
        for path in ["/socket.io", "/socket.io/", "/socket.io/x"] {
            assert!(serves(path), "{path}");
        }
        for path in ["/", "/socket.iox", "/socket", "/api/socket.io/"] {
            assert!(!serves(path), "{path}");
        }
    }

    #[test]
    fn an_upgrade_says_its_transport_and_its_version() {
        for (query, code) in [
            ("EIO=4&transport=websocket", None),
            ("transport=websocket&EIO=3&sid=x", None),
            ("EIO=4&transport=polling", Some(0)),
            ("EIO=4", Some(0)),
            ("", Some(0)),
            ("transport=websocket", Some(5)),
            ("EIO=2&transport=websocket", Some(5)),
        ] {
            let refused = check_upgrade(query).err().map(|answer| answer.status());
            assert_eq!(refused.is_some(), code.is_some(), "{query}");
        }
    }
}
