use std::{
    fmt,
    ops::{Add, Sub},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// The one sample rate inside Parley.
pub const SAMPLE_RATE_HZ: u32 = 16_000;

/// Samples in a frame: 20 ms.
pub const FRAME_SAMPLES: usize = 320;

/// A position in a stream, or a length, in samples of 16 kHz mono. The clock of a stream: sample 0 is its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Samples(pub u64);

impl Samples {
    /// The length of a slice of samples.
    pub const fn of(count: usize) -> Self {
        Self(count as u64)
    }

    /// From milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis * (SAMPLE_RATE_HZ as u64) / 1000)
    }

    /// In whole milliseconds, rounded down.
    pub const fn millis(self) -> u64 {
        self.0 * 1000 / SAMPLE_RATE_HZ as u64
    }

    /// In seconds.
    pub fn seconds(self) -> f64 {
        self.0 as f64 / f64::from(SAMPLE_RATE_HZ)
    }

    /// As a span of time.
    pub fn duration(self) -> Duration {
        Duration::from_micros(self.0 * 1_000_000 / u64::from(SAMPLE_RATE_HZ))
    }

    /// The difference, zero when `other` is greater.
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Add for Samples {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

/// Saturates at zero.
impl Sub for Samples {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self.saturating_sub(other)
    }
}

impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}s", self.seconds())
    }
}

/// Decoded sound on its way to a worker: 16 kHz mono, signed 16 bit. The border between whoever knows encodings
/// and whoever knows engines. Any length; sources send about [`FRAME_SAMPLES`] or a few times that.
#[derive(Clone, PartialEq, Eq)]
pub struct PcmFrame {
    /// Where in the stream the first sample lies.
    pub start: Samples,
    /// The samples. Cheap to clone: the uplink keeps a frame until it is acknowledged.
    pub samples: Arc<[i16]>,
}

impl PcmFrame {
    /// The position just after the last sample.
    pub fn end(&self) -> Samples {
        self.start + Samples::of(self.samples.len())
    }
}

/// What people said stays out of logs.
impl fmt::Debug for PcmFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PcmFrame({}..{})", self.start, self.end())
    }
}
