use model::Timestamp;
use storage::{NewStreamKey, Storage, StreamKey};
use testkit::Database;
use uuid::Uuid;

use crate::{NOW, slug};

fn key(number: u8, session: &str) -> NewStreamKey {
    NewStreamKey {
        id: Uuid::from_u128(u128::from(number)),
        key_sha256: [number; 32],
        session: slug(session),
        label: Some(format!("Camera {number}")),
        now: Timestamp(NOW.0 + i64::from(number)),
    }
}

async fn labels(storage: &Storage, session: &str) -> Vec<String> {
    let keys = storage.stream_keys(&slug(session)).await.unwrap();
    keys.into_iter().filter_map(|key| key.label).collect()
}

#[tokio::test]
async fn a_key_is_found_by_its_hash_and_is_of_one_session() {
    let database = Database::scratch().await;
    let storage = database.storage();
    for new in [key(1, "demo"), key(2, "demo"), key(3, "other")] {
        storage.create_stream_key(&new).await.unwrap();
    }
    let used = Timestamp(NOW.0 + 500);
    let found = storage.use_stream_key(&[2; 32], used).await.unwrap();
    let expected = StreamKey {
        id: Uuid::from_u128(2),
        session: slug("demo"),
        label: Some("Camera 2".to_owned()),
        created_at: Timestamp(NOW.0 + 2),
        last_used_at: Some(used),
        revoked_at: None,
    };
    assert_eq!(found, Some(expected));
    assert_eq!(storage.use_stream_key(&[9; 32], used).await, Ok(None));
    assert_eq!(labels(&storage, "demo").await, ["Camera 1", "Camera 2"]);
    assert_eq!(labels(&storage, "nobody").await, [""; 0]);
    assert!(storage.create_stream_key(&key(2, "demo")).await.is_err(), "a key is kept once");
}

#[tokio::test]
async fn a_revoked_key_is_good_for_nothing_and_still_listed() {
    let database = Database::scratch().await;
    let storage = database.storage();
    storage.create_stream_key(&key(1, "demo")).await.unwrap();
    let (demo, id) = (slug("demo"), Uuid::from_u128(1));
    assert_eq!(storage.revoke_stream_key(&slug("other"), id, NOW).await, Ok(false), "not of that session");
    for _ in 0..2 {
        assert_eq!(storage.revoke_stream_key(&demo, id, NOW).await, Ok(true));
    }
    assert_eq!(storage.use_stream_key(&[1; 32], NOW).await, Ok(None));
    let keys = storage.stream_keys(&demo).await.unwrap();
    assert_eq!(keys.first().unwrap().revoked_at, Some(NOW));
}
