use std::time::Duration;

use model::{
    JsonObject, Message, MessageId, MessageKind, NewMessage, RoomId, Sequence, SessionSlug, Timestamp, UserId,
};
use storage::{Announcement, COUNT_MAX, MessageChange, Storage};
use testkit::Database;
use uuid::Uuid;

use crate::{NOW, notifications::user};

fn room() -> RoomId {
    "lobby".parse().unwrap()
}

fn new(room: &RoomId, author: &UserId, text: &str) -> NewMessage {
    NewMessage {
        room: room.clone(),
        author: author.clone(),
        author_name: None,
        client_message_id: None,
        kind: MessageKind::Text,
        text: text.to_owned(),
        metadata: None,
        reply_to: None,
    }
}

async fn send(storage: &Storage, new: &NewMessage, at: Timestamp) -> Option<Message> {
    storage.send_message(MessageId(Uuid::new_v4()), new, at).await.unwrap()
}

async fn say(storage: &Storage, author: &UserId, client_message_id: Option<&str>, text: &str) -> Message {
    let client_message_id = client_message_id.map(str::to_owned);
    let new = NewMessage { client_message_id, ..new(&room(), author, text) };
    send(storage, &new, NOW).await.unwrap()
}

#[tokio::test]
async fn messages_have_the_order_of_their_room_and_are_said_once() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let (alice, bob) = (user("alice"), user("bob"));
    let first = say(&storage, &alice, Some("c1"), "hello").await;
    assert_eq!((first.sequence, first.position, first.text.as_str()), (Sequence(1), Sequence(1), "hello"));
    let tries = (0..4).map(|_| say(&storage, &alice, Some("c1"), "hello"));
    for again in futures_util::future::join_all(tries).await {
        assert_eq!(again, first);
    }
    let second = say(&storage, &bob, Some("c1"), "hi").await;
    assert_eq!(second.sequence, Sequence(2), "the same id of another author is another message");
    assert_ne!(say(&storage, &bob, None, "hi").await.id, say(&storage, &bob, None, "hi").await.id);
    let (page, through) = storage.messages(&room(), Some(Sequence(3)), 10).await.unwrap();
    assert_eq!((page, through), (vec![second, first], Sequence(4)));
}

#[tokio::test]
async fn only_authors_change_what_they_said_and_readers_hear_of_it() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let (alice, bob) = (user("alice"), user("bob"));
    let said = say(&storage, &alice, None, "helo").await;
    say(&storage, &bob, None, "hi").await;
    let refused = storage.edit_message(&room(), said.id, &bob, "x", NOW).await.unwrap();
    assert_eq!(refused, MessageChange::NotAuthor);
    let MessageChange::Done(edited) =
        storage.edit_message(&room(), said.id, &alice, "hello", NOW).await.unwrap()
    else {
        panic!("not edited")
    };
    assert_eq!((edited.sequence, edited.position, edited.edited_at), (Sequence(3), Sequence(1), Some(NOW)));
    let MessageChange::Done(gone) = storage.delete_message(&room(), said.id, &alice, NOW).await.unwrap()
    else {
        panic!("not deleted")
    };
    assert_eq!((gone.text.as_str(), gone.deleted_at, gone.sequence), ("", Some(NOW), Sequence(4)));
    let again = storage.edit_message(&room(), said.id, &alice, "x", NOW).await.unwrap();
    assert_eq!(again, MessageChange::Unknown);
    let elsewhere = storage.edit_message(&"x".parse().unwrap(), said.id, &alice, "x", NOW).await.unwrap();
    assert_eq!(elsewhere, MessageChange::Unknown);

    let story = storage.replay_room(&room(), Sequence(2), 10).await.unwrap();
    assert_eq!((story.events, story.through), (vec![(*gone).clone()], Sequence(4)));
    let claim = storage.claim_outbox(10).await.unwrap();
    let announced: Vec<_> = claim.rows().iter().map(|row| row.announcement.clone()).collect();
    assert_eq!(announced[2], Announcement::Message(*edited));
    assert_eq!(announced[3], Announcement::Message(*gone));
    claim.settle(4).await.unwrap();
}

#[tokio::test]
async fn kind_name_and_what_is_replied_to_are_kept_and_announced() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let (alice, bob) = (user("alice"), user("bob"));
    let said = say(&storage, &alice, None, "look:").await;
    assert_eq!((said.kind, &said.author_name, said.reply_to), (MessageKind::Text, &None, None));
    let link = NewMessage {
        author_name: Some(" Bob \"B\" Älice ".to_owned()),
        client_message_id: Some("c1".to_owned()),
        kind: MessageKind::File,
        metadata: Some(JsonObject::parse(r#"{"bytes":1e300}"#, 100).unwrap()),
        reply_to: Some(said.id),
        ..new(&room(), &bob, "https://example.com/a.pdf")
    };
    let file = send(&storage, &link, NOW).await.unwrap();
    assert_eq!(
        (file.kind, file.author_name.as_deref(), file.reply_to),
        (MessageKind::File, Some("Bob \"B\" Älice"), Some(said.id))
    );
    assert_eq!((&file.text, &file.metadata), (&link.text, &link.metadata));
    let story = storage.replay_room(&room(), Sequence(1), 10).await.unwrap();
    assert_eq!(story.events, std::slice::from_ref(&file));
    let (page, _) = storage.messages(&room(), None, 10).await.unwrap();
    assert_eq!(page, [file.clone(), said.clone()]);

    // A link stays what it is until it is taken back.
    let edit = async |author: &UserId| {
        storage.edit_message(&room(), file.id, author, "https://example.com/b.pdf", NOW).await.unwrap()
    };
    assert_eq!((edit(&alice).await, edit(&bob).await), (MessageChange::NotAuthor, MessageChange::NotText));
    assert_eq!(storage.last_sequence(&model::Topic::Room(room())).await.unwrap(), Sequence(2));
    let MessageChange::Done(gone) = storage.delete_message(&room(), file.id, &bob, NOW).await.unwrap() else {
        panic!("not deleted")
    };
    assert_eq!((gone.kind, &gone.author_name, gone.reply_to), (file.kind, &file.author_name, file.reply_to));
    assert_eq!(edit(&bob).await, MessageChange::Unknown);

    let claim = storage.claim_outbox(10).await.unwrap();
    let announced: Vec<_> = claim.rows().iter().map(|row| row.announcement.clone()).collect();
    assert_eq!(announced, [said, file, *gone].map(Announcement::Message));
    claim.settle(3).await.unwrap();
}

#[tokio::test]
async fn only_what_was_said_in_the_same_room_is_replied_to() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let alice = user("alice");
    let attic = "attic".parse().unwrap();
    let elsewhere = send(&storage, &new(&attic, &alice, "up here"), NOW).await.unwrap();
    let replying = |to: MessageId| NewMessage {
        client_message_id: Some("c1".to_owned()),
        reply_to: Some(to),
        ..new(&room(), &alice, "what?")
    };
    for unknown in [elsewhere.id, MessageId(Uuid::new_v4())] {
        assert_eq!(send(&storage, &replying(unknown), NOW).await, None);
    }
    let said = say(&storage, &alice, None, "hello").await;
    assert_eq!(said.sequence, Sequence(1), "what was refused took no place");
    let reply = send(&storage, &replying(said.id), NOW).await.unwrap();
    // Sending it again is answered as before, also when what it replies to is gone meanwhile.
    assert!(matches!(
        storage.delete_message(&room(), said.id, &alice, NOW).await.unwrap(),
        MessageChange::Done(_)
    ));
    assert_eq!(send(&storage, &replying(said.id), NOW).await.as_ref(), Some(&reply));
    let later = NOW.after(Duration::from_secs(60));
    let last = send(&storage, &new(&room(), &alice, "still here"), later).await.unwrap();
    assert!(!storage.forget_messages(later).await.unwrap());
    assert_eq!(storage.messages(&room(), None, 10).await.unwrap().0, std::slice::from_ref(&last));
    assert_eq!(send(&storage, &replying(said.id), NOW).await, None, "forgotten, so unknown");
}

#[tokio::test]
async fn a_reader_is_told_what_it_has_missed_for_good() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let alice = user("alice");
    let attic: RoomId = "attic".parse().unwrap();
    let mut said = Vec::new();
    for minute in 0..4 {
        let at = NOW.after(Duration::from_secs(60 * minute));
        send(&storage, &new(&attic, &alice, "up here"), at.after(Duration::from_secs(3600))).await.unwrap();
        said.push(send(&storage, &new(&room(), &alice, "hello"), at).await.unwrap());
    }
    // An edit of what is old is the newest there is to hear, and of what is forgotten nothing is missed.
    storage.edit_message(&room(), said[1].id, &alice, "hello!", NOW).await.unwrap();
    while storage.forget_messages(said[2].created_at).await.unwrap() {}
    for (since, incomplete, left) in [(0, true, 2), (1, true, 2), (2, false, 2), (3, false, 1), (5, false, 0)]
    {
        let story = storage.replay_room(&room(), Sequence(since), 10).await.unwrap();
        let told = (story.incomplete, story.events.len(), story.through, story.more);
        assert_eq!(told, (incomplete, left, Sequence(5), false), "since {since}");
    }
    assert!(!storage.replay_room(&attic, Sequence(0), 10).await.unwrap().incomplete);
}

#[tokio::test]
async fn lists_over_all_rooms_are_newest_first_and_know_no_session_and_nothing_deleted() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let (alice, bob) = (user("alice"), user("bob"));
    let session: SessionSlug = "general".parse().unwrap();
    let of_session = RoomId::of_session(&session);
    let rooms = [room(), "session".parse().unwrap(), of_session.clone()];
    let mut said = Vec::new();
    for (number, room) in (0_u64..).zip(rooms.iter().cycle().take(9)) {
        let author = if number % 2 == 0 { &alice } else { &bob };
        let new = match number {
            0..3 => new(room, author, &number.to_string()),
            _ => NewMessage {
                kind: MessageKind::Image,
                ..new(room, author, &format!("https://example.com/{number}"))
            },
        };
        // Two at a time, which only their ids tell apart.
        said.push(send(&storage, &new, NOW.after(Duration::from_secs(number / 2))).await.unwrap());
    }
    let gone = &said[4];
    storage.delete_message(&gone.room, gone.id, &gone.author, NOW).await.unwrap();

    let expected = |wanted: &dyn Fn(&Message) -> bool| {
        let mut messages: Vec<Message> =
            said.iter().filter(|message| message.id != gone.id && wanted(message)).cloned().collect();
        messages.sort_by_key(|message| std::cmp::Reverse((message.created_at, message.id)));
        messages
    };
    let open = |message: &Message| message.room != of_session;
    assert_eq!(
        storage.messages_of_author(&alice, 10).await.unwrap(),
        expected(&|message| open(message) && message.author == alice)
    );
    let images = expected(&|message| open(message) && message.kind == MessageKind::Image);
    assert_eq!(images.len(), 3);
    assert_eq!(storage.messages_of_kind(MessageKind::Image, 10).await.unwrap(), images);
    assert_eq!(storage.messages_of_kind(MessageKind::Image, 2).await.unwrap(), images[..2]);
    assert_eq!(storage.messages_of_kind(MessageKind::File, 10).await.unwrap(), []);
    assert_eq!(storage.messages_of_author(&user("carol"), 10).await.unwrap(), []);

    for (room, count) in rooms.iter().zip([3, 2, 3]) {
        assert_eq!(storage.count_messages(room).await.unwrap(), count, "{room}");
    }
    let attic: RoomId = "attic".parse().unwrap();
    assert_eq!(storage.count_messages(&attic).await.unwrap(), 0);
    database
        .run(&format!(
            "INSERT INTO messages (id, room_id, position, sequence, author, text, created_at)
             SELECT gen_random_uuid(), 'attic', n, n, 'alice', 'hi', now() FROM generate_series(1, {COUNT_MAX} + 1) AS n"
        ))
        .await;
    assert_eq!(storage.count_messages(&attic).await.unwrap(), COUNT_MAX);
}

/// A database as the release left it that knew migrations up to `version`.
async fn database_of(version: i32) -> Database {
    let database = Database::unmigrated().await;
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let history = Database::scratch()
        .await
        .rows(&format!(
            "SELECT version, name, applied_on, checksum FROM refinery_schema_history WHERE version <= {version}
             ORDER BY version"
        ))
        .await;
    assert_eq!(history.len(), usize::try_from(version).unwrap());
    database
        .run(
            "CREATE TABLE refinery_schema_history (
                 version int4 PRIMARY KEY, name varchar(255), applied_on varchar(255), checksum varchar(255))",
        )
        .await;
    for row in history {
        let (version, name, at, checksum): (i32, String, String, String) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        let sql = std::fs::read_to_string(folder.join(format!("V{version}__{name}.sql"))).unwrap();
        database.run(&sql).await;
        database
            .run(&format!(
                "INSERT INTO refinery_schema_history VALUES ({version}, '{name}', '{at}', '{checksum}')"
            ))
            .await;
    }
    database
}

#[tokio::test]
async fn what_was_said_before_there_were_kinds_is_text_and_an_earlier_release_still_writes() {
    let database = database_of(6).await;
    let storage = database.storage();
    let (alice, bob) = (user("alice"), user("bob"));
    let said_by_the_release_before = "
        WITH counted AS (
            INSERT INTO topics (name, sequence) VALUES ('room:lobby', 1)
            ON CONFLICT (name) DO UPDATE SET sequence = topics.sequence + 1 RETURNING sequence),
        said AS (
            INSERT INTO messages (id, room_id, position, sequence, author, client_message_id, text, metadata, created_at)
            SELECT gen_random_uuid(), 'lobby', sequence, sequence, 'alice', NULL, 'hello', NULL,
                   date_trunc('milliseconds', now()) FROM counted
            RETURNING *)
        INSERT INTO outbox (topic, sequence, payload, created_at)
        SELECT 'room:lobby', sequence, jsonb_build_object('kind', 'message', 'message', jsonb_build_object(
            'id', id, 'room', room_id, 'sequence', sequence, 'position', position, 'author', author,
            'client_message_id', NULL, 'text', text, 'metadata', NULL,
            'created_at', (extract(epoch FROM created_at) * 1000)::bigint, 'edited_at', NULL, 'deleted_at', NULL)), now()
        FROM said";
    database.run(said_by_the_release_before).await;
    assert!(storage.check().await.is_err());
    storage.migrate().await.unwrap();
    storage.check().await.unwrap();
    // While the deployment rolls both releases write.
    database.run(said_by_the_release_before).await;

    let (page, _) = storage.messages(&room(), None, 10).await.unwrap();
    let [second, first] = page.as_slice() else { panic!("{page:?}") };
    for message in [first, second] {
        assert_eq!((message.kind, &message.author_name, message.reply_to), (MessageKind::Text, &None, None));
    }
    let reply = NewMessage { reply_to: Some(first.id), ..new(&room(), &bob, "hi") };
    let reply = send(&storage, &reply, NOW).await.unwrap();
    let MessageChange::Done(edited) =
        storage.edit_message(&room(), first.id, &alice, "hello!", NOW).await.unwrap()
    else {
        panic!("not edited")
    };
    assert_eq!(storage.messages_of_author(&alice, 10).await.unwrap(), [second.clone(), (*edited).clone()]);
    assert_eq!(storage.count_messages(&room()).await.unwrap(), 3);
    let claim = storage.claim_outbox(10).await.unwrap();
    let announced: Vec<_> = claim.rows().iter().map(|row| row.announcement.clone()).collect();
    assert_eq!(announced[1..], [second.clone(), reply, *edited].map(Announcement::Message));
    let Announcement::Message(earlier) = &announced[0] else { panic!("another announcement") };
    assert_eq!((earlier.id, earlier.kind, earlier.text.as_str()), (first.id, MessageKind::Text, "hello"));
    claim.settle(4).await.unwrap();
}
