//! The edge's process.

use std::process::ExitCode;

use clap::Parser;
use lifecycle::Lifecycle;
use model::Clock;
use ws_edge::{DRAIN_LIMIT, EdgeSettings};

/// The front door: HTTP and WebSocket. Settings come from the environment, .env and parley.toml.
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
    /// Ask a running edge whether it is ready; exit code 0 if so.
    Healthcheck,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let settings = match settings::load().and_then(EdgeSettings::read) {
        Ok(settings) => settings,
        Err(problems) => {
            eprintln!("ws-edge: {problems}");
            return ExitCode::from(settings::EXIT_CODE);
        }
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("ws-edge: start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        match arguments.command {
            Some(Command::Healthcheck) => Ok(lifecycle::healthcheck(settings.admin_address()).await?),
            Some(Command::Serve) | None => serve(&settings).await,
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ws-edge: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(settings: &EdgeSettings) -> Result<(), Box<dyn std::error::Error>> {
    telemetry::init("ws-edge", settings.telemetry());
    tracing::info!("settings loaded");
    let life = Lifecycle::default();
    ws_edge::start(settings, &life, Clock::system()).await?;
    Ok(life.run(DRAIN_LIMIT).await?)
}
