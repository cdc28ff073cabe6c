use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a server says, as far as a measurement needs it. Unknown types and fields are ignored.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromServer {
    /// The answer to `init`; sound may come.
    Initialized {
        /// The stream that the sound belongs to.
        stream: String,
        /// Samples of it that need no sending.
        acked: u64,
    },
    /// Sound up to here needs no re-sending.
    Ack {
        /// Samples of 16 kHz from the start of the stream.
        samples: u64,
    },
    /// The text of an open utterance so far.
    TranscriptPartial(Caption),
    /// The text of a finished utterance.
    TranscriptFinal(Caption),
    /// Every final of the stream is stored.
    Stopped {
        /// Length of the stream in samples of 16 kHz.
        #[serde(default)]
        samples: u64,
    },
    /// Something was refused or failed.
    Error(Trouble),
    /// Something was done with a loss.
    Warning(Trouble),
    /// The server goes away.
    #[serde(rename_all = "camelCase")]
    Reconnect {
        /// Come back after so long.
        retry_after_ms: Option<u64>,
    },
    /// Anything else.
    #[serde(other)]
    Other,
}

/// Text of an utterance. Times are seconds in the stream.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Caption {
    /// The same for the partials and the final of an utterance.
    pub utterance_id: String,
    /// The whole text so far. Empty withdraws what was shown.
    pub text: String,
    /// Where speech begins.
    pub start: f64,
    /// How far the text reaches.
    pub end: f64,
    /// Position of a final in its session.
    #[serde(default)]
    pub sequence: Option<u64>,
    /// The words of a final, by the server's estimate of their times.
    #[serde(default)]
    pub words: Vec<Word>,
}

/// A word of a final.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Word {
    /// Where it ends, seconds in the stream.
    pub end: f64,
}

/// Why something was not done. Servers put nothing that was said into it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trouble {
    /// For people.
    #[serde(default)]
    pub message: String,
    /// For programs.
    #[serde(default)]
    pub code: String,
    /// Wait so many ms before the next try.
    pub retry_after_ms: Option<u64>,
}

impl Trouble {
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
    /// Samples of 16 kHz that the server has acknowledged.
    pub acked: u64,
}

/// What a client says besides sound.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToServer<'a> {
    /// Describes the sound that follows.
    Init {
        /// By the protocol's names.
        encoding: &'static str,
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
        // Strings and flags always serialize.
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_servers_say_is_read() {
        let parse = |text: &str| serde_json::from_str::<FromServer>(text).unwrap();
        let FromServer::TranscriptFinal(caption) = parse(
            r#"{"type":"transcript_final","sessionSlug":"s","utteranceId":"u-1","text":"Hi you.","isFinal":true,"start":0.5,
                "end":1.25,"stable":7,"words":[{"text":"Hi","start":0.5,"end":0.7},{"text":"you.","start":0.7,"end":1.1}],
                "sequence":7,"stream":"u","ts":5}"#,
        ) else {
            panic!("a final")
        };
        assert_eq!((caption.start, caption.end), (0.5, 1.25));
        assert_eq!(caption.words.iter().map(|word| word.end).collect::<Vec<_>>(), [0.7, 1.1]);
        let partial =
            parse(r#"{"type":"transcript_partial","utteranceId":"u-1","text":"","start":0,"end":1}"#);
        assert!(matches!(partial, FromServer::TranscriptPartial(Caption { words, .. }) if words.is_empty()));
        assert!(matches!(
            parse(r#"{"type":"initialized","stream":"u","acked":0}"#),
            FromServer::Initialized { acked: 0, .. }
        ));
        assert!(matches!(
            parse(r#"{"type":"ack","stream":"u","samples":9}"#),
            FromServer::Ack { samples: 9 }
        ));
        assert!(matches!(
            parse(r#"{"type":"stopped","stream":"u","samples":9}"#),
            FromServer::Stopped { samples: 9 }
        ));
        assert!(matches!(
            parse(r#"{"type":"error","message":"busy","code":"overloaded","retryAfterMs":9}"#),
            FromServer::Error(trouble)
                if trouble.code == "overloaded" && trouble.retry_after() == Some(Duration::from_millis(9))
        ));
        assert!(matches!(parse(r#"{"type":"connected","ts":1}"#), FromServer::Other));
    }

    #[test]
    fn what_is_said_has_the_protocols_shape() {
        let init = ToServer::Init { encoding: "pcm_s16le", partials: true, resume: None };
        assert_eq!(init.to_json(), r#"{"type":"init","encoding":"pcm_s16le","partials":true}"#);
        let again = ToServer::Init {
            encoding: "pcm_s16le",
            partials: true,
            resume: Some(Resume { stream: "u", acked: 7 }),
        };
        assert!(again.to_json().ends_with(r#""resume":{"stream":"u","acked":7}}"#));
        assert_eq!(ToServer::Stop.to_json(), r#"{"type":"stop"}"#);
    }
}
