use std::collections::BTreeMap;

use futures_util::{Stream, TryStreamExt, stream};
use model::{
    Entry, Final, Identity, Samples, Sequence, SessionId, SessionSlug, Speaker, Spoken, StreamId, Timestamp,
    Topic, Translation, UtteranceId, Word,
};
use tokio_postgres::{Row, types::Json};

use crate::{
    Storage, StorageError,
    columns::{
        name, newest_revision, segment, segment_columns, signed, spoken, text, timestamp,
        translation_outcome, unsigned, word_columns,
    },
    connection::Statement,
    outbox_rows::{Payload, traceparent},
};

/// Finals in one page of [`Storage::transcript`].
const PAGE_FINALS: i64 = 500;

/// Our own transcription of an utterance. A correction is the next revision; see [`Storage::revise`].
const FIRST_REVISION: u32 = 0;

/// A finished utterance that is to be stored.
#[derive(Debug, Clone)]
pub struct NewFinal {
    /// From [`crate::OpenStream`].
    pub session_id: SessionId,
    /// The session it belongs to.
    pub session: SessionSlug,
    /// From [`crate::OpenStream`].
    pub epoch: i64,
    /// The stream that it was heard in.
    pub stream: StreamId,
    /// Number of the utterance in the stream.
    pub number: u32,
    /// Who spoke.
    pub speaker: Speaker,
    /// The text, not empty.
    pub text: String,
    /// Language (BCP 47), when it is known.
    pub language: Option<String>,
    /// Where the utterance begins in the stream.
    pub start: Samples,
    /// Where it ends. Rises from final to final of a stream.
    pub end: Samples,
    /// Its words in order; may be empty.
    pub words: Vec<Word>,
    /// Languages (BCP 47) that translations are wanted into: see [`Storage::claim_translations`].
    pub translate_to: Vec<String>,
    /// The present moment.
    pub at: Timestamp,
}

/// What [`Storage::record_final`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recorded {
    /// It is stored, with its sequence, and will be announced.
    Stored(Box<Final>),
    /// The stream was already stored up to its end: a repetition.
    AlreadyStored,
}

/// Which finals of a transcript are wanted; all by default.
#[derive(Debug, Clone, Default)]
pub struct TranscriptFilter {
    /// Those of this participant.
    pub speaker: Option<Identity>,
    /// Those that began at this moment or later.
    pub from: Option<Timestamp>,
    /// Those that began before this moment.
    pub to: Option<Timestamp>,
}

// One statement is one transaction and one round trip. `advanced` locks the stream and is empty unless we still own
// it and the final is new; `counted` locks the topic until the commit. Nothing follows from an empty `advanced`.
// A sample lasts 62.5 microseconds.
const RECORD: Statement = Statement {
    name: "record_final",
    sql: "WITH advanced AS (
              UPDATE streams SET
                  stored_end = $6,
                  next_utterance = GREATEST(next_utterance, $4::bigint + 1),
                  last_activity_at = GREATEST(last_activity_at, $13)
              WHERE id = $1 AND session_id = $2 AND epoch = $3 AND stored_end < $6
              RETURNING started_at),
          counted AS (
              INSERT INTO topics (name, sequence) SELECT $7::text, 1 FROM advanced
              ON CONFLICT (name) DO UPDATE SET sequence = topics.sequence + 1
              RETURNING sequence),
          stored AS (
              INSERT INTO segments (
                  session_id, sequence, stream_id, utterance, revision, speaker_identity, speaker_name, text,
                  language, start_sample, end_sample, words, started_at, ended_at, stored_at)
              SELECT $2::uuid, counted.sequence, $1::uuid, $4::bigint, $15::integer, $8::text, $9::text, $10::text,
                  $11::text, $5::bigint, $6::bigint, $12::jsonb,
                  advanced.started_at + $5::bigint * 125 / 2 * interval '1 microsecond',
                  advanced.started_at + $6::bigint * 125 / 2 * interval '1 microsecond', $13::timestamptz
              FROM advanced, counted
              RETURNING sequence),
          wanted AS (
              INSERT INTO translations (session_id, segment, language, wanted_at)
              SELECT $2::uuid, stored.sequence, language, $13::timestamptz
              FROM stored, unnest($16::text[]) AS language
              ON CONFLICT (session_id, segment, language) DO NOTHING),
          announced AS (
              INSERT INTO outbox (topic, sequence, payload, created_at, traceparent)
              SELECT $7::text, stored.sequence, $14::jsonb, $13::timestamptz, $17::text FROM stored)
          SELECT sequence FROM stored",
};

pub(crate) const OWNED_BY_EPOCH: Statement =
    Statement { name: "stream_owner", sql: "SELECT FROM streams WHERE id = $1 AND epoch = $2" };

// One statement, so that whatever it shows, it shows all that comes before.
const SINCE: Statement = Statement {
    name: "entries_since",
    sql: concat!(
        "WITH told AS (
             SELECT segments.session_id, segments.sequence AS place, segments.sequence AS segment,
                 NULL::bigint AS translation
             FROM segments WHERE session_id = (SELECT id FROM sessions WHERE slug = $1) AND segments.sequence > $2
             UNION ALL
             SELECT session_id, sequence, segment, id FROM translations
             WHERE session_id = (SELECT id FROM sessions WHERE slug = $1) AND sequence > $2
             ORDER BY place LIMIT $3)
         SELECT ",
        segment_columns!(),
        ", told.place, translated.language, translated.text, translated.failure, translated.told_at
          FROM told
          JOIN segments ON segments.session_id = told.session_id AND segments.sequence = told.segment
          LEFT JOIN translations AS translated ON translated.id = told.translation
          ORDER BY told.place"
    ),
};

const LAST_SEQUENCE: Statement =
    Statement { name: "last_sequence", sql: "SELECT sequence FROM topics WHERE name = $1" };

const TRANSCRIPT: Statement = Statement {
    name: "transcript",
    sql: concat!(
        "SELECT ",
        segment_columns!(),
        " FROM segments JOIN sessions ON sessions.id = segments.session_id
          WHERE sessions.slug = $1
            AND (segments.started_at, segments.sequence) > (COALESCE($2::timestamptz, '-infinity'), $3)
            AND ($5::text IS NULL OR segments.speaker_identity = $5)
            AND segments.started_at < COALESCE($6::timestamptz, 'infinity')
            AND ",
        newest_revision!(),
        " ORDER BY segments.started_at, segments.sequence LIMIT $4"
    ),
};

impl Storage {
    /// Stores a final, gives it the next sequence of its session's topic and queues its announcement, all or
    /// nothing. Safe to repeat after any error: what was stored is not stored twice.
    ///
    /// # Errors
    /// [`StorageError::Superseded`] when another worker has opened the stream since; else as any operation here.
    pub async fn record_final(&self, segment: &NewFinal) -> Result<Recorded, StorageError> {
        let stored = Final {
            session: segment.session.clone(),
            sequence: Sequence::default(),
            utterance: UtteranceId::Heard { stream: segment.stream, number: segment.number },
            revision: FIRST_REVISION,
            speaker: Speaker {
                identity: segment.speaker.identity.clone(),
                name: name(segment.speaker.name.as_deref()).map(Into::into),
            },
            text: text(&segment.text).into_owned(),
            language: segment.language.as_deref().map(|language| text(language).into_owned()),
            start: segment.start,
            end: segment.end,
            words: segment.words.clone(),
            at: segment.at,
            outside: None,
            translations: BTreeMap::new(),
        };
        let topic = Topic::Session(segment.session.clone()).to_string();
        let row = self
            .query_opt(
                &RECORD,
                &[
                    &segment.stream.0,
                    &segment.session_id.0,
                    &segment.epoch,
                    &i64::from(segment.number),
                    &signed(segment.start.0),
                    &signed(segment.end.0),
                    &topic,
                    &stored.speaker.identity.as_str(),
                    &stored.speaker.name,
                    &stored.text,
                    &stored.language,
                    &Json(word_columns(&segment.words)),
                    &segment.at.to_jiff(),
                    &Json(Payload::of(&stored)),
                    &i32::try_from(FIRST_REVISION).unwrap_or(0),
                    &segment.translate_to,
                    &traceparent(),
                ],
            )
            .await?;
        if let Some(row) = row {
            let sequence = Sequence(unsigned(row.try_get(0)?));
            return Ok(Recorded::Stored(Box::new(Final { sequence, ..stored })));
        }
        let owner = [&segment.stream.0 as _, &segment.epoch as _];
        match self.query_opt(&OWNED_BY_EPOCH, &owner).await? {
            Some(_) => Ok(Recorded::AlreadyStored),
            None => Err(StorageError::Superseded.counted()),
        }
    }

    /// What is stored of the session with a sequence above `after`, ascending, at most `limit`: finals, and what became of
    /// their translations. Empty when there is none or no such session.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn entries_since(
        &self,
        session: &SessionSlug,
        after: Sequence,
        limit: u32,
    ) -> Result<Vec<Entry>, StorageError> {
        let rows = self.query(&SINCE, &[&session.as_str(), &signed(after.0), &i64::from(limit)]).await?;
        rows.iter().map(|row| entry(session, row)).collect()
    }

    /// The newest sequence of the topic; 0 when it has none.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn last_sequence(&self, topic: &Topic) -> Result<Sequence, StorageError> {
        match self.query_opt(&LAST_SEQUENCE, &[&topic.to_string()]).await? {
            Some(row) => Ok(Sequence(unsigned(row.try_get(0)?))),
            None => Ok(Sequence::default()),
        }
    }

    /// The newest revision of each utterance in the order in which they began, read page by page as the stream is
    /// polled. Ends after its first error.
    pub fn transcript(
        &self,
        session: &SessionSlug,
        filter: &TranscriptFilter,
    ) -> impl Stream<Item = Result<Spoken, StorageError>> + Send + use<> {
        let position = (filter.from.map(Timestamp::to_jiff), 0);
        let begin = (self.clone(), session.clone(), filter.clone(), Some(position));
        stream::try_unfold(begin, async |(storage, session, filter, position)| {
            let Some(position) = position else { return Ok::<_, StorageError>(None) };
            let (said, next) = storage.transcript_page(&session, &filter, position).await?;
            Ok(Some((stream::iter(said.into_iter().map(Ok)), (storage, session, filter, next))))
        })
        .try_flatten()
    }

    /// Finals that began after `position`, and the position of the next page if there may be one.
    async fn transcript_page(
        &self,
        session: &SessionSlug,
        filter: &TranscriptFilter,
        (began, sequence): Position,
    ) -> Result<(Vec<Spoken>, Option<Position>), StorageError> {
        let speaker = filter.speaker.as_ref().map(Identity::as_str);
        let to = filter.to.map(Timestamp::to_jiff);
        let rows = self
            .query(&TRANSCRIPT, &[&session.as_str(), &began, &sequence, &PAGE_FINALS, &speaker, &to])
            .await?;
        let said = rows.iter().map(|row| spoken(session, row)).collect::<Result<_, _>>()?;
        let next = match rows.last() {
            Some(last) if signed(rows.len() as u64) == PAGE_FINALS => {
                Some((Some(last.try_get(14)?), last.try_get(0)?))
            }
            _ => None,
        };
        Ok((said, next))
    }
}

fn entry(session: &SessionSlug, row: &Row) -> Result<Entry, StorageError> {
    let segment = segment(session, row)?;
    let Some(language) = row.try_get(18)? else { return Ok(Entry::Final(segment)) };
    Ok(Entry::Translation(Translation {
        session: segment.session,
        sequence: Sequence(unsigned(row.try_get(17)?)),
        utterance: segment.utterance,
        revision: segment.revision,
        speaker: segment.speaker,
        language,
        outcome: translation_outcome(row.try_get(19)?, row.try_get(20)?),
        at: timestamp(row.try_get(21)?),
    }))
}

/// Where a final lies in its session: when it began (`None` is before all), and its sequence.
type Position = (Option<jiff::Timestamp>, i64);
