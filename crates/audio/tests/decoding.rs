//! What comes out of every encoding, however its bytes are cut.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests fail like tests")]

use audio::{AudioError, DECODED_SAMPLES_PER_PUSH_MAX, Decoder, Encoding, Format, MESSAGE_BYTES_MAX};
use model::FaultKind;

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The recording that every fixture is made from.
fn original() -> Vec<i16> {
    let wav = fixture("speech.wav");
    let data = wav.windows(4).position(|name| name == b"data").unwrap() + 8;
    wav[data..].chunks_exact(2).map(|sample| i16::from_le_bytes([sample[0], sample[1]])).collect()
}

fn format(encoding: Encoding) -> Format {
    Format::new(encoding, 16_000, 1).unwrap()
}

fn decode(
    format: Format,
    messages: impl IntoIterator<Item = impl AsRef<[u8]>>,
) -> Result<Vec<i16>, AudioError> {
    let (mut decoder, mut out) = (Decoder::new(format), Vec::new());
    for message in messages {
        decoder.push(message.as_ref(), &mut out)?;
    }
    decoder.finish(&mut out)?;
    Ok(out)
}

/// Normalised correlation of `heard` against `original` when it is `shift` samples late.
fn correlation(original: &[i16], heard: &[i16], shift: isize) -> f64 {
    let (mut both, mut left, mut right) = (0.0, 1e-9, 1e-9);
    for (n, &a) in original.iter().enumerate() {
        let Some(&b) = usize::try_from(n as isize + shift).ok().and_then(|at| heard.get(at)) else {
            continue;
        };
        let (a, b) = (f64::from(a), f64::from(b));
        both += a * b;
        left += a * a;
        right += b * b;
    }
    both / (left * right).sqrt()
}

/// The best correlation within 20 ms, and its shift in samples.
fn aligned(original: &[i16], heard: &[i16]) -> (f64, isize) {
    (-320..=320)
        .map(|shift| (correlation(original, heard, shift), shift))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .unwrap()
}

const CONTAINERS: [(&str, Encoding, f64); 8] = [
    ("speech.wav", Encoding::Wav, 0.999),
    ("live.webm", Encoding::Webm, 0.9),
    ("plain.webm", Encoding::Webm, 0.9),
    ("recorder.webm", Encoding::Webm, 0.0),
    ("speech.ogg", Encoding::Ogg, 0.9),
    ("flac.ogg", Encoding::Ogg, 0.999),
    ("speech.mp3", Encoding::Mp3, 0.98),
    ("stereo44k.flac", Encoding::Flac, 0.997),
];

#[test]
fn every_container_sounds_like_the_original_at_the_right_time() {
    let original = original();
    for (name, encoding, threshold) in CONTAINERS {
        if name == "recorder.webm" {
            continue; // An analogue copy: see its own test.
        }
        let heard = decode(format(encoding), [fixture(name)]).unwrap();
        let (best, shift) = aligned(&original, &heard);
        println!(
            "{name}: correlation {best:.4}, shift {shift} samples, {} of {}",
            heard.len(),
            original.len()
        );
        assert!(best > threshold, "{name}: {best}");
        assert!(shift.abs() <= 32, "{name}: {shift} samples");
        if !name.contains("flac") {
            let difference = heard.len().abs_diff(original.len());
            assert!(difference <= 1_700, "{name}: {} for {} samples", heard.len(), original.len());
        }
    }
}

#[test]
fn a_browser_recording_is_heard() {
    let original = original();
    let heard = decode(format(Encoding::Auto), fixture("recorder.webm").chunks(997)).unwrap();
    let best = (0..heard.len().saturating_sub(original.len()) as isize)
        .step_by(2)
        .map(|shift| correlation(&original, &heard, shift))
        .fold(0.0, f64::max);
    println!("recorder.webm: correlation {best:.4}, {:.2} s", heard.len() as f64 / 16_000.0);
    assert!(best > 0.8, "{best}");
}

#[test]
fn containers_are_sniffed_and_say_what_they_are() {
    for (name, encoding, _) in CONTAINERS {
        let (mut decoder, mut out) = (Decoder::new(format(Encoding::Auto)), Vec::new());
        decoder.push(&fixture(name), &mut out).unwrap();
        let detected = decoder.detected().unwrap();
        assert_eq!(detected.encoding, encoding, "{name}");
        let rate = match name {
            "speech.mp3" => 22_050,
            "stereo44k.flac" => 44_100,
            "speech.wav" | "flac.ogg" => 16_000,
            _ => 48_000,
        };
        assert_eq!(detected.sample_rate_hz, rate, "{name}");
        decoder.finish(&mut out).unwrap();
        assert_eq!(out, decode(format(encoding), [fixture(name)]).unwrap(), "{name}");
    }
}

#[test]
fn pieces_of_any_size_give_the_same_samples() {
    for (name, encoding, _) in CONTAINERS {
        let bytes = fixture(name);
        let whole = decode(format(encoding), [&bytes]).unwrap();
        for declared in [encoding, Encoding::Auto] {
            for size in [1, 2, 7, 250, 4_099] {
                assert!(
                    decode(format(declared), bytes.chunks(size)).unwrap() == whole,
                    "{name} in pieces of {size}"
                );
            }
        }
    }
}

#[test]
fn raw_samples_may_be_cut_anywhere() {
    let samples: Vec<i16> = (0..4_000).map(|n| (n * 7 % 20_000) as i16 - 10_000).collect();
    let s16: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
    let f32s: Vec<u8> =
        samples.iter().flat_map(|sample| (f32::from(*sample) / 32_768.0).to_le_bytes()).collect();
    for size in [1, 3, 640, 8_000] {
        assert_eq!(decode(format(Encoding::PcmS16le), s16.chunks(size)).unwrap(), samples);
        assert_eq!(decode(format(Encoding::Auto), s16.chunks(size)).unwrap(), samples);
        assert_eq!(decode(format(Encoding::PcmF32le), f32s.chunks(size)).unwrap(), samples);
    }
    // Both channels at once, cut within a frame; the average of a sample and its opposite is silence.
    let stereo: Vec<u8> =
        samples.iter().flat_map(|s| [s.to_le_bytes(), (-s).to_le_bytes()].concat()).collect();
    let two = Format::new(Encoding::PcmS16le, 16_000, 2).unwrap();
    assert_eq!(decode(two, stereo.chunks(5)).unwrap(), vec![0; samples.len()]);
}

#[test]
fn telephony_doubles_in_rate() {
    let format = Format::new(Encoding::Mulaw, 8_000, 1).unwrap();
    let heard = decode(format, [vec![0xff; 8_000]]).unwrap();
    assert_eq!(heard, vec![0; 16_000]);
    let alaw = Format::new(Encoding::Alaw, 8_000, 1).unwrap();
    assert_eq!(decode(alaw, [vec![0xaa; 800]]).unwrap().len(), 1_600);
}

/// A WAV file with the chunks and sizes that a test wants.
fn wav(tag: u16, bits: u16, channels: u16, data: &[u8], data_size: u32, extensible: bool) -> Vec<u8> {
    let block = bits / 8 * channels;
    let mut fmt = Vec::new();
    fmt.extend((if extensible { 0xfffe } else { tag }).to_le_bytes());
    fmt.extend(channels.to_le_bytes());
    fmt.extend(16_000u32.to_le_bytes());
    fmt.extend((16_000 * u32::from(block)).to_le_bytes());
    fmt.extend(block.to_le_bytes());
    fmt.extend(bits.to_le_bytes());
    if extensible {
        fmt.extend(22u16.to_le_bytes());
        fmt.extend(bits.to_le_bytes());
        fmt.extend(3u32.to_le_bytes());
        fmt.extend(tag.to_le_bytes());
        fmt.extend(*b"\x00\x00\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71");
    }
    let mut file = b"RIFF\xff\xff\xff\xffWAVELIST\x03\0\0\0abc\0fmt ".to_vec();
    file.extend((fmt.len() as u32).to_le_bytes());
    file.extend(fmt);
    file.extend(b"data");
    file.extend(data_size.to_le_bytes());
    file.extend(data);
    file
}

#[test]
fn wav_of_every_kind() {
    let samples: [i16; 6] = [0, 1_000, -1_000, 32_767, -32_768, 5];
    let wide = |shift: u32, bytes: usize| -> Vec<u8> {
        samples.iter().flat_map(|s| (i32::from(*s) << shift).to_le_bytes()[..bytes].to_vec()).collect()
    };
    let float: Vec<u8> = samples.iter().flat_map(|s| (f32::from(*s) / 32_768.0).to_le_bytes()).collect();
    let double: Vec<u8> = samples.iter().flat_map(|s| (f64::from(*s) / 32_768.0).to_le_bytes()).collect();
    for (tag, bits, data) in
        [(1, 16, wide(0, 2)), (1, 24, wide(8, 3)), (1, 32, wide(16, 4)), (3, 32, float), (3, 64, double)]
    {
        for extensible in [false, true] {
            // Sizes of streams are unknown; that of the last runs out and another chunk follows.
            for size in [0, u32::MAX, 0x7fff_ffff, data.len() as u32] {
                let mut file = wav(tag, bits, 1, &data, size, extensible);
                if size == data.len() as u32 {
                    file.extend(b"LIST\x02\0\0\0ab");
                }
                for cut in [1, 1_000] {
                    let heard = decode(format(Encoding::Wav), file.chunks(cut)).unwrap();
                    assert_eq!(heard, samples, "tag {tag}, {bits} bit, size {size}");
                }
            }
        }
    }
    assert_eq!(decode(format(Encoding::Wav), [wav(1, 8, 1, &[128, 0], 2, false)]).unwrap(), [0, -32_768]);
    assert_eq!(decode(format(Encoding::Wav), [wav(7, 8, 1, &[0xff, 0x00], 2, false)]).unwrap(), [0, -32_124]);
    assert_eq!(decode(format(Encoding::Wav), [wav(6, 8, 2, &[0xaa, 0xaa], 2, false)]).unwrap(), [32_256]);
    // A size that is plainly wrong: the sound goes on behind it.
    let data: Vec<u8> = (0..200u16).flat_map(|n| (n * 257).to_le_bytes()).collect();
    assert_eq!(decode(format(Encoding::Wav), [wav(1, 16, 1, &data, 4, false)]).unwrap().len(), 200);
    // Files one after another, each message a file with a size that promises more.
    let file = wav(1, 16, 1, &data, u32::MAX, false);
    assert_eq!(decode(format(Encoding::Auto), [&file, &file]).unwrap().len(), 400);
}

#[test]
fn a_recorder_that_starts_again_is_followed() {
    let first = fixture("live.webm");
    let once = decode(format(Encoding::Webm), [&first]).unwrap();
    // Complete, also in the same message; then cut off in the middle of a block.
    assert!(
        decode(format(Encoding::Webm), [[&first[..], &first].concat()]).unwrap()
            == [&once[..], &once].concat()
    );
    for declared in [Encoding::Webm, Encoding::Auto] {
        let again = decode(format(declared), [&first[..first.len() - 7], &first]).unwrap();
        assert!(again.ends_with(&once) && again.len() > once.len() * 3 / 2);
    }
    // Another container in place of the first.
    let other = decode(format(Encoding::Auto), [first, fixture("stereo44k.flac")]).unwrap();
    assert!(other.len() > once.len() + 16_000);
}

#[test]
fn chained_streams_are_all_heard() {
    for name in ["speech.ogg", "flac.ogg", "speech.mp3", "stereo44k.flac"] {
        let file = fixture(name);
        let once = decode(format(Encoding::Auto), [&file]).unwrap();
        let twice = decode(format(Encoding::Auto), [&file[..], &file].concat().chunks(333)).unwrap();
        assert!(twice.len().abs_diff(2 * once.len()) <= 2_000, "{name}: {} of {}", twice.len(), once.len());
    }
}

#[test]
fn tags_around_mp3_are_skipped() {
    let file = fixture("speech.mp3");
    let once = decode(format(Encoding::Mp3), [&file]).unwrap();
    let mut tagged = b"ID3\x04\0\0\0\0\x02\0".to_vec();
    tagged.extend([0xff; 256]);
    tagged.extend(&file);
    tagged.extend(b"TAG");
    tagged.extend([b' '; 125]);
    assert!(decode(format(Encoding::Auto), tagged.chunks(100)).unwrap() == once);
}

#[test]
fn raw_opus_packets_survive_a_bad_one() {
    let mut encoder = opus::Encoder::new(48_000, opus::Channels::Stereo, opus::Application::Voip).unwrap();
    let (mut decoder, mut out) = (Decoder::new(Format::new(Encoding::Opus, 48_000, 2).unwrap()), Vec::new());
    for n in 0..50 {
        let packet = encoder.encode_vec(&[n; 1_920], 1_275).unwrap();
        decoder.push(&packet, &mut out).unwrap();
        let error = decoder.push(&[0xff; 3], &mut out).unwrap_err();
        assert_eq!(error.fault(), FaultKind::BadData);
        decoder.push(&[], &mut out).unwrap();
    }
    decoder.finish(&mut out).unwrap();
    assert_eq!(out.len(), 16_000);
}

#[test]
fn refusals_say_why() {
    let live = fixture("live.webm");
    let cluster = live.windows(4).position(|id| id == [0x1f, 0x43, 0xb6, 0x75]).unwrap();
    let block = live.windows(2).skip(cluster).position(|id| id == [0xa3, 0x81]).unwrap_or(0);
    let vorbis = {
        let mut page = fixture("speech.ogg");
        let name = page.windows(8).position(|name| name == b"OpusHead").unwrap();
        page[name..name + 8].copy_from_slice(b"Whatever");
        page
    };
    let cases: [(Encoding, Vec<u8>, AudioError); 7] = [
        (Encoding::Webm, live[cluster..].to_vec(), AudioError::HeaderMissing(Encoding::Webm)),
        (Encoding::Auto, live[cluster..].to_vec(), AudioError::HeaderMissing(Encoding::Webm)),
        (Encoding::Webm, live[cluster + block..].to_vec(), AudioError::HeaderMissing(Encoding::Webm)),
        (Encoding::Auto, b"\0\0\0\x18ftypM4A ".to_vec(), AudioError::Unsupported("MP4")),
        (Encoding::Ogg, vorbis, AudioError::HeaderMissing(Encoding::Ogg)),
        (Encoding::Wav, wav(0x55, 8, 1, &[0; 4], 4, false), AudioError::Unsupported("this codec inside WAV")),
        (
            Encoding::PcmS16le,
            vec![0; MESSAGE_BYTES_MAX + 1],
            AudioError::MessageTooLarge(MESSAGE_BYTES_MAX + 1),
        ),
    ];
    for (encoding, bytes, expected) in cases {
        assert_eq!(decode(format(encoding), [&bytes]).unwrap_err(), expected, "{encoding}");
    }
    for encoding in [Encoding::Wav, Encoding::Flac, Encoding::Ogg, Encoding::Mp3, Encoding::Webm] {
        let error = decode(format(encoding), [vec![b'x'; 1_000_000]]).unwrap_err();
        assert_eq!(error.fault(), FaultKind::BadData, "{encoding}: {error}");
    }
}

#[test]
fn an_error_is_repeated_and_what_came_before_is_kept() {
    let (mut decoder, mut out) = (Decoder::new(format(Encoding::Webm)), Vec::new());
    let mut bytes = fixture("live.webm");
    bytes.extend([0; 32]);
    let error = decoder.push(&bytes, &mut out).unwrap_err();
    assert!(out.len() > 25_000);
    assert_eq!(decoder.push(b"more", &mut out).unwrap_err(), error);
    assert_eq!(decoder.finish(&mut out).unwrap_err(), error);
}

#[test]
fn a_few_bytes_cannot_become_hours() {
    // Packets of two bytes that last 120 ms each: code 3, six frames of 20 ms without content.
    let mut webm = fixture("live.webm");
    while webm.len() < 100_000 {
        webm.extend([0xa3, 0x86, 0x81, 0, 0, 0x80, 0xfb, 6]);
    }
    let (mut decoder, mut out) = (Decoder::new(format(Encoding::Webm)), Vec::new());
    assert_eq!(decoder.push(&webm, &mut out), Err(AudioError::TooMuchSound));
    assert!(out.len() <= DECODED_SAMPLES_PER_PUSH_MAX + 200_000, "{}", out.len());
}

/// Numbers that look random and are the same each time (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

#[test]
fn damaged_files_do_no_harm() {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for (name, encoding, _) in CONTAINERS {
        let original = fixture(name);
        for round in 0..60 {
            let mut bytes = original.clone();
            for _ in 0..1 + dice.below(20) {
                let at = dice.below(bytes.len().max(1));
                match dice.below(4) {
                    _ if bytes.is_empty() => break,
                    0 => bytes[at] = dice.below(256) as u8,
                    1 => bytes[at] ^= 1 << dice.below(8),
                    2 => drop(bytes.drain(at..(at + 1 + dice.below(50)).min(bytes.len()))),
                    _ => bytes.truncate(at.max(64)),
                }
            }
            let declared = if round % 2 == 0 { encoding } else { Encoding::Auto };
            let (mut decoder, mut out) = (Decoder::new(format(declared)), Vec::new());
            let size = 1 + dice.below(5_000);
            // Whether it is refused does not matter here; what it costs does.
            let refused = bytes.chunks(size).find_map(|piece| decoder.push(piece, &mut out).err());
            let ended = decoder.finish(&mut out).err();
            assert!(refused.is_none() || refused == ended, "{name}: {refused:?}, then {ended:?}");
            assert!(out.len() < DECODED_SAMPLES_PER_PUSH_MAX, "{name}: {} samples", out.len());
        }
    }
}

#[test]
fn noise_is_no_container() {
    let mut dice = Dice(7);
    for encoding in
        [Encoding::Webm, Encoding::Ogg, Encoding::Wav, Encoding::Flac, Encoding::Mp3, Encoding::Opus]
    {
        for _ in 0..20 {
            let noise: Vec<u8> = (0..20_000).map(|_| dice.below(256) as u8).collect();
            let (mut decoder, mut out) = (Decoder::new(format(encoding)), Vec::new());
            let refused = noise.chunks(1_200).any(|piece| decoder.push(piece, &mut out).is_err());
            assert!(refused || out.len() < 1_000_000, "{encoding}");
        }
    }
}
