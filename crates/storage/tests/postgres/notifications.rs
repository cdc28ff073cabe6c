use std::time::Duration;

use model::{
    Change, JsonObject, NewNotification, Notification, NotificationId, NotificationType, Priority, Sequence,
    Timestamp, Topic, Unread, UserId,
};
use storage::{
    Announcement, Idempotency, InboxChange, InboxEvent, InboxFilter, Mark, NewNotifications, Publication,
    PushSubscription, Queue, Storage, Way,
};
use testkit::Database;
use uuid::Uuid;

use crate::NOW;

pub(crate) fn user(id: &str) -> UserId {
    id.parse().unwrap()
}

fn kind(name: &str) -> NotificationType {
    name.parse().unwrap()
}

pub(crate) fn new(title: &str) -> NewNotification {
    NewNotification {
        kind: kind("LIKE_POST"),
        title: title.to_owned(),
        message: "Somebody likes it".to_owned(),
        metadata: Some(JsonObject::parse(r#"{"z":1,"a":"\"x\""}"#, 100).unwrap()),
        priority: Priority::High,
        expires_at: None,
        deliver_at: None,
        collapse_key: None,
    }
}

fn recipients(users: &[&str]) -> Vec<(UserId, NotificationId)> {
    users.iter().map(|id| (user(id), NotificationId(Uuid::new_v4()))).collect()
}

async fn publish(storage: &Storage, users: &[&str], notification: &NewNotification) -> Vec<Notification> {
    let new = NewNotifications { recipients: &recipients(users), notification, hook: false, at: NOW };
    match storage.publish_notifications(new, None).await.unwrap() {
        Publication::Done(stored) => stored,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn one(storage: &Storage, id: &str, title: &str) -> Notification {
    publish(storage, &[id], &new(title)).await.remove(0)
}

async fn list(storage: &Storage, id: &str, filter: InboxFilter) -> Vec<String> {
    let (page, _) = storage.notifications(&user(id), &filter, 100).await.unwrap();
    page.into_iter().map(|notification| notification.title).collect()
}

async fn all(storage: &Storage, id: &str) -> Vec<String> {
    list(storage, id, InboxFilter::default()).await
}

async fn unread(storage: &Storage, id: &str) -> Vec<String> {
    list(storage, id, InboxFilter { unread_only: true, ..InboxFilter::default() }).await
}

async fn count(storage: &Storage, id: &str) -> (u64, u64) {
    let Unread { count, version } = storage.unread(&user(id)).await.unwrap();
    (count, version.0)
}

async fn mark(storage: &Storage, mark: Mark, of: &[&Notification]) -> InboxChange {
    let ids: Vec<_> = of.iter().map(|notification| notification.id).collect();
    storage.mark_notifications(&of.first().unwrap().user, mark, &ids, NOW).await.unwrap()
}

/// Everything announced so far, in the order of its storing.
async fn announced(storage: &Storage) -> Vec<(String, u64, Announcement)> {
    let claim = storage.claim_outbox(1000).await.unwrap();
    let rows = claim.rows().to_vec();
    claim.settle(rows.len()).await.unwrap();
    rows.into_iter().map(|row| (row.topic.to_string(), row.sequence.0, row.announcement)).collect()
}

#[tokio::test]
async fn a_notification_is_stored_counted_and_announced_at_once() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let stored = publish(&storage, &["u2", "u1"], &new("A \"like\"\0")).await;
    let of: Vec<_> = stored.iter().map(|one| (one.user.as_str(), one.sequence.0)).collect();
    assert_eq!(of, [("u2", 1), ("u1", 1)], "in the order of the recipients");
    assert_eq!(stored[0].title, "A \"like\"", "without what Postgres does not take");
    assert_eq!(storage.notification(&user("u2"), stored[0].id).await.unwrap(), Some(stored[0].clone()));
    assert_eq!(storage.notification(&user("u1"), stored[0].id).await.unwrap(), None, "another user's");
    assert_eq!(count(&storage, "u1").await, (1, 1));
    let announced = announced(&storage).await;
    let expected = Announcement::Notification {
        notification: stored[1].clone(),
        unread: Unread { count: 1, version: Sequence(1) },
    };
    assert!(announced.contains(&("user:u1".to_owned(), 1, expected)), "{announced:?}");
    assert_eq!(count(&storage, "nobody").await, (0, 0));
    assert!(all(&storage, "nobody").await.is_empty());
}

#[tokio::test]
async fn concurrent_publications_commit_in_the_order_of_their_sequences() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let publishers = (0..8).map(|publisher| {
        let storage = storage.clone();
        async move {
            for number in 0..25 {
                // In opposite orders, as two services would.
                let users = if publisher % 2 == 0 { ["u1", "u2"] } else { ["u2", "u1"] };
                publish(&storage, &users, &new(&format!("{publisher}-{number}"))).await;
            }
        }
    });
    let watcher = async {
        // Whoever sees a sequence can read every one before it.
        for _ in 0..50 {
            let (page, _) = storage.notifications(&user("u1"), &InboxFilter::default(), 200).await.unwrap();
            let sequences: Vec<_> = page.iter().rev().map(|one| one.sequence.0).collect();
            let expected: Vec<_> = (1..=sequences.len() as u64).collect();
            assert_eq!(sequences, expected);
        }
    };
    futures_util::future::join(futures_util::future::join_all(publishers), watcher).await;
    assert_eq!(count(&storage, "u1").await, (200, 200));
    assert_eq!(count(&storage, "u2").await, (200, 200));
}

#[tokio::test]
async fn the_same_key_and_request_is_done_once_and_answered_alike() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let content = new("once");
    let with_key = async |hash: &[u8], now: Timestamp| {
        let recipients = recipients(&["u1", "u2"]);
        let new = NewNotifications { recipients: &recipients, notification: &content, hook: false, at: now };
        let until = now.after(Duration::from_secs(60));
        let key = Idempotency { key: "k", request_hash: hash, until };
        storage.publish_notifications(new, Some(key)).await.unwrap()
    };
    let tries = (0..6).map(|_| with_key(b"one", NOW));
    let mut answers = futures_util::future::join_all(tries).await;
    answers.sort_by_key(|answer| matches!(answer, Publication::Repeated(_)));
    let Publication::Done(done) = answers.remove(0) else { panic!("nothing was done") };
    for answer in answers {
        assert_eq!(answer, Publication::Repeated(done.clone()));
    }
    assert_eq!(with_key(b"two", NOW).await, Publication::Conflict);
    assert_eq!(count(&storage, "u1").await, (1, 1));

    let later = NOW.after(Duration::from_secs(61));
    assert!(matches!(with_key(b"two", later).await, Publication::Done(_)), "the key was forgotten");
    assert_eq!(count(&storage, "u1").await, (2, 2));
    assert!(!storage.forget_idempotency_keys(later.after(Duration::from_secs(61))).await.unwrap());
    assert!(matches!(with_key(b"three", later).await, Publication::Done(_)));
}

#[tokio::test]
async fn marks_change_the_count_once_and_take_a_sequence_only_when_something_changed() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let (a, b, other) =
        (one(&storage, "u1", "a").await, one(&storage, "u1", "b").await, one(&storage, "u2", "c").await);
    announced(&storage).await;

    let read = mark(&storage, Mark::Read, &[&a, &other]).await;
    let unread_after = Unread { count: 1, version: Sequence(3) };
    assert_eq!(read, InboxChange { changed: 1, found: 1, unread: unread_after }, "not another user's");
    assert_eq!(
        mark(&storage, Mark::Read, &[&a]).await,
        InboxChange { changed: 0, found: 1, unread: unread_after }
    );
    assert_eq!(count(&storage, "u2").await, (1, 1));
    let changes = announced(&storage).await;
    assert_eq!(changes.len(), 1);
    let (topic, 3, Announcement::Change(change)) = &changes[0] else { panic!("{changes:?}") };
    assert_eq!(
        (topic.as_str(), &change.change, change.unread),
        ("user:u1", &Change::Read(vec![a.id]), unread_after)
    );

    assert_eq!(mark(&storage, Mark::Unread, &[&a, &b]).await.unread.count, 2);
    assert_eq!(mark(&storage, Mark::Archived, &[&a]).await.unread.count, 1);
    assert_eq!(mark(&storage, Mark::Unread, &[&a]).await.changed, 0, "archived ones stay read");
    assert_eq!(all(&storage, "u1").await, ["b"]);
    assert_eq!(list(&storage, "u1", InboxFilter { archived: true, ..InboxFilter::default() }).await, ["a"]);
    assert_eq!(mark(&storage, Mark::Deleted, &[&a, &b]).await.changed, 2);
    assert_eq!(count(&storage, "u1").await, (0, 6));
    assert!(all(&storage, "u1").await.is_empty());
    assert_eq!(mark(&storage, Mark::Deleted, &[&a]).await.found, 0);
}

#[tokio::test]
async fn all_read_is_a_watermark_that_later_marks_overrule() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let mut stored = Vec::new();
    for title in ["a", "b", "c"] {
        stored.push(one(&storage, "u1", title).await);
    }
    let read = storage.mark_all_read(&user("u1"), NOW).await.unwrap();
    assert_eq!(read, InboxChange { changed: 3, found: 0, unread: Unread { count: 0, version: Sequence(4) } });
    assert_eq!(storage.mark_all_read(&user("u1"), NOW).await.unwrap().changed, 0);
    assert_eq!(storage.mark_all_read(&user("nobody"), NOW).await.unwrap().unread, Unread::default());
    assert!(unread(&storage, "u1").await.is_empty());
    assert!(storage.notification(&user("u1"), stored[0].id).await.unwrap().unwrap().is_read);

    mark(&storage, Mark::Unread, &[&stored[0]]).await;
    one(&storage, "u1", "d").await;
    assert_eq!(unread(&storage, "u1").await, ["d", "a"]);
    let by_type = InboxFilter { unread_only: true, types: vec![kind("LIKE_POST")], ..InboxFilter::default() };
    assert_eq!(list(&storage, "u1", by_type.clone()).await, ["d", "a"]);
    let other_type = InboxFilter { types: vec![kind("NEW_MESSAGE")], ..by_type };
    assert!(list(&storage, "u1", other_type).await.is_empty());
    assert_eq!(count(&storage, "u1").await.0, 2);
    assert_eq!(storage.mark_all_read(&user("u1"), NOW).await.unwrap().changed, 2);
    assert!(unread(&storage, "u1").await.is_empty());
    assert_eq!(mark(&storage, Mark::Read, &[&stored[0]]).await.changed, 0);
}

#[tokio::test]
async fn clearing_takes_what_is_read_and_nothing_else() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let mut stored = Vec::new();
    for title in ["read", "under the watermark", "archived"] {
        stored.push(one(&storage, "u1", title).await);
    }
    mark(&storage, Mark::Archived, &[&stored[2]]).await;
    storage.mark_all_read(&user("u1"), NOW).await.unwrap();
    let late = one(&storage, "u1", "read by itself").await;
    mark(&storage, Mark::Read, &[&late]).await;
    mark(&storage, Mark::Unread, &[&stored[0]]).await;
    one(&storage, "u1", "new").await;
    let cleared = storage.clear_notifications(&user("u1"), NOW).await.unwrap();
    assert_eq!((cleared.changed, cleared.unread.count), (2, 2));
    for _before_and_after_the_purge in 0..2 {
        assert_eq!(all(&storage, "u1").await, ["new", "read"]);
        assert_eq!(unread(&storage, "u1").await, ["new", "read"]);
        let archived = InboxFilter { archived: true, ..InboxFilter::default() };
        assert_eq!(list(&storage, "u1", archived).await, ["archived"]);
        assert_eq!(mark(&storage, Mark::Unread, &[&late]).await.found, 0, "gone is gone");
        assert_eq!(storage.notification(&user("u1"), late.id).await.unwrap(), None);
        assert_eq!(storage.clear_notifications(&user("u1"), NOW).await.unwrap().changed, 0);
        while storage.purge_cleared(1).await.unwrap() {}
    }
    database
        .run("DO $$ BEGIN ASSERT (SELECT count(*) = 3 FROM notifications), 'what was cleared is deleted'; END $$")
        .await;
    // What is read later is not cleared by the clearing before.
    mark(&storage, Mark::Read, &[&stored[0]]).await;
    assert_eq!(all(&storage, "u1").await, ["new", "read"]);
}

#[tokio::test]
async fn a_newer_one_replaces_unread_ones_with_its_collapse_key() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let collapsing = |title: &str| NewNotification { collapse_key: Some("likes".to_owned()), ..new(title) };
    let first = publish(&storage, &["u1", "u2"], &collapsing("1 like")).await;
    let second = publish(&storage, &["u1"], &collapsing("2 likes")).await.remove(0);
    assert_eq!(second.replaces, [first[0].id]);
    assert_eq!(all(&storage, "u1").await, ["2 likes"]);
    assert_eq!(count(&storage, "u1").await, (1, 2));
    assert_eq!(all(&storage, "u2").await, ["1 like"], "another user's stays");
    mark(&storage, Mark::Read, &[&second]).await;
    assert!(publish(&storage, &["u1"], &collapsing("3 likes")).await[0].replaces.is_empty());
    storage.mark_all_read(&user("u1"), NOW).await.unwrap();
    assert!(publish(&storage, &["u1"], &collapsing("4 likes")).await[0].replaces.is_empty());
    assert_eq!(all(&storage, "u1").await, ["4 likes", "3 likes", "2 likes"]);
}

#[tokio::test]
async fn muted_types_are_neither_stored_nor_counted() {
    let database = Database::scratch().await;
    let storage = database.storage();
    storage.mute_types(&user("u1"), &[kind("LIKE_POST")]).await.unwrap();
    assert_eq!(storage.muted_types(&user("u1")).await.unwrap(), [kind("LIKE_POST")]);
    let stored = publish(&storage, &["u1", "u2"], &new("a like")).await;
    assert_eq!(stored.iter().map(|one| one.user.as_str()).collect::<Vec<_>>(), ["u2"]);
    assert_eq!(count(&storage, "u1").await, (0, 0));
    storage.mute_types(&user("u1"), &[]).await.unwrap();
    assert_eq!(publish(&storage, &["u1"], &new("a like")).await.len(), 1);
}

#[tokio::test]
async fn what_lies_ahead_is_delivered_when_it_is_due_and_once() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let due = NOW.after(Duration::from_secs(60));
    let ahead = NewNotification { deliver_at: Some(due), ..new("later") };
    let scheduled = publish(&storage, &["u1", "u2", "u3"], &ahead).await;
    assert_eq!((scheduled[0].sequence, scheduled[0].created_at), (Sequence(0), due));
    assert!(all(&storage, "u1").await.is_empty());
    assert_eq!(storage.next_due().await.unwrap(), Some(due));
    assert_eq!(storage.deliver_due(NOW, false).await.unwrap(), (0, false));
    // Taken back, muted meanwhile, and delivered.
    assert_eq!(mark(&storage, Mark::Deleted, &[&scheduled[1]]).await.changed, 1);
    storage.mute_types(&user("u3"), &[kind("LIKE_POST")]).await.unwrap();
    let deliveries = (0..4).map(|_| storage.deliver_due(due, false));
    let delivered = futures_util::future::join_all(deliveries).await;
    assert_eq!(delivered.into_iter().map(|one| one.unwrap().0).sum::<u64>(), 1);
    let (page, _) = storage.notifications(&user("u1"), &InboxFilter::default(), 10).await.unwrap();
    let expected = Notification { sequence: Sequence(1), ..scheduled[0].clone() };
    assert_eq!(page, [expected], "the id that was promised");
    assert_eq!(storage.next_due().await.unwrap(), None);

    let late = NewNotification {
        deliver_at: Some(due),
        expires_at: Some(due.after(Duration::from_secs(1))),
        ..new("too late")
    };
    publish(&storage, &["u1"], &late).await;
    assert_eq!(storage.deliver_due(due.after(Duration::from_secs(1)), false).await.unwrap(), (0, false));
    assert_eq!(storage.next_due().await.unwrap(), None);
}

#[tokio::test]
async fn what_has_expired_or_is_old_leaves_the_inbox_with_a_word() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let soon = NOW.after(Duration::from_secs(5));
    let expiring = NewNotification { expires_at: Some(soon), ..new("soon") };
    let stored = publish(&storage, &["u1", "u2"], &expiring).await;
    one(&storage, "u1", "stays").await;
    announced(&storage).await;
    assert_eq!(storage.next_due().await.unwrap(), Some(soon));
    assert_eq!(storage.expire_notifications(NOW, None).await.unwrap().0, 0);
    assert_eq!(storage.expire_notifications(soon, None).await.unwrap(), (2, false));
    assert_eq!(all(&storage, "u1").await, ["stays"]);
    assert_eq!(count(&storage, "u1").await, (1, 3));
    let told = announced(&storage).await;
    let gone = told.iter().find_map(|(topic, _, announcement)| match announcement {
        Announcement::Change(change) if topic == "user:u1" => Some(change.change.clone()),
        _ => None,
    });
    assert_eq!(gone, Some(Change::Expired(vec![stored[0].id])));
    assert_eq!(storage.expire_notifications(soon, Some(soon)).await.unwrap().0, 1, "by age");
    assert_eq!(count(&storage, "u1").await, (0, 4));
}

#[tokio::test]
async fn a_reader_gets_what_it_missed_in_order() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let a = one(&storage, "u1", "a").await;
    mark(&storage, Mark::Read, &[&a]).await;
    let b = one(&storage, "u1", "b").await;
    storage.mark_all_read(&user("u1"), NOW).await.unwrap();
    one(&storage, "u1", "c").await;
    let replay = async |since, limit| storage.replay_user(&user("u1"), Sequence(since), limit).await.unwrap();
    let shape = |story: &storage::Story<InboxEvent>| {
        let events = story.events.iter().map(|event| match event {
            InboxEvent::Notification(one) => one.title.clone(),
            InboxEvent::Change(change) => format!("{:?} {}", change.change, change.unread.version),
        });
        (events.collect::<Vec<_>>(), story.through.0, story.more, story.incomplete)
    };
    let read = format!("Read([{:?}]) 2", a.id);
    let whole = replay(0, 100).await;
    let (read, all_read) = (read.as_str(), "AllRead 4");
    let expected: Vec<String> = ["a", read, "b", all_read, "c"].map(str::to_owned).into();
    assert_eq!(shape(&whole), (expected, 5, false, false));
    assert_eq!(shape(&replay(1, 2).await), (vec![read.to_owned(), "b".to_owned()], 3, true, false));
    assert_eq!(shape(&replay(3, 2).await), (vec![all_read.to_owned(), "c".to_owned()], 5, false, false));
    assert_eq!(shape(&replay(5, 2).await), (vec![], 5, false, false));
    assert_eq!(shape(&replay(9, 2).await), (vec![], 5, false, true), "ahead of the topic");
    mark(&storage, Mark::Deleted, &[&b]).await;
    assert_eq!(shape(&replay(2, 1).await), (vec![all_read.to_owned()], 4, true, false), "a hole is no end");

    storage.forget_topic_events(NOW.after(Duration::from_secs(1))).await.unwrap();
    let (events, through, more, incomplete) = shape(&replay(1, 100).await);
    assert_eq!((events, through, more, incomplete), (vec!["c".to_owned()], 6, false, true));
    assert!(!replay(6, 100).await.incomplete);
}

#[tokio::test]
async fn events_of_applications_have_sequences_and_are_kept() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let topic: Topic = "creator:c1".parse().unwrap();
    let event = |number: u32| JsonObject::parse(&format!(r#"{{"type":"x","n":{number}}}"#), 100).unwrap();
    for number in 1..=3 {
        let published = storage.publish_event(&topic, &event(number), NOW, None).await.unwrap();
        assert_eq!(published, Publication::Done(Sequence(u64::from(number))));
    }
    let key =
        |hash| Some(Idempotency { key: "k", request_hash: hash, until: NOW.after(Duration::from_secs(9)) });
    assert_eq!(
        storage.publish_event(&topic, &event(4), NOW, key(b"4")).await.unwrap(),
        Publication::Done(Sequence(4))
    );
    assert_eq!(
        storage.publish_event(&topic, &event(4), NOW, key(b"4")).await.unwrap(),
        Publication::Repeated(Sequence(4))
    );
    assert_eq!(
        storage.publish_event(&topic, &event(5), NOW, key(b"5")).await.unwrap(),
        Publication::Conflict
    );
    let story = storage.replay_events(&topic, Sequence(2), 10).await.unwrap();
    let events: Vec<_> = story.events.iter().map(|event| event.sequence.unwrap().0).collect();
    assert_eq!((events, story.through, story.more), (vec![3, 4], Sequence(4), false));
    assert_eq!(story.events[0].payload, event(3));
    assert_eq!(announced(&storage).await.len(), 4);
}

#[tokio::test]
async fn deliveries_are_lent_to_one_at_a_time_and_come_back() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let browser = PushSubscription {
        endpoint: "https://push.example/1".into(),
        p256dh: "key".to_owned(),
        auth: "secret".into(),
    };
    storage.register_push(&user("u1"), &browser, NOW).await.unwrap();
    let content = new("push me");
    let recipients = recipients(&["u1", "u2"]);
    let new = NewNotifications { recipients: &recipients, notification: &content, hook: true, at: NOW };
    storage.publish_notifications(new, None).await.unwrap();
    let claim = async |at| {
        let mut claimed = storage.claim_deliveries(Queue::Notifications, at, 10).await.unwrap();
        claimed.sort_by_key(|delivery| delivery.id);
        claimed
    };
    let claimed = claim(NOW).await;
    let ways = |way| claimed.iter().filter(|delivery| delivery.way == way).count();
    assert_eq!((ways(Way::Push), ways(Way::Hook)), (1, 2));
    assert!(claim(NOW).await.is_empty(), "lent");
    let [first, second, third] = claimed.as_slice() else { panic!("{claimed:?}") };
    assert_eq!(first.notification.as_ref().unwrap().title, "push me");
    storage.settle_delivery(first.id).await.unwrap();
    storage.postpone_delivery(second.id, NOW.after(Duration::from_secs(5))).await.unwrap();
    let back = claim(NOW.after(Duration::from_secs(5))).await;
    assert_eq!(back.iter().map(|one| (one.id, one.attempts)).collect::<Vec<_>>(), [(second.id, 2)]);
    let back = claim(NOW.after(Duration::from_secs(70))).await;
    assert!(back.iter().any(|one| one.id == third.id), "whoever claimed it died");

    // The same browser, used by somebody else now.
    storage.register_push(&user("u2"), &browser, NOW).await.unwrap();
    assert!(storage.push_subscriptions(&user("u1")).await.unwrap().is_empty());
    assert!(!storage.remove_push(&user("u1"), &browser.endpoint).await.unwrap());
    assert!(storage.remove_push(&user("u2"), &browser.endpoint).await.unwrap());
    for number in 0..25 {
        let endpoint = format!("https://push.example/{number}").into();
        let browser = PushSubscription { endpoint, ..browser.clone() };
        let at = NOW.after(Duration::from_secs(number));
        storage.register_push(&user("u1"), &browser, at).await.unwrap();
    }
    let kept = storage.push_subscriptions(&user("u1")).await.unwrap();
    assert_eq!((kept.len(), kept[0].endpoint.expose()), (20, "https://push.example/24"));
}

#[tokio::test]
async fn programs_of_the_system_before_read_their_table() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let stored = one(&storage, "u1", "a").await;
    one(&storage, "u1", "b").await;
    storage.mark_all_read(&user("u1"), NOW).await.unwrap();
    one(&storage, "u1", "c").await;
    let check = format!(
        r#"DO $$ BEGIN
               ASSERT (SELECT count(*) = 2 FROM legacy.notifications WHERE "userId" = 'u1' AND "isRead"), 'read';
               ASSERT (SELECT metadata ->> 'z' = '1' AND "createdAt" = '2023-11-14 22:13:20'
                       FROM legacy.notifications WHERE id = '{}'), 'columns';
           END $$"#,
        stored.id
    );
    database.run(&check).await;
    storage.clear_notifications(&user("u1"), NOW).await.unwrap();
    database
        .run("DO $$ BEGIN ASSERT (SELECT count(*) = 1 FROM legacy.notifications), 'cleared'; END $$")
        .await;
}
