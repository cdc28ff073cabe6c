//! The sound of a track, as LiveKit's egress sends it.

use std::{
    f64::consts::TAU,
    time::{Duration, Instant},
};

use auth::SessionClaims;
use serde_json::json;
use testkit::{eventually, tokens};
use tokio::time::sleep;

use crate::{
    client::{Client, Read},
    http::get,
    stage::{Setup, Stage},
};

/// Of 20 ms at 48 kHz in stereo.
const FRAME_BYTES: usize = 960 * 4;

const LOUD: f64 = 12_000.0;

fn token(stage: &Stage) -> String {
    let claims = SessionClaims {
        scope: Some("egress".into()),
        session_id: Some("s 1".into()),
        track: Some("TR_1".into()),
        name: Some("Alice".into()),
        ..tokens::claims(&stage.session, "alice")
    };
    tokens::sign(&stage.secret, &claims)
}

async fn egress(stage: &Stage, more: &str) -> Client {
    let url = format!("ws://{}/egress/audio/s%201/TR_1?token={}{more}", stage.running.address, token(stage));
    Client::connect(&url, &[("content-type", "audio/x-raw")]).await
}

/// A tone of 440 Hz at 48 kHz in stereo, the same in both channels.
fn tone(frames: usize) -> Vec<Vec<u8>> {
    let sample = |n: usize| ((n as f64 * 440.0 * TAU / 48_000.0).sin() * LOUD) as i16;
    let stereo = (0..frames * 960).flat_map(|n| [sample(n), sample(n)]);
    let bytes: Vec<u8> = stereo.flat_map(i16::to_le_bytes).collect();
    bytes.chunks(FRAME_BYTES).map(<[u8]>::to_vec).collect()
}

async fn play(egress: &mut Client, frames: usize) {
    for frame in tone(frames) {
        egress.send(frame).await;
    }
}

async fn heard(stage: &Stage, samples: usize) {
    eventually("the worker hears it", async || stage.worker.heard(|heard| heard.samples.len() >= samples))
        .await;
}

/// Where nothing is heard for at least 50 ms: begin and end, in samples.
fn pauses(samples: &[i16]) -> Vec<(usize, usize)> {
    let mut pauses = Vec::new();
    let mut since = None;
    for (at, sample) in samples.iter().map(|sample| sample.unsigned_abs()).enumerate() {
        match (sample < 200, since) {
            (true, None) => since = Some(at),
            (false, Some(begin)) => {
                if at - begin >= 800 {
                    pauses.push((begin, at));
                }
                since = None;
            }
            _ => {}
        }
    }
    pauses
}

#[tokio::test]
async fn stereo_at_48_khz_is_heard_as_mono_at_16() {
    let stage = Setup::new().await.set("REJOIN_SECONDS", "0").start().await;
    let mut client = egress(&stage, "").await;
    play(&mut client, 100).await;
    client.close().await;
    eventually("the stream has ended", async || stage.worker.heard(|heard| heard.ended == 1)).await;
    stage.worker.heard(|heard| {
        let length = heard.samples.len();
        assert!((31_900..=32_100).contains(&length), "two seconds, not {length} samples");
        let middle = &heard.samples[8_000..24_000];
        let crossings = middle.windows(2).filter(|pair| (pair[0] < 0) != (pair[1] < 0)).count();
        assert!((876..=884).contains(&crossings), "440 Hz, not {crossings} changes of sign in a second");
        let loudest = f64::from(middle.iter().copied().max().unwrap());
        assert!((LOUD * 0.95..LOUD * 1.05).contains(&loudest), "as loud as it was, not {loudest}");
        let source = &heard.sources[0];
        assert_eq!(source.session, stage.session);
        assert_eq!(source.speaker.identity.as_str(), "alice");
        assert_eq!((source.speaker.name.as_deref(), source.is_room), (Some("Alice"), false));
        assert_eq!((heard.sources.len(), heard.resumed_at[0]), (1, 0));
    });
    stage.end().await;
}

#[tokio::test]
async fn the_time_of_a_mute_is_silence() {
    let stage = Setup::new().await.set("REJOIN_SECONDS", "0").start().await;
    let mut client = egress(&stage, "").await;
    play(&mut client, 10).await;
    heard(&stage, 3_000).await;
    let began = Instant::now();
    client.say(json!({"muted": true})).await;
    eventually("what was said is finished", async || stage.worker.heard(|heard| heard.finalized == 1)).await;
    sleep(Duration::from_millis(800)).await;
    client.say(json!({"muted": false})).await;
    let pause = began.elapsed();
    play(&mut client, 10).await;
    client.close().await;
    eventually("the stream has ended", async || stage.worker.heard(|heard| heard.ended == 1)).await;
    stage.worker.heard(|heard| {
        assert_eq!(heard.sources.len(), 1, "one stream all the while");
        let found = pauses(&heard.samples);
        let [(begin, end)] = found[..] else { panic!("one pause, not {found:?}") };
        assert!((3_100..=3_300).contains(&begin), "after 200 ms, not {begin} samples");
        // The 200 ms before it were sent at once, and came ahead of the clock.
        let (silent, waited) = ((end - begin) as f64 / 16_000.0, pause.as_secs_f64());
        assert!(silent > waited - 0.3, "{silent} s of silence for a mute of {waited} s");
        let after = heard.samples.len() - end;
        assert!((3_100..=3_300).contains(&after), "and 200 ms again, not {after} samples");
    });
    stage.end().await;
}

#[tokio::test]
async fn sound_that_only_comes_late_is_no_pause() {
    let stage = Setup::new().await.set("REJOIN_SECONDS", "0").start().await;
    let mut client = egress(&stage, "").await;
    for _ in 0..3 {
        play(&mut client, 5).await;
        sleep(Duration::from_millis(250)).await;
    }
    client.close().await;
    eventually("the stream has ended", async || stage.worker.heard(|heard| heard.ended == 1)).await;
    stage.worker.heard(|heard| {
        let length = heard.samples.len();
        assert!((4_700..=4_900).contains(&length), "300 ms, not {length} samples");
    });
    stage.end().await;
}

#[tokio::test]
async fn a_few_odd_frames_are_survived_and_five_in_a_row_are_not() {
    let stage = Stage::start().await;
    let mut client = egress(&stage, "").await;
    for _ in 0..3 {
        for odd in [vec![], vec![1], vec![1, 2], vec![7; FRAME_BYTES + 2]] {
            client.send(odd).await;
        }
        play(&mut client, 5).await;
    }
    heard(&stage, 4_700).await;
    client.say_text("{").await;
    client.say_text(&format!(r#"{{"muted":true,"x":"{}"}}"#, "x".repeat(4096))).await;
    client.say(json!({"muted": "yes"})).await;
    for _ in 0..5 {
        client.send(vec![1, 2, 3]).await;
    }
    assert_eq!(client.read().await, Read::Closed(1000, "Too many errors".into()));
    eventually("the stream is finished", async || stage.worker.heard(|heard| heard.ended == 1)).await;
    stage.worker.heard(|heard| {
        assert!((4_700..=4_900).contains(&heard.samples.len()), "{}", heard.samples.len());
        assert_eq!(heard.finalized, 0, "no text of these meant anything");
    });
    stage.end().await;
}

#[tokio::test]
async fn a_path_without_session_and_track_is_named() {
    let stage = Stage::start().await;
    for path in [
        "/egress/",
        "/egress/audio",
        "/egress/audio/",
        "/egress/audio/s1",
        "/egress/audio/s1/",
        "/egress/a/b/c/d",
    ] {
        let url = format!("ws://{}{path}?token={}", stage.running.address, token(&stage));
        let mut client = Client::connect(&url, &[]).await;
        let (_, code, reason) = client.ended().await;
        let expected = "Invalid URL format. Expected: /egress/audio/{sessionId}/{trackId}";
        assert_eq!((code, reason.as_str()), (4001, expected), "{path}");
    }
    stage.end().await;
}

#[tokio::test]
async fn an_egress_that_is_soon_back_goes_on() {
    let stage = Stage::start().await;
    let mut client = egress(&stage, "").await;
    play(&mut client, 10).await;
    heard(&stage, 3_000).await;
    client.vanish();
    eventually("what was said is finished", async || stage.worker.heard(|heard| heard.finalized > 0)).await;
    let mut client = egress(&stage, "").await;
    play(&mut client, 10).await;
    heard(&stage, 6_100).await;
    stage.worker.heard(|heard| assert_eq!((heard.sources.len(), heard.ended), (1, 0), "the same stream"));
    stage.end().await;
}

#[tokio::test]
async fn the_address_may_say_another_format() {
    let stage = Setup::new().await.set("REJOIN_SECONDS", "0").start().await;
    let mut client = egress(&stage, "&sampleRate=16000&channels=1").await;
    let ramp: Vec<i16> = (0..3_200).collect();
    for piece in ramp.chunks(320) {
        client.send(piece.iter().copied().flat_map(i16::to_le_bytes).collect::<Vec<u8>>()).await;
    }
    client.close().await;
    eventually("the stream has ended", async || stage.worker.heard(|heard| heard.ended == 1)).await;
    stage.worker.heard(|heard| assert!(heard.samples == ramp, "bit by bit"));
    stage.end().await;

    let setup = Setup::new().await.set("EGRESS_SAMPLE_RATE", "16000").set("EGRESS_CHANNELS", "1");
    let stage = setup.set("REJOIN_SECONDS", "0").start().await;
    let mut client = egress(&stage, "").await;
    client.send(ramp.iter().copied().flat_map(i16::to_le_bytes).collect::<Vec<u8>>()).await;
    client.close().await;
    eventually("the stream has ended", async || stage.worker.heard(|heard| heard.ended == 1)).await;
    stage.worker.heard(|heard| assert!(heard.samples == ramp, "so may the settings"));
    stage.end().await;
}

#[tokio::test]
async fn a_drain_stops_the_stream_and_sends_the_egress_away() {
    let stage = Stage::start().await;
    let mut client = egress(&stage, "").await;
    play(&mut client, 50).await;
    heard(&stage, 8_000).await;
    let (ended, closed) = tokio::join!(stage.life.end(Duration::from_secs(20)), client.ended());
    assert_eq!(ended, Ok(()));
    assert_eq!((closed.1, closed.2.as_str()), (1001, "Server is restarting, reconnect"));
    stage.worker.heard(|heard| {
        assert_eq!((heard.sources.len(), heard.ended), (1, 1));
        assert!((15_900..=16_100).contains(&heard.samples.len()), "all of it: {}", heard.samples.len());
    });
}

#[tokio::test]
async fn an_egress_of_which_nothing_comes_is_gone() {
    let stage = Setup::new().await.set("PING_INTERVAL_MS", "50").start().await;
    // Nobody reads what it is sent, so it answers no ping.
    let mut client = egress(&stage, "").await;
    eventually("it is given up", async || {
        get(&stage, "/metrics").await.1["counters"]["ws.heartbeat_timeouts_total"] == 1
    })
    .await;
    assert_eq!(client.read().await, Read::Closed(4008, "Heartbeat timeout".into()));
    stage.end().await;
}
