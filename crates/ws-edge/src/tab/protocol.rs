//! Client JSON of `/ws`, both ways, converted from and to `model`. The shapes of system C come first in each message,
//! our own fields after them.

use std::time::Duration;

use model::{
    AppEvent, Change, FaultKind, JsonObject, Notification, NotificationChange, NotificationId, Priority,
    Sequence, Timestamp, Topic, Unread, UserId,
};
use rpc::notification::TopicEvent;
use serde::Serialize;
use serde_json::{Map, Value};
use settings::Secret;
use tungstenite::Utf8Bytes;

use crate::channel::{self, Channel};

/// What a client says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ClientMessage {
    Subscribe {
        channel: Channel,
        /// What it has of the channel: tell what came after that first.
        since: Option<Sequence>,
    },
    Unsubscribe(Channel),
    Ping,
    /// A new token for the open socket.
    Refresh(Secret),
    /// A type that we do not know, from another kind of client.
    Unknown,
}

/// Why a message of a client is not followed. The texts of the first three are those of system C.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Problem {
    /// It is no JSON object with a `type`.
    Invalid,
    /// The channel is not for this user.
    Denied,
    /// The access check or the hub does not answer.
    Failed,
    /// `since` is no whole number.
    BadSince,
    /// One more than a connection may have.
    TooManyChannels,
    /// Above the rate.
    TooOften { retry_after: Duration },
    /// `refresh` came without a good token of the same user.
    BadToken(FaultKind),
    /// The token ended while the socket was open.
    Expired,
    /// There was no good token to begin with.
    Unauthorized(FaultKind),
    /// Too many connections of one user at once.
    TooManyConnections { retry_after: Duration },
    /// The origin is not listed.
    Origin,
    /// It did not read what it follows.
    TooSlow,
    /// A frame above its limit, or not what it claims to be.
    Frame(FaultKind),
}

impl Problem {
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Invalid => "Invalid message format",
            Self::Denied => "Access denied to channel",
            Self::Failed => "Failed to subscribe",
            Self::BadSince => "since must be a whole number, not negative",
            Self::TooManyChannels => "Too many channels on one connection",
            Self::TooOften { .. } => "Too many messages",
            Self::BadToken(FaultKind::Expired) => "The new token has expired",
            Self::BadToken(FaultKind::Forbidden) => "The new token is for another user",
            Self::BadToken(_) => "The new token is not valid",
            Self::Expired => "The token has expired: connect again with a new one",
            Self::Unauthorized(FaultKind::Expired) => "The token has expired",
            Self::Unauthorized(_) => "No valid token: connect with ?token= or Authorization: Bearer",
            Self::TooManyConnections { .. } => "This user connects too often",
            Self::Origin => "Pages of this origin may not connect",
            Self::TooSlow => "This connection did not read its events in time",
            Self::Frame(FaultKind::TooLarge) => "The message is too large",
            Self::Frame(_) => "The WebSocket protocol was broken",
        }
    }

    /// Stable, for programs.
    const fn code(self) -> &'static str {
        match self {
            Self::Invalid => "invalid_message",
            Self::Denied | Self::Origin => "forbidden",
            Self::Failed => "unavailable",
            Self::BadSince => "since_invalid",
            Self::TooManyChannels => "too_many_channels",
            Self::TooOften { .. } => "rate_limited",
            Self::TooManyConnections { .. } => "too_many_connections",
            Self::TooSlow => "too_slow",
            Self::Expired => "expired",
            Self::BadToken(fault) | Self::Unauthorized(fault) | Self::Frame(fault) => fault.label(),
        }
    }

    /// Who must act.
    pub(crate) const fn fault(self) -> FaultKind {
        match self {
            Self::Invalid | Self::BadSince | Self::TooManyChannels => FaultKind::Caller,
            Self::Denied | Self::Origin => FaultKind::Forbidden,
            Self::Failed => FaultKind::Dependency,
            Self::TooOften { .. } | Self::TooManyConnections { .. } | Self::TooSlow => FaultKind::Overloaded,
            Self::Expired => FaultKind::Expired,
            Self::BadToken(fault) | Self::Unauthorized(fault) | Self::Frame(fault) => fault,
        }
    }

    const fn retry_after(self) -> Option<Duration> {
        match self {
            Self::TooOften { retry_after } | Self::TooManyConnections { retry_after } => Some(retry_after),
            _ => None,
        }
    }
}

impl ClientMessage {
    /// Reads a text message of `user`.
    pub(crate) fn parse(text: &str, user: &UserId) -> Result<Self, Problem> {
        let Ok(Value::Object(object)) = serde_json::from_str(text) else { return Err(Problem::Invalid) };
        let Some(kind) = object.get("type").and_then(Value::as_str) else { return Err(Problem::Invalid) };
        let channel = || Channel::read(object.get("channel").unwrap_or(&Value::Null), user);
        match kind {
            "subscribe" => Ok(Self::Subscribe { channel: channel(), since: since(&object)? }),
            "unsubscribe" => Ok(Self::Unsubscribe(channel())),
            "ping" => Ok(Self::Ping),
            "refresh" => match object.get("token") {
                Some(Value::String(token)) => Ok(Self::Refresh(token.as_str().into())),
                // What system C's clients keep: the token with its surroundings.
                Some(token @ Value::Object(_)) => Ok(Self::Refresh(token.to_string().into())),
                _ => Err(Problem::BadToken(FaultKind::Unauthenticated)),
            },
            _ => Ok(Self::Unknown),
        }
    }
}

/// Beside the channel or in it.
fn since(message: &Map<String, Value>) -> Result<Option<Sequence>, Problem> {
    let inside = message.get("channel").and_then(|channel| channel.get("since"));
    match message.get("since").or(inside) {
        None | Some(Value::Null) => Ok(None),
        Some(since) => since.as_u64().map(|since| Some(Sequence(since))).ok_or(Problem::BadSince),
    }
}

fn encode(message: &impl Serialize) -> Utf8Bytes {
    // Nothing here can fail to serialize: no maps, no foreign `Serialize`.
    serde_json::to_string(message).unwrap_or_default().into()
}

#[derive(Serialize)]
struct Message<T> {
    r#type: &'static str,
    data: T,
}

/// The first message of every socket.
pub(crate) fn connected(user: &UserId) -> Utf8Bytes {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Data<'a> {
        user_id: &'a UserId,
        message: &'static str,
    }
    let message = "Successfully connected to WebSocket server";
    encode(&Message { r#type: "connected", data: Data { user_id: user, message } })
}

/// A subscription begins or ends.
pub(crate) fn subscription(kind: &'static str, channel: &Channel) -> Utf8Bytes {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Data<'a> {
        channel: &'a Value,
        channel_key: String,
    }
    encode(&Message { r#type: kind, data: Data { channel: &channel.given, channel_key: channel.key() } })
}

/// Something is not done.
pub(crate) fn error(problem: Problem, channel: Option<&Channel>) -> Utf8Bytes {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Data<'a> {
        message: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        channel: Option<&'a Value>,
        code: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
    }
    let retry_after_ms =
        problem.retry_after().map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX).max(1));
    let channel = channel.map(|channel| &channel.given);
    let data = Data { message: problem.text(), channel, code: problem.code(), retry_after_ms };
    encode(&Message { r#type: "error", data })
}

/// The answer to `ping`.
pub(crate) fn pong() -> Utf8Bytes {
    Utf8Bytes::from_static(r#"{"type":"pong"}"#)
}

/// The answer to `refresh`.
pub(crate) fn refreshed(expires_at: Timestamp) -> Utf8Bytes {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Refreshed {
        r#type: &'static str,
        expires_at: Timestamp,
    }
    encode(&Refreshed { r#type: "refreshed", expires_at })
}

/// Last words before 1001.
pub(crate) fn reconnect(retry_after: Duration) -> Utf8Bytes {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Reconnect {
        r#type: &'static str,
        retry_after_ms: u64,
    }
    let retry_after_ms = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
    encode(&Reconnect { r#type: "reconnect", retry_after_ms })
}

/// What of `since` is kept no longer: the client reads its list anew.
pub(crate) fn resync(topic: &Topic) -> Utf8Bytes {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Data {
        channel_key: String,
    }
    encode(&Message { r#type: "resync", data: Data { channel_key: channel::key(topic) } })
}

/// A notification as every client reads it, over REST and over sockets.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row<'a> {
    id: NotificationId,
    user_id: &'a UserId,
    r#type: &'a str,
    title: &'a str,
    message: &'a str,
    is_read: bool,
    metadata: &'a Option<JsonObject>,
    created_at: String,
    sequence: Sequence,
    priority: Priority,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    collapse_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    replaces: &'a Vec<NotificationId>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_archived: bool,
}

impl<'a> From<&'a Notification> for Row<'a> {
    fn from(notification: &'a Notification) -> Self {
        Self {
            id: notification.id,
            user_id: &notification.user,
            r#type: notification.kind.as_str(),
            title: &notification.title,
            message: &notification.message,
            is_read: notification.is_read,
            metadata: &notification.metadata,
            created_at: notification.created_at.to_string(),
            sequence: notification.sequence,
            priority: notification.priority,
            expires_at: notification.expires_at.map(|at| at.to_string()),
            collapse_key: notification.collapse_key.as_deref(),
            replaces: &notification.replaces,
            is_archived: notification.is_archived,
        }
    }
}

/// What is unread, newest first: after subscribing, and when everything was read elsewhere.
pub(crate) fn unread_notifications(notifications: &[Notification], unread: Unread) -> Utf8Bytes {
    #[derive(Serialize)]
    struct Data<'a> {
        notifications: Vec<Row<'a>>,
        count: u64,
        version: Sequence,
    }
    let notifications = notifications.iter().map(Row::from).collect();
    let data = Data { notifications, count: unread.count, version: unread.version };
    encode(&Message { r#type: "unread_notifications", data })
}

/// How many are unread; of two messages the one with the higher version is right.
pub(crate) fn unread_count(user: &UserId, unread: Unread) -> Utf8Bytes {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct UnreadCount<'a> {
        r#type: &'static str,
        user_id: &'a UserId,
        count: u64,
        version: Sequence,
    }
    encode(&UnreadCount {
        r#type: "unread_count",
        user_id: user,
        count: unread.count,
        version: unread.version,
    })
}

/// Something happened in a topic: what its followers read. Old clients know one notification at a time.
pub(crate) fn event(topic: &Topic, event: &TopicEvent) -> Vec<Utf8Bytes> {
    match event {
        TopicEvent::Notification(notification) => vec![arrived(notification)],
        TopicEvent::Change(change) => changed(change),
        TopicEvent::App(event) => vec![app(topic, event)],
        // Rooms are not followed here.
        TopicEvent::Message(_) => Vec::new(),
    }
}

fn arrived(notification: &Notification) -> Utf8Bytes {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Arrived<'a> {
        r#type: &'static str,
        user_id: &'a UserId,
        notification: Row<'a>,
        sequence: Sequence,
    }
    encode(&Arrived {
        r#type: "notification",
        user_id: &notification.user,
        notification: notification.into(),
        sequence: notification.sequence,
    })
}

fn changed(change: &NotificationChange) -> Vec<Utf8Bytes> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct One<'a> {
        r#type: &'static str,
        user_id: &'a UserId,
        notification_id: NotificationId,
        sequence: Sequence,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct All<'a> {
        r#type: &'static str,
        user_id: &'a UserId,
        sequence: Sequence,
        #[serde(skip_serializing_if = "Option::is_none")]
        cleared_count: Option<u64>,
    }
    let (user, sequence) = (&change.user, change.unread.version);
    let each = |kind, ids: &[NotificationId]| {
        let one = |id: &NotificationId| {
            encode(&One { r#type: kind, user_id: user, notification_id: *id, sequence })
        };
        ids.iter().map(one).collect()
    };
    let all = |kind, cleared_count| encode(&All { r#type: kind, user_id: user, sequence, cleared_count });
    let mut texts: Vec<Utf8Bytes> = match &change.change {
        Change::Read(ids) => each("notification_read", ids),
        Change::Unread(ids) => each("notification_unread", ids),
        Change::Archived(ids) => each("notification_archived", ids),
        Change::Deleted(ids) => each("notification_deleted", ids),
        Change::Expired(ids) => each("notification_expired", ids),
        // The second is what system C's clients know: nothing of the past is unread.
        Change::AllRead => {
            vec![all("notifications_read", None), unread_notifications(&[], change.unread)]
        }
        Change::Cleared(count) => vec![all("notifications_cleared", Some(*count))],
    };
    texts.push(unread_count(user, change.unread));
    texts
}

/// An application's event stays as it is, flat; where it stands is added at its end.
fn app(topic: &Topic, event: &AppEvent) -> Utf8Bytes {
    let payload = event.payload.as_str();
    let (Some(sequence), Some(open)) = (event.sequence, payload.strip_suffix('}')) else {
        return payload.to_owned().into();
    };
    let comma = if open.ends_with('{') { "" } else { "," };
    let key = Value::String(channel::key(topic));
    format!("{open}{comma}\"channelKey\":{key},\"sequence\":{sequence}}}").into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn user() -> UserId {
        "u1".parse().unwrap()
    }

    fn value(text: &Utf8Bytes) -> Value {
        serde_json::from_str(text).unwrap()
    }

    fn notification() -> Notification {
        Notification {
            id: "0190b5a0-0000-7000-8000-000000000001".parse().unwrap(),
            user: user(),
            sequence: Sequence(7),
            kind: "LIKE_POST".parse().unwrap(),
            title: "A \"like\"".to_owned(),
            message: "m".to_owned(),
            metadata: Some(JsonObject::parse(r#"{"postId":"p"}"#, 100).unwrap()),
            priority: Priority::Normal,
            is_read: false,
            is_archived: false,
            created_at: Timestamp(1_700_000_000_000),
            expires_at: None,
            collapse_key: None,
            replaces: Vec::new(),
        }
    }

    #[test]
    fn messages_are_read() {
        let read = |value: Value| ClientMessage::parse(&value.to_string(), &user());
        let channel = json!({"type":"notifications","userId":"u1"});
        let own = Channel::read(&channel, &user());
        let subscribed = |since: Option<u64>| {
            Ok(ClientMessage::Subscribe { channel: own.clone(), since: since.map(Sequence) })
        };
        assert_eq!(read(json!({"type":"subscribe","channel":channel})), subscribed(None));
        assert_eq!(read(json!({"type":"subscribe","channel":channel,"since":3})), subscribed(Some(3)));
        assert_eq!(read(json!({"type":"subscribe","channel":channel,"since":null})), subscribed(None));
        let inside = read(json!({"type":"subscribe","channel":{"type":"notifications","since":4}}));
        assert!(matches!(inside, Ok(ClientMessage::Subscribe { since: Some(Sequence(4)), .. })));
        assert_eq!(
            read(json!({"type":"unsubscribe","channel":channel})),
            Ok(ClientMessage::Unsubscribe(own))
        );
        assert_eq!(read(json!({"type":"ping"})), Ok(ClientMessage::Ping));
        assert_eq!(read(json!({"type":"dance"})), Ok(ClientMessage::Unknown));
        assert_eq!(read(json!({"type":"refresh","token":"t"})), Ok(ClientMessage::Refresh("t".into())));
        for (message, problem) in [
            (json!([]), Problem::Invalid),
            (json!({"type":7}), Problem::Invalid),
            (json!({"type":"subscribe","channel":channel,"since":-1}), Problem::BadSince),
            (json!({"type":"subscribe","channel":channel,"since":"x"}), Problem::BadSince),
            (json!({"type":"refresh"}), Problem::BadToken(FaultKind::Unauthenticated)),
        ] {
            assert_eq!(read(message.clone()), Err(problem), "{message}");
        }
        assert_eq!(ClientMessage::parse("{", &user()), Err(Problem::Invalid));
    }

    #[test]
    fn events_are_flat_and_as_system_c_writes_them() {
        let arrived = event(&Topic::User(user()), &TopicEvent::Notification(notification()));
        assert_eq!(
            value(&arrived[0]),
            json!({"type":"notification","userId":"u1","sequence":7,"notification":{
                "id":"0190b5a0-0000-7000-8000-000000000001","userId":"u1","type":"LIKE_POST","title":"A \"like\"",
                "message":"m","isRead":false,"metadata":{"postId":"p"},"createdAt":"2023-11-14T22:13:20.000Z",
                "sequence":7,"priority":"normal"}})
        );
        let unread = Unread { count: 2, version: Sequence(9) };
        let change = |change| {
            let change = NotificationChange { user: user(), change, unread, at: Timestamp(0) };
            let texts = event(&Topic::User(user()), &TopicEvent::Change(change));
            texts.iter().map(|text| value(text)["type"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let id = notification().id;
        assert_eq!(
            change(Change::Read(vec![id, id])),
            ["notification_read", "notification_read", "unread_count"]
        );
        assert_eq!(change(Change::Cleared(3)), ["notifications_cleared", "unread_count"]);
        assert_eq!(change(Change::AllRead), ["notifications_read", "unread_notifications", "unread_count"]);
    }

    #[test]
    fn an_applications_event_keeps_its_fields() {
        let topic: Topic = "post:p_1".parse().unwrap();
        let of = |payload: &str, sequence: Option<u64>| {
            let payload = JsonObject::parse(payload, 1000).unwrap();
            let event = AppEvent { sequence: sequence.map(Sequence), payload };
            super::event(&topic, &TopicEvent::App(event))[0].to_string()
        };
        assert_eq!(
            of(r#"{"type":"post_liked","likesCount":3}"#, Some(5)),
            r#"{"likesCount":3,"type":"post_liked","channelKey":"post_p_1","sequence":5}"#
        );
        assert_eq!(of("{}", Some(5)), r#"{"channelKey":"post_p_1","sequence":5}"#);
        assert_eq!(of(r#"{"type":"x"}"#, None), r#"{"type":"x"}"#);
    }

    #[test]
    fn errors_are_those_of_system_c_with_a_code() {
        let channel = Channel::read(&json!({"type":"rooms"}), &user());
        assert_eq!(
            value(&error(Problem::Denied, Some(&channel))),
            json!({"type":"error","data":{"message":"Access denied to channel","channel":{"type":"rooms"},"code":"forbidden"}})
        );
        let often = Problem::TooOften { retry_after: Duration::from_millis(5) };
        assert_eq!(value(&error(often, None))["data"]["retryAfterMs"], 5);
    }
}
