use std::time::Duration;

use reqwest::Url;
use settings::{Reader, Secret};

/// Where OpenAI itself is.
const URL: &str = "https://api.openai.com/v1";

/// Longest time for an answer, and most repetitions: an utterance must not block its engine thread for minutes.
const TIMEOUT_MAX: Duration = Duration::from_secs(120);
const RETRIES_MAX: u32 = 5;

/// Most questions at a time.
const CONCURRENCY_MAX: usize = 64;

/// A server with OpenAI's `/v1/audio/transcriptions`, and how to use it.
///
/// | setting | default | meaning |
/// |-|-|-|
/// | `OPENAI_API_KEY` | none | key of the account; a server of one's own may do without |
/// | `OPENAI_API_URL` | `https://api.openai.com/v1` | the API, up to and with its version |
/// | `OPENAI_MODEL` | `whisper-1` | model that hears; `gpt-4o-transcribe` and its kin tell no times |
/// | `OPENAI_TIMEOUT_SECONDS` | 20 | longest time for one answer; at most 120 |
/// | `OPENAI_RETRIES` | 2 | how often an utterance is tried again; at most 5 |
/// | `OPENAI_CONCURRENCY` | 4 | utterances that are asked about at a time; at most 64 |
#[derive(Debug, Clone)]
pub struct OpenAiSettings {
    /// Key of the account.
    pub api_key: Option<Secret>,
    /// The API, up to and with its version.
    pub url: Url,
    /// Model that hears.
    pub model: String,
    /// Longest time for one answer.
    pub timeout: Duration,
    /// How often an utterance is tried again.
    pub retries: u32,
    /// Utterances that are asked about at a time: as many engine threads.
    pub concurrency: usize,
}

impl OpenAiSettings {
    /// Reads its section; `None` when there is neither a key nor a URL, or a fault that the reader has noted.
    pub fn read(reader: &mut Reader) -> Option<Self> {
        let api_key = reader.text("OPENAI_API_KEY").map(Secret::from);
        let given = reader.text("OPENAI_API_URL");
        let url = Url::parse(given.as_deref().unwrap_or(URL)).ok().filter(is_web);
        if url.is_none() {
            reader.problem("OPENAI_API_URL", "expected an http or https URL without a query");
        }
        let model = reader.text("OPENAI_MODEL").unwrap_or_else(|| "whisper-1".to_owned());
        let timeout = reader.seconds("OPENAI_TIMEOUT_SECONDS", Duration::from_secs(20));
        if timeout.is_zero() || timeout > TIMEOUT_MAX {
            reader.problem("OPENAI_TIMEOUT_SECONDS", "expected 1 to 120");
        }
        let retries = reader.or("OPENAI_RETRIES", 2, "a number");
        if retries > RETRIES_MAX {
            reader.problem("OPENAI_RETRIES", "expected 0 to 5");
        }
        let concurrency = reader.or("OPENAI_CONCURRENCY", 4, "a number");
        if !(1..=CONCURRENCY_MAX).contains(&concurrency) {
            reader.problem("OPENAI_CONCURRENCY", "expected 1 to 64");
        }
        (api_key.is_some() || given.is_some()).then_some(())?;
        Some(Self { api_key, url: url?, model, timeout, retries, concurrency })
    }

    /// Whether the model tells times and probabilities. OpenAI's newer ones do not (API reference, `response_format`).
    pub(super) fn verbose(&self) -> bool {
        !self.model.starts_with("gpt-")
    }
}

fn is_web(url: &Url) -> bool {
    let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    matches!(url.scheme(), "http" | "https") && url.has_host() && plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_or_a_server_is_enough() {
        let mut reader = settings::of([("OPENAI_MODEL", "x")]);
        assert!(OpenAiSettings::read(&mut reader).is_none());
        assert!(reader.finish(|| Some(())).is_ok(), "and that is no fault");
        let mut reader = settings::of([("OPENAI_API_KEY", "very-secret")]);
        let read = OpenAiSettings::read(&mut reader).unwrap();
        assert_eq!((read.url.as_str(), read.model.as_str()), (URL, "whisper-1"));
        assert_eq!((read.timeout.as_secs(), read.retries, read.concurrency), (20, 2, 4));
        assert!(!format!("{read:?}").contains("very-secret"));
        let mut reader = settings::of([("OPENAI_API_URL", "http://whisper:8000/v1/")]);
        assert!(OpenAiSettings::read(&mut reader).unwrap().api_key.is_none());
    }

    #[test]
    fn what_is_wrong_is_said() {
        let mut reader = settings::of([
            ("OPENAI_API_KEY", "k"),
            ("OPENAI_API_URL", "https://user:word@host/v1"),
            ("OPENAI_TIMEOUT_SECONDS", "0"),
            ("OPENAI_RETRIES", "6"),
            ("OPENAI_CONCURRENCY", "0"),
        ]);
        assert!(OpenAiSettings::read(&mut reader).is_none());
        assert_eq!(reader.finish(|| Some(())).unwrap_err().lines().len(), 4);
    }
}
