//! The command line: tokens, stream keys, streaming a recording or a microphone, following a session, exporting a
//! transcript, erasing a session or a person, notifying users, taking over what an older system kept, migrating the
//! database, finding out what is wrong.
//!
//! This changes when what a person types does. It knows the wire only as any client does, through the documented
//! protocol, and the database only through `storage`; it must not know how a service works inside.

mod backoff;
mod doctor;
mod door;
mod erase;
mod export;
mod failure;
mod import;
mod key;
mod message;
mod migrate;
mod notify;
mod screen;
mod sequences;
mod signals;
mod sound;
mod source;
mod span;
mod stream;
mod tail;
mod token;
mod trouble;
mod uplink;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  parley stream talk.wav --session demo --realtime
  arecord -q -f S16_LE -r 16000 -c 1 -t raw | parley stream - --session demo
  ffmpeg -v error -i talk.m4a -f wav - | parley stream - --session demo
  parley tail --session demo
  parley export --session demo --format srt --output demo.srt
  parley erase --user u1
  parley token --session demo --identity alice --ttl 8h
  parley key create --session demo
  parley notify --user u1 --title 'Your recording is ready'
  parley doctor https://captions.example --origin https://app.example
  parley import --from a --dry-run postgres://reader:secret@old-host/sessions

Settings (environment, .env, .parley/env, parley.toml): PARLEY_URL or HTTP_PORT say where the server is,
TRANSCRIPTION_JWT_SECRET signs tokens, SERVICE_KEY publishes notifications, DATABASE_URL is Postgres (export, erase,
key, import, migrate).

Exit codes: 0 done, 1 failed, 2 wrong usage, 64 wrong settings.";

/// Live captions from the command line.
#[derive(Parser)]
#[command(name = "parley", version, after_help = EXAMPLES, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Token(token::Args),
    Key(key::Args),
    Stream(stream::Args),
    Tail(tail::Args),
    Export(export::Args),
    Erase(erase::Args),
    Doctor(doctor::Args),
    Notify(notify::Args),
    Import(import::Args),
    Migrate(migrate::Args),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Token(args) => token::run(&args),
        Command::Key(args) => key::run(args).await,
        Command::Stream(args) => stream::run(args).await,
        Command::Tail(args) => tail::run(args).await,
        Command::Export(args) => export::run(args).await,
        Command::Erase(args) => erase::run(args).await,
        Command::Doctor(args) => doctor::run(args).await,
        Command::Notify(args) => notify::run(args).await,
        Command::Import(args) => import::run(args).await,
        Command::Migrate(args) => migrate::run(args).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
