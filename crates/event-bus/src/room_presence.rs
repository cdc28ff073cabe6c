//! Who is in a room, on whichever edge. Each edge writes down its seats with a time at which that ends, and again well
//! before then, so that the people of an edge that died are gone soon after.

use std::collections::HashMap;

use model::{Member, RoomId, SeatId, Timestamp, UserId};
use redis::{Cmd, Value};
use uuid::Uuid;

use crate::{BusError, EventBus, PRESENCE_LIFE};

/// Seats of one room that are read at most, so that nobody waits long for the people of a very large one.
pub const ROOM_SEATS_MAX: usize = 5_000;

/// The people in a room.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoomMembers {
    /// Each user once, since when the first of the user's seats is taken; whoever is there longest comes first.
    pub members: Vec<Member>,
    /// Whether these are all. Of two answers that are not, neither says who has gone.
    pub all: bool,
}

impl EventBus {
    /// These seats of a room are taken here, now and for [`PRESENCE_LIFE`]. Repeat it every `PRESENCE_INTERVAL` while
    /// they are, with the members as they came; at most a few thousand seats in one call.
    ///
    /// # Errors
    /// [`BusError::Unavailable`].
    pub async fn enter_room(
        &self,
        room: &RoomId,
        seats: &[(SeatId, Member)],
        now: Timestamp,
    ) -> Result<(), BusError> {
        if seats.is_empty() {
            return Ok(());
        }
        let key = self.channels.room(room);
        let until = now.after(PRESENCE_LIFE).0;
        let seats: Vec<(i64, String)> = self.written(seats)?.into_iter().map(|seat| (until, seat)).collect();
        // What has ended long ago, by anybody's clock, is of an edge that died.
        let dead = now.before(PRESENCE_LIFE).0;
        let life = i64::try_from(PRESENCE_LIFE.as_millis()).unwrap_or(i64::MAX);
        let commands = vec![
            Cmd::zadd_multiple(&key, &seats),
            Cmd::zrembyscore(&key, "-inf", dead),
            Cmd::pexpire(&key, life),
        ];
        self.publisher.send(commands).await.map(drop)
    }

    /// These seats are free again; their members are those that they were taken with.
    ///
    /// # Errors
    /// [`BusError::Unavailable`]; they then count as taken for up to [`PRESENCE_LIFE`].
    pub async fn leave_room(&self, room: &RoomId, seats: &[(SeatId, Member)]) -> Result<(), BusError> {
        if seats.is_empty() {
            return Ok(());
        }
        let free = Cmd::zrem(self.channels.room(room), self.written(seats)?);
        self.publisher.send(vec![free]).await.map(drop)
    }

    /// Who is in a room by the word of any edge, at most `max` people, those who are there longest.
    ///
    /// # Errors
    /// [`BusError::Unavailable`].
    pub async fn room_members(
        &self,
        room: &RoomId,
        now: Timestamp,
        max: usize,
    ) -> Result<RoomMembers, BusError> {
        let seats_max = isize::try_from(ROOM_SEATS_MAX).unwrap_or(isize::MAX);
        let key = self.channels.room(room);
        let taken = Cmd::zrevrangebyscore_limit(key, "+inf", now.0, 0, seats_max);
        let answers = self.publisher.send(vec![taken]).await?;
        let Some(Value::Array(seats)) = answers.first() else {
            return Err(BusError::Unavailable("the seats of a room cannot be read".to_owned()));
        };
        let mut members: HashMap<UserId, Member> = HashMap::new();
        for member in seats.iter().filter_map(member) {
            let known = members.get(&member.user);
            if known.is_none_or(|known| member.joined_at < known.joined_at) {
                members.insert(member.user.clone(), member);
            }
        }
        let mut members: Vec<Member> = members.into_values().collect();
        members.sort_unstable_by(|one, other| {
            one.joined_at.cmp(&other.joined_at).then_with(|| one.user.cmp(&other.user))
        });
        let all = seats.len() < ROOM_SEATS_MAX && members.len() <= max;
        members.truncate(max);
        Ok(RoomMembers { members, all })
    }

    /// Seats as they lie in the sorted set of their room: `[EDGE,SEAT,MEMBER]`. Processes of two releases read it while
    /// one is rolled out: fields may be added to the member, and nothing else changed.
    fn written(&self, seats: &[(SeatId, Member)]) -> Result<Vec<String>, BusError> {
        let edge = self.publisher.origin();
        let written = seats.iter().map(|(seat, member)| serde_json::to_string(&(edge, seat, member)));
        written
            .collect::<Result<_, _>>()
            .map_err(|error| BusError::Unavailable(format!("a seat cannot be encoded: {error}")))
    }
}

/// Whose seat it is; `None` for what another release wrote in another way.
fn member(seat: &Value) -> Option<Member> {
    let Value::BulkString(json) = seat else { return None };
    let (_, _, member): (Uuid, SeatId, Member) = serde_json::from_slice(json).ok()?;
    Some(member)
}
