use model::{
    AppEvent, Caption, Message, Notification, NotificationChange, RoomSign, SeatId, StreamStatus,
    TranscriptionError, Unread,
};

/// What followers of a topic are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Something was said.
    Caption(Caption),
    /// A stream of the session changed its state.
    Status(StreamStatus),
    /// The session has ended; the topic says which.
    SessionEnded,
    /// The session is not transcribed although somebody asked for it; the topic says which.
    TranscriptionError(TranscriptionError),
    /// Something new is in an inbox.
    Notification {
        /// What it is.
        notification: Notification,
        /// What is unread with it; its version is the notification's sequence.
        unread: Unread,
    },
    /// An inbox is different otherwise.
    NotificationChanged(NotificationChange),
    /// Something was said, changed or taken back in a room.
    Message(Message),
    /// Somebody came into a room, left it, or writes.
    Sign {
        /// What is told.
        sign: RoomSign,
        /// The seat that it is about, whose own connection knows it already.
        from: SeatId,
    },
    /// An application told the topic something, through us or straight through Redis.
    App(AppEvent),
}
