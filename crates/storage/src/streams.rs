use std::time::Duration;

use futures_util::future::join4;
use model::{Identity, Samples, SessionId, SessionSlug, Speaker, StreamId, Timestamp, UserId};
use tokio_postgres::types::ToSql;

use crate::{
    Storage, StorageError,
    columns::{name, number, parsed, timestamp, unsigned},
    connection::Statement,
};

/// A stream of which nothing was heard for so long is not active any more.
pub(crate) const ACTIVE_LIFE: Duration = Duration::from_secs(60);

/// How many streams may be active at a time, of those that a user has opened; `None` for any number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamLimits {
    /// Of one user, in all sessions.
    pub user: Option<u32>,
    /// In one session.
    pub session: Option<u32>,
}

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
    /// The user who has opened it; `None` for a source that is not limited.
    pub user: Option<UserId>,
    /// What the user and the session may have beside it.
    pub limits: StreamLimits,
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
    /// Audio before this is metered.
    pub heard_end: Samples,
    /// Number of the next utterance.
    pub next_utterance: u32,
    /// Wall time of sample 0, as the first opening said.
    pub started_at: Timestamp,
}

// Streams of one user, and of one session, are opened one after the other, so that what is counted stays true.
const TAKE_TURNS: &str = "SELECT pg_advisory_xact_lock(hashtextextended('session:' || $1::text, 0)),
                                 pg_advisory_xact_lock(hashtextextended('user:' || $2::text, 0))";

// One statement: that the session is there and live, and the epoch. A stream id of another session or participant
// leaves no row, and so does one stream too many.
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
          INSERT INTO streams (
              id, session_id, speaker_identity, speaker_name, epoch, started_at, last_activity_at, user_id)
          SELECT $1::uuid, session.id, $3::text, $4::text, 1, $5::timestamptz, $6::timestamptz, $7::text FROM session
          WHERE $7 IS NULL OR (
              (SELECT count(*) FROM streams AS others
               WHERE others.user_id = $7 AND others.closed_at IS NULL AND others.last_activity_at > $8 AND others.id <> $1)
                  < $9::bigint
              AND (SELECT count(*) FROM streams AS others
                   WHERE others.session_id = session.id AND others.user_id IS NOT NULL AND others.closed_at IS NULL
                     AND others.last_activity_at > $8 AND others.id <> $1) < $10::bigint)
          ON CONFLICT (id) DO UPDATE SET
              epoch = streams.epoch + 1,
              speaker_name = COALESCE(excluded.speaker_name, streams.speaker_name),
              last_activity_at = GREATEST(streams.last_activity_at, excluded.last_activity_at),
              closed_at = NULL
          WHERE streams.session_id = excluded.session_id AND streams.speaker_identity = excluded.speaker_identity
          RETURNING session_id, epoch, stored_end, next_utterance, started_at, heard_end",
};

const FIND: Statement = Statement {
    name: "find_stream",
    sql: "SELECT sessions.slug, streams.speaker_identity, streams.last_activity_at
          FROM streams JOIN sessions ON sessions.id = streams.session_id WHERE streams.id = $1",
};

const CLOSE: Statement = Statement {
    name: "close_stream",
    sql: "UPDATE streams SET
              closed_at = COALESCE(closed_at, $3),
              last_activity_at = GREATEST(last_activity_at, $3)
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
    /// [`StorageError::Forbidden`] when the id is a stream of another session or participant,
    /// [`StorageError::TooManyStreams`] when the user or the session has as many as it may; else as any operation here.
    pub async fn open_stream(&self, stream: &NewStream) -> Result<OpenStream, StorageError> {
        let most = |limit: Option<u32>| limit.map_or(i64::MAX, i64::from);
        let user = stream.user.as_ref().map(UserId::as_str);
        let (session, shown) = (stream.session.as_str(), name(stream.speaker.name.as_deref()));
        let (began, now) = (stream.started_at.to_jiff(), stream.now.to_jiff());
        let active_since = stream.now.before(ACTIVE_LIFE).to_jiff();
        let (user_max, session_max) = (most(stream.limits.user), most(stream.limits.session));
        let parameters: [&(dyn ToSql + Sync); 10] = [
            &stream.id.0,
            &session,
            &stream.speaker.identity.as_str(),
            &shown,
            &began,
            &now,
            &user,
            &active_since,
            &user_max,
            &session_max,
        ];
        let rows = self
            .connection()
            .await?
            .limited(OPEN.name, async |object| {
                let turns = object.prepare_cached(TAKE_TURNS).await?;
                let open = object.prepare_cached(OPEN.sql).await?;
                let turn: [&(dyn ToSql + Sync); 2] = [&session, &user];
                let (begun, taken, rows, committed) = join4(
                    object.batch_execute("BEGIN"),
                    async { if user.is_some() { object.query(&turns, &turn).await } else { Ok(Vec::new()) } },
                    object.query(&open, &parameters),
                    object.batch_execute("COMMIT"),
                )
                .await;
                begun?;
                taken?;
                let rows = rows?;
                committed?;
                Ok(rows)
            })
            .await?;
        let Some(row) = rows.into_iter().next() else {
            let mine = self.find_stream(stream.id).await?.is_none_or(|known| {
                known.session == stream.session && known.identity == stream.speaker.identity
            });
            let refusal = if mine { StorageError::TooManyStreams } else { StorageError::Forbidden };
            return Err(refusal.counted());
        };
        Ok(OpenStream {
            session_id: SessionId(row.try_get(0)?),
            epoch: row.try_get(1)?,
            stored_end: Samples(unsigned(row.try_get(2)?)),
            next_utterance: number(row.try_get(3)?),
            started_at: timestamp(row.try_get(4)?),
            heard_end: Samples(unsigned(row.try_get(5)?)),
        })
    }

    /// Notes that the source has ended, and all of it is stored or was silence.
    ///
    /// # Errors
    /// [`StorageError::Superseded`] when another worker has the stream by now; else as any operation here.
    pub async fn close_stream(
        &self,
        stream: StreamId,
        epoch: i64,
        now: Timestamp,
    ) -> Result<(), StorageError> {
        match self.query_opt(&CLOSE, &[&stream.0, &epoch, &now.to_jiff()]).await? {
            Some(_) => Ok(()),
            None => Err(StorageError::Superseded.counted()),
        }
    }
}
