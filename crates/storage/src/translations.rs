//! Translations of finals: wanted with their final, claimed by whoever can translate, and told once as texts or as failures.

use std::time::Duration;

use model::{Sequence, SessionSlug, Timestamp, Topic, Untranslated, UtteranceId};
use tokio_postgres::{Row, types::ToSql};

use crate::{
    Storage, StorageError,
    columns::{number, parsed, text, timestamp, unsigned},
    connection::Statement,
    outbox_rows::traceparent,
};

/// A translation that nobody has made yet, lent to whoever claimed it.
#[derive(Clone)]
pub struct WantedTranslation {
    /// Its row.
    pub id: i64,
    /// The session.
    pub session: SessionSlug,
    /// The utterance.
    pub utterance: UtteranceId,
    /// Of which revision of it.
    pub revision: u32,
    /// What was said.
    pub text: String,
    /// In which language (BCP 47), when that is known.
    pub source: Option<String>,
    /// Into which language (BCP 47).
    pub target: String,
    /// When the final was stored.
    pub wanted_at: Timestamp,
}

/// What became of a translation.
#[derive(Clone)]
pub struct NewTranslation {
    /// The session.
    pub session: SessionSlug,
    /// The utterance.
    pub utterance: UtteranceId,
    /// Of which revision of it.
    pub revision: u32,
    /// Into which language, as it was wanted.
    pub target: String,
    /// The text, not empty, or why there is none.
    pub outcome: Result<String, Untranslated>,
    /// The present moment.
    pub at: Timestamp,
}

/// What waits to be translated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waiting {
    /// How many.
    pub count: u64,
    /// When the next of them may be claimed: past for those that nobody holds.
    pub next: Option<Timestamp>,
}

pub(crate) const CLAIM: Statement = Statement {
    name: "claim_translations",
    sql: "WITH claimed AS (
              UPDATE translations SET held_until = $2
              WHERE id IN (
                  SELECT id FROM translations
                  WHERE sequence IS NULL AND held_until <= $1 AND wanted_at <= COALESCE($3, 'infinity'::timestamptz)
                  ORDER BY wanted_at, id LIMIT $4 FOR UPDATE SKIP LOCKED)
              RETURNING id, session_id, segment, language, wanted_at)
          SELECT claimed.id, sessions.slug, segments.utterance_id, segments.revision, segments.text,
              segments.language, claimed.language, claimed.wanted_at
          FROM claimed
          JOIN segments ON segments.session_id = claimed.session_id AND segments.sequence = claimed.segment
          JOIN sessions ON sessions.id = claimed.session_id
          ORDER BY claimed.wanted_at, claimed.id",
};

const HOLD: Statement = Statement {
    name: "hold_translations",
    sql: "UPDATE translations SET held_until = $2 WHERE id = ANY($1) AND sequence IS NULL",
};

pub(crate) const WAITING: Statement = Statement {
    name: "waiting_translations",
    sql: "SELECT count(*), min(held_until) FILTER (WHERE held_until > '-infinity'),
              bool_or(held_until = '-infinity')
          FROM translations WHERE sequence IS NULL",
};

// Runs under the lock of the topic. Told already, or deleted: no sequence is taken.
const TELL: Statement = Statement {
    name: "tell_translation",
    sql: "WITH wanted AS (
              SELECT translations.id, segments.speaker_identity, segments.speaker_name
              FROM translations
              JOIN segments ON segments.session_id = translations.session_id
                  AND segments.sequence = translations.segment
              JOIN sessions ON sessions.id = translations.session_id
              WHERE sessions.slug = $2 AND segments.utterance_id = $3 AND segments.revision = $4
                AND translations.language = $5 AND translations.sequence IS NULL
              FOR UPDATE OF translations),
          counted AS (
              UPDATE topics SET sequence = sequence + 1 WHERE name = $1 AND EXISTS (SELECT FROM wanted)
              RETURNING sequence),
          told AS (
              UPDATE translations SET sequence = counted.sequence, text = $6, failure = $7, told_at = $8
              FROM wanted, counted WHERE translations.id = wanted.id
              RETURNING translations.sequence, wanted.speaker_identity, wanted.speaker_name),
          announced AS (
              INSERT INTO outbox (topic, sequence, payload, created_at, traceparent)
              SELECT $1::text, sequence, jsonb_build_object(
                  'kind', 'translation', 'session', $2::text, 'utterance', $3::text, 'revision', $4::integer,
                  'identity', speaker_identity, 'name', speaker_name, 'language', $5::text, 'text', $6::text,
                  'failure', $7::text, 'at', (extract(epoch FROM $8::timestamptz) * 1000)::bigint),
                  $8::timestamptz, $9::text
              FROM told)
          SELECT sequence FROM told",
};

impl Storage {
    /// Takes up to `limit` of the oldest translations that nobody holds, only those wanted at `before` or earlier if it is
    /// given, and holds them for `lease`: when the caller dies, somebody else takes them then.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn claim_translations(
        &self,
        before: Option<Timestamp>,
        limit: u32,
        lease: Duration,
        now: Timestamp,
    ) -> Result<Vec<WantedTranslation>, StorageError> {
        let until = now.after(lease).to_jiff();
        let rows = self
            .query(&CLAIM, &[&now.to_jiff(), &until, &before.map(Timestamp::to_jiff), &i64::from(limit)])
            .await?;
        rows.iter().map(wanted).collect()
    }

    /// Holds claimed translations until then, or gives them back when that is past.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn hold_translations(&self, ids: &[i64], until: Timestamp) -> Result<(), StorageError> {
        self.query(&HOLD, &[&ids, &until.to_jiff()]).await.map(drop)
    }

    /// What waits in all of the database.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn waiting_translations(&self) -> Result<Waiting, StorageError> {
        let Some(row) = self.query_opt(&WAITING, &[]).await? else { return Ok(Waiting::default()) };
        let free: Option<bool> = row.try_get(2)?;
        let held: Option<jiff::Timestamp> = row.try_get(1)?;
        let next = if free == Some(true) { Some(Timestamp(0)) } else { held.map(timestamp) };
        Ok(Waiting { count: unsigned(row.try_get(0)?), next })
    }

    /// Stores what became of a translation, gives it the next sequence of its session's topic and queues its announcement,
    /// all or nothing. `None` when that is known already or the translation is not wanted any more: nothing is stored
    /// then, so that it is told once whoever else worked on it, and repeating it after any error is safe.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn tell_translation(&self, told: &NewTranslation) -> Result<Option<Sequence>, StorageError> {
        let topic = Topic::Session(told.session.clone()).to_string();
        let revision = i32::try_from(told.revision).unwrap_or(i32::MAX);
        let parameters: [&(dyn ToSql + Sync); 9] = [
            &topic,
            &told.session.as_str(),
            &told.utterance.to_string(),
            &revision,
            &told.target,
            &told.outcome.as_deref().ok().map(text),
            &told.outcome.as_ref().err().map(|failure| failure.label()),
            &told.at.to_jiff(),
            &traceparent(),
        ];
        let row = self.in_topic(&topic, false, &TELL, &parameters).await?;
        row.map(|row| Ok(Sequence(unsigned(row.try_get(0)?)))).transpose()
    }
}

fn wanted(row: &Row) -> Result<WantedTranslation, StorageError> {
    Ok(WantedTranslation {
        id: row.try_get(0)?,
        session: parsed(row.try_get(1)?)?,
        utterance: parsed(row.try_get(2)?)?,
        revision: number(i64::from(row.try_get::<_, i32>(3)?)),
        text: row.try_get(4)?,
        source: row.try_get(5)?,
        target: row.try_get(6)?,
        wanted_at: timestamp(row.try_get(7)?),
    })
}
