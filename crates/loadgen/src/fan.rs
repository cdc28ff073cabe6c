//! One event to many followers, of WebSocket or of Socket.IO: what a delivery costs in `ws-edge`, beside a bare `write()` of
//! as many bytes and beside Node's `ws` or npm's `socket.io`, in one run and to the same followers.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use reqwest::Client;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    crowd::{Crowd, Follower},
    processes::{list, own_memory_kib, processor_time},
    rival::Rival,
};

/// Before memory is read, what was freed should be freed.
const SETTLE: Duration = Duration::from_secs(2);

/// Between two events: everybody has read the last one.
const PAUSE: Duration = Duration::from_millis(50);

/// Events before the measured ones: buffers grow, and so do caches.
const WARM_UP: usize = 3;

/// The system under load.
pub struct Edge {
    /// The door of ws-edge itself, since nginx' part is nginx'.
    pub address: SocketAddr,
    /// Its process.
    pub process: u32,
    /// Lets us publish.
    pub service_key: String,
    /// Makes the token of a user.
    pub token: Box<dyn Fn(usize) -> String>,
}

/// What followers speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// Messages of a WebSocket.
    WebSocket,
    /// Events of Socket.IO, over a WebSocket.
    SocketIo,
}

/// How much of it.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What followers speak.
    pub wire: Wire,
    /// Sockets.
    pub followers: usize,
    /// Events that are measured.
    pub events: usize,
    /// Where Node's packages are installed.
    pub node: PathBuf,
}

/// What one server took.
#[derive(Debug, Clone, Serialize)]
pub struct Cost {
    /// Which.
    pub server: &'static str,
    /// Processor time for each delivery, microseconds.
    pub cpu_us: f64,
    /// From the request to publish to the moment in which the last follower had it: the middle one of all events, and
    /// the worst, milliseconds.
    pub to_last_ms: (f64, f64),
    /// Memory for each idle connection, KiB.
    pub idle_kib: Option<f64>,
}

/// What all of them took.
#[derive(Debug, Clone, Serialize)]
pub struct Costs {
    followers: usize,
    events: usize,
    /// Length of a message on the wire, bytes.
    frame_bytes: usize,
    costs: Vec<Cost>,
}

/// A server with its followers.
struct Lane {
    server: &'static str,
    crowd: Crowd,
    process: u32,
    speaker: Speaker,
    used: Duration,
    spans: Vec<Duration>,
    idle_kib: Option<f64>,
}

/// How a server is told to send.
enum Speaker {
    /// By publishing.
    Edge { client: Client, url: String, service_key: String, topic: String },
    /// By a line of its input.
    Rival(Box<Rival>, String),
}

impl Speaker {
    async fn send(&mut self, event: usize) -> io::Result<()> {
        match self {
            Self::Rival(rival, line) => rival.send(line).await,
            Self::Edge { client, url, service_key, topic } => {
                let body = json!({"topic": topic, "type": TYPE, "metadata": metadata(event)});
                let answer = client.post(&*url).bearer_auth(&*service_key).json(&body).send().await;
                let answer = answer.map_err(io::Error::other)?;
                answer.error_for_status().map(drop).map_err(io::Error::other)
            }
        }
    }
}

impl Lane {
    async fn event(&mut self, event: usize, followers: usize, counts: bool) -> io::Result<()> {
        sleep(PAUSE).await;
        let used = processor_time(self.process).unwrap_or_default();
        let began = Instant::now();
        self.speaker.send(event).await?;
        let last = self.crowd.expect(followers as u64).await?;
        if counts {
            self.spans.push(last.duration_since(began));
            self.used += processor_time(self.process).unwrap_or_default().saturating_sub(used);
        }
        Ok(())
    }
}

/// Of the events.
const TYPE: &str = "creator_updated";

/// Where Socket.IO's clients are told of them.
const NAMESPACE: &str = "/notifications";

/// A line that has Node throw away what nobody holds.
const COLLECT: &str = "gc";

fn metadata(event: usize) -> Value {
    json!({"creatorId": "bench", "data": {"name": "the name of a creator", "event": event}})
}

/// Measures all of them, event by event in turn, so that whatever else the machine does is the same for all.
///
/// # Errors
/// When one of the servers fails; without Node's packages its line is missing.
pub async fn measure(edge: &Edge, plan: &Plan) -> io::Result<Costs> {
    let topic = format!("creator:bench-{}", uuid::Uuid::new_v4().simple());
    let told = told(plan.wire, &topic);
    let payload = told.len();
    let frame_bytes = payload + if payload < 126 { 2 } else { 4 };
    let mut lanes = vec![parley(edge, plan, topic).await?, bare(plan, frame_bytes).await?];
    match node(plan, told).await {
        Ok(lane) => lanes.push(lane),
        Err(error) => eprintln!("Node is not measured: {error}"),
    }
    for event in 0..WARM_UP + plan.events {
        for lane in &mut lanes {
            lane.event(event, plan.followers, event >= WARM_UP).await?;
        }
    }
    let costs = lanes.into_iter().map(|lane| cost(lane, plan)).collect();
    Ok(Costs { followers: plan.followers, events: plan.events, frame_bytes, costs })
}

/// An event as ws-edge writes it, while its sequence has two digits. A head of two or four bytes goes before it.
fn told(wire: Wire, topic: &str) -> String {
    let key = topic.replacen(':', "_", 1);
    let mut told = metadata(10);
    if let Some(told) = told.as_object_mut() {
        told.extend(
            [("type", json!(TYPE)), ("channelKey", json!(key)), ("sequence", json!(10))]
                .map(|(name, value)| (name.to_owned(), value)),
        );
    }
    match wire {
        Wire::WebSocket => told.to_string(),
        Wire::SocketIo => format!("42{NAMESPACE},{}", json!([TYPE, told])),
    }
}

async fn parley(edge: &Edge, plan: &Plan, topic: String) -> io::Result<Lane> {
    let channel = json!({"type": "subscribe", "channel": topic});
    let before = own_memory_kib(edge.process).unwrap_or(0);
    let crowd = Crowd::connect(plan.followers, edge.address, |number| {
        let token = (edge.token)(number);
        match plan.wire {
            Wire::WebSocket => Follower::WebSocket {
                path: format!("/ws?token={token}"),
                says: Some(channel.to_string()),
                greetings: 2,
            },
            Wire::SocketIo => Follower::SocketIo {
                opens: format!("40{NAMESPACE},{}", json!({"token": token})),
                says: Some(format!("42{NAMESPACE},{}", json!(["subscribe", channel]))),
                greetings: 2,
            },
        }
    })
    .await?;
    let idle_kib = idle_kib(edge.process, before, plan).await;
    let speaker = Speaker::Edge {
        client: Client::new(),
        url: format!("http://{}/api/notifications", edge.address),
        service_key: edge.service_key.clone(),
        topic,
    };
    Ok(Lane { idle_kib: Some(idle_kib), ..lane("ws-edge", crowd, edge.process, speaker) })
}

async fn bare(plan: &Plan, frame_bytes: usize) -> io::Result<Lane> {
    let rival = Rival::bare(plan.followers).await?;
    let crowd = Crowd::connect(plan.followers, rival.address, |_| Follower::Bare(frame_bytes)).await?;
    let process = rival.id().ok_or(io::ErrorKind::NotFound)?;
    Ok(lane("write()", crowd, process, Speaker::Rival(Box::new(rival), "x".repeat(frame_bytes))))
}

async fn node(plan: &Plan, told: String) -> io::Result<Lane> {
    let (server, script) = match plan.wire {
        Wire::WebSocket => ("Node's ws", "broadcast.js"),
        Wire::SocketIo => ("socket.io 4", "broadcast_socketio.js"),
    };
    let mut rival = Rival::node(&plan.node, script).await?;
    let process = rival.id().ok_or(io::ErrorKind::NotFound)?;
    rival.send(COLLECT).await?;
    let before = own_memory_kib(process).unwrap_or(0);
    let crowd = Crowd::connect(plan.followers, rival.address, |_| match plan.wire {
        Wire::WebSocket => Follower::WebSocket { path: "/ws".to_owned(), says: None, greetings: 0 },
        Wire::SocketIo => Follower::SocketIo { opens: format!("40{NAMESPACE},"), says: None, greetings: 0 },
    })
    .await?;
    rival.send(COLLECT).await?;
    let idle_kib = idle_kib(process, before, plan).await;
    // Socket.IO's packet begins with its type and the namespace; what follows is the event.
    let line = told.find('[').filter(|_| plan.wire == Wire::SocketIo).and_then(|at| told.get(at..));
    let line = line.unwrap_or(&told).to_owned();
    Ok(Lane {
        idle_kib: Some(idle_kib),
        ..lane(server, crowd, process, Speaker::Rival(Box::new(rival), line))
    })
}

/// Memory for each connection, KiB, once all are there and nothing happens.
async fn idle_kib(process: u32, before: u64, plan: &Plan) -> f64 {
    sleep(SETTLE).await;
    let grown = own_memory_kib(process).unwrap_or(0).saturating_sub(before);
    grown as f64 / plan.followers.max(1) as f64
}

fn lane(server: &'static str, crowd: Crowd, process: u32, speaker: Speaker) -> Lane {
    Lane { server, crowd, process, speaker, used: Duration::ZERO, spans: Vec::new(), idle_kib: None }
}

fn cost(lane: Lane, plan: &Plan) -> Cost {
    let Lane { server, used, mut spans, idle_kib, .. } = lane;
    spans.sort_unstable();
    let ms = |span: Option<&Duration>| span.map_or(0.0, |span| span.as_secs_f64() * 1e3);
    let deliveries = (plan.followers * plan.events).max(1);
    Cost {
        server,
        cpu_us: used.as_secs_f64() * 1e6 / deliveries as f64,
        to_last_ms: (ms(spans.get(spans.len() / 2)), ms(spans.last())),
        idle_kib,
    }
}

impl Costs {
    /// As a table.
    pub fn table(&self) -> String {
        let bare = self.costs.iter().find(|cost| cost.server == "write()");
        let mut table = format!(
            "one event of {} bytes to {} followers, {} times\n\
            server       CPU/delivery  ratio  to the last, median / worst  idle connection\n",
            self.frame_bytes, self.followers, self.events
        );
        for cost in &self.costs {
            let ratio = bare.map_or(f64::NAN, |bare| ratio(cost.cpu_us, bare.cpu_us));
            let idle = cost.idle_kib.map_or_else(String::new, |kib| format!("{kib:.1} KiB"));
            let (median, worst) = cost.to_last_ms;
            table.push_str(&format!(
                "{:<12} {:>8.2} µs {ratio:>8.2} {median:>14.1} / {worst:.1} ms {idle:>16}\n",
                cost.server, cost.cpu_us
            ));
        }
        if let [edge, _, node] = self.costs.as_slice() {
            let memory = ratio(edge.idle_kib.unwrap_or(f64::NAN), node.idle_kib.unwrap_or(f64::NAN));
            table.push_str(&format!(
                "{} beside {}: {:.2} of the CPU for each delivery, {memory:.2} of the memory of an idle connection\n",
                edge.server,
                node.server,
                ratio(edge.cpu_us, node.cpu_us)
            ));
        }
        table
    }
}

/// What the one takes of the other; not a number where that is nothing.
fn ratio(one: f64, other: f64) -> f64 {
    if other > 0.0 { one / other } else { f64::NAN }
}

/// The process of ws-edge below a launcher.
pub fn edge_process(launcher: u32) -> Option<u32> {
    let processes = list()?;
    processes.iter().find(|process| process.parent == launcher && process.name == "ws-edge").map(|it| it.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nodes_servers_tell_every_follower() {
        let folder = testkit::node_script("");
        for wire in [Wire::WebSocket, Wire::SocketIo] {
            let plan = Plan { wire, followers: 20, events: 2, node: folder.clone() };
            let mut lane = node(&plan, told(wire, "creator:c")).await.unwrap();
            for event in 0..plan.events {
                lane.event(event, plan.followers, true).await.unwrap();
            }
            assert_eq!(lane.spans.len(), plan.events, "each was told to all of them");
        }
    }
}
