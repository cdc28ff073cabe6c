//! What the edge counts: for Prometheus by the `metrics` crate, and once more for the JSON of system A's `/metrics`,
//! whose names and shape its load test reads.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use metrics::{Counter, Histogram, counter, gauge, histogram};
use model::Timestamp;
use serde::Serialize;

use crate::{
    close::Close,
    spread::{Latency, Spread},
};

/// Open WebSockets.
const CONNECTIONS: &str = "ws_edge_connections";
/// Open Socket.IO clients of chat.
const GUESTS: &str = "ws_edge_chat_clients";
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
/// Messages that a follower could not be sent: it was gone, or did not read.
const UNDELIVERED_TOTAL: &str = "ws_edge_undelivered_total";
/// How long one event takes to be put into the queues of all its followers.
const BROADCAST_SECONDS: &str = "ws_edge_broadcast_seconds";
/// From audio taken off its socket until its sound is on its way to a worker.
const PROCESSING_SECONDS: &str = "ws_edge_audio_processing_seconds";
/// From the moment the last sound of a caption had come until the caption was handed to its followers, by `kind`:
/// `partial` or `final`. Of streams that this edge carries.
const END_TO_CAPTION_SECONDS: &str = "ws_edge_end_to_caption_seconds";
/// How long a request takes by which a back end hands in a caption.
const HANDED_IN_SECONDS: &str = "ws_edge_caption_request_seconds";
/// How long a POST takes, from its head until its answer is ready.
const POST_SECONDS: &str = "ws_edge_post_seconds";
/// Bytes of one message of audio, as it was encoded.
const AUDIO_MESSAGE_BYTES: &str = "ws_edge_audio_message_bytes";
/// HTTP requests by `status`.
const REQUESTS_TOTAL: &str = "ws_edge_requests_total";

const REFUSED_REASONS: [&str; 3] = ["rate", "invalid", "unknown"];
const CLOSE_CODES: [&str; 12] =
    ["1000", "4001", "1001", "1002", "1007", "1008", "1009", "1011", "1013", "4003", "4008", "4013"];

/// Registers this crate's metrics at zero.
pub(crate) fn register() {
    gauge!(CONNECTIONS).set(0.0);
    gauge!(GUESTS).set(0.0);
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
        UNDELIVERED_TOTAL,
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
    guests: AtomicU64,
    streams: AtomicU64,
    bridges: AtomicU64,
    filtered: AtomicU64,
    received: AtomicU64,
    audio_messages: AtomicU64,
    events: AtomicU64,
    captions: AtomicU64,
    duplicates: AtomicU64,
    heartbeat_timeouts: AtomicU64,
    undelivered: AtomicU64,
    errors: AtomicU64,
    last_error: Mutex<Option<LastError>>,
    caption_age: Timing,
    broadcast: Timing,
    processing: Timing,
    handed_in: Timing,
    post: Timing,
    message_bytes: Timing,
    /// Of partials and finals together; Prometheus has them apart.
    end_to_caption: Mutex<Spread>,
    partial_after: Histogram,
    final_after: Histogram,
}

/// Which kind of caption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Partial,
    Final,
}

/// Numbers of one kind: for Prometheus, and for the JSON.
struct Timing {
    histogram: Histogram,
    spread: Mutex<Spread>,
}

impl Timing {
    fn new(histogram: Histogram) -> Self {
        Self { histogram, spread: Mutex::default() }
    }

    fn took(&self, duration: Duration) {
        self.histogram.record(duration);
        lock(&self.spread).record_duration(duration);
    }

    fn measured(&self, value: f64) {
        self.histogram.record(value);
        lock(&self.spread).record(value);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The newest thing that went wrong.
#[derive(Debug, Clone, Serialize)]
struct LastError {
    message: String,
    timestamp: String,
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
            guests: AtomicU64::new(0),
            streams: AtomicU64::new(0),
            bridges: AtomicU64::new(0),
            filtered: AtomicU64::new(0),
            received: AtomicU64::new(0),
            audio_messages: AtomicU64::new(0),
            events: AtomicU64::new(0),
            captions: AtomicU64::new(0),
            duplicates: AtomicU64::new(0),
            heartbeat_timeouts: AtomicU64::new(0),
            undelivered: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            last_error: Mutex::new(None),
            caption_age: Timing::new(histogram!(FANOUT_SECONDS)),
            broadcast: Timing::new(histogram!(BROADCAST_SECONDS)),
            processing: Timing::new(histogram!(PROCESSING_SECONDS)),
            handed_in: Timing::new(histogram!(HANDED_IN_SECONDS)),
            post: Timing::new(histogram!(POST_SECONDS)),
            message_bytes: Timing::new(histogram!(AUDIO_MESSAGE_BYTES)),
            end_to_caption: Mutex::default(),
            partial_after: histogram!(END_TO_CAPTION_SECONDS, "kind" => "partial"),
            final_after: histogram!(END_TO_CAPTION_SECONDS, "kind" => "final"),
        }
    }

    /// Counts an open WebSocket until the answer is dropped.
    pub(crate) fn connection(&self) -> Open<'_> {
        open(&self.connections, CONNECTIONS)
    }

    /// Counts an open client of chat until the answer is dropped.
    pub(crate) fn guest(&self) -> Open<'_> {
        open(&self.guests, GUESTS)
    }

    /// How many clients of chat are connected.
    pub(crate) fn guests(&self) -> u64 {
        self.guests.load(Ordering::Relaxed)
    }

    /// Since the start.
    pub(crate) fn uptime(&self) -> Duration {
        self.began.elapsed()
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
        self.message_bytes.measured(bytes as f64);
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

    /// Audio was decoded and is on its way to a worker, so long after it came.
    pub(crate) fn processed(&self, took: Duration) {
        self.processing.took(took);
    }

    /// A caption is to be handed to all followers of its session; how old it is.
    pub(crate) fn caption(&self, made_at: Timestamp, now: Timestamp) -> Duration {
        let age = now.since(made_at);
        self.caption_age.took(age);
        self.captions.fetch_add(1, Ordering::Relaxed);
        age
    }

    /// So long before its caption is handed on, the last of its sound had come to this edge.
    pub(crate) fn end_to_caption(&self, took: Duration, kind: Kind) {
        let after = match kind {
            Kind::Partial => &self.partial_after,
            Kind::Final => &self.final_after,
        };
        after.record(took);
        lock(&self.end_to_caption).record_duration(took);
    }

    /// Anything was handed to all followers of its topic, which took so long.
    pub(crate) fn event(&self, took: Duration) {
        self.broadcast.took(took);
        self.events.fetch_add(1, Ordering::Relaxed);
        counter!(EVENTS_TOTAL).increment(1);
    }

    /// A message could not be sent to a client.
    pub(crate) fn undelivered(&self) {
        self.undelivered.fetch_add(1, Ordering::Relaxed);
        counter!(UNDELIVERED_TOTAL).increment(1);
    }

    /// A POST was answered. `is_caption` when a back end handed one in by it.
    pub(crate) fn posted(&self, took: Duration, is_caption: bool) {
        self.post.took(took);
        if is_caption {
            self.handed_in.took(took);
        }
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
        *lock(&self.last_error) = Some(LastError { message, timestamp: now.to_string() });
    }

    /// The answer of `GET /metrics`. `sessions` is empty for those who may not know them.
    pub(crate) fn json(
        &self,
        queue: QueueCounts,
        dropped: u64,
        sessions: BTreeMap<String, SessionFigures>,
    ) -> String {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let timed = [
            ("audio.chunk_size_bytes", &self.message_bytes.spread),
            ("http.post_latency_ms", &self.post.spread),
            ("ingest.broadcast_latency_ms", &self.handed_in.spread),
            ("ingest.processing_latency_ms", &self.processing.spread),
            ("stt.end_to_transcript_ms", &self.end_to_caption),
            ("ws.broadcast_loop_ms", &self.broadcast.spread),
            ("ws.session_broadcast_lag_ms", &self.caption_age.spread),
        ];
        let timed = timed.map(|(name, spread)| (name.to_owned(), lock(spread).latency()));
        let by_session = sessions.iter().map(|(session, figures)| {
            (format!("ws.session_broadcast_lag_ms.{session}"), figures.lag.clone())
        });
        let latency = timed.into_iter().chain(by_session);
        let answer = Answer {
            active_connections: read(&self.connections),
            active_gladia_bridges: read(&self.bridges),
            total_messages_received: read(&self.received),
            total_messages_sent: read(&self.events),
            total_errors: read(&self.errors),
            last_error: lock(&self.last_error).clone(),
            uptime: self.uptime().as_secs(),
            queue,
            latency: latency.filter_map(|(name, latency)| Some((name, latency?))).collect(),
            counters: BTreeMap::from([
                ("audio.chunks_sent", read(&self.audio_messages)),
                ("stt.filtered_hallucinations", read(&self.filtered)),
                ("ws.broadcast_errors_total", read(&self.undelivered)),
                ("ws.duplicate_final_transcripts_skipped", read(&self.duplicates)),
                ("ws.heartbeat_timeouts_total", read(&self.heartbeat_timeouts)),
                ("ws.queue_drops_total", dropped),
                ("ws.transcripts_sent", read(&self.captions)),
            ]),
            session_clients: sessions
                .into_iter()
                .map(|(session, figures)| (session, figures.clients))
                .collect(),
        };
        serde_json::to_string_pretty(&answer).unwrap_or_default()
    }
}

fn open<'a>(count: &'a AtomicU64, gauge: &'static str) -> Open<'a> {
    count.fetch_add(1, Ordering::Relaxed);
    gauge!(gauge).increment(1.0);
    Open { count, gauge }
}

/// What is told of one session.
#[derive(Debug, Clone)]
pub(crate) struct SessionFigures {
    /// Who follows it here.
    pub(crate) clients: u64,
    /// How old its captions were when they were handed on.
    pub(crate) lag: Option<Latency>,
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
    /// What nothing was measured of yet is left out.
    latency: BTreeMap<String, Latency>,
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
        tally.event(Duration::from_micros(250));
        tally.event(Duration::from_micros(750));
        tally.undelivered();
        let json = tally.json(QueueCounts::default(), 3, room(2));
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["activeConnections"], 1);
        assert_eq!(value["totalMessagesSent"], 2);
        assert_eq!(
            value["queue"],
            serde_json::json!({"queueLength":0,"totalQueued":0,"totalFlushed":0,"totalErrors":0})
        );
        let lag = &value["latency"]["ws.session_broadcast_lag_ms"];
        for (figure, value) in
            [("count", 2.0), ("avgMs", 20.0), ("minMs", 10.0), ("maxMs", 30.0), ("p99Ms", 30.0)]
        {
            assert_eq!(lag[figure].as_f64(), Some(value), "{figure}");
        }
        assert_eq!(value["latency"]["ws.broadcast_loop_ms"]["avgMs"], 0.5);
        assert_eq!(value["counters"]["ws.broadcast_errors_total"], 1);
        assert_eq!(value["counters"]["ws.queue_drops_total"], 3);
        assert_eq!(value["sessionClients"]["room"], 2);
        assert!(json.starts_with("{\n  \"activeConnections\": 1,\n  \"activeGladiaBridges\": 0,"), "{json}");
    }

    fn room(clients: u64) -> BTreeMap<String, SessionFigures> {
        let mut lag = Spread::default();
        lag.record(5.0);
        BTreeMap::from([("room".to_owned(), SessionFigures { clients, lag: lag.latency() })])
    }

    fn latencies(tally: &Tally, sessions: BTreeMap<String, SessionFigures>) -> serde_json::Value {
        let json = tally.json(QueueCounts::default(), 0, sessions);
        serde_json::from_str::<serde_json::Value>(&json).unwrap()["latency"].take()
    }

    #[test]
    fn only_what_was_measured_is_told_and_sessions_only_to_those_who_may_know() {
        let tally = Tally::new();
        assert_eq!(latencies(&tally, BTreeMap::new()), serde_json::json!({}));
        tally.audio(3_200);
        tally.audio(256);
        tally.processed(Duration::from_millis(2));
        tally.end_to_caption(Duration::from_millis(400), Kind::Partial);
        tally.end_to_caption(Duration::from_millis(800), Kind::Final);
        tally.posted(Duration::from_millis(1), false);
        tally.posted(Duration::from_millis(3), true);
        let told = latencies(&tally, BTreeMap::new());
        let names: Vec<&String> = told.as_object().unwrap().keys().collect();
        let expected = [
            "audio.chunk_size_bytes",
            "http.post_latency_ms",
            "ingest.broadcast_latency_ms",
            "ingest.processing_latency_ms",
            "stt.end_to_transcript_ms",
        ];
        assert_eq!(names, expected);
        assert_eq!(told["audio.chunk_size_bytes"]["maxMs"], 3_200.0);
        assert_eq!(told["stt.end_to_transcript_ms"]["avgMs"], 600.0);
        assert_eq!(told["http.post_latency_ms"]["count"], 2);
        assert_eq!(told["ingest.broadcast_latency_ms"]["count"], 1);
        let told = latencies(&tally, room(1));
        assert_eq!(told["ws.session_broadcast_lag_ms.room"]["p50Ms"], 5.0);
    }
}
