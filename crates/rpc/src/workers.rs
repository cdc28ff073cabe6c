use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use settings::{Reader, Secret};
use tonic::{
    Request,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

use crate::{INTERNAL_TOKEN, KEEP_ALIVE, MESSAGE_BYTES_MAX, wire::TranscriptionClient};

/// How long a worker may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// Where the workers are, and how to prove to them that we belong to the house.
#[derive(Debug, Clone)]
pub struct WorkersSettings {
    /// `http://host:port` of each worker.
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
        if !addresses.iter().all(|address| endpoint(address).is_some()) {
            reader.problem(
                "TRANSCRIPTION_WORKERS",
                "expected http://host:port, or several separated by commas",
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
    channels: Arc<[Channel]>,
    next: Arc<AtomicUsize>,
    token: Option<MetadataValue<Ascii>>,
}

impl Workers {
    /// Prepares a connection to each address; nothing is connected here. Needs a tokio runtime around it.
    ///
    /// # Errors
    /// The setting that holds no address, or a token that no header can carry.
    pub fn new(settings: &WorkersSettings) -> Result<Self, WorkersError> {
        let endpoints =
            settings.addresses.iter().map(|address| endpoint(address)).collect::<Option<Vec<_>>>();
        let endpoints = endpoints.ok_or(WorkersError { setting: "TRANSCRIPTION_WORKERS" })?;
        let channels: Vec<Channel> = endpoints.iter().map(Endpoint::connect_lazy).collect();
        let token = settings.internal_token.as_ref();
        let token = token
            .map(|token| metadata(token).ok_or(WorkersError { setting: "INTERNAL_TOKEN" }))
            .transpose()?;
        Ok(Self { channels: channels.into(), next: Arc::default(), token })
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.channels.len()
    }

    /// The next worker in turn.
    pub(crate) fn next(&self) -> Option<TranscriptionClient<Channel>> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let channel = self.channels.get(turn.checked_rem(self.channels.len())?)?;
        let client = TranscriptionClient::new(channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Some(client)
    }

    /// A request that says who we are.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert(INTERNAL_TOKEN, token.clone());
        }
        request
    }
}

fn metadata(token: &Secret) -> Option<MetadataValue<Ascii>> {
    token.expose().parse().ok()
}

fn endpoint(address: &str) -> Option<Endpoint> {
    let endpoint = Endpoint::from_shared(address.to_owned()).ok()?;
    endpoint.uri().host()?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_LIMIT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true);
    Some(endpoint)
}
