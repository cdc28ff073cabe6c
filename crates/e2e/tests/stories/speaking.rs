//! Somebody speaks and reads along; somebody else follows; a third comes late.

use e2e::{Client, Room, Stack, sound, text};
use model::Final;
use serde_json::{Value, json};
use testkit::{eventually, recording, recordings, wer::WordErrors};

/// Sequence and text of each, for comparing.
fn told(finals: &[Value]) -> Vec<(u64, String)> {
    let pair =
        |value: &Value| (value["sequence"].as_u64().unwrap(), value["text"].as_str().unwrap().to_owned());
    finals.iter().map(pair).collect()
}

/// The same of what is stored.
fn stored(finals: &[Final]) -> Vec<(u64, String)> {
    finals.iter().map(|segment| (segment.sequence.0, segment.text.clone())).collect()
}

/// Everybody was told each stored final once, in order.
async fn all_read_the_same(room: &Room, clients: impl IntoIterator<Item = &mut Client>) -> Vec<Final> {
    let finals = room.finals().await;
    let last = finals.last().expect("something was said").sequence.0;
    for client in clients {
        assert_eq!(told(&client.finals_to(last).await), stored(&finals));
    }
    finals
}

#[tokio::test]
async fn every_recording_is_captioned_for_everybody() {
    let stack = Stack::set(&[("ENGINE_THREADS", "2")]).await;
    let mut errors = WordErrors::default();
    for recording in recordings() {
        let room = stack.room();
        let (mut alice, mut bob) = (room.join("alice").await, room.join("bob").await);
        alice.init(json!({"encoding": "pcm_s16le", "language": "en"})).await;
        let samples = recording.samples();
        alice.pour(&sound::pcm(&samples), 3_200).await;
        assert_eq!(alice.stop().await, samples.len() as u64);
        let mut carol = room.join_with("carol", "&since=0").await;
        let finals = all_read_the_same(&room, [&mut alice, &mut bob, &mut carol]).await;

        let sequences: Vec<u64> = finals.iter().map(|segment| segment.sequence.0).collect();
        assert_eq!(sequences, (1..=finals.len() as u64).collect::<Vec<_>>(), "no gaps");
        assert!(finals.is_sorted_by(|one, next| one.end <= next.start), "in order, and no sound twice");
        let of_this = WordErrors::between(&recording.text, &text(&finals));
        eprintln!("{}: {:.1} % of {} words", recording.name, 100.0 * of_this.rate(), of_this.words);
        errors = errors + of_this;
    }
    eprintln!("all: {:.2} % of {} words", 100.0 * errors.rate(), errors.words);
    assert!(errors.rate() <= 0.12, "{errors:?}");
}

#[tokio::test]
async fn a_speaker_reads_along_while_speaking() {
    let stack = Stack::start().await;
    let room = stack.room();
    let (mut alice, mut bob) = (room.join("alice").await, room.join("bob").await);
    let recording = recording("jfk");
    alice.speak(&recording.samples()).await;
    let while_speaking = alice.told("transcript_partial");
    assert!(!while_speaking.is_empty(), "captions come while somebody speaks");
    let late = room.join_with("dave", "").await;
    alice.stop().await;

    let mut carol = room.join_with("carol", "&since=0").await;
    let finals = all_read_the_same(&room, [&mut alice, &mut bob, &mut carol]).await;
    let errors = WordErrors::between(&recording.text, &text(&finals));
    assert!(errors.rate() <= 0.1, "{errors:?}: {}", text(&finals));

    for partial in &while_speaking {
        let (text, stable) = (partial["text"].as_str().unwrap(), partial["stable"].as_u64().unwrap());
        assert!(stable as usize <= text.chars().count());
        assert_eq!((&partial["isFinal"], &partial["speakerId"]), (&json!(false), &json!("alice")));
        assert!(partial["sequence"].is_null(), "partials have no place in the transcript");
    }
    for last in alice.finals() {
        let words = last["words"].as_array().unwrap();
        let spelled: Vec<_> = words.iter().map(|word| word["text"].as_str().unwrap()).collect();
        assert_eq!(spelled.join(" "), last["text"].as_str().unwrap());
        assert!(words.is_sorted_by_key(|word| (word["start"].as_f64().unwrap() * 1000.0) as u64));
    }
    assert!(bob.told("stt_status").iter().any(|status| status["status"] == "ready"));
    let mut late = late;
    assert_eq!(late.expect("stt_status").await["status"], "ready", "who comes late is told how it stands");
}

#[tokio::test]
async fn streams_that_do_not_say_speak_the_language_of_their_session() {
    let stack = Stack::start().await;
    let room = stack.room();
    let start = async |language: &str| {
        let body = json!({"sessionId": "s1", "sessionSlug": room.slug, "language": language});
        let answer = stack.post("/api/transcription/start", &body).await;
        if answer.0 == 200 {
            eventually("the start is noted", async || {
                let session = stack.storage.session(&room.slug).await.unwrap();
                session.and_then(|session| session.language).as_deref() == Some(language)
            })
            .await;
        }
        answer
    };
    assert_eq!(start("<script>").await.0, 400);
    assert_eq!(start("tlh").await.0, 200);
    let mut alice = room.join("alice").await;
    alice.say(json!({"type": "init"})).await;
    alice.send(sound::pcm(&sound::silence(1))).await;
    let (error, code) = alice.ended().await;
    let message = error.expect("an error before the end")["message"].clone();
    assert_eq!((message, code), (json!("language tlh is not served; choose one of: auto, en"), 1008));

    // What a stream says counts more, and so does a later start.
    let jfk = recording("jfk").samples();
    let mut says = room.join("alice").await;
    says.init(json!({"language": "en"})).await;
    says.pour(&sound::pcm(&jfk), 3_200).await;
    says.stop().await;
    assert_eq!(start("en").await.0, 200);
    let mut bob = room.join("bob").await;
    bob.init(json!({})).await;
    bob.pour(&sound::pcm(&jfk), 3_200).await;
    bob.stop().await;
    let text_of_jfk = recording("jfk").text;
    let twice = format!("{text_of_jfk} {text_of_jfk}");
    let errors = WordErrors::between(&twice, &text(&room.finals().await));
    assert!(errors.rate() <= 0.15, "{errors:?}");
}
