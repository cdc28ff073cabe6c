//! Signing in with one click, under `make run` alone: tokens for whoever sits at this machine.
//!
//! Only with `PARLEY_DEV=true`, and only for a page of this server in a browser on this machine: the peer must be
//! loopback (a proxy of ours says who it is), `Host` must name loopback (so that no name of somebody else's that
//! resolves to 127.0.0.1 helps), and the browser must say that the page is ours (`Origin`, `Sec-Fetch-Site`).

use std::net::IpAddr;

use auth::{SessionClaims, UserClaims};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts};
use hyper::body::Body;
use model::{Identity, SessionSlug};

use super::{Refused, body};
use crate::{
    Edge,
    answers::{Answer, object},
};

/// How long a token to speak with is good, in seconds.
const ALL_LIFETIME_S: i64 = 12 * 3600;

/// How long one that only reads is, in seconds: an overlay runs for days.
const FOLLOW_LIFETIME_S: i64 = 30 * 24 * 3600;

/// Answers `POST {"session","identity","scope"?}` with `{"token","userToken","expiresAt"}`, and a GET, by which a page
/// asks whether it can, with `{"dev":true}`.
pub(super) async fn answer<B>(edge: &Edge, client: IpAddr, head: &Parts, body: B) -> Result<Answer, Refused>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if !edge.settings.dev {
        return Err(Refused::Missing("Not found", "not_found"));
    }
    if !client.to_canonical().is_loopback() || !is_own_page(&head.headers) {
        return Err(Refused::Forbidden("Only for a page of this server, opened on this machine"));
    }
    let mut answer = match head.method {
        Method::GET => object(StatusCode::OK, [("dev", true.into())]),
        Method::POST => {
            let fields = body::read(body).await?;
            let session = fields.text("session").and_then(|text| text.parse::<SessionSlug>().ok());
            let session = session.ok_or(Refused::Wrong("session must be a slug", "session_invalid"))?;
            let identity = fields.text("identity").and_then(|text| text.parse::<Identity>().ok());
            let identity =
                identity.ok_or(Refused::Wrong("identity must be 1 to 256 bytes", "identity_invalid"))?;
            tokens(edge, &session, &identity, fields.text("scope") == Some("follow"))
        }
        _ => return Err(Refused::Method("GET, POST")),
    };
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(answer)
}

fn tokens(edge: &Edge, session: &SessionSlug, identity: &Identity, follows: bool) -> Answer {
    let now_s = edge.clock.now().0.div_euclid(1000);
    let exp = now_s + if follows { FOLLOW_LIFETIME_S } else { ALL_LIFETIME_S };
    let token = edge.tokens.issue(&SessionClaims {
        sub: Some(identity.to_string()),
        session_slug: session.to_string(),
        identity: Some(identity.to_string()),
        scope: follows.then(|| "follow".to_owned()),
        iat: Some(now_s),
        exp,
        ..SessionClaims::default()
    });
    // Without a secret for users there is no such token; what only reads a session is no user.
    let user = (!follows).then(|| {
        edge.users.issue(&UserClaims {
            user_id: Some(identity.to_string()),
            sub: Some(identity.to_string()),
            iat: Some(now_s),
            exp,
            ..UserClaims::default()
        })
    });
    let fields = [
        ("token", token.ok().into()),
        ("userToken", user.and_then(Result::ok).into()),
        ("expiresAt", (exp * 1000).into()),
    ];
    object(StatusCode::OK, fields)
}

/// Whether a page of this server asks, or no browser at all, under a name of this machine.
fn is_own_page(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let Some(host) = text("host").filter(|host| names_loopback(host)) else { return false };
    let own_origin = |origin: &str| {
        let rest = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        rest.is_some_and(|place| place.eq_ignore_ascii_case(host))
    };
    text("origin").is_none_or(own_origin) && text("sec-fetch-site").is_none_or(|site| site == "same-origin")
}

fn names_loopback(host: &str) -> bool {
    let has_port = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    let name = has_port.map_or(host, |(name, _)| name);
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_of_this_machine_are_served() {
        let asks = |fields: &[(&'static str, &'static str)]| {
            let headers = fields
                .iter()
                .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)));
            is_own_page(&headers.collect())
        };
        let (host, origin, site) = ("host", "origin", "sec-fetch-site");
        for fields in [
            &[(host, "127.0.0.1:8080"), (origin, "http://127.0.0.1:8080"), (site, "same-origin")][..],
            &[(host, "localhost"), (origin, "https://localhost")],
            &[(host, "[::1]:8080"), (site, "same-origin")],
            &[(host, "127.0.0.1:8080")],
        ] {
            assert!(asks(fields), "{fields:?}");
        }
        for fields in [
            &[][..],
            &[(host, "evil.example"), (origin, "http://evil.example"), (site, "same-origin")],
            &[(host, "localhost.evil.example:8080")],
            &[(host, "127.0.0.1.evil.example")],
            &[(host, "127.0.0.1:8080"), (origin, "http://evil.example")],
            &[(host, "127.0.0.1:8080"), (origin, "null")],
            // Another program's page on this machine.
            &[(host, "127.0.0.1:8080"), (origin, "http://127.0.0.1:3000"), (site, "same-site")],
            &[(host, "127.0.0.1:8080"), (site, "cross-site")],
            &[(host, "127.0.0.1:8080"), (site, "none")],
            &[(host, "10.0.0.1:8080")],
        ] {
            assert!(!asks(fields), "{fields:?}");
        }
    }
}
