//! The calls of `parley.notification.v1`, each handed to whom it concerns and counted.

use rpc::notification::{
    ChangedWire, DeleteMessageRequest, EditMessageRequest, GetRequest, HistoryRequest, HistoryResponse,
    IdsRequest, ListRequest, ListResponse, MessageWire, NotificationWire, Notifications, Preferences,
    PublishRequest, PublishResponse, PushKeyRequest, PushKeyResponse, RegisterPushRequest,
    RegisterPushResponse, RemovePushRequest, RemovePushResponse, ReplayRequest, ReplayResponse,
    SendMessageRequest, SetPreferencesRequest, UnreadWire, UserRequest,
};
use storage::Mark;
use tonic::{Request, Response, Status};

use crate::{browsers::Browsers, calls::answer, inbox::Inbox, rooms::Rooms};

/// The handler of `parley.notification.v1.Notifications`.
pub(crate) struct Service {
    pub(crate) inbox: Inbox,
    pub(crate) browsers: Browsers,
    pub(crate) rooms: Rooms,
}

#[tonic::async_trait]
impl Notifications for Service {
    async fn publish(&self, request: Request<PublishRequest>) -> Result<Response<PublishResponse>, Status> {
        answer("publish", self.inbox.publish(request.into_inner()).await)
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        answer("list", self.inbox.list(request.into_inner()).await)
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<NotificationWire>, Status> {
        answer("get", self.inbox.get(request.into_inner()).await)
    }

    async fn mark_read(&self, request: Request<IdsRequest>) -> Result<Response<ChangedWire>, Status> {
        answer("mark_read", self.inbox.mark(Mark::Read, request.into_inner()).await)
    }

    async fn mark_unread(&self, request: Request<IdsRequest>) -> Result<Response<ChangedWire>, Status> {
        answer("mark_unread", self.inbox.mark(Mark::Unread, request.into_inner()).await)
    }

    async fn mark_all_read(&self, request: Request<UserRequest>) -> Result<Response<ChangedWire>, Status> {
        answer("mark_all_read", self.inbox.mark_all_read(request.into_inner()).await)
    }

    async fn archive(&self, request: Request<IdsRequest>) -> Result<Response<ChangedWire>, Status> {
        answer("archive", self.inbox.mark(Mark::Archived, request.into_inner()).await)
    }

    async fn delete(&self, request: Request<IdsRequest>) -> Result<Response<ChangedWire>, Status> {
        answer("delete", self.inbox.mark(Mark::Deleted, request.into_inner()).await)
    }

    async fn clear(&self, request: Request<UserRequest>) -> Result<Response<ChangedWire>, Status> {
        answer("clear", self.inbox.clear(request.into_inner()).await)
    }

    async fn unread_count(&self, request: Request<UserRequest>) -> Result<Response<UnreadWire>, Status> {
        answer("unread_count", self.inbox.unread(request.into_inner()).await)
    }

    async fn get_preferences(&self, request: Request<UserRequest>) -> Result<Response<Preferences>, Status> {
        answer("get_preferences", self.inbox.preferences(request.into_inner()).await)
    }

    async fn set_preferences(
        &self,
        request: Request<SetPreferencesRequest>,
    ) -> Result<Response<Preferences>, Status> {
        answer("set_preferences", self.inbox.set_preferences(request.into_inner()).await)
    }

    async fn replay(&self, request: Request<ReplayRequest>) -> Result<Response<ReplayResponse>, Status> {
        answer("replay", self.inbox.replay(request.into_inner()).await)
    }

    async fn push_key(&self, request: Request<PushKeyRequest>) -> Result<Response<PushKeyResponse>, Status> {
        answer("push_key", self.browsers.key(request.into_inner()).await)
    }

    async fn register_push(
        &self,
        request: Request<RegisterPushRequest>,
    ) -> Result<Response<RegisterPushResponse>, Status> {
        answer("register_push", self.browsers.register(request.into_inner()).await)
    }

    async fn remove_push(
        &self,
        request: Request<RemovePushRequest>,
    ) -> Result<Response<RemovePushResponse>, Status> {
        answer("remove_push", self.browsers.remove(request.into_inner()).await)
    }

    async fn send_message(
        &self,
        request: Request<SendMessageRequest>,
    ) -> Result<Response<MessageWire>, Status> {
        answer("send_message", self.rooms.send(request.into_inner()).await)
    }

    async fn edit_message(
        &self,
        request: Request<EditMessageRequest>,
    ) -> Result<Response<MessageWire>, Status> {
        answer("edit_message", self.rooms.edit(request.into_inner()).await)
    }

    async fn delete_message(
        &self,
        request: Request<DeleteMessageRequest>,
    ) -> Result<Response<MessageWire>, Status> {
        answer("delete_message", self.rooms.delete(request.into_inner()).await)
    }

    async fn history(&self, request: Request<HistoryRequest>) -> Result<Response<HistoryResponse>, Status> {
        answer("history", self.rooms.history(request.into_inner()).await)
    }
}
