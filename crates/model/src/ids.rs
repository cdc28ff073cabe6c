use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Longest session slug, in bytes. Rooms of LiveKit and of system A are far shorter; Redis channels, URLs and
/// index rows all carry it.
pub const SLUG_BYTES_MAX: usize = 128;

/// Longest identity of a participant, in bytes.
pub const IDENTITY_BYTES_MAX: usize = 256;

/// A text that cannot be the id that it was meant to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be 1 to {bytes_max} bytes without control characters")]
pub struct InvalidId {
    what: &'static str,
    bytes_max: usize,
}

fn checked(what: &'static str, bytes_max: usize, text: &str) -> Result<String, InvalidId> {
    let trimmed = text.trim();
    if trimmed.is_empty() || trimmed.len() > bytes_max || trimmed.chars().any(char::is_control) {
        return Err(InvalidId { what, bytes_max });
    }
    Ok(trimmed.to_owned())
}

/// A text with a rule of its own: how it is read is left to its `FromStr`.
macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:expr) => {
        text_type!($(#[$doc])* $name);

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                checked($what, $max, text).map(Self)
            }
        }
    };
}

text_id!(
    /// The public name of a session, as it stands in URLs and tokens. May be a secret: it is never a metric label.
    SessionSlug,
    "sessionSlug",
    SLUG_BYTES_MAX
);
text_id!(
    /// Who a participant of a session is, as its token says.
    Identity,
    "identity",
    IDENTITY_BYTES_MAX
);
text_id!(
    /// A user of the surrounding application, across sessions.
    UserId,
    "userId",
    IDENTITY_BYTES_MAX
);

text_id!(
    /// What a topic other than a session or a user is about: a creator, a post.
    SubjectId,
    "id",
    SLUG_BYTES_MAX
);

/// The room in which everybody is.
const GENERAL: &str = "general";

/// What begins the id of a session's own room.
const OF_SESSION: &str = "session:";

text_type!(
    /// A room in which people chat: 1 to [`SLUG_BYTES_MAX`] bytes, or `session:SLUG`, the room of that session, which
    /// is for whoever is in the session.
    RoomId
);

impl RoomId {
    /// The room in which everybody is, as in system B.
    pub fn general() -> Self {
        Self(GENERAL.to_owned())
    }

    /// Whether it is that room.
    pub fn is_general(&self) -> bool {
        self.0 == GENERAL
    }

    /// The room of a session.
    pub fn of_session(session: &SessionSlug) -> Self {
        Self(format!("{OF_SESSION}{session}"))
    }

    /// The session whose room it is; `None` when it is no session's.
    pub fn session(&self) -> Option<SessionSlug> {
        self.0.strip_prefix(OF_SESSION).map(|slug| SessionSlug(slug.to_owned()))
    }
}

impl FromStr for RoomId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        match text.trim_start().strip_prefix(OF_SESSION) {
            Some(slug) => Ok(Self::of_session(&slug.parse()?)),
            None => checked("roomId", SLUG_BYTES_MAX, text).map(Self),
        }
    }
}

/// Longest type of a notification, in bytes.
pub const TYPE_BYTES_MAX: usize = 64;

text_type!(
    /// What a notification is about, in the words of the application: 1 to [`TYPE_BYTES_MAX`] ASCII letters, digits
    /// or any of `_ . : -`, so that it can be muted and filtered by without surprises.
    NotificationType
);

impl FromStr for NotificationType {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "_.:-".contains(letter);
        if text.is_empty() || text.len() > TYPE_BYTES_MAX || !text.chars().all(plain) {
            return Err(InvalidId { what: "type", bytes_max: TYPE_BYTES_MAX });
        }
        Ok(Self(text.to_owned()))
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                text.parse().map(Self)
            }
        }
    };
}

uuid_id!(
    /// The row of a session.
    SessionId
);
uuid_id!(
    /// One source of audio in a session. Whoever opens the source makes the id. Every caption carries it, so it is
    /// no secret: who may continue a stream is a matter of its participant.
    StreamId
);
uuid_id!(
    /// One notification of one user.
    NotificationId
);
uuid_id!(
    /// One message of a room.
    MessageId
);
uuid_id!(
    /// One connection in one room.
    SeatId
);

text_id!(
    /// What a back end that transcribes by itself calls an utterance. Unique in its session.
    OutsideId,
    "utteranceId",
    IDENTITY_BYTES_MAX
);

/// One utterance of a session. Stays the same for its partials, its final and later revisions, also when another
/// worker takes the stream over. As text it is `STREAM-NUMBER` or, from outside, any other text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum UtteranceId {
    /// An utterance that was heard in a stream.
    Heard {
        /// The stream that it was spoken in.
        stream: StreamId,
        /// Its position in the stream, from 1.
        number: u32,
    },
    /// One whose text a back end handed in.
    Outside(OutsideId),
}

impl UtteranceId {
    /// The stream that it was heard in; none for one from outside.
    pub fn stream(&self) -> Option<StreamId> {
        match self {
            Self::Heard { stream, .. } => Some(*stream),
            Self::Outside(_) => None,
        }
    }
}

impl fmt::Display for UtteranceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Heard { stream, number } => write!(f, "{stream}-{number}"),
            Self::Outside(id) => id.fmt(f),
        }
    }
}

impl FromStr for UtteranceId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let outside = text.parse::<OutsideId>()?;
        let heard = outside.as_str().rsplit_once('-').and_then(|(stream, number)| {
            let heard = Self::Heard { stream: stream.parse().ok()?, number: number.parse().ok()? };
            // Any other way of writing the same numbers is another text, and so another id.
            (heard.to_string() == outside.as_str()).then_some(heard)
        });
        Ok(heard.unwrap_or(Self::Outside(outside)))
    }
}

impl TryFrom<String> for UtteranceId {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<UtteranceId> for String {
    fn from(id: UtteranceId) -> String {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_trimmed_and_bounded() {
        assert_eq!("  demo room ".parse::<SessionSlug>().unwrap().as_str(), "demo room");
        assert!("".parse::<SessionSlug>().is_err());
        assert!("a\nb".parse::<SessionSlug>().is_err());
        assert!("x".repeat(SLUG_BYTES_MAX).parse::<SessionSlug>().is_ok());
        assert!("x".repeat(SLUG_BYTES_MAX + 1).parse::<SessionSlug>().is_err());
    }

    #[test]
    fn a_room_of_a_session_is_named_by_its_slug_whatever_its_length() {
        let longest: SessionSlug = "x".repeat(SLUG_BYTES_MAX).parse().unwrap();
        let room = RoomId::of_session(&longest);
        assert_eq!(room.as_str().parse::<RoomId>().unwrap(), room);
        assert_eq!(room.session(), Some(longest));
        // However it is written it is the one room of the session, so that nothing is said beside it.
        for text in ["session:a b", " session: a b ", "session:\ta b"] {
            let room: RoomId = text.parse().unwrap();
            assert_eq!(
                (room.as_str(), room.session()),
                ("session:a b", Some("a b".parse().unwrap())),
                "{text}"
            );
        }
        for text in ["general", "sessions:a", "Session:a"] {
            assert_eq!(text.parse::<RoomId>().unwrap().session(), None, "{text}");
        }
        assert!("x".repeat(SLUG_BYTES_MAX).parse::<RoomId>().is_ok());
        for text in ["", "session:", "session: ", "session:a\nb", &"x".repeat(SLUG_BYTES_MAX + 1)] {
            assert!(text.parse::<RoomId>().is_err(), "{text:.20}");
        }
        assert!(format!("session:{}", "x".repeat(SLUG_BYTES_MAX + 1)).parse::<RoomId>().is_err());
    }

    #[test]
    fn utterance_ids_survive_text() {
        let heard = UtteranceId::Heard { stream: StreamId(Uuid::from_u128(7)), number: 12 };
        assert_eq!(heard.to_string().parse::<UtteranceId>().unwrap(), heard);
        for text in ["12", "gladia-12", "00000000-0000-0000-0000-000000000007-012"] {
            let id: UtteranceId = text.parse().unwrap();
            assert!(matches!(id, UtteranceId::Outside(_)), "{text}");
            assert_eq!(id.to_string(), text);
        }
        assert!("".parse::<UtteranceId>().is_err());
    }
}
