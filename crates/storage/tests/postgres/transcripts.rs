use futures_util::{TryStreamExt, future::join_all};
use model::{Final, Samples, Sequence, Timestamp, Topic, UtteranceId};
use storage::{Recorded, Storage, StorageError, TranscriptFilter};
use testkit::Database;

use crate::{NOW, finals_since, new_stream, slug, store, stream_id, utterance};

/// What a filter leaves of the session `demo`.
async fn transcript(storage: &Storage, filter: TranscriptFilter) -> Vec<Final> {
    let said = storage.transcript(&slug("demo"), &filter).map_ok(|spoken| spoken.segment);
    said.try_collect().await.unwrap()
}

#[tokio::test]
async fn a_final_is_read_back_as_it_was_stored() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let open = storage.open_stream(&new_stream("demo", stream_id(1))).await.unwrap();
    let new = utterance("demo", stream_id(1), &open, 1);
    let stored = store(&storage, &new).await;
    assert_eq!(stored.sequence, Sequence(1));
    assert_eq!((&stored.text, &stored.words, stored.end), (&new.text, &new.words, new.end));
    let expected = vec![stored];
    assert_eq!(finals_since(&storage, &slug("demo"), Sequence(0), 10).await, expected);
    assert_eq!(transcript(&storage, TranscriptFilter::default()).await, expected);
}

#[tokio::test]
async fn text_that_postgres_cannot_hold_loses_only_that() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let open = storage.open_stream(&new_stream("demo", stream_id(1))).await.unwrap();
    let mut new = utterance("demo", stream_id(1), &open, 1);
    new.text = "a\0b".to_owned();
    new.words[0].text = "\0a".to_owned();
    new.speaker.name = Some("\0".to_owned());
    let stored = store(&storage, &new).await;
    assert_eq!((stored.text.as_str(), stored.speaker.name.as_deref()), ("ab", None));
    let read = finals_since(&storage, &slug("demo"), Sequence(0), 10).await;
    assert_eq!(read[0].words[0].text, "a");
}

#[tokio::test]
async fn sequences_are_dense_and_in_commit_order_under_concurrent_writers() {
    const WRITERS: u32 = 8;
    const FINALS_EACH: u32 = 40;
    let database = Database::scratch().await;
    let storage = database.storage();
    let topic = Topic::Session(slug("demo"));
    let writers = join_all((0..WRITERS).map(|writer| {
        let storage = storage.clone();
        async move {
            let stream = stream_id(u128::from(writer) + 1);
            let open = storage.open_stream(&new_stream("demo", stream)).await.unwrap();
            for number in 1..=FINALS_EACH {
                store(&storage, &utterance("demo", stream, &open, number)).await;
            }
        }
    }));
    // Whoever has read up to N must never find something below N later.
    let total = u64::from(WRITERS * FINALS_EACH);
    let reader = async {
        let mut seen: Vec<Final> = Vec::new();
        while (seen.len() as u64) < total {
            let after = seen.last().map_or(Sequence(0), |last| last.sequence);
            seen.extend(finals_since(&storage, &slug("demo"), after, 1000).await);
        }
        seen
    };
    let (_, seen) = tokio::join!(writers, reader);
    let sequences: Vec<u64> = seen.iter().map(|segment| segment.sequence.0).collect();
    assert_eq!(sequences, (1..=total).collect::<Vec<_>>());
    assert_eq!(storage.last_sequence(&topic).await.unwrap(), Sequence(total));
}

#[tokio::test]
async fn the_same_stream_written_by_many_at_once_stores_each_final_once() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let open = storage.open_stream(&new_stream("demo", stream_id(1))).await.unwrap();
    for number in 1..=20 {
        let new = utterance("demo", stream_id(1), &open, number);
        let outcomes = join_all((0..8).map(|_| storage.record_final(&new))).await;
        let stored = outcomes.iter().filter(|outcome| matches!(outcome, Ok(Recorded::Stored(_)))).count();
        let repeated = outcomes.iter().filter(|outcome| **outcome == Ok(Recorded::AlreadyStored)).count();
        assert_eq!((stored, repeated), (1, 7), "{outcomes:?}");
    }
    assert_eq!(storage.last_sequence(&Topic::Session(slug("demo"))).await.unwrap(), Sequence(20));
}

#[tokio::test]
async fn repeating_a_final_stores_and_announces_nothing() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let open = storage.open_stream(&new_stream("demo", stream_id(1))).await.unwrap();
    let first = utterance("demo", stream_id(1), &open, 1);
    store(&storage, &first).await;
    assert_eq!(storage.record_final(&first).await, Ok(Recorded::AlreadyStored));
    // Re-sent audio may be cut otherwise; what ends within the stored part is stored.
    let mut shorter = utterance("demo", stream_id(1), &open, 2);
    shorter.end = first.end - Samples(10);
    assert_eq!(storage.record_final(&shorter).await, Ok(Recorded::AlreadyStored));
    assert_eq!(storage.last_sequence(&Topic::Session(slug("demo"))).await.unwrap(), Sequence(1));
    assert_eq!(storage.claim_outbox(10).await.unwrap().rows().len(), 1);
}

#[tokio::test]
async fn an_older_epoch_cannot_write() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let old = storage.open_stream(&new_stream("demo", stream_id(1))).await.unwrap();
    store(&storage, &utterance("demo", stream_id(1), &old, 1)).await;
    let new = storage.open_stream(&new_stream("demo", stream_id(1))).await.unwrap();
    let late = utterance("demo", stream_id(1), &old, 2);
    assert_eq!(storage.record_final(&late).await, Err(StorageError::Superseded));
    assert_eq!(storage.last_sequence(&Topic::Session(slug("demo"))).await.unwrap(), Sequence(1));
    assert_eq!(store(&storage, &utterance("demo", stream_id(1), &new, 2)).await.sequence, Sequence(2));
}

#[tokio::test]
async fn a_transcript_is_in_order_of_time_over_streams_and_pages() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let early = storage.open_stream(&new_stream("demo", stream_id(1))).await.unwrap();
    let mut later = new_stream("demo", stream_id(2));
    // Between the first and the second utterance of the other stream.
    later.started_at = later.started_at.after(std::time::Duration::from_millis(700));
    let late = storage.open_stream(&later).await.unwrap();
    for number in 1..=2 {
        store(&storage, &utterance("demo", stream_id(2), &late, number)).await;
        store(&storage, &utterance("demo", stream_id(1), &early, number)).await;
    }
    let finals = transcript(&storage, TranscriptFilter::default()).await;
    let order: Vec<_> = finals.iter().map(|segment| segment.utterance.clone()).collect();
    let expected = [(1, 1), (2, 1), (1, 2), (2, 2)]
        .map(|(stream, number)| UtteranceId::Heard { stream: stream_id(stream), number });
    assert_eq!(order, expected);

    // A correction replaces its utterance in the transcript, and is one more final for followers.
    database
        .run(
            "INSERT INTO segments SELECT session_id, 5, stream_id, utterance, 1, speaker_identity, speaker_name,
                 'Corrected.', language, start_sample, end_sample, words, started_at, ended_at, stored_at
             FROM segments WHERE sequence = 1;
             -- Enough for several pages.
             INSERT INTO segments SELECT session_id, 5 + n, stream_id, 100 + n, 0, speaker_identity, speaker_name,
                 'More.', language, start_sample, end_sample, words, started_at + interval '1 hour', ended_at, stored_at
             FROM segments, generate_series(1, 1200) AS n WHERE sequence = 1",
        )
        .await;
    let finals = transcript(&storage, TranscriptFilter::default()).await;
    assert_eq!(finals.len(), 4 + 1200);
    assert_eq!((finals[1].text.as_str(), finals[1].revision), ("Corrected.", 1));
    assert_eq!(finals_since(&storage, &slug("demo"), Sequence(4), 1).await[0].text, "Corrected.");
}

#[tokio::test]
async fn what_is_not_there_is_empty() {
    let database = Database::scratch().await;
    let storage = database.storage();
    assert!(finals_since(&storage, &slug("none"), Sequence(0), 10).await.is_empty());
    assert!(transcript(&storage, TranscriptFilter::default()).await.is_empty());
    assert_eq!(storage.last_sequence(&"user:none".parse().unwrap()).await.unwrap(), Sequence(0));
    assert_eq!(storage.session(&slug("none")).await.unwrap(), None);
}

#[tokio::test]
async fn a_transcript_can_be_narrowed_by_speaker_and_time() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let open = storage.open_stream(&new_stream("demo", stream_id(1))).await.unwrap();
    for number in 1..=4 {
        let mut new = utterance("demo", stream_id(1), &open, number);
        if number == 3 {
            new.speaker.identity = "bob".parse().unwrap();
        }
        store(&storage, &new).await;
    }
    // Utterance N begins 1.5 N seconds after the stream.
    let at = |millis| Some(Timestamp(NOW.0 + millis));
    let sequences = async |speaker: Option<&str>, from, to| -> Vec<u64> {
        let speaker = speaker.map(|speaker| speaker.parse().unwrap());
        let said = transcript(&storage, TranscriptFilter { speaker, from, to }).await;
        said.iter().map(|segment| segment.sequence.0).collect()
    };
    assert_eq!(sequences(Some("alice"), None, None).await, [1, 2, 4]);
    assert!(sequences(Some("carol"), None, None).await.is_empty());
    assert_eq!(sequences(None, at(3000), None).await, [2, 3, 4], "from that moment on, itself included");
    assert_eq!(sequences(None, at(3001), at(6000)).await, [3], "before that moment, itself excluded");
    assert_eq!(sequences(Some("alice"), at(1600), at(9000)).await, [2, 4]);
    let said: Vec<_> =
        storage.transcript(&slug("demo"), &TranscriptFilter::default()).try_collect().await.unwrap();
    assert_eq!((said[1].started_at, said[1].ended_at), (Timestamp(NOW.0 + 3000), Timestamp(NOW.0 + 4000)));
}
