//! Something that the followers of a session are told, encoded once for all of them.

use std::sync::{Arc, OnceLock};

use fanout::Item;
use model::{Caption, JsonObject, Sequence, SessionSlug, Timestamp, TranscriptionError, UtteranceId};
use tungstenite::Utf8Bytes;

use crate::{
    protocol::{self, Shape},
    transcript::Hearing,
};

/// A caption, or how the session's audio does. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Update(Arc<Told>);

struct Told {
    what: What,
    split: OnceLock<Utf8Bytes>,
    transcript: OnceLock<Utf8Bytes>,
}

#[expect(clippy::large_enum_variant, reason = "nearly all are captions")]
enum What {
    Caption(Caption),
    State {
        session: SessionSlug,
        hearing: Hearing,
        at: Timestamp,
    },
    Error {
        session: SessionSlug,
        error: TranscriptionError,
    },
    /// Of a back end, as it wrote it.
    Verbatim(JsonObject),
}

/// What an update is the newest state of.
#[derive(PartialEq)]
pub(crate) enum Subject {
    Utterance(UtteranceId),
    Session,
}

impl Update {
    pub(crate) fn caption(caption: Caption) -> Self {
        Self::new(What::Caption(caption))
    }

    pub(crate) fn state(session: SessionSlug, hearing: Hearing, at: Timestamp) -> Self {
        Self::new(What::State { session, hearing, at })
    }

    pub(crate) fn error(session: SessionSlug, error: TranscriptionError) -> Self {
        Self::new(What::Error { session, error })
    }

    pub(crate) fn verbatim(message: JsonObject) -> Self {
        Self::new(What::Verbatim(message))
    }

    fn new(what: What) -> Self {
        Self(Arc::new(Told { what, split: OnceLock::new(), transcript: OnceLock::new() }))
    }

    /// Adds its messages in `shape`.
    pub(crate) fn encode(&self, shape: Shape, texts: &mut Vec<Utf8Bytes>) {
        let Told { what, split, transcript } = &*self.0;
        match what {
            What::State { session, hearing, at } => {
                texts.push(split.get_or_init(|| protocol::stt_status(session, hearing, *at)).clone());
            }
            What::Error { session, error } => {
                texts.push(split.get_or_init(|| protocol::transcription_error(session, error)).clone());
            }
            What::Verbatim(message) => {
                texts.push(split.get_or_init(|| protocol::verbatim(message)).clone());
            }

            What::Caption(caption) => {
                // One that its back end wrote has one shape, whatever is asked for, and so has a translation.
                let has_one = match caption {
                    Caption::Partial(_) => false,
                    Caption::Final(segment) => segment.verbatim().is_some(),
                    Caption::Translation(_) => true,
                };
                let shape = if has_one { Shape::Split } else { shape };
                if shape != Shape::Transcript {
                    texts.push(split.get_or_init(|| protocol::transcript(caption, true)).clone());
                }
                if shape != Shape::Split {
                    texts.push(transcript.get_or_init(|| protocol::transcript(caption, false)).clone());
                }
            }
        }
    }

    /// The caption that it is, if it is one.
    pub(crate) fn as_caption(&self) -> Option<&Caption> {
        match &self.0.what {
            What::Caption(caption) => Some(caption),
            What::State { .. } | What::Error { .. } | What::Verbatim(_) => None,
        }
    }

    /// The place of what is stored in its topic.
    pub(crate) fn sequence(&self) -> Option<Sequence> {
        match &self.0.what {
            What::Caption(Caption::Final(segment)) => Some(segment.sequence),
            What::Caption(Caption::Translation(translation)) => Some(translation.sequence),
            What::Caption(Caption::Partial(_))
            | What::State { .. }
            | What::Error { .. }
            | What::Verbatim(_) => None,
        }
    }

    /// Whether it is text of an open utterance.
    pub(crate) fn is_partial(&self) -> bool {
        matches!(self.0.what, What::Caption(Caption::Partial(_)))
    }
}

impl Item for Update {
    type Key = Subject;
    fn replaces(&self) -> Option<Subject> {
        match &self.0.what {
            What::Caption(Caption::Partial(partial)) => Some(Subject::Utterance(partial.utterance.clone())),
            What::Caption(Caption::Final(_) | Caption::Translation(_))
            | What::Error { .. }
            | What::Verbatim(_) => None,
            What::State { .. } => Some(Subject::Session),
        }
    }
}
