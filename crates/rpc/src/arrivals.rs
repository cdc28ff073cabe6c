//! When the sound of a stream came, for the traces of its utterances: that one was spoken is known only later.

use std::{collections::VecDeque, time::SystemTime};

use model::{Samples, StreamId, TraceContext};
use telemetry::{Span, SpanKind, Tracer};

use crate::wire;

/// Sound that is noted together: spans need not be more exact.
const STEP: Samples = Samples::from_millis(20);

/// Notes that are kept, the oldest forgotten first: of more than the window has.
const NOTES_MAX: usize = 2_048;

/// When the sound of one stream came, and when it left.
#[derive(Debug, Default)]
pub struct Arrivals(VecDeque<Note>);

/// Sound that came at once.
#[derive(Debug)]
struct Note {
    start: Samples,
    end: Samples,
    came: SystemTime,
    /// When it was handed on, the last time.
    left: Option<SystemTime>,
}

impl Arrivals {
    /// Sound has come.
    pub fn came(&mut self, start: Samples, end: Samples, at: SystemTime) {
        if start >= end {
            return;
        }
        match self.0.back_mut() {
            Some(last) if last.end == start && last.left.is_none() && last.end - last.start < STEP => {
                last.end = end;
            }
            _ => self.0.push_back(Note { start, end, came: at, left: None }),
        }
        if self.0.len() > NOTES_MAX {
            self.0.pop_front();
        }
    }

    /// When the first and the last sound of a stretch came; `None` when nothing is known of it.
    pub fn of(&self, start: Samples, end: Samples) -> Option<(SystemTime, SystemTime)> {
        let mut within = self.within(start, end);
        let first = within.next()?.came;
        Some((first, within.next_back().map_or(first, |last| last.came)))
    }

    /// What lies before needs no keeping.
    pub fn forget(&mut self, before: Samples) {
        while self.0.front().is_some_and(|note| note.end <= before) {
            self.0.pop_front();
        }
    }

    fn left(&mut self, start: Samples, end: Samples, at: SystemTime) {
        for note in self.0.iter_mut().rev().skip_while(|note| note.start >= end) {
            if note.end <= start {
                break;
            }
            note.left = Some(at);
        }
    }

    fn within(&self, start: Samples, end: Samples) -> impl DoubleEndedIterator<Item = &Note> {
        self.0.iter().filter(move |note| note.end > start && note.start < end)
    }
}

/// The traces of one stream, on the side of its source. Notes nothing while nobody traces.
#[derive(Debug)]
pub(crate) struct Traces {
    tracer: Tracer,
    stream: StreamId,
    /// Of the stream as a whole, which may last for hours; the traces of its utterances refer to it.
    span: Span,
    arrivals: Arrivals,
}

impl Traces {
    pub(crate) fn new(tracer: &Tracer, stream: StreamId) -> Self {
        let mut span = tracer.root("stream", SpanKind::Internal, None);
        span.set("parley.stream.id", stream.to_string());
        Self { tracer: tracer.clone(), stream, span, arrivals: Arrivals::default() }
    }

    /// Where calls for the stream are made.
    pub(crate) fn context(&self) -> Option<TraceContext> {
        self.span.context()
    }

    /// Sound came and is in the window.
    pub(crate) fn came(&mut self, start: Samples, end: Samples, at: SystemTime) {
        if self.tracer.is_on() {
            self.arrivals.came(start, end, at);
        }
    }

    /// Sound was given to a call.
    pub(crate) fn left(&mut self, start: Samples, end: Samples) {
        if self.tracer.is_on() {
            self.arrivals.left(start, end, telemetry::now());
        }
    }

    /// What lies before is acknowledged.
    pub(crate) fn settled(&mut self, position: Samples) {
        self.arrivals.forget(position);
    }

    /// The worker has heard an utterance and begun its trace: the first two spans of it are ours.
    pub(crate) fn traced(&self, traced: &wire::Traced) {
        let Ok(context) = traced.traceparent.parse::<TraceContext>() else { return };
        let (start, end) = (Samples(traced.start), Samples(traced.end));
        let Some((first, last)) = self.arrivals.of(start, end) else { return };
        let mut receive = self.tracer.chosen("receive", SpanKind::Server, context);
        receive.began(first);
        receive.ended(last);
        receive.set("parley.stream.id", self.stream.to_string());
        receive.count("parley.utterance.start_ms", start.millis());
        receive.count("parley.utterance.end_ms", end.millis());
        receive.link(self.span.context());
        let mut uplink = receive.child("uplink", SpanKind::Client);
        uplink.began(first);
        uplink.ended(self.arrivals.within(start, end).filter_map(|note| note.left).max().unwrap_or(last));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    #[test]
    fn a_stretch_is_dated_by_its_first_and_last_sound() {
        let mut arrivals = Arrivals::default();
        for second in 0..10 {
            arrivals.came(Samples(second * 16_000), Samples((second + 1) * 16_000), at(second));
        }
        assert_eq!(arrivals.of(Samples(32_500), Samples(64_000)), Some((at(2), at(3))));
        assert_eq!(arrivals.of(Samples(32_000), Samples(33_000)), Some((at(2), at(2))));
        assert_eq!(arrivals.of(Samples(160_000), Samples(170_000)), None);
        arrivals.forget(Samples(63_999));
        assert_eq!(arrivals.of(Samples(0), Samples(160_000)), Some((at(3), at(9))));
    }

    #[test]
    fn small_frames_are_noted_together_and_the_oldest_are_forgotten() {
        let mut arrivals = Arrivals::default();
        for frame in 0..100_000 {
            arrivals.came(Samples(frame * 160), Samples((frame + 1) * 160), at(frame));
        }
        assert_eq!(arrivals.0.len(), NOTES_MAX);
        let first = arrivals.0.front().unwrap();
        assert_eq!(first.end - first.start, STEP);
        arrivals.came(Samples(5), Samples(5), at(0));
        assert_eq!(arrivals.0.len(), NOTES_MAX);
    }

    #[test]
    fn sound_leaves_when_it_was_given_to_the_last_call() {
        let mut arrivals = Arrivals::default();
        for second in 0..3 {
            arrivals.came(Samples(second * 16_000), Samples((second + 1) * 16_000), at(second));
        }
        arrivals.left(Samples(0), Samples(32_000), at(10));
        arrivals.left(Samples(16_000), Samples(32_000), at(11));
        let left: Vec<_> = arrivals.0.iter().map(|note| note.left).collect();
        assert_eq!(left, [Some(at(10)), Some(at(11)), None]);
    }
}
