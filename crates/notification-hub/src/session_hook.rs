//! The hook of sessions: one address of the operator's that hears when a session starts and ends, and of its finals.

use model::SessionSlug;
use reqwest::Url;
use serde_json::{Value, json};
use settings::Reader;
use storage::{SessionEvent, SessionEventKind, SessionNews};

use crate::HookSettings;

/// Where the front door is, unless something else is said: that of `make run`.
const PUBLIC_URL: &str = "http://127.0.0.1:8080";

/// What a hub can be told about the hook of sessions.
#[derive(Debug, Clone)]
pub struct SessionHookSettings {
    /// Where it is.
    pub hook: HookSettings,
    /// What it hears of.
    pub events: Vec<SessionEventKind>,
    /// Where clients find us, without a slash at its end.
    pub public_url: String,
}

impl SessionHookSettings {
    /// Reads `SESSION_HOOK_URL` (none: no hook), `SESSION_HOOK_SECRET`, `SESSION_HOOK_EVENTS` and `PUBLIC_URL`.
    pub fn read(reader: &mut Reader) -> Option<Self> {
        let hook = HookSettings::read(reader, "SESSION_HOOK_URL", "SESSION_HOOK_SECRET");
        let mut events = Vec::new();
        for name in reader.list("SESSION_HOOK_EVENTS") {
            match SessionEventKind::of(&name) {
                Some(kind) => events.push(kind),
                None => reader.problem(
                    "SESSION_HOOK_EVENTS",
                    format!(
                        "expected some of {}",
                        SessionEventKind::ALL.map(SessionEventKind::label).join(", ")
                    ),
                ),
            }
        }
        if events.is_empty() {
            events = SessionEventKind::ALL.to_vec();
        }
        let public_url = reader.text("PUBLIC_URL").unwrap_or_else(|| PUBLIC_URL.to_owned());
        if !Url::parse(&public_url).is_ok_and(|url| {
            matches!(url.scheme(), "http" | "https") && url.query().is_none() && url.fragment().is_none()
        }) {
            reader.problem("PUBLIC_URL", "expected an http or https URL without a query");
        }
        Some(Self { hook: hook?, events, public_url: public_url.trim_end_matches('/').to_owned() })
    }
}

/// What the hook is told of an event.
pub(crate) fn body(event: &SessionEvent, public_url: &str) -> Value {
    let mut body = json!({
        "id": event.id,
        "event": event.news.kind().label(),
        "createdAt": event.at.to_string(),
        "sessionSlug": event.session,
        "sessionId": event.external_id,
    });
    let news = match &event.news {
        SessionNews::Started { started_at } => json!({"startedAt": started_at.map(|at| at.to_string())}),
        SessionNews::Ended { started_at, ended_at } => json!({
            "startedAt": started_at.map(|at| at.to_string()),
            "endedAt": ended_at.to_string(),
            "transcriptUrl": transcript_url(public_url, &event.session),
        }),
        SessionNews::Final { segment, started_at, ended_at } => {
            // A caption of a back end lies in no stream.
            let heard = segment.utterance.stream().is_some();
            json!({
                "utteranceId": segment.utterance,
                "sequence": segment.sequence,
                "revision": segment.revision,
                "text": segment.text,
                "speaker": segment.speaker.name.as_deref().unwrap_or(segment.speaker.identity.as_str()),
                "speakerId": segment.speaker.identity,
                "language": segment.language,
                "start": heard.then(|| segment.start.seconds()),
                "end": heard.then(|| segment.end.seconds()),
                "startedAt": started_at.to_string(),
                "endedAt": ended_at.to_string(),
            })
        }
    };
    if let (Value::Object(body), Value::Object(news)) = (&mut body, news) {
        body.extend(news);
    }
    body
}

fn transcript_url(public_url: &str, session: &SessionSlug) -> String {
    // All but the unreserved ones of RFC 3986, so that a slug stays one segment of the path.
    let segment = session.as_str().bytes().fold(String::new(), |segment, byte| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
            segment + &char::from(byte).to_string()
        }
        _ => segment + &format!("%{byte:02X}"),
    });
    format!("{public_url}/api/sessions/{segment}/transcript?format=json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slug_stays_one_segment_of_the_path() {
        let url = transcript_url("https://captions.example", &"a/b c?d#é".parse().unwrap());
        assert_eq!(
            url,
            "https://captions.example/api/sessions/a%2Fb%20c%3Fd%23%C3%A9/transcript?format=json"
        );
    }
}
