//! Translators of texts: LibreTranslate's API and chat completions of OpenAI's kind.
//!
//! This changes when a translator is spoken to in another way. It must not know where texts come from or who reads their
//! translations. In the order data passes: a [`Translator`] looks into its `cache`, asks its `circuit` whether the service
//! is worth asking, and asks `libretranslate` or `openai`, again and again until a deadline. What people said never
//! reaches a log, an error or a label.

mod cache;
mod circuit;
mod http;
mod languages;
mod libretranslate;
mod openai;
mod settings;
mod translator;

pub use languages::primary;
pub use settings::{LibreTranslateSettings, OpenAiSettings, Service, TranslateSettings};
pub use translator::{
    CACHE_TOTAL, ClientError, Served, Text, Translated, Translator, Untranslatable, describe_metrics,
    unserved,
};

/// Longest text that is translated at once, in bytes: minutes of speech.
pub const TEXT_BYTES_MAX: usize = 16_000;
