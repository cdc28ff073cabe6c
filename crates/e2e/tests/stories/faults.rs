//! What the world does to the system while people speak.

use e2e::{Client, Heard, Room, Stack, sound, text};
use serde_json::json;
use testkit::{HandshakeLimit, PATIENCE, eventually, recording, wer::WordErrors};

/// Everything was stored once and told once, and `said` is what it says.
async fn nothing_is_missing_or_doubled(room: &Room, said: &str, clients: &mut [&mut Client]) {
    let finals = room.finals().await;
    let errors = WordErrors::between(said, &text(&finals));
    assert!(errors.rate() <= 0.1, "{errors:?}: {}", text(&finals));
    assert!(finals.is_sorted_by(|one, next| one.end <= next.start), "no sound twice");
    for client in clients {
        let told = client.finals_to(finals.last().unwrap().sequence.0).await;
        let told: Vec<_> =
            told.iter().map(|last| (last["sequence"].as_u64().unwrap(), last["text"].clone())).collect();
        let stored: Vec<_> = finals.iter().map(|last| (last.sequence.0, json!(last.text))).collect();
        assert_eq!(told, stored);
    }
}

#[tokio::test]
async fn without_postgres_partials_go_on_and_finals_wait() {
    let stack = Stack::set(&[("DATABASE_CONNECT_MS", "500")]).await;
    let room = stack.room();
    let (mut alice, mut bob) = (room.join("alice").await, room.join("bob").await);
    let recording = recording("jfk");
    let samples = recording.samples();
    let (before, after) = samples.split_at(16_000);
    alice.init(json!({"encoding": "pcm_s16le"})).await;
    alice.speak(before).await;
    while alice.expect("stt_status").await["status"] != "ready" {}

    stack.postgres.cut();
    alice.speak(after).await;
    // The pauses in this speech end utterances, so finals are waiting; partials of later ones come all the same.
    while bob.expect("transcript_partial").await["end"].as_f64().unwrap() < 5.0 {}
    eventually("both say what is away", async || {
        let (edge, worker) = (stack.edge.readiness().await, stack.worker.readiness().await);
        edge == (503, vec!["postgres".to_owned()]) && worker == edge
    })
    .await;
    assert!(bob.finals().is_empty(), "nothing is told that is not stored");

    stack.postgres.mend();
    assert_eq!(alice.stop().await, samples.len() as u64);
    nothing_is_missing_or_doubled(&room, &recording.text, &mut [&mut alice, &mut bob]).await;
    eventually("both are ready", async || {
        stack.edge.readiness().await.0 == 200 && stack.worker.readiness().await.0 == 200
    })
    .await;
}

#[tokio::test]
async fn a_database_that_freezes_is_like_one_that_is_away() {
    let stack = Stack::set(&[("DATABASE_CONNECT_MS", "500")]).await;
    let room = stack.room();
    let (mut alice, mut bob) = (room.join("alice").await, room.join("bob").await);
    let recording = recording("LJ001-0009");
    let samples = recording.samples();
    // A client of system A: no init, so its audio cannot wait.
    alice.speak(&samples[..16_000]).await;
    while alice.expect("stt_status").await["status"] != "ready" {}
    stack.postgres.stall();
    alice.speak(&samples[16_000..]).await;
    while bob.expect("transcript_partial").await["end"].as_f64().unwrap() < 3.0 {}
    eventually("both say what is away", async || {
        let (edge, worker) = (stack.edge.readiness().await, stack.worker.readiness().await);
        edge == (503, vec!["postgres".to_owned()]) && worker == edge
    })
    .await;
    // Somebody who comes now is served, and told the past when there is one to read.
    let mut late = room.join_with("late", "&since=0").await;
    late.settled().await;
    stack.postgres.mend();
    assert_eq!(alice.stop().await, samples.len() as u64);
    nothing_is_missing_or_doubled(&room, &recording.text, &mut [&mut alice, &mut bob, &mut late]).await;
}

#[tokio::test]
async fn an_outage_longer_than_memory_costs_old_sound_and_not_the_stream() {
    let stack = Stack::set(&[("DATABASE_CONNECT_MS", "500")]).await;
    let room = stack.room();
    let mut alice = room.join("alice").await;
    let long = sound::pcm(&recording("two_cities").samples());
    // A client of system A: no init, so its audio cannot wait.
    alice.pour(&sound::pcm(&sound::silence(1)), 16_000).await;
    while alice.expect("stt_status").await["status"] != "ready" {}
    stack.postgres.cut();
    // The worker keeps a minute, the edge half a minute. This is five times as long.
    let count = 10;
    for _ in 0..count {
        alice.pour(&long, 32_000).await;
    }
    assert_eq!(alice.expect("warning").await["code"], "gap");
    stack.postgres.mend();
    let last = recording("jfk");
    let samples = last.samples();
    alice.pour(&sound::pcm(&samples), 32_000).await;
    assert_eq!(alice.stop().await, (16_000 + count * long.len() / 2 + samples.len()) as u64);
    let finals = room.finals().await;
    assert!(finals.is_sorted_by(|one, next| one.end <= next.start), "no sound twice");
    let since = finals.last().unwrap().end - model::Samples::of(samples.len());
    let newest: Vec<_> = finals.into_iter().filter(|last| last.end > since).collect();
    assert!(text(&newest).contains("can do for your country"), "{}", text(&newest));
    assert!(alice.told("error").is_empty(), "{:?}", alice.told("error"));
}

#[tokio::test]
async fn without_redis_captions_pause_and_then_catch_up() {
    let mut stack = Stack::start().await;
    let room = stack.room();
    let (mut alice, mut bob) = (room.join("alice").await, room.join("bob").await);
    let (first, second) = (recording("LJ001-0002"), recording("LJ001-0009"));
    alice.init(json!({"encoding": "pcm_s16le"})).await;
    alice.pour(&sound::pcm(&first.samples()), 3_200).await;
    alice.pour(&sound::pcm(&sound::silence(1)), 3_200).await;
    bob.finals_to(1).await;

    stack.redis.kill().await;
    alice.pour(&sound::pcm(&second.samples()), 3_200).await;
    alice.stop().await;
    eventually("both say what is away", async || {
        let (edge, worker) = (stack.edge.readiness().await, stack.worker.readiness().await);
        edge == (503, vec!["redis".to_owned()]) && worker == edge
    })
    .await;
    let mut late = room.join_with("late", "&since=0").await;
    stack.redis.restart().await;
    let said = format!("{} {}", first.text, second.text);
    nothing_is_missing_or_doubled(&room, &said, &mut [&mut bob, &mut late, &mut alice]).await;
}

#[tokio::test]
async fn a_worker_that_is_drained_or_killed_loses_no_word() {
    let mut stack = Stack::start().await;
    let room = stack.room();
    let (mut alice, mut bob) = (room.join("alice").await, room.join("bob").await);
    let recording = recording("two_cities");
    let samples = recording.samples();
    alice.init(json!({"encoding": "pcm_s16le"})).await;
    let third = samples.len() / 3;
    alice.pour(&sound::pcm(&samples[..third]), 3_200).await;
    bob.finals_to(1).await;
    stack.worker.end().await;
    let stored = room.finals().await.len() as u64;
    alice.pour(&sound::pcm(&samples[third..third + 16_000]), 3_200).await;
    stack.restart_worker().await;
    alice.pour(&sound::pcm(&samples[third + 16_000..2 * third]), 3_200).await;
    bob.finals_to(stored + 1).await;
    stack.worker.kill();
    alice.pour(&sound::pcm(&samples[2 * third..2 * third + 16_000]), 3_200).await;
    stack.restart_worker().await;
    alice.pour(&sound::pcm(&samples[2 * third + 16_000..]), 3_200).await;
    assert_eq!(alice.stop().await, samples.len() as u64);
    nothing_is_missing_or_doubled(&room, &recording.text, &mut [&mut alice, &mut bob]).await;
}

#[tokio::test]
async fn a_killed_edge_is_a_clear_answer_and_captions_go_on_when_it_is_back() {
    let mut stack = Stack::start().await;
    let room = stack.room();
    let (mut alice, mut bob) = (room.join("alice").await, room.join("bob").await);
    let recording = recording("LJ001-0009");
    alice.init(json!({"encoding": "pcm_s16le"})).await;
    alice.pour(&sound::pcm(&recording.samples()), 3_200).await;
    alice.pour(&sound::pcm(&sound::silence(1)), 3_200).await;
    bob.finals_to(1).await;

    stack.edge.kill();
    let lost = async { while !matches!(bob.hear().await, Heard::Lost | Heard::Closed(..)) {} };
    tokio::time::timeout(PATIENCE, lost).await.expect("nginx passes the end on");
    let answer = reqwest::get(stack.http("/health")).await.unwrap();
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    assert_eq!(answer.json::<serde_json::Value>().await.unwrap(), json!({"error": "Service unavailable"}));
    let refused = Client::refused(&room.url(&format!("token={}", room.token("bob")))).await;
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));

    stack.restart_edge().await;
    eventually("the front door is open again", async || {
        reqwest::get(stack.http("/health")).await.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    // The worker has what the dead edge had sent. What was said is told to whoever comes back, once.
    let mut bob = room.join_with("bob", "&since=0").await;
    eventually("what was said is stored", async || {
        WordErrors::between(&recording.text, &text(&room.finals().await)).rate() <= 0.1
    })
    .await;
    nothing_is_missing_or_doubled(&room, &recording.text, &mut [&mut bob]).await;
    let mut alice = room.join("alice").await;
    alice.init(json!({"encoding": "pcm_s16le"})).await;
    alice.pour(&sound::pcm(&recording.samples()), 3_200).await;
    alice.stop().await;
    let last = room.finals().await.last().unwrap().sequence.0;
    bob.finals_to(last).await;
}

#[tokio::test]
async fn too_many_new_sockets_are_told_when_to_come_back() {
    let plan = e2e::Plan { handshakes: HandshakeLimit { rate: 1, burst: 2 }, ..e2e::Plan::default() };
    let stack = Stack::with(plan).await;
    let room = stack.room();
    let mut early = room.join("early").await;
    let url = room.url(&format!("token={}", room.token("eager")));
    let mut refused = None;
    for _ in 0..20 {
        let answer = reqwest::get(url.replace("ws://", "http://")).await.unwrap();
        match answer.status().as_u16() {
            426 => {}
            429 => refused = Some(answer),
            other => panic!("{other}"),
        }
    }
    let refused = refused.expect("a limit");
    assert!(refused.headers().contains_key("retry-after"));
    let error = refused.json::<serde_json::Value>().await.unwrap();
    assert_eq!(error, json!({"error": "Too many new connections from this address"}));
    early.settled().await;
}
