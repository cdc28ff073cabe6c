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
                    // Gladia tells a confidence for each word; its text is believed as it is.
                    logprob: 0.0,
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A session of ten seconds of sound, all of it with Gladia.
    struct Session {
        utterances: Utterances,
        tape: Tape,
        now: Instant,
    }

    impl Session {
        fn new() -> Self {
            let now = Instant::now();
            let mut tape = Tape::starting(Samples(0));
            tape.push(&vec![0; 160_000]);
            tape.connected(now);
            while tape.take_unsent(1 << 20, now).is_some() {}
            tape.acknowledge(0, 320_000, now);
            let utterances = Utterances::new(GladiaLimits::default(), Samples(0), 5);
            Self { utterances, tape, now }
        }

        fn hear(&mut self, message: Message) -> Option<Spoken> {
            let spoken = self.utterances.hear(message, &self.tape, self.now);
            self.utterances.settle(&mut self.tape, self.now);
            spoken
        }

        fn say(&mut self, id: &str, is_final: bool, text: &str, start: f64, end: f64) -> Option<Spoken> {
            let (id, text) = (id.to_owned(), text.to_owned());
            let words = vec![
                SpokenWord { text: "one".to_owned(), start: start - 1.0, end: start + 0.1 },
                SpokenWord { text: "two".to_owned(), start, end: end + 1.0 },
            ];
            let transcript = Transcript { id, is_final, text, language: None, start, end, words };
            self.hear(Message::Transcript(transcript))
        }

        fn wait(&mut self, seconds: u64) -> Option<Spoken> {
            self.now += Duration::from_secs(seconds);
            let given_up = self.utterances.give_up(&self.tape, self.now);
            self.utterances.settle(&mut self.tape, self.now);
            given_up
        }

        fn settled(&self) -> f64 {
            self.utterances.settled().seconds()
        }
    }

    fn number(spoken: Option<Spoken>) -> (u32, u32) {
        match spoken {
            Some(Spoken::Partial { number, .. }) => (number, 0),
            Some(Spoken::Final { number, revision, .. }) => (number, revision),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_utterance_has_one_number_and_its_texts_grow_stable() {
        let mut session = Session::new();
        assert_eq!(session.say("a", false, "", 1.0, 1.2), None);
        for (text, expected) in [("so it", 0), ("so its goes", 2), ("so its gone, then", 6)] {
            let Some(Spoken::Partial { number: 5, stable, .. }) = session.say("a", false, text, 1.0, 2.0)
            else {
                panic!()
            };
            assert_eq!(stable, expected, "{text}");
        }
        assert_eq!(
            number(session.say("b", false, "next", 3.5, 4.0)),
            (6, 0),
            "before the final of the first"
        );
        let Some(Spoken::Final { number: 5, revision: 0, words, start, end, .. }) =
            session.say("a", true, "one two", 1.0, 3.4)
        else {
            panic!()
        };
        let places: Vec<f64> =
            words.iter().flat_map(|word| [word.start.seconds(), word.end.seconds()]).collect();
        assert_eq!(places, [1.0, 1.1, 1.1, 3.4], "in order and within");
        assert_eq!((start.seconds(), end.seconds()), (1.0, 3.4));
        assert_eq!(session.say("a", false, "late", 1.0, 2.0), None);
        assert_eq!(session.say("a", true, "one two", 1.0, 3.4), None, "said before");
        assert_eq!(number(session.say("a", true, "one to", 1.0, 3.4)), (5, 1));
        assert_eq!(number(session.say("b", true, "next to it", 3.5, 4.2)), (6, 0));
        assert_eq!(session.settled(), 4.2);
    }

    #[test]
    fn what_is_open_holds_back_what_is_settled_and_its_number_is_used_again() {
        let mut session = Session::new();
        session.hear(Message::SpeechStart(1.0));
        assert_eq!(session.wait(15), None);
        assert_eq!(session.settled(), 0.7, "silence up to a little before the voice");
        session.hear(Message::SpeechEnd(2.0));
        assert!(session.utterances.awaits_final());
        session.say("a", false, "one", 1.0, 2.0);
        assert_eq!((session.settled(), session.utterances.next_number()), (0.7, 5));
        session.say("b", true, "out of order", 3.0, 4.0);
        assert_eq!((session.settled(), session.utterances.next_number()), (0.7, 7));
        let rest = session.tape.rest(session.utterances.settled(), &session.utterances.done());
        let places: Vec<_> = rest.iter().map(|(at, pcm)| (at.seconds(), pcm.len())).collect();
        assert_eq!(places, [(0.7, 36_800), (4.0, 96_000)]);
        assert!(!session.utterances.ended(&mut session.tape), "it owes a final");
        session.say("a", true, "one", 1.0, 2.0);
        assert!(session.utterances.ended(&mut session.tape));
        assert_eq!(session.settled(), 10.0);
    }

    #[test]
    fn who_says_nothing_more_of_an_utterance_takes_it_back() {
        let mut session = Session::new();
        session.say("a", false, "hm", 1.0, 2.0);
        let Some(Spoken::Partial { number: 5, text, .. }) = session.say("a", true, "", 1.0, 2.0) else {
            panic!()
        };
        assert_eq!(text, "");
        assert_eq!(session.say("a", true, "", 1.0, 2.0), None);
        session.say("b", false, "what", 4.0, 5.0);
        session.tape.disconnected();
        assert_eq!(session.wait(100), None, "nobody can say anything");
        session.tape.connected(session.now);
        assert_eq!(session.wait(19), None);
        assert_eq!(session.settled(), 3.7);
        let Some(Spoken::Partial { number: 6, text, .. }) = session.wait(1) else { panic!() };
        assert_eq!((text.as_str(), session.settled()), ("", 10.0));
        assert_eq!(session.wait(100), None);
        assert_eq!(number(session.say("b", true, "what then", 4.0, 5.0)), (6, 0), "better late");
        session.hear(Message::SpeechStart(9.0));
        assert_eq!(session.settled(), 10.0, "never backward");
    }

    #[test]
    fn sound_that_gladia_heard_twice_is_said_once() {
        let mut session = Session::new();
        session.say("a", true, "one", 8.0, 9.5);
        session.tape.push(&[0; 16_000]);
        session.tape.connected(session.now);
        while session.tape.take_unsent(1 << 20, session.now).is_some() {}
        // It had half a second more than it had told us of.
        session.tape.acknowledge(336_000, 352_000, session.now);
        assert_eq!(session.say("b", true, "one", 10.5, 11.0), None);
        assert_eq!(number(session.say("c", true, "two", 11.0, 11.5)), (6, 0));
        assert_eq!(session.settled(), 11.0);
    }

    #[test]
    fn whatever_gladia_says_the_account_stays_right() {
        let mut seed = 7_u64;
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        let mut session = Session::new();
        let (mut settled, mut finals) = (Samples(0), std::collections::HashMap::new());
        for _ in 0..50_000 {
            let (start, length) = (random(400) as f64 / 10.0, random(60) as f64 / 10.0);
            let id = random(100).to_string();
            let text = ["", "one", "one two"][random(3) as usize];
            let said = match random(12) {
                0 => {
                    session.tape.push(&vec![0; random(8_000) as usize]);
                    None
                }
                1 => {
                    session.tape.skip_to(Samples(session.tape.heard().0 + random(10_000)));
                    None
                }
                2 => {
                    session.tape.disconnected();
                    session.tape.connected(session.now);
                    None
                }
                3 => {
                    session.tape.take_unsent(random(40_000) as usize, session.now);
                    None
                }
                4 | 5 => {
                    let from = random(4_000_000);
                    session.tape.acknowledge(from, from + random(40_000), session.now);
                    None
                }
                6 => session.hear(Message::SpeechStart(start)),
                7 => session.hear(Message::SpeechEnd(start)),
                8 => session.wait(random(8)),
                9 => session.say(&id, false, text, start, start + length),
                _ => session.say(&id, true, text, start, start + length),
            };
            let heard = session.tape.heard();
            match said {
                Some(Spoken::Final { number, revision, start, end, words, .. }) => {
                    assert!(start <= end && end <= heard);
                    assert!(words.iter().all(|word| start <= word.start && word.end <= end));
                    let before = finals.insert(number, revision);
                    assert_eq!(before.map_or(0, |before| before + 1), revision, "#{number}");
                }
                Some(Spoken::Partial { number, text, stable, .. }) => {
                    assert!(stable as usize <= text.len() && !finals.contains_key(&number));
                }
                Some(other) => panic!("{other:?}"),
                None => {}
            }
            assert!(session.utterances.settled() >= settled && session.utterances.settled() <= heard);
            settled = session.utterances.settled();
        }
        assert!(finals.len() > 1_000 && settled > Samples(1_600_000), "{} {settled}", finals.len());
        let mut at = settled;
        for (begin, pcm) in session.tape.rest(settled, &session.utterances.done()) {
            assert!(begin >= at);
            at = begin + Samples::of(pcm.len());
        }
        assert!(at <= session.tape.heard());
    }

    #[test]
    fn only_so_many_utterances_are_remembered() {
        let mut session = Session::new();
        for index in 0..1_000 {
            session.say(&index.to_string(), index % 2 == 0, "word", 1.0, 2.0);
        }
        assert_eq!(session.utterances.known.len(), REMEMBERED_MAX);
        let mut last = Session::new();
        last.utterances.next_number = u32::MAX;
        assert_eq!(last.say("a", true, "word", 1.0, 2.0), None, "there is no number for it");
    }
}
