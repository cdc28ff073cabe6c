use std::{ffi::OsStr, process::Stdio};

use tokio::process::Command;

/// What a program has printed.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its standard output.
    pub bytes: Vec<u8>,
}

impl Output {
    /// Head and body of an answer that `curl -i` has printed.
    ///
    /// # Panics
    /// When there is no empty line.
    pub fn http(&self) -> (String, &[u8]) {
        let at = self.bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("an HTTP answer");
        let (head, body) = self.bytes.split_at(at);
        (String::from_utf8_lossy(head).into_owned(), body.get(4..).unwrap_or_default())
    }
}

/// Runs a program to its end.
///
/// # Panics
/// When it is not installed or fails; with what it said.
pub async fn run<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> Output {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).kill_on_drop(true).output().await;
    let output =
        output.unwrap_or_else(|error| panic!("{program} is needed (`make test` installs it): {error}"));
    assert!(
        output.status.success(),
        "{program}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Output { bytes: output.stdout }
}

/// Memory of this process that is in RAM, in MiB (proc(5), `VmRSS`).
///
/// # Panics
/// Where there is no `/proc`.
pub fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc/self/status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of kB");
    kib / 1024
}
