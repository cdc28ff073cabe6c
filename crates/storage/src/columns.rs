//! How nouns lie in rows.

use std::{borrow::Cow, collections::BTreeMap};

use model::{
    Final, JsonObject, Outside, OutsideId, Samples, Sequence, SessionSlug, Speaker, Spoken, StreamId,
    Timestamp, Untranslated, UserId, UtteranceId, Word,
};
use serde::{Deserialize, Serialize};
use tokio_postgres::{Row, types::Json};
use uuid::Uuid;

use crate::StorageError;

/// A word as it lies in `segments.words` and in the outbox, positions in samples.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WordColumn {
    text: String,
    start: u64,
    end: u64,
}

pub(crate) fn word_columns(words: &[Word]) -> Vec<WordColumn> {
    let column = |word: &Word| WordColumn {
        text: text(&word.text).into_owned(),
        start: word.start.0,
        end: word.end.0,
    };
    words.iter().map(column).collect()
}

pub(crate) fn words(columns: Vec<WordColumn>) -> Vec<Word> {
    let word =
        |word: WordColumn| Word { text: word.text, start: Samples(word.start), end: Samples(word.end) };
    columns.into_iter().map(word).collect()
}

/// What a back end gave beside a text, as it lies in `segments.outside` and in the outbox.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct OutsideColumn {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<UserId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    said_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message: Option<JsonObject>,
}

pub(crate) fn outside_column(outside: Option<&Outside>) -> Option<OutsideColumn> {
    outside.map(|outside| OutsideColumn {
        user: outside.user.clone(),
        said_at: outside.said_at,
        message: outside.message.clone(),
    })
}

pub(crate) fn outside(column: Option<OutsideColumn>) -> Option<Outside> {
    column.map(|OutsideColumn { user, said_at, message }| Outside { user, said_at, message })
}

/// The columns that [`segment`] and [`spoken`] read, in their order: 17.
macro_rules! segment_columns {
    () => {
        "segments.sequence, segments.stream_id, segments.utterance, segments.revision, segments.speaker_identity,
         segments.speaker_name, segments.text, segments.language, segments.start_sample, segments.end_sample,
         segments.words, segments.stored_at, segments.outside_id, segments.outside,
         segments.started_at, segments.ended_at,
         (SELECT jsonb_object_agg(translations.language, translations.text) FROM translations
          WHERE translations.session_id = segments.session_id AND translations.segment = segments.sequence
            AND translations.text IS NOT NULL)"
    };
}
pub(crate) use segment_columns;

/// Whether a segment is what its utterance says now.
macro_rules! newest_revision {
    () => {
        "NOT EXISTS (SELECT FROM segments AS newer
                     WHERE newer.session_id = segments.session_id AND newer.utterance_id = segments.utterance_id
                       AND newer.revision > segments.revision)"
    };
}
pub(crate) use newest_revision;

pub(crate) fn spoken(session: &SessionSlug, row: &Row) -> Result<Spoken, StorageError> {
    Ok(Spoken {
        segment: segment(session, row)?,
        started_at: timestamp(row.try_get(14)?),
        ended_at: timestamp(row.try_get(15)?),
    })
}

pub(crate) fn segment(session: &SessionSlug, row: &Row) -> Result<Final, StorageError> {
    let Json(columns) = row.try_get::<_, Json<Vec<WordColumn>>>(10)?;
    let utterance = match row.try_get::<_, Option<String>>(12)? {
        Some(id) => UtteranceId::Outside(parsed::<OutsideId>(id)?),
        None => UtteranceId::Heard {
            stream: StreamId(row.try_get::<_, Uuid>(1)?),
            number: number(row.try_get(2)?),
        },
    };
    Ok(Final {
        session: session.clone(),
        sequence: Sequence(unsigned(row.try_get(0)?)),
        utterance,
        revision: number(i64::from(row.try_get::<_, i32>(3)?)),
        speaker: Speaker { identity: parsed(row.try_get(4)?)?, name: row.try_get(5)? },
        text: row.try_get(6)?,
        language: row.try_get(7)?,
        start: Samples(unsigned(row.try_get(8)?)),
        end: Samples(unsigned(row.try_get(9)?)),
        words: words(columns),
        at: timestamp(row.try_get(11)?),
        outside: outside(row.try_get::<_, Option<Json<OutsideColumn>>>(13)?.map(|Json(column)| column)),
        translations: row
            .try_get::<_, Option<Json<BTreeMap<String, String>>>>(16)?
            .map(|Json(translations)| translations)
            .unwrap_or_default(),
    })
}

/// What became of a translation. A reason of a later release is told as the most general one.
pub(crate) fn translation_outcome(
    text: Option<String>,
    failure: Option<&str>,
) -> Result<String, Untranslated> {
    let failure = || failure.and_then(Untranslated::from_label).unwrap_or(Untranslated::Unavailable);
    text.ok_or_else(failure)
}

/// Text that Postgres takes: it has no U+0000.
pub(crate) fn text(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "")) } else { Cow::Borrowed(text) }
}

/// A name, when it says anything.
pub(crate) fn name(name: Option<&str>) -> Option<Cow<'_, str>> {
    name.map(|name| text(name.trim())).filter(|name| !name.is_empty())
}

pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(crate) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

pub(crate) fn number(value: i64) -> u32 {
    u32::try_from(value.max(0)).unwrap_or(u32::MAX)
}

pub(crate) fn timestamp(moment: jiff::Timestamp) -> Timestamp {
    moment.into()
}

/// An id or topic that we wrote ourselves.
pub(crate) fn parsed<T: TryFrom<String>>(stored: String) -> Result<T, StorageError> {
    T::try_from(stored).map_err(|_| StorageError::Defect("a stored id cannot be read".to_owned()))
}
