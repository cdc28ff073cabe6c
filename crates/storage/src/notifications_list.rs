//! What is in an inbox.

use model::{Notification, NotificationId, NotificationType, Sequence, Unread, UserId};
use tokio_postgres::types::ToSql;

use crate::{
    Storage, StorageError,
    columns::{signed, unsigned},
    connection::Statement,
    notifications::{kept, notification, notification_columns},
};

/// What of an inbox is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InboxFilter {
    /// Only what is unread.
    pub unread_only: bool,
    /// Only these types; all when empty.
    pub types: Vec<NotificationType>,
    /// What was archived, instead of what was not.
    pub archived: bool,
    /// Only what lies below this sequence.
    pub before: Option<Sequence>,
}

/// The page's columns before what [`notification`] reads: unread count and version. Without a row of the inbox there
/// is no row; without notifications there is one, with null for its id.
macro_rules! page {
    ($rows:expr) => {
        concat!(
            "SELECT ",
            notification_columns!(),
            ", inboxes.unread, topics.sequence
             FROM inboxes JOIN topics ON topics.name = 'user:' || inboxes.user_id
             LEFT JOIN LATERAL (",
            $rows,
            " ORDER BY sequence DESC LIMIT $3) AS notifications ON true
             WHERE inboxes.user_id = $1 ORDER BY notifications.sequence DESC"
        )
    };
}

/// Rows of one type at a time, so that each is read in order from its index and no further than the page.
macro_rules! by_type {
    ($rows:expr) => {
        concat!(
            "SELECT of_type.* FROM unnest($4::text[]) AS wanted (type) CROSS JOIN LATERAL (",
            $rows,
            " AND notifications.type = wanted.type ORDER BY sequence DESC LIMIT $3) AS of_type"
        )
    };
}

macro_rules! listed {
    () => {
        concat!(
            "SELECT notifications.* FROM notifications
             WHERE notifications.user_id = $1 AND notifications.sequence < $2 AND NOT notifications.archived AND ",
            kept!()
        )
    };
}

/// Above the watermark nothing but the row itself says whether it is read.
macro_rules! above {
    () => {
        "SELECT notifications.* FROM notifications
         WHERE notifications.user_id = $1 AND notifications.sequence < $2 AND NOT notifications.is_read
           AND notifications.sequence > inboxes.read_through"
    };
}

/// Below it only those are unread that were marked so after it.
macro_rules! reopened {
    () => {
        "SELECT notifications.* FROM notifications
         WHERE notifications.user_id = $1 AND notifications.sequence < $2 AND NOT notifications.is_read
           AND notifications.marked > notifications.sequence AND notifications.marked > inboxes.read_through
           AND notifications.sequence <= inboxes.read_through"
    };
}

pub(crate) const LISTED: Statement = Statement { name: "list_notifications", sql: page!(listed!()) };

pub(crate) const LISTED_BY_TYPE: Statement =
    Statement { name: "list_notifications_by_type", sql: page!(by_type!(listed!())) };

pub(crate) const UNREAD: Statement = Statement {
    name: "list_unread",
    sql: page!(concat!("(", above!(), " ORDER BY sequence DESC LIMIT $3) UNION ALL (", reopened!(), ")")),
};

pub(crate) const UNREAD_BY_TYPE: Statement = Statement {
    name: "list_unread_by_type",
    sql: page!(concat!(
        "(",
        by_type!(above!()),
        ") UNION ALL (",
        reopened!(),
        " AND notifications.type = ANY ($4::text[]))"
    )),
};

pub(crate) const ARCHIVED: Statement = Statement {
    name: "list_archived",
    sql: page!(
        "SELECT notifications.* FROM notifications
         WHERE notifications.user_id = $1 AND notifications.sequence < $2 AND notifications.archived
           AND (cardinality($4::text[]) = 0 OR notifications.type = ANY ($4::text[]))"
    ),
};

const ONE: Statement = Statement {
    name: "notification",
    sql: concat!(
        "SELECT ",
        notification_columns!(),
        " FROM notifications JOIN inboxes ON inboxes.user_id = notifications.user_id
          WHERE notifications.id = $1 AND notifications.user_id = $2 AND ",
        kept!()
    ),
};

pub(crate) const COUNT: Statement = Statement {
    name: "unread_count",
    sql: "SELECT inboxes.unread, topics.sequence
          FROM inboxes JOIN topics ON topics.name = 'user:' || inboxes.user_id WHERE inboxes.user_id = $1",
};

impl Storage {
    /// A page of an inbox, newest first, and what is unread in the same moment.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn notifications(
        &self,
        user: &UserId,
        filter: &InboxFilter,
        limit: u32,
    ) -> Result<(Vec<Notification>, Unread), StorageError> {
        let before = filter.before.map_or(i64::MAX, |before| signed(before.0));
        let limit = i64::from(limit);
        let types: Vec<&str> = filter.types.iter().map(NotificationType::as_str).collect();
        let page: [&(dyn ToSql + Sync); 4] = [&user.as_str(), &before, &limit, &types];
        let [user, before, limit, _] = page;
        let all = [user, before, limit];
        let rows = match (filter.archived, filter.unread_only, types.is_empty()) {
            // What is archived is read.
            (true, true, _) => self.query(&ARCHIVED, &[user, before, &0_i64, &types]).await?,
            (true, false, _) => self.query(&ARCHIVED, &page).await?,
            (false, true, true) => self.query(&UNREAD, &all).await?,
            (false, true, false) => self.query(&UNREAD_BY_TYPE, &page).await?,
            (false, false, true) => self.query(&LISTED, &all).await?,
            (false, false, false) => self.query(&LISTED_BY_TYPE, &page).await?,
        };
        let Some(first) = rows.first() else { return Ok((Vec::new(), Unread::default())) };
        let unread =
            Unread { count: unsigned(first.try_get(14)?), version: Sequence(unsigned(first.try_get(15)?)) };
        let mut notifications = Vec::with_capacity(rows.len());
        for row in &rows {
            if row.try_get::<_, Option<uuid::Uuid>>(0)?.is_some() {
                notifications.push(notification(row)?);
            }
        }
        Ok((notifications, unread))
    }

    /// One notification of the user, archived or not; `None` when the user has no such one.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn notification(
        &self,
        user: &UserId,
        id: NotificationId,
    ) -> Result<Option<Notification>, StorageError> {
        self.query_opt(&ONE, &[&id.0, &user.as_str()]).await?.as_ref().map(notification).transpose()
    }

    /// How many notifications of the user are unread.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn unread(&self, user: &UserId) -> Result<Unread, StorageError> {
        let Some(row) = self.query_opt(&COUNT, &[&user.as_str()]).await? else {
            return Ok(Unread::default());
        };
        Ok(Unread { count: unsigned(row.try_get(0)?), version: Sequence(unsigned(row.try_get(1)?)) })
    }
}
