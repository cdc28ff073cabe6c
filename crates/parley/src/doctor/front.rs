//! The front door, from a client's side: reachable, ours, encrypted, upgrading, and speaking clean frames.

use jiff::fmt::rfc2822;
use model::Clock;
use reqwest::Url;
use serde_json::Value;
use tungstenite::handshake::{client::generate_key, derive_accept_key};

use super::{
    check::Check,
    configured::is_local,
    given_token::{self, Kind},
    wire::{self, Connection, Offer, Said, Unreachable},
};

/// The name of the check that everything else here depends on.
pub const REACHED: &str = "front door";

/// The name of the check of its certificate.
pub const TLS: &str = "tls";

/// What to do about a certificate that clients refuse.
pub const CERTIFICATE_MEND: &str =
    "install a certificate for this name with its whole chain (TLS_DIR), or renew it";

/// How far the server's clock may differ, in seconds, before tokens are refused or live on.
const SKEW_WARN_S: i64 = 10;
const SKEW_FAIL_S: i64 = 60;

/// What a browser's page would bring.
pub struct Visitor<'a> {
    /// Origin of the page.
    pub origin: Option<&'a str>,
    /// A token of a session, for `/api/realtime/transcribe`.
    pub session_token: Option<String>,
    /// A token of a user, for `/ws`.
    pub user_token: Option<String>,
    /// Which of the tokens was given; others are signed with the secrets that are set here.
    pub given: Option<Kind>,
}

/// Asks for `/health` and judges what answers; false when nothing else makes sense.
pub async fn reach(url: &Url, clock: &Clock) -> (Vec<Check>, bool) {
    let fail = |seen: String, mend: &str| (vec![Check::fail(REACHED, seen, mend)], false);
    let mut connection = match wire::connect(url, Offer::Http1).await {
        Ok(connection) => connection,
        Err(unreachable) => {
            let mend = match unreachable {
                Unreachable::Name => "correct the host name, or its DNS record",
                Unreachable::Refused => "start nginx (`make run`, `make up`), or correct the port",
                Unreachable::TimedOut => "open the port in the firewall or security group in between",
                Unreachable::NotTls => {
                    "write http:// here, or let the port speak TLS (nginx: `listen … ssl`)"
                }
                Unreachable::Other(_) => "see what listens there",
            };
            return fail(format!("{}: {unreachable}", shown(url)), mend);
        }
    };
    let untrusted = connection.untrusted.take();
    let health = at(url, "/health", "");
    let mut answer = match connection.ask("GET", &health, &["Connection: close".to_owned()], b"").await {
        Ok(answer) => answer,
        Err(garbled) => {
            return fail(
                format!("{}: {garbled}", shown(url)),
                "see that the port is nginx' or ws-edge's, and that the scheme is right",
            );
        }
    };
    connection.body(&mut answer).await;
    let body = answer.text();
    let healthy = answer.json().is_some_and(|json| json.get("status").and_then(Value::as_str) == Some("ok"));
    let (seen, mend) = match answer.status {
        200 if healthy => {
            let mut checks = vec![Check::ok(REACHED, format!("{} answers", shown(url)))];
            checks.extend(certificate(url, untrusted));
            checks.extend(skew(answer.header("date"), clock));
            return (checks, true);
        }
        301 | 302 | 307 | 308 => (
            format!(
                "it sends everybody to {}",
                answer.header("location").unwrap_or("nowhere").split('?').next().unwrap_or_default()
            ),
            "clients do not follow that with a WebSocket: give them the address it leads to",
        ),
        400 if body.contains("HTTPS port") || body.contains("HTTP request was sent to HTTPS") => {
            ("the port speaks TLS, and the address says http://".to_owned(), "write https:// (wss://)")
        }
        404 | 200 if body.contains("nginx") => (
            format!(
                "nginx answers {} with a page of its own: Parley's site is not enabled there",
                answer.status
            ),
            "install nginx/parley.conf.template as its configuration (a missing link in sites-enabled looks like this), then reload",
        ),
        502..=504 => (
            format!("the proxy is there, and no ws-edge is behind it ({})", answer.status),
            "start ws-edge, or correct where the proxy looks for it; its log says why it does not start",
        ),
        status => (
            format!("another program answers there: {status} to /health"),
            "correct host and port; on a platform the target port must be the PORT that it injects (or automatic)",
        ),
    };
    fail(seen, mend)
}

fn certificate(url: &Url, untrusted: Option<String>) -> Option<Check> {
    if !matches!(url.scheme(), "https" | "wss") {
        return (!is_local(url)).then(|| {
            Check::warn(
                TLS,
                "none, to a host that is not local: browsers give a page without it no microphone, and tokens travel in the clear",
                "put TLS in front (docs/operating.md) and use https:// and wss://",
            )
        });
    }
    match untrusted {
        None => Some(Check::ok(TLS, "the certificate is trusted")),
        Some(_) if is_local(url) => Some(Check::ok(
            TLS,
            "encrypted, with a certificate that nobody signed; good enough on this machine",
        )),
        Some(why) => {
            Some(Check::fail(TLS, format!("browsers refuse the certificate: {why}"), CERTIFICATE_MEND))
        }
    }
}

fn skew(date: Option<&str>, clock: &Clock) -> Option<Check> {
    let theirs = rfc2822::DateTimeParser::new().parse_timestamp(date?).ok()?.as_second();
    let skew = theirs.saturating_sub(clock.now().0 / 1000);
    let words = || {
        let way = if skew > 0 { "ahead of" } else { "behind" };
        format!("the server's is {} {way} this machine's", given_token::span(skew.abs()))
    };
    const MEND: &str = "set both by NTP: tokens end too early or too late, and wait until their time begins";
    match skew.abs() {
        seconds if seconds <= SKEW_WARN_S => None,
        seconds if seconds <= SKEW_FAIL_S => Some(Check::warn("clock", words(), MEND)),
        _ => Some(Check::fail("clock", words(), MEND)),
    }
}

/// HTTP/2, and what a page of some origin is allowed.
pub async fn page(url: &Url, origin: Option<&str>) -> Vec<Check> {
    let mut checks = Vec::new();
    if url.scheme() == "https"
        && let Ok(connection) = wire::connect(url, Offer::Http2).await
        && connection.http2
    {
        checks.push(Check::fail(
            "http2",
            "the port chooses HTTP/2 when a client offers it: a WebSocket that begins so is never upgraded",
            "switch HTTP/2 off on this port (nginx: `http2 off;`; elsewhere: HTTP/1.1 for the backend and ALPN)",
        ));
    }
    let Some(origin) = origin else { return checks };
    let theirs = Url::parse(origin).ok();
    if theirs.as_ref().is_none_or(|theirs| theirs.path() != "/" || !theirs.has_host()) {
        checks.push(Check::fail(
            "cors",
            format!("`{origin}` is no origin"),
            "name scheme and host of your page, such as https://app.example",
        ));
        return checks;
    }
    let is_secure = theirs.is_some_and(|theirs| theirs.scheme() == "https");
    // Browsers trust what is on their own machine.
    if is_secure && url.scheme() == "http" && !is_local(url) {
        checks.push(Check::fail(
            "mixed content",
            "a page of https may not connect to http:// or ws://: the browser blocks it without asking",
            "give the page https:// and wss:// addresses",
        ));
    }
    let headers = [
        format!("Origin: {origin}"),
        "Access-Control-Request-Method: POST".to_owned(),
        "Connection: close".to_owned(),
    ];
    let answer = match wire::connect(url, Offer::Http1).await {
        Ok(mut connection) => {
            connection.ask("OPTIONS", &at(url, "/api/transcription/start", ""), &headers, b"").await.ok()
        }
        Err(_) => None,
    };
    let allowed = answer.as_ref().and_then(|answer| answer.header("access-control-allow-origin"));
    checks.push(match allowed {
        Some(allowed) if allowed == "*" || allowed.eq_ignore_ascii_case(origin) => {
            Check::ok("cors", format!("pages of {origin} are let in"))
        }
        Some(_) | None => Check::fail(
            "cors",
            format!("pages of {origin} are refused"),
            "add the origin to CORS_ORIGIN, exactly so, and start ws-edge again",
        ),
    });
    checks
}

/// One path that becomes a socket.
struct Socket {
    path: &'static str,
    query: String,
    /// What its first message must look like.
    greets: fn(&str) -> bool,
    /// Whether a token was sent.
    token: bool,
}

/// How a socket turned out; alike ones are told once.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Good,
    /// Name of the check, what was seen, what to do.
    Bad(&'static str, String, String),
    /// A store that is known to be away.
    Depends(String),
}

impl Outcome {
    fn name(&self) -> Option<&'static str> {
        match self {
            Self::Bad(name, ..) => Some(name),
            _ => None,
        }
    }
}

/// Upgrades each path and reads what comes.
pub async fn sockets(url: &Url, visitor: &Visitor<'_>) -> Vec<Check> {
    let with =
        |token: &Option<String>| token.as_ref().map_or_else(String::new, |token| format!("token={token}"));
    let sockets = [
        Socket {
            path: "/ws",
            query: with(&visitor.user_token),
            greets: |text| kind(text).as_deref() == Some("connected"),
            token: visitor.user_token.is_some(),
        },
        Socket {
            path: "/api/realtime/transcribe",
            query: with(&visitor.session_token),
            greets: |text| kind(text).as_deref() == Some("connected"),
            token: visitor.session_token.is_some(),
        },
        Socket {
            path: "/socket.io/",
            query: "EIO=4&transport=websocket".to_owned(),
            greets: |text| text.starts_with("0{"),
            token: false,
        },
    ];
    let mut found = Vec::new();
    for socket in &sockets {
        found.push((socket.path, socket.outcome(url, visitor).await));
    }
    // Where queries are lost, no token of any kind arrives; not every path can tell that from a bad one.
    let lost =
        found.iter().map(|(_, outcome)| outcome).find(|outcome| outcome.name() == Some("query")).cloned();
    let mut outcomes: Vec<(Outcome, Vec<&str>)> = Vec::new();
    for (path, outcome) in found {
        let outcome = match &lost {
            Some(lost) if matches!(outcome.name(), Some("secrets" | "token")) => lost.clone(),
            _ => outcome,
        };
        match outcomes.iter_mut().find(|(known, _)| *known == outcome) {
            Some((_, paths)) => paths.push(path),
            None => outcomes.push((outcome, vec![path])),
        }
    }
    let check = |(outcome, paths): (Outcome, Vec<&str>)| {
        let paths = paths.join(", ");
        match outcome {
            Outcome::Good => Check::ok("upgrade", format!("{paths}: upgraded, clean frames")),
            Outcome::Bad(name, seen, mend) => Check::fail(name, format!("{paths}: {seen}"), mend),
            Outcome::Depends(why) => Check::skip("upgrade", format!("{paths}: {why}")),
        }
    };
    outcomes.into_iter().map(check).collect()
}

fn kind(text: &str) -> Option<String> {
    let json: Value = serde_json::from_str(text).ok()?;
    Some(json.get("type")?.as_str()?.to_owned())
}

impl Socket {
    async fn outcome(&self, url: &Url, visitor: &Visitor<'_>) -> Outcome {
        let bad = |name, seen: String, mend: &str| Outcome::Bad(name, seen, mend.to_owned());
        let mut connection = match wire::connect(url, Offer::Http1).await {
            Ok(connection) => connection,
            Err(unreachable) => {
                return bad("upgrade", unreachable.to_string(), "try again: it answered a moment ago");
            }
        };
        let key = generate_key();
        let mut headers = wire::upgrade_headers(&key);
        headers.extend(visitor.origin.map(|origin| format!("Origin: {origin}")));
        let mut answer = match connection.ask("GET", &at(url, self.path, &self.query), &headers, b"").await {
            Ok(answer) => answer,
            Err(garbled) => {
                return bad(
                    "upgrade",
                    garbled.to_string(),
                    "a proxy in between holds or breaks the upgrade: allow WebSockets there, and switch buffering off",
                );
            }
        };
        if answer.status != 101 {
            let status = answer.status;
            // Only a body that ends by itself is waited for.
            if answer.header("content-length").is_some() {
                connection.body(&mut answer).await;
            }
            return self.refused(status, &answer.text(), visitor);
        }
        if answer.header("sec-websocket-accept") != Some(derive_accept_key(key.as_bytes()).as_str()) {
            return bad(
                "upgrade",
                "101 with a wrong Sec-WebSocket-Accept: something answers that is no WebSocket server"
                    .to_owned(),
                "take the program or cache in between out",
            );
        }
        if answer.header("sec-websocket-extensions").is_some_and(|extensions| extensions.contains("deflate"))
        {
            return bad("compression", "permessage-deflate is switched on although nobody offered it: clients see \"Invalid frame header\"".to_owned(), "switch compression of WebSockets off in whatever stands in front");
        }
        self.greeting(&mut connection, answer.rest, visitor).await
    }

    async fn greeting(
        &self,
        connection: &mut Connection,
        mut bytes: Vec<u8>,
        visitor: &Visitor<'_>,
    ) -> Outcome {
        let bad = |name, seen: String, mend: &str| Outcome::Bad(name, seen, mend.to_owned());
        let mut told = None;
        loop {
            let said = match wire::next_message(connection, &mut bytes).await {
                Ok(said) => said,
                Err(frame @ wire::BadFrame::Compressed) => {
                    return bad(
                        "compression",
                        frame.to_string(),
                        "switch compression of WebSockets off in whatever stands in front",
                    );
                }
                Err(frame @ wire::BadFrame::CloseCode(_)) => {
                    return bad(
                        "frames",
                        frame.to_string(),
                        "two servers answer the same upgrade, or an old one does: leave one program on this path",
                    );
                }
                Err(frame) => {
                    return bad(
                        "frames",
                        frame.to_string(),
                        "something in between writes into upgraded connections: pass them on byte by byte, and leave one program on this path",
                    );
                }
            };
            match said {
                Said::Text(text) if (self.greets)(&text) => return Outcome::Good,
                Said::Text(text) if kind(&text).as_deref() == Some("error") && told.is_none() => {
                    told = Some(text)
                }
                // Without a token this is what is wanted.
                Said::Close(1008, _) if !self.token => return Outcome::Good,
                Said::Close(code, reason) => return self.closed(code, &reason, told.as_deref(), visitor),
                Said::Text(_) | Said::Binary => {
                    return bad(
                        "upgrade",
                        "the first message is none of Parley's: another server answers on this path"
                            .to_owned(),
                        "route the path to ws-edge",
                    );
                }
                Said::Hangup => {
                    return bad(
                        "upgrade",
                        "the connection is cut right after the upgrade (1006)".to_owned(),
                        "a proxy in between ends upgraded connections, or its target port is wrong",
                    );
                }
                Said::Silence => {
                    return bad(
                        "upgrade",
                        "upgraded, and then nothing comes".to_owned(),
                        "switch buffering of upgraded connections off in whatever stands in front",
                    );
                }
            }
        }
    }

    fn refused(&self, status: u16, body: &str, visitor: &Visitor<'_>) -> Outcome {
        let (name, seen, mend) = match status {
            426 | 400 => (
                "upgrade",
                format!("{status}: the upgrade did not reach ws-edge, a plain request did"),
                "pass it on: `proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection \"upgrade\";`, and no HTTP/2",
            ),
            401 if !self.token => return Outcome::Good,
            401 | 403 if body.contains("rigin") => {
                ("cors", "this Origin is refused".to_owned(), "add the origin to CORS_ORIGIN, exactly so")
            }
            401 => return self.unauthorized(visitor),
            403 => (
                "upgrade",
                "403: something in front refuses it".to_owned(),
                "let the path through, with any Origin and without a sign-in page",
            ),
            404 => (
                "upgrade",
                "404: the path leads somewhere else".to_owned(),
                "send /ws, /api/realtime/transcribe and /socket.io/ to ws-edge, before `location /`",
            ),
            429 => (
                "upgrade",
                "429: too many new connections from this address".to_owned(),
                "wait, or raise HANDSHAKES_PER_SECOND; behind a proxy set TRUSTED_PROXIES, or all clients share one address",
            ),
            301 | 302 | 307 | 308 => (
                "upgrade",
                format!("{status}: it is sent elsewhere, and no client follows that"),
                "give clients the address it leads to, with https and without a path",
            ),
            502..=504 => (
                "upgrade",
                format!("{status}: the proxy finds no ws-edge behind this path"),
                "correct where this path leads to; plain requests do arrive",
            ),
            _ => ("upgrade", format!("{status} came instead of 101"), "see what answers on this path"),
        };
        Outcome::Bad(name, seen, mend.to_owned())
    }

    fn closed(&self, code: u16, reason: &str, told: Option<&str>, visitor: &Visitor<'_>) -> Outcome {
        let field = |name: &str| {
            let json: Value = serde_json::from_str(told?).ok()?;
            // `/ws` puts what it says into `data`.
            let value = json.get(name).or_else(|| json.get("data")?.get(name));
            Some(value?.as_str()?.to_owned())
        };
        let words = field("message").unwrap_or_else(|| reason.to_owned());
        match (code, field("code").as_deref()) {
            (_, Some("dependency")) | (1011 | 1013, _) => {
                Outcome::Depends(format!("refused for now: {words}"))
            }
            (1008, _) if words.to_ascii_lowercase().contains("origin") => Outcome::Bad(
                "cors",
                "this Origin is refused".to_owned(),
                "add the origin to CORS_ORIGIN, exactly so".to_owned(),
            ),
            (1008 | 4001 | 4003, _) if words.to_ascii_lowercase().contains("missing") => Outcome::Bad(
                "query",
                "the server sees no token, and one was sent: something in between cuts the query off".to_owned(),
                "keep the query where the request is passed on (nginx: `proxy_pass http://edge;` without a path behind it)".to_owned(),
            ),
            (1008 | 4001 | 4003, _) => self.unauthorized(visitor),
            _ => Outcome::Bad("upgrade", format!("closed with {code}: {words}"), "see what ws-edge logged".to_owned()),
        }
    }

    fn unauthorized(&self, visitor: &Visitor<'_>) -> Outcome {
        let (setting, kind) = match self.path {
            "/ws" => ("JWT_SECRET", Kind::User),
            _ => ("TRANSCRIPTION_JWT_SECRET", Kind::Session),
        };
        if visitor.given != Some(kind) {
            return Outcome::Bad(
                "secrets",
                format!("the server refuses a token that is signed with {setting} as it is set here"),
                format!(
                    "set the same {setting} where tokens are issued and where ws-edge runs, without quotes, and start it again"
                ),
            );
        }
        Outcome::Bad(
            "token",
            "the server refuses this token".to_owned(),
            format!("sign it with the server's {setting}; it must not be over, nor be for another session"),
        )
    }
}

/// The same server, another path.
pub fn at(url: &Url, path: &str, query: &str) -> Url {
    let mut there = url.clone();
    let folder = url.path().trim_end_matches('/').to_owned();
    there.set_path(&format!("{folder}{path}"));
    there.set_query((!query.is_empty()).then_some(query));
    there
}

/// Without query and user.
pub fn shown(url: &Url) -> String {
    url.origin().ascii_serialization()
}
