use std::io::{self, Write};

use auth::StreamKey;
use clap::Subcommand;
use model::{Clock, SessionSlug};
use storage::NewStreamKey;
use uuid::Uuid;

use crate::{failure::Failure, migrate, screen::printable};

/// Make, list and revoke the keys with which encoders publish over RTMP.
///
/// A key belongs to one session. It is shown once, when it is made; the database keeps its SHA-256 only. Needs
/// DATABASE_URL.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  parley key create --session demo --label 'Stage camera'
  ffmpeg -re -i talk.mp4 -c copy -f flv \"rtmp://127.0.0.1/live/$(parley key create --session demo | awk '{ print $NF }')\"
  parley key list --session demo
  parley key revoke --session demo 6f9619ff-8b86-4d01-b42d-00c04fc964ff

In OBS: Settings, Stream, Service Custom, Server rtmp://HOST/live, Stream Key as printed.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a key and print it, the last word of what is printed.
    Create {
        /// Slug of the session to publish into; it need not exist yet.
        #[arg(long, value_name = "SLUG")]
        session: SessionSlug,
        /// The name to show with captions.
        #[arg(long)]
        label: Option<String>,
    },
    /// List the keys of a session: id, since when, last used, state, label.
    List {
        /// Slug of the session.
        #[arg(long, value_name = "SLUG")]
        session: SessionSlug,
    },
    /// Make a key good for nothing. Whoever publishes with it at this moment goes on until the connection ends.
    Revoke {
        /// Slug of the session.
        #[arg(long, value_name = "SLUG")]
        session: SessionSlug,
        /// Id of the key, as `parley key list` prints it.
        id: Uuid,
    },
}

/// Does what was asked.
pub async fn run(args: Args) -> Result<(), Failure> {
    let storage = migrate::open(settings::load()?)?;
    let (mut out, now) = (io::stdout(), Clock::system().now());
    match args.command {
        Command::Create { session, label } => {
            let key = StreamKey::generate();
            let id = Uuid::new_v4();
            let new = NewStreamKey { id, key_sha256: key.sha256(), session, label, now };
            storage.create_stream_key(&new).await?;
            writeln!(out, "id         {id}\nserver     rtmp://HOST/live\nstream key {}", key.reveal())?;
        }
        Command::List { session } => {
            for key in storage.stream_keys(&session).await? {
                let used =
                    key.last_used_at.map_or_else(|| "never used".to_owned(), |at| format!("used {at}"));
                let state = if key.revoked_at.is_some() { "revoked" } else { "good" };
                let label = printable(key.label.as_deref().unwrap_or_default());
                writeln!(out, "{}  {}  {used}  {state}  {label}", key.id, key.created_at)?;
            }
        }
        Command::Revoke { session, id } => {
            if !storage.revoke_stream_key(&session, id, now).await? {
                return Err(Failure::NoKey(session));
            }
            writeln!(out, "revoked {id}")?;
        }
    }
    Ok(())
}
