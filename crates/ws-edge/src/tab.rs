//! One established `/ws`: a tab or a phone of a user, what it follows, and how it ends. One task each.

pub(crate) mod protocol;
mod subscribing;

use std::{collections::VecDeque, future::poll_fn, pin::pin, sync::Arc};

use auth::User;
use fanout::{Follower, Taken};
use futures_util::{
    future::{BoxFuture, OptionFuture},
    stream::StreamExt as _,
};
use model::{FaultKind, Topic};
use tokio::time::Instant;
use tungstenite::Utf8Bytes;

use crate::{
    Edge,
    close::Close,
    ending::{End, Flow, end, end_with, go_on},
    gate::Gate,
    limits::{Above, Flood, TooOften},
    line::Line,
    metrics::Refused,
    news::News,
    orders::{Order, Orders, orders},
    presence::Presence,
    pulse::{Beat, Pulse, Rhythm, reconnect_after},
    socket::Received,
};

use protocol::{ClientMessage, Problem};
use subscribing::{Asked, Followed, Read};

/// Pings that may go unanswered: system C gives up at the second.
const PINGS_UNANSWERED_MAX: u32 = 1;

/// Messages in a row that cannot be followed before the socket closes with 1008.
const BAD_MESSAGES_MAX: u32 = 20;

/// Largest message of a client, in bytes: a `refresh` with its token is the largest that makes sense.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Events that are written in one go when several wait.
const BATCH_MAX: usize = 32;
/// Serves a socket until it ends.
pub(crate) async fn serve(mut tab: Box<Tab>) {
    let edge = tab.edge.clone();
    let _open = (edge.tally.connection(), edge.stats.connection());
    let _here = Presence::enter(&edge, tab.user.id());
    let began = Instant::now();
    let outcome = tab.run().await;
    let Tab { line, received, delivered, channels, .. } = *tab;
    let code = outcome.code();
    let followed = channels.len();
    for channel in &channels {
        edge.stats.followed(&channel.topic, -1);
    }
    if let End::Close(close, last) = outcome {
        edge.tally.closed(close);
        Box::pin(line.close(last, close, edge.life.stopping())).await;
    }
    let seconds = began.elapsed().as_secs();
    tracing::info!(code, seconds, received, delivered, followed, "tab ended");
}

/// An established `/ws` and what is known of it. There are many and most of them wait: seldom state is boxed.
pub(crate) struct Tab {
    edge: Arc<Edge>,
    line: Line,
    /// Names this connection to the limits.
    id: u64,
    user: User,
    follower: Follower<Topic, News>,
    /// By topic.
    channels: Vec<Followed>,
    /// What is read for one of the channels at the moment.
    reading: Option<(Topic, BoxFuture<'static, Read>)>,
    /// Channels for which something else is to be read after that.
    to_read: VecDeque<Topic>,
    /// A subscription whose access is asked for. While it is there, the socket is not read.
    asking: Option<Box<Asked>>,
    pulse: Pulse,
    /// The ends that the edge orders.
    orders: Orders,
    gate: Gate,
    bad: u32,
    flood: Flood,
    received: u64,
    delivered: u64,
}

/// What a tab wakes for.
enum Event {
    Received(Received),
    News(Taken<News>),
    Read(Read),
    Answer(Result<bool, crate::access::Unanswered>),
    Time,
    Order(Order),
}

impl Tab {
    pub(crate) fn new(edge: &Arc<Edge>, line: Line, user: User) -> Box<Self> {
        let rhythm =
            Rhythm { interval: edge.settings.tab_ping_interval, unanswered_max: PINGS_UNANSWERED_MAX };
        Box::new(Self {
            id: edge.limits.next_tab(),
            follower: edge.happenings.hub.follower(),
            channels: Vec::new(),
            reading: None,
            to_read: VecDeque::new(),
            asking: None,
            pulse: Pulse::new(rhythm, user.expires_at(), &edge.clock),
            orders: orders(edge),
            gate: Gate::new(),
            bad: 0,
            flood: Flood::default(),
            received: 0,
            delivered: 0,
            edge: edge.clone(),
            line,
            user,
        })
    }

    async fn run(&mut self) -> End {
        if let Flow::Break(end) = self.send(protocol::connected(self.user.id())).await {
            return end;
        }
        loop {
            let event = self.wake().await;
            if let Flow::Break(end) = self.handle(event).await {
                return end;
            }
        }
    }

    /// Waits for whatever comes first. News are looked for at every turn, everything else when it has called: it keeps
    /// our waker in the socket, the alarm, the readings and the orders themselves.
    async fn wake(&mut self) -> Event {
        let Self { line, follower, reading, asking, pulse, orders, gate, .. } = self;
        poll_fn(|context| {
            let other = gate.poll(context, |context| {
                let reads = asking.is_none();
                let other = async {
                    tokio::select! {
                        received = line.receive(), if reads => Event::Received(received),
                        Some(read) = OptionFuture::from(reading.as_mut().map(|(_, reading)| reading)) => {
                            Event::Read(read)
                        }
                        Some(answer) = OptionFuture::from(asking.as_mut().map(|asked| &mut asked.answer)) => {
                            Event::Answer(answer)
                        }
                        () = pulse.wait(None) => Event::Time,
                        Some(order) = orders.next() => Event::Order(order),
                    }
                };
                pin!(other).poll(context)
            });
            if other.is_ready() {
                // There may be more, and what it is about to change.
                gate.open();
                return other;
            }
            follower.poll_take(context).map(Event::News)
        })
        .await
    }

    async fn handle(&mut self, event: Event) -> Flow {
        match event {
            Event::Received(received) => self.hear(received).await,
            Event::News(taken) => self.tell(taken).await,
            Event::Read(read) => Box::pin(self.tell_read(read)).await,
            Event::Answer(answer) => Box::pin(self.answered(answer)).await,
            Event::Time => self.time().await,
            Event::Order(Order::Farewell) => {
                self.pulse.leave_within(self.edge.settings.drain_spread);
                go_on()
            }
            Event::Order(Order::Stop) => self.leave(),
        }
    }

    async fn hear(&mut self, received: Received) -> Flow {
        self.pulse.heard();
        match received {
            Received::Alive => go_on(),
            Received::Gone => Flow::Break(End::Gone),
            Received::Broken(close) => {
                let fault = match close {
                    Close::TooBig => FaultKind::TooLarge,
                    _ => FaultKind::BadData,
                };
                end_with(close, protocol::error(Problem::Frame(fault), None))
            }
            Received::Text(text) => {
                self.count_received();
                match self.edge.limits.word(self.id) {
                    Ok(()) => {
                        self.flood.within();
                        Box::pin(self.hear_text(&text)).await
                    }
                    Err(TooOften { retry_after }) => self.drop_flood(retry_after).await,
                }
            }
            // No client of this protocol sends any.
            Received::Binary(_) => {
                self.count_received();
                self.edge.stats.message("other");
                self.refuse(Problem::Invalid).await
            }
        }
    }

    fn count_received(&mut self) {
        self.received += 1;
        self.edge.tally.received();
    }

    /// A message above the rate is not followed; its sender is told, as long as it may still be listening.
    async fn drop_flood(&mut self, retry_after: std::time::Duration) -> Flow {
        self.edge.tally.refused(Refused::Rate);
        let problem = Problem::TooOften { retry_after };
        match self.flood.above() {
            Above::Told => self.send(protocol::error(problem, None)).await,
            Above::Silent => go_on(),
            Above::Ended => end_with(Close::Policy, protocol::error(problem, None)),
        }
    }

    async fn hear_text(&mut self, text: &Utf8Bytes) -> Flow {
        let message = match ClientMessage::parse(text, self.user.id()) {
            Ok(message) => message,
            Err(problem) => return self.refuse(problem).await,
        };
        match message {
            ClientMessage::Subscribe { channel, since } => {
                self.edge.stats.message("subscribe");
                return self.subscribe(channel, since).await;
            }
            ClientMessage::Unsubscribe(channel) => {
                self.edge.stats.message("unsubscribe");
                self.unsubscribe(&channel).await?;
            }
            ClientMessage::Ping => {
                self.edge.stats.message("ping");
                self.send(protocol::pong()).await?;
            }
            ClientMessage::Refresh(token) => {
                self.edge.stats.message("refresh");
                return self.refresh(&token).await;
            }
            ClientMessage::Unknown => {
                self.edge.stats.message("other");
                self.edge.tally.refused(Refused::Unknown);
            }
        }
        self.bad = 0;
        go_on()
    }

    /// Says why a message is not followed; too many of them in a row end the connection.
    async fn refuse(&mut self, problem: Problem) -> Flow {
        self.edge.tally.refused(Refused::Invalid);
        self.bad += 1;
        let error = protocol::error(problem, None);
        if self.bad > BAD_MESSAGES_MAX {
            return end_with(Close::Policy, error);
        }
        self.send(error).await
    }

    async fn refresh(&mut self, token: &settings::Secret) -> Flow {
        match self.edge.users.verify(token.expose()) {
            Ok(fresh) if fresh.id() == self.user.id() => {
                let expires_at = fresh.expires_at();
                self.pulse.renew(expires_at, &self.edge.clock);
                self.user = fresh;
                self.bad = 0;
                self.send(protocol::refreshed(expires_at)).await
            }
            Ok(_) => self.refuse(Problem::BadToken(FaultKind::Forbidden)).await,
            Err(error) => self.refuse(Problem::BadToken(error.fault())).await,
        }
    }

    async fn tell(&mut self, taken: Taken<News>) -> Flow {
        let (mut first, mut more, mut messages): (Option<News>, Vec<News>, usize) = (None, Vec::new(), 0);
        let (mut next, mut is_late) = (Some(taken), false);
        while let Some(taken) = next {
            let Taken::Item(news) = taken else {
                is_late = true;
                break;
            };
            if self.is_news(&news) {
                messages += news.texts().len();
                // Almost always there is one.
                match &first {
                    None => first = Some(news),
                    Some(_) => more.push(news),
                }
            }
            next = if messages < BATCH_MAX { self.follower.try_take() } else { None };
        }
        if let Some(first) = &first {
            self.count_delivered(messages);
            if let Err(unsent) = self.line.tell(first, &more).await {
                self.edge.tally.undelivered();
                return Flow::Break(unsent.into());
            }
        }
        if is_late { end_with(Close::SlowFollower, protocol::error(Problem::TooSlow, None)) } else { go_on() }
    }

    fn count_delivered(&mut self, messages: usize) {
        self.delivered += messages as u64;
        self.edge.tally.delivered(messages as u64);
    }

    async fn deliver(&mut self, texts: Vec<Utf8Bytes>) -> Flow {
        if texts.is_empty() {
            return go_on();
        }
        self.count_delivered(texts.len());
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
            return end_with(Close::Expired, protocol::error(Problem::Expired, None));
        }
        if self.pulse.leaves() {
            return self.leave();
        }
        match self.pulse.beat(self.asking.is_some()) {
            None => go_on(),
            Some(Beat::Dead) => end(Close::Heartbeat),
            Some(Beat::Ping) => match self.line.ping().await {
                Ok(()) => go_on(),
                Err(unsent) => Flow::Break(unsent.into()),
            },
        }
    }

    fn leave(&self) -> Flow {
        end_with(Close::GoingAway, protocol::reconnect(reconnect_after()))
    }
}
