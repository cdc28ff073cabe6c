//! System A's test mode.

use serde_json::{Value, json};
use testkit::eventually;

use crate::{
    http::post,
    stage::{SERVICE_KEY, Setup, Stage},
};

async fn mode(stage: &Stage) -> Value {
    let body = json!({"sessionId": "s1", "sessionSlug": stage.session});
    let (status, answer) = post(stage, "/api/transcription/start", Some(SERVICE_KEY), body).await;
    assert_eq!((status, &answer["ok"]), (200, &json!(true)));
    answer["mode"].clone()
}

#[tokio::test]
async fn every_follower_is_sent_a_made_up_transcript() {
    let stage = Setup::new().await.set("WS_TEST_MODE", "true").start().await;
    assert_eq!(mode(&stage).await, "test");
    let mut follower = stage.connect("bob", "").await;
    let mut told = Vec::new();
    for _ in 0..2 {
        told.push(follower.expect("transcript").await);
    }
    for said in &told {
        let ts = said["ts"].as_i64().unwrap();
        let expected = json!({
            "type": "transcript", "sessionSlug": stage.session, "userId": said["userId"], "text": said["text"],
            "utteranceId": format!("test-{ts}"), "isFinal": true, "ts": ts,
        });
        assert_eq!(*said, expected);
        assert!(said["userId"].is_string() && !said["text"].as_str().unwrap().is_empty(), "{said}");
    }
    assert_ne!(told[0]["utteranceId"], told[1]["utteranceId"]);
    eventually("nothing of it is kept", async || stage.transcript().await.is_empty()).await;
    stage.end().await;
}

#[tokio::test]
async fn nobody_rehearses_in_production_or_unasked() {
    for (name, value, node_env, expected) in [
        ("WS_TEST_MODE", "1", "production", "live"),
        ("WS_ENABLE_TEST_BROADCAST", "true", "production", "live"),
        ("WS_TEST_MODE", "0", "test", "live"),
        ("WS_ENABLE_TEST_BROADCAST", "1", "development", "test"),
    ] {
        let stage = Setup::new().await.set(name, value).set("NODE_ENV", node_env).start().await;
        assert_eq!(mode(&stage).await, expected, "{name}={value} in {node_env}");
        stage.end().await;
    }
}
