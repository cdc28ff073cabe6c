//! Streams that outlive their sockets.

use std::time::Duration;

use model::{Clock, Speaker, StreamId};
use serde_json::{Value, json};
use storage::NewStream;
use testkit::eventually;
use uuid::Uuid;

use crate::{
    client::Client,
    stage::{Setup, Stage},
    worker::Mood,
};

/// A sound whose every sample shows its place.
fn ramp(from: u16, to: u16) -> Vec<u8> {
    (from..to).flat_map(u16::to_le_bytes).collect()
}

fn samples(bytes: &[u8]) -> Vec<i16> {
    bytes.chunks(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
}

async fn init(client: &mut Client) -> Value {
    client.say(json!({"type": "init", "encoding": "pcm_s16le"})).await;
    client.expect("initialized").await
}

async fn resume(client: &mut Client, stream: &Value, acked: u64) -> Value {
    let resume = json!({"stream": stream, "acked": acked});
    client.say(json!({"type": "init", "encoding": "pcm_s16le", "resume": resume})).await;
    client.expect("initialized").await
}

/// Says `stop`; how long the stream was.
async fn stop(client: &mut Client) -> Value {
    client.say(json!({"type": "stop"})).await;
    client.expect("stopped").await
}

async fn heard(stage: &Stage, count: usize) {
    eventually("the worker hears it", async || stage.worker.heard(|heard| heard.samples.len() >= count))
        .await;
}

#[tokio::test]
async fn a_client_goes_on_where_its_acknowledgements_ended() {
    let stage = Stage::start().await;
    stage.worker.heard(|heard| heard.mood = Mood::Hoarding);
    let mut client = stage.connect("alice", "").await;
    let stream = init(&mut client).await["stream"].clone();
    client.send(ramp(0, 5_000)).await;
    heard(&stage, 5_000).await;
    // Half a sample is lost with the socket.
    client.send(vec![1_u8]).await;
    client.settled().await;
    client.vanish();

    stage.worker.heard(|heard| heard.mood = Mood::Willing);
    let mut client = stage.connect("alice", "").await;
    let initialized = resume(&mut client, &stream, 0).await;
    assert_eq!(
        (&initialized["stream"], &initialized["acked"], &initialized["received"]),
        (&stream, &json!(0), &json!(5_000))
    );
    client.send(ramp(0, 8_000)).await;
    let ack = client.expect("ack").await;
    assert_eq!((&ack["stream"], &ack["samples"]), (&stream, &json!(8_000)));
    // Acknowledged means that nobody needs to keep it.
    client.vanish();
    let mut client = stage.connect("alice", "").await;
    let initialized = resume(&mut client, &stream, 4_000).await;
    assert_eq!((&initialized["acked"], &initialized["received"]), (&json!(8_000), &json!(8_000)));
    client.send(ramp(8_000, 9_000)).await;
    assert_eq!(stop(&mut client).await, json!({"type": "stopped", "stream": stream, "samples": 9_000}));
    stage.worker.heard(|heard| {
        assert!(heard.samples == samples(&ramp(0, 9_000)), "every sample once");
        assert_eq!((heard.sources.len(), heard.ended), (1, 1), "one call all the while");
    });
    stage.end().await;
}

#[tokio::test]
async fn a_new_socket_takes_the_stream_from_one_that_is_only_half_dead() {
    let stage = Stage::start().await;
    let mut old = stage.connect("alice", "").await;
    let stream = init(&mut old).await["stream"].clone();
    old.send(ramp(0, 1_000)).await;
    assert_eq!(old.expect("ack").await["samples"], 1_000);
    let mut new = stage.connect("alice", "").await;
    assert_eq!(resume(&mut new, &stream, 1_000).await["acked"], 1_000);
    // Nothing of this is heard any more.
    old.send(ramp(7_000, 8_000)).await;
    let (error, code, reason) = old.ended().await;
    assert_eq!((code, reason.as_str()), (1008, "Stream continued elsewhere"));
    assert!(error.unwrap()["message"].as_str().unwrap().contains("continued elsewhere"));
    new.send(ramp(1_000, 2_000)).await;
    assert_eq!(new.expect("ack").await["samples"], 2_000);
    assert_eq!(stop(&mut new).await["samples"], 2_000);
    stage.worker.heard(|heard| assert!(heard.samples == samples(&ramp(0, 2_000))));
    stage.end().await;
}

#[tokio::test]
async fn another_edge_goes_on_with_a_stream() {
    let stage = Stage::start().await;
    let (other_life, other) = stage.another().await;
    let mut client = stage.connect("alice", "").await;
    let stream = init(&mut client).await["stream"].clone();
    client.send(ramp(0, 3_000)).await;
    assert_eq!(client.expect("ack").await["samples"], 3_000);
    stage.worker.heard(|heard| heard.mood = Mood::Hoarding);
    client.send(ramp(3_000, 4_000)).await;
    heard(&stage, 4_000).await;
    client.vanish();

    stage.worker.heard(|heard| heard.mood = Mood::Willing);
    let mut thief = stage.connect_to(&other, "mallory").await;
    thief.say(json!({"type": "init", "resume": {"stream": stream, "acked": 3_000}})).await;
    assert_eq!(thief.expect("error").await["code"], "forbidden");
    thief.settled().await;

    let mut client = stage.connect_to(&other, "alice").await;
    let initialized = resume(&mut client, &stream, 3_000).await;
    assert_eq!(
        (&initialized["stream"], &initialized["acked"], &initialized["received"]),
        (&stream, &json!(3_000), &json!(3_000))
    );
    client.send(ramp(3_000, 6_000)).await;
    assert_eq!(stop(&mut client).await["samples"], 6_000);
    stage.worker.heard(|heard| {
        assert_eq!(heard.resumed_at, [0, 3_000]);
        let all = [ramp(0, 4_000), ramp(3_000, 6_000)].concat();
        assert!(heard.samples == samples(&all), "the second call has what the first had not acknowledged");
    });
    assert_eq!(other_life.end(Duration::from_millis(100)).await, Ok(()));
    stage.end().await;
}

#[tokio::test]
async fn a_stream_that_was_with_another_edge_meanwhile_is_taken_back() {
    let stage = Stage::start().await;
    let mut old = stage.connect("alice", "").await;
    let stream = init(&mut old).await["stream"].clone();
    old.send(ramp(0, 1_000)).await;
    assert_eq!(old.expect("ack").await["samples"], 1_000);
    old.vanish();
    // It went elsewhere and came back, and the worker of this edge does not know it yet.
    let mut client = stage.connect("alice", "").await;
    resume(&mut client, &stream, 1_000).await;
    stage.worker.heard(|heard| heard.mood = Mood::Outrun);
    client.send(ramp(1_000, 1_500)).await;
    let (error, code, _) = client.ended().await;
    assert_eq!((error.unwrap()["code"].as_str(), code), (Some("dependency"), 1013), "it may come again");
    stage.worker.heard(|heard| heard.mood = Mood::Willing);
    let mut client = stage.connect("alice", "").await;
    let initialized = resume(&mut client, &stream, 1_000).await;
    assert_eq!((&initialized["stream"], &initialized["acked"]), (&stream, &json!(1_000)));
    client.send(ramp(1_000, 1_500)).await;
    assert_eq!(client.expect("ack").await["samples"], 1_500);
    // A socket that has never resumed is the one which was left behind.
    let mut left = stage.connect("bob", "").await;
    init(&mut left).await;
    stage.worker.heard(|heard| heard.mood = Mood::Outrun);
    left.send(ramp(0, 10)).await;
    assert_eq!(left.code().await, 1008);
    stage.end().await;
}

#[tokio::test]
async fn what_is_stored_meanwhile_need_not_be_sent_again() {
    let stage = Stage::start().await;
    // Stored up to 16,000 by a worker that an edge, dead by now, had found.
    let mut voice = stage.voice().await;
    voice.store(&stage, "first").await;
    let stream = json!(voice.id.to_string());
    let mut client = stage.connect("alice", "").await;
    let initialized = resume(&mut client, &stream, 10_000).await;
    assert_eq!((&initialized["acked"], &initialized["received"]), (&json!(16_000), &json!(16_000)));
    client.send(ramp(16_000, 17_000)).await;
    assert_eq!(stop(&mut client).await["samples"], 17_000);
    stage.worker.heard(|heard| assert!(heard.samples == samples(&ramp(16_000, 17_000))));
    stage.end().await;
}

#[tokio::test]
async fn a_stream_of_somebody_else_is_refused_and_an_unknown_one_begins_anew() {
    let stage = Stage::start().await;
    let mut alice = stage.connect("alice", "").await;
    let stream = init(&mut alice).await["stream"].clone();
    alice.send(ramp(0, 100)).await;
    alice.expect("ack").await;
    let mut mallory = stage.connect("mallory", "").await;
    mallory.say(json!({"type": "init", "resume": {"stream": stream, "acked": 0}})).await;
    let error = mallory.expect("error").await;
    assert_eq!(
        (&error["code"], &error["message"]),
        (&json!("forbidden"), &json!("resume.stream is another participant's"))
    );
    mallory.settled().await;
    alice.send(ramp(100, 200)).await;
    assert_eq!(alice.expect("ack").await["samples"], 200, "the owner is not disturbed");

    let old = StreamId(Uuid::new_v4());
    let long_ago = model::Timestamp(Clock::system().now().0 - 2 * 24 * 3_600 * 1_000);
    let speaker = Speaker { identity: "bob".parse().unwrap(), name: None };
    let forgotten = NewStream {
        id: old,
        session: stage.session.clone(),
        speaker,
        started_at: long_ago,
        user: None,
        limits: storage::StreamLimits::default(),
        now: long_ago,
    };
    stage.storage.open_stream(&forgotten).await.unwrap();
    for (unknown, acked) in
        [(json!(Uuid::new_v4()), 100), (json!(old.to_string()), 0), (json!(Uuid::new_v4()), 1 << 45)]
    {
        let mut bob = stage.connect("bob", "").await;
        let initialized = resume(&mut bob, &unknown, acked).await;
        assert_ne!(initialized["stream"], unknown);
        assert_eq!(initialized["acked"], 0);
        assert_eq!(bob.expect("warning").await["code"], "not_resumed");
        bob.send(ramp(0, 10)).await;
        let stopped = stop(&mut bob).await;
        assert_eq!((&stopped["stream"], &stopped["samples"]), (&initialized["stream"], &json!(10)));
    }
    stage.end().await;
}

#[tokio::test]
async fn a_stream_that_nobody_comes_back_to_is_finished_and_may_still_go_on() {
    let stage = Setup::new().await.set("RESUME_SECONDS", "0").start().await;
    let mut client = stage.connect("alice", "").await;
    let stream = init(&mut client).await["stream"].clone();
    client.send(ramp(0, 1_000)).await;
    assert_eq!(client.expect("ack").await["samples"], 1_000);
    client.vanish();
    eventually("its audio is finished", async || stage.worker.heard(|heard| heard.ended == 1)).await;
    let mut client = stage.connect("alice", "").await;
    let initialized = resume(&mut client, &stream, 1_000).await;
    assert_eq!((&initialized["stream"], &initialized["acked"]), (&stream, &json!(1_000)));
    client.send(ramp(1_000, 1_500)).await;
    assert_eq!(stop(&mut client).await["samples"], 1_500);
    stage.worker.heard(|heard| assert!(heard.samples == samples(&ramp(0, 1_500))));
    stage.end().await;
}

#[tokio::test]
async fn a_container_begins_anew_where_the_old_one_broke_off() {
    let stage = Stage::start().await;
    let recording = testkit::recording("LJ001-0002");
    let wav = std::fs::read(&recording.path).unwrap();
    let mut client = stage.connect("alice", "").await;
    client.say(json!({"type": "init", "encoding": "wav"})).await;
    let stream = client.expect("initialized").await["stream"].clone();
    let header = wav.windows(4).position(|name| name == b"data").unwrap() + 8;
    let half = 20_000;
    client.send(wav[..header + half].to_vec()).await;
    client.settled().await;
    client.vanish();
    let mut client = stage.connect("alice", "").await;
    client.say(json!({"type": "init", "encoding": "wav", "resume": {"stream": stream, "acked": 0}})).await;
    let initialized = client.expect("initialized").await;
    assert_eq!((&initialized["stream"], &initialized["received"]), (&stream, &json!(half / 2)));
    client.send(wav[..header].to_vec()).await;
    client.send(wav[header + half..].to_vec()).await;
    let stopped = stop(&mut client).await;
    assert_eq!(stopped["samples"], recording.samples().len());
    stage.worker.heard(|heard| assert!(heard.samples == recording.samples()));
    stage.end().await;
}

#[tokio::test]
async fn a_client_without_resume_goes_on_and_its_absence_is_silence() {
    let stage = Stage::start().await;
    let mut client = stage.connect("alice", "").await;
    client.send(ramp(1, 1_001)).await;
    heard(&stage, 1_000).await;
    client.vanish();
    eventually("what was open is ended", async || stage.worker.heard(|heard| heard.finalized == 1)).await;
    // Somebody else's audio is another stream.
    let mut bob = stage.connect("bob", "").await;
    bob.send(vec![0_u8; 2]).await;
    stop(&mut bob).await;
    let mut client = stage.connect("alice", "").await;
    client.send(ramp(1, 501)).await;
    let stopped = stop(&mut client).await;
    let length = usize::try_from(stopped["samples"].as_u64().unwrap()).unwrap();
    stage.worker.heard(|heard| {
        assert_eq!(heard.sources.len(), 2);
        assert_eq!(stopped["stream"], heard.sources[0].stream.to_string());
        let mine: Vec<i16> = [&heard.samples[..1_000], &heard.samples[1_001..]].concat();
        assert_eq!(mine.len(), length);
        let (before, rest) = mine.split_at(1_000);
        let (silence, after) = rest.split_at(length - 1_500);
        assert!(before == samples(&ramp(1, 1_001)) && after == samples(&ramp(1, 501)));
        assert!(silence.iter().all(|sample| *sample == 0) && !silence.is_empty());
    });
    stage.end().await;
}

#[tokio::test]
async fn a_drain_finishes_what_waits_for_its_client() {
    let stage = Stage::start().await;
    let mut client = stage.connect("alice", "").await;
    init(&mut client).await;
    client.send(ramp(0, 1_000)).await;
    heard(&stage, 1_000).await;
    client.vanish();
    assert_eq!(stage.life.end(Duration::from_secs(20)).await, Ok(()));
    stage.worker.heard(|heard| assert_eq!((heard.samples.len(), heard.ended), (1_000, 1)));
}

/// Knuth's MMIX generator: the same numbers each time.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

#[tokio::test]
async fn whenever_the_socket_dies_every_sample_is_heard_once_and_in_order() {
    let stage = Setup::new().await.set("IDENTITY_HANDSHAKES_PER_SECOND", "1000").start().await;
    for seed in 1..=3 {
        stage.worker.heard(|heard| heard.samples.clear());
        let mut chance = Chance(seed);
        let sound = ramp(0, 60_000);
        let (mut stream, mut acked) = (Value::Null, 0_usize);
        let mut disconnects = 0;
        'sockets: loop {
            let mut client = stage.connect("alice", "").await;
            let initialized = match &stream {
                Value::Null => init(&mut client).await,
                stream => resume(&mut client, stream, acked as u64).await,
            };
            stream = initialized["stream"].clone();
            let mut at = 2 * usize::try_from(initialized["acked"].as_u64().unwrap()).unwrap();
            acked = at / 2;
            let received = usize::try_from(initialized["received"].as_u64().unwrap()).unwrap();
            let mut left = if disconnects < 40 { chance.below(20_000) } else { usize::MAX };
            while at < sound.len() {
                // Pieces of any length, odd ones too.
                let piece = (1 + chance.below(3_000)).min(left).min(sound.len() - at);
                if piece == 0 {
                    disconnects += 1;
                    if chance.below(2) == 0 {
                        client.settled().await;
                    }
                    client.vanish();
                    continue 'sockets;
                }
                client.send(sound[at..at + piece].to_vec()).await;
                at += piece;
                left -= piece;
                // News come of what is new.
                if at / 2 > acked.max(received) && chance.below(4) == 0 {
                    let samples = client.expect("ack").await["samples"].as_u64().unwrap();
                    acked = usize::try_from(samples).unwrap();
                }
            }
            assert_eq!(stop(&mut client).await["samples"], 60_000);
            break;
        }
        assert!(disconnects >= 5, "{disconnects}");
        eprintln!("seed {seed}: {disconnects} disconnects");
        stage.worker.heard(|heard| assert!(heard.samples == samples(&sound), "seed {seed}"));
    }
    stage.end().await;
}
