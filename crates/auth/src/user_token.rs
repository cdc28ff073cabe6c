use model::{Clock, FaultKind, Timestamp, UserId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use settings::{Reader, Secret};

use crate::{
    TOKEN_BYTES_MAX,
    jwt::{self, LEEWAY_S},
};

/// The settings whose secrets verify user tokens, as the replaced system's two halves read them, and ours. Each may
/// list several, separated by commas. Tokens are issued with the first that there is.
const SECRET_SETTINGS: [&str; 3] = ["JWT_SECRET", "NEXTAUTH_SECRET", "JWT_SECRETS"];

/// Shortest secret that is accepted, in bytes. HS256 wants 32 (RFC 7518 section 3.2); shorter than this is guessed.
const SECRET_BYTES_MIN: usize = 16;

/// What stands in examples and was never meant to be used.
const PLACEHOLDERS: [&str; 8] = [
    "changeme",
    "change-me",
    "change_me",
    "your-secret",
    "your_secret",
    "placeholder",
    "example",
    "default-secret",
];

/// Reads every secret of user tokens; none when none is set.
pub fn user_secrets(reader: &mut Reader) -> Vec<Secret> {
    let mut secrets = Vec::new();
    for name in SECRET_SETTINGS {
        for secret in reader.secrets(name) {
            let text = secret.expose().to_ascii_lowercase();
            if text.len() < SECRET_BYTES_MIN {
                reader.problem(
                    name,
                    format_args!(
                        "expected at least {SECRET_BYTES_MIN} bytes; `openssl rand -hex 32` makes a good one"
                    ),
                );
            } else if PLACEHOLDERS.iter().any(|placeholder| text.contains(placeholder)) {
                reader.problem(name, "still holds a placeholder; `openssl rand -hex 32` makes a good one");
            }
            if !secrets.contains(&secret) {
                secrets.push(secret);
            }
        }
    }
    secrets
}

/// What stands in a user token (contract of system C: `userId`, `wallet`, `sub`, `iat`, `exp`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UserClaims {
    /// User id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// User id where `userId` is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// Name to show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Not used here: it proves nothing without a signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wallet: Option<String>,
    /// A token with this claim is one of a session, and of no user, whatever signed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_slug: Option<String>,
    /// When it was issued, seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iat: Option<i64>,
    /// When it begins, seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<i64>,
    /// When it ends, seconds since 1970.
    pub exp: i64,
}

/// Why a token names no user. The texts are for clients: they say what to do and quote nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UserTokenError {
    /// There is none.
    #[error("missing token: connect with ?token= or Authorization: Bearer")]
    Missing,
    /// It is larger than [`TOKEN_BYTES_MAX`].
    #[error("the token is larger than {TOKEN_BYTES_MAX} bytes")]
    TooLarge,
    /// It is no JWT, is not signed by a known secret, uses another algorithm or lacks a claim.
    #[error("invalid token: check that its issuer signs with this server's JWT_SECRET or NEXTAUTH_SECRET")]
    Invalid,
    /// Its time is over.
    #[error("the token has expired: get a new one")]
    Expired,
}

impl UserTokenError {
    /// Who must act.
    pub fn fault(self) -> FaultKind {
        match self {
            Self::Expired => FaultKind::Expired,
            Self::Missing | Self::TooLarge | Self::Invalid => FaultKind::Unauthenticated,
        }
    }
}

/// A user that a token has proven. Only the verifier makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    id: UserId,
    name: Option<String>,
    expires_at: Timestamp,
}

impl User {
    /// Who it is.
    pub fn id(&self) -> &UserId {
        &self.id
    }

    /// The name to show, when the token says.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// When the token ends.
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }
}

/// Verifies and issues the tokens of users: JWT (RFC 7519), HMAC with SHA-2, of `JWT_SECRET` and its companions.
#[derive(Clone)]
pub struct UserTokens {
    secrets: Vec<Secret>,
    clock: Clock,
}

impl UserTokens {
    /// Accepts tokens signed with any of `secrets`, so that a new one can be added before the old one is taken away;
    /// issues with the first. Without any, no token is good.
    pub fn new(secrets: Vec<Secret>, clock: Clock) -> Self {
        Self { secrets, clock }
    }

    /// Whether any token can be good.
    pub fn has_secrets(&self) -> bool {
        !self.secrets.is_empty()
    }

    /// Who `token` is. A client of system C may send the JSON that it has stored, `{"token":…}`; that is read too.
    ///
    /// # Errors
    /// Each reason to refuse it; see [`UserTokenError`].
    pub fn verify(&self, token: &str) -> Result<User, UserTokenError> {
        let token = token.trim();
        if token.is_empty() {
            return Err(UserTokenError::Missing);
        }
        if token.len() > TOKEN_BYTES_MAX {
            return Err(UserTokenError::TooLarge);
        }
        let unwrapped = unwrapped(token);
        let token = unwrapped.as_deref().unwrap_or(token);
        let claims: UserClaims = jwt::read(&self.secrets, token).ok_or(UserTokenError::Invalid)?;
        let now_s = self.clock.now().0.div_euclid(1000);
        if claims.exp.saturating_add(LEEWAY_S) <= now_s {
            return Err(UserTokenError::Expired);
        }
        if claims.session_slug.is_some() || claims.nbf.is_some_and(|nbf| nbf > now_s.saturating_add(LEEWAY_S))
        {
            return Err(UserTokenError::Invalid);
        }
        let id = claims.user_id.filter(|id| !id.trim().is_empty()).or(claims.sub);
        let id = id.and_then(|id| id.parse().ok()).ok_or(UserTokenError::Invalid)?;
        let name = claims.name.filter(|name| !name.trim().is_empty());
        Ok(User { id, name, expires_at: Timestamp(claims.exp.saturating_mul(1000)) })
    }

    /// Signs `claims`.
    ///
    /// # Errors
    /// [`UserTokenError::Missing`] when there is no secret to sign with.
    pub fn issue(&self, claims: &UserClaims) -> Result<String, UserTokenError> {
        let secret = self.secrets.first().ok_or(UserTokenError::Missing)?;
        jwt::sign(secret, claims).ok_or(UserTokenError::Invalid)
    }
}

/// The token in a JSON object with `token`, or in a JSON string.
fn unwrapped(text: &str) -> Option<String> {
    if !text.starts_with(['{', '"']) {
        return None;
    }
    match serde_json::from_str(text).ok()? {
        Value::String(token) => Some(token),
        Value::Object(mut object) => match object.remove("token")? {
            Value::String(token) => Some(token),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW_S: i64 = 1_800_000_000;

    fn tokens(secrets: &[&str]) -> UserTokens {
        let secrets = secrets.iter().map(|secret| Secret::from(*secret)).collect();
        UserTokens::new(secrets, Clock::manual(Timestamp(NOW_S * 1000)))
    }

    fn claims() -> UserClaims {
        UserClaims {
            user_id: Some("u1".into()),
            sub: Some("u1".into()),
            wallet: Some("w".into()),
            name: Some("Ada".into()),
            exp: NOW_S + 60,
            ..UserClaims::default()
        }
    }

    #[test]
    fn a_token_names_its_user_plain_or_wrapped() {
        let tokens = tokens(&["s"]);
        let token = tokens.issue(&claims()).unwrap();
        let stored = format!(r#"{{"token":"{token}","expiresAt":1,"userId":"u2","wallet":"w"}}"#);
        for text in [token.clone(), format!(" {token}\n"), format!("\"{token}\""), stored] {
            let user = tokens.verify(&text).unwrap();
            assert_eq!((user.id().as_str(), user.expires_at().0), ("u1", (NOW_S + 60) * 1000), "{text}");
            assert_eq!(user.name(), Some("Ada"));
        }
        let only_sub =
            tokens.issue(&UserClaims { user_id: None, sub: Some("u3".into()), ..claims() }).unwrap();
        assert_eq!(tokens.verify(&only_sub).unwrap().id().as_str(), "u3");
        let blank = UserClaims { user_id: Some(" ".into()), name: Some(" ".into()), ..claims() };
        let user = tokens.verify(&tokens.issue(&blank).unwrap()).unwrap();
        assert_eq!((user.id().as_str(), user.name()), ("u1", None));
    }

    #[test]
    fn secrets_rotate_without_dropping_anyone() {
        let (old, both, new) = (tokens(&["old"]), tokens(&["new", "old"]), tokens(&["new"]));
        let (of_old, of_both) = (old.issue(&claims()).unwrap(), both.issue(&claims()).unwrap());
        assert!(
            both.verify(&of_old).is_ok() && both.verify(&of_both).is_ok() && new.verify(&of_both).is_ok()
        );
        assert_eq!(new.verify(&of_old), Err(UserTokenError::Invalid));
        assert_eq!(tokens(&[]).verify(&of_old), Err(UserTokenError::Invalid));
    }

    #[test]
    fn each_refusal_has_its_reason() {
        let tokens = tokens(&["s"]);
        let issue = |change: fn(&mut UserClaims)| {
            let mut claims = claims();
            change(&mut claims);
            tokens.issue(&claims).unwrap()
        };
        for (token, error) in [
            (String::new(), UserTokenError::Missing),
            (" ".to_owned(), UserTokenError::Missing),
            ("x".repeat(8192), UserTokenError::TooLarge),
            ("TEST".to_owned(), UserTokenError::Invalid),
            (r#"{"token":1}"#.to_owned(), UserTokenError::Invalid),
            (r#"{"token""#.to_owned(), UserTokenError::Invalid),
            (issue(|c| c.exp = NOW_S - 60), UserTokenError::Expired),
            (issue(|c| c.nbf = Some(NOW_S + 60)), UserTokenError::Invalid),
            (issue(|c| (c.sub, c.user_id) = (None, None)), UserTokenError::Invalid),
            (issue(|c| c.session_slug = Some("room".into())), UserTokenError::Invalid),
            // {"alg":"none"} and an empty signature.
            (
                "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ1MSIsImV4cCI6OTk5OTk5OTk5OX0.".to_owned(),
                UserTokenError::Invalid,
            ),
        ] {
            assert_eq!(tokens.verify(&token), Err(error), "{token}");
        }
        let token = tokens.issue(&claims()).unwrap();
        tokens.clock.advance(Duration::from_secs(66));
        assert_eq!(tokens.verify(&token), Err(UserTokenError::Expired));
    }

    #[test]
    fn weak_secrets_are_named_and_not_quoted() {
        let mut reader = settings::of([
            ("JWT_SECRET", "short"),
            ("NEXTAUTH_SECRET", "your-secret-key-here-please"),
            ("JWT_SECRETS", "a-secret-that-is-long-enough,another-secret-long-enough"),
        ]);
        assert_eq!(user_secrets(&mut reader).len(), 4);
        let problems = reader.finish(|| Some(())).unwrap_err().to_string();
        assert!(
            problems.contains("\n  JWT_SECRET: ") && problems.contains("\n  NEXTAUTH_SECRET: "),
            "{problems}"
        );
        assert!(!problems.contains("JWT_SECRETS:") && !problems.contains("short"), "{problems}");
    }
}
