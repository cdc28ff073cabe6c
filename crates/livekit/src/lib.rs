//! LiveKit's server API and webhooks, as far as captions need them: who in a room can be heard, egresses that bring
//! the sound, and news of both.
//!
//! This changes when LiveKit's API does (`livekit-protocol`), or when captions need more of it. It knows nothing of
//! sessions, of Postgres or of our sockets. Its calls are Twirp over HTTP of its own, not `livekit-api`'s: a server that
//! refuses a token answers in plain text, which that client reports as a body that cannot be decoded, and it reads
//! answers of any length.

mod api;
mod egress;
mod error;
mod settings;
mod track;
mod twirp;
mod webhook;

pub use api::LiveKit;
pub use egress::{Egress, EgressStatus, Target};
pub use error::LiveKitError;
pub use settings::LiveKitSettings;
pub use track::AudioTrack;
pub use webhook::{Event, WebhookError, WebhookEvent, Webhooks};
