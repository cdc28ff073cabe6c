//! Postgres and Redis, as the services reach them from here.

use std::time::Duration;

use event_bus::{BusSettings, Event, EventBus, Received};
use model::Topic;
use storage::{Storage, StorageError, StorageSettings};
use tokio::time::timeout;

use super::check::Check;

/// The name of the checks, which others depend on.
pub const POSTGRES: &str = "postgres";

/// The same of Redis.
pub const REDIS: &str = "redis";

/// Longest way of an event through Redis.
const LOOP_LIMIT: Duration = Duration::from_secs(4);

/// Reachable, migrated, writable.
pub async fn postgres(settings: &StorageSettings) -> (Check, Option<Storage>) {
    let settings = StorageSettings { connections_max: 1, ..settings.clone() };
    let storage = match Storage::connect(&settings) {
        Ok(storage) => storage,
        Err(error) => return (Check::fail(POSTGRES, error.to_string(), "correct DATABASE_URL"), None),
    };
    let check = match storage.check().await {
        Err(error @ StorageError::Unmigrated { .. }) => {
            Check::fail(POSTGRES, error.to_string(), "run `parley migrate` with this DATABASE_URL")
        }
        Err(error) => {
            let seen = error.to_string();
            let mend = postgres_mend(&seen);
            Check::fail(POSTGRES, seen, mend)
        }
        Ok(()) => match storage.check_writable().await {
            Ok(true) => return (Check::ok(POSTGRES, "reachable, migrated and writable"), Some(storage)),
            Ok(false) => Check::fail(
                POSTGRES,
                "it takes no writes from here: a standby, a read-only role or default_transaction_read_only",
                "point DATABASE_URL at the primary, with a role that may write",
            ),
            Err(error) => Check::fail(POSTGRES, error.to_string(), "see what Postgres logged"),
        },
    };
    (check, None)
}

/// SQLSTATEs of Postgres' manual, appendix A, and what else a connection fails with.
fn postgres_mend(seen: &str) -> &'static str {
    for (mark, mend) in [
        ("28P01", "correct the password in DATABASE_URL; the database keeps the first that it was made with"),
        (
            "28000",
            "let the role log in from here (pg_hba.conf), with TLS if it is asked for (sslmode=require)",
        ),
        ("3D000", "create the database, or correct the name behind the last slash of DATABASE_URL"),
        ("53300", "raise max_connections, or lower DATABASE_CONNECTIONS of the services"),
        ("42501", "grant this role what the role of `parley migrate` has"),
        ("sslmode", "correct sslmode or sslrootcert in DATABASE_URL, or the certificate, as it says"),
        ("Connection refused", "start Postgres, or correct host and port in DATABASE_URL"),
        (
            "lookup",
            "correct the host in DATABASE_URL; names of containers are known inside their network alone",
        ),
    ] {
        if seen.contains(mark) {
            return mend;
        }
    }
    "see that Postgres runs, and that host and port in DATABASE_URL lead to it"
}

/// Reachable, and an event goes round.
pub async fn redis(settings: &BusSettings) -> Check {
    let bus = match EventBus::connect(settings) {
        Ok(bus) => bus,
        Err(error) => return Check::fail(REDIS, error.to_string(), "correct REDIS_URL"),
    };
    if let Err(error) = bus.check().await {
        let seen = error.to_string();
        let mend = if ["WRONGPASS", "authenti", "AUTH"].iter().any(|mark| seen.contains(mark)) {
            "correct user and password in REDIS_URL"
        } else if ["sslrootcert=", "certificate does", "speaks no TLS"].iter().any(|mark| seen.contains(mark))
        {
            "correct REDIS_URL as it says"
        } else {
            "start Redis, or correct host and port in REDIS_URL; names of containers are known inside their network alone"
        };
        return Check::fail(REDIS, seen, mend);
    }
    let Ok(topic) = format!("session:parley-doctor-{}", uuid::Uuid::new_v4()).parse::<Topic>() else {
        return Check::skip(REDIS, "no topic to try");
    };
    let round = async {
        let mut subscriber = bus.subscriber();
        subscriber.subscribe(&topic).await;
        bus.publish(&topic, &Event::SessionEnded).await.map_err(|error| error.to_string())?;
        loop {
            match subscriber.recv().await {
                Received::Event { topic: heard, .. } if heard == topic => return Ok(()),
                // Subscribed only now: what was published before went by.
                Received::Gap => {
                    bus.publish(&topic, &Event::SessionEnded).await.map_err(|error| error.to_string())?;
                }
                Received::Event { .. } => {}
            }
        }
    };
    const MEND: &str =
        "let this user SUBSCRIBE and PUBLISH (ACL: &* +@pubsub), and use no proxy that knows no pub/sub";
    match timeout(LOOP_LIMIT, round).await {
        Ok(Ok(())) => Check::ok(REDIS, "reachable, and an event goes through its pub/sub"),
        Ok(Err::<(), String>(error)) => {
            Check::fail(REDIS, format!("it answers, and does not publish: {error}"), MEND)
        }
        Err(_) => Check::fail(REDIS, "it answers, and what is published never arrives at a subscriber", MEND),
    }
}
