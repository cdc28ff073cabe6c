//! What was said as subtitles, text and JSON: stored finals, and recordings.
//!
//! This changes when a format of transcripts does. It must not know where finals come from or where the text goes. In
//! the order data passes: `cues` cuts finals into what can be read in time, `render` writes them down.

mod cues;
mod render;
mod translated;

pub use cues::Stretch;
pub use render::{Format, UnknownFormat, render, srt_of, vtt_of};
pub use translated::translated;
