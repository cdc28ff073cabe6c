//! What the address of a `/v1/listen` asks for.

use std::time::Duration;

use audio::{Encoding, Format};
use model::SessionSlug;

use crate::{handshake::decoded, recording::languages};

/// Most parameters that are read.
const PARAMS_MAX: usize = 100;

/// Longest value that is read, in bytes.
const VALUE_BYTES_MAX: usize = 1024;

/// Silence that may end an utterance, in milliseconds (proto/parley/transcription/v1). Shorter wishes get the shortest.
const ENDPOINTING_MS: (u32, u32) = (100, 5_000);

/// Gap after a word that may be told, in milliseconds (Deepgram).
const UTTERANCE_END_MS: std::ops::RangeInclusive<u64> = 1_000..=5_000;

/// The encodings that Deepgram names and we read.
const ENCODINGS: &str = "linear16, linear32, flac, alaw, mulaw, opus or ogg-opus";

/// What would mislead if it were passed over.
const UNSUPPORTED: [&str; 3] = ["multichannel", "redact", "callback"];

/// How a client wants its sound to be heard.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Params {
    pub(super) format: Format,
    /// `None` for the default of the workers.
    pub(super) language: Option<String>,
    /// Whether the languages of words are told.
    pub(super) is_multi: bool,
    pub(super) interim: bool,
    pub(super) endpointing_ms: Option<u32>,
    pub(super) utterance_end: Option<Duration>,
    pub(super) vad_events: bool,
    pub(super) punctuated: bool,
    /// As the client calls it; it is told the same name.
    pub(super) model: String,
    /// The session that the captions are to be kept in.
    pub(super) session: Option<SessionSlug>,
}

/// A parameter that cannot be followed. The texts name it and quote nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadParam {
    #[error("{0} must be {1}")]
    Value(&'static str, &'static str),
    #[error("{0} is not supported here")]
    Unsupported(&'static str),
    #[error("too many parameters, or one that is too long")]
    TooMuch,
}

impl Params {
    /// Reads a query. Parameters that only change how a text looks are passed over; docs/deepgram.md lists them.
    ///
    /// # Errors
    /// See [`BadParam`].
    pub(super) fn read(query: &str) -> Result<Self, BadParam> {
        let pairs = || query.split('&').filter(|pair| !pair.is_empty());
        if pairs().count() > PARAMS_MAX || pairs().any(|pair| pair.len() > VALUE_BYTES_MAX) {
            return Err(BadParam::TooMuch);
        }
        let pairs: Vec<(String, String)> = pairs()
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                (decoded(name), decoded(value))
            })
            .collect();
        Query(&pairs).read()
    }
}

struct Query<'a>(&'a [(String, String)]);

impl<'a> Query<'a> {
    /// The last value under a name, if it says anything.
    fn get(&self, name: &str) -> Option<&'a str> {
        let mut named = self.0.iter().rev().filter(|(known, _)| known == name);
        named.next().map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    fn flag(&self, name: &'static str) -> Result<bool, BadParam> {
        match self.get(name) {
            None | Some("false" | "False" | "0") => Ok(false),
            Some("true" | "True" | "1") => Ok(true),
            Some(_) => Err(BadParam::Value(name, "true or false")),
        }
    }

    fn read(&self) -> Result<Params, BadParam> {
        for name in UNSUPPORTED {
            if self.get(name).is_some_and(|value| !matches!(value, "false" | "False" | "0")) {
                return Err(BadParam::Unsupported(name));
            }
        }
        let interim = self.flag("interim_results")?;
        let language = self.get("language").map(languages::read).transpose();
        let language =
            language.map_err(|_| BadParam::Value("language", "a language tag such as en-US, or multi"))?;
        Ok(Params {
            format: self.format()?,
            is_multi: language == Some(None),
            language: language.map(|language| language.unwrap_or_else(|| "auto".to_owned())),
            interim,
            endpointing_ms: self.endpointing()?,
            utterance_end: self.utterance_end(interim)?,
            vad_events: self.flag("vad_events")?,
            punctuated: self.flag("punctuate")? || self.flag("smart_format")?,
            model: self.get("model").unwrap_or("general").to_owned(),
            session: self.session()?,
        })
    }

    fn format(&self) -> Result<Format, BadParam> {
        let encoding = match self.get("encoding") {
            None => Encoding::Auto,
            Some("linear16") => Encoding::PcmS16le,
            Some("linear32") => Encoding::PcmF32le,
            Some("flac") => Encoding::Flac,
            Some("alaw") => Encoding::Alaw,
            Some("mulaw") => Encoding::Mulaw,
            Some("opus") => Encoding::Opus,
            Some("ogg-opus") => Encoding::Ogg,
            Some(_) => return Err(BadParam::Value("encoding", ENCODINGS)),
        };
        let rate = match self.get("sample_rate") {
            Some(text) => {
                text.parse().map_err(|_| BadParam::Value("sample_rate", "8000 to 192000 samples a second"))?
            }
            None if matches!(
                encoding,
                Encoding::PcmS16le | Encoding::PcmF32le | Encoding::Alaw | Encoding::Mulaw
            ) =>
            {
                return Err(BadParam::Value("sample_rate", "given with this encoding"));
            }
            None => model::SAMPLE_RATE_HZ,
        };
        let channels = self.get("channels").map_or(Ok(1), str::parse);
        let channels = channels.map_err(|_| BadParam::Value("channels", "1 to 8"))?;
        Format::new(encoding, rate, channels).map_err(|error| match error {
            audio::AudioError::Channels(_) => BadParam::Value("channels", "1 to 8"),
            _ => BadParam::Value("sample_rate", "8000 to 192000 samples a second"),
        })
    }

    /// Deepgram's default is 10 ms, at which it hands out pieces of utterances; ours is that of the workers, since our
    /// finals end with a pause.
    fn endpointing(&self) -> Result<Option<u32>, BadParam> {
        let (shortest, longest) = ENDPOINTING_MS;
        match self.get("endpointing") {
            None | Some("true" | "True") => Ok(None),
            Some("false" | "False") => Ok(Some(longest)),
            Some(text) => {
                let asked = text.parse::<u32>();
                let asked = asked.map_err(|_| BadParam::Value("endpointing", "milliseconds, or false"))?;
                Ok(Some(asked.clamp(shortest, longest)))
            }
        }
    }

    fn utterance_end(&self, interim: bool) -> Result<Option<Duration>, BadParam> {
        let Some(text) = self.get("utterance_end_ms").filter(|text| !text.eq_ignore_ascii_case("false"))
        else {
            return Ok(None);
        };
        if !interim {
            return Err(BadParam::Value("utterance_end_ms", "used with interim_results=true"));
        }
        let gap = text.parse::<u64>().ok().filter(|gap| UTTERANCE_END_MS.contains(gap));
        let gap = gap.ok_or(BadParam::Value("utterance_end_ms", "1000 to 5000 milliseconds"))?;
        Ok(Some(Duration::from_millis(gap)))
    }

    fn session(&self) -> Result<Option<SessionSlug>, BadParam> {
        let mut named = self.0.iter().filter(|(name, _)| name == "extra");
        let slug = named.find_map(|(_, value)| value.strip_prefix("session:"));
        slug.map(str::parse).transpose().map_err(|_| BadParam::Value("extra", "session: and a session slug"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_how_sound_is_heard() {
        let params = Params::read(
            "model=nova-3&language=en-US&encoding=linear16&sample_rate=16000&channels=2&interim_results=true\
             &endpointing=10&utterance_end_ms=1000&vad_events=true&smart_format=true&keyterm=x&keyterm=y\
             &extra=a:b&extra=session:demo",
        )
        .unwrap();
        assert_eq!(params.format, Format::new(Encoding::PcmS16le, 16_000, 2).unwrap());
        assert_eq!((params.language.as_deref(), params.is_multi), (Some("en"), false));
        assert_eq!(params.endpointing_ms, Some(100));
        assert_eq!(params.utterance_end, Some(Duration::from_secs(1)));
        assert!(params.interim && params.vad_events && params.punctuated);
        assert_eq!((params.model.as_str(), params.session.unwrap().as_str()), ("nova-3", "demo"));
        let bare = Params::read("").unwrap();
        assert_eq!((bare.format.encoding, bare.language, bare.endpointing_ms), (Encoding::Auto, None, None));
        assert!(!bare.interim && !bare.punctuated && !bare.vad_events);
        let multi = Params::read("language=multi&endpointing=false").unwrap();
        assert_eq!((multi.language.as_deref(), multi.endpointing_ms), (Some("auto"), Some(5_000)));
        assert!(multi.is_multi);
    }

    #[test]
    fn what_cannot_be_followed_is_named() {
        for (query, name) in [
            ("encoding=g729", "encoding must be linear16"),
            ("encoding=linear16", "sample_rate"),
            ("encoding=linear16&sample_rate=x", "sample_rate"),
            ("encoding=linear16&sample_rate=1", "sample_rate"),
            ("channels=9", "channels"),
            ("channels=-1", "channels"),
            ("interim_results=perhaps", "interim_results"),
            ("endpointing=soon", "endpointing"),
            ("utterance_end_ms=1000", "interim_results"),
            ("interim_results=true&utterance_end_ms=999", "utterance_end_ms"),
            ("language=klingon", "language"),
            ("multichannel=true", "multichannel"),
            ("redact=pci", "redact"),
            ("callback=http%3A%2F%2Fx", "callback"),
            ("extra=session:%20", "extra"),
        ] {
            let error = Params::read(query).unwrap_err().to_string();
            assert!(error.contains(name), "{query}: {error}");
        }
        assert_eq!(Params::read(&"a&".repeat(200)), Err(BadParam::TooMuch));
        assert_eq!(Params::read(&"a".repeat(2_000)), Err(BadParam::TooMuch));
        assert!(Params::read("multichannel=false&redact=").is_ok());
    }
}
