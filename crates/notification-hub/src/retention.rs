//! Forgets what is kept no longer.

use std::time::Duration;

use model::Clock;
use outbox::Bell;
use storage::{Storage, StorageError};
use tokio::time::sleep;

use crate::Retention;

/// How often it is looked for.
const INTERVAL: Duration = Duration::from_secs(600);

/// Announcements that no relay could publish: of a release that was rolled back, say.
const OUTBOX_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Times that forgetting failed.
const FAILED_TOTAL: &str = "hub_retention_failed_total";

/// Notifications that were forgotten for their age.
const FORGOTTEN_TOTAL: &str = "hub_forgotten_total";

pub(crate) fn register_metrics() {
    metrics::describe_counter!(FAILED_TOTAL, "Times that forgetting what is old failed");
    metrics::describe_counter!(FORGOTTEN_TOTAL, "Notifications that left an inbox for their age");
    metrics::counter!(FAILED_TOTAL).absolute(0);
    metrics::counter!(FORGOTTEN_TOTAL).absolute(0);
}

/// Forgets what is old now and then, for ever.
pub(crate) async fn keep(retention: Retention, storage: Storage, announce: Bell, clock: Clock) {
    loop {
        if let Err(error) = forget(&retention, &storage, &announce, &clock).await {
            metrics::counter!(FAILED_TOTAL).increment(1);
            tracing::warn!(%error, "forget what is old");
        }
        sleep(INTERVAL).await;
    }
}

/// Each statement is short, so that nobody waits for it.
async fn forget(
    retention: &Retention,
    storage: &Storage,
    announce: &Bell,
    clock: &Clock,
) -> Result<(), StorageError> {
    let now = clock.now();
    let before = |life: Duration| now.before(life);
    while storage.forget_idempotency_keys(now).await? {}
    while storage.forget_topic_events(before(retention.events)).await? {}
    while storage.forget_outbox(before(OUTBOX_LIFE)).await? {}
    if let Some(life) = retention.messages {
        while storage.forget_messages(before(life)).await? {}
    }
    if let Some(life) = retention.finals {
        while storage.forget_finals(before(life)).await? {}
        while storage.forget_sessions(before(life)).await? {}
    }
    if let Some(life) = retention.notifications {
        loop {
            let (forgotten, more) = storage.expire_notifications(now, Some(before(life))).await?;
            metrics::counter!(FORGOTTEN_TOTAL).increment(forgotten);
            if forgotten > 0 {
                announce.ring();
            }
            if !more {
                break;
            }
        }
    }
    Ok(())
}
