//! A server with OpenAI's `/v1/audio/transcriptions`: recognition by somebody else, an utterance at a time.
//!
//! In the order data passes: [`OpenAiSettings`] say where; an utterance goes there as a WAV file; what comes back (wire) is
//! words, with places and probabilities as far as the server tells them.

mod settings;
mod wire;

use std::{sync::Arc, time::Duration};

use model::FaultKind;
use reqwest::{
    Client, RequestBuilder, Response, StatusCode, Url, header,
    multipart::{Form, Part},
    redirect,
};
use tokio::{runtime::Handle, time::sleep};

pub use settings::OpenAiSettings;

use crate::{Detected, Hypothesis, Recognizer, SpeechError, Task, UTTERANCE_SAMPLES_MAX, Wanted};

/// Longest answer that is read, in bytes: of 12 s, with a word for each 50 ms, 100,000.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// How long a connection may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// Before the first repetition, and at most; doubles each time.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));

/// A server that asks for a longer pause than this is not asked again for the same utterance.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);

/// An account at a server of OpenAI's kind. Clones are the same. As a [`Recognizer`] it blocks its thread while it asks,
/// which must not be one of the async runtime's.
#[derive(Clone)]
pub struct OpenAi(Arc<Account>);

struct Account {
    settings: OpenAiSettings,
    http: Client,
    runtime: Handle,
}

/// Why a question got no words.
struct Failure {
    what: &'static str,
    fault: FaultKind,
    /// Whether the same question may get some soon, and after what pause when the server asks for one.
    again: Option<Option<Duration>>,
}

impl OpenAi {
    /// Prepares to speak to the server, without doing so yet. `runtime` carries the connections: one with threads of its own.
    ///
    /// # Errors
    /// [`SpeechError::Load`]: this process cannot speak TLS.
    pub fn new(settings: OpenAiSettings, runtime: Handle) -> Result<Self, SpeechError> {
        // Two TLS back ends in one program leave rustls without a default. Already set is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
        let http = Client::builder()
            .connect_timeout(CONNECT_LIMIT)
            .timeout(settings.timeout)
            // Whoever redirects would have the key sent to somebody whom nobody configured.
            .redirect(redirect::Policy::none())
            .build()
            .map_err(|error| {
                SpeechError::Load(format!("prepare to speak to OpenAI: {}", error.without_url()))
            })?;
        Ok(Self(Arc::new(Account { settings, http, runtime })))
    }
}

impl Recognizer for OpenAi {
    fn recognize(&mut self, pcm: &[f32], wanted: &Wanted) -> Result<Hypothesis, SpeechError> {
        if pcm.len() > UTTERANCE_SAMPLES_MAX {
            return Err(SpeechError::TooLong(pcm.len()));
        }
        let account = &self.0;
        let answer = account.runtime.block_on(account.ask(pcm, wanted))?;
        Ok(answer.hypothesis(pcm.len(), wanted))
    }

    fn detect(&mut self, pcm: &[f32]) -> Result<Option<Detected>, SpeechError> {
        let heard = self.recognize(pcm, &Wanted::default())?;
        Ok(heard.detected.filter(|_| !heard.words.is_empty()))
    }
}

impl Account {
    /// Asks until there is an answer, or no hope for one.
    async fn ask(&self, pcm: &[f32], wanted: &Wanted) -> Result<wire::Answer, SpeechError> {
        let file = bytes::Bytes::from(wire::wav(pcm));
        let mut pause = BACK_OFF.0;
        let mut retries = self.settings.retries;
        loop {
            let failure = match self.ask_once(file.clone(), wanted).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let wait = failure.again.map(|asked| asked.unwrap_or(pause));
            match wait.filter(|wait| retries > 0 && *wait <= RETRY_AFTER_MAX) {
                Some(wait) => sleep(wait).await,
                None => return Err(SpeechError::Remote { what: failure.what, fault: failure.fault }),
            }
            retries -= 1;
            pause = (pause * 2).min(BACK_OFF.1);
        }
    }

    async fn ask_once(&self, file: bytes::Bytes, wanted: &Wanted) -> Result<wire::Answer, Failure> {
        let answer = self.question(file, wanted).send().await.map_err(|error| away(&error))?;
        let (status, asked) = (answer.status(), retry_after(&answer));
        let body = read(answer).await?;
        if !status.is_success() {
            return Err(refused(status, &body, asked));
        }
        serde_json::from_slice(&body).map_err(|_| Failure {
            what: "the recognizer's answer is no transcription",
            fault: FaultKind::Dependency,
            again: None,
        })
    }

    fn question(&self, file: bytes::Bytes, wanted: &Wanted) -> RequestBuilder {
        let settings = &self.settings;
        let part = Part::stream(file).file_name("utterance.wav");
        let mut form = Form::new()
            .part("file", part)
            .text("model", settings.model.clone())
            .text("temperature", "0")
            .text("response_format", if settings.verbose() { "verbose_json" } else { "json" });
        let path = match wanted.task {
            Task::Transcribe => {
                if settings.verbose() {
                    form = form
                        .text("timestamp_granularities[]", "word")
                        .text("timestamp_granularities[]", "segment");
                }
                if let Some(language) = &wanted.language {
                    form = form.text("language", language.clone());
                }
                "audio/transcriptions"
            }
            Task::Translate => "audio/translations",
        };
        let mut request = self.http.post(under(&settings.url, path)).multipart(form);
        if let Some(key) = &settings.api_key {
            request = request.bearer_auth(key.expose());
        }
        request
    }
}

fn under(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/{path}", base.path().trim_end_matches('/')));
    url
}

async fn read(mut answer: Response) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(|error| away(&error))? {
        if body.len() + part.len() > ANSWER_BYTES_MAX {
            return Err(Failure {
                what: "the recognizer's answer is too long",
                fault: FaultKind::Dependency,
                again: None,
            });
        }
        body.extend_from_slice(&part);
    }
    Ok(body)
}

/// In seconds; dates are not read.
fn retry_after(answer: &Response) -> Option<Duration> {
    let seconds: u64 = answer.headers().get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

fn away(error: &reqwest::Error) -> Failure {
    let what = if error.is_timeout() {
        "the recognizer did not answer in time"
    } else if error.is_connect() {
        "the recognizer cannot be reached"
    } else {
        "the connection to the recognizer broke"
    };
    Failure { what, fault: FaultKind::Dependency, again: Some(None) }
}

/// What a status that is no success means.
fn refused(status: StatusCode, body: &[u8], asked: Option<Duration>) -> Failure {
    // OpenAI says 429 of an account without money, too; waiting does not help that.
    let spent = String::from_utf8_lossy(body).contains("insufficient_quota");
    let (what, fault, again) = match status.as_u16() {
        402 => ("the recognizer's quota is used up", FaultKind::Overloaded, false),
        429 if spent => ("the recognizer's quota is used up", FaultKind::Overloaded, false),
        429 => ("the recognizer is asked too often", FaultKind::Overloaded, true),
        401 | 403 => ("the recognizer refuses the API key", FaultKind::Dependency, false),
        404 => ("the recognizer knows no such model or path", FaultKind::Dependency, false),
        408 | 409 | 425 | 500.. => ("the recognizer has a fault", FaultKind::Dependency, true),
        _ => ("the recognizer refuses the recording", FaultKind::Defect, false),
    };
    Failure { what, fault, again: again.then_some(asked) }
}
