//! The transcription worker's process.

use std::process::ExitCode;

use clap::Parser;
use lifecycle::Lifecycle;
use model::Clock;
use transcription_worker::WorkerSettings;

/// Turns audio streams into captions. Settings come from the environment, .env and parley.toml.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Serve until TERM or INT (the default).
    Serve,
    /// Ask a running worker whether it is ready; exit code 0 if so.
    Healthcheck,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let settings = match settings::load().and_then(WorkerSettings::read) {
        Ok(settings) => settings,
        Err(problems) => {
            eprintln!("transcription-worker: {problems}");
            return ExitCode::from(settings::EXIT_CODE);
        }
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("transcription-worker: start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        match arguments.command {
            Some(Command::Healthcheck) => Ok(lifecycle::healthcheck(settings.admin_address).await?),
            Some(Command::Serve) | None => serve(settings).await,
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("transcription-worker: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(settings: WorkerSettings) -> Result<(), Box<dyn std::error::Error>> {
    telemetry::init("transcription-worker", &settings.telemetry);
    let life = Lifecycle::default();
    transcription_worker::start(&settings, &life, Clock::system()).await?;
    Ok(life.run(settings.drain_limit).await?)
}
