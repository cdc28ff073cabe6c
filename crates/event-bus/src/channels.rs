//! Every channel name there is.

use std::sync::Arc;

use model::Topic;

/// Prefix of an installation that has Redis to itself.
pub const DEFAULT_PREFIX: &str = "parley";

#[derive(Clone)]
pub(crate) struct Channels(Arc<str>);

impl Channels {
    pub(crate) fn new(prefix: &str) -> Self {
        Self(prefix.into())
    }

    /// `PREFIX:topic:session:SLUG`.
    pub(crate) fn of(&self, topic: &Topic) -> String {
        format!("{}:topic:{topic}", self.0)
    }
}
