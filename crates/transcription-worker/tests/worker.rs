//! A worker with the real model, Postgres and Redis, as an uplink knows it.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

use std::{net::SocketAddr, time::Duration};

use event_bus::{Event, EventBus, Received, Subscriber};
use lifecycle::Lifecycle;
use model::{
    Caption, Clock, EngineName, FaultKind, Final, Samples, Sequence, SessionSlug, Speaker, StreamId,
    StreamState, Timestamp, Topic, UtteranceId,
};
use rpc::{
    AudioUplink, Source, UplinkEvent, UplinkEvents, WhenFull, Workers, WorkersSettings,
    recognition::{Done, Recognition, RecognizeError, Recognized, Segment, Task, Wanted},
};
use storage::Storage;
use testkit::{Cable, Database, PATIENCE, eventually, recording, redis_prefix, redis_url, wer::WordErrors};
use transcription_worker::{Running, WorkerSettings};
use uuid::Uuid;

struct Stage {
    life: Lifecycle,
    running: Running,
    storage: Storage,
    bus: EventBus,
    /// Between the worker and Postgres.
    cable: Cable,
    _database: Database,
}

const INTERNAL_TOKEN: &str = "house";

async fn stage() -> Stage {
    stage_with(&[]).await
}

async fn stage_with(extra: &[(&str, &str)]) -> Stage {
    testkit::choose_tls();
    let database = Database::scratch().await;
    let cable = Cable::to(database.host()).await;
    let prefix = redis_prefix();
    let mut pairs = vec![
        ("DATABASE_URL", testkit::with_address(&database.url(), cable.address()).expose().to_owned()),
        ("REDIS_URL", redis_url().expose().to_owned()),
        ("REDIS_PREFIX", prefix),
        ("WORKER_PORT", "0".to_owned()),
        ("WORKER_METRICS_PORT", "0".to_owned()),
        ("INTERNAL_TOKEN", INTERNAL_TOKEN.to_owned()),
    ];
    pairs.extend(extra.iter().map(|(name, value)| (*name, (*value).to_owned())));
    let settings = WorkerSettings::read(settings::of(pairs)).unwrap();
    let life = Lifecycle::default();
    let running = transcription_worker::start(&settings, &life, Clock::system()).await.unwrap();
    let bus = EventBus::connect(&settings.bus).unwrap();
    Stage { life, running, storage: database.storage(), bus, cable, _database: database }
}

fn source(session: &SessionSlug) -> Source {
    Source {
        stream: StreamId(Uuid::new_v4()),
        session: session.clone(),
        speaker: Speaker { identity: "alice".parse().unwrap(), name: Some("Alice".into()) },
        language: Some("en-US".into()),
        endpointing_ms: None,
        partials: true,
        started_at: Timestamp(1_800_000_000_000),
        user: None,
        is_room: false,
        translate_to: Vec::new(),
    }
}

fn open(address: SocketAddr, token: &str, life: &Lifecycle, source: Source) -> (AudioUplink, UplinkEvents) {
    let settings =
        WorkersSettings { addresses: vec![format!("http://{address}")], internal_token: Some(token.into()) };
    AudioUplink::open(&Workers::new(&settings).unwrap(), life, source, WhenFull::Wait)
}

/// Sends sound as fast as it is spoken: open utterances are shown only then.
async fn speak(uplink: &AudioUplink, sound: &[i16]) {
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    for part in sound.chunks(1600) {
        pace.tick().await;
        uplink.send(part).await.unwrap();
    }
}

/// Waits until the text of an open utterance is shown.
async fn partial(subscriber: &mut Subscriber) {
    let shown = async {
        while !matches!(
            subscriber.recv().await,
            Received::Event { event: Event::Caption(Caption::Partial(_)), .. }
        ) {}
    };
    tokio::time::timeout(PATIENCE, shown).await.expect("the open utterance is shown");
}

/// Waits for the event that ends the stream.
async fn outcome(events: &mut UplinkEvents) -> UplinkEvent {
    let last = async {
        let mut last = None;
        while let Some(event) = events.next().await {
            last = Some(event);
        }
        last.unwrap()
    };
    tokio::time::timeout(PATIENCE * 4, last).await.expect("the stream ends")
}

async fn finals(storage: &Storage, session: &SessionSlug) -> Vec<Final> {
    let entries = storage.entries_since(session, Sequence(0), 1000).await.unwrap();
    entries
        .into_iter()
        .filter_map(|entry| match entry {
            model::Entry::Final(segment) => Some(segment),
            model::Entry::Translation(_) => None,
        })
        .collect()
}

fn error_rate(reference: &str, finals: &[Final]) -> f64 {
    WordErrors::between(reference, &text(finals)).rate()
}

fn text(finals: &[Final]) -> String {
    finals.iter().map(|segment| segment.text.as_str()).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn speech_becomes_partials_and_stored_finals() {
    let stage = stage().await;
    let session: SessionSlug = "demo".parse().unwrap();
    let mut subscriber = stage.bus.subscriber();
    subscriber.subscribe(&Topic::Session(session.clone())).await;

    let recording = recording("LJ001-0009");
    let sound = recording.samples();
    let (uplink, mut events) = open(stage.running.address, INTERNAL_TOKEN, &stage.life, source(&session));
    speak(&uplink, &sound).await;
    uplink.stop().await.unwrap();
    assert_eq!(outcome(&mut events).await, UplinkEvent::Ended(Samples::of(sound.len())));

    let stored = finals(&stage.storage, &session).await;
    assert!(error_rate(&recording.text, &stored) <= 0.1, "{}", text(&stored));
    for (index, segment) in stored.iter().enumerate() {
        assert_eq!(segment.sequence, Sequence(index as u64 + 1));
        let expected =
            UtteranceId::Heard { stream: segment.utterance.stream().unwrap(), number: index as u32 + 1 };
        assert_eq!(segment.utterance, expected);
        assert_eq!(segment.speaker.name.as_deref(), Some("Alice"));
        let words: Vec<_> = segment.words.iter().map(|word| word.text.as_str()).collect();
        assert_eq!(words.join(" "), segment.text);
        assert!(segment.words.is_sorted_by_key(|word| word.start) && segment.end <= Samples::of(sound.len()));
    }

    let (mut heard, mut partials) = (Vec::new(), 0);
    while heard.len() < stored.len() {
        let received =
            tokio::time::timeout(PATIENCE, subscriber.recv()).await.expect("every final is announced");
        match received {
            Received::Event { event: Event::Caption(Caption::Final(segment)), .. } => heard.push(segment),
            Received::Event { event: Event::Caption(Caption::Partial(_)), .. } => partials += 1,
            other => panic!("{other:?}"),
        }
    }
    heard.sort_by_key(|segment| segment.sequence);
    heard.dedup_by_key(|segment| segment.sequence);
    assert_eq!(heard, stored);
    assert!(partials > 0, "the open utterance was shown");
}

#[tokio::test]
async fn silence_is_acknowledged_and_says_nothing() {
    let stage = stage().await;
    let session: SessionSlug = "quiet".parse().unwrap();
    let (uplink, mut events) = open(stage.running.address, INTERNAL_TOKEN, &stage.life, source(&session));
    uplink.send(&vec![0; 16_000 * 60]).await.unwrap();
    uplink.stop().await.unwrap();
    assert_eq!(outcome(&mut events).await, UplinkEvent::Ended(Samples::from_millis(60_000)));
    assert!(finals(&stage.storage, &session).await.is_empty());
}

#[tokio::test]
async fn finals_wait_while_postgres_is_away() {
    let stage = stage().await;
    let session: SessionSlug = "demo".parse().unwrap();
    let mut subscriber = stage.bus.subscriber();
    subscriber.subscribe(&Topic::Session(session.clone())).await;
    let recording = recording("LJ001-0002");
    let (uplink, mut events) = open(stage.running.address, INTERNAL_TOKEN, &stage.life, source(&session));
    uplink.send(&[0; 1600]).await.unwrap();
    while !matches!(events.next().await, Some(UplinkEvent::State(StreamState::Ready))) {}

    stage.cable.cut();
    speak(&uplink, &recording.samples()).await;
    partial(&mut subscriber).await;
    let url = format!("http://{}/readyz", stage.running.admin_address);
    eventually("readiness names Postgres", async || {
        let body = reqwest::get(&url).await.ok()?.text().await.ok()?;
        body.contains("postgres").then_some(())
    })
    .await;

    stage.cable.mend();
    uplink.stop().await.unwrap();
    assert!(matches!(outcome(&mut events).await, UplinkEvent::Ended(_)));
    let stored = finals(&stage.storage, &session).await;
    assert!(error_rate(&recording.text, &stored) <= 0.25, "{}", text(&stored));
}

#[tokio::test]
async fn a_source_that_vanishes_is_finished() {
    let stage = stage_with(&[("LINGER_SECONDS", "1")]).await;
    let session: SessionSlug = "demo".parse().unwrap();
    let mut subscriber = stage.bus.subscriber();
    subscriber.subscribe(&Topic::Session(session.clone())).await;
    let source_life = Lifecycle::default();
    let recording = recording("LJ001-0008");
    let (uplink, _events) = open(stage.running.address, INTERNAL_TOKEN, &source_life, source(&session));
    speak(&uplink, &recording.samples()).await;
    partial(&mut subscriber).await;
    // As a kill of the edge would: the call breaks without a stop, in the middle of an utterance.
    source_life.stopping().cancel();
    let stored = eventually("what was said is stored", async || {
        let stored = finals(&stage.storage, &session).await;
        (!stored.is_empty()).then_some(stored)
    })
    .await;
    assert!(error_rate(&recording.text, &stored) <= 0.25, "{}", text(&stored));
}

#[tokio::test]
async fn a_drained_worker_stores_what_is_closed_and_another_goes_on() {
    let first = stage().await;
    let session: SessionSlug = "demo".parse().unwrap();
    let second_settings = WorkerSettings::read(settings::of([
        ("DATABASE_URL", first._database.url().expose().to_owned()),
        ("REDIS_URL", redis_url().expose().to_owned()),
        ("REDIS_PREFIX", redis_prefix()),
        ("WORKER_PORT", "0".to_owned()),
        ("WORKER_METRICS_PORT", "0".to_owned()),
    ]))
    .unwrap();
    let second_life = Lifecycle::default();
    let second = transcription_worker::start(&second_settings, &second_life, Clock::system()).await.unwrap();
    let source_life = Lifecycle::default();
    let settings = WorkersSettings {
        addresses: vec![format!("http://{}", first.running.address), format!("http://{}", second.address)],
        internal_token: Some(INTERNAL_TOKEN.into()),
    };
    let workers = Workers::new(&settings).unwrap();
    let (uplink, mut events) = AudioUplink::open(&workers, &source_life, source(&session), WhenFull::Wait);

    let recording = recording("two_cities");
    let sound = recording.samples();
    let (before, after) = sound.split_at(sound.len() / 3);
    uplink.send(before).await.unwrap();
    eventually("the first worker has stored something", async || {
        (!finals(&first.storage, &session).await.is_empty()).then_some(())
    })
    .await;
    first.life.end(Duration::from_secs(20)).await.unwrap();
    uplink.send(after).await.unwrap();
    uplink.stop().await.unwrap();
    assert_eq!(outcome(&mut events).await, UplinkEvent::Ended(Samples::of(sound.len())));
    let stored = finals(&first.storage, &session).await;
    assert!(error_rate(&recording.text, &stored) <= 0.1, "{}", text(&stored));
    assert!(stored.is_sorted_by_key(|segment| (segment.start, segment.end)));
}

#[tokio::test]
async fn refusals_are_told_to_the_source() {
    let stage = stage_with(&[("STREAMS_MAX", "1")]).await;
    let session: SessionSlug = "demo".parse().unwrap();

    let (_uplink, mut events) = open(stage.running.address, "stranger", &stage.life, source(&session));
    let UplinkEvent::Failed(error) = outcome(&mut events).await else { panic!("a stranger was let in") };
    assert_eq!(error.fault(), FaultKind::Defect);

    let russian = Source { language: Some("ru".into()), ..source(&session) };
    let (_uplink, mut events) = open(stage.running.address, INTERNAL_TOKEN, &stage.life, russian);
    let UplinkEvent::Failed(error) = outcome(&mut events).await else { panic!("nobody here hears Russian") };
    assert_eq!(error.to_string(), "language ru is not served; choose one of: auto, en");

    let (first, mut first_events) =
        open(stage.running.address, INTERNAL_TOKEN, &stage.life, source(&session));
    first.send(&[0; 1600]).await.unwrap();
    while !matches!(first_events.next().await, Some(UplinkEvent::State(StreamState::Ready))) {}
    let (_second, mut events) = open(stage.running.address, INTERNAL_TOKEN, &stage.life, source(&session));
    let UplinkEvent::Failed(error) = outcome(&mut events).await else {
        panic!("there is no room for a second")
    };
    assert!(error.fault() == FaultKind::Overloaded && error.retry_after().is_some(), "{error:?}");
}

fn workers(stage: &Stage) -> Workers {
    let addresses = vec![format!("http://{}", stage.running.address)];
    Workers::new(&WorkersSettings { addresses, internal_token: Some(INTERNAL_TOKEN.into()) }).unwrap()
}

/// Hands a recording in and takes what is told of it.
async fn recognize(
    stage: &Stage,
    wanted: &Wanted,
    sound: Vec<i16>,
) -> Result<(Vec<Segment>, Done), RecognizeError> {
    let (recording, mut recognition) = Recognition::begin(&workers(stage), wanted).await?;
    let sending = async move { recording.send(&sound).await };
    let telling = async {
        let (mut segments, mut done) = (Vec::new(), None);
        while let Some(answer) = recognition.next().await? {
            match answer {
                Recognized::Segment(segment) => segments.push(segment),
                Recognized::Done(last) => done = Some(last),
            }
        }
        Ok((segments, done.expect("a recording ends with done")))
    };
    // One that is refused or known early is not sent to its end.
    let (_, told) = tokio::join!(sending, telling);
    told
}

#[tokio::test]
async fn a_recording_is_heard_at_once_and_not_stored() {
    let stage = stage().await;
    let spoken = recording("two_cities");
    let (sound, reference) = (spoken.samples(), spoken.text);
    let length = Samples::of(sound.len());
    let (segments, done) = recognize(&stage, &Wanted::default(), sound).await.unwrap();
    assert_eq!(
        (done.length, done.language.as_deref(), done.engine),
        (length, Some("en"), Some(EngineName::Moonshine))
    );
    assert!(segments.len() > 3, "{segments:?}");
    for pair in segments.windows(2) {
        let [one, two] = pair else { continue };
        assert!(one.start < one.end && one.end <= two.start && two.end <= length, "{pair:?}");
        assert!(
            one.logprob < 0.0 && one.words.iter().all(|word| one.start <= word.start && word.end <= one.end)
        );
    }
    let text: Vec<&str> = segments.iter().map(|segment| segment.text.as_str()).collect();
    let rate = WordErrors::between(&reference, &text.join(" ")).rate();
    assert!(rate < 0.12, "{rate}");

    let (segments, done) = recognize(&stage, &Wanted::default(), vec![0; 160_000]).await.unwrap();
    assert!(segments.is_empty() && done.length == Samples(160_000), "silence says nothing");
}

#[tokio::test]
async fn what_nobody_makes_of_a_recording_is_said() {
    let stage = stage().await;
    let german = Wanted { language: Some("de-AT".into()), ..Wanted::default() };
    let refused = recognize(&stage, &german, vec![0; 1600]).await.unwrap_err();
    assert_eq!(refused.to_string(), "language de is not served; choose one of: auto, en");
    let translate = Wanted { task: Task::Translate, ..Wanted::default() };
    let refused = recognize(&stage, &translate, vec![0; 1600]).await.unwrap_err();
    assert_eq!(refused, RecognizeError::Unserved("no engine here translates speech to English".into()));
    // Who knows one language takes everything for that.
    let detect = Wanted { task: Task::Detect, ..Wanted::default() };
    let (segments, done) = recognize(&stage, &detect, recording("jfk").samples()).await.unwrap();
    assert!(segments.is_empty() && done.language.as_deref() == Some("en"), "{done:?}");
}

#[tokio::test]
async fn a_caller_that_vanishes_frees_its_place() {
    let stage = stage().await;
    let sound = recording("two_cities").samples();
    // More than there are places for, one after the other.
    for _ in 0..20 {
        let begun = async {
            loop {
                match Recognition::begin(&workers(&stage), &Wanted::default()).await {
                    Ok(begun) => return begun,
                    Err(RecognizeError::Busy { .. }) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error}"),
                }
            }
        };
        let (recording, recognition) =
            tokio::time::timeout(PATIENCE, begun).await.expect("a place is free again");
        recording.send(sound.get(..64_000).unwrap()).await.unwrap();
        drop((recording, recognition));
    }
    let (segments, _) = recognize(&stage, &Wanted::default(), sound).await.unwrap();
    assert!(!segments.is_empty());
}

#[tokio::test]
async fn a_language_nobody_serves_leaves_a_stream_as_it_was() {
    let stage = stage().await;
    let session: SessionSlug = "demo".parse().unwrap();
    let (uplink, mut events) = open(stage.running.address, INTERNAL_TOKEN, &stage.life, source(&session));
    let spoken = recording("LJ001-0001");
    let (sound, reference) = (spoken.samples(), spoken.text);
    uplink.send(&sound[..sound.len() / 2]).await.unwrap();
    uplink.speak("de".into()).await.unwrap();
    let told = async {
        loop {
            if let UplinkEvent::Unserved(text) = events.next().await.unwrap() {
                return text;
            }
        }
    };
    let told = tokio::time::timeout(PATIENCE, told).await.expect("the source is told");
    assert_eq!(told, "language de is not served; choose one of: auto, en");
    uplink.speak("en-GB".into()).await.unwrap();
    uplink.send(&sound[sound.len() / 2..]).await.unwrap();
    uplink.stop().await.unwrap();
    assert!(matches!(outcome(&mut events).await, UplinkEvent::Ended(_)));
    // A change of language ends the open utterance, here in mid-word.
    let rate = error_rate(&reference, &finals(&stage.storage, &session).await);
    assert!(rate < 0.3, "{rate}");
}
