//! How serving one client goes on or ends, whatever it speaks.

use std::ops::ControlFlow;

use tungstenite::Utf8Bytes;

use crate::{close::Close, socket::Unsent};

/// How a connection ended. `Word` is what its protocol writes.
pub(crate) enum End<Word = Utf8Bytes> {
    /// The client is gone.
    Gone,
    /// Ended by us, after a last word if there is one.
    Close(Close, Option<Word>),
}

impl<Word> End<Word> {
    /// The code for the log line: 0 when the client is gone.
    pub(crate) fn code(&self) -> u16 {
        match self {
            Self::Gone => 0,
            Self::Close(close, _) => close.code(),
        }
    }
}

impl<Word> From<Unsent> for End<Word> {
    fn from(unsent: Unsent) -> Self {
        match unsent {
            Unsent::Gone => Self::Gone,
            Unsent::TooSlow => Self::Close(Close::SlowFollower, None),
        }
    }
}

/// What follows from something that happened.
pub(crate) type Flow<Word = Utf8Bytes> = ControlFlow<End<Word>>;

/// The client is served on.
pub(crate) const fn go_on<Word>() -> Flow<Word> {
    ControlFlow::Continue(())
}

/// The client is left without a word.
pub(crate) const fn end<Word>(close: Close) -> Flow<Word> {
    ControlFlow::Break(End::Close(close, None))
}

/// The client is told something, and left.
pub(crate) const fn end_with<Word>(close: Close, last: Word) -> Flow<Word> {
    ControlFlow::Break(End::Close(close, Some(last)))
}
