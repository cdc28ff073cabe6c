//! What one client has said in one namespace and its task has not heard yet.
//!
//! The library reads a connection however slowly what it reads is dealt with, and hands every packet on at once. So the
//! packets of one socket wait here, in their order, and no more of them than a limit.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use socketioxide::{
    adapter::LocalAdapter,
    extract::AckSender,
    handler::{FromMessageParts as _, MessageHandler, Value as Packet},
    socket::Socket,
};

/// Packets that may wait: some seconds of audio.
const PACKETS_MAX: usize = 256;

/// Their bytes: two of the largest kind.
const BYTES_MAX: usize = 2 * 1024 * 1024;

/// A packet as it came: JSON that is not read yet, the binary parts that it refers to, and how it is acknowledged.
pub(super) struct Said {
    pub(super) json: String,
    pub(super) binary: Vec<Bytes>,
    pub(super) ack: Option<AckSender>,
}

impl Said {
    fn len(&self) -> usize {
        self.json.len() + self.binary.iter().map(Bytes::len).sum::<usize>()
    }
}

/// What is next in an inbox.
pub(super) enum Next {
    Said(Said),
    /// There was more than may wait. Nothing after it is kept.
    Overflow,
    /// The client has left the namespace, or is gone.
    Gone,
}

/// The packets of one socket.
#[derive(Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
    wake: AtomicWaker,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Said>,
    bytes: usize,
    overflown: bool,
    gone: bool,
}

impl Inbox {
    /// Takes in what the client said. Never waits.
    fn put(&self, said: Said) {
        {
            let mut state = self.lock();
            let fits = state.waiting.len() < PACKETS_MAX && state.bytes + said.len() <= BYTES_MAX;
            if state.overflown || !fits {
                state.overflown = true;
            } else {
                state.bytes += said.len();
                state.waiting.push_back(said);
            }
        }
        self.wake.wake();
    }

    /// Nothing more will come.
    pub(super) fn end(&self) {
        self.lock().gone = true;
        self.wake.wake();
    }

    /// The next packet. Cancel-safe. One task at a time may wait.
    pub(super) async fn next(&self) -> Next {
        poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&self, context: &Context<'_>) -> Poll<Next> {
        self.wake.register(context.waker());
        let mut state = self.lock();
        if let Some(said) = state.waiting.pop_front() {
            state.bytes -= said.len();
            if state.waiting.is_empty() {
                // Most sockets are idle most of the time.
                state.waiting = VecDeque::new();
            }
            return Poll::Ready(Next::Said(said));
        }
        match (state.overflown, state.gone) {
            (_, true) => Poll::Ready(Next::Gone),
            (true, false) => Poll::Ready(Next::Overflow),
            (false, false) => Poll::Pending,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the library leaves the packets of a socket.
pub(super) struct Slot(pub(super) Arc<Inbox>);

impl MessageHandler<LocalAdapter, Slot> for Slot {
    fn call(&self, socket: Arc<Socket>, mut packet: Packet, ack_id: Option<i64>) {
        let ack = ack_id.and_then(|_| AckSender::from_message_parts(&socket, &mut packet, &ack_id).ok());
        // A packet of the parser that we use is text, with its binary parts beside it.
        let Packet::Str(json, binary) = packet else { return };
        let binary = binary.map(Vec::from).unwrap_or_default();
        self.0.put(Said { json: json.as_str().to_owned(), binary, ack });
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn said(json: &str, binary: usize) -> Said {
        Said { json: json.to_owned(), binary: vec![Bytes::from(vec![0; binary])], ack: None }
    }

    fn next(inbox: &Inbox) -> Option<String> {
        Some(match inbox.next().now_or_never()? {
            Next::Said(said) => said.json,
            Next::Overflow => "overflow".to_owned(),
            Next::Gone => "gone".to_owned(),
        })
    }

    #[test]
    fn packets_come_in_their_order_and_then_the_end() {
        let inbox = Inbox::default();
        assert_eq!(next(&inbox), None);
        inbox.put(said("1", 0));
        inbox.put(said("2", 0));
        inbox.end();
        for expected in ["1", "2", "gone", "gone"] {
            assert_eq!(next(&inbox).as_deref(), Some(expected));
        }
    }

    #[test]
    fn what_is_too_much_ends_what_is_heard() {
        let inbox = Inbox::default();
        (0..=PACKETS_MAX).for_each(|_| inbox.put(said("x", 0)));
        (0..PACKETS_MAX).for_each(|_| assert_eq!(next(&inbox).as_deref(), Some("x")));
        inbox.put(said("late", 0));
        assert_eq!(next(&inbox).as_deref(), Some("overflow"), "and what came after it is not heard");

        let inbox = Inbox::default();
        inbox.put(said("", BYTES_MAX));
        inbox.put(said("y", 0));
        assert_eq!((next(&inbox).as_deref(), next(&inbox).as_deref()), (Some(""), Some("overflow")));
    }
}
