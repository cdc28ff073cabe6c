//! A person at a real browser.

use e2e::{Browser, Microphone, Stack, sound, text};
use testkit::{recording, wer::WordErrors};

#[tokio::test]
async fn a_browser_is_understood_like_a_file() {
    let stack = Stack::start().await;
    let recording = recording("jfk");
    let room = stack.room();
    let mut file = room.join("file").await;
    file.init(serde_json::json!({"encoding": "wav"})).await;
    file.pour(&std::fs::read(&recording.path).unwrap(), 16_000).await;
    file.stop().await;
    let of_file = text(&room.finals().await);

    // A breath before and after, as people do, and because a microphone takes a moment to open.
    let samples = [sound::silence(1), recording.samples(), sound::silence(1)].concat();
    let page = stack.http("/health");
    let speak = async |microphone: Microphone| {
        let room = stack.room();
        let mut follower = room.join("follower").await;
        let mut browser = Browser::hearing(&samples).await;
        let told = browser.speak(&page, &room.token("alice"), microphone).await;
        browser.close().await;
        assert_eq!(told[0]["type"], "connected", "{microphone:?}");
        assert!(told.iter().any(|message| message["type"] == "transcript_partial"), "{microphone:?}");
        let finals = room.finals().await;
        let errors = WordErrors::between(&of_file, &text(&finals));
        assert!(errors.rate() <= 0.1, "{microphone:?}: {errors:?}: {}", text(&finals));
        follower.finals_to(finals.last().unwrap().sequence.0).await;
    };
    tokio::join!(speak(Microphone::Recorder), speak(Microphone::Worklet));
}
