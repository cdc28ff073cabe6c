use model::FaultKind;

use super::wire::says_quota;

/// Why Gladia does not hear a stream, or not any more. Says nothing of keys, addresses or words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GladiaTrouble {
    /// It does not know the key.
    #[error("Gladia refuses the API key")]
    Unauthorized,
    /// The account may not hear more: its hours, its money, or its sessions at a time are used up.
    #[error("the quota of the Gladia account is used up")]
    Quota,
    /// It does not want what we sent.
    #[error("Gladia refuses the session ({status})")]
    Refused {
        /// HTTP status, or close code of the socket.
        status: u16,
    },
    /// It cannot be reached, or does not work.
    #[error("Gladia cannot be reached")]
    Unavailable,
}

impl GladiaTrouble {
    /// Every trouble's label, for metrics that start at zero.
    pub const LABELS: [&'static str; 4] = ["unauthorized", "quota", "refused", "unavailable"];

    /// Metric label, and what `stt_status` says.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unauthorized => "unauthorized",
            Self::Quota => "quota",
            Self::Refused { .. } => "refused",
            Self::Unavailable => "unavailable",
        }
    }

    /// Who must act.
    pub const fn fault(self) -> FaultKind {
        match self {
            Self::Quota => FaultKind::Overloaded,
            Self::Unauthorized | Self::Unavailable => FaultKind::Dependency,
            Self::Refused { .. } => FaultKind::Defect,
        }
    }

    /// What an HTTP status that is no success means, with what the answer said.
    pub(crate) fn of_status(status: u16, said: &str) -> Self {
        match status {
            402 | 429 => Self::Quota,
            400..=499 if says_quota(said) => Self::Quota,
            401 | 403 => Self::Unauthorized,
            400..=499 => Self::Refused { status },
            _ => Self::Unavailable,
        }
    }

    /// What the close of a socket means before we asked for it; `None` when the same URL should be connected again.
    pub(crate) fn of_close(code: Option<u16>, said: &str) -> Option<Self> {
        match code {
            Some(1000 | 1001) => Some(Self::Unavailable),
            Some(4402 | 4429) => Some(Self::Quota),
            Some(4400..=4499) if says_quota(said) => Some(Self::Quota),
            Some(4401 | 4403) => Some(Self::Unauthorized),
            Some(status @ 4400..=4499) => Some(Self::Refused { status }),
            _ => None,
        }
    }
}

/// Whether the same request may succeed soon.
pub(crate) fn worth_retrying(status: u16) -> bool {
    matches!(status, 408 | 413 | 429 | 500..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_and_codes_mean_what_gladia_says() {
        use GladiaTrouble::{Quota, Refused, Unauthorized, Unavailable};
        let cases = [
            (401, "", Unauthorized),
            (403, "", Unauthorized),
            (403, "Free quota exceeded", Quota),
            (402, "", Quota),
            (429, "", Quota),
            (400, "bad language", Refused { status: 400 }),
            (413, "", Refused { status: 413 }),
            (503, "", Unavailable),
            (302, "", Unavailable),
        ];
        for (status, said, expected) in cases {
            assert_eq!(GladiaTrouble::of_status(status, said), expected, "{status}");
            assert!(GladiaTrouble::LABELS.contains(&expected.label()));
        }
        let cases = [
            (None, None),
            (Some(1000), Some(Unavailable)),
            (Some(1001), Some(Unavailable)),
            (Some(1002), None),
            (Some(1011), None),
            (Some(4399), None),
            (Some(4400), Some(Refused { status: 4400 })),
            (Some(4401), Some(Unauthorized)),
            (Some(4403), Some(Unauthorized)),
            (Some(4402), Some(Quota)),
            (Some(4429), Some(Quota)),
            (Some(4499), Some(Refused { status: 4499 })),
            (Some(4500), None),
        ];
        for (code, expected) in cases {
            assert_eq!(GladiaTrouble::of_close(code, ""), expected, "{code:?}");
        }
        assert_eq!(GladiaTrouble::of_close(Some(4400), "no credits left"), Some(Quota));
        assert!([408, 413, 429, 500, 503].into_iter().all(worth_retrying));
        assert!(![400, 401, 402, 403, 404].into_iter().any(worth_retrying));
    }
}
