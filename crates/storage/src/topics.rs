//! Writing to a topic: under its lock, so that commit order is sequence order.

use futures_util::future::join5;
use tokio_postgres::{Row, types::ToSql};

use crate::{Storage, StorageError, connection::Statement};

const PREPARE: &str = "INSERT INTO topics (name, sequence) VALUES ($1, 0) ON CONFLICT (name) DO NOTHING";

const LOCK: &str = "SELECT FROM topics WHERE name = $1 FOR UPDATE";

impl Storage {
    /// Runs `statement` under the lock of a topic, in one round trip and one transaction; its first row. What it reads is
    /// what was committed when it got the lock. A topic that is not there `comes_into_being`, or is not locked.
    pub(crate) async fn in_topic(
        &self,
        topic: &str,
        comes_into_being: bool,
        statement: &Statement,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>, StorageError> {
        let mut connection = self.connection().await?;
        let rows = connection
            .limited(statement.name, async |object| {
                let prepare = object.prepare_cached(PREPARE).await?;
                let lock = object.prepare_cached(LOCK).await?;
                let main = object.prepare_cached(statement.sql).await?;
                let named: [&(dyn ToSql + Sync); 1] = [&topic];
                let (begun, prepared, locked, rows, committed) = join5(
                    object.batch_execute("BEGIN"),
                    async { if comes_into_being { object.execute(&prepare, &named).await } else { Ok(0) } },
                    object.query(&lock, &named),
                    object.query(&main, parameters),
                    object.batch_execute("COMMIT"),
                )
                .await;
                begun?;
                prepared?;
                locked?;
                let rows = rows?;
                committed?;
                Ok(rows)
            })
            .await?;
        Ok(rows.into_iter().next())
    }
}
