//! Chunks to messages and back (RTMP 1.0 section 5.3).

mod header;
mod writer;

use bytes::Bytes;

use header::{Fields, HEADER_BYTES_MAX, Header};

pub use writer::ChunkWriter;

/// Chunk size, in bytes of payload, until one side sets its own (RTMP 1.0 section 5.4.1).
pub const CHUNK_BYTES_DEFAULT: u32 = 128;

/// Chunk streams one connection may open. Encoders use up to six.
pub const CHUNK_STREAMS_MAX: usize = 16;

/// Longest audio message: a second of 16-bit stereo PCM comes in several, and no encoded packet comes near.
pub const AUDIO_BYTES_MAX: u32 = 64 * 1024;

/// Longest command or data message. Tokens and metadata take a few KiB.
pub const COMMAND_BYTES_MAX: u32 = 256 * 1024;

/// Longest aggregate message.
pub const AGGREGATE_BYTES_MAX: u32 = 256 * 1024;

/// Longest protocol control message: the specification's own take 4 to 10 bytes.
pub const CONTROL_BYTES_MAX: u32 = 64;

/// Longest video message when video is kept: a key frame of an 80 Mbit/s stream.
pub const VIDEO_BYTES_MAX: u32 = 4 * 1024 * 1024;

/// Bytes of unfinished messages that one connection may hold on all its chunk streams, without video.
pub const PENDING_BYTES_MAX: usize = 512 * 1024;

/// Longest message there can be: lengths have 24 bits.
const MESSAGE_BYTES_MAX: u32 = 0xFF_FFFF;

/// Message types (RTMP 1.0 sections 5.4, 6.2 and 7.1).
pub mod kind {
    /// Set Chunk Size.
    pub const SET_CHUNK_SIZE: u8 = 1;
    /// Abort Message.
    pub const ABORT: u8 = 2;
    /// Acknowledgement.
    pub const ACKNOWLEDGEMENT: u8 = 3;
    /// User Control.
    pub const USER_CONTROL: u8 = 4;
    /// Window Acknowledgement Size.
    pub const WINDOW_ACK_SIZE: u8 = 5;
    /// Set Peer Bandwidth.
    pub const SET_PEER_BANDWIDTH: u8 = 6;
    /// Audio.
    pub const AUDIO: u8 = 8;
    /// Video.
    pub const VIDEO: u8 = 9;
    /// Data, AMF3.
    pub const DATA_AMF3: u8 = 15;
    /// Command, AMF3.
    pub const COMMAND_AMF3: u8 = 17;
    /// Data, AMF0.
    pub const DATA: u8 = 18;
    /// Command, AMF0.
    pub const COMMAND: u8 = 20;
    /// Aggregate.
    pub const AGGREGATE: u8 = 22;
}

/// Why bytes are no chunks, or more than we take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// A chunk that leans on an earlier header of its chunk stream, and there is none.
    #[error("a chunk refers to a header that was never sent")]
    HeaderMissing,
    /// A new message header while the message before on the same chunk stream is unfinished.
    #[error("a message begins inside another on the same chunk stream")]
    HeaderInsideMessage,
    /// More than [`CHUNK_STREAMS_MAX`].
    #[error("more than {CHUNK_STREAMS_MAX} chunk streams")]
    TooManyStreams,
    /// A chunk size of 0 or with the highest bit set, or a control message without its four bytes.
    #[error("an illegal chunk size or a control message cut short")]
    Control,
    /// A message longer than the limit of its type.
    #[error("a message of {bytes} bytes: type {kind} may have {bytes_max}")]
    MessageTooLarge {
        /// Message type.
        kind: u8,
        /// Length that its header claims.
        bytes: u32,
        /// Limit of the type.
        bytes_max: u32,
    },
    /// Unfinished messages hold more than [`PENDING_BYTES_MAX`] together (and [`VIDEO_BYTES_MAX`] when video is kept).
    #[error("too many bytes in unfinished messages")]
    PendingTooLarge,
}

impl ChunkError {
    /// Metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::HeaderMissing => "chunk_header_missing",
            Self::HeaderInsideMessage => "chunk_header_inside_message",
            Self::TooManyStreams => "chunk_streams",
            Self::Control => "chunk_control",
            Self::MessageTooLarge { .. } => "message_too_large",
            Self::PendingTooLarge => "pending_too_large",
        }
    }
}

/// A whole message, not yet looked into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkMessage {
    /// Milliseconds, modulo 2^32.
    pub timestamp: u32,
    /// Message type, see [`kind`].
    pub kind: u8,
    /// Message stream; 0 is the connection.
    pub stream_id: u32,
    /// What the message holds; nothing of video that is not kept.
    pub payload: Bytes,
}

/// Reads chunks of any legal size and interleaving. Set Chunk Size and Abort take effect here and are not handed out.
///
/// Extended timestamps are read in both dialects of type 3 chunks: with the four bytes repeated, as the specification
/// has it, and without, as old Flash encoders do. The bytes themselves tell: they are the repetition when they equal the
/// field of the header before. A type 3 chunk that begins a message adds the last delta, which after a type 0 header is its
/// timestamp (section 5.3.1.2.4). A type 1 header may open a chunk stream, as librtmp does on chunk stream 2.
#[derive(Debug)]
pub struct ChunkReader {
    keep_video: bool,
    chunk_bytes: u32,
    streams: Vec<ChunkStream>,
    state: State,
    /// Bytes that looked like a repeated timestamp and were none; they are read again before what follows them.
    held: Vec<u8>,
    pending_bytes: usize,
    skipped_video_bytes: u64,
}

#[derive(Debug)]
enum State {
    Header {
        bytes: [u8; HEADER_BYTES_MAX],
        length: usize,
    },
    /// Behind the header of a type 3 chunk whose stream has an extended timestamp; so many of its bytes were seen.
    Repetition {
        stream: usize,
        seen: usize,
    },
    Payload {
        stream: usize,
        left: u32,
    },
}

impl State {
    const START: Self = Self::Header { bytes: [0; HEADER_BYTES_MAX], length: 0 };
}

#[derive(Debug)]
struct ChunkStream {
    id: u32,
    timestamp: u32,
    delta: u32,
    length: u32,
    kind: u8,
    stream_id: u32,
    /// The extended field of the last header with a timestamp.
    extended: Option<[u8; 4]>,
    /// The message in work.
    message: Option<Partial>,
}

#[derive(Debug)]
struct Partial {
    /// Bytes that are still to come.
    left: u32,
    /// None for messages that are only counted.
    payload: Option<Vec<u8>>,
}

impl ChunkReader {
    /// With `keep_video` video messages are handed out up to [`VIDEO_BYTES_MAX`]; otherwise they are counted, never
    /// buffered, whatever their length, and handed out without their payload.
    pub const fn new(keep_video: bool) -> Self {
        Self {
            keep_video,
            chunk_bytes: CHUNK_BYTES_DEFAULT,
            streams: Vec::new(),
            state: State::START,
            held: Vec::new(),
            pending_bytes: 0,
            skipped_video_bytes: 0,
        }
    }

    /// Bytes of video that were counted and not kept.
    pub const fn skipped_video_bytes(&self) -> u64 {
        self.skipped_video_bytes
    }

    /// Takes bytes from `input` until a message is whole; None when all are taken.
    pub fn read(&mut self, input: &mut &[u8]) -> Result<Option<ChunkMessage>, ChunkError> {
        loop {
            let message = if self.held.is_empty() {
                if input.is_empty() {
                    return Ok(None);
                }
                self.step(input)?
            } else {
                let held = std::mem::take(&mut self.held);
                let mut rest = held.as_slice();
                let message = self.step(&mut rest)?;
                self.held.extend_from_slice(rest);
                message
            };
            if message.is_some() {
                return Ok(message);
            }
        }
    }

    /// Takes at least one byte.
    fn step(&mut self, input: &mut &[u8]) -> Result<Option<ChunkMessage>, ChunkError> {
        match &mut self.state {
            State::Header { bytes, length } => {
                let Some((first, rest)) = input.split_first() else { return Ok(None) };
                *input = rest;
                if let Some(place) = bytes.get_mut(*length) {
                    *place = *first;
                }
                *length += 1;
                let Some(header) = bytes.get(..*length).and_then(Header::read) else { return Ok(None) };
                self.header(header)
            }
            State::Repetition { stream, seen } => {
                let (stream, count) = (*stream, *seen);
                let expected =
                    self.streams.get(stream).and_then(|stream| stream.extended).unwrap_or_default();
                if input.first() == expected.get(count) {
                    *input = input.get(1..).unwrap_or_default();
                    *seen += 1;
                    return if *seen == expected.len() { self.payload(stream) } else { Ok(None) };
                }
                self.held.extend_from_slice(expected.get(..count).unwrap_or_default());
                self.payload(stream)
            }
            State::Payload { stream, left } => {
                let index = *stream;
                let taken = input.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                let (bytes, rest) = input.split_at(taken);
                *input = rest;
                let count = u32::try_from(taken).unwrap_or(*left);
                *left -= count;
                let chunk_ends = *left == 0;
                let Some(stream) = self.streams.get_mut(index) else { return Ok(None) };
                let Some(message) = &mut stream.message else { return Ok(None) };
                message.left -= count;
                match &mut message.payload {
                    Some(payload) => {
                        self.pending_bytes += taken;
                        let video_bytes = if self.keep_video { VIDEO_BYTES_MAX as usize } else { 0 };
                        if self.pending_bytes > PENDING_BYTES_MAX + video_bytes {
                            return Err(ChunkError::PendingTooLarge);
                        }
                        payload.extend_from_slice(bytes);
                    }
                    None if stream.kind == kind::VIDEO => self.skipped_video_bytes += u64::from(count),
                    None => {}
                }
                if !chunk_ends {
                    return Ok(None);
                }
                self.state = State::START;
                self.finish(index)
            }
        }
    }

    /// A header is whole.
    fn header(&mut self, header: Header) -> Result<Option<ChunkMessage>, ChunkError> {
        let found = self.streams.iter().position(|stream| stream.id == header.chunk_stream);
        let index = match (found, &header.fields) {
            (Some(index), _) => index,
            (None, Fields::Continue | Fields::Time { .. }) => return Err(ChunkError::HeaderMissing),
            (None, _) if self.streams.len() == CHUNK_STREAMS_MAX => return Err(ChunkError::TooManyStreams),
            (None, _) => {
                self.streams.push(ChunkStream::new(header.chunk_stream));
                self.streams.len() - 1
            }
        };
        let Some(stream) = self.streams.get_mut(index) else { return Ok(None) };
        if let Fields::Continue = header.fields {
            if stream.message.is_none() {
                stream.timestamp = stream.timestamp.wrapping_add(stream.delta);
                stream.begin(self.keep_video)?;
            }
            if stream.extended.is_some() {
                self.state = State::Repetition { stream: index, seen: 0 };
                return Ok(None);
            }
        } else {
            if stream.message.is_some() {
                return Err(ChunkError::HeaderInsideMessage);
            }
            stream.take(header);
            stream.begin(self.keep_video)?;
        }
        self.payload(index)
    }

    /// The header of a chunk is done; its payload follows, or there is none.
    fn payload(&mut self, index: usize) -> Result<Option<ChunkMessage>, ChunkError> {
        let left = self
            .streams
            .get(index)
            .and_then(|stream| stream.message.as_ref())
            .map_or(0, |message| message.left);
        if left == 0 {
            self.state = State::START;
            return self.finish(index);
        }
        self.state = State::Payload { stream: index, left: left.min(self.chunk_bytes) };
        Ok(None)
    }

    /// A chunk is done; perhaps its message is.
    fn finish(&mut self, index: usize) -> Result<Option<ChunkMessage>, ChunkError> {
        let Some(stream) = self.streams.get_mut(index) else { return Ok(None) };
        let Some(message) = stream.message.take_if(|message| message.left == 0) else { return Ok(None) };
        let payload = match message.payload {
            Some(payload) => payload,
            None if stream.kind == kind::VIDEO => Vec::new(),
            None => return Ok(None),
        };
        self.pending_bytes -= payload.len();
        match stream.kind {
            kind::SET_CHUNK_SIZE => {
                let bytes = four(&payload)?;
                if bytes == 0 || bytes > i32::MAX as u32 {
                    return Err(ChunkError::Control);
                }
                self.chunk_bytes = bytes.min(MESSAGE_BYTES_MAX);
                Ok(None)
            }
            kind::ABORT => {
                let id = four(&payload)?;
                let aborted = self.streams.iter_mut().find(|stream| stream.id == id);
                if let Some(Partial { payload: Some(payload), .. }) =
                    aborted.and_then(|stream| stream.message.take())
                {
                    self.pending_bytes -= payload.len();
                }
                Ok(None)
            }
            _ => Ok(Some(ChunkMessage {
                timestamp: stream.timestamp,
                kind: stream.kind,
                stream_id: stream.stream_id,
                payload: Bytes::from(payload),
            })),
        }
    }
}

fn four(payload: &[u8]) -> Result<u32, ChunkError> {
    payload.first_chunk().map(|bytes| u32::from_be_bytes(*bytes)).ok_or(ChunkError::Control)
}

impl ChunkStream {
    const fn new(id: u32) -> Self {
        Self { id, timestamp: 0, delta: 0, length: 0, kind: 0, stream_id: 0, extended: None, message: None }
    }

    /// Takes over what a header says; what it does not say stays as it was.
    fn take(&mut self, header: Header) {
        self.extended = header.extended;
        match header.fields {
            Fields::Full { timestamp, length, kind, stream_id } => {
                (self.timestamp, self.delta) = (timestamp, timestamp);
                (self.length, self.kind, self.stream_id) = (length, kind, stream_id);
            }
            Fields::SameStream { delta, length, kind } => {
                (self.timestamp, self.delta) = (self.timestamp.wrapping_add(delta), delta);
                (self.length, self.kind) = (length, kind);
            }
            Fields::Time { delta } => {
                (self.timestamp, self.delta) = (self.timestamp.wrapping_add(delta), delta)
            }
            Fields::Continue => {}
        }
    }

    /// A message begins: admitted by its type and claimed length before anything is kept of it.
    fn begin(&mut self, keep_video: bool) -> Result<(), ChunkError> {
        let bytes_max = match self.kind {
            1..=6 => Some(CONTROL_BYTES_MAX),
            kind::AUDIO => Some(AUDIO_BYTES_MAX),
            kind::VIDEO if keep_video => Some(VIDEO_BYTES_MAX),
            kind::DATA | kind::DATA_AMF3 | kind::COMMAND | kind::COMMAND_AMF3 => Some(COMMAND_BYTES_MAX),
            kind::AGGREGATE => Some(AGGREGATE_BYTES_MAX),
            _ => None,
        };
        if let Some(bytes_max) = bytes_max.filter(|bytes_max| self.length > *bytes_max) {
            return Err(ChunkError::MessageTooLarge { kind: self.kind, bytes: self.length, bytes_max });
        }
        self.message = Some(Partial { left: self.length, payload: bytes_max.map(|_| Vec::new()) });
        Ok(())
    }
}
