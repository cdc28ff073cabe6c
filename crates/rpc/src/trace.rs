//! Traces across calls: what travels in their metadata, and the span of whoever answers.

use std::task::{Context, Poll};

use model::TraceContext;
use telemetry::{RequestId, SpanKind, Tracer};
use tonic::{
    Code, Request, Status,
    codegen::{BoxFuture, Service, http},
    server::NamedService,
};

/// Metadata that says where in a trace a call is made (W3C Trace Context, section 3.2).
const TRACEPARENT: &str = "traceparent";

/// Longest name of a method.
const METHOD_BYTES_MAX: usize = 64;

/// Metadata that says for which request of a client a call is made.
const REQUEST_ID: &str = "x-request-id";

/// Has a call carry where in a trace it is made, if anywhere, and for which request.
pub(crate) fn carry<T>(request: &mut Request<T>, context: Option<TraceContext>) {
    if let Some(value) = RequestId::current().and_then(|id| id.to_string().parse().ok()) {
        request.metadata_mut().insert(REQUEST_ID, value);
    }
    if let Some(value) = context.and_then(|context| context.to_string().parse().ok()) {
        request.metadata_mut().insert(TRACEPARENT, value);
    }
}

/// Where in a trace a request of HTTP or gRPC was made, when it says so.
pub fn carried(headers: &http::HeaderMap) -> Option<TraceContext> {
    headers.get(TRACEPARENT)?.to_str().ok()?.parse().ok()
}

/// A gRPC service whose calls each have a span, within which they are answered. That of a call that streams covers what
/// comes before the first answer. Log lines have the id of the request that a call is made for.
#[derive(Debug, Clone)]
pub struct Traced<S> {
    service: S,
    tracer: Tracer,
}

impl<S> Traced<S> {
    /// The same service with spans.
    pub fn new(service: S, tracer: Tracer) -> Self {
        Self { service, tracer }
    }
}

impl<S: NamedService> NamedService for Traced<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, B, R> Service<http::Request<B>> for Traced<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>> + NamedService,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<S::Response, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let mut span = self.tracer.root(S::NAME, SpanKind::Server, carried(request.headers()));
        if span.is_recorded() {
            // Of the contract, or what a stranger has made up: not any text becomes a name.
            let method = request.uri().path().rsplit('/').next().unwrap_or_default();
            let is_plain =
                method.len() <= METHOD_BYTES_MAX && method.bytes().all(|byte| byte.is_ascii_alphanumeric());
            let method = if is_plain { method.to_owned() } else { "_OTHER".to_owned() };
            span.rename(format!("{}/{method}", S::NAME));
            span.set("rpc.system", "grpc");
            span.set("rpc.service", S::NAME);
            span.set("rpc.method", method);
        }
        let id: Option<RequestId> =
            request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok()?.parse().ok());
        let answering = span.within(self.service.call(request));
        Box::pin(async move {
            let outcome = match id {
                Some(id) => id.within(answering).await,
                None => answering.await,
            };
            // Without an answer the status is in the head already.
            let code = outcome.as_ref().ok().and_then(|answer| Status::from_header_map(answer.headers()));
            let code = code.map_or(Code::Ok, |status| status.code());
            span.set("rpc.grpc.status_code", i64::from(i32::from(code)));
            if is_fault(code) {
                span.failed("grpc");
            }
            outcome
        })
    }
}

/// Whether the server has failed, not the caller (OpenTelemetry's conventions for gRPC).
fn is_fault(code: Code) -> bool {
    use Code::{DataLoss, DeadlineExceeded, Internal, Unavailable, Unimplemented, Unknown};
    matches!(code, Unknown | DeadlineExceeded | Unimplemented | Internal | Unavailable | DataLoss)
}
