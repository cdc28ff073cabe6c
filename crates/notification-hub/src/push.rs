//! Web push: wakes browsers of users who have no connection open (RFC 8030, encrypted by RFC 8291, signed by
//! RFC 8292, "VAPID").

use std::time::Duration;

use base64ct::{Base64UrlUnpadded, Encoding};
use model::{Notification, Priority, Timestamp};
use p256::ecdsa::{Signature, SigningKey, signature::Signer};
use reqwest::{StatusCode, Url};
use serde_json::json;
use settings::{Reader, Secret};
use sha2::{Digest, Sha256};
use storage::PushSubscription;

/// Hosts of the push services of today's browsers: Chrome, Firefox, Edge, Safari.
const HOSTS: [&str; 4] =
    ["fcm.googleapis.com", "push.services.mozilla.com", "notify.windows.com", "web.push.apple.com"];

/// Longest endpoint, in bytes.
const ENDPOINT_BYTES_MAX: usize = 2048;

/// How long a push service keeps a message for a browser that is away, unless it expires before.
const LIFE: Duration = Duration::from_secs(24 * 3600);

/// How long a signature is good; services refuse more than 24 h (RFC 8292 section 2).
const SIGNATURE_LIFE: Duration = Duration::from_secs(12 * 3600);

/// Plaintext that every push service takes: 4096 bytes encrypted (RFC 8030 section 7.2).
const PAYLOAD_BYTES_MAX: usize = 3000;

/// Text of a notification that is pushed; the rest is read in the application.
const TEXT_CHARS_MAX: usize = 400;

/// What a hub can be told about web push.
#[derive(Debug, Clone)]
pub struct PushSettings {
    /// The private key: 32 bytes as base64url or hex.
    pub key: Secret,
    /// Who answers for what we send: `mailto:…` or `https://…`.
    pub subject: String,
    /// Hosts of push services, subdomains among them.
    pub hosts: Vec<String>,
}

impl PushSettings {
    /// Reads `VAPID_PRIVATE_KEY` (none: no web push), `VAPID_SUBJECT` and `PUSH_HOSTS`.
    pub fn read(reader: &mut Reader) -> Option<Self> {
        let key: Option<Secret> = reader.optional("VAPID_PRIVATE_KEY", "32 bytes as base64url or hex");
        if key.as_ref().is_some_and(|key| signing_key(key).is_none()) {
            reader.problem("VAPID_PRIVATE_KEY", "expected 32 bytes as base64url or hex");
        }
        let subject = reader.text("VAPID_SUBJECT").unwrap_or_else(|| "mailto:parley@localhost".to_owned());
        if !subject.starts_with("mailto:") && !subject.starts_with("https://") {
            reader.problem("VAPID_SUBJECT", "expected mailto:… or https://…");
        }
        let mut hosts = reader.list("PUSH_HOSTS");
        if hosts.is_empty() {
            hosts = HOSTS.map(str::to_owned).to_vec();
        }
        Some(Self { key: key?, subject, hosts })
    }
}

fn signing_key(key: &Secret) -> Option<SigningKey> {
    let text = key.expose();
    let bytes = match text.len() {
        64 => hexadecimal(text)?,
        _ => Base64UrlUnpadded::decode_vec(text.trim_end_matches('=')).ok()?,
    };
    SigningKey::from_slice(&bytes).ok()
}

fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs.iter().map(byte).collect()
}

/// The way to browsers.
pub(crate) struct Push {
    key: SigningKey,
    /// P-256, uncompressed, base64url.
    public_key: String,
    subject: String,
    hosts: Vec<String>,
    http: reqwest::Client,
}

/// What came of a message to one browser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// The push service has it.
    Sent,
    /// The browser has taken its subscription back.
    Gone,
    /// It may go better later.
    Later,
    /// It never will.
    Refused,
}

impl Push {
    /// `None` when the key is none.
    pub(crate) fn new(settings: &PushSettings, http: reqwest::Client) -> Option<Self> {
        let key = signing_key(&settings.key)?;
        let point = key.verifying_key().to_encoded_point(false);
        Some(Self {
            public_key: Base64UrlUnpadded::encode_string(point.as_bytes()),
            key,
            subject: settings.subject.clone(),
            hosts: settings.hosts.clone(),
            http,
        })
    }

    pub(crate) fn public_key(&self) -> &str {
        &self.public_key
    }

    /// Whether a browser's words describe a subscription that we would send to. Endpoints come from users: anything
    /// but a push service that is known could be a machine of this house.
    pub(crate) fn accepts(&self, subscription: &PushSubscription) -> bool {
        self.endpoint(subscription).is_some() && keys(subscription).is_some()
    }

    fn endpoint(&self, subscription: &PushSubscription) -> Option<Url> {
        let text = subscription.endpoint.expose();
        let url = Url::parse(text).ok().filter(|_| text.len() <= ENDPOINT_BYTES_MAX)?;
        let host = url.host_str()?;
        let known = self.hosts.iter().any(|known| {
            host == known || host.strip_suffix(known.as_str()).is_some_and(|rest| rest.ends_with('.'))
        });
        // A service on this very machine, for tests, needs no TLS; it must have been listed by the operator.
        let private = url.scheme() == "https" || (url.scheme() == "http" && host == "127.0.0.1");
        (known && private).then_some(url)
    }

    /// Sends a notification to one browser.
    pub(crate) async fn send(
        &self,
        subscription: &PushSubscription,
        notification: &Notification,
        now: Timestamp,
    ) -> Pushed {
        let (Some(endpoint), Some((key, auth))) = (self.endpoint(subscription), keys(subscription)) else {
            return Pushed::Refused;
        };
        let Ok(body) = web_push_native::encrypt(payload(notification), &key, &auth) else {
            return Pushed::Refused;
        };
        let life = notification.expires_at.map_or(LIFE, |at| at.since(now).min(LIFE));
        let request = self
            .http
            .post(endpoint.clone())
            .header("TTL", life.as_secs())
            .header("Urgency", urgency(notification.priority))
            .header("Topic", topic(notification))
            .header("Content-Encoding", "aes128gcm")
            .header("Content-Type", "application/octet-stream")
            .header("Authorization", self.authorization(&endpoint, now))
            .body(body);
        match request.send().await.map(|answer| answer.status()) {
            Ok(status) if status.is_success() => Pushed::Sent,
            Ok(StatusCode::NOT_FOUND | StatusCode::GONE) => Pushed::Gone,
            Ok(status) if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() => {
                Pushed::Later
            }
            Ok(_) => Pushed::Refused,
            Err(_) => Pushed::Later,
        }
    }

    /// RFC 8292 section 3: a JWT for the push service's origin, and the key that verifies it.
    fn authorization(&self, endpoint: &Url, now: Timestamp) -> String {
        let header = json!({"typ": "JWT", "alg": "ES256"});
        let claims = json!({
            "aud": endpoint.origin().ascii_serialization(),
            "exp": now.after(SIGNATURE_LIFE).0 / 1000,
            "sub": self.subject,
        });
        let part = |json: &serde_json::Value| Base64UrlUnpadded::encode_string(json.to_string().as_bytes());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature: Signature = self.key.sign(signed.as_bytes());
        let signature = Base64UrlUnpadded::encode_string(&signature.to_bytes());
        format!("vapid t={signed}.{signature}, k={}", self.public_key)
    }
}

/// The keys of a browser, when they are keys.
fn keys(subscription: &PushSubscription) -> Option<(p256::PublicKey, web_push_native::Auth)> {
    let decoded = |text: &str| Base64UrlUnpadded::decode_vec(text.trim_end_matches('=')).ok();
    let key = p256::PublicKey::from_sec1_bytes(&decoded(&subscription.p256dh)?).ok()?;
    let auth: [u8; 16] = decoded(subscription.auth.expose())?.try_into().ok()?;
    Some((key, auth.into()))
}

/// What the browser's service worker reads: `{"id", "type", "title", "message", "metadata", "createdAt"}`, metadata
/// only while they fit.
fn payload(notification: &Notification) -> Vec<u8> {
    let message: String = notification.message.chars().take(TEXT_CHARS_MAX).collect();
    let mut payload = json!({
        "id": notification.id,
        "type": notification.kind,
        "title": notification.title,
        "message": message,
        "createdAt": notification.created_at.to_string(),
    });
    let short = payload.to_string();
    if let (Some(metadata), Some(fields)) = (&notification.metadata, payload.as_object_mut())
        && short.len() + metadata.as_str().len() + 16 < PAYLOAD_BYTES_MAX
    {
        fields.insert("metadata".to_owned(), metadata.to_value());
    }
    payload.to_string().into_bytes()
}

/// RFC 8030 section 5.3.
fn urgency(priority: Priority) -> &'static str {
    match priority {
        Priority::Low => "low",
        Priority::Normal => "normal",
        Priority::High | Priority::Urgent => "high",
    }
}

/// RFC 8030 section 5.4: a message that waits is replaced by a newer one of the same topic. The same notification
/// sent again replaces itself, and those with one collapse key each other.
fn topic(notification: &Notification) -> String {
    let mut hash = Sha256::new();
    match &notification.collapse_key {
        Some(key) => hash.update(key),
        None => hash.update(notification.id.0.as_bytes()),
    }
    let mut topic = Base64UrlUnpadded::encode_string(&hash.finalize());
    topic.truncate(32);
    topic
}

#[cfg(test)]
mod tests {
    use p256::elliptic_curve::sec1::ToEncodedPoint;

    use super::*;

    fn push() -> Push {
        let settings = PushSettings {
            key: "11".repeat(32).into(),
            subject: "mailto:a@b.example".to_owned(),
            hosts: HOSTS.map(str::to_owned).to_vec(),
        };
        drop(rustls::crypto::ring::default_provider().install_default());
        Push::new(&settings, reqwest::Client::new()).unwrap()
    }

    fn subscription(endpoint: &str) -> PushSubscription {
        let key = p256::SecretKey::from_slice(&[7; 32]).unwrap().public_key();
        PushSubscription {
            endpoint: endpoint.into(),
            p256dh: Base64UrlUnpadded::encode_string(key.to_encoded_point(false).as_bytes()),
            auth: Base64UrlUnpadded::encode_string(&[9; 16]).into(),
        }
    }

    #[test]
    fn only_known_push_services_are_sent_to() {
        let push = push();
        for good in [
            "https://fcm.googleapis.com/fcm/send/abc",
            "https://updates.push.services.mozilla.com/wpush/v2/x",
            "https://wns2-par02p.notify.windows.com/w/?token=x",
        ] {
            assert!(push.accepts(&subscription(good)), "{good}");
        }
        for bad in [
            "http://fcm.googleapis.com/",
            "https://evilfcm.googleapis.com.example/",
            "https://evil-push.services.mozilla.com.example/",
            "https://xfcm.googleapis.com/",
            "https://127.0.0.1/",
            "http://169.254.169.254/",
            "https://user@127.0.0.1/fcm.googleapis.com",
            "file:///etc/passwd",
            "",
            &format!("https://fcm.googleapis.com/{}", "x".repeat(2048)),
        ] {
            assert!(!push.accepts(&subscription(bad)), "{bad}");
        }
        let endpoint = "https://fcm.googleapis.com/x";
        let short = PushSubscription { p256dh: "BAAA".to_owned(), ..subscription(endpoint) };
        let long = PushSubscription { auth: "AAAA".into(), ..subscription(endpoint) };
        assert!(!push.accepts(&short) && !push.accepts(&long));
    }

    #[test]
    fn keys_are_read_in_both_spellings() {
        let hex: Secret = "11".repeat(32).into();
        let base64: Secret = Base64UrlUnpadded::encode_string(&[0x11; 32]).into();
        assert_eq!(signing_key(&hex), signing_key(&base64));
        for bad in ["", "11", "zz", &"zz".repeat(32), &"00".repeat(32)] {
            assert!(signing_key(&bad.to_owned().into()).is_none(), "{bad}");
        }
    }
}
