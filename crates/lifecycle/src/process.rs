//! The `main` of every service, so that they cannot drift apart.

use std::{error::Error, future::Future, net::SocketAddr, process::ExitCode, time::Duration};

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use settings::{Problems, Reader};
use telemetry::TelemetrySettings;

use crate::{Lifecycle, healthcheck};

/// What a process needs to know of its service.
pub trait Service {
    /// Its name on the command line and in logs.
    const NAME: &'static str;
    /// Its settings.
    type Settings;

    /// Reads its settings.
    ///
    /// # Errors
    /// Every setting that is missing or wrong.
    fn read(reader: Reader) -> Result<Self::Settings, Problems>;

    /// How logs are written.
    fn telemetry(settings: &Self::Settings) -> &TelemetrySettings;

    /// Where the admin listener is.
    fn admin_address(settings: &Self::Settings) -> SocketAddr;

    /// How long a drain may take.
    fn drain_limit(settings: &Self::Settings) -> Duration;

    /// Starts it inside `life`; returns when it serves.
    fn start(
        settings: &Self::Settings,
        life: &Lifecycle,
    ) -> impl Future<Output = Result<(), impl Error + 'static>>;
}

/// Settings come from the environment, .env and parley.toml; all that are missing or wrong are named at once.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Clone, Copy, Subcommand)]
enum Command {
    /// Serve until TERM or INT (the default).
    Serve,
    /// Ask the service that runs here whether it is ready; exit code 0 if so.
    Healthcheck,
}

/// Runs a service as a process: exit code 64 for wrong settings (before any socket opens), 1 for a failure.
pub fn run_service<S: Service>() -> ExitCode {
    let matches = Arguments::command().name(S::NAME).get_matches();
    let command = Arguments::from_arg_matches(&matches).ok().and_then(|arguments| arguments.command);
    let command = command.unwrap_or(Command::Serve);
    let settings = match settings::load().and_then(S::read) {
        Ok(settings) => settings,
        Err(problems) => {
            eprintln!("{}: {problems}", S::NAME);
            return ExitCode::from(settings::EXIT_CODE);
        }
    };
    let outcome = tokio::runtime::Runtime::new().map_err(Into::into).and_then(|runtime| {
        runtime.block_on(async {
            match command {
                Command::Healthcheck => Ok(healthcheck(S::admin_address(&settings)).await?),
                Command::Serve => serve::<S>(&settings).await,
            }
        })
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", S::NAME);
            ExitCode::FAILURE
        }
    }
}

async fn serve<S: Service>(settings: &S::Settings) -> Result<(), Box<dyn Error>> {
    telemetry::init(S::NAME, S::telemetry(settings));
    tracing::info!("settings loaded");
    let life = Lifecycle::default();
    S::start(settings, &life).await?;
    Ok(life.run(S::drain_limit(settings)).await?)
}
