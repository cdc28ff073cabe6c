//! Where nobody speaks there are no words. `PARLEY_SOAK_MINUTES=10` makes each of them ten minutes long instead of one.

use e2e::{Stack, sound, text};
use serde_json::json;
use testkit::soak_minutes;

#[tokio::test]
async fn silence_hum_and_noise_say_nothing() {
    let stack = Stack::start().await;
    let seconds = soak_minutes().unwrap_or(1) * 60;
    let speak = async |name: &str, samples: Vec<i16>| {
        let room = stack.room();
        let mut alice = room.join("alice").await;
        alice.init(json!({"encoding": "pcm_s16le"})).await;
        alice.pour(&sound::pcm(&samples), 32_000).await;
        assert_eq!(alice.stop().await, samples.len() as u64);
        let finals = room.finals().await;
        assert!(finals.is_empty(), "{name}: {}", text(&finals));
        alice.settled().await;
        let shown: Vec<_> =
            alice.told("transcript_partial").into_iter().map(|shown| shown["text"].clone()).collect();
        assert!(shown.is_empty(), "{name}: {shown:?}");
    };
    speak("silence", sound::silence(seconds)).await;
    speak("hum", sound::hum(seconds)).await;
    speak("noise", sound::noise(seconds)).await;
}
