//! What is removed because somebody asked for it: a session, a person.

use std::time::Duration;

use futures_util::future::{join_all, join4};
use model::{SessionSlug, Speaker, UserId};
use tokio_postgres::{Row, types::ToSql};

use crate::{Storage, StorageError, columns::unsigned, connection::Statement};

/// Longest time for one erasure: it looks through whole tables.
pub const ERASE_LIMIT: Duration = Duration::from_secs(100);

/// Whether it is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Erasing {
    /// It is removed.
    ForGood,
    /// It is only counted: all is done, and undone.
    OnTrial,
}

/// How much was removed, or lost its names, by what it is; nothing where there was none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Erased(Vec<(String, u64)>);

impl Erased {
    /// Each kind and how many of it, in a fixed order.
    pub fn counts(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(kind, count)| (kind.as_str(), *count))
    }

    /// How many of a kind.
    pub fn count(&self, kind: &str) -> u64 {
        self.counts().find(|(name, _)| *name == kind).map_or(0, |(_, count)| count)
    }

    /// Whether there was nothing.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|(_, count)| *count == 0)
    }

    /// A row of counts, under the names of its columns.
    fn of(row: &Row) -> Result<Self, StorageError> {
        let named = row.columns().iter().enumerate();
        let counts = named.map(|(index, column)| {
            Ok::<_, StorageError>((column.name().to_owned(), unsigned(row.try_get(index)?)))
        });
        Ok(Self(counts.collect::<Result<_, _>>()?))
    }
}

// Whoever stores a final holds its stream, and then needs the session: they are taken in that order here. Once both
// are held, nothing is stored that the deletion would not see.
const HOLD_SESSION: [&str; 2] = [
    "SELECT FROM streams WHERE session_id = (SELECT id FROM sessions WHERE slug = $1) ORDER BY id FOR UPDATE",
    "SELECT FROM sessions WHERE slug = $1 FOR UPDATE",
];

// The topic's row stays: sequences must not begin anew under an edge that has told earlier ones.
const DELETE_SESSION: Statement = Statement {
    name: "delete_session",
    sql: "WITH session AS (SELECT id FROM sessions WHERE slug = $1),
          segments_gone AS (
              DELETE FROM segments USING session WHERE segments.session_id = session.id RETURNING 1),
          streams_gone AS (
              DELETE FROM streams USING session WHERE streams.session_id = session.id RETURNING 1),
          participants_gone AS (
              DELETE FROM participants USING session WHERE participants.session_id = session.id RETURNING 1),
          turns_gone AS (
              DELETE FROM active_speakers USING session WHERE active_speakers.session_id = session.id RETURNING 1),
          keys_gone AS (
              DELETE FROM stream_keys USING session WHERE stream_keys.session_id = session.id RETURNING 1),
          reports_gone AS (
              DELETE FROM usage_reports USING session WHERE usage_reports.session_id = session.id RETURNING 1),
          announcements_gone AS (
              DELETE FROM outbox USING session WHERE outbox.topic = 'session:' || $1::text RETURNING 1),
          usage_kept AS (
              UPDATE usage SET session_id = NULL, identity = NULL, user_id = NULL FROM session
              WHERE usage.session_id = session.id RETURNING 1),
          gone AS (DELETE FROM sessions USING session WHERE sessions.id = session.id RETURNING 1)
          SELECT (SELECT count(*) FROM gone) AS sessions,
              (SELECT count(*) FROM segments_gone) AS segments,
              (SELECT count(*) FROM streams_gone) AS streams,
              (SELECT count(*) FROM participants_gone) AS participants,
              (SELECT count(*) FROM turns_gone) AS speaker_changes,
              (SELECT count(*) FROM keys_gone) AS stream_keys,
              (SELECT count(*) FROM reports_gone) AS usage_reports,
              (SELECT count(*) FROM announcements_gone) AS announcements,
              (SELECT count(*) FROM usage_kept) AS usage_without_names",
};

// Whoever writes to an inbox holds its topic first.
const HOLD_USER: [&str; 1] =
    ["SELECT FROM topics WHERE name IN ('user:' || $1::text, 'feed:' || $1::text) ORDER BY name FOR UPDATE"];

// `mine` is who the person was in which session, `said` every utterance that is or once was the person's. A stream in
// which others were heard as well stays, without the name; a turn becomes nobody's, so that it does not become that of
// whoever spoke before.
const ERASE_USER: Statement = Statement {
    name: "erase_user",
    sql: "WITH mine AS MATERIALIZED (
              SELECT session_id, identity FROM participants WHERE user_id = $1
              UNION SELECT session_id, speaker_identity FROM streams WHERE user_id = $1
              UNION SELECT session_id, identity FROM usage
                    WHERE user_id = $1 AND session_id IS NOT NULL AND identity IS NOT NULL),
          said AS MATERIALIZED (
              SELECT segments.session_id, segments.utterance_id FROM segments JOIN mine
              ON mine.session_id = segments.session_id AND mine.identity = segments.speaker_identity
              UNION SELECT session_id, utterance_id FROM segments
                    WHERE outside IS NOT NULL AND outside ->> 'user' = $1),
          heard AS MATERIALIZED (
              SELECT streams.id, EXISTS (
                  SELECT FROM segments WHERE segments.stream_id = streams.id
                    AND (segments.session_id, segments.utterance_id) NOT IN (SELECT session_id, utterance_id FROM said)
              ) AS others
              FROM streams
              WHERE streams.user_id = $1
                 OR (streams.session_id, streams.speaker_identity) IN (SELECT session_id, identity FROM mine)),
          segments_gone AS (
              DELETE FROM segments USING said
              WHERE segments.session_id = said.session_id AND segments.utterance_id = said.utterance_id RETURNING 1),
          streams_gone AS (
              DELETE FROM streams USING heard WHERE streams.id = heard.id AND NOT heard.others RETURNING 1),
          streams_kept AS (
              UPDATE streams SET user_id = NULL, speaker_identity = $2, speaker_name = NULL FROM heard
              WHERE streams.id = heard.id AND heard.others RETURNING 1),
          participants_gone AS (
              DELETE FROM participants USING mine
              WHERE participants.session_id = mine.session_id AND participants.identity = mine.identity RETURNING 1),
          turns_kept AS (
              UPDATE active_speakers SET identity = NULL, name = NULL FROM mine
              WHERE active_speakers.session_id = mine.session_id AND active_speakers.identity = mine.identity
              RETURNING 1),
          usage_kept AS (
              UPDATE usage SET identity = NULL, user_id = NULL
              WHERE user_id = $1 OR (session_id, identity) IN (SELECT session_id, identity FROM mine) RETURNING 1),
          reports_gone AS (
              DELETE FROM usage_reports
              WHERE user_id = $1 OR (session_id, identity) IN (SELECT session_id, identity FROM mine) RETURNING 1),
          deliveries_gone AS (
              DELETE FROM deliveries USING notifications
              WHERE notifications.id = deliveries.notification_id AND notifications.user_id = $1 RETURNING 1),
          notifications_gone AS (DELETE FROM notifications WHERE user_id = $1 RETURNING 1),
          scheduled_gone AS (DELETE FROM scheduled_notifications WHERE user_id = $1 RETURNING 1),
          inboxes_gone AS (DELETE FROM inboxes WHERE user_id = $1 RETURNING 1),
          push_gone AS (DELETE FROM push_subscriptions WHERE user_id = $1 RETURNING 1),
          messages_gone AS (DELETE FROM messages WHERE author = $1 RETURNING 1),
          events_gone AS (
              DELETE FROM topic_events WHERE topic IN ('user:' || $1::text, 'feed:' || $1::text) RETURNING 1),
          topics_gone AS (DELETE FROM topics WHERE name IN ('user:' || $1::text, 'feed:' || $1::text) RETURNING 1),
          announcements_gone AS (
              DELETE FROM outbox
              WHERE topic IN ('user:' || $1::text, 'feed:' || $1::text)
                 OR payload #>> '{message,author}' = $1
                 OR payload #>> '{outside,user}' = $1
                 OR payload ->> 'kind' = 'final' AND (payload ->> 'session', payload ->> 'utterance') IN (
                     SELECT sessions.slug, said.utterance_id
                     FROM said JOIN sessions ON sessions.id = said.session_id)
              RETURNING 1),
          answers_kept AS (
              UPDATE idempotency_keys SET answer = COALESCE(
                  (SELECT jsonb_agg(told) FROM jsonb_array_elements(answer) AS told WHERE told ->> 'user' <> $1), '[]')
              WHERE jsonb_typeof(answer) = 'array'
                AND answer @> jsonb_build_array(jsonb_build_object('user', $1::text)) RETURNING 1)
          SELECT (SELECT count(*) FROM segments_gone) AS segments,
              (SELECT count(*) FROM streams_gone) AS streams,
              (SELECT count(*) FROM streams_kept) AS streams_without_names,
              (SELECT count(*) FROM participants_gone) AS participants,
              (SELECT count(*) FROM turns_kept) AS speaker_changes_without_names,
              (SELECT count(*) FROM usage_kept) AS usage_without_names,
              (SELECT count(*) FROM reports_gone) AS usage_reports,
              (SELECT count(*) FROM notifications_gone) AS notifications,
              (SELECT count(*) FROM scheduled_gone) AS scheduled_notifications,
              (SELECT count(*) FROM deliveries_gone) AS deliveries,
              (SELECT count(*) FROM inboxes_gone) AS inboxes,
              (SELECT count(*) FROM push_gone) AS push_subscriptions,
              (SELECT count(*) FROM messages_gone) AS messages,
              (SELECT count(*) FROM events_gone) AS events,
              (SELECT count(*) FROM topics_gone) AS topics,
              (SELECT count(*) FROM announcements_gone) AS announcements,
              (SELECT count(*) FROM answers_kept) AS remembered_answers_without_names",
};

impl Storage {
    /// Removes a session and all that was kept of it: finals, streams, participants, who spoke, stream keys, reports
    /// of clients, announcements. What it used stays, without anybody's name, and so does the last sequence of its
    /// topic. `None` when there is no such session. A session that is still live comes into being again with the next
    /// use.
    ///
    /// # Errors
    /// As any operation here, within [`ERASE_LIMIT`]. Repeating it is safe.
    pub async fn delete_session(
        &self,
        session: &SessionSlug,
        erasing: Erasing,
    ) -> Result<Option<Erased>, StorageError> {
        let erased = self.erase(&DELETE_SESSION, &HOLD_SESSION, &[&session.as_str()], erasing).await?;
        Ok(Some(erased).filter(|erased| erased.count("sessions") > 0))
    }

    /// Removes what is kept of a person: what the participants that the user was said in their sessions, and what back
    /// ends said to be the user's; their streams; the inbox, what is scheduled and on its way, subscriptions; messages
    /// that the user wrote; the topics of the user. What was used stays without the name. All or nothing.
    ///
    /// # Errors
    /// As any operation here, within [`ERASE_LIMIT`]. Repeating it is safe.
    pub async fn erase_user(&self, user: &UserId, erasing: Erasing) -> Result<Erased, StorageError> {
        self.erase(&ERASE_USER, &HOLD_USER, &[&user.as_str(), &Speaker::ROOM], erasing).await
    }

    /// One transaction, all of it sent at once, so that it also ends when the caller does not wait for it. `holds` take
    /// the first of `parameters`.
    async fn erase(
        &self,
        statement: &Statement,
        holds: &[&str],
        parameters: &[&(dyn ToSql + Sync)],
        erasing: Erasing,
    ) -> Result<Erased, StorageError> {
        let begin = format!("BEGIN; SET LOCAL statement_timeout = {}", ERASE_LIMIT.as_millis());
        let end = match erasing {
            Erasing::ForGood => "COMMIT",
            Erasing::OnTrial => "ROLLBACK",
        };
        let held = parameters.get(..1).unwrap_or_default();
        let rows = self
            .connection()
            .await?
            .limited_to(ERASE_LIMIT, statement.name, async |object| {
                let mut prepared = Vec::with_capacity(holds.len());
                for hold in holds {
                    prepared.push(object.prepare_cached(hold).await?);
                }
                let main = object.prepare_cached(statement.sql).await?;
                let (begun, locked, rows, ended) = join4(
                    object.batch_execute(&begin),
                    join_all(prepared.iter().map(|hold| object.query(hold, held))),
                    object.query(&main, parameters),
                    object.batch_execute(end),
                )
                .await;
                begun?;
                for locked in locked {
                    locked?;
                }
                let rows = rows?;
                ended?;
                Ok(rows)
            })
            .await?;
        match rows.first() {
            Some(row) => Erased::of(row),
            None => Err(StorageError::Defect("an erasure returned no row".to_owned()).counted()),
        }
    }
}
