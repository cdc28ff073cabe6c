//! LiveKit's rooms, looked after.

use std::{collections::BTreeMap, time::Duration};

use auth::SessionTokens;
use lifecycle::Lifecycle;
use model::{Clock, SessionSlug, Timestamp};
use serde_json::{Value, json};
use storage::SessionStatus;
use testkit::{
    LiveKitServer, eventually, free_port,
    livekit::{Delivery, EgressStatus, EgressView, TwirpCode},
};

use crate::{
    client::Client,
    http::post,
    outside::live,
    stage::{SERVICE_KEY, Setup, Stage},
};

/// A LiveKit and an edge that know each other.
struct House {
    livekit: LiveKitServer,
    stage: Stage,
}

impl House {
    async fn open(changed: &[(&str, &str)]) -> Self {
        let livekit = LiveKitServer::start().await;
        let port = free_port().to_string();
        let mut setup = Setup::new().await;
        for (name, value) in [
            ("PORT", port.as_str()),
            ("EGRESS_WEBSOCKET_BASE_URL", &format!("ws://127.0.0.1:{port}/egress/audio")),
            ("LIVEKIT_WS_URL", &livekit.url()),
            ("LIVEKIT_API_KEY", &livekit.key()),
            ("LIVEKIT_API_SECRET", livekit.secret().expose()),
            ("RTMP_HOST", "127.0.0.1"),
            // Nobody listens there.
            ("RTMP_EXTERNAL_PORT", "1"),
            ("REJOIN_SECONDS", "1"),
        ]
        .iter()
        .chain(changed)
        {
            setup = setup.set(name, value);
        }
        let stage = setup.start().await;
        livekit.webhooks_to(stage.http("/hooks/livekit"));
        Self { livekit, stage }
    }

    /// The room of the session.
    fn room(&self) -> testkit::livekit::Room {
        self.livekit.room(self.stage.session.as_str())
    }

    async fn start(&self) {
        self.start_as("s1", &self.stage.session).await;
    }

    async fn start_as(&self, id: &str, session: &SessionSlug) {
        let body = json!({"sessionId": id, "sessionSlug": session});
        assert_eq!(post(&self.stage, "/api/transcription/start", Some(SERVICE_KEY), body).await.0, 200);
    }

    async fn stop(&self) {
        let body = json!({"sessionId": "s1"});
        assert_eq!(post(&self.stage, "/api/transcription/stop", Some(SERVICE_KEY), body).await.0, 200);
    }

    /// Egresses that have not ended.
    fn running(&self) -> Vec<EgressView> {
        self.livekit.egresses().into_iter().filter(is_running).collect()
    }

    /// Waits until these tracks are sent, each once, and nothing else is.
    async fn sends(&self, tracks: &[&str]) -> Vec<EgressView> {
        let mut expected: Vec<_> = tracks.iter().map(|track| Some((*track).to_owned())).collect();
        expected.sort_unstable();
        eventually("these tracks are sent", async || {
            let running = self.running();
            let mut sent: Vec<_> = running.iter().map(|egress| egress.track_id.clone()).collect();
            sent.sort_unstable();
            let active = running.iter().all(|egress| egress.status == EgressStatus::EgressActive);
            (sent == expected && active).then_some(running)
        })
        .await
    }

    async fn status(&self) -> SessionStatus {
        self.stage.storage.session(&self.stage.session).await.unwrap().unwrap().status
    }

    /// Waits until the room is looked after no longer.
    async fn lets_go(&self) {
        eventually("the room is let go of", async || {
            !self.stage.storage.rooms().await.unwrap().contains(&self.stage.session)
        })
        .await;
    }

    /// A webhook of our own making, and what it is answered.
    async fn news(&self, body: &Value) -> u16 {
        let body = body.to_string();
        let token = self.livekit.sign_webhook(&body);
        post(&self.stage, "/hooks/livekit", Some(&token), body).await.0
    }
}

fn is_running(egress: &EgressView) -> bool {
    use EgressStatus::{EgressActive, EgressEnding, EgressStarting};
    matches!(egress.status, EgressStarting | EgressActive | EgressEnding)
}

/// What an address of an egress carries in its path, and its token.
fn parts(url: &str) -> (String, String) {
    let (path, token) = url.split_once("?token=").unwrap();
    (path.to_owned(), token.to_owned())
}

#[tokio::test]
async fn each_track_is_sent_to_us_as_long_as_it_is_there() {
    let house = House::open(&[]).await;
    let stage = &house.stage;
    let room = house.room();
    let alice = room.join("alice", "Alice");
    let (first, _camera) = (alice.publish(), alice.publish_video());
    house.start().await;
    let egresses = house.sends(&[first.id()]).await;
    let (path, token) = parts(&egresses[0].url);
    assert_eq!(path, format!("ws://{}/egress/audio/s1/{}", stage.running.address, first.id()));
    let tokens = SessionTokens::new(vec![stage.secret.clone()], Clock::system());
    let principal = tokens.verify(&token).unwrap();
    assert!(principal.may_send("s1", first.id()) && !principal.may_follow(&stage.session));
    assert_eq!((principal.identity().as_str(), principal.name()), ("alice", Some("Alice")));
    eventually("it is heard", async || stage.worker.heard(|heard| heard.sources.len() == 1)).await;
    stage.worker.heard(|heard| {
        let source = &heard.sources[0];
        assert_eq!(source.session, stage.session);
        assert_eq!(source.speaker.identity.as_str(), "alice");
        assert_eq!((source.speaker.name.as_deref(), source.is_room), (Some("Alice"), false));
    });

    let bob = room.join("bob", "");
    let second = bob.publish();
    // As the web app does for everybody who joins.
    for _ in 0..3 {
        house.start().await;
    }
    house.sends(&[first.id(), second.id()]).await;
    eventually("both are heard", async || stage.worker.heard(|heard| heard.sources.len() == 2)).await;
    stage.worker.heard(|heard| assert_eq!(heard.sources[1].speaker.name, None));
    stage.noted().await;
    assert_eq!(house.livekit.egresses().len(), 2, "none is sent twice");

    second.unpublish();
    house.sends(&[first.id()]).await;
    let third = bob.publish();
    house.sends(&[first.id(), third.id()]).await;
    alice.leave();
    house.sends(&[third.id()]).await;
    assert_eq!(house.livekit.egresses().len(), 3);

    house.stop().await;
    house.sends(&[]).await;
    house.lets_go().await;
    assert_eq!(house.status().await, SessionStatus::Ended, "and stays so");
    assert_eq!(house.livekit.egresses().len(), 3);
    house.stage.end().await;
}

#[tokio::test]
async fn a_room_of_which_no_news_come_is_looked_at_all_the_same() {
    let house = House::open(&[]).await;
    house.start().await;
    house.stage.noted().await;
    let lost = std::iter::repeat_n(Delivery::Lost, 4);
    house.livekit.deliver_next(lost);
    let track = house.room().join("alice", "Alice").publish();
    house.sends(&[track.id()]).await;
    house.stage.end().await;
}

#[tokio::test]
async fn an_egress_that_is_killed_is_begun_again() {
    let house = House::open(&[]).await;
    let track = house.room().join("alice", "Alice").publish();
    house.start().await;
    house.sends(&[track.id()]).await;
    for killed in 1..=2 {
        house.livekit.kill_egress(track.id());
        eventually("another one begins", async || house.livekit.egresses().len() > killed).await;
        house.sends(&[track.id()]).await;
    }
    assert_eq!(house.livekit.egresses().len(), 3);
    let rows = house.stage.database.rows("SELECT attempts FROM egress_attempts").await;
    assert_eq!(rows.iter().map(|row| row.get::<_, i32>(0)).collect::<Vec<_>>(), [3]);
    house.stage.end().await;
}

/// The next trouble that a follower is told of.
async fn trouble(follower: &mut Client) -> Value {
    follower.expect("transcription_error").await
}

#[tokio::test]
async fn followers_are_told_why_nothing_comes() {
    let house = House::open(&[("EGRESS_MODE", "tracks")]).await;
    let mut follower = live(&house.stage, "bob", "").await;
    house.livekit.fail_next("StartTrackEgress", TwirpCode::Unauthenticated, 2);
    house.livekit.fail_next("StartTrackEgress", TwirpCode::ResourceExhausted, 1);
    let track = house.room().join("alice", "Alice").publish();
    house.start().await;
    let told = trouble(&mut follower).await;
    assert_eq!(
        (&told["reason"], &told["sessionSlug"]),
        (&json!("livekit_unauthorized"), &json!(house.stage.session))
    );
    assert!(told["ts"].is_i64() && told["message"].as_str().unwrap().contains("LIVEKIT_API_KEY"), "{told}");
    let told = trouble(&mut follower).await;
    assert_eq!(told["reason"], "egress_limit", "each once: {told}");
    house.sends(&[track.id()]).await;
    house.stage.end().await;
}

#[tokio::test]
async fn keys_that_livekit_does_not_know_are_told_to_followers() {
    let house = House::open(&[("LIVEKIT_API_SECRET", "not what LiveKit has")]).await;
    let mut follower = live(&house.stage, "bob", "").await;
    house.room().join("alice", "Alice").publish();
    house.start().await;
    assert_eq!(trouble(&mut follower).await["reason"], "livekit_unauthorized");
    assert!(house.livekit.egresses().is_empty());
    house.stage.end().await;
}

#[tokio::test]
async fn the_whole_room_is_sent_where_tracks_are_not_allowed() {
    let house = House::open(&[("EGRESS_MODE", "auto")]).await;
    house.livekit.track_egress_limit(1);
    let room = house.room();
    for who in ["alice", "bob"] {
        room.join(who, who).publish();
    }
    house.start().await;
    let egress = eventually("the room is sent, and no track", async || {
        let mut running = house.running();
        let egress = running.pop()?;
        (running.is_empty() && egress.track_id.is_none()).then_some(egress)
    })
    .await;
    let key = egress.url.strip_prefix("rtmp://127.0.0.1:1/live/").unwrap();
    let tokens = SessionTokens::new(vec![house.stage.secret.clone()], Clock::system());
    let principal = tokens.verify(key).unwrap();
    assert!(principal.may_speak(&house.stage.session));
    assert_eq!((principal.identity().as_str(), principal.name()), ("room", None));
    room.join("carol", "Carol").publish();
    house.start().await;
    house.stage.noted().await;
    house.stop().await;
    eventually("it ends", async || house.running().is_empty()).await;
    let composites = house.livekit.egresses().into_iter().filter(|egress| egress.track_id.is_none());
    assert_eq!(composites.count(), 1);
    house.lets_go().await;
    house.stage.end().await;
}

#[tokio::test]
async fn a_room_may_be_sent_whole_from_the_start() {
    let house = House::open(&[("EGRESS_MODE", "composite")]).await;
    house.start().await;
    house.stage.noted().await;
    assert!(house.livekit.egresses().is_empty(), "nobody is there");
    house.room().join("alice", "Alice").publish();
    eventually("it is sent", async || house.running().len() == 1).await;
    assert_eq!(house.livekit.egresses()[0].track_id, None);
    house.stage.end().await;
}

#[tokio::test]
async fn news_are_heard_once_and_only_when_they_are_livekits() {
    let house = House::open(&[]).await;
    house.start().await;
    house.livekit.deliver_next([Delivery::BadSignature, Delivery::Twice, Delivery::Twice]);
    let track = house.room().join("alice", "Alice").publish();
    house.sends(&[track.id()]).await;
    let heard = async || house.stage.database.rows("SELECT id FROM livekit_events").await.len();
    // Somebody came, a track, and of the egress that it was started and is active.
    eventually("four are heard", async || heard().await == 4).await;
    let news = json!({"id": "EV_mine", "event": "track_published", "room": {"name": house.stage.session}});
    for _ in 0..2 {
        assert_eq!(house.news(&news).await, 200);
        assert_eq!(heard().await, 5);
    }
    for odd in [
        json!({"id": "EV_1", "event": "room_started"}),
        json!({"id": "EV_2", "event": "room_started", "room": {"name": "\0"}}),
        json!({"id": "EV_3", "event": "of a newer server", "room": {"name": "x"}}),
        json!({"id": "EV_4", "event": "room_finished", "room": {"name": "nobody knows it"}}),
    ] {
        assert_eq!(house.news(&odd).await, 200, "{odd}");
    }
    assert_eq!(house.livekit.egresses().len(), 1);
    house.stage.end().await;
}

#[tokio::test]
async fn a_room_that_is_over_ends_its_session_unless_that_began_later() {
    let house = House::open(&[]).await;
    let room = house.room();
    let track = room.join("alice", "Alice").publish();
    house.start().await;
    house.sends(&[track.id()]).await;
    // A stream that opens later would open the session again.
    let worker = &house.stage.worker;
    eventually("it is heard", async || worker.heard(|heard| heard.resumed_at.len() == 1)).await;
    room.finish();
    eventually("the session has ended", async || house.status().await == SessionStatus::Ended).await;
    house.sends(&[]).await;
    house.lets_go().await;

    // The room begins anew, and older news are late. The first start is long ago.
    house.stage.database.run("UPDATE sessions SET started_at = started_at - interval '1 hour'").await;
    let track = house.room().join("alice", "Alice").publish();
    house.start().await;
    house.sends(&[track.id()]).await;
    let finished = |id: &str, at: Timestamp| {
        let seconds = (at.0 / 1000).to_string();
        json!({"id": id, "event": "room_finished", "createdAt": seconds, "room": {"name": house.stage.session}})
    };
    let now = Clock::system().now();
    assert_eq!(house.news(&finished("EV_old", now.before(Duration::from_secs(60)))).await, 200);
    house.stage.noted().await;
    assert_eq!(house.status().await, SessionStatus::Live);
    house.sends(&[track.id()]).await;
    assert_eq!(house.news(&finished("EV_new", now)).await, 200);
    eventually("the session has ended", async || house.status().await == SessionStatus::Ended).await;
    house.sends(&[]).await;
    house.stage.end().await;
}

#[tokio::test]
async fn an_edge_that_starts_stops_what_nobody_wants_and_leaves_the_rest() {
    let house = House::open(&[]).await;
    let other: SessionSlug = format!("{}-other", house.stage.session).parse().unwrap();
    let wanted = house.room().join("alice", "Alice").publish();
    let orphan = house.livekit.room(other.as_str()).join("bob", "Bob").publish();
    house.start().await;
    house.start_as("s2", &other).await;
    let before = house.sends(&[wanted.id(), orphan.id()]).await;
    let sql =
        format!("DELETE FROM rooms WHERE session_id = (SELECT id FROM sessions WHERE slug = '{other}')");
    house.stage.database.run(&sql).await;
    let (life, _second) = house.stage.another_with(&[("PORT", "0")]).await;
    let left = house.sends(&[wanted.id()]).await;
    assert!(before.iter().any(|egress| egress.id == left[0].id), "the same goes on");
    house.start().await;
    house.stage.noted().await;
    assert_eq!(house.livekit.egresses().len(), 2, "and is not doubled");

    // The edge that hears it goes; LiveKit tells the other, which has it sent again.
    let _gone = life.end(Duration::from_secs(5)).await;
    assert_eq!(house.stage.life.end(Duration::from_secs(5)).await, Ok(()));
    eventually("nobody hears it", async || house.running().is_empty()).await;
    let (life, _third) = house.stage.another().await;
    house.sends(&[wanted.id()]).await;
    assert_eq!(house.livekit.egresses().len(), 3);
    assert_eq!(life.end(Duration::from_secs(5)).await, Ok(()));
}

#[tokio::test]
async fn two_edges_start_no_track_twice() {
    let house = House::open(&[]).await;
    let (life, second): (Lifecycle, _) = house.stage.another_with(&[("PORT", "0")]).await;
    house.livekit.webhooks_to(format!("http://{}/hooks/livekit", second.address));
    house.start().await;
    let room = house.room();
    let mut tracks = Vec::new();
    for number in 0..6 {
        tracks.push(room.join(&format!("guest-{number}"), "Guest").publish());
        house.start().await;
    }
    let ids: Vec<_> = tracks.iter().map(testkit::livekit::Track::id).collect();
    house.sends(&ids).await;
    let mut counts = BTreeMap::new();
    for egress in house.livekit.egresses() {
        *counts.entry(egress.track_id.unwrap()).or_insert(0) += 1;
    }
    assert!(counts.len() == 6 && counts.values().all(|count| *count == 1), "{counts:?}");
    house.stop().await;
    house.sends(&[]).await;
    house.lets_go().await;
    assert_eq!(life.end(Duration::from_secs(5)).await, Ok(()));
    house.stage.end().await;
}
