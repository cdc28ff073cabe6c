//! What no library of Socket.IO sends. Each has a clear answer or a clean end, and whoever is beside it notices nothing.

use e2e::{Frame, Library, Peer, Plan, RawSocket, Stack, UPGRADE, User, WEBSOCKET, resident_mib, sound};
use reqwest::{Body, Client, StatusCode};
use serde_json::{Value, json};
use testkit::{PATIENCE, eventually};
use tokio::time::timeout;

const NOTIFICATIONS: &str = "/notifications";

/// The largest message that is taken, in bytes.
const MESSAGE_BYTES_MAX: usize = 1_000_000;

/// Somebody is told notifications before and after the trouble, on a connection that does not break meanwhile.
async fn beside(stack: &Stack, trouble: impl Future<Output = ()>) {
    let user = stack.user();
    let says = json!({"token": user.token()});
    let mut peer = Peer::start(Library::Npm(4), stack.nginx.http_port, UPGRADE, &[NOTIFICATIONS], &says);
    let channel = json!({"channel": {"type": "notifications", "userId": user.id}});
    peer.event_in(NOTIFICATIONS, "connected").await;
    peer.ask_in(NOTIFICATIONS, json!(["subscribe", channel])).await;
    trouble.await;
    user.publish_surely("after it").await;
    let told = peer.event_in(NOTIFICATIONS, "notification").await;
    assert_eq!(told["notification"]["title"], "after it");
    assert!(!peer.unread().any(|line| line["is"] == "disconnected"), "it was not disturbed");
    peer.end().await;
}

/// A WebSocket on which nothing was said yet; the server's `open` packet is read.
async fn opened(port: u16, eio: u8) -> RawSocket {
    let mut raw = RawSocket::open(port, &format!("/socket.io/?EIO={eio}&transport=websocket")).await;
    let Some(Frame::Text(open)) = raw.next().await else { panic!("an open packet") };
    assert!(open.starts_with("0{"), "{open}");
    raw
}

/// One that is in `/notifications`, and the rest of what was said meanwhile.
async fn entered(port: u16, user: &User) -> RawSocket {
    let mut raw = opened(port, 4).await;
    raw.say(&format!("40{NOTIFICATIONS},{}", json!({"token": user.token()}))).await;
    until(&mut raw, "connected").await.expect("to be let in");
    raw
}

/// Reads until text with this in it; the code of the close when that comes before, 1006 for an end without one. Pings of
/// the server are answered.
async fn until(raw: &mut RawSocket, wanted: &str) -> Result<String, u16> {
    loop {
        match raw.next().await {
            Some(Frame::Text(text)) if text.contains(wanted) => return Ok(text),
            Some(Frame::Text(text)) if text == "2" => raw.say("3").await,
            Some(Frame::Text(_) | Frame::Other(_)) => {}
            Some(Frame::Close(code, _)) => return Err(code),
            None => return Err(1006),
        }
    }
}

/// Codes that a server may send (RFC 6455 section 7.4), and what stands for none at all.
fn is_valid(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1005..=1014 | 3000..=4999)
}

#[tokio::test]
async fn packets_that_make_no_sense_end_at_most_their_own_connection() {
    let stack = Stack::start().await;
    let port = stack.nginx.http_port;
    let user = stack.user();
    let deep = format!("42{NOTIFICATIONS},[\"x\",{}1{}]", "[".repeat(50_000), "]".repeat(50_000));
    let long = format!("42{NOTIFICATIONS},[\"{}\"]", "n".repeat(100_000));
    let nowhere = format!("40/{},", "n".repeat(100_000));
    let of_us = |rest: &str| format!("42{NOTIFICATIONS},{rest}");
    let packets = [
        of_us("[]"),
        of_us("[1]"),
        of_us("{}"),
        of_us("\"x\""),
        of_us("[\"x\""),
        of_us("[\"\"]"),
        of_us("[\"__proto__\",{\"__proto__\":{\"constructor\":1}}]"),
        of_us("[\"connect\",1]"),
        of_us("[\"disconnect\"]"),
        of_us("[\"error\",null,null,null]"),
        of_us("[\"subscribe\",[[]]]"),
        of_us("[\"subscribe\",{\"channel\":{\"_placeholder\":true,\"num\":7}}]"),
        of_us("[\"subscribe\",1e400]"),
        of_us("99999999999999999999[\"ping\"]"),
        of_us("-1[\"ping\"]"),
        deep,
        long,
        nowhere,
        String::new(),
        "4".to_owned(),
        "42".to_owned(),
        "42[\"nobody is in this namespace\"]".to_owned(),
        "49".to_owned(),
        "7".to_owned(),
        "x".to_owned(),
        "2probe".to_owned(),
        "5".to_owned(),
        "0{}".to_owned(),
        "6".to_owned(),
        "b4AAAA".to_owned(),
        "40/captions,{\"token\":7}".to_owned(),
        "40/captions,{".to_owned(),
        "40/captions,[]".to_owned(),
        "41/nowhere,".to_owned(),
        "43/notifications,1[]".to_owned(),
        "43/notifications,[]".to_owned(),
        "44/notifications,{}".to_owned(),
        "451-/notifications,[\"x\",{\"_placeholder\":true,\"num\":0}]".to_owned(),
        "45999999999-/notifications,[\"x\"]".to_owned(),
        "45-/notifications,[\"x\"]".to_owned(),
        "461-/notifications,1[]".to_owned(),
        "\u{0}\u{1f600}".to_owned(),
    ];
    beside(&stack, async {
        for packet in packets {
            let shown: String = packet.chars().take(60).collect();
            let mut raw = entered(port, &user).await;
            raw.say(&packet).await;
            raw.say(&of_us("7[\"ping\"]")).await;
            match until(&mut raw, "43/notifications,7").await {
                Ok(_) => {}
                Err(code) => {
                    assert!(is_valid(code), "{shown}: {code}");
                    eprintln!("ended with {code} by {shown}");
                }
            }
        }
        // And before anything was opened, or with a version whose pings go the other way.
        for eio in [4, 3] {
            for packet in ["", "2", "3", "1", "42[\"x\"]", "40/nowhere", "40", "x", "2probe", "41"] {
                let mut raw = opened(port, eio).await;
                raw.say(packet).await;
                raw.send(&[4, 1, 2, 3]).await;
                raw.write(&[0x81, 0x82, 0, 0, 0, 0, 0xff, 0xfe]).await;
                // Text that is no UTF-8 is the end of any.
                let code = until(&mut raw, "never said").await.expect_err("an end");
                assert!(is_valid(code), "{packet}, EIO={eio}: {code}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_message_of_a_megabyte_is_taken_and_one_byte_more_is_not() {
    let stack = Stack::start().await;
    let (port, user) = (stack.nginx.http_port, stack.user());
    let message = |bytes: usize| {
        let (head, tail) = (format!("42{NOTIFICATIONS},1[\"x\",\""), "\"]");
        format!("{head}{}{tail}", "x".repeat(bytes - head.len() - tail.len()))
    };
    beside(&stack, async {
        let mut raw = entered(port, &user).await;
        raw.say(&message(MESSAGE_BYTES_MAX)).await;
        let answer = until(&mut raw, "43/notifications,1").await.expect("an acknowledgement");
        assert!(answer.contains("\"ok\":false"), "it is no event that we know: {answer}");
        raw.say(&message(MESSAGE_BYTES_MAX + 1)).await;
        let code = until(&mut raw, "never said").await.expect_err("an end");
        // A close frame with or without a code, or none before the connection is gone.
        assert!([1005, 1006, 1009].contains(&code), "{code}");

        // The same by polling: the body of a request.
        let client = Client::new();
        let url = stack.http("/socket.io/?EIO=4&transport=polling");
        let (sid, _) = poll_open(&client, &url).await;
        let url = format!("{url}&sid={sid}");
        let post =
            async |body: String| client.post(&url).body(Body::from(body)).send().await.map(|it| it.status());
        assert_eq!(
            post(format!("40{NOTIFICATIONS},{}", json!({"token": user.token()}))).await.unwrap(),
            StatusCode::OK
        );
        assert_eq!(post(message(MESSAGE_BYTES_MAX)).await.unwrap(), StatusCode::OK);
        let refused = post(message(MESSAGE_BYTES_MAX + 1)).await.unwrap();
        assert_eq!(refused, StatusCode::PAYLOAD_TOO_LARGE);
    })
    .await;
}

/// Opens a connection by polling: its id, and the packet.
async fn poll_open(client: &Client, url: &str) -> (String, Value) {
    let answer = client.get(url).send().await.expect("an answer").text().await.expect("text");
    let open: Value = serde_json::from_str(&answer[1..]).unwrap_or_else(|error| panic!("{error}: {answer}"));
    (open["sid"].as_str().expect("a sid").to_owned(), open)
}

#[tokio::test]
async fn requests_in_parallel_with_one_sid_are_answered_and_end_at_most_that_one() {
    let stack = Stack::start().await;
    let user = stack.user();
    beside(&stack, async {
        let client = Client::new();
        let opening = stack.http("/socket.io/?EIO=4&transport=polling");
        for _ in 0..5 {
            let (sid, _) = poll_open(&client, &opening).await;
            let url = format!("{opening}&sid={sid}");
            let entering = format!("40{NOTIFICATIONS},{}", json!({"token": user.token()}));
            client.post(&url).body(entering).send().await.unwrap();
            let polls = (0..8).map(|_| async { client.get(&url).send().await.unwrap().status() });
            let posts = (0..8).map(|_| async {
                client.post(&url).body(format!("42{NOTIFICATIONS},[\"ping\"]")).send().await.unwrap().status()
            });
            // Whatever still waits is let go when the connection is closed.
            let closing = async {
                let posts = futures_util::future::join_all(posts).await;
                (posts, client.post(&url).body("1").send().await.unwrap().status())
            };
            let all = async { tokio::join!(futures_util::future::join_all(polls), closing) };
            let (polls, (posts, closed)) = timeout(PATIENCE, all).await.expect("answers to all");
            for status in polls.iter().chain(&posts).chain([&closed]) {
                assert!([200, 400].contains(&status.as_u16()), "{polls:?} {posts:?} {closed}");
            }
            let after = client.get(&url).send().await.unwrap();
            assert_eq!(after.status(), StatusCode::BAD_REQUEST);
            let said: Value = after.json().await.unwrap();
            assert_eq!(said, json!({"code": 1, "message": "Session ID unknown"}));
        }
    })
    .await;
}

#[tokio::test]
async fn a_sid_of_another_edge_is_unknown_and_its_client_connects_anew() {
    let stack = Stack::start().await;
    let (_other, port) = stack.another_edge().await;
    let client = Client::new();
    let at =
        |port: u16, more: &str| format!("http://127.0.0.1:{port}/socket.io/?EIO=4&transport=polling{more}");
    let (sid, _) = poll_open(&client, &at(stack.doors()[1], "")).await;
    for method in [reqwest::Method::GET, reqwest::Method::POST] {
        let answer =
            client.request(method, at(port, &format!("&sid={sid}"))).body("40").send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
        let said: Value = answer.json().await.unwrap();
        assert_eq!(said, json!({"code": 1, "message": "Session ID unknown"}));
    }
    // A WebSocket that claims to go on with it is ended, and not with a code that nobody may send.
    let target = format!("/socket.io/?EIO=4&transport=websocket&sid={sid}");
    let mut raw = RawSocket::open(port, &target).await;
    raw.say("2probe").await;
    let code = until(&mut raw, "never said").await.expect_err("an end");
    assert!(is_valid(code), "{code}");
    // At its own edge it is as good as before.
    let answer = client.get(at(stack.doors()[1], &format!("&sid={sid}"))).send();
    let post = client.post(at(stack.doors()[1], &format!("&sid={sid}"))).body("40/nowhere,").send();
    let (answer, post) = tokio::join!(answer, post);
    assert_eq!((answer.unwrap().status(), post.unwrap().status()), (StatusCode::OK, StatusCode::OK));
}

#[tokio::test]
async fn a_storm_of_clients_that_come_and_go_leaves_nothing_behind() {
    let settings = ["HANDSHAKES_PER_SECOND", "IDENTITY_HANDSHAKES_PER_SECOND"];
    let settings = settings.map(|name| (name, "10000".to_owned())).to_vec();
    let stack = Stack::with(Plan { settings, alone: true, ..Plan::default() }).await;
    let (port, user) = (stack.nginx.http_port, stack.user());
    let open = async || {
        let metrics: Value = reqwest::get(stack.http("/metrics")).await.unwrap().json().await.unwrap();
        metrics["activeConnections"].as_u64().unwrap()
    };
    beside(&stack, async {
        let before = open().await;
        for _ in 0..5 {
            let storm = (0..100).map(|number| {
                let user = &user;
                async move {
                    let mut raw = match number % 4 {
                        0 => opened(port, 3).await,
                        1 => opened(port, 4).await,
                        _ => entered(port, user).await,
                    };
                    match number % 3 {
                        // Away without a word, in the middle of one, or with one.
                        0 => {}
                        1 => raw.write(&[0x81, 0xff, 0, 0]).await,
                        _ => raw.say("1").await,
                    }
                }
            });
            futures_util::future::join_all(storm).await;
        }
        eventually("all of them are forgotten", async || open().await <= before).await;
    })
    .await;
}

#[tokio::test]
async fn floods_of_bytes_are_bounded_and_end_at_most_their_own_connection() {
    let stack = Stack::with(Plan { alone: true, ..Plan::default() }).await;
    let (port, room) = (stack.nginx.http_port, stack.room());
    let before = resident_mib();
    let peak = std::cell::Cell::new(before);
    let watch = async {
        loop {
            peak.set(peak.get().max(resident_mib()));
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    beside(&stack, async {
        let flood = async |name: &str, piece: usize, times: usize, init: bool| {
            let says = json!({"token": room.token(name)});
            let mut peer = Peer::start(Library::Npm(4), port, WEBSOCKET, &["/captions"], &says);
            peer.event_in("/captions", "connected").await;
            if init {
                peer.ask_in("/captions", json!(["init", {"encoding": "pcm_s16le"}])).await;
            }
            let said =
                json!({"emit": ["audio", {"$zeros": piece}], "namespace": "/captions", "times": times});
            peer.order(said).await;
            // It is heard to its end, or its connection is cut with a reason that says when to come back.
            let end = json!({"emit": ["ping"], "namespace": "/captions", "ack": "last"});
            peer.order(end).await;
            let line = peer
                .find("an end", |line| {
                    line["is"] == "ack" || line["is"] == "closed" || line["is"] == "broken"
                })
                .await;
            assert_ne!(line["is"], "broken", "{line}");
            if line["is"] == "closed" {
                let code = u16::try_from(line["code"].as_u64().unwrap()).unwrap();
                assert!(is_valid(code), "{line}");
            }
        };
        let token = room.token("eve 4");
        let floods = async {
            tokio::join!(
                flood("eve 1", 900_000, 80, false),
                flood("eve 2", 64_000, 500, true),
                flood("eve 3", 1, 20_000, false),
                raw_flood(port, &token),
            )
        };
        tokio::select! {
            _ = floods => {}
            () = watch => unreachable!("the watch does not end"),
        }
    })
    .await;
    let grown = peak.get().saturating_sub(before);
    eprintln!("memory grew from {before} MiB by {grown} MiB");
    assert!(grown <= 150, "{grown} MiB");
}

/// Binary messages that belong to no packet, and packets whose parts never come.
async fn raw_flood(port: u16, token: &str) {
    let mut raw = opened(port, 4).await;
    raw.say(&format!("40/captions,{}", json!({"token": token}))).await;
    until(&mut raw, "connected").await.expect("to be let in");
    for _ in 0..50 {
        raw.send(&sound::nonsense(500_000)).await;
        raw.say("4516-/captions,[\"audio\",{\"_placeholder\":true,\"num\":0}]").await;
    }
    raw.say("42/captions,9[\"ping\"]").await;
    if let Err(code) = until(&mut raw, "43/captions,9").await {
        assert!(is_valid(code), "{code}");
    }
}
