//! What a 20 ms message costs: `cargo bench -p audio`. Prints, asserts nothing.
use std::time::Instant;

use audio::{Decoder, Encoding, Format};

const FRAMES: usize = 20_000;

fn measure(name: &str, format: Format, frames: &[Vec<u8>]) {
    let mut decoder = Decoder::new(format);
    let (mut out, mut samples) = (Vec::new(), 0);
    let begun = Instant::now();
    for frame in frames.iter().cycle().take(FRAMES) {
        if let Err(error) = decoder.push(frame, &mut out) {
            println!("{name}: {error}");
            return;
        }
        samples += out.len();
        out.clear();
    }
    let spent = begun.elapsed();
    let audio_seconds = samples as f64 / 16_000.0;
    println!(
        "{name:32} {:>8.0} ns per 20 ms frame, {:.3} ms CPU per audio second",
        spent.as_nanos() as f64 / FRAMES as f64,
        spent.as_secs_f64() * 1_000.0 / audio_seconds
    );
}

/// A voice-like tone, 20 ms a frame, as 16 bit samples.
fn tone(rate_hz: u32, channels: usize) -> Vec<Vec<i16>> {
    let per_frame = rate_hz as usize / 50;
    (0..50)
        .map(|frame| {
            (0..per_frame * channels)
                .map(|n| {
                    let time = (frame * per_frame + n / channels) as f64 / f64::from(rate_hz);
                    ((time * 1_400.0).sin() * 6_000.0 + (time * 9_000.0).sin() * 3_000.0) as i16
                })
                .collect()
        })
        .collect()
}

fn bytes(frames: &[Vec<i16>]) -> Vec<Vec<u8>> {
    frames.iter().map(|frame| frame.iter().flat_map(|sample| sample.to_le_bytes()).collect()).collect()
}

fn main() {
    for (rate_hz, channels) in [(48_000, 2), (48_000, 1), (44_100, 2), (11_025, 1), (16_000, 1)] {
        let frames = bytes(&tone(rate_hz, usize::from(channels)));
        if let Ok(format) = Format::new(Encoding::PcmS16le, rate_hz, channels) {
            measure(&format!("pcm_s16le {rate_hz} Hz x{channels}"), format, &frames);
        }
    }
    let encoder = opus::Encoder::new(48_000, opus::Channels::Stereo, opus::Application::Voip);
    let (Ok(mut encoder), Ok(format)) = (encoder, Format::new(Encoding::Opus, 48_000, 2)) else { return };
    let packets: Vec<_> =
        tone(48_000, 2).iter().filter_map(|frame| encoder.encode_vec(frame, 1_275).ok()).collect();
    measure("opus 48000 Hz x2", format, &packets);
}
