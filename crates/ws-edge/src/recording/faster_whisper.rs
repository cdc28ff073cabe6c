//! System D's faster-whisper service.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use hyper::body::Body;
use model::FaultKind;
use rpc::recognition::{Task, Wanted};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    hearing::{self, Heard, Hearing},
    languages,
    problem::Problem,
    sound::{Accept, Sound},
    upload::{self, Shape, Upload},
};
use crate::{
    Edge,
    answers::{self, Answer, object, retry_after},
};

const FORM: Shape = Shape { file: "file", takes_json: false };

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
        supported_languages: languages::REGIONAL.len(),
        language_identification: LanguageIdentification { enabled: true, modes: ["AtStart", "Continuous"] },
    };
    answers::json(StatusCode::OK, &health)
}

pub(super) fn docs() -> Answer {
    answers::text(StatusCode::OK, "text/html; charset=utf-8", DOCS.to_owned())
}

pub(super) async fn transcribe<B>(edge: &Arc<Edge>, headers: &HeaderMap, body: B) -> Answer
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    #[derive(Serialize)]
    struct Transcribed {
        success: bool,
        text: String,
        /// Null when nobody speaks.
        language: Option<String>,
        language_probability: f32,
        vad_enabled: bool,
        vad_threshold: Option<f64>,
    }
    match hear(edge, headers, body, None).await {
        Ok((upload, heard)) => {
            // Silence is left out in any case; the client is told what it asked for.
            let vad_enabled = upload.field("vad_filter").is_some_and(is_true);
            let vad_threshold = upload.field("vad_parameters").and_then(threshold).filter(|_| vad_enabled);
            let transcribed = Transcribed {
                success: true,
                text: heard.text(),
                language: heard.done.language,
                language_probability: heard.done.probability,
                vad_enabled,
                vad_threshold,
            };
            answers::json(StatusCode::OK, &transcribed)
        }
        Err(refused) => *refused,
    }
}

pub(super) async fn detect_language<B>(edge: &Arc<Edge>, headers: &HeaderMap, body: B) -> Answer
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    #[derive(Serialize)]
    struct Detected {
        success: bool,
        /// Null when nobody speaks.
        language: Option<String>,
        language_probability: f32,
    }
    match hear(edge, headers, body, Some(Task::Detect)).await {
        Ok((_, Heard { done, .. })) => {
            let (language, language_probability) = (done.language, done.probability);
            answers::json(StatusCode::OK, &Detected { success: true, language, language_probability })
        }
        Err(refused) => *refused,
    }
}

/// What was asked and what was heard; the task and the language are the client's, unless there is a task.
async fn hear<B>(
    edge: &Edge,
    headers: &HeaderMap,
    body: B,
    task: Option<Task>,
) -> Result<(Upload, Heard), Box<Answer>>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let refused = |problem| Box::new(refusal(&problem));
    let place = hearing::place(edge).await.map_err(refused)?;
    let mut upload = upload::read(edge, headers, body, FORM).await.map_err(refused)?;
    if upload.file.is_none() && upload.has_stray_file {
        return Err(missing_field().into());
    }
    let heard = async {
        let file = upload.take_file()?;
        if file.bytes() == 0 {
            return Err(Problem::NoFile);
        }
        let wanted = match task {
            Some(task) => Wanted { task, ..Wanted::default() },
            None => wanted(&upload)?,
        };
        Hearing::begin(edge, place, Sound::new(file, Accept::Samples)?, &wanted).await?.all().await
    };
    let heard = heard.await.map_err(refused)?;
    Ok((upload, heard))
}

fn wanted(upload: &Upload) -> Result<Wanted, Problem> {
    let task = match upload.field("task") {
        None | Some("transcribe") => Task::Transcribe,
        Some("translate") => Task::Translate,
        Some(_) => return Err(Problem::Field("task", "transcribe or translate")),
    };
    let language = languages::read(upload.field("language").unwrap_or_default())
        .map_err(|_| Problem::Field("language", "a code such as en, or auto"))?;
    Ok(Wanted { language, task, endpointing_ms: None })
}

/// As FastAPI reads a bool of a form.
fn is_true(text: &str) -> bool {
    matches!(text.to_ascii_lowercase().as_str(), "true" | "1" | "on" | "yes" | "t" | "y")
}

/// The threshold of `threshold=0.5`, perhaps among others; what cannot be read counts for nothing.
fn threshold(parameters: &str) -> Option<f64> {
    let parameters = parameters.split(',').filter_map(|parameter| parameter.split_once('='));
    let (_, value) = parameters.into_iter().find(|(name, _)| name.trim() == "threshold")?;
    value.trim().parse().ok().filter(|value: &f64| value.is_finite())
}

/// What FastAPI says when the file came under another name.
fn missing_field() -> Answer {
    let missing =
        json!({ "type": "missing", "loc": ["body", "file"], "msg": "Field required", "input": null });
    object(StatusCode::UNPROCESSABLE_ENTITY, [("detail", Value::Array(vec![missing]))])
}

fn refusal(problem: &Problem) -> Answer {
    tracing::info!(fault = problem.fault().label(), %problem, "recording refused");
    let text = match problem {
        Problem::NoFile | Problem::NotAForm(_) => "No file provided".to_owned(),
        Problem::TooLarge(bytes_max) => {
            format!("File too large. Maximum size is {}MB", bytes_max / (1024 * 1024))
        }
        _ if problem.fault() == FaultKind::Dependency => "Model not loaded".to_owned(),
        _ => problem.to_string(),
    };
    let failed = [("error", text.into()), ("success", false.into())];
    let answer = match problem.fault() {
        FaultKind::Dependency => object(StatusCode::INTERNAL_SERVER_ERROR, failed),
        FaultKind::Defect => {
            let [error, success] = failed;
            let kind = ("error_type", problem.fault().label().into());
            object(StatusCode::INTERNAL_SERVER_ERROR, [error, kind, success])
        }
        FaultKind::TooLarge => object(StatusCode::BAD_REQUEST, failed),
        _ => object(problem.status(), failed),
    };
    match problem.retry_after() {
        Some(span) => retry_after(answer, span),
        None => answer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_is_read_where_there_is_one() {
        for (text, expected) in [
            ("threshold=0.5", Some(0.5)),
            ("min_silence_duration_ms=500, threshold = 0.35", Some(0.35)),
            ("threshold=high", None),
            ("threshold=NaN", None),
            ("0.5", None),
            ("", None),
        ] {
            assert_eq!(threshold(text), expected, "{text}");
        }
    }
}
