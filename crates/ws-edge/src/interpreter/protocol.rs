//! Messages of system D, both ways: those of its faster-whisper service (`One`) and those of the server before that
//! (`Two`).

use base64ct::{Base64Unpadded, Encoding as _};
use bytes::Bytes;
use model::{Final, Partial};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tungstenite::Utf8Bytes;

use crate::{
    protocol::encode,
    recording::{Transcribed, languages},
};

/// Which of the two a client speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Dialect {
    #[default]
    One,
    Two,
}

/// What a client says in text.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Message {
    Init(Init),
    Audio(Bytes),
    Ping,
    /// Whether a language could be spoken.
    LanguageTest(Option<String>),
    /// Of a type that nobody knows: not answered.
    Other,
}

/// What a client wants.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Init {
    pub(super) dialect: Dialect,
    /// As [`languages::read`] has it: `None` to have it detected.
    pub(super) language: Option<String>,
    pub(super) target: Option<String>,
    pub(super) auto_detection: bool,
    /// `Continuous`, else `AtStart`.
    pub(super) is_continuous: bool,
    /// Of samples without a header.
    pub(super) sample_rate_hz: Option<u32>,
    pub(super) channels: Option<u16>,
}

/// A message that cannot be followed. The texts are for the client and quote nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadMessage {
    #[error("a text message must be a JSON object with a type")]
    NotJson,
    #[error("{0} must be a language such as en, ar-SA or auto")]
    Language(&'static str),
    #[error("data must be sound in base64")]
    Base64,
    #[error("audioConfig must name a sampleRate of 8000 to 192000 and 1 to 8 channels")]
    Config,
}

/// Fields that only clients of `Two` send.
const OF_TWO: [&str; 5] =
    ["autoDetection", "lidMode", "realTimeMode", "audioConfig", "clientSideTranslation"];

impl Message {
    pub(super) fn parse(text: &str) -> Result<Self, BadMessage> {
        let Ok(Value::Object(fields)) = serde_json::from_str(text) else { return Err(BadMessage::NotJson) };
        let text = |name: &str| fields.get(name).and_then(Value::as_str);
        match text("type").ok_or(BadMessage::NotJson)? {
            "init" => init(&fields).map(Self::Init),
            "ping" => Ok(Self::Ping),
            "audio" => {
                let data = text("data").ok_or(BadMessage::Base64)?;
                // A data URL, as `FileReader` makes it.
                let data = data.split_once(";base64,").map_or(data, |(_, data)| data);
                let data = Base64Unpadded::decode_vec(data.trim_end_matches('='));
                data.map(|data| Self::Audio(data.into())).map_err(|_| BadMessage::Base64)
            }
            "language_test" => {
                let language =
                    languages::read(text("sourceLanguage").or(text("language")).unwrap_or_default());
                let language = language.map_err(|_| BadMessage::Language("sourceLanguage"))?;
                Ok(Self::LanguageTest(language))
            }
            _ => Ok(Self::Other),
        }
    }
}

fn init(fields: &Map<String, Value>) -> Result<Init, BadMessage> {
    let has = |name: &str| fields.contains_key(name);
    let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
    let language = |name: &'static str| languages::read(text(name)).map_err(|_| BadMessage::Language(name));
    let is_two = OF_TWO.into_iter().any(has) || (has("language") && !has("engine") && !has("sourceLanguage"));
    let source = if has("sourceLanguage") { language("sourceLanguage")? } else { None };
    let source = if source.is_none() { language("language")? } else { source };
    let flag = |name: &str| fields.get(name).and_then(Value::as_bool);
    let auto_detection = flag("autoDetection").unwrap_or(source.is_none());
    let config = fields.get("audioConfig").and_then(Value::as_object);
    let number = |name: &str| config.and_then(|config| config.get(name)).and_then(Value::as_u64);
    Ok(Init {
        dialect: if is_two { Dialect::Two } else { Dialect::One },
        target: language("targetLanguage")?.filter(|target| source.as_ref() != Some(target)),
        language: source,
        auto_detection,
        is_continuous: text("lidMode") == "Continuous",
        sample_rate_hz: number("sampleRate")
            .map(|rate| u32::try_from(rate).map_err(|_| BadMessage::Config))
            .transpose()?,
        channels: number("channels")
            .map(|channels| u16::try_from(channels).map_err(|_| BadMessage::Config))
            .transpose()?,
    })
}

impl Init {
    fn lid_mode(&self) -> &'static str {
        if self.is_continuous { "Continuous" } else { "AtStart" }
    }
}

/// The first message of every socket.
pub(super) fn connected() -> Utf8Bytes {
    let message = "WebSocket connection established";
    encode(&json!({ "type": "connection", "status": "connected", "message": message }))
}

/// The answer to an `init`.
pub(super) fn ready(init: &Init) -> Utf8Bytes {
    match init.dialect {
        Dialect::One => {
            let message = "Configuration received";
            encode(&json!({ "type": "connection", "status": "initialized", "message": message }))
        }
        Dialect::Two => encode(&json!({
            "type": "ready",
            "message": "Ready for audio",
            "autoDetection": init.auto_detection,
            "lidMode": init.lid_mode(),
        })),
    }
}

pub(super) fn pong() -> Utf8Bytes {
    encode(&json!({ "type": "pong" }))
}

#[derive(Serialize)]
struct Transcription<'a> {
    r#type: &'static str,
    text: &'a str,
    language: Option<&'a str>,
    /// Null when nobody has measured it.
    language_probability: Option<f32>,
    success: bool,
}

/// What a whole recording says.
pub(super) fn recording(heard: &Transcribed) -> Utf8Bytes {
    encode(&Transcription {
        r#type: "transcription",
        text: &heard.text,
        language: heard.language.as_deref(),
        language_probability: Some(heard.probability),
        success: true,
    })
}

/// Nobody has spoken.
pub(super) fn nothing(init: &Init) -> Utf8Bytes {
    match init.dialect {
        Dialect::One => encode(&Transcription {
            r#type: "transcription",
            text: "",
            language: init.language.as_deref(),
            language_probability: None,
            success: true,
        }),
        Dialect::Two => encode(&json!({
            "type": "final",
            "text": "",
            "isPartial": false,
            "reason": "NoMatch",
            "detectedLanguage": init.language.as_deref().map(languages::regional),
            "lidMode": init.lid_mode(),
        })),
    }
}

/// The text of a finished utterance.
pub(super) fn finished(init: &Init, segment: &Final) -> Utf8Bytes {
    let language = segment.language.as_deref().or(init.language.as_deref());
    match init.dialect {
        Dialect::One => encode(&Transcription {
            r#type: "transcription",
            text: &segment.text,
            language,
            language_probability: init.language.as_ref().map(|_| 1.0),
            success: true,
        }),
        Dialect::Two => encode(&json!({
            "type": "final",
            "text": segment.text,
            "isPartial": false,
            "detectedLanguage": language.map(languages::regional),
            "lidMode": init.lid_mode(),
        })),
    }
}

/// The text of an open utterance, which only clients of `Two` know.
pub(super) fn partial(init: &Init, partial: &Partial) -> Option<Utf8Bytes> {
    let language = partial.language.as_deref().or(init.language.as_deref());
    (init.dialect == Dialect::Two).then(|| {
        encode(&json!({
            "type": "transcription",
            "text": partial.text,
            "isPartial": true,
            "detectedLanguage": language.map(languages::regional),
            "lidMode": init.lid_mode(),
        }))
    })
}

pub(super) fn translation(text: &str, source: Option<&str>, target: &str) -> Utf8Bytes {
    encode(&json!({
        "type": "translation",
        "text": text,
        "sourceLanguage": source,
        "targetLanguage": target,
        "success": true,
    }))
}

pub(super) fn language_support(supported: bool, language: Option<&str>) -> Utf8Bytes {
    let language = language.map(languages::regional);
    encode(&json!({ "type": "language_support", "supported": supported, "language": language }))
}

/// Why something is not done; `reason` is a word for programs.
pub(super) fn error(init: &Init, reason: &str, message: &str) -> Utf8Bytes {
    match init.dialect {
        Dialect::One => encode(&json!({ "type": "error", "message": message, "success": false })),
        Dialect::Two => encode(&json!({
            "type": "error",
            "error": message,
            "reason": reason,
            "errorCode": reason,
            "isNetworkError": false,
            "lidMode": init.lid_mode(),
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Init {
        match Message::parse(text) {
            Ok(Message::Init(init)) => init,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_init_tells_the_two_apart() {
        for (text, dialect, language, target) in [
            (
                r#"{"type":"init","sourceLanguage":"en","targetLanguage":"ar","engine":"faster-whisper"}"#,
                Dialect::One,
                Some("en"),
                Some("ar"),
            ),
            (
                r#"{"type":"init","sourceLanguage":null,"targetLanguage":"ar"}"#,
                Dialect::One,
                None,
                Some("ar"),
            ),
            (r#"{"type":"init","language":"ru","engine":"faster-whisper"}"#, Dialect::One, Some("ru"), None),
            (r#"{"type":"init"}"#, Dialect::One, None, None),
            (r#"{"type":"init","language":"ar-SA"}"#, Dialect::Two, Some("ar"), None),
            (
                r#"{"type":"init","language":"auto","autoDetection":true,"lidMode":"Continuous"}"#,
                Dialect::Two,
                None,
                None,
            ),
            (
                r#"{"type":"init","sourceLanguage":"en","targetLanguage":"en-US"}"#,
                Dialect::One,
                Some("en"),
                None,
            ),
        ] {
            let init = read(text);
            let told = (init.dialect, init.language.as_deref(), init.target.as_deref());
            assert_eq!(told, (dialect, language, target), "{text}");
        }
        let config = r#"{"type":"init","audioConfig":{"sampleRate":48000,"channels":2}}"#;
        let init = read(config);
        assert_eq!((init.sample_rate_hz, init.channels, init.dialect), (Some(48_000), Some(2), Dialect::Two));
    }

    #[test]
    fn sound_comes_in_base64_with_or_without_what_is_around_it() {
        for data in ["AQID", "data:audio/webm;codecs=opus;base64,AQID"] {
            let message = json!({ "type": "audio", "data": data, "format": "audio/pcm" }).to_string();
            assert_eq!(Message::parse(&message), Ok(Message::Audio(Bytes::from_static(&[1, 2, 3]))));
        }
        let padded = r#"{"type":"audio","data":"AQ=="}"#;
        assert_eq!(Message::parse(padded), Ok(Message::Audio(Bytes::from_static(&[1]))));
    }

    #[test]
    fn what_cannot_be_followed_is_told() {
        for (text, error) in [
            ("", BadMessage::NotJson),
            ("[1]", BadMessage::NotJson),
            ("{}", BadMessage::NotJson),
            (r#"{"type":"init","language":"klingon"}"#, BadMessage::Language("language")),
            (r#"{"type":"audio"}"#, BadMessage::Base64),
            (r#"{"type":"audio","data":"*"}"#, BadMessage::Base64),
        ] {
            assert_eq!(Message::parse(text), Err(error), "{text}");
        }
        assert_eq!(Message::parse(r#"{"type":"status"}"#), Ok(Message::Other));
    }
}
