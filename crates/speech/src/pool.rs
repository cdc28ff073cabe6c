use std::{
    cmp::Reverse,
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use crate::{
    Hypothesis, Recognizer, SpeechError,
    decode::{Decode, DecodeKind, Ticket},
    meters,
};

/// Partials that may wait. Each listener has one at most, so this many streams at once are far over capacity;
/// beyond it the oldest is dropped. Finals are not counted: each listener waits for its own, so the callers'
/// limit on streams bounds them, and they are never dropped.
const PARTIALS_MAX: usize = 64;

/// A partial that waited this long shows what followers have stopped waiting for; under such load partials
/// pause and leave the engines to finals.
const PARTIAL_WAIT_MAX: Duration = Duration::from_secs(2);

/// Weight of the newest decode in moving averages: about the last twenty count.
const SPEED_WEIGHT: f64 = 0.05;

/// Engine threads, each with a recognizer of its own, that decode by deadline: finals before partials, then
/// whoever asked first.
pub struct EnginePool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// How busy an [`EnginePool`] is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Load {
    /// Decodes that wait.
    pub queued: usize,
    /// Engine threads at work.
    pub working: usize,
    /// Engine threads.
    pub threads: usize,
    /// How long the oldest has waited.
    pub oldest_wait: Duration,
    /// Seconds of engine time per second of sound decoded, over the last decodes; 0 before the first.
    pub speed: f64,
    /// From the question to the answer, over the last decodes; zero when there were none for [`TURNAROUND_MEMORY`].
    pub turnaround: Duration,
}

/// An average of decodes longer ago says nothing about now.
const TURNAROUND_MEMORY: Duration = Duration::from_secs(5);

/// The answer to a submitted decode, to be awaited, or waited for by a thread.
pub struct Answer {
    ticket: Ticket,
    result: oneshot::Receiver<Result<Hypothesis, SpeechError>>,
}

struct Shared {
    queue: Mutex<Queue>,
    arrived: Condvar,
}

#[derive(Default)]
struct Queue {
    /// In the order of arrival.
    waiting: VecDeque<Job>,
    working: usize,
    speed: f64,
    /// Moving average in seconds, and when it was last moved.
    turnaround: Option<(f64, Instant)>,
    closing: bool,
}

struct Job {
    decode: Decode,
    answer: oneshot::Sender<Result<Hypothesis, SpeechError>>,
}

impl EnginePool {
    /// Starts `threads` engine threads. `make` builds a recognizer for each, here and now, so that a missing model
    /// fails the start; it is called again on an engine thread when a recognizer panicked.
    pub fn start(
        threads: usize,
        make: impl Fn() -> Result<Box<dyn Recognizer>, SpeechError> + Send + Sync + 'static,
    ) -> Result<Self, SpeechError> {
        let recognizers = (0..threads.max(1)).map(|_| make()).collect::<Result<Vec<_>, _>>()?;
        let shared = Arc::new(Shared { queue: Mutex::default(), arrived: Condvar::new() });
        let make = Arc::new(make);
        let mut pool = Self { shared, threads: Vec::with_capacity(recognizers.len()) };
        for (index, recognizer) in recognizers.into_iter().enumerate() {
            let (shared, make) = (Arc::clone(&pool.shared), Arc::clone(&make));
            let thread = std::thread::Builder::new()
                .name(format!("engine-{index}"))
                .spawn(move || work(&shared, recognizer, make.as_ref()))
                .map_err(|error| SpeechError::Load(format!("start an engine thread: {error}")))?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// Queues a decode. Never waits.
    pub fn submit(&self, mut decode: Decode) -> Answer {
        let (answer, result) = oneshot::channel();
        let ticket = decode.ticket;
        let known = decode.known.take();
        let job = Job { decode, answer };
        if let Some(hypothesis) = known {
            job.reply(Ok(hypothesis));
            return Answer { ticket, result };
        }
        let mut queue = self.shared.lock();
        if queue.closing {
            drop(queue);
            job.reply(Err(SpeechError::ShutDown));
            return Answer { ticket, result };
        }
        queue.waiting.push_back(job);
        let crowded = queue.crowded_out();
        metrics::gauge!(meters::QUEUE_DECODES).set(queue.waiting.len() as f64);
        drop(queue);
        if let Some(crowded) = crowded {
            crowded.drop_partial();
        }
        self.shared.arrived.notify_one();
        Answer { ticket, result }
    }

    /// How busy the engines are now.
    pub fn load(&self) -> Load {
        let queue = self.shared.lock();
        let waits = queue.waiting.iter().filter(|job| !job.decode.standing.superseded());
        Load {
            queued: queue.waiting.len(),
            working: queue.working,
            threads: self.threads.len(),
            oldest_wait: waits.map(|job| job.decode.asked.elapsed()).max().unwrap_or_default(),
            speed: queue.speed,
            turnaround: queue.turnaround(Instant::now()).map(Duration::from_secs_f64).unwrap_or_default(),
        }
    }

    /// Takes no more, finishes the queued finals, answers queued partials with [`SpeechError::ShutDown`] and waits
    /// for the threads. Dropping the pool does the same.
    pub fn shutdown(self) {}
}

impl Drop for EnginePool {
    fn drop(&mut self) {
        let dropped: Vec<Job> = {
            let mut queue = self.shared.lock();
            queue.closing = true;
            let waiting = std::mem::take(&mut queue.waiting);
            let (finals, partials) =
                waiting.into_iter().partition(|job| job.decode.kind() != DecodeKind::Partial);
            queue.waiting = finals;
            Vec::from(partials)
        };
        for job in dropped {
            job.reply(Err(SpeechError::ShutDown));
        }
        self.shared.arrived.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("an engine thread died");
            }
        }
    }
}

impl Answer {
    /// Waits for the answer on a thread that is not the async runtime's.
    pub fn wait(self) -> (Ticket, Result<Hypothesis, SpeechError>) {
        (self.ticket, self.result.blocking_recv().unwrap_or(Err(SpeechError::ShutDown)))
    }
}

impl Future for Answer {
    type Output = (Ticket, Result<Hypothesis, SpeechError>);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let ticket = self.ticket;
        Pin::new(&mut self.result)
            .poll(context)
            .map(|result| (ticket, result.unwrap_or(Err(SpeechError::ShutDown))))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics while it holds the lock; if something did, the queue would still be whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next decode to do; `None` when there will be none any more.
    fn next(&self) -> Option<Job> {
        let mut queue = self.lock();
        loop {
            if let Some(job) = queue.take_next() {
                queue.working += 1;
                metrics::gauge!(meters::QUEUE_DECODES).set(queue.waiting.len() as f64);
                return Some(job);
            }
            if queue.closing {
                return None;
            }
            queue = self.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Notes that a decode asked for at `asked` was done, after so long, of so many seconds of sound; 0 where nothing
    /// came of it.
    fn done(&self, asked: Instant, took: Duration, audio: f64) {
        let mut queue = self.lock();
        queue.working -= 1;
        if audio > 0.0 {
            let speed = took.as_secs_f64() / audio;
            let weight = if queue.speed == 0.0 { 1.0 } else { SPEED_WEIGHT };
            queue.speed += (speed - queue.speed) * weight;
        }
        // A partial that was dropped for its age has waited too.
        let now = Instant::now();
        let waited = now.saturating_duration_since(asked).as_secs_f64();
        let before = queue.turnaround(now).unwrap_or(waited);
        queue.turnaround = Some((before + (waited - before) * SPEED_WEIGHT, now));
    }
}

impl Queue {
    /// Seconds from the question to the answer, while that is news.
    fn turnaround(&self, now: Instant) -> Option<f64> {
        let (average, moved) = self.turnaround?;
        (now.saturating_duration_since(moved) < TURNAROUND_MEMORY).then_some(average)
    }

    fn take_next(&mut self) -> Option<Job> {
        let first =
            self.waiting.iter().enumerate().min_by_key(|(_, job)| (job.decode.kind(), job.decode.asked));
        let (index, _) = first?;
        self.waiting.remove(index)
    }

    /// The partial that has to go because too many wait.
    fn crowded_out(&mut self) -> Option<Job> {
        let partials =
            || self.waiting.iter().enumerate().filter(|(_, job)| job.decode.kind() == DecodeKind::Partial);
        if partials().count() <= PARTIALS_MAX {
            return None;
        }
        let (index, _) = partials()
            .max_by_key(|(_, job)| (job.decode.standing.superseded(), Reverse(job.decode.asked)))?;
        self.waiting.remove(index)
    }
}

impl Job {
    /// A receiver that is gone has lost its stream; nobody is left to tell.
    fn reply(self, result: Result<Hypothesis, SpeechError>) {
        let _ = self.answer.send(result);
    }

    fn drop_partial(self) {
        metrics::counter!(meters::PARTIALS_SUPERSEDED).increment(1);
        self.reply(Err(SpeechError::Superseded));
    }

    /// Whether its turn came for nothing.
    fn outdated(&self) -> bool {
        let partial = self.decode.kind() == DecodeKind::Partial;
        let late = partial && self.decode.asked.elapsed() > PARTIAL_WAIT_MAX;
        late || self.decode.standing.superseded() || self.answer.is_closed()
    }
}

/// The life of an engine thread.
fn work(
    shared: &Shared,
    recognizer: Box<dyn Recognizer>,
    make: &dyn Fn() -> Result<Box<dyn Recognizer>, SpeechError>,
) {
    let mut recognizer = Some(recognizer);
    while let Some(job) = shared.next() {
        if job.outdated() {
            shared.done(job.decode.asked, Duration::ZERO, 0.0);
            job.drop_partial();
            continue;
        }
        let kind = job.decode.kind().label();
        let audio = job.decode.length();
        metrics::histogram!(meters::QUEUE_SECONDS, "kind" => kind).record(job.decode.asked.elapsed());
        let began = Instant::now();
        let result = decode(&mut recognizer, make, &job.decode);
        let took = began.elapsed();
        metrics::histogram!(meters::DECODE_SECONDS, "kind" => kind).record(took);
        metrics::counter!(meters::DECODED_AUDIO_MS, "kind" => kind).increment(audio.millis());
        if let Err(error) = &result {
            metrics::counter!(meters::DECODES_FAILED, "fault" => error.fault().label()).increment(1);
            tracing::warn!(%error, kind, audio = %audio, "decode failed");
        }
        shared.done(job.decode.asked, took, if result.is_ok() { audio.seconds() } else { 0.0 });
        job.reply(result);
    }
}

/// Decodes with the thread's recognizer, which is made anew when the last one panicked.
fn decode(
    recognizer: &mut Option<Box<dyn Recognizer>>,
    make: &dyn Fn() -> Result<Box<dyn Recognizer>, SpeechError>,
    decode: &Decode,
) -> Result<Hypothesis, SpeechError> {
    let old = recognizer.take();
    // A recognizer that panics is dropped, so nobody sees what state it was in.
    let attempt = catch_unwind(AssertUnwindSafe(|| {
        let mut ready = old.map_or_else(make, Ok)?;
        let result = match &decode.earlier {
            Some(earlier) => ready.recognize_again(&decode.pcm, &decode.wanted, earlier),
            None => ready.recognize(&decode.pcm, &decode.wanted),
        };
        *recognizer = Some(ready);
        result
    }));
    match attempt {
        Ok(result) => result,
        Err(_) => {
            metrics::counter!(meters::RECOGNIZER_PANICS).increment(1);
            Err(SpeechError::Panicked)
        }
    }
}
