//! Chat: what people say to each other in rooms, in the events and the shapes of system B, over Socket.IO, beside the captions
//! of a session and over REST.
//!
//! This changes when a chat client's protocol does. A message goes to the notification hub, which stores it, and comes back by
//! the bus to everybody who follows its room, whoever said it among them. In the order data passes: a `guest` is a client of
//! Socket.IO, a `chatter` who that is; `protocol` is client JSON; a `seat` is one connection in its rooms; a `talk` is the
//! story of a room, whose followers are told what is `said`, and `members` are the people in it.

pub(crate) mod chatter;
pub(crate) mod guest;
pub(crate) mod members;
pub(crate) mod protocol;
mod said;
pub(crate) mod seat;
mod talk;

pub(crate) use talk::Talk;
