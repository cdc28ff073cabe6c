//! Against a real Redis: `PARLEY_TEST_REDIS_URL`, and private servers to kill.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::Duration;

use event_bus::{
    BusError, BusSettings, Event, EventBus, PRESENCE_INTERVAL, PRESENCE_LIFE, ROOM_SEATS_MAX, Received,
    RoomMembers, Subscriber,
};
use futures_util::FutureExt;
use model::{
    AppEvent, Caption, FaultKind, JsonObject, Member, Partial, RoomId, RoomSign, Samples, SeatId, Sequence,
    Speaker, StreamId, StreamState, StreamStatus, Timestamp, Topic, UtteranceId,
};
use testkit::{
    Authority, Cable, PATIENCE, RedisSentinel, RedisServer, eventually, host, redis_prefix, redis_settings,
    redis_url, with_address,
};
use tokio::time::timeout;

fn bus() -> EventBus {
    EventBus::connect(&redis_settings()).unwrap()
}

fn bus_at(url: settings::Secret) -> EventBus {
    EventBus::connect(&BusSettings { url, prefix: redis_prefix(), others: None }).unwrap()
}

fn topic(session: &str) -> Topic {
    Topic::Session(session.parse().unwrap())
}

fn status(number: i64) -> Event {
    let stream = StreamId(uuid::Uuid::nil());
    Event::Status(StreamStatus {
        session: "demo".parse().unwrap(),
        stream,
        state: StreamState::Ready,
        engine: None,
        fallback: None,
        at: Timestamp(number),
    })
}

fn event(session: &str, event: Event) -> Received {
    Received::Event { topic: topic(session), event, trace: None }
}

async fn next(subscriber: &mut Subscriber) -> Received {
    timeout(PATIENCE, subscriber.recv()).await.expect("something to be received")
}

/// Reads on until a gap, past whatever was delivered before it.
async fn gap(subscriber: &mut Subscriber) {
    while next(subscriber).await != Received::Gap {}
}

#[tokio::test]
async fn what_is_published_after_subscribing_arrives() {
    let bus = bus();
    let mut subscriber = bus.subscriber();
    subscriber.subscribe(&topic("demo")).await;
    for number in 1..=100 {
        bus.publish(&topic("other"), &status(-number)).await.unwrap();
        bus.publish(&topic("demo"), &status(number)).await.unwrap();
    }
    bus.publish(&topic("demo"), &Event::SessionEnded).await.unwrap();
    for number in 1..=100 {
        assert_eq!(next(&mut subscriber).await, event("demo", status(number)));
    }
    assert_eq!(next(&mut subscriber).await, event("demo", Event::SessionEnded));
}

#[tokio::test]
async fn nothing_of_an_unsubscribed_topic_arrives() {
    let bus = bus();
    let mut subscriber = bus.subscriber();
    for session in ["one", "two"] {
        subscriber.subscribe(&topic(session)).await;
    }
    bus.publish(&topic("one"), &status(1)).await.unwrap();
    subscriber.unsubscribe(&topic("one")).await;
    bus.publish(&topic("one"), &status(2)).await.unwrap();
    bus.publish(&topic("two"), &status(3)).await.unwrap();
    assert_eq!(next(&mut subscriber).await, event("two", status(3)));
}

#[tokio::test]
async fn prefixes_keep_installations_apart() {
    let (mine, theirs) = (bus(), bus());
    let mut subscriber = mine.subscriber();
    subscriber.subscribe(&topic("demo")).await;
    theirs.publish(&topic("demo"), &status(1)).await.unwrap();
    mine.publish(&topic("demo"), &status(2)).await.unwrap();
    assert_eq!(next(&mut subscriber).await, event("demo", status(2)));
}

#[tokio::test]
async fn thousands_of_topics_are_subscribed_again_after_a_killed_connection() {
    const TOPICS: u32 = 1200;
    let server = RedisServer::start().await;
    let bus = bus_at(server.url());
    let mut subscriber = bus.subscriber();
    for number in 0..TOPICS {
        subscriber.subscribe(&topic(&format!("s{number}"))).await;
    }
    let client = redis::Client::open(server.url().expose()).unwrap();
    let mut admin = client.get_multiplexed_async_connection().await.unwrap();
    let killed: i64 = redis::cmd("CLIENT")
        .arg(&["KILL", "SKIPME", "yes", "TYPE", "pubsub"])
        .query_async(&mut admin)
        .await
        .unwrap();
    assert_eq!(killed, 1);
    gap(&mut subscriber).await;
    for number in [0, 600, TOPICS - 1] {
        let session = format!("s{number}");
        bus.publish(&topic(&session), &status(1)).await.unwrap();
        assert_eq!(next(&mut subscriber).await, event(&session, status(1)));
    }
}

#[tokio::test]
async fn a_restarted_server_is_a_gap_and_then_goes_on() {
    let mut server = RedisServer::start().await;
    let bus = bus_at(server.url());
    let mut subscriber = bus.subscriber();
    subscriber.subscribe(&topic("demo")).await;
    bus.publish(&topic("demo"), &status(1)).await.unwrap();
    assert_eq!(next(&mut subscriber).await, event("demo", status(1)));

    server.kill().await;
    let refused = bus.publish(&topic("demo"), &status(2)).await.unwrap_err();
    assert_eq!(refused.fault(), FaultKind::Dependency);
    assert!(bus.check().await.is_err());
    // Redis is away, so this does not wait for it.
    subscriber.subscribe(&topic("later")).await;

    server.restart().await;
    gap(&mut subscriber).await;
    eventually("publishing works again", async || bus.check().await.is_ok()).await;
    for session in ["demo", "later"] {
        bus.publish(&topic(session), &status(3)).await.unwrap();
        assert_eq!(next(&mut subscriber).await, event(session, status(3)));
    }
}

#[tokio::test]
async fn a_subscriber_may_start_before_redis() {
    let mut server = RedisServer::start().await;
    server.kill().await;
    let bus = bus_at(server.url());
    let mut subscriber = bus.subscriber();
    subscriber.subscribe(&topic("demo")).await;
    server.restart().await;
    assert_eq!(next(&mut subscriber).await, Received::Gap);
    eventually("publishing works", async || bus.publish(&topic("demo"), &status(1)).await.is_ok()).await;
    assert_eq!(next(&mut subscriber).await, event("demo", status(1)));
}

#[tokio::test]
async fn a_connection_that_freezes_is_noticed() {
    let url = redis_url();
    let cable = Cable::to(host(&url)).await;
    let bus = bus_at(with_address(&url, cable.address()));
    let mut subscriber = bus.subscriber();
    subscriber.subscribe(&topic("demo")).await;
    bus.check().await.unwrap();
    cable.stall();
    let before = cable.connections();
    let refused = bus.publish(&topic("demo"), &status(1)).await;
    assert!(matches!(refused, Err(BusError::Unavailable(_))), "{refused:?}");
    // The ping finds out and a second connection is made, which the cable then carries.
    let mending = async {
        eventually("the subscriber connects anew", async || cable.connections() > before + 1).await;
        cable.mend();
    };
    let ((), ()) = tokio::join!(gap(&mut subscriber), mending);
}

#[tokio::test]
async fn a_listener_that_is_too_slow_gets_one_gap_instead_of_a_backlog() {
    let bus = bus();
    let mut subscriber = bus.subscriber();
    subscriber.subscribe(&topic("demo")).await;
    for number in 0..event_bus::QUEUE_EVENTS_MAX as i64 + 100 {
        bus.publish(&topic("demo"), &status(number)).await.unwrap();
    }
    gap(&mut subscriber).await;
    bus.publish(&topic("demo"), &status(-1)).await.unwrap();
    while next(&mut subscriber).await != event("demo", status(-1)) {}
}

#[tokio::test]
async fn recv_and_subscribe_may_be_dropped_half_way() {
    let bus = bus();
    let mut subscriber = bus.subscriber();
    // Each is polled once and dropped.
    let _unfinished = subscriber.recv().now_or_never();
    let _unfinished = subscriber.subscribe(&topic("demo")).now_or_never();
    let _unfinished = subscriber.recv().now_or_never();
    subscriber.subscribe(&topic("demo")).await;
    let partial = Partial {
        session: "demo".parse().unwrap(),
        utterance: UtteranceId::Heard { stream: StreamId(uuid::Uuid::nil()), number: 1 },
        speaker: Speaker { identity: "alice".parse().unwrap(), name: None },
        text: "hello".to_owned(),
        stable: 2,
        language: None,
        start: Samples(0),
        end: Samples(10),
        at: Timestamp(0),
        outside: None,
    };
    let said = Event::Caption(Caption::Partial(partial));
    bus.publish(&topic("demo"), &said).await.unwrap();
    assert_eq!(next(&mut subscriber).await, event("demo", said));
}

#[tokio::test]
async fn messages_of_others_are_skipped() {
    let settings = redis_settings();
    let bus = EventBus::connect(&settings).unwrap();
    let mut subscriber = bus.subscriber();
    subscriber.subscribe(&topic("demo")).await;
    let client = redis::Client::open(settings.url.expose()).unwrap();
    let mut stranger = client.get_multiplexed_async_connection().await.unwrap();
    let channel = format!("{}:topic:session:demo", settings.prefix);
    for message in [r#"{"v":9}"#, "\u{0}", r#"{"v":1,"topic":"session:demo","kind":"dance","payload":1}"#] {
        redis::cmd("PUBLISH").arg(&channel).arg(message).exec_async(&mut stranger).await.unwrap();
    }
    bus.publish(&topic("demo"), &status(1)).await.unwrap();
    assert_eq!(next(&mut subscriber).await, event("demo", status(1)));
}

#[test]
fn an_address_that_is_none_is_refused_without_repeating_it() {
    let settings = BusSettings { url: "redis:/hunter2".into(), prefix: "p".to_owned(), others: None };
    let error = EventBus::connect(&settings).err().unwrap();
    assert!(matches!(error, BusError::Address(_)), "{error}");
    assert!(!error.to_string().contains("hunter2"));
}

#[tokio::test]
async fn redis_with_tls_is_believed_by_its_ca_and_its_name() {
    let (ours, other) = (Authority::new(), Authority::new());
    let mut server = RedisServer::start_with_tls(&ours, "DNS:localhost").await;
    let bus = bus_at(server.url());
    let mut subscriber = bus.subscriber();
    subscriber.subscribe(&topic("demo")).await;
    bus.publish(&topic("demo"), &status(1)).await.unwrap();
    assert_eq!(next(&mut subscriber).await, event("demo", status(1)));
    // The same certificate after a restart, and the same listener.
    server.restart().await;
    eventually("it is published again", async || bus.publish(&topic("demo"), &status(2)).await.is_ok()).await;
    gap(&mut subscriber).await;

    let port = server.port();
    let (ca, wrong) = (ours.certificate().display().to_string(), other.certificate().display().to_string());
    for (url, says) in [
        (
            format!("rediss://localhost:{port}/?sslrootcert={wrong}"),
            format!("none of sslrootcert={wrong} CAs"),
        ),
        (format!("rediss://localhost:{port}"), "none of this system's CAs".to_owned()),
        (format!("rediss://127.0.0.1:{port}/?sslrootcert={ca}"), "as its certificate does".to_owned()),
    ] {
        let said = bus_at(url.as_str().into()).check().await.unwrap_err().to_string();
        assert!(said.contains(&says), "{url}: {said}");
    }
    let plain = RedisServer::start().await;
    let url = format!("rediss://localhost:{}/?sslrootcert={ca}", plain.port());
    let said = bus_at(url.as_str().into()).check().await.unwrap_err().to_string();
    assert!(said.contains("speaks no TLS"), "{said}");
    for (url, says) in [
        ("rediss://h/?sslrootcert=/nowhere.pem", "sslrootcert=/nowhere.pem cannot be read"),
        ("rediss://h/#insecure", "sslrootcert=FILE"),
        ("redis://h/?sslrootcert=/ca.pem", "needs rediss://"),
        ("http://h/", "expected redis://"),
    ] {
        let settings = BusSettings { url: url.into(), prefix: "p".to_owned(), others: None };
        let said = EventBus::connect(&settings).err().expect(url).to_string();
        assert!(said.contains(says), "{url}: {said}");
    }
}

#[tokio::test]
async fn a_failover_of_sentinel_is_followed_by_who_publishes_and_who_listens() {
    let mut sentinel = RedisSentinel::start().await;
    let bus = bus_at(sentinel.url());
    let mut subscriber = bus.subscriber();
    subscriber.subscribe(&topic("demo")).await;
    bus.publish(&topic("demo"), &status(1)).await.unwrap();
    assert_eq!(next(&mut subscriber).await, event("demo", status(1)));

    sentinel.kill_primary().await;
    gap(&mut subscriber).await;
    // The listener is at the next primary; so is soon whoever publishes.
    eventually("it is published again", async || bus.publish(&topic("demo"), &status(2)).await.is_ok()).await;
    assert_eq!(next(&mut subscriber).await, event("demo", status(2)));
}

#[test]
fn urls_of_sentinel_are_read_and_no_password_is_repeated() {
    let connect = |url: &str| {
        EventBus::connect(&BusSettings { url: url.into(), prefix: "p".to_owned(), others: None }).err()
    };
    for url in [
        "redis+sentinel://one,two:26380/main",
        "redis+sentinel://:p%40ss@[::1]:26379,[::2]/main/3?sentinel_password=x",
        "rediss+sentinel://me:secret@one/main?sslrootcert=system",
    ] {
        assert_eq!(connect(url), None, "{url}");
    }
    for url in [
        "redis+sentinel://me:secret@one",
        "redis+sentinel://me:secret@one:port/main",
        "redis+sentinel://me:secret@,two/main",
        "redis+sentinel://me:secret@one/main/first",
        "redis+sentinel://me:secret@one/main?colour=red",
        "redis+sentinel://me:secret@one/main?sslrootcert=/ca.pem",
        "rediss+sentinel://me:secret@one/main?sslrootcert=/nowhere.pem",
    ] {
        let said = connect(url).expect(url).to_string();
        assert!(!said.contains("secret"), "{url}: {said}");
    }
}

#[tokio::test]
async fn other_back_ends_are_heard_and_told_without_an_echo() {
    let settings = redis_settings();
    let bus = EventBus::connect(&settings).unwrap();
    let others = settings.others.unwrap();
    let client = redis::Client::open(redis_url().expose()).unwrap();
    let mut them = client.get_multiplexed_async_connection().await.unwrap();
    let mut they_hear = client.get_async_pubsub().await.unwrap();
    they_hear.psubscribe(format!("{others}*")).await.unwrap();

    let post: Topic = "post:1".parse().unwrap();
    let mut subscriber = bus.subscriber_with_others();
    subscriber.subscribe(&post).await;
    let mut ours_only = bus.subscriber();
    ours_only.subscribe(&post).await;

    let event = |sequence: Option<u64>, likes: u32| {
        let text = format!(r#"{{"likesCount":{likes},"postId":"1","type":"post_liked"}}"#);
        let payload = JsonObject::parse(&text, 1000).unwrap();
        Event::App(AppEvent { sequence: sequence.map(Sequence), payload })
    };
    // Theirs, in both spellings, then ours, which comes once; another post's is another's.
    for (channel, likes) in [("post_1", 1), ("post:1", 2), ("post_10", 3), ("post_1", 4)] {
        let Event::App(AppEvent { payload, .. }) = event(None, likes) else { unreachable!() };
        let channel = format!("{others}{channel}");
        redis::cmd("PUBLISH").arg(channel).arg(payload.as_str()).exec_async(&mut them).await.unwrap();
    }
    bus.publish(&post, &event(Some(7), 5)).await.unwrap();
    bus.publish(&post, &Event::SessionEnded).await.unwrap();
    for expected in [event(None, 1), event(None, 2), event(None, 4), event(Some(7), 5), Event::SessionEnded] {
        assert_eq!(
            next(&mut subscriber).await,
            Received::Event { topic: post.clone(), event: expected, trace: None }
        );
    }
    let expected = Received::Event { topic: post.clone(), event: event(Some(7), 5), trace: None };
    assert_eq!(next(&mut ours_only).await, expected);

    let mut heard = Vec::new();
    let mut messages = they_hear.on_message();
    while heard.len() < 5 {
        let message = timeout(PATIENCE, futures_util::StreamExt::next(&mut messages)).await.unwrap().unwrap();
        heard.push((message.get_channel_name().to_owned(), message.get_payload::<String>().unwrap()));
    }
    let (channel, text) = heard.last().unwrap();
    assert_eq!(channel, &format!("{others}post_1"));
    let ours: serde_json::Value = serde_json::from_str(text).unwrap();
    assert_eq!((&ours["type"], &ours["likesCount"]), (&"post_liked".into(), &5.into()));
}

#[tokio::test]
async fn users_are_present_while_any_edge_says_so() {
    let settings = redis_settings();
    let edges = [EventBus::connect(&settings).unwrap(), EventBus::connect(&settings).unwrap()];
    let user: model::UserId = "u1".parse().unwrap();
    let (now, later) = (Timestamp(1_000_000), Timestamp(1_020_000));
    let present = async |at| edges[0].is_present(&user, at).await.unwrap();
    assert!(!present(now).await);
    edges[0].mark_present(std::slice::from_ref(&user), now).await.unwrap();
    edges[1].mark_present(std::slice::from_ref(&user), later).await.unwrap();
    edges[0].mark_absent(&user).await.unwrap();
    assert!(present(later).await, "the other edge still has a connection");
    assert!(!present(later.after(PRESENCE_LIFE + Duration::from_millis(1))).await);
    edges[1].mark_absent(&user).await.unwrap();
    assert!(!present(later).await);
}

fn seat(number: u128) -> SeatId {
    SeatId(uuid::Uuid::from_u128(number))
}

fn member(user: &str, joined_at: i64) -> Member {
    let name = format!("{user} \"Ä\"");
    Member { user: user.parse().unwrap(), name, joined_at: Timestamp(joined_at) }
}

fn people(members: &[Member]) -> RoomMembers {
    RoomMembers { members: members.to_vec(), all: true }
}

#[tokio::test]
async fn people_are_in_a_room_once_while_any_edge_says_so() {
    let settings = redis_settings();
    let edges = [EventBus::connect(&settings).unwrap(), EventBus::connect(&settings).unwrap()];
    let room: RoomId = "session:a b".parse().unwrap();
    let now = Timestamp(1_000_000);
    let there = async |at| edges[1].room_members(&room, at, 100).await.unwrap();
    assert_eq!(there(now).await, people(&[]));
    edges[0].enter_room(&room, &[], now).await.unwrap();

    // Alice by two edges and three connections, Bob by one.
    let [alice, earlier, bob] = [member("alice", 20), member("alice", 10), member("bob", 15)];
    let first = [(seat(1), alice.clone()), (seat(2), bob.clone()), (seat(3), alice.clone())];
    edges[0].enter_room(&room, &first, now).await.unwrap();
    edges[1].enter_room(&room, &[(seat(4), earlier.clone())], now).await.unwrap();
    assert_eq!(there(now).await, people(&[earlier.clone(), bob.clone()]));
    assert_eq!(edges[0].room_members(&"a b".parse().unwrap(), now, 100).await.unwrap(), people(&[]));

    edges[1].leave_room(&room, &[(seat(4), earlier.clone())]).await.unwrap();
    assert_eq!(there(now).await, people(&[bob.clone(), alice.clone()]));
    edges[0].leave_room(&room, &first[..1]).await.unwrap();
    assert_eq!(there(now).await, people(&[bob.clone(), alice.clone()]), "one connection of Alice is left");
    edges[0].leave_room(&room, &first[1..]).await.unwrap();
    edges[0].leave_room(&room, &first).await.unwrap();
    assert_eq!(there(now).await, people(&[]));
}

#[tokio::test]
async fn people_of_an_edge_that_died_are_gone_when_its_word_ends() {
    let settings = redis_settings();
    let edges = [EventBus::connect(&settings).unwrap(), EventBus::connect(&settings).unwrap()];
    let room: RoomId = "general".parse().unwrap();
    let [alice, bob] = [member("alice", 1), member("bob", 2)];
    let mut now = Timestamp(1_000_000);
    let death = now;
    edges[0].enter_room(&room, &[(seat(1), alice.clone())], now).await.unwrap();
    let mut seen = Vec::new();
    while now <= death.after(PRESENCE_LIFE * 3) {
        edges[1].enter_room(&room, &[(seat(2), bob.clone())], now).await.unwrap();
        let there = edges[1].room_members(&room, now, 100).await.unwrap();
        assert!(there.members.contains(&bob));
        seen.push(there.members.contains(&alice));
        now = now.after(PRESENCE_INTERVAL);
    }
    assert_eq!(seen, [true, true, true, true, false, false, false, false, false, false]);
    // What it said does not stay in Redis, however long the room lives.
    let client = redis::Client::open(settings.url.expose()).unwrap();
    let mut admin = client.get_multiplexed_async_connection().await.unwrap();
    let key = format!("{}:room:general", settings.prefix);
    let seats: usize = redis::cmd("ZCARD").arg(&key).query_async(&mut admin).await.unwrap();
    assert_eq!(seats, 1);
    let life: i64 = redis::cmd("PTTL").arg(&key).query_async(&mut admin).await.unwrap();
    assert!((1..=i64::try_from(PRESENCE_LIFE.as_millis()).unwrap()).contains(&life), "{life}");
}

#[tokio::test]
async fn a_crowd_is_cut_to_those_who_are_there_longest_and_says_so() {
    let bus = bus();
    let room: RoomId = "general".parse().unwrap();
    let now = Timestamp(1_000_000);
    let crowd: Vec<_> = (0..20_u8)
        .map(|number| (seat(number.into()), member(&number.to_string(), 100 - i64::from(number))))
        .collect();
    bus.enter_room(&room, &crowd, now).await.unwrap();
    let there = bus.room_members(&room, now, 2).await.unwrap();
    let longest = crowd[18..].iter().rev().map(|(_, member)| member.clone()).collect();
    assert_eq!(there, RoomMembers { members: longest, all: false });
    assert!(bus.room_members(&room, now, 20).await.unwrap().all);

    // More seats than are read: some are missing, whoever they are.
    let seats: Vec<_> =
        (0..ROOM_SEATS_MAX).map(|number| (seat(1000 + number as u128), member("x", 5))).collect();
    bus.enter_room(&room, &seats, now).await.unwrap();
    let there = bus.room_members(&room, now, usize::MAX).await.unwrap();
    assert!(!there.all && there.members.len() <= 21);
}

#[tokio::test]
async fn seats_that_cannot_be_read_hide_nobody_else() {
    let settings = redis_settings();
    let bus = EventBus::connect(&settings).unwrap();
    let room: RoomId = "general".parse().unwrap();
    let now = Timestamp(1_000_000);
    bus.enter_room(&room, &[(seat(1), member("alice", 1))], now).await.unwrap();
    let client = redis::Client::open(settings.url.expose()).unwrap();
    let mut stranger = client.get_multiplexed_async_connection().await.unwrap();
    let later = r#"["00000000-0000-0000-0000-000000000001","00000000-0000-0000-0000-000000000002",
                    {"user":"bob","name":"Bob","joined_at":2,"mood":"good"}]"#;
    for seat in ["", "{}", "[1,2,3]", r#"["a"]"#, later] {
        let key = format!("{}:room:general", settings.prefix);
        redis::cmd("ZADD").arg(key).arg(now.0 + 1).arg(seat).exec_async(&mut stranger).await.unwrap();
    }
    let there = bus.room_members(&room, now, 100).await.unwrap();
    let names: Vec<_> = there.members.iter().map(|member| member.user.as_str()).collect();
    assert_eq!(names, ["alice", "bob"]);
}

#[tokio::test]
async fn signs_reach_whoever_follows_the_room_and_nobody_else() {
    let bus = bus();
    let topic = |room: &str| Topic::Room(room.parse().unwrap());
    let mut subscriber = bus.subscriber();
    subscriber.subscribe(&topic("session:a b")).await;
    let signs = [
        RoomSign::Joined(member("alice", 1)),
        RoomSign::Typing { user: "alice".parse().unwrap(), name: "Älice".to_owned(), is_typing: false },
        RoomSign::Left { user: "alice".parse().unwrap() },
    ];
    for sign in signs {
        let sign = Event::Sign { sign, from: seat(1) };
        bus.publish(&topic("general"), &Event::SessionEnded).await.unwrap();
        bus.publish(&topic("session:a b"), &sign).await.unwrap();
        let expected = Received::Event { topic: topic("session:a b"), event: sign, trace: None };
        assert_eq!(next(&mut subscriber).await, expected);
    }
}
