//! The one place that reads the environment.

use std::path::PathBuf;

use settings::Secret;

/// A Postgres server on which databases may be made and dropped, as a URL of one that exists.
pub(crate) const DATABASE_URL: &str = "PARLEY_TEST_DATABASE_URL";

/// A Redis server that tests share; each has its own prefix.
pub(crate) const REDIS_URL: &str = "PARLEY_TEST_REDIS_URL";

#[track_caller]
pub(crate) fn required(name: &str) -> Secret {
    #[expect(
        clippy::disallowed_methods,
        reason = "tests are told where their servers are by the environment alone"
    )]
    let value = std::env::var(name);
    match value {
        Ok(value) if !value.is_empty() => value.into(),
        _ => panic!("{name} is not set: run `make test`, or `make services` and what it prints"),
    }
}

/// How long sounds without speech are in tests, in minutes.
const SOAK_MINUTES: &str = "PARLEY_SOAK_MINUTES";

/// How many minutes a long test should take, when somebody asks for a longer one than usual.
///
/// # Panics
/// When `PARLEY_SOAK_MINUTES` is set and no number.
pub fn soak_minutes() -> Option<usize> {
    #[expect(clippy::disallowed_methods, reason = "tests are told how long to take by the environment alone")]
    let value = std::env::var(SOAK_MINUTES).ok()?;
    Some(value.parse().expect("PARLEY_SOAK_MINUTES to be a whole number"))
}

/// An ffmpeg that knows Enhanced RTMP (version 7 or later).
const FFMPEG: &str = "PARLEY_TEST_FFMPEG";

/// The path of an ffmpeg that knows Enhanced RTMP, which that of the system may not.
///
/// # Panics
/// When `PARLEY_TEST_FFMPEG` is not set.
pub fn new_ffmpeg() -> String {
    required(FFMPEG).expose().to_owned()
}

/// Folder of the speech model, where the environment says it.
pub fn model_dir() -> Option<PathBuf> {
    #[expect(
        clippy::disallowed_methods,
        reason = "tests are told where the model lies by the environment alone"
    )]
    let setting = std::env::var_os("PARLEY_MODEL_DIR");
    setting.map(PathBuf::from)
}
