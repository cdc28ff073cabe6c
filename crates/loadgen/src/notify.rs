//! Many users with several connections each are told things while services are killed one after the other: whether
//! everything was stored, and told to every connection exactly once by id and in order.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::Client;
use serde_json::{Value, json};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{interval, sleep, timeout},
};
use tungstenite::Message;
use uuid::Uuid;

use crate::{
    fault::{Blow, Fault, strike},
    socket::open,
};

/// How long connections may take to have heard everything, after the last was stored.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(120);

/// How long a request may take before it is made again.
const REQUEST_LIMIT: Duration = Duration::from_secs(15);

/// Requests that are under way at a time.
const REQUESTS_MAX: usize = 256;

/// How long one notification may take to be stored, through everything.
const STORE_LIMIT: Duration = Duration::from_secs(120);

/// Between two attempts to connect: doubles from the first to the last, as a client should.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));

/// Nothing was said for so long: a lost connection that nobody told us of.
const SILENCE: Duration = Duration::from_secs(45);

/// The system under load.
#[derive(Clone)]
pub struct System {
    /// `host:port` of the front door.
    pub url: String,
    /// Lets us publish.
    pub service_key: String,
    /// Makes the token of a user.
    pub token: Arc<dyn Fn(&str) -> String + Send + Sync>,
    /// Whose children are killed.
    pub launcher: Option<u32>,
}

/// How much of it.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Users.
    pub users: usize,
    /// Connections of each.
    pub connections: usize,
    /// Notifications a second.
    pub rate: u32,
    /// For so long.
    pub span: Duration,
    /// What is killed, in even steps of the span.
    pub kill: Vec<String>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    published: usize,
    stored: usize,
    struck: Vec<Result<String, String>>,
    connections: usize,
    /// Connections that were told everything of their user once and in order.
    complete: usize,
    missing: usize,
    doubled: usize,
    disordered: usize,
    reconnects: u64,
    caught_up_in: Duration,
}

/// What all tasks share.
struct Shared {
    system: System,
    reconnects: AtomicU64,
    finished: AtomicUsize,
    /// How many notifications each user was sent in the end; known when everything is stored.
    counts: watch::Receiver<Option<Arc<HashMap<String, usize>>>>,
}

/// What one connection was told.
struct Told {
    user: String,
    ids: Vec<String>,
    disordered: usize,
}

/// Plays it.
pub async fn run(system: &System, plan: &Plan) -> Report {
    let run = Uuid::new_v4().simple().to_string();
    let users: Vec<String> = (0..plan.users).map(|number| format!("load-{run}-{number}")).collect();
    let (all_stored, counts) = watch::channel(None);
    let shared = Arc::new(Shared {
        system: system.clone(),
        reconnects: AtomicU64::new(0),
        finished: AtomicUsize::new(0),
        counts,
    });
    let opened = Arc::new(AtomicUsize::new(0));
    let mut followers = JoinSet::new();
    for user in &users {
        for _ in 0..plan.connections {
            followers.spawn(follow(shared.clone(), user.clone(), opened.clone()));
        }
    }
    let connections = plan.users * plan.connections;
    let began = Instant::now();
    while opened.load(Ordering::Relaxed) < connections && began.elapsed() < CATCH_UP_LIMIT {
        sleep(Duration::from_millis(100)).await;
    }
    eprintln!("{} connections in {:.1} s", opened.load(Ordering::Relaxed), began.elapsed().as_secs_f64());

    let (stored, struck) = tokio::join!(publish_all(system, plan, &users, &run), strike_all(system, plan));
    let mut by_user: HashMap<String, Vec<String>> = HashMap::new();
    for (user, id) in stored.iter().flatten() {
        by_user.entry(user.clone()).or_default().push(id.clone());
    }
    let counts = users.iter().map(|user| (user.clone(), by_user.get(user).map_or(0, Vec::len))).collect();
    let stored_at = Instant::now();
    all_stored.send_replace(Some(Arc::new(counts)));
    let all = async {
        while shared.finished.load(Ordering::Relaxed) < connections {
            sleep(Duration::from_millis(50)).await;
        }
    };
    let _ = timeout(CATCH_UP_LIMIT, all).await;
    let mut report = Report {
        published: stored.len(),
        stored: stored.iter().flatten().count(),
        struck,
        connections,
        reconnects: shared.reconnects.load(Ordering::Relaxed),
        caught_up_in: stored_at.elapsed(),
        ..Report::default()
    };
    drop(all_stored);
    while let Some(told) = followers.join_next().await {
        let Ok(told) = told else { continue };
        let expected = by_user.get(&told.user).map_or(&[] as &[String], Vec::as_slice);
        let mut times: HashMap<&str, usize> = HashMap::new();
        for id in &told.ids {
            *times.entry(id).or_default() += 1;
        }
        let missing = expected.iter().filter(|id| !times.contains_key(id.as_str())).count();
        let doubled = times.values().map(|times| times - 1).sum::<usize>();
        report.missing += missing;
        report.doubled += doubled;
        report.disordered += told.disordered;
        report.complete += usize::from(missing + doubled + told.disordered == 0);
    }
    report
}

/// Publishes at the planned rate; each until it is stored, with a key that makes that safe. The user and the id of each
/// that was.
async fn publish_all(
    system: &System,
    plan: &Plan,
    users: &[String],
    run: &str,
) -> Vec<Option<(String, String)>> {
    let client = Client::builder().timeout(REQUEST_LIMIT).build().unwrap_or_default();
    let places = Arc::new(Semaphore::new(REQUESTS_MAX));
    let mut ticks = interval(Duration::from_secs(1) / plan.rate.max(1));
    let mut requests = JoinSet::new();
    let total = plan.span.as_secs() as usize * plan.rate as usize;
    for number in 0..total {
        ticks.tick().await;
        let Some(user) = users.get(number % users.len().max(1)) else { break };
        let Ok(place) = places.clone().acquire_owned().await else { break };
        let (client, system, user) = (client.clone(), system.clone(), user.clone());
        let key = format!("{run}-{number}");
        requests.spawn(async move {
            let _place = place;
            let id = timeout(STORE_LIMIT, publish(&client, &system, &user, &key)).await.ok()?;
            Some((user, id))
        });
    }
    let mut stored = Vec::with_capacity(total);
    while let Some(one) = requests.join_next().await {
        stored.push(one.ok().flatten());
    }
    stored
}

/// Until it is stored; its id.
async fn publish(client: &Client, system: &System, user: &str, key: &str) -> String {
    let url = format!("http://{}/api/notifications", system.url);
    let mut pause = BACK_OFF.0;
    loop {
        let body =
            json!({"userId": user, "type": "SYSTEM_ANNOUNCEMENT", "title": key, "message": "under load"});
        let request =
            client.post(&url).bearer_auth(&system.service_key).header("idempotency-key", key).json(&body);
        if let Ok(answer) = request.send().await
            && answer.status().is_success()
            && let Ok(answer) = answer.json::<Value>().await
            && let Some(id) = answer.pointer("/notification/id").and_then(Value::as_str)
        {
            return id.to_owned();
        }
        sleep(pause).await;
        pause = (pause * 2).min(BACK_OFF.1);
    }
}

/// Strikes each, in even steps.
async fn strike_all(system: &System, plan: &Plan) -> Vec<Result<String, String>> {
    let mut struck = Vec::new();
    let step = plan.span / u32::try_from(plan.kill.len() + 1).unwrap_or(1);
    for (number, process) in plan.kill.iter().enumerate() {
        sleep(step).await;
        let at_s = u32::try_from((step * u32::try_from(number + 1).unwrap_or(1)).as_secs()).unwrap_or(0);
        let does = if process == "postgres" { Blow::Interrupt } else { Blow::Kill };
        struck.push(strike(&Fault { at_s, process: process.clone(), does }, system.launcher));
    }
    struck
}

/// One connection of a user, which comes back whenever it is lost, until it was told everything.
async fn follow(shared: Arc<Shared>, user: String, opened: Arc<AtomicUsize>) -> Told {
    let mut told = Told { user, ids: Vec::new(), disordered: 0 };
    let mut counts = shared.counts.clone();
    let (mut newest, mut pause, mut is_first) = (0_u64, BACK_OFF.0, true);
    loop {
        let url = format!("ws://{}/ws?token={}", shared.system.url, (shared.system.token)(&told.user));
        let channel = json!({"type": "notifications", "userId": told.user});
        let subscribe = json!({"type": "subscribe", "channel": channel, "since": newest}).to_string();
        let socket = match open(&url).await {
            Ok(mut socket) => socket.send(Message::text(subscribe)).await.ok().map(|()| socket),
            Err(_) => None,
        };
        if let Some(mut socket) = socket {
            if std::mem::take(&mut is_first) {
                opened.fetch_add(1, Ordering::Relaxed);
            }
            loop {
                let is_done = counts
                    .borrow()
                    .as_ref()
                    .is_some_and(|counts| told.ids.len() >= counts.get(&told.user).copied().unwrap_or(0));
                if is_done {
                    shared.finished.fetch_add(1, Ordering::Relaxed);
                    let _ = socket.close(None).await;
                    return told;
                }
                let message = tokio::select! {
                    message = timeout(SILENCE, socket.next()) => message,
                    changed = counts.changed() => match changed {
                        Ok(()) => continue,
                        // The time is over.
                        Err(_) => return told,
                    },
                };
                match message {
                    Ok(Some(Ok(Message::Text(text)))) => {
                        pause = BACK_OFF.0;
                        hear(&text, &mut told, &mut newest);
                    }
                    Ok(Some(Ok(Message::Close(_)) | Err(_)) | None) | Err(_) => break,
                    Ok(Some(Ok(_))) => {}
                }
            }
            shared.reconnects.fetch_add(1, Ordering::Relaxed);
        }
        if counts.has_changed().is_err() {
            return told;
        }
        // Not all at once.
        let jitter =
            Duration::from_millis(u64::from(Uuid::new_v4().as_bytes().first().copied().unwrap_or(0)));
        sleep(pause + jitter).await;
        pause = (pause * 2).min(BACK_OFF.1);
    }
}

fn hear(text: &str, told: &mut Told, newest: &mut u64) {
    let Ok(said) = serde_json::from_str::<Value>(text) else { return };
    let Some(sequence) = said.get("sequence").and_then(Value::as_u64) else { return };
    if said.get("type").and_then(Value::as_str) == Some("notification")
        && let Some(id) = said.pointer("/notification/id").and_then(Value::as_str)
    {
        told.disordered += usize::from(sequence <= *newest);
        told.ids.push(id.to_owned());
    }
    *newest = (*newest).max(sequence);
}

impl Report {
    /// Whether everything was stored and told exactly once, in order, and every process was struck.
    pub fn is_good(&self) -> bool {
        self.stored == self.published
            && self.complete == self.connections
            && self.struck.iter().all(Result::is_ok)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for struck in &self.struck {
            let (Ok(text) | Err(text)) = struck;
            writeln!(f, "{text}")?;
        }
        writeln!(f, "stored        {} of {}", self.stored, self.published)?;
        writeln!(
            f,
            "complete      {} of {} connections ({} missing, {} doubled, {} out of order)",
            self.complete, self.connections, self.missing, self.doubled, self.disordered
        )?;
        writeln!(f, "reconnects    {}", self.reconnects)?;
        writeln!(f, "caught up     {:.1} s after the last was stored", self.caught_up_in.as_secs_f64())?;
        writeln!(f, "{}", if self.is_good() { "good" } else { "NOT GOOD" })
    }
}
