//! Calls about what is said in rooms.

use model::{Clock, MessageId, Refusal, Sequence, UserId, notification::CHAT_BYTES_MAX};
use outbox::Bell;
use rpc::notification::{
    self as wire, DeleteMessageRequest, EditMessageRequest, HistoryRequest, HistoryResponse, MessageWire,
    SendMessageRequest,
};
use storage::{MessageChange, NewMessage, Storage};
use uuid::Uuid;

use crate::calls::CallError;

/// Longest id that an author's client gives a message, in bytes.
const CLIENT_MESSAGE_ID_BYTES_MAX: usize = 128;

/// Whatever concerns rooms.
pub(crate) struct Rooms {
    storage: Storage,
    announce: Bell,
    clock: Clock,
}

impl Rooms {
    pub(crate) fn new(storage: Storage, announce: Bell, clock: Clock) -> Self {
        Self { storage, announce, clock }
    }

    pub(crate) async fn send(&self, request: SendMessageRequest) -> Result<MessageWire, CallError> {
        let room = wire::room(&request.room_id)?;
        let author = wire::user(&request.author)?;
        let client_message_id = Some(request.client_message_id.as_str()).filter(|id| !id.is_empty());
        let unfit = |id: &str| id.len() > CLIENT_MESSAGE_ID_BYTES_MAX || id.chars().any(char::is_control);
        if client_message_id.is_some_and(unfit) {
            return Err(Refusal::ClientMessageIdInvalid.into());
        }
        let metadata = wire::metadata(&request.metadata_json)?;
        let new = NewMessage {
            id: MessageId(Uuid::now_v7()),
            room: &room,
            author: &author,
            client_message_id,
            text: text(&request.text)?,
            metadata: metadata.as_ref(),
            at: self.clock.now(),
        };
        let said = self.storage.send_message(new).await?;
        self.announce.ring();
        Ok((&said).into())
    }

    pub(crate) async fn edit(&self, request: EditMessageRequest) -> Result<MessageWire, CallError> {
        let room = wire::room(&request.room_id)?;
        let (id, author) = message(&request.id, &request.author)?;
        let text = text(&request.text)?;
        self.amended(self.storage.edit_message(&room, id, &author, text, self.clock.now()).await?)
    }

    pub(crate) async fn delete(&self, request: DeleteMessageRequest) -> Result<MessageWire, CallError> {
        let room = wire::room(&request.room_id)?;
        let (id, author) = message(&request.id, &request.author)?;
        self.amended(self.storage.delete_message(&room, id, &author, self.clock.now()).await?)
    }

    fn amended(&self, change: MessageChange) -> Result<MessageWire, CallError> {
        match change {
            MessageChange::Done(message) => {
                self.announce.ring();
                Ok((&message).into())
            }
            MessageChange::NotAuthor => Err(Refusal::NotAuthor.into()),
            MessageChange::Unknown => Err(Refusal::MessageUnknown.into()),
        }
    }

    pub(crate) async fn history(&self, request: HistoryRequest) -> Result<HistoryResponse, CallError> {
        let room = wire::room(&request.room_id)?;
        let limit = wire::limit(request.limit)?;
        let before = Some(Sequence(request.before)).filter(|before| before.0 > 0);
        // One more than asked for tells whether there is another page.
        let (mut messages, through) = self.storage.messages(&room, before, limit + 1).await?;
        let more = messages.len() > limit as usize;
        messages.truncate(limit as usize);
        Ok(HistoryResponse {
            messages: messages.iter().map(MessageWire::from).collect(),
            through: through.0,
            more,
        })
    }
}

fn text(text: &str) -> Result<&str, Refusal> {
    if text.trim().is_empty() || text.len() > CHAT_BYTES_MAX {
        return Err(Refusal::TextInvalid);
    }
    Ok(text)
}

fn message(id: &str, author: &str) -> Result<(MessageId, UserId), Refusal> {
    Ok((id.parse().map_err(|_| Refusal::IdInvalid)?, wire::user(author)?))
}
