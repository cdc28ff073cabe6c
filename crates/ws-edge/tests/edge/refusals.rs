//! Who may not do what: each door with every proof that does not do, and with those that do.

use auth::SessionClaims;
use model::SessionSlug;
use rpc::session::{SessionsClient, StartRequest};
use serde_json::{Value, json};
use settings::Secret;
use storage::SessionStatus;
use testkit::{LiveKitServer, eventually, free_port, tokens};
use tonic::{Code, Request};

use crate::{
    client::Client,
    http::post,
    stage::{SERVICE_KEY, Setup, Stage},
};

const START: &str = "/api/transcription/start";

const STOP: &str = "/api/transcription/stop";

const BROADCAST: &str = "/api/realtime/transcribe/broadcast";

const SPEAKER: &str = "/api/active-speaker";

/// A token with this scope and the id of the session.
fn scoped(secret: &Secret, session: &SessionSlug, scope: Option<&str>, session_id: &str) -> String {
    let claims = SessionClaims {
        scope: scope.map(Into::into),
        session_id: Some(session_id.into()),
        track: Some("TR_1".into()),
        ..tokens::claims(session, "alice")
    };
    tokens::sign(secret, &claims)
}

/// Proofs that do not do for a session that the application calls `s1`, and how each is answered.
fn bad(stage: &Stage) -> Vec<(&'static str, Option<String>, u16)> {
    let (secret, session) = (&stage.secret, &stage.session);
    let of = |scope, id| scoped(secret, session, scope, id);
    let other = "other".parse().unwrap();
    vec![
        ("nothing", None, 401),
        ("empty", Some(String::new()), 401),
        ("no token", Some("x".into()), 401),
        ("a wrong secret", Some(scoped(&"another secret".into(), session, None, "s1")), 401),
        ("an expired one", Some(tokens::expired(secret, session, "alice")), 401),
        ("one to follow", Some(of(Some("follow"), "s1")), 403),
        ("one of an egress", Some(of(Some("egress"), "s1")), 403),
        ("an unknown scope", Some(of(Some("root"), "s1")), 401),
        ("another session's", Some(scoped(secret, &other, None, "s1 of others")), 403),
    ]
}

fn body(stage: &Stage, path: &str) -> Value {
    match path {
        START => json!({"sessionId": "s1", "sessionSlug": stage.session}),
        STOP => json!({"sessionId": "s1"}),
        BROADCAST => {
            json!({"sessionSlug": stage.session, "utteranceId": "u", "text": "hello", "isFinal": true})
        }
        _ => json!({"sessionSlug": stage.session, "identity": "alice"}),
    }
}

#[tokio::test]
async fn http_refuses_what_does_not_prove_enough_and_does_nothing() {
    let stage = Stage::start().await;
    for (what, proof, expected) in bad(&stage) {
        for path in [START, BROADCAST] {
            let (status, answer) = post(&stage, path, proof.as_deref(), body(&stage, path)).await;
            assert_eq!(status, expected, "{path} with {what}: {answer}");
            assert!(answer["error"].is_string(), "{answer}");
            if path == START {
                assert_eq!(answer["ok"], false);
            }
            // The same in the body, where older clients have it.
            let mut with_token = body(&stage, path);
            with_token["token"] = proof.clone().into();
            assert_eq!(post(&stage, path, None, with_token).await.0, expected, "{path} with {what}");
        }
        let mut speaks = body(&stage, SPEAKER);
        speaks["token"] = proof.clone().into();
        let missing = proof.as_deref().is_none_or(str::is_empty);
        let expected = if missing { 400 } else { expected };
        assert_eq!(
            post(&stage, SPEAKER, Some(SERVICE_KEY), speaks).await.0,
            expected,
            "{SPEAKER} with {what}"
        );
    }
    stage.noted().await;
    assert_eq!(stage.storage.session(&stage.session).await.unwrap(), None, "nothing was done");
    assert_eq!(stage.transcript().await, []);

    // What does: a service key, and a token of the session, in the header or in the body.
    let token = stage.token("alice");
    for (path, answer) in [(START, json!({"ok": true, "mode": "live"}))] {
        for proof in [SERVICE_KEY, &token] {
            assert_eq!(post(&stage, path, Some(proof), body(&stage, path)).await, (200, answer.clone()));
            let mut with_token = body(&stage, path);
            with_token["token"] = proof.into();
            assert_eq!(post(&stage, path, None, with_token).await, (200, answer.clone()));
        }
    }
    let mut speaks = body(&stage, SPEAKER);
    speaks["token"] = token.as_str().into();
    assert_eq!(post(&stage, SPEAKER, None, speaks).await, (200, json!({"success": true})));
    for (proof, text) in [(SERVICE_KEY, "one"), (token.as_str(), "two")] {
        let mut caption = body(&stage, BROADCAST);
        caption["text"] = text.into();
        assert_eq!(post(&stage, BROADCAST, Some(proof), caption).await.0, 200);
    }
    assert_eq!(stage.transcript().await, [("u".into(), "two".into(), 1)]);

    // Stop is of the session that the application calls so.
    for (what, proof, expected) in bad(&stage) {
        let (status, answer) = post(&stage, STOP, proof.as_deref(), body(&stage, STOP)).await;
        assert_eq!(status, expected, "{STOP} with {what}: {answer}");
    }
    for other in [scoped(&stage.secret, &stage.session, None, "s2"), token] {
        assert_eq!(post(&stage, STOP, Some(&other), body(&stage, STOP)).await.0, 403);
    }
    stage.noted().await;
    let status = async || stage.storage.session(&stage.session).await.unwrap().unwrap().status;
    assert_eq!(status().await, SessionStatus::Live);
    let own = scoped(&stage.secret, &stage.session, None, "s1");
    assert_eq!(
        post(&stage, STOP, Some(&own), body(&stage, STOP)).await,
        (200, json!({"success": true, "sessionId": "s1"}))
    );
    stage.noted().await;
    assert_eq!(status().await, SessionStatus::Ended);
    stage.end().await;
}

#[tokio::test]
async fn ids_have_a_limit() {
    let stage = Stage::start().await;
    for id in ["x".repeat(257), "a\0b".into(), "a\nb".into()] {
        let body = json!({"sessionId": id, "sessionSlug": stage.session});
        let (status, answer) = post(&stage, START, Some(SERVICE_KEY), body).await;
        assert_eq!((status, &answer["ok"]), (400, &json!(false)), "{answer}");
    }
    let body = json!({"sessionId": "x".repeat(256), "sessionSlug": "s".repeat(129)});
    assert_eq!(post(&stage, START, Some(SERVICE_KEY), body).await.0, 400);
    let body = json!({"sessionId": "x".repeat(256), "sessionSlug": stage.session});
    assert_eq!(post(&stage, START, Some(SERVICE_KEY), body).await.0, 200);
    stage.noted().await;
    assert!(stage.storage.session(&stage.session).await.unwrap().is_some());
    stage.end().await;
}

/// What an egress is told at its end.
async fn refused(stage: &Stage, query: &str) -> (u16, String) {
    let url = format!("ws://{}/egress/audio/s1/TR_1{query}", stage.running.address);
    let mut egress = Client::connect(&url, &[("content-type", "audio/x-raw")]).await;
    egress.send(vec![0_u8; 1920]).await;
    let (error, code, reason) = egress.ended().await;
    assert!(error.is_some(), "it is told why");
    (code, reason)
}

#[tokio::test]
async fn an_egress_needs_the_token_of_its_track() {
    let stage = Stage::start().await;
    let good = |session: &SessionSlug, secret: &Secret| scoped(secret, session, Some("egress"), "s1");
    let egress = good(&stage.session, &stage.secret);
    let claims = |change: fn(&mut SessionClaims)| {
        let mut claims = SessionClaims {
            scope: Some("egress".into()),
            session_id: Some("s1".into()),
            track: Some("TR_1".into()),
            ..tokens::claims(&stage.session, "alice")
        };
        change(&mut claims);
        tokens::sign(&stage.secret, &claims)
    };
    let invalid = "Invalid or expired transcription token";
    for (what, query, reason) in [
        ("nothing", String::new(), "Missing transcription token"),
        ("empty", "?token=".into(), "Missing transcription token"),
        ("no token", "?token=x".into(), invalid),
        ("a service key", format!("?token={}", SERVICE_KEY.replace(' ', "+")), invalid),
        ("a wrong secret", format!("?token={}", good(&stage.session, &"another".into())), invalid),
        ("an expired one", format!("?token={}", claims(|claims| claims.exp -= 7200)), invalid),
        ("a participant's", format!("?token={}", claims(|claims| claims.scope = None)), "Not allowed"),
        ("one to follow", format!("?token={}", claims(|c| c.scope = Some("follow".into()))), "Not allowed"),
        ("another track's", format!("?token={}", claims(|c| c.track = Some("TR_2".into()))), "Not allowed"),
        ("no track's", format!("?token={}", claims(|claims| claims.track = None)), "Not allowed"),
        ("another id's", format!("?token={}", claims(|c| c.session_id = Some("s2".into()))), "Not allowed"),
        ("no id's", format!("?token={}", claims(|claims| claims.session_id = None)), "Not allowed"),
        ("no PCM", format!("?token={egress}&channels=9"), "Not allowed"),
    ] {
        assert_eq!(refused(&stage, &query).await, (1008, reason.into()), "{what}");
    }
    stage.worker.heard(|heard| assert!(heard.sources.is_empty() && heard.samples.is_empty()));
    let url = format!("ws://{}/egress/audio/s1/TR_1?token={egress}", stage.running.address);
    let mut client = Client::connect(&url, &[]).await;
    client.send(vec![0_u8; 1920]).await;
    eventually("it is heard", async || stage.worker.heard(|heard| heard.sources.len() == 1)).await;
    // Elsewhere it does nothing.
    let (error, code, _) = {
        let mut follower = Client::connect(&stage.url(&format!("token={egress}")), &[]).await;
        follower.ended().await
    };
    assert!(error.is_some() && code == 1008, "{error:?}");
    stage.end().await;
}

#[tokio::test]
async fn news_of_livekit_are_believed_when_they_are_signed() {
    let none = Stage::start().await;
    assert_eq!(post(&none, "/hooks/livekit", Some(SERVICE_KEY), "{}").await.0, 404, "no LiveKit is set up");
    none.end().await;

    let livekit = LiveKitServer::start().await;
    let setup = Setup::new().await.set("LIVEKIT_WS_URL", &livekit.url());
    let setup = setup.set("LIVEKIT_API_KEY", &livekit.key());
    let stage = setup.set("LIVEKIT_API_SECRET", livekit.secret().expose()).start().await;
    let body = json!({"id": "EV_1", "event": "room_finished", "createdAt": "4000000000",
                      "room": {"name": stage.session}})
    .to_string();
    assert_eq!(
        post(&stage, START, Some(SERVICE_KEY), json!({"sessionId": "s1", "sessionSlug": stage.session}))
            .await
            .0,
        200
    );
    let other = livekit.sign_webhook("another body");
    for (what, key) in [
        ("nothing", None),
        ("a service key", Some(SERVICE_KEY)),
        ("a participant's token", Some(stage.token("alice").as_str())),
        ("the token of another body", Some(other.as_str())),
    ] {
        assert_eq!(post(&stage, "/hooks/livekit", key, &body).await.0, 401, "{what}");
    }
    let torn = livekit.sign_webhook("{");
    assert_eq!(post(&stage, "/hooks/livekit", Some(&torn), "{").await.0, 400);
    stage.noted().await;
    let status = async || stage.storage.session(&stage.session).await.unwrap().unwrap().status;
    assert_eq!(status().await, SessionStatus::Live, "nothing was done");
    assert!(stage.database.rows("SELECT FROM livekit_events").await.is_empty());
    let good = livekit.sign_webhook(&body);
    assert_eq!(post(&stage, "/hooks/livekit", Some(&good), &body).await, (200, json!({"ok": true})));
    stage.noted().await;
    assert_eq!(status().await, SessionStatus::Ended);
    stage.end().await;
}

#[tokio::test]
async fn open_routes_are_three_and_egress_and_no_more() {
    let port = free_port().to_string();
    let setup = Setup::new().await.set("LEGACY_OPEN_ROUTES", "true").set("SESSION_PORT", &port);
    let stage = setup.start().await;
    assert_eq!(refused(&stage, "").await.1, "Not allowed", "no session was started under this id");
    for path in [START, BROADCAST] {
        assert_eq!(post(&stage, path, None, body(&stage, path)).await.0, 200, "{path}");
    }
    stage.noted().await;
    let url = format!("ws://{}/egress/audio/s1/TR_1", stage.running.address);
    let mut egress = Client::connect(&url, &[]).await;
    egress.send(vec![0_u8; 1920]).await;
    eventually("it is heard", async || stage.worker.heard(|heard| !heard.sources.is_empty())).await;
    stage.worker.heard(|heard| {
        let source = &heard.sources[0];
        assert_eq!((source.session.clone(), source.is_room), (stage.session.clone(), true));
        assert_eq!(source.speaker.identity.as_str(), "room");
        assert_eq!(source.speaker.name.as_deref(), Some("Meeting"));
    });
    assert_eq!(refused(&stage, "?token=x").await.0, 1008, "a token that is there must be good");

    assert_eq!(post(&stage, SPEAKER, None, body(&stage, SPEAKER)).await.0, 400);
    let mut speaks = body(&stage, SPEAKER);
    speaks["token"] = "x".into();
    assert_eq!(post(&stage, SPEAKER, None, speaks).await.0, 401);
    assert_eq!(post(&stage, "/api/transcripts", None, body(&stage, BROADCAST)).await.0, 500);
    assert_eq!(post(&stage, "/hooks/livekit", None, "{}").await.0, 404);
    let address = stage.running.session_address.unwrap();
    let mut sessions = SessionsClient::connect(format!("http://{address}")).await.unwrap();
    let request = StartRequest { session_id: "s1".into(), session_slug: "x".into(), language: String::new() };
    assert_eq!(sessions.start(Request::new(request)).await.unwrap_err().code(), Code::Unauthenticated);

    assert_eq!(post(&stage, STOP, None, body(&stage, STOP)).await.0, 200);
    eventually("it has ended", async || {
        stage.storage.session(&stage.session).await.unwrap().unwrap().status == SessionStatus::Ended
    })
    .await;
    stage.end().await;
}
