//! What the ingest counts.

use std::time::Duration;

use metrics::{counter, gauge, histogram};
use model::Samples;
use rtmp::{Codec, SessionError};

use crate::{ear::Counts, permit::Denied};

/// Open connections.
const CONNECTIONS: &str = "rtmp_ingest_connections";
/// Connections that publish.
const PUBLISHERS: &str = "rtmp_ingest_publishers";
/// Publishes by `outcome`: a new stream, one that went on after its publisher was lost, one that another had.
const PUBLISHES_TOTAL: &str = "rtmp_ingest_publishes_total";
/// Connections that were refused or cut, by `reason`.
const REFUSALS_TOTAL: &str = "rtmp_ingest_refusals_total";
/// Bytes from publishers, everything counted.
const RECEIVED_BYTES_TOTAL: &str = "rtmp_ingest_received_bytes_total";
/// Bytes of audio tags.
const AUDIO_BYTES_TOTAL: &str = "rtmp_ingest_audio_bytes_total";
/// Bits of audio a second, of one publisher over 10 s.
const AUDIO_BITS_PER_SECOND: &str = "rtmp_ingest_audio_bits_per_second";
/// Gaps in the sound of publishers.
const GAPS_TOTAL: &str = "rtmp_ingest_gaps_total";
/// Silence that was put into gaps.
const GAP_MS_TOTAL: &str = "rtmp_ingest_gap_milliseconds_total";
/// Sound that came twice.
const OVERLAP_MS_TOTAL: &str = "rtmp_ingest_overlap_milliseconds_total";
/// Sound that was given up because no worker took it.
const LOST_MS_TOTAL: &str = "rtmp_ingest_audio_lost_milliseconds_total";
/// Timestamps that began to count from somewhere else.
const REBASES_TOTAL: &str = "rtmp_ingest_timestamp_rebases_total";
/// Tags and packets that could not be decoded.
const DECODE_ERRORS_TOTAL: &str = "rtmp_ingest_decode_errors_total";
/// By how much the sound of a publisher has run ahead of its timestamps, measured every 10 s.
const DRIFT_MS: &str = "rtmp_ingest_drift_milliseconds";
/// Streams that are being sent on.
const RELAYS: &str = "rtmp_ingest_relays";
/// Connections to the other server that ended early.
const RELAY_RECONNECTS_TOTAL: &str = "rtmp_ingest_relay_reconnects_total";
/// Messages that the other server did not take in time.
const RELAY_DROPPED_TOTAL: &str = "rtmp_ingest_relay_dropped_messages_total";

/// Why connections are refused or cut, besides what the protocol, the keys and the codecs have to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Every place is taken.
    Full,
    /// Too many connections of one address.
    Address,
    /// No publish in time.
    TooLate,
    /// Nothing was said for too long.
    Idle,
    /// It does not read its answers.
    SlowReader,
    /// No good PROXY header from who may send one.
    Proxy,
    /// No TLS on the TLS port.
    Tls,
    /// The key is in use.
    InUse,
    /// Another publisher took the key.
    TakenOver,
    /// The stream could not go on.
    Failed,
    /// The service drains.
    Draining,
}

impl Reason {
    const ALL: [Self; 11] = [
        Self::Full,
        Self::Address,
        Self::TooLate,
        Self::Idle,
        Self::SlowReader,
        Self::Proxy,
        Self::Tls,
        Self::InUse,
        Self::TakenOver,
        Self::Failed,
        Self::Draining,
    ];

    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Address => "address",
            Self::TooLate => "too_late",
            Self::Idle => "idle",
            Self::SlowReader => "slow_reader",
            Self::Proxy => "proxy",
            Self::Tls => "tls",
            Self::InUse => "key_in_use",
            Self::TakenOver => "taken_over",
            Self::Failed => "failed",
            Self::Draining => "draining",
        }
    }
}

/// How a publish began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begun {
    New,
    /// The publisher was lost and came back.
    Continued,
    /// The publisher before was still there.
    TookOver,
}

impl Begun {
    const ALL: [Self; 3] = [Self::New, Self::Continued, Self::TookOver];

    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Continued => "continued",
            Self::TookOver => "took_over",
        }
    }
}

/// Registers this crate's metrics at zero.
pub(crate) fn register() {
    for name in [CONNECTIONS, PUBLISHERS, RELAYS] {
        gauge!(name).set(0.0);
    }
    let counters = [
        RECEIVED_BYTES_TOTAL,
        AUDIO_BYTES_TOTAL,
        GAPS_TOTAL,
        GAP_MS_TOTAL,
        OVERLAP_MS_TOTAL,
        LOST_MS_TOTAL,
        REBASES_TOTAL,
        DECODE_ERRORS_TOTAL,
        RELAY_RECONNECTS_TOTAL,
        RELAY_DROPPED_TOTAL,
    ];
    for name in counters {
        counter!(name).absolute(0);
    }
    for begun in Begun::ALL {
        counter!(PUBLISHES_TOTAL, "outcome" => begun.label()).absolute(0);
    }
    let reasons = Reason::ALL.map(Reason::label);
    let undecodable = ["unsupported", "undecodable"];
    for reason in
        [&reasons[..], &Denied::LABELS, &SessionError::LABELS, &Codec::LABELS, &undecodable].concat()
    {
        counter!(REFUSALS_TOTAL, "reason" => reason).absolute(0);
    }
}

/// A connection was refused or cut.
pub(crate) fn refused(reason: &'static str) {
    counter!(REFUSALS_TOTAL, "reason" => reason).increment(1);
}

/// Somebody publishes.
pub(crate) fn begun(begun: Begun) {
    counter!(PUBLISHES_TOTAL, "outcome" => begun.label()).increment(1);
}

/// Bytes came, so many of them audio.
pub(crate) fn received(bytes: usize, audio: usize) {
    counter!(RECEIVED_BYTES_TOTAL).increment(bytes as u64);
    counter!(AUDIO_BYTES_TOTAL).increment(audio as u64);
}

/// What happened to the sound of a stream.
pub(crate) fn count(counts: &Counts) {
    if *counts == Counts::default() {
        return;
    }
    counter!(GAPS_TOTAL).increment(counts.gaps);
    counter!(GAP_MS_TOTAL).increment(counts.gap.millis());
    counter!(OVERLAP_MS_TOTAL).increment(counts.overlap.millis());
    counter!(REBASES_TOTAL).increment(counts.rebases);
    counter!(DECODE_ERRORS_TOTAL).increment(counts.errors);
}

/// Sound was given up.
pub(crate) fn lost(samples: Samples) {
    counter!(LOST_MS_TOTAL).increment(samples.millis());
}

/// So many bytes of audio came in a span, and this is how far the clocks of the encoder lie apart.
pub(crate) fn measure(bytes: usize, span: Duration, drift_ms: i64) {
    histogram!(AUDIO_BITS_PER_SECOND).record(bytes as f64 * 8.0 / span.as_secs_f64());
    histogram!(DRIFT_MS).record(drift_ms as f64);
}

/// The relay lost its connection.
pub(crate) fn relay_reconnects() {
    counter!(RELAY_RECONNECTS_TOTAL).increment(1);
}

/// The relay had no room for messages.
pub(crate) fn relay_dropped(messages: usize) {
    counter!(RELAY_DROPPED_TOTAL).increment(messages as u64);
}

/// A number that goes back when it is dropped.
pub(crate) struct Open(&'static str);

impl Open {
    pub(crate) fn connection() -> Self {
        Self::one(CONNECTIONS)
    }

    pub(crate) fn publisher() -> Self {
        Self::one(PUBLISHERS)
    }

    pub(crate) fn relay() -> Self {
        Self::one(RELAYS)
    }

    fn one(gauge: &'static str) -> Self {
        gauge!(gauge).increment(1.0);
        Self(gauge)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        gauge!(self.0).decrement(1.0);
    }
}
