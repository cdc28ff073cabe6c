//! An encoder as the protocol crate makes one: it pushes whatever a test wants.

use std::{net::SocketAddr, time::Duration};

use rtmp::{Address, ClientEvent, ClientSession};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Encoder<S = TcpStream> {
    stream: S,
    session: ClientSession,
    timestamp: u32,
}

/// `SoundFormat` 7: A-law, 8 kHz, mono.
const ALAW: u8 = 0x72;

impl Encoder {
    pub async fn connect(address: SocketAddr, name: &str) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap(), name)
    }

    /// Connects and publishes.
    pub async fn publish(address: SocketAddr, name: &str) -> Self {
        let mut encoder = Self::connect(address, name).await;
        assert_eq!(encoder.event().await, Some(ClientEvent::Publishing));
        encoder
    }

    /// Cuts the connection without a word.
    pub fn cut(self) {
        drop(self);
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Encoder<S> {
    pub fn over(stream: S, name: &str) -> Self {
        let address = Address::parse(&format!("rtmp://host/live/{name}")).unwrap();
        Self { stream, session: ClientSession::new(address, true, 7), timestamp: 0 }
    }

    /// What the server does next; `None` when it closes.
    pub async fn event(&mut self) -> Option<ClientEvent> {
        let mut buffer = [0; 4_096];
        loop {
            self.write().await;
            let read = timeout(PATIENCE, self.stream.read(&mut buffer)).await.expect("something to read");
            let mut input = match read {
                Ok(0) | Err(_) => return None,
                Ok(count) => &buffer[..count],
            };
            if let Some(event) = self.session.receive(&mut input).unwrap() {
                self.write().await;
                return Some(event);
            }
        }
    }

    async fn write(&mut self) {
        let output = self.session.take_output();
        // Whether somebody reads it is the server's business.
        let _ = self.stream.write_all(&output).await;
    }

    /// Sends one audio tag, 20 ms after the one before.
    pub async fn tag(&mut self, data: &[u8]) {
        let _ = self.session.send_audio(self.timestamp, data);
        self.timestamp = self.timestamp.wrapping_add(20);
        self.write().await;
    }

    /// Sends so much of a tone of 500 Hz, as fast as it is taken.
    pub async fn sound(&mut self, millis: u32) {
        // Square waves of A-law: eight samples high, eight low.
        let mut tag = vec![ALAW];
        tag.extend((0..160).map(|at| if at / 8 % 2 == 0 { 0xaa } else { 0x2a }));
        for _ in 0..millis / 20 {
            self.tag(&tag).await;
        }
    }

    /// Leaves so much out.
    pub fn skip(&mut self, millis: u32) {
        self.timestamp = self.timestamp.wrapping_add(millis);
    }

    /// Ends the publication and says so.
    pub async fn leave(mut self) {
        self.session.unpublish();
        self.write().await;
    }
}
