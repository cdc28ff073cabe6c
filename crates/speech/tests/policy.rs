//! The streaming policy with a recognizer that says what it is told, on real sound.

#[expect(dead_code, reason = "each test uses some of it")]
mod hearing;

use std::time::{Duration, Instant};

use hearing::{recordings, silence};
use model::Samples;
use speech::{
    Decode, DecodeKind, Detected, Hypothesis, HypothesisWord, Listener, ListenerSettings, SpeechError, Spoken,
};

fn hypothesis(text: &str) -> Hypothesis {
    let words = text.split_whitespace().map(|word| HypothesisWord { text: word.to_owned(), logprob: -0.01 });
    Hypothesis { words: words.collect(), ..Hypothesis::default() }
}

#[expect(clippy::unwrap_used, reason = "without its recording a test fails")]
fn recording(name: &str) -> Vec<i16> {
    recordings().into_iter().find(|(path, ..)| path == name).unwrap().1
}

/// Plays `pcm` in chunks and answers each decode by `answer`; returns what was said and every decode's kind and
/// length.
fn play(
    listener: &mut Listener,
    pcm: &[i16],
    chunk: usize,
    mut answer: impl FnMut(&Decode) -> Result<Hypothesis, SpeechError>,
) -> (Vec<Spoken>, Vec<(DecodeKind, usize)>) {
    let now = Instant::now();
    let (mut spoken, mut decodes) = (Vec::new(), Vec::new());
    for part in pcm.chunks(chunk) {
        listener.hear(part);
        settle(listener, now, &mut answer, &mut spoken, &mut decodes);
    }
    listener.end();
    settle(listener, now, &mut answer, &mut spoken, &mut decodes);
    (spoken, decodes)
}

fn settle(
    listener: &mut Listener,
    now: Instant,
    answer: &mut impl FnMut(&Decode) -> Result<Hypothesis, SpeechError>,
    spoken: &mut Vec<Spoken>,
    decodes: &mut Vec<(DecodeKind, usize)>,
) {
    while let Some(decode) = listener.next(now) {
        decodes.push((decode.kind(), decode.pcm.len()));
        let result = decode.known().map_or_else(|| answer(&decode), |known| Ok(known.clone()));
        spoken.extend(listener.decoded(decode.ticket, result, now));
    }
}

/// As many words as there is sound, three a second: `w0 w1 w2 …`.
fn counting(decode: &Decode) -> Result<Hypothesis, SpeechError> {
    let words: Vec<String> = (0..decode.pcm.len() * 3 / 16_000).map(|index| format!("w{index}")).collect();
    Ok(hypothesis(&words.join(" ")))
}

#[test]
fn partials_grow_and_the_final_ends_them() {
    let pcm = [silence(0.5), recording("LJ001-0004.wav"), silence(1.0)].concat();
    let mut listener = Listener::new(ListenerSettings::default());
    let (spoken, _) = play(&mut listener, &pcm, 1_600, counting);
    let (last, partials) = spoken.split_last().unwrap();
    assert!(partials.len() >= 6);
    let mut stable_before = 0;
    for partial in partials {
        let Spoken::Partial { number: 1, stable, .. } = partial else { panic!("{partial:?}") };
        assert!(*stable >= stable_before);
        stable_before = *stable;
    }
    let Spoken::Final { number: 1, text, words, .. } = last else { panic!("{last:?}") };
    assert_eq!(words.len(), text.split(' ').count());
    assert!(listener.idle());
    assert_eq!(listener.settled(), Samples::of(pcm.len()));
}

#[test]
fn without_partials_only_finals_are_decoded() {
    let pcm = [recording("LJ001-0008.wav"), silence(1.0)].concat();
    let mut listener =
        Listener::new(ListenerSettings { partial_interval: None, ..ListenerSettings::default() });
    let (spoken, decodes) = play(&mut listener, &pcm, 1_600, counting);
    assert_eq!((spoken.len(), decodes.len()), (1, 1));
}

#[test]
fn empty_utterances_give_their_number_back_and_clear_what_was_shown() {
    let said = recording("LJ001-0008.wav");
    let pcm = [said.clone(), silence(1.0), said.clone(), silence(1.0), said, silence(1.0)].concat();
    let mut listener = Listener::new(ListenerSettings { next_number: 7, ..ListenerSettings::default() });
    // In the second utterance the partials have words, and the final has none.
    let (spoken, _) = play(&mut listener, &pcm, 1_600, |decode| {
        let covered = decode.kind() == DecodeKind::Partial && decode.pcm.len() < 25_000;
        Ok(hypothesis(if covered { "so it goes" } else { "" }))
    });
    assert!(spoken.iter().all(|spoken| matches!(spoken, Spoken::Partial { number: 7, .. })), "{spoken:?}");
    let cleared =
        spoken.iter().filter(|spoken| matches!(spoken, Spoken::Partial { text, .. } if text.is_empty()));
    assert!(cleared.count() >= 3);
    assert_eq!(listener.settled(), Samples::of(pcm.len()));

    let mut listener = Listener::new(ListenerSettings::default());
    let (spoken, _) = play(&mut listener, &pcm, 1_600, |_| Ok(Hypothesis::default()));
    assert!(spoken.iter().all(|spoken| matches!(spoken, Spoken::Nothing { .. })) && spoken.len() == 3);
}

#[test]
fn speech_without_a_pause_is_cut_with_nothing_lost_or_doubled() {
    // The voiced middle of a recording, again and again, without a pause.
    let middle = recording("jfk.wav")[8_000..20_000].to_vec();
    let pcm: Vec<i16> = middle.iter().copied().cycle().take(40 * 16_000).collect();
    for chunk in [320, 16_000, pcm.len()] {
        let mut listener =
            Listener::new(ListenerSettings { partial_interval: None, ..ListenerSettings::default() });
        let mut decoded = 0;
        let (spoken, decodes) = play(&mut listener, &pcm, chunk, |decode| {
            assert!(decode.pcm.len() <= speech::UTTERANCE_SAMPLES_MAX);
            decoded += decode.pcm.len();
            counting(decode)
        });
        assert!(decodes.len() >= 4, "{decodes:?}");
        assert!(decoded <= pcm.len() && decoded + 32_000 >= pcm.len(), "{decoded} of {}", pcm.len());
        let mut border = Samples(0);
        for (index, final_) in spoken.iter().enumerate() {
            let Spoken::Final { number, start, end, .. } = final_ else { panic!("{final_:?}") };
            assert_eq!(*number as usize, index + 1);
            assert!(*start >= border);
            border = *end;
        }
    }
}

#[test]
fn the_same_sound_gives_the_same_finals_in_any_chunks() {
    let pcm = recording("two_cities.wav");
    let finals = |chunk: usize| {
        let mut listener = Listener::new(ListenerSettings::default());
        let (spoken, _) = play(&mut listener, &pcm, chunk, counting);
        spoken
            .into_iter()
            .filter(|spoken| matches!(spoken, Spoken::Final { .. }))
            .map(|spoken| match spoken {
                Spoken::Final { number, text, start, end, .. } => (number, text, start, end),
                other => panic!("{other:?}"),
            })
            .collect::<Vec<_>>()
    };
    let paced = finals(1_600);
    assert!(paced.len() > 5);
    assert_eq!(paced, finals(333));
    assert_eq!(paced, finals(pcm.len()));
}

#[test]
fn a_burst_yields_finals_first_and_partials_only_of_the_newest() {
    let pcm = recording("two_cities.wav")[..20 * 16_000].to_vec();
    let mut listener = Listener::new(ListenerSettings::default());
    listener.hear(&pcm);
    let now = Instant::now();
    let mut kinds = Vec::new();
    while let Some(decode) = listener.next(now) {
        assert!(listener.next(now).is_none(), "one decode at a time");
        kinds.push(decode.kind());
        listener.decoded(decode.ticket, counting(&decode), now);
    }
    let finals = kinds.iter().take_while(|kind| **kind == DecodeKind::Final).count();
    assert!(finals >= 2);
    assert!(kinds.len() - finals <= 1, "{kinds:?}");
}

#[test]
fn settled_moves_only_past_what_was_delivered() {
    let pcm = [silence(2.0), recording("LJ001-0008.wav"), silence(1.0)].concat();
    let mut listener =
        Listener::new(ListenerSettings { first: Samples(1_000), ..ListenerSettings::default() });
    listener.hear(&pcm[..16_000]);
    let quiet = listener.settled();
    assert!(quiet > Samples(1_000) && quiet <= Samples(17_000));
    listener.hear(&pcm[16_000..]);
    let before = listener.settled();
    assert!(before < Samples(1_000 + 2 * 16_000) && before > quiet);
    let now = Instant::now();
    let decode = listener.next(now).unwrap();
    assert_eq!((decode.kind(), listener.settled(), listener.idle()), (DecodeKind::Final, before, false));
    listener.decoded(decode.ticket, counting(&decode), now).unwrap();
    assert!(listener.idle() && listener.settled() > before);
}

#[test]
fn finalize_ends_the_utterance_here() {
    let mut listener = Listener::new(ListenerSettings::default());
    listener.hear(&recording("LJ001-0001.wav")[..32_000]);
    assert!(!listener.idle());
    listener.finalize();
    let now = Instant::now();
    let decode = listener.next(now).unwrap();
    assert_eq!(decode.kind(), DecodeKind::Final);
    assert!(matches!(
        listener.decoded(decode.ticket, counting(&decode), now),
        Some(Spoken::Final { number: 1, .. })
    ));
    assert!(listener.idle());
    listener.finalize();
    assert!(listener.next(now).is_none());
}

#[test]
fn a_final_is_tried_again_and_then_reported_lost() {
    let pcm = [recording("LJ001-0008.wav"), silence(1.0)].concat();
    let settings = ListenerSettings { partial_interval: None, ..ListenerSettings::default() };
    let mut failures = 2;
    let (spoken, decodes) = play(&mut Listener::new(settings.clone()), &pcm, pcm.len(), |decode| {
        failures -= 1;
        if failures >= 0 { Err(SpeechError::Panicked) } else { counting(decode) }
    });
    assert!(matches!(spoken.as_slice(), [Spoken::Final { .. }]) && decodes.len() == 3);
    let mut listener = Listener::new(settings);
    let (spoken, _) = play(&mut listener, &pcm, pcm.len(), |_| Err(SpeechError::Panicked));
    assert!(matches!(spoken.as_slice(), [Spoken::Lost { error: SpeechError::Panicked, .. }]), "{spoken:?}");
    assert!(listener.idle());
}

#[test]
fn late_answers_change_nothing() {
    let pcm = recording("LJ001-0001.wav");
    let mut listener = Listener::new(ListenerSettings::default());
    listener.hear(&pcm[..16_000]);
    let now = Instant::now();
    let partial = listener.next(now).unwrap();
    listener.hear(&pcm[16_000..24_000]);
    listener.finalize();
    let last = listener.next(now).unwrap();
    assert_eq!((partial.kind(), last.kind()), (DecodeKind::Partial, DecodeKind::Final));
    assert!(listener.decoded(partial.ticket, Ok(hypothesis("too late")), now).is_none());
    assert!(listener.decoded(last.ticket, Ok(hypothesis("in time")), now).is_some());
}

#[test]
fn slow_answers_stretch_the_partials() {
    let pcm = recording("LJ001-0001.wav");
    let count = |delay: Duration| {
        let mut listener = Listener::new(ListenerSettings::default());
        let mut now = Instant::now();
        let mut partials = 0;
        for chunk in pcm.chunks(1_600) {
            listener.hear(chunk);
            if let Some(decode) = listener.next(now) {
                partials += 1;
                now += delay;
                listener.decoded(decode.ticket, counting(&decode), now);
            }
        }
        partials
    };
    assert!(count(Duration::from_millis(1_500)) * 2 < count(Duration::ZERO));
}

/// An answer that was found to be in a language, so surely.
fn found(text: &str, language: &str, probability: f32) -> Hypothesis {
    let detected = Some(Detected { language: language.to_owned(), probability });
    Hypothesis { detected, ..hypothesis(text) }
}

fn languages(spoken: &[Spoken]) -> Vec<Option<&str>> {
    let finals = spoken.iter().filter_map(|spoken| match spoken {
        Spoken::Final { language, .. } => Some(language.as_deref()),
        _ => None,
    });
    finals.collect()
}

#[test]
fn a_language_is_found_out_once() {
    let said = [recording("LJ001-0008.wav"), silence(1.0)].concat();
    let pcm = [said.clone(), said.clone(), said].concat();
    let finals = ListenerSettings { partial_interval: None, ..ListenerSettings::default() };

    // Sure at once: the recognizer is not asked again.
    let mut listener = Listener::new(finals.clone());
    let mut asked = Vec::new();
    let (spoken, _) = play(&mut listener, &pcm, 1_600, |decode| {
        asked.push(decode.wanted.language.clone());
        Ok(if decode.wanted.language.is_none() {
            found("so geht es", "de", 0.9)
        } else {
            hypothesis("so geht es")
        })
    });
    assert_eq!(asked, [None, Some("de".to_owned()), Some("de".to_owned())]);
    assert_eq!(languages(&spoken), [Some("de"); 3]);
    assert_eq!(listener.detected().map(|found| found.probability), Some(0.9));

    // Unsure: the same guess twice in a row settles it.
    let mut listener = Listener::new(finals.clone());
    let guesses = ["nl", "de", "de"];
    let mut turn = 0;
    let (spoken, _) = play(&mut listener, &pcm, 1_600, |_| {
        turn += 1;
        Ok(found("so geht es", guesses[turn - 1], 0.3))
    });
    assert_eq!(languages(&spoken), [Some("nl"), Some("de"), Some("de")]);
    assert_eq!(listener.language(), Some("de"));

    // What is no speech has no language.
    let mut listener = Listener::new(finals);
    play(&mut listener, &pcm, 1_600, |_| Ok(found("", "de", 0.99)));
    assert_eq!(listener.language(), None);
}

#[test]
fn what_was_said_before_another_language_stays_in_the_one_before() {
    let said = [recording("LJ001-0008.wav"), silence(1.0)].concat();
    let finals = ListenerSettings {
        partial_interval: None,
        language: Some("en".to_owned()),
        ..ListenerSettings::default()
    };
    let mut listener = Listener::new(finals);
    listener.hear(&said);
    listener.hear(&said[..said.len() / 3]);
    listener.speak(Some("ru".to_owned()));
    let (mut spoken, mut asked) = (Vec::new(), Vec::new());
    for part in [&said[..], &[]] {
        listener.hear(part);
        settle(
            &mut listener,
            Instant::now(),
            &mut |decode| {
                asked.push(decode.wanted.language.clone());
                Ok(hypothesis("so it goes"))
            },
            &mut spoken,
            &mut Vec::new(),
        );
    }
    assert_eq!(asked, ["en", "en", "ru"].map(|language| Some(language.to_owned())));
    assert_eq!(languages(&spoken), [Some("en"), Some("en"), Some("ru")]);
}

#[test]
fn a_second_pass_hears_every_final_anew() {
    let pcm = [recording("LJ001-0004.wav"), silence(1.0), recording("LJ001-0008.wav"), silence(1.0)].concat();
    let mut listener = Listener::new(ListenerSettings { second_pass: true, ..ListenerSettings::default() });
    let (spoken, _) = play(&mut listener, &pcm, 1_600, |decode| {
        assert!(decode.known().is_none());
        Ok(hypothesis(if decode.kind() == DecodeKind::Final {
            "so it goes"
        } else {
            "so it goes in the first pass"
        }))
    });
    let finals = spoken.iter().filter_map(|spoken| match spoken {
        Spoken::Final { text, .. } => Some(text.as_str()),
        _ => None,
    });
    assert_eq!(finals.collect::<Vec<_>>(), ["so it goes"; 2]);
    assert!(spoken.len() > 4, "there were partials");
}

#[test]
fn a_slow_recognizer_hears_the_beginning_of_an_utterance_for_its_language_alone() {
    let pcm = [recording("LJ001-0001.wav"), silence(1.0)].concat();
    let interval = Duration::from_secs(3);
    let mut listener =
        Listener::new(ListenerSettings { partial_interval: Some(interval), ..ListenerSettings::default() });
    let (_, decodes) = play(&mut listener, &pcm, 1_600, counting);
    let first = decodes.first().unwrap();
    assert!(first.0 == DecodeKind::Partial && first.1 >= 48_000, "{decodes:?}");
    assert!(decodes.len() <= 1 + pcm.len() / 48_000, "{decodes:?}");
}

#[test]
fn recordings_come_after_whoever_speaks_now() {
    let pcm = [recording("LJ001-0008.wav"), silence(1.0)].concat();
    let recording =
        ListenerSettings { partial_interval: None, recording: true, ..ListenerSettings::default() };
    let (spoken, decodes) = play(&mut Listener::new(recording), &pcm, 1_600, counting);
    assert_eq!((spoken.len(), decodes.len()), (1, 1));
    assert_eq!(decodes[0].0, DecodeKind::Recording);
    assert!(DecodeKind::Final < DecodeKind::Partial && DecodeKind::Partial < DecodeKind::Recording);
}

#[test]
fn a_recognizer_that_tells_where_words_lie_is_believed() {
    let pcm = [silence(0.5), recording("LJ001-0008.wav"), silence(1.0)].concat();
    let finals = ListenerSettings { partial_interval: None, ..ListenerSettings::default() };
    let mut listener = Listener::new(finals);
    let (spoken, _) = play(&mut listener, &pcm, 1_600, |decode| {
        // The last ends outside of what it heard, as no recognizer should say.
        let spans = vec![(1_600, 4_800), (4_800, 9_600), (9_000, decode.pcm.len() + 16_000)];
        Ok(Hypothesis { spans, ..hypothesis("so it goes") })
    });
    let [Spoken::Final { words, end, .. }] = &spoken[..] else { panic!("{spoken:?}") };
    let heard_from = words[0].end - Samples(4_800);
    for (word, (start, end)) in words.iter().zip([(1_600, 4_800), (4_800, 9_600)]) {
        assert_eq!(word.end, heard_from + Samples(end));
        // Without the pause before it.
        assert!(word.start >= heard_from + Samples(start) && word.start <= word.end, "{word:?}");
    }
    assert!(words[2].start >= words[1].end, "words do not overlap");
    assert!(words[2].end <= *end + Samples(16_000));
}
