//! The contract of `parley.session.v1`, for the edge that serves it and for back ends that call it.

use model::{Identity, InvalidId, SessionSlug, Speaker};
use tonic::Status;

use crate::{WireError, wire};

#[expect(
    missing_docs,
    unused_qualifications,
    clippy::allow_attributes,
    reason = "generated; documented in proto/"
)]
mod generated {
    tonic::include_proto!("parley.session.v1");
}

pub use generated::{
    GetStatusRequest, GetStatusResponse, SetActiveSpeakerRequest, SetActiveSpeakerResponse, StartRequest,
    StartResponse, StopRequest, StopResponse, get_status_response::State, sessions_client::SessionsClient,
    sessions_server::Sessions, sessions_server::SessionsServer,
};

/// Longest id of a session in its application, in bytes.
pub const SESSION_ID_BYTES_MAX: usize = 256;

/// Longest display name, in bytes.
const NAME_BYTES_MAX: usize = 256;

fn wrong(error: &InvalidId) -> Status {
    Status::invalid_argument(error.to_string())
}

/// The id of a session in its application.
///
/// # Errors
/// INVALID_ARGUMENT when it is none.
pub fn session_id(text: &str) -> Result<&str, Status> {
    let id = text.trim();
    if id.is_empty() || id.len() > SESSION_ID_BYTES_MAX || id.chars().any(char::is_control) {
        let expected = format!("1 to {SESSION_ID_BYTES_MAX} bytes without control characters");
        return Err(WireError::Field { field: "session_id", expected }.into());
    }
    Ok(id)
}

/// The session that a field names.
///
/// # Errors
/// INVALID_ARGUMENT when it is none.
pub fn session_slug(text: &str) -> Result<SessionSlug, Status> {
    text.parse().map_err(|error| wrong(&error))
}

/// What is spoken in a session, BCP 47 or `auto`; `None` when that is not said.
///
/// # Errors
/// INVALID_ARGUMENT when it is no language tag.
pub fn language(tag: String) -> Result<Option<String>, Status> {
    wire::check_language(&tag)?;
    Ok(Some(tag).filter(|tag| !tag.is_empty()))
}

/// Who speaks; `None` for nobody.
///
/// # Errors
/// INVALID_ARGUMENT when a field holds what it must not.
pub fn speaker(request: &SetActiveSpeakerRequest) -> Result<Option<Speaker>, Status> {
    if request.identity.is_empty() {
        return Ok(None);
    }
    let identity: Identity = request.identity.parse().map_err(|error| wrong(&error))?;
    let name = request.name.trim();
    if name.len() > NAME_BYTES_MAX {
        let expected = format!("at most {NAME_BYTES_MAX} bytes");
        return Err(WireError::Field { field: "name", expected }.into());
    }
    Ok(Some(Speaker { identity, name: Some(name.to_owned()).filter(|name| !name.is_empty()) }))
}
