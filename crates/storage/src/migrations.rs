use crate::{Storage, StorageError, connection::Statement};

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// Key of the advisory lock under which migrations run, so that two of them take turns: "parley" in ASCII.
const MIGRATION_LOCK: i64 = 0x7061_726c_6579;

const VERSION: Statement =
    Statement { name: "schema_version", sql: "SELECT max(version) FROM refinery_schema_history" };

/// The newest migration that this program carries.
pub(crate) fn needed_version() -> i32 {
    embedded::migrations::runner()
        .get_migrations()
        .iter()
        .map(|migration| migration.version())
        .max()
        .unwrap_or(0)
}

/// Whether rows can be written: no standby, no read-only default, and a role that may insert where each final begins.
const WRITABLE: Statement = Statement {
    name: "writable",
    sql: "SELECT NOT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'off'
        AND has_table_privilege('topics', 'INSERT') AND has_table_privilege('segments', 'INSERT')",
};

impl Storage {
    /// Brings the schema to this program's version. Does nothing when it is there or beyond; waits while another
    /// process migrates.
    ///
    /// # Errors
    /// [`StorageError::Unavailable`], or [`StorageError::Defect`] with the migration that failed; each migration is
    /// a transaction of its own.
    pub async fn migrate(&self) -> Result<(), StorageError> {
        let Some(mut client) = self.connection().await?.detach() else {
            return Err(StorageError::Unavailable("the connection was given up".to_owned()));
        };
        // A migration may rightly take longer than any statement of a request.
        client
            .batch_execute(&format!("SET statement_timeout = 0; SELECT pg_advisory_lock({MIGRATION_LOCK})"))
            .await?;
        // A database that is ahead of us is the normal state while an older program is rolled back.
        let runner = embedded::migrations::runner().set_abort_missing(false);
        let report = runner
            .run_async(&mut *client)
            .await
            .map_err(|error| StorageError::Defect(format!("a migration failed: {error}")))?;
        for migration in report.applied_migrations() {
            tracing::info!(version = migration.version(), name = migration.name(), "migrated");
        }
        // The lock goes with the connection.
        Ok(())
    }

    /// Whether Postgres answers and its schema is at least this program's; for readiness.
    ///
    /// # Errors
    /// [`StorageError::Unavailable`] or [`StorageError::Unmigrated`].
    pub async fn check(&self) -> Result<(), StorageError> {
        let needed = needed_version();
        let found: Option<i32> = match self.query_opt(&VERSION, &[]).await? {
            Some(row) => row.try_get(0)?,
            None => None,
        };
        match found {
            Some(version) if version >= needed => Ok(()),
            found => Err(StorageError::Unmigrated { found, needed }.counted()),
        }
    }

    /// Whether what is said could be stored; for diagnosis. Nothing is written.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn check_writable(&self) -> Result<bool, StorageError> {
        match self.query_opt(&WRITABLE, &[]).await? {
            Some(row) => Ok(row.try_get(0)?),
            None => Ok(false),
        }
    }
}

/// Names the set of migrations that this program carries, for whoever keeps a migrated database to copy.
pub fn schema_fingerprint() -> u64 {
    let migrations = embedded::migrations::runner();
    migrations
        .get_migrations()
        .iter()
        .fold(0, |sum: u64, migration| sum.rotate_left(1) ^ migration.checksum())
}
