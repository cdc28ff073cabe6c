use std::{
    io::{self, Write},
    path::PathBuf,
    pin::pin,
};

use futures_util::TryStreamExt;
use model::{Identity, SessionSlug, Spoken, StreamId, Timestamp};
use storage::TranscriptFilter;
use subtitles::Format;

use crate::{failure::Failure, migrate};

/// Write the stored transcript of a session as subtitles, JSON or text.
///
/// The newest revision of each caption, in order of time.
///
/// Subtitles (srt, vtt) have at most two lines of 42 columns and seven seconds each, cut by the times of the words,
/// and name the speaker when there is more than one. Their zero is the start of the earliest stream that is exported, so
/// the subtitles of a single recording fit that recording; further streams, and captions that a back end handed in,
/// follow by the clock on the wall.
/// Needs DATABASE_URL.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  parley export --session demo --format srt --output demo.srt
  parley export --session demo --format json | jq -r '.segments[].text'
  parley export --session demo --format vtt --stream 6f9619ff-8b86-4d01-b42d-00c04fc964ff
  parley export --session demo --format srt --language ar
  parley export --session demo --format txt --speaker alice --from 2026-01-31T18:00:00Z")]
pub struct Args {
    /// Slug of the session.
    #[arg(long, value_name = "SLUG")]
    session: SessionSlug,
    /// What to write: subtitles as SubRip (srt) or WebVTT for browsers (vtt), every field with word times (json), or one
    /// line for each caption (txt).
    #[arg(long, value_name = "srt|vtt|json|txt")]
    format: Format,
    /// Where to; standard output when absent.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Only this stream of the session (its id stands in the JSON).
    #[arg(long, value_name = "ID")]
    stream: Option<StreamId>,
    /// Only what this participant said.
    #[arg(long, value_name = "IDENTITY")]
    speaker: Option<Identity>,
    /// What was translated into this language (BCP 47), translated; the rest as it was said.
    #[arg(long, value_name = "LANGUAGE")]
    language: Option<String>,
    /// Only what began at this moment (RFC 3339) or later.
    #[arg(long, value_name = "MOMENT", value_parser = moment)]
    from: Option<Timestamp>,
    /// Only what began before this moment.
    #[arg(long, value_name = "MOMENT", value_parser = moment)]
    to: Option<Timestamp>,
}

fn moment(text: &str) -> Result<Timestamp, &'static str> {
    let moment: Result<jiff::Timestamp, _> = text.parse();
    moment.map(Timestamp::from).map_err(|_| "expected a moment such as 2026-01-31T18:00:00Z")
}

/// Exports.
pub async fn run(args: Args) -> Result<(), Failure> {
    let storage = migrate::open(settings::load()?)?;
    let filter = TranscriptFilter { speaker: args.speaker, from: args.from, to: args.to };
    let said: Vec<Spoken> = {
        let stored = pin!(storage.transcript(&args.session, &filter));
        stored
            .try_filter(|spoken| {
                let stream = spoken.segment.utterance.stream();
                std::future::ready(args.stream.is_none_or(|wanted| stream == Some(wanted)))
            })
            .try_collect()
            .await?
    };
    if said.is_empty() {
        let stream = args.stream.map(|stream| format!(", stream {stream}")).unwrap_or_default();
        let narrowed = filter.speaker.is_some() || filter.from.is_some() || filter.to.is_some();
        let narrowed = if narrowed { ", with this speaker and in this time" } else { "" };
        return Err(Failure::Empty(format!("session {}{stream}{narrowed}", args.session)));
    }
    let said = match &args.language {
        Some(language) => subtitles::translated(said, language),
        None => said,
    };
    let text = subtitles::render(args.format, &args.session, &said);
    match args.output {
        Some(path) => std::fs::write(&path, text)
            .map_err(|error| Failure::File { path: path.display().to_string(), error }),
        None => Ok(io::stdout().write_all(text.as_bytes())?),
    }
}
