//! Moves committed rows to Redis, at least once.
//!
//! This changes when the way of announcing does. It knows neither SQL nor channels, and must not know what the facts
//! mean. Several relays, one in each process that writes, share the rows without coordination: a row is claimed by
//! one of them, published, and only then deleted. Two of them may publish rows of one topic out of order, and a
//! relay that dies in between leaves rows that are published again; receivers order and deduplicate by sequence.

use std::{sync::Arc, time::Duration};

use event_bus::{BusError, Event, EventBus};
use futures_util::{StreamExt, stream};
use model::{Clock, Topic, TraceContext};
use storage::{Announcement, OutboxClaim, OutboxRow, Storage, StorageError};
use telemetry::Tracer;
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

/// Age of the oldest row that waits, in seconds; 0 when none does.
pub const PENDING_AGE_SECONDS: &str = "outbox_pending_age_seconds";

/// Counts rows that were published.
pub const PUBLISHED_TOTAL: &str = "outbox_published_total";

/// Rows in one claim: few enough to publish them well within the life of a claim, also while Redis is slow.
const CLAIM_ROWS: u32 = 100;

/// Rows that are on their way to Redis at the same time.
const PUBLISHING_MAX: usize = 32;

/// How often rows are looked for that nobody rang for: those of processes that died after their commit.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Wait after a failure of Redis or Postgres: doubles from the first to the last.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// Publishes what the outbox holds. Runs until told to drain.
pub struct Relay {
    storage: Storage,
    bus: EventBus,
    clock: Clock,
    bell: Bell,
    tracer: Tracer,
}

/// Tells a [`Relay`] that a transaction with an outbox row was committed. Cheap to clone, never waits.
#[derive(Debug, Clone, Default)]
pub struct Bell(Arc<Notify>);

impl Bell {
    /// Rings. Many rings before the relay looks are one.
    pub fn ring(&self) {
        self.0.notify_one();
    }
}

/// Registers this crate's metrics at zero.
pub fn describe_metrics() {
    metrics::describe_gauge!(
        PENDING_AGE_SECONDS,
        metrics::Unit::Seconds,
        "Age of the oldest announcement that Redis has not been told"
    );
    metrics::describe_counter!(PUBLISHED_TOTAL, "Announcements that Redis was told");
    metrics::gauge!(PENDING_AGE_SECONDS).set(0.0);
    metrics::counter!(PUBLISHED_TOTAL).absolute(0);
}

#[derive(Debug, thiserror::Error)]
enum RelayError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Bus(#[from] BusError),
}

impl Relay {
    /// A relay between these two.
    pub fn new(storage: Storage, bus: EventBus) -> Self {
        Self { storage, bus, clock: Clock::system(), bell: Bell::default(), tracer: Tracer::default() }
    }

    /// The same, which goes on with the traces of what it publishes.
    pub fn traced(self, tracer: Tracer) -> Self {
        Self { tracer, ..self }
    }

    /// What to ring after a commit.
    pub fn ring(&self) -> Bell {
        self.bell.clone()
    }

    /// Publishes rows as they come until `drain` is cancelled, then what is there, once, and returns; cancel it after
    /// the last commit. While Redis or Postgres is away the rows stay where they are.
    pub async fn run(self, drain: CancellationToken) {
        let mut failures: u32 = 0;
        let mut measured: Option<Instant> = None;
        loop {
            let last = drain.is_cancelled();
            match self.empty().await {
                Ok(()) => {
                    if failures > 0 {
                        tracing::info!("the outbox moves again");
                    }
                    failures = 0;
                }
                Err(error) => {
                    if failures == 0 {
                        tracing::warn!(%error, "the outbox waits");
                    }
                    failures = failures.saturating_add(1);
                }
            }
            if measured.is_none_or(|at| at.elapsed() >= POLL_INTERVAL) {
                self.measure().await;
                measured = Some(Instant::now());
            }
            if last {
                return;
            }
            // A ring while something is away changes nothing; a ring while all is well ends the wait.
            let wake = async {
                match failures {
                    0 => self.bell.0.notified().await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                () = drain.cancelled() => {}
                () = wake => {}
                () = sleep(pause(failures)) => {}
            }
        }
    }

    /// Publishes every row there is that no other relay has claimed.
    async fn empty(&self) -> Result<(), RelayError> {
        loop {
            let claim = self.storage.claim_outbox(CLAIM_ROWS).await?;
            let claimed = claim.rows().len();
            let (published, outcome) = self.publish(&claim).await;
            claim.settle(published).await?;
            metrics::counter!(PUBLISHED_TOTAL).increment(published as u64);
            outcome?;
            if claimed < CLAIM_ROWS as usize {
                return Ok(());
            }
        }
    }

    /// Publishes the claimed rows in their order; how many were, up to the first that was not.
    async fn publish(&self, claim: &OutboxClaim) -> (usize, Result<(), BusError>) {
        // Owned, since the compiler cannot see that a stream of borrowing futures may change threads.
        let announcements: Vec<_> = claim.rows().iter().map(|row| (row.trace, announcement(row))).collect();
        let publish = async |(trace, (topic, event)): (Option<TraceContext>, (Topic, Event))| {
            self.tracer.within(trace, self.bus.publish(&topic, &event)).await
        };
        let publishing = announcements.into_iter().map(publish);
        let mut outcomes = stream::iter(publishing).buffered(PUBLISHING_MAX);
        let mut published = 0;
        while let Some(outcome) = outcomes.next().await {
            if let Err(error) = outcome {
                return (published, Err(error));
            }
            published += 1;
        }
        (published, Ok(()))
    }

    async fn measure(&self) {
        // What Postgres does not tell was warned of by whoever asked it before; the gauge then keeps its value.
        if let Ok(oldest) = self.storage.outbox_oldest().await {
            let age = oldest.map_or(Duration::ZERO, |at| self.clock.now().since(at));
            metrics::gauge!(PENDING_AGE_SECONDS).set(age.as_secs_f64());
        }
    }
}

/// What followers of the row's topic are told.
fn announcement(row: &OutboxRow) -> (Topic, Event) {
    let event = match row.announcement.clone() {
        Announcement::Entry(entry) => Event::Caption(entry.into()),
        Announcement::Notification { notification, unread } => Event::Notification { notification, unread },
        Announcement::Change(change) => Event::NotificationChanged(change),
        Announcement::Message(message) => Event::Message(message),
        Announcement::App(event) => Event::App(event),
    };
    (row.topic.clone(), event)
}

/// How long to wait for a ring after so many failures in a row.
fn pause(failures: u32) -> Duration {
    let (first, longest) = BACK_OFF;
    match failures.checked_sub(1) {
        None => POLL_INTERVAL,
        Some(earlier) => first.saturating_mul(2_u32.saturating_pow(earlier)).min(longest),
    }
}
