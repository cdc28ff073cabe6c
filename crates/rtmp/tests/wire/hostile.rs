//! What arrives at an open port. Each case is fed whole, in pieces and byte by byte, and ends as it says.

use rtmp::{
    Event, OUTPUT_BYTES_MAX, ServerSession, SessionError,
    amf0::Value,
    chunk::{PENDING_BYTES_MAX, kind},
    message::{Command, UserControl},
};

use crate::made::{Dice, basic, command, connect, feed, header, hello, message, publish, request};

/// How a case ends: with this label, or waiting for more.
enum End {
    Refused(&'static str),
    Waits,
}

use End::{Refused, Waits};

fn check(name: &str, bytes: &[u8], end: &End) {
    for piece in [1, 100, 16 * 1024, usize::MAX] {
        let mut session = ServerSession::new(1, false);
        let (_, output, error) = feed(&mut session, bytes, piece);
        match end {
            Refused(label) => {
                assert_eq!(error.map(SessionError::label), Some(*label), "{name}, pieces of {piece}")
            }
            Waits => assert_eq!(error, None, "{name}, pieces of {piece}"),
        }
        assert!(output.len() < bytes.len() * 12 + 8_000, "{name}: {} bytes of answers", output.len());
    }
}

fn after_hello(bytes: &[&[u8]]) -> Vec<u8> {
    [hello(), bytes.concat()].concat()
}

fn after_connect(bytes: &[&[u8]]) -> Vec<u8> {
    [hello(), connect("live"), bytes.concat()].concat()
}

fn after_publish(bytes: &[&[u8]]) -> Vec<u8> {
    [request(), bytes.concat()].concat()
}

#[test]
fn before_and_in_the_handshake() {
    let tls = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3][..], &[7; 500]].concat();
    let cases: &[(&str, Vec<u8>, End)] = &[
        ("nothing", vec![], Waits),
        ("an HTTP request", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), Refused("handshake_version")),
        ("a TLS hello", tls, Refused("handshake_version")),
        ("an SSH banner", b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(), Refused("handshake_version")),
        ("a PROXY header", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n".to_vec(), Refused("handshake_version")),
        ("encrypted RTMP", vec![6; 1_537], Refused("handshake_version")),
        ("zeros", vec![0; 4_000], Refused("handshake_version")),
        ("a version only", vec![3], Waits),
        ("half a C1", hello()[..700].to_vec(), Waits),
        ("C1 without its last byte", hello()[..1_536].to_vec(), Waits),
        ("no C2", hello()[..1_537].to_vec(), Waits),
        ("half a C2", hello()[..2_000].to_vec(), Waits),
        ("a C1 whose digest would lie last", [vec![3], vec![0xFF; 2 * 1_536]].concat(), Waits),
    ];
    for (name, bytes, end) in cases {
        check(name, bytes, end);
    }
}

#[test]
fn in_chunks() {
    let video = |length| header(0, 6, 0, length, kind::VIDEO, 1);
    let many: Vec<u8> = (3..20).flat_map(|stream| header(0, stream, 0, 0, 99, 1)).collect();
    let chunk_size =
        |bytes: &[u8]| [header(0, 2, 0, bytes.len(), kind::SET_CHUNK_SIZE, 0), bytes.to_vec()].concat();
    let cases: &[(&str, Vec<u8>, End)] = &[
        ("type 3 without a header", basic(3, 3), Refused("chunk_header_missing")),
        ("type 3 on stream 64", basic(3, 64), Refused("chunk_header_missing")),
        ("type 3 on stream 65599", basic(3, 65_599), Refused("chunk_header_missing")),
        ("type 2 without a header", header(2, 3, 0, 0, 0, 0), Refused("chunk_header_missing")),
        ("noise", vec![0xFF; 3_000], Refused("chunk_header_missing")),
        ("seventeen chunk streams", many, Refused("chunk_streams")),
        ("a command of 16 MB", header(0, 3, 0, 0xFF_FFFF, kind::COMMAND, 0), Refused("message_too_large")),
        ("data of 16 MB", header(0, 3, 0, 0xFF_FFFF, kind::DATA, 0), Refused("message_too_large")),
        ("audio of 16 MB", header(0, 4, 0, 0xFF_FFFF, kind::AUDIO, 1), Refused("message_too_large")),
        ("audio one byte too long", header(0, 4, 0, 65_537, kind::AUDIO, 1), Refused("message_too_large")),
        (
            "a command one byte too long",
            header(0, 3, 0, 262_145, kind::COMMAND, 0),
            Refused("message_too_large"),
        ),
        (
            "an aggregate of 16 MB",
            header(0, 4, 0, 0xFF_FFFF, kind::AGGREGATE, 1),
            Refused("message_too_large"),
        ),
        (
            "a chunk size of 16 MB",
            header(0, 2, 0, 0xFF_FFFF, kind::SET_CHUNK_SIZE, 0),
            Refused("message_too_large"),
        ),
        ("a ping of 16 MB", header(0, 2, 0, 0xFF_FFFF, kind::USER_CONTROL, 0), Refused("message_too_large")),
        ("a type nobody knows of 16 MB", header(0, 3, 0, 0xFF_FFFF, 99, 0), Waits),
        ("video of 16 MB that does not come", [video(0xFF_FFFF), vec![0; 100]].concat(), Waits),
        ("video before anything", [video(100), vec![0; 100]].concat(), Refused("not_publishing")),
        ("chunks of 0", chunk_size(&[0; 4]), Refused("chunk_control")),
        ("chunks of 2^31", chunk_size(&[0x80, 0, 0, 0]), Refused("chunk_control")),
        ("chunks of 2^31 - 1", chunk_size(&[0x7F, 0xFF, 0xFF, 0xFF]), Waits),
        ("a chunk size of three bytes", chunk_size(&[0; 3]), Refused("chunk_control")),
        ("a chunk size of no bytes", chunk_size(&[]), Refused("chunk_control")),
        (
            "an abort of one byte",
            [header(0, 2, 0, 1, kind::ABORT, 0), vec![3]].concat(),
            Refused("chunk_control"),
        ),
        (
            "a header inside a message",
            [header(0, 3, 0, 200, kind::COMMAND, 0), vec![0; 128], header(0, 3, 0, 5, kind::COMMAND, 0)]
                .concat(),
            Refused("chunk_header_inside_message"),
        ),
    ];
    for (name, bytes, end) in cases {
        check(name, &after_hello(&[bytes]), end);
    }
    // Unfinished messages on many streams: one chunk of 100 000 bytes of each.
    let mut bytes = after_hello(&[&chunk_size(&100_000_u32.to_be_bytes())]);
    for stream in 3..9 {
        bytes.extend(header(0, stream, 0, 250_000, kind::DATA, 1));
        bytes.extend(vec![0; 100_000]);
    }
    assert!(bytes.len() > PENDING_BYTES_MAX);
    check("unfinished messages on many streams", &bytes, &Refused("pending_too_large"));
}

#[test]
fn in_messages() {
    let amf = |values: &[u8]| message(kind::COMMAND, 0, &[&[2, 0, 1, b'x'], values].concat());
    let nested = |depth| [3, 0, 1, b'a'].repeat(depth);
    let cases: &[(&str, Vec<u8>, End)] = &[
        ("17 objects in each other", amf(&nested(17)), Refused("amf_depth")),
        ("60000 objects in each other", amf(&nested(60_000)), Refused("amf_depth")),
        ("50000 arrays in each other", amf(&[10, 0, 0, 0, 1].repeat(50_000)), Refused("amf_depth")),
        ("an array of four billion", amf(&[10, 0xFF, 0xFF, 0xFF, 0xFF]), Refused("amf_truncated")),
        ("a quarter of a million nulls", amf(&[5; 262_000]), Refused("amf_elements")),
        ("a string of four gigabytes", amf(&[12, 0xFF, 0xFF, 0xFF, 0xFF]), Refused("amf_truncated")),
        ("AMF3 in AMF0", amf(&[17, 10, 11, 1]), Refused("amf_amf3")),
        ("a marker nobody knows", amf(&[200]), Refused("amf_marker")),
        ("a command that is a number", message(kind::COMMAND, 0, &[0; 9]), Refused("message_command")),
        ("an empty command", message(kind::COMMAND, 0, &[]), Refused("message_command")),
        (
            "an AMF3 command that is AMF3",
            message(kind::COMMAND_AMF3, 0, &[3, 6, 3]),
            Refused("amf_truncated"),
        ),
        ("half an acknowledgement", message(kind::ACKNOWLEDGEMENT, 0, &[0; 3]), Refused("message_control")),
        ("half a ping", message(kind::USER_CONTROL, 0, &[0, 6, 0]), Refused("message_control")),
        ("an event nobody knows", message(kind::USER_CONTROL, 0, &[9, 9]), Waits),
    ];
    for (name, bytes, end) in cases {
        check(name, &after_hello(&[bytes]), end);
    }
}

#[test]
fn out_of_turn() {
    let audio = message(kind::AUDIO, 1, &[0xAF, 1]);
    let video = message(kind::VIDEO, 1, &[0x17, 1]);
    let aggregate = |parts: &[u8]| message(kind::AGGREGATE, 1, parts);
    let long = "k".repeat(9_000);
    let number = Command { object: 7.0.into(), ..Command::new("connect", 1.0, vec![]) }.payload();
    let cases: &[(&str, Vec<u8>, End)] = &[
        ("publish without connect", after_hello(&[&publish("KEY")]), Refused("not_connected")),
        (
            "createStream without connect",
            after_hello(&[&command("createStream", 1.0, &[])]),
            Refused("not_connected"),
        ),
        ("play without connect", after_hello(&[&command("play", 0.0, &[])]), Refused("not_connected")),
        ("audio without connect", after_hello(&[&audio]), Refused("not_publishing")),
        (
            "metadata without connect",
            after_hello(&[&message(kind::DATA, 1, &[5])]),
            Refused("not_publishing"),
        ),
        ("an aggregate without connect", after_hello(&[&aggregate(&[])]), Refused("not_publishing")),
        ("audio without publish", after_connect(&[&audio]), Refused("not_publishing")),
        ("video without publish", after_connect(&[&video]), Refused("not_publishing")),
        ("connect twice", after_connect(&[&connect("live")]), Refused("connect")),
        ("connect to nothing", after_hello(&[&connect("")]), Refused("connect")),
        ("connect to slashes", after_hello(&[&connect("///?token=x")]), Refused("connect")),
        ("connect with a number", after_hello(&[&message(kind::COMMAND, 0, &number)]), Refused("connect")),
        ("connect with a long address", after_hello(&[&connect(&long)]), Refused("connect")),
        ("publish of nothing", after_connect(&[&command("publish", 5.0, &[])]), Refused("stream_name")),
        (
            "publish of a number",
            after_connect(&[&command("publish", 5.0, &[1.0.into()])]),
            Refused("stream_name"),
        ),
        ("publish of an empty name", after_connect(&[&publish("")]), Refused("stream_name")),
        ("publish of a query", after_connect(&[&publish("?token=x")]), Refused("stream_name")),
        ("publish of a long name", after_connect(&[&publish(&long)]), Refused("stream_name")),
        ("half an aggregate", after_publish(&[&aggregate(&[8, 0, 0, 9, 0])]), Refused("message_aggregate")),
        (
            "audio of 64 KiB and a byte in an aggregate",
            after_publish(&[&aggregate(&[&[8, 1, 0, 1][..], &[0; 7], &[0; 65_537], &[0; 4]].concat())]),
            Refused("message_too_large"),
        ),
        ("media of another stream", after_publish(&[&message(kind::AUDIO, 2, &[1])]), Waits),
        (
            "a delete of what is not there",
            after_publish(&[&command("deleteStream", 0.0, &[(-1.0).into()])]),
            Waits,
        ),
        ("a delete of no number", after_publish(&[&command("deleteStream", 0.0, &[f64::NAN.into()])]), Waits),
    ];
    for (name, bytes, end) in cases {
        check(name, bytes, end);
    }
}

#[test]
fn a_peer_that_does_not_read_its_answers_is_left() {
    let ping = message(kind::USER_CONTROL, 0, &UserControl::PingRequest(7).payload());
    let bandwidth = message(kind::SET_PEER_BANDWIDTH, 0, &[0, 0, 0, 1, 0]);
    let floods = [
        ("pings", ping),
        ("bandwidths", bandwidth),
        ("calls", command("x", 1.0, &[])),
        ("streams", command("createStream", 1.0, &[])),
        ("plays", command("play", 1.0, &[])),
        ("requests to publish", publish("AGAIN")),
    ];
    for (name, flood) in floods {
        let mut session = ServerSession::new(1, false);
        feed(&mut session, &request(), 999);
        let flood = flood.repeat(OUTPUT_BYTES_MAX / 10);
        let mut ended = None;
        for piece in flood.chunks(16 * 1024) {
            let mut input = piece;
            ended = loop {
                match session.receive(&mut input) {
                    Ok(Some(_)) => {}
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
            };
            if ended.is_some() {
                break;
            }
        }
        let most = session.take_output().len();
        assert_eq!(ended, Some(SessionError::OutputFull), "{name}");
        assert!(most < OUTPUT_BYTES_MAX + 4_096, "{name}: {most}");
    }
}

#[test]
fn a_window_of_one_byte_is_acknowledged_once_a_read() {
    let window = message(kind::WINDOW_ACK_SIZE, 0, &[0, 0, 0, 1]);
    let media = message(kind::AUDIO, 1, &[1]).repeat(1_000);
    let mut session = ServerSession::new(1, false);
    feed(&mut session, &after_publish(&[&window]), 999);
    let (events, output, _) = feed(&mut session, &media, 16 * 1024);
    assert_eq!(events.len(), 1_000);
    assert_eq!(output.len(), 16, "one acknowledgement");
}

#[test]
fn streams_are_created_up_to_a_limit() {
    let bytes = after_connect(&[&command("createStream", 1.0, &[]).repeat(20)]);
    let (_, output, error) = feed(&mut ServerSession::new(1, false), &bytes, 100);
    assert_eq!(error, None);
    let refusals = crate::made::answers(&output)
        .iter()
        .filter(|answer| answer.payload.windows(6).any(|bytes| bytes == b"_error"))
        .count();
    assert_eq!(refusals, 4);
}

#[test]
fn noise_behind_every_stage_is_survived() {
    let stages = [hello(), after_connect(&[]), request()];
    let mut dice = Dice::new(9);
    for round in 0..3_000 {
        let mut session = ServerSession::new(round, round % 2 == 0);
        let stage = &stages[dice.below(stages.len())];
        feed(&mut session, stage, usize::MAX);
        let length = 1 + dice.below(400);
        let mut noise = dice.bytes(length);
        // Half of it begins like a message of some type.
        if dice.below(2) == 0 {
            let kind = [1, 2, 3, 4, 5, 6, 8, 9, 15, 17, 18, 20, 22][dice.below(13)];
            let stream = [2, 3, 4][dice.below(3)];
            noise = [header(0, stream, 0, dice.below(noise.len() + 1), kind, 1), noise].concat();
        }
        let piece = 1 + dice.below(200);
        let (_, _, error) = feed(&mut session, &noise, piece);
        if let Some(error) = error {
            assert!(SessionError::LABELS.contains(&error.label()), "{error}");
        }
    }
}

#[test]
fn a_good_exchange_with_one_bit_wrong_ends_somehow() {
    let values: Vec<Value> = vec!["KEY".into()];
    let media = message(kind::AUDIO, 1, &[0xAF, 0, 0x12, 0x10]).repeat(3);
    let good = after_publish(&[&media, &command("FCUnpublish", 6.0, &values)]);
    for bit in 8 * 3_073..8 * good.len() {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let (events, output, _) = feed(&mut ServerSession::new(1, false), &bytes, 500);
        assert!(events.len() < 10);
        assert!(output.len() < 10_000);
        // No publish without a connect before it.
        let connected = events.iter().position(|event| matches!(event, Event::Connected(_)));
        let asked = events.iter().position(|event| matches!(event, Event::PublishRequested(_)));
        assert!(asked.is_none() || connected < asked);
        assert!(asked.is_none() || connected.is_some());
    }
}
