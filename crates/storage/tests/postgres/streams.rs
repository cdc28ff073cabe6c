use model::{Samples, Timestamp};
use storage::{KnownStream, NewStream, OpenStream, StorageError, StreamLimits};
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
            heard_end: Samples(0),
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
    assert_eq!(storage.close_stream(stream_id(1), mine.epoch, NOW).await, Ok(()));
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
    assert_eq!(storage.close_stream(stream_id(1), old.epoch, NOW).await, Err(StorageError::Superseded));
    for _ in 0..2 {
        assert_eq!(storage.close_stream(stream_id(1), new.epoch, NOW).await, Ok(()));
    }
    let unknown = storage.close_stream(stream_id(2), 1, NOW).await;
    assert_eq!(unknown, Err(StorageError::Superseded));
}

/// A stream that a user has opened, with at most two of the user and three of the session.
fn limited(session: &str, id: u128, user: &str) -> NewStream {
    NewStream {
        user: Some(user.parse().unwrap()),
        limits: StreamLimits { user: Some(2), session: Some(3) },
        ..new_stream(session, stream_id(id))
    }
}

#[tokio::test]
async fn a_user_and_a_session_have_only_so_many_active_streams() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let open = async |stream: &NewStream| storage.open_stream(stream).await.map(|open| open.epoch);
    assert_eq!(open(&limited("one", 1, "u1")).await, Ok(1));
    assert_eq!(open(&limited("two", 2, "u1")).await, Ok(1));
    assert_eq!(open(&limited("three", 3, "u1")).await, Err(StorageError::TooManyStreams));
    assert_eq!(open(&limited("two", 2, "u1")).await, Ok(2), "one that is open is no other");
    assert_eq!(open(&limited("one", 4, "u2")).await, Ok(1));
    assert_eq!(open(&limited("one", 5, "u3")).await, Ok(1));
    assert_eq!(open(&limited("one", 6, "u4")).await, Err(StorageError::TooManyStreams));
    assert_eq!(open(&new_stream("one", stream_id(7))).await, Ok(1), "of nobody, and not limited");
    // One ends, another is forgotten by its process.
    storage.close_stream(stream_id(2), 2, NOW).await.unwrap();
    assert_eq!(open(&limited("three", 3, "u1")).await, Ok(1));
    let later = NOW.after(std::time::Duration::from_secs(61));
    assert_eq!(open(&NewStream { now: later, ..limited("one", 6, "u4") }).await, Ok(1));
}

#[tokio::test]
async fn streams_that_open_at_once_do_not_pass_the_limit_together() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let streams: Vec<_> = (1..=8).map(|id| limited("one", id, "u1")).collect();
    let opened =
        futures_util::future::join_all(streams.iter().map(|stream| storage.open_stream(stream))).await;
    assert_eq!(opened.iter().filter(|opened| opened.is_ok()).count(), 2);
}
