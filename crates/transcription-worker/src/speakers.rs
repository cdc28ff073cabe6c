//! Whose words the utterances of a room are: whoever was said to be active for most of each.

use std::{collections::HashMap, time::Duration};

use model::{Identity, Samples, SessionSlug, Speaker, Timestamp};
use storage::{Storage, StorageError, Turn};

/// Clients tell changes only, so that a turn may last long; after this its end was not told.
const TURN_LONGEST: Duration = Duration::from_secs(600);

/// A word may be over before anybody is told who said it: whoever becomes active so soon after an utterance of nobody
/// has said it.
const LATE: Duration = Duration::from_millis(1_500);

/// The speakers of one room.
pub(crate) struct Speakers {
    turns: Turns,
    /// Of utterances that were shown and are not final.
    pinned: HashMap<u32, Speaker>,
}

/// Where it is found who spoke.
#[derive(Clone)]
pub(crate) struct Turns {
    storage: Storage,
    session: SessionSlug,
    /// Wall time of sample 0, moved by as much as speakers are told late.
    zero: Timestamp,
    /// Who stands in when nobody is said to speak.
    room: Speaker,
}

impl Speakers {
    /// `lag_ms`: how much later than the sound of an utterance its speaker is told.
    pub(crate) fn new(
        storage: Storage,
        session: SessionSlug,
        started_at: Timestamp,
        lag_ms: i64,
        room: Speaker,
    ) -> Self {
        let zero = Timestamp(started_at.0.saturating_add(lag_ms));
        Self { turns: Turns { storage, session, zero, room }, pinned: HashMap::new() }
    }

    /// Where it is found who spoke.
    pub(crate) fn turns(&self) -> &Turns {
        &self.turns
    }

    /// Whose an utterance is, if that is settled.
    pub(crate) fn pinned(&self, number: u32) -> Option<&Speaker> {
        self.pinned.get(&number)
    }

    /// From now on the utterance is this speaker's.
    pub(crate) fn pin(&mut self, number: u32, speaker: Speaker) {
        self.pinned.insert(number, speaker);
    }

    /// The utterance is over.
    pub(crate) fn release(&mut self, number: u32) {
        self.pinned.remove(&number);
    }
}

impl Turns {
    /// Finds out whose the sound between two positions is, with what was told up to `now`.
    pub(crate) fn look(
        &self,
        start: Samples,
        end: Samples,
        now: Timestamp,
    ) -> impl Future<Output = Result<Speaker, StorageError>> + Send + use<> {
        let (from, to) = (self.moment(start), self.moment(end));
        let (storage, session, room) = (self.storage.clone(), self.session.clone(), self.room.clone());
        async move {
            let turns = storage.active_speakers(&session, from, to.max(now)).await?;
            Ok(most_active(&turns, from, to).unwrap_or(room))
        }
    }

    /// Turns that began between two positions.
    pub(crate) fn changes(
        &self,
        start: Samples,
        end: Samples,
    ) -> impl Future<Output = Result<Vec<(Samples, Speaker)>, StorageError>> + Send + use<> {
        let (from, to, zero) = (self.moment(start), self.moment(end), self.zero);
        let (storage, session) = (self.storage.clone(), self.session.clone());
        async move {
            let turns = storage.active_speakers(&session, from, to).await?;
            let began = turns.into_iter().filter(|turn| turn.at > from);
            Ok(began.filter_map(|turn| Some((position(zero, turn.at), turn.speaker?))).collect())
        }
    }

    fn moment(&self, position: Samples) -> Timestamp {
        self.zero.after(position.duration())
    }
}

fn position(zero: Timestamp, moment: Timestamp) -> Samples {
    Samples::from_millis(u64::try_from(moment.0.saturating_sub(zero.0)).unwrap_or(0))
}

/// Who of the turns is active for most of the time between two moments. `None` when nobody is.
fn most_active(turns: &[Turn], from: Timestamp, to: Timestamp) -> Option<Speaker> {
    let ends = turns.iter().skip(1).map(|next| next.at).chain([Timestamp(i64::MAX)]);
    let mut shares: Vec<(&Identity, i64, &Speaker)> = Vec::new();
    for (turn, end) in turns.iter().zip(ends) {
        let Some(speaker) = &turn.speaker else { continue };
        let end = end.min(turn.at.after(TURN_LONGEST)).min(to);
        let share = end.0.saturating_sub(turn.at.max(from).0);
        if share <= 0 {
            continue;
        }
        match shares.iter_mut().find(|(identity, ..)| **identity == speaker.identity) {
            Some((_, total, newest)) => (*total, *newest) = (*total + share, speaker),
            None => shares.push((&speaker.identity, share, speaker)),
        }
    }
    // Of equals the first.
    let most = shares.iter().rev().max_by_key(|(_, share, _)| *share).map(|(.., speaker)| (*speaker).clone());
    most.or_else(|| {
        let mut after =
            turns.iter().filter(|turn| turn.at >= to && turn.at.0 - to.0 <= LATE.as_millis() as i64);
        after.find_map(|turn| turn.speaker.clone())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(at: i64, who: &str) -> Turn {
        let speaker = (!who.is_empty()).then(|| Speaker { identity: who.parse().unwrap(), name: None });
        Turn { at: Timestamp(at), speaker }
    }

    fn check(turns: &[(i64, &str)], from: i64, to: i64, expected: Option<&str>) {
        let turns: Vec<_> = turns.iter().map(|(at, who)| turn(*at, who)).collect();
        let speaker = most_active(&turns, Timestamp(from), Timestamp(to));
        let speaker = speaker.as_ref().map(|speaker| speaker.identity.as_str());
        assert_eq!(speaker, expected, "{turns:?}");
    }

    #[test]
    fn an_utterance_is_whose_turn_covers_most_of_it() {
        check(&[(0, "alice"), (1_000, "bob")], 0, 3_000, Some("bob"));
        check(&[(0, "alice"), (2_000, "bob")], 0, 3_000, Some("alice"));
        check(&[(0, "alice"), (1_000, "bob"), (2_000, "alice")], 500, 2_600, Some("alice"));
        check(&[(0, "alice"), (1_000, "bob")], 0, 2_000, Some("alice"));
        check(&[(0, "alice"), (500, ""), (900, "bob")], 0, 2_000, Some("bob"));
    }

    #[test]
    fn nobody_speaks_before_the_first_and_after_the_last_turn() {
        check(&[], 0, 1_000, None);
        check(&[(0, "")], 10, 1_000, None);
        check(&[(0, "alice"), (10, "")], 10, 1_000, None);
        check(&[(0, "alice")], 601_000, 602_000, None);
        check(&[(0, "alice")], 599_000, 602_000, Some("alice"));
    }

    #[test]
    fn a_short_word_is_whose_turn_begins_after_it() {
        check(&[(1_900, "alice")], 1_000, 1_400, Some("alice"));
        check(&[(3_000, "alice")], 1_000, 1_400, None);
    }
}
