//! The story of a user's inbox, a creator, a post or a feed: stored by the notification hub, rung by Redis.

use event_bus::Event;
use futures_util::future::BoxFuture;
use model::{Sequence, Topic, Unread};
use rpc::notification::TopicEvent;

use crate::{
    Edge,
    feed::{Feeds, Story},
    news::News,
    order::{Page, Record},
};

/// Events in one page from the hub.
const PAGE: u32 = 200;

/// What followers of one topic know.
pub(crate) struct Happenings {
    topic: Topic,
}

/// An event of a topic.
pub(crate) struct Happening {
    pub(crate) event: TopicEvent,
    /// What is unread with a notification, where it is known; changes say it themselves.
    pub(crate) unread: Option<Unread>,
}

impl Record for Happening {
    fn sequence(&self) -> Sequence {
        self.event.sequence()
    }
}

impl Story for Happenings {
    type Topic = Topic;
    type Record = Happening;
    type Item = News;
    type Away = Away;

    fn new(topic: &Topic) -> Self {
        Self { topic: topic.clone() }
    }

    fn feeds(edge: &Edge) -> &Feeds<Self> {
        &edge.happenings
    }

    fn on_the_bus(topic: &Topic) -> Topic {
        topic.clone()
    }

    fn last(edge: &Edge, topic: &Topic) -> BoxFuture<'static, Result<Sequence, Away>> {
        let (storage, topic) = (edge.storage.clone(), topic.clone());
        Box::pin(async move { Ok(storage.last_sequence(&topic).await?) })
    }

    fn after(
        edge: &Edge,
        topic: &Topic,
        after: Sequence,
    ) -> BoxFuture<'static, Result<Page<Happening>, Away>> {
        let (hub, topic) = (edge.hub.clone(), topic.clone());
        Box::pin(async move {
            let replayed = hub.replay(&topic, after, Some(PAGE)).await?;
            let records = replayed.events.into_iter().map(|event| Happening { event, unread: None });
            let mut records: Vec<Happening> = records.collect();
            // What is stored says what happened; how many are unread at its end is counted.
            if let (false, Topic::User(user), Some(last)) = (replayed.more, &topic, records.last_mut())
                && matches!(last.event, TopicEvent::Notification(_))
            {
                last.unread = Some(hub.unread(user).await?);
            }
            Ok(Page {
                records,
                through: replayed.through,
                is_last: !replayed.more,
                is_incomplete: replayed.incomplete,
            })
        })
    }

    fn hear(&self, _: &Edge, event: Event, told: &mut Vec<News>) -> Option<Happening> {
        let (event, unread) = match event {
            Event::Notification { notification, unread } => {
                (TopicEvent::Notification(notification), Some(unread))
            }
            Event::NotificationChanged(change) => (TopicEvent::Change(change), None),
            Event::App(event) => (TopicEvent::App(event), None),
            Event::Caption(_)
            | Event::Status(_)
            | Event::SessionEnded
            | Event::TranscriptionError(_)
            | Event::Message(_)
            | Event::Sign { .. } => return None,
        };
        let happening = Happening { event, unread };
        if happening.sequence() > Sequence(0) {
            return Some(happening);
        }
        // Another back end rang Redis without us: kept nowhere, told at once.
        told.push(News::of(&self.topic, &happening));
        None
    }

    fn tell(&self, _: &Edge, happening: Happening) -> News {
        News::of(&self.topic, &happening)
    }
}

/// Why a place or what lies after it cannot be known now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Away {
    #[error(transparent)]
    Storage(#[from] storage::StorageError),
    #[error(transparent)]
    Hub(#[from] rpc::HubError),
}
