use rtmp::chunk::{ChunkError, ChunkMessage, ChunkReader, ChunkWriter, kind};

use crate::made::{Dice, basic, header};

fn read(reader: &mut ChunkReader, bytes: &[u8], piece: usize) -> Result<Vec<ChunkMessage>, ChunkError> {
    let mut messages = Vec::new();
    for mut input in bytes.chunks(piece) {
        while let Some(message) = reader.read(&mut input)? {
            messages.push(message);
        }
        assert!(input.is_empty());
    }
    Ok(messages)
}

fn times(bytes: &[u8]) -> Vec<u32> {
    let whole = read(&mut ChunkReader::new(false), bytes, usize::MAX).unwrap();
    let single = read(&mut ChunkReader::new(false), bytes, 1).unwrap();
    assert_eq!(whole, single);
    whole.iter().map(|message| message.timestamp).collect()
}

/// A sender of any header and dialect that the specification allows.
struct Sender {
    chunk_bytes: usize,
    repeats: bool,
    streams: Vec<Sending>,
}

#[derive(Default)]
struct Sending {
    chunk_stream: u32,
    known: bool,
    timestamp: u32,
    delta: u32,
    length: usize,
    kind: u8,
    stream_id: u32,
    extended: Option<u32>,
    rest: Vec<u8>,
    whole: Vec<u8>,
    active: bool,
}

impl Sender {
    /// One more chunk of some stream; the message that it completes.
    fn chunk(&mut self, dice: &mut Dice, out: &mut Vec<u8>) -> Option<ChunkMessage> {
        let index = dice.below(self.streams.len());
        let stream = &mut self.streams[index];
        if stream.active {
            out.extend(basic(3, stream.chunk_stream));
            if let Some(extended) = stream.extended.filter(|_| self.repeats) {
                out.extend_from_slice(&extended.to_be_bytes());
            }
        } else {
            let length = [0, 1, 3, 127, 128, 129, 400, 5_000][dice.below(8)];
            let kind = [kind::AUDIO, kind::DATA, kind::COMMAND][dice.below(3)];
            // Zeros and ones of a timestamp could as well be the header of the next chunk when it is not repeated and one
            // byte of payload is left: nobody can tell then.
            let just_extended = if self.repeats { 0xFF_FFFF } else { 0x0A0B_0C0D };
            let delta = [0, 21, 23, 40, 0xFF_FFFE, just_extended, 0x0123_4567, 0x8000_0001][dice.below(8)];
            let same = stream.known && dice.below(2) == 0;
            let (length, kind) = if same { (stream.length, stream.kind) } else { (length, kind) };
            let format = match dice.below(4) {
                3 if same => 3,
                2 | 3 if same => 2,
                1..=3 if stream.known => 1,
                _ => 0,
            };
            if format == 0 {
                stream.stream_id = dice.below(5) as u32;
                stream.timestamp = delta;
                stream.delta = delta;
            } else {
                if format != 3 {
                    stream.delta = delta;
                }
                stream.timestamp = stream.timestamp.wrapping_add(stream.delta);
            }
            (stream.length, stream.kind, stream.known, stream.active) = (length, kind, true, true);
            if format == 3 {
                out.extend(basic(3, stream.chunk_stream));
                if let Some(extended) = stream.extended.filter(|_| self.repeats) {
                    out.extend_from_slice(&extended.to_be_bytes());
                }
            } else {
                stream.extended = (delta >= 0xFF_FFFF).then_some(delta);
                out.extend(header(format, stream.chunk_stream, delta, length, kind, stream.stream_id));
            }
            stream.whole = dice.bytes(length);
            stream.rest = stream.whole.clone();
        }
        let rest = stream.rest.split_off(stream.rest.len().min(self.chunk_bytes));
        out.extend_from_slice(&stream.rest);
        stream.rest = rest;
        if !stream.rest.is_empty() {
            return None;
        }
        stream.active = false;
        Some(ChunkMessage {
            timestamp: stream.timestamp,
            kind: stream.kind,
            stream_id: stream.stream_id,
            payload: std::mem::take(&mut stream.whole).into(),
        })
    }
}

#[test]
fn any_interleaving_size_header_and_dialect_in_any_cut() {
    for seed in 0..200 {
        let mut dice = Dice::new(seed);
        let chunk_streams: Vec<u32> = vec![3, 4, 63, 64, 319, 320, 65_599];
        let streams =
            chunk_streams.into_iter().map(|id| Sending { chunk_stream: id, ..Sending::default() }).collect();
        let mut sender = Sender { chunk_bytes: 128, repeats: seed % 2 == 0, streams };
        let (mut bytes, mut sent) = (Vec::new(), Vec::new());
        while sent.len() < 40 {
            if dice.below(30) == 0 {
                let before = sender.chunk_bytes;
                sender.chunk_bytes = [1, 2, 127, 128, 4_096, 60_000, 0xFF_FFFF, 0x7FFF_FFFF][dice.below(8)];
                bytes.extend(header(0, 2, 0, 4, kind::SET_CHUNK_SIZE, 0));
                let payload = (sender.chunk_bytes as u32).to_be_bytes();
                bytes.extend(payload.chunks(before).collect::<Vec<_>>().join(basic(3, 2).as_slice()));
            }
            sent.extend(sender.chunk(&mut dice, &mut bytes));
        }
        for piece in [1, 2, 7, 1_000, usize::MAX] {
            let received = read(&mut ChunkReader::new(false), &bytes, piece);
            assert_eq!(received.as_ref(), Ok(&sent), "seed {seed}, pieces of {piece}");
        }
    }
}

#[test]
fn what_the_writer_writes_is_read_in_every_chunk_size() {
    let messages: Vec<_> = [
        (0, kind::AUDIO, 0),
        (1, kind::AUDIO, 0xFF_FFFE),
        (300, kind::COMMAND, 0xFF_FFFF),
        (65_536, kind::AUDIO, 0x100_0000),
        (5, kind::DATA, u32::MAX),
        (0, kind::AUDIO, u32::MAX),
        (4_000, kind::VIDEO, 7),
    ]
    .into_iter()
    .map(|(length, kind, timestamp)| ChunkMessage {
        timestamp,
        kind,
        stream_id: 0x0102_0304,
        payload: Dice::new(length as u64).bytes(length).into(),
    })
    .collect();
    for chunk_bytes in (1..=140).chain([1_000, 4_096, 65_535, 65_536, 65_537, 0xFF_FFFF]) {
        let (mut writer, mut bytes) = (ChunkWriter::new(), Vec::new());
        writer.set_chunk_bytes(chunk_bytes, &mut bytes);
        for message in &messages {
            writer.write(9, message.timestamp, message.kind, message.stream_id, &message.payload, &mut bytes);
        }
        let received = read(&mut ChunkReader::new(true), &bytes, 1_000).unwrap();
        assert_eq!(received, messages, "chunks of {chunk_bytes}");
    }
}

#[test]
fn deltas_add_up_and_wrap() {
    let audio = |format, time| [header(format, 4, time, 2, kind::AUDIO, 1), vec![1, 2]].concat();
    let again = [basic(3, 4), vec![1, 2]].concat();
    // A type 3 that begins a message adds the last delta; after a type 0 that is its timestamp (section 5.3.1.2.4).
    let cases = [
        (vec![audio(0, 10), again.clone(), again.clone()], vec![10, 20, 30]),
        (vec![audio(0, 1_000), audio(2, 20), again.clone(), again.clone()], vec![1_000, 1_020, 1_040, 1_060]),
        (vec![audio(0, 1_000), audio(1, 20), audio(0, 5), audio(1, 1)], vec![1_000, 1_020, 5, 6]),
        (vec![audio(0, u32::MAX), audio(1, 3), audio(2, 3)], vec![u32::MAX, 2, 5]),
        (vec![audio(0, 0), audio(1, 0xFFFF_FFFB)], vec![0, 0xFFFF_FFFB]),
        (vec![audio(0, 0xFF_FFFE), audio(1, 1), audio(1, 1)], vec![0xFF_FFFE, 0xFF_FFFF, 0x100_0000]),
        // librtmp opens chunk stream 2 with a type 1 header.
        (vec![audio(1, 7), again.clone()], vec![7, 14]),
    ];
    for (chunks, expected) in cases {
        assert_eq!(times(&chunks.concat()), expected);
    }
}

#[test]
fn extended_timestamps_are_read_in_both_dialects() {
    let time = 0x0102_0304_u32;
    let payload = Dice::new(1).bytes(300);
    for (name, between) in [("repeated", time.to_be_bytes().to_vec()), ("not repeated", vec![])] {
        let mut bytes = header(0, 6, time, 300, kind::AUDIO, 1);
        bytes.extend_from_slice(&payload[..128]);
        for rest in [&payload[128..256], &payload[256..]] {
            bytes.extend(basic(3, 6));
            bytes.extend_from_slice(&between);
            bytes.extend_from_slice(rest);
        }
        // The next begins with a type 3 and adds the extended delta.
        bytes.extend(header(1, 6, 0xFF_FFFF, 1, kind::AUDIO, 1));
        bytes.push(9);
        bytes.extend(basic(3, 6));
        if !between.is_empty() {
            bytes.extend_from_slice(&0xFF_FFFF_u32.to_be_bytes());
        }
        bytes.push(9);
        assert_eq!(times(&bytes), [time, time + 0xFF_FFFF, time + 2 * 0xFF_FFFF], "{name}");
        let messages = read(&mut ChunkReader::new(false), &bytes, 1).unwrap();
        assert_eq!(messages[0].payload, payload, "{name}");
    }
}

#[test]
fn payload_that_begins_like_the_timestamp_is_payload() {
    // Without repetition, and the payload of the second chunk begins with one, two, three bytes of the timestamp, to
    // where the message ends or not.
    let time = 0x0102_0304_u32;
    for like in 1..=3 {
        for more in 0..=3 {
            let mut tail = time.to_be_bytes()[..like].to_vec();
            tail.extend(std::iter::repeat_n(0xEE, more));
            let mut bytes = header(0, 6, time, 128 + tail.len(), kind::AUDIO, 1);
            bytes.extend_from_slice(&[7; 128]);
            bytes.extend(basic(3, 6));
            bytes.extend_from_slice(&tail);
            // What follows is a chunk of its own, also when its bytes were taken for the timestamp at first.
            bytes.extend(header(0, 3, 5, 1, kind::AUDIO, 1));
            bytes.push(9);
            let expected = [[&[7; 128], tail.as_slice()].concat(), vec![9]];
            for piece in [1, 2, 3, 1_000] {
                let messages = read(&mut ChunkReader::new(false), &bytes, piece).unwrap();
                let payloads: Vec<_> = messages.iter().map(|message| message.payload.to_vec()).collect();
                assert_eq!(payloads, expected, "{like} like, {more} more, pieces of {piece}");
            }
        }
    }
}

#[test]
fn an_aborted_message_is_forgotten() {
    let mut bytes = header(0, 4, 10, 200, kind::AUDIO, 1);
    bytes.extend_from_slice(&[1; 128]);
    bytes.extend(header(0, 2, 0, 4, kind::ABORT, 0));
    bytes.extend_from_slice(&4_u32.to_be_bytes());
    bytes.extend(header(0, 4, 20, 2, kind::AUDIO, 1));
    bytes.extend_from_slice(&[2; 2]);
    // Of a stream that has none, and of one that nobody knows.
    for stream in [4_u32, 99] {
        bytes.extend(header(0, 2, 0, 4, kind::ABORT, 0));
        bytes.extend_from_slice(&stream.to_be_bytes());
    }
    assert_eq!(times(&bytes), [20]);
}

#[test]
fn video_is_counted_and_not_kept_unless_wanted() {
    let mut bytes = header(0, 6, 40, 200_000, kind::VIDEO, 1);
    for (index, chunk) in vec![5; 200_000].chunks(128).enumerate() {
        if index > 0 {
            bytes.extend(basic(3, 6));
        }
        bytes.extend_from_slice(chunk);
    }
    bytes.extend(header(0, 4, 41, 1, kind::AUDIO, 1));
    bytes.push(1);
    let mut reader = ChunkReader::new(false);
    let lengths = |messages: Vec<ChunkMessage>| {
        messages.iter().map(|message| (message.kind, message.payload.len())).collect::<Vec<_>>()
    };
    assert_eq!(lengths(read(&mut reader, &bytes, 999).unwrap()), [(kind::VIDEO, 0), (kind::AUDIO, 1)]);
    assert_eq!(reader.skipped_video_bytes(), 200_000);
    let mut reader = ChunkReader::new(true);
    assert_eq!(lengths(read(&mut reader, &bytes, 999).unwrap()), [(kind::VIDEO, 200_000), (kind::AUDIO, 1)]);
    assert_eq!(reader.skipped_video_bytes(), 0);
}
