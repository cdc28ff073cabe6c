use std::{
    collections::HashMap,
    future::poll_fn,
    hash::Hash,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use crate::queue::{Item, Offered, Queue, Taken};

/// Counts of what became of offers since the start.
#[derive(Debug, Default)]
struct Counts {
    queued: AtomicU64,
    replaced: AtomicU64,
    dropped: AtomicU64,
    too_slow: AtomicU64,
}

type Followers<I> = Arc<Vec<(u64, Arc<Queue<I>>)>>;

/// Who follows which topic. Clones are the same hub.
pub struct Hub<T, I: Item> {
    inner: Arc<Inner<T, I>>,
}

struct Inner<T, I: Item> {
    // Offers read a snapshot without holding the lock over the loop; joins and leaves copy what such a snapshot holds.
    topics: Mutex<HashMap<T, Followers<I>>>,
    next_id: AtomicU64,
    capacity: usize,
    counts: Counts,
}

impl<T, I: Item> Clone for Hub<T, I> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<T: Clone + Eq + Hash, I: Item> Hub<T, I> {
    /// A hub whose followers may have up to `capacity` items waiting.
    pub fn new(capacity: usize) -> Self {
        let inner = Inner {
            topics: Mutex::default(),
            next_id: AtomicU64::new(0),
            capacity: capacity.max(1),
            counts: Counts::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// A place in no topic yet.
    pub fn follower(&self) -> Follower<T, I> {
        let id = self.inner.next_id.fetch_add(1, Ordering::Relaxed);
        let queue = Arc::new(Queue::new(self.inner.capacity));
        Follower { inner: self.inner.clone(), topics: Vec::new(), id, queue }
    }

    /// A place in one topic: everything that is offered from now on arrives.
    pub fn follow(&self, topic: T) -> Follower<T, I> {
        let mut follower = self.follower();
        follower.join(topic);
        follower
    }

    /// Hands an item to every follower of `topic`; returns how many there are. Never waits.
    pub fn offer(&self, topic: &T, item: &I) -> usize {
        let Some(followers) = self.inner.lock().get(topic).cloned() else { return 0 };
        for (_, queue) in followers.iter() {
            let counts = &self.inner.counts;
            let count = match queue.offer(item.clone()) {
                Offered::Queued => &counts.queued,
                Offered::Replaced => &counts.replaced,
                Offered::Dropped => &counts.dropped,
                Offered::TooSlow => &counts.too_slow,
                Offered::Closed => continue,
            };
            count.fetch_add(1, Ordering::Relaxed);
        }
        followers.len()
    }

    /// How many follow `topic`.
    pub fn followers(&self, topic: &T) -> usize {
        self.inner.lock().get(topic).map_or(0, |followers| followers.len())
    }

    /// Replaceable items that were dropped because a queue was full, since the start.
    pub fn dropped(&self) -> u64 {
        self.inner.counts.dropped.load(Ordering::Relaxed)
    }

    /// Replaceable items that a newer one overtook while they waited, since the start.
    pub fn replaced(&self) -> u64 {
        self.inner.counts.replaced.load(Ordering::Relaxed)
    }

    /// Followers that were too slow, since the start.
    pub fn too_slow(&self) -> u64 {
        self.inner.counts.too_slow.load(Ordering::Relaxed)
    }

    /// Items that were queued, since the start.
    pub fn queued(&self) -> u64 {
        self.inner.counts.queued.load(Ordering::Relaxed)
    }
}

impl<T: Eq + Hash, I: Item> Inner<T, I> {
    fn leave(&self, topic: &T, id: u64) {
        let mut topics = self.lock();
        let Some(followers) = topics.get_mut(topic) else { return };
        Arc::make_mut(followers).retain(|(follower, _)| *follower != id);
        if followers.is_empty() {
            topics.remove(topic);
        }
    }
}

impl<T, I: Item> Inner<T, I> {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<T, Followers<I>>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in any number of topics, with one queue for all of them. Leaves them when dropped.
pub struct Follower<T: Clone + Eq + Hash, I: Item> {
    inner: Arc<Inner<T, I>>,
    topics: Vec<T>,
    id: u64,
    queue: Arc<Queue<I>>,
}

impl<T: Clone + Eq + Hash, I: Item> Follower<T, I> {
    /// Joins a topic: everything that is offered from now on arrives. False when it was joined before.
    pub fn join(&mut self, topic: T) -> bool {
        if self.topics.contains(&topic) {
            return false;
        }
        let mut topics = self.inner.lock();
        let followers = topics.entry(topic.clone()).or_default();
        Arc::make_mut(followers).push((self.id, self.queue.clone()));
        drop(topics);
        self.topics.push(topic);
        true
    }

    /// Leaves a topic; what it was offered before may still be waiting. False when it was not joined.
    pub fn leave(&mut self, topic: &T) -> bool {
        let Some(index) = self.topics.iter().position(|joined| joined == topic) else { return false };
        let topic = self.topics.swap_remove(index);
        self.inner.leave(&topic, self.id);
        true
    }

    /// The topics that it follows, in no order.
    pub fn topics(&self) -> &[T] {
        &self.topics
    }

    /// Waits for the next item. Cancel-safe. One task at a time may wait.
    pub async fn take(&self) -> Taken<I> {
        poll_fn(|context| self.queue.poll_take(context)).await
    }

    /// As [`Follower::take`], for a task that polls by hand.
    pub fn poll_take(&self, context: &Context<'_>) -> Poll<Taken<I>> {
        self.queue.poll_take(context)
    }

    /// The next item if one is waiting.
    pub fn try_take(&self) -> Option<Taken<I>> {
        self.queue.try_take()
    }
}

impl<T: Clone + Eq + Hash, I: Item> Drop for Follower<T, I> {
    fn drop(&mut self) {
        for topic in &self.topics {
            self.inner.leave(topic, self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Eq)]
    enum Caption {
        Partial(u8, &'static str),
        Final(&'static str),
    }

    impl Item for Caption {
        type Key = u8;
        fn replaces(&self) -> Option<u8> {
            match self {
                Self::Partial(utterance, _) => Some(*utterance),
                Self::Final(_) => None,
            }
        }
    }

    use Caption::{Final, Partial};

    fn drain(follower: &Follower<&'static str, Caption>) -> Vec<Taken<Caption>> {
        let mut taken = Vec::new();
        while let Some(next) = follower.try_take() {
            let last = next == Taken::TooSlow;
            taken.push(next);
            if last {
                break;
            }
        }
        taken
    }

    fn items(captions: &[Caption]) -> Vec<Taken<Caption>> {
        captions.iter().cloned().map(Taken::Item).collect()
    }

    #[test]
    fn items_reach_the_followers_of_their_topic_only() {
        let hub = Hub::new(4);
        let (one, two, other) = (hub.follow("a"), hub.follow("a"), hub.follow("b"));
        assert_eq!(hub.offer(&"a", &Final("x")), 2);
        assert_eq!(drain(&one), items(&[Final("x")]));
        assert_eq!(drain(&two), items(&[Final("x")]));
        assert_eq!(drain(&other), items(&[]));
        drop(one);
        assert_eq!(hub.offer(&"a", &Final("y")), 1);
        drop(two);
        assert_eq!((hub.offer(&"a", &Final("z")), hub.followers(&"a")), (0, 0));
    }

    #[test]
    fn one_follower_of_many_topics_has_one_queue() {
        let hub = Hub::new(4);
        let mut follower = hub.follower();
        assert!(follower.join("a") && follower.join("b") && !follower.join("a"));
        hub.offer(&"a", &Final("1"));
        hub.offer(&"b", &Final("2"));
        hub.offer(&"c", &Final("3"));
        assert_eq!(drain(&follower), items(&[Final("1"), Final("2")]));
        assert!(follower.leave(&"a") && !follower.leave(&"a"));
        assert_eq!((hub.offer(&"a", &Final("4")), hub.offer(&"b", &Final("5"))), (0, 1));
        assert_eq!((drain(&follower), follower.topics()), (items(&[Final("5")]), ["b"].as_slice()));
        drop(follower);
        assert_eq!((hub.followers(&"a"), hub.followers(&"b")), (0, 0));
    }

    #[test]
    fn a_waiting_partial_is_replaced_by_its_successor() {
        let hub = Hub::new(8);
        let follower = hub.follow("a");
        for caption in
            [Partial(1, "so"), Partial(2, "hm"), Partial(1, "so far"), Final("so far."), Partial(2, "hmm")]
        {
            hub.offer(&"a", &caption);
        }
        assert_eq!(drain(&follower), items(&[Partial(1, "so far"), Partial(2, "hmm"), Final("so far.")]));
        assert_eq!(hub.replaced(), 2);
    }

    #[test]
    fn finals_push_partials_out_and_then_the_queue_closes() {
        let hub = Hub::new(2);
        let follower = hub.follow("a");
        for caption in [Partial(1, "a"), Final("1"), Partial(2, "b"), Final("2"), Final("3"), Final("4")] {
            hub.offer(&"a", &caption);
        }
        let mut expected = items(&[Final("1"), Final("2")]);
        expected.push(Taken::TooSlow);
        assert_eq!(drain(&follower), expected);
        assert_eq!((hub.dropped(), hub.too_slow()), (1, 1));
    }

    #[tokio::test]
    async fn a_waiting_follower_wakes() {
        let hub = Hub::new(2);
        let follower = hub.follow("a");
        let taken = async { follower.take().await };
        let offer = async { hub.offer(&"a", &Final("x")) };
        assert_eq!(tokio::join!(taken, offer).0, Taken::Item(Final("x")));
    }
}
