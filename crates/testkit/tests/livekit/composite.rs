use std::process::Stdio;

use livekit::{EgressStatus, Target};
use testkit::{LiveKitServer, ScratchFolder, eventually, free_port};
use tokio::process::{Child, Command};

use crate::client;

/// An RTMP server for one publisher, which writes what it hears as PCM, 16 kHz mono.
fn receiver(url: &str, folder: &ScratchFolder, file: &str) -> Child {
    Command::new("ffmpeg")
        .args(["-v", "quiet", "-listen", "1", "-i", url, "-f", "s16le", "-ar", "16000", "-ac", "1"])
        .args(["-flush_packets", "1", "-y"])
        .arg(folder.path().join(file))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// The loudest sample so far.
fn loudest(folder: &ScratchFolder, file: &str) -> u16 {
    let bytes = std::fs::read(folder.path().join(file)).unwrap_or_default();
    let (samples, _) = bytes.as_chunks();
    samples.iter().map(|pair| i16::from_le_bytes(*pair).unsigned_abs()).max().unwrap_or(0)
}

/// A second of 400 Hz at a tenth of full scale.
fn tone() -> Vec<i16> {
    (0..16_000)
        .map(|sample: u16| ((f32::from(sample) * std::f32::consts::TAU / 40.0).sin() * 3277.0) as i16)
        .collect()
}

#[tokio::test]
async fn a_room_is_mixed_and_pushed_and_a_lost_sink_is_dialled_again() {
    let server = LiveKitServer::start().await;
    let (livekit, folder) = (client(&server), ScratchFolder::new("composite"));
    let url = format!("rtmp://127.0.0.1:{}/live/a-long-secret-key", free_port());
    let room = server.room("demo");
    let alice = room.join("alice", "Alice").publish();
    let bob = room.join("bob", "Bob").publish();
    let mut first = receiver(&url, &folder, "first");
    let egress = livekit.start_composite_egress("demo", &url).await.unwrap();
    let Target::Composite { urls } = &egress.target else { panic!("{egress:?}") };
    assert!(urls[0].expose().ends_with("/live/{a-l...key}"), "the key is hidden");
    assert_eq!(server.egresses()[0].url, url);

    let tone = tone();
    // Two who say the same are louder than one.
    eventually("both are heard", async || {
        tokio::join!(alice.play(&tone), bob.play(&tone));
        loudest(&folder, "first") > 5000
    })
    .await;

    first.kill().await.unwrap();
    let _second = receiver(&url, &folder, "second");
    alice.mute(true);
    eventually("one is heard at another sink", async || {
        tokio::join!(alice.play(&tone), bob.play(&tone));
        loudest(&folder, "second") > 2500
    })
    .await;
    assert!(loudest(&folder, "second") < 5000, "nobody hears what is muted");
    assert!(server.egresses()[0].retries > 0);
    let listed = livekit.egresses(Some("demo")).await.unwrap();
    assert_eq!(listed[0].status, EgressStatus::Active);

    livekit.stop_egress(&egress.id).await.unwrap();
    eventually("the egress has ended", async || livekit.egresses(None).await.unwrap().is_empty()).await;
    assert_eq!(server.egresses()[0].status, testkit::livekit::EgressStatus::EgressComplete);
}
