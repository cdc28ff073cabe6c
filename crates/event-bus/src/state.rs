use std::time::Duration;

use model::{Clock, StreamState, StreamStatus, Topic};
use tokio::{sync::watch, time::sleep};

use crate::{Event, EventBus};

impl EventBus {
    /// Tells the followers of a session, on every edge, how a stream does: at each change of `status`, and again after
    /// `interval`, since the bus may lose it. Ends, after a last word, when the sender of `status` does.
    pub async fn tell_state(
        &self,
        mut status: watch::Receiver<StreamStatus>,
        interval: Duration,
        clock: &Clock,
    ) {
        loop {
            let alive = tokio::select! {
                changed = status.changed() => changed.is_ok(),
                () = sleep(interval) => true,
            };
            let mut told = status.borrow_and_update().clone();
            if !alive {
                told.state = StreamState::Stopped;
            }
            told.at = clock.now();
            let topic = Topic::Session(told.session.clone());
            if let Err(error) = self.publish(&topic, &Event::Status(told)).await {
                tracing::debug!(%error, "publish a stream's state");
            }
            if !alive {
                return;
            }
        }
    }
}
