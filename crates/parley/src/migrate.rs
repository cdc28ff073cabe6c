use std::{
    io::{self, Write},
    time::Duration,
};

use settings::{Reader, Secret};
use storage::{Storage, StorageError, StorageSettings};

use crate::failure::Failure;

/// Longest wait for a connection: long enough for a Postgres that is just starting.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(15);

/// Bring the database to the schema of this version.
///
/// The database is the one that DATABASE_URL names. Safe to repeat and to run beside another; does nothing when the
/// schema is there. Nothing else changes a schema.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Migrates.
pub async fn run(_: Args) -> Result<(), Failure> {
    let storage = open(settings::load()?)?;
    let done = match storage.check().await {
        Ok(()) => "the schema is up to date, nothing to do".to_owned(),
        Err(StorageError::Unmigrated { found, needed }) => {
            storage.migrate().await?;
            match found {
                Some(found) => format!("the schema went from version {found} to {needed}"),
                None => format!("the schema is there, at version {needed}"),
            }
        }
        Err(error) => return Err(error.into()),
    };
    writeln!(io::stdout(), "migrated: {done}")?;
    Ok(())
}

/// The database that the settings name.
pub fn open(mut reader: Reader) -> Result<Storage, Failure> {
    let url = reader.required::<Secret>("DATABASE_URL", "postgres://user:password@host:port/database");
    let url = reader.finish(|| url)?;
    Ok(Storage::connect(&StorageSettings { url, connections_max: 1, connect_timeout: CONNECT_LIMIT })?)
}
