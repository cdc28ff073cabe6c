//! Calls about what is said in rooms.

use model::{Clock, MessageId, Refusal, Sequence, room::check_text};
use outbox::Bell;
use rpc::notification::{
    self as wire, DeleteMessageRequest, EditMessageRequest, HistoryRequest, HistoryResponse, MessageWire,
    SendMessageRequest,
};
use storage::{MessageChange, Storage};
use uuid::Uuid;

use crate::calls::CallError;

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
        let new = wire::new_message(request)?;
        let id = MessageId(Uuid::now_v7());
        let said = self.storage.send_message(id, &new, self.clock.now()).await?;
        let said = said.ok_or(Refusal::ReplyUnknown)?;
        self.announce.ring();
        Ok((&said).into())
    }

    pub(crate) async fn edit(&self, request: EditMessageRequest) -> Result<MessageWire, CallError> {
        let room = wire::room(&request.room_id)?;
        let (id, author) = (wire::message_id(&request.id)?, wire::user(&request.author)?);
        check_text(&request.text)?;
        let now = self.clock.now();
        self.amended(self.storage.edit_message(&room, id, &author, &request.text, now).await?)
    }

    pub(crate) async fn delete(&self, request: DeleteMessageRequest) -> Result<MessageWire, CallError> {
        let room = wire::room(&request.room_id)?;
        let (id, author) = (wire::message_id(&request.id)?, wire::user(&request.author)?);
        self.amended(self.storage.delete_message(&room, id, &author, self.clock.now()).await?)
    }

    fn amended(&self, change: MessageChange) -> Result<MessageWire, CallError> {
        match change {
            MessageChange::Done(message) => {
                self.announce.ring();
                Ok((&*message).into())
            }
            MessageChange::NotAuthor => Err(Refusal::NotAuthor.into()),
            MessageChange::NotText => Err(Refusal::OnlyTextEdited.into()),
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
