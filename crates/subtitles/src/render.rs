//! Finals written down.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Write as _,
    str::FromStr,
};

use model::{Final, Samples, SessionSlug, Spoken, StreamId, Timestamp};
use serde::Serialize;

use crate::cues::{self, Cue, Stretch};

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// A format that there is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected srt, vtt, json or txt")]
pub struct UnknownFormat;

impl FromStr for Format {
    type Err = UnknownFormat;
    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        match text {
            "srt" => Ok(Self::Srt),
            "vtt" => Ok(Self::Vtt),
            "json" => Ok(Self::Json),
            "txt" => Ok(Self::Txt),
            _ => Err(UnknownFormat),
        }
    }
}

impl Format {
    /// Its media type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Srt => "application/x-subrip; charset=utf-8",
            Self::Vtt => "text/vtt; charset=utf-8",
            Self::Json => "application/json",
            Self::Txt => "text/plain; charset=utf-8",
        }
    }
}

/// Writes down what was said in a session, in the order of `said`.
///
/// Zero of subtitles is when the earliest stream among them began, so the subtitles of a single recording fit that
/// recording; further streams, and what came from outside, follow by the clock on the wall.
pub fn render(format: Format, session: &SessionSlug, said: &[Spoken]) -> String {
    match format {
        Format::Srt => srt(&subtitles(said)),
        Format::Vtt => vtt(&subtitles(said)),
        Format::Json => json(session, said),
        Format::Txt => txt(said),
    }
}

/// What is said in a recording, in order, as SubRip subtitles.
pub fn srt_of<'a>(said: impl IntoIterator<Item = Stretch<'a>>) -> String {
    srt(&of_recording(said))
}

/// What is said in a recording, in order, as WebVTT subtitles.
pub fn vtt_of<'a>(said: impl IntoIterator<Item = Stretch<'a>>) -> String {
    vtt(&of_recording(said))
}

fn of_recording<'a>(said: impl IntoIterator<Item = Stretch<'a>>) -> Vec<Cue> {
    let mut cues: Vec<Cue> =
        said.into_iter().flat_map(|stretch| cues::cut(stretch, "", Samples(0))).collect();
    cues::lengthen(&mut cues);
    cues
}

fn who(segment: &Final) -> String {
    one_line(segment.speaker.name.as_deref().unwrap_or(segment.speaker.identity.as_str()))
}

/// Text without control characters, which would end a line or steer a terminal: they become spaces.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The cues of all finals, in order.
fn subtitles(said: &[Spoken]) -> Vec<Cue> {
    let speakers: HashSet<_> = said.iter().map(|spoken| &spoken.segment.speaker.identity).collect();
    let beginnings = beginnings(said);
    let outside = said.iter().filter(|spoken| spoken.segment.utterance.stream().is_none());
    let zero = outside.map(|spoken| spoken.started_at).chain(beginnings.values().copied()).min();
    let after_zero = |moment: Timestamp| {
        let millis = moment.since(zero.unwrap_or(moment)).as_millis();
        Samples::from_millis(u64::try_from(millis).unwrap_or(u64::MAX / 16))
    };
    let cues = said.iter().flat_map(|spoken| {
        let segment = &spoken.segment;
        let prefix = if speakers.len() > 1 { format!("{}: ", who(segment)) } else { String::new() };
        let beginning = segment.utterance.stream().and_then(|stream| beginnings.get(&stream));
        let mut said = Stretch::from(segment);
        if beginning.is_none() {
            // It has no place in any sound.
            (said.start, said.end) = (Samples(0), cues::reading_time(said.text));
        }
        cues::cut(said, &prefix, after_zero(*beginning.unwrap_or(&spoken.started_at)))
    });
    let mut cues: Vec<Cue> = cues.collect();
    cues.sort_by_key(|cue| (cue.start, cue.end));
    cues::lengthen(&mut cues);
    cues
}

/// When each stream began. One final tells for all of its stream, so that rounding moves none against another.
fn beginnings(said: &[Spoken]) -> HashMap<StreamId, Timestamp> {
    let mut beginnings = HashMap::new();
    for Spoken { segment, started_at, .. } in said {
        if let Some(stream) = segment.utterance.stream() {
            beginnings.entry(stream).or_insert_with(|| started_at.before(segment.start.duration()));
        }
    }
    beginnings
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
        let lines: Vec<String> = cue.lines.iter().map(|line| one_line(line)).collect();
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
            |line: &String| one_line(line).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let lines: Vec<String> = cue.lines.iter().map(escaped).collect();
        let _ = write!(text, "{} --> {}\n{}\n\n", time(cue.start, '.'), time(cue.end, '.'), lines.join("\n"));
    }
    text
}

fn txt(said: &[Spoken]) -> String {
    let mut text = String::new();
    for Spoken { segment, .. } in said {
        let _ = writeln!(text, "{}: {}", who(segment), one_line(segment.text.trim()));
    }
    text
}

/// The fields of `transcript_final` under their names there, and when it was said.
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
    /// What it says in other languages.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    translations: &'a BTreeMap<String, String>,
    /// Seconds in the stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<f64>,
    /// Seconds in the stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<f64>,
    started_at: String,
    ended_at: String,
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

fn json(session: &SessionSlug, said: &[Spoken]) -> String {
    let seconds = |position: Samples| position.millis() as f64 / 1000.0;
    let segments = said.iter().map(|Spoken { segment, started_at, ended_at }| {
        let stream = segment.utterance.stream();
        Segment {
            utterance_id: segment.utterance.to_string(),
            stream,
            sequence: segment.sequence.0,
            revision: segment.revision,
            text: &segment.text,
            is_final: true,
            speaker: segment.speaker.name.as_deref().unwrap_or(segment.speaker.identity.as_str()),
            speaker_id: segment.speaker.identity.as_str(),
            language: segment.language.as_deref(),
            translations: &segment.translations,
            start: stream.map(|_| seconds(segment.start)),
            end: stream.map(|_| seconds(segment.end)),
            started_at: started_at.to_string(),
            ended_at: ended_at.to_string(),
            ts: segment.at.0,
            words: segment
                .words
                .iter()
                .map(|word| SegmentWord {
                    text: &word.text,
                    start: seconds(word.start),
                    end: seconds(word.end),
                })
                .collect(),
        }
    });
    let transcript = Transcript { session_slug: session, segments: segments.collect() };
    // Strings and numbers always serialize.
    let mut text = serde_json::to_string_pretty(&transcript).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use model::{Outside, Sequence, UtteranceId};

    use super::*;
    use crate::cues::tests::heard;

    /// When the streams of these tests begin, unless they say otherwise.
    const BEGAN: Timestamp = Timestamp(1_700_000_000_000);

    /// A final of a stream that began so many milliseconds after [`BEGAN`].
    fn spoken(began_ms: i64, segment: Final) -> Spoken {
        let at = |position: Samples| Timestamp(BEGAN.0 + began_ms).after(position.duration());
        Spoken { started_at: at(segment.start), ended_at: at(segment.end), segment }
    }

    fn outside(after_ms: i64, who: &str, text: &str) -> Spoken {
        let at = Timestamp(BEGAN.0 + after_ms);
        let segment = Final {
            utterance: UtteranceId::Outside("gladia-1".parse().unwrap()),
            start: Samples(0),
            end: Samples(0),
            words: Vec::new(),
            outside: Some(Outside { said_at: Some(at), ..Outside::default() }),
            ..heard(1, who, 0, text)
        };
        Spoken { segment, started_at: at, ended_at: at }
    }

    #[test]
    fn one_stream_keeps_its_own_time() {
        let said = [
            spoken(0, heard(1, "alice", 1500, "Hello there.")),
            spoken(0, heard(1, "alice", 3_723_004, "a < b & c --> d")),
        ];
        assert_eq!(
            srt(&subtitles(&said)),
            "1\n00:00:01,500 --> 00:00:02,600\nHello there.\n\n\
             2\n01:02:03,004 --> 01:02:04,004\na < b & c --> d\n\n"
        );
        assert_eq!(
            vtt(&subtitles(&said)),
            "WEBVTT\n\n00:00:01.500 --> 00:00:02.600\nHello there.\n\n\
             01:02:03.004 --> 01:02:04.004\na &lt; b &amp; c --&gt; d\n\n"
        );
        assert_eq!(txt(&said), "alice: Hello there.\nalice: a < b & c --> d\n");
    }

    #[test]
    fn several_streams_follow_the_clock_on_the_wall_and_name_who_speaks() {
        let first = spoken(0, heard(1, "alice", 1000, "Hello there."));
        let mut second = spoken(4000, heard(2, "bob", 500, "Hi."));
        second.segment.speaker.name = Some("Bob\nB".to_owned());
        // A correction is stored much later.
        second.segment.at = second.segment.at.after(std::time::Duration::from_secs(3600));
        let text = srt(&subtitles(&[second, first]));
        assert_eq!(
            text,
            "1\n00:00:01,000 --> 00:00:02,100\nalice: Hello there.\n\n\
             2\n00:00:04,500 --> 00:00:05,500\nBob B: Hi.\n\n"
        );
    }

    #[test]
    fn what_came_from_outside_stands_where_it_was_said_for_as_long_as_it_takes_to_read() {
        let long = "It was the age of wisdom, it was the age of foolishness, it was the epoch of belief.";
        let said = [outside(0, "a", "Hm."), outside(2000, "a", long)];
        assert_eq!(
            srt(&subtitles(&said)),
            "1\n00:00:00,000 --> 00:00:01,000\nHm.\n\n\
             2\n00:00:02,000 --> 00:00:05,385\nIt was the age of wisdom,\nit was the age of foolishness,\n\n\
             3\n00:00:05,385 --> 00:00:07,040\nit was the epoch of belief.\n\n"
        );
        // Beside a stream it follows the clock on the wall.
        let both = [spoken(0, heard(1, "alice", 1000, "Hello there.")), outside(3000, "bob", "Hi.")];
        let cues = subtitles(&both);
        assert_eq!((cues[1].start.millis(), cues[1].end.millis()), (3000, 4000));
        assert_eq!(cues[1].lines, ["bob: Hi."]);
        let value: serde_json::Value =
            serde_json::from_str(&json(&both[1].segment.session, &both[1..])).unwrap();
        let written = &value["segments"][0];
        assert_eq!(
            (&written["utteranceId"], &written["start"]),
            (&"gladia-1".into(), &serde_json::Value::Null)
        );
        assert_eq!(written["startedAt"], "2023-11-14T22:13:23.000Z");
    }

    #[test]
    fn json_has_the_fields_of_the_wire() {
        let mut segment = heard(7, "alice", 1500, "Hi you.");
        segment.sequence = Sequence(9);
        let said = [spoken(0, segment)];
        let value: serde_json::Value =
            serde_json::from_str(&render(Format::Json, &said[0].segment.session, &said)).unwrap();
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
            ("startedAt", serde_json::json!("2023-11-14T22:13:21.500Z")),
            ("endedAt", serde_json::json!("2023-11-14T22:13:22.100Z")),
            (
                "words",
                serde_json::json!([{"text":"Hi","start":1.5,"end":1.7},{"text":"you.","start":1.7,"end":2.1}]),
            ),
        ] {
            assert_eq!(written[field], expected, "{field}");
        }
    }

    #[test]
    fn nothing_said_is_an_empty_transcript() {
        let session = "demo".parse().unwrap();
        assert_eq!(render(Format::Srt, &session, &[]), "");
        assert_eq!(render(Format::Vtt, &session, &[]), "WEBVTT\n\n");
        assert_eq!(render(Format::Txt, &session, &[]), "");
        let value: serde_json::Value = serde_json::from_str(&render(Format::Json, &session, &[])).unwrap();
        assert_eq!(value, serde_json::json!({"sessionSlug": "demo", "segments": []}));
    }
}
