use super::{CHUNK_BYTES_DEFAULT, MESSAGE_BYTES_MAX, header::EXTENDED, kind};

/// Writes messages as chunks. Every message begins with a whole header (type 0), so that no receiver has to agree with us
/// on what a delta after a type 0 header is; its other chunks are type 3, with the extended timestamp repeated.
#[derive(Debug)]
pub struct ChunkWriter {
    chunk_bytes: usize,
}

impl ChunkWriter {
    /// Writes chunks of [`CHUNK_BYTES_DEFAULT`].
    pub const fn new() -> Self {
        Self { chunk_bytes: CHUNK_BYTES_DEFAULT as usize }
    }

    /// Sets the chunk size, between 1 and 0xFFFFFF bytes, and tells the other side.
    pub fn set_chunk_bytes(&mut self, chunk_bytes: u32, output: &mut Vec<u8>) {
        let chunk_bytes = chunk_bytes.clamp(1, MESSAGE_BYTES_MAX);
        self.write(2, 0, kind::SET_CHUNK_SIZE, 0, &chunk_bytes.to_be_bytes(), output);
        self.chunk_bytes = chunk_bytes as usize;
    }

    /// Appends one message on a chunk stream from 2 to 63. What exceeds 24 bits of length is cut off; our callers stay far
    /// below.
    pub fn write(
        &self,
        chunk_stream: u8,
        timestamp: u32,
        kind: u8,
        stream_id: u32,
        payload: &[u8],
        output: &mut Vec<u8>,
    ) {
        let payload = payload.get(..MESSAGE_BYTES_MAX as usize).unwrap_or(payload);
        let chunk_stream = chunk_stream.clamp(2, 63);
        let [_, length @ ..] = (payload.len() as u32).to_be_bytes();
        let extended = timestamp >= EXTENDED;
        let [_, time @ ..] = timestamp.min(EXTENDED).to_be_bytes();
        output.push(chunk_stream);
        output.extend_from_slice(&time);
        output.extend_from_slice(&length);
        output.push(kind);
        output.extend_from_slice(&stream_id.to_le_bytes());
        for (index, chunk) in payload.chunks(self.chunk_bytes).enumerate() {
            if index > 0 {
                output.push(3 << 6 | chunk_stream);
            }
            if extended {
                output.extend_from_slice(&timestamp.to_be_bytes());
            }
            output.extend_from_slice(chunk);
        }
        if extended && payload.is_empty() {
            output.extend_from_slice(&timestamp.to_be_bytes());
        }
    }
}

impl Default for ChunkWriter {
    fn default() -> Self {
        Self::new()
    }
}
