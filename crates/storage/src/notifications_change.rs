//! What happens to notifications that are there: under the lock of their user's topic, with a sequence of their own
//! when anything is different afterwards, and announced in the same transaction.

use futures_util::future::join4;
use model::{NotificationId, Sequence, Timestamp, Unread, UserId};
use tokio_postgres::{Row, types::ToSql};
use uuid::Uuid;

use crate::{
    Storage, StorageError,
    columns::unsigned,
    connection::Statement,
    notifications::{LOCK_INBOXES, kept, unread},
    outbox_rows::traceparent,
};

/// What a change did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InboxChange {
    /// How many notifications are different now.
    pub changed: u64,
    /// How many of the ids the user has, or had.
    pub found: u64,
    /// What is unread now.
    pub unread: Unread,
}

/// What may happen to notifications by their ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// They are read.
    Read,
    /// They are unread. Archived ones stay read.
    Unread,
    /// They are put away, and read.
    Archived,
    /// They are gone, and so are those whose delivery lies ahead.
    Deleted,
    /// Their time has passed, and they are gone.
    Expired,
}

/// A change of those among `$2` that `$target` holds for. `last` is the topic's sequence before it.
macro_rules! change {
    ($change:literal, $target:expr, $action:expr, $unread:literal, $listed:literal) => {
        concat!(
            "WITH found AS (
                 SELECT notifications.id, notifications.archived, ",
            unread!(),
            " AS unread, ",
            $target,
            " AS target
                 FROM notifications JOIN inboxes ON inboxes.user_id = notifications.user_id
                 WHERE notifications.id = ANY ($2::uuid[]) AND notifications.user_id = $1 AND ",
            kept!(),
            "),
             delta AS (
                 SELECT count(*) AS changed, ",
            $unread,
            " AS unread, ",
            $listed,
            " AS listed, to_jsonb(array_agg(id)) AS ids FROM found WHERE target),
             counted AS (
                 UPDATE topics SET sequence = sequence + 1
                 WHERE name = 'user:' || $1::text AND EXISTS (SELECT FROM found WHERE target)
                 RETURNING sequence),
             acted AS (",
            $action,
            "),
             tallied AS (
                 UPDATE inboxes SET unread = inboxes.unread + delta.unread, listed = inboxes.listed + delta.listed
                 FROM delta, counted WHERE inboxes.user_id = $1
                 RETURNING inboxes.unread),
             told AS (
                 SELECT counted.sequence, jsonb_build_object(
                     'kind', 'change', 'user', $1::text, 'unread', tallied.unread, 'at', $4::bigint,
                     'change', jsonb_build_object('change', '",
            $change,
            "', 'ids', delta.ids)) AS payload
                 FROM delta, counted, tallied),
             ",
            announcement!("$5"),
            "
             SELECT (SELECT changed FROM delta), (SELECT count(*) FROM found),
                 COALESCE((SELECT unread FROM tallied), (SELECT unread FROM inboxes WHERE user_id = $1), 0),
                 COALESCE((SELECT sequence FROM counted),
                          (SELECT sequence FROM topics WHERE name = 'user:' || $1::text), 0)"
        )
    };
}

/// What is told, with the parameter that has its trace.
macro_rules! announcement {
    ($trace:literal) => {
        concat!(
            "recorded AS (
             INSERT INTO topic_events (topic, sequence, payload, created_at)
             SELECT 'user:' || $1::text, sequence, payload, $3::timestamptz FROM told),
         announced AS (
             INSERT INTO outbox (topic, sequence, payload, created_at, traceparent)
             SELECT 'user:' || $1::text, sequence, payload, $3::timestamptz, ",
            $trace,
            "::text FROM told)"
        )
    };
}

pub(crate) const READ: Statement = Statement {
    name: "mark_read",
    sql: change!(
        "read",
        unread!(),
        "UPDATE notifications SET is_read = true, marked = counted.sequence FROM counted
         WHERE id IN (SELECT id FROM found WHERE target)",
        "-count(*)",
        "0"
    ),
};

pub(crate) const UNREAD: Statement = Statement {
    name: "mark_unread",
    sql: change!(
        "unread",
        concat!("(NOT notifications.archived AND NOT ", unread!(), ")"),
        "UPDATE notifications SET is_read = false, marked = counted.sequence FROM counted
         WHERE id IN (SELECT id FROM found WHERE target)",
        "count(*)",
        "0"
    ),
};

pub(crate) const ARCHIVE: Statement = Statement {
    name: "archive",
    sql: change!(
        "archived",
        "NOT notifications.archived",
        "UPDATE notifications SET is_read = true, archived = true, marked = counted.sequence FROM counted
         WHERE id IN (SELECT id FROM found WHERE target)",
        "-count(*) FILTER (WHERE unread)",
        "-count(*)"
    ),
};

pub(crate) const DELETE: Statement = Statement {
    name: "delete_notifications",
    sql: change!(
        "deleted",
        "true",
        "DELETE FROM notifications WHERE id IN (SELECT id FROM found WHERE target)",
        "-count(*) FILTER (WHERE unread)",
        "-count(*) FILTER (WHERE NOT archived)"
    ),
};

const EXPIRE: Statement = Statement {
    name: "expire_notifications",
    sql: change!(
        "expired",
        "true",
        "DELETE FROM notifications WHERE id IN (SELECT id FROM found WHERE target)",
        "-count(*) FILTER (WHERE unread)",
        "-count(*) FILTER (WHERE NOT archived)"
    ),
};

const UNSCHEDULE: &str = "DELETE FROM scheduled_notifications WHERE user_id = $1 AND id = ANY ($2::uuid[])";

/// A change of the whole inbox: what it sets, and how many notifications are different by it.
macro_rules! sweep {
    ($changed:literal, $set:literal, $change:literal) => {
        concat!(
            "WITH before AS (SELECT *, ",
            $changed,
            " AS changed FROM inboxes WHERE user_id = $1),
             counted AS (
                 UPDATE topics SET sequence = topics.sequence + 1 FROM before
                 WHERE name = 'user:' || $1::text AND before.changed > 0
                 RETURNING sequence),
             tallied AS (
                 UPDATE inboxes SET ",
            $set,
            " FROM counted, before WHERE inboxes.user_id = $1
                 RETURNING inboxes.unread),
             told AS (
                 SELECT counted.sequence, jsonb_build_object(
                     'kind', 'change', 'user', $1::text, 'unread', tallied.unread, 'at', $2::bigint,
                     'change', ",
            $change,
            ") AS payload
                 FROM before, counted, tallied),
             ",
            announcement!("$4"),
            "
             SELECT COALESCE((SELECT changed FROM before), 0), 0::bigint,
                 COALESCE((SELECT unread FROM tallied), (SELECT unread FROM before), 0),
                 COALESCE((SELECT sequence FROM counted),
                          (SELECT sequence FROM topics WHERE name = 'user:' || $1::text), 0)"
        )
    };
}

pub(crate) const READ_ALL: Statement = Statement {
    name: "mark_all_read",
    sql: sweep!(
        "unread",
        "unread = 0, read_through = counted.sequence",
        "jsonb_build_object('change', 'all_read')"
    ),
};

pub(crate) const CLEAR: Statement = Statement {
    name: "clear_notifications",
    sql: sweep!(
        "listed - unread",
        "listed = inboxes.unread, cleared_at = counted.sequence, cleared_through = inboxes.read_through",
        "jsonb_build_object('change', 'cleared', 'ids', before.changed)"
    ),
};

// What is gone can only become less until it is cleared again, which moves cleared_at.
const PURGE: Statement = Statement {
    name: "purge_cleared",
    sql: concat!(
        "WITH inbox AS (SELECT user_id FROM inboxes WHERE cleared_at > 0 ORDER BY user_id LIMIT 1),
         seen AS (SELECT inboxes.* FROM inboxes JOIN inbox USING (user_id)),
         gone AS (
             SELECT notifications.id FROM notifications JOIN seen AS inboxes ON inboxes.user_id = notifications.user_id
             WHERE NOT ",
        kept!(),
        " LIMIT $1),
         deleted AS (DELETE FROM notifications WHERE id IN (SELECT id FROM gone) RETURNING id),
         finished AS (
             UPDATE inboxes SET cleared_at = 0, cleared_through = 0 FROM seen
             WHERE inboxes.user_id = seen.user_id AND inboxes.cleared_at = seen.cleared_at
               AND NOT EXISTS (SELECT FROM gone))
         SELECT (SELECT count(*) FROM deleted), EXISTS (SELECT FROM seen)"
    ),
};

impl Storage {
    /// Changes these notifications of the user; each id once. Ids that the user does not have are skipped, and what
    /// is so already stays so.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn mark_notifications(
        &self,
        user: &UserId,
        mark: Mark,
        ids: &[NotificationId],
        now: Timestamp,
    ) -> Result<InboxChange, StorageError> {
        let statement = match mark {
            Mark::Read => &READ,
            Mark::Unread => &UNREAD,
            Mark::Archived => &ARCHIVE,
            Mark::Deleted => &DELETE,
            Mark::Expired => &EXPIRE,
        };
        let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
        let mut unscheduled = 0;
        if mark == Mark::Deleted {
            let connection = &mut self.connection().await?;
            unscheduled = connection
                .limited("unschedule", async |object| {
                    let unschedule = object.prepare_cached(UNSCHEDULE).await?;
                    object.execute(&unschedule, &[&user.as_str(), &ids]).await
                })
                .await?;
        }
        let parameters: [&(dyn ToSql + Sync); 5] =
            [&user.as_str(), &ids, &now.to_jiff(), &now.0, &traceparent()];
        let change = self.change_inbox(user, statement, &parameters).await?;
        Ok(InboxChange { changed: change.changed + unscheduled, found: change.found + unscheduled, ..change })
    }

    /// Everything that the user has now is read. Takes the same time whatever there is.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn mark_all_read(&self, user: &UserId, now: Timestamp) -> Result<InboxChange, StorageError> {
        self.change_inbox(user, &READ_ALL, &[&user.as_str(), &now.0, &now.to_jiff(), &traceparent()]).await
    }

    /// What the user has read and not archived is gone. Takes the same time whatever there is; the rows are deleted
    /// by [`Storage::purge_cleared`].
    ///
    /// # Errors
    /// As any operation here.
    pub async fn clear_notifications(
        &self,
        user: &UserId,
        now: Timestamp,
    ) -> Result<InboxChange, StorageError> {
        self.change_inbox(user, &CLEAR, &[&user.as_str(), &now.0, &now.to_jiff(), &traceparent()]).await
    }

    /// Deletes up to `limit` rows that were cleared, of one user. Whether there may be more.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn purge_cleared(&self, limit: u32) -> Result<bool, StorageError> {
        let row = self.query_opt(&PURGE, &[&i64::from(limit)]).await?;
        Ok(row.map(|row| row.try_get(1)).transpose()?.unwrap_or(false))
    }

    /// Runs `statement` under the lock of the user's topic, in one round trip.
    async fn change_inbox(
        &self,
        user: &UserId,
        statement: &Statement,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<InboxChange, StorageError> {
        let mut connection = self.connection().await?;
        let users = vec![user.as_str()];
        let rows = connection
            .limited(statement.name, async |object| {
                let lock = object.prepare_cached(LOCK_INBOXES.sql).await?;
                let main = object.prepare_cached(statement.sql).await?;
                let lock_parameters: [&(dyn ToSql + Sync); 1] = [&users];
                // Sent at once. What follows a failure fails too, and COMMIT then rolls back.
                let (begun, locked, rows, committed) = join4(
                    object.batch_execute("BEGIN"),
                    object.query(&lock, &lock_parameters),
                    object.query(&main, parameters),
                    object.batch_execute("COMMIT"),
                )
                .await;
                begun?;
                locked?;
                let rows = rows?;
                committed?;
                Ok(rows)
            })
            .await?;
        match rows.first() {
            Some(row) => inbox_change(row),
            None => Err(StorageError::Defect("a change returned no row".to_owned()).counted()),
        }
    }
}

fn inbox_change(row: &Row) -> Result<InboxChange, StorageError> {
    Ok(InboxChange {
        changed: unsigned(row.try_get(0)?),
        found: unsigned(row.try_get(1)?),
        unread: Unread { count: unsigned(row.try_get(2)?), version: Sequence(unsigned(row.try_get(3)?)) },
    })
}
