//! A client of `/api/realtime/transcribe`.

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::HeaderValue;
use serde_json::{Value, json};
use testkit::PATIENCE;
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::WebSocketStream;
use tungstenite::{Message, client::IntoClientRequest as _};

pub struct Client {
    socket: WebSocketStream<TcpStream>,
}

/// What a client read next.
#[derive(Debug, Clone, PartialEq)]
pub enum Read {
    Said(Value),
    Closed(u16, String),
    /// Without a close frame.
    Lost,
}

impl Client {
    /// Connects and expects 101.
    pub async fn connect(url: &str, headers: &[(&'static str, &str)]) -> Self {
        let mut request = url.into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, HeaderValue::from_str(value).unwrap());
        }
        let stream = TcpStream::connect(request.uri().authority().unwrap().as_str()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (socket, response) = tokio_tungstenite::client_async(request, stream).await.expect("101");
        assert!(!response.headers().contains_key("sec-websocket-extensions"), "no compression");
        Self { socket }
    }

    /// Connects and expects another status than 101.
    pub async fn refused(url: &str, headers: &[(&'static str, &str)]) -> http::Response<Option<Vec<u8>>> {
        let mut request = url.into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, HeaderValue::from_str(value).unwrap());
        }
        let stream = TcpStream::connect(request.uri().authority().unwrap().as_str()).await.unwrap();
        match tokio_tungstenite::client_async(request, stream).await {
            Err(tungstenite::Error::Http(response)) => *response,
            other => panic!("not refused: {:?}", other.map(|(_, response)| response)),
        }
    }

    pub async fn say(&mut self, message: Value) {
        self.say_text(&message.to_string()).await;
    }

    pub async fn say_text(&mut self, text: &str) {
        // The edge may have closed meanwhile; what it said then is what tests read.
        let _ = self.socket.send(Message::text(text)).await;
    }

    pub async fn send(&mut self, audio: impl Into<Bytes>) {
        let _ = self.socket.send(Message::Binary(audio.into())).await;
    }

    pub async fn send_message(&mut self, message: Message) {
        let _ = self.socket.send(message).await;
    }

    pub async fn read(&mut self) -> Read {
        let reading = async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Text(text))) => return Read::Said(serde_json::from_str(&text).unwrap()),
                    Some(Ok(Message::Close(Some(frame)))) => {
                        // Sends the answer to it.
                        let _ = self.socket.next().await;
                        return Read::Closed(frame.code.into(), frame.reason.to_string());
                    }
                    Some(Ok(Message::Close(None)) | Err(_)) | None => return Read::Lost,
                    Some(Ok(_)) => {}
                }
            }
        };
        timeout(PATIENCE, reading).await.expect("something to read")
    }

    /// The next message, whatever it is.
    pub async fn said(&mut self) -> Value {
        match self.read().await {
            Read::Said(value) => value,
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

    /// Reads to the end: the last message of type `error`, the code and the reason.
    pub async fn ended(&mut self) -> (Option<Value>, u16, String) {
        let mut error = None;
        loop {
            match self.read().await {
                Read::Said(value) if value["type"] == "error" => error = Some(value),
                Read::Said(_) => {}
                Read::Closed(code, reason) => return (error, code, reason),
                Read::Lost => panic!("no close frame after {error:?}"),
            }
        }
    }

    /// The code with which it ends.
    pub async fn code(&mut self) -> u16 {
        self.ended().await.1
    }

    /// Asks for a pong: everything that was sent before has been seen by the edge.
    pub async fn settled(&mut self) {
        self.say(json!({"type": "ping"})).await;
        self.expect("pong").await;
    }

    pub async fn close(mut self) {
        let _ = self.socket.close(None).await;
        while let Some(Ok(_)) = self.socket.next().await {}
    }

    /// Gone without a word.
    pub fn vanish(self) {}
}
