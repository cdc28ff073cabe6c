//! The contract of `parley.notification.v1`: generated types and their conversions from and to `model`. Nothing else
//! in the workspace names the generated types but the hub's handlers; everybody else uses [`crate::Hub`].

use model::{
    AppEvent, FaultKind, JsonObject, Message, MessageId, MessageKind, NewMessage, NewNotification,
    Notification, NotificationChange, NotificationId, NotificationType, Priority, Refusal, RoomId, Sequence,
    Timestamp, Topic, Unread, UserId,
    notification::{
        IDEMPOTENCY_KEY_BYTES_MAX, IDS_MAX, METADATA_BYTES_MAX, PAGE_DEFAULT, PAGE_MAX, TYPES_MAX,
    },
};
use prost::Message as _;
use tonic::Status;

use crate::wire;

mod nouns;

#[expect(
    missing_docs,
    unused_qualifications,
    clippy::allow_attributes,
    reason = "generated; documented in proto/"
)]
mod generated {
    tonic::include_proto!("parley.notification.v1");
}

pub use generated::{
    Change as ChangeWire, Changed as ChangedWire, DeleteMessageRequest, EditMessageRequest,
    Event as EventWire, GetRequest, HistoryRequest, HistoryResponse, IdsRequest, ListRequest, ListResponse,
    Message as MessageWire, Notification as NotificationWire, Preferences, PublishRequest, PublishResponse,
    Published as PublishedWire, PushKeyRequest, PushKeyResponse, RegisterPushRequest, RegisterPushResponse,
    RemovePushRequest, RemovePushResponse, ReplayRequest, ReplayResponse, SendMessageRequest,
    SetPreferencesRequest, Unread as UnreadWire, UserRequest, notifications_client::NotificationsClient,
    notifications_server::Notifications, notifications_server::NotificationsServer,
};
use generated::{
    MessageKind as MessageKindWire, Priority as PriorityWire, change::Kind, event::Event as EventOneof,
};

/// Metadata of a status: the stable code of a [`Refusal`].
pub const CODE: &str = "x-code";

/// Largest message of either direction of the hub, in bytes: the answer to a publication of the largest notification
/// for as many users as one call may name. Were it less, the caller would be told of a failure after the commit.
pub const HUB_MESSAGE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// What is published, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Publish {
    /// For the inboxes of these users.
    Users {
        /// At most `RECIPIENTS_MAX`; repeated ones count once.
        users: Vec<UserId>,
        /// What they are told.
        notification: NewNotification,
    },
    /// For the followers of a creator, a post or a feed.
    Event {
        /// [`Topic::Creator`], [`Topic::Post`] or [`Topic::Feed`].
        topic: Topic,
        /// What clients read: an object with a `type`.
        payload: JsonObject,
    },
}

/// The answer to a [`Publish`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishOutcome {
    /// One for each user, in the order of the request without repetitions; none when the user has muted the type.
    pub published: Vec<(UserId, Option<Notification>)>,
    /// Position of an event in its topic.
    pub sequence: Option<Sequence>,
    /// Whether this is the answer to an earlier request with the same idempotency key.
    pub repeated: bool,
}

/// What of an inbox is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only what is unread.
    pub unread_only: bool,
    /// Only these types; all when empty.
    pub types: Vec<NotificationType>,
    /// What was archived, instead of what was not.
    pub archived: bool,
    /// Rows in the page, 1 to `PAGE_MAX`.
    pub limit: Option<u32>,
    /// From the page before.
    pub cursor: Option<String>,
}

/// A page of an inbox, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Its rows.
    pub notifications: Vec<Notification>,
    /// Where the next page begins, when there may be one.
    pub next_cursor: Option<String>,
    /// Counted in the same moment.
    pub unread: Unread,
}

/// What a change did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed {
    /// How many notifications are different now.
    pub changed: u64,
    /// How many of the ids the user has.
    pub found: u64,
    /// What is unread now.
    pub unread: Unread,
}

/// Something that happened in a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicEvent {
    /// A notification came.
    Notification(Notification),
    /// An inbox changed.
    Change(NotificationChange),
    /// An application published.
    App(AppEvent),
    /// Something was said, changed or taken back in a room.
    Message(Message),
}

impl TopicEvent {
    /// Its position in the topic.
    pub fn sequence(&self) -> Sequence {
        match self {
            Self::Notification(notification) => notification.sequence,
            Self::Change(change) => change.unread.version,
            Self::App(event) => event.sequence.unwrap_or_default(),
            Self::Message(message) => message.sequence,
        }
    }
}

/// What happened in a topic after a sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    /// In the order of their sequences.
    pub events: Vec<TopicEvent>,
    /// The reader now has everything up to here.
    pub through: Sequence,
    /// Whether there is more after it.
    pub more: bool,
    /// Whether something after the asked sequence is kept no longer: read the list anew.
    pub incomplete: bool,
}

/// A page of a room, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomPage {
    /// Its messages.
    pub messages: Vec<Message>,
    /// The room's newest sequence.
    pub through: Sequence,
    /// Whether there are older ones.
    pub more: bool,
}

/// The status of a refusal, with its code.
pub fn refused(refusal: Refusal) -> Status {
    let mut status = wire::status(refusal.fault(), refusal.to_string());
    status.metadata_mut().insert(CODE, tonic::metadata::MetadataValue::from_static(refusal.code()));
    status
}

/// The refusal that a status tells of.
pub fn refusal(status: &Status) -> Option<Refusal> {
    Refusal::from_code(status.metadata().get(CODE)?.to_str().ok()?)
}

/// A message of the other side that cannot be read.
fn unreadable(what: &'static str) -> Status {
    wire::status(FaultKind::Defect, format!("{what} of the hub cannot be read"))
}

impl Publish {
    /// What a request asks for, within every limit but those of its times (`NewNotification::check_times`).
    ///
    /// # Errors
    /// The first limit that it breaks.
    pub fn from_wire(request: PublishRequest) -> Result<(Self, Option<String>), Refusal> {
        let key = Some(request.idempotency_key.clone()).filter(|key| !key.is_empty());
        if key.as_ref().is_some_and(|key| key.len() > IDEMPOTENCY_KEY_BYTES_MAX || key.contains('\0')) {
            return Err(Refusal::IdempotencyKeyInvalid);
        }
        let kind: NotificationType = request.r#type.parse().map_err(|_| Refusal::TypeInvalid)?;
        let metadata = metadata(&request.metadata_json)?;
        let mut users = user_list(&request.user_ids)?;
        if !request.topic.is_empty() {
            if !users.is_empty() {
                return Err(Refusal::TopicInvalid);
            }
            match request.topic.parse() {
                Ok(Topic::User(user)) => users.push(user),
                Ok(topic @ (Topic::Creator(_) | Topic::Post(_) | Topic::Feed(_))) => {
                    let payload = event_payload(&kind, &request.title, &request.message, metadata)?;
                    return Ok((Self::Event { topic, payload }, key));
                }
                _ => return Err(Refusal::TopicInvalid),
            }
        }
        if users.is_empty() {
            return Err(Refusal::RecipientsMissing);
        }
        let notification = NewNotification {
            kind,
            title: request.title,
            message: request.message,
            metadata,
            priority: priority(request.priority)?,
            expires_at: moment(request.expires_at_ms),
            deliver_at: moment(request.deliver_at_ms),
            collapse_key: Some(request.collapse_key).filter(|key| !key.is_empty()),
        };
        notification.check()?;
        Ok((Self::Users { users, notification }, key))
    }

    /// The request that asks for it.
    pub fn to_wire(&self, idempotency_key: Option<&str>) -> PublishRequest {
        let idempotency_key = idempotency_key.unwrap_or_default().to_owned();
        match self {
            Self::Users { users, notification } => PublishRequest {
                user_ids: users.iter().map(ToString::to_string).collect(),
                topic: String::new(),
                r#type: notification.kind.to_string(),
                title: notification.title.clone(),
                message: notification.message.clone(),
                metadata_json: json_text(notification.metadata.as_ref()),
                priority: priority_wire(notification.priority),
                expires_at_ms: millis(notification.expires_at),
                deliver_at_ms: millis(notification.deliver_at),
                collapse_key: notification.collapse_key.clone().unwrap_or_default(),
                idempotency_key,
            },
            Self::Event { topic, payload } => {
                let mut payload = payload.to_value();
                let kind = payload.as_object_mut().and_then(|fields| fields.remove("type"));
                PublishRequest {
                    topic: topic.to_string(),
                    r#type: kind.as_ref().and_then(|kind| kind.as_str()).unwrap_or_default().to_owned(),
                    metadata_json: payload.to_string(),
                    idempotency_key,
                    ..PublishRequest::default()
                }
            }
        }
    }
}

/// What a request asks to be said, within every limit.
///
/// # Errors
/// The first limit that it breaks.
pub fn new_message(request: SendMessageRequest) -> Result<NewMessage, Refusal> {
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    let new = NewMessage {
        room: room(&request.room_id)?,
        author: user(&request.author)?,
        author_name: some(request.author_name),
        client_message_id: some(request.client_message_id),
        kind: message_kind(request.kind)?,
        text: request.text,
        metadata: metadata(&request.metadata_json)?,
        reply_to: some(request.reply_to).map(|id| message_id(&id)).transpose()?,
    };
    new.check()?;
    Ok(new)
}

/// The request that asks for it.
pub fn send_message_request(new: &NewMessage) -> SendMessageRequest {
    SendMessageRequest {
        room_id: new.room.to_string(),
        author: new.author.to_string(),
        client_message_id: new.client_message_id.clone().unwrap_or_default(),
        text: new.text.clone(),
        metadata_json: json_text(new.metadata.as_ref()),
        kind: message_kind_wire(new.kind),
        author_name: new.author_name.clone().unwrap_or_default(),
        reply_to: optional_id(new.reply_to),
    }
}

/// The bytes of a request without its idempotency key: those of the same request are the same.
pub fn without_key(request: &PublishRequest) -> Vec<u8> {
    PublishRequest { idempotency_key: String::new(), ..request.clone() }.encode_to_vec()
}

/// The event that followers of a topic read: the metadata with a `type`, and a title and message that say something.
///
/// # Errors
/// It is larger than `METADATA_BYTES_MAX` with them.
pub fn event_payload(
    kind: &NotificationType,
    title: &str,
    message: &str,
    metadata: Option<JsonObject>,
) -> Result<JsonObject, Refusal> {
    let mut payload = metadata.map_or_else(|| serde_json::json!({}), |metadata| metadata.to_value());
    if let Some(fields) = payload.as_object_mut() {
        fields.insert("type".to_owned(), kind.as_str().into());
        for (name, text) in [("title", title), ("message", message)] {
            if !text.is_empty() {
                fields.insert(name.to_owned(), text.into());
            }
        }
    }
    Ok(JsonObject::from_value(&payload, METADATA_BYTES_MAX)?)
}

/// Users of a request, each once, in its order.
fn user_list(ids: &[String]) -> Result<Vec<UserId>, Refusal> {
    let mut seen = std::collections::HashSet::new();
    let mut users = Vec::with_capacity(ids.len().min(model::notification::RECIPIENTS_MAX));
    for id in ids {
        let user: UserId = id.parse().map_err(|_| Refusal::UserInvalid)?;
        if seen.insert(user.clone()) {
            users.push(user);
        }
    }
    if users.len() > model::notification::RECIPIENTS_MAX {
        return Err(Refusal::RecipientsTooMany);
    }
    Ok(users)
}

/// The user of a request.
///
/// # Errors
/// [`Refusal::UserInvalid`].
pub fn user(id: &str) -> Result<UserId, Refusal> {
    id.parse().map_err(|_| Refusal::UserInvalid)
}

/// The room of a request.
///
/// # Errors
/// [`Refusal::RoomInvalid`].
pub fn room(id: &str) -> Result<RoomId, Refusal> {
    id.parse().map_err(|_| Refusal::RoomInvalid)
}

/// The message of a request.
///
/// # Errors
/// [`Refusal::IdInvalid`].
pub fn message_id(id: &str) -> Result<MessageId, Refusal> {
    id.parse().map_err(|_| Refusal::IdInvalid)
}

/// The ids of a request: some, not too many, each once.
///
/// # Errors
/// What is wrong with them.
pub fn ids(ids: &[String]) -> Result<Vec<NotificationId>, Refusal> {
    if ids.is_empty() {
        return Err(Refusal::IdsMissing);
    }
    if ids.len() > IDS_MAX {
        return Err(Refusal::IdsTooMany);
    }
    let mut ids = ids.iter().map(|id| id.parse()).collect::<Result<Vec<NotificationId>, _>>();
    if let Ok(ids) = &mut ids {
        ids.sort_unstable();
        ids.dedup();
    }
    ids.map_err(|_| Refusal::IdInvalid)
}

/// The types of a filter or of preferences.
///
/// # Errors
/// One is none, or there are too many.
pub fn types(types: &[String]) -> Result<Vec<NotificationType>, Refusal> {
    if types.len() > TYPES_MAX {
        return Err(Refusal::TypesTooMany);
    }
    let mut types = types.iter().map(|kind| kind.parse()).collect::<Result<Vec<NotificationType>, _>>();
    if let Ok(types) = &mut types {
        types.sort_unstable();
        types.dedup();
    }
    types.map_err(|_| Refusal::TypeInvalid)
}

/// The rows of a page.
///
/// # Errors
/// [`Refusal::LimitInvalid`].
pub fn limit(limit: u32) -> Result<u32, Refusal> {
    match limit {
        0 => Ok(PAGE_DEFAULT),
        1..=PAGE_MAX => Ok(limit),
        _ => Err(Refusal::LimitInvalid),
    }
}

/// The JSON object that a field holds, when it holds one.
///
/// # Errors
/// What is wrong with it.
pub fn metadata(text: &str) -> Result<Option<JsonObject>, Refusal> {
    if text.is_empty() {
        return Ok(None);
    }
    Ok(Some(JsonObject::parse(text, METADATA_BYTES_MAX)?))
}

fn json_text(object: Option<&JsonObject>) -> String {
    object.map(|object| object.as_str().to_owned()).unwrap_or_default()
}

/// What we stored ourselves, of whatever size an earlier release allowed.
fn stored_json(text: &str) -> Result<Option<JsonObject>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    JsonObject::parse(text, usize::MAX).map(Some).map_err(|_| unreadable("a JSON object"))
}

fn moment(millis: i64) -> Option<Timestamp> {
    Some(Timestamp(millis)).filter(|at| at.0 != 0)
}

fn millis(moment: Option<Timestamp>) -> i64 {
    moment.map_or(0, |at| at.0)
}

fn priority(number: i32) -> Result<Priority, Refusal> {
    match PriorityWire::try_from(number) {
        Ok(PriorityWire::Unspecified | PriorityWire::Normal) => Ok(Priority::Normal),
        Ok(PriorityWire::Low) => Ok(Priority::Low),
        Ok(PriorityWire::High) => Ok(Priority::High),
        Ok(PriorityWire::Urgent) => Ok(Priority::Urgent),
        Err(_) => Err(Refusal::PriorityInvalid),
    }
}

fn priority_wire(priority: Priority) -> i32 {
    let wire = match priority {
        Priority::Low => PriorityWire::Low,
        Priority::Normal => PriorityWire::Normal,
        Priority::High => PriorityWire::High,
        Priority::Urgent => PriorityWire::Urgent,
    };
    wire.into()
}

fn message_kind(number: i32) -> Result<MessageKind, Refusal> {
    match MessageKindWire::try_from(number) {
        Ok(MessageKindWire::Unspecified | MessageKindWire::Text) => Ok(MessageKind::Text),
        Ok(MessageKindWire::Image) => Ok(MessageKind::Image),
        Ok(MessageKindWire::File) => Ok(MessageKind::File),
        Err(_) => Err(Refusal::KindInvalid),
    }
}

fn message_kind_wire(kind: MessageKind) -> i32 {
    let wire = match kind {
        MessageKind::Text => MessageKindWire::Text,
        MessageKind::Image => MessageKindWire::Image,
        MessageKind::File => MessageKindWire::File,
    };
    wire.into()
}

fn optional_id(id: Option<MessageId>) -> String {
    id.map(|id| id.to_string()).unwrap_or_default()
}
