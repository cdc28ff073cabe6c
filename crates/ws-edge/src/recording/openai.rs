//! OpenAI's `/v1/audio/transcriptions`, `/v1/audio/translations` and `/v1/models`, so that its clients need only
//! another base URL.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use hyper::body::Body;
use model::{FaultKind, Samples, Word};
use rpc::recognition::{Done, Recognized, Segment, Task, Wanted};
use serde::Serialize;
use serde_json::Value;
use subtitles::Stretch;

use super::{
    challenge,
    hearing::{self, Heard, Hearing, between},
    languages,
    problem::Problem,
    sound::{Accept, Sound},
    upload::{self, Shape, Upload},
};
use crate::{
    Edge,
    answers::{self, Answer},
    handshake::{bearer, path_part},
};

/// The path of a model, which follows.
pub(super) const MODEL_PATH: &str = "/v1/models/";

/// The models that are listed. Any name will do: what hears a recording is chosen by its language.
const MODELS: [&str; 2] = ["parley", "whisper-1"];

const FORM: Shape = Shape { file: "file", takes_json: false };

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Text,
    Srt,
    Vtt,
    VerboseJson,
}

/// What a request asks for.
struct Options {
    format: Format,
    /// Word by word, and segment by segment, in `verbose_json`.
    has_words: bool,
    has_segments: bool,
    is_streamed: bool,
    wanted: Wanted,
}

impl Options {
    fn read(upload: &Upload, task: Task) -> Result<Self, Problem> {
        let format = match upload.field("response_format") {
            None | Some("json") => Format::Json,
            Some("text") => Format::Text,
            Some("srt") => Format::Srt,
            Some("vtt") => Format::Vtt,
            Some("verbose_json") => Format::VerboseJson,
            Some(_) => return Err(Problem::Field("response_format", "json, text, srt, verbose_json or vtt")),
        };
        let names = ["timestamp_granularities[]", "timestamp_granularities"];
        let granularities: Vec<&str> = names.into_iter().flat_map(|name| upload.all(name)).collect();
        if granularities.iter().any(|granularity| !matches!(*granularity, "word" | "segment")) {
            return Err(Problem::Field("timestamp_granularities[]", "word or segment"));
        }
        let is_streamed = match upload.field("stream").map(str::to_ascii_lowercase).as_deref() {
            None | Some("false" | "0") => false,
            Some("true" | "1") => true,
            Some(_) => return Err(Problem::Field("stream", "true or false")),
        };
        if is_streamed && !matches!(format, Format::Json | Format::Text) {
            return Err(Problem::Field("response_format", "json or text when stream is true"));
        }
        let language = languages::read(upload.field("language").unwrap_or_default())
            .map_err(|_| Problem::Field("language", "an ISO-639-1 code"))?;
        Ok(Self {
            format,
            has_words: granularities.contains(&"word"),
            has_segments: granularities.is_empty() || granularities.contains(&"segment"),
            is_streamed,
            wanted: Wanted { language, task, endpointing_ms: None },
        })
    }
}

pub(super) async fn transcribe<B>(edge: &Arc<Edge>, headers: &HeaderMap, body: B) -> Answer
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    answer(edge, headers, body, Task::Transcribe).await.unwrap_or_else(|problem| refusal(&problem))
}

pub(super) async fn translate<B>(edge: &Arc<Edge>, headers: &HeaderMap, body: B) -> Answer
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    answer(edge, headers, body, Task::Translate).await.unwrap_or_else(|problem| refusal(&problem))
}

async fn answer<B>(edge: &Edge, headers: &HeaderMap, body: B, task: Task) -> Result<Answer, Problem>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let place = hearing::place(edge).await?;
    let mut upload = upload::read(edge, headers, body, FORM).await?;
    let options = Options::read(&upload, task)?;
    let sound = Sound::new(upload.take_file()?, Accept::Containers)?;
    let hearing = Hearing::begin(edge, place, sound, &options.wanted).await?;
    if options.is_streamed {
        return streamed(hearing).await;
    }
    Ok(whole(&hearing.all().await?, &options))
}

/// So much of a recording, as OpenAI reckons what was used.
#[derive(Serialize)]
struct Usage {
    #[serde(rename = "type")]
    kind: &'static str,
    seconds: u64,
}

impl Usage {
    fn of(done: &Done) -> Self {
        Self { kind: "duration", seconds: done.length.millis().div_ceil(1000) }
    }
}

fn whole(heard: &Heard, options: &Options) -> Answer {
    let text = heard.text();
    let stretches = || {
        heard.segments.iter().map(|segment| Stretch {
            text: &segment.text,
            words: &segment.words,
            start: segment.start,
            end: segment.end,
        })
    };
    match options.format {
        Format::Json => {
            #[derive(Serialize)]
            struct Transcription {
                text: String,
                usage: Usage,
            }
            answers::json(StatusCode::OK, &Transcription { text, usage: Usage::of(&heard.done) })
        }
        Format::Text => answers::text(StatusCode::OK, "text/plain; charset=utf-8", text + "\n"),
        Format::Srt => {
            let content_type = subtitles::Format::Srt.content_type();
            answers::text(StatusCode::OK, content_type, subtitles::srt_of(stretches()))
        }
        Format::Vtt => {
            let content_type = subtitles::Format::Vtt.content_type();
            answers::text(StatusCode::OK, content_type, subtitles::vtt_of(stretches()))
        }
        Format::VerboseJson => answers::json(StatusCode::OK, &Verbose::of(heard, text, options)),
    }
}

#[derive(Serialize)]
struct Verbose<'a> {
    task: &'static str,
    language: &'a str,
    duration: f64,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    segments: Option<Vec<VerboseSegment<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    words: Option<Vec<VerboseWord<'a>>>,
    usage: Usage,
}

#[derive(Serialize)]
struct VerboseSegment<'a> {
    id: usize,
    /// Where it begins, in hundredths of a second.
    seek: u64,
    start: f64,
    end: f64,
    text: &'a str,
    /// Engines number theirs differently; nobody is told.
    tokens: [u32; 0],
    temperature: f64,
    avg_logprob: f32,
    // Segments that a client should doubt do not come this far, so these two say that there is nothing to doubt.
    compression_ratio: f64,
    no_speech_prob: f64,
}

#[derive(Serialize)]
struct VerboseWord<'a> {
    word: &'a str,
    start: f64,
    end: f64,
}

impl<'a> Verbose<'a> {
    fn of(heard: &'a Heard, text: String, options: &Options) -> Self {
        let is_translated = options.wanted.task == Task::Translate;
        let spoken = heard.done.language.as_deref().unwrap_or_default();
        let segments = heard.segments.iter().enumerate().map(|(id, segment)| VerboseSegment {
            id,
            seek: segment.start.millis() / 10,
            start: seconds(segment.start),
            end: seconds(segment.end),
            text: &segment.text,
            tokens: [],
            temperature: 0.0,
            avg_logprob: segment.logprob,
            compression_ratio: 1.0,
            no_speech_prob: 0.0,
        });
        let words = heard.segments.iter().flat_map(|segment| &segment.words);
        let words = words.map(|Word { text, start, end }| VerboseWord {
            word: text,
            start: seconds(*start),
            end: seconds(*end),
        });
        Self {
            task: if is_translated { "translate" } else { "transcribe" },
            language: if is_translated { "english" } else { languages::name(spoken) },
            duration: seconds(heard.done.length),
            text,
            segments: options.has_segments.then(|| segments.collect()),
            words: options.has_words.then(|| words.collect()),
            usage: Usage::of(&heard.done),
        }
    }
}

/// To the millisecond.
fn seconds(position: Samples) -> f64 {
    position.millis() as f64 / 1000.0
}

/// What a stream tells.
#[derive(Serialize)]
#[serde(tag = "type")]
enum Event {
    #[serde(rename = "transcript.text.delta")]
    Delta { delta: String },
    #[serde(rename = "transcript.text.done")]
    Done { text: String, usage: Usage },
}

/// Server-sent events (HTML standard section 9.2) as segments come. What ends it before its first event is an answer
/// of its own.
async fn streamed(mut hearing: Hearing) -> Result<Answer, Problem> {
    let mut text = String::new();
    let first = hearing.next().await?;
    let is_done = matches!(first, Recognized::Done(_));
    let first = event(first, &mut text);
    // Ends with the last event, or the first that says why there are no more.
    let following = stream::unfold((!is_done).then_some((hearing, text)), |going| async {
        let (mut hearing, mut text) = going?;
        match hearing.next().await {
            Ok(recognized) => {
                let is_done = matches!(recognized, Recognized::Done(_));
                let event = event(recognized, &mut text);
                Some((event, (!is_done).then_some((hearing, text))))
            }
            Err(problem) => Some((data(&error_of(&problem)), None)),
        }
    });
    let events = stream::once(async { first }).chain(following);
    Ok(answers::events(events.boxed()))
}

fn event(recognized: Recognized, text: &mut String) -> Bytes {
    match recognized {
        Recognized::Segment(segment) => {
            let delta = delta(text, &segment);
            text.push_str(&delta);
            data(&Event::Delta { delta })
        }
        Recognized::Done(done) => data(&Event::Done { text: std::mem::take(text), usage: Usage::of(&done) }),
    }
}

fn delta(before: &str, segment: &Segment) -> String {
    format!("{}{}", between(before, segment), segment.text)
}

fn data(event: &impl Serialize) -> Bytes {
    format!("data: {}\n\n", serde_json::to_string(event).unwrap_or_default()).into()
}

#[derive(Serialize)]
struct Model {
    id: &'static str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
}

impl Model {
    const fn of(id: &'static str) -> Self {
        Self { id, object: "model", created: 0, owned_by: "parley" }
    }
}

pub(super) fn models() -> Answer {
    #[derive(Serialize)]
    struct Models {
        object: &'static str,
        data: [Model; MODELS.len()],
    }
    answers::json(StatusCode::OK, &Models { object: "list", data: MODELS.map(Model::of) })
}

pub(super) fn model(path: &str) -> Answer {
    let id = path_part(path.strip_prefix(MODEL_PATH).unwrap_or_default());
    match MODELS.into_iter().find(|model| *model == id) {
        Some(id) => answers::json(StatusCode::OK, &Model::of(id)),
        None => failure(
            StatusCode::NOT_FOUND,
            &Failure {
                message: "The model does not exist; see /v1/models".to_owned(),
                kind: "invalid_request_error",
                param: Some("model"),
                code: Some("model_not_found"),
            },
        ),
    }
}

/// What OpenAI says of an error.
#[derive(Serialize)]
struct Failure {
    message: String,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'static str>,
    code: Option<&'static str>,
}

fn failure(status: StatusCode, error: &Failure) -> Answer {
    #[derive(Serialize)]
    struct Body<'a> {
        error: &'a Failure,
    }
    answers::json(status, &Body { error })
}

fn failure_of(problem: &Problem) -> Failure {
    let (kind, code) = match problem.fault() {
        FaultKind::Overloaded | FaultKind::LimitReached => ("rate_limit_error", Some("rate_limit_exceeded")),
        FaultKind::Dependency | FaultKind::Defect => ("server_error", None),
        _ if problem.is_of_sound() => ("invalid_request_error", Some("invalid_audio")),
        FaultKind::TooLarge => ("invalid_request_error", Some("too_large")),
        _ => ("invalid_request_error", None),
    };
    let param = match problem {
        Problem::Field(name, _) => Some(*name),
        Problem::NoFile | Problem::TooLarge(_) | Problem::TooLong => Some("file"),
        _ if problem.is_of_sound() => Some("file"),
        _ => None,
    };
    Failure { message: problem.to_string(), kind, param, code }
}

/// An error among events.
fn error_of(problem: &Problem) -> Value {
    tell(problem);
    serde_json::json!({ "error": failure_of(problem) })
}

fn refusal(problem: &Problem) -> Answer {
    tell(problem);
    let answer = failure(problem.status(), &failure_of(problem));
    match problem.retry_after() {
        Some(span) => answers::retry_after(answer, span),
        None => answer,
    }
}

fn tell(problem: &Problem) {
    tracing::info!(fault = problem.fault().label(), %problem, "recording refused");
}

/// What is said to whoever has not proved to be anybody.
pub(super) fn not_proven(headers: &HeaderMap, fault: FaultKind) -> Answer {
    let (message, code) = match fault {
        FaultKind::Expired => ("The token has expired: get a new one", Some("invalid_api_key")),
        _ if bearer(headers).is_none() => ("No API key: send Authorization: Bearer KEY", None),
        _ => ("Incorrect API key: send a service key, or a token of a session", Some("invalid_api_key")),
    };
    let error = Failure { message: message.to_owned(), kind: "invalid_request_error", param: None, code };
    let mut answer = failure(StatusCode::UNAUTHORIZED, &error);
    challenge(answer.headers_mut());
    answer
}

pub(super) fn wrong_method(method: &Method, path: &str) -> Answer {
    let is_read = path.starts_with("/v1/models");
    let error = Failure {
        message: format!("Not allowed to {method} on this path"),
        kind: "invalid_request_error",
        param: None,
        code: None,
    };
    let mut answer = failure(StatusCode::METHOD_NOT_ALLOWED, &error);
    let allowed = HeaderValue::from_static(if is_read { "GET, HEAD" } else { "POST" });
    answer.headers_mut().insert(header::ALLOW, allowed);
    answer
}
