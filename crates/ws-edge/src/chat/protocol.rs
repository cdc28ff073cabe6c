//! Client JSON of chat, both ways, converted from and to `model`. The shapes of system B come first, our own fields after
//! them. Over Socket.IO each is the argument of an event; beside captions it is the `data` of a `chat` message.

use std::{borrow::Cow, sync::Arc, time::Duration};

use model::{
    FaultKind, JsonObject, Member, Message, MessageId, MessageKind, NewMessage, Refusal, RoomId, Sequence,
    Timestamp, UserId,
    notification::{METADATA_BYTES_MAX, PAGE_MAX},
    room::{anonymous_name, is_name},
};
use serde::Serialize;
use serde_json::{
    Map, Value,
    value::{RawValue, to_raw_value},
};
use settings::Secret;

/// Messages of a history when the client does not say: what system B tells.
pub(crate) const HISTORY_MAX: u32 = 50;

/// What a client asks for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Request {
    /// To be called so.
    Name(String),
    Send(Draft),
    Edit {
        room: Option<RoomId>,
        id: MessageId,
        text: String,
    },
    Delete {
        room: Option<RoomId>,
        id: MessageId,
    },
    Join {
        room: RoomId,
        /// What it has of the room: tell what came after that instead of the history.
        since: Option<Sequence>,
    },
    Leave(RoomId),
    Typing {
        room: Option<RoomId>,
        is_typing: bool,
    },
    History {
        room: Option<RoomId>,
        before: Option<Sequence>,
        limit: u32,
    },
    /// What came after a place, told again.
    Since {
        room: Option<RoomId>,
        since: Sequence,
    },
    /// A new token for the open connection.
    Refresh(Secret),
}

/// A message as a client writes it: not yet anybody's.
#[derive(Clone, PartialEq)]
pub(crate) struct Draft {
    /// Where it is to be said; in the client's own room when it does not say.
    pub(crate) room: Option<RoomId>,
    kind: MessageKind,
    text: String,
    client_message_id: Option<String>,
    metadata: Option<JsonObject>,
    reply_to: Option<MessageId>,
}

/// What people say stays out of logs.
impl std::fmt::Debug for Draft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Draft({})", self.kind.label())
    }
}

/// Why something that a client asked for is not done. The texts of the first ones are those of system B.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Problem {
    /// Whoever has no name cannot speak.
    Nameless,
    /// It is no name.
    Name,
    /// The hub does not answer.
    Failed(Failing),
    /// The hub would refuse it, or did.
    Refused(Refusal),
    /// An argument is not what it should be.
    Invalid(&'static str),
    /// There is no such event.
    Unknown,
    /// The room is not for this client.
    Forbidden,
    /// A token that only reads.
    ReadOnly,
    /// It has not joined the room.
    NotJoined,
    /// One more than a connection may have.
    TooManyRooms,
    /// More at once than are dealt with in time.
    TooMany,
    /// Above the rate.
    TooOften { retry_after: Duration },
    /// `refresh` came without a good token of the same user.
    BadToken(FaultKind),
    /// The token ended while the connection was open.
    Expired,
    /// It did not read what it is told.
    TooSlow,
}

/// What failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failing {
    Send,
    Edit,
    Delete,
    History,
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Problem {
    pub(crate) fn text(self) -> Cow<'static, str> {
        let text = match self {
            Self::Nameless => "Please set your username first",
            Self::Name => "Failed to set username. Please try again.",
            Self::Failed(Failing::Send) => "Failed to send message",
            Self::Failed(Failing::History) => "Failed to load message history",
            Self::Failed(Failing::Edit) => "Failed to edit message",
            Self::Failed(Failing::Delete) => "Failed to delete message",
            Self::Refused(refusal) => return refusal.to_string().into(),
            Self::Invalid(text) => text,
            Self::Unknown => "There is no such event",
            Self::Forbidden => "This room is not for you",
            Self::ReadOnly => "This token only reads",
            Self::NotJoined => "Join the room first",
            Self::TooManyRooms => "Too many rooms on one connection",
            Self::TooMany => "Too many messages at once",
            Self::TooOften { .. } => "Too many messages",
            Self::BadToken(FaultKind::Expired) => "The new token has expired",
            Self::BadToken(FaultKind::Forbidden) => "The new token is for somebody else",
            Self::BadToken(_) => "The new token is not valid",
            Self::Expired => "The token has expired: connect again with a new one",
            Self::TooSlow => "This connection did not read what it was told in time",
        };
        text.into()
    }

    /// Stable, for programs.
    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::Nameless => "name_missing",
            Self::Name => Refusal::NameInvalid.code(),
            Self::Failed(_) => "unavailable",
            Self::Refused(refusal) => refusal.code(),
            Self::Invalid(_) => "invalid_message",
            Self::Unknown => "unknown_event",
            Self::Forbidden | Self::ReadOnly => "forbidden",
            Self::NotJoined => "not_joined",
            Self::TooManyRooms => "too_many_rooms",
            Self::TooMany => "too_many",
            Self::TooOften { .. } => "rate_limited",
            Self::BadToken(fault) => fault.label(),
            Self::Expired => "expired",
            Self::TooSlow => "too_slow",
        }
    }

    /// When the same may be asked again.
    pub(crate) fn retry_after(self) -> Option<Duration> {
        match self {
            Self::TooOften { retry_after } => Some(retry_after),
            Self::Failed(_) | Self::TooMany => Some(Duration::from_secs(1)),
            _ => None,
        }
    }
}

/// The fields of an object; null is the same as absent.
fn field<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    fields.get(name).filter(|value| !value.is_null())
}

fn room(value: Option<&Value>) -> Result<Option<RoomId>, Refusal> {
    let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(None) };
    let room = value.as_str().and_then(|room| room.parse().ok());
    room.map(Some).ok_or(Refusal::RoomInvalid)
}

fn id(fields: &Map<String, Value>, name: &str) -> Result<Option<MessageId>, Refusal> {
    let Some(value) = field(fields, name) else { return Ok(None) };
    let id = value.as_str().and_then(|id| id.parse().ok());
    id.map(Some).ok_or(Refusal::IdInvalid)
}

fn position(fields: &Map<String, Value>, name: &str) -> Result<Option<Sequence>, Problem> {
    let Some(value) = field(fields, name) else { return Ok(None) };
    let position = value.as_u64().map(|position| Some(Sequence(position)));
    position.ok_or(Problem::Invalid("since and before must be whole numbers, not negative"))
}

fn text(fields: &Map<String, Value>) -> Result<String, Refusal> {
    let text = field(fields, "content").and_then(Value::as_str);
    text.map(|text| text.trim().to_owned()).ok_or(Refusal::TextInvalid)
}

impl Draft {
    /// Reads `{content,type?,roomId?,replyTo?,clientMessageId?,metadata?}`.
    ///
    /// # Errors
    /// A field that is not what it should be. What its values may be is for [`Draft::by`] to say.
    pub(crate) fn read(fields: &Map<String, Value>) -> Result<Self, Refusal> {
        let kind = match field(fields, "type") {
            None => MessageKind::Text,
            Some(kind) => kind.as_str().and_then(MessageKind::from_label).ok_or(Refusal::KindInvalid)?,
        };
        let client_message_id = match field(fields, "clientMessageId") {
            None => None,
            Some(Value::String(id)) => Some(id.clone()),
            Some(Value::Number(id)) => Some(id.to_string()),
            Some(_) => return Err(Refusal::ClientMessageIdInvalid),
        };
        let metadata = field(fields, "metadata");
        let metadata = metadata.map(|metadata| JsonObject::from_value(metadata, METADATA_BYTES_MAX));
        Ok(Self {
            room: room(fields.get("roomId"))?,
            kind,
            text: text(fields)?,
            client_message_id,
            metadata: metadata.transpose()?,
            reply_to: id(fields, "replyTo")?,
        })
    }

    /// The message, as somebody says it in a room.
    ///
    /// # Errors
    /// The first limit that it breaks.
    pub(crate) fn by(self, author: UserId, name: String, room: RoomId) -> Result<NewMessage, Refusal> {
        let new = NewMessage {
            room,
            author,
            author_name: Some(name),
            client_message_id: self.client_message_id,
            kind: self.kind,
            text: self.text,
            metadata: self.metadata,
            reply_to: self.reply_to,
        };
        new.check()?;
        Ok(new)
    }
}

/// A name as it is shown; `None` when it is none.
pub(crate) fn name(text: &str) -> Option<String> {
    Some(text.trim()).filter(|name| is_name(name)).map(str::to_owned)
}

impl Request {
    /// Reads an event of a client and its first argument.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn read(event: &str, data: &Value) -> Result<Self, Problem> {
        let object = data.as_object();
        match event {
            "setUsername" => data.as_str().and_then(name).map(Self::Name).ok_or(Problem::Name),
            "sendMessage" => Ok(Self::Send(Draft::read(object.ok_or(Refusal::TextInvalid)?)?)),
            "editMessage" => {
                let fields = object.ok_or(Problem::Invalid("editMessage takes {id, content, roomId?}"))?;
                let id = id(fields, "id")?.ok_or(Refusal::IdInvalid)?;
                Ok(Self::Edit { room: room(fields.get("roomId"))?, id, text: text(fields)? })
            }
            "deleteMessage" => {
                let fields = object.ok_or(Problem::Invalid("deleteMessage takes {id, roomId?}"))?;
                let id = id(fields, "id")?.ok_or(Refusal::IdInvalid)?;
                Ok(Self::Delete { room: room(fields.get("roomId"))?, id })
            }
            "joinRoom" => {
                let since = object.map(|fields| position(fields, "since")).transpose()?.flatten();
                Ok(Self::Join { room: named_room(data)?, since })
            }
            "leaveRoom" => named_room(data).map(Self::Leave),
            "typing" => {
                let is_typing = match object {
                    None => data.as_bool(),
                    Some(fields) => field(fields, "isTyping").and_then(Value::as_bool),
                };
                let is_typing = is_typing
                    .ok_or(Problem::Invalid("typing takes true or false, or {isTyping, roomId?}"))?;
                Ok(Self::Typing { room: room(object.and_then(|fields| fields.get("roomId")))?, is_typing })
            }
            "requestHistory" => match object {
                None => Ok(Self::History { room: room(Some(data))?, before: None, limit: HISTORY_MAX }),
                Some(fields) => history(fields),
            },
            "refresh" => {
                let token = object.map_or(Some(data), |fields| field(fields, "token"));
                let token = token.and_then(Value::as_str).filter(|token| !token.is_empty());
                token
                    .map(|token| Self::Refresh(token.into()))
                    .ok_or(Problem::BadToken(FaultKind::Unauthenticated))
            }
            _ => Err(Problem::Unknown),
        }
    }
}

/// The room that `joinRoom` and `leaveRoom` name: by itself, or in an object.
fn named_room(data: &Value) -> Result<RoomId, Problem> {
    let named = data.as_object().map_or(Some(data), |fields| fields.get("roomId"));
    Ok(room(named)?.ok_or(Refusal::RoomInvalid)?)
}

fn history(fields: &Map<String, Value>) -> Result<Request, Problem> {
    let room = room(fields.get("roomId"))?;
    if let Some(since) = position(fields, "since")? {
        return Ok(Request::Since { room, since });
    }
    let limit = match field(fields, "limit") {
        None => HISTORY_MAX,
        Some(limit) => limit
            .as_u64()
            .and_then(|limit| u32::try_from(limit).ok())
            .filter(|limit| (1..=PAGE_MAX).contains(limit))
            .ok_or(Refusal::LimitInvalid)?,
    };
    Ok(Request::History { room, before: position(fields, "before")?, limit })
}

/// JSON that is written once, for everybody who reads it.
pub(crate) type Body = Arc<RawValue>;

fn body(value: &impl Serialize) -> Body {
    // Nothing here can fail to serialize: no maps, no foreign `Serialize`.
    to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned()).into()
}

/// Something that a client is told.
#[derive(Debug, Clone)]
pub(crate) struct Telling {
    /// The event.
    pub(crate) name: &'static str,
    /// Its argument, in the shape of system B.
    pub(crate) body: Body,
    /// The room, where the shape has no place for it and it is not the general one, which system B's clients take for granted.
    pub(crate) room: Option<RoomId>,
}

/// The room of a [`Telling`], as its second argument.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct InRoom<'a> {
    pub(crate) room_id: &'a RoomId,
}

impl Telling {
    fn new(name: &'static str, value: &impl Serialize) -> Self {
        Self { name, body: body(value), room: None }
    }

    /// Of a room that its shape does not name.
    fn of(self, room: &RoomId) -> Self {
        Self { room: (!room.is_general()).then(|| room.clone()), ..self }
    }
}

/// A message as every client reads it, over REST and over sockets.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ChatMessage<'a> {
    id: MessageId,
    user_id: &'a str,
    username: &'a str,
    content: &'a str,
    timestamp: String,
    r#type: &'static str,
    room_id: &'a RoomId,
    sequence: Sequence,
    position: Sequence,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_message_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<MessageId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a JsonObject>,
    #[serde(skip_serializing_if = "Option::is_none")]
    edited_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted_at: Option<String>,
    /// Whether nobody has proved to be its author: `userId` is then no more than the name.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_anonymous: bool,
}

impl<'a> From<&'a Message> for ChatMessage<'a> {
    fn from(message: &'a Message) -> Self {
        let anonymous = anonymous_name(&message.author);
        let user_id = anonymous.unwrap_or(message.author.as_str());
        Self {
            id: message.id,
            user_id,
            username: message.author_name.as_deref().unwrap_or(user_id),
            content: &message.text,
            timestamp: message.created_at.to_string(),
            r#type: message.kind.label(),
            room_id: &message.room,
            sequence: message.sequence,
            position: message.position,
            client_message_id: message.client_message_id.as_deref(),
            reply_to: message.reply_to,
            metadata: message.metadata.as_ref(),
            edited_at: message.edited_at.map(|at| at.to_string()),
            deleted_at: message.deleted_at.map(|at| at.to_string()),
            is_anonymous: anonymous.is_some(),
        }
    }
}

/// What of a page is still there, as clients read it.
pub(crate) fn rows(messages: &[Message]) -> Vec<ChatMessage<'_>> {
    messages.iter().filter(|message| message.deleted_at.is_none()).map(ChatMessage::from).collect()
}

/// Somebody in a room, as every client reads it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ChatUser<'a> {
    id: &'a UserId,
    username: &'a str,
    is_online: bool,
    last_seen: String,
    joined_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_id: Option<&'a RoomId>,
}

impl<'a> ChatUser<'a> {
    /// Who is there `now`.
    pub(crate) fn new(member: &'a Member, now: Timestamp) -> Self {
        Self {
            id: &member.user,
            username: &member.name,
            is_online: true,
            last_seen: now.to_string(),
            joined_at: member.joined_at.to_string(),
            room_id: None,
        }
    }
}

/// Who the client is.
pub(crate) fn connected(user: &str, name: &str) -> Telling {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Connected<'a> {
        user_id: &'a str,
        username: &'a str,
    }
    Telling::new("connected", &Connected { user_id: user, username: name })
}

/// What was said before, newest first.
pub(crate) fn message_history(room: &RoomId, messages: &[Message]) -> Telling {
    Telling::new("messageHistory", &rows(messages)).of(room)
}

/// A message, as a body for any of the three events of one.
pub(crate) fn message(message: &Message) -> Body {
    body(&ChatMessage::from(message))
}

/// A message is new to the client, or changed, or was taken back; `None` when it never was there for it.
pub(crate) fn said(body: Body, is_new: bool, is_deleted: bool) -> Option<Telling> {
    let name = match (is_new, is_deleted) {
        (true, true) => return None,
        (true, false) => "message",
        (false, false) => "messageEdited",
        (false, true) => "messageDeleted",
    };
    Some(Telling { name, body, room: None })
}

/// Somebody has come.
pub(crate) fn user_joined(room: &RoomId, member: &Member, now: Timestamp) -> Telling {
    Telling::new("userJoined", &ChatUser { room_id: Some(room), ..ChatUser::new(member, now) })
}

/// Somebody has gone.
pub(crate) fn user_left(room: &RoomId, user: &UserId) -> Telling {
    Telling::new("userLeft", user).of(room)
}

/// Who is there.
pub(crate) fn room_users<'a>(
    room: &RoomId,
    members: impl IntoIterator<Item = &'a Member>,
    now: Timestamp,
) -> Telling {
    let users: Vec<ChatUser<'_>> = members.into_iter().map(|member| ChatUser::new(member, now)).collect();
    Telling::new("roomUsers", &users).of(room)
}

/// Somebody begins or ends to write.
pub(crate) fn user_typing(room: &RoomId, user: &UserId, name: &str, is_typing: bool) -> Telling {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Typing<'a> {
        user_id: &'a UserId,
        username: &'a str,
        is_typing: bool,
        room_id: &'a RoomId,
    }
    Telling::new("userTyping", &Typing { user_id: user, username: name, is_typing, room_id: room })
}

/// Part of what came after `since` is kept no longer: the client reads the history anew.
pub(crate) fn resync(room: &RoomId) -> Telling {
    Telling::new("resync", &InRoom { room_id: room })
}

/// Last words before the edge goes away.
pub(crate) fn reconnect(retry_after: Duration) -> Telling {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Reconnect {
        retry_after_ms: u64,
    }
    Telling::new("reconnect", &Reconnect { retry_after_ms: millis(retry_after) })
}

/// Something was not done: the text alone, as system B says it.
pub(crate) fn error(problem: Problem) -> Telling {
    Telling::new("error", &problem.text())
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// What was done.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Done {
    Named {
        user: UserId,
        name: String,
    },
    /// A message was sent, changed or taken back.
    Message(Box<Message>),
    /// A room was joined or left, or its past is told.
    Room(RoomId),
    History {
        room: RoomId,
        /// The newest place of the room.
        through: Sequence,
        more: bool,
    },
    Typing,
    Refreshed(Timestamp),
}

/// The acknowledgement of an event.
pub(crate) fn ack(outcome: &Result<Done, Problem>) -> Body {
    #[derive(Default, Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Ack<'a> {
        ok: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<Cow<'static, str>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<&'static str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        user_id: Option<&'a UserId>,
        #[serde(skip_serializing_if = "Option::is_none")]
        username: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<ChatMessage<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        room_id: Option<&'a RoomId>,
        #[serde(skip_serializing_if = "Option::is_none")]
        sequence: Option<Sequence>,
        #[serde(skip_serializing_if = "Option::is_none")]
        more: Option<bool>,
        #[serde(skip_serializing_if = "Option::is_none")]
        expires_at: Option<Timestamp>,
    }
    let done = Ack { ok: true, ..Ack::default() };
    let ack = match outcome {
        Err(problem) => Ack {
            error: Some(problem.text()),
            code: Some(problem.code()),
            retry_after_ms: problem.retry_after().map(millis),
            ..Ack::default()
        },
        Ok(Done::Named { user, name }) => Ack { user_id: Some(user), username: Some(name), ..done },
        Ok(Done::Message(message)) => Ack { message: Some((&**message).into()), ..done },
        Ok(Done::Room(room)) => Ack { room_id: Some(room), ..done },
        Ok(Done::History { room, through, more }) => {
            Ack { room_id: Some(room), sequence: Some(*through), more: Some(*more), ..done }
        }
        Ok(Done::Typing) => done,
        Ok(Done::Refreshed(at)) => Ack { expires_at: Some(*at), ..done },
    };
    body(&ack)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use model::room::anonymous;

    use super::*;

    const ID: &str = "0190b5a0-0000-7000-8000-000000000001";

    fn read(event: &str, data: Value) -> Result<Request, &'static str> {
        Request::read(event, &data).map_err(Problem::code)
    }

    fn room(id: &str) -> RoomId {
        id.parse().unwrap()
    }

    #[test]
    fn events_of_system_b_are_read() {
        assert_eq!(read("setUsername", json!("  Ada ")), Ok(Request::Name("Ada".to_owned())));
        assert_eq!(read("joinRoom", json!("team")), Ok(Request::Join { room: room("team"), since: None }));
        assert_eq!(read("leaveRoom", json!("team")), Ok(Request::Leave(room("team"))));
        assert_eq!(read("typing", json!(true)), Ok(Request::Typing { room: None, is_typing: true }));
        let history = |room| Ok(Request::History { room, before: None, limit: 50 });
        assert_eq!(read("requestHistory", Value::Null), history(None));
        assert_eq!(read("requestHistory", json!("team")), history(Some(room("team"))));
        let Ok(Request::Send(draft)) =
            read("sendMessage", json!({"content": " hi ", "type": "text", "roomId": null}))
        else {
            panic!("no message")
        };
        let said = draft.by("u1".parse().unwrap(), "Ada".to_owned(), RoomId::general()).unwrap();
        assert_eq!((said.text.as_str(), said.kind, said.room.is_general()), ("hi", MessageKind::Text, true));
    }

    #[test]
    fn our_own_events_and_fields_are_read() {
        let id = ID.parse().unwrap();
        let team = Some(room("team"));
        for (event, data, request) in [
            (
                "joinRoom",
                json!({"roomId": "team", "since": 7}),
                Request::Join { room: room("team"), since: Some(Sequence(7)) },
            ),
            ("leaveRoom", json!({"roomId": "team"}), Request::Leave(room("team"))),
            (
                "typing",
                json!({"isTyping": false, "roomId": "team"}),
                Request::Typing { room: team.clone(), is_typing: false },
            ),
            (
                "requestHistory",
                json!({"roomId": "team", "before": 9, "limit": 200}),
                Request::History { room: team.clone(), before: Some(Sequence(9)), limit: 200 },
            ),
            ("requestHistory", json!({"since": 0}), Request::Since { room: None, since: Sequence(0) }),
            (
                "editMessage",
                json!({"id": ID, "content": " x "}),
                Request::Edit { room: None, id, text: "x".to_owned() },
            ),
            ("deleteMessage", json!({"id": ID, "roomId": "team"}), Request::Delete { room: team, id }),
            ("refresh", json!("t"), Request::Refresh("t".into())),
            ("refresh", json!({"token": "t"}), Request::Refresh("t".into())),
        ] {
            assert_eq!(read(event, data.clone()), Ok(request), "{event} {data}");
        }
        let whole = json!({"content": "https://a/b.png", "type": "image", "roomId": "team", "replyTo": ID,
            "clientMessageId": 12, "metadata": {"a": [1]}});
        let Ok(Request::Send(draft)) = read("sendMessage", whole) else { panic!("no message") };
        let said = draft.by("u1".parse().unwrap(), "Ada".to_owned(), room("team")).unwrap();
        assert_eq!((said.kind, said.reply_to), (MessageKind::Image, Some(id)));
        assert_eq!(said.client_message_id.as_deref(), Some("12"));
        assert_eq!(said.metadata.unwrap().as_str(), r#"{"a":[1]}"#);
    }

    #[test]
    fn whatever_else_comes_is_refused_by_code() {
        for (event, data, code) in [
            ("dance", json!({}), "unknown_event"),
            ("", Value::Null, "unknown_event"),
            ("setUsername", json!(7), "name_invalid"),
            ("setUsername", json!("  "), "name_invalid"),
            ("setUsername", json!("a\nb"), "name_invalid"),
            ("setUsername", json!("x".repeat(129)), "name_invalid"),
            ("setUsername", json!({"username": "Ada"}), "name_invalid"),
            ("sendMessage", json!("hi"), "text_invalid"),
            ("sendMessage", json!([]), "text_invalid"),
            ("sendMessage", json!({}), "text_invalid"),
            ("sendMessage", json!({"content": {"_placeholder": true, "num": 0}}), "text_invalid"),
            ("sendMessage", json!({"content": "x", "type": "video"}), "kind_invalid"),
            ("sendMessage", json!({"content": "x", "type": 1}), "kind_invalid"),
            ("sendMessage", json!({"content": "x", "roomId": 1}), "room_invalid"),
            ("sendMessage", json!({"content": "x", "roomId": ""}), "room_invalid"),
            ("sendMessage", json!({"content": "x", "replyTo": "x"}), "id_invalid"),
            ("sendMessage", json!({"content": "x", "clientMessageId": []}), "client_message_id_invalid"),
            ("sendMessage", json!({"content": "x", "metadata": [1]}), "metadata_invalid"),
            ("editMessage", json!({"content": "x"}), "id_invalid"),
            ("editMessage", json!({"id": ID}), "text_invalid"),
            ("editMessage", json!(ID), "invalid_message"),
            ("deleteMessage", json!(null), "invalid_message"),
            ("joinRoom", Value::Null, "room_invalid"),
            ("joinRoom", json!({"roomId": []}), "room_invalid"),
            ("joinRoom", json!({"roomId": "a", "since": -1}), "invalid_message"),
            ("leaveRoom", json!(5), "room_invalid"),
            ("typing", json!("yes"), "invalid_message"),
            ("typing", json!({"isTyping": 1}), "invalid_message"),
            ("requestHistory", json!(5), "room_invalid"),
            ("requestHistory", json!({"limit": 0}), "limit_invalid"),
            ("requestHistory", json!({"limit": 201}), "limit_invalid"),
            ("requestHistory", json!({"limit": 4_294_967_297_u64}), "limit_invalid"),
            ("requestHistory", json!({"before": "x"}), "invalid_message"),
            ("refresh", json!(""), "unauthenticated"),
            ("refresh", json!(1), "unauthenticated"),
        ] {
            assert_eq!(read(event, data.clone()), Err(code), "{event} {data}");
        }
        // What the hub would refuse is refused before.
        let Ok(Request::Send(draft)) = read("sendMessage", json!({"content": "  "})) else {
            panic!("no message")
        };
        let said = draft.by("u1".parse().unwrap(), "Ada".to_owned(), RoomId::general());
        assert_eq!(said, Err(Refusal::TextInvalid));
    }

    fn message(author: &str) -> Message {
        Message {
            id: ID.parse().unwrap(),
            room: RoomId::general(),
            sequence: Sequence(9),
            position: Sequence(7),
            author: author.parse().unwrap(),
            author_name: Some("Ada".to_owned()),
            client_message_id: None,
            kind: MessageKind::Text,
            text: "hi".to_owned(),
            metadata: None,
            reply_to: None,
            created_at: Timestamp(1_700_000_000_000),
            edited_at: None,
            deleted_at: None,
        }
    }

    #[test]
    fn the_fields_of_system_b_come_first() {
        let expected = format!(
            r#"{{"id":"{ID}","userId":"u1","username":"Ada","content":"hi","timestamp":"2023-11-14T22:13:20.000Z","type":"text","roomId":"general","sequence":9,"position":7}}"#
        );
        assert_eq!(super::message(&message("u1")).get(), expected);
        let member = Member { user: "u1".parse().unwrap(), name: "Ada".to_owned(), joined_at: Timestamp(0) };
        let users = room_users(&RoomId::general(), [&member], Timestamp(1));
        assert_eq!(
            users.body.get(),
            r#"[{"id":"u1","username":"Ada","isOnline":true,"lastSeen":"1970-01-01T00:00:00.001Z","joinedAt":"1970-01-01T00:00:00.000Z"}]"#
        );
        assert_eq!(connected("u1", "Ada").body.get(), r#"{"userId":"u1","username":"Ada"}"#);
        assert_eq!(user_left(&RoomId::general(), &member.user).body.get(), r#""u1""#);
        assert_eq!(error(Problem::Nameless).body.get(), r#""Please set your username first""#);
        let typing = user_typing(&RoomId::general(), &member.user, "Ada", true);
        assert_eq!(
            typing.body.get(),
            r#"{"userId":"u1","username":"Ada","isTyping":true,"roomId":"general"}"#
        );
    }

    #[test]
    fn only_rooms_that_system_b_does_not_know_are_named_beside_its_shapes() {
        let user = "u1".parse().unwrap();
        assert_eq!(user_left(&RoomId::general(), &user).room, None);
        assert_eq!(user_left(&room("team"), &user).room, Some(room("team")));
        assert_eq!(message_history(&room("team"), &[]).room, Some(room("team")));
    }

    #[test]
    fn whoever_has_proved_nothing_is_shown_by_its_name_and_marked() {
        let author = anonymous("bob").unwrap();
        let shown: Value = serde_json::from_str(super::message(&message(author.as_str())).get()).unwrap();
        assert_eq!((&shown["userId"], &shown["isAnonymous"]), (&json!("bob"), &json!(true)));
        let shown: Value = serde_json::from_str(super::message(&message("bob")).get()).unwrap();
        assert_eq!((&shown["userId"], shown.get("isAnonymous")), (&json!("bob"), None));
        assert_eq!(anonymous(" "), None);
        let unnamed = Message { author_name: None, ..message("bob") };
        let shown: Value = serde_json::from_str(super::message(&unnamed).get()).unwrap();
        assert_eq!(shown["username"], "bob");
    }

    #[test]
    fn a_history_has_no_deleted_messages_and_an_event_says_what_became_of_one() {
        let deleted = Message { deleted_at: Some(Timestamp(5)), text: String::new(), ..message("u1") };
        assert_eq!(rows(&[deleted.clone(), message("u1")]).len(), 1);
        let name = |is_new, is_deleted| {
            said(super::message(&deleted), is_new, is_deleted).map(|telling| telling.name)
        };
        assert_eq!(name(true, false), Some("message"));
        assert_eq!(name(false, false), Some("messageEdited"));
        assert_eq!(name(false, true), Some("messageDeleted"));
        assert_eq!(name(true, true), None, "it never was there");
    }

    #[test]
    fn acknowledgements_say_what_was_done_or_why_not() {
        let ack = |outcome| serde_json::from_str::<Value>(ack(&outcome).get()).unwrap();
        assert_eq!(ack(Ok(Done::Typing)), json!({"ok": true}));
        assert_eq!(ack(Ok(Done::Room(room("team")))), json!({"ok": true, "roomId": "team"}));
        assert_eq!(ack(Ok(Done::Message(Box::new(message("u1")))))["message"]["id"], ID);
        let history = Done::History { room: room("team"), through: Sequence(9), more: false };
        assert_eq!(ack(Ok(history)), json!({"ok": true, "roomId": "team", "sequence": 9, "more": false}));
        let named = Done::Named { user: "u1".parse().unwrap(), name: "Ada".to_owned() };
        assert_eq!(ack(Ok(named)), json!({"ok": true, "userId": "u1", "username": "Ada"}));
        let often = Problem::TooOften { retry_after: Duration::from_millis(5) };
        assert_eq!(
            ack(Err(often)),
            json!({"ok": false, "error": "Too many messages", "code": "rate_limited", "retryAfterMs": 5})
        );
        assert_eq!(ack(Err(Refusal::NotAuthor.into()))["code"], "not_author");
    }
}
