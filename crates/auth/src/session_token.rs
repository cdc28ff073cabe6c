use model::{Clock, FaultKind, Identity, SessionSlug, Timestamp, UserId};
use settings::Secret;

use crate::{
    Principal, Scope, SessionClaims,
    jwt::{self, LEEWAY_S},
};

/// Longest token that is looked at, in bytes. Real ones have about 400; URLs and headers end soon after 8 KiB.
pub const TOKEN_BYTES_MAX: usize = 4096;

/// Why a token does not verify. The texts are for clients: they say what to do and quote nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// There is none.
    #[error("missing transcription token: connect with ?token=")]
    Missing,
    /// It is larger than [`TOKEN_BYTES_MAX`].
    #[error("the transcription token is larger than {TOKEN_BYTES_MAX} bytes")]
    TooLarge,
    /// It is no JWT, is not signed by a known secret, uses another algorithm or lacks a claim.
    #[error(
        "invalid transcription token: check that its issuer signs with this server's TRANSCRIPTION_JWT_SECRET"
    )]
    Invalid,
    /// Its time is over.
    #[error("the transcription token has expired: get a new one")]
    Expired,
    /// It is good, for another session.
    #[error("the transcription token is for another session")]
    OtherSession,
}

impl AuthError {
    /// Who must act.
    pub fn fault(self) -> FaultKind {
        match self {
            Self::Expired => FaultKind::Expired,
            Self::OtherSession => FaultKind::Forbidden,
            Self::Missing | Self::TooLarge | Self::Invalid => FaultKind::Unauthenticated,
        }
    }
}

/// Verifies and issues the tokens of sessions: JWT (RFC 7519), HMAC with SHA-2, of `TRANSCRIPTION_JWT_SECRET`.
#[derive(Clone)]
pub struct SessionTokens {
    secrets: Vec<Secret>,
    clock: Clock,
}

impl SessionTokens {
    /// Accepts tokens signed with any of `secrets`; issues with the first.
    pub fn new(secrets: Vec<Secret>, clock: Clock) -> Self {
        Self { secrets, clock }
    }

    /// Who `token` is.
    ///
    /// # Errors
    /// Each reason to refuse it; see [`AuthError`].
    pub fn verify(&self, token: &str) -> Result<Principal, AuthError> {
        if token.is_empty() {
            return Err(AuthError::Missing);
        }
        if token.len() > TOKEN_BYTES_MAX {
            return Err(AuthError::TooLarge);
        }
        let claims: SessionClaims = jwt::read(&self.secrets, token).ok_or(AuthError::Invalid)?;
        let expires_at = Timestamp(claims.exp.saturating_mul(1000));
        if claims.exp.saturating_add(LEEWAY_S).saturating_mul(1000) <= self.clock.now().0 {
            return Err(AuthError::Expired);
        }
        principal(claims, expires_at).ok_or(AuthError::Invalid)
    }

    /// As [`SessionTokens::verify`], for a request that also names the session.
    ///
    /// # Errors
    /// As there, and [`AuthError::OtherSession`].
    pub fn verify_for(&self, token: &str, session: &SessionSlug) -> Result<Principal, AuthError> {
        let principal = self.verify(token)?;
        if principal.may_follow(session) { Ok(principal) } else { Err(AuthError::OtherSession) }
    }

    /// Signs `claims`.
    ///
    /// # Errors
    /// [`AuthError::Missing`] when there is no secret to sign with.
    pub fn issue(&self, claims: &SessionClaims) -> Result<String, AuthError> {
        let secret = self.secrets.first().ok_or(AuthError::Missing)?;
        jwt::sign(secret, claims).ok_or(AuthError::Invalid)
    }
}

fn principal(claims: SessionClaims, expires_at: Timestamp) -> Option<Principal> {
    let identity: Identity = claims.identity.or_else(|| claims.sub.clone())?.parse().ok()?;
    let user: UserId = claims.sub.unwrap_or_else(|| identity.to_string()).parse().ok()?;
    let scope = match claims.scope.as_deref() {
        None | Some("all") => Scope::All,
        Some("follow") => Scope::Follow,
        Some("egress") => Scope::Egress,
        Some(_) => return None,
    };
    Some(Principal {
        session: claims.session_slug.parse().ok()?,
        session_id: claims.session_id,
        identity,
        name: claims.name.filter(|name| !name.trim().is_empty()),
        user,
        scope,
        track: claims.track,
        expires_at,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW_S: i64 = 1_800_000_000;

    fn tokens(secrets: &[&str]) -> SessionTokens {
        let secrets = secrets.iter().map(|secret| Secret::from(*secret)).collect();
        SessionTokens::new(secrets, Clock::manual(Timestamp(NOW_S * 1000)))
    }

    fn claims() -> SessionClaims {
        SessionClaims {
            sub: Some("u1".into()),
            session_slug: "room".into(),
            identity: Some("alice".into()),
            exp: NOW_S + 60,
            ..SessionClaims::default()
        }
    }

    #[test]
    fn a_good_token_becomes_a_principal() {
        let tokens = tokens(&["s"]);
        let principal = tokens.verify(&tokens.issue(&claims()).unwrap()).unwrap();
        assert_eq!(principal.identity().as_str(), "alice");
        assert_eq!(principal.user().as_str(), "u1");
        let room = "room".parse().unwrap();
        assert!(principal.may_speak(&room) && principal.may_follow(&room));
        assert!(!principal.may_follow(&"other".parse().unwrap()));
    }

    #[test]
    fn every_listed_secret_verifies_and_the_first_signs() {
        let old = tokens(&["old"]).issue(&claims()).unwrap();
        assert!(tokens(&["new", "old"]).verify(&old).is_ok());
        assert_eq!(tokens(&["new"]).verify(&old), Err(AuthError::Invalid));
        let fresh = tokens(&["new", "old"]).issue(&claims()).unwrap();
        assert!(tokens(&["new"]).verify(&fresh).is_ok());
    }

    #[test]
    fn each_refusal_has_its_reason() {
        let tokens = tokens(&["s"]);
        let issue = |change: fn(&mut SessionClaims)| {
            let mut claims = claims();
            change(&mut claims);
            tokens.issue(&claims).unwrap()
        };
        assert_eq!(tokens.verify(""), Err(AuthError::Missing));
        assert_eq!(tokens.verify(&"x".repeat(8192)), Err(AuthError::TooLarge));
        assert_eq!(tokens.verify("TEST"), Err(AuthError::Invalid));
        assert_eq!(tokens.verify(&issue(|c| c.exp = NOW_S - 60)), Err(AuthError::Expired));
        assert_eq!(tokens.verify(&issue(|c| c.session_slug = String::new())), Err(AuthError::Invalid));
        assert_eq!(tokens.verify(&issue(|c| c.scope = Some("root".into()))), Err(AuthError::Invalid));
        assert_eq!(tokens.verify(&issue(|c| (c.sub, c.identity) = (None, None))), Err(AuthError::Invalid));
        let other = "other".parse().unwrap();
        assert_eq!(tokens.verify_for(&issue(|_| ()), &other), Err(AuthError::OtherSession));
        // {"alg":"none"} and an empty signature.
        assert_eq!(
            tokens.verify("eyJhbGciOiJub25lIn0.eyJzZXNzaW9uU2x1ZyI6InJvb20ifQ."),
            Err(AuthError::Invalid)
        );
    }

    #[test]
    fn a_token_ends_when_its_time_is_over() {
        let tokens = tokens(&["s"]);
        let token = tokens.issue(&claims()).unwrap();
        tokens.clock.advance(Duration::from_secs(59));
        assert!(tokens.verify(&token).is_ok());
        tokens.clock.advance(Duration::from_secs(7));
        assert_eq!(tokens.verify(&token), Err(AuthError::Expired));
    }

    #[test]
    fn an_egress_token_only_sends_its_track() {
        let tokens = tokens(&["s"]);
        let egress = SessionClaims {
            session_id: Some("id-1".into()),
            scope: Some("egress".into()),
            track: Some("TR_1".into()),
            ..claims()
        };
        let principal = tokens.verify(&tokens.issue(&egress).unwrap()).unwrap();
        let room = "room".parse().unwrap();
        assert!(principal.may_send("id-1", "TR_1"));
        assert!(!principal.may_send("id-2", "TR_1") && !principal.may_send("id-1", "TR_2"));
        assert!(!principal.may_follow(&room) && !principal.may_speak(&room));
        let all = tokens.verify(&tokens.issue(&SessionClaims { scope: None, ..egress }).unwrap()).unwrap();
        assert!(!all.may_send("id-1", "TR_1"), "what participants have does not do");
    }

    #[test]
    fn a_follow_token_only_reads() {
        let tokens = tokens(&["s"]);
        let token = tokens.issue(&SessionClaims { scope: Some("follow".into()), ..claims() }).unwrap();
        let principal = tokens.verify(&token).unwrap();
        let room = "room".parse().unwrap();
        assert!(principal.may_follow(&room) && !principal.may_speak(&room));
    }
}
