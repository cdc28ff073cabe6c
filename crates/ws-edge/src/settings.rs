//! What the edge can be told, read once.
//!
//! | setting | default | meaning |
//! |-|-|-|
//! | `BIND_ADDR` | `127.0.0.1` | address of both listeners; `0.0.0.0` in containers |
//! | `PORT` | 3001 | the main door |
//! | `CHAT_PORT` | 3002 | the door of the clients of systems B and C; 0 switches it off |
//! | `TRANSLATE_PORT` | 7860 | the door of system D's clients; 0 switches it off |
//! | `METRICS_PORT` | 9101 | the admin listener: `/livez` `/readyz` `/metrics` |
//! | `SESSION_PORT` | 50053 | gRPC of sessions, for back ends; 0 switches it off |
//! | `TRANSCRIPTION_JWT_SECRET` | required | verifies session tokens; several, separated by commas, for rotation |
//! | `JWT_SECRET`, `NEXTAUTH_SECRET`, `JWT_SECRETS` | none | verify user tokens; each may list several. Without any, `/ws` and its REST routes refuse everybody, and no user can chat |
//! | `DATABASE_URL` and others | see `storage` | Postgres |
//! | `REDIS_URL` and others | see `event-bus` | the bell |
//! | `TRANSCRIPTION_WORKERS`, `INTERNAL_TOKEN` | see `rpc` | who understands audio |
//! | `NOTIFICATION_HUB` | see `rpc` | who keeps notifications |
//! | `CHANNEL_ACCESS_HOOK`, `CHANNEL_ACCESS_KEY` | none | `http://` address that is asked who may follow a post, and the bearer token it is shown; without it nobody may |
//! | `CHAT_ANONYMOUS` | false | anybody may chat, in every room but those of sessions |
//! | `SERVICE_KEY` | none | keys of trusted back ends, separated by commas |
//! | `LEGACY_OPEN_ROUTES` | false | over HTTP, start, stop, broadcast, reports of usage and `POST /api/user/notifications` need no proof, and egresses no token; only for migration |
//! | `PARLEY_DEV` | false | of `make run`: a page that is opened on this machine gets tokens with one click (`/api/dev/token`) |
//! | `TRANSCRIPTION_COST_PER_MINUTE` | 0.01 | what the routes of usage reckon for a begun minute, in whatever currency |
//! | `RTMP_SERVER_SECRET` | none | what system A's RTMP servers show on `/api/transcripts`; several, for rotation |
//! | `FASTER_WHISPER_API_TOKEN` | none | what clients of system D show; several, for rotation. A key or a token of a session opens its door as well |
//! | `FASTER_WHISPER_REQUIRE_AUTH` | true, unless `PARLEY_DEV` | whether they must; without it anybody may have recordings transcribed on system D's routes |
//! | `FASTER_WHISPER_MAX_FILE_SIZE` | 26214400 | largest recording that is uploaded, in bytes; JSON may hold 50 MiB in all |
//! | `FASTER_WHISPER_UPLOAD_TIMEOUT` | 60000 | how long an upload may take, in milliseconds |
//! | `RECORDINGS_MAX` | 8 | recordings that are uploaded and heard at a time; more wait a little, and are told to come again |
//! | `LIVEKIT_WS_URL`, `NEXT_PUBLIC_LIVEKIT_URL` or `LIVEKIT_HTTP_URL`, `LIVEKIT_API_KEY`, `LIVEKIT_API_SECRET` | none | the LiveKit whose rooms are transcribed when a session is started |
//! | `EGRESS_MODE` | `auto` | `tracks`: one egress for each audio track, so that speakers are exact; `composite`: one for the room; `auto`: tracks, and the room where LiveKit allows no more |
//! | `EGRESS_WEBSOCKET_BASE_URL` | `ws://localhost:PORT/egress/audio` | where LiveKit's egress reaches this edge |
//! | `EGRESS_SAMPLE_RATE`, `EGRESS_CHANNELS` | 48000, 2 | what egresses send |
//! | `RTMP_HOST`, `RTMP_EXTERNAL_PORT` | `localhost`, `RTMP_PORT` or 1935 | where LiveKit's egress reaches rtmp-ingest |
//! | `WS_TEST_MODE`, `WS_ENABLE_TEST_BROADCAST` | false | a made-up transcript every 5 s to everybody, unless `NODE_ENV` is production |
//! | `UPGRADE_AUTH` | `accept` | a bad token: `accept` the upgrade and say why, or `reject` it with 401 |
//! | `CORS_ORIGIN` | any | origins of web pages, separated by commas; checked on upgrades too |
//! | `TRUSTED_PROXIES` | loopback | addresses or networks whose `X-Real-IP` and `X-Forwarded-For` are believed |
//! | `TRANSCRIPT_MESSAGES` | `split` | shape of captions: `split`, `transcript` or `both`; `?messages=` overrules |
//! | `CONNECTIONS_MAX` | 10000 | sockets and requests at a time |
//! | `HANDSHAKES_PER_SECOND` | 50 | new sockets a second from one address; four seconds' worth at once |
//! | `IDENTITY_HANDSHAKES_PER_SECOND` | 10 | new sockets a second of one participant; four seconds' worth at once |
//! | `FRAMES_PER_SECOND` | 400 | messages a second of one participant; two seconds' worth at once; more wait, or are dropped where audio cannot wait |
//! | `WS_MESSAGES_PER_SECOND` | 100 | messages a second on one `/ws`; six seconds' worth at once; more are dropped, and a flood closes it |
//! | `WS_CHANNELS_MAX` | 256 | channels that one `/ws` may follow |
//! | `WS_PING_INTERVAL_MS` | 30000 | between pings on `/ws`; a socket that leaves one unanswered is closed |
//! | `FOLLOWER_QUEUE` | 256 | captions or events that may wait for one follower before it is too slow |
//! | `PING_INTERVAL_MS` | 15000 | between pings; a socket that leaves three unanswered is closed |
//! | `WRITE_LIMIT_MS` | 10000 | how long one message may take to leave |
//! | `SOCKETIO_PING_INTERVAL_MS`, `SOCKETIO_PING_TIMEOUT_MS` | 25000, 60000 | between pings of Socket.IO, and how long an answer may take |
//! | `SOCKETIO_UPGRADE_TIMEOUT_MS` | 10000 | how long a Socket.IO client may take from polling to a WebSocket |
//! | `SOCKETIO_MESSAGE_BYTES_MAX` | 1000000 | largest message, or body of a poll, of a Socket.IO client (`maxHttpBufferSize`) |
//! | `RESUME_SECONDS` | 30 | how long a stream waits for its client after `init`, when the socket is lost; 0 to 3600 |
//! | `REJOIN_SECONDS` | 15 | the same for clients without `init`: the time away becomes silence; 0 to 30 |
//! | `DRAIN_SPREAD_MS` | 3000 | over which a draining edge sends its clients away |
//! | `NODE_ENV`, `SERVER_MODE`, `REALTIME_BROADCAST_MODE` | | of system A; the first is shown by `/test`, the others are ignored with a warning |
//! | `FASTER_WHISPER_MODEL_SIZE`, `FASTER_WHISPER_COMPUTE_TYPE`, `FASTER_WHISPER_REQUEST_TIMEOUT` | | of system D; ignored with a warning |

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    str::FromStr,
    time::Duration,
};

use audio::{Encoding, Format};
use event_bus::BusSettings;
use livekit::LiveKitSettings;
use rpc::{HubSettings, WorkersSettings};
use settings::{Network, Problems, Reader, Secret};
use storage::StorageSettings;
use telemetry::TelemetrySettings;

use crate::{access::AccessHook, protocol::Shape, rest::CostPerMinute, socketio::SocketIoSettings};

/// How a failed authentication is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UpgradeAuth {
    /// 101, an `error` message, close 1008: a browser cannot read a 401.
    Accept,
    /// 401 before the upgrade, as system A's last version did.
    Reject,
}

impl FromStr for UpgradeAuth {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "accept" => Ok(Self::Accept),
            "reject" => Ok(Self::Reject),
            _ => Err(()),
        }
    }
}

/// How the sound of a room is sent to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EgressMode {
    /// Each track by itself.
    Tracks,
    /// The whole room in one.
    Composite,
    /// Tracks, and the whole room where LiveKit allows no more of them.
    Auto,
}

impl FromStr for EgressMode {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "tracks" => Ok(Self::Tracks),
            "composite" => Ok(Self::Composite),
            "auto" => Ok(Self::Auto),
            _ => Err(()),
        }
    }
}

/// What egresses of tracks send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EgressFormat {
    pub(crate) sample_rate_hz: u32,
    pub(crate) channels: u16,
}

/// A LiveKit, and how its rooms come to us.
#[derive(Debug, Clone)]
pub(crate) struct LiveKitPlan {
    pub(crate) livekit: LiveKitSettings,
    pub(crate) mode: EgressMode,
    /// Without a slash at its end.
    pub(crate) websocket_url: String,
    /// With one, so that a stream key can follow.
    pub(crate) rtmp_url: String,
}

/// Everything that an edge can be told; see the table at the head of this file.
#[derive(Debug, Clone)]
pub struct EdgeSettings {
    pub(crate) address: SocketAddr,
    /// `None` when it is switched off.
    pub(crate) chat_address: Option<SocketAddr>,
    /// `None` when it is switched off.
    pub(crate) translate_address: Option<SocketAddr>,
    pub(crate) admin_address: SocketAddr,
    /// `None` when it is switched off.
    pub(crate) session_address: Option<SocketAddr>,
    pub(crate) livekit: Option<LiveKitPlan>,
    pub(crate) egress_format: EgressFormat,
    pub(crate) rtmp_server_secrets: Vec<Secret>,
    pub(crate) test_mode: bool,
    pub(crate) jwt_secrets: Vec<Secret>,
    pub(crate) user_secrets: Vec<Secret>,
    pub(crate) service_keys: Vec<Secret>,
    /// What clients of system D show; `None` when they need not show anything.
    pub(crate) translate_tokens: Option<Vec<Secret>>,
    pub(crate) file_bytes_max: u64,
    pub(crate) upload_limit: Duration,
    pub(crate) recordings_max: usize,
    pub(crate) storage: StorageSettings,
    pub(crate) bus: BusSettings,
    pub(crate) workers: WorkersSettings,
    pub(crate) hub: HubSettings,
    pub(crate) access_hook: Option<AccessHook>,
    pub(crate) legacy_open_routes: bool,
    /// Whether pages on this machine may have tokens for the asking.
    pub(crate) dev: bool,
    pub(crate) chat_anonymous: bool,
    pub(crate) cost_per_minute: CostPerMinute,
    pub(crate) upgrade_auth: UpgradeAuth,
    /// Empty means any.
    pub(crate) origins: Vec<String>,
    pub(crate) trusted_proxies: Vec<Network>,
    pub(crate) shape: Shape,
    pub(crate) connections_max: usize,
    pub(crate) address_handshakes: NonZeroU32,
    pub(crate) identity_handshakes: NonZeroU32,
    pub(crate) frames: NonZeroU32,
    pub(crate) tab_messages: NonZeroU32,
    pub(crate) channels_max: usize,
    pub(crate) follower_queue: usize,
    pub(crate) ping_interval: Duration,
    pub(crate) tab_ping_interval: Duration,
    pub(crate) write_limit: Duration,
    pub(crate) socketio: SocketIoSettings,
    /// How long a stream waits for a client that knows `resume`.
    pub(crate) resume: Duration,
    /// How long it waits for one that does not. What is missing then is silence, of which an uplink takes 30 s.
    pub(crate) rejoin: Duration,
    pub(crate) drain_spread: Duration,
    pub(crate) node_env: Option<String>,
    pub(crate) server_mode: Option<String>,
    /// Names that are set and have no effect here.
    pub(crate) ignored: Vec<&'static str>,
    pub(crate) telemetry: TelemetrySettings,
}

impl EdgeSettings {
    /// How logs are written.
    pub fn telemetry(&self) -> &TelemetrySettings {
        &self.telemetry
    }

    /// Where the admin listener is, or will be.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// Reads its section.
    ///
    /// # Errors
    /// Every setting that is missing or wrong.
    pub fn read(mut reader: Reader) -> Result<Self, Problems> {
        let bind = reader.or("BIND_ADDR", IpAddr::V4(Ipv4Addr::LOCALHOST), "an IP address");
        let port = reader.or("PORT", 3001, "a port number");
        let admin_port = reader.or("METRICS_PORT", 9101, "a port number");
        if port == admin_port && port != 0 {
            reader.problem("METRICS_PORT", "expected another port than PORT");
        }
        let chat_port = reader.or("CHAT_PORT", 3002, "a port number, or 0 for none");
        if chat_port != 0 && [port, admin_port].contains(&chat_port) {
            reader.problem("CHAT_PORT", "expected another port than PORT and METRICS_PORT");
        }
        let session_port = reader.or("SESSION_PORT", 50053, "a port number, or 0 for none");
        if session_port != 0 && [port, admin_port, chat_port].contains(&session_port) {
            reader.problem("SESSION_PORT", "expected another port than PORT, METRICS_PORT and CHAT_PORT");
        }
        let translate_port = reader.or("TRANSLATE_PORT", 7860, "a port number, or 0 for none");
        if translate_port != 0 && [port, admin_port, chat_port, session_port].contains(&translate_port) {
            let other = "expected another port than PORT, METRICS_PORT, CHAT_PORT and SESSION_PORT";
            reader.problem("TRANSLATE_PORT", other);
        }
        let translate_tokens = translate_tokens(&mut reader);
        let file_bytes_max: NonZeroU32 = reader.or(
            "FASTER_WHISPER_MAX_FILE_SIZE",
            NonZeroU32::MIN.saturating_add(26_214_399),
            "a number of bytes",
        );
        let upload_limit = reader.millis("FASTER_WHISPER_UPLOAD_TIMEOUT", Duration::from_secs(60));
        let livekit = livekit_plan(&mut reader, port);
        let egress_format = egress_format(&mut reader);
        let rtmp_server_secrets = reader.secrets("RTMP_SERVER_SECRET");
        let jwt_secrets = reader.required_secrets("TRANSCRIPTION_JWT_SECRET");
        let user_secrets = auth::user_secrets(&mut reader);
        let storage = StorageSettings::read(&mut reader);
        let bus = BusSettings::read(&mut reader);
        let workers = WorkersSettings::read(&mut reader);
        let hub = HubSettings::read(&mut reader);
        let access_hook = access_hook(&mut reader);
        let telemetry = TelemetrySettings::read(&mut reader);
        let origins = origins(&mut reader);
        let trusted_proxies = trusted_proxies(&mut reader);
        let positive = "a positive number";
        let mut rate = |name, default: u32| {
            reader.or(name, NonZeroU32::new(default).unwrap_or(NonZeroU32::MIN), positive)
        };
        let address_handshakes = rate("HANDSHAKES_PER_SECOND", 50);
        let identity_handshakes = rate("IDENTITY_HANDSHAKES_PER_SECOND", 10);
        let frames = rate("FRAMES_PER_SECOND", 400);
        let tab_messages = rate("WS_MESSAGES_PER_SECOND", 100);
        let channels_max = rate("WS_CHANNELS_MAX", 256);
        let recordings_max = rate("RECORDINGS_MAX", 8);
        let connections_max = rate("CONNECTIONS_MAX", 10_000);
        let follower_queue = rate("FOLLOWER_QUEUE", 256);
        let ping_interval =
            reader.millis("PING_INTERVAL_MS", Duration::from_secs(15)).max(Duration::from_millis(10));
        let tab_ping_interval =
            reader.millis("WS_PING_INTERVAL_MS", Duration::from_secs(30)).max(Duration::from_millis(10));
        let write_limit =
            reader.millis("WRITE_LIMIT_MS", Duration::from_secs(10)).max(Duration::from_millis(10));
        let socketio = SocketIoSettings::read(&mut reader);
        let drain_spread = reader.millis("DRAIN_SPREAD_MS", Duration::from_secs(3));
        let resume = seconds(&mut reader, "RESUME_SECONDS", 30, 3_600);
        let rejoin = seconds(&mut reader, "REJOIN_SECONDS", 15, 30);
        let upgrade_auth = reader.or("UPGRADE_AUTH", UpgradeAuth::Accept, "accept or reject");
        let shape = reader.or("TRANSCRIPT_MESSAGES", Shape::Split, "split, transcript or both");
        let legacy_open_routes = reader.flag("LEGACY_OPEN_ROUTES");
        let dev = reader.flag("PARLEY_DEV");
        let chat_anonymous = reader.flag("CHAT_ANONYMOUS");
        let cost_per_minute =
            reader.or("TRANSCRIPTION_COST_PER_MINUTE", CostPerMinute::default(), "a number, 0 or more");
        let (node_env, server_mode) = (reader.text("NODE_ENV"), reader.text("SERVER_MODE"));
        let asks_test = reader.flag("WS_TEST_MODE") | reader.flag("WS_ENABLE_TEST_BROADCAST");
        let test_mode = asks_test && node_env.as_deref() != Some("production");
        let service_keys = reader.secrets("SERVICE_KEY");
        let ignored = [
            "SERVER_MODE",
            "REALTIME_BROADCAST_MODE",
            "FASTER_WHISPER_MODEL_SIZE",
            "FASTER_WHISPER_COMPUTE_TYPE",
            "FASTER_WHISPER_REQUEST_TIMEOUT",
        ];
        let ignored = ignored.into_iter().filter(|name| reader.text(name).is_some()).collect();
        reader.finish(|| {
            Some(Self {
                address: SocketAddr::new(bind, port),
                chat_address: (chat_port != 0).then(|| SocketAddr::new(bind, chat_port)),
                translate_address: (translate_port != 0).then(|| SocketAddr::new(bind, translate_port)),
                admin_address: SocketAddr::new(bind, admin_port),
                session_address: (session_port != 0).then(|| SocketAddr::new(bind, session_port)),
                livekit,
                egress_format,
                rtmp_server_secrets,
                test_mode,
                jwt_secrets,
                user_secrets,
                service_keys,
                translate_tokens,
                file_bytes_max: file_bytes_max.get().into(),
                upload_limit,
                recordings_max: usize::try_from(recordings_max.get()).unwrap_or(usize::MAX),
                storage: storage?,
                bus,
                workers,
                hub,
                access_hook,
                legacy_open_routes,
                dev,
                chat_anonymous,
                cost_per_minute,
                upgrade_auth,
                origins,
                trusted_proxies,
                shape,
                connections_max: usize::try_from(connections_max.get()).unwrap_or(usize::MAX),
                address_handshakes,
                identity_handshakes,
                frames,
                tab_messages,
                channels_max: usize::try_from(channels_max.get()).unwrap_or(usize::MAX),
                follower_queue: usize::try_from(follower_queue.get()).unwrap_or(usize::MAX),
                ping_interval,
                tab_ping_interval,
                write_limit,
                socketio,
                resume,
                rejoin,
                drain_spread,
                node_env,
                server_mode,
                ignored,
                telemetry,
            })
        })
    }
}

fn access_hook(reader: &mut Reader) -> Option<AccessHook> {
    let hook: Option<AccessHook> = reader.optional("CHANNEL_ACCESS_HOOK", "http://host:port/path");
    let key: Option<Secret> = reader.optional("CHANNEL_ACCESS_KEY", "a text");
    if key.as_ref().is_some_and(|key| !key.expose().bytes().all(|byte| byte.is_ascii_graphic())) {
        reader.problem("CHANNEL_ACCESS_KEY", "expected visible ASCII characters");
    }
    Some(hook?.with(key))
}

/// What clients of system D show beside keys and tokens of sessions; `None` when they need show nothing.
fn translate_tokens(reader: &mut Reader) -> Option<Vec<Secret>> {
    let is_dev = reader.flag("PARLEY_DEV");
    let tokens = reader.secrets("FASTER_WHISPER_API_TOKEN");
    reader.flag_or("FASTER_WHISPER_REQUIRE_AUTH", !is_dev).then_some(tokens)
}

fn livekit_plan(reader: &mut Reader, port: u16) -> Option<LiveKitPlan> {
    let livekit = LiveKitSettings::read(reader);
    let mode = reader.or("EGRESS_MODE", EgressMode::Auto, "tracks, composite or auto");
    let websocket_url = reader.text("EGRESS_WEBSOCKET_BASE_URL");
    let websocket_url = websocket_url.unwrap_or_else(|| format!("ws://localhost:{port}/egress/audio"));
    let rest = ["ws://", "wss://"].iter().find_map(|scheme| websocket_url.strip_prefix(scheme));
    let host = rest.and_then(|rest| rest.trim_end_matches('/').strip_suffix("/egress/audio"));
    if host.is_none_or(|host| host.is_empty() || host.starts_with('/') || host.contains(['?', '#', ' '])) {
        reader.problem("EGRESS_WEBSOCKET_BASE_URL", "expected ws://host/egress/audio, or wss://…");
    }
    let host = reader.text("RTMP_HOST").unwrap_or_else(|| "localhost".to_owned());
    let has_port = host.contains(':') && !host.ends_with(']');
    if has_port || host.contains(['/', ' ', '@']) {
        reader.problem("RTMP_HOST", "expected a host name without scheme, port or path");
    }
    let alone: u16 = reader.or("RTMP_PORT", 1935, "a port number");
    let rtmp_port: u16 = reader.or("RTMP_EXTERNAL_PORT", alone, "a port number");
    Some(LiveKitPlan {
        livekit: livekit?,
        mode,
        websocket_url: websocket_url.trim_end_matches('/').to_owned(),
        rtmp_url: format!("rtmp://{host}:{rtmp_port}/live/"),
    })
}

fn egress_format(reader: &mut Reader) -> EgressFormat {
    let sample_rate_hz = reader.or("EGRESS_SAMPLE_RATE", 48_000, "samples a second");
    let channels = reader.or("EGRESS_CHANNELS", 2, "a number of channels");
    if Format::new(Encoding::PcmS16le, sample_rate_hz, channels).is_err() {
        reader.problem("EGRESS_SAMPLE_RATE", "expected a rate, and EGRESS_CHANNELS a number, that PCM has");
    }
    EgressFormat { sample_rate_hz, channels }
}

fn seconds(reader: &mut Reader, name: &'static str, default: u64, max: u64) -> Duration {
    let seconds = reader.or(name, default, "a number of seconds");
    if seconds > max {
        reader.problem(name, format!("expected at most {max} seconds"));
    }
    Duration::from_secs(seconds)
}

/// Lower case without a slash at the end, as browsers send them; `*` lists every origin.
fn origins(reader: &mut Reader) -> Vec<String> {
    let listed = reader.list("CORS_ORIGIN");
    if listed.iter().any(|origin| origin == "*") {
        return Vec::new();
    }
    if listed.iter().any(|origin| !origin.contains("://")) {
        reader.problem("CORS_ORIGIN", "expected origins such as https://app.example, separated by commas");
    }
    listed.iter().map(|origin| origin.trim_end_matches('/').to_ascii_lowercase()).collect()
}

fn trusted_proxies(reader: &mut Reader) -> Vec<Network> {
    let mut listed = reader.list("TRUSTED_PROXIES");
    if listed.is_empty() {
        listed = vec!["127.0.0.0/8".to_owned(), "::1".to_owned()];
    }
    let networks: Option<Vec<Network>> = listed.iter().map(|text| text.parse().ok()).collect();
    networks.unwrap_or_else(|| {
        reader.problem(
            "TRUSTED_PROXIES",
            "expected addresses or networks such as 10.0.0.0/8, separated by commas",
        );
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(pairs: &[(&str, &str)]) -> Vec<String> {
        let required = [
            ("TRANSCRIPTION_JWT_SECRET", "s"),
            ("DATABASE_URL", "postgres://u:p@h/d"),
            ("FASTER_WHISPER_API_TOKEN", "t"),
        ];
        let read = EdgeSettings::read(settings::of(required.iter().chain(pairs).copied()));
        read.err().map(|problems| problems.lines().to_vec()).unwrap_or_default()
    }

    #[test]
    fn each_door_has_its_own_port() {
        let ports = ["PORT", "METRICS_PORT", "CHAT_PORT", "SESSION_PORT", "TRANSLATE_PORT"];
        for (place, later) in ports.iter().enumerate() {
            for earlier in &ports[..place] {
                let problems = problems(&[(earlier, "4000"), (later, "4000")]);
                assert_eq!(problems.len(), 1, "{problems:?}");
                assert!(problems[0].starts_with(later), "{problems:?}");
            }
        }
        let off = [("CHAT_PORT", "0"), ("SESSION_PORT", "0"), ("TRANSLATE_PORT", "0")];
        assert!(problems(&off).is_empty(), "all are off");
    }

    #[test]
    fn the_door_of_system_d_needs_a_token_unless_it_is_said_that_it_needs_none() {
        let required = [("TRANSCRIPTION_JWT_SECRET", "s"), ("DATABASE_URL", "postgres://u:p@h/d")];
        let read = |pairs: &[(&'static str, &'static str)]| {
            EdgeSettings::read(settings::of(required.iter().chain(pairs).copied()))
        };
        let asks = |pairs| read(pairs).unwrap().translate_tokens.map(|tokens| tokens.len());
        assert_eq!(asks(&[("FASTER_WHISPER_API_TOKEN", "a,b")]), Some(2));
        assert_eq!(asks(&[]), Some(0), "keys and tokens of sessions remain");
        assert_eq!(asks(&[("PARLEY_DEV", "true"), ("FASTER_WHISPER_REQUIRE_AUTH", "true")]), Some(0));
        assert_eq!(asks(&[("PARLEY_DEV", "true")]), None);
        assert_eq!(
            asks(&[("FASTER_WHISPER_REQUIRE_AUTH", "false"), ("FASTER_WHISPER_API_TOKEN", "a")]),
            None
        );
    }

    #[test]
    fn where_egresses_reach_us_is_an_address_and_nothing_else() {
        let of = |name: &str, value: &str| problems(&[(name, value)]);
        let keys = [("LIVEKIT_WS_URL", "wss://h"), ("LIVEKIT_API_KEY", "k"), ("LIVEKIT_API_SECRET", "s")];
        for (name, value) in [
            ("RTMP_HOST", "rtmp://h"),
            ("RTMP_HOST", "h/live"),
            ("RTMP_HOST", "h:1935"),
            ("RTMP_HOST", "u@h"),
            ("EGRESS_WEBSOCKET_BASE_URL", "https://h/egress/audio"),
            ("EGRESS_WEBSOCKET_BASE_URL", "wss:///egress/audio"),
            ("EGRESS_WEBSOCKET_BASE_URL", "wss://h/egress/audio?x=1"),
            ("EGRESS_WEBSOCKET_BASE_URL", "wss://h/egress"),
            ("EGRESS_SAMPLE_RATE", "1"),
            ("EGRESS_CHANNELS", "70000"),
        ] {
            let problems = problems(&[&keys[..], &[(name, value)]].concat());
            assert!(problems.len() == 1 && problems[0].starts_with(name), "{value}: {problems:?}");
        }
        for (name, value) in [
            ("RTMP_HOST", "rtmp.example"),
            ("RTMP_HOST", "[::1]"),
            ("EGRESS_WEBSOCKET_BASE_URL", "wss://h:1/under/egress/audio/"),
            ("EGRESS_SAMPLE_RATE", "44100"),
        ] {
            assert!(of(name, value).is_empty(), "{value}");
        }
    }

    #[test]
    fn everything_that_is_wrong_is_in_one_report() {
        let problems = EdgeSettings::read(settings::of([
            ("PORT", "http"),
            ("UPGRADE_AUTH", "maybe"),
            ("CORS_ORIGIN", "app.example"),
            ("TRUSTED_PROXIES", "10.0.0.0/33"),
            ("FRAMES_PER_SECOND", "0"),
            ("REJOIN_SECONDS", "31"),
            ("TRANSCRIPT_MESSAGES", "all"),
            ("TRANSCRIPTION_COST_PER_MINUTE", "-1"),
        ]))
        .unwrap_err()
        .to_string();
        for name in [
            "PORT",
            "UPGRADE_AUTH",
            "CORS_ORIGIN",
            "TRUSTED_PROXIES",
            "FRAMES_PER_SECOND",
            "REJOIN_SECONDS",
            "TRANSCRIPT_MESSAGES",
            "TRANSCRIPTION_COST_PER_MINUTE",
            "TRANSCRIPTION_JWT_SECRET",
            "DATABASE_URL",
        ] {
            assert!(problems.contains(&format!("\n  {name}: ")), "{name} in {problems}");
        }
    }
}
