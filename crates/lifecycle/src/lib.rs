//! How a service lives and ends: signals, a drain in two stages, tracked tasks, readiness, the admin listener.
//!
//! This changes when the platform's idea of a well-behaved process does. It knows nothing of what the tasks do.
//!
//! The order of an end is: not ready, drain (stop accepting, finish what is open), stop (give up what is left).

mod admin;
mod healthcheck;
mod process;
mod readiness;

use std::{
    future::Future,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use telemetry::{TelemetrySettings, Tracer};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use admin::{AdminPage, serve_admin, serve_admin_with};
pub use healthcheck::{Unhealthy, healthcheck};
pub use process::{Service, run_service};
pub use readiness::Readiness;

/// After the hard stop, how long tasks have to notice before the process leaves without them.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// A critical task ended while the service should have gone on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} ended unexpectedly; the process drained")]
pub struct CriticalTaskEnded(&'static str);

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("listen on {address} ({setting}): {source}")]
pub struct ListenError {
    address: SocketAddr,
    setting: &'static str,
    source: std::io::Error,
}

/// Opens a listener, with an error that names the setting to change.
///
/// # Errors
/// The port is taken, or the address is not ours.
pub async fn listen(
    setting: &'static str,
    address: SocketAddr,
) -> Result<tokio::net::TcpListener, ListenError> {
    let listener = tokio::net::TcpListener::bind(address).await;
    let listener = listener.map_err(|source| ListenError { address, setting, source })?;
    tracing::info!(setting, address = %listener.local_addr().unwrap_or(address), "listening");
    Ok(listener)
}

/// The life of one service. Clones are the same life.
#[derive(Debug, Clone)]
pub struct Lifecycle {
    drain: CancellationToken,
    stop: CancellationToken,
    tasks: TaskTracker,
    companions: TaskTracker,
    /// Cancelled when all of these have ended.
    ended: CancellationToken,
    last: TaskTracker,
    failure: Arc<OnceLock<CriticalTaskEnded>>,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self {
            drain: CancellationToken::new(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            companions: TaskTracker::new(),
            ended: CancellationToken::new(),
            last: TaskTracker::new(),
            failure: Arc::default(),
        }
    }
}

impl Lifecycle {
    /// Runs a task that the end of the service waits for.
    pub fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) {
        // A handle that nobody awaits hides nothing: the tracker waits, and panics are logged by the hook.
        drop(self.tasks.spawn(task));
    }

    /// Runs a task that the process cannot live without: its end or panic before the drain starts one, and the
    /// process then exits with a failure. The end of the service waits for it as for any task.
    pub fn spawn_critical(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let guard = EndGuard { name, life: self.clone(), allowed: self.drain.clone() };
        self.spawn(async move {
            let _guard = guard;
            task.await;
        });
    }

    /// Runs a critical task that serves the others while they drain (the admin listener, the outbox relay). It
    /// must end when [`Lifecycle::stopping`] is cancelled, and not before.
    pub fn spawn_companion(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let guard = EndGuard { name, life: self.clone(), allowed: self.stop.clone() };
        drop(self.companions.spawn(async move {
            let _guard = guard;
            task.await;
        }));
    }

    /// Makes the spans of this service, as its settings say, and has the last of them taken when everything has ended.
    /// Call it inside of a runtime.
    pub fn trace(&self, service: &'static str, settings: &TelemetrySettings) -> Tracer {
        let tracer = Tracer::start(service, settings);
        if tracer.is_on() {
            let (last, ended) = (tracer.clone(), self.ended.clone());
            drop(self.last.spawn(async move {
                ended.cancelled().await;
                last.flush().await;
            }));
        }
        tracer
    }

    /// Cancelled when the service should accept nothing new and finish what is open.
    pub fn draining(&self) -> &CancellationToken {
        &self.drain
    }

    /// Cancelled when what is still open must be given up.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    /// Starts the drain.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Serves until TERM, INT or a failure, then drains for at most `drain_limit`. A second signal stops at once.
    ///
    /// # Errors
    /// The critical task whose end was the reason.
    pub async fn run(&self, drain_limit: Duration) -> Result<(), CriticalTaskEnded> {
        tokio::select! {
            () = terminate() => tracing::info!("asked to end; draining"),
            () = self.drain.cancelled() => {}
        }
        tokio::select! {
            ended = self.end(drain_limit) => ended,
            () = terminate() => self.end(Duration::ZERO).await,
        }
    }

    /// Drains for at most `drain_limit`, then stops what is left.
    ///
    /// # Errors
    /// The critical task whose end was the reason.
    pub async fn end(&self, drain_limit: Duration) -> Result<(), CriticalTaskEnded> {
        self.drain.cancel();
        self.tasks.close();
        if tokio::time::timeout(drain_limit, self.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = self.tasks.len(), "the drain took too long; stopping");
        }
        self.stop.cancel();
        self.companions.close();
        let all = async { tokio::join!(self.tasks.wait(), self.companions.wait()) };
        if tokio::time::timeout(STOP_GRACE, all).await.is_err() {
            let tasks = self.tasks.len() + self.companions.len();
            tracing::error!(tasks, "tasks did not stop; leaving without them");
        }
        self.ended.cancel();
        self.last.close();
        // Each has its own limit.
        self.last.wait().await;
        tracing::info!("ended");
        self.failure.get().cloned().map_or(Ok(()), Err)
    }
}

/// Drains the service when it is dropped before its task was allowed to end.
struct EndGuard {
    name: &'static str,
    life: Lifecycle,
    allowed: CancellationToken,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        if !self.allowed.is_cancelled() {
            tracing::error!(task = self.name, "a critical task ended; draining");
            self.life.failure.get_or_init(|| CriticalTaskEnded(self.name));
            self.life.drain.cancel();
        }
    }
}

/// Waits for TERM or INT.
async fn terminate() {
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut term), Ok(mut interrupt)) => {
            tokio::select! {
                _ = term.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        // Without handlers the default action of the signals ends the process anyway.
        _ => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_waits_for_tasks_and_then_stops_them() {
        let life = Lifecycle::default();
        let (finished, stopped) = (Arc::new(OnceLock::new()), Arc::new(OnceLock::new()));
        let (drain, seen) = (life.draining().clone(), finished.clone());
        life.spawn(async move {
            drain.cancelled().await;
            seen.set(()).unwrap();
        });
        let (stop, seen) = (life.stopping().clone(), stopped.clone());
        life.spawn(async move {
            stop.cancelled().await;
            seen.set(()).unwrap();
        });
        assert_eq!(life.end(Duration::from_millis(50)).await, Ok(()));
        assert!(finished.get().is_some() && stopped.get().is_some());
    }

    #[tokio::test]
    async fn a_critical_task_that_panics_ends_the_service() {
        let life = Lifecycle::default();
        life.spawn_critical("subscriber", async { panic!("lost") });
        assert_eq!(life.run(Duration::from_secs(5)).await, Err(CriticalTaskEnded("subscriber")));
    }

    #[tokio::test]
    async fn a_critical_task_may_end_after_the_drain_began() {
        let life = Lifecycle::default();
        let drain = life.draining().clone();
        life.spawn_critical("relay", async move { drain.cancelled().await });
        life.drain();
        assert_eq!(life.run(Duration::from_secs(5)).await, Ok(()));
    }
}
