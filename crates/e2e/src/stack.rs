use std::collections::BTreeMap;

use lifecycle::Lifecycle;
use model::Clock;
use notification_hub::HubSettings;
use rtmp_ingest::IngestSettings;
use serde_json::Value;
use storage::Storage;
use testkit::{
    Cable, Database, HandshakeLimit, Nginx, RedisServer, eventually, free_port, redis_prefix, with_address,
};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, SemaphorePermit},
};
use transcription_worker::WorkerSettings;
use ws_edge::EdgeSettings;

use crate::{Room, Service, User, log};

/// What signs the tokens of sessions.
pub const JWT_SECRET: &str = "a secret of the tests";

/// What signs the tokens of users.
pub const USER_SECRET: &str = "a secret for the users of the tests";

/// What trusted back ends show.
pub const SERVICE_KEY: &str = "a service key of the tests";

/// Stacks of one process at a time. Each has an engine of 150 MB, and two keep two cores busy. A test may hold one.
const STACKS_MAX: u32 = 2;

static PLACES: Semaphore = Semaphore::const_new(STACKS_MAX as usize);

/// What is unusual about a stack.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Settings of all services, over the usual ones.
    pub settings: Vec<(&'static str, String)>,
    /// How many new sockets nginx lets through.
    pub handshakes: HandshakeLimit,
    /// No other stack in this process meanwhile.
    pub alone: bool,
    /// nginx is in front of [`Stack::another_edge`] too.
    pub two_edges: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self { settings: Vec::new(), handshakes: HandshakeLimit::NONE, alone: false, two_edges: false }
    }
}

/// Postgres, Redis, the services and nginx in front.
pub struct Stack {
    /// The front door.
    pub nginx: Nginx,
    /// The edge.
    pub edge: Service,
    /// The worker.
    pub worker: Service,
    /// The keeper of notifications.
    pub hub: Service,
    /// The door of encoders.
    pub ingest: Service,
    /// Between the services and Postgres.
    pub postgres: Cable,
    /// Redis.
    pub redis: RedisServer,
    /// A way to Postgres beside the cable.
    pub storage: Storage,
    ports: Ports,
    settings: BTreeMap<String, String>,
    _database: Database,
    _place: SemaphorePermit<'static>,
}

/// Ports that stay the same when a service is started again.
#[derive(Clone, Copy)]
struct Ports {
    edge: u16,
    another_edge: u16,
    worker: u16,
    hub: u16,
    ingest: u16,
}

impl Stack {
    /// Starts everything.
    pub async fn start() -> Self {
        Self::with(Plan::default()).await
    }

    /// Starts everything with these settings besides the usual ones.
    pub async fn set(settings: &[(&'static str, &str)]) -> Self {
        let settings = settings.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Self::with(Plan { settings, ..Plan::default() }).await
    }

    /// Starts everything as planned.
    ///
    /// # Panics
    /// When a part does not start.
    pub async fn with(plan: Plan) -> Self {
        log::keep();
        let place = PLACES.acquire_many(if plan.alone { STACKS_MAX } else { 1 }).await.expect("a place");
        let (database, redis) = tokio::join!(Database::scratch(), RedisServer::start());
        let postgres = Cable::to(database.host()).await;
        let ports = Ports {
            edge: free_port(),
            another_edge: free_port(),
            worker: free_port(),
            hub: free_port(),
            ingest: free_port(),
        };
        let url = with_address(&database.url(), postgres.address());
        let usual = [
            ("DATABASE_URL", url.expose().to_owned()),
            ("REDIS_URL", redis.url().expose().to_owned()),
            ("REDIS_PREFIX", redis_prefix()),
            ("TRANSCRIPTION_JWT_SECRET", JWT_SECRET.to_owned()),
            ("JWT_SECRET", USER_SECRET.to_owned()),
            ("SERVICE_KEY", SERVICE_KEY.to_owned()),
            ("INTERNAL_TOKEN", "a token of the house".to_owned()),
            ("PORT", ports.edge.to_string()),
            ("METRICS_PORT", "0".to_owned()),
            ("CHAT_PORT", "0".to_owned()),
            ("TRANSLATE_PORT", "0".to_owned()),
            ("SESSION_PORT", "0".to_owned()),
            ("HUB_PORT", ports.hub.to_string()),
            ("HUB_METRICS_PORT", "0".to_owned()),
            ("NOTIFICATION_HUB", format!("http://127.0.0.1:{}", ports.hub)),
            ("RTMP_PORT", ports.ingest.to_string()),
            ("EGRESS_WEBSOCKET_BASE_URL", format!("ws://127.0.0.1:{}/egress/audio", ports.edge)),
            ("RTMP_HOST", "127.0.0.1".to_owned()),
            // Straight at the ingest: nginx chooses its port later.
            ("RTMP_EXTERNAL_PORT", ports.ingest.to_string()),
            ("RTMP_METRICS_PORT", "0".to_owned()),
            ("WORKER_PORT", ports.worker.to_string()),
            ("WORKER_METRICS_PORT", "0".to_owned()),
            ("TRANSCRIPTION_WORKERS", format!("http://127.0.0.1:{}", ports.worker)),
            ("ENGINE_THREADS", "1".to_owned()),
            ("DRAIN_SPREAD_MS", "50".to_owned()),
        ];
        let mut settings: BTreeMap<String, String> =
            usual.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        settings.extend(plan.settings.into_iter().map(|(name, value)| (name.to_owned(), value)));
        let edges = [ports.edge, ports.another_edge];
        let doors = if plan.two_edges { &edges[..] } else { &edges[..1] };
        let (edge, worker, hub, ingest, nginx) = tokio::join!(
            start_edge(settings.clone()),
            start_worker(settings.clone()),
            start_hub(settings.clone()),
            start_ingest(settings.clone()),
            Nginx::start(doors, ports.ingest, plan.handshakes),
        );
        let storage = database.storage();
        Self {
            nginx,
            edge,
            worker,
            hub,
            ingest,
            postgres,
            redis,
            storage,
            ports,
            settings,
            _database: database,
            _place: place,
        }
    }

    /// What the services were told, by the names of the settings.
    pub fn settings(&self) -> &BTreeMap<String, String> {
        &self.settings
    }

    /// A session that nobody has used.
    pub fn room(&self) -> Room {
        Room::new(self.nginx.http_port, self.storage.clone())
    }

    /// A user whom nobody has told anything, at nginx.
    pub fn user(&self) -> User {
        User::new(self.nginx.http_port)
    }

    /// Where the front doors are: through nginx, and the edge without it.
    pub fn doors(&self) -> [u16; 2] {
        [self.nginx.http_port, self.ports.edge]
    }

    /// The URL of a path, through nginx.
    pub fn http(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.nginx.http_port)
    }

    /// The same over TLS.
    pub fn https(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.nginx.https_port)
    }

    /// Where an encoder publishes with this key, through nginx.
    pub fn rtmp(&self, key: &str) -> String {
        format!("rtmp://127.0.0.1:{}/live/{key}", self.nginx.rtmp_port)
    }

    /// Says something to a back end's route with the service key; the status and the JSON.
    ///
    /// # Panics
    /// When nobody answers.
    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let request = reqwest::Client::new().post(self.http(path)).bearer_auth(SERVICE_KEY).json(body);
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.json().await.expect("JSON"))
    }

    /// Starts another edge beside the first, also after it was ended or killed; it and its port.
    pub async fn another_edge(&self) -> (Service, u16) {
        let port = self.ports.another_edge;
        free(port).await;
        let mut settings = self.settings.clone();
        settings.extend(
            [("PORT", port), ("CHAT_PORT", 0), ("TRANSLATE_PORT", 0)]
                .map(|(name, port)| (name.to_owned(), port.to_string())),
        );
        (start_edge(settings).await, port)
    }

    /// Starts the edge again, where it was, after it was ended or killed.
    pub async fn restart_edge(&mut self) {
        free(self.ports.edge).await;
        self.edge = start_edge(self.settings.clone()).await;
    }

    /// Starts the worker again, where it was, after it was ended or killed.
    pub async fn restart_worker(&mut self) {
        free(self.ports.worker).await;
        self.worker = start_worker(self.settings.clone()).await;
    }

    /// Starts the ingest again, where it was, after it was ended or killed.
    pub async fn restart_ingest(&mut self) {
        free(self.ports.ingest).await;
        self.ingest = start_ingest(self.settings.clone()).await;
    }

    /// Starts the hub again, where it was, after it was ended or killed.
    pub async fn restart_hub(&mut self) {
        free(self.ports.hub).await;
        self.hub = start_hub(self.settings.clone()).await;
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- what the services logged\n{}---", log::logged());
        }
    }
}

/// Waits until whoever had the port has let go of it.
async fn free(port: u16) {
    eventually("the port is free", async || TcpListener::bind(("127.0.0.1", port)).await.is_ok()).await;
}

async fn start_edge(settings: BTreeMap<String, String>) -> Service {
    Service::start(|life: Lifecycle| async move {
        let settings = EdgeSettings::read(settings::of(settings)).expect("settings of the edge");
        let running = ws_edge::start(&settings, &life, Clock::system()).await.expect("an edge that starts");
        running.admin_address
    })
    .await
}

async fn start_hub(settings: BTreeMap<String, String>) -> Service {
    Service::start(|life: Lifecycle| async move {
        let settings = HubSettings::read(settings::of(settings)).expect("settings of the hub");
        let running = notification_hub::start(&settings, &life, Clock::system()).await;
        running.expect("a hub that starts").admin_address
    })
    .await
}

async fn start_ingest(settings: BTreeMap<String, String>) -> Service {
    Service::start(|life: Lifecycle| async move {
        let settings = IngestSettings::read(settings::of(settings)).expect("settings of the ingest");
        let running = rtmp_ingest::start(&settings, &life, Clock::system()).await;
        running.expect("an ingest that starts").admin_address
    })
    .await
}

async fn start_worker(settings: BTreeMap<String, String>) -> Service {
    Service::start(|life: Lifecycle| async move {
        let settings = WorkerSettings::read(settings::of(settings)).expect("settings of the worker");
        let running = transcription_worker::start(&settings, &life, Clock::system()).await;
        running.expect("a worker that starts").admin_address
    })
    .await
}
