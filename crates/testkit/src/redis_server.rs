use std::process::Stdio;

use event_bus::BusSettings;
use settings::Secret;
use tokio::process::{Child, Command};
use uuid::Uuid;

use crate::{ScratchFolder, environment, eventually, free_port};

/// A prefix that no other test has.
pub fn redis_prefix() -> String {
    format!("test-{}", Uuid::new_v4().simple())
}

/// The Redis server that tests share.
///
/// # Panics
/// When `PARLEY_TEST_REDIS_URL` is not set.
pub fn redis_url() -> Secret {
    environment::required(environment::REDIS_URL)
}

/// The shared Redis server with a prefix of one's own.
///
/// # Panics
/// As [`redis_url`].
pub fn redis_settings() -> BusSettings {
    let prefix = redis_prefix();
    let others = Some(format!("{prefix}-ws:"));
    BusSettings { url: redis_url(), prefix, others }
}

/// A Redis server of one's own, to kill. Keeps nothing on disk.
pub struct RedisServer {
    port: u16,
    folder: ScratchFolder,
    process: Option<Child>,
}

impl RedisServer {
    /// Starts it and waits until it answers.
    ///
    /// # Panics
    /// When there is no `redis-server`, or it does not answer.
    pub async fn start() -> Self {
        let mut server = Self { port: free_port(), folder: ScratchFolder::new("redis"), process: None };
        server.restart().await;
        server
    }

    /// Where it is, up or down.
    pub fn url(&self) -> Secret {
        format!("redis://127.0.0.1:{}/", self.port).into()
    }

    /// `kill -9`, and waits until it is gone.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub async fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().await.expect("redis-server to be killed");
        }
    }

    /// Starts it on the same port, after killing it if need be, and waits until it answers.
    ///
    /// # Panics
    /// As [`RedisServer::start`].
    pub async fn restart(&mut self) {
        self.kill().await;
        let port = self.port.to_string();
        let process = Command::new("redis-server")
            .args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"])
            .arg(self.folder.path())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("redis-server to be installed");
        self.process = Some(process);
        let client = redis::Client::open(self.url().expose()).expect("a Redis URL");
        eventually("a private redis-server answers", async || {
            let mut connection = client.get_multiplexed_async_connection().await.ok()?;
            redis::cmd("PING").exec_async(&mut connection).await.ok()
        })
        .await;
    }
}
