//! What the monitors of system C read: its metrics by their names, and the JSON of its `/stats`.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Instant,
};

use metrics::{counter, gauge};
use model::{Timestamp, Topic};
use serde::Serialize;

/// Open `/ws` sockets.
const ACTIVE_CONNECTIONS: &str = "ws_active_connections";
/// Opened `/ws` sockets.
const TOTAL_CONNECTIONS: &str = "ws_total_connections";
/// Messages of their clients.
const TOTAL_MESSAGES: &str = "ws_total_messages";
/// Sockets that were closed for want of a good token.
const AUTH_FAILURES: &str = "ws_auth_failures";
/// Subscriptions and messages that could not be dealt with for a fault of ours or of something we depend on.
const ERRORS: &str = "ws_errors";

/// Kinds of channels.
const CHANNELS: [&str; 4] = ["notifications", "feed", "creator", "post"];

/// Kinds of messages; the last is any other.
const MESSAGES: [&str; 5] = ["subscribe", "unsubscribe", "ping", "refresh", "other"];

/// Registers the metrics at zero.
pub(crate) fn register() {
    gauge!(ACTIVE_CONNECTIONS).set(0.0);
    for name in [TOTAL_CONNECTIONS, TOTAL_MESSAGES, AUTH_FAILURES, ERRORS] {
        counter!(name).absolute(0);
    }
}

/// What happened at `/ws` since the start.
pub(crate) struct Stats {
    started_at: Timestamp,
    began: Instant,
    active: AtomicU64,
    total: AtomicU64,
    messages: AtomicU64,
    auth_failures: AtomicU64,
    errors: AtomicU64,
    by_channel: [AtomicI64; CHANNELS.len()],
    by_message: [AtomicU64; MESSAGES.len()],
}

/// An open socket, until it is dropped.
pub(crate) struct Open<'a>(&'a Stats);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
        gauge!(ACTIVE_CONNECTIONS).decrement(1.0);
    }
}

impl Stats {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            started_at: now,
            began: Instant::now(),
            active: AtomicU64::new(0),
            total: AtomicU64::new(0),
            messages: AtomicU64::new(0),
            auth_failures: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            by_channel: Default::default(),
            by_message: Default::default(),
        }
    }

    /// Counts an open socket until the answer is dropped.
    pub(crate) fn connection(&self) -> Open<'_> {
        self.active.fetch_add(1, Ordering::Relaxed);
        self.total.fetch_add(1, Ordering::Relaxed);
        gauge!(ACTIVE_CONNECTIONS).increment(1.0);
        counter!(TOTAL_CONNECTIONS).increment(1);
        Open(self)
    }

    /// A client said something of this type.
    pub(crate) fn message(&self, kind: &str) {
        self.messages.fetch_add(1, Ordering::Relaxed);
        counter!(TOTAL_MESSAGES).increment(1);
        let index = MESSAGES.iter().position(|known| *known == kind).unwrap_or(MESSAGES.len() - 1);
        if let Some(count) = self.by_message.get(index) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A socket was closed for want of a good token.
    pub(crate) fn auth_failure(&self) {
        self.auth_failures.fetch_add(1, Ordering::Relaxed);
        counter!(AUTH_FAILURES).increment(1);
    }

    /// Something could not be done.
    pub(crate) fn error(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        counter!(ERRORS).increment(1);
    }

    /// A channel is followed (1), or no longer (-1).
    pub(crate) fn followed(&self, topic: &Topic, by: i64) {
        let index = match topic {
            Topic::User(_) => 0,
            Topic::Feed(_) => 1,
            Topic::Creator(_) => 2,
            Topic::Post(_) => 3,
            Topic::Session(_) | Topic::Room(_) => return,
        };
        if let Some(count) = self.by_channel.get(index) {
            count.fetch_add(by, Ordering::Relaxed);
        }
    }

    /// The answer of `GET /stats`. Channels are counted by their kind: their names would name users.
    pub(crate) fn json(&self) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Answer {
            total_connections: u64,
            active_connections: u64,
            total_messages: u64,
            auth_failures: u64,
            errors: u64,
            start_time: String,
            connections_by_channel: BTreeMap<&'static str, i64>,
            messages_by_type: BTreeMap<&'static str, u64>,
            uptime: String,
            average_messages_per_minute: f64,
        }
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let minutes = self.began.elapsed().as_secs() / 60;
        let messages = read(&self.messages);
        let channels = self.by_channel.iter().map(|count| count.load(Ordering::Relaxed));
        let answer = Answer {
            total_connections: read(&self.total),
            active_connections: read(&self.active),
            total_messages: messages,
            auth_failures: read(&self.auth_failures),
            errors: read(&self.errors),
            start_time: self.started_at.to_string(),
            connections_by_channel: CHANNELS.into_iter().zip(channels).collect(),
            messages_by_type: MESSAGES.into_iter().zip(self.by_message.iter().map(read)).collect(),
            uptime: format!("{}h {}m", minutes / 60, minutes % 60),
            average_messages_per_minute: messages as f64 / minutes.max(1) as f64,
        };
        serde_json::to_string(&answer).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_is_that_of_system_c() {
        let stats = Stats::new(Timestamp(0));
        let _open = stats.connection();
        drop(stats.connection());
        stats.message("subscribe");
        stats.message("dance");
        stats.followed(&"creator:c".parse().unwrap(), 1);
        stats.auth_failure();
        let value: serde_json::Value = serde_json::from_str(&stats.json()).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "totalConnections": 2, "activeConnections": 1, "totalMessages": 2, "authFailures": 1, "errors": 0,
                "startTime": "1970-01-01T00:00:00.000Z",
                "connectionsByChannel": {"notifications": 0, "feed": 0, "creator": 1, "post": 0},
                "messagesByType": {"subscribe": 1, "unsubscribe": 0, "ping": 0, "refresh": 0, "other": 1},
                "uptime": "0h 0m", "averageMessagesPerMinute": 2.0
            })
        );
    }
}
