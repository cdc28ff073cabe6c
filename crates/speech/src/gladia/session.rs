use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use model::{SAMPLE_RATE_HZ, Samples};
use tokio::{
    sync::mpsc::{Receiver, channel},
    task::JoinSet,
    time::sleep,
};

use super::{
    Gladia, GladiaTrouble,
    link::{self, News, Shared},
    tape::Tape,
    utterances::Utterances,
    wire::{self, Init, Message},
};
use crate::{ListenerSettings, Spoken, meters};

/// Messages that wait for the caller; beyond, Gladia waits.
const NEWS_WAITING_MAX: usize = 64;

/// Silence beyond the endpointing that is sure to end an utterance.
const GAP_MARGIN: Duration = Duration::from_millis(500);

/// How often to look whether silence is settled.
const SETTLE_INTERVAL: Duration = Duration::from_millis(250);

/// What a session has to say.
#[derive(Debug, Clone, PartialEq)]
pub enum GladiaEvent {
    /// A text.
    Spoken(Spoken),
    /// [`GladiaSession::settled`] moved on without one.
    Settled,
    /// Gladia hears no more. Nothing follows; [`GladiaSession::into_unsettled`] has what is left to do.
    Failed(GladiaTrouble),
    /// All is heard and every final is delivered. Nothing follows.
    Ended,
}

/// What a session leaves to whoever goes on in its place.
pub struct Unsettled {
    /// Sound in the order of the stream, and where each stretch begins; between them is a gap, or sound whose finals
    /// were delivered.
    pub sound: Vec<(Samples, Vec<i16>)>,
    /// The number of the next utterance: that of the open one, when there is one.
    pub next_number: u32,
}

/// Hears one stream by way of Gladia, as a [`Listener`](crate::Listener) does by itself: the caller gives it samples
/// and waits for what is [next](GladiaSession::next). Dropping it breaks the connection off.
///
/// Finals come in the order in which Gladia gives them, each utterance under the number that its first text got. An
/// utterance whose partials were shown and that Gladia never finishes is taken back by an empty partial, and its
/// number is not used again. A final that Gladia corrects comes again with the next revision.
///
/// Memory: the sound from [`GladiaSession::settled`] on, and what Gladia has not acknowledged, which the caller bounds
/// by how much it lets the session hear ahead.
pub struct GladiaSession {
    shared: Arc<Shared>,
    news: Receiver<News>,
    utterances: Utterances,
    /// Whether partials are wanted.
    partials: bool,
    /// Silence that ends an utterance.
    endpointing: Duration,
    state: State,
    /// The link, aborted with the session.
    _link: JoinSet<()>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// Told to end.
    Ending,
    /// Ended or failed, and said so.
    Over,
}

impl GladiaSession {
    /// Begins a session for a stream in `language` (BCP 47; `None`: Gladia finds it out). Must be called within a
    /// Tokio runtime. Whether Gladia takes it shows in [`GladiaSession::next`].
    pub fn open(gladia: &Gladia, settings: &ListenerSettings, language: Option<&str>) -> Self {
        let account = gladia.0.clone();
        let own = &account.settings;
        let init = Init::new(own.model.as_deref(), language, own.code_switching, settings.endpointing);
        // A few strings and numbers: this cannot fail, and Gladia would refuse an empty body.
        let body = serde_json::to_vec(&init).unwrap_or_default();
        let shared = Arc::new(Shared::new(Tape::starting(settings.first)));
        let (sender, news) = channel(NEWS_WAITING_MAX);
        let utterances = Utterances::new(own.limits.clone(), settings.first, settings.next_number);
        let mut task = JoinSet::new();
        let linked = shared.clone();
        task.spawn(async move { link::run(&account, body, &linked, sender).await });
        Self {
            shared,
            news,
            utterances,
            partials: settings.partial_interval.is_some(),
            endpointing: wire::endpointing(settings.endpointing),
            state: State::Open,
            _link: task,
        }
    }

    /// Hears the samples that follow those heard before. Never waits; nothing is heard after [`GladiaSession::end`].
    pub fn hear(&mut self, pcm: &[i16]) {
        self.shared.tape().push(pcm);
        self.shared.more.notify_one();
    }

    /// Goes on at a later position, as what lies before it is lost. Gladia is not sent the gap, only as much silence
    /// as ends the open utterance; its times are counted on as if the gap were in the sound.
    pub fn skip_to(&mut self, position: Samples) {
        let mut tape = self.shared.tape();
        let gap = position - tape.heard();
        let silence = (self.endpointing + GAP_MARGIN).as_secs_f64() * f64::from(SAMPLE_RATE_HZ);
        tape.push(&vec![0; usize::try_from(gap.0).map_or(0, |gap| gap.min(silence as usize))]);
        tape.skip_to(position);
        drop(tape);
        self.shared.more.notify_one();
    }

    /// Does nothing: Gladia ends utterances by silence alone.
    pub fn finalize(&mut self) {}

    /// Ends the stream. The finals that are missing follow, then [`GladiaEvent::Ended`].
    pub fn end(&mut self) {
        if self.state == State::Open {
            self.state = State::Ending;
            self.shared.tape().end();
            self.shared.more.notify_one();
            self.shared.ended.notify_one();
        }
    }

    /// The position after the last sample heard.
    pub fn heard(&self) -> Samples {
        self.shared.tape().heard()
    }

    /// Everything before this position is silence, as far as anybody can tell, or covered by a final that was
    /// delivered. Silence is what Gladia acknowledged some time ago (10 s) and where it has heard nobody begin to
    /// speak. An open utterance holds this back until its final, or until Gladia has said nothing of it for longer
    /// (20 s). Never moves backward; moves in [`GladiaSession::next`] alone.
    pub fn settled(&self) -> Samples {
        self.utterances.settled()
    }

    /// Whether an utterance is over and its final not delivered yet, as far as Gladia tells; after
    /// [`GladiaSession::end`], whether anything is missing.
    pub fn awaits_final(&self) -> bool {
        self.state == State::Ending || self.utterances.awaits_final()
    }

    /// Whether everything heard is settled; after [`GladiaSession::end`], whether it has ended.
    pub fn idle(&self) -> bool {
        match self.state {
            State::Open => self.settled() >= self.heard() && !self.utterances.any_open(),
            State::Ending => false,
            State::Over => true,
        }
    }

    /// Waits for what is next; for ever once it has ended or failed. Cancel-safe.
    pub async fn next(&mut self) -> GladiaEvent {
        if self.state == State::Over {
            return std::future::pending().await;
        }
        loop {
            if let Some(event) = self.settle() {
                return event;
            }
            let news = tokio::select! {
                news = self.news.recv() => news,
                () = sleep(SETTLE_INTERVAL) => continue,
            };
            match news {
                Some(News::Message(message, at)) => {
                    let mut tape = self.shared.tape();
                    note_latency(&message, &tape, at);
                    let spoken = self.utterances.hear(message, &tape, Instant::now());
                    if let Some(spoken) = spoken.filter(|spoken| self.wanted(spoken)) {
                        // What is returned is delivered: whoever asks now is told so.
                        self.utterances.settle(&mut tape, Instant::now());
                        return GladiaEvent::Spoken(spoken);
                    }
                }
                Some(News::Ended) if self.utterances.ended(&mut self.shared.tape()) => {
                    self.state = State::Over;
                    return GladiaEvent::Ended;
                }
                // Ended while it owes us something.
                Some(News::Ended) | None => return self.failed(GladiaTrouble::Unavailable),
                Some(News::Failed(trouble)) => return self.failed(trouble),
            }
        }
    }

    /// What is left to do, for a [`Listener`](crate::Listener) to hear when Gladia has failed: no word is lost, and
    /// none doubled.
    pub fn into_unsettled(self) -> Unsettled {
        let sound = self.shared.tape().rest(self.settled(), &self.utterances.done());
        Unsettled { sound, next_number: self.utterances.next_number() }
    }

    fn failed(&mut self, trouble: GladiaTrouble) -> GladiaEvent {
        metrics::counter!(meters::GLADIA_FAILED, "trouble" => trouble.label()).increment(1);
        self.state = State::Over;
        GladiaEvent::Failed(trouble)
    }

    fn wanted(&self, spoken: &Spoken) -> bool {
        self.partials || !matches!(spoken, Spoken::Partial { .. })
    }

    /// Moves on what is settled, and says so; or takes back what is never finished.
    fn settle(&mut self) -> Option<GladiaEvent> {
        let (before, now) = (self.settled(), Instant::now());
        let mut tape = self.shared.tape();
        let taken_back = self.utterances.give_up(&tape, now);
        if let Some(spoken) = taken_back.filter(|spoken| self.wanted(spoken)) {
            return Some(GladiaEvent::Spoken(spoken));
        }
        self.utterances.settle(&mut tape, now);
        (self.settled() > before).then_some(GladiaEvent::Settled)
    }
}

fn note_latency(message: &Message, tape: &Tape, at: Instant) {
    if let Message::Transcript(transcript) = message
        && let Some(sent) = tape.sent_at(transcript.end)
    {
        let latency = at.saturating_duration_since(sent).as_secs_f64();
        metrics::histogram!(meters::GLADIA_LATENCY_SECONDS, "kind" => message.label()).record(latency);
    }
}
