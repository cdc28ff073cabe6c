use std::{
    collections::HashSet,
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt};
use model::{Topic, TraceContext};
use redis::{PushInfo, PushKind, Value, aio::MultiplexedConnection, aio::SendError};
use tokio::{
    sync::{Notify, mpsc},
    time::sleep,
};

use crate::{
    BusError, Event,
    channels::Channels,
    connection::{Server, unavailable},
    envelope::{self, Heard, Unreadable},
    others,
};

/// Events that wait for [`Subscriber::recv`], about 2 MB. When more come they are all dropped and become one
/// [`Received::Gap`]: partials would be stale, finals are in Postgres.
pub const QUEUE_EVENTS_MAX: usize = 4096;

/// Counts connections of subscribers that broke.
pub const CONNECTIONS_LOST_TOTAL: &str = "event_bus_connections_lost_total";

/// Counts gaps reported, by `reason`: the connection was away, or the listener too slow.
pub const GAPS_TOTAL: &str = "event_bus_gaps_total";

/// Counts messages skipped, by `reason`: another release's version or kind, or malformed.
pub const IGNORED_TOTAL: &str = "event_bus_ignored_total";

/// A connection that was silent for so long is asked whether it lives.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// Wait before the next attempt to connect: doubles from the first to the last.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Channels in one SUBSCRIBE, so that its answer fits the time limit also for thousands of topics.
const CHANNELS_PER_COMMAND: usize = 500;

const AWAY: &str = "away";
const OVERFLOW: &str = "overflow";

pub(crate) fn describe_metrics() {
    metrics::describe_counter!(CONNECTIONS_LOST_TOTAL, "Connections of subscribers that broke");
    metrics::describe_counter!(GAPS_TOTAL, "Times that events may have been missed, by reason");
    metrics::describe_counter!(IGNORED_TOTAL, "Messages that were skipped, by reason");
    metrics::counter!(CONNECTIONS_LOST_TOTAL).absolute(0);
    for reason in [AWAY, OVERFLOW] {
        metrics::counter!(GAPS_TOTAL, "reason" => reason).absolute(0);
    }
    for reason in Unreadable::ALL {
        metrics::counter!(IGNORED_TOTAL, "reason" => reason.label()).absolute(0);
    }
}

/// What [`Subscriber::recv`] yields.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "almost all of them are events, which are moved on at once")]
pub enum Received {
    /// Somebody published.
    Event {
        /// Where.
        topic: Topic,
        /// What.
        event: Event,
        /// The trace that it belongs to.
        trace: Option<TraceContext>,
    },
    /// Events of any topic may have been missed: the connection was away and all topics are subscribed again, or
    /// the listener was too slow. Whoever keeps a sequence reads on from Postgres now.
    Gap,
}

/// Listens to any number of topics over one connection.
///
/// Nothing runs behind it: connecting, subscribing again and noticing a dead connection happen while
/// [`Subscriber::recv`] is polled. Every method may be dropped half-way (`select!`): what was begun goes on with the
/// next call, and nothing is lost.
pub struct Subscriber {
    server: Server,
    channels: Channels,
    topics: HashSet<Topic>,
    /// Whether other back ends are heard, too.
    others: bool,
    /// What the connection has not been told yet.
    changes: Vec<Change>,
    link: Link,
    /// Attempts to connect that failed since the last that did not.
    failures: u32,
    /// Topics were asked for, or were subscribed, while there was no connection.
    gap_owed: bool,
}

enum Link {
    Up(Connection),
    /// Connecting, or telling the connection about changes; kept here so that it survives a dropped `recv`.
    Pending(BoxFuture<'static, Result<Connection, BusError>>),
}

enum Change {
    Subscribe(String),
    Unsubscribe(String),
    SubscribePattern(String),
}

struct Connection {
    redis: MultiplexedConnection,
    events: mpsc::Receiver<PushInfo>,
    overflowed: Arc<AtomicBool>,
    /// Ends when the connection does.
    lost: BoxFuture<'static, ()>,
}

impl Subscriber {
    pub(crate) fn new(server: Server, channels: Channels, others: bool) -> Self {
        let mut subscriber = Self {
            server,
            channels,
            topics: HashSet::new(),
            others,
            changes: Vec::new(),
            link: Link::Pending(futures_util::future::pending().boxed()),
            failures: 0,
            gap_owed: false,
        };
        subscriber.connect_after(Duration::ZERO);
        subscriber
    }

    /// Adds a topic. Returns once Redis has confirmed it, so that whatever is published from here on arrives; or at
    /// once while Redis is away, and then a [`Received::Gap`] says when it is subscribed.
    pub async fn subscribe(&mut self, topic: &Topic) {
        if self.topics.insert(topic.clone()) {
            self.changes.push(Change::Subscribe(self.channels.of(topic)));
        }
        self.confirm().await;
    }

    /// Takes a topic away; nothing of it is received any more.
    pub async fn unsubscribe(&mut self, topic: &Topic) {
        if self.topics.remove(topic) {
            self.changes.push(Change::Unsubscribe(self.channels.of(topic)));
        }
        self.confirm().await;
    }

    /// Waits for the next event. Connects again for ever, with a back-off of at most a second.
    pub async fn recv(&mut self) -> Received {
        loop {
            if !self.advance().await {
                continue;
            }
            if mem::take(&mut self.gap_owed) {
                metrics::counter!(GAPS_TOTAL, "reason" => AWAY).increment(1);
                return Received::Gap;
            }
            let Link::Up(connection) = &mut self.link else { continue };
            if connection.overflowed.swap(false, Ordering::Relaxed) {
                while connection.events.try_recv().is_ok() {}
                metrics::counter!(GAPS_TOTAL, "reason" => OVERFLOW).increment(1);
                return Received::Gap;
            }
            let push = tokio::select! {
                biased;
                push = connection.events.recv() => push,
                () = &mut connection.lost => None,
            };
            match push {
                Some(push) => {
                    if let Some((topic, event, trace)) = read(&push, &self.channels)
                        && self.topics.contains(&topic)
                    {
                        return Received::Event { topic, event, trace };
                    }
                }
                None => self.reconnect(&BusError::Unavailable("the connection ended".to_owned())),
            }
        }
    }
    /// Takes the link one step nearer to being up with every topic subscribed; whether it is there.
    async fn advance(&mut self) -> bool {
        if let Link::Up(_) = self.link {
            if self.changes.is_empty() {
                return true;
            }
            let changes = mem::take(&mut self.changes);
            // The placeholder is replaced at once; nothing can be dropped in between.
            let idle = Link::Pending(futures_util::future::pending().boxed());
            if let Link::Up(connection) = mem::replace(&mut self.link, idle) {
                self.link = Link::Pending(apply(connection, changes).boxed());
            }
        }
        let Link::Pending(pending) = &mut self.link else { return false };
        match pending.await {
            Ok(connection) => {
                if self.failures > 0 {
                    tracing::info!(topics = self.topics.len(), "subscribed to Redis again");
                }
                self.failures = 0;
                self.link = Link::Up(connection);
            }
            Err(error) => self.reconnect(&error),
        }
        self.changes.is_empty() && matches!(self.link, Link::Up(_))
    }

    /// Waits until Redis has confirmed every change, unless it is away.
    async fn confirm(&mut self) {
        while self.failures == 0 {
            if self.advance().await {
                return;
            }
        }
        self.gap_owed = true;
    }

    fn reconnect(&mut self, error: &BusError) {
        if self.failures == 0 {
            tracing::warn!(%error, "no connection to Redis; connecting until there is one");
            metrics::counter!(CONNECTIONS_LOST_TOTAL).increment(1);
        }
        let (first, last) = BACK_OFF;
        let pause = first.saturating_mul(2_u32.saturating_pow(self.failures)).min(last);
        self.failures = self.failures.saturating_add(1);
        self.gap_owed |= !self.topics.is_empty();
        self.connect_after(pause);
    }

    /// Begins to connect, and to subscribe to all there is.
    fn connect_after(&mut self, pause: Duration) {
        self.changes.clear();
        let pattern = self.channels.pattern_of_others().filter(|_| self.others);
        let topics = self.topics.iter().map(|topic| Change::Subscribe(self.channels.of(topic)));
        let changes = pattern.map(Change::SubscribePattern).into_iter().chain(topics).collect();
        self.link = Link::Pending(connect(self.server.clone(), pause, changes).boxed());
    }
}

async fn connect(server: Server, pause: Duration, changes: Vec<Change>) -> Result<Connection, BusError> {
    sleep(pause).await;
    let (queue, events) = mpsc::channel(QUEUE_EVENTS_MAX);
    let overflowed = Arc::new(AtomicBool::new(false));
    let ended = Arc::new(Notify::new());
    let pushes = {
        let (overflowed, ended) = (overflowed.clone(), ended.clone());
        move |push: PushInfo| {
            match push.kind {
                PushKind::Message | PushKind::PMessage => {
                    overflowed.fetch_or(queue.try_send(push).is_err(), Ordering::Relaxed);
                }
                PushKind::Disconnection => ended.notify_one(),
                _ => {}
            }
            Ok::<(), SendError>(())
        }
    };
    let redis = server.open(pushes).await?;
    let lost = lost(redis.clone(), ended).boxed();
    apply(Connection { redis, events, overflowed, lost }, changes).await
}

/// Ends when the connection says so, or no longer answers.
async fn lost(mut redis: MultiplexedConnection, ended: Arc<Notify>) {
    loop {
        tokio::select! {
            () = ended.notified() => return,
            () = sleep(PING_INTERVAL) => {}
        }
        if redis::cmd("PING").exec_async(&mut redis).await.is_err() {
            return;
        }
    }
}

/// Tells Redis about the changes in their order and waits for its confirmations.
async fn apply(mut connection: Connection, changes: Vec<Change>) -> Result<Connection, BusError> {
    let alike = |a: &Change, b: &Change| mem::discriminant(a) == mem::discriminant(b);
    for run in changes.chunk_by(alike).flat_map(|run| run.chunks(CHANNELS_PER_COMMAND)) {
        let names: Vec<&str> = run.iter().map(Change::channel).collect();
        let told = match run.first() {
            Some(Change::Subscribe(_)) => connection.redis.subscribe(names).await,
            Some(Change::SubscribePattern(_)) => connection.redis.psubscribe(names).await,
            _ => connection.redis.unsubscribe(names).await,
        };
        told.map_err(unavailable)?;
    }
    Ok(connection)
}

impl Change {
    fn channel(&self) -> &str {
        let (Self::Subscribe(channel) | Self::Unsubscribe(channel) | Self::SubscribePattern(channel)) = self;
        channel
    }
}

fn read(push: &PushInfo, channels: &Channels) -> Option<Heard> {
    let heard = match push.data.as_slice() {
        [_channel, Value::BulkString(message)] => envelope::decode(message).map(Some),
        [_pattern, Value::BulkString(channel), Value::BulkString(message)] => {
            others::decode(channels.key_of_others(channel)?, message)
        }
        _ => return None,
    };
    heard.unwrap_or_else(|why| {
        metrics::counter!(IGNORED_TOTAL, "reason" => why.label()).increment(1);
        None
    })
}
