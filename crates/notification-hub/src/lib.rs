//! Stores notifications and messages, counts what is unread, and announces every change of it.
//!
//! This changes when what users are told, or how it reaches them, does. In the order data passes: `door` lets our
//! services in, `service` hands their calls to `inbox`, `browsers` and `rooms`, `due` does what time does, `outward` leads out of the
//! house (web push, the hooks), and `retention` forgets. It never sees a socket of a client.

mod browsers;
mod calls;
mod cursor;
mod door;
mod due;
mod hook;
mod inbox;
mod outward;
mod push;
mod retention;
mod rooms;
mod service;
mod session_hook;
mod settings;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use event_bus::EventBus;
use lifecycle::{Lifecycle, ListenError, Readiness, listen, serve_admin};
use model::Clock;
use outbox::Relay;
use rpc::{
    KEEP_ALIVE, Traced,
    notification::{HUB_MESSAGE_BYTES_MAX, NotificationsServer},
};
use storage::{Storage, StorageError};
use tokio::sync::OnceCell;
use tonic::{
    service::interceptor::InterceptedService,
    transport::{Server, server::TcpIncoming},
};

pub use hook::HookSettings;
pub use push::PushSettings;
pub use session_hook::SessionHookSettings;
pub use settings::{HubSettings, Retention};

use crate::{
    browsers::Browsers,
    door::Door,
    due::{Alarm, Due},
    hook::Hook,
    inbox::Inbox,
    outward::{Outward, SessionWay},
    push::Push,
    rooms::Rooms,
    service::Service,
};

/// Longest wait for an answer from outside of the house: a few of them fit into the minute of a claim.
const OUTWARD_LIMIT: Duration = Duration::from_secs(10);

/// Why a hub does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port is taken.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The database URL is wrong.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The Redis URL is wrong.
    #[error(transparent)]
    Bus(#[from] event_bus::BusError),
    /// TLS cannot be used on this machine.
    #[error("prepare TLS: {0}")]
    Tls(#[from] reqwest::Error),
}

/// A hub that serves.
#[derive(Debug, Clone, Copy)]
pub struct Running {
    /// Where gRPC is served.
    pub address: SocketAddr,
    /// Where `/livez`, `/readyz` and `/metrics` are.
    pub admin_address: SocketAddr,
}

/// Starts a hub inside `life`; returns when it accepts calls.
///
/// # Errors
/// See [`StartError`]. Postgres and Redis need not be up: readiness says so until Postgres is. Redis may stay away:
/// what is stored then waits in the outbox.
pub async fn start(settings: &HubSettings, life: &Lifecycle, clock: Clock) -> Result<Running, StartError> {
    register_metrics();
    let storage = Storage::connect(&settings.storage)?;
    let bus = EventBus::connect(&settings.bus)?;
    let tracer = life.trace("notification-hub", &settings.telemetry);

    let listener = listen("HUB_PORT", settings.address).await?;
    let admin = listen("HUB_METRICS_PORT", settings.admin_address).await?;
    let running = Running {
        address: listener.local_addr().unwrap_or(settings.address),
        admin_address: admin.local_addr().unwrap_or(settings.admin_address),
    };

    let http = http_client()?;
    let push = settings.push.as_ref().and_then(|push| Push::new(push, http.clone())).map(Arc::new);
    let hook = settings.hook.as_ref().and_then(|hook| Hook::new(hook, http.clone()));
    let hooked = hook.is_some();
    let sessions = settings.session_hook.as_ref().and_then(|session| {
        Some(SessionWay {
            hook: Hook::new(&session.hook, http)?,
            events: session.events.clone(),
            public_url: session.public_url.clone(),
        })
    });

    let relay = Relay::new(storage.clone(), bus.clone()).traced(tracer.clone());
    let announce = relay.ring();
    life.spawn_companion("outbox relay", relay.run(life.stopping().clone()));
    let due = Due::new(storage.clone(), announce.clone(), clock.clone(), hooked);
    let due_alarm = due.alarm();
    life.spawn_critical("due notifications", due.run(life.draining().clone()));
    let retention = retention::keep(settings.retention, storage.clone(), announce.clone(), clock.clone());
    let draining = life.draining().clone();
    life.spawn_critical("retention", async move {
        let _ended = draining.run_until_cancelled(retention).await;
    });

    let outward = Outward {
        storage: storage.clone(),
        bus,
        clock: clock.clone(),
        push: push.clone(),
        hook,
        sessions,
        told: OnceCell::new(),
        alarm: Alarm::default(),
    };
    let outward_alarm = outward.alarm.clone();
    life.spawn_critical("ways out of the house", outward.run(life.draining().clone()));

    let service = Service {
        inbox: Inbox {
            storage: storage.clone(),
            announce: announce.clone(),
            due: due_alarm,
            outward: outward_alarm,
            clock: clock.clone(),
            idempotency_life: settings.idempotency_life,
            hook: hooked,
        },
        browsers: Browsers { storage: storage.clone(), push, clock: clock.clone() },
        rooms: Rooms::new(storage.clone(), announce, clock),
    };

    let readiness = Readiness::new(life.draining().clone()).with("postgres", move || {
        let storage = storage.clone();
        async move { storage.check().await.map_err(|error| error.to_string()) }
    });
    life.spawn_companion("admin listener", serve_admin(admin, readiness.clone(), life.clone()));

    let door = Door::new(settings.internal_tokens.clone());
    let service = NotificationsServer::new(service)
        .max_decoding_message_size(HUB_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(HUB_MESSAGE_BYTES_MAX);
    let service = Traced::new(InterceptedService::new(service, door), tracer);
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE));
    let draining = life.draining().clone();
    life.spawn_critical("gRPC server", async move {
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        if let Err(error) =
            server.serve_with_incoming_shutdown(service, incoming, draining.cancelled_owned()).await
        {
            tracing::error!(%error, "gRPC server");
        }
    });
    readiness.started();
    tracing::info!(address = %running.address, "ready");
    Ok(running)
}

/// For push services and the hooks: none may send us elsewhere, or keep us waiting.
fn http_client() -> Result<reqwest::Client, StartError> {
    // Two TLS back ends in one program leave rustls without a default. Already set is as good.
    drop(rustls::crypto::ring::default_provider().install_default());
    let client = reqwest::Client::builder()
        .connect_timeout(OUTWARD_LIMIT)
        .timeout(OUTWARD_LIMIT)
        .redirect(reqwest::redirect::Policy::none())
        .build()?;
    Ok(client)
}

fn register_metrics() {
    outward::register_metrics();
    storage::describe_metrics();
    event_bus::describe_metrics();
    outbox::describe_metrics();
    calls::register_metrics();
    due::register_metrics();
    retention::register_metrics();
}
