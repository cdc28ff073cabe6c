//! Who is in which room on this edge, told to the other edges through Redis, and who is there by their word.
//!
//! One task speaks with Redis about it. What is in Redis is so for [`event_bus::PRESENCE_LIFE`] and said again well before
//! then; a sign on the bus says that it has changed, and every edge that follows the room reads it then, and from time to
//! time in any case: so the people of an edge that died are gone soon after.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    future::ready,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use event_bus::{Event, PRESENCE_INTERVAL};
use model::{Member, RoomId, RoomSign, SeatId, Topic, UserId};
use tokio::{sync::mpsc, time::MissedTickBehavior};

use super::talk::{PEOPLE_MAX, everybody, in_order};
use crate::Edge;

/// Changes that wait for Redis. Beyond it the next round tells who is here, who has gone is found out when the word of this
/// edge ends, and that somebody writes is not told.
const CHANGES_MAX: usize = 4_096;

/// Changes that are dealt with in one go.
const BATCH_MAX: usize = 256;

/// Seats in one word to Redis.
const SEATS_PER_WORD: usize = 1_000;

/// The members of this edge's seats.
pub(crate) struct Members {
    seats: Mutex<HashMap<RoomId, BTreeMap<SeatId, Member>>>,
    changes: mpsc::Sender<Change>,
}

/// What the task that speaks with Redis is to do.
pub(crate) enum Change {
    /// A seat was taken.
    Entered(RoomId, SeatId),
    /// It is free, or its member is called otherwise.
    Left(RoomId, SeatId, Member),
    /// Something is to be told to whoever follows the room.
    Sign(RoomId, SeatId, RoomSign),
    /// Somebody wants to know who is there, or somebody else has said that it has changed.
    Ring(RoomId),
}

/// A seat in a room, until it is dropped.
pub(super) struct Place {
    edge: Arc<Edge>,
    room: RoomId,
    seat: SeatId,
    member: Member,
}

impl Members {
    /// Nobody yet, and what has changed (for [`tell`]).
    pub(crate) fn new() -> (Self, mpsc::Receiver<Change>) {
        let (changes, changed) = mpsc::channel(CHANGES_MAX);
        (Self { seats: Mutex::default(), changes }, changed)
    }

    /// Somebody takes a seat in a room.
    pub(super) fn enter(edge: &Arc<Edge>, room: RoomId, seat: SeatId, member: Member) -> Place {
        edge.members.take(&room, seat, member.clone());
        Place { edge: edge.clone(), room, seat, member }
    }

    fn take(&self, room: &RoomId, seat: SeatId, member: Member) {
        self.lock().entry(room.clone()).or_default().insert(seat, member);
        self.change(Change::Entered(room.clone(), seat));
    }

    /// Whoever follows the room is to be told something.
    pub(super) fn sign(&self, room: &RoomId, seat: SeatId, sign: RoomSign) {
        self.change(Change::Sign(room.clone(), seat, sign));
    }

    /// Who is in the room is to be read again.
    pub(super) fn ring(&self, room: &RoomId) {
        self.change(Change::Ring(room.clone()));
    }

    /// How many users sit in rooms on this edge.
    pub(crate) fn users(&self) -> usize {
        let seats = self.lock();
        let users: BTreeSet<&UserId> =
            seats.values().flat_map(BTreeMap::values).map(|member| &member.user).collect();
        users.len()
    }

    /// The members of this edge's seats in a room.
    fn here(&self, room: &RoomId) -> Vec<Member> {
        self.lock().get(room).map(|seats| seats.values().cloned().collect()).unwrap_or_default()
    }

    fn change(&self, change: Change) {
        let _ = self.changes.try_send(change);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RoomId, BTreeMap<SeatId, Member>>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// The member is called otherwise from now on.
    pub(super) fn rename(&mut self, name: &str) {
        if self.member.name == name {
            return;
        }
        let renamed = Member { name: name.to_owned(), ..self.member.clone() };
        let before = std::mem::replace(&mut self.member, renamed.clone());
        let members = &self.edge.members;
        members.change(Change::Left(self.room.clone(), self.seat, before));
        members.take(&self.room, self.seat, renamed);
    }

    pub(super) fn member(&self) -> &Member {
        &self.member
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let members = &self.edge.members;
        let mut seats = members.lock();
        if let Some(taken) = seats.get_mut(&self.room) {
            taken.remove(&self.seat);
            if taken.is_empty() {
                seats.remove(&self.room);
            }
        }
        drop(seats);
        members.change(Change::Left(self.room.clone(), self.seat, self.member.clone()));
    }
}

/// Who is in a room: by our own knowledge, and by Redis's when it answers. At most [`PEOPLE_MAX`], those who are there
/// longest.
pub(crate) async fn people(edge: &Edge, room: &RoomId) -> Vec<Member> {
    let written = edge.bus.room_members(room, edge.clock.now(), PEOPLE_MAX).await;
    let written = written.map(|written| written.members).unwrap_or_default();
    let people = everybody(written.into_iter().chain(edge.members.here(room)));
    in_order(&people).into_iter().take(PEOPLE_MAX).cloned().collect()
}

/// What is to be done in one room.
#[derive(Default)]
struct Todo {
    entered: BTreeSet<SeatId>,
    left: Vec<(SeatId, Member)>,
    signs: Vec<(SeatId, RoomSign)>,
    /// Whether it is to be read who is there.
    asked: bool,
}

/// Tells Redis who is here and learns from it who is there, until the edge stops. What is lost is said again in the next
/// round.
pub(crate) async fn tell(edge: Arc<Edge>, mut changed: mpsc::Receiver<Change>) {
    let mut round = tokio::time::interval(PRESENCE_INTERVAL);
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut batch = Vec::new();
    // Rooms of this round that are still to be attended to, one at a time between whatever changes.
    let mut due: VecDeque<RoomId> = VecDeque::new();
    loop {
        tokio::select! {
            biased;
            // Before the end, so that the others know who has gone with this edge.
            count = changed.recv_many(&mut batch, BATCH_MAX) => {
                if count == 0 {
                    return;
                }
                for (room, todo) in sorted(batch.drain(..)) {
                    if !attend(&edge, &room, todo).await && edge.life.stopping().is_cancelled() {
                        return;
                    }
                }
            }
            () = edge.life.stopping().cancelled() => return,
            _ = round.tick(), if due.is_empty() => {
                let here: BTreeSet<RoomId> = edge.members.lock().keys().cloned().collect();
                let followed = edge.talks.stories(|_| ()).into_iter().map(|(room, ())| room);
                due = here.into_iter().chain(followed).collect::<BTreeSet<RoomId>>().into_iter().collect();
            }
            () = ready(()), if !due.is_empty() => {}
        }
        if let Some(room) = due.pop_front()
            && !repeat(&edge, &room).await
        {
            // Redis is away: no need to ask it for each of them.
            due.clear();
        }
    }
}

/// What is to be done in each room.
fn sorted(changes: impl Iterator<Item = Change>) -> HashMap<RoomId, Todo> {
    let mut rooms: HashMap<RoomId, Todo> = HashMap::new();
    for change in changes {
        match change {
            Change::Entered(room, seat) => {
                rooms.entry(room).or_default().entered.insert(seat);
            }
            Change::Left(room, seat, member) => rooms.entry(room).or_default().left.push((seat, member)),
            Change::Sign(room, seat, sign) => rooms.entry(room).or_default().signs.push((seat, sign)),
            Change::Ring(room) => rooms.entry(room).or_default().asked = true,
        }
    }
    rooms
}

/// Does it; false when Redis is away.
async fn attend(edge: &Edge, room: &RoomId, mut todo: Todo) -> bool {
    let entered: Vec<(SeatId, Member)> = {
        let seats = edge.members.lock();
        let taken = |seat: &SeatId| seats.get(room).and_then(|seats| seats.get(seat));
        // What is so now counts, however often it has changed meanwhile.
        todo.left.retain(|(seat, member)| taken(seat) != Some(member));
        todo.entered.iter().filter_map(|seat| Some((*seat, taken(seat)?.clone()))).collect()
    };
    let (came, went) = (entered.first().cloned(), todo.left.first().cloned());
    let mut told = edge.bus.leave_room(room, &todo.left).await;
    for seats in entered.chunks(SEATS_PER_WORD) {
        told = told.and(edge.bus.enter_room(room, seats, edge.clock.now()).await);
    }
    // One of them is enough: it says no more than that there is something to read.
    let bell = match (came, went) {
        (Some((seat, member)), _) => Some((seat, RoomSign::Joined(member))),
        (None, Some((seat, member))) => Some((seat, RoomSign::Left { user: member.user })),
        (None, None) => None,
    };
    let has_changed = bell.is_some();
    let is_told = told.is_ok();
    // Away, there is no need to ask it again: nobody hears it.
    if is_told {
        for (from, sign) in bell.into_iter().chain(todo.signs) {
            if edge.bus.publish(&Topic::Room(room.clone()), &Event::Sign { sign, from }).await.is_err() {
                break;
            }
        }
    }
    // Of a crowd nobody is told who comes and goes, so it is read in each round only.
    let is_crowd = edge.talks.feed(room).is_some_and(|feed| feed.story.is_crowd());
    if (todo.asked || has_changed) && !is_crowd {
        return learn(edge, room).await && is_told;
    }
    is_told
}

/// Reads who is in a room and tells those who follow it; true when Redis has answered.
async fn learn(edge: &Edge, room: &RoomId) -> bool {
    let Some(feed) = edge.talks.feed(room) else { return true };
    let written = edge.bus.room_members(room, edge.clock.now(), PEOPLE_MAX).await.ok();
    let has_answered = written.is_some();
    if let Some(said) = feed.story.renew(edge.members.here(room), written, edge.clock.now()) {
        edge.talks.hub.offer(room, &said);
    }
    has_answered
}

/// Says again who is here in a room, and reads who is there; true when Redis has answered.
async fn repeat(edge: &Edge, room: &RoomId) -> bool {
    let seats: Vec<(SeatId, Member)> =
        edge.members.lock().get(room).cloned().unwrap_or_default().into_iter().collect();
    for seats in seats.chunks(SEATS_PER_WORD) {
        if edge.bus.enter_room(room, seats, edge.clock.now()).await.is_err() {
            return false;
        }
    }
    learn(edge, room).await
}
