use metrics::Unit;

use crate::DecodeKind;

/// Time a decode took on its engine thread, by `kind`.
pub const DECODE_SECONDS: &str = "speech_decode_seconds";
/// Time a decode waited for an engine thread, by `kind`.
pub const QUEUE_SECONDS: &str = "speech_queue_seconds";
/// Decodes waiting for an engine thread.
pub const QUEUE_DECODES: &str = "speech_queue_decodes";
/// Sound decoded, by `kind`; an open utterance counts each time it is decoded again.
pub const DECODED_AUDIO_MS: &str = "speech_decoded_audio_ms_total";
/// Partials dropped because newer sound replaced them, or because the queue was full.
pub const PARTIALS_SUPERSEDED: &str = "speech_partials_superseded_total";
/// Decodes that failed, by `fault`.
pub const DECODES_FAILED: &str = "speech_decodes_failed_total";
/// Recognizers that panicked and were replaced.
pub const RECOGNIZER_PANICS: &str = "speech_recognizer_panics_total";
/// Utterances that turned out to hold no words.
pub const UTTERANCES_EMPTY: &str = "speech_utterances_empty_total";

/// Describes the metrics of this crate to the recorder and sets its counters to zero.
pub fn describe() {
    metrics::describe_histogram!(DECODE_SECONDS, Unit::Seconds, "Time a decode took on its engine thread");
    metrics::describe_histogram!(QUEUE_SECONDS, Unit::Seconds, "Time a decode waited for an engine thread");
    metrics::describe_gauge!(QUEUE_DECODES, Unit::Count, "Decodes waiting for an engine thread");
    metrics::describe_counter!(DECODED_AUDIO_MS, Unit::Milliseconds, "Sound decoded, again each time");
    metrics::describe_counter!(PARTIALS_SUPERSEDED, Unit::Count, "Partials dropped before their turn");
    metrics::describe_counter!(DECODES_FAILED, Unit::Count, "Decodes that failed");
    metrics::describe_counter!(RECOGNIZER_PANICS, Unit::Count, "Recognizers replaced after a panic");
    metrics::describe_counter!(UTTERANCES_EMPTY, Unit::Count, "Utterances without words");
    metrics::gauge!(QUEUE_DECODES).set(0.0);
    for kind in [DecodeKind::Partial, DecodeKind::Final] {
        metrics::counter!(DECODED_AUDIO_MS, "kind" => kind.label()).absolute(0);
    }
    for fault in model::FaultKind::ALL {
        metrics::counter!(DECODES_FAILED, "fault" => fault.label()).absolute(0);
    }
    for counter in [PARTIALS_SUPERSEDED, RECOGNIZER_PANICS, UTTERANCES_EMPTY] {
        metrics::counter!(counter).absolute(0);
    }
}
