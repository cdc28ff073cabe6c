//! Rooms of LiveKit whose sound is wanted, who looks after them, and how often their egresses were begun.

use std::{collections::HashMap, time::Duration};

use model::{SessionId, SessionSlug, Timestamp};

use crate::{
    Storage, StorageError,
    columns::{number, parsed},
    connection::Statement,
};

/// How long a webhook is remembered: LiveKit repeats one for minutes at most.
const EVENT_LIFE: Duration = Duration::from_secs(24 * 3600);

/// How a room's sound comes to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoomMode {
    /// One egress for each audio track.
    Tracks,
    /// One for the whole room.
    Composite,
}

impl RoomMode {
    /// Its name in rows and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tracks => "tracks",
            Self::Composite => "composite",
        }
    }
}

/// A room that is to be looked after, lent to whoever claimed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// The session of the same name.
    pub session_id: SessionId,
    /// Its slug, which is the room's name.
    pub session: SessionSlug,
    /// The id under which the surrounding application started it.
    pub external_id: Option<String>,
    /// Whether its sound is wanted; else its egresses are to end.
    pub wanted: bool,
    /// How its sound comes to us.
    pub mode: RoomMode,
}

const WANT: Statement = Statement {
    name: "want_room",
    sql: "INSERT INTO rooms (session_id, wanted, mode, due_at)
          SELECT id, true, $2::text, $3::timestamptz FROM sessions WHERE slug = $1
          ON CONFLICT (session_id) DO UPDATE SET
              wanted = true,
              mode = CASE WHEN rooms.wanted THEN rooms.mode ELSE excluded.mode END,
              due_at = LEAST(rooms.due_at, excluded.due_at)",
};

const RELEASE: Statement = Statement {
    name: "release_room",
    sql: "UPDATE rooms SET wanted = false, due_at = $2
          WHERE session_id = (SELECT id FROM sessions WHERE slug = $1)",
};

const WAKE: Statement = Statement {
    name: "wake_room",
    sql: "UPDATE rooms SET due_at = LEAST(due_at, $2)
          WHERE session_id = (SELECT id FROM sessions WHERE slug = $1)",
};

const CLAIM: Statement = Statement {
    name: "claim_rooms",
    sql: "WITH claimed AS (
              UPDATE rooms SET due_at = $2, held_until = $2
              WHERE session_id IN (SELECT session_id FROM rooms WHERE due_at <= $1 AND held_until <= $1
                                   ORDER BY due_at LIMIT $3 FOR UPDATE SKIP LOCKED)
              RETURNING session_id, wanted, mode)
          SELECT sessions.id, sessions.slug, sessions.external_id, claimed.wanted, claimed.mode
          FROM claimed JOIN sessions ON sessions.id = claimed.session_id",
};

// A wake that came meanwhile has moved due_at to before the lease, and stays.
const SETTLE: Statement = Statement {
    name: "settle_room",
    sql: "UPDATE rooms SET held_until = '-infinity', due_at = LEAST(due_at, $3)
          WHERE session_id = $1 AND held_until = $2",
};

const SET_MODE: Statement =
    Statement { name: "set_room_mode", sql: "UPDATE rooms SET mode = $2 WHERE session_id = $1 AND wanted" };

const DROP: Statement =
    Statement { name: "drop_room", sql: "DELETE FROM rooms WHERE session_id = $1 AND NOT wanted" };

const WANTED: Statement = Statement {
    name: "wanted_rooms",
    sql: "SELECT sessions.slug FROM rooms JOIN sessions ON sessions.id = rooms.session_id",
};

const NEXT: Statement = Statement { name: "next_room", sql: "SELECT min(due_at) FROM rooms" };

const TRIED: Statement = Statement {
    name: "note_egress_attempt",
    sql: "INSERT INTO egress_attempts (session_id, track_id, attempts, tried_at)
          SELECT session_id, $2::text, 1, $3::timestamptz FROM rooms WHERE session_id = $1
          ON CONFLICT (session_id, track_id) DO UPDATE SET
              attempts = CASE WHEN egress_attempts.tried_at < $4 THEN 1 ELSE egress_attempts.attempts + 1 END,
              tried_at = excluded.tried_at",
};

const ATTEMPTS: Statement = Statement {
    name: "egress_attempts",
    sql: "SELECT track_id, attempts, tried_at FROM egress_attempts WHERE session_id = $1",
};

const HEAR: Statement = Statement {
    name: "hear_livekit_event",
    sql: "INSERT INTO livekit_events (id, heard_at) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING 1",
};

const FORGET_EVENTS: Statement =
    Statement { name: "forget_livekit_events", sql: "DELETE FROM livekit_events WHERE heard_at < $1" };

impl Storage {
    /// The sound of the session's room is wanted from now on, and looked after at once. A room that is wanted already
    /// keeps its mode. Nothing happens when there is no such session.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn want_room(
        &self,
        session: &SessionSlug,
        mode: RoomMode,
        now: Timestamp,
    ) -> Result<(), StorageError> {
        self.query(&WANT, &[&session.as_str(), &mode.label(), &now.to_jiff()]).await.map(drop)
    }

    /// It is wanted no longer: its egresses are to end.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn release_room(&self, session: &SessionSlug, now: Timestamp) -> Result<(), StorageError> {
        self.query(&RELEASE, &[&session.as_str(), &now.to_jiff()]).await.map(drop)
    }

    /// Something has changed in the room: it is to be looked after now.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn wake_room(&self, session: &SessionSlug, now: Timestamp) -> Result<(), StorageError> {
        self.query(&WAKE, &[&session.as_str(), &now.to_jiff()]).await.map(drop)
    }

    /// Rooms that are due, lent until `lease` to whoever claims them; at most `limit`. Nothing that happens in a room
    /// takes it from whoever has it.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn claim_rooms(
        &self,
        now: Timestamp,
        lease: Timestamp,
        limit: u32,
    ) -> Result<Vec<Room>, StorageError> {
        let rows = self.query(&CLAIM, &[&now.to_jiff(), &lease.to_jiff(), &i64::from(limit)]).await?;
        rows.iter()
            .map(|row| {
                Ok(Room {
                    session_id: SessionId(row.try_get(0)?),
                    session: parsed(row.try_get(1)?)?,
                    external_id: row.try_get(2)?,
                    wanted: row.try_get(3)?,
                    mode: match row.try_get(4)? {
                        "composite" => RoomMode::Composite,
                        _ => RoomMode::Tracks,
                    },
                })
            })
            .collect()
    }

    /// A claimed room was looked after; it is to be looked at again at `due`, or earlier if it was woken meanwhile.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn settle_room(
        &self,
        room: SessionId,
        lease: Timestamp,
        due: Timestamp,
    ) -> Result<(), StorageError> {
        self.query(&SETTLE, &[&room.0, &lease.to_jiff(), &due.to_jiff()]).await.map(drop)
    }

    /// The sound of a room comes another way from now on.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn set_room_mode(&self, room: SessionId, mode: RoomMode) -> Result<(), StorageError> {
        self.query(&SET_MODE, &[&room.0, &mode.label()]).await.map(drop)
    }

    /// A room that is not wanted has no egress any more.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn drop_room(&self, room: SessionId) -> Result<(), StorageError> {
        self.query(&DROP, &[&room.0]).await.map(drop)
    }

    /// Every room that is looked after.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn rooms(&self) -> Result<Vec<SessionSlug>, StorageError> {
        self.query(&WANTED, &[]).await?.iter().map(|row| parsed(row.try_get(0)?)).collect()
    }

    /// When the next room is due; `None` when there is none.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn next_room(&self) -> Result<Option<Timestamp>, StorageError> {
        let row = self.query_opt(&NEXT, &[]).await?;
        let due = row.map(|row| row.try_get::<_, Option<jiff::Timestamp>>(0)).transpose()?.flatten();
        Ok(due.map(Timestamp::from))
    }

    /// Notes an attempt to begin an egress of a track, or of the whole room when `track` is empty. Attempts before
    /// `forgotten` do not count any more.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn note_egress_attempt(
        &self,
        room: SessionId,
        track: &str,
        now: Timestamp,
        forgotten: Timestamp,
    ) -> Result<(), StorageError> {
        self.query(&TRIED, &[&room.0, &track, &now.to_jiff(), &forgotten.to_jiff()]).await.map(drop)
    }

    /// How often egresses of a room were begun, by track, and when last.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn egress_attempts(
        &self,
        room: SessionId,
    ) -> Result<HashMap<String, (u32, Timestamp)>, StorageError> {
        let rows = self.query(&ATTEMPTS, &[&room.0]).await?;
        rows.iter()
            .map(|row| {
                let at: jiff::Timestamp = row.try_get(2)?;
                let attempts = number(i64::from(row.try_get::<_, i32>(1)?));
                Ok((row.try_get(0)?, (attempts, Timestamp::from(at))))
            })
            .collect()
    }

    /// Whether a webhook of this id comes for the first time.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn hear_livekit_event(&self, id: &str, now: Timestamp) -> Result<bool, StorageError> {
        Ok(self.query_opt(&HEAR, &[&id, &now.to_jiff()]).await?.is_some())
    }

    /// Forgets webhooks that will not come again.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn forget_livekit_events(&self, now: Timestamp) -> Result<(), StorageError> {
        self.query(&FORGET_EVENTS, &[&now.before(EVENT_LIFE).to_jiff()]).await.map(drop)
    }
}
