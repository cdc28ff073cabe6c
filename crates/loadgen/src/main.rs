//! Knows how to be many clients at once and what their captions are worth: latency, steadiness, loss, cost. Speaks the
//! public protocol only, through the front door, with real recordings at the pace of speech.
//!
//! This changes when what is measured does, or how. It must not know how a server does its work.

mod baseline;
mod client;
mod compare;
mod cpu;
mod crowd;
mod delays;
mod encoders;
mod fan;
mod fault;
mod follower;
mod measure;
mod memory;
mod message;
mod notify;
mod playlist;
mod processes;
mod recording;
mod report;
mod rival;
mod scenario;
mod socket;
mod target;
mod told;

use std::{
    fs,
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use auth::{SessionClaims, SessionTokens, UserClaims, UserTokens};
use clap::{Parser, Subcommand};
use model::Clock;
use settings::Reader;

use crate::{
    baseline::Baseline,
    fan::Wire,
    recording::RecordingError,
    report::Level,
    scenario::{Scenario, ScenarioError},
    socket::StreamError,
    target::Target,
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
    /// Plays scenarios: people speak and follow while networks and services fail; prints what they lost.
    ///
    /// Ends with 1 when anything was not as the scenario demands. Services are struck only where a launcher runs that
    /// starts them again: `parley-up --chaos`, as `make chaos` and `make soak` do.
    Play(PlayArguments),
    /// One event to many followers: what a delivery costs in ws-edge, beside a bare write() and Node's ws.
    Fanout(FanoutArguments),
    /// The same in Socket.IO, beside npm's socket.io, and the memory of an idle connection of both.
    Socketio(FanoutArguments),
    /// Many users with several connections each are told things while services are killed; prints what they lost.
    ///
    /// Ends with 1 when a notification was not stored, or not told exactly once and in order.
    Notify(NotifyArguments),
    /// Many encoders push at once: processor time for each second of a stream, and memory for each idle publisher.
    Rtmp(RtmpArguments),
    /// The bare write() of `fanout`: a process of its own.
    #[command(hide = true)]
    Bare {
        /// How many connect.
        followers: usize,
    },
}

#[derive(Debug, clap::Args)]
struct FanoutArguments {
    /// How many follow.
    #[arg(long, default_value_t = 5_000)]
    followers: usize,
    /// How many events are measured.
    #[arg(long, default_value_t = 40)]
    events: usize,
    /// ws-edge itself [default: 127.0.0.1 with PORT or 3001]. It must let so many connect at once:
    /// HANDSHAKES_PER_SECOND.
    #[arg(long)]
    edge: Option<SocketAddr>,
    /// Folder in which `npm install` has put Node's packages.
    #[arg(long, default_value = "crates/testkit/node")]
    node: PathBuf,
    /// File with the process id whose children are the services.
    #[arg(long, env = "PARLEY_LAUNCHER", default_value = ".parley/lock")]
    launcher: PathBuf,
    /// Also write the report as JSON to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct RtmpArguments {
    /// Encoders that push at once.
    #[arg(long, default_value_t = 50)]
    streams: usize,
    /// For how long.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Publishers that send nothing.
    #[arg(long, default_value_t = 400)]
    idle: usize,
    /// Where encoders connect [default: nginx, 127.0.0.1 with RTMP_EXTERNAL_PORT or 1935]. One address may hold so many
    /// connections: RTMP_ADDRESS_CONNECTIONS_MAX.
    #[arg(long)]
    door: Option<SocketAddr>,
    /// File with the process id whose children are the services.
    #[arg(long, env = "PARLEY_LAUNCHER", default_value = ".parley/lock")]
    launcher: PathBuf,
    /// Also write the report as JSON to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct NotifyArguments {
    /// How many users.
    #[arg(long, default_value_t = 1_000)]
    users: usize,
    /// Connections of each.
    #[arg(long, default_value_t = 3)]
    connections: usize,
    /// Notifications a second, for all users together.
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// For so long.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// What is killed once each meanwhile, one after the other.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "redis-server,notification-hub,ws-edge,nginx,postgres"
    )]
    kill: Vec<String>,
    /// The front door, ws:// or http:// [default: PARLEY_URL, else ws://127.0.0.1 with HTTP_PORT or 8080].
    #[arg(long, value_parser = front_door)]
    url: Option<String>,
    /// File with the process id whose children are the services.
    #[arg(long, env = "PARLEY_LAUNCHER", default_value = ".parley/lock")]
    launcher: PathBuf,
}

#[derive(Debug, clap::Args)]
struct TargetArguments {
    /// The front door, ws:// or http:// [default: PARLEY_URL, else ws://127.0.0.1 with HTTP_PORT or 8080].
    #[arg(long, value_parser = front_door)]
    url: Option<String>,
    /// Folder of 16 kHz WAV files and their references.tsv (path, tab, text).
    #[arg(long, default_value = "crates/testkit/recordings")]
    recordings: PathBuf,
    /// File with the process id whose children are the services; their processor time is measured.
    #[arg(long, env = "PARLEY_LAUNCHER", default_value = ".parley/lock")]
    launcher: PathBuf,
    /// Also write the report as JSON to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct LiveArguments {
    /// How many at the same time, one measurement after the other. The transcripts of the first are what those of
    /// the others are compared with to find lost words.
    #[arg(long, value_delimiter = ',', default_value = "1,4,8", value_parser = clap::value_parser!(u16).range(1..))]
    streams: Vec<u16>,
    /// Each stream speaks at least so long [default: every recording once].
    #[arg(long)]
    seconds: Option<u32>,
    #[command(flatten)]
    target: TargetArguments,
}

#[derive(Debug, clap::Args)]
struct PlayArguments {
    /// The scenarios, played one after the other; see crates/loadgen/scenarios.
    #[arg(required = true, value_name = "FILE.toml")]
    scenarios: Vec<PathBuf>,
    #[command(flatten)]
    target: TargetArguments,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Settings(#[from] settings::Problems),
    #[error(transparent)]
    Recordings(#[from] RecordingError),
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    #[error("no token can be made: {0}")]
    Token(#[from] auth::AuthError),
    #[error("the recordings were not heard once before: {0}")]
    Hearing(#[from] StreamError),
    #[error(transparent)]
    Output(#[from] io::Error),
}

#[tokio::main]
async fn main() -> ExitCode {
    testkit::choose_tls();
    let are_good = |levels: Vec<Level>| levels.iter().all(Level::is_good);
    let outcome = match Arguments::parse().command {
        Command::Live(arguments) => live(&arguments).await.map(are_good),
        Command::Play(arguments) => play(&arguments).await.map(are_good),
        Command::Fanout(arguments) => fanout(&arguments, Wire::WebSocket).await,
        Command::Socketio(arguments) => fanout(&arguments, Wire::SocketIo).await,
        Command::Notify(arguments) => notify(&arguments).await,
        Command::Rtmp(arguments) => push(&arguments).await,
        Command::Bare { followers } => rival::serve_bare(followers).map(|()| true).map_err(Failure::from),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("{failure}");
            match failure {
                Failure::Settings(_) => ExitCode::from(settings::EXIT_CODE),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

async fn fanout(arguments: &FanoutArguments, wire: Wire) -> Result<bool, Failure> {
    let mut reader = settings::load()?;
    let port = reader.or("PORT", 3001_u16, "a port number");
    let keys = reader.required_secrets("SERVICE_KEY");
    let process = processes::launcher(&arguments.launcher).and_then(fan::edge_process);
    if process.is_none() {
        reader.problem("--launcher", "names no process that keeps a ws-edge");
    }
    let tokens = user_tokens(&mut reader);
    let edge = reader.finish(|| {
        Some(fan::Edge {
            address: arguments.edge.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, port).into()),
            process: process?,
            service_key: keys.first()?.expose().to_owned(),
            token: Box::new(move |number| user_token(&tokens, &format!("bench-{number}"))),
        })
    })?;
    let plan = fan::Plan {
        wire,
        followers: arguments.followers,
        events: arguments.events,
        node: arguments.node.clone(),
    };
    let costs = fan::measure(&edge, &plan).await?;
    write!(io::stdout(), "{}", costs.table())?;
    if let Some(path) = &arguments.json {
        fs::write(path, serde_json::to_vec_pretty(&costs).map_err(io::Error::from)?)?;
    }
    Ok(true)
}

async fn push(arguments: &RtmpArguments) -> Result<bool, Failure> {
    let mut reader = settings::load()?;
    let port = reader.or("RTMP_EXTERNAL_PORT", 1935_u16, "a port number");
    let tokens = SessionTokens::new(reader.required_secrets(SECRET), Clock::system());
    let process = processes::launcher(&arguments.launcher).and_then(encoders::process);
    if process.is_none() {
        reader.problem("--launcher", "names no process that keeps an rtmp-ingest");
    }
    let exp = Clock::system().now().0 / 1000 + 24 * 3600;
    let ingest = reader.finish(|| {
        Some(encoders::Ingest {
            address: arguments.door.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, port).into()),
            process: process?,
            key: Box::new(move |number| {
                let session_slug = format!("bench-{number}");
                let identity = Some("encoder".to_owned());
                let claims = SessionClaims { session_slug, identity, exp, ..SessionClaims::default() };
                tokens.issue(&claims).unwrap_or_default()
            }),
        })
    })?;
    let plan =
        encoders::Plan { streams: arguments.streams, seconds: arguments.seconds, idle: arguments.idle };
    let costs = encoders::measure(&ingest, plan).await?;
    write!(io::stdout(), "{}", costs.table())?;
    if let Some(path) = &arguments.json {
        fs::write(path, serde_json::to_vec_pretty(&costs).map_err(io::Error::from)?)?;
    }
    Ok(true)
}

async fn notify(arguments: &NotifyArguments) -> Result<bool, Failure> {
    let mut reader = settings::load()?;
    let url = door(arguments.url.as_ref(), &mut reader);
    let keys = reader.required_secrets("SERVICE_KEY");
    let tokens = user_tokens(&mut reader);
    let launcher = processes::launcher(&arguments.launcher);
    let system = reader.finish(|| {
        Some(notify::System {
            url: url?.replacen("ws://", "", 1),
            service_key: keys.first()?.expose().to_owned(),
            token: Arc::new(move |user: &str| user_token(&tokens, user)),
            launcher,
        })
    })?;
    let plan = notify::Plan {
        users: arguments.users,
        connections: arguments.connections,
        rate: arguments.rate,
        span: Duration::from_secs(arguments.seconds.into()),
        kill: arguments.kill.clone(),
    };
    let report = notify::run(&system, &plan).await;
    write!(io::stdout(), "{report}")?;
    Ok(report.is_good())
}

fn user_tokens(reader: &mut Reader) -> UserTokens {
    let secrets = auth::user_secrets(reader);
    if secrets.is_empty() {
        reader.problem("JWT_SECRET", "missing; expected a secret, or several separated by commas");
    }
    UserTokens::new(secrets, Clock::system())
}

/// The token of a user, good for a day; empty without a secret, which was a problem before.
fn user_token(tokens: &UserTokens, user: &str) -> String {
    let exp = Clock::system().now().0 / 1000 + 24 * 3600;
    let claims = UserClaims { user_id: Some(user.to_owned()), exp, ..UserClaims::default() };
    tokens.issue(&claims).unwrap_or_default()
}

async fn live(arguments: &LiveArguments) -> Result<Vec<Level>, Failure> {
    let recordings = recording::load(&arguments.target.recordings)?;
    let target = target(&arguments.target)?;
    let mut baseline = Baseline::default();
    let mut levels = Vec::new();
    for &streams in &arguments.streams {
        let scenario = Scenario::calm(usize::from(streams), arguments.seconds);
        eprintln!("{streams} at the same time, {} s ...", scenario.about(&recordings).as_secs());
        levels.push(scenario.run(&target, &recordings, &mut baseline).await?);
    }
    write!(io::stdout(), "{}", report::table(&levels))?;
    keep(&levels, arguments.target.json.as_deref())?;
    Ok(levels)
}

async fn play(arguments: &PlayArguments) -> Result<Vec<Level>, Failure> {
    let scenarios = arguments.scenarios.iter().map(|path| Scenario::read(path));
    let scenarios = scenarios.collect::<Result<Vec<_>, _>>()?;
    let recordings = recording::load(&arguments.target.recordings)?;
    let target = target(&arguments.target)?;
    let mut baseline = Baseline::default();
    eprintln!("hearing every recording once, undisturbed ...");
    scenario::hear(&target, &recordings, &mut baseline).await??;
    let mut levels = Vec::new();
    for scenario in &scenarios {
        eprintln!("{} ({} s) ...", scenario.about, scenario.about(&recordings).as_secs());
        let level = scenario.run(&target, &recordings, &mut baseline).await?;
        let verdict = if level.is_good() { "good" } else { "NOT GOOD" };
        write!(
            io::stdout(),
            "\n{}\n{}{verdict}\n",
            scenario.about,
            report::table(std::slice::from_ref(&level))
        )?;
        levels.push(level);
    }
    keep(&levels, arguments.target.json.as_deref())?;
    Ok(levels)
}

/// Writes the report where it was asked for.
fn keep(levels: &[Level], path: Option<&Path>) -> io::Result<()> {
    match path {
        Some(path) => fs::write(path, serde_json::to_vec_pretty(levels)?),
        None => Ok(()),
    }
}

fn target(arguments: &TargetArguments) -> Result<Target, settings::Problems> {
    let mut reader = settings::load()?;
    let url = door(arguments.url.as_ref(), &mut reader);
    let secrets = reader.required_secrets(SECRET);
    let launcher = processes::launcher(&arguments.launcher);
    if launcher.is_none() {
        eprintln!("{} names no running process: no processor time is measured", arguments.launcher.display());
    }
    reader
        .finish(|| Some(Target { url: url?, tokens: SessionTokens::new(secrets, Clock::system()), launcher }))
}

/// Where the front door is.
fn door(given: Option<&String>, reader: &mut Reader) -> Option<String> {
    match (given, reader.text("PARLEY_URL")) {
        (Some(url), _) => Some(url.clone()),
        (None, Some(text)) => front_door(&text).inspect_err(|error| reader.problem("PARLEY_URL", error)).ok(),
        (None, None) => {
            let port = reader.or("HTTP_PORT", 8080_u16, "a port number");
            Some(format!("ws://127.0.0.1:{port}"))
        }
    }
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
            Arguments::parse_from(["loadgen", "live", "--streams", "2,3", "--url", "http://a:1/"]).command
        else {
            panic!("live")
        };
        assert_eq!(arguments.streams, [2, 3]);
        assert_eq!(arguments.target.url.as_deref(), Some("ws://a:1"));
        for wrong in [["--streams", "0"], ["--streams", "x"], ["--url", "wss://a"], ["--url", "ws://a/b"]] {
            assert!(Arguments::try_parse_from(["loadgen", "live", wrong[0], wrong[1]]).is_err(), "{wrong:?}");
        }
        assert!(Arguments::try_parse_from(["loadgen", "play"]).is_err(), "no scenario");
    }
}
