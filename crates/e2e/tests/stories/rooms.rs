//! Rooms of LiveKit: several people speak, each word is its speaker's.

use std::time::Duration;

use e2e::{JWT_SECRET, Plan, Room, Stack, text};
use model::{Final, Samples};
use serde_json::json;
use settings::Secret;
use testkit::{LiveKitServer, Recording, eventually, livekit::Track, recording, tokens, wer::WordErrors};
use tokio::time::sleep;

/// Words that the recognizer hears otherwise, of those recordings without a room. (It hears 6 to 8 % otherwise.)
const ERRORS_MAX: f64 = 0.15;

/// The stack with a LiveKit whose sound comes in this way.
async fn stack(livekit: &LiveKitServer, mode: &str) -> Stack {
    let settings = vec![
        ("LIVEKIT_WS_URL", livekit.url().replace("http", "ws")),
        ("LIVEKIT_API_KEY", livekit.key()),
        ("LIVEKIT_API_SECRET", livekit.secret().expose().to_owned()),
        ("EGRESS_MODE", mode.to_owned()),
        ("ENGINE_THREADS", "2".to_owned()),
    ];
    let stack = Stack::with(Plan { settings, alone: true, ..Plan::default() }).await;
    livekit.webhooks_to(stack.http("/hooks/livekit"));
    stack
}

async fn start(stack: &Stack, room: &Room) {
    let body = json!({"sessionId": format!("id-{}", room.slug), "sessionSlug": room.slug});
    let answer = (200, json!({"ok": true, "mode": "live"}));
    assert_eq!(stack.post("/api/transcription/start", &body).await, answer);
}

/// Waits until so many egresses run.
async fn running(livekit: &LiveKitServer, count: usize) {
    eventually(&format!("{count} egresses run"), async || {
        livekit.egresses().iter().filter(|egress| egress.status.as_str_name() == "EGRESS_ACTIVE").count()
            == count
    })
    .await;
}

fn of(finals: &[Final], who: &str) -> String {
    let own: Vec<Final> =
        finals.iter().filter(|segment| segment.speaker.identity.as_str() == who).cloned().collect();
    text(&own)
}

fn words(recordings: &[&Recording]) -> String {
    recordings.iter().map(|recording| recording.text.as_str()).collect::<Vec<_>>().join(" ")
}

/// Plays recordings, and a second of silence after each so that the last word is heard to its end.
async fn say(track: &Track, recordings: &[&Recording]) {
    for recording in recordings {
        track.play(&recording.samples()).await;
        sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test]
async fn each_word_of_a_room_is_its_speakers_also_when_they_speak_at_once() {
    let livekit = LiveKitServer::start().await;
    let stack = stack(&livekit, "tracks").await;
    let room = stack.room();
    let mut follower = room.join("carol").await;
    let [first, second, third, fourth, fifth] =
        ["LJ001-0001", "LJ001-0005", "LJ001-0004", "LJ001-0009", "jfk"].map(recording);
    let theirs = livekit.room(room.slug.as_str());
    let alice = theirs.join("alice", "Alice A.");
    let track = alice.publish();
    // System A's web app calls it at every join.
    start(&stack, &room).await;
    let bob = theirs.join("bob", "Bob");
    let bobs = bob.publish();
    start(&stack, &room).await;
    running(&livekit, 2).await;

    let alice_speaks = async {
        say(&track, &[&first]).await;
        // She leaves, and is back with another track.
        alice.leave();
        sleep(Duration::from_secs(1)).await;
        let alice = theirs.join("alice", "Alice A.");
        let track = alice.publish();
        start(&stack, &room).await;
        running(&livekit, 2).await;
        say(&track, &[&third, &fifth]).await;
    };
    let bob_speaks = async {
        say(&bobs, &[&second]).await;
        bobs.mute(true);
        // Nobody hears this.
        bobs.play(&fourth.samples()).await;
        bobs.mute(false);
        say(&bobs, &[&fourth]).await;
    };
    tokio::join!(alice_speaks, bob_speaks);
    let stopped =
        stack.post("/api/transcription/stop", &json!({"sessionId": format!("id-{}", room.slug)})).await;
    assert_eq!(stopped.0, 200);
    running(&livekit, 0).await;

    let (alices, bobs) = (words(&[&first, &third, &fifth]), words(&[&second, &fourth]));
    let mut errors = (WordErrors::default(), WordErrors::default());
    eventually("everything is stored", async || {
        let finals = room.finals().await;
        errors = (
            WordErrors::between(&alices, &of(&finals, "alice")),
            WordErrors::between(&bobs, &of(&finals, "bob")),
        );
        errors.0.rate() <= ERRORS_MAX && errors.1.rate() <= ERRORS_MAX
    })
    .await;
    eprintln!("alice {:?}, bob {:?}", errors.0, errors.1);
    let finals = room.finals().await;
    assert!(finals.iter().all(|segment| ["alice", "bob"].contains(&segment.speaker.identity.as_str())));
    let named = finals.iter().find(|segment| segment.speaker.identity.as_str() == "alice").unwrap();
    assert_eq!(named.speaker.name.as_deref(), Some("Alice A."));
    let told = follower.finals_to(finals.last().unwrap().sequence.0).await;
    assert_eq!(told.len(), finals.len());
    let alice = told.iter().find(|told| told["speakerId"] == "alice").unwrap();
    assert_eq!(alice["speaker"], "Alice A.");
}

/// How many of the reference's words a text has.
fn found(reference: &str, text: &str) -> usize {
    let errors = WordErrors::between(reference, text);
    errors.words - errors.substituted - errors.deleted
}

#[tokio::test]
async fn a_room_in_one_stream_is_told_apart_by_who_is_active() {
    let livekit = LiveKitServer::start().await;
    let stack = stack(&livekit, "composite").await;
    let room = stack.room();
    let turns =
        ["LJ001-0004", "LJ001-0006", "LJ001-0009", "LJ001-0008", "LJ001-0005", "LJ001-0002", "LJ001-0007"]
            .map(recording);
    let theirs = livekit.room(room.slug.as_str());
    let tracks = [theirs.join("alice", "Alice").publish(), theirs.join("bob", "Bob").publish()];
    start(&stack, &room).await;
    running(&livekit, 1).await;
    let mut follower = room.join("carol").await;
    // The encoder and the ingest are ready when its sound is understood.
    eventually("the room is heard", async || follower.expect("stt_status").await["status"] == "ready").await;

    for (index, turn) in turns.iter().enumerate() {
        let who = ["alice", "bob"][index % 2];
        let token = tokens::good(&Secret::from(JWT_SECRET), &room.slug, who);
        let told = async {
            // LiveKit notices after a few tenths of a second who speaks, and the web app asks it five times a second.
            sleep(Duration::from_millis(350)).await;
            let body = json!({"sessionSlug": room.slug, "identity": who, "name": who, "timestamp": 1, "token": token});
            assert_eq!(stack.post("/api/active-speaker", &body).await.0, 200);
        };
        let samples = turn.samples();
        tokio::join!(tracks[index % 2].play(&samples), told);
        // Sometimes the next begins at once.
        if index % 3 != 2 {
            sleep(Duration::from_millis(700)).await;
        }
    }
    let whole = words(&turns.iter().collect::<Vec<_>>());
    eventually("everything is stored", async || {
        WordErrors::between(&whole, &text(&room.finals().await)).rate() <= ERRORS_MAX
    })
    .await;
    let finals = room.finals().await;
    let heard = found(&whole, &text(&finals));
    let own: usize = (0..2)
        .map(|who| {
            let own: Vec<&Recording> = turns.iter().skip(who).step_by(2).collect();
            found(&words(&own), &of(&finals, ["alice", "bob"][who]))
        })
        .sum();
    eprintln!(
        "{own} of {heard} words heard are their speaker's; {:?}",
        WordErrors::between(&whole, &text(&finals))
    );
    assert!(own as f64 >= 0.95 * heard as f64, "{own} of {heard}");
    // An utterance has one speaker, from its first partial on.
    follower.finals_to(finals.last().unwrap().sequence.0).await;
    let mut shown = std::collections::HashMap::new();
    for caption in follower.told("transcript_partial").iter().chain(&follower.told("transcript_final")) {
        let id = caption["utteranceId"].as_str().unwrap().to_owned();
        let speaker = shown.entry(id).or_insert_with(|| caption["speakerId"].clone());
        assert_eq!(*speaker, caption["speakerId"], "a second bubble");
    }
    assert!(Samples::from_millis(1) < finals.last().unwrap().end);
}
