//! What time does to notifications: those that are due, those whose time has passed, and their ways out of the house.

use std::{collections::BTreeMap, time::Duration};

use model::{NewNotification, Notification, NotificationId, Timestamp, UserId};
use tokio_postgres::{Row, types::Json};

use crate::{
    NewNotifications, Publication, Storage, StorageError,
    columns::{number, parsed, timestamp},
    connection::Statement,
    notifications::{kept, notification, notification_columns},
    notifications_change::Mark,
};

/// Rows that one call looks at, so that each of its transactions is short.
const BATCH: i64 = 200;

/// How long an attempt to deliver may take before somebody else may try.
const DELIVERY_LEASE: Duration = Duration::from_secs(60);

/// A way out of the house.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// Web push to the user's browsers.
    Push,
    /// The outgoing hook of notifications.
    Hook,
    /// The outgoing hook of sessions.
    Session,
}

impl Way {
    /// Its name in rows and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Hook => "hook",
            Self::Session => "session",
        }
    }
}

/// Ways that wait for one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// Of notifications: [`Way::Push`], [`Way::Hook`].
    Notifications,
    /// Of what happens in sessions: [`Way::Session`].
    Sessions,
}

/// Something on its way out of the house, lent to whoever claimed it for a minute.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Its row.
    pub id: i64,
    /// Which way.
    pub way: Way,
    /// How often it was tried, this time among them.
    pub attempts: u32,
    /// What is delivered; `None` when the user has it no more. What goes the way [`Way::Session`] is read by
    /// [`Storage::session_event`].
    pub notification: Option<Notification>,
}

const DUE: Statement = Statement {
    name: "due_notifications",
    sql: "SELECT id, user_id, content FROM scheduled_notifications WHERE deliver_at <= $1 ORDER BY deliver_at LIMIT $2",
};

const DROP_SCHEDULED: Statement =
    Statement { name: "drop_scheduled", sql: "DELETE FROM scheduled_notifications WHERE id = $1" };

pub(crate) const EXPIRED: Statement = Statement {
    name: "expired_notifications",
    sql: "SELECT user_id, id FROM notifications WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2",
};

const OLD: Statement = Statement {
    name: "old_notifications",
    sql: "SELECT user_id, id FROM notifications WHERE created_at < $1 ORDER BY created_at LIMIT $2",
};

pub(crate) const NEXT: Statement = Statement {
    name: "next_due",
    sql: "SELECT LEAST(
              (SELECT min(deliver_at) FROM scheduled_notifications),
              (SELECT min(expires_at) FROM notifications WHERE expires_at IS NOT NULL))",
};

/// Of the deliveries that this condition holds for, which is that of an index.
macro_rules! claim {
    ($condition:literal) => {
        concat!(
            "WITH claimed AS (
                 UPDATE deliveries SET attempts = attempts + 1, due_at = $2
                 WHERE id IN (SELECT id FROM deliveries WHERE due_at <= $1 AND ",
            $condition,
            "             ORDER BY due_at, id LIMIT $3 FOR UPDATE SKIP LOCKED)
                 RETURNING id, way, attempts, notification_id)
             SELECT ",
            notification_columns!(),
            ", claimed.id, claimed.way, claimed.attempts
             FROM claimed
             LEFT JOIN (notifications JOIN inboxes ON inboxes.user_id = notifications.user_id)
                 ON notifications.id = claimed.notification_id AND ",
            kept!(),
            " ORDER BY claimed.id"
        )
    };
}

const CLAIM: Statement = Statement { name: "claim_deliveries", sql: claim!("way <> 'session'") };

const CLAIM_OF_SESSIONS: Statement =
    Statement { name: "claim_session_deliveries", sql: claim!("way = 'session'") };

const NEXT_DELIVERY: Statement =
    Statement { name: "next_delivery", sql: "SELECT min(due_at) FROM deliveries WHERE way <> 'session'" };

const NEXT_OF_SESSIONS: Statement = Statement {
    name: "next_session_delivery",
    sql: "SELECT min(due_at) FROM deliveries WHERE way = 'session'",
};

const DELIVERED: Statement =
    Statement { name: "settle_delivery", sql: "DELETE FROM deliveries WHERE id = $1" };

const POSTPONE: Statement =
    Statement { name: "postpone_delivery", sql: "UPDATE deliveries SET due_at = $2 WHERE id = $1" };

const FORGET_KEYS: Statement = Statement {
    name: "forget_idempotency_keys",
    sql: "WITH old AS (SELECT key FROM idempotency_keys WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2)
          DELETE FROM idempotency_keys USING old WHERE idempotency_keys.key = old.key AND expires_at <= $1
          RETURNING 1",
};

// Here and for messages: readers below the floor are told that something is missing.
const FORGET_EVENTS: Statement = Statement {
    name: "forget_topic_events",
    sql: "WITH old AS (SELECT topic, sequence FROM topic_events WHERE created_at < $1 ORDER BY created_at LIMIT $2),
          locked AS (SELECT name FROM topics WHERE name IN (SELECT topic FROM old) ORDER BY name FOR UPDATE),
          raised AS (
              UPDATE topics SET floor = GREATEST(topics.floor, newest.sequence)
              FROM (SELECT topic, max(sequence) AS sequence FROM old GROUP BY topic) AS newest
              JOIN locked ON locked.name = newest.topic
              WHERE topics.name = newest.topic)
          DELETE FROM topic_events USING old
          WHERE topic_events.topic = old.topic AND topic_events.sequence = old.sequence RETURNING 1",
};

const FORGET_MESSAGES: Statement = Statement {
    name: "forget_messages",
    sql: "WITH old AS (
              SELECT id, 'room:' || room_id AS topic, position FROM messages
              WHERE created_at < $1 ORDER BY created_at LIMIT $2),
          locked AS (SELECT name FROM topics WHERE name IN (SELECT topic FROM old) ORDER BY name FOR UPDATE),
          raised AS (
              UPDATE topics SET floor = GREATEST(topics.floor, newest.position)
              FROM (SELECT topic, max(position) AS position FROM old GROUP BY topic) AS newest
              JOIN locked ON locked.name = newest.topic
              WHERE topics.name = newest.topic)
          DELETE FROM messages USING old WHERE messages.id = old.id RETURNING 1",
};

const FORGET_FINALS: Statement = Statement {
    name: "forget_finals",
    sql: "WITH old AS (SELECT session_id, sequence FROM segments WHERE stored_at < $1 ORDER BY stored_at LIMIT $2)
          DELETE FROM segments USING old
          WHERE segments.session_id = old.session_id AND segments.sequence = old.sequence RETURNING 1",
};

// A session that is still to be opened by a stream key, or billed, stays.
const FORGET_SESSIONS: Statement = Statement {
    name: "forget_sessions",
    sql: "DELETE FROM sessions WHERE id IN (
              SELECT old.id FROM sessions AS old
              WHERE old.status = 'ended' AND old.ended_at < $1 AND old.last_activity_at < $1
                AND NOT EXISTS (SELECT FROM segments WHERE segments.session_id = old.id)
                AND NOT EXISTS (SELECT FROM streams
                                WHERE streams.session_id = old.id AND streams.last_activity_at >= $1)
                AND NOT EXISTS (SELECT FROM usage WHERE usage.session_id = old.id)
                AND NOT EXISTS (SELECT FROM usage_reports WHERE usage_reports.session_id = old.id)
                AND NOT EXISTS (SELECT FROM rooms WHERE rooms.session_id = old.id)
                AND NOT EXISTS (SELECT FROM messages WHERE messages.room_id = 'session:' || old.slug)
                AND NOT EXISTS (SELECT FROM stream_keys
                                WHERE stream_keys.session_id = old.id AND stream_keys.revoked_at IS NULL)
              LIMIT $2 FOR UPDATE SKIP LOCKED)
          RETURNING 1",
};

const FORGET_OUTBOX: Statement = Statement {
    name: "forget_outbox",
    sql: "WITH old AS (SELECT id FROM outbox WHERE created_at < $1 ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED)
          DELETE FROM outbox USING old WHERE outbox.id = old.id RETURNING 1",
};

impl Storage {
    /// Brings what is due into the inboxes, up to some hundreds in one call; how many, and whether there may be more.
    /// Several processes may do it at once: each is stored once.
    ///
    /// # Errors
    /// As any operation here; what was stored stays so.
    pub async fn deliver_due(&self, now: Timestamp, hook: bool) -> Result<(u64, bool), StorageError> {
        let rows = self.query(&DUE, &[&now.to_jiff(), &BATCH]).await?;
        let mut delivered = 0;
        for row in &rows {
            let id = NotificationId(row.try_get(0)?);
            let user: UserId = parsed(row.try_get(1)?)?;
            let content: Result<Json<NewNotification>, _> = row.try_get(2);
            let expired = |new: &NewNotification| new.expires_at.is_some_and(|at| at <= now);
            match content {
                Ok(Json(notification)) if !expired(&notification) => {
                    let recipients = [(user, id)];
                    let new = NewNotifications {
                        recipients: &recipients,
                        notification: &notification,
                        hook,
                        at: now,
                    };
                    if let Publication::Done(stored) = self.store(new, true, None).await? {
                        delivered += stored.len() as u64;
                    }
                }
                // Too late, or of a release that wrote it otherwise: it would be due for ever.
                _ => {
                    self.query(&DROP_SCHEDULED, &[&id.0]).await?;
                }
            }
        }
        Ok((delivered, rows.len() as i64 == BATCH))
    }

    /// Takes notifications away whose time has passed, or that came before `cutoff`; up to some hundreds in one call.
    /// How many, and whether there may be more.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn expire_notifications(
        &self,
        now: Timestamp,
        cutoff: Option<Timestamp>,
    ) -> Result<(u64, bool), StorageError> {
        let rows = match cutoff {
            None => self.query(&EXPIRED, &[&now.to_jiff(), &BATCH]).await?,
            Some(cutoff) => self.query(&OLD, &[&cutoff.to_jiff(), &BATCH]).await?,
        };
        let mut users: BTreeMap<UserId, Vec<NotificationId>> = BTreeMap::new();
        for row in &rows {
            users.entry(parsed(row.try_get(0)?)?).or_default().push(NotificationId(row.try_get(1)?));
        }
        let mut expired = 0;
        for (user, ids) in users {
            expired += self.mark_notifications(&user, Mark::Expired, &ids, now).await?.changed;
        }
        // Rows that were cleared and wait to be purged are found and not changed.
        Ok((expired, rows.len() as i64 == BATCH && expired > 0))
    }

    /// When the next notification is due, or its time has passed; `None` when none ever is.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn next_due(&self) -> Result<Option<Timestamp>, StorageError> {
        moment(self.query_opt(&NEXT, &[]).await?)
    }

    /// Lends up to `limit` deliveries of a queue that are due, in the order in which they were written. Settle or
    /// postpone each: after a minute somebody else may try.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn claim_deliveries(
        &self,
        queue: Queue,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<Delivery>, StorageError> {
        let until = now.after(DELIVERY_LEASE).to_jiff();
        let claim = match queue {
            Queue::Notifications => &CLAIM,
            Queue::Sessions => &CLAIM_OF_SESSIONS,
        };
        let rows = self.query(claim, &[&now.to_jiff(), &until, &i64::from(limit)]).await?;
        rows.iter().map(delivery).collect()
    }

    /// When the next delivery of a queue is due; `None` when none waits.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn next_delivery(&self, queue: Queue) -> Result<Option<Timestamp>, StorageError> {
        let next = match queue {
            Queue::Notifications => &NEXT_DELIVERY,
            Queue::Sessions => &NEXT_OF_SESSIONS,
        };
        moment(self.query_opt(next, &[]).await?)
    }

    /// It has arrived, or never will.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn settle_delivery(&self, id: i64) -> Result<(), StorageError> {
        self.query(&DELIVERED, &[&id]).await.map(drop)
    }

    /// It is to be tried again then.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn postpone_delivery(&self, id: i64, until: Timestamp) -> Result<(), StorageError> {
        self.query(&POSTPONE, &[&id, &until.to_jiff()]).await.map(drop)
    }

    /// Forgets idempotency keys whose time has passed; whether there may be more.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn forget_idempotency_keys(&self, now: Timestamp) -> Result<bool, StorageError> {
        self.forget(&FORGET_KEYS, now).await
    }

    /// Forgets changes and events from before `cutoff`; whether there may be more. Readers that have not had them
    /// are told so by [`Storage::replay_user`] and [`Storage::replay_events`].
    ///
    /// # Errors
    /// As any operation here.
    pub async fn forget_topic_events(&self, cutoff: Timestamp) -> Result<bool, StorageError> {
        self.forget(&FORGET_EVENTS, cutoff).await
    }

    /// Forgets messages from before `cutoff`; whether there may be more. Readers that have not had them are told so by
    /// [`Storage::replay_room`].
    ///
    /// # Errors
    /// As any operation here.
    pub async fn forget_messages(&self, cutoff: Timestamp) -> Result<bool, StorageError> {
        self.forget(&FORGET_MESSAGES, cutoff).await
    }

    /// Forgets finals that were stored before `cutoff`; whether there may be more.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn forget_finals(&self, cutoff: Timestamp) -> Result<bool, StorageError> {
        self.forget(&FORGET_FINALS, cutoff).await
    }

    /// Forgets sessions that ended before `cutoff` and of which nothing is left: no final, no use, no message, no stream
    /// that was open since then, no good stream key; their participants with them. Whether there may be more.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn forget_sessions(&self, cutoff: Timestamp) -> Result<bool, StorageError> {
        self.forget(&FORGET_SESSIONS, cutoff).await
    }

    /// Forgets announcements from before `cutoff`, which nobody could publish; whether there may be more.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn forget_outbox(&self, cutoff: Timestamp) -> Result<bool, StorageError> {
        self.forget(&FORGET_OUTBOX, cutoff).await
    }

    async fn forget(&self, statement: &Statement, before: Timestamp) -> Result<bool, StorageError> {
        let rows = self.query(statement, &[&before.to_jiff(), &BATCH]).await?;
        Ok(rows.len() as i64 == BATCH)
    }
}

fn moment(row: Option<Row>) -> Result<Option<Timestamp>, StorageError> {
    match row {
        Some(row) => Ok(row.try_get::<_, Option<jiff::Timestamp>>(0)?.map(timestamp)),
        None => Ok(None),
    }
}

fn delivery(row: &Row) -> Result<Delivery, StorageError> {
    let there = row.try_get::<_, Option<uuid::Uuid>>(0)?.is_some();
    Ok(Delivery {
        id: row.try_get(14)?,
        way: match row.try_get(15)? {
            "push" => Way::Push,
            "hook" => Way::Hook,
            _ => Way::Session,
        },
        attempts: number(i64::from(row.try_get::<_, i32>(16)?)),
        notification: if there { Some(notification(row)?) } else { None },
    })
}
