//! `DATABASE_URL`: what libpq understands of it and `tokio-postgres` does not, and what other programs add to it.

use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use settings::Secret;
use tokio_postgres::{Config, config::SslMode};

use crate::StorageError;

/// Parameters that other programs read from the same URL and that say nothing to us: those of Prisma (the systems before
/// this one), of poolers, of other drivers, and of libpq where only one answer is possible here.
const OF_OTHERS: [&str; 15] = [
    "client_encoding",
    "connection_limit",
    "fallback_application_name",
    "gssencmode",
    "krbsrvname",
    "pgbouncer",
    "pool_timeout",
    "prepareThreshold",
    "preparedStatements",
    "socket_timeout",
    "sslcompression",
    "sslsni",
    "statement_cache_size",
    "supa",
    "uselibpqcompat",
];

/// What a certificate must prove (libpq's manual, "SSL Mode Descriptions").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    /// Nothing: `prefer`, `require`.
    Nothing,
    /// Who signed it: `verify-ca`.
    Issuer,
    /// And that it is for the host of the URL: `verify-full`.
    IssuerAndName,
}

/// Whose signature counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Roots {
    /// The CAs of this system; where libpq would look for a file in somebody's home.
    System,
    /// Those of a PEM file.
    File(PathBuf),
}

/// Where Postgres is, and what it must prove.
pub(crate) struct Address {
    pub(crate) config: Config,
    pub(crate) proof: Proof,
    pub(crate) roots: Roots,
}

impl Address {
    /// Reads `postgres://user:password@host:port/database?sslmode=…&sslrootcert=…`, or `key=value` pairs, which know
    /// no more of TLS than `disable`, `prefer` and `require`.
    ///
    /// # Errors
    /// [`StorageError::Address`], which repeats nothing that could be a part of the password.
    pub(crate) fn parse(url: &Secret) -> Result<Self, StorageError> {
        let url = url.expose();
        let Some((base, query)) = split(url) else {
            let config = url.parse().map_err(|_| malformed())?;
            return Ok(Self { config, proof: Proof::Nothing, roots: Roots::System });
        };
        let (mut mode, mut roots, mut schema, mut kept) = (None, None, None, Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decode_str(value).decode_utf8().map_err(|_| malformed())?;
            match key {
                "sslmode" => mode = Some(value.into_owned()),
                // As JDBC says it, and libpq takes it.
                "ssl" if value == "true" => mode = Some("require".to_owned()),
                "sslrootcert" => roots = Some(value.into_owned()),
                "schema" => schema = Some(value.into_owned()),
                _ if OF_OTHERS.contains(&key) => {}
                _ => kept.push(pair),
            }
        }
        let mut config: Config = format!("{base}?{}", kept.join("&")).parse().map_err(|_| unknown(&kept))?;
        let (mode, proof) = demanded(mode.as_deref(), roots.as_deref())?;
        config.ssl_mode(mode);
        if let Some(schema) = schema.filter(|schema| schema != "public") {
            let path = search_path(&schema)?;
            config.options(match config.get_options() {
                Some(options) => format!("{options} {path}"),
                None => path,
            });
        }
        let roots = match roots {
            Some(path) if path != "system" => Roots::File(path.into()),
            _ => Roots::System,
        };
        Ok(Self { config, proof, roots })
    }
}

/// The URL before its query, and the query; `None` when it is no URL.
fn split(url: &str) -> Option<(&str, &str)> {
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return None;
    }
    // A password may hold a question mark; the first @ ends it.
    let host = url.find('@').unwrap_or(0);
    let query = url.get(host..).and_then(|rest| rest.find('?')).map(|at| host + at);
    let Some(query) = query else { return Some((url, "")) };
    Some((url.get(..query)?, url.get(query + 1..)?))
}

/// What a mode asks of `tokio-postgres`, and what of us.
fn demanded(mode: Option<&str>, roots: Option<&str>) -> Result<(SslMode, Proof), StorageError> {
    let of_system = roots == Some("system");
    match mode {
        Some("disable") => Ok((SslMode::Disable, Proof::Nothing)),
        // As libpq: the roots of a whole system prove nothing without the name.
        None if of_system => Ok((SslMode::Require, Proof::IssuerAndName)),
        Some("allow" | "prefer" | "require" | "verify-ca") if of_system => Err(StorageError::Address(
            "sslrootcert=system needs sslmode=verify-full, which it means when no sslmode is given"
                .to_owned(),
        )),
        // The other way round `allow` would begin without TLS; it asks for no more.
        None | Some("allow" | "prefer") => Ok((SslMode::Prefer, Proof::Nothing)),
        // As libpq: who names a CA wants it checked.
        Some("require") if roots.is_some() => Ok((SslMode::Require, Proof::Issuer)),
        Some("require") => Ok((SslMode::Require, Proof::Nothing)),
        Some("verify-ca") => Ok((SslMode::Require, Proof::Issuer)),
        Some("verify-full") => Ok((SslMode::Require, Proof::IssuerAndName)),
        Some(_) => Err(StorageError::Address(
            "sslmode is one of disable, allow, prefer, require, verify-ca, verify-full".to_owned(),
        )),
    }
}

/// Prisma's `schema`, as a startup option.
fn search_path(schema: &str) -> Result<String, StorageError> {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    if schema.is_empty() || !schema.chars().all(plain) {
        return Err(StorageError::Address("schema may hold letters, digits and _ only".to_owned()));
    }
    Ok(format!("-c search_path=\"{schema}\""))
}

fn malformed() -> StorageError {
    StorageError::Address("expected postgres://user:password@host:port/database".to_owned())
}

/// Names the parameter that is not known, unless what looks like one may be the end of a password.
fn unknown(kept: &[&str]) -> StorageError {
    let name = |pair: &&str| pair.split('=').next().unwrap_or("").to_owned();
    let alone = kept.iter().find(|pair| format!("postgres://h?{pair}").parse::<Config>().is_err());
    match alone {
        Some(pair) if !kept.iter().any(|pair| pair.contains('@')) => StorageError::Address(format!(
            "its parameter {} is not known, or has a value that is not",
            name(pair)
        )),
        _ => malformed(),
    }
}

#[cfg(test)]
mod tests {
    use tokio_postgres::config::ChannelBinding;

    use super::*;

    fn parse(query: &str) -> Result<Address, StorageError> {
        Address::parse(&format!("postgres://me:secret@db.example:5433/parley{query}").into())
    }

    #[test]
    fn modes_mean_what_libpq_says() {
        for (query, mode, proof, roots) in [
            ("", SslMode::Prefer, Proof::Nothing, Roots::System),
            (
                "?sslmode=disable&sslrootcert=/ca.pem",
                SslMode::Disable,
                Proof::Nothing,
                Roots::File("/ca.pem".into()),
            ),
            ("?sslmode=allow", SslMode::Prefer, Proof::Nothing, Roots::System),
            ("?sslmode=prefer", SslMode::Prefer, Proof::Nothing, Roots::System),
            ("?sslmode=require", SslMode::Require, Proof::Nothing, Roots::System),
            ("?ssl=true", SslMode::Require, Proof::Nothing, Roots::System),
            (
                "?sslmode=require&sslrootcert=%2Fa%20b.pem",
                SslMode::Require,
                Proof::Issuer,
                Roots::File("/a b.pem".into()),
            ),
            ("?sslmode=verify-ca", SslMode::Require, Proof::Issuer, Roots::System),
            ("?sslmode=verify-full", SslMode::Require, Proof::IssuerAndName, Roots::System),
            ("?sslrootcert=system", SslMode::Require, Proof::IssuerAndName, Roots::System),
        ] {
            let address = parse(query).unwrap();
            assert_eq!((address.config.get_ssl_mode(), address.proof), (mode, proof), "{query}");
            assert_eq!(address.roots, roots, "{query}");
            assert_eq!(address.config.get_dbname(), Some("parley"), "{query}");
        }
    }

    #[test]
    fn urls_of_providers_and_of_prisma_are_taken_as_they_are() {
        let address = parse("?sslmode=require&channel_binding=require&options=endpoint%3Dep-1").unwrap();
        assert_eq!(address.config.get_channel_binding(), ChannelBinding::Require);
        assert_eq!(address.config.get_options(), Some("endpoint=ep-1"));
        let address = parse("?schema=Old_app&pgbouncer=true&connection_limit=1&pool_timeout=0").unwrap();
        assert_eq!(address.config.get_options(), Some("-c search_path=\"Old_app\""));
        assert_eq!(parse("?schema=public").unwrap().config.get_options(), None);
        let pairs = Address::parse(&"host=db user=me sslmode=require".into()).unwrap();
        assert_eq!(pairs.config.get_ssl_mode(), SslMode::Require);
        let marked = Address::parse(&"postgres://me:what?@db/parley?sslmode=verify-full".into()).unwrap();
        assert_eq!(marked.config.get_password(), Some(&b"what?"[..]));
        assert_eq!(marked.proof, Proof::IssuerAndName);
    }

    #[test]
    fn what_is_wrong_is_named_and_no_password_is() {
        for (url, says) in [
            ("postgres://me:secret@db/x?sslmode=strict", "sslmode is one of"),
            ("postgres://me:secret@db/x?sslmode=require&sslrootcert=system", "sslmode=verify-full"),
            ("postgres://me:secret@db/x?colour=red", "its parameter colour is not known"),
            (
                "postgres://me:secret@db/x?sslmode=require&connect_timeout=soon",
                "its parameter connect_timeout",
            ),
            ("postgres://me:secret@db/x?schema=a%20-c", "schema may hold letters"),
            ("postgres://me:sec@ret?secret=1@db/x", "expected postgres://"),
            ("postgres://me:secret@db:port/x", "expected postgres://"),
            ("secret", "expected postgres://"),
        ] {
            let error = Address::parse(&url.into()).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(says), "{url}: {error}");
            assert!(!error.contains("secret"), "{url}: {error}");
        }
    }
}
