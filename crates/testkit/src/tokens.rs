//! Tokens of sessions and of users, good and bad. A token with a wrong secret is one that was signed with another.

use std::time::Duration;

use auth::{SessionClaims, SessionTokens, UserClaims, UserTokens};
use model::{Clock, SessionSlug, Timestamp};
use settings::Secret;

/// How long a token of [`claims`] lasts.
pub const LIFETIME: Duration = Duration::from_secs(3600);

/// Claims of a participant that are good from now on for [`LIFETIME`]; change what should be wrong.
pub fn claims(session: &SessionSlug, identity: &str) -> SessionClaims {
    let now = Clock::system().now();
    SessionClaims {
        sub: Some(identity.to_owned()),
        session_slug: session.to_string(),
        identity: Some(identity.to_owned()),
        iat: Some(seconds(now)),
        exp: seconds(now.after(LIFETIME)),
        ..SessionClaims::default()
    }
}

/// The claims as a token.
///
/// # Panics
/// When they cannot be signed.
pub fn sign(secret: &Secret, claims: &SessionClaims) -> String {
    SessionTokens::new(vec![secret.clone()], Clock::system())
        .issue(claims)
        .expect("claims that can be signed")
}

/// A good token.
///
/// # Panics
/// As [`sign`].
pub fn good(secret: &Secret, session: &SessionSlug, identity: &str) -> String {
    sign(secret, &claims(session, identity))
}

/// A token that ended an hour ago.
///
/// # Panics
/// As [`sign`].
pub fn expired(secret: &Secret, session: &SessionSlug, identity: &str) -> String {
    let claims = claims(session, identity);
    let hour = 3600;
    sign(
        secret,
        &SessionClaims { exp: claims.exp - 2 * hour, iat: claims.iat.map(|iat| iat - 2 * hour), ..claims },
    )
}

/// A good token that ends so soon.
///
/// # Panics
/// As [`sign`].
pub fn lasting(secret: &Secret, session: &SessionSlug, identity: &str, lifetime: Duration) -> String {
    let exp = seconds(Clock::system().now().after(lifetime));
    sign(secret, &SessionClaims { exp, ..claims(session, identity) })
}

/// A good token that may only read.
///
/// # Panics
/// As [`sign`].
pub fn follow_only(secret: &Secret, session: &SessionSlug, identity: &str) -> String {
    sign(secret, &SessionClaims { scope: Some("follow".to_owned()), ..claims(session, identity) })
}

/// A token of a user that ends so soon; one that has ended, for a lifetime below zero.
///
/// # Panics
/// As [`sign`].
pub fn of_user(secret: &Secret, user: &str, lifetime_s: i64) -> String {
    let claims = UserClaims {
        user_id: Some(user.to_owned()),
        sub: Some(user.to_owned()),
        exp: seconds(Clock::system().now()) + lifetime_s,
        ..UserClaims::default()
    };
    UserTokens::new(vec![secret.clone()], Clock::system()).issue(&claims).expect("claims that can be signed")
}

fn seconds(moment: Timestamp) -> i64 {
    moment.0.div_euclid(1000)
}
