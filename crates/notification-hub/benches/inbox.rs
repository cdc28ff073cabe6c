//! How fast an inbox is that holds a million notifications: each call as its callers make it, over gRPC, against
//! Postgres. `make bench-inbox`, or with `PARLEY_TEST_DATABASE_URL` and `PARLEY_TEST_REDIS_URL` set
//! `cargo bench -p notification-hub --bench inbox -- [ROWS]`.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a program that measures stops at the first surprise"
)]

use std::time::{Duration, Instant};

use lifecycle::Lifecycle;
use model::{Clock, NewNotification, NotificationId, Priority, Sequence, Topic, UserId};
use notification_hub::HubSettings;
use rpc::{
    Hub,
    notification::{Filter, Publish},
};
use testkit::{Database, redis_settings};

/// Notifications of the user, unless the command says otherwise.
const ROWS: u32 = 1_000_000;

/// Calls of each kind.
const CALLS: u32 = 200;

#[tokio::main]
async fn main() {
    let rows = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(ROWS);
    let database = Database::scratch().await;
    let redis = redis_settings();
    let settings = settings::of([
        ("DATABASE_URL", database.url().expose().to_owned()),
        ("REDIS_URL", redis.url.expose().to_owned()),
        ("REDIS_PREFIX", redis.prefix.clone()),
        ("REDIS_WS_PREFIX", redis.others.clone().unwrap_or_default()),
        ("HUB_PORT", "0".to_owned()),
        ("HUB_METRICS_PORT", "0".to_owned()),
        ("NOTIFICATION_RETENTION_DAYS", "0".to_owned()),
    ]);
    let settings = HubSettings::read(settings).unwrap();
    let life = Lifecycle::default();
    let running = notification_hub::start(&settings, &life, Clock::system()).await.unwrap();
    let address = format!("http://{}", running.address);
    let hub = Hub::new(&rpc::HubSettings { address, internal_token: None }).unwrap();
    let user: UserId = "u1".parse().unwrap();

    let began = Instant::now();
    hub.publish(&publication(&user), None).await.unwrap();
    database.run(&seed(rows)).await;
    println!(
        "{rows} notifications of one user, every third read (stored in {:.0} s)\n",
        began.elapsed().as_secs_f64()
    );
    println!("| call | median ms | 95 % ms | worst ms |\n|-|-|-|-|");

    let all = Filter { limit: Some(20), ..Filter::default() };
    let unread = Filter { unread_only: true, ..all.clone() };
    let rare = Filter { types: vec!["RARE".parse().unwrap()], ..all.clone() };
    let page = hub.list(&user, &Filter { limit: Some(200), ..all.clone() }).await.unwrap();
    let ids: Vec<NotificationId> = page.notifications.iter().map(|one| one.id).collect();
    let topic = Topic::User(user.clone());

    measure("Publish", async |_| drop(hub.publish(&publication(&user), None).await.unwrap())).await;
    measure("List, newest 20", async |_| drop(hub.list(&user, &all).await.unwrap())).await;
    measure("List, unread 20", async |_| drop(hub.list(&user, &unread).await.unwrap())).await;
    measure("List, 20 of a rare type", async |_| drop(hub.list(&user, &rare).await.unwrap())).await;
    let mut pages = all.clone();
    measure("List, page after page", async |_| {
        pages.cursor = hub.list(&user, &pages).await.unwrap().next_cursor;
    })
    .await;
    measure("UnreadCount", async |_| {
        hub.unread(&user).await.unwrap();
    })
    .await;
    measure("Replay of the last 100", async |_| {
        let version = hub.unread(&user).await.unwrap().version;
        drop(hub.replay(&topic, Sequence(version.0 - 100), Some(100)).await.unwrap());
    })
    .await;
    measure("MarkRead, one", async |call| {
        hub.mark_read(&user, &ids[call..=call]).await.unwrap();
    })
    .await;
    measure("MarkAllRead, after one new", async |call| {
        if call > 0 {
            hub.publish(&publication(&user), None).await.unwrap();
        }
        hub.mark_all_read(&user).await.unwrap();
    })
    .await;
    measure("List, unread 20, all read", async |_| drop(hub.list(&user, &unread).await.unwrap())).await;
    let began = Instant::now();
    let cleared = hub.clear(&user).await.unwrap().changed;
    println!("| Clear ({cleared} notifications, once) | {:.2} | | |", began.elapsed().as_secs_f64() * 1000.0);
    life.end(Duration::from_secs(5)).await.unwrap();
}

fn publication(user: &UserId) -> Publish {
    let notification = NewNotification {
        kind: "LIKE_POST".parse().unwrap(),
        title: "Somebody likes your post".to_owned(),
        message: "It is the one about notifications.".to_owned(),
        metadata: None,
        priority: Priority::Normal,
        expires_at: None,
        deliver_at: None,
        collapse_key: None,
    };
    Publish::Users { users: vec![user.clone()], notification }
}

/// What a million publications would have left, in one statement.
fn seed(rows: u32) -> String {
    format!(
        "INSERT INTO notifications (
             id, user_id, sequence, type, title, message, priority, is_read, marked, created_at)
         SELECT gen_random_uuid(), 'u1', n, CASE WHEN n % 10000 = 0 THEN 'RARE' ELSE 'LIKE_POST' END,
             'Somebody likes your post', 'It is the one about notifications.', 1, n % 3 = 0, n, now()
         FROM generate_series(2, {rows}) AS n;
         UPDATE topics SET sequence = {rows} WHERE name = 'user:u1';
         UPDATE inboxes SET listed = {rows}, unread = (SELECT count(*) FROM notifications WHERE NOT is_read)
         WHERE user_id = 'u1';
         ANALYZE"
    )
}

/// Prints the times of [`CALLS`] calls, one after the other.
async fn measure(what: &str, mut call: impl AsyncFnMut(usize)) {
    let mut times = Vec::new();
    for number in 0..CALLS as usize {
        let began = Instant::now();
        call(number).await;
        times.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    println!("| {what} | {:.2} | {:.2} | {:.2} |", at(0.5), at(0.95), at(1.0));
}
