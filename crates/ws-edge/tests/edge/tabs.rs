//! `/ws` and its REST routes as far as they need no hub: who gets in, channels, limits, and what other back ends ring.

use std::time::Duration;

use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use reqwest::Method;
use serde_json::{Value, json};
use testkit::{PATIENCE, eventually, free_port, tokens};

use crate::{
    client::{Client, Read},
    stage::{Setup, Stage, USER_SECRET},
};

fn subscribe(channel: Value) -> Value {
    json!({"type": "subscribe", "channel": channel})
}

/// Subscribes and expects that it works.
async fn subscribed(tab: &mut Client, channel: Value) -> String {
    tab.say(subscribe(channel.clone())).await;
    let answer = tab.expect("subscribed").await;
    answer["data"]["channelKey"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn no_token_a_bad_one_and_an_expired_one_open_and_close_with_1008() {
    let port = free_port();
    let stage = Setup::new().await.set("CHAT_PORT", &port.to_string()).start().await;
    let of = |lifetime| tokens::of_user(&USER_SECRET.into(), "u1", lifetime);
    let other = tokens::of_user(&"another secret that is long enough".into(), "u1", 60);
    let session = stage.token("u1");
    for door in [format!("{}/ws", stage.running.address), format!("127.0.0.1:{port}/any/path")] {
        for query in [
            String::new(),
            "?token=".to_owned(),
            "?token=invalid".to_owned(),
            format!("?token={other}"),
            format!("?token={}", of(-60)),
            // Good, but for captions.
            format!("?token={session}"),
        ] {
            let mut client = Client::connect(&format!("ws://{door}{query}"), &[]).await;
            let (error, code, reason) = client.ended().await;
            assert_eq!((code, reason.as_str()), (1008, "Unauthorized"), "{door}");
            assert!(error.unwrap()["data"]["message"].is_string());
        }
        let good = of(60);
        let stored = json!({"token": good, "userId": "u1"}).to_string();
        for (query, header) in [
            (format!("?token={good}"), None),
            (String::new(), Some(format!("Bearer {good}"))),
            (format!("?token={}", stored.replace('"', "%22").replace('{', "%7B").replace('}', "%7D")), None),
            (
                format!(
                    "?token={}",
                    stored.replace('"', "%2522").replace('{', "%257B").replace('}', "%257D")
                ),
                None,
            ),
        ] {
            let headers: Vec<_> = header.iter().map(|value| ("authorization", value.as_str())).collect();
            let mut client = Client::connect(&format!("ws://{door}{query}"), &headers).await;
            assert_eq!(
                client.said().await,
                json!({"type": "connected", "data": {
                    "userId": "u1", "message": "Successfully connected to WebSocket server"}})
            );
        }
    }
    let plain = reqwest::get(format!("http://127.0.0.1:{port}/ws")).await.unwrap();
    assert_eq!((plain.status().as_u16(), plain.text().await.unwrap().as_str()), (426, "Upgrade Required"));
    assert_eq!(reqwest::get(stage.http("/ws")).await.unwrap().status(), 426);
    let stats = format!("http://{}/stats", stage.running.admin_address);
    let stats: Value = reqwest::get(stats).await.unwrap().json().await.unwrap();
    assert_eq!((&stats["totalConnections"], &stats["authFailures"]), (&json!(8), &json!(12)));
    let metrics = format!("http://{}/metrics", stage.running.admin_address);
    let metrics = reqwest::get(metrics).await.unwrap().text().await.unwrap();
    for name in [
        "ws_active_connections",
        "ws_total_connections",
        "ws_total_messages",
        "ws_auth_failures",
        "ws_errors",
    ] {
        assert!(metrics.contains(&format!("\n{name} ")), "{name}");
    }
    stage.end().await;
}

#[tokio::test]
async fn channels_are_answered_as_system_c_does() {
    let stage = Stage::start().await;
    let mut tab = stage.tab("u1").await;
    tab.say(json!({"type": "ping"})).await;
    assert_eq!(tab.said().await, json!({"type": "pong"}));
    tab.say_text("{not json").await;
    assert_eq!(tab.said().await["data"]["message"], "Invalid message format");
    tab.say(json!({"type": "dance"})).await;

    let creator = json!({"type": "creator", "id": "c1"});
    tab.say(subscribe(creator.clone())).await;
    assert_eq!(
        tab.said().await,
        json!({"type": "subscribed", "data": {"channel": creator, "channelKey": "creator_c1"}})
    );
    assert_eq!(subscribed(&mut tab, json!({"type": "feed", "userId": "u1"})).await, "feed_u1");
    assert_eq!(subscribed(&mut tab, json!("notifications")).await, "notifications_u1");
    assert_eq!(subscribed(&mut tab, json!("user:u1")).await, "notifications_u1");
    for denied in [
        json!({"type": "notifications", "userId": "u2"}),
        json!({"type": "feed", "userId": "u2"}),
        json!({"type": "post", "postId": "p1"}),
        json!({"type": "rooms"}),
        json!("user:u2"),
    ] {
        tab.say(subscribe(denied.clone())).await;
        let error = tab.expect("error").await;
        assert_eq!(error["data"]["message"], "Access denied to channel", "{denied}");
        assert_eq!(error["data"]["code"], "forbidden");
        if denied.is_object() {
            assert_eq!(error["data"]["channel"], denied);
        }
    }
    tab.say(json!({"type": "subscribe"})).await;
    assert_eq!(tab.expect("error").await["data"]["message"], "Access denied to channel");
    tab.say(json!({"type": "unsubscribe", "channel": creator})).await;
    assert_eq!(tab.said().await["type"], "unsubscribed");
    // Not held any more: no answer.
    tab.say(json!({"type": "unsubscribe", "channel": creator})).await;
    tab.settled().await;
    stage.end().await;
}

#[tokio::test]
async fn what_other_back_ends_ring_arrives_as_it_is() {
    let stage = Stage::start().await;
    let mut tabs = [stage.tab("u1").await, stage.tab("u2").await];
    for tab in &mut tabs {
        subscribed(tab, json!({"type": "creator", "id": "c_1"})).await;
    }
    let mut stranger = stage.tab("u3").await;
    subscribed(&mut stranger, json!({"type": "creator", "id": "c_10"})).await;
    let redis = redis::Client::open(testkit::redis_url().expose()).unwrap();
    let mut redis = redis.get_multiplexed_async_connection().await.unwrap();
    let event = json!({"type": "creator_updated", "creatorId": "c_1", "data": {"name": "x"}});
    for key in ["creator_c_1", "creator:c_1"] {
        let channel = format!("{}-ws:{key}", stage.prefix);
        // Once somebody hears it.
        eventually("the edge listens", async || {
            let heard: i64 = redis::cmd("PUBLISH")
                .arg(&channel)
                .arg(event.to_string())
                .query_async(&mut redis)
                .await
                .unwrap();
            heard > 0
        })
        .await;
        for tab in &mut tabs {
            assert_eq!(tab.expect("creator_updated").await, event);
        }
    }
    stranger.say(json!({"type": "ping"})).await;
    assert_eq!(stranger.said().await["type"], "pong", "an id that only begins alike is another");
    stage.end().await;
}

#[tokio::test]
async fn floods_and_too_many_channels_are_told_by_code() {
    let stage =
        Setup::new().await.set("WS_CHANNELS_MAX", "20").set("WS_MESSAGES_PER_SECOND", "10").start().await;
    let mut tab = stage.tab("u1").await;
    for index in 0..25 {
        tab.say(subscribe(json!({"type": "creator", "id": index.to_string()}))).await;
    }
    let mut answers = Vec::new();
    for _ in 0..25 {
        let said = tab.said().await;
        let code = said["data"]["code"].as_str().unwrap_or("subscribed").to_owned();
        answers.push(code);
    }
    assert_eq!(answers.iter().filter(|code| *code == "subscribed").count(), 20);
    assert_eq!(answers[20..], ["too_many_channels"; 5]);
    for _ in 0..5_000 {
        tab.say(json!({"type": "ping"})).await;
    }
    let mut often = 0;
    loop {
        match tab.read().await {
            Read::Said(said) if said["type"] == "error" => {
                assert_eq!(said["data"]["code"], "rate_limited");
                assert!(said["data"]["retryAfterMs"].as_u64().unwrap() > 0);
                often += 1;
            }
            Read::Said(_) => {}
            Read::Closed(code, _) => {
                assert_eq!(code, 1008);
                break;
            }
            Read::Lost => panic!("no close frame"),
        }
    }
    assert!((1..100).contains(&often), "{often}");

    let mut large = stage.tab("u2").await;
    large.say_text(&"x".repeat(100_000)).await;
    let (error, code, _) = large.ended().await;
    assert_eq!((code, &error.unwrap()["data"]["code"]), (1009, &json!("too_large")));

    let mut confused = stage.tab("u3").await;
    for _ in 0..30 {
        confused.say_text("{").await;
    }
    assert_eq!(confused.code().await, 1008);
    stage.end().await;
}

#[tokio::test]
async fn a_token_ends_with_4003_unless_it_is_refreshed() {
    let stage = Stage::start().await;
    let of = |user, lifetime| tokens::of_user(&USER_SECRET.into(), user, lifetime);
    // Long enough for a busy machine to get in and refresh.
    let url = format!("ws://{}/ws?token={}", stage.running.address, of("u1", 10));
    let (mut lost, mut kept) = (Client::connect(&url, &[]).await, Client::connect(&url, &[]).await);
    kept.expect("connected").await;
    for (token, code) in
        [(of("u2", 60), "forbidden"), (of("u1", -60), "expired"), ("x".into(), "unauthenticated")]
    {
        kept.say(json!({"type": "refresh", "token": token})).await;
        assert_eq!(kept.expect("error").await["data"]["code"], code);
    }
    kept.say(json!({"type": "refresh", "token": {"token": of("u1", 60)}})).await;
    assert!(kept.expect("refreshed").await["expiresAt"].is_number());
    let (error, code, _) = lost.ended().await;
    assert_eq!((code, &error.unwrap()["data"]["code"]), (4003, &json!("expired")));
    kept.settled().await;
    stage.end().await;
}

#[tokio::test]
async fn a_dead_socket_is_closed_with_4008() {
    let stage = Setup::new().await.set("WS_PING_INTERVAL_MS", "50").start().await;
    let url = format!("/ws?token={}", stage.user_token("u1"));
    let code = deaf_peer_close_code(stage.running.address, &url).await;
    assert_eq!(code, 4008);
    stage.end().await;
}

/// The code with which a peer is closed that reads and never answers.
async fn deaf_peer_close_code(address: std::net::SocketAddr, path: &str) -> u16 {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.unwrap().unwrap();
    // The close frame is the last: two bytes of head, two of code, the reason.
    let reason = b"Heartbeat timeout";
    let at = bytes.len() - reason.len() - 2;
    assert_eq!(&bytes[at + 2..], reason);
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// An application that answers questions for access: posts whose id begins with `o` are open.
async fn application() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    let answer = async |request: Request<Incoming>| {
        assert_eq!(request.headers()["authorization"], "Bearer hook-key");
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let asked: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(asked["userId"], "u1");
        let id = asked["channel"]["id"].as_str().unwrap().to_owned();
        let (status, body) = match id.chars().next() {
            Some('o') => (200, json!({"allowed": true}).to_string()),
            Some('c') => (200, json!({"allowed": false}).to_string()),
            Some('f') => (403, String::new()),
            _ => (500, String::new()),
        };
        Ok::<_, std::convert::Infallible>(
            Response::builder().status(status).body(Full::new(bytes::Bytes::from(body))).unwrap(),
        )
    };
    tasks.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service_fn(answer));
            let _ = connection.await;
        }
    });
    // Until the test ends.
    std::mem::forget(tasks);
    format!("http://{address}/access")
}

#[tokio::test]
async fn the_application_says_who_may_follow_a_post() {
    let setup = Setup::new().await.set("CHANNEL_ACCESS_HOOK", &application().await);
    let stage = setup.set("CHANNEL_ACCESS_KEY", "hook-key").start().await;
    let mut tab = stage.tab("u1").await;
    let post = |id: &str| json!({"type": "post", "postId": id});
    assert_eq!(subscribed(&mut tab, post("open")).await, "post_open");
    for (id, message) in [
        ("closed", "Access denied to channel"),
        ("forbidden", "Access denied to channel"),
        ("x", "Failed to subscribe"),
    ] {
        tab.say(subscribe(post(id))).await;
        let error = tab.expect("error").await;
        assert_eq!((&error["data"]["message"], &error["data"]["channel"]), (&json!(message), &post(id)));
    }
    // In the order in which they were asked for.
    for id in ["o1", "o2", "o3"] {
        tab.say(subscribe(post(id))).await;
    }
    for id in ["o1", "o2", "o3"] {
        assert_eq!(tab.expect("subscribed").await["data"]["channel"], post(id));
    }
    stage.end().await;
}

#[tokio::test]
async fn rest_asks_for_a_token_first_and_then_for_sense() {
    // Nobody answers where the hub should be.
    let hub = format!("http://127.0.0.1:{}", free_port());
    let stage = Setup::new().await.set("NOTIFICATION_HUB", &hub).start().await;
    let client = reqwest::Client::new();
    let ask = async |method: Method, path: &str, token: Option<&str>, body: Value| {
        let mut request = client.request(method, stage.http(path)).header("x-user-wallet", "w");
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if !body.is_null() {
            request = request.body(body.to_string());
        }
        let answer = request.timeout(Duration::from_secs(30)).send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json::<Value>().await.unwrap_or_default())
    };
    let mine = "/api/user/notifications";
    for (method, path) in [
        (Method::GET, format!("{mine}?wallet=w")),
        (Method::POST, mine.to_owned()),
        (Method::PUT, mine.to_owned()),
        (Method::PATCH, mine.to_owned()),
        (Method::DELETE, mine.to_owned()),
        (Method::PUT, format!("{mine}/x/read?wallet=w")),
        (Method::DELETE, format!("{mine}/clear?wallet=w")),
        (Method::GET, format!("{mine}/preferences")),
        (Method::POST, "/api/notifications".to_owned()),
    ] {
        let answer = ask(method, &path, None, Value::Null).await;
        assert_eq!(answer, (401, json!({"error": "Authentication required"})), "{path}");
    }
    let token = stage.user_token("u1");
    let deep = (0..50).fold(json!(1), |inner, _| json!({ "a": inner }));
    let full = |metadata: Value| json!({"userId":"u1","type":"LIKE_POST","title":"t","message":"m","metadata":metadata});
    let title = |title: String| json!({"userId":"u1","type":"LIKE_POST","title":title,"message":"m"});
    for (method, path, body, status, code) in [
        (Method::GET, format!("{mine}?limit=-1"), Value::Null, 400, "limit_invalid"),
        (Method::GET, format!("{mine}?limit=1000000000000"), Value::Null, 400, "limit_invalid"),
        (Method::GET, format!("{mine}?types=a%20b"), Value::Null, 400, "type_invalid"),
        (Method::POST, mine.to_owned(), json!({"userId": "u1"}), 400, "fields_missing"),
        (Method::POST, mine.to_owned(), json!([]), 400, "body_invalid"),
        (Method::POST, mine.to_owned(), full(deep), 400, "metadata_too_deep"),
        (Method::POST, mine.to_owned(), full(json!([1])), 400, "metadata_invalid"),
        (Method::POST, mine.to_owned(), title("x".repeat(3_000_000)), 413, "body_too_large"),
        (Method::PUT, mine.to_owned(), json!({}), 400, "ids_missing"),
        (Method::PATCH, mine.to_owned(), json!({"notificationId": "x", "isRead": 7}), 400, "is_read_invalid"),
        (Method::GET, format!("{mine}/nowhere"), Value::Null, 404, "not_found"),
        (Method::POST, format!("{mine}/clear"), Value::Null, 405, "method_not_allowed"),
        (Method::GET, mine.to_owned(), Value::Null, 503, "dependency"),
    ] {
        let (got, answer) = ask(method, &path, Some(&token), body).await;
        assert_eq!((got, answer["code"].as_str()), (status, Some(code)), "{path} {answer}");
        assert!(answer["error"].is_string());
    }
    let (status, answer) =
        ask(Method::POST, mine, Some(&token), json!({"userId":"u2","type":"A","title":"t","message":"m"}))
            .await;
    assert_eq!((status, &answer["code"]), (403, &json!("forbidden")));
    stage.end().await;
}
