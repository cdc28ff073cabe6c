//! Programs written for Deepgram hear the same from us, with Deepgram's own SDKs.

use e2e::{Client, Heard, SERVICE_KEY, Script, Stack, sound};
use serde_json::{Value, json};
use testkit::{recording, wer::WordErrors};

const RAW: &str = "encoding=linear16&sample_rate=16000";

fn url(stack: &Stack, query: &str) -> String {
    format!("ws://127.0.0.1:{}/v1/listen?{query}", stack.doors()[0])
}

async fn listen(stack: &Stack, query: &str) -> Client {
    Client::connect(&url(stack, query), &[("authorization", &format!("Token {SERVICE_KEY}"))]).await
}

fn transcript(told: &Value) -> &str {
    told["channel"]["alternatives"][0]["transcript"].as_str().unwrap_or_default()
}

/// What finals say, one after the other.
fn text(told: &[Value]) -> String {
    let finals = told.iter().filter(|line| line["type"] == "Results" && line["is_final"] == true);
    finals.map(transcript).collect::<Vec<_>>().join(" ")
}

/// All that is told until the end, and the close code.
async fn rest(client: &mut Client) -> (Vec<Value>, u16, String) {
    let mut told = Vec::new();
    loop {
        match client.hear().await {
            Heard::Said(value) => told.push(value),
            Heard::Closed(code, reason) => return (told, code, reason),
            Heard::Lost => panic!("no close frame after {told:#?}"),
        }
    }
}

fn assert_said(name: &str, told: &[Value]) {
    let errors = WordErrors::between(&recording(name).text, &text(told));
    assert!(errors.rate() <= 0.15, "{}: {told:#?}", errors.rate());
}

async fn sdk_runs_a_session(start: impl FnOnce(&Value) -> Script) {
    let stack = Stack::start().await;
    let plan = json!({
        "url": format!("ws://127.0.0.1:{}", stack.doors()[0]),
        "key": SERVICE_KEY,
        "file": recording("jfk").path,
        "options": {
            "model": "nova-3", "language": "en-US", "interim_results": "true", "smart_format": "true",
            "vad_events": "true",
        },
        "finalizeAfter": 150_000,
    });
    let told = start(&plan).end().await;
    assert!(told.iter().all(|line| line["is"] != "error"), "{told:#?}");
    assert_said("jfk", &told);
    let results = || told.iter().filter(|line| line["type"] == "Results");
    assert!(results().any(|line| line["is_final"] == false), "interim results: {told:#?}");
    assert!(results().any(|line| line["from_finalize"] == true), "an answer to Finalize: {told:#?}");
    assert!(told.iter().any(|line| line["type"] == "SpeechStarted"), "{told:#?}");
    for line in results().filter(|line| line["is_final"] == true) {
        let (start, duration) = (line["start"].as_f64().unwrap(), line["duration"].as_f64().unwrap());
        let words = line["channel"]["alternatives"][0]["words"].as_array().unwrap();
        assert!(words.iter().all(|word| word["start"].as_f64().unwrap() >= start - 0.5));
        assert!(words.iter().all(|word| word["end"].as_f64().unwrap() <= start + duration + 0.5));
        assert!(words.iter().all(|word| word["punctuated_word"].is_string()), "{line}");
    }
    let metadata = told.iter().find(|line| line["type"] == "Metadata").expect("metadata");
    assert!((metadata["duration"].as_f64().unwrap() - 11.0).abs() < 0.1, "{metadata}");
}

#[tokio::test]
async fn the_python_sdk_runs_a_live_session() {
    sdk_runs_a_session(|plan| Script::python("deepgram_client.py", plan)).await;
}

#[tokio::test]
async fn the_javascript_sdk_runs_a_live_session() {
    sdk_runs_a_session(|plan| Script::start("deepgram.js", plan)).await;
}

#[tokio::test]
async fn a_browsers_webm_needs_no_encoding_and_a_key_may_be_a_subprotocol() {
    let stack = Stack::start().await;
    let room = stack.room();
    let token = room.token("alice");
    let offered = format!("token, {token}");
    let mut client =
        Client::connect(&url(&stack, "punctuate=true"), &[("sec-websocket-protocol", &offered)]).await;
    let webm = sound::converted(&recording("jfk").path, &["-c:a", "libopus", "-f", "webm"]).await;
    client.pour(&webm, 4_000).await;
    client.say(json!({"type": "CloseStream"})).await;
    let (told, code, _) = rest(&mut client).await;
    assert_eq!(code, 1000);
    assert_said("jfk", &told);
    assert!(told.iter().all(|line| line["type"] != "Results" || line["is_final"] == true), "{told:#?}");
    assert_eq!(told.last().unwrap()["type"], "Metadata");
    // It is stored in the session of its token.
    assert_eq!(e2e::text(&room.finals().await), text(&told));
}

#[tokio::test]
async fn a_service_key_names_the_session() {
    let stack = Stack::start().await;
    let room = stack.room();
    let mut client = listen(&stack, &format!("{RAW}&extra=session:{}", room.slug)).await;
    client.pour(&sound::pcm(&recording("jfk").samples()), 3_200).await;
    // An empty frame is an end as well.
    client.send(Vec::new()).await;
    let (told, code, _) = rest(&mut client).await;
    assert_eq!(code, 1000);
    assert_said("jfk", &told);
    let bare = text(&told);
    assert!(bare.chars().all(|char| !char.is_uppercase() && char != ','), "{bare}");
    assert!(!room.finals().await.is_empty());
}

#[tokio::test]
async fn who_may_not_or_asks_for_nonsense_reads_why() {
    let stack = Stack::start().await;
    let refused = Client::refused(&url(&stack, RAW)).await;
    assert_eq!(refused.status(), 401);
    assert!(refused.headers().contains_key("dg-error") && refused.headers().contains_key("dg-request-id"));
    let http = format!("http://127.0.0.1:{}/v1/listen", stack.doors()[0]);
    for (query, named) in [
        ("encoding=g729", "linear16"),
        ("encoding=linear16", "sample_rate"),
        ("utterance_end_ms=1000", "interim_results"),
        ("redact=pci", "redact"),
        ("language=klingon", "language"),
    ] {
        let request = reqwest::Client::new()
            .get(format!("{http}?{query}"))
            .header("authorization", format!("Token {SERVICE_KEY}"))
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 400, "{query}");
        let header = answer.headers()["dg-error"].to_str().unwrap().to_owned();
        let body: Value = answer.json().await.unwrap();
        assert!(header.contains(named), "{query}: {header}");
        assert_eq!(body["err_msg"], header.as_str());
    }
}

#[tokio::test]
async fn sound_that_is_none_and_silence_end_the_connection_with_their_names() {
    let stack = Stack::start().await;
    let mut broken = listen(&stack, "encoding=flac").await;
    broken.send(sound::nonsense(64_000)).await;
    let (told, code, reason) = rest(&mut broken).await;
    assert_eq!(code, 1008, "{told:#?}");
    assert!(reason.contains("DATA-0000"), "{reason}");
    let mut silent = listen(&stack, RAW).await;
    let (_, code, reason) = rest(&mut silent).await;
    assert_eq!(code, 1011);
    assert!(reason.contains("NET-0001"), "{reason}");
}

#[tokio::test]
async fn finalize_without_speech_is_answered_and_nonsense_harms_nothing() {
    let stack = Stack::start().await;
    let mut client = listen(&stack, &format!("{RAW}&interim_results=true&utterance_end_ms=1000")).await;
    client.say_text("{").await;
    assert_eq!(client.expect("Error").await["code"], "INVALID_MESSAGE");
    client.say(json!({"type": "Finalize"})).await;
    let nothing = client.expect("Results").await;
    assert_eq!((transcript(&nothing), &nothing["from_finalize"]), ("", &json!(true)));
    client.pour(&sound::pcm(&recording("jfk").samples()), 3_200).await;
    // As it is spoken: 10 s without any would end the connection, and words may take their time on a busy machine.
    client.speak(&sound::silence(6)).await;
    let end = client.expect("UtteranceEnd").await;
    assert!(end["last_word_end"].as_f64().unwrap() > 1.0, "{end}");
    client.say(json!({"type": "CloseStream"})).await;
    let (told, code, _) = rest(&mut client).await;
    let last = told.last().map(|last| last["type"].clone());
    assert_eq!((code, last), (1000, Some(json!("Metadata"))), "{told:#?}");
}
