use std::time::Duration;

/// The first wait.
const BASE: Duration = Duration::from_millis(500);

/// The longest wait of our own; a server may ask for more.
const LONGEST: Duration = Duration::from_secs(15);

/// Longest wait that a server is granted: beyond it a typo, or malice, would look like a hang.
const ASKED_LONGEST: Duration = Duration::from_secs(300);

/// How long to wait before the next try: doubling, with jitter so that the clients of a restarted server do not
/// come back at the same instant.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The connection held; the next failure is the first again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Counts a failure and gives the wait, never less than the server asked for. `chance` is 0 to 1.
    pub fn next(&mut self, asked: Option<Duration>, chance: f64) -> Duration {
        let doubled = BASE.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        // Half is fixed, half is chance: never at once, never all together.
        let own = doubled.mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0));
        match asked {
            Some(asked) => own.max(asked.min(ASKED_LONGEST)),
            None => own,
        }
    }
}

/// A number from 0 to 1 that nobody can foresee.
pub fn chance() -> f64 {
    let (_, low) = uuid::Uuid::new_v4().as_u64_pair();
    f64::from(low as u32) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit_and_respect_the_server() {
        let mut backoff = Backoff::default();
        let waits: Vec<u128> = (0..7).map(|_| backoff.next(None, 1.0).as_millis()).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 15_000, 15_000]);
        assert_eq!(backoff.next(Some(Duration::from_secs(20)), 1.0), Duration::from_secs(20));
        assert_eq!(backoff.next(Some(Duration::MAX), 1.0), ASKED_LONGEST);
        backoff.reset();
        assert_eq!(backoff.next(None, 0.0), Duration::from_millis(250));
        assert_eq!(backoff.next(Some(Duration::from_millis(1)), 0.0), Duration::from_millis(500));
        assert_eq!(backoff.failures(), 2);
        assert!((0.0..=1.0).contains(&chance()));
    }
}
