use crate::{
    Connect, Event, Publish, Refusal, SessionError,
    amf0::Value,
    chunk::{AUDIO_BYTES_MAX, ChunkError, ChunkMessage, kind},
    handshake::ServerHandshake,
    link::{COMMAND_CHUNKS, Link, STATUS_CHUNKS},
    message::{Aggregate, Command, Message, UserControl},
};

/// Answers that may wait to be taken, in bytes. A whole exchange up to publish takes about 5 KiB; a peer that makes us answer
/// more than this in one read floods.
pub const OUTPUT_BYTES_MAX: usize = 64 * 1024;

/// Longest stream name with its query, and longest text of `connect`: a signed key is a token of one or two KiB.
pub const NAME_BYTES_MAX: usize = 8 * 1024;

/// Size of the chunks we send: our longest answer fits into one.
const CHUNK_BYTES: u32 = 4096;

/// Message streams that one connection may create; a publisher needs one.
const MESSAGE_STREAMS_MAX: u32 = 16;

/// What publishers may send besides what every server takes: the audio we decode, and the video we skip or pass on
/// (E-RTMP v2, "Enhancing NetConnection connect Command").
const FOUR_CCS: [&str; 9] = ["mp4a", "Opus", "fLaC", ".mp3", "avc1", "hvc1", "av01", "vp09", "vp08"];

/// Flags of capsEx: reconnect 1, multitrack 2, ModEx 4, nanosecond offsets 8.
const CAPS_EX: u8 = 1 | 2 | 4 | 8;
const CAPS_EX_RECONNECT: u8 = 1;

/// A publisher's connection, seen from the server.
///
/// Bytes go in through [`receive`](Self::receive) and come out of [`take_output`](Self::take_output); what they mean comes
/// as [`Event`]s. It keeps no time and asks nobody: deadlines, limits per address and who may publish are its caller's.
#[derive(Debug)]
pub struct ServerSession {
    handshake: Option<ServerHandshake>,
    link: Link,
    keep_video: bool,
    phase: Phase,
    connect: Option<Connect>,
    reconnects: bool,
    message_streams: u32,
    aggregate: Option<Aggregate>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Before any publish.
    Idle,
    Deciding {
        stream_id: u32,
    },
    Publishing {
        stream_id: u32,
    },
    /// Refused, or published and ended: media that is still under way is dropped.
    Ended,
}

impl ServerSession {
    /// `seed` varies the random bytes of the handshake. With `keep_video`, video is handed out as [`Event::Video`] and
    /// costs up to 4 MiB; otherwise it is counted and never buffered.
    pub const fn new(seed: u64, keep_video: bool) -> Self {
        Self {
            handshake: Some(ServerHandshake::new(seed)),
            link: Link::new(keep_video),
            keep_video,
            phase: Phase::Idle,
            connect: None,
            reconnects: false,
            message_streams: 0,
            aggregate: None,
        }
    }

    /// Takes bytes from `input` until something happened; None when all are taken, or while a publish waits for its
    /// decision. Call it again with the rest; after an error drop the connection. Feed at most 16 KiB at a time and send
    /// the output in between.
    pub fn receive(&mut self, input: &mut &[u8]) -> Result<Option<Event>, SessionError> {
        let before = input.len();
        let event = self.read(input);
        self.link.received(before - input.len(), input.is_empty());
        if self.link.output.len() > OUTPUT_BYTES_MAX {
            return Err(SessionError::OutputFull);
        }
        event
    }

    fn read(&mut self, input: &mut &[u8]) -> Result<Option<Event>, SessionError> {
        if let Some(handshake) = &mut self.handshake {
            if !handshake.receive(input, &mut self.link.output)? {
                return Ok(None);
            }
            self.handshake = None;
        }
        loop {
            if let Phase::Deciding { .. } = self.phase {
                return Ok(None);
            }
            let Some(message) = self.message(input)? else { return Ok(None) };
            if let Some(event) = self.handle(&message)? {
                return Ok(Some(event));
            }
            if self.link.output.len() > OUTPUT_BYTES_MAX {
                return Err(SessionError::OutputFull);
            }
        }
    }

    /// The next message, out of the aggregate in work or out of the chunks.
    fn message(&mut self, input: &mut &[u8]) -> Result<Option<ChunkMessage>, SessionError> {
        while let Some(aggregate) = &mut self.aggregate {
            match aggregate.part()? {
                Some(part) => match part.kind {
                    kind::AUDIO if part.payload.len() > AUDIO_BYTES_MAX as usize => {
                        return Err(SessionError::Chunk(ChunkError::MessageTooLarge {
                            kind: kind::AUDIO,
                            bytes: u32::try_from(part.payload.len()).unwrap_or(u32::MAX),
                            bytes_max: AUDIO_BYTES_MAX,
                        }));
                    }
                    kind::AUDIO | kind::DATA => return Ok(Some(part)),
                    kind::VIDEO if self.keep_video => return Ok(Some(part)),
                    _ => {}
                },
                None => self.aggregate = None,
            }
        }
        Ok(self.link.reader.read(input)?)
    }

    fn handle(&mut self, message: &ChunkMessage) -> Result<Option<Event>, SessionError> {
        let timestamp = message.timestamp;
        match Message::read(message)? {
            Message::Audio(data) => Ok(self.media(message)?.then_some(Event::Audio { timestamp, data })),
            Message::Video(data) => {
                let wanted = self.media(message)? && self.keep_video;
                Ok(wanted.then_some(Event::Video { timestamp, data }))
            }
            Message::Data(data) => Ok(self.media(message)?.then_some(Event::Data { timestamp, data })),
            Message::Aggregate(aggregate) => {
                if self.media(message)? {
                    self.aggregate = Some(aggregate);
                }
                Ok(None)
            }
            Message::Command(command) => self.command(command, message.stream_id),
            Message::UserControl(UserControl::PingResponse(number)) => Ok(Some(Event::Pong(number))),
            control => {
                self.link.obey(&control);
                Ok(None)
            }
        }
    }

    /// Whether media belongs to what is published.
    fn media(&self, message: &ChunkMessage) -> Result<bool, SessionError> {
        match self.phase {
            Phase::Publishing { stream_id } => Ok(stream_id == message.stream_id),
            Phase::Ended => Ok(false),
            Phase::Idle | Phase::Deciding { .. } => Err(SessionError::NotPublishing),
        }
    }

    fn command(&mut self, command: Command, stream_id: u32) -> Result<Option<Event>, SessionError> {
        let name = command.name.as_str();
        if name == "connect" {
            return self.connect(&command).map(Some);
        }
        if self.connect.is_none() {
            return Err(SessionError::NotConnected);
        }
        match name {
            "releaseStream" | "FCPublish" | "_checkbw" => self.result(&command, Value::Undefined),
            "createStream" if self.message_streams < MESSAGE_STREAMS_MAX => {
                self.message_streams += 1;
                self.result(&command, Value::Number(f64::from(self.message_streams)));
            }
            "publish" => return self.publish(&command, stream_id),
            "FCUnpublish" => {
                self.result(&command, Value::Undefined);
                return Ok(self.unpublish());
            }
            "closeStream" => return Ok(self.unpublish()),
            "deleteStream" => {
                let deleted = command.arguments.first().and_then(Value::as_number);
                let ours = match self.phase {
                    Phase::Publishing { stream_id } => deleted.is_none_or(|id| id == f64::from(stream_id)),
                    _ => false,
                };
                return Ok(if ours { self.unpublish() } else { None });
            }
            // Answers to what we never asked.
            "_result" | "_error" | "onStatus" => {}
            "play" | "play2" => {
                self.status(stream_id, "error", "NetStream.Play.StreamNotFound", "nothing is played here")
            }
            _ if command.transaction != 0.0 => {
                let info = status_object("error", "NetConnection.Call.Failed", "this call is not served");
                let answer = Command::new("_error", command.transaction, vec![info]);
                self.link.send_command(COMMAND_CHUNKS, 0, &answer);
            }
            _ => {}
        }
        Ok(None)
    }

    fn connect(&mut self, command: &Command) -> Result<Event, SessionError> {
        let text = |name| command.object.get(name).and_then(Value::as_str).unwrap_or_default();
        let (app, query) = text("app").split_once('?').unwrap_or((text("app"), ""));
        let app = app.trim_matches('/');
        let too_long = ["app", "tcUrl", "flashVer"].into_iter().any(|name| text(name).len() > NAME_BYTES_MAX);
        if app.is_empty() || too_long || self.connect.is_some() {
            return Err(SessionError::Connect);
        }
        let caps_ex = command.object.get("capsEx").and_then(Value::as_number);
        let connect = Connect {
            app: app.to_owned(),
            query: query.to_owned(),
            tc_url: text("tcUrl").to_owned(),
            flash_ver: text("flashVer").to_owned(),
            enhanced: ["capsEx", "fourCcList", "audioFourCcInfoMap", "videoFourCcInfoMap"]
                .iter()
                .any(|name| command.object.get(name).is_some()),
        };
        // A float to a small integer saturates, and what is no number counts as no capability.
        self.reconnects = caps_ex.is_some_and(|caps| caps as u8 & CAPS_EX_RECONNECT != 0);

        self.link.send_window();
        self.link.send_peer_bandwidth();
        self.link.set_chunk_bytes(CHUNK_BYTES);

        let mut info = vec![
            ("level".to_owned(), "status".into()),
            ("code".to_owned(), "NetConnection.Connect.Success".into()),
            ("description".to_owned(), "connected".into()),
            ("objectEncoding".to_owned(), Value::Number(0.0)),
        ];
        if connect.enhanced {
            let four_ccs = FOUR_CCS.iter().map(|four_cc| Value::from(*four_cc)).collect();
            info.push(("fourCcList".to_owned(), Value::StrictArray(four_ccs)));
            info.push(("capsEx".to_owned(), Value::Number(f64::from(CAPS_EX))));
        }
        let answer = Command {
            object: Value::object([("fmsVer", "FMS/3,5,7,7009".into()), ("capabilities", 31.0.into())]),
            ..Command::new("_result", command.transaction, vec![Value::Object(info)])
        };
        self.link.send_command(COMMAND_CHUNKS, 0, &answer);
        self.connect = Some(connect.clone());
        Ok(Event::Connected(connect))
    }

    fn publish(&mut self, command: &Command, stream_id: u32) -> Result<Option<Event>, SessionError> {
        let Some(connect) = &self.connect else { return Err(SessionError::NotConnected) };
        let name = command.text(0).unwrap_or_default();
        if name.len() > NAME_BYTES_MAX {
            return Err(SessionError::StreamName);
        }
        let (key, query) = name.split_once('?').unwrap_or((name, ""));
        if key.is_empty() {
            return Err(SessionError::StreamName);
        }
        let address_query = connect.tc_url.split_once('?').map_or("", |(_, query)| query);
        let query = [query, &connect.query, address_query].into_iter().find(|query| !query.is_empty());
        let publish = Publish {
            app: connect.app.clone(),
            key: key.to_owned(),
            query: query.unwrap_or_default().to_owned(),
            kind: command.text(1).unwrap_or("live").to_owned(),
        };
        if let Phase::Publishing { .. } = self.phase {
            self.status(stream_id, "error", Refusal::KeyInUse.code(), "this connection publishes already");
            return Ok(None);
        }
        self.phase = Phase::Deciding { stream_id };
        Ok(Some(Event::PublishRequested(publish)))
    }

    /// Lets the publisher that asked begin; without a request this does nothing.
    pub fn accept(&mut self) {
        if let Phase::Deciding { stream_id } = self.phase {
            self.phase = Phase::Publishing { stream_id };
            self.link.send_control(UserControl::StreamBegin(stream_id));
            self.status(stream_id, "status", "NetStream.Publish.Start", "publishing");
        }
    }

    /// Tells the publisher that asked why it may not begin; `description` is shown to its user. Send the output, then
    /// close the connection. Without a request this does nothing.
    pub fn refuse(&mut self, refusal: Refusal, description: &str) {
        if let Phase::Deciding { stream_id } = self.phase {
            self.phase = Phase::Ended;
            self.status(stream_id, "error", refusal.code(), description);
        }
    }

    /// Tells a publisher that its publication is over, because another took the key or somebody stopped it. Send the
    /// output, then close the connection.
    pub fn end(&mut self, description: &str) {
        if let Phase::Publishing { stream_id } = self.phase {
            self.phase = Phase::Ended;
            self.status(stream_id, "status", "NetStream.Unpublish.Success", description);
        }
    }

    /// Asks the publisher to connect anew, for a shutdown; false when it said that it cannot (E-RTMP v2, "Reconnect
    /// Request").
    pub fn request_reconnect(&mut self) -> bool {
        if self.reconnects {
            self.status(0, "status", "NetConnection.Connect.ReconnectRequest", "the server goes away");
        }
        self.reconnects
    }

    /// Asks for an [`Event::Pong`] with the same number.
    pub fn ping(&mut self, number: u32) {
        self.link.send_control(UserControl::PingRequest(number));
    }

    /// Whether a publish was accepted and has not ended.
    pub const fn publishing(&self) -> bool {
        matches!(self.phase, Phase::Publishing { .. })
    }

    /// Bytes received since the beginning, with the handshake.
    pub const fn received_bytes(&self) -> u64 {
        self.link.received_bytes()
    }

    /// Bytes of video that were counted and not kept.
    pub const fn skipped_video_bytes(&self) -> u64 {
        self.link.reader.skipped_video_bytes()
    }

    /// What is to be sent to the peer.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.link.output)
    }

    fn unpublish(&mut self) -> Option<Event> {
        let Phase::Publishing { stream_id } = self.phase else { return None };
        self.phase = Phase::Ended;
        self.status(stream_id, "status", "NetStream.Unpublish.Success", "the publication has ended");
        Some(Event::Unpublished)
    }

    fn result(&mut self, command: &Command, value: Value) {
        let answer = Command::new("_result", command.transaction, vec![value]);
        self.link.send_command(COMMAND_CHUNKS, 0, &answer);
    }

    fn status(&mut self, stream_id: u32, level: &str, code: &str, description: &str) {
        let command = Command::new("onStatus", 0.0, vec![status_object(level, code, description)]);
        self.link.send_command(STATUS_CHUNKS, stream_id, &command);
    }
}

fn status_object(level: &str, code: &str, description: &str) -> Value {
    Value::object([("level", level.into()), ("code", code.into()), ("description", description.into())])
}
