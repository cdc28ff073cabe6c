use std::{path::PathBuf, process::Stdio};

use event_bus::BusSettings;
use settings::Secret;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};
use uuid::Uuid;

use crate::{Authority, ScratchFolder, environment, eventually, free_port};

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
    tls: Option<Tls>,
}

/// PEM files.
struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    authority: PathBuf,
}

impl RedisServer {
    /// Starts it and waits until it answers.
    ///
    /// # Panics
    /// When there is no `redis-server`, or it does not answer.
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// The same, which speaks nothing but TLS, with a certificate for these names, such as `DNS:localhost`.
    ///
    /// # Panics
    /// As [`RedisServer::start`].
    pub async fn start_with_tls(authority: &Authority, names: &str) -> Self {
        let (certificate, key) = authority.issue(names);
        Self::start_with(Some(Tls { certificate, key, authority: authority.certificate() })).await
    }

    async fn start_with(tls: Option<Tls>) -> Self {
        let mut server = Self { port: free_port(), folder: ScratchFolder::new("redis"), process: None, tls };
        server.restart().await;
        server
    }

    /// Its port of the loopback interface.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Makes it a replica of another one.
    ///
    /// # Panics
    /// When it does not become one.
    pub(crate) async fn follow(&self, primary: &Self) {
        let client = redis::Client::open(self.url().expose()).expect("a Redis URL");
        let mut connection = client.get_multiplexed_async_connection().await.expect("a server that answers");
        let mut told = redis::cmd("REPLICAOF");
        told.arg("127.0.0.1").arg(primary.port);
        told.exec_async(&mut connection).await.expect("a server that becomes a replica");
    }

    /// Where it is, up or down.
    pub fn url(&self) -> Secret {
        match &self.tls {
            None => format!("redis://127.0.0.1:{}/", self.port).into(),
            Some(tls) => {
                format!("rediss://localhost:{}/?sslrootcert={}", self.port, tls.authority.display()).into()
            }
        }
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
        let mut command = Command::new("redis-server");
        match &self.tls {
            None => command.args(["--port", &port]),
            Some(tls) => command
                .args(["--port", "0", "--tls-port", &port, "--tls-auth-clients", "no"])
                .arg("--tls-cert-file")
                .arg(&tls.certificate)
                .arg("--tls-key-file")
                .arg(&tls.key)
                .arg("--tls-ca-cert-file")
                .arg(&tls.authority),
        };
        let process = command
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"])
            .arg(self.folder.path())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("redis-server to be installed");
        self.process = Some(process);
        if self.tls.is_some() {
            let listens = async || TcpStream::connect(("127.0.0.1", self.port)).await.is_ok();
            return eventually("a private redis-server listens", listens).await;
        }
        let client = redis::Client::open(self.url().expose()).expect("a Redis URL");
        eventually("a private redis-server answers", async || {
            let mut connection = client.get_multiplexed_async_connection().await.ok()?;
            redis::cmd("PING").exec_async(&mut connection).await.ok()
        })
        .await;
    }
}
