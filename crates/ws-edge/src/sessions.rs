//! What the edge notes about sessions in Postgres: that they and their participants are there, started and stopped, and
//! who speaks.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use auth::Principal;
use event_bus::Event;
use model::{Clock, Identity, SessionSlug, Speaker, Timestamp, Topic, UserId};
use storage::{Session, StorageError};
use tokio::sync::mpsc;

use crate::{Edge, metrics::QueueCounts, rooms};

/// Notes that wait for Postgres. One is about 300 bytes; while Postgres is away, a participant waits at most once.
const NOTES_WAITING_MAX: usize = 4_096;

/// A participant is noted again after so long, so that a session with sockets does not count as idle.
const NOTE_INTERVAL: Duration = Duration::from_secs(60);

/// Participants whose last note is remembered; beyond it the memory starts anew, at the cost of a few more notes.
const NOTED_MAX: usize = 50_000;

/// Wait between attempts while Postgres is away: doubles from the first to the last.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A session that nobody used for so long has ended.
const SESSION_IDLE_LIMIT: Duration = Duration::from_secs(30 * 60);

/// How often idle sessions are looked for. Every edge does; only one finds each.
const IDLE_LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// Sessions whose last speaker is remembered, to note only changes; beyond it the memory starts anew.
const SPEAKING_MAX: usize = 10_000;

/// A fact on its way to Postgres.
enum Note {
    Present { session: SessionSlug, identity: Identity, name: Option<String>, user: UserId },
    Started { session: SessionSlug, external_id: String, language: Option<String> },
    Stopped { external_id: String },
    Finished { session: SessionSlug, begun_by: Timestamp },
    Speaks { session: SessionSlug, speaker: Option<Speaker>, at: Timestamp },
}

/// The notes cannot be kept: Postgres has been away for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

/// The edge's notes.
pub(crate) struct Sessions {
    notes: mpsc::Sender<Note>,
    noted: Mutex<HashMap<(SessionSlug, Identity), Instant>>,
    /// What was noted last, and when.
    speaking: Mutex<HashMap<SessionSlug, (Option<Speaker>, Instant)>>,
    counts: Counts,
    clock: Clock,
}

#[derive(Default)]
struct Counts {
    queued: AtomicU64,
    written: AtomicU64,
    failed: AtomicU64,
    last: Mutex<(Option<Timestamp>, Option<String>)>,
}

/// The writing half, for [`Writer::run`].
pub(crate) struct Writer {
    notes: mpsc::Receiver<Note>,
}

impl Sessions {
    pub(crate) fn new(clock: Clock) -> (Self, Writer) {
        let (sender, notes) = mpsc::channel(NOTES_WAITING_MAX);
        let sessions = Self {
            notes: sender,
            noted: Mutex::default(),
            speaking: Mutex::default(),
            counts: Counts::default(),
            clock,
        };
        (sessions, Writer { notes })
    }

    /// A participant is here. Never waits; a note that finds no room is made at the next occasion.
    pub(crate) fn present(&self, principal: &Principal) {
        let key = (principal.session().clone(), principal.identity().clone());
        {
            let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
            if noted.get(&key).is_some_and(|at| at.elapsed() < NOTE_INTERVAL) {
                return;
            }
            if noted.len() >= NOTED_MAX {
                noted.clear();
            }
            noted.insert(key.clone(), Instant::now());
        }
        let note = Note::Present {
            session: key.0.clone(),
            identity: key.1.clone(),
            name: principal.name().map(str::to_owned),
            user: principal.user().clone(),
        };
        if self.note(note).is_err() {
            self.noted.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        }
    }

    /// A back end starts the transcription of a session, in this language unless its streams say otherwise.
    pub(crate) fn start(
        &self,
        session: SessionSlug,
        external_id: String,
        language: Option<String>,
    ) -> Result<(), Full> {
        self.note(Note::Started { session, external_id, language })
    }

    /// The room of a session is over, if it began by then.
    pub(crate) fn finish(&self, session: SessionSlug, begun_by: Timestamp) -> Result<(), Full> {
        self.note(Note::Finished { session, begun_by })
    }

    /// A back end stops it.
    pub(crate) fn stop(&self, external_id: String) -> Result<(), Full> {
        self.note(Note::Stopped { external_id })
    }

    fn note(&self, note: Note) -> Result<(), Full> {
        self.notes.try_send(note).map_err(|_| Full)?;
        self.counts.queued.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Somebody said who speaks from now on; `None` for nobody. Equal to what was said last, here and a moment ago, it
    /// changes nothing. One that finds no room is dropped: the next change says more.
    pub(crate) fn speaks(&self, session: &SessionSlug, speaker: Option<Speaker>) {
        {
            let mut speaking = self.speaking.lock().unwrap_or_else(PoisonError::into_inner);
            let known = speaking.get(session);
            if known.is_some_and(|(last, at)| *last == speaker && at.elapsed() < NOTE_INTERVAL) {
                return;
            }
            if speaking.len() >= SPEAKING_MAX {
                speaking.clear();
            }
            speaking.insert(session.clone(), (speaker.clone(), Instant::now()));
        }
        let note = Note::Speaks { session: session.clone(), speaker, at: self.clock.now() };
        if self.note(note).is_err() {
            self.speaking.lock().unwrap_or_else(PoisonError::into_inner).remove(session);
        }
    }

    /// How many notes wait for Postgres.
    pub(crate) fn waiting(&self) -> u64 {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        read(&self.counts.queued).saturating_sub(read(&self.counts.written))
    }

    /// What became of the notes.
    pub(crate) fn queue(&self) -> QueueCounts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let last = self.counts.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        QueueCounts {
            queue_length: self.waiting(),
            total_queued: read(&self.counts.queued),
            total_flushed: read(&self.counts.written),
            total_errors: read(&self.counts.failed),
            last_flush_time: last.0.map(|at| at.to_string()),
            last_error: last.1,
        }
    }
}

impl Writer {
    /// Writes the notes until the hard stop, or until none is left once the edge drains.
    pub(crate) async fn run(mut self, edge: Arc<Edge>) {
        loop {
            let note = tokio::select! {
                biased;
                () = edge.life.stopping().cancelled() => return,
                note = self.notes.recv() => note,
                () = edge.life.draining().cancelled() => return,
            };
            let Some(note) = note else { return };
            tokio::select! {
                () = write(&note, &edge) => {}
                () = edge.life.stopping().cancelled() => return,
            }
        }
    }
}

/// Writes one note, however long Postgres is away.
async fn write(note: &Note, edge: &Edge) {
    let mut pause = BACK_OFF.0;
    loop {
        let now = edge.clock.now();
        let outcome = try_write(note, edge, now).await;
        let counts = &edge.sessions.counts;
        match outcome {
            Ok(()) => {
                counts.written.fetch_add(1, Ordering::Relaxed);
                counts.last.lock().unwrap_or_else(PoisonError::into_inner).0 = Some(now);
                return;
            }
            Err(error) => {
                counts.failed.fetch_add(1, Ordering::Relaxed);
                counts.last.lock().unwrap_or_else(PoisonError::into_inner).1 =
                    Some(error.fault().to_string());
                if !error.is_retryable() {
                    tracing::error!(%error, "note a session");
                    counts.written.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                tracing::warn!(%error, retry_ms = pause.as_millis(), "note a session");
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(BACK_OFF.1);
    }
}

async fn try_write(note: &Note, edge: &Edge, now: Timestamp) -> Result<(), StorageError> {
    let storage = &edge.storage;
    match note {
        Note::Present { session, identity, name, user } => {
            let session = storage.touch_session(session, now).await?;
            storage.upsert_participant(session.id, identity, name.as_deref(), Some(user), now).await
        }
        Note::Started { session, external_id, language } => {
            storage.start_session(session, external_id, language.as_deref(), now).await?;
            rooms::want(edge, session, now).await
        }
        Note::Stopped { external_id } => {
            let stopped = storage.stop_session(external_id, now).await?;
            ended(edge, stopped, "stopped", now).await
        }
        Note::Finished { session, begun_by } => {
            let finished = storage.end_session(session, *begun_by, now).await?;
            ended(edge, finished, "finished", now).await
        }
        Note::Speaks { session, speaker, at } => {
            storage.note_active_speaker(session, speaker.as_ref(), *at).await
        }
    }
}

/// Ends sessions that nobody uses any more, until the edge drains.
pub(crate) async fn end_idle(edge: Arc<Edge>) {
    loop {
        tokio::select! {
            () = edge.life.draining().cancelled() => return,
            () = tokio::time::sleep(IDLE_LOOK_INTERVAL) => {}
        }
        match edge.storage.end_idle_sessions(SESSION_IDLE_LIMIT, edge.clock.now()).await {
            Ok(idle) => {
                for session in idle {
                    if let Err(error) = ended(&edge, Some(session), "idle", edge.clock.now()).await {
                        tracing::warn!(%error, "let go of the room of an idle session");
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "end idle sessions"),
        }
        if let Err(error) = edge.storage.forget_active_speakers(edge.clock.now()).await {
            tracing::warn!(%error, "forget who spoke in sessions that have ended");
        }
    }
}

/// A session has ended: its room is let go of, and everybody is told.
async fn ended(
    edge: &Edge,
    session: Option<Session>,
    why: &'static str,
    now: Timestamp,
) -> Result<(), StorageError> {
    let Some(session) = session else { return Ok(()) };
    // Its name can be a secret.
    let seconds = now.since(session.created_at).as_secs();
    tracing::info!(session = %session.id, why, seconds, "session ended");
    rooms::release(edge, &session.slug, now).await?;
    tell_end(edge, session.slug).await;
    Ok(())
}

/// Tells every edge that a session has ended.
async fn tell_end(edge: &Edge, session: SessionSlug) {
    // Whoever spoke last does not speak first in the next.
    edge.sessions.speaks(&session, None);
    if let Err(error) = edge.bus.publish(&Topic::Session(session), &Event::SessionEnded).await {
        tracing::warn!(%error, "publish the end of a session");
    }
}
