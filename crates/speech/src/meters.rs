use metrics::Unit;

use crate::{DecodeKind, GladiaTrouble, gladia};

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
/// Sessions at Gladia that were asked for.
pub const GLADIA_SESSIONS: &str = "speech_gladia_sessions_total";
/// Connections to Gladia that were lost and made again.
pub const GLADIA_RECONNECTS: &str = "speech_gladia_reconnects_total";
/// Sessions at Gladia that failed, by `trouble`.
pub const GLADIA_FAILED: &str = "speech_gladia_failed_total";
/// Messages from Gladia, by `kind`.
pub const GLADIA_MESSAGES: &str = "speech_gladia_messages_total";
/// What Gladia said that was left out, by `reason`.
pub const GLADIA_SKIPPED: &str = "speech_gladia_skipped_total";
/// From the sending of an utterance's last sound to a text of it, by `kind`.
pub const GLADIA_LATENCY_SECONDS: &str = "speech_gladia_latency_seconds";

/// Values of the label `reason` of [`GLADIA_SKIPPED`]: not shaped as it should be, a complaint, of sound that was
/// heard twice, an utterance that was never finished.
const GLADIA_SKIP_REASONS: [&str; 4] = ["malformed", "complaint", "repeated", "unfinished"];

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
    metrics::describe_counter!(GLADIA_SESSIONS, Unit::Count, "Sessions at Gladia asked for");
    metrics::describe_counter!(GLADIA_RECONNECTS, Unit::Count, "Connections to Gladia made again");
    metrics::describe_counter!(GLADIA_FAILED, Unit::Count, "Sessions at Gladia that failed");
    metrics::describe_counter!(GLADIA_MESSAGES, Unit::Count, "Messages from Gladia");
    metrics::describe_counter!(GLADIA_SKIPPED, Unit::Count, "What Gladia said that was left out");
    metrics::describe_histogram!(
        GLADIA_LATENCY_SECONDS,
        Unit::Seconds,
        "From the sending of an utterance's last sound to a text of it"
    );
    metrics::gauge!(QUEUE_DECODES).set(0.0);
    for kind in [DecodeKind::Final, DecodeKind::Partial, DecodeKind::Recording] {
        metrics::counter!(DECODED_AUDIO_MS, "kind" => kind.label()).absolute(0);
    }
    for fault in model::FaultKind::ALL {
        metrics::counter!(DECODES_FAILED, "fault" => fault.label()).absolute(0);
    }
    for trouble in GladiaTrouble::LABELS {
        metrics::counter!(GLADIA_FAILED, "trouble" => trouble).absolute(0);
    }
    for kind in gladia::MESSAGE_LABELS {
        metrics::counter!(GLADIA_MESSAGES, "kind" => kind).absolute(0);
    }
    for reason in GLADIA_SKIP_REASONS {
        metrics::counter!(GLADIA_SKIPPED, "reason" => reason).absolute(0);
    }
    for counter in
        [PARTIALS_SUPERSEDED, RECOGNIZER_PANICS, UTTERANCES_EMPTY, GLADIA_SESSIONS, GLADIA_RECONNECTS]
    {
        metrics::counter!(counter).absolute(0);
    }
}
