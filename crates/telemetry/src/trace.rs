//! Spans, and how they find their parents.
//!
//! A span's parent is said, or it is the span that the present task works [within](Span::within). Many spans of ours are
//! known only when they are over (where an utterance begins is decided by what follows), so a span may begin in the
//! past, and take a place in a trace that another service has chosen for it.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime},
};

use model::TraceContext;
use opentelemetry::{
    Context, InstrumentationScope, KeyValue, Value,
    trace::{Link, SpanContext, SpanId, Status, TraceContextExt as _, TraceFlags, TraceId, TraceState},
};
use opentelemetry_sdk::trace::{
    BatchSpanProcessor, IdGenerator as _, RandomIdGenerator, Sampler, SamplingDecision, ShouldSample as _,
    SpanData, SpanEvents, SpanLinks, SpanProcessor as _,
};

use crate::TelemetrySettings;

pub use opentelemetry::trace::SpanKind;

/// How long the end of a service waits for its last spans to be taken.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

tokio::task_local! {
    static PRESENT: Option<(Tracer, TraceContext)>;
}

/// The place in a trace that the present task works at; what is sent to others carries it.
pub fn current() -> Option<TraceContext> {
    present().map(|(_, context)| context)
}

fn present() -> Option<(Tracer, TraceContext)> {
    PRESENT.try_with(Clone::clone).ok().flatten()
}

/// What makes the spans of one service. Clones are the same. The default makes none, and costs nothing.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Option<Arc<Recorder>>);

#[derive(Debug)]
struct Recorder {
    processor: BatchSpanProcessor,
    sampler: Sampler,
    ids: RandomIdGenerator,
    scope: InstrumentationScope,
}

impl Tracer {
    /// Of `service`, when its settings name a collector. Call it inside of a runtime; the collector need not be up.
    pub fn start(service: &'static str, settings: &TelemetrySettings) -> Self {
        let Some(traces) = &settings.traces else { return Self::default() };
        match traces.processor(service) {
            Ok(processor) => Self(Some(Arc::new(Recorder {
                processor,
                sampler: traces.sampler(),
                ids: RandomIdGenerator::default(),
                scope: InstrumentationScope::builder(service).with_version(env!("CARGO_PKG_VERSION")).build(),
            }))),
            Err(error) => {
                tracing::warn!(%error, "traces are off");
                Self::default()
            }
        }
    }

    /// Whether spans are made at all.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Whether the traces of those outside are gone on with: not by a ratio alone, of which whoever chooses the id of a
    /// trace would choose the outcome.
    pub fn follows_others(&self) -> bool {
        self.0.as_ref().is_some_and(|recorder| !matches!(recorder.sampler, Sampler::TraceIdRatioBased(_)))
    }

    /// The first span of a new trace, if the sampler wants it; or, for work that somebody outside has asked for and
    /// traces, the first here.
    pub fn root(&self, name: &'static str, kind: SpanKind, asked: Option<TraceContext>) -> Span {
        let Some(recorder) = &self.0 else { return Span::none() };
        let trace = asked.map_or_else(|| recorder.ids.new_trace_id(), |asked| TraceId::from(asked.trace));
        let outside = asked.map(|asked| Context::new().with_remote_span_context(span_context(asked)));
        let sampled = recorder.sampler.should_sample(outside.as_ref(), trace, name, &kind, &[], &[]);
        let context = TraceContext {
            trace: u128::from_be_bytes(trace.to_bytes()),
            span: u64::from_be_bytes(recorder.ids.new_span_id().to_bytes()),
            is_sampled: sampled.decision == SamplingDecision::RecordAndSample,
        };
        Span::new(self, name, kind, context, asked.map(|asked| asked.span))
    }

    /// A span that goes on from `parent`, in whichever service that is: recorded if that is. None without a parent.
    pub fn span(&self, name: &'static str, kind: SpanKind, parent: Option<TraceContext>) -> Span {
        let (Some(recorder), Some(parent)) = (&self.0, parent) else { return Span::none() };
        let span = u64::from_be_bytes(recorder.ids.new_span_id().to_bytes());
        Span::new(self, name, kind, TraceContext { span, ..parent }, Some(parent.span))
    }

    /// The span that others have gone on from before it was made: the first of a trace, at a place that another service
    /// has chosen.
    pub fn chosen(&self, name: &'static str, kind: SpanKind, context: TraceContext) -> Span {
        if self.is_on() { Span::new(self, name, kind, context, None) } else { Span::none() }
    }

    /// Does some work at a place in a trace that somebody else has begun.
    pub fn within<F: Future>(
        &self,
        context: Option<TraceContext>,
        work: F,
    ) -> impl Future<Output = F::Output> + use<F> {
        let present = context.filter(|_| self.is_on()).map(|context| (self.clone(), context));
        PRESENT.scope(present, work)
    }

    /// Has the collector take what is left, within a limit. The last thing that a service does.
    pub async fn flush(&self) {
        let Some(recorder) = self.0.clone() else { return };
        let flushed =
            tokio::task::spawn_blocking(move || recorder.processor.shutdown_with_timeout(FLUSH_LIMIT)).await;
        if let Ok(Err(error)) = flushed {
            tracing::info!(%error, "the last spans were not taken");
        }
    }
}

/// A span that goes on from where the present task works.
pub fn span(name: &'static str, kind: SpanKind) -> Span {
    present().map_or_else(Span::none, |(tracer, context)| tracer.span(name, kind, Some(context)))
}

/// A piece of work: from when it is made, or as [told](Self::began), until it is dropped.
#[derive(Debug)]
pub struct Span {
    tracer: Tracer,
    context: Option<TraceContext>,
    /// `None` when it is not recorded.
    data: Option<Box<SpanData>>,
}

impl Span {
    /// One of no trace.
    pub fn none() -> Self {
        Self { tracer: Tracer::default(), context: None, data: None }
    }

    fn new(
        tracer: &Tracer,
        name: &'static str,
        kind: SpanKind,
        context: TraceContext,
        parent: Option<u64>,
    ) -> Self {
        let recorder = tracer.0.as_ref().filter(|_| context.is_sampled);
        let start_time = now();
        let data = recorder.map(|recorder| {
            Box::new(SpanData {
                span_context: span_context(context),
                parent_span_id: parent.map_or(SpanId::INVALID, SpanId::from),
                parent_span_is_remote: false,
                span_kind: kind,
                name: name.into(),
                start_time,
                // Told when it is dropped.
                end_time: SystemTime::UNIX_EPOCH,
                attributes: Vec::new(),
                dropped_attributes_count: 0,
                events: SpanEvents::default(),
                links: SpanLinks::default(),
                status: Status::Unset,
                instrumentation_scope: recorder.scope.clone(),
            })
        });
        Self { tracer: tracer.clone(), context: Some(context), data }
    }

    /// Whether it is recorded: what is only for it need not be worked out otherwise.
    pub fn is_recorded(&self) -> bool {
        self.data.is_some()
    }

    /// Its place, for those who go on from it. Also when it is not recorded: then theirs are not either.
    pub fn context(&self) -> Option<TraceContext> {
        self.context
    }

    /// A part of it.
    pub fn child(&self, name: &'static str, kind: SpanKind) -> Self {
        self.tracer.span(name, kind, self.context)
    }

    /// Does some work as a part of it: spans that are made there, and what is sent to others, go on from here.
    pub fn within<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        self.tracer.within(self.context, work)
    }

    /// Says something about it. Names are those of OpenTelemetry's semantic conventions where there is one. Never a token, the
    /// name of a session or what was said.
    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        if let Some(data) = &mut self.data {
            data.attributes.push(KeyValue::new(name, value));
        }
    }

    /// As [`Span::set`], of a count or position.
    pub fn count(&mut self, name: &'static str, count: impl TryInto<i64>) {
        self.set(name, count.try_into().unwrap_or(i64::MAX));
    }

    /// Another name, of those that there are few of.
    pub fn rename(&mut self, name: String) {
        if let Some(data) = &mut self.data {
            data.name = name.into();
        }
    }

    /// When it began.
    pub fn began(&mut self, at: SystemTime) {
        if let Some(data) = &mut self.data {
            data.start_time = at;
        }
    }

    /// When it ended, if not when it is dropped.
    pub fn ended(&mut self, at: SystemTime) {
        if let Some(data) = &mut self.data {
            data.end_time = at;
        }
    }

    /// It failed; `why` is one of few (`error.type`).
    pub fn failed(&mut self, why: &'static str) {
        self.set("error.type", why);
        if let Some(data) = &mut self.data {
            data.status = Status::error("");
        }
    }

    /// It has to do with a recorded span of another trace.
    pub fn link(&mut self, other: Option<TraceContext>) {
        if let (Some(data), Some(other)) = (&mut self.data, other.filter(|other| other.is_sampled)) {
            data.links.links.push(Link::with_context(span_context(other)));
        }
    }

    /// There was no such work after all.
    pub fn discard(mut self) {
        self.data = None;
    }
}

/// The machine's clock, by which spans are told: the one of `model` counts milliseconds, and spans take microseconds.
#[expect(clippy::disallowed_methods, reason = "no decision depends on it")]
pub fn now() -> SystemTime {
    SystemTime::now()
}

impl Drop for Span {
    fn drop(&mut self) {
        let (Some(mut data), Some(recorder)) = (self.data.take(), &self.tracer.0) else { return };
        if data.end_time == SystemTime::UNIX_EPOCH {
            data.end_time = now();
        }
        // Clocks may be set back.
        data.end_time = data.end_time.max(data.start_time);
        recorder.processor.on_end(*data);
    }
}

fn span_context(context: TraceContext) -> SpanContext {
    let flags = if context.is_sampled { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
    let (trace, span) = (TraceId::from(context.trace), SpanId::from(context.span));
    SpanContext::new(trace, span, flags, true, TraceState::NONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracer(sampler: &str) -> Tracer {
        // Nobody listens there; nothing here needs it.
        let settings =
            [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9"), ("OTEL_TRACES_SAMPLER", sampler)];
        let mut reader = settings::of(settings);
        let settings = TelemetrySettings::read(&mut reader);
        Tracer::start("a-test", &reader.finish(|| Some(settings)).unwrap())
    }

    const OUTSIDE: TraceContext = TraceContext { trace: 1, span: 2, is_sampled: true };

    #[tokio::test]
    async fn without_a_collector_there_are_no_spans() {
        let tracer = Tracer::default();
        let span = tracer.root("work", SpanKind::Server, Some(OUTSIDE));
        assert_eq!((span.context(), span.is_recorded()), (None, false));
        assert_eq!(tracer.within(Some(OUTSIDE), async { current() }).await, None);
        assert!(!tracer.chosen("work", SpanKind::Internal, OUTSIDE).is_recorded());
        tracer.flush().await;
    }

    #[tokio::test]
    async fn what_is_done_within_a_span_goes_on_from_it() {
        let span = tracer("always_on").root("work", SpanKind::Server, None);
        let place = span.context().unwrap();
        let (seen, part) = span.within(async { (current(), super::span("part", SpanKind::Client)) }).await;
        assert_eq!((seen, current()), (Some(place), None));
        let part = part.context().unwrap();
        assert_eq!((part.trace, part.is_sampled), (place.trace, true));
        assert_ne!(part.span, place.span);
        assert_eq!(span.child("part", SpanKind::Internal).context().unwrap().trace, place.trace);
        assert_eq!(super::span("alone", SpanKind::Internal).context(), None);
    }

    #[tokio::test]
    async fn who_asks_decides_unless_the_sampler_says_otherwise() {
        let unsampled = TraceContext { is_sampled: false, ..OUTSIDE };
        for (sampler, asked, recorded) in [
            ("parentbased_always_off", Some(OUTSIDE), true),
            ("parentbased_always_on", Some(unsampled), false),
            ("parentbased_always_on", None, true),
            ("parentbased_always_off", None, false),
            ("always_off", Some(OUTSIDE), false),
            ("always_on", Some(unsampled), true),
        ] {
            let span = tracer(sampler).root("work", SpanKind::Server, asked);
            assert_eq!(span.is_recorded(), recorded, "{sampler} {asked:?}");
            let place = span.context().unwrap();
            assert_eq!(place.is_sampled, recorded);
            assert!(asked.is_none_or(|asked| asked.trace == place.trace && asked.span != place.span));
            assert_eq!(span.child("part", SpanKind::Internal).is_recorded(), recorded);
        }
    }
}
