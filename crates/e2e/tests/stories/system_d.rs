//! Clients of system D, written from its contract, find the WebSockets that they know.

use std::time::Duration;

use e2e::{Client, Plan, Script, Stack, sound};
use serde_json::{Value, json};
use testkit::{Cable, free_port, recording, recordings, wer::WordErrors};
use tokio::time::sleep;

/// The door of system D, open to anybody.
async fn stack() -> (Stack, String) {
    let port = free_port();
    let settings =
        [("TRANSLATE_PORT", port.to_string()), ("FASTER_WHISPER_REQUIRE_AUTH", "false".to_owned())];
    let stack = Stack::with(Plan { settings: settings.into(), ..Plan::default() }).await;
    (stack, format!("ws://127.0.0.1:{port}/ws"))
}

async fn greeted(url: &str) -> Client {
    let mut client = Client::connect(url, &[]).await;
    let connected = client.said().await;
    assert_eq!((&connected["type"], &connected["status"]), (&json!("connection"), &json!("connected")));
    client
}

fn assert_jfk(text: &str) {
    let errors = WordErrors::between(&recording("jfk").text, text);
    assert!(errors.rate() <= 0.15, "{}: {text}", errors.rate());
}

/// Texts of this type until they are what was said.
async fn said(client: &mut Client, kind: &str) -> String {
    let words = recording("jfk").text.split_whitespace().count();
    let mut all = String::new();
    while all.split_whitespace().count() + 2 < words {
        let told = client.expect(kind).await;
        all = format!("{all} {}", told["text"].as_str().unwrap());
    }
    all
}

#[tokio::test]
async fn a_whole_recording_is_answered_once() {
    let (_stack, url) = stack().await;
    let mut client = greeted(&url).await;
    client.say(json!({"type": "ping"})).await;
    client.expect("pong").await;
    client.say(json!({"type": "init", "sourceLanguage": "en", "engine": "faster-whisper"})).await;
    let initialized = client.expect("connection").await;
    assert_eq!(initialized["status"], "initialized");
    let samples = recording("jfk").samples();
    client.send(sound::wav(&samples)).await;
    client.send(sound::wav(&sound::silence(1))).await;
    let first = client.expect("transcription").await;
    assert_jfk(first["text"].as_str().unwrap());
    assert_eq!((&first["success"], &first["language"]), (&json!(true), &json!("en")));
    let second = client.expect("transcription").await;
    assert_eq!((&second["text"], &second["success"]), (&json!(""), &json!(true)));
}

#[tokio::test]
async fn samples_and_pieces_of_webm_are_heard_as_they_come() {
    let (_stack, url) = stack().await;
    let init =
        json!({"type": "init", "sourceLanguage": "en", "targetLanguage": "en", "engine": "faster-whisper"});
    let samples = recording("jfk").samples();
    let mut raw = greeted(&url).await;
    raw.say(init.clone()).await;
    raw.pour(&sound::pcm(&samples), 32_000).await;
    assert_jfk(&said(&mut raw, "transcription").await);
    let webm = sound::converted(&recording("jfk").path, &["-c:a", "libopus", "-f", "webm"]).await;
    let mut pieces = greeted(&url).await;
    pieces.say(init.clone()).await;
    pieces.pour(&webm, 6_000).await;
    assert_jfk(&said(&mut pieces, "transcription").await);
    // The socket is kept between recordings.
    pieces.say(init).await;
    assert_eq!(pieces.expect("connection").await["status"], "initialized");
    pieces.pour(&webm, 6_000).await;
    assert_jfk(&said(&mut pieces, "transcription").await);
}

#[tokio::test]
async fn clients_of_the_server_before_that_find_theirs() {
    let (_stack, url) = stack().await;
    let mut client = greeted(&url).await;
    client
        .say(json!({"type": "init", "language": "en-US", "autoDetection": false, "lidMode": "AtStart",
            "audioConfig": {"sampleRate": 16_000, "channels": 1, "bitsPerSample": 16, "encoding": "pcm_s16le"}}))
        .await;
    let ready = client.expect("ready").await;
    assert_eq!((&ready["message"], &ready["lidMode"]), (&json!("Ready for audio"), &json!("AtStart")));
    for piece in sound::pcm(&recording("jfk").samples()).chunks(6_400) {
        let data = base64(piece);
        client.say(json!({"type": "audio", "data": data, "format": "audio/pcm", "size": piece.len()})).await;
        // As somebody speaks: of what comes at once, only finals may be shown.
        sleep(Duration::from_millis(200)).await;
    }
    assert_jfk(&said(&mut client, "final").await);
    let partials = client.told("transcription");
    assert!(
        !partials.is_empty() && partials.iter().all(|partial| partial["isPartial"] == true),
        "{partials:?}"
    );
    // It keeps its socket for the next recording, and asks from time to time whether it is still there.
    client.say(json!({"type": "ping"})).await;
    client.expect("pong").await;
    client
        .say(json!({"type": "init", "language": "auto", "autoDetection": true, "lidMode": "Continuous"}))
        .await;
    let ready = client.expect("ready").await;
    assert_eq!((&ready["autoDetection"], &ready["lidMode"]), (&json!(true), &json!("Continuous")));
    client.pour(&sound::pcm(&recording("jfk").samples()), 6_400).await;
    assert_jfk(&said(&mut client, "final").await);
    client.say(json!({"type": "language_test", "sourceLanguage": "tlh"})).await;
    assert_eq!(client.expect("language_support").await["supported"], false);
    client.say(json!({"type": "language_test", "sourceLanguage": "en-US"})).await;
    assert_eq!(client.expect("language_support").await["supported"], true);
}

#[tokio::test]
async fn who_reconnects_three_times_and_falls_back_to_http_gets_its_words() {
    let (_stack, url) = stack().await;
    let door = url.replace("ws://", "").replace("/ws", "");
    let cable = Cable::to(&door).await;
    let said: Vec<_> = recordings().into_iter().filter(|it| it.name.starts_with("LJ")).take(6).collect();
    let files: Vec<_> = said.iter().map(|it| it.path.clone()).collect();
    let (socket, http) = (format!("ws://{}/ws", cable.address()), format!("http://{door}"));
    let asked = json!({"socket": socket, "http": http, "files": files, "language": "en"});
    let mut client = Script::start("streaming.js", &asked);
    client.until("the socket is ready", |line| line["does"] == "ready").await;
    let mut errors = WordErrors::default();
    let mut roads = Vec::new();
    for (index, recording) in said.iter().enumerate() {
        if (1..=4).contains(&index) {
            cable.cut();
            client.until("the socket is lost", |line| line["does"] == "close").await;
            cable.mend();
        }
        // Said while it has no socket: kept for the next.
        client.order(&json!({"next": true})).await;
        let heard = client.until("a text", |line| !line["heard"].is_null()).await;
        roads.push(heard["road"].as_str().unwrap().to_owned());
        errors = errors + WordErrors::between(&recording.text, heard["text"].as_str().unwrap());
    }
    let told = client.end().await;
    assert!(told.iter().all(|line| line["does"] != "fail"), "{told:#?}");
    assert_eq!(roads, ["websocket", "websocket", "websocket", "websocket", "http", "http"]);
    assert!(errors.rate() <= 0.12, "{errors:?}");
}

#[tokio::test]
async fn a_language_that_nobody_serves_is_named_and_the_socket_goes_on() {
    let (_stack, url) = stack().await;
    let mut client = greeted(&url).await;
    client.say(json!({"type": "init", "sourceLanguage": "tlh", "engine": "faster-whisper"})).await;
    client.expect("connection").await;
    client.pour(&sound::pcm(&recording("jfk").samples()), 32_000).await;
    let error = client.expect("error").await;
    assert_eq!(error["success"], false);
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("tlh") && message.contains("en"), "{message}");
    client.say(json!({"type": "init", "sourceLanguage": "en", "engine": "faster-whisper"})).await;
    client.expect("connection").await;
    client.pour(&sound::pcm(&recording("jfk").samples()), 32_000).await;
    assert_jfk(&said(&mut client, "transcription").await);
}

#[tokio::test]
async fn nonsense_harms_nobody_and_who_vanishes_disturbs_nothing() {
    let (_stack, url) = stack().await;
    let mut client = greeted(&url).await;
    client.say_text("{").await;
    assert_eq!(client.expect("error").await["success"], false);
    client.send([0x1f, 0x43, 0xb6, 0x75].repeat(20)).await;
    let message = client.expect("error").await;
    assert!(message["message"].as_str().unwrap().contains("beginning"), "{message}");
    let wav = sound::wav(&recording("jfk").samples());
    for _ in 0..3 {
        let mut gone = greeted(&url).await;
        for _ in 0..10 {
            gone.send(wav.clone()).await;
        }
        drop(gone);
    }
    client.send(wav).await;
    assert_jfk(client.expect("transcription").await["text"].as_str().unwrap());
}

#[tokio::test]
async fn a_token_is_asked_for_unless_it_is_not_required() {
    let port = free_port();
    let settings = [
        ("TRANSLATE_PORT", port.to_string()),
        ("FASTER_WHISPER_API_TOKEN", "a token of system D".to_owned()),
    ];
    let _stack = Stack::with(Plan { settings: settings.into(), ..Plan::default() }).await;
    let url = format!("ws://127.0.0.1:{port}/ws");
    assert_eq!(Client::refused(&url).await.status(), 401);
    assert_eq!(Client::refused(&format!("{url}?token=wrong")).await.status(), 403);
    greeted(&format!("{url}?token=a%20token%20of%20system%20D")).await;
}

fn base64(bytes: &[u8]) -> Value {
    use base64ct::{Base64, Encoding as _};
    Base64::encode_string(bytes).into()
}
