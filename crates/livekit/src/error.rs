use model::FaultKind;
use reqwest::StatusCode;
use serde::Deserialize;

/// What LiveKit did not do. Texts hold no URL and no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LiveKitError {
    /// This process cannot speak HTTP.
    #[error("no HTTP client for LiveKit: {0}")]
    Client(String),
    /// It does not know the key, or the secret is not that of the key.
    #[error("LiveKit refuses LIVEKIT_API_KEY with LIVEKIT_API_SECRET")]
    Unauthorized,
    /// As many egresses run as it allows, or it was asked too often.
    #[error("LiveKit has reached a limit: {0}")]
    Limit(String),
    /// This server cannot do it: it is too old, or it has no egress.
    #[error("LiveKit cannot do this: {0}")]
    Unsupported(String),
    /// There is no such room, track or egress.
    #[error("LiveKit knows no such thing: {0}")]
    NotFound(String),
    /// It will not do this, however often it is asked.
    #[error("LiveKit refuses: {0}")]
    Refused(String),
    /// It does not answer, or has a fault of its own; later may do. What was asked for may have been done.
    #[error("LiveKit is not available: {0}")]
    Unavailable(String),
}

/// Twirp's own errors (twirp v7 specification, "Errors").
#[derive(Debug, Deserialize)]
struct TwirpError {
    code: String,
    #[serde(default)]
    msg: String,
}

/// What servers and proxies of LiveKit write when they refuse a token, in whatever form and with whatever status.
const UNAUTHORIZED: [&str; 3] = ["unauthorized", "invalid token", "go-jose/go-jose"];

/// What a server without an egress service writes, as an internal error.
const NO_EGRESS: &str = "egress not connected";

/// What LiveKit Cloud writes above its number of concurrent egresses.
const EGRESS_LIMIT: &str = "egress limit";

/// How much of a server's words is kept, in characters.
const WORDS_MAX: usize = 160;

/// A word above this is a token or an address more likely than a word.
const WORD_MAX: usize = 40;

impl LiveKitError {
    /// Who must act on it.
    pub fn fault(&self) -> FaultKind {
        match self {
            Self::Client(_) => FaultKind::Defect,
            Self::Limit(_) => FaultKind::Overloaded,
            Self::NotFound(_) => FaultKind::NotFound,
            Self::Refused(_) => FaultKind::Caller,
            Self::Unauthorized | Self::Unsupported(_) | Self::Unavailable(_) => FaultKind::Dependency,
        }
    }

    /// From an answer that is no success.
    pub(crate) fn from_answer(status: StatusCode, body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        let lower = text.to_lowercase();
        let (code, words) = match serde_json::from_slice::<TwirpError>(body) {
            Ok(error) => {
                let words = plain(&error.msg);
                (error.code, words)
            }
            // Not from Twirp but from what stands before it.
            Err(_) => (String::new(), format!("HTTP {}", status.as_u16())),
        };
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
            || matches!(code.as_str(), "unauthenticated" | "permission_denied")
            || UNAUTHORIZED.iter().any(|mark| lower.contains(mark))
        {
            return Self::Unauthorized;
        }
        if lower.contains(EGRESS_LIMIT) {
            return Self::Limit(words);
        }
        if lower.contains(NO_EGRESS) {
            return Self::Unsupported(words);
        }
        match code.as_str() {
            "resource_exhausted" => Self::Limit(words),
            "unimplemented" | "bad_route" => Self::Unsupported(words),
            "not_found" => Self::NotFound(words),
            "invalid_argument" | "malformed" | "already_exists" | "failed_precondition" | "out_of_range" => {
                Self::Refused(words)
            }
            "canceled" | "unknown" | "deadline_exceeded" | "aborted" | "internal" | "unavailable"
            | "dataloss" => Self::Unavailable(words),
            _ => match status {
                StatusCode::TOO_MANY_REQUESTS => Self::Limit(words),
                StatusCode::NOT_IMPLEMENTED => Self::Unsupported(words),
                // Where there is no Twirp there is no LiveKit.
                _ => Self::Unavailable(words),
            },
        }
    }
}

/// The words of a server without what may be a secret: URLs, tokens, control characters.
pub(crate) fn plain(text: &str) -> String {
    let words = text.split(|letter: char| letter.is_whitespace() || letter.is_control());
    let safe = |word: &str| !word.contains("://") && word.chars().count() <= WORD_MAX;
    let kept: Vec<_> =
        words.filter(|word| !word.is_empty()).map(|word| if safe(word) { word } else { "…" }).collect();
    kept.join(" ").chars().take(WORDS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> LiveKitError {
        LiveKitError::from_answer(StatusCode::from_u16(status).unwrap(), body.as_bytes())
    }

    #[test]
    fn wrong_keys_are_recognised_in_every_form_that_servers_use() {
        let token = "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJrZXkifQ.c2lnbmF0dXJl";
        let go = format!("invalid token: {token}, error: go-jose/go-jose: error in cryptographic primitive");
        let cases = [
            (401, go.as_str()),
            (401, ""),
            (403, "<html>"),
            (401, r#"{"code":"unauthenticated","msg":"permissions denied"}"#),
            (403, r#"{"code":"permission_denied","msg":"requires record"}"#),
            (500, r#"{"code":"internal","msg":"go-jose/go-jose: error in cryptographic primitive"}"#),
            (400, "Unauthorized"),
        ];
        for (status, body) in cases {
            let error = answer(status, body);
            assert_eq!(error, LiveKitError::Unauthorized, "{status} {body}");
            assert!(!error.to_string().contains("eyJ"));
        }
    }

    #[test]
    fn each_code_has_its_kind() {
        use LiveKitError::{Limit, NotFound, Refused, Unavailable, Unsupported};
        let words = || "so".to_owned();
        let cases = [
            (429, r#"{"code":"resource_exhausted","msg":"so"}"#, Limit(words())),
            (501, r#"{"code":"unimplemented","msg":"so"}"#, Unsupported(words())),
            (404, r#"{"code":"bad_route","msg":"so"}"#, Unsupported(words())),
            (404, r#"{"code":"not_found","msg":"so"}"#, NotFound(words())),
            (412, r#"{"code":"failed_precondition","msg":"so","meta":{}}"#, Refused(words())),
            (503, r#"{"code":"unavailable","msg":"so"}"#, Unavailable(words())),
            (500, r#"{"code":"internal"}"#, Unavailable(String::new())),
            (429, "slow down", Limit("HTTP 429".to_owned())),
            (502, "<html>", Unavailable("HTTP 502".to_owned())),
            (404, "404 page not found", Unavailable("HTTP 404".to_owned())),
            (302, "", Unavailable("HTTP 302".to_owned())),
        ];
        for (status, body, expected) in cases {
            assert_eq!(answer(status, body), expected, "{status} {body}");
        }
        assert!(matches!(
            answer(400, r#"{"code":"invalid_argument","msg":"Track egress limit exceeded"}"#),
            Limit(_)
        ));
        assert!(matches!(
            answer(500, r#"{"code":"internal","msg":"egress not connected (redis required)"}"#),
            Unsupported(_)
        ));
    }

    #[test]
    fn a_server_may_say_why_but_no_secret() {
        let url = "wss://edge/egress?sig=abc";
        let long = "x".repeat(WORD_MAX + 1);
        let said = plain(&format!("could not dial {url}\n({long}): \u{7}refused {}", "word ".repeat(100)));
        assert!(said.starts_with("could not dial … … refused word"), "{said}");
        assert!(said.chars().count() <= WORDS_MAX);
    }
}
