//! One client's own speech: the stream that it sends, and of what its session is told the captions of that stream. What
//! the doors of other services have in common.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use audio::Format;
use bytes::Bytes;
use fanout::{Follower, Taken};
use futures_util::future::{BoxFuture, OptionFuture};
use model::{Caption, FaultKind, Samples, SessionSlug, Speaker, StreamId, UserId};
use rpc::WhenFull;
use tokio::time::timeout;
use uuid::Uuid;

use crate::{
    Edge,
    feed::Feed,
    source::{Command, Next, Report, Source},
    transcript::Transcript,
    update::Update,
};

/// How long the last finals of a stream may take to be told.
const LAST_WORD_LIMIT: Duration = Duration::from_secs(3);

/// Bytes of a message that are decoded at once.
const PIECE_BYTES: usize = 512 * 1024;

/// Streams whose late captions are still told: those before the last have ended.
const STREAMS_MAX: usize = 8;

/// Who speaks, and where it is kept.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    pub(crate) session: SessionSlug,
    pub(crate) speaker: Speaker,
    pub(crate) user: Option<UserId>,
}

/// How a stream is to be understood.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) format: Format,
    /// BCP 47; `None` for the default of the workers.
    pub(crate) language: Option<String>,
    pub(crate) translate_to: Vec<String>,
    pub(crate) endpointing_ms: Option<u32>,
    pub(crate) when_full: WhenFull,
}

/// What becomes of what was said.
pub(crate) enum Told {
    /// A caption of this stream or of one before it; see [`Update::as_caption`].
    Caption(Update),
    /// Up to there nothing else will be said of the sound.
    Acknowledged(Samples),
    /// So much sound was given up.
    Lost(Samples),
    /// What was asked for in mid-stream cannot be had; the text is for the user.
    Unserved(String),
    /// The stream is over although nobody has stopped it.
    Failed { fault: FaultKind, message: String, retry_after: Option<Duration> },
    /// The stream was stopped, is this long, and all of it has been told.
    Ended(Samples),
    /// Captions were not taken in time.
    TooSlow,
}

/// What a client is told of sound that was given up.
pub(crate) fn lost(span: Samples) -> String {
    format!("{span} of audio was lost: transcription is overloaded or away")
}

/// One client's speech.
pub(crate) struct Speaking {
    edge: Arc<Edge>,
    owner: Owner,
    follower: Follower<SessionSlug, Update>,
    feed: Arc<Feed<Transcript>>,
    source: Option<Box<Source>>,
    /// Found the source's queue full. While it is there, the client is not to be read.
    blocked: Option<Command>,
    /// Of the message that it is a piece of, what follows.
    rest: Bytes,
    /// The stream is to be stopped once there is room.
    stop_waits: bool,
    streams: VecDeque<StreamId>,
    /// The stream has ended; done when all of it waits in the follower's queue.
    catching_up: Option<(BoxFuture<'static, ()>, Samples)>,
    /// The same, when that is done.
    caught_up: Option<Samples>,
}

impl Speaking {
    /// Somebody who has not said anything.
    pub(crate) fn new(edge: &Arc<Edge>, owner: Owner) -> Self {
        let mut follower = edge.transcripts.hub.follower();
        let feed = edge.transcripts.join(edge, &mut follower, &owner.session);
        Self {
            edge: edge.clone(),
            owner,
            follower,
            feed,
            source: None,
            blocked: None,
            rest: Bytes::new(),
            stop_waits: false,
            streams: VecDeque::new(),
            catching_up: None,
            caught_up: None,
        }
    }

    /// Whether there is a stream.
    pub(crate) fn is_open(&self) -> bool {
        self.source.is_some()
    }

    /// Whether the client should wait: there is no room for what it says.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked.is_some()
    }

    /// Opens a stream; one that is open is left to its end.
    pub(crate) fn open(&mut self, wish: &Wish) {
        self.let_go();
        let stream = StreamId(Uuid::new_v4());
        if self.streams.len() >= STREAMS_MAX {
            self.streams.pop_front();
        }
        self.streams.push_back(stream);
        let introduction = rpc::Source {
            stream,
            session: self.owner.session.clone(),
            speaker: self.owner.speaker.clone(),
            language: wish.language.clone(),
            endpointing_ms: wish.endpointing_ms,
            partials: true,
            started_at: self.edge.clock.now(),
            user: self.owner.user.clone(),
            is_room: false,
            translate_to: wish.translate_to.clone(),
        };
        let source = Source::open(&self.edge, introduction, wish.format, wish.when_full, Samples(0));
        self.source = Some(Box::new(source));
        (self.catching_up, self.caught_up) = (None, None);
    }

    /// Sound that follows; opens a stream if there is none.
    pub(crate) fn sound(&mut self, bytes: Bytes, wish: &Wish) {
        if self.source.is_none() {
            self.open(wish);
        }
        self.edge.tally.audio(bytes.len());
        self.rest = bytes;
        self.send_rest();
    }

    /// Hands on as much of the last message as there is room for.
    fn send_rest(&mut self) {
        while self.blocked.is_none() && !self.rest.is_empty() {
            let piece = self.rest.split_to(self.rest.len().min(PIECE_BYTES));
            self.command(Command::Audio(piece));
        }
    }

    /// Hands a command to the stream, if there is one. Only while the client is read.
    pub(crate) fn command(&mut self, command: Command) {
        if let Some(source) = &self.source {
            self.blocked = source.command(command).err();
        }
    }

    /// Lets the stream end; [`Told::Ended`] follows. Whether there is one.
    pub(crate) fn stop(&mut self) -> bool {
        let Some(source) = &self.source else { return false };
        source.stops();
        self.stop_waits = true;
        self.stop_when_room();
        true
    }

    fn stop_when_room(&mut self) {
        if self.stop_waits && self.blocked.is_none() {
            self.stop_waits = false;
            self.command(Command::Stop);
        }
    }

    /// The client is gone, or begins anew: what it has said is finished without it.
    pub(crate) fn let_go(&mut self) {
        if let Some(source) = self.source.take() {
            source.stops();
            let mut last: Vec<Command> = self.blocked.take().into_iter().collect();
            while !self.rest.is_empty() {
                last.push(Command::Audio(self.rest.split_to(self.rest.len().min(PIECE_BYTES))));
            }
            last.push(Command::Stop);
            self.edge.life.spawn(source.deliver(last));
        }
        self.stop_waits = false;
    }

    /// Waits for what becomes of what was said. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Told {
        loop {
            if self.caught_up.is_some() {
                match self.follower.try_take() {
                    Some(taken) => {
                        if let Some(told) = self.own(taken) {
                            return told;
                        }
                        continue;
                    }
                    None => return Told::Ended(self.caught_up.take().unwrap_or_default()),
                }
            }
            let Self { follower, source, blocked, catching_up, .. } = self;
            let wants_room = blocked.is_some();
            let news = async {
                match source {
                    Some(source) => source.next(wants_room).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                taken = follower.take() => {
                    if let Some(told) = self.own(taken) {
                        return told;
                    }
                }
                Some(()) = OptionFuture::from(catching_up.as_mut().map(|(caught_up, _)| caught_up)) => {
                    self.caught_up = self.catching_up.take().map(|(_, length)| length);
                }
                next = news => {
                    if let Some(told) = self.news(next) {
                        return told;
                    }
                }
            }
        }
    }

    fn own(&self, taken: Taken<Update>) -> Option<Told> {
        let Taken::Item(update) = taken else { return Some(Told::TooSlow) };
        let stream = update.as_caption().and_then(Caption::stream)?;
        self.streams.contains(&stream).then_some(Told::Caption(update))
    }

    fn news(&mut self, next: Next) -> Option<Told> {
        let report = match next {
            Next::Room => {
                if let Some(command) = self.blocked.take() {
                    self.command(command);
                }
                self.send_rest();
                self.stop_when_room();
                return None;
            }
            Next::Report(report) => report,
        };
        let told = match report {
            Some(Report::Acknowledged(samples)) => return Some(Told::Acknowledged(samples)),
            Some(Report::Gap { lost, .. }) => return Some(Told::Lost(lost)),
            Some(Report::Unserved(message)) => return Some(Told::Unserved(message)),
            Some(Report::Ended(length)) => {
                // Stored is not yet told: the last finals are on their way.
                let caught_up = timeout(LAST_WORD_LIMIT, self.feed.caught_up());
                self.catching_up = Some((Box::pin(async move { drop(caught_up.await) }), length));
                None
            }
            Some(Report::Undecodable(error)) => {
                Some(Told::Failed { fault: error.fault(), message: error.to_string(), retry_after: None })
            }
            Some(Report::Failed { fault, message, retry_after }) => {
                Some(Told::Failed { fault, message, retry_after })
            }
            Some(Report::Elsewhere) | None => Some(Told::Failed {
                fault: FaultKind::Defect,
                message: "the audio could not be carried to a transcription worker".to_owned(),
                retry_after: None,
            }),
        };
        (self.source, self.blocked, self.stop_waits) = (None, None, false);
        self.rest.clear();
        told
    }
}

impl Drop for Speaking {
    fn drop(&mut self) {
        self.let_go();
    }
}
