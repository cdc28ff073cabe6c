//! What was processed is metered, to the sample, whatever is killed meanwhile.

use e2e::{Room, Stack, sound::pcm};
use model::Samples;
use testkit::{eventually, recording};

/// Seconds metered of a session, over all its streams.
async fn metered(stack: &Stack, room: &Room) -> f64 {
    let usage = stack.storage.session_usage(&room.slug).await.expect("usage");
    usage.iter().map(|row| row.sound.seconds()).sum()
}

/// Within one percent.
fn close(metered: f64, streamed: f64) -> bool {
    (metered - streamed).abs() <= streamed / 100.0
}

#[tokio::test]
async fn usage_is_what_was_streamed() {
    let stack = Stack::start().await;
    let room = stack.room();
    let samples = recording("two_cities").samples();
    let streamed = Samples::of(samples.len()).seconds();
    let mut alice = room.join("alice").await;
    // So that it waits when it is too fast for the worker.
    alice.init(serde_json::json!({})).await;
    alice.pour(&pcm(&samples), 3_200).await;
    alice.stop().await;
    let seconds = metered(&stack, &room).await;
    assert!(close(seconds, streamed), "{seconds} of {streamed}");
}

#[tokio::test]
async fn usage_is_what_was_streamed_also_when_workers_are_killed() {
    let mut stack = Stack::start().await;
    let room = stack.room();
    let samples = recording("two_cities").samples();
    let streamed = Samples::of(samples.len()).seconds();
    let mut alice = room.join("alice").await;
    alice.init(serde_json::json!({})).await;
    let thirds: Vec<&[i16]> = samples.chunks(samples.len() / 3 + 1).collect();
    for (index, third) in thirds.iter().enumerate() {
        alice.speak(third).await;
        if index < 2 {
            stack.worker.kill();
            stack.restart_worker().await;
        }
    }
    alice.stop().await;
    eventually("the last sound is metered", async || metered(&stack, &room).await > streamed * 0.9).await;
    let seconds = metered(&stack, &room).await;
    eprintln!("{seconds} s metered of {streamed} s streamed");
    assert!(close(seconds, streamed), "{seconds} of {streamed}");
}

#[tokio::test]
async fn the_time_that_a_speaker_is_away_is_not_metered() {
    let stack = Stack::start().await;
    let room = stack.room();
    let samples = recording("jfk").samples();
    let streamed = Samples::of(samples.len()).seconds();
    let (before, after) = samples.split_at(samples.len() / 2);
    let mut alice = room.join("alice").await;
    alice.speak(before).await;
    alice.close().await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let mut alice = room.join("alice").await;
    alice.speak(after).await;
    alice.stop().await;
    let seconds = metered(&stack, &room).await;
    assert!(close(seconds, streamed), "{seconds} of {streamed}");
}

#[tokio::test]
async fn a_user_has_only_so_many_active_streams_and_is_told_so() {
    let stack = Stack::set(&[("USER_STREAMS_MAX", "1")]).await;
    let (one, other) = (stack.room(), stack.room());
    let sound = recording("LJ001-0002").samples();
    let mut first = one.join("alice").await;
    first.speak(&sound).await;
    first.expect("transcript_partial").await;
    // Of an older client: it is told, and goes on as a follower.
    let mut second = other.join("alice").await;
    second.pour(&pcm(&sound), 3_200).await;
    let refused = second.expect("error").await;
    assert_eq!(
        (refused["code"].as_str(), refused["retryAfterMs"].as_u64()),
        (Some("limit_reached"), Some(10_000))
    );
    let mut bob = other.join("bob").await;
    bob.pour(&pcm(&sound), 3_200).await;
    bob.stop().await;
    second.expect("transcript_final").await;
    // Of one that knows `init`: it is told, and sent away.
    let mut third = other.join("alice").await;
    third.init(serde_json::json!({})).await;
    third.pour(&pcm(&sound), 3_200).await;
    let (last, code) = third.ended().await;
    assert_eq!((last.unwrap()["code"].as_str(), code), (Some("limit_reached"), 1008));
    // Whoever ends one may begin another.
    first.stop().await;
    let mut fourth = other.join("alice").await;
    fourth.init(serde_json::json!({})).await;
    fourth.pour(&pcm(&sound), 3_200).await;
    fourth.stop().await;
    assert!(!other.finals().await.is_empty());
}
