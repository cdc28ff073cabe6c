//! Encoders push over RTMP, through nginx: every program and codec, networks that break.

use std::time::Duration;

use e2e::{Room, Stack, run, text};
use model::{Final, Samples};
use testkit::{Recording, eventually, new_ffmpeg, recording, recordings, wer::WordErrors};
use tokio::{
    process::Command,
    time::{sleep, timeout},
};

/// No recording is silent for longer at its end.
const SILENCE_AT_END: Samples = Samples::from_millis(1_500);

/// How much worse the words may be than those of the same recordings without an encoder: a point.
const WORSE_MAX: f64 = 0.01;

/// A stack whose sessions take their own names for keys.
async fn open_stack() -> Stack {
    Stack::set(&[("ENGINE_THREADS", "2"), ("RTMP_OPEN_KEYS", "true")]).await
}

/// The recording as an ffmpeg pushes it with these arguments.
async fn push(ffmpeg: &str, recording: &Recording, arguments: &str, url: &str) {
    let path = recording.path.display().to_string();
    let before = ["-nostdin", "-v", "error", "-i", &path];
    run(ffmpeg, before.into_iter().chain(arguments.split(' ')).chain(["-f", "flv", url])).await;
}

/// The recording as GStreamer pushes it out of this sink.
async fn launch(sink: &str, recording: &Recording, encoder: &str, url: &str) {
    let path = recording.path.display().to_string();
    let pipeline = format!(
        "filesrc location={path} ! wavparse ! audioconvert ! audioresample ! {encoder} ! flvmux streamable=true ! \
         {sink} location={url}"
    );
    run("gst-launch-1.0", ["-q"].into_iter().chain(pipeline.split_whitespace())).await;
}

/// The finals, once everything of the stream is stored. An ingest that waits for nobody tells that it has stopped when
/// its publisher leaves, and again when all is stored.
async fn finals(room: &Room, recording: &Recording) -> Vec<Final> {
    let length = Samples::of(recording.samples().len());
    let last = async || room.finals().await.last().is_some_and(|last| last.end + SILENCE_AT_END >= length);
    if timeout(Duration::from_secs(20), eventually("the last words are stored", last)).await.is_err() {
        eprintln!("{}: {length}: {:?}", recording.name, room.finals().await);
    }
    room.finals().await
}

fn some() -> Vec<Recording> {
    recordings().into_iter().filter(|recording| recording.name != "two_cities").collect()
}

/// The words of the recordings when they are sent as they are.
async fn plain_errors(stack: &Stack) -> WordErrors {
    let mut errors = WordErrors::default();
    for recording in some() {
        let room = stack.room();
        let mut alice = room.join("alice").await;
        alice.pour(&e2e::sound::pcm(&recording.samples()), 3_200).await;
        alice.stop().await;
        errors = errors + WordErrors::between(&recording.text, &text(&room.finals().await));
    }
    errors
}

#[tokio::test]
async fn an_encoder_pushes_and_followers_read() {
    let stack = open_stack().await;
    let room = stack.room();
    let mut bob = room.join("bob").await;
    let recording = recording("jfk");
    push("ffmpeg", &recording, "-c:a aac -b:a 128k -ar 44100 -ac 2", &stack.rtmp(room.slug.as_str())).await;
    let finals = finals(&room, &recording).await;
    let errors = WordErrors::between(&recording.text, &text(&finals));
    assert!(errors.rate() <= 0.1, "{errors:?}: {}", text(&finals));
    let told = bob.finals_to(finals.last().unwrap().sequence.0).await;
    assert_eq!(told.len(), finals.len());
    assert!(told.iter().all(|told| told["speakerId"] == "room"));
    let states: Vec<_> = bob.told("stt_status").into_iter().map(|told| told["status"].clone()).collect();
    assert!(states.iter().any(|state| state == "connecting") && states.iter().any(|state| state == "ready"));
}

#[tokio::test]
async fn every_encoder_gives_the_words_of_the_recording() {
    // A stream whose publisher may come back keeps its place at the worker; here nobody does.
    let settings = [("ENGINE_THREADS", "2"), ("RTMP_OPEN_KEYS", "true"), ("RTMP_REJOIN_SECONDS", "1")];
    let stack = Stack::set(&settings).await;
    let plain = plain_errors(&stack).await;
    eprintln!("without an encoder: {:.2} % of {} words", 100.0 * plain.rate(), plain.words);
    let new = new_ffmpeg();
    let aac = "voaacenc bitrate=96000 ! aacparse";
    let mut worse = Vec::new();
    for (program, codec) in [
        ("ffmpeg", "-c:a aac -b:a 128k -ar 44100 -ac 2"),
        ("ffmpeg", "-c:a aac -b:a 96k -ar 48000 -ac 1"),
        ("ffmpeg", "-c:a libmp3lame -b:a 96k -ar 44100 -ac 2"),
        ("rtmpsink", aac),
        ("rtmp2sink", aac),
        (&new, "-c:a libopus -b:a 48k -ac 2"),
        (&new, "-c:a flac -ar 48000 -ac 2"),
        (&new, "-c:a aac -b:a 128k -ar 48000"),
    ] {
        let mut errors = WordErrors::default();
        for recording in some() {
            let room = stack.room();
            let url = stack.rtmp(room.slug.as_str());
            match program {
                "rtmpsink" | "rtmp2sink" => launch(program, &recording, codec, &url).await,
                ffmpeg => push(ffmpeg, &recording, codec, &url).await,
            }
            let finals = finals(&room, &recording).await;
            errors = errors + WordErrors::between(&recording.text, &text(&finals));
        }
        eprintln!("{program} {codec}: {:.2} % of {} words", 100.0 * errors.rate(), errors.words);
        if errors.rate() > plain.rate() + WORSE_MAX {
            worse.push((program.to_owned(), codec, errors));
        }
    }
    assert!(worse.is_empty(), "{worse:?}");
}

#[tokio::test]
async fn a_push_that_is_cut_for_eight_seconds_is_one_stream_with_one_clock() {
    let stack = open_stack().await;
    let room = stack.room();
    let url = stack.rtmp(room.slug.as_str());
    let recording = recording("jfk");
    let path = recording.path.display().to_string();
    let live =
        ["-nostdin", "-v", "error", "-re", "-i", &path, "-c:a", "aac", "-ar", "44100", "-f", "flv", &url];
    // The first push dies without a word after a few seconds.
    let mut first = Command::new("ffmpeg").args(live).kill_on_drop(true).spawn().unwrap();
    sleep(Duration::from_secs(5)).await;
    first.kill().await.unwrap();
    // This is the length of the outage, which the story is about.
    sleep(Duration::from_secs(8)).await;
    run("ffmpeg", live).await;
    let length = Samples::of(recording.samples().len());
    let whole = async || {
        let last = room.finals().await.last().map_or(Samples(0), |last| last.end);
        last + SILENCE_AT_END >= length + Samples::from_millis(12_000)
    };
    eventually("the last words are stored", whole).await;
    let finals = room.finals().await;
    let stream = finals[0].utterance.stream();
    assert!(finals.iter().all(|segment| segment.utterance.stream() == stream), "one stream");
    assert!(finals.is_sorted_by(|one, next| one.end <= next.start), "one clock");
    // The second push is whole: what stands after the outage is all that was said.
    let rest: Vec<Final> =
        finals.into_iter().filter(|segment| segment.start > Samples::from_millis(9_000)).collect();
    let errors = WordErrors::between(&recording.text, &text(&rest));
    assert!(errors.rate() <= 0.1, "{errors:?}: {}", text(&rest));
    let begun = rest[0].start;
    assert!((Samples::from_millis(11_000)..Samples::from_millis(16_000)).contains(&begun), "{begun}");
}

#[tokio::test]
async fn a_killed_ingest_costs_what_it_held_and_the_next_push_is_whole() {
    let settings = [("ENGINE_THREADS", "2"), ("RTMP_OPEN_KEYS", "true"), ("LINGER_SECONDS", "2")];
    let mut stack = Stack::set(&settings).await;
    let room = stack.room();
    let url = stack.rtmp(room.slug.as_str());
    let mut bob = room.join("bob").await;
    let (long, again) = (recording("two_cities"), recording("jfk"));
    let path = long.path.display().to_string();
    let live =
        ["-nostdin", "-v", "quiet", "-re", "-i", &path, "-c:a", "aac", "-ar", "44100", "-f", "flv", &url];
    let mut first = Command::new("ffmpeg").args(live).kill_on_drop(true).spawn().unwrap();
    bob.finals_to(1).await;
    stack.ingest.kill();
    assert!(!first.wait().await.unwrap().success(), "nginx passes the end on, and the encoder comes back");
    stack.restart_ingest().await;
    push("ffmpeg", &again, "-c:a aac -b:a 96k -ar 48000", &url).await;

    let of_second = async || -> Vec<Final> {
        let finals = room.finals().await;
        let first = finals[0].utterance.stream();
        finals.into_iter().filter(|segment| segment.utterance.stream() != first).collect()
    };
    let length = Samples::of(again.samples().len());
    let whole = async || of_second().await.last().is_some_and(|last| last.end + SILENCE_AT_END >= length);
    eventually("the second push is stored", whole).await;
    let second = of_second().await;
    let errors = WordErrors::between(&again.text, &text(&second));
    assert!(errors.rate() <= 0.1, "{errors:?}: {}", text(&second));
    let stored = room.finals().await;
    let told = bob.finals_to(stored.last().unwrap().sequence.0).await;
    let told: Vec<u64> = told.iter().map(|told| told["sequence"].as_u64().unwrap()).collect();
    assert_eq!(told, (1..=stored.len() as u64).collect::<Vec<_>>(), "once, in order");
}

#[tokio::test]
async fn an_encoder_pushes_over_tls_with_a_signed_key() {
    let stack = Stack::start().await;
    let room = stack.room();
    let recording = recording("jfk");
    let url = format!(
        "rtmps://127.0.0.1:{}/live/{}?token={}",
        stack.nginx.rtmps_port,
        room.slug,
        room.token("alice")
    );
    push("ffmpeg", &recording, "-c:a aac -b:a 96k -ar 48000", &url).await;
    let finals = finals(&room, &recording).await;
    let errors = WordErrors::between(&recording.text, &text(&finals));
    assert!(errors.rate() <= 0.1, "{errors:?}: {}", text(&finals));
    assert!(finals.iter().all(|segment| segment.speaker.identity.as_str() == "alice"));
    assert!(!e2e::logged().contains(&room.token("alice")), "no key in a log");
    assert!(!stack.nginx.everything_it_said().contains("eyJ"), "nor in those of nginx");
}
