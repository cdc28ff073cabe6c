//! One connection of `parley stream`, from `init` to `stopped`.

use std::{
    future::poll_fn,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt, stream::SplitSink};
use model::Samples;
use tokio::time::sleep_until;
use tungstenite::{Error, Message};

use super::Streaming;
use crate::{
    door::{Socket, Wanted},
    failure::Failure,
    message::{Fault, FromServer, Resume, ToServer},
    signals::Signals,
    sound::{Kind, Measure},
    source::CHUNK_BYTES_MAX,
    span::clock,
    trouble::Trouble,
};

/// Longest wait for the answer to `init`.
const INITIALIZED_LIMIT: Duration = Duration::from_secs(15);

/// A server pings every 15 s; when nothing came for three of them, it is gone.
const SILENCE_LIMIT: Duration = Duration::from_secs(45);

/// Longest wait for a sign of progress after `stop`.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Longest wait for the last captions after Ctrl-C.
const INTERRUPT_LIMIT: Duration = Duration::from_secs(10);

/// Finals take another road than `stopped`, so a little time is granted after the last sign of them.
const LINGER: Duration = Duration::from_millis(1500);

/// As [`LINGER`], while an utterance is shown that has no final yet.
const LINGER_OPEN: Duration = Duration::from_secs(10);

/// Sound in one message at real time: what a browser's microphone sends.
const PIECE: Duration = Duration::from_millis(100);

/// Shortest time between two messages of sound: 100 a second, which every server of the contract takes.
const PIECE_GAP: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Opening,
    Sending,
    Stopping,
    Lingering,
}

/// What belongs to one connection only.
struct Link {
    phase: Phase,
    phase_began: Instant,
    /// The last time anything came.
    heard: Instant,
    /// What is to be handed to the socket next.
    outgoing: Option<Message>,
    /// Everything handed over has left.
    flushed: bool,
    /// The socket takes nothing more; why it ended may still be read.
    write_error: Option<Error>,
    /// The header of the sound is still to be sent.
    header_due: bool,
    /// No piece before this.
    piece_due: Instant,
    fault: Option<Fault>,
    retry_after: Option<Duration>,
}

impl Streaming {
    /// Connects, sends what is left, and returns once its captions are here, or after Ctrl-C.
    pub(super) async fn connection(&mut self, signals: &mut Signals) -> Result<(), Failure> {
        // Finals that were missed are replayed; those of others are passed over.
        let since = (!self.streams.is_empty()).then(|| self.sequences.since().unwrap_or(0));
        let socket = tokio::select! {
            socket = self.door.open(Wanted { since, ..Wanted::default() }) => socket?,
            () = signals.next() => return Err(Failure::Incomplete("interrupted while connecting".to_owned())),
        };
        let (mut sink, mut messages) = socket.split();
        let mut link = Link::new(self.init());
        loop {
            self.prepare(&mut link);
            let wants_sound = link.phase == Phase::Sending && !self.source_ended && !self.uplink.has_unsent();
            let waits_for_clock = link.is_idle()
                && link.phase == Phase::Sending
                && self.uplink.has_unsent()
                && self.uplink.has_room();
            let (limit, piece_due) = (self.limit(&link), self.piece_due(&link));
            tokio::select! {
                biased;
                () = signals.next() => {
                    if self.interrupted {
                        return Err(Failure::Incomplete("interrupted".to_owned()));
                    }
                    self.interrupt(&mut link);
                    if link.phase == Phase::Opening {
                        return Ok(());
                    }
                }
                message = messages.next() => {
                    link.heard = Instant::now();
                    let done = match message {
                        Some(Ok(Message::Text(text))) => self.message(&mut link, text.as_str()).map(|()| false),
                        Some(Ok(Message::Close(frame))) => {
                            let (code, reason) = frame.map_or((1005, String::new()), |frame| {
                                (u16::from(frame.code), frame.reason.as_str().to_owned())
                            });
                            if link.phase == Phase::Lingering {
                                Ok(true)
                            } else {
                                Err(Trouble::closed(code, &reason, link.fault.as_ref(), link.retry_after).into())
                            }
                        }
                        Some(Ok(_)) => Ok(false),
                        Some(Err(_)) | None if link.phase == Phase::Lingering => Ok(true),
                        Some(Err(error)) => Err(Trouble::lost(&error, link.fault.as_ref(), link.retry_after).into()),
                        None => Err(Trouble::closed(1006, "", link.fault.as_ref(), link.retry_after).into()),
                    };
                    if done? {
                        return Ok(());
                    }
                }
                ready = drive(&mut sink, link.outgoing.is_some()), if link.writes() => {
                    let outcome = match (ready, link.outgoing.take()) {
                        (Ok(()), Some(message)) => {
                            link.flushed = false;
                            sink.start_send_unpin(message)
                        }
                        (Ok(()), None) => {
                            link.flushed = true;
                            Ok(())
                        }
                        (Err(error), _) => Err(error),
                    };
                    // Why the server hung up may still lie in what can be read.
                    link.write_error = outcome.err();
                }
                chunk = self.source.next(), if wants_sound => match chunk {
                    Some(Ok(chunk)) => self.uplink.push(&chunk),
                    Some(Err(error)) => {
                        self.source_error = Some(error);
                        self.source_ended = true;
                    }
                    None => self.source_ended = true,
                },
                () = sleep_until(piece_due.into()), if waits_for_clock => {}
                () = sleep_until(limit.into()) => {
                    if self.limit(&link) > Instant::now() {
                        continue;
                    }
                    match link.phase {
                        Phase::Lingering => break,
                        Phase::Stopping | Phase::Sending if self.interrupted => {
                            return Err(Failure::Incomplete("the server did not confirm the end in time".to_owned()));
                        }
                        Phase::Stopping if link.heard.elapsed() < SILENCE_LIMIT => {
                            return Err(Failure::Incomplete(format!(
                                "the server did not confirm the end within {} s",
                                STOP_LIMIT.as_secs()
                            )));
                        }
                        Phase::Opening => {
                            return Err(Trouble::passing("the server accepts connections, but does not answer").into());
                        }
                        Phase::Stopping | Phase::Sending => {
                            return Err(Trouble::lost(&Error::ConnectionClosed, link.fault.as_ref(), link.retry_after).into());
                        }
                    }
                }
            }
        }
        // A courtesy; the captions are here whether or not it arrives.
        drop(tokio::time::timeout(Duration::from_secs(1), sink.close()).await);
        Ok(())
    }

    fn init(&self) -> Message {
        let (sample_rate, channels) = match self.source.kind {
            Kind::Raw { measure, channels, .. } => (Some(measure.rate_hz), Some(channels)),
            Kind::Wav { .. } | Kind::Packed { .. } => (None, None),
        };
        let init = ToServer::Init {
            encoding: self.source.kind.encoding(),
            sample_rate,
            channels,
            language: self.language.as_deref(),
            partials: true,
            // Of a stream without sound nobody knows.
            resume: self
                .current
                .as_deref()
                .filter(|_| self.uplink.sent_bytes() > 0)
                .map(|stream| Resume { stream, acked: self.uplink.acknowledged().0 }),
        };
        Message::text(init.to_json())
    }

    /// Decides what goes out next, when nothing else does.
    fn prepare(&mut self, link: &mut Link) {
        if link.phase != Phase::Sending || !link.is_idle() {
            return;
        }
        if link.header_due {
            link.header_due = false;
            if !self.source.header.is_empty() {
                link.outgoing = Some(Message::binary(self.header()));
                return;
            }
        }
        if self.uplink.has_unsent() {
            let now = Instant::now();
            self.sound_began.get_or_insert(now);
            if self.uplink.has_room() && now >= self.piece_due(link) {
                let piece = self.uplink.next(piece_bytes(self.source.kind.measure(), self.realtime));
                link.outgoing = piece.map(Message::binary);
                link.piece_due = now + PIECE_GAP;
            }
            self.show_progress();
        } else if self.source_ended {
            link.outgoing = Some(Message::text(ToServer::Stop.to_json()));
            link.enter(Phase::Stopping);
        }
    }

    /// The header for the stream that begins now. One that begins in the middle is shorter than its header says, so
    /// that one says what writers to a pipe say: unknown.
    fn header(&self) -> Bytes {
        let mut header = BytesMut::from(self.source.header.as_ref());
        let length_at = header.len().saturating_sub(4);
        if self.uplink.sent_bytes() > 0
            && let Some(length) = header.get_mut(length_at..)
        {
            length.fill(0xFF);
        }
        header.freeze()
    }

    /// When the next piece may go. At real time that is when its last sample has been spoken, counted from the first
    /// piece of all: after an interruption the sound catches up.
    fn piece_due(&self, link: &Link) -> Instant {
        let Some(measure) = self.source.kind.measure().filter(|_| self.realtime) else {
            return link.piece_due;
        };
        let spoken = self.uplink.sent() + measure.samples(piece_bytes(Some(measure), true) as u64);
        let began = self.sound_began.unwrap_or(link.phase_began);
        link.piece_due.max(began + spoken.duration())
    }

    fn show_progress(&self) {
        let waiting = if self.uplink.has_room() { "" } else { ", waiting for the server" };
        let of = |total: String| if total.is_empty() { total } else { format!(" / {total}") };
        match self.source.kind.measure() {
            Some(measure) => {
                let total = self.source.length_bytes.map(|bytes| clock(measure.samples(bytes).seconds()));
                let sent = self.uplink.sent();
                let message = format!("{}{}{waiting}", clock(sent.seconds()), of(total.unwrap_or_default()));
                self.screen.progress(sent.0, message);
            }
            None => {
                let kilobytes = |bytes: u64| format!("{} kB", bytes / 1000);
                let total = self.source.length_bytes.map(kilobytes).unwrap_or_default();
                let sent = self.uplink.sent_bytes();
                self.screen.progress(sent, format!("{}{}", kilobytes(sent), of(total)));
            }
        }
    }

    /// No more sound; the captions of what was sent are still wanted.
    fn interrupt(&mut self, link: &mut Link) {
        self.interrupted = true;
        self.source_ended = true;
        self.uplink.give_up_unsent();
        link.phase_began = Instant::now();
        self.screen.remark("stopping; waiting for the last captions (Ctrl-C again to leave at once)");
    }

    /// Until when something must happen.
    fn limit(&self, link: &Link) -> Instant {
        let silence = link.heard + SILENCE_LIMIT;
        let limit = match link.phase {
            Phase::Opening => link.phase_began + INITIALIZED_LIMIT,
            Phase::Sending => silence,
            Phase::Stopping => silence.min(link.phase_began.max(self.progressed) + STOP_LIMIT),
            Phase::Lingering => {
                let linger = if self.screen.has_open() { LINGER_OPEN } else { LINGER };
                link.phase_began.max(self.progressed) + linger
            }
        };
        let limit = if self.interrupted { limit.min(link.phase_began + INTERRUPT_LIMIT) } else { limit };
        match link.write_error {
            Some(_) => limit.min(link.heard + Duration::from_secs(2)),
            None => limit,
        }
    }

    fn message(&mut self, link: &mut Link, text: &str) -> Result<(), Failure> {
        // What cannot be read is of a newer server, or of none of our business.
        let Ok(message) = serde_json::from_str::<FromServer>(text) else { return Ok(()) };
        if let Some(remark) = message.remark() {
            self.screen.remark(&remark);
        }
        match message {
            FromServer::Initialized { stream, acked, received } if link.phase == Phase::Opening => {
                if self.is_current(&stream) {
                    self.uplink.acknowledge(Samples(acked));
                    // Samples are sent again from what is acknowledged, a container goes on where it broke off.
                    self.uplink.resume(Samples(match self.source.kind {
                        Kind::Raw { .. } => acked,
                        Kind::Wav { .. } | Kind::Packed { .. } => received.unwrap_or(acked),
                    }));
                    self.heard_end = self.uplink.began() + Samples(acked);
                } else {
                    self.uplink.restart();
                    self.streams.insert(stream.clone(), self.uplink.began().seconds());
                    self.current = Some(stream);
                    self.uplink.acknowledge(Samples(acked));
                    self.heard_end = Samples(0);
                }
                link.enter(Phase::Sending);
            }
            FromServer::Ack { stream, samples } if self.is_current(&stream) => {
                self.uplink.acknowledge(Samples(samples));
                self.heard_end = self.uplink.began() + Samples(samples);
                self.progressed = Instant::now();
            }
            FromServer::TranscriptPartial(caption) => self.caption(&caption, false, text)?,
            FromServer::TranscriptFinal(caption) => self.caption(&caption, true, text)?,
            FromServer::Transcript(caption) => self.caption(&caption, caption.is_final, text)?,
            FromServer::Stopped { stream, samples }
                if stream.as_deref().is_none_or(|it| self.is_current(it)) =>
            {
                self.uplink.acknowledge(Samples(samples));
                self.heard_end = self.uplink.began() + Samples(samples);
                if link.phase == Phase::Stopping {
                    link.enter(Phase::Lingering);
                }
            }
            FromServer::Error(fault) => link.fault = Some(fault),
            FromServer::Reconnect { retry_after_ms } => {
                link.retry_after = retry_after_ms.map(Duration::from_millis).or(link.retry_after);
            }
            FromServer::Connected { .. }
            | FromServer::Initialized { .. }
            | FromServer::Warning { .. }
            | FromServer::SttStatus { .. }
            | FromServer::TranscriptionError { .. }
            | FromServer::Ack { .. }
            | FromServer::Stopped { .. }
            | FromServer::Translation(_)
            | FromServer::Chat(_)
            | FromServer::Other => {}
        }
        Ok(())
    }

    fn is_current(&self, stream: &str) -> bool {
        self.current.as_deref() == Some(stream)
    }
}

impl Link {
    fn new(first: Message) -> Self {
        let now = Instant::now();
        Self {
            phase: Phase::Opening,
            phase_began: now,
            heard: now,
            outgoing: Some(first),
            flushed: true,
            write_error: None,
            header_due: true,
            piece_due: now,
            fault: None,
            retry_after: None,
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.phase_began = Instant::now();
    }

    fn is_idle(&self) -> bool {
        self.outgoing.is_none() && self.flushed && self.write_error.is_none()
    }

    fn writes(&self) -> bool {
        !self.is_idle() && self.write_error.is_none()
    }
}

/// Waits until the socket takes a message, or, when there is none, until the last one has left. May be abandoned.
async fn drive(sink: &mut SplitSink<Socket, Message>, has_message: bool) -> Result<(), Error> {
    if has_message { poll_fn(|context| sink.poll_ready_unpin(context)).await } else { sink.flush().await }
}

/// Bytes of the next piece, whole samples.
fn piece_bytes(measure: Option<Measure>, realtime: bool) -> usize {
    let Some(measure) = measure else { return CHUNK_BYTES_MAX };
    let sample_bytes = measure.sample_bytes.max(1) as usize;
    let whole = (CHUNK_BYTES_MAX / sample_bytes).max(1) * sample_bytes;
    if realtime { measure.bytes_of(PIECE).min(whole) } else { whole }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_whole_samples_and_fit_into_a_message() {
        for (rate_hz, sample_bytes, realtime, bytes) in [
            (16_000, 2, true, 3200),
            (44_100, 4, true, 17_640),
            (8000, 1, true, 800),
            (192_000, 32, true, 32_000),
            (16_000, 2, false, 32_000),
            (44_100, 6, false, 31_998),
        ] {
            assert_eq!(piece_bytes(Some(Measure { rate_hz, sample_bytes }), realtime), bytes);
        }
        assert_eq!(piece_bytes(None, false), CHUNK_BYTES_MAX);
    }
}
