//! The transcription worker's process.

use std::{error::Error, net::SocketAddr, process::ExitCode, time::Duration};

use lifecycle::{Lifecycle, Service, run_service};
use model::Clock;
use settings::{Problems, Reader};
use telemetry::TelemetrySettings;
use transcription_worker::WorkerSettings;

struct TranscriptionWorker;

impl Service for TranscriptionWorker {
    const NAME: &'static str = "transcription-worker";
    type Settings = WorkerSettings;

    fn read(reader: Reader) -> Result<WorkerSettings, Problems> {
        WorkerSettings::read(reader)
    }

    fn telemetry(settings: &WorkerSettings) -> &TelemetrySettings {
        &settings.telemetry
    }

    fn admin_address(settings: &WorkerSettings) -> SocketAddr {
        settings.admin_address
    }

    fn drain_limit(settings: &WorkerSettings) -> Duration {
        settings.drain_limit
    }

    async fn start(settings: &WorkerSettings, life: &Lifecycle) -> Result<(), impl Error + 'static> {
        transcription_worker::start(settings, life, Clock::system()).await.map(drop)
    }
}

fn main() -> ExitCode {
    run_service::<TranscriptionWorker>()
}
