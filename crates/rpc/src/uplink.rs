//! One source's road to a worker: keeps what is not acknowledged, and finds another worker when one is lost.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use futures_util::stream;
use lifecycle::Lifecycle;
use model::{EngineName, Fallback, FaultKind, Samples, StreamState};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep_until},
};
use tonic::{Status, Streaming};

use crate::{
    AUDIO_SAMPLES_MAX, MESSAGES_WAITING_MAX, WINDOW, Workers,
    arrivals::Traces,
    trace,
    window::Window,
    wire::{self, Finalize, Request, Response, Source, Speak, Stop, TranscribeRequest, TranscribeResponse},
    workers::{Pick, Worker},
};

/// How long a worker may take to answer `open`.
const OPEN_LIMIT: Duration = Duration::from_secs(5);

/// A worker acknowledges once a second; one that is silent for so long while audio is outstanding is given up.
const SILENCE_LIMIT: Duration = Duration::from_secs(15);

/// Wait between attempts: doubles from the first to the last.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// How long a stopped stream keeps looking for a worker that finishes it.
const FINISH_LIMIT: Duration = Duration::from_secs(30);

/// Commands that wait inside the process. Each holds one message of the source, at most a second of sound.
const COMMANDS_WAITING_MAX: usize = 8;

/// What happens when the window is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// [`AudioUplink::send`] waits: for sources that can.
    Wait,
    /// The oldest audio is given up, counted and reported as [`UplinkEvent::Gap`]: for those that cannot.
    DropOldest,
}

/// News of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UplinkEvent {
    /// Whether a worker listens. `Stopped` is not sent: [`UplinkEvent::Ended`] and `Failed` say it.
    State(StreamState),
    /// Everything before this position needs no keeping. The newest counts; older ones may be left out.
    Acknowledged(Samples),
    /// Which engine listens, and why it is not the one before.
    Engine {
        /// The engine; `None` when this version does not know it.
        engine: Option<EngineName>,
        /// What failed before it.
        fallback: Option<Fallback>,
    },
    /// So many finals were taken for hallucinations and dropped since this was last told.
    Filtered(u32),
    /// What was asked for in mid-stream cannot be had; the text is for the user, and the stream goes on as it was.
    Unserved(String),
    /// Audio was given up.
    Gap {
        /// First sample that is lost.
        start: Samples,
        /// The sample after the last that is lost.
        end: Samples,
    },
    /// The stream could not go on. Nothing follows.
    Failed(UplinkError),
    /// The stream was stopped and all its finals are stored. Nothing follows.
    Ended(Samples),
}

/// Why a stream cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UplinkError {
    /// Every worker refused it for want of capacity.
    #[error("all transcription capacity is in use")]
    Busy {
        /// When to try again.
        retry_after: Duration,
    },
    /// Stopped, but no worker could be found to finish it.
    #[error("no transcription worker could be reached")]
    Unreachable,
    /// Another source has taken the stream over.
    #[error("the stream was continued elsewhere")]
    TakenOver,
    /// The user or the session has as many active streams as it may. The text is for the user.
    #[error("{0}")]
    LimitReached(String),
    /// Nobody serves the language; the text says who is served, for the user.
    #[error("{0}")]
    Unserved(String),
    /// A worker refused it for good. The text is the worker's, for logs.
    #[error("the transcription worker refused the stream")]
    Refused {
        /// Who must act.
        fault: FaultKind,
        /// What the worker said; not for clients.
        detail: String,
    },
    /// The service ends.
    #[error("the service is stopping")]
    Stopping,
}

impl UplinkError {
    /// Who must act.
    pub fn fault(&self) -> FaultKind {
        match self {
            Self::Busy { .. } => FaultKind::Overloaded,
            Self::Unreachable | Self::Stopping => FaultKind::Dependency,
            Self::TakenOver | Self::Unserved(_) => FaultKind::Caller,
            Self::LimitReached(_) => FaultKind::LimitReached,
            Self::Refused { fault, .. } => *fault,
        }
    }

    /// When the source may try again, if it may.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after } => Some(*retry_after),
            Self::Unreachable | Self::Stopping => Some(BACK_OFF.1),
            Self::TakenOver | Self::LimitReached(_) | Self::Unserved(_) | Self::Refused { .. } => None,
        }
    }
}

/// The uplink has ended; [`UplinkEvents`] says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the audio uplink has ended")]
pub struct UplinkClosed;

#[derive(Debug)]
enum Command {
    /// Sound, and when it came.
    Audio(Vec<i16>, SystemTime),
    GoOnAt(Samples),
    Finalize,
    Speak(String),
    Stop,
}

/// The sending half. Dropping it stops the stream: what was sent is finished and stored in the background.
#[derive(Debug)]
pub struct AudioUplink {
    commands: mpsc::Sender<Command>,
}

impl AudioUplink {
    /// Opens a stream at position 0. Returns at once; the first [`UplinkEvent::State`] says how it goes.
    pub fn open(
        workers: &Workers,
        life: &Lifecycle,
        source: Source,
        when_full: WhenFull,
    ) -> (Self, UplinkEvents) {
        Self::resume(workers, life, source, when_full, Samples(0))
    }

    /// Takes up a stream that another uplink, perhaps of another process, has carried: the sound that follows
    /// begins at `first`. Returns at once. What lies after `first` and is stored is passed over when it is sent
    /// again; [`UplinkEvent::Acknowledged`], before the first `Ready`, tells up to where that is.
    pub fn resume(
        workers: &Workers,
        life: &Lifecycle,
        source: Source,
        when_full: WhenFull,
        first: Samples,
    ) -> (Self, UplinkEvents) {
        let (commands, receiver) = mpsc::channel(COMMANDS_WAITING_MAX);
        let news = Arc::new(News::default());
        let driver = Driver {
            traces: Traces::new(workers.tracer(), source.stream),
            workers: workers.clone(),
            source,
            when_full,
            commands: receiver,
            news: news.clone(),
            window: Window::new(first, WINDOW),
            finalize_at: None,
            speak_at: None,
            stopped: None,
            state: None,
        };
        let stopping = life.stopping().clone();
        life.spawn(async move {
            let guard = EndGuard(driver.news.clone());
            let outcome = tokio::select! {
                outcome = driver.run() => outcome,
                () = stopping.cancelled() => UplinkEvent::Failed(UplinkError::Stopping),
            };
            guard.0.end(outcome);
        });
        (Self { commands }, UplinkEvents { news })
    }

    /// Sends sound: 16 kHz mono, right after what was sent before. With [`WhenFull::Wait`] it waits while the
    /// window is full. Cancel-safe only for one message: a cancelled call of more than a second of sound may have
    /// sent a part.
    ///
    /// # Errors
    /// The stream has ended.
    pub async fn send(&self, samples: &[i16]) -> Result<(), UplinkClosed> {
        let now = telemetry::now();
        for part in samples.chunks(AUDIO_SAMPLES_MAX) {
            self.command(Command::Audio(part.to_vec(), now)).await?;
        }
        Ok(())
    }

    /// The sound that follows begins at `position` of the stream: what lies between and is not stored is silence,
    /// at most [`WINDOW`] of it. A position from the past changes nothing.
    ///
    /// # Errors
    /// The stream has ended.
    pub async fn go_on_at(&self, position: Samples) -> Result<(), UplinkClosed> {
        self.command(Command::GoOnAt(position)).await
    }

    /// Ends the open utterance after what was sent so far.
    ///
    /// # Errors
    /// The stream has ended.
    pub async fn finalize(&self) -> Result<(), UplinkClosed> {
        self.command(Command::Finalize).await
    }

    /// From here on another language (BCP 47 or `auto`) is spoken. [`UplinkEvent::Unserved`] follows when nobody serves it.
    ///
    /// # Errors
    /// The stream has ended.
    pub async fn speak(&self, language: String) -> Result<(), UplinkClosed> {
        self.command(Command::Speak(language)).await
    }

    /// No more audio. [`UplinkEvent::Ended`] follows when everything is stored.
    ///
    /// # Errors
    /// The stream has ended.
    pub async fn stop(&self) -> Result<(), UplinkClosed> {
        self.command(Command::Stop).await
    }

    async fn command(&self, command: Command) -> Result<(), UplinkClosed> {
        self.commands.send(command).await.map_err(|_| UplinkClosed)
    }
}

/// The receiving half.
#[derive(Debug)]
pub struct UplinkEvents {
    news: Arc<News>,
}

impl UplinkEvents {
    /// Waits for news; `None` after the last. Cancel-safe.
    pub async fn next(&mut self) -> Option<UplinkEvent> {
        loop {
            let (event, over) = self.news.take();
            if event.is_some() || over {
                return event;
            }
            self.news.wake.notified().await;
        }
    }
}

/// Events on their way to the source. Never makes the driver wait: states and acknowledgements are overtaken by
/// newer ones, gaps that touch are merged.
#[derive(Debug, Default)]
struct News {
    board: Mutex<Board>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Board {
    states: VecDeque<StreamState>,
    acknowledged: Option<Samples>,
    gap: Option<(Samples, Samples)>,
    engine: Option<(Option<EngineName>, Option<Fallback>)>,
    filtered: u32,
    unserved: Option<String>,
    outcome: Option<UplinkEvent>,
    over: bool,
}

/// States that wait; beyond it the oldest is forgotten, the last is always told.
const STATES_WAITING_MAX: usize = 8;

impl News {
    fn post(&self, change: impl FnOnce(&mut Board)) {
        change(&mut self.board.lock().unwrap_or_else(PoisonError::into_inner));
        self.wake.notify_one();
    }

    fn state(&self, state: StreamState) {
        self.post(|board| {
            if board.states.len() >= STATES_WAITING_MAX {
                board.states.pop_front();
            }
            board.states.push_back(state);
        });
    }

    fn acknowledged(&self, position: Samples) {
        self.post(|board| board.acknowledged = Some(position));
    }

    fn engine(&self, engine: Option<EngineName>, fallback: Option<Fallback>) {
        self.post(|board| board.engine = Some((engine, fallback)));
    }

    fn unserved(&self, message: String) {
        self.post(|board| board.unserved = Some(message));
    }

    fn filtered(&self, count: u32) {
        self.post(|board| board.filtered = board.filtered.saturating_add(count));
    }

    fn gap(&self, start: Samples, end: Samples) {
        self.post(|board| {
            let start = board.gap.map_or(start, |(first, _)| first);
            board.gap = Some((start, end));
        });
    }

    fn end(&self, outcome: UplinkEvent) {
        self.post(|board| {
            if !board.over {
                board.outcome = Some(outcome);
                board.over = true;
            }
        });
    }

    /// The next event, and whether none will follow once there is none.
    fn take(&self) -> (Option<UplinkEvent>, bool) {
        let mut board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        // What a worker has stored is told before it is said to be ready.
        let event = board.acknowledged.take().map(UplinkEvent::Acknowledged);
        let event = event.or_else(|| board.states.pop_front().map(UplinkEvent::State));
        let engine = |(engine, fallback)| UplinkEvent::Engine { engine, fallback };
        let event = event.or_else(|| board.engine.take().map(engine));
        let event = event.or_else(|| match std::mem::take(&mut board.filtered) {
            0 => None,
            count => Some(UplinkEvent::Filtered(count)),
        });
        let event = event.or_else(|| board.unserved.take().map(UplinkEvent::Unserved));
        let event = event.or_else(|| board.gap.take().map(|(start, end)| UplinkEvent::Gap { start, end }));
        let event = event.or_else(|| board.outcome.take());
        (event, board.over)
    }
}

/// Tells the source even when the driver panics.
struct EndGuard(Arc<News>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.0.end(UplinkEvent::Failed(UplinkError::Refused {
            fault: FaultKind::Defect,
            detail: "the uplink's task ended".to_owned(),
        }));
    }
}

struct Driver {
    workers: Workers,
    source: Source,
    when_full: WhenFull,
    commands: mpsc::Receiver<Command>,
    news: Arc<News>,
    window: Window,
    traces: Traces,
    /// The utterance that is open at this position is to be ended there.
    finalize_at: Option<Samples>,
    /// Another language is to be told at this position.
    speak_at: Option<Samples>,
    /// Since when no more audio comes.
    stopped: Option<Instant>,
    /// The state that was last told.
    state: Option<StreamState>,
}

/// How one call to a worker went.
enum Call {
    Ended(Samples),
    /// Worth another attempt, with another worker first. `opened` tells whether this one had taken the stream.
    Lost {
        opened: bool,
    },
    /// It had no room.
    Busy(Duration),
    Over(UplinkError),
}

/// The two directions of an opened call.
struct Lines {
    up: mpsc::Sender<TranscribeRequest>,
    down: Streaming<TranscribeResponse>,
}

impl Driver {
    async fn run(mut self) -> UplinkEvent {
        let mut pause = BACK_OFF.0;
        let mut ever_opened = false;
        loop {
            self.tell(StreamState::Connecting);
            let next = match self.pick().await {
                // A stream that was accepted once is not turned away later: it goes on asking.
                Pick::Nobody { until, busy: true } if !ever_opened => {
                    let retry_after = until.saturating_duration_since(Instant::now());
                    return UplinkEvent::Failed(UplinkError::Busy { retry_after });
                }
                Pick::Nobody { until, .. } => until,
                Pick::Worker(worker) => match self.call(&worker).await {
                    Call::Ended(samples) => return UplinkEvent::Ended(samples),
                    Call::Over(error) => return UplinkEvent::Failed(error),
                    Call::Busy(retry_after) => {
                        worker.is_busy(retry_after);
                        // Others may have room: ask them at once.
                        continue;
                    }
                    Call::Lost { opened } => {
                        worker.is_away();
                        if opened {
                            (pause, ever_opened) = (BACK_OFF.0, true);
                            metrics::counter!(RECONNECTS_TOTAL).increment(1);
                        }
                        continue;
                    }
                },
            };
            if self.stopped.is_some_and(|since| since.elapsed() > FINISH_LIMIT) {
                return UplinkEvent::Failed(UplinkError::Unreachable);
            }
            self.listen_until(next.max(Instant::now() + pause)).await;
            pause = (pause * 2).min(BACK_OFF.1);
        }
    }

    fn tell(&mut self, state: StreamState) {
        if self.state.replace(state) != Some(state) {
            self.news.state(state);
        }
    }

    /// Asks for a worker, and takes the source's audio while names are looked up.
    async fn pick(&mut self) -> Pick {
        let workers = self.workers.clone();
        let picking = workers.pick();
        tokio::pin!(picking);
        loop {
            let wants = self.wants_commands();
            tokio::select! {
                pick = &mut picking => return pick,
                command = self.commands.recv(), if wants => self.accept(command),
            }
        }
    }

    /// Takes the source's audio while there is no worker to send it to.
    async fn listen_until(&mut self, deadline: Instant) {
        loop {
            let wants = self.wants_commands();
            tokio::select! {
                () = sleep_until(deadline) => return,
                command = self.commands.recv(), if wants => self.accept(command),
            }
        }
    }

    fn wants_commands(&self) -> bool {
        self.stopped.is_none() && (self.when_full == WhenFull::DropOldest || !self.window.is_full())
    }

    fn accept(&mut self, command: Option<Command>) {
        match command {
            Some(Command::Audio(samples, at)) => {
                let before = self.window.end();
                self.window.push(&samples);
                self.traces.came(before, self.window.end(), at);
                self.make_room();
            }
            Some(Command::GoOnAt(position)) => {
                self.window.go_on_at(position);
                self.make_room();
            }
            Some(Command::Finalize) => self.finalize_at = Some(self.window.end()),
            Some(Command::Speak(language)) => {
                self.source.language = Some(language);
                self.speak_at = Some(self.window.end());
            }
            Some(Command::Stop) | None => self.stopped = Some(Instant::now()),
        }
    }

    fn make_room(&mut self) {
        let gap = match self.when_full {
            WhenFull::Wait => None,
            WhenFull::DropOldest => self.window.give_up_oldest(),
        };
        if let Some((start, end)) = gap {
            metrics::counter!(GAP_SAMPLES_TOTAL).increment((end - start).0);
            self.news.gap(start, end);
        }
    }

    async fn call(&mut self, worker: &Worker) -> Call {
        let lines = match self.open(worker).await {
            Ok(lines) => lines,
            Err(call) => return call,
        };
        self.tell(StreamState::Ready);
        self.transfer(worker, lines).await
    }

    /// Offers the stream to a worker, and takes the source's audio meanwhile.
    async fn open(&mut self, worker: &Worker) -> Result<Lines, Call> {
        let mut client = worker.client();
        let (up, outgoing) = mpsc::channel(MESSAGES_WAITING_MAX);
        // The channel was just made and has room.
        let _ = up.try_send(self.source.to_open(self.window.start()));
        let outgoing = stream::unfold(outgoing, |mut outgoing| async move {
            outgoing.recv().await.map(|message| (message, outgoing))
        });
        let mut request = self.workers.request(outgoing);
        trace::carry(&mut request, self.traces.context());
        let opening = async move {
            let mut down = client.transcribe(request).await?.into_inner();
            let first = down.message().await?;
            Ok::<_, Status>((first, down))
        };
        tokio::pin!(opening);
        let deadline = Instant::now() + OPEN_LIMIT;
        let opened = loop {
            let wants = self.wants_commands();
            tokio::select! {
                opened = &mut opening => break opened,
                () = sleep_until(deadline) => return Err(Call::Lost { opened: false }),
                command = self.commands.recv(), if wants => self.accept(command),
            }
        };
        match opened {
            Ok((Some(TranscribeResponse { message: Some(Response::Opened(opened)) }), down)) => {
                worker.has_room(opened.room);
                let before = self.window.start();
                self.window.resume(Samples(opened.resume_at));
                if self.window.start() > before {
                    self.news.acknowledged(self.window.start());
                }
                Ok(Lines { up, down })
            }
            Ok(_) => Err(Call::Lost { opened: false }),
            Err(status) => Err(lost(&status, false)),
        }
    }

    async fn transfer(&mut self, worker: &Worker, Lines { up, mut down }: Lines) -> Call {
        let mut stop_sent = false;
        let mut filtered = 0;
        let mut heard = Instant::now();
        loop {
            self.window.pass_silence();
            let unsent = self.window.sent() < self.window.end();
            let finalize_due = self.finalize_at.is_some_and(|at| at <= self.window.sent());
            let speak_due = self.speak_at.is_some_and(|at| at <= self.window.sent());
            let stop_due = self.stopped.is_some() && !unsent && !finalize_due && !speak_due && !stop_sent;
            let outstanding = self.window.start() < self.window.sent() || stop_sent;
            let wants = self.wants_commands();
            tokio::select! {
                biased;
                response = down.message() => {
                    heard = Instant::now();
                    match response {
                        Ok(Some(TranscribeResponse { message: Some(Response::Acknowledged(ack)) })) => {
                            worker.has_room(ack.room);
                            if self.window.acknowledge(Samples(ack.samples)) {
                                self.traces.settled(self.window.start());
                                self.news.acknowledged(self.window.start());
                            }
                            if ack.filtered > filtered {
                                self.news.filtered(ack.filtered - filtered);
                                filtered = ack.filtered;
                            }
                        }
                        Ok(Some(TranscribeResponse { message: Some(Response::Hearing(hearing)) })) => {
                            let (engine, fallback) = wire::from_hearing(hearing);
                            self.news.engine(engine, fallback);
                        }
                        Ok(Some(TranscribeResponse { message: Some(Response::Unserved(unserved)) })) => {
                            self.news.unserved(unserved.message);
                        }
                        Ok(Some(TranscribeResponse { message: Some(Response::Traced(traced)) })) => {
                            self.traces.traced(&traced);
                        }
                        Ok(Some(TranscribeResponse { message: Some(Response::Ended(ended)) })) if stop_sent => {
                            self.news.acknowledged(self.window.end());
                            return Call::Ended(Samples(ended.samples));
                        }
                        // A kind of message that this version does not know.
                        Ok(Some(TranscribeResponse { message: None })) => {}
                        Ok(_) => return Call::Lost { opened: true },
                        Err(status) => return lost(&status, true),
                    }
                }
                permit = up.reserve(), if unsent || finalize_due || speak_due || stop_due => {
                    let Ok(permit) = permit else { return reason(&mut down).await };
                    if !outstanding {
                        // Nothing was asked of the worker until now, so its silence meant nothing.
                        heard = Instant::now();
                    }
                    if finalize_due {
                        self.finalize_at = None;
                        permit.send(TranscribeRequest { message: Some(Request::Finalize(Finalize {})) });
                    } else if speak_due {
                        self.speak_at = None;
                        let language = self.source.language.clone().unwrap_or_default();
                        permit.send(TranscribeRequest { message: Some(Request::Speak(Speak { language })) });
                    } else if let Some((start, samples)) = self.window.next_unsent() {
                        self.traces.left(start, start + Samples::of(samples.len()));
                        permit.send(wire::to_audio(start, samples));
                    } else {
                        stop_sent = true;
                        permit.send(TranscribeRequest { message: Some(Request::Stop(Stop {})) });
                    }
                }
                command = self.commands.recv(), if wants => self.accept(command),
                () = sleep_until(heard + SILENCE_LIMIT), if outstanding => {
                    tracing::warn!(stream = %self.source.stream, "the worker is silent; looking for another");
                    return Call::Lost { opened: true };
                }
            }
        }
    }
}

/// The worker has closed our direction; its status says why.
async fn reason(down: &mut Streaming<TranscribeResponse>) -> Call {
    match tokio::time::timeout(OPEN_LIMIT, down.message()).await {
        Ok(Err(status)) => lost(&status, true),
        _ => Call::Lost { opened: true },
    }
}

fn lost(status: &Status, opened: bool) -> Call {
    use tonic::Code;
    match status.code() {
        Code::ResourceExhausted => Call::Busy(wire::retry_after(status).unwrap_or(BACK_OFF.1)),
        Code::Aborted => Call::Over(UplinkError::TakenOver),
        Code::OutOfRange => Call::Over(UplinkError::Unserved(status.message().to_owned())),
        Code::FailedPrecondition => Call::Over(UplinkError::LimitReached(status.message().to_owned())),
        Code::InvalidArgument | Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented => {
            tracing::error!(code = ?status.code(), detail = status.message(), "the worker refused a stream");
            let fault = match status.code() {
                // Our own services disagree; the client of this stream can do nothing about it.
                Code::Unauthenticated | Code::Unimplemented | Code::InvalidArgument => FaultKind::Defect,
                _ => wire::fault(status),
            };
            Call::Over(UplinkError::Refused { fault, detail: status.message().to_owned() })
        }
        code => {
            tracing::info!(?code, detail = status.message(), "a worker was lost; looking for another");
            Call::Lost { opened }
        }
    }
}

/// Calls to workers that ended early and were made again.
const RECONNECTS_TOTAL: &str = "uplink_reconnects_total";
/// Samples that sources which cannot wait have lost.
const GAP_SAMPLES_TOTAL: &str = "uplink_gap_samples_total";

/// Registers the uplink's metrics at zero.
pub fn register_metrics() {
    metrics::describe_counter!(RECONNECTS_TOTAL, "Calls to workers that ended early and were made again");
    metrics::describe_counter!(
        GAP_SAMPLES_TOTAL,
        "Samples (16 kHz) that sources which cannot wait have lost"
    );
    metrics::counter!(RECONNECTS_TOTAL).absolute(0);
    metrics::counter!(GAP_SAMPLES_TOTAL).absolute(0);
}
