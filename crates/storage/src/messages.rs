//! What is said in rooms.

use model::{
    JsonObject, Message, MessageId, MessageKind, NewMessage, RoomId, Sequence, Timestamp, Topic, UserId,
};
use tokio_postgres::{
    Row,
    types::{Json, ToSql},
};
use uuid::Uuid;

use crate::{
    Storage, StorageError, Story,
    columns::{name, parsed, signed, text, timestamp, unsigned},
    connection::Statement,
    notifications_replay::end_of_page,
    outbox_rows::traceparent,
};

/// Messages of one room that are counted. They are counted one by one, and some clients ask every few seconds.
pub const COUNT_MAX: u64 = 10_000;

/// What came of a change of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageChange {
    /// It is as it should be now, perhaps since before.
    Done(Box<Message>),
    /// It is another author's.
    NotAuthor,
    /// It is the link of an image or file, which stays as it is.
    NotText,
    /// There is no such message, or it was deleted.
    Unknown,
}

/// The columns that [`message`] reads, in its order.
macro_rules! message_columns {
    () => {
        "id, room_id, sequence, position, author, client_message_id, text, metadata, created_at, edited_at, deleted_at,
         kind, author_name, reply_to"
    };
}

/// A message's announcement, from `$source` in which its columns are, with the parameter that has its trace.
macro_rules! announced {
    ($source:literal, $trace:literal) => {
        concat!(
            "announced AS (
                 INSERT INTO outbox (topic, sequence, payload, created_at, traceparent)
                 SELECT 'room:' || room_id, sequence, jsonb_build_object('kind', 'message', 'message', jsonb_build_object(
                     'id', id, 'room', room_id, 'sequence', sequence, 'position', position, 'author', author,
                     'client_message_id', client_message_id, 'text', text, 'metadata', metadata,
                     'created_at', (extract(epoch FROM created_at) * 1000)::bigint,
                     'edited_at', (extract(epoch FROM edited_at) * 1000)::bigint,
                     'deleted_at', (extract(epoch FROM deleted_at) * 1000)::bigint,
                     'kind', kind, 'author_name', author_name, 'reply_to', reply_to)), $2::timestamptz, ",
            $trace,
            "::text FROM ",
            $source,
            ")"
        )
    };
}

pub(crate) const SEND: Statement = Statement {
    name: "send_message",
    sql: concat!(
        "WITH known AS (
             SELECT * FROM messages
             WHERE room_id = $1 AND author = $4 AND client_message_id = $5::text),
         counted AS (
             UPDATE topics SET sequence = sequence + 1
             WHERE name = 'room:' || $1::text AND NOT EXISTS (SELECT FROM known)
               AND ($10::uuid IS NULL OR EXISTS (SELECT FROM messages WHERE id = $10 AND room_id = $1))
             RETURNING sequence),
         said AS (
             INSERT INTO messages (id, room_id, position, sequence, author, client_message_id, text, metadata, created_at,
                                   kind, author_name, reply_to)
             SELECT $3::uuid, $1::text, sequence, sequence, $4::text, $5::text, $6::text, $7::json, $2::timestamptz,
                    $8::text, $9::text, $10::uuid
             FROM counted RETURNING *),
         ",
        announced!("said", "$11"),
        " SELECT ",
        message_columns!(),
        " FROM said UNION ALL SELECT ",
        message_columns!(),
        " FROM known"
    ),
};

/// Changes a message that is the author's and is not deleted, when `$may` holds. The first row is the message and whether
/// it was changed, or may not be.
macro_rules! amend {
    ($set:literal, $may:literal) => {
        concat!(
            "WITH found AS (SELECT * FROM messages WHERE id = $3 AND room_id = $1 AND deleted_at IS NULL),
             counted AS (
                 UPDATE topics SET sequence = topics.sequence + 1
                 WHERE name = 'room:' || $1::text AND EXISTS (SELECT FROM found WHERE author = $4 AND ",
            $may,
            ")
                 RETURNING sequence),
             amended AS (
                 UPDATE messages SET sequence = counted.sequence, ",
            $set,
            " FROM counted WHERE messages.id = $3 RETURNING messages.*),
             ",
            announced!("amended", "$6"),
            " SELECT ",
            message_columns!(),
            ", true FROM amended UNION ALL SELECT ",
            message_columns!(),
            ", false FROM found WHERE NOT (author = $4 AND ",
            $may,
            ")"
        )
    };
}

pub(crate) const EDIT: Statement =
    Statement { name: "edit_message", sql: amend!("text = $5, edited_at = $2", "kind = 'text'") };

pub(crate) const TAKE_BACK: Statement =
    Statement { name: "delete_message", sql: amend!("text = $5, metadata = NULL, deleted_at = $2", "true") };

pub(crate) const HISTORY: Statement = Statement {
    name: "message_history",
    sql: concat!(
        "SELECT ",
        message_columns!(),
        " FROM messages WHERE room_id = $1 AND position < $2 ORDER BY position DESC LIMIT $3"
    ),
};

pub(crate) const SINCE: Statement = Statement {
    name: "messages_since",
    sql: concat!(
        "SELECT ",
        message_columns!(),
        " FROM messages WHERE room_id = $1 AND sequence > $2 ORDER BY sequence LIMIT $3"
    ),
};

/// Messages that anybody who chats may see, of whichever room, newest first. Its indexes have the same condition.
macro_rules! in_open_rooms {
    ($of:literal) => {
        concat!(
            "SELECT ",
            message_columns!(),
            " FROM messages WHERE ",
            $of,
            " = $1 AND deleted_at IS NULL AND room_id NOT LIKE 'session:%'
              ORDER BY created_at DESC, id DESC LIMIT $2"
        )
    };
}

pub(crate) const OF_AUTHOR: Statement =
    Statement { name: "messages_of_author", sql: in_open_rooms!("author") };

pub(crate) const OF_KIND: Statement = Statement { name: "messages_of_kind", sql: in_open_rooms!("kind") };

pub(crate) const COUNT: Statement = Statement {
    name: "count_messages",
    sql: "SELECT count(*) FROM (SELECT FROM messages WHERE room_id = $1 AND deleted_at IS NULL LIMIT $2) AS counted",
};

impl Storage {
    /// Says something in a room, under `id` should it be new, gives it the next sequence of the room's topic and queues
    /// its announcement, all or nothing. What this author said under the same client message id before is answered as it
    /// is now. `None` when the room has no such message to reply to.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn send_message(
        &self,
        id: MessageId,
        new: &NewMessage,
        now: Timestamp,
    ) -> Result<Option<Message>, StorageError> {
        let parameters: [&(dyn ToSql + Sync); 11] = [
            &new.room.as_str(),
            &now.to_jiff(),
            &id.0,
            &new.author.as_str(),
            &new.client_message_id,
            &text(&new.text),
            &new.metadata.as_ref().map(Json),
            &new.kind.label(),
            &name(new.author_name.as_deref()),
            &new.reply_to.map(|id| id.0),
            &traceparent(),
        ];
        let row = self.in_topic(&topic(&new.room), true, &SEND, &parameters).await?;
        row.as_ref().map(message).transpose()
    }

    /// Replaces the text of a message.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn edit_message(
        &self,
        room: &RoomId,
        id: MessageId,
        author: &UserId,
        new_text: &str,
        now: Timestamp,
    ) -> Result<MessageChange, StorageError> {
        self.amend(&EDIT, room, id, author, new_text, now).await
    }

    /// Takes back what was said: the message stays in its place without its text.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn delete_message(
        &self,
        room: &RoomId,
        id: MessageId,
        author: &UserId,
        now: Timestamp,
    ) -> Result<MessageChange, StorageError> {
        self.amend(&TAKE_BACK, room, id, author, "", now).await
    }

    async fn amend(
        &self,
        statement: &Statement,
        room: &RoomId,
        id: MessageId,
        author: &UserId,
        new_text: &str,
        now: Timestamp,
    ) -> Result<MessageChange, StorageError> {
        let parameters: [&(dyn ToSql + Sync); 6] =
            [&room.as_str(), &now.to_jiff(), &id.0, &author.as_str(), &text(new_text), &traceparent()];
        let Some(row) = self.in_topic(&topic(room), false, statement, &parameters).await? else {
            return Ok(MessageChange::Unknown);
        };
        let message = message(&row)?;
        Ok(if row.try_get(14)? {
            MessageChange::Done(Box::new(message))
        } else if message.author != *author {
            MessageChange::NotAuthor
        } else {
            MessageChange::NotText
        })
    }

    /// What was said in a room before a position, newest first, and the room's newest sequence. The sequence is read
    /// first, so that whoever replays after it misses nothing.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn messages(
        &self,
        room: &RoomId,
        before: Option<Sequence>,
        limit: u32,
    ) -> Result<(Vec<Message>, Sequence), StorageError> {
        let through = self.last_sequence(&Topic::Room(room.clone())).await?;
        let before = before.map_or(i64::MAX, |before| signed(before.0));
        let rows = self.query(&HISTORY, &[&room.as_str(), &before, &i64::from(limit)]).await?;
        Ok((rows.iter().map(message).collect::<Result<_, _>>()?, through))
    }

    /// The newest messages of an author that are not deleted, in rooms that are no session's.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn messages_of_author(
        &self,
        author: &UserId,
        limit: u32,
    ) -> Result<Vec<Message>, StorageError> {
        let rows = self.query(&OF_AUTHOR, &[&author.as_str(), &i64::from(limit)]).await?;
        rows.iter().map(message).collect()
    }

    /// The newest messages of a kind that are not deleted, in rooms that are no session's.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn messages_of_kind(
        &self,
        kind: MessageKind,
        limit: u32,
    ) -> Result<Vec<Message>, StorageError> {
        let rows = self.query(&OF_KIND, &[&kind.label(), &i64::from(limit)]).await?;
        rows.iter().map(message).collect()
    }

    /// How many messages of a room are not deleted; [`COUNT_MAX`] when there are more.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn count_messages(&self, room: &RoomId) -> Result<u64, StorageError> {
        Ok(match self.query_opt(&COUNT, &[&room.as_str(), &signed(COUNT_MAX)]).await? {
            Some(row) => unsigned(row.try_get(0)?),
            None => 0,
        })
    }

    /// Messages that were said, changed or taken back in a room after a sequence, at most `limit`, each as it is now.
    ///
    /// # Errors
    /// As any operation here.
    pub async fn replay_room(
        &self,
        room: &RoomId,
        since: Sequence,
        limit: u32,
    ) -> Result<Story<Message>, StorageError> {
        let (bounds, rows, _) =
            self.read_topic("replay_room", &topic(room), Some(room.as_str()), &SINCE, since, limit).await?;
        let messages = rows.iter().map(message).collect::<Result<Vec<_>, _>>()?;
        let read = [end_of_page(&rows, 2, limit)?];
        Ok(bounds.story(messages, |message| message.sequence, since, limit, &read))
    }
}

fn topic(room: &RoomId) -> String {
    Topic::Room(room.clone()).to_string()
}

fn message(row: &Row) -> Result<Message, StorageError> {
    let metadata: Option<Json<JsonObject>> = row.try_get(7)?;
    let edited_at: Option<jiff::Timestamp> = row.try_get(9)?;
    let deleted_at: Option<jiff::Timestamp> = row.try_get(10)?;
    let reply_to: Option<Uuid> = row.try_get(13)?;
    Ok(Message {
        id: MessageId(row.try_get(0)?),
        room: parsed(row.try_get(1)?)?,
        sequence: Sequence(unsigned(row.try_get(2)?)),
        position: Sequence(unsigned(row.try_get(3)?)),
        author: parsed(row.try_get(4)?)?,
        author_name: row.try_get(12)?,
        client_message_id: row.try_get(5)?,
        // A later release may know more of them.
        kind: MessageKind::from_label(row.try_get(11)?).unwrap_or_default(),
        text: row.try_get(6)?,
        metadata: metadata.map(|Json(metadata)| metadata),
        reply_to: reply_to.map(MessageId),
        created_at: timestamp(row.try_get(8)?),
        edited_at: edited_at.map(timestamp),
        deleted_at: deleted_at.map(timestamp),
    })
}
