//! The notification hub's process.

use std::{error::Error, net::SocketAddr, process::ExitCode, time::Duration};

use lifecycle::{Lifecycle, Service, run_service};
use model::Clock;
use notification_hub::HubSettings;
use settings::{Problems, Reader};
use telemetry::TelemetrySettings;

struct NotificationHub;

impl Service for NotificationHub {
    const NAME: &'static str = "notification-hub";
    type Settings = HubSettings;

    fn read(reader: Reader) -> Result<HubSettings, Problems> {
        HubSettings::read(reader)
    }

    fn telemetry(settings: &HubSettings) -> &TelemetrySettings {
        &settings.telemetry
    }

    fn admin_address(settings: &HubSettings) -> SocketAddr {
        settings.admin_address
    }

    fn drain_limit(settings: &HubSettings) -> Duration {
        settings.drain_limit
    }

    async fn start(settings: &HubSettings, life: &Lifecycle) -> Result<(), impl Error + 'static> {
        notification_hub::start(settings, life, Clock::system()).await.map(drop)
    }
}

fn main() -> ExitCode {
    run_service::<NotificationHub>()
}
