use std::time::Duration;

use model::{Clock, StreamState, StreamStatus, Topic};
use tokio::{sync::watch, time::sleep};

use crate::{Event, EventBus};

impl EventBus {
    /// Tells the followers of a session, on every edge, how a stream does: at each change of `state`, and again after
    /// `interval`, since the bus may lose it. Ends, after a last word, when the sender of `state` does.
    pub async fn tell_state(
        &self,
        mut status: StreamStatus,
        mut state: watch::Receiver<StreamState>,
        interval: Duration,
        clock: &Clock,
    ) {
        let topic = Topic::Session(status.session.clone());
        loop {
            let alive = tokio::select! {
                changed = state.changed() => changed.is_ok(),
                () = sleep(interval) => true,
            };
            status.state = if alive { *state.borrow_and_update() } else { StreamState::Stopped };
            status.at = clock.now();
            if let Err(error) = self.publish(&topic, &Event::Status(status.clone())).await {
                tracing::debug!(%error, "publish a stream's state");
            }
            if !alive {
                return;
            }
        }
    }
}
