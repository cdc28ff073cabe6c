//! The edge's process.

use std::{error::Error, net::SocketAddr, process::ExitCode, time::Duration};

use lifecycle::{Lifecycle, Service, run_service};
use model::Clock;
use settings::{Problems, Reader};
use telemetry::TelemetrySettings;
use ws_edge::{DRAIN_LIMIT, EdgeSettings};

struct WsEdge;

impl Service for WsEdge {
    const NAME: &'static str = "ws-edge";
    type Settings = EdgeSettings;

    fn read(reader: Reader) -> Result<EdgeSettings, Problems> {
        EdgeSettings::read(reader)
    }

    fn telemetry(settings: &EdgeSettings) -> &TelemetrySettings {
        settings.telemetry()
    }

    fn admin_address(settings: &EdgeSettings) -> SocketAddr {
        settings.admin_address()
    }

    fn drain_limit(_: &EdgeSettings) -> Duration {
        DRAIN_LIMIT
    }

    async fn start(settings: &EdgeSettings, life: &Lifecycle) -> Result<(), impl Error + 'static> {
        ws_edge::start(settings, life, Clock::system()).await.map(drop)
    }
}

fn main() -> ExitCode {
    run_service::<WsEdge>()
}
