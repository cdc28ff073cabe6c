//! Input that no well-behaved client sends. Each has a clear answer, nothing else is disturbed.

use serde_json::json;
use testkit::tokens;
use tungstenite::Message;

use crate::{
    client::{Client, Read},
    stage::{Setup, Stage},
};

#[tokio::test]
async fn messages_that_cannot_be_followed_are_answered_and_the_socket_stays() {
    let stage = Stage::start().await;
    let mut client = stage.connect("alice", "").await;
    for (text, says) in [
        ("{", "JSON object"),
        ("[1]", "JSON object"),
        ("null", "JSON object"),
        ("{}", "type must be a string"),
        (r#"{"type":"init","sampleRate":"fast"}"#, "sampleRate"),
        (r#"{"type":"init","encoding":"morse"}"#, "encoding must be one of"),
        (r#"{"type":"init","language":"<script>"}"#, "language must be a language tag"),
        (r#"{"type":"language"}"#, "language must be a language tag"),
        (r#"{"type":"follow","since":{}}"#, "since"),
    ] {
        client.say_text(text).await;
        let error = client.expect("error").await;
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(says), "{text}: {message}");
        assert_eq!(error["code"], "caller");
    }
    client.say_text(&format!(r#"{{"type":"x","y":"{}"}}"#, "z".repeat(70 * 1024))).await;
    assert_eq!(client.expect("error").await["code"], "too_large");
    for text in [r#"{"type":"dance"}"#, r#"{"type":"transcription","text":1}"#] {
        client.say_text(text).await;
    }
    client.send(vec![]).await;
    client.settled().await;
    stage.end().await;
}

#[tokio::test]
async fn endless_nonsense_ends_the_connection() {
    let stage = Stage::start().await;
    let mut client = stage.connect("alice", "").await;
    for _ in 0..30 {
        client.say_text("nonsense").await;
    }
    let (error, code, _) = client.ended().await;
    assert_eq!((error.unwrap()["code"].as_str(), code), (Some("caller"), 1008));
    stage.end().await;
}

#[tokio::test]
async fn a_message_above_the_limit_is_too_big() {
    let stage = Stage::start().await;
    let mut client = stage.connect("alice", "").await;
    client.send(vec![0; 1024 * 1024]).await;
    client.settled().await;
    client.send(vec![0; 1024 * 1024 + 1]).await;
    let (error, code, _) = client.ended().await;
    assert_eq!((error.unwrap()["code"].as_str(), code), (Some("too_large"), 1009));
    stage.end().await;
}

#[tokio::test]
async fn text_that_is_not_utf8_is_bad_data() {
    let stage = Stage::start().await;
    let mut client = stage.connect("alice", "").await;
    use tungstenite::protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    };
    let frame = Frame::message(vec![0xff, 0xfe], OpCode::Data(Data::Text), true);
    client.send_message(Message::Frame(frame)).await;
    assert_eq!(client.code().await, 1007);
    let mut client = stage.connect("alice", "").await;
    let frame = Frame::message(vec![1], OpCode::Data(Data::Reserved(3)), true);
    client.send_message(Message::Frame(frame)).await;
    assert_eq!(client.code().await, 1002);
    stage.end().await;
}

#[tokio::test]
async fn a_flood_is_dropped_and_warned_about_now_and_then() {
    let stage = Setup::new().await.set("FRAMES_PER_SECOND", "400").start().await;
    let mut client = stage.connect("alice", "").await;
    let mut calm = stage.connect("bob", "").await;
    for _ in 0..10_000 {
        client.send(vec![0_u8; 1]).await;
    }
    let warning = client.expect("warning").await;
    assert_eq!(warning["message"], "Audio chunk rejected: invalid size or rate limit exceeded");
    calm.settled().await;
    // The allowance comes back; how many warnings there were until then is few, whatever the machine's speed.
    let mut warnings = 1;
    let began = std::time::Instant::now();
    testkit::eventually("messages are taken again", async || {
        client.say(json!({"type": "ping"})).await;
        let answer = client.said().await;
        warnings += usize::from(answer["type"] == "warning");
        answer["type"] == "pong"
    })
    .await;
    assert!(warnings as u64 <= began.elapsed().as_secs() + 3, "{warnings} warnings");
    stage.end().await;
}

#[tokio::test]
async fn a_client_that_can_wait_waits_above_the_rate_and_loses_nothing() {
    let stage = Setup::new().await.set("FRAMES_PER_SECOND", "200").start().await;
    let mut client = stage.connect("alice", "").await;
    client.say(json!({"type": "init"})).await;
    // Its burst is 400 messages.
    for _ in 0..600 {
        client.send(vec![0_u8; 640]).await;
    }
    client.say(json!({"type": "stop"})).await;
    loop {
        let said = client.said().await;
        assert!(!["warning", "error"].contains(&said["type"].as_str().unwrap()), "{said}");
        if said["type"] == "stopped" {
            assert_eq!(said["samples"], 600 * 320);
            break;
        }
    }
    stage.end().await;
}

#[tokio::test]
async fn the_pace_of_old_clients_is_allowed() {
    let stage = Stage::start().await;
    let mut client = stage.connect("alice", "").await;
    // Four seconds of system A's worklet in one go: 125 messages of 128 samples a second.
    for _ in 0..500 {
        client.send(vec![0_u8; 256]).await;
    }
    client.say(json!({"type": "stop"})).await;
    loop {
        let said = client.said().await;
        assert!(!["warning", "error"].contains(&said["type"].as_str().unwrap()), "{said}");
        if said["type"] == "stopped" {
            assert_eq!(said["samples"], 500 * 128);
            break;
        }
    }
    stage.end().await;
}

#[tokio::test]
async fn a_token_that_may_only_follow_may_not_speak() {
    let stage = Stage::start().await;
    let token = tokens::follow_only(&stage.secret, &stage.session, "guest");
    let mut client = Client::connect(&stage.url(&format!("token={token}")), &[]).await;
    for message in [json!({"type": "init"}), json!({"type": "active_speaker"})] {
        client.say(message).await;
        assert_eq!(client.expect("error").await["code"], "forbidden");
    }
    client.send(vec![0; 640]).await;
    assert_eq!(client.expect("error").await["code"], "forbidden");
    client.settled().await;
    for _ in 0..30 {
        client.send(vec![0; 640]).await;
    }
    assert_eq!(client.code().await, 1008);
    assert!(stage.worker.heard(|heard| heard.sources.is_empty()));
    stage.end().await;
}

#[tokio::test]
async fn containers_that_are_none_are_bad_data() {
    let stage = Stage::start().await;
    for encoding in ["webm", "ogg", "flac", "wav", "mp3"] {
        let mut client = stage.connect(encoding, "").await;
        client.say(json!({"type": "init", "encoding": encoding})).await;
        client.expect("initialized").await;
        let noise: Vec<u8> = (0..40_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        client.send(noise).await;
        client.say(json!({"type": "stop"})).await;
        loop {
            match client.read().await {
                Read::Said(said) if said["type"] == "error" => {
                    assert_eq!(said["code"], "bad_data", "{encoding}")
                }
                // Noise may hold what looks like an MP3 frame; then there is nothing wrong with it.
                Read::Said(said) if said["type"] == "stopped" => break,
                Read::Said(_) => {}
                Read::Closed(code, _) => {
                    assert_eq!(code, 1007, "{encoding}");
                    break;
                }
                Read::Lost => panic!("{encoding}: no close frame"),
            }
        }
    }
    stage.end().await;
}

#[tokio::test]
async fn the_peers_own_close_is_answered() {
    let stage = Stage::start().await;
    use tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
    for (sent, answered) in [(1000_u16, 1000_u16), (4001, 4001), (1001, 1001), (1005, 1002), (999, 1002)] {
        let mut client = stage.connect("alice", "").await;
        let frame = CloseFrame { code: CloseCode::from(sent), reason: "".into() };
        client.send_message(Message::Close(Some(frame))).await;
        match client.read().await {
            Read::Closed(code, _) => assert_eq!(code, answered, "{sent}"),
            other => panic!("{sent}: {other:?}"),
        }
    }
    stage.end().await;
}
