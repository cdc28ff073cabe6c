//! A server with LibreTranslate's API: `POST /translate`, and `GET /languages` for what it serves.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use reqwest::{Client, Url};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    http::{Failure, ask},
    languages::{known, primary},
    settings::LibreTranslateSettings,
    translator::{Served, Text, Translated},
};

/// How long it is believed what the server says of its languages.
const LANGUAGES_LIFETIME: Duration = Duration::from_secs(300);

/// Wait before it is asked again when it did not say.
const LANGUAGES_RETRY: Duration = Duration::from_secs(10);

/// How long it may take to say.
const LANGUAGES_LIMIT: Duration = Duration::from_secs(5);

/// Most languages that are believed.
const LANGUAGES_MAX: usize = 1_000;

pub(crate) struct LibreTranslate {
    client: Client,
    settings: LibreTranslateSettings,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// `None` until the server has said.
    languages: Option<Vec<Language>>,
    /// When to ask.
    due: Option<Instant>,
}

#[derive(Clone, Deserialize)]
struct Language {
    code: String,
    /// What it is translated into; older servers translate each into each.
    #[serde(default)]
    targets: Option<Vec<String>>,
}

#[derive(Serialize)]
struct Question<'a> {
    q: &'a str,
    source: &'a str,
    target: &'a str,
    format: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key: Option<&'a str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    translated_text: String,
    detected_language: Option<Detected>,
}

#[derive(Deserialize)]
struct Detected {
    language: String,
}

impl LibreTranslate {
    pub(crate) fn new(client: Client, settings: LibreTranslateSettings) -> Self {
        Self { client, settings, known: Mutex::default() }
    }

    /// Asks the server for its languages if it is time to.
    pub(crate) async fn refresh(&self) {
        {
            let mut known = self.lock();
            let now = Instant::now();
            if known.due.is_some_and(|due| now < due) {
                return;
            }
            known.due = Some(now + LANGUAGES_RETRY);
        }
        let asked = ask(self.client.get(address(&self.settings.url, "languages")));
        let Ok(Ok(body)) = tokio::time::timeout(LANGUAGES_LIMIT, asked).await else { return };
        let languages = serde_json::from_slice::<Vec<Language>>(&body);
        let Some(languages) = languages.ok().filter(|them| (1..=LANGUAGES_MAX).contains(&them.len())) else {
            return;
        };
        let mut known = self.lock();
        known.languages = Some(languages);
        known.due = Some(Instant::now() + LANGUAGES_LIFETIME);
    }

    pub(crate) fn serves(&self, source: Option<&str>, target: &str) -> Served {
        let known_languages = self.lock();
        let Some(languages) = &known_languages.languages else { return Served::Perhaps };
        let codes = || languages.iter().map(|language| language.code.as_str());
        let source = source.and_then(|source| primary(source).map(|_| source));
        let pairs: Vec<&Language> = match source {
            Some(source) => {
                let Some(code) = known(codes(), source) else { return Served::No(Vec::new()) };
                languages.iter().filter(|language| language.code == code).collect()
            }
            None => languages.iter().collect(),
        };
        let mut targets: Vec<&str> = Vec::new();
        for language in pairs {
            match &language.targets {
                Some(into) => targets.extend(into.iter().map(String::as_str)),
                None => targets.extend(codes()),
            }
        }
        targets.sort_unstable();
        targets.dedup();
        match known(targets.iter().copied(), target) {
            Some(_) => Served::Yes,
            None => Served::No(targets.into_iter().map(str::to_owned).collect()),
        }
    }

    pub(crate) async fn translate(&self, text: &Text<'_>) -> Result<Translated, Failure> {
        let (source, target) = (self.code(text.source.unwrap_or_default()), self.code(text.target));
        let question = Question {
            q: text.text,
            source: source.as_deref().unwrap_or("auto"),
            target: target.as_deref().unwrap_or(text.target),
            format: "text",
            api_key: self.settings.api_key.as_ref().map(|key| key.expose()),
        };
        let body = ask(self.client.post(address(&self.settings.url, "translate")).json(&question)).await?;
        let garbage = Failure::Passing("an answer that cannot be read", None);
        let Ok(answer) = serde_json::from_slice::<Answer>(&body) else { return Err(garbage) };
        let detected = answer.detected_language.map(|detected| detected.language);
        Ok(Translated { text: answer.translated_text, source: source.or(detected) })
    }

    /// As the server calls a language; its primary subtag while that is not known.
    fn code(&self, tag: &str) -> Option<String> {
        let known_languages = self.lock();
        let languages = known_languages.languages.iter().flatten().map(|language| language.code.as_str());
        known(languages, tag).map(str::to_owned).or_else(|| primary(tag))
    }

    /// Never held over an await.
    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A route of a server that may lie under a path.
pub(crate) fn address(base: &Url, route: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/{route}", base.path().trim_end_matches('/')));
    url
}
