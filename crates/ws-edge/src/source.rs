//! The audio of one connection on its way to a worker: messages in order, decoded off the async threads, into the
//! uplink. Runs as its own task, so that what a socket delivered before it died is finished.

use std::{sync::Arc, time::Duration};

use audio::{AudioError, Decoder, Format};
use bytes::Bytes;
use model::{EngineName, FaultKind, Samples, StreamId, StreamState, StreamStatus};
use rpc::{AudioUplink, UplinkClosed, UplinkError, UplinkEvent, UplinkEvents, WhenFull};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};

use crate::{
    Edge,
    desk::{Commanded, Desk, Seat, Sitting},
};

/// Commands that wait to be decoded; a connection whose queue is full is not read. At most 8 MiB.
const COMMANDS_WAITING_MAX: usize = 8;

/// News that wait for the connection. Acknowledgements that find no room are left out: the next says more.
pub(crate) const REPORTS_WAITING_MAX: usize = 16;

/// Losses are told and logged once in so long, together.
const LOSSES_INTERVAL: Duration = Duration::from_secs(1);

/// When a client may resume a stream that another edge had meanwhile.
const OUTRUN_RETRY_AFTER: Duration = Duration::from_millis(100);

/// Messages decoded in one go when several wait.
const BATCH_MAX: usize = 8;

/// What a connection asks of its source.
pub(crate) enum Command {
    Audio(Bytes),
    Finalize,
    /// From here on another language (BCP 47 or `auto`) is spoken.
    Speak(String),
    /// A new socket goes on with the stream; its audio is a new beginning to the decoder.
    Continue {
        format: Format,
        at: At,
        /// Told up to where audio had come.
        received: oneshot::Sender<Samples>,
    },
    /// No more audio.
    Stop,
}

/// Where in the stream the audio of a new socket begins.
#[derive(Debug, Clone, Copy)]
pub(crate) enum At {
    /// Here. What had come beyond it comes again and is passed over.
    Position(Samples),
    /// So long after what had come. Between is silence.
    After(Samples),
}

/// What a source tells its connection.
pub(crate) enum Report {
    Acknowledged(Samples),
    /// So much sound between two positions was given up.
    Gap {
        lost: Samples,
        start: Samples,
        end: Samples,
    },
    /// What was asked for in mid-stream cannot be had; the text is for the user.
    Unserved(String),
    /// The bytes are not the sound that they claim to be. What came before is finished.
    Undecodable(AudioError),
    /// Nothing more will be taken; nothing follows.
    Failed {
        fault: FaultKind,
        message: String,
        retry_after: Option<Duration>,
    },
    /// Another socket has taken the stream; nothing follows.
    Elsewhere,
    /// Everything is stored; nothing follows.
    Ended(Samples),
}

/// What a connection waits for from its source.
pub(crate) enum Next {
    /// News; `None` after the last.
    Report(Option<Report>),
    /// There is room for a command.
    Room,
}

/// A connection's end of its source. When it is dropped the source waits for the next socket.
pub(crate) struct Source {
    pub(crate) stream: StreamId,
    edge: Arc<Edge>,
    seat: Seat,
}

impl Source {
    /// Opens a stream, or goes on with one that another edge has carried, at `first`.
    pub(crate) fn open(
        edge: &Arc<Edge>,
        source: rpc::Source,
        format: Format,
        when_full: WhenFull,
        first: Samples,
    ) -> Self {
        let (commands, commanded) = mpsc::channel(COMMANDS_WAITING_MAX);
        let seat = edge.desks.set_up(&source, when_full == WhenFull::Wait, first, commands);
        let task = run(edge.clone(), source, format, when_full, first, commanded, seat.desk.clone());
        edge.life.spawn(edge.desks.tasks.track_future(task));
        Self::at(edge, seat)
    }

    /// Goes on with a stream of this edge.
    pub(crate) fn at(edge: &Arc<Edge>, seat: Seat) -> Self {
        Self { stream: seat.desk.stream, edge: edge.clone(), seat }
    }

    /// Hands on a command, or gives it back when the queue is full. A source that has ended takes everything: its
    /// last report says why.
    pub(crate) fn command(&self, command: Command) -> Result<(), Command> {
        match self.seat.commands.try_send((self.seat.sitting, command, Instant::now())) {
            Err(mpsc::error::TrySendError::Full((_, command, _))) => Err(command),
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        }
    }

    /// Hands on the last commands of a connection that is gone, however long there is no room for them.
    pub(crate) async fn deliver(self: Box<Self>, commands: Vec<Command>) {
        for command in commands {
            let _ = self.seat.commands.send((self.seat.sitting, command, Instant::now())).await;
        }
    }

    /// Begins to finish: no other socket may take the stream.
    pub(crate) fn stops(&self) {
        self.edge.desks.stop(&self.seat.desk, self.seat.sitting);
    }

    /// Waits until a worker has taken the stream: up to where its audio needs no re-sending, or why none did.
    pub(crate) async fn opened(&mut self) -> Result<Samples, Report> {
        let Seat { desk, reports, .. } = &mut self.seat;
        loop {
            tokio::select! {
                biased;
                report = reports.recv() => match report {
                    Some(Report::Acknowledged(_) | Report::Gap { .. } | Report::Unserved(_)) => {}
                    Some(report) => return Err(report),
                    None => return Err(Report::Elsewhere),
                },
                () = desk.opened() => return Ok(desk.acknowledged()),
            }
        }
    }

    /// Up to where audio needs no re-sending.
    pub(crate) fn acknowledged(&self) -> Samples {
        self.seat.desk.acknowledged()
    }

    /// Says where the audio of this socket begins, and waits until all that came before is dealt with: up to where
    /// that was. `None` when the source has ended.
    pub(crate) async fn go_on(&self, format: Format, at: At) -> Option<Samples> {
        self.begin(format, at).await?.await.ok()
    }

    /// As [`Source::go_on`], without waiting for what came before.
    pub(crate) async fn begin(&self, format: Format, at: At) -> Option<oneshot::Receiver<Samples>> {
        let (received, told) = oneshot::channel();
        let command = Command::Continue { format, at, received };
        self.seat.commands.send((self.seat.sitting, command, Instant::now())).await.ok()?;
        Some(told)
    }

    /// Waits for news or, if `wants_room`, for room for a command. Cancel-safe.
    pub(crate) async fn next(&mut self, wants_room: bool) -> Next {
        let Seat { desk, sitting, commands, reports } = &mut self.seat;
        tokio::select! {
            biased;
            report = reports.recv() => match report {
                None if !desk.is_held_by(*sitting) => Next::Report(Some(Report::Elsewhere)),
                report => Next::Report(report),
            },
            _ = commands.reserve(), if wants_room => Next::Room,
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.edge.desks.leave(&self.seat.desk, self.seat.sitting);
    }
}

async fn run(
    edge: Arc<Edge>,
    source: rpc::Source,
    format: Format,
    when_full: WhenFull,
    first: Samples,
    commands: mpsc::Receiver<Commanded>,
    desk: Arc<Desk>,
) {
    let _open = edge.tally.stream();
    let _clear = Clear(&edge, &desk);
    let (status, followed) = watch::channel(StreamStatus {
        session: source.session.clone(),
        stream: source.stream,
        state: StreamState::Connecting,
        engine: None,
        fallback: None,
        at: edge.clock.now(),
    });
    tracing::info!(stream = %short(source.stream), encoding = %format.encoding, at = %first, "stream opened");
    let (uplink, events) = AudioUplink::resume(&edge.workers, &edge.life, source, when_full, first);
    let decoder = Some(Box::new(Decoder::new(format)));
    let intake = Intake { uplink, decoder, received: first, known: Samples(0) };
    let carry = async {
        tokio::select! {
            () = hear(&edge, events, &desk, status) => {}
            // The uplink goes on after the last command; what it says is heard beside this.
            () = async {
                tokio::join!(send(&edge, intake, commands, &desk), desk.watch(&edge));
            } => {}
        }
    };
    let told = edge.bus.tell_state(followed, edge.settings.ping_interval, &edge.clock);
    tokio::join!(carry, told);
}

/// Clears a desk even when its task panics.
struct Clear<'a>(&'a Edge, &'a Arc<Desk>);

impl Drop for Clear<'_> {
    fn drop(&mut self) {
        self.0.desks.clear(self.1);
    }
}

/// The first digits of a stream id: enough to find it again in logs.
fn short(stream: StreamId) -> String {
    let mut text = stream.to_string();
    text.truncate(8);
    text
}

/// Where messages become sound, and how far the stream has come.
struct Intake {
    uplink: AudioUplink,
    /// Away while it works on a thread of its own.
    decoder: Option<Box<Decoder>>,
    /// Up to where audio has come.
    received: Samples,
    /// So much of what comes next has come before.
    known: Samples,
}

/// Why an intake takes nothing more.
enum Shut {
    /// The uplink has said why.
    Uplink,
    /// The decoder has panicked, which the hook has logged.
    Defect,
}

impl From<UplinkClosed> for Shut {
    fn from(_: UplinkClosed) -> Self {
        Self::Uplink
    }
}

impl Intake {
    /// Decodes messages that came by then in order and sends them on, up to the first that cannot be decoded.
    async fn take(
        &mut self,
        messages: Vec<Bytes>,
        at: Instant,
        desk: &Desk,
    ) -> Result<Option<AudioError>, Shut> {
        let decoder = self.decoder.take().ok_or(Shut::Defect)?;
        let (decoder, samples, fault) = decode(decoder, messages).await.ok_or(Shut::Defect)?;
        self.decoder = Some(decoder);
        self.forward(&samples, at, desk).await?;
        Ok(fault)
    }

    /// Sends what the decoder held back.
    async fn flush(&mut self, desk: &Desk) -> Result<(), Shut> {
        let decoder = self.decoder.take().ok_or(Shut::Defect)?;
        let (samples, fault) = finish(decoder).await.ok_or(Shut::Defect)?;
        if let Some(error) = fault {
            tracing::debug!(%error, "the end of the audio could not be decoded");
        }
        self.forward(&samples, Instant::now(), desk).await
    }

    async fn forward(&mut self, samples: &[i16], at: Instant, desk: &Desk) -> Result<(), Shut> {
        let known = self.known.min(Samples::of(samples.len()));
        self.known = self.known - known;
        let new = samples.get(usize::try_from(known.0).unwrap_or(usize::MAX)..).unwrap_or_default();
        self.received = self.received + Samples::of(new.len());
        desk.set_received(self.received, at);
        Ok(self.uplink.send(new).await?)
    }

    /// A new socket begins. Up to where audio had come.
    async fn go_on(&mut self, format: Format, at: At, desk: &Desk) -> Result<Samples, Shut> {
        self.flush(desk).await?;
        self.decoder = Some(Box::new(Decoder::new(format)));
        let had = self.received;
        let begins = match at {
            At::Position(position) => position,
            At::After(pause) => had + pause,
        };
        self.known = had - begins;
        if begins > had {
            self.uplink.go_on_at(begins).await?;
            self.received = begins;
            desk.set_received(begins, Instant::now());
        }
        Ok(had)
    }
}

/// Commands to the uplink. Ends with a stop, so that what was sent is finished.
async fn send(edge: &Edge, mut intake: Intake, commands: mpsc::Receiver<Commanded>, desk: &Desk) {
    let outcome = follow(edge, &mut intake, commands, desk).await;
    let outcome = match outcome {
        Ok(()) => intake.flush(desk).await,
        shut => shut,
    };
    if matches!(outcome, Err(Shut::Defect)) {
        desk.tell(defect("the audio could not be decoded")).await;
    }
    let _ = intake.uplink.stop().await;
}

/// Follows commands up to `stop`, or to audio that cannot be decoded.
async fn follow(
    edge: &Edge,
    intake: &mut Intake,
    mut commands: mpsc::Receiver<Commanded>,
    desk: &Desk,
) -> Result<(), Shut> {
    let mut batch = Vec::new();
    let mut present: Sitting = 0;
    while commands.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let mut waiting = std::mem::take(&mut batch).into_iter().peekable();
        while let Some((sitting, command, given_at)) = waiting.next() {
            if sitting < present {
                // Of a socket that has lost the stream to another.
                continue;
            }
            match command {
                Command::Audio(bytes) => {
                    let (mut messages, mut last_at) = (vec![bytes], given_at);
                    while let Some((_, Command::Audio(bytes), at)) = waiting.next_if(|(next, command, _)| {
                        *next == sitting && matches!(command, Command::Audio(_))
                    }) {
                        messages.push(bytes);
                        last_at = at;
                    }
                    let fault = intake.take(messages, last_at, desk).await?;
                    edge.tally.processed(given_at.elapsed());
                    if let Some(error) = fault {
                        tracing::info!(%error, "audio refused");
                        desk.tell(Report::Undecodable(error)).await;
                        return Ok(());
                    }
                }
                Command::Finalize => intake.uplink.finalize().await?,
                Command::Speak(language) => intake.uplink.speak(language).await?,
                Command::Continue { format, at, received } => {
                    present = sitting;
                    let had = intake.go_on(format, at, desk).await?;
                    // Nobody waits for it any more when that socket is gone too.
                    let _ = received.send(had);
                }
                Command::Stop => return Ok(()),
            }
        }
    }
    Ok(())
}

type Decoded = (Box<Decoder>, Vec<i16>, Option<AudioError>);

/// Decodes messages in order, up to the first that cannot be. `None` after a panic, which the hook has logged.
async fn decode(mut decoder: Box<Decoder>, messages: Vec<Bytes>) -> Option<Decoded> {
    let work = move || {
        let mut samples = Vec::new();
        let fault = messages.iter().find_map(|message| decoder.push(message, &mut samples).err());
        (decoder, samples, fault)
    };
    tokio::task::spawn_blocking(work).await.ok()
}

async fn finish(mut decoder: Box<Decoder>) -> Option<(Vec<i16>, Option<AudioError>)> {
    let work = move || {
        let mut samples = Vec::new();
        let fault = decoder.finish(&mut samples).err();
        (samples, fault)
    };
    tokio::task::spawn_blocking(work).await.ok()
}

fn defect(message: &str) -> Report {
    Report::Failed { fault: FaultKind::Defect, message: message.to_owned(), retry_after: None }
}

/// The client went to another edge and came back before the worker here knew of it. Nothing is wrong with that
/// client: when it resumes once more, the stream is taken back, and it has what was not acknowledged.
fn outrun() -> Report {
    let message = "the stream was with another server meanwhile: resume it".to_owned();
    Report::Failed { fault: FaultKind::Dependency, message, retry_after: Some(OUTRUN_RETRY_AFTER) }
}

/// News of the uplink to the connection and, by `status`, to the followers.
async fn hear(edge: &Edge, mut events: UplinkEvents, desk: &Arc<Desk>, status: watch::Sender<StreamStatus>) {
    let mut outcome = defect("the audio could not be carried to a transcription worker");
    let mut losses = Losses::new();
    let mut on_engine = OnEngine::default();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = sleep_until(losses.due), if losses.span.is_some() => {
                losses.tell(desk);
                continue;
            }
        };
        let Some(event) = event else { break };
        match event {
            UplinkEvent::State(new) => {
                status.send_modify(|status| status.state = new);
                if new == StreamState::Ready {
                    desk.set_opened();
                }
            }
            UplinkEvent::Engine { engine, fallback } => {
                on_engine.set(edge, engine);
                status.send_modify(|status| (status.engine, status.fallback) = (engine, fallback));
            }
            UplinkEvent::Filtered(count) => edge.tally.filtered(count),
            UplinkEvent::Acknowledged(samples) => {
                desk.set_acknowledged(samples);
                desk.mention(Report::Acknowledged(samples));
            }
            UplinkEvent::Unserved(message) => desk.mention(Report::Unserved(message)),
            UplinkEvent::Gap { start, end } => {
                edge.tally.audio_lost((end - start).duration());
                losses.add(start, end);
            }
            UplinkEvent::Failed(UplinkError::TakenOver) => {
                tracing::info!("the stream was continued elsewhere");
                outcome = if desk.was_resumed() { outrun() } else { Report::Elsewhere };
            }
            UplinkEvent::Failed(error) => {
                tracing::warn!(fault = %error.fault(), %error, "stream failed");
                edge.tally.error(error.to_string(), edge.clock.now());
                let (fault, retry_after) = (error.fault(), error.retry_after());
                outcome = Report::Failed { fault, message: error.to_string(), retry_after };
            }
            UplinkEvent::Ended(samples) => {
                tracing::info!(seconds = samples.seconds(), "stream ended");
                outcome = Report::Ended(samples);
            }
        }
    }
    losses.tell(desk);
    edge.desks.clear(desk);
    desk.tell(outcome).await;
}

/// Counts a stream under the engine that understands it.
#[derive(Default)]
struct OnEngine<'a>(Option<crate::metrics::Open<'a>>);

impl<'a> OnEngine<'a> {
    fn set(&mut self, edge: &'a Edge, engine: Option<EngineName>) {
        self.0 = (engine == Some(EngineName::Gladia)).then(|| edge.tally.bridge());
    }
}

/// Sound that was given up and is not told yet. A source without a worker loses some with every message.
struct Losses {
    span: Option<(Samples, Samples)>,
    lost: Samples,
    due: Instant,
}

impl Losses {
    fn new() -> Self {
        Self { span: None, lost: Samples(0), due: Instant::now() }
    }

    fn add(&mut self, start: Samples, end: Samples) {
        let (first, _) = *self.span.get_or_insert((start, end));
        self.span = Some((first, end));
        self.lost = self.lost + (end - start);
    }

    fn tell(&mut self, desk: &Desk) {
        self.due = Instant::now() + LOSSES_INTERVAL;
        let lost = std::mem::replace(&mut self.lost, Samples(0));
        if let Some((start, end)) = self.span.take() {
            tracing::warn!(%lost, %start, %end, "audio was given up: no worker took it in time");
            desk.mention(Report::Gap { lost, start, end });
        }
    }
}
