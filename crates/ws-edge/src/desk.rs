//! Who holds each stream of this edge: a connection, or nobody for a while after its socket died.
//!
//! A source outlives its socket: its desk stays, and the participant's next socket sits down at it. Each sitting has
//! a number, so that what an older socket still delivers is told apart.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use model::{Identity, Samples, SessionSlug, StreamId};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tokio_util::task::TaskTracker;

use crate::{
    Edge,
    arrivals::Arrivals,
    metrics,
    source::{Command, REPORTS_WAITING_MAX, Report},
};

/// Sources without a socket that one edge keeps, each with up to 30 s of audio (1 MiB). Beyond it the one that has
/// waited longest is finished.
const DETACHED_MAX: usize = 1_000;

/// Number of a sitting: rises with every socket that takes the stream.
pub(crate) type Sitting = u32;

/// That of the socket which opened the stream here.
const FIRST: Sitting = 1;

/// Streams that have ended and whose last captions may still come; when their sound came is known so long.
const ENDED_MAX: usize = 64;

/// A command, the sitting that it comes from, and when it was given.
pub(crate) type Commanded = (Sitting, Command, Instant);

/// What a source and those who hold it share.
pub(crate) struct Desk {
    pub(crate) stream: StreamId,
    session: SessionSlug,
    identity: Identity,
    /// Whether its client knows `resume`.
    is_native: bool,
    commands: mpsc::Sender<Commanded>,
    holder: watch::Sender<Holder>,
    reporter: Mutex<Option<mpsc::Sender<Report>>>,
    /// Whether a worker has ever taken the stream.
    opened: watch::Sender<bool>,
    acknowledged: AtomicU64,
    received: AtomicU64,
    arrivals: Mutex<Arrivals>,
}

#[derive(Clone, Copy)]
struct Holder {
    sitting: Sitting,
    held: Held,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    /// By a connection.
    Taken,
    /// By one that has said `stop`, or is made to leave.
    Stopping,
    /// By nobody since then.
    Free(Instant),
    /// Nobody comes any more; what is there is finished.
    Dismissed,
}

/// A connection's place at a desk.
pub(crate) struct Seat {
    pub(crate) desk: Arc<Desk>,
    pub(crate) sitting: Sitting,
    pub(crate) commands: mpsc::Sender<Commanded>,
    pub(crate) reports: mpsc::Receiver<Report>,
}

/// What became of the wish to go on with a stream.
pub(crate) enum Found {
    Here(Seat),
    /// It is another participant's.
    NotYours,
    /// It is not here, or being finished.
    Nowhere,
}

impl Desk {
    fn sit(self: &Arc<Self>) -> Seat {
        let (reporter, reports) = mpsc::channel(REPORTS_WAITING_MAX);
        let mut sitting = FIRST;
        self.holder.send_modify(|holder| {
            sitting = holder.sitting + 1;
            *holder = Holder { sitting, held: Held::Taken };
        });
        *self.reporter() = Some(reporter);
        Seat { desk: self.clone(), sitting, commands: self.commands.clone(), reports }
    }

    fn held(&self) -> Held {
        self.holder.borrow().held
    }

    fn hold(&self, held: Held) {
        self.holder.send_modify(|holder| holder.held = held);
    }

    fn is_of(&self, session: &SessionSlug, identity: &Identity) -> bool {
        self.session == *session && self.identity == *identity
    }

    fn arrivals(&self) -> MutexGuard<'_, Arrivals> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reporter(&self) -> MutexGuard<'_, Option<mpsc::Sender<Report>>> {
        self.reporter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether no later socket has taken the stream.
    pub(crate) fn is_held_by(&self, sitting: Sitting) -> bool {
        self.holder.borrow().sitting == sitting
    }

    /// Whether a later socket has taken the stream.
    pub(crate) fn was_resumed(&self) -> bool {
        !self.is_held_by(FIRST)
    }

    /// Tells whoever holds the stream, when there is room.
    pub(crate) fn mention(&self, report: Report) {
        if let Some(reporter) = &*self.reporter() {
            // The next says more.
            let _ = reporter.try_send(report);
        }
    }

    /// Tells whoever holds the stream; waits for room. Nobody is told while nobody holds it.
    pub(crate) async fn tell(&self, mut report: Report) {
        let mut told = None;
        loop {
            let present = self.reporter().clone();
            let Some(reporter) = present else { return };
            if told.as_ref().is_some_and(|told: &mpsc::Sender<Report>| told.same_channel(&reporter)) {
                return;
            }
            match reporter.send(report).await {
                Ok(()) => return,
                // Its socket is gone; perhaps there is a newer one.
                Err(mpsc::error::SendError(unsent)) => report = unsent,
            }
            told = Some(reporter);
        }
    }

    /// Audio up to there needs no re-sending.
    pub(crate) fn acknowledged(&self) -> Samples {
        Samples(self.acknowledged.load(Ordering::Relaxed))
    }

    pub(crate) fn set_acknowledged(&self, position: Samples) {
        self.acknowledged.fetch_max(position.0, Ordering::Relaxed);
    }

    /// Audio up to there has come by then.
    pub(crate) fn set_received(&self, position: Samples, at: Instant) {
        self.received.store(position.0, Ordering::Relaxed);
        self.arrivals().note(position, at);
    }

    /// A worker has taken the stream; what it has stored was said before.
    pub(crate) fn set_opened(&self) {
        self.opened.send_if_modified(|opened| !std::mem::replace(opened, true));
    }

    /// Waits until a worker has taken the stream.
    pub(crate) async fn opened(&self) {
        // The sender is in this desk.
        let _ = self.opened.subscribe().wait_for(|opened| *opened).await;
    }

    /// Watches over the time without a socket: ends the open utterance of a client that cannot resume, and stops the
    /// source when nobody comes back. Goes on for ever.
    pub(crate) async fn watch(&self, edge: &Edge) {
        let mut holder = self.holder.subscribe();
        let mut finalized = 0;
        loop {
            let Holder { sitting, held } = *holder.borrow_and_update();
            let until = match held {
                Held::Taken | Held::Stopping => None,
                Held::Free(since) if self.is_native => Some(since + edge.settings.resume),
                Held::Free(since) => {
                    if finalized != sitting {
                        finalized = sitting;
                        let _ = self.commands.send((sitting, Command::Finalize, Instant::now())).await;
                    }
                    Some(since + edge.settings.rejoin)
                }
                Held::Dismissed => {
                    let _ = self.commands.send((sitting, Command::Stop, Instant::now())).await;
                    return std::future::pending().await;
                }
            };
            tokio::select! {
                // The sender is in this desk.
                _ = holder.changed() => {}
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                    edge.desks.dismiss(self, sitting);
                }
                () = edge.life.draining().cancelled(), if until.is_some() => edge.desks.dismiss(self, sitting),
            }
        }
    }
}

/// The desks of an edge.
pub(crate) struct Desks {
    room: Mutex<Room>,
    /// Every source until it is finished.
    pub(crate) tasks: TaskTracker,
}

#[derive(Default)]
struct Room {
    all: HashMap<StreamId, Arc<Desk>>,
    /// Those that nobody holds; who has waited longest is first.
    free: VecDeque<Arc<Desk>>,
    /// Those of the streams that ended last.
    ended: VecDeque<Arc<Desk>>,
}

impl Room {
    /// Takes a desk from those that nobody holds.
    fn occupy(&mut self, desk: &Desk) {
        self.free.retain(|free| free.stream != desk.stream);
        metrics::detached(self.free.len());
    }
}

impl Desks {
    pub(crate) fn new() -> Self {
        Self { room: Mutex::default(), tasks: TaskTracker::new() }
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets up a desk for a stream that begins, or goes on, at `first`. An older one of the same stream is left to
    /// its end.
    pub(crate) fn set_up(
        &self,
        source: &rpc::Source,
        is_native: bool,
        first: Samples,
        commands: mpsc::Sender<Commanded>,
    ) -> Seat {
        let desk = Arc::new(Desk {
            stream: source.stream,
            session: source.session.clone(),
            identity: source.speaker.identity.clone(),
            is_native,
            commands,
            holder: watch::Sender::new(Holder { sitting: FIRST - 1, held: Held::Taken }),
            reporter: Mutex::default(),
            opened: watch::Sender::new(false),
            acknowledged: AtomicU64::new(first.0),
            received: AtomicU64::new(first.0),
            arrivals: Mutex::new(Arrivals::from(first)),
        });
        let mut room = self.room();
        room.occupy(&desk);
        if let Some(older) = room.all.insert(desk.stream, desk.clone())
            && matches!(older.held(), Held::Free(_))
        {
            older.hold(Held::Dismissed);
        }
        desk.sit()
    }

    /// Takes a stream for a new socket, also from one that does not know yet that it is dead. `acknowledged` is what
    /// the client was told: more than came here means that the stream went on elsewhere since.
    pub(crate) fn resume(
        &self,
        stream: StreamId,
        session: &SessionSlug,
        identity: &Identity,
        acknowledged: Samples,
    ) -> Found {
        let mut room = self.room();
        let Some(desk) = room.all.get(&stream).cloned() else { return Found::Nowhere };
        if !desk.is_of(session, identity) {
            return Found::NotYours;
        }
        let is_stale = acknowledged.0 > desk.received.load(Ordering::Relaxed);
        if is_stale || matches!(desk.held(), Held::Stopping | Held::Dismissed) {
            return Found::Nowhere;
        }
        room.occupy(&desk);
        Found::Here(desk.sit())
    }

    /// Takes the stream that a participant who cannot resume has lost last, and how long ago that was.
    pub(crate) fn rejoin(&self, session: &SessionSlug, identity: &Identity) -> Option<(Seat, Duration)> {
        let mut room = self.room();
        let lost = |desk: &&Arc<Desk>| !desk.is_native && desk.is_of(session, identity);
        let desk = room.free.iter().rev().find(lost)?.clone();
        let Held::Free(since) = desk.held() else { return None };
        room.occupy(&desk);
        Some((desk.sit(), since.elapsed()))
    }

    /// The holder lets the source finish: nobody else may take it.
    pub(crate) fn stop(&self, desk: &Desk, sitting: Sitting) {
        let _room = self.room();
        if desk.is_held_by(sitting) {
            desk.hold(Held::Stopping);
        }
    }

    /// A connection is gone.
    pub(crate) fn leave(&self, desk: &Arc<Desk>, sitting: Sitting) {
        let mut room = self.room();
        if !desk.is_held_by(sitting) {
            return;
        }
        *desk.reporter() = None;
        if desk.held() == Held::Stopping || !room.has(desk) {
            desk.hold(Held::Dismissed);
            return;
        }
        desk.hold(Held::Free(Instant::now()));
        room.free.push_back(desk.clone());
        if room.free.len() > DETACHED_MAX
            && let Some(oldest) = room.free.pop_front()
        {
            oldest.hold(Held::Dismissed);
        }
        metrics::detached(room.free.len());
    }

    /// Finishes a source that nobody has taken meanwhile.
    fn dismiss(&self, desk: &Desk, sitting: Sitting) {
        let mut room = self.room();
        if desk.is_held_by(sitting) && matches!(desk.held(), Held::Free(_)) {
            desk.hold(Held::Dismissed);
            room.occupy(desk);
        }
    }

    /// A source has ended: nobody can take it any more.
    pub(crate) fn clear(&self, desk: &Arc<Desk>) {
        let mut room = self.room();
        desk.hold(Held::Dismissed);
        if room.has(desk) {
            drop(room.all.remove(&desk.stream));
            room.occupy(desk);
            room.ended.push_back(desk.clone());
            if room.ended.len() > ENDED_MAX {
                room.ended.pop_front();
            }
        }
    }

    /// When all sound of a stream before `end` had come to this edge, if it did.
    pub(crate) fn came(&self, stream: StreamId, end: Samples) -> Option<Instant> {
        let room = self.room();
        let ended = || room.ended.iter().rev().find(|desk| desk.stream == stream);
        let desk = room.all.get(&stream).or_else(ended)?;
        desk.arrivals().came(end)
    }
}

impl Room {
    /// Whether this is the desk of its stream, not one from before the stream went on elsewhere.
    fn has(&self, desk: &Arc<Desk>) -> bool {
        self.all.get(&desk.stream).is_some_and(|present| Arc::ptr_eq(present, desk))
    }
}

#[cfg(test)]
mod tests {
    use model::{Speaker, Timestamp};
    use uuid::Uuid;

    use super::*;

    fn seat(desks: &Desks, stream: u128, is_native: bool) -> (Seat, mpsc::Receiver<Commanded>) {
        let source = rpc::Source {
            stream: StreamId(Uuid::from_u128(stream)),
            session: "demo".parse().unwrap(),
            speaker: Speaker { identity: "alice".parse().unwrap(), name: None },
            language: None,
            endpointing_ms: None,
            partials: true,
            started_at: Timestamp(0),
            user: None,
            is_room: false,
            translate_to: Vec::new(),
        };
        let (commands, commanded) = mpsc::channel(1);
        (desks.set_up(&source, is_native, Samples(0), commands), commanded)
    }

    fn resume(desks: &Desks, stream: u128, identity: &str, acknowledged: u64) -> Found {
        let (session, identity) = ("demo".parse().unwrap(), identity.parse().unwrap());
        desks.resume(StreamId(Uuid::from_u128(stream)), &session, &identity, Samples(acknowledged))
    }

    #[test]
    fn more_than_the_limit_wait_for_nobody() {
        let desks = Desks::new();
        let all: Vec<_> = (0..=DETACHED_MAX as u128).map(|stream| seat(&desks, stream, true).0).collect();
        for seat in &all {
            desks.leave(&seat.desk, seat.sitting);
        }
        assert!(matches!(resume(&desks, 0, "alice", 0), Found::Nowhere), "the oldest is finished");
        assert!(matches!(resume(&desks, 1, "alice", 0), Found::Here(_)));
        assert_eq!(desks.room().free.len(), DETACHED_MAX - 1);
    }

    #[test]
    fn a_stream_is_taken_by_its_participant_only_and_from_a_dead_socket_too() {
        let desks = Desks::new();
        let (old, _commanded) = seat(&desks, 7, true);
        assert!(matches!(resume(&desks, 7, "mallory", 0), Found::NotYours));
        assert!(matches!(resume(&desks, 8, "alice", 0), Found::Nowhere));
        assert!(matches!(resume(&desks, 7, "alice", 1), Found::Nowhere), "it went on elsewhere since");
        let Found::Here(new) = resume(&desks, 7, "alice", 0) else { panic!("it is here") };
        assert!(!old.desk.is_held_by(old.sitting) && new.desk.is_held_by(new.sitting));
        desks.leave(&old.desk, old.sitting);
        assert!(matches!(new.desk.held(), Held::Taken), "the old socket's end changes nothing");
        desks.stop(&new.desk, new.sitting);
        assert!(matches!(resume(&desks, 7, "alice", 0), Found::Nowhere), "it is being finished");
        desks.leave(&new.desk, new.sitting);
        assert!(matches!(new.desk.held(), Held::Dismissed));
    }

    #[test]
    fn a_participant_without_resume_finds_what_was_lost_last() {
        let desks = Desks::new();
        let (session, alice) = ("demo".parse().unwrap(), "alice".parse().unwrap());
        let seats: Vec<_> = [(1, false), (2, false), (3, true)]
            .into_iter()
            .map(|(stream, is_native)| seat(&desks, stream, is_native).0)
            .collect();
        assert!(desks.rejoin(&session, &alice).is_none(), "all are held");
        for seat in &seats {
            desks.leave(&seat.desk, seat.sitting);
        }
        assert!(desks.rejoin(&session, &"bob".parse().unwrap()).is_none());
        for stream in [2, 1] {
            let (seat, _away) = desks.rejoin(&session, &alice).unwrap();
            assert_eq!(seat.desk.stream, StreamId(Uuid::from_u128(stream)));
        }
        assert!(desks.rejoin(&session, &alice).is_none());
        let [first, ..] = &*seats else { panic!("three seats") };
        desks.clear(&first.desk);
        assert!(matches!(resume(&desks, 1, "alice", 0), Found::Nowhere));
    }
}
