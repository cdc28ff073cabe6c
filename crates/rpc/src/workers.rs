//! Where the workers are, and which of them takes the next stream.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use settings::{Reader, Secret};
use telemetry::Tracer;
use tokio::time::Instant;
use tonic::{
    Request,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

use crate::{INTERNAL_TOKEN, KEEP_ALIVE, MESSAGE_BYTES_MAX, trace, wire::TranscriptionClient};

/// How long a worker may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// How long a name may take to resolve.
const RESOLVE_LIMIT: Duration = Duration::from_secs(2);

/// How old the answer to a name may be: orchestrators change addresses within seconds.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(5);

/// How long a worker is left alone that could not be reached or went away.
const UNREACHABLE: Duration = Duration::from_secs(1);

/// What a worker said of its room is believed for so long; then it counts as one that was never asked.
const ROOM_INTERVAL: Duration = Duration::from_secs(5);

/// Addresses that are kept at most, whatever the names resolve to.
const WORKERS_MAX: usize = 1024;

/// Where the workers are, and how to prove to them that we belong to the house.
#[derive(Debug, Clone)]
pub struct WorkersSettings {
    /// `http://host:port`, or `dns://name:port` for every address that a name has.
    pub addresses: Vec<String>,
    /// `INTERNAL_TOKEN`, when the services check one.
    pub internal_token: Option<Secret>,
}

impl WorkersSettings {
    /// Reads `TRANSCRIPTION_WORKERS` (default `http://127.0.0.1:50051`) and `INTERNAL_TOKEN`.
    pub fn read(reader: &mut Reader) -> Self {
        let mut addresses = reader.list("TRANSCRIPTION_WORKERS");
        if addresses.is_empty() {
            addresses.push("http://127.0.0.1:50051".to_owned());
        }
        if !addresses.iter().all(|address| Target::parse(address).is_some()) {
            reader.problem(
                "TRANSCRIPTION_WORKERS",
                "expected http://host:port or dns://name:port, or several separated by commas",
            );
        }
        let internal_token: Option<Secret> = reader.optional("INTERNAL_TOKEN", "a text");
        if internal_token.as_ref().is_some_and(|token| metadata(token).is_none()) {
            reader.problem("INTERNAL_TOKEN", "expected visible ASCII characters");
        }
        Self { addresses, internal_token }
    }
}

/// A setting that no worker can be reached by.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting} cannot be used")]
pub struct WorkersError {
    setting: &'static str,
}

/// The transcription workers that an uplink may turn to. Connects when one is first used. Clones are the same.
#[derive(Debug, Clone)]
pub struct Workers {
    targets: Arc<[Target]>,
    known: Arc<Mutex<Known>>,
    token: Option<MetadataValue<Ascii>>,
    tracer: Tracer,
}

/// One entry of the setting.
#[derive(Debug, Clone)]
enum Target {
    /// One address, or a name that the connection resolves for itself.
    Worker(String),
    /// A name with one address for each worker.
    Name { name: String, port: u16 },
}

#[derive(Debug, Default)]
struct Known {
    workers: HashMap<String, Standing>,
    resolved: Option<Instant>,
    turn: u64,
}

/// What is known of one worker.
#[derive(Debug)]
struct Standing {
    channel: Channel,
    /// Streams that it can take, by its last word less those given to it since; none when it has not said.
    room: Option<(u32, Instant)>,
    /// It is left alone until then, and whether because it was busy.
    avoided: Option<(Instant, bool)>,
    /// When it was last given a stream, in turns.
    turn: u64,
}

/// The answer to the question who takes a stream.
#[derive(Debug)]
pub(crate) enum Pick {
    /// This one.
    Worker(Worker),
    /// Nobody before that moment. `busy` when one of them is there and has refused for want of room.
    Nobody { until: Instant, busy: bool },
}

/// A worker that was picked.
#[derive(Debug, Clone)]
pub(crate) struct Worker {
    address: String,
    channel: Channel,
    known: Arc<Mutex<Known>>,
}

impl Workers {
    /// Prepares the ways; nothing is connected here.
    ///
    /// # Errors
    /// The setting that holds no address, or a token that no header can carry.
    pub fn new(settings: &WorkersSettings) -> Result<Self, WorkersError> {
        let targets =
            settings.addresses.iter().map(|address| Target::parse(address)).collect::<Option<Vec<_>>>();
        let targets = targets.ok_or(WorkersError { setting: "TRANSCRIPTION_WORKERS" })?;
        let token = settings.internal_token.as_ref();
        let token = token
            .map(|token| metadata(token).ok_or(WorkersError { setting: "INTERNAL_TOKEN" }))
            .transpose()?;
        Ok(Self { targets: targets.into(), known: Arc::default(), token, tracer: Tracer::default() })
    }

    /// The same, whose streams are traced.
    pub fn traced(self, tracer: Tracer) -> Self {
        Self { tracer, ..self }
    }

    pub(crate) fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    /// The worker with the most room, among those that are not to be left alone. Looks names up again when the last
    /// answer is old.
    pub(crate) async fn pick(&self) -> Pick {
        if self.lock().resolved.is_none_or(|at| at.elapsed() >= RESOLVE_INTERVAL) {
            self.resolve().await;
        }
        self.lock().pick(Instant::now(), &self.known)
    }

    /// Whether there is a worker that has answered when it was last asked, or was not asked yet.
    pub async fn are_there(&self) -> bool {
        !matches!(self.pick().await, Pick::Nobody { busy: false, .. })
    }

    /// A request that says who we are.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert(INTERNAL_TOKEN, token.clone());
        }
        trace::carry(&mut request, telemetry::current());
        request
    }

    async fn resolve(&self) {
        let mut addresses = Vec::new();
        let mut complete = true;
        for target in self.targets.iter() {
            match target {
                Target::Worker(address) => addresses.push(address.clone()),
                Target::Name { name, port } => {
                    let found = tokio::net::lookup_host((name.as_str(), *port));
                    match tokio::time::timeout(RESOLVE_LIMIT, found).await {
                        Ok(Ok(found)) => addresses.extend(found.map(|address| format!("http://{address}"))),
                        Ok(Err(error)) => {
                            tracing::warn!(%name, %error, "look up transcription workers");
                            complete = false;
                        }
                        Err(_) => complete = false,
                    }
                }
            }
        }
        addresses.truncate(WORKERS_MAX);
        let mut known = self.lock();
        known.resolved = Some(Instant::now());
        // Without an answer nobody is known to be gone.
        if complete {
            known.workers.retain(|address, _| addresses.contains(address));
        }
        for address in addresses {
            if let (false, Some(endpoint)) = (known.workers.contains_key(&address), endpoint(&address)) {
                known.workers.insert(address, Standing::new(endpoint.connect_lazy()));
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Target {
    fn parse(address: &str) -> Option<Self> {
        match address.strip_prefix("dns://") {
            Some(rest) => {
                let (name, port) = rest.trim_end_matches('/').rsplit_once(':')?;
                let name = Some(name).filter(|name| !name.is_empty())?.to_owned();
                Some(Self::Name { name, port: port.parse().ok()? })
            }
            None => endpoint(address).map(|_| Self::Worker(address.to_owned())),
        }
    }
}

impl Known {
    fn pick(&mut self, now: Instant, known: &Arc<Mutex<Self>>) -> Pick {
        self.turn += 1;
        let free = self.workers.iter_mut().filter(|(_, standing)| standing.avoided(now).is_none());
        // Whoever has the most room; whoever was not asked yet may have any; among equals the one whose turn is longest
        // ago.
        let best = free.max_by_key(|(_, standing)| {
            let room = standing.room(now).unwrap_or(u32::MAX);
            (room, std::cmp::Reverse(standing.turn))
        });
        if let Some((address, standing)) = best {
            standing.turn = self.turn;
            if let Some((room, _)) = &mut standing.room {
                *room = room.saturating_sub(1);
            }
            let channel = standing.channel.clone();
            return Pick::Worker(Worker { address: address.clone(), channel, known: known.clone() });
        }
        let avoided = || self.workers.values().filter_map(|standing| standing.avoided(now));
        Pick::Nobody {
            until: avoided().map(|(until, _)| until).min().unwrap_or(now + UNREACHABLE),
            busy: avoided().any(|(_, busy)| busy),
        }
    }
}

impl Standing {
    fn new(channel: Channel) -> Self {
        Self { channel, room: None, avoided: None, turn: 0 }
    }

    fn room(&self, now: Instant) -> Option<u32> {
        self.room
            .filter(|(_, told)| now.saturating_duration_since(*told) < ROOM_INTERVAL)
            .map(|(room, _)| room)
    }

    fn avoided(&self, now: Instant) -> Option<(Instant, bool)> {
        self.avoided.filter(|(until, _)| *until > now)
    }
}

impl Worker {
    pub(crate) fn client(&self) -> TranscriptionClient<Channel> {
        TranscriptionClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// It has said how many more streams it can take.
    pub(crate) fn has_room(&self, room: u32) {
        self.note(|standing| standing.room = Some((room, Instant::now())));
    }

    /// It has refused for want of room.
    pub(crate) fn is_busy(&self, retry_after: Duration) {
        self.note(|standing| standing.avoided = Some((Instant::now() + retry_after, true)));
    }

    /// It could not be reached, or has gone away.
    pub(crate) fn is_away(&self) {
        self.note(|standing| standing.avoided = Some((Instant::now() + UNREACHABLE, false)));
    }

    fn note(&self, change: impl FnOnce(&mut Standing)) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // A name may have stopped to mean this address.
        if let Some(standing) = known.workers.get_mut(&self.address) {
            change(standing);
        }
    }
}

fn metadata(token: &Secret) -> Option<MetadataValue<Ascii>> {
    token.expose().parse().ok()
}

fn endpoint(address: &str) -> Option<Endpoint> {
    let endpoint = Endpoint::from_shared(address.to_owned()).ok()?;
    let address_is_whole = endpoint.uri().scheme_str() == Some("http") && endpoint.uri().port_u16().is_some();
    if !address_is_whole {
        return None;
    }
    let endpoint = endpoint
        .connect_timeout(CONNECT_LIMIT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true);
    Some(endpoint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workers(addresses: &[&str]) -> Workers {
        let addresses = addresses.iter().map(|address| (*address).to_owned()).collect();
        Workers::new(&WorkersSettings { addresses, internal_token: None }).unwrap()
    }

    async fn picked(workers: &Workers) -> Worker {
        match workers.pick().await {
            Pick::Worker(worker) => worker,
            nobody => panic!("{nobody:?}"),
        }
    }

    #[test]
    fn addresses_are_checked_before_they_are_used() {
        for good in ["http://worker:50051", "dns://workers.internal:50051", "http://[::1]:50051"] {
            assert!(Target::parse(good).is_some(), "{good}");
        }
        for bad in ["", "worker", "dns://worker", "dns://:50051", "dns://worker:many", "/path"] {
            assert!(Target::parse(bad).is_none(), "{bad}");
        }
    }

    #[tokio::test]
    async fn streams_go_where_there_is_room() {
        let workers = workers(&["http://127.0.0.1:1", "http://127.0.0.1:2"]);
        let (one, two) = (picked(&workers).await, picked(&workers).await);
        assert_ne!(one.address, two.address, "both are asked once");
        one.has_room(2);
        two.has_room(5);
        let mut chosen = Vec::new();
        for _ in 0..5 {
            chosen.push(picked(&workers).await.address == two.address);
        }
        // Five, four and three are more than two; then it is two against two, and the other's turn.
        assert_eq!(chosen, [true, true, true, false, true]);
    }

    #[tokio::test]
    async fn whoever_refuses_or_is_away_is_left_alone() {
        let workers = workers(&["http://127.0.0.1:1", "http://127.0.0.1:2"]);
        let (one, two) = (picked(&workers).await, picked(&workers).await);
        one.is_away();
        assert_eq!(picked(&workers).await.address, two.address);
        two.is_away();
        assert!(matches!(workers.pick().await, Pick::Nobody { busy: false, .. }));
        two.is_busy(Duration::from_secs(60));
        assert!(matches!(workers.pick().await, Pick::Nobody { busy: true, .. }));
    }

    #[tokio::test]
    async fn a_name_stands_for_all_its_addresses() {
        let workers = workers(&["dns://localhost:7"]);
        let worker = picked(&workers).await;
        assert!(worker.address.ends_with(":7"), "{}", worker.address);
    }
}
