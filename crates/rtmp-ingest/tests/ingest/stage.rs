//! One ingest with everything that it needs.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use auth::StreamKey;
use lifecycle::Lifecycle;
use model::{Clock, SessionSlug};
use rtmp_ingest::{IngestSettings, Running};
use settings::Secret;
use storage::{NewStreamKey, Storage};
use testkit::{Database, redis_settings};
use uuid::Uuid;

use crate::worker::Worker;

pub const JWT_SECRET: &str = "a secret of the tests";

pub struct Stage {
    pub life: Lifecycle,
    pub running: Running,
    pub worker: Worker,
    pub session: SessionSlug,
    pub storage: Storage,
    _database: Database,
}

/// The settings of an ingest in tests.
pub struct Setup {
    pairs: BTreeMap<String, String>,
    database: Database,
}

impl Setup {
    pub async fn new() -> Self {
        let (database, bus) = (Database::scratch().await, redis_settings());
        let mut setup = Self { pairs: BTreeMap::new(), database };
        for (name, value) in [
            ("RTMP_PORT", "0"),
            ("RTMPS_PORT", "0"),
            ("RTMP_METRICS_PORT", "0"),
            ("RTMP_OPEN_KEYS", "true"),
            ("TRANSCRIPTION_JWT_SECRET", JWT_SECRET),
            ("REDIS_URL", bus.url.expose()),
            ("REDIS_PREFIX", &bus.prefix),
            ("DATABASE_CONNECTIONS", "4"),
        ] {
            setup = setup.set(name, value);
        }
        let url = setup.database.url();
        setup.set("DATABASE_URL", url.expose())
    }

    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.pairs.insert(name.to_owned(), value.to_owned());
        self
    }

    pub async fn start(self) -> Stage {
        let life = Lifecycle::default();
        let worker_life = Lifecycle::default();
        let (worker, address) = Worker::start(&worker_life).await;
        let setup = self.set("TRANSCRIPTION_WORKERS", &format!("http://{address}"));
        let settings = IngestSettings::read(settings::of(setup.pairs)).unwrap();
        // What the ingest logs is shown when a test fails, and so should be what the test says: the service's own
        // hook keeps that out of logs.
        let hook = std::panic::take_hook();
        telemetry::init("rtmp-ingest", settings.telemetry());
        std::panic::set_hook(hook);
        let running = rtmp_ingest::start(&settings, &life, Clock::system()).await.unwrap();
        Stage {
            life,
            running,
            worker,
            session: format!("room-{}", Uuid::new_v4().simple()).parse().unwrap(),
            storage: setup.database.storage(),
            _database: setup.database,
        }
    }
}

impl Stage {
    pub async fn start() -> Self {
        Setup::new().await.start().await
    }

    pub fn address(&self) -> SocketAddr {
        self.running.address
    }

    /// Where to publish with this key.
    pub fn url(&self, key: &str) -> String {
        format!("rtmp://{}/live/{key}", self.address())
    }

    /// A registered key of the session.
    pub async fn key(&self, label: &str) -> (Uuid, StreamKey) {
        let (id, key) = (Uuid::new_v4(), StreamKey::generate());
        let new = NewStreamKey {
            id,
            key_sha256: key.sha256(),
            session: self.session.clone(),
            label: Some(label.to_owned()),
            now: Clock::system().now(),
        };
        self.storage.create_stream_key(&new).await.unwrap();
        (id, key)
    }

    /// A token of the session.
    pub fn token(&self, identity: &str) -> String {
        testkit::tokens::good(&Secret::from(JWT_SECRET), &self.session, identity)
    }

    /// The value of a metric, with its labels as they are printed.
    pub async fn metric(&self, name: &str) -> f64 {
        let url = format!("http://{}/metrics", self.running.admin_address);
        let text = reqwest::get(url).await.unwrap().text().await.unwrap();
        let line = text.lines().find(|line| line.split(' ').next() == Some(name));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_default()
    }

    /// Ends it as TERM does.
    pub async fn end(&self) {
        assert_eq!(self.life.end(Duration::from_secs(20)).await, Ok(()));
    }
}
