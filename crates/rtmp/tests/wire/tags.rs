use rtmp::{
    AudioPacket, AudioPackets, AudioTagError, Codec, Kind, MOD_EX_MAX, PcmLayout, TIMESTAMP_OFFSET_NS_MAX,
};

use crate::made::Dice;

fn read(payload: &[u8]) -> Result<Vec<AudioPacket<'_>>, AudioTagError> {
    AudioPackets::new(payload).collect()
}

fn packet(track: u8, codec: Codec, kind: Kind, data: &[u8]) -> AudioPacket<'_> {
    AudioPacket { track, codec, kind, data, timestamp_offset_ns: 0 }
}

#[test]
fn tags_of_the_old_kind() {
    let pcm = |sample_rate_hz, bits, channels| Codec::Pcm(PcmLayout { sample_rate_hz, bits, channels });
    let cases: &[(&[u8], AudioPacket<'_>)] = &[
        (&[0xAF, 0, 0x12, 0x10], packet(0, Codec::Aac, Kind::Config, &[0x12, 0x10])),
        (&[0xAF, 1, 9, 9], packet(0, Codec::Aac, Kind::Frames, &[9, 9])),
        (&[0xA0, 1], packet(0, Codec::Aac, Kind::Frames, &[])),
        (&[0x2F, 7], packet(0, Codec::Mp3, Kind::Frames, &[7])),
        (&[0xE2, 7], packet(0, Codec::Mp3, Kind::Frames, &[7])),
        (&[0x3F, 7], packet(0, pcm(44_100, 16, 2), Kind::Frames, &[7])),
        (&[0x08, 7], packet(0, pcm(22_050, 8, 1), Kind::Frames, &[7])),
        (&[0x04, 7], packet(0, pcm(11_025, 8, 1), Kind::Frames, &[7])),
        (&[0x31, 7], packet(0, pcm(5_512, 8, 2), Kind::Frames, &[7])),
        (&[0x72, 7], packet(0, Codec::ALaw { channels: 1 }, Kind::Frames, &[7])),
        (&[0x83, 7], packet(0, Codec::MuLaw { channels: 2 }, Kind::Frames, &[7])),
        (&[0x1E, 7], packet(0, Codec::Adpcm, Kind::Frames, &[7])),
        (&[0x42, 7], packet(0, Codec::Nellymoser, Kind::Frames, &[7])),
        (&[0x52, 7], packet(0, Codec::Nellymoser, Kind::Frames, &[7])),
        (&[0x62, 7], packet(0, Codec::Nellymoser, Kind::Frames, &[7])),
        (&[0xB2, 7], packet(0, Codec::Speex, Kind::Frames, &[7])),
        (&[0xF0, 7], packet(0, Codec::DeviceSpecific, Kind::Frames, &[7])),
        (&[0xC0, 7], packet(0, Codec::Reserved(12), Kind::Frames, &[7])),
        (&[0xD0, 7], packet(0, Codec::Reserved(13), Kind::Frames, &[7])),
    ];
    for (payload, packet) in cases {
        assert_eq!(read(payload), Ok(vec![*packet]), "{payload:02x?}");
    }
    assert_eq!(read(&[]), Ok(vec![]));
}

#[test]
fn tags_with_a_four_cc() {
    let codecs = [
        (b"mp4a", Codec::Aac),
        (b".mp3", Codec::Mp3),
        (b"Opus", Codec::Opus),
        (b"fLaC", Codec::Flac),
        (b"ac-3", Codec::Ac3),
        (b"ec-3", Codec::Eac3),
        (b"opus", Codec::Unknown(*b"opus")),
    ];
    for (four_cc, codec) in codecs {
        for (packet_type, kind) in [(0, Kind::Config), (1, Kind::Frames), (2, Kind::End)] {
            let payload = [&[0x90 | packet_type], four_cc.as_slice(), &[5, 6]].concat();
            assert_eq!(read(&payload), Ok(vec![packet(0, codec, kind, &[5, 6])]));
        }
        // How channels lie is not for us.
        assert_eq!(read(&[&[0x94], four_cc.as_slice(), &[1, 2, 0, 0, 0, 3]].concat()), Ok(vec![]));
    }
}

#[test]
fn multitrack_in_its_three_forms() {
    let one = [&[0x95, 0x01], b"Opus".as_slice(), &[3], &[7, 8]].concat();
    assert_eq!(read(&one), Ok(vec![packet(3, Codec::Opus, Kind::Frames, &[7, 8])]));

    let many =
        [&[0x95, 0x11], b"Opus".as_slice(), &[0, 0, 0, 2, 7, 8], &[1, 0, 0, 0], &[9, 0, 0, 1, 5]].concat();
    let expected = [(0, &[7, 8][..]), (1, &[]), (9, &[5])];
    let expected = expected.map(|(track, data)| packet(track, Codec::Opus, Kind::Frames, data));
    assert_eq!(read(&many), Ok(expected.to_vec()));

    let codecs =
        [&[0x95, 0x20], b"mp4a".as_slice(), &[0, 0, 0, 2, 0x12, 0x10], b"fLaC", &[1, 0, 0, 1, 5]].concat();
    let expected =
        [packet(0, Codec::Aac, Kind::Config, &[0x12, 0x10]), packet(1, Codec::Flac, Kind::Config, &[5])];
    assert_eq!(read(&codecs), Ok(expected.to_vec()));

    let channels = [&[0x95, 0x14], b"Opus".as_slice(), &[0, 0, 0, 2, 0, 2]].concat();
    assert_eq!(read(&channels), Ok(vec![]));
}

/// A prefix with so much data, and the packet type behind it.
fn modifier(kind: u8, data: &[u8], next: u8) -> Vec<u8> {
    let mut bytes = match data.len() - 1 {
        short @ 0..255 => vec![short as u8],
        long => [&[255][..], &(long as u16).to_be_bytes()].concat(),
    };
    bytes.extend_from_slice(data);
    bytes.push(kind << 4 | next);
    bytes
}

#[test]
fn modifiers_stand_before_the_packet() {
    let with = |modifiers: Vec<u8>, rest: &[u8]| [&[0x97], modifiers.as_slice(), rest].concat();
    let offset = |payload: &[u8]| read(payload).map(|packets| packets[0].timestamp_offset_ns);
    let frames = b"Opus\x07";
    assert_eq!(offset(&with(modifier(0, &[0, 1, 0], 1), frames)), Ok(256));
    assert_eq!(offset(&with(modifier(0, &[0xFF; 3], 1), frames)), Ok(TIMESTAMP_OFFSET_NS_MAX));
    // Too short for an offset, of another kind, and long ones.
    assert_eq!(offset(&with(modifier(0, &[9, 9], 1), frames)), Ok(0));
    assert_eq!(offset(&with(modifier(9, &[0, 1, 0], 1), frames)), Ok(0));
    for length in [1, 2, 255, 256, 257, 65_536] {
        assert_eq!(offset(&with(modifier(5, &vec![1; length], 1), frames)), Ok(0), "{length}");
    }
    let two = [modifier(3, &[1], 7), modifier(0, &[0, 0, 5], 1)].concat();
    assert_eq!(offset(&with(two, frames)), Ok(5));
    // In front of several tracks it is for all of them.
    let tracks =
        with(modifier(0, &[0, 0, 5], 5), &[&[0x11], b"Opus".as_slice(), &[0, 0, 0, 0, 1, 0, 0, 0]].concat());
    let offsets: Vec<_> = read(&tracks).unwrap().iter().map(|packet| packet.timestamp_offset_ns).collect();
    assert_eq!(offsets, [5, 5]);
}

#[test]
fn what_is_no_tag_is_refused() {
    use AudioTagError::{AacPacketType, MultitrackType, PacketType, TooManyModifiers, Truncated};
    let modifiers = [&[0x97][..], &modifier(0, &[1], 7).repeat(MOD_EX_MAX), &modifier(0, &[1], 1)].concat();
    let cases: &[(&[u8], AudioTagError)] = &[
        (&[0xAF], Truncated),
        (&[0xAF, 2], AacPacketType),
        (&[0xAF, 255], AacPacketType),
        (&[0x90], Truncated),
        (b"\x91Opu", Truncated),
        (b"\x93Opus", PacketType),
        (b"\x96Opus", PacketType),
        (b"\x9FOpus", PacketType),
        (&[0x97], Truncated),
        (&[0x97, 9, 1, 2], Truncated),
        (&[0x97, 255, 0xFF], Truncated),
        (&[0x97, 255, 0xFF, 0xFF, 1], Truncated),
        (&[0x97, 0, 1], Truncated),
        (&[0x95], Truncated),
        (b"\x95\x31Opus\x00", MultitrackType),
        (b"\x95\x05Opus\x00", PacketType),
        (b"\x95\x17Opus\x00", PacketType),
        (b"\x95\x01Opus", Truncated),
        (b"\x95\x11Opus\x00\x00\x00\x02\x07", Truncated),
        (b"\x95\x11Opus\x00\xFF\xFF\xFF\x07", Truncated),
        (b"\x95\x11Opus\x00\x00", Truncated),
        (b"\x95\x21Op", Truncated),
        (&modifiers, TooManyModifiers),
    ];
    for (payload, error) in cases {
        assert_eq!(read(payload), Err(*error), "{payload:02x?}");
    }
    // What came before the fault is handed out, and nothing after it.
    let mut packets = AudioPackets::new(b"\x95\x11Opus\x00\x00\x00\x01\x07\x01\xFF\xFF\xFF\x07");
    assert_eq!(packets.next(), Some(Ok(packet(0, Codec::Opus, Kind::Frames, &[7]))));
    assert_eq!((packets.next(), packets.next()), (Some(Err(Truncated)), None));
}

#[test]
fn any_bytes_are_read_or_refused() {
    let mut dice = Dice::new(3);
    for _ in 0..20_000 {
        let length = dice.below(60);
        let mut bytes = dice.bytes(length);
        if let Some(first) = bytes.first_mut().filter(|_| dice.below(2) == 0) {
            *first = 0x90 | *first & 15;
        }
        for packet in AudioPackets::new(&bytes) {
            match packet {
                Ok(packet) => assert!(Codec::LABELS.contains(&packet.codec.label())),
                Err(error) => assert!(AudioTagError::LABELS.contains(&error.label())),
            }
        }
    }
}
