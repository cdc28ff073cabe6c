//! The whole system in one test process, behind the real nginx, and those who use it: a scripted client, `curl`, a
//! browser, programs of others. The tests are in `tests/stories`, by user story; they read as what somebody does and sees.
//!
//! This changes when the system gets another part or another kind of user. It knows how parts are started, killed and
//! reached, never what they should answer.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot have its world must say so and fail"
)]

mod browser;
mod client;
mod log;
mod peer;
mod process;
mod raw;
mod room;
mod script;
mod service;
pub mod sound;
mod stack;
mod tab;

pub use browser::{Browser, Microphone};
pub use client::{Client, Heard};
pub use log::logged;
pub use peer::{LIBRARIES, Library, POLLING, Peer, UPGRADE, WEBSOCKET, binary};
pub use process::{Output, resident_mib, run};
pub use raw::{Frame, RawSocket, frames};
pub use room::{Room, text};
pub use script::Script;
pub use service::Service;
pub use stack::{JWT_SECRET, Plan, SERVICE_KEY, Stack, USER_SECRET};
pub use tab::{Tab, User};
