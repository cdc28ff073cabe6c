//! A WebSocket to the front door, and what may be said about its end.

use std::{fmt, io, time::Duration};

use futures_util::StreamExt;
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};
use tungstenite::{Error, Message, protocol::WebSocketConfig};

use crate::message::{FromServer, Trouble};

/// Longest time for connecting, and then for the answer to `init`.
pub const OPEN_LIMIT: Duration = Duration::from_secs(10);

/// Largest message taken.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// A connection.
pub type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Why a connection ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// It was not made. Never tells the address, which holds the token.
    #[error("cannot connect: {0}")]
    Connect(Refusal),
    /// It broke.
    #[error("the connection broke: {0}")]
    Broken(#[from] Error),
    /// The server said so.
    #[error("the server refused: {}: {}", .0.code, .0.message)]
    Refused(Trouble),
    /// The server closed it.
    #[error("the server closed the connection ({0})")]
    Closed(u16),
    /// The server calls a stream finished whose end it was not told.
    #[error("the server stopped the stream")]
    Early,
    /// The server did not answer.
    #[error("no answer to {0} in time")]
    Silent(&'static str),
}

/// Why a connection was not made.
#[derive(Debug)]
pub struct Refusal(Error);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Error::Http(response) => write!(f, "HTTP status {}", response.status().as_u16()),
            Error::Url(_) => f.write_str("the address cannot be used"),
            other => write!(f, "{other}"),
        }
    }
}

/// Connects to `url`, which holds the token.
///
/// # Errors
/// [`StreamError::Connect`].
pub async fn open(url: &str) -> Result<Socket, StreamError> {
    let config = WebSocketConfig::default()
        .read_buffer_size(16 << 10)
        .write_buffer_size(0)
        .max_write_buffer_size(1 << 20)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    match timeout(OPEN_LIMIT, connect_async_with_config(url, Some(config), true)).await {
        Ok(Ok((socket, _))) => Ok(socket),
        Ok(Err(error)) => Err(StreamError::Connect(Refusal(error))),
        Err(_) => Err(StreamError::Connect(Refusal(Error::Io(io::ErrorKind::TimedOut.into())))),
    }
}

/// What the server says next; `None` when it is nothing that counts.
///
/// # Errors
/// The end of the connection.
pub async fn next(
    stream: &mut (impl StreamExt<Item = Result<Message, Error>> + Unpin),
) -> Result<Option<FromServer>, StreamError> {
    match stream.next().await {
        Some(Ok(Message::Text(text))) => Ok(serde_json::from_str(&text).ok()),
        Some(Ok(Message::Close(frame))) => {
            Err(StreamError::Closed(frame.map_or(1005, |frame| frame.code.into())))
        }
        Some(Ok(_)) => Ok(None),
        Some(Err(error)) => Err(error.into()),
        None => Err(StreamError::Closed(1006)),
    }
}
