//! What was used: metered by us, and reported by clients of system A, which is kept beside and never billed.

use std::str::FromStr;

use bytes::Bytes;
use http::{Method, StatusCode, request::Parts};
use hyper::body::Body;
use model::{Samples, SessionSlug, Timestamp, UserId};
use serde::Serialize;
use storage::{UsageReport, UsageRow, UsageTotals};

use super::{
    NO_SESSION, Refused,
    body::{self, Fields, moment},
    readable_session, session_caller,
};
use crate::{
    Edge,
    answers::{self, Answer, object},
    handshake::parameter,
    proof::Caller,
};

/// What a begun minute costs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct CostPerMinute(f64);

impl Default for CostPerMinute {
    fn default() -> Self {
        Self(0.01)
    }
}

impl FromStr for CostPerMinute {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text.parse::<f64>() {
            Ok(cost) if cost.is_finite() && cost >= 0.0 => Ok(Self(cost)),
            _ => Err(()),
        }
    }
}

impl CostPerMinute {
    /// To a millionth, so that 35 times 0.01 is 0.35.
    fn of(self, minutes: u64) -> f64 {
        (minutes as f64 * self.0 * 1e6).round() / 1e6
    }
}

/// As system A shows totals. A session here is what one participant used in one session.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Stats {
    total_minutes: u64,
    total_cost: f64,
    total_sessions: u64,
    average_duration_minutes: f64,
}

impl Stats {
    fn of(UsageTotals { minutes, rows }: UsageTotals, cost: CostPerMinute) -> Self {
        let average = if rows == 0 { 0.0 } else { minutes as f64 / rows as f64 };
        Self {
            total_minutes: minutes,
            total_cost: cost.of(minutes),
            total_sessions: rows,
            average_duration_minutes: average,
        }
    }
}

/// `GET /api/transcription/stats`.
pub(super) async fn stats(edge: &Edge, head: &Parts) -> Result<Answer, Refused> {
    if head.method != Method::GET && head.method != Method::HEAD {
        return Err(Refused::Method("GET, OPTIONS"));
    }
    let caller = session_caller(edge, head)?;
    caller.allowed(|principal| principal.may_follow(principal.session()))?;
    let query = head.uri.query().unwrap_or_default();
    let asked = match parameter(query, "userId").filter(|user| !user.is_empty()) {
        None => None,
        Some(user) => {
            Some(user.parse::<UserId>().map_err(|_| Refused::Wrong("userId is not valid", "user_invalid"))?)
        }
    };
    let user = match caller {
        Caller::Service => asked,
        Caller::Participant(principal) if asked.as_ref().is_none_or(|asked| asked == principal.user()) => {
            Some(principal.user().clone())
        }
        Caller::Participant(_) => return Err(Refused::Forbidden("This token is not of this user")),
    };
    let totals = edge.storage.usage_totals(user.as_ref()).await?;
    Ok(answers::json(StatusCode::OK, &Stats::of(totals, edge.settings.cost_per_minute)))
}

/// What one participant used of one engine.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    session_slug: &'a SessionSlug,
    participant_identity: Option<&'a str>,
    user_id: Option<&'a str>,
    engine: &'a str,
    started_at: String,
    ended_at: String,
    duration_seconds: f64,
    duration_minutes: u64,
    cost: f64,
}

impl<'a> Row<'a> {
    fn of(session: &'a SessionSlug, row: &'a UsageRow, cost: CostPerMinute) -> Self {
        let minutes = row.sound.0.div_ceil(Samples::from_millis(60_000).0);
        Self {
            session_slug: session,
            participant_identity: row.identity.as_ref().map(|identity| identity.as_str()),
            user_id: row.user.as_ref().map(UserId::as_str),
            engine: &row.engine,
            started_at: row.started_at.to_string(),
            ended_at: row.ended_at.to_string(),
            duration_seconds: row.sound.millis() as f64 / 1000.0,
            duration_minutes: minutes,
            cost: cost.of(minutes),
        }
    }
}

/// What a client said, as it said it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    participant_identity: &'a str,
    user_id: Option<&'a str>,
    started_at: String,
    ended_at: String,
    duration_seconds: f64,
    duration_minutes: u64,
    audio_chunks_sent: u32,
    transcripts_received: u32,
    final_transcripts: u32,
    partial_transcripts: u32,
    errors_count: u32,
}

impl<'a> Report<'a> {
    fn of(report: &'a UsageReport) -> Self {
        Self {
            participant_identity: report.identity.as_str(),
            user_id: report.user.as_ref().map(UserId::as_str),
            started_at: report.started_at.to_string(),
            ended_at: report.ended_at.to_string(),
            duration_seconds: report.duration_seconds,
            duration_minutes: (report.duration_seconds / 60.0).ceil() as u64,
            audio_chunks_sent: report.audio_chunks_sent,
            transcripts_received: report.transcripts,
            final_transcripts: report.final_transcripts,
            partial_transcripts: report.partial_transcripts,
            errors_count: report.errors,
        }
    }
}

/// `GET /api/sessions/{slug}/transcription/usage`.
pub(super) async fn of_session(edge: &Edge, head: &Parts, slug: &str) -> Result<Answer, Refused> {
    if head.method != Method::GET && head.method != Method::HEAD {
        return Err(Refused::Method("GET, OPTIONS"));
    }
    let session = readable_session(edge, head, slug)?;
    edge.storage.session(&session).await?.ok_or(NO_SESSION)?;
    let cost = edge.settings.cost_per_minute;
    let rows = edge.storage.session_usage(&session).await?;
    let totals = edge.storage.session_usage_totals(&session).await?;
    let reports = edge.storage.usage_reports(&session).await?;
    #[derive(Serialize)]
    struct Usage<'a> {
        usage: Vec<Row<'a>>,
        stats: Stats,
        reports: Vec<Report<'a>>,
    }
    let usage = Usage {
        usage: rows.iter().map(|row| Row::of(&session, row, cost)).collect(),
        stats: Stats::of(totals, cost),
        reports: reports.iter().map(Report::of).collect(),
    };
    Ok(answers::json(StatusCode::OK, &usage))
}

/// `POST /api/transcription/usage/save`. Who a token is counts for more than who the body says.
pub(super) async fn save<B>(edge: &Edge, head: &Parts, body: B) -> Result<Answer, Refused>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if head.method != Method::POST {
        return Err(Refused::Method("POST, OPTIONS"));
    }
    let caller = match session_caller(edge, head) {
        Err(_) if edge.settings.legacy_open_routes => Caller::Service,
        caller => caller?,
    };
    let fields = body::read(body).await?;
    let session: SessionSlug = fields
        .text("sessionSlug")
        .and_then(|slug| slug.parse().ok())
        .ok_or(Refused::Wrong("sessionSlug is missing or not valid", "session_invalid"))?;
    caller.allowed(|principal| principal.may_speak(&session))?;
    let mut report = report(&fields)?;
    if let Caller::Participant(principal) = caller {
        report.identity = principal.identity().clone();
        report.user = Some(principal.user().clone());
    }
    match edge.storage.report_usage(&session, &report, edge.clock.now()).await? {
        Some(true) => Ok(object(StatusCode::OK, [("success", true.into())])),
        Some(false) => Err(Refused::Status(
            StatusCode::TOO_MANY_REQUESTS,
            "This session has as many reports as are kept",
            "limit_reached",
        )),
        None => Err(NO_SESSION),
    }
}

fn report(fields: &Fields) -> Result<UsageReport, Refused> {
    let identity = fields.text("participantIdentity").and_then(|identity| identity.parse().ok());
    let user = match fields.get("userId") {
        None => None,
        Some(user) => Some(
            user.as_str()
                .and_then(|user| user.parse().ok())
                .ok_or(Refused::Wrong("userId is not valid", "user_invalid"))?,
        ),
    };
    let at = |name, refused: &'static str| -> Result<Timestamp, Refused> {
        fields.get(name).and_then(moment).ok_or(Refused::Wrong(refused, "moment_invalid"))
    };
    let started_at = at("startedAt", "startedAt must be ISO 8601 or milliseconds since 1970")?;
    let ended_at = at("endedAt", "endedAt must be ISO 8601 or milliseconds since 1970")?;
    if ended_at < started_at {
        return Err(Refused::Wrong("endedAt must not lie before startedAt", "moment_invalid"));
    }
    let number = |name| fields.get(name).map(|value| value.as_f64().filter(|number| *number >= 0.0));
    let minutes = number("durationMinutes");
    let seconds = number("durationSeconds").flatten();
    if minutes == Some(None) {
        return Err(Refused::Wrong("durationMinutes must be a number, 0 or more", "duration_invalid"));
    }
    let count = |name, refused: &'static str| match fields.get(name) {
        None => Ok(0),
        Some(value) => value
            .as_u64()
            .and_then(|count| u32::try_from(count).ok())
            .ok_or(Refused::Wrong(refused, "count_invalid")),
    };
    Ok(UsageReport {
        identity: identity
            .ok_or(Refused::Wrong("participantIdentity is missing or not valid", "identity_invalid"))?,
        user,
        started_at,
        ended_at,
        duration_seconds: seconds
            .ok_or(Refused::Wrong("durationSeconds must be a number, 0 or more", "duration_invalid"))?,
        audio_chunks_sent: count("audioChunksSent", "audioChunksSent must be a whole number, 0 or more")?,
        transcripts: count("transcriptsReceived", "transcriptsReceived must be a whole number, 0 or more")?,
        final_transcripts: count("finalTranscripts", "finalTranscripts must be a whole number, 0 or more")?,
        partial_transcripts: count(
            "partialTranscripts",
            "partialTranscripts must be a whole number, 0 or more",
        )?,
        errors: count("errorsCount", "errorsCount must be a whole number, 0 or more")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_finite_and_not_negative() {
        assert_eq!(CostPerMinute::default().of(35), 0.35);
        assert_eq!("0".parse::<CostPerMinute>().map(|cost| cost.of(7)), Ok(0.0));
        assert_eq!("0.006".parse::<CostPerMinute>().map(|cost| cost.of(3)), Ok(0.018));
        for wrong in ["", "-0.01", "NaN", "inf", "1 EUR", "1e999"] {
            assert_eq!(wrong.parse::<CostPerMinute>(), Err(()), "{wrong}");
        }
    }
}
