//! Which request is answered, for whoever reads the logs of several services.

use std::{fmt, future::Future, str::FromStr, sync::Arc};

use tracing::Instrument as _;

/// Longest id that is kept, in bytes.
const BYTES_MAX: usize = 64;

tokio::task_local! {
    static PRESENT: RequestId;
}

/// What a request is called in every log line about it (`X-Request-Id`): 1 to 64 letters, digits, dots, hyphens and
/// underscores, as nginx takes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(Arc<str>);

/// It is empty, too long, or has other characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestIdInvalid;

impl FromStr for RequestId {
    type Err = RequestIdInvalid;

    fn from_str(text: &str) -> Result<Self, RequestIdInvalid> {
        let is_harmless = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if (1..=BYTES_MAX).contains(&text.len()) && text.bytes().all(is_harmless) {
            Ok(Self(text.into()))
        } else {
            Err(RequestIdInvalid)
        }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl RequestId {
    /// Of a request that came without one, or with one that cannot be kept.
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4().simple().to_string().into())
    }

    /// What the present task answers, if it is a request.
    pub fn current() -> Option<Self> {
        PRESENT.try_with(Clone::clone).ok()
    }

    /// Does some work for the request: its log lines have the id, and what is sent to our services carries it.
    pub fn within<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        PRESENT.scope(self.clone(), work).instrument(tracing::info_span!("request", request_id = %self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_harmless_ids_are_kept() {
        for good in ["a", "0f3c.Z_9-x", &"a".repeat(BYTES_MAX), &RequestId::random().to_string()] {
            assert_eq!(good.parse::<RequestId>().map(|id| id.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "a b", "a\n", "é", "a\"", &"a".repeat(BYTES_MAX + 1)] {
            assert_eq!(bad.parse::<RequestId>(), Err(RequestIdInvalid), "{bad}");
        }
    }

    #[tokio::test]
    async fn work_for_a_request_knows_its_id() {
        let id = RequestId::random();
        assert_eq!(id.within(async { RequestId::current() }).await, Some(id));
        assert_eq!(RequestId::current(), None);
    }
}
