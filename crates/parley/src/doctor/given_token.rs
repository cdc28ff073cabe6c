//! A token that somebody has trouble with.

use auth::{SessionTokens, TOKEN_BYTES_MAX, Unverified, UserTokens, is_signed_with, read_unverified};
use base64ct::{Base64, Encoding as _};
use model::Clock;
use serde_json::Value;
use settings::Secret;

use super::check::Check;

const NAME: &str = "token";

/// How far ahead of this clock a token may have been issued, in seconds; services allow as much.
const LEEWAY_S: i64 = 5;

/// What a secret becomes on its way into some program.
type Change = fn(&str) -> Option<Vec<u8>>;

const VARIANTS: [(Change, &str); 4] = [
    (|secret| Base64::decode_vec(secret).ok(), "the base64-decoded bytes of the secret that is set here"),
    (
        |secret| Some(format!("\"{secret}\"").into_bytes()),
        "the secret that is set here with quotes around it",
    ),
    (
        |secret| Some(format!("{secret}\n").into_bytes()),
        "the secret that is set here with a line break behind it",
    ),
    (
        |secret| Some(secret.trim_matches(['"', '\'']).as_bytes().to_vec()),
        "the secret that is set here without its quotes",
    ),
];

/// What kind of token it is, by its claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Of a session.
    Session,
    /// Of a user.
    User,
}

/// The secrets of a server, by kind of token.
#[derive(Debug, Clone, Copy)]
pub struct Secrets<'a> {
    /// `TRANSCRIPTION_JWT_SECRET`.
    pub session: &'a [Secret],
    /// `JWT_SECRET` and `NEXTAUTH_SECRET`.
    pub user: &'a [Secret],
}

/// Judges a token by itself, and by the secrets that are set here; its kind where it could be read.
pub fn examine(text: &str, secrets: Secrets<'_>, clock: &Clock) -> (Check, Option<Kind>) {
    match kind(text) {
        Err(check) => (check, None),
        Ok((token, read)) => {
            let kind = if read.claims.contains_key("sessionSlug") { Kind::Session } else { Kind::User };
            (judge(token, &read, kind, secrets, clock), Some(kind))
        }
    }
}

fn kind(text: &str) -> Result<(&str, Unverified), Check> {
    let token = text.trim();
    let fail = |seen: String, mend: &str| Err(Check::fail(NAME, seen, mend));
    if token.starts_with('{') {
        return fail(
            "it is a JSON object around a token".to_owned(),
            "send the value of its field `token` alone",
        );
    }
    if token.starts_with(['"', '\'']) || token.ends_with(['"', '\'']) {
        return fail("it has quotes around it".to_owned(), "send it without quotes");
    }
    if token.len() > TOKEN_BYTES_MAX {
        let seen = format!("{} bytes: services look at {TOKEN_BYTES_MAX}", token.len());
        return fail(seen, "sign fewer claims: sub, sessionSlug, identity and exp are enough");
    }
    match read_unverified(token) {
        Some(read) => Ok((token, read)),
        None => fail(
            "it is no JWT: three parts of base64url with dots between".to_owned(),
            "send the whole token, as it was issued",
        ),
    }
}

fn judge(token: &str, read: &Unverified, kind: Kind, secrets: Secrets<'_>, clock: &Clock) -> Check {
    let now_s = clock.now().0 / 1000;
    let number = |claim: &str| read.claims.get(claim).and_then(Value::as_i64);
    if !matches!(read.algorithm.as_str(), "HS256" | "HS384" | "HS512") {
        let seen = format!("signed with {}", printable(&read.algorithm));
        return Check::fail(NAME, seen, "sign with HS256 and the server's secret");
    }
    let Some(expires) = number("exp") else {
        return Check::fail(
            NAME,
            "it has no `exp`",
            "set `exp`, seconds since 1970: an hour from now is usual",
        );
    };
    if expires > 100_000_000_000 {
        return Check::fail(NAME, "its `exp` counts milliseconds", "JWT counts seconds since 1970");
    }
    let (ours, setting, others, other_setting) = match kind {
        Kind::Session => {
            (secrets.session, "TRANSCRIPTION_JWT_SECRET", secrets.user, "JWT_SECRET or NEXTAUTH_SECRET")
        }
        Kind::User => {
            (secrets.user, "JWT_SECRET or NEXTAUTH_SECRET", secrets.session, "TRANSCRIPTION_JWT_SECRET")
        }
    };
    if !ours.is_empty() && !signed(token, ours) {
        let (seen, mend) = if let Some((_, how)) = VARIANTS.iter().find(|(change, _)| {
            ours.iter().any(|secret| change(secret.expose()).is_some_and(|key| is_signed_with(token, &key)))
        }) {
            (format!("signed with {how}"), format!("give issuer and server the very same text as {setting}"))
        } else if signed(token, others) {
            let seen = format!("signed with {other_setting}, and such a token is checked with {setting}");
            (seen, format!("sign it with {setting}"))
        } else {
            let seen = format!("signed with another secret than {setting} as it is set here");
            (seen, format!("set the same {setting} where tokens are issued and here, without quotes"))
        };
        return Check::fail(NAME, seen, mend);
    }
    if expires.saturating_add(LEEWAY_S) <= now_s {
        let seen = format!("it expired {} ago", span(now_s.saturating_sub(expires)));
        return Check::fail(
            NAME,
            seen,
            "fetch a new one before you connect; an open socket takes one by `refresh`",
        );
    }
    let ahead =
        ["iat", "nbf"].into_iter().filter_map(number).max().map_or(0, |begin| begin.saturating_sub(now_s));
    if ahead > LEEWAY_S {
        let seen = format!("it was issued {} in the future", span(ahead));
        return Check::fail(NAME, seen, "set the clocks of issuer and server by NTP");
    }
    let (good, needed) = match kind {
        Kind::Session => (
            SessionTokens::new(ours.to_vec(), clock.clone()).verify(token).is_ok(),
            "sessionSlug, identity (or sub), and a scope that exists",
        ),
        Kind::User => {
            (UserTokens::new(ours.to_vec(), clock.clone()).verify(token).is_ok(), "userId (or sub)")
        }
    };
    if !ours.is_empty() && !good {
        return Check::fail(
            NAME,
            "signed well, but a claim is missing or malformed",
            format!("it needs {needed}"),
        );
    }
    let whose = match kind {
        Kind::Session => "of a session",
        Kind::User => "of a user",
    };
    let checked = if ours.is_empty() {
        "; no secret is set here to check it with"
    } else {
        ", signed with the secret that is set here"
    };
    Check::ok(NAME, format!("{whose}, good for another {}{checked}", span(expires.saturating_sub(now_s))))
}

fn signed(token: &str, secrets: &[Secret]) -> bool {
    secrets.iter().any(|secret| is_signed_with(token, secret.expose().as_bytes()))
}

/// Seconds in the largest unit that suits them.
pub fn span(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn printable(text: &str) -> String {
    text.chars().filter(|letter| letter.is_ascii_alphanumeric()).take(20).collect()
}
