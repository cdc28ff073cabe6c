//! What real publishers and a real server sent, replayed in any cut; see tests/recordings.

use rtmp::{
    Address, AudioPackets, ClientEvent, ClientSession, Event, Kind, ServerSession, SessionError, Step,
    Timeline,
};

use crate::made::feed;

/// Packets of configuration and of sound on each track, and where the last lies in milliseconds.
#[derive(Debug, Default, PartialEq)]
struct Heard {
    codec: &'static str,
    configs: usize,
    frames: [usize; 2],
    end_ms: u64,
}

fn hear(recording: &[u8], piece: usize) -> Heard {
    let mut session = ServerSession::new(1, false);
    let (events, _, error) = feed(&mut session, recording, piece);
    assert_eq!(error, None);
    assert!(matches!(&events[0], Event::Connected(connect) if connect.app == "live"));
    assert!(matches!(&events[1], Event::PublishRequested(publish) if publish.key == "KEY"));
    assert_eq!(events.last(), Some(&Event::Unpublished));
    let (mut heard, mut timeline) = (Heard::default(), Timeline::starting_at(0));
    for event in &events {
        let Event::Audio { timestamp, data } = event else { continue };
        let moment = timeline.advance(*timestamp, 0);
        assert!(matches!(moment.step, Step::Forward { .. }), "{moment:?}");
        heard.end_ms = moment.at_ms;
        for packet in AudioPackets::new(data) {
            let packet = packet.unwrap();
            heard.codec = packet.codec.label();
            match packet.kind {
                Kind::Config => heard.configs += 1,
                Kind::Frames => heard.frames[usize::from(packet.track)] += 1,
                Kind::End => {}
            }
        }
    }
    heard
}

#[test]
fn real_publishers_are_understood_in_any_cut() {
    let heard = |codec, configs, frames, end_ms| Heard { codec, configs, frames, end_ms };
    let cases: [(&str, &[u8], Heard); 8] = [
        ("ffmpeg-aac", include_bytes!("../recordings/ffmpeg-aac.rtmp"), heard("aac", 1, [19, 0], 418)),
        ("ffmpeg-opus", include_bytes!("../recordings/ffmpeg-opus.rtmp"), heard("opus", 1, [21, 0], 401)),
        (
            "ffmpeg-two-tracks",
            include_bytes!("../recordings/ffmpeg-two-tracks.rtmp"),
            heard("opus", 2, [21, 21], 401),
        ),
        ("ffmpeg-mp3", include_bytes!("../recordings/ffmpeg-mp3.rtmp"), heard("mp3", 0, [17, 0], 418)),
        ("ffmpeg-flac", include_bytes!("../recordings/ffmpeg-flac.rtmp"), heard("flac", 2, [19, 0], 400)),
        ("ffmpeg-video", include_bytes!("../recordings/ffmpeg-video.rtmp"), heard("aac", 1, [19, 0], 418)),
        ("rtmpsink-aac", include_bytes!("../recordings/rtmpsink-aac.rtmp"), heard("aac", 1, [19, 0], 418)),
        ("rtmp2sink-aac", include_bytes!("../recordings/rtmp2sink-aac.rtmp"), heard("aac", 1, [19, 0], 418)),
    ];
    for (name, recording, expected) in cases {
        for piece in [1, 2, 3, 100, 1_537, 16 * 1024] {
            assert_eq!(hear(recording, piece), expected, "{name}, pieces of {piece}");
        }
    }
}

#[test]
fn a_recording_that_stops_anywhere_waits() {
    let recording = include_bytes!("../recordings/ffmpeg-aac.rtmp");
    for end in 0..recording.len() {
        let (_, _, error) = feed(&mut ServerSession::new(1, false), &recording[..end], usize::MAX);
        assert_eq!(error, None, "{end}");
    }
}

#[test]
fn a_real_server_is_understood_in_any_cut() -> Result<(), SessionError> {
    let recording = include_bytes!("../recordings/ffmpeg-server.rtmp");
    for piece in [1, 2, 100, recording.len()] {
        let mut session = ClientSession::new(Address::parse("rtmp://host/live/KEY").unwrap(), true, 1);
        let mut told = Vec::new();
        for mut input in recording.chunks(piece) {
            while let Some(event) = session.receive(&mut input)? {
                told.push(event);
            }
        }
        assert_eq!(told, [ClientEvent::Publishing]);
    }
    Ok(())
}
