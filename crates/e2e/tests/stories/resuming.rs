//! Somebody speaks over a bad network: sockets die at any moment, and the transcript does not show it.

use std::time::Duration;

use e2e::{Client, Heard, Room, Stack, sound, text};
use model::{Final, Samples};
use serde_json::{Value, json};
use testkit::{eventually, recording, recordings, wer::WordErrors};

/// How often the socket dies.
const DISCONNECTS: usize = 20;

/// Values from 0 to 1, the same each time (a linear congruential generator, the constants of Knuth's MMIX).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// All recordings, one after the other.
fn everything() -> (Vec<i16>, String) {
    let (mut samples, mut said) = (Vec::new(), Vec::new());
    for recording in recordings() {
        samples.extend(recording.samples());
        samples.extend(sound::silence(1));
        said.push(recording.text);
    }
    (samples, said.join(" "))
}

fn newest_ack(client: &Client) -> Option<u64> {
    client.told("ack").last().and_then(|ack| ack["samples"].as_u64())
}

/// Sends the samples, faster than they were spoken, over sockets that die; each next one is opened at the next of
/// `doors`. How long the stream was in the end.
async fn speak_over_a_bad_network(doors: &[Room], samples: &[i16], seed: u64) -> u64 {
    let mut chance = Chance(seed);
    let mut cuts: Vec<usize> =
        (0..DISCONNECTS).map(|_| (chance.next() * samples.len() as f64) as usize).collect();
    cuts.sort_unstable();
    let (mut stream, mut acked) = (Value::Null, 0);
    for (turn, door) in (0..=DISCONNECTS).zip(doors.iter().cycle()) {
        let mut client = door.join("alice").await;
        let resume = if stream.is_null() { Value::Null } else { json!({"stream": stream, "acked": acked}) };
        let initialized = client.init(json!({"encoding": "pcm_s16le", "resume": resume})).await;
        assert!(stream.is_null() || stream == initialized["stream"], "the same stream");
        stream = initialized["stream"].clone();
        let from = initialized["acked"].as_u64().unwrap();
        assert!(from >= acked, "what is acknowledged is not asked for again");
        acked = from;
        let from = usize::try_from(from).unwrap();
        let Some(cut) = cuts.get(turn).copied() else {
            client.pour(&sound::pcm(&samples[from..]), 3_200).await;
            return client.stop().await;
        };
        client.pour(&sound::pcm(&samples[from..cut.max(from)]), 3_200).await;
        if chance.next() < 0.5 {
            // Some sockets die with audio on the way, some after all of it came.
            client.settled().await;
        }
        acked = newest_ack(&client).unwrap_or(acked);
        drop(client);
        tokio::time::sleep(Duration::from_millis(100 + (chance.next() * 1_900.0) as u64)).await;
    }
    unreachable!("the last socket lives")
}

/// Everything was stored once in one stream, and told once to whoever followed.
async fn stored_and_told_once(room: &Room, follower: &mut Client, samples: &[i16]) -> Vec<Final> {
    let finals = room.finals().await;
    assert!(finals.is_sorted_by(|one, next| one.end <= next.start), "no sound twice");
    assert!(finals.iter().all(|segment| segment.utterance.stream() == finals[0].utterance.stream()));
    assert!(finals.is_sorted_by(|one, next| (one.start, one.end) < (next.start, next.end)));
    assert!(finals.last().unwrap().end <= Samples::of(samples.len()));
    let told = follower.finals_to(finals.last().unwrap().sequence.0).await;
    let told: Vec<_> = told.iter().map(|value| value["sequence"].as_u64().unwrap()).collect();
    assert_eq!(told, (1..=finals.len() as u64).collect::<Vec<_>>());
    finals
}

#[tokio::test]
async fn twenty_lost_sockets_leave_no_trace() {
    let stack = Stack::start().await;
    let (samples, said) = everything();
    let calm = stack.room();
    let mut alice = calm.join("alice").await;
    alice.init(json!({"encoding": "pcm_s16le"})).await;
    alice.pour(&sound::pcm(&samples), 3_200).await;
    alice.stop().await;
    let undisturbed = text(&calm.finals().await);

    let room = stack.room();
    let mut bob = room.join("bob").await;
    let doors = [room.clone()];
    assert_eq!(speak_over_a_bad_network(&doors, &samples, 7).await, samples.len() as u64);
    let finals = stored_and_told_once(&room, &mut bob, &samples).await;
    let (difference, errors) =
        (WordErrors::between(&undisturbed, &text(&finals)), WordErrors::between(&said, &text(&finals)));
    let before = WordErrors::between(&said, &undisturbed);
    eprintln!("undisturbed {before:?}, disturbed {errors:?}, between them {difference:?}");
    assert!(difference.rate() <= 0.02, "{difference:?}");
    assert!(errors.rate() <= before.rate() + 0.02, "{errors:?}");
}

#[tokio::test]
async fn a_stream_wanders_between_edges() {
    let stack = Stack::start().await;
    let (_other, port) = stack.another_edge().await;
    let recording = recording("two_cities");
    let samples = recording.samples();
    let room = stack.room();
    let mut bob = room.join("bob").await;
    let doors = [room.clone(), room.at(port)];
    assert_eq!(speak_over_a_bad_network(&doors, &samples, 11).await, samples.len() as u64);
    let finals = stored_and_told_once(&room, &mut bob, &samples).await;
    let errors = WordErrors::between(&recording.text, &text(&finals));
    eprintln!("{errors:?}: {}", text(&finals));
    assert!(errors.rate() <= 0.1, "{errors:?}: {}", text(&finals));
}

#[tokio::test]
async fn a_killed_edge_costs_a_client_that_resumes_nothing() {
    let mut stack = Stack::start().await;
    let recording = recording("two_cities");
    let samples = recording.samples();
    let room = stack.room();
    let mut alice = room.join("alice").await;
    let stream = alice.init(json!({"encoding": "pcm_s16le"})).await["stream"].clone();
    alice.pour(&sound::pcm(&samples[..samples.len() / 2]), 3_200).await;
    alice.expect("transcript_final").await;
    stack.edge.kill();
    while matches!(alice.hear().await, Heard::Said(_)) {}
    let acked = newest_ack(&alice).unwrap_or(0);

    stack.restart_edge().await;
    eventually("the front door is open again", async || {
        reqwest::get(stack.http("/health")).await.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    let mut alice = room.join_with("alice", "&since=0").await;
    let resume = json!({"stream": stream, "acked": acked});
    let initialized = alice.init(json!({"encoding": "pcm_s16le", "resume": resume})).await;
    assert_eq!(initialized["stream"], stream);
    let from = usize::try_from(initialized["acked"].as_u64().unwrap()).unwrap();
    assert!(from as u64 >= acked && from <= samples.len() / 2, "{acked} {from}");
    alice.pour(&sound::pcm(&samples[from..]), 3_200).await;
    assert_eq!(alice.stop().await, samples.len() as u64);
    let finals = stored_and_told_once(&room, &mut alice, &samples).await;
    let errors = WordErrors::between(&recording.text, &text(&finals));
    eprintln!("{errors:?}: {}", text(&finals));
    assert!(errors.rate() <= 0.1, "{errors:?}: {}", text(&finals));
}
