//! What must hold for any bytes: no panic, bounded output, and the same samples however the bytes are cut.

use audio::{DECODED_SAMPLES_PER_PUSH_MAX, Decoder, Encoding, Format};

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
