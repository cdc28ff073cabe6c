//! Usage, speakers, and what comes from outside.

use std::time::Duration;

use model::{EngineName, Final, JsonObject, Outside, Samples, Sequence, Speaker, Timestamp, UtteranceId};
use storage::{Metered, Revision, RoomMode, Storage, StorageError, Turn};
use testkit::Database;

use crate::{NOW, new_stream, slug, store, stream_id, utterance};

fn alice() -> Speaker {
    Speaker { identity: "alice".parse().unwrap(), name: Some("Alice".to_owned()) }
}

/// Seconds metered, by engine.
async fn usage(database: &Database) -> Vec<(String, i64)> {
    let rows = database.rows("SELECT engine, samples / 16000 FROM usage ORDER BY engine").await;
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test]
async fn no_sound_is_metered_twice() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let mine = storage.open_stream(&new_stream("demo", stream_id(1))).await.unwrap();
    let seconds = |seconds: u64| Samples(seconds * 16_000);
    let metered = |epoch, engine, end, sound| Metered {
        stream: stream_id(1),
        epoch,
        engine,
        heard_end: seconds(end),
        sound: seconds(sound),
        at: NOW,
    };
    let first = metered(mine.epoch, EngineName::Gladia, 10, 10);
    for _ in 0..2 {
        assert_eq!(storage.meter(&first).await, Ok(()));
    }
    // Another worker goes on from what is metered; three of the next ten seconds were silence put in.
    let next = storage.open_stream(&new_stream("demo", stream_id(1))).await.unwrap();
    assert_eq!(next.heard_end, seconds(10));
    assert_eq!(storage.meter(&first).await, Err(StorageError::Superseded));
    assert_eq!(storage.meter(&metered(next.epoch, EngineName::Moonshine, 20, 7)).await, Ok(()));
    assert_eq!(storage.meter(&metered(next.epoch, EngineName::Moonshine, 25, 5)).await, Ok(()));
    assert_eq!(usage(&database).await, [("gladia".to_owned(), 10), ("moonshine".to_owned(), 12)]);
}

fn revision(id: &str, text: &str) -> Revision {
    Revision {
        session: slug("demo"),
        utterance: id.parse().unwrap(),
        speaker: None,
        text: text.to_owned(),
        language: None,
        outside: None,
        said_at: NOW,
        at: NOW,
    }
}

async fn transcript(storage: &Storage) -> Vec<Final> {
    use futures_util::TryStreamExt;
    let said = storage.transcript(&slug("demo"), &storage::TranscriptFilter::default());
    said.map_ok(|spoken| spoken.segment).try_collect().await.unwrap()
}

#[tokio::test]
async fn a_correction_is_the_next_final_of_its_utterance() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let open = storage.open_stream(&new_stream("demo", stream_id(1))).await.unwrap();
    let heard = store(&storage, &utterance("demo", stream_id(1), &open, 1)).await;
    let corrected = storage.revise(&revision(&heard.utterance.to_string(), "better")).await.unwrap().unwrap();
    let expected = Final {
        sequence: Sequence(2),
        revision: 1,
        text: "better".to_owned(),
        words: Vec::new(),
        at: NOW,
        ..heard
    };
    assert_eq!(corrected, expected);
    assert_eq!(storage.revise(&revision(&corrected.utterance.to_string(), "better")).await, Ok(None));
    assert_eq!(transcript(&storage).await, std::slice::from_ref(&corrected));
    let told = storage.claim_outbox(10).await.unwrap();
    let last = told.rows().last().unwrap();
    assert_eq!(
        (last.sequence, &last.announcement),
        (Sequence(2), &storage::Announcement::Entry(model::Entry::Final(corrected)))
    );
}

#[tokio::test]
async fn what_a_back_end_hands_in_is_kept_as_it_was_given() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let outside = Outside {
        user: Some("u1".parse().unwrap()),
        said_at: Some(Timestamp(5)),
        message: Some(JsonObject::parse(r#"{"type":"transcript","n":1e300}"#, 100).unwrap()),
    };
    let given = Revision {
        speaker: Some(alice()),
        outside: Some(outside.clone()),
        language: Some("ru".to_owned()),
        ..revision("gladia-7", "спасибо")
    };
    let stored = storage.revise(&given).await.unwrap().unwrap();
    assert_eq!(stored.utterance, UtteranceId::Outside("gladia-7".parse().unwrap()));
    assert_eq!(
        (stored.revision, stored.speaker.clone(), stored.outside.clone()),
        (0, alice(), Some(outside))
    );
    assert_eq!(storage.revise(&given).await, Ok(None), "again it is no news");
    let nameless = Revision { text: "спасибо всем".to_owned(), ..revision("gladia-7", "") };
    let second = storage.revise(&nameless).await.unwrap().unwrap();
    assert_eq!((second.revision, second.speaker.clone(), second.sequence), (1, alice(), Sequence(2)));
    let other = storage.revise(&revision("x", "hello")).await.unwrap().unwrap();
    assert_eq!(other.speaker.identity.as_str(), "room");
    assert_eq!(transcript(&storage).await, [second, other]);
    let told = storage.claim_outbox(10).await.unwrap();
    assert_eq!(told.rows().len(), 3);
    assert_eq!(told.rows()[0].announcement, storage::Announcement::Entry(model::Entry::Final(stored)));
}

#[tokio::test]
async fn corrections_that_come_at_once_take_turns() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let revisions: Vec<_> = (0..8).map(|number| revision("x", &format!("text {number}"))).collect();
    let stored = futures_util::future::join_all(revisions.iter().map(|one| storage.revise(one))).await;
    let mut revisions: Vec<_> = stored.into_iter().map(|one| one.unwrap().unwrap().revision).collect();
    revisions.sort_unstable();
    assert_eq!(revisions, (0..8).collect::<Vec<_>>());
}

#[tokio::test]
async fn turns_are_those_that_overlap() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let at = |seconds: u64| NOW.after(Duration::from_secs(seconds));
    let bob = Speaker { identity: "bob".parse().unwrap(), name: None };
    let said =
        [(1, Some(alice())), (2, Some(alice())), (3, Some(bob.clone())), (5, None), (9, Some(alice()))];
    for (seconds, speaker) in &said {
        storage.note_active_speaker(&slug("demo"), speaker.as_ref(), at(*seconds)).await.unwrap();
    }
    let turn = |seconds, speaker: Option<Speaker>| Turn { at: at(seconds), speaker };
    let turns = async |from, to| storage.active_speakers(&slug("demo"), at(from), at(to)).await.unwrap();
    assert_eq!(turns(4, 6).await, [turn(3, Some(bob.clone())), turn(5, None)]);
    assert_eq!(turns(0, 3).await, [turn(1, Some(alice())), turn(3, Some(bob))]);
    assert_eq!(turns(10, 12).await, [turn(9, Some(alice()))]);
    assert_eq!(storage.active_speakers(&slug("other"), NOW, at(9)).await.unwrap(), []);
    // They go a while after their session.
    storage.start_session(&slug("demo"), "id-1", None, NOW).await.unwrap();
    storage.stop_session("id-1", at(10)).await.unwrap();
    storage.forget_active_speakers(at(60)).await.unwrap();
    assert_eq!(turns(10, 12).await.len(), 1);
    storage.forget_active_speakers(at(71)).await.unwrap();
    assert_eq!(turns(10, 12).await, []);
}

#[tokio::test]
async fn a_room_is_looked_after_by_one_at_a_time() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let at = |seconds: u64| NOW.after(Duration::from_secs(seconds));
    let claim = async |now| storage.claim_rooms(at(now), at(now + 30), 10).await.unwrap();
    storage.want_room(&slug("demo"), RoomMode::Tracks, NOW).await.unwrap();
    assert_eq!(claim(1).await, [], "a session that nobody has started");
    storage.start_session(&slug("demo"), "id-1", None, NOW).await.unwrap();
    for mode in [RoomMode::Tracks, RoomMode::Composite] {
        storage.want_room(&slug("demo"), mode, NOW).await.unwrap();
    }
    let claimed = claim(1).await;
    let [room] = claimed.as_slice() else { panic!("{claimed:?}") };
    assert!(room.wanted && room.mode == RoomMode::Tracks && room.external_id.as_deref() == Some("id-1"));
    assert_eq!(claim(2).await, [], "somebody has it");
    storage.settle_room(room.session_id, at(31), at(10)).await.unwrap();
    assert_eq!(storage.next_room().await.unwrap(), Some(at(10)));
    // Woken while it is looked after, it is looked after again at once.
    assert_eq!(claim(10).await.len(), 1);
    storage.wake_room(&slug("demo"), at(11)).await.unwrap();
    assert_eq!(claim(12).await, [], "not while somebody has it");
    storage.settle_room(room.session_id, at(40), at(20)).await.unwrap();
    assert_eq!(claim(12).await.len(), 1);
    assert_eq!(claim(41).await, [], "for as long as it was lent");
    assert_eq!(claim(42).await.len(), 1);
    for tried in [12, 13, 100] {
        storage
            .note_egress_attempt(
                room.session_id,
                "TR_1",
                at(tried),
                at(tried).before(Duration::from_secs(60)),
            )
            .await
            .unwrap();
    }
    assert_eq!(storage.egress_attempts(room.session_id).await.unwrap()["TR_1"], (1, at(100)));
    storage.drop_room(room.session_id).await.unwrap();
    assert_eq!(storage.rooms().await.unwrap(), [slug("demo")], "one that is wanted stays");
    storage.release_room(&slug("demo"), at(200)).await.unwrap();
    assert!(!claim(200).await[0].wanted);
    storage.drop_room(room.session_id).await.unwrap();
    assert_eq!(storage.rooms().await.unwrap(), []);
}

#[tokio::test]
async fn a_webhook_is_heard_once() {
    let database = Database::scratch().await;
    let storage = database.storage();
    assert!(storage.hear_livekit_event("EV_1", NOW).await.unwrap());
    assert!(!storage.hear_livekit_event("EV_1", NOW).await.unwrap());
    storage.forget_livekit_events(NOW.after(Duration::from_secs(25 * 3600))).await.unwrap();
    assert!(storage.hear_livekit_event("EV_1", NOW).await.unwrap());
}
