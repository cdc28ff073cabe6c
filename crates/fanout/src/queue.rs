use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;

/// Something that followers receive. Cheap to clone: every follower of a topic gets one.
pub trait Item: Clone + Send + 'static {
    /// Names what this item is the latest state of (the text of an open utterance, say). `None` for an item that
    /// must arrive. Of replaceable items with the same key only the newest is worth sending.
    type Key: PartialEq + Send;

    /// The key of a replaceable item.
    fn replaces(&self) -> Option<Self::Key>;
}

/// What became of an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offered {
    Queued,
    /// It took the place of an older one that was still waiting.
    Replaced,
    /// Replaceable, and there was no room.
    Dropped,
    /// It had to arrive and there was no room: the queue is closed.
    TooSlow,
    /// The queue was closed before.
    Closed,
}

/// What a follower takes from its queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken<I> {
    /// The next item.
    Item(I),
    /// The follower was too slow: everything queued before has been taken, nothing more will come.
    TooSlow,
}

/// One follower's queue.
pub(crate) struct Queue<I: Item> {
    state: Mutex<State<I>>,
    /// The one task that takes. Lighter than a `Notify`, which keeps a list of many: a delivery costs one of these.
    wake: AtomicWaker,
}

struct State<I: Item> {
    items: VecDeque<(Option<I::Key>, I)>,
    capacity: usize,
    closed: bool,
}

impl<I: Item> Queue<I> {
    pub(crate) fn new(capacity: usize) -> Self {
        // Nothing is reserved: most queues of an idle connection stay empty.
        Self {
            state: Mutex::new(State { items: VecDeque::new(), capacity, closed: false }),
            wake: AtomicWaker::new(),
        }
    }

    pub(crate) fn offer(&self, item: I) -> Offered {
        let key = item.replaces();
        let offered = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.offer(key, item)
        };
        self.wake.wake();
        offered
    }

    pub(crate) fn try_take(&self) -> Option<Taken<I>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.items.pop_front() {
            Some((_, item)) => Some(Taken::Item(item)),
            None if state.closed => Some(Taken::TooSlow),
            None => {
                // A burst is over: give its memory back.
                state.items.shrink_to(8);
                None
            }
        }
    }

    /// The next item, or a promise to wake the task that asks. Only one task may ask.
    pub(crate) fn poll_take(&self, context: &Context<'_>) -> Poll<Taken<I>> {
        if let Some(taken) = self.try_take() {
            return Poll::Ready(taken);
        }
        self.wake.register(context.waker());
        // What was offered in between has woken nobody.
        self.try_take().map_or(Poll::Pending, Poll::Ready)
    }
}

impl<I: Item> State<I> {
    fn offer(&mut self, key: Option<I::Key>, item: I) -> Offered {
        if self.closed {
            return Offered::Closed;
        }
        if key.is_some()
            && let Some(waiting) = self.items.iter_mut().rev().find(|(waiting, _)| *waiting == key)
        {
            waiting.1 = item;
            return Offered::Replaced;
        }
        if self.items.len() >= self.capacity {
            if key.is_some() {
                return Offered::Dropped;
            }
            match self.items.iter().position(|(waiting, _)| waiting.is_some()) {
                Some(replaceable) => drop(self.items.remove(replaceable)),
                None => {
                    self.closed = true;
                    return Offered::TooSlow;
                }
            }
        }
        self.items.push_back((key, item));
        Offered::Queued
    }
}
