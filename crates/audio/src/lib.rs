//! Any supported encoding, in pieces of any size, to 16 kHz mono samples.
//!
//! This changes when an encoding is added or its specification is. It knows containers, codecs and resampling;
//! it must not know sockets, sessions or engines. It does no input or output and never waits: callers push bytes
//! and take samples, off the async threads. Memory is bounded by the named limits of each module, never by a
//! length that the data claims.
//!
//! ```
//! let mut decoder = audio::Decoder::new(audio::DEFAULT_FORMAT);
//! let mut samples = Vec::new();
//! decoder.push(&[0x34, 0x12, 0x78], &mut samples)?; // the odd byte waits for the next message
//! decoder.push(&[0x56], &mut samples)?;
//! decoder.finish(&mut samples)?;
//! assert_eq!(samples, [0x1234, 0x5678]);
//! # Ok::<(), audio::AudioError>(())
//! ```

// In the order bytes pass them: what was declared, what it turns out to be, the containers, the codecs, the way out.
mod decoder;
mod error;
mod format;
mod packets;
mod sniff;

mod window;

mod flac;
mod mpeg;
mod ogg;
mod wav;
mod webm;

mod aac;
mod codec;
mod opus;
mod pcm;

mod resample;
mod sink;

/// A fuzzer cannot guess check sums; without them it reaches what lies behind.
#[expect(unexpected_cfgs, reason = "set by cargo-fuzz")]
const CHECKSUMS_IGNORED: bool = cfg!(fuzzing);

pub use decoder::{Decoder, MESSAGE_BYTES_MAX};
pub use error::AudioError;
pub use format::{CHANNELS_MAX, DEFAULT_FORMAT, Encoding, Format, SAMPLE_RATE_HZ_MAX, SAMPLE_RATE_HZ_MIN};
pub use packets::{PacketDecoder, Packets};
pub use sink::{DECODED_SAMPLES_PER_PUSH_MAX, SOURCE_SAMPLES_PER_PUSH_MAX};
pub use sniff::guess;
