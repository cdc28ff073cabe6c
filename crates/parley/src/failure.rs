use std::{
    io::{self, Write},
    process::ExitCode,
};

use crate::{import::ImportError, notify::NotifyError, source::SourceError, trouble::Trouble};

/// Why a command did not do what it was asked. Its text says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Settings are missing or malformed.
    #[error(transparent)]
    Settings(#[from] settings::Problems),
    /// The sound cannot be read or understood.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The server cannot be reached, or refused or ended the connection.
    #[error(transparent)]
    Connection(#[from] Trouble),
    /// The token cannot be made.
    #[error("the token cannot be made: {0}")]
    Token(#[from] auth::AuthError),
    /// The database.
    #[error(transparent)]
    Storage(#[from] storage::StorageError),
    /// There is no such stream key.
    #[error("session {0} has no stream key of this id; `parley key list` names those that it has")]
    NoKey(model::SessionSlug),
    /// Nobody was told.
    #[error(transparent)]
    Notify(#[from] NotifyError),
    /// What `doctor` found; the lines above it say what.
    #[error("{failed} of {tried} checks failed")]
    Unwell {
        /// How many failed.
        failed: usize,
        /// Of how many.
        tried: usize,
    },
    /// Nothing is imported, or no more.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// There is nothing to export.
    #[error("no captions are stored for {0}")]
    Empty(String),
    /// What was printed is not complete; the reason stands above it.
    #[error("the transcript may lack words: {0}")]
    Incomplete(String),
    /// The output cannot be written.
    #[error("the output cannot be written: {0}")]
    Output(#[from] io::Error),
    /// The named output file cannot be written.
    #[error("{path} cannot be written: {error}")]
    File {
        /// The file.
        path: String,
        /// Why.
        error: io::Error,
    },
}

impl Failure {
    /// Says it on standard error and gives the exit code.
    pub fn report(&self) -> ExitCode {
        if let Self::Output(error) = self
            && error.kind() == io::ErrorKind::BrokenPipe
        {
            // Whoever read us has seen enough (`parley tail | head`).
            return ExitCode::SUCCESS;
        }
        // When standard error is gone too, the exit code still tells.
        drop(writeln!(io::stderr(), "parley: {self}"));
        match self {
            Self::Settings(_) => ExitCode::from(settings::EXIT_CODE),
            _ => ExitCode::FAILURE,
        }
    }
}
