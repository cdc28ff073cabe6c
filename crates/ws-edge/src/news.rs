//! Something that the followers of a user, a creator, a post or a feed are told, encoded once for all of them.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use fanout::Item;
use model::{Sequence, Topic};
use tungstenite::Utf8Bytes;

use crate::{happenings::Happening, line::Encoded, socket::frames, tab::protocol};

/// An event of a topic. Cheap to clone.
#[derive(Clone)]
pub(crate) struct News(Arc<Told>);

struct Told {
    topic: Topic,
    /// Its place, when it is kept.
    sequence: Option<Sequence>,
    /// What clients read.
    texts: Vec<Utf8Bytes>,
    /// The same as it stands on the wire of a WebSocket.
    frames: Bytes,
    /// The same as events of Socket.IO.
    events: OnceLock<Vec<Encoded>>,
}

impl News {
    /// Something happened; 0 is the sequence of what is kept nowhere.
    pub(crate) fn of(topic: &Topic, happening: &Happening) -> Self {
        let sequence = Some(happening.event.sequence()).filter(|sequence| sequence.0 > 0);
        let mut texts = protocol::event(topic, &happening.event);
        if let (Topic::User(user), Some(unread)) = (topic, happening.unread) {
            texts.push(protocol::unread_count(user, unread));
        }
        let told =
            Told { topic: topic.clone(), sequence, frames: frames(&texts), texts, events: OnceLock::new() };
        Self(Arc::new(told))
    }

    pub(crate) fn topic(&self) -> &Topic {
        &self.0.topic
    }

    pub(crate) fn sequence(&self) -> Option<Sequence> {
        self.0.sequence
    }

    /// What clients read.
    pub(crate) fn texts(&self) -> &[Utf8Bytes] {
        &self.0.texts
    }

    /// The same as events of Socket.IO.
    pub(crate) fn events(&self) -> &[Encoded] {
        self.0.events.get_or_init(|| self.0.texts.iter().filter_map(|text| Encoded::of(text)).collect())
    }

    /// The same as it stands on the wire of a WebSocket.
    pub(crate) fn frames(&self) -> &[u8] {
        &self.0.frames
    }
}

impl Item for News {
    type Key = ();
    /// Each must arrive.
    fn replaces(&self) -> Option<()> {
        None
    }
}
