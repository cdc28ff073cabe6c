use serde::{Deserialize, Serialize};

/// What stands in a session token (contract of system A, `sub`, `sessionId`, `sessionSlug`, `identity`, `iat`,
/// `exp`), and our optional `scope`, `track` and `name`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionClaims {
    /// User id, or the identity where there is no user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// Id of the session in the issuing application.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// The session that the token is good for.
    pub session_slug: String,
    /// Who the participant is; `sub` where it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Name to show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `follow` for tokens that only read, `egress` for those that only send one track; absent means everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// The track that an `egress` token may send.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub track: Option<String>,
    /// When it was issued, seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iat: Option<i64>,
    /// When it ends, seconds since 1970.
    pub exp: i64,
}
