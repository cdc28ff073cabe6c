//! The sound of one track that LiveKit's egress sends over a WebSocket: PCM as binary messages, `{"muted":…}` as text,
//! nothing while it is muted. One task each.
//!
//! Sound is placed by the clock on the wall: what did not come is silence, and after a long pause another stream begins.
//! (livekit/egress, `pkg/pipeline/sink/websocket.go`: 48 kHz, two channels, a ping every 30 s, pongs with a payload of
//! its own.)

use std::{sync::Arc, time::Duration};

use audio::{Encoding, Format};
use auth::AuthError;
use bytes::Bytes;
use model::{Samples, SessionSlug, Speaker, StreamId};
use rpc::WhenFull;
use serde::Deserialize;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use crate::{
    Edge,
    close::Close,
    handshake::{decoded, parameter},
    settings::EgressFormat,
    socket::{Received, Socket},
    source::{At, Command, Next, Report, Source},
};

/// Where egresses connect: `/egress/audio/{sessionId}/{trackId}`.
pub(crate) const EGRESS_PATH: &str = "/egress/";

/// Largest message, in bytes: more than a second of the richest sound that is taken.
pub(crate) const MESSAGE_BYTES_MAX: usize = 512 * 1024;

/// Longest text message that is read, in bytes.
const TEXT_BYTES_MAX: usize = 1024;

/// Messages in a row that are no sound before the egress is sent away (system A).
const BAD_FRAMES_MAX: u32 = 5;

/// Sound that comes so much later than the sound before it ended has a pause before it, when the track was muted.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// The same while it was not muted: networks hold sound back and deliver it at once.
const STALL_MIN: Duration = Duration::from_secs(2);

/// After so long without sound its stream is over. Less than what an uplink fills with silence.
const STREAM_ENDS: Duration = Duration::from_secs(20);

/// A peer of which nothing comes for so many of our pings is gone.
const PINGS_UNANSWERED_MAX: u32 = 3;

/// When sound is offered to the workers again after they had no room.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// How long sound must flow before its rate says anything.
const MEASURED_AFTER: Duration = Duration::from_secs(3);

/// How far the rate of bytes may lie from what the format says, as a share of it.
const RATE_TOLERANCE: f64 = 0.25;

/// Open egress sockets.
const EGRESSES: &str = "ws_edge_egresses";
/// Messages of egresses that were no sound.
const BAD_FRAMES_TOTAL: &str = "ws_edge_egress_bad_frames_total";
/// Egresses whose bytes come at another rate than their format has.
const WRONG_RATE_TOTAL: &str = "ws_edge_egress_wrong_rate_total";

pub(crate) fn register() {
    metrics::gauge!(EGRESSES).set(0.0);
    metrics::counter!(BAD_FRAMES_TOTAL).absolute(0);
    metrics::counter!(WRONG_RATE_TOTAL).absolute(0);
}

/// Whose sound an egress sends, and how.
#[derive(Debug, Clone)]
pub(crate) struct Permit {
    session: SessionSlug,
    speaker: Speaker,
    /// Nobody is named: it may be anybody of the room.
    is_room: bool,
    format: Format,
}

/// Why an egress may not send. The texts are for whoever set it up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    #[error("expected /egress/audio/{{sessionId}}/{{trackId}}")]
    Path,
    #[error("{0}")]
    Token(#[from] AuthError),
    #[error("this token is not for this track")]
    OtherTrack,
    #[error("no session was started under this id")]
    Unknown,
    #[error("sampleRate and channels must be those of PCM that is supported")]
    Format,
}

impl Denied {
    pub(crate) const fn close(&self) -> Close {
        match self {
            Self::Path => Close::EgressPath,
            Self::Token(AuthError::Missing) => Close::MissingToken,
            Self::Token(_) => Close::InvalidToken,
            Self::OtherTrack | Self::Unknown | Self::Format => Close::Policy,
        }
    }
}

/// Decides about an egress by its path and query. A token names its track; without one, only a migration lets it in,
/// under the id by which its session was started.
pub(crate) async fn decide(edge: &Edge, path: &str, query: &str) -> Result<Permit, Denied> {
    let parts: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(decoded).collect();
    let [_, _, session_id, track] = parts.as_slice() else { return Err(Denied::Path) };
    let format = format(edge.settings.egress_format, query)?;
    let token = parameter(query, "token").unwrap_or_default();
    if token.is_empty() && edge.settings.legacy_open_routes {
        let session = edge.storage.started_session(session_id).await.ok().flatten().ok_or(Denied::Unknown)?;
        let identity = Speaker::ROOM.parse().map_err(|_| Denied::Unknown)?;
        let speaker = Speaker { identity, name: Some("Meeting".to_owned()) };
        return Ok(Permit { session: session.slug, speaker, is_room: true, format });
    }
    let principal = edge.tokens.verify(&token)?;
    if !principal.may_send(session_id, track) {
        return Err(Denied::OtherTrack);
    }
    let speaker =
        Speaker { identity: principal.identity().clone(), name: principal.name().map(str::to_owned) };
    Ok(Permit { session: principal.session().clone(), speaker, is_room: false, format })
}

fn format(usual: EgressFormat, query: &str) -> Result<Format, Denied> {
    let number = |name, usual: u32| match parameter(query, name) {
        None => Ok(usual),
        Some(text) => text.parse::<u32>().map_err(|_| Denied::Format),
    };
    let rate = number("sampleRate", usual.sample_rate_hz)?;
    let channels = number("channels", u32::from(usual.channels))?;
    let channels = u16::try_from(channels).map_err(|_| Denied::Format)?;
    Format::new(Encoding::PcmS16le, rate, channels).map_err(|_| Denied::Format)
}

/// Serves an egress until it ends.
pub(crate) async fn serve(edge: Arc<Edge>, socket: Socket, permit: Permit) {
    metrics::gauge!(EGRESSES).increment(1.0);
    let began = Instant::now();
    let mut egress = Egress {
        bytes_per_second: f64::from(permit.format.sample_rate_hz) * f64::from(permit.format.channels) * 2.0,
        edge: edge.clone(),
        socket,
        permit,
        voice: None,
        blocked: None,
        heard_until: None,
        muted_at: None,
        again_at: None,
        bad: 0,
        alive_at: began,
        ping_at: began + edge.settings.ping_interval,
        flow: None,
    };
    let close = egress.run().await;
    let Egress { socket, voice, blocked, .. } = egress;
    if let (Some(command), Some(source)) = (blocked, voice) {
        edge.life.spawn(source.deliver(vec![command]));
    }
    let seconds = began.elapsed().as_secs();
    let code = close.map_or(0, Close::code);
    if let Some(close) = close {
        edge.tally.closed(close);
        Box::pin(socket.close(None, close, edge.life.stopping())).await;
    }
    metrics::gauge!(EGRESSES).decrement(1.0);
    tracing::info!(code, seconds, "egress ended");
}

struct Egress {
    edge: Arc<Edge>,
    socket: Socket,
    permit: Permit,
    bytes_per_second: f64,
    voice: Option<Box<Source>>,
    /// Found the source's queue full. While it is there, the socket is not read.
    blocked: Option<Command>,
    /// Up to when there is sound, by the clock on the wall.
    heard_until: Option<Instant>,
    /// Since when the track is muted.
    muted_at: Option<Instant>,
    /// No worker has room until then.
    again_at: Option<Instant>,
    bad: u32,
    alive_at: Instant,
    ping_at: Instant,
    /// Since when sound flows without a pause, and how many bytes; `None` once its rate was looked at.
    flow: Option<(Instant, usize)>,
}

/// What egresses say in text.
#[derive(Deserialize)]
struct Told {
    muted: Option<bool>,
}

impl Egress {
    /// Ends with the way to close the socket; `None` when it is gone.
    async fn run(&mut self) -> Option<Close> {
        self.flow = Some((Instant::now(), 0));
        loop {
            let (wants_room, ends_at) = (self.blocked.is_some(), self.ends_at());
            let Self { edge, socket, voice, ping_at, .. } = self;
            let source = async {
                match voice {
                    Some(source) => source.next(wants_room).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                received = socket.receive(), if !wants_room => {
                    if let Err(close) = self.hear(received).await {
                        return close;
                    }
                }
                next = source => self.news(next),
                () = sleep_until(*ping_at) => {
                    let interval = self.edge.settings.ping_interval;
                    if self.alive_at.elapsed() > interval * PINGS_UNANSWERED_MAX {
                        self.rest();
                        return Some(Close::Heartbeat);
                    }
                    self.ping_at = Instant::now() + interval;
                    if self.socket.ping().await.is_err() {
                        self.rest();
                        return None;
                    }
                }
                () = sleep_until(ends_at.unwrap_or(*ping_at)), if ends_at.is_some() => self.finish(),
                () = edge.life.draining().cancelled() => {
                    // Another edge has it sent again, once LiveKit tells that this one has ended.
                    self.finish();
                    return Some(Close::GoingAway);
                }
            }
        }
    }

    /// When the stream is over unless sound comes.
    fn ends_at(&self) -> Option<Instant> {
        self.voice.as_ref().and(self.heard_until).map(|until| until + STREAM_ENDS)
    }

    async fn hear(&mut self, received: Received) -> Result<(), Option<Close>> {
        self.alive_at = Instant::now();
        match received {
            Received::Alive => Ok(()),
            Received::Gone => {
                self.rest();
                Err(None)
            }
            Received::Broken(close) => {
                self.rest();
                Err(Some(close))
            }
            Received::Text(text) => {
                self.edge.tally.received();
                if let Some(muted) = muted(&text) {
                    self.mute(muted);
                }
                Ok(())
            }
            Received::Binary(bytes) => {
                self.edge.tally.received();
                let frame = 2 * usize::from(self.permit.format.channels);
                if bytes.is_empty() || bytes.len() % frame != 0 {
                    metrics::counter!(BAD_FRAMES_TOTAL).increment(1);
                    self.bad += 1;
                    if self.bad >= BAD_FRAMES_MAX {
                        self.finish();
                        return Err(Some(Close::TooManyErrors));
                    }
                    return Ok(());
                }
                self.bad = 0;
                self.sound(bytes).await;
                Ok(())
            }
        }
    }

    fn mute(&mut self, muted: bool) {
        if !muted {
            return;
        }
        self.muted_at.get_or_insert_with(Instant::now);
        // What was said before is shown at once.
        self.command(Command::Finalize);
    }

    async fn sound(&mut self, bytes: Bytes) {
        let now = Instant::now();
        if self.again_at.is_some_and(|at| now < at) {
            return;
        }
        let length = Duration::from_secs_f64(bytes.len() as f64 / self.bytes_per_second);
        let quiet_min = if self.muted_at.take().is_some() { PAUSE_MIN } else { STALL_MIN };
        let due = self.heard_until.map(|until| until + length);
        let pause = due.and_then(|due| now.checked_duration_since(due)).filter(|pause| *pause >= quiet_min);
        self.measure(bytes.len(), now, pause.is_some());
        self.edge.tally.audio(bytes.len());
        match (&self.voice, pause) {
            (Some(source), Some(pause)) => {
                let pause = Samples::from_millis(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
                // A source that has ended says so in its last report.
                let _ = source.begin(self.permit.format, At::After(pause)).await;
                self.heard_until = Some(now);
            }
            (Some(_), None) => self.heard_until = due,
            (None, _) => {
                self.speak(length).await;
                self.heard_until = Some(now);
            }
        }
        self.command(Command::Audio(bytes));
    }

    /// Opens a stream, or goes on with the one of an egress of this participant that was lost a moment ago.
    async fn speak(&mut self, length: Duration) {
        let Permit { session, speaker, is_room, format } = &self.permit;
        if let Some((seat, away)) = self.edge.desks.rejoin(session, &speaker.identity) {
            let source = Source::at(&self.edge, seat);
            let away = Samples::from_millis(u64::try_from(away.as_millis()).unwrap_or(u64::MAX));
            if source.begin(*format, At::After(away)).await.is_some() {
                self.voice = Some(Box::new(source));
                return;
            }
        }
        let introduction = rpc::Source {
            stream: StreamId(Uuid::new_v4()),
            session: session.clone(),
            speaker: speaker.clone(),
            language: None,
            endpointing_ms: None,
            partials: true,
            started_at: self.edge.clock.now().before(length),
            user: None,
            is_room: *is_room,
            translate_to: Vec::new(),
        };
        let source = Source::open(&self.edge, introduction, *format, WhenFull::DropOldest, Samples(0));
        self.voice = Some(Box::new(source));
    }

    fn command(&mut self, command: Command) {
        if let Some(source) = &self.voice {
            self.blocked = source.command(command).err();
        }
    }

    fn news(&mut self, next: Next) {
        match next {
            Next::Room => {
                if let Some(command) = self.blocked.take() {
                    self.command(command);
                }
            }
            Next::Report(Some(Report::Acknowledged(_) | Report::Gap { .. } | Report::Unserved(_))) => {}
            Next::Report(report) => {
                (self.voice, self.blocked, self.heard_until) = (None, None, None);
                if let Some(Report::Failed { retry_after, .. }) = report {
                    self.again_at = Some(Instant::now() + retry_after.unwrap_or(RETRY_AFTER));
                }
            }
        }
    }

    /// The egress is gone and may come back: what was said is shown, and the stream waits.
    fn rest(&mut self) {
        if self.blocked.is_none() {
            self.command(Command::Finalize);
        }
    }

    /// Lets the stream end.
    fn finish(&mut self) {
        if let Some(source) = self.voice.take() {
            source.stops();
            let last = self.blocked.take().into_iter().chain([Command::Stop]).collect();
            self.edge.life.spawn(source.deliver(last));
        }
        self.heard_until = None;
    }

    /// Looks once whether bytes come as fast as their format says: stereo that is taken for mono is not understood.
    fn measure(&mut self, bytes: usize, now: Instant, paused: bool) {
        let Some((since, total)) = &mut self.flow else { return };
        if paused {
            (*since, *total) = (now, 0);
            return;
        }
        *total += bytes;
        let span = now.duration_since(*since);
        if span < MEASURED_AFTER {
            return;
        }
        let rate = *total as f64 / span.as_secs_f64();
        self.flow = None;
        if (rate / self.bytes_per_second - 1.0).abs() > RATE_TOLERANCE {
            metrics::counter!(WRONG_RATE_TOTAL).increment(1);
            tracing::warn!(
                bytes_per_second = rate.round(),
                expected = self.bytes_per_second,
                "an egress sends other sound than expected: see EGRESS_SAMPLE_RATE and EGRESS_CHANNELS"
            );
        }
    }
}

fn muted(text: &str) -> Option<bool> {
    if text.len() > TEXT_BYTES_MAX {
        return None;
    }
    serde_json::from_str::<Told>(text).ok()?.muted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mute_messages_say_anything() {
        for (text, expected) in [
            (r#"{"muted":true}"#, Some(true)),
            (r#"{"muted":false,"x":1}"#, Some(false)),
            (r#"{"muted":"yes"}"#, None),
            ("{}", None),
            ("[", None),
        ] {
            assert_eq!(muted(text), expected, "{text}");
        }
        assert_eq!(muted(&format!(r#"{{"muted":true,"x":"{}"}}"#, "x".repeat(TEXT_BYTES_MAX))), None);
    }

    #[test]
    fn the_format_is_the_usual_one_unless_the_address_says() {
        let usual = EgressFormat { sample_rate_hz: 48_000, channels: 2 };
        let of = |query: &str| format(usual, query).map(|format| (format.sample_rate_hz, format.channels));
        assert_eq!(of(""), Ok((48_000, 2)));
        assert_eq!(of("sampleRate=16000&channels=1"), Ok((16_000, 1)));
        for wrong in ["sampleRate=x", "channels=0", "channels=70000", "sampleRate=1"] {
            assert_eq!(of(wrong), Err(Denied::Format), "{wrong}");
        }
    }
}
