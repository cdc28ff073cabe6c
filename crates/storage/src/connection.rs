use std::time::Duration;

use deadpool_postgres::Object;
use telemetry::SpanKind;
use tokio::time::{Instant, timeout};
use tokio_postgres::{Config, Row, types::ToSql};

use crate::{Storage, StorageError, address::Address};

/// Longest time for one operation. A little more than the server's own limit, so that the server's refusal, which
/// leaves the connection usable, usually comes first.
pub const OPERATION_LIMIT: Duration = Duration::from_secs(8);

/// Seconds per operation, by `operation`.
pub const STATEMENT_SECONDS: &str = "storage_statement_seconds";

/// Limits that the server keeps for us: no statement of ours takes longer than milliseconds unless something is
/// wrong, and a claim on the outbox whose process froze must not hold its rows for long.
const SERVER_LIMITS: &str = "-c statement_timeout=5000 -c idle_in_transaction_session_timeout=30000";

/// How long sent bytes may stay unacknowledged before the kernel gives the connection up.
const UNACKNOWLEDGED_LIMIT: Duration = Duration::from_secs(10);

/// How long an idle connection is trusted before the kernel probes it.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);

pub(crate) fn config(address: &Address, connect_timeout: Duration) -> Config {
    let mut config = address.config.clone();
    let options = match config.get_options() {
        // The operator's options come last and win.
        Some(theirs) => format!("{SERVER_LIMITS} {theirs}"),
        None => SERVER_LIMITS.to_owned(),
    };
    config
        .options(options)
        .application_name("parley")
        .connect_timeout(connect_timeout)
        .keepalives_idle(KEEPALIVE_IDLE)
        .tcp_user_timeout(UNACKNOWLEDGED_LIMIT);
    config
}

/// SQL with the name under which it is measured.
pub(crate) struct Statement {
    pub(crate) name: &'static str,
    pub(crate) sql: &'static str,
}

/// A connection from the pool with a time limit on everything. After a limit has passed the connection is in an
/// unknown state and does not go back to the pool.
pub(crate) struct Connection(Option<Object>);

impl Storage {
    pub(crate) async fn connection(&self) -> Result<Connection, StorageError> {
        match self.pool.get().await {
            Ok(object) => Ok(Connection(Some(object))),
            Err(error) => Err(StorageError::from(error).counted()),
        }
    }

    pub(crate) async fn query(
        &self,
        statement: &Statement,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, StorageError> {
        self.connection().await?.query(statement, parameters).await
    }

    pub(crate) async fn query_opt(
        &self,
        statement: &Statement,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>, StorageError> {
        Ok(self.query(statement, parameters).await?.into_iter().next())
    }
}

impl Connection {
    pub(crate) async fn query(
        &mut self,
        statement: &Statement,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, StorageError> {
        self.limited(statement.name, async |object| {
            let prepared = object.prepare_cached(statement.sql).await?;
            object.query(&prepared, parameters).await
        })
        .await
    }

    /// Runs `operation` within [`OPERATION_LIMIT`], measured as `name`.
    pub(crate) async fn limited<T>(
        &mut self,
        name: &'static str,
        operation: impl AsyncFnOnce(&Object) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, StorageError> {
        self.limited_to(OPERATION_LIMIT, name, operation).await
    }

    /// Runs `operation` within `limit`, measured as `name`.
    pub(crate) async fn limited_to<T>(
        &mut self,
        limit: Duration,
        name: &'static str,
        operation: impl AsyncFnOnce(&Object) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, StorageError> {
        let Some(object) = &self.0 else {
            return Err(StorageError::Unavailable("the connection was given up".to_owned()).counted());
        };
        let mut span = telemetry::span(name, SpanKind::Client);
        span.set("db.system.name", "postgresql");
        span.set("db.operation.name", name);
        let began = Instant::now();
        let outcome = timeout(limit, operation(object)).await;
        if !matches!(outcome, Ok(Ok(_))) {
            span.failed("postgresql");
        }
        metrics::histogram!(STATEMENT_SECONDS, "operation" => name).record(began.elapsed());
        match outcome {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(StorageError::from(error).counted()),
            Err(_) => {
                self.close();
                Err(StorageError::Unavailable(format!("no answer to {name} in time")).counted())
            }
        }
    }

    /// Closes the connection instead of returning it to the pool; Postgres rolls back what it had open.
    pub(crate) fn close(&mut self) {
        if let Some(object) = self.0.take() {
            drop(Object::take(object));
        }
    }

    /// The connection itself, for what has other limits; it never returns to the pool.
    pub(crate) fn detach(mut self) -> Option<deadpool_postgres::ClientWrapper> {
        self.0.take().map(Object::take)
    }
}
