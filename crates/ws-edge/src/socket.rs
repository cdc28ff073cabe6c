//! One upgraded connection: messages in and out, each with a time limit, and an end that the peer can read.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::WebSocketStream;
use tokio_util::sync::CancellationToken;
use tungstenite::{
    Error, Message, Utf8Bytes,
    protocol::{Role, WebSocketConfig},
};

use crate::close::Close;

/// What a connection reads at once, and keeps while it is idle.
const READ_BUFFER_BYTES: usize = 1024;

/// Messages that are sent at once leave in one write, up to so many bytes.
const WRITE_TOGETHER_BYTES: usize = 8 * 1024;

/// Unsent bytes that one connection may hold: one message of the largest kind we send.
const WRITE_BUFFER_BYTES_MAX: usize = 1024 * 1024;

/// How long a peer may take to answer a close frame.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// How long it may take after that to close the connection.
const LEAVE_LIMIT: Duration = Duration::from_millis(500);

/// Bytes that are read and thrown away after an end that the peer has not noticed. Left unread, they would make the
/// kernel reset the connection and take our last words with it.
const DISCARD_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What came from the peer.
pub(crate) enum Received {
    Text(Utf8Bytes),
    Binary(Bytes),
    /// A ping or a pong.
    Alive,
    /// It broke a rule.
    Broken(Close),
    /// It closed, or is gone.
    Gone,
}

/// The peer is gone, or took too long to take a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unsent {
    Gone,
    TooSlow,
}

/// One WebSocket.
pub(crate) struct Socket {
    inner: WebSocketStream<TcpStream>,
    write_limit: Duration,
    /// Whether the protocol may have something to send by itself: the answer to a ping.
    owes: bool,
}

impl Socket {
    /// The socket behind a request that was answered with 101; `None` when the peer went away meanwhile. A message from
    /// the client of more than `bytes_max` is [`Close::TooBig`].
    pub(crate) async fn after(upgrade: OnUpgrade, write_limit: Duration, bytes_max: usize) -> Option<Self> {
        let parts = upgrade.await.ok()?.downcast::<TokioIo<TcpStream>>().ok()?;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(WRITE_TOGETHER_BYTES)
            .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
            .max_message_size(Some(bytes_max))
            .max_frame_size(Some(bytes_max));
        let (stream, early) = (parts.io.into_inner(), parts.read_buf.to_vec());
        let inner = WebSocketStream::from_partially_read(stream, early, Role::Server, Some(config)).await;
        Some(Self { inner, write_limit, owes: false })
    }

    /// Waits for the next message. Cancel-safe.
    pub(crate) async fn receive(&mut self) -> Received {
        match self.inner.next().await {
            Some(Ok(Message::Text(text))) => Received::Text(text),
            Some(Ok(Message::Binary(bytes))) => Received::Binary(bytes),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {
                self.owes = true;
                Received::Alive
            }
            // The answer to its close frame leaves with the next poll, which then says `None`.
            Some(Ok(Message::Close(_))) => {
                let _ = Box::pin(timeout(CLOSE_LIMIT, self.inner.next())).await;
                Received::Gone
            }
            Some(Err(Error::Capacity(_))) => Received::Broken(Close::TooBig),
            Some(Err(Error::Utf8(_))) => Received::Broken(Close::BadData),
            Some(Err(Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake)))
            | None => Received::Gone,
            Some(Err(Error::Protocol(_))) => Received::Broken(Close::Protocol),
            Some(Err(_)) => Received::Gone,
        }
    }

    /// Sends texts, all within the time limit.
    pub(crate) async fn send(&mut self, texts: impl IntoIterator<Item = Utf8Bytes>) -> Result<(), Unsent> {
        let inner = &mut self.inner;
        let sending = async {
            for text in texts {
                inner.feed(Message::Text(text)).await?;
            }
            inner.flush().await
        };
        unsent(timeout(self.write_limit, sending).await)
    }

    /// Sends what [`frames`] has made, within the time limit: for what goes to many, which are told in one write of the
    /// same bytes each.
    pub(crate) async fn send_frames(&mut self, frames: &[u8]) -> Result<(), Unsent> {
        if self.owes {
            unsent(timeout(self.write_limit, self.inner.flush()).await)?;
            self.owes = false;
        }
        // Whatever was sent otherwise was flushed then, so nothing of the protocol's is half sent.
        let stream = self.inner.get_mut();
        let sent = match stream.try_write(frames) {
            Ok(sent) => sent,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => 0,
            Err(_) => return Err(Unsent::Gone),
        };
        match frames.get(sent..) {
            None | Some([]) => Ok(()),
            Some(rest) => {
                let rest = timeout(self.write_limit, stream.write_all(rest)).await;
                unsent(rest.map(|written| written.map_err(Error::Io)))
            }
        }
    }

    /// Asks whether the peer is there.
    pub(crate) async fn ping(&mut self) -> Result<(), Unsent> {
        unsent(timeout(self.write_limit, self.inner.send(Message::Ping(Bytes::new()))).await)
    }

    /// Sends a last message if there is one, closes, and waits a little for the peer to do so too.
    /// Does not wait once `stopping` is cancelled.
    pub(crate) async fn close(self, last: Option<Utf8Bytes>, close: Close, stopping: &CancellationToken) {
        tokio::select! {
            biased;
            () = self.say_goodbye(last, close) => {}
            () = stopping.cancelled() => {}
        }
    }

    async fn say_goodbye(mut self, last: Option<Utf8Bytes>, close: Close) {
        let goodbye = async {
            if let Some(last) = last {
                self.inner.feed(Message::Text(last)).await?;
            }
            self.inner.send(Message::Close(Some(close.frame()))).await?;
            // Until its close frame, or until it cannot be read any more.
            while let Some(Ok(_)) = self.inner.next().await {}
            Ok::<(), Error>(())
        };
        let _ = timeout(CLOSE_LIMIT, goodbye).await;
        let mut stream = self.inner.into_inner();
        let leave = async {
            stream.shutdown().await?;
            let mut bin = [0_u8; 1024];
            let mut discarded = 0;
            while discarded < DISCARD_BYTES_MAX {
                match stream.read(&mut bin).await? {
                    0 => break,
                    count => discarded += count,
                }
            }
            Ok::<(), std::io::Error>(())
        };
        let _ = timeout(LEAVE_LIMIT, leave).await;
    }
}

/// Texts as a server's frames on the wire (RFC 6455 section 5.2), one after the other.
pub(crate) fn frames(texts: &[Utf8Bytes]) -> Bytes {
    /// The whole of a text message.
    const FINAL_TEXT: u8 = 0x81;
    /// The length follows in two bytes.
    const IN_TWO: u8 = 126;
    /// The length follows in eight bytes.
    const IN_EIGHT: u8 = 127;
    let mut frames = Vec::with_capacity(texts.iter().map(|text| text.len() + 4).sum());
    for text in texts {
        frames.push(FINAL_TEXT);
        match (u8::try_from(text.len()), u16::try_from(text.len())) {
            (Ok(length), _) if length < IN_TWO => frames.push(length),
            (_, Ok(length)) => {
                frames.push(IN_TWO);
                frames.extend(length.to_be_bytes());
            }
            _ => {
                frames.push(IN_EIGHT);
                frames.extend((text.len() as u64).to_be_bytes());
            }
        }
        frames.extend(text.as_bytes());
    }
    frames.into()
}

fn unsent(outcome: Result<Result<(), Error>, tokio::time::error::Elapsed>) -> Result<(), Unsent> {
    match outcome {
        Ok(Ok(())) => Ok(()),
        Ok(Err(Error::WriteBufferFull(_))) | Err(_) => Err(Unsent::TooSlow),
        Ok(Err(_)) => Err(Unsent::Gone),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_those_of_the_library() {
        use tungstenite::protocol::frame::{
            Frame,
            coding::{Data, OpCode},
        };
        let texts: Vec<Utf8Bytes> =
            [0, 1, 125, 126, 65_535, 65_536].map(|length| "x".repeat(length).into()).to_vec();
        let mut expected = Vec::new();
        for text in &texts {
            let frame = Frame::message(Bytes::from(text.clone()), OpCode::Data(Data::Text), true);
            frame.format(&mut expected).unwrap();
        }
        assert_eq!(frames(&texts), expected);
    }
}
