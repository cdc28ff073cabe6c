use bytes::Bytes;
use rtmp::{
    amf0::{AmfError, Value},
    chunk::{ChunkMessage, kind},
    message::{Command, Message, MessageError, UserControl},
};

fn read(kind: u8, payload: &[u8]) -> Result<Message, MessageError> {
    let payload = Bytes::copy_from_slice(payload);
    Message::read(&ChunkMessage { timestamp: 1_000, kind, stream_id: 1, payload })
}

#[test]
fn control_messages_are_read() {
    let cases: &[(u8, &[u8], Message)] = &[
        (kind::ACKNOWLEDGEMENT, &[0, 0, 1, 0], Message::Acknowledgement(256)),
        (kind::WINDOW_ACK_SIZE, &[0xFF; 4], Message::WindowAckSize(u32::MAX)),
        (kind::SET_PEER_BANDWIDTH, &[0, 0, 0, 9, 2], Message::SetPeerBandwidth(9)),
        (kind::USER_CONTROL, &[0, 0, 0, 0, 0, 1], Message::UserControl(UserControl::StreamBegin(1))),
        (kind::USER_CONTROL, &[0, 31, 7], Message::UserControl(UserControl::Other)),
        (kind::AUDIO, &[1, 2], Message::Audio(Bytes::from_static(&[1, 2]))),
        (kind::AUDIO, &[], Message::Audio(Bytes::new())),
        (kind::VIDEO, &[3], Message::Video(Bytes::from_static(&[3]))),
        (kind::DATA, &[2, 0, 0], Message::Data(Bytes::from_static(&[2, 0, 0]))),
        (kind::DATA_AMF3, &[0, 2, 0, 0], Message::Data(Bytes::from_static(&[2, 0, 0]))),
        (0, &[], Message::Other),
        (7, &[], Message::Other),
        (16, &[1], Message::Other),
        (255, &[1], Message::Other),
    ];
    for (kind, payload, message) in cases {
        assert_eq!(read(*kind, payload).as_ref(), Ok(message), "{kind} {payload:?}");
    }
}

#[test]
fn user_control_survives_a_round_trip() {
    let events = [
        UserControl::StreamBegin(1),
        UserControl::StreamEnd(u32::MAX),
        UserControl::SetBufferLength { stream_id: 1, milliseconds: 3_000 },
        UserControl::PingRequest(7),
        UserControl::PingResponse(8),
    ];
    for event in events {
        let payload = event.payload();
        assert_eq!(read(kind::USER_CONTROL, &payload), Ok(Message::UserControl(event)));
        for cut in 0..payload.len() {
            assert_eq!(
                read(kind::USER_CONTROL, &payload[..cut]),
                Err(MessageError::Control),
                "{event:?} {cut}"
            );
        }
    }
}

#[test]
fn short_control_messages_are_refused() {
    for kind in [kind::ACKNOWLEDGEMENT, kind::WINDOW_ACK_SIZE, kind::SET_PEER_BANDWIDTH] {
        for length in 0..4 {
            assert_eq!(read(kind, &[0; 3][..length]), Err(MessageError::Control), "{kind} {length}");
        }
    }
}

#[test]
fn commands_are_read_in_both_envelopes() {
    let object = Value::object([("app", "live".into())]);
    let sent = Command { object, ..Command::new("connect", 1.0, vec![Value::Null, 2.0.into()]) };
    let payload = sent.payload();
    assert_eq!(read(kind::COMMAND, &payload), Ok(Message::Command(sent.clone())));
    assert_eq!(
        read(kind::COMMAND_AMF3, &[&[0], payload.as_slice()].concat()),
        Ok(Message::Command(sent.clone()))
    );
    assert_eq!(read(kind::COMMAND_AMF3, &payload), Ok(Message::Command(sent)));
    // Only a name: no transaction, no object.
    assert_eq!(read(kind::COMMAND, &[2, 0, 1, b'x']), Ok(Message::Command(Command::new("x", 0.0, vec![]))));
}

#[test]
fn what_is_no_command_is_refused() {
    let cases: &[(&[u8], MessageError)] = &[
        (&[], MessageError::Command),
        (&[5], MessageError::Command),
        (&[0, 0, 0, 0, 0, 0, 0, 0, 0], MessageError::Command),
        (&[2, 0, 9, b'x'], MessageError::Amf(AmfError::Truncated)),
        (&[2, 0, 1, b'x', 17, 1], MessageError::Amf(AmfError::Amf3)),
        (&[2, 0, 1, b'x', 99], MessageError::Amf(AmfError::Marker)),
    ];
    for (payload, error) in cases {
        assert_eq!(read(kind::COMMAND, payload), Err(*error), "{payload:?}");
    }
}

fn part(kind: u8, timestamp: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    bytes.extend_from_slice(&timestamp.to_be_bytes()[1..]);
    bytes.push(timestamp.to_be_bytes()[0]);
    bytes.extend_from_slice(&[0; 3]);
    bytes.extend_from_slice(payload);
    bytes.extend_from_slice(&(payload.len() as u32 + 11).to_be_bytes());
    bytes
}

fn parts(payload: &[u8]) -> Result<Vec<ChunkMessage>, MessageError> {
    let Message::Aggregate(mut aggregate) = read(kind::AGGREGATE, payload)? else { panic!("an aggregate") };
    let mut parts = Vec::new();
    while let Some(part) = aggregate.part()? {
        parts.push(part);
    }
    Ok(parts)
}

#[test]
fn aggregates_come_apart_at_the_time_of_their_message() {
    let bytes =
        [part(8, 0x0500_0000, &[1]), part(9, 0x0500_0010, &[]), part(18, 0x0500_0014, &[2; 300])].concat();
    let expected: Vec<_> = [(8, 1_000, vec![1]), (9, 1_016, vec![]), (18, 1_020, vec![2; 300])]
        .into_iter()
        .map(|(kind, timestamp, payload)| ChunkMessage {
            timestamp,
            kind,
            stream_id: 1,
            payload: payload.into(),
        })
        .collect();
    assert_eq!(parts(&bytes), Ok(expected.clone()));
    // Without the last back pointer, or with half of it.
    for missing in 1..=4 {
        assert_eq!(parts(&bytes[..bytes.len() - missing]), Ok(expected.clone()));
    }
    assert_eq!(parts(&[]), Ok(vec![]));
}

#[test]
fn aggregates_that_end_early_are_refused() {
    let bytes = part(8, 0, &[1; 5]);
    for cut in 1..16 {
        assert_eq!(parts(&bytes[..cut]), Err(MessageError::Aggregate), "{cut}");
    }
}
