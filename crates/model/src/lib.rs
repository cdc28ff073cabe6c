//! Nouns that the services exchange: ids, topics, captions, notifications, faults and time.
//!
//! This changes when the product gains or loses an idea. It knows nothing of wires: gRPC types, client JSON
//! and the Redis envelope are each converted from here, in one file of the crate that owns the wire.

mod caption;
mod clock;
mod fault;
mod ids;
mod json;
pub mod notification;
mod pcm;
pub mod room;
mod stream;
mod topic;
mod trace;

pub use caption::{
    Caption, Entry, Final, Outside, Partial, Speaker, Spoken, Translation, Untranslated, Word,
};
pub use clock::{Clock, Timestamp};
pub use fault::FaultKind;
pub use ids::{
    IDENTITY_BYTES_MAX, Identity, InvalidId, MessageId, NotificationId, NotificationType, OutsideId, RoomId,
    SLUG_BYTES_MAX, SeatId, SessionId, SessionSlug, StreamId, SubjectId, TYPE_BYTES_MAX, UserId, UtteranceId,
};
pub use json::{InvalidJson, JsonObject};
pub use notification::{
    AppEvent, Change, NewNotification, Notification, NotificationChange, Priority, Refusal, Unread,
};
pub use pcm::{FRAME_SAMPLES, PcmFrame, SAMPLE_RATE_HZ, Samples};
pub use room::{Member, Message, MessageKind, NewMessage, RoomSign};
pub use stream::{EngineName, Fallback, StreamState, StreamStatus, TranscriptionError};
pub use topic::{InvalidTopic, Sequence, Topic};
pub use trace::{TraceContext, TraceContextInvalid};
