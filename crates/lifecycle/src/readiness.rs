use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;

/// How long a dependency may take to answer a probe.
const PROBE_LIMIT: Duration = Duration::from_secs(2);

type Probe = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> + Send + Sync>;

/// Whether traffic may come: started, not draining, and every dependency answers. Clones are the same.
#[derive(Clone)]
pub struct Readiness {
    started: Arc<AtomicBool>,
    drain: CancellationToken,
    probes: Vec<(&'static str, Probe)>,
}

impl Readiness {
    /// Not ready until [`Readiness::started`], and again once `drain` is cancelled.
    pub fn new(drain: CancellationToken) -> Self {
        Self { started: Arc::default(), drain, probes: Vec::new() }
    }

    /// Adds a dependency. The error text names what is wrong; it is shown to whoever can reach the admin port.
    #[must_use]
    pub fn with<P, F>(mut self, dependency: &'static str, probe: P) -> Self
    where
        P: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.probes.push((dependency, Arc::new(move || Box::pin(probe()))));
        self
    }

    /// All listeners are open.
    pub fn started(&self) {
        self.started.store(true, Ordering::Release);
    }

    /// What keeps traffic away, by dependency; empty means ready.
    pub async fn faults(&self) -> Vec<(&'static str, String)> {
        if self.drain.is_cancelled() {
            return vec![("service", "draining".to_owned())];
        }
        if !self.started.load(Ordering::Acquire) {
            return vec![("service", "starting".to_owned())];
        }
        let mut faults = Vec::new();
        for (dependency, probe) in &self.probes {
            match tokio::time::timeout(PROBE_LIMIT, probe()).await {
                Ok(Ok(())) => {}
                Ok(Err(fault)) => faults.push((*dependency, fault)),
                Err(_) => faults.push((*dependency, format!("no answer within {} s", PROBE_LIMIT.as_secs()))),
            }
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn readiness_names_what_is_away() {
        let drain = CancellationToken::new();
        let up = Arc::new(AtomicBool::new(false));
        let seen = up.clone();
        let ready = Readiness::new(drain.clone()).with("postgres", move || {
            let up = seen.load(Ordering::SeqCst);
            async move { if up { Ok(()) } else { Err("refused".to_owned()) } }
        });
        assert_eq!(ready.faults().await, [("service", "starting".to_owned())]);
        ready.started();
        assert_eq!(ready.faults().await, [("postgres", "refused".to_owned())]);
        up.store(true, Ordering::SeqCst);
        assert!(ready.faults().await.is_empty());
        drain.cancel();
        assert_eq!(ready.faults().await, [("service", "draining".to_owned())]);
    }
}
