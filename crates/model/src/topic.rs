use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{InvalidId, SessionSlug, UserId};

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

/// What a client follows: `session:SLUG`, `user:ID`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Topic {
    /// Captions and status of a session.
    Session(SessionSlug),
    /// Notifications of a user.
    User(UserId),
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session(slug) => write!(f, "session:{slug}"),
            Self::User(user) => write!(f, "user:{user}"),
        }
    }
}

/// A text that names no topic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTopic {
    /// The kind before the colon is not known.
    #[error("a topic is session:SLUG or user:ID")]
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
        for text in ["session:demo", "session:a:b", "user:42"] {
            assert_eq!(text.parse::<Topic>().unwrap().to_string(), text);
        }
        assert!("demo".parse::<Topic>().is_err());
        assert!("session:".parse::<Topic>().is_err());
    }
}
