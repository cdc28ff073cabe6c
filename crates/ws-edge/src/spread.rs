//! Count, mean, extremes and percentiles of many numbers, in memory that does not grow with them.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Significant digits of the percentiles: each is at most one per cent off. Such a histogram takes up to 28 KiB.
const DIGITS: u8 = 2;

/// Numbers are told apart in thousandths: of a millisecond, or of a byte.
const PARTS: f64 = 1000.0;

/// Largest number that percentiles know, in thousandths: more than an hour, or 4 MB. Larger ones count as this.
const PARTS_MAX: u64 = 1 << 32;

/// What was seen of one kind of number.
#[derive(Debug, Clone, Default)]
pub(crate) struct Spread {
    /// Made with the first number.
    histogram: Option<Histogram<u64>>,
    count: u64,
    sum: f64,
    min: f64,
    max: f64,
}

/// A spread as system A's `/metrics` writes it; its percentiles are ours. System A has bytes under these names too.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Latency {
    count: u64,
    avg_ms: f64,
    min_ms: f64,
    max_ms: f64,
    p50_ms: f64,
    p95_ms: f64,
    p99_ms: f64,
}

impl Spread {
    pub(crate) fn record_duration(&mut self, duration: Duration) {
        self.record(duration.as_secs_f64() * 1000.0);
    }

    /// Takes in a number that is not negative.
    pub(crate) fn record(&mut self, value: f64) {
        self.min = if self.count == 0 { value } else { self.min.min(value) };
        self.max = self.max.max(value);
        self.count += 1;
        self.sum += value;
        if self.histogram.is_none() {
            self.histogram = Histogram::new(DIGITS).ok();
        }
        if let Some(histogram) = &mut self.histogram {
            // It widens itself up to the largest.
            let _ = histogram.record(((value * PARTS) as u64).min(PARTS_MAX));
        }
    }

    /// `None` before the first number.
    pub(crate) fn latency(&self) -> Option<Latency> {
        let histogram = self.histogram.as_ref()?;
        let percentile =
            |share| (histogram.value_at_quantile(share) as f64 / PARTS).clamp(self.min, self.max);
        Some(Latency {
            count: self.count,
            avg_ms: self.sum / self.count as f64,
            min_ms: self.min,
            max_ms: self.max,
            p50_ms: percentile(0.5),
            p95_ms: percentile(0.95),
            p99_ms: percentile(0.99),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_a_per_cent_whatever_comes() {
        let mut spread = Spread::default();
        assert_eq!(spread.latency(), None);
        for value in 1..=10_000 {
            spread.record(f64::from(value));
        }
        let latency = spread.latency().unwrap();
        assert_eq!((latency.count, latency.min_ms, latency.max_ms), (10_000, 1.0, 10_000.0));
        for (told, exact) in [
            (latency.avg_ms, 5_000.5),
            (latency.p50_ms, 5_000.0),
            (latency.p95_ms, 9_500.0),
            (latency.p99_ms, 9_900.0),
        ] {
            assert!((told - exact).abs() <= exact / 100.0, "{told} for {exact}");
        }
    }

    #[test]
    fn memory_has_a_bound() {
        let mut spread = Spread::default();
        for value in [0.0, 0.000_1, 0.5, 3.0, 1e9, 1e18, f64::MAX] {
            spread.record(value);
        }
        let buckets = spread.histogram.as_ref().unwrap().distinct_values();
        assert!(buckets * size_of::<u64>() <= 28 * 1024, "{buckets}");
        let latency = spread.latency().unwrap();
        assert_eq!((latency.count, latency.max_ms), (7, f64::MAX));
    }
}
