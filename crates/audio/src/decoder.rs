use crate::{
    AudioError, DEFAULT_FORMAT, Encoding, Format, flac, mpeg, ogg, opus,
    pcm::{Pcm, raw_sample},
    sink::Sink,
    sniff::{Guess, begins_container, sniff},
    wav, webm,
};

/// Largest message, in bytes: 1 MiB of sound and room for an envelope. A second of stereo 192 kHz floats is larger
/// and must come in two.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024 + 64 * 1024;

/// Readers are fed at most this many bytes at a time, so that their windows stay small.
const PIECE_BYTES: usize = 16 * 1024;

/// One encoding: takes its bytes in any pieces, delivers sound to the sink.
pub(crate) trait Reader: Send {
    /// Takes the bytes that came next.
    fn push(&mut self, bytes: &[u8], sink: &mut Sink) -> Result<(), AudioError>;
    /// Nothing follows: delivers what waits for a successor.
    fn finish(&mut self, sink: &mut Sink) -> Result<(), AudioError>;
    /// What the source is, once its header is read.
    fn format(&self) -> Option<Format>;
}

enum State {
    /// The first bytes, too few yet to tell.
    Sniffing(Vec<u8>),
    Reading(Encoding, Box<dyn Reader>),
    /// A container that broke; what follows cannot be understood either.
    Failed(AudioError),
}

/// Turns one stream of messages into 16 kHz mono samples.
///
/// An error ends it: later pushes repeat the error. Only raw Opus goes on, since each message stands alone, and a
/// message above the limit is refused without harm. Samples before an error are delivered. It takes no memory worth
/// mentioning before the first message.
pub struct Decoder {
    declared: Format,
    state: State,
    sink: Sink,
}

impl Decoder {
    /// A decoder at the start of a stream.
    pub fn new(format: Format) -> Self {
        Self { declared: format, state: begin(format), sink: Sink::new() }
    }

    /// Takes one message of the client, cut anywhere (raw Opus: one packet), and appends the samples it completes
    /// to `out`; an empty message is nothing. Costs CPU in proportion to the sound: call it off the async threads.
    ///
    /// # Errors
    /// See [`AudioError`]; [`AudioError::fault`] says who must act.
    pub fn push(&mut self, message: &[u8], out: &mut Vec<i16>) -> Result<(), AudioError> {
        if message.len() > MESSAGE_BYTES_MAX {
            return Err(AudioError::MessageTooLarge(message.len()));
        }
        let Self { declared, state, sink } = self;
        let result = sink.during(out, |sink| push(*declared, state, message, sink));
        self.remember(result)
    }

    /// The stream has ended: appends what container, codec and resampler held back. A later push begins a new stream.
    ///
    /// # Errors
    /// As [`Decoder::push`]. A container that ends in mid-element is no error.
    pub fn finish(&mut self, out: &mut Vec<i16>) -> Result<(), AudioError> {
        let Self { declared, state, sink } = self;
        let result = sink.during(out, |sink| {
            if let State::Sniffing(first) = state {
                // Too short for any container: samples.
                let first = std::mem::take(first);
                *state = open(Encoding::PcmS16le, *declared);
                feed(state, &first, sink)?;
            }
            if let State::Failed(error) = state {
                return Err(*error);
            }
            let ended = std::mem::replace(state, begin(*declared));
            end(ended, sink)
        });
        self.remember(result)
    }

    /// What the source is: the encoding with the rate and channels that its header gives. None until that is known.
    pub fn detected(&self) -> Option<Format> {
        match &self.state {
            State::Reading(_, reader) => reader.format(),
            State::Sniffing(_) | State::Failed(_) => None,
        }
    }

    fn remember(&mut self, result: Result<(), AudioError>) -> Result<(), AudioError> {
        // Packets of raw Opus stand for themselves, and a message that was not looked at spoils nothing.
        let spoils = |error| !matches!(error, AudioError::MessageTooLarge(_)) && !self.reads_packets();
        if let Err(error) = result
            && spoils(error)
        {
            self.state = State::Failed(error);
        }
        result
    }

    fn reads_packets(&self) -> bool {
        matches!(self.state, State::Reading(Encoding::Opus, _))
    }
}

/// Says nothing of what was heard.
impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Decoder({})", self.declared.encoding)
    }
}

fn begin(format: Format) -> State {
    match format.encoding {
        Encoding::Auto => State::Sniffing(Vec::new()),
        Encoding::Aac => State::Failed(AudioError::Unsupported("AAC without its configuration")),
        encoding => open(encoding, format),
    }
}

fn open(encoding: Encoding, declared: Format) -> State {
    let reader: Box<dyn Reader> = match encoding {
        Encoding::Opus => Box::new(opus::Packets::new(declared.channels)),
        Encoding::Webm => Box::new(webm::Webm::default()),
        Encoding::Ogg => Box::new(ogg::Ogg::default()),
        Encoding::Wav => Box::new(wav::Wav::default()),
        Encoding::Flac => Box::new(flac::Flac::default()),
        Encoding::Mp3 => Box::new(mpeg::Mp3::default()),
        raw => {
            let (encoding, sample) = match raw_sample(raw) {
                Some(sample) => (raw, sample),
                None => (DEFAULT_FORMAT.encoding, crate::pcm::Sample::S16),
            };
            Box::new(Pcm::new(Format { encoding, ..declared }, sample))
        }
    };
    State::Reading(encoding, reader)
}

fn push(declared: Format, state: &mut State, message: &[u8], sink: &mut Sink) -> Result<(), AudioError> {
    if let State::Reading(encoding, _) = state
        && restarts(*encoding, declared.encoding, message)
    {
        // A recorder that was stopped and started, perhaps in the middle of an element.
        let ended = std::mem::replace(state, begin(declared));
        end(ended, sink)?;
    }
    match state {
        State::Failed(error) => Err(*error),
        State::Reading(..) => feed(state, message, sink),
        State::Sniffing(first) => {
            first.extend_from_slice(message);
            match sniff(first) {
                Guess::Unclear => Ok(()),
                Guess::Unsupported(what) => Err(AudioError::Unsupported(what)),
                Guess::Is(encoding) => {
                    let first = std::mem::take(first);
                    *state = open(encoding, declared);
                    feed(state, &first, sink)
                }
            }
        }
    }
}

fn feed(state: &mut State, bytes: &[u8], sink: &mut Sink) -> Result<(), AudioError> {
    match state {
        State::Reading(Encoding::Opus, reader) => reader.push(bytes, sink),
        State::Reading(_, reader) => bytes.chunks(PIECE_BYTES).try_for_each(|piece| reader.push(piece, sink)),
        State::Sniffing(_) | State::Failed(_) => Ok(()),
    }
}

fn end(ended: State, sink: &mut Sink) -> Result<(), AudioError> {
    if let State::Reading(_, mut reader) = ended {
        reader.finish(sink)?;
    }
    sink.flush()
}

/// Whether a message, at its first byte, begins a new recording. Ogg and FLAC find that themselves; every message of
/// theirs may begin with the mark of the container.
fn restarts(reading: Encoding, declared: Encoding, message: &[u8]) -> bool {
    match begins_container(message) {
        Some(found @ (Encoding::Wav | Encoding::Webm)) => found == reading || declared == Encoding::Auto,
        Some(found) => found != reading && declared == Encoding::Auto,
        None => false,
    }
}
