use std::fmt;

use serde::{Deserialize, Serialize};

/// Who must act on a failure. Every public error maps to exactly one, and HTTP status, gRPC code, WebSocket
/// close code and metric label all follow from it, so they cannot disagree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The caller sent something that cannot be served; sending it again will not help.
    Caller,
    /// Data that claims an encoding and does not hold it.
    BadData,
    /// Something larger than its named limit.
    TooLarge,
    /// No token, or one that does not verify.
    Unauthenticated,
    /// A token that was good and has run out; a new one will do.
    Expired,
    /// A valid principal that may not do this.
    Forbidden,
    /// What was asked for does not exist.
    NotFound,
    /// At odds with what was said before, such as another request under the same idempotency key.
    Conflict,
    /// Full, or asked too often; the same request may succeed later.
    Overloaded,
    /// As much as this user or session may use at a time; the same request helps only once something else has ended.
    LimitReached,
    /// Something we depend on (Postgres, Redis, a worker, a provider) does not answer.
    Dependency,
    /// A mistake of ours.
    Defect,
}

impl FaultKind {
    /// Every kind, for metrics that start at zero.
    pub const ALL: [Self; 12] = [
        Self::Caller,
        Self::BadData,
        Self::TooLarge,
        Self::Unauthenticated,
        Self::Expired,
        Self::Forbidden,
        Self::NotFound,
        Self::Conflict,
        Self::Overloaded,
        Self::LimitReached,
        Self::Dependency,
        Self::Defect,
    ];

    /// HTTP status (RFC 9110 section 15).
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Caller | Self::BadData => 400,
            Self::TooLarge => 413,
            Self::Unauthenticated | Self::Expired => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::Overloaded | Self::LimitReached => 429,
            Self::Dependency => 503,
            Self::Defect => 500,
        }
    }

    /// gRPC status code number.
    pub const fn grpc_code(self) -> i32 {
        match self {
            Self::Caller | Self::BadData | Self::TooLarge => 3,
            Self::Unauthenticated | Self::Expired => 16,
            Self::Forbidden => 7,
            Self::NotFound => 5,
            Self::Conflict => 6,
            Self::Overloaded => 8,
            Self::LimitReached => 9,
            Self::Dependency => 14,
            Self::Defect => 13,
        }
    }

    /// The kind that a peer meant by a gRPC status code number.
    pub const fn from_grpc_code(code: i32) -> Self {
        match code {
            3 | 11 => Self::Caller,
            9 => Self::LimitReached,
            16 => Self::Unauthenticated,
            7 => Self::Forbidden,
            5 => Self::NotFound,
            6 => Self::Conflict,
            8 => Self::Overloaded,
            1 | 4 | 10 | 14 => Self::Dependency,
            _ => Self::Defect,
        }
    }

    /// WebSocket close code (RFC 6455 section 7.4; 4000 to 4999 are ours).
    pub const fn close_code(self) -> u16 {
        match self {
            Self::Caller
            | Self::Unauthenticated
            | Self::Forbidden
            | Self::NotFound
            | Self::Conflict
            | Self::LimitReached => 1008,
            Self::BadData => 1007,
            Self::TooLarge => 1009,
            Self::Expired => 4003,
            Self::Overloaded | Self::Dependency => 1013,
            Self::Defect => 1011,
        }
    }

    /// Metric label and machine-readable `code` of error messages.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::BadData => "bad_data",
            Self::TooLarge => "too_large",
            Self::Unauthenticated => "unauthenticated",
            Self::Expired => "expired",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Overloaded => "overloaded",
            Self::LimitReached => "limit_reached",
            Self::Dependency => "dependency",
            Self::Defect => "defect",
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_legal_close_code_and_its_own_label() {
        let mut labels = std::collections::HashSet::new();
        for kind in FaultKind::ALL {
            let code = kind.close_code();
            assert!(matches!(code, 1007..=1009 | 1011 | 1013 | 4000..=4999), "{kind}: {code}");
            assert!(labels.insert(kind.label()));
        }
    }
}
