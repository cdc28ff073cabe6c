use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use auth::ServiceKeys;
use event_bus::BusSettings;
use settings::Reader;
use speech::GladiaSettings;
use storage::{StorageSettings, StreamLimits};
use telemetry::TelemetrySettings;

/// Streams that one worker takes at most, whatever its speed: each may hold a minute of sound in memory.
const STREAMS_MAX: usize = 256;

/// Longest lag that speakers may have, in milliseconds.
const LAG_MS_MAX: i64 = 10_000;

/// Everything that a worker can be told.
///
/// | setting | default | meaning |
/// |-|-|-|
/// | `DATABASE_URL` | required | Postgres |
/// | `REDIS_URL` | `redis://127.0.0.1:6379` | Redis |
/// | `BIND_ADDR` | `127.0.0.1` | address of both listeners |
/// | `WORKER_PORT` | 50051 | gRPC |
/// | `WORKER_METRICS_PORT` | 9102 | `/livez`, `/readyz`, `/metrics` |
/// | `INTERNAL_TOKEN` | none | token that callers must present, when set |
/// | `PARLEY_MODEL_DIR` | nearest `.parley/model` | folder of the speech model |
/// | `ENGINE_THREADS` | cores | decodes at a time |
/// | `STREAMS_MAX` | 256 | streams at a time |
/// | `ENGINE` | `auto` | `gladia`, `moonshine` (embedded), or `auto`: Gladia when its key is set |
/// | `GLADIA_API_KEY` and others | see `speech` | Gladia |
/// | `SPEAKER_LAG_MS` | 250 | how much later than the sound of a room its active speakers are told; below 0 when the sound comes later |
/// | `USER_STREAMS_MAX` | 5 | active streams of one user; 0 for any number |
/// | `SESSION_STREAMS_MAX` | 10 | active streams of users in one session; 0 for any number |
/// | `LINGER_SECONDS` | 30 | how long an open utterance waits for a source that vanished |
/// | `DRAIN_SECONDS` | 25 | how long a drain may take |
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// Logs.
    pub telemetry: TelemetrySettings,
    /// Postgres.
    pub storage: StorageSettings,
    /// Redis.
    pub bus: BusSettings,
    /// Where gRPC is served.
    pub address: SocketAddr,
    /// Where the admin listener is.
    pub admin_address: SocketAddr,
    /// Tokens that callers may present; none means that nobody is asked.
    pub internal_tokens: ServiceKeys,
    /// Folder of the speech model.
    pub model_dir: Option<PathBuf>,
    /// Decodes at a time.
    pub engine_threads: usize,
    /// Streams at a time.
    pub streams_max: usize,
    /// Gladia, when it is preferred.
    pub gladia: Option<GladiaSettings>,
    /// How much later than the sound of a room its active speakers are told.
    pub speaker_lag_ms: i64,
    /// How many streams a user, and the users of a session, may have active at a time.
    pub limits: StreamLimits,
    /// How long the open utterance of a lost call waits for its source to come back, here or at another worker, before
    /// it is ended as it is. By default as long as a native client may take to resume.
    pub linger: Duration,
    /// How long a drain may take.
    pub drain_limit: Duration,
}

impl WorkerSettings {
    /// Reads its section.
    ///
    /// # Errors
    /// Every setting that is missing or wrong.
    pub fn read(mut reader: Reader) -> Result<Self, settings::Problems> {
        let telemetry = TelemetrySettings::read(&mut reader);
        let storage = StorageSettings::read(&mut reader);
        let bus = BusSettings::read(&mut reader);
        let bind = reader.or("BIND_ADDR", IpAddr::V4(Ipv4Addr::LOCALHOST), "an IP address");
        let port = reader.or("WORKER_PORT", 50051_u16, "a port number");
        let admin_port = reader.or("WORKER_METRICS_PORT", 9102_u16, "a port number");
        let internal_tokens = ServiceKeys::new(reader.secrets("INTERNAL_TOKEN"));
        let model_dir = reader.optional("PARLEY_MODEL_DIR", "a folder");
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let engine_threads = reader.or("ENGINE_THREADS", cores, "a number of threads").max(1);
        let streams_max = reader.or("STREAMS_MAX", STREAMS_MAX, "a number of streams").clamp(1, STREAMS_MAX);
        let gladia = gladia(&mut reader);
        let speaker_lag_ms = reader.or("SPEAKER_LAG_MS", 250_i64, "a number of milliseconds");
        let mut most = |name, default| {
            let most: u32 = reader.or(name, default, "a number of streams, or 0 for any number");
            (most > 0).then_some(most)
        };
        let limits =
            StreamLimits { user: most("USER_STREAMS_MAX", 5), session: most("SESSION_STREAMS_MAX", 10) };
        let linger = reader.seconds("LINGER_SECONDS", Duration::from_secs(30));
        let drain_limit = reader.seconds("DRAIN_SECONDS", Duration::from_secs(25));
        reader.finish(|| {
            Some(Self {
                telemetry,
                storage: storage?,
                bus,
                address: SocketAddr::new(bind, port),
                admin_address: SocketAddr::new(bind, admin_port),
                internal_tokens,
                model_dir,
                engine_threads,
                streams_max,
                gladia,
                speaker_lag_ms: speaker_lag_ms.clamp(-LAG_MS_MAX, LAG_MS_MAX),
                limits,
                linger,
                drain_limit,
            })
        })
    }
}

/// Gladia, unless `ENGINE` says otherwise.
fn gladia(reader: &mut Reader) -> Option<GladiaSettings> {
    let gladia = GladiaSettings::read(reader);
    match reader.text("ENGINE").as_deref() {
        None | Some("auto") => gladia,
        Some("moonshine") => None,
        Some("gladia") => {
            if gladia.is_none() {
                reader.problem("GLADIA_API_KEY", "required with ENGINE=gladia");
            }
            gladia
        }
        Some(_) => {
            reader.problem("ENGINE", "expected auto, gladia or moonshine");
            None
        }
    }
}
