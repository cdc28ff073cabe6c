//! Whisper in the whole system, with the real model: `make test-whisper`.
//!
//! The recordings are those of this repository, which are English, and those of the folder that PARLEY_SPEECH_DIR names: WAV
//! files and `references.tsv` with a header and the columns path, language and text. PARLEY_SOAK_MINUTES=10 makes the
//! silence ten minutes long instead of one.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test stops at the first surprise"
)]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use e2e::{Plan, Room, SERVICE_KEY, Stack, run, sound, text};
use model::{Final, Samples};
use serde_json::{Value, json};
use speech::{Recognizer as _, Task, Wanted, Whisper, find_whisper};
use testkit::{eventually, form, free_port, recordings, soak_minutes, wer::WordErrors};

/// How much earlier the last word may seem to end on another road.
const ENDS_EARLIER: Samples = Samples::from_millis(1_000);

/// How many words of all in a hundred a road may hear otherwise than the model alone: a listener cuts what it hears into
/// utterances, and an encoder loses a little.
const OTHERWISE_MAX: f64 = 0.12;

/// Those for whom silence is tried.
const TRIED: [&str; 6] = ["ru", "ar", "es", "fr", "de", "en"];

/// Something that somebody says.
struct Clip {
    name: String,
    path: PathBuf,
    language: String,
    text: String,
}

impl Clip {
    async fn samples(&self) -> Vec<i16> {
        let pcm = sound::converted(&self.path, &["-ar", "16000", "-ac", "1", "-f", "s16le"]).await;
        pcm.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
    }
}

/// One recording of each kind here, and all those of other languages that there are.
fn clips() -> Vec<Clip> {
    let here = recordings().into_iter().filter(|recording| recording.name == "jfk");
    let mut clips: Vec<Clip> = here
        .map(|it| Clip { name: it.name, path: it.path, language: "en".to_owned(), text: it.text })
        .collect();
    #[expect(
        clippy::disallowed_methods,
        reason = "tests are told by the environment alone where recordings are"
    )]
    let others = std::env::var_os("PARLEY_SPEECH_DIR").filter(|dir| !dir.is_empty());
    let Some(dir) = others else {
        eprintln!("PARLEY_SPEECH_DIR is not set: languages other than English were not tried");
        return clips;
    };
    let list = Path::new(&dir).join("references.tsv");
    let references =
        std::fs::read_to_string(&list).unwrap_or_else(|error| panic!("{}: {error}", list.display()));
    for line in references.lines().skip(1) {
        let [path, language, text] = line.splitn(4, '\t').take(3).collect::<Vec<_>>()[..] else { continue };
        if language != "en" {
            let path = Path::new(&dir).join(path);
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            clips.push(Clip { name, path, language: language.to_owned(), text: text.to_owned() });
        }
    }
    clips
}

/// The model by itself.
fn model() -> Whisper {
    #[expect(
        clippy::disallowed_methods,
        reason = "tests are told by the environment alone where the model is"
    )]
    let setting = std::env::var_os("WHISPER_MODEL_DIR").map(PathBuf::from);
    let dir = find_whisper(setting.as_deref(), Path::new(env!("CARGO_MANIFEST_DIR")));
    Whisper::load(&dir.expect("a model: `make model-whisper` fetches one"), 2).expect("a model that loads")
}

/// Everything is heard by Whisper, English too.
async fn stack() -> (Stack, String) {
    let port = free_port();
    let settings = [
        ("TRANSLATE_PORT", port.to_string()),
        ("FASTER_WHISPER_REQUIRE_AUTH", "false".to_owned()),
        ("LANGUAGE_ENGINES", "*=whisper".to_owned()),
        ("RTMP_OPEN_KEYS", "true".to_owned()),
        ("WHISPER_THREADS", "1".to_owned()),
    ];
    let stack = Stack::with(Plan { settings: settings.into(), alone: true, ..Plan::default() }).await;
    (stack, format!("http://127.0.0.1:{port}"))
}

async fn by_websocket(stack: &Stack, samples: &[i16], language: &str) -> Vec<Final> {
    let room = stack.room();
    let mut alice = room.join("alice").await;
    alice.init(json!({"encoding": "pcm_s16le", "language": language})).await;
    alice.pour(&sound::pcm(samples), 3_200).await;
    assert_eq!(alice.stop().await, samples.len() as u64);
    room.finals().await
}

/// All that is heard; `others` is what was heard on another road.
async fn by_rtmp(stack: &Stack, clip: &Clip, others: &[Final]) -> Vec<Final> {
    let room: Room = stack.room();
    let path = clip.path.display().to_string();
    let url = stack.rtmp(&format!("{}?language={}", room.slug, clip.language));
    // An encoder does not stop with the last word.
    let sound = ["-af", "apad=pad_dur=1", "-c:a", "aac", "-b:a", "128k", "-ar", "48000", "-f", "flv"];
    let before = ["-nostdin", "-v", "error", "-i", &path];
    run("ffmpeg", before.into_iter().chain(sound).chain([url.as_str()])).await;
    let end = others.last().unwrap_or_else(|| panic!("{}: nothing is heard", clip.name)).end;
    let stored = async || room.finals().await.last().is_some_and(|last| last.end + ENDS_EARLIER >= end);
    eventually("the last words are stored", stored).await;
    room.finals().await
}

async fn by_upload(door: &str, path: &str, samples: &[i16], language: Option<&str>) -> Value {
    let wav = sound::wav(samples);
    let mut parts: Vec<(&str, Option<&str>, &[u8])> = vec![("file", Some("audio/wav"), &wav)];
    parts.extend(language.map(|language| ("language", None, language.as_bytes())));
    let (content_type, body) = form(&parts);
    let request = reqwest::Client::new().post(format!("{door}{path}"));
    let answer =
        request.bearer_auth(SERVICE_KEY).header("content-type", content_type).body(body).send().await;
    let answer: Value = answer.expect("an answer").json().await.expect("JSON");
    assert_eq!(answer["success"], true, "{answer}");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn every_road_hears_what_the_model_hears() {
    let (stack, door) = stack().await;
    let mut model = model();
    // Of each road, against the model alone and against what was said.
    let mut sums: BTreeMap<&str, (WordErrors, WordErrors)> = BTreeMap::new();
    for clip in clips() {
        let samples = clip.samples().await;
        let floats: Vec<f32> = samples.iter().map(|&sample| f32::from(sample) / 32_768.0).collect();
        let wanted = Wanted { language: Some(clip.language.clone()), task: Task::Transcribe };
        let alone = model.recognize(&floats, &wanted).expect("a recording that can be heard").text();

        let detected = by_websocket(&stack, &samples, "auto").await;
        let uploaded = by_upload(&door, "/transcribe", &samples, Some(&clip.language)).await;
        let found = by_upload(&door, "/detect-language", &samples, None).await;
        for (road, heard) in [
            ("the model alone", alone.clone()),
            ("WebSocket", text(&by_websocket(&stack, &samples, &clip.language).await)),
            ("WebSocket, auto", text(&detected)),
            ("RTMP", text(&by_rtmp(&stack, &clip, &detected).await)),
            ("/transcribe", uploaded["text"].as_str().unwrap().to_owned()),
        ] {
            let sum = sums.entry(road).or_default();
            let (otherwise, wrong) =
                (WordErrors::between(&alone, &heard), WordErrors::between(&clip.text, &heard));
            eprintln!(
                "{} ({}), {road}: {:.0} % otherwise, {:.0} % wrong, of {} words",
                clip.name,
                clip.language,
                100.0 * otherwise.rate(),
                100.0 * wrong.rate(),
                wrong.words
            );
            *sum = (sum.0 + otherwise, sum.1 + wrong);
        }
        assert!(
            detected.iter().all(|segment| segment.language.as_deref() == Some(&clip.language)),
            "{}: {detected:?}",
            clip.name
        );
        assert_eq!(found["language"], clip.language, "{}: {found}", clip.name);
    }
    for (road, (otherwise, wrong)) in sums {
        eprintln!(
            "{road}: {:.1} % otherwise, {:.1} % wrong, of {} words",
            100.0 * otherwise.rate(),
            100.0 * wrong.rate(),
            wrong.words
        );
        assert!(otherwise.rate() <= OTHERWISE_MAX, "{road}: {otherwise:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_in_other_languages_comes_in_english() {
    let (_stack, door) = stack().await;
    let clips: Vec<Clip> = clips().into_iter().filter(|clip| clip.language != "en").collect();
    let mut translated = 0;
    for clip in &clips {
        let wav = sound::wav(&clip.samples().await);
        let parts: [(&str, Option<&str>, &[u8]); 3] = [
            ("audio", Some("audio/wav"), &wav),
            ("sourceLanguage", None, clip.language.as_bytes()),
            ("targetLanguage", None, b"en"),
        ];
        let (content_type, body) = form(&parts);
        let request = reqwest::Client::new().post(format!("{door}/api/translate"));
        let answer = request.header("content-type", content_type).body(body).send().await.expect("an answer");
        let answer: Value = answer.json().await.expect("JSON");
        let (text, translation) = (answer["text"].as_str().unwrap(), answer["translation"].as_str());
        let translation = translation.unwrap_or_else(|| panic!("{}: {answer}", clip.name));
        assert!(translation != text, "{}: {answer}", clip.name);
        assert!(translation.is_ascii() || clip.language != "ru", "{}: {translation}", clip.name);
        translated += usize::from(!translation.is_empty());
    }
    // Of a voice that the model hardly understands it writes nothing.
    assert!(4 * translated >= 3 * clips.len(), "{translated} of {}", clips.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_says_nothing_in_any_language() {
    let (stack, door) = stack().await;
    let seconds = soak_minutes().unwrap_or(1) * 60;
    for language in TRIED {
        for (name, samples) in [("silence", sound::silence(seconds)), ("noise", sound::noise(seconds))] {
            let finals = by_websocket(&stack, &samples, language).await;
            assert!(finals.is_empty(), "{language}, {name}: {}", text(&finals));
            let heard = by_upload(&door, "/transcribe", &samples, Some(language)).await;
            assert_eq!(heard["text"], "", "{language}, {name}");
        }
    }
}
