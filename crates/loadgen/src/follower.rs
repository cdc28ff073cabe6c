//! One client that only reads, and comes back when it lost its socket.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};

use crate::{
    message::FromServer,
    socket::{StreamError, next, open},
    told::Told,
};

/// Wait before a lost connection is made again.
const RETRY: Duration = Duration::from_millis(500);

/// Longest wait for finals that are known to be stored.
const LAST_LIMIT: Duration = Duration::from_secs(15);

/// Longest time without anything from the server, which pings every 15 s.
const SILENCE_LIMIT: Duration = Duration::from_secs(45);

/// Follows the session at `url`, which holds the token and ends in a query, until it was told the final whose sequence
/// `last` comes to name. What it was told; a final that never comes is a fault.
pub async fn follow(url: &str, mut last: watch::Receiver<Option<u64>>) -> Told {
    let mut told = Told::default();
    let mut give_up = None;
    loop {
        let ended = connection(url, &mut told, &mut last, &mut give_up).await;
        if is_complete(&told, &last) {
            return told;
        }
        if give_up.is_some_and(|at| Instant::now() >= at) {
            let expected = last.borrow().unwrap_or_default();
            let why = ended.map_or_else(|error| error.to_string(), |()| "it did not come".to_owned());
            told.faults.push(format!("final {expected} never came after {}: {why}", told.newest()));
            return told;
        }
        sleep(RETRY).await;
    }
}

fn is_complete(told: &Told, last: &watch::Receiver<Option<u64>>) -> bool {
    last.borrow().is_some_and(|last| told.newest() >= last)
}

/// Reads until everything was told or `give_up`.
async fn connection(
    url: &str,
    told: &mut Told,
    last: &mut watch::Receiver<Option<u64>>,
    give_up: &mut Option<Instant>,
) -> Result<(), StreamError> {
    let (_sink, mut stream) = open(&format!("{url}&since={}", told.newest())).await?.split();
    told.connected.push(Instant::now());
    loop {
        if last.borrow_and_update().is_some() {
            give_up.get_or_insert_with(|| Instant::now() + LAST_LIMIT);
        }
        let silent_at = Instant::now() + SILENCE_LIMIT;
        let until = give_up.map_or(silent_at, |at| at.min(silent_at));
        tokio::select! {
            said = timeout_at(until, next(&mut stream)) => match said {
                Ok(said) => if let Some(FromServer::TranscriptFinal(caption)) = said? {
                    if let Some(sequence) = caption.sequence {
                        told.take(sequence, &caption.text);
                    }
                    if is_complete(told, last) {
                        return Ok(());
                    }
                },
                Err(_) if give_up.is_some() => return Ok(()),
                Err(_) => return Err(StreamError::Silent("following")),
            },
            Ok(()) = last.changed() => if is_complete(told, last) {
                return Ok(());
            },
        }
    }
}
