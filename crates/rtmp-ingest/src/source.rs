//! The audio of one stream on its way to a worker: tags in order, decoded off the async threads, into the uplink. Runs
//! as its own task, so that what a connection delivered before it died is finished.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use model::{Samples, StreamState, StreamStatus};
use rpc::{AudioUplink, UplinkError, UplinkEvent, UplinkEvents, WhenFull};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};

use crate::{
    Ingest,
    desk::{Desk, Held, Leave, Tag},
    ear::{Ear, Fault, Piece},
    metrics,
    permit::Permit,
};

/// So long tags are collected before they are decoded together: a trip to another thread for each would cost more
/// than decoding does.
const COLLECT: Duration = Duration::from_millis(60);

/// Tags decoded in one go when more wait.
const BATCH_MAX: usize = 64;

/// Who pushes a file faster than it plays can wait, and is made to when so much is not acknowledged. Live sound never
/// comes sooner than it is made, and is never made to wait.
const AHEAD_MAX: Samples = Samples::from_millis(20_000);

/// How much sooner live sound may come than it is made, for what an encoder or a network held back.
const BURST: Duration = Duration::from_secs(5);

/// How often it is looked whether a pusher may go on.
const AHEAD_LOOK: Duration = Duration::from_millis(100);

/// How long followers are told that captions are missing after sound was lost, so that they can notice.
const LOSS_SHOWN: Duration = Duration::from_secs(1);

/// How long a stream that is over keeps looking for a worker that finishes it.
const FINISH_LIMIT: Duration = Duration::from_secs(30);

/// How often followers are told again how the stream does.
const STATE_INTERVAL: Duration = Duration::from_secs(15);

/// How often the clocks of a stream are measured.
const MEASURE_INTERVAL: Duration = Duration::from_secs(10);

/// Serves a stream from its first publisher to its end.
pub(crate) async fn run(ingest: Arc<Ingest>, permit: Permit, desk: Arc<Desk>, tags: mpsc::Receiver<Tag>) {
    let clear = Clear(&ingest, &desk);
    let (status, mut followed) = watch::channel(StreamStatus {
        session: permit.session.clone(),
        stream: desk.stream,
        state: StreamState::Connecting,
        engine: None,
        fallback: None,
        at: ingest.clock.now(),
    });
    followed.mark_changed();
    let told = ingest.bus.tell_state(followed, STATE_INTERVAL, &ingest.clock);
    let source = Source {
        introduction: rpc::Source {
            stream: desk.stream,
            session: permit.session,
            speaker: permit.speaker,
            language: permit.language,
            endpointing_ms: None,
            partials: true,
            started_at: ingest.clock.now(),
            user: None,
            is_room: permit.is_room,
            translate_to: Vec::new(),
        },
        ingest: &ingest,
        desk: &desk,
        status,
        ear: Some(Box::new(Ear::new())),
        line: None,
        line_state: StreamState::Connecting,
        sent: Samples(0),
        acknowledged: Samples(0),
        away_until: None,
        backlog: Backlog::default(),
        lossy_until: None,
        bytes: 0,
        measured: Instant::now(),
    };
    tokio::join!(source.carry(tags), told);
    drop(clear);
}

/// Clears a desk, and sends away who may still sit there, even when its task panics.
struct Clear<'a>(&'a Ingest, &'a Arc<Desk>);

impl Drop for Clear<'_> {
    fn drop(&mut self) {
        self.0.desks.clear(self.1);
        self.1.send_away(Leave::Failed);
    }
}

struct Source<'a> {
    ingest: &'a Ingest,
    desk: &'a Arc<Desk>,
    introduction: rpc::Source,
    /// What followers are told.
    status: watch::Sender<StreamStatus>,
    /// Away while it works on a thread of its own.
    ear: Option<Box<Ear>>,
    /// The way to a worker; made when there is sound.
    line: Option<(AudioUplink, UplinkEvents)>,
    line_state: StreamState,
    /// Up to where pieces were handed on, or lost.
    sent: Samples,
    acknowledged: Samples,
    /// No worker has room until then; what comes meanwhile waits.
    away_until: Option<Instant>,
    /// What no worker has taken yet; empty from the moment one listens.
    backlog: Backlog,
    /// Sound was lost; followers are told until then.
    lossy_until: Option<Instant>,
    /// Of tags, since the clocks were measured.
    bytes: usize,
    measured: Instant,
}

/// Why a stream takes nothing more.
enum Over {
    /// Nobody returned, or the service ends: what was sent is finished.
    Finished,
    /// What came cannot be understood.
    Undecodable(Fault),
    /// The stream could not go on.
    Failed,
}

impl Source<'_> {
    async fn carry(mut self, mut tags: mpsc::Receiver<Tag>) {
        let over = self.listen(&mut tags).await;
        // Whoever comes now begins another stream; whoever came before is told to go.
        self.ingest.desks.clear(self.desk);
        match over {
            Over::Undecodable(fault) => {
                tracing::info!(stream = %self.desk.stream, reason = fault.label(), "sound refused");
                self.desk.send_away(Leave::Undecodable(fault.label(), fault.text()));
            }
            Over::Failed => self.desk.send_away(Leave::Failed),
            Over::Finished => {}
        }
        drop(tags);
        self.finish().await;
    }

    /// Carries tags until the stream is over.
    async fn listen(&mut self, tags: &mut mpsc::Receiver<Tag>) -> Over {
        let draining = self.ingest.life.draining().clone();
        let mut holder = self.desk.watch();
        let mut held = self.desk.held();
        let mut batch = Vec::new();
        loop {
            let until = match held {
                Held::Free { since, .. } => Some(since + self.ingest.settings.rejoin),
                Held::Taken | Held::Dismissed => None,
            };
            let (is_ahead, lossy, away) = (self.is_ahead(), self.lossy_until, self.away_until);
            let heard = tokio::select! {
                biased;
                event = next(&mut self.line) => self.hear(event),
                change = holder.changed() => {
                    held = change;
                    self.hold(held, tags, &mut batch).await
                }
                // The sender is in the desk.
                _ = tags.recv_many(&mut batch, BATCH_MAX), if !is_ahead => {
                    sleep(COLLECT).await;
                    self.take(tags, &mut batch).await
                }
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                    self.ingest.desks.dismiss_free(self.desk);
                    Ok(())
                }
                () = sleep(AHEAD_LOOK), if is_ahead => Ok(()),
                () = sleep_until(away.unwrap_or_else(Instant::now)), if away.is_some() => {
                    self.ask_again().await;
                    Ok(())
                }
                () = sleep_until(lossy.unwrap_or_else(Instant::now)), if lossy.is_some() => {
                    self.lossy_until = None;
                    self.tell();
                    Ok(())
                }
                () = draining.cancelled() => {
                    // What the connection has delivered is still heard.
                    self.take(tags, &mut batch).await.and(Err(Over::Finished))
                }
            };
            if let Err(over) = heard {
                return over;
            }
        }
    }

    /// Somebody came or went.
    async fn hold(
        &mut self,
        held: Held,
        tags: &mut mpsc::Receiver<Tag>,
        batch: &mut Vec<Tag>,
    ) -> Result<(), Over> {
        match held {
            Held::Taken => {}
            Held::Dismissed => return Err(Over::Finished),
            Held::Free { .. } => {
                self.take(tags, batch).await?;
                self.flush().await?;
                if let Some((uplink, _)) = &self.line
                    && uplink.finalize().await.is_err()
                {
                    // Its last event says why.
                    return Ok(());
                }
            }
        }
        self.tell();
        Ok(())
    }

    /// Whether the publisher pushes faster than it plays, and is far enough ahead of what is understood.
    fn is_ahead(&self) -> bool {
        self.sent - self.acknowledged > AHEAD_MAX
            && self.began().is_some_and(|began| self.sent.duration() > began.elapsed() + BURST)
    }

    /// When the first sound came.
    fn began(&self) -> Option<Instant> {
        self.ear.as_ref().and_then(|ear| ear.began())
    }

    /// Tells followers how it stands.
    fn tell(&self) {
        let state = match self.desk.held() {
            Held::Taken if self.lossy_until.is_some() => StreamState::Connecting,
            Held::Taken => self.line_state,
            Held::Free { said: true, .. } | Held::Dismissed => StreamState::Stopped,
            Held::Free { said: false, .. } => StreamState::Connecting,
        };
        self.status.send_if_modified(|told| std::mem::replace(&mut told.state, state) != state);
    }

    /// Takes everything that waits.
    async fn take(&mut self, tags: &mut mpsc::Receiver<Tag>, batch: &mut Vec<Tag>) -> Result<(), Over> {
        loop {
            while batch.len() < BATCH_MAX
                && let Ok(tag) = tags.try_recv()
            {
                batch.push(tag);
            }
            if batch.is_empty() {
                return Ok(());
            }
            let full = batch.len() >= BATCH_MAX;
            self.decode(std::mem::take(batch)).await?;
            if !full {
                return Ok(());
            }
        }
    }

    async fn decode(&mut self, tags: Vec<Tag>) -> Result<(), Over> {
        self.bytes += tags.iter().map(|tag| tag.data.len()).sum::<usize>();
        let mut ear = self.ear.take().ok_or(Over::Failed)?;
        let work = move || {
            let (pieces, fault) = ear.hear(&tags);
            (ear, pieces, fault)
        };
        // A panic was logged by the hook.
        let (ear, pieces, fault) = tokio::task::spawn_blocking(work).await.map_err(|_| Over::Failed)?;
        self.ear = Some(ear);
        self.count();
        self.forward(pieces).await;
        fault.map_or(Ok(()), |fault| Err(Over::Undecodable(fault)))
    }

    async fn flush(&mut self) -> Result<(), Over> {
        let mut ear = self.ear.take().ok_or(Over::Failed)?;
        let work = move || {
            let pieces = ear.flush();
            (ear, pieces)
        };
        let (ear, pieces) = tokio::task::spawn_blocking(work).await.map_err(|_| Over::Failed)?;
        self.ear = Some(ear);
        self.count();
        self.forward(pieces).await;
        Ok(())
    }

    fn count(&mut self) {
        let Some(ear) = &mut self.ear else { return };
        let counts = ear.take_counts();
        metrics::count(&counts);
        if counts.gaps > 0 {
            tracing::info!(stream = %self.desk.stream, silence = %counts.gap, at = %ear.position(), "gap in the sound");
        }
        if counts.rebases > 0 {
            tracing::info!(stream = %self.desk.stream, "the timestamps jumped; the clock goes on");
        }
        let since = self.measured.elapsed();
        if since >= MEASURE_INTERVAL {
            metrics::measure(self.bytes, since, ear.drift_ms());
            (self.bytes, self.measured) = (0, Instant::now());
        }
    }

    /// Sends pieces on. What nobody takes in time is lost and counted, by the uplink or here.
    async fn forward(&mut self, pieces: Vec<Piece>) {
        for piece in pieces {
            let first = self.sent;
            self.sent = match &piece {
                Piece::Sound(sound) => first + Samples::of(sound.len()),
                Piece::GoOnAt(position) => *position,
            };
            if self.away_until.is_some() {
                self.backlog.keep(first, piece);
                continue;
            }
            if self.line.is_none() {
                self.open(first);
            }
            if self.line_state != StreamState::Ready {
                self.backlog.keep(first, piece.clone());
            }
            self.send(piece).await;
        }
    }

    async fn send(&mut self, piece: Piece) {
        let Some((uplink, _)) = &self.line else { return };
        // When the uplink has ended, its last event says why.
        let _ = match piece {
            Piece::Sound(sound) => uplink.send(&sound).await,
            Piece::GoOnAt(position) => uplink.go_on_at(position).await,
        };
    }

    /// Asks again for a worker that has room.
    async fn ask_again(&mut self) {
        self.away_until = None;
        let Some(first) = self.backlog.first() else { return };
        self.open(first);
        for (_, piece) in self.backlog.pieces.clone() {
            self.send(piece).await;
        }
    }

    /// Looks for a worker, for the sound that begins at `first`.
    fn open(&mut self, first: Samples) {
        let mut source = self.introduction.clone();
        // An encoder may publish long before its sound begins, which is position 0.
        let since = self.began().map_or(Duration::ZERO, |began| began.elapsed());
        source.started_at = self.ingest.clock.now().before(since);
        tracing::info!(stream = %self.desk.stream, at = %first, "stream opened");
        let Ingest { workers, life, .. } = self.ingest;
        self.line = Some(AudioUplink::resume(workers, life, source, WhenFull::DropOldest, first));
    }

    /// News of the uplink.
    fn hear(&mut self, event: Option<UplinkEvent>) -> Result<(), Over> {
        match event {
            Some(UplinkEvent::State(state)) => {
                self.line_state = state;
                if state == StreamState::Ready {
                    // The uplink keeps from now on what is needed again.
                    self.backlog = Backlog::default();
                }
                self.tell();
                Ok(())
            }
            Some(UplinkEvent::Acknowledged(position)) => {
                self.acknowledged = position;
                Ok(())
            }
            Some(UplinkEvent::Engine { engine, fallback }) => {
                self.status.send_if_modified(|told| {
                    let changed = (told.engine, &told.fallback) != (engine, &fallback);
                    (told.engine, told.fallback) = (engine, fallback);
                    changed
                });
                Ok(())
            }
            Some(UplinkEvent::Filtered(_) | UplinkEvent::Unserved(_)) => Ok(()),
            Some(UplinkEvent::Gap { start, end }) => {
                metrics::lost(end - start);
                tracing::warn!(stream = %self.desk.stream, %start, %end, "audio was given up: no worker took it in time");
                self.lossy_until = Some(Instant::now() + LOSS_SHOWN);
                self.tell();
                Ok(())
            }
            Some(UplinkEvent::Failed(UplinkError::Busy { retry_after })) => {
                tracing::warn!(stream = %self.desk.stream, "no transcription worker has room");
                (self.line, self.line_state) = (None, StreamState::Connecting);
                self.away_until = Some(Instant::now() + retry_after);
                self.tell();
                Ok(())
            }
            Some(UplinkEvent::Failed(error)) => {
                tracing::warn!(stream = %self.desk.stream, fault = %error.fault(), %error, "stream failed");
                self.line = None;
                Err(Over::Failed)
            }
            Some(UplinkEvent::Ended(_)) | None => Err(Over::Failed),
        }
    }

    /// Sees to it that what was sent is stored.
    async fn finish(mut self) {
        if self.flush().await.is_err() {
            tracing::warn!(stream = %self.desk.stream, "the end of the sound could not be decoded");
        }
        let give_up = Instant::now() + FINISH_LIMIT;
        loop {
            if let Some(until) = self.away_until {
                tokio::select! {
                    () = sleep_until(until.min(give_up)) => {}
                    () = self.ingest.life.stopping().cancelled() => return,
                }
                self.ask_again().await;
            }
            let Some((uplink, _)) = &self.line else { return };
            if uplink.stop().await.is_err() {
                tracing::debug!(stream = %self.desk.stream, "the uplink has ended already");
            }
            while let Some(event) = next(&mut self.line).await {
                match event {
                    UplinkEvent::Ended(_) => {
                        let drift_ms = self.ear.as_ref().map_or(0, |ear| ear.drift_ms());
                        let seconds = self.sent.seconds();
                        tracing::info!(stream = %self.desk.stream, seconds, drift_ms, "stream ended");
                        return;
                    }
                    UplinkEvent::Failed(UplinkError::Busy { retry_after }) if Instant::now() < give_up => {
                        (self.line, self.away_until) = (None, Some(Instant::now() + retry_after));
                        break;
                    }
                    UplinkEvent::Failed(error) => {
                        tracing::warn!(stream = %self.desk.stream, %error, "stream failed at its end");
                        return;
                    }
                    UplinkEvent::Gap { start, end } => metrics::lost(end - start),
                    UplinkEvent::State(_)
                    | UplinkEvent::Acknowledged(_)
                    | UplinkEvent::Engine { .. }
                    | UplinkEvent::Filtered(_)
                    | UplinkEvent::Unserved(_) => {}
                }
            }
            if self.away_until.is_none() {
                return;
            }
        }
    }
}

/// Pieces that no worker has taken, at most as much sound as an uplink keeps.
#[derive(Default)]
struct Backlog {
    /// With where they begin.
    pieces: VecDeque<(Samples, Piece)>,
    sound: Samples,
}

impl Backlog {
    fn first(&self) -> Option<Samples> {
        self.pieces.front().map(|(first, _)| *first)
    }

    fn keep(&mut self, first: Samples, piece: Piece) {
        self.sound = self.sound + piece.sound();
        self.pieces.push_back((first, piece));
        while self.sound > rpc::WINDOW
            && let Some((_, oldest)) = self.pieces.pop_front()
        {
            self.sound = self.sound - oldest.sound();
            metrics::lost(oldest.sound());
        }
    }
}

/// News of the uplink; waits for ever while there is none. Cancel-safe.
async fn next(line: &mut Option<(AudioUplink, UplinkEvents)>) -> Option<UplinkEvent> {
    match line {
        Some((_, events)) => events.next().await,
        None => std::future::pending().await,
    }
}
