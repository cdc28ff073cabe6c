use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

/// How long [`eventually`] waits. Generous: it ends early when all is well, and a busy machine is no failure.
pub const PATIENCE: Duration = Duration::from_secs(30);

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// What a condition says: `bool`, or `Option` with what was waited for.
pub trait Outcome {
    /// What was waited for.
    type Value;
    /// `None` means: not yet.
    fn into_option(self) -> Option<Self::Value>;
}

impl Outcome for bool {
    type Value = ();
    fn into_option(self) -> Option<()> {
        self.then_some(())
    }
}

impl<T> Outcome for Option<T> {
    type Value = T;
    fn into_option(self) -> Self {
        self
    }
}

/// Asks again and again until the condition holds.
///
/// # Panics
/// After [`PATIENCE`], with `what` was waited for.
pub async fn eventually<O: Outcome>(what: &str, mut condition: impl AsyncFnMut() -> O) -> O::Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match timeout_at(deadline, condition()).await.map(Outcome::into_option) {
            Ok(Some(value)) => return value,
            Ok(None) if Instant::now() < deadline => sleep(POLL_INTERVAL).await,
            _ => panic!("waited {} s in vain: {what}", PATIENCE.as_secs()),
        }
    }
}
