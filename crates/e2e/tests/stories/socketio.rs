//! Apps that speak Socket.IO, with the libraries that apps have, hear what clients of WebSockets hear.

use e2e::{
    LIBRARIES, Library, POLLING, Peer, Plan, Room, Stack, UPGRADE, User, WEBSOCKET, binary, run, sound, text,
};
use serde_json::{Value, json};
use testkit::{free_port, recording, wer::WordErrors};

const CAPTIONS: &str = "/captions";

const NOTIFICATIONS: &str = "/notifications";

/// A client in `/notifications` that follows its user's.
async fn subscriber(library: Library, port: u16, transports: &[&str], user: &User) -> Peer {
    let mut peer = Peer::start(library, port, transports, &[NOTIFICATIONS], &json!({"token": user.token()}));
    let connected = peer.event_in(NOTIFICATIONS, "connected").await;
    assert_eq!(connected["data"]["userId"], user.id.as_str(), "{library:?}: {connected}");
    let channel = json!({"channel": {"type": "notifications", "userId": user.id}});
    let answer = peer.ask_in(NOTIFICATIONS, json!(["subscribe", channel])).await;
    assert_eq!(answer, json!({"ok": true}), "{library:?}");
    peer.event_in(NOTIFICATIONS, "subscribed").await;
    // What is there by the time it subscribes is told as a list.
    peer.event_in(NOTIFICATIONS, "unread_count").await;
    peer
}

/// A client in `/captions` of a session.
async fn participant(
    library: Library,
    port: u16,
    transports: &[&str],
    room: &Room,
    name: &str,
    more: Value,
) -> Peer {
    let mut says = json!({"token": room.token(name), "sessionSlug": room.slug});
    if let (Some(says), Value::Object(more)) = (says.as_object_mut(), more) {
        says.extend(more);
    }
    let mut peer = Peer::start(library, port, transports, &[CAPTIONS], &says);
    let connected = peer.event_in(CAPTIONS, "connected").await;
    assert_eq!(connected["userId"], name, "{library:?}: {connected}");
    peer
}

/// A message as it is once JavaScript has read it, which does not know 1.0 from 1.
fn plain(message: &Value) -> Value {
    match message {
        Value::Array(values) => values.iter().map(plain).collect(),
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(name, value)| (name.clone(), plain(value))).collect())
        }
        Value::Number(number) => match number.as_f64() {
            Some(whole) if whole.fract() == 0.0 => json!(whole as i64),
            _ => message.clone(),
        },
        other => other.clone(),
    }
}

/// Which transport it is on, once it has taken what it was told to take.
async fn settled_on(peer: &mut Peer, library: Library, transports: &[&str]) -> String {
    let mut opened = peer.next("open").await;
    // python-socketio goes over before it says that it is open.
    if transports == UPGRADE && library != Library::Python {
        assert_eq!(opened["transport"], "polling");
        opened = peer.next("upgraded").await;
    }
    opened["transport"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn every_library_is_served_by_every_transport_and_at_every_door() {
    let chat = free_port();
    let stack = Stack::set(&[("CHAT_PORT", &chat.to_string())]).await;
    let [front, edge] = stack.doors();
    for library in LIBRARIES {
        for transports in [WEBSOCKET, POLLING, UPGRADE] {
            // What an app that chooses nothing does is tried at the doors without nginx too.
            let ports = if transports == UPGRADE { vec![front, edge, chat] } else { vec![front] };
            for port in ports {
                let user = stack.user();
                let mut peer = subscriber(library, port, transports, &user).await;
                let last = transports.last().copied().unwrap();
                assert_eq!(settled_on(&mut peer, library, transports).await, last, "{library:?}");
                user.publish_surely("hello").await;
                let told = peer.event_in(NOTIFICATIONS, "notification").await;
                assert_eq!(told["notification"]["title"], "hello", "{library:?}, {transports:?}: {told}");
                let wrong = peer.ask_in(NOTIFICATIONS, json!(["subscribe", {"channel": 7}])).await;
                assert_eq!(wrong["ok"], false, "{library:?}: {wrong}");
                peer.end().await;
            }
        }
    }
}

#[tokio::test]
async fn sound_in_binary_events_becomes_captions_in_every_library() {
    let stack = Stack::start().await;
    let recording = recording("LJ001-0002");
    let pcm = sound::pcm(&recording.samples());
    let port = stack.nginx.http_port;
    for (library, transports) in [
        (Library::Npm(4), WEBSOCKET),
        (Library::Npm(4), POLLING),
        (Library::Npm(3), UPGRADE),
        (Library::Npm(2), WEBSOCKET),
        (Library::Python, WEBSOCKET),
    ] {
        let room = stack.room();
        let mut peer = participant(library, port, transports, &room, "alice", json!({})).await;
        settled_on(&mut peer, library, transports).await;
        let init = json!(["init", {"encoding": "pcm_s16le"}]);
        assert_eq!(peer.ask_in(CAPTIONS, init).await, json!({"ok": true}), "{library:?}");
        let initialized = peer.event_in(CAPTIONS, "initialized").await;
        assert!(initialized["stream"].is_string(), "{initialized}");
        for piece in pcm.chunks(16_000) {
            assert_eq!(
                peer.ask_in(CAPTIONS, json!(["audio", binary(piece)])).await,
                json!({"ok": true}),
                "{library:?}"
            );
        }
        peer.ask_in(CAPTIONS, json!(["stop"])).await;
        let stopped = peer.event_in(CAPTIONS, "stopped").await;
        assert_eq!(stopped["samples"], json!(pcm.len() / 2), "{library:?}, {transports:?}");
        let said = peer.event_in(CAPTIONS, "transcript_final").await;
        let finals = room.finals().await;
        assert_eq!(said["text"], finals[0].text.as_str());
        let errors = WordErrors::between(&recording.text, &text(&finals));
        assert!(errors.rate() <= 0.2, "{library:?}, {transports:?}: {errors:?}");
        peer.end().await;
    }
}

#[tokio::test]
async fn clients_of_socketio_and_of_websockets_read_the_same_captions() {
    let stack = Stack::start().await;
    let room = stack.room();
    let port = stack.nginx.http_port;
    let mut websocket = room.join("bob").await;
    let mut peers = Vec::new();
    for (number, library) in LIBRARIES.into_iter().enumerate() {
        peers.push(participant(library, port, UPGRADE, &room, &format!("peer {number}"), json!({})).await);
    }
    let mut alice = room.join("alice").await;
    alice.init(json!({"encoding": "pcm_s16le"})).await;
    alice.speak(&recording("jfk").samples()).await;
    alice.stop().await;
    let last = room.finals().await.last().unwrap().sequence.0;
    websocket.finals_to(last).await;
    let finals: Vec<Value> = websocket.finals().iter().map(plain).collect();
    let partials: Vec<Value> = websocket.told("transcript_partial").iter().map(plain).collect();
    for peer in &mut peers {
        let mut told_finals = Vec::new();
        while told_finals.len() < finals.len() {
            told_finals.push(plain(&peer.event_in(CAPTIONS, "transcript_final").await));
        }
        if !peer.library.is_orderly() {
            told_finals.sort_by_key(|said| said["sequence"].as_u64());
        }
        assert_eq!(told_finals, finals);
        let is_partial = |line: &&Value| line["name"] == "transcript_partial";
        let told_partials: Vec<_> =
            peer.unread().filter(is_partial).map(|line| plain(&line["args"][0])).collect();
        // Partials may be dropped where somebody reads slowly; none of them is another than the WebSocket's.
        assert!(!told_partials.is_empty());
        for said in &told_partials {
            assert!(partials.contains(said), "{said}");
        }
    }

    // Who loses the connection is told again what it asks for: everything since it says.
    let mut late = participant(Library::Npm(4), port, WEBSOCKET, &room, "late", json!({"since": 0})).await;
    for _ in 0..2 {
        let mut told = Vec::new();
        while told.len() < finals.len() {
            told.push(plain(&late.event_in(CAPTIONS, "transcript_final").await));
        }
        assert_eq!(told, finals);
        late.order(json!({"cut": true})).await;
        late.next("disconnected").await;
    }
}

#[tokio::test]
async fn clients_of_socketio_and_of_websockets_are_told_the_same_notifications() {
    let stack = Stack::start().await;
    let user = stack.user();
    let port = stack.nginx.http_port;
    let mut tab = user.tab(Some(0)).await;
    tab.counts(0).await;
    let mut peers = Vec::new();
    for library in LIBRARIES {
        peers.push(subscriber(library, port, UPGRADE, &user).await);
    }
    for number in 1..=20 {
        user.publish_surely(&number.to_string()).await;
    }
    tab.titles_to("20").await;
    let expected = tab.client.told("notification");
    assert_eq!(expected.len(), 20);
    for peer in &mut peers {
        let mut told = Vec::new();
        while told.len() < expected.len() {
            told.push(peer.event_in(NOTIFICATIONS, "notification").await);
        }
        if !peer.library.is_orderly() {
            told.sort_by_key(|said| said["sequence"].as_u64());
        }
        assert_eq!(told, expected);
        // Nothing twice.
        assert!(!peer.unread().any(|line| line["name"] == "notification"));
    }
    let id = expected[0]["notification"]["id"].clone();
    let path = format!("/api/user/notifications/{}/read", id.as_str().unwrap());
    assert_eq!(user.ask(reqwest::Method::PUT, &path, Value::Null).await.0, 200);
    for peer in &mut peers {
        assert_eq!(peer.event_in(NOTIFICATIONS, "notification_read").await["notificationId"], id);
    }
}

#[tokio::test]
async fn several_namespaces_share_a_connection_and_a_refusal_says_why() {
    let stack = Stack::start().await;
    let (user, room) = (stack.user(), stack.room());
    let port = stack.nginx.http_port;
    for version in [4, 3] {
        let mut peer = subscriber(Library::Npm(version), port, UPGRADE, &user).await;
        peer.order(json!({"open": CAPTIONS, "auth": {"token": "TEST"}})).await;
        let refused = peer.next("refused").await;
        assert_eq!(refused["namespace"], CAPTIONS);
        assert!(refused["message"].as_str().unwrap().starts_with("unauthenticated: "), "{refused}");
        peer.order(json!({"open": "/nowhere"})).await;
        assert_eq!(peer.next("refused").await["namespace"], "/nowhere");
        user.publish_surely(&format!("to {version}")).await;
        peer.event_in(NOTIFICATIONS, "notification").await;
        peer.end().await;
    }
    let mut peer = subscriber(Library::Npm(4), port, UPGRADE, &user).await;
    peer.order(json!({"open": CAPTIONS, "auth": {"token": room.token("alice")}})).await;
    peer.event_in(CAPTIONS, "connected").await;
    assert_eq!(peer.ask_in(CAPTIONS, json!(["ping"])).await, json!({"ok": true}));
    peer.event_in(CAPTIONS, "pong").await;
    // Leaving the one leaves the other as it is.
    peer.order(json!({"close": CAPTIONS})).await;
    assert_eq!(peer.next("disconnected").await["namespace"], CAPTIONS);
    user.publish_surely("still here").await;
    while peer.event_in(NOTIFICATIONS, "notification").await["notification"]["title"] != "still here" {}

    for (library, says) in [(Library::Npm(2), json!({"token": "TEST"})), (Library::Python, json!({}))] {
        let mut peer = Peer::start(library, port, WEBSOCKET, &[NOTIFICATIONS], &says);
        assert_eq!(peer.next("refused").await["namespace"], NOTIFICATIONS, "{library:?}");
    }
}

#[tokio::test]
async fn a_killed_edge_loses_no_notification_and_clients_go_over_to_the_other() {
    let mut stack = Stack::with(Plan { two_edges: true, ..Plan::default() }).await;
    let (_other, port) = stack.another_edge().await;
    let user = stack.user();
    let front = stack.nginx.http_port;
    let mut peers = Vec::new();
    for (library, transports) in [
        (Library::Npm(4), WEBSOCKET),
        (Library::Npm(4), POLLING),
        (Library::Npm(2), UPGRADE),
        (Library::Python, UPGRADE),
    ] {
        let channel = json!({"channel": {"type": "notifications", "userId": user.id}, "since": 0});
        let mut peer =
            Peer::start(library, front, transports, &[NOTIFICATIONS], &json!({"token": user.token()}));
        peer.event_in(NOTIFICATIONS, "connected").await;
        peer.ask_in(NOTIFICATIONS, json!(["subscribe", channel])).await;
        peers.push((peer, channel));
    }
    let elsewhere = user.at(port);
    for number in 1..=5 {
        elsewhere.publish_surely(&number.to_string()).await;
    }
    // Whoever was on it comes back to the other; whoever was not is told without a break.
    stack.edge.kill();
    for number in 6..=10 {
        elsewhere.publish_surely(&number.to_string()).await;
    }
    let expected: Vec<String> = (1..=10).map(|number| number.to_string()).collect();
    for (peer, channel) in &mut peers {
        let mut told: Vec<(u64, String)> = Vec::new();
        while told.len() < expected.len() {
            let line = peer
                .find("a notification, or a new connection", |line| {
                    line["name"] == "notification" || line["is"] == "disconnected"
                })
                .await;
            if line["is"] == "disconnected" {
                peer.event_in(NOTIFICATIONS, "connected").await;
                channel["since"] = json!(told.iter().map(|(sequence, _)| *sequence).max().unwrap_or(0));
                peer.ask_in(NOTIFICATIONS, json!(["subscribe", channel])).await;
                continue;
            }
            let said = &line["args"][0];
            let title = said["notification"]["title"].as_str().unwrap().to_owned();
            told.push((said["sequence"].as_u64().unwrap(), title));
            if !peer.library.is_orderly() {
                told.sort_unstable();
                told.dedup();
            }
        }
        let titles: Vec<_> = told.into_iter().map(|(_, title)| title).collect();
        assert_eq!(titles, expected, "{:?}", peer.library);
    }
}

/// Status, head and body of an answer under `/socket.io/`, as `curl` sees it.
async fn curl(url: &str, more: &[&str]) -> (String, String, String) {
    let arguments = ["-sS", "-i", "--max-time", "20", url];
    let output = run("curl", arguments.iter().chain(more)).await;
    let (head, body) = output.http();
    let status = head.split(' ').nth(1).unwrap_or_default().to_owned();
    (status, head.to_lowercase(), String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn curl_sees_what_a_server_of_socketio_shows() {
    let stack = Stack::start().await;
    for port in stack.doors() {
        let url = |query: &str| format!("http://127.0.0.1:{port}/socket.io/{query}");
        let (status, head, body) = curl(&url("?EIO=4&transport=polling"), &[]).await;
        assert_eq!(status, "200", "{head}{body}");
        assert!(head.contains("content-type: text/plain"), "{head}");
        let open: Value = serde_json::from_str(body.strip_prefix('0').unwrap()).unwrap();
        let sid = open["sid"].as_str().unwrap();
        let expected = json!({"sid": sid, "upgrades": ["websocket"], "pingInterval": 25000, "pingTimeout": 60000,
            "maxPayload": 1_000_000});
        assert_eq!(open, expected);

        let (status, _, body) = curl(&url("?EIO=3&transport=polling"), &[]).await;
        let (length, packet) = body.split_once(':').unwrap();
        assert_eq!((status.as_str(), packet.starts_with("0{")), ("200", true), "{body}");
        assert!(length.parse::<usize>().unwrap() >= 90, "a length goes before it: {body}");

        for (query, code, message) in [
            ("", 0, "Transport unknown"),
            ("?EIO=4", 0, "Transport unknown"),
            ("?EIO=4&transport=carrier-pigeon", 0, "Transport unknown"),
            ("?transport=polling", 5, "Unsupported protocol version"),
            ("?EIO=7&transport=polling", 5, "Unsupported protocol version"),
            ("?EIO=4&transport=polling&sid=nobody", 1, "Session ID unknown"),
            ("?EIO=4&transport=websocket", 3, "Bad request"),
        ] {
            let (status, head, body) = curl(&url(query), &[]).await;
            assert_eq!(status, "400", "{query}: {head}{body}");
            assert!(head.contains("content-type: application/json"), "{query}: {head}");
            let said: Value =
                serde_json::from_str(&body).unwrap_or_else(|error| panic!("{query}: {error}: {body}"));
            assert_eq!(said, json!({"code": code, "message": message}), "{query}");
        }
        let (status, head, _) =
            curl(&url("?EIO=4&transport=polling"), &["-X", "OPTIONS", "-H", "Origin: https://app.example"])
                .await;
        assert_eq!(status, "204");
        assert!(head.contains("access-control-allow-origin: "), "{head}");
    }
    // Over TLS as well, where nothing but HTTP/1.1 is spoken.
    let (status, _, body) = curl(&stack.https("/socket.io/?EIO=4&transport=polling"), &["-k"]).await;
    assert_eq!((status.as_str(), body.starts_with("0{")), ("200", true), "{body}");
}
