//! What must hold for any bytes: no panic, bounded output, and the same samples however the bytes are cut.

use audio::{DECODED_SAMPLES_PER_PUSH_MAX, Decoder, Encoding, Format, PacketDecoder, Packets};

fn decode<'a>(format: Format, messages: impl Iterator<Item = &'a [u8]>) -> (Vec<i16>, bool) {
    let (mut decoder, mut out) = (Decoder::new(format), Vec::new());
    let mut refused = false;
    for message in messages {
        let before = out.len();
        refused |= decoder.push(message, &mut out).is_err();
        // The limit is noticed after the decoded piece that crosses it: at most one FLAC block at 8 kHz.
        assert!(out.len() - before <= DECODED_SAMPLES_PER_PUSH_MAX + 2 * 65_536, "{} samples", out.len() - before);
    }
    refused |= decoder.finish(&mut out).is_err();
    (out, refused)
}

/// `audio` contains the panics of the codecs it did not write; libFuzzer would stop at each. Others still abort.
fn forgive_codecs() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let abort = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !panic.location().is_some_and(|place| place.file().contains("symphonia-")) {
                abort(panic);
            }
        }));
    });
}

/// The first byte says how to cut the others.
pub fn check(encoding: Encoding, data: &[u8]) {
    forgive_codecs();
    let Some((&cut, bytes)) = data.split_first() else { return };
    let Ok(format) = Format::new(encoding, 16_000, 1) else { return };
    let (whole, whole_refused) = decode(format, std::iter::once(bytes));
    let (pieces, pieces_refused) = decode(format, bytes.chunks(usize::from(cut) + 1));
    // A mark at the start of a message restarts a container, a raw packet is a message, and the limits are per push.
    let restarts = matches!(encoding, Encoding::Opus | Encoding::Auto | Encoding::Webm | Encoding::Wav);
    if !whole_refused && !pieces_refused && !restarts {
        assert_eq!(whole, pieces);
    }
}

/// A byte for the kind, then parts with their length in front (two bytes): the header and the packets.
pub fn check_packets(data: &[u8]) {
    forgive_codecs();
    let Some((&kind, mut rest)) = data.split_first() else { return };
    let mut parts = std::iter::from_fn(|| {
        let (length, after) = rest.split_first_chunk::<2>()?;
        let (part, later) = after.split_at(usize::from(u16::from_be_bytes(*length)).min(after.len()));
        rest = later;
        Some(part)
    });
    let head = parts.next().unwrap_or_default();
    let raw = |encoding| Format::new(encoding, 8_000, 2).map(Packets::Raw);
    let kind = match kind % 8 {
        0 | 1 => Packets::Aac(head),
        2 => Packets::Mp3,
        3 => Packets::Opus(Some(head)),
        4 => Packets::Opus(None),
        5 => Packets::Flac(head),
        6 => raw(Encoding::Alaw).unwrap_or(Packets::Mp3),
        _ => raw(Encoding::PcmS16le).unwrap_or(Packets::Mp3),
    };
    let Ok(mut decoder) = PacketDecoder::new(kind) else { return };
    let mut out = Vec::new();
    for packet in parts {
        out.clear();
        let _ = decoder.push(packet, &mut out);
        assert!(out.len() <= DECODED_SAMPLES_PER_PUSH_MAX + 2 * 65_536, "{} samples", out.len());
    }
    let _ = decoder.flush(&mut out);
}
