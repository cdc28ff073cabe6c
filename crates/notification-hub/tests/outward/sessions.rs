//! The hook of sessions. What it hears of is written by other processes: here, by the test itself.

use std::time::Duration;

use lifecycle::Lifecycle;
use model::{Clock, Samples, SessionSlug, Speaker, StreamId, Timestamp, UtteranceId};
use notification_hub::HubSettings;
use serde_json::Value;
use storage::{NewFinal, NewStream, OpenStream, Revision, Storage, StreamLimits};
use testkit::{Database, eventually, redis_settings};
use tokio::runtime::Runtime;

use crate::receiver::{ANSWERS, Got, Receiver, assert_signed};

const NOW: Timestamp = Timestamp(1_800_000_000_000);

const EVERY: &str = "session.started,transcript.final,session.ended";

/// A hub that can be killed: all of it runs here.
struct Hub(Option<Runtime>);

impl Hub {
    /// Ends it at once, as a process ends that is killed.
    fn kill(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.kill();
    }
}

struct Stage {
    _outside: Lifecycle,
    receiver: Receiver,
    database: Database,
    storage: Storage,
    clock: Clock,
}

impl Stage {
    async fn new(statuses: &[u16]) -> Self {
        let outside = Lifecycle::default();
        let receiver = Receiver::start(&outside, statuses).await;
        let database = Database::scratch().await;
        let storage = database.storage();
        Self { _outside: outside, receiver, database, storage, clock: Clock::manual(NOW) }
    }

    /// Starts a hub whose hook hears of these events, or one without such a hook; returns when Postgres knows.
    async fn hub(&self, events: Option<&str>) -> Hub {
        let redis = redis_settings();
        let mut pairs = vec![
            ("DATABASE_URL", self.database.url().expose().to_owned()),
            ("REDIS_URL", redis.url.expose().to_owned()),
            ("REDIS_PREFIX", redis.prefix.clone()),
            ("REDIS_WS_PREFIX", "off".to_owned()),
            ("HUB_PORT", "0".to_owned()),
            ("HUB_METRICS_PORT", "0".to_owned()),
            ("PUBLIC_URL", "https://captions.example/".to_owned()),
        ];
        if let Some(events) = events {
            pairs.extend([
                ("SESSION_HOOK_URL", format!("http://{}/sessions", self.receiver.address)),
                ("SESSION_HOOK_SECRET", "secret".to_owned()),
                ("SESSION_HOOK_EVENTS", events.to_owned()),
            ]);
        }
        let settings = HubSettings::read(settings::of(pairs)).unwrap();
        let clock = self.clock.clone();
        let runtime = Runtime::new().unwrap();
        runtime.spawn(async move {
            let life = Lifecycle::default();
            notification_hub::start(&settings, &life, clock).await.unwrap();
            std::future::pending::<()>().await;
        });
        let wanted = events.map_or(0, |events| events.split(',').count() as i64);
        eventually("Postgres knows what is wanted", async || {
            self.count("session_hook_events").await == wanted
        })
        .await;
        Hub(Some(runtime))
    }

    async fn count(&self, table: &str) -> i64 {
        self.database.rows(&format!("SELECT count(*) FROM {table}")).await.first().unwrap().get(0)
    }

    /// Waits until nothing is to go out any more, while back-offs pass by; all that the receiver got.
    async fn told(&self) -> Vec<Got> {
        eventually("nothing is to go out any more", async || {
            self.clock.advance(Duration::from_secs(3));
            self.count("deliveries").await == 0
        })
        .await;
        self.receiver.got()
    }

    async fn open(&self, session: &str) -> OpenStream {
        let stream = NewStream {
            id: StreamId(uuid::Uuid::from_u128(7)),
            session: slug(session),
            speaker: alice(),
            started_at: NOW,
            user: None,
            limits: StreamLimits::default(),
            now: NOW,
        };
        self.storage.open_stream(&stream).await.unwrap()
    }

    async fn say(&self, session: &str, open: &OpenStream, number: u32, text: &str) {
        let end = Samples(u64::from(number) * 16_000);
        let new = NewFinal {
            session_id: open.session_id,
            session: slug(session),
            epoch: open.epoch,
            stream: StreamId(uuid::Uuid::from_u128(7)),
            number,
            speaker: alice(),
            text: text.to_owned(),
            language: Some("en".to_owned()),
            start: end - Samples(8_000),
            end,
            words: Vec::new(),
            translate_to: Vec::new(),
            at: NOW,
        };
        self.storage.record_final(&new).await.unwrap();
    }

    async fn correct(&self, session: &str, number: u32, text: &str) {
        let revision = Revision {
            session: slug(session),
            utterance: UtteranceId::Heard { stream: StreamId(uuid::Uuid::from_u128(7)), number },
            speaker: None,
            text: text.to_owned(),
            language: None,
            outside: None,
            said_at: NOW,
            at: NOW,
        };
        self.storage.revise(&revision).await.unwrap().unwrap();
    }
}

fn slug(text: &str) -> SessionSlug {
    text.parse().unwrap()
}

fn alice() -> Speaker {
    Speaker { identity: "alice".parse().unwrap(), name: Some("Alice".to_owned()) }
}

fn body(got: &Got) -> Value {
    serde_json::from_slice(&got.body).unwrap()
}

/// The name of an event, and the sequence of a final, else 0.
fn name(body: &Value) -> (String, u64) {
    let field = |name| body.get(name).cloned().unwrap_or_default();
    (field("event").as_str().unwrap().to_owned(), field("sequence").as_u64().unwrap_or(0))
}

/// What was told, in the order of names and sequences.
fn events(got: &[Got]) -> Vec<(String, u64)> {
    let mut events: Vec<_> = got.iter().map(|got| name(&body(got))).collect();
    events.sort();
    events
}

fn ids(got: &[Got]) -> Vec<String> {
    got.iter().map(|got| got.header("x-parley-id").to_owned()).collect()
}

#[tokio::test]
async fn each_event_is_told_once_signed() {
    let stage = Stage::new(&[]).await;
    let _hub = stage.hub(Some(EVERY)).await;
    stage.storage.start_session(&slug("my room"), "clx1", None, NOW).await.unwrap();
    let open = stage.open("my room").await;
    stage.say("my room", &open, 1, "Hello.").await;
    stage.say("my room", &open, 1, "Hello.").await;
    stage.correct("my room", 1, "Hello!").await;
    for _ in 0..2 {
        stage.storage.stop_session("clx1", NOW.after(Duration::from_secs(9))).await.unwrap();
    }

    let got = stage.told().await;
    let expected =
        [("session.ended", 0), ("session.started", 0), ("transcript.final", 1), ("transcript.final", 2)];
    assert_eq!(events(&got), expected.map(|(event, sequence)| (event.to_owned(), sequence)));
    for got in &got {
        assert_signed(got);
        let body = body(got);
        assert_eq!(got.path, "/sessions");
        assert_eq!(body["id"].as_str(), Some(got.header("x-parley-id")));
        assert_eq!((&body["sessionSlug"], &body["sessionId"]), (&"my room".into(), &"clx1".into()));
    }
    let find = |event: &str, sequence: u64| {
        got.iter().map(body).find(|body| name(body) == (event.to_owned(), sequence))
    };
    let started = find("session.started", 0).unwrap();
    assert_eq!(
        (&started["createdAt"], &started["startedAt"]),
        (&NOW.to_string().into(), &NOW.to_string().into())
    );
    let ended = find("session.ended", 0).unwrap();
    assert_eq!(ended["endedAt"], "2027-01-15T08:00:09.000Z");
    assert_eq!(ended["createdAt"], ended["endedAt"]);
    assert_eq!(
        ended["transcriptUrl"],
        "https://captions.example/api/sessions/my%20room/transcript?format=json"
    );
    let first = find("transcript.final", 1).unwrap();
    let corrected = find("transcript.final", 2).unwrap();
    assert_eq!(first["utteranceId"], "00000000-0000-0000-0000-000000000007-1");
    assert_eq!(first["utteranceId"], corrected["utteranceId"]);
    assert_eq!((&first["text"], &first["revision"]), (&"Hello.".into(), &0.into()));
    assert_eq!((&corrected["text"], &corrected["revision"]), (&"Hello!".into(), &1.into()));
    assert_eq!((&first["speaker"], &first["speakerId"]), (&"Alice".into(), &"alice".into()));
    assert_eq!(
        (&first["start"], &first["end"], &first["language"]),
        (&0.5.into(), &1.0.into(), &"en".into())
    );
    assert_eq!(first["startedAt"], "2027-01-15T08:00:00.500Z");
}

#[tokio::test]
async fn what_is_refused_is_tried_again_under_its_id_unless_it_is_declined() {
    let stage = Stage::new(&[500, 429, 302, 200, 410]).await;
    let _hub = stage.hub(Some("session.started,session.ended")).await;
    stage.storage.start_session(&slug("demo"), "clx1", None, NOW).await.unwrap();
    let got = stage.told().await;
    assert_eq!(got.len(), 4);
    let started = ids(&got);
    assert!(started.iter().all(|id| *id == started[0]), "one id to deduplicate by: {started:?}");
    // A final is not among what this hook hears of.
    let open = stage.open("demo").await;
    stage.say("demo", &open, 1, "Hello.").await;
    stage.storage.stop_session("clx1", NOW).await.unwrap();
    let got = stage.told().await;
    assert_eq!(got.len(), 5, "declined, and not tried again");
    assert_ne!(ids(&got)[4], started[0]);
    assert_eq!(body(&got[4])["event"], "session.ended");
    // The next time it is live is another start.
    stage.storage.start_session(&slug("demo"), "clx1", None, NOW).await.unwrap();
    let got = stage.told().await;
    assert_eq!(body(&got[5])["event"], "session.started");
    assert_ne!(ids(&got)[5], started[0]);
}

#[tokio::test]
async fn a_hub_that_is_killed_loses_nothing_and_the_next_one_tells() {
    let stage = Stage::new(&[]).await;
    stage.receiver.answers.forget_permits(ANSWERS);
    let mut hub = stage.hub(Some(EVERY)).await;
    let open = stage.open("demo").await;
    eventually("the receiver is told and does not answer", async || stage.receiver.got().len() == 1).await;
    hub.kill();
    // While there is no hub.
    stage.say("demo", &open, 1, "Hello.").await;
    stage.receiver.answers.add_permits(ANSWERS);

    let _next = stage.hub(Some(EVERY)).await;
    let got = stage.told().await;
    let mut told = events(&got);
    told.dedup();
    let expected = [("session.started", 0), ("transcript.final", 1)];
    assert_eq!(told, expected.map(|(event, sequence)| (event.to_owned(), sequence)));
    let mut distinct = ids(&got);
    distinct.sort();
    distinct.dedup();
    assert_eq!((got.len(), distinct.len()), (3, 2), "what had no answer comes again under its id");
}

#[tokio::test]
async fn what_was_deleted_meanwhile_is_not_sent() {
    let stage = Stage::new(&[]).await;
    let mut hub = stage.hub(Some("transcript.final,session.started")).await;
    hub.kill();
    let open = stage.open("secret").await;
    stage.say("secret", &open, 1, "Nobody is to know.").await;
    stage.storage.start_session(&slug("demo"), "clx1", None, NOW).await.unwrap();
    assert_eq!(stage.count("deliveries").await, 3);
    stage.database.run("DELETE FROM sessions WHERE slug = 'secret'").await;
    let _next = stage.hub(Some("transcript.final,session.started")).await;
    let got = stage.told().await;
    assert_eq!(got.iter().map(|got| body(got)["sessionSlug"].clone()).collect::<Vec<_>>(), ["demo"]);
}

#[tokio::test]
async fn without_a_hook_nothing_is_written_down_and_what_waits_is_dropped() {
    let stage = Stage::new(&[]).await;
    let mut hub = stage.hub(Some(EVERY)).await;
    hub.kill();
    let open = stage.open("demo").await;
    assert_eq!(stage.count("deliveries").await, 1);
    let mut hub = stage.hub(None).await;
    assert!(stage.told().await.is_empty());
    hub.kill();
    stage.say("demo", &open, 1, "Hello.").await;
    stage.storage.start_session(&slug("other"), "clx1", None, NOW).await.unwrap();
    stage.storage.stop_session("clx1", NOW).await.unwrap();
    assert_eq!(stage.count("deliveries").await, 0);
}
