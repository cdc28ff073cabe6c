//! Where spans go: an OTLP collector, by gRPC, in batches and behind a bounded queue.

use std::{
    collections::BTreeMap,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use opentelemetry::KeyValue;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter as OtlpExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SpanData, SpanExporter, SpanProcessor as _},
};
use settings::Reader;
use tokio::runtime::Handle;

/// Spans that wait for the collector; more are dropped. About 2 MB.
const QUEUE_SPANS_MAX: usize = 4_096;

/// Spans in one request.
const BATCH_SPANS_MAX: usize = 512;

/// How long a span waits for others.
const BATCH_INTERVAL: Duration = Duration::from_secs(1);

/// How long the collector may take to answer an attempt; after a failed one there is no other when it is over.
const EXPORT_LIMIT: Duration = Duration::from_secs(5);

/// Of new traces, how many are recorded unless `OTEL_TRACES_SAMPLER_ARG` says.
const RATIO: f64 = 0.1;

/// How traces are recorded: the standard variables of OpenTelemetry ("Environment Variable Specification").
///
/// | setting | default | meaning |
/// |-|-|-|
/// | `OTEL_EXPORTER_OTLP_ENDPOINT` | none: no traces | `http://host:4317`, OTLP over gRPC |
/// | `OTEL_SERVICE_NAME` | the service's own | `service.name`; it would be that of every service that reads it |
/// | `OTEL_RESOURCE_ATTRIBUTES` | none | `name=value` pairs, separated by commas, values percent-encoded |
/// | `OTEL_TRACES_SAMPLER` | `parentbased_traceidratio` | which traces are recorded |
/// | `OTEL_TRACES_SAMPLER_ARG` | 0.1 | of the samplers by ratio: how many, 0 to 1 |
#[derive(Debug, Clone)]
pub(crate) struct TraceSettings {
    endpoint: String,
    name: Option<String>,
    attributes: Vec<(String, String)>,
    sampler: Sampler,
}

/// `OTEL_TRACES_SAMPLER`.
#[derive(Debug, Clone, Copy)]
struct SamplerName {
    is_by_parent: bool,
    rule: Rule,
}

#[derive(Debug, Clone, Copy)]
enum Rule {
    All,
    None,
    Ratio,
}

impl FromStr for SamplerName {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let (is_by_parent, rule) = match text.strip_prefix("parentbased_") {
            Some(rule) => (true, rule),
            None => (false, text),
        };
        let rule = match rule {
            "always_on" => Rule::All,
            "always_off" => Rule::None,
            "traceidratio" => Rule::Ratio,
            _ => return Err(()),
        };
        Ok(Self { is_by_parent, rule })
    }
}

/// 0 to 1.
struct Ratio(f64);

impl FromStr for Ratio {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let ratio: f64 = text.parse().map_err(|_| ())?;
        if (0.0..=1.0).contains(&ratio) { Ok(Self(ratio)) } else { Err(()) }
    }
}

impl TraceSettings {
    /// Reads its section; `None` when nobody wants traces. Wrong settings are reported in any case.
    pub(crate) fn read(reader: &mut Reader) -> Option<Self> {
        let ratio = reader.or("OTEL_TRACES_SAMPLER_ARG", Ratio(RATIO), "a number from 0 to 1").0;
        let usual = SamplerName { is_by_parent: true, rule: Rule::Ratio };
        let SamplerName { is_by_parent, rule } = reader.or(
            "OTEL_TRACES_SAMPLER",
            usual,
            "always_on, always_off or traceidratio, or one of them after parentbased_",
        );
        let rule = match rule {
            Rule::All => Sampler::AlwaysOn,
            Rule::None => Sampler::AlwaysOff,
            Rule::Ratio => Sampler::TraceIdRatioBased(ratio),
        };
        let sampler = if is_by_parent { Sampler::ParentBased(Box::new(rule)) } else { rule };
        let mut attributes = Vec::new();
        for pair in reader.list("OTEL_RESOURCE_ATTRIBUTES") {
            match attribute(&pair) {
                Some(attribute) => attributes.push(attribute),
                None => reader.problem(
                    "OTEL_RESOURCE_ATTRIBUTES",
                    "expected name=value, or several separated by commas, values percent-encoded",
                ),
            }
        }
        let name = reader.text("OTEL_SERVICE_NAME");
        let endpoint = reader.text("OTEL_EXPORTER_OTLP_ENDPOINT")?;
        let is_usable = |authority: &str| {
            authority.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty() && !host.contains(['/', '@']) && port.parse::<u16>().is_ok()
            })
        };
        let authority = endpoint.strip_prefix("http://").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
        if !authority.is_some_and(is_usable) {
            reader.problem("OTEL_EXPORTER_OTLP_ENDPOINT", "expected http://host:port of OTLP over gRPC");
        }
        Some(Self { endpoint, name, attributes, sampler })
    }

    pub(crate) fn sampler(&self) -> Sampler {
        self.sampler.clone()
    }

    /// Who we are, for all spans; what the operator says wins.
    fn resource(&self, service: &'static str) -> Resource {
        let mut attributes: BTreeMap<String, String> = [
            ("service.name", service.to_owned()),
            ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
            ("service.instance.id", uuid::Uuid::new_v4().to_string()),
            ("telemetry.sdk.language", "rust".to_owned()),
            ("telemetry.sdk.name", "opentelemetry".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        attributes.extend(self.attributes.iter().cloned());
        attributes.extend(self.name.iter().map(|name| ("service.name".to_owned(), name.clone())));
        let attributes = attributes.into_iter().map(|(name, value)| KeyValue::new(name, value));
        Resource::builder_empty().with_attributes(attributes).build()
    }

    /// Begins to take spans. Call it inside of a runtime; the collector need not be up.
    pub(crate) fn processor(&self, service: &'static str) -> Result<BatchSpanProcessor, ExporterBuildError> {
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE_SPANS_MAX)
            .with_max_export_batch_size(BATCH_SPANS_MAX)
            .with_scheduled_delay(BATCH_INTERVAL)
            .build();
        let mut processor = BatchSpanProcessor::new(self.collector()?, batches);
        processor.set_resource(&self.resource(service));
        Ok(processor)
    }

    fn collector(&self) -> Result<Collector, ExporterBuildError> {
        let exporter = OtlpExporter::builder()
            .with_tonic()
            .with_endpoint(self.endpoint.clone())
            .with_timeout(EXPORT_LIMIT)
            .build()?;
        let is_away = AtomicBool::new(false);
        Ok(Collector { exporter: Arc::new(exporter), runtime: Handle::current(), is_away })
    }
}

/// `name=value`, the value percent-encoded.
fn attribute(pair: &str) -> Option<(String, String)> {
    let (name, value) = pair.split_once('=')?;
    let value = percent_encoding::percent_decode_str(value.trim()).decode_utf8().ok()?;
    let name = name.trim();
    (!name.is_empty()).then(|| (name.to_owned(), value.into_owned()))
}

/// The collector, which may be away: its spans are lost then, and that is said once.
#[derive(Debug)]
struct Collector {
    exporter: Arc<OtlpExporter>,
    /// Of the service, which its connection belongs to: batches are made on a thread without one.
    runtime: Handle,
    is_away: AtomicBool,
}

impl SpanExporter for Collector {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let exporter = self.exporter.clone();
        let exporting = self.runtime.spawn(async move { exporter.export(batch).await });
        // The runtime is gone, and the service with it: nobody is to blame.
        let Ok(outcome) = exporting.await else { return Err(OTelSdkError::AlreadyShutdown) };
        match (&outcome, self.is_away.swap(outcome.is_err(), Ordering::Relaxed)) {
            (Err(error), false) => {
                tracing::warn!(%error, "the collector of traces does not take them; they are dropped until it does");
            }
            (Ok(()), true) => tracing::info!("the collector takes traces again"),
            _ => {}
        }
        outcome
    }

    fn set_resource(&mut self, resource: &Resource) {
        // Nothing is exported yet, so that nobody else has it.
        if let Some(exporter) = Arc::get_mut(&mut self.exporter) {
            exporter.set_resource(resource);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tracing::{Event, Level, Subscriber, instrument::WithSubscriber as _};
    use tracing_subscriber::{
        Layer,
        layer::{Context, SubscriberExt as _},
    };

    use super::*;

    /// Counts warnings.
    struct Warnings(Arc<AtomicUsize>);

    impl<S: Subscriber> Layer<S> for Warnings {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            if *event.metadata().level() == Level::WARN {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    #[tokio::test]
    async fn that_a_collector_is_away_is_said_once() {
        // The port of a service (discard) that no machine has any more.
        let settings = read([("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")]).unwrap().unwrap();
        let collector = settings.collector().unwrap();
        let warnings = Arc::new(AtomicUsize::new(0));
        let log = tracing_subscriber::registry().with(Warnings(warnings.clone()));
        async {
            for _ in 0..3 {
                assert!(collector.export(Vec::new()).await.is_err());
            }
        }
        .with_subscriber(log)
        .await;
        assert_eq!(warnings.load(Ordering::Relaxed), 1);
    }

    fn read<const N: usize>(settings: [(&str, &str); N]) -> Result<Option<TraceSettings>, String> {
        let mut reader = settings::of(settings);
        let settings = TraceSettings::read(&mut reader);
        reader.finish(|| Some(settings)).map_err(|problems| problems.to_string())
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");

    #[test]
    fn nothing_is_traced_unless_a_collector_is_named() {
        assert!(read([("OTEL_TRACES_SAMPLER", "always_on")]).unwrap().is_none());
        assert!(read([ENDPOINT]).unwrap().is_some());
    }

    #[test]
    fn every_wrong_setting_is_named() {
        let report = read([
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector"),
            ("OTEL_TRACES_SAMPLER", "parentbased_sometimes"),
            ("OTEL_TRACES_SAMPLER_ARG", "1.5"),
            ("OTEL_RESOURCE_ATTRIBUTES", "a=b,nothing"),
        ])
        .unwrap_err();
        for name in ["ENDPOINT", "SAMPLER:", "SAMPLER_ARG", "RESOURCE_ATTRIBUTES"] {
            assert!(report.contains(name), "{name}: {report}");
        }
        for endpoint in
            ["http://", "http://:4317", "http://c:x", "http://user@c:1", "http://c:1/v1/traces", "c:4317"]
        {
            assert!(read([("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)]).is_err(), "{endpoint}");
        }
    }

    #[test]
    fn the_operator_says_who_we_are() {
        let value = |resource: &Resource, key: &'static str| {
            resource.get(&opentelemetry::Key::from_static_str(key)).map(|value| value.to_string())
        };
        let of = |service: &str, attributes: &str| {
            let settings =
                [ENDPOINT, ("OTEL_SERVICE_NAME", service), ("OTEL_RESOURCE_ATTRIBUTES", attributes)];
            read(settings).unwrap().unwrap().resource("ws-edge")
        };
        let own = of("", "deployment.environment.name=a%2Cb, x = y");
        assert_eq!(value(&own, "service.name").as_deref(), Some("ws-edge"));
        assert_eq!(value(&own, "service.version").as_deref(), Some(env!("CARGO_PKG_VERSION")));
        assert_eq!(value(&own, "deployment.environment.name").as_deref(), Some("a,b"));
        assert_eq!(value(&own, "x").as_deref(), Some("y"));
        assert!(value(&own, "service.instance.id").is_some());
        let theirs = of("captions", "service.name=other,service.instance.id=7");
        assert_eq!(value(&theirs, "service.name").as_deref(), Some("captions"));
        assert_eq!(value(&theirs, "service.instance.id").as_deref(), Some("7"));
    }
}
