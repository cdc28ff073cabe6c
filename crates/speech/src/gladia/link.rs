//! The connection to Gladia: opens a session, sends what the tape holds, connects again when a connection is lost.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use reqwest::{Url, header::HeaderValue};
use tokio::{
    net::TcpStream,
    sync::{Notify, mpsc::Sender},
    time::{sleep, timeout},
};
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream, connect_async_tls_with_config};
use tungstenite::{Error, Message as Frame, protocol::WebSocketConfig};

use super::{
    Account, GladiaLimits, GladiaTrouble,
    settings::trusted,
    tape::Tape,
    trouble::worth_retrying,
    wire::{MESSAGE_BYTES_MAX, Message, Opened, STOP},
};
use crate::meters;

/// Attempts to open a session.
const OPENINGS_MAX: u32 = 3;

/// Attempts to connect, until one connection has served for something.
const ATTEMPTS_MAX: u32 = 5;

/// Longest piece of sound in one message, in bytes. Gladia takes 1 MiB.
const PIECE_BYTES_MAX: usize = 512 * 1024;

/// Longest answer over HTTP that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Longest URL of a socket, in bytes.
const URL_BYTES_MAX: usize = 4 * 1024;

/// How long to read on when nothing can be sent any more: what Gladia has acknowledged need not be sent again.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(1);

/// How often to look whether an acknowledgement is overdue.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// What a session and its link share.
pub(crate) struct Shared {
    tape: Mutex<Tape>,
    /// There is more to send.
    pub(crate) more: Notify,
    /// No more will come.
    pub(crate) ended: Notify,
}

impl Shared {
    pub(crate) fn new(tape: Tape) -> Self {
        Self { tape: Mutex::new(tape), more: Notify::new(), ended: Notify::new() }
    }

    /// Never held over an await.
    pub(crate) fn tape(&self) -> MutexGuard<'_, Tape> {
        self.tape.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the link tells its session.
pub(crate) enum News {
    /// Gladia said this, then.
    Message(Message, Instant),
    /// Nothing follows.
    Failed(GladiaTrouble),
    /// Gladia has said all. Nothing follows.
    Ended,
}

/// How a connection ended.
enum Closed {
    /// Gladia closed it, with this code and reason, or it broke.
    Socket(Option<u16>, String),
    /// Gladia complained.
    Trouble(GladiaTrouble),
}

/// One session, to its end. `body` is the request for it.
pub(crate) async fn run(account: &Account, body: Vec<u8>, shared: &Shared, news: Sender<News>) {
    let finish_limit = async {
        shared.ended.notified().await;
        sleep(account.settings.limits.finish).await;
    };
    let ended = tokio::select! {
        ended = serve(account, body, shared, &news) => ended,
        () = finish_limit => Err(GladiaTrouble::Unavailable),
    };
    let last = match ended {
        Ok(()) => News::Ended,
        Err(trouble) => News::Failed(trouble),
    };
    // A session that is gone needs no news.
    let _ = news.send(last).await;
}

async fn serve(
    account: &Account,
    body: Vec<u8>,
    shared: &Shared,
    news: &Sender<News>,
) -> Result<(), GladiaTrouble> {
    metrics::counter!(meters::GLADIA_SESSIONS).increment(1);
    let limits = &account.settings.limits;
    let url = open(account, Bytes::from(body)).await?;
    let mut failures = 0;
    loop {
        let mut useful = false;
        if let Some(socket) = connect(account, &url).await? {
            let began = Instant::now();
            shared.tape().connected(began);
            let (closed, heard) = talk(socket, limits, shared, news).await;
            let (ended, owing) = {
                let mut tape = shared.tape();
                tape.disconnected();
                (tape.ended(), tape.owed_since().is_some())
            };
            // One with nothing to say may be closed for being idle.
            useful = heard || (!owing && began.elapsed() > limits.back_off.1);
            match closed {
                Closed::Socket(Some(1000 | 1001), _) if ended => return Ok(()),
                Closed::Trouble(trouble) => return Err(trouble),
                Closed::Socket(code, said) => {
                    if let Some(trouble) = GladiaTrouble::of_close(code, &said) {
                        return Err(trouble);
                    }
                    tracing::debug!(code, "a connection to Gladia was lost");
                }
            }
            metrics::counter!(meters::GLADIA_RECONNECTS).increment(1);
        }
        failures = if useful { 0 } else { failures + 1 };
        if failures >= ATTEMPTS_MAX {
            return Err(GladiaTrouble::Unavailable);
        }
        sleep(back_off(limits, failures)).await;
    }
}

/// The pause after so many failures.
fn back_off(limits: &GladiaLimits, failures: u32) -> Duration {
    let (first, longest) = limits.back_off;
    (first * 2_u32.saturating_pow(failures.saturating_sub(1))).min(longest)
}

/// Opens a session and returns where its socket is.
async fn open(account: &Account, body: Bytes) -> Result<Url, GladiaTrouble> {
    let mut attempt = 1;
    loop {
        let (trouble, retry) = match ask(account, body.clone()).await {
            Ok(url) => return Ok(url),
            Err(failed) => failed,
        };
        if !retry || attempt == OPENINGS_MAX {
            return Err(trouble);
        }
        sleep(back_off(&account.settings.limits, attempt)).await;
        attempt += 1;
    }
}

/// Asks once. The error comes with whether asking again may help.
async fn ask(account: &Account, body: Bytes) -> Result<Url, (GladiaTrouble, bool)> {
    let away = |_| (GladiaTrouble::Unavailable, true);
    let settings = &account.settings;
    let mut key =
        HeaderValue::from_str(settings.api_key.expose()).map_err(|_| (GladiaTrouble::Unauthorized, false))?;
    key.set_sensitive(true);
    let request = account.http.post(settings.live_url()).header("x-gladia-key", key);
    let request = request.header("content-type", "application/json").body(body);
    let mut answer = request.send().await.map_err(away)?;
    let status = answer.status().as_u16();
    let mut said = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(away)? {
        if said.len() + part.len() > ANSWER_BYTES_MAX {
            return Err((GladiaTrouble::Unavailable, false));
        }
        said.extend_from_slice(&part);
    }
    if !matches!(status, 200 | 201) {
        let trouble = GladiaTrouble::of_status(status, &String::from_utf8_lossy(&said));
        return Err((trouble, worth_retrying(status)));
    }
    let opened = serde_json::from_slice::<Opened>(&said).ok();
    let url = opened
        .filter(|opened| opened.url.len() <= URL_BYTES_MAX)
        .and_then(|opened| Url::parse(&opened.url).ok().filter(|url| trusted(url, "wss", "ws")));
    url.ok_or((GladiaTrouble::Unavailable, false))
}

/// Connects once. `None` when another attempt may help.
async fn connect(account: &Account, url: &Url) -> Result<Option<Socket>, GladiaTrouble> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let connector = Connector::Rustls(account.tls.clone());
    let connecting = connect_async_tls_with_config(url.as_str(), Some(config), true, Some(connector));
    match timeout(account.settings.limits.answer, connecting).await {
        Ok(Ok((socket, _))) => Ok(Some(socket)),
        Ok(Err(Error::Http(answer))) => match answer.status().as_u16() {
            // Such as that Gladia has not noticed yet that the connection before this one is lost.
            408 | 409 | 413 | 429 => Ok(None),
            status @ 400..=499 => Err(GladiaTrouble::of_status(status, "")),
            _ => Ok(None),
        },
        Ok(Err(_)) | Err(_) => Ok(None),
    }
}

/// Serves one connection. Returns how it ended, and whether Gladia said anything.
async fn talk(socket: Socket, limits: &GladiaLimits, shared: &Shared, news: &Sender<News>) -> (Closed, bool) {
    let (sink, stream) = socket.split();
    let mut heard = false;
    let closed = {
        let mut receiving = std::pin::pin!(receive(stream, limits, shared, news, &mut heard));
        tokio::select! {
            closed = &mut receiving => closed,
            () = send(sink, limits, shared) => {
                let last_words = timeout(LAST_WORDS_LIMIT, receiving).await;
                last_words.unwrap_or_else(|_| Closed::Socket(None, String::new()))
            }
        }
    };
    (closed, heard)
}

/// Sends what the tape holds, until that fails.
async fn send(mut sink: SplitSink<Socket, Frame>, limits: &GladiaLimits, shared: &Shared) {
    let mut stopped = false;
    loop {
        let (piece, ended) = {
            let mut tape = shared.tape();
            (tape.take_unsent(PIECE_BYTES_MAX, Instant::now()), tape.ended())
        };
        let frame = match piece {
            Some(piece) => Frame::Binary(piece.into()),
            None if ended && !stopped => {
                stopped = true;
                Frame::Text(STOP.into())
            }
            None => {
                shared.more.notified().await;
                continue;
            }
        };
        if !matches!(timeout(limits.silence, sink.send(frame)).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// Reads what Gladia says, until it says no more.
async fn receive(
    mut stream: SplitStream<Socket>,
    limits: &GladiaLimits,
    shared: &Shared,
    news: &Sender<News>,
    heard: &mut bool,
) -> Closed {
    loop {
        let owed_since = shared.tape().owed_since();
        if owed_since.is_some_and(|since| since.elapsed() > limits.silence) {
            return Closed::Socket(None, String::new());
        }
        let text = match timeout(LOOK_INTERVAL, stream.next()).await {
            Ok(Some(Ok(Frame::Text(text)))) => text,
            Ok(Some(Ok(Frame::Close(frame)))) => {
                // The answer leaves with the next poll.
                let _ = timeout(LAST_WORDS_LIMIT, stream.next()).await;
                let (code, said) = frame.map(|frame| (frame.code.into(), frame.reason.to_string())).unzip();
                return Closed::Socket(code, said.unwrap_or_default());
            }
            Ok(Some(Ok(_))) | Err(_) => continue,
            Ok(Some(Err(_)) | None) => return Closed::Socket(None, String::new()),
        };
        let now = Instant::now();
        let Ok(message) = Message::parse(&text) else {
            metrics::counter!(meters::GLADIA_SKIPPED, "reason" => "malformed").increment(1);
            continue;
        };
        metrics::counter!(meters::GLADIA_MESSAGES, "kind" => message.label()).increment(1);
        *heard = true;
        match message {
            Message::Acknowledged(from, to) => shared.tape().acknowledge(from, to, now),
            Message::Complaint { quota: true } => return Closed::Trouble(GladiaTrouble::Quota),
            Message::Complaint { quota: false } => {
                metrics::counter!(meters::GLADIA_SKIPPED, "reason" => "complaint").increment(1);
            }
            Message::Other => {}
            told => {
                if news.send(News::Message(told, now)).await.is_err() {
                    return Closed::Socket(None, String::new());
                }
            }
        }
    }
}
