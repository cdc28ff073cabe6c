use settings::Secret;
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// Begins every registered key, so that one that leaked into a repository or a log is recognised.
const PREFIX: &str = "parley_";

/// A registered key of an encoder: 122 random bits of the operating system. It is shown when it is made; what is kept
/// is [`stream_key_sha256`] of it.
#[derive(Debug, Clone)]
pub struct StreamKey(Secret);

impl StreamKey {
    /// A new one.
    pub fn generate() -> Self {
        Self(Secret::from(format!("{PREFIX}{}", Uuid::new_v4().simple())))
    }

    /// The key itself, for whoever will publish with it.
    pub fn reveal(&self) -> &str {
        self.0.expose()
    }

    /// By what it is kept and found.
    pub fn sha256(&self) -> [u8; 32] {
        stream_key_sha256(self.reveal())
    }
}

/// By what a key that somebody shows is found. Looking up the hash tells nothing about a key by the time it takes:
/// nobody can choose what the hash of a guess begins with.
pub fn stream_key_sha256(shown: &str) -> [u8; 32] {
    Sha256::digest(shown.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_and_are_found_by_what_is_shown() {
        let (one, other) = (StreamKey::generate(), StreamKey::generate());
        assert_ne!(one.reveal(), other.reveal());
        assert_eq!(one.sha256(), stream_key_sha256(one.reveal()));
        assert_eq!(one.reveal().len(), PREFIX.len() + 32);
        assert!(!format!("{one:?}").contains(one.reveal()), "nor in logs");
    }

    #[test]
    fn the_hash_is_sha_256() {
        // FIPS 180-4, the message "abc".
        assert_eq!(stream_key_sha256("abc")[..4], [0xba, 0x78, 0x16, 0xbf]);
    }
}
