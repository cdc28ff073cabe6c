use model::{Samples, Timestamp};
use storage::{KnownStream, OpenStream, StorageError};
use testkit::Database;

use crate::{NOW, new_stream, slug, store, stream_id, utterance};

#[tokio::test]
async fn opening_again_raises_the_epoch_and_says_where_to_go_on() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let first = storage.open_stream(&new_stream("demo", stream_id(1))).await.unwrap();
    assert_eq!(
        first,
        OpenStream {
            session_id: first.session_id,
            epoch: 1,
            stored_end: Samples(0),
            next_utterance: 1,
            started_at: NOW
        }
    );
    let stored = store(&storage, &utterance("demo", stream_id(1), &first, 3)).await;
    let mut again = new_stream("demo", stream_id(1));
    again.started_at = Timestamp(NOW.0 + 60_000);
    let second = storage.open_stream(&again).await.unwrap();
    assert_eq!(second, OpenStream { epoch: 2, stored_end: stored.end, next_utterance: 4, ..first });
}

#[tokio::test]
async fn a_stream_id_of_another_session_is_refused() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let mine = storage.open_stream(&new_stream("mine", stream_id(1))).await.unwrap();
    let stolen = storage.open_stream(&new_stream("yours", stream_id(1))).await;
    assert_eq!(stolen, Err(StorageError::Forbidden));
    assert_eq!(storage.close_stream(stream_id(1), mine.epoch, Samples(0), NOW).await, Ok(()));
}

#[tokio::test]
async fn a_stream_id_of_another_participant_is_refused() {
    let database = Database::scratch().await;
    let storage = database.storage();
    assert_eq!(storage.find_stream(stream_id(1)).await, Ok(None));
    storage.open_stream(&new_stream("demo", stream_id(1))).await.unwrap();
    let mut stolen = new_stream("demo", stream_id(1));
    stolen.speaker.identity = "mallory".parse().unwrap();
    assert_eq!(storage.open_stream(&stolen).await, Err(StorageError::Forbidden));
    let known =
        KnownStream { session: slug("demo"), identity: "alice".parse().unwrap(), last_activity_at: NOW };
    assert_eq!(storage.find_stream(stream_id(1)).await, Ok(Some(known)));
}

#[tokio::test]
async fn only_the_owner_closes_a_stream() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let old = storage.open_stream(&new_stream("demo", stream_id(1))).await.unwrap();
    let new = storage.open_stream(&new_stream("demo", stream_id(1))).await.unwrap();
    let end = Samples(16_000);
    assert_eq!(storage.close_stream(stream_id(1), old.epoch, end, NOW).await, Err(StorageError::Superseded));
    for _ in 0..2 {
        assert_eq!(storage.close_stream(stream_id(1), new.epoch, end, NOW).await, Ok(()));
    }
    let unknown = storage.close_stream(stream_id(2), 1, end, NOW).await;
    assert_eq!(unknown, Err(StorageError::Superseded));
}
