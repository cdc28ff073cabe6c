//! Between a real Postgres and a real Redis.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use event_bus::{BusSettings, Event, EventBus, Received, Subscriber};
use model::{Caption, Samples, SessionSlug, Speaker, StreamId, Timestamp, Topic, TraceContext};
use outbox::{Bell, Relay};
use storage::{NewFinal, NewStream, OpenStream, Recorded, Storage, StorageSettings};
use telemetry::{SpanKind, TelemetrySettings, Tracer};
use testkit::{
    Cable, Database, PATIENCE, RedisServer, TraceCollector, eventually, redis_prefix, redis_settings,
    with_address,
};
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

const NOW: Timestamp = Timestamp(1_700_000_000_000);
const STREAM: StreamId = StreamId(uuid::Uuid::from_u128(1));

fn session() -> SessionSlug {
    "demo".parse().unwrap()
}

fn speaker() -> Speaker {
    Speaker { identity: "alice".parse().unwrap(), name: None }
}

async fn open(storage: &Storage) -> OpenStream {
    let stream = NewStream {
        id: STREAM,
        session: session(),
        speaker: speaker(),
        started_at: NOW,
        user: None,
        limits: storage::StreamLimits::default(),
        now: NOW,
    };
    storage.open_stream(&stream).await.unwrap()
}

fn segment(open: &OpenStream, number: u32) -> NewFinal {
    NewFinal {
        session_id: open.session_id,
        session: session(),
        epoch: open.epoch,
        stream: STREAM,
        number,
        speaker: speaker(),
        text: format!("utterance {number}"),
        language: None,
        start: Samples(u64::from(number) * 100),
        end: Samples(u64::from(number) * 100 + 50),
        words: Vec::new(),
        translate_to: Vec::new(),
        at: NOW,
    }
}

async fn store(storage: &Storage, open: &OpenStream, numbers: std::ops::RangeInclusive<u32>) {
    for number in numbers {
        let recorded = storage.record_final(&segment(open, number)).await.unwrap();
        assert!(matches!(recorded, Recorded::Stored(_)), "{recorded:?}");
    }
}

/// A relay that runs until it is dropped.
struct Running {
    bell: Bell,
    drain: CancellationToken,
    task: JoinSet<()>,
}

fn start(storage: &Storage, bus: &EventBus) -> Running {
    let relay = Relay::new(storage.clone(), bus.clone());
    let (bell, drain) = (relay.ring(), CancellationToken::new());
    let mut task = JoinSet::new();
    task.spawn(relay.run(drain.clone()));
    Running { bell, drain, task }
}

async fn follow(bus: &EventBus) -> Subscriber {
    let mut subscriber = bus.subscriber();
    subscriber.subscribe(&Topic::Session(session())).await;
    subscriber
}

/// The sequence of the next final that arrives.
async fn next_sequence(subscriber: &mut Subscriber) -> u64 {
    loop {
        let received = timeout(PATIENCE, subscriber.recv()).await.expect("another final");
        if let Received::Event { event: Event::Caption(Caption::Final(segment)), .. } = received {
            return segment.sequence.0;
        }
    }
}

/// The sequences that arrive until all up to `last` have; whatever their order and however often each.
async fn sequences_to(subscriber: &mut Subscriber, last: u64) -> Vec<u64> {
    let mut seen = Vec::new();
    while !(1..=last).all(|sequence| seen.contains(&sequence)) {
        seen.push(next_sequence(subscriber).await);
    }
    seen
}

async fn empty(storage: &Storage) {
    eventually("the outbox is empty", async || storage.outbox_oldest().await == Ok(None)).await;
}

#[tokio::test]
async fn committed_finals_are_published_in_order_and_rows_deleted() {
    let database = Database::scratch().await;
    let (storage, bus) = (database.storage(), EventBus::connect(&redis_settings()).unwrap());
    let mut follower = follow(&bus).await;
    let open = open(&storage).await;
    // More than one claim, committed before there was a relay.
    store(&storage, &open, 1..=250).await;
    let relay = start(&storage, &bus);
    assert_eq!(sequences_to(&mut follower, 250).await, (1..=250).collect::<Vec<_>>());
    store(&storage, &open, 251..=260).await;
    relay.bell.ring();
    let mut rest = BTreeSet::from_iter(251..=260);
    while !rest.is_empty() {
        rest.remove(&next_sequence(&mut follower).await);
    }
    empty(&storage).await;
}

/// The trace of the next final that arrives.
async fn next_trace(subscriber: &mut Subscriber) -> Option<TraceContext> {
    loop {
        let received = timeout(PATIENCE, subscriber.recv()).await.expect("another final");
        if let Received::Event { trace, .. } = received {
            return trace;
        }
    }
}

#[tokio::test]
async fn what_was_stored_in_a_trace_is_published_in_it() {
    let collector = TraceCollector::start().await;
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint()),
        ("OTEL_TRACES_SAMPLER", "parentbased_always_on"),
    ];
    let mut reader = settings::of(settings);
    let settings = TelemetrySettings::read(&mut reader);
    let tracer = Tracer::start("a-relay", &reader.finish(|| Some(settings)).unwrap());

    let database = Database::scratch().await;
    let (storage, bus) = (database.storage(), EventBus::connect(&redis_settings()).unwrap());
    let mut follower = follow(&bus).await;
    let open = open(&storage).await;
    let work = tracer.root("work", SpanKind::Internal, None);
    work.within(store(&storage, &open, 1..=1)).await;
    store(&storage, &open, 2..=2).await;
    // Somebody traces and does not record it.
    let asked = TraceContext { trace: 7, span: 8, is_sampled: false };
    let unrecorded = tracer.root("work", SpanKind::Internal, Some(asked));
    unrecorded.within(store(&storage, &open, 3..=3)).await;
    let relay = Relay::new(storage.clone(), bus.clone()).traced(tracer.clone());
    let drain = CancellationToken::new();
    let mut task = JoinSet::new();
    task.spawn(relay.run(drain.clone()));

    let place = work.context().unwrap();
    let told = next_trace(&mut follower).await.unwrap();
    assert!(told.trace == place.trace && told.span != place.span && told.is_sampled);
    assert_eq!(next_trace(&mut follower).await, None);
    let told = next_trace(&mut follower).await.unwrap();
    assert!(told.trace == 7 && !told.is_sampled);
    drain.cancel();
    task.join_next().await;
    drop(work);
    tracer.flush().await;
    let spans = collector.spans();
    let published: Vec<_> = spans.iter().filter(|span| span.name == "publish").collect();
    let [published] = published[..] else { panic!("{spans:#?}") };
    let way = collector.way_to(published).unwrap();
    assert_eq!(way.iter().map(|span| span.name.as_str()).collect::<Vec<_>>(), ["work", "publish"]);
    assert!(way.iter().all(|span| span.service == "a-relay"));
}

#[tokio::test]
async fn two_relays_and_eight_writers_lose_nothing() {
    let database = Database::scratch().await;
    let (storage, bus) = (database.storage(), EventBus::connect(&redis_settings()).unwrap());
    let mut follower = follow(&bus).await;
    let relays = [start(&storage, &bus), start(&storage, &bus)];
    let mut writers = JoinSet::new();
    for writer in 0..8_u128 {
        let (storage, bell) = (storage.clone(), relays[writer as usize % 2].bell.clone());
        writers.spawn(async move {
            let id = StreamId(uuid::Uuid::from_u128(100 + writer));
            let stream = NewStream {
                id,
                session: session(),
                speaker: speaker(),
                started_at: NOW,
                user: None,
                limits: storage::StreamLimits::default(),
                now: NOW,
            };
            let open = storage.open_stream(&stream).await.unwrap();
            for number in 1..=25 {
                let mut segment = segment(&open, number);
                segment.stream = id;
                storage.record_final(&segment).await.unwrap();
                bell.ring();
            }
        });
    }
    writers.join_all().await;
    let mut seen = sequences_to(&mut follower, 200).await;
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, (1..=200).collect::<Vec<_>>());
    empty(&storage).await;
}

#[tokio::test]
async fn what_a_dead_process_committed_is_published_without_a_ring() {
    let database = Database::scratch().await;
    let (storage, bus) = (database.storage(), EventBus::connect(&redis_settings()).unwrap());
    let mut follower = follow(&bus).await;
    let _relay = start(&storage, &bus);
    let open = open(&storage).await;
    empty(&storage).await;
    store(&storage, &open, 1..=3).await;
    sequences_to(&mut follower, 3).await;
}

#[tokio::test]
async fn rows_wait_while_redis_is_down() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let mut server = RedisServer::start().await;
    let bus =
        EventBus::connect(&BusSettings { url: server.url(), prefix: redis_prefix(), others: None }).unwrap();
    let mut follower = follow(&bus).await;
    let relay = start(&storage, &bus);
    let open = open(&storage).await;
    store(&storage, &open, 1..=2).await;
    relay.bell.ring();
    sequences_to(&mut follower, 2).await;
    empty(&storage).await;

    server.kill().await;
    store(&storage, &open, 3..=150).await;
    relay.bell.ring();
    eventually("publishing is refused", async || bus.check().await.is_err()).await;
    assert!(storage.outbox_oldest().await.unwrap().is_some());
    server.restart().await;
    // Rings that nobody heard are the listener's gap; here it only matters that the rows were published.
    empty(&storage).await;
    while timeout(PATIENCE, follower.recv()).await.expect("a gap") != Received::Gap {}
    let finals = storage.entries_since(&session(), model::Sequence(2), 1000).await.unwrap();
    assert_eq!(finals.len(), 148);
}

#[tokio::test]
async fn nothing_is_lost_while_postgres_is_cut() {
    let database = Database::scratch().await;
    let cable = Cable::to(database.host()).await;
    let url = with_address(&database.url(), cable.address());
    let relayed = Storage::connect(&StorageSettings { url, ..database.settings() }).unwrap();
    let bus = EventBus::connect(&redis_settings()).unwrap();
    let mut follower = follow(&bus).await;
    let relay = start(&relayed, &bus);
    let direct = database.storage();
    let open = open(&direct).await;
    store(&direct, &open, 1..=5).await;
    relay.bell.ring();
    sequences_to(&mut follower, 5).await;
    cable.cut();
    store(&direct, &open, 6..=20).await;
    relay.bell.ring();
    assert!(relayed.check().await.is_err());
    cable.mend();
    let mut rest = BTreeSet::from_iter(6..=20);
    while !rest.is_empty() {
        rest.remove(&next_sequence(&mut follower).await);
    }
    empty(&direct).await;
}

#[tokio::test]
async fn draining_publishes_what_was_committed_and_ends() {
    let database = Database::scratch().await;
    let (storage, bus) = (database.storage(), EventBus::connect(&redis_settings()).unwrap());
    let mut follower = follow(&bus).await;
    let open = open(&storage).await;
    let mut relay = start(&storage, &bus);
    empty(&storage).await;
    store(&storage, &open, 1..=7).await;
    relay.drain.cancel();
    timeout(PATIENCE, relay.task.join_next()).await.expect("the relay to end").unwrap().unwrap();
    assert_eq!(storage.outbox_oldest().await, Ok(None));
    assert_eq!(sequences_to(&mut follower, 7).await, (1..=7).collect::<Vec<_>>());
}
