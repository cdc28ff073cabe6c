use model::{SessionSlug, Timestamp};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::{
    Storage, StorageError,
    columns::{name, parsed, timestamp},
    connection::Statement,
};

/// A key with which an encoder publishes into a session. The key itself is nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamKey {
    /// Names the key where it must not be shown.
    pub id: Uuid,
    /// The session that it publishes into.
    pub session: SessionSlug,
    /// The name that its captions show.
    pub label: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When a publisher last showed it.
    pub last_used_at: Option<Timestamp>,
    /// Since when it is good for nothing.
    pub revoked_at: Option<Timestamp>,
}

/// A key that is to be kept.
#[derive(Debug, Clone)]
pub struct NewStreamKey {
    /// Made by the caller.
    pub id: Uuid,
    /// SHA-256 of the key.
    pub key_sha256: [u8; 32],
    /// The session that it publishes into; made if it is not there.
    pub session: SessionSlug,
    /// The name that its captions show.
    pub label: Option<String>,
    /// The present moment.
    pub now: Timestamp,
}

const CREATE: Statement = Statement {
    name: "create_stream_key",
    sql: "WITH session AS (
              INSERT INTO sessions (slug, status, created_at, last_activity_at) VALUES ($2, 'created', $5, $5)
              ON CONFLICT (slug) DO UPDATE SET slug = excluded.slug
              RETURNING id)
          INSERT INTO stream_keys (id, session_id, key_sha256, label, created_at)
          SELECT $1::uuid, session.id, $3::bytea, $4::text, $5::timestamptz FROM session",
};

/// The columns that [`stream_key`] reads, in its order.
macro_rules! stream_key_columns {
    () => {
        "stream_keys.id, sessions.slug, stream_keys.label, stream_keys.created_at, stream_keys.last_used_at,
         stream_keys.revoked_at"
    };
}

const USE: Statement = Statement {
    name: "use_stream_key",
    sql: concat!(
        "UPDATE stream_keys SET last_used_at = GREATEST(last_used_at, $2) FROM sessions
         WHERE sessions.id = stream_keys.session_id AND key_sha256 = $1 AND revoked_at IS NULL
         RETURNING ",
        stream_key_columns!()
    ),
};

const LIST: Statement = Statement {
    name: "list_stream_keys",
    sql: concat!(
        "SELECT ",
        stream_key_columns!(),
        " FROM stream_keys JOIN sessions ON sessions.id = stream_keys.session_id
         WHERE sessions.slug = $1 ORDER BY stream_keys.created_at, stream_keys.id"
    ),
};

const REVOKE: Statement = Statement {
    name: "revoke_stream_key",
    sql: "UPDATE stream_keys SET revoked_at = COALESCE(revoked_at, $3) FROM sessions
          WHERE sessions.id = stream_keys.session_id AND sessions.slug = $2 AND stream_keys.id = $1
          RETURNING stream_keys.id",
};

fn stream_key(row: &Row) -> Result<StreamKey, StorageError> {
    Ok(StreamKey {
        id: row.try_get(0)?,
        session: parsed(row.try_get(1)?)?,
        label: row.try_get(2)?,
        created_at: timestamp(row.try_get(3)?),
        last_used_at: row.try_get::<_, Option<_>>(4)?.map(timestamp),
        revoked_at: row.try_get::<_, Option<_>>(5)?.map(timestamp),
    })
}

impl Storage {
    /// Keeps a key for a session, which need not be there yet.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn create_stream_key(&self, key: &NewStreamKey) -> Result<(), StorageError> {
        self.query(
            &CREATE,
            &[
                &key.id,
                &key.session.as_str(),
                &key.key_sha256.as_slice(),
                &name(key.label.as_deref()),
                &key.now.to_jiff(),
            ],
        )
        .await
        .map(drop)
    }

    /// The key with this SHA-256, if it is good, and notes that it was used.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn use_stream_key(
        &self,
        key_sha256: &[u8; 32],
        now: Timestamp,
    ) -> Result<Option<StreamKey>, StorageError> {
        let row = self.query_opt(&USE, &[&key_sha256.as_slice(), &now.to_jiff()]).await?;
        row.as_ref().map(stream_key).transpose()
    }

    /// Every key of a session, also revoked ones, the oldest first.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn stream_keys(&self, session: &SessionSlug) -> Result<Vec<StreamKey>, StorageError> {
        self.query(&LIST, &[&session.as_str()]).await?.iter().map(stream_key).collect()
    }

    /// Makes a key of this session good for nothing. False when there is none of this id. Whoever publishes with it
    /// at this moment goes on.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn revoke_stream_key(
        &self,
        session: &SessionSlug,
        id: Uuid,
        now: Timestamp,
    ) -> Result<bool, StorageError> {
        Ok(self.query_opt(&REVOKE, &[&id, &session.as_str(), &now.to_jiff()]).await?.is_some())
    }
}
