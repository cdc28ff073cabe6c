//! Live streams of the recordings on a virtual clock: what followers see, when, and what it costs.
//! `cargo bench -p speech --bench live` prints it. Arguments after `--`: `words` compares word times with the
//! model's own (slow), `load` plays many streams at once, the name of a recording prints what is shown of it.

#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a fault here ends the bench")]

#[expect(dead_code, reason = "the tests use the rest of it")]
#[path = "../tests/hearing/mod.rs"]
mod hearing;

use hearing::{
    Pace, Run, Said, live, moonshine, offline, recordings, silence,
    wer::{WordErrors, normalise},
};
use speech::{ListenerSettings, Recognizer, Spoken};

fn main() {
    let mut moonshine = moonshine();
    let settings = ListenerSettings::default();
    let recordings: Vec<(String, Vec<i16>, String)> = recordings()
        .into_iter()
        .map(|(name, pcm, text)| {
            let padded = [silence(0.5), pcm, silence(1.0)].concat();
            (name, padded, text)
        })
        .collect();

    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let asked = |what: &str| arguments.iter().any(|argument| argument == what);
    let mut errors = [WordErrors::default(); 2];
    let mut all = Sums::default();
    for (name, pcm, reference) in &recordings {
        let run = live(&mut moonshine, &[pcm], &settings, 1, Pace::Measured);
        let plain: Vec<Said> = offline(&mut moonshine, pcm, &settings)
            .into_iter()
            .map(|spoken| Said { at: 0.0, spoken })
            .collect();
        let (heard, alone) = (hearing::finals(&run.streams[0]), hearing::finals(&plain));
        errors[0] = errors[0] + WordErrors::between(reference, &heard);
        errors[1] = errors[1] + WordErrors::between(reference, &alone);
        let mut sums = Sums::default();
        sums.add(pcm, &run);
        if asked("words") {
            sums.times(&mut moonshine, pcm, &run.streams[0]);
        }
        if asked(name) {
            show(&run.streams[0]);
        }
        println!("{name:<16} {}", sums.line());
        all.merge(sums);
    }
    println!("\none stream       {}", all.line());
    println!(
        "word error rate  live {:.2} %, offline {:.2} %",
        errors[0].rate() * 100.0,
        errors[1].rate() * 100.0
    );

    if !asked("load") {
        return;
    }
    let joined: Vec<i16> = recordings.iter().flat_map(|(_, pcm, _)| pcm.clone()).collect();
    for streams in [4, 8, 12] {
        let rotated: Vec<Vec<i16>> = (0..streams)
            .map(|stream| {
                let from = stream * joined.len() / streams;
                joined[from..].iter().chain(&joined[..from]).copied().take(60 * 16_000).collect()
            })
            .collect();
        let slices: Vec<&[i16]> = rotated.iter().map(Vec::as_slice).collect();
        let run = live(&mut moonshine, &slices, &settings, 2, Pace::Measured);
        let mut sums =
            Sums { audio: slices.iter().map(|pcm| pcm.len() as f64 / 16e3).sum(), ..Sums::default() };
        sums.shown(&run);
        println!("{streams} streams        {}", sums.line());
    }
}

fn show(said: &[Said]) {
    for Said { at, spoken } in said {
        match spoken {
            Spoken::Partial { text, stable, end, .. } => {
                let stable: String = text.chars().take(*stable as usize).collect();
                println!(
                    "{at:6.2} {:6.2}  {stable} | {}",
                    end.seconds(),
                    text.strip_prefix(&stable).unwrap_or_default()
                );
            }
            Spoken::Final { text, start, end, .. } => {
                println!("{at:6.2} {:6.2}-{:.2} FINAL {text}", start.seconds(), end.seconds());
            }
            other => println!("{at:6.2} {other:?}"),
        }
    }
}

#[derive(Default)]
struct Sums {
    audio: f64,
    cpu: f64,
    decodes: [usize; 2],
    shown: usize,
    taken_back: usize,
    rewritten: usize,
    first: Vec<f64>,
    stable: Vec<f64>,
    last: Vec<f64>,
    time_error: Vec<f64>,
}

impl Sums {
    fn add(&mut self, pcm: &[i16], run: &Run) {
        self.audio += pcm.len() as f64 / 16e3;
        self.shown(run);
    }

    fn shown(&mut self, run: &Run) {
        self.cpu += run.decode_seconds;
        for (sum, count) in self.decodes.iter_mut().zip(run.decodes) {
            *sum += count;
        }
        for said in &run.streams {
            let mut seen: Vec<String> = Vec::new();
            let mut exact: Vec<String> = Vec::new();
            // When each word shown was last written anew.
            let mut since: Vec<f64> = Vec::new();
            for Said { at, spoken } in said {
                let (text, start, end, times) = match spoken {
                    Spoken::Partial { text, start, .. } => (text, start, None, None),
                    Spoken::Final { text, start, end, words, .. } => (text, start, Some(end), Some(words)),
                    _ => continue,
                };
                let words: Vec<String> =
                    text.split_whitespace().map(|word| normalise(word).join(" ")).collect();
                let same = words.iter().zip(&seen).take_while(|(a, b)| a == b).count();
                let written: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
                let letters = written.iter().zip(&exact).take_while(|(a, b)| a == b).count();
                if seen.is_empty() && !words.is_empty() {
                    self.first.push(at - start.seconds());
                }
                self.taken_back += seen.len() - same;
                self.rewritten += exact.len() - letters;
                self.shown += words.len() - same;
                since.truncate(same);
                since.resize(words.len(), *at);
                (seen, exact) = (words, written);
                if let (Some(end), Some(times)) = (end, times) {
                    self.last.push(at - end.seconds() + 0.24);
                    self.stable.extend(times.iter().zip(&since).map(|(word, at)| at - word.end.seconds()));
                    (seen, exact, since) = (Vec::new(), Vec::new(), Vec::new());
                }
            }
        }
    }

    /// When a word can first be read from a beginning of the sound, it has just ended: a measure for word times
    /// that needs no other aligner. Good to about 0.1 s itself.
    fn times(&mut self, recognizer: &mut dyn Recognizer, pcm: &[i16], said: &[Said]) {
        if pcm.len() > 13 * 16_000 {
            return;
        }
        for Said { spoken, .. } in said {
            let Spoken::Final { words, start, end, .. } = spoken else { continue };
            let from = start.0.saturating_sub(4_800) as usize;
            let said: Vec<String> = words.iter().map(|word| normalise(&word.text).join(" ")).collect();
            let mut ended = vec![end.seconds(); said.len()];
            let mut at = end.0 as usize;
            while at > from + 4_000 {
                let sound: Vec<f32> =
                    pcm[from..at].iter().map(|&sample| f32::from(sample) / 32_768.0).collect();
                let heard = recognizer.recognize(&sound, &speech::Wanted::default()).unwrap().text();
                let heard: Vec<String> =
                    heard.split_whitespace().map(|word| normalise(word).join(" ")).collect();
                let same = heard.iter().zip(&said).take_while(|(a, b)| a == b).count();
                for ended in ended.iter_mut().take(same) {
                    *ended = at as f64 / 16e3;
                }
                at -= 1_280;
            }
            self.time_error
                .extend(words.iter().zip(&ended).map(|(word, ended)| (word.end.seconds() - ended).abs()));
        }
    }

    fn merge(&mut self, other: Self) {
        self.audio += other.audio;
        self.cpu += other.cpu;
        for (sum, count) in self.decodes.iter_mut().zip(other.decodes) {
            *sum += count;
        }
        self.shown += other.shown;
        self.taken_back += other.taken_back;
        self.rewritten += other.rewritten;
        self.first.extend(other.first);
        self.stable.extend(other.stable);
        self.last.extend(other.last);
        self.time_error.extend(other.time_error);
    }

    fn line(&self) -> String {
        format!(
            "cpu/audio {:.3}  decodes {}+{}  taken back {:>4.1} % (rewritten {:>4.1} %)  first {}  stable {}  \
             final {}  word end error {}",
            self.cpu / self.audio,
            self.decodes[0],
            self.decodes[1],
            100.0 * self.taken_back as f64 / self.shown.max(1) as f64,
            100.0 * self.rewritten as f64 / self.shown.max(1) as f64,
            percentiles(&self.first),
            percentiles(&self.stable),
            percentiles(&self.last),
            percentiles(&self.time_error),
        )
    }
}

/// p50/p95 in milliseconds.
fn percentiles(seconds: &[f64]) -> String {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| sorted.get((share * (sorted.len().max(1) - 1) as f64).round() as usize);
    match (at(0.5), at(0.95)) {
        (Some(half), Some(most)) => format!("{:.0}/{:.0} ms", half * 1e3, most * 1e3),
        _ => "-".to_owned(),
    }
}
