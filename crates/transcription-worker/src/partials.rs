//! Text of open utterances on its way to followers: fast, and allowed to be lost.

use event_bus::{Event, EventBus};
use lifecycle::Lifecycle;
use model::{Caption, Partial, Topic};
use tokio::sync::mpsc;

/// Partials of all streams that wait for Redis. Two a second come from each stream; when Redis is away they are
/// worthless within a second.
const WAITING_MAX: usize = 128;

/// Partials by what became of them.
const PARTIALS_TOTAL: &str = "worker_partials_total";
/// Values of the label `outcome`.
const OUTCOMES: [&str; 3] = ["published", "dropped", "failed"];

pub(crate) fn register_metrics() {
    metrics::describe_counter!(PARTIALS_TOTAL, "Partials by what became of them");
    for outcome in OUTCOMES {
        metrics::counter!(PARTIALS_TOTAL, "outcome" => outcome).absolute(0);
    }
}

/// Publishes partials in the order they are given. Clones feed the same queue.
#[derive(Clone)]
pub(crate) struct Partials(mpsc::Sender<Partial>);

impl Partials {
    pub(crate) fn start(bus: &EventBus, life: &Lifecycle) -> Self {
        let (sender, mut waiting) = mpsc::channel::<Partial>(WAITING_MAX);
        let (bus, stopping) = (bus.clone(), life.stopping().clone());
        life.spawn_companion("partials", async move {
            loop {
                let partial = tokio::select! {
                    () = stopping.cancelled() => return,
                    partial = waiting.recv() => partial,
                };
                let Some(partial) = partial else {
                    stopping.cancelled().await;
                    return;
                };
                let topic = Topic::Session(partial.session.clone());
                let published = bus.publish(&topic, &Event::Caption(Caption::Partial(partial))).await;
                count(if published.is_ok() { "published" } else { "failed" });
            }
        });
        Self(sender)
    }

    /// Queues a partial, or drops it when too many wait.
    pub(crate) fn publish(&self, partial: Partial) {
        if self.0.try_send(partial).is_err() {
            count("dropped");
        }
    }
}

fn count(outcome: &'static str) {
    metrics::counter!(PARTIALS_TOTAL, "outcome" => outcome).increment(1);
}
