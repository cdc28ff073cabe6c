use std::sync::{Arc, Mutex};

use futures_util::{SinkExt, StreamExt};
use testkit::eventually;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tokio_tungstenite::accept_hdr_async;
use tungstenite::{
    Message,
    handshake::server::{Request, Response},
};

/// What an egress sent.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Heard {
    /// A handshake with this content type.
    Began(String),
    /// PCM.
    Sound(Vec<u8>),
    /// A text.
    Text(String),
    /// A close frame, and whether it was empty.
    Closed { empty: bool },
    /// The end of the connection.
    Gone,
}

/// A WebSocket server that writes down what egresses send, one connection after another.
pub(crate) struct TrackSink {
    port: u16,
    heard: Arc<Mutex<Vec<Heard>>>,
    close: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl TrackSink {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = Arc::default();
        let (close, closing) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&heard), closing));
        Self { port, heard, close, _tasks: tasks }
    }

    pub(crate) fn url(&self, rest: &str) -> String {
        format!("ws://127.0.0.1:{}/egress{rest}", self.port)
    }

    /// Closes the connection properly.
    pub(crate) fn close(&self) {
        self.close.send_replace(true);
    }

    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    pub(crate) async fn until(&self, what: &str, condition: impl Fn(&[Heard]) -> bool) -> Vec<Heard> {
        eventually(what, async || Some(self.heard()).filter(|heard| condition(heard))).await
    }
}

async fn accept(listener: TcpListener, heard: Arc<Mutex<Vec<Heard>>>, closing: watch::Receiver<bool>) {
    while let Ok((stream, _)) = listener.accept().await {
        hear(stream, &heard, closing.clone()).await;
        heard.lock().unwrap().push(Heard::Gone);
    }
}

async fn hear(stream: TcpStream, heard: &Mutex<Vec<Heard>>, mut closing: watch::Receiver<bool>) {
    let note = |message| heard.lock().unwrap().push(message);
    #[expect(clippy::result_large_err, reason = "tungstenite asks for this type")]
    let shake = |request: &Request, response: Response| {
        let content = request.headers().get("content-type").and_then(|value| value.to_str().ok());
        note(Heard::Began(content.unwrap_or_default().to_owned()));
        Ok(response)
    };
    let mut socket = accept_hdr_async(stream, shake).await.unwrap();
    loop {
        let message = tokio::select! {
            message = socket.next() => Some(message),
            () = async { drop(closing.wait_for(|closing| *closing).await) } => None,
        };
        let Some(message) = message else {
            socket.close(None).await.unwrap();
            return;
        };
        match message {
            Some(Ok(Message::Binary(sound))) => note(Heard::Sound(sound.to_vec())),
            Some(Ok(Message::Text(text))) => note(Heard::Text(text.to_string())),
            Some(Ok(Message::Close(frame))) => {
                note(Heard::Closed { empty: frame.is_none() });
                let _answered = socket.flush().await;
                return;
            }
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return,
        }
    }
}
