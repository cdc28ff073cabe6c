//! Every channel name there is.

use std::sync::Arc;

use model::{RoomId, Topic, UserId};

/// Prefix of an installation that has Redis to itself.
pub const DEFAULT_PREFIX: &str = "parley";

#[derive(Clone)]
pub(crate) struct Channels {
    prefix: Arc<str>,
    /// What begins the channels of other back ends, when we talk to them.
    others: Option<Arc<str>>,
}

impl Channels {
    pub(crate) fn new(prefix: &str, others: Option<&str>) -> Self {
        Self { prefix: prefix.into(), others: others.map(Into::into) }
    }

    /// `PREFIX:topic:session:SLUG`.
    pub(crate) fn of(&self, topic: &Topic) -> String {
        format!("{}:topic:{topic}", self.prefix)
    }

    /// `PREFIX:present:USER`: a sorted set of edges by when their word ends. No channel, but a name all the same.
    pub(crate) fn presence(&self, user: &UserId) -> String {
        format!("{}:present:{user}", self.prefix)
    }

    /// `PREFIX:room:ROOM`: a sorted set of seats by when an edge's word for them ends.
    pub(crate) fn room(&self, room: &RoomId) -> String {
        format!("{}:room:{room}", self.prefix)
    }

    /// The channel of other back ends with this key.
    pub(crate) fn of_others(&self, key: &str) -> Option<String> {
        self.others.as_ref().map(|others| format!("{others}{key}"))
    }

    /// The pattern of every channel of other back ends.
    pub(crate) fn pattern_of_others(&self) -> Option<String> {
        let others = self.others.as_ref()?;
        let mut pattern = String::with_capacity(others.len() + 1);
        for letter in others.chars() {
            if matches!(letter, '*' | '?' | '[' | ']' | '\\' | '^') {
                pattern.push('\\');
            }
            pattern.push(letter);
        }
        pattern.push('*');
        Some(pattern)
    }

    /// The key in the name of a channel of other back ends.
    pub(crate) fn key_of_others<'a>(&self, channel: &'a [u8]) -> Option<&'a [u8]> {
        channel.strip_prefix(self.others.as_ref()?.as_bytes())
    }
}
