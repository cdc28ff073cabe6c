//! The JSON of Gladia's live API, both ways. Source: docs.gladia.io, "Live speech recognition", and the types of its
//! official SDK.

use std::{borrow::Cow, fmt, time::Duration};

use model::SAMPLE_RATE_HZ;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Largest message that is read, in bytes: a final with a word for each 100 ms of a minute has 60,000.
pub(crate) const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Longest id of an utterance, in bytes.
const ID_BYTES_MAX: usize = 128;

/// Longest text of an utterance, in bytes: ten times what is said in its longest time, a minute.
const TEXT_BYTES_MAX: usize = 16 * 1024;

/// Most words of an utterance.
const WORDS_MAX: usize = 1_024;

/// Longest language tag (RFC 5646 section 4.4.1).
const LANGUAGE_BYTES_MAX: usize = 35;

/// Silence that ends an utterance, as Gladia takes it.
const ENDPOINTING: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(10));

/// No more audio comes.
pub(crate) const STOP: &str = r#"{"type":"stop_recording"}"#;

/// The body of `POST /v2/live`.
#[derive(Serialize)]
pub(crate) struct Init<'a> {
    encoding: &'static str,
    sample_rate: u32,
    bit_depth: u8,
    channels: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    /// Seconds.
    endpointing: f64,
    language_config: LanguageConfig<'a>,
    messages_config: MessagesConfig,
}

#[derive(Serialize)]
struct LanguageConfig<'a> {
    languages: Vec<&'a str>,
    code_switching: bool,
}

#[derive(Serialize)]
struct MessagesConfig {
    receive_partial_transcripts: bool,
    receive_final_transcripts: bool,
    receive_speech_events: bool,
    receive_pre_processing_events: bool,
    receive_realtime_processing_events: bool,
    receive_post_processing_events: bool,
    receive_acknowledgments: bool,
    receive_errors: bool,
    receive_lifecycle_events: bool,
}

impl<'a> Init<'a> {
    /// For a stream in `language` (BCP 47; `None`: found out by Gladia, for each utterance anew with
    /// `code_switching`).
    pub(crate) fn new(
        model: Option<&'a str>,
        language: Option<&'a str>,
        code_switching: bool,
        endpointing: Duration,
    ) -> Self {
        // Gladia knows languages, not their regions.
        let language = language.and_then(|tag| tag.split('-').next()).filter(|language| *language != "auto");
        Self {
            encoding: "wav/pcm",
            sample_rate: SAMPLE_RATE_HZ,
            bit_depth: 16,
            channels: 1,
            model,
            endpointing: self::endpointing(endpointing).as_secs_f64(),
            language_config: LanguageConfig {
                languages: language.into_iter().collect(),
                code_switching: code_switching && language.is_none(),
            },
            messages_config: MessagesConfig {
                receive_partial_transcripts: true,
                receive_final_transcripts: true,
                receive_speech_events: true,
                receive_pre_processing_events: false,
                receive_realtime_processing_events: false,
                receive_post_processing_events: false,
                receive_acknowledgments: true,
                receive_errors: true,
                receive_lifecycle_events: false,
            },
        }
    }
}

/// The silence that Gladia can take to end an utterance, nearest to this.
pub(crate) fn endpointing(wanted: Duration) -> Duration {
    wanted.clamp(ENDPOINTING.0, ENDPOINTING.1)
}

/// The answer to it.
#[derive(Deserialize)]
pub(crate) struct Opened {
    /// Where the socket is; holds a token.
    #[serde(alias = "websocket_url")]
    pub(crate) url: String,
}

/// What the socket says, as far as it concerns us.
#[derive(Debug, PartialEq)]
pub(crate) enum Message {
    /// Text of an utterance.
    Transcript(Transcript),
    /// Somebody begins to speak, at this many seconds of the session's audio.
    SpeechStart(f64),
    /// Nobody speaks any more.
    SpeechEnd(f64),
    /// Audio was taken: bytes of the whole session, the first and the one after the last.
    Acknowledged(u64, u64),
    /// Gladia complains, and whether about a quota.
    Complaint {
        /// Whether it says that the account may not hear more.
        quota: bool,
    },
    /// Of no use to us, or unknown.
    Other,
}

/// Text of an utterance: one of its partials, or its final.
#[derive(PartialEq)]
pub(crate) struct Transcript {
    /// The same for all texts of an utterance.
    pub(crate) id: String,
    pub(crate) is_final: bool,
    /// Words with a space between; may be empty.
    pub(crate) text: String,
    /// BCP 47.
    pub(crate) language: Option<String>,
    /// Seconds of the session's audio, finite, not negative.
    pub(crate) start: f64,
    /// The same, not before `start`.
    pub(crate) end: f64,
    pub(crate) words: Vec<SpokenWord>,
}

/// A word of it.
#[derive(PartialEq)]
pub(crate) struct SpokenWord {
    /// Trimmed, not empty.
    pub(crate) text: String,
    /// Seconds of the session's audio, finite, not negative.
    pub(crate) start: f64,
    /// The same, not before `start`.
    pub(crate) end: f64,
}

/// What people said must not reach a log by way of `{:?}`.
impl fmt::Debug for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { is_final, text, words, start, end, .. } = self;
        write!(
            f,
            "Transcript(final: {is_final}, {} bytes, {} words, {start}..{end})",
            text.len(),
            words.len()
        )
    }
}

/// A message that is not shaped as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

impl From<serde_json::Error> for Malformed {
    // What serde_json says may quote the text.
    fn from(_: serde_json::Error) -> Self {
        Self
    }
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    acknowledged: Option<bool>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RawTranscript<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    is_final: bool,
    #[serde(borrow)]
    utterance: RawUtterance<'a>,
}

#[derive(Deserialize)]
struct RawUtterance<'a> {
    #[serde(borrow)]
    text: Cow<'a, str>,
    start: f64,
    end: f64,
    #[serde(borrow)]
    language: Option<Cow<'a, str>>,
    #[serde(default)]
    words: Vec<RawWord<'a>>,
}

#[derive(Deserialize)]
struct RawWord<'a> {
    #[serde(borrow)]
    word: Cow<'a, str>,
    start: f64,
    end: f64,
}

#[derive(Deserialize)]
struct RawSpeech {
    time: f64,
}

#[derive(Deserialize)]
struct RawAcknowledged {
    byte_range: (u64, u64),
}

impl Message {
    /// Reads a message.
    ///
    /// # Errors
    /// It is not JSON, or a kind that we know in a shape that we do not, or beyond a limit.
    pub(crate) fn parse(text: &str) -> Result<Self, Malformed> {
        let envelope: Envelope<'_> = serde_json::from_str(text)?;
        if envelope.acknowledged == Some(false) || &*envelope.r#type == "error" {
            let said = envelope.error.or(envelope.data).map_or("", RawValue::get);
            return Ok(Self::Complaint { quota: says_quota(said) });
        }
        let data = envelope.data.map(RawValue::get);
        match &*envelope.r#type {
            "transcript" => transcript(serde_json::from_str(data.ok_or(Malformed)?)?).map(Self::Transcript),
            "speech_start" => Ok(Self::SpeechStart(speech(data)?)),
            "speech_end" => Ok(Self::SpeechEnd(speech(data)?)),
            "audio_chunk" => {
                let RawAcknowledged { byte_range: (from, to) } =
                    serde_json::from_str(data.ok_or(Malformed)?)?;
                Ok(Self::Acknowledged(from, to))
            }
            _ => Ok(Self::Other),
        }
    }

    /// Label of its metric.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Transcript(Transcript { is_final: true, .. }) => "final",
            Self::Transcript(_) => "partial",
            Self::SpeechStart(_) | Self::SpeechEnd(_) => "speech",
            Self::Acknowledged(..) => "acknowledged",
            Self::Complaint { .. } => "complaint",
            Self::Other => "other",
        }
    }
}

/// Values of [`Message::label`].
pub(crate) const LABELS: [&str; 6] = ["final", "partial", "speech", "acknowledged", "complaint", "other"];

fn transcript(raw: RawTranscript<'_>) -> Result<Transcript, Malformed> {
    let RawUtterance { text, start, end, language, words } = raw.utterance;
    if raw.id.is_empty()
        || raw.id.len() > ID_BYTES_MAX
        || text.len() > TEXT_BYTES_MAX
        || words.len() > WORDS_MAX
    {
        return Err(Malformed);
    }
    let (start, end) = span(start, end)?;
    let mut spoken = Vec::with_capacity(words.len());
    for word in words {
        let (start, end) = span(word.start, word.end)?;
        let text = word.word.trim();
        if text.len() > TEXT_BYTES_MAX {
            return Err(Malformed);
        }
        if !text.is_empty() {
            spoken.push(SpokenWord { text: text.to_owned(), start, end });
        }
    }
    Ok(Transcript {
        id: raw.id.into_owned(),
        is_final: raw.is_final,
        text: text.split_whitespace().collect::<Vec<_>>().join(" "),
        language: language.filter(|tag| is_language(tag)).map(Cow::into_owned),
        start,
        end,
        words: spoken,
    })
}

/// A time as Gladia may mean it: rounding may make a start negative, or put an end before it.
fn span(start: f64, end: f64) -> Result<(f64, f64), Malformed> {
    if !(start.is_finite() && end.is_finite()) {
        return Err(Malformed);
    }
    let start = start.max(0.0);
    Ok((start, end.max(start)))
}

fn speech(data: Option<&str>) -> Result<f64, Malformed> {
    let RawSpeech { time } = serde_json::from_str(data.ok_or(Malformed)?)?;
    span(time, time).map(|(time, _)| time)
}

fn is_language(tag: &str) -> bool {
    (1..=LANGUAGE_BYTES_MAX).contains(&tag.len())
        && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Whether a complaint is that the account may not hear more: its hours, its money or its sessions at a time are used
/// up. Gladia has no code for it.
pub(crate) fn says_quota(said: &str) -> bool {
    let said = said.to_ascii_lowercase();
    ["quota", "credit", "billing", "concurrent", "limit reached", "limit exceeded", "payment"]
        .iter()
        .any(|word| said.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINAL: &str = r#"{"type":"transcript","session_id":"S","created_at":"T","data":{"id":"00_00000000",
        "is_final":true,"utterance":{"text":" Hello  world. ","start":0.48,"end":1.8,"language":"en","confidence":0.91,
        "channel":0,"speaker":0,"words":[{"word":"Hello","start":0.48,"end":0.9,"confidence":0.95},
        {"word":" world.","start":0.9,"end":1.8,"confidence":0.9},{"word":" ","start":1.8,"end":1.8}]}}}"#;

    fn read(text: &str) -> Transcript {
        match Message::parse(text) {
            Ok(Message::Transcript(transcript)) => transcript,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_transcript_is_read() {
        let transcript = read(FINAL);
        assert!(transcript.is_final && transcript.id == "00_00000000" && transcript.text == "Hello world.");
        assert_eq!((transcript.start, transcript.end), (0.48, 1.8));
        assert_eq!(transcript.language.as_deref(), Some("en"));
        let words: Vec<&str> = transcript.words.iter().map(|word| word.text.as_str()).collect();
        assert_eq!(words, ["Hello", "world."]);
        let bare = read(
            r#"{"type":"transcript","data":{"id":"\u0061","is_final":false,"utterance":{"text":"a\"b","start":-0.1,
            "end":-3,"language":"<script>"}}}"#,
        );
        assert_eq!((bare.id.as_str(), bare.text.as_str(), bare.language), ("a", "a\"b", None));
        assert_eq!((bare.start, bare.end), (0.0, 0.0));
    }

    #[test]
    fn the_other_kinds_are_read() {
        let cases = [
            (r#"{"type":"speech_start","data":{"time":1.24,"channel":0}}"#, Message::SpeechStart(1.24)),
            (r#"{"type":"speech_end","data":{"time":3.9}}"#, Message::SpeechEnd(3.9)),
            (
                r#"{"type":"audio_chunk","acknowledged":true,"error":null,
                "data":{"byte_range":[1024,2048],"time_range":[0.8,0.9]}}"#,
                Message::Acknowledged(1024, 2048),
            ),
            (
                r#"{"type":"audio_chunk","acknowledged":false,"error":{"message":"Quota exceeded"},"data":null}"#,
                Message::Complaint { quota: true },
            ),
            (r#"{"type":"error","error":{"message":"bad chunk"}}"#, Message::Complaint { quota: false }),
            (r#"{"type":"error","data":"usage limit reached"}"#, Message::Complaint { quota: true }),
            (r#"{"type":"stop_recording","acknowledged":true,"data":{}}"#, Message::Other),
            (r#"{"type":"weather","data":{"rain":[1,2]}}"#, Message::Other),
        ];
        for (text, expected) in cases {
            assert!(LABELS.contains(&expected.label()));
            assert_eq!(Message::parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_shaped_otherwise_is_refused() {
        let long = "x".repeat(TEXT_BYTES_MAX + 1);
        let transcript = |id: &str, text: &str, start: &str| {
            format!(
                r#"{{"type":"transcript","data":{{"id":"{id}","is_final":true,"utterance":{{"text":"{text}","start":{start},"end":1}}}}}}"#
            )
        };
        assert!(Message::parse(&transcript("a", "b", "0")).is_ok());
        let cases = [
            String::new(),
            "[]".to_owned(),
            "{}".to_owned(),
            "[".repeat(10_000),
            r#"{"type":7}"#.to_owned(),
            r#"{"type":"transcript"}"#.to_owned(),
            r#"{"type":"transcript","data":null}"#.to_owned(),
            r#"{"type":"audio_chunk","acknowledged":true,"data":{"byte_range":[-1,5]}}"#.to_owned(),
            r#"{"type":"audio_chunk","acknowledged":true,"data":{"byte_range":[1]}}"#.to_owned(),
            r#"{"type":"audio_chunk","acknowledged":true,"data":{"byte_range":[0,99999999999999999999]}}"#
                .to_owned(),
            r#"{"type":"speech_start","data":{"time":"soon"}}"#.to_owned(),
            transcript("", "b", "0"),
            transcript(&long, "b", "0"),
            transcript("a", &long, "0"),
            transcript("a", "b", "1e999"),
            transcript("a", "b", "null"),
        ];
        for text in cases {
            assert_eq!(Message::parse(&text), Err(Malformed), "{}", text.get(..80).unwrap_or(&text));
        }
    }

    #[test]
    fn no_damage_to_a_message_panics() {
        let mut seed = 1_u32;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            seed as usize % below
        };
        for _ in 0..20_000 {
            let mut bytes = FINAL.as_bytes().to_vec();
            for _ in 0..=random(3) {
                let at = random(bytes.len());
                match random(3) {
                    0 => bytes.truncate(at + 1),
                    1 => bytes[at] = b"\"{}[]:,-9eE\\u0"[random(14)],
                    _ => drop(bytes.remove(at)),
                }
                if bytes.is_empty() {
                    break;
                }
            }
            if let Ok(Message::Transcript(read)) = Message::parse(&String::from_utf8_lossy(&bytes)) {
                assert!(read.start >= 0.0 && read.end >= read.start && read.end.is_finite());
                assert!(!read.id.is_empty() && read.id.len() <= ID_BYTES_MAX);
            }
        }
    }

    #[test]
    fn a_session_is_asked_for_as_gladia_documents_it() {
        let body = |language, switching, millis| {
            let init = Init::new(Some("solaria-1"), language, switching, Duration::from_millis(millis));
            serde_json::to_value(init).unwrap()
        };
        let expected = serde_json::json!({
            "encoding": "wav/pcm", "sample_rate": 16000, "bit_depth": 16, "channels": 1, "model": "solaria-1",
            "endpointing": 0.5, "language_config": {"languages": ["en"], "code_switching": false},
            "messages_config": {
                "receive_partial_transcripts": true, "receive_final_transcripts": true,
                "receive_speech_events": true, "receive_pre_processing_events": false,
                "receive_realtime_processing_events": false, "receive_post_processing_events": false,
                "receive_acknowledgments": true, "receive_errors": true, "receive_lifecycle_events": false
            }
        });
        assert_eq!(body(Some("en-GB"), true, 500), expected);
        for none in [None, Some("auto")] {
            let detected = body(none, true, 0);
            assert_eq!(
                detected["language_config"],
                serde_json::json!({"languages": [], "code_switching": true})
            );
            assert_eq!(detected["endpointing"], 0.01);
        }
        assert_eq!(body(None, false, 60_000)["endpointing"], 10.0);
        let opened: Opened = serde_json::from_str(r#"{"id":"4","created_at":"T","url":"wss://x/"}"#).unwrap();
        assert_eq!(opened.url, "wss://x/");
    }
}
