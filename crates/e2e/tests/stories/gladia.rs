//! A provider understands the sound, loses its connection, or refuses.

use std::sync::Mutex;

use e2e::{Plan, Stack, sound::pcm, text};
use serde_json::json;
use speech::{ModelFiles, Moonshine, Recognizer};
use testkit::{GladiaServer, recording, wer::WordErrors};

const KEY: &str = GladiaServer::KEY;

/// A Gladia that hears as well as we do.
async fn gladia() -> GladiaServer {
    let here = std::env::current_dir().unwrap();
    let directory = testkit::model_dir();
    let files = ModelFiles::find(directory.as_deref(), &here).unwrap();
    let moonshine = Mutex::new(Moonshine::load(&files, 1).unwrap());
    GladiaServer::start(move |samples| {
        let pcm: Vec<f32> = samples.iter().map(|sample| f32::from(*sample) / 32_768.0).collect();
        moonshine.lock().unwrap().recognize(&pcm, &speech::Wanted::default()).unwrap().text()
    })
    .await
}

async fn stack(gladia: &GladiaServer, key: &str) -> Stack {
    let settings = vec![("GLADIA_API_KEY", key.to_owned()), ("GLADIA_API_URL", gladia.url())];
    Stack::with(Plan { settings, alone: true, ..Plan::default() }).await
}

#[tokio::test]
async fn five_lost_connections_cost_no_word_and_double_none() {
    let gladia = gladia().await;
    let stack = stack(&gladia, KEY).await;
    let samples: Vec<i16> = ["LJ001-0004", "LJ001-0009", "jfk"]
        .iter()
        .flat_map(|name| pause(recording(name).samples()))
        .collect();
    let mut texts = Vec::new();
    for drops in [0, 5] {
        let room = stack.room();
        let mut alice = room.join("alice").await;
        gladia.drop_after_bytes(100_000, drops);
        alice.speak(&samples).await;
        alice.stop().await;
        let engines: Vec<_> = alice.told("stt_status").iter().map(|told| told["engine"].clone()).collect();
        assert!(engines.contains(&json!("gladia")) && !engines.contains(&json!("moonshine")), "{engines:?}");
        texts.push(text(&room.finals().await));
    }
    assert_eq!(gladia.sockets(), gladia.sessions() + 5);
    assert_eq!(texts[0], texts[1], "the same words, each once");
    let said = ["LJ001-0004", "LJ001-0009", "jfk"].map(|name| recording(name).text).join(" ");
    let errors = WordErrors::between(&said, &texts[0]);
    assert!(errors.rate() <= 0.1, "{errors:?}");
}

/// With a second of silence after it.
fn pause(mut samples: Vec<i16>) -> Vec<i16> {
    samples.extend(e2e::sound::silence(1));
    samples
}

#[tokio::test]
async fn what_gladia_refuses_the_embedded_engine_hears_and_everybody_is_told() {
    for (key, status, reason) in [
        ("another key", None, "unauthorized"),
        (KEY, Some(402), "quota"),
        (KEY, Some(400), "refused"),
        (KEY, Some(503), "unavailable"),
    ] {
        let gladia = gladia().await;
        let stack = stack(&gladia, key).await;
        if let Some(status) = status {
            gladia.refuse_next(status, 10);
        }
        let room = stack.room();
        let mut alice = room.join("alice").await;
        let jfk = recording("jfk");
        alice.pour(&pcm(&jfk.samples()), 3_200).await;
        alice.stop().await;
        let told = alice.told("stt_status");
        let fallback = told.iter().find(|told| told["fallbackFrom"] == "gladia");
        let fallback = fallback.unwrap_or_else(|| panic!("{reason}: {told:?}"));
        assert_eq!((&fallback["engine"], &fallback["reason"]), (&json!("moonshine"), &json!(reason)));
        let errors = WordErrors::between(&jfk.text, &text(&room.finals().await));
        assert!(errors.rate() <= 0.1, "{reason}: {errors:?}");
    }
}

#[tokio::test]
async fn a_provider_that_fails_in_mid_speech_leaves_the_rest_to_the_embedded_engine() {
    let gladia = gladia().await;
    let stack = stack(&gladia, KEY).await;
    let room = stack.room();
    let mut alice = room.join("alice").await;
    let samples: Vec<i16> = ["LJ001-0004", "LJ001-0009", "jfk"]
        .iter()
        .flat_map(|name| pause(recording(name).samples()))
        .collect();
    let (before, after) = samples.split_at(samples.len() / 2);
    alice.speak(before).await;
    // What a client is at fault for: nobody connects again.
    gladia.drop_socket(Some(4_403));
    alice.speak(after).await;
    alice.stop().await;
    let said = ["LJ001-0004", "LJ001-0009", "jfk"].map(|name| recording(name).text).join(" ");
    let errors = WordErrors::between(&said, &text(&room.finals().await));
    assert!(errors.rate() <= 0.1, "{errors:?}");
    let engines: Vec<_> = alice.told("stt_status").iter().map(|told| told["engine"].clone()).collect();
    assert!(engines.contains(&json!("gladia")) && engines.contains(&json!("moonshine")), "{engines:?}");
}

#[tokio::test]
async fn a_corrected_text_replaces_the_first_for_clients_and_in_the_transcript() {
    let gladia = gladia().await;
    let stack = stack(&gladia, KEY).await;
    let room = stack.room();
    let mut alice = room.join("alice").await;
    alice.speak(&pause(recording("LJ001-0008").samples())).await;
    let first = alice.expect("transcript_final").await;
    gladia.correct_last("has often been surpassed.");
    let second = alice.expect("transcript_final").await;
    assert_eq!(first["utteranceId"], second["utteranceId"]);
    assert_eq!((&second["revision"], &second["text"]), (&json!(1), &json!("has often been surpassed.")));
    alice.stop().await;
    let answer = reqwest::Client::new()
        .get(stack.http(&format!("/api/sessions/{}/transcript?format=txt", room.slug)))
        .bearer_auth(room.token("alice"));
    let transcript = answer.send().await.unwrap().text().await.unwrap();
    assert_eq!(transcript, "alice: has often been surpassed.\n");
}
