use model::{Identity, Samples, SessionId, SessionSlug, Speaker, StreamId, Timestamp};

use crate::{
    Storage, StorageError,
    columns::{name, number, parsed, signed, timestamp, unsigned},
    connection::Statement,
};

/// A stream that a worker is about to listen to.
#[derive(Debug, Clone)]
pub struct NewStream {
    /// Made by whoever opened the source.
    pub id: StreamId,
    /// The session it belongs to.
    pub session: SessionSlug,
    /// Who speaks in it.
    pub speaker: Speaker,
    /// Wall time of sample 0. Counts only at the first opening.
    pub started_at: Timestamp,
    /// The present moment.
    pub now: Timestamp,
}

/// The right to write to a stream, until somebody opens it after us, and where to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenStream {
    /// The session's row.
    pub session_id: SessionId,
    /// Ours; the next opening gets the next one.
    pub epoch: i64,
    /// Audio before this is covered by a stored final: skip it when it is sent again.
    pub stored_end: Samples,
    /// Number of the next utterance.
    pub next_utterance: u32,
    /// Wall time of sample 0, as the first opening said.
    pub started_at: Timestamp,
}

// One statement: that the session is there and live, and the epoch. A stream id of another session
// or participant leaves no row.
const OPEN: Statement = Statement {
    name: "open_stream",
    sql: "WITH session AS (
              INSERT INTO sessions (slug, status, created_at, started_at, last_activity_at)
              VALUES ($2, 'live', $6, $6, $6)
              ON CONFLICT (slug) DO UPDATE SET
                  status = 'live',
                  started_at = COALESCE(sessions.started_at, excluded.started_at),
                  last_activity_at = GREATEST(sessions.last_activity_at, excluded.last_activity_at),
                  ended_at = NULL
              RETURNING id)
          INSERT INTO streams (id, session_id, speaker_identity, speaker_name, epoch, started_at, last_activity_at)
          SELECT $1::uuid, session.id, $3::text, $4::text, 1, $5::timestamptz, $6::timestamptz FROM session
          ON CONFLICT (id) DO UPDATE SET
              epoch = streams.epoch + 1,
              speaker_name = COALESCE(excluded.speaker_name, streams.speaker_name),
              last_activity_at = GREATEST(streams.last_activity_at, excluded.last_activity_at),
              closed_at = NULL
          WHERE streams.session_id = excluded.session_id AND streams.speaker_identity = excluded.speaker_identity
          RETURNING session_id, epoch, stored_end, next_utterance, started_at",
};

const FIND: Statement = Statement {
    name: "find_stream",
    sql: "SELECT sessions.slug, streams.speaker_identity, streams.last_activity_at
          FROM streams JOIN sessions ON sessions.id = streams.session_id WHERE streams.id = $1",
};

const CLOSE: Statement = Statement {
    name: "close_stream",
    sql: "UPDATE streams SET
              closed_at = COALESCE(closed_at, $4),
              heard_end = GREATEST(heard_end, $3),
              last_activity_at = GREATEST(last_activity_at, $4)
          WHERE id = $1 AND epoch = $2
          RETURNING id",
};

/// Whose a stream is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownStream {
    /// The session it belongs to.
    pub session: SessionSlug,
    /// Who speaks in it.
    pub identity: Identity,
    /// When a worker last opened it, stored a final of it or closed it.
    pub last_activity_at: Timestamp,
}

impl Storage {
    /// A stream that a worker has opened before; `None` when there is none of this id.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn find_stream(&self, stream: StreamId) -> Result<Option<KnownStream>, StorageError> {
        let Some(row) = self.query_opt(&FIND, &[&stream.0]).await? else { return Ok(None) };
        Ok(Some(KnownStream {
            session: parsed(row.try_get(0)?)?,
            identity: parsed(row.try_get(1)?)?,
            last_activity_at: timestamp(row.try_get(2)?),
        }))
    }

    /// Takes a stream, new or another worker's, and opens its session if need be.
    ///
    /// # Errors
    /// [`StorageError::Forbidden`] when the id is a stream of another session or participant; else as any operation here.
    pub async fn open_stream(&self, stream: &NewStream) -> Result<OpenStream, StorageError> {
        let row = self
            .query_opt(
                &OPEN,
                &[
                    &stream.id.0,
                    &stream.session.as_str(),
                    &stream.speaker.identity.as_str(),
                    &name(stream.speaker.name.as_deref()),
                    &stream.started_at.to_jiff(),
                    &stream.now.to_jiff(),
                ],
            )
            .await?
            .ok_or_else(|| StorageError::Forbidden.counted())?;
        Ok(OpenStream {
            session_id: SessionId(row.try_get(0)?),
            epoch: row.try_get(1)?,
            stored_end: Samples(unsigned(row.try_get(2)?)),
            next_utterance: number(row.try_get(3)?),
            started_at: timestamp(row.try_get(4)?),
        })
    }

    /// Notes that the source has ended after `end` samples, all of which are stored or were silence.
    ///
    /// # Errors
    /// [`StorageError::Superseded`] when another worker has the stream by now; else as any operation here.
    pub async fn close_stream(
        &self,
        stream: StreamId,
        epoch: i64,
        end: Samples,
        now: Timestamp,
    ) -> Result<(), StorageError> {
        match self.query_opt(&CLOSE, &[&stream.0, &epoch, &signed(end.0), &now.to_jiff()]).await? {
            Some(_) => Ok(()),
            None => Err(StorageError::Superseded.counted()),
        }
    }
}
