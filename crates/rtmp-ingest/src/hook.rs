//! The HTTP hook that decides about keys of somebody else's making.

use std::{net::IpAddr, time::Duration};

use model::{Identity, SessionSlug, Speaker};
use reqwest::{Client, StatusCode, Url, redirect};
use rtmp::Publish;
use serde::{Deserialize, Serialize};

use crate::permit::{self, Permit};

/// How long it may take. Encoders wait for about as long as we do, 10 s.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// Asks one URL: a POST with [`Question`] as JSON. 2xx allows, everything else in 4xx refuses.
pub(crate) struct Hook {
    client: Client,
    url: Url,
}

/// What the hook is told.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Question<'a> {
    app: &'a str,
    key: &'a str,
    query: &'a str,
    address: IpAddr,
}

/// What it may say about a publisher that it allows; all of it may be left out.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Answer {
    /// The session; the key itself otherwise.
    session_slug: Option<SessionSlug>,
    /// Who speaks; `room` otherwise.
    identity: Option<Identity>,
    /// The name to show.
    name: Option<String>,
}

/// Why the hook allows nothing.
#[derive(Debug)]
pub(crate) enum HookError {
    /// It said no.
    Refused,
    /// It did not answer, or not in the way agreed on. The text is for logs and holds no key.
    Away(String),
}

impl Hook {
    /// For this URL.
    ///
    /// # Errors
    /// This process cannot speak HTTP.
    pub(crate) fn new(url: Url) -> Result<Self, reqwest::Error> {
        // A hook that redirects would be told the key twice, once by somebody whom nobody configured.
        let client = Client::builder().timeout(ANSWER_LIMIT).redirect(redirect::Policy::none()).build()?;
        Ok(Self { client, url })
    }

    /// Asks about a publisher.
    pub(crate) async fn ask(&self, publish: &Publish, address: IpAddr) -> Result<Permit, HookError> {
        let away = |error: reqwest::Error| HookError::Away(error.without_url().to_string());
        let question = Question { app: &publish.app, key: &publish.key, query: &publish.query, address };
        let mut response = self.client.post(self.url.clone()).json(&question).send().await.map_err(away)?;
        match response.status() {
            status if status.is_success() => {}
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
                return Err(HookError::Away(response.status().to_string()));
            }
            status if status.is_client_error() => return Err(HookError::Refused),
            status => return Err(HookError::Away(status.to_string())),
        }
        let mut body = Vec::new();
        while let Some(part) = response.chunk().await.map_err(away)? {
            body.extend_from_slice(&part);
            if body.len() > ANSWER_BYTES_MAX {
                return Err(HookError::Away(format!("an answer above {ANSWER_BYTES_MAX} bytes")));
            }
        }
        read(&body, &publish.key)
    }
}

fn read(body: &[u8], key: &str) -> Result<Permit, HookError> {
    let answer: Answer = if body.iter().all(u8::is_ascii_whitespace) {
        Answer::default()
    } else {
        serde_json::from_slice(body).map_err(|_| HookError::Away("an answer that is no JSON".to_owned()))?
    };
    let session = match answer.session_slug {
        Some(session) => session,
        None => key.parse().map_err(|_| HookError::Refused)?,
    };
    let plain = permit::open(session.as_str()).map_err(|_| HookError::Refused)?;
    let identity = answer.identity.unwrap_or(plain.speaker.identity);
    Ok(Permit {
        session,
        speaker: Speaker { identity, name: answer.name },
        is_room: false,
        track: None,
        language: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_may_say_much_or_nothing() {
        let plain = read(b" \n", "demo").unwrap();
        assert_eq!((plain.session.as_str(), plain.speaker.identity.as_str()), ("demo", "room"));
        let full = br#"{"sessionSlug":"other","identity":"alice","name":"Alice","more":1}"#;
        let full = read(full, "demo").unwrap();
        assert_eq!((full.session.as_str(), full.speaker.identity.as_str()), ("other", "alice"));
        assert_eq!(full.speaker.name.as_deref(), Some("Alice"));
        assert!(matches!(read(b"OK", "demo"), Err(HookError::Away(_))));
        assert!(matches!(read(br#"{"sessionSlug":""}"#, "demo"), Err(HookError::Away(_))));
    }
}
