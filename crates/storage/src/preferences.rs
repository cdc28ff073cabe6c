//! What a user wants to hear, and on which browsers.

use futures_util::future::join;
use model::{NotificationType, Timestamp, UserId, notification::PUSH_SUBSCRIPTIONS_MAX};
use settings::Secret;
use tokio_postgres::Row;

use crate::{Storage, StorageError, columns::parsed, connection::Statement};

/// A browser that can be woken by web push (RFC 8030, RFC 8291).
#[derive(Debug, Clone)]
pub struct PushSubscription {
    /// Where its push service takes messages for it. Whoever knows it can send.
    pub endpoint: Secret,
    /// Its public key (P-256, uncompressed, base64url).
    pub p256dh: String,
    /// Its authentication secret (16 bytes, base64url).
    pub auth: Secret,
}

const MUTED: Statement =
    Statement { name: "muted_types", sql: "SELECT muted_types FROM inboxes WHERE user_id = $1" };

// Every inbox has a topic. Without one there is nothing to lock.
const MUTE: Statement = Statement {
    name: "mute_types",
    sql: "WITH named AS (
              INSERT INTO topics (name, sequence) VALUES ('user:' || $1::text, 0) ON CONFLICT (name) DO NOTHING)
          INSERT INTO inboxes (user_id, muted_types) VALUES ($1, $2)
          ON CONFLICT (user_id) DO UPDATE SET muted_types = excluded.muted_types",
};

const REGISTER: &str = "INSERT INTO push_subscriptions (endpoint, user_id, p256dh, auth, created_at)
     VALUES ($1, $2, $3, $4, $5)
     ON CONFLICT (endpoint) DO UPDATE SET
         user_id = excluded.user_id, p256dh = excluded.p256dh, auth = excluded.auth, created_at = excluded.created_at";

const FORGET_OLDEST: &str = "DELETE FROM push_subscriptions WHERE endpoint IN (
     SELECT endpoint FROM push_subscriptions WHERE user_id = $1 ORDER BY created_at DESC, endpoint OFFSET $2)";

const REMOVE: Statement = Statement {
    name: "remove_push",
    sql: "DELETE FROM push_subscriptions WHERE endpoint = $1 AND user_id = $2 RETURNING endpoint",
};

const SUBSCRIPTIONS: Statement = Statement {
    name: "push_subscriptions",
    sql: "SELECT endpoint, p256dh, auth FROM push_subscriptions WHERE user_id = $1 ORDER BY created_at DESC",
};

impl Storage {
    /// The types of which the user wants nothing.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn muted_types(&self, user: &UserId) -> Result<Vec<NotificationType>, StorageError> {
        let Some(row) = self.query_opt(&MUTED, &[&user.as_str()]).await? else { return Ok(Vec::new()) };
        row.try_get::<_, Vec<String>>(0)?.into_iter().map(parsed).collect()
    }

    /// Mutes these types and no others, for what is published from now on.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn mute_types(&self, user: &UserId, types: &[NotificationType]) -> Result<(), StorageError> {
        let types: Vec<&str> = types.iter().map(NotificationType::as_str).collect();
        self.query(&MUTE, &[&user.as_str(), &types]).await?;
        Ok(())
    }

    /// Registers a browser; the same endpoint again replaces it, whoever it was of. A user's oldest beyond
    /// [`PUSH_SUBSCRIPTIONS_MAX`] are forgotten.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn register_push(
        &self,
        user: &UserId,
        subscription: &PushSubscription,
        now: Timestamp,
    ) -> Result<(), StorageError> {
        let kept = i64::try_from(PUSH_SUBSCRIPTIONS_MAX).unwrap_or(i64::MAX);
        let mut connection = self.connection().await?;
        connection
            .limited("register_push", async |object| {
                let register = object.prepare_cached(REGISTER).await?;
                let forget = object.prepare_cached(FORGET_OLDEST).await?;
                let (user, at) = (user.as_str(), now.to_jiff());
                let endpoint = subscription.endpoint.expose();
                let auth = subscription.auth.expose();
                let (registered, forgotten) = join(
                    object.execute(&register, &[&endpoint, &user, &subscription.p256dh, &auth, &at]),
                    object.execute(&forget, &[&user, &kept]),
                )
                .await;
                registered.and(forgotten)
            })
            .await?;
        Ok(())
    }

    /// Forgets a browser of the user; whether it was known.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn remove_push(&self, user: &UserId, endpoint: &Secret) -> Result<bool, StorageError> {
        Ok(self.query_opt(&REMOVE, &[&endpoint.expose(), &user.as_str()]).await?.is_some())
    }

    /// The browsers of the user, newest first.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn push_subscriptions(&self, user: &UserId) -> Result<Vec<PushSubscription>, StorageError> {
        self.query(&SUBSCRIPTIONS, &[&user.as_str()]).await?.iter().map(subscription).collect()
    }
}

fn subscription(row: &Row) -> Result<PushSubscription, StorageError> {
    Ok(PushSubscription {
        endpoint: row.try_get::<_, String>(0)?.into(),
        p256dh: row.try_get(1)?,
        auth: row.try_get::<_, String>(2)?.into(),
    })
}
