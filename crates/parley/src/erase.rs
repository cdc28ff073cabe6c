use std::io::{self, Write};

use model::{SessionSlug, UserId};
use storage::Erasing;

use crate::{failure::Failure, migrate};

/// Erase what is kept of a user or of a session.
///
/// Without --yes nothing is erased: what would go is counted and printed.
///
/// A user: what the user said in every session, and what back ends handed in under the user's id; streams; inbox,
/// scheduled notifications, push subscriptions; chat messages that the user wrote. A session: its captions, streams,
/// participants, stream keys and reports of usage. What was metered stays in both cases, without anybody's name. Let
/// live sessions end first: what is said meanwhile may stay. It is safe to repeat. Needs DATABASE_URL.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  parley erase --user u1
  parley erase --user u1 --yes
  parley erase --session demo --yes")]
pub struct Args {
    #[command(flatten)]
    what: What,
    /// Erase it. It cannot be brought back.
    #[arg(long)]
    yes: bool,
}

/// One of them.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct What {
    /// Id of the user, in all sessions and inboxes.
    #[arg(long, value_name = "ID")]
    user: Option<UserId>,
    /// Slug of the session.
    #[arg(long, value_name = "SLUG")]
    session: Option<SessionSlug>,
}

/// Erases, or says what it would.
pub async fn run(args: Args) -> Result<(), Failure> {
    let storage = migrate::open(settings::load()?)?;
    let erasing = if args.yes { Erasing::ForGood } else { Erasing::OnTrial };
    let erased = match (args.what.user, args.what.session) {
        (Some(user), _) => Some(storage.erase_user(&user, erasing).await?),
        (None, Some(session)) => storage.delete_session(&session, erasing).await?,
        (None, None) => None,
    };
    let mut out = io::stdout();
    let Some(erased) = erased.filter(|erased| !erased.is_empty()) else {
        writeln!(out, "nothing is kept of it")?;
        return Ok(());
    };
    let verb = if args.yes { "erased" } else { "would erase" };
    for (kind, count) in erased.counts().filter(|(_, count)| *count > 0) {
        writeln!(out, "{verb} {count} {}", kind.replace('_', " "))?;
    }
    if !args.yes {
        writeln!(out, "nothing is erased yet: repeat it with --yes")?;
    }
    Ok(())
}
