//! Who chats, and in which rooms.

use auth::{Principal, User};
use model::{FaultKind, RoomId, Timestamp, UserId, room::AUTHOR_NAME_BYTES_MAX};

use super::protocol;
use crate::{Edge, handshake::decoded, limits::TooOften};

/// Whoever has proved to be somebody, or need not.
#[derive(Debug, Clone)]
pub(crate) enum Chatter {
    /// A user, in every room but those of sessions.
    User(User),
    /// A participant, in the room of its session.
    Participant(Principal),
    /// A trusted back end, in every room.
    Service,
    /// Somebody of whom nothing is known, where `CHAT_ANONYMOUS` lets it in: in every room but those of sessions.
    Anonymous,
}

/// What a trusted back end is called that does not say.
const SERVICE: &str = "service";

impl Chatter {
    /// Whoever a token proves.
    ///
    /// # Errors
    /// It proves nobody, or there is none and there should be.
    pub(crate) fn of(edge: &Edge, token: Option<&str>) -> Result<Self, FaultKind> {
        let Some(token) = token.map(str::trim).filter(|token| !token.is_empty()) else {
            let open = edge.settings.chat_anonymous;
            return if open { Ok(Self::Anonymous) } else { Err(FaultKind::Unauthenticated) };
        };
        if edge.keys.accepts(token) {
            return Ok(Self::Service);
        }
        // Some clients encode it twice; no token holds a percent sign by itself.
        let once = token.contains('%').then(|| decoded(token));
        let token = once.as_deref().unwrap_or(token);
        let of_user = match edge.users.verify(token) {
            Ok(user) => return Ok(Self::User(user)),
            Err(error) => error.fault(),
        };
        match edge.tokens.verify(token) {
            Ok(principal) if principal.may_follow(principal.session()) => Ok(Self::Participant(principal)),
            // It sends a track and nothing else.
            Ok(_) => Err(FaultKind::Forbidden),
            Err(_) if of_user == FaultKind::Expired => Err(of_user),
            Err(error) => Err(error.fault()),
        }
    }

    /// Whether it connects no more often than it may.
    pub(crate) fn knocks(&self, edge: &Edge) -> Result<(), TooOften> {
        match self {
            Self::User(user) => edge.limits.user_handshake(user.id()),
            Self::Participant(principal) => {
                edge.limits.identity_handshake(principal.session(), principal.identity())
            }
            // Counted by their addresses.
            Self::Service | Self::Anonymous => Ok(()),
        }
    }

    /// Whether it may know what is said in a room.
    pub(crate) fn may_read(&self, room: &RoomId) -> bool {
        match (self, room.session()) {
            (Self::Service, _) => true,
            (Self::Participant(principal), Some(session)) => principal.may_follow(&session),
            (Self::User(_) | Self::Anonymous, None) => true,
            (Self::User(_) | Self::Anonymous, Some(_)) | (Self::Participant(_), None) => false,
        }
    }

    /// Whether it may say something where it may read.
    pub(crate) fn may_write(&self) -> bool {
        match self {
            Self::Participant(principal) => principal.may_speak(principal.session()),
            Self::User(_) | Self::Service | Self::Anonymous => true,
        }
    }

    /// The room that it means when it names none.
    pub(crate) fn home(&self) -> RoomId {
        match self {
            Self::Participant(principal) => RoomId::of_session(principal.session()),
            Self::User(_) | Self::Service | Self::Anonymous => RoomId::general(),
        }
    }

    /// Who it is, where that is known.
    pub(crate) fn user(&self) -> Option<UserId> {
        match self {
            Self::User(user) => Some(user.id().clone()),
            Self::Participant(principal) => Some(principal.user().clone()),
            Self::Service => SERVICE.parse().ok(),
            Self::Anonymous => None,
        }
    }

    /// What it is called when it does not say.
    pub(crate) fn name(&self) -> Option<String> {
        let (name, id) = match self {
            Self::User(user) => (user.name(), user.id().as_str()),
            Self::Participant(principal) => (principal.name(), principal.identity().as_str()),
            Self::Service => (None, SERVICE),
            Self::Anonymous => return None,
        };
        // An id may be longer than a name.
        let id = id.get(..id.floor_char_boundary(AUTHOR_NAME_BYTES_MAX)).unwrap_or_default();
        name.and_then(protocol::name).or_else(|| protocol::name(id))
    }

    /// Whether both prove the same somebody.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::User(user), Self::User(other)) => user.id() == other.id(),
            (Self::Participant(principal), Self::Participant(other)) => {
                (principal.session(), principal.identity()) == (other.session(), other.identity())
            }
            (Self::Service, Self::Service) => true,
            _ => false,
        }
    }

    /// When its token ends.
    pub(crate) fn expires_at(&self) -> Timestamp {
        match self {
            Self::User(user) => user.expires_at(),
            Self::Participant(principal) => principal.expires_at(),
            Self::Service | Self::Anonymous => Timestamp(i64::MAX),
        }
    }
}

/// What somebody is told who may not come in.
pub(crate) const fn refusal(fault: FaultKind) -> &'static str {
    match fault {
        FaultKind::Forbidden => "This token sends a track and nothing else",
        FaultKind::Expired => "The token has expired",
        _ => "A valid token is required: auth.token, ?token= or Authorization: Bearer",
    }
}
