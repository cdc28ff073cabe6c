//! The door of encoders: RTMP in, sound out.
//!
//! This changes when what encoders do does. It knows sockets, stream keys and the time of sound; it must not know
//! engines, clients of captions, SQL or Redis. In the order data passes: the `door` accepts, a `connection` speaks RTMP
//! (the `rtmp` crate reads it), a `permit` says where the sound belongs, the `source` has an `ear` turn tags into sound
//! at its place and sends it to a worker; kept at a `desk`, it outlives the connection. A `relay` sends the stream on.

mod connection;
mod desk;
mod door;
mod ear;
mod hook;
mod metrics;
mod permit;
mod proxy;
mod relay;
mod settings;
mod source;
mod tls;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use auth::SessionTokens;
use event_bus::{BusError, EventBus};
use lifecycle::{Lifecycle, ListenError, Readiness, listen, serve_admin};
use model::Clock;
use rpc::{Workers, WorkersError};
use storage::{Storage, StorageError};

pub use settings::IngestSettings;
pub use tls::TlsError;

use crate::{desk::Desks, door::Places, hook::Hook};

/// How long a drain may take: what a worker needs to store what was said last, and a little more.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(15);

/// Why an ingest does not start.
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
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The hook cannot be asked, whatever it would say.
    #[error("RTMP_AUTH_HOOK cannot be used: {0}")]
    Hook(#[source] reqwest::Error),
}

/// An ingest that serves.
pub struct Running {
    /// RTMP.
    pub address: SocketAddr,
    /// RTMPS, when there is a certificate.
    pub tls_address: Option<SocketAddr>,
    /// Where `/livez`, `/readyz` and `/metrics` are.
    pub admin_address: SocketAddr,
}

/// What the tasks of an ingest share.
pub(crate) struct Ingest {
    settings: IngestSettings,
    clock: Clock,
    life: Lifecycle,
    tokens: SessionTokens,
    storage: Storage,
    bus: EventBus,
    workers: Workers,
    hook: Option<Hook>,
    places: Arc<Places>,
    /// Every stream that somebody publishes, or did a moment ago.
    desks: Arc<Desks>,
}

/// Starts an ingest inside `life`; returns when it accepts connections. Postgres, Redis and the workers need not be
/// up: `/readyz` names those of the first two that are away.
///
/// # Errors
/// See [`StartError`].
pub async fn start(settings: &IngestSettings, life: &Lifecycle, clock: Clock) -> Result<Running, StartError> {
    metrics::register();
    storage::describe_metrics();
    event_bus::describe_metrics();
    rpc::register_metrics();
    if settings.open_keys {
        tracing::warn!("RTMP_OPEN_KEYS is set: whoever knows the name of a session can publish into it");
    }
    // Whoever asked first has chosen; there is one provider in this workspace.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let tls = settings.tls.as_ref().map(tls::acceptor).transpose()?;
    let hook = settings.hook.clone().map(Hook::new).transpose().map_err(StartError::Hook)?;
    let ingest = Arc::new(Ingest {
        tokens: SessionTokens::new(settings.jwt_secrets.clone(), clock.clone()),
        storage: Storage::connect(&settings.storage)?,
        bus: EventBus::connect(&settings.bus)?,
        workers: Workers::new(&settings.workers)?.traced(life.trace("rtmp-ingest", settings.telemetry())),
        hook,
        places: Arc::new(Places::new(settings.connections_max, settings.address_connections_max)),
        desks: Arc::default(),
        settings: settings.clone(),
        clock,
        life: life.clone(),
    });

    let listener = listen("RTMP_PORT", settings.address).await?;
    let tls_listener = match &settings.tls {
        Some(tls) => Some(listen("RTMPS_PORT", tls.address).await?),
        None => None,
    };
    let admin = listen("RTMP_METRICS_PORT", settings.admin_address).await?;
    let address = listener.local_addr().unwrap_or(settings.address);
    let tls_address = tls_listener.as_ref().and_then(|listener| listener.local_addr().ok());
    let admin_address = admin.local_addr().unwrap_or(settings.admin_address);

    let readiness = readiness(&ingest);
    life.spawn_companion("admin listener", serve_admin(admin, readiness.clone(), life.clone()));
    life.spawn_critical("door", door::accept(ingest.clone(), listener, None));
    if let Some((listener, tls)) = tls_listener.zip(tls) {
        life.spawn_critical("TLS door", door::accept(ingest, listener, Some(tls)));
    }
    readiness.started();
    tracing::info!(%address, "ready");
    Ok(Running { address, tls_address, admin_address })
}

fn readiness(ingest: &Arc<Ingest>) -> Readiness {
    let (storage, bus) = (ingest.storage.clone(), ingest.bus.clone());
    Readiness::new(ingest.life.draining().clone())
        .with("postgres", move || {
            let storage = storage.clone();
            async move { storage.check().await.map_err(|error| error.to_string()) }
        })
        .with("redis", move || {
            let bus = bus.clone();
            async move { bus.check().await.map_err(|error| error.to_string()) }
        })
}
