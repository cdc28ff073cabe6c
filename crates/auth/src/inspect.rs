use base64ct::{Base64UrlUnpadded, Encoding as _};
use serde_json::{Map, Value};

use crate::{TOKEN_BYTES_MAX, jwt};

/// What a token says of itself. Nothing is verified, so it proves nothing: it is for telling somebody what is wrong with
/// theirs.
#[derive(Debug, Clone, PartialEq)]
pub struct Unverified {
    /// `alg` of its header (RFC 7515 section 4.1.1).
    pub algorithm: String,
    /// Its claims.
    pub claims: Map<String, Value>,
}

/// Reads a token without asking who signed it; `None` when it is no JWT in compact form (RFC 7519 section 7.2), or larger
/// than [`TOKEN_BYTES_MAX`].
pub fn read_unverified(token: &str) -> Option<Unverified> {
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let mut parts = token.split('.');
    let (header, claims, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let algorithm = part(header)?.get("alg")?.as_str()?.to_owned();
    Some(Unverified { algorithm, claims: part(claims)? })
}

/// Whether `key` has signed the token, with HS256, HS384 or HS512 and whatever its claims say; a token without `exp` never
/// counts as signed.
pub fn is_signed_with(token: &str, key: &[u8]) -> bool {
    token.len() <= TOKEN_BYTES_MAX && jwt::claims::<Map<String, Value>>(key, token).is_ok()
}

fn part(text: &str) -> Option<Map<String, Value>> {
    let bytes = Base64UrlUnpadded::decode_vec(text).ok()?;
    serde_json::from_slice(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_whoever_signed_it() {
        // {"alg":"none"} and {"exp":1}
        let read = read_unverified("eyJhbGciOiJub25lIn0.eyJleHAiOjF9.").unwrap();
        assert_eq!((read.algorithm.as_str(), read.claims.get("exp")), ("none", Some(&Value::from(1))));
        for nonsense in
            ["", "a.b", "a.b.c", "eyJhbGciOiJub25lIn0.eyJleHAiOjF9", "eyJhbGciOiJub25lIn0.W10.", "....."]
        {
            assert_eq!(read_unverified(nonsense), None, "{nonsense}");
        }
        let large = format!("eyJhbGciOiJub25lIn0.eyJleHAiOjF9.{}", "a".repeat(TOKEN_BYTES_MAX));
        assert_eq!(read_unverified(&large), None);
    }
}
