//! One edge with everything that it needs.

use std::{collections::BTreeMap, time::Duration};

use event_bus::{BusSettings, Event, EventBus};
use futures_util::TryStreamExt as _;
use lifecycle::Lifecycle;
use model::{
    Caption, Clock, Final, Partial, Samples, Sequence, SessionSlug, Speaker, Spoken, StreamId, Timestamp,
    Topic, Translation, Untranslated, UtteranceId,
};
use serde_json::json;
use settings::Secret;
use storage::{NewFinal, NewStream, NewTranslation, OpenStream, Recorded, Storage, TranscriptFilter};
use testkit::{Database, eventually, redis_settings, tokens};
use uuid::Uuid;
use ws_edge::{EdgeSettings, Running};

use crate::{client::Client, http::post, worker::Worker};

/// Signs tokens of users.
pub const USER_SECRET: &str = "a secret for the users of the tests";

pub const SERVICE_KEY: &str = "a service key of the tests";

pub struct Stage {
    pub life: Lifecycle,
    pub running: Running,
    pub worker: Worker,
    pub secret: Secret,
    pub session: SessionSlug,
    pub storage: Storage,
    pub bus: EventBus,
    /// Of the names on Redis.
    pub prefix: String,
    pairs: BTreeMap<String, String>,
    pub database: Database,
}

/// The settings of an edge in tests.
pub struct Setup {
    pairs: BTreeMap<String, String>,
    bus: BusSettings,
    database: Database,
}

impl Setup {
    pub async fn new() -> Self {
        Self::with(Database::scratch().await)
    }

    pub fn with(database: Database) -> Self {
        let bus = redis_settings();
        let mut setup = Self { pairs: BTreeMap::new(), bus: bus.clone(), database };
        for (name, value) in [
            ("PORT", "0"),
            ("METRICS_PORT", "0"),
            ("CHAT_PORT", "0"),
            ("TRANSLATE_PORT", "0"),
            ("SESSION_PORT", "0"),
            ("JWT_SECRET", USER_SECRET),
            ("TRANSCRIPTION_JWT_SECRET", "a secret of the tests"),
            ("SERVICE_KEY", SERVICE_KEY),
            ("REDIS_URL", bus.url.expose()),
            ("REDIS_PREFIX", &bus.prefix),
            ("REDIS_WS_PREFIX", bus.others.as_deref().unwrap_or("off")),
            ("DRAIN_SPREAD_MS", "50"),
            ("LOG_FORMAT", "human"),
            ("DATABASE_CONNECTIONS", "4"),
        ] {
            setup = setup.set(name, value);
        }
        let url = setup.database.url();
        setup.set("DATABASE_URL", url.expose())
    }

    /// Where the stores are, for another service beside the edge.
    pub fn stores(&self) -> Vec<(&'static str, String)> {
        let names = ["DATABASE_URL", "REDIS_URL", "REDIS_PREFIX", "REDIS_WS_PREFIX"];
        names.into_iter().filter_map(|name| Some((name, self.pairs.get(name)?.clone()))).collect()
    }

    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.pairs.insert(name.to_owned(), value.to_owned());
        self
    }

    pub async fn start(self) -> Stage {
        testkit::choose_tls();
        let life = Lifecycle::default();
        let worker_life = Lifecycle::default();
        let (worker, address) = Worker::start(&worker_life, self.database.storage()).await;
        let setup = self.set("TRANSCRIPTION_WORKERS", &format!("http://{address}"));
        let settings = EdgeSettings::read(settings::of(setup.pairs.clone())).unwrap();
        // What the edge logs is shown when a test fails, and so should be what the test says: the service's own
        // hook keeps that out of logs.
        let hook = std::panic::take_hook();
        telemetry::init("ws-edge", settings.telemetry());
        std::panic::set_hook(hook);
        let running = ws_edge::start(&settings, &life, Clock::system()).await.unwrap();
        Stage {
            life,
            running,
            worker,
            secret: "a secret of the tests".into(),
            session: format!("room-{}", Uuid::new_v4().simple()).parse().unwrap(),
            storage: setup.database.storage(),
            bus: EventBus::connect(&setup.bus).unwrap(),
            prefix: setup.bus.prefix,
            pairs: setup.pairs,
            database: setup.database,
        }
    }
}

impl Stage {
    pub async fn start() -> Self {
        Setup::new().await.start().await
    }

    /// Another edge beside this one.
    pub async fn another(&self) -> (Lifecycle, Running) {
        self.another_with(&[]).await
    }

    /// Another edge whose settings differ in these.
    pub async fn another_with(&self, changed: &[(&str, &str)]) -> (Lifecycle, Running) {
        let changed = changed.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let pairs: BTreeMap<_, _> = self.pairs.clone().into_iter().chain(changed).collect();
        let life = Lifecycle::default();
        let settings = EdgeSettings::read(settings::of(pairs)).unwrap();
        let running = ws_edge::start(&settings, &life, Clock::system()).await.unwrap();
        (life, running)
    }

    /// Every caption that is stored, as the application would read them: utterance, text and revision.
    pub async fn transcript(&self) -> Vec<(String, String, u32)> {
        let all = TranscriptFilter::default();
        let spoken: Vec<Spoken> = self.storage.transcript(&self.session, &all).try_collect().await.unwrap();
        let row = |Spoken { segment, .. }| (segment.utterance.to_string(), segment.text, segment.revision);
        spoken.into_iter().map(row).collect()
    }

    /// Whatever was noted before is done: the notes of an edge are written in their order.
    pub async fn noted(&self) {
        let (session, id) = (format!("sentinel-{}", Uuid::new_v4().simple()), Uuid::new_v4().to_string());
        let body = json!({"sessionId": id, "sessionSlug": session});
        assert_eq!(post(self, "/api/transcription/start", Some(SERVICE_KEY), body).await.0, 200);
        eventually("the notes are written", async || {
            self.storage.session(&session.parse().unwrap()).await.unwrap().is_some()
        })
        .await;
    }

    /// Connects a participant to another edge.
    pub async fn connect_to(&self, edge: &Running, identity: &str) -> Client {
        let url = format!("ws://{}/api/realtime/transcribe?token={}", edge.address, self.token(identity));
        let mut client = Client::connect(&url, &[]).await;
        assert_eq!(client.said().await["type"], "connected");
        client
    }

    pub fn http(&self, path: &str) -> String {
        format!("http://{}{path}", self.running.address)
    }

    pub fn token(&self, identity: &str) -> String {
        tokens::good(&self.secret, &self.session, identity)
    }

    /// The WebSocket URL with this query.
    pub fn url(&self, query: &str) -> String {
        format!("ws://{}/api/realtime/transcribe?{query}", self.running.address)
    }

    /// The WebSocket URL of a participant.
    pub fn url_of(&self, identity: &str, more: &str) -> String {
        self.url(&format!("token={}{more}", self.token(identity)))
    }

    /// The token of a user.
    pub fn user_token(&self, user: &str) -> String {
        tokens::of_user(&USER_SECRET.into(), user, 3600)
    }

    /// Opens a tab of a user and reads the greeting.
    pub async fn tab(&self, user: &str) -> Client {
        let url = format!("ws://{}/ws?token={}", self.running.address, self.user_token(user));
        let mut tab = Client::connect(&url, &[]).await;
        assert_eq!(tab.said().await["type"], "connected");
        tab
    }

    /// Connects a participant and reads the greeting.
    pub async fn connect(&self, identity: &str, more: &str) -> Client {
        let mut client = Client::connect(&self.url_of(identity, more), &[]).await;
        assert_eq!(client.said().await["type"], "connected");
        client
    }

    /// Opens a stream as a worker would.
    pub async fn voice(&self) -> Voice {
        let id = StreamId(Uuid::new_v4());
        let speaker = Speaker { identity: "alice".parse().unwrap(), name: Some("Alice".into()) };
        let now = Clock::system().now();
        let stream = NewStream {
            id,
            session: self.session.clone(),
            speaker: speaker.clone(),
            started_at: now,
            user: None,
            limits: storage::StreamLimits::default(),
            now,
        };
        let opened = self.storage.open_stream(&stream).await.unwrap();
        Voice { id, speaker, opened, said: 0 }
    }

    /// Who was said to speak, in order: identities and names.
    pub async fn turns(&self) -> Vec<Option<(String, Option<String>)>> {
        let now = Clock::system().now();
        let turns = self.storage.active_speakers(&self.session, Timestamp(0), now).await.unwrap();
        let speaker = |speaker: Speaker| (speaker.identity.to_string(), speaker.name);
        turns.into_iter().map(|turn| turn.speaker.map(speaker)).collect()
    }

    pub async fn publish(&self, caption: Caption) {
        self.bus.publish(&Topic::Session(self.session.clone()), &Event::Caption(caption)).await.unwrap();
    }

    /// Ends it, and its clients as they are.
    pub async fn end(self) {
        assert_eq!(self.life.end(Duration::from_millis(100)).await, Ok(()));
    }
}

/// A stream with a voice, as a worker stores and announces it.
pub struct Voice {
    pub id: StreamId,
    speaker: Speaker,
    opened: OpenStream,
    said: u32,
}

impl Voice {
    fn utterance(&self, number: u32) -> UtteranceId {
        UtteranceId::Heard { stream: self.id, number }
    }

    /// Text of the utterance after the last stored one.
    pub fn partial(&self, stage: &Stage, text: &str) -> Caption {
        Caption::Partial(Partial {
            session: stage.session.clone(),
            utterance: self.utterance(self.said + 1),
            speaker: self.speaker.clone(),
            text: text.to_owned(),
            stable: 1,
            language: None,
            start: Samples(u64::from(self.said) * 16_000),
            end: Samples(u64::from(self.said) * 16_000 + 8_000),
            at: Clock::system().now(),
            outside: None,
        })
    }

    /// Stores a final without announcing it.
    pub async fn store(&mut self, stage: &Stage, text: &str) -> Final {
        self.said += 1;
        let end = u64::from(self.said) * 16_000;
        let segment = NewFinal {
            session_id: self.opened.session_id,
            session: stage.session.clone(),
            epoch: self.opened.epoch,
            stream: self.id,
            number: self.said,
            speaker: self.speaker.clone(),
            text: text.to_owned(),
            language: Some("en".into()),
            start: Samples(end - 16_000),
            end: Samples(end),
            words: Vec::new(),
            translate_to: vec!["ar".to_owned(), "de".to_owned()],
            at: Timestamp(Clock::system().now().0),
        };
        match stage.storage.record_final(&segment).await.unwrap() {
            Recorded::Stored(segment) => *segment,
            Recorded::AlreadyStored => panic!("stored twice"),
        }
    }

    /// Stores what became of the translation of the last final into a language that it is wanted in; its place.
    pub async fn translate(
        &self,
        stage: &Stage,
        target: &str,
        outcome: Result<&str, Untranslated>,
    ) -> Translation {
        let (at, outcome) = (Clock::system().now(), outcome.map(str::to_owned));
        let told = NewTranslation {
            session: stage.session.clone(),
            utterance: self.utterance(self.said),
            revision: 0,
            target: target.to_owned(),
            outcome: outcome.clone(),
            at,
        };
        let sequence = stage.storage.tell_translation(&told).await.unwrap().unwrap();
        Translation {
            session: stage.session.clone(),
            sequence,
            utterance: self.utterance(self.said),
            revision: 0,
            speaker: self.speaker.clone(),
            language: target.to_owned(),
            outcome,
            at,
        }
    }

    /// Stores and announces a final.
    pub async fn say(&mut self, stage: &Stage, text: &str) -> Sequence {
        let segment = self.store(stage, text).await;
        let sequence = segment.sequence;
        stage.publish(Caption::Final(segment)).await;
        sequence
    }
}
