//! Ways out of the house: web push to users who have no connection open, and the hooks. What is to go out was written
//! down in the transaction that stored the notification, or in which something happened in a session, and stays until it
//! has arrived, so it arrives at least once; receivers deduplicate by its id.

use std::{pin::pin, time::Duration};

use event_bus::EventBus;
use futures_util::{StreamExt, stream};
use model::{Clock, Notification};
use storage::{Delivery, Queue, SessionEventKind, Storage, StorageError, Way};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::{
    due::Alarm,
    hook::{self, Hook, Hooked},
    push::{Push, Pushed},
    session_hook,
};

/// Deliveries by `way` and `outcome`.
const DELIVERIES_TOTAL: &str = "hub_deliveries_total";

/// Values of the label `outcome`: it arrived; the user sees it anyway; nobody wants it; it will be tried again; it
/// was given up.
const OUTCOMES: [&str; 5] = ["arrived", "seen", "unwanted", "postponed", "given_up"];

/// Deliveries in one claim; all of them are on their way within the claim's minute.
const CLAIM_DELIVERIES: u32 = 32;

/// Deliveries on their way at a time.
const UNDER_WAY_MAX: usize = 8;

/// Longest wait without a look.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Wait before the next attempt: doubles from the first to the last. With [`ATTEMPTS_MAX`] about five hours in all.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3600));

/// After so many attempts a delivery is given up.
const ATTEMPTS_MAX: u32 = 14;

pub(crate) fn register_metrics() {
    metrics::describe_counter!(DELIVERIES_TOTAL, "Ways out of the house, by how they went");
    for way in [Way::Push, Way::Hook, Way::Session] {
        for outcome in OUTCOMES {
            metrics::counter!(DELIVERIES_TOTAL, "way" => way.label(), "outcome" => outcome).absolute(0);
        }
    }
}

/// Carries out what has to go out.
pub(crate) struct Outward {
    pub(crate) storage: Storage,
    pub(crate) bus: EventBus,
    pub(crate) clock: Clock,
    pub(crate) push: Option<std::sync::Arc<Push>>,
    pub(crate) hook: Option<Hook>,
    pub(crate) sessions: Option<SessionWay>,
    /// Set once Postgres knows which events of sessions are wanted.
    pub(crate) told: OnceCell<()>,
    /// Rung when a notification was published. Other processes write what happens in sessions and ring nobody: that is
    /// found by looking.
    pub(crate) alarm: Alarm,
}

/// The way of what happens in sessions.
pub(crate) struct SessionWay {
    pub(crate) hook: Hook,
    /// What the hook wants to hear of.
    pub(crate) events: Vec<SessionEventKind>,
    /// Where clients find us.
    pub(crate) public_url: String,
}

/// What came of one attempt.
enum Outcome {
    Over(&'static str),
    Again,
}

impl From<Hooked> for Outcome {
    fn from(hooked: Hooked) -> Self {
        match hooked {
            Hooked::Told => Self::Over("arrived"),
            Hooked::Refused => Self::Over("unwanted"),
            Hooked::Later => Self::Again,
        }
    }
}

impl Outward {
    /// Works until told to drain. What is under way then is finished; what is not done is done by the next hub.
    pub(crate) async fn run(self, drain: CancellationToken) {
        let unrung = Alarm::default();
        tokio::join!(
            self.alarm
                .rounds(&drain, "ways out of the house wait", || self.work(Queue::Notifications, &drain)),
            unrung.rounds(&drain, "the hook of sessions waits", || self.tell_of_sessions(&drain)),
        );
    }

    async fn tell_of_sessions(&self, drain: &CancellationToken) -> Result<Duration, StorageError> {
        let events = self.sessions.as_ref().map_or(&[][..], |sessions| &sessions.events);
        self.told.get_or_try_init(|| self.storage.tell_session_events(events)).await?;
        self.work(Queue::Sessions, drain).await
    }

    /// Tries everything of a queue that is due now, and begins nothing more once told to drain; how long until there may
    /// be more.
    async fn work(&self, queue: Queue, drain: &CancellationToken) -> Result<Duration, StorageError> {
        let claimed = self.storage.claim_deliveries(queue, self.clock.now(), CLAIM_DELIVERIES).await?;
        let count = claimed.len();
        let attempts = stream::iter(claimed.into_iter().map(|delivery| self.attempt(delivery)))
            .take_until(drain.cancelled())
            .buffer_unordered(UNDER_WAY_MAX);
        let mut attempts = pin!(attempts);
        while let Some(attempted) = attempts.next().await {
            attempted?;
        }
        if count == CLAIM_DELIVERIES as usize {
            return Ok(Duration::ZERO);
        }
        let next = self.storage.next_delivery(queue).await?;
        Ok(next.map_or(POLL_INTERVAL, |at| at.since(self.clock.now()).min(POLL_INTERVAL)))
    }

    async fn attempt(&self, delivery: Delivery) -> Result<(), StorageError> {
        let outcome = match (delivery.way, &delivery.notification) {
            (Way::Session, _) => self.session(delivery.id).await?,
            // Deleted or replaced meanwhile.
            (_, None) => Outcome::Over("unwanted"),
            (Way::Push, Some(notification)) => self.push(notification).await?,
            (Way::Hook, Some(notification)) => self.hook(notification).await,
        };
        let outcome = match outcome {
            Outcome::Over(outcome) => {
                self.storage.settle_delivery(delivery.id).await?;
                outcome
            }
            Outcome::Again if delivery.attempts >= ATTEMPTS_MAX => {
                tracing::error!(way = delivery.way.label(), "a delivery is given up");
                self.storage.settle_delivery(delivery.id).await?;
                "given_up"
            }
            Outcome::Again => {
                let until = self.clock.now().after(pause(delivery.attempts));
                self.storage.postpone_delivery(delivery.id, until).await?;
                "postponed"
            }
        };
        metrics::counter!(DELIVERIES_TOTAL, "way" => delivery.way.label(), "outcome" => outcome).increment(1);
        Ok(())
    }

    async fn push(&self, notification: &Notification) -> Result<Outcome, StorageError> {
        let Some(push) = &self.push else { return Ok(Outcome::Over("unwanted")) };
        if notification.is_read || self.present(notification).await {
            return Ok(Outcome::Over("seen"));
        }
        let mut outcome = Outcome::Over("unwanted");
        for subscription in self.storage.push_subscriptions(&notification.user).await? {
            match push.send(&subscription, notification, self.clock.now()).await {
                Pushed::Sent if matches!(outcome, Outcome::Over(_)) => outcome = Outcome::Over("arrived"),
                Pushed::Sent => {}
                Pushed::Later => outcome = Outcome::Again,
                Pushed::Gone => {
                    self.storage.remove_push(&notification.user, &subscription.endpoint).await?;
                }
                Pushed::Refused => tracing::warn!("a push service refused a message for good"),
            }
        }
        Ok(outcome)
    }

    async fn hook(&self, notification: &Notification) -> Outcome {
        let Some(hook) = &self.hook else { return Outcome::Over("unwanted") };
        let present = self.present(notification).await;
        let body = hook::notification_body(notification, present);
        hook.tell(notification.id.0, &body, self.clock.now()).await.into()
    }

    async fn session(&self, delivery: i64) -> Result<Outcome, StorageError> {
        let Some(sessions) = &self.sessions else { return Ok(Outcome::Over("unwanted")) };
        // Read as late as this, so that what was deleted meanwhile is not sent.
        let Some(event) = self.storage.session_event(delivery).await? else {
            return Ok(Outcome::Over("unwanted"));
        };
        let body = session_hook::body(&event, &sessions.public_url);
        Ok(sessions.hook.tell(event.id, &body, self.clock.now()).await.into())
    }

    /// Whether the user has a connection open. Without an answer of Redis rather woken twice than never.
    async fn present(&self, notification: &Notification) -> bool {
        self.bus.is_present(&notification.user, self.clock.now()).await.unwrap_or(false)
    }
}

/// How long to wait after so many attempts.
fn pause(attempts: u32) -> Duration {
    let (first, longest) = BACK_OFF;
    first.saturating_mul(2_u32.saturating_pow(attempts.saturating_sub(1))).min(longest)
}
