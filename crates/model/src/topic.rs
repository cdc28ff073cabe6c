use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{InvalidId, RoomId, SessionSlug, SubjectId, UserId};

/// Position in a topic, from 1 without holes; 0 is before the first. Commit order is sequence order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sequence(pub u64);

impl Sequence {
    /// The position after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a client follows: `session:SLUG`, `user:ID`, `room:ID`, `creator:ID`, `post:ID`, `feed:ID`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Topic {
    /// Captions and status of a session.
    Session(SessionSlug),
    /// Notifications of a user.
    User(UserId),
    /// Messages of a room.
    Room(RoomId),
    /// Events about a creator, for whoever looks at them.
    Creator(SubjectId),
    /// Events about a post.
    Post(SubjectId),
    /// Events of a user's feed.
    Feed(UserId),
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session(slug) => write!(f, "session:{slug}"),
            Self::User(user) => write!(f, "user:{user}"),
            Self::Room(room) => write!(f, "room:{room}"),
            Self::Creator(creator) => write!(f, "creator:{creator}"),
            Self::Post(post) => write!(f, "post:{post}"),
            Self::Feed(user) => write!(f, "feed:{user}"),
        }
    }
}

/// A text that names no topic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTopic {
    /// The kind before the colon is not known.
    #[error("a topic is session:SLUG, user:ID, room:ID, creator:ID, post:ID or feed:ID")]
    Kind,
    /// The id after the colon is not one.
    #[error(transparent)]
    Id(#[from] InvalidId),
}

impl FromStr for Topic {
    type Err = InvalidTopic;
    fn from_str(text: &str) -> Result<Self, InvalidTopic> {
        match text.split_once(':') {
            Some(("session", slug)) => Ok(Self::Session(slug.parse()?)),
            Some(("user", user)) => Ok(Self::User(user.parse()?)),
            Some(("room", room)) => Ok(Self::Room(room.parse()?)),
            Some(("creator", creator)) => Ok(Self::Creator(creator.parse()?)),
            Some(("post", post)) => Ok(Self::Post(post.parse()?)),
            Some(("feed", user)) => Ok(Self::Feed(user.parse()?)),
            _ => Err(InvalidTopic::Kind),
        }
    }
}

impl TryFrom<String> for Topic {
    type Error = InvalidTopic;
    fn try_from(text: String) -> Result<Self, InvalidTopic> {
        text.parse()
    }
}

impl From<Topic> for String {
    fn from(topic: Topic) -> String {
        topic.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_survive_text() {
        for text in ["session:demo", "session:a:b", "user:42", "room:r", "creator:c", "post:p_1", "feed:42"] {
            assert_eq!(text.parse::<Topic>().unwrap().to_string(), text);
        }
        assert!("demo".parse::<Topic>().is_err());
        assert!("session:".parse::<Topic>().is_err());
    }
}
