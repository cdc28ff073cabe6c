//! Many followers that only count: the leanest WebSocket clients that can be told something.

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
            if let Follower::WebSocket { greetings: expected, .. } = &follower {
                greetings += expected;
            }
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
        if let Follower::WebSocket { path, says, .. } = &follower {
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
            if let Some(says) = says {
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

/// Reads to the end and counts messages.
async fn follow(mut stream: TcpStream, follower: &Follower, heard: &Heard, began: Instant) {
    let mut frames = Frames::default();
    let mut bytes = 0;
    let mut buffer = [0_u8; 2048];
    while let Ok(count) = stream.read(&mut buffer).await {
        let Some(read) = buffer.get(..count).filter(|read| !read.is_empty()) else { return };
        let messages = match follower {
            Follower::Bare(length) => {
                bytes += read.len();
                let messages = bytes / length;
                bytes %= length;
                messages
            }
            Follower::WebSocket { .. } => {
                let messages = frames.read(read);
                if std::mem::take(&mut frames.pinged)
                    && stream.write_all(&[0x8A, 0x80, 0, 0, 0, 0]).await.is_err()
                {
                    return;
                }
                messages
            }
        };
        if messages > 0 {
            let now = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            heard.last_ns.fetch_max(now, Ordering::AcqRel);
            heard.messages.fetch_add(messages as u64, Ordering::AcqRel);
        }
    }
}

/// Frames of a server, as far as counting them needs (RFC 6455 section 5.2).
#[derive(Debug, Default)]
struct Frames {
    head: Vec<u8>,
    /// Bytes of the payload that are still to come.
    left: usize,
    /// A ping came.
    pinged: bool,
}

impl Frames {
    /// Takes bytes; how many text messages began in them.
    fn read(&mut self, mut bytes: &[u8]) -> usize {
        let mut texts = 0;
        while let Some((first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let skipped = self.left.min(bytes.len());
                self.left -= skipped;
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            self.head.push(*first);
            bytes = rest;
            let length = match self.head.as_slice() {
                [_, short] if *short < LENGTH_16 => usize::from(*short),
                [_, LENGTH_16, high, low] => usize::from(u16::from_be_bytes([*high, *low])),
                _ => continue,
            };
            match self.head.first() {
                Some(0x81) => texts += 1,
                Some(0x89) => self.pinged = true,
                _ => {}
            }
            self.left = length;
            self.head.clear();
        }
        texts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_counted_in_every_cut() {
        let mut stream = vec![0x81, 2, b'h', b'i', 0x89, 0, 0x81, 126, 1, 0];
        stream.extend([b'x'; 256]);
        stream.extend([0x81, 0, 0x81, 1, b'y']);
        for cut in 1..stream.len() {
            let (mut frames, mut texts) = (Frames::default(), 0);
            for piece in stream.chunks(cut) {
                texts += frames.read(piece);
            }
            assert_eq!((texts, frames.pinged), (4, true), "{cut}");
        }
        assert_eq!(Frames::default().read(&[0x82, 1, 0]), 0);
    }

    #[test]
    fn a_clients_text_is_masked() {
        assert_eq!(text_frame("hi"), [0x81, 0x82, 0, 0, 0, 0, b'h', b'i']);
        assert_eq!(text_frame(&"x".repeat(300))[..4], [0x81, 0xFE, 1, 44]);
    }
}
