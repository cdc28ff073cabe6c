use std::time::Duration;

use model::{Identity, Timestamp, UserId};
use storage::{Session, SessionStatus};
use testkit::Database;

use crate::{NOW, new_stream, slug, store, stream_id, utterance};

const IDLE: Duration = Duration::from_secs(1800);

fn minutes(count: u64) -> Timestamp {
    NOW.after(Duration::from_secs(60 * count))
}

#[tokio::test]
async fn a_session_comes_into_being_once_and_is_opened_again() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let created = storage.touch_session(&slug("demo"), NOW).await.unwrap();
    assert_eq!((created.status, created.last_activity_at), (SessionStatus::Created, NOW));
    // A clock that is behind does not make the session look idle.
    let touched = storage.touch_session(&slug("demo"), Timestamp(NOW.0 - 5)).await.unwrap();
    assert_eq!(touched, created);

    for _ in 0..2 {
        let started = storage.start_session(&slug("demo"), "clx123", None, minutes(1)).await.unwrap();
        assert_eq!((started.id, started.status), (created.id, SessionStatus::Live));
        assert_eq!(started.external_id.as_deref(), Some("clx123"));
    }
    for later in 2..4 {
        let stopped = storage.stop_session("clx123", minutes(later)).await.unwrap().unwrap();
        assert_eq!(
            (stopped.id, stopped.status, stopped.ended_at),
            (created.id, SessionStatus::Ended, Some(minutes(2)))
        );
    }
    assert_eq!(storage.stop_session("unknown", NOW).await.unwrap(), None);

    let opened_again = storage.touch_session(&slug("demo"), minutes(4)).await.unwrap();
    assert_eq!(
        (opened_again.id, opened_again.status, opened_again.ended_at),
        (created.id, SessionStatus::Created, None)
    );
    assert_eq!(storage.session(&slug("demo")).await.unwrap(), Some(opened_again));
}

#[tokio::test]
async fn a_session_keeps_its_language_until_it_is_started_anew() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let start = async |language| {
        let started = storage.start_session(&slug("demo"), "clx123", language, NOW).await.unwrap();
        started.language
    };
    assert_eq!(start(None).await, None);
    assert_eq!(start(Some("ru")).await.as_deref(), Some("ru"));
    assert_eq!(start(None).await.as_deref(), Some("ru"), "every join starts it");
    assert_eq!(start(Some("ar")).await.as_deref(), Some("ar"));
    storage.stop_session("clx123", NOW).await.unwrap();
    assert_eq!(start(None).await, None);
}

#[tokio::test]
async fn what_is_over_ends_no_session_that_was_started_anew() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let demo = slug("demo");
    let start = async |now| storage.start_session(&demo, "clx123", None, now).await.unwrap();
    start(minutes(1)).await;
    start(minutes(5)).await;
    assert_eq!(storage.end_session(&demo, minutes(0), minutes(6)).await.unwrap(), None, "it began later");
    let ended = storage.end_session(&demo, minutes(1), minutes(6)).await.unwrap().unwrap();
    assert_eq!(ended.status, SessionStatus::Ended, "being started again is no beginning");
    // What is only seen from afar does not open it.
    storage.use_session(ended.id, minutes(7)).await.unwrap();
    assert_eq!(storage.session(&demo).await.unwrap(), Some(ended));
    let anew = start(minutes(8)).await;
    assert_eq!(storage.end_session(&demo, minutes(7), minutes(9)).await.unwrap(), None);
    storage.use_session(anew.id, minutes(9)).await.unwrap();
    let used = storage.session(&demo).await.unwrap().unwrap();
    assert_eq!((used.status, used.last_activity_at), (SessionStatus::Live, minutes(9)));
    assert!(storage.end_session(&demo, minutes(8), minutes(9)).await.unwrap().is_some());
}

#[tokio::test]
async fn idle_sessions_end_and_used_ones_do_not() {
    let database = Database::scratch().await;
    let storage = database.storage();
    storage.touch_session(&slug("idle"), NOW).await.unwrap();
    storage.touch_session(&slug("used"), minutes(20)).await.unwrap();
    let open = storage.open_stream(&new_stream("spoken", stream_id(1))).await.unwrap();
    let mut spoken = utterance("spoken", stream_id(1), &open, 1);
    spoken.at = minutes(25);
    store(&storage, &spoken).await;
    let names =
        |ended: Vec<Session>| -> Vec<_> { ended.iter().map(|session| session.slug.to_string()).collect() };
    assert!(storage.end_idle_sessions(IDLE, minutes(30)).await.unwrap().is_empty());
    assert_eq!(names(storage.end_idle_sessions(IDLE, minutes(31)).await.unwrap()), ["idle"]);
    assert!(storage.end_idle_sessions(IDLE, minutes(31)).await.unwrap().is_empty());
    let mut rest = names(storage.end_idle_sessions(IDLE, minutes(60)).await.unwrap());
    rest.sort();
    assert_eq!(rest, ["spoken", "used"]);
}

#[tokio::test]
async fn a_real_name_is_never_replaced_by_nothing() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let session = storage.touch_session(&slug("demo"), NOW).await.unwrap().id;
    let alice: Identity = "alice".parse().unwrap();
    let user: UserId = "u1".parse().unwrap();
    for (name, user) in [(Some("Alice"), Some(&user)), (None, None), (Some(" \0 "), None)] {
        storage.upsert_participant(session, &alice, name, user, NOW).await.unwrap();
    }
    database
        .run(
            "DO $$ BEGIN
                 ASSERT (SELECT (name, user_id) = ('Alice', 'u1') FROM participants), 'name or user was replaced';
             END $$",
        )
        .await;
}
