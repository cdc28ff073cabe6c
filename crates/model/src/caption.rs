use std::{collections::BTreeMap, fmt};

use crate::{Identity, JsonObject, Samples, Sequence, SessionSlug, StreamId, Timestamp, UserId, UtteranceId};

/// Who an utterance belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Speaker {
    /// The participant.
    pub identity: Identity,
    /// The name to show, when it is known.
    pub name: Option<String>,
}

/// A word of a final, with its place in the stream.
#[derive(Clone, PartialEq, Eq)]
pub struct Word {
    /// As the recognizer writes it, with case and punctuation, without surrounding space.
    pub text: String,
    /// Where it begins.
    pub start: Samples,
    /// Where it ends.
    pub end: Samples,
}

impl Speaker {
    /// The identity of a whole room, where nobody knows who of it speaks.
    pub const ROOM: &str = "room";
}

/// What a caption has beside its text when a back end handed it in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outside {
    /// The user that the back end named.
    pub user: Option<UserId>,
    /// When it was said, as the back end has it.
    pub said_at: Option<Timestamp>,
    /// The message as the back end wrote it, when clients are to be sent just that.
    pub message: Option<JsonObject>,
}

/// The text of an open utterance so far. Never stored; may be dropped; replaces the one before it.
#[derive(Clone, PartialEq, Eq)]
pub struct Partial {
    /// The session it belongs to.
    pub session: SessionSlug,
    /// The utterance.
    pub utterance: UtteranceId,
    /// Who speaks.
    pub speaker: Speaker,
    /// The whole text. Empty when what was shown turned out to be no speech: clients clear it.
    pub text: String,
    /// How many leading characters (Unicode scalar values) two consecutive hypotheses agree on.
    pub stable: u32,
    /// Language (BCP 47), when it is known.
    pub language: Option<String>,
    /// Where the utterance begins in the stream.
    pub start: Samples,
    /// How much of the stream the text covers.
    pub end: Samples,
    /// When the worker made it.
    pub at: Timestamp,
    /// Of a back end; then it has no place in a stream.
    pub outside: Option<Outside>,
}

/// The stored text of an utterance. A later revision has the same utterance and a new sequence.
#[derive(Clone, PartialEq, Eq)]
pub struct Final {
    /// The session it belongs to.
    pub session: SessionSlug,
    /// Position in the session's topic, taken in the transaction that stored it.
    pub sequence: Sequence,
    /// The utterance.
    pub utterance: UtteranceId,
    /// 0 for our own transcription, then one more for each correction from outside.
    pub revision: u32,
    /// Who spoke.
    pub speaker: Speaker,
    /// The text, never empty.
    pub text: String,
    /// Language (BCP 47), when it is known.
    pub language: Option<String>,
    /// Where the utterance begins in the stream.
    pub start: Samples,
    /// Where it ends.
    pub end: Samples,
    /// Its words in order; may be empty when the recognizer gives no times.
    pub words: Vec<Word>,
    /// When it was stored.
    pub at: Timestamp,
    /// Of a back end; then it has no place in a stream.
    pub outside: Option<Outside>,
    /// What it says in other languages (BCP 47, as they were asked for), as far as that was known when it was read.
    pub translations: BTreeMap<String, String>,
}

impl Final {
    /// The message that clients are to be sent instead of ours, as a back end wrote it.
    pub fn verbatim(&self) -> Option<&JsonObject> {
        self.outside.as_ref()?.message.as_ref()
    }
}

/// What became of the translation of a final into one language.
#[derive(Clone, PartialEq, Eq)]
pub struct Translation {
    /// The session it belongs to.
    pub session: SessionSlug,
    /// Position in the session's topic, after that of the final.
    pub sequence: Sequence,
    /// The utterance.
    pub utterance: UtteranceId,
    /// Of which revision of it.
    pub revision: u32,
    /// Who spoke.
    pub speaker: Speaker,
    /// The language it is translated into (BCP 47), as it was asked for.
    pub language: String,
    /// The text, never empty, or why there is none.
    pub outcome: Result<String, Untranslated>,
    /// When that was known.
    pub at: Timestamp,
}

/// Why there is no translation, and will be none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Untranslated {
    /// It was not there in the time that it may take.
    TooLate,
    /// The translator was away all that time.
    Unavailable,
    /// The translator does not want this text.
    Refused,
    /// No translator serves this pair of languages.
    Unserved,
}

impl Untranslated {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::TooLate, Self::Unavailable, Self::Refused, Self::Unserved];

    /// Its name in messages, rows and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::TooLate => "too_late",
            Self::Unavailable => "unavailable",
            Self::Refused => "refused",
            Self::Unserved => "unserved",
        }
    }

    /// That of this name, if there is one.
    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.label() == label)
    }
}

/// What is stored of what was said: each has a place in its session's topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// The text of an utterance.
    Final(Final),
    /// What became of a translation of it.
    Translation(Translation),
}

impl Entry {
    /// Its place.
    pub fn sequence(&self) -> Sequence {
        match self {
            Self::Final(segment) => segment.sequence,
            Self::Translation(translation) => translation.sequence,
        }
    }
}

/// A final and when it was said, by the clock on the wall.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spoken {
    /// What was said.
    pub segment: Final,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended; when it began, for one from outside.
    pub ended_at: Timestamp,
}

/// What followers of a session read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caption {
    /// Text of an open utterance.
    Partial(Partial),
    /// Text of a finished one.
    Final(Final),
    /// What became of a translation of that.
    Translation(Translation),
}

impl From<Entry> for Caption {
    fn from(entry: Entry) -> Self {
        match entry {
            Entry::Final(segment) => Self::Final(segment),
            Entry::Translation(translation) => Self::Translation(translation),
        }
    }
}

impl Caption {
    /// The stream that it was heard in; none for one from outside.
    pub fn stream(&self) -> Option<StreamId> {
        match self {
            Self::Partial(partial) => partial.utterance.stream(),
            Self::Final(segment) => segment.utterance.stream(),
            Self::Translation(translation) => translation.utterance.stream(),
        }
    }
}

// What people said must not reach a log by way of `{:?}`.

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Word({}..{})", self.start, self.end)
    }
}

impl fmt::Debug for Partial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Partial({}, {} bytes, {}..{})", self.utterance, self.text.len(), self.start, self.end)
    }
}

impl fmt::Debug for Final {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Final({} r{} #{}, {} bytes, {}..{})",
            self.utterance,
            self.revision,
            self.sequence,
            self.text.len(),
            self.start,
            self.end
        )
    }
}

impl fmt::Debug for Translation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = self.outcome.as_ref().map(String::len);
        write!(
            f,
            "Translation({} r{} #{} {}, {outcome:?})",
            self.utterance, self.revision, self.sequence, self.language
        )
    }
}
