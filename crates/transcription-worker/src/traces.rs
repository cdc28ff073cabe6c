//! The traces of a stream's utterances. Each has one of its own, begun when its final is known: before that nobody knows
//! where it begins, and most of what is heard becomes none.

use std::collections::VecDeque;

use model::{EngineName, Samples, TraceContext};
use rpc::{Arrivals, wire};
use telemetry::{SpanKind, Tracer};

use crate::hearing::Decoded;

/// Traces that the source was not told of; it does not read, and the oldest is forgotten.
const UNTOLD_MAX: usize = 16;

/// Notes nothing while nobody traces.
pub(crate) struct Traces {
    tracer: Tracer,
    arrivals: Arrivals,
    /// What the source is to be told.
    untold: VecDeque<wire::Traced>,
}

impl Traces {
    pub(crate) fn new(tracer: Tracer) -> Self {
        Self { tracer, arrivals: Arrivals::default(), untold: VecDeque::new() }
    }

    /// Sound came from the source.
    pub(crate) fn came(&mut self, start: Samples, end: Samples) {
        if self.tracer.is_on() {
            self.arrivals.came(start, end, telemetry::now());
        }
    }

    /// What lies before is settled.
    pub(crate) fn settled(&mut self, position: Samples) {
        self.arrivals.forget(position);
    }

    /// An utterance has become a final: where storing it goes on from, if it is traced. The place of the first span is
    /// the source's, which knows when the sound came.
    pub(crate) fn utterance(
        &mut self,
        (start, end): (Samples, Samples),
        engine: EngineName,
        decoded: Option<Decoded>,
    ) -> Option<TraceContext> {
        if !self.tracer.is_on() {
            return None;
        }
        let first = self.tracer.root("receive", SpanKind::Server, None);
        let context = first.context().filter(|_| first.is_recorded());
        first.discard();
        let mut recognize = self.tracer.span("recognize", SpanKind::Server, Some(context?));
        if let Some((came, _)) = self.arrivals.of(start, end) {
            recognize.began(came);
        }
        recognize.set("parley.engine", engine.label());
        recognize.count("parley.audio_ms", (end - start).millis());
        if let Some(decoded) = decoded {
            let mut decode = recognize.child("decode", SpanKind::Internal);
            decode.began(decoded.asked);
            decode.ended(decoded.answered);
            decode.set("parley.engine", engine.label());
        }
        if self.untold.len() >= UNTOLD_MAX {
            self.untold.pop_front();
        }
        let traceparent = context?.to_string();
        self.untold.push_back(wire::Traced { traceparent, start: start.0, end: end.0 });
        recognize.context()
    }

    /// The next thing to tell the source.
    pub(crate) fn untold(&mut self) -> Option<wire::Traced> {
        self.untold.pop_front()
    }
}
