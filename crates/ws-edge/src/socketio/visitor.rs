//! One client in one namespace, as the task that serves it sees it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use socketioxide::{
    SendError, SocketError,
    extract::AckSender,
    socket::{DisconnectReason, Socket},
};
use tokio::time::{Instant, sleep};

use super::{
    inbox::{Inbox, Next, Said, Slot},
    transport,
};
use crate::{Edge, close::Close, socket::Unsent};

/// How often a full connection is looked at again: from the first to the last. The library does not tell when there
/// is room.
const ROOM_INTERVAL: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));

/// What a client has said.
pub(crate) enum Heard {
    Event(Event),
    /// A packet that is no event with arguments.
    Unreadable,
    /// More at once than may wait.
    TooMany,
    /// It has left, or is gone.
    Gone,
}

/// An event of a client.
pub(crate) struct Event {
    pub(crate) name: String,
    /// Its arguments. Binary ones are placeholders here.
    pub(crate) args: Vec<Value>,
    /// The binary parts, in the order of their numbers.
    pub(crate) binary: Vec<Bytes>,
    /// Set when the client wants to know what became of it.
    pub(crate) reply: Option<Reply>,
}

/// How an event is acknowledged.
pub(crate) struct Reply(AckSender);

impl Reply {
    /// Tells the client. Lost when the client does not read: it is about to be too slow for everything.
    pub(crate) fn send(self, body: &(impl Serialize + ?Sized)) {
        let _ = self.0.send(body);
    }
}

/// A client in a namespace.
pub(crate) struct Visitor {
    edge: Arc<Edge>,
    socket: Arc<Socket>,
    inbox: Arc<Inbox>,
}

impl Visitor {
    /// A client whose connection to a namespace was accepted a moment ago: nothing that it says from now on is missed.
    pub(super) fn new(edge: &Arc<Edge>, socket: Arc<Socket>) -> Self {
        let inbox = Arc::new(Inbox::default());
        socket.on_fallback(Slot(inbox.clone()));
        let left = inbox.clone();
        socket.on_disconnect(async move |_: DisconnectReason| left.end());
        // It may have gone before it could be noticed.
        if !socket.connected() {
            inbox.end();
        }
        Self { edge: edge.clone(), socket, inbox }
    }

    /// The id by which the client knows its connection to this namespace.
    pub(crate) fn id(&self) -> String {
        self.socket.id.to_string()
    }

    /// Waits for what it says next. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Heard {
        match self.inbox.next().await {
            Next::Said(said) => event(said).map_or(Heard::Unreadable, Heard::Event),
            Next::Overflow => Heard::TooMany,
            Next::Gone => Heard::Gone,
        }
    }

    /// Whether it is still there, as far as its pings tell.
    pub(crate) fn is_connected(&self) -> bool {
        self.socket.connected()
    }

    /// Tells it something, within the time limit.
    pub(crate) async fn emit(&mut self, name: &str, body: &(impl Serialize + ?Sized)) -> Result<(), Unsent> {
        let began = Instant::now();
        let mut pause = ROOM_INTERVAL.0;
        loop {
            match self.socket.emit(name, body) {
                Ok(()) => return Ok(()),
                Err(SendError::Socket(SocketError::InternalChannelFull)) => {}
                Err(SendError::Socket(_)) => return Err(Unsent::Gone),
                Err(SendError::Serialize(error)) => {
                    tracing::error!(%error, name, "an event that cannot be written");
                    return Ok(());
                }
            }
            if began.elapsed() >= self.edge.settings.write_limit {
                return Err(Unsent::TooSlow);
            }
            sleep(pause).await;
            pause = (pause * 2).min(ROOM_INTERVAL.1);
        }
    }

    /// Ends it. A client comes back by itself when its connection is lost, but not when it is sent out of a namespace:
    /// so whoever shall come back loses the connection, with every namespace on it.
    pub(crate) async fn leave(self, close: Close) {
        if !self.socket.connected() {
            return;
        }
        if close.invites_back() {
            transport::cut(&self.edge, &self.socket).await;
        } else if self.socket.clone().disconnect().is_err() {
            // Full: it does not read, so it cannot be told.
            transport::cut(&self.edge, &self.socket).await;
        }
    }
}

/// An event as a packet writes it: `["name", …arguments]`.
fn event(said: Said) -> Option<Event> {
    let Said { json, binary, ack } = said;
    let mut args: Vec<Value> = serde_json::from_str(&json).ok()?;
    if args.is_empty() {
        return None;
    }
    let Value::String(name) = args.remove(0) else { return None };
    Some(Event { name, args, binary, reply: ack.map(Reply) })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_have_a_name_and_arguments() {
        let read = |json: &str| {
            let said = Said { json: json.to_owned(), binary: Vec::new(), ack: None };
            event(said).map(|event| (event.name, event.args))
        };
        assert_eq!(read(r#"["a"]"#), Some(("a".to_owned(), vec![])));
        assert_eq!(read(r#"["a",1,{"b":null}]"#), Some(("a".to_owned(), vec![json!(1), json!({"b": null})])));
        for wrong in ["", "[]", "[1]", "[{}]", "{}", r#"["a""#, r#""a""#, &"[".repeat(1000)] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
