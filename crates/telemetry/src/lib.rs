//! Logs, metrics and traces of a service.
//!
//! This changes when operators want to be told in another way. It knows no metric and no span by name: each crate keeps
//! the names of those that it moves or makes.

mod export;
mod request;
mod trace;

use std::sync::OnceLock;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use settings::Reader;
use tracing_subscriber::{EnvFilter, Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _};

pub use request::{RequestId, RequestIdInvalid};
pub use trace::{Span, SpanKind, Tracer, current, now, span};

use crate::export::TraceSettings;

/// Upper bounds of latency buckets, in seconds; every histogram whose name ends in `_seconds` has them.
const SECONDS_BUCKETS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9, 1.5, 2.5, 5.0, 15.0];

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LogFormat {
    Human,
    Json,
}

impl std::str::FromStr for LogFormat {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            _ => Err(()),
        }
    }
}

/// `RUST_LOG` (default `info`), `LOG_FORMAT` (`human` or `json`, the default `json`; `human` in dev), and for traces
/// `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER` and
/// `OTEL_TRACES_SAMPLER_ARG`, as OpenTelemetry has them.
#[derive(Debug, Clone)]
pub struct TelemetrySettings {
    filter: String,
    format: LogFormat,
    pub(crate) traces: Option<TraceSettings>,
}

impl TelemetrySettings {
    /// Reads its section.
    pub fn read(reader: &mut Reader) -> Self {
        let filter = reader.text("RUST_LOG").unwrap_or_else(|| "info".to_owned());
        if let Err(error) = EnvFilter::try_new(&filter) {
            reader
                .problem("RUST_LOG", format_args!("expected a filter such as info,ws_edge=debug ({error})"));
        }
        let default = if reader.flag("PARLEY_DEV") { LogFormat::Human } else { LogFormat::Json };
        let format = reader.or("LOG_FORMAT", default, "human or json");
        Self { filter, format, traces: TraceSettings::read(reader) }
    }
}

/// Starts logging to standard error. The first call in a process wins; tests start many services in one.
pub fn init(service: &'static str, settings: &TelemetrySettings) {
    let filter = EnvFilter::try_new(&settings.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let output = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
    let output = match settings.format {
        LogFormat::Human => output.with_target(false).boxed(),
        LogFormat::Json => output.json().flatten_event(true).with_current_span(false).boxed(),
    };
    if tracing_subscriber::registry().with(output.with_filter(filter)).try_init().is_ok() {
        install_panic_log();
        tracing::info!(service, version = env!("CARGO_PKG_VERSION"), "starting");
    }
    Metrics::install();
}

/// A panic is a log line like any other, without its message: that may quote what people said.
fn install_panic_log() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "panic");
    }));
}

/// The metrics of this process.
#[derive(Debug, Clone, Copy)]
pub struct Metrics;

static PROMETHEUS: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

impl Metrics {
    /// Starts collecting; further calls do nothing.
    pub fn install() -> Self {
        PROMETHEUS.get_or_init(|| {
            PrometheusBuilder::new()
                .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)
                .and_then(|builder| builder.install_recorder())
                .inspect_err(|error| tracing::warn!(%error, "metrics are off"))
                .ok()
        });
        Self
    }

    /// All metrics in the Prometheus text format 0.0.4; empty before [`Metrics::install`].
    pub fn prometheus() -> String {
        PROMETHEUS.get().and_then(Option::as_ref).map(PrometheusHandle::render).unwrap_or_default()
    }

    /// Lets go of samples that were folded into buckets; call it every few seconds or memory grows.
    pub fn upkeep() {
        if let Some(handle) = PROMETHEUS.get().and_then(Option::as_ref) {
            handle.run_upkeep();
        }
    }
}
