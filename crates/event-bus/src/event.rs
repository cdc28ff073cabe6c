use model::{Caption, StreamStatus};

/// What followers of a topic are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Something was said.
    Caption(Caption),
    /// A stream of the session changed its state.
    Status(StreamStatus),
    /// The session has ended; the topic says which.
    SessionEnded,
}
