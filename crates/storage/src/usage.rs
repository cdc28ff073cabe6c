//! What was processed, to the sample.

use model::{EngineName, Samples, StreamId, Timestamp};

use crate::{Storage, StorageError, columns::signed, connection::Statement, transcripts::OWNED_BY_EPOCH};

/// Sound of a stream that an engine has processed since it was last metered.
#[derive(Debug, Clone, Copy)]
pub struct Metered {
    /// The stream.
    pub stream: StreamId,
    /// From [`crate::OpenStream`].
    pub epoch: i64,
    /// What processed it.
    pub engine: EngineName,
    /// Up to here the stream is metered with it. Rises from call to call.
    pub heard_end: Samples,
    /// How much sound that was: what came, without the silence that was put in for what did not.
    pub sound: Samples,
    /// The present moment.
    pub at: Timestamp,
}

// A sample lasts 62.5 microseconds.
const METER: Statement = Statement {
    name: "meter",
    sql: "WITH moved AS (
              UPDATE streams SET heard_end = $4, last_activity_at = GREATEST(last_activity_at, $6)
              WHERE id = $1 AND epoch = $2 AND heard_end < $4
              RETURNING session_id, speaker_identity, user_id),
          metered AS (
              INSERT INTO usage AS known (
                  stream_id, engine, session_id, identity, user_id, samples, started_at, ended_at)
              SELECT $1::uuid, $3::text, session_id, speaker_identity, user_id, $5::bigint,
                  $6::timestamptz - $5::bigint * 125 / 2 * interval '1 microsecond', $6::timestamptz
              FROM moved WHERE $5 > 0
              ON CONFLICT (stream_id, engine) DO UPDATE SET
                  samples = known.samples + excluded.samples,
                  ended_at = GREATEST(known.ended_at, excluded.ended_at))
          SELECT FROM moved",
};

impl Storage {
    /// Adds sound to the usage of its session, participant and engine. Repeating it after any error is safe: what is
    /// metered is not metered again.
    ///
    /// # Errors
    /// [`StorageError::Superseded`] when another worker has the stream by now; else as any operation here.
    pub async fn meter(&self, metered: &Metered) -> Result<(), StorageError> {
        let Metered { stream, epoch, engine, heard_end, sound, at } = metered;
        let moved = self
            .query_opt(
                &METER,
                &[&stream.0, epoch, &engine.label(), &signed(heard_end.0), &signed(sound.0), &at.to_jiff()],
            )
            .await?;
        if moved.is_none() && self.query_opt(&OWNED_BY_EPOCH, &[&stream.0, epoch]).await?.is_none() {
            return Err(StorageError::Superseded.counted());
        }
        Ok(())
    }
}
