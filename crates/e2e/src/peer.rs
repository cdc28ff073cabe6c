use std::collections::VecDeque;

use base64ct::{Base64, Encoding as _};
use serde_json::{Value, json};

use crate::Script;

/// Whose program a client of Socket.IO is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Library {
    /// npm's `socket.io-client`, by its major version: 4 and 3 speak Engine.IO 4, 2 speaks Engine.IO 3.
    Npm(u8),
    /// `python-socketio`, which gives every event to a thread of its own.
    Python,
}

impl Library {
    /// Whether events are told in the order in which they came.
    pub fn is_orderly(self) -> bool {
        self != Self::Python
    }
}

/// Every library, the newest first.
pub const LIBRARIES: [Library; 4] = [Library::Npm(4), Library::Npm(3), Library::Npm(2), Library::Python];

/// WebSocket and nothing else.
pub const WEBSOCKET: &[&str] = &["websocket"];

/// Long polling and nothing else.
pub const POLLING: &[&str] = &["polling"];

/// Long polling, and then a WebSocket when there may be one.
pub const UPGRADE: &[&str] = &["polling", "websocket"];

/// Bytes as a [`Peer`] is ordered to send them.
pub fn binary(bytes: &[u8]) -> Value {
    json!({"$bytes": Base64::encode_string(bytes)})
}

/// A client of Socket.IO that is a program of others. It comes back by itself when it loses the connection.
pub struct Peer {
    /// Whose program it is.
    pub library: Library,
    script: Script,
    /// What it was told and the story has not asked for.
    unread: VecDeque<Value>,
    asked: u64,
}

impl Peer {
    /// Starts one for these namespaces of a port of this machine. `says` is what it says of itself when it enters: its
    /// `auth`, or its query where the library knows no `auth`.
    pub fn start(
        library: Library,
        port: u16,
        transports: &[&str],
        namespaces: &[&str],
        says: &Value,
    ) -> Self {
        let place = if library == Library::Npm(2) { "query" } else { "auth" };
        let options = json!({place: says, "reconnectionDelay": 100, "reconnectionDelayMax": 1000});
        let mut argument = json!({"url": format!("http://127.0.0.1:{port}"), "transports": transports,
            "namespaces": namespaces, "options": options});
        let script = match library {
            Library::Npm(version) => {
                argument["version"] = json!(version);
                Script::start("socketio.js", &argument)
            }
            Library::Python => Script::python("socketio_client.py", &argument),
        };
        Self { library, script, unread: VecDeque::new(), asked: 0 }
    }

    /// The next line of this kind; those of other kinds stay to be asked for.
    ///
    /// # Panics
    /// When none comes.
    pub async fn next(&mut self, kind: &str) -> Value {
        self.find(kind, |line| line["is"] == kind).await
    }

    /// The first argument of the next event of this name.
    pub async fn event(&mut self, name: &str) -> Value {
        self.event_in("/", name).await
    }

    /// The same of another namespace.
    pub async fn event_in(&mut self, namespace: &str, name: &str) -> Value {
        let wanted =
            |line: &Value| line["is"] == "event" && line["namespace"] == namespace && line["name"] == name;
        self.find(name, wanted).await["args"][0].take()
    }

    /// Says an event: its name and its arguments.
    pub async fn emit(&mut self, said: Value) {
        self.order(json!({"emit": said})).await;
    }

    /// Says an event and waits for its acknowledgement; the first argument of that.
    pub async fn ask(&mut self, said: Value) -> Value {
        self.ask_in("/", said).await
    }

    /// The same in another namespace.
    pub async fn ask_in(&mut self, namespace: &str, said: Value) -> Value {
        self.asked += 1;
        let id = self.asked;
        self.order(json!({"emit": said, "namespace": namespace, "ack": id})).await;
        self.find("an acknowledgement", |line| line["is"] == "ack" && line["of"] == id).await["args"][0]
            .take()
    }

    /// Gives it an order of `socketio.js`.
    pub async fn order(&mut self, order: Value) {
        self.script.order(&order).await;
    }

    /// The first line that is wanted among those that nobody has asked for, or else of those that come.
    ///
    /// # Panics
    /// When none comes.
    pub async fn find(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        if let Some(line) = self.unread.iter().position(&wanted).and_then(|at| self.unread.remove(at)) {
            return line;
        }
        loop {
            let line = self.script.until(what, |_| true).await;
            if wanted(&line) {
                return line;
            }
            self.unread.push_back(line);
        }
    }

    /// What it was told so far and nobody has asked for.
    pub fn unread(&self) -> impl Iterator<Item = &Value> {
        self.unread.iter()
    }

    /// Has it end.
    ///
    /// # Panics
    /// When it has failed.
    pub async fn end(mut self) {
        self.order(json!({"end": true})).await;
        self.script.end().await;
    }
}
