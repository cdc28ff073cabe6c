//! Redis pub/sub: rings the bell for whoever follows a topic. The only crate that speaks Redis.
//!
//! This changes when the envelope, the channel names or the way of subscribing do. It must not know what is stored:
//! a ring that is lost is not repeated here, the listener is told that there may be a [`Received::Gap`] and refills
//! from Postgres. Events of one topic may arrive twice and out of order; finals carry the sequence to order by.

mod channels;
mod connection;
mod envelope;
mod event;
mod others;
mod presence;
mod publisher;
mod room_presence;
mod sentinel;
mod state;
mod subscriber;

use std::{sync::Arc, time::Duration};

use model::{FaultKind, Topic};
use settings::{Reader, Secret};

pub use channels::DEFAULT_PREFIX;
pub use event::Event;
pub use others::DEFAULT_OTHERS_PREFIX;
pub use presence::{PRESENCE_INTERVAL, PRESENCE_LIFE};
pub use publisher::{PUBLISH_FAILED_TOTAL, PUBLISHED_TOTAL};
pub use room_presence::{ROOM_SEATS_MAX, RoomMembers};
pub use subscriber::{
    CONNECTIONS_LOST_TOTAL, GAPS_TOTAL, IGNORED_TOTAL, QUEUE_EVENTS_MAX, Received, Subscriber,
};

use crate::{channels::Channels, connection::Server, publisher::Publisher};

/// Longest wait of [`EventBus::publish`] and [`EventBus::check`], connecting included. Captions are worth little
/// later than this, and a final is published again from the outbox.
pub const PUBLISH_LIMIT: Duration = Duration::from_secs(2);

/// How to reach Redis.
#[derive(Debug, Clone)]
pub struct BusSettings {
    /// `redis://user:password@host:port/database`; Redis 6 or later, as RESP3 came with it. `rediss://` is Redis with
    /// TLS, of which the certificate is checked against the CAs of the system, or with `?sslrootcert=FILE` against those
    /// of a PEM file. `redis+sentinel://user:password@host:port,host:port/PRIMARY/database` is Redis behind Sentinel, with
    /// `?sentinel_password=` where Sentinel wants one; `rediss+sentinel://` is both with TLS.
    pub url: Secret,
    /// Begins every channel name, so that several installations can share one Redis; [`DEFAULT_PREFIX`] otherwise.
    pub prefix: String,
    /// Begins the channels in which other back ends publish and listen; `None` when there are none.
    pub others: Option<String>,
}

impl BusSettings {
    /// Reads `REDIS_URL` (default `redis://127.0.0.1:6379`), `REDIS_PREFIX` (default [`DEFAULT_PREFIX`]) and
    /// `REDIS_WS_PREFIX` (default [`DEFAULT_OTHERS_PREFIX`]; `off` when no other back end shares this Redis).
    pub fn read(reader: &mut Reader) -> Self {
        let url =
            reader.or("REDIS_URL", Secret::from("redis://127.0.0.1:6379"), "redis://host:port/database");
        if let Err(BusError::Address(why)) = Server::new(&url) {
            reader.problem("REDIS_URL", why);
        }
        let prefix = reader.text("REDIS_PREFIX").unwrap_or_else(|| DEFAULT_PREFIX.to_owned());
        let others = reader.text("REDIS_WS_PREFIX").unwrap_or_else(|| DEFAULT_OTHERS_PREFIX.to_owned());
        if others == prefix || others == format!("{prefix}:") {
            reader.problem("REDIS_WS_PREFIX", "expected another prefix than REDIS_PREFIX");
        }
        Self { url, prefix, others: Some(others).filter(|others| others != "off") }
    }
}

/// Why Redis did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// The setting cannot be parsed, or the certificates that it names cannot be read. The text does not repeat it: it
    /// holds a password.
    #[error("the Redis URL cannot be used: {0}")]
    Address(String),
    /// Not reachable, too slow, or not willing.
    #[error("Redis is not available: {0}")]
    Unavailable(String),
}

impl BusError {
    /// Who must act.
    pub fn fault(&self) -> FaultKind {
        match self {
            Self::Address(_) => FaultKind::Defect,
            Self::Unavailable(_) => FaultKind::Dependency,
        }
    }
}

/// The way to one Redis. Cheap to clone; clones share the connection that publishes.
#[derive(Clone)]
pub struct EventBus {
    server: Server,
    channels: Channels,
    publisher: Arc<Publisher>,
}

impl EventBus {
    /// Prepares the way. Connects on first use, so Redis need not be up.
    ///
    /// # Errors
    /// [`BusError::Address`] when the URL cannot be parsed, or its certificates cannot be read.
    pub fn connect(settings: &BusSettings) -> Result<Self, BusError> {
        let server = Server::new(&settings.url)?;
        Ok(Self {
            publisher: Arc::new(Publisher::new(server.clone())),
            server,
            channels: Channels::new(&settings.prefix, settings.others.as_deref()),
        })
    }

    /// Tells everybody who is subscribed to `topic` now, and other back ends when it is a topic of theirs. Waits at
    /// most [`PUBLISH_LIMIT`], and not at all while a connection attempt has just failed.
    ///
    /// # Errors
    /// [`BusError::Unavailable`]; the event may have been delivered even so.
    pub async fn publish(&self, topic: &Topic, event: &Event) -> Result<(), BusError> {
        self.publisher.publish(&self.channels, topic, event).await
    }

    /// Whether Redis answers within [`PUBLISH_LIMIT`]; for readiness.
    ///
    /// # Errors
    /// [`BusError::Unavailable`].
    pub async fn check(&self) -> Result<(), BusError> {
        self.publisher.ping().await
    }

    /// A listener with a connection of its own, subscribed to nothing.
    pub fn subscriber(&self) -> Subscriber {
        Subscriber::new(self.server.clone(), self.channels.clone(), false)
    }

    /// The same, which also hears what other back ends publish in the topics that it is subscribed to.
    pub fn subscriber_with_others(&self) -> Subscriber {
        Subscriber::new(self.server.clone(), self.channels.clone(), true)
    }
}

/// Registers this crate's metrics at zero.
pub fn describe_metrics() {
    publisher::describe_metrics();
    subscriber::describe_metrics();
}
