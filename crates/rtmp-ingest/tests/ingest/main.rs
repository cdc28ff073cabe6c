//! One ingest, with real encoders and a worker that only listens.
#![expect(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test stops at the first surprise"
)]

mod encoder;
mod hostile;
mod keys;
mod pushing;
mod relaying;
mod returning;
mod stage;
mod worker;
