//! A connection's part as a speaker: `init`, audio, `finalize`, `stop`, and what its source reports.

use model::{FaultKind, Samples, Speaker, StreamId};
use rpc::WhenFull;
use uuid::Uuid;

use super::{Connection, Flow, GO_ON, LAST_WORD_LIMIT, Leaving, end_with};
use crate::{
    close::Close,
    metrics::Refused,
    protocol::{self, Init},
    source::{Command, Report, Source},
};

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
}

impl Voice {
    pub(super) fn source(&self) -> Option<&Source> {
        match self {
            Self::Speaking(source) | Self::Stopping(source) => Some(source),
            Self::Silent(_) | Self::Stopped(..) => None,
        }
    }

    pub(super) fn source_mut(&mut self) -> Option<&mut Source> {
        match self {
            Self::Speaking(source) | Self::Stopping(source) => Some(source),
            Self::Silent(_) | Self::Stopped(..) => None,
        }
    }
}

impl Connection {
    pub(super) async fn init(&mut self, init: Init) -> Flow {
        if !self.may_speak() {
            return self.refuse(FaultKind::Forbidden, "this token may only follow").await;
        }
        if self.voice.source().is_some() || self.last_word.is_some() {
            return self.refuse(FaultKind::Caller, "init must come before audio, or after stopped").await;
        }
        let stream = StreamId(Uuid::new_v4());
        if let Some(shape) = init.shape {
            self.peer.shape = shape;
        }
        self.peer.partials = init.partials;
        self.is_native = true;
        let mut answers = vec![protocol::initialized(stream, &init)];
        if !init.translate_to.is_empty() {
            let text = "translateTo: no translation is offered here; captions come untranslated";
            answers.push(protocol::warning("not_translated", text));
        }
        self.voice = Voice::Silent(Some(Box::new((stream, init))));
        self.bad = 0;
        self.send_all(answers).await
    }

    pub(super) async fn hear_audio(&mut self, bytes: bytes::Bytes) -> Flow {
        if !self.may_speak() {
            return self.refuse(FaultKind::Forbidden, "this token may only follow, not send audio").await;
        }
        if self.leaving != Leaving::No {
            // A draining edge takes no more; the client is told in a moment where its audio ended.
            return GO_ON;
        }
        match &mut self.voice {
            Voice::Silent(init) => {
                let init = init.take();
                self.edge.tally.audio(bytes.len());
                self.speak(init);
                self.command(Command::Audio(bytes));
                self.bad = 0;
                GO_ON
            }
            Voice::Speaking(_) => {
                self.edge.tally.audio(bytes.len());
                self.command(Command::Audio(bytes));
                self.bad = 0;
                GO_ON
            }
            Voice::Stopping(_) | Voice::Stopped(..) => {
                self.edge.tally.refused(Refused::Invalid);
                // What was on its way when the client stopped may be many messages: one answer for all.
                if self.may_warn() {
                    let text = "audio after stop is not used; send init to speak again";
                    return self.send(protocol::error(FaultKind::Caller, text, None)).await;
                }
                GO_ON
            }
        }
    }

    /// Opens the stream that the first audio needs.
    fn speak(&mut self, init: Option<Box<(StreamId, Init)>>) {
        let principal = &self.peer.principal;
        let speaker =
            Speaker { identity: principal.identity().clone(), name: principal.name().map(str::to_owned) };
        let (stream, init) = match init.map(|init| *init) {
            Some((stream, init)) => (stream, Some(init)),
            None => (StreamId(Uuid::new_v4()), None),
        };
        // A client that knows `init` knows that a full window makes it wait. Others send at the pace of a
        // microphone and cannot wait.
        let when_full = if init.is_some() { WhenFull::Wait } else { WhenFull::DropOldest };
        let mut format = audio::DEFAULT_FORMAT;
        format.encoding = audio::Encoding::Auto;
        let format = init.as_ref().map_or(format, |init| init.format);
        let source = rpc::Source {
            stream,
            session: principal.session().clone(),
            speaker,
            endpointing_ms: init.as_ref().and_then(|init| init.endpointing_ms),
            // Other followers of the session read partials even if this connection does not.
            partials: true,
            language: init.and_then(|init| init.language),
            started_at: self.edge.clock.now(),
        };
        self.voice = Voice::Speaking(Box::new(Source::open(&self.edge, source, format, when_full)));
    }

    /// Hands a command to the source, or keeps it until there is room.
    pub(super) fn command(&mut self, command: Command) {
        if let Some(source) = self.voice.source() {
            self.blocked = source.command(command).err();
        }
    }

    pub(super) async fn hear_stop(&mut self) -> Flow {
        self.bad = 0;
        match &self.voice {
            Voice::Speaking(_) => self.stop(),
            // Its answer is on the way.
            Voice::Stopping(_) => {}
            Voice::Stopped(..) if self.last_word.is_some() => {}
            Voice::Silent(_) => {
                self.voice = Voice::Stopped(None, Samples(0));
                return self.send(protocol::stopped(None, Samples(0))).await;
            }
            Voice::Stopped(stream, samples) => return self.send(protocol::stopped(*stream, *samples)).await,
        }
        GO_ON
    }

    /// Lets the source finish.
    pub(super) fn stop(&mut self) {
        let voice = std::mem::replace(&mut self.voice, Voice::Silent(None));
        self.voice = match voice {
            Voice::Speaking(source) => Voice::Stopping(source),
            other => other,
        };
        if matches!(self.voice, Voice::Stopping(_)) && self.blocked.is_none() {
            self.command(Command::Stop);
        }
    }

    pub(super) async fn report(&mut self, report: Option<Report>) -> Flow {
        let Some(stream) = self.voice.source().map(|source| source.stream) else { return GO_ON };
        match report {
            Some(Report::Acknowledged(samples)) if self.is_native => {
                self.send(protocol::ack(stream, samples)).await
            }
            Some(Report::Acknowledged(_)) => GO_ON,
            Some(Report::Gap { lost, start, end }) => {
                let text = format!(
                    "{lost} of audio between {start} and {end} was lost: transcription is overloaded or away"
                );
                self.send(protocol::warning("gap", &text)).await
            }
            Some(Report::Undecodable(error)) => end_with(
                Close::after(error.fault()),
                protocol::error(error.fault(), &error.to_string(), None),
            ),
            Some(Report::Failed { fault, message, retry_after }) => {
                end_with(Close::after(fault), protocol::error(fault, &message, retry_after))
            }
            Some(Report::Ended(samples)) => {
                self.blocked = None;
                self.voice = Voice::Stopped(Some(stream), samples);
                // Stored is not yet told: the last finals are on their way, and a client may leave once it is told
                // that all is done.
                let caught_up = tokio::time::timeout(LAST_WORD_LIMIT, self.following.caught_up());
                let caught_up = Box::pin(async move { drop(caught_up.await) });
                self.last_word = Some((caught_up, protocol::stopped(Some(stream), samples)));
                GO_ON
            }
            None => {
                let text = "the audio could not be carried to a transcription worker";
                end_with(Close::Fault, protocol::error(FaultKind::Defect, text, None))
            }
        }
    }
}
