//! Rooms: what is said in them, who is there, and the limits of both.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    JsonObject, MessageId, Refusal, RoomId, Sequence, Timestamp, UserId, notification::METADATA_BYTES_MAX,
};

/// Longest text of a message, in bytes of UTF-8.
pub const CHAT_BYTES_MAX: usize = 8 * 1024;

/// Longest link of an image or file, in bytes: what browsers and proxies are known to carry.
pub const LINK_BYTES_MAX: usize = 2048;

/// Longest name to show of somebody in a room, in bytes of UTF-8.
pub const AUTHOR_NAME_BYTES_MAX: usize = 128;

/// Longest id that an author's client gives a message, in bytes.
pub const CLIENT_MESSAGE_ID_BYTES_MAX: usize = 128;

/// What a message is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MessageKind {
    /// Words.
    #[default]
    Text,
    /// The link of an image.
    Image,
    /// The link of any other file.
    File,
}

impl MessageKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Text, Self::Image, Self::File];

    /// The word that clients read and write.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Image => "image",
            Self::File => "file",
        }
    }

    /// The kind that a label names.
    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.label() == label)
    }
}

/// One message of a room.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Clients deduplicate by it and by `sequence`: the higher one is right.
    pub id: MessageId,
    /// Where it was said.
    pub room: RoomId,
    /// Position in the topic `room:ID` of its newest state: an edit or a deletion moves it to the end.
    pub sequence: Sequence,
    /// Position in the topic at which it was said; orders the room.
    pub position: Sequence,
    /// Who said it.
    pub author: UserId,
    /// The name of the author when it was said.
    pub author_name: Option<String>,
    /// The id that the author's client gave it, so that sending it again does not say it twice.
    pub client_message_id: Option<String>,
    /// What it is. Absent in what a release wrote that knew only text.
    #[serde(default)]
    pub kind: MessageKind,
    /// What was said, or the link; empty when it was deleted.
    pub text: String,
    /// Whatever the application wants back.
    pub metadata: Option<JsonObject>,
    /// The message of the same room that it replies to; that one may have been deleted since.
    pub reply_to: Option<MessageId>,
    /// When it was said.
    pub created_at: Timestamp,
    /// When the author changed it last.
    pub edited_at: Option<Timestamp>,
    /// When the author took it back.
    pub deleted_at: Option<Timestamp>,
}

/// A message that is to be said.
#[derive(Clone, PartialEq, Eq)]
pub struct NewMessage {
    /// Where.
    pub room: RoomId,
    /// Who says it.
    pub author: UserId,
    /// The name to show with it, of 1 to [`AUTHOR_NAME_BYTES_MAX`] bytes without control characters.
    pub author_name: Option<String>,
    /// The id that the author's client gave it, of 1 to [`CLIENT_MESSAGE_ID_BYTES_MAX`] bytes.
    pub client_message_id: Option<String>,
    /// What it is.
    pub kind: MessageKind,
    /// 1 to [`CHAT_BYTES_MAX`] bytes; of an image or file, an absolute http or https URL of at most [`LINK_BYTES_MAX`].
    pub text: String,
    /// At most [`METADATA_BYTES_MAX`] bytes.
    pub metadata: Option<JsonObject>,
    /// The message of the same room that it replies to.
    pub reply_to: Option<MessageId>,
}

impl NewMessage {
    /// Holds it against the limits of its fields. Whether there is such a message to reply to is not known here.
    ///
    /// # Errors
    /// The first limit that it breaks.
    pub fn check(&self) -> Result<(), Refusal> {
        if self.author_name.as_deref().is_some_and(|name| !is_name(name)) {
            return Err(Refusal::NameInvalid);
        }
        let unfit = |id: &str| {
            id.is_empty() || id.len() > CLIENT_MESSAGE_ID_BYTES_MAX || id.chars().any(char::is_control)
        };
        if self.client_message_id.as_deref().is_some_and(unfit) {
            return Err(Refusal::ClientMessageIdInvalid);
        }
        if self.metadata.as_ref().is_some_and(|metadata| metadata.as_str().len() > METADATA_BYTES_MAX) {
            return Err(Refusal::MetadataTooLarge);
        }
        match self.kind {
            MessageKind::Text => check_text(&self.text),
            MessageKind::Image | MessageKind::File if is_link(&self.text) => Ok(()),
            MessageKind::Image | MessageKind::File => Err(Refusal::LinkInvalid),
        }
    }
}

/// Holds the words of a message against their limits.
///
/// # Errors
/// [`Refusal::TextInvalid`].
pub fn check_text(text: &str) -> Result<(), Refusal> {
    let says_nothing = |letter: char| letter.is_whitespace() || letter == '\0';
    if text.len() > CHAT_BYTES_MAX || text.chars().all(says_nothing) {
        return Err(Refusal::TextInvalid);
    }
    Ok(())
}

/// Whether somebody in a room can be called so: 1 to [`AUTHOR_NAME_BYTES_MAX`] bytes, not all of them space, and no
/// control characters.
pub fn is_name(name: &str) -> bool {
    name.len() <= AUTHOR_NAME_BYTES_MAX && !name.trim().is_empty() && !name.contains(char::is_control)
}

/// What begins the author of a message of whoever has proved nothing. It is nobody's id, so that what such a name has said
/// is not somebody else's to change.
const ANONYMOUS: &str = "anonymous:";

/// The author of what was said by whoever has proved nothing and is called so; `None` when it is no name.
pub fn anonymous(name: &str) -> Option<UserId> {
    if !is_name(name) {
        return None;
    }
    format!("{ANONYMOUS}{name}").parse().ok()
}

/// What an author is called of whom nothing is proved; `None` for every other.
pub fn anonymous_name(author: &UserId) -> Option<&str> {
    author.as_str().strip_prefix(ANONYMOUS)
}

/// Whether it is an absolute http or https URL. Where it leads nobody here asks.
fn is_link(text: &str) -> bool {
    let after = |scheme: &str| {
        let (head, rest) = text.split_at_checked(scheme.len())?;
        head.eq_ignore_ascii_case(scheme).then_some(rest)
    };
    let host = after("https://").or_else(|| after("http://"));
    text.len() <= LINK_BYTES_MAX
        && host.is_some_and(|host| host.starts_with(|first: char| first.is_alphanumeric() || first == '['))
        && !text.contains(|letter: char| letter.is_whitespace() || letter.is_control())
}

/// Somebody who is in a room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Who.
    pub user: UserId,
    /// The name to show.
    pub name: String,
    /// Since when.
    pub joined_at: Timestamp,
}

/// What is told of the people in a room, and kept nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "sign", rename_all = "snake_case")]
pub enum RoomSign {
    /// Somebody has come.
    Joined(Member),
    /// Somebody has gone.
    Left {
        /// Who.
        user: UserId,
    },
    /// Somebody begins or ends to write.
    Typing {
        /// Who.
        user: UserId,
        /// The name to show.
        name: String,
        /// Whether it begins.
        is_typing: bool,
    },
}

// What people say must not reach a log by way of `{:?}`.

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({} #{})", self.id, self.sequence)
    }
}

impl fmt::Debug for NewMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NewMessage({})", self.kind.label())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(kind: MessageKind, text: &str) -> NewMessage {
        NewMessage {
            room: "general".parse().unwrap(),
            author: "u1".parse().unwrap(),
            author_name: Some("Älice".to_owned()),
            client_message_id: Some("c1".to_owned()),
            kind,
            text: text.to_owned(),
            metadata: None,
            reply_to: None,
        }
    }

    #[test]
    fn limits_are_held() {
        type Edit = fn(&mut NewMessage);
        assert_eq!(new(MessageKind::Text, "hi").check(), Ok(()));
        let table: [(Edit, Refusal); 12] = [
            (|new| new.author_name = Some(String::new()), Refusal::NameInvalid),
            (|new| new.author_name = Some(" \u{a0} ".to_owned()), Refusal::NameInvalid),
            (|new| new.author_name = Some("a\nb".to_owned()), Refusal::NameInvalid),
            (|new| new.author_name = Some("é".repeat(AUTHOR_NAME_BYTES_MAX / 2 + 1)), Refusal::NameInvalid),
            (|new| new.client_message_id = Some(String::new()), Refusal::ClientMessageIdInvalid),
            (|new| new.client_message_id = Some("a\0".to_owned()), Refusal::ClientMessageIdInvalid),
            (
                |new| new.client_message_id = Some("x".repeat(CLIENT_MESSAGE_ID_BYTES_MAX + 1)),
                Refusal::ClientMessageIdInvalid,
            ),
            (|new| new.text = String::new(), Refusal::TextInvalid),
            (|new| new.text = " \n\0 ".to_owned(), Refusal::TextInvalid),
            (|new| new.text = "x".repeat(CHAT_BYTES_MAX + 1), Refusal::TextInvalid),
            (|new| new.kind = MessageKind::Image, Refusal::LinkInvalid),
            (
                |new| {
                    let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(METADATA_BYTES_MAX));
                    new.metadata = JsonObject::parse(&large, usize::MAX).ok();
                },
                Refusal::MetadataTooLarge,
            ),
        ];
        for (edit, refusal) in table {
            let mut changed = new(MessageKind::Text, "hi");
            edit(&mut changed);
            assert_eq!(changed.check(), Err(refusal));
        }
        let mut fits = new(MessageKind::Text, &"x".repeat(CHAT_BYTES_MAX));
        fits.author_name = Some("x".repeat(AUTHOR_NAME_BYTES_MAX));
        fits.client_message_id = Some("x".repeat(CLIENT_MESSAGE_ID_BYTES_MAX));
        assert_eq!(fits.check(), Ok(()));
    }

    #[test]
    fn images_and_files_are_links_of_the_web() {
        let longest = format!("https://a/{}", "x".repeat(LINK_BYTES_MAX - 10));
        for link in [
            "https://example.com/cat.png",
            "HTTP://example.com",
            "http://[::1]:8080/a?b=c#d",
            "https://пример.рф/файл",
            &longest,
        ] {
            for kind in [MessageKind::Image, MessageKind::File] {
                assert_eq!(new(kind, link).check(), Ok(()), "{link:.40}");
            }
        }
        for other in [
            "",
            "cat.png",
            "//example.com/cat.png",
            "https://",
            "https:///cat.png",
            "https:/\\example.com",
            "https://?a",
            "javascript:alert(1)//https://example.com",
            "data:image/png;base64,AAAA",
            "ftp://example.com/a",
            " https://example.com/a",
            "https://example.com/a b",
            "https://example.com/a\u{2003}b",
            "https://example.com/a\n",
            "é",
            &format!("{longest}x"),
        ] {
            assert_eq!(new(MessageKind::File, other).check(), Err(Refusal::LinkInvalid), "{other:.40}");
        }
    }

    #[test]
    fn what_an_earlier_release_wrote_is_a_text_without_a_name() {
        let earlier = r#"{"id":"00000000-0000-0000-0000-000000000001","room":"r","sequence":2,"position":1,"author":"u",
                          "client_message_id":null,"text":"hi","metadata":null,"created_at":1,"edited_at":null,
                          "deleted_at":null}"#;
        let message: Message = serde_json::from_str(earlier).unwrap();
        assert_eq!((message.kind, message.author_name, message.reply_to), (MessageKind::Text, None, None));
    }

    #[test]
    fn kinds_are_known_by_their_labels() {
        for kind in MessageKind::ALL {
            assert_eq!(MessageKind::from_label(kind.label()), Some(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.label());
        }
        assert_eq!(MessageKind::from_label("Text"), None);
    }
}
