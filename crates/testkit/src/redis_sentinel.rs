use std::{collections::HashMap, fs, process::Stdio};

use settings::Secret;
use tokio::process::{Child, Command};

use crate::{RedisServer, ScratchFolder, eventually, free_port};

/// What Sentinel calls the primary.
const PRIMARY: &str = "main";

/// A Redis with a replica, and a Sentinel that makes the replica the primary when the primary is gone.
pub struct RedisSentinel {
    primary: RedisServer,
    _replica: RedisServer,
    port: u16,
    _folder: ScratchFolder,
    _process: Child,
}

impl RedisSentinel {
    /// Starts all of them and waits until Sentinel would know what to do.
    ///
    /// # Panics
    /// When there is no `redis-server`, or they do not come together.
    pub async fn start() -> Self {
        let (primary, replica) = (RedisServer::start().await, RedisServer::start().await);
        replica.follow(&primary).await;
        let (folder, port) = (ScratchFolder::new("sentinel"), free_port());
        // Sentinel keeps what it knows in its configuration.
        let config = folder.path().join("sentinel.conf");
        let known = format!(
            "port {port}\nbind 127.0.0.1\nsentinel monitor {PRIMARY} 127.0.0.1 {} 1\n\
             sentinel down-after-milliseconds {PRIMARY} 1000\nsentinel failover-timeout {PRIMARY} 5000\n",
            primary.port()
        );
        fs::write(&config, known).expect("a file in a scratch folder");
        let process = Command::new("redis-server")
            .arg(&config)
            .args(["--sentinel", "--dir"])
            .arg(folder.path())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("redis-server to be installed");
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}/")).expect("a Redis URL");
        eventually("Sentinel knows the replica, which has what the primary has", async || {
            let mut connection = client.get_multiplexed_async_connection().await.ok()?;
            let mut asked = redis::cmd("SENTINEL");
            asked.arg("REPLICAS").arg(PRIMARY);
            let replicas: Vec<HashMap<String, String>> = asked.query_async(&mut connection).await.ok()?;
            replicas
                .iter()
                .any(|one| one.get("master-link-status").is_some_and(|status| status == "ok"))
                .then_some(())
        })
        .await;
        Self { primary, _replica: replica, port, _folder: folder, _process: process }
    }

    /// Where Sentinel is, behind an address at which nobody is.
    pub fn url(&self) -> Secret {
        format!("redis+sentinel://127.0.0.1:1,127.0.0.1:{}/{PRIMARY}", self.port).into()
    }

    /// `kill -9` of the first primary.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub async fn kill_primary(&mut self) {
        self.primary.kill().await;
    }
}
