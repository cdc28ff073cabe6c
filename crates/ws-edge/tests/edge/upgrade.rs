//! From an upgrade request to a greeting or a refusal.

use std::time::Duration;

use testkit::tokens;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    client::{Client, Read},
    stage::{Setup, Stage},
};

#[tokio::test]
async fn the_greeting_comes_first() {
    let stage = Stage::start().await;
    let mut client =
        Client::connect(&stage.url_of("alice", &format!("&sessionSlug={}", stage.session)), &[]).await;
    let greeting = client.said().await;
    assert_eq!(greeting["type"], "connected");
    assert_eq!(greeting["sessionSlug"], stage.session.as_str());
    assert_eq!(greeting["userId"], "alice");
    assert_eq!(greeting["message"], "WebSocket connection established");
    assert!(greeting["ts"].is_i64());
    client.close().await;
    let token = format!("Bearer {}", stage.token("alice"));
    let mut client = Client::connect(&stage.url(""), &[("authorization", &token)]).await;
    assert_eq!(
        client.said().await["type"],
        "connected",
        "clients that can may keep the token out of the URL"
    );
    stage.end().await;
}

#[tokio::test]
async fn a_bad_token_is_refused_with_a_reason_that_a_browser_can_read() {
    let stage = Stage::start().await;
    let other_secret = tokens::good(&"another secret".into(), &stage.session, "alice");
    let expired = tokens::expired(&stage.secret, &stage.session, "alice");
    let invalid = "Invalid or expired transcription token";
    let good = stage.token("alice");
    for (query, code, reason, says) in [
        (String::new(), "unauthenticated", "Missing transcription token", "missing"),
        ("token=".into(), "unauthenticated", "Missing transcription token", "missing"),
        ("token=TEST".into(), "unauthenticated", invalid, "invalid"),
        ("token=%00%ff".into(), "unauthenticated", invalid, "invalid"),
        (format!("token={}", "x".repeat(8_192)), "unauthenticated", invalid, "larger than 4096 bytes"),
        (format!("token={other_secret}"), "unauthenticated", invalid, "TRANSCRIPTION_JWT_SECRET"),
        (format!("token={expired}"), "expired", invalid, "expired"),
        (format!("token={good}&sessionSlug=another"), "forbidden", invalid, "another session"),
        (format!("token={good}&since=yesterday"), "caller", "Not allowed", "since"),
        (format!("token={good}&messages=all"), "caller", "Not allowed", "messages"),
        (format!("token={good}&partials=maybe"), "caller", "Not allowed", "partials"),
    ] {
        let mut client = Client::connect(&stage.url(&query), &[]).await;
        let Read::Said(error) = client.read().await else { panic!("{query}: no error message") };
        assert_eq!((error["type"].as_str(), error["code"].as_str()), (Some("error"), Some(code)), "{query}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(says), "{query}: {message}");
        assert!(!message.contains(&good), "the token is not quoted");
        assert_eq!(client.read().await, Read::Closed(1008, reason.to_owned()), "{query}");
    }
    stage.end().await;
}

#[tokio::test]
async fn refusals_can_be_raw() {
    let stage = Setup::new().await.set("UPGRADE_AUTH", "reject").start().await;
    for query in
        ["token=TEST".to_owned(), String::new(), format!("token={}&sessionSlug=x", stage.token("alice"))]
    {
        let response = Client::refused(&stage.url(&query), &[]).await;
        assert_eq!(response.status(), 401, "{query}");
    }
    stage.connect("alice", "").await.close().await;
    stage.end().await;
}

/// Sends these bytes and reads what comes until the edge closes, answering no close frame.
async fn raw(stage: &Stage, request: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(stage.running.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let reading = stream.read_to_end(&mut bytes);
    // A reset ends it as well, after what was read before.
    let _ = tokio::time::timeout(testkit::PATIENCE, reading).await.expect("the edge closes");
    bytes
}

#[tokio::test]
async fn the_documented_upgrade_by_curl_works() {
    let stage = Stage::start().await;
    let bytes = raw(
        &stage,
        "GET /api/realtime/transcribe?token=TEST HTTP/1.1\r\nHost: localhost:3001\r\nUser-Agent: curl/8\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: test\r\n\
         Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
    )
    .await;
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 switching protocols\r\n"), "{head}");
    // SHA-1 of "test258EAFA5-E914-47DA-95CA-C5AB0DC85B11" in base64.
    assert!(head.contains("sec-websocket-accept: tnpbgc8zqdocskhawopkzqjj1hi="), "{head}");
    assert!(!head.contains("sec-websocket-extensions") && !head.contains("access-control"), "{head}");
    // A text frame with the reason, then a close frame with 1008 and its reason; nothing after it.
    let (text, close) = (&bytes[end..], b"\x88\x28\x03\xf0Invalid or expired transcription token");
    assert_eq!(text[0], 0x81);
    assert!(text.ends_with(close), "{text:?}");
    stage.end().await;
}

#[tokio::test]
async fn other_upgrades_are_refused_by_status() {
    let stage = Stage::start().await;
    let request = |path: &str, headers: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close, Upgrade\r\nUpgrade: websocket\r\n{headers}\r\n"
        )
    };
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let version = "Sec-WebSocket-Version: 13\r\n";
    let path = "/api/realtime/transcribe";
    for (request, status) in [
        (request("/elsewhere", &format!("{key}{version}")), "404"),
        (request("/api/realtime/transcribe/", &format!("{key}{version}")), "404"),
        (request(path, &format!("{key}Sec-WebSocket-Version: 8\r\n")), "426"),
        (request(path, key), "426"),
        (request(path, version), "400"),
        ("GET / HTTP/1.1\r\nno header\r\n\r\n".into(), "400"),
        ("\u{16}\u{3}\u{1}\u{2}\u{0}\r\n\r\n".into(), "400"),
        (format!("GET /?token={} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(64 * 1024)), "4"),
    ] {
        let answer = String::from_utf8_lossy(&raw(&stage, &request).await).into_owned();
        let expected = format!("HTTP/1.1 {status}");
        assert!(answer.is_empty() || answer.starts_with(&expected), "{request:.80}: {answer}");
    }
    stage.end().await;
}

#[tokio::test]
async fn pages_of_unlisted_origins_may_not_connect() {
    let stage = Setup::new().await.set("CORS_ORIGIN", "https://app.example").start().await;
    let url = stage.url_of("alice", "");
    let mut page = Client::connect(&url, &[("origin", "https://app.example")]).await;
    assert_eq!(page.said().await["type"], "connected");
    let mut program = Client::connect(&url, &[]).await;
    assert_eq!(program.said().await["type"], "connected");
    let mut evil = Client::connect(&url, &[("origin", "https://evil.example")]).await;
    let (error, code, _) = evil.ended().await;
    assert_eq!((error.unwrap()["code"].as_str(), code), (Some("forbidden"), 1008));
    stage.end().await;
}

#[tokio::test]
async fn too_many_handshakes_are_told_when_to_come_back() {
    let setup =
        Setup::new().await.set("HANDSHAKES_PER_SECOND", "1").set("IDENTITY_HANDSHAKES_PER_SECOND", "1000");
    let stage = setup.start().await;
    let forwarded = |client: &'static str| [("x-real-ip", client)];
    for _ in 0..4 {
        Client::connect(&stage.url_of("alice", ""), &forwarded("192.0.2.1")).await;
    }
    let response = Client::refused(&stage.url_of("alice", ""), &forwarded("192.0.2.1")).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["retry-after"]),
        (429, &"1".parse().unwrap())
    );
    Client::connect(&stage.url_of("alice", ""), &forwarded("192.0.2.2")).await;
    stage.end().await;

    let setup = Setup::new().await.set("IDENTITY_HANDSHAKES_PER_SECOND", "1");
    let stage = setup.start().await;
    for _ in 0..4 {
        stage.connect("alice", "").await;
    }
    let (error, code, _) = Client::connect(&stage.url_of("alice", ""), &[]).await.ended().await;
    let error = error.unwrap();
    assert_eq!((error["code"].as_str(), code), (Some("overloaded"), 1013));
    assert!(error["retryAfterMs"].as_u64().unwrap() <= 1_000, "{error}");
    stage.connect("bob", "").await;
    stage.end().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_told_so() {
    let stage = Setup::new().await.set("CONNECTIONS_MAX", "2").start().await;
    let one = stage.connect("alice", "").await;
    let _two = stage.connect("bob", "").await;
    let answer = raw(&stage, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 503 "), "{answer:?}");
    one.close().await;
    testkit::eventually("a place is free again", async || reqwest::get(stage.http("/health")).await.is_ok())
        .await;
    stage.end().await;
}

#[tokio::test]
async fn a_token_that_ends_closes_the_socket_unless_it_is_refreshed() {
    let stage = Stage::start().await;
    let ending = tokens::lasting(&stage.secret, &stage.session, "alice", Duration::from_secs(2));
    let mut client = Client::connect(&stage.url(&format!("token={ending}")), &[]).await;
    let mut fresh = Client::connect(&stage.url(&format!("token={ending}")), &[]).await;
    fresh.expect("connected").await;
    for (token, code) in [
        ("x".to_owned(), "unauthenticated"),
        (stage.token("bob"), "forbidden"),
        (tokens::good(&stage.secret, &"other".parse().unwrap(), "alice"), "forbidden"),
    ] {
        fresh.say(serde_json::json!({"type": "refresh", "token": token})).await;
        assert_eq!(fresh.expect("error").await["code"], code);
    }
    fresh.say(serde_json::json!({"type": "refresh", "token": stage.token("alice")})).await;
    assert!(fresh.expect("refreshed").await["expiresAt"].is_i64());

    let (error, code, reason) = client.ended().await;
    assert_eq!(
        (error.unwrap()["code"].as_str(), code, reason.as_str()),
        (Some("expired"), 4003, "Token expired")
    );
    fresh.settled().await;
    stage.end().await;
}

#[tokio::test]
async fn a_peer_that_answers_no_ping_is_closed() {
    let stage = Setup::new().await.set("PING_INTERVAL_MS", "100").start().await;
    let mut lively = stage.connect("alice", "").await;
    let request = format!(
        "GET /api/realtime/transcribe?token={} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        stage.token("bob")
    );
    // One answers pings because it reads, the other reads until the edge gives it up and answers nothing.
    let reading = async {
        loop {
            assert!(matches!(lively.read().await, Read::Said(_)), "the lively one stays");
        }
    };
    let bytes = tokio::select! {
        bytes = raw(&stage, &request) => bytes,
        () = reading => unreachable!(),
    };
    assert!(bytes.ends_with(b"\x88\x13\x0f\xa8Heartbeat timeout"), "{bytes:?}");
    lively.settled().await;
    stage.end().await;
}
