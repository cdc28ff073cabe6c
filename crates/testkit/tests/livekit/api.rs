use livekit::{EgressStatus, LiveKit, LiveKitError, LiveKitSettings, Target};
use livekit_api::access_token::{AccessToken, VideoGrants};
use testkit::{
    LiveKitServer, eventually,
    livekit::{ParticipantKind, TwirpCode},
};

use crate::{client, settings_of, track_sink::TrackSink};

#[tokio::test]
async fn those_who_can_be_heard_are_listed() {
    let server = LiveKitServer::start().await;
    let livekit = client(&server);
    assert!(livekit.audio_tracks("nowhere").await.unwrap().is_empty());
    let room = server.room("demo");
    let alice = room.join("alice", "Alice");
    alice.publish_video();
    let microphone = alice.publish();
    room.join("listener", "");
    room.join_as(ParticipantKind::Agent, "robot", "").publish();
    let heard = livekit.audio_tracks("demo").await.unwrap();
    let [track] = heard.as_slice() else { panic!("{heard:?}") };
    assert_eq!((track.id.as_str(), track.identity.as_str()), (microphone.id(), "alice"));
    assert_eq!((track.name.as_deref(), track.muted), (Some("Alice"), false));
    microphone.mute(true);
    assert!(livekit.audio_tracks("demo").await.unwrap()[0].muted);
    alice.leave();
    assert!(livekit.audio_tracks("demo").await.unwrap().is_empty());
}

#[tokio::test]
async fn wrong_keys_are_told_from_other_faults() {
    let server = LiveKitServer::start().await;
    let good = settings_of(&server);
    for wrong in [
        LiveKitSettings { secret: "another".into(), ..good.clone() },
        LiveKitSettings { key: "another".to_owned(), ..good.clone() },
    ] {
        let livekit = LiveKit::new(&wrong).unwrap();
        assert_eq!(livekit.egresses(None).await, Err(LiveKitError::Unauthorized));
        assert_eq!(livekit.audio_tracks("demo").await, Err(LiveKitError::Unauthorized));
    }
    let nobody = LiveKitSettings { url: "http://127.0.0.1:1".parse().unwrap(), ..good };
    let error = LiveKit::new(&nobody).unwrap().egresses(None).await.unwrap_err();
    assert!(matches!(error, LiveKitError::Unavailable(_)), "{error:?}");
    assert!(!error.to_string().contains("127.0.0.1"), "{error}");
}

#[tokio::test]
async fn faults_come_as_ordered_and_as_often() {
    let server = LiveKitServer::start().await;
    let livekit = client(&server);
    server.fail_next("ListEgress", TwirpCode::Unavailable, 2);
    server.fail_next("ListParticipants", TwirpCode::Unimplemented, 1);
    for _ in 0..2 {
        assert!(matches!(livekit.egresses(None).await, Err(LiveKitError::Unavailable(_))));
    }
    assert_eq!(livekit.egresses(None).await, Ok(Vec::new()));
    assert!(matches!(livekit.audio_tracks("demo").await, Err(LiveKitError::Unsupported(_))));
    assert_eq!(livekit.audio_tracks("demo").await, Ok(Vec::new()));
}

#[tokio::test]
async fn egresses_are_counted_listed_and_stopped() {
    let server = LiveKitServer::start().await;
    let livekit = client(&server);
    let sink = TrackSink::start().await;
    let url = sink.url("?sig=hush");
    let missing = livekit.start_track_egress("demo", "TR_1", &url).await.unwrap_err();
    assert!(matches!(missing, LiveKitError::NotFound(_)), "{missing:?}");

    let track = server.room("demo").join("alice", "Alice").publish();
    server.track_egress_limit(1);
    let started = livekit.start_track_egress("demo", track.id(), &url).await.unwrap();
    assert_eq!((started.room.as_str(), started.status), ("demo", EgressStatus::Starting));
    let target = Target::Track { track_id: track.id().to_owned(), url: url.as_str().into() };
    assert_eq!(started.target, target);
    assert!(!format!("{started:?}").contains("hush"));
    let limited = livekit.start_track_egress("demo", track.id(), &url).await.unwrap_err();
    assert!(matches!(limited, LiveKitError::Limit(_)), "{limited:?}");

    let active = eventually("the egress is active", async || {
        let listed = livekit.egresses(Some("demo")).await.unwrap();
        listed.into_iter().find(|egress| egress.status == EgressStatus::Active)
    })
    .await;
    assert_eq!((active.id.as_str(), &active.target), (started.id.as_str(), &target));
    assert_eq!(livekit.egresses(Some("other")).await, Ok(Vec::new()));

    livekit.stop_egress(&started.id).await.unwrap();
    eventually("the egress has ended", async || livekit.egresses(None).await.unwrap().is_empty()).await;
    livekit.stop_egress(&started.id).await.unwrap();
    livekit.stop_egress("EG_unknown").await.unwrap();
    assert!(server.egresses()[0].status == testkit::livekit::EgressStatus::EgressComplete);
    livekit.start_track_egress("demo", track.id(), &url).await.unwrap();
}

#[tokio::test]
async fn older_programs_speak_json_to_it() {
    let server = LiveKitServer::start().await;
    server.room("demo").join("alice", "Alice").publish();
    let rights = VideoGrants { room_admin: true, room: "demo".to_owned(), ..VideoGrants::default() };
    let token = AccessToken::with_api_key(&server.key(), server.secret().expose()).with_grants(rights);
    let token = token.to_jwt().unwrap();
    let ask = async |method: &str, body: &'static str| {
        let url = format!("{}/twirp/livekit.{method}", server.url().replace("ws://", "http://"));
        let request = reqwest::Client::new().post(url).bearer_auth(&token);
        let answer = request.header("content-type", "application/json").body(body).send().await.unwrap();
        (answer.status().as_u16(), answer.json::<serde_json::Value>().await.unwrap())
    };
    let (status, found) = ask("RoomService/GetParticipant", r#"{"room":"demo","identity":"alice"}"#).await;
    assert_eq!((status, &found["name"]), (200, &"Alice".into()));
    let (status, error) = ask("Egress/StopEgress", r#"{"egress_id":"EG_1"}"#).await;
    assert_eq!((status, &error["code"]), (401, &"unauthenticated".into()));
    let (status, error) = ask("RoomService/ListParticipants", r#"{"room":"other"}"#).await;
    assert_eq!((status, &error["code"]), (401, &"unauthenticated".into()));
    let (status, error) = ask("Egress/Dance", "{}").await;
    assert_eq!((status, &error["code"]), (404, &"bad_route".into()));
}
