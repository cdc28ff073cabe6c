use std::collections::VecDeque;

use testkit::PATIENCE;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// A frame of a server (RFC 6455 section 5.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Text.
    Text(String),
    /// The code and the reason of a close; 1005 when it says none.
    Close(u16, String),
    /// Anything else, by its opcode.
    Other(u8),
}

/// The frames that these bytes begin with, and how many bytes they take.
///
/// # Panics
/// When a server may not send such a frame: masked, fragmented, or with an extension.
pub fn frames(bytes: &[u8]) -> (Vec<Frame>, usize) {
    let mut rest = bytes;
    let mut found = Vec::new();
    while let Some((frame, after)) = frame(rest) {
        found.push(frame);
        rest = after;
    }
    (found, bytes.len() - rest.len())
}

fn frame(bytes: &[u8]) -> Option<(Frame, &[u8])> {
    let ([first, second], rest) = bytes.split_first_chunk::<2>()?;
    assert_eq!(first & 0xf0, 0x80, "whole frames without extensions");
    assert_eq!(second & 0x80, 0, "servers do not mask");
    let (length, rest) = match second {
        126 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (u64::from(u16::from_be_bytes(*length)), rest)
        }
        127 => {
            let (length, rest) = rest.split_first_chunk::<8>()?;
            (u64::from_be_bytes(*length), rest)
        }
        short => (u64::from(*short), rest),
    };
    let (payload, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    let frame = match first & 0x0f {
        1 => Frame::Text(text(payload)),
        8 => {
            let (code, reason) = payload.split_first_chunk::<2>().unwrap_or((&[0x03, 0xed], payload));
            Frame::Close(u16::from_be_bytes(*code), text(reason))
        }
        other => Frame::Other(other),
    };
    Some((frame, rest))
}

/// A client that opens a WebSocket and does nothing by itself: it answers no ping.
pub struct RawSocket {
    stream: TcpStream,
    bytes: Vec<u8>,
    found: VecDeque<Frame>,
}

impl RawSocket {
    /// Opens a WebSocket at this path of a port of the loopback interface.
    ///
    /// # Panics
    /// When the answer is not 101.
    pub async fn open(port: u16, target: &str) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("a connection");
        let head = format!(
            "GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.expect("a request that is taken");
        let mut socket = Self { stream, bytes: Vec::new(), found: VecDeque::new() };
        loop {
            if let Some(at) = socket.bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                let head: Vec<u8> = socket.bytes.drain(..at + 4).collect();
                assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
                return socket;
            }
            assert!(socket.more().await, "an answer");
        }
    }

    /// Writes bytes as they are.
    pub async fn write(&mut self, bytes: &[u8]) {
        // The server may have closed meanwhile; what it said then is what tests read.
        let _unread = self.stream.write_all(bytes).await;
    }

    /// Sends text.
    pub async fn say(&mut self, text: &str) {
        self.write(&masked(0x81, text.as_bytes())).await;
    }

    /// Sends bytes.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.write(&masked(0x82, bytes)).await;
    }

    /// The next frame; `None` at the end of the connection.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            let (found, length) = frames(&self.bytes);
            self.bytes.drain(..length);
            self.found.extend(found);
            if let Some(frame) = self.found.pop_front() {
                return Some(frame);
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// Reads until the close frame; `None` when the connection ends without one.
    pub async fn closed(&mut self) -> Option<(u16, String)> {
        loop {
            if let Frame::Close(code, reason) = self.next().await? {
                return Some((code, reason));
            }
        }
    }

    async fn more(&mut self) -> bool {
        let reading = self.stream.read_buf(&mut self.bytes);
        matches!(timeout(PATIENCE, reading).await.expect("something to read"), Ok(1..))
    }
}

/// A whole frame of a client. Its mask is zero, which leaves the payload as it is.
fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![opcode];
    match u16::try_from(payload.len()) {
        Ok(length @ 0..126) => frame.push(0x80 | length.to_le_bytes()[0]),
        Ok(length) => {
            frame.push(0x80 | 126);
            frame.extend(length.to_be_bytes());
        }
        Err(_) => {
            frame.push(0x80 | 127);
            frame.extend((payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}
