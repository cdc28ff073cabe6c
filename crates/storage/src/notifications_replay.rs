//! What happened in a topic after a sequence, for readers that missed a ring.

use futures_util::future::join3;
use model::{AppEvent, Notification, NotificationChange, Sequence, Topic, UserId};
use tokio_postgres::{
    Row,
    types::{Json, ToSql},
};

use crate::{
    Storage, StorageError,
    columns::{signed, unsigned},
    connection::Statement,
    notifications::{kept, notification, notification_columns},
    outbox_rows::{Announcement, Payload},
};

/// A piece of a topic's story.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Story<T> {
    /// What happened, in its order.
    pub events: Vec<T>,
    /// The reader now has everything up to here.
    pub through: Sequence,
    /// Whether there is more after it.
    pub more: bool,
    /// Whether something after the asked sequence is kept no longer, or the reader is ahead of the topic.
    pub incomplete: bool,
}

/// Something in the topic of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InboxEvent {
    /// A notification came; as it is now.
    Notification(Notification),
    /// The inbox changed.
    Change(NotificationChange),
}

impl InboxEvent {
    fn sequence(&self) -> Sequence {
        match self {
            Self::Notification(notification) => notification.sequence,
            Self::Change(change) => change.unread.version,
        }
    }
}

const BOUNDS: Statement =
    Statement { name: "topic_bounds", sql: "SELECT sequence, floor FROM topics WHERE name = $1" };

const NOTIFICATIONS: Statement = Statement {
    name: "notifications_since",
    sql: concat!(
        "SELECT ",
        notification_columns!(),
        " FROM notifications JOIN inboxes ON inboxes.user_id = notifications.user_id
          WHERE notifications.user_id = $1 AND notifications.sequence > $2 AND ",
        kept!(),
        " ORDER BY notifications.sequence LIMIT $3"
    ),
};

const EVENTS: Statement = Statement {
    name: "topic_events_since",
    sql: "SELECT sequence, payload FROM topic_events WHERE topic = $1 AND sequence > $2 ORDER BY sequence LIMIT $3",
};

impl Storage {
    /// What happened to a user's inbox after a sequence, at most `limit` of it.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn replay_user(
        &self,
        user: &UserId,
        since: Sequence,
        limit: u32,
    ) -> Result<Story<InboxEvent>, StorageError> {
        let topic = Topic::User(user.clone()).to_string();
        // The bounds first: what was committed before them is seen by the statements after them.
        let (bounds, notifications, events) =
            self.read_topic("replay_user", &topic, Some(user.as_str()), &NOTIFICATIONS, since, limit).await?;
        let mut story = Vec::with_capacity(notifications.len() + events.len());
        for row in &notifications {
            story.push(InboxEvent::Notification(notification(row)?));
        }
        for (sequence, payload) in recorded(&events)? {
            // Anything else is of a later release.
            if let Announcement::Change(change) = payload.announcement(sequence) {
                story.push(InboxEvent::Change(change));
            }
        }
        story.sort_by_key(InboxEvent::sequence);
        let read = [end_of_page(&notifications, 2, limit)?, end_of_page(&events, 0, limit)?];
        Ok(bounds.story(story, InboxEvent::sequence, since, limit, &read))
    }

    /// The events of applications in a topic after a sequence, at most `limit` of them.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn replay_events(
        &self,
        topic: &Topic,
        since: Sequence,
        limit: u32,
    ) -> Result<Story<AppEvent>, StorageError> {
        let (bounds, _, events) =
            self.read_topic("replay_events", &topic.to_string(), None, &EVENTS, since, limit).await?;
        let mut story = Vec::with_capacity(events.len());
        for (sequence, payload) in recorded(&events)? {
            if let Announcement::App(event) = payload.announcement(sequence) {
                story.push(event);
            }
        }
        let read = [end_of_page(&events, 0, limit)?];
        Ok(bounds.story(story, |event| event.sequence.unwrap_or_default(), since, limit, &read))
    }

    /// The bounds of a topic, the rows of `own` for `owner` when there is one, and the topic's events.
    pub(crate) async fn read_topic(
        &self,
        name: &'static str,
        topic: &str,
        owner: Option<&str>,
        own: &Statement,
        since: Sequence,
        limit: u32,
    ) -> Result<(Bounds, Vec<Row>, Vec<Row>), StorageError> {
        let (since, limit) = (signed(since.0), i64::from(limit));
        let mut connection = self.connection().await?;
        let (bounds, own, events) = connection
            .limited(name, async |object| {
                let bounds = object.prepare_cached(BOUNDS.sql).await?;
                let rows = object.prepare_cached(own.sql).await?;
                let events = object.prepare_cached(EVENTS.sql).await?;
                let named: [&(dyn ToSql + Sync); 1] = [&topic];
                let of_owner: [&(dyn ToSql + Sync); 3] = [&owner, &since, &limit];
                let of_topic: [&(dyn ToSql + Sync); 3] = [&topic, &since, &limit];
                let (bounds, rows, events) = join3(
                    object.query(&bounds, &named),
                    async {
                        match owner {
                            Some(_) => object.query(&rows, &of_owner).await,
                            None => Ok(Vec::new()),
                        }
                    },
                    object.query(&events, &of_topic),
                )
                .await;
                Ok((bounds?, rows?, events?))
            })
            .await?;
        let bounds = match bounds.first() {
            Some(row) => Bounds {
                last: Sequence(unsigned(row.try_get(0)?)),
                floor: Sequence(unsigned(row.try_get(1)?)),
            },
            None => Bounds::default(),
        };
        Ok((bounds, own, events))
    }
}

/// Where a topic ends and where what is kept of it begins.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Bounds {
    last: Sequence,
    floor: Sequence,
}

impl Bounds {
    /// The story as far as everything is known. `read` says where full pages ended: what lies behind the first of
    /// them may have holes, as may what was committed after the bounds were read.
    pub(crate) fn story<T>(
        self,
        mut events: Vec<T>,
        sequence: impl Fn(&T) -> Sequence,
        since: Sequence,
        limit: u32,
        read: &[Option<Sequence>],
    ) -> Story<T> {
        let mut through = read.iter().flatten().fold(self.last, |least, end| least.min(*end));
        events.retain(|event| sequence(event) <= through);
        if events.len() > limit as usize {
            events.truncate(limit as usize);
            through = events.last().map_or(through, sequence);
        }
        let incomplete = since < self.floor || since > self.last;
        Story { events, through, more: through < self.last, incomplete }
    }
}

/// The sequence, in that column, of the last row of a page that is full.
pub(crate) fn end_of_page(rows: &[Row], column: usize, limit: u32) -> Result<Option<Sequence>, StorageError> {
    match rows.last() {
        Some(last) if rows.len() >= limit as usize => {
            Ok(Some(Sequence(unsigned(last.try_get::<_, i64>(column)?))))
        }
        _ => Ok(None),
    }
}

fn recorded(rows: &[Row]) -> Result<Vec<(Sequence, Payload)>, StorageError> {
    let mut recorded = Vec::with_capacity(rows.len());
    for row in rows {
        let sequence = Sequence(unsigned(row.try_get(0)?));
        match row.try_get::<_, Json<Payload>>(1) {
            Ok(Json(payload)) => recorded.push((sequence, payload)),
            // Of a later release, or changed by hand; the rest is readable all the same.
            Err(error) => tracing::error!(%sequence, %error, "a recorded event cannot be read"),
        }
    }
    Ok(recorded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_story_ends_where_something_may_be_missing() {
        let bounds = Bounds { last: Sequence(9), floor: Sequence(2) };
        let story = |events: &[u64], since, limit, read: &[Option<u64>]| {
            let events = events.iter().copied().map(Sequence).collect();
            let read: Vec<_> = read.iter().map(|end| end.map(Sequence)).collect();
            let story = bounds.story(events, |sequence: &Sequence| *sequence, Sequence(since), limit, &read);
            let events: Vec<_> = story.events.iter().map(|sequence| sequence.0).collect();
            (events, story.through.0, story.more, story.incomplete)
        };
        // All of it, without what came after the bounds were read.
        assert_eq!(story(&[3, 5, 9, 11], 2, 5, &[None, None]), (vec![3, 5, 9], 9, false, false));
        // Two full pages: known as far as the shorter goes, and cut to one page.
        assert_eq!(story(&[3, 4, 5, 6, 7, 8], 2, 3, &[Some(5), Some(8)]), (vec![3, 4, 5], 5, true, false));
        assert_eq!(story(&[3, 4, 5, 6], 2, 2, &[Some(8), None]), (vec![3, 4], 4, true, false));
        // A full page of which nothing can be read is passed by all the same.
        assert_eq!(story(&[], 2, 3, &[Some(6)]), (vec![], 6, true, false));
        assert_eq!(story(&[], 1, 3, &[None]), (vec![], 9, false, true));
        assert_eq!(story(&[], 12, 3, &[None]), (vec![], 9, false, true));
    }
}
