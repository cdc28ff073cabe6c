//! Hears audio streams over gRPC and turns them into captions.
//!
//! This changes when the road of audio inside the worker does. In the order data passes: [`service`](self) takes a
//! call and admits it, a `stream` task feeds what is `hearing` it, the `meter` counts,
//! the `filter` judges texts, `speakers` tell whose they are, `finals` are stored in order and ring the outbox,
//! `partials` go straight to Redis. Beside them `translating` has finals translated. It never sees an encoding or a client.

mod capacity;
mod filter;
mod finals;
mod hearing;
mod languages;
mod meter;
mod partials;
mod recognition;
mod service;
mod settings;
mod speakers;
mod stream;
mod traces;
mod translating;

use std::{net::SocketAddr, sync::Arc};

use event_bus::EventBus;
use lifecycle::{Lifecycle, ListenError, Readiness, listen, serve_admin};
use model::Clock;
use outbox::Relay;
use rpc::{KEEP_ALIVE, MESSAGE_BYTES_MAX, Traced, wire::TranscriptionServer};
use speech::{EnginePool, Gladia, GladiaError, ModelFiles, Moonshine, OpenAi, SpeechError};
use storage::{Storage, StorageError};
use tokio::runtime::Handle;
use tonic::transport::{Server, server::TcpIncoming};

pub use languages::Languages;
pub use settings::{WhisperSettings, WorkerSettings};
pub use translating::TranslatingSettings;

use crate::{
    capacity::{Capacity, Pace},
    hearing::Engines,
    partials::Partials,
    service::Service,
    translating::{Teller, Translating, Translations},
};

/// Why a worker does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port is taken.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The model is missing or broken.
    #[error(transparent)]
    Speech(#[from] SpeechError),
    /// The database URL is wrong.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The Redis URL is wrong.
    #[error(transparent)]
    Bus(#[from] event_bus::BusError),
    /// Gladia cannot be spoken to from here.
    #[error(transparent)]
    Gladia(#[from] GladiaError),
    /// The translator cannot be spoken to from here.
    #[error(transparent)]
    Translator(#[from] translate::ClientError),
    /// A thread could not be started.
    #[error("start the engines: {0}")]
    Engines(#[from] tokio::task::JoinError),
}

/// A worker that serves.
#[derive(Debug, Clone, Copy)]
pub struct Running {
    /// Where gRPC is served.
    pub address: SocketAddr,
    /// Where `/livez`, `/readyz` and `/metrics` are.
    pub admin_address: SocketAddr,
}

/// Starts a worker inside `life`; returns when it accepts streams.
///
/// # Errors
/// See [`StartError`]. Postgres and Redis need not be up: readiness says so until they are.
pub async fn start(settings: &WorkerSettings, life: &Lifecycle, clock: Clock) -> Result<Running, StartError> {
    register_metrics();
    let storage = Storage::connect(&settings.storage)?;
    let bus = EventBus::connect(&settings.bus)?;
    let tracer = life.trace("transcription-worker", &settings.telemetry);
    let gladia = settings.gladia.clone().map(Gladia::new).transpose()?;
    let moonshine = Capacity::new(start_engines(settings).await?, Pace::LIVE, settings.streams_max);
    let engines = Engines {
        moonshine,
        whisper: start_whisper(settings).await?,
        openai: start_openai(settings)?,
        gladia,
        refused: Arc::default(),
        languages: Arc::new(settings.languages.clone()),
        second_pass: settings.second_pass,
    };

    let listener = listen("WORKER_PORT", settings.address).await?;
    let admin = listen("WORKER_METRICS_PORT", settings.admin_address).await?;
    let running = Running {
        address: listener.local_addr().unwrap_or(settings.address),
        admin_address: admin.local_addr().unwrap_or(settings.admin_address),
    };

    let relay = Relay::new(storage.clone(), bus.clone()).traced(tracer.clone());
    let bell = relay.ring();
    life.spawn_companion("outbox relay", relay.run(life.stopping().clone()));
    let partials = Partials::start(&bus, life);
    let translations = Translations::new(&settings.translating)?;
    let teller = Teller { storage: storage.clone(), bell, clock };
    Translating::start(&translations, teller.clone(), life);
    let service =
        Service::new(settings, teller, partials, engines, translations, tracer.clone(), life.clone());

    let (probed_storage, probed_bus) = (storage, bus);
    let readiness = Readiness::new(life.draining().clone())
        .with("postgres", move || {
            let storage = probed_storage.clone();
            async move { storage.check().await.map_err(|error| error.to_string()) }
        })
        .with("redis", move || {
            let bus = probed_bus.clone();
            async move { bus.check().await.map_err(|error| error.to_string()) }
        });
    life.spawn_companion("admin listener", serve_admin(admin, readiness.clone(), life.clone()));

    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE));
    let service = TranscriptionServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let service = Traced::new(service, tracer);
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

/// Loads the model on each engine thread; a second or so of work, and off the async threads.
async fn start_engines(settings: &WorkerSettings) -> Result<Arc<EnginePool>, StartError> {
    let (threads, model_dir) = (settings.engine_threads, settings.model_dir.clone());
    let engines = tokio::task::spawn_blocking(move || {
        let here = std::env::current_dir().unwrap_or_default();
        let files = ModelFiles::find(model_dir.as_deref(), &here)?;
        EnginePool::start(threads, move || Ok(Box::new(Moonshine::load(&files, 1)?)))
    });
    let engines = engines.await??;
    tracing::info!(threads, "speech model loaded");
    Ok(Arc::new(engines))
}

/// Loads Whisper, when it is to be had: half a second of work, off the async threads.
async fn start_whisper(settings: &WorkerSettings) -> Result<Option<Capacity>, StartError> {
    #[cfg(feature = "whisper")]
    if let Some(WhisperSettings { dir, threads }) = settings.whisper.clone() {
        let started = tokio::task::spawn_blocking(move || {
            let whisper = speech::Whisper::load(&dir, threads)?;
            EnginePool::start(threads, move || Ok(Box::new(whisper.clone())))
        });
        let engines = Arc::new(started.await??);
        tracing::info!(threads, "Whisper loaded");
        return Ok(Some(Capacity::new(engines, Pace::FINALS, settings.streams_max)));
    }
    let _ = settings;
    Ok(None)
}

/// Threads that ask a server of OpenAI's kind, when there is one.
fn start_openai(settings: &WorkerSettings) -> Result<Option<Capacity>, StartError> {
    let Some(account) = settings.openai.clone() else { return Ok(None) };
    let threads = account.concurrency;
    let openai = OpenAi::new(account, Handle::current())?;
    let engines = EnginePool::start(threads, move || Ok(Box::new(openai.clone())))?;
    Ok(Some(Capacity::new(Arc::new(engines), Pace::FINALS, settings.streams_max)))
}

fn register_metrics() {
    speech::describe();
    storage::describe_metrics();
    event_bus::describe_metrics();
    outbox::describe_metrics();
    capacity::register_metrics();
    service::register_metrics();
    hearing::register_metrics();
    meter::register_metrics();
    stream::register_metrics();
    partials::register_metrics();
    translating::register_metrics();
}
