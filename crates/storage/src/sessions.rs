use std::time::Duration;

use model::{Identity, SessionId, SessionSlug, Timestamp, UserId};
use tokio_postgres::{Row, types::ToSql};

use crate::{
    Storage, StorageError,
    columns::{name, number, parsed, text, timestamp},
    connection::Statement,
    streams::ACTIVE_LIFE,
};

/// Most sessions that one call of [`Storage::end_idle_sessions`] ends, to keep its transaction short.
const IDLE_BATCH_MAX: i64 = 500;

/// Where a session is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionStatus {
    /// Known, and nobody has spoken or started it since it came into being or was used again.
    Created,
    /// Started, or somebody speaks.
    Live,
    /// Stopped, or idle for too long. Its next valid use opens it again.
    Ended,
}

/// One session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its row.
    pub id: SessionId,
    /// Its public name.
    pub slug: SessionSlug,
    /// The id under which the surrounding application started it.
    pub external_id: Option<String>,
    /// Where it is in its life.
    pub status: SessionStatus,
    /// When it came into being.
    pub created_at: Timestamp,
    /// When it was last used.
    pub last_activity_at: Timestamp,
    /// When it ended; `None` while it is not [`SessionStatus::Ended`].
    pub ended_at: Option<Timestamp>,
    /// What is spoken in streams that do not say, BCP 47 or `auto`; `None` for what the workers are set to.
    pub language: Option<String>,
}

macro_rules! session_columns {
    () => {
        "sessions.id, sessions.slug, sessions.external_id, sessions.status, sessions.created_at,
         sessions.last_activity_at, sessions.ended_at, sessions.language"
    };
}

const TOUCH: Statement = Statement {
    name: "touch_session",
    sql: concat!(
        "INSERT INTO sessions (slug, status, created_at, last_activity_at) VALUES ($1, 'created', $2, $2)
         ON CONFLICT (slug) DO UPDATE SET
             last_activity_at = GREATEST(sessions.last_activity_at, excluded.last_activity_at),
             status = CASE sessions.status WHEN 'ended' THEN 'created' ELSE sessions.status END,
             ended_at = NULL
         RETURNING ",
        session_columns!()
    ),
};

const USE: Statement = Statement {
    name: "use_session",
    sql: "UPDATE sessions SET last_activity_at = GREATEST(last_activity_at, $2)
          WHERE id = $1 AND status <> 'ended'",
};

const START: Statement = Statement {
    name: "start_session",
    sql: concat!(
        "INSERT INTO sessions (slug, external_id, status, created_at, started_at, last_activity_at, language)
         VALUES ($1, $2, 'live', $3, $3, $3, $4)
         ON CONFLICT (slug) DO UPDATE SET
             external_id = excluded.external_id,
             status = 'live',
             started_at = CASE WHEN sessions.status = 'ended' THEN excluded.started_at
                               ELSE COALESCE(sessions.started_at, excluded.started_at) END,
             last_activity_at = GREATEST(sessions.last_activity_at, excluded.last_activity_at),
             language = CASE WHEN sessions.status = 'ended' THEN excluded.language
                             ELSE COALESCE(excluded.language, sessions.language) END,
             ended_at = NULL
         RETURNING ",
        session_columns!()
    ),
};

// Two sessions can carry one external id when the application renamed its slug; the one used last is meant.
const STOP: Statement = Statement {
    name: "stop_session",
    sql: concat!(
        "UPDATE sessions SET status = 'ended', ended_at = COALESCE(ended_at, $2)
         WHERE id = (SELECT id FROM sessions WHERE external_id = $1 ORDER BY last_activity_at DESC, id LIMIT 1)
         RETURNING ",
        session_columns!()
    ),
};

const END: Statement = Statement {
    name: "end_session",
    sql: concat!(
        "UPDATE sessions SET status = 'ended', ended_at = $2
         WHERE slug = $1 AND status <> 'ended' AND COALESCE(started_at, created_at) <= $3
         RETURNING ",
        session_columns!()
    ),
};

const END_IDLE: Statement = Statement {
    name: "end_idle_sessions",
    sql: concat!(
        "UPDATE sessions SET status = 'ended', ended_at = $2
         WHERE id IN (
             SELECT idle.id FROM sessions AS idle
             WHERE idle.status <> 'ended' AND idle.last_activity_at < $1
               AND NOT EXISTS (SELECT FROM streams
                               WHERE streams.session_id = idle.id AND streams.last_activity_at >= $1)
             ORDER BY idle.last_activity_at LIMIT $3
             FOR UPDATE SKIP LOCKED)
         RETURNING ",
        session_columns!()
    ),
};

const FIND: Statement = Statement {
    name: "session",
    sql: concat!("SELECT ", session_columns!(), " FROM sessions WHERE slug = $1"),
};

const FIND_STARTED: Statement = Statement {
    name: "started_session",
    sql: concat!(
        "SELECT ",
        session_columns!(),
        " FROM sessions WHERE external_id = $1 ORDER BY last_activity_at DESC, id LIMIT 1"
    ),
};

const ACTIVE_STREAMS: Statement = Statement {
    name: "active_streams",
    sql: "SELECT count(*) FROM streams
          WHERE session_id = $1 AND closed_at IS NULL AND last_activity_at > $2",
};

const UPSERT_PARTICIPANT: Statement = Statement {
    name: "upsert_participant",
    sql: "INSERT INTO participants (session_id, identity, name, user_id, joined_at, last_seen_at)
          VALUES ($1, $2, $3, $4, $5, $5)
          ON CONFLICT (session_id, identity) DO UPDATE SET
              name = COALESCE(excluded.name, participants.name),
              user_id = COALESCE(excluded.user_id, participants.user_id),
              last_seen_at = GREATEST(participants.last_seen_at, excluded.last_seen_at)",
};

impl Storage {
    /// The session of this slug, which comes into being here, is marked as used, and is opened again if it had
    /// ended. Call it once a token for the session has been verified, and now and then while the session is used.
    ///
    /// # Errors
    /// As any operation here: [`StorageError::Unavailable`], [`StorageError::Unmigrated`].
    pub async fn touch_session(&self, slug: &SessionSlug, now: Timestamp) -> Result<Session, StorageError> {
        one(self.query_opt(&TOUCH, &[&slug.as_str(), &now.to_jiff()]).await?)
    }

    /// Marks the session as used, as something seen from afar does: one that has ended stays so.
    ///
    /// # Errors
    /// As [`Storage::touch_session`].
    pub async fn use_session(&self, session: SessionId, now: Timestamp) -> Result<(), StorageError> {
        self.query(&USE, &[&session.0, &now.to_jiff()]).await.map(drop)
    }

    /// The session of this slug, if there is one.
    ///
    /// # Errors
    /// As [`Storage::touch_session`].
    pub async fn session(&self, slug: &SessionSlug) -> Result<Option<Session>, StorageError> {
        self.query_opt(&FIND, &[&slug.as_str()]).await?.as_ref().map(session).transpose()
    }

    /// Marks the session as live, remembers the id by which it will be stopped, and the language that its streams speak
    /// unless they say. Repeating it changes nothing, without a language it keeps the one that it had, and one that had
    /// ended is started anew.
    ///
    /// # Errors
    /// As [`Storage::touch_session`].
    pub async fn start_session(
        &self,
        slug: &SessionSlug,
        external_id: &str,
        language: Option<&str>,
        now: Timestamp,
    ) -> Result<Session, StorageError> {
        let parameters: [&(dyn ToSql + Sync); 4] =
            [&slug.as_str(), &text(external_id), &now.to_jiff(), &language];
        one(self.query_opt(&START, &parameters).await?)
    }

    /// Ends the session that was started under this id; `None` when none was. Repeating it changes nothing.
    ///
    /// # Errors
    /// As [`Storage::touch_session`].
    pub async fn stop_session(
        &self,
        external_id: &str,
        now: Timestamp,
    ) -> Result<Option<Session>, StorageError> {
        self.query_opt(&STOP, &[&text(external_id), &now.to_jiff()]).await?.as_ref().map(session).transpose()
    }

    /// Ends the session of this slug, unless it was started after `begun_by` or has ended; then `None`.
    ///
    /// # Errors
    /// As [`Storage::touch_session`].
    pub async fn end_session(
        &self,
        slug: &SessionSlug,
        begun_by: Timestamp,
        now: Timestamp,
    ) -> Result<Option<Session>, StorageError> {
        let row = self.query_opt(&END, &[&slug.as_str(), &now.to_jiff(), &begun_by.to_jiff()]).await?;
        row.as_ref().map(session).transpose()
    }

    /// The session that was started under this id, if one was.
    ///
    /// # Errors
    /// As [`Storage::touch_session`].
    pub async fn started_session(&self, external_id: &str) -> Result<Option<Session>, StorageError> {
        self.query_opt(&FIND_STARTED, &[&text(external_id)]).await?.as_ref().map(session).transpose()
    }

    /// Streams of the session of which something was heard within the last minute.
    ///
    /// # Errors
    /// As [`Storage::touch_session`].
    pub async fn active_streams(&self, session: SessionId, now: Timestamp) -> Result<u32, StorageError> {
        let since = now.before(ACTIVE_LIFE).to_jiff();
        let row = self.query_opt(&ACTIVE_STREAMS, &[&session.0, &since]).await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?.map_or(0, number))
    }

    /// Ends sessions that were not used, and in which nothing was said, for longer than `idle`; at most 500 in one
    /// call, longest idle first. Returns those it ended.
    ///
    /// # Errors
    /// As [`Storage::touch_session`].
    pub async fn end_idle_sessions(
        &self,
        idle: Duration,
        now: Timestamp,
    ) -> Result<Vec<Session>, StorageError> {
        let before = now.to_jiff().checked_sub(idle).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let rows = self.query(&END_IDLE, &[&before, &now.to_jiff(), &IDLE_BATCH_MAX]).await?;
        rows.iter().map(session).collect()
    }

    /// Notes that a participant is in the session. A name or user that is known is never replaced by nothing.
    ///
    /// # Errors
    /// As [`Storage::touch_session`].
    pub async fn upsert_participant(
        &self,
        session: SessionId,
        identity: &Identity,
        shown_name: Option<&str>,
        user: Option<&UserId>,
        now: Timestamp,
    ) -> Result<(), StorageError> {
        let user = user.map(UserId::as_str);
        self.query(
            &UPSERT_PARTICIPANT,
            &[&session.0, &identity.as_str(), &name(shown_name), &user, &now.to_jiff()],
        )
        .await?;
        Ok(())
    }
}

fn one(row: Option<Row>) -> Result<Session, StorageError> {
    match row {
        Some(row) => session(&row),
        None => Err(StorageError::Defect("an upsert returned no row".to_owned()).counted()),
    }
}

fn session(row: &Row) -> Result<Session, StorageError> {
    Ok(Session {
        id: SessionId(row.try_get(0)?),
        slug: parsed(row.try_get(1)?)?,
        external_id: row.try_get(2)?,
        status: match row.try_get(3)? {
            "created" => SessionStatus::Created,
            "live" => SessionStatus::Live,
            _ => SessionStatus::Ended,
        },
        created_at: timestamp(row.try_get(4)?),
        last_activity_at: timestamp(row.try_get(5)?),
        ended_at: row.try_get::<_, Option<jiff::Timestamp>>(6)?.map(timestamp),
        language: row.try_get(7)?,
    })
}
