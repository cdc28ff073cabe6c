//! Finals from outside: what a back end transcribed by itself, and corrections of what is stored.

use model::{Final, Outside, SessionSlug, Speaker, Timestamp, Topic, UtteranceId};
use tokio_postgres::types::{Json, ToSql};

use crate::{
    Storage, StorageError,
    columns::{name, outside_column, segment, segment_columns, text},
    connection::Statement,
    outbox_rows::traceparent,
};

/// A text that takes its place in a session: the first of an utterance that we did not hear, or a correction.
#[derive(Debug, Clone)]
pub struct Revision {
    /// The session, which comes into being here.
    pub session: SessionSlug,
    /// The utterance. One that is stored gets another revision, in its place; else it begins.
    pub utterance: UtteranceId,
    /// Who spoke; as it is stored when absent, and the whole room when nothing is.
    pub speaker: Option<Speaker>,
    /// The text, not empty.
    pub text: String,
    /// Language (BCP 47), when it is known.
    pub language: Option<String>,
    /// What a back end gave beside; `None` when it is ours.
    pub outside: Option<Outside>,
    /// When it was said; as it is stored, when it is.
    pub said_at: Timestamp,
    /// The present moment.
    pub at: Timestamp,
}

// Runs under the lock of the topic, so that `latest` is the latest. The same text again changes nothing.
const REVISE: Statement = Statement {
    name: "revise",
    sql: concat!(
        "WITH session AS (
             INSERT INTO sessions (slug, status, created_at, started_at, last_activity_at)
             VALUES ($2, 'live', $3, $3, $3)
             ON CONFLICT (slug) DO UPDATE SET
                 last_activity_at = GREATEST(sessions.last_activity_at, excluded.last_activity_at)
             RETURNING id),
         latest AS (
             SELECT segments.* FROM segments JOIN session ON segments.session_id = session.id
             WHERE segments.utterance_id = $4 ORDER BY segments.revision DESC LIMIT 1),
         counted AS (
             UPDATE topics SET sequence = sequence + 1
             WHERE name = $1 AND NOT EXISTS (SELECT FROM latest WHERE latest.text = $5)
             RETURNING sequence),
         stored AS (
             INSERT INTO segments (
                 session_id, sequence, stream_id, utterance, outside_id, outside, revision, speaker_identity,
                 speaker_name, text, language, start_sample, end_sample, words, started_at, ended_at, stored_at)
             SELECT session.id, counted.sequence, latest.stream_id, latest.utterance,
                 CASE WHEN latest.stream_id IS NULL THEN $4::text END, $6::json, COALESCE(latest.revision + 1, 0),
                 COALESCE($7::text, latest.speaker_identity, $8::text),
                 CASE WHEN $7::text IS NULL THEN latest.speaker_name ELSE $9::text END, $5::text,
                 COALESCE($10::text, latest.language), COALESCE(latest.start_sample, 0),
                 COALESCE(latest.end_sample, 0), '[]'::jsonb, COALESCE(latest.started_at, $11::timestamptz),
                 COALESCE(latest.ended_at, $11::timestamptz), $3::timestamptz
             FROM session CROSS JOIN counted LEFT JOIN latest ON true
             RETURNING *),
         -- What was said before is not worth a translation any more; what is said now is.
         outdated AS (
             DELETE FROM translations USING latest, stored
             WHERE translations.session_id = latest.session_id AND translations.segment = latest.sequence
               AND translations.sequence IS NULL),
         wanted AS (
             INSERT INTO translations (session_id, segment, language, wanted_at)
             SELECT stored.session_id, stored.sequence, translations.language, $3::timestamptz
             FROM stored CROSS JOIN latest
             JOIN translations ON translations.session_id = latest.session_id
                 AND translations.segment = latest.sequence),
         announced AS (
             INSERT INTO outbox (topic, sequence, payload, created_at, traceparent)
             SELECT $1::text, sequence, jsonb_build_object(
                 'kind', 'final', 'session', $2::text, 'utterance', utterance_id, 'revision', revision,
                 'identity', speaker_identity, 'name', speaker_name, 'text', text, 'language', language,
                 'start', start_sample, 'end', end_sample, 'words', words,
                 'at', (extract(epoch FROM stored_at) * 1000)::bigint, 'outside', outside::jsonb), $3::timestamptz, $12::text
             FROM stored)
         SELECT ",
        segment_columns!(),
        " FROM stored AS segments"
    ),
};

impl Storage {
    /// Stores a final from outside or a correction, gives it the next sequence of its session's topic and queues its
    /// announcement, all or nothing. `None` when the utterance has just this text already: nothing is stored then, so
    /// repeating it after any error is safe.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn revise(&self, revision: &Revision) -> Result<Option<Final>, StorageError> {
        let topic = Topic::Session(revision.session.clone()).to_string();
        let speaker = revision.speaker.as_ref();
        let parameters: [&(dyn ToSql + Sync); 12] = [
            &topic,
            &revision.session.as_str(),
            &revision.at.to_jiff(),
            &revision.utterance.to_string(),
            &text(&revision.text),
            &outside_column(revision.outside.as_ref()).map(Json),
            &speaker.map(|speaker| speaker.identity.as_str()),
            &Speaker::ROOM,
            &name(speaker.and_then(|speaker| speaker.name.as_deref())),
            &revision.language,
            &revision.said_at.to_jiff(),
            &traceparent(),
        ];
        let row = self.in_topic(&topic, true, &REVISE, &parameters).await?;
        row.map(|row| segment(&revision.session, &row)).transpose()
    }
}
