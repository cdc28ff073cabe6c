use settings::Secret;
use subtle::ConstantTimeEq;

/// The keys that trusted back ends present. Several may be good at a time, for rotation.
#[derive(Debug, Clone, Default)]
pub struct ServiceKeys(Vec<Secret>);

impl ServiceKeys {
    /// Accepts any of `keys`; none means that nobody is trusted.
    pub fn new(keys: Vec<Secret>) -> Self {
        Self(keys)
    }

    /// Whether there is any key to present.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `candidate` is one of the keys. Takes the same time wherever the first difference lies.
    pub fn accepts(&self, candidate: &str) -> bool {
        self.0
            .iter()
            .fold(false, |found, key| found | bool::from(key.expose().as_bytes().ct_eq(candidate.as_bytes())))
    }

    /// Whether an `Authorization` header value presents one of the keys as a bearer token (RFC 6750 section 2.1).
    pub fn accepts_header(&self, authorization: &str) -> bool {
        bearer(authorization).is_some_and(|candidate| self.accepts(candidate))
    }
}

/// The token of an `Authorization: Bearer …` value.
fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_listed_key_is_accepted_and_nothing_else() {
        let keys = ServiceKeys::new(vec!["old".into(), "new".into()]);
        assert!(keys.accepts_header("Bearer new") && keys.accepts_header("bearer old"));
        for refused in ["new", "Bearer ne", "Bearer newer", "Basic new", "Bearer ", ""] {
            assert!(!keys.accepts_header(refused), "{refused}");
        }
        assert!(!ServiceKeys::default().accepts(""));
    }
}
