//! What whole messages mean (RTMP 1.0 sections 5.4, 6.2 and 7).

use bytes::Bytes;

use crate::{
    amf0::{AmfError, Reader, Value},
    chunk::{ChunkMessage, kind},
};

/// Why a message does not hold what its type promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// A protocol or user control message without its fields.
    #[error("a control message is cut short")]
    Control,
    /// A command that does not begin with a name.
    #[error("a command has no name")]
    Command,
    /// A command whose values are none.
    #[error(transparent)]
    Amf(#[from] AmfError),
    /// An aggregate whose parts do not fit into it.
    #[error("an aggregate message is cut short")]
    Aggregate,
}

impl MessageError {
    /// Metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Control => "message_control",
            Self::Command => "message_command",
            Self::Amf(error) => error.label(),
            Self::Aggregate => "message_aggregate",
        }
    }
}

/// A message by its type (RTMP 1.0 sections 5.4, 6.2 and 7.1). Set Chunk Size and Abort never leave the chunk reader.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// Bytes that the peer has received, modulo 2^32.
    Acknowledgement(u32),
    /// Events of the connection and of streams.
    UserControl(UserControl),
    /// After how many bytes the peer wants an acknowledgement.
    WindowAckSize(u32),
    /// How many bytes the peer lets us send before it has acknowledged them.
    SetPeerBandwidth(u32),
    /// One audio tag, see [`crate::AudioPackets`].
    Audio(Bytes),
    /// One video tag.
    Video(Bytes),
    /// AMF0 values: metadata, cues.
    Data(Bytes),
    /// A call, an answer or a status.
    Command(Command),
    /// Audio, video and data in one.
    Aggregate(Aggregate),
    /// A type that means nothing to us.
    Other,
}

/// User control events (RTMP 1.0 section 7.1.7), as far as publishing knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserControl {
    /// A stream has become usable.
    StreamBegin(u32),
    /// A stream has ended.
    StreamEnd(u32),
    /// How many milliseconds the client buffers.
    SetBufferLength {
        /// Message stream.
        stream_id: u32,
        /// Length.
        milliseconds: u32,
    },
    /// Asks for a [`UserControl::PingResponse`] with the same number.
    PingRequest(u32),
    /// Answers a [`UserControl::PingRequest`].
    PingResponse(u32),
    /// Any other event.
    Other,
}

/// A command message (RTMP 1.0 section 7.2).
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// What is called, or `_result`, `_error`, `onStatus`.
    pub name: String,
    /// Ties an answer to its call; 0 asks for none.
    pub transaction: f64,
    /// Command object, null as a rule.
    pub object: Value,
    /// What follows it.
    pub arguments: Vec<Value>,
}

impl Message {
    /// Looks into a message.
    pub fn read(message: &ChunkMessage) -> Result<Self, MessageError> {
        let payload = &message.payload;
        Ok(match message.kind {
            kind::ACKNOWLEDGEMENT => Self::Acknowledgement(four(payload, 0)?),
            kind::WINDOW_ACK_SIZE => Self::WindowAckSize(four(payload, 0)?),
            kind::SET_PEER_BANDWIDTH => Self::SetPeerBandwidth(four(payload, 0)?),
            kind::USER_CONTROL => Self::UserControl(UserControl::read(payload)?),
            kind::AUDIO => Self::Audio(payload.clone()),
            kind::VIDEO => Self::Video(payload.clone()),
            kind::DATA => Self::Data(payload.clone()),
            kind::DATA_AMF3 => Self::Data(without_envelope(payload)),
            kind::COMMAND => Self::Command(Command::read(payload)?),
            kind::COMMAND_AMF3 => Self::Command(Command::read(&without_envelope(payload))?),
            kind::AGGREGATE => Self::Aggregate(Aggregate::new(message)),
            _ => Self::Other,
        })
    }
}

/// The types 15 and 17 put one byte before AMF0 values: 0, the format they are in. AMF3 inside announces itself by its own
/// marker.
fn without_envelope(payload: &Bytes) -> Bytes {
    match payload.first() {
        Some(0) => payload.slice(1..),
        _ => payload.clone(),
    }
}

fn four(payload: &[u8], at: usize) -> Result<u32, MessageError> {
    let bytes = payload.get(at..).and_then(|rest| rest.first_chunk()).ok_or(MessageError::Control)?;
    Ok(u32::from_be_bytes(*bytes))
}

impl UserControl {
    fn read(payload: &[u8]) -> Result<Self, MessageError> {
        let event = u16::from_be_bytes(*payload.first_chunk().ok_or(MessageError::Control)?);
        Ok(match event {
            0 => Self::StreamBegin(four(payload, 2)?),
            1 => Self::StreamEnd(four(payload, 2)?),
            3 => Self::SetBufferLength { stream_id: four(payload, 2)?, milliseconds: four(payload, 6)? },
            6 => Self::PingRequest(four(payload, 2)?),
            7 => Self::PingResponse(four(payload, 2)?),
            _ => Self::Other,
        })
    }

    /// The encoded event; none for [`UserControl::Other`].
    pub fn payload(self) -> Vec<u8> {
        let (event, fields): (u16, &[u32]) = match self {
            Self::StreamBegin(stream_id) => (0, &[stream_id]),
            Self::StreamEnd(stream_id) => (1, &[stream_id]),
            Self::SetBufferLength { stream_id, milliseconds } => (3, &[stream_id, milliseconds]),
            Self::PingRequest(number) => (6, &[number]),
            Self::PingResponse(number) => (7, &[number]),
            Self::Other => return Vec::new(),
        };
        let mut payload = event.to_be_bytes().to_vec();
        payload.extend(fields.iter().flat_map(|field| field.to_be_bytes()));
        payload
    }
}

impl Command {
    /// A command with a null command object.
    pub fn new(name: &str, transaction: f64, arguments: Vec<Value>) -> Self {
        Self { name: name.to_owned(), transaction, object: Value::Null, arguments }
    }

    fn read(payload: &[u8]) -> Result<Self, MessageError> {
        let mut values = Reader::new(payload);
        let Some(Value::String(name)) = values.read()? else { return Err(MessageError::Command) };
        let transaction = values.read()?.and_then(|value| value.as_number()).unwrap_or_default();
        let object = values.read()?.unwrap_or(Value::Null);
        let mut arguments = Vec::new();
        while let Some(argument) = values.read()? {
            arguments.push(argument);
        }
        Ok(Self { name, transaction, object, arguments })
    }

    /// The encoded command.
    pub fn payload(&self) -> Vec<u8> {
        let mut payload = Vec::new();
        Value::from(self.name.as_str()).write(&mut payload);
        Value::Number(self.transaction).write(&mut payload);
        self.object.write(&mut payload);
        for argument in &self.arguments {
            argument.write(&mut payload);
        }
        payload
    }

    /// The text of an argument.
    pub fn text(&self, index: usize) -> Option<&str> {
        self.arguments.get(index).and_then(Value::as_str)
    }
}

/// An aggregate message: FLV tags one behind another, each with its length behind it (RTMP 1.0 section 7.1.6). Its
/// timestamp moves those inside, the first of which is the base.
#[derive(Debug, Clone, PartialEq)]
pub struct Aggregate {
    stream_id: u32,
    timestamp: u32,
    /// What is added to each timestamp inside.
    offset: Option<u32>,
    rest: Bytes,
}

impl Aggregate {
    fn new(message: &ChunkMessage) -> Self {
        Self {
            stream_id: message.stream_id,
            timestamp: message.timestamp,
            offset: None,
            rest: message.payload.clone(),
        }
    }

    /// The next message inside; None at the end.
    pub fn part(&mut self) -> Result<Option<ChunkMessage>, MessageError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let [kind, a, b, c, t1, t2, t3, t0, _, _, _] =
            self.rest.first_chunk().copied().ok_or(MessageError::Aggregate)?;
        let (start, length) = (11, usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX));
        if self.rest.len() - start < length {
            return Err(MessageError::Aggregate);
        }
        let timestamp = u32::from_be_bytes([t0, t1, t2, t3]);
        let offset = *self.offset.get_or_insert(self.timestamp.wrapping_sub(timestamp));
        let payload = self.rest.slice(start..start + length);
        // Some senders leave the last back pointer out.
        self.rest = self.rest.slice((start + length + 4).min(self.rest.len())..);
        Ok(Some(ChunkMessage {
            timestamp: timestamp.wrapping_add(offset),
            kind,
            stream_id: self.stream_id,
            payload,
        }))
    }
}
