//! The whole crate on real speech with the real model.

#[expect(dead_code, reason = "each test uses some of it")]
mod hearing;

use std::time::Instant;

use hearing::{
    Pace, finals, live, moonshine, offline, recordings, silence,
    wer::{WordErrors, normalise},
};
use model::Samples;
use speech::{EnginePool, Listener, ListenerSettings, Moonshine, Recognizer, Spoken};

/// UPWR on the recordings: shown words that a later partial or the final takes back.
const TAKEN_BACK_MAX: f64 = 0.25;

#[test]
fn live_finals_are_as_good_as_offline_ones() {
    let mut moonshine = moonshine();
    let settings = ListenerSettings::default();
    let (mut heard, mut alone) = (WordErrors::default(), WordErrors::default());
    let (mut shown, mut taken_back) = (0, 0);
    for (name, pcm, reference) in recordings() {
        let pcm = [silence(0.5), pcm, silence(1.0)].concat();
        let run = live(&mut moonshine, &[&pcm], &settings, 1, Pace::Modelled);
        let plain: Vec<String> = offline(&mut moonshine, &pcm, &settings)
            .into_iter()
            .filter_map(|spoken| if let Spoken::Final { text, .. } = spoken { Some(text) } else { None })
            .collect();
        heard = heard + WordErrors::between(&reference, &finals(&run.streams[0]));
        alone = alone + WordErrors::between(&reference, &plain.join(" "));

        let (mut before, mut number_expected, mut border) = (Vec::new(), 1, Samples(0));
        for said in &run.streams[0] {
            let (text, ends) = match &said.spoken {
                Spoken::Partial { number, text, stable, .. } => {
                    assert_eq!(*number, number_expected, "{name}");
                    assert!(*stable as usize <= text.chars().count());
                    (text, false)
                }
                Spoken::Final { number, text, words, start, end, .. } => {
                    assert_eq!(*number, number_expected, "{name}");
                    assert!(*start >= border && end > start);
                    let mut at = Samples(0);
                    for word in words {
                        assert!(
                            word.start >= at && word.end >= word.start && word.end <= *end,
                            "{name}: {word:?}"
                        );
                        at = word.end;
                    }
                    let texts: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
                    assert_eq!(texts.join(" "), *text);
                    border = *end;
                    number_expected += 1;
                    (text, true)
                }
                other => panic!("{name}: {other:?}"),
            };
            let words: Vec<String> = text.split_whitespace().map(|word| normalise(word).join(" ")).collect();
            let same = words.iter().zip(&before).take_while(|(new, old)| new == old).count();
            taken_back += before.len() - same;
            shown += words.len() - same;
            before = if ends { Vec::new() } else { words };
        }
    }
    let taken_back = taken_back as f64 / f64::from(shown as u32);
    println!(
        "live {:.2} %, offline {:.2} %, taken back {:.1} %",
        heard.rate() * 1e2,
        alone.rate() * 1e2,
        taken_back * 1e2
    );
    assert!(alone.rate() <= 0.08, "{alone:?}");
    assert!(heard.rate() <= alone.rate() + 0.01, "{heard:?} against {alone:?}");
    assert!(taken_back <= TAKEN_BACK_MAX, "{taken_back}");
}

#[test]
fn streams_on_the_pool_give_the_same_finals_as_alone() {
    let files = hearing::model_files();
    let pool = EnginePool::start(2, move || Ok(Box::new(Moonshine::load(&files, 1)?) as Box<dyn Recognizer>))
        .unwrap();
    let recordings: Vec<_> =
        recordings().into_iter().filter(|(name, ..)| name.starts_with("LJ001-000")).collect();
    let mut moonshine = moonshine();
    std::thread::scope(|scope| {
        let pool = &pool;
        let streams: Vec<_> = recordings
            .iter()
            .map(|(_, pcm, _)| {
                scope.spawn(move || {
                    let mut listener = Listener::new(ListenerSettings::default());
                    let mut texts = Vec::new();
                    let mut settle = |listener: &mut Listener| {
                        while let Some(decode) = listener.next(Instant::now()) {
                            let (ticket, result) = pool.submit(decode).wait();
                            if let Some(Spoken::Final { text, .. }) =
                                listener.decoded(ticket, result, Instant::now())
                            {
                                texts.push(text);
                            }
                        }
                    };
                    for chunk in pcm.chunks(8_000) {
                        listener.hear(chunk);
                        settle(&mut listener);
                    }
                    listener.end();
                    settle(&mut listener);
                    assert!(listener.idle());
                    texts.join(" ")
                })
            })
            .collect();
        for (stream, (name, pcm, _)) in streams.into_iter().zip(&recordings) {
            let alone: Vec<String> = offline(&mut moonshine, pcm, &ListenerSettings::default())
                .into_iter()
                .filter_map(|spoken| if let Spoken::Final { text, .. } = spoken { Some(text) } else { None })
                .collect();
            assert_eq!(stream.join().unwrap(), alone.join(" "), "{name}");
        }
    });
    assert!(pool.load().speed > 0.0);
}
