use std::{fmt::Write as _, io, time::Duration};

use auth::SessionTokens;
use http::Uri;
use model::{Clock, Identity, SessionSlug};
use tokio::net::TcpStream;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};
use tungstenite::protocol::WebSocketConfig;

use crate::{
    failure::Failure,
    token::{self, Request, SECRET, Scope},
    trouble::Trouble,
};

/// Path of the WebSocket.
const PATH: &str = "/api/realtime/transcribe";

/// Longest time for TCP, TLS and the upgrade together.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// How long a minted token is good. A connection that outlives it is closed and comes back with the next one.
const TOKEN_SPAN: Duration = Duration::from_secs(12 * 3600);

/// Largest message accepted from the server; a final with its words has a few kilobytes.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// An open connection.
pub type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Which session, where, and as whom.
#[derive(Debug, clap::Args)]
pub struct DoorArgs {
    /// Slug of the session.
    #[arg(long, value_name = "SLUG")]
    session: SessionSlug,
    /// Who to be, when the token is made here.
    #[arg(long, value_name = "ID", default_value = "cli")]
    identity: Identity,
    /// The server: ws://, wss://, http:// or https://, with or without the path [default: PARLEY_URL, else
    /// ws://127.0.0.1 with HTTP_PORT or 8080].
    #[arg(long, value_name = "URL", value_parser = parse_url)]
    url: Option<Address>,
    /// A token for the session [default: one made with TRANSCRIPTION_JWT_SECRET, when it is set here].
    #[arg(long, value_name = "JWT", hide_env_values = true)]
    token: Option<String>,
}

/// Address of a server's WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Scheme, host, port and path.
    base: String,
    /// What stood after `?`, if anything.
    query: String,
}

/// An address that names no server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected ws://HOST, wss://HOST, http://HOST or https://HOST, with a port where it is needed")]
pub struct InvalidAddress;

/// Reads an address; the WebSocket's path is added where it is missing.
fn parse_url(text: &str) -> Result<Address, InvalidAddress> {
    let uri: Uri = text.trim().parse().map_err(|_| InvalidAddress)?;
    let scheme = match uri.scheme_str() {
        Some("ws" | "http") => "ws",
        Some("wss" | "https") => "wss",
        _ => return Err(InvalidAddress),
    };
    let host = uri.authority().map(|authority| authority.as_str()).filter(|host| !host.contains('@'));
    let host = host.ok_or(InvalidAddress)?;
    let folder = uri.path().trim_end_matches('/');
    let folder = folder.strip_suffix(PATH).unwrap_or(folder);
    Ok(Address {
        base: format!("{scheme}://{host}{folder}{PATH}"),
        query: uri.query().unwrap_or_default().to_owned(),
    })
}

/// What to be told of the past, and of chat.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted {
    /// Finals after this one.
    pub since: Option<u64>,
    /// What is said in the session's room.
    pub chat: bool,
    /// Of that, what came after this.
    pub chat_since: Option<u64>,
}

/// Where the token of a connection comes from.
enum Tokens {
    Given(String),
    Minted(SessionTokens),
}

/// A way into a session.
pub struct Door {
    /// The session.
    pub session: SessionSlug,
    identity: Identity,
    scope: Scope,
    address: Address,
    tokens: Tokens,
}

impl DoorArgs {
    /// Completes the arguments from the settings.
    ///
    /// # Errors
    /// Settings that are malformed, and no token where none can be made.
    pub fn resolve(self, scope: Scope) -> Result<Door, Failure> {
        let mut reader = settings::load()?;
        let address = match self.url {
            Some(address) => Some(address),
            None => match reader.text("PARLEY_URL") {
                Some(text) => parse_url(&text).inspect_err(|error| reader.problem("PARLEY_URL", error)).ok(),
                None => {
                    let port = reader.or("HTTP_PORT", 8080_u16, "a port number");
                    parse_url(&format!("ws://127.0.0.1:{port}")).ok()
                }
            },
        };
        let in_address = address.as_ref().is_some_and(|address| {
            address.query.split('&').any(|pair| pair.starts_with("token=") && pair.len() > "token=".len())
        });
        let tokens = match (self.token, token::signer(&reader)) {
            (Some(token), _) => Some(Tokens::Given(token.trim().to_owned())),
            (None, _) if in_address => Some(Tokens::Given(String::new())),
            (None, Some(signer)) => Some(Tokens::Minted(signer)),
            (None, None) => {
                reader.problem(
                    SECRET,
                    "missing, so no token can be made here; set it (`make run` writes one to .parley/env) or give --token",
                );
                None
            }
        };
        let (address, tokens) = reader.finish(|| address.zip(tokens))?;
        Ok(Door { session: self.session, identity: self.identity, scope, address, tokens })
    }
}

impl Door {
    /// The address, fit to be shown: without query and token.
    pub fn url(&self) -> &str {
        &self.address.base
    }

    /// Whether an expired token can be replaced from here.
    pub fn renews_tokens(&self) -> bool {
        matches!(self.tokens, Tokens::Minted(_))
    }

    /// Connects.
    ///
    /// # Errors
    /// Why not, in words.
    pub async fn open(&self, wanted: Wanted) -> Result<Socket, Trouble> {
        let url = self.request_url(wanted)?;
        if url.starts_with("wss:") {
            // Two TLS back ends in one program leave rustls without a default. Already set is as good.
            drop(rustls::crypto::ring::default_provider().install_default());
        }
        let config = WebSocketConfig::default()
            .read_buffer_size(16 << 10)
            .write_buffer_size(0)
            .max_write_buffer_size(1 << 20)
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        let connected =
            tokio::time::timeout(CONNECT_LIMIT, connect_async_with_config(url, Some(config), true)).await;
        match connected {
            Ok(Ok((socket, _))) => Ok(socket),
            Ok(Err(error)) => Err(Trouble::refused(self.url(), &error)),
            Err(_) => {
                Err(Trouble::refused(self.url(), &tungstenite::Error::Io(io::ErrorKind::TimedOut.into())))
            }
        }
    }

    fn request_url(&self, wanted: Wanted) -> Result<String, Trouble> {
        let mut url = format!("{}?sessionSlug={}", self.address.base, encoded(self.session.as_str()));
        if !self.address.query.is_empty() {
            url.push('&');
            url.push_str(&self.address.query);
        }
        let token = match &self.tokens {
            Tokens::Given(token) => token.clone(),
            Tokens::Minted(signer) => {
                let request = Request {
                    session: &self.session,
                    identity: &self.identity,
                    user: None,
                    name: None,
                    ttl: TOKEN_SPAN,
                    scope: self.scope,
                };
                token::sign(signer, &Clock::system(), &request)
                    .map_err(|error| Trouble::lasting(format!("no token can be made: {error}")))?
            }
        };
        if !token.is_empty() {
            url.push_str("&token=");
            url.push_str(&encoded(&token));
        }
        if wanted.chat {
            url.push_str("&chat=true");
        }
        for (name, since) in [("chatSince", wanted.chat_since), ("since", wanted.since)] {
            if let Some(since) = since {
                // Writing to a string cannot fail.
                let _ = write!(url, "&{name}={since}");
            }
        }
        Ok(url)
    }
}

/// A value in a query (RFC 3986 section 2.3: what is not unreserved is escaped).
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte))
            }
            _ => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_get_the_path_and_the_scheme_of_a_websocket() {
        for (text, base) in [
            ("ws://127.0.0.1:8080", "ws://127.0.0.1:8080/api/realtime/transcribe"),
            ("http://host/", "ws://host/api/realtime/transcribe"),
            ("https://host:8443/parley/", "wss://host:8443/parley/api/realtime/transcribe"),
            ("wss://host/api/realtime/transcribe", "wss://host/api/realtime/transcribe"),
            ("wss://[::1]:1/api/realtime/transcribe/", "wss://[::1]:1/api/realtime/transcribe"),
        ] {
            assert_eq!(parse_url(text).unwrap().base, base, "{text}");
        }
        let with_query = parse_url("ws://h/api/realtime/transcribe?shape=both").unwrap();
        assert_eq!(with_query.query, "shape=both");
        for text in ["", "host", "host:8080", "ftp://host", "ws://user:secret@host", "ws://", "/path"] {
            assert_eq!(parse_url(text), Err(InvalidAddress), "{text}");
        }
    }

    #[test]
    fn queries_are_escaped() {
        assert_eq!(encoded("a b/ü&=~"), "a%20b%2F%C3%BC%26%3D~");
    }

    #[test]
    fn the_request_carries_session_token_and_position() {
        let door = Door {
            session: "my room".parse().unwrap(),
            identity: "cli".parse().unwrap(),
            scope: Scope::All,
            address: parse_url("http://h?x=1").unwrap(),
            tokens: Tokens::Given("t.t.t".to_owned()),
        };
        assert_eq!(
            door.request_url(Wanted { since: Some(7), ..Wanted::default() }).unwrap(),
            "ws://h/api/realtime/transcribe?sessionSlug=my%20room&x=1&token=t.t.t&since=7"
        );
        let with_chat = Wanted { since: None, chat: true, chat_since: Some(3) };
        assert!(door.request_url(with_chat).unwrap().ends_with("&chat=true&chatSince=3"));
        assert!(!door.url().contains("token"));
        assert!(!door.renews_tokens());
    }
}
