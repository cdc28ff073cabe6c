//! Topics to bounded per-connection queues.
//!
//! This changes when the promise to a slow follower does. It knows nothing of sockets, encodings or what an item
//! says; only whether it may be replaced ([`Item::replaces`]).
//!
//! The promise: an offer never waits, so one slow follower delays nobody. A replaceable item (a partial) takes the
//! place of the one before it, and is dropped when a queue is full. An item that must arrive (a final) pushes
//! replaceable ones out; when only such items are left, the follower is too slow and its queue closes.

mod hub;
mod queue;

pub use hub::{Follower, Hub};
pub use queue::{Item, Taken};
