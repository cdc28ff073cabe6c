//! Calls about notifications: what a request means, what the storage did, and whom to wake.

use std::time::Duration;

use model::{Clock, Notification, NotificationId, Refusal, Sequence, Topic, UserId};
use outbox::Bell;
use rpc::notification::{
    self as wire, Changed, ChangedWire, EventWire, GetRequest, IdsRequest, ListRequest, ListResponse,
    NotificationWire, Preferences, Publish, PublishRequest, PublishResponse, PublishedWire, ReplayRequest,
    ReplayResponse, SetPreferencesRequest, TopicEvent, UnreadWire, UserRequest,
};
use sha2::{Digest, Sha256};
use storage::{
    Idempotency, InboxChange, InboxEvent, InboxFilter, Mark, NewNotifications, Publication, Storage, Story,
};
use uuid::Uuid;

use crate::{calls::CallError, cursor, due::Alarm};

/// Whatever concerns inboxes.
pub(crate) struct Inbox {
    pub(crate) storage: Storage,
    /// Rung when something waits to be announced.
    pub(crate) announce: Bell,
    /// Rung when something will be due.
    pub(crate) due: Alarm,
    /// Rung when something may have to go out of the house.
    pub(crate) outward: Alarm,
    pub(crate) clock: Clock,
    pub(crate) idempotency_life: Duration,
    /// Whether the hook hears of notifications.
    pub(crate) hook: bool,
}

impl Inbox {
    pub(crate) async fn publish(&self, request: PublishRequest) -> Result<PublishResponse, CallError> {
        let now = self.clock.now();
        let digest = wire::without_key(&request);
        let (publish, key) = Publish::from_wire(request)?;
        let request_hash = Sha256::digest(digest);
        let idempotency = key.as_deref().map(|key| Idempotency {
            key,
            request_hash: request_hash.as_slice(),
            until: now.after(self.idempotency_life),
        });
        match publish {
            Publish::Users { users, notification } => {
                let id = |user: UserId| (user, NotificationId(Uuid::now_v7()));
                let recipients: Vec<_> = users.into_iter().map(id).collect();
                let new = NewNotifications {
                    recipients: &recipients,
                    notification: &notification,
                    hook: self.hook,
                    at: now,
                };
                let publication = match (notification.check_times(now), idempotency) {
                    (Ok(()), _) => self.storage.publish_notifications(new, idempotency).await?,
                    (Err(refusal), None) => return Err(refusal.into()),
                    // Its times were right when it came first, if it did.
                    (Err(refusal), Some(idempotency)) => {
                        self.storage.repeated_publication(new, idempotency).await?.ok_or(refusal)?
                    }
                };
                self.announce.ring();
                self.outward.ring();
                if notification.deliver_at.is_some() || notification.expires_at.is_some() {
                    self.due.ring();
                }
                let (stored, repeated) = settled(publication)?;
                let users = recipients.iter().map(|(user, _)| user);
                Ok(PublishResponse { published: published(users, &stored), sequence: 0, repeated })
            }
            Publish::Event { topic, payload } => {
                let publication = self.storage.publish_event(&topic, &payload, now, idempotency).await?;
                self.announce.ring();
                let (sequence, repeated) = settled(publication)?;
                Ok(PublishResponse { published: Vec::new(), sequence: sequence.0, repeated })
            }
        }
    }

    pub(crate) async fn list(&self, request: ListRequest) -> Result<ListResponse, CallError> {
        let user = wire::user(&request.user_id)?;
        let limit = wire::limit(request.limit)?;
        let mut filter = InboxFilter {
            unread_only: request.unread_only,
            types: wire::types(&request.types)?,
            archived: request.archived,
            before: None,
        };
        if !request.cursor.is_empty() {
            filter.before = Some(cursor::read(&request.cursor, &user, &filter)?);
        }
        // One more than asked for tells whether there is another page.
        let (mut page, unread) = self.storage.notifications(&user, &filter, limit + 1).await?;
        let more = page.len() > limit as usize;
        page.truncate(limit as usize);
        let next_cursor = match page.last() {
            Some(last) if more => cursor::after(last.sequence, &user, &filter),
            _ => String::new(),
        };
        Ok(ListResponse {
            notifications: page.iter().map(NotificationWire::from).collect(),
            next_cursor,
            unread: Some(unread.into()),
        })
    }

    pub(crate) async fn get(&self, request: GetRequest) -> Result<NotificationWire, CallError> {
        let user = wire::user(&request.user_id)?;
        let id = request.id.parse().map_err(|_| Refusal::IdInvalid)?;
        let found = self.storage.notification(&user, id).await?.ok_or(Refusal::NotificationUnknown)?;
        Ok((&found).into())
    }

    pub(crate) async fn mark(&self, mark: Mark, request: IdsRequest) -> Result<ChangedWire, CallError> {
        let user = wire::user(&request.user_id)?;
        let ids = wire::ids(&request.ids)?;
        let change = self.storage.mark_notifications(&user, mark, &ids, self.clock.now()).await?;
        Ok(self.changed(change))
    }

    pub(crate) async fn mark_all_read(&self, request: UserRequest) -> Result<ChangedWire, CallError> {
        let user = wire::user(&request.user_id)?;
        Ok(self.changed(self.storage.mark_all_read(&user, self.clock.now()).await?))
    }

    pub(crate) async fn clear(&self, request: UserRequest) -> Result<ChangedWire, CallError> {
        let user = wire::user(&request.user_id)?;
        let change = self.storage.clear_notifications(&user, self.clock.now()).await?;
        // The rows wait to be deleted.
        self.due.ring();
        Ok(self.changed(change))
    }

    fn changed(&self, change: InboxChange) -> ChangedWire {
        if change.changed > 0 {
            self.announce.ring();
        }
        Changed { changed: change.changed, found: change.found, unread: change.unread }.into()
    }

    pub(crate) async fn replay(&self, request: ReplayRequest) -> Result<ReplayResponse, CallError> {
        let topic: Topic = request.topic.parse().map_err(|_| Refusal::TopicInvalid)?;
        let (since, limit) = (Sequence(request.since), wire::limit(request.limit)?);
        match &topic {
            Topic::User(user) => {
                let story = self.storage.replay_user(user, since, limit).await?;
                Ok(replayed(story, |event| match event {
                    InboxEvent::Notification(notification) => TopicEvent::Notification(notification),
                    InboxEvent::Change(change) => TopicEvent::Change(change),
                }))
            }
            Topic::Room(room) => {
                Ok(replayed(self.storage.replay_room(room, since, limit).await?, TopicEvent::Message))
            }
            Topic::Creator(_) | Topic::Post(_) | Topic::Feed(_) => {
                Ok(replayed(self.storage.replay_events(&topic, since, limit).await?, TopicEvent::App))
            }
            Topic::Session(_) => Err(Refusal::TopicInvalid.into()),
        }
    }

    pub(crate) async fn unread(&self, request: UserRequest) -> Result<UnreadWire, CallError> {
        Ok(self.storage.unread(&wire::user(&request.user_id)?).await?.into())
    }

    pub(crate) async fn preferences(&self, request: UserRequest) -> Result<Preferences, CallError> {
        let muted = self.storage.muted_types(&wire::user(&request.user_id)?).await?;
        Ok(Preferences { muted_types: muted.iter().map(ToString::to_string).collect() })
    }

    pub(crate) async fn set_preferences(
        &self,
        request: SetPreferencesRequest,
    ) -> Result<Preferences, CallError> {
        let user = wire::user(&request.user_id)?;
        let muted = wire::types(&request.preferences.unwrap_or_default().muted_types)?;
        self.storage.mute_types(&user, &muted).await?;
        Ok(Preferences { muted_types: muted.iter().map(ToString::to_string).collect() })
    }
}

/// One entry for each user, with the notification when there is one.
fn published<'a>(users: impl Iterator<Item = &'a UserId>, stored: &[Notification]) -> Vec<PublishedWire> {
    let mut stored = stored.iter().peekable();
    users
        .map(|user| {
            // Both are in the order of the request.
            let notification = stored.next_if(|notification| notification.user == *user);
            PublishedWire {
                user_id: user.to_string(),
                notification: notification.map(NotificationWire::from),
            }
        })
        .collect()
}

fn settled<T>(publication: Publication<T>) -> Result<(T, bool), Refusal> {
    match publication {
        Publication::Done(done) => Ok((done, false)),
        Publication::Repeated(done) => Ok((done, true)),
        Publication::Conflict => Err(Refusal::IdempotencyConflict),
    }
}

fn replayed<T>(story: Story<T>, event: impl Fn(T) -> TopicEvent) -> ReplayResponse {
    ReplayResponse {
        events: story.events.into_iter().map(|one| EventWire::from(&event(one))).collect(),
        through: story.through.0,
        more: story.more,
        incomplete: story.incomplete,
    }
}
