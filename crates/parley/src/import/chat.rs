//! System B: messages.

use model::{Message, MessageId, MessageKind, NewMessage, RoomId, Sequence, room::anonymous};
use storage::{OLD_MESSAGES, OldRow, PastKind, Storage};

use super::{
    Import,
    row::{LeftOut, Taken, id, moment, needed, optional, parsed},
};
use crate::failure::Failure;

/// Who said what the table knows no author of.
const NOBODY: &str = "unknown";

pub(super) async fn import(import: &mut Import) -> Result<(), Failure> {
    let origin = import.origin.clone();
    import
        .take(
            &OLD_MESSAGES,
            PastKind::Message,
            |row| message(row, &origin),
            async |storage: &Storage, origin, room: &RoomId, rows| {
                storage.import_messages(origin, room, rows).await
            },
        )
        .await
}

/// Nobody had to prove who they were, so nobody's is what was said: no user can change it.
fn message(row: &OldRow, origin: &str) -> Result<Taken<RoomId, (String, Message)>, LeftOut> {
    let id = id(row)?;
    let room = match optional(row, "roomId")? {
        Some(_) => parsed(row, "roomId")?,
        None => RoomId::general(),
    };
    if room.session().is_some() {
        return Err(LeftOut::Unfit("its roomId is that of a session".to_owned()));
    }
    let Some(created_at) = moment(row, "timestamp")? else {
        return Err(LeftOut::Unfit("it has no timestamp".to_owned()));
    };
    let user = optional(row, "userId")?.map(str::trim).filter(|user| !user.is_empty()).unwrap_or(NOBODY);
    let Some(author) = anonymous(user) else {
        return Err(LeftOut::Unfit(
            "its userId is no name: at most 128 bytes without control characters".to_owned(),
        ));
    };
    let kind = match optional(row, "type")? {
        None => MessageKind::Text,
        Some(label) => MessageKind::from_label(label)
            .ok_or_else(|| LeftOut::Unfit("its type is none of text, image and file".to_owned()))?,
    };
    let name = optional(row, "username")?.map(str::trim).filter(|name| !name.is_empty());
    let new = NewMessage {
        room: room.clone(),
        author: author.clone(),
        author_name: name.map(str::to_owned),
        client_message_id: None,
        kind,
        text: needed(row, "content")?.trim().to_owned(),
        metadata: None,
        reply_to: None,
    };
    new.check().map_err(|why| LeftOut::Unfit(why.to_string()))?;
    let message = Message {
        id: MessageId(PastKind::Message.id(origin, &id)),
        room: room.clone(),
        // It gets those of the end of the room.
        sequence: Sequence(0),
        position: Sequence(0),
        author,
        author_name: new.author_name,
        client_message_id: None,
        kind,
        text: new.text,
        metadata: None,
        reply_to: None,
        created_at,
        edited_at: None,
        deleted_at: None,
    };
    Ok(Taken { id: id.clone(), place: room, row: (id, message) })
}
