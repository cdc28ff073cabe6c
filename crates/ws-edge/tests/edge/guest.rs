//! A client of Socket.IO in the namespace `/`.

use std::{collections::VecDeque, net::SocketAddr};

use serde_json::{Value, json};

use crate::socketio::{self, Packets};

pub struct Guest {
    packets: Packets,
    /// Events that came while something else was waited for.
    waiting: VecDeque<(String, Vec<Value>)>,
    acks: u32,
    /// The id of its connection to the namespace.
    pub sid: String,
}

/// What came next.
#[derive(Debug, Clone, PartialEq)]
pub enum Came {
    Event(String, Vec<Value>),
    Ack(u32, Value),
    /// Sent out of the namespace.
    Out,
    /// The connection is gone.
    Closed,
}

impl Guest {
    /// Connects and enters, or says why it may not.
    pub async fn enter(address: SocketAddr, auth: Value) -> Result<Self, String> {
        let packets = Packets::open_at(address).await;
        let mut guest = Self { packets, waiting: VecDeque::new(), acks: 0, sid: String::new() };
        guest.send(format!("40{auth}")).await;
        let packet = guest.packets.packet().await;
        let body =
            |begin: &str| packet.strip_prefix(begin).map(|body| serde_json::from_str::<Value>(body).unwrap());
        if let Some(refused) = body("44") {
            return Err(refused["message"].as_str().unwrap().to_owned());
        }
        guest.sid = body("40").unwrap()["sid"].as_str().unwrap().to_owned();
        Ok(guest)
    }

    pub async fn send(&mut self, packet: String) {
        self.packets.send(packet).await;
    }

    /// Whatever comes next.
    pub async fn next(&mut self) -> Came {
        let socketio::Came::Packet(packet) = self.packets.next().await else { return Came::Closed };
        if let Some(event) = packet.strip_prefix("42") {
            let mut event: Vec<Value> = serde_json::from_str(event).unwrap();
            let Value::String(name) = event.remove(0) else { panic!("a name in {packet}") };
            return Came::Event(name, event);
        }
        if let Some(ack) = packet.strip_prefix("43") {
            let (number, body) = ack.split_at(ack.find('[').unwrap());
            let mut body: Vec<Value> = serde_json::from_str(body).unwrap();
            return Came::Ack(number.parse().unwrap(), body.remove(0));
        }
        assert_eq!(packet, "41");
        Came::Out
    }

    /// The next event.
    pub async fn event(&mut self) -> (String, Vec<Value>) {
        if let Some(event) = self.waiting.pop_front() {
            return event;
        }
        loop {
            match self.next().await {
                Came::Event(name, args) => return (name, args),
                Came::Ack(..) => {}
                other => panic!("an event, not {other:?}"),
            }
        }
    }

    /// The next event, which has this name and one argument.
    pub async fn said(&mut self, name: &str) -> Value {
        let (event, mut args) = self.event().await;
        assert_eq!((event.as_str(), args.len()), (name, 1), "{args:?}");
        args.remove(0)
    }

    /// The first argument of the next event of this name; others are passed over.
    pub async fn expect(&mut self, name: &str) -> Value {
        loop {
            let (event, mut args) = self.event().await;
            if event == name {
                return args.remove(0);
            }
        }
    }

    pub async fn emit(&mut self, name: &str, data: Value) {
        self.send(format!("42{}", json!([name, data]))).await;
    }

    /// Emits and waits for the acknowledgement; events that come before it are kept.
    pub async fn ask(&mut self, name: &str, data: Value) -> Value {
        self.acks += 1;
        let number = self.acks;
        self.send(format!("42{number}{}", json!([name, data]))).await;
        loop {
            match self.next().await {
                Came::Event(name, args) => self.waiting.push_back((name, args)),
                Came::Ack(acked, body) if acked == number => return body,
                Came::Ack(..) => {}
                other => panic!("an acknowledgement, not {other:?}"),
            }
        }
    }

    /// Asks for something and expects that it is done.
    pub async fn done(&mut self, name: &str, data: Value) -> Value {
        let ack = self.ask(name, data.clone()).await;
        assert_eq!(ack["ok"], true, "{name} {data}: {ack}");
        ack
    }

    /// The code with which something is refused.
    pub async fn refused(&mut self, name: &str, data: Value) -> String {
        let ack = self.ask(name, data.clone()).await;
        assert_eq!(ack["ok"], false, "{name} {data}: {ack}");
        assert!(ack["error"].is_string(), "{ack}");
        ack["code"].as_str().unwrap().to_owned()
    }

    /// Everything that it was told before has been seen: no event is left but these.
    pub async fn quiet(&mut self) {
        self.done("requestHistory", json!({"limit": 1})).await;
        let history = self.waiting.pop_back();
        assert_eq!(history.map(|(name, _)| name).as_deref(), Some("messageHistory"));
        assert_eq!(self.waiting, []);
    }

    /// Up to the end: the events, and whether it was sent out rather than cut.
    pub async fn ended(&mut self) -> (Vec<(String, Vec<Value>)>, Came) {
        let mut events: Vec<_> = self.waiting.drain(..).collect();
        loop {
            match self.next().await {
                Came::Event(name, args) => events.push((name, args)),
                Came::Ack(..) => {}
                end => return (events, end),
            }
        }
    }

    /// Gone without a word.
    pub fn vanish(self) {}
}
