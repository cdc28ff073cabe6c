//! What time does: brings what is due into the inboxes, takes away what has expired, and deletes what was cleared.

use std::{sync::Arc, time::Duration};

use model::Clock;
use outbox::Bell;
use storage::{Storage, StorageError};
use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;

/// Notifications that were delivered later.
const DELIVERED_TOTAL: &str = "hub_due_delivered_total";

/// Notifications whose time has passed.
const EXPIRED_TOTAL: &str = "hub_expired_total";

/// Longest wait without a look: another hub may have stored something that is due before what we know of.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Wait after a failure of Postgres, in every kind of round.
const BACK_OFF: Duration = Duration::from_secs(1);

/// Rows that one statement deletes of what was cleared.
const PURGE_ROWS: u32 = 2000;

pub(crate) fn register_metrics() {
    metrics::describe_counter!(
        DELIVERED_TOTAL,
        "Notifications that came into an inbox at their delivery time"
    );
    metrics::describe_counter!(EXPIRED_TOTAL, "Notifications that left an inbox when their time had passed");
    metrics::counter!(DELIVERED_TOTAL).absolute(0);
    metrics::counter!(EXPIRED_TOTAL).absolute(0);
}

/// Does what is due, when it is due.
pub(crate) struct Due {
    storage: Storage,
    announce: Bell,
    clock: Clock,
    alarm: Alarm,
    hook: bool,
}

/// Rung when something new will be due. Many rings before the next look are one.
#[derive(Clone, Default)]
pub(crate) struct Alarm(Arc<Notify>);

impl Alarm {
    pub(crate) fn ring(&self) {
        self.0.notify_one();
    }

    /// Waits for a ring.
    pub(crate) async fn heard(&self) {
        self.0.notified().await;
    }

    /// Does `work` again and again until told to drain: after the pause that it asks for, or as soon as the alarm is
    /// heard. After a failure it is only the pause; the first of several is logged as `trouble`.
    pub(crate) async fn rounds<W>(
        &self,
        drain: &CancellationToken,
        trouble: &'static str,
        work: impl Fn() -> W,
    ) where
        W: Future<Output = Result<Duration, StorageError>>,
    {
        let mut failing = false;
        while !drain.is_cancelled() {
            let pause = match work().await {
                Ok(pause) => {
                    failing = false;
                    pause
                }
                Err(error) => {
                    if !failing {
                        tracing::warn!(%error, "{trouble}");
                    }
                    failing = true;
                    BACK_OFF
                }
            };
            tokio::select! {
                () = drain.cancelled() => {}
                () = self.heard(), if !failing => {}
                () = sleep(pause) => {}
            }
        }
    }
}

impl Due {
    pub(crate) fn new(storage: Storage, announce: Bell, clock: Clock, hook: bool) -> Self {
        Self { storage, announce, clock, alarm: Alarm::default(), hook }
    }

    pub(crate) fn alarm(&self) -> Alarm {
        self.alarm.clone()
    }

    /// Works until told to drain.
    pub(crate) async fn run(self, drain: CancellationToken) {
        self.alarm.rounds(&drain, "what is due waits", || self.work(&drain)).await;
    }

    /// Does everything that is due now; how long until there may be more.
    async fn work(&self, drain: &CancellationToken) -> Result<Duration, StorageError> {
        let mut more = true;
        while more && !drain.is_cancelled() {
            let now = self.clock.now();
            let (delivered, delivers_more) = self.storage.deliver_due(now, self.hook).await?;
            let (expired, expires_more) = self.storage.expire_notifications(now, None).await?;
            let purges_more = self.storage.purge_cleared(PURGE_ROWS).await?;
            metrics::counter!(DELIVERED_TOTAL).increment(delivered);
            metrics::counter!(EXPIRED_TOTAL).increment(expired);
            if delivered + expired > 0 {
                self.announce.ring();
            }
            more = delivers_more || expires_more || purges_more;
        }
        let next = self.storage.next_due().await?;
        Ok(next.map_or(POLL_INTERVAL, |at| at.since(self.clock.now()).min(POLL_INTERVAL)))
    }
}
