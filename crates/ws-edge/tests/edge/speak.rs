//! The native protocol of those who send audio.

use serde_json::json;
use testkit::eventually;

use crate::{
    client::Client,
    stage::{Setup, Stage},
    worker::Mood,
};

/// A sound that is easy to find again.
fn ramp(samples: u16) -> Vec<u8> {
    (0..samples).flat_map(u16::to_le_bytes).collect()
}

#[tokio::test]
async fn audio_is_heard_acknowledged_and_finished() {
    let stage = Stage::start().await;
    let mut client = stage.connect("alice", "").await;
    client.say(json!({"type": "init", "encoding": "pcm_s16le", "sampleRate": 16000, "channels": 1, "language": "en-US", "endpointingMs": 300})).await;
    let initialized = client.expect("initialized").await;
    let stream = initialized["stream"].clone();
    assert_eq!(initialized["acked"], 0);
    assert_eq!((&initialized["encoding"], &initialized["sampleRate"]), (&json!("pcm_s16le"), &json!(16000)));
    // Before any audio, it may think again.
    client
        .say(json!({"type": "init", "encoding": "pcm_s16le", "language": "en", "endpointingMs": 300}))
        .await;
    let stream_now = client.expect("initialized").await["stream"].clone();
    assert_ne!(stream, stream_now);

    let sound = ramp(8_000);
    for piece in sound.chunks(333) {
        client.send(piece.to_vec()).await;
    }
    client.say(json!({"type": "init"})).await;
    let error = client.expect("error").await;
    assert!(error["message"].as_str().unwrap().contains("init must come before audio"), "{error}");
    client.say(json!({"type": "finalize"})).await;
    client.say(json!({"type": "stop"})).await;
    let mut acked = 0;
    let stopped = loop {
        let said = client.said().await;
        match said["type"].as_str().unwrap() {
            "ack" => {
                assert_eq!(said["stream"], stream_now);
                let samples = said["samples"].as_u64().unwrap();
                assert!(samples >= acked, "acknowledgements never go back");
                acked = samples;
            }
            "stopped" => break said,
            "stt_status" => {}
            other => panic!("{other}"),
        }
    };
    assert_eq!(stopped, json!({"type": "stopped", "stream": stream_now, "samples": 8000}));
    stage.worker.heard(|heard| {
        let bytes: Vec<u8> = heard.samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        assert!(bytes == sound, "what was said is what is heard");
        let source = &heard.sources[0];
        assert_eq!(source.stream.to_string(), stream_now.as_str().unwrap());
        assert_eq!((source.language.as_deref(), source.endpointing_ms), (Some("en"), Some(300)));
        assert_eq!(source.speaker.identity.as_str(), "alice");
        assert_eq!((heard.finalized, heard.ended), (1, 1));
    });

    // After the end: an error for audio, a new stream after a new init.
    client.send(ramp(10)).await;
    assert!(client.expect("error").await["message"].as_str().unwrap().contains("after stop"));
    client.say(json!({"type": "stop"})).await;
    assert_eq!(client.expect("stopped").await, stopped, "the same answer again");
    client.say(json!({"type": "init"})).await;
    client.expect("initialized").await;
    client.send(ramp(160)).await;
    client.say(json!({"type": "stop"})).await;
    assert_eq!(client.expect("stopped").await["samples"], 160);
    stage.end().await;
}

#[tokio::test]
async fn every_stored_final_is_told_before_stopped() {
    let stage = Stage::start().await;
    let mut voice = stage.voice().await;
    let mut client = stage.connect("alice", "").await;
    client.send(ramp(320)).await;
    // The feed knows where it begins once it has told something.
    eventually("a final arrives", async || {
        voice.say(&stage, "first").await;
        client.say(json!({"type": "ping"})).await;
        let mut heard = false;
        loop {
            let said = client.said().await;
            heard |= said["type"] == "transcript_final";
            if said["type"] == "pong" {
                return heard;
            }
        }
    })
    .await;
    // The bus does not ring for these.
    for _ in 0..3 {
        voice.store(&stage, "last").await;
    }
    client.say(json!({"type": "stop"})).await;
    let mut last = 0;
    loop {
        let said = client.said().await;
        last += usize::from(said["text"] == "last");
        if said["type"] == "stopped" {
            break;
        }
    }
    assert_eq!(last, 3);
    stage.end().await;
}

#[tokio::test]
async fn stop_before_any_audio_is_answered() {
    let stage = Stage::start().await;
    let mut client = stage.connect("alice", "").await;
    client.say(json!({"type": "finalize"})).await;
    client.say(json!({"type": "stop"})).await;
    assert_eq!(client.expect("stopped").await, json!({"type": "stopped", "samples": 0}));
    client.send(ramp(10)).await;
    assert_eq!(client.expect("error").await["code"], "caller");
    client.settled().await;
    stage.end().await;
}

#[tokio::test]
async fn clients_of_system_a_just_send() {
    let stage = Setup::new().await.set("REJOIN_SECONDS", "0").start().await;
    let mut client = stage.connect("alice", "").await;
    let mut follower = stage.connect("bob", "").await;
    let sound = ramp(6_400);
    for byte in sound.chunks(1).take(101) {
        client.send(byte.to_vec()).await;
    }
    client.send(sound[101..].to_vec()).await;
    eventually("all of it is heard", async || stage.worker.heard(|heard| heard.samples.len() == 6_400)).await;
    let status = follower.expect("stt_status").await;
    assert_eq!(status["sessionSlug"], stage.session.as_str());
    if status["status"] != "ready" {
        assert_eq!(follower.expect("stt_status").await["status"], "ready");
    }
    let mut late = Client::connect(&stage.url_of("carol", ""), &[]).await;
    assert_eq!(late.said().await["type"], "connected");
    assert_eq!(late.said().await["status"], "ready", "late joiners are told");
    // Gone without a word: what was delivered is finished.
    client.vanish();
    eventually("its audio is finished", async || stage.worker.heard(|heard| heard.ended == 1)).await;
    assert_eq!(follower.expect("stt_status").await["status"], "stopped");
    stage.end().await;
}

#[tokio::test]
async fn encodings_are_decoded_on_the_way() {
    let stage = Stage::start().await;
    let wav = testkit::recording("LJ001-0002");
    let mut client = stage.connect("alice", "").await;
    for piece in std::fs::read(&wav.path).unwrap().chunks(4_096) {
        client.send(piece.to_vec()).await;
    }
    client.say(json!({"type": "stop"})).await;
    let samples = client.expect("stopped").await["samples"].as_u64().unwrap();
    assert_eq!(samples, wav.samples().len() as u64);
    let mut client = stage.connect("bob", "").await;
    client.say(json!({"type": "init", "encoding": "mulaw", "sampleRate": 8000})).await;
    client.expect("initialized").await;
    client.send(vec![0xff_u8; 8_000]).await;
    client.say(json!({"type": "stop"})).await;
    let samples = client.expect("stopped").await["samples"].as_u64().unwrap();
    assert!((15_900..=16_100).contains(&samples), "{samples}");
    stage.end().await;
}

#[tokio::test]
async fn a_full_house_is_told_with_a_time_to_come_back() {
    let stage = Stage::start().await;
    stage.worker.heard(|heard| heard.mood = Mood::Busy);
    let mut client = stage.connect("alice", "").await;
    client.say(json!({"type": "init"})).await;
    client.expect("initialized").await;
    client.send(ramp(320)).await;
    let (error, code, _) = client.ended().await;
    let error = error.unwrap();
    assert_eq!((error["code"].as_str(), code), (Some("overloaded"), 1013));
    assert!(error["retryAfterMs"].as_u64().unwrap() >= 1_000, "{error}");
    stage.end().await;
}

#[tokio::test]
async fn an_older_client_in_a_full_house_goes_on_as_a_follower_and_is_heard_once_there_is_room() {
    let stage = Stage::start().await;
    stage.worker.heard(|heard| heard.mood = Mood::Busy);
    let mut client = stage.connect("alice", "").await;
    client.send(ramp(320)).await;
    let error = client.expect("error").await;
    assert_eq!(error["code"], "overloaded");
    assert!(error["retryAfterMs"].as_u64().unwrap() >= 1_000, "{error}");
    let mut voice = stage.voice().await;
    voice.say(&stage, "hello").await;
    client.expect("transcript_final").await;
    stage.worker.heard(|heard| heard.mood = Mood::default());
    eventually("its audio is heard", async || {
        client.send(ramp(320)).await;
        stage.worker.heard(|heard| !heard.samples.is_empty())
    })
    .await;
    stage.end().await;
}

#[tokio::test]
async fn a_native_source_waits_while_nobody_takes_its_audio() {
    let stage = Setup::new().await.set("FRAMES_PER_SECOND", "100000").start().await;
    stage.worker.heard(|heard| heard.mood = Mood::Deaf);
    let mut client = stage.connect("alice", "").await;
    client.say(json!({"type": "init"})).await;
    client.expect("initialized").await;
    // Far more than the window of 30 s and all buffers: the edge stops reading, so sending must come to a halt.
    let second = vec![0_u8; 32_000];
    let sending = async {
        for _ in 0..2_000 {
            client.send(second.clone()).await;
        }
    };
    let stuck = tokio::time::timeout(std::time::Duration::from_secs(3), sending).await.is_err();
    assert!(stuck, "60 MB were taken though no worker took any");
    let mut other = stage.connect("bob", "").await;
    other.settled().await;
    let _ = stage.life.end(std::time::Duration::ZERO).await;
}
