use auth::{AuthError, SessionClaims, SessionTokens};
use model::{Clock, Samples};

/// Path of the WebSocket.
const PATH: &str = "/api/realtime/transcribe";

/// How long a token is good beyond the sound it is for.
const TOKEN_SPARE_S: u64 = 1200;

/// Where the system under load is.
pub struct Target {
    /// `ws://host:port` of the front door.
    pub url: String,
    /// Makes the tokens.
    pub tokens: SessionTokens,
    /// The process whose children are the services, when it runs on this machine.
    pub launcher: Option<u32>,
}

impl Target {
    /// The address, ending in its query, for `identity` to be in `session` for `length`. Holds a token: not to be shown.
    ///
    /// # Errors
    /// When no token can be made.
    pub fn address(&self, session: &str, identity: &str, length: Samples) -> Result<String, AuthError> {
        let now_s = Clock::system().now().0 / 1000;
        let span_s = length.duration().as_secs() + TOKEN_SPARE_S;
        let token = self.tokens.issue(&SessionClaims {
            // A user of its own: the streams of one are limited.
            sub: Some(format!("{identity}@{session}")),
            session_slug: session.to_owned(),
            identity: Some(identity.to_owned()),
            iat: Some(now_s),
            exp: now_s.saturating_add(i64::try_from(span_s).unwrap_or(i64::MAX)),
            ..SessionClaims::default()
        })?;
        // Neither a slug of ours nor a JWT holds characters that a query must escape.
        Ok(format!("{}{PATH}?sessionSlug={session}&token={token}", self.url.trim_end_matches('/')))
    }
}
