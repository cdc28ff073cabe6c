//! What was really processed, counted to the sample and written down before its audio is acknowledged: what a killed
//! worker has not written down is sent again and counted by the next.

use std::{future::Future, pin::Pin, time::Duration};

use model::{Clock, EngineName, Samples, StreamId};
use storage::{Metered, OpenStream, Storage, StorageError};
use tokio::time::Instant;

use crate::finals::BACK_OFF;

/// How often it is written down. Acknowledgements of silence wait for it, and windows of 30 s wait for those.
const INTERVAL: Duration = Duration::from_secs(2);

/// So much is written down at once: whoever sends faster than people speak would wait for every acknowledgement.
const AT_ONCE: Samples = Samples::from_millis(5_000);

/// Sound processed, by engine, in seconds.
const SECONDS_TOTAL: &str = "worker_metered_seconds_total";

pub(crate) fn register_metrics() {
    metrics::describe_counter!(SECONDS_TOTAL, "Whole seconds of sound that were metered, by engine");
    for engine in EngineName::ALL {
        metrics::counter!(SECONDS_TOTAL, "engine" => engine.label()).absolute(0);
    }
}

/// Counts the sound of one stream.
pub(crate) struct Meter {
    stream: StreamId,
    epoch: i64,
    engine: EngineName,
    storage: Storage,
    clock: Clock,
    /// Up to here it is written down.
    metered: Samples,
    /// Up to here it was heard.
    heard: Samples,
    /// Sound between the two, without what was put in for what did not come.
    sound: Samples,
    /// Less than a second, of which the counter was not told.
    rest: Samples,
    due: Instant,
    writing: Option<(Metered, Writing)>,
}

type Writing = Pin<Box<dyn Future<Output = Result<(), StorageError>> + Send>>;

impl Meter {
    pub(crate) fn new(
        stream: StreamId,
        open: &OpenStream,
        engine: EngineName,
        storage: Storage,
        clock: Clock,
    ) -> Self {
        Self {
            stream,
            epoch: open.epoch,
            engine,
            storage,
            clock,
            metered: open.heard_end,
            heard: open.heard_end,
            sound: Samples(0),
            rest: Samples(0),
            due: Instant::now() + INTERVAL,
            writing: None,
        }
    }

    /// So much sound was heard up to `end`; what lies between it and the sound before was put in.
    pub(crate) fn hear(&mut self, sound: Samples, end: Samples) {
        let new = (end - self.heard).min(sound);
        self.sound = self.sound + new;
        self.heard = self.heard.max(end);
    }

    /// Up to here it is written down.
    pub(crate) fn metered(&self) -> Samples {
        self.metered
    }

    /// Whether all that was heard is written down.
    pub(crate) fn is_done(&self) -> bool {
        self.metered >= self.heard
    }

    /// Another engine goes on.
    pub(crate) fn set_engine(&mut self, engine: EngineName) {
        self.engine = engine;
    }

    /// Waits until it is time, or much was heard, or until `needed` is not written down and must be; then writes down what was heard,
    /// trying again while Postgres is away. Pending while there is nothing to write. Cancel-safe: an attempt under way
    /// is continued by the next call.
    ///
    /// # Errors
    /// Another worker has the stream.
    pub(crate) async fn write(&mut self, needed: Samples) -> Result<(), StorageError> {
        if self.writing.is_none() {
            if self.is_done() {
                return std::future::pending().await;
            }
            if self.metered >= needed && self.heard - self.metered < AT_ONCE {
                tokio::time::sleep_until(self.due).await;
            }
            let metered = Metered {
                stream: self.stream,
                epoch: self.epoch,
                engine: self.engine,
                heard_end: self.heard,
                sound: self.sound,
                at: self.clock.now(),
            };
            self.writing = Some((metered, Box::pin(write(self.storage.clone(), metered))));
        }
        let Some((metered, writing)) = &mut self.writing else { return Ok(()) };
        let (metered, outcome) = (*metered, writing.await);
        self.writing = None;
        outcome?;
        self.metered = metered.heard_end;
        self.sound = self.sound - metered.sound;
        self.due = Instant::now() + INTERVAL;
        self.count(metered.sound);
        Ok(())
    }

    fn count(&mut self, sound: Samples) {
        self.rest = self.rest + sound;
        let seconds = self.rest.0 / u64::from(model::SAMPLE_RATE_HZ);
        self.rest = Samples(self.rest.0 % u64::from(model::SAMPLE_RATE_HZ));
        metrics::counter!(SECONDS_TOTAL, "engine" => self.engine.label()).increment(seconds);
    }
}

async fn write(storage: Storage, metered: Metered) -> Result<(), StorageError> {
    let mut pause = BACK_OFF.0;
    loop {
        match storage.meter(&metered).await {
            Err(StorageError::Superseded) => return Err(StorageError::Superseded),
            Err(error) => {
                tracing::warn!(%error, stream = %metered.stream, "meter a stream; trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(BACK_OFF.1);
            }
            Ok(()) => return Ok(()),
        }
    }
}
