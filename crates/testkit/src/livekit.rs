//! A LiveKit server without media: its API, its webhooks and its egresses on their real wire, people who speak on
//! demand, and faults.
//!
//! Calls that change something return when it is so; webhooks follow in order, and egresses in their own time.

mod egress;
mod sound;
mod twirp;
mod webhooks;
mod world;

use std::{net::SocketAddr, sync::Arc};

pub use livekit_protocol::{EgressStatus, participant_info::Kind as ParticipantKind};
use livekit_protocol::{ParticipantInfo, TrackInfo, TrackSource, TrackType, WebhookEvent};
use model::Clock;
use settings::Secret;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use uuid::Uuid;

pub use self::{twirp::TwirpCode, webhooks::Delivery};
use self::{
    webhooks::{Post, WAITING_MAX, deliver, sign},
    world::{Failing, Keys, Life, Order, ParticipantState, RoomState, TrackState, World, new_id},
};
use crate::choose_tls;

/// The server. Everything that it does ends when it is dropped.
pub struct LiveKitServer {
    address: SocketAddr,
    world: Arc<World>,
    _tasks: JoinSet<()>,
}

/// An egress as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressView {
    /// `EG_…`.
    pub id: String,
    /// The name of its room.
    pub room: String,
    /// The id of its track; the whole room when there is none.
    pub track_id: Option<String>,
    /// Where it sends, whole.
    pub url: String,
    /// How far it is.
    pub status: EgressStatus,
    /// How often a sink was lost and dialled again.
    pub retries: u32,
}

impl LiveKitServer {
    /// Starts it on a port of its own, with keys of its own.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn start() -> Self {
        choose_tls();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port for LiveKit");
        let address = listener.local_addr().expect("a bound address");
        let unique = || Uuid::new_v4().simple().to_string();
        let keys = Keys { key: format!("API{}", unique()), secret: unique() };
        let (news, waiting) = mpsc::channel(WAITING_MAX);
        let post = Arc::new(Post::default());
        let world = Arc::new(World::new(keys.clone(), news, post.clone()));
        let mut tasks = JoinSet::new();
        tasks.spawn(deliver(waiting, post, keys));
        tasks.spawn(twirp::serve(listener, world.clone()));
        Self { address, world, _tasks: tasks }
    }

    /// Its address, for `LIVEKIT_WS_URL`.
    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// For `LIVEKIT_API_KEY`.
    pub fn key(&self) -> String {
        self.world.keys.key.clone()
    }

    /// For `LIVEKIT_API_SECRET`.
    pub fn secret(&self) -> Secret {
        self.world.keys.secret.clone().into()
    }

    /// Sends news of what happens from now on to this address, too.
    ///
    /// # Panics
    /// When another thread has panicked here.
    pub fn webhooks_to(&self, url: impl Into<String>) {
        self.world.post.addresses.lock().expect("addresses").push(url.into());
    }

    /// The `Authorization` of a webhook with this body, for those that tests send themselves.
    ///
    /// # Panics
    /// When it cannot be signed.
    pub fn sign_webhook(&self, body: &str) -> String {
        sign(&self.world.keys, body.as_bytes())
    }

    /// How the webhooks after those planned already are delivered. Then all is as it should be.
    ///
    /// # Panics
    /// When another thread has panicked here.
    pub fn deliver_next(&self, deliveries: impl IntoIterator<Item = Delivery>) {
        self.world.post.deliveries.lock().expect("deliveries").extend(deliveries);
    }

    /// Lets a method such as `StartTrackEgress` fail so many times.
    pub fn fail_next(&self, method: &str, code: TwirpCode, times: usize) {
        self.world.state().failing.push(Failing { method: method.to_owned(), code, times });
    }

    /// Allows so many track egresses at a time.
    pub fn track_egress_limit(&self, limit: usize) {
        self.world.state().track_egress_limit = Some(limit);
    }

    /// The room of this name, which begins if need be.
    pub fn room(&self, name: &str) -> Room {
        let mut state = self.world.state();
        if !state.rooms.contains_key(name) {
            let now = Clock::system().now();
            let info = livekit_protocol::Room {
                sid: new_id("RM"),
                name: name.to_owned(),
                creation_time: now.0 / 1000,
                creation_time_ms: now.0,
                ..livekit_protocol::Room::default()
            };
            let room = RoomState { info, participants: Vec::new() };
            self.world.tell("room_started", about(room.info()));
            state.rooms.insert(name.to_owned(), room);
        }
        Room { world: self.world.clone(), name: name.to_owned() }
    }

    /// Every egress there ever was, in the order of their start.
    ///
    /// # Panics
    /// When another thread has panicked here.
    pub fn egresses(&self) -> Vec<EgressView> {
        let view = |egress: &Arc<world::EgressState>| {
            let info = egress.info.lock().expect("an egress").clone();
            EgressView {
                status: info.status(),
                retries: info.stream_results.iter().map(|stream| stream.retries).sum(),
                id: info.egress_id,
                room: info.room_name,
                track_id: egress.track_id.clone(),
                url: egress.url.clone(),
            }
        };
        self.world.state().egresses.iter().map(view).collect()
    }

    /// Kills the process of an egress, by the id of the egress or of its track: its connection is gone without a word,
    /// and it has failed.
    ///
    /// # Panics
    /// When no such egress runs.
    pub fn kill_egress(&self, id: &str) {
        let egresses = self.egresses();
        let named = |view: &EgressView| view.id == id || view.track_id.as_deref() == Some(id);
        let place = egresses.iter().rposition(|view| named(view) && !world::ended(view.status));
        let place = place.unwrap_or_else(|| panic!("no egress {id} runs"));
        let egress = self.world.state().egresses.get(place).cloned();
        egress.expect("egresses to stay").order.send_replace(Order::Die);
    }
}

impl Drop for LiveKitServer {
    fn drop(&mut self) {
        if let Ok(mut tasks) = self.world.tasks.lock() {
            tasks.abort_all();
        }
    }
}

/// A room.
#[derive(Clone)]
pub struct Room {
    world: Arc<World>,
    name: String,
}

impl Room {
    /// Somebody comes who has a browser.
    ///
    /// # Panics
    /// When the room has finished.
    pub fn join(&self, identity: &str, name: &str) -> Participant {
        self.join_as(ParticipantKind::Standard, identity, name)
    }

    /// Somebody or something comes.
    ///
    /// # Panics
    /// When the room has finished.
    pub fn join_as(&self, kind: ParticipantKind, identity: &str, name: &str) -> Participant {
        let mut state = self.world.state();
        let room = state.rooms.get_mut(&self.name).expect("a room that has not finished");
        let now = Clock::system().now();
        let info = ParticipantInfo {
            sid: new_id("PA"),
            identity: identity.to_owned(),
            name: name.to_owned(),
            kind: i32::from(kind),
            joined_at: now.0 / 1000,
            joined_at_ms: now.0,
            ..ParticipantInfo::default()
        };
        let participant = ParticipantState { info, tracks: Vec::new() };
        let told = WebhookEvent { participant: Some(participant.info()), ..about(room.info()) };
        room.participants.push(participant);
        self.world.tell("participant_joined", told);
        Participant { room: self.clone(), identity: identity.to_owned() }
    }

    /// Everybody goes, and the room ends; so do its egresses.
    ///
    /// # Panics
    /// When another thread has panicked here.
    pub fn finish(&self) {
        let present = |room: &RoomState| {
            let identities = room.participants.iter().map(|participant| participant.info.identity.clone());
            identities.collect::<Vec<_>>()
        };
        let identities = self.world.state().rooms.get(&self.name).map(present).unwrap_or_default();
        for identity in identities {
            Participant { room: self.clone(), identity }.leave();
        }
        let mut state = self.world.state();
        let Some(room) = state.rooms.remove(&self.name) else { return };
        self.world.tell("room_finished", about(room.info()));
        for egress in &state.egresses {
            let info = egress.info.lock().expect("an egress");
            if info.room_id == room.info.sid && !world::ended(info.status()) {
                egress.order.send_replace(Order::Stop);
            }
        }
    }
}

/// Somebody in a room.
#[derive(Clone)]
pub struct Participant {
    room: Room,
    identity: String,
}

impl Participant {
    /// Their microphone is there, and silent.
    ///
    /// # Panics
    /// When they have left.
    pub fn publish(&self) -> Track {
        self.publish_as(TrackType::Audio, TrackSource::Microphone)
    }

    /// Their camera is there.
    ///
    /// # Panics
    /// When they have left.
    pub fn publish_video(&self) -> Track {
        self.publish_as(TrackType::Video, TrackSource::Camera)
    }

    fn publish_as(&self, of: TrackType, source: TrackSource) -> Track {
        let world = &self.room.world;
        let mut state = world.state();
        let (room, participant) =
            state.participant(&self.room.name, &self.identity).expect("a participant who has not left");
        let info = TrackInfo {
            sid: new_id("TR"),
            r#type: i32::from(of),
            source: i32::from(source),
            mime_type: if of == TrackType::Audio { "audio/opus" } else { "video/vp8" }.to_owned(),
            ..TrackInfo::default()
        };
        let (life, _) = watch::channel(Life { muted: false, published: true });
        let track = Arc::new(TrackState { info, sound: Default::default(), life });
        participant.tracks.push(track.clone());
        let told = WebhookEvent {
            participant: Some(participant.info()),
            track: Some(track.info()),
            ..about(room.clone())
        };
        world.tell("track_published", told);
        Track { participant: self.clone(), track }
    }

    /// They go, with all that they published.
    pub fn leave(&self) {
        let world = &self.room.world;
        let mut state = world.state();
        let Some((_, participant)) = state.participant(&self.room.name, &self.identity) else { return };
        let tracks = participant.tracks.clone();
        drop(state);
        for track in tracks {
            Track { participant: self.clone(), track }.unpublish();
        }
        let mut state = world.state();
        let Some(room) = state.rooms.get_mut(&self.room.name) else { return };
        let gone = room.participants.iter().position(|known| known.info.identity == self.identity);
        if let Some(place) = gone {
            let told = room.participants.remove(place).info();
            world.tell("participant_left", WebhookEvent { participant: Some(told), ..about(room.info()) });
        }
    }
}

/// What somebody publishes.
#[derive(Clone)]
pub struct Track {
    participant: Participant,
    track: Arc<TrackState>,
}

impl Track {
    /// Its id, `TR_…`.
    pub fn id(&self) -> &str {
        &self.track.info.sid
    }

    /// Says this, 16 kHz mono, after what is being said, and returns when it has been said.
    ///
    /// # Panics
    /// When another thread has panicked here.
    pub async fn play(&self, samples: &[i16]) {
        let ends = self.track.sound.lock().expect("a sound").play(samples, Instant::now());
        sleep_until(ends).await;
    }

    /// What is said while it is muted, nobody hears. LiveKit sends no webhook about it.
    pub fn mute(&self, muted: bool) {
        self.track.life.send_modify(|life| life.muted = muted);
    }

    /// It is gone, and egresses of it end.
    pub fn unpublish(&self) {
        let (room_name, identity) = (&self.participant.room.name, &self.participant.identity);
        let world = &self.participant.room.world;
        let mut state = world.state();
        self.track.life.send_modify(|life| life.published = false);
        let Some((room, participant)) = state.participant(room_name, identity) else { return };
        let before = participant.tracks.len();
        participant.tracks.retain(|track| track.info.sid != self.track.info.sid);
        if participant.tracks.len() < before {
            let told = WebhookEvent {
                participant: Some(participant.info()),
                track: Some(self.track.info()),
                ..about(room.clone())
            };
            world.tell("track_unpublished", told);
        }
    }
}

fn about(room: livekit_protocol::Room) -> WebhookEvent {
    WebhookEvent { room: Some(room), ..WebhookEvent::default() }
}
