//! Going on with a stream whose socket was lost: on this edge, where its source waits, or from another one, by what
//! Postgres and the worker know of it.

use std::{sync::Arc, time::Duration};

use audio::Encoding;
use auth::Principal;
use model::{FaultKind, Samples};
use rpc::WhenFull;
use tokio::time::{Instant, timeout_at};

use super::{RESUME_LIMIT, voice::introduction};
use crate::{
    Edge,
    desk::Found,
    metrics,
    protocol::{Init, Resume},
    source::{At, Report, Source},
};

/// Longest position that a client may name: a month. Nobody speaks for longer in one breath.
const ACKED_MAX: Samples = Samples::from_millis(31 * 24 * 3_600 * 1_000);

/// A stream that nothing happened in for so long is not gone on with.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 3_600);

/// When a client may try again whose stream could not be taken in time.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What became of a client's wish to go on.
pub(super) enum Resumed {
    On {
        source: Box<Source>,
        /// Up to there nothing needs to be sent again.
        acked: Samples,
        /// Up to there this edge has the audio.
        received: Samples,
    },
    /// It is another participant's.
    NotYours,
    /// Nobody knows it.
    Unknown,
    /// It could not go on.
    Failed(Report),
}

/// Goes on with the stream of `resume`, which `init` may carry in another encoding than before.
pub(super) async fn resume(edge: &Arc<Edge>, principal: &Principal, resume: Resume, init: &Init) -> Resumed {
    let deadline = Instant::now() + RESUME_LIMIT;
    let mut resumed = here(edge, principal, resume, init, deadline).await;
    let mut how = metrics::Resume::Here;
    if matches!(resumed, Resumed::Unknown) {
        resumed = from_elsewhere(edge, principal, resume, init, deadline).await;
        how = metrics::Resume::Elsewhere;
    }
    match resumed {
        Resumed::On { .. } => how,
        Resumed::NotYours | Resumed::Failed(_) => metrics::Resume::Refused,
        Resumed::Unknown => metrics::Resume::Unknown,
    }
    .count();
    resumed
}

/// Takes the source that waits at this edge.
async fn here(
    edge: &Arc<Edge>,
    principal: &Principal,
    Resume { stream, acked }: Resume,
    init: &Init,
    deadline: Instant,
) -> Resumed {
    let source = match edge.desks.resume(stream, principal.session(), principal.identity(), acked) {
        Found::Here(seat) => Source::at(edge, seat),
        Found::NotYours => return Resumed::NotYours,
        Found::Nowhere => return Resumed::Unknown,
    };
    let acked = source.acknowledged().max(acked);
    // Samples can be cut where one likes; whoever sends a container begins a new one where the old one broke off.
    let at = if is_raw(init.format.encoding) { At::Position(acked) } else { At::After(Samples(0)) };
    match timeout_at(deadline, source.go_on(init.format, at)).await {
        Ok(Some(received)) => Resumed::On { source: Box::new(source), acked, received: received.max(acked) },
        // It has just ended, perhaps because the stream went on elsewhere.
        Ok(None) => Resumed::Unknown,
        Err(_) => {
            let message = "what came before is still being dealt with".to_owned();
            Resumed::Failed(Report::Failed {
                fault: FaultKind::Overloaded,
                message,
                retry_after: Some(RETRY_AFTER),
            })
        }
    }
}

/// Opens a stream again that another edge had, or this one before it was restarted.
async fn from_elsewhere(
    edge: &Arc<Edge>,
    principal: &Principal,
    Resume { stream, acked }: Resume,
    init: &Init,
    deadline: Instant,
) -> Resumed {
    if acked > ACKED_MAX {
        return Resumed::Unknown;
    }
    match timeout_at(deadline, edge.storage.find_stream(stream)).await {
        Ok(Ok(None)) => return Resumed::Unknown,
        Ok(Ok(Some(known))) => {
            if known.session != *principal.session() || known.identity != *principal.identity() {
                return Resumed::NotYours;
            }
            if edge.clock.now().since(known.last_activity_at) > FORGOTTEN_AFTER {
                return Resumed::Unknown;
            }
        }
        // Postgres is away. The worker asks it again before it takes the stream.
        Ok(Err(error)) => tracing::warn!(%error, "look up a stream that is resumed"),
        Err(_) => tracing::warn!("looking up a stream that is resumed took too long"),
    }
    let source = introduction(edge, principal, stream, Some(init));
    let mut source = Source::open(edge, source, init.format, WhenFull::Wait, acked);
    let acked = match timeout_at(deadline, source.opened()).await {
        Ok(Ok(stored)) => stored.max(acked),
        Ok(Err(Report::Failed { fault: FaultKind::Forbidden, .. })) => return Resumed::NotYours,
        Ok(Err(report)) => return Resumed::Failed(report),
        // What the client sends until a worker is found is passed over where it is stored.
        Err(_) => acked,
    };
    // Nothing has come yet, so this is dealt with at once.
    match source.go_on(init.format, At::Position(acked)).await {
        Some(_) => Resumed::On { source: Box::new(source), acked, received: acked },
        None => Resumed::Failed(Report::Elsewhere),
    }
}

/// Whether sound of this encoding can be cut between any two samples.
fn is_raw(encoding: Encoding) -> bool {
    matches!(encoding, Encoding::PcmS16le | Encoding::PcmF32le | Encoding::Mulaw | Encoding::Alaw)
}
