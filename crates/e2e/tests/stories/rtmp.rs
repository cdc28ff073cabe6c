//! Encoders push over RTMP, through nginx: every program and codec, networks that break, keys that are none.

use e2e::{Room, Stack, run, text};
use model::{Final, Samples};
use testkit::{Recording, eventually, recording, wer::WordErrors};

/// No recording is silent for longer at its end.
const SILENCE_AT_END: Samples = Samples::from_millis(1_500);

/// A stack whose sessions take their own names for keys.
async fn open_stack() -> Stack {
    Stack::set(&[("ENGINE_THREADS", "2"), ("RTMP_OPEN_KEYS", "true")]).await
}

/// The recording as ffmpeg pushes it with these arguments.
async fn push(recording: &Recording, arguments: &str, url: &str) {
    let path = recording.path.display().to_string();
    let before = ["-nostdin", "-v", "error", "-i", &path];
    run("ffmpeg", before.into_iter().chain(arguments.split(' ')).chain(["-f", "flv", url])).await;
}

/// The finals, once the last words of the recording are stored.
async fn finals(room: &Room, recording: &Recording) -> Vec<Final> {
    let length = Samples::of(recording.samples().len());
    let last = async || room.finals().await.last().is_some_and(|last| last.end + SILENCE_AT_END >= length);
    eventually("the last words are stored", last).await;
    room.finals().await
}

#[tokio::test]
async fn an_encoder_pushes_and_followers_read() {
    let stack = open_stack().await;
    let room = stack.room();
    let mut bob = room.join("bob").await;
    let recording = recording("jfk");
    push(&recording, "-c:a aac -b:a 128k -ar 44100 -ac 2", &stack.rtmp(room.slug.as_str())).await;
    let finals = finals(&room, &recording).await;
    let errors = WordErrors::between(&recording.text, &text(&finals));
    assert!(errors.rate() <= 0.1, "{errors:?}: {}", text(&finals));
    let told = bob.finals_to(finals.last().unwrap().sequence.0).await;
    assert_eq!(told.len(), finals.len());
    assert!(told.iter().all(|told| told["speakerId"] == "room"));
}
