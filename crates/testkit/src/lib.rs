//! What tests need from the world: databases, Redis, LiveKit, nginx, cables to cut, tokens, recordings and patience.
//!
//! Everything here panics with a clear message instead of returning errors, and cleans up when it is dropped. It
//! knows how services are reached, never what they should answer. Changes when the tests need another part of the
//! world.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot have its world must say so and fail"
)]

mod address;
mod binary;
mod cable;
mod database;
mod environment;
mod form;
mod gladia;
pub mod livekit;
mod nginx;
mod patience;
mod peers;
mod postgres_server;
mod recordings;
mod redis_sentinel;
mod redis_server;
mod scratch_folder;
mod tls;
pub mod tokens;
mod trace_collector;
mod transcription_server;
mod translation_server;
pub mod wer;

pub use address::{free_port, host, with_address};
pub use binary::{reported, run_binary};
pub use cable::Cable;
pub use database::Database;
pub use environment::{model_dir, new_ffmpeg, soak_minutes};
pub use form::form;
pub use gladia::GladiaServer;
pub use livekit::LiveKitServer;
pub use nginx::{HandshakeLimit, Nginx};
pub use patience::{Outcome, PATIENCE, eventually};
pub use peers::{node_script, python_script};
pub use postgres_server::PostgresServer;
pub use recordings::{Recording, recording, recordings};
pub use redis_sentinel::RedisSentinel;
pub use redis_server::{RedisServer, redis_prefix, redis_settings, redis_url};
pub use scratch_folder::ScratchFolder;
pub use tls::{Authority, choose_tls};
pub use trace_collector::{RecordedSpan, TraceCollector};
pub use transcription_server::{Asked, Hearing, TranscriptionServer};
pub use translation_server::{Translating, TranslationServer};
