//! Knows how to be many clients at once and what their captions are worth: latency, steadiness, loss, cost. Speaks the
//! public protocol only, through the front door, with real recordings at the pace of speech.
//!
//! This changes when what is measured does, or how. It must not know how a server does its work.

mod client;
mod compare;
mod cpu;
mod delays;
mod measure;
mod message;
mod playlist;
mod recording;
mod report;
mod scenario;

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use auth::SessionTokens;
use clap::{Parser, Subcommand};
use model::{Clock, Samples};

use crate::{
    recording::RecordingError,
    report::Level,
    scenario::{Baseline, Live, Target},
};

/// The setting whose first secret signs tokens.
const SECRET: &str = "TRANSCRIPTION_JWT_SECRET";

/// Puts Parley under load with real speech and measures what its clients get.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// People speak at the same time, each into a session of their own; prints delays, steadiness, loss and cost.
    ///
    /// Ends with 1 when a stream failed or anything was lost.
    Live(LiveArguments),
}

#[derive(Debug, clap::Args)]
struct LiveArguments {
    /// How many at the same time, one measurement after the other. The transcripts of the first are what those of
    /// the others are compared with to find lost words.
    #[arg(long, value_delimiter = ',', default_value = "1,4,8", value_parser = clap::value_parser!(u16).range(1..))]
    streams: Vec<u16>,
    /// The front door, ws:// or http:// [default: PARLEY_URL, else ws://127.0.0.1 with HTTP_PORT or 8080].
    #[arg(long, value_parser = front_door)]
    url: Option<String>,
    /// Folder of 16 kHz WAV files and their references.tsv (path, tab, text).
    #[arg(long, default_value = "crates/testkit/recordings")]
    recordings: PathBuf,
    /// Each stream speaks at least so long [default: every recording once].
    #[arg(long)]
    seconds: Option<u32>,
    /// File with the process id whose children are the services; their processor time is measured.
    #[arg(long, default_value = ".parley/lock")]
    launcher: PathBuf,
    /// Also write the report as JSON to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Settings(#[from] settings::Problems),
    #[error(transparent)]
    Recordings(#[from] RecordingError),
    #[error("no token can be made: {0}")]
    Token(#[from] auth::AuthError),
    #[error("the report cannot be written: {0}")]
    Output(#[from] io::Error),
}

#[tokio::main]
async fn main() -> ExitCode {
    let Command::Live(arguments) = Arguments::parse().command;
    match live(&arguments).await {
        Ok(levels) if levels.iter().all(Level::is_good) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("{failure}");
            match failure {
                Failure::Settings(_) => ExitCode::from(settings::EXIT_CODE),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

async fn live(arguments: &LiveArguments) -> Result<Vec<Level>, Failure> {
    let recordings = recording::load(&arguments.recordings)?;
    let target = target(arguments)?;
    if target.launcher.is_none() {
        eprintln!("{} names no running process: no processor time is measured", arguments.launcher.display());
    }
    let length = arguments.seconds.map(|seconds| Samples::from_millis(u64::from(seconds) * 1000));
    let mut baseline = Baseline::default();
    let mut levels = Vec::new();
    for &streams in &arguments.streams {
        let live = Live { streams: usize::from(streams), length };
        let about = live.about(&recordings);
        eprintln!("{streams} at the same time, {} s ...", about.as_secs());
        levels.push(live.run(&target, &recordings, &mut baseline).await?);
    }
    write!(io::stdout(), "{}", report::table(&levels))?;
    if let Some(path) = &arguments.json {
        let json = serde_json::to_vec_pretty(&levels).map_err(io::Error::from)?;
        fs::write(path, json)?;
    }
    Ok(levels)
}

fn target(arguments: &LiveArguments) -> Result<Target, settings::Problems> {
    let mut reader = settings::load()?;
    let url = match (&arguments.url, reader.text("PARLEY_URL")) {
        (Some(url), _) => Some(url.clone()),
        (None, Some(text)) => front_door(&text).inspect_err(|error| reader.problem("PARLEY_URL", error)).ok(),
        (None, None) => {
            let port = reader.or("HTTP_PORT", 8080_u16, "a port number");
            Some(format!("ws://127.0.0.1:{port}"))
        }
    };
    let secrets = reader.required_secrets(SECRET);
    let launcher = cpu::launcher(&arguments.launcher);
    reader
        .finish(|| Some(Target { url: url?, tokens: SessionTokens::new(secrets, Clock::system()), launcher }))
}

/// The address with the scheme of a WebSocket.
fn front_door(text: &str) -> Result<String, String> {
    let host = text.strip_prefix("ws://").or_else(|| text.strip_prefix("http://"));
    match host.map(|host| host.trim_end_matches('/')) {
        Some(host) if !host.is_empty() && !host.contains(['/', '?', '@', ' ']) => Ok(format!("ws://{host}")),
        _ => Err("expected ws://HOST:PORT or http://HOST:PORT".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
        let Command::Live(arguments) =
            Arguments::parse_from(["loadgen", "live", "--streams", "2,3", "--url", "http://a:1/"]).command;
        assert_eq!(arguments.streams, [2, 3]);
        assert_eq!(arguments.url.as_deref(), Some("ws://a:1"));
        for wrong in [["--streams", "0"], ["--streams", "x"], ["--url", "wss://a"], ["--url", "ws://a/b"]] {
            assert!(Arguments::try_parse_from(["loadgen", "live", wrong[0], wrong[1]]).is_err(), "{wrong:?}");
        }
    }
}
