//! What all calls have in common: how they fail, and that they are counted.

use model::{FaultKind, Refusal};
use rpc::{notification::refused, wire};
use storage::StorageError;
use tonic::{Response, Status};

/// Calls by `call` and `outcome`.
const CALLS_TOTAL: &str = "hub_calls_total";

/// Values of the label `call`.
const CALLS: [&str; 20] = [
    "publish",
    "list",
    "get",
    "mark_read",
    "mark_unread",
    "mark_all_read",
    "archive",
    "delete",
    "clear",
    "unread_count",
    "get_preferences",
    "set_preferences",
    "replay",
    "push_key",
    "register_push",
    "remove_push",
    "send_message",
    "edit_message",
    "delete_message",
    "history",
];

pub(crate) fn register_metrics() {
    metrics::describe_counter!(CALLS_TOTAL, "Calls of our services, by what was asked and how it went");
    for call in CALLS {
        metrics::counter!(CALLS_TOTAL, "call" => call, "outcome" => "ok").absolute(0);
    }
}

/// Why a call fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl CallError {
    fn fault(&self) -> FaultKind {
        match self {
            Self::Refused(refusal) => refusal.fault(),
            Self::Storage(error) => error.fault(),
        }
    }
}

/// The answer to a call, counted.
pub(crate) fn answer<T>(call: &'static str, outcome: Result<T, CallError>) -> Result<Response<T>, Status> {
    match outcome {
        Ok(answer) => {
            metrics::counter!(CALLS_TOTAL, "call" => call, "outcome" => "ok").increment(1);
            Ok(Response::new(answer))
        }
        Err(error) => {
            let fault = error.fault();
            metrics::counter!(CALLS_TOTAL, "call" => call, "outcome" => fault.label()).increment(1);
            Err(match error {
                CallError::Refused(refusal) => refused(refusal),
                CallError::Storage(error) => {
                    tracing::warn!(call, %error, "a call failed");
                    wire::status(fault, error.to_string())
                }
            })
        }
    }
}
