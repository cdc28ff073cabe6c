//! A server whose every word the test decides, and the binary that talks to it.

use std::{
    path::PathBuf,
    process::{Output, Stdio},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::{
    io::{BufReader, Lines},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStdout, Command},
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{ErrorResponse, Request, Response},
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

/// Nothing here takes long; this only keeps a broken test from hanging.
const LIMIT: Duration = Duration::from_secs(60);

/// The secret that the tests' tokens are signed with.
pub const SECRET: &str = "a secret of the tests";

/// Awaits with a limit.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, what).await.expect("it never happened")
}

/// Where connections arrive.
pub struct Server {
    listener: TcpListener,
    /// Its address for `--url`.
    pub url: String,
}

impl Server {
    /// On a port of its own.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        Self { listener, url }
    }

    /// The next TCP connection.
    pub async fn accept_tcp(&self) -> TcpStream {
        soon(self.listener.accept()).await.unwrap().0
    }

    /// The next WebSocket.
    pub async fn accept(&self) -> Peer {
        let stream = self.accept_tcp().await;
        let mut request = String::new();
        #[expect(clippy::result_large_err, reason = "the handshake's own signature")]
        let note = |asked: &Request, response: Response| -> Result<Response, ErrorResponse> {
            request = asked.uri().to_string();
            Ok(response)
        };
        let socket = soon(accept_hdr_async(stream, note)).await.unwrap();
        Peer { socket, request }
    }
}

/// The server's end of one WebSocket.
pub struct Peer {
    socket: WebSocketStream<TcpStream>,
    /// Path and query that it was opened with.
    pub request: String,
}

impl Peer {
    /// Sends a message.
    pub async fn say(&mut self, message: Value) {
        soon(self.socket.send(Message::text(message.to_string()))).await.unwrap();
    }

    async fn next(&mut self) -> Message {
        soon(self.socket.next()).await.expect("the client hung up").unwrap()
    }

    /// The next text message, which has this type; sound before it is collected.
    pub async fn expect(&mut self, kind: &str) -> (Value, Vec<u8>) {
        let mut sound = Vec::new();
        loop {
            match self.next().await {
                Message::Text(text) => {
                    let value: Value = serde_json::from_str(&text).unwrap();
                    assert_eq!(value["type"], kind);
                    return (value, sound);
                }
                Message::Binary(bytes) => sound.extend(bytes),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?} instead of {kind}"),
            }
        }
    }

    /// Answers `init` with a stream.
    pub async fn open(&mut self, stream: &str) -> Value {
        self.resume(stream, 0, 0).await
    }

    /// Answers `init` with a stream and how far it has come.
    pub async fn resume(&mut self, stream: &str, acked: u64, received: u64) -> Value {
        let (init, _) = self.expect("init").await;
        let answer =
            serde_json::json!({"type":"initialized","stream":stream,"acked":acked,"received":received});
        self.say(answer).await;
        init
    }

    /// Sound until at least so many bytes are there.
    pub async fn sound(&mut self, bytes: usize) -> Vec<u8> {
        let mut sound = Vec::new();
        while sound.len() < bytes {
            sound.extend(self.piece().await);
        }
        sound
    }

    /// The next message of sound.
    pub async fn piece(&mut self) -> Vec<u8> {
        loop {
            match self.next().await {
                Message::Binary(bytes) => return bytes.to_vec(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?} instead of sound"),
            }
        }
    }

    /// What comes before the client has answered a ping.
    pub async fn sound_before_pong(&mut self) -> usize {
        soon(self.socket.send(Message::Ping("now".into()))).await.unwrap();
        let mut count = 0;
        loop {
            match self.next().await {
                Message::Binary(bytes) => count += bytes.len(),
                Message::Pong(_) => return count,
                other => panic!("{other:?} instead of a pong"),
            }
        }
    }

    /// Closes with a code and waits for the client's answer.
    pub async fn close(mut self, code: u16, reason: &'static str) {
        let frame = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
        soon(self.socket.close(Some(frame))).await.unwrap();
        soon(async { while let Some(Ok(_)) = self.socket.next().await {} }).await;
    }
}

/// A caption as the server sends it.
pub fn caption(kind: &str, stream: &str, number: u64, sequence: u64, start: f64, text: &str) -> Value {
    let mut value = serde_json::json!({
        "type": kind, "sessionSlug": "demo", "utteranceId": format!("{stream}-{number}"), "text": text,
        "isFinal": kind == "transcript_final", "speaker": "Alice", "speakerId": "alice", "ts": 1_700_000_000_000_u64,
        "start": start, "end": start + 1.0, "stable": text.len(), "stream": stream,
    });
    if kind == "transcript_final" {
        value["sequence"] = sequence.into();
    }
    value
}

/// The binary in an empty folder, without the settings of whoever runs the tests.
pub fn parley(arguments: &[&str]) -> Command {
    let folder = folder();
    let mut command = Command::new(env!("CARGO_BIN_EXE_parley"));
    command
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .env("TRANSCRIPTION_JWT_SECRET", SECRET)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// A folder for this process's files. The temporary folder's parents hold no settings.
pub fn folder() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("parley-cli-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Writes a file into [`folder`].
pub fn file(name: &str, bytes: &[u8]) -> String {
    let path = folder().join(name);
    std::fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

/// 16 kHz, 16 bit, mono, of this many bytes, no two neighbouring samples alike.
pub fn samples(bytes: usize) -> Vec<u8> {
    (0..bytes / 2).flat_map(|index| (index as u16).to_le_bytes()).collect()
}

/// A WAV of those.
pub fn wav(samples: &[u8]) -> Vec<u8> {
    let length = u32::try_from(samples.len()).unwrap();
    let mut wav = b"RIFF".to_vec();
    wav.extend((length + 36).to_le_bytes());
    wav.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0data");
    wav.extend(length.to_le_bytes());
    wav.extend(samples);
    wav
}

/// Sends a signal by name.
pub async fn signal(child: &Child, name: &str) {
    let pid = child.id().expect("it runs").to_string();
    let status = Command::new("kill").args([format!("-{name}"), pid]).status();
    assert!(soon(status).await.unwrap().success());
}

/// What a finished command said.
pub struct Said {
    /// Its exit code.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Runs it to its end.
pub async fn run(arguments: &[&str]) -> Said {
    soon(parley(arguments).output()).await.unwrap().into()
}

/// Waits for its end.
pub async fn end(child: Child) -> Said {
    soon(child.wait_with_output()).await.unwrap().into()
}

/// The next line of a running command, which must contain this.
pub async fn line(lines: &mut Lines<BufReader<ChildStdout>>, contains: &str) {
    let line = soon(lines.next_line()).await.unwrap().expect("another line");
    assert!(line.contains(contains), "{line:?} instead of {contains:?}");
}
