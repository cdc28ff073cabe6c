//! Who has a connection open, somewhere. Each edge writes down its users with a time at which that ends, and again
//! well before then, so that the users of an edge that died are absent soon after. How many a PUBLISH reached would
//! be no answer: a listener may be no connection of the user's.

use std::time::Duration;

use model::{Timestamp, UserId};
use redis::Cmd;

use crate::{BusError, EventBus};

/// How long an edge's word counts.
pub const PRESENCE_LIFE: Duration = Duration::from_secs(45);

/// How often an edge should repeat it.
pub const PRESENCE_INTERVAL: Duration = Duration::from_secs(15);

impl EventBus {
    /// These users have connections here, now and for [`PRESENCE_LIFE`]. Repeat it every [`PRESENCE_INTERVAL`] while
    /// they do; at most a few thousand users in one call.
    ///
    /// # Errors
    /// [`BusError::Unavailable`].
    pub async fn mark_present(&self, users: &[UserId], now: Timestamp) -> Result<(), BusError> {
        let until = now.after(PRESENCE_LIFE);
        let commands = users.iter().flat_map(|user| {
            let key = self.channels.presence(user);
            let edge = self.publisher.origin().to_string();
            let life = i64::try_from(PRESENCE_LIFE.as_millis()).unwrap_or(i64::MAX);
            [Cmd::zadd(&key, edge, until.0), Cmd::pexpire(&key, life)]
        });
        self.publisher.send(commands.collect()).await.map(drop)
    }

    /// This user's last connection here is gone.
    ///
    /// # Errors
    /// [`BusError::Unavailable`]; the user then counts as present for up to [`PRESENCE_LIFE`].
    pub async fn mark_absent(&self, user: &UserId) -> Result<(), BusError> {
        let key = self.channels.presence(user);
        self.publisher.send(vec![Cmd::zrem(key, self.publisher.origin().to_string())]).await.map(drop)
    }

    /// Whether any edge says that the user has a connection.
    ///
    /// # Errors
    /// [`BusError::Unavailable`].
    pub async fn is_present(&self, user: &UserId, now: Timestamp) -> Result<bool, BusError> {
        let answers =
            self.publisher.send(vec![Cmd::zcount(self.channels.presence(user), now.0, "+inf")]).await?;
        Ok(matches!(answers.first(), Some(redis::Value::Int(edges)) if *edges > 0))
    }
}
