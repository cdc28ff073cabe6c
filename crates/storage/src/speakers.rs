//! Who was said to speak in a session, and when.

use std::time::Duration;

use model::{Identity, SessionSlug, Speaker, Timestamp};

use crate::{
    Storage, StorageError,
    columns::{name, parsed, timestamp},
    connection::Statement,
};

/// Changes of the speaker that one look reads: more than two a second for half a minute are noise.
const TURNS_MAX: i64 = 64;

/// How long the speakers of a session that has ended are kept, for the last words that are still being understood.
const ENDED_LIFE: Duration = Duration::from_secs(60);

/// From a moment on, somebody is said to speak, until the next turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// The moment, by our clock.
    pub at: Timestamp,
    /// Who; `None` when nobody does.
    pub speaker: Option<Speaker>,
}

// Every client in the room tells the same: only a change is news.
const NOTE: Statement = Statement {
    name: "note_active_speaker",
    sql: "WITH session AS (
              INSERT INTO sessions (slug, status, created_at, last_activity_at) VALUES ($1, 'created', $2, $2)
              ON CONFLICT (slug) DO UPDATE SET
                  last_activity_at = GREATEST(sessions.last_activity_at, excluded.last_activity_at)
              RETURNING id)
          INSERT INTO active_speakers (session_id, at, identity, name)
          SELECT session.id, $2::timestamptz, $3::text, $4::text FROM session
          WHERE NOT EXISTS (
              SELECT FROM (SELECT identity, name FROM active_speakers
                           WHERE session_id = session.id ORDER BY at DESC, id DESC LIMIT 1) AS last
              WHERE last.identity IS NOT DISTINCT FROM $3::text
                AND (last.name IS NOT DISTINCT FROM $4::text OR $4::text IS NULL))",
};

const TURNS: Statement = Statement {
    name: "active_speakers",
    sql: "SELECT at, identity, name FROM (
              SELECT at, identity, name, id FROM active_speakers
              WHERE session_id = (SELECT id FROM sessions WHERE slug = $1) AND at <= $3
                AND at >= COALESCE(
                    (SELECT max(at) FROM active_speakers
                     WHERE session_id = (SELECT id FROM sessions WHERE slug = $1) AND at <= $2), $2)
              ORDER BY at DESC, id DESC LIMIT $4) AS newest
          ORDER BY at, id",
};

const FORGET: Statement = Statement {
    name: "forget_active_speakers",
    sql: "DELETE FROM active_speakers USING sessions
          WHERE sessions.id = active_speakers.session_id AND sessions.status = 'ended' AND sessions.ended_at < $1",
};

impl Storage {
    /// Notes who speaks from `at` on; `None` for nobody. What is known already is not noted again.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn note_active_speaker(
        &self,
        session: &SessionSlug,
        speaker: Option<&Speaker>,
        at: Timestamp,
    ) -> Result<(), StorageError> {
        let identity = speaker.map(|speaker| speaker.identity.as_str());
        let shown = name(speaker.and_then(|speaker| speaker.name.as_deref()));
        self.query(&NOTE, &[&session.as_str(), &at.to_jiff(), &identity, &shown]).await?;
        Ok(())
    }

    /// Who was said to speak between two moments, in order: the turn that `from` falls into, and those that begin up to
    /// `to`; the newest 64.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn active_speakers(
        &self,
        session: &SessionSlug,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<Turn>, StorageError> {
        let rows =
            self.query(&TURNS, &[&session.as_str(), &from.to_jiff(), &to.to_jiff(), &TURNS_MAX]).await?;
        rows.iter()
            .map(|row| {
                let speaker = match row.try_get::<_, Option<String>>(1)? {
                    Some(identity) => {
                        Some(Speaker { identity: parsed::<Identity>(identity)?, name: row.try_get(2)? })
                    }
                    None => None,
                };
                Ok(Turn { at: timestamp(row.try_get(0)?), speaker })
            })
            .collect()
    }

    /// Forgets who spoke in sessions that have ended a while ago.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn forget_active_speakers(&self, now: Timestamp) -> Result<(), StorageError> {
        self.query(&FORGET, &[&now.before(ENDED_LIFE).to_jiff()]).await?;
        Ok(())
    }
}
