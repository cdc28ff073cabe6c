//! How an edge leaves: nothing that was delivered to it is lost, and everybody is told.

use std::time::Duration;

use serde_json::json;
use testkit::eventually;

use crate::{client::Client, stage::Stage};

#[tokio::test]
async fn a_drain_finishes_audio_and_sends_everybody_away() {
    let stage = Stage::start().await;
    let mut speaker = stage.connect("alice", "").await;
    speaker.say(json!({"type": "init"})).await;
    speaker.expect("initialized").await;
    speaker.send(vec![0_u8; 64_000]).await;
    speaker.settled().await;
    let mut followers = Vec::new();
    for n in 0..5 {
        followers.push(stage.connect(&format!("follower {n}"), "").await);
    }
    let (http, admin) = (stage.http("/health"), format!("http://{}/readyz", stage.running.admin_address));
    let life = stage.life.clone();
    let ending = async { life.end(Duration::from_secs(20)).await };
    let leaving = async {
        // It did not say `stop`, so its stream may go on elsewhere.
        while speaker.expect("ack").await["samples"] != 32_000 {}
        let hint = speaker.expect("reconnect").await;
        assert!(hint["retryAfterMs"].as_u64().is_some(), "{hint}");
        assert_eq!(speaker.code().await, 1001);
        for follower in &mut followers {
            follower.expect("reconnect").await;
            assert_eq!(follower.code().await, 1001);
        }
    };
    let watching = async {
        eventually("it is not ready", async || match reqwest::get(&admin).await {
            Ok(response) => response.status() == 503,
            Err(_) => true,
        })
        .await;
        eventually("nobody new comes in", async || reqwest::get(&http).await.is_err()).await;
    };
    let (ended, (), ()) = tokio::join!(ending, leaving, watching);
    assert_eq!(ended, Ok(()));
    stage.worker.heard(|heard| assert_eq!((heard.samples.len(), heard.ended), (32_000, 1)));
    assert_eq!(stage.life.end(Duration::ZERO).await, Ok(()), "and again");
}

#[tokio::test]
async fn an_idle_edge_leaves_at_once() {
    let stage = Stage::start().await;
    let mut follower: Client = stage.connect("bob", "").await;
    stage.life.drain();
    follower.expect("reconnect").await;
    assert_eq!(follower.code().await, 1001);
    assert_eq!(stage.life.end(Duration::from_secs(20)).await, Ok(()));
}
