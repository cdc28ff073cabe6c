use testkit::{LiveKitServer, eventually, livekit::EgressStatus};

use crate::{
    client,
    track_sink::{Heard, TrackSink},
};

/// A second of samples none of which is silent.
fn ramp() -> Vec<i16> {
    (1..=16_000).collect()
}

/// What was heard, back at 16 kHz mono.
fn samples(heard: &[Heard]) -> Vec<i16> {
    let mut samples = Vec::new();
    for message in heard {
        let Heard::Sound(bytes) = message else { continue };
        assert_eq!(bytes.len(), 3840, "20 ms at 192,000 bytes a second");
        let (frames, _) = bytes.as_chunks::<12>();
        for frame in frames {
            assert_eq!(frame[8..10], frame[10..12], "both channels are the same");
            samples.push(i16::from_le_bytes([frame[8], frame[9]]));
        }
    }
    samples
}

fn text(muted: bool) -> Heard {
    Heard::Text(format!(r#"{{"muted":{muted}}}"#))
}

async fn status(server: &LiveKitServer, expected: EgressStatus) {
    eventually(&format!("an egress is {expected:?}"), async || {
        server.egresses().last().is_some_and(|egress| egress.status == expected)
    })
    .await;
}

#[tokio::test]
async fn what_a_track_plays_arrives_whole_with_its_silence_and_its_mutes() {
    let server = LiveKitServer::start().await;
    let (livekit, sink) = (client(&server), TrackSink::start().await);
    let track = server.room("demo").join("alice", "Alice").publish();
    let egress = livekit.start_track_egress("demo", track.id(), &sink.url("")).await.unwrap();
    let heard = sink.until("silence", |heard| heard.len() > 2).await;
    assert_eq!(heard[0], Heard::Began("audio/x-raw".to_owned()));
    assert!(samples(&heard).iter().all(|sample| *sample == 0));

    track.play(&ramp()).await;
    track.play(&ramp()).await;
    let twice = [ramp(), ramp()].concat();
    let all = |heard: &[Heard]| samples(heard).iter().filter(|sample| **sample != 0).count() >= twice.len();
    let heard = sink.until("two seconds", all).await;
    let heard = samples(&heard);
    let heard: Vec<i16> = heard.into_iter().filter(|sample| *sample != 0).collect();
    assert_eq!(heard, twice);

    track.mute(true);
    sink.until("the word of a mute", |heard| heard.contains(&text(true))).await;
    track.play(&ramp()[..4800]).await;
    track.mute(false);
    let heard = sink
        .until("sound again", |heard| {
            heard.iter().skip_while(|message| **message != text(false)).nth(1).is_some()
        })
        .await;
    let muted = heard.iter().position(|message| *message == text(true)).unwrap();
    assert_eq!(heard[muted + 1], text(false), "nothing comes while it is muted");

    livekit.stop_egress(&egress.id).await.unwrap();
    let heard = sink.until("the end", |heard| heard.contains(&Heard::Gone)).await;
    assert_eq!(heard[heard.len() - 2..], [Heard::Closed { empty: true }, Heard::Gone]);
    status(&server, EgressStatus::EgressComplete).await;
}

#[tokio::test]
async fn egresses_end_with_their_track_or_their_room() {
    let server = LiveKitServer::start().await;
    let (livekit, room) = (client(&server), server.room("demo"));
    for end in [0, 1, 2] {
        let sink = TrackSink::start().await;
        let alice = room.join("alice", "Alice");
        let track = alice.publish();
        livekit.start_track_egress("demo", track.id(), &sink.url("")).await.unwrap();
        sink.until("silence", |heard| heard.len() > 1).await;
        match end {
            0 => track.unpublish(),
            1 => alice.leave(),
            _ => room.finish(),
        }
        sink.until("a proper end", |heard| heard.contains(&Heard::Closed { empty: true })).await;
        status(&server, EgressStatus::EgressComplete).await;
    }
    assert!(livekit.audio_tracks("demo").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_killed_egress_is_gone_without_a_word_and_nobody_dials_again() {
    let server = LiveKitServer::start().await;
    let (livekit, sink) = (client(&server), TrackSink::start().await);
    let track = server.room("demo").join("alice", "Alice").publish();
    livekit.start_track_egress("demo", track.id(), &sink.url("")).await.unwrap();
    sink.until("silence", |heard| heard.len() > 1).await;
    server.kill_egress(track.id());
    let heard = sink.until("the end", |heard| heard.contains(&Heard::Gone)).await;
    assert!(!heard.iter().any(|message| matches!(message, Heard::Closed { .. })));
    status(&server, EgressStatus::EgressFailed).await;
    assert_eq!(livekit.egresses(None).await, Ok(Vec::new()));

    livekit.start_track_egress("demo", track.id(), &sink.url("")).await.unwrap();
    status(&server, EgressStatus::EgressActive).await;
    sink.close();
    status(&server, EgressStatus::EgressComplete).await;
    let begun = sink.heard().iter().filter(|message| matches!(message, Heard::Began(_))).count();
    assert_eq!(begun, 2);
}

#[tokio::test]
async fn an_egress_without_a_track_or_a_sink_fails() {
    let server = LiveKitServer::start().await;
    let livekit = client(&server);
    let track = server.room("demo").join("alice", "Alice").publish();
    livekit.start_track_egress("demo", "TR_unknown", "ws://127.0.0.1:1/").await.unwrap();
    status(&server, EgressStatus::EgressFailed).await;
    livekit.start_track_egress("demo", track.id(), "ws://127.0.0.1:1/").await.unwrap();
    status(&server, EgressStatus::EgressFailed).await;
    assert_eq!(server.egresses().len(), 2);
}
