//! Captions in other languages, while the translator is slow, fails and recovers.

use std::collections::BTreeMap;

use e2e::{Client, Room, SERVICE_KEY, Stack, sound};
use model::Entry;
use serde_json::{Value, json};
use testkit::{Translating, TranslationServer, eventually, recording};

/// Settings of services that have their texts translated there, each of use for so long.
async fn stack(server: &TranslationServer, budget_ms: u32) -> Stack {
    let (url, budget) = (server.url(), budget_ms.to_string());
    let settings = [
        ("TRANSLATOR", "libretranslate"),
        ("LIBRETRANSLATE_URL", &*url),
        ("TRANSLATION_BUDGET_MS", &*budget),
    ];
    Stack::set(&settings).await
}

/// Says a recording to its end.
async fn speak(client: &mut Client, name: &str, targets: &[&str]) {
    client.init(json!({"encoding": "pcm_s16le", "language": "en", "translateTo": targets})).await;
    client.pour(&sound::pcm(&recording(name).samples()), 3_200).await;
    client.stop().await;
}

/// What a client was told of what is stored: place, language of a translation, and text or error.
type Told = (u64, Option<String>, Option<String>, Option<String>);

fn told(client: &Client) -> Vec<Told> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let mut told: Vec<_> = ["transcript_final", "translation"]
        .into_iter()
        .flat_map(|kind| client.told(kind))
        .map(|it| {
            let language = if it["type"] == "translation" { text(&it["language"]) } else { None };
            (it["sequence"].as_u64().unwrap(), language, text(&it["text"]), text(&it["error"]))
        })
        .collect();
    told.sort();
    told
}

/// The same of what is stored.
async fn stored(room: &Room) -> Vec<Told> {
    let entry = |entry: Entry| match entry {
        Entry::Final(segment) => (segment.sequence.0, None, Some(segment.text), None),
        Entry::Translation(it) => {
            let error = it.outcome.as_ref().err().map(|failure| failure.label().to_owned());
            (it.sequence.0, Some(it.language), it.outcome.ok(), error)
        }
    };
    room.entries().await.into_iter().map(entry).collect()
}

/// Waits until it is known what became of each translation into these languages; what is stored then.
async fn all_known(room: &Room, targets: &[&str]) -> Vec<Told> {
    eventually("each translation is there or reported", async || {
        let stored = stored(room).await;
        let finals = stored.iter().filter(|(_, language, ..)| language.is_none()).count();
        let known = stored.len() - finals;
        (known >= finals * targets.len()).then_some(stored)
    })
    .await
}

/// Each final was translated into each language, or that was reported, once.
async fn once_for_each(room: &Room, targets: &[&str]) {
    let mut outcomes: BTreeMap<(String, &str), usize> = BTreeMap::new();
    let entries = room.entries().await;
    for entry in &entries {
        match entry {
            Entry::Final(segment) => {
                for target in targets {
                    outcomes.entry((segment.utterance.to_string(), target)).or_default();
                }
            }
            Entry::Translation(it) => {
                let known = outcomes.get_mut(&(it.utterance.to_string(), it.language.as_str()));
                *known.expect("a translation after its final, in a language that was asked for") += 1;
            }
        }
    }
    assert!(!outcomes.is_empty() && outcomes.values().all(|count| *count == 1), "{outcomes:?}");
}

/// Reads until the last of what is stored was told, and compares.
async fn was_told_all(client: &mut Client, stored: &[Told]) {
    let last = stored.last().expect("something is stored").0;
    while told(client).last().is_none_or(|told| told.0 < last) {
        client.said().await;
    }
    assert_eq!(told(client), stored);
}

#[tokio::test]
async fn captions_do_not_wait_for_a_translator_that_is_slow_fails_and_recovers() {
    let server = TranslationServer::start().await;
    let stack = stack(&server, 15_000).await;
    let room = stack.room();
    let (mut alice, mut bob) = (room.join("alice").await, room.join("bob").await);
    let targets = ["ar", "de-AT"];

    // Slow: everything is said, stored and told before anything is translated.
    server.set(Translating::Held);
    speak(&mut alice, "jfk", &targets).await;
    let finals = room.finals().await;
    bob.finals_to(finals.last().expect("something was said").sequence.0).await;
    eventually("the translator is asked", async || !server.asked().is_empty()).await;
    assert!(bob.told("translation").is_empty() && alice.told("translation").is_empty());
    assert_eq!(stored(&room).await.len(), finals.len());

    // It fails, is asked again, and fails again.
    let asked = server.asked().len();
    server.set(Translating::Failing(503, None));
    eventually("it is asked again", async || server.asked().len() > asked).await;
    speak(&mut alice, "LJ001-0009", &targets).await;
    bob.finals_to(room.finals().await.last().unwrap().sequence.0).await;

    // It recovers.
    server.set(Translating::Well);
    all_known(&room, &targets).await;
    once_for_each(&room, &targets).await;
    speak(&mut alice, "jfk", &targets).await;
    let stored = all_known(&room, &targets).await;
    once_for_each(&room, &targets).await;
    for (_, language, text, error) in stored.iter().rev().take(1) {
        assert_eq!((language.is_some(), error), (true, &None), "it works again");
        assert!(text.as_ref().unwrap().starts_with(['[']), "{text:?}");
    }

    // Whoever was there, and whoever comes late, was told all of it once and in order.
    let mut late = room.join_with("late", "&since=0").await;
    for client in [&mut alice, &mut bob, &mut late] {
        was_told_all(client, &stored).await;
    }
    // And it is in the transcript.
    let url = stack.http(&format!("/api/sessions/{}/transcript", room.slug));
    let request = reqwest::Client::new().get(url).bearer_auth(SERVICE_KEY);
    let transcript: Value = request.send().await.unwrap().json().await.unwrap();
    let last = transcript["segments"].as_array().unwrap().last().unwrap();
    let text = last["text"].as_str().unwrap();
    assert_eq!(last["translations"], json!({"ar": format!("[ar] {text}"), "de-AT": format!("[de] {text}")}));
}

#[tokio::test]
async fn a_translation_that_does_not_come_is_reported_once() {
    let server = TranslationServer::start().await;
    let stack = stack(&server, 500).await;
    let room = stack.room();
    let mut alice = room.join("alice").await;
    server.set(Translating::Held);
    speak(&mut alice, "jfk", &["ar", "es"]).await;
    let stored = all_known(&room, &["ar", "es"]).await;
    once_for_each(&room, &["ar", "es"]).await;
    let errors = stored.iter().filter_map(|(.., error)| error.as_deref());
    assert!(errors.clone().count() > 0);
    for error in errors {
        assert!(matches!(error, "too_late" | "unavailable"), "{error}");
    }
    was_told_all(&mut alice, &stored).await;
}

#[tokio::test]
async fn a_worker_that_dies_while_it_translates_loses_none() {
    let server = TranslationServer::start().await;
    let mut stack = stack(&server, 60_000).await;
    let room = stack.room();
    let (mut alice, mut bob) = (room.join("alice").await, room.join("bob").await);
    server.set(Translating::Held);
    speak(&mut alice, "jfk", &["ar", "de"]).await;
    eventually("the translator is asked", async || !server.asked().is_empty()).await;
    stack.worker.kill();
    server.set(Translating::Well);
    stack.restart_worker().await;
    let stored = all_known(&room, &["ar", "de"]).await;
    once_for_each(&room, &["ar", "de"]).await;
    assert!(stored.iter().all(|(.., error)| error.is_none()), "{stored:?}");
    was_told_all(&mut bob, &stored).await;
}

#[tokio::test]
async fn a_speaker_is_told_once_what_nobody_translates_into() {
    let server = TranslationServer::start().await;
    let stack = stack(&server, 60_000).await;
    let room = stack.room();
    let mut alice = room.join("alice").await;
    speak(&mut alice, "jfk", &["tlh", "en-GB", "ar"]).await;
    let stored = all_known(&room, &["ar"]).await;
    was_told_all(&mut alice, &stored).await;
    once_for_each(&room, &["ar"]).await;
    let warnings = alice.told("warning");
    let unserved: Vec<_> = warnings.iter().filter(|warning| warning["code"] == "unserved").collect();
    assert_eq!(unserved.len(), 1, "{warnings:?}");
    let text = unserved[0]["message"].as_str().unwrap();
    assert_eq!(text, "no translator here serves tlh from en; choose one of: ar, de, en, es");
}
