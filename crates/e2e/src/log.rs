use std::{
    io::{self, Write},
    sync::{Mutex, Once, PoisonError},
};

use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

/// What is kept; the newest. A story logs a few KiB.
const KEPT_BYTES_MAX: usize = 4 * 1024 * 1024;

static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Keeper;

impl Write for Keeper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
        let excess = (log.len() + bytes.len()).saturating_sub(KEPT_BYTES_MAX).min(log.len());
        log.drain(..excess);
        log.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Keep;

impl MakeWriter<'_> for Keep {
    type Writer = Keeper;
    fn make_writer(&self) -> Keeper {
        Keeper
    }
}

/// Keeps from now on what the services of this process log.
pub(crate) fn keep() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let filter = EnvFilter::new("info,tower=warn,h2=warn");
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(Keep).init();
    });
}

/// What the services of all stacks of this process have logged.
pub fn logged() -> String {
    String::from_utf8_lossy(&LOG.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
}
