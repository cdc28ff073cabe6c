use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{AnyValue, KeyValue, any_value},
    trace::v1::status::StatusCode,
};
use tokio::{net::TcpListener, task::JoinSet};
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

/// A collector of traces: takes what services export by OTLP over gRPC, and shows it.
pub struct TraceCollector {
    endpoint: String,
    kept: Kept,
    _serving: JoinSet<()>,
}

/// A span as it was exported.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedSpan {
    /// `service.name` of its resource.
    pub service: String,
    /// What was done.
    pub name: String,
    /// Its trace, in hexadecimal digits.
    pub trace: String,
    /// Itself.
    pub id: String,
    /// The span that it is a part of; empty for the first of a trace.
    pub parent: String,
    /// Nanoseconds since 1970.
    pub start: u64,
    /// Nanoseconds since 1970.
    pub end: u64,
    /// What is said about it.
    pub attributes: BTreeMap<String, String>,
    /// What is said about its service.
    pub resource: BTreeMap<String, String>,
    /// The traces that it refers to.
    pub links: Vec<String>,
    /// Whether it failed.
    pub failed: bool,
}

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<RecordedSpan>>>);

impl TraceCollector {
    /// One at a free port.
    ///
    /// # Panics
    /// When there is none.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let kept = Kept::default();
        let service = TraceServiceServer::new(kept.clone());
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let served = Server::builder().serve_with_incoming(service, TcpIncoming::from(listener)).await;
            served.expect("a collector that serves");
        });
        Self { endpoint, kept, _serving: serving }
    }

    /// `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// What has come so far, in the order in which it came.
    pub fn spans(&self) -> Vec<RecordedSpan> {
        self.kept.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The way from the first span of a trace to a span, when all of it has come.
    pub fn way_to(&self, span: &RecordedSpan) -> Option<Vec<RecordedSpan>> {
        let spans = self.spans();
        let mut way = vec![span.clone()];
        while let Some(first) = way.first()
            && !first.parent.is_empty()
        {
            let parent = spans.iter().find(|span| span.trace == first.trace && span.id == first.parent)?;
            // A span that is its own ancestor is no way.
            if way.iter().any(|known| known.id == parent.id) {
                return None;
            }
            way.insert(0, parent.clone());
        }
        Some(way)
    }
}

#[tonic::async_trait]
impl TraceService for Kept {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for of_resource in request.into_inner().resource_spans {
            let resource = attributes(of_resource.resource.unwrap_or_default().attributes);
            let spans = of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans);
            kept.extend(spans.map(|span| RecordedSpan {
                service: resource.get("service.name").cloned().unwrap_or_default(),
                name: span.name,
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                start: span.start_time_unix_nano,
                end: span.end_time_unix_nano,
                attributes: attributes(span.attributes),
                resource: resource.clone(),
                links: span.links.iter().map(|link| hex(&link.trace_id)).collect(),
                failed: span.status.is_some_and(|status| status.code() == StatusCode::Error),
            }));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn attributes(pairs: Vec<KeyValue>) -> BTreeMap<String, String> {
    pairs.into_iter().map(|pair| (pair.key, text(pair.value))).collect()
}

fn text(value: Option<AnyValue>) -> String {
    match value.and_then(|value| value.value) {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(any_value::Value::DoubleValue(number)) => number.to_string(),
        Some(any_value::Value::BoolValue(is_so)) => is_so.to_string(),
        other => format!("{other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut digits, byte| {
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}
