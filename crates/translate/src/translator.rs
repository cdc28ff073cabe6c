use std::{sync::Arc, time::Duration};

use model::Untranslated;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, timeout_at},
};

use crate::{
    cache::{Cache, Key},
    circuit::Circuit,
    http::{self, Failure},
    languages::{is_tag, primary},
    libretranslate::LibreTranslate,
    openai::OpenAi,
    settings::{Service, TranslateSettings},
};

/// Wait between attempts: doubles from the first to the last.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));

/// Texts by whether they were translated before, label `result`.
pub const CACHE_TOTAL: &str = "translate_cache_total";

/// Registers this crate's metrics at zero.
pub fn describe_metrics() {
    metrics::describe_counter!(CACHE_TOTAL, "Texts to be translated, by whether they were translated before");
    for result in ["hit", "miss"] {
        metrics::counter!(CACHE_TOTAL, "result" => result).absolute(0);
    }
}

/// A text that is to be translated.
#[derive(Clone, Copy)]
pub struct Text<'a> {
    /// What it says, not empty; at most [`crate::TEXT_BYTES_MAX`], which is the caller's to see to.
    pub text: &'a str,
    /// Its language (BCP 47), when it is known.
    pub source: Option<&'a str>,
    /// The language that it is wanted in.
    pub target: &'a str,
}

/// A text in another language.
#[derive(Clone, PartialEq, Eq)]
pub struct Translated {
    /// What it says.
    pub text: String,
    /// The language that it was translated from, when that is known.
    pub source: Option<String>,
}

/// Whether a pair of languages is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Served {
    /// It is.
    Yes,
    /// It is not known yet.
    Perhaps,
    /// It is not; what the source can be translated into.
    No(Vec<String>),
}

/// Why a text was not translated. The texts are for the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Untranslatable {
    /// Nobody serves the pair.
    #[error("{0}")]
    Unserved(String),
    /// It was not there in time.
    #[error("the translation was not there in time")]
    TooLate,
    /// The translator is away, until then at least.
    #[error("the translator is away")]
    Away {
        /// When it will be tried again.
        until: Instant,
    },
    /// The translator does not want this text.
    #[error("the translator refused the text")]
    Refused,
}

impl Untranslatable {
    /// In a word.
    pub fn reason(&self) -> Untranslated {
        match self {
            Self::Unserved(_) => Untranslated::Unserved,
            Self::TooLate => Untranslated::TooLate,
            Self::Away { .. } => Untranslated::Unavailable,
            Self::Refused => Untranslated::Refused,
        }
    }
}

/// Nothing can be asked over HTTP from here.
#[derive(Debug, thiserror::Error)]
#[error("prepare to ask the translator: {0}")]
pub struct ClientError(pub(crate) String);

/// Who translates texts. Clones are the same.
#[derive(Clone)]
pub struct Translator(Arc<Inner>);

struct Inner {
    provider: Provider,
    cache: Cache,
    circuit: Circuit,
    places: Semaphore,
}

enum Provider {
    LibreTranslate(LibreTranslate),
    OpenAi(OpenAi),
}

impl Translator {
    /// Connects at the first question.
    ///
    /// # Errors
    /// The client of HTTP cannot be built.
    pub fn new(settings: &TranslateSettings) -> Result<Self, ClientError> {
        let client = http::client()?;
        let provider = match settings.service.clone() {
            Service::LibreTranslate(settings) => {
                Provider::LibreTranslate(LibreTranslate::new(client, settings))
            }
            Service::OpenAi(settings) => Provider::OpenAi(OpenAi::new(client, settings)),
        };
        Ok(Self(Arc::new(Inner {
            provider,
            cache: Cache::new(settings.cache_bytes),
            circuit: Circuit::default(),
            places: Semaphore::new(settings.concurrency),
        })))
    }

    /// Learns which languages are served, if that is due. To be called now and then.
    pub async fn refresh(&self) {
        if let Provider::LibreTranslate(server) = &self.0.provider {
            server.refresh().await;
        }
    }

    /// Whether a pair of languages is served, as far as is known. A language is not translated into itself.
    pub fn serves(&self, source: Option<&str>, target: &str) -> Served {
        if primary(target).is_none() || !is_tag(target) || source.is_some_and(|source| !is_tag(source)) {
            return Served::No(Vec::new());
        }
        match &self.0.provider {
            Provider::LibreTranslate(server) => server.serves(source, target),
            Provider::OpenAi(_) => Served::Yes,
        }
    }

    /// Until when the service is left alone, since it fails.
    pub fn away_until(&self) -> Option<Instant> {
        self.0.circuit.open_until(Instant::now())
    }

    /// Translates a text, asking again while the service fails, until the deadline or until it is left alone.
    ///
    /// # Errors
    /// See [`Untranslatable`].
    pub async fn translate(
        &self,
        text: Text<'_>,
        deadline: Instant,
    ) -> Result<Arc<Translated>, Untranslatable> {
        let key = Key {
            text: text.text.to_owned(),
            source: text.source.map(str::to_owned),
            target: text.target.to_owned(),
        };
        let known = self.0.cache.get(&key);
        metrics::counter!(CACHE_TOTAL, "result" => if known.is_some() { "hit" } else { "miss" }).increment(1);
        if let Some(known) = known {
            return Ok(known);
        }
        if let Served::No(served) = self.serves(text.source, text.target) {
            return Err(Untranslatable::Unserved(unserved(text.source, text.target, &served)));
        }
        let mut pause = BACK_OFF.0;
        loop {
            match self.attempt(text, deadline).await? {
                Ok(translated) => {
                    let translated = Arc::new(translated);
                    self.0.cache.insert(key, translated.clone());
                    return Ok(translated);
                }
                Err(asked) => {
                    let wait = asked.unwrap_or(pause);
                    if Instant::now() + wait >= deadline {
                        return Err(Untranslatable::Away { until: Instant::now() + wait });
                    }
                    sleep(wait).await;
                    pause = (pause * 2).min(BACK_OFF.1);
                }
            }
        }
    }

    /// Asks once. The inner error: it may be asked again, after a pause if the service wants one.
    async fn attempt(
        &self,
        text: Text<'_>,
        deadline: Instant,
    ) -> Result<Result<Translated, Option<Duration>>, Untranslatable> {
        // Nobody closes the semaphore.
        let _place =
            timeout_at(deadline, self.0.places.acquire()).await.map_err(|_| Untranslatable::TooLate)?;
        let now = Instant::now();
        let limit = deadline.saturating_duration_since(now);
        let pass = self.0.circuit.pass(now, limit).map_err(|until| Untranslatable::Away { until })?;
        let asked = async {
            match &self.0.provider {
                Provider::LibreTranslate(server) => server.translate(&text).await,
                Provider::OpenAi(server) => server.translate(&text).await,
            }
        };
        match timeout_at(deadline, asked).await {
            Ok(Ok(translated)) if translated.text.trim().is_empty() => {
                pass.answered();
                Err(Untranslatable::Refused)
            }
            Ok(Ok(translated)) => {
                pass.answered();
                Ok(Ok(translated))
            }
            Ok(Err(Failure::Refused)) => {
                pass.answered();
                Err(Untranslatable::Refused)
            }
            Ok(Err(Failure::Passing(what, retry_after))) => {
                tracing::debug!(what, "the translator failed");
                match pass.failed(Instant::now()).then(|| self.away_until()).flatten() {
                    Some(until) => Err(Untranslatable::Away { until }),
                    None => Ok(Err(retry_after)),
                }
            }
            Ok(Err(Failure::Shut(status))) => {
                tracing::warn!(status = status.as_u16(), "the translator does not want us");
                pass.failed(Instant::now());
                Ok(Err(Some(BACK_OFF.1)))
            }
            Err(_) => {
                pass.failed(Instant::now());
                Err(Untranslatable::TooLate)
            }
        }
    }
}

/// That nobody serves a pair of languages, and what is served instead, for the user.
pub fn unserved(source: Option<&str>, target: &str, served: &[String]) -> String {
    let from = source.and_then(primary).map(|source| format!(" from {source}")).unwrap_or_default();
    if served.is_empty() {
        return format!("no translator here serves {target}{from}");
    }
    format!("no translator here serves {target}{from}; choose one of: {}", served.join(", "))
}
