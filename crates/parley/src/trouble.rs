use std::{fmt, io, time::Duration};

use http::{StatusCode, header::RETRY_AFTER};
use tungstenite::{Error, error::ProtocolError, http::Response};

use crate::{message::Fault, token::SECRET};

/// What can be done about a connection that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Trying again would end the same way.
    Stop,
    /// Trying again may help, not earlier than after the wait that the server asked for.
    Retry(Option<Duration>),
    /// The token has run out: trying again helps with a new one.
    NewToken,
}

/// Why there is no connection (any more), in words for the person who waits for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What happened and what to do.
    pub words: String,
    /// What a program can do.
    pub remedy: Remedy,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl std::error::Error for Trouble {}

impl Trouble {
    /// Nothing but trying again.
    pub fn passing(words: impl Into<String>) -> Self {
        Self { words: words.into(), remedy: Remedy::Retry(None) }
    }

    /// Nothing can be done from here.
    pub fn lasting(words: impl Into<String>) -> Self {
        Self { words: words.into(), remedy: Remedy::Stop }
    }

    /// The server closed the connection with a code (RFC 6455 section 7.4 and the native protocol's own), perhaps
    /// after an `error` message.
    pub fn closed(code: u16, reason: &str, fault: Option<&Fault>, asked: Option<Duration>) -> Self {
        let asked = fault.and_then(Fault::retry_after).or(asked);
        let said =
            fault.map(|fault| fault.message.as_str()).filter(|text| !text.is_empty()).unwrap_or(reason);
        let (what, remedy) = match code {
            1000 => ("the server ended the connection", Remedy::Stop),
            1001 => ("the server is going away", Remedy::Retry(asked)),
            1002 => (
                "the server found the connection broken; a proxy in between may be to blame",
                Remedy::Retry(asked),
            ),
            1003 | 1007 => ("the server cannot read this sound", Remedy::Stop),
            1005 | 1006 => ("the connection was lost", Remedy::Retry(asked)),
            1008 | 4001 => ("the server refuses this token, or what was done with it", Remedy::Stop),
            1009 => ("a message was larger than the server takes", Remedy::Stop),
            1011 => ("the server met a fault", Remedy::Retry(asked)),
            1012 => ("the server restarts", Remedy::Retry(asked)),
            1013 => ("the server is busy", Remedy::Retry(asked)),
            4003 => ("the token has expired", Remedy::NewToken),
            4008 => ("the server heard nothing from here for too long", Remedy::Retry(asked)),
            4013 => ("captions were read too slowly", Remedy::Retry(asked)),
            _ => ("the server closed the connection", Remedy::Retry(asked)),
        };
        let mut words = format!("{what} (close code {code}");
        if !said.is_empty() {
            words.push_str(": ");
            words.extend(said.chars().filter(|c| !c.is_control()).take(300));
        }
        words.push(')');
        if matches!(code, 1008 | 4001) {
            words.push_str(&token_advice());
        }
        Self { words, remedy }
    }

    /// The connection ended without a word, or could not be kept.
    pub fn lost(error: &Error, fault: Option<&Fault>, asked: Option<Duration>) -> Self {
        match error {
            Error::Capacity(_) | Error::Protocol(_) | Error::Utf8(_)
                if !matches!(error, Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) =>
            {
                Self {
                    words: format!("the server sent what is no WebSocket message: {error}"),
                    remedy: Remedy::Retry(asked),
                }
            }
            _ => Self::closed(1006, "", fault, asked),
        }
    }

    /// The connection to `url` (shown, so without its query) could not be made.
    pub fn refused(url: &str, error: &Error) -> Self {
        match error {
            Error::Io(error) => Self::unreachable(url, error),
            Error::Http(response) => Self::answered(url, response),
            Error::Tls(error) => Self::untrusted(url, error),
            Error::Url(error) => Self::lasting(format!("{url} is no address of a server: {error}")),
            Error::Protocol(
                ProtocolError::HandshakeIncomplete | ProtocolError::ResetWithoutClosingHandshake,
            )
            | Error::ConnectionClosed => Self::passing(format!("{url} hung up before it answered")),
            _ => Self::lasting(format!("what answers at {url} speaks no WebSocket: {error}")),
        }
    }

    fn unreachable(url: &str, error: &io::Error) -> Self {
        // rustls reports a refused certificate as an I/O error with itself inside.
        if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
            return Self::untrusted(url, error);
        }
        match error.kind() {
            io::ErrorKind::ConnectionRefused => {
                Self::passing(format!("nothing listens at {url}: is the server running (`make run`)?"))
            }
            _ => Self::passing(format!("{url} cannot be reached: {error}")),
        }
    }

    fn untrusted(url: &str, error: &dyn std::error::Error) -> Self {
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        Self::lasting(format!(
            "no trusted TLS connection to {url}: {error}{cause}; for a certificate of your own set SSL_CERT_FILE to it, \
             or use the ws:// address"
        ))
    }

    fn answered(url: &str, response: &Response<Option<Vec<u8>>>) -> Self {
        let asked = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let asked = asked.map(Duration::from_secs);
        let status = response.status();
        match status {
            StatusCode::UNAUTHORIZED => {
                Self::lasting(format!("{url} refuses the token (HTTP 401){}", token_advice()))
            }
            StatusCode::FORBIDDEN => {
                Self::lasting(format!("{url} forbids this (HTTP 403): the token is good, but not for it"))
            }
            StatusCode::NOT_FOUND => Self::lasting(format!(
                "{url} is not there (HTTP 404): is this the address of a Parley server?"
            )),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Self {
                words: format!("{url} is busy or starting (HTTP {})", status.as_u16()),
                remedy: Remedy::Retry(asked),
            },
            status if status.is_server_error() => Self {
                words: format!("{url} does not work at the moment (HTTP {})", status.as_u16()),
                remedy: Remedy::Retry(asked),
            },
            status if status.is_redirection() => {
                let target =
                    response.headers().get(http::header::LOCATION).and_then(|value| value.to_str().ok());
                let target =
                    target.and_then(|text| text.split(['?', '#']).next()).unwrap_or("another address");
                Self::lasting(format!("{url} redirects to {target}: give that address with --url"))
            }
            status => Self::lasting(format!("{url} refuses the upgrade (HTTP {})", status.as_u16())),
        }
    }
}

fn token_advice() -> String {
    format!(
        "; make one with `parley token` where {SECRET} is the server's, for the same --session, \
         without --scope follow if sound is to be sent"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, headers: &[(&str, &str)]) -> Error {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        Error::Http(Box::new(response.body(None).unwrap()))
    }

    #[test]
    fn close_codes_become_words_and_a_remedy() {
        let busy = Fault { message: "all workers are taken".to_owned(), retry_after_ms: Some(3000) };
        let asked = Some(Duration::from_secs(3));
        for (code, fault, remedy, says) in [
            (1000, None, Remedy::Stop, "ended"),
            (1001, None, Remedy::Retry(None), "going away"),
            (1006, None, Remedy::Retry(None), "lost"),
            (1007, None, Remedy::Stop, "cannot read"),
            (1008, None, Remedy::Stop, "parley token"),
            (1013, Some(&busy), Remedy::Retry(asked), "all workers are taken"),
            (4003, None, Remedy::NewToken, "expired"),
            (4008, None, Remedy::Retry(None), "heard nothing"),
            (4013, None, Remedy::Retry(None), "too slowly"),
            (4999, None, Remedy::Retry(None), "4999: because"),
        ] {
            let trouble = Trouble::closed(code, "because", fault, None);
            assert_eq!(trouble.remedy, remedy, "{code}");
            assert!(trouble.words.contains(says), "{code}: {trouble}");
        }
    }

    #[test]
    fn refused_upgrades_become_words_and_a_remedy() {
        for (status, headers, remedy, says) in [
            (401, &[][..], Remedy::Stop, SECRET),
            (403, &[], Remedy::Stop, "forbids"),
            (404, &[], Remedy::Stop, "address of a Parley server"),
            (426, &[], Remedy::Stop, "HTTP 426"),
            (429, &[("retry-after", "7")], Remedy::Retry(Some(Duration::from_secs(7))), "busy"),
            (502, &[], Remedy::Retry(None), "at the moment"),
            (503, &[("retry-after", "soon")], Remedy::Retry(None), "busy"),
            (301, &[("location", "https://a/b?token=t")], Remedy::Stop, "https://a/b:"),
        ] {
            let trouble = Trouble::refused("ws://h", &response(status, headers));
            assert_eq!(trouble.remedy, remedy, "{status}");
            assert!(trouble.words.contains(says), "{status}: {trouble}");
        }
        let refused = Error::Io(io::ErrorKind::ConnectionRefused.into());
        assert!(Trouble::refused("ws://h", &refused).words.contains("make run"));
        let hung_up = Trouble::refused("ws://h", &Error::Protocol(ProtocolError::HandshakeIncomplete));
        assert_eq!(hung_up.remedy, Remedy::Retry(None));
        let other = Trouble::refused("ws://h", &Error::Protocol(ProtocolError::WrongHttpVersion));
        assert_eq!(other.remedy, Remedy::Stop);
    }

    #[test]
    fn what_a_server_says_cannot_move_the_cursor() {
        let trouble = Trouble::closed(1011, "\u{1b}[2Jbad\n", None, None);
        assert_eq!(trouble.words, "the server met a fault (close code 1011: [2Jbad)");
    }
}
