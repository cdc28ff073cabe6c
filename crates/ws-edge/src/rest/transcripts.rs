//! What was said in sessions: read, found, deleted.

use std::{collections::BTreeMap, pin::pin};

use futures_util::TryStreamExt;
use http::{Method, StatusCode, request::Parts};
use model::{Identity, Sequence, SessionSlug, Spoken, Timestamp};
use serde::Serialize;
use serde_json::{Map, Value};
use storage::{Erasing, Found, Search, TranscriptFilter};
use subtitles::Format;

use super::{NO_SESSION, Refused, readable_session, session_caller};
use crate::{
    Edge,
    answers::{self, Answer},
    handshake::{parameter, path_part},
    proof::Caller,
};

/// Transcripts that are read and written down at a time; others wait.
pub(crate) const READERS_MAX: usize = 4;

/// Finals of one transcript.
const FINALS_MAX: usize = 50_000;

/// Text of one transcript, in bytes, with what its word times take.
const TRANSCRIPT_BYTES_MAX: usize = 32 * 1024 * 1024;

/// What the times of one word take, about.
const WORD_BYTES: usize = 32;

/// Longest text that is looked for, in bytes.
const QUERY_BYTES_MAX: usize = 400;

/// Results in one answer: at most, and when the request does not say.
const RESULTS: (u32, u32) = (100, 20);

const TOO_LONG: Refused = Refused::Status(
    StatusCode::PAYLOAD_TOO_LARGE,
    "The transcript is too long for one answer: narrow it with from, to and speaker",
    "too_large",
);

/// `GET /api/sessions/{slug}/transcript`.
pub(super) async fn read(edge: &Edge, head: &Parts, slug: &str) -> Result<Answer, Refused> {
    if head.method != Method::GET && head.method != Method::HEAD {
        return Err(Refused::Method("GET, OPTIONS"));
    }
    let session = readable_session(edge, head, slug)?;
    let query = head.uri.query().unwrap_or_default();
    let format = match given(query, "format") {
        None => Format::Json,
        Some(format) => format
            .parse()
            .map_err(|_| Refused::Wrong("format must be json, txt, srt or vtt", "format_invalid"))?,
    };
    let speaker = match given(query, "speaker") {
        None => None,
        Some(speaker) => Some(
            speaker
                .parse::<Identity>()
                .map_err(|_| Refused::Wrong("speaker must be an identity", "speaker_invalid"))?,
        ),
    };
    let language = given(query, "language");
    let filter = TranscriptFilter { speaker, from: moment(query, "from")?, to: moment(query, "to")? };
    // Only a semaphore that was closed has no places, and nobody closes this one.
    let _place = edge.readers.acquire().await;
    edge.storage.session(&session).await?.ok_or(NO_SESSION)?;
    let said = collect(edge, &session, &filter).await?;
    let rendered = tokio::task::spawn_blocking(move || {
        let said = match &language {
            Some(language) => subtitles::translated(said, language),
            None => said,
        };
        subtitles::render(format, &session, &said)
    });
    let rendered = rendered.await;
    match rendered {
        Ok(text) => Ok(answers::text(StatusCode::OK, format.content_type(), text)),
        Err(error) => {
            tracing::error!(%error, "write a transcript down");
            Err(Refused::Status(StatusCode::INTERNAL_SERVER_ERROR, "Internal error", "defect"))
        }
    }
}

async fn collect(
    edge: &Edge,
    session: &SessionSlug,
    filter: &TranscriptFilter,
) -> Result<Vec<Spoken>, Refused> {
    let mut stored = pin!(edge.storage.transcript(session, filter));
    let (mut said, mut bytes) = (Vec::new(), 0_usize);
    while let Some(spoken) = stored.try_next().await? {
        let words = spoken.segment.words.iter().map(|word| word.text.len() + WORD_BYTES);
        let translations = spoken.segment.translations.values().map(String::len);
        bytes += spoken.segment.text.len() + words.sum::<usize>() + translations.sum::<usize>();
        if said.len() >= FINALS_MAX || bytes > TRANSCRIPT_BYTES_MAX {
            return Err(TOO_LONG);
        }
        said.push(spoken);
    }
    Ok(said)
}

/// A parameter that is there and not empty.
fn given(query: &str, name: &str) -> Option<String> {
    parameter(query, name).filter(|value| !value.is_empty())
}

/// RFC 3339, or milliseconds since 1970.
fn moment(query: &str, name: &str) -> Result<Option<Timestamp>, Refused> {
    let Some(text) = given(query, name) else { return Ok(None) };
    // The plus of an offset is a space in a query where nobody has escaped it.
    let calendar = || text.replace(' ', "+").parse::<jiff::Timestamp>().ok().map(Timestamp::from);
    let moment = text.parse().ok().map(Timestamp).or_else(calendar);
    let wrong = Refused::Wrong("from and to must be RFC 3339 or milliseconds since 1970", "moment_invalid");
    moment.map(Some).ok_or(wrong)
}

/// `DELETE /api/sessions/{slug}`.
pub(super) async fn delete(edge: &Edge, head: &Parts, slug: &str) -> Result<Answer, Refused> {
    if head.method != Method::DELETE {
        return Err(Refused::Method("DELETE, OPTIONS"));
    }
    if let Caller::Participant(_) = session_caller(edge, head)? {
        return Err(Refused::Forbidden("Sessions are deleted with a service key"));
    }
    let session: SessionSlug = path_part(slug).parse().map_err(|_| NO_SESSION)?;
    let erased = edge.storage.delete_session(&session, Erasing::ForGood).await?.ok_or(NO_SESSION)?;
    tracing::info!(segments = erased.count("segments"), "a session was deleted");
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Deleted<'a> {
        success: bool,
        session_slug: &'a SessionSlug,
        deleted: Map<String, Value>,
    }
    let deleted = erased.counts().map(|(kind, count)| (camel_case(kind), count.into())).collect();
    Ok(answers::json(StatusCode::OK, &Deleted { success: true, session_slug: &session, deleted }))
}

/// `stream_keys` is `streamKeys`.
fn camel_case(name: &str) -> String {
    let mut parts = name.split('_');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |mut name, part| {
        let (initial, rest) = part.split_at_checked(1).unwrap_or((part, ""));
        name.push_str(&initial.to_ascii_uppercase());
        name.push_str(rest);
        name
    })
}

/// `GET /api/transcripts/search`.
pub(super) async fn search(edge: &Edge, head: &Parts) -> Result<Answer, Refused> {
    if head.method != Method::GET && head.method != Method::HEAD {
        return Err(Refused::Method("GET, OPTIONS"));
    }
    let caller = session_caller(edge, head)?;
    let query = head.uri.query().unwrap_or_default();
    let asked = match given(query, "sessionSlug") {
        None => None,
        Some(slug) => Some(
            slug.parse::<SessionSlug>()
                .map_err(|_| Refused::Wrong("sessionSlug is not valid", "session_invalid"))?,
        ),
    };
    caller.allowed(|principal| principal.may_follow(asked.as_ref().unwrap_or(principal.session())))?;
    let session = match caller {
        Caller::Service => asked,
        Caller::Participant(principal) => Some(principal.session().clone()),
    };
    let words = given(query, "q").filter(|words| words.len() <= QUERY_BYTES_MAX);
    let words = words.ok_or(Refused::Wrong("q must be a text of 1 to 400 bytes", "query_invalid"))?;
    let (limit_max, limit) = RESULTS;
    let limit = match given(query, "limit") {
        None => limit,
        Some(limit) => limit
            .parse()
            .ok()
            .filter(|limit| (1..=limit_max).contains(limit))
            .ok_or(Refused::Wrong("limit must be 1 to 100", "limit_invalid"))?,
    };
    let before = match given(query, "before") {
        None => None,
        Some(before) => Some(before.parse().map_err(|_| {
            Refused::Wrong("before must be the `next` of an earlier answer", "before_invalid")
        })?),
    };
    let search = Search { query: &words, session: session.as_ref(), before, limit };
    let page = edge.storage.search(&search).await?;
    #[derive(Serialize)]
    struct Results<'a> {
        results: Vec<Finding<'a>>,
        next: Option<String>,
    }
    let results = Results {
        results: page.found.iter().map(Finding::of).collect(),
        next: page.next.map(|next| next.to_string()),
    };
    Ok(answers::json(StatusCode::OK, &results))
}

/// A final in which the words are.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Finding<'a> {
    session_slug: &'a SessionSlug,
    utterance_id: String,
    sequence: Sequence,
    text: &'a str,
    snippet: &'a str,
    speaker: &'a str,
    speaker_id: &'a str,
    language: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    translations: &'a BTreeMap<String, String>,
    started_at: String,
    ended_at: String,
}

impl<'a> Finding<'a> {
    fn of(found: &'a Found) -> Self {
        let Spoken { segment, started_at, ended_at } = &found.spoken;
        let identity = segment.speaker.identity.as_str();
        Self {
            session_slug: &segment.session,
            utterance_id: segment.utterance.to_string(),
            sequence: segment.sequence,
            text: &segment.text,
            snippet: &found.snippet,
            speaker: segment.speaker.name.as_deref().unwrap_or(identity),
            speaker_id: identity,
            language: segment.language.as_deref(),
            translations: &segment.translations,
            started_at: started_at.to_string(),
            ended_at: ended_at.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_in_both_forms() {
        for (query, expected) in [
            ("from=1700000000005", 1_700_000_000_005),
            ("from=2023-11-14T22:13:20.005Z", 1_700_000_000_005),
            ("from=2023-11-15T00:13:20.005%2B02:00", 1_700_000_000_005),
            ("from=2023-11-15T00:13:20.005+02:00", 1_700_000_000_005),
        ] {
            assert!(matches!(moment(query, "from"), Ok(Some(Timestamp(at))) if at == expected), "{query}");
        }
        assert!(matches!(moment("from=&to=1", "from"), Ok(None)));
        for query in ["from=yesterday", "from=2023-11-14", "from=1e9", "from=99999999999999999999"] {
            assert!(moment(query, "from").is_err(), "{query}");
        }
    }

    #[test]
    fn kinds_have_the_case_of_json() {
        assert_eq!(camel_case("usage_without_names"), "usageWithoutNames");
        assert_eq!(camel_case("segments"), "segments");
    }
}
