//! What the ingest can be told, read once.
//!
//! | setting | default | meaning |
//! |-|-|-|
//! | `BIND_ADDR` | `127.0.0.1` | address of the listeners; `0.0.0.0` in containers |
//! | `RTMP_PORT` | 1935 | RTMP; 1936 behind nginx on one host |
//! | `RTMP_METRICS_PORT` | 9104 | the admin listener: `/livez` `/readyz` `/metrics` |
//! | `RTMP_TLS_CERT`, `RTMP_TLS_KEY` | none | certificate chain and key, PEM files: RTMPS without nginx |
//! | `RTMPS_PORT` | 2935 | RTMPS, when there is a certificate |
//! | `RTMP_PROXY_FROM` | loopback | addresses or networks that may say by PROXY protocol who connects; `none` |
//! | `TRANSCRIPTION_JWT_SECRET` | required | verifies signed keys; several, separated by commas, for rotation |
//! | `RTMP_AUTH_HOOK` | none | URL that decides about keys that are neither registered nor signed |
//! | `RTMP_OPEN_KEYS` | false | the bare name of a session is a key, as in system A |
//! | `RTMP_TAKEOVER` | `replace` | a second publisher of a key: `replace` the first, or `refuse` the second |
//! | `RTMP_REJOIN_SECONDS` | 15 | how long a stream waits for its publisher to return; 0 to 30 |
//! | `RTMP_CONNECTIONS_MAX` | 1000 | connections at a time |
//! | `RTMP_ADDRESS_CONNECTIONS_MAX` | 100 | connections at a time from one address |
//! | `RTMP_FORWARD_URL` | none | another RTMP server that gets every stream, `rtmp://host/live/{key}`; also `{session}` |
//! | `RTMP_PUBLISH_MS` | 10000 | how long a connection may take until it publishes |
//! | `RTMP_IDLE_MS` | 30000 | how long a connection may say nothing |
//! | `RTMP_WRITE_MS` | 5000 | how long an answer may take to leave |
//! | `DATABASE_URL` and others | see `storage` | Postgres: registered keys |
//! | `REDIS_URL` and others | see `event-bus` | the bell |
//! | `TRANSCRIPTION_WORKERS`, `INTERNAL_TOKEN` | see `rpc` | who understands audio |

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use event_bus::BusSettings;
use reqwest::Url;
use rpc::WorkersSettings;
use settings::{Network, Problems, Reader, Secret};
use storage::StorageSettings;
use telemetry::TelemetrySettings;

use crate::relay::Template;

/// What happens to the first publisher of a key when a second comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takeover {
    /// It is sent away: a publisher that lost its network often returns before we know that it is gone.
    Replace,
    /// It stays, and the second is refused.
    Refuse,
}

impl FromStr for Takeover {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "replace" => Ok(Self::Replace),
            "refuse" => Ok(Self::Refuse),
            _ => Err(()),
        }
    }
}

/// RTMPS without nginx in front.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    pub(crate) address: SocketAddr,
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
}

/// Everything that an ingest can be told; see the table at the head of this file.
#[derive(Debug, Clone)]
pub struct IngestSettings {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<Tls>,
    pub(crate) admin_address: SocketAddr,
    pub(crate) proxy_from: Vec<Network>,
    pub(crate) jwt_secrets: Vec<Secret>,
    pub(crate) hook: Option<Url>,
    pub(crate) open_keys: bool,
    pub(crate) takeover: Takeover,
    pub(crate) rejoin: Duration,
    pub(crate) connections_max: usize,
    pub(crate) address_connections_max: usize,
    pub(crate) forward: Option<Template>,
    pub(crate) publish_limit: Duration,
    pub(crate) idle_limit: Duration,
    pub(crate) write_limit: Duration,
    pub(crate) storage: StorageSettings,
    pub(crate) bus: BusSettings,
    pub(crate) workers: WorkersSettings,
    pub(crate) telemetry: TelemetrySettings,
}

impl IngestSettings {
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
        let port = reader.or("RTMP_PORT", rtmp::PORT_DEFAULT, "a port number");
        let admin_port = reader.or("RTMP_METRICS_PORT", 9104, "a port number");
        if port == admin_port && port != 0 {
            reader.problem("RTMP_METRICS_PORT", "expected another port than RTMP_PORT");
        }
        let tls = tls(&mut reader, bind);
        let proxy_from = proxy_from(&mut reader);
        let jwt_secrets = reader.required_secrets("TRANSCRIPTION_JWT_SECRET");
        let hook = reader.optional::<Url>("RTMP_AUTH_HOOK", "a URL");
        if hook.as_ref().is_some_and(|url| !matches!(url.scheme(), "http" | "https")) {
            reader.problem("RTMP_AUTH_HOOK", "expected http:// or https://");
        }
        let open_keys = reader.flag("RTMP_OPEN_KEYS");
        let takeover = reader.or("RTMP_TAKEOVER", Takeover::Replace, "replace or refuse");
        let rejoin = reader.seconds("RTMP_REJOIN_SECONDS", Duration::from_secs(15));
        if rejoin > REJOIN_MAX {
            reader.problem("RTMP_REJOIN_SECONDS", "expected at most 30 seconds");
        }
        let mut count = |name, default: u32| {
            let default = NonZeroU32::new(default).unwrap_or(NonZeroU32::MIN);
            usize::try_from(reader.or(name, default, "a positive number").get()).unwrap_or(usize::MAX)
        };
        let connections_max = count("RTMP_CONNECTIONS_MAX", 1_000);
        let address_connections_max = count("RTMP_ADDRESS_CONNECTIONS_MAX", 100);
        let expected = "rtmp://HOST/APPLICATION/{key} or rtmps://…; {key} and {session} are replaced";
        let forward = reader.optional::<Template>("RTMP_FORWARD_URL", expected);
        let publish_limit = reader.millis("RTMP_PUBLISH_MS", Duration::from_secs(10));
        let idle_limit = reader.millis("RTMP_IDLE_MS", Duration::from_secs(30));
        let write_limit = reader.millis("RTMP_WRITE_MS", Duration::from_secs(5));
        let storage = StorageSettings::read(&mut reader);
        let bus = BusSettings::read(&mut reader);
        let workers = WorkersSettings::read(&mut reader);
        let telemetry = TelemetrySettings::read(&mut reader);
        reader.finish(|| {
            Some(Self {
                address: SocketAddr::new(bind, port),
                tls,
                admin_address: SocketAddr::new(bind, admin_port),
                proxy_from,
                jwt_secrets,
                hook,
                open_keys,
                takeover,
                rejoin,
                connections_max,
                address_connections_max,
                forward,
                publish_limit,
                idle_limit,
                write_limit,
                storage: storage?,
                bus,
                workers,
                telemetry,
            })
        })
    }
}

/// What is missing then is silence, of which an uplink takes 30 s.
const REJOIN_MAX: Duration = Duration::from_secs(30);

fn tls(reader: &mut Reader, bind: IpAddr) -> Option<Tls> {
    let port = reader.or("RTMPS_PORT", 2935, "a port number");
    match (reader.text("RTMP_TLS_CERT"), reader.text("RTMP_TLS_KEY")) {
        (Some(chain), Some(key)) => {
            Some(Tls { address: SocketAddr::new(bind, port), chain: chain.into(), key: key.into() })
        }
        (None, None) => None,
        (Some(_), None) => {
            reader.problem("RTMP_TLS_KEY", "missing; RTMP_TLS_CERT is set");
            None
        }
        (None, Some(_)) => {
            reader.problem("RTMP_TLS_CERT", "missing; RTMP_TLS_KEY is set");
            None
        }
    }
}

fn proxy_from(reader: &mut Reader) -> Vec<Network> {
    let mut listed = reader.list("RTMP_PROXY_FROM");
    match listed.as_slice() {
        [] => listed = vec!["127.0.0.0/8".to_owned(), "::1".to_owned()],
        [none] if none == "none" => return Vec::new(),
        _ => {}
    }
    let networks: Option<Vec<Network>> = listed.iter().map(|text| text.parse().ok()).collect();
    networks.unwrap_or_else(|| {
        reader.problem(
            "RTMP_PROXY_FROM",
            "expected addresses or networks such as 10.0.0.0/8, separated by commas, or none",
        );
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_wrong_is_in_one_report() {
        let problems = IngestSettings::read(settings::of([
            ("RTMP_PORT", "rtmp"),
            ("RTMP_TLS_CERT", "/cert.pem"),
            ("RTMP_PROXY_FROM", "10.0.0.0/33"),
            ("RTMP_AUTH_HOOK", "ftp://host/"),
            ("RTMP_TAKEOVER", "maybe"),
            ("RTMP_REJOIN_SECONDS", "31"),
            ("RTMP_CONNECTIONS_MAX", "0"),
            ("RTMP_FORWARD_URL", "http://host/live"),
        ]))
        .unwrap_err()
        .to_string();
        for name in [
            "RTMP_PORT",
            "RTMP_TLS_KEY",
            "RTMP_PROXY_FROM",
            "RTMP_AUTH_HOOK",
            "RTMP_TAKEOVER",
            "RTMP_REJOIN_SECONDS",
            "RTMP_CONNECTIONS_MAX",
            "RTMP_FORWARD_URL",
            "TRANSCRIPTION_JWT_SECRET",
            "DATABASE_URL",
        ] {
            assert!(problems.contains(&format!("\n  {name}: ")), "{name} in {problems}");
        }
    }
}
