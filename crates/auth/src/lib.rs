//! Turns a token into a [`Principal`], and back-end keys into trust.
//!
//! This changes when the claims of a replaced system or the ways to prove an identity do. It is the only crate
//! that reads a JWT; nothing beyond it sees claims. It knows nothing of requests, sockets or who may do what
//! beyond what a principal itself can answer.

mod claims;
mod inspect;
mod jwt;
mod principal;
mod service_key;
mod session_token;
mod stream_key;
mod user_token;

pub use claims::SessionClaims;
pub use inspect::{Unverified, is_signed_with, read_unverified};
pub use principal::{Principal, Scope};
pub use service_key::ServiceKeys;
pub use session_token::{AuthError, SessionTokens, TOKEN_BYTES_MAX};
pub use stream_key::{StreamKey, stream_key_sha256};
pub use user_token::{User, UserClaims, UserTokenError, UserTokens, user_secrets};
