use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;

use crate::{client::Conversation, cpu::Spent, delays::Percentiles, measure::Measures};

/// What was measured with so many streams at the same time.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Level {
    /// How many.
    pub streams: usize,
    /// Sound that all of them were to send, seconds.
    pub audio_s: f64,
    /// Streams that broke off, and why.
    pub failures: Vec<String>,
    /// Losses that the server told of.
    pub warnings: Vec<String>,
    /// Start of speech to first text.
    pub first_partial: Option<Percentiles>,
    /// End of speech to its final.
    pub r#final: Option<Percentiles>,
    /// End of a word to the message since which it stood at its place without a change.
    pub stable_word: Option<Percentiles>,
    /// Words that came to be shown.
    pub words_shown: usize,
    /// Those that changed or went again.
    pub words_taken_back: usize,
    /// The share of these, percent (UPWR).
    pub taken_back_percent: f64,
    /// Words taken back for each word of the finals.
    pub erasure: f64,
    /// Words of the finals.
    pub words_final: usize,
    /// Word errors against what is said in the recordings, percent.
    pub word_error_percent: f64,
    /// Hearings that could be compared with the first of the same recording.
    pub compared: usize,
    /// Words that the same recording had when it was heard first.
    pub words_lost: usize,
    /// Words that the same recording had not when it was heard first.
    pub words_added: usize,
    /// Where these were lost or added.
    pub differences: Vec<String>,
    /// Sound that the server does not confirm, seconds.
    pub audio_lost_s: f64,
    /// Utterances whose final never came.
    pub unfinished: usize,
    /// Runs of speech for which no text came.
    pub runs_without_text: usize,
    /// The longest that a piece of sound was sent too late.
    pub sender_late_ms: u64,
    /// Processor time of all services, stores and nginx, seconds for each second of sound.
    pub cpu_per_audio_s: Option<f64>,
    /// The same for each of them.
    pub cpu_by_process: BTreeMap<String, f64>,
    /// The same for this program.
    pub cpu_loadgen: Option<f64>,
    /// How many processors everything else on the machine kept busy: what the measurement was disturbed by.
    pub others_cores: Option<f64>,
}

impl Level {
    /// Nothing measured yet.
    pub fn new(streams: usize) -> Self {
        Self { streams, ..Self::default() }
    }

    /// Whether nothing failed and nothing was lost.
    pub fn is_good(&self) -> bool {
        self.failures.is_empty()
            && self.warnings.is_empty()
            && self.words_lost == 0
            && self.audio_lost_s == 0.0
            && self.unfinished == 0
    }

    /// Counts words that were lost and added, at `place`, in a recording that was heard before.
    pub fn compare(&mut self, place: &str, lost: usize, added: usize) {
        self.compared += 1;
        self.words_lost += lost;
        self.words_added += added;
        if lost + added > 0 {
            self.differences.push(format!("{place}: {lost} words lost, {added} added"));
        }
    }

    /// Counts what a stream sent and was told.
    pub fn conversed(&mut self, conversation: &Conversation) {
        self.audio_lost_s += conversation.sent.saturating_sub(conversation.confirmed).seconds();
        self.sender_late_ms =
            self.sender_late_ms.max(u64::try_from(conversation.late_most.as_millis()).unwrap_or(u64::MAX));
        self.warnings.extend(conversation.warnings.iter().cloned());
    }

    /// Takes over what the captions of all streams are worth.
    pub fn measured(&mut self, measures: &Measures) {
        self.first_partial = measures.first.percentiles();
        self.r#final = measures.last.percentiles();
        self.stable_word = measures.stable.percentiles();
        self.words_shown = measures.words_shown;
        self.words_taken_back = measures.words_taken_back;
        self.taken_back_percent = percent(measures.words_taken_back, measures.words_shown);
        self.erasure = measures.words_taken_back as f64 / measures.words_final.max(1) as f64;
        self.words_final = measures.words_final;
        self.word_error_percent = measures.errors.rate() * 100.0;
        self.unfinished = measures.unfinished;
        self.runs_without_text = measures.runs_without_text;
    }

    /// Takes over the processor time of all streams.
    pub fn spent(&mut self, spent: &Spent) {
        let per_audio = |seconds: f64| seconds / self.audio_s.max(f64::MIN_POSITIVE);
        let services = spent.services.iter();
        self.cpu_by_process = services.map(|(name, seconds)| (name.clone(), per_audio(*seconds))).collect();
        self.cpu_per_audio_s = (!spent.services.is_empty()).then(|| per_audio(spent.services.values().sum()));
        self.cpu_loadgen = Some(per_audio(spent.own));
        // Without knowing the services, they are among the others.
        self.others_cores = self.cpu_per_audio_s.map(|_| spent.others_cores);
    }
}

fn percent(part: usize, whole: usize) -> f64 {
    part as f64 * 100.0 / whole.max(1) as f64
}

/// A table with a column for each level.
pub fn table(levels: &[Level]) -> String {
    type Cell<'a> = Box<dyn Fn(&Level) -> String + 'a>;
    let delays = |found: Option<Percentiles>| {
        found.map_or_else(|| "-".to_owned(), |it| format!("{} / {}", it.p50_ms, it.p95_ms))
    };
    let ratio = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"));
    let compared = |level: &Level, words: usize| {
        if level.compared > 0 { words.to_string() } else { "baseline".to_owned() }
    };
    let mut rows: Vec<(String, Cell)> = vec![
        ("simultaneous live streams".into(), Box::new(|level| level.streams.to_string())),
        ("audio, s".into(), Box::new(|level| format!("{:.0}", level.audio_s))),
        ("first partial p50 / p95, ms".into(), Box::new(move |level| delays(level.first_partial))),
        ("final p50 / p95, ms".into(), Box::new(move |level| delays(level.r#final))),
        ("stable word p50 / p95, ms".into(), Box::new(move |level| delays(level.stable_word))),
        (
            "partial words taken back (UPWR), %".into(),
            Box::new(|level| format!("{:.1}", level.taken_back_percent)),
        ),
        ("words taken back per final word".into(), Box::new(|level| format!("{:.3}", level.erasure))),
        ("CPU s per audio s".into(), Box::new(move |level| ratio(level.cpu_per_audio_s))),
    ];
    let names: BTreeMap<&str, ()> =
        levels.iter().flat_map(|level| level.cpu_by_process.keys()).map(|name| (name.as_str(), ())).collect();
    for name in names.into_keys() {
        rows.push((
            format!("  {name}"),
            Box::new(move |level| ratio(level.cpu_by_process.get(name).copied())),
        ));
    }
    rows.extend::<[(String, Cell); 12]>([
        ("  (this program)".into(), Box::new(move |level| ratio(level.cpu_loadgen))),
        ("cores that everything else kept busy".into(), Box::new(move |level| ratio(level.others_cores))),
        ("words in finals".into(), Box::new(|level| level.words_final.to_string())),
        ("word error rate, %".into(), Box::new(|level| format!("{:.2}", level.word_error_percent))),
        ("words lost".into(), Box::new(move |level| compared(level, level.words_lost))),
        ("words added".into(), Box::new(move |level| compared(level, level.words_added))),
        ("audio lost, s".into(), Box::new(|level| format!("{:.2}", level.audio_lost_s))),
        ("utterances without final".into(), Box::new(|level| level.unfinished.to_string())),
        ("runs of speech without text".into(), Box::new(|level| level.runs_without_text.to_string())),
        ("sent late at most, ms".into(), Box::new(|level| level.sender_late_ms.to_string())),
        ("warnings".into(), Box::new(|level| level.warnings.len().to_string())),
        ("streams that failed".into(), Box::new(|level| level.failures.len().to_string())),
    ]);
    let mut text = String::new();
    for (title, cell) in rows {
        // Writing to a string cannot fail.
        let _ = write!(text, "{title:<38}");
        for level in levels {
            let _ = write!(text, "{:>16}", cell(level));
        }
        text.push('\n');
    }
    for level in levels {
        for line in level.failures.iter().chain(&level.warnings).chain(&level.differences) {
            let _ = writeln!(text, "{} streams: {line}", level.streams);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_level_without_loss_is_good() {
        let good = Level::new(1);
        assert!(good.is_good());
        for bad in [
            Level { words_lost: 1, ..good.clone() },
            Level { audio_lost_s: 0.02, ..good.clone() },
            Level { unfinished: 1, ..good.clone() },
            Level { failures: vec!["stream 0: closed".into()], ..good.clone() },
            Level { warnings: vec!["gap".into()], ..good.clone() },
        ] {
            assert!(!bad.is_good(), "{bad:?}");
        }
    }

    #[test]
    fn processor_time_is_told_for_each_second_of_sound() {
        let mut level = Level { audio_s: 200.0, ..Level::new(8) };
        let services = BTreeMap::from([("nginx".to_owned(), 1.0), ("ws-edge".to_owned(), 3.0)]);
        level.spent(&Spent { services, own: 2.0, others_cores: 1.5 });
        assert_eq!(level.cpu_per_audio_s, Some(0.02));
        assert_eq!(level.cpu_by_process.get("ws-edge"), Some(&0.015));
        assert_eq!((level.cpu_loadgen, level.others_cores), (Some(0.01), Some(1.5)));
        level.spent(&Spent { own: 2.0, others_cores: 1.5, ..Spent::default() });
        assert_eq!((level.cpu_per_audio_s, level.others_cores), (None, None));
    }

    #[test]
    fn the_table_has_a_column_for_each_level() {
        let first = Percentiles { count: 9, p50_ms: 400, p95_ms: 800, max_ms: 900 };
        let levels = [
            Level { first_partial: Some(first), ..Level::new(1) },
            Level { failures: vec!["stream 2: closed".into()], compared: 9, words_lost: 3, ..Level::new(8) },
        ];
        let table = table(&levels);
        let row = |title: &str| {
            let line = table.lines().find(|line| line.starts_with(title)).unwrap();
            line.strip_prefix(title)
                .unwrap()
                .split("  ")
                .map(str::trim)
                .filter(|cell| !cell.is_empty())
                .collect::<Vec<_>>()
        };
        assert_eq!(row("simultaneous live streams"), ["1", "8"]);
        assert_eq!(row("first partial p50 / p95, ms"), ["400 / 800", "-"]);
        assert_eq!(row("streams that failed"), ["0", "1"]);
        assert_eq!(row("words lost"), ["baseline", "3"]);
        assert!(table.ends_with("8 streams: stream 2: closed\n"));
        assert!(serde_json::to_string(&levels).unwrap().contains(r#""first_partial":{"count":9"#));
    }
}
