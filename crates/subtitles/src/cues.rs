//! Cuts finals into cues that a person can read in time: at most two lines of 42 columns and seven seconds, cut
//! where a sentence or a clause ends if there is such a place, timed by the words.

use model::{Final, Samples, Word};
use unicode_width::UnicodeWidthStr;

/// Widest line, in columns: what broadcasters use for Latin script.
const LINE_COLUMNS_MAX: usize = 42;

/// Longest cue.
const CUE_LONGEST: Samples = Samples::from_millis(7000);

/// Shortest time a cue stays when nothing follows; less cannot be read.
const CUE_SHORTEST: Samples = Samples::from_millis(1000);

/// How much less even two lines may be, in columns, to break after a comma or the like.
const MARK_COLUMNS: usize = 10;

/// Time in which a character that has no times of its own is said, and can be read.
const CHARACTER_MS: u64 = 60;

/// What is said in one go, timed within its recording or stream.
#[derive(Clone, Copy)]
pub struct Stretch<'a> {
    /// Never empty.
    pub text: &'a str,
    /// Its words in order; may be empty when nobody knows their times.
    pub words: &'a [Word],
    /// Where it begins.
    pub start: Samples,
    /// Where it ends.
    pub end: Samples,
}

impl<'a> From<&'a Final> for Stretch<'a> {
    fn from(segment: &'a Final) -> Self {
        Self { text: &segment.text, words: &segment.words, start: segment.start, end: segment.end }
    }
}

/// A cue, timed from the start of the export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cue {
    /// When it appears.
    pub(crate) start: Samples,
    /// When it goes.
    pub(crate) end: Samples,
    /// One or two.
    pub(crate) lines: Vec<String>,
}

/// A word, or a piece of one that is wider than a line.
#[derive(Debug, Clone)]
struct Piece {
    text: String,
    /// A space stands before it.
    spaced: bool,
    start: Samples,
    end: Samples,
}

/// The cues of `said`, each line group beginning with `prefix`, its times moved by `offset`.
pub(crate) fn cut(said: Stretch<'_>, prefix: &str, offset: Samples) -> Vec<Cue> {
    let pieces = pieces(said);
    let mut cues = Vec::new();
    let mut rest = pieces.as_slice();
    while let Some(first) = rest.first() {
        // At least one piece, however wide or long.
        let mut fitting = 1;
        while let Some(next) = rest.get(fitting)
            && next.end.saturating_sub(first.start) <= CUE_LONGEST
            && rest.get(..=fitting).is_some_and(|pieces| wrap(prefix, pieces).is_some())
        {
            fitting += 1;
        }
        let (cue, after) =
            rest.split_at(if fitting == rest.len() { fitting } else { best_cut(rest, fitting) });
        rest = after;
        let end = cue.last().map_or(first.end, |last| last.end);
        let lines = wrap(prefix, cue).unwrap_or_else(|| vec![joined(prefix, cue)]);
        cues.push(Cue { start: offset + first.start, end: offset + end, lines });
    }
    cues
}

/// Gives each cue a readable time where the next leaves room. `cues` are in order of their start.
pub(crate) fn lengthen(cues: &mut [Cue]) {
    let starts: Vec<Samples> = cues.iter().skip(1).map(|cue| cue.start).collect();
    for (index, cue) in cues.iter_mut().enumerate() {
        let wanted = cue.end.max(cue.start + CUE_SHORTEST);
        cue.end = match starts.get(index) {
            // Two people at once overlap as they did.
            Some(next) if *next > cue.start => wanted.min((*next).max(cue.end)),
            Some(_) => cue.end,
            None => wanted,
        };
    }
}

/// How long a text is shown whose time in the sound nobody knows.
pub(crate) fn reading_time(text: &str) -> Samples {
    Samples::from_millis(CHARACTER_MS * text.chars().count() as u64).max(CUE_SHORTEST)
}

/// How many of the first `fitting` pieces make the best cue: up to the end of a sentence, else of a clause, if that
/// does not leave the cue much too short; else all, or half of what is left when that is little more.
fn best_cut(pieces: &[Piece], fitting: usize) -> usize {
    let last_ending = |marks: &[char]| {
        let text = |piece: &Piece| piece.text.trim_end_matches(['"', '\'', '”', '’', ')']).ends_with(marks);
        pieces.iter().take(fitting).rposition(text)
    };
    let sentence = last_ending(&['.', '?', '!', '…', '。', '？', '！']).map(|index| index + 1);
    let clause = last_ending(&[',', ';', ':', '—', '、', '，']).map(|index| index + 1);
    match (sentence, clause) {
        (Some(sentence), _) if sentence * 3 >= fitting => sentence,
        (_, Some(clause)) if clause * 2 >= fitting => clause,
        // Two halves read better than a full cue and a few words.
        _ if (pieces.len() - fitting) * 2 < fitting => pieces.len().div_ceil(2),
        _ => fitting,
    }
}

/// One line where that is enough, else the two that differ least in width, rather after a mark than before one;
/// `None` when two are not enough.
fn wrap(prefix: &str, pieces: &[Piece]) -> Option<Vec<String>> {
    let whole = joined(prefix, pieces);
    if columns(&whole) <= LINE_COLUMNS_MAX {
        return Some(vec![whole]);
    }
    let splits = (1..pieces.len()).map(|at| {
        let (first, second) = pieces.split_at(at);
        (joined(prefix, first), joined("", second))
    });
    let widths = |(first, second): &(String, String)| (columns(first), columns(second));
    let fitting = splits.filter(|lines| {
        let (first, second) = widths(lines);
        first.max(second) <= LINE_COLUMNS_MAX
    });
    let best = fitting.min_by_key(|lines| {
        let (first, second) = widths(lines);
        let at_mark = lines.0.ends_with([',', ';', ':', '.', '?', '!', '…', '—']);
        first.abs_diff(second) + if at_mark { 0 } else { MARK_COLUMNS }
    });
    best.map(|(first, second)| vec![first, second])
}

/// How wide a text is, in columns of a terminal.
fn columns(text: &str) -> usize {
    text.width()
}

fn joined(prefix: &str, pieces: &[Piece]) -> String {
    let mut text = prefix.to_owned();
    for (index, piece) in pieces.iter().enumerate() {
        if index > 0 && piece.spaced {
            text.push(' ');
        }
        text.push_str(&piece.text);
    }
    text
}

/// The text as timed words: by the recognizer's times when its words are those of the text, else spread evenly over
/// the characters.
fn pieces(said: Stretch<'_>) -> Vec<Piece> {
    let words = timed(said).unwrap_or_else(|| spread(said));
    words.into_iter().flat_map(broken).collect()
}

/// The recognizer's words, found again in the text; `None` when the text is another (a correction).
fn timed(said: Stretch<'_>) -> Option<Vec<Piece>> {
    let mut rest = said.text.trim();
    let mut pieces = Vec::with_capacity(said.words.len());
    for word in said.words {
        let trimmed = rest.trim_start();
        let spaced = trimmed.len() < rest.len();
        rest = trimmed.strip_prefix(word.text.trim()).filter(|_| !word.text.trim().is_empty())?;
        let text = word.text.split_whitespace().collect::<Vec<_>>().join(" ");
        pieces.push(Piece { text, spaced, start: word.start, end: word.end.max(word.start) });
    }
    (rest.trim().is_empty() && !pieces.is_empty()).then_some(pieces)
}

fn spread(said: Stretch<'_>) -> Vec<Piece> {
    let total = said.text.split_whitespace().map(|word| word.chars().count() as u64).sum::<u64>().max(1);
    let length = said.end - said.start;
    let place = |characters: u64| {
        let samples = u128::from(length.0) * u128::from(characters) / u128::from(total);
        said.start + Samples(u64::try_from(samples).unwrap_or(u64::MAX))
    };
    let mut before = 0;
    let words = said.text.split_whitespace().map(|word| {
        let start = place(before);
        before += word.chars().count() as u64;
        Piece { text: word.to_owned(), spaced: true, start, end: place(before) }
    });
    words.collect()
}

/// The piece, or the parts of one that fills more than a line (scripts without spaces), each timed by its share.
fn broken(piece: Piece) -> Vec<Piece> {
    // Room for a speaker's name before it.
    let part_columns_max = LINE_COLUMNS_MAX / 2;
    if columns(&piece.text) <= part_columns_max {
        return vec![piece];
    }
    let mut parts: Vec<String> = vec![String::new()];
    for character in piece.text.chars() {
        let width = columns(character.encode_utf8(&mut [0; 4]));
        if parts.last().is_some_and(|part| columns(part) + width > part_columns_max) {
            parts.push(String::new());
        }
        if let Some(part) = parts.last_mut() {
            part.push(character);
        }
    }
    let (count, length) = (parts.len() as u64, piece.end - piece.start);
    let place = |index: u64| piece.start + Samples(length.0 * index / count);
    let timed = parts.into_iter().zip(0..).map(|(text, index)| Piece {
        text,
        spaced: index == 0 && piece.spaced,
        start: place(index),
        end: place(index + 1),
    });
    timed.collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use model::{Sequence, Speaker, StreamId, Timestamp, UtteranceId, Word};
    use uuid::Uuid;

    use super::*;

    /// A final of `text` from `start_ms` on, whose words last as many tenths of a second as they have letters.
    pub(crate) fn heard(stream: u128, who: &str, start_ms: u64, text: &str) -> Final {
        let mut at = start_ms;
        let words: Vec<Word> = text
            .split_whitespace()
            .map(|word| {
                let start = Samples::from_millis(at);
                at += 100 * word.chars().count() as u64;
                Word { text: word.to_owned(), start, end: Samples::from_millis(at) }
            })
            .collect();
        Final {
            session: "demo".parse().unwrap(),
            sequence: Sequence(1),
            utterance: UtteranceId::Heard { stream: StreamId(Uuid::from_u128(stream)), number: 1 },
            revision: 0,
            speaker: Speaker { identity: who.parse().unwrap(), name: None },
            text: text.to_owned(),
            language: Some("en".to_owned()),
            start: Samples::from_millis(start_ms),
            end: Samples::from_millis(at),
            words,
            at: Timestamp(1_700_000_000_000 + i64::try_from(at).unwrap() + 400),
            outside: None,
            translations: BTreeMap::new(),
        }
    }

    fn texts(segment: &Final, prefix: &str) -> Vec<String> {
        cut(segment.into(), prefix, Samples(0)).iter().map(|cue| cue.lines.join("|")).collect()
    }

    #[test]
    fn captions_are_cut_where_people_pause() {
        for (text, prefix, expected) in [
            ("It was the best of times.", "", &["It was the best of times."][..]),
            (
                "It was the best of times, it was the worst of times.",
                "",
                &["It was the best of times,|it was the worst of times."],
            ),
            (
                "It was the age of wisdom, it was the age of foolishness, it was the epoch of belief.",
                "",
                &["It was the age of wisdom,|it was the age of foolishness,", "it was the epoch of belief."],
            ),
            (
                "No. It goes on without any mark for as long as a breath will last and then some more of it",
                "",
                &[
                    "No. It goes on without|any mark for as long as",
                    "a breath will last and|then some more of it",
                ],
            ),
            (
                "Yes, we can do that on Monday morning then.",
                "Alice: ",
                &["Alice: Yes, we can do that|on Monday morning then."],
            ),
        ] {
            assert_eq!(texts(&heard(1, "a", 0, text), prefix), expected, "{text}");
        }
    }

    #[test]
    fn every_cue_is_short_enough_and_no_word_is_lost() {
        let long = "word ".repeat(300) + &"x".repeat(200) + " " + &"字幕".repeat(60);
        let mut silent = heard(1, "a", 500, &long);
        for words in [true, false] {
            if !words {
                silent.words.clear();
            }
            let cues = cut((&silent).into(), "", Samples(0));
            for cue in &cues {
                assert!(cue.lines.len() <= 2);
                assert!(cue.lines.iter().all(|line| columns(line) <= LINE_COLUMNS_MAX), "{cue:?}");
                assert!(cue.end >= cue.start && cue.end - cue.start <= CUE_LONGEST + Samples(1), "{cue:?}");
            }
            assert!(cues.is_sorted_by_key(|cue| cue.start));
            let back: String =
                cues.iter().flat_map(|cue| cue.lines.iter()).flat_map(|line| line.split(' ')).collect();
            assert_eq!(back, long.replace(' ', ""));
        }
    }

    #[test]
    fn cues_take_the_times_of_their_words() {
        let mut segment =
            heard(1, "a", 2000, "One two three. Four five six seven eight nine ten eleven twelve thirteen.");
        segment.words[2].end = Samples::from_millis(9100);
        for (index, word) in segment.words.iter_mut().enumerate().skip(3) {
            word.start = Samples::from_millis(9000 + 100 * index as u64);
            word.end = word.start + Samples(1);
        }
        let cues = cut((&segment).into(), "", Samples::from_millis(1000));
        assert_eq!(cues[0].start, Samples::from_millis(3000));
        assert!(cues.len() > 1);
        // A corrected text has no word times of its own.
        segment.text = "Something else was meant.".to_owned();
        let cues = cut((&segment).into(), "", Samples(0));
        assert_eq!((cues[0].start, cues[0].end), (segment.start, segment.end));
    }

    #[test]
    fn short_cues_stay_until_they_can_be_read() {
        let cue = |start, end| Cue {
            start: Samples::from_millis(start),
            end: Samples::from_millis(end),
            lines: vec!["Hm.".to_owned()],
        };
        let mut cues = [cue(0, 200), cue(500, 2000), cue(1500, 1600), cue(1500, 1700)];
        lengthen(&mut cues);
        let ends: Vec<u64> = cues.iter().map(|cue| cue.end.millis()).collect();
        assert_eq!(ends, [500, 2000, 1600, 2500]);
    }
}
