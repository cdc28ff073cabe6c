//! What is removed because somebody asked for it, or for its age.

use std::time::Duration;

use model::{
    EngineName, JsonObject, MessageId, MessageKind, NewMessage, NewNotification, NotificationId, Outside,
    Priority, RoomId, Samples, Sequence, Topic, UserId,
};
use storage::{
    Erased, Erasing, Idempotency, MessageChange, Metered, NewNotifications, PushSubscription, Recorded,
    Revision, Storage, StorageError, UsageReport,
};
use testkit::Database;
use uuid::Uuid;

use crate::{NOW, new_stream, slug, store, stream_id, utterance};

/// How many rows a query counts.
async fn count(database: &Database, from: &str) -> i64 {
    let rows = database.rows(&format!("SELECT count(*) FROM {from}")).await;
    rows.first().unwrap().get(0)
}

fn counts(erased: &Erased) -> Vec<(&str, u64)> {
    erased.counts().filter(|(_, count)| *count > 0).collect()
}

fn outside(session: &str, id: &str, user: Option<&str>) -> Revision {
    Revision {
        session: slug(session),
        utterance: id.parse().unwrap(),
        speaker: None,
        text: format!("From outside, {id}."),
        language: None,
        outside: Some(Outside { user: user.map(|user| user.parse().unwrap()), ..Outside::default() }),
        said_at: NOW,
        at: NOW,
    }
}

/// Alice (user u1) and Bob (user u2) speak in a session, and somebody else hands something in.
async fn held(storage: &Storage, session: &str, first_stream: u128) {
    let at = storage.start_session(&slug(session), &format!("id-{session}"), None, NOW).await.unwrap();
    for (number, (identity, user)) in (first_stream..).zip([("alice", "u1"), ("bob", "u2")]) {
        let user: UserId = user.parse().unwrap();
        storage
            .upsert_participant(at.id, &identity.parse().unwrap(), Some(identity), Some(&user), NOW)
            .await
            .unwrap();
        let mut new = new_stream(session, stream_id(number));
        new.speaker.identity = identity.parse().unwrap();
        new.user = Some(user.clone());
        let open = storage.open_stream(&new).await.unwrap();
        for said in 1..=2 {
            let mut new = utterance(session, stream_id(number), &open, said);
            new.speaker.identity = identity.parse().unwrap();
            store(storage, &new).await;
        }
        let metered = Metered {
            stream: stream_id(number),
            epoch: open.epoch,
            engine: EngineName::Moonshine,
            heard_end: Samples(16_000),
            sound: Samples(16_000),
            at: NOW,
        };
        storage.meter(&metered).await.unwrap();
        storage
            .note_active_speaker(
                &slug(session),
                Some(&new.speaker),
                NOW.after(Duration::from_secs(u64::try_from(number).unwrap())),
            )
            .await
            .unwrap();
        let report = UsageReport {
            identity: identity.parse().unwrap(),
            user: Some(user),
            started_at: NOW,
            ended_at: NOW,
            duration_seconds: 1.0,
            audio_chunks_sent: 0,
            transcripts: 0,
            final_transcripts: 0,
            partial_transcripts: 0,
            errors: 0,
        };
        storage.report_usage(&slug(session), &report, NOW).await.unwrap();
    }
    storage.revise(&outside(session, "x-1", Some("u1"))).await.unwrap();
    storage.revise(&outside(session, "x-2", Some("u3"))).await.unwrap();
}

#[tokio::test]
async fn a_session_goes_with_all_that_was_kept_of_it() {
    let database = Database::scratch().await;
    let storage = database.storage();
    storage.tell_session_events(&[storage::SessionEventKind::Started]).await.unwrap();
    held(&storage, "demo", 1).await;
    held(&storage, "other", 3).await;
    let rooms = ["session:demo", "session:other", "demo"].map(|room| room.parse::<RoomId>().unwrap());
    for room in &rooms {
        say(&storage, room, &"alice".parse().unwrap()).await;
    }
    let delete = async |erasing| storage.delete_session(&slug("demo"), erasing).await.unwrap();
    let tried = delete(Erasing::OnTrial).await.unwrap();
    assert_eq!(count(&database, "segments").await, 12, "a trial leaves everything");
    let erased = delete(Erasing::ForGood).await.unwrap();
    assert_eq!(erased, tried);
    assert_eq!(
        counts(&erased),
        [
            ("sessions", 1),
            ("segments", 6),
            ("streams", 2),
            ("participants", 2),
            ("speaker_changes", 2),
            ("usage_reports", 2),
            ("messages", 1),
            ("announcements", 7),
            ("deliveries", 1),
            ("usage_without_names", 2)
        ]
    );
    for (table, left) in [("segments", 6), ("outbox", 8)] {
        assert_eq!(count(&database, table).await, left, "{table}");
    }
    for table in ["streams", "participants", "active_speakers", "usage_reports", "messages"] {
        assert_eq!(count(&database, table).await, 2, "{table}");
    }
    assert_eq!(
        count(&database, "usage WHERE session_id IS NULL AND identity IS NULL AND user_id IS NULL").await,
        2
    );
    assert_eq!(storage.usage_totals(None).await.unwrap().minutes, 4, "what was used stays");
    assert_eq!(delete(Erasing::ForGood).await, None);
    // Whoever still holds a stream of it cannot write, and what comes next has the next sequence.
    let mut late = new_stream("demo", stream_id(1));
    assert_eq!(storage.close_stream(stream_id(1), 1, NOW).await, Err(StorageError::Superseded));
    late.speaker.identity = "bob".parse().unwrap();
    let open = storage.open_stream(&late).await.unwrap();
    assert_eq!(store(&storage, &utterance("demo", stream_id(1), &open, 1)).await.sequence, Sequence(7));
    say(&storage, &rooms[0], &"bob".parse().unwrap()).await;
    assert_eq!(storage.messages(&rooms[0], None, 9).await.unwrap().0[0].sequence, Sequence(2));
}

#[tokio::test]
async fn deleting_a_session_in_which_people_speak_leaves_nothing_half() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let speak = async {
        for stream in 1..=20 {
            let open = storage.open_stream(&new_stream("demo", stream_id(stream))).await.unwrap();
            let mut number = 1;
            while number <= 10 {
                match storage.record_final(&utterance("demo", stream_id(stream), &open, number)).await {
                    Ok(Recorded::Stored(_)) => number += 1,
                    Err(StorageError::Superseded) => break,
                    // Postgres chose this one of the two that waited for each other; a worker tries again as well.
                    Err(StorageError::Unavailable(_)) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
    };
    let room = RoomId::of_session(&slug("demo"));
    let chat = async {
        for _ in 0..100 {
            say(&storage, &room, &"alice".parse().unwrap()).await;
        }
    };
    let delete = async {
        for _ in 0..20 {
            storage.delete_session(&slug("demo"), Erasing::ForGood).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(speak, chat, delete);
    for (topic, table) in [("session:demo", "segments"), ("room:session:demo", "messages")] {
        let orphans = format!(
            "outbox WHERE topic = '{topic}'
               AND NOT EXISTS (SELECT FROM {table} WHERE {table}.sequence = outbox.sequence)"
        );
        assert_eq!(count(&database, &orphans).await, 0, "nothing is announced that is not there");
    }
    assert_eq!(storage.last_sequence(&Topic::Room(room)).await.unwrap(), Sequence(100));
    let last = storage.last_sequence(&Topic::Session(slug("demo"))).await.unwrap();
    assert!(i64::try_from(last.0).unwrap() >= count(&database, "segments").await);
}

/// Something in every inbox, room and queue, of two users.
async fn notified(storage: &Storage) {
    let notification = NewNotification {
        kind: "NEWS".parse().unwrap(),
        title: "t".to_owned(),
        message: "m".to_owned(),
        metadata: None,
        priority: Priority::Normal,
        expires_at: None,
        deliver_at: None,
        collapse_key: None,
    };
    let users: Vec<UserId> = ["u1", "u2"].iter().map(|user| user.parse().unwrap()).collect();
    let recipients: Vec<_> =
        users.iter().map(|user| (user.clone(), NotificationId(Uuid::new_v4()))).collect();
    let new = NewNotifications { recipients: &recipients, notification: &notification, hook: true, at: NOW };
    let until = NOW.after(Duration::from_secs(3600));
    let key = Idempotency { key: "k", request_hash: b"h", until };
    storage.publish_notifications(new, Some(key)).await.unwrap();
    for user in &users {
        let subscription = PushSubscription {
            endpoint: format!("https://push.example/{user}").as_str().into(),
            p256dh: "p".to_owned(),
            auth: "a".into(),
        };
        storage.register_push(user, &subscription, NOW).await.unwrap();
        let event = JsonObject::parse(r#"{"type":"x"}"#, 100).unwrap();
        storage.publish_event(&Topic::Feed(user.clone()), &event, NOW, None).await.unwrap();
        say(storage, &"general".parse().unwrap(), user).await;
    }
}

async fn say(storage: &Storage, room: &RoomId, author: &UserId) {
    let message = NewMessage {
        room: room.clone(),
        author: author.clone(),
        author_name: Some(format!("Called {author}")),
        client_message_id: None,
        kind: MessageKind::Image,
        text: format!("https://example.com/{author}.png"),
        metadata: None,
        reply_to: None,
    };
    storage.send_message(MessageId(Uuid::new_v4()), &message, NOW).await.unwrap();
}

#[tokio::test]
async fn a_person_goes_everywhere_and_nobody_else_does() {
    let database = Database::scratch().await;
    let storage = database.storage();
    held(&storage, "demo", 1).await;
    // In Bob's stream, which is the room's, Alice was heard as well; and a text of hers became Bob's.
    let mut again = new_stream("demo", stream_id(2));
    again.speaker.identity = "bob".parse().unwrap();
    let open = storage.open_stream(&again).await.unwrap();
    store(&storage, &utterance("demo", stream_id(2), &open, 3)).await;
    let corrected = Revision {
        speaker: Some(model::Speaker { identity: "bob".parse().unwrap(), name: None }),
        outside: None,
        ..outside("demo", &format!("{}-1", stream_id(1)), None)
    };
    storage.revise(&corrected).await.unwrap();
    notified(&storage).await;
    // In a session's room people are who they are there.
    let session = RoomId::of_session(&slug("demo"));
    for author in ["alice", "bob", "u1"] {
        say(&storage, &session, &author.parse().unwrap()).await;
    }
    database
        .run("INSERT INTO scheduled_notifications SELECT gen_random_uuid(), 'u' || n, now(), '{}' FROM generate_series(1, 2) AS n")
        .await;
    let erase =
        async |user: &str, erasing| storage.erase_user(&user.parse().unwrap(), erasing).await.unwrap();
    let before = count(&database, "segments").await;
    let tried = erase("u1", Erasing::OnTrial).await;
    assert_eq!(count(&database, "segments").await, before);
    let erased = erase("u1", Erasing::ForGood).await;
    assert_eq!(erased, tried);
    assert_eq!(
        counts(&erased),
        [
            // Two that Alice said, one of them corrected; one in Bob's stream; one from outside.
            ("segments", 5),
            ("streams", 1),
            ("participants", 1),
            ("speaker_changes_without_names", 1),
            ("usage_without_names", 1),
            ("usage_reports", 1),
            ("notifications", 1),
            ("scheduled_notifications", 1),
            ("deliveries", 1),
            ("inboxes", 1),
            ("push_subscriptions", 1),
            // One in a room of everybody's, two in the session's.
            ("messages", 3),
            ("events", 1),
            ("topics", 2),
            ("announcements", 10),
            ("remembered_answers_without_names", 1),
        ]
    );
    // Nothing names them any more, in any column of any table.
    let dump = database
        .rows(
            "SELECT table_name::text, query_to_xml(format('SELECT * FROM %I', table_name), true, true, '')::text
             FROM information_schema.tables WHERE table_schema = 'public' AND table_type = 'BASE TABLE'
               AND table_name <> 'refinery_schema_history'",
        )
        .await;
    for row in &dump {
        let (table, rows): (String, String) = (row.get(0), row.get(1));
        assert!(!rows.contains("alice") && !rows.contains("u1"), "{table}: {rows}");
    }
    for (table, left) in [
        // Two of Bob's, one from outside.
        ("segments", 3),
        ("streams", 1),
        ("participants", 1),
        ("notifications", 1),
        ("messages", 2),
        ("inboxes", 1),
        ("push_subscriptions", 1),
        ("usage_reports", 1),
        ("usage", 2),
        ("active_speakers", 2),
    ] {
        assert_eq!(count(&database, table).await, left, "{table}");
    }
    assert!(erase("u1", Erasing::ForGood).await.is_empty());
    assert!(!erase("u2", Erasing::ForGood).await.is_empty());
}

#[tokio::test]
async fn erasing_a_person_who_edits_meanwhile_leaves_no_word_on_its_way() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let (room, user): (RoomId, UserId) = ("general".parse().unwrap(), "u1".parse().unwrap());
    for _ in 0..20 {
        let message = NewMessage {
            room: room.clone(),
            author: user.clone(),
            author_name: None,
            client_message_id: None,
            kind: MessageKind::Text,
            text: "hello".to_owned(),
            metadata: None,
            reply_to: None,
        };
        let id = MessageId(Uuid::new_v4());
        storage.send_message(id, &message, NOW).await.unwrap();
        let edit = async {
            while storage.edit_message(&room, id, &user, "hello!", NOW).await.unwrap()
                != MessageChange::Unknown
            {}
        };
        let erase = async { storage.erase_user(&user, Erasing::ForGood).await.unwrap() };
        tokio::join!(edit, erase);
        assert_eq!((count(&database, "messages").await, count(&database, "outbox").await), (0, 0));
    }
}

#[tokio::test]
async fn a_stream_in_which_others_were_heard_stays_without_the_name() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let mut new = new_stream("demo", stream_id(1));
    new.user = Some("u1".parse().unwrap());
    let open = storage.open_stream(&new).await.unwrap();
    store(&storage, &utterance("demo", stream_id(1), &open, 1)).await;
    let mut other = utterance("demo", stream_id(1), &open, 2);
    other.speaker.identity = "bob".parse().unwrap();
    store(&storage, &other).await;
    let erased = storage.erase_user(&"u1".parse().unwrap(), Erasing::ForGood).await.unwrap();
    assert_eq!(counts(&erased), [("segments", 1), ("streams_without_names", 1), ("announcements", 1)]);
    assert_eq!(count(&database, "segments WHERE speaker_identity = 'bob'").await, 1);
    let left = "streams WHERE speaker_identity = 'room' AND speaker_name IS NULL AND user_id IS NULL";
    assert_eq!(count(&database, left).await, 1);
}

#[tokio::test]
async fn old_finals_go_and_then_sessions_of_which_nothing_is_left() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let day = Duration::from_secs(86_400);
    held(&storage, "used", 1).await;
    storage.revise(&outside("outside", "x", Some("u1"))).await.unwrap();
    storage.revise(&outside("young", "x", None)).await.unwrap();
    for session in ["outside", "young", "empty", "open", "keyed"] {
        let at = storage.touch_session(&slug(session), NOW).await.unwrap();
        storage.upsert_participant(at.id, &"alice".parse().unwrap(), None, None, NOW).await.unwrap();
    }
    let key = storage::NewStreamKey {
        id: Uuid::new_v4(),
        key_sha256: [7; 32],
        session: slug("keyed"),
        label: None,
        now: NOW,
    };
    storage.create_stream_key(&key).await.unwrap();
    database
        .run(
            "UPDATE sessions SET status = 'ended', ended_at = last_activity_at WHERE slug <> 'open';
             UPDATE segments SET stored_at = stored_at + interval '2 days'
             WHERE session_id = (SELECT id FROM sessions WHERE slug = 'young')",
        )
        .await;
    for room in ["session:empty", "session:outside", "young"] {
        say(&storage, &room.parse().unwrap(), &"alice".parse().unwrap()).await;
    }
    let left = async || -> Vec<String> {
        let rows = database.rows("SELECT slug FROM sessions ORDER BY slug").await;
        rows.iter().map(|row| row.get(0)).collect()
    };
    assert!(!storage.forget_sessions(NOW).await.unwrap());
    assert_eq!(left().await.len(), 6, "too young");
    while storage.forget_finals(NOW.after(day)).await.unwrap() {}
    assert_eq!(count(&database, "segments").await, 1, "those from outside as well, and not the young one");
    while storage.forget_sessions(NOW.after(day)).await.unwrap() {}
    assert_eq!(
        left().await,
        ["empty", "keyed", "open", "outside", "used", "young"],
        "something was said there"
    );
    while storage.forget_messages(NOW.after(day)).await.unwrap() {}
    while storage.forget_sessions(NOW.after(day)).await.unwrap() {}
    assert_eq!(left().await, ["keyed", "open", "used", "young"]);
    assert_eq!(count(&database, "participants").await, 5);
    assert_eq!(storage.last_sequence(&Topic::Session(slug("outside"))).await.unwrap(), Sequence(1));
}
