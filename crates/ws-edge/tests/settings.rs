//! The process and its settings: whatever is wrong is said at once, before anything is opened.

use std::{net::TcpListener, process::Output};

use testkit::{reported, run_binary};

/// Runs the service with these settings alone.
fn run(settings: &[(&str, &str)]) -> Output {
    run_binary(env!("CARGO_BIN_EXE_ws-edge"), settings)
}

#[test]
fn everything_that_is_missing_is_named_at_once() {
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    let lines = reported(&output);
    for name in ["TRANSCRIPTION_JWT_SECRET", "DATABASE_URL"] {
        assert!(lines.iter().any(|line| line.starts_with(&format!("{name}: missing"))), "{name}: {lines:?}");
    }
    assert_eq!(lines.len(), 2, "{lines:?}");
}

#[test]
fn everything_that_is_malformed_is_named_and_not_repeated() {
    // Taken, so that an attempt to listen would be another failure.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let wrong = [
        ("DATABASE_URL", "hunter2://hunter2"),
        ("REDIS_URL", "hunter2"),
        ("METRICS_PORT", "hunter2"),
        ("BIND_ADDR", "hunter2"),
        ("TRANSCRIPTION_WORKERS", "hunter2 hunter2"),
        ("FRAMES_PER_SECOND", "0"),
        ("CHAT_PORT", "hunter2"),
        ("NOTIFICATION_HUB", "hunter2"),
        ("CHANNEL_ACCESS_HOOK", "https://hunter2"),
        ("JWT_SECRET", "hunter2"),
        ("UPGRADE_AUTH", "hunter2"),
        ("TRANSCRIPT_MESSAGES", "hunter2"),
        ("TRUSTED_PROXIES", "hunter2/99"),
        ("PING_INTERVAL_MS", "hunter2"),
        ("LEGACY_OPEN_ROUTES", "hunter2"),
        ("SESSION_PORT", "hunter2"),
        ("TRANSLATE_PORT", "hunter2"),
        ("FASTER_WHISPER_REQUIRE_AUTH", "hunter2"),
        ("LIVEKIT_WS_URL", "https://hunter2"),
        ("EGRESS_MODE", "hunter2"),
        ("EGRESS_WEBSOCKET_BASE_URL", "wss://hunter2/elsewhere"),
        ("EGRESS_SAMPLE_RATE", "hunter2"),
        ("EGRESS_CHANNELS", "hunter2"),
        ("RTMP_HOST", "rtmp://hunter2"),
        ("RTMP_EXTERNAL_PORT", "hunter2"),
        ("RTMP_PORT", "hunter2"),
        ("WS_TEST_MODE", "hunter2"),
        ("WS_ENABLE_TEST_BROADCAST", "hunter2"),
    ];
    let output = run(&[&wrong[..], &[("PORT", port.as_str())]].concat());
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    let lines = reported(&output);
    let missing = ["TRANSCRIPTION_JWT_SECRET", "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET"];
    for name in wrong.iter().map(|(name, _)| name).chain(&missing) {
        assert!(lines.iter().any(|line| line.starts_with(&format!("{name}: "))), "{name}: {lines:?}");
    }
    assert_eq!(lines.len(), wrong.len() + missing.len(), "{lines:?}");
    assert!(!lines.concat().contains("hunter2"), "values may be secrets: {lines:?}");
    assert!(output.stdout.is_empty(), "it listens nowhere: {output:?}");
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = run(&[
        ("PORT", port.as_str()),
        ("METRICS_PORT", "0"),
        ("TRANSLATE_PORT", "0"),
        ("TRANSCRIPTION_JWT_SECRET", "hunter2"),
        ("DATABASE_URL", "postgres://user:hunter2@127.0.0.1:1/none"),
    ]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("(PORT)") && said.contains(&port), "{said}");
    assert!(!said.contains("hunter2") && !String::from_utf8(output.stdout).unwrap().contains("hunter2"));
}
