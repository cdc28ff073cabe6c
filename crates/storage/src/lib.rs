//! Postgres: sessions, streams, stream keys, transcripts, notifications, messages
//! and the outbox. The only crate that speaks SQL.
//!
//! This changes when what is kept, or how, changes. It must not know who asks: no sockets, no gRPC, no Redis. Times
//! and ids are arguments, what is not found is `Ok(None)`, and every operation is over, one way or the other, within
//! [`OPERATION_LIMIT`] ([`ERASE_LIMIT`] for what erases) plus the wait for a connection.
//!
//! Invariant: a final, its place in the topic and its announcement are one transaction
//! ([`Storage::record_final`]), and so are a notification, its place and its announcement, and every change of an
//! inbox; whoever sees sequence N can read every sequence before it.

mod address;
mod columns;
mod connection;
mod erasure;
mod error;
mod messages;
mod migrations;
mod notifications;
mod notifications_change;
mod notifications_due;
mod notifications_list;
mod notifications_replay;
mod old;
mod outbox_rows;
mod past;
#[cfg(test)]
mod plans;
mod preferences;
mod revisions;
mod rooms;
mod search;
mod session_events;
mod sessions;
mod speakers;
mod stream_keys;
mod streams;
mod tls;
mod topics;
mod transcripts;
mod translations;
mod usage;

use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, Runtime};
use settings::{Reader, Secret};

use crate::{address::Address, tls::Dial};

pub use connection::{OPERATION_LIMIT, STATEMENT_SECONDS};
pub use erasure::{ERASE_LIMIT, Erased, Erasing};
pub use error::{FAILURES_TOTAL, StorageError};
pub use messages::{COUNT_MAX, MessageChange};
pub use migrations::schema_fingerprint;
pub use notifications::{Idempotency, NewNotifications, Publication};
pub use notifications_change::{InboxChange, Mark};
pub use notifications_due::{Delivery, Queue, Way};
pub use notifications_list::InboxFilter;
pub use notifications_replay::{InboxEvent, Story};
pub use old::{
    OLD_MESSAGES, OLD_NOTIFICATIONS, OLD_PARTICIPANTS, OLD_ROWS_MAX, OLD_SEGMENTS, OLD_SESSIONS,
    OLD_SETTINGS, OldDatabase, OldRow, OldRows, Reading, Unreadable,
};
pub use outbox_rows::{Announcement, OutboxClaim, OutboxRow};
pub use past::{PastKind, PastNotification, PastParticipant, PastSegment, PastSession};
pub use preferences::PushSubscription;
pub use revisions::Revision;
pub use rooms::{Room, RoomMode};
pub use search::{Found, FoundPage, Search, SearchPosition};
pub use session_events::{SessionEvent, SessionEventKind, SessionNews};
pub use sessions::{Session, SessionStatus};
pub use speakers::Turn;
pub use stream_keys::{NewStreamKey, StreamKey};
pub use streams::{KnownStream, NewStream, OpenStream, StreamLimits};
pub use transcripts::{NewFinal, Recorded, TranscriptFilter};
pub use translations::{NewTranslation, Waiting, WantedTranslation};
pub use usage::{Metered, REPORTS_MAX, UsageReport, UsageRow, UsageTotals};

/// How to reach Postgres.
#[derive(Debug, Clone)]
pub struct StorageSettings {
    /// `postgres://user:password@host:port/database`, with libpq's `sslmode` and `sslrootcert` where TLS is wanted: a
    /// `sslrootcert` is a PEM file; without one, or as `system`, the CAs of the system count.
    pub url: Secret,
    /// Most connections this process holds; more callers than that wait for `connect_timeout`.
    pub connections_max: usize,
    /// Longest wait for a connection, new or from the pool.
    pub connect_timeout: Duration,
}

impl StorageSettings {
    /// Reads `DATABASE_URL`, `DATABASE_CONNECTIONS` (default 10) and `DATABASE_CONNECT_MS` (default 3000). `None` when
    /// the URL is missing, which the reader then reports.
    pub fn read(reader: &mut Reader) -> Option<Self> {
        let url: Option<Secret> =
            reader.required("DATABASE_URL", "postgres://user:password@host:port/database");
        let connections_max = reader.or("DATABASE_CONNECTIONS", 10_usize, "a number of connections");
        let connect_timeout = reader.millis("DATABASE_CONNECT_MS", Duration::from_secs(3));
        let settings = Self { url: url?, connections_max, connect_timeout };
        if let Err(StorageError::Address(why)) = settings.way() {
            reader.problem("DATABASE_URL", &why);
        }
        Some(settings)
    }

    fn way(&self) -> Result<(Address, Dial), StorageError> {
        let address = Address::parse(&self.url)?;
        let dial = Dial::new(&address)?;
        Ok((address, dial))
    }
}

/// A pool of connections to one database. Cheap to clone.
#[derive(Clone)]
pub struct Storage {
    pool: Pool,
}

impl Storage {
    /// Prepares the pool. Connects on first use, so Postgres need not be up.
    ///
    /// # Errors
    /// [`StorageError::Address`] when the URL cannot be parsed, or its certificates cannot be read.
    pub fn connect(settings: &StorageSettings) -> Result<Self, StorageError> {
        let (address, dial) = settings.way()?;
        let config = connection::config(&address, settings.connect_timeout);
        let manager = Manager::from_connect(config, dial, ManagerConfig::default());
        let pool = Pool::builder(manager)
            .max_size(settings.connections_max.max(1))
            .wait_timeout(Some(settings.connect_timeout))
            .create_timeout(Some(settings.connect_timeout))
            .recycle_timeout(Some(settings.connect_timeout))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| {
                StorageError::Defect(format!("the pool of connections cannot be built: {error}"))
            })?;
        Ok(Self { pool })
    }
}

/// Registers this crate's metrics at zero.
pub fn describe_metrics() {
    metrics::describe_histogram!(
        STATEMENT_SECONDS,
        metrics::Unit::Seconds,
        "Time of one operation on Postgres without the wait for a connection"
    );
    metrics::describe_counter!(FAILURES_TOTAL, "Operations on Postgres that failed, by what went wrong");
    for reason in error::REASONS {
        metrics::counter!(FAILURES_TOTAL, "reason" => reason).absolute(0);
    }
}
