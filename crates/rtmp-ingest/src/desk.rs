//! Who holds each stream: a publisher's connection, or nobody for a while after it was lost.
//!
//! A source outlives its connection: its desk stays, and the next publisher of the same key sits down at it. Each
//! sitting has a number, so that what an older connection still delivers is told apart.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use model::{Identity, SessionSlug, StreamId};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use uuid::Uuid;

use crate::{metrics::Begun, permit::Permit, settings::Takeover};

/// Tags that wait to be decoded: nearly 3 s of sound. A connection whose queue is full is not read.
const TAGS_WAITING_MAX: usize = 128;

/// Number of a sitting: rises with every connection that takes the stream.
pub(crate) type Sitting = u32;

/// An audio tag on its way to the source.
pub(crate) struct Tag {
    pub(crate) sitting: Sitting,
    /// Milliseconds modulo 2^32, as the encoder counts.
    pub(crate) timestamp: u32,
    pub(crate) came: Instant,
    pub(crate) data: Bytes,
    /// Which track the publisher asked for.
    pub(crate) track: Option<u8>,
}

/// Why a connection must go although its publisher did nothing of the kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Leave {
    /// Another publisher has the key now.
    TakenOver,
    /// The sound cannot be understood: the metric label, and what the person at the encoder can do.
    Undecodable(&'static str, String),
    /// The stream cannot go on.
    Failed,
}

impl Leave {
    /// What the encoder is told.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::TakenOver => "another publisher uses this stream key now",
            Self::Undecodable(_, text) => text,
            Self::Failed => "the stream cannot be transcribed at present",
        }
    }
}

/// Where a stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    /// By a connection.
    Taken,
    /// By nobody since then; `said` tells whether the publisher took its leave.
    Free { since: Instant, said: bool },
    /// Nobody comes any more; what is there is finished.
    Dismissed,
}

#[derive(Debug, Clone, Copy)]
struct Holder {
    sitting: Sitting,
    held: Held,
}

/// What a source and those who hold it share.
pub(crate) struct Desk {
    pub(crate) stream: StreamId,
    pub(crate) session: SessionSlug,
    identity: Identity,
    tags: mpsc::Sender<Tag>,
    holder: watch::Sender<Holder>,
    /// Tells the present connection to leave.
    leave: Mutex<watch::Sender<Option<Leave>>>,
}

impl Desk {
    fn sit(self: &Arc<Self>) -> (Sitting, watch::Receiver<Option<Leave>>) {
        let (sender, leave) = watch::channel(None);
        let mut sitting = 0;
        self.holder.send_modify(|holder| {
            sitting = holder.sitting + 1;
            *holder = Holder { sitting, held: Held::Taken };
        });
        let before = std::mem::replace(&mut *self.leave(), sender);
        before.send_replace(Some(Leave::TakenOver));
        (sitting, leave)
    }

    fn leave(&self) -> MutexGuard<'_, watch::Sender<Option<Leave>>> {
        self.leave.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the present connection away. The first reason counts.
    pub(crate) fn send_away(&self, leave: Leave) {
        self.leave().send_if_modified(|told| told.is_none() && told.replace(leave).is_none());
    }

    /// Where it stands.
    pub(crate) fn held(&self) -> Held {
        self.holder.borrow().held
    }

    /// Notices when that changes.
    pub(crate) fn watch(&self) -> HolderWatch {
        HolderWatch(self.holder.subscribe())
    }

    fn is_held_by(&self, sitting: Sitting) -> bool {
        self.holder.borrow().sitting == sitting
    }

    fn hold(&self, held: Held) {
        self.holder.send_modify(|holder| holder.held = held);
    }
}

/// Changes of who holds a desk.
pub(crate) struct HolderWatch(watch::Receiver<Holder>);

impl HolderWatch {
    /// Waits for the next change. Cancel-safe.
    pub(crate) async fn changed(&mut self) -> Held {
        // The sender is in the desk, which the watcher's task holds.
        let _ = self.0.changed().await;
        self.0.borrow_and_update().held
    }
}

/// A connection's place at a desk; the stream waits for the next publisher when it is dropped.
pub(crate) struct Seat {
    desk: Arc<Desk>,
    desks: Arc<Desks>,
    sitting: Sitting,
    track: Option<u8>,
    leave: watch::Receiver<Option<Leave>>,
    /// The publisher took its leave.
    pub(crate) said: bool,
    pub(crate) begun: Begun,
}

impl Seat {
    pub(crate) fn stream(&self) -> StreamId {
        self.desk.stream
    }

    /// Hands on a tag; waits for room. `false` when nobody listens any more.
    pub(crate) async fn deliver(&self, timestamp: u32, data: Bytes) -> bool {
        let tag = Tag { sitting: self.sitting, timestamp, came: Instant::now(), data, track: self.track };
        self.desk.tags.send(tag).await.is_ok()
    }

    /// Waits until this connection must go. Cancel-safe.
    pub(crate) async fn must_leave(&mut self) -> Leave {
        match self.leave.wait_for(Option::is_some).await {
            Ok(leave) => leave.clone().unwrap_or(Leave::Failed),
            Err(_) => Leave::Failed,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.desks.leave(&self.desk, self.sitting, self.said);
    }
}

/// A stream that begins: what its source needs.
pub(crate) type New = (Arc<Desk>, mpsc::Receiver<Tag>);

/// The key is in use, and its publisher stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InUse;

/// The desks of an ingest, one for each publisher of a session.
#[derive(Default)]
pub(crate) struct Desks {
    all: Mutex<HashMap<(SessionSlug, Identity), Arc<Desk>>>,
}

impl Desks {
    fn all(&self) -> MutexGuard<'_, HashMap<(SessionSlug, Identity), Arc<Desk>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the stream of this publisher, and the desk and its tags if it is a new one, for which a source must be
    /// started.
    pub(crate) fn take(
        self: &Arc<Self>,
        permit: &Permit,
        takeover: Takeover,
    ) -> Result<(Seat, Option<New>), InUse> {
        let (session, identity) = (permit.session.clone(), permit.speaker.identity.clone());
        let mut all = self.all();
        let present = all.get(&(session.clone(), identity.clone())).cloned();
        let (desk, begun, new) = match present.map(|desk| (desk.held(), desk)) {
            Some((Held::Taken, _)) if takeover == Takeover::Refuse => return Err(InUse),
            Some((Held::Taken, desk)) => (desk, Begun::TookOver, None),
            Some((Held::Free { .. }, desk)) => (desk, Begun::Continued, None),
            Some((Held::Dismissed, _)) | None => {
                let (tags, receiver) = mpsc::channel(TAGS_WAITING_MAX);
                let desk = Arc::new(Desk {
                    stream: StreamId(Uuid::new_v4()),
                    session: session.clone(),
                    identity: identity.clone(),
                    tags,
                    holder: watch::Sender::new(Holder { sitting: 0, held: Held::Taken }),
                    leave: Mutex::new(watch::Sender::new(None)),
                });
                all.insert((session, identity), desk.clone());
                (desk.clone(), Begun::New, Some((desk, receiver)))
            }
        };
        let (sitting, leave) = desk.sit();
        let seat =
            Seat { desk, desks: self.clone(), sitting, track: permit.track, leave, said: false, begun };
        Ok((seat, new))
    }

    /// A connection is gone.
    fn leave(&self, desk: &Desk, sitting: Sitting, said: bool) {
        let _all = self.all();
        if desk.is_held_by(sitting) && desk.held() == Held::Taken {
            desk.hold(Held::Free { since: Instant::now(), said });
        }
    }

    /// Lets a stream be finished, unless somebody has taken it meanwhile.
    pub(crate) fn dismiss_free(&self, desk: &Desk) {
        let _all = self.all();
        if matches!(desk.held(), Held::Free { .. }) {
            desk.hold(Held::Dismissed);
        }
    }

    /// A source has ended, or is about to: nobody can take it any more.
    pub(crate) fn clear(&self, desk: &Arc<Desk>) {
        let mut all = self.all();
        desk.hold(Held::Dismissed);
        let key = (desk.session.clone(), desk.identity.clone());
        if all.get(&key).is_some_and(|present| Arc::ptr_eq(present, desk)) {
            all.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permit(key: &str) -> Permit {
        crate::permit::open(key).unwrap()
    }

    #[tokio::test]
    async fn a_second_publisher_takes_over_or_is_refused() {
        let desks = Arc::new(Desks::default());
        let (mut first, new) = desks.take(&permit("demo"), Takeover::Replace).unwrap();
        assert!(new.is_some());
        assert!(desks.take(&permit("demo"), Takeover::Refuse).is_err());
        let (second, new) = desks.take(&permit("demo"), Takeover::Replace).unwrap();
        assert!(new.is_none() && first.stream() == second.stream());
        assert_eq!(first.must_leave().await, Leave::TakenOver);
        drop(first);
        assert_eq!(second.desk.held(), Held::Taken, "the end of the first changes nothing");
        let (other, new) = desks.take(&permit("other"), Takeover::Refuse).unwrap();
        assert!(new.is_some() && other.stream() != second.stream());
    }

    #[tokio::test]
    async fn whoever_is_left_at_a_desk_that_is_cleared_can_be_sent_away_for_the_first_reason() {
        let desks = Arc::new(Desks::default());
        let (mut seat, new) = desks.take(&permit("demo"), Takeover::Replace).unwrap();
        let (desk, tags) = new.unwrap();
        desks.clear(&desk);
        drop(tags);
        assert!(!seat.deliver(0, Bytes::new()).await);
        let why = Leave::Undecodable("speex", "no".to_owned());
        desk.send_away(why.clone());
        desk.send_away(Leave::Failed);
        assert_eq!(seat.must_leave().await, why);
    }

    #[tokio::test]
    async fn a_publisher_that_returns_finds_its_stream_until_it_is_dismissed() {
        let desks = Arc::new(Desks::default());
        let (mut seat, new) = desks.take(&permit("demo"), Takeover::Refuse).unwrap();
        let (desk, stream) = (new.unwrap().0, seat.stream());
        seat.said = true;
        drop(seat);
        assert!(matches!(desk.held(), Held::Free { said: true, .. }));
        let (seat, new) = desks.take(&permit("demo"), Takeover::Refuse).unwrap();
        assert!(new.is_none() && seat.stream() == stream && seat.begun == Begun::Continued);
        desks.dismiss_free(&desk);
        assert_eq!(desk.held(), Held::Taken, "it is taken again");
        drop(seat);
        desks.dismiss_free(&desk);
        let (seat, new) = desks.take(&permit("demo"), Takeover::Refuse).unwrap();
        assert!(new.is_some() && seat.stream() != stream, "a new one");
        desks.clear(&desk);
        assert!(
            desks.take(&permit("demo"), Takeover::Refuse).is_err(),
            "the old one's end does not concern it"
        );
    }
}
