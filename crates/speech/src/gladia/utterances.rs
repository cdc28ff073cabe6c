//! What Gladia says of utterances becomes what a listener would say.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use model::{Samples, Word};

use super::{
    settings::GladiaLimits,
    tape::Tape,
    wire::{Message, SpokenWord, Transcript},
};
use crate::{Spoken, agreement::same_word, meters};

/// Utterances that are remembered by their ids, for corrections: the newest.
const REMEMBERED_MAX: usize = 64;

/// Speech may begin so much before Gladia says that it does.
const PREROLL: Samples = Samples::from_millis(300);

/// The utterances of a session.
pub(crate) struct Utterances {
    limits: GladiaLimits,
    /// In the order of their numbers.
    known: VecDeque<Known>,
    /// Somebody speaks, or has just spoken, and no text says so yet.
    voice: Option<Voice>,
    next_number: u32,
    /// End of the last final that was delivered.
    delivered: Samples,
    settled: Samples,
}

struct Known {
    id: String,
    number: u32,
    revision: u32,
    /// The newest text.
    text: String,
    start: Samples,
    end: Samples,
    state: State,
    /// When we last heard of it.
    at: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// There are partials.
    Open,
    /// There is a final.
    Final,
    /// It turned out to be nothing.
    Nothing,
}

struct Voice {
    start: Samples,
    /// Once it is over.
    end: Option<Samples>,
    /// When we last heard of it.
    at: Instant,
}

impl Utterances {
    pub(crate) fn new(limits: GladiaLimits, first: Samples, next_number: u32) -> Self {
        Self { limits, known: VecDeque::new(), voice: None, next_number, delivered: first, settled: first }
    }

    /// Takes a message. What it returns counts as delivered.
    pub(crate) fn hear(&mut self, message: Message, tape: &Tape, now: Instant) -> Option<Spoken> {
        match message {
            Message::Transcript(transcript) => self.transcript(transcript, tape, now),
            Message::SpeechStart(time) => {
                self.voice = Some(Voice { start: tape.begin(time), end: None, at: now });
                None
            }
            Message::SpeechEnd(time) => {
                if let Some(voice) = &mut self.voice {
                    (voice.end, voice.at) = (Some(tape.end_at(time)), now);
                }
                None
            }
            Message::Acknowledged(..) | Message::Complaint { .. } | Message::Other => None,
        }
    }

    fn transcript(&mut self, transcript: Transcript, tape: &Tape, now: Instant) -> Option<Spoken> {
        let Transcript { id, is_final, text, language, start, end, words } = transcript;
        let repeated = tape.repeated(start, end);
        let start = tape.begin(start);
        let end = tape.end_at(end).max(start);
        let index = match self.known.iter().rposition(|known| known.id == id) {
            Some(index) => index,
            None if text.is_empty() => return None,
            None if repeated => {
                metrics::counter!(meters::GLADIA_SKIPPED, "reason" => "repeated").increment(1);
                return None;
            }
            None => self.remember(id, start, end, now)?,
        };
        let known = self.known.get_mut(index)?;
        let spoken = match (is_final, known.state) {
            (false, State::Open) if text.is_empty() => None,
            (false, State::Open) => {
                let stable = stable_chars(&known.text, &text);
                (known.text, known.start, known.end) = (text, start, end);
                let (number, text) = (known.number, known.text.clone());
                Some(Spoken::Partial { number, text, stable, language, start, end })
            }
            // A partial that was overtaken by its final.
            (false, _) => None,
            (true, State::Final) if text.is_empty() || text == known.text => None,
            (true, State::Open) if text.is_empty() => {
                known.state = State::Nothing;
                Some(known.taken_back())
            }
            (true, State::Nothing) if text.is_empty() => None,
            (true, state) => {
                if state == State::Final {
                    known.revision = known.revision.saturating_add(1);
                }
                (known.text, known.state, known.start, known.end) = (text, State::Final, start, end);
                self.delivered = self.delivered.max(end);
                Some(Spoken::Final {
                    number: known.number,
                    revision: known.revision,
                    text: known.text.clone(),
                    words: placed(words, tape, start, end),
                    language,
                    start,
                    end,
                })
            }
        };
        known.at = now;
        if self.voice.as_ref().is_some_and(|voice| is_final && voice.start < end) {
            // The text speaks for the voice; of what is said after it there will be another sign.
            match &mut self.voice {
                Some(voice) if voice.end.is_none() => (voice.start, voice.at) = (end, now),
                voice => *voice = None,
            }
        }
        spoken
    }

    /// Gives an utterance a number. `None` when there are no more.
    fn remember(&mut self, id: String, start: Samples, end: Samples, now: Instant) -> Option<usize> {
        let number = self.next_number;
        self.next_number = number.checked_add(1)?;
        if self.known.len() == REMEMBERED_MAX {
            self.known.pop_front();
        }
        let (revision, text, state) = (0, String::new(), State::Open);
        self.known.push_back(Known { id, number, revision, text, start, end, state, at: now });
        self.known.len().checked_sub(1)
    }

    /// Gives up an utterance of which nothing was heard for too long; what was shown of it goes away.
    pub(crate) fn give_up(&mut self, tape: &Tape, now: Instant) -> Option<Spoken> {
        let limit = self.limits.open;
        let over = |known: &&mut Known| known.state == State::Open && silent(known.at, limit, tape, now);
        let known = self.known.iter_mut().find(over)?;
        known.state = State::Nothing;
        metrics::counter!(meters::GLADIA_SKIPPED, "reason" => "unfinished").increment(1);
        Some(known.taken_back())
    }

    /// Moves on what is settled.
    pub(crate) fn settle(&mut self, tape: &mut Tape, now: Instant) {
        let GladiaLimits { settle, open, .. } = self.limits;
        self.voice
            .take_if(|voice| silent(voice.at, if voice.end.is_some() { settle } else { open }, tape, now));
        let open = self.known.iter().filter(|known| known.state == State::Open).map(|known| known.start);
        let held = open.chain(self.voice.as_ref().map(|voice| voice.start)).min();
        let held = held.map(|start| self.before(start).max(start - PREROLL));
        let quiet = tape.old(now, settle).max(self.delivered);
        self.settled = self.settled.max(held.map_or(quiet, |held| quiet.min(held)));
        tape.settle(self.settled);
    }

    /// Where the finals before something that begins at `start` end.
    fn before(&self, start: Samples) -> Samples {
        let finals = self.known.iter().filter(|known| known.state == State::Final && known.start < start);
        finals.map(|known| known.end.min(start)).max().unwrap_or_default()
    }

    /// Gladia has said all it will say: `false` when it owes a final.
    pub(crate) fn ended(&mut self, tape: &mut Tape) -> bool {
        if self.any_open() || !tape.all_acknowledged() {
            return false;
        }
        self.voice = None;
        self.settled = self.settled.max(tape.heard());
        tape.settle(self.settled);
        true
    }

    /// Everything before this position is silence or covered by a final that was delivered.
    pub(crate) fn settled(&self) -> Samples {
        self.settled
    }

    pub(crate) fn any_open(&self) -> bool {
        self.known.iter().any(|known| known.state == State::Open)
    }

    /// Whether somebody has stopped speaking and there is no final yet.
    pub(crate) fn awaits_final(&self) -> bool {
        self.voice.as_ref().is_some_and(|voice| voice.end.is_some())
    }

    /// The stretches after what is settled of which there are finals, in order.
    pub(crate) fn done(&self) -> Vec<(Samples, Samples)> {
        let finals = self.known.iter().filter(|known| known.state == State::Final);
        let mut done: Vec<_> = finals.map(|known| (known.start, known.end)).collect();
        done.sort_unstable();
        done
    }

    /// The number for whoever goes on: that of the open utterance, so that its partials are replaced.
    pub(crate) fn next_number(&self) -> u32 {
        let unsaid = self.known.iter().rev().take_while(|known| known.state != State::Final);
        unsaid.last().map_or(self.next_number, |known| known.number)
    }
}

impl Known {
    /// What was shown of it goes away.
    fn taken_back(&self) -> Spoken {
        Spoken::Partial {
            number: self.number,
            text: String::new(),
            stable: 0,
            language: None,
            start: self.start,
            end: self.end,
        }
    }
}

/// Whether nothing was heard since `at` for as long as `limit`. While there is no connection nobody can say anything.
fn silent(at: Instant, limit: Duration, tape: &Tape, now: Instant) -> bool {
    tape.connection().is_some_and(|since| now.saturating_duration_since(at.max(since)) >= limit)
}

/// Leading characters of the words that `text` shares with the text before.
fn stable_chars(before: &str, text: &str) -> u32 {
    let same = text.split(' ').zip(before.split(' ')).take_while(|(a, b)| same_word(a, b));
    let chars: usize = same.map(|(word, _)| word.chars().count() + 1).sum();
    u32::try_from(chars.saturating_sub(1)).unwrap_or(0)
}

/// Words in their place, in order and within their utterance.
fn placed(words: Vec<SpokenWord>, tape: &Tape, start: Samples, end: Samples) -> Vec<Word> {
    let mut from = start;
    let place = |word: SpokenWord| {
        let begin = tape.begin(word.start).clamp(from, end);
        let finish = tape.end_at(word.end).clamp(begin, end);
        from = finish;
        Word { text: word.text, start: begin, end: finish }
    };
    words.into_iter().map(place).collect()
}
