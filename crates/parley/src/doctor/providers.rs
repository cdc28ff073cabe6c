//! LiveKit and Gladia, with the keys that are set here.

use std::time::Duration;

use livekit::{LiveKit, LiveKitError, LiveKitSettings};
use reqwest::{StatusCode, Url};
use settings::Reader;

use super::check::Check;

const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Asks which egresses run, which needs the key and an egress service.
pub async fn livekit(settings: &LiveKitSettings) -> Check {
    const NAME: &str = "livekit";
    let asked = match LiveKit::new(settings) {
        Ok(livekit) => livekit.egresses(None).await,
        Err(error) => Err(error),
    };
    match asked {
        Ok(_) => Check::ok(NAME, "it knows the key, and has an egress service"),
        Err(error) => {
            let mend = match &error {
                LiveKitError::Unauthorized => {
                    "copy LIVEKIT_API_KEY and LIVEKIT_API_SECRET of the same key again"
                }
                LiveKitError::Unsupported(_) => {
                    "run LiveKit's egress service beside the server, with the same Redis"
                }
                LiveKitError::Unavailable(_) => "correct LIVEKIT_WS_URL, or start LiveKit",
                _ => "see what LiveKit logged",
            };
            Check::fail(NAME, error.to_string(), mend)
        }
    }
}

/// Lists one session of the account, which costs nothing; `None` without a key.
pub async fn gladia(reader: &Reader) -> Option<Check> {
    const NAME: &str = "gladia";
    let key = reader.text("GLADIA_API_KEY")?;
    let base = reader.text("GLADIA_API_URL").unwrap_or_else(|| "https://api.gladia.io".to_owned());
    let Ok(url) = Url::parse(&format!("{}/v2/live?limit=1", base.trim_end_matches('/'))) else {
        return Some(Check::fail("GLADIA_API_URL", "it is no URL", "take it out: the default is right"));
    };
    // Two TLS back ends in one program leave rustls without a default. Already set is as good.
    drop(rustls::crypto::ring::default_provider().install_default());
    let client = reqwest::Client::builder().timeout(ANSWER_LIMIT).build().ok()?;
    let (seen, mend) = match client.get(url).header("x-gladia-key", key).send().await {
        Ok(answer) if answer.status().is_success() => return Some(Check::ok(NAME, "it knows the key")),
        Ok(answer) => match answer.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                ("it refuses the key".to_owned(), "copy GLADIA_API_KEY again")
            }
            StatusCode::PAYMENT_REQUIRED | StatusCode::TOO_MANY_REQUESTS => (
                "nothing is left of the account's quota".to_owned(),
                "add to the account, or set ENGINE to another engine",
            ),
            status => (
                format!("it answers {}", status.as_u16()),
                "see status.gladia.io; ENGINE=auto falls back meanwhile",
            ),
        },
        Err(error) if error.is_timeout() => ("no answer".to_owned(), "let this machine reach it"),
        Err(_) => ("it cannot be reached".to_owned(), "let this machine reach it over https"),
    };
    Some(Check::fail(NAME, seen, mend))
}
