//! Notifications as they come: stored, counted and announced in one transaction.

use futures_util::future::{join, join4};
use model::{
    JsonObject, NewNotification, Notification, NotificationId, Priority, Sequence, Timestamp, Topic, UserId,
};
use serde::{Deserialize, Serialize};
use tokio_postgres::{
    Row,
    types::{Json, ToSql},
};
use uuid::Uuid;

use crate::{
    Storage, StorageError,
    columns::{parsed, text, timestamp, unsigned},
    connection::Statement,
    outbox_rows::{Payload, traceparent},
};

/// A request that carries a key, so that repeating it does nothing twice.
#[derive(Debug, Clone, Copy)]
pub struct Idempotency<'a> {
    /// The caller's key.
    pub key: &'a str,
    /// A digest of the request: the same key with another one is a conflict.
    pub request_hash: &'a [u8],
    /// Until when the key is remembered.
    pub until: Timestamp,
}

/// What came of a publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Publication<T> {
    /// It was done now.
    Done(T),
    /// It was done before, by a request with the same key and digest; this was its answer.
    Repeated(T),
    /// The key came with another request before.
    Conflict,
}

/// Notifications that are to be stored.
#[derive(Debug, Clone, Copy)]
pub struct NewNotifications<'a> {
    /// Recipients and the ids of their notifications; each user once.
    pub recipients: &'a [(UserId, NotificationId)],
    /// What they are told.
    pub notification: &'a NewNotification,
    /// Whether the hook is to hear of them.
    pub hook: bool,
    /// The present moment.
    pub at: Timestamp,
}

/// One answer, as it lies in `idempotency_keys.answer`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Stored {
    user: UserId,
    id: NotificationId,
    sequence: Sequence,
    replaces: Vec<NotificationId>,
    at: Timestamp,
}

/// The columns that [`notification`] reads, in its order; of a query over `notifications` and `inboxes`.
macro_rules! notification_columns {
    () => {
        "notifications.id, notifications.user_id, notifications.sequence, notifications.type, notifications.title,
         notifications.message, notifications.metadata, notifications.priority,
         notifications.is_read OR notifications.marked <= inboxes.read_through, notifications.archived,
         notifications.created_at, notifications.expires_at, notifications.collapse_key, notifications.replaces"
    };
}
pub(crate) use notification_columns;

/// Whether the user still has it: what was cleared is deleted only later.
macro_rules! kept {
    () => {
        "(notifications.archived OR notifications.marked > inboxes.cleared_through
          AND NOT (notifications.is_read AND notifications.marked <= inboxes.cleared_at))"
    };
}
pub(crate) use kept;

/// Whether it is unread; implies [`kept`].
macro_rules! unread {
    () => {
        "(NOT notifications.is_read AND notifications.marked > inboxes.read_through)"
    };
}
pub(crate) use unread;

pub(crate) fn notification(row: &Row) -> Result<Notification, StorageError> {
    let metadata: Option<Json<JsonObject>> = row.try_get(6)?;
    let expires_at: Option<jiff::Timestamp> = row.try_get(11)?;
    Ok(Notification {
        id: NotificationId(row.try_get(0)?),
        user: parsed(row.try_get(1)?)?,
        sequence: Sequence(unsigned(row.try_get(2)?)),
        kind: parsed(row.try_get(3)?)?,
        title: row.try_get(4)?,
        message: row.try_get(5)?,
        metadata: metadata.map(|Json(metadata)| metadata),
        priority: priority(row.try_get(7)?),
        is_read: row.try_get(8)?,
        is_archived: row.try_get(9)?,
        created_at: timestamp(row.try_get(10)?),
        expires_at: expires_at.map(timestamp),
        collapse_key: row.try_get(12)?,
        replaces: ids(row.try_get(13)?),
    })
}

pub(crate) fn ids(ids: Vec<Uuid>) -> Vec<NotificationId> {
    ids.into_iter().map(NotificationId).collect()
}

fn priority(number: i16) -> Priority {
    let index = usize::try_from(number).unwrap_or(0);
    Priority::ALL.get(index).copied().unwrap_or_default()
}

fn priority_column(priority: Priority) -> i16 {
    match priority {
        Priority::Low => 0,
        Priority::Normal => 1,
        Priority::High => 2,
        Priority::Urgent => 3,
    }
}

// Whoever repeats a request while the first is on its way waits here for its end. An `answer` is null only while the
// transaction that took the key goes on.
const TAKE_KEY: Statement = Statement {
    name: "take_idempotency_key",
    sql: "INSERT INTO idempotency_keys AS known (key, request_hash, expires_at) VALUES ($1, $2, $3)
          ON CONFLICT (key) DO UPDATE SET
              request_hash = CASE WHEN known.expires_at <= $4 THEN excluded.request_hash ELSE known.request_hash END,
              answer = CASE WHEN known.expires_at <= $4 THEN NULL ELSE known.answer END,
              expires_at = CASE WHEN known.expires_at <= $4 THEN excluded.expires_at ELSE known.expires_at END
          RETURNING request_hash, answer",
};

const KNOWN_KEY: Statement = Statement {
    name: "known_idempotency_key",
    sql: "SELECT request_hash, answer FROM idempotency_keys WHERE key = $1 AND expires_at > $2",
};

const NO_KEY: Statement = Statement { name: "no_idempotency_key", sql: "SELECT WHERE false" };

// In the order of their names, as everybody locks them.
const PREPARE_INBOXES: Statement = Statement {
    name: "prepare_inboxes",
    sql: "WITH named AS (
              INSERT INTO topics (name, sequence)
              SELECT 'user:' || user_id, 0 FROM unnest($1::text[]) AS user_id ORDER BY 1
              ON CONFLICT (name) DO NOTHING)
          INSERT INTO inboxes (user_id) SELECT user_id FROM unnest($1::text[]) AS user_id ORDER BY 1
          ON CONFLICT (user_id) DO NOTHING",
};

/// Holds the topics of these users until the transaction ends. A statement after it sees all that was committed
/// under the lock before.
pub(crate) const LOCK_INBOXES: Statement = Statement {
    name: "lock_inboxes",
    sql: "SELECT FROM topics
          WHERE name IN (SELECT 'user:' || user_id FROM unnest($1::text[]) AS user_id) ORDER BY name FOR UPDATE",
};

// One of the scheduled ones is stored only if it is still there, and goes with that.
pub(crate) const STORE: Statement = Statement {
    name: "store_notifications",
    sql: "WITH taken AS (
              DELETE FROM scheduled_notifications WHERE $13::boolean AND id = ANY($2::uuid[]) RETURNING id),
          wanted AS (
              SELECT recipient.user_id, recipient.id, inboxes.read_through
              FROM unnest($1::text[], $2::uuid[]) AS recipient (user_id, id)
              JOIN inboxes ON inboxes.user_id = recipient.user_id
              WHERE NOT $3::text = ANY (inboxes.muted_types)
                AND (NOT $13::boolean OR recipient.id IN (SELECT id FROM taken))
                AND ($14::text IS NULL
                     OR EXISTS (SELECT FROM idempotency_keys WHERE key = $14 AND answer IS NULL))),
          counted AS (
              UPDATE topics SET sequence = topics.sequence + 1 FROM wanted
              WHERE topics.name = 'user:' || wanted.user_id
              RETURNING wanted.user_id, wanted.id, topics.sequence),
          replaced AS (
              DELETE FROM notifications USING wanted
              WHERE $9::text IS NOT NULL AND notifications.user_id = wanted.user_id
                AND notifications.collapse_key = $9 AND NOT notifications.is_read
                AND notifications.marked > wanted.read_through
              RETURNING notifications.user_id, notifications.id),
          stored AS (
              INSERT INTO notifications (
                  id, user_id, sequence, type, title, message, metadata, priority, marked, collapse_key, replaces,
                  created_at, expires_at)
              SELECT id, user_id, sequence, $3::text, $4::text, $5::text, $6::json, $7::smallint, sequence, $9::text,
                  ARRAY(SELECT replaced.id FROM replaced WHERE replaced.user_id = counted.user_id),
                  $10::timestamptz, $8::timestamptz
              FROM counted
              RETURNING user_id, id, sequence, replaces),
          tallied AS (
              UPDATE inboxes SET
                  unread = inboxes.unread + 1 - cardinality(stored.replaces),
                  listed = inboxes.listed + 1 - cardinality(stored.replaces)
              FROM stored WHERE inboxes.user_id = stored.user_id
              RETURNING inboxes.user_id, inboxes.unread),
          announced AS (
              INSERT INTO outbox (topic, sequence, payload, created_at, traceparent)
              SELECT 'user:' || user_id, sequence,
                  jsonb_build_object('kind', 'notification', 'unread', unread, 'notification', $11::jsonb
                      || jsonb_build_object('id', id, 'user', user_id, 'sequence', sequence,
                                            'replaces', to_jsonb(replaces))),
                  $10::timestamptz, $16::text
              FROM stored JOIN tallied USING (user_id)),
          delivered AS (
              INSERT INTO deliveries (way, notification_id, due_at)
              SELECT 'push', id, $10::timestamptz FROM stored
              WHERE EXISTS (SELECT FROM push_subscriptions WHERE push_subscriptions.user_id = stored.user_id)
              UNION ALL
              SELECT 'hook', id, $10::timestamptz FROM stored WHERE $12::boolean),
          answered AS (
              UPDATE idempotency_keys SET answer = COALESCE(
                  (SELECT jsonb_agg(jsonb_build_object(
                       'user', user_id, 'id', id, 'sequence', sequence, 'replaces', to_jsonb(replaces), 'at', $15::bigint))
                   FROM stored), '[]'::jsonb)
              WHERE key = $14 AND answer IS NULL)
          SELECT user_id, id, sequence, replaces FROM stored",
};

const SCHEDULE: Statement = Statement {
    name: "schedule_notifications",
    sql: "WITH stored AS (
              INSERT INTO scheduled_notifications (id, user_id, deliver_at, content)
              SELECT recipient.id, recipient.user_id, $3::timestamptz, $4::jsonb
              FROM unnest($1::text[], $2::uuid[]) AS recipient (user_id, id)
              WHERE $5::text IS NULL
                 OR EXISTS (SELECT FROM idempotency_keys WHERE key = $5 AND answer IS NULL)
              RETURNING user_id, id),
          answered AS (
              UPDATE idempotency_keys SET answer = COALESCE(
                  (SELECT jsonb_agg(jsonb_build_object(
                       'user', user_id, 'id', id, 'sequence', 0, 'replaces', '[]'::jsonb, 'at', $6::bigint))
                   FROM stored), '[]'::jsonb)
              WHERE key = $5 AND answer IS NULL)
          SELECT user_id, id, 0::bigint, '{}'::uuid[] FROM stored",
};

const RECORD_EVENT: Statement = Statement {
    name: "record_topic_event",
    sql: "WITH counted AS (
              INSERT INTO topics (name, sequence)
              SELECT $1::text, 1
              WHERE $4::text IS NULL
                 OR EXISTS (SELECT FROM idempotency_keys WHERE key = $4 AND answer IS NULL)
              ON CONFLICT (name) DO UPDATE SET sequence = topics.sequence + 1
              RETURNING sequence),
          recorded AS (
              INSERT INTO topic_events (topic, sequence, payload, created_at)
              SELECT $1::text, sequence, $2::jsonb, $3::timestamptz FROM counted),
          announced AS (
              INSERT INTO outbox (topic, sequence, payload, created_at, traceparent)
              SELECT $1::text, sequence, $2::jsonb, $3::timestamptz, $5::text FROM counted),
          answered AS (
              UPDATE idempotency_keys SET answer = to_jsonb(counted.sequence) FROM counted
              WHERE key = $4 AND answer IS NULL)
          SELECT sequence FROM counted",
};

impl Storage {
    /// Stores one notification for each recipient who has not muted its type, gives it the next sequence of its
    /// user's topic, replaces unread ones with the same collapse key, and queues its announcement and its ways out
    /// of the house: all or nothing. With `deliver_at` ahead it only lays them by. The answer has the notifications
    /// of those who get one, in the order of the recipients.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn publish_notifications(
        &self,
        new: NewNotifications<'_>,
        idempotency: Option<Idempotency<'_>>,
    ) -> Result<Publication<Vec<Notification>>, StorageError> {
        let later = new.notification.deliver_at.filter(|at| *at > new.at);
        match later {
            Some(deliver_at) => self.schedule(new, deliver_at, idempotency).await,
            None => self.store(new, false, idempotency).await,
        }
    }

    /// What came of a publication under this key before; `None` when the key is not known. Stores nothing.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn repeated_publication(
        &self,
        new: NewNotifications<'_>,
        idempotency: Idempotency<'_>,
    ) -> Result<Option<Publication<Vec<Notification>>>, StorageError> {
        let known = self.query_opt(&KNOWN_KEY, &[&idempotency.key, &new.at.to_jiff()]).await?;
        let Some(known) = known else { return Ok(None) };
        match before(&known, idempotency)? {
            Some(keyed) => answer(new, keyed).map(Some),
            None => Ok(None),
        }
    }

    /// Stores notifications now. With `scheduled` only those that still lie by, which then do so no more.
    pub(crate) async fn store(
        &self,
        new: NewNotifications<'_>,
        scheduled: bool,
        idempotency: Option<Idempotency<'_>>,
    ) -> Result<Publication<Vec<Notification>>, StorageError> {
        let Some(first) = new.recipients.first() else { return Ok(Publication::Done(Vec::new())) };
        let template = template(new.notification, first, new.at);
        let (users, ids) = recipients(new.recipients);
        let key = idempotency.map(|idempotency| idempotency.key);
        let store: [&(dyn ToSql + Sync); 16] = [
            &users,
            &ids,
            &template.kind.as_str(),
            &template.title,
            &template.message,
            &template.metadata.as_ref().map(Json),
            &priority_column(template.priority),
            &template.expires_at.map(Timestamp::to_jiff),
            &template.collapse_key,
            &new.at.to_jiff(),
            &Json(&template),
            &new.hook,
            &scheduled,
            &key,
            &new.at.0,
            &traceparent(),
        ];
        let rows = self.keyed(idempotency, new.at, Some(&users), &STORE, &store).await?;
        answer(new, rows)
    }

    async fn schedule(
        &self,
        new: NewNotifications<'_>,
        deliver_at: Timestamp,
        idempotency: Option<Idempotency<'_>>,
    ) -> Result<Publication<Vec<Notification>>, StorageError> {
        let (users, ids) = recipients(new.recipients);
        let content = NewNotification { deliver_at: None, ..clean(new.notification) };
        let key = idempotency.map(|idempotency| idempotency.key);
        let schedule: [&(dyn ToSql + Sync); 6] =
            [&users, &ids, &deliver_at.to_jiff(), &Json(content), &key, &deliver_at.0];
        let rows = self.keyed(idempotency, new.at, None, &SCHEDULE, &schedule).await?;
        answer(NewNotifications { at: deliver_at, ..new }, rows)
    }

    /// Records an event of an application in a topic, with the topic's next sequence, and queues its announcement.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn publish_event(
        &self,
        topic: &Topic,
        payload: &JsonObject,
        at: Timestamp,
        idempotency: Option<Idempotency<'_>>,
    ) -> Result<Publication<Sequence>, StorageError> {
        let event = Payload::App { event: payload.clone() };
        let key = idempotency.map(|idempotency| idempotency.key);
        let record: [&(dyn ToSql + Sync); 5] =
            [&topic.to_string(), &Json(event), &at.to_jiff(), &key, &traceparent()];
        match self.keyed(idempotency, at, None, &RECORD_EVENT, &record).await? {
            Keyed::Now(rows) => match rows.first() {
                Some(row) => Ok(Publication::Done(Sequence(unsigned(row.try_get(0)?)))),
                None => Err(StorageError::Defect("an event got no sequence".to_owned()).counted()),
            },
            Keyed::Before(answer) => Ok(Publication::Repeated(Sequence(answer.as_u64().unwrap_or_default()))),
            Keyed::Other => Ok(Publication::Conflict),
        }
    }

    /// Runs `statement` in a transaction, after taking the key and the locks of the inboxes it needs, in one round
    /// trip. The statement itself does nothing when the key was taken before.
    async fn keyed(
        &self,
        idempotency: Option<Idempotency<'_>>,
        now: Timestamp,
        users: Option<&Vec<&str>>,
        statement: &Statement,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Keyed, StorageError> {
        let mut connection = self.connection().await?;
        let none: Vec<&str> = Vec::new();
        let users = users.unwrap_or(&none);
        let (known, rows) = connection
            .limited(statement.name, async |object| {
                let take =
                    object.prepare_cached(if idempotency.is_some() { TAKE_KEY.sql } else { NO_KEY.sql });
                let take = take.await?;
                let prepare = object.prepare_cached(PREPARE_INBOXES.sql).await?;
                let lock = object.prepare_cached(LOCK_INBOXES.sql).await?;
                let main = object.prepare_cached(statement.sql).await?;
                let (until, now) =
                    (idempotency.map(|idempotency| idempotency.until.to_jiff()), now.to_jiff());
                let key: Vec<&(dyn ToSql + Sync)> = match &idempotency {
                    Some(idempotency) => vec![&idempotency.key, &idempotency.request_hash, &until, &now],
                    None => Vec::new(),
                };
                let inboxes: [&(dyn ToSql + Sync); 1] = [users];
                // Sent at once. What follows a failure fails too, and COMMIT then rolls back.
                let ((begun, taken), (prepared, locked, done, committed)) = join(
                    join(object.batch_execute("BEGIN"), object.query(&take, &key)),
                    join4(
                        object.execute(&prepare, &inboxes),
                        object.query(&lock, &inboxes),
                        object.query(&main, parameters),
                        object.batch_execute("COMMIT"),
                    ),
                )
                .await;
                begun?;
                let taken = taken?;
                prepared?;
                locked?;
                let done = done?;
                committed?;
                Ok((taken, done))
            })
            .await?;
        let (Some(row), Some(idempotency)) = (known.first(), idempotency) else {
            return Ok(Keyed::Now(rows));
        };
        Ok(before(row, idempotency)?.unwrap_or(Keyed::Now(rows)))
    }
}

/// What came under a key before, from its row; `None` when that is not over.
fn before(row: &Row, idempotency: Idempotency<'_>) -> Result<Option<Keyed>, StorageError> {
    let answer: Option<Json<serde_json::Value>> = row.try_get(1)?;
    Ok(match answer {
        None => None,
        Some(_) if row.try_get::<_, &[u8]>(0)? != idempotency.request_hash => Some(Keyed::Other),
        Some(Json(answer)) => Some(Keyed::Before(answer)),
    })
}

/// What came of a statement under an idempotency key.
enum Keyed {
    /// It ran.
    Now(Vec<Row>),
    /// It ran before, and this was its answer.
    Before(serde_json::Value),
    /// The key is another request's.
    Other,
}

fn recipients(recipients: &[(UserId, NotificationId)]) -> (Vec<&str>, Vec<Uuid>) {
    recipients.iter().map(|(user, id)| (user.as_str(), id.0)).unzip()
}

/// Without what Postgres does not take.
fn clean(new: &NewNotification) -> NewNotification {
    let mut new = new.clone();
    new.title = text(&new.title).into_owned();
    new.message = text(&new.message).into_owned();
    new
}

/// What all recipients have in common. Each gets its own user, id, sequence and `replaces`.
fn template(new: &NewNotification, (user, id): &(UserId, NotificationId), at: Timestamp) -> Notification {
    let new = clean(new);
    Notification {
        id: *id,
        user: user.clone(),
        sequence: Sequence::default(),
        kind: new.kind,
        title: new.title,
        message: new.message,
        metadata: new.metadata,
        priority: new.priority,
        is_read: false,
        is_archived: false,
        created_at: at,
        expires_at: new.expires_at,
        collapse_key: new.collapse_key,
        replaces: Vec::new(),
    }
}

fn answer(new: NewNotifications<'_>, keyed: Keyed) -> Result<Publication<Vec<Notification>>, StorageError> {
    let (stored, repeated) = match keyed {
        Keyed::Now(rows) => {
            (rows.iter().map(|row| stored(row, new.at)).collect::<Result<Vec<_>, _>>()?, false)
        }
        Keyed::Before(answer) => {
            let stored = serde_json::from_value(answer)
                .map_err(|_| StorageError::Defect("a stored answer cannot be read".to_owned()).counted())?;
            (stored, true)
        }
        Keyed::Other => return Ok(Publication::Conflict),
    };
    let Some(first) = new.recipients.first() else { return Ok(Publication::Done(Vec::new())) };
    let template = template(new.notification, first, new.at);
    let place = |user: &UserId| new.recipients.iter().position(|(recipient, _)| recipient == user);
    let mut stored: Vec<Stored> = stored;
    stored.sort_by_cached_key(|one| place(&one.user));
    let notifications = stored
        .into_iter()
        .map(|one| Notification {
            id: one.id,
            user: one.user,
            sequence: one.sequence,
            replaces: one.replaces,
            created_at: one.at,
            ..template.clone()
        })
        .collect();
    Ok(if repeated { Publication::Repeated(notifications) } else { Publication::Done(notifications) })
}

fn stored(row: &Row, at: Timestamp) -> Result<Stored, StorageError> {
    Ok(Stored {
        user: parsed(row.try_get(0)?)?,
        id: NotificationId(row.try_get(1)?),
        sequence: Sequence(unsigned(row.try_get(2)?)),
        replaces: ids(row.try_get(3)?),
        at,
    })
}
