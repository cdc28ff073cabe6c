//! Outgoing hooks: addresses of the operator's that hear of what happens, for e-mail and whatever else.
//!
//! `POST` with JSON, signed: `x-parley-signature: sha256=HEX` is the HMAC-SHA256 of `TIMESTAMP.BODY` under the shared
//! secret, `x-parley-timestamp` the seconds since 1970, `x-parley-id` the id to deduplicate by. Any 2xx is enough.

use hmac::{Hmac, KeyInit, Mac};
use model::{Notification, Timestamp};
use reqwest::{StatusCode, Url};
use serde_json::{Value, json};
use settings::{Reader, Secret};
use sha2::Sha256;
use uuid::Uuid;

/// Where a hook is.
#[derive(Debug, Clone)]
pub struct HookSettings {
    /// Its address. A secret: it may hold a password.
    pub url: Secret,
    /// What signs what it is sent.
    pub secret: Secret,
}

impl HookSettings {
    /// Reads the setting `url` (none: no hook) and the setting `secret`.
    pub fn read(reader: &mut Reader, url: &str, secret: &str) -> Option<Self> {
        let address: Secret = reader.optional(url, "an http or https URL")?;
        if !Url::parse(address.expose()).is_ok_and(|url| matches!(url.scheme(), "http" | "https")) {
            reader.problem(url, "expected an http or https URL");
        }
        let secret = reader.required(secret, "a secret that the hook knows, too")?;
        Some(Self { url: address, secret })
    }
}

/// The way to a hook.
pub(crate) struct Hook {
    url: Url,
    secret: Secret,
    http: reqwest::Client,
}

/// What came of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hooked {
    /// It has heard.
    Told,
    /// It may hear later.
    Later,
    /// It wants no more of this (410).
    Refused,
}

impl Hook {
    /// `None` when the address is none.
    pub(crate) fn new(settings: &HookSettings, http: reqwest::Client) -> Option<Self> {
        Some(Self { url: Url::parse(settings.url.expose()).ok()?, secret: settings.secret.clone(), http })
    }

    /// Tells it something, signed. `id` is the same at every attempt.
    pub(crate) async fn tell(&self, id: Uuid, body: &Value, now: Timestamp) -> Hooked {
        let body = body.to_string();
        let seconds = now.0 / 1000;
        let request = self
            .http
            .post(self.url.clone())
            .header("content-type", "application/json")
            .header("x-parley-id", id.to_string())
            .header("x-parley-timestamp", seconds)
            .header("x-parley-signature", format!("sha256={}", signature(&self.secret, seconds, &body)))
            .body(body);
        match request.send().await.map(|answer| answer.status()) {
            Ok(status) if status.is_success() => Hooked::Told,
            Ok(StatusCode::GONE) => Hooked::Refused,
            Ok(_) | Err(_) => Hooked::Later,
        }
    }
}

/// What the hook of notifications is told; `present` when the user has a connection open and sees it anyway.
pub(crate) fn notification_body(notification: &Notification, present: bool) -> Value {
    json!({
        "id": notification.id,
        "userId": notification.user,
        "type": notification.kind,
        "title": notification.title,
        "message": notification.message,
        "metadata": notification.metadata,
        "priority": notification.priority,
        "isRead": notification.is_read,
        "createdAt": notification.created_at.to_string(),
        "present": present,
    })
}

fn signature(secret: &Secret, seconds: i64, body: &str) -> String {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes()) else {
        return String::new();
    };
    mac.update(format!("{seconds}.{body}").as_bytes());
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_that_everybody_computes() {
        // printf '1700000000.{}' | openssl dgst -sha256 -hmac secret
        let expected = "b8569b78799ff9e3cbff0fc2d63a33a2b57f3282abd07c37ae5e8e7d79a5f163";
        assert_eq!(signature(&"secret".into(), 1_700_000_000, "{}"), expected);
    }
}
