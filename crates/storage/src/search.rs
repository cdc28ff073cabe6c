//! Finding what was said by its words.

use std::{fmt, str::FromStr};

use model::{SessionSlug, Spoken};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::{
    Storage, StorageError,
    columns::{newest_revision, parsed, segment_columns, spoken, text},
    connection::Statement,
};

/// What is looked for.
#[derive(Debug, Clone)]
pub struct Search<'a> {
    /// Words, all of which must be there; `or`, `-word` and `"words in a row"` mean what they mean to search engines.
    pub query: &'a str,
    /// Only in this session.
    pub session: Option<&'a SessionSlug>,
    /// Only what comes after this in the order of results.
    pub before: Option<SearchPosition>,
    /// Most results.
    pub limit: u32,
}

/// A place in the order of results: newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SearchPosition {
    began: jiff::Timestamp,
    session: Uuid,
    sequence: i64,
}

/// A text that names no place in results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected what an earlier page of results gave")]
pub struct InvalidPosition;

impl fmt::Display for SearchPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.began.as_microsecond(), self.sequence, self.session.simple())
    }
}

impl FromStr for SearchPosition {
    type Err = InvalidPosition;
    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        let read = |text: &str| {
            let (began, rest) = text.split_once('.')?;
            let (sequence, session) = rest.split_once('.')?;
            Some(Self {
                began: jiff::Timestamp::from_microsecond(began.parse().ok()?).ok()?,
                session: session.parse().ok()?,
                sequence: sequence.parse().ok()?,
            })
        };
        read(text).ok_or(InvalidPosition)
    }
}

/// A final in which the words are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The final, as it is now.
    pub spoken: Spoken,
    /// The part of its text around the words, each of them between `**`.
    pub snippet: String,
}

/// Results, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundPage {
    /// At most as many as were wanted.
    pub found: Vec<Found>,
    /// Where the next page goes on; `None` when there is none.
    pub next: Option<SearchPosition>,
}

/// The words of `$1` by their stems, in either language: as they lie in `segments.search`.
macro_rules! words {
    () => {
        "(websearch_to_tsquery('english', $1) || websearch_to_tsquery('russian', $1))"
    };
}

// What only says which words are not to be there (`querytree` is T) would read every row. The Russian configuration
// knows the stems of Latin words as well, so that it marks words of both languages.
const SEARCH: Statement = Statement {
    name: "search",
    sql: concat!(
        "WITH found AS (
             SELECT segments.*, sessions.slug FROM segments JOIN sessions ON sessions.id = segments.session_id
             WHERE segments.search @@ ",
        words!(),
        " AND querytree(",
        words!(),
        ") <> 'T' AND ($2::text IS NULL OR sessions.slug = $2)
               AND ($3::timestamptz IS NULL
                    OR (segments.started_at, segments.session_id, segments.sequence) < ($3, $4::uuid, $5::bigint))
               AND ",
        newest_revision!(),
        " ORDER BY segments.started_at DESC, segments.session_id DESC, segments.sequence DESC LIMIT $6)
         SELECT ",
        segment_columns!(),
        ", segments.slug, segments.session_id,
            ts_headline('russian', segments.text, ",
        words!(),
        ", 'StartSel=**, StopSel=**, MaxWords=30, MinWords=10')
         FROM found AS segments
         ORDER BY segments.started_at DESC, segments.session_id DESC, segments.sequence DESC"
    ),
};

impl Storage {
    /// Finals in which the words are, by their stems in English or Russian, in their newest revision; newest first.
    /// Nothing is found by words that say nothing (`the`), and by those alone that are not to be there.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn search(&self, search: &Search<'_>) -> Result<FoundPage, StorageError> {
        let session = search.session.map(SessionSlug::as_str);
        let (began, last_session, sequence) = match search.before {
            Some(position) => (Some(position.began), Some(position.session), Some(position.sequence)),
            None => (None, None, None),
        };
        let limit = i64::from(search.limit);
        let rows = self
            .query(&SEARCH, &[&text(search.query), &session, &began, &last_session, &sequence, &limit])
            .await?;
        let next = match rows.last() {
            Some(last) if i64::try_from(rows.len()) == Ok(limit) => Some(position(last)?),
            _ => None,
        };
        Ok(FoundPage { found: rows.iter().map(found).collect::<Result<_, _>>()?, next })
    }
}

fn position(row: &Row) -> Result<SearchPosition, StorageError> {
    Ok(SearchPosition { began: row.try_get(14)?, session: row.try_get(18)?, sequence: row.try_get(0)? })
}

fn found(row: &Row) -> Result<Found, StorageError> {
    let session = parsed(row.try_get(17)?)?;
    Ok(Found { spoken: spoken(&session, row)?, snippet: row.try_get(19)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_survive_text() {
        let position = SearchPosition {
            began: jiff::Timestamp::from_microsecond(1_700_000_000_000_001).unwrap(),
            session: Uuid::from_u128(7),
            sequence: 12,
        };
        assert_eq!(position.to_string().parse(), Ok(position));
        for wrong in [
            "",
            "1",
            "1.2",
            "1.2.3",
            "x.1.00000000000000000000000000000007",
            "9223372036854775807.1.00000000000000000000000000000007",
        ] {
            assert_eq!(wrong.parse::<SearchPosition>(), Err(InvalidPosition), "{wrong}");
        }
    }
}
