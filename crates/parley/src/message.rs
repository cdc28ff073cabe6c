use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::screen::printable;

/// What a server says, as far as this client listens. Unknown types and fields are ignored.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromServer {
    /// The first message of a connection.
    Connected {
        /// The server's wall time, ms since 1970.
        ts: Option<i64>,
    },
    /// The answer to `init`.
    Initialized {
        /// Id of the stream that the audio of this connection belongs to.
        stream: String,
        /// Samples of 16 kHz that need no sending.
        #[serde(default)]
        acked: u64,
        /// Samples of 16 kHz that the server has; a container of a stream that goes on begins there.
        received: Option<u64>,
    },
    /// Audio up to here needs no re-sending.
    Ack {
        /// The stream.
        stream: String,
        /// Samples of 16 kHz from its start.
        samples: u64,
    },
    /// The text of an open utterance so far.
    TranscriptPartial(Caption),
    /// The text of a finished utterance.
    TranscriptFinal(Caption),
    /// Either, in the shape that some deployments choose.
    Transcript(Caption),
    /// What became of a translation.
    Translation(Translation),
    /// The stream has ended; its audio is dealt with.
    Stopped {
        /// The stream; absent when there was no sound.
        stream: Option<String>,
        /// Its length in samples of 16 kHz.
        #[serde(default)]
        samples: u64,
    },
    /// Something went wrong; where the connection must close, the close follows.
    Error(Fault),
    /// Something is odd but goes on.
    Warning {
        /// For people.
        message: String,
    },
    /// How the session's audio does.
    #[serde(rename_all = "camelCase")]
    SttStatus {
        /// The engine that has failed, when another goes on.
        fallback_from: Option<String>,
        /// Why, in one word.
        reason: Option<String>,
    },
    /// The session is not transcribed although somebody asked for it.
    TranscriptionError {
        /// For people.
        message: String,
    },
    /// Something about the chat of the session.
    Chat(Chat),
    /// The server is going away; come back.
    #[serde(rename_all = "camelCase")]
    Reconnect {
        /// Not earlier than in so many ms.
        retry_after_ms: Option<u64>,
    },
    /// Anything else.
    #[serde(other)]
    Other,
}

impl FromServer {
    /// What a person at the terminal is to know of it, beside captions.
    pub fn remark(&self) -> Option<String> {
        match self {
            Self::Error(fault) => Some(format!("the server says: {}", printable(&fault.message))),
            Self::Chat(Chat::Error(fault)) => Some(format!("chat: {}", printable(&fault.message))),
            Self::Chat(Chat::Resync(_)) => Some("some of what was said in chat is kept no longer".to_owned()),
            Self::Warning { message } => Some(format!("the server warns: {}", printable(message))),
            Self::TranscriptionError { message } => {
                Some(format!("the session is not transcribed: {}", printable(message)))
            }
            Self::SttStatus { fallback_from: Some(engine), reason } => {
                let reason = printable(reason.as_deref().unwrap_or("unknown"));
                Some(format!("{} has failed ({reason}); another engine goes on", printable(engine)))
            }
            _ => None,
        }
    }
}

/// Text of an utterance. Older senders leave out what they do not know.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Caption {
    /// Stays the same for the partials and the final of an utterance.
    #[serde(alias = "utterance_id")]
    pub utterance_id: String,
    /// The whole text so far. Empty withdraws what was shown.
    pub text: String,
    /// Whether the utterance is finished.
    #[serde(alias = "is_final")]
    pub is_final: bool,
    /// Name of the speaker.
    pub speaker: Option<String>,
    /// Identity of the speaker.
    #[serde(alias = "speaker_id")]
    pub speaker_id: Option<String>,
    /// When, ms since 1970 by the server's clock.
    pub ts: Option<i64>,
    /// Position of a final in the session.
    pub sequence: Option<u64>,
    /// Where it begins, seconds in its stream.
    pub start: Option<f64>,
    /// Where it ends, seconds in its stream.
    pub end: Option<f64>,
    /// How many leading characters will hardly change.
    pub stable: Option<usize>,
    /// The stream it was heard in.
    pub stream: Option<String>,
}

impl Caption {
    /// The name to print.
    pub fn who(&self) -> &str {
        let named = self.speaker.as_deref().filter(|name| !name.is_empty());
        named.or(self.speaker_id.as_deref()).unwrap_or_default()
    }
}

/// The translation of a final, or why there is none.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Translation {
    /// Into which language.
    pub language: String,
    /// What it says.
    pub text: Option<String>,
    /// Why there is none.
    pub error: Option<String>,
    /// Name of the speaker.
    pub speaker: Option<String>,
    /// When, ms since 1970 by the server's clock.
    pub ts: Option<i64>,
    /// Position in the session.
    pub sequence: Option<u64>,
}

/// An event of chat.
#[derive(Debug, Deserialize)]
#[serde(tag = "event", content = "data", rename_all = "camelCase")]
pub enum Chat {
    /// What was said before, newest first.
    MessageHistory(Vec<ChatMessage>),
    /// Something is said.
    Message(ChatMessage),
    /// Its author has changed it.
    MessageEdited(ChatMessage),
    /// Its author has taken it back.
    MessageDeleted(ChatMessage),
    /// Part of what was missed is kept no longer.
    Resync(serde::de::IgnoredAny),
    /// Something went wrong; it goes on.
    Error(Fault),
    /// Anything else.
    #[serde(other)]
    Other,
}

/// A message of chat.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ChatMessage {
    /// Who said it.
    pub username: String,
    /// What was said, or a link.
    pub content: String,
    /// When, as ISO 8601.
    pub timestamp: String,
    /// `text`, `image` or `file`.
    pub r#type: String,
    /// Position of its newest state in the room.
    pub sequence: u64,
}

/// An `error` message. Both `message` and `error` occur for its text.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Fault {
    /// For people.
    #[serde(alias = "error")]
    pub message: String,
    /// Wait so many ms before the next try.
    pub retry_after_ms: Option<u64>,
}

impl Fault {
    /// The wait it asks for.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after_ms.map(Duration::from_millis)
    }
}

/// A stream whose connection was lost.
#[derive(Debug, Serialize)]
pub struct Resume<'a> {
    /// Its id.
    pub stream: &'a str,
    /// Samples of 16 kHz that are acknowledged and not kept any more.
    pub acked: u64,
}

/// What this client says besides sound.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToServer<'a> {
    /// Describes the sound that follows.
    #[serde(rename_all = "camelCase")]
    Init {
        /// Its encoding, by the protocol's names.
        encoding: &'a str,
        /// Samples a second, for sound without a header.
        #[serde(skip_serializing_if = "Option::is_none")]
        sample_rate: Option<u32>,
        /// Interleaved channels, for sound without a header.
        #[serde(skip_serializing_if = "Option::is_none")]
        channels: Option<u16>,
        /// BCP 47, or `auto`.
        #[serde(skip_serializing_if = "Option::is_none")]
        language: Option<&'a str>,
        /// Whether open utterances are to be reported.
        partials: bool,
        /// The stream to go on with.
        #[serde(skip_serializing_if = "Option::is_none")]
        resume: Option<Resume<'a>>,
    },
    /// No more sound comes.
    Stop,
}

impl ToServer<'_> {
    /// As it stands on the wire.
    pub fn to_json(&self) -> String {
        // A struct of strings and numbers always serializes.
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_every_age_are_read() {
        let parse = |text: &str| serde_json::from_str::<FromServer>(text).unwrap();
        let FromServer::TranscriptFinal(caption) = parse(
            r#"{"type":"transcript_final","sessionSlug":"s","utteranceId":"u-1","text":"Hi.","isFinal":true,"speaker":"A",
                "sequence":7,"start":0.5,"end":1.25,"words":[],"stream":"u","language":null,"ts":5}"#,
        ) else {
            panic!("a final")
        };
        assert_eq!((caption.sequence, caption.end, caption.who()), (Some(7), Some(1.25), "A"));
        let FromServer::Transcript(caption) =
            parse(r#"{"type":"transcript","utterance_id":"u","text":"x","is_final":true,"speaker_id":"id"}"#)
        else {
            panic!("the old shape")
        };
        assert!(caption.is_final);
        assert_eq!(caption.who(), "id");
        let FromServer::Error(fault) =
            parse(r#"{"type":"error","error":"busy","code":"overloaded","retryAfterMs":9}"#)
        else {
            panic!("an error")
        };
        assert_eq!((fault.message.as_str(), fault.retry_after_ms), ("busy", Some(9)));
        assert!(matches!(parse(r#"{"type":"ai_insights","x":1}"#), FromServer::Other));
        assert!(matches!(
            parse(r#"{"type":"connected","message":"hello"}"#),
            FromServer::Connected { ts: None }
        ));
        assert!(serde_json::from_str::<FromServer>(r#"{"type":"ack","samples":-1}"#).is_err());
    }

    #[test]
    fn init_says_only_what_is_known() {
        let init = ToServer::Init {
            encoding: "auto",
            sample_rate: None,
            channels: None,
            language: None,
            partials: true,
            resume: None,
        };
        assert_eq!(init.to_json(), r#"{"type":"init","encoding":"auto","partials":true}"#);
        assert_eq!(ToServer::Stop.to_json(), r#"{"type":"stop"}"#);
    }
}
