//! Socket.IO as a client that is not ours to change would see it: packets, transports, what is refused, and how it ends.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::StatusCode;
use model::Topic;
use reqwest::Method;
use serde_json::{Value, json};
use testkit::{PATIENCE, eventually};
use tokio::{
    net::{TcpSocket, TcpStream},
    time::{sleep, timeout},
};
use tokio_tungstenite::WebSocketStream;
use tungstenite::{Message, client::IntoClientRequest as _};

use crate::{
    client::Client,
    stage::{Setup, Stage},
};

const PATH: &str = "/socket.io/";

/// What the kernel keeps for a client that does not read: little, or some machines keep 32 MB.
const RECEIVE_BYTES: u32 = 64 * 1024;

/// A connection over a WebSocket, packet by packet.
pub struct Packets {
    socket: WebSocketStream<TcpStream>,
    /// What the open packet said, unless it took over from polling.
    opened: Value,
}

/// What came next.
#[derive(Debug, PartialEq)]
pub enum Came {
    Packet(String),
    Binary(Bytes),
    /// The close frame's code, if there was a frame, and if it had one.
    Closed(Option<Option<u16>>),
}

impl Packets {
    async fn open(stage: &Stage) -> Self {
        Self::open_at(stage.running.address).await
    }

    /// At any edge.
    pub async fn open_at(address: SocketAddr) -> Self {
        let mut packets = Self::upgrade_at(address, "EIO=4&transport=websocket").await;
        let Came::Packet(open) = packets.next().await else { panic!("an open packet") };
        packets.opened = serde_json::from_str(open.strip_prefix('0').unwrap()).unwrap();
        packets
    }

    async fn upgrade(stage: &Stage, query: &str) -> Self {
        Self::upgrade_at(stage.running.address, query).await
    }

    async fn upgrade_at(address: SocketAddr, query: &str) -> Self {
        let request = format!("ws://{address}{PATH}?{query}").into_client_request().unwrap();
        let stream = TcpSocket::new_v4().unwrap();
        stream.set_recv_buffer_size(RECEIVE_BYTES).unwrap();
        let stream = stream.connect(address).await.unwrap();
        let (socket, _) = tokio_tungstenite::client_async(request, stream).await.expect("101");
        Self { socket, opened: Value::Null }
    }

    pub async fn send(&mut self, packet: impl Into<String>) {
        // The edge may have closed meanwhile; what it said then is what tests read.
        let _ = self.socket.send(Message::text(packet.into())).await;
    }

    pub async fn next(&mut self) -> Came {
        let reading = async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Text(text))) if text.as_str() == "2" => self.send("3").await,
                    Some(Ok(Message::Text(text))) => return Came::Packet(text.to_string()),
                    Some(Ok(Message::Binary(bytes))) => return Came::Binary(bytes),
                    Some(Ok(Message::Close(frame))) => {
                        let _ = self.socket.next().await;
                        return Came::Closed(Some(frame.map(|frame| frame.code.into())));
                    }
                    Some(Err(_)) | None => return Came::Closed(None),
                    Some(Ok(_)) => {}
                }
            }
        };
        timeout(PATIENCE, reading).await.expect("something to read")
    }

    pub async fn packet(&mut self) -> String {
        match self.next().await {
            Came::Packet(packet) => packet,
            other => panic!("a packet, not {other:?}"),
        }
    }

    /// Enters a namespace, or says why it may not.
    async fn enter(&mut self, namespace: &str, auth: Value) -> Result<(), String> {
        self.send(format!("40{namespace},{auth}")).await;
        loop {
            let packet = self.packet().await;
            if packet.starts_with(&format!("40{namespace},")) {
                return Ok(());
            }
            if let Some(error) = packet.strip_prefix(&format!("44{namespace},")) {
                let error: Value = serde_json::from_str(error).unwrap();
                return Err(error["message"].as_str().unwrap().to_owned());
            }
        }
    }

    async fn emit(&mut self, namespace: &str, ack: &str, event: Value) {
        self.send(format!("42{namespace},{ack}{event}")).await;
    }

    /// The next event of this name; other packets are passed over.
    async fn expect(&mut self, namespace: &str, name: &str) -> Value {
        loop {
            let packet = self.packet().await;
            let Some(event) = packet.strip_prefix(&format!("42{namespace},")) else { continue };
            let mut event: Vec<Value> = serde_json::from_str(event).unwrap();
            if event[0] == name {
                assert_eq!(event.len(), 2, "{packet}");
                return event.remove(1);
            }
        }
    }

    /// The acknowledgement with this number.
    async fn acked(&mut self, namespace: &str, ack: &str) -> Value {
        loop {
            let packet = self.packet().await;
            if let Some(answer) = packet.strip_prefix(&format!("43{namespace},{ack}")) {
                let mut answer: Vec<Value> = serde_json::from_str(answer).unwrap();
                return answer.remove(0);
            }
        }
    }

    /// Every packet up to the end, and the end.
    async fn ended(&mut self) -> (Vec<String>, Came) {
        let mut packets = Vec::new();
        loop {
            match self.next().await {
                Came::Packet(packet) => packets.push(packet),
                closed => return (packets, closed),
            }
        }
    }
}

/// A connection that polls.
struct Polls {
    url: String,
    http: reqwest::Client,
    sid: String,
}

impl Polls {
    async fn open(stage: &Stage) -> Self {
        let (status, body) = get(stage, "?EIO=4&transport=polling").await;
        assert_eq!(status, 200, "{body}");
        let opened: Value = serde_json::from_str(body.strip_prefix('0').unwrap()).unwrap();
        let sid = opened["sid"].as_str().unwrap().to_owned();
        Self {
            url: format!("http://{}{PATH}?EIO=4&transport=polling&sid={sid}", stage.running.address),
            http: reqwest::Client::new(),
            sid,
        }
    }

    async fn post(&self, body: impl Into<reqwest::Body>) -> u16 {
        self.http.post(&self.url).body(body).send().await.unwrap().status().as_u16()
    }

    async fn poll(&self) -> (u16, Vec<String>) {
        let answer = timeout(PATIENCE, self.http.get(&self.url).send()).await.expect("an answer").unwrap();
        let status = answer.status().as_u16();
        (status, answer.text().await.unwrap().split('\u{1e}').map(str::to_owned).collect())
    }

    /// Polls until a packet begins so.
    async fn expect(&self, begin: &str) -> String {
        loop {
            let (status, packets) = self.poll().await;
            assert_eq!(status, 200, "{packets:?}");
            if packets.iter().any(|packet| packet == "2") {
                assert_eq!(self.post("3").await, 200);
            }
            if let Some(packet) = packets.into_iter().find(|packet| packet.starts_with(begin)) {
                return packet;
            }
        }
    }
}

async fn get(stage: &Stage, query: &str) -> (u16, String) {
    let answer = reqwest::get(stage.http(&format!("{PATH}{query}"))).await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test]
async fn the_open_packet_says_what_system_b_says() {
    let stage = Stage::start().await;
    let (status, body) = get(&stage, "?EIO=4&transport=polling").await;
    let opened: Value = serde_json::from_str(body.strip_prefix('0').unwrap()).unwrap();
    let numbers = json!({"pingInterval": 25_000, "pingTimeout": 60_000, "maxPayload": 1_000_000});
    assert_eq!((status, &opened["upgrades"]), (200, &json!(["websocket"])));
    let (_, old) = get(&stage, "?EIO=3&transport=polling").await;
    let (length, packet) = old.split_once(':').unwrap();
    assert_eq!(length.parse::<usize>().unwrap(), packet.len(), "{old}");
    let socket = Packets::open(&stage).await;
    for (name, number) in numbers.as_object().unwrap() {
        assert_eq!((&opened[name], &socket.opened[name]), (number, number), "{name}");
    }
    stage.end().await;
}

#[tokio::test]
async fn what_is_no_connection_is_answered_cleanly() {
    let stage = Stage::start().await;
    for (query, code, message) in [
        ("", 0, "Transport unknown"),
        ("?EIO=4", 0, "Transport unknown"),
        ("?transport=polling", 5, "Unsupported protocol version"),
        ("?EIO=4&transport=carrier-pigeon", 0, "Transport unknown"),
        ("?EIO=2&transport=polling", 5, "Unsupported protocol version"),
        ("?EIO=4&transport=polling&sid=AAAAAAAAAAAAAAHs", 1, "Session ID unknown"),
        ("?EIO=4&transport=polling&sid=x", 1, "Session ID unknown"),
    ] {
        let (status, body) = get(&stage, query).await;
        let body: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{query}: {body}"));
        assert_eq!((status, body), (400, json!({"code": code, "message": message})), "{query}");
    }
    let post = reqwest::Client::new().post(stage.http(&format!("{PATH}?EIO=4&transport=polling")));
    let post = post.send().await.unwrap();
    assert_eq!(post.status(), 400);
    assert_eq!(post.json::<Value>().await.unwrap(), json!({"code": 2, "message": "Bad handshake method"}));
    let options = reqwest::Client::new().request(Method::OPTIONS, stage.http(PATH)).send().await.unwrap();
    assert_eq!(options.status(), StatusCode::NO_CONTENT);
    for query in ["EIO=4&transport=polling", "transport=websocket", ""] {
        let url = format!("ws://{}{PATH}?{query}", stage.running.address);
        assert_eq!(Client::refused(&url, &[]).await.status(), 400, "{query}");
    }
    stage.end().await;
}

#[tokio::test]
async fn captions_are_events_and_messages_alike() {
    let stage = Stage::start().await;
    let mut voice = stage.voice().await;
    voice.say(&stage, "One.").await;
    let mut socket = Packets::open(&stage).await;
    let auth = json!({"token": stage.token("alice"), "since": 0, "messages": "transcript"});
    socket.enter("/captions", auth).await.unwrap();
    let connected = socket.expect("/captions", "connected").await;
    assert_eq!((&connected["type"], &connected["sessionSlug"]), (&json!("connected"), &json!(stage.session)));
    let polls = Polls::open(&stage).await;
    assert_eq!(polls.post(format!("40/captions,{}", json!({"token": stage.token("bob")}))).await, 200);
    polls.expect("42/captions,[\"connected\"").await;
    let mut client = stage.connect("carol", "&since=0&messages=transcript").await;

    voice.say(&stage, "Two.").await;
    for text in ["One.", "Two."] {
        let event = socket.expect("/captions", "transcript").await;
        assert_eq!(event, client.expect("transcript").await);
        assert_eq!(event["text"], text);
    }
    let polled = polls.expect("42/captions,[\"transcript_final\"").await;
    assert!(polled.contains("\"Two.\""), "{polled}");
    stage.end().await;
}

#[tokio::test]
async fn sound_by_events_is_heard() {
    let stage = Stage::start().await;
    let mut socket = Packets::open(&stage).await;
    socket.enter("/captions", json!({"token": stage.token("alice")})).await.unwrap();
    socket.emit("/captions", "1", json!(["init", {"encoding": "pcm_s16le"}])).await;
    let initialized = socket.expect("/captions", "initialized").await;
    assert_eq!(initialized["acked"], 0);
    assert_eq!(socket.acked("/captions", "1").await, json!({"ok": true}));
    for number in 2..12 {
        socket.send(format!("451-/captions,{number}[\"audio\",{{\"_placeholder\":true,\"num\":0}}]")).await;
        let _ = socket.socket.send(Message::Binary(vec![1; 6_400].into())).await;
        assert_eq!(socket.acked("/captions", &number.to_string()).await, json!({"ok": true}));
    }
    socket.emit("/captions", "99", json!(["stop"])).await;
    while socket.expect("/captions", "ack").await["samples"] != 32_000 {}
    stage.end().await;
}

#[tokio::test]
async fn notifications_are_events_and_messages_alike() {
    let stage = Stage::start().await;
    let mut socket = Packets::open(&stage).await;
    socket.enter("/notifications", json!({"token": stage.user_token("u1")})).await.unwrap();
    let greeting = socket.expect("/notifications", "connected").await;
    assert_eq!(greeting["data"]["userId"], "u1");
    socket
        .emit("/notifications", "7", json!(["subscribe", {"channel": {"type": "creator", "id": "c1"}}]))
        .await;
    assert_eq!(socket.expect("/notifications", "subscribed").await["data"]["channelKey"], "creator_c1");
    assert_eq!(socket.acked("/notifications", "7").await, json!({"ok": true}));
    socket
        .emit("/notifications", "8", json!(["subscribe", {"channel": {"type": "feed", "userId": "u2"}}]))
        .await;
    let refused = json!({"ok": false, "error": "Access denied to channel", "code": "forbidden"});
    assert_eq!(socket.acked("/notifications", "8").await, refused);

    let mut tab = stage.tab("u2").await;
    tab.say(json!({"type": "subscribe", "channel": {"type": "creator", "id": "c1"}})).await;
    tab.expect("subscribed").await;
    let topic: Topic = "creator:c1".parse().unwrap();
    let payload = serde_json::from_value(json!({"type": "new_post", "postId": "p1"})).unwrap();
    let event = event_bus::Event::App(model::AppEvent { sequence: None, payload });
    // Nobody keeps it for those who follow a moment later.
    let publishing = async {
        loop {
            stage.bus.publish(&topic, &event).await.unwrap();
            sleep(Duration::from_millis(50)).await;
        }
    };
    let told = async { (socket.expect("/notifications", "new_post").await, tab.expect("new_post").await) };
    tokio::select! {
        (socket, tab) = told => assert_eq!(socket, tab),
        () = publishing => {}
    }
    stage.end().await;
}

#[tokio::test]
async fn who_may_not_enter_is_told_why_and_may_try_again() {
    let stage = Stage::start().await;
    let mut socket = Packets::open(&stage).await;
    for (namespace, auth, reason) in [
        ("/captions", json!({}), "unauthenticated: "),
        ("/captions", json!({"token": "x"}), "unauthenticated: "),
        ("/captions", json!({"token": stage.user_token("u1")}), "unauthenticated: "),
        ("/captions", json!({"token": stage.token("a"), "sessionSlug": "other"}), "forbidden: "),
        ("/captions", json!({"token": stage.token("a"), "since": -1}), "caller: "),
        ("/notifications", json!([1]), "unauthenticated: "),
        ("/notifications", json!({"token": stage.token("a")}), "unauthenticated: "),
        ("/nowhere", json!({}), "Invalid namespace"),
    ] {
        let error = socket.enter(namespace, auth.clone()).await.unwrap_err();
        assert!(error.starts_with(reason), "{namespace} {auth}: {error}");
    }
    assert_eq!(socket.enter("/captions", json!({"token": stage.token("a")})).await, Ok(()));
    assert_eq!(socket.enter("/notifications", json!({"token": stage.user_token("u1")})).await, Ok(()));
    stage.end().await;
}

#[tokio::test]
async fn odd_packets_disturb_nobody() {
    let stage = Stage::start().await;
    let mut socket = Packets::open(&stage).await;
    socket.enter("/notifications", json!({"token": stage.user_token("u1")})).await.unwrap();
    let ns = "/notifications";
    for (number, odd) in [
        r#"["subscribe"]"#.to_owned(),
        r#"["subscribe",1]"#.to_owned(),
        r#"["subscribe",[[[1]]]]"#.to_owned(),
        r#"["message","no json"]"#.to_owned(),
        r#"["audio",{"_placeholder":true,"num":0}]"#.to_owned(),
        r#"["__proto__",null]"#.to_owned(),
        r#"["",{"type":"ping"}]"#.to_owned(),
    ]
    .into_iter()
    .enumerate()
    {
        socket.send(format!("42{ns},{number}{odd}")).await;
    }
    socket.emit(ns, "99", json!(["ping"])).await;
    assert_eq!(socket.acked(ns, "99").await, json!({"ok": true}));
    // What is no packet at all ends the connection, cleanly.
    let deep = format!("42/notifications,[\"subscribe\",{}", "[".repeat(5_000));
    for broken in ["42/notifications,[1]", "4x", "45-[]", "9", "4459-[\"a\"]", &deep] {
        let mut socket = Packets::open(&stage).await;
        socket.enter(ns, json!({"token": stage.user_token("u1")})).await.unwrap();
        socket.send(broken).await;
        let (_, end) = socket.ended().await;
        assert!(
            matches!(end, Came::Closed(Some(None | Some(1000 | 1002 | 1007 | 1008))) | Came::Closed(None)),
            "{broken}: {end:?}"
        );
    }
    stage.end().await;
}

#[tokio::test]
async fn too_much_at_once_ends_the_connection_and_no_other() {
    let stage = Setup::new().await.set("WS_MESSAGES_PER_SECOND", "10").start().await;
    let mut other = Packets::open(&stage).await;
    other.enter("/notifications", json!({"token": stage.user_token("u2")})).await.unwrap();
    for size in [1_000_001, 3_000_000] {
        let mut socket = Packets::open(&stage).await;
        socket.enter("/notifications", json!({"token": stage.user_token("u1")})).await.unwrap();
        socket.send(format!("42/notifications,[\"ping\",\"{}\"]", "x".repeat(size))).await;
        assert!(matches!(socket.ended().await.1, Came::Closed(_)));
        let polls = Polls::open(&stage).await;
        assert_eq!(polls.post(format!("42{}", "x".repeat(size))).await, 413);
    }
    // More events than may wait, of which each is told to come too often.
    let mut socket = Packets::open(&stage).await;
    socket.enter("/notifications", json!({"token": stage.user_token("u1")})).await.unwrap();
    for _ in 0..3_000 {
        socket.emit("/notifications", "", json!(["ping"])).await;
    }
    let (packets, _) = socket.ended().await;
    assert!(packets.iter().any(|packet| packet.contains("Too many messages")), "{packets:?}");
    // One that polls is told so, too, and its next poll finds no connection: it opens another.
    let polls = Polls::open(&stage).await;
    assert_eq!(polls.post(format!("40/captions,{}", json!({"token": stage.token("a")}))).await, 200);
    polls.expect("42/captions,[\"connected\"").await;
    polls.post(vec!["42/captions,[\"ping\"]"; 3_000].join("\u{1e}")).await;
    eventually("it is gone", async || polls.poll().await.0 == 400).await;
    other.emit("/notifications", "1", json!(["ping"])).await;
    assert_eq!(other.acked("/notifications", "1").await, json!({"ok": true}));
    stage.end().await;
}

#[tokio::test]
async fn a_connection_goes_over_from_polling_to_a_websocket_and_loses_nothing() {
    let stage = Stage::start().await;
    let mut voice = stage.voice().await;
    let polls = Polls::open(&stage).await;
    assert_eq!(
        polls.post(format!("40/captions,{}", json!({"token": stage.token("a"), "since": 0}))).await,
        200
    );
    polls.expect("42/captions,[\"connected\"").await;
    let mut socket = Packets::upgrade(&stage, &format!("EIO=4&transport=websocket&sid={}", polls.sid)).await;
    socket.send("2probe").await;
    assert_eq!(socket.packet().await, "3probe");
    voice.say(&stage, "While it goes over.").await;
    socket.send("5").await;
    // Either transport may bring what was said meanwhile, once.
    let last = tokio::select! {
        (_, packets) = polls.poll() => packets,
        () = std::future::pending() => Vec::new(),
    };
    if !last.iter().any(|packet| packet.contains("While it goes over.")) {
        assert_eq!(socket.expect("/captions", "transcript_final").await["text"], "While it goes over.");
    }
    voice.say(&stage, "After that.").await;
    assert_eq!(socket.expect("/captions", "transcript_final").await["text"], "After that.");
    assert_eq!(polls.poll().await.0, 400, "polling is over");
    stage.end().await;
}

#[tokio::test]
async fn two_polls_at_once_end_their_connection() {
    let stage = Stage::start().await;
    let polls = Polls::open(&stage).await;
    assert_eq!(polls.post(format!("40/captions,{}", json!({"token": stage.token("a")}))).await, 200);
    polls.expect("42/captions,[\"connected\"").await;
    let polled = tokio::join!(polls.poll(), polls.poll(), polls.poll());
    let statuses = [polled.0.0, polled.1.0, polled.2.0];
    assert!(statuses.contains(&400), "{statuses:?}");
    eventually("it is gone", async || polls.poll().await.0 == 400).await;
    stage.end().await;
}

#[tokio::test]
async fn a_drain_lets_clients_come_back_by_themselves() {
    let stage = Stage::start().await;
    let mut socket = Packets::open(&stage).await;
    socket.enter("/captions", json!({"token": stage.token("a")})).await.unwrap();
    let upgraded = Polls::open(&stage).await;
    assert_eq!(upgraded.post(format!("40/captions,{}", json!({"token": stage.token("c")}))).await, 200);
    upgraded.expect("42/captions,[\"connected\"").await;
    let mut taken_over =
        Packets::upgrade(&stage, &format!("EIO=4&transport=websocket&sid={}", upgraded.sid)).await;
    taken_over.send("2probe").await;
    assert_eq!(taken_over.packet().await, "3probe");
    taken_over.send("5").await;

    stage.life.drain();
    for socket in [&mut socket, &mut taken_over] {
        let (packets, end) = socket.ended().await;
        let last = packets.last().unwrap();
        assert!(last.starts_with("42/captions,[\"reconnect\",{"), "{packets:?}");
        // Not a packet 41, after which a client stays away.
        assert!(matches!(end, Came::Closed(Some(_))), "{end:?}");
    }
    stage.end().await;
}

#[tokio::test]
async fn an_expired_token_ends_the_namespace_and_not_the_connection() {
    let stage = Stage::start().await;
    let mut socket = Packets::open(&stage).await;
    let short = testkit::tokens::of_user(&crate::stage::USER_SECRET.into(), "u1", 2);
    socket.enter("/notifications", json!({"token": short})).await.unwrap();
    socket.enter("/captions", json!({"token": stage.token("a")})).await.unwrap();
    let error = socket.expect("/notifications", "error").await;
    assert_eq!(error["data"]["code"], "expired");
    while socket.packet().await != "41/notifications," {}
    socket.emit("/captions", "1", json!(["ping"])).await;
    assert_eq!(socket.acked("/captions", "1").await, json!({"ok": true}));
    stage.end().await;
}

#[tokio::test]
async fn pages_of_other_origins_and_storms_of_connections_are_refused() {
    let setup =
        Setup::new().await.set("CORS_ORIGIN", "https://app.example").set("HANDSHAKES_PER_SECOND", "5");
    let stage = setup.start().await;
    let open = |origin: &'static str| {
        let url = stage.http(&format!("{PATH}?EIO=4&transport=polling"));
        reqwest::Client::new().get(url).header("origin", origin).send()
    };
    let good = open("https://app.example").await.unwrap();
    assert_eq!(good.headers()["access-control-allow-origin"], "https://app.example");
    assert_eq!(good.headers()["access-control-allow-credentials"], "true");
    assert_eq!(
        (good.status().as_u16(), open("https://evil.example").await.unwrap().status().as_u16()),
        (200, 403)
    );
    let polls = Polls::open(&stage).await;
    assert_eq!(polls.post(format!("40/captions,{}", json!({"token": stage.token("a")}))).await, 200);
    let mut refused = 0;
    for _ in 0..40 {
        let (status, _) = get(&stage, "?EIO=4&transport=polling").await;
        refused += usize::from(status == 429);
    }
    assert!(refused > 0);
    // Whoever is in goes on as before.
    polls.expect("42/captions,[\"connected\"").await;
    stage.end().await;
}
