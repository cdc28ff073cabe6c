//! What a client of Deepgram's live protocol is told.

use model::{Caption, Samples};
use serde::Serialize;
use serde_json::json;
use tungstenite::Utf8Bytes;
use uuid::Uuid;

use super::{
    params::Params,
    words::{self, Manner, Word},
};
use crate::protocol::{encode, seconds};

/// What all models here are called by.
const MODEL_UUID: Uuid = Uuid::from_u128(0x7061_726c_6579_4000_8000_0000_0000_0001);

/// The channel of everything: several are mixed.
const CHANNEL: [u32; 2] = [0, 1];

#[derive(Serialize)]
struct Results<'a> {
    r#type: &'static str,
    channel_index: [u32; 2],
    duration: f64,
    start: f64,
    is_final: bool,
    speech_final: bool,
    from_finalize: bool,
    channel: Channel,
    metadata: Metadata<'a>,
}

#[derive(Serialize)]
struct Channel {
    alternatives: [Alternative; 1],
}

#[derive(Serialize)]
struct Alternative {
    transcript: String,
    confidence: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    languages: Option<Vec<String>>,
    words: Vec<Word>,
}

#[derive(Serialize)]
struct Metadata<'a> {
    request_id: Uuid,
    model_info: ModelInfo<'a>,
    model_uuid: Uuid,
}

#[derive(Serialize)]
struct ModelInfo<'a> {
    name: &'a str,
    version: &'static str,
    arch: &'static str,
}

impl<'a> ModelInfo<'a> {
    fn of(params: &'a Params) -> Self {
        Self { name: &params.model, version: env!("CARGO_PKG_VERSION"), arch: "parley" }
    }
}

/// A caption of its stream; `None` for what is no text of it.
pub(super) fn results(
    request: Uuid,
    params: &Params,
    caption: &Caption,
    from_finalize: bool,
) -> Option<Utf8Bytes> {
    let manner = Manner { punctuated: params.punctuated, is_multi: params.is_multi };
    let (start, end, text, language, words, is_final) = match caption {
        Caption::Partial(partial) => {
            let words = words::of_partial(partial, manner);
            (partial.start, partial.end, &partial.text, &partial.language, words, false)
        }
        Caption::Final(segment) => {
            let words = words::of_final(segment, manner);
            (segment.start, segment.end, &segment.text, &segment.language, words, true)
        }
        Caption::Translation(_) => return None,
    };
    let alternative = Alternative {
        transcript: if params.punctuated { text.clone() } else { words::joined(&words) },
        confidence: words::confidence(&words),
        languages: params.is_multi.then(|| language.iter().cloned().collect()),
        words,
    };
    Some(told(request, params, (start, end), alternative, is_final, from_finalize))
}

/// The answer to a `Finalize` when nobody has spoken.
pub(super) fn nothing(request: Uuid, params: &Params, at: Samples) -> Utf8Bytes {
    let alternative =
        Alternative { transcript: String::new(), confidence: 0.0, languages: None, words: Vec::new() };
    told(request, params, (at, at), alternative, true, true)
}

fn told(
    request: Uuid,
    params: &Params,
    (start, end): (Samples, Samples),
    alternative: Alternative,
    is_final: bool,
    from_finalize: bool,
) -> Utf8Bytes {
    encode(&Results {
        r#type: "Results",
        channel_index: CHANNEL,
        duration: seconds(end - start),
        start: seconds(start),
        is_final,
        // Ours end with a pause.
        speech_final: is_final,
        from_finalize,
        channel: Channel { alternatives: [alternative] },
        metadata: Metadata { request_id: request, model_info: ModelInfo::of(params), model_uuid: MODEL_UUID },
    })
}

pub(super) fn speech_started(at: Samples) -> Utf8Bytes {
    encode(&json!({ "type": "SpeechStarted", "channel": CHANNEL, "timestamp": seconds(at) }))
}

pub(super) fn utterance_end(last_word_end: Samples) -> Utf8Bytes {
    encode(&json!({ "type": "UtteranceEnd", "channel": CHANNEL, "last_word_end": seconds(last_word_end) }))
}

/// The last message.
pub(super) fn metadata(
    request: Uuid,
    params: &Params,
    created: &str,
    length: Samples,
    sha256: &str,
) -> Utf8Bytes {
    let uuid = MODEL_UUID.to_string();
    let info = ModelInfo::of(params);
    encode(&json!({
        "type": "Metadata",
        "transaction_key": "deprecated",
        "request_id": request,
        "sha256": sha256,
        "created": created,
        "duration": seconds(length),
        "channels": 1,
        "models": [uuid],
        "model_info": { (uuid.clone()): info },
    }))
}

/// Why the connection ends, or what is not to be had.
pub(super) fn error(code: &str, description: &str) -> Utf8Bytes {
    encode(&json!({ "type": "Error", "code": code, "description": description, "message": description }))
}

pub(super) fn warning(code: &str, description: &str) -> Utf8Bytes {
    encode(&json!({ "type": "Warning", "code": code, "description": description }))
}
