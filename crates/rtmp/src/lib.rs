//! RTMP bytes to events and back, and audio tags to packets of codecs.
//!
//! This changes when the RTMP, Enhanced RTMP or FLV specification does. It must not know sockets, clocks, stream keys,
//! decoders or transcription: bytes go in, events and bytes come out. Memory is bounded by the named limits of each
//! module, never by a length that the peer claims, and nothing that it sends makes this crate panic.
//!
//! ```
//! use rtmp::{AudioPackets, Event, Kind, Refusal, ServerSession, Timeline};
//!
//! let mut session = ServerSession::new(0x5EED, false);
//! let mut timeline = Timeline::starting_at(0);
//! # let (received, may_publish, elapsed_ms) = (&b"\x03"[..], true, 0);
//! // For every read of at most 16 KiB from the socket:
//! let mut input = received;
//! loop {
//!     let event = session.receive(&mut input)?; // after an error: count error.label(), close
//!     let output = session.take_output(); // write it to the socket
//!     match event {
//!         None => break, // all of `input` is taken: read the socket again
//!         Some(Event::PublishRequested(_publish)) if may_publish => session.accept(),
//!         Some(Event::PublishRequested(_)) => session.refuse(Refusal::Denied, "unknown stream key"),
//!         Some(Event::Audio { timestamp, data }) => {
//!             for packet in AudioPackets::new(&data) {
//!                 let packet = packet?; // packet.codec, packet.track, packet.data
//!                 if packet.kind == Kind::Frames {
//!                     let moment = timeline.advance(timestamp, elapsed_ms);
//!                 }
//!             }
//!         }
//!         Some(Event::Unpublished) => break,
//!         Some(_) => {}
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

// In the order bytes pass them.
pub mod handshake;

pub mod chunk;

pub mod amf0;
pub mod message;

mod error;
mod event;
mod link;

mod address;
mod client;
mod server;

mod audio;
mod timeline;

pub use address::{Address, AddressError, PORT_DEFAULT, TLS_PORT_DEFAULT};
pub use audio::{
    AudioPacket, AudioPackets, AudioTagError, Codec, Kind, MOD_EX_MAX, PcmLayout, TIMESTAMP_OFFSET_NS_MAX,
};
pub use client::{CLIENT_OUTPUT_BYTES_MAX, ClientEvent, ClientSession};
pub use error::SessionError;
pub use event::{Connect, Event, Publish, Refusal};
pub use server::{NAME_BYTES_MAX, OUTPUT_BYTES_MAX, ServerSession};
pub use timeline::{BACKWARD_MS_MAX, FORWARD_MS_MAX, LATE_PACKETS_MAX, Moment, Step, Timeline};
