//! Recordings and texts that are done at once, for programs written for other services. In the order data passes: an
//! `upload` is read and becomes `sound`, of which a worker's `hearing` makes segments; `openai` and, on a door of their own,
//! both of system D's services (`faster_whisper`, and `live_translation` that came before it) say it each in its way.

mod faster_whisper;
mod hearing;
pub(crate) mod languages;
mod live_translation;
mod openai;
mod problem;
mod sound;
mod upload;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts};
use hyper::body::Body;
use model::FaultKind;
use rpc::recognition::Wanted;

use crate::{
    Edge,
    answers::{Answer, object},
    door::Door,
    proof::{self, NotAdmitted},
};

/// One of these routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// System D says what it is.
    Index,
    Health,
    Docs,
    /// System D's faster-whisper service.
    Transcribe,
    DetectLanguage,
    /// System D's server before that.
    LiveTranslate,
    IdentifyLanguage,
    BatchTranscribe,
    /// What its clients fall back to.
    Translate,
    /// OpenAI's.
    Transcriptions,
    Translations,
    Models,
    Model,
}

/// Where these routes are, but for single models.
pub(crate) const PATHS: [&str; 9] = [
    "/api/translate",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
    "/v1/models",
    "/transcribe",
    "/detect-language",
    "/live-translate",
    "/identify-language",
    "/batch-transcribe",
];

/// Which of these routes a path of this door is, if any.
pub(crate) fn route(door: Door, path: &str) -> Option<Route> {
    match path {
        "/api/translate" => return Some(Route::Translate),
        "/v1/audio/transcriptions" => return Some(Route::Transcriptions),
        "/v1/audio/translations" => return Some(Route::Translations),
        "/v1/models" => return Some(Route::Models),
        _ if path.starts_with(openai::MODEL_PATH) => return Some(Route::Model),
        _ if door != Door::Translate => return None,
        _ => {}
    }
    match path {
        "/" => Some(Route::Index),
        "/health" => Some(Route::Health),
        "/docs" => Some(Route::Docs),
        "/transcribe" => Some(Route::Transcribe),
        "/detect-language" => Some(Route::DetectLanguage),
        "/live-translate" => Some(Route::LiveTranslate),
        "/identify-language" => Some(Route::IdentifyLanguage),
        "/batch-transcribe" => Some(Route::BatchTranscribe),
        _ => None,
    }
}

impl Route {
    const fn is_openai(self) -> bool {
        matches!(self, Self::Transcriptions | Self::Translations | Self::Models | Self::Model)
    }

    /// Whether anybody may ask.
    const fn is_open(self) -> bool {
        matches!(self, Self::Index | Self::Health | Self::Docs)
    }

    const fn allows(self, method: &Method) -> bool {
        match self {
            Self::Index | Self::Health | Self::Docs | Self::Models | Self::Model => {
                matches!(*method, Method::GET | Method::HEAD)
            }
            _ => matches!(*method, Method::POST),
        }
    }
}

/// Answers a request for one of these routes.
pub(crate) async fn answer<B>(edge: &Arc<Edge>, route: Route, head: &Parts, body: B) -> Answer
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if !route.allows(&head.method) {
        return if route.is_openai() {
            openai::wrong_method(&head.method, head.uri.path())
        } else {
            object(StatusCode::METHOD_NOT_ALLOWED, [("detail", "Method Not Allowed".into())])
        };
    }
    let refused = if route.is_openai() {
        proof::caller(edge, &head.headers, None).err().map(|fault| openai::not_proven(&head.headers, fault))
    } else if route.is_open() {
        None
    } else {
        proof::admit_translating(edge, &head.headers, None).err().map(not_admitted)
    };
    if let Some(refused) = refused {
        // Who is cut off while it sends does not read the answer.
        upload::discard(body).await;
        return refused;
    }
    match route {
        Route::Index => faster_whisper::index(),
        Route::Health => faster_whisper::health(edge).await,
        Route::Docs => faster_whisper::docs(),
        Route::Transcribe => faster_whisper::transcribe(edge, &head.headers, body).await,
        Route::DetectLanguage => faster_whisper::detect_language(edge, &head.headers, body).await,
        Route::LiveTranslate => live_translation::transcribe(edge, &head.headers, body).await,
        Route::IdentifyLanguage => live_translation::identify_language(edge, &head.headers, body).await,
        Route::BatchTranscribe => {
            upload::discard(body).await;
            live_translation::no_batches()
        }
        Route::Translate => live_translation::translate(edge, &head.headers, body).await,
        Route::Transcriptions => openai::transcribe(edge, &head.headers, body).await,
        Route::Translations => openai::translate(edge, &head.headers, body).await,
        Route::Models => openai::models(),
        Route::Model => openai::model(head.uri.path()),
    }
}

/// What a whole recording says.
pub(crate) struct Transcribed {
    /// Empty when nobody speaks.
    pub(crate) text: String,
    pub(crate) language: Option<String>,
    /// How sure the language is, 0 to 1.
    pub(crate) probability: f32,
}

/// Hears a whole recording that came in one message.
///
/// # Errors
/// Who must act, and what to tell the client.
pub(crate) async fn transcribe(
    edge: &Edge,
    recording: Bytes,
    language: Option<String>,
) -> Result<Transcribed, (FaultKind, String)> {
    let hear = async {
        let place = hearing::place(edge).await?;
        let file = upload::File { pieces: vec![recording], media_type: None };
        let sound = sound::Sound::new(file, sound::Accept::Samples)?;
        let wanted = Wanted { language, ..Wanted::default() };
        hearing::Hearing::begin(edge, place, sound, &wanted).await?.all().await
    };
    match hear.await {
        Ok(heard) => Ok(Transcribed {
            text: heard.text(),
            language: heard.done.language,
            probability: heard.done.probability,
        }),
        Err(problem) => Err((problem.fault(), problem.to_string())),
    }
}

/// What FastAPI says of a path that it does not know.
pub(crate) fn not_found() -> Answer {
    object(StatusCode::NOT_FOUND, [("detail", "Not Found".into())])
}

/// What system D says to whoever may not.
pub(crate) fn not_admitted(refused: NotAdmitted) -> Answer {
    let status = match refused {
        NotAdmitted::Missing => StatusCode::UNAUTHORIZED,
        NotAdmitted::Wrong => StatusCode::FORBIDDEN,
    };
    let mut answer = object(status, [("detail", refused.text().into())]);
    challenge(answer.headers_mut());
    answer
}

/// Says how to prove who asks (RFC 6750 section 3).
fn challenge(headers: &mut HeaderMap) {
    headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_d_has_its_paths_on_its_own_door_alone() {
        for (path, everywhere) in [
            ("/", false),
            ("/health", false),
            ("/transcribe", false),
            ("/live-translate", false),
            ("/api/translate", true),
            ("/v1/audio/transcriptions", true),
            ("/v1/models/whisper-1", true),
        ] {
            assert!(route(Door::Translate, path).is_some(), "{path}");
            assert_eq!(route(Door::Main, path).is_some(), everywhere, "{path}");
            assert_eq!(route(Door::Chat, path).is_some(), everywhere, "{path}");
        }
        for path in ["/transcribe/", "/v1/audio", "/v1/listen", "/ws"] {
            assert_eq!(route(Door::Translate, path), None, "{path}");
        }
    }
}
