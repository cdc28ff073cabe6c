//! What was said and told in a system before this one, taken over. It takes its place in its topic without a bell: no outbox
//! row, no push, no hook. Each call is one transaction, and whatever was taken over before, under the same origin, is left
//! as it is or as it has become here.

use model::{
    Identity, JsonObject, Message, NotificationType, SessionSlug, Speaker, Timestamp, Topic, UserId,
};
use tokio_postgres::types::{Json, ToSql};
use uuid::Uuid;

use crate::{
    Storage, StorageError,
    columns::{name, text, unsigned},
    connection::Statement,
};

/// A session that is over. Its next use opens it again.
#[derive(Debug, Clone)]
pub struct PastSession {
    /// What the other system calls it; here the id under which it is started and stopped.
    pub id: String,
    /// Its public name.
    pub slug: SessionSlug,
    /// When it came into being.
    pub created_at: Timestamp,
    /// When somebody began to speak.
    pub started_at: Option<Timestamp>,
    /// When it ended, or was last used.
    pub ended_at: Timestamp,
}

/// Somebody who was in a session.
#[derive(Debug, Clone)]
pub struct PastParticipant {
    /// What the other system calls the row.
    pub id: String,
    /// Where.
    pub session: SessionSlug,
    /// Who.
    pub identity: Identity,
    /// The name to show.
    pub name: Option<String>,
    /// The user, when it was one.
    pub user: Option<UserId>,
    /// When it came.
    pub joined_at: Timestamp,
    /// When it was last there.
    pub left_at: Timestamp,
}

/// A final of a session.
#[derive(Debug, Clone)]
pub struct PastSegment {
    /// What the other system calls the row.
    pub id: String,
    /// The utterance, as clients know it.
    pub utterance: model::OutsideId,
    /// Who spoke.
    pub speaker: Speaker,
    /// The text.
    pub text: String,
    /// Language (BCP 47), when it is known.
    pub language: Option<String>,
    /// When it was said, from and to.
    pub said: (Timestamp, Timestamp),
    /// When it was stored.
    pub stored_at: Timestamp,
}

/// A notification of a user.
#[derive(Debug, Clone)]
pub struct PastNotification {
    /// What the other system calls it.
    pub id: String,
    /// Its id here.
    pub notification: model::NotificationId,
    /// What it is about.
    pub kind: NotificationType,
    /// One line.
    pub title: String,
    /// More of it.
    pub message: String,
    /// What the application added.
    pub metadata: Option<JsonObject>,
    /// Whether the user has seen it.
    pub is_read: bool,
    /// Whether it was laid away; it counts as read then.
    pub is_archived: bool,
    /// When it came.
    pub created_at: Timestamp,
}

/// Which of `$2::text[]` are new is told by what `imported` takes in. The setting lasts until the end of the transaction, and
/// triggers fire at the end of the statement.
macro_rules! fresh {
    ($kind:literal) => {
        concat!(
            "quiet AS MATERIALIZED (SELECT set_config('parley.importing', 'on', true) AS quiet),
             fresh AS (
                 INSERT INTO imported (origin, kind, id) SELECT $1::text, '",
            $kind,
            "', id FROM given ON CONFLICT DO NOTHING RETURNING id)"
        )
    };
}

const SESSIONS: Statement = Statement {
    name: "import_sessions",
    sql: concat!(
        "WITH given AS (
             SELECT * FROM unnest($2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::timestamptz[])
                 AS given (id, slug, created_at, started_at, ended_at)),
         ",
        fresh!("session"),
        ", stored AS (
             INSERT INTO sessions (slug, external_id, status, created_at, started_at, last_activity_at, ended_at)
             SELECT slug, id, 'ended', created_at, started_at, ended_at, ended_at FROM given JOIN fresh USING (id), quiet
             ON CONFLICT (slug) DO NOTHING),
         -- One that went on there after it was taken over.
         later AS (
             UPDATE sessions SET started_at = COALESCE(sessions.started_at, given.started_at),
                 last_activity_at = given.ended_at, ended_at = given.ended_at
             FROM given, quiet
             WHERE sessions.slug = given.slug AND sessions.external_id = given.id AND sessions.status = 'ended'
               AND sessions.last_activity_at < given.ended_at)
         SELECT count(*) FROM fresh"
    ),
};

const PARTICIPANTS: Statement = Statement {
    name: "import_participants",
    sql: concat!(
        "WITH given AS (
             SELECT sessions.id AS session_id, given.*
             FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[], $8::timestamptz[])
                 AS given (id, slug, identity, name, user_id, joined_at, left_at)
             JOIN sessions ON sessions.slug = given.slug),
         ",
        fresh!("participant"),
        ", stored AS (
             INSERT INTO participants (session_id, identity, name, user_id, joined_at, last_seen_at)
             SELECT session_id, identity, name, user_id, joined_at, left_at FROM given JOIN fresh USING (id)
             ON CONFLICT (session_id, identity) DO NOTHING)
         SELECT count(*) FROM fresh, quiet"
    ),
};

// Under the lock of the topic. A caption that is here already, since a back end had handed it in, stays as it is.
const SEGMENTS: Statement = Statement {
    name: "import_segments",
    sql: concat!(
        "WITH session AS (SELECT id FROM sessions WHERE slug = $3),
         given AS (
             SELECT session.id AS session_id, given.*
             FROM unnest($2::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::timestamptz[],
                         $10::timestamptz[], $11::timestamptz[]) WITH ORDINALITY
                 AS given (id, utterance, identity, name, text, language, started_at, ended_at, stored_at, place), session),
         ",
        fresh!("segment"),
        ", wanted AS (
             SELECT given.*, row_number() OVER (ORDER BY place) AS number FROM given JOIN fresh USING (id)
             WHERE NOT EXISTS (SELECT FROM segments WHERE segments.session_id = given.session_id
                                 AND segments.utterance_id = given.utterance)),
         counted AS (
             UPDATE topics SET sequence = sequence + (SELECT count(*) FROM wanted)
             WHERE name = 'session:' || $3::text AND EXISTS (SELECT FROM wanted)
             RETURNING sequence - (SELECT count(*) FROM wanted) AS before),
         stored AS (
             INSERT INTO segments (session_id, sequence, outside_id, revision, speaker_identity, speaker_name, text,
                 language, start_sample, end_sample, words, started_at, ended_at, stored_at)
             SELECT session_id, before + number, utterance, 0, identity, name, text, language, 0, 0, '[]'::jsonb,
                 started_at, ended_at, stored_at
             FROM wanted, counted, quiet ORDER BY number
             ON CONFLICT DO NOTHING)
         SELECT count(*) FROM fresh"
    ),
};

const MESSAGES: Statement = Statement {
    name: "import_messages",
    sql: concat!(
        "WITH given AS (
             SELECT * FROM unnest($2::text[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::text[], $9::timestamptz[])
                 WITH ORDINALITY AS given (id, message_id, author, author_name, kind, text, created_at, place)),
         ",
        fresh!("message"),
        ", wanted AS (
             SELECT given.*, row_number() OVER (ORDER BY place) AS number FROM given JOIN fresh USING (id)),
         counted AS (
             UPDATE topics SET sequence = sequence + (SELECT count(*) FROM wanted)
             WHERE name = 'room:' || $3::text AND EXISTS (SELECT FROM wanted)
             RETURNING sequence - (SELECT count(*) FROM wanted) AS before),
         stored AS (
             INSERT INTO messages (id, room_id, position, sequence, author, text, created_at, kind, author_name)
             SELECT message_id, $3::text, before + number, before + number, author, text, created_at, kind, author_name
             FROM wanted, counted ORDER BY number
             ON CONFLICT DO NOTHING)
         SELECT count(*) FROM fresh, quiet"
    ),
};

const NOTIFICATIONS: Statement = Statement {
    name: "import_notifications",
    sql: concat!(
        "WITH given AS (
             SELECT * FROM unnest($2::text[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::json[], $9::boolean[],
                                  $10::boolean[], $11::timestamptz[])
                 WITH ORDINALITY AS given (id, notification_id, type, title, message, metadata, is_read, archived,
                                           created_at, place)),
         ",
        fresh!("notification"),
        ", wanted AS (
             SELECT given.*, row_number() OVER (ORDER BY place) AS number FROM given JOIN fresh USING (id)
             WHERE NOT EXISTS (SELECT FROM notifications WHERE notifications.id = given.notification_id)),
         counted AS (
             UPDATE topics SET sequence = sequence + (SELECT count(*) FROM wanted)
             WHERE name = 'user:' || $3::text AND EXISTS (SELECT FROM wanted)
             RETURNING sequence - (SELECT count(*) FROM wanted) AS before),
         stored AS (
             INSERT INTO notifications (id, user_id, sequence, type, title, message, metadata, priority, is_read, marked,
                 archived, created_at)
             SELECT notification_id, $3::text, before + number, type, title, message, metadata, 1, is_read OR archived,
                 before + number, archived, created_at
             FROM wanted, counted ORDER BY number
             ON CONFLICT DO NOTHING
             RETURNING is_read, archived),
         tallied AS (
             INSERT INTO inboxes (user_id, unread, listed)
             SELECT $3::text, count(*) FILTER (WHERE NOT is_read), count(*) FILTER (WHERE NOT archived) FROM stored
             ON CONFLICT (user_id) DO UPDATE SET
                 unread = inboxes.unread + excluded.unread, listed = inboxes.listed + excluded.listed)
         SELECT count(*) FROM fresh, quiet"
    ),
};

// Who has chosen here, has chosen.
const MUTED: Statement = Statement {
    name: "import_muted_types",
    sql: concat!(
        "WITH given AS (SELECT unnest($2::text[]) AS id),
         ",
        fresh!("settings"),
        ", stored AS (
             INSERT INTO inboxes (user_id, muted_types) SELECT $3::text, $4::text[] FROM fresh
             ON CONFLICT (user_id) DO UPDATE SET muted_types = excluded.muted_types WHERE inboxes.muted_types = '{}')
         SELECT count(*) FROM fresh, quiet"
    ),
};

const UNKNOWN: Statement = Statement {
    name: "not_imported",
    sql: "SELECT count(*) FROM unnest($3::text[]) AS given (id)
          WHERE NOT EXISTS (SELECT FROM imported WHERE origin = $1 AND kind = $2 AND imported.id = given.id)",
};

/// One column of many rows, as `unnest` takes it.
fn column<'a, R, T>(rows: &'a [R], value: impl Fn(&'a R) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}

impl Storage {
    /// Takes sessions over; how many were new. One whose slug is here already stays as it is.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn import_sessions(&self, origin: &str, rows: &[PastSession]) -> Result<u64, StorageError> {
        let parameters: [&(dyn ToSql + Sync); 6] = [
            &origin,
            &column(rows, |row| &row.id),
            &column(rows, |row| row.slug.as_str()),
            &column(rows, |row| row.created_at.to_jiff()),
            &column(rows, |row| row.started_at.map(Timestamp::to_jiff)),
            &column(rows, |row| row.ended_at.to_jiff()),
        ];
        count(self.query(&SESSIONS, &parameters).await?.first())
    }

    /// Takes participants over into sessions that are here; how many were new.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn import_participants(
        &self,
        origin: &str,
        rows: &[PastParticipant],
    ) -> Result<u64, StorageError> {
        let parameters: [&(dyn ToSql + Sync); 8] = [
            &origin,
            &column(rows, |row| &row.id),
            &column(rows, |row| row.session.as_str()),
            &column(rows, |row| row.identity.as_str()),
            &column(rows, |row| name(row.name.as_deref())),
            &column(rows, |row| row.user.as_ref().map(UserId::as_str)),
            &column(rows, |row| row.joined_at.to_jiff()),
            &column(rows, |row| row.left_at.to_jiff()),
        ];
        count(self.query(&PARTICIPANTS, &parameters).await?.first())
    }

    /// Takes finals of a session over, in this order after what is stored of it; how many were new. Of a session that is
    /// not here none are.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn import_segments(
        &self,
        origin: &str,
        session: &SessionSlug,
        rows: &[PastSegment],
    ) -> Result<u64, StorageError> {
        let parameters: [&(dyn ToSql + Sync); 11] = [
            &origin,
            &column(rows, |row| &row.id),
            &session.as_str(),
            &column(rows, |row| row.utterance.as_str()),
            &column(rows, |row| row.speaker.identity.as_str()),
            &column(rows, |row| name(row.speaker.name.as_deref())),
            &column(rows, |row| text(&row.text)),
            &column(rows, |row| &row.language),
            &column(rows, |row| row.said.0.to_jiff()),
            &column(rows, |row| row.said.1.to_jiff()),
            &column(rows, |row| row.stored_at.to_jiff()),
        ];
        let topic = Topic::Session(session.clone()).to_string();
        count(self.in_topic(&topic, true, &SEGMENTS, &parameters).await?.as_ref())
    }

    /// Takes messages of one room over, in this order after what was said in it here; how many were new. Each comes with
    /// what the other system calls it. What an author's client called them, replies, changes and their sequences are none
    /// of it.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn import_messages(
        &self,
        origin: &str,
        room: &model::RoomId,
        rows: &[(String, Message)],
    ) -> Result<u64, StorageError> {
        let parameters: [&(dyn ToSql + Sync); 9] = [
            &origin,
            &column(rows, |(id, _)| id),
            &room.as_str(),
            &column(rows, |(_, row)| row.id.0),
            &column(rows, |(_, row)| row.author.as_str()),
            &column(rows, |(_, row)| name(row.author_name.as_deref())),
            &column(rows, |(_, row)| row.kind.label()),
            &column(rows, |(_, row)| text(&row.text)),
            &column(rows, |(_, row)| row.created_at.to_jiff()),
        ];
        let topic = Topic::Room(room.clone()).to_string();
        count(self.in_topic(&topic, true, &MESSAGES, &parameters).await?.as_ref())
    }

    /// Takes notifications of one user over, in this order after what is in the inbox; how many were new.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn import_notifications(
        &self,
        origin: &str,
        user: &UserId,
        rows: &[PastNotification],
    ) -> Result<u64, StorageError> {
        let parameters: [&(dyn ToSql + Sync); 11] = [
            &origin,
            &column(rows, |row| &row.id),
            &user.as_str(),
            &column(rows, |row| row.notification.0),
            &column(rows, |row| row.kind.as_str()),
            &column(rows, |row| text(&row.title)),
            &column(rows, |row| text(&row.message)),
            &column(rows, |row| row.metadata.as_ref().map(Json)),
            &column(rows, |row| row.is_read),
            &column(rows, |row| row.is_archived),
            &column(rows, |row| row.created_at.to_jiff()),
        ];
        let topic = Topic::User(user.clone()).to_string();
        count(self.in_topic(&topic, true, &NOTIFICATIONS, &parameters).await?.as_ref())
    }

    /// Takes over, under the id of a row of settings, which types a user wants nothing of, unless the user has chosen here;
    /// 1 when it was new.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn import_muted_types(
        &self,
        origin: &str,
        id: &str,
        user: &UserId,
        types: &[NotificationType],
    ) -> Result<u64, StorageError> {
        let types = column(types, NotificationType::as_str);
        let ids = vec![id];
        let parameters: [&(dyn ToSql + Sync); 4] = [&origin, &ids, &user.as_str(), &types];
        let topic = Topic::User(user.clone()).to_string();
        count(self.in_topic(&topic, true, &MUTED, &parameters).await?.as_ref())
    }

    /// How many of these rows of a kind, by what the other system calls them, were not taken over yet.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn not_imported(
        &self,
        origin: &str,
        kind: PastKind,
        ids: &[&str],
    ) -> Result<u64, StorageError> {
        count(self.query(&UNKNOWN, &[&origin, &kind.label(), &ids]).await?.first())
    }
}

/// What is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PastKind {
    /// [`PastSession`].
    Session,
    /// [`PastParticipant`].
    Participant,
    /// [`PastSegment`].
    Segment,
    /// Messages of rooms.
    Message,
    /// [`PastNotification`].
    Notification,
    /// What users want nothing of.
    Settings,
}

impl PastKind {
    /// Its name in `imported`, and to people.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Participant => "participant",
            Self::Segment => "segment",
            Self::Message => "message",
            Self::Notification => "notification",
            Self::Settings => "settings",
        }
    }

    /// The id of a message or notification that is called so there: its own where it is one of ours, else one that is the
    /// same whenever it is asked for.
    pub fn id(self, origin: &str, there: &str) -> Uuid {
        there.parse().unwrap_or_else(|_| self.digest(origin, there))
    }

    /// What is remembered of a row whose id is a person's: the same whenever it is asked for, and it names nobody.
    pub fn digest(self, origin: &str, there: &str) -> Uuid {
        use sha2::{Digest as _, Sha256};
        let digest = Sha256::new()
            .chain_update(origin)
            .chain_update([0])
            .chain_update(self.label())
            .chain_update([0])
            .chain_update(there)
            .finalize();
        let mut bytes = [0; 16];
        bytes.iter_mut().zip(digest).for_each(|(byte, of_digest)| *byte = of_digest);
        uuid::Builder::from_custom_bytes(bytes).into_uuid()
    }
}

fn count(row: Option<&tokio_postgres::Row>) -> Result<u64, StorageError> {
    Ok(match row {
        Some(row) => unsigned(row.try_get(0)?),
        None => 0,
    })
}
