use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use auth::ServiceKeys;
use event_bus::BusSettings;
use settings::Reader;
use storage::StorageSettings;
use telemetry::TelemetrySettings;

use crate::{HookSettings, PushSettings, SessionHookSettings};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Everything that a hub can be told.
///
/// | setting | default | meaning |
/// |-|-|-|
/// | `DATABASE_URL` | required | Postgres |
/// | `REDIS_URL` | `redis://127.0.0.1:6379` | Redis |
/// | `BIND_ADDR` | `127.0.0.1` | address of both listeners |
/// | `HUB_PORT` | 50052 | gRPC |
/// | `HUB_METRICS_PORT` | 9103 | `/livez`, `/readyz`, `/metrics` |
/// | `INTERNAL_TOKEN` | none | token that callers must present, when set |
/// | `NOTIFICATION_RETENTION_DAYS` | 90 | how long a notification stays in an inbox; 0 for ever |
/// | `MESSAGE_RETENTION_DAYS` | 0 | how long a chat message is kept; 0 for ever |
/// | `RETENTION_DAYS` | 0 | how long a final is kept; 0 for ever |
/// | `EVENT_RETENTION_HOURS` | 72 | how long a reader may be away and still replay changes and events |
/// | `IDEMPOTENCY_HOURS` | 24 | how long an idempotency key is remembered |
/// | `VAPID_PRIVATE_KEY` | none | 32 bytes as base64url or hex; without it there is no web push |
/// | `VAPID_SUBJECT` | `mailto:parley@localhost` | who answers for what is pushed |
/// | `PUSH_HOSTS` | those of today's browsers | hosts of push services, with their subdomains |
/// | `NOTIFY_HOOK_URL` | none | hears of every notification |
/// | `NOTIFY_HOOK_SECRET` | with the URL | signs what the hook is sent |
/// | `SESSION_HOOK_URL` | none | hears when sessions start and end, and of their finals; the same for every hub |
/// | `SESSION_HOOK_SECRET` | with the URL | signs what that hook is sent |
/// | `SESSION_HOOK_EVENTS` | all | which of `session.started`, `transcript.final`, `session.ended` |
/// | `PUBLIC_URL` | `http://127.0.0.1:8080` | where clients find us, for the address of a transcript |
/// | `DRAIN_SECONDS` | 25 | how long a drain may take |
#[derive(Debug, Clone)]
pub struct HubSettings {
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
    /// How long what is kept.
    pub retention: Retention,
    /// How long an idempotency key is remembered.
    pub idempotency_life: Duration,
    /// Web push, when it is set up.
    pub push: Option<PushSettings>,
    /// The outgoing hook of notifications, when there is one.
    pub hook: Option<HookSettings>,
    /// The outgoing hook of sessions, when there is one.
    pub session_hook: Option<SessionHookSettings>,
    /// How long a drain may take.
    pub drain_limit: Duration,
}

/// How long what is kept; `None` is for ever.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// Notifications, since they came.
    pub notifications: Option<Duration>,
    /// Chat messages, since they were said.
    pub messages: Option<Duration>,
    /// Finals, since they were stored.
    pub finals: Option<Duration>,
    /// Changes and events, for readers that were away.
    pub events: Duration,
}

impl HubSettings {
    /// Reads its section.
    ///
    /// # Errors
    /// Every setting that is missing or wrong.
    pub fn read(mut reader: Reader) -> Result<Self, settings::Problems> {
        let telemetry = TelemetrySettings::read(&mut reader);
        let storage = StorageSettings::read(&mut reader);
        let bus = BusSettings::read(&mut reader);
        let bind = reader.or("BIND_ADDR", IpAddr::V4(Ipv4Addr::LOCALHOST), "an IP address");
        let port = reader.or("HUB_PORT", 50052_u16, "a port number");
        let admin_port = reader.or("HUB_METRICS_PORT", 9103_u16, "a port number");
        let internal_tokens = ServiceKeys::new(reader.secrets("INTERNAL_TOKEN"));
        let mut days = |name, default| {
            let days: u32 = reader.or(name, default, "a number of days");
            (days > 0).then(|| DAY * days)
        };
        let notifications = days("NOTIFICATION_RETENTION_DAYS", 90);
        let messages = days("MESSAGE_RETENTION_DAYS", 0);
        let finals = days("RETENTION_DAYS", 0);
        let mut hours = |name, default| {
            let hours: u32 = reader.or(name, default, "a number of hours, at least 1");
            Duration::from_secs(3600) * hours.max(1)
        };
        let events = hours("EVENT_RETENTION_HOURS", 72);
        let idempotency_life = hours("IDEMPOTENCY_HOURS", 24);
        let push = PushSettings::read(&mut reader);
        let hook = HookSettings::read(&mut reader, "NOTIFY_HOOK_URL", "NOTIFY_HOOK_SECRET");
        let session_hook = SessionHookSettings::read(&mut reader);
        let drain_limit = reader.seconds("DRAIN_SECONDS", Duration::from_secs(25));
        reader.finish(|| {
            Some(Self {
                telemetry,
                storage: storage?,
                bus,
                address: SocketAddr::new(bind, port),
                admin_address: SocketAddr::new(bind, admin_port),
                internal_tokens,
                retention: Retention { notifications, messages, finals, events },
                idempotency_life,
                push,
                hook,
                session_hook,
                drain_limit,
            })
        })
    }
}
