//! The database of a system before this one, only ever read. What its tables are called and what they hold is written down
//! here; what becomes of a row is for whoever asks. A column that is not needed may be missing. Every value comes as text, so
//! that none of them, whatever it is, ends the reading of the others.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use deadpool_postgres::Connect as _;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Row};

use crate::{StorageError, StorageSettings, error, tls::Dial};

/// Rows that are read at once, and at most become one transaction of ours, which has the time of any other.
pub const OLD_ROWS_MAX: usize = 100;

/// Characters of a value that are read; longer ones are told as too long. Beyond all that we keep of anything.
const VALUE_CHARACTERS_MAX: usize = 40_000;

/// Reading may take as long as it takes, and must change nothing.
const OPTIONS: &str = "-c default_transaction_read_only=on -c statement_timeout=0 \
                       -c idle_in_transaction_session_timeout=0 -c TimeZone=UTC -c DateStyle=ISO";

/// What is read of a system: a table, joined with others by their ids, and the columns that are known.
#[derive(Debug)]
pub struct OldRows {
    /// What there is in it, as people say it.
    pub what: &'static str,
    table: &'static str,
    /// Alias, table, and the column of the first that holds its `id`.
    joins: &'static [(&'static str, &'static str, &'static str)],
    /// Name, alias of the table, column, and whether nothing can be done without.
    fields: &'static [(&'static str, &'static str, &'static str, bool)],
    /// Fields to order by, in turn; the first that has a value where they stand together.
    order: &'static [&'static [&'static str]],
}

/// Alias of the table that [`OldRows`] is about.
const ROW: &str = "old";

/// System A: `VideoSession`.
pub const OLD_SESSIONS: OldRows = OldRows {
    what: "sessions",
    table: "VideoSession",
    joins: &[],
    fields: &[
        ("id", ROW, "id", true),
        ("slug", ROW, "slug", true),
        ("createdAt", ROW, "createdAt", false),
        ("startedAt", ROW, "startedAt", false),
        ("endedAt", ROW, "endedAt", false),
        ("lastActivityAt", ROW, "lastActivityAt", false),
    ],
    order: &[&["id"]],
};

/// System A: `Participant`.
pub const OLD_PARTICIPANTS: OldRows = OldRows {
    what: "participants",
    table: "Participant",
    joins: &[("session", "VideoSession", "videoSessionId")],
    fields: &[
        ("id", ROW, "id", true),
        ("session", "session", "slug", true),
        ("identity", ROW, "identity", true),
        ("name", ROW, "name", false),
        ("userId", ROW, "userId", false),
        ("joinedAt", ROW, "joinedAt", false),
        ("leftAt", ROW, "leftAt", false),
    ],
    order: &[&["id"]],
};

/// System A: `TranscriptSegment`, the segments of a session one after the other.
pub const OLD_SEGMENTS: OldRows = OldRows {
    what: "segments",
    table: "TranscriptSegment",
    joins: &[("session", "VideoSession", "videoSessionId"), ("participant", "Participant", "participantId")],
    fields: &[
        ("id", ROW, "id", true),
        ("session", "session", "slug", true),
        ("videoSessionId", ROW, "videoSessionId", true),
        ("utteranceId", ROW, "utteranceId", false),
        ("identity", "participant", "identity", false),
        ("name", "participant", "name", false),
        ("text", ROW, "text", true),
        ("language", ROW, "language", false),
        ("isFinal", ROW, "isFinal", false),
        ("startedAt", ROW, "startedAt", false),
        ("endedAt", ROW, "endedAt", false),
        ("createdAt", ROW, "createdAt", false),
    ],
    order: &[&["videoSessionId"], &["startedAt", "createdAt"], &["id"]],
};

/// System B: `messages`. It knows no rooms, names or kinds; a relative of it may.
pub const OLD_MESSAGES: OldRows = OldRows {
    what: "messages",
    table: "messages",
    joins: &[],
    fields: &[
        ("id", ROW, "id", true),
        ("content", ROW, "content", true),
        ("userId", ROW, "userId", false),
        ("timestamp", ROW, "timestamp", true),
        ("username", ROW, "username", false),
        ("type", ROW, "type", false),
        ("roomId", ROW, "roomId", false),
    ],
    order: &[&["roomId"], &["timestamp"], &["id"]],
};

/// System C: `notifications`, those of a user one after the other.
pub const OLD_NOTIFICATIONS: OldRows = OldRows {
    what: "notifications",
    table: "notifications",
    joins: &[],
    fields: &[
        ("id", ROW, "id", true),
        ("userId", ROW, "userId", true),
        ("type", ROW, "type", true),
        ("title", ROW, "title", true),
        ("message", ROW, "message", false),
        ("isRead", ROW, "isRead", false),
        ("isArchived", ROW, "isArchived", false),
        ("metadata", ROW, "metadata", false),
        ("createdAt", ROW, "createdAt", true),
    ],
    order: &[&["userId"], &["createdAt"], &["id"]],
};

/// System C: `user_settings`: what users want to hear.
pub const OLD_SETTINGS: OldRows = OldRows {
    what: "settings",
    table: "user_settings",
    joins: &[],
    fields: &[
        ("id", ROW, "userId", true),
        ("notifyLikes", ROW, "notifyLikes", false),
        ("notifyComments", ROW, "notifyComments", false),
        ("notifyNewPosts", ROW, "notifyNewPosts", false),
        ("notifySubscriptions", ROW, "notifySubscriptions", false),
        ("notifyMessages", ROW, "notifyMessages", false),
        ("notifyTips", ROW, "notifyTips", false),
    ],
    order: &[&["id"]],
};

/// One row; every value of a field that [`OldRows`] names.
#[derive(Debug)]
pub struct OldRow {
    row: Row,
    fields: Arc<HashMap<&'static str, usize>>,
}

/// Why a value cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Longer than anything that we keep.
    #[error("has more than {VALUE_CHARACTERS_MAX} characters")]
    TooLong,
    /// Not text in UTF-8.
    #[error("is not UTF-8")]
    NotText,
}

impl OldRow {
    /// A value; `None` where the row, or the whole table, has none.
    ///
    /// # Errors
    /// See [`Unreadable`].
    pub fn get(&self, field: &str) -> Result<Option<&str>, Unreadable> {
        let Some(index) = self.fields.get(field) else { return Ok(None) };
        let value: Option<&str> = self.row.try_get(*index).map_err(|_| Unreadable::NotText)?;
        match value {
            // What is cut off at the end has more.
            Some(value)
                if value.len() > VALUE_CHARACTERS_MAX && value.chars().count() > VALUE_CHARACTERS_MAX =>
            {
                Err(Unreadable::TooLong)
            }
            value => Ok(value),
        }
    }
}

/// A connection to it, which sees it as it was when it was opened.
pub struct OldDatabase {
    client: Client,
    connection: JoinHandle<()>,
}

/// Ends with whoever reads; a cursor is not worth a rollback.
impl Drop for OldDatabase {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl OldDatabase {
    /// Connects.
    ///
    /// # Errors
    /// [`StorageError::Address`], [`StorageError::Unavailable`].
    pub async fn open(settings: &StorageSettings) -> Result<Self, StorageError> {
        let (address, dial): (_, Dial) = settings.way()?;
        let mut config = address.config;
        let options = match config.get_options() {
            Some(theirs) => format!("{OPTIONS} {theirs}"),
            None => OPTIONS.to_owned(),
        };
        config.options(options).application_name("parley import").connect_timeout(settings.connect_timeout);
        let (client, connection) =
            dial.connect(&config).await.map_err(|error| error::while_connecting(&error))?;
        let old = Self { client, connection };
        // One moment for all tables, and cursors.
        old.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        Ok(old)
    }

    /// How many rows there are; `None` without such a table.
    ///
    /// # Errors
    /// As [`OldDatabase::open`].
    pub async fn count(&self, of: &OldRows) -> Result<Option<u64>, StorageError> {
        if self.columns(of.table).await?.is_empty() {
            return Ok(None);
        }
        let rows = self.client.query(&format!("SELECT count(*) FROM {}", quoted(of.table)), &[]).await;
        let count = rows?.first().map(|row| row.try_get::<_, i64>(0)).transpose()?;
        Ok(Some(count.and_then(|count| u64::try_from(count).ok()).unwrap_or(0)))
    }

    /// Begins to read; one reading at a time.
    ///
    /// # Errors
    /// [`StorageError::Foreign`] where the table is not the one that is meant; as [`OldDatabase::open`].
    pub async fn read(&self, what: &OldRows) -> Result<Reading<'_>, StorageError> {
        let mut tables = HashMap::from([(ROW, (what.table, self.columns(what.table).await?))]);
        for (alias, table, by) in what.joins {
            let joinable = tables.get(ROW).is_some_and(|(_, columns)| columns.contains_key(*by));
            let columns = self.columns(table).await?;
            let columns = if joinable && columns.contains_key("id") { columns } else { HashMap::new() };
            tables.insert(alias, (table, columns));
        }
        let (mut select, mut fields) = (Vec::new(), HashMap::new());
        let mut expressions = HashMap::new();
        for (field, alias, column, needed) in what.fields {
            let Some((table, columns)) = tables.get(alias) else { continue };
            let Some(kind) = columns.get(*column) else {
                if *needed {
                    return Err(StorageError::Foreign(if columns.is_empty() {
                        format!("it has no table {table}, or nothing that leads to it")
                    } else {
                        format!("its table {table} has no column {column}")
                    }));
                }
                continue;
            };
            let name = format!("{alias}.{}", quoted(column));
            // Without a zone it is UTC, as Prisma writes it.
            let value = match kind.as_str() {
                "timestamp without time zone" => format!("({name} AT TIME ZONE 'UTC')::text"),
                _ => format!("{name}::text"),
            };
            fields.insert(*field, select.len());
            select.push(format!("left({value}, {})", VALUE_CHARACTERS_MAX + 1));
            expressions.insert(*field, name);
        }
        let order = what.order.iter().filter_map(|together| {
            let there: Vec<&str> =
                together.iter().filter_map(|field| expressions.get(field).map(String::as_str)).collect();
            (!there.is_empty()).then(|| format!("COALESCE({})", there.join(", ")))
        });
        let joins = what
            .joins
            .iter()
            .filter(|(alias, ..)| tables.get(alias).is_some_and(|table| !table.1.is_empty()));
        let joins = joins.map(|(alias, table, by)| {
            format!(" LEFT JOIN {} AS {alias} ON {alias}.id = {ROW}.{}", quoted(table), quoted(by))
        });
        self.run(&format!(
            "DECLARE old_rows NO SCROLL CURSOR FOR SELECT {} FROM {} AS {ROW}{} ORDER BY {}",
            select.join(", "),
            quoted(what.table),
            joins.collect::<String>(),
            order.collect::<Vec<_>>().join(", "),
        ))
        .await?;
        Ok(Reading { database: self, fields: Arc::new(fields) })
    }

    /// The columns of a table and their types; none without such a table.
    async fn columns(&self, table: &str) -> Result<HashMap<String, String>, StorageError> {
        let rows = self
            .client
            .query(
                "SELECT attname::text, format_type(atttypid, NULL) FROM pg_attribute
                 WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped",
                &[&quoted(table)],
            )
            .await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }

    /// Columns of settings that say what a user wants to hear and that nobody here knows.
    ///
    /// # Errors
    /// As [`OldDatabase::open`].
    pub async fn unknown_settings(&self) -> Result<Vec<String>, StorageError> {
        let known: HashSet<&str> = OLD_SETTINGS.fields.iter().map(|(_, _, column, _)| *column).collect();
        let columns = self.columns(OLD_SETTINGS.table).await?;
        let mut unknown: Vec<String> = columns
            .into_keys()
            .filter(|column| column.starts_with("notify") && !known.contains(column.as_str()))
            .collect();
        unknown.sort();
        Ok(unknown)
    }

    async fn run(&self, sql: &str) -> Result<(), StorageError> {
        Ok(self.client.batch_execute(sql).await?)
    }
}

/// Rows that come one page after the other.
pub struct Reading<'a> {
    database: &'a OldDatabase,
    fields: Arc<HashMap<&'static str, usize>>,
}

impl Reading<'_> {
    /// The next rows, at most [`OLD_ROWS_MAX`]; none at the end.
    ///
    /// # Errors
    /// As [`OldDatabase::open`].
    pub async fn next(&self) -> Result<Vec<OldRow>, StorageError> {
        let rows = self.database.client.query(&format!("FETCH {OLD_ROWS_MAX} FROM old_rows"), &[]).await?;
        if rows.is_empty() {
            self.database.run("CLOSE old_rows").await?;
        }
        Ok(rows.into_iter().map(|row| OldRow { row, fields: self.fields.clone() }).collect())
    }
}

/// An identifier; none of ours holds a quotation mark.
fn quoted(name: &str) -> String {
    format!("\"{name}\"")
}
