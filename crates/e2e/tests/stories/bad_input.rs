//! Input that no well-behaved client sends. Each has a clear answer, and whoever speaks beside it notices nothing.

use e2e::{Client, Heard, Plan, RawSocket, Room, Stack, resident_mib, sound, text};
use serde_json::{Value, json};
use settings::Secret;
use testkit::{recording, tokens, wer::WordErrors};

/// Somebody speaks and reads while `trouble` goes on, and is not disturbed.
async fn beside(stack: &Stack, trouble: impl Future<Output = ()>) {
    let room = stack.room();
    let (mut speaker, mut follower) = (room.join("speaker").await, room.join("follower").await);
    let recording = recording("jfk");
    let samples = recording.samples();
    let (before, beside) = samples.split_at(16_000);
    speaker.speak(before).await;
    while speaker.expect("stt_status").await["status"] != "ready" {}
    let speaking = async {
        speaker.speak(beside).await;
        speaker.stop().await;
    };
    tokio::join!(speaking, trouble);
    let finals = room.finals().await;
    let errors = WordErrors::between(&recording.text, &text(&finals));
    assert!(errors.rate() <= 0.1, "{errors:?}: {}", text(&finals));
    assert_eq!(follower.finals_to(finals.last().unwrap().sequence.0).await.len(), finals.len());
    for kind in ["warning", "error"] {
        assert!(speaker.told(kind).is_empty(), "{:?}", speaker.told(kind));
    }
}

/// The last error before the end, and the code.
async fn end_of(mut client: Client) -> (Value, u16) {
    let (error, code) = client.ended().await;
    (error.expect("an error that says why")["code"].clone(), code)
}

#[tokio::test]
async fn tokens_that_are_no_good_are_refused_with_a_reason() {
    let stack = Stack::start().await;
    let room = stack.room();
    let secret = Secret::from(e2e::JWT_SECRET);
    let elsewhere = "elsewhere".parse().unwrap();
    let trouble = async {
        for (query, expected) in [
            (String::new(), "unauthenticated"),
            ("token=TEST".to_owned(), "unauthenticated"),
            (format!("token={}", "x".repeat(8_192)), "unauthenticated"),
            (
                format!("token={}", tokens::good(&"another secret".into(), &room.slug, "eve")),
                "unauthenticated",
            ),
            (format!("token={}", tokens::expired(&secret, &room.slug, "eve")), "expired"),
            (
                format!("token={}&sessionSlug={}", tokens::good(&secret, &elsewhere, "eve"), room.slug),
                "forbidden",
            ),
        ] {
            assert_eq!(end_of(room.open(&query).await).await, (json!(expected), 1008), "{query:.80}");
        }
        let mut follower =
            room.open(&format!("token={}", tokens::follow_only(&secret, &room.slug, "eve"))).await;
        follower.send(vec![0; 640]).await;
        assert_eq!(follower.expect("error").await["code"], "forbidden");
        follower.settled().await;
    };
    beside(&stack, trouble).await;
    // A test that waits for a second place could keep one that waits for all of them from ever starting.
    drop(stack);
    let reject = Stack::set(&[("UPGRADE_AUTH", "reject")]).await;
    let refused = Client::refused(&reject.room().url("token=TEST")).await;
    assert_eq!(refused.status(), 401, "as system A's last version did");
}

#[tokio::test]
async fn messages_that_make_no_sense_are_answered() {
    let stack = Stack::start().await;
    beside(&stack, async {
        let room = stack.room();
        nonsense_in_text(&room).await;
        wrong_order(&room).await;
        language_that_nobody_serves(&room).await;
        broken_frames(&room, stack.nginx.http_port).await;
    })
    .await;
}

async fn nonsense_in_text(room: &Room) {
    let mut eve = room.join("eve").await;
    for (text, says) in [
        ("{", "JSON object"),
        ("[]", "JSON object"),
        (r#"{"type":7}"#, "type"),
        (r#"{"type":"init","sampleRate":"fast"}"#, "sampleRate"),
        (r#"{"type":"init","encoding":["wav"]}"#, "encoding"),
        (r#"{"type":"init","language":"<script>"}"#, "language"),
        (r#"{"type":"init","resume":[]}"#, "resume"),
        (r#"{"type":"follow","since":-1}"#, "since"),
        (r#"{"type":"refresh"}"#, "token"),
        (r#"{"type":"active_speaker","identity":{}}"#, "identity"),
    ] {
        eve.say_text(text).await;
        let error = eve.expect("error").await;
        assert!(error["message"].as_str().unwrap().contains(says), "{text}: {error}");
        assert_eq!(error["code"], "caller", "{text}");
    }
    // Kinds that a newer client may know are passed over.
    for kind in ["dance", "transcription", "__proto__"] {
        eve.say(json!({ "type": kind })).await;
    }
    eve.settled().await;
    assert_eq!(eve.told("error").len(), 10);
    for _ in 0..30 {
        eve.say_text("nonsense").await;
    }
    assert_eq!(end_of(eve).await, (json!("caller"), 1008));
}

async fn language_that_nobody_serves(room: &Room) {
    let mut eve = room.join("eve4").await;
    eve.say(json!({"type": "init", "language": "tlh"})).await;
    eve.expect("initialized").await;
    eve.pour(&sound::pcm(&sound::silence(1)), 3_200).await;
    let (error, code) = eve.ended().await;
    let message = error.expect("an error that says why")["message"].clone();
    assert_eq!((message, code), (json!("language tlh is not served; choose one of: auto, en"), 1008));
}

async fn wrong_order(room: &Room) {
    let mut eve = room.join("eve2").await;
    eve.say(json!({"type": "stop"})).await;
    let stopped = eve.expect("stopped").await;
    assert_eq!((&stopped["samples"], &stopped["stream"]), (&json!(0), &Value::Null), "stop before any audio");
    eve.send(vec![0; 640]).await;
    assert!(eve.expect("error").await["message"].as_str().unwrap().contains("after stop"));
    let first = eve.init(json!({})).await;
    eve.send(vec![0; 640]).await;
    eve.say(json!({"type": "init"})).await;
    assert!(eve.expect("error").await["message"].as_str().unwrap().contains("init must come before audio"));
    assert_eq!(eve.stop().await, 320);
    eve.send(vec![0; 640]).await;
    eve.settled().await;
    let second = eve.init(json!({"encoding": "pcm_s16le"})).await;
    assert_ne!(first["stream"], second["stream"]);
    // One byte at a time, as long as the rate allows.
    for _ in 0..100 {
        eve.send(vec![0]).await;
    }
    assert_eq!(eve.stop().await, 50);
}

async fn broken_frames(room: &Room, port: u16) {
    let mut eve = room.join("eve3").await;
    eve.send(vec![0; 1024 * 1024]).await;
    eve.settled().await;
    eve.send(vec![0; 1024 * 1024 + 1]).await;
    assert_eq!(end_of(eve).await, (json!("too_large"), 1009));

    let target = room.target(&format!("token={}", room.token("eve4")));
    for (bytes, code) in [
        // Text that is no UTF-8; a reserved opcode; a frame without a mask; a length of 2^63.
        (&[0x81, 0x82, 0, 0, 0, 0, 0xff, 0xfe][..], 1007),
        (&[0x83, 0x81, 0, 0, 0, 0, 1], 1002),
        (&[0x82, 0x01, 0], 1002),
        (&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 1009),
    ] {
        let mut raw = RawSocket::open(port, &target).await;
        raw.write(bytes).await;
        let (closed, _) = raw.closed().await.expect("a close frame");
        assert_eq!(closed, code, "{bytes:x?}");
    }
    let mut raw = RawSocket::open(port, &target).await;
    raw.write(&sound::nonsense(100_000)).await;
    let code = raw.closed().await.map(|(code, _)| code);
    assert!(code.is_none_or(|code| [1002, 1007, 1009].contains(&code)), "{code:?}");
}

#[tokio::test]
async fn containers_that_lie_are_bad_data() {
    let stack = Stack::start().await;
    let fixture = |name: &str| {
        std::fs::read(format!("{}/../audio/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    };
    let whole = [
        ("webm", fixture("recorder.webm")),
        ("ogg", fixture("speech.ogg")),
        ("flac", fixture("stereo44k.flac")),
        ("mp3", fixture("speech.mp3")),
        ("wav", fixture("speech.wav")),
    ];
    let mut hostile: Vec<(&str, String, Vec<u8>)> = Vec::new();
    for (encoding, file) in whole {
        hostile.push((encoding, "nonsense".into(), sound::nonsense(40_000)));
        hostile.push((encoding, "only a beginning".into(), file[..file.len().min(40)].to_vec()));
        hostile.push((encoding, "cut in the middle".into(), file[..file.len() / 2].to_vec()));
        let mut torn = file.clone();
        torn[file.len() / 3..file.len() / 3 + 500].copy_from_slice(&sound::nonsense(500));
        hostile.push((encoding, "torn".into(), torn));
        let mut greedy = file;
        for byte in &mut greedy[4..40] {
            *byte = 0xff;
        }
        hostile.push((encoding, "lengths that nobody has".into(), greedy));
    }
    // An element of WebM that claims 2^56 - 2 bytes.
    let mut vast = vec![0x1a, 0x45, 0xdf, 0xa3, 0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe];
    vast.extend(sound::nonsense(200_000));
    hostile.push(("webm", "a header without end".into(), vast));
    beside(&stack, async {
        let room = stack.room();
        for (encoding, what, bytes) in hostile {
            while told_of(&room, encoding, &what, &bytes).await == Told::Later {}
        }
    })
    .await;
}

#[derive(PartialEq)]
enum Told {
    /// What is wrong, or what could be understood.
    Answer,
    /// To come again: on a busy machine the engines may be behind.
    Later,
}

async fn told_of(room: &Room, encoding: &str, what: &str, bytes: &[u8]) -> Told {
    let mut eve = room.join(&format!("eve {}", uuid::Uuid::new_v4())).await;
    eve.init(json!({ "encoding": encoding })).await;
    eve.pour(bytes, 5_000).await;
    eve.say(json!({"type": "stop"})).await;
    let mut said_wrong = Value::Null;
    loop {
        match eve.hear().await {
            Heard::Said(said) if said["type"] == "error" => said_wrong = said["code"].clone(),
            Heard::Said(said) if said["type"] == "stopped" => {
                assert!(said_wrong.is_null() || said_wrong == "bad_data", "{encoding}, {what}: {said_wrong}");
                return Told::Answer;
            }
            Heard::Said(_) => {}
            Heard::Closed(1013, _) if said_wrong == "overloaded" => return Told::Later,
            Heard::Closed(code, _) => {
                assert_eq!((code, &said_wrong), (1007, &json!("bad_data")), "{encoding}, {what}");
                return Told::Answer;
            }
            Heard::Lost => panic!("{encoding}, {what}: no close frame"),
        }
    }
}

#[tokio::test]
async fn a_flood_is_bounded_and_disturbs_nobody() {
    let stack = Stack::with(Plan { alone: true, ..Plan::default() }).await;
    let room = stack.room();
    // What a first stream costs is there before it is measured.
    let mut warm = room.join("warm").await;
    warm.init(json!({})).await;
    warm.pour(&sound::pcm(&recording("LJ001-0002").samples()), 3_200).await;
    warm.stop().await;
    let before = resident_mib();
    let flood = async |init: bool, length: usize, count: usize| loop {
        let mut eve = room.join(&format!("eve {}", uuid::Uuid::new_v4())).await;
        if init {
            eve.init(json!({"encoding": "pcm_s16le"})).await;
        }
        eve.repeat(vec![0; length], count).await;
        eve.say(json!({"type": "stop"})).await;
        let outcome = loop {
            match eve.hear().await {
                Heard::Said(said) if said["type"] == "stopped" => break Told::Answer,
                Heard::Said(_) => {}
                Heard::Closed(1013, _) => break Told::Later,
                other => panic!("{other:?}"),
            }
        };
        if outcome == Told::Answer {
            return eve;
        }
    };
    let peak = std::cell::Cell::new(before);
    let watch = async {
        loop {
            peak.set(peak.get().max(resident_mib()));
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    beside(&stack, async {
        let floods = async {
            // Far more than the window; far more than is allowed a second.
            tokio::join!(
                flood(true, 1024 * 1024, 64),
                flood(false, 1024 * 1024, 512),
                flood(false, 32 * 1024, 700),
                flood(false, 1, 10_000),
            )
        };
        let (_, _, _, mut small) = tokio::select! {
            floods = floods => floods,
            () = watch => unreachable!("the watch does not end"),
        };
        let warning = "Audio chunk rejected: invalid size or rate limit exceeded";
        assert!(
            small.told("warning").iter().any(|told| told["message"] == warning),
            "{:?}",
            small.told("warning")
        );
        small.settled().await;
    })
    .await;
    let grown = peak.get().saturating_sub(before);
    eprintln!("598 MiB of audio: memory grew from {before} MiB by {grown} MiB");
    // Less than the largest of the floods, should some queue keep all of it.
    assert!(grown <= 350, "{grown} MiB");
}
