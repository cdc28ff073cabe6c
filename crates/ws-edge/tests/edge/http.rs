//! Routes of system A.

use auth::SessionClaims;
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};
use storage::SessionStatus;
use testkit::{eventually, tokens};

use crate::stage::{SERVICE_KEY, Setup, Stage};

pub async fn json_of(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!(response.headers()["access-control-allow-origin"], "*");
    (status, response.json().await.unwrap())
}

pub async fn get(stage: &Stage, path: &str) -> (u16, Value) {
    json_of(reqwest::get(stage.http(path)).await.unwrap()).await
}

pub async fn post(stage: &Stage, path: &str, key: Option<&str>, body: impl ToString) -> (u16, Value) {
    let mut request = Client::new().post(stage.http(path)).body(body.to_string());
    if let Some(key) = key {
        request = request.bearer_auth(key);
    }
    json_of(request.send().await.unwrap()).await
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[tokio::test]
async fn the_open_routes_answer_as_system_a() {
    let stage = Setup::new().await.set("NODE_ENV", "test").set("SERVER_MODE", "ws").start().await;
    let (status, index) = get(&stage, "/").await;
    assert_eq!((status, &index["service"]), (200, &json!("Sessions WebSocket Transcription Server")));
    assert_eq!(
        (&index["status"], &index["version"], &index["mode"]),
        (&json!("running"), &json!("1.0.0"), &json!("both"))
    );
    assert_eq!(index["endpoints"]["websocket"], "/api/realtime/transcribe");

    let (status, health) = get(&stage, "/health").await;
    assert_eq!((status, &health["status"], &health["queueLength"]), (200, &json!("ok"), &json!(0)));
    assert!(health["timestamp"].as_str().unwrap().ends_with('Z'));

    let (status, test) = get(&stage, "/test").await;
    let port = stage.running.address.port();
    assert_eq!((status, &test["message"], &test["port"]), (200, &json!("Server is running"), &json!(port)));
    assert_eq!(test["env"], json!({"PORT": port.to_string(), "NODE_ENV": "test", "SERVER_MODE": "ws"}));

    assert_eq!(
        get(&stage, "/api/realtime/transcribe?token=x").await,
        (426, json!({"error": "WebSocket endpoint. Use WebSocket upgrade."}))
    );
    assert_eq!(
        get(&stage, "/nowhere?secret=1").await,
        (404, json!({"error": "Not found", "path": "/nowhere", "method": "GET"}))
    );
    assert_eq!(
        post(&stage, "/health", None, "").await,
        (404, json!({"error": "Not found", "path": "/health", "method": "POST"}))
    );

    let raw = reqwest::get(stage.http("/health")).await.unwrap().text().await.unwrap();
    assert!(raw.starts_with(r#"{"status":"ok","timestamp":""#), "the order of keys: {raw}");
    stage.end().await;
}

#[tokio::test]
async fn every_path_has_options() {
    let stage = Stage::start().await;
    for path in ["/", "/anything", "/api/realtime/transcribe"] {
        let response = Client::new().request(Method::OPTIONS, stage.http(path)).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        assert!(!response.headers().contains_key("content-type"));
        let methods = response.headers()["access-control-allow-methods"].to_str().unwrap();
        assert!(["GET", "POST", "OPTIONS"].iter().all(|method| methods.contains(method)), "{methods}");
        let headers = response.headers()["access-control-allow-headers"].to_str().unwrap();
        assert!(["Content-Type", "Authorization"].iter().all(|name| headers.contains(name)), "{headers}");
        assert!(response.text().await.unwrap().is_empty());
    }
    stage.end().await;
}

#[tokio::test]
async fn metrics_are_json_or_prometheus_and_name_no_session() {
    let stage = Stage::start().await;
    let _follower = stage.connect("bob", "").await;
    let (status, metrics) = get(&stage, "/metrics").await;
    assert_eq!((status, &metrics["activeConnections"]), (200, &json!(1)));
    assert_eq!(metrics["sessionClients"], json!({}), "slugs can be secrets");
    for part in ["queue", "latency", "counters"] {
        assert!(metrics[part].is_object(), "{part}");
    }
    assert_eq!(keys(&metrics["queue"])[..1], ["queueLength"][..]);

    let ask = async |accept: &str, key: Option<&str>| {
        let request = Client::new().get(stage.http("/metrics")).header("accept", accept);
        let request = if let Some(key) = key { request.bearer_auth(key) } else { request };
        let response = request.send().await.unwrap();
        let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
        (kind, response.text().await.unwrap())
    };
    let (_, body) = ask("*/*", Some(SERVICE_KEY)).await;
    let metrics: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(metrics["sessionClients"], json!({ stage.session.as_str(): 1 }));
    let (_, body) = ask("*/*", Some("no key")).await;
    assert!(!body.contains(stage.session.as_str()));
    assert!(body.starts_with("{\n  \"activeConnections\""), "pretty, as curl shows it: {body}");
    for accept in
        ["text/plain", "application/openmetrics-text; version=1.0.0", "text/plain;version=0.0.4;q=0.5"]
    {
        let (kind, body) = ask(accept, Some(SERVICE_KEY)).await;
        assert!(kind.starts_with("text/plain"), "{kind}");
        assert!(body.contains("ws_edge_connections ") && !body.contains(stage.session.as_str()));
    }
    stage.end().await;
}

#[tokio::test]
async fn start_and_stop_are_validated_authorised_and_noted() {
    let stage = Stage::start().await;
    let start = "/api/transcription/start";
    let (status, answer) = post(&stage, start, Some(SERVICE_KEY), "{").await;
    assert_eq!((status, &answer["error"]), (500, &json!("transcription_start_failed")));
    assert_eq!(
        (&answer["ok"], &answer["mode"], &answer["reason"]),
        (&json!(false), &json!("live"), &json!("internal_error"))
    );
    for body in [
        json!({}),
        json!({"sessionId": "s1"}),
        json!({"sessionSlug": "x"}),
        json!({"sessionId": "", "sessionSlug": "x"}),
    ] {
        assert_eq!(
            post(&stage, start, Some(SERVICE_KEY), body).await,
            (400, json!({"ok": false, "error": "Missing sessionId or sessionSlug"}))
        );
    }
    let body = json!({"sessionId": "s1", "sessionSlug": stage.session});
    let other = tokens::good(&stage.secret, &"other".parse().unwrap(), "alice");
    let follower = tokens::follow_only(&stage.secret, &stage.session, "alice");
    for (key, expected) in
        [(None, 401), (Some("wrong"), 401), (Some(other.as_str()), 403), (Some(&follower), 403)]
    {
        let (status, answer) = post(&stage, start, key, &body).await;
        assert_eq!((status, &answer["ok"]), (expected, &json!(false)));
    }
    let token = stage.token("alice");
    for (path, key) in
        [(start, SERVICE_KEY), (start, token.as_str()), ("/api/transcription/start/now", SERVICE_KEY)]
    {
        assert_eq!(post(&stage, path, Some(key), &body).await, (200, json!({"ok": true, "mode": "live"})));
    }
    eventually("the session is live", async || {
        let session = stage.storage.session(&stage.session).await.unwrap()?;
        (session.status == SessionStatus::Live && session.external_id.as_deref() == Some("s1")).then_some(())
    })
    .await;

    let stop = "/api/transcription/stop";
    assert_eq!(post(&stage, stop, Some(SERVICE_KEY), "[").await.0, 500);
    assert_eq!(
        post(&stage, stop, Some(SERVICE_KEY), "{}").await,
        (400, json!({"error": "Missing sessionId"}))
    );
    let body = json!({"sessionId": "s1"});
    assert_eq!(post(&stage, stop, None, &body).await.0, 401);
    assert_eq!(
        post(&stage, stop, Some(&token), &body).await.0,
        403,
        "the token does not name the session's id"
    );
    let claims = SessionClaims { session_id: Some("s1".into()), ..tokens::claims(&stage.session, "alice") };
    let token = tokens::sign(&stage.secret, &claims);
    for key in [SERVICE_KEY, &token] {
        assert_eq!(
            post(&stage, stop, Some(key), &body).await,
            (200, json!({"success": true, "sessionId": "s1"}))
        );
    }
    let unknown = json!({"sessionId": "never started"});
    assert_eq!(post(&stage, stop, Some(SERVICE_KEY), &unknown).await.0, 200);
    eventually("the session has ended", async || {
        stage.storage.session(&stage.session).await.unwrap().unwrap().status == SessionStatus::Ended
    })
    .await;
    stage.end().await;
}

#[tokio::test]
async fn open_routes_need_no_proof() {
    let stage = Setup::new().await.set("LEGACY_OPEN_ROUTES", "true").start().await;
    let body = json!({"sessionId": "s1", "sessionSlug": stage.session});
    assert_eq!(post(&stage, "/api/transcription/start", None, &body).await.0, 200);
    assert_eq!(post(&stage, "/api/transcription/stop", None, &body).await.0, 200);
    stage.end().await;
}

#[tokio::test]
async fn who_speaks_is_kept_by_our_clock() {
    let stage = Stage::start().await;
    let path = "/api/active-speaker";
    assert_eq!(post(&stage, path, None, "{").await.0, 500);
    let missing = (400, json!({"error": "Missing required fields: sessionSlug, identity, token"}));
    for body in [
        json!({}),
        json!({"sessionSlug": "a", "identity": "b"}),
        json!({"sessionSlug": 1, "identity": "b", "token": "c"}),
    ] {
        assert_eq!(post(&stage, path, None, body).await, missing);
    }
    let body = |token: &str| json!({"sessionSlug": stage.session, "identity": "bob", "name": "Bob", "timestamp": 5, "token": token});
    let invalid = (401, json!({"error": "Invalid or expired transcription token"}));
    assert_eq!(post(&stage, path, None, body("x")).await, invalid);
    assert_eq!(
        post(&stage, path, None, body(&tokens::expired(&stage.secret, &stage.session, "bob"))).await,
        invalid
    );
    let other = tokens::good(&stage.secret, &"other".parse().unwrap(), "bob");
    assert_eq!(post(&stage, path, None, body(&other)).await.0, 403, "a token of another session");
    assert_eq!(stage.turns().await, []);
    assert_eq!(post(&stage, path, None, body(&stage.token("alice"))).await, (200, json!({"success": true})));

    let mut client = stage.connect("carol", "").await;
    client.say(json!({"type": "active_speaker"})).await;
    // Said again it is no news.
    client.say(json!({"type": "active_speaker", "identity": "carol"})).await;
    client.say(json!({"type": "active_speaker", "isActive": false})).await;
    let told = [Some(("bob", Some("Bob"))), Some(("carol", None)), None];
    let told =
        told.map(|turn| turn.map(|(who, name): (&str, Option<&str>)| (who.into(), name.map(Into::into))));
    eventually("the speakers are noted", async || stage.turns().await == told).await;
    stage.end().await;
}

#[tokio::test]
async fn bodies_have_a_limit() {
    let stage = Stage::start().await;
    let (status, answer) = post(&stage, "/api/active-speaker", None, "x".repeat(2 * 1024 * 1024)).await;
    assert_eq!(status, 413, "{answer}");
    stage.end().await;
}

#[tokio::test]
async fn only_listed_origins_may_read() {
    let stage = Setup::new().await.set("CORS_ORIGIN", "https://app.example, https://b.example").start().await;
    let ask = async |origin: &str| {
        let response =
            Client::new().get(stage.http("/health")).header("origin", origin).send().await.unwrap();
        let header =
            |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        (header("access-control-allow-origin"), header("access-control-allow-credentials"))
    };
    assert_eq!(ask("https://b.example").await, (Some("https://b.example".into()), Some("true".into())));
    assert_eq!(ask("https://evil.example").await, (None, None));
    stage.end().await;
}

#[tokio::test]
async fn the_admin_listener_names_what_is_away() {
    let stage = Setup::new().await.set("REDIS_URL", "redis://127.0.0.1:1/").start().await;
    let admin = format!("http://{}", stage.running.admin_address);
    eventually("only redis is away", async || {
        let response = reqwest::get(format!("{admin}/readyz")).await.unwrap();
        let status = response.status().as_u16();
        let body: Value = response.json().await.unwrap();
        status == 503 && keys(&body["faults"]) == ["redis"]
    })
    .await;
    assert_eq!(reqwest::get(format!("{admin}/livez")).await.unwrap().status(), 200);
    assert_eq!(get(&stage, "/health").await.0, 200, "the public answer checks no dependency");
    stage.end().await;
}
