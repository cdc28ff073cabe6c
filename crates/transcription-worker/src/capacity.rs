//! How many streams the engines can serve: measured, not configured.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use speech::{EnginePool, Load};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What engines of one kind can be asked to do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Seconds of sound that they decode for one second of speech when they are as busy as they may be.
    decoded_per_second: f64,
    /// Engine seconds per second of sound, before anything was measured.
    speed_unmeasured: f64,
    /// Streams that each engine thread takes, whatever was measured: a few short decodes on a busy machine say little,
    /// and engines that really are too slow fall behind, which ends the room at once.
    per_engine_min: usize,
    /// A decode that waits longer than this means that the engines are behind, whatever was computed.
    decode_wait_max: Duration,
    /// An answer that takes longer, on average, means that everybody waits; so nobody is taken then.
    turnaround_max: Duration,
    /// Beyond the streams that are taken in any case, each engine thread gets one more in this time: what a new stream
    /// costs shows only after its first words.
    interval: Duration,
}

impl Pace {
    /// Engines that write partials. When those are stretched as far as they go, each second of speech is decoded once for
    /// its final, and the open utterance, three seconds on average, every two. Unmeasured, three times what one core of
    /// today needs. Partials come every 500 ms while an answer takes no longer than half of that.
    pub(crate) const LIVE: Self = Self {
        decoded_per_second: 2.5,
        speed_unmeasured: 0.1,
        per_engine_min: 4,
        decode_wait_max: Duration::from_millis(1500),
        turnaround_max: Duration::from_millis(250),
        interval: Duration::from_millis(1500),
    };

    /// Engines that write finals alone, and are slow: nobody sees their words before the utterance is over anyway.
    pub(crate) const FINALS: Self = Self {
        decoded_per_second: 1.3,
        speed_unmeasured: 0.3,
        per_engine_min: 2,
        decode_wait_max: Duration::from_secs(6),
        turnaround_max: Duration::from_secs(4),
        interval: Duration::from_secs(3),
    };
}

/// The part of the engines' time that may be promised. The rest is for everybody who speaks at once, and for what else
/// runs on these cores.
const PROMISED: f64 = 0.8;

/// When a refused stream may ask again.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(3);

/// Streams that are open now.
const STREAMS_OPEN: &str = "worker_streams";
/// Streams that could be taken beside them.
const STREAMS_ROOM: &str = "worker_streams_room";

pub(crate) fn register_metrics() {
    metrics::describe_gauge!(STREAMS_OPEN, "Streams that are open now");
    metrics::describe_gauge!(
        STREAMS_ROOM,
        "Streams that could be taken beside those that are open, as last measured"
    );
    metrics::gauge!(STREAMS_OPEN).set(0.0);
    metrics::gauge!(STREAMS_ROOM).set(0.0);
}

/// The places for streams of this worker. Clones are the same.
#[derive(Clone)]
pub(crate) struct Capacity {
    engines: Arc<EnginePool>,
    pace: Pace,
    places: Arc<Semaphore>,
    places_max: usize,
    /// When the newest place was taken.
    taken: Arc<Mutex<Option<Instant>>>,
}

/// A place that is taken.
pub(crate) struct Place(#[expect(dead_code, reason = "held until the stream ends")] OwnedSemaphorePermit);

impl Capacity {
    /// Places for up to `places_max` streams, fewer when `engines` are slow.
    pub(crate) fn new(engines: Arc<EnginePool>, pace: Pace, places_max: usize) -> Self {
        Self {
            engines,
            pace,
            places: Arc::new(Semaphore::new(places_max)),
            places_max,
            taken: Arc::default(),
        }
    }

    /// The engines that serve the places.
    pub(crate) fn engines(&self) -> &Arc<EnginePool> {
        &self.engines
    }

    /// A place, when there is room.
    pub(crate) fn take(&self, who: Who) -> Option<Place> {
        if self.room(who) == 0 {
            return None;
        }
        let permit = self.places.clone().try_acquire_owned().ok()?;
        *self.taken.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        metrics::gauge!(STREAMS_OPEN).increment(1.0);
        Some(Place(permit))
    }

    /// How many more streams could be taken now.
    pub(crate) fn room(&self, who: Who) -> u32 {
        let open = self.places_max - self.places.available_permits();
        let taken = *self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let quiet_for = taken.map_or(Duration::MAX, |taken| taken.elapsed());
        let load = self.engines.load();
        let room = match who {
            Who::Embedded => room(self.pace, load, open, self.places_max, quiet_for),
            Who::Provider => provided_room(self.pace, load, open, self.places_max),
        };
        metrics::gauge!(STREAMS_ROOM).set(f64::from(room));
        room
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        metrics::gauge!(STREAMS_OPEN).decrement(1.0);
    }
}

/// Who would hear the next stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// An engine of this worker.
    Embedded,
    /// A provider, and an engine of this worker only when that fails.
    Provider,
}

/// How many more streams could be given to a provider: any number, while the engines keep up with those that it has
/// failed.
fn provided_room(pace: Pace, load: Load, open: usize, places_max: usize) -> u32 {
    let behind = load.oldest_wait > pace.decode_wait_max || load.turnaround > pace.turnaround_max;
    if behind { 0 } else { u32::try_from(places_max.saturating_sub(open)).unwrap_or(u32::MAX) }
}

/// How many more streams engines under this `load` can serve beside those that are `open`, the newest of which was
/// taken so long ago.
fn room(pace: Pace, load: Load, open: usize, places_max: usize, quiet_for: Duration) -> u32 {
    if load.oldest_wait > pace.decode_wait_max {
        return 0;
    }
    let least = load.threads * pace.per_engine_min;
    let threads = u32::try_from(load.threads).unwrap_or(u32::MAX).max(1);
    if open >= least && (load.turnaround > pace.turnaround_max || quiet_for < pace.interval / threads) {
        return 0;
    }
    let speed = if load.speed > 0.0 { load.speed } else { pace.speed_unmeasured };
    let capacity = (load.threads as f64 * PROMISED / (speed * pace.decoded_per_second)) as usize;
    let room = capacity.max(least).min(places_max).saturating_sub(open);
    u32::try_from(room).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::MAX;

    fn room(load: Load, open: usize, places_max: usize, quiet_for: Duration) -> u32 {
        super::room(Pace::LIVE, load, open, places_max, quiet_for)
    }

    fn provided_room(load: Load, open: usize, places_max: usize) -> u32 {
        super::provided_room(Pace::LIVE, load, open, places_max)
    }

    fn load(speed: f64) -> Load {
        Load { threads: 2, speed, ..Load::default() }
    }

    #[test]
    fn faster_engines_have_more_room() {
        assert_eq!(room(load(0.04), 0, 256, LONG), 16);
        assert_eq!(room(load(0.04), 10, 256, LONG), 6);
        assert_eq!(room(load(0.04), 20, 256, LONG), 0);
        assert_eq!(room(load(0.06), 0, 256, LONG), 10);
        assert_eq!(room(load(0.0), 0, 256, LONG), 8, "nothing was measured yet");
        assert_eq!(room(load(0.001), 0, 256, LONG), 256);
    }

    #[test]
    fn what_a_provider_hears_needs_no_engine() {
        let slow = Load { turnaround: Duration::from_millis(300), ..load(9.0) };
        assert_eq!((provided_room(load(9.0), 20, 256), provided_room(load(9.0), 256, 256)), (236, 0));
        assert_eq!(provided_room(slow, 20, 256), 0, "it has failed many");
    }

    #[test]
    fn a_slow_worker_serves_some_and_one_that_is_behind_takes_nobody() {
        assert_eq!(room(load(9.0), 0, 256, LONG), 8);
        assert_eq!(room(load(9.0), 0, 3, LONG), 3);
        let slow = Load { turnaround: Duration::from_millis(300), ..load(0.01) };
        assert_eq!(
            (room(slow, 7, 256, LONG), room(slow, 8, 256, LONG)),
            (57, 0),
            "answers that take long, for a few or for many"
        );
        let soon = Duration::from_millis(700);
        assert_eq!(
            (room(load(0.01), 7, 256, soon), room(load(0.01), 8, 256, soon)),
            (57, 0),
            "one after the other"
        );
        assert_eq!(room(Load { oldest_wait: Duration::from_secs(2), ..load(0.01) }, 1, 256, LONG), 0);
    }
}
