//! What a client of `/ws` names when it subscribes, and which topic that is.

use model::{Topic, UserId};
use serde_json::{Map, Value, json};

/// A channel as a client names it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Channel {
    /// As the client gave it, to be given back; an object in any case.
    pub(crate) given: Value,
    /// What it is, if anything.
    pub(crate) topic: Option<Topic>,
}

impl Channel {
    /// Reads the `channel` of a message from `user`: system C's objects, and the texts of its older scripts, which mean
    /// the caller's own channel where they name no id.
    pub(crate) fn read(value: &Value, user: &UserId) -> Self {
        match value {
            Value::Object(fields) => Self { given: value.clone(), topic: of_object(fields, user) },
            Value::String(text) => {
                let topic = of_text(text, user);
                let given = topic.as_ref().map_or_else(|| json!({ "type": text }), object);
                Self { given, topic }
            }
            _ => Self { given: Value::Null, topic: None },
        }
    }

    /// The name by which system C calls it.
    pub(crate) fn key(&self) -> String {
        self.topic.as_ref().map_or_else(|| format!("unknown_{}", self.given), key)
    }
}

/// The name by which system C calls a topic, also in Redis.
pub(crate) fn key(topic: &Topic) -> String {
    match topic {
        Topic::User(user) => format!("notifications_{user}"),
        Topic::Feed(user) => format!("feed_{user}"),
        Topic::Creator(creator) => format!("creator_{creator}"),
        Topic::Post(post) => format!("post_{post}"),
        // Not of system C.
        Topic::Session(_) | Topic::Room(_) => topic.to_string(),
    }
}

/// A topic as system C's clients write it.
fn object(topic: &Topic) -> Value {
    match topic {
        Topic::User(user) => json!({ "type": "notifications", "userId": user }),
        Topic::Feed(user) => json!({ "type": "feed", "userId": user }),
        Topic::Creator(creator) => json!({ "type": "creator", "id": creator }),
        Topic::Post(post) => json!({ "type": "post", "postId": post }),
        Topic::Session(_) | Topic::Room(_) => Value::Null,
    }
}

fn of_object(fields: &Map<String, Value>, user: &UserId) -> Option<Topic> {
    let id = |name: &str| match fields.get(name) {
        None | Some(Value::Null) => None,
        Some(id) => Some(id.as_str().unwrap_or_default()),
    };
    match fields.get("type")?.as_str()? {
        "notifications" => Some(Topic::User(id("userId").unwrap_or(user.as_str()).parse().ok()?)),
        "feed" => Some(Topic::Feed(id("userId").unwrap_or(user.as_str()).parse().ok()?)),
        "creator" => Some(Topic::Creator(id("id")?.parse().ok()?)),
        "post" => Some(Topic::Post(id("postId")?.parse().ok()?)),
        _ => None,
    }
}

fn of_text(text: &str, user: &UserId) -> Option<Topic> {
    let (kind, id) = match text.split_once([':', '_']) {
        Some((kind, id)) => (kind, Some(id)),
        None => (text, None),
    };
    match kind {
        "notifications" | "user" => Some(Topic::User(id.unwrap_or(user.as_str()).parse().ok()?)),
        "feed" => Some(Topic::Feed(id.unwrap_or(user.as_str()).parse().ok()?)),
        "creator" => Some(Topic::Creator(id?.parse().ok()?)),
        "post" => Some(Topic::Post(id?.parse().ok()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_read_and_called_as_system_c_does() {
        let user: UserId = "u1".parse().unwrap();
        for (given, key, same) in [
            (json!({"type":"notifications","userId":"u1"}), "notifications_u1", true),
            (json!({"type":"notifications","userId":"u2"}), "notifications_u2", true),
            (json!({"type":"notifications"}), "notifications_u1", true),
            (json!({"type":"feed","userId":"u1"}), "feed_u1", true),
            (json!({"type":"creator","id":"c_1"}), "creator_c_1", true),
            (json!({"type":"post","postId":"p1"}), "post_p1", true),
            (json!({"type":"post"}), r#"unknown_{"type":"post"}"#, true),
            (json!({"type":"post","postId":7}), r#"unknown_{"postId":7,"type":"post"}"#, true),
            (json!({"type":"rooms"}), r#"unknown_{"type":"rooms"}"#, true),
            (json!({}), "unknown_{}", true),
            (json!("notifications"), "notifications_u1", false),
            (json!("user:u1"), "notifications_u1", false),
            (json!("user:u2"), "notifications_u2", false),
            (json!("feed"), "feed_u1", false),
            (json!("creator_c_1"), "creator_c_1", false),
            (json!("post:p1"), "post_p1", false),
            (json!("creator"), r#"unknown_{"type":"creator"}"#, false),
            (json!(7), "unknown_null", false),
            (Value::Null, "unknown_null", true),
        ] {
            let channel = Channel::read(&given, &user);
            assert_eq!((channel.key().as_str(), channel.given == given), (key, same), "{given}");
        }
        assert_eq!(
            Channel::read(&json!("notifications"), &user).given,
            json!({"type":"notifications","userId":"u1"})
        );
    }
}
