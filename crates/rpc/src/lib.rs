//! The gRPC contract between services, and the uplink that carries audio over it without losing any.
//!
//! This changes when `proto/` or the limits of either end do. Generated types stay in [`wire`], [`notification`]
//! and [`session`], which convert them to and from `model`; it knows nothing of encodings or engines.

mod arrivals;
pub mod notification;
mod notification_client;
pub mod recognition;
pub mod session;
mod trace;
mod uplink;
mod window;
pub mod wire;
mod workers;

pub use arrivals::Arrivals;
pub use notification_client::{Hub, HubError, HubSettings};
pub use trace::{Traced, carried};
pub use uplink::{
    AudioUplink, UplinkClosed, UplinkError, UplinkEvent, UplinkEvents, WhenFull, register_metrics,
};
pub use wire::{Source, WireError};
pub use workers::{Workers, WorkersError, WorkersSettings};

use std::time::Duration;

use model::Samples;

/// Metadata that carries the shared token of our services.
pub const INTERNAL_TOKEN: &str = "x-internal-token";

/// Metadata of a RESOURCE_EXHAUSTED status: when to try again, in milliseconds.
pub const RETRY_AFTER_MS: &str = "retry-after-ms";

/// Longest sound in one message. One second is 32,000 bytes: small enough to schedule fairly, large enough for a
/// re-send to be quick.
pub const AUDIO_SAMPLES_MAX: usize = 16_000;

/// Un-acknowledged audio that an uplink keeps (invariant 3). A worker fills gaps up to this with silence.
pub const WINDOW: Samples = Samples::from_millis(30_000);

/// Largest message of either direction, in bytes: one second of sound and room for headers.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Messages of either direction that wait inside a process.
pub const MESSAGES_WAITING_MAX: usize = 16;

/// HTTP/2 ping interval and how long its answer may take, on both ends: a peer that vanished without a word is
/// noticed within their sum.
pub const KEEP_ALIVE: Duration = Duration::from_secs(5);
