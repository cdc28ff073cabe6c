//! One event to many followers: what a delivery costs in `ws-edge`, beside a bare `write()` of as many bytes and beside
//! Node's `ws`, in one run and to the same followers.

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

/// How much of it.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Sockets.
    pub followers: usize,
    /// Events that are measured.
    pub events: usize,
    /// Where Node's `ws` is installed.
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

/// Measures all of them.
///
/// # Errors
/// When one of the servers fails; without Node's `ws` its line is missing.
pub async fn measure(edge: &Edge, plan: &Plan) -> io::Result<Costs> {
    let (ours, payload) = parley(edge, plan).await?;
    // A head of two or four bytes goes before the payload.
    let frame_bytes = payload + if payload < 126 { 2 } else { 4 };
    let mut costs = vec![ours, bare(plan, frame_bytes).await?];
    match node(plan, payload).await {
        Ok(cost) => costs.push(cost),
        Err(error) => eprintln!("Node's ws is not measured: {error}"),
    }
    Ok(Costs { followers: plan.followers, events: plan.events, frame_bytes, costs })
}

async fn parley(edge: &Edge, plan: &Plan) -> io::Result<(Cost, usize)> {
    let client = Client::new();
    let topic = format!("creator:bench-{}", uuid::Uuid::new_v4().simple());
    let says = json!({"type": "subscribe", "channel": topic}).to_string();
    let before = own_memory_kib(edge.process).unwrap_or(0);
    let mut crowd = Crowd::connect(plan.followers, edge.address, |number| Follower::WebSocket {
        path: format!("/ws?token={}", (edge.token)(number)),
        says: Some(says.clone()),
        greetings: 2,
    })
    .await?;
    sleep(SETTLE).await;
    let idle = own_memory_kib(edge.process).unwrap_or(0).saturating_sub(before);
    let mut payload = 0;
    let publish = async |event: usize| {
        let metadata =
            json!({"creatorId": "bench", "data": {"name": "the name of a creator", "event": event}});
        let body = json!({"topic": topic, "type": "creator_updated", "metadata": metadata});
        let url = format!("http://{}/api/notifications", edge.address);
        let answer = client.post(url).bearer_auth(&edge.service_key).json(&body).send().await;
        let answer = answer.map_err(io::Error::other)?.error_for_status().map_err(io::Error::other)?;
        let answer: Value = answer.json().await.map_err(io::Error::other)?;
        // As ws-edge writes it.
        let mut told = metadata;
        for (name, value) in [
            ("type", json!("creator_updated")),
            ("channelKey", json!(topic.replacen(':', "_", 1))),
            ("sequence", answer.get("sequence").cloned().unwrap_or_default()),
        ] {
            if let Some(told) = told.as_object_mut() {
                told.insert(name.to_owned(), value);
            }
        }
        Ok::<usize, io::Error>(told.to_string().len())
    };
    for event in 0..WARM_UP {
        publish(event).await?;
        crowd.expect(plan.followers as u64).await?;
    }
    let mut spans = Vec::new();
    let used = processor_time(edge.process).unwrap_or_default();
    for event in 0..plan.events {
        sleep(PAUSE).await;
        let began = Instant::now();
        payload = publish(event).await?;
        spans.push(crowd.expect(plan.followers as u64).await?.duration_since(began));
    }
    let used = processor_time(edge.process).unwrap_or_default() - used;
    let mut cost = cost("ws-edge", plan, used, spans);
    cost.idle_kib = Some(idle as f64 / plan.followers as f64);
    Ok((cost, payload))
}

async fn bare(plan: &Plan, frame_bytes: usize) -> io::Result<Cost> {
    let mut rival = Rival::bare(plan.followers).await?;
    let crowd = Crowd::connect(plan.followers, rival.address, |_| Follower::Bare(frame_bytes)).await?;
    let (used, spans) = run(&mut rival, crowd, plan, &"x".repeat(frame_bytes)).await?;
    Ok(cost("write()", plan, used, spans))
}

async fn node(plan: &Plan, payload: usize) -> io::Result<Cost> {
    let mut rival = Rival::node(&plan.node).await?;
    let crowd = Crowd::connect(plan.followers, rival.address, |_| Follower::WebSocket {
        path: "/ws".to_owned(),
        says: None,
        greetings: 0,
    })
    .await?;
    let (used, spans) = run(&mut rival, crowd, plan, &"x".repeat(payload)).await?;
    Ok(cost("Node's ws", plan, used, spans))
}

async fn run(
    rival: &mut Rival,
    mut crowd: Crowd,
    plan: &Plan,
    line: &str,
) -> io::Result<(Duration, Vec<Duration>)> {
    let process = rival.id().ok_or(io::ErrorKind::NotFound)?;
    for _ in 0..WARM_UP {
        rival.send(line).await?;
        crowd.expect(plan.followers as u64).await?;
    }
    let mut spans = Vec::new();
    let used = processor_time(process).unwrap_or_default();
    for _ in 0..plan.events {
        sleep(PAUSE).await;
        let began = Instant::now();
        rival.send(line).await?;
        spans.push(crowd.expect(plan.followers as u64).await?.duration_since(began));
    }
    Ok((processor_time(process).unwrap_or_default() - used, spans))
}

fn cost(server: &'static str, plan: &Plan, used: Duration, mut spans: Vec<Duration>) -> Cost {
    spans.sort_unstable();
    let ms = |span: Option<&Duration>| span.map_or(0.0, |span| span.as_secs_f64() * 1e3);
    let deliveries = (plan.followers * plan.events).max(1);
    Cost {
        server,
        cpu_us: used.as_secs_f64() * 1e6 / deliveries as f64,
        to_last_ms: (ms(spans.get(spans.len() / 2)), ms(spans.last())),
        idle_kib: None,
    }
}

impl Costs {
    /// As a table.
    pub fn table(&self) -> String {
        let bare = self.costs.iter().find(|cost| cost.server == "write()").map(|cost| cost.cpu_us);
        let mut table = format!(
            "one event of {} bytes to {} followers, {} times\n\
            server       CPU/delivery  ratio  to the last, median / worst  idle connection\n",
            self.frame_bytes, self.followers, self.events
        );
        for cost in &self.costs {
            let ratio = bare.filter(|bare| *bare > 0.0).map_or(f64::NAN, |bare| cost.cpu_us / bare);
            let idle = cost.idle_kib.map_or_else(String::new, |kib| format!("{kib:.1} KiB"));
            let (median, worst) = cost.to_last_ms;
            table.push_str(&format!(
                "{:<12} {:>8.2} µs {ratio:>8.2} {median:>14.1} / {worst:.1} ms {idle:>16}\n",
                cost.server, cost.cpu_us
            ));
        }
        table
    }
}

/// The process of ws-edge below a launcher.
pub fn edge_process(launcher: u32) -> Option<u32> {
    let processes = list()?;
    processes.iter().find(|process| process.parent == launcher && process.name == "ws-edge").map(|it| it.id)
}
