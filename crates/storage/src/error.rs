use deadpool_postgres::{PoolError, TimeoutType};
use model::FaultKind;
use tokio_postgres::error::{DbError, SqlState};

use crate::{migrations, tls};

/// Counts failed operations by `reason`.
pub const FAILURES_TOTAL: &str = "storage_failures_total";

pub(crate) const REASONS: [&str; 7] =
    ["address", "unavailable", "unmigrated", "superseded", "forbidden", "too_many_streams", "defect"];

/// Why Postgres did not do what was asked. Its texts hold no value of any row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    /// The setting cannot be parsed, or the certificates that it names cannot be read. The text does not repeat it: it
    /// holds a password.
    #[error("the database URL cannot be used: {0}")]
    Address(String),
    /// Not reachable, overloaded, restarting or too slow. The same call may succeed later; a write may or may not
    /// have happened, and [`crate::Storage::record_final`] tells when it is repeated.
    #[error("Postgres is not available: {0}")]
    Unavailable(String),
    /// The schema is older than this program.
    #[error("the database schema is at version {}, this program needs {needed}: run `parley migrate`", or_none(.found))]
    Unmigrated {
        /// The version it is at, when it is known and there is one.
        found: Option<i32>,
        /// The version that this program was built with.
        needed: i32,
    },
    /// Another worker has opened the stream since (a newer epoch), or the stream is gone.
    #[error("the stream has a newer owner")]
    Superseded,
    /// The stream id is taken by another session.
    #[error("the stream belongs to another session")]
    Forbidden,
    /// The user, or the session, has as many active streams as it may.
    #[error("this user or session has as many active streams as it may: end one first")]
    TooManyStreams,
    /// A database that was to be read is another one than was thought.
    #[error("this is not the database that is meant, or another version of it: {0}")]
    Foreign(String),
    /// A mistake of ours, or a database that was changed by hand.
    #[error("Postgres refused a statement: {0}")]
    Defect(String),
}

fn or_none(version: &Option<i32>) -> String {
    version.map_or_else(|| "none".to_owned(), |version| version.to_string())
}

impl StorageError {
    /// Who must act.
    pub fn fault(&self) -> FaultKind {
        match self {
            Self::Unavailable(_) | Self::Unmigrated { .. } => FaultKind::Dependency,
            Self::Superseded | Self::Forbidden => FaultKind::Forbidden,
            Self::TooManyStreams => FaultKind::LimitReached,
            Self::Address(_) | Self::Foreign(_) | Self::Defect(_) => FaultKind::Defect,
        }
    }

    /// Whether the same call may succeed once the database is back or migrated.
    pub fn is_retryable(&self) -> bool {
        self.fault() == FaultKind::Dependency
    }

    /// Whether Postgres has ended this transaction since it and another waited for each other; that one goes on.
    pub(crate) fn is_deadlock(&self) -> bool {
        let code = SqlState::T_R_DEADLOCK_DETECTED;
        matches!(self, Self::Unavailable(text) if text.ends_with(&format!("({})", code.code())))
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Address(_) => "address",
            Self::Unavailable(_) => "unavailable",
            Self::Unmigrated { .. } => "unmigrated",
            Self::Superseded => "superseded",
            Self::Forbidden => "forbidden",
            Self::TooManyStreams => "too_many_streams",
            Self::Foreign(_) | Self::Defect(_) => "defect",
        }
    }

    /// Counts the failure and hands it on.
    pub(crate) fn counted(self) -> Self {
        metrics::counter!(FAILURES_TOTAL, "reason" => self.reason()).increment(1);
        self
    }
}

/// Whatever goes wrong while connecting is about the server or the way to it.
pub(crate) fn while_connecting(error: &tokio_postgres::Error) -> StorageError {
    match error.as_db_error() {
        Some(refusal) => from_sqlstate(refusal),
        None => StorageError::Unavailable(tls::explained(error).unwrap_or_else(|| chain(error))),
    }
}

impl From<tokio_postgres::Error> for StorageError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(refusal) => from_sqlstate(refusal),
            // No refusal by the server: the connection broke, or a row does not have the columns we asked for.
            None if error.is_closed() || is_io(&error) => Self::Unavailable(chain(&error)),
            None => Self::Defect(chain(&error)),
        }
    }
}

impl From<PoolError> for StorageError {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) => while_connecting(&error),
            PoolError::Timeout(TimeoutType::Wait) => {
                Self::Unavailable("every connection is in use".to_owned())
            }
            PoolError::Timeout(_) => Self::Unavailable("connecting took too long".to_owned()),
            other => Self::Unavailable(other.to_string()),
        }
    }
}

/// SQLSTATE (Postgres manual, appendix A) to what a caller can do about it; the one place that reads it.
fn from_sqlstate(refusal: &DbError) -> StorageError {
    let state = refusal.code();
    let code = state.code();
    let passing = [
        &SqlState::QUERY_CANCELED,
        &SqlState::READ_ONLY_SQL_TRANSACTION,
        &SqlState::T_R_SERIALIZATION_FAILURE,
        &SqlState::T_R_DEADLOCK_DETECTED,
        &SqlState::LOCK_NOT_AVAILABLE,
        &SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
    ];
    // Connection, authorisation, no such database, resources, operator intervention, system: the server's own texts
    // name hosts, users and databases, never rows.
    let outside = ["08", "28", "3D", "53", "57", "58"];
    if passing.contains(&state) || code.get(..2).is_some_and(|class| outside.contains(&class)) {
        return StorageError::Unavailable(format!("{} ({code})", refusal.message()));
    }
    if [&SqlState::UNDEFINED_TABLE, &SqlState::UNDEFINED_COLUMN].contains(&state) {
        return StorageError::Unmigrated { found: None, needed: migrations::needed_version() };
    }
    if code.starts_with("42") {
        // About the statement itself, which holds no values.
        return StorageError::Defect(format!("{} ({code})", refusal.message()));
    }
    // Other texts may quote the values that were refused.
    let place =
        refusal.constraint().or(refusal.column()).or(refusal.table()).unwrap_or("no constraint named");
    StorageError::Defect(format!("SQLSTATE {code} ({place})"))
}

fn is_io(error: &tokio_postgres::Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<std::io::Error>())
}

fn chain(error: &tokio_postgres::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
