//! The ingest's process.

use std::{error::Error, net::SocketAddr, process::ExitCode, time::Duration};

use lifecycle::{Lifecycle, Service, run_service};
use model::Clock;
use rtmp_ingest::{DRAIN_LIMIT, IngestSettings};
use settings::{Problems, Reader};
use telemetry::TelemetrySettings;

struct RtmpIngest;

impl Service for RtmpIngest {
    const NAME: &'static str = "rtmp-ingest";
    type Settings = IngestSettings;

    fn read(reader: Reader) -> Result<IngestSettings, Problems> {
        IngestSettings::read(reader)
    }

    fn telemetry(settings: &IngestSettings) -> &TelemetrySettings {
        settings.telemetry()
    }

    fn admin_address(settings: &IngestSettings) -> SocketAddr {
        settings.admin_address()
    }

    fn drain_limit(_: &IngestSettings) -> Duration {
        DRAIN_LIMIT
    }

    async fn start(settings: &IngestSettings, life: &Lifecycle) -> Result<(), impl Error + 'static> {
        rtmp_ingest::start(settings, life, Clock::system()).await.map(drop)
    }
}

fn main() -> ExitCode {
    run_service::<RtmpIngest>()
}
