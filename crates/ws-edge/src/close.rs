//! Every way in which the edge closes a socket: the codes (RFC 6455 section 7.4; 4000 to 4999 are ours) and their
//! reasons, in one place. A code that a peer may not send (1005, 1006, 1015, below 1000) has no variant here.

use auth::AuthError;
use model::FaultKind;
use tungstenite::{
    Utf8Bytes,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

/// Why the edge closes a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Close {
    /// The process drains; the last message says when to come back.
    GoingAway,
    /// The peer broke the WebSocket protocol.
    Protocol,
    /// Data that is not what it claims to be.
    BadData,
    /// There was no token.
    MissingToken,
    /// The token did not verify, or was over when the socket was opened.
    InvalidToken,
    /// There was no good token of a user: what system C says.
    Unauthorized,
    /// Something that this peer may not do, or did too often.
    Policy,
    /// Another socket of this participant has resumed the stream.
    Elsewhere,
    /// A message above its limit.
    TooBig,
    /// A mistake of ours.
    Fault,
    /// No capacity, or something that we need is away; the last message says when to come back.
    Busy,
    /// The token ended while the socket was open.
    Expired,
    /// The peer did not answer pings.
    Heartbeat,
    /// The peer did not read what it follows.
    SlowFollower,
    /// An egress came by a path without session and track: what system A says.
    EgressPath,
    /// An egress sent nothing but frames that are no sound: what system A says.
    TooManyErrors,
    /// The client wanted no more, and has all.
    Finished,
    /// Neither sound nor a sign of life came for too long: what Deepgram says.
    NoAudio,
    /// The sound is not what it claims to be: what Deepgram says.
    NotAudio,
    /// A client of system D did not say what it wants.
    NoInit,
}

impl Close {
    #[cfg(test)]
    const ALL: [Self; 20] = [
        Self::GoingAway,
        Self::Protocol,
        Self::BadData,
        Self::MissingToken,
        Self::InvalidToken,
        Self::Unauthorized,
        Self::Policy,
        Self::Elsewhere,
        Self::TooBig,
        Self::Fault,
        Self::Busy,
        Self::Expired,
        Self::Heartbeat,
        Self::SlowFollower,
        Self::EgressPath,
        Self::TooManyErrors,
        Self::Finished,
        Self::NoAudio,
        Self::NotAudio,
        Self::NoInit,
    ];

    /// The code on the wire.
    pub(crate) const fn code(self) -> u16 {
        match self {
            Self::TooManyErrors | Self::Finished => 1000,
            Self::GoingAway => 1001,
            Self::Protocol => 1002,
            Self::BadData => 1007,
            Self::MissingToken
            | Self::InvalidToken
            | Self::Unauthorized
            | Self::Policy
            | Self::Elsewhere
            | Self::NotAudio
            | Self::NoInit => 1008,
            Self::TooBig => 1009,
            Self::Fault | Self::NoAudio => 1011,
            Self::Busy => 1013,
            Self::EgressPath => 4001,
            Self::Expired => 4003,
            Self::Heartbeat => 4008,
            Self::SlowFollower => 4013,
        }
    }

    /// The reason on the wire, at most 123 bytes.
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::GoingAway => "Server is restarting, reconnect",
            Self::Protocol => "WebSocket protocol error",
            Self::BadData => "Data could not be decoded",
            Self::MissingToken => "Missing transcription token",
            Self::InvalidToken => "Invalid or expired transcription token",
            Self::Unauthorized => "Unauthorized",
            Self::Policy => "Not allowed",
            Self::Elsewhere => "Stream continued elsewhere",
            Self::TooBig => "Message too big",
            Self::Fault => "Internal error",
            Self::Busy => "Busy, try again later",
            Self::Expired => "Token expired",
            Self::Heartbeat => "Heartbeat timeout",
            Self::SlowFollower => "Too slow to follow",
            Self::EgressPath => "Invalid URL format. Expected: /egress/audio/{sessionId}/{trackId}",
            Self::TooManyErrors => "Too many errors",
            Self::Finished => "Finished",
            Self::NoAudio => "NET-0001: neither audio nor KeepAlive came for 10 s",
            Self::NotAudio => "DATA-0000: the audio could not be decoded",
            Self::NoInit => "init did not come within 30 s",
        }
    }

    /// Whether the same client may come back by itself, as it is.
    pub(crate) const fn invites_back(self) -> bool {
        matches!(self, Self::GoingAway | Self::Fault | Self::Busy | Self::Heartbeat | Self::SlowFollower)
    }

    /// How an open socket ends after a fault.
    pub(crate) const fn after(fault: FaultKind) -> Self {
        match fault {
            FaultKind::Caller
            | FaultKind::Unauthenticated
            | FaultKind::Forbidden
            | FaultKind::NotFound
            | FaultKind::Conflict
            | FaultKind::LimitReached => Self::Policy,
            FaultKind::BadData => Self::BadData,
            FaultKind::TooLarge => Self::TooBig,
            FaultKind::Expired => Self::Expired,
            FaultKind::Overloaded | FaultKind::Dependency => Self::Busy,
            FaultKind::Defect => Self::Fault,
        }
    }

    /// How a socket ends that was accepted only to say that its token is no good. Always 1008, also for a token
    /// that has expired: clients of system A take that code for "do not try again with this token".
    pub(crate) const fn refusing(error: AuthError) -> Self {
        match error {
            AuthError::Missing => Self::MissingToken,
            AuthError::TooLarge | AuthError::Invalid | AuthError::Expired | AuthError::OtherSession => {
                Self::InvalidToken
            }
        }
    }

    /// The frame that says so.
    pub(crate) fn frame(self) -> CloseFrame {
        CloseFrame { code: CloseCode::from(self.code()), reason: Utf8Bytes::from_static(self.reason()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_one_that_may_be_sent() {
        for close in Close::ALL {
            assert!(CloseCode::from(close.code()).is_allowed(), "{close:?}");
            assert!(matches!(close.code(), 1000..=1003 | 1007..=1013 | 4000..=4999), "{close:?}");
            assert!(close.reason().len() <= 123, "{close:?}: a control frame holds 125 bytes");
        }
    }

    #[test]
    fn faults_close_with_the_code_that_they_name() {
        for fault in FaultKind::ALL {
            assert_eq!(Close::after(fault).code(), fault.close_code(), "{fault}");
        }
    }

    #[test]
    fn a_refused_token_is_always_a_policy_matter() {
        for error in [
            AuthError::Missing,
            AuthError::TooLarge,
            AuthError::Invalid,
            AuthError::Expired,
            AuthError::OtherSession,
        ] {
            assert_eq!(Close::refusing(error).code(), 1008, "{error}");
        }
    }
}
