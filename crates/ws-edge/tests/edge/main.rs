//! The edge as its clients see it: real sockets, a real Postgres and Redis, and a worker that is told what to do.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise"
)]

mod client;
mod guest;
mod hub;
mod stage;
mod worker;

mod bad_input;
mod chat;
mod chat_rest;
mod drain;
mod egress;
mod follow;
mod http;
mod kept;
mod outside;
mod recordings;
mod refusals;
mod rehearsal;
mod resume;
mod rooms;
mod service;
mod socketio;
mod speak;
mod tabs;
mod upgrade;
