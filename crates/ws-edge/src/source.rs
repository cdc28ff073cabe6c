//! The audio of one connection on its way to a worker: messages in order, decoded off the async threads, into the
//! uplink. Runs as its own task, so that what a socket delivered before it died is finished.

use std::{sync::Arc, time::Duration};

use audio::{AudioError, Decoder, Format};
use bytes::Bytes;
use event_bus::Event;
use model::{FaultKind, Samples, StreamId, StreamState, StreamStatus, Topic};
use rpc::{AudioUplink, UplinkEvent, UplinkEvents, WhenFull};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use crate::Edge;

/// Commands that wait to be decoded; a connection whose queue is full is not read. At most 8 MiB.
const COMMANDS_WAITING_MAX: usize = 8;

/// News that wait for the connection. Acknowledgements that find no room are left out: the next says more.
const REPORTS_WAITING_MAX: usize = 16;

/// Losses are told and logged once in so long, together.
const LOSSES_INTERVAL: Duration = Duration::from_secs(1);

/// Messages decoded in one go when several wait.
const BATCH_MAX: usize = 8;

/// What a connection asks of its source.
pub(crate) enum Command {
    Audio(Bytes),
    Finalize,
    /// No more audio. The same happens when the commands end.
    Stop,
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
    /// The bytes are not the sound that they claim to be. What came before is finished.
    Undecodable(AudioError),
    /// Nothing more will be taken; nothing follows.
    Failed {
        fault: FaultKind,
        message: String,
        retry_after: Option<Duration>,
    },
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

/// A connection's end of its source.
pub(crate) struct Source {
    pub(crate) stream: StreamId,
    commands: mpsc::Sender<Command>,
    reports: mpsc::Receiver<Report>,
}

impl Source {
    /// Opens a stream.
    pub(crate) fn open(edge: &Arc<Edge>, source: rpc::Source, format: Format, when_full: WhenFull) -> Self {
        let (commands, commanded) = mpsc::channel(COMMANDS_WAITING_MAX);
        let (reporter, reports) = mpsc::channel(REPORTS_WAITING_MAX);
        let stream = source.stream;
        let task = run(edge.clone(), source, format, when_full, commanded, reporter);
        edge.life.spawn(edge.sources.track_future(task));
        Self { stream, commands, reports }
    }

    /// Hands on a command, or gives it back when the queue is full. A source that has ended takes everything: its
    /// last report says why.
    pub(crate) fn command(&self, command: Command) -> Result<(), Command> {
        match self.commands.try_send(command) {
            Err(mpsc::error::TrySendError::Full(command)) => Err(command),
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        }
    }

    /// Hands on a last command whose connection is gone, however long there is no room for it.
    pub(crate) async fn deliver(self: Box<Self>, command: Command) {
        let _ = self.commands.send(command).await;
    }

    /// Waits for news or, if `wants_room`, for room for a command. Cancel-safe.
    pub(crate) async fn next(&mut self, wants_room: bool) -> Next {
        tokio::select! {
            biased;
            report = self.reports.recv() => Next::Report(report),
            _ = self.commands.reserve(), if wants_room => Next::Room,
        }
    }
}

async fn run(
    edge: Arc<Edge>,
    source: rpc::Source,
    format: Format,
    when_full: WhenFull,
    commands: mpsc::Receiver<Command>,
    reports: mpsc::Sender<Report>,
) {
    let _open = edge.tally.stream();
    let status = StreamStatus {
        session: source.session.clone(),
        stream: source.stream,
        state: StreamState::Connecting,
        at: edge.clock.now(),
    };
    tracing::info!(stream = %short(source.stream), encoding = %format.encoding, "stream opened");
    let (uplink, events) = AudioUplink::open(&edge.workers, &edge.life, source, when_full);
    let state = watch::Sender::new(StreamState::Connecting);
    let followed = state.subscribe();
    tokio::join!(
        send(uplink, format, commands, &reports),
        hear(&edge, events, &reports, state),
        publish(&edge, status, followed),
    );
}

/// The first digits of a stream id: enough to find it again in logs. The whole id lets a client resume the stream.
fn short(stream: StreamId) -> String {
    let mut text = stream.to_string();
    text.truncate(8);
    text
}

/// Commands to the uplink. Ends with a stop, so that what was sent is finished.
async fn send(
    uplink: AudioUplink,
    format: Format,
    mut commands: mpsc::Receiver<Command>,
    reports: &mpsc::Sender<Report>,
) {
    let mut decoder = Box::new(Decoder::new(format));
    let mut batch = Vec::new();
    let mut ended = false;
    while !ended {
        ended = commands.recv_many(&mut batch, BATCH_MAX).await == 0;
        let mut waiting = std::mem::take(&mut batch).into_iter().peekable();
        while waiting.peek().is_some() {
            let mut messages = Vec::new();
            while let Some(Command::Audio(bytes)) =
                waiting.next_if(|command| matches!(command, Command::Audio(_)))
            {
                messages.push(bytes);
            }
            if !messages.is_empty() {
                let Some((returned, samples, fault)) = decode(decoder, messages).await else {
                    let _ = reports.send(defect("the audio could not be decoded")).await;
                    return;
                };
                decoder = returned;
                if uplink.send(&samples).await.is_err() {
                    return;
                }
                if let Some(error) = fault {
                    tracing::info!(%error, "audio refused");
                    let _ = reports.send(Report::Undecodable(error)).await;
                    ended = true;
                    break;
                }
            }
            match waiting.next_if(|command| !matches!(command, Command::Audio(_))) {
                Some(Command::Finalize) if uplink.finalize().await.is_err() => return,
                Some(Command::Stop) => {
                    ended = true;
                    break;
                }
                _ => {}
            }
        }
    }
    if let Some((_, samples, fault)) = finish(decoder).await {
        if let Some(error) = fault {
            tracing::debug!(%error, "the end of the audio could not be decoded");
        }
        let _ = uplink.send(&samples).await;
    }
    let _ = uplink.stop().await;
    // The uplink goes on in the background; what it says is heard beside this.
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

async fn finish(mut decoder: Box<Decoder>) -> Option<Decoded> {
    let work = move || {
        let mut samples = Vec::new();
        let fault = decoder.finish(&mut samples).err();
        (decoder, samples, fault)
    };
    tokio::task::spawn_blocking(work).await.ok()
}

fn defect(message: &str) -> Report {
    Report::Failed { fault: FaultKind::Defect, message: message.to_owned(), retry_after: None }
}

/// News of the uplink to the connection and, by `state`, to the followers.
async fn hear(
    edge: &Edge,
    mut events: UplinkEvents,
    reports: &mpsc::Sender<Report>,
    state: watch::Sender<StreamState>,
) {
    let mut outcome = defect("the audio could not be carried to a transcription worker");
    let mut losses = Losses::new();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = sleep_until(losses.due), if losses.span.is_some() => {
                losses.tell(reports);
                continue;
            }
        };
        let Some(event) = event else { break };
        match event {
            UplinkEvent::State(new) => drop(state.send_replace(new)),
            UplinkEvent::Acknowledged(samples) => drop(reports.try_send(Report::Acknowledged(samples))),
            UplinkEvent::Gap { start, end } => {
                edge.tally.audio_lost((end - start).duration());
                losses.add(start, end);
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
    losses.tell(reports);
    let _ = reports.send(outcome).await;
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

    fn tell(&mut self, reports: &mpsc::Sender<Report>) {
        self.due = Instant::now() + LOSSES_INTERVAL;
        let lost = std::mem::replace(&mut self.lost, Samples(0));
        if let Some((start, end)) = self.span.take() {
            tracing::warn!(%lost, %start, %end, "audio was given up: no worker took it in time");
            drop(reports.try_send(Report::Gap { lost, start, end }));
        }
    }
}

/// Tells the followers of the session, on every edge, how the stream does: at each change, and now and then, since
/// the bus may lose it. Ends, after a last word, when the state's sender does.
async fn publish(edge: &Edge, mut status: StreamStatus, mut state: watch::Receiver<StreamState>) {
    let topic = Topic::Session(status.session.clone());
    loop {
        let again = Instant::now() + edge.settings.ping_interval;
        let alive = tokio::select! {
            changed = state.changed() => changed.is_ok(),
            () = sleep_until(again) => true,
        };
        status.state = if alive { *state.borrow_and_update() } else { StreamState::Stopped };
        status.at = edge.clock.now();
        if let Err(error) = edge.bus.publish(&topic, &Event::Status(status.clone())).await {
            tracing::debug!(%error, "publish a stream's state");
        }
        if !alive {
            return;
        }
    }
}
