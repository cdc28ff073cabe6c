//! How the edge takes leave.

use std::time::Duration;

use e2e::{Client, Stack, sound};
use serde_json::json;
use settings::Secret;
use testkit::{eventually, recording, tokens};

#[tokio::test]
async fn a_draining_edge_finishes_what_was_said_and_says_when_to_come_back() {
    let mut stack = Stack::start().await;
    let room = stack.room();
    let (mut alice, mut bob) = (room.join("alice").await, room.join("bob").await);
    let stream = alice.init(json!({"encoding": "pcm_s16le"})).await["stream"].clone();
    let samples = recording("LJ001-0009").samples();
    alice.pour(&sound::pcm(&samples), 3_200).await;
    alice.settled().await;

    let life = stack.edge.life.clone();
    life.drain();
    assert_eq!(stack.edge.readiness().await, (503, vec!["service".to_owned()]));
    let everybody = async {
        while alice.expect("ack").await["samples"] != samples.len() {}
        for client in [&mut alice, &mut bob] {
            let hint = client.expect("reconnect").await;
            assert!(hint["retryAfterMs"].as_u64().is_some(), "{hint}");
            assert_eq!(client.ended().await, (None, 1001));
        }
    };
    let newcomers = async {
        let url = room.url(&format!("token={}", room.token("carol")));
        let refused = Client::refused(&url).await;
        assert_eq!(refused.status(), 503);
        assert!(refused.headers().contains_key("retry-after"));
    };
    tokio::join!(everybody, newcomers);

    let finals = room.finals().await;
    assert!(!finals.is_empty());
    for client in [&alice, &bob] {
        assert_eq!(client.finals().len(), finals.len(), "the last final reached everybody before the end");
    }
    stack.edge.end().await;
    stack.restart_edge().await;
    let mut back = eventually("the front door is open again", async || {
        let open = reqwest::get(stack.http("/health")).await.is_ok_and(|answer| answer.status() == 200);
        if open { Some(room.join_with("bob", "&since=0").await) } else { None }
    })
    .await;
    assert_eq!(back.finals_to(finals.len() as u64).await.len(), finals.len());

    // And the stream goes on.
    let mut alice = room.join("alice").await;
    let resume = json!({"stream": stream, "acked": samples.len()});
    let initialized = alice.init(json!({"encoding": "pcm_s16le", "resume": resume})).await;
    assert_eq!((&initialized["stream"], &initialized["acked"]), (&stream, &json!(samples.len())));
    alice.pour(&sound::pcm(&samples), 3_200).await;
    assert_eq!(alice.stop().await, 2 * samples.len() as u64);
    let both = room.finals().await;
    assert!(
        both.len() > finals.len()
            && both.iter().all(|last| last.utterance.stream() == both[0].utterance.stream())
    );
}

#[tokio::test]
async fn a_token_ends_on_the_open_socket_unless_it_is_refreshed() {
    let stack = Stack::start().await;
    let room = stack.room();
    let short = |identity: &str| {
        tokens::lasting(&Secret::from(e2e::JWT_SECRET), &room.slug, identity, Duration::from_secs(3))
    };
    let mut alice = room.open(&format!("token={}", short("alice"))).await;
    let mut bob = room.open(&format!("token={}", short("bob"))).await;
    bob.say(json!({"type": "refresh", "token": room.token("bob")})).await;
    bob.expect("refreshed").await;
    let (error, code) = alice.ended().await;
    assert_eq!((error.unwrap()["code"].clone(), code), (json!("expired"), 4003));
    bob.settled().await;
}
