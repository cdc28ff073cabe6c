//! Notifications and events of applications: their nouns, their limits, and why one, or a message, is refused.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    FaultKind, InvalidJson, JsonObject, NotificationId, NotificationType, Sequence, Timestamp, UserId,
    room::{AUTHOR_NAME_BYTES_MAX, CHAT_BYTES_MAX, CLIENT_MESSAGE_ID_BYTES_MAX, LINK_BYTES_MAX},
};

/// Longest title, in bytes of UTF-8: one line on any screen, and far below what a push service carries.
pub const TITLE_BYTES_MAX: usize = 512;

/// Longest text of a notification, in bytes of UTF-8.
pub const MESSAGE_BYTES_MAX: usize = 8 * 1024;

/// Largest metadata, and largest event of an application, in bytes of compact JSON.
pub const METADATA_BYTES_MAX: usize = 16 * 1024;

/// Longest collapse key, in bytes.
pub const COLLAPSE_KEY_BYTES_MAX: usize = 128;

/// Longest idempotency key, in bytes.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// Users that one call may notify. They are one transaction, which locks each of them.
pub const RECIPIENTS_MAX: usize = 1000;

/// Ids in one call that marks, archives or deletes.
pub const IDS_MAX: usize = 500;

/// Rows in one page of a list or a replay.
pub const PAGE_MAX: u32 = 200;

/// Rows in one page when the caller does not say.
pub const PAGE_DEFAULT: u32 = 20;

/// Types in one filter, and types that one user can mute.
pub const TYPES_MAX: usize = 64;

/// How far ahead a delivery may be set: a year, in milliseconds.
pub const DELIVER_AHEAD_MS_MAX: i64 = 366 * 24 * 3600 * 1000;

/// Browsers that one user can register for web push. One more takes the place of the oldest.
pub const PUSH_SUBSCRIPTIONS_MAX: usize = 20;

/// How much a notification matters. Push services are told; order in the list is by sequence alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Can wait until the device is used.
    Low,
    /// As usual.
    #[default]
    Normal,
    /// Soon.
    High,
    /// At once.
    Urgent,
}

impl Priority {
    /// Every priority, lowest first.
    pub const ALL: [Self; 4] = [Self::Low, Self::Normal, Self::High, Self::Urgent];

    /// The word that clients read and write; also the `Urgency` of web push, which has `very-low` instead of
    /// `urgent` (RFC 8030 section 5.3).
    pub const fn label(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
            Self::Urgent => "urgent",
        }
    }

    /// The priority that a label names.
    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|priority| priority.label() == label)
    }
}

/// One entry of a user's inbox.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notification {
    /// Clients deduplicate by it.
    pub id: NotificationId,
    /// Whose inbox.
    pub user: UserId,
    /// Position in the topic `user:ID`; 0 while its delivery lies ahead.
    pub sequence: Sequence,
    /// What it is about, in the words of the application: `LIKE_POST`, `SYSTEM_ANNOUNCEMENT`.
    pub kind: NotificationType,
    /// One line.
    pub title: String,
    /// The text; may be empty.
    pub message: String,
    /// Whatever the application wants back.
    pub metadata: Option<JsonObject>,
    /// How much it matters.
    pub priority: Priority,
    /// Whether the user has read it.
    pub is_read: bool,
    /// Whether the user has put it away: no longer in the list, kept all the same, read.
    pub is_archived: bool,
    /// When it came into the inbox, or will.
    pub created_at: Timestamp,
    /// When it leaves the inbox by itself.
    pub expires_at: Option<Timestamp>,
    /// A newer one with the same key replaces it while it is unread.
    pub collapse_key: Option<String>,
    /// Those that it has replaced.
    pub replaces: Vec<NotificationId>,
}

/// A notification that is to be published.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewNotification {
    /// See [`Notification::kind`].
    pub kind: NotificationType,
    /// One line of 1 to [`TITLE_BYTES_MAX`] bytes.
    pub title: String,
    /// At most [`MESSAGE_BYTES_MAX`] bytes.
    pub message: String,
    /// At most [`METADATA_BYTES_MAX`] bytes.
    pub metadata: Option<JsonObject>,
    /// How much it matters.
    pub priority: Priority,
    /// When it leaves the inbox by itself; must lie ahead, and after `deliver_at`.
    pub expires_at: Option<Timestamp>,
    /// When it comes into the inbox; now, when it does not lie ahead. At most [`DELIVER_AHEAD_MS_MAX`] from now.
    pub deliver_at: Option<Timestamp>,
    /// 1 to [`COLLAPSE_KEY_BYTES_MAX`] bytes.
    pub collapse_key: Option<String>,
}

impl NewNotification {
    /// Holds it against the limits of its fields, but for its times: see [`NewNotification::check_times`].
    ///
    /// # Errors
    /// The first limit that it breaks.
    pub fn check(&self) -> Result<(), Refusal> {
        if self.title.trim().is_empty() {
            return Err(Refusal::TitleMissing);
        }
        if self.title.len() > TITLE_BYTES_MAX {
            return Err(Refusal::TitleTooLong);
        }
        if self.message.len() > MESSAGE_BYTES_MAX {
            return Err(Refusal::MessageTooLong);
        }
        if self.metadata.as_ref().is_some_and(|metadata| metadata.as_str().len() > METADATA_BYTES_MAX) {
            return Err(Refusal::MetadataTooLarge);
        }
        match &self.collapse_key {
            Some(key) if key.is_empty() || key.len() > COLLAPSE_KEY_BYTES_MAX || key.contains('\0') => {
                Err(Refusal::CollapseKeyInvalid)
            }
            _ => Ok(()),
        }
    }

    /// Holds its times against the present moment. What was right when it came first may be wrong when it is repeated.
    ///
    /// # Errors
    /// [`Refusal::DeliverAtInvalid`], [`Refusal::ExpiresAtInvalid`].
    pub fn check_times(&self, now: Timestamp) -> Result<(), Refusal> {
        let delivered_at = self.deliver_at.map_or(now, |at| at.max(now));
        if delivered_at.0.saturating_sub(now.0) > DELIVER_AHEAD_MS_MAX {
            return Err(Refusal::DeliverAtInvalid);
        }
        if self.expires_at.is_some_and(|at| at <= delivered_at) {
            return Err(Refusal::ExpiresAtInvalid);
        }
        Ok(())
    }
}

/// How many notifications of a user are unread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unread {
    /// How many; archived ones and those whose delivery lies ahead do not count.
    pub count: u64,
    /// The newest sequence of the topic `user:ID` when it was counted: of two counts the one with the higher version
    /// is right.
    pub version: Sequence,
}

/// What happened to notifications that a user had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", content = "ids", rename_all = "snake_case")]
pub enum Change {
    /// These are read.
    Read(Vec<NotificationId>),
    /// These are unread again.
    Unread(Vec<NotificationId>),
    /// All are read.
    AllRead,
    /// These are put away.
    Archived(Vec<NotificationId>),
    /// These are gone.
    Deleted(Vec<NotificationId>),
    /// Those that were read are gone, and so many they were.
    Cleared(u64),
    /// The time of these has passed, and they are gone.
    Expired(Vec<NotificationId>),
}

/// A change of an inbox that is no new notification, for all connections of the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotificationChange {
    /// Whose inbox.
    pub user: UserId,
    /// What happened.
    pub change: Change,
    /// What is unread after it; its version is the sequence of the change.
    pub unread: Unread,
    /// When.
    pub at: Timestamp,
}

/// What an application publishes for the followers of a creator, a post or a feed. We carry it and know no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppEvent {
    /// Position in its topic; `None` when another back end rang Redis without us, and then it is kept nowhere.
    pub sequence: Option<Sequence>,
    /// The event as clients read it: an object with a `type`.
    pub payload: JsonObject,
}

/// Why something about notifications or messages was refused: the stable codes that clients may rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[expect(missing_docs, reason = "each says what it means in its text")]
pub enum Refusal {
    #[error("no recipient: user ids or a topic")]
    RecipientsMissing,
    #[error("more than {RECIPIENTS_MAX} recipients in one call")]
    RecipientsTooMany,
    #[error("a user id must be 1 to {} bytes without control characters", crate::IDENTITY_BYTES_MAX)]
    UserInvalid,
    #[error("the topic must be user:ID, creator:ID, post:ID or feed:ID (messages: room:ID)")]
    TopicInvalid,
    #[error("the type must be 1 to 64 letters, digits or any of _ . : -")]
    TypeInvalid,
    #[error("more than {TYPES_MAX} types")]
    TypesTooMany,
    #[error("the title is missing")]
    TitleMissing,
    #[error("the title has more than {TITLE_BYTES_MAX} bytes")]
    TitleTooLong,
    #[error("the message has more than {MESSAGE_BYTES_MAX} bytes")]
    MessageTooLong,
    #[error("the metadata must be a JSON object")]
    MetadataInvalid,
    #[error("the metadata have more than {METADATA_BYTES_MAX} bytes")]
    MetadataTooLarge,
    #[error("the metadata are nested more deeply than {} levels", JsonObject::DEPTH_MAX)]
    MetadataTooDeep,
    #[error("the priority must be low, normal, high or urgent")]
    PriorityInvalid,
    #[error("expiresAt must lie ahead, and after deliverAt")]
    ExpiresAtInvalid,
    #[error("deliverAt must lie within a year from now")]
    DeliverAtInvalid,
    #[error("the collapse key must be 1 to {COLLAPSE_KEY_BYTES_MAX} bytes without U+0000")]
    CollapseKeyInvalid,
    #[error("the idempotency key must be 1 to {IDEMPOTENCY_KEY_BYTES_MAX} bytes without U+0000")]
    IdempotencyKeyInvalid,
    #[error("this idempotency key came with another request before")]
    IdempotencyConflict,
    #[error("an id must be a UUID")]
    IdInvalid,
    #[error("no ids")]
    IdsMissing,
    #[error("more than {IDS_MAX} ids in one call")]
    IdsTooMany,
    #[error("the limit must be 1 to {PAGE_MAX}")]
    LimitInvalid,
    #[error("the cursor is not one that this list gave to this user")]
    CursorInvalid,
    #[error("there is no such notification")]
    NotificationUnknown,
    #[error("the push subscription needs an https endpoint of an allowed push service and both keys")]
    SubscriptionInvalid,
    #[error("web push is not set up: VAPID_PRIVATE_KEY is missing")]
    PushOff,
    #[error(
        "a room id, or what follows session: in it, must be 1 to {} bytes without control characters",
        crate::SLUG_BYTES_MAX
    )]
    RoomInvalid,
    #[error("the text must have 1 to {CHAT_BYTES_MAX} bytes")]
    TextInvalid,
    #[error(
        "a client message id must be 1 to {CLIENT_MESSAGE_ID_BYTES_MAX} bytes without control characters"
    )]
    ClientMessageIdInvalid,
    #[error("a name must be 1 to {AUTHOR_NAME_BYTES_MAX} bytes without control characters")]
    NameInvalid,
    #[error("a message is text, image or file")]
    KindInvalid,
    #[error("an image or file is an http or https URL of at most {LINK_BYTES_MAX} bytes without white space")]
    LinkInvalid,
    #[error("there is no message in this room that it could reply to")]
    ReplyUnknown,
    #[error("there is no such message")]
    MessageUnknown,
    #[error("only its author may change a message")]
    NotAuthor,
    #[error("only a text can be edited; delete an image or file and send another")]
    OnlyTextEdited,
}

impl Refusal {
    /// Every code, for readers of the wire.
    pub const ALL: [Self; 36] = [
        Self::RecipientsMissing,
        Self::RecipientsTooMany,
        Self::UserInvalid,
        Self::TopicInvalid,
        Self::TypeInvalid,
        Self::TypesTooMany,
        Self::TitleMissing,
        Self::TitleTooLong,
        Self::MessageTooLong,
        Self::MetadataInvalid,
        Self::MetadataTooLarge,
        Self::MetadataTooDeep,
        Self::PriorityInvalid,
        Self::ExpiresAtInvalid,
        Self::DeliverAtInvalid,
        Self::CollapseKeyInvalid,
        Self::IdempotencyKeyInvalid,
        Self::IdempotencyConflict,
        Self::IdInvalid,
        Self::IdsMissing,
        Self::IdsTooMany,
        Self::LimitInvalid,
        Self::CursorInvalid,
        Self::NotificationUnknown,
        Self::SubscriptionInvalid,
        Self::PushOff,
        Self::RoomInvalid,
        Self::TextInvalid,
        Self::ClientMessageIdInvalid,
        Self::NameInvalid,
        Self::KindInvalid,
        Self::LinkInvalid,
        Self::ReplyUnknown,
        Self::MessageUnknown,
        Self::NotAuthor,
        Self::OnlyTextEdited,
    ];

    /// The stable code.
    pub const fn code(self) -> &'static str {
        match self {
            Self::RecipientsMissing => "recipients_missing",
            Self::RecipientsTooMany => "recipients_too_many",
            Self::UserInvalid => "user_invalid",
            Self::TopicInvalid => "topic_invalid",
            Self::TypeInvalid => "type_invalid",
            Self::TypesTooMany => "types_too_many",
            Self::TitleMissing => "title_missing",
            Self::TitleTooLong => "title_too_long",
            Self::MessageTooLong => "message_too_long",
            Self::MetadataInvalid => "metadata_invalid",
            Self::MetadataTooLarge => "metadata_too_large",
            Self::MetadataTooDeep => "metadata_too_deep",
            Self::PriorityInvalid => "priority_invalid",
            Self::ExpiresAtInvalid => "expires_at_invalid",
            Self::DeliverAtInvalid => "deliver_at_invalid",
            Self::CollapseKeyInvalid => "collapse_key_invalid",
            Self::IdempotencyKeyInvalid => "idempotency_key_invalid",
            Self::IdempotencyConflict => "idempotency_conflict",
            Self::IdInvalid => "id_invalid",
            Self::IdsMissing => "ids_missing",
            Self::IdsTooMany => "ids_too_many",
            Self::LimitInvalid => "limit_invalid",
            Self::CursorInvalid => "cursor_invalid",
            Self::NotificationUnknown => "notification_unknown",
            Self::SubscriptionInvalid => "subscription_invalid",
            Self::PushOff => "push_off",
            Self::RoomInvalid => "room_invalid",
            Self::TextInvalid => "text_invalid",
            Self::ClientMessageIdInvalid => "client_message_id_invalid",
            Self::NameInvalid => "name_invalid",
            Self::KindInvalid => "kind_invalid",
            Self::LinkInvalid => "link_invalid",
            Self::ReplyUnknown => "reply_unknown",
            Self::MessageUnknown => "message_unknown",
            Self::NotAuthor => "not_author",
            Self::OnlyTextEdited => "only_text_edited",
        }
    }

    /// The refusal that a code names.
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|refusal| refusal.code() == code)
    }

    /// Who must act.
    pub const fn fault(self) -> FaultKind {
        match self {
            Self::TitleTooLong | Self::MessageTooLong | Self::MetadataTooLarge => FaultKind::TooLarge,
            Self::IdempotencyConflict => FaultKind::Conflict,
            Self::NotificationUnknown | Self::MessageUnknown | Self::ReplyUnknown => FaultKind::NotFound,
            Self::NotAuthor => FaultKind::Forbidden,
            _ => FaultKind::Caller,
        }
    }
}

impl From<InvalidJson> for Refusal {
    fn from(error: InvalidJson) -> Self {
        match error {
            InvalidJson::TooLong(_) => Self::MetadataTooLarge,
            InvalidJson::TooDeep => Self::MetadataTooDeep,
            InvalidJson::NotAnObject => Self::MetadataInvalid,
        }
    }
}

// What applications tell their users must not reach a log by way of `{:?}`.

impl fmt::Debug for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Notification({} #{} {})", self.id, self.sequence, self.kind)
    }
}

impl fmt::Debug for NewNotification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NewNotification({})", self.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000);

    fn new() -> NewNotification {
        NewNotification {
            kind: "LIKE_POST".parse().unwrap(),
            title: "A like".to_owned(),
            message: String::new(),
            metadata: None,
            priority: Priority::Normal,
            expires_at: None,
            deliver_at: None,
            collapse_key: None,
        }
    }

    #[test]
    fn limits_are_held() {
        type Edit = fn(&mut NewNotification);
        assert_eq!(new().check().and(new().check_times(NOW)), Ok(()));
        let table: [(Edit, Refusal); 9] = [
            (|new| new.title = " ".to_owned(), Refusal::TitleMissing),
            (|new| new.title = "x".repeat(TITLE_BYTES_MAX + 1), Refusal::TitleTooLong),
            (|new| new.message = "x".repeat(MESSAGE_BYTES_MAX + 1), Refusal::MessageTooLong),
            (|new| new.expires_at = Some(NOW), Refusal::ExpiresAtInvalid),
            (
                |new| {
                    new.deliver_at = Some(Timestamp(3_000));
                    new.expires_at = Some(Timestamp(2_000));
                },
                Refusal::ExpiresAtInvalid,
            ),
            (|new| new.deliver_at = Some(Timestamp(i64::MAX)), Refusal::DeliverAtInvalid),
            (|new| new.collapse_key = Some(String::new()), Refusal::CollapseKeyInvalid),
            (|new| new.collapse_key = Some("a\0".to_owned()), Refusal::CollapseKeyInvalid),
            (
                |new| new.collapse_key = Some("x".repeat(COLLAPSE_KEY_BYTES_MAX + 1)),
                Refusal::CollapseKeyInvalid,
            ),
        ];
        for (edit, refusal) in table {
            let mut changed = new();
            edit(&mut changed);
            assert_eq!(changed.check().and(changed.check_times(NOW)), Err(refusal));
        }
    }

    #[test]
    fn every_refusal_has_a_code_of_its_own() {
        for refusal in Refusal::ALL {
            assert_eq!(Refusal::from_code(refusal.code()), Some(refusal));
        }
    }
}
