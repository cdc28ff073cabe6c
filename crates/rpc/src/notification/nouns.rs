//! Nouns as they travel: generated types to `model` and back.

use model::{
    AppEvent, Change, Message, Notification, NotificationChange, NotificationId, Sequence, Timestamp, Unread,
};
use tonic::Status;

use super::{
    ChangeWire, Changed, ChangedWire, EventOneof, EventWire, Kind, MessageWire, NotificationWire, TopicEvent,
    UnreadWire, json_text, message_kind, message_kind_wire, millis, moment, optional_id, priority,
    priority_wire, stored_json, unreadable,
};

impl From<&Notification> for NotificationWire {
    fn from(notification: &Notification) -> Self {
        Self {
            id: notification.id.to_string(),
            user_id: notification.user.to_string(),
            sequence: notification.sequence.0,
            r#type: notification.kind.to_string(),
            title: notification.title.clone(),
            message: notification.message.clone(),
            metadata_json: json_text(notification.metadata.as_ref()),
            priority: priority_wire(notification.priority),
            is_read: notification.is_read,
            is_archived: notification.is_archived,
            created_at_ms: notification.created_at.0,
            expires_at_ms: millis(notification.expires_at),
            collapse_key: notification.collapse_key.clone().unwrap_or_default(),
            replaces: notification.replaces.iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<NotificationWire> for Notification {
    type Error = Status;
    fn try_from(wire: NotificationWire) -> Result<Self, Status> {
        Ok(Self {
            id: wire.id.parse().map_err(|_| unreadable("an id"))?,
            user: wire.user_id.parse().map_err(|_| unreadable("a user"))?,
            sequence: Sequence(wire.sequence),
            kind: wire.r#type.parse().map_err(|_| unreadable("a type"))?,
            title: wire.title,
            message: wire.message,
            metadata: stored_json(&wire.metadata_json)?,
            // A later release may know more of them.
            priority: priority(wire.priority).unwrap_or_default(),
            is_read: wire.is_read,
            is_archived: wire.is_archived,
            created_at: Timestamp(wire.created_at_ms),
            expires_at: moment(wire.expires_at_ms),
            collapse_key: Some(wire.collapse_key).filter(|key| !key.is_empty()),
            replaces: stored_ids(&wire.replaces)?,
        })
    }
}

fn stored_ids(ids: &[String]) -> Result<Vec<NotificationId>, Status> {
    ids.iter().map(|id| id.parse()).collect::<Result<_, _>>().map_err(|_| unreadable("an id"))
}

impl From<Unread> for UnreadWire {
    fn from(unread: Unread) -> Self {
        Self { count: unread.count, version: unread.version.0 }
    }
}

impl From<UnreadWire> for Unread {
    fn from(wire: UnreadWire) -> Self {
        Self { count: wire.count, version: Sequence(wire.version) }
    }
}

impl From<Changed> for ChangedWire {
    fn from(changed: Changed) -> Self {
        Self { changed: changed.changed, unread: Some(changed.unread.into()), found: changed.found }
    }
}

impl From<ChangedWire> for Changed {
    fn from(wire: ChangedWire) -> Self {
        let unread = wire.unread.unwrap_or_default().into();
        Self { changed: wire.changed, found: wire.found, unread }
    }
}

impl From<&NotificationChange> for ChangeWire {
    fn from(changed: &NotificationChange) -> Self {
        let (kind, ids, cleared): (_, &[NotificationId], _) = match &changed.change {
            Change::Read(ids) => (Kind::Read, ids, 0),
            Change::Unread(ids) => (Kind::Unread, ids, 0),
            Change::AllRead => (Kind::AllRead, &[], 0),
            Change::Archived(ids) => (Kind::Archived, ids, 0),
            Change::Deleted(ids) => (Kind::Deleted, ids, 0),
            Change::Cleared(count) => (Kind::Cleared, &[], *count),
            Change::Expired(ids) => (Kind::Expired, ids, 0),
        };
        Self {
            user_id: changed.user.to_string(),
            kind: kind.into(),
            ids: ids.iter().map(ToString::to_string).collect(),
            cleared,
            unread: Some(changed.unread.into()),
            at_ms: changed.at.0,
        }
    }
}

impl TryFrom<ChangeWire> for NotificationChange {
    type Error = Status;
    fn try_from(wire: ChangeWire) -> Result<Self, Status> {
        let ids = stored_ids(&wire.ids)?;
        let change = match Kind::try_from(wire.kind) {
            Ok(Kind::Read) => Change::Read(ids),
            Ok(Kind::Unread) => Change::Unread(ids),
            Ok(Kind::AllRead) => Change::AllRead,
            Ok(Kind::Archived) => Change::Archived(ids),
            Ok(Kind::Deleted) => Change::Deleted(ids),
            Ok(Kind::Cleared) => Change::Cleared(wire.cleared),
            Ok(Kind::Expired) => Change::Expired(ids),
            Ok(Kind::Unspecified) | Err(_) => return Err(unreadable("a change")),
        };
        Ok(Self {
            user: wire.user_id.parse().map_err(|_| unreadable("a user"))?,
            change,
            unread: wire.unread.unwrap_or_default().into(),
            at: Timestamp(wire.at_ms),
        })
    }
}

impl From<&Message> for MessageWire {
    fn from(message: &Message) -> Self {
        Self {
            id: message.id.to_string(),
            room_id: message.room.to_string(),
            sequence: message.sequence.0,
            position: message.position.0,
            author: message.author.to_string(),
            client_message_id: message.client_message_id.clone().unwrap_or_default(),
            text: message.text.clone(),
            metadata_json: json_text(message.metadata.as_ref()),
            created_at_ms: message.created_at.0,
            edited_at_ms: millis(message.edited_at),
            deleted_at_ms: millis(message.deleted_at),
            kind: message_kind_wire(message.kind),
            author_name: message.author_name.clone().unwrap_or_default(),
            reply_to: optional_id(message.reply_to),
        }
    }
}

impl TryFrom<MessageWire> for Message {
    type Error = Status;
    fn try_from(wire: MessageWire) -> Result<Self, Status> {
        Ok(Self {
            id: wire.id.parse().map_err(|_| unreadable("an id"))?,
            room: wire.room_id.parse().map_err(|_| unreadable("a room"))?,
            sequence: Sequence(wire.sequence),
            position: Sequence(wire.position),
            author: wire.author.parse().map_err(|_| unreadable("an author"))?,
            author_name: Some(wire.author_name).filter(|name| !name.is_empty()),
            client_message_id: Some(wire.client_message_id).filter(|id| !id.is_empty()),
            // A later release may know more of them.
            kind: message_kind(wire.kind).unwrap_or_default(),
            text: wire.text,
            metadata: stored_json(&wire.metadata_json)?,
            reply_to: match wire.reply_to.as_str() {
                "" => None,
                id => Some(id.parse().map_err(|_| unreadable("an id"))?),
            },
            created_at: Timestamp(wire.created_at_ms),
            edited_at: moment(wire.edited_at_ms),
            deleted_at: moment(wire.deleted_at_ms),
        })
    }
}

impl From<&TopicEvent> for EventWire {
    fn from(event: &TopicEvent) -> Self {
        let oneof = match event {
            TopicEvent::Notification(notification) => EventOneof::Notification(notification.into()),
            TopicEvent::Change(change) => EventOneof::Change(change.into()),
            TopicEvent::App(event) => EventOneof::AppJson(event.payload.as_str().to_owned()),
            TopicEvent::Message(message) => EventOneof::Message(message.into()),
        };
        Self { sequence: event.sequence().0, event: Some(oneof) }
    }
}

impl TryFrom<EventWire> for TopicEvent {
    type Error = Status;
    fn try_from(wire: EventWire) -> Result<Self, Status> {
        Ok(match wire.event.ok_or_else(|| unreadable("an event"))? {
            EventOneof::Notification(notification) => Self::Notification(notification.try_into()?),
            EventOneof::Change(change) => Self::Change(change.try_into()?),
            EventOneof::AppJson(json) => Self::App(AppEvent {
                sequence: Some(Sequence(wire.sequence)),
                payload: stored_json(&json)?.ok_or_else(|| unreadable("an event"))?,
            }),
            EventOneof::Message(message) => Self::Message(message.try_into()?),
        })
    }
}
