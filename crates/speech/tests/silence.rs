//! Where nobody speaks there are no words; where somebody speaks softly or shortly there are.

#[expect(dead_code, reason = "each test uses some of it")]
mod hearing;

use hearing::{Noise, finals, made, moonshine, recordings, silence};
use speech::{ListenerSettings, Spoken};

use std::f64::consts::TAU;

/// Hears `pcm` as a live stream and returns every text that was shown of it.
fn shown(moonshine: &mut speech::Moonshine, pcm: &[i16]) -> Vec<String> {
    let run = hearing::live(moonshine, &[pcm], &ListenerSettings::default(), 1, hearing::Pace::Modelled);
    let texts = run.streams.iter().flatten().filter_map(|said| match &said.spoken {
        Spoken::Partial { text, .. } | Spoken::Final { text, .. } => Some(text.clone()),
        _ => None,
    });
    texts.collect()
}

fn hum(hz: f64) -> impl Fn(f64) -> f64 {
    move |at| (1..=8).map(|part| (TAU * hz * f64::from(part) * at).sin() / f64::from(part * part)).sum()
}

/// Chords of decaying notes, half a second each, with overtones.
fn music(at: f64) -> f64 {
    const CHORDS: [[f64; 3]; 4] =
        [[261.6, 329.6, 392.0], [220.0, 261.6, 329.6], [174.6, 220.0, 261.6], [196.0, 246.9, 293.7]];
    let chord = CHORDS.iter().cycle().nth((at * 2.0) as usize % CHORDS.len()).copied().unwrap_or_default();
    let since = at % 0.5;
    chord
        .iter()
        .map(|hz| (1..=5).map(|part| (TAU * hz * f64::from(part) * at).sin() / f64::from(part)).sum::<f64>())
        .sum::<f64>()
        * (-4.0 * since).exp()
}

/// A falling and rising tone, as sirens and modems make.
fn chirp(at: f64) -> f64 {
    (TAU * (900.0 * at + 300.0 / TAU * (TAU * at / 3.0).sin())).sin()
}

#[test]
fn nothing_is_heard_where_nobody_speaks() {
    let mut moonshine = moonshine();
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let mut pink = [0.0_f64; 3];
    let seconds = 30.0;
    let mut sounds = vec![("silence", silence(seconds))];
    for db in [-20.0, -30.0, -45.0] {
        sounds.push(("hum of 50 Hz", made(seconds, db, hum(50.0))));
        sounds.push(("hum of 100 Hz", made(seconds, db, hum(100.0))));
        sounds.push(("white noise", made(seconds, db, |_| noise.next())));
        let mut coloured = Noise(7);
        sounds.push((
            "pink noise",
            made(seconds, db, |_| {
                let white = coloured.next();
                pink[0] = 0.997_65 * pink[0] + white * 0.099_046;
                pink[1] = 0.963 * pink[1] + white * 0.296_516_4;
                pink[2] = 0.57 * pink[2] + white * 1.052_691_3;
                pink.iter().sum::<f64>() + white * 0.184_8
            }),
        ));
        sounds.push(("chirp", made(seconds, db, chirp)));
        sounds.push(("music", made(seconds, db, music)));
        let mut bursts = Noise(99);
        sounds.push(("knocking", made(seconds, db, |at| bursts.next() * (-30.0 * (at % 0.7)).exp())));
    }
    let mut heard = Vec::new();
    for (name, pcm) in &sounds {
        for text in shown(&mut moonshine, pcm) {
            heard.push(format!("{name}: {text}"));
        }
    }
    assert!(heard.is_empty(), "{heard:#?}");
}

#[test]
fn soft_and_short_speech_is_heard() {
    let mut moonshine = moonshine();
    let (_, pcm, _) = recordings().into_iter().find(|(name, ..)| name == "LJ001-0008.wav").unwrap();
    for gain in [1.0, 0.1, 0.03] {
        let soft: Vec<i16> = pcm.iter().map(|&sample| (f64::from(sample) * gain) as i16).collect();
        let stream = [silence(1.0), soft, silence(1.0)].concat();
        let run = hearing::live(
            &mut moonshine,
            &[&stream],
            &ListenerSettings::default(),
            1,
            hearing::Pace::Modelled,
        );
        let text = finals(&run.streams[0]);
        assert!(
            hearing::wer::WordErrors::between("has never been surpassed", &text).rate() <= 0.25,
            "{gain}: {text}"
        );
    }
    // The single word "ask" of "ask not", alone.
    let (_, jfk, _) = recordings().into_iter().find(|(name, ..)| name == "jfk.wav").unwrap();
    let word = &jfk[52_800..60_800];
    let stream = [silence(1.0), word.to_vec(), silence(1.0)].concat();
    let run =
        hearing::live(&mut moonshine, &[&stream], &ListenerSettings::default(), 1, hearing::Pace::Modelled);
    assert!(!finals(&run.streams[0]).is_empty());
}
