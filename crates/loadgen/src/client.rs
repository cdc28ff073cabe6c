//! One real client: connects, speaks at the pace of speech, and notes when what comes back comes.

use std::{fmt, io, time::Duration};

use bytes::Bytes;
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use model::Samples;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};
use tungstenite::{Error, Message, protocol::WebSocketConfig};

use crate::{
    measure::Heard,
    message::{FromServer, ToServer},
};

/// Sound sent at once: 100 ms (protocols.md section 6 and what browsers do).
const PIECE_SAMPLES: usize = 1_600;

/// Longest time for connecting, and then for the answer to `init`.
const OPEN_LIMIT: Duration = Duration::from_secs(10);

/// Longest time from `stop` to `stopped`. A server that is behind works off its backlog within it.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// How long after `stopped` nothing must come for a stream to be over. Finals take another way than `stopped`.
const QUIET: Duration = Duration::from_secs(2);

/// Largest message taken.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Everything that a stream said and got.
#[derive(Debug)]
pub struct Conversation {
    /// Captions in the order of their coming.
    pub heard: Vec<Heard>,
    /// How much was sent.
    pub sent: Samples,
    /// How much the server says it was.
    pub confirmed: Samples,
    /// Longest time that a piece was sent after its last sample was spoken. More than some milliseconds means that
    /// the measuring side was late.
    pub late_most: Duration,
    /// What the server warned of: it loses something then.
    pub warnings: Vec<String>,
}

/// Why a stream ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The connection was not made. Never tells the address, which holds the token.
    #[error("cannot connect: {0}")]
    Connect(Refusal),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(#[from] Error),
    /// The server said so.
    #[error("the server refused: {code}: {message}")]
    Refused {
        /// For programs.
        code: String,
        /// For people.
        message: String,
    },
    /// The server closed the connection.
    #[error("the server closed the connection ({0})")]
    Closed(u16),
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

/// Says `pcm` to the server at `url`, which holds the token, at real time.
///
/// # Errors
/// See [`StreamError`]; what was heard until then is lost, since such a stream counts as failed.
pub async fn converse(url: &str, pcm: &[i16]) -> Result<Conversation, StreamError> {
    let mut socket = open(url).await?;
    initialize(&mut socket).await?;
    let begun = Instant::now();
    let (mut sink, mut stream) = socket.split();
    let mut ear = Ear { begun, heard: Vec::new(), warnings: Vec::new() };
    // The half that ends first in good order is the speaking one: the listening one waits for `stopped`.
    let (late_most, confirmed) =
        tokio::try_join!(speak(&mut sink, pcm, begun), ear.listen(&mut stream, pcm.len()))?;
    // A courtesy; everything is here.
    drop(timeout(Duration::from_secs(1), sink.close()).await);
    let sent = Samples::of(pcm.len());
    Ok(Conversation { heard: ear.heard, sent, confirmed, late_most, warnings: ear.warnings })
}

async fn open(url: &str) -> Result<Socket, StreamError> {
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

async fn initialize(socket: &mut Socket) -> Result<(), StreamError> {
    let init = ToServer::Init { encoding: "pcm_s16le", partials: true };
    socket.send(Message::text(init.to_json())).await?;
    let answered = async {
        loop {
            match message(socket.next().await)? {
                Some(FromServer::Initialized {}) => return Ok(()),
                Some(FromServer::Error(trouble)) => {
                    return Err(StreamError::Refused { code: trouble.code, message: trouble.message });
                }
                _ => {}
            }
        }
    };
    timeout(OPEN_LIMIT, answered).await.unwrap_or(Err(StreamError::Silent("init")))
}

/// Sends each piece when its last sample has been spoken, then `stop`. Gives the longest lateness.
async fn speak(
    sink: &mut SplitSink<Socket, Message>,
    pcm: &[i16],
    begun: Instant,
) -> Result<Duration, StreamError> {
    let mut late_most = Duration::ZERO;
    let mut spoken = 0;
    for piece in pcm.chunks(PIECE_SAMPLES) {
        spoken += piece.len();
        let due = begun + Samples::of(spoken).duration();
        sleep_until(due).await;
        let bytes: Bytes = piece.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        sink.send(Message::Binary(bytes)).await?;
        late_most = late_most.max(due.elapsed());
    }
    sink.send(Message::text(ToServer::Stop.to_json())).await?;
    Ok(late_most)
}

struct Ear {
    begun: Instant,
    heard: Vec<Heard>,
    warnings: Vec<String>,
}

impl Ear {
    /// Listens until the stream is over, and gives the length that the server says it had.
    async fn listen(
        &mut self,
        stream: &mut SplitStream<Socket>,
        samples: usize,
    ) -> Result<Samples, StreamError> {
        let mut until = self.begun + Samples::of(samples).duration() + STOP_LIMIT;
        let mut confirmed = None;
        loop {
            let next = match (timeout_at(until, stream.next()).await, confirmed) {
                (Ok(next), _) => next,
                (Err(_), Some(samples)) => return Ok(samples),
                (Err(_), None) => return Err(StreamError::Silent("stop")),
            };
            match (message(next), confirmed) {
                (Ok(Some(FromServer::TranscriptPartial(caption))), _) => self.take(caption, false),
                (Ok(Some(FromServer::TranscriptFinal(caption))), _) => self.take(caption, true),
                (Ok(Some(FromServer::Stopped { samples })), _) => confirmed = Some(Samples(samples)),
                (Ok(Some(FromServer::Error(trouble))), _) => {
                    return Err(StreamError::Refused { code: trouble.code, message: trouble.message });
                }
                (Ok(Some(FromServer::Warning(trouble))), _) => {
                    self.warnings.push(format!("{}: {}", trouble.code, trouble.message));
                }
                (Ok(_), _) => continue,
                // After `stopped` the server may hang up.
                (Err(_), Some(samples)) => return Ok(samples),
                (Err(error), None) => return Err(error),
            }
            if confirmed.is_some() {
                until = Instant::now() + QUIET;
            }
        }
    }

    fn take(&mut self, caption: crate::message::Caption, is_final: bool) {
        self.heard.push(Heard { at: self.begun.elapsed(), is_final, caption });
    }
}

/// What the server said; `None` when it is nothing that counts.
fn message(next: Option<Result<Message, Error>>) -> Result<Option<FromServer>, StreamError> {
    match next {
        Some(Ok(Message::Text(text))) => Ok(serde_json::from_str(&text).ok()),
        Some(Ok(Message::Close(frame))) => {
            Err(StreamError::Closed(frame.map_or(1005, |frame| frame.code.into())))
        }
        Some(Ok(_)) => Ok(None),
        Some(Err(error)) => Err(error.into()),
        None => Err(StreamError::Closed(1006)),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{net::TcpListener, task::JoinSet};

    use super::*;

    /// What a scripted server does with one client.
    #[derive(Clone, Copy)]
    enum Script {
        Good,
        RefusesInit,
        HangsUp,
        LosesSound,
    }

    /// Lets a client say 350 ms to a server that follows `script`.
    async fn against(script: Script) -> Result<Conversation, StreamError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/?token=t", listener.local_addr().unwrap());
        let mut server = JoinSet::new();
        server.spawn(async move {
            let (socket, _) = listener.accept().await.unwrap();
            let mut socket = tokio_tungstenite::accept_async(socket).await.unwrap();
            let say = |text: &str| Message::text(text.to_owned());
            let init = socket.next().await.unwrap().unwrap();
            assert!(init.to_text().unwrap().contains("pcm_s16le"));
            socket.send(say(r#"{"type":"connected"}"#)).await.unwrap();
            if matches!(script, Script::RefusesInit) {
                socket.send(say(r#"{"type":"error","message":"busy","code":"overloaded"}"#)).await.unwrap();
                return;
            }
            socket.send(say(r#"{"type":"initialized","stream":"u","acked":0}"#)).await.unwrap();
            let mut bytes = 0;
            while let Some(Ok(message)) = socket.next().await {
                match message {
                    Message::Binary(piece) => bytes += piece.len(),
                    Message::Text(text) => {
                        assert_eq!(text.as_str(), r#"{"type":"stop"}"#);
                        break;
                    }
                    _ => {}
                }
                if matches!(script, Script::HangsUp) {
                    socket.close(None).await.unwrap();
                    return;
                }
                let partial = r#"{"type":"transcript_partial","utteranceId":"u-1","text":"a","start":0,"end":0.1}"#;
                socket.send(say(partial)).await.unwrap();
            }
            let lost = if matches!(script, Script::LosesSound) { 1600 } else { 0 };
            if lost > 0 {
                socket.send(say(r#"{"type":"warning","message":"audio lost","code":"gap"}"#)).await.unwrap();
            }
            let stopped = format!(r#"{{"type":"stopped","stream":"u","samples":{}}}"#, bytes / 2 - lost);
            socket.send(Message::text(stopped)).await.unwrap();
            let last =
                r#"{"type":"transcript_final","utteranceId":"u-1","text":"A.","start":0,"end":0.3,"words":[]}"#;
            socket.send(say(last)).await.unwrap();
            socket.close(None).await.unwrap();
        });
        let conversation = converse(&url, &[100; 5_600]).await;
        server.join_all().await;
        conversation
    }

    #[tokio::test]
    async fn all_is_said_at_its_pace_and_all_that_comes_is_noted() {
        let said = against(Script::Good).await.unwrap();
        assert_eq!((said.sent, said.confirmed), (Samples(5_600), Samples(5_600)));
        assert_eq!(said.heard.len(), 5, "a partial for each piece and a final after `stopped`");
        assert!(said.heard.last().unwrap().is_final && said.warnings.is_empty());
        for (index, heard) in said.heard.iter().take(3).enumerate() {
            let spoken = Duration::from_millis(100 * (index as u64 + 1));
            assert!(heard.at >= spoken, "an answer to a piece that was not spoken yet");
        }
    }

    #[tokio::test]
    async fn each_way_to_fail_is_told() {
        let refused = against(Script::RefusesInit).await.unwrap_err();
        assert_eq!(refused.to_string(), "the server refused: overloaded: busy");
        assert!(matches!(against(Script::HangsUp).await.unwrap_err(), StreamError::Closed(_)));
        let lossy = against(Script::LosesSound).await.unwrap();
        assert_eq!((lossy.confirmed, lossy.warnings), (Samples(4_000), vec!["gap: audio lost".to_owned()]));
        let nobody = converse("ws://127.0.0.1:9/?token=secret", &[]).await.unwrap_err();
        assert!(nobody.to_string().starts_with("cannot connect") && !nobody.to_string().contains("secret"));
    }
}
