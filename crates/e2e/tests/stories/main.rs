//! What people do with the whole system, and what the world does to it: real speech, the real model, real Postgres,
//! Redis and nginx. One program, since each links everything.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test stops at the first surprise"
)]

mod bad_input;
mod chat;
mod contract;
mod encodings;
mod faults;
mod following;
mod gladia;
mod goodbyes;
mod listen;
mod microphones;
mod notifications;
mod notifications_faults;
mod pages;
mod recordings;
mod resuming;
mod rooms;
mod rtmp;
mod secrets;
mod silence;
mod socketio;
mod socketio_bad_input;
mod speaking;
mod system_a;
mod system_d;
mod traces;
mod translating;
mod usage;
