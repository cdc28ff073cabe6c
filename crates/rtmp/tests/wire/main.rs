//! The protocol from outside: what peers send, in every cut, and what they get for it.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise"
)]

mod made;

mod amf;
mod chunks;
mod handshakes;
mod hostile;
mod messages;
mod recordings;
mod sessions;
mod tags;
