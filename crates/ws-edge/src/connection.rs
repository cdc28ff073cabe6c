//! One client of captions, on a WebSocket or in Socket.IO's `/captions`: what it says, what it is told, and how it ends. One
//! task each.

mod chat;
mod resume;
mod voice;

use std::{sync::Arc, time::Duration};

use auth::Principal;
use fanout::{Follower, Taken};
use futures_util::future::{BoxFuture, OptionFuture};
use model::{Entry, FaultKind, Sequence, SessionSlug, Speaker};
use serde_json::Value;
use tokio::time::Instant;
use tungstenite::Utf8Bytes;

use crate::{
    Edge,
    chat::{
        chatter::Chatter,
        seat::{Seat, Turn},
    },
    close::Close,
    ending::{End, Flow, end, end_with, go_on},
    feed::{self, Feed},
    limits::TooOften,
    line::Line,
    metrics::Refused,
    order::Page,
    protocol::{self, ClientMessage, Shape},
    pulse::{Beat, Leaving, Pulse, Rhythm, reconnect_after},
    socket::Received,
    source::{Command, Next},
    transcript::Transcript,
    update::Update,
};

use voice::Voice;

/// Pings that may go unanswered (system A's documents: three of 15 s).
const PINGS_UNANSWERED_MAX: u32 = 3;

/// Largest message from a client, in bytes; above it the socket closes with 1009.
pub(crate) const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// Messages in a row that cannot be followed before the socket closes with 1008.
const BAD_MESSAGES_MAX: u32 = 20;

/// A flood is warned about once in so long.
const WARNING_INTERVAL: Duration = Duration::from_secs(1);

/// Updates that are written in one go when several wait.
const BATCH_MAX: usize = 32;

/// How long the last finals of a stream may take to be told before `stopped` is.
const LAST_WORD_LIMIT: Duration = Duration::from_secs(3);

/// How long a client that resumes waits until a worker has taken its stream and all that came before is dealt with.
const RESUME_LIMIT: Duration = Duration::from_secs(3);

/// What a handshake settled.
pub(crate) struct Peer {
    pub(crate) principal: Principal,
    pub(crate) shape: Shape,
    pub(crate) since: Option<Sequence>,
    pub(crate) partials: bool,
    /// Whether it wants the chat of the session beside its captions.
    pub(crate) chat: bool,
    /// What it has of that.
    pub(crate) chat_since: Option<Sequence>,
}
/// Serves a socket until it ends.
///
/// Most connections wait most of their life, and there are many: their state is one box, and what they do seldom is
/// boxed while they do it, so that the task itself stays small.
pub(crate) async fn serve(mut connection: Box<Connection>) {
    let edge = connection.edge.clone();
    let _open = edge.tally.connection();
    let began = Instant::now();
    let outcome = connection.run().await;
    let Connection { line, received, delivered, voice, blocked, .. } = *connection;
    if let (Some(command), Voice::Speaking(source) | Voice::Stopping(source)) = (blocked, voice) {
        edge.life.spawn(source.deliver(vec![command]));
    }
    let code = outcome.code();
    if let End::Close(close, last) = outcome {
        edge.tally.closed(close);
        Box::pin(line.close(last, close, edge.life.stopping())).await;
    }
    let seconds = began.elapsed().as_secs();
    tracing::info!(code, seconds, received, delivered, "connection ended");
}

/// An established WebSocket and what is known of it.
pub(crate) struct Connection {
    edge: Arc<Edge>,
    line: Line,
    peer: Peer,
    follower: Follower<SessionSlug, Update>,
    feed: Arc<Feed<Transcript>>,
    /// What is stored of the past and still to be told. While it is there, live ones are not told but read with them.
    replay: Option<BoxFuture<'static, Page<Entry>>>,
    /// Whether a live final came since the page that is being read was asked for.
    overtaken: bool,
    /// Finals up to here were told by the replay.
    told: Sequence,
    /// What is said once every final that is stored has been told.
    last_word: Option<(BoxFuture<'static, ()>, Utf8Bytes)>,
    /// Its seat in the session's room.
    chat: Option<Box<Seat<Option<Value>>>>,
    voice: Voice,
    /// Whether the client has said `init`: it then knows acknowledgements.
    is_native: bool,
    /// Whether the client has said `stop`.
    stop_said: bool,
    /// A command that found the source's queue full. While it is there, the socket is not read.
    blocked: Option<Command>,
    /// A message that came before the participant's rate allows it, and when that will. While it is there, the
    /// socket is not read.
    early: Option<Box<(Received, Instant)>>,
    bad: u32,
    received: u64,
    delivered: u64,
    warned_at: Option<Instant>,
    pulse: Pulse,
}

/// What a connection wakes for.
enum Event {
    Received(Received),
    Update(Taken<Update>),
    Page(Page<Entry>),
    CaughtUp,
    Chat(Turn),
    Source(Next),
    Time,
    Drain,
    Farewell,
    Stop,
}

impl Connection {
    /// A participant joins its session.
    pub(crate) fn new(edge: &Arc<Edge>, line: Line, peer: Peer) -> Box<Self> {
        edge.sessions.present(&peer.principal);
        let mut follower = edge.transcripts.hub.follower();
        let feed = edge.transcripts.join(edge, &mut follower, peer.principal.session());
        let rhythm = Rhythm { interval: edge.settings.ping_interval, unanswered_max: PINGS_UNANSWERED_MAX };
        Box::new(Self {
            replay: None,
            overtaken: false,
            told: Sequence::default(),
            last_word: None,
            chat: None,
            voice: Voice::Silent(None),
            is_native: false,
            stop_said: false,
            blocked: None,
            early: None,
            bad: 0,
            received: 0,
            delivered: 0,
            warned_at: None,
            pulse: Pulse::new(rhythm, peer.principal.expires_at(), &edge.clock),
            edge: edge.clone(),
            line,
            peer,
            follower,
            feed,
        })
    }

    async fn run(&mut self) -> End {
        let (session, user) = (self.peer.principal.session(), self.peer.principal.user());
        let now = self.edge.clock.now();
        let mut greeting = vec![protocol::connected(session, user.as_str(), now)];
        greeting
            .extend(self.feed.story.hearing().map(|hearing| protocol::stt_status(session, &hearing, now)));
        if let Flow::Break(end) = self.send_all(greeting).await {
            return end;
        }
        if let Some(since) = self.peer.since {
            self.replay_from(since);
        }
        if self.peer.chat
            && let Flow::Break(end) = self.open_chat().await
        {
            return end;
        }
        loop {
            let event = self.wake().await;
            if let Flow::Break(end) = self.handle(event).await {
                return end;
            }
        }
    }

    async fn wake(&mut self) -> Event {
        let Self { edge, line, follower, replay, last_word, chat, voice, blocked, early, pulse, .. } = self;
        let leaving = pulse.leaving;
        let early_at = early.as_ref().map(|early| early.1);
        let is_blocked = blocked.is_some();
        let reads = !is_blocked && early.is_none();
        let source = async {
            match voice.source_mut() {
                Some(source) => source.next(is_blocked).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            received = line.receive(), if reads => Event::Received(received),
            taken = follower.take() => Event::Update(taken),
            Some(page) = OptionFuture::from(replay.as_mut()) => Event::Page(page),
            Some(()) = OptionFuture::from(last_word.as_mut().map(|(caught_up, _)| caught_up)) => Event::CaughtUp,
            Some(turn) = OptionFuture::from(chat.as_mut().map(|chat| chat.next())) => Event::Chat(turn),
            next = source => Event::Source(next),
            () = pulse.wait(early_at) => Event::Time,
            () = edge.life.draining().cancelled(), if leaving == Leaving::No => Event::Drain,
            () = edge.farewell.cancelled(), if leaving == Leaving::Draining => Event::Farewell,
            () = edge.life.stopping().cancelled() => Event::Stop,
        }
    }

    async fn handle(&mut self, event: Event) -> Flow {
        match event {
            Event::Received(received) => self.hear(received).await,
            Event::Update(taken) => self.tell(taken).await,
            Event::Page(page) => self.tell_page(page).await,
            Event::CaughtUp => self.say_last_word().await,
            Event::Chat(turn) => self.chat(turn).await,
            Event::Source(Next::Report(report)) => self.report(report).await,
            Event::Source(Next::Room) => {
                if let Some(command) = self.blocked.take() {
                    self.command(command);
                }
                // A drain may have come while the last audio was waiting.
                if matches!(self.voice, Voice::Stopping(_)) && self.blocked.is_none() {
                    self.command(Command::Stop);
                }
                go_on()
            }
            Event::Time => self.time().await,
            Event::Drain => {
                self.pulse.leaving = Leaving::Draining;
                self.stop();
                go_on()
            }
            Event::Farewell => {
                self.pulse.leave_within(self.edge.settings.drain_spread);
                go_on()
            }
            Event::Stop => self.leave(),
        }
    }

    async fn hear(&mut self, received: Received) -> Flow {
        self.pulse.heard();
        match received {
            Received::Alive => go_on(),
            Received::Gone => Flow::Break(End::Gone),
            Received::Broken(close) => {
                let (fault, text) = match close {
                    Close::TooBig => (FaultKind::TooLarge, "a message may have at most 1 MiB"),
                    Close::BadData => (FaultKind::BadData, "text messages must be UTF-8"),
                    Close::Busy => (FaultKind::Overloaded, "too many messages at once"),
                    _ => (FaultKind::Caller, "the WebSocket protocol was broken"),
                };
                end_with(close, protocol::error(fault, text, None))
            }
            // System A's clients never send them, but nothing is wrong with one.
            Received::Binary(bytes) if bytes.is_empty() => go_on(),
            Received::Text(_) | Received::Binary(_) => {
                self.count_received();
                self.hear_at_rate(received).await
            }
        }
    }

    fn count_received(&mut self) {
        self.received += 1;
        self.edge.tally.received();
    }

    /// Hears a message when the participant's rate allows. One above it waits, and the socket with it; only audio of
    /// clients that cannot wait is dropped and, now and then, that is said in system A's words.
    async fn hear_at_rate(&mut self, message: Received) -> Flow {
        let principal = &self.peer.principal;
        let allowed = self.edge.limits.frame(principal.session(), principal.identity());
        match (allowed, message) {
            (Ok(()), Received::Text(text)) => Box::pin(self.hear_text(&text)).await,
            (Ok(()), Received::Binary(bytes)) => self.hear_audio(bytes).await,
            (Err(TooOften { .. }), Received::Binary(_)) if !self.is_native => {
                self.edge.tally.refused(Refused::Rate);
                if self.may_warn() {
                    let text = "Audio chunk rejected: invalid size or rate limit exceeded";
                    return self.send(protocol::warning("rate_limited", text)).await;
                }
                go_on()
            }
            (Err(TooOften { retry_after }), message) => {
                self.early = Some(Box::new((message, Instant::now() + retry_after)));
                go_on()
            }
            (Ok(()), Received::Alive | Received::Broken(_) | Received::Gone) => go_on(),
        }
    }

    fn may_warn(&mut self) -> bool {
        let due = self.warned_at.is_none_or(|at| at.elapsed() >= WARNING_INTERVAL);
        if due {
            self.warned_at = Some(Instant::now());
        }
        due
    }

    async fn hear_text(&mut self, text: &Utf8Bytes) -> Flow {
        let message = match ClientMessage::parse(text) {
            Ok(message) => message,
            Err(error) => return self.refuse(error.fault(), &error.to_string()).await,
        };
        match message {
            ClientMessage::Init(init) => return self.init(init).await,
            ClientMessage::Follow { since } => self.replay_from(since),
            ClientMessage::Language(language) => {
                if matches!(self.voice, Voice::Speaking(_)) {
                    self.command(Command::Speak(language));
                } else if let Voice::Silent(Some(promised)) = &mut self.voice {
                    promised.1.language = Some(language);
                }
            }
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
                let speaks = speaker.is_active.then_some(Speaker { identity, name: speaker.name });
                self.edge.sessions.speaks(self.peer.principal.session(), speaks);
            }
            ClientMessage::Chat(chat) => return self.hear_chat(chat).await,
            ClientMessage::Unknown => self.edge.tally.refused(Refused::Unknown),
        }
        self.bad = 0;
        go_on()
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

    async fn say_last_word(&mut self) -> Flow {
        let Some((_, word)) = self.last_word.take() else { return go_on() };
        while let Some(taken) = self.follower.try_take() {
            self.tell(taken).await?;
        }
        self.send(word).await
    }

    async fn refresh(&mut self, token: &settings::Secret) -> Flow {
        let principal = &self.peer.principal;
        match self.edge.tokens.verify_for(token.expose(), principal.session()) {
            Ok(fresh) if fresh.identity() == principal.identity() => {
                let expires_at = fresh.expires_at();
                self.pulse.renew(expires_at, &self.edge.clock);
                if let Some(chat) = &mut self.chat {
                    chat.refresh(Chatter::Participant(fresh.clone()));
                }
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
        self.overtaken = false;
        self.replay = Some(feed::replay(&self.edge, &self.feed, self.peer.principal.session(), since));
    }

    async fn tell_page(&mut self, page: Page<Entry>) -> Flow {
        self.replay = None;
        let mut texts = Vec::new();
        for entry in page.records {
            Update::caption(entry.into()).encode(self.peer.shape, &mut texts);
        }
        // Also back: whoever says that it has what was never there would hear nothing until there is as much.
        self.told = page.through;
        if !page.is_last || self.overtaken {
            self.replay_from(self.told);
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
            if self.replay.is_some() && update.sequence().is_some() {
                // It is stored: the page after the one that is being read has it.
                self.overtaken = true;
            } else if self.is_news(&update) {
                update.encode(self.peer.shape, &mut texts);
            }
            next = if texts.len() < BATCH_MAX { self.follower.try_take() } else { None };
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
            return go_on();
        }
        self.delivered += count;
        self.edge.tally.delivered(count);
        self.send_all(texts).await
    }

    async fn send(&mut self, text: Utf8Bytes) -> Flow {
        self.send_all([text]).await
    }

    async fn send_all(&mut self, texts: impl IntoIterator<Item = Utf8Bytes>) -> Flow {
        match self.line.send(texts).await {
            Ok(()) => go_on(),
            Err(unsent) => {
                self.edge.tally.undelivered();
                Flow::Break(unsent.into())
            }
        }
    }

    async fn time(&mut self) -> Flow {
        if self.pulse.has_expired(&self.edge.clock) {
            let text = "the transcription token has expired: connect again with a new one";
            return end_with(Close::Expired, protocol::error(FaultKind::Expired, text, None));
        }
        if self.pulse.leaves() {
            return self.leave();
        }
        if let Some(early) = self.early.take_if(|early| early.1 <= Instant::now()) {
            self.hear_at_rate(early.0).await?;
        }
        // Unread, its pong may wait behind audio that we do not take.
        let excused = self.blocked.is_some() || self.early.is_some();
        let Some(beat) = self.pulse.beat(excused) else { return go_on() };
        self.edge.sessions.present(&self.peer.principal);
        match beat {
            Beat::Dead => end(Close::Heartbeat),
            Beat::Ping => match self.line.ping().await {
                Ok(()) => go_on(),
                Err(unsent) => Flow::Break(unsent.into()),
            },
        }
    }

    fn leave(&self) -> Flow {
        end_with(Close::GoingAway, protocol::reconnect(reconnect_after()))
    }
}
