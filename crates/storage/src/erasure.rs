//! What is removed because somebody asked for it: a session, a person.

use std::time::Duration;

use futures_util::future::{join_all, join5};
use model::{SessionSlug, UserId};
use tokio_postgres::{Row, types::ToSql};

use crate::{Storage, StorageError, columns::unsigned};

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

/// How something is erased, in one transaction. `$1` is its name.
struct Erasure {
    name: &'static str,
    /// Keep others from adding to it.
    holds: &'static [&'static str],
    /// Removes, and answers one row of counts.
    remove: &'static str,
    /// Remove what the rest hung on, and what was added to it meanwhile.
    last: &'static [&'static str],
}

/// How often an erasure is tried that others stand in the way of.
const ATTEMPTS_MAX: usize = 5;

// The topic's row stays: sequences must not begin anew under an edge that has told earlier ones.
//
// Whoever opens a stream holds the session and then the stream, and so does this. Whoever stores a final holds the
// stream and then shares the key of the session, which this leaves to be shared until no stream is anybody's. From then
// on nothing is stored that the deletion would not see.
const DELETE_SESSION: Erasure = Erasure {
    name: "delete_session",
    holds: &[
        "SELECT FROM sessions WHERE slug = $1 FOR NO KEY UPDATE",
        "SELECT FROM streams WHERE session_id = (SELECT id FROM sessions WHERE slug = $1) ORDER BY id FOR UPDATE",
        // Whoever says something in the session's room holds its topic.
        "SELECT FROM topics WHERE name = 'room:session:' || $1::text FOR UPDATE",
    ],
    remove: "WITH session AS (SELECT id FROM sessions WHERE slug = $1),
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
          messages_gone AS (
              DELETE FROM messages USING session WHERE messages.room_id = 'session:' || $1::text RETURNING 1),
          announcements_gone AS (
              DELETE FROM outbox USING session
              WHERE outbox.topic IN ('session:' || $1::text, 'room:session:' || $1::text) RETURNING 1),
          deliveries_gone AS (
              DELETE FROM deliveries USING session
              WHERE deliveries.way = 'session' AND deliveries.content ->> 'session' = session.id::text RETURNING 1),
          usage_kept AS (
              UPDATE usage SET session_id = NULL, identity = NULL, user_id = NULL FROM session
              WHERE usage.session_id = session.id RETURNING 1)
          SELECT (SELECT count(*) FROM session) AS sessions,
              (SELECT count(*) FROM segments_gone) AS segments,
              -- They go with their finals.
              (SELECT count(*) FROM translations JOIN session ON session.id = translations.session_id)
                  AS translations,
              (SELECT count(*) FROM streams_gone) AS streams,
              (SELECT count(*) FROM participants_gone) AS participants,
              (SELECT count(*) FROM turns_gone) AS speaker_changes,
              (SELECT count(*) FROM keys_gone) AS stream_keys,
              (SELECT count(*) FROM reports_gone) AS usage_reports,
              (SELECT count(*) FROM messages_gone) AS messages,
              (SELECT count(*) FROM announcements_gone) AS announcements,
              (SELECT count(*) FROM deliveries_gone) AS deliveries,
              (SELECT count(*) FROM usage_kept) AS usage_without_names",
    last: &[
        // Takes with it what was stored since the rows above were chosen, and lets nothing more be stored.
        "DELETE FROM sessions WHERE slug = $1",
        // So this is the last of what was announced of it.
        "DELETE FROM outbox WHERE topic = 'session:' || $1::text",
    ],
};

// `mine` is who the person was in which session, `said` every utterance that is or once was the person's. A stream in
// which others were heard as well stays, without the name; a turn becomes nobody's, so that it does not become that of
// whoever spoke before. In the room of a session the author of a message is the user, or the participant that the user
// was there. Whoever writes to an inbox holds its topic first; whoever edits a message holds that, and announces it.
const ERASE_USER: Erasure = Erasure {
    name: "erase_user",
    holds: &[
        "SELECT FROM topics WHERE name IN ('user:' || $1::text, 'feed:' || $1::text) ORDER BY name FOR UPDATE",
        "SELECT FROM messages WHERE author = $1 ORDER BY created_at, id FOR UPDATE",
    ],
    remove: "WITH mine AS MATERIALIZED (
              SELECT session_id, identity FROM participants WHERE user_id = $1
              UNION SELECT session_id, speaker_identity FROM streams WHERE user_id = $1
              UNION SELECT session_id, identity FROM usage
                    WHERE user_id = $1 AND session_id IS NOT NULL AND identity IS NOT NULL),
          said AS MATERIALIZED (
              SELECT segments.session_id, segments.utterance_id FROM segments JOIN mine
              ON mine.session_id = segments.session_id AND mine.identity = segments.speaker_identity
              UNION SELECT session_id, utterance_id FROM segments
                    WHERE outside IS NOT NULL AND outside ->> 'user' = $1),
          there AS MATERIALIZED (
              SELECT 'session:' || sessions.slug AS room, mine.identity
              FROM mine JOIN sessions ON sessions.id = mine.session_id),
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
              UPDATE streams SET user_id = NULL, speaker_identity = 'room', speaker_name = NULL FROM heard
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
          messages_gone AS (
              DELETE FROM messages
              WHERE author = $1 OR (room_id, author) IN (SELECT room, identity FROM there) RETURNING 1),
          events_gone AS (
              DELETE FROM topic_events WHERE topic IN ('user:' || $1::text, 'feed:' || $1::text) RETURNING 1),
          topics_gone AS (DELETE FROM topics WHERE name IN ('user:' || $1::text, 'feed:' || $1::text) RETURNING 1),
          announcements_gone AS (
              DELETE FROM outbox
              WHERE topic IN ('user:' || $1::text, 'feed:' || $1::text)
                 OR payload #>> '{message,author}' = $1
                 OR (payload #>> '{message,room}', payload #>> '{message,author}') IN (
                     SELECT room, identity FROM there)
                 OR payload #>> '{outside,user}' = $1
                 OR payload ->> 'kind' IN ('final', 'translation') AND (payload ->> 'session', payload ->> 'utterance') IN (
                     SELECT sessions.slug, said.utterance_id
                     FROM said JOIN sessions ON sessions.id = said.session_id)
              RETURNING 1),
          answers_kept AS (
              UPDATE idempotency_keys SET answer = COALESCE(
                  (SELECT jsonb_agg(told) FROM jsonb_array_elements(answer) AS told WHERE told ->> 'user' <> $1), '[]')
              WHERE jsonb_typeof(answer) = 'array'
                AND answer @> jsonb_build_array(jsonb_build_object('user', $1::text)) RETURNING 1)
          SELECT (SELECT count(*) FROM segments_gone) AS segments,
              -- They go with their finals.
              (SELECT count(*) FROM translations
               JOIN segments ON segments.session_id = translations.session_id
                   AND segments.sequence = translations.segment
               JOIN said ON said.session_id = segments.session_id AND said.utterance_id = segments.utterance_id)
                  AS translations,
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
    last: &[],
};

impl Storage {
    /// Removes a session and all that was kept of it: finals, streams, participants, who spoke, stream keys, reports
    /// of clients, what was said in its room, announcements. What it used stays, without anybody's name, and so do the
    /// last sequences of its topic and of its room's. `None` when there is no such session. A session that is still live comes into being again with the next
    /// use.
    ///
    /// # Errors
    /// As any operation here, within [`ERASE_LIMIT`]. Repeating it is safe.
    pub async fn delete_session(
        &self,
        session: &SessionSlug,
        erasing: Erasing,
    ) -> Result<Option<Erased>, StorageError> {
        let erased = self.erase(&DELETE_SESSION, session.as_str(), erasing).await?;
        Ok(Some(erased).filter(|erased| erased.count("sessions") > 0))
    }

    /// Removes what is kept of a person: what the participants that the user was said in their sessions, and what back
    /// ends said to be the user's; their streams; the inbox, what is scheduled and on its way, subscriptions; messages
    /// that the user, or in the room of a session the user's participant, wrote; the topics of the user. What was used stays without the name. All or nothing.
    ///
    /// # Errors
    /// As any operation here, within [`ERASE_LIMIT`]. Repeating it is safe.
    pub async fn erase_user(&self, user: &UserId, erasing: Erasing) -> Result<Erased, StorageError> {
        self.erase(&ERASE_USER, user.as_str(), erasing).await
    }

    /// Again when it got in the way of whoever wrote at the same time, and Postgres has let those go first.
    async fn erase(&self, erasure: &Erasure, of: &str, erasing: Erasing) -> Result<Erased, StorageError> {
        for _ in 1..ATTEMPTS_MAX {
            match self.try_erase(erasure, of, erasing).await {
                Err(error) if error.is_deadlock() => {}
                outcome => return outcome,
            }
        }
        self.try_erase(erasure, of, erasing).await
    }

    /// All of it is sent at once, so that it also ends when the caller does not wait for it.
    async fn try_erase(&self, erasure: &Erasure, of: &str, erasing: Erasing) -> Result<Erased, StorageError> {
        let begin = format!("BEGIN; SET LOCAL statement_timeout = {}", ERASE_LIMIT.as_millis());
        let end = match erasing {
            Erasing::ForGood => "COMMIT",
            Erasing::OnTrial => "ROLLBACK",
        };
        let named: [&(dyn ToSql + Sync); 1] = [&of];
        let rows = self
            .connection()
            .await?
            .limited_to(ERASE_LIMIT, erasure.name, async |object| {
                let mut holds = Vec::with_capacity(erasure.holds.len());
                for hold in erasure.holds {
                    holds.push(object.prepare_cached(hold).await?);
                }
                let remove = object.prepare_cached(erasure.remove).await?;
                let mut last = Vec::with_capacity(erasure.last.len());
                for statement in erasure.last {
                    last.push(object.prepare_cached(statement).await?);
                }
                let (begun, held, rows, emptied, ended) = join5(
                    object.batch_execute(&begin),
                    join_all(holds.iter().map(|hold| object.query(hold, &named))),
                    object.query(&remove, &named),
                    join_all(last.iter().map(|last| object.query(last, &named))),
                    object.batch_execute(end),
                )
                .await;
                begun?;
                // The first that failed tells why: those after it only say that the transaction is lost.
                held.into_iter().collect::<Result<Vec<_>, _>>()?;
                let rows = rows?;
                emptied.into_iter().collect::<Result<Vec<_>, _>>()?;
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
