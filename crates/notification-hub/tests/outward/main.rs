//! Web push and the hooks, against a receiver that answers as it is told.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod receiver;
mod sessions;

use std::time::Duration;

use base64ct::{Base64UrlUnpadded, Encoding};
use event_bus::EventBus;
use lifecycle::Lifecycle;
use model::{Clock, NewNotification, Priority, Refusal, Timestamp, UserId};
use notification_hub::HubSettings;
use p256::{
    ecdsa::{Signature, VerifyingKey, signature::Verifier},
    elliptic_curve::sec1::ToEncodedPoint,
};
use rpc::{Hub, HubError, notification::Publish};
use testkit::{Database, eventually, redis_settings};

use crate::receiver::{ANSWERS, Got, Receiver, assert_signed};

struct Stage {
    life: Lifecycle,
    /// The receiver's.
    _outside: Lifecycle,
    hub: Hub,
    bus: EventBus,
    clock: Clock,
    receiver: Receiver,
    _database: Database,
}

async fn stage(statuses: &[u16]) -> Stage {
    let life = Lifecycle::default();
    let outside = Lifecycle::default();
    let receiver = Receiver::start(&outside, statuses).await;
    let database = Database::scratch().await;
    let redis = redis_settings();
    let pairs = [
        ("DATABASE_URL", database.url().expose().to_owned()),
        ("REDIS_URL", redis.url.expose().to_owned()),
        ("REDIS_PREFIX", redis.prefix.clone()),
        ("REDIS_WS_PREFIX", "off".to_owned()),
        ("HUB_PORT", "0".to_owned()),
        ("HUB_METRICS_PORT", "0".to_owned()),
        ("VAPID_PRIVATE_KEY", "11".repeat(32)),
        ("PUSH_HOSTS", "127.0.0.1".to_owned()),
        ("NOTIFY_HOOK_URL", format!("http://{}/hook", receiver.address)),
        ("NOTIFY_HOOK_SECRET", "secret".to_owned()),
    ];
    let settings = HubSettings::read(settings::of(pairs)).unwrap();
    let clock = Clock::manual(Timestamp(1_800_000_000_000));
    let running = notification_hub::start(&settings, &life, clock.clone()).await.unwrap();
    let address = format!("http://{}", running.address);
    let hub = Hub::new(&rpc::HubSettings { address, internal_token: None }).unwrap();
    let bus = EventBus::connect(&settings.bus).unwrap();
    Stage { life, _outside: outside, hub, bus, clock, receiver, _database: database }
}

fn user(id: &str) -> UserId {
    id.parse().unwrap()
}

impl Stage {
    async fn tell(&self, id: &str) {
        self.tell_all(vec![user(id)]).await;
    }

    async fn tell_all(&self, users: Vec<UserId>) {
        let notification = NewNotification {
            kind: "NEW_MESSAGE".parse().unwrap(),
            title: "Hello".to_owned(),
            message: "there".to_owned(),
            metadata: None,
            priority: Priority::Urgent,
            expires_at: None,
            deliver_at: None,
            collapse_key: None,
        };
        let publish = Publish::Users { users, notification };
        self.hub.publish(&publish, None).await.unwrap();
    }

    fn endpoint(&self, path: &str) -> String {
        format!("http://{}{path}", self.receiver.address)
    }

    async fn register(&self, id: &str, path: &str) -> p256::SecretKey {
        let key = p256::SecretKey::from_slice(&[7; 32]).unwrap();
        let p256dh = Base64UrlUnpadded::encode_string(key.public_key().to_encoded_point(false).as_bytes());
        let auth = Base64UrlUnpadded::encode_string(&[9; 16]);
        self.hub.register_push(&user(id), &self.endpoint(path), &p256dh, &auth).await.unwrap();
        key
    }

    /// Waits for so many requests at a path; the newest.
    async fn received(&self, path: &str, count: usize) -> Got {
        eventually("the receiver is told", async || {
            // Back-offs pass by.
            self.clock.advance(Duration::from_secs(3));
            let got: Vec<_> = self.receiver.got().into_iter().filter(|got| got.path == path).collect();
            (got.len() >= count).then(|| got.last().cloned()).flatten()
        })
        .await
    }
}

#[tokio::test]
async fn a_browser_of_an_absent_user_is_woken_and_can_read_it() {
    let stage = stage(&[]).await;
    let key = stage.register("u1", "/browser").await;
    stage.tell("u1").await;
    let got = stage.received("/browser", 1).await;
    let auth: web_push_native::Auth = [9_u8; 16].into();
    let text = web_push_native::decrypt(got.body, &key, &auth).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!((&json["title"], &json["type"]), (&"Hello".into(), &"NEW_MESSAGE".into()));
    assert_eq!((got.headers["urgency"].as_str(), got.headers["ttl"].as_str()), ("high", "86400"));

    let public = stage.hub.push_key().await.unwrap().unwrap();
    let (token, k) =
        got.headers["authorization"].strip_prefix("vapid t=").unwrap().split_once(", k=").unwrap();
    assert_eq!(k, public);
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let signature = Signature::from_slice(&Base64UrlUnpadded::decode_vec(signature).unwrap()).unwrap();
    let verifier = VerifyingKey::from_sec1_bytes(&Base64UrlUnpadded::decode_vec(&public).unwrap()).unwrap();
    verifier.verify(signed.as_bytes(), &signature).unwrap();
    let claims = Base64UrlUnpadded::decode_vec(signed.split_once('.').unwrap().1).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!(claims["aud"], format!("http://{}", stage.receiver.address));
    stage.life.drain();
}

#[tokio::test]
async fn who_has_a_connection_open_is_not_woken_and_gone_browsers_are_forgotten() {
    // The hook's answers come first in no order that we know; both ways are asked with paths.
    let stage = stage(&[]).await;
    stage.register("u1", "/browser").await;
    stage.bus.mark_present(&[user("u1")], stage.clock.now()).await.unwrap();
    stage.tell("u1").await;
    let hooked = stage.received("/hook", 1).await;
    let json: serde_json::Value = serde_json::from_slice(&hooked.body).unwrap();
    assert_eq!((&json["present"], &json["userId"]), (&true.into(), &"u1".into()));
    assert!(stage.receiver.got().iter().all(|got| got.path == "/hook"), "nobody was woken");

    let refused = stage.hub.register_push(&user("u1"), "http://10.0.0.1/x", "x", "x").await.unwrap_err();
    assert_eq!(refused, HubError::Refused(Refusal::SubscriptionInvalid));
    assert!(stage.hub.remove_push(&user("u1"), &stage.endpoint("/browser")).await.unwrap());
}

#[tokio::test]
async fn a_drain_waits_for_what_is_under_way_and_begins_nothing_more() {
    let stage = stage(&[]).await;
    stage.receiver.answers.forget_permits(ANSWERS);
    stage.tell_all((0..32).map(|number| user(&format!("u{number}"))).collect()).await;
    stage.received("/hook", 1).await;
    stage.life.drain();
    stage.receiver.answers.add_permits(ANSWERS);
    stage.life.end(Duration::from_secs(60)).await.unwrap();
    // As many as are under way at a time.
    assert!((1..=8).contains(&stage.receiver.got().len()), "{}", stage.receiver.got().len());
}

#[tokio::test]
async fn the_hook_is_signed_and_asked_again_until_it_answers() {
    let stage = stage(&[500, 429, 302]).await;
    stage.tell("u1").await;
    let got = stage.received("/hook", 4).await;
    let ids: Vec<_> = stage.receiver.got().iter().map(|got| got.headers["x-parley-id"].clone()).collect();
    assert!(ids.windows(2).all(|pair| pair[0] == pair[1]), "one id to deduplicate by: {ids:?}");
    let json: serde_json::Value = serde_json::from_slice(&got.body).unwrap();
    assert_eq!(json["id"].as_str(), Some(ids[0].as_str()));
    assert_signed(&got);
}
