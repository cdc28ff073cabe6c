//! What must hold for any bytes: no panic, bounded answers, and the same result however the bytes are cut.

use rtmp::{
    Address, AudioPackets, ClientEvent, ClientSession, Event, OUTPUT_BYTES_MAX, Refusal, ServerSession, SessionError,
    Timeline,
    amf0::{AmfError, ELEMENTS_MAX, Reader, Value},
    chunk::{ChunkError, ChunkMessage, ChunkReader, ChunkWriter, kind},
    handshake::{ClientHandshake, HandshakeError, PACKET_BYTES, ServerHandshake},
    message::Command,
};

/// The first byte says how to cut the others.
fn cut(data: &[u8]) -> Option<(usize, &[u8])> {
    data.split_first().map(|(&cut, bytes)| (usize::from(cut) + 1, bytes))
}

/// The handshake of both sides.
pub fn handshake(data: &[u8]) {
    let Some((piece, bytes)) = cut(data) else { return };
    type Outcome = Result<(bool, usize, Vec<u8>), HandshakeError>;
    let serve = |piece: usize| -> Outcome {
        let (mut side, mut output, mut done, mut left) = (ServerHandshake::new(1), Vec::new(), false, 0);
        for mut input in bytes.chunks(piece) {
            done = done || side.receive(&mut input, &mut output)?;
            left += input.len();
        }
        Ok((done, left, output))
    };
    let call = |piece: usize| -> Outcome {
        let mut output = Vec::new();
        let (mut side, mut done, mut left) = (ClientHandshake::new(1, &mut output), false, 0);
        for mut input in bytes.chunks(piece) {
            done = done || side.receive(&mut input, &mut output)?;
            left += input.len();
        }
        Ok((done, left, output))
    };
    for (whole, pieces) in [(serve(usize::MAX), serve(piece)), (call(usize::MAX), call(piece))] {
        assert_eq!(whole, pieces);
        if let Ok((done, left, output)) = whole {
            assert!(output.len() <= 1 + 2 * PACKET_BYTES);
            assert_eq!(done, bytes.len() > 2 * PACKET_BYTES);
            assert_eq!(left, bytes.len().saturating_sub(1 + 2 * PACKET_BYTES));
        }
    }
}

fn messages(bytes: &[u8], piece: usize, keep_video: bool) -> (Vec<ChunkMessage>, Option<ChunkError>) {
    let (mut reader, mut messages) = (ChunkReader::new(keep_video), Vec::new());
    for mut input in bytes.chunks(piece) {
        loop {
            match reader.read(&mut input) {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
        assert!(input.is_empty());
    }
    (messages, None)
}

/// The chunk reader, and the writer on what it read.
pub fn chunks(data: &[u8]) {
    let Some((piece, bytes)) = cut(data) else { return };
    let keep_video = piece % 2 == 0;
    let (read, error) = messages(bytes, usize::MAX, keep_video);
    assert_eq!((read.clone(), error), messages(bytes, piece, keep_video));
    let (mut writer, mut written) = (ChunkWriter::new(), Vec::new());
    writer.set_chunk_bytes(piece as u32, &mut written);
    for message in &read {
        assert!(message.payload.len() <= bytes.len());
        writer.write(5, message.timestamp, message.kind, message.stream_id, &message.payload, &mut written);
    }
    assert_eq!(messages(&written, usize::MAX, keep_video), (read, None));
}

fn values(bytes: &[u8]) -> (Vec<Value>, Option<AmfError>) {
    let (mut reader, mut values) = (Reader::new(bytes), Vec::new());
    loop {
        match reader.read() {
            Ok(Some(value)) => values.push(value),
            Ok(None) => return (values, None),
            Err(error) => return (values, Some(error)),
        }
    }
}

/// AMF0 values, and what is written of them.
pub fn amf(data: &[u8]) {
    let (read, _) = values(data);
    assert!(read.len() <= ELEMENTS_MAX);
    let write = |values: &[Value]| {
        let mut written = Vec::new();
        values.iter().for_each(|value| value.write(&mut written));
        written
    };
    let written = write(&read);
    let (again, error) = values(&written);
    assert_eq!(error, None);
    // Numbers can be no number, which equals nothing; their bytes do.
    assert_eq!(write(&again), written);
}

/// Audio tags, old and enhanced.
pub fn flv(data: &[u8]) {
    let mut bytes = 0;
    for packet in AudioPackets::new(data).flatten() {
        bytes += packet.data.len() + 1;
        assert!(packet.timestamp_offset_ns < 1_000_000);
    }
    assert!(bytes <= data.len() + 1);
}

/// What comes before the fuzzed bytes, so that they reach every stage of a session.
fn stage(stage: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    if stage == 0 {
        return bytes;
    }
    bytes.push(3);
    bytes.resize(1 + 2 * PACKET_BYTES, 0);
    let writer = ChunkWriter::new();
    let mut say = |stream_id, command: Command| {
        writer.write(3, 0, kind::COMMAND, stream_id, &command.payload(), &mut bytes);
    };
    if stage >= 2 {
        let object = Value::object([("app", "live".into()), ("capsEx", 1.0.into())]);
        say(0, Command { object, ..Command::new("connect", 1.0, vec![]) });
    }
    if stage >= 3 {
        say(0, Command::new("createStream", 2.0, vec![]));
        say(1, Command::new("publish", 3.0, vec!["KEY?token=x".into()]));
    }
    bytes
}

/// What a publisher did, up to the first error.
fn serve(start: &[u8], bytes: &[u8], piece: usize, keep_video: bool) -> (Vec<Event>, Option<SessionError>) {
    let mut session = ServerSession::new(1, keep_video);
    let (mut events, mut timeline, mut before) = (Vec::new(), Timeline::starting_at(0), 0);
    for mut input in start.chunks(16 * 1024).chain(bytes.chunks(piece)) {
        loop {
            let event = session.receive(&mut input);
            let output = session.take_output();
            assert!(output.len() <= OUTPUT_BYTES_MAX + 8 * 1024, "{} bytes of answers", output.len());
            match event {
                Ok(Some(event)) => {
                    match &event {
                        Event::PublishRequested(publish) if publish.key.len() % 5 == 4 => {
                            session.refuse(Refusal::Denied, "no");
                        }
                        Event::PublishRequested(_) => session.accept(),
                        Event::Audio { timestamp, data } => {
                            let moment = timeline.advance(*timestamp, 20);
                            assert!(moment.at_ms >= before);
                            before = moment.at_ms;
                            flv(data);
                        }
                        _ => {}
                    }
                    events.push(event);
                }
                Ok(None) => break,
                Err(error) => {
                    assert!(SessionError::LABELS.contains(&error.label()));
                    return (events, Some(error));
                }
            }
        }
        assert!(input.is_empty());
    }
    (events, None)
}

/// What a publisher of ours was told, up to the first error.
fn call(bytes: &[u8], piece: usize) -> (Vec<ClientEvent>, Option<SessionError>) {
    let Ok(address) = Address::parse("rtmp://host/live/KEY") else { return (vec![], None) };
    let (mut session, mut told) = (ClientSession::new(address, true, 1), Vec::new());
    let hello = stage(1);
    for mut input in hello.chunks(16 * 1024).chain(bytes.chunks(piece)) {
        loop {
            let event = session.receive(&mut input);
            session.take_output();
            match event {
                Ok(Some(event)) => {
                    if event == ClientEvent::Publishing {
                        assert_eq!(session.send_audio(u32::MAX, &[0xAF, 1]), Ok(()));
                    }
                    told.push(event);
                }
                Ok(None) => break,
                Err(error) => return (told, Some(error)),
            }
        }
    }
    (told, None)
}

/// Whole sessions of both sides; the second byte says where the fuzzed bytes begin and whether video is kept.
pub fn session(data: &[u8]) {
    let Some((piece, rest)) = cut(data) else { return };
    let Some((&mode, bytes)) = rest.split_first() else { return };
    if mode & 8 != 0 {
        let (whole, pieces) = (call(bytes, 16 * 1024), call(bytes, piece));
        assert_eq!(whole, pieces);
        return;
    }
    let (start, keep_video) = (stage(mode & 3), mode & 4 != 0);
    let (whole, pieces) = (serve(&start, bytes, 16 * 1024, keep_video), serve(&start, bytes, piece, keep_video));
    // How many answers wait depends on how often they are taken.
    if whole.1 != Some(SessionError::OutputFull) {
        assert_eq!(whole, pieces);
    }
}
