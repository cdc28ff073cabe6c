//! The events of other back ends, which publish the JSON that clients read in channels of their own: `ws:` and a
//! channel key. We publish there what followers of those channels know, and hear what others publish there.
//!
//! The key has two spellings, since the system that we replace had both: `notifications_ID` and `notifications:ID`,
//! likewise `creator`, `post` and `feed`. We write the first and read either. What we write says so in
//! `parleyOrigin`, and is not heard by any of us: it travels in our own channels too.

use model::{AppEvent, Change, JsonObject, Notification, NotificationId, Topic, UserId};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    Event,
    envelope::{Heard, Unreadable},
};

/// Prefix of the channels of other back ends, unless it is set otherwise.
pub const DEFAULT_OTHERS_PREFIX: &str = "ws:";

/// Largest event of another back end, in bytes: it goes to each follower as it is.
const EVENT_BYTES_MAX: usize = 64 * 1024;

/// The field by which our own events are known.
const ORIGIN: &str = "parleyOrigin";

/// The channel key of a topic in which others publish, too.
fn channel_key(topic: &Topic) -> Option<String> {
    match topic {
        Topic::User(user) => Some(format!("notifications_{user}")),
        Topic::Creator(creator) => Some(format!("creator_{creator}")),
        Topic::Post(post) => Some(format!("post_{post}")),
        Topic::Feed(user) => Some(format!("feed_{user}")),
        Topic::Session(_) | Topic::Room(_) => None,
    }
}

/// The topic that a channel key of either spelling means.
fn topic(key: &str) -> Option<Topic> {
    let (kind, id) = key.split_once([':', '_'])?;
    match kind {
        "notifications" => id.parse().ok().map(Topic::User),
        "creator" => id.parse().ok().map(Topic::Creator),
        "post" => id.parse().ok().map(Topic::Post),
        "feed" => id.parse().ok().map(Topic::Feed),
        _ => None,
    }
}

/// Where, after the prefix, and what others are told of an event; nothing when they do not know such a one.
pub(crate) fn encode(origin: Uuid, topic: &Topic, event: &Event) -> Option<(String, Vec<String>)> {
    let key = channel_key(topic)?;
    let events = match event {
        Event::Notification { notification, .. } => vec![new(notification)],
        Event::NotificationChanged(change) => changed(&change.user, &change.change),
        // Somebody else's, which they have heard.
        Event::App(AppEvent { sequence: None, .. }) => return None,
        Event::App(AppEvent { payload, .. }) => vec![payload.to_value()],
        Event::Caption(_)
        | Event::Status(_)
        | Event::SessionEnded
        | Event::TranscriptionError(_)
        | Event::Message(_)
        | Event::Sign { .. } => return None,
    };
    let events = events.into_iter().map(|mut event| {
        if let Some(fields) = event.as_object_mut() {
            fields.insert(ORIGIN.to_owned(), origin.to_string().into());
        }
        event.to_string()
    });
    Some((key, events.collect()))
}

fn new(notification: &Notification) -> Value {
    json!({
        "type": "notification",
        "userId": notification.user,
        "notification": {
            "id": notification.id,
            "userId": notification.user,
            "type": notification.kind,
            "title": notification.title,
            "message": notification.message,
            "isRead": notification.is_read,
            "metadata": notification.metadata,
            "createdAt": notification.created_at.to_string(),
        },
    })
}

/// They have words for what was read one by one, for the end of all that was unread, and for what was cleared.
fn changed(user: &UserId, change: &Change) -> Vec<Value> {
    let read =
        |id: &NotificationId| json!({"type": "notification_read", "userId": user, "notificationId": id});
    match change {
        Change::Read(ids) => ids.iter().map(read).collect(),
        Change::AllRead => {
            let nothing = json!({"notifications": [], "count": 0});
            vec![json!({"type": "unread_notifications", "userId": user, "data": nothing})]
        }
        Change::Cleared(_) => vec![json!({"type": "notifications_cleared", "userId": user})],
        Change::Unread(_) | Change::Archived(_) | Change::Deleted(_) | Change::Expired(_) => Vec::new(),
    }
}

/// What another back end published; `None` when it was one of us.
pub(crate) fn decode(key: &[u8], message: &[u8]) -> Result<Option<Heard>, Unreadable> {
    let key = std::str::from_utf8(key).map_err(|_| Unreadable::Malformed)?;
    let topic = topic(key).ok_or(Unreadable::Kind)?;
    let message = std::str::from_utf8(message).map_err(|_| Unreadable::Malformed)?;
    // Before it is read, since in a busy house most are ours.
    let ours = message.contains(ORIGIN);
    let payload = JsonObject::parse(message, EVENT_BYTES_MAX).map_err(|_| Unreadable::Malformed)?;
    let fields = payload.to_value();
    if ours && fields.get(ORIGIN).is_some() {
        return Ok(None);
    }
    match fields.get("type") {
        Some(Value::String(_)) => Ok(Some((topic, Event::App(AppEvent { sequence: None, payload }), None))),
        _ => Err(Unreadable::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(key: &str, message: &str) -> Result<Option<Heard>, Unreadable> {
        decode(key.as_bytes(), message.as_bytes())
    }

    #[test]
    fn both_spellings_of_a_channel_mean_one_topic() {
        let like = r#"{"type":"post_liked","postId":"1"}"#;
        let event = Event::App(AppEvent { sequence: None, payload: JsonObject::parse(like, 100).unwrap() });
        for (key, topic) in [
            ("post_1", "post:1"),
            ("post:1", "post:1"),
            ("post_10", "post:10"),
            ("post:a_b", "post:a_b"),
            ("notifications_u1", "user:u1"),
            ("creator_c", "creator:c"),
            ("feed:u1", "feed:u1"),
        ] {
            assert_eq!(heard(key, like), Ok(Some((topic.parse().unwrap(), event.clone(), None))), "{key}");
        }
        for (key, message) in [("unknown_{}", like), ("post", like), ("", like)] {
            assert_eq!(heard(key, message), Err(Unreadable::Kind), "{key}");
        }
        for message in ["", "[]", "{}", r#"{"type":5}"#, "hello", &"x".repeat(EVENT_BYTES_MAX + 1)] {
            assert_eq!(heard("post_1", message), Err(Unreadable::Malformed), "{message:.20}");
        }
    }

    #[test]
    fn what_we_told_others_we_do_not_hear() {
        let payload = JsonObject::parse(r#"{"type":"post_liked"}"#, 100).unwrap();
        let topic: Topic = "post:1".parse().unwrap();
        let event = Event::App(AppEvent { sequence: Some(model::Sequence(4)), payload });
        let (key, messages) = encode(Uuid::nil(), &topic, &event).unwrap();
        assert_eq!((key.as_str(), messages.len()), ("post_1", 1));
        assert_eq!(heard(&key, &messages[0]), Ok(None));
        // The word alone, in a text, is no origin.
        assert!(heard("post_1", r#"{"type":"parleyOrigin"}"#).unwrap().is_some());
    }
}
