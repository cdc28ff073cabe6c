//! Taking over what a system before this one has kept. Each system has a file that knows what becomes of its rows; how its
//! tables are read and how ours are written is for `storage`.

mod chat;
mod inbox;
mod row;
mod transcription;

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use settings::Secret;
use storage::{OldDatabase, OldRow, OldRows, PastKind, Storage, StorageError, StorageSettings};

use self::row::{LeftOut, Taken};
use crate::{
    failure::Failure,
    migrate::{self, CONNECT_LIMIT},
    screen::{Screen, printable},
};

/// Take over what an older system has kept: sessions and transcripts, messages, notifications.
///
/// Reads the database of the older system and changes nothing in it. What is there already, or was deleted here since, is
/// passed by: it is safe to stop it and to repeat it, and a second run brings what was added meanwhile. Rows take their
/// places after what is here, in the order of their times, and ring no bell: nobody is notified, no hook is called. A
/// row that cannot be kept is named with the reason and left out.
///
/// a: the transcription server (VideoSession, Participant, TranscriptSegment). b: the chat (messages). c: the
/// notifications (notifications, user_settings). d: the live translation keeps nothing. Needs DATABASE_URL, which is ours;
/// docs/migration.md tells when to do it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  parley import --from a --dry-run 'postgres://reader:secret@old-host/sessions?sslmode=require'
  OLD_DATABASE_URL=postgres://… parley import --from c")]
pub struct Args {
    /// Which system.
    #[arg(long, value_name = "a|b|c|d")]
    from: System,
    /// Its database. Other users of this machine may see what is written here; OLD_DATABASE_URL hides it from them.
    #[arg(value_name = "DATABASE_URL", env = "OLD_DATABASE_URL", hide_env_values = true)]
    source: Option<String>,
    /// Tells several databases of one kind of system apart; the letter when absent. Keep to it when you repeat an import.
    #[arg(long, value_name = "NAME", value_parser = origin)]
    name: Option<String>,
    /// Import nothing; count what would be, and name what cannot.
    #[arg(long)]
    dry_run: bool,
}

/// The systems before this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum System {
    /// Live transcription of rooms.
    A,
    /// Chat over Socket.IO.
    B,
    /// Notifications.
    C,
    /// Live translation.
    D,
}

impl System {
    fn letter(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
            Self::C => "c",
            Self::D => "d",
        }
    }
}

fn origin(text: &str) -> Result<String, &'static str> {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "_.-".contains(letter);
    if text.is_empty() || text.len() > 64 || !text.chars().all(plain) {
        return Err("expected 1 to 64 letters, digits or any of _ . -");
    }
    Ok(text.to_owned())
}

/// Why nothing can be imported, or no more of it.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// There is nothing to import.
    #[error(
        "system d keeps nothing: it answers each recording and forgets it, so there is nothing to import; docs/migration.md \
         tells how its clients move"
    )]
    NothingKept,
    /// Where from?
    #[error("say where the older system's database is: parley import --from {0} DATABASE_URL")]
    NoSource(&'static str),
    /// The older database.
    #[error("the older system's database: {0}")]
    Old(StorageError),
    /// Ours.
    #[error("{0}\nWhat was imported stays; repeat the command to go on")]
    Ours(StorageError),
}

impl ImportError {
    /// What went wrong with the older database. It is not ours, so nobody is told to migrate it.
    fn old(error: StorageError) -> Self {
        Self::Old(match error {
            StorageError::Unmigrated { .. } => {
                StorageError::Foreign("a table or a column that is needed is missing".to_owned())
            }
            error => error,
        })
    }
}

/// Imports.
pub async fn run(args: Args) -> Result<(), Failure> {
    if args.from == System::D {
        return Err(ImportError::NothingKept.into());
    }
    let Some(source) = args.source.filter(|source| !source.is_empty()) else {
        return Err(ImportError::NoSource(args.from.letter()).into());
    };
    let storage = migrate::open(settings::load()?)?;
    storage.check().await?;
    let source =
        StorageSettings { url: Secret::from(source), connections_max: 1, connect_timeout: CONNECT_LIMIT };
    let mut import = Import {
        storage,
        old: OldDatabase::open(&source).await.map_err(ImportError::old)?,
        origin: args.name.unwrap_or_else(|| args.from.letter().to_owned()),
        dry_run: args.dry_run,
        screen: Screen::new(false),
    };
    match args.from {
        System::A => transcription::import(&mut import).await?,
        System::B => chat::import(&mut import).await?,
        System::C => inbox::import(&mut import).await?,
        System::D => {}
    }
    if args.dry_run {
        writeln!(io::stdout(), "nothing is imported yet: repeat it without --dry-run")?;
    }
    Ok(())
}

/// One import on its way.
struct Import {
    storage: Storage,
    old: OldDatabase,
    origin: String,
    dry_run: bool,
    screen: Screen,
}

impl Import {
    /// Takes over one kind of rows: `read` says what becomes of each and where it belongs, `store` writes those that follow
    /// one another in one place.
    async fn take<P: PartialEq, R>(
        &mut self,
        rows: &OldRows,
        kind: PastKind,
        read: impl Fn(&OldRow) -> Result<Taken<P, R>, LeftOut>,
        store: impl AsyncFn(&Storage, &str, &P, &[R]) -> Result<u64, StorageError>,
    ) -> Result<(), Failure> {
        let mut tally = Tally::default();
        let total = self.old.count(rows).await.map_err(ImportError::old)?;
        self.screen.show_bar(total);
        let reading = self.old.read(rows).await.map_err(ImportError::old)?;
        loop {
            let page = reading.next().await.map_err(ImportError::old)?;
            if page.is_empty() {
                break;
            }
            tally.seen += page.len() as u64;
            let mut taken = Vec::with_capacity(page.len());
            for row in &page {
                match read(row) {
                    Ok(row) => taken.push(row),
                    Err(LeftOut::OnPurpose(why)) => *tally.on_purpose.entry(why).or_default() += 1,
                    Err(LeftOut::Unfit(why)) => {
                        tally.unfit += 1;
                        let id = row.get("id").ok().flatten().unwrap_or("without a readable id");
                        let id: String = printable(id).chars().take(80).collect();
                        self.screen.remark(&format!("{} {id} is left out: {why}", kind.label()));
                    }
                }
            }
            // Each stretch of rows of one place, in their order.
            let mut taken = taken.into_iter().peekable();
            while let Some(first) = taken.next() {
                let (mut ids, mut stretch) = (vec![first.id], vec![first.row]);
                while let Some(next) = taken.next_if(|next| next.place == first.place) {
                    ids.push(next.id);
                    stretch.push(next.row);
                }
                let new = if self.dry_run {
                    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
                    self.storage.not_imported(&self.origin, kind, &ids).await
                } else {
                    store(&self.storage, &self.origin, &first.place, &stretch).await
                };
                let new = new.map_err(ImportError::Ours)?;
                tally.new += new;
                tally.known += (ids.len() as u64).saturating_sub(new);
            }
            self.screen.progress(tally.seen, format!("{} {}", tally.seen, rows.what));
        }
        self.screen.end_bar();
        tally.tell(rows.what, self.dry_run)?;
        Ok(())
    }
}

/// What became of the rows of one kind.
#[derive(Default)]
struct Tally {
    seen: u64,
    new: u64,
    known: u64,
    unfit: u64,
    on_purpose: BTreeMap<&'static str, u64>,
}

impl Tally {
    fn tell(&self, what: &str, dry_run: bool) -> io::Result<()> {
        let verb = if dry_run { "would be imported" } else { "imported" };
        let mut line = format!("{what}: {} {verb}", self.new);
        let others = [("known before", self.known), ("left out", self.unfit)];
        for (how, count) in
            others.into_iter().chain(self.on_purpose.iter().map(|(why, count)| (*why, *count)))
        {
            if count > 0 {
                line.push_str(&format!(", {count} {how}"));
            }
        }
        writeln!(io::stdout(), "{line}")
    }
}
