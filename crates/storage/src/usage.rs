//! What was processed, to the sample, and what clients say of it.

use model::{EngineName, Identity, Samples, SessionSlug, StreamId, Timestamp, UserId};
use tokio_postgres::Row;

use crate::{
    Storage, StorageError,
    columns::{number, parsed, signed, timestamp, unsigned},
    connection::Statement,
    transcripts::OWNED_BY_EPOCH,
};

/// Reports that are kept of one session.
pub const REPORTS_MAX: i64 = 1000;

/// Participants and engines of a session that one look at its usage shows.
const ROWS_MAX: i64 = 10_000;

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

/// What one participant of a session used of one engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageRow {
    /// The participant; `None` when its name was erased.
    pub identity: Option<Identity>,
    /// The user behind it, when it is known.
    pub user: Option<UserId>,
    /// What processed the sound, as it was called then.
    pub engine: String,
    /// How much sound that was.
    pub sound: Samples,
    /// When the first of it was processed.
    pub started_at: Timestamp,
    /// When the last of it was.
    pub ended_at: Timestamp,
}

/// What was used in all. A row here is what one participant used in one session, of all engines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UsageTotals {
    /// Begun minutes, counted for each row.
    pub minutes: u64,
    /// How many rows.
    pub rows: u64,
}

/// What a client says of its own use.
#[derive(Debug, Clone, PartialEq)]
pub struct UsageReport {
    /// The participant.
    pub identity: Identity,
    /// The user behind it, when it is known.
    pub user: Option<UserId>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// How long that was, as the client counts.
    pub duration_seconds: f64,
    /// Chunks of audio sent.
    pub audio_chunks_sent: u32,
    /// Captions received.
    pub transcripts: u32,
    /// Of them finals.
    pub final_transcripts: u32,
    /// Of them partials.
    pub partial_transcripts: u32,
    /// Errors seen.
    pub errors: u32,
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

const OF_SESSION: Statement = Statement {
    name: "session_usage",
    sql: "SELECT usage.identity, max(usage.user_id), usage.engine, sum(usage.samples)::bigint, min(usage.started_at),
              max(usage.ended_at)
          FROM usage JOIN sessions ON sessions.id = usage.session_id WHERE sessions.slug = $1
          GROUP BY usage.identity, usage.engine
          ORDER BY min(usage.started_at), usage.identity, usage.engine LIMIT $2",
};

// 960,000 samples are a minute. Where a name was erased, each stream is somebody.
macro_rules! totals {
    ($which:literal) => {
        concat!(
            "SELECT COALESCE(sum(minutes), 0)::bigint, count(*) FROM (
                 SELECT ceil(sum(samples) / 960000.0) AS minutes FROM usage WHERE ",
            $which,
            " GROUP BY session_id, identity, CASE WHEN session_id IS NULL OR identity IS NULL THEN stream_id END) AS used"
        )
    };
}

const TOTALS: Statement =
    Statement { name: "usage_totals", sql: totals!("$1::text IS NULL OR user_id = $1") };

const SESSION_TOTALS: Statement = Statement {
    name: "session_usage_totals",
    sql: totals!("session_id = (SELECT id FROM sessions WHERE slug = $1)"),
};

// The same participant with the same beginning says the same again, or more of it. A session that is full takes no
// more.
const REPORT: Statement = Statement {
    name: "report_usage",
    sql: "WITH session AS (SELECT id FROM sessions WHERE slug = $1),
          earlier AS (
              DELETE FROM usage_reports USING session
              WHERE usage_reports.session_id = session.id AND usage_reports.identity = $2
                AND usage_reports.started_at = $4 RETURNING 1),
          kept AS (
              INSERT INTO usage_reports (session_id, identity, user_id, started_at, ended_at, duration_seconds,
                  audio_chunks_sent, transcripts, final_transcripts, partial_transcripts, errors, reported_at)
              SELECT session.id, $2::text, $3::text, $4::timestamptz, $5::timestamptz, $6::double precision, $7::bigint,
                  $8::bigint, $9::bigint, $10::bigint, $11::bigint, $12::timestamptz FROM session
              WHERE EXISTS (SELECT FROM earlier)
                 OR (SELECT count(*) FROM usage_reports WHERE usage_reports.session_id = session.id) < $13::bigint
              RETURNING 1)
          SELECT EXISTS (SELECT FROM kept) FROM session",
};

const REPORTS: Statement = Statement {
    name: "usage_reports",
    sql: "SELECT identity, user_id, usage_reports.started_at, usage_reports.ended_at, duration_seconds,
              audio_chunks_sent, transcripts, final_transcripts, partial_transcripts, errors
          FROM usage_reports JOIN sessions ON sessions.id = usage_reports.session_id WHERE sessions.slug = $1
          ORDER BY usage_reports.started_at, usage_reports.id LIMIT $2",
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

    /// What each participant of a session used of each engine, by when it began; at most 10,000. Empty when nothing was
    /// used, or there is no such session.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn session_usage(&self, session: &SessionSlug) -> Result<Vec<UsageRow>, StorageError> {
        let rows = self.query(&OF_SESSION, &[&session.as_str(), &ROWS_MAX]).await?;
        rows.iter()
            .map(|row| {
                Ok(UsageRow {
                    identity: row.try_get::<_, Option<String>>(0)?.map(parsed).transpose()?,
                    user: row.try_get::<_, Option<String>>(1)?.map(parsed).transpose()?,
                    engine: row.try_get(2)?,
                    sound: Samples(unsigned(row.try_get(3)?)),
                    started_at: timestamp(row.try_get(4)?),
                    ended_at: timestamp(row.try_get(5)?),
                })
            })
            .collect()
    }

    /// What was used in a session in all.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn session_usage_totals(&self, session: &SessionSlug) -> Result<UsageTotals, StorageError> {
        totals(self.query_opt(&SESSION_TOTALS, &[&session.as_str()]).await?)
    }

    /// What was used in all, by everybody or by one user.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn usage_totals(&self, user: Option<&UserId>) -> Result<UsageTotals, StorageError> {
        totals(self.query_opt(&TOTALS, &[&user.map(UserId::as_str)]).await?)
    }

    /// Keeps what a client says of its own use; a later report of the same participant with the same beginning takes
    /// the place of the earlier. `None` when there is no such session, `false` when it has [`REPORTS_MAX`] already.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn report_usage(
        &self,
        session: &SessionSlug,
        report: &UsageReport,
        now: Timestamp,
    ) -> Result<Option<bool>, StorageError> {
        let row = self
            .query_opt(
                &REPORT,
                &[
                    &session.as_str(),
                    &report.identity.as_str(),
                    &report.user.as_ref().map(UserId::as_str),
                    &report.started_at.to_jiff(),
                    &report.ended_at.to_jiff(),
                    &report.duration_seconds,
                    &i64::from(report.audio_chunks_sent),
                    &i64::from(report.transcripts),
                    &i64::from(report.final_transcripts),
                    &i64::from(report.partial_transcripts),
                    &i64::from(report.errors),
                    &now.to_jiff(),
                    &REPORTS_MAX,
                ],
            )
            .await?;
        row.map(|row| Ok(row.try_get(0)?)).transpose()
    }

    /// What clients said of their use of a session, by when it began.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn usage_reports(&self, session: &SessionSlug) -> Result<Vec<UsageReport>, StorageError> {
        let rows = self.query(&REPORTS, &[&session.as_str(), &REPORTS_MAX]).await?;
        rows.iter().map(report).collect()
    }
}

fn totals(row: Option<Row>) -> Result<UsageTotals, StorageError> {
    let Some(row) = row else { return Ok(UsageTotals::default()) };
    Ok(UsageTotals { minutes: unsigned(row.try_get(0)?), rows: unsigned(row.try_get(1)?) })
}

fn report(row: &Row) -> Result<UsageReport, StorageError> {
    let count = |index: usize| Ok::<_, StorageError>(number(row.try_get(index)?));
    Ok(UsageReport {
        identity: parsed(row.try_get(0)?)?,
        user: row.try_get::<_, Option<String>>(1)?.map(parsed).transpose()?,
        started_at: timestamp(row.try_get(2)?),
        ended_at: timestamp(row.try_get(3)?),
        duration_seconds: row.try_get(4)?,
        audio_chunks_sent: count(5)?,
        transcripts: count(6)?,
        final_transcripts: count(7)?,
        partial_transcripts: count(8)?,
        errors: count(9)?,
    })
}
