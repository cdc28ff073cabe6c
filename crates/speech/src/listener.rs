use std::{
    collections::VecDeque,
    fmt,
    time::{Duration, Instant},
};

use model::{Samples, Word};

use crate::{
    Detected, Hypothesis, SpeechError, Task, Wanted,
    agreement::{Agreement, Shown},
    decode::{Decode, DecodeKind, Standing, Ticket},
    gate, meters,
    times::{self, Sighting},
    utterance::{FRAMES_MAX, Sound},
    voice::{Ear, FRAME, Frame},
};

/// Speech begins when this many frames...
const ONSET_FRAMES: usize = 4;

/// ...of so many are voiced: 64 ms of 96.
const ONSET_WINDOW: usize = 6;

/// Sound kept from before the onset, for soft first consonants: 304 ms.
const PREROLL_FRAMES: usize = 19;

/// Sound decoded after the last voice: 240 ms. Enough for the model to hear that the word is over; from then on
/// a decode of the pause serves as the final.
const TAIL_FRAMES: usize = 15;

/// A new utterance is decoded for the first time when this much of it follows the onset: 400 ms.
const FIRST_FRAMES: usize = 25;

/// As long as no more than this follows the onset, partials come twice as often: 1 s. The first words of a text
/// need a second hypothesis soon, and short sound is cheap.
const EAGER_FRAMES: usize = 62;

/// From this length on ever shorter pauses end an utterance, so that few reach the cap in mid-sentence: 6 s.
const PATIENT_FRAMES: usize = 375;

/// Silence of this length means that a word is over or that a pause begins; no partial is asked for until it is
/// known which: 96 ms.
const WORD_GAP_FRAMES: usize = 6;

/// The longest that partials stretch under load. Beyond, the pool drops those that wait and they pause.
const PARTIAL_INTERVAL_MAX: Duration = Duration::from_secs(2);

/// A partial is asked for at most once in this many times the time its answer takes, so that a busy pool is
/// asked less.
const TURNAROUNDS_PER_PARTIAL: u32 = 2;

/// How far before the place where another voice was said to begin it may have begun: 0.7 s.
const CHANGE_FRAMES_BEFORE: usize = 44;

/// And how far after it: 0.25 s.
const CHANGE_FRAMES_AFTER: usize = 16;

/// Less than this on either side of it is not worth an utterance of its own: 0.3 s.
const CHANGE_FRAMES_MIN: usize = 19;

/// Less silence than this lies inside words.
const ENDPOINTING_MIN: Duration = Duration::from_millis(100);

/// So sure a recognizer must be of the language that it has found out: of a short utterance,
const DETECTED_MIN: f32 = 0.8;

/// and of one that is no shorter than [`DETECT_FRAMES`]. The same guess twice in a row will do as well.
const DETECTED_LONG_MIN: f32 = 0.5;

/// 3 s.
const DETECT_FRAMES: usize = 187;

/// How often a final is tried when the engine fails.
const FINAL_TRIES_MAX: u8 = 3;

/// How one stream is to be heard.
#[derive(Debug, Clone)]
pub struct ListenerSettings {
    /// Silence that ends an utterance; at least 100 ms.
    pub endpointing: Duration,
    /// Sound between two partials of an utterance, when there is no load; `None` when none are wanted.
    pub partial_interval: Option<Duration>,
    /// The position in the stream of the first sample this listener hears.
    pub first: Samples,
    /// The number of the first utterance with words.
    pub next_number: u32,
    /// The language that is spoken, as in [`Wanted`](crate::Wanted); `None`: the recognizer finds out.
    pub language: Option<String>,
    /// What to make of it.
    pub task: Task,
    /// Finals are decoded anew, by another recognizer than partials.
    pub second_pass: bool,
    /// Nobody waits for the next word: decodes come after those of whoever speaks now.
    pub recording: bool,
}

impl Default for ListenerSettings {
    fn default() -> Self {
        Self {
            endpointing: Duration::from_millis(500),
            partial_interval: Some(Duration::from_millis(500)),
            first: Samples(0),
            next_number: 1,
            language: None,
            task: Task::Transcribe,
            second_pass: false,
            recording: false,
        }
    }
}

/// What a listener has to say once a decode came back.
#[derive(Clone, PartialEq)]
pub enum Spoken {
    /// The text so far of the open utterance; replaces the one before. Empty when what was shown turned out to
    /// be no speech: the utterance is over then, and its number is used again.
    Partial {
        /// Number of the utterance.
        number: u32,
        /// The whole text.
        text: String,
        /// Leading characters (Unicode scalar values) that two consecutive hypotheses agree on.
        stable: u32,
        /// Language (BCP 47), when the engine tells.
        language: Option<String>,
        /// Where speech begins.
        start: Samples,
        /// How much of the stream the text covers.
        end: Samples,
    },
    /// The text of a finished utterance, in order.
    Final {
        /// Number of the utterance.
        number: u32,
        /// 0, and one more for each time that a provider corrects a text it gave as final.
        revision: u32,
        /// Never empty.
        text: String,
        /// Its words with estimated times.
        words: Vec<Word>,
        /// Language (BCP 47), when the engine tells.
        language: Option<String>,
        /// Mean natural logarithm of the probabilities of its tokens: 0 is certain.
        logprob: f32,
        /// Where speech begins.
        start: Samples,
        /// Where the utterance ends; the next one begins here or later.
        end: Samples,
    },
    /// A finished utterance had no words and nothing of it was shown.
    Nothing {
        /// Where it began.
        start: Samples,
        /// Where it ended.
        end: Samples,
    },
    /// The engine failed on an utterance again and again; whatever was said in it is lost.
    Lost {
        /// Where it began.
        start: Samples,
        /// Where it ended.
        end: Samples,
        /// The last failure.
        error: SpeechError,
    },
}

/// What people said must not reach a log by way of `{:?}`.
impl fmt::Debug for Spoken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partial { number, text, stable, start, end, .. } => {
                write!(f, "Partial(#{number}, {} bytes, {stable} stable, {start}..{end})", text.len())
            }
            Self::Final { number, revision, text, words, start, end, .. } => {
                write!(
                    f,
                    "Final(#{number} r{revision}, {} bytes, {} words, {start}..{end})",
                    text.len(),
                    words.len()
                )
            }
            Self::Nothing { start, end } => write!(f, "Nothing({start}..{end})"),
            Self::Lost { start, end, error } => write!(f, "Lost({start}..{end}, {error})"),
        }
    }
}

/// Hears one stream and decides what to decode when and what to show of it: voice detection, utterance borders,
/// partials and finals. Holds no clock, no thread and no engine: the caller gives it samples and answers, asks
/// it for the next decode after each, and has it decoded by an [`EnginePool`](crate::EnginePool).
///
/// Finals come in order, one decode at a time; a partial is asked for only when every earlier final is
/// delivered, so numbers never change. Memory: the sound of the open utterance and of those closed and not
/// delivered, which the caller bounds by how much it lets the listener hear ahead.
pub struct Listener {
    settings: ListenerSettings,
    ear: Ear,
    /// The position after the last sample heard.
    heard: Samples,
    /// The newest sound while nobody speaks.
    quiet: Sound,
    open: Option<Utterance>,
    /// Finished, waiting for their final, oldest first.
    closed: VecDeque<Utterance>,
    asked: Option<Asked>,
    next_number: u32,
    next_ticket: u64,
    /// Moving average of how long answers take.
    turnaround: Duration,
    wanted: Wanted,
    detected: Option<Detected>,
}

/// A decode under way.
struct Asked {
    ticket: Ticket,
    standing: Standing,
    /// How many frames of the utterance it covers.
    frames: usize,
    at: Instant,
}

struct Utterance {
    sound: Sound,
    /// What was said to be spoken when it began.
    language: Option<String>,
    /// First voiced frame.
    voice_start: usize,
    /// Frames covered by the newest decode asked for.
    asked_frames: usize,
    /// The newest hypothesis and the frames that it covers.
    newest: Option<(usize, Hypothesis)>,
    agreement: Agreement,
    sightings: Vec<Sighting>,
    tries: u8,
}

impl Utterance {
    fn new(sound: Sound, language: Option<String>) -> Self {
        let voice_start = sound.frames().iter().position(Frame::voiced).unwrap_or(0);
        Self {
            sound,
            language,
            voice_start,
            asked_frames: 0,
            newest: None,
            agreement: Agreement::default(),
            sightings: Vec::new(),
            tries: 0,
        }
    }

    fn start(&self) -> Samples {
        self.sound.at(self.voice_start)
    }
}

impl Listener {
    /// A listener that has heard nothing yet.
    pub fn new(settings: ListenerSettings) -> Self {
        Self {
            ear: Ear::new(),
            heard: settings.first,
            quiet: Sound::starting(settings.first),
            open: None,
            closed: VecDeque::new(),
            asked: None,
            next_number: settings.next_number,
            next_ticket: 0,
            turnaround: Duration::ZERO,
            wanted: Wanted { language: settings.language.clone(), task: settings.task },
            detected: None,
            settings,
        }
    }

    /// Hears the samples that follow those heard before. About 0.4 ms of CPU per second of sound: not for async
    /// threads. Call [`Listener::next`] afterwards, at least once a second of sound.
    pub fn hear(&mut self, pcm: &[i16]) {
        self.heard = self.heard + Samples::of(pcm.len());
        let mut pcm = pcm;
        while let Some((samples, frame)) = self.ear.frame(&mut pcm) {
            self.frame(&samples, frame);
        }
    }

    /// Ends the open utterance here, in mid-word if need be.
    pub fn finalize(&mut self) {
        if let Some(open) = &self.open {
            let end = (open.sound.voiced_end() + TAIL_FRAMES).min(open.sound.frames().len());
            self.close_quiet(end);
        }
    }

    /// Another voice begins near `position`: cuts the open utterance at the quietest place there, from 0.7 s before it to
    /// 0.25 s after. Nothing happens where too little of the utterance lies on either side.
    pub fn cut_near(&mut self, position: Samples) {
        let Some(open) = &self.open else { return };
        let near = usize::try_from((position - open.sound.start).0).unwrap_or(usize::MAX) / FRAME;
        let first = near.saturating_sub(CHANGE_FRAMES_BEFORE);
        // So soon after its beginning, that may have been the other voice already.
        if first < open.voice_start + CHANGE_FRAMES_MIN {
            return;
        }
        let last =
            (near + CHANGE_FRAMES_AFTER).min(open.sound.frames().len().saturating_sub(CHANGE_FRAMES_MIN));
        if let Some(cut) = open.sound.quietest_in(first, last) {
            self.cut(cut);
        }
    }

    /// From here on another language is spoken; `None`: the recognizer finds out. The open utterance ends here.
    pub fn speak(&mut self, language: Option<String>) {
        self.finalize();
        self.detected = None;
        self.wanted.language = language;
    }

    /// The language that is spoken, once it is known.
    pub fn language(&self) -> Option<&str> {
        self.wanted.language.as_deref()
    }

    /// The language that was found out last, and how sure the recognizer was.
    pub fn detected(&self) -> Option<&Detected> {
        self.detected.as_ref()
    }

    /// How its decodes go on with another recognizer; see [`ListenerSettings`].
    pub fn pace(&mut self, partial_interval: Option<Duration>, second_pass: bool) {
        self.settings.partial_interval = partial_interval;
        self.settings.second_pass = second_pass;
    }

    /// Where speech begins in the open utterance, if there is one.
    pub fn open_since(&self) -> Option<Samples> {
        self.open.as_ref().map(Utterance::start)
    }

    /// Ends the stream: ends the open utterance and forgets the silence after it. Nothing may be heard after.
    pub fn end(&mut self) {
        let rest = self.ear.rest();
        if rest > 0 {
            let heard = self.heard;
            self.hear(&vec![0; FRAME - rest]);
            self.heard = heard;
        }
        self.finalize();
        self.quiet = Sound::starting(self.heard);
    }

    /// Goes on at a later position, as what lies before it is lost. The open utterance ends where it is.
    pub fn skip_to(&mut self, position: Samples) {
        if position > self.heard {
            self.end();
            self.ear = Ear::new();
            self.heard = position;
            self.quiet = Sound::starting(position);
        }
    }

    /// What should be decoded now, if anything. Ask again after each [`Listener::hear`], [`Listener::finalize`],
    /// [`Listener::end`] and [`Listener::decoded`]; at most one decode of a stream waits for its answer, beside
    /// partials that it replaced.
    pub fn next(&mut self, now: Instant) -> Option<Decode> {
        if self.asked.is_some() {
            return None;
        }
        if let Some(closed) = self.closed.front() {
            let frames = closed.sound.frames().len();
            let kind = if self.settings.recording { DecodeKind::Recording } else { DecodeKind::Final };
            return self.ask(kind, frames, now);
        }
        let frames = self.partial_due()?;
        self.ask(DecodeKind::Partial, frames, now)
    }

    /// Takes the answer to a decode. `None` when it changes nothing that is shown, or came too late to matter.
    pub fn decoded(
        &mut self,
        ticket: Ticket,
        result: Result<Hypothesis, SpeechError>,
        now: Instant,
    ) -> Option<Spoken> {
        let asked = self.asked.take_if(|asked| asked.ticket == ticket)?;
        self.turnaround = (self.turnaround * 3 + now.saturating_duration_since(asked.at)) / 4;
        match asked.standing.kind() {
            DecodeKind::Final | DecodeKind::Recording => self.finished(result),
            DecodeKind::Partial => self.progressed(asked.frames, result.ok()?),
        }
    }

    /// Everything before this position is silence or covered by a final that was delivered (or by
    /// [`Spoken::Nothing`] or [`Spoken::Lost`]): a listener that starts here hears every word that this one
    /// has not delivered.
    pub fn settled(&self) -> Samples {
        let utterance = self.closed.front().or(self.open.as_ref());
        utterance.map_or(self.quiet.start, |utterance| utterance.sound.start).min(self.heard)
    }

    /// The position after the last sample heard.
    pub fn heard(&self) -> Samples {
        self.heard
    }

    /// Whether a finished utterance is not delivered yet.
    pub fn awaits_final(&self) -> bool {
        !self.closed.is_empty()
    }

    /// Whether nobody speaks and every final is delivered.
    pub fn idle(&self) -> bool {
        self.open.is_none() && self.closed.is_empty()
    }

    fn frame(&mut self, samples: &[i16], frame: Frame) {
        let Some(open) = &mut self.open else {
            self.quiet.push(samples, frame);
            self.quiet.keep_last(PREROLL_FRAMES + ONSET_WINDOW);
            let newest = self.quiet.frames().iter().rev().take(ONSET_WINDOW);
            if newest.filter(|frame| frame.voiced()).count() >= ONSET_FRAMES {
                let end = self.quiet.end();
                let sound = std::mem::replace(&mut self.quiet, Sound::starting(end));
                self.open = Some(Utterance::new(sound, self.wanted.language.clone()));
            }
            return;
        };
        open.sound.push(samples, frame);
        let frames = open.sound.frames().len();
        let voiced_end = open.sound.voiced_end();
        if frames - voiced_end >= patience_frames(self.settings.endpointing, frames) {
            self.close_quiet((voiced_end + TAIL_FRAMES).min(frames));
        } else if frames >= FRAMES_MAX {
            let cut = open.sound.quietest();
            self.cut(cut);
        }
    }

    /// Ends the open utterance after `frames`. Speech goes on: what follows is the next utterance, without pre-roll.
    fn cut(&mut self, frames: usize) {
        let rest = self.close(frames);
        if rest.frames().iter().any(Frame::voiced) {
            self.quiet = Sound::starting(rest.end());
            self.open = Some(Utterance::new(rest, self.wanted.language.clone()));
        } else {
            self.quiet = rest;
            self.quiet.keep_last(PREROLL_FRAMES);
        }
    }

    /// Ends the open utterance after `frames`; what follows is silence.
    fn close_quiet(&mut self, frames: usize) {
        self.quiet = self.close(frames);
        self.quiet.keep_last(PREROLL_FRAMES);
    }

    /// Ends the open utterance after `frames` and returns the sound that follows.
    fn close(&mut self, frames: usize) -> Sound {
        let Some(mut utterance) = self.open.take() else { return Sound::starting(self.quiet.end()) };
        let rest = utterance.sound.split_off(frames);
        if let Some(asked) = self.asked.take_if(|asked| asked.standing.kind() == DecodeKind::Partial) {
            if asked.frames == frames && !self.settings.second_pass {
                asked.standing.promote();
                self.asked = Some(asked);
            } else {
                asked.standing.supersede();
            }
        }
        let shown = !utterance.agreement.shown().words.is_empty();
        if shown || gate::voiced_enough(&utterance.sound, frames) {
            self.closed.push_back(utterance);
        }
        rest
    }

    /// How many frames of the open utterance to decode now, if any.
    fn partial_due(&self) -> Option<usize> {
        let interval = self.settings.partial_interval?;
        let open = self.open.as_ref()?;
        let frames = open.sound.frames().len();
        let voiced_end = open.sound.voiced_end();
        let silence = frames - voiced_end;
        // A recognizer that is asked so rarely is too slow to hear every pause.
        let rare = interval > PARTIAL_INTERVAL_MAX;
        if silence >= TAIL_FRAMES && !rare {
            let pause = voiced_end + TAIL_FRAMES;
            return (open.asked_frames < pause).then_some(pause);
        }
        let due = if open.asked_frames == 0 {
            open.voice_start + if rare { frames_in(interval) } else { FIRST_FRAMES }
        } else {
            let eager = open.asked_frames < open.voice_start + EAGER_FRAMES;
            open.asked_frames + self.interval_frames(interval) / if eager { 2 } else { 1 }
        };
        (silence < WORD_GAP_FRAMES && frames >= due).then_some(frames)
    }

    fn interval_frames(&self, interval: Duration) -> usize {
        let stretched = (self.turnaround * TURNAROUNDS_PER_PARTIAL).min(PARTIAL_INTERVAL_MAX);
        frames_in(stretched.max(interval))
    }

    /// Asks for `frames` of the oldest utterance that is not delivered.
    fn ask(&mut self, kind: DecodeKind, frames: usize, now: Instant) -> Option<Decode> {
        let utterance = self.closed.front_mut().or(self.open.as_mut())?;
        utterance.asked_frames = frames;
        let language = utterance.language.clone().or_else(|| self.wanted.language.clone());
        let wanted = Wanted { language, task: self.wanted.task };
        let known = utterance.newest.take_if(|(covered, _)| {
            kind == DecodeKind::Final && *covered == frames && !self.settings.second_pass
        });
        // What may become the final is decoded from nothing: a recognizer that is helped may differ in a word.
        let whole = kind != DecodeKind::Partial || utterance.sound.silence_before(frames) >= TAIL_FRAMES;
        let newest = utterance.newest.as_ref().filter(|_| !whole);
        let earlier = newest.map(|(_, hypothesis)| hypothesis.clone());
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        let standing = Standing::new(kind);
        self.asked = Some(Asked { ticket, standing: standing.clone(), frames, at: now });
        Some(Decode {
            ticket,
            pcm: utterance.sound.samples(frames),
            wanted,
            earlier,
            asked: now,
            standing,
            known: known.map(|(_, hypothesis)| hypothesis),
        })
    }

    /// A newer hypothesis of the open utterance.
    fn progressed(&mut self, frames: usize, hypothesis: Hypothesis) -> Option<Spoken> {
        let heard = self.heard;
        let number = self.next_number;
        let open = self.open.as_mut()?;
        let silence = open.sound.silence_before(frames);
        let before = open.agreement.shown().clone();
        let plausible = gate::plausible(&hypothesis, &open.sound, frames);
        if plausible && self.wanted.language.is_none() {
            (self.wanted.language, self.detected) =
                settled_language(&hypothesis, frames, self.detected.take());
        }
        let language = open.language.clone().or_else(|| self.wanted.language.clone());
        let shown = if plausible {
            open.agreement.hear(&hypothesis, silence >= WORD_GAP_FRAMES)
        } else {
            open.agreement.hear(&Hypothesis::default(), false)
        };
        let spoken = (*shown != before).then(|| Spoken::Partial {
            number,
            text: shown.text(),
            stable: shown.stable_chars(),
            language,
            start: open.sound.at(open.voice_start),
            end: open.sound.at(frames).min(heard),
        });
        let words = hypothesis.words.iter().map(|word| word.text.clone()).collect();
        open.sightings.push(Sighting { frames, words });
        open.newest = Some((frames, hypothesis));
        spoken
    }

    /// The answer to the final of the oldest closed utterance.
    fn finished(&mut self, result: Result<Hypothesis, SpeechError>) -> Option<Spoken> {
        let utterance = self.closed.front_mut()?;
        let hypothesis = match result {
            Ok(hypothesis) => hypothesis,
            Err(_) if utterance.tries + 1 < FINAL_TRIES_MAX => {
                utterance.tries += 1;
                return None;
            }
            Err(error) => {
                let lost = self.closed.pop_front()?;
                return Some(Spoken::Lost {
                    start: lost.start(),
                    end: lost.sound.end().min(self.heard),
                    error,
                });
            }
        };
        let utterance = self.closed.pop_front()?;
        let (start, end) = (utterance.start(), utterance.sound.end().min(self.heard));
        let number = self.next_number;
        if gate::plausible(&hypothesis, &utterance.sound, utterance.sound.frames().len()) {
            self.next_number += 1;
            let frames = utterance.sound.frames().len();
            if self.wanted.language.is_none() {
                (self.wanted.language, self.detected) =
                    settled_language(&hypothesis, frames, self.detected.take());
            }
            let language = utterance.language.clone().or_else(|| self.wanted.language.clone());
            let language =
                language.or_else(|| hypothesis.detected.as_ref().map(|found| found.language.clone()));
            let (text, logprob) = (hypothesis.text(), hypothesis.logprob());
            let words = placed(hypothesis, &utterance);
            return Some(Spoken::Final { number, revision: 0, text, words, language, logprob, start, end });
        }
        metrics::counter!(meters::UTTERANCES_EMPTY).increment(1);
        Some(if *utterance.agreement.shown() == Shown::default() {
            Spoken::Nothing { start, end }
        } else {
            Spoken::Partial { number, text: String::new(), stable: 0, language: None, start, end }
        })
    }
}

/// What is known of the language after a hypothesis of `frames`: the language, once that is settled, and the last
/// guess.
fn settled_language(
    hypothesis: &Hypothesis,
    frames: usize,
    before: Option<Detected>,
) -> (Option<String>, Option<Detected>) {
    let Some(found) = &hypothesis.detected else { return (None, before) };
    let least = if frames >= DETECT_FRAMES { DETECTED_LONG_MIN } else { DETECTED_MIN };
    let again = before.is_some_and(|before| before.language == found.language);
    let settled = found.probability >= least || again;
    (settled.then(|| found.language.clone()), Some(found.clone()))
}

/// The words of a final: where the recognizer says, or where its sound suggests.
fn placed(hypothesis: Hypothesis, utterance: &Utterance) -> Vec<Word> {
    let words: Vec<String> = hypothesis.words.into_iter().map(|word| word.text).collect();
    if hypothesis.spans.len() != words.len() {
        return times::place(&utterance.sound, &words, &utterance.sightings);
    }
    let (first, last) = (utterance.sound.start, utterance.sound.end());
    let mut from = first;
    let place = |(text, (start, end)): (String, (usize, usize))| {
        // Recognizers give the pause before a word to the word.
        let frames = utterance.sound.frames().get(start / FRAME..end / FRAME).unwrap_or_default();
        let pause = frames.iter().position(Frame::voiced).unwrap_or(0) * FRAME;
        let start = (first + Samples::of(start + pause)).clamp(from, last);
        let end = (first + Samples::of(end)).clamp(start, last);
        from = end;
        Word { text, start, end }
    };
    words.into_iter().zip(hypothesis.spans).map(place).collect()
}

fn frames_in(span: Duration) -> usize {
    let samples = span.as_millis() * u128::from(model::SAMPLE_RATE_HZ) / 1000;
    usize::try_from(samples).unwrap_or(usize::MAX) / FRAME
}

/// Silence, in frames, that ends an utterance of `frames`: as set, falling evenly to [`TAIL_FRAMES`] at the cap.
fn patience_frames(endpointing: Duration, frames: usize) -> usize {
    let set = frames_in(endpointing.max(ENDPOINTING_MIN));
    let over = frames.saturating_sub(PATIENT_FRAMES).min(FRAMES_MAX - PATIENT_FRAMES);
    let spare = set.saturating_sub(TAIL_FRAMES);
    set - spare * over / (FRAMES_MAX - PATIENT_FRAMES)
}
