use std::time::Duration;

use base64ct::{Base64, Encoding};
use livekit_api::access_token::TokenVerifier;
use model::{Clock, FaultKind, Timestamp};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::LiveKitSettings;

/// How far LiveKit's clock may be behind ours.
const LEEWAY: Duration = Duration::from_secs(60);

/// Bytes of a SHA-256.
const HASH_BYTES: usize = 32;

/// Reads webhooks, once it is sure that they are LiveKit's.
#[derive(Debug, Clone)]
pub struct Webhooks {
    tokens: TokenVerifier,
    clock: Clock,
}

/// News from LiveKit. It may come twice and out of order: deduplicate by the id, and ask LiveKit how things stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookEvent {
    /// Unique, also when the event is sent again.
    pub id: String,
    /// What happened.
    pub event: Event,
    /// The name of the room that it happened in.
    pub room: Option<String>,
    /// LiveKit's id of that room, another one each time a room of that name begins.
    pub room_sid: Option<String>,
    /// When, to the second.
    pub created_at: Option<Timestamp>,
    /// The egress that it is about.
    pub egress_id: Option<String>,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A room began.
    RoomStarted,
    /// A room ended.
    RoomFinished,
    /// Somebody came.
    ParticipantJoined,
    /// Somebody went, or their connection did.
    ParticipantLeft,
    /// There is a new track.
    TrackPublished,
    /// A track is gone.
    TrackUnpublished,
    /// An egress was asked for.
    EgressStarted,
    /// An egress is further, or has trouble.
    EgressUpdated,
    /// An egress ended, well or not.
    EgressEnded,
    /// Something that captions need not know.
    Other,
}

/// Why a webhook is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WebhookError {
    /// The token is none, or not signed with our secret, or not for our key, or over.
    #[error("a webhook without a good token of LiveKit's")]
    Token,
    /// The token speaks of another body.
    #[error("a webhook whose body is not what was signed")]
    Body,
    /// Signed, and yet not what LiveKit sends.
    #[error("a webhook that cannot be read")]
    Malformed,
}

impl WebhookError {
    /// Who must act on it.
    pub fn fault(self) -> FaultKind {
        match self {
            Self::Token | Self::Body => FaultKind::Unauthenticated,
            Self::Malformed => FaultKind::BadData,
        }
    }
}

/// What is read of the body. Not `livekit-protocol`'s event, which fails as a whole at one name of a newer server.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    id: String,
    event: String,
    created_at: Option<Seconds>,
    room: Option<Room>,
    egress_info: Option<EgressInfo>,
}

#[derive(Deserialize)]
struct Room {
    sid: Option<String>,
    name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EgressInfo {
    egress_id: Option<String>,
    room_id: Option<String>,
    room_name: Option<String>,
}

/// A 64-bit integer as protobuf's JSON writes it, or as others would.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Text(String),
    Number(i64),
}

impl Webhooks {
    /// Of the LiveKit with these keys.
    pub fn new(settings: &LiveKitSettings, clock: Clock) -> Self {
        Self { tokens: TokenVerifier::with_api_key(&settings.key, settings.secret.expose()), clock }
    }

    /// Reads a body that came with this `Authorization`, a bare token or one after `Bearer `. Limits of length are the
    /// caller's.
    ///
    /// # Errors
    /// Whatever shows that LiveKit did not send it so; nothing of the body is parsed before that is known.
    pub fn read(&self, body: &[u8], authorization: &str) -> Result<WebhookEvent, WebhookError> {
        let token = authorization.strip_prefix("Bearer ").unwrap_or(authorization).trim();
        let claims = self.tokens.verify(token).map_err(|_| WebhookError::Token)?;
        // The verifier asks the clock of the machine alone.
        let expires = i64::try_from(claims.exp).unwrap_or(i64::MAX).saturating_mul(1000);
        if Timestamp(expires).after(LEEWAY) <= self.clock.now() {
            return Err(WebhookError::Token);
        }
        // A participant's token is signed with the same secret, but speaks of no body.
        let mut signed = [0; HASH_BYTES];
        let signed = Base64::decode(&claims.sha256, &mut signed).map_err(|_| WebhookError::Body)?;
        if !bool::from(signed.ct_eq(Sha256::digest(body).as_slice())) {
            return Err(WebhookError::Body);
        }
        let body: Body = serde_json::from_slice(body).map_err(|_| WebhookError::Malformed)?;
        Ok(body.into())
    }
}

impl From<Body> for WebhookEvent {
    fn from(body: Body) -> Self {
        let room = body.room.unwrap_or(Room { sid: None, name: None });
        let egress =
            body.egress_info.unwrap_or(EgressInfo { egress_id: None, room_id: None, room_name: None });
        let seconds = body.created_at.and_then(|moment| match moment {
            Seconds::Text(text) => text.parse().ok(),
            Seconds::Number(number) => Some(number),
        });
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        Self {
            id: body.id,
            event: event(&body.event),
            room: filled(room.name).or(filled(egress.room_name)),
            room_sid: filled(room.sid).or(filled(egress.room_id)),
            created_at: seconds.map(|seconds: i64| Timestamp(seconds.saturating_mul(1000))),
            egress_id: filled(egress.egress_id),
        }
    }
}

fn event(name: &str) -> Event {
    match name {
        "room_started" => Event::RoomStarted,
        "room_finished" => Event::RoomFinished,
        "participant_joined" => Event::ParticipantJoined,
        "participant_left" | "participant_connection_aborted" => Event::ParticipantLeft,
        "track_published" => Event::TrackPublished,
        "track_unpublished" => Event::TrackUnpublished,
        "egress_started" => Event::EgressStarted,
        "egress_updated" => Event::EgressUpdated,
        "egress_ended" => Event::EgressEnded,
        _ => Event::Other,
    }
}

#[cfg(test)]
mod tests {
    use livekit_api::access_token::{AccessToken, VideoGrants};
    use livekit_protocol as proto;

    use super::*;

    const KEY: &str = "key";
    const SECRET: &str = "a secret of some length";
    const BODY: &[u8] = br#"{"event":"track_published","id":"EV_1","createdAt":"1732150000","room":{"sid":"RM_1","name":"demo","emptyTimeout":300},"participant":{"sid":"PA_1","kind":"HOLOGRAM"},"track":{"sid":"TR_1"},"more":1}"#;

    fn webhooks(clock: Clock) -> Webhooks {
        let pairs = [("LIVEKIT_WS_URL", "ws://h"), ("LIVEKIT_API_KEY", KEY), ("LIVEKIT_API_SECRET", SECRET)];
        Webhooks::new(&LiveKitSettings::read(&mut settings::of(pairs)).unwrap(), clock)
    }

    fn signed(key: &str, secret: &str, body: &[u8]) -> String {
        let hash = Base64::encode_string(&Sha256::digest(body));
        let token = AccessToken::with_api_key(key, secret).with_sha256(&hash);
        token.with_ttl(Duration::from_secs(300)).to_jwt().unwrap()
    }

    #[test]
    fn news_of_livekit_are_read_with_and_without_bearer() {
        let token = signed(KEY, SECRET, BODY);
        let expected = WebhookEvent {
            id: "EV_1".to_owned(),
            event: Event::TrackPublished,
            room: Some("demo".to_owned()),
            room_sid: Some("RM_1".to_owned()),
            created_at: Some(Timestamp(1_732_150_000_000)),
            egress_id: None,
        };
        let webhooks = webhooks(Clock::system());
        assert_eq!(webhooks.read(BODY, &token), Ok(expected.clone()));
        assert_eq!(webhooks.read(BODY, &format!("Bearer {token}")), Ok(expected));
    }

    #[test]
    fn an_egress_names_its_room() {
        let info = proto::EgressInfo {
            egress_id: "EG_1".to_owned(),
            room_id: "RM_1".to_owned(),
            room_name: "demo".to_owned(),
            ..proto::EgressInfo::default()
        };
        let event = proto::WebhookEvent {
            id: "EV_2".to_owned(),
            event: "egress_ended".to_owned(),
            egress_info: Some(info),
            created_at: 5,
            ..proto::WebhookEvent::default()
        };
        let body = serde_json::to_vec(&event).unwrap();
        let read = webhooks(Clock::system()).read(&body, &signed(KEY, SECRET, &body)).unwrap();
        assert_eq!((read.event, read.room.as_deref()), (Event::EgressEnded, Some("demo")));
        assert_eq!((read.egress_id.as_deref(), read.room_sid.as_deref()), (Some("EG_1"), Some("RM_1")));
        assert_eq!(read.created_at, Some(Timestamp(5000)));
    }

    #[test]
    fn what_livekit_did_not_send_is_refused() {
        let webhooks = webhooks(Clock::system());
        let read = |body: &[u8], token: &str| webhooks.read(body, token).unwrap_err();
        let good = signed(KEY, SECRET, BODY);
        assert_eq!(read(BODY, ""), WebhookError::Token);
        assert_eq!(read(BODY, "a.b.c"), WebhookError::Token);
        assert_eq!(read(BODY, &signed("other", SECRET, BODY)), WebhookError::Token);
        assert_eq!(read(BODY, &signed(KEY, "another secret", BODY)), WebhookError::Token);
        let tampered = String::from_utf8_lossy(BODY).replace("demo", "mine");
        assert_eq!(read(tampered.as_bytes(), &good), WebhookError::Body);
        for hash in ["", "AAAA", "not base64", &"A".repeat(4096)] {
            let token = AccessToken::with_api_key(KEY, SECRET).with_sha256(hash).to_jwt().unwrap();
            assert_eq!(read(BODY, &token), WebhookError::Body, "{hash}");
        }
        let rights = VideoGrants { room_join: true, room: "demo".to_owned(), ..VideoGrants::default() };
        let participant = AccessToken::with_api_key(KEY, SECRET).with_identity("alice").with_grants(rights);
        assert_eq!(read(BODY, &participant.to_jwt().unwrap()), WebhookError::Body);
        for body in [&b"{"[..], b"[]", br#"{"event":"room_started"}"#, b"\xff"] {
            assert_eq!(read(body, &signed(KEY, SECRET, body)), WebhookError::Malformed);
        }
    }

    #[test]
    fn a_token_ends() {
        let clock = Clock::manual(Clock::system().now());
        let webhooks = webhooks(clock.clone());
        let token = signed(KEY, SECRET, BODY);
        assert!(webhooks.read(BODY, &token).is_ok());
        clock.advance(Duration::from_secs(299) + LEEWAY);
        assert!(webhooks.read(BODY, &token).is_ok());
        clock.advance(Duration::from_secs(2));
        assert_eq!(webhooks.read(BODY, &token), Err(WebhookError::Token));
    }

    #[test]
    fn what_is_new_is_no_fault() {
        let body = br#"{"event":"room_redecorated","id":"EV_3","createdAt":7}"#;
        let read = webhooks(Clock::system()).read(body, &signed(KEY, SECRET, body)).unwrap();
        assert_eq!((read.event, read.room, read.created_at), (Event::Other, None, Some(Timestamp(7000))));
    }
}
