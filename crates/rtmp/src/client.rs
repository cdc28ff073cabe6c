use crate::{
    Address, SessionError,
    amf0::Value,
    chunk::{ChunkMessage, kind},
    handshake::ClientHandshake,
    link::{COMMAND_CHUNKS, Link, STATUS_CHUNKS},
    message::{Command, Message},
};

/// What may wait to be sent, in bytes: two of the largest video messages. A relay drops before it comes to this.
pub const CLIENT_OUTPUT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Size of the chunks we send; any audio message fits into one.
const CHUNK_BYTES: u32 = 65_536;

/// Longest text of a server that is handed out, in bytes.
const STATUS_BYTES_MAX: usize = 200;

/// Chunk streams of media; each type has its own.
const AUDIO_CHUNKS: u8 = 4;
const DATA_CHUNKS: u8 = 6;
const VIDEO_CHUNKS: u8 = 7;

/// Transactions, in the order of the exchange.
const CONNECT: f64 = 1.0;
const RELEASE_STREAM: f64 = 2.0;
const FC_PUBLISH: f64 = 3.0;
const CREATE_STREAM: f64 = 4.0;
const PUBLISH: f64 = 5.0;
const FC_UNPUBLISH: f64 = 6.0;
const DELETE_STREAM: f64 = 7.0;

/// What the server did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientEvent {
    /// Media may be sent.
    Publishing,
    /// It refused to connect, to create a stream or to publish; its code or description, shortened.
    Refused(String),
    /// It ended the publication.
    Unpublished,
    /// It asks to connect anew (E-RTMP v2, "Reconnect Request").
    ReconnectRequested,
}

/// A publisher's connection, seen from the publisher: it goes by itself from handshake to publish.
///
/// Bytes go in through [`receive`](Self::receive) and come out of [`take_output`](Self::take_output), the first of them at
/// once. Deadlines are its caller's.
#[derive(Debug)]
pub struct ClientSession {
    address: Address,
    enhanced: bool,
    handshake: Option<ClientHandshake>,
    link: Link,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Until the answer to `connect`.
    Connecting,
    /// Until the answer to `createStream`.
    Creating,
    /// Until the status of `publish`.
    Asking {
        stream_id: u32,
    },
    Publishing {
        stream_id: u32,
    },
    Ended,
}

impl ClientSession {
    /// Begins the handshake; `seed` varies its random bytes. `enhanced` announces Enhanced RTMP with any codec.
    pub fn new(address: Address, enhanced: bool, seed: u64) -> Self {
        let mut link = Link::new(false);
        let handshake = Some(ClientHandshake::new(seed, &mut link.output));
        Self { address, enhanced, handshake, link, phase: Phase::Connecting }
    }

    /// Takes bytes from `input` until something happened; None when all are taken. After an error drop the connection.
    pub fn receive(&mut self, input: &mut &[u8]) -> Result<Option<ClientEvent>, SessionError> {
        let before = input.len();
        let event = self.read(input);
        self.link.received(before - input.len(), input.is_empty());
        if self.link.output.len() > CLIENT_OUTPUT_BYTES_MAX {
            return Err(SessionError::OutputFull);
        }
        event
    }

    fn read(&mut self, input: &mut &[u8]) -> Result<Option<ClientEvent>, SessionError> {
        if let Some(handshake) = &mut self.handshake {
            if !handshake.receive(input, &mut self.link.output)? {
                return Ok(None);
            }
            self.handshake = None;
            self.connect();
        }
        while let Some(message) = self.link.reader.read(input)? {
            if let Some(event) = self.handle(&message)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    fn handle(&mut self, message: &ChunkMessage) -> Result<Option<ClientEvent>, SessionError> {
        match Message::read(message)? {
            Message::Command(command) => Ok(match command.name.as_str() {
                "_result" => {
                    self.result(&command);
                    None
                }
                "_error" if [CONNECT, CREATE_STREAM, PUBLISH].contains(&command.transaction) => {
                    self.refused(&command)
                }
                "onStatus" => self.status(&command),
                _ => None,
            }),
            other => {
                self.link.obey(&other);
                Ok(None)
            }
        }
    }

    fn connect(&mut self) {
        self.link.set_chunk_bytes(CHUNK_BYTES);
        let mut object = vec![
            ("app".to_owned(), self.address.app.as_str().into()),
            ("type".to_owned(), "nonprivate".into()),
            ("flashVer".to_owned(), "FMLE/3.0 (compatible; Parley)".into()),
            ("tcUrl".to_owned(), self.address.tc_url.as_str().into()),
        ];
        if self.enhanced {
            object.push(("fourCcList".to_owned(), Value::StrictArray(vec!["*".into()])));
        }
        let command = Command { object: Value::Object(object), ..Command::new("connect", CONNECT, vec![]) };
        self.link.send_command(COMMAND_CHUNKS, 0, &command);
    }

    fn result(&mut self, command: &Command) {
        let name = || Value::from(self.address.name.as_str());
        match self.phase {
            Phase::Connecting if command.transaction == CONNECT => {
                let calls = [
                    Command::new("releaseStream", RELEASE_STREAM, vec![name()]),
                    Command::new("FCPublish", FC_PUBLISH, vec![name()]),
                    Command::new("createStream", CREATE_STREAM, vec![]),
                ];
                self.phase = Phase::Creating;
                self.link.send_window();
                for call in calls {
                    self.link.send_command(COMMAND_CHUNKS, 0, &call);
                }
            }
            Phase::Creating if command.transaction == CREATE_STREAM => {
                // A float to an integer saturates; servers count from 1.
                let stream_id = command.arguments.first().and_then(Value::as_number).unwrap_or(1.0) as u32;
                let publish = Command::new("publish", PUBLISH, vec![name(), "live".into()]);
                self.phase = Phase::Asking { stream_id };
                self.link.send_command(STATUS_CHUNKS, stream_id, &publish);
            }
            _ => {}
        }
    }

    fn status(&mut self, command: &Command) -> Option<ClientEvent> {
        let info = command.arguments.first()?;
        let text = |name| info.get(name).and_then(Value::as_str).unwrap_or_default();
        match (text("code"), self.phase) {
            ("NetConnection.Connect.ReconnectRequest", _) => Some(ClientEvent::ReconnectRequested),
            ("NetStream.Publish.Start", Phase::Asking { stream_id }) => {
                self.phase = Phase::Publishing { stream_id };
                Some(ClientEvent::Publishing)
            }
            ("NetStream.Unpublish.Success", Phase::Publishing { .. }) => {
                self.phase = Phase::Ended;
                Some(ClientEvent::Unpublished)
            }
            _ if text("level") == "error" => self.refused(command),
            _ => None,
        }
    }

    fn refused(&mut self, command: &Command) -> Option<ClientEvent> {
        self.phase = Phase::Ended;
        let info = command.arguments.first();
        let text = |name| {
            info.and_then(|info| info.get(name)).and_then(Value::as_str).filter(|text| !text.is_empty())
        };
        let reason = text("description").or_else(|| text("code")).unwrap_or("refused");
        let reason = reason.get(..reason.floor_char_boundary(STATUS_BYTES_MAX)).unwrap_or_default();
        Some(ClientEvent::Refused(reason.to_owned()))
    }

    /// Sends one audio tag; `timestamp` in milliseconds modulo 2^32.
    pub fn send_audio(&mut self, timestamp: u32, tag: &[u8]) -> Result<(), SessionError> {
        self.send(AUDIO_CHUNKS, kind::AUDIO, timestamp, tag)
    }

    /// Sends one video tag; `timestamp` in milliseconds modulo 2^32.
    pub fn send_video(&mut self, timestamp: u32, tag: &[u8]) -> Result<(), SessionError> {
        self.send(VIDEO_CHUNKS, kind::VIDEO, timestamp, tag)
    }

    /// Sends AMF0 values, as `@setDataFrame`, `onMetaData` and the metadata; `timestamp` in milliseconds modulo 2^32.
    pub fn send_data(&mut self, timestamp: u32, values: &[u8]) -> Result<(), SessionError> {
        self.send(DATA_CHUNKS, kind::DATA, timestamp, values)
    }

    fn send(
        &mut self,
        chunk_stream: u8,
        kind: u8,
        timestamp: u32,
        payload: &[u8],
    ) -> Result<(), SessionError> {
        let Phase::Publishing { stream_id } = self.phase else { return Err(SessionError::NotPublishing) };
        if self.link.output.len() > CLIENT_OUTPUT_BYTES_MAX {
            return Err(SessionError::OutputFull);
        }
        self.link.writer.write(chunk_stream, timestamp, kind, stream_id, payload, &mut self.link.output);
        Ok(())
    }

    /// Ends the publication properly; send the output, then close the connection.
    pub fn unpublish(&mut self) {
        if let Phase::Publishing { stream_id } | Phase::Asking { stream_id } = self.phase {
            let name = Value::from(self.address.name.as_str());
            let deleted = Value::Number(f64::from(stream_id));
            self.phase = Phase::Ended;
            self.link.send_command(COMMAND_CHUNKS, 0, &Command::new("FCUnpublish", FC_UNPUBLISH, vec![name]));
            self.link.send_command(
                COMMAND_CHUNKS,
                0,
                &Command::new("deleteStream", DELETE_STREAM, vec![deleted]),
            );
        }
    }

    /// Bytes that wait to be taken.
    pub const fn output_bytes(&self) -> usize {
        self.link.output.len()
    }

    /// What is to be sent to the peer.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.link.output)
    }
}
