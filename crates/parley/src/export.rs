use std::{
    collections::{HashMap, HashSet},
    fmt::Write as _,
    io::{self, Write},
    path::PathBuf,
    pin::pin,
};

use clap::ValueEnum;
use futures_util::TryStreamExt;
use model::{Final, Samples, SessionSlug, StreamId};
use serde::Serialize;

use crate::{
    cues::{self, Cue},
    failure::Failure,
    migrate,
    screen::printable,
};

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// SubRip subtitles.
    Srt,
    /// WebVTT subtitles, for browsers.
    Vtt,
    /// Every field that is stored, with word times.
    Json,
    /// One line for each caption: who and what.
    Txt,
}

/// Write the stored transcript of a session as subtitles, JSON or text.
///
/// The newest revision of each caption, in order of time.
///
/// Subtitles (srt, vtt) have at most two lines of 42 columns and seven seconds each, cut by the times of the words,
/// and name the speaker when there is more than one. Their zero is the start of the session's first stream, so the
/// subtitles of a single recording fit that recording; further streams follow by the clock on the wall.
/// Needs DATABASE_URL.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  parley export --session demo --format srt --output demo.srt
  parley export --session demo --format json | jq -r '.segments[].text'
  parley export --session demo --format vtt --stream 6f9619ff-8b86-4d01-b42d-00c04fc964ff")]
pub struct Args {
    /// Slug of the session.
    #[arg(long, value_name = "SLUG")]
    session: SessionSlug,
    /// What to write.
    #[arg(long, value_enum)]
    format: Format,
    /// Where to; standard output when absent.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Only this stream of the session (its id stands in the JSON).
    #[arg(long, value_name = "ID")]
    stream: Option<StreamId>,
}

/// Exports.
pub async fn run(args: Args) -> Result<(), Failure> {
    let storage = migrate::open(settings::load()?)?;
    let finals: Vec<Final> = {
        let stored = pin!(storage.transcript(&args.session));
        stored
            .try_filter(|segment| {
                std::future::ready(
                    args.stream.is_none_or(|stream| segment.utterance.stream() == Some(stream)),
                )
            })
            .try_collect()
            .await?
    };
    if finals.is_empty() {
        let stream = args.stream.map(|stream| format!(", stream {stream}")).unwrap_or_default();
        return Err(Failure::Empty(format!("session {}{stream}", args.session)));
    }
    let text = match args.format {
        Format::Srt => srt(&subtitles(&finals)),
        Format::Vtt => vtt(&subtitles(&finals)),
        Format::Json => json(&args.session, &finals),
        Format::Txt => txt(&finals),
    };
    match args.output {
        Some(path) => std::fs::write(&path, text)
            .map_err(|error| Failure::File { path: path.display().to_string(), error }),
        None => Ok(io::stdout().write_all(text.as_bytes())?),
    }
}

fn who(segment: &Final) -> String {
    printable(segment.speaker.name.as_deref().unwrap_or(segment.speaker.identity.as_str()))
}

/// The cues of all finals, in order.
fn subtitles(finals: &[Final]) -> Vec<Cue> {
    let speakers: HashSet<_> = finals.iter().map(|segment| &segment.speaker.identity).collect();
    let offsets = offsets(finals);
    let cues = finals.iter().flat_map(|segment| {
        let prefix = if speakers.len() > 1 { format!("{}: ", who(segment)) } else { String::new() };
        let offset = offsets.get(&segment.utterance.stream()).copied().unwrap_or_default();
        cues::cut(segment, &prefix, offset)
    });
    let mut cues: Vec<Cue> = cues.collect();
    cues.sort_by_key(|cue| (cue.start, cue.end));
    cues::lengthen(&mut cues);
    cues
}

/// When each stream began, counted from the first of them. A stream's beginning is taken from its first final:
/// that was stored soon after its end was heard.
fn offsets(finals: &[Final]) -> HashMap<Option<StreamId>, Samples> {
    let mut firsts: HashMap<Option<StreamId>, &Final> = HashMap::new();
    for segment in finals {
        let first = firsts.entry(segment.utterance.stream()).or_insert(segment);
        // The first revision tells when it was heard; a correction may come much later.
        if (segment.start, segment.at) < (first.start, first.at) {
            *first = segment;
        }
    }
    let began_ms = |segment: &Final| {
        segment.at.0.saturating_sub(i64::try_from(segment.end.millis()).unwrap_or(i64::MAX))
    };
    let zero = firsts.values().map(|first| began_ms(first)).min().unwrap_or_default();
    let after = |first: &Final| u64::try_from(began_ms(first).saturating_sub(zero)).unwrap_or_default();
    firsts.into_iter().map(|(stream, first)| (stream, Samples::from_millis(after(first)))).collect()
}

/// `HH:MM:SS` and milliseconds after `mark`.
fn time(position: Samples, mark: char) -> String {
    let millis = position.millis();
    let (hours, minutes, seconds) = (millis / 3_600_000, millis / 60_000 % 60, millis / 1000 % 60);
    format!("{hours:02}:{minutes:02}:{seconds:02}{mark}{:03}", millis % 1000)
}

/// SubRip: number, times with a comma, lines, empty line.
fn srt(cues: &[Cue]) -> String {
    let mut text = String::new();
    for (number, cue) in (1..).zip(cues) {
        let lines: Vec<String> = cue.lines.iter().map(|line| printable(line)).collect();
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "{number}\n{} --> {}\n{}\n\n",
            time(cue.start, ','),
            time(cue.end, ','),
            lines.join("\n")
        );
    }
    text
}

/// WebVTT (W3C Candidate Recommendation, section 4): `&`, `<` and `>` escaped, so that no text becomes a tag or an
/// arrow.
fn vtt(cues: &[Cue]) -> String {
    let mut text = "WEBVTT\n\n".to_owned();
    for cue in cues {
        let escaped =
            |line: &String| printable(line).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let lines: Vec<String> = cue.lines.iter().map(escaped).collect();
        let _ = write!(text, "{} --> {}\n{}\n\n", time(cue.start, '.'), time(cue.end, '.'), lines.join("\n"));
    }
    text
}

fn txt(finals: &[Final]) -> String {
    let mut text = String::new();
    for segment in finals {
        let _ = writeln!(text, "{}: {}", who(segment), printable(segment.text.trim()));
    }
    text
}

/// The fields of `transcript_final` under their names there.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Segment<'a> {
    utterance_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<StreamId>,
    sequence: u64,
    revision: u32,
    text: &'a str,
    is_final: bool,
    speaker: &'a str,
    speaker_id: &'a str,
    language: Option<&'a str>,
    /// Seconds in the stream.
    start: f64,
    /// Seconds in the stream.
    end: f64,
    /// When it was stored, ms since 1970.
    ts: i64,
    words: Vec<SegmentWord<'a>>,
}

#[derive(Serialize)]
struct SegmentWord<'a> {
    text: &'a str,
    start: f64,
    end: f64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Transcript<'a> {
    session_slug: &'a SessionSlug,
    segments: Vec<Segment<'a>>,
}

fn json(session: &SessionSlug, finals: &[Final]) -> String {
    let seconds = |position: Samples| position.millis() as f64 / 1000.0;
    let segments = finals.iter().map(|segment| Segment {
        utterance_id: segment.utterance.to_string(),
        stream: segment.utterance.stream(),
        sequence: segment.sequence.0,
        revision: segment.revision,
        text: &segment.text,
        is_final: true,
        speaker: segment.speaker.name.as_deref().unwrap_or(segment.speaker.identity.as_str()),
        speaker_id: segment.speaker.identity.as_str(),
        language: segment.language.as_deref(),
        start: seconds(segment.start),
        end: seconds(segment.end),
        ts: segment.at.0,
        words: segment
            .words
            .iter()
            .map(|word| SegmentWord { text: &word.text, start: seconds(word.start), end: seconds(word.end) })
            .collect(),
    });
    let transcript = Transcript { session_slug: session, segments: segments.collect() };
    // Strings and numbers always serialize.
    let mut text = serde_json::to_string_pretty(&transcript).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use model::{Sequence, Timestamp};

    use super::*;
    use crate::cues::tests::spoken;

    #[test]
    fn one_stream_keeps_its_own_time() {
        let finals =
            [spoken(1, "alice", 1500, "Hello there."), spoken(1, "alice", 3_723_004, "a < b & c --> d")];
        assert_eq!(
            srt(&subtitles(&finals)),
            "1\n00:00:01,500 --> 00:00:02,600\nHello there.\n\n\
             2\n01:02:03,004 --> 01:02:04,004\na < b & c --> d\n\n"
        );
        assert_eq!(
            vtt(&subtitles(&finals)),
            "WEBVTT\n\n00:00:01.500 --> 00:00:02.600\nHello there.\n\n\
             01:02:03.004 --> 01:02:04.004\na &lt; b &amp; c --&gt; d\n\n"
        );
        assert_eq!(txt(&finals), "alice: Hello there.\nalice: a < b & c --> d\n");
    }

    #[test]
    fn several_streams_follow_the_clock_on_the_wall_and_name_who_speaks() {
        let first = spoken(1, "alice", 1000, "Hello there.");
        let mut second = spoken(2, "bob", 500, "Hi.");
        // Bob's stream began four seconds after Alice's.
        second.at = Timestamp(second.at.0 + 4000);
        second.speaker.name = Some("Bob\nB".to_owned());
        let text = srt(&subtitles(&[second, first]));
        assert_eq!(
            text,
            "1\n00:00:01,000 --> 00:00:02,100\nalice: Hello there.\n\n\
             2\n00:00:04,500 --> 00:00:05,500\nBob B: Hi.\n\n"
        );
    }

    #[test]
    fn json_has_the_fields_of_the_wire() {
        let mut segment = spoken(7, "alice", 1500, "Hi you.");
        segment.sequence = Sequence(9);
        let value: serde_json::Value =
            serde_json::from_str(&json(&segment.session, &[segment.clone()])).unwrap();
        assert_eq!(value["sessionSlug"], "demo");
        let written = &value["segments"][0];
        for (field, expected) in [
            ("utteranceId", serde_json::json!("00000000-0000-0000-0000-000000000007-1")),
            ("stream", serde_json::json!("00000000-0000-0000-0000-000000000007")),
            ("sequence", serde_json::json!(9)),
            ("text", serde_json::json!("Hi you.")),
            ("isFinal", serde_json::json!(true)),
            ("speaker", serde_json::json!("alice")),
            ("speakerId", serde_json::json!("alice")),
            ("language", serde_json::json!("en")),
            ("start", serde_json::json!(1.5)),
            ("end", serde_json::json!(2.1)),
            (
                "words",
                serde_json::json!([{"text":"Hi","start":1.5,"end":1.7},{"text":"you.","start":1.7,"end":2.1}]),
            ),
        ] {
            assert_eq!(written[field], expected, "{field}");
        }
    }
}
