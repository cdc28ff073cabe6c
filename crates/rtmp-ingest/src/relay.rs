//! Sends a stream on, unchanged, to another RTMP server. The ingest never waits for it: what the other server does not
//! take in time is left out, up to the next picture that stands alone.

use std::{
    collections::VecDeque,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use lifecycle::Lifecycle;
use model::SessionSlug;
use rtmp::{Address, AddressError, AudioPackets, ClientEvent, ClientSession, Kind, SessionError};
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    sync::Notify,
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::metrics::{self, Open};

/// Media that waits to be sent on, in bytes: about 4 s of 8 Mbit/s. One message more may be above it.
const WAITING_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What a message that waits takes besides its bytes, at least: messages may be empty, and they must not be many then.
const MESSAGE_BYTES: usize = 128;

/// How long the other server may take for what waits when the publication has ended.
const LEAVE_LIMIT: Duration = Duration::from_secs(3);

/// How long connecting and the exchange up to publish may take.
const PUBLISH_LIMIT: Duration = Duration::from_secs(10);

/// How long one message may take to leave.
const WRITE_LIMIT: Duration = Duration::from_secs(10);

/// Wait between attempts: doubles from the first to the last.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Where streams are sent on to: an address with `{key}` and `{session}` in it.
#[derive(Debug, Clone)]
pub(crate) struct Template(String);

impl Template {
    /// The address for one publisher.
    pub(crate) fn address(&self, key: &str, session: &SessionSlug) -> Result<Address, AddressError> {
        Address::parse(&self.0.replace("{key}", key).replace("{session}", session.as_str()))
    }
}

impl FromStr for Template {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let example = text.replace("{key}", "key").replace("{session}", "session");
        Address::parse(&example).map(|_| Self(text.to_owned()))
    }
}

/// One message, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Media {
    Audio(u32, Bytes),
    Video(u32, Bytes),
    Data(u32, Bytes),
}

/// What a message is for whoever joins in the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Needed before anything else of its kind; the newest counts.
    Header,
    /// A picture that stands alone.
    KeyFrame,
    /// A picture that builds on others.
    Picture,
    Sound,
}

impl Media {
    fn data(&self) -> &Bytes {
        let (Self::Audio(_, data) | Self::Video(_, data) | Self::Data(_, data)) = self;
        data
    }

    /// What it takes while it waits.
    fn bytes(&self) -> usize {
        MESSAGE_BYTES + self.data().len()
    }

    /// FLV v10.1 annex E.4.3.1 and E-RTMP v2, "Enhanced Video", as far as a relay must know.
    fn role(&self) -> Role {
        match self {
            Self::Data(..) => Role::Header,
            Self::Audio(_, data) => {
                let is_header = |packet: Result<rtmp::AudioPacket<'_>, _>| {
                    packet.is_ok_and(|packet| packet.kind == Kind::Config)
                };
                if AudioPackets::new(data).any(is_header) { Role::Header } else { Role::Sound }
            }
            Self::Video(_, data) => {
                let first = data.first().copied().unwrap_or_default();
                let (enhanced, kind, low) = (first & 0x80 != 0, first >> 4 & 7, first & 0x0f);
                let is_header = if enhanced { low == 0 } else { low == 7 && data.get(1) == Some(&0) };
                match kind {
                    _ if is_header => Role::Header,
                    1 => Role::KeyFrame,
                    _ => Role::Picture,
                }
            }
        }
    }
}

/// A publication that is being sent on; ends when it is dropped.
pub(crate) struct Relay(Arc<Queue>);

impl Relay {
    pub(crate) fn start(life: &Lifecycle, address: Address) -> Self {
        let queue = Arc::new(Queue::default());
        life.spawn(run(life.clone(), address, queue.clone()));
        Self(queue)
    }

    /// Hands on a message. Never waits.
    pub(crate) fn offer(&self, media: Media) {
        let left_out = self.0.waiting().offer(media);
        if left_out > 0 {
            metrics::relay_dropped(left_out);
        }
        self.0.wake.notify_one();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.0.closed.cancel();
    }
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    wake: Notify,
    /// Nothing more comes.
    closed: CancellationToken,
}

#[derive(Default)]
struct Waiting {
    media: VecDeque<Media>,
    bytes: usize,
    /// The newest of each kind, for whoever connects.
    headers: [Option<Media>; 3],
    /// Pictures were left out: those that follow mean nothing up to the next that stands alone.
    needs_key_frame: bool,
}

impl Waiting {
    /// How many messages were left out.
    fn offer(&mut self, media: Media) -> usize {
        let role = media.role();
        if role == Role::Header {
            let kind = match &media {
                Media::Audio(..) => 0,
                Media::Video(..) => 1,
                Media::Data(..) => 2,
            };
            if let Some(header) = self.headers.get_mut(kind) {
                *header = Some(media.clone());
            }
        }
        match role {
            Role::Picture if self.needs_key_frame => return 1,
            Role::KeyFrame => self.needs_key_frame = false,
            _ => {}
        }
        let mut left_out = 0;
        if self.bytes > WAITING_BYTES_MAX {
            left_out = self.clear();
            if role == Role::Picture {
                return left_out + 1;
            }
        }
        self.bytes += media.bytes();
        self.media.push_back(media);
        left_out
    }

    /// Lets go of all that waits; what comes then begins anew.
    fn clear(&mut self) -> usize {
        let count = self.media.len();
        self.media.clear();
        self.needs_key_frame = true;
        // Configurations among them are not lost.
        let headers = self.headers.iter().flatten().cloned();
        self.media.extend(headers);
        self.bytes = self.media.iter().map(Media::bytes).sum();
        count
    }

    fn take(&mut self) -> Option<Media> {
        let media = self.media.pop_front()?;
        self.bytes -= media.bytes();
        Some(media)
    }
}

impl Queue {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next message; `None` when none will come.
    async fn next(&self) -> Option<Media> {
        loop {
            // Asked before the queue is: what came before the end is still taken.
            let closed = self.closed.is_cancelled();
            if let Some(media) = self.waiting().take() {
                return Some(media);
            }
            if closed {
                return None;
            }
            tokio::select! {
                () = self.wake.notified() => {}
                () = self.closed.cancelled() => {}
            }
        }
    }
}

/// Why a connection to the other server ended. The texts hold no key.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("connect: {0}")]
    Connect(std::io::Error),
    #[error("the name of the server cannot be verified")]
    Name,
    #[error("the other server did not let us publish in time")]
    TooLate,
    #[error("the other server refused the publication")]
    Refused,
    #[error("the other server ended the publication")]
    Ended,
    #[error("the connection broke")]
    Broken,
    #[error("{0}")]
    Protocol(#[from] SessionError),
}

/// Sends what comes until the publication ends; connects again whenever that is needed.
async fn run(life: Lifecycle, address: Address, queue: Arc<Queue>) {
    let _open = Open::relay();
    let mut pause = BACK_OFF.0;
    loop {
        let connection = async {
            match connect(&address).await? {
                Stream::Plain(stream) => send(stream, &address, &queue, &mut pause).await,
                Stream::Tls(stream) => send(stream, &address, &queue, &mut pause).await,
            }
        };
        let too_late = async {
            queue.closed.cancelled().await;
            sleep(LEAVE_LIMIT).await;
        };
        let lost = tokio::select! {
            () = life.stopping().cancelled() => return,
            () = too_late => return,
            outcome = connection => match outcome {
                Ok(()) => return,
                Err(lost) => lost,
            },
        };
        if queue.closed.is_cancelled() {
            return;
        }
        tracing::warn!(host = %address.host, retry_ms = pause.as_millis(), "relay: {lost}");
        metrics::relay_reconnects();
        tokio::select! {
            () = sleep(pause) => {}
            // Nobody publishes any more, or will soon: the other server need not hear of it again.
            () = queue.closed.cancelled() => return,
            () = life.draining().cancelled() => return,
        }
        pause = (pause * 2).min(BACK_OFF.1);
        let mut waiting = queue.waiting();
        let left_out = waiting.clear();
        drop(waiting);
        metrics::relay_dropped(left_out);
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

async fn connect(address: &Address) -> Result<Stream, Lost> {
    let connecting = async {
        let stream =
            TcpStream::connect((address.host.as_str(), address.port)).await.map_err(Lost::Connect)?;
        let _ = stream.set_nodelay(true);
        if !address.tls {
            return Ok(Stream::Plain(stream));
        }
        let name = ServerName::try_from(address.host.clone()).map_err(|_| Lost::Name)?;
        let tls = connector()?.connect(name, stream).await.map_err(Lost::Connect)?;
        Ok(Stream::Tls(Box::new(tls)))
    };
    timeout(PUBLISH_LIMIT, connecting).await.unwrap_or(Err(Lost::TooLate))
}

/// Trusts whom this machine trusts.
fn connector() -> Result<TlsConnector, Lost> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|_| Lost::Name)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Publishes and sends what comes. Ends well when the publication does.
async fn send(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    address: &Address,
    queue: &Queue,
    pause: &mut Duration,
) -> Result<(), Lost> {
    let seed = Uuid::new_v4().as_u64_pair().0;
    let mut session = ClientSession::new(address.clone(), true, seed);
    let mut buffer = vec![0; 4 * 1024];
    let publishing = async {
        loop {
            write(&mut stream, &mut session).await?;
            let count = read(&mut stream, &mut buffer).await?;
            if heard(&mut session, buffer.get(..count).unwrap_or_default())? {
                return Ok(());
            }
        }
    };
    timeout(PUBLISH_LIMIT, publishing).await.unwrap_or(Err(Lost::TooLate))?;
    tracing::info!(host = %address.host, "relay: publishing");
    *pause = BACK_OFF.0;
    loop {
        tokio::select! {
            count = read(&mut stream, &mut buffer) => {
                heard(&mut session, buffer.get(..count?).unwrap_or_default())?;
            }
            media = queue.next() => match media {
                Some(Media::Audio(timestamp, data)) => session.send_audio(timestamp, &data)?,
                Some(Media::Video(timestamp, data)) => session.send_video(timestamp, &data)?,
                Some(Media::Data(timestamp, data)) => session.send_data(timestamp, &data)?,
                None => {
                    session.unpublish();
                    write(&mut stream, &mut session).await?;
                    let _ = timeout(WRITE_LIMIT, stream.shutdown()).await;
                    return Ok(());
                }
            },
        }
        write(&mut stream, &mut session).await?;
    }
}

/// What the other server says; whether we may publish from now on.
fn heard(session: &mut ClientSession, mut input: &[u8]) -> Result<bool, Lost> {
    let mut publishing = false;
    while let Some(event) = session.receive(&mut input)? {
        match event {
            ClientEvent::Publishing => publishing = true,
            // What it says may quote the key.
            ClientEvent::Refused(_) => return Err(Lost::Refused),
            ClientEvent::Unpublished | ClientEvent::ReconnectRequested => return Err(Lost::Ended),
        }
    }
    Ok(publishing)
}

async fn read(stream: &mut (impl AsyncRead + Unpin), buffer: &mut [u8]) -> Result<usize, Lost> {
    match stream.read(buffer).await {
        Ok(0) | Err(_) => Err(Lost::Broken),
        Ok(count) => Ok(count),
    }
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), session: &mut ClientSession) -> Result<(), Lost> {
    let output = session.take_output();
    match timeout(WRITE_LIMIT, stream.write_all(&output)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Lost::Broken),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn video(first: u8, second: u8, bytes: usize) -> Media {
        let mut data = vec![0; bytes.max(2)];
        data[..2].copy_from_slice(&[first, second]);
        Media::Video(0, data.into())
    }

    #[test]
    fn messages_are_known_by_their_first_bytes() {
        for (media, role) in [
            (video(0x17, 0, 9), Role::Header),
            (video(0x17, 1, 9), Role::KeyFrame),
            (video(0x27, 1, 9), Role::Picture),
            (video(0x90, b'h', 9), Role::Header),
            (video(0x91, b'h', 9), Role::KeyFrame),
            (video(0xa1, b'h', 9), Role::Picture),
            (Media::Audio(0, Bytes::from_static(&[0xaf, 0, 0x12, 0x10])), Role::Header),
            (Media::Audio(0, Bytes::from_static(&[0xaf, 1, 0x21])), Role::Sound),
            (Media::Data(0, Bytes::from_static(b"@setDataFrame")), Role::Header),
        ] {
            assert_eq!(media.role(), role, "{media:?}");
        }
    }

    #[test]
    fn what_is_not_taken_in_time_is_left_out_up_to_a_whole_picture() {
        let mut waiting = Waiting::default();
        let header = video(0x17, 0, 40);
        assert_eq!(waiting.offer(header.clone()), 0);
        assert_eq!(waiting.offer(video(0x17, 1, WAITING_BYTES_MAX)), 0);
        assert_eq!(waiting.offer(video(0x27, 1, 100)), 3, "the queue, and the picture that builds on it");
        assert_eq!(waiting.take(), Some(header), "a configuration is never lost");
        assert_eq!(waiting.offer(video(0x27, 1, 100)), 1);
        assert_eq!(waiting.offer(Media::Audio(0, Bytes::from_static(&[0xaf, 1]))), 0, "sound goes on");
        assert_eq!(waiting.offer(video(0x17, 1, 100)), 0);
        assert_eq!(waiting.offer(video(0x27, 1, 100)), 0);
        assert_eq!(std::iter::from_fn(|| waiting.take()).count(), 3);
        assert_eq!(waiting.bytes, 0);
    }

    #[test]
    fn messages_that_hold_nothing_do_not_wait_without_end() {
        let mut waiting = Waiting::default();
        let left_out: usize = (0..1_000_000).map(|_| waiting.offer(Media::Audio(0, Bytes::new()))).sum();
        assert!(left_out > 900_000 && waiting.media.len() <= WAITING_BYTES_MAX / MESSAGE_BYTES + 1);
    }

    #[tokio::test]
    async fn what_waits_is_taken_before_the_end_is_seen() {
        let queue = Queue::default();
        queue.waiting().offer(video(0x17, 1, 9));
        queue.closed.cancel();
        assert_eq!(queue.next().await, Some(video(0x17, 1, 9)));
        assert_eq!(queue.next().await, None);
    }
}
