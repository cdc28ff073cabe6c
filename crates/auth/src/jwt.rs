use std::collections::HashSet;

use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header, Validation,
    errors::{Error, ErrorKind},
};
use serde::{Serialize, de::DeserializeOwned};
use settings::Secret;

/// How far the clocks of issuer and server may differ, in seconds.
pub(crate) const LEEWAY_S: i64 = 5;

/// The claims of a token that one of `secrets` has signed; `exp` must be among them. Whether it is over is for the
/// caller to say, who has the clock.
pub(crate) fn read<C: DeserializeOwned + Clone>(secrets: &[Secret], token: &str) -> Option<C> {
    for secret in secrets {
        match claims(secret.expose().as_bytes(), token) {
            Ok(claims) => return Some(claims),
            Err(error) if matches!(error.kind(), ErrorKind::InvalidSignature) => {}
            Err(_) => return None,
        }
    }
    None
}

/// The claims of a token that `key` has signed.
pub(crate) fn claims<C: DeserializeOwned + Clone>(key: &[u8], token: &str) -> Result<C, Error> {
    let mut validation = Validation::new(Algorithm::HS256);
    validation.algorithms = vec![Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims = HashSet::from(["exp".to_owned()]);
    let decoded = jsonwebtoken::decode::<C>(token, &DecodingKey::from_secret(key), &validation)?;
    Ok(decoded.claims)
}

/// The claims as a token of HS256.
pub(crate) fn sign<C: Serialize>(secret: &Secret, claims: &C) -> Option<String> {
    let key = EncodingKey::from_secret(secret.expose().as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &key).ok()
}
