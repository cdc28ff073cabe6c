use model::{FaultKind, Sequence};
use storage::{Recorded, Storage, StorageError, StorageSettings};
use testkit::{Cable, Database, eventually, with_address};

use crate::{NOW, new_stream, slug, stream_id, utterance};

#[tokio::test]
async fn scratch_databases_are_apart() {
    let (one, other) = tokio::join!(Database::scratch(), Database::scratch());
    one.storage().touch_session(&slug("demo"), NOW).await.unwrap();
    assert_eq!(other.storage().session(&slug("demo")).await.unwrap(), None);
}

#[tokio::test]
async fn an_unmigrated_database_says_what_to_run() {
    let database = Database::unmigrated().await;
    let storage = database.storage();
    for refused in [storage.check().await, storage.touch_session(&slug("demo"), NOW).await.map(drop)] {
        let error = refused.unwrap_err();
        assert!(matches!(error, StorageError::Unmigrated { found: None, .. }), "{error:?}");
        assert!(error.to_string().contains("parley migrate"));
        assert_eq!(error.fault(), FaultKind::Dependency);
    }
    // Two at once take turns, and once more changes nothing.
    let (one, other) = tokio::join!(storage.migrate(), storage.migrate());
    assert_eq!((one, other, storage.migrate().await), (Ok(()), Ok(()), Ok(())));
    assert_eq!(storage.check().await, Ok(()));
    // An older program is content with a newer schema.
    database
        .run("INSERT INTO refinery_schema_history SELECT 99, 'later', applied_on, checksum FROM refinery_schema_history LIMIT 1")
        .await;
    assert_eq!(storage.check().await, Ok(()));
    assert_eq!(storage.migrate().await, Ok(()));
}

#[tokio::test]
async fn postgres_may_go_away_and_come_back() {
    let database = Database::scratch().await;
    let cable = Cable::to(database.host()).await;
    let url = with_address(&database.url(), cable.address());
    let storage = Storage::connect(&StorageSettings { url, ..database.settings() }).unwrap();
    let open = storage.open_stream(&new_stream("demo", stream_id(1))).await.unwrap();

    cable.cut();
    let segment = utterance("demo", stream_id(1), &open, 1);
    for error in [storage.record_final(&segment).await.unwrap_err(), storage.check().await.unwrap_err()] {
        assert!(error.is_retryable(), "{error:?}");
        assert!(!error.to_string().contains("password"));
    }
    cable.mend();
    let recorded = eventually("Postgres is back", async || storage.record_final(&segment).await.ok()).await;
    assert!(matches!(recorded, Recorded::Stored(_)), "{recorded:?}");
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_not_repeated() {
    let database = Database::scratch().await;
    let cable = Cable::to(database.host()).await;
    let url = with_address(&database.url(), cable.address());
    let through_cable = Storage::connect(&StorageSettings { url, ..database.settings() }).unwrap();
    let open = through_cable.open_stream(&new_stream("demo", stream_id(1))).await.unwrap();
    let direct = database.storage();
    let segment = utterance("demo", stream_id(1), &open, 1);
    // The statement waits inside until it may go on, so that its answer can be lost.
    database
        .run(
            "CREATE TABLE go (); CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 WHILE NOT EXISTS (SELECT FROM go) LOOP PERFORM pg_sleep(0.01); END LOOP;
                 RETURN NEW;
             END $$;
             CREATE TRIGGER wait BEFORE INSERT ON segments FOR EACH ROW EXECUTE FUNCTION wait()",
        )
        .await;
    let recording = through_cable.record_final(&segment);
    let cutting = async {
        database
            .run(
                "DO $$ BEGIN
                     WHILE NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
                                       AND query LIKE '%INSERT INTO segments%' AND pid <> pg_backend_pid()
                                       AND wait_event = 'PgSleep')
                     LOOP PERFORM pg_sleep(0.01); PERFORM pg_stat_clear_snapshot(); END LOOP;
                 END $$",
            )
            .await;
        cable.stall();
        database.run("INSERT INTO go DEFAULT VALUES").await;
        eventually("the final is committed", async || {
            !direct.entries_since(&slug("demo"), Sequence(0), 1).await.unwrap().is_empty()
        })
        .await;
        cable.cut();
    };
    let (recorded, ()) = tokio::join!(recording, cutting);
    assert!(recorded.unwrap_err().is_retryable());
    cable.mend();
    let again =
        eventually("Postgres is back", async || through_cable.record_final(&segment).await.ok()).await;
    assert_eq!(again, Recorded::AlreadyStored);
}

#[tokio::test]
async fn a_server_that_freezes_is_given_up() {
    let database = Database::scratch().await;
    let cable = Cable::to(database.host()).await;
    let url = with_address(&database.url(), cable.address());
    let storage = Storage::connect(&StorageSettings { url, ..database.settings() }).unwrap();
    storage.check().await.unwrap();
    cable.stall();
    assert!(storage.check().await.unwrap_err().is_retryable());
    cable.mend();
    eventually("Postgres is back", async || storage.check().await.is_ok()).await;
}

#[test]
fn an_address_that_is_none_is_refused_without_repeating_it() {
    let url = "postgres://me:hunter2@[".into();
    let settings =
        StorageSettings { url, connections_max: 1, connect_timeout: std::time::Duration::from_secs(1) };
    let error = Storage::connect(&settings).err().unwrap();
    assert!(matches!(error, StorageError::Address(_)), "{error}");
    assert!(!error.to_string().contains("hunter2"));
}
