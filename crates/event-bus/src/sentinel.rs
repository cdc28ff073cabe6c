//! Redis behind Sentinel: whoever connects asks for the primary of that moment. When it fails its connections break, and
//! whoever connects anew is told the next one.

use std::sync::Arc;

use percent_encoding::percent_decode_str;
use redis::{
    AsyncConnectionConfig, ConnectionAddr, ProtocolVersion, RedisResult, TlsCertificates, TlsMode,
    aio::MultiplexedConnection,
    sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType},
};
use settings::Secret;

use crate::BusError;

/// Port of Sentinel when the URL does not say.
const PORT: u16 = 26_379;

/// Where the Sentinels are, and what they and their Redis want to know. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Sentinels(Arc<Known>);

struct Known {
    addresses: Vec<(String, u16)>,
    primary: String,
    database: i64,
    user: Option<String>,
    password: Option<Secret>,
    sentinel_password: Option<Secret>,
    tls: bool,
    roots: Option<TlsCertificates>,
}

impl Sentinels {
    /// Reads `redis+sentinel://user:password@host:port,host:port/PRIMARY/database?sentinel_password=…`, or the same
    /// with `rediss+sentinel`; `None` when it is another URL.
    ///
    /// # Errors
    /// [`BusError::Address`], which does not repeat the URL.
    pub(crate) fn parse(
        url: &str,
        roots: impl FnOnce(&str) -> Result<TlsCertificates, BusError>,
    ) -> Result<Option<(Self, Option<String>)>, BusError> {
        let (tls, rest) =
            match (url.strip_prefix("redis+sentinel://"), url.strip_prefix("rediss+sentinel://")) {
                (Some(rest), _) => (false, rest),
                (_, Some(rest)) => (true, rest),
                _ => return Ok(None),
            };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (credentials, rest) = match rest.rsplit_once('@') {
            Some((credentials, rest)) => (Some(credentials), rest),
            None => (None, rest),
        };
        let mut path = rest.split('/');
        let hosts = path.next().unwrap_or("");
        let addresses = hosts.split(',').map(address).collect::<Result<Vec<_>, _>>()?;
        let primary =
            path.next().map(decoded).transpose()?.filter(|name| !name.is_empty()).ok_or_else(malformed)?;
        let database = match path.next() {
            None | Some("") => 0,
            Some(number) => number.parse().map_err(|_| malformed())?,
        };
        let (user, password) = match credentials.map(|pair| pair.split_once(':').unwrap_or((pair, ""))) {
            None => (None, None),
            Some((user, password)) => (Some(decoded(user)?), Some(decoded(password)?)),
        };
        let (mut sentinel_password, mut file) = (None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("sentinel_password", value)) => sentinel_password = Some(decoded(value)?),
                Some(("sslrootcert", value)) => file = Some(decoded(value)?).filter(|path| path != "system"),
                _ => return Err(malformed()),
            }
        }
        if file.is_some() && !tls {
            return Err(BusError::Address("sslrootcert needs rediss+sentinel://".to_owned()));
        }
        let text = |text: Option<String>| text.filter(|text| !text.is_empty());
        let known = Known {
            addresses,
            primary,
            database,
            user: text(user),
            password: text(password).map(Secret::from),
            sentinel_password: text(sentinel_password).map(Secret::from),
            tls,
            roots: file.as_deref().map(roots).transpose()?,
        };
        Ok(Some((Self(Arc::new(known)), file)))
    }

    /// Whether TLS is spoken.
    pub(crate) fn tls(&self) -> bool {
        self.0.tls
    }

    /// A connection to the primary of this moment.
    pub(crate) async fn open(&self, config: &AsyncConnectionConfig) -> RedisResult<MultiplexedConnection> {
        self.client()?.get_async_connection_with_config(config).await
    }

    fn client(&self) -> RedisResult<SentinelClient> {
        let known = &*self.0;
        let addresses = known.addresses.iter().map(|(host, port)| match known.tls {
            false => ConnectionAddr::Tcp(host.clone(), *port),
            true => {
                ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: false, tls_params: None }
            }
        });
        let mut builder = SentinelClientBuilder::new(addresses, &known.primary, SentinelServerType::Master)?
            .set_client_to_redis_protocol(ProtocolVersion::RESP3)
            .set_client_to_redis_db(known.database);
        if let Some(user) = &known.user {
            builder = builder.set_client_to_redis_username(user);
        }
        if let Some(password) = &known.password {
            builder = builder.set_client_to_redis_password(password.expose());
        }
        if let Some(password) = &known.sentinel_password {
            builder = builder.set_client_to_sentinel_password(password.expose());
        }
        if known.tls {
            builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
        }
        if let Some(roots) = &known.roots {
            builder = builder
                .set_client_to_redis_certificates(roots.clone())
                .set_client_to_sentinel_certificates(roots.clone());
        }
        builder.build()
    }
}

/// `host`, `host:port`, or either with an IPv6 address in brackets.
fn address(text: &str) -> Result<(String, u16), BusError> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| malformed())?),
        _ => (text, PORT),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() { Err(malformed()) } else { Ok((host.to_owned(), port)) }
}

fn decoded(text: &str) -> Result<String, BusError> {
    percent_decode_str(text).decode_utf8().map(Into::into).map_err(|_| malformed())
}

fn malformed() -> BusError {
    BusError::Address(
        "expected redis+sentinel://user:password@host:port,host:port/PRIMARY/database, with sentinel_password and \
         sslrootcert alone as parameters"
            .to_owned(),
    )
}
