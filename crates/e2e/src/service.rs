use std::{future::Future, net::SocketAddr, time::Duration};

use lifecycle::Lifecycle;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

/// Threads for the tasks of one service. Two, so that a task that blocks one is noticed by its slowness only.
const THREADS: usize = 2;

/// How long a drain may take in tests.
const DRAIN_LIMIT: Duration = Duration::from_secs(25);

/// A service with a runtime of its own, so that it can be killed as a process can.
pub struct Service {
    /// Its life; to drain it while somebody watches.
    pub life: Lifecycle,
    admin_address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Service {
    /// Starts what `serve` starts and waits for the address of its admin listener.
    ///
    /// # Panics
    /// When it does not start.
    pub(crate) async fn start<F>(serve: impl FnOnce(Lifecycle) -> F) -> Self
    where
        F: Future<Output = SocketAddr> + Send + 'static,
    {
        let runtime =
            Builder::new_multi_thread().worker_threads(THREADS).enable_all().build().expect("a runtime");
        let life = Lifecycle::default();
        let admin_address = runtime.spawn(serve(life.clone())).await.expect("a service that starts");
        Self { life, admin_address, runtime: Some(runtime) }
    }

    /// What `/readyz` says: the status, and the names of what is away.
    ///
    /// # Panics
    /// When nobody answers.
    pub async fn readiness(&self) -> (u16, Vec<String>) {
        let answer = reqwest::get(format!("http://{}/readyz", self.admin_address)).await.expect("an answer");
        let status = answer.status().as_u16();
        let body: Value = answer.json().await.expect("JSON");
        let faults = body["faults"].as_object().expect("faults by name");
        (status, faults.keys().cloned().collect())
    }

    /// Drains it to its end, as TERM does.
    ///
    /// # Panics
    /// When it fails.
    pub async fn end(&mut self) {
        let life = self.life.clone();
        let runtime = self.runtime.take().expect("a service that runs");
        let ended = runtime.spawn(async move { life.end(DRAIN_LIMIT).await }).await.expect("a drain");
        runtime.shutdown_background();
        assert_eq!(ended, Ok(()));
    }

    /// Drops all it has at once, as `kill -9` does: tasks where they are, connections without a word.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.kill();
    }
}
