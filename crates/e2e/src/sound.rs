//! Sounds to send: speech in every encoding, and what is no speech. 16 kHz mono where nothing else is said.

use std::{f64::consts::TAU, path::Path};

use crate::run;

/// Samples a second.
pub const RATE: usize = 16_000;

/// Peak of a sine, or spread of a noise, whose effective value is 30 dB below full scale.
const MINUS_30_DB: f64 = 0.031_622_776_6 * 32_767.0;

/// Samples as bytes: `pcm_s16le`.
pub fn pcm(samples: &[i16]) -> Vec<u8> {
    samples.iter().flat_map(|sample| sample.to_le_bytes()).collect()
}

/// Nothing.
pub fn silence(seconds: usize) -> Vec<i16> {
    vec![0; seconds * RATE]
}

/// Mains hum of 50 Hz with two harmonics, at -30 dB.
pub fn hum(seconds: usize) -> Vec<i16> {
    let wave = |at: usize| {
        let turn = TAU * 50.0 * at as f64 / RATE as f64;
        turn.sin() + 0.5 * (2.0 * turn).sin() + 0.25 * (3.0 * turn).sin()
    };
    (0..seconds * RATE).map(|at| (wave(at) * MINUS_30_DB) as i16).collect()
}

/// White noise at -30 dB, the same each time.
pub fn noise(seconds: usize) -> Vec<i16> {
    // Uniform noise of half width w has the effective value w / sqrt(3).
    let width = MINUS_30_DB * 3_f64.sqrt();
    random(seconds * RATE).map(|value| (value * width) as i16).collect()
}

/// Bytes without any sense, the same each time.
pub fn nonsense(length: usize) -> Vec<u8> {
    random(length).map(|value| (value * 128.0) as i8 as u8).collect()
}

/// Values from -1 to 1 (a linear congruential generator, the constants of Knuth's MMIX).
fn random(count: usize) -> impl Iterator<Item = f64> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    (0..count).map(move |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f64::from((state >> 32) as u32 as i32) / f64::from(i32::MAX)
    })
}

/// A WAV file, 16 kHz, mono, 16 bit.
pub fn wav(samples: &[i16]) -> Vec<u8> {
    let data = pcm(samples);
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut file = Vec::with_capacity(data.len() + 44);
    file.extend_from_slice(b"RIFF");
    file.extend_from_slice(&length.saturating_add(36).to_le_bytes());
    file.extend_from_slice(b"WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0data");
    file.extend_from_slice(&length.to_le_bytes());
    file.extend_from_slice(&data);
    file
}

/// The file as ffmpeg writes it with these arguments.
///
/// # Panics
/// When ffmpeg is not installed or fails.
pub async fn converted(path: &Path, arguments: &[&str]) -> Vec<u8> {
    let path = path.display().to_string();
    let before = ["-nostdin", "-v", "error", "-i", &path, "-map_metadata", "-1"];
    run("ffmpeg", before.iter().chain(arguments).chain(&["pipe:1"])).await.bytes
}
