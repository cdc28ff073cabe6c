//! `parley migrate`, `parley export` and `parley erase` against a real Postgres.

use model::{Clock, Samples, Speaker, StreamId, Word};
use storage::{NewFinal, NewStream, Recorded, Storage};
use testkit::Database;

use crate::scripted::{Said, folder, parley, soon};

/// Runs it with this database as ours.
pub async fn with_database(database: &Database, arguments: &[&str]) -> Said {
    soon(parley(arguments).env("DATABASE_URL", database.url().expose()).output()).await.unwrap().into()
}

/// Stores what somebody said from the start of a stream of their own.
async fn say(storage: &Storage, session: &str, who: &str, text: &str) -> StreamId {
    let now = Clock::system().now();
    let session = session.parse().unwrap();
    let speaker = Speaker { identity: who.parse().unwrap(), name: None };
    let id = StreamId(uuid::Uuid::new_v4());
    let stream = NewStream {
        id,
        session,
        speaker: speaker.clone(),
        started_at: now,
        user: Some(format!("user-of-{who}").parse().unwrap()),
        limits: storage::StreamLimits::default(),
        now,
    };
    let open = storage.open_stream(&stream).await.unwrap();
    let (start, end) = (Samples(0), Samples::from_millis(1500));
    let segment = NewFinal {
        session_id: open.session_id,
        session: stream.session,
        epoch: open.epoch,
        stream: id,
        number: open.next_utterance,
        speaker,
        text: text.to_owned(),
        language: Some("en".to_owned()),
        start,
        end,
        words: vec![Word { text: text.to_owned(), start, end }],
        translate_to: Vec::new(),
        at: now,
    };
    assert!(matches!(storage.record_final(&segment).await.unwrap(), Recorded::Stored(_)));
    id
}

#[tokio::test]
async fn migrate_brings_the_schema_once_and_says_so() {
    let database = Database::unmigrated().await;
    let early = with_database(&database, &["export", "--session", "demo", "--format", "txt"]).await;
    assert_eq!(early.code, Some(1));
    assert!(early.err.contains("run `parley migrate`"), "{}", early.err);
    let first = with_database(&database, &["migrate"]).await;
    assert_eq!(first.code, Some(0), "{}", first.err);
    assert!(first.out.starts_with("migrated: the schema is there, at version "), "{}", first.out);
    let second = with_database(&database, &["migrate"]).await;
    assert_eq!(
        (second.code, second.out.as_str()),
        (Some(0), "migrated: the schema is up to date, nothing to do\n")
    );
}

#[tokio::test]
async fn export_writes_what_is_stored() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let hello = say(&storage, "demo", "alice", "Hello.").await;
    let output = folder().join("demo.srt");
    let arguments = ["export", "--session", "demo", "--format", "srt", "--output", output.to_str().unwrap()];
    let said = with_database(&database, &arguments).await;
    assert_eq!((said.code, said.out.as_str()), (Some(0), ""), "{}", said.err);
    assert_eq!(std::fs::read_to_string(output).unwrap(), "1\n00:00:00,000 --> 00:00:01,500\nHello.\n\n");

    say(&storage, "demo", "bob", "Hi.").await;
    let said = with_database(&database, &["export", "--session", "demo", "--format", "txt"]).await;
    assert_eq!(said.out, "alice: Hello.\nbob: Hi.\n");
    let said = with_database(
        &database,
        &["export", "--session", "demo", "--format", "txt", "--stream", &hello.to_string()],
    )
    .await;
    assert_eq!(said.out, "alice: Hello.\n");
    let bob = ["export", "--session", "demo", "--format", "txt", "--speaker", "bob"];
    assert_eq!(with_database(&database, &bob).await.out, "bob: Hi.\n");
    let since = |moment| [&bob[..], &["--from", moment]].concat();
    assert_eq!(with_database(&database, &since("2020-01-01T00:00:00Z")).await.out, "bob: Hi.\n");
    let none = with_database(&database, &since("2999-01-01T00:00:00Z")).await;
    assert_eq!(none.code, Some(1));
    assert!(none.err.contains("session demo, with this speaker and in this time"), "{}", none.err);
    let said = with_database(&database, &["export", "--session", "nobody", "--format", "json"]).await;
    assert_eq!((said.code, said.out.as_str()), (Some(1), ""));
    assert!(said.err.contains("no captions are stored for session nobody"), "{}", said.err);
}

#[tokio::test]
async fn a_stream_key_is_made_listed_and_revoked() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let made = with_database(&database, &["key", "create", "--session", "demo", "--label", "Stage"]).await;
    assert_eq!(made.code, Some(0), "{}", made.err);
    let key = made.out.split_whitespace().last().unwrap();
    let (now, hash) = (Clock::system().now(), auth::stream_key_sha256(key));
    let found = storage.use_stream_key(&hash, now).await.unwrap().expect("the printed key is good");
    assert_eq!((found.session.as_str(), found.label.as_deref()), ("demo", Some("Stage")));

    let listed = with_database(&database, &["key", "list", "--session", "demo"]).await;
    let id = found.id.to_string();
    assert!(listed.out.starts_with(&id) && listed.out.contains("  good  Stage"), "{}", listed.out);
    assert!(!listed.out.contains(key), "a key is shown once");

    let other = with_database(&database, &["key", "revoke", "--session", "other", &id]).await;
    assert_eq!(other.code, Some(1));
    assert!(other.err.contains("parley key list"), "{}", other.err);
    let revoked = with_database(&database, &["key", "revoke", "--session", "demo", &id]).await;
    assert_eq!(revoked.code, Some(0), "{}", revoked.err);
    assert_eq!(storage.use_stream_key(&hash, now).await, Ok(None));
}

#[tokio::test]
async fn a_person_or_a_session_is_erased_when_it_is_meant() {
    let database = Database::scratch().await;
    let storage = database.storage();
    for session in ["demo", "other"] {
        say(&storage, session, "alice", "Hello.").await;
        say(&storage, session, "bob", "Hi.").await;
    }
    let text = async |session| {
        with_database(&database, &["export", "--session", session, "--format", "txt"]).await.out
    };
    let asked = with_database(&database, &["erase", "--user", "user-of-alice"]).await;
    assert_eq!((asked.code, asked.err.as_str()), (Some(0), ""));
    assert!(asked.out.starts_with("would erase 2 segments\nwould erase 2 streams\n"), "{}", asked.out);
    assert!(asked.out.ends_with("nothing is erased yet: repeat it with --yes\n"), "{}", asked.out);
    assert_eq!(text("demo").await, "alice: Hello.\nbob: Hi.\n");
    let done = with_database(&database, &["erase", "--user", "user-of-alice", "--yes"]).await;
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""));
    assert!(done.out.starts_with("erased 2 segments\nerased 2 streams\n"), "{}", done.out);
    assert_eq!((text("demo").await, text("other").await), ("bob: Hi.\n".to_owned(), "bob: Hi.\n".to_owned()));
    let again = with_database(&database, &["erase", "--user", "user-of-alice", "--yes"]).await;
    assert_eq!((again.code, again.out.as_str()), (Some(0), "nothing is kept of it\n"));

    let session = ["erase", "--session", "demo"];
    assert!(with_database(&database, &session).await.out.contains("would erase 1 sessions\n"));
    let done = with_database(&database, &[&session[..], &["--yes"]].concat()).await;
    assert!(done.out.contains("erased 1 sessions\nerased 1 segments\n"), "{}", done.out);
    assert_eq!(with_database(&database, &session).await.out, "nothing is kept of it\n");
    assert_eq!((text("demo").await, text("other").await), (String::new(), "bob: Hi.\n".to_owned()));
}
