//! System D's HTTP: that of its faster-whisper service and that of its server before.

use http::StatusCode;
use serde::Serialize;

use crate::{
    Edge,
    answers::{self, Answer, object},
};

/// The page at `/docs`, which its test asks for.
const DOCS: &str = include_str!("docs.html");

pub(super) fn index() -> Answer {
    object(StatusCode::OK, [("message", "Faster Whisper Service is running".into())])
}

/// How it is, as both of system D's services say it.
pub(super) async fn health(edge: &Edge) -> Answer {
    #[derive(Serialize)]
    struct Health {
        status: &'static str,
        model_loaded: bool,
        service: &'static str,
        auth_required: bool,
        auth_configured: bool,
        vad_support: bool,
        websocket_support: bool,
        /// There is none.
        python_version: &'static str,
        timestamp: String,
        /// Whether there is somebody who understands speech.
        #[serde(rename = "azureKey")]
        azure_key: bool,
        #[serde(rename = "supportedLanguages")]
        supported_languages: usize,
        #[serde(rename = "languageIdentification")]
        language_identification: LanguageIdentification,
    }
    #[derive(Serialize)]
    struct LanguageIdentification {
        enabled: bool,
        modes: [&'static str; 2],
    }
    let has_workers = edge.workers.are_there().await;
    let health = Health {
        status: "healthy",
        model_loaded: has_workers,
        service: "faster-whisper",
        auth_required: edge.translate_keys.is_some(),
        auth_configured: !edge.settings.translate_tokens.as_deref().unwrap_or_default().is_empty(),
        vad_support: true,
        websocket_support: true,
        python_version: "none",
        timestamp: edge.clock.now().to_string(),
        azure_key: has_workers,
        supported_languages: 40,
        language_identification: LanguageIdentification { enabled: true, modes: ["AtStart", "Continuous"] },
    };
    answers::json(StatusCode::OK, &health)
}

pub(super) fn docs() -> Answer {
    answers::text(StatusCode::OK, "text/html; charset=utf-8", DOCS.to_owned())
}
