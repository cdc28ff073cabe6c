//! What comes out of packets that have no container.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests fail like tests")]

use audio::{AudioError, Encoding, Format, PacketDecoder, Packets};

fn read(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The header and the packets of a fixture: each has its length in front, two bytes.
fn packets(name: &str) -> (Vec<u8>, Vec<Vec<u8>>) {
    let (bytes, mut parts) = (read(&format!("{name}.packets")), Vec::new());
    let mut rest = bytes.as_slice();
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let (part, later) = after.split_at(usize::from(u16::from_be_bytes(*length)));
        parts.push(part.to_vec());
        rest = later;
    }
    (parts.remove(0), parts)
}

fn original() -> Vec<i16> {
    let wav = read("speech.wav");
    let data = wav.windows(4).position(|name| name == b"data").unwrap() + 8;
    wav[data..].chunks_exact(2).map(|sample| i16::from_le_bytes([sample[0], sample[1]])).collect()
}

fn kind<'a>(name: &str, head: &'a [u8]) -> Packets<'a> {
    match name {
        "mp3" => Packets::Mp3,
        "opus" => Packets::Opus(Some(head)),
        "flac" => Packets::Flac(head),
        _ => Packets::Aac(head),
    }
}

fn decode(kind: Packets<'_>, packets: &[Vec<u8>]) -> (Vec<i16>, PacketDecoder) {
    let (mut decoder, mut out) = (PacketDecoder::new(kind).unwrap(), Vec::new());
    for packet in packets {
        decoder.push(packet, &mut out).unwrap();
    }
    decoder.flush(&mut out).unwrap();
    (out, decoder)
}

/// The best normalised correlation of `heard` against `original` when it is up to 200 ms late.
fn likeness(original: &[i16], heard: &[i16]) -> f64 {
    let at = |late: usize| {
        let (mut both, mut left, mut right) = (0.0, 1e-9, 1e-9);
        for (a, b) in original.iter().zip(heard.get(late..).unwrap_or_default()) {
            let (a, b) = (f64::from(*a), f64::from(*b));
            both += a * b;
            left += a * a;
            right += b * b;
        }
        both / f64::sqrt(left * right)
    };
    (0..3_200).map(at).max_by(f64::total_cmp).unwrap()
}

const ALL: [(&str, f64, u32, u16); 5] = [
    ("aac44k", 0.95, 44_100, 2),
    ("aac24k", 0.95, 24_000, 1),
    ("mp3", 0.95, 44_100, 1),
    ("opus", 0.9, 48_000, 2),
    ("flac", 0.999, 48_000, 2),
];

#[test]
fn speech_is_the_same_from_every_codec() {
    let original = original();
    for (name, least, rate_hz, channels) in ALL {
        let (head, packets) = packets(name);
        let (heard, decoder) = decode(kind(name, &head), &packets);
        let likeness = likeness(&original, &heard);
        assert!(likeness > least, "{name}: {likeness}");
        let format = decoder.format().unwrap();
        assert_eq!((format.sample_rate_hz, format.channels), (rate_hz, channels), "{name}");
        assert_eq!(decoder.concealed(), 0, "{name}");
    }
}

#[test]
fn he_aac_is_heard_as_its_core() {
    let (_, packets) = packets("aac24k");
    let (plain, _) = decode(Packets::Aac(&[0x13, 0x08]), &packets);
    // The same units below an extension that doubles the rate (v1), and one that makes them stereo as well (v2).
    for config in [[0x2b, 0x09, 0x88, 0x00], [0xeb, 0x09, 0x88, 0x00]] {
        let (heard, decoder) = decode(Packets::Aac(&config), &packets);
        assert_eq!(decoder.format().unwrap().sample_rate_hz, 24_000);
        assert!(heard == plain, "the core of {config:02x?}");
    }
}

#[test]
fn a_broken_packet_becomes_silence_and_keeps_the_clock() {
    for (name, ..) in ALL {
        let (head, mut packets) = packets(name);
        let (whole, _) = decode(kind(name, &head), &packets);
        let middle = packets.len() / 2;
        if name == "flac" {
            // The header stays, so that it is known how long the frame was.
            packets[middle][40..].fill(0x55);
        } else {
            // A coupling channel, which nobody sends and no decoder here knows.
            packets[middle] = if name == "opus" { Vec::new() } else { vec![0x40; 40] };
        }
        let (heard, decoder) = decode(kind(name, &head), &packets);
        let frame = whole.len() / packets.len();
        assert!(heard.len().abs_diff(whole.len()) <= 2 * frame, "{name}: {} of {}", heard.len(), whole.len());
        if name != "mp3" {
            assert_eq!((decoder.concealed(), heard.len()), (1, whole.len()), "{name}");
        }
    }
}

#[test]
fn nothing_but_broken_packets_is_an_error() {
    let mut decoder = PacketDecoder::new(Packets::Aac(&[0x12, 0x10])).unwrap();
    let mut out = Vec::new();
    let refused = (0..100).find_map(|_| decoder.push(&[0x40; 64], &mut out).err());
    assert!(matches!(refused, Some(AudioError::Malformed { encoding: Encoding::Aac, .. })), "{refused:?}");
}

#[test]
fn raw_samples_need_no_header() {
    let format = |encoding, rate, channels| Packets::Raw(Format::new(encoding, rate, channels).unwrap());
    let (heard, _) = decode(format(Encoding::Alaw, 8_000, 1), &[vec![0xd5; 800]]);
    assert_eq!(heard.len(), 1_600);
    let (heard, _) = decode(format(Encoding::PcmS16le, 16_000, 2), &[vec![1, 0, 3, 0]]);
    assert_eq!(heard, [2]);
    assert!(PacketDecoder::new(format(Encoding::Webm, 16_000, 1)).is_err());
}

#[test]
fn headers_that_are_wrong_are_refused() {
    for packets in
        [Packets::Aac(&[]), Packets::Flac(&[0; 12]), Packets::Flac(&[0; 34]), Packets::Opus(Some(b"Opus"))]
    {
        assert!(PacketDecoder::new(packets).is_err(), "{packets:?}");
    }
}
