//! `parley tail` against a scripted server.

use crate::scripted::{Server, caption, end, line, parley, signal};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};

#[tokio::test]
async fn nothing_is_missed_or_doubled_over_a_reconnect() {
    let server = Server::start().await;
    let mut child =
        parley(&["tail", "--session", "demo", "--since", "3", "--url", &server.url]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut peer = server.accept().await;
    assert!(peer.request.ends_with("&since=3"), "{}", peer.request);
    peer.say(json!({"type":"connected","ts":1})).await;
    peer.say(caption("transcript_final", "s", 4, 4, 0.0, "Four.")).await;
    peer.say(caption("transcript_partial", "s", 5, 0, 0.0, "Fi")).await;
    peer.say(caption("transcript_final", "s", 6, 6, 0.0, "Six.")).await;
    line(&mut lines, "Alice: Four.").await;
    line(&mut lines, "Alice: Six.").await;
    peer.say(json!({"type":"reconnect","retryAfterMs":1})).await;
    peer.close(1001, "Server is restarting, reconnect").await;

    let mut peer = server.accept().await;
    assert!(peer.request.ends_with("&since=4"), "the hole is asked for again: {}", peer.request);
    peer.say(caption("transcript_final", "s", 5, 5, 0.0, "Five.")).await;
    peer.say(caption("transcript_final", "s", 6, 6, 0.0, "Six.")).await;
    peer.say(caption("transcript_final", "s", 7, 7, 0.0, "Seven.")).await;
    line(&mut lines, "Alice: Five.").await;
    line(&mut lines, "Alice: Seven.").await;
    let translation = |sequence: u64, rest: serde_json::Value| {
        let mut message = json!({"type":"translation","language":"ar","speaker":"Alice","sequence":sequence});
        message.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        message
    };
    peer.say(translation(8, json!({"text":"سبعة."}))).await;
    peer.say(translation(8, json!({"text":"سبعة."}))).await;
    peer.say(translation(9, json!({"error":"too_late"}))).await;
    line(&mut lines, "[ar] Alice: سبعة.").await;
    line(&mut lines, "[ar] Alice: (no translation: too_late)").await;
    signal(&child, "TERM").await;
    let said = end(child).await;
    assert_eq!(said.code, Some(0));
    assert!(said.err.contains("the server is going away"), "{}", said.err);
}

#[tokio::test]
async fn without_since_only_what_is_new_is_printed_even_after_a_silent_start() {
    let server = Server::start().await;
    let mut child = parley(&["tail", "--session", "demo", "--json", "--url", &server.url]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut peer = server.accept().await;
    assert!(!peer.request.contains("since"), "{}", peer.request);
    peer.say(json!({"type":"connected","ts":1_700_000_000_000_u64})).await;
    peer.sound_before_pong().await;
    drop(peer);

    let mut peer = server.accept().await;
    assert!(peer.request.ends_with("&since=0"), "{}", peer.request);
    peer.say(json!({"type":"connected","ts":1_700_000_009_000_u64})).await;
    let mut old = caption("transcript_final", "s", 1, 1, 0.0, "Yesterday.");
    old["ts"] = 1_699_999_999_999_u64.into();
    peer.say(old).await;
    peer.say(caption("transcript_final", "s", 2, 2, 0.0, "Meanwhile.")).await;
    line(&mut lines, "\"Meanwhile.\"").await;
    peer.close(1008, "Invalid or expired transcription token").await;
    let said = end(child).await;
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("parley token"), "{}", said.err);
}

fn said(event: &str, sequence: u64, content: &str) -> serde_json::Value {
    json!({"type": "chat", "event": event, "data": {"id": "x", "userId": "u", "username": "Bob", "content": content,
        "timestamp": "2023-11-14T22:13:20.000Z", "type": "text", "roomId": "session:demo", "sequence": sequence,
        "position": sequence}})
}

#[tokio::test]
async fn chat_is_shown_beside_captions_and_goes_on_where_it_was() {
    let server = Server::start().await;
    let mut child = parley(&["tail", "--session", "demo", "--url", &server.url]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut peer = server.accept().await;
    assert!(peer.request.ends_with("&chat=true"), "{}", peer.request);
    peer.say(json!({"type":"connected","ts":1})).await;
    let history = json!([said("", 4, "Before.")["data"]]);
    peer.say(json!({"type":"chat","event":"messageHistory","data":history})).await;
    peer.say(json!({"type":"chat","event":"roomUsers","data":[]})).await;
    peer.say(said("message", 5, "Hello\u{1b}[2J.")).await;
    line(&mut lines, "[chat] Bob: Hello [2J.").await;
    peer.say(caption("transcript_final", "s", 1, 1, 0.0, "Spoken.")).await;
    line(&mut lines, "Alice: Spoken.").await;
    peer.say(said("messageEdited", 6, "Hello.")).await;
    line(&mut lines, "[chat] Bob (edited): Hello.").await;
    peer.close(1001, "Server is restarting, reconnect").await;
    let peer = server.accept().await;
    assert!(peer.request.contains("&chat=true&chatSince=6&"), "{}", peer.request);
    drop(peer);
    signal(&child, "TERM").await;
    assert_eq!(end(child).await.code, Some(0));
}

#[tokio::test]
async fn chat_can_be_left_out_and_is_json_where_captions_are() {
    let server = Server::start().await;
    let child = parley(&["tail", "--session", "demo", "--no-chat", "--url", &server.url]).spawn().unwrap();
    let peer = server.accept().await;
    assert!(!peer.request.contains("chat"), "{}", peer.request);
    drop((peer, child));
    let arguments = ["tail", "--session", "demo", "--since", "0", "--json", "--url", &server.url];
    let mut child = parley(&arguments).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut peer = server.accept().await;
    assert!(peer.request.ends_with("&chat=true&chatSince=0&since=0"), "{}", peer.request);
    peer.say(said("message", 1, "First.")).await;
    line(&mut lines, "\"content\":\"First.\"").await;
    drop(peer);
    signal(&child, "TERM").await;
    assert_eq!(end(child).await.code, Some(0));
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_is_no_failure() {
    let server = Server::start().await;
    let mut child = parley(&["tail", "--session", "demo", "--url", &server.url]).spawn().unwrap();
    drop(child.stdout.take());
    let mut peer = server.accept().await;
    peer.say(caption("transcript_final", "s", 1, 1, 0.0, "One.")).await;
    let said = end(child).await;
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
}
