//! What the followers of a session are told, from the bus and from Postgres to their queues.
//!
//! One feed per followed session, as long as it has followers; one subscription to the bus for the whole process.
//! The bus only rings: whatever it leaves out is read from Postgres.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use event_bus::{Event, Received, Subscriber};
use fanout::{Follower, Hub};
use futures_util::future::{BoxFuture, OptionFuture};
use model::{Caption, Final, Sequence, SessionSlug, StreamId, StreamState, StreamStatus, Topic};
use storage::{Storage, StorageError};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep, sleep_until},
};

use crate::{
    Edge,
    metrics::Tally,
    order::{Accepted, Order},
    update::Update,
};

/// Events that wait for one feed. When it is full, a partial is lost and a final is read from Postgres.
const INBOX_MAX: usize = 256;

/// Subscriptions that wait to be made or ended.
const WISHES_MAX: usize = 1_024;

/// Finals in one page from Postgres.
const PAGE: u32 = 200;

/// How long an earlier final may be overtaken by a later one on the bus before Postgres is asked for it.
const REORDER_GRACE: Duration = Duration::from_millis(50);

/// Wait between attempts while Postgres is away: doubles from the first to the last.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// How often a feed looks whether it still has followers: a reload of the page should find it.
const LINGER: Duration = Duration::from_secs(5);

/// The same while the edge drains and feeds hold it up.
const LINGER_DRAINING: Duration = Duration::from_millis(100);

/// A stream of which nothing was heard for so long is gone with its edge. Sources repeat their state every ping
/// interval.
const STATE_LIMIT: Duration = Duration::from_secs(60);

/// Streams of one session whose state is kept.
const STREAMS_MAX: usize = 256;

/// The feeds of this process.
pub(crate) struct Feeds {
    pub(crate) hub: Hub<SessionSlug, Update>,
    open: Mutex<HashMap<SessionSlug, Arc<Feed>>>,
    wishes: mpsc::Sender<SessionSlug>,
}

/// One followed session.
pub(crate) struct Feed {
    inbox: mpsc::Sender<Event>,
    /// The bus left something out: ask Postgres.
    missed: AtomicBool,
    wake: Notify,
    states: Mutex<States>,
    /// Whether the feed knows from where on it tells every final.
    begun: watch::Sender<bool>,
    /// How often somebody wanted to be sure that everything stored was told, and which of these wishes are met.
    asked: AtomicU64,
    answered: watch::Sender<u64>,
}

/// A place among the followers of a session.
pub(crate) struct Following {
    follower: Follower<SessionSlug, Update>,
    feed: Arc<Feed>,
}

impl Following {
    pub(crate) fn follower(&self) -> &Follower<SessionSlug, Update> {
        &self.follower
    }

    /// What is known of the session's streams.
    pub(crate) fn state(&self) -> Option<StreamState> {
        self.feed.lock_states().overall()
    }

    /// Ends when every final that is stored by now waits in the follower's queue, or was taken from it.
    pub(crate) fn caught_up(&self) -> BoxFuture<'static, ()> {
        let feed = self.feed.clone();
        Box::pin(async move {
            let mut answered = feed.answered.subscribe();
            let ticket = feed.asked.fetch_add(1, Ordering::AcqRel) + 1;
            feed.catch_up();
            let _ = answered.wait_for(|answered| *answered >= ticket).await;
        })
    }

    /// The finals after `after`, at most a page of them: less than a page means that everything later comes by the
    /// follower. Waits however long Postgres is away.
    pub(crate) fn page(&self, storage: Storage, after: Sequence) -> BoxFuture<'static, Page> {
        let (session, feed) = (self.follower.topic().clone(), self.feed.clone());
        Box::pin(async move {
            // Read before the feed has its start, the page could end before it, and what lies between be told by
            // neither.
            let mut begun = feed.begun.subscribe();
            // The feed outlives its followers, so the sender is there.
            let _ = begun.wait_for(|begun| *begun).await;
            let mut pause = BACK_OFF.0;
            loop {
                match storage.finals_since(&session, after, PAGE).await {
                    Ok(finals) => {
                        let is_last = finals.len() < usize::try_from(PAGE).unwrap_or(usize::MAX);
                        return Page { finals, is_last };
                    }
                    Err(error) => tracing::warn!(%error, "replay finals"),
                }
                sleep(pause).await;
                pause = (pause * 2).min(BACK_OFF.1);
            }
        })
    }
}

/// Finals of the past.
pub(crate) struct Page {
    pub(crate) finals: Vec<Final>,
    /// Whether what follows comes live.
    pub(crate) is_last: bool,
}

impl Feeds {
    /// The feeds, and the subscriptions that they will wish for (for [`listen`]).
    pub(crate) fn new(queue: usize) -> (Self, mpsc::Receiver<SessionSlug>) {
        let (wishes, wished) = mpsc::channel(WISHES_MAX);
        (Self { hub: Hub::new(queue), open: Mutex::default(), wishes }, wished)
    }

    /// Joins a session, whose feed starts if it has none.
    pub(crate) fn follow(&self, edge: &Arc<Edge>, session: &SessionSlug) -> Following {
        let mut open = self.lock();
        // Under the lock, so that a feed that finds no followers cannot end between these two.
        let follower = self.hub.follow(session.clone());
        if let Some(feed) = open.get(session) {
            return Following { follower, feed: feed.clone() };
        }
        let (inbox, events) = mpsc::channel(INBOX_MAX);
        let feed = Arc::new(Feed {
            inbox,
            missed: AtomicBool::new(false),
            wake: Notify::new(),
            states: Mutex::default(),
            begun: watch::Sender::new(false),
            asked: AtomicU64::new(0),
            answered: watch::Sender::new(0),
        });
        open.insert(session.clone(), feed.clone());
        edge.life.spawn(run(edge.clone(), session.clone(), feed.clone(), events));
        Following { follower, feed }
    }

    /// How many follow each session here.
    pub(crate) fn followers(&self) -> Vec<(SessionSlug, usize)> {
        let sessions: Vec<SessionSlug> = self.lock().keys().cloned().collect();
        sessions.into_iter().map(|session| (session.clone(), self.hub.followers(&session))).collect()
    }

    /// Ends a feed that has no followers.
    fn end(&self, session: &SessionSlug) -> bool {
        let mut open = self.lock();
        let unfollowed = self.hub.followers(session) == 0;
        if unfollowed {
            open.remove(session);
        }
        unfollowed
    }

    fn feed(&self, session: &SessionSlug) -> Option<Arc<Feed>> {
        self.lock().get(session).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SessionSlug, Arc<Feed>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Feed {
    fn catch_up(&self) {
        self.missed.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    fn lock_states(&self) -> std::sync::MutexGuard<'_, States> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hears the bus for all feeds, until the hard stop.
pub(crate) async fn listen(
    edge: Arc<Edge>,
    mut subscriber: Subscriber,
    mut wishes: mpsc::Receiver<SessionSlug>,
) {
    loop {
        tokio::select! {
            () = edge.life.stopping().cancelled() => return,
            session = wishes.recv() => {
                let Some(session) = session else { return };
                let topic = Topic::Session(session.clone());
                // What counts is what the feeds need now, whoever wished and in whatever order.
                match edge.feeds.feed(&session) {
                    Some(feed) => {
                        subscriber.subscribe(&topic).await;
                        feed.catch_up();
                    }
                    None => subscriber.unsubscribe(&topic).await,
                }
            }
            received = subscriber.recv() => match received {
                Received::Event { topic: Topic::Session(session), event } => {
                    let Some(feed) = edge.feeds.feed(&session) else { continue };
                    let is_final = matches!(event, Event::Caption(Caption::Final(_)));
                    if feed.inbox.try_send(event).is_err() && is_final {
                        feed.catch_up();
                    }
                }
                Received::Event { .. } => {}
                Received::Gap => edge.feeds.lock().values().for_each(|feed| feed.catch_up()),
            },
        }
    }
}

/// What was read from Postgres.
enum Read {
    Last(Sequence),
    After(Vec<Final>),
}

async fn read(
    storage: Storage,
    session: SessionSlug,
    after: Option<Sequence>,
    delay: Duration,
) -> Result<Read, StorageError> {
    sleep(delay).await;
    match after {
        None => storage.last_sequence(&Topic::Session(session)).await.map(Read::Last),
        Some(after) => storage.finals_since(&session, after, PAGE).await.map(Read::After),
    }
}

/// One feed, until nobody follows it.
async fn run(edge: Arc<Edge>, session: SessionSlug, feed: Arc<Feed>, mut events: mpsc::Receiver<Event>) {
    let wish = async |session: &SessionSlug| edge.feeds.wishes.send(session.clone()).await.is_ok();
    wish(&session).await;
    let mut teller = Teller { edge: &edge, session: &session, feed: &feed, order: Order::default() };
    let mut reading: Option<BoxFuture<'static, Result<Read, StorageError>>> = None;
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
            reading = Some(Box::pin(read(edge.storage.clone(), session.clone(), position, delay)));
        }
        tokio::select! {
            () = edge.life.stopping().cancelled() => return,
            event = events.recv() => if let Some(event) = event { teller.hear(event) },
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
                        // A gap that Postgres cannot fill yet is asked for less and less often.
                        pause = if teller.order.has_gap() { longer(pause) } else { Duration::ZERO };
                    }
                    Some(Err(error)) => {
                        pause = longer(pause);
                        tracing::warn!(%error, retry_ms = pause.as_millis(), "refill captions");
                        feed.missed.store(true, Ordering::Release);
                    }
                    None => {}
                }
            }
            () = feed.wake.notified() => {}
            () = sleep_until(look) => {
                if edge.feeds.end(&session) {
                    wish(&session).await;
                    return;
                }
                teller.forget_streams();
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
struct Teller<'a> {
    edge: &'a Edge,
    session: &'a SessionSlug,
    feed: &'a Feed,
    order: Order,
}

impl Teller<'_> {
    fn hear(&mut self, event: Event) {
        match event {
            Event::Caption(Caption::Partial(partial)) => {
                self.state(partial.utterance.stream, StreamState::Ready);
                if self.order.is_open(partial.utterance) {
                    self.tell(Caption::Partial(partial));
                }
            }
            Event::Caption(Caption::Final(segment)) => match self.order.accept(segment) {
                Accepted::Ready(finals) => self.tell_all(finals),
                Accepted::Waits => {}
                Accepted::Duplicate => self.tally().duplicate_final(),
            },
            Event::Status(StreamStatus { stream, state, .. }) => self.state(stream, state),
            Event::SessionEnded => self.edge.sessions.ended(self.session),
        }
    }

    /// Takes in what Postgres says; true when there is more to read.
    fn found(&mut self, found: Read) -> bool {
        match found {
            Read::Last(stored) => {
                let finals = self.order.begin(stored);
                self.tell_all(finals);
                self.feed.begun.send_replace(true);
                false
            }
            Read::After(page) => {
                let full = page.len() >= usize::try_from(PAGE).unwrap_or(usize::MAX);
                if !page.is_empty() {
                    self.tally().refill();
                }
                let finals = self.order.refill(page);
                self.tell_all(finals);
                full
            }
        }
    }

    fn tell_all(&self, finals: Vec<Final>) {
        for segment in finals {
            self.tell(Caption::Final(segment));
        }
    }

    fn tell(&self, caption: Caption) {
        let made_at = match &caption {
            Caption::Partial(partial) => partial.at,
            Caption::Final(segment) => segment.at,
        };
        self.edge.feeds.hub.offer(self.session, &Update::caption(caption));
        self.tally().caption(made_at, self.edge.clock.now());
    }

    fn state(&self, stream: StreamId, state: StreamState) {
        let changed = self.feed.lock_states().note(stream, state);
        self.tell_state(changed);
    }

    fn forget_streams(&self) {
        let changed = self.feed.lock_states().forget(STATE_LIMIT);
        self.tell_state(changed);
    }

    fn tell_state(&self, changed: Option<StreamState>) {
        let Some(state) = changed else { return };
        let update = Update::state(self.session.clone(), state, self.edge.clock.now());
        self.edge.feeds.hub.offer(self.session, &update);
        self.tally().event();
    }

    fn tally(&self) -> &Tally {
        &self.edge.tally
    }
}

/// What is known of the streams of a session.
#[derive(Default)]
struct States {
    streams: HashMap<StreamId, (StreamState, Instant)>,
    told: Option<StreamState>,
}

impl States {
    /// Takes in a stream's state; returns the session's when that changed by it.
    fn note(&mut self, stream: StreamId, state: StreamState) -> Option<StreamState> {
        if state == StreamState::Stopped {
            self.streams.remove(&stream);
        } else if self.streams.len() < STREAMS_MAX || self.streams.contains_key(&stream) {
            self.streams.insert(stream, (state, Instant::now()));
        }
        self.changed()
    }

    /// Lets go of streams that are silent for longer than `limit`.
    fn forget(&mut self, limit: Duration) -> Option<StreamState> {
        self.streams.retain(|_, (_, heard)| heard.elapsed() < limit);
        self.changed()
    }

    fn changed(&mut self) -> Option<StreamState> {
        let overall = if self.streams.values().any(|(state, _)| *state == StreamState::Ready) {
            StreamState::Ready
        } else if self.streams.is_empty() {
            // Before anything was heard there is nothing to say.
            self.told.map(|_| StreamState::Stopped)?
        } else {
            StreamState::Connecting
        };
        let changed = self.told != Some(overall);
        self.told = Some(overall);
        changed.then_some(overall)
    }

    fn overall(&self) -> Option<StreamState> {
        self.told
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_session_is_ready_while_any_stream_is() {
        use StreamState::{Connecting, Ready, Stopped};
        let (one, two) = (StreamId(Uuid::from_u128(1)), StreamId(Uuid::from_u128(2)));
        let mut states = States::default();
        assert_eq!(states.note(one, Stopped), None, "nothing was ever there");
        for (stream, state, told) in [
            (one, Connecting, Some(Connecting)),
            (one, Connecting, None),
            (one, Ready, Some(Ready)),
            (two, Connecting, None),
            (one, Stopped, Some(Connecting)),
            (two, Ready, Some(Ready)),
            (two, Stopped, Some(Stopped)),
            (two, Stopped, None),
        ] {
            assert_eq!(states.note(stream, state), told);
        }
        assert_eq!(states.overall(), Some(Stopped));
        states.note(one, Ready);
        assert_eq!(states.forget(Duration::ZERO), Some(Stopped));
    }
}
