//! The way to the notification hub, in the words of `model`.

use std::time::Duration;

use model::{
    FaultKind, Message, MessageId, NewMessage, Notification, NotificationId, NotificationType, Refusal,
    RoomId, Sequence, Topic, Unread, UserId,
};
use settings::{Reader, Secret};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

use crate::{
    INTERNAL_TOKEN, KEEP_ALIVE,
    notification::{
        self, Changed, DeleteMessageRequest, EditMessageRequest, Filter, GetRequest, HUB_MESSAGE_BYTES_MAX,
        HistoryRequest, IdsRequest, ListRequest, NotificationsClient, Page, Preferences, Publish,
        PublishOutcome, PushKeyRequest, RegisterPushRequest, RemovePushRequest, ReplayRequest, Replayed,
        RoomPage, SetPreferencesRequest, TopicEvent, UserRequest,
    },
    trace, wire,
};

/// How long the hub may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// How long one call may take: a little more than the hub gives Postgres.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Where the hub is, and how to prove to it that we belong to the house.
#[derive(Debug, Clone)]
pub struct HubSettings {
    /// `http://host:port`.
    pub address: String,
    /// `INTERNAL_TOKEN`, when the services check one.
    pub internal_token: Option<Secret>,
}

impl HubSettings {
    /// Reads `NOTIFICATION_HUB` (default `http://127.0.0.1:50052`) and `INTERNAL_TOKEN`.
    pub fn read(reader: &mut Reader) -> Self {
        let address = reader.text("NOTIFICATION_HUB").unwrap_or_else(|| "http://127.0.0.1:50052".to_owned());
        if endpoint(&address).is_none() {
            reader.problem("NOTIFICATION_HUB", "expected http://host:port");
        }
        let internal_token: Option<Secret> = reader.optional("INTERNAL_TOKEN", "a text");
        if internal_token.as_ref().is_some_and(|token| header(token).is_none()) {
            reader.problem("INTERNAL_TOKEN", "expected visible ASCII characters");
        }
        Self { address, internal_token }
    }
}

/// Why the hub did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HubError {
    /// It refused, and says why with a stable code.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It is not there, or something went wrong. The text is for our own logs.
    #[error("the notification hub answered {fault}: {message}")]
    Failed {
        /// Who must act.
        fault: FaultKind,
        /// What it said.
        message: String,
    },
    /// A setting that no hub can be reached by.
    #[error("{0} cannot be used")]
    Setting(&'static str),
}

impl HubError {
    /// Who must act.
    pub fn fault(&self) -> FaultKind {
        match self {
            Self::Refused(refusal) => refusal.fault(),
            // Our own services' token is no matter of the client.
            Self::Failed { fault: FaultKind::Unauthenticated, .. } | Self::Setting(_) => FaultKind::Defect,
            Self::Failed { fault, .. } => *fault,
        }
    }
}

impl From<Status> for HubError {
    fn from(status: Status) -> Self {
        match notification::refusal(&status) {
            Some(refusal) => Self::Refused(refusal),
            None => Self::Failed { fault: wire::fault(&status), message: status.message().to_owned() },
        }
    }
}

/// The notification hub. Connects when it is first used, and again when it was away. Clones share the connection.
#[derive(Debug, Clone)]
pub struct Hub {
    calls: NotificationsClient<Channel>,
    token: Option<MetadataValue<Ascii>>,
}

impl Hub {
    /// Prepares the way; nothing is connected here. Call it inside of a runtime.
    ///
    /// # Errors
    /// [`HubError::Setting`].
    pub fn new(settings: &HubSettings) -> Result<Self, HubError> {
        let endpoint = endpoint(&settings.address).ok_or(HubError::Setting("NOTIFICATION_HUB"))?;
        let token = settings.internal_token.as_ref();
        let token =
            token.map(|token| header(token).ok_or(HubError::Setting("INTERNAL_TOKEN"))).transpose()?;
        let calls = NotificationsClient::new(endpoint.connect_lazy())
            .max_decoding_message_size(HUB_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(HUB_MESSAGE_BYTES_MAX);
        Ok(Self { calls, token })
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(CALL_LIMIT);
        if let Some(token) = &self.token {
            request.metadata_mut().insert(INTERNAL_TOKEN, token.clone());
        }
        trace::carry(&mut request, telemetry::current());
        request
    }

    /// Stores notifications or an event and rings whoever follows. With an idempotency key it may be repeated after
    /// any error.
    ///
    /// # Errors
    /// See [`HubError`].
    pub async fn publish(
        &self,
        publish: &Publish,
        idempotency_key: Option<&str>,
    ) -> Result<PublishOutcome, HubError> {
        let request = self.request(publish.to_wire(idempotency_key));
        let response = self.calls.clone().publish(request).await?.into_inner();
        let mut published = Vec::with_capacity(response.published.len());
        for one in response.published {
            let user = notification::user(&one.user_id)?;
            published.push((user, one.notification.map(Notification::try_from).transpose()?));
        }
        let sequence = Some(Sequence(response.sequence)).filter(|sequence| sequence.0 > 0);
        Ok(PublishOutcome { published, sequence, repeated: response.repeated })
    }

    /// A page of an inbox.
    ///
    /// # Errors
    /// See [`HubError`].
    pub async fn list(&self, user: &UserId, filter: &Filter) -> Result<Page, HubError> {
        let request = self.request(ListRequest {
            user_id: user.to_string(),
            unread_only: filter.unread_only,
            types: filter.types.iter().map(ToString::to_string).collect(),
            limit: asked(filter.limit)?,
            cursor: filter.cursor.clone().unwrap_or_default(),
            archived: filter.archived,
        });
        let response = self.calls.clone().list(request).await?.into_inner();
        let notifications = response.notifications.into_iter().map(Notification::try_from);
        Ok(Page {
            notifications: notifications.collect::<Result<_, _>>()?,
            next_cursor: Some(response.next_cursor).filter(|cursor| !cursor.is_empty()),
            unread: response.unread.unwrap_or_default().into(),
        })
    }

    /// One notification of the user, archived or not.
    ///
    /// # Errors
    /// [`Refusal::NotificationUnknown`], and see [`HubError`].
    pub async fn get(&self, user: &UserId, id: NotificationId) -> Result<Notification, HubError> {
        let request = self.request(GetRequest { user_id: user.to_string(), id: id.to_string() });
        Ok(self.calls.clone().get(request).await?.into_inner().try_into()?)
    }

    /// These are read.
    ///
    /// # Errors
    /// See [`HubError`].
    pub async fn mark_read(&self, user: &UserId, ids: &[NotificationId]) -> Result<Changed, HubError> {
        Ok(self.calls.clone().mark_read(self.request(named(user, ids))).await?.into_inner().into())
    }

    /// These are unread.
    ///
    /// # Errors
    /// See [`HubError`].
    pub async fn mark_unread(&self, user: &UserId, ids: &[NotificationId]) -> Result<Changed, HubError> {
        Ok(self.calls.clone().mark_unread(self.request(named(user, ids))).await?.into_inner().into())
    }

    /// Everything there is now is read.
    ///
    /// # Errors
    /// See [`HubError`].
    pub async fn mark_all_read(&self, user: &UserId) -> Result<Changed, HubError> {
        Ok(self.calls.clone().mark_all_read(self.request(of(user))).await?.into_inner().into())
    }

    /// These are put away.
    ///
    /// # Errors
    /// See [`HubError`].
    pub async fn archive(&self, user: &UserId, ids: &[NotificationId]) -> Result<Changed, HubError> {
        Ok(self.calls.clone().archive(self.request(named(user, ids))).await?.into_inner().into())
    }

    /// These are gone.
    ///
    /// # Errors
    /// See [`HubError`].
    pub async fn delete(&self, user: &UserId, ids: &[NotificationId]) -> Result<Changed, HubError> {
        Ok(self.calls.clone().delete(self.request(named(user, ids))).await?.into_inner().into())
    }

    /// What is read and not archived is gone; `changed` says how many.
    ///
    /// # Errors
    /// See [`HubError`].
    pub async fn clear(&self, user: &UserId) -> Result<Changed, HubError> {
        Ok(self.calls.clone().clear(self.request(of(user))).await?.into_inner().into())
    }

    /// How many are unread.
    ///
    /// # Errors
    /// See [`HubError`].
    pub async fn unread(&self, user: &UserId) -> Result<Unread, HubError> {
        Ok(self.calls.clone().unread_count(self.request(of(user))).await?.into_inner().into())
    }

    /// The types that the user has muted.
    ///
    /// # Errors
    /// See [`HubError`].
    pub async fn muted(&self, user: &UserId) -> Result<Vec<NotificationType>, HubError> {
        let response = self.calls.clone().get_preferences(self.request(of(user))).await?;
        Ok(notification::types(&response.into_inner().muted_types)?)
    }

    /// Mutes these types and no others.
    ///
    /// # Errors
    /// See [`HubError`].
    pub async fn mute(
        &self,
        user: &UserId,
        types: &[NotificationType],
    ) -> Result<Vec<NotificationType>, HubError> {
        let preferences = Preferences { muted_types: types.iter().map(ToString::to_string).collect() };
        let request = SetPreferencesRequest { user_id: user.to_string(), preferences: Some(preferences) };
        let response = self.calls.clone().set_preferences(self.request(request)).await?;
        Ok(notification::types(&response.into_inner().muted_types)?)
    }

    /// What happened in a topic after a sequence.
    ///
    /// # Errors
    /// See [`HubError`].
    pub async fn replay(
        &self,
        topic: &Topic,
        since: Sequence,
        limit: Option<u32>,
    ) -> Result<Replayed, HubError> {
        let request = ReplayRequest { topic: topic.to_string(), since: since.0, limit: asked(limit)? };
        let response = self.calls.clone().replay(self.request(request)).await?.into_inner();
        Ok(Replayed {
            events: response.events.into_iter().map(TopicEvent::try_from).collect::<Result<_, _>>()?,
            through: Sequence(response.through),
            more: response.more,
            incomplete: response.incomplete,
        })
    }

    /// The public key that browsers subscribe with; `None` when web push is not set up.
    ///
    /// # Errors
    /// See [`HubError`].
    pub async fn push_key(&self) -> Result<Option<String>, HubError> {
        let response = self.calls.clone().push_key(self.request(PushKeyRequest {})).await?;
        Ok(Some(response.into_inner().public_key).filter(|key| !key.is_empty()))
    }

    /// Registers a browser, with the texts of its `PushSubscription.toJSON()`.
    ///
    /// # Errors
    /// [`Refusal::SubscriptionInvalid`], [`Refusal::PushOff`], and see [`HubError`].
    pub async fn register_push(
        &self,
        user: &UserId,
        endpoint: &str,
        p256dh: &str,
        auth: &str,
    ) -> Result<(), HubError> {
        let request = RegisterPushRequest {
            user_id: user.to_string(),
            endpoint: endpoint.to_owned(),
            p256dh: p256dh.to_owned(),
            auth: auth.to_owned(),
        };
        self.calls.clone().register_push(self.request(request)).await?;
        Ok(())
    }

    /// Forgets a browser; whether it was known.
    ///
    /// # Errors
    /// See [`HubError`].
    pub async fn remove_push(&self, user: &UserId, endpoint: &str) -> Result<bool, HubError> {
        let request = RemovePushRequest { user_id: user.to_string(), endpoint: endpoint.to_owned() };
        Ok(self.calls.clone().remove_push(self.request(request)).await?.into_inner().removed)
    }

    /// Says something in a room.
    ///
    /// # Errors
    /// [`Refusal::ReplyUnknown`], what [`NewMessage::check`] finds, and see [`HubError`].
    pub async fn send_message(&self, new: &NewMessage) -> Result<Message, HubError> {
        let request = self.request(notification::send_message_request(new));
        Ok(self.calls.clone().send_message(request).await?.into_inner().try_into()?)
    }

    /// Changes the text that its author said.
    ///
    /// # Errors
    /// [`Refusal::MessageUnknown`], [`Refusal::NotAuthor`], [`Refusal::OnlyTextEdited`], and see [`HubError`].
    pub async fn edit_message(
        &self,
        room: &RoomId,
        id: MessageId,
        author: &UserId,
        text: &str,
    ) -> Result<Message, HubError> {
        let request = EditMessageRequest {
            room_id: room.to_string(),
            id: id.to_string(),
            author: author.to_string(),
            text: text.to_owned(),
        };
        Ok(self.calls.clone().edit_message(self.request(request)).await?.into_inner().try_into()?)
    }

    /// Takes back what its author said.
    ///
    /// # Errors
    /// [`Refusal::MessageUnknown`], [`Refusal::NotAuthor`], and see [`HubError`].
    pub async fn delete_message(
        &self,
        room: &RoomId,
        id: MessageId,
        author: &UserId,
    ) -> Result<Message, HubError> {
        let request = DeleteMessageRequest {
            room_id: room.to_string(),
            id: id.to_string(),
            author: author.to_string(),
        };
        Ok(self.calls.clone().delete_message(self.request(request)).await?.into_inner().try_into()?)
    }

    /// What was said in a room before a position, newest first.
    ///
    /// # Errors
    /// See [`HubError`].
    pub async fn history(
        &self,
        room: &RoomId,
        before: Option<Sequence>,
        limit: Option<u32>,
    ) -> Result<RoomPage, HubError> {
        let before = before.map_or(0, |before| before.0);
        let request = HistoryRequest { room_id: room.to_string(), before, limit: asked(limit)? };
        let response = self.calls.clone().history(self.request(request)).await?.into_inner();
        Ok(RoomPage {
            messages: response.messages.into_iter().map(Message::try_from).collect::<Result<_, _>>()?,
            through: Sequence(response.through),
            more: response.more,
        })
    }
}

/// 0 means the default on the wire, and is no limit that a caller may ask for.
fn asked(limit: Option<u32>) -> Result<u32, Refusal> {
    match limit {
        Some(0) => Err(Refusal::LimitInvalid),
        limit => Ok(limit.unwrap_or(0)),
    }
}

fn of(user: &UserId) -> UserRequest {
    UserRequest { user_id: user.to_string() }
}

fn named(user: &UserId, ids: &[NotificationId]) -> IdsRequest {
    IdsRequest { user_id: user.to_string(), ids: ids.iter().map(ToString::to_string).collect() }
}

fn header(token: &Secret) -> Option<MetadataValue<Ascii>> {
    token.expose().parse().ok()
}

fn endpoint(address: &str) -> Option<Endpoint> {
    let endpoint = Endpoint::from_shared(address.to_owned()).ok()?;
    let whole = endpoint.uri().scheme_str() == Some("http") && endpoint.uri().port_u16().is_some();
    whole.then(|| {
        endpoint
            .connect_timeout(CONNECT_LIMIT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true)
    })
}
