//! System D's server before its faster-whisper service, and `/api/translate`, to which its clients fall back.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use hyper::body::Body;
use model::FaultKind;
use rpc::recognition::{self, RecognizeError, Segment, TEXT_BYTES_MAX, Task, Wanted};
use serde::Serialize;

use super::{
    hearing::{self, Heard, Hearing, between},
    languages,
    problem::Problem,
    sound::{Accept, Sound},
    upload::{self, File, Shape, Upload},
};
use crate::{
    Edge,
    answers::{self, Answer, error, object},
};

const FORM: Shape = Shape { file: "audio", takes_json: true };

/// Leaves room for what is between segments.
const PORTION_BYTES_MAX: usize = TEXT_BYTES_MAX / 2;

pub(super) async fn transcribe<B>(edge: &Arc<Edge>, headers: &HeaderMap, body: B) -> Answer
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match hear(edge, headers, body, true).await {
        Ok(heard) => object(StatusCode::OK, [("transcription", heard.text().into())]),
        Err(problem) => refusal(&problem),
    }
}

pub(super) async fn identify_language<B>(edge: &Arc<Edge>, headers: &HeaderMap, body: B) -> Answer
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Identified<'a> {
        /// Null when nobody speaks.
        detected_language: Option<&'a str>,
        confidence: f32,
        transcription: String,
        candidate_languages: &'static [&'static str],
    }
    match hear(edge, headers, body, false).await {
        Ok(heard) => {
            let identified = Identified {
                detected_language: heard.done.language.as_deref().map(languages::regional),
                confidence: heard.done.probability,
                transcription: heard.text(),
                candidate_languages: &languages::REGIONAL,
            };
            answers::json(StatusCode::OK, &identified)
        }
        Err(problem) => refusal(&problem),
    }
}

/// It took addresses of recordings elsewhere, and fetched them.
pub(super) fn no_batches() -> Answer {
    error(
        StatusCode::NOT_IMPLEMENTED,
        "Batch transcription is not offered: send each recording to /live-translate",
    )
}

/// What is said in a recording, in the language that the client names if that counts.
async fn hear<B>(edge: &Edge, headers: &HeaderMap, body: B, is_named: bool) -> Result<Heard, Problem>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let place = hearing::place(edge).await?;
    let mut upload = upload::read(edge, headers, body, FORM).await?;
    let language = if is_named { language(&upload, "language")? } else { None };
    let sound = Sound::new(upload.take_file()?, Accept::Samples)?;
    let wanted = Wanted { language, ..Wanted::default() };
    Hearing::begin(edge, place, sound, &wanted).await?.all().await
}

fn language(upload: &Upload, field: &'static str) -> Result<Option<String>, Problem> {
    let text = upload.field(field).unwrap_or_default();
    languages::read(text).map_err(|_| Problem::Field(field, "a code such as ar or ar-SA, or auto"))
}

fn refusal(problem: &Problem) -> Answer {
    tracing::info!(fault = problem.fault().label(), %problem, "recording refused");
    let answer = match problem {
        Problem::NoFile => error(StatusCode::BAD_REQUEST, "Missing audio data"),
        _ if problem.is_of_sound() => object(
            StatusCode::BAD_REQUEST,
            [("error", "Unsupported audio format".into()), ("details", problem.to_string().into())],
        ),
        _ if matches!(problem.fault(), FaultKind::Dependency | FaultKind::Defect) => object(
            StatusCode::INTERNAL_SERVER_ERROR,
            [("error", "Transcription failed".into()), ("details", problem.to_string().into())],
        ),
        _ => error(problem.status(), &problem.to_string()),
    };
    match problem.retry_after() {
        Some(span) => answers::retry_after(answer, span),
        None => answer,
    }
}

/// What `/api/translate` answers.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Translation {
    success: bool,
    text: String,
    /// Null when nobody translates between these languages; the message says so.
    translation: Option<String>,
    source_language: Option<String>,
    target_language: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

pub(super) async fn translate<B>(edge: &Arc<Edge>, headers: &HeaderMap, body: B) -> Answer
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match translated(edge, headers, body).await {
        Ok(translation) => answers::json(StatusCode::OK, &translation),
        Err(problem) => {
            tracing::info!(fault = problem.fault().label(), %problem, "translation refused");
            let text = match problem {
                Problem::NoFile => "send text or audio".to_owned(),
                _ => problem.to_string(),
            };
            let answer = object(problem.status(), [("success", false.into()), ("error", text.into())]);
            match problem.retry_after() {
                Some(span) => answers::retry_after(answer, span),
                None => answer,
            }
        }
    }
}

async fn translated<B>(edge: &Edge, headers: &HeaderMap, body: B) -> Result<Translation, Problem>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let place = hearing::place(edge).await?;
    let mut upload = upload::read(edge, headers, body, FORM).await?;
    let source = language(&upload, "sourceLanguage")?;
    let target = language(&upload, "targetLanguage")?;
    if let Some(file) = upload.file.take() {
        return of_recording(edge, place, file, source, target).await;
    }
    let text = upload.field("text").ok_or(Problem::NoFile)?;
    if text.len() > TEXT_BYTES_MAX {
        return Err(Problem::TextTooLong(TEXT_BYTES_MAX));
    }
    let target = target.ok_or(Problem::Field("targetLanguage", "a code such as ar or ar-SA"))?;
    if source.as_ref() == Some(&target) {
        return Ok(Translation::of(text.to_owned(), Some(text.to_owned()), source, Some(target)));
    }
    let translated = recognition::translate(&edge.workers, text, source.as_deref(), &target).await?;
    let source = translated.source.or(source);
    Ok(Translation::of(text.to_owned(), Some(translated.text), source, Some(target)))
}

async fn of_recording(
    edge: &Edge,
    place: hearing::Place,
    file: File,
    source: Option<String>,
    target: Option<String>,
) -> Result<Translation, Problem> {
    let mut wanted = Wanted { language: source.clone(), task: Task::Transcribe, endpointing_ms: None };
    let words = heard(edge, place, file.clone(), &wanted).await?;
    let text = words.text();
    let source = words.done.language.clone().or(source);
    let (Some(to), false) = (&target, text.is_empty()) else {
        let translation = target.is_some().then(String::new);
        return Ok(Translation::of(text, translation, source, target));
    };
    if source.as_ref() == Some(to) {
        return Ok(Translation::of(text.clone(), Some(text), source, target));
    }
    let translation = match all_translated(edge, &words.segments, source.as_deref(), to).await {
        // Nobody translates the text, but an engine may write in English what it hears.
        Err(RecognizeError::Unserved(pair)) if to == "en" => {
            wanted.language.clone_from(&source);
            wanted.task = Task::Translate;
            let in_english = heard(edge, hearing::place(edge).await?, file, &wanted).await;
            in_english.map(|heard| heard.text()).map_err(|_| RecognizeError::Unserved(pair))
        }
        translation => translation,
    };
    // The words are worth something without their translation.
    match translation {
        Ok(translation) => Ok(Translation::of(text, Some(translation), source, target)),
        Err(problem) => {
            tracing::info!(fault = problem.fault().label(), %problem, "a recording was not translated");
            let message = Some(problem.to_string());
            Ok(Translation { message, ..Translation::of(text, None, source, target) })
        }
    }
}

async fn heard(edge: &Edge, place: hearing::Place, file: File, wanted: &Wanted) -> Result<Heard, Problem> {
    let sound = Sound::new(file, Accept::Samples)?;
    Hearing::begin(edge, place, sound, wanted).await?.all().await
}

impl Translation {
    const fn of(
        text: String,
        translation: Option<String>,
        source_language: Option<String>,
        target_language: Option<String>,
    ) -> Self {
        Self { success: true, text, translation, source_language, target_language, message: None }
    }
}

/// Translates in portions of whole segments, which are sentences as a rule.
async fn all_translated(
    edge: &Edge,
    segments: &[Segment],
    source: Option<&str>,
    target: &str,
) -> Result<String, RecognizeError> {
    let mut portions = vec![String::new()];
    for segment in segments {
        match portions.last_mut() {
            Some(portion) if portion.len() + segment.text.len() <= PORTION_BYTES_MAX => {
                portion.push_str(between(portion, segment));
                portion.push_str(&segment.text);
            }
            _ => portions.push(segment.text.clone()),
        }
    }
    let mut all = Vec::new();
    for portion in portions.iter().filter(|portion| !portion.is_empty()) {
        all.push(recognition::translate(&edge.workers, portion, source, target).await?.text);
    }
    Ok(all.join(" "))
}
