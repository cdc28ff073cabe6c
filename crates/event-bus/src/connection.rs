use std::{fs, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, ProtocolVersion, RedisError,
    TlsCertificates, aio::AsyncPushSender, aio::MultiplexedConnection,
};
use settings::Secret;
use tokio::time::timeout;

use crate::{BusError, sentinel::Sentinels};

/// Longest wait for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// Longest wait for a connection that Sentinel is asked for: it is asked, its answer is checked, then used. Less than a
/// publication may take, so that this is what it tells.
const ASK_LIMIT: Duration = Duration::from_millis(1_800);

/// Longest wait for the answer to one command. Redis answers in microseconds; a second is a stall.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// The parameter that names the CAs of a `rediss://` URL, called as in that of Postgres.
const ROOTS: &str = "sslrootcert";

/// Redis, and how connections to it are made. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Server {
    place: Place,
    /// Whose CAs count, in messages; none without TLS.
    roots: Option<String>,
}

#[derive(Clone)]
#[expect(clippy::large_enum_variant, reason = "a process has one or two of them")]
enum Place {
    /// One address.
    Fixed(Client),
    /// Wherever Sentinel says.
    Told(Sentinels),
}

impl Server {
    /// # Errors
    /// [`BusError::Address`], which does not repeat the URL.
    pub(crate) fn new(url: &Secret) -> Result<Self, BusError> {
        let (place, roots) = match Sentinels::parse(url.expose(), certificates)? {
            Some((sentinels, roots)) => (Place::Told(sentinels), roots),
            None => {
                let (client, roots) = fixed(url)?;
                (Place::Fixed(client), roots)
            }
        };
        let tls = match &place {
            Place::Fixed(client) => {
                matches!(client.get_connection_info().addr(), ConnectionAddr::TcpTls { .. })
            }
            Place::Told(sentinels) => sentinels.tls(),
        };
        if tls {
            // It was chosen before, which is as good.
            drop(rustls::crypto::ring::default_provider().install_default());
        }
        let roots = roots.map_or_else(|| "this system's".to_owned(), |path| format!("{ROOTS}={path}"));
        let roots = tls.then_some(roots);
        Ok(Self { place, roots })
    }

    pub(crate) async fn open(&self, pushes: impl AsyncPushSender) -> Result<MultiplexedConnection, BusError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_LIMIT))
            .set_response_timeout(Some(ANSWER_LIMIT))
            .set_push_sender(pushes);
        let opened = match &self.place {
            Place::Fixed(client) => client.get_multiplexed_async_connection_with_config(&config).await,
            Place::Told(sentinels) => timeout(ASK_LIMIT, sentinels.open(&config))
                .await
                .map_err(|_| BusError::Unavailable("no Sentinel has led to Redis in time".to_owned()))?,
        };
        opened.map_err(|error| BusError::Unavailable(explained(&error, self.roots.as_deref())))
    }
}

/// The client of a URL that names Redis itself, and the file of its CAs.
fn fixed(url: &Secret) -> Result<(Client, Option<String>), BusError> {
    let parsed = redis::parse_redis_url(url.expose()).ok_or_else(malformed)?;
    let info = parsed.clone().into_connection_info().map_err(|_| malformed())?;
    // RESP3 lets a subscribed connection answer PING, and tells events from answers.
    let redis = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    let info = info.set_redis_settings(redis);
    let roots = parsed.query_pairs().find(|(key, _)| key == ROOTS).map(|(_, path)| path.into_owned());
    let roots = roots.filter(|path| path != "system");
    match (info.addr(), &roots) {
        (ConnectionAddr::TcpTls { insecure: true, .. }, _) => Err(BusError::Address(
            "#insecure is not known: name the CA that signed the certificate by ?sslrootcert=FILE".to_owned(),
        )),
        (ConnectionAddr::TcpTls { .. }, Some(path)) => {
            let client = Client::build_with_tls(info, certificates(path)?)
                .map_err(|error| BusError::Address(format!("{ROOTS}={path} cannot be used: {error}")))?;
            Ok((client, roots))
        }
        (_, None) => Ok((Client::open(info).map_err(|_| malformed())?, roots)),
        (_, Some(_)) => {
            Err(BusError::Address("sslrootcert needs rediss://, which is Redis with TLS".to_owned()))
        }
    }
}

/// The CAs of a PEM file.
fn certificates(path: &str) -> Result<TlsCertificates, BusError> {
    let pem = fs::read(path)
        .map_err(|error| BusError::Address(format!("{ROOTS}={path} cannot be read: {error}")))?;
    if !pem.windows(17).any(|window| window == b"BEGIN CERTIFICATE") {
        return Err(BusError::Address(format!("{ROOTS}={path} holds no certificate in PEM")));
    }
    Ok(TlsCertificates { client_tls: None, root_cert: Some(pem) })
}

fn malformed() -> BusError {
    BusError::Address(
        "expected redis://user:password@host:port/database, rediss:// for Redis with TLS, or redis+sentinel://".to_owned(),
    )
}

/// What went wrong while connecting; about TLS with the mend.
fn explained(error: &RedisError, roots: Option<&str>) -> String {
    let text = error.to_string();
    let Some(roots) = roots else { return text };
    let mend = if text.contains("UnknownIssuer") || text.contains("BadSignature") {
        format!(
            "its certificate is signed by none of {roots} CAs: name the CA that signed it by ?sslrootcert=FILE in REDIS_URL"
        )
    } else if text.contains("not valid for") {
        "call it in REDIS_URL as its certificate does".to_owned()
    } else if text.contains("InvalidContentType") || error.is_timeout() {
        // A Redis without TLS waits for the rest of what it takes for a command.
        "perhaps what listens there speaks no TLS: is it redis:// instead of rediss://, or another port?"
            .to_owned()
    } else {
        return text;
    };
    format!("{mend} ({text})")
}

/// Redis' own texts name commands, users and hosts; never what was published.
pub(crate) fn unavailable(error: RedisError) -> BusError {
    BusError::Unavailable(error.to_string())
}
