//! The process and its settings: whatever is wrong is said at once, before anything is opened.

use std::{net::TcpListener, process::Output};

use testkit::{reported, run_binary};

/// Runs the service with these settings alone.
fn run(settings: &[(&str, &str)]) -> Output {
    run_binary(env!("CARGO_BIN_EXE_transcription-worker"), settings)
}

#[test]
fn a_missing_setting_is_named() {
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    let lines = reported(&output);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines.iter().all(|line| line.starts_with("DATABASE_URL: missing")), "{lines:?}");
}

#[test]
fn everything_that_is_malformed_is_named_and_not_repeated() {
    // Taken, so that an attempt to listen would be another failure.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let wrong = [
        ("DATABASE_URL", "hunter2://hunter2"),
        ("REDIS_URL", "hunter2"),
        ("WORKER_METRICS_PORT", "hunter2"),
        ("BIND_ADDR", "hunter2"),
        ("ENGINE_THREADS", "hunter2"),
        ("STREAMS_MAX", "hunter2"),
        ("DRAIN_SECONDS", "hunter2"),
        ("DATABASE_CONNECTIONS", "hunter2"),
    ];
    let output = run(&[&wrong[..], &[("WORKER_PORT", port.as_str())]].concat());
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    let lines = reported(&output);
    for (name, _) in wrong {
        assert!(lines.iter().any(|line| line.starts_with(&format!("{name}: "))), "{name}: {lines:?}");
    }
    assert_eq!(lines.len(), wrong.len(), "{lines:?}");
    assert!(!lines.concat().contains("hunter2"), "values may be secrets: {lines:?}");
    assert!(output.stdout.is_empty(), "it listens nowhere: {output:?}");
}
