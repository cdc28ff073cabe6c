//! Whether a service is worth asking: after some failures in a row it is left alone, then tried once, and so on. Pure: the
//! time is an argument.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Failures in a row after which a service is left alone.
const FAILURES_MAX: u32 = 5;

/// How long it is left alone: doubles from the first to the last while it fails.
const LEFT_ALONE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// When to look again whether the call that tries a service has got an answer.
const TRIED_AGAIN: Duration = Duration::from_millis(250);

#[derive(Default)]
pub(crate) struct Circuit(Mutex<State>);

#[derive(Default)]
struct State {
    /// In a row.
    failures: u32,
    /// While it is left alone, or one call tries it: until then nobody else asks.
    open_until: Option<Instant>,
    /// Whether one call tries it.
    tried: bool,
}

/// Leave to ask. When it is dropped without a word, as by a caller that gave up, nothing is learned.
pub(crate) struct Pass<'a>(&'a Circuit);

impl Circuit {
    /// Leave to ask, or when to try again. `limit` is how long the call may take, during which, when the service had failed,
    /// nobody else asks.
    pub(crate) fn pass(&self, now: Instant, limit: Duration) -> Result<Pass<'_>, Instant> {
        let mut state = self.lock();
        if let Some(until) = state.open_until {
            if now < until {
                return Err(if state.tried { until.min(now + TRIED_AGAIN) } else { until });
            }
            (state.open_until, state.tried) = (Some(now + limit), true);
        }
        Ok(Pass(self))
    }

    /// Until when the service is left alone.
    pub(crate) fn open_until(&self, now: Instant) -> Option<Instant> {
        self.lock().open_until.filter(|until| now < *until)
    }

    /// Never held over an await.
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass<'_> {
    /// The service has answered, whatever it said.
    pub(crate) fn answered(self) {
        let mut state = self.0.lock();
        if state.open_until.take().is_some() {
            tracing::info!("the translator answers again");
        }
        (state.failures, state.tried) = (0, false);
    }

    /// It has not, or not in time. True when it is left alone from now on.
    pub(crate) fn failed(self, now: Instant) -> bool {
        let mut state = self.0.lock();
        state.failures = state.failures.saturating_add(1);
        let Some(beyond) = state.failures.checked_sub(FAILURES_MAX) else { return false };
        let (first, longest) = LEFT_ALONE;
        let pause = first.saturating_mul(2_u32.saturating_pow(beyond)).min(longest);
        if beyond == 0 {
            tracing::warn!(failures = state.failures, "the translator fails and is left alone for a while");
        }
        (state.open_until, state.tried) = (Some(now + pause), false);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn fail(circuit: &Circuit, now: Instant) -> bool {
        circuit.pass(now, LIMIT).ok().unwrap().failed(now)
    }

    #[test]
    fn a_service_that_fails_is_tried_by_one_call_at_a_time() {
        let (circuit, now) = (Circuit::default(), Instant::now());
        for failure in 1..FAILURES_MAX {
            assert!(!fail(&circuit, now), "{failure}");
        }
        circuit.pass(now, LIMIT).ok().unwrap().answered();
        for _ in 1..FAILURES_MAX {
            assert!(!fail(&circuit, now), "an answer begins the count anew");
        }
        assert!(fail(&circuit, now));
        assert!(circuit.pass(now, LIMIT).is_err());
        let now = now + LEFT_ALONE.0;
        let probe = circuit.pass(now, LIMIT).ok().unwrap();
        let again = circuit.pass(now, LIMIT).err();
        assert_eq!(again, Some(now + TRIED_AGAIN), "one is enough, and may have its answer soon");
        assert!(probe.failed(now));
        let now = now + LEFT_ALONE.0;
        assert!(circuit.pass(now, LIMIT).is_err(), "left alone for longer");
        let now = now + LEFT_ALONE.0;
        circuit.pass(now, LIMIT).ok().unwrap().answered();
        assert!(circuit.pass(now, LIMIT).is_ok() && circuit.pass(now, LIMIT).is_ok());
    }

    #[test]
    fn a_probe_that_was_given_up_keeps_nobody_out_for_ever() {
        let (circuit, now) = (Circuit::default(), Instant::now());
        for _ in 0..FAILURES_MAX {
            fail(&circuit, now);
        }
        let now = now + LEFT_ALONE.1;
        let _given_up = circuit.pass(now, LIMIT).ok().unwrap();
        assert!(circuit.pass(now, LIMIT).is_err());
        assert!(circuit.pass(now + LIMIT, LIMIT).is_ok());
    }
}
