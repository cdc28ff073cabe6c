//! Something that those who follow a room are told, encoded once for all of them.

use std::sync::Arc;

use fanout::Item;
use model::{Member, Message, RoomId, SeatId, Sequence, Timestamp, UserId};

use super::protocol::{self, Body, Telling};

/// An event of a room. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Said(Arc<Told>);

pub(super) struct Told {
    pub(super) room: RoomId,
    pub(super) what: What,
}

/// What it is.
pub(super) enum What {
    /// A message, new or changed.
    Message {
        sequence: Sequence,
        position: Sequence,
        is_deleted: bool,
        body: Body,
    },
    /// Somebody writes, on this seat.
    Typing {
        seat: SeatId,
        user: UserId,
        telling: Telling,
    },
    People(People),
}

/// Who came and who went since the roster before.
pub(super) struct People {
    /// Counts the states of the room's roster.
    pub(super) version: u64,
    pub(super) joined: Vec<(UserId, Telling)>,
    pub(super) left: Vec<Telling>,
    /// Everybody who is there, when it is few enough to be told each time.
    pub(super) all: Option<Telling>,
}

impl People {
    /// The difference of two rosters.
    pub(super) fn new(
        room: &RoomId,
        version: u64,
        joined: &[&Member],
        left: &[&UserId],
        now: Timestamp,
    ) -> Self {
        let joined =
            joined.iter().map(|member| (member.user.clone(), protocol::user_joined(room, member, now)));
        let left = left.iter().map(|user| protocol::user_left(room, user));
        Self { version, joined: joined.collect(), left: left.collect(), all: None }
    }
}

impl Said {
    pub(super) fn message(message: &Message) -> Self {
        let what = What::Message {
            sequence: message.sequence,
            position: message.position,
            is_deleted: message.deleted_at.is_some(),
            body: protocol::message(message),
        };
        Self::new(&message.room, what)
    }

    pub(super) fn typing(room: &RoomId, seat: SeatId, user: UserId, name: &str, is_typing: bool) -> Self {
        let telling = protocol::user_typing(room, &user, name, is_typing);
        Self::new(room, What::Typing { seat, user, telling })
    }

    pub(super) fn people(room: &RoomId, people: People) -> Self {
        Self::new(room, What::People(people))
    }

    fn new(room: &RoomId, what: What) -> Self {
        Self(Arc::new(Told { room: room.clone(), what }))
    }

    pub(super) fn told(&self) -> &Told {
        &self.0
    }
}

impl Item for Said {
    type Key = (RoomId, UserId);
    /// Whether somebody writes is old as soon as it is known better; everything else must arrive.
    fn replaces(&self) -> Option<Self::Key> {
        match &self.0.what {
            What::Typing { user, .. } => Some((self.0.room.clone(), user.clone())),
            What::Message { .. } | What::People(_) => None,
        }
    }
}
