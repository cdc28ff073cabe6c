use model::{Message, MessageId, RoomId, Sequence, UserId};
use storage::{Announcement, MessageChange, NewMessage, Storage};
use testkit::Database;
use uuid::Uuid;

use crate::{NOW, notifications::user};

fn room() -> RoomId {
    "lobby".parse().unwrap()
}

async fn say(storage: &Storage, author: &UserId, client_message_id: Option<&str>, text: &str) -> Message {
    let new = NewMessage {
        id: MessageId(Uuid::new_v4()),
        room: &room(),
        author,
        client_message_id,
        text,
        metadata: None,
        at: NOW,
    };
    storage.send_message(new).await.unwrap()
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
    assert_eq!((story.events, story.through), (vec![gone.clone()], Sequence(4)));
    let claim = storage.claim_outbox(10).await.unwrap();
    let announced: Vec<_> = claim.rows().iter().map(|row| row.announcement.clone()).collect();
    assert_eq!(announced[2], Announcement::Message(edited));
    assert_eq!(announced[3], Announcement::Message(gone));
    claim.settle(4).await.unwrap();
}
