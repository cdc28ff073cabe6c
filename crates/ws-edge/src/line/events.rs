//! Messages of a WebSocket as events of Socket.IO. Out: the event is named by the message's `type`, its argument is the whole
//! message. In: the event's name becomes the `type` of its argument, an object or nothing; `audio` with a binary argument
//! is a binary message. Each is acknowledged once it was dealt with.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};
use tungstenite::Utf8Bytes;

use crate::{
    close::Close,
    socket::{Received, Unsent},
    socketio::{Event, Heard, Reply, Visitor},
};

/// The event of sound.
const AUDIO: &str = "audio";

/// The event of a message that names its type itself: what `socket.send()` makes.
const MESSAGE: &str = "message";

/// A message as an event.
pub(crate) struct Encoded {
    name: String,
    /// Its one argument.
    body: Box<RawValue>,
}

impl Encoded {
    /// A message of a WebSocket; `None` if it is no JSON, which none of ours is.
    pub(crate) fn of(text: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Message<'a> {
            #[serde(borrow, default)]
            r#type: Cow<'a, str>,
        }
        let Message { r#type } = serde_json::from_str(text).ok()?;
        let name = if r#type.is_empty() { MESSAGE.to_owned() } else { r#type.into_owned() };
        Some(Self { name, body: RawValue::from_string(text.to_owned()).ok()? })
    }
}

/// A namespace of Socket.IO, for one client.
pub(crate) struct Events {
    visitor: Visitor,
    /// How what it said last is acknowledged, once that was dealt with.
    reply: Option<Reply>,
    /// What was wrong with it.
    wrong: Option<Wrong>,
    /// Whether somebody wants to know that it is alive. Socket.IO sees to its pings by itself.
    asked: bool,
}

/// What an acknowledgement says.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Ack {
    ok: bool,
    #[serde(flatten)]
    wrong: Option<Wrong>,
}

/// The part of an `error` message that an acknowledgement repeats.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Wrong {
    #[serde(alias = "message")]
    error: String,
    code: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

impl Events {
    pub(super) fn new(visitor: Visitor) -> Self {
        Self { visitor, reply: None, wrong: None, asked: false }
    }

    pub(super) async fn receive(&mut self) -> Received {
        self.acknowledge();
        if std::mem::take(&mut self.asked) && self.visitor.is_connected() {
            return Received::Alive;
        }
        match self.visitor.next().await {
            Heard::Event(mut event) => {
                self.reply = event.reply.take();
                message(event)
            }
            Heard::Unreadable => Received::Text(Utf8Bytes::default()),
            Heard::TooMany => Received::Broken(Close::Busy),
            Heard::Gone => Received::Gone,
        }
    }

    fn acknowledge(&mut self) {
        let wrong = self.wrong.take();
        if let Some(reply) = self.reply.take() {
            reply.send(&Ack { ok: wrong.is_none(), wrong });
        }
    }

    pub(super) async fn send(&mut self, texts: impl IntoIterator<Item = Utf8Bytes>) -> Result<(), Unsent> {
        for message in texts.into_iter().filter_map(|text| Encoded::of(&text)) {
            self.tell(&message).await?;
        }
        Ok(())
    }

    /// Sends what is an event already.
    pub(super) async fn tell(&mut self, message: &Encoded) -> Result<(), Unsent> {
        if message.name == "error" && self.reply.is_some() {
            self.wrong = wrong(message.body.get());
        }
        self.visitor.emit(&message.name, &*message.body).await
    }

    pub(super) fn ping(&mut self) -> Result<(), Unsent> {
        self.asked = true;
        Ok(())
    }

    pub(super) async fn close(mut self, last: Option<Utf8Bytes>, close: Close) {
        if let Some(last) = last.and_then(|last| Encoded::of(&last)) {
            let _ = self.tell(&last).await;
        }
        self.acknowledge();
        self.visitor.leave(close).await;
    }
}

/// What is wrong according to an `error` message: in system A's shape, or in `data` as in system C's.
fn wrong(text: &str) -> Option<Wrong> {
    let mut message: Map<String, Value> = serde_json::from_str(text).ok()?;
    let about = message.remove("data").unwrap_or(Value::Object(message));
    serde_json::from_value(about).ok()
}

fn message(event: Event) -> Received {
    let Event { name, args, binary, .. } = event;
    let argument = args.into_iter().next();
    if name == AUDIO
        && let Some(sound) = binary.into_iter().next()
    {
        return Received::Binary(sound);
    }
    let text = match argument {
        Some(Value::String(text)) if name == MESSAGE => text,
        Some(argument) if name == MESSAGE => argument.to_string(),
        Some(Value::Object(mut fields)) => {
            fields.insert("type".to_owned(), Value::String(name));
            Value::Object(fields).to_string()
        }
        None | Some(Value::Null) => serde_json::json!({ "type": name }).to_string(),
        // Not read as anything, so that it is refused like any other message of a wrong form.
        Some(_) => String::new(),
    };
    Received::Text(text.into())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;

    fn text(name: &str, args: Vec<Value>) -> String {
        match message(Event { name: name.to_owned(), args, binary: Vec::new(), reply: None }) {
            Received::Text(text) => text.to_string(),
            _ => "no text".to_owned(),
        }
    }

    #[test]
    fn events_become_messages() {
        assert_eq!(text("ping", vec![]), r#"{"type":"ping"}"#);
        assert_eq!(text("ping", vec![Value::Null]), r#"{"type":"ping"}"#);
        let subscribe = json!({"channel": "feed", "type": "other"});
        assert_eq!(text("subscribe", vec![subscribe]), r#"{"channel":"feed","type":"subscribe"}"#);
        assert_eq!(text("message", vec![json!({"type": "ping"})]), r#"{"type":"ping"}"#);
        assert_eq!(text("message", vec![json!(r#"{"type":"ping"}"#)]), r#"{"type":"ping"}"#);
        for odd in [json!(1), json!([1]), json!("x"), json!(true)] {
            assert_eq!(text("subscribe", vec![odd]), "");
        }
        let sound = Event {
            name: "audio".to_owned(),
            args: vec![json!({"_placeholder": true, "num": 0})],
            binary: vec![Bytes::from_static(b"pcm")],
            reply: None,
        };
        assert!(matches!(message(sound), Received::Binary(bytes) if bytes == "pcm"));
    }

    #[test]
    fn an_acknowledgement_repeats_the_error_of_either_system() {
        let expected =
            |code: &str| Wrong { error: "no".to_owned(), code: code.to_owned(), retry_after_ms: Some(5) };
        let of_a = r#"{"type":"error","error":"no","code":"busy","retryAfterMs":5}"#;
        let of_c = r#"{"type":"error","data":{"message":"no","code":"rate_limited","retryAfterMs":5}}"#;
        assert_eq!(wrong(of_a), Some(expected("busy")));
        assert_eq!(wrong(of_c), Some(expected("rate_limited")));
        let ack = |wrong: Option<Wrong>| serde_json::to_value(Ack { ok: wrong.is_none(), wrong }).unwrap();
        assert_eq!(ack(None), json!({"ok": true}));
        assert_eq!(
            ack(Some(expected("x"))),
            json!({"ok": false, "error": "no", "code": "x", "retryAfterMs": 5})
        );
    }
}
