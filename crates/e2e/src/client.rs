use std::time::Duration;

use bytes::Bytes;
use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use http::HeaderValue;
use serde_json::{Value, json};
use testkit::PATIENCE;
use tokio::{
    net::TcpStream,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_tungstenite::WebSocketStream;
use tungstenite::{Message, client::IntoClientRequest as _};

use crate::sound::pcm;

/// The pieces of a microphone, in samples: a tenth of a second.
const LIVE_SAMPLES: usize = 1_600;

/// How long these last.
const LIVE_INTERVAL: Duration = Duration::from_millis(100);

/// A scripted client of `/api/realtime/transcribe`. It reads while it sends, and keeps all it was told.
pub struct Client {
    sink: SplitSink<WebSocketStream<TcpStream>, Message>,
    stream: SplitStream<WebSocketStream<TcpStream>>,
    told: Vec<Value>,
    /// How many of those the script has looked at.
    looked_at: usize,
    end: Option<Heard>,
}

/// What a client hears next.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// A message.
    Said(Value),
    /// A close frame: its code and its reason.
    Closed(u16, String),
    /// The end of the connection without a close frame.
    Lost,
}

impl Client {
    /// Opens a WebSocket.
    ///
    /// # Panics
    /// When the answer is not 101, or offers compression.
    pub async fn connect(url: &str, headers: &[(&'static str, &str)]) -> Self {
        let (socket, response) = handshake(url, headers).await.expect("101");
        assert!(!response.headers().contains_key("sec-websocket-extensions"), "no compression");
        let (sink, stream) = socket.split();
        Self { sink, stream, told: Vec::new(), looked_at: 0, end: None }
    }

    /// Opens a WebSocket, if somebody lets it in.
    pub async fn try_connect(url: &str) -> Option<Self> {
        let (socket, _) = handshake(url, &[]).await.ok()?;
        let (sink, stream) = socket.split();
        Some(Self { sink, stream, told: Vec::new(), looked_at: 0, end: None })
    }

    /// Asks for a WebSocket and expects another answer than 101.
    ///
    /// # Panics
    /// When the answer is 101.
    pub async fn refused(url: &str) -> http::Response<Option<Vec<u8>>> {
        match handshake(url, &[]).await {
            Err(tungstenite::Error::Http(response)) => *response,
            other => panic!("not refused: {:?}", other.map(|(_, response)| response)),
        }
    }

    /// Sends a message.
    pub async fn say(&mut self, message: Value) {
        self.send_message(Message::text(message.to_string())).await;
    }

    /// Sends text as it is.
    pub async fn say_text(&mut self, text: &str) {
        self.send_message(Message::text(text)).await;
    }

    /// Sends bytes.
    pub async fn send(&mut self, bytes: impl Into<Bytes>) {
        self.send_message(Message::Binary(bytes.into())).await;
    }

    /// Sends a WebSocket message, and reads while it cannot leave.
    pub async fn send_message(&mut self, message: Message) {
        self.send_all(futures_util::stream::iter([message])).await;
    }

    /// Sends `init` with these fields and reads the answer.
    pub async fn init(&mut self, fields: Value) -> Value {
        let mut message = json!({"type": "init"});
        if let (Some(message), Value::Object(fields)) = (message.as_object_mut(), fields) {
            message.extend(fields);
        }
        self.say(message).await;
        self.expect("initialized").await
    }

    /// Sends bytes in pieces of so many, as fast as they are taken.
    pub async fn pour(&mut self, bytes: &[u8], piece: usize) {
        let pieces = bytes.chunks(piece).map(|piece| Message::Binary(Bytes::copy_from_slice(piece)));
        self.send_all(futures_util::stream::iter(pieces)).await;
    }

    /// Sends the same bytes so many times, as fast as they are taken.
    pub async fn repeat(&mut self, bytes: impl Into<Bytes>, count: usize) {
        let message = Message::Binary(bytes.into());
        self.send_all(futures_util::stream::iter(std::iter::repeat_n(message, count))).await;
    }

    /// Says samples (16 kHz mono) at the pace of a microphone.
    pub async fn speak(&mut self, samples: &[i16]) {
        let mut ticks = interval(LIVE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let state = (ticks, samples.chunks(LIVE_SAMPLES));
        let pieces = futures_util::stream::unfold(state, |(mut ticks, mut pieces)| async move {
            let piece = pieces.next()?;
            ticks.tick().await;
            Some((Message::Binary(pcm(piece).into()), (ticks, pieces)))
        });
        self.send_all(pieces).await;
    }

    async fn send_all(&mut self, messages: impl futures_util::Stream<Item = Message>) {
        let Self { sink, stream, told, end, .. } = self;
        let sending = async {
            let mut messages = std::pin::pin!(messages);
            while let Some(message) = messages.next().await {
                // The server may have closed meanwhile; what it said then is what the script reads.
                if sink.send(message).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = sending => {}
            () = async {
                while end.is_none() {
                    match hear(stream).await {
                        Heard::Said(value) => told.push(value),
                        other => *end = Some(other),
                    }
                }
            } => {}
        }
    }

    /// What comes next.
    ///
    /// # Panics
    /// When nothing comes.
    pub async fn hear(&mut self) -> Heard {
        if self.looked_at == self.told.len() {
            if let Some(end) = &self.end {
                return end.clone();
            }
            match timeout(PATIENCE, hear(&mut self.stream)).await.expect("something to read") {
                Heard::Said(value) => self.told.push(value),
                end => return self.end.insert(end).clone(),
            }
        }
        self.looked_at += 1;
        self.told.get(self.looked_at - 1).map_or(Heard::Lost, |value| Heard::Said(value.clone()))
    }

    /// The next message.
    ///
    /// # Panics
    /// When the connection ends instead.
    pub async fn said(&mut self) -> Value {
        match self.hear().await {
            Heard::Said(value) => value,
            other => panic!("a message, not {other:?}"),
        }
    }

    /// The next message of this type; others are passed over.
    pub async fn expect(&mut self, kind: &str) -> Value {
        loop {
            let value = self.said().await;
            if value["type"] == kind {
                return value;
            }
        }
    }

    /// Reads to the end: the last message of type `error`, and the code.
    ///
    /// # Panics
    /// When there is no close frame.
    pub async fn ended(&mut self) -> (Option<Value>, u16) {
        let mut error = None;
        loop {
            match self.hear().await {
                Heard::Said(value) if value["type"] == "error" => error = Some(value),
                Heard::Said(_) => {}
                Heard::Closed(code, _) => return (error, code),
                Heard::Lost => panic!("no close frame after {error:?}"),
            }
        }
    }

    /// Says `stop` and waits until everything is stored; how much audio there was, in samples.
    pub async fn stop(&mut self) -> u64 {
        self.say(json!({"type": "stop"})).await;
        self.expect("stopped").await["samples"].as_u64().expect("samples")
    }

    /// Asks for a pong: everything that was sent before has been seen by the edge.
    pub async fn settled(&mut self) {
        self.say(json!({"type": "ping"})).await;
        self.expect("pong").await;
    }

    /// Reads until the final with this sequence was told.
    pub async fn finals_to(&mut self, sequence: u64) -> Vec<Value> {
        let is_last = |value: &Value| value["type"] == "transcript_final" && value["sequence"] == sequence;
        if sequence > 0 && !self.told.iter().any(is_last) {
            while !is_last(&self.said().await) {}
        }
        self.finals()
    }

    /// The finals so far.
    pub fn finals(&self) -> Vec<Value> {
        self.told("transcript_final")
    }

    /// The messages of this type so far.
    pub fn told(&self, kind: &str) -> Vec<Value> {
        self.told.iter().filter(|value| value["type"] == kind).cloned().collect()
    }

    /// Closes and waits for the answer.
    pub async fn close(mut self) {
        let _closed = self.sink.close().await;
        while let Ok(Heard::Said(_)) = timeout(PATIENCE, hear(&mut self.stream)).await {}
    }
}

async fn handshake(
    url: &str,
    headers: &[(&'static str, &str)],
) -> Result<(WebSocketStream<TcpStream>, http::Response<Option<Vec<u8>>>), tungstenite::Error> {
    let mut request = url.into_client_request().expect("a URL");
    for (name, value) in headers {
        request.headers_mut().insert(*name, HeaderValue::from_str(value).expect("a header"));
    }
    let address = request.uri().authority().expect("host:port").to_string();
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    tokio_tungstenite::client_async(request, stream).await
}

/// Pings are answered on the way.
async fn hear(stream: &mut SplitStream<WebSocketStream<TcpStream>>) -> Heard {
    loop {
        match stream.next().await {
            Some(Ok(Message::Text(text))) => return Heard::Said(serde_json::from_str(&text).expect("JSON")),
            Some(Ok(Message::Close(Some(frame)))) => {
                return Heard::Closed(frame.code.into(), frame.reason.to_string());
            }
            Some(Ok(Message::Close(None)) | Err(_)) | None => return Heard::Lost,
            Some(Ok(_)) => {}
        }
    }
}
