//! One stream: audio in, decodes out to the engines, words out to finals and partials.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use lifecycle::Lifecycle;
use model::{Clock, Partial, PcmFrame, Samples, UtteranceId};
use rpc::{
    Source, WINDOW, WireError,
    wire::{
        self, Acknowledged, Ended, Request as Incoming, Response as Outgoing, TranscribeRequest,
        TranscribeResponse,
    },
};
use speech::{Answer, Listener, ListenerSettings, Spoken};
use tokio::{
    sync::mpsc::Sender,
    time::{MissedTickBehavior, interval},
};
use tonic::{Status, Streaming};

use crate::{
    capacity::Capacity,
    finals::{Finals, Utterance},
    partials::Partials,
    service::Ownership,
};

/// How often an unmoved acknowledgement is repeated, so that the source knows that we live.
const ACKNOWLEDGE_INTERVAL: Duration = Duration::from_secs(1);

/// Longest gap in the audio of a stream; a longer one is a position that went wrong.
const SKIP_MAX: Samples = Samples::from_millis(24 * 3_600 * 1_000);

/// Silence that ends an utterance, unless the source says.
const ENDPOINTING: Duration = Duration::from_millis(500);

/// Audio heard, in milliseconds.
const AUDIO_MS_TOTAL: &str = "worker_audio_ms_total";
/// Utterances by what became of them.
const UTTERANCES_TOTAL: &str = "worker_utterances_total";
/// Values of the label `outcome`.
const OUTCOMES: [&str; 3] = ["final", "empty", "lost"];

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

pub(crate) struct StreamTask {
    source: Source,
    listener: Option<Box<Listener>>,
    finals: Finals,
    partials: Partials,
    capacity: Capacity,
    clock: Clock,
    answer: Option<Answer>,
    acknowledged: Samples,
    stopped: bool,
}

impl StreamTask {
    pub(crate) fn new(
        source: Source,
        resume_at: Samples,
        next_utterance: u32,
        finals: Finals,
        partials: Partials,
        capacity: Capacity,
        clock: Clock,
    ) -> Self {
        let settings = ListenerSettings {
            endpointing: source
                .endpointing_ms
                .map_or(ENDPOINTING, |millis| Duration::from_millis(millis.into())),
            partials: source.partials,
            first: resume_at,
            next_number: next_utterance,
            ..ListenerSettings::default()
        };
        let listener = Some(Box::new(Listener::new(settings)));
        Self {
            source,
            listener,
            finals,
            partials,
            capacity,
            clock,
            answer: None,
            acknowledged: resume_at,
            stopped: false,
        }
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
                let ended = Outgoing::Ended(Ended { samples: end.0 });
                let _ = outgoing.send(Ok(TranscribeResponse { message: Some(ended) })).await;
                return End::Stopped;
            }
            let room = self.heard() - self.acknowledged < WINDOW + WINDOW;
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
                let _ = outgoing.try_send(Ok(self.acknowledgement()));
            }
        }
    }

    fn acknowledgement(&self) -> TranscribeResponse {
        let acknowledged =
            Acknowledged { samples: self.acknowledged.0, room: self.capacity.room(), filtered: 0 };
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
            Some(Incoming::Finalize(_)) => {
                if let Some(listener) = &mut self.listener {
                    listener.finalize();
                }
                self.ask();
            }
            Some(Incoming::Stop(_)) => self.end(),
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
            self.listener.as_mut().ok_or(End::Defect)?.skip_to(frame.start);
            0
        } else {
            usize::try_from(missing.0).unwrap_or(0)
        };
        let mut samples = vec![0; silence];
        samples.extend_from_slice(new);
        metrics::counter!(AUDIO_MS_TOTAL).increment(Samples::of(samples.len()).millis());
        for second in samples.chunks(rpc::AUDIO_SAMPLES_MAX) {
            let (second, mut listener) = (second.to_vec(), self.listener.take().ok_or(End::Defect)?);
            let heard = tokio::task::spawn_blocking(move || {
                listener.hear(&second);
                listener
            });
            self.listener = Some(heard.await.map_err(|_| End::Defect)?);
            self.ask();
        }
        Ok(())
    }

    fn end(&mut self) {
        self.stopped = true;
        if let Some(listener) = &mut self.listener {
            listener.end();
        }
        self.ask();
    }

    /// Gives the engines what should be decoded next.
    fn ask(&mut self) {
        if let Some(decode) = self.listener.as_mut().and_then(|listener| listener.next(Instant::now())) {
            self.answer = Some(self.capacity.engines().submit(decode));
        }
    }

    /// Waits for the next thing that the engines or Postgres have finished. Cancel-safe.
    async fn work(&mut self) -> Result<(), End> {
        tokio::select! {
            (ticket, result) = awaited(&mut self.answer) => {
                self.answer = None;
                let Some(listener) = &mut self.listener else { return Err(End::Defect) };
                let settled = listener.settled();
                let spoken = listener.decoded(ticket, result, Instant::now());
                if let Some(spoken) = spoken {
                    self.publish(spoken, settled);
                }
                self.ask();
                Ok(())
            }
            stored = self.finals.store_next() => stored.map_err(|_| End::TakenOver),
        }
    }

    fn publish(&mut self, spoken: Spoken, settled: Samples) {
        let outcome = match spoken {
            Spoken::Partial { number, text, stable, language, start, end } => {
                self.partials.publish(Partial {
                    session: self.source.session.clone(),
                    utterance: UtteranceId::Heard { stream: self.source.stream, number },
                    speaker: self.source.speaker.clone(),
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
            Spoken::Final { number, text, words, start, end, .. } => {
                self.finals.push(Utterance { number, text, words, start, end }, settled);
                "final"
            }
            Spoken::Nothing { .. } => "empty",
            Spoken::Lost { start, end, error } => {
                tracing::error!(stream = %self.source.stream, %start, %end, %error, "an utterance could not be decoded");
                "lost"
            }
        };
        metrics::counter!(UTTERANCES_TOTAL, "outcome" => outcome).increment(1);
    }

    fn heard(&self) -> Samples {
        self.listener.as_ref().map_or(self.acknowledged, |listener| listener.heard())
    }

    fn settled(&self) -> Samples {
        self.finals.settled(self.listener.as_ref().map_or(self.acknowledged, |listener| listener.settled()))
    }

    /// Nobody speaks, everything is decoded and stored.
    fn is_done(&self) -> bool {
        self.finals.is_empty() && self.listener.as_ref().is_none_or(|listener| listener.idle())
    }

    /// Everything but an open utterance is decoded and stored: the rest can go to another worker.
    fn settle_is_done(&self) -> bool {
        self.finals.is_empty() && self.listener.as_ref().is_none_or(|listener| !listener.awaits_final())
    }
}

/// The answer when there is one to wait for. Cancel-safe: it stays where it is.
async fn awaited(answer: &mut Option<Answer>) -> <Answer as Future>::Output {
    match answer {
        Some(answer) => answer.await,
        None => std::future::pending().await,
    }
}
