//! One stream: audio in, words out to finals and partials, each with its speaker.

use std::{future::Future, pin::Pin, time::Duration};

use lifecycle::Lifecycle;
use model::{Clock, EngineName, Fallback, Partial, PcmFrame, Samples, Speaker, UtteranceId};
use rpc::{
    Source, WINDOW, WireError,
    wire::{
        self, Acknowledged, Ended, Request as Incoming, Response as Outgoing, TranscribeRequest,
        TranscribeResponse,
    },
};
use speech::{ListenerSettings, Spoken};
use storage::{OpenStream, StorageError};
use tokio::{
    sync::mpsc::Sender,
    time::{MissedTickBehavior, interval},
};
use tonic::{Status, Streaming};

use crate::{
    filter::{Filter, Verdict},
    finals::{Finals, Utterance},
    hearing::{Engines, Heard, Hearing},
    languages::Unserved,
    meter::Meter,
    partials::Partials,
    service::Ownership,
    speakers::Speakers,
    traces::Traces,
};

/// How often an unmoved acknowledgement is repeated, so that the source knows that we live.
const ACKNOWLEDGE_INTERVAL: Duration = Duration::from_secs(1);

/// Longest gap in the audio of a stream; a longer one is a position that went wrong.
const SKIP_MAX: Samples = Samples::from_millis(24 * 3_600 * 1_000);

/// Silence that ends an utterance, unless the source says.
const ENDPOINTING: Duration = Duration::from_millis(500);

/// How often it is looked whether another participant has begun to speak in an open utterance of a room.
const TURN_LOOK: Duration = Duration::from_millis(300);

/// Wait before the speaker of a final is asked for again while Postgres is away.
const SPEAKER_RETRY: Duration = Duration::from_millis(500);

/// Audio heard, in milliseconds.
const AUDIO_MS_TOTAL: &str = "worker_audio_ms_total";
/// Utterances by what became of them.
const UTTERANCES_TOTAL: &str = "worker_utterances_total";
/// Values of the label `outcome`.
const OUTCOMES: [&str; 6] = ["final", "corrected", "empty", "blank", "hallucination", "lost"];

pub(crate) fn register_metrics() {
    metrics::describe_counter!(AUDIO_MS_TOTAL, "Audio heard, in milliseconds");
    metrics::describe_counter!(UTTERANCES_TOTAL, "Utterances by what became of them");
    metrics::counter!(AUDIO_MS_TOTAL).absolute(0);
    for outcome in OUTCOMES {
        metrics::counter!(UTTERANCES_TOTAL, "outcome" => outcome).absolute(0);
    }
}

/// Why a call ends.
enum End {
    /// Stopped, all stored.
    Stopped,
    /// The source went away without `stop`.
    Lost,
    /// The worker drains; what is closed is stored.
    Drained,
    /// Another call or worker has the stream.
    TakenOver,
    /// The source broke the contract.
    Refused(WireError),
    /// A task of ours died.
    Defect,
}

/// A text of a room that waits to be told whose it is.
struct Unattributed {
    spoken: Spoken,
    /// Audio before this was settled before it.
    settled: Samples,
    /// `None`: nobody can say now, and nobody need know.
    speaker: Lookup<Option<Speaker>>,
}

/// Who has begun to speak, and where.
type Turned = Result<Vec<(Samples, Speaker)>, StorageError>;

type Lookup<T> = Pin<Box<dyn Future<Output = T> + Send>>;

pub(crate) struct StreamTask {
    source: Source,
    hearing: Hearing,
    fallback: Option<Fallback>,
    /// Which engine the source was told of last.
    engine_told: Option<EngineName>,
    /// A language that was asked for in mid-stream and that nobody serves; the source is to be told.
    refused: Option<Unserved>,
    finals: Finals,
    partials: Partials,
    traces: Traces,
    meter: Meter,
    filter: Filter,
    engines: Engines,
    clock: Clock,
    /// Of a room; the words of any other source are all its participant's.
    speakers: Option<Speakers>,
    unattributed: Option<Unattributed>,
    /// Looks whether somebody else has begun to speak.
    turns: Option<Lookup<Turned>>,
    /// Turns before this were dealt with.
    turned: Samples,
    /// The utterance that was shown last.
    shown: Option<u32>,
    acknowledged: Samples,
    stopped: bool,
}

/// What a stream is served with.
pub(crate) struct Means {
    pub(crate) engines: Engines,
    pub(crate) finals: Finals,
    pub(crate) meter: Meter,
    pub(crate) partials: Partials,
    pub(crate) traces: Traces,
    pub(crate) speakers: Option<Speakers>,
    pub(crate) clock: Clock,
}

impl StreamTask {
    /// Ready to serve a call.
    ///
    /// # Errors
    /// Nobody serves the language.
    pub(crate) fn new(
        source: Source,
        resume_at: Samples,
        open: &OpenStream,
        means: Means,
    ) -> Result<Self, Unserved> {
        let settings = ListenerSettings {
            endpointing: source
                .endpointing_ms
                .map_or(ENDPOINTING, |millis| Duration::from_millis(millis.into())),
            partial_interval: ListenerSettings::default().partial_interval.filter(|_| source.partials),
            first: resume_at,
            next_number: open.next_utterance,
            ..ListenerSettings::default()
        };
        let Means { engines, finals, mut meter, partials, traces, speakers, clock } = means;
        let (hearing, fallback) =
            engines.hear(&settings, source.language.as_deref(), finals.speech_to_english())?;
        meter.set_engine(hearing.engine());
        Ok(Self {
            hearing,
            fallback,
            engine_told: None,
            refused: None,
            finals,
            partials,
            traces,
            meter,
            filter: Filter::new(clock.now()),
            engines,
            clock,
            speakers,
            unattributed: None,
            turns: None,
            turned: resume_at,
            shown: None,
            acknowledged: resume_at,
            stopped: false,
            source,
        })
    }

    /// Serves the call to its end, and what it leaves behind.
    pub(crate) async fn run(
        mut self,
        incoming: Streaming<TranscribeRequest>,
        outgoing: Sender<Result<TranscribeResponse, Status>>,
        life: &Lifecycle,
        ownership: Ownership,
        linger: Duration,
    ) {
        let began = self.heard();
        tracing::info!(stream = %self.source.stream, at = %began, "stream opened");
        let end = tokio::select! {
            end = self.serve(incoming, &outgoing, life) => end,
            () = ownership.lost().cancelled() => End::TakenOver,
            () = life.stopping().cancelled() => End::Drained,
        };
        let (outcome, status) = match end {
            End::Stopped => ("stopped", None),
            End::Lost => ("lost", None),
            End::Drained => ("drained", Some(Status::unavailable("draining"))),
            End::TakenOver => ("taken_over", Some(Status::aborted("the stream has a newer owner"))),
            End::Refused(error) => ("refused", Some(error.into())),
            End::Defect => ("defect", Some(Status::internal("a task of the worker died"))),
        };
        let audio_ms = (self.heard() - began).millis();
        tracing::info!(stream = %self.source.stream, outcome, audio_ms, "stream call ended");
        if let Some(status) = status {
            // Whoever does not listen any more needs no reason.
            let _ = outgoing.send(Err(status)).await;
        }
        drop(outgoing);
        if outcome == "lost" {
            tokio::select! {
                () = self.linger(linger, life) => {}
                () = ownership.lost().cancelled() => {}
                () = life.stopping().cancelled() => {}
            }
        }
    }

    async fn serve(
        &mut self,
        mut incoming: Streaming<TranscribeRequest>,
        outgoing: &Sender<Result<TranscribeResponse, Status>>,
        life: &Lifecycle,
    ) -> End {
        let mut tick = interval(ACKNOWLEDGE_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let draining = life.draining().is_cancelled();
            if draining && self.settle_is_done() {
                return End::Drained;
            }
            if self.stopped && self.is_done() {
                let end = self.heard();
                self.finals.close().await;
                let _ = outgoing.send(Ok(self.acknowledgement())).await;
                let ended = Outgoing::Ended(Ended { samples: end.0 });
                let _ = outgoing.send(Ok(TranscribeResponse { message: Some(ended) })).await;
                return End::Stopped;
            }
            let refused = self.refused.take().map(|refused| refused.to_string());
            if let Some(message) = refused.or_else(|| self.finals.unserved()) {
                let message = wire::Unserved { message };
                // A source that does not read asks again, or does not care.
                let _ =
                    outgoing.try_send(Ok(TranscribeResponse { message: Some(Outgoing::Unserved(message)) }));
            }
            while let Some(traced) = self.traces.untold() {
                // It may be missed: the trace begins later then.
                let _ = outgoing.try_send(Ok(TranscribeResponse { message: Some(Outgoing::Traced(traced)) }));
            }
            let engine = self.hearing.engine();
            if self.engine_told != Some(engine) {
                self.meter.set_engine(engine);
                let told = outgoing.try_send(Ok(wire::to_hearing(engine, self.fallback.as_ref()))).is_ok();
                self.engine_told = told.then_some(engine);
            }
            let room = self.hearing.has_room() && self.heard() - self.acknowledged < WINDOW + WINDOW;
            tokio::select! {
                message = incoming.message(), if !self.stopped && !draining && room => match message {
                    Ok(Some(message)) => match self.accept(message).await {
                        Ok(()) => {}
                        Err(end) => return end,
                    },
                    Ok(None) | Err(_) => return End::Lost,
                },
                () = outgoing.closed() => return End::Lost,
                progress = self.work() => match progress {
                    Ok(()) => {}
                    Err(end) => return end,
                },
                _ = tick.tick() => {
                    // A source that does not read is either gone or will ask again; it must not stop the work.
                    let _ = outgoing.try_send(Ok(self.acknowledgement()));
                    continue;
                }
                () = life.draining().cancelled(), if !draining => {}
            }
            let settled = self.settled();
            if settled > self.acknowledged {
                self.acknowledged = settled;
                self.traces.settled(settled);
                let _ = outgoing.try_send(Ok(self.acknowledgement()));
            }
        }
    }

    fn acknowledgement(&self) -> TranscribeResponse {
        let acknowledged = Acknowledged {
            samples: self.acknowledged.0,
            room: self.engines.room(),
            filtered: self.filter.filtered,
        };
        TranscribeResponse { message: Some(Outgoing::Acknowledged(acknowledged)) }
    }

    /// Finishes what a lost call left: closed utterances at once, the open one when its source stays away.
    async fn linger(&mut self, patience: Duration, life: &Lifecycle) {
        let mut patience = Box::pin(tokio::time::sleep(patience));
        while !self.is_done() {
            tokio::select! {
                () = &mut patience, if !self.stopped => self.end(),
                () = life.draining().cancelled(), if !self.stopped => self.end(),
                progress = self.work() => if progress.is_err() { return },
            }
        }
        self.finals.close().await;
    }

    async fn accept(&mut self, message: TranscribeRequest) -> Result<(), End> {
        match message.message {
            Some(Incoming::Audio(audio)) => {
                self.hear(wire::from_audio(&audio).map_err(End::Refused)?).await?
            }
            Some(Incoming::Finalize(_)) => self.hearing.finalize(),
            Some(Incoming::Stop(_)) => self.end(),
            Some(Incoming::Speak(speak)) => {
                wire::check_language(&speak.language).map_err(End::Refused)?;
                self.refused = self.hearing.speak(&speak.language).err().or(self.refused.take());
            }
            Some(Incoming::Open(_)) => return Err(End::Refused(WireError::Order("open may come only once"))),
            // A kind of message that this version does not know.
            None => {}
        }
        Ok(())
    }

    /// Hears a frame at its place: what is known already is skipped, what is missing is silence. A gap longer than
    /// the window is what a source that cannot wait has lost while Postgres was away or the engines were behind.
    async fn hear(&mut self, frame: PcmFrame) -> Result<(), End> {
        let heard = self.heard();
        let known = usize::try_from((heard - frame.start).0).unwrap_or(usize::MAX);
        let missing = frame.start - heard;
        if missing > SKIP_MAX {
            return Err(End::Refused(WireError::Order("audio must not skip more than a day")));
        }
        let new = frame.samples.get(known..).unwrap_or_default();
        if new.is_empty() {
            return Ok(());
        }
        let silence = if missing > WINDOW {
            self.hearing.skip_to(frame.start);
            0
        } else {
            usize::try_from(missing.0).unwrap_or(0)
        };
        let mut samples = vec![0; silence];
        samples.extend_from_slice(new);
        metrics::counter!(AUDIO_MS_TOTAL).increment(Samples::of(new.len()).millis());
        self.traces.came(frame.start.max(heard), frame.end());
        self.filter.hear(new, self.clock.now());
        self.meter.hear(Samples::of(new.len()), frame.end());
        self.hearing.hear(samples).await.map_err(|_| End::Defect)
    }

    fn end(&mut self) {
        self.stopped = true;
        self.hearing.end();
    }

    /// Waits for the next thing that the engines or Postgres have finished. Cancel-safe.
    async fn work(&mut self) -> Result<(), End> {
        let stores = self.finals.next_end();
        let metered = self.meter.metered();
        // A final is stored only after the sound it covers was metered, which a worker that dies has no time for later.
        let needed = if self.stopped { self.heard() } else { stores.unwrap_or_default() };
        let (attributes, open_since) = (self.unattributed.is_some(), self.hearing.open_since());
        self.watch_turns(open_since);
        tokio::select! {
            speaker = attributed(&mut self.unattributed) => {
                let told = self.unattributed.take();
                if let (Some(told), Some(speaker)) = (told, speaker) {
                    self.pin(&told.spoken, &speaker);
                    self.publish(told.spoken, told.settled, speaker);
                }
                Ok(())
            }
            heard = self.hearing.next(), if !attributes => match heard {
                Heard::Spoken(spoken, settled) => {
                    self.say(spoken, settled);
                    Ok(())
                }
                Heard::Settled => Ok(()),
                Heard::Translated(number, text) => {
                    self.finals.translated(number, text);
                    Ok(())
                }
                Heard::FellBack(why) => {
                    tracing::warn!(stream = %self.source.stream, reason = why.reason, "Gladia has failed; the embedded engine goes on");
                    (self.fallback, self.engine_told) = (Some(why), None);
                    Ok(())
                }
                Heard::Defect => Err(End::Defect),
            },
            turns = looked(&mut self.turns) => {
                self.turns = None;
                self.turn(turns);
                Ok(())
            }
            stored = self.finals.store_next(), if stores.is_some_and(|end| metered >= end) => {
                stored.map_err(|_| End::TakenOver)
            }
            metered = self.meter.write(needed) => metered.map_err(|_| End::TakenOver),
        }
    }

    /// Something was said: at once, when it is known by whom.
    fn say(&mut self, spoken: Spoken, settled: Samples) {
        let Some(spoken) = self.judge(spoken) else { return };
        let known = match (&self.speakers, &spoken) {
            (Some(speakers), Spoken::Partial { number, .. } | Spoken::Final { number, revision: 0, .. }) => {
                speakers.pinned(*number).cloned()
            }
            _ => Some(self.source.speaker.clone()),
        };
        match known {
            Some(speaker) => self.publish(spoken, settled, speaker),
            None => self.unattributed = self.attribute(spoken, settled),
        }
    }

    /// What is left of it after the rules for texts.
    fn judge(&mut self, spoken: Spoken) -> Option<Spoken> {
        let (verdict, number, start, end) = match &spoken {
            Spoken::Partial { text, number, start, end, .. } if !text.is_empty() => {
                (Filter::partial(text), *number, *start, *end)
            }
            Spoken::Final { text, number, start, end, .. } => {
                (self.filter.finish(text, self.clock.now()), *number, *start, *end)
            }
            _ => return Some(spoken),
        };
        let is_final = matches!(spoken, Spoken::Final { .. });
        let outcome = match verdict {
            Verdict::Said => return Some(spoken),
            Verdict::Blank => "blank",
            Verdict::Hallucination => "hallucination",
        };
        if !is_final {
            return None;
        }
        metrics::counter!(UTTERANCES_TOTAL, "outcome" => outcome).increment(1);
        // What was shown of it is taken back.
        let (text, stable, language) = (String::new(), 0, None);
        (self.shown == Some(number)).then_some(Spoken::Partial { number, text, stable, language, start, end })
    }

    /// Asks whose it is.
    fn attribute(&self, spoken: Spoken, settled: Samples) -> Option<Unattributed> {
        let (speakers, now) = (self.speakers.as_ref()?, self.clock.now());
        let speaker: Lookup<Option<Speaker>> = match &spoken {
            Spoken::Final { start, end, .. } => {
                let (turns, start, end) = (speakers.turns().clone(), *start, *end);
                Box::pin(async move {
                    loop {
                        match turns.look(start, end, now).await {
                            Ok(speaker) => return Some(speaker),
                            Err(error) => tracing::warn!(%error, "ask who spoke; trying again"),
                        }
                        tokio::time::sleep(SPEAKER_RETRY).await;
                    }
                })
            }
            Spoken::Partial { start, .. } => {
                let looking = speakers.turns().look(*start, self.heard(), now);
                // Text of an open utterance may be dropped.
                Box::pin(async move { looking.await.ok() })
            }
            Spoken::Nothing { .. } | Spoken::Lost { .. } => return None,
        };
        Some(Unattributed { spoken, settled, speaker })
    }

    /// The utterance stays this speaker's until its final.
    fn pin(&mut self, spoken: &Spoken, speaker: &Speaker) {
        if let (Some(speakers), Spoken::Partial { number, .. }) = (&mut self.speakers, spoken) {
            speakers.pin(*number, speaker.clone());
        }
    }

    /// Looks now and then who has begun to speak since the open utterance of a room did.
    fn watch_turns(&mut self, open_since: Option<Samples>) {
        let (Some(speakers), Some(since), None) = (&self.speakers, open_since, &self.turns) else { return };
        let looking = speakers.turns().changes(since.max(self.turned), self.heard());
        self.turns = Some(Box::pin(async move {
            tokio::time::sleep(TURN_LOOK).await;
            looking.await
        }));
    }

    /// Where somebody else begins to speak, another utterance does.
    fn turn(&mut self, turns: Turned) {
        let Ok(turns) = turns else { return };
        for (position, speaker) in turns {
            let number = self.shown.unwrap_or_default();
            let pinned = self.speakers.as_ref().and_then(|speakers| speakers.pinned(number));
            if pinned.is_none_or(|pinned| pinned.identity != speaker.identity) {
                self.hearing.cut_near(position);
            }
            self.turned = self.turned.max(position);
        }
    }

    fn publish(&mut self, spoken: Spoken, settled: Samples, speaker: Speaker) {
        let outcome = match spoken {
            Spoken::Partial { number, text, stable, language, start, end } => {
                self.shown = (!text.is_empty()).then_some(number);
                if text.is_empty() {
                    self.release(number);
                }
                self.partials.publish(Partial {
                    session: self.source.session.clone(),
                    utterance: UtteranceId::Heard { stream: self.source.stream, number },
                    speaker,
                    text,
                    stable,
                    language,
                    start,
                    end,
                    at: self.clock.now(),
                    outside: None,
                });
                return;
            }
            Spoken::Final { number, revision: 0, text, words, language, start, end, .. } => {
                self.release(number);
                let decoded = self.hearing.decoded();
                let trace = self.traces.utterance((start, end), self.hearing.engine(), decoded);
                let utterance = Utterance { number, speaker, text, words, language, start, end, trace };
                self.finals.push(utterance, settled);
                "final"
            }
            Spoken::Final { number, text, language, .. } => {
                self.finals.correct(number, text, language, settled);
                "corrected"
            }
            Spoken::Nothing { .. } => "empty",
            Spoken::Lost { start, end, error } => {
                tracing::error!(stream = %self.source.stream, %start, %end, %error, "an utterance could not be decoded");
                "lost"
            }
        };
        metrics::counter!(UTTERANCES_TOTAL, "outcome" => outcome).increment(1);
    }

    fn release(&mut self, number: u32) {
        if let Some(speakers) = &mut self.speakers {
            speakers.release(number);
        }
    }

    fn heard(&self) -> Samples {
        self.hearing.heard().unwrap_or(self.acknowledged)
    }

    /// Audio before this needs no re-sending: it is silence or covered by stored finals, and metered.
    fn settled(&self) -> Samples {
        let told = self.finals.settled(self.hearing.settled().unwrap_or(self.acknowledged));
        let waiting = self.unattributed.as_ref().map_or(told, |waiting| waiting.settled.min(told));
        waiting.min(self.meter.metered())
    }

    /// Nobody speaks, everything is decoded, stored and metered.
    fn is_done(&self) -> bool {
        self.finals.is_empty() && self.unattributed.is_none() && self.hearing.idle() && self.meter.is_done()
    }

    /// Everything but an open utterance is decoded and stored: the rest can go to another worker.
    fn settle_is_done(&self) -> bool {
        self.finals.is_empty() && self.unattributed.is_none() && !self.hearing.awaits_final()
    }
}

/// Whose the text is that waits. Pending when none does. Cancel-safe.
async fn attributed(waiting: &mut Option<Unattributed>) -> Option<Speaker> {
    match waiting {
        Some(waiting) => waiting.speaker.as_mut().await,
        None => std::future::pending().await,
    }
}

/// What a look has found. Pending when nobody looks. Cancel-safe.
async fn looked<T>(looking: &mut Option<Lookup<T>>) -> T {
    match looking {
        Some(looking) => looking.as_mut().await,
        None => std::future::pending().await,
    }
}
