//! Who may do what with a session over HTTP: a trusted back end everything, a participant what its token says.

use auth::Principal;
use http::HeaderMap;
use model::FaultKind;

use crate::{Edge, handshake::bearer};

/// Who has proved to be whom.
pub(crate) enum Caller {
    /// A back end with a service key.
    Service,
    /// A participant with a token of a session.
    Participant(Principal),
}

/// Who calls: by the `Authorization` header, else by `token`, which older clients send in the body or the query.
///
/// # Errors
/// No proof, or one that does not hold.
pub(crate) fn caller(edge: &Edge, headers: &HeaderMap, token: Option<&str>) -> Result<Caller, FaultKind> {
    let proof = bearer(headers).or(token).ok_or(FaultKind::Unauthenticated)?;
    if edge.keys.accepts(proof) {
        return Ok(Caller::Service);
    }
    edge.tokens.verify(proof).map(Caller::Participant).map_err(|error| error.fault())
}

/// Whether a caller with a service key, or with a token that `suits`, has called.
///
/// # Errors
/// As [`caller`], and a token of somebody who may not do this.
pub(crate) fn authorised(
    edge: &Edge,
    headers: &HeaderMap,
    token: Option<&str>,
    suits: impl FnOnce(&Principal) -> bool,
) -> Result<(), FaultKind> {
    caller(edge, headers, token)?.allowed(suits)
}

impl Caller {
    /// Whether it is a back end, or a participant whose token `suits`.
    ///
    /// # Errors
    /// A participant who may not do this.
    pub(crate) fn allowed(&self, suits: impl FnOnce(&Principal) -> bool) -> Result<(), FaultKind> {
        match self {
            Self::Service => Ok(()),
            Self::Participant(principal) if suits(principal) => Ok(()),
            Self::Participant(_) => Err(FaultKind::Forbidden),
        }
    }
}

/// What a caller is told who may not.
pub(crate) const fn refusal(fault: FaultKind) -> &'static str {
    match fault {
        FaultKind::Forbidden => "This token is not for this session",
        FaultKind::Expired => "The token has expired",
        _ => "A token of this session or a service key is required",
    }
}

/// Why system D's routes refuse a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotAdmitted {
    /// It has shown nothing: 401.
    Missing,
    /// It has shown something else: 403.
    Wrong,
}

impl NotAdmitted {
    /// What system D says.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Missing => "API token required",
            Self::Wrong => "Invalid API token",
        }
    }
}

/// Whether a caller may use system D's routes: with a token of `FASTER_WHISPER_API_TOKEN`, a service key or a token of
/// any session, from the `Authorization` header or else `token`; without `FASTER_WHISPER_REQUIRE_AUTH`, whatever it
/// shows.
///
/// # Errors
/// No proof, or one that does not hold.
pub(crate) fn admit_translating(
    edge: &Edge,
    headers: &HeaderMap,
    token: Option<&str>,
) -> Result<(), NotAdmitted> {
    let Some(keys) = &edge.translate_keys else { return Ok(()) };
    let shown = bearer(headers).or(token).ok_or(NotAdmitted::Missing)?;
    if keys.accepts(shown) || caller(edge, headers, token).is_ok() {
        return Ok(());
    }
    Err(NotAdmitted::Wrong)
}
