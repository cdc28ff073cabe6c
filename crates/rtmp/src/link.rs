use crate::{
    chunk::{ChunkReader, ChunkWriter, kind},
    message::{Command, Message, UserControl},
};

/// How many bytes we let pass before an acknowledgement is due, as most servers say.
pub(crate) const WINDOW_BYTES: u32 = 2_500_000;

/// Chunk streams we write on: 2 is the specification's, the others are usual.
const CONTROL_CHUNKS: u8 = 2;
pub(crate) const COMMAND_CHUNKS: u8 = 3;
pub(crate) const STATUS_CHUNKS: u8 = 5;

/// What both sides of a connection do alike: chunks in and out, windows of acknowledgement, pings.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) reader: ChunkReader,
    pub(crate) writer: ChunkWriter,
    pub(crate) output: Vec<u8>,
    received_bytes: u64,
    acknowledged_bytes: u64,
    /// After how many bytes the peer wants an acknowledgement; 0 until it says so.
    window_bytes: u32,
}

impl Link {
    pub(crate) const fn new(keep_video: bool) -> Self {
        Self {
            reader: ChunkReader::new(keep_video),
            writer: ChunkWriter::new(),
            output: Vec::new(),
            received_bytes: 0,
            acknowledged_bytes: 0,
            window_bytes: 0,
        }
    }

    pub(crate) const fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// Counts bytes that were read, and when that was all there is, acknowledges them if an acknowledgement is due: one for
    /// all of them (RTMP 1.0 section 5.4.3).
    pub(crate) fn received(&mut self, bytes: usize, all: bool) {
        self.received_bytes += bytes as u64;
        let due = self.received_bytes - self.acknowledged_bytes >= u64::from(self.window_bytes);
        if all && due && self.window_bytes != 0 {
            self.acknowledged_bytes = self.received_bytes;
            // The sequence number wraps at 2^32.
            let sequence = self.received_bytes as u32;
            self.send(CONTROL_CHUNKS, kind::ACKNOWLEDGEMENT, 0, &sequence.to_be_bytes());
        }
    }

    /// Does what a control message asks for.
    pub(crate) fn obey(&mut self, message: &Message) {
        match message {
            Message::WindowAckSize(bytes) => self.window_bytes = *bytes,
            // The answer that section 5.4.5 asks for.
            Message::SetPeerBandwidth(_) => self.send_window(),
            Message::UserControl(UserControl::PingRequest(number)) => {
                self.send_control(UserControl::PingResponse(*number));
            }
            _ => {}
        }
    }

    pub(crate) fn send_window(&mut self) {
        self.send(CONTROL_CHUNKS, kind::WINDOW_ACK_SIZE, 0, &WINDOW_BYTES.to_be_bytes());
    }

    pub(crate) fn send_peer_bandwidth(&mut self) {
        /// How the peer is to take the limit (section 5.4.5).
        const DYNAMIC: u8 = 2;
        let [a, b, c, d] = WINDOW_BYTES.to_be_bytes();
        self.send(CONTROL_CHUNKS, kind::SET_PEER_BANDWIDTH, 0, &[a, b, c, d, DYNAMIC]);
    }

    pub(crate) fn set_chunk_bytes(&mut self, chunk_bytes: u32) {
        self.writer.set_chunk_bytes(chunk_bytes, &mut self.output);
    }

    pub(crate) fn send_control(&mut self, event: UserControl) {
        self.send(CONTROL_CHUNKS, kind::USER_CONTROL, 0, &event.payload());
    }

    pub(crate) fn send_command(&mut self, chunk_stream: u8, stream_id: u32, command: &Command) {
        self.send(chunk_stream, kind::COMMAND, stream_id, &command.payload());
    }

    fn send(&mut self, chunk_stream: u8, kind: u8, stream_id: u32, payload: &[u8]) {
        self.writer.write(chunk_stream, 0, kind, stream_id, payload, &mut self.output);
    }
}
