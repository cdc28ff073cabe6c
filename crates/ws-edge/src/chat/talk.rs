//! The story of a room: messages, stored by the notification hub and rung by Redis; who is there, which Redis alone knows;
//! and who writes at the moment, which is kept nowhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use event_bus::{Event, RoomMembers};
use futures_util::future::BoxFuture;
use model::{Member, Message, RoomId, RoomSign, Sequence, Timestamp, Topic, UserId};
use rpc::notification::TopicEvent;
use tokio::sync::watch;

use super::{
    protocol::{self, Telling},
    said::{People, Said},
};
use crate::{
    Edge,
    feed::{Feeds, Story},
    happenings::Away,
    order::{Page, Record},
};

/// Messages in one page from the hub.
const PAGE: u32 = 200;

/// People of one room who are told of. In a larger one nobody is told who comes and goes, and whoever joins is told of those
/// who are there longest.
pub(crate) const PEOPLE_MAX: usize = 1_000;

/// People who are told of anew each time somebody goes, as system B does. In a larger room it is told who went.
const PEOPLE_RETOLD_MAX: usize = 100;

/// What followers of one room know.
pub(crate) struct Talk {
    room: RoomId,
    roster: Mutex<Roster>,
    /// Whether anybody was asked who is there.
    known: watch::Sender<bool>,
}

/// Who is in a room.
#[derive(Default)]
struct Roster {
    /// Counts its states.
    version: u64,
    people: BTreeMap<UserId, Member>,
    /// What Redis said last.
    written: RoomMembers,
    /// Whether there are too many to be told of.
    is_crowd: bool,
}

impl Record for Message {
    fn sequence(&self) -> Sequence {
        self.sequence
    }
}

impl Story for Talk {
    type Topic = RoomId;
    type Record = Message;
    type Item = Said;
    type Away = Away;

    fn new(room: &RoomId) -> Self {
        Self { room: room.clone(), roster: Mutex::default(), known: watch::Sender::new(false) }
    }

    fn feeds(edge: &Edge) -> &Feeds<Self> {
        &edge.talks
    }

    fn on_the_bus(room: &RoomId) -> Topic {
        Topic::Room(room.clone())
    }

    fn last(edge: &Edge, room: &RoomId) -> BoxFuture<'static, Result<Sequence, Away>> {
        let (storage, topic) = (edge.storage.clone(), Topic::Room(room.clone()));
        Box::pin(async move { Ok(storage.last_sequence(&topic).await?) })
    }

    fn after(edge: &Edge, room: &RoomId, after: Sequence) -> BoxFuture<'static, Result<Page<Message>, Away>> {
        let (hub, topic) = (edge.hub.clone(), Topic::Room(room.clone()));
        Box::pin(async move {
            let replayed = hub.replay(&topic, after, Some(PAGE)).await?;
            let messages = replayed.events.into_iter().filter_map(|event| match event {
                TopicEvent::Message(message) => Some(message),
                // Of other topics.
                TopicEvent::Notification(_) | TopicEvent::Change(_) | TopicEvent::App(_) => None,
            });
            Ok(Page {
                records: messages.collect(),
                through: replayed.through,
                is_last: !replayed.more,
                is_incomplete: replayed.incomplete,
            })
        })
    }

    fn hear(&self, edge: &Edge, event: Event, told: &mut Vec<Said>) -> Option<Message> {
        match event {
            Event::Message(message) => return Some(message),
            Event::Sign { sign: RoomSign::Typing { user, name, is_typing }, from } => {
                told.push(Said::typing(&self.room, from, user, &name, is_typing));
            }
            // Redis has it in full.
            Event::Sign { sign: RoomSign::Joined(_) | RoomSign::Left { .. }, .. } => {
                edge.members.ring(&self.room);
            }
            Event::Caption(_)
            | Event::Status(_)
            | Event::SessionEnded
            | Event::TranscriptionError(_)
            | Event::Notification { .. }
            | Event::NotificationChanged(_)
            | Event::App(_) => {}
        }
        None
    }

    fn tell(&self, _: &Edge, message: Message) -> Said {
        Said::message(&message)
    }
}

impl Talk {
    /// Who is there, with the version of it, and `also` if there is one whom nobody has told of yet. Waits until somebody
    /// was asked.
    pub(super) async fn people(&self, also: Option<&Member>, now: Timestamp) -> (Telling, u64) {
        // The talk outlives its followers, so the sender is there.
        let _ = self.known.subscribe().wait_for(|known| *known).await;
        let roster = self.lock();
        let also = also.filter(|member| !roster.people.contains_key(&member.user));
        let people = roster.in_order().into_iter().chain(also);
        (protocol::room_users(&self.room, people, now), roster.version)
    }

    /// Whether there are too many to be told of.
    pub(super) fn is_crowd(&self) -> bool {
        self.lock().is_crowd
    }

    /// Takes in who is here by our own knowledge, and who is there by Redis's, which may be away: then it is as it was.
    /// Returns what followers are told of the difference.
    pub(super) fn renew(
        &self,
        here: Vec<Member>,
        written: Option<RoomMembers>,
        now: Timestamp,
    ) -> Option<Said> {
        let people = self.lock().renew(&self.room, here, written, now);
        // Before the first time nobody was told anything.
        let was_known = self.known.send_replace(true);
        people.filter(|_| was_known).map(|people| Said::people(&self.room, people))
    }

    fn lock(&self) -> MutexGuard<'_, Roster> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Roster {
    fn renew(
        &mut self,
        room: &RoomId,
        here: Vec<Member>,
        written: Option<RoomMembers>,
        now: Timestamp,
    ) -> Option<People> {
        if let Some(written) = written {
            self.written = written;
        }
        let people = everybody(self.written.members.iter().cloned().chain(here));
        let is_crowd = people.len() > PEOPLE_MAX || (!self.written.all && !self.written.members.is_empty());
        let was_crowd = std::mem::replace(&mut self.is_crowd, is_crowd);
        let before = std::mem::replace(&mut self.people, people);
        if is_crowd {
            let longest = self.in_order().into_iter().take(PEOPLE_MAX).map(|member| member.user.clone());
            let longest: BTreeSet<UserId> = longest.collect();
            self.people.retain(|user, _| longest.contains(user));
            return None;
        }
        let retold = self.people.len() <= PEOPLE_RETOLD_MAX;
        let (mut joined, mut renamed) = (Vec::new(), false);
        for (user, member) in &self.people {
            match before.get(user) {
                None => joined.push(member),
                Some(known) if known.name == member.name => {}
                // Where nobody is told who is there, the new name is told as if somebody came.
                Some(_) if !retold => joined.push(member),
                Some(_) => renamed = true,
            }
        }
        let left: Vec<&UserId> = before.keys().filter(|user| !self.people.contains_key(*user)).collect();
        if was_crowd {
            (joined, renamed) = (Vec::new(), true);
        } else if joined.is_empty() && left.is_empty() && !renamed {
            return None;
        }
        self.version += 1;
        let left = if was_crowd { &[] } else { &*left };
        let mut told = People::new(room, self.version, &joined, left, now);
        if was_crowd || (retold && (renamed || !left.is_empty())) {
            told.all = Some(protocol::room_users(room, self.in_order(), now));
        }
        Some(told)
    }

    fn in_order(&self) -> Vec<&Member> {
        in_order(&self.people)
    }
}

/// Each user once, since when the first of the user's seats is taken.
pub(super) fn everybody(members: impl Iterator<Item = Member>) -> BTreeMap<UserId, Member> {
    let mut people: BTreeMap<UserId, Member> = BTreeMap::new();
    for member in members {
        let known = people.get(&member.user);
        if known.is_none_or(|known| member.joined_at < known.joined_at) {
            people.insert(member.user.clone(), member);
        }
    }
    people
}

/// Whoever is there longest comes first.
pub(super) fn in_order(people: &BTreeMap<UserId, Member>) -> Vec<&Member> {
    let mut people: Vec<&Member> = people.values().collect();
    people.sort_by_key(|member| member.joined_at);
    people
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(user: &str, name: &str, at: i64) -> Member {
        Member { user: user.parse().unwrap(), name: name.to_owned(), joined_at: Timestamp(at) }
    }

    fn written(members: Vec<Member>) -> Option<RoomMembers> {
        Some(RoomMembers { members, all: true })
    }

    /// What followers are told: the events, and how many are in the list of who is there.
    fn told(people: Option<People>) -> (Vec<&'static str>, Option<usize>) {
        let Some(people) = people else { return (Vec::new(), None) };
        let joined = people.joined.iter().map(|(_, telling)| telling.name);
        let names = joined.chain(people.left.iter().map(|telling| telling.name)).collect();
        let all = people
            .all
            .map(|telling| serde_json::from_str::<Vec<serde_json::Value>>(telling.body.get()).unwrap().len());
        (names, all)
    }

    fn renew(
        roster: &mut Roster,
        here: Vec<Member>,
        written: Option<RoomMembers>,
    ) -> (Vec<&'static str>, Option<usize>) {
        told(roster.renew(&RoomId::general(), here, written, Timestamp(0)))
    }

    #[test]
    fn followers_are_told_the_difference_of_two_rosters() {
        let mut roster = Roster::default();
        let (ada, bob) = (member("a", "Ada", 1), member("b", "Bob", 2));
        assert_eq!(renew(&mut roster, vec![], written(vec![ada.clone()])), (vec!["userJoined"], None));
        assert_eq!(renew(&mut roster, vec![], written(vec![ada.clone()])), (vec![], None));
        let both = vec![ada.clone(), bob.clone()];
        assert_eq!(renew(&mut roster, vec![], written(both)), (vec!["userJoined"], None));
        assert_eq!(renew(&mut roster, vec![], written(vec![bob.clone()])), (vec!["userLeft"], Some(1)));
        // A new name is told by the list.
        let robert = Member { name: "Robert".to_owned(), ..bob };
        assert_eq!(renew(&mut roster, vec![], written(vec![robert])), (vec![], Some(1)));
        assert_eq!(roster.version, 4);
    }

    #[test]
    fn whoever_is_here_is_known_without_redis() {
        let mut roster = Roster::default();
        let (ada, bob) = (member("a", "Ada", 1), member("b", "Bob", 2));
        assert_eq!(renew(&mut roster, vec![ada.clone()], None), (vec!["userJoined"], None));
        let there = written(vec![ada.clone(), bob.clone()]);
        assert_eq!(renew(&mut roster, vec![ada], there), (vec!["userJoined"], None));
        // Redis is away: whoever was there still is, as far as is known.
        assert_eq!(renew(&mut roster, vec![], None), (vec![], None));
        assert_eq!(renew(&mut roster, vec![], written(vec![bob])), (vec!["userLeft"], Some(1)));
    }

    #[test]
    fn a_user_with_two_seats_is_there_once_and_leaves_with_the_last() {
        let mut roster = Roster::default();
        let (first, second) = (member("a", "Ada", 1), member("a", "Ada, too", 2));
        assert_eq!(renew(&mut roster, vec![second.clone()], None), (vec!["userJoined"], None));
        assert_eq!(renew(&mut roster, vec![second.clone(), first], written(vec![])), (vec![], Some(1)));
        assert_eq!(roster.in_order(), [&member("a", "Ada", 1)]);
        assert_eq!(renew(&mut roster, vec![second], written(vec![])), (vec![], Some(1)));
        assert_eq!(renew(&mut roster, vec![], written(vec![])), (vec!["userLeft"], Some(0)));
    }

    #[test]
    fn of_a_crowd_nobody_is_told_who_comes_and_goes() {
        let mut roster = Roster::default();
        let some = |count: i64| (0..count).map(|index| member(&index.to_string(), "x", index));
        let (joined, all) = renew(&mut roster, vec![], written(some(PEOPLE_MAX as i64).collect()));
        assert_eq!((joined.len(), all), (PEOPLE_MAX, None));
        let crowd = Some(RoomMembers { members: some(PEOPLE_MAX as i64).collect(), all: false });
        assert_eq!(renew(&mut roster, vec![member("late", "x", 9_999)], crowd), (vec![], None));
        assert_eq!(roster.in_order().len(), PEOPLE_MAX);
        assert!(roster.in_order().iter().all(|member| member.user.as_str() != "late"));
        // Once it is one no longer, everybody is told of anew.
        assert_eq!(renew(&mut roster, vec![], written(some(3).collect())), (vec![], Some(3)));
        // In a large room the list is not told each time.
        renew(&mut roster, vec![], written(some(200).collect()));
        assert_eq!(renew(&mut roster, vec![], written(some(199).collect())), (vec!["userLeft"], None));
        let renamed = some(198).chain([member("198", "y", 198)]).collect();
        assert_eq!(renew(&mut roster, vec![], written(renamed)), (vec!["userJoined"], None));
    }
}
