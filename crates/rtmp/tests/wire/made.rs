//! Bytes of peers, made by hand: the crate's own writer knows one kind of header only.

use rtmp::{
    Event, ServerSession, SessionError,
    amf0::Value,
    chunk::{ChunkMessage, ChunkWriter, kind},
    message::Command,
};

/// Numbers that look random and are the same in every run.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.below(256) as u8).collect()
    }
}

/// The first bytes of a chunk: type and chunk stream.
pub fn basic(format: u8, chunk_stream: u32) -> Vec<u8> {
    let format = format << 6;
    match chunk_stream {
        2..=63 => vec![format | chunk_stream as u8],
        64..=319 => vec![format, (chunk_stream - 64) as u8],
        _ => {
            let [_, _, high, low] = (chunk_stream - 64).to_be_bytes();
            vec![format | 1, low, high]
        }
    }
}

/// A header of type 0, 1 or 2; what the type does not have is left out.
pub fn header(format: u8, chunk_stream: u32, time: u32, length: usize, kind: u8, stream_id: u32) -> Vec<u8> {
    let mut bytes = basic(format, chunk_stream);
    bytes.extend_from_slice(&time.min(0xFF_FFFF).to_be_bytes()[1..]);
    if format < 2 {
        bytes.extend_from_slice(&(length as u32).to_be_bytes()[1..]);
        bytes.push(kind);
    }
    if format == 0 {
        bytes.extend_from_slice(&stream_id.to_le_bytes());
    }
    if time >= 0xFF_FFFF {
        bytes.extend_from_slice(&time.to_be_bytes());
    }
    bytes
}

/// One message in the default chunk size.
pub fn message(kind: u8, stream_id: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    ChunkWriter::new().write(3, 0, kind, stream_id, payload, &mut bytes);
    bytes
}

pub fn command(name: &str, transaction: f64, arguments: &[Value]) -> Vec<u8> {
    message(kind::COMMAND, 0, &Command::new(name, transaction, arguments.to_vec()).payload())
}

/// C0, C1 and C2 of a client that does not sign.
pub fn hello() -> Vec<u8> {
    let mut bytes = vec![3];
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend((0..2 * 1536 - 8).map(|index| index as u8));
    bytes
}

pub fn connect(app: &str) -> Vec<u8> {
    let object = Value::object([("app", app.into()), ("tcUrl", "rtmp://host/live".into())]);
    message(kind::COMMAND, 0, &Command { object, ..Command::new("connect", 1.0, vec![]) }.payload())
}

pub fn publish(name: &str) -> Vec<u8> {
    message(kind::COMMAND, 1, &Command::new("publish", 5.0, vec![name.into(), "live".into()]).payload())
}

/// Everything up to a request to publish.
pub fn request() -> Vec<u8> {
    [hello(), connect("live"), command("createStream", 4.0, &[]), publish("KEY")].concat()
}

/// Feeds bytes in pieces as a service would: whoever asks may publish, and output is taken after every call.
pub fn feed(
    session: &mut ServerSession,
    bytes: &[u8],
    piece: usize,
) -> (Vec<Event>, Vec<u8>, Option<SessionError>) {
    let (mut events, mut output) = (Vec::new(), Vec::new());
    for mut input in bytes.chunks(piece) {
        loop {
            let event = session.receive(&mut input);
            output.extend(session.take_output());
            match event {
                Ok(Some(event)) => {
                    if let Event::PublishRequested(_) = event {
                        session.accept();
                    }
                    events.push(event);
                }
                Ok(None) => break,
                Err(error) => return (events, output, Some(error)),
            }
        }
        assert!(input.is_empty());
    }
    output.extend(session.take_output());
    (events, output, None)
}

/// The messages that the server wrote behind its side of the handshake.
pub fn answers(output: &[u8]) -> Vec<ChunkMessage> {
    let mut reader = rtmp::chunk::ChunkReader::new(false);
    let (mut input, mut answers) = (&output[1 + 2 * 1536..], Vec::new());
    while let Some(answer) = reader.read(&mut input).unwrap() {
        answers.push(answer);
    }
    answers
}
