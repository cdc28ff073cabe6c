//! The commands as a shell sees them: arguments, settings, exit codes, words.

use crate::scripted::{SECRET, Said, file, parley, run, samples, soon, wav};
use auth::SessionTokens;
use model::Clock;

#[tokio::test]
async fn a_token_verifies_and_carries_what_was_asked() {
    let verifier = SessionTokens::new(vec![SECRET.into()], Clock::system());
    let said = run(&["token", "--session", "demo", "--identity", "alice", "--name", "Alice B."]).await;
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
    assert_eq!(said.out.lines().count(), 1);
    let principal = verifier.verify(said.out.trim()).unwrap();
    assert!(principal.may_speak(&"demo".parse().unwrap()));
    assert_eq!((principal.name(), principal.user().as_str()), (Some("Alice B."), "alice"));
    let span = principal.expires_at().since(Clock::system().now()).as_secs();
    assert!((3500..=3600).contains(&span), "an hour by default, {span}");

    let arguments = [
        "token",
        "--session",
        "demo",
        "--identity",
        "alice",
        "--user",
        "u1",
        "--ttl",
        "2d",
        "--scope",
        "follow",
    ];
    let principal = verifier.verify(run(&arguments).await.out.trim()).unwrap();
    assert!(!principal.may_speak(principal.session()) && principal.may_follow(principal.session()));
    assert_eq!(principal.user().as_str(), "u1");
    assert!(principal.expires_at().since(Clock::system().now()).as_secs() > 86_400);
}

#[tokio::test]
async fn missing_settings_are_named_with_exit_code_64() {
    let recording = file("settings.wav", &wav(&samples(100)));
    for (arguments, setting) in [
        (&["token", "--session", "s", "--identity", "i"][..], "TRANSCRIPTION_JWT_SECRET: missing"),
        (&["tail", "--session", "s"], "TRANSCRIPTION_JWT_SECRET: missing"),
        (&["stream", &recording, "--session", "s"], "TRANSCRIPTION_JWT_SECRET: missing"),
        (&["migrate"], "DATABASE_URL: missing"),
        (&["export", "--session", "s", "--format", "srt"], "DATABASE_URL: missing"),
        (&["erase", "--user", "u"], "DATABASE_URL: missing"),
    ] {
        let output = soon(parley(arguments).env_remove("TRANSCRIPTION_JWT_SECRET").output()).await.unwrap();
        let said = Said::from(output);
        assert_eq!(said.code, Some(64), "{arguments:?}: {}", said.err);
        assert!(said.err.contains(setting), "{arguments:?}: {}", said.err);
    }
    let output =
        soon(parley(&["tail", "--session", "s"]).env("PARLEY_URL", "host").env("HTTP_PORT", "x").output());
    let said = Said::from(output.await.unwrap());
    assert_eq!(said.code, Some(64));
    assert!(said.err.contains("PARLEY_URL: expected ws://"), "{}", said.err);
}

#[tokio::test]
async fn wrong_usage_is_exit_code_2_and_help_has_examples() {
    for arguments in [
        &["token", "--session", "s"][..],
        &["token", "--session", "", "--identity", "i"],
        &["token", "--session", "s", "--identity", "i", "--ttl", "soon"],
        &["tail", "--session", "s", "--url", "ftp://host"],
        &["stream", "x.wav", "--session", "s", "--rate", "1"],
        &["export", "--session", "s", "--format", "doc"],
        &["export", "--session", "s", "--format", "txt", "--from", "yesterday"],
        &["erase"],
        &["erase", "--yes"],
        &["erase", "--user", "u", "--session", "s"],
        &["sing"],
        &[],
    ] {
        assert_eq!(run(arguments).await.code, Some(2), "{arguments:?}");
    }
    for command in [
        &["--help"][..],
        &["stream", "--help"],
        &["tail", "--help"],
        &["token", "--help"],
        &["export", "--help"],
        &["erase", "--help"],
    ] {
        let said = run(command).await;
        assert_eq!(said.code, Some(0));
        assert!(said.out.contains("Examples:\n  parley "), "{command:?}: {}", said.out);
    }
}

#[tokio::test]
async fn sound_that_cannot_be_sent_is_refused_before_any_connection() {
    let mp3 = file("a.mp3", b"ID3\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    let m4a = file("a.m4a", b"\0\0\0\x20ftypM4A \0\0\0\0");
    let text = file("a.txt", b"It was the best of times");
    let empty = file("empty.wav", b"");
    for (name, more, says) in [
        (mp3.as_str(), "--realtime", "--realtime needs WAV or raw samples"),
        (&m4a, "--json", "is MP4 or M4A"),
        (&text, "--json", "--encoding pcm_s16le"),
        (&empty, "--json", "is empty"),
        ("/nowhere.wav", "--json", "cannot be opened"),
        ("-", "--json", "standard input is empty"),
    ] {
        let said = run(&["stream", name, "--session", "demo", "--url", "ws://127.0.0.1:1", more]).await;
        assert_eq!(said.code, Some(1), "{name}: {}", said.err);
        assert!(said.err.contains(says), "{name}: {}", said.err);
        assert_eq!(said.out, "");
    }
}
