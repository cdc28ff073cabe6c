//! Voice activity, recognizers and the streaming policy: 16 kHz samples in, words out.
//!
//! This changes when an engine is added or the policy of partials, utterance borders or word times changes.
//! It must not know where samples come from or where words go: no gRPC, no Redis, no Postgres, no encodings.
//!
//! In the order data passes: a [`Listener`] hears one stream and says what to decode; an [`EnginePool`] decodes
//! on threads of its own with a [`Recognizer`] each ([`Moonshine`]); the listener turns hypotheses into
//! [`Spoken`] partials and finals. A [`GladiaSession`] does all of that far away instead.

mod voice;

mod utterance;

mod listener;

mod agreement;
mod gate;
mod phantoms;
mod times;

mod decode;
mod pool;

mod engine;
mod files;
mod languages;
mod moonshine;
mod runtime;
mod tokenizer;

mod gladia;

mod openai;

#[cfg(feature = "whisper")]
mod whisper;

mod meters;

pub use decode::{Decode, DecodeKind, Ticket};
pub use engine::{
    Detected, Hypothesis, HypothesisWord, Recognizer, SpeechError, Task, UTTERANCE_SAMPLES_MAX, Wanted,
};
pub use files::{ModelFiles, ModelMissing, find_whisper};
pub use gladia::{
    Gladia, GladiaError, GladiaEvent, GladiaLimits, GladiaSession, GladiaSettings, GladiaTrouble, Unsettled,
};
pub use languages::WHISPER_LANGUAGES;
pub use listener::{Listener, ListenerSettings, Spoken};
pub use meters::describe;
pub use moonshine::Moonshine;
pub use openai::{OpenAi, OpenAiSettings};
pub use pool::{Answer, EnginePool, Load};
#[cfg(feature = "whisper")]
pub use whisper::Whisper;
