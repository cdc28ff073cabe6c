//! News, signed and sent as LiveKit does.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64ct::{Base64, Encoding};
use livekit_api::access_token::AccessToken;
use livekit_protocol::WebhookEvent;
use sha2::{Digest, Sha256};
use tokio::{sync::mpsc, time::sleep};

use super::world::Keys;

/// News that wait at a time.
pub(super) const WAITING_MAX: usize = 1024;

/// How long its token is good.
const TOKEN_LIFETIME: Duration = Duration::from_secs(300);

/// How often one is sent until somebody takes it, and the pause after the first time, which then doubles.
const TRIES_MAX: u32 = 5;
const PAUSE: Duration = Duration::from_millis(100);

/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// How a webhook is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// As it should be.
    Once,
    /// Twice, with the same id.
    Twice,
    /// After the next one.
    AfterNext,
    /// Signed with another secret.
    BadSignature,
    /// Not at all.
    Lost,
}

/// Where news go, and how.
#[derive(Default)]
pub(super) struct Post {
    pub(super) addresses: Mutex<Vec<String>>,
    pub(super) deliveries: Mutex<VecDeque<Delivery>>,
}

/// Delivers, one after another.
pub(super) async fn deliver(mut news: mpsc::Receiver<WebhookEvent>, post: Arc<Post>, keys: Keys) {
    let client = reqwest::Client::builder().timeout(ANSWER_LIMIT).build().expect("an HTTP client");
    let mut late: Option<Vec<u8>> = None;
    while let Some(event) = news.recv().await {
        let body = serde_json::to_vec(&event).expect("an event that can be written");
        let delivery = post.deliveries.lock().expect("deliveries").pop_front().unwrap_or(Delivery::Once);
        let addresses = post.addresses.lock().expect("addresses").clone();
        match delivery {
            Delivery::AfterNext => {
                late = Some(body);
                continue;
            }
            Delivery::Lost => {}
            Delivery::Once => send(&client, &addresses, &keys, &body).await,
            Delivery::Twice => {
                send(&client, &addresses, &keys, &body).await;
                send(&client, &addresses, &keys, &body).await;
            }
            Delivery::BadSignature => {
                let others = Keys { key: keys.key.clone(), secret: "another secret".to_owned() };
                send(&client, &addresses, &others, &body).await;
            }
        }
        if let Some(late) = late.take() {
            send(&client, &addresses, &keys, &late).await;
        }
    }
}

/// The token that a body is sent with.
pub(super) fn sign(keys: &Keys, body: &[u8]) -> String {
    let hash = Base64::encode_string(&Sha256::digest(body));
    let token = AccessToken::with_api_key(&keys.key, &keys.secret).with_ttl(TOKEN_LIFETIME);
    token.with_sha256(&hash).to_jwt().expect("a token")
}

async fn send(client: &reqwest::Client, addresses: &[String], keys: &Keys, body: &[u8]) {
    for address in addresses {
        for tried in 0..TRIES_MAX {
            let request = client
                .post(address)
                .header("content-type", "application/webhook+json")
                .header("authorization", sign(keys, body))
                .body(body.to_vec());
            match request.send().await.map(|answer| answer.status()) {
                // What is refused is refused.
                Ok(status) if status.is_success() || status.is_client_error() => break,
                Ok(_) | Err(_) => sleep(PAUSE * 2_u32.pow(tried)).await,
            }
        }
    }
}
