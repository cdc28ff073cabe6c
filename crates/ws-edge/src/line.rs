//! What a client of captions or of notifications speaks through: a WebSocket of its own, or a namespace of Socket.IO, where
//! the `type` of a message is the name of an event.

use tokio_util::sync::CancellationToken;
use tungstenite::Utf8Bytes;

use crate::{
    close::Close,
    news::News,
    socket::{Received, Socket, Unsent},
    socketio::Visitor,
};

mod events;

use events::Events;

pub(crate) use events::Encoded;

/// One client's messages, in and out.
#[expect(
    clippy::large_enum_variant,
    reason = "it lies in the box of its connection, and most are WebSockets"
)]
pub(crate) enum Line {
    WebSocket(Socket),
    SocketIo(Box<Events>),
}

impl Line {
    pub(crate) fn socketio(visitor: Visitor) -> Self {
        Self::SocketIo(Box::new(Events::new(visitor)))
    }

    /// Waits for the next message. Cancel-safe.
    pub(crate) async fn receive(&mut self) -> Received {
        match self {
            Self::WebSocket(socket) => socket.receive().await,
            Self::SocketIo(events) => events.receive().await,
        }
    }

    /// Sends messages, all within the time limit.
    pub(crate) async fn send(&mut self, texts: impl IntoIterator<Item = Utf8Bytes>) -> Result<(), Unsent> {
        match self {
            Self::WebSocket(socket) => socket.send(texts).await,
            Self::SocketIo(events) => events.send(texts).await,
        }
    }

    /// Sends what goes to many, within the time limit.
    pub(crate) async fn tell(&mut self, first: &News, more: &[News]) -> Result<(), Unsent> {
        match self {
            Self::WebSocket(socket) if more.is_empty() => socket.send_frames(first.frames()).await,
            Self::WebSocket(socket) => {
                let mut frames = first.frames().to_vec();
                more.iter().for_each(|news| frames.extend_from_slice(news.frames()));
                socket.send_frames(&frames).await
            }
            Self::SocketIo(events) => {
                for news in std::iter::once(first).chain(more) {
                    for message in news.events() {
                        events.tell(message).await?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Asks whether the peer is there.
    pub(crate) async fn ping(&mut self) -> Result<(), Unsent> {
        match self {
            Self::WebSocket(socket) => socket.ping().await,
            Self::SocketIo(events) => events.ping(),
        }
    }

    /// Sends a last message if there is one, and ends. Does not wait once `stopping` is cancelled.
    pub(crate) async fn close(self, last: Option<Utf8Bytes>, close: Close, stopping: &CancellationToken) {
        match self {
            Self::WebSocket(socket) => socket.close(last, close, stopping).await,
            Self::SocketIo(events) => events.close(last, close).await,
        }
    }
}
