//! A connection's part as a speaker: `init`, audio, `finalize`, `stop`, and what its source reports.

use std::time::Duration;

use auth::Principal;
use model::{FaultKind, Samples, Speaker, StreamId};
use rpc::WhenFull;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::{
    Connection, LAST_WORD_LIMIT, RESUME_LIMIT,
    resume::{Resumed, resume},
};
use crate::{
    Edge,
    close::Close,
    ending::{Flow, end_with, go_on},
    metrics::{self, Refused},
    protocol::{self, Init},
    pulse::Leaving,
    source::{At, Command, Report, Source},
};

/// After a user or session had too many streams, another is tried at the earliest after this.
const REFUSED_FOR: Duration = Duration::from_secs(10);

/// How a participant's stream introduces itself to a worker.
pub(super) fn introduction(
    edge: &Edge,
    principal: &Principal,
    stream: StreamId,
    init: Option<&Init>,
) -> rpc::Source {
    rpc::Source {
        stream,
        session: principal.session().clone(),
        speaker: Speaker {
            identity: principal.identity().clone(),
            name: principal.name().map(str::to_owned),
        },
        language: init.and_then(|init| init.language.clone()),
        endpointing_ms: init.and_then(|init| init.endpointing_ms),
        // Other followers of the session read partials even if this connection does not.
        partials: true,
        // Counts only if no worker has opened the stream yet.
        started_at: edge.clock.now(),
        user: Some(principal.user().clone()),
        is_room: false,
        translate_to: init.map(|init| init.translate_to.clone()).unwrap_or_default(),
    }
}

/// A connection's part as a speaker.
pub(super) enum Voice {
    /// No audio yet; perhaps an `init`, with the stream that it was promised.
    Silent(Option<Box<(StreamId, Init)>>),
    /// Audio flows.
    Speaking(Box<Source>),
    /// `stop` was said, or the edge drains; what was sent is being finished.
    Stopping(Box<Source>),
    /// Finished. Audio is refused until the next `init`.
    Stopped(Option<StreamId>, Samples),
    /// There is no room, or the user or session has as many streams as it may. Audio is not used until then, when it is
    /// tried again.
    Refused(Instant),
}

impl Voice {
    pub(super) fn source(&self) -> Option<&Source> {
        match self {
            Self::Speaking(source) | Self::Stopping(source) => Some(source),
            Self::Silent(_) | Self::Stopped(..) | Self::Refused(_) => None,
        }
    }

    pub(super) fn source_mut(&mut self) -> Option<&mut Source> {
        match self {
            Self::Speaking(source) | Self::Stopping(source) => Some(source),
            Self::Silent(_) | Self::Stopped(..) | Self::Refused(_) => None,
        }
    }
}

/// What clients send who do not say.
fn sniffed() -> audio::Format {
    let mut format = audio::DEFAULT_FORMAT;
    format.encoding = audio::Encoding::Auto;
    format
}

impl Connection {
    pub(super) async fn init(&mut self, init: Init) -> Flow {
        if !self.may_speak() {
            return self.refuse(FaultKind::Forbidden, "this token may only follow").await;
        }
        if self.voice.source().is_some() || self.last_word.is_some() {
            return self.refuse(FaultKind::Caller, "init must come before audio, or after stopped").await;
        }
        let mut answers = Vec::new();
        let resumed = match init.resume {
            Some(wish) if self.pulse.leaving == Leaving::No => {
                let resuming = resume(&self.edge, &self.peer.principal, wish, &init);
                let stopping = self.edge.life.stopping();
                tokio::select! {
                    resumed = resuming => Some(resumed),
                    () = stopping.cancelled() => return self.leave(),
                }
            }
            // A draining edge takes no more audio; the client is sent to another in a moment.
            Some(_) => return self.refuse(FaultKind::Overloaded, "this server is restarting").await,
            None => None,
        };
        self.voice = match resumed {
            Some(Resumed::On { source, acked, received }) => {
                answers.insert(0, protocol::initialized(source.stream, acked, received, &init));
                Voice::Speaking(source)
            }
            Some(Resumed::NotYours) => {
                return self.refuse(FaultKind::Forbidden, "resume.stream is another participant's").await;
            }
            Some(Resumed::Failed(report)) => return self.failed(report),
            Some(Resumed::Unknown) | None => {
                let stream = StreamId(Uuid::new_v4());
                if resumed.is_some() {
                    let text = "resume.stream is not known any more; a new stream begins";
                    answers.push(protocol::warning("not_resumed", text));
                }
                answers.insert(0, protocol::initialized(stream, Samples(0), Samples(0), &init));
                Voice::Silent(Some(Box::new((stream, init.clone()))))
            }
        };
        if let Some(shape) = init.shape {
            self.peer.shape = shape;
        }
        self.peer.partials = init.partials;
        self.is_native = true;
        self.stop_said = false;
        self.bad = 0;
        self.send_all(answers).await
    }

    /// How a connection ends whose source did.
    fn failed(&self, report: Report) -> Flow {
        match report {
            Report::Failed { fault, message, retry_after } => {
                end_with(Close::after(fault), protocol::error(fault, &message, retry_after))
            }
            Report::Elsewhere => {
                let text = "the stream was continued elsewhere";
                end_with(Close::Elsewhere, protocol::error(FaultKind::Caller, text, None))
            }
            Report::Undecodable(error) => end_with(
                Close::after(error.fault()),
                protocol::error(error.fault(), &error.to_string(), None),
            ),
            Report::Acknowledged(_) | Report::Gap { .. } | Report::Unserved(_) | Report::Ended(_) => go_on(),
        }
    }

    pub(super) async fn hear_audio(&mut self, bytes: bytes::Bytes) -> Flow {
        if !self.may_speak() {
            return self.refuse(FaultKind::Forbidden, "this token may only follow, not send audio").await;
        }
        if self.pulse.leaving != Leaving::No {
            // A draining edge takes no more; the client is told in a moment where its audio ended.
            return go_on();
        }
        if matches!(self.voice, Voice::Refused(until) if until <= Instant::now()) {
            self.voice = Voice::Silent(None);
        }
        match &mut self.voice {
            Voice::Refused(_) => go_on(),
            Voice::Silent(init) => {
                let init = init.take();
                self.edge.tally.audio(bytes.len());
                if init.is_some() || !Box::pin(self.rejoin()).await {
                    self.speak(init);
                }
                self.command(Command::Audio(bytes));
                self.bad = 0;
                go_on()
            }
            Voice::Speaking(_) => {
                self.edge.tally.audio(bytes.len());
                self.command(Command::Audio(bytes));
                self.bad = 0;
                go_on()
            }
            Voice::Stopping(_) | Voice::Stopped(..) => {
                self.edge.tally.refused(Refused::Invalid);
                // What was on its way when the client stopped may be many messages: one answer for all.
                if self.may_warn() {
                    let text = "audio after stop is not used; send init to speak again";
                    return self.send(protocol::error(FaultKind::Caller, text, None)).await;
                }
                go_on()
            }
        }
    }

    /// Goes on with the stream that a participant who knows no `resume` has just lost. The time away is silence.
    async fn rejoin(&mut self) -> bool {
        let principal = &self.peer.principal;
        let Some((seat, away)) = self.edge.desks.rejoin(principal.session(), principal.identity()) else {
            return false;
        };
        let source = Source::at(&self.edge, seat);
        let away = Samples::from_millis(u64::try_from(away.as_millis()).unwrap_or(u64::MAX));
        let begun = timeout(RESUME_LIMIT, source.begin(sniffed(), At::After(away))).await;
        let rejoined = matches!(begun, Ok(Some(_)));
        if rejoined {
            metrics::Resume::Rejoined.count();
            self.voice = Voice::Speaking(Box::new(source));
        }
        rejoined
    }

    /// Opens the stream that the first audio needs.
    fn speak(&mut self, init: Option<Box<(StreamId, Init)>>) {
        let (stream, init) = match init.map(|init| *init) {
            Some((stream, init)) => (stream, Some(init)),
            None => (StreamId(Uuid::new_v4()), None),
        };
        // A client that knows `init` knows that a full window makes it wait. Others send at the pace of a
        // microphone and cannot wait.
        let when_full = if init.is_some() { WhenFull::Wait } else { WhenFull::DropOldest };
        let format = init.as_ref().map_or(sniffed(), |init| init.format);
        let source = introduction(&self.edge, &self.peer.principal, stream, init.as_ref());
        self.voice =
            Voice::Speaking(Box::new(Source::open(&self.edge, source, format, when_full, Samples(0))));
    }

    /// Hands a command to the source, or keeps it until there is room.
    pub(super) fn command(&mut self, command: Command) {
        if let Some(source) = self.voice.source() {
            self.blocked = source.command(command).err();
        }
    }

    pub(super) async fn hear_stop(&mut self) -> Flow {
        self.bad = 0;
        self.stop_said = true;
        match &self.voice {
            Voice::Speaking(_) => self.stop(),
            // Its answer is on the way.
            Voice::Stopping(_) => {}
            Voice::Stopped(..) if self.last_word.is_some() => {}
            Voice::Silent(_) | Voice::Refused(_) => {
                self.voice = Voice::Stopped(None, Samples(0));
                return self.send(protocol::stopped(None, Samples(0))).await;
            }
            Voice::Stopped(stream, samples) => return self.send(protocol::stopped(*stream, *samples)).await,
        }
        go_on()
    }

    /// Lets the source finish.
    pub(super) fn stop(&mut self) {
        let voice = std::mem::replace(&mut self.voice, Voice::Silent(None));
        self.voice = match voice {
            Voice::Speaking(source) => {
                source.stops();
                Voice::Stopping(source)
            }
            other => other,
        };
        if matches!(self.voice, Voice::Stopping(_)) && self.blocked.is_none() {
            self.command(Command::Stop);
        }
    }

    pub(super) async fn report(&mut self, report: Option<Report>) -> Flow {
        let Some(stream) = self.voice.source().map(|source| source.stream) else { return go_on() };
        match report {
            Some(Report::Acknowledged(samples)) if self.is_native => {
                self.send(protocol::ack(stream, samples)).await
            }
            Some(Report::Acknowledged(_)) => go_on(),
            Some(Report::Unserved(message)) => self.send(protocol::warning("unserved", &message)).await,
            Some(Report::Gap { lost, start, end }) => {
                let text = format!(
                    "{lost} of audio between {start} and {end} was lost: transcription is overloaded or away"
                );
                self.send(protocol::warning("gap", &text)).await
            }
            // A client that knows `init` is told and sent away. Those of system A give up after a few attempts to connect,
            // and then would not even follow.
            Some(Report::Failed {
                fault: fault @ (FaultKind::LimitReached | FaultKind::Overloaded),
                message,
                retry_after,
            }) if !self.is_native => {
                let pause = retry_after.unwrap_or(REFUSED_FOR);
                self.blocked = None;
                self.voice = Voice::Refused(Instant::now() + pause);
                self.send(protocol::error(fault, &message, Some(pause))).await
            }
            Some(report @ (Report::Undecodable(_) | Report::Failed { .. } | Report::Elsewhere)) => {
                self.failed(report)
            }
            Some(Report::Ended(samples)) => {
                self.blocked = None;
                self.voice = Voice::Stopped(Some(stream), samples);
                // Stored is not yet told: the last finals are on their way, and a client may leave once it is told
                // that all is done.
                let caught_up = timeout(LAST_WORD_LIMIT, self.feed.caught_up());
                let caught_up = Box::pin(async move { drop(caught_up.await) });
                // A stream that the drain has finished goes on elsewhere, if the client wants it to.
                let word = if self.is_native && !self.stop_said {
                    protocol::ack(stream, samples)
                } else {
                    protocol::stopped(Some(stream), samples)
                };
                self.last_word = Some((caught_up, word));
                go_on()
            }
            None => {
                let text = "the audio could not be carried to a transcription worker";
                end_with(Close::Fault, protocol::error(FaultKind::Defect, text, None))
            }
        }
    }
}
