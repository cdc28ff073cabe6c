//! A hub with Postgres and Redis, as its callers know it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

use std::time::Duration;

use event_bus::{Event, EventBus, Received, Subscriber};
use lifecycle::Lifecycle;
use model::{
    Change, Clock, FaultKind, JsonObject, MessageId, MessageKind, NewMessage, NewNotification, Notification,
    NotificationId, NotificationType, Priority, Refusal, RoomId, Sequence, Timestamp, Topic, UserId,
    notification::{MESSAGE_BYTES_MAX, METADATA_BYTES_MAX, TITLE_BYTES_MAX},
    room::{AUTHOR_NAME_BYTES_MAX, CHAT_BYTES_MAX, LINK_BYTES_MAX},
};
use notification_hub::HubSettings;
use rpc::{
    Hub, HubError,
    notification::{Filter, NotificationsClient, Publish, SendMessageRequest, TopicEvent, refusal},
};
use testkit::{Cable, Database, PATIENCE, RedisServer, eventually, redis_prefix, redis_url};
use tokio::time::timeout;

const INTERNAL_TOKEN: &str = "house";

struct Stage {
    life: Lifecycle,
    address: std::net::SocketAddr,
    hub: Hub,
    bus: EventBus,
    clock: Clock,
    /// Between the hub and Postgres.
    cable: Cable,
    database: Database,
}

async fn stage() -> Stage {
    stage_with(redis_url(), &[]).await
}

async fn stage_with(redis: settings::Secret, extra: &[(&str, &str)]) -> Stage {
    let database = Database::scratch().await;
    let cable = Cable::to(database.host()).await;
    let prefix = redis_prefix();
    let mut pairs = vec![
        ("DATABASE_URL", testkit::with_address(&database.url(), cable.address()).expose().to_owned()),
        ("REDIS_URL", redis.expose().to_owned()),
        ("REDIS_WS_PREFIX", format!("{prefix}-ws:")),
        ("REDIS_PREFIX", prefix),
        ("HUB_PORT", "0".to_owned()),
        ("HUB_METRICS_PORT", "0".to_owned()),
        ("INTERNAL_TOKEN", INTERNAL_TOKEN.to_owned()),
    ];
    pairs.extend(extra.iter().map(|(name, value)| (*name, (*value).to_owned())));
    let settings = HubSettings::read(settings::of(pairs)).unwrap();
    let life = Lifecycle::default();
    let clock = Clock::manual(Timestamp(1_800_000_000_000));
    let running = notification_hub::start(&settings, &life, clock.clone()).await.unwrap();
    let bus = EventBus::connect(&settings.bus).unwrap();
    let hub = hub(running.address, INTERNAL_TOKEN);
    Stage { life, address: running.address, hub, bus, clock, cable, database }
}

fn hub(address: std::net::SocketAddr, token: &str) -> Hub {
    let settings =
        rpc::HubSettings { address: format!("http://{address}"), internal_token: Some(token.into()) };
    Hub::new(&settings).unwrap()
}

fn user(id: &str) -> UserId {
    id.parse().unwrap()
}

fn kind(name: &str) -> NotificationType {
    name.parse().unwrap()
}

fn new(title: &str) -> NewNotification {
    NewNotification {
        kind: kind("LIKE_POST"),
        title: title.to_owned(),
        message: "Somebody likes it".to_owned(),
        metadata: Some(JsonObject::parse(r#"{"postId":"7"}"#, 100).unwrap()),
        priority: Priority::Normal,
        expires_at: None,
        deliver_at: None,
        collapse_key: None,
    }
}

fn for_users(users: &[&str], notification: NewNotification) -> Publish {
    Publish::Users { users: users.iter().map(|id| user(id)).collect(), notification }
}

async fn tell(stage: &Stage, id: &str, title: &str) -> Notification {
    let outcome = stage.hub.publish(&for_users(&[id], new(title)), None).await.unwrap();
    outcome.published.into_iter().next().unwrap().1.unwrap()
}

async fn follow(stage: &Stage, topic: &str) -> Subscriber {
    let mut subscriber = stage.bus.subscriber();
    subscriber.subscribe(&topic.parse().unwrap()).await;
    subscriber
}

async fn heard(subscriber: &mut Subscriber) -> Event {
    loop {
        match timeout(PATIENCE, subscriber.recv()).await.unwrap() {
            Received::Event { event, .. } => return event,
            Received::Gap => {}
        }
    }
}

fn refused<T: std::fmt::Debug>(outcome: Result<T, HubError>) -> Refusal {
    match outcome {
        Err(HubError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

fn titles(notifications: &[Notification]) -> Vec<&str> {
    notifications.iter().map(|notification| notification.title.as_str()).collect()
}

#[tokio::test]
async fn what_is_published_is_heard_listed_and_counted() {
    let stage = stage().await;
    let mut follower = follow(&stage, "user:u1").await;
    let outcome = stage.hub.publish(&for_users(&["u1", "u2", "u1"], new("a like")), None).await.unwrap();
    let users: Vec<_> = outcome.published.iter().map(|(user, _)| user.as_str()).collect();
    assert_eq!(users, ["u1", "u2"], "each once");
    let told = outcome.published[0].1.clone().unwrap();
    let Event::Notification { notification, unread } = heard(&mut follower).await else {
        panic!("another event")
    };
    assert_eq!((&notification, unread.count, unread.version), (&told, 1, Sequence(1)));

    let page = stage.hub.list(&user("u1"), &Filter::default()).await.unwrap();
    assert_eq!((page.notifications, page.unread, page.next_cursor), (vec![told.clone()], unread, None));
    assert_eq!(stage.hub.get(&user("u1"), told.id).await.unwrap(), told);
    assert_eq!(refused(stage.hub.get(&user("u2"), told.id).await), Refusal::NotificationUnknown);

    let read = stage.hub.mark_read(&user("u1"), &[told.id]).await.unwrap();
    assert_eq!((read.changed, read.unread.count), (1, 0));
    let Event::NotificationChanged(change) = heard(&mut follower).await else { panic!("another event") };
    assert_eq!((change.change, change.unread), (Change::Read(vec![told.id]), read.unread));
    assert_eq!(stage.hub.unread(&user("u1")).await.unwrap(), read.unread);
}

#[tokio::test]
async fn pages_follow_each_other_and_cursors_are_their_users_own() {
    let stage = stage().await;
    for number in 0..7 {
        tell(&stage, "u1", &number.to_string()).await;
    }
    let mut filter = Filter { limit: Some(3), ..Filter::default() };
    let mut seen = Vec::new();
    let mut cursors = Vec::new();
    loop {
        let page = stage.hub.list(&user("u1"), &filter).await.unwrap();
        seen.extend(titles(&page.notifications).into_iter().map(str::to_owned));
        filter.cursor = page.next_cursor;
        match &filter.cursor {
            Some(cursor) => cursors.push(cursor.clone()),
            None => break,
        }
    }
    assert_eq!(seen, ["6", "5", "4", "3", "2", "1", "0"]);
    assert_eq!(cursors.len(), 2);
    filter.cursor = cursors.pop();
    assert_eq!(refused(stage.hub.list(&user("u2"), &filter).await), Refusal::CursorInvalid);
    for limit in [0, 201, u32::MAX] {
        let filter = Filter { limit: Some(limit), ..Filter::default() };
        assert_eq!(refused(stage.hub.list(&user("u1"), &filter).await), Refusal::LimitInvalid, "{limit}");
    }
}

#[tokio::test]
async fn marks_of_every_kind_change_the_list() {
    let stage = stage().await;
    let u1 = user("u1");
    let (a, b) = (tell(&stage, "u1", "a").await, tell(&stage, "u1", "b").await);
    let unread = Filter { unread_only: true, ..Filter::default() };
    assert_eq!(stage.hub.mark_all_read(&u1).await.unwrap().changed, 2);
    assert!(stage.hub.list(&u1, &unread).await.unwrap().notifications.is_empty());
    assert_eq!(stage.hub.mark_unread(&u1, &[a.id]).await.unwrap().unread.count, 1);
    assert_eq!(titles(&stage.hub.list(&u1, &unread).await.unwrap().notifications), ["a"]);
    assert_eq!(stage.hub.archive(&u1, &[a.id]).await.unwrap().unread.count, 0);
    let archived = Filter { archived: true, ..Filter::default() };
    assert_eq!(titles(&stage.hub.list(&u1, &archived).await.unwrap().notifications), ["a"]);
    assert_eq!(stage.hub.clear(&u1).await.unwrap().changed, 1);
    assert!(stage.hub.list(&u1, &Filter::default()).await.unwrap().notifications.is_empty());
    assert_eq!(stage.hub.delete(&u1, &[a.id, b.id]).await.unwrap().found, 1);
    assert_eq!(refused(stage.hub.delete(&u1, &[]).await), Refusal::IdsMissing);
    let many: Vec<_> = (0..501).map(|number| NotificationId(uuid::Uuid::from_u128(number))).collect();
    assert_eq!(refused(stage.hub.mark_read(&u1, &many).await), Refusal::IdsTooMany);
}

#[tokio::test]
async fn a_repeated_request_is_answered_alike_and_another_is_a_conflict() {
    let stage = stage().await;
    let publish = for_users(&["u1"], new("once"));
    let first = stage.hub.publish(&publish, Some("k")).await.unwrap();
    let again = stage.hub.publish(&publish, Some("k")).await.unwrap();
    assert_eq!((again.published, again.repeated), (first.published, true));
    let error = stage.hub.publish(&for_users(&["u1"], new("other")), Some("k")).await.unwrap_err();
    assert_eq!(error.fault(), FaultKind::Conflict);
    assert_eq!(error, HubError::Refused(Refusal::IdempotencyConflict));
    assert_eq!(stage.hub.unread(&user("u1")).await.unwrap().count, 1);
}

#[tokio::test]
async fn a_request_whose_time_has_passed_is_answered_as_before_under_its_key_alone() {
    let stage = stage().await;
    let now = stage.clock.now();
    let timed =
        |title| NewNotification { expires_at: Some(now.after(Duration::from_secs(60))), ..new(title) };
    let publish = for_users(&["u1", "u2"], timed("soon gone"));
    let first = stage.hub.publish(&publish, Some("k")).await.unwrap();
    stage.clock.advance(Duration::from_secs(61));
    let again = stage.hub.publish(&publish, Some("k")).await.unwrap();
    assert_eq!((again.published, again.repeated), (first.published, true));
    let other = for_users(&["u1"], timed("another"));
    assert_eq!(refused(stage.hub.publish(&other, Some("k")).await), Refusal::IdempotencyConflict);
    for key in [None, Some("new")] {
        assert_eq!(refused(stage.hub.publish(&publish, key).await), Refusal::ExpiresAtInvalid);
    }
    // The key of a request that was refused is free.
    assert!(!stage.hub.publish(&for_users(&["u1"], new("now")), Some("new")).await.unwrap().repeated);
    stage.clock.advance(Duration::from_secs(24 * 3600));
    assert_eq!(refused(stage.hub.publish(&publish, Some("k")).await), Refusal::ExpiresAtInvalid);
}

#[tokio::test]
async fn what_breaks_a_limit_is_refused_with_its_code() {
    let stage = stage().await;
    type Edit = fn(&mut NewNotification);
    let table: [(Edit, Refusal); 5] = [
        (|new| new.title = "x".repeat(1 << 20), Refusal::TitleTooLong),
        (|new| new.title = String::new(), Refusal::TitleMissing),
        (|new| new.message = "x".repeat(1 << 20), Refusal::MessageTooLong),
        (|new| new.expires_at = Some(Timestamp(1)), Refusal::ExpiresAtInvalid),
        (|new| new.deliver_at = Some(Timestamp(i64::MAX)), Refusal::DeliverAtInvalid),
    ];
    for (edit, refusal) in table {
        let mut changed = new("x");
        edit(&mut changed);
        assert_eq!(refused(stage.hub.publish(&for_users(&["u1"], changed), None).await), refusal);
    }
    assert_eq!(refused(stage.hub.publish(&for_users(&[], new("x")), None).await), Refusal::RecipientsMissing);
    let key = "k".repeat(256);
    let publish = for_users(&["u1"], new("x"));
    assert_eq!(refused(stage.hub.publish(&publish, Some(&key)).await), Refusal::IdempotencyKeyInvalid);
    let many: Vec<String> = (0..1001).map(|number| number.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(
        refused(stage.hub.publish(&for_users(&many, new("x")), None).await),
        Refusal::RecipientsTooMany
    );
    let replayed = stage.hub.replay(&"session:s".parse().unwrap(), Sequence(0), None).await;
    assert_eq!(refused(replayed), Refusal::TopicInvalid);

    let stranger = hub(stage.address, "wrong").unread(&user("u1")).await.unwrap_err();
    assert!(matches!(stranger, HubError::Failed { fault: FaultKind::Unauthenticated, .. }), "{stranger}");
    assert_eq!(stranger.fault(), FaultKind::Defect, "no matter of whoever asked us");
}

#[tokio::test]
async fn a_thousand_recipients_are_one_call() {
    let stage = stage().await;
    let users: Vec<String> = (0..1000).map(|number| format!("u{number}")).collect();
    let users: Vec<&str> = users.iter().map(String::as_str).collect();
    let outcome = stage.hub.publish(&for_users(&users, new("news")), None).await.unwrap();
    assert!(outcome.published.iter().all(|(_, stored)| stored.is_some()));
    assert_eq!(stage.hub.unread(&user("u999")).await.unwrap().count, 1);

    // The largest there is, whose answer is the largest that a hub gives.
    let largest = NewNotification {
        message: "m".repeat(MESSAGE_BYTES_MAX),
        metadata: Some(
            JsonObject::from_value(
                &serde_json::json!({"a": "x".repeat(METADATA_BYTES_MAX - 8)}),
                METADATA_BYTES_MAX,
            )
            .unwrap(),
        ),
        ..new(&"t".repeat(TITLE_BYTES_MAX))
    };
    let outcome = stage.hub.publish(&for_users(&users, largest), None).await.unwrap();
    assert_eq!(outcome.published.iter().filter(|(_, stored)| stored.is_some()).count(), 1000);
}

#[tokio::test]
async fn followers_of_a_topic_hear_its_events_and_may_replay_them() {
    let stage = stage().await;
    let topic: Topic = "post:1".parse().unwrap();
    let mut follower = follow(&stage, "post:1").await;
    let payload = JsonObject::parse(r#"{"likesCount":3,"postId":"1","type":"post_liked"}"#, 1000).unwrap();
    let publish = Publish::Event { topic: topic.clone(), payload: payload.clone() };
    let outcome = stage.hub.publish(&publish, None).await.unwrap();
    assert_eq!((outcome.sequence, outcome.published.len()), (Some(Sequence(1)), 0));
    let Event::App(event) = heard(&mut follower).await else { panic!("another event") };
    assert_eq!((event.sequence, &event.payload), (Some(Sequence(1)), &payload));
    let story = stage.hub.replay(&topic, Sequence(0), None).await.unwrap();
    assert_eq!((story.events, story.through), (vec![TopicEvent::App(event)], Sequence(1)));
}

#[tokio::test]
async fn a_reader_replays_what_happened_while_it_was_away() {
    let stage = stage().await;
    let u1 = user("u1");
    let a = tell(&stage, "u1", "a").await;
    stage.hub.mark_read(&u1, &[a.id]).await.unwrap();
    let b = tell(&stage, "u1", "b").await;
    let story = stage.hub.replay(&Topic::User(u1.clone()), Sequence(1), Some(100)).await.unwrap();
    let sequences: Vec<_> = story.events.iter().map(|event| event.sequence().0).collect();
    assert_eq!(
        (sequences, story.through, story.more, story.incomplete),
        (vec![2, 3], Sequence(3), false, false)
    );
    assert_eq!(story.events[1], TopicEvent::Notification(b));
}

#[tokio::test]
async fn what_is_muted_is_answered_with_nothing() {
    let stage = stage().await;
    let muted = stage.hub.mute(&user("u1"), &[kind("LIKE_POST"), kind("LIKE_POST")]).await.unwrap();
    assert_eq!(muted, [kind("LIKE_POST")]);
    let outcome = stage.hub.publish(&for_users(&["u1", "u2"], new("a like")), None).await.unwrap();
    assert_eq!(outcome.published[0], (user("u1"), None));
    assert!(outcome.published[1].1.is_some());
    assert_eq!(stage.hub.muted(&user("u1")).await.unwrap(), muted);
}

#[tokio::test]
async fn later_is_later_and_expired_is_gone() {
    let stage = stage().await;
    let mut follower = follow(&stage, "user:u1").await;
    let now = stage.clock.now();
    let timed = NewNotification {
        deliver_at: Some(now.after(Duration::from_secs(60))),
        expires_at: Some(now.after(Duration::from_secs(120))),
        ..new("later")
    };
    let outcome = stage.hub.publish(&for_users(&["u1"], timed), None).await.unwrap();
    let promised = outcome.published[0].1.clone().unwrap();
    assert_eq!(promised.sequence, Sequence(0));
    assert_eq!(stage.hub.unread(&user("u1")).await.unwrap().count, 0);
    stage.clock.advance(Duration::from_secs(60));
    let Event::Notification { notification, .. } = heard(&mut follower).await else {
        panic!("another event")
    };
    assert_eq!((notification.id, notification.sequence), (promised.id, Sequence(1)));
    stage.clock.advance(Duration::from_secs(60));
    let Event::NotificationChanged(change) = heard(&mut follower).await else { panic!("another event") };
    assert_eq!((change.change, change.unread.count), (Change::Expired(vec![promised.id]), 0));
}

fn words(room: &RoomId, author: &UserId, text: &str) -> NewMessage {
    NewMessage {
        room: room.clone(),
        author: author.clone(),
        author_name: Some("Älice".to_owned()),
        client_message_id: Some("c1".to_owned()),
        kind: MessageKind::Text,
        text: text.to_owned(),
        metadata: None,
        reply_to: None,
    }
}

#[tokio::test]
async fn rooms_are_heard_and_read_again() {
    let stage = stage().await;
    let mut follower = follow(&stage, "room:lobby").await;
    let (room, alice, bob): (RoomId, _, _) = ("lobby".parse().unwrap(), user("alice"), user("bob"));
    let new = words(&room, &alice, "hello");
    let said = stage.hub.send_message(&new).await.unwrap();
    assert_eq!(stage.hub.send_message(&new).await.unwrap(), said);
    let Event::Message(message) = heard(&mut follower).await else { panic!("another event") };
    assert_eq!(message, said);
    assert_eq!(refused(stage.hub.edit_message(&room, said.id, &bob, "x").await), Refusal::NotAuthor);
    let edited = stage.hub.edit_message(&room, said.id, &alice, "hello!").await.unwrap();
    let gone = stage.hub.delete_message(&room, said.id, &alice).await.unwrap();
    assert_eq!((edited.sequence, gone.sequence, gone.text.as_str()), (Sequence(2), Sequence(3), ""));
    assert_eq!(refused(stage.hub.delete_message(&room, said.id, &alice).await), Refusal::MessageUnknown);
    let page = stage.hub.history(&room, None, Some(10)).await.unwrap();
    assert_eq!((page.messages, page.through, page.more), (vec![gone.clone()], Sequence(3), false));
    let story = stage.hub.replay(&Topic::Room(room), Sequence(1), None).await.unwrap();
    assert_eq!(story.events, [TopicEvent::Message(gone)]);
}

#[tokio::test]
async fn what_is_said_keeps_its_kind_its_author_s_name_and_what_it_replies_to() {
    let stage = stage().await;
    let mut follower = follow(&stage, "room:lobby").await;
    let (room, alice, bob): (RoomId, _, _) = ("lobby".parse().unwrap(), user("alice"), user("bob"));
    let said = stage.hub.send_message(&words(&room, &alice, "look:")).await.unwrap();
    let new = NewMessage {
        kind: MessageKind::Image,
        metadata: Some(JsonObject::parse(r#"{"width":640}"#, 100).unwrap()),
        reply_to: Some(said.id),
        ..words(&room, &bob, "https://example.com/cat.png")
    };
    let image = stage.hub.send_message(&new).await.unwrap();
    assert_eq!(
        (image.kind, image.author_name.as_deref(), image.reply_to),
        (MessageKind::Image, Some("Älice"), Some(said.id))
    );
    assert_eq!((&image.text, &image.metadata), (&new.text, &new.metadata));
    for expected in [&said, &image] {
        let Event::Message(message) = heard(&mut follower).await else { panic!("another event") };
        assert_eq!(&message, expected);
    }
    let page = stage.hub.history(&room, None, None).await.unwrap();
    assert_eq!(page.messages, [image.clone(), said.clone()]);
    let story = stage.hub.replay(&Topic::Room(room.clone()), Sequence(1), None).await.unwrap();
    assert_eq!(story.events, [TopicEvent::Message(image.clone())]);

    let edited = stage.hub.edit_message(&room, image.id, &bob, "https://example.com/dog.png").await;
    assert_eq!(refused(edited), Refusal::OnlyTextEdited);
    let gone = stage.hub.delete_message(&room, image.id, &bob).await.unwrap();
    assert_eq!((gone.text.as_str(), gone.metadata, gone.author_name), ("", None, image.author_name));
    // What was taken back may still be replied to: whoever replies may not have heard of it.
    let late = NewMessage {
        client_message_id: None,
        reply_to: Some(image.id),
        ..words(&room, &alice, "what was it?")
    };
    assert_eq!(stage.hub.send_message(&late).await.unwrap().reply_to, Some(image.id));
}

#[tokio::test]
async fn messages_beyond_a_limit_are_refused_by_name_and_nothing_is_stored() {
    type Edit = fn(&mut NewMessage);
    let stage = stage().await;
    let (room, alice): (RoomId, _) = ("lobby".parse().unwrap(), user("alice"));
    let elsewhere = stage.hub.send_message(&words(&"attic".parse().unwrap(), &alice, "hi")).await.unwrap();
    let table: [(Edit, Refusal); 9] = [
        (|new| new.text = "x".repeat(CHAT_BYTES_MAX + 1), Refusal::TextInvalid),
        (|new| new.text = " ".to_owned(), Refusal::TextInvalid),
        (|new| new.author_name = Some("x".repeat(AUTHOR_NAME_BYTES_MAX + 1)), Refusal::NameInvalid),
        (|new| new.author_name = Some("a\u{7}".to_owned()), Refusal::NameInvalid),
        (|new| new.client_message_id = Some("x".repeat(129)), Refusal::ClientMessageIdInvalid),
        (|new| new.kind = MessageKind::File, Refusal::LinkInvalid),
        (
            |new| {
                new.kind = MessageKind::Image;
                new.text = format!("https://example.com/{}", "x".repeat(LINK_BYTES_MAX));
            },
            Refusal::LinkInvalid,
        ),
        (|new| new.reply_to = Some(MessageId(uuid::Uuid::nil())), Refusal::ReplyUnknown),
        (
            |new| {
                let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(METADATA_BYTES_MAX));
                new.metadata = Some(JsonObject::parse(&large, usize::MAX).unwrap());
            },
            Refusal::MetadataTooLarge,
        ),
    ];
    for (edit, refusal) in table {
        let mut new = words(&room, &alice, "hi");
        edit(&mut new);
        assert_eq!(refused(stage.hub.send_message(&new).await), refusal);
    }
    let across = NewMessage { reply_to: Some(elsewhere.id), ..words(&room, &alice, "hi") };
    assert_eq!(refused(stage.hub.send_message(&across).await), Refusal::ReplyUnknown);
    let said = stage.hub.send_message(&words(&room, &alice, "hi")).await.unwrap();
    assert_eq!(said.sequence, Sequence(1), "nothing was said before it");
    let long = "x".repeat(CHAT_BYTES_MAX + 1);
    assert_eq!(refused(stage.hub.edit_message(&room, said.id, &alice, &long).await), Refusal::TextInvalid);
}

#[tokio::test]
async fn a_later_client_s_kind_of_message_is_refused_and_an_earlier_one_s_is_text() {
    let stage = stage().await;
    let channel =
        tonic::transport::Endpoint::from_shared(format!("http://{}", stage.address)).unwrap().connect_lazy();
    let mut raw = NotificationsClient::new(channel);
    let mut send = async |kind: i32, reply_to: &str| {
        let mut request = tonic::Request::new(SendMessageRequest {
            room_id: "lobby".to_owned(),
            author: "alice".to_owned(),
            text: "hi".to_owned(),
            kind,
            reply_to: reply_to.to_owned(),
            ..SendMessageRequest::default()
        });
        request.metadata_mut().insert(rpc::INTERNAL_TOKEN, INTERNAL_TOKEN.parse().unwrap());
        raw.send_message(request).await
    };
    let status = send(9, "").await.unwrap_err();
    assert_eq!((status.code(), refusal(&status)), (tonic::Code::InvalidArgument, Some(Refusal::KindInvalid)));
    assert_eq!(refusal(&send(0, "7").await.unwrap_err()), Some(Refusal::IdInvalid));
    let said = send(0, "").await.unwrap().into_inner();
    assert_eq!((said.kind, said.author_name.as_str()), (1, ""));
}

#[tokio::test]
async fn while_redis_is_away_nothing_is_lost() {
    let mut redis = RedisServer::start().await;
    let stage = stage_with(redis.url(), &[]).await;
    tell(&stage, "u1", "before").await;
    redis.kill().await;
    for number in 0..20 {
        tell(&stage, "u1", &number.to_string()).await;
    }
    assert_eq!(stage.hub.unread(&user("u1")).await.unwrap().count, 21, "stored all the same");
    redis.restart().await;
    // A follower that comes while the outbox empties itself hears the rest, and replays what came before.
    let mut follower = follow(&stage, "user:u1").await;
    tell(&stage, "u1", "after").await;
    let mut last = Sequence(0);
    while last < Sequence(22) {
        if let Event::Notification { notification, .. } = heard(&mut follower).await {
            last = last.max(notification.sequence);
        }
    }
    eventually("the outbox is empty", async || {
        stage.database.storage().outbox_oldest().await.unwrap().is_none()
    })
    .await;
}

#[tokio::test]
async fn while_postgres_is_away_callers_are_told_so_and_may_repeat() {
    let stage = stage().await;
    let publish = for_users(&["u1"], new("once"));
    stage.hub.publish(&publish, Some("k")).await.unwrap();
    stage.cable.cut();
    let error = stage.hub.publish(&publish, Some("k")).await.unwrap_err();
    assert_eq!(error.fault(), FaultKind::Dependency, "{error}");
    stage.cable.mend();
    eventually("the hub is back", async || stage.hub.publish(&publish, Some("k")).await.is_ok()).await;
    assert_eq!(stage.hub.unread(&user("u1")).await.unwrap().count, 1);
    stage.life.end(Duration::from_secs(25)).await.unwrap();
}
