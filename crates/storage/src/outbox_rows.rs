use std::collections::BTreeMap;

use model::{
    AppEvent, Change, Entry, Final, JsonObject, Message, Notification, NotificationChange, Samples, Sequence,
    SessionSlug, Speaker, Timestamp, Topic, TraceContext, Translation, Unread, UserId, UtteranceId,
};
use serde::{Deserialize, Serialize};
use tokio_postgres::{Row, types::Json};

use crate::{
    Storage, StorageError,
    columns::{
        OutsideColumn, WordColumn, outside, outside_column, parsed, timestamp, translation_outcome, unsigned,
        word_columns, words,
    },
    connection::{Connection, Statement},
};

/// A committed fact that followers of its topic have not been told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxRow {
    /// Where it is announced.
    pub topic: Topic,
    /// Its place in the topic.
    pub sequence: Sequence,
    /// When it was committed, by the writer's clock.
    pub at: Timestamp,
    /// Where in a trace it was stored.
    pub trace: Option<TraceContext>,
    /// The fact itself.
    pub announcement: Announcement,
}

/// What is announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Announcement {
    /// A final was stored, or it is known what became of its translation.
    Entry(Entry),
    /// A notification came into an inbox.
    Notification {
        /// What it is.
        notification: Notification,
        /// What is unread with it.
        unread: Unread,
    },
    /// An inbox changed otherwise.
    Change(NotificationChange),
    /// Something was said, changed or taken back in a room.
    Message(Message),
    /// An application published.
    App(AppEvent),
}

/// `outbox.payload`. Topic and sequence have their own columns. A kind that this program does not know is left for
/// one that does: both run while a deployment rolls.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Payload {
    Final {
        session: SessionSlug,
        utterance: UtteranceId,
        revision: u32,
        identity: model::Identity,
        name: Option<String>,
        text: String,
        language: Option<String>,
        start: Samples,
        end: Samples,
        words: Vec<WordColumn>,
        at: Timestamp,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        outside: Option<OutsideColumn>,
    },
    Translation {
        session: SessionSlug,
        utterance: UtteranceId,
        revision: u32,
        identity: model::Identity,
        name: Option<String>,
        language: String,
        text: Option<String>,
        failure: Option<String>,
        at: Timestamp,
    },
    Notification {
        notification: Notification,
        unread: u64,
    },
    Change {
        user: UserId,
        change: Change,
        unread: u64,
        at: Timestamp,
    },
    Message {
        message: Message,
    },
    App {
        event: JsonObject,
    },
}

/// The kinds that [`Payload`] can read.
const KNOWN_KINDS: [&str; 6] = ["final", "translation", "notification", "change", "message", "app"];

/// `outbox.traceparent` of what is stored now.
pub(crate) fn traceparent() -> Option<String> {
    telemetry::current().map(|context| context.to_string())
}

impl Payload {
    pub(crate) fn of(segment: &Final) -> Self {
        Self::Final {
            session: segment.session.clone(),
            utterance: segment.utterance.clone(),
            revision: segment.revision,
            identity: segment.speaker.identity.clone(),
            name: segment.speaker.name.clone(),
            text: segment.text.clone(),
            language: segment.language.clone(),
            start: segment.start,
            end: segment.end,
            words: word_columns(&segment.words),
            at: segment.at,
            outside: outside_column(segment.outside.as_ref()),
        }
    }

    pub(crate) fn announcement(self, sequence: Sequence) -> Announcement {
        match self {
            Self::Final {
                session,
                utterance,
                revision,
                identity,
                name,
                text,
                language,
                start,
                end,
                words: columns,
                at,
                outside: column,
            } => {
                let speaker = Speaker { identity, name };
                let words = words(columns);
                Announcement::Entry(Entry::Final(Final {
                    session,
                    sequence,
                    utterance,
                    revision,
                    speaker,
                    text,
                    language,
                    start,
                    end,
                    words,
                    at,
                    outside: outside(column),
                    translations: BTreeMap::new(),
                }))
            }
            Self::Translation {
                session,
                utterance,
                revision,
                identity,
                name,
                language,
                text,
                failure,
                at,
            } => Announcement::Entry(Entry::Translation(Translation {
                session,
                sequence,
                utterance,
                revision,
                speaker: Speaker { identity, name },
                language,
                outcome: translation_outcome(text, failure.as_deref()),
                at,
            })),
            Self::Notification { notification, unread: count } => {
                Announcement::Notification { notification, unread: Unread { count, version: sequence } }
            }
            Self::Change { user, change, unread: count, at } => {
                let unread = Unread { count, version: sequence };
                Announcement::Change(NotificationChange { user, change, unread, at })
            }
            Self::Message { message } => Announcement::Message(message),
            Self::App { event } => Announcement::App(AppEvent { sequence: Some(sequence), payload: event }),
        }
    }
}

const CLAIM: Statement = Statement {
    name: "claim_outbox",
    sql: "SELECT id, topic, sequence, created_at, payload, traceparent FROM outbox WHERE payload ->> 'kind' = ANY($2)
          ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED",
};

const DELETE: &str = "DELETE FROM outbox WHERE id = ANY($1)";

const OLDEST: Statement =
    Statement { name: "outbox_oldest", sql: "SELECT created_at FROM outbox ORDER BY id LIMIT 1" };

/// Rows that nobody else can claim until this is settled or dropped. Dropping it gives them back.
#[must_use = "dropping a claim gives its rows back"]
pub struct OutboxClaim {
    connection: Connection,
    ids: Vec<i64>,
    rows: Vec<OutboxRow>,
    unreadable: Vec<i64>,
    settled: bool,
}

impl OutboxClaim {
    /// The claimed rows, oldest first.
    pub fn rows(&self) -> &[OutboxRow] {
        &self.rows
    }

    /// Deletes the first `published` rows and gives the others back.
    ///
    /// # Errors
    /// As any operation here. The rows then stay and will be published again: at least once, not exactly once.
    pub async fn settle(mut self, published: usize) -> Result<(), StorageError> {
        self.ids.truncate(published);
        self.ids.append(&mut self.unreadable);
        let ids = &self.ids;
        self.connection
            .limited("settle_outbox", async |object| {
                let delete = object.prepare_cached(DELETE).await?;
                // Both in one round trip. A failed DELETE turns the COMMIT into a rollback.
                let (deleted, committed) = futures_util::future::join(
                    object.execute(&delete, &[ids]),
                    object.batch_execute("COMMIT"),
                )
                .await;
                deleted.and(committed)
            })
            .await?;
        self.settled = true;
        Ok(())
    }
}

impl Drop for OutboxClaim {
    fn drop(&mut self) {
        if !self.settled {
            // The transaction is still open, and only the end of its connection ends it without waiting here.
            self.connection.close();
        }
    }
}

impl Storage {
    /// Locks up to `limit` of the oldest rows that no other relay has claimed. Publish them, then
    /// [`OutboxClaim::settle`]: whoever dies between the two has published rows that will be published again. The
    /// claim holds a connection, and Postgres takes it back after 30 s.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn claim_outbox(&self, limit: u32) -> Result<OutboxClaim, StorageError> {
        let connection = self.connection().await?;
        // Made before BEGIN is sent, so that being dropped half-way closes the connection too.
        let mut claim = OutboxClaim {
            connection,
            ids: Vec::new(),
            rows: Vec::new(),
            unreadable: Vec::new(),
            settled: false,
        };
        let rows = claim
            .connection
            .limited(CLAIM.name, async |object| {
                let select = object.prepare_cached(CLAIM.sql).await?;
                let limit = i64::from(limit);
                let (begun, rows) = futures_util::future::join(
                    object.batch_execute("BEGIN"),
                    object.query(&select, &[&limit, &KNOWN_KINDS.as_slice()]),
                )
                .await;
                begun.and(rows)
            })
            .await?;
        for row in &rows {
            let id = row.try_get(0)?;
            match outbox_row(row) {
                Ok(row) => {
                    claim.ids.push(id);
                    claim.rows.push(row);
                }
                // It would fail for ever and hold up the rest. Followers find the fact itself in its table.
                Err(error) => {
                    tracing::error!(id, error = %error.counted(), "an outbox row cannot be read and is deleted");
                    claim.unreadable.push(id);
                }
            }
        }
        Ok(claim)
    }

    /// When the oldest row that waits was committed; `None` when none waits.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn outbox_oldest(&self) -> Result<Option<Timestamp>, StorageError> {
        Ok(match self.query_opt(&OLDEST, &[]).await? {
            Some(row) => Some(timestamp(row.try_get(0)?)),
            None => None,
        })
    }
}

fn outbox_row(row: &Row) -> Result<OutboxRow, StorageError> {
    let sequence = Sequence(unsigned(row.try_get(2)?));
    let Json(payload) = row.try_get::<_, Json<Payload>>(4)?;
    Ok(OutboxRow {
        topic: parsed(row.try_get(1)?)?,
        sequence,
        at: timestamp(row.try_get(3)?),
        // One that cannot be read concerns the trace alone.
        trace: row.try_get::<_, Option<&str>>(5)?.and_then(|text| text.parse().ok()),
        announcement: payload.announcement(sequence),
    })
}
