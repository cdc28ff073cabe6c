//! The same words, however they are encoded.

use e2e::{Stack, sound, text};
use serde_json::{Value, json};
use testkit::{recording, wer::WordErrors};

#[tokio::test]
async fn the_words_are_the_same_in_every_encoding() {
    let stack = Stack::set(&[("ENGINE_THREADS", "2")]).await;
    let recording = recording("jfk");
    let raw = |name: &str, rate: u32, channels: u32| json!({"encoding": name, "sampleRate": rate, "channels": channels});
    let declared = |name: &str| json!({ "encoding": name });
    // What ffmpeg is asked for, and what the client says about it: nothing, where the bytes say it themselves.
    let encodings: [(&str, Value); 14] = [
        ("-f wav", Value::Null),
        ("-f wav -ar 44100 -ac 2", declared("wav")),
        ("-c:a flac -f flac", Value::Null),
        ("-c:a flac -ar 48000 -ac 2 -f flac", declared("flac")),
        ("-c:a libmp3lame -b:a 64k -f mp3", declared("auto")),
        ("-c:a libmp3lame -ar 44100 -ac 2 -b:a 128k -f mp3", declared("mp3")),
        ("-c:a libopus -b:a 32k -f ogg", declared("ogg")),
        ("-c:a libopus -b:a 32k -f webm -live 1 -cluster_time_limit 500", Value::Null),
        ("-c:a libopus -b:a 64k -ac 2 -f webm", declared("webm")),
        ("-c:a pcm_mulaw -ar 8000 -f mulaw", raw("mulaw", 8_000, 1)),
        ("-c:a pcm_alaw -ar 8000 -f alaw", raw("alaw", 8_000, 1)),
        ("-c:a pcm_f32le -ar 48000 -ac 2 -f f32le", raw("f32le", 48_000, 2)),
        ("-c:a pcm_s16le -ar 44100 -ac 2 -f s16le", raw("pcm_s16le", 44_100, 2)),
        ("-c:a pcm_s16le -f s16le", Value::Null),
    ];
    for (arguments, init) in encodings {
        let room = stack.room();
        let arguments_list: Vec<&str> = arguments.split(' ').collect();
        let bytes = sound::converted(&recording.path, &arguments_list).await;
        let mut alice = room.join("alice").await;
        if !init.is_null() {
            alice.init(init).await;
        }
        // An odd size: samples, frames and pages are cut anywhere.
        alice.pour(&bytes, 16_411).await;
        let seconds = alice.stop().await as f64 / 16_000.0;
        let (length, finals) = (recording.samples().len() as f64 / 16_000.0, room.finals().await);
        assert!((seconds - length).abs() < 0.2, "{arguments}: {seconds} s instead of {length}");
        let errors = WordErrors::between(&recording.text, &text(&finals));
        assert!(errors.rate() <= 0.1, "{arguments}: {errors:?}: {}", text(&finals));
        assert!(alice.told("warning").is_empty(), "{arguments}: {:?}", alice.told("warning"));
    }
}
