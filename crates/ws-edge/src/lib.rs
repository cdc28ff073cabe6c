//! The front door: HTTP and WebSocket, audio in, captions out.
//!
//! This changes when a client's protocol does. It knows requests, sockets and client JSON; it must not know engines,
//! SQL or Redis. In the order data passes: the `door` accepts, `route` and `handshake` answer, a `connection` speaks
//! with its client and hands audio to its `source`, which decodes it into the uplink and, kept at a `desk`, outlives the
//! socket; captions come back by a
//! `feed`, which puts them in `order` for the followers of its session. Notifications have a `tab`, and `chat` a seat. Clients
//! of other services are `listen`'s and the `interpreter`'s; each has a source by way of `speaking`.

mod access;
mod answers;
mod arrivals;
mod channel;
mod chat;
mod close;
mod connection;
mod desk;
mod door;
mod egress;
mod ending;
mod feed;
mod gate;
mod handshake;
mod happenings;
mod interpreter;
mod limits;
mod line;
mod listen;
mod metrics;
mod news;
mod order;
mod orders;
mod pages;
mod presence;
mod proof;
mod protocol;
mod pulse;
mod recording;
mod rehearsal;
mod request;
mod rest;
mod rooms;
mod route;
mod service;
mod sessions;
mod settings;
mod socket;
mod socketio;
mod source;
mod speaking;
mod spread;
mod stats;
mod tab;
mod transcript;
mod transcription;
mod update;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use auth::{ServiceKeys, SessionTokens, UserTokens};
use event_bus::{BusError, EventBus};
use lifecycle::{AdminPage, Lifecycle, ListenError, Readiness, listen, serve_admin_with};
use livekit::{LiveKit, LiveKitError, Webhooks};
use model::Clock;
use outbox::{Bell, Relay};
use rpc::{Hub, HubError, Workers, WorkersError};
use storage::{Storage, StorageError};
use telemetry::Tracer;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use settings::EdgeSettings;

use crate::{
    chat::{
        Talk,
        members::{self, Members},
    },
    desk::Desks,
    door::Door,
    feed::Feeds,
    happenings::Happenings,
    limits::Limits,
    metrics::Tally,
    presence::Presence,
    rooms::Rooms,
    sessions::Sessions,
    socketio::SocketIoServer,
    stats::Stats,
    transcript::Transcript,
};

/// How long a drain may take: what the stages below need, and a little more.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(20);

/// How long the audio of a draining edge may take to be finished.
const SOURCES_LIMIT: Duration = Duration::from_secs(10);

/// From the moment the last final of a finished source is stored until followers have surely read it.
const SETTLE: Duration = Duration::from_secs(1);

/// How often a dependency is asked for until it answers for the first time.
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(1);

/// Why an edge does not start.
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
    Bus(#[from] BusError),
    /// The address of a worker is wrong.
    #[error(transparent)]
    Workers(#[from] WorkersError),
    /// The address of the notification hub is wrong.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// LiveKit cannot be spoken to from here.
    #[error(transparent)]
    LiveKit(#[from] LiveKitError),
}

/// An edge that serves.
pub struct Running {
    /// The main door.
    pub address: SocketAddr,
    /// The door of system C's clients, unless it is switched off.
    pub chat_address: Option<SocketAddr>,
    /// The door of system D's clients, unless it is switched off.
    pub translate_address: Option<SocketAddr>,
    /// The gRPC of sessions, unless it is switched off.
    pub session_address: Option<SocketAddr>,
    /// Where `/livez`, `/readyz` and `/metrics` are.
    pub admin_address: SocketAddr,
}

/// What the tasks of an edge share.
pub(crate) struct Edge {
    settings: EdgeSettings,
    clock: Clock,
    life: Lifecycle,
    tracer: Tracer,
    tokens: SessionTokens,
    users: UserTokens,
    keys: ServiceKeys,
    /// What system A's RTMP servers show.
    rtmp_server_keys: ServiceKeys,
    /// What system D's clients show; `None` when they need not show anything.
    translate_keys: Option<ServiceKeys>,
    /// LiveKit's rooms, when there is a LiveKit.
    rooms: Option<Rooms>,
    webhooks: Option<Webhooks>,
    /// Rung when a caption from outside was stored.
    announce: Bell,
    storage: Storage,
    bus: EventBus,
    workers: Workers,
    hub: Hub,
    limits: Limits,
    sessions: Sessions,
    transcripts: Feeds<Transcript>,
    happenings: Feeds<Happenings>,
    talks: Feeds<Talk>,
    presence: Presence,
    members: Members,
    socketio: SocketIoServer,
    /// Places for connections, of every door.
    places: Arc<Semaphore>,
    tally: Tally,
    stats: Stats,
    /// Places for recordings that are uploaded and heard.
    recording_places: Arc<Semaphore>,
    /// Places for those who read whole transcripts.
    readers: Semaphore,
    /// Every stream that is being sent to a worker.
    desks: Desks,
    /// Cancelled when a draining edge has finished its audio and sends its clients away.
    farewell: CancellationToken,
}

/// Starts an edge inside `life`; returns when it accepts connections. Postgres, Redis and the workers need not be
/// up: `/readyz` names those of the first two that are away.
///
/// # Errors
/// See [`StartError`].
pub async fn start(settings: &EdgeSettings, life: &Lifecycle, clock: Clock) -> Result<Running, StartError> {
    metrics::register();
    stats::register();
    rooms::register();
    egress::register();
    storage::describe_metrics();
    outbox::describe_metrics();
    event_bus::describe_metrics();
    rpc::register_metrics();
    for name in &settings.ignored {
        tracing::warn!(setting = name, "this setting has no effect here and can be removed");
    }
    if settings.legacy_open_routes {
        tracing::warn!(
            "LEGACY_OPEN_ROUTES is set: anybody can start and stop transcription, report usage, and hand in captions and sound"
        );
    }
    if settings.chat_anonymous {
        tracing::warn!("CHAT_ANONYMOUS is set: anybody can chat under any name");
    }
    if settings.translate_address.is_some() && settings.translate_tokens.is_none() {
        tracing::warn!(
            "FASTER_WHISPER_REQUIRE_AUTH is off: anybody can have recordings transcribed on TRANSLATE_PORT"
        );
    }
    let storage = Storage::connect(&settings.storage)?;
    let bus = EventBus::connect(&settings.bus)?;
    let tracer = life.trace("ws-edge", settings.telemetry());
    let workers = Workers::new(&settings.workers)?.traced(tracer.clone());
    let hub = Hub::new(&settings.hub)?;
    let plan = settings.livekit.as_ref();
    let livekit = plan.map(|plan| LiveKit::new(&plan.livekit)).transpose()?;
    let webhooks = plan.map(|plan| Webhooks::new(&plan.livekit, clock.clone()));
    let rooms = livekit.zip(plan.cloned()).map(|(livekit, plan)| Rooms::new(livekit, plan));
    let relay = Relay::new(storage.clone(), bus.clone()).traced(tracer.clone());
    if settings.test_mode {
        tracing::warn!("WS_TEST_MODE is set: everybody is sent transcripts that nobody said");
    }
    let users = UserTokens::new(settings.user_secrets.clone(), clock.clone());
    if !users.has_secrets() {
        tracing::warn!(
            "neither JWT_SECRET nor NEXTAUTH_SECRET is set: nobody can follow notifications, and no user can chat"
        );
    }

    let listener = listen("PORT", settings.address).await?;
    let chat = match settings.chat_address {
        Some(address) => Some(listen("CHAT_PORT", address).await?),
        None => None,
    };
    let translate = match settings.translate_address {
        Some(address) => Some(listen("TRANSLATE_PORT", address).await?),
        None => None,
    };
    let sessions_listener = match settings.session_address {
        Some(address) => Some(listen("SESSION_PORT", address).await?),
        None => None,
    };
    let session_address = sessions_listener.as_ref().and_then(|listener| listener.local_addr().ok());
    let admin = listen("METRICS_PORT", settings.admin_address).await?;
    let address = listener.local_addr().unwrap_or(settings.address);
    let chat_address = chat.as_ref().and_then(|chat| chat.local_addr().ok());
    let translate_address = translate.as_ref().and_then(|translate| translate.local_addr().ok());
    let admin_address = admin.local_addr().unwrap_or(settings.admin_address);

    let (sessions, notes) = Sessions::new(clock.clone());
    let (wishes, wished) = feed::wishes();
    let (presence, changed) = Presence::new();
    let (members, seats) = Members::new();
    let edge = Arc::new_cyclic(|edge| Edge {
        tokens: SessionTokens::new(settings.jwt_secrets.clone(), clock.clone()),
        users,
        keys: ServiceKeys::new(settings.service_keys.clone()),
        rtmp_server_keys: ServiceKeys::new(settings.rtmp_server_secrets.clone()),
        translate_keys: settings.translate_tokens.clone().map(ServiceKeys::new),
        rooms,
        webhooks,
        announce: relay.ring(),
        limits: Limits::new(settings),
        settings: EdgeSettings { address, admin_address, ..settings.clone() },
        stats: Stats::new(clock.now()),
        clock,
        life: life.clone(),
        tracer,
        storage,
        bus,
        workers,
        hub,
        sessions,
        transcripts: Feeds::new(settings.follower_queue, wishes.clone()),
        happenings: Feeds::new(settings.follower_queue, wishes.clone()),
        talks: Feeds::new(settings.follower_queue, wishes),
        presence,
        members,
        socketio: SocketIoServer::new(&settings.socketio, edge),
        places: Arc::new(Semaphore::new(settings.connections_max)),
        tally: Tally::new(),
        recording_places: Arc::new(Semaphore::new(settings.recordings_max)),
        readers: Semaphore::new(rest::READERS_MAX),
        desks: Desks::new(),
        farewell: CancellationToken::new(),
    });

    let readiness = readiness(&edge);
    life.spawn_companion(
        "admin listener",
        serve_admin_with(admin, readiness.clone(), life.clone(), Some(stats_page(&edge))),
    );
    life.spawn_companion(
        "bus listener",
        feed::listen(edge.clone(), edge.bus.subscriber_with_others(), wished),
    );
    life.spawn_companion("outbox relay", relay.run(life.stopping().clone()));
    life.spawn_critical("rooms", rooms::look_after(edge.clone()));
    if let Some(listener) = sessions_listener {
        life.spawn_critical("gRPC server", service::serve(edge.clone(), listener));
    }
    if edge.settings.test_mode {
        life.spawn_critical("rehearsal", rehearsal::run(edge.clone()));
    }
    life.spawn_critical("session notes", notes.run(edge.clone()));
    life.spawn_critical("idle sessions", sessions::end_idle(edge.clone()));
    life.spawn_critical("limits", door::forget(edge.clone()));
    life.spawn_companion("presence", presence::tell(edge.clone(), changed));
    life.spawn_companion("members", members::tell(edge.clone(), seats));
    life.spawn_critical("door", door::accept(edge.clone(), Door::Main, listener));
    if let Some(chat) = chat {
        life.spawn_critical("chat door", door::accept(edge.clone(), Door::Chat, chat));
    }
    if let Some(translate) = translate {
        life.spawn_critical("translate door", door::accept(edge.clone(), Door::Translate, translate));
    }
    life.spawn(say_farewell(edge.clone()));
    life.spawn(announce(edge.clone()));
    readiness.started();
    tracing::info!(%address, "ready");
    Ok(Running { address, chat_address, translate_address, session_address, admin_address })
}

/// What system C's monitors read beside `/metrics`.
fn stats_page(edge: &Arc<Edge>) -> AdminPage {
    let edge = edge.clone();
    AdminPage { path: "/stats", json: Arc::new(move || edge.stats.json()) }
}

fn readiness(edge: &Arc<Edge>) -> Readiness {
    let (storage, bus) = (edge.storage.clone(), edge.bus.clone());
    Readiness::new(edge.life.draining().clone())
        .with("postgres", move || {
            let storage = storage.clone();
            async move { storage.check().await.map_err(|error| error.to_string()) }
        })
        .with("redis", move || {
            let bus = bus.clone();
            async move { bus.check().await.map_err(|error| error.to_string()) }
        })
}

/// Orders the drain: first the audio is finished, then its last captions reach their followers, then clients go.
async fn say_farewell(edge: Arc<Edge>) {
    edge.life.draining().cancelled().await;
    let sources = &edge.desks.tasks;
    sources.close();
    if !sources.is_empty() {
        tracing::info!(streams = sources.len(), "finishing audio");
        if tokio::time::timeout(SOURCES_LIMIT, sources.wait()).await.is_err() {
            tracing::warn!(streams = sources.len(), "some audio is not finished in time");
        }
        tokio::time::sleep(SETTLE).await;
    }
    edge.farewell.cancel();
}

/// Logs once when each dependency answers.
async fn announce(edge: Arc<Edge>) {
    let database = async {
        while edge.storage.check().await.is_err() {
            tokio::time::sleep(ANNOUNCE_INTERVAL).await;
        }
        tracing::info!("database connected");
    };
    let redis = async {
        while edge.bus.check().await.is_err() {
            tokio::time::sleep(ANNOUNCE_INTERVAL).await;
        }
        tracing::info!("Redis connected");
    };
    tokio::select! {
        _ = async { tokio::join!(database, redis) } => {}
        () = edge.life.draining().cancelled() => {}
    }
}
