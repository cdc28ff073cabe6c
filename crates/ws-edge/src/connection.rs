//! One established WebSocket: what it says, what it is told, and how it ends. One task each.

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use auth::Principal;
use fanout::Taken;
use futures_util::future::{BoxFuture, OptionFuture};
use model::{Caption, FaultKind, Samples, Sequence, Speaker, StreamId, StreamState};
use rpc::WhenFull;
use tokio::time::{Instant, sleep_until};
use tungstenite::Utf8Bytes;
use uuid::Uuid;

use crate::{
    Edge,
    close::Close,
    feed::{Following, Page, Update},
    metrics::Refused,
    protocol::{self, ClientMessage, Init, Shape},
    socket::{Received, Socket, Unsent},
    source::{Command, Next, Report, Source},
};

/// Pings that may go unanswered (system A's documents: three of 15 s).
const PINGS_UNANSWERED_MAX: u32 = 3;

/// Messages in a row that cannot be followed before the socket closes with 1008.
const BAD_MESSAGES_MAX: u32 = 20;

/// A flood is warned about once in so long.
const WARNING_INTERVAL: Duration = Duration::from_secs(1);

/// Updates that are written in one go when several wait.
const BATCH_MAX: usize = 32;

/// When a client that was sent away comes back: after this and up to as much again.
const RECONNECT_AFTER: Duration = Duration::from_millis(500);

/// What a handshake settled.
pub(crate) struct Peer {
    pub(crate) principal: Principal,
    pub(crate) shape: Shape,
    pub(crate) since: Option<Sequence>,
    pub(crate) partials: bool,
}

/// How a connection ended, for its log line.
enum End {
    Gone,
    /// Closed by us, after a last message if there is one.
    Close(Close, Option<Utf8Bytes>),
}

type Flow = ControlFlow<End>;

const GO_ON: Flow = Flow::Continue(());

fn end(close: Close) -> Flow {
    Flow::Break(End::Close(close, None))
}

fn end_with(close: Close, last: Utf8Bytes) -> Flow {
    Flow::Break(End::Close(close, Some(last)))
}

impl From<Unsent> for End {
    fn from(unsent: Unsent) -> Self {
        match unsent {
            Unsent::Gone => Self::Gone,
            Unsent::TooSlow => Self::Close(Close::SlowFollower, None),
        }
    }
}

/// Serves a socket until it ends.
pub(crate) async fn serve(edge: Arc<Edge>, mut socket: Socket, peer: Peer) {
    let _open = edge.tally.connection();
    let began = Instant::now();
    edge.sessions.present(&peer.principal);
    let greeting =
        protocol::connected(peer.principal.session(), peer.principal.user().as_str(), edge.clock.now());
    let following = edge.feeds.follow(&edge, peer.principal.session());
    let state = following.state();
    let greeted = socket.send([greeting]).await;
    let mut connection = Connection {
        replay: None,
        told: Sequence::default(),
        voice: Voice::Silent(None),
        is_native: false,
        blocked: None,
        heard: true,
        unanswered: 0,
        bad: 0,
        received: 0,
        delivered: 0,
        warned_at: None,
        ping_at: began + edge.settings.ping_interval,
        leaving: Leaving::No,
        edge: edge.clone(),
        socket,
        peer,
        following,
    };
    let outcome = match greeted {
        Ok(()) => connection.run(state).await,
        Err(unsent) => unsent.into(),
    };
    let Connection { socket, received, delivered, .. } = connection;
    let code = match &outcome {
        End::Gone => 0,
        End::Close(close, _) => close.code(),
    };
    if let End::Close(close, last) = outcome {
        edge.tally.closed(close);
        socket.close(last, close).await;
    }
    let seconds = began.elapsed().as_secs();
    tracing::info!(code, seconds, received, delivered, "connection ended");
}

/// A connection's part as a speaker.
enum Voice {
    /// No audio yet; perhaps an `init`, with the stream that it was promised.
    Silent(Option<Box<(StreamId, Init)>>),
    /// Audio flows.
    Speaking(Box<Source>),
    /// `stop` was said, or the edge drains; what was sent is being finished.
    Stopping(Box<Source>),
    /// Finished. Audio is refused until the next `init`.
    Stopped(Option<StreamId>, Samples),
}

impl Voice {
    fn source(&self) -> Option<&Source> {
        match self {
            Self::Speaking(source) | Self::Stopping(source) => Some(source),
            Self::Silent(_) | Self::Stopped(..) => None,
        }
    }

    fn source_mut(&mut self) -> Option<&mut Source> {
        match self {
            Self::Speaking(source) | Self::Stopping(source) => Some(source),
            Self::Silent(_) | Self::Stopped(..) => None,
        }
    }
}

/// How far a connection is in leaving a draining edge.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaving {
    No,
    /// Its audio is being finished.
    Draining,
    /// It is sent away at this moment.
    At(Instant),
}

struct Connection {
    edge: Arc<Edge>,
    socket: Socket,
    peer: Peer,
    following: Following,
    /// Finals of the past that are still to be told. While it is there, live ones wait in the queue.
    replay: Option<BoxFuture<'static, Page>>,
    /// Finals up to here were told by the replay.
    told: Sequence,
    voice: Voice,
    /// Whether the client has said `init`: it then knows acknowledgements.
    is_native: bool,
    /// A command that found the source's queue full. While it is there, the socket is not read.
    blocked: Option<Command>,
    /// Whether anything came from the peer since the last ping.
    heard: bool,
    unanswered: u32,
    bad: u32,
    received: u64,
    delivered: u64,
    warned_at: Option<Instant>,
    ping_at: Instant,
    leaving: Leaving,
}

/// What a connection wakes for.
enum Event {
    Received(Received),
    Update(Taken<Update>),
    Page(Page),
    Source(Next),
    Time,
    Drain,
    Farewell,
    Stop,
}

impl Connection {
    async fn run(&mut self, state: Option<StreamState>) -> End {
        if let Some(state) = state {
            let status = protocol::stt_status(self.peer.principal.session(), state, self.edge.clock.now());
            if let Flow::Break(end) = self.send(status).await {
                return end;
            }
        }
        if let Some(since) = self.peer.since {
            self.replay_from(since);
        }
        loop {
            let event = self.wake().await;
            if let Flow::Break(end) = self.handle(event).await {
                return end;
            }
        }
    }

    async fn wake(&mut self) -> Event {
        let wake_at = self.wake_at();
        let Self { edge, socket, following, replay, voice, blocked, leaving, .. } = self;
        let is_blocked = blocked.is_some();
        let source = async {
            match voice.source_mut() {
                Some(source) => source.next(is_blocked).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            received = socket.receive(), if !is_blocked => Event::Received(received),
            taken = following.follower().take(), if replay.is_none() => Event::Update(taken),
            Some(page) = OptionFuture::from(replay.as_mut()) => Event::Page(page),
            next = source => Event::Source(next),
            () = sleep_until(wake_at) => Event::Time,
            () = edge.life.draining().cancelled(), if *leaving == Leaving::No => Event::Drain,
            () = edge.farewell.cancelled(), if *leaving == Leaving::Draining => Event::Farewell,
            () = edge.life.stopping().cancelled() => Event::Stop,
        }
    }

    /// The next ping, the end of the token or the time to leave, whichever is first.
    fn wake_at(&self) -> Instant {
        let token_left = self.peer.principal.expires_at().since(self.edge.clock.now());
        let until_ping = self.ping_at.saturating_duration_since(Instant::now());
        // The token may end in a thousand years; pings come before that.
        let next = Instant::now() + token_left.min(until_ping);
        match self.leaving {
            Leaving::At(moment) => next.min(moment),
            Leaving::No | Leaving::Draining => next,
        }
    }

    async fn handle(&mut self, event: Event) -> Flow {
        match event {
            Event::Received(received) => self.hear(received).await,
            Event::Update(taken) => self.tell(taken).await,
            Event::Page(page) => self.tell_page(page).await,
            Event::Source(Next::Report(report)) => self.report(report).await,
            Event::Source(Next::Room) => {
                if let Some(command) = self.blocked.take() {
                    self.command(command);
                }
                // A drain may have come while the last audio was waiting.
                if matches!(self.voice, Voice::Stopping(_)) && self.blocked.is_none() {
                    self.command(Command::Stop);
                }
                GO_ON
            }
            Event::Time => self.time().await,
            Event::Drain => {
                self.leaving = Leaving::Draining;
                self.stop();
                GO_ON
            }
            Event::Farewell => {
                self.leaving = Leaving::At(Instant::now() + jittered(self.edge.settings.drain_spread));
                GO_ON
            }
            Event::Stop => self.leave(),
        }
    }

    async fn hear(&mut self, received: Received) -> Flow {
        self.heard = true;
        match received {
            Received::Alive => GO_ON,
            Received::Gone => Flow::Break(End::Gone),
            Received::Broken(close) => {
                let (fault, text) = match close {
                    Close::TooBig => (FaultKind::TooLarge, "a message may have at most 1 MiB"),
                    Close::BadData => (FaultKind::BadData, "text messages must be UTF-8"),
                    _ => (FaultKind::Caller, "the WebSocket protocol was broken"),
                };
                end_with(close, protocol::error(fault, text, None))
            }
            Received::Text(text) => {
                self.count_received();
                if self.allowed().await? {
                    return self.hear_text(&text).await;
                }
                GO_ON
            }
            // System A's clients never send them, but nothing is wrong with one.
            Received::Binary(bytes) if bytes.is_empty() => GO_ON,
            Received::Binary(bytes) => {
                self.count_received();
                if self.allowed().await? {
                    return self.hear_audio(bytes).await;
                }
                GO_ON
            }
        }
    }

    fn count_received(&mut self) {
        self.received += 1;
        self.edge.tally.received();
    }

    /// Whether another message is within the participant's rate. If not, it is dropped and, now and then, that is
    /// said in system A's words.
    async fn allowed(&mut self) -> ControlFlow<End, bool> {
        let principal = &self.peer.principal;
        if self.edge.limits.frame(principal.session(), principal.identity()).is_ok() {
            return ControlFlow::Continue(true);
        }
        self.edge.tally.refused(Refused::Rate);
        if self.may_warn() {
            let text = "Audio chunk rejected: invalid size or rate limit exceeded";
            self.send(protocol::warning("rate_limited", text)).await?;
        }
        ControlFlow::Continue(false)
    }

    fn may_warn(&mut self) -> bool {
        let due = self.warned_at.is_none_or(|at| at.elapsed() >= WARNING_INTERVAL);
        if due {
            self.warned_at = Some(Instant::now());
        }
        due
    }

    async fn hear_text(&mut self, text: &Utf8Bytes) -> Flow {
        let message = match ClientMessage::parse(text, &self.edge.settings.languages) {
            Ok(message) => message,
            Err(error) => return self.refuse(error.fault(), &error.to_string()).await,
        };
        match message {
            ClientMessage::Init(init) => return self.init(init).await,
            ClientMessage::Follow { since } => self.replay_from(since),
            ClientMessage::Finalize => {
                if matches!(self.voice, Voice::Speaking(_)) {
                    self.command(Command::Finalize);
                }
            }
            ClientMessage::Stop => return self.hear_stop().await,
            ClientMessage::Ping => self.send(protocol::pong()).await?,
            ClientMessage::Refresh(token) => return self.refresh(&token).await,
            ClientMessage::ActiveSpeaker(speaker) => {
                if !self.may_speak() {
                    return self.refuse(FaultKind::Forbidden, "this token may only follow").await;
                }
                let identity = speaker.identity.unwrap_or_else(|| self.peer.principal.identity().clone());
                self.edge.sessions.speaks(self.peer.principal.session(), identity, speaker.name);
            }
            ClientMessage::Unknown => self.edge.tally.refused(Refused::Unknown),
        }
        self.bad = 0;
        GO_ON
    }

    fn may_speak(&self) -> bool {
        self.peer.principal.may_speak(self.peer.principal.session())
    }

    /// Says why a message is not followed; too many of them in a row end the connection.
    async fn refuse(&mut self, fault: FaultKind, text: &str) -> Flow {
        self.edge.tally.refused(Refused::Invalid);
        self.bad += 1;
        let error = protocol::error(fault, text, None);
        if self.bad > BAD_MESSAGES_MAX {
            return end_with(Close::Policy, error);
        }
        self.send(error).await
    }

    async fn init(&mut self, init: Init) -> Flow {
        if !self.may_speak() {
            return self.refuse(FaultKind::Forbidden, "this token may only follow").await;
        }
        if self.voice.source().is_some() {
            return self.refuse(FaultKind::Caller, "init must come before audio, or after stopped").await;
        }
        let stream = StreamId(Uuid::new_v4());
        if let Some(shape) = init.shape {
            self.peer.shape = shape;
        }
        self.peer.partials = init.partials;
        self.is_native = true;
        let mut answers = vec![protocol::initialized(stream, &init)];
        if !init.translate_to.is_empty() {
            let text = "translateTo: no translation is offered here; captions come untranslated";
            answers.push(protocol::warning("not_translated", text));
        }
        self.voice = Voice::Silent(Some(Box::new((stream, init))));
        self.bad = 0;
        self.send_all(answers).await
    }

    async fn hear_audio(&mut self, bytes: bytes::Bytes) -> Flow {
        if !self.may_speak() {
            return self.refuse(FaultKind::Forbidden, "this token may only follow, not send audio").await;
        }
        if self.leaving != Leaving::No {
            // A draining edge takes no more; the client is told in a moment where its audio ended.
            return GO_ON;
        }
        match &mut self.voice {
            Voice::Silent(init) => {
                let init = init.take();
                self.edge.tally.audio(bytes.len());
                self.speak(init);
                self.command(Command::Audio(bytes));
                self.bad = 0;
                GO_ON
            }
            Voice::Speaking(_) => {
                self.edge.tally.audio(bytes.len());
                self.command(Command::Audio(bytes));
                self.bad = 0;
                GO_ON
            }
            Voice::Stopping(_) | Voice::Stopped(..) => {
                self.edge.tally.refused(Refused::Invalid);
                // What was on its way when the client stopped may be many messages: one answer for all.
                if self.may_warn() {
                    let text = "audio after stop is not used; send init to speak again";
                    return self.send(protocol::error(FaultKind::Caller, text, None)).await;
                }
                GO_ON
            }
        }
    }

    /// Opens the stream that the first audio needs.
    fn speak(&mut self, init: Option<Box<(StreamId, Init)>>) {
        let principal = &self.peer.principal;
        let speaker =
            Speaker { identity: principal.identity().clone(), name: principal.name().map(str::to_owned) };
        let (stream, init) = match init.map(|init| *init) {
            Some((stream, init)) => (stream, Some(init)),
            None => (StreamId(Uuid::new_v4()), None),
        };
        // A client that knows `init` knows that a full window makes it wait. Others send at the pace of a
        // microphone and cannot wait.
        let when_full = if init.is_some() { WhenFull::Wait } else { WhenFull::DropOldest };
        let mut format = audio::DEFAULT_FORMAT;
        format.encoding = audio::Encoding::Auto;
        let format = init.as_ref().map_or(format, |init| init.format);
        let source = rpc::Source {
            stream,
            session: principal.session().clone(),
            speaker,
            endpointing_ms: init.as_ref().and_then(|init| init.endpointing_ms),
            // Other followers of the session read partials even if this connection does not.
            partials: true,
            language: init.and_then(|init| init.language),
            started_at: self.edge.clock.now(),
        };
        self.voice = Voice::Speaking(Box::new(Source::open(&self.edge, source, format, when_full)));
    }

    /// Hands a command to the source, or keeps it until there is room.
    fn command(&mut self, command: Command) {
        if let Some(source) = self.voice.source() {
            self.blocked = source.command(command).err();
        }
    }

    async fn hear_stop(&mut self) -> Flow {
        self.bad = 0;
        match &self.voice {
            Voice::Speaking(_) => self.stop(),
            // Its answer is on the way.
            Voice::Stopping(_) => {}
            Voice::Silent(_) => {
                self.voice = Voice::Stopped(None, Samples(0));
                return self.send(protocol::stopped(None, Samples(0))).await;
            }
            Voice::Stopped(stream, samples) => return self.send(protocol::stopped(*stream, *samples)).await,
        }
        GO_ON
    }

    /// Lets the source finish.
    fn stop(&mut self) {
        let voice = std::mem::replace(&mut self.voice, Voice::Silent(None));
        self.voice = match voice {
            Voice::Speaking(source) => Voice::Stopping(source),
            other => other,
        };
        if matches!(self.voice, Voice::Stopping(_)) && self.blocked.is_none() {
            self.command(Command::Stop);
        }
    }

    async fn report(&mut self, report: Option<Report>) -> Flow {
        let Some(stream) = self.voice.source().map(|source| source.stream) else { return GO_ON };
        match report {
            Some(Report::Acknowledged(samples)) if self.is_native => {
                self.send(protocol::ack(stream, samples)).await
            }
            Some(Report::Acknowledged(_)) => GO_ON,
            Some(Report::Gap { start, end }) => {
                let text =
                    format!("audio from {start} to {end} was lost: transcription is overloaded or away");
                self.send(protocol::warning("gap", &text)).await
            }
            Some(Report::Undecodable(error)) => end_with(
                Close::after(error.fault()),
                protocol::error(error.fault(), &error.to_string(), None),
            ),
            Some(Report::Failed { fault, message, retry_after }) => {
                end_with(Close::after(fault), protocol::error(fault, &message, retry_after))
            }
            Some(Report::Ended(samples)) => {
                self.blocked = None;
                self.voice = Voice::Stopped(Some(stream), samples);
                self.send(protocol::stopped(Some(stream), samples)).await
            }
            None => {
                let text = "the audio could not be carried to a transcription worker";
                end_with(Close::Fault, protocol::error(FaultKind::Defect, text, None))
            }
        }
    }

    async fn refresh(&mut self, token: &settings::Secret) -> Flow {
        let principal = &self.peer.principal;
        match self.edge.tokens.verify_for(token.expose(), principal.session()) {
            Ok(fresh) if fresh.identity() == principal.identity() => {
                let expires_at = fresh.expires_at();
                self.peer.principal = fresh;
                self.bad = 0;
                self.send(protocol::refreshed(expires_at)).await
            }
            Ok(_) => self.refuse(FaultKind::Forbidden, "the new token is for another participant").await,
            Err(error) => self.refuse(error.fault(), &error.to_string()).await,
        }
    }

    fn replay_from(&mut self, since: Sequence) {
        self.told = since;
        self.replay = Some(self.following.page(self.edge.storage.clone(), since));
    }

    async fn tell_page(&mut self, page: Page) -> Flow {
        self.replay = None;
        let mut texts = Vec::new();
        for segment in page.finals {
            self.told = segment.sequence;
            Update::caption(Caption::Final(segment)).encode(self.peer.shape, &mut texts);
        }
        if !page.is_last {
            self.replay = Some(self.following.page(self.edge.storage.clone(), self.told));
        }
        self.deliver(texts).await
    }

    async fn tell(&mut self, taken: Taken<Update>) -> Flow {
        let mut texts = Vec::new();
        let mut next = Some(taken);
        while let Some(taken) = next {
            let Taken::Item(update) = taken else {
                self.deliver(texts).await?;
                let text = "this connection did not read its captions in time";
                return end_with(Close::SlowFollower, protocol::error(FaultKind::Overloaded, text, None));
            };
            if self.is_news(&update) {
                update.encode(self.peer.shape, &mut texts);
            }
            next = if texts.len() < BATCH_MAX { self.following.follower().try_take() } else { None };
        }
        self.deliver(texts).await
    }

    /// Whether a live update is news to this connection: a replay may have told it.
    fn is_news(&self, update: &Update) -> bool {
        let was_told = update.sequence().is_some_and(|sequence| sequence <= self.told);
        !was_told && (self.peer.partials || !update.is_partial())
    }

    async fn deliver(&mut self, texts: Vec<Utf8Bytes>) -> Flow {
        let count = texts.len() as u64;
        if count == 0 {
            return GO_ON;
        }
        self.delivered += count;
        self.edge.tally.delivered(count);
        self.send_all(texts).await
    }

    async fn send(&mut self, text: Utf8Bytes) -> Flow {
        self.send_all([text]).await
    }

    async fn send_all(&mut self, texts: impl IntoIterator<Item = Utf8Bytes>) -> Flow {
        match self.socket.send(texts).await {
            Ok(()) => GO_ON,
            Err(unsent) => Flow::Break(unsent.into()),
        }
    }

    async fn time(&mut self) -> Flow {
        if self.peer.principal.expires_at() <= self.edge.clock.now() {
            let text = "the transcription token has expired: connect again with a new one";
            return end_with(Close::Expired, protocol::error(FaultKind::Expired, text, None));
        }
        if matches!(self.leaving, Leaving::At(moment) if moment <= Instant::now()) {
            return self.leave();
        }
        if self.ping_at > Instant::now() {
            return GO_ON;
        }
        self.ping_at = Instant::now() + self.edge.settings.ping_interval;
        self.edge.sessions.present(&self.peer.principal);
        // Unread, its pong may wait behind audio that we do not take.
        if self.heard || self.blocked.is_some() {
            self.unanswered = 0;
        } else {
            self.unanswered += 1;
        }
        if self.unanswered >= PINGS_UNANSWERED_MAX {
            return end(Close::Heartbeat);
        }
        self.heard = false;
        match self.socket.ping().await {
            Ok(()) => GO_ON,
            Err(unsent) => Flow::Break(unsent.into()),
        }
    }

    fn leave(&self) -> Flow {
        let retry_after = RECONNECT_AFTER + jittered(RECONNECT_AFTER);
        end_with(Close::GoingAway, protocol::reconnect(retry_after))
    }
}

/// A random part of a span.
fn jittered(span: Duration) -> Duration {
    let random = Uuid::new_v4().as_u128() as u32;
    span.mul_f64(f64::from(random) / f64::from(u32::MAX))
}
