//! Who may publish: a key that is registered, one that is signed, one that the hook knows, or, if that is allowed, the
//! bare name of a session.

use std::net::IpAddr;

use auth::{AuthError, stream_key_sha256};
use model::{Identity, SessionSlug, Speaker};
use rpc::wire;
use rtmp::{Publish, Refusal};

use crate::{Ingest, hook::HookError};

/// What a publisher may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Permit {
    /// Where its captions go.
    pub(crate) session: SessionSlug,
    /// Whose words they are. With the session it tells one publisher from another.
    pub(crate) speaker: Speaker,
    /// Whether the sound may be that of several people.
    pub(crate) is_room: bool,
    /// Which track of several is heard; the first when nobody says.
    pub(crate) track: Option<u8>,
    /// What is spoken (BCP 47 or `auto`); the default of the workers when nobody says.
    pub(crate) language: Option<String>,
}

/// Why somebody may not publish. The texts are for the person at the encoder and quote nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    #[error("this stream key is not known")]
    Unknown,
    #[error("{0}")]
    Token(#[from] AuthError),
    #[error("this token may only follow")]
    FollowOnly,
    #[error("track must be a number from 0 to 255")]
    Track,
    #[error("language must be a language tag such as en, or auto")]
    Language,
    #[error("the stream key was refused")]
    Hook,
    #[error("the stream key cannot be checked at present, try again")]
    Away(&'static str),
}

impl Denied {
    /// Every label.
    pub(crate) const LABELS: [&str; 8] = [
        "key_unknown",
        "token",
        "follow_only",
        "track",
        "language",
        "hook_refused",
        "hook_away",
        "database_away",
    ];

    /// Metric label.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Unknown => "key_unknown",
            Self::Token(_) => "token",
            Self::FollowOnly => "follow_only",
            Self::Track => "track",
            Self::Language => "language",
            Self::Hook => "hook_refused",
            Self::Away(what) => what,
        }
    }

    /// How an encoder is told.
    pub(crate) fn refusal(&self) -> Refusal {
        match self {
            Self::Away(_) => Refusal::Unavailable,
            _ => Refusal::Denied,
        }
    }
}

/// Decides about a publisher. May take as long as Postgres and the hook do.
pub(crate) async fn decide(ingest: &Ingest, publish: &Publish, address: IpAddr) -> Result<Permit, Denied> {
    let mut permit = match parameter(&publish.query, "token") {
        Some(token) => {
            let permit = signed(ingest, &token)?;
            if permit.session.as_str() != publish.key {
                return Err(AuthError::OtherSession.into());
            }
            permit
        }
        None if is_token(&publish.key) => signed(ingest, &publish.key)?,
        None => unsigned(ingest, publish, address).await?,
    };
    if let Some(track) = parameter(&publish.query, "track") {
        permit.track = Some(track.parse().map_err(|_| Denied::Track)?);
    }
    if let Some(language) = parameter(&publish.query, "language") {
        if language.is_empty() || wire::check_language(&language).is_err() {
            return Err(Denied::Language);
        }
        permit.language = Some(language);
    }
    Ok(permit)
}

fn signed(ingest: &Ingest, token: &str) -> Result<Permit, Denied> {
    let principal = ingest.tokens.verify(token)?;
    if !principal.may_speak(principal.session()) {
        return Err(Denied::FollowOnly);
    }
    let speaker =
        Speaker { identity: principal.identity().clone(), name: principal.name().map(str::to_owned) };
    // The token of a room's egress names nobody in particular.
    let is_room = speaker.identity.as_str() == Speaker::ROOM;
    Ok(Permit { session: principal.session().clone(), speaker, is_room, track: None, language: None })
}

async fn unsigned(ingest: &Ingest, publish: &Publish, address: IpAddr) -> Result<Permit, Denied> {
    let hash = stream_key_sha256(&publish.key);
    let found = ingest.storage.use_stream_key(&hash, ingest.clock.now()).await.map_err(|error| {
        tracing::warn!(%error, "look up a stream key");
        Denied::Away("database_away")
    })?;
    if let Some(key) = found {
        // Two keys of a session are two publishers.
        let identity: Identity =
            format!("{}-{}", Speaker::ROOM, key.id).parse().map_err(|_| Denied::Unknown)?;
        let speaker = Speaker { identity, name: key.label };
        return Ok(Permit { session: key.session, speaker, is_room: true, track: None, language: None });
    }
    if let Some(hook) = &ingest.hook {
        return match hook.ask(publish, address).await {
            Ok(permit) => Ok(permit),
            Err(HookError::Refused) => Err(Denied::Hook),
            Err(HookError::Away(reason)) => {
                tracing::warn!(%reason, "ask the hook about a stream key");
                Err(Denied::Away("hook_away"))
            }
        };
    }
    if !ingest.settings.open_keys {
        return Err(Denied::Unknown);
    }
    open(&publish.key)
}

/// The name of a session as a key.
pub(crate) fn open(key: &str) -> Result<Permit, Denied> {
    let session = key.parse().map_err(|_| Denied::Unknown)?;
    let identity = Speaker::ROOM.parse().map_err(|_| Denied::Unknown)?;
    Ok(Permit {
        session,
        speaker: Speaker { identity, name: None },
        is_room: true,
        track: None,
        language: None,
    })
}

/// Whether a key has the shape of a JWT (RFC 7519 section 3): three parts, the first of which is a JSON object.
fn is_token(key: &str) -> bool {
    key.starts_with("eyJ") && key.split('.').count() == 3
}

/// The first value of a parameter of a query, decoded (WHATWG URL, application/x-www-form-urlencoded).
fn parameter(query: &str, name: &str) -> Option<String> {
    let url = reqwest::Url::parse(&format!("rtmp://host/?{query}")).ok()?;
    url.query_pairs().find(|(found, _)| found == name).map(|(_, value)| value.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_found_and_decoded() {
        assert_eq!(parameter("token=a.b.c&track=2", "track").as_deref(), Some("2"));
        assert_eq!(parameter("x=%20y", "x").as_deref(), Some(" y"));
        assert_eq!(parameter("", "token"), None);
        assert_eq!(parameter("tokens=1", "token"), None);
    }

    #[test]
    fn only_what_looks_like_a_token_is_one() {
        assert!(is_token("eyJhbGciOiJIUzI1NiJ9.e30.c2ln"));
        for key in ["demo", "my.room.name", "parley_0123", "eyJ.x"] {
            assert!(!is_token(key), "{key}");
        }
    }

    #[test]
    fn every_reason_has_its_label() {
        let all = [
            Denied::Unknown,
            Denied::Token(AuthError::Expired),
            Denied::FollowOnly,
            Denied::Track,
            Denied::Language,
            Denied::Hook,
            Denied::Away("hook_away"),
            Denied::Away("database_away"),
        ];
        assert_eq!(all.map(|denied| denied.label()), Denied::LABELS);
    }
}
