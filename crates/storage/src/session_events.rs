//! What happened in sessions, for the hook that hears of it. Triggers write it down (migration 5), so that no writer of a
//! session or a final can forget it, and only what the hook wants.

use model::{Final, SessionSlug, Timestamp};
use serde::Deserialize;
use tokio_postgres::{Row, types::Json};
use uuid::Uuid;

use crate::{
    Storage, StorageError,
    columns::{parsed, segment, segment_columns, timestamp},
    connection::Statement,
};

/// A kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEventKind {
    /// The session became live, for the first time or again.
    Started,
    /// A final was stored, or another revision of one.
    Final,
    /// The session ended.
    Ended,
}

impl SessionEventKind {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Started, Self::Final, Self::Ended];

    /// Its name in settings, rows and bodies.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Started => "session.started",
            Self::Final => "transcript.final",
            Self::Ended => "session.ended",
        }
    }

    /// That of this name, if there is one.
    pub fn of(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.label() == label)
    }
}

/// What happened in a session.
#[derive(Debug, Clone)]
pub struct SessionEvent {
    /// The same at every attempt to tell it.
    pub id: Uuid,
    /// When it happened.
    pub at: Timestamp,
    /// The session.
    pub session: SessionSlug,
    /// The id under which the surrounding application had started the session by then.
    pub external_id: Option<String>,
    /// What.
    pub news: SessionNews,
}

/// What is to be told of an event.
#[derive(Debug, Clone)]
pub enum SessionNews {
    /// It became live.
    Started {
        /// When it was live for the first time.
        started_at: Option<Timestamp>,
    },
    /// Something was said.
    Final {
        /// What, as it is stored now.
        segment: Box<Final>,
        /// Wall time of its first sample.
        started_at: Timestamp,
        /// Wall time of its last sample.
        ended_at: Timestamp,
    },
    /// It ended.
    Ended {
        /// When it was live for the first time; `None` when it never was.
        started_at: Option<Timestamp>,
        /// When it ended.
        ended_at: Timestamp,
    },
}

impl SessionNews {
    /// Which kind it is.
    pub const fn kind(&self) -> SessionEventKind {
        match self {
            Self::Started { .. } => SessionEventKind::Started,
            Self::Final { .. } => SessionEventKind::Final,
            Self::Ended { .. } => SessionEventKind::Ended,
        }
    }
}

/// `deliveries.content` as a trigger writes it.
#[derive(Debug, Deserialize)]
struct Content {
    external_id: Option<String>,
    at: Timestamp,
    #[serde(default)]
    started_at: Option<Timestamp>,
    #[serde(default)]
    ended_at: Option<Timestamp>,
}

const TELL: Statement = Statement {
    name: "tell_session_events",
    sql: "WITH unwanted AS (DELETE FROM session_hook_events WHERE event <> ALL ($1::text[]))
          INSERT INTO session_hook_events (event) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING",
};

const EVENT: Statement = Statement {
    name: "session_event",
    sql: concat!(
        "SELECT ",
        segment_columns!(),
        ", sessions.slug, deliveries.event_id, deliveries.event,
           deliveries.content
         FROM deliveries
         JOIN sessions ON sessions.id = (deliveries.content ->> 'session')::uuid
         LEFT JOIN segments ON segments.session_id = sessions.id
             AND segments.sequence = (deliveries.content ->> 'sequence')::bigint
         WHERE deliveries.id = $1"
    ),
};

impl Storage {
    /// From now on deliveries are written for these events, and for no others.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn tell_session_events(&self, kinds: &[SessionEventKind]) -> Result<(), StorageError> {
        let labels: Vec<_> = kinds.iter().map(|kind| kind.label()).collect();
        self.query(&TELL, &[&labels]).await.map(drop)
    }

    /// What a delivery of the way [`crate::Way::Session`] tells; `None` when the session or the final is there no more.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn session_event(&self, delivery: i64) -> Result<Option<SessionEvent>, StorageError> {
        match self.query_opt(&EVENT, &[&delivery]).await? {
            Some(row) => event(&row),
            None => Ok(None),
        }
    }
}

fn event(row: &Row) -> Result<Option<SessionEvent>, StorageError> {
    let Json(content) = row.try_get::<_, Json<Content>>(20)?;
    let session: SessionSlug = parsed(row.try_get(17)?)?;
    let news = match SessionEventKind::of(row.try_get(19)?) {
        Some(SessionEventKind::Started) => SessionNews::Started { started_at: content.started_at },
        Some(SessionEventKind::Ended) => SessionNews::Ended {
            started_at: content.started_at,
            ended_at: content.ended_at.unwrap_or(content.at),
        },
        Some(SessionEventKind::Final) if row.try_get::<_, Option<i64>>(0)?.is_some() => SessionNews::Final {
            segment: Box::new(segment(&session, row)?),
            started_at: timestamp(row.try_get(14)?),
            ended_at: timestamp(row.try_get(15)?),
        },
        // Forgotten, or of a release that knows more events.
        Some(SessionEventKind::Final) | None => return Ok(None),
    };
    Ok(Some(SessionEvent {
        id: row.try_get(18)?,
        at: content.at,
        session,
        external_id: content.external_id,
        news,
    }))
}
