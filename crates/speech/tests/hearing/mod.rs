//! What the tests and the bench of this crate share: recordings, made sounds, the model, and a simulation of
//! live streams on a virtual clock.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a fault here fails the test or the bench that met it"
)]

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use model::{SAMPLE_RATE_HZ, Samples};
use speech::{Decode, DecodeKind, Listener, ListenerSettings, ModelFiles, Moonshine, Recognizer, Spoken};

#[path = "../../../testkit/src/wer.rs"]
pub mod wer;

/// The recordings and what is said in them.
pub fn recordings() -> Vec<(String, Vec<i16>, String)> {
    let dir = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../testkit/recordings"));
    let references = std::fs::read_to_string(dir.join("references.tsv")).unwrap();
    references
        .lines()
        .skip(1)
        .map(|line| {
            let (path, text) = line.split_once('\t').unwrap();
            (path.to_owned(), wav(&dir.join(path)), text.to_owned())
        })
        .collect()
}

pub fn wav(path: &Path) -> Vec<i16> {
    let bytes = std::fs::read(path).unwrap();
    let data = bytes.windows(4).position(|window| window == b"data").expect("a data chunk") + 8;
    bytes[data..].chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
}

/// The model, or a message that says how to get it.
pub fn model_files() -> ModelFiles {
    ModelFiles::find(testkit::model_dir().as_deref(), &std::env::current_dir().unwrap())
        .unwrap_or_else(|error| panic!("{error}"))
}

pub fn moonshine() -> Moonshine {
    Moonshine::load(&model_files(), 1).unwrap()
}

pub fn silence(seconds: f64) -> Vec<i16> {
    vec![0; (seconds * f64::from(SAMPLE_RATE_HZ)) as usize]
}

/// One sample per call, -1 to 1, scaled so that the mean power is `db` of full scale.
pub fn made(seconds: f64, db: f64, mut sample: impl FnMut(f64) -> f64) -> Vec<i16> {
    let count = (seconds * f64::from(SAMPLE_RATE_HZ)) as usize;
    let raw: Vec<f64> = (0..count).map(|index| sample(index as f64 / f64::from(SAMPLE_RATE_HZ))).collect();
    let power = raw.iter().map(|sample| sample * sample).sum::<f64>() / count as f64;
    let gain = 10f64.powf(db / 20.0) / power.sqrt();
    raw.iter().map(|sample| (sample * gain * 32_767.0).clamp(-32_768.0, 32_767.0) as i16).collect()
}

/// A small generator of uniform noise, -1 to 1, the same in every run.
pub struct Noise(pub u64);

impl Noise {
    pub fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

/// How long a decode takes on the virtual clock.
#[derive(Clone, Copy)]
pub enum Pace {
    /// As long as it really took.
    Measured,
    /// 30 ms and 30 ms per second of sound, so that a run repeats exactly.
    Modelled,
}

/// One thing that was said, and when (seconds of stream time).
pub struct Said {
    pub at: f64,
    pub spoken: Spoken,
}

/// What a simulation did.
pub struct Run {
    pub streams: Vec<Vec<Said>>,
    pub decode_seconds: f64,
    pub decodes: [usize; 2],
}

const CHUNK: usize = 1_600;
const STEP: f64 = 0.01;

/// Plays `streams` at real time in chunks of 100 ms, begun one after another, to a listener each, with `engines`
/// engines on a virtual clock. All decodes run on `recognizer`, one after another.
pub fn live(
    recognizer: &mut dyn Recognizer,
    streams: &[&[i16]],
    settings: &ListenerSettings,
    engines: usize,
    pace: Pace,
) -> Run {
    let epoch = Instant::now();
    let instant = |at: f64| epoch + Duration::from_secs_f64(at.max(0.0));
    let mut listeners: Vec<Listener> = streams.iter().map(|_| Listener::new(settings.clone())).collect();
    let offset = |stream: usize| stream as f64 * 0.37;
    let mut fed = vec![0usize; streams.len()];
    let mut ended = vec![false; streams.len()];
    let mut said: Vec<Vec<Said>> = streams.iter().map(|_| Vec::new()).collect();
    let mut waiting: Vec<(usize, Decode)> = Vec::new();
    let mut busy: Vec<Option<(f64, usize, speech::Ticket, speech::Hypothesis)>> = vec![None; engines];
    let mut run = Run { streams: Vec::new(), decode_seconds: 0.0, decodes: [0; 2] };
    let mut now = 0.0;
    loop {
        for slot in &mut busy {
            let Some((_, stream, ticket, hypothesis)) = slot.take_if(|(done, ..)| *done <= now) else {
                continue;
            };
            if let Some(spoken) = listeners[stream].decoded(ticket, Ok(hypothesis), instant(now)) {
                said[stream].push(Said { at: now - offset(stream), spoken });
            }
        }
        for (stream, pcm) in streams.iter().enumerate() {
            while !ended[stream]
                && now >= offset(stream) + (fed[stream] + CHUNK) as f64 / f64::from(SAMPLE_RATE_HZ)
            {
                let end = (fed[stream] + CHUNK).min(pcm.len());
                listeners[stream].hear(&pcm[fed[stream]..end]);
                fed[stream] = end;
                if end == pcm.len() {
                    listeners[stream].end();
                    ended[stream] = true;
                }
            }
            if let Some(decode) = listeners[stream].next(instant(now)) {
                waiting.push((stream, decode));
            }
        }
        for slot in busy.iter_mut().filter(|slot| slot.is_none()) {
            let first =
                waiting.iter().enumerate().min_by_key(|(_, (_, decode))| (decode.kind(), decode.asked));
            let Some((index, _)) = first else { break };
            let (stream, decode) = waiting.remove(index);
            run.decodes[usize::from(decode.kind() == DecodeKind::Final)] += 1;
            let (hypothesis, took) = answer(recognizer, &decode);
            run.decode_seconds += took;
            let took = match pace {
                Pace::Measured => took,
                Pace::Modelled => 0.03 + 0.03 * decode.length().seconds(),
            };
            *slot = Some((now + took, stream, decode.ticket, hypothesis));
        }
        let idle = waiting.is_empty() && busy.iter().all(Option::is_none);
        if idle && ended.iter().all(|ended| *ended) && listeners.iter().all(Listener::idle) {
            run.streams = said;
            return run;
        }
        now += STEP;
    }
}

/// Decodes now, and how many seconds that took.
pub fn answer(recognizer: &mut dyn Recognizer, decode: &Decode) -> (speech::Hypothesis, f64) {
    let began = Instant::now();
    let hypothesis = match decode.known() {
        Some(known) => known.clone(),
        None => match &decode.earlier {
            Some(earlier) => recognizer.recognize_again(&decode.pcm, &decode.wanted, earlier).unwrap(),
            None => recognizer.recognize(&decode.pcm, &decode.wanted).unwrap(),
        },
    };
    (hypothesis, began.elapsed().as_secs_f64())
}

/// The finals of a stream as one text.
pub fn finals(said: &[Said]) -> String {
    let texts = said.iter().filter_map(|said| match &said.spoken {
        Spoken::Final { text, .. } => Some(text.as_str()),
        _ => None,
    });
    texts.collect::<Vec<_>>().join(" ")
}

/// A listener that hears everything at once: the offline comparison, same cuts, one decode each.
pub fn offline(recognizer: &mut dyn Recognizer, pcm: &[i16], settings: &ListenerSettings) -> Vec<Spoken> {
    let mut listener = Listener::new(ListenerSettings { partial_interval: None, ..settings.clone() });
    let mut spoken = Vec::new();
    let now = Instant::now();
    let mut settle = |listener: &mut Listener| {
        while let Some(decode) = listener.next(now) {
            let hypothesis = recognizer.recognize(&decode.pcm, &decode.wanted).unwrap();
            spoken.extend(listener.decoded(decode.ticket, Ok(hypothesis), now));
        }
    };
    for chunk in pcm.chunks(16_000) {
        listener.hear(chunk);
        settle(&mut listener);
    }
    listener.end();
    settle(&mut listener);
    assert!(listener.idle() && listener.settled() == Samples::of(pcm.len()));
    spoken
}
