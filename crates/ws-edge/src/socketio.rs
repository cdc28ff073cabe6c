//! Socket.IO (protocols 5 and 4, over Engine.IO 4 and 3) on every door, by socketioxide.
//!
//! The library knows transports, packets, namespaces and acknowledgements; who may enter a namespace and what happens there
//! is ours, and the same as for WebSockets. In the order in which a client passes: `transport` opens its connection,
//! `admission` lets it into a namespace, its packets wait in an `inbox`, and the task that serves it sees a `visitor`.
//! Rooms and adapters of the library are not used: what followers are told comes by `fanout`, as everywhere here.

mod admission;
mod inbox;
mod transport;
mod visitor;

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::Weak,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::service::Service;
use settings::Reader;
use socketioxide::{ParserConfig, SocketIo, service::SocketIoService};

pub(crate) use admission::{Asked, Denied};
pub(crate) use transport::{answer, check_upgrade, has_sid, join, serves};
pub(crate) use visitor::{Event, Heard, Reply, Visitor};

use crate::Edge;
use admission::{Kind, Namespace};
use transport::Upgrades;

/// Packets that may wait for one client between its task and its transport. Beyond it the task waits, and what it follows
/// waits in the queue of `fanout`.
const PACKETS_WAITING_MAX: usize = 64;

/// What a WebSocket reads at once, and keeps while it is idle, in bytes.
const READ_BUFFER_BYTES: usize = 1024;

/// Binary parts of one packet.
const BINARY_PARTS_MAX: usize = 16;

/// How long the binary parts of a packet may take after it.
const BINARY_LIMIT: Duration = Duration::from_secs(30);

/// How long a client may stay in no namespace.
const ENTER_LIMIT: Duration = Duration::from_secs(45);

/// What clients are told about a connection when it opens.
#[derive(Debug, Clone)]
pub(crate) struct SocketIoSettings {
    ping_interval: Duration,
    ping_timeout: Duration,
    upgrade_timeout: Duration,
    pub(crate) message_bytes_max: u64,
}

impl SocketIoSettings {
    pub(crate) fn read(reader: &mut Reader) -> Self {
        let least = Duration::from_millis(10);
        let mut millis = |name, default| reader.millis(name, Duration::from_millis(default)).max(least);
        let ping_interval = millis("SOCKETIO_PING_INTERVAL_MS", 25_000);
        let ping_timeout = millis("SOCKETIO_PING_TIMEOUT_MS", 60_000);
        let upgrade_timeout = millis("SOCKETIO_UPGRADE_TIMEOUT_MS", 10_000);
        let message_bytes_max = reader.or("SOCKETIO_MESSAGE_BYTES_MAX", 1_000_000, "a number of bytes");
        if !(1_024..=16_000_000).contains(&message_bytes_max) {
            reader.problem("SOCKETIO_MESSAGE_BYTES_MAX", "expected 1024 to 16000000 bytes");
        }
        Self { ping_interval, ping_timeout, upgrade_timeout, message_bytes_max }
    }
}

/// The library, and what it does not know of its connections.
pub(crate) struct SocketIoServer {
    service: SocketIoService<Elsewhere>,
    upgrades: Upgrades,
}

impl SocketIoServer {
    /// A server whose namespaces are served by `edge`.
    pub(crate) fn new(settings: &SocketIoSettings, edge: &Weak<Edge>) -> Self {
        let bytes_max = usize::try_from(settings.message_bytes_max).unwrap_or(usize::MAX);
        let parser = ParserConfig::common()
            .max_incoming_binary_buf_size(bytes_max)
            .max_incoming_binaries(BINARY_PARTS_MAX)
            .packet_completion_timeout(BINARY_LIMIT);
        let (service, io) = SocketIo::builder()
            .req_path(transport::PATH)
            .ping_interval(settings.ping_interval)
            .ping_timeout(settings.ping_timeout)
            .upgrade_timeout(settings.upgrade_timeout)
            .max_payload(settings.message_bytes_max)
            .ws_max_message_size(bytes_max)
            .ws_max_frame_size(bytes_max)
            .ws_read_buffer_size(READ_BUFFER_BYTES)
            .max_buffer_size(PACKETS_WAITING_MAX)
            .connect_timeout(ENTER_LIMIT)
            .with_parser(parser)
            .build_with_inner_svc(Elsewhere);
        for kind in Kind::ALL {
            io.ns(kind.path(), Namespace { edge: edge.clone(), kind });
        }
        Self { service, upgrades: Upgrades::default() }
    }
}

/// What the library answers under other paths than its own. It is asked under no other.
#[derive(Clone)]
struct Elsewhere;

impl<B> Service<Request<B>> for Elsewhere {
    type Response = Response<Empty<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn call(&self, _: Request<B>) -> Self::Future {
        let mut answer = Response::new(Empty::new());
        *answer.status_mut() = StatusCode::NOT_FOUND;
        ready(Ok(answer))
    }
}
