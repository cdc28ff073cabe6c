use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    time::Duration,
};

use model::Samples;
use serde::Serialize;
use tokio::time::Instant;

use crate::{
    client::Conversation, cpu::Spent, delays::Percentiles, measure::Measures, memory::Course, scenario::Bars,
    told::Told,
};

/// What counts as together.
const AT_ONCE: Duration = Duration::from_millis(100);

/// What was measured with so many streams at the same time.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Level {
    /// How many.
    pub streams: usize,
    /// Those that were heard to their end.
    pub streams_heard: usize,
    /// Those that were refused for want of capacity.
    pub refused: usize,
    /// The longest that one of these had to wait for its answer.
    pub refused_slowest_ms: u64,
    /// What was done to the services.
    pub faults: Vec<String>,
    /// Connections that were lost and made again, besides those that were cut on purpose.
    pub reconnects: usize,
    /// Followers that were told everything, once and in order, as the speaker was.
    pub followers: usize,
    /// How often followers came back after they were lost.
    pub returns: usize,
    /// The most of these within a tenth of a second.
    pub returns_at_once: usize,
    /// Sound that all of them were to send, seconds.
    pub audio_s: f64,
    /// What is not as it must be: streams that broke off, finals that a client missed or had twice, bars not held.
    pub failures: Vec<String>,
    /// Losses that the server told of.
    pub warnings: Vec<String>,
    /// Start of speech to first text.
    pub first_partial: Option<Percentiles>,
    /// End of speech to its final.
    pub r#final: Option<Percentiles>,
    /// End of a word to the message since which it stood at its place without a change.
    pub stable_word: Option<Percentiles>,
    /// As `stable_word`, of the first five minutes.
    pub stable_early: Option<Percentiles>,
    /// As `stable_word`, of the last five minutes.
    pub stable_late: Option<Percentiles>,
    /// How far timestamps moved over the run.
    pub drift_ms: Option<u64>,
    /// How the memory of each process went.
    pub memory: Vec<Course>,
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

    /// Whether nothing failed, nothing was lost and every bar was held.
    pub fn is_good(&self) -> bool {
        self.failures.is_empty()
            && self.warnings.is_empty()
            && self.audio_lost_s == 0.0
            && self.unfinished == 0
    }

    /// Compares with what must hold; what does not becomes a failure.
    pub fn judge(&mut self, bars: &Bars) {
        let mut over = |what: &str, found: f64, most: f64| {
            if found > most {
                self.failures.push(format!("{what}: {found:.0}, at most {most:.0}"));
            }
        };
        over("words lost", self.words_lost as f64, bars.words_lost as f64);
        over("words added", self.words_added as f64, bars.words_added as f64);
        if let Some(most) = bars.returns_at_once {
            over("followers back within 100 ms", self.returns_at_once as f64, most as f64);
        }
        if let (Some(most), Some(found)) = (bars.stable_p95_ms, self.stable_word) {
            over("stable word p95, ms", found.p95_ms as f64, most as f64);
        }
        if let Some(most) = bars.refused_ms {
            over("slowest refusal, ms", self.refused_slowest_ms as f64, most as f64);
            over("nobody was refused", f64::from(self.refused == 0), 0.0);
        }
        if let (Some(most), Some(early), Some(late)) =
            (bars.delay_moves_ms, self.stable_early, self.stable_late)
        {
            over("stable word p50 moved, ms", early.p50_ms.abs_diff(late.p50_ms) as f64, most as f64);
        }
        if let (Some(most), Some(found)) = (bars.drift_ms, self.drift_ms) {
            over("timestamps moved, ms", found as f64, most as f64);
        }
        if let Some(most) = bars.growth_mb_per_hour {
            let growing = self.memory.iter().filter(|course| course.slope_mb_per_hour > most);
            let growing =
                growing.map(|it| format!("{} grows by {:.2} MB an hour", it.name, it.slope_mb_per_hour));
            self.failures.extend(growing.collect::<Vec<_>>());
        }
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
    pub fn conversed(&mut self, number: usize, conversation: &Conversation) {
        self.audio_lost_s += Samples(conversation.sent.0.abs_diff(conversation.confirmed.0)).seconds();
        self.sender_late_ms = self.sender_late_ms.max(millis(conversation.late_most));
        self.warnings.extend(conversation.warnings.iter().cloned());
        self.reconnects += conversation.lost.len();
        if conversation.streams > 1 {
            self.failures.push(format!("stream {number} began anew {} times", conversation.streams - 1));
        }
        self.failures
            .extend(conversation.told.faults.iter().map(|fault| format!("stream {number}: {fault}")));
    }

    /// Counts a stream that was refused after so long, and whether it was told when to come back.
    pub fn refused(&mut self, took: Duration, retry_after: Option<Duration>) {
        self.refused += 1;
        self.refused_slowest_ms = self.refused_slowest_ms.max(millis(took));
        if retry_after.is_none() {
            self.failures.push("a refusal did not say when to come back".to_owned());
        }
    }

    /// Compares what a follower of this stream was told with what its speaker was.
    pub fn followed(&mut self, number: usize, speaker: &Told, follower: &Told) {
        let differences = speaker.differences(follower);
        if differences > 0 {
            self.failures
                .push(format!("a follower of stream {number} was told {differences} finals otherwise"));
        }
        self.failures
            .extend(follower.faults.iter().map(|fault| format!("a follower of stream {number}: {fault}")));
        self.followers += usize::from(differences == 0 && follower.faults.is_empty());
    }

    /// Counts when followers came back, all of them: a server that sends many away must not have them back together.
    pub fn returned(&mut self, mut moments: Vec<Instant>) {
        moments.sort_unstable();
        self.returns = moments.len();
        let mut together = VecDeque::new();
        for moment in moments {
            together.push_back(moment);
            while together.front().is_some_and(|first| moment.duration_since(*first) > AT_ONCE) {
                together.pop_front();
            }
            self.returns_at_once = self.returns_at_once.max(together.len());
        }
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

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
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
    rows.extend::<[(String, Cell); 17]>([
        ("streams heard to their end".into(), Box::new(|level| level.streams_heard.to_string())),
        (
            "streams refused / slowest answer, ms".into(),
            Box::new(|level| format!("{} / {}", level.refused, level.refused_slowest_ms)),
        ),
        ("connections made again".into(), Box::new(|level| level.reconnects.to_string())),
        ("followers told all, once, in order".into(), Box::new(|level| level.followers.to_string())),
        (
            "followers back / most in 100 ms".into(),
            Box::new(|level| format!("{} / {}", level.returns, level.returns_at_once)),
        ),
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
        ("failures".into(), Box::new(|level| level.failures.len().to_string())),
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
        let notes =
            level.faults.iter().chain(&level.failures).chain(&level.warnings).chain(&level.differences);
        for line in notes {
            let _ = writeln!(text, "{} streams: {line}", level.streams);
        }
        for Course { name, last_mb, slope_mb_per_hour } in &level.memory {
            let _ =
                writeln!(text, "memory of {name:<24}{last_mb:>8.1} MB {slope_mb_per_hour:>+8.2} MB an hour");
        }
        if let (Some(early), Some(late)) = (level.stable_early, level.stable_late) {
            let _ = writeln!(
                text,
                "stable word p50 / p95, ms: {} / {} in the first five minutes, {} / {} in the last; timestamps moved by {} ms",
                early.p50_ms,
                early.p95_ms,
                late.p50_ms,
                late.p95_ms,
                level.drift_ms.unwrap_or_default(),
            );
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
            Level { audio_lost_s: 0.02, ..good.clone() },
            Level { unfinished: 1, ..good.clone() },
            Level { failures: vec!["stream 0: closed".into()], ..good.clone() },
            Level { warnings: vec!["gap".into()], ..good.clone() },
        ] {
            assert!(!bad.is_good(), "{bad:?}");
        }
    }

    #[test]
    fn those_who_come_back_together_are_counted() {
        let begun = Instant::now();
        let at = |ms: &[u64]| ms.iter().map(|ms| begun + Duration::from_millis(*ms)).collect();
        for (moments, together) in [(at(&[]), 0), (at(&[500, 0, 100, 50, 900, 950]), 3)] {
            let mut level = Level::new(1);
            level.returned(moments);
            assert_eq!(level.returns_at_once, together);
        }
    }

    #[test]
    fn a_bar_that_is_not_held_is_a_failure() {
        let slow = Percentiles { count: 1, p50_ms: 500, p95_ms: 2100, p99_ms: 2100, max_ms: 2100 };
        let grown = Course { name: "edge".to_owned(), last_mb: 9.0, slope_mb_per_hour: 1.5 };
        let found = Level {
            words_lost: 2,
            stable_word: Some(slow),
            refused: 1,
            refused_slowest_ms: 900,
            memory: vec![grown],
            drift_ms: Some(49),
            returns_at_once: 3,
            ..Level::new(1)
        };
        let failures = |bars: Bars| {
            let mut level = found.clone();
            level.judge(&bars);
            level.failures.len()
        };
        let lenient = Bars { words_lost: 2, ..Bars::default() };
        assert_eq!(failures(lenient.clone()), 0);
        assert_eq!(failures(Bars::default()), 1);
        for (bars, count) in [
            (Bars { stable_p95_ms: Some(2000), ..lenient.clone() }, 1),
            (Bars { refused_ms: Some(1000), drift_ms: Some(50), ..lenient.clone() }, 0),
            (Bars { refused_ms: Some(800), drift_ms: Some(48), ..lenient.clone() }, 2),
            (Bars { growth_mb_per_hour: Some(1.0), ..lenient.clone() }, 1),
            (Bars { returns_at_once: Some(2), ..lenient.clone() }, 1),
            (Bars { returns_at_once: Some(3), ..lenient.clone() }, 0),
            (Bars { growth_mb_per_hour: Some(2.0), ..lenient }, 0),
        ] {
            assert_eq!(failures(bars.clone()), count, "{bars:?}");
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
        let first = Percentiles { count: 9, p50_ms: 400, p95_ms: 800, p99_ms: 900, max_ms: 900 };
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
        assert_eq!(row("failures"), ["0", "1"]);
        assert_eq!(row("words lost"), ["baseline", "3"]);
        assert!(table.ends_with("8 streams: stream 2: closed\n"));
        assert!(serde_json::to_string(&levels).unwrap().contains(r#""first_partial":{"count":9"#));
    }
}
