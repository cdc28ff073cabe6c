//! What the followers of a topic are told, from the bus and from the store to their queues.
//!
//! One feed per followed topic, as long as it has followers; one subscription to the bus for the whole process.
//! The bus only rings: whatever it leaves out is read from the store.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    hash::Hash,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use event_bus::{Event, Received, Subscriber};
use fanout::{Follower, Hub, Item};
use futures_util::future::{BoxFuture, OptionFuture};
use model::{Sequence, Topic};
use telemetry::{Span, SpanKind};
use tokio::{
    sync::{
        Notify,
        mpsc::{self, error::TrySendError},
        watch,
    },
    time::{Instant, sleep, sleep_until},
};

use crate::{
    Edge,
    order::{self, Accepted, Order, Page, Record},
};

/// Events that wait for one feed. When it is full, what is stored is read from the store and anything else is lost.
const INBOX_MAX: usize = 256;

/// Subscriptions that wait to be made or ended.
const WISHES_MAX: usize = 1_024;

/// How long an earlier record may be overtaken by a later one on the bus before the store is asked for it.
const REORDER_GRACE: Duration = Duration::from_millis(50);

/// Wait between attempts while the store is away: doubles from the first to the last.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// How often a feed looks whether it still has followers: a reload of the page should find it.
const LINGER: Duration = Duration::from_secs(5);

/// The same while the edge drains and feeds hold it up.
const LINGER_DRAINING: Duration = Duration::from_millis(100);

/// A kind of topic: where what is told of it is stored, and what of it is told.
pub(crate) trait Story: Send + Sync + Sized + 'static {
    /// Names one.
    type Topic: Clone + Eq + Hash + Send + Sync + 'static;
    /// What is stored of it, each with its place.
    type Record: Record;
    /// What its followers take.
    type Item: Item + Sync;
    /// Why the store does not answer.
    type Away: fmt::Display + Send;

    /// One that was told nothing yet.
    fn new(topic: &Self::Topic) -> Self;

    /// Where the edge has those of this kind.
    fn feeds(edge: &Edge) -> &Feeds<Self>;

    /// Its name on the bus.
    fn on_the_bus(topic: &Self::Topic) -> Topic;

    /// The place of the last record that is stored.
    fn last(edge: &Edge, topic: &Self::Topic) -> BoxFuture<'static, Result<Sequence, Self::Away>>;

    /// What is stored after a place.
    fn after(
        edge: &Edge,
        topic: &Self::Topic,
        after: Sequence,
    ) -> BoxFuture<'static, Result<Page<Self::Record>, Self::Away>>;

    /// An event came by the bus: the record that it is, or what it lets be told at once.
    fn hear(&self, edge: &Edge, event: Event, told: &mut Vec<Self::Item>) -> Option<Self::Record>;

    /// It is a record's turn.
    fn tell(&self, edge: &Edge, record: Self::Record) -> Self::Item;

    /// Time passes.
    fn look(&self, _edge: &Edge) -> Option<Self::Item> {
        None
    }
}

/// The feeds of one kind in this process.
pub(crate) struct Feeds<S: Story> {
    pub(crate) hub: Hub<S::Topic, S::Item>,
    open: Mutex<HashMap<S::Topic, Arc<Feed<S>>>>,
    wishes: Wishes,
}

/// Topics whose subscription may have to change.
#[derive(Clone)]
pub(crate) struct Wishes(mpsc::Sender<Topic>);

/// The wishes of every feed, and what hears them.
pub(crate) fn wishes() -> (Wishes, mpsc::Receiver<Topic>) {
    let (wishes, wished) = mpsc::channel(WISHES_MAX);
    (Wishes(wishes), wished)
}

/// What came by the bus, and the span of handing it on.
type Rung = (Event, Span);

/// One followed topic.
pub(crate) struct Feed<S> {
    pub(crate) story: S,
    inbox: mpsc::Sender<Rung>,
    /// The bus left something out: ask the store.
    missed: AtomicBool,
    wake: Notify,
    /// Whether the feed knows from where on it tells every record.
    begun: watch::Sender<bool>,
    /// How often somebody wanted to be sure that everything stored was told, and which of these wishes are met.
    asked: AtomicU64,
    answered: watch::Sender<u64>,
}

impl<S: Story> Feed<S> {
    /// Ends when every record that is stored by now waits in the followers' queues, or was taken from there.
    pub(crate) fn caught_up(self: &Arc<Self>) -> BoxFuture<'static, ()> {
        let feed = self.clone();
        Box::pin(async move {
            let mut answered = feed.answered.subscribe();
            let ticket = feed.asked.fetch_add(1, Ordering::AcqRel) + 1;
            feed.catch_up();
            let _ = answered.wait_for(|answered| *answered >= ticket).await;
        })
    }

    /// Ends when every record that is stored from then on comes by the followers' queues. Asked before that, the store
    /// could answer with less than what it has then, and the rest be told by nobody.
    pub(crate) async fn begun(&self) {
        // The feed outlives its followers, so the sender is there.
        let _ = self.begun.subscribe().wait_for(|begun| *begun).await;
    }

    fn catch_up(&self) {
        self.missed.store(true, Ordering::Release);
        self.wake.notify_one();
    }
}

/// What is stored after a place; everything after a page that is the last comes by the followers' queues. Waits
/// however long the store is away.
pub(crate) fn replay<S: Story>(
    edge: &Arc<Edge>,
    feed: &Arc<Feed<S>>,
    topic: &S::Topic,
    after: Sequence,
) -> BoxFuture<'static, Page<S::Record>> {
    let (edge, feed, topic) = (edge.clone(), feed.clone(), topic.clone());
    Box::pin(async move {
        feed.begun().await;
        patiently(|| S::after(&edge, &topic, after)).await
    })
}

/// Asks until there is an answer.
pub(crate) async fn patiently<T, E: fmt::Display, F: Future<Output = Result<T, E>>>(
    ask: impl Fn() -> F,
) -> T {
    let mut pause = BACK_OFF.0;
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => tracing::warn!(%error, "read the past of a topic"),
        }
        sleep(pause).await;
        pause = longer(pause);
    }
}

impl<S: Story> Feeds<S> {
    pub(crate) fn new(queue: usize, wishes: Wishes) -> Self {
        Self { hub: Hub::new(queue), open: Mutex::default(), wishes }
    }

    /// Joins a topic, whose feed starts if it has none.
    pub(crate) fn join(
        &self,
        edge: &Arc<Edge>,
        follower: &mut Follower<S::Topic, S::Item>,
        topic: &S::Topic,
    ) -> Arc<Feed<S>> {
        let mut open = self.lock();
        // Under the lock, so that a feed that finds no followers cannot end between these two.
        follower.join(topic.clone());
        if let Some(feed) = open.get(topic) {
            return feed.clone();
        }
        let (inbox, events) = mpsc::channel(INBOX_MAX);
        let feed = Arc::new(Feed {
            story: S::new(topic),
            inbox,
            missed: AtomicBool::new(false),
            wake: Notify::new(),
            begun: watch::Sender::new(false),
            asked: AtomicU64::new(0),
            answered: watch::Sender::new(0),
        });
        open.insert(topic.clone(), feed.clone());
        edge.life.spawn(run(edge.clone(), topic.clone(), feed.clone(), events));
        feed
    }

    /// How many follow each topic here.
    pub(crate) fn followers(&self) -> Vec<(S::Topic, usize)> {
        let topics: Vec<S::Topic> = self.lock().keys().cloned().collect();
        topics.into_iter().map(|topic| (topic.clone(), self.hub.followers(&topic))).collect()
    }

    /// What is known of each topic that is followed here.
    pub(crate) fn stories<R>(&self, read: impl Fn(&S) -> R) -> Vec<(S::Topic, R)> {
        self.lock().iter().map(|(topic, feed)| (topic.clone(), read(&feed.story))).collect()
    }

    /// Something came by the bus.
    fn hear(&self, topic: &S::Topic, event: Event, span: Span) {
        let Some(feed) = self.feed(topic) else { return span.discard() };
        if let Err(TrySendError::Full((_, span)) | TrySendError::Closed((_, span))) =
            feed.inbox.try_send((event, span))
        {
            span.discard();
            feed.catch_up();
        }
    }

    /// The bus may have left out anything.
    fn missed(&self) {
        self.lock().values().for_each(|feed| feed.catch_up());
    }

    /// Makes the subscription what the feeds need now, whoever wished and in whatever order.
    async fn attend(&self, topic: &S::Topic, subscriber: &mut Subscriber) {
        match self.feed(topic) {
            Some(feed) => {
                subscriber.subscribe(&S::on_the_bus(topic)).await;
                feed.catch_up();
            }
            None => subscriber.unsubscribe(&S::on_the_bus(topic)).await,
        }
    }

    /// Ends a feed that has no followers.
    fn end(&self, topic: &S::Topic) -> bool {
        let mut open = self.lock();
        let unfollowed = self.hub.followers(topic) == 0;
        if unfollowed {
            open.remove(topic);
        }
        unfollowed
    }

    /// The feed of a topic that is followed here.
    pub(crate) fn feed(&self, topic: &S::Topic) -> Option<Arc<Feed<S>>> {
        self.lock().get(topic).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<S::Topic, Arc<Feed<S>>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hears the bus for all feeds, until the hard stop.
pub(crate) async fn listen(edge: Arc<Edge>, mut subscriber: Subscriber, mut wishes: mpsc::Receiver<Topic>) {
    loop {
        tokio::select! {
            () = edge.life.stopping().cancelled() => return,
            wish = wishes.recv() => match wish {
                Some(Topic::Session(session)) => edge.transcripts.attend(&session, &mut subscriber).await,
                Some(Topic::Room(room)) => edge.talks.attend(&room, &mut subscriber).await,
                Some(topic) => edge.happenings.attend(&topic, &mut subscriber).await,
                None => return,
            },
            received = subscriber.recv() => match received {
                Received::Event { topic, event, trace } => {
                    let mut span = edge.tracer.span("deliver", SpanKind::Consumer, trace);
                    span.set("messaging.system", "redis");
                    span.set("messaging.operation.type", "process");
                    match topic {
                        Topic::Session(session) => edge.transcripts.hear(&session, event, span),
                        Topic::Room(room) => edge.talks.hear(&room, event, span),
                        topic => edge.happenings.hear(&topic, event, span),
                    }
                }
                Received::Gap => {
                    edge.transcripts.missed();
                    edge.happenings.missed();
                    edge.talks.missed();
                }
            },
        }
    }
}

/// What was read from the store.
enum Read<R> {
    Last(Sequence),
    After(Page<R>),
}

/// A question to the store.
type Reading<S> = BoxFuture<'static, Result<Read<<S as Story>::Record>, <S as Story>::Away>>;

async fn read<S: Story>(
    edge: Arc<Edge>,
    topic: S::Topic,
    after: Option<Sequence>,
    delay: Duration,
) -> Result<Read<S::Record>, S::Away> {
    sleep(delay).await;
    match after {
        None => S::last(&edge, &topic).await.map(Read::Last),
        Some(after) => S::after(&edge, &topic, after).await.map(Read::After),
    }
}

/// One feed, until nobody follows it.
async fn run<S: Story>(
    edge: Arc<Edge>,
    topic: S::Topic,
    feed: Arc<Feed<S>>,
    mut events: mpsc::Receiver<Rung>,
) {
    let feeds = S::feeds(&edge);
    // The listener is gone only when the process is.
    let wish = async || drop(feeds.wishes.0.send(S::on_the_bus(&topic)).await);
    wish().await;
    let mut teller =
        Teller { edge: &edge, topic: &topic, feed: &feed, order: Order::default(), rung: BTreeMap::new() };
    let mut reading: Option<Reading<S>> = None;
    let (mut pause, mut asked) = (Duration::ZERO, 0);
    let mut look = Instant::now() + LINGER;
    loop {
        let position = teller.order.last();
        if reading.is_none()
            && (position.is_none() || feed.missed.swap(false, Ordering::AcqRel) || teller.order.has_gap())
        {
            let grace = if teller.order.has_gap() { REORDER_GRACE } else { Duration::ZERO };
            let delay = pause.max(grace);
            asked = feed.asked.load(Ordering::Acquire);
            reading = Some(Box::pin(read::<S>(edge.clone(), topic.clone(), position, delay)));
        }
        tokio::select! {
            () = edge.life.stopping().cancelled() => return,
            rung = events.recv() => if let Some((event, span)) = rung { teller.hear(event, span) },
            outcome = OptionFuture::from(reading.as_mut()), if reading.is_some() => {
                reading = None;
                match outcome {
                    Some(Ok(found)) => {
                        let is_position = matches!(found, Read::Last(_));
                        if teller.found(found) {
                            feed.missed.store(true, Ordering::Release);
                        } else if !is_position {
                            feed.answered.send_replace(asked);
                        }
                        if *feed.answered.borrow() < feed.asked.load(Ordering::Acquire) {
                            feed.missed.store(true, Ordering::Release);
                        }
                        // A gap that the store cannot fill yet is asked for less and less often.
                        pause = if teller.order.has_gap() { longer(pause) } else { Duration::ZERO };
                    }
                    Some(Err(error)) => {
                        pause = longer(pause);
                        tracing::warn!(%error, retry_ms = pause.as_millis(), "refill a feed");
                        feed.missed.store(true, Ordering::Release);
                    }
                    None => {}
                }
            }
            () = feed.wake.notified() => {}
            () = sleep_until(look) => {
                if feeds.end(&topic) {
                    wish().await;
                    return;
                }
                teller.tell_all(feed.story.look(&edge));
                let draining = edge.life.draining().is_cancelled();
                look = Instant::now() + if draining { LINGER_DRAINING } else { LINGER };
            }
            () = edge.life.draining().cancelled(), if look > Instant::now() + LINGER_DRAINING => {
                look = Instant::now() + LINGER_DRAINING;
            }
        }
    }
}

fn longer(pause: Duration) -> Duration {
    (pause * 2).clamp(BACK_OFF.0, BACK_OFF.1)
}

/// The part of a feed that knows what was told.
struct Teller<'a, S: Story> {
    edge: &'a Edge,
    topic: &'a S::Topic,
    feed: &'a Feed<S>,
    order: Order<S::Record>,
    /// Of records that wait: their rings. Those of what is not traced are not here.
    rung: BTreeMap<Sequence, Span>,
}

impl<S: Story> Teller<'_, S> {
    fn hear(&mut self, event: Event, span: Span) {
        let mut told = Vec::new();
        let Some(record) = self.feed.story.hear(self.edge, event, &mut told) else {
            // Nothing of the kind is traced.
            span.discard();
            return self.tell_all(told);
        };
        self.tell_all(told);
        let sequence = record.sequence();
        match self.order.accept(record) {
            Accepted::Ready(records) => {
                self.keep(sequence, span);
                self.tell(records);
            }
            Accepted::Waits => self.keep(sequence, span),
            Accepted::Duplicate => {
                span.discard();
                self.edge.tally.duplicate();
            }
        }
    }

    /// Keeps the span of a ring until its record is told.
    fn keep(&mut self, sequence: Sequence, span: Span) {
        if span.is_recorded() {
            self.rung.insert(sequence, span);
        }
        if self.rung.len() > order::WAITING_MAX
            && let Some((_, last)) = self.rung.pop_last()
        {
            last.discard();
        }
    }

    /// Takes in what the store says; true when there is more to read.
    fn found(&mut self, found: Read<S::Record>) -> bool {
        match found {
            Read::Last(stored) => {
                let records = self.order.begin(stored);
                self.tell(records);
                self.feed.begun.send_replace(true);
                false
            }
            Read::After(page) => {
                if !page.records.is_empty() {
                    self.edge.tally.refill();
                }
                let more = !page.is_last;
                let records = self.order.refill(page);
                self.tell(records);
                more
            }
        }
    }

    fn tell(&mut self, records: Vec<S::Record>) {
        for record in records {
            let mut span = self.rung.remove(&record.sequence()).unwrap_or_else(Span::none);
            let followers = self.offer(&self.feed.story.tell(self.edge, record));
            span.count("parley.followers", followers);
        }
        // The store had told what these would have.
        while let Some(earliest) = self.rung.first_entry()
            && self.order.last().is_some_and(|last| *earliest.key() <= last)
        {
            earliest.remove().discard();
        }
    }

    fn tell_all(&self, items: impl IntoIterator<Item = S::Item>) {
        for item in items {
            self.offer(&item);
        }
    }

    fn offer(&self, item: &S::Item) -> usize {
        let began = Instant::now();
        let followers = S::feeds(self.edge).hub.offer(self.topic, item);
        self.edge.tally.event(began.elapsed());
        followers
    }
}
