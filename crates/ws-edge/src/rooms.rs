//! Looks after the rooms of LiveKit whose sound is wanted: has each audio track, or the whole room, sent to us, again when
//! that ends unexpectedly, and ends it when it is wanted no longer.
//!
//! What runs, LiveKit is asked; what is wanted, Postgres knows. So any edge can go on where another one was, also after
//! all of them were gone. Webhooks only say when to look.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use auth::SessionClaims;
use event_bus::Event;
use futures_util::future::join_all;
use livekit::{AudioTrack, Egress, LiveKit, LiveKitError, Target};
use model::{SessionSlug, Speaker, Timestamp, Topic, TranscriptionError};
use storage::{Room, RoomMode, StorageError};
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

use crate::{
    Edge,
    settings::{EgressMode, LiveKitPlan},
};

/// Rooms that one edge looks after at once.
const ROOMS_AT_ONCE: u32 = 16;

/// How long an edge may take for one before another edge may look, whatever happens in it.
const LEASE: Duration = Duration::from_secs(30);

/// How often a room is looked at when no webhook asks for it.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// The same for one that is let go of, until LiveKit says that nothing runs.
const RELEASE_INTERVAL: Duration = Duration::from_secs(2);

/// Longest wait without a look for rooms that are due.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// How often it is looked for egresses of ours that belong to no room which is wanted.
const ORPHANS_INTERVAL: Duration = Duration::from_secs(60);

/// Wait before an egress is begun again: doubles from the first, which the second attempt waits, to the last.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// An egress that ran for so long had begun well: it is begun again at once.
const ATTEMPTS_LIFE: Duration = Duration::from_secs(300);

/// The same trouble of a room is told once in so long.
const TROUBLE_INTERVAL: Duration = Duration::from_secs(60);

/// Rooms whose last trouble is remembered; beyond it the memory starts anew.
const TROUBLES_MAX: usize = 10_000;

/// How long the address of an egress may be used.
const ADDRESS_LIFE: Duration = Duration::from_secs(24 * 3600);

/// Egresses that were begun, by `kind` and `outcome`.
const EGRESSES_TOTAL: &str = "ws_edge_egresses_started_total";
/// Egresses that nobody wanted and that were stopped.
const ORPHANS_TOTAL: &str = "ws_edge_egress_orphans_total";

pub(crate) fn register() {
    for kind in [RoomMode::Tracks, RoomMode::Composite] {
        for outcome in ["started", "unauthorized", "limit", "failed"] {
            metrics::counter!(EGRESSES_TOTAL, "kind" => kind.label(), "outcome" => outcome).absolute(0);
        }
    }
    metrics::counter!(ORPHANS_TOTAL).absolute(0);
}

/// What an edge needs to look after rooms.
pub(crate) struct Rooms {
    livekit: LiveKit,
    plan: LiveKitPlan,
    /// Rung when a room is due.
    alarm: Notify,
    troubles: Mutex<HashMap<SessionSlug, (String, Instant)>>,
}

impl Rooms {
    pub(crate) fn new(livekit: LiveKit, plan: LiveKitPlan) -> Self {
        Self { livekit, plan, alarm: Notify::new(), troubles: Mutex::default() }
    }
}

/// The sound of the session's room is wanted, when there is a LiveKit to ask.
pub(crate) async fn want(edge: &Edge, session: &SessionSlug, now: Timestamp) -> Result<(), StorageError> {
    let Some(rooms) = &edge.rooms else { return Ok(()) };
    let mode = match rooms.plan.mode {
        EgressMode::Composite => RoomMode::Composite,
        EgressMode::Tracks | EgressMode::Auto => RoomMode::Tracks,
    };
    edge.storage.want_room(session, mode, now).await?;
    rooms.alarm.notify_one();
    Ok(())
}

/// It is wanted no longer.
pub(crate) async fn release(edge: &Edge, session: &SessionSlug, now: Timestamp) -> Result<(), StorageError> {
    let Some(rooms) = &edge.rooms else { return Ok(()) };
    edge.storage.release_room(session, now).await?;
    rooms.alarm.notify_one();
    Ok(())
}

/// Something happened in it.
pub(crate) async fn wake(edge: &Edge, session: &SessionSlug, now: Timestamp) -> Result<(), StorageError> {
    let Some(rooms) = &edge.rooms else { return Ok(()) };
    edge.storage.wake_room(session, now).await?;
    rooms.alarm.notify_one();
    Ok(())
}

/// Looks after rooms until the edge drains.
pub(crate) async fn look_after(edge: Arc<Edge>) {
    let Some(rooms) = &edge.rooms else { return edge.life.draining().cancelled().await };
    let mut orphans_due = Instant::now();
    loop {
        if orphans_due <= Instant::now() {
            match stop_orphans(&edge, rooms).await {
                Ok(()) => orphans_due = Instant::now() + ORPHANS_INTERVAL,
                Err(error) => {
                    tracing::warn!(%error, "look for egresses that nobody wants");
                    orphans_due = Instant::now() + LOOK_INTERVAL;
                }
            }
        }
        if let Err(error) = look(&edge, rooms).await {
            tracing::warn!(%error, "look after rooms");
        }
        tokio::select! {
            () = edge.life.draining().cancelled() => return,
            () = rooms.alarm.notified() => {}
            () = sleep(POLL_INTERVAL) => {}
        }
    }
}

async fn look(edge: &Edge, rooms: &Rooms) -> Result<(), StorageError> {
    loop {
        let now = edge.clock.now();
        let lease = now.after(LEASE);
        let claimed = edge.storage.claim_rooms(now, lease, ROOMS_AT_ONCE).await?;
        let count = claimed.len();
        for tended in join_all(claimed.into_iter().map(|room| tend(edge, rooms, room, lease))).await {
            tended?;
        }
        if count < ROOMS_AT_ONCE as usize {
            return Ok(());
        }
    }
}

/// Why a room could not be looked after.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    LiveKit(#[from] LiveKitError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

async fn tend(edge: &Edge, rooms: &Rooms, room: Room, lease: Timestamp) -> Result<(), StorageError> {
    let outcome = if room.wanted { keep(edge, rooms, &room).await } else { let_go(edge, rooms, &room).await };
    let pause = match outcome {
        Ok(pause) => pause,
        Err(Trouble::Storage(error)) => return Err(error),
        Err(Trouble::LiveKit(error)) => {
            tracing::warn!(%error, session = %room.session_id, "look after a room");
            if room.wanted {
                tell(edge, rooms, &room.session, &error).await;
            }
            LOOK_INTERVAL
        }
    };
    edge.storage.settle_room(room.session_id, lease, edge.clock.now().after(pause)).await
}

/// Ends what runs; how long until the next look.
async fn let_go(edge: &Edge, rooms: &Rooms, room: &Room) -> Result<Duration, Trouble> {
    let running = ours(rooms, rooms.livekit.egresses(Some(room.session.as_str())).await?);
    for egress in &running {
        rooms.livekit.stop_egress(&egress.id).await?;
    }
    if running.is_empty() {
        edge.storage.drop_room(room.session_id).await?;
    }
    Ok(RELEASE_INTERVAL)
}

/// Sees to it that the sound comes; how long until the next look.
async fn keep(edge: &Edge, rooms: &Rooms, room: &Room) -> Result<Duration, Trouble> {
    let name = room.session.as_str();
    let tracks = rooms.livekit.audio_tracks(name).await?;
    let running = ours(rooms, rooms.livekit.egresses(Some(name)).await?);
    if !tracks.is_empty() {
        // A room in which nobody says anything for long is used all the same.
        edge.storage.use_session(room.session_id, edge.clock.now()).await?;
    }
    // What is sent already, by track; the whole room has no name.
    let mut sent: HashSet<&str> = HashSet::new();
    for egress in &running {
        let wanted = match (&egress.target, room.mode) {
            (Target::Track { track_id, .. }, RoomMode::Tracks) => {
                tracks.iter().any(|track| track.id == *track_id) && sent.insert(track_id)
            }
            (Target::Composite { .. }, RoomMode::Composite) => !tracks.is_empty() && sent.insert(""),
            _ => false,
        };
        if !wanted {
            rooms.livekit.stop_egress(&egress.id).await?;
        }
    }
    let wanted: Vec<Sound<'_>> = match room.mode {
        RoomMode::Tracks => tracks.iter().map(Sound::Track).collect(),
        RoomMode::Composite if tracks.is_empty() => Vec::new(),
        RoomMode::Composite => vec![Sound::Room],
    };
    let missing: Vec<Sound<'_>> =
        wanted.into_iter().filter(|sound| !sent.contains(sound.track_id())).collect();
    if missing.is_empty() {
        return Ok(LOOK_INTERVAL);
    }
    begin(edge, rooms, room, &missing).await
}

/// What is to be sent to us.
#[derive(Clone, Copy)]
enum Sound<'a> {
    Track(&'a AudioTrack),
    Room,
}

impl Sound<'_> {
    /// LiveKit's id of the track; the whole room has none.
    fn track_id(&self) -> &str {
        match self {
            Self::Track(track) => &track.id,
            Self::Room => "",
        }
    }
}

/// Begins the egresses that are missing, as far as their turn has come; how long until the next look.
async fn begin(edge: &Edge, rooms: &Rooms, room: &Room, missing: &[Sound<'_>]) -> Result<Duration, Trouble> {
    let attempts = edge.storage.egress_attempts(room.session_id).await?;
    let mut look_in = LOOK_INTERVAL;
    for sound in missing {
        let now = edge.clock.now();
        let wait = attempts
            .get(sound.track_id())
            .map_or(Duration::ZERO, |(count, tried_at)| pause(*count, now.since(*tried_at)));
        if !wait.is_zero() {
            look_in = look_in.min(wait);
            continue;
        }
        let forgotten = now.before(ATTEMPTS_LIFE);
        edge.storage.note_egress_attempt(room.session_id, sound.track_id(), now, forgotten).await?;
        let begun = start(edge, rooms, room, *sound).await;
        count(room.mode, begun.as_ref().err());
        match begun {
            Ok(egress) => {
                tracing::info!(egress = egress.id, track = sound.track_id(), "egress started");
            }
            // It went while we looked.
            Err(LiveKitError::NotFound(_)) => look_in = look_in.min(BACK_OFF.0),
            Err(error @ (LiveKitError::Limit(_) | LiveKitError::Unsupported(_)))
                if rooms.plan.mode == EgressMode::Auto && room.mode == RoomMode::Tracks =>
            {
                tracing::warn!(%error, session = %room.session_id, "no egress for each track; the whole room is sent");
                edge.storage.set_room_mode(room.session_id, RoomMode::Composite).await?;
                return Ok(Duration::ZERO);
            }
            Err(error) => {
                tracing::warn!(%error, track = sound.track_id(), "start an egress");
                tell(edge, rooms, &room.session, &error).await;
                look_in = look_in.min(BACK_OFF.0);
            }
        }
    }
    Ok(look_in)
}

async fn start(edge: &Edge, rooms: &Rooms, room: &Room, sound: Sound<'_>) -> Result<Egress, LiveKitError> {
    let name = room.session.as_str();
    match sound {
        Sound::Track(track) => {
            let url = track_url(edge, rooms, room, track);
            rooms.livekit.start_track_egress(name, &track.id, &url).await
        }
        Sound::Room => {
            let url = format!("{}{}", rooms.plan.rtmp_url, room_token(edge, room));
            rooms.livekit.start_composite_egress(name, &url).await
        }
    }
}

/// Where the sound of a track is to be sent; who may send it stands in it, signed.
fn track_url(edge: &Edge, rooms: &Rooms, room: &Room, track: &AudioTrack) -> String {
    let session_id = room.external_id.clone().unwrap_or_else(|| room.session.to_string());
    let path = format!("{}/{}/{}", rooms.plan.websocket_url, encoded(&session_id), encoded(&track.id));
    let claims = SessionClaims {
        scope: Some("egress".to_owned()),
        track: Some(track.id.clone()),
        session_id: Some(session_id),
        name: track.name.clone(),
        ..claims(edge, room, track.identity.as_str())
    };
    format!("{path}?token={}", edge.tokens.issue(&claims).unwrap_or_default())
}

/// The stream key with which the egress of a whole room publishes.
fn room_token(edge: &Edge, room: &Room) -> String {
    edge.tokens.issue(&claims(edge, room, Speaker::ROOM)).unwrap_or_default()
}

fn claims(edge: &Edge, room: &Room, identity: &str) -> SessionClaims {
    let now = edge.clock.now();
    let seconds = |moment: Timestamp| moment.0.div_euclid(1000);
    SessionClaims {
        sub: Some(identity.to_owned()),
        session_slug: room.session.to_string(),
        identity: Some(identity.to_owned()),
        iat: Some(seconds(now)),
        exp: seconds(now.after(ADDRESS_LIFE)),
        ..SessionClaims::default()
    }
}

/// A part of a path (RFC 3986 section 3.3).
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// How long an attempt still waits, when `since` has passed after the last of so many.
fn pause(attempts: u32, since: Duration) -> Duration {
    if since > ATTEMPTS_LIFE {
        return Duration::ZERO;
    }
    let (first, longest) = BACK_OFF;
    let doubled = first.saturating_mul(2_u32.saturating_pow(attempts.saturating_sub(1))).min(longest);
    doubled.saturating_sub(since)
}

/// Those that bring us sound, and run.
fn ours(rooms: &Rooms, egresses: Vec<Egress>) -> Vec<Egress> {
    let is_ours = |egress: &Egress| match &egress.target {
        Target::Track { url, .. } => url.expose().starts_with(&rooms.plan.websocket_url),
        // The key is hidden; what stands before it is ours.
        Target::Composite { urls } => urls.iter().any(|url| url.expose().starts_with(&rooms.plan.rtmp_url)),
        Target::Other => false,
    };
    egresses.into_iter().filter(|egress| !egress.status.ended() && is_ours(egress)).collect()
}

/// Stops what an edge began whose room nobody looks after any more.
async fn stop_orphans(edge: &Edge, rooms: &Rooms) -> Result<(), Trouble> {
    let running = ours(rooms, rooms.livekit.egresses(None).await?);
    if running.is_empty() {
        return Ok(());
    }
    // Asked after LiveKit, so that the room of whatever runs is known.
    let known: HashSet<SessionSlug> = edge.storage.rooms().await?.into_iter().collect();
    for egress in running {
        if egress.room.parse::<SessionSlug>().is_ok_and(|room| known.contains(&room)) {
            continue;
        }
        tracing::info!(egress = egress.id, "an egress of no room that is wanted is stopped");
        metrics::counter!(ORPHANS_TOTAL).increment(1);
        rooms.livekit.stop_egress(&egress.id).await?;
    }
    edge.storage.forget_livekit_events(edge.clock.now()).await?;
    Ok(())
}

fn count(mode: RoomMode, error: Option<&LiveKitError>) {
    let outcome = match error {
        None => "started",
        Some(LiveKitError::Unauthorized) => "unauthorized",
        Some(LiveKitError::Limit(_)) => "limit",
        Some(_) => "failed",
    };
    metrics::counter!(EGRESSES_TOTAL, "kind" => mode.label(), "outcome" => outcome).increment(1);
}

/// Tells the followers of a session what is wrong, when they were not told of late.
async fn tell(edge: &Edge, rooms: &Rooms, session: &SessionSlug, error: &LiveKitError) {
    // The first is the word that system A's clients know.
    let reason = match error {
        LiveKitError::Unauthorized => "livekit_unauthorized",
        LiveKitError::Limit(_) => "egress_limit",
        LiveKitError::Unavailable(_) => "livekit_unavailable",
        _ => "internal_error",
    };
    {
        let mut troubles = rooms.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        let known = troubles.get(session);
        if known.is_some_and(|(told, at)| told == reason && at.elapsed() < TROUBLE_INTERVAL) {
            return;
        }
        if troubles.len() >= TROUBLES_MAX {
            troubles.clear();
        }
        troubles.insert(session.clone(), (reason.to_owned(), Instant::now()));
    }
    let error =
        TranscriptionError { reason: reason.to_owned(), message: error.to_string(), at: edge.clock.now() };
    let event = Event::TranscriptionError(error);
    if let Err(error) = edge.bus.publish(&Topic::Session(session.clone()), &event).await {
        tracing::warn!(%error, "publish why a session is not transcribed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_wait_longer_each_time() {
        let seconds = Duration::from_secs;
        for (attempts, since, expected) in
            [(1, 0, 1), (1, 1, 0), (3, 1, 3), (9, 0, 30), (9, 29, 1), (9, 400, 0)]
        {
            assert_eq!(pause(attempts, seconds(since)), seconds(expected), "{attempts} {since}");
        }
    }

    #[test]
    fn ids_of_other_applications_stay_one_part_of_a_path() {
        assert_eq!(encoded("cuid-1_x"), "cuid-1_x");
        assert_eq!(encoded("a/b?c ü"), "a%2Fb%3Fc%20%C3%BC");
    }
}
