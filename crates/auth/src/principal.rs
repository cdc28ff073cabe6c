use model::{Identity, SessionSlug, Timestamp, UserId};

/// How much a token allows in its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Speak, follow, start and stop.
    All,
    /// Read captions only.
    Follow,
    /// Send the sound of one track only, as LiveKit's egress does.
    Egress,
}

/// Who a verified token is. Only the verifier makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    pub(crate) session: SessionSlug,
    pub(crate) session_id: Option<String>,
    pub(crate) identity: Identity,
    pub(crate) name: Option<String>,
    pub(crate) user: UserId,
    pub(crate) scope: Scope,
    pub(crate) track: Option<String>,
    pub(crate) expires_at: Timestamp,
}

impl Principal {
    /// The session that the token is good for.
    pub fn session(&self) -> &SessionSlug {
        &self.session
    }

    /// The id that the issuing application gives the session, when the token says.
    pub fn session_id(&self) -> Option<&str> {
        self.session_id.as_deref()
    }

    /// Who the participant is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The name to show, when the token says.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The user behind the participant; a guest's is its identity.
    pub fn user(&self) -> &UserId {
        &self.user
    }

    /// When the token ends.
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// Whether it may read captions of the session.
    pub fn may_follow(&self, session: &SessionSlug) -> bool {
        self.session == *session && self.scope != Scope::Egress
    }

    /// Whether it may send the sound of this track, of the session that the application calls so.
    pub fn may_send(&self, session_id: &str, track: &str) -> bool {
        self.scope == Scope::Egress
            && self.session_id.as_deref() == Some(session_id)
            && self.track.as_deref() == Some(track)
    }

    /// Whether it may send audio, name the active speaker, start and stop.
    pub fn may_speak(&self, session: &SessionSlug) -> bool {
        self.session == *session && self.scope == Scope::All
    }
}
