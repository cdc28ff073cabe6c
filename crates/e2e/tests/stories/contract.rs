//! The documented checks of system A, as its documents say them, through nginx.

use e2e::{Frame, Output, Stack, frames, run};
use serde_json::{Value, json};

/// Runs `curl -i` and whatever else.
async fn curl(arguments: &[&str]) -> Output {
    run("curl", ["-sS", "-i", "--max-time", "60"].iter().chain(arguments)).await
}

/// Status and JSON of an answer, which has system A's headers.
fn json_of(output: &Output) -> (String, Value) {
    let (head, body) = output.http();
    let head = head.to_lowercase();
    for header in [
        "access-control-allow-origin: *",
        "access-control-allow-methods: get, post, ",
        "access-control-allow-headers: content-type, authorization",
        "content-type: application/json",
    ] {
        assert!(head.contains(header), "{header}: {head}");
    }
    (status(&head), serde_json::from_slice(body).unwrap())
}

fn status(head: &str) -> String {
    head.split(' ').nth(1).unwrap_or_default().trim().to_owned()
}

#[tokio::test]
async fn curl_sees_what_system_a_has_shown() {
    let stack = Stack::start().await;
    let (code, health) = json_of(&curl(&[&stack.http("/health")]).await);
    assert_eq!((code.as_str(), &health["status"], &health["queueLength"]), ("200", &json!("ok"), &json!(0)));
    assert!(health["timestamp"].as_str().unwrap().ends_with('Z'));

    let (code, metrics) = json_of(&curl(&[&stack.http("/metrics")]).await);
    assert_eq!(code, "200");
    let fields = ["activeConnections", "activeGladiaBridges", "totalMessagesReceived", "totalMessagesSent"];
    for field in fields.iter().chain(&["totalErrors", "uptime"]) {
        assert!(metrics[*field].is_number(), "{field}: {metrics}");
    }
    for field in ["queueLength", "totalQueued", "totalFlushed", "totalErrors"] {
        assert!(metrics["queue"][field].is_number(), "{field}: {metrics}");
    }
    for field in ["latency", "counters", "sessionClients"] {
        assert!(metrics[field].is_object(), "{field}: {metrics}");
    }
    let prometheus = curl(&["-H", "Accept: text/plain", &stack.http("/metrics")]).await;
    assert!(prometheus.http().0.to_lowercase().contains("content-type: text/plain"));

    let (code, index) = json_of(&curl(&[&stack.http("/")]).await);
    assert_eq!((code.as_str(), &index["status"]), ("200", &json!("running")));
    let (code, test) = json_of(&curl(&[&stack.http("/test")]).await);
    assert_eq!((code.as_str(), &test["message"]), ("200", &json!("Server is running")));

    for path in ["/", "/health", "/api/realtime/transcribe", "/anything/else"] {
        let answer = curl(&["-X", "OPTIONS", &stack.http(path)]).await;
        let (head, body) = answer.http();
        assert_eq!((status(&head).as_str(), body.len()), ("204", 0), "{path}");
        assert!(!head.to_lowercase().contains("\ncontent-type"), "{path}: {head}");
    }
    let (code, answer) = json_of(&curl(&[&stack.http("/api/realtime/transcribe")]).await);
    assert_eq!(
        (code.as_str(), answer),
        ("426", json!({"error": "WebSocket endpoint. Use WebSocket upgrade."}))
    );
    let (code, answer) = json_of(&curl(&["-X", "POST", &stack.http("/nowhere?token=x")]).await);
    assert_eq!(
        (code.as_str(), answer),
        ("404", json!({"error": "Not found", "path": "/nowhere", "method": "POST"}))
    );
    let (code, answer) = json_of(&curl(&["-d", "{}", &stack.http("/api/transcription/start")]).await);
    assert_eq!(
        (code.as_str(), answer),
        ("400", json!({"ok": false, "error": "Missing sessionId or sessionSlug"}))
    );
}

#[tokio::test]
async fn curl_can_try_the_upgrade_over_http_and_https() {
    let stack = Stack::start().await;
    let path = "/api/realtime/transcribe?token=TEST";
    for url in [stack.http(path), stack.https(path)] {
        let headers = [
            ["-H", "Connection: Upgrade"],
            ["-H", "Upgrade: websocket"],
            ["-H", "Sec-WebSocket-Version: 13"],
            ["-H", "Sec-WebSocket-Key: test"],
        ];
        let mut arguments = vec!["--http1.1", "-N", "-k"];
        arguments.extend(headers.iter().flatten());
        arguments.push(&url);
        let output = curl(&arguments).await;
        let (head, body) = output.http();
        assert_eq!(status(&head), "101", "{head}");
        assert!(!head.to_lowercase().contains("sec-websocket-extensions"), "{head}");
        let (said, length) = frames(body);
        assert_eq!(length, body.len(), "whole frames");
        let [Frame::Text(error), Frame::Close(1008, reason)] = said.as_slice() else { panic!("{said:?}") };
        let error: Value = serde_json::from_str(error).unwrap();
        assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("unauthenticated")));
        assert!(error["message"].as_str().unwrap().contains("TRANSCRIPTION_JWT_SECRET"), "{error}");
        assert_eq!(reason, "Invalid or expired transcription token");
    }
}

#[tokio::test]
async fn a_client_that_offers_compression_is_served_without() {
    let stack = Stack::start().await;
    let room = stack.room();
    let url = room.url(&format!("token={}&sessionSlug={}", room.token("alice"), room.slug));
    // What wscat and browsers send.
    let offers = [
        ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits"),
        ("origin", "https://app.example"),
        ("user-agent", "Mozilla/5.0"),
    ];
    let mut client = e2e::Client::connect(&url, &offers).await;
    let greeting = client.said().await;
    assert_eq!((&greeting["type"], &greeting["userId"]), (&json!("connected"), &json!("alice")));
    assert_eq!(greeting["message"], "WebSocket connection established");
    client.say(json!({"type": "active_speaker", "identity": "bob", "name": "Bob"})).await;
    client.settled().await;
    client.close().await;
}
