//! The state of the stand-in: rooms, who is in them, egresses, and the faults that were asked for.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use livekit_protocol::{
    EgressInfo, EgressStatus, ParticipantInfo, Room, TrackInfo, WebhookEvent, participant_info,
};
use model::Clock;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use uuid::Uuid;

use super::{sound::Sound, twirp::TwirpCode, webhooks::Post};

/// What signs and is checked.
#[derive(Clone)]
pub(super) struct Keys {
    pub(super) key: String,
    pub(super) secret: String,
}

/// Everything that is.
pub(super) struct World {
    pub(super) keys: Keys,
    pub(super) post: Arc<Post>,
    pub(super) tasks: Mutex<JoinSet<()>>,
    news: mpsc::Sender<WebhookEvent>,
    state: Mutex<State>,
}

/// What changes.
#[derive(Default)]
pub(super) struct State {
    pub(super) rooms: HashMap<String, RoomState>,
    pub(super) egresses: Vec<Arc<EgressState>>,
    pub(super) failing: Vec<Failing>,
    pub(super) track_egress_limit: Option<usize>,
}

pub(super) struct RoomState {
    pub(super) info: Room,
    pub(super) participants: Vec<ParticipantState>,
}

pub(super) struct ParticipantState {
    pub(super) info: ParticipantInfo,
    pub(super) tracks: Vec<Arc<TrackState>>,
}

pub(super) struct TrackState {
    pub(super) info: TrackInfo,
    pub(super) sound: Mutex<Sound>,
    pub(super) life: watch::Sender<Life>,
}

/// Whether a track is there, and heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) muted: bool,
    pub(super) published: bool,
}

pub(super) struct EgressState {
    pub(super) info: Mutex<EgressInfo>,
    /// The track that it sends; the whole room when there is none.
    pub(super) track_id: Option<String>,
    /// Where to, whole: the info hides stream keys.
    pub(super) url: String,
    pub(super) order: watch::Sender<Order>,
}

/// What an egress is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Go,
    Stop,
    Die,
}

/// A method that is to fail.
pub(super) struct Failing {
    pub(super) method: String,
    pub(super) code: TwirpCode,
    pub(super) times: usize,
}

impl World {
    pub(super) fn new(keys: Keys, news: mpsc::Sender<WebhookEvent>, post: Arc<Post>) -> Self {
        Self { keys, post, tasks: Mutex::default(), news, state: Mutex::default() }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test to have panicked with the state in its hands")
    }

    /// Says what happened, to whoever listens.
    pub(super) fn tell(&self, event: &str, about: WebhookEvent) {
        let event = WebhookEvent {
            event: event.to_owned(),
            id: new_id("EV"),
            created_at: Clock::system().now().0 / 1000,
            ..about
        };
        self.news.try_send(event).expect("room for another webhook");
    }

    /// Sets how far an egress is, and says so.
    pub(super) fn egress_is(&self, egress: &EgressState, status: EgressStatus, error: &str) {
        let info = {
            let mut info = egress.info.lock().expect("an egress");
            info.status = i32::from(status);
            info.updated_at = nanoseconds();
            error.clone_into(&mut info.error);
            if ended(status) {
                info.ended_at = info.updated_at;
            }
            info.clone()
        };
        self.tell_of_egress(if ended(status) { "egress_ended" } else { "egress_updated" }, info);
    }

    /// Says something of an egress.
    pub(super) fn tell_of_egress(&self, event: &str, info: EgressInfo) {
        self.tell(event, WebhookEvent { egress_info: Some(info), ..WebhookEvent::default() });
    }
}

impl State {
    /// The participant, with its room.
    pub(super) fn participant(
        &mut self,
        room: &str,
        identity: &str,
    ) -> Option<(&Room, &mut ParticipantState)> {
        let room = self.rooms.get_mut(room)?;
        let found = room.participants.iter_mut().find(|participant| participant.info.identity == identity);
        Some((&room.info, found?))
    }

    /// The track of this id.
    pub(super) fn track(&self, room: &str, id: &str) -> Option<Arc<TrackState>> {
        self.rooms.get(room)?.tracks().find(|track| track.info.sid == id).cloned()
    }
}

impl RoomState {
    pub(super) fn tracks(&self) -> impl Iterator<Item = &Arc<TrackState>> {
        self.participants.iter().flat_map(|participant| &participant.tracks)
    }

    pub(super) fn info(&self) -> Room {
        let count = u32::try_from(self.participants.len()).unwrap_or(u32::MAX);
        Room { num_participants: count, num_publishers: count, ..self.info.clone() }
    }
}

impl ParticipantState {
    /// As it is told to others.
    pub(super) fn info(&self) -> ParticipantInfo {
        ParticipantInfo {
            state: i32::from(participant_info::State::Active),
            is_publisher: !self.tracks.is_empty(),
            tracks: self.tracks.iter().map(|track| track.info()).collect(),
            ..self.info.clone()
        }
    }
}

impl TrackState {
    pub(super) fn info(&self) -> TrackInfo {
        TrackInfo { muted: self.life.borrow().muted, ..self.info.clone() }
    }
}

impl EgressState {
    pub(super) fn status(&self) -> EgressStatus {
        self.info.lock().expect("an egress").status()
    }
}

/// Whether nothing more will come.
pub(super) fn ended(status: EgressStatus) -> bool {
    !matches!(status, EgressStatus::EgressStarting | EgressStatus::EgressActive | EgressStatus::EgressEnding)
}

/// An id that nothing else has.
pub(super) fn new_id(kind: &str) -> String {
    let unique = Uuid::new_v4().simple().to_string();
    format!("{kind}_{}", unique.split_at(12).0)
}

/// Now, as egresses count.
pub(super) fn nanoseconds() -> i64 {
    Clock::system().now().0 * 1_000_000
}
