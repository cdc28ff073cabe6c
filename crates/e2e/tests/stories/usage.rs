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
