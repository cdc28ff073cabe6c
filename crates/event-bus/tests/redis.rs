//! Against a real Redis: `PARLEY_TEST_REDIS_URL`, and private servers to kill.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::Duration;

use event_bus::{BusError, BusSettings, Event, EventBus, Received, Subscriber};
use futures_util::FutureExt;
use model::{
    AppEvent, Caption, FaultKind, JsonObject, Partial, Samples, Sequence, Speaker, StreamId, StreamState,
    StreamStatus, Timestamp, Topic, UtteranceId,
};
use testkit::{
    Cable, PATIENCE, RedisServer, eventually, host, redis_prefix, redis_settings, redis_url, with_address,
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
    Received::Event { topic: topic(session), event }
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
    assert_eq!(error, BusError::Address);
    assert!(!error.to_string().contains("hunter2"));
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
        assert_eq!(next(&mut subscriber).await, Received::Event { topic: post.clone(), event: expected });
    }
    assert_eq!(next(&mut ours_only).await, Received::Event { topic: post.clone(), event: event(Some(7), 5) });

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
    assert!(!present(later.after(event_bus::PRESENCE_LIFE + Duration::from_millis(1))).await);
    edges[1].mark_absent(&user).await.unwrap();
    assert!(!present(later).await);
}
