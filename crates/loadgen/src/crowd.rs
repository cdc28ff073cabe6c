//! Many followers that only count: the leanest clients of WebSocket and Socket.IO that can be told something.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

/// How long all of them may take for one step.
const LIMIT: Duration = Duration::from_secs(60);

/// How many connect at the same time.
const CONNECTING: usize = 64;

/// Longest message whose length is read from its head (RFC 6455 section 5.2): two bytes of it.
const LENGTH_16: u8 = 126;

/// What a follower is to a server.
#[derive(Debug, Clone)]
pub enum Follower {
    /// Takes bytes as they come; this many are a message.
    Bare(usize),
    /// Upgrades at a path, and then says something, if there is something to say, and waits for so many messages.
    WebSocket {
        /// The path and the query.
        path: String,
        /// A text message.
        says: Option<String>,
        /// Messages that come by themselves or as answers before anything is published.
        greetings: u64,
    },
    /// The same in Socket.IO over a WebSocket (Engine.IO 4): the messages are events.
    SocketIo {
        /// A packet that opens a namespace.
        opens: String,
        /// An event's packet.
        says: Option<String>,
        /// As above.
        greetings: u64,
    },
}

impl Follower {
    /// Where it upgrades, unless it takes bytes as they come.
    fn path(&self) -> Option<&str> {
        match self {
            Self::Bare(_) => None,
            Self::WebSocket { path, .. } => Some(path),
            Self::SocketIo { .. } => Some("/socket.io/?EIO=4&transport=websocket"),
        }
    }

    fn greetings(&self) -> u64 {
        match self {
            Self::Bare(_) => 0,
            Self::WebSocket { greetings, .. } | Self::SocketIo { greetings, .. } => *greetings,
        }
    }
}

/// What the crowd has heard.
#[derive(Debug, Default)]
struct Heard {
    messages: AtomicU64,
    /// When the last of them came, in nanoseconds since `began`.
    last_ns: AtomicU64,
}

/// Followers that are connected.
pub struct Crowd {
    heard: Arc<Heard>,
    began: Instant,
    followers: JoinSet<()>,
    expected: u64,
}

impl Crowd {
    /// Connects so many followers to a server; `each` makes them, by number.
    ///
    /// # Errors
    /// When one is not let in, or is not greeted in time.
    pub async fn connect(
        count: usize,
        address: SocketAddr,
        each: impl Fn(usize) -> Follower,
    ) -> io::Result<Self> {
        let heard = Arc::new(Heard::default());
        let began = Instant::now();
        let mut followers = JoinSet::new();
        let mut greetings = 0;
        let mut connecting = JoinSet::new();
        for number in 0..count {
            let follower = each(number);
            greetings += follower.greetings();
            connecting.spawn(open(address, follower));
            if connecting.len() >= CONNECTING {
                take(connecting.join_next().await, &heard, began, &mut followers)?;
            }
        }
        while !connecting.is_empty() {
            take(connecting.join_next().await, &heard, began, &mut followers)?;
        }
        let mut crowd = Self { heard, began, followers, expected: 0 };
        crowd.expect(greetings).await?;
        Ok(crowd)
    }

    /// Waits until so many more messages were heard by all followers together; when the last came.
    ///
    /// # Errors
    /// When they do not come in time.
    pub async fn expect(&mut self, messages: u64) -> io::Result<Instant> {
        self.expected += messages;
        let all = async {
            while self.heard.messages.load(Ordering::Acquire) < self.expected {
                sleep(Duration::from_millis(1)).await;
            }
        };
        if timeout(LIMIT, all).await.is_err() {
            let heard = self.heard.messages.load(Ordering::Acquire);
            let left = self.followers.len();
            return Err(io::Error::other(format!("{heard} of {} messages came to {left}", self.expected)));
        }
        Ok(self.began + Duration::from_nanos(self.heard.last_ns.load(Ordering::Acquire)))
    }
}

type Opened = Result<io::Result<(TcpStream, Follower)>, tokio::task::JoinError>;

fn take(
    opened: Option<Opened>,
    heard: &Arc<Heard>,
    began: Instant,
    followers: &mut JoinSet<()>,
) -> io::Result<()> {
    if let Some(opened) = opened {
        let (stream, follower) = opened.map_err(io::Error::other)??;
        let heard = heard.clone();
        followers.spawn(async move { follow(stream, &follower, &heard, began).await });
    }
    Ok(())
}

async fn open(address: SocketAddr, follower: Follower) -> io::Result<(TcpStream, Follower)> {
    let opening = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        if let Some(path) = follower.path() {
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            );
            stream.write_all(request.as_bytes()).await?;
            // Byte by byte: what follows the head belongs to the frames.
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await?);
            }
            if !head.starts_with(b"HTTP/1.1 101") {
                let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
                return Err(io::Error::other(String::from_utf8_lossy(line).into_owned()));
            }
            if let Follower::WebSocket { says: Some(says), .. } = &follower {
                stream.write_all(&text_frame(says)).await?;
            }
        }
        Ok(stream)
    };
    let stream = timeout(LIMIT, opening).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok((stream, follower))
}

/// A masked text frame of a client; its mask is zero, which leaves the text as it is.
fn text_frame(text: &str) -> Vec<u8> {
    let length = text.len();
    let mut frame = match u8::try_from(length) {
        Ok(short) if short < LENGTH_16 => vec![0x81, 0x80 | short],
        _ => {
            let [high, low] = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
            vec![0x81, 0x80 | LENGTH_16, high, low]
        }
    };
    frame.extend([0; 4]);
    frame.extend(text.as_bytes());
    frame
}

/// Reads to the end, says what is to be said, and counts messages.
async fn follow(mut stream: TcpStream, follower: &Follower, heard: &Heard, began: Instant) {
    let mut frames = Frames::default();
    let mut bytes = 0;
    let mut buffer = [0_u8; 2048];
    while let Ok(count) = stream.read(&mut buffer).await {
        let Some(mut read) = buffer.get(..count).filter(|read| !read.is_empty()) else { return };
        let mut messages = 0;
        match follower {
            Follower::Bare(length) => {
                bytes += read.len();
                messages = bytes / length;
                bytes %= length;
            }
            Follower::WebSocket { .. } | Follower::SocketIo { .. } => {
                while let Some(frame) = frames.next(&mut read) {
                    match answer(follower, frame) {
                        None => messages += 1,
                        Some(answer) => {
                            if stream.write_all(&answer).await.is_err() {
                                return;
                            }
                        }
                    }
                }
            }
        }
        if messages > 0 {
            let now = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            heard.last_ns.fetch_max(now, Ordering::AcqRel);
            heard.messages.fetch_add(messages as u64, Ordering::AcqRel);
        }
    }
}

/// What a follower writes when it is told this; `None` for a message that counts. Nothing is written where nothing is
/// expected.
fn answer(follower: &Follower, frame: Frame) -> Option<Vec<u8>> {
    match (follower, frame) {
        (_, Frame::Ping) => Some(vec![0x8A, 0x80, 0, 0, 0, 0]),
        (_, Frame::Other) => Some(Vec::new()),
        // Types of Engine.IO's packets, and of Socket.IO's in its messages: open, ping; connect, event.
        (Follower::SocketIo { opens, .. }, Frame::Text([b'0', _])) => Some(text_frame(opens)),
        (Follower::SocketIo { .. }, Frame::Text([b'2', _])) => Some(text_frame("3")),
        (Follower::SocketIo { says, .. }, Frame::Text([b'4', b'0'])) => {
            Some(says.as_deref().map(text_frame).unwrap_or_default())
        }
        (Follower::SocketIo { .. }, Frame::Text(start)) if start != *b"42" => Some(Vec::new()),
        (_, Frame::Text(_)) => None,
    }
}

/// A frame of a server, as far as a follower cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Frame {
    /// A text message, by how it begins; zeros where it is shorter.
    Text([u8; 2]),
    Ping,
    Other,
}

/// Cuts what comes into frames (RFC 6455 section 5.2).
#[derive(Debug, Default)]
struct Frames {
    head: Vec<u8>,
    /// How the payload begins.
    start: Vec<u8>,
    /// Bytes of the payload that are still to come.
    left: usize,
}

impl Frames {
    /// Takes bytes up to the end of a frame.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Frame> {
        loop {
            if let Some(length) = self.payload() {
                let taken = self.left.min(bytes.len());
                let (payload, rest) = bytes.split_at_checked(taken)?;
                let wanted = 2_usize.saturating_sub(self.start.len()).min(taken);
                self.start.extend(payload.iter().take(wanted));
                self.left -= taken;
                *bytes = rest;
                if self.left > 0 {
                    return None;
                }
                let frame = self.frame(length);
                self.head.clear();
                self.start.clear();
                return Some(frame);
            }
            let (first, rest) = bytes.split_first()?;
            self.head.push(*first);
            *bytes = rest;
            if let Some(length) = self.payload() {
                self.left = length;
            }
        }
    }

    /// How long the payload is, once the head is whole.
    fn payload(&self) -> Option<usize> {
        match self.head.as_slice() {
            [_, short] if *short < LENGTH_16 => Some(usize::from(*short)),
            [_, LENGTH_16, high, low] => Some(usize::from(u16::from_be_bytes([*high, *low]))),
            _ => None,
        }
    }

    fn frame(&self, length: usize) -> Frame {
        let at = |index: usize| self.start.get(index).copied().filter(|_| index < length).unwrap_or(0);
        match self.head.first() {
            Some(0x81) => Frame::Text([at(0), at(1)]),
            Some(0x89) => Frame::Ping,
            _ => Frame::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_in_every_cut() {
        let mut stream = vec![0x81, 2, b'h', b'i', 0x89, 0, 0x81, 126, 1, 0];
        stream.extend([b'x'; 256]);
        stream.extend([0x81, 0, 0x82, 1, 0, 0x81, 1, b'y']);
        let text = |start: &[u8; 2]| Frame::Text(*start);
        let expected = [text(b"hi"), Frame::Ping, text(b"xx"), text(&[0, 0]), Frame::Other, text(&[b'y', 0])];
        for cut in 1..stream.len() {
            let (mut frames, mut found) = (Frames::default(), Vec::new());
            for mut piece in stream.chunks(cut) {
                found.extend(std::iter::from_fn(|| frames.next(&mut piece)));
            }
            assert_eq!(found, expected, "{cut}");
        }
    }

    #[test]
    fn a_client_of_socketio_opens_its_namespace_then_speaks_and_answers_pings() {
        let follower =
            Follower::SocketIo { opens: "40/a,".to_owned(), says: Some("42/a,[]".to_owned()), greetings: 0 };
        for (start, said) in [(b"0{", "40/a,"), (b"40", "42/a,[]"), (b"2\0", "3")] {
            assert_eq!(answer(&follower, Frame::Text(*start)), Some(text_frame(said)), "{said}");
        }
        assert_eq!(answer(&follower, Frame::Text(*b"42")), None, "an event counts");
        assert_eq!(answer(&follower, Frame::Text(*b"44")), Some(Vec::new()));
        let plain = Follower::WebSocket { path: String::new(), says: None, greetings: 0 };
        assert_eq!(answer(&plain, Frame::Text(*b"0{")), None, "every message counts");
    }

    #[test]
    fn a_clients_text_is_masked() {
        assert_eq!(text_frame("hi"), [0x81, 0x82, 0, 0, 0, 0, b'h', b'i']);
        assert_eq!(text_frame(&"x".repeat(300))[..4], [0x81, 0xFE, 1, 44]);
    }
}
