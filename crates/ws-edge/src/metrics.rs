//! What the edge counts: for Prometheus by the `metrics` crate, and once more for the JSON of system A's `/metrics`,
//! whose names and shape its load test reads.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use metrics::{Counter, counter, gauge, histogram};
use model::Timestamp;
use serde::Serialize;

use crate::close::Close;

/// Open WebSockets.
const CONNECTIONS: &str = "ws_edge_connections";
/// Streams that send audio.
const STREAMS: &str = "ws_edge_streams";
/// Streams that Gladia understands.
const BRIDGES: &str = "ws_edge_gladia_streams";
/// Streams whose socket is lost and may come back.
const STREAMS_DETACHED: &str = "ws_edge_streams_detached";
/// Sockets that went on with a stream, or wanted to, by `outcome`.
const RESUMES_TOTAL: &str = "ws_edge_resumes_total";
/// Upgrades by `outcome`: `established`, or the label of the fault.
const UPGRADES_TOTAL: &str = "ws_edge_upgrades_total";
/// Sockets that the edge closed, by `code`.
const CLOSES_TOTAL: &str = "ws_edge_closes_total";
/// Text and binary messages from clients.
const MESSAGES_RECEIVED_TOTAL: &str = "ws_edge_messages_received_total";
/// Messages from clients that were not used, by `reason`.
const MESSAGES_REFUSED_TOTAL: &str = "ws_edge_messages_refused_total";
/// Bytes of audio from clients, as they were encoded.
const AUDIO_BYTES_TOTAL: &str = "ws_edge_audio_bytes_total";
/// Sound that was given up because no worker took it, in seconds.
const AUDIO_LOST_SECONDS_TOTAL: &str = "ws_edge_audio_lost_seconds_total";
/// Captions and states handed to the followers of a session, counted once each.
const EVENTS_TOTAL: &str = "ws_edge_events_total";
/// Messages written to followers.
const DELIVERIES_TOTAL: &str = "ws_edge_deliveries_total";
/// Finals that came again and were passed over.
const DUPLICATES_TOTAL: &str = "ws_edge_duplicate_finals_total";
/// Pages of finals that were read from Postgres because the bus had left a gap.
const REFILLS_TOTAL: &str = "ws_edge_refills_total";
/// From the moment a caption was made until it was handed to all followers' queues.
const FANOUT_SECONDS: &str = "ws_edge_caption_age_seconds";
/// HTTP requests by `status`.
const REQUESTS_TOTAL: &str = "ws_edge_requests_total";

const REFUSED_REASONS: [&str; 3] = ["rate", "invalid", "unknown"];
const CLOSE_CODES: [&str; 12] =
    ["1000", "4001", "1001", "1002", "1007", "1008", "1009", "1011", "1013", "4003", "4008", "4013"];

/// Registers this crate's metrics at zero.
pub(crate) fn register() {
    gauge!(CONNECTIONS).set(0.0);
    gauge!(STREAMS).set(0.0);
    gauge!(BRIDGES).set(0.0);
    gauge!(STREAMS_DETACHED).set(0.0);
    for resume in [Resume::Here, Resume::Elsewhere, Resume::Rejoined, Resume::Refused, Resume::Unknown] {
        counter!(RESUMES_TOTAL, "outcome" => resume.label()).absolute(0);
    }
    let counters = [
        MESSAGES_RECEIVED_TOTAL,
        AUDIO_BYTES_TOTAL,
        AUDIO_LOST_SECONDS_TOTAL,
        EVENTS_TOTAL,
        DELIVERIES_TOTAL,
        DUPLICATES_TOTAL,
        REFILLS_TOTAL,
    ];
    for name in counters {
        counter!(name).absolute(0);
    }
    counter!(UPGRADES_TOTAL, "outcome" => "established").absolute(0);
    for fault in model::FaultKind::ALL {
        counter!(UPGRADES_TOTAL, "outcome" => fault.label()).absolute(0);
    }
    for code in CLOSE_CODES {
        counter!(CLOSES_TOTAL, "code" => code).absolute(0);
    }
    for reason in REFUSED_REASONS {
        counter!(MESSAGES_REFUSED_TOTAL, "reason" => reason).absolute(0);
    }
}

/// So many streams wait for their clients now.
pub(crate) fn detached(count: usize) {
    gauge!(STREAMS_DETACHED).set(count as f64);
}

/// How a socket went on with a stream.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Resume {
    /// This edge had it.
    Here,
    /// Another edge, or this one before it was restarted, had it.
    Elsewhere,
    /// A client that knows no `resume`.
    Rejoined,
    /// It is another participant's, or no worker took it.
    Refused,
    /// Nobody knows it: a new stream began.
    Unknown,
}

impl Resume {
    const fn label(self) -> &'static str {
        match self {
            Self::Here => "here",
            Self::Elsewhere => "elsewhere",
            Self::Rejoined => "rejoined",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
        }
    }

    pub(crate) fn count(self) {
        counter!(RESUMES_TOTAL, "outcome" => self.label()).increment(1);
    }
}

/// Why a message of a client was not used.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Refused {
    Rate,
    Invalid,
    Unknown,
}

/// What this edge did since it started.
pub(crate) struct Tally {
    began: Instant,
    /// Kept, since looking it up would cost a good part of what it counts.
    deliveries: Counter,
    connections: AtomicU64,
    streams: AtomicU64,
    bridges: AtomicU64,
    filtered: AtomicU64,
    received: AtomicU64,
    audio_messages: AtomicU64,
    events: AtomicU64,
    captions: AtomicU64,
    duplicates: AtomicU64,
    heartbeat_timeouts: AtomicU64,
    errors: AtomicU64,
    last_error: Mutex<Option<LastError>>,
    caption_age: Mutex<Spread>,
}

/// The newest thing that went wrong.
#[derive(Debug, Clone, Serialize)]
struct LastError {
    message: String,
    timestamp: String,
}

/// Count, sum and extremes of a duration, in milliseconds.
#[derive(Debug, Clone, Copy, Default)]
struct Spread {
    count: u64,
    sum: f64,
    min: f64,
    max: f64,
}

/// A number that goes back when it is dropped.
pub(crate) struct Open<'a> {
    count: &'a AtomicU64,
    gauge: &'static str,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        gauge!(self.gauge).decrement(1.0);
    }
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            deliveries: counter!(DELIVERIES_TOTAL),
            connections: AtomicU64::new(0),
            streams: AtomicU64::new(0),
            bridges: AtomicU64::new(0),
            filtered: AtomicU64::new(0),
            received: AtomicU64::new(0),
            audio_messages: AtomicU64::new(0),
            events: AtomicU64::new(0),
            captions: AtomicU64::new(0),
            duplicates: AtomicU64::new(0),
            heartbeat_timeouts: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            last_error: Mutex::new(None),
            caption_age: Mutex::default(),
        }
    }

    /// Counts an open WebSocket until the answer is dropped.
    pub(crate) fn connection(&self) -> Open<'_> {
        open(&self.connections, CONNECTIONS)
    }

    /// Counts an open stream until the answer is dropped.
    pub(crate) fn stream(&self) -> Open<'_> {
        open(&self.streams, STREAMS)
    }

    /// Counts a stream that Gladia understands until the answer is dropped.
    pub(crate) fn bridge(&self) -> Open<'_> {
        open(&self.bridges, BRIDGES)
    }

    /// A worker took so many finals of a stream of ours for hallucinations.
    pub(crate) fn filtered(&self, finals: u32) {
        self.filtered.fetch_add(finals.into(), Ordering::Relaxed);
    }

    pub(crate) fn upgrade(&self, outcome: &'static str) {
        counter!(UPGRADES_TOTAL, "outcome" => outcome).increment(1);
    }

    pub(crate) fn request(&self, status: u16) {
        counter!(REQUESTS_TOTAL, "status" => status.to_string()).increment(1);
    }

    pub(crate) fn closed(&self, close: Close) {
        counter!(CLOSES_TOTAL, "code" => close.code().to_string()).increment(1);
        if close == Close::Heartbeat {
            self.heartbeat_timeouts.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn received(&self) {
        self.received.fetch_add(1, Ordering::Relaxed);
        counter!(MESSAGES_RECEIVED_TOTAL).increment(1);
    }

    pub(crate) fn audio(&self, bytes: usize) {
        self.audio_messages.fetch_add(1, Ordering::Relaxed);
        counter!(AUDIO_BYTES_TOTAL).increment(bytes as u64);
    }

    pub(crate) fn audio_lost(&self, span: Duration) {
        counter!(AUDIO_LOST_SECONDS_TOTAL).increment(span.as_secs_f64().ceil() as u64);
    }

    pub(crate) fn refused(&self, why: Refused) {
        let reason = match why {
            Refused::Rate => "rate",
            Refused::Invalid => "invalid",
            Refused::Unknown => "unknown",
        };
        counter!(MESSAGES_REFUSED_TOTAL, "reason" => reason).increment(1);
    }

    /// A caption is to be handed to all followers of its session.
    pub(crate) fn caption(&self, made_at: Timestamp, now: Timestamp) {
        let age = now.since(made_at);
        histogram!(FANOUT_SECONDS).record(age);
        self.captions.fetch_add(1, Ordering::Relaxed);
        let mut spread = self.caption_age.lock().unwrap_or_else(PoisonError::into_inner);
        spread.record(age.as_secs_f64() * 1000.0);
    }

    /// Anything was handed to all followers of its topic.
    pub(crate) fn event(&self) {
        self.events.fetch_add(1, Ordering::Relaxed);
        counter!(EVENTS_TOTAL).increment(1);
    }

    pub(crate) fn delivered(&self, messages: u64) {
        self.deliveries.increment(messages);
    }

    pub(crate) fn duplicate(&self) {
        self.duplicates.fetch_add(1, Ordering::Relaxed);
        counter!(DUPLICATES_TOTAL).increment(1);
    }

    pub(crate) fn refill(&self) {
        counter!(REFILLS_TOTAL).increment(1);
    }

    /// Something went wrong; the text must hold nothing of a client.
    pub(crate) fn error(&self, message: String, now: Timestamp) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        let mut last = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some(LastError { message, timestamp: now.to_string() });
    }

    /// The answer of `GET /metrics`. `clients` by session is empty for those who may not know sessions.
    pub(crate) fn json(&self, queue: QueueCounts, dropped: u64, clients: BTreeMap<String, u64>) -> String {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let age = *self.caption_age.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = Answer {
            active_connections: read(&self.connections),
            active_gladia_bridges: read(&self.bridges),
            total_messages_received: read(&self.received),
            total_messages_sent: read(&self.events),
            total_errors: read(&self.errors),
            last_error: self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            uptime: self.began.elapsed().as_secs(),
            queue,
            latency: BTreeMap::from([("ws.session_broadcast_lag_ms", age.latency())]),
            counters: BTreeMap::from([
                ("audio.chunks_sent", read(&self.audio_messages)),
                ("stt.filtered_hallucinations", read(&self.filtered)),
                ("ws.duplicate_final_transcripts_skipped", read(&self.duplicates)),
                ("ws.heartbeat_timeouts_total", read(&self.heartbeat_timeouts)),
                ("ws.queue_drops_total", dropped),
                ("ws.transcripts_sent", read(&self.captions)),
            ]),
            session_clients: clients,
        };
        serde_json::to_string_pretty(&answer).unwrap_or_default()
    }
}

fn open<'a>(count: &'a AtomicU64, gauge: &'static str) -> Open<'a> {
    count.fetch_add(1, Ordering::Relaxed);
    gauge!(gauge).increment(1.0);
    Open { count, gauge }
}

impl Spread {
    fn record(&mut self, value: f64) {
        self.min = if self.count == 0 { value } else { self.min.min(value) };
        self.max = self.max.max(value);
        self.count += 1;
        self.sum += value;
    }

    fn latency(self) -> Latency {
        let avg_ms = if self.count == 0 { 0.0 } else { self.sum / self.count as f64 };
        Latency { count: self.count, avg_ms, min_ms: self.min, max_ms: self.max }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Latency {
    count: u64,
    avg_ms: f64,
    min_ms: f64,
    max_ms: f64,
}

/// What waits to be written to Postgres: in system A the finals, here who was in which session (finals are the
/// worker's).
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct QueueCounts {
    pub(crate) queue_length: u64,
    pub(crate) total_queued: u64,
    pub(crate) total_flushed: u64,
    pub(crate) total_errors: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_flush_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_error: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    active_connections: u64,
    active_gladia_bridges: u64,
    total_messages_received: u64,
    total_messages_sent: u64,
    total_errors: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<LastError>,
    uptime: u64,
    queue: QueueCounts,
    latency: BTreeMap<&'static str, Latency>,
    counters: BTreeMap<&'static str, u64>,
    session_clients: BTreeMap<String, u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_is_that_of_system_a() {
        let tally = Tally::new();
        let _open = tally.connection();
        drop(tally.connection());
        tally.caption(Timestamp(1_000), Timestamp(1_010));
        tally.caption(Timestamp(1_000), Timestamp(1_030));
        tally.event();
        tally.event();
        let json = tally.json(QueueCounts::default(), 3, BTreeMap::from([("room".to_owned(), 2)]));
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["activeConnections"], 1);
        assert_eq!(value["totalMessagesSent"], 2);
        assert_eq!(
            value["queue"],
            serde_json::json!({"queueLength":0,"totalQueued":0,"totalFlushed":0,"totalErrors":0})
        );
        let lag = &value["latency"]["ws.session_broadcast_lag_ms"];
        assert_eq!(*lag, serde_json::json!({"count":2,"avgMs":20.0,"minMs":10.0,"maxMs":30.0}));
        assert_eq!(value["counters"]["ws.queue_drops_total"], 3);
        assert_eq!(value["sessionClients"]["room"], 2);
        assert!(json.starts_with("{\n  \"activeConnections\": 1,\n  \"activeGladiaBridges\": 0,"), "{json}");
    }
}
