//! Stored finals as subtitles, text and JSON.
//!
//! This changes when a format of transcripts does. It must not know where finals come from or where the text goes. In
//! the order data passes: `cues` cuts finals into what can be read in time, `render` writes them down.

mod cues;
mod render;
mod translated;

pub use render::{Format, UnknownFormat, render};
pub use translated::translated;
