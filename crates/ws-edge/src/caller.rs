//! Who calls a route of sessions: a trusted back end, or a participant.

use auth::Principal;
use model::FaultKind;

use crate::Edge;

/// Whoever has proven who they are.
pub(crate) enum Caller {
    /// A back end with a service key.
    Service,
    /// Somebody with a token of a session.
    Participant(Principal),
}

/// Who presents this proof.
pub(crate) fn identify(edge: &Edge, proof: Option<&str>) -> Result<Caller, FaultKind> {
    let proof = proof.ok_or(FaultKind::Unauthenticated)?;
    if edge.keys.accepts(proof) {
        return Ok(Caller::Service);
    }
    edge.tokens.verify(proof).map(Caller::Participant).map_err(|error| error.fault())
}

impl Caller {
    /// Whether a back end calls, or a participant whose token `suits`.
    pub(crate) fn allowed(&self, suits: impl FnOnce(&Principal) -> bool) -> Result<(), FaultKind> {
        match self {
            Self::Service => Ok(()),
            Self::Participant(principal) if suits(principal) => Ok(()),
            Self::Participant(_) => Err(FaultKind::Forbidden),
        }
    }
}
