use rtmp::{
    Address, ClientEvent, ClientSession, Event, Publish, Refusal, ServerSession, SessionError,
    amf0::Value,
    chunk::{ChunkWriter, kind},
    message::{Command, Message, UserControl},
};

use crate::made::{answers, command, connect, feed, hello, message, publish, request};

/// Status codes and results of the answers, in order.
fn codes(output: &[u8]) -> Vec<String> {
    let of = |command: Command| match command.name.as_str() {
        "onStatus" => command.arguments[0].get("code").and_then(Value::as_str).unwrap().to_owned(),
        name => format!("{name} {}", command.transaction),
    };
    let answers = answers(output);
    let commands = answers.iter().filter_map(|answer| match Message::read(answer).unwrap() {
        Message::Command(command) => Some(of(command)),
        _ => None,
    });
    commands.collect()
}

fn audio(timestamp: u32, data: &'static [u8]) -> Event {
    Event::Audio { timestamp, data: data.into() }
}

#[test]
fn a_whole_publication_in_every_cut() {
    let values: Vec<Value> = vec!["KEY".into()];
    let bytes = [
        hello(),
        connect("live"),
        command("releaseStream", 2.0, &values),
        command("FCPublish", 3.0, &values),
        command("createStream", 4.0, &[]),
        command("_checkbw", 5.0, &[]),
        publish("KEY?token=abc"),
        message(kind::DATA, 1, &[2, 0, 1, b'x']),
        message(kind::AUDIO, 1, &[0xAF, 0, 0x12, 0x10]),
        message(kind::AUDIO, 1, &[]),
        message(kind::AUDIO, 2, &[0xAF, 1]),
        command("FCUnpublish", 6.0, &values),
        command("deleteStream", 7.0, &[1.0.into()]),
        message(kind::AUDIO, 1, &[0xAF, 1]),
    ]
    .concat();
    let wanted = Publish {
        app: "live".to_owned(),
        key: "KEY".to_owned(),
        query: "token=abc".to_owned(),
        kind: "live".to_owned(),
    };
    for piece in (1..64).chain([100, 1_537, 3_073, 3_074, bytes.len()]) {
        let mut session = ServerSession::new(1, false);
        let (events, output, error) = feed(&mut session, &bytes, piece);
        assert_eq!(error, None);
        assert!(
            matches!(&events[0], Event::Connected(connect) if connect.app == "live" && !connect.enhanced)
        );
        assert!(matches!(&events[1], Event::PublishRequested(publish) if *publish == wanted));
        let data = Event::Data { timestamp: 0, data: (&[2, 0, 1, b'x'][..]).into() };
        assert_eq!(events[2..], [data, audio(0, &[0xAF, 0, 0x12, 0x10]), audio(0, &[]), Event::Unpublished]);
        let expected = [
            "_result 1",
            "_result 2",
            "_result 3",
            "_result 4",
            "_result 5",
            "NetStream.Publish.Start",
            "_result 6",
            "NetStream.Unpublish.Success",
        ];
        assert_eq!(codes(&output), expected);
        assert!(!session.publishing());
        assert_eq!(session.received_bytes(), bytes.len() as u64);
    }
}

#[test]
fn connect_is_answered_with_windows_and_chunk_size_first() {
    let (_, output, _) = feed(&mut ServerSession::new(1, false), &[hello(), connect("live")].concat(), 999);
    let kinds: Vec<_> = answers(&output).iter().map(|answer| answer.kind).collect();
    // The reader takes Set Chunk Size, and reads what follows by it.
    assert_eq!(kinds, [kind::WINDOW_ACK_SIZE, kind::SET_PEER_BANDWIDTH, kind::COMMAND]);
}

#[test]
fn enhanced_publishers_are_told_what_is_taken() {
    for name in ["capsEx", "fourCcList", "audioFourCcInfoMap", "videoFourCcInfoMap"] {
        let object = Value::object([("app", "live".into()), (name, 15.0.into())]);
        let connect = Command { object, ..Command::new("connect", 1.0, vec![]) }.payload();
        let mut session = ServerSession::new(1, false);
        let (events, output, _) =
            feed(&mut session, &[hello(), message(kind::COMMAND, 0, &connect)].concat(), 999);
        assert!(matches!(&events[0], Event::Connected(connect) if connect.enhanced));
        let answer = answers(&output).pop().unwrap();
        let Message::Command(answer) = Message::read(&answer).unwrap() else { panic!("a command") };
        let Some(Value::StrictArray(four_ccs)) = answer.arguments[0].get("fourCcList") else {
            panic!("a list")
        };
        for four_cc in ["mp4a", "Opus", "fLaC", ".mp3"] {
            assert!(four_ccs.contains(&four_cc.into()));
        }
        assert_eq!(answer.arguments[0].get("capsEx"), Some(&Value::Number(15.0)));
        assert_eq!(session.request_reconnect(), name == "capsEx");
        assert_eq!(session.take_output().is_empty(), name != "capsEx");
    }
}

#[test]
fn key_and_query_are_found_wherever_they_stand() {
    let cases = [
        ("live", "rtmp://h/live", "KEY", ("live", "KEY", "")),
        ("live", "rtmp://h/live", "KEY?token=a?b", ("live", "KEY", "token=a?b")),
        ("live?token=a", "rtmp://h/live?token=a", "KEY", ("live", "KEY", "token=a")),
        ("live", "rtmp://h/live?token=a", "KEY", ("live", "KEY", "token=a")),
        ("/live/", "rtmp://h/live/", "KEY?b", ("live", "KEY", "b")),
        ("live/room", "rtmp://h/live/room", "a.b-c_d", ("live/room", "a.b-c_d", "")),
    ];
    for (app, tc_url, name, (expected_app, key, query)) in cases {
        let object = Value::object([("app", app.into()), ("tcUrl", tc_url.into())]);
        let connect = Command { object, ..Command::new("connect", 1.0, vec![]) }.payload();
        let bytes = [hello(), message(kind::COMMAND, 0, &connect), publish(name)].concat();
        let (events, _, error) = feed(&mut ServerSession::new(1, false), &bytes, 999);
        assert_eq!(error, None);
        let Some(Event::PublishRequested(publish)) = events.last() else { panic!("{events:?}") };
        assert_eq!(
            (publish.app.as_str(), publish.key.as_str(), publish.query.as_str()),
            (expected_app, key, query)
        );
        assert!(!format!("{events:?}").contains("KEY"), "a key is not shown");
    }
}

#[test]
fn nothing_is_read_until_a_publish_is_decided() {
    let bytes = [request(), message(kind::AUDIO, 1, &[0xAF, 1, 5])].concat();
    let mut session = ServerSession::new(1, false);
    let mut input = bytes.as_slice();
    while !matches!(session.receive(&mut input), Ok(Some(Event::PublishRequested(_)))) {}
    let waiting = input.len();
    assert_eq!(session.receive(&mut input), Ok(None));
    assert_eq!(input.len(), waiting);
    session.accept();
    assert_eq!(session.receive(&mut input), Ok(Some(audio(0, &[0xAF, 1, 5]))));
    assert_eq!(session.receive(&mut input), Ok(None));
}

#[test]
fn refusals_say_why_and_drop_what_follows() {
    let cases = [
        (Refusal::KeyInUse, "NetStream.Publish.BadName"),
        (Refusal::Denied, "NetStream.Publish.Denied"),
        (Refusal::Unavailable, "NetStream.Publish.Failed"),
    ];
    for (refusal, code) in cases {
        let (bytes, mut session) = (request(), ServerSession::new(1, false));
        let mut input = bytes.as_slice();
        while !matches!(session.receive(&mut input), Ok(Some(Event::PublishRequested(_)))) {}
        session.refuse(refusal, "because");
        assert_eq!(codes(&session.take_output()).last().unwrap(), code);
        // Decisions are taken once.
        session.accept();
        assert!(!session.publishing());
        let late = message(kind::AUDIO, 1, &[1]);
        assert_eq!(session.receive(&mut late.as_slice()), Ok(None));
    }
}

#[test]
fn an_ended_publication_is_told_so() {
    let mut session = ServerSession::new(1, false);
    feed(&mut session, &request(), 999);
    assert!(session.publishing());
    session.end("another took over");
    assert!(!session.publishing());
    let output = [vec![0; 1 + 2 * 1536], session.take_output()].concat();
    assert_eq!(codes(&output), ["NetStream.Unpublish.Success"]);
}

#[test]
fn a_connection_publishes_once_at_a_time_and_may_again() {
    let bytes = [
        request(),
        publish("OTHER"),
        command("deleteStream", 6.0, &[9.0.into()]),
        message(kind::AUDIO, 1, &[1]),
        command("closeStream", 0.0, &[]),
        publish("AGAIN"),
        message(kind::AUDIO, 1, &[2]),
    ]
    .concat();
    let (events, output, error) = feed(&mut ServerSession::new(1, false), &bytes, 999);
    assert_eq!(error, None);
    assert!(matches!(events[1], Event::PublishRequested(_)));
    assert_eq!(events[2..4], [audio(0, &[1]), Event::Unpublished]);
    assert!(matches!(&events[4], Event::PublishRequested(publish) if publish.key == "AGAIN"));
    assert_eq!(events[5], audio(0, &[2]));
    let expected = ["NetStream.Publish.Start", "NetStream.Publish.BadName"];
    assert_eq!(codes(&output)[2..4], expected);
}

#[test]
fn video_is_handed_out_in_order_when_wanted() {
    let media = [
        message(kind::VIDEO, 1, &[0x17; 300]),
        message(kind::AUDIO, 1, &[1]),
        message(kind::VIDEO, 1, &[0x27; 5]),
    ]
    .concat();
    let bytes = [request(), media].concat();
    let mut session = ServerSession::new(1, true);
    let (events, _, _) = feed(&mut session, &bytes, 7);
    let video = |data: &[u8]| Event::Video { timestamp: 0, data: data.to_vec().into() };
    assert_eq!(events[2..], [video(&[0x17; 300]), audio(0, &[1]), video(&[0x27; 5])]);
    let mut session = ServerSession::new(1, false);
    let (events, _, _) = feed(&mut session, &bytes, 7);
    assert_eq!(events[2..], [audio(0, &[1])]);
    assert_eq!(session.skipped_video_bytes(), 305);
}

#[test]
fn aggregates_become_their_parts() {
    let part = |kind: u8, time: u8, data: u8| vec![kind, 0, 0, 1, 0, 0, time, 0, 0, 0, 0, data, 0, 0, 0, 12];
    let inside = [part(8, 50, 1), part(9, 51, 2), part(22, 52, 3), part(8, 70, 4)].concat();
    let mut bytes = request();
    ChunkWriter::new().write(4, 1_000, kind::AGGREGATE, 1, &inside, &mut bytes);
    let (events, _, error) = feed(&mut ServerSession::new(1, false), &bytes, 999);
    assert_eq!(error, None);
    assert_eq!(events[2..], [audio(1_000, &[1]), audio(1_020, &[4])]);
}

#[test]
fn pings_are_answered_and_asked() {
    let ping = message(kind::USER_CONTROL, 0, &UserControl::PingRequest(77).payload());
    let pong = message(kind::USER_CONTROL, 0, &UserControl::PingResponse(78).payload());
    let mut session = ServerSession::new(1, false);
    let (events, output, _) = feed(&mut session, &[hello(), ping, pong].concat(), 999);
    assert_eq!(events, [Event::Pong(78)]);
    assert_eq!(Message::read(&answers(&output)[0]), Ok(Message::UserControl(UserControl::PingResponse(77))));
    session.ping(5);
    let output = [vec![0; 1 + 2 * 1536], session.take_output()].concat();
    assert_eq!(Message::read(&answers(&output)[0]), Ok(Message::UserControl(UserControl::PingRequest(5))));
}

#[test]
fn bytes_are_acknowledged_by_the_window() {
    let window = message(kind::WINDOW_ACK_SIZE, 0, &1_000_u32.to_be_bytes());
    let media = message(kind::AUDIO, 1, &[1; 900]);
    let mut session = ServerSession::new(1, false);
    feed(&mut session, &[request(), window].concat(), 100_000);
    let mut acknowledged = Vec::new();
    for _ in 0..4 {
        let (_, output, _) = feed(&mut session, &media, 100_000);
        let output = [vec![0; 1 + 2 * 1536], output].concat();
        for answer in answers(&output) {
            assert!(
                matches!(Message::read(&answer), Ok(Message::Acknowledgement(bytes)) if u64::from(bytes) == session.received_bytes())
            );
            acknowledged.push(session.received_bytes());
        }
    }
    // 919 bytes each with their headers: after the first at once, since all before it counts, then every second one.
    assert_eq!(acknowledged.len(), 2, "{acknowledged:?}");
}

#[test]
fn what_is_not_served_is_answered() {
    let bytes = [
        hello(),
        connect("live"),
        command("getStreamLength", 9.0, &["KEY".into()]),
        command("silent", 0.0, &[]),
        command("play", 0.0, &["KEY".into()]),
        command("_result", 3.0, &[]),
    ]
    .concat();
    let (_, output, error) = feed(&mut ServerSession::new(1, false), &bytes, 999);
    assert_eq!(error, None);
    assert_eq!(codes(&output), ["_result 1", "_error 9", "NetStream.Play.StreamNotFound"]);
}

/// Client and server of ours, wired together; what the server saw and what the client saw.
struct Wire {
    client: ClientSession,
    server: ServerSession,
    seen: Vec<Event>,
    told: Vec<ClientEvent>,
}

impl Wire {
    fn new() -> Self {
        let address = Address::parse("rtmp://host/live/KEY?token=abc").unwrap();
        let client = ClientSession::new(address, true, 1);
        Self { client, server: ServerSession::new(2, true), seen: vec![], told: vec![] }
    }

    /// Carries bytes until nobody has any; whether something was carried.
    fn settle(&mut self, piece: usize, decide: fn(&mut ServerSession)) {
        loop {
            let (up, down) = (self.client.take_output(), self.server.take_output());
            if up.is_empty() && down.is_empty() {
                return;
            }
            for mut input in up.chunks(piece) {
                while let Some(event) = self.server.receive(&mut input).unwrap() {
                    if let Event::PublishRequested(_) = event {
                        decide(&mut self.server);
                    }
                    self.seen.push(event);
                }
            }
            for mut input in down.chunks(piece) {
                while let Some(event) = self.client.receive(&mut input).unwrap() {
                    self.told.push(event);
                }
            }
        }
    }
}

#[test]
fn our_client_publishes_to_our_server() {
    for piece in [1, 13, 4_096, usize::MAX] {
        let mut wire = Wire::new();
        assert_eq!(wire.client.send_audio(0, &[1]), Err(SessionError::NotPublishing));
        wire.settle(piece, ServerSession::accept);
        assert_eq!(wire.told, [ClientEvent::Publishing]);
        assert!(
            matches!(&wire.seen[0], Event::Connected(connect) if connect.enhanced && connect.app == "live")
        );
        assert!(
            matches!(&wire.seen[1], Event::PublishRequested(publish) if publish.key == "KEY" && publish.query == "token=abc")
        );

        let mut expected = Vec::new();
        for timestamp in [0, 0xFF_FFFE, 0xFF_FFFF, 0x100_0000, u32::MAX, 5] {
            let tag = vec![timestamp as u8; 70_000];
            wire.client.send_data(timestamp, &tag).unwrap();
            wire.client.send_video(timestamp, &tag).unwrap();
            wire.client.send_audio(timestamp, &tag[..500]).unwrap();
            expected.push(Event::Data { timestamp, data: tag.clone().into() });
            expected.push(Event::Video { timestamp, data: tag.clone().into() });
            expected.push(Event::Audio { timestamp, data: tag[..500].to_vec().into() });
        }
        wire.settle(piece, ServerSession::accept);
        assert_eq!(wire.seen[2..], expected);

        wire.client.unpublish();
        wire.settle(piece, ServerSession::accept);
        assert_eq!(wire.seen.last(), Some(&Event::Unpublished));
        assert_eq!(wire.client.send_audio(0, &[1]), Err(SessionError::NotPublishing));
    }
}

#[test]
fn our_client_hears_refusals_ends_and_requests_to_reconnect() {
    let mut wire = Wire::new();
    wire.settle(99, |server| server.refuse(Refusal::KeyInUse, "somebody else publishes"));
    assert_eq!(wire.told, [ClientEvent::Refused("somebody else publishes".to_owned())]);

    let mut wire = Wire::new();
    wire.settle(99, ServerSession::accept);
    wire.server.end("stopped");
    wire.settle(99, ServerSession::accept);
    assert_eq!(wire.told, [ClientEvent::Publishing, ClientEvent::Unpublished]);
}

#[test]
fn our_client_does_not_pile_up_output() {
    let mut wire = Wire::new();
    wire.settle(4_096, ServerSession::accept);
    let tag = vec![0; 1024 * 1024];
    let refused = (0..20).find_map(|_| wire.client.send_video(0, &tag).err());
    assert_eq!(refused, Some(SessionError::OutputFull));
    assert!(wire.client.output_bytes() < rtmp::CLIENT_OUTPUT_BYTES_MAX + 2 * tag.len());
}
