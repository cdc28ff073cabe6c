use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest delay told apart from longer ones: ten minutes.
const LONGEST_MS: u64 = 600_000;

/// Digits that are kept: delays up to 20 s are exact.
const DIGITS: u8 = 4;

/// Delays in milliseconds.
#[derive(Debug, Clone)]
pub struct Delays(Histogram<u64>);

/// What a report says of delays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    /// How many were measured.
    pub count: u64,
    /// Half are no longer.
    pub p50_ms: u64,
    /// 95 of 100 are no longer.
    pub p95_ms: u64,
    /// 99 of 100 are no longer.
    pub p99_ms: u64,
    /// The longest.
    pub max_ms: u64,
}

impl Default for Delays {
    #[expect(clippy::expect_used, reason = "the bounds are constants that a histogram takes")]
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST_MS, DIGITS).expect("constant bounds"))
    }
}

impl Delays {
    /// Counts the time from `due`, seconds, to `at`. What comes before it is due counts as no delay.
    pub fn record(&mut self, due: f64, at: Duration) {
        let delay_ms = ((at.as_secs_f64() - due) * 1000.0).round().max(0.0);
        self.0.saturating_record(delay_ms as u64);
    }

    /// Adds those of another stream.
    pub fn add(&mut self, other: &Self) {
        // Equal bounds always add up.
        let _ = self.0.add(&other.0);
    }

    /// What to report; `None` when nothing was measured.
    pub fn percentiles(&self) -> Option<Percentiles> {
        (!self.0.is_empty()).then(|| Percentiles {
            count: self.0.len(),
            p50_ms: self.0.value_at_quantile(0.5),
            p95_ms: self.0.value_at_quantile(0.95),
            p99_ms: self.0.value_at_quantile(0.99),
            max_ms: self.0.max(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_all_that_was_recorded() {
        let mut delays = Delays::default();
        assert_eq!(delays.percentiles(), None);
        for ms in 1..=100 {
            delays.record(1.0, Duration::from_millis(1000 + ms));
        }
        let mut early = Delays::default();
        early.record(1.0, Duration::from_millis(900));
        delays.add(&early);
        let found = delays.percentiles().unwrap();
        assert_eq!(found, Percentiles { count: 101, p50_ms: 50, p95_ms: 95, p99_ms: 99, max_ms: 100 });
    }
}
