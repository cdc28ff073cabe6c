//! Something that the followers of a user, a creator, a post or a feed are told, encoded once for all of them.

use std::sync::Arc;

use fanout::Item;
use model::{Sequence, Topic};
use tungstenite::Utf8Bytes;

use crate::{happenings::Happening, tab::protocol};

/// An event of a topic. Cheap to clone.
#[derive(Clone)]
pub(crate) struct News(Arc<Told>);

struct Told {
    topic: Topic,
    /// Its place, when it is kept.
    sequence: Option<Sequence>,
    texts: Box<[Utf8Bytes]>,
}

impl News {
    /// Something happened; 0 is the sequence of what is kept nowhere.
    pub(crate) fn of(topic: &Topic, happening: &Happening) -> Self {
        let sequence = Some(happening.event.sequence()).filter(|sequence| sequence.0 > 0);
        let mut texts = protocol::event(topic, &happening.event);
        if let (Topic::User(user), Some(unread)) = (topic, happening.unread) {
            texts.push(protocol::unread_count(user, unread));
        }
        Self(Arc::new(Told { topic: topic.clone(), sequence, texts: texts.into() }))
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
}

impl Item for News {
    type Key = ();
    /// Each must arrive.
    fn replaces(&self) -> Option<()> {
        None
    }
}
