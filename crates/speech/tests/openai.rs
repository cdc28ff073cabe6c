//! The recognizer of OpenAI's kind against a stand-in over real sockets.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a fault here fails the test that met it")]

use model::FaultKind;
use speech::{
    Hypothesis, OpenAi, OpenAiSettings, Recognizer, SpeechError, Task, UTTERANCE_SAMPLES_MAX, Wanted,
};
use testkit::{Hearing, TranscriptionServer};
use tokio::runtime::Handle;

const SAID: &str = "Бедняга, ребят: на его месте должен был быть я.";

async fn server() -> TranscriptionServer {
    TranscriptionServer::start(|_| SAID.to_owned()).await
}

fn recognizer(server: &TranscriptionServer, settings: &[(&str, &str)]) -> OpenAi {
    let url = server.url();
    let all = [("OPENAI_API_URL", url.as_str()), ("OPENAI_API_KEY", TranscriptionServer::KEY)];
    let mut reader = settings::of(all.into_iter().chain(settings.iter().copied()));
    let read = OpenAiSettings::read(&mut reader).unwrap();
    assert!(reader.finish(|| Some(())).is_ok());
    OpenAi::new(read, Handle::current()).unwrap()
}

/// Two seconds, asked about on a thread as engines have it.
async fn hear(openai: &OpenAi, wanted: Wanted) -> Result<Hypothesis, SpeechError> {
    let mut openai = openai.clone();
    let pcm: Vec<f32> = (0..32_000).map(|at| (at as f32 / 20.0).sin() * 0.1).collect();
    tokio::task::spawn_blocking(move || openai.recognize(&pcm, &wanted)).await.unwrap()
}

fn russian(task: Task) -> Wanted {
    Wanted { language: Some("ru".to_owned()), task }
}

fn remote(result: Result<Hypothesis, SpeechError>) -> (&'static str, FaultKind) {
    match result {
        Err(SpeechError::Remote { what, fault }) => (what, fault),
        other => panic!("expected a failure: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_utterance_is_heard() {
    let server = server().await;
    let openai = recognizer(&server, &[("OPENAI_MODEL", "whisper-large")]);
    let heard = hear(&openai, russian(Task::Transcribe)).await.unwrap();
    assert_eq!(heard.text(), SAID);
    assert_eq!((heard.spans.len(), heard.detected), (heard.words.len(), None));
    assert!(heard.spans.is_sorted() && heard.spans.iter().all(|(_, to)| *to <= 32_000));
    let asked = server.asked().remove(0);
    assert_eq!((asked.path.as_str(), asked.file.len()), ("/v1/audio/transcriptions", 44 + 64_000));
    assert_eq!((asked.field("model"), asked.field("language")), (Some("whisper-large"), Some("ru")));

    let found = hear(&openai, Wanted::default()).await.unwrap().detected.unwrap();
    assert_eq!(found.language, "ru");
    let translated = hear(&openai, russian(Task::Translate)).await.unwrap();
    assert_eq!((translated.text().as_str(), translated.spans.len()), (SAID, 0));
    let asked = server.asked();
    assert!(asked.iter().skip(1).all(|asked| asked.field("language").is_none()));
    assert_eq!(asked.last().unwrap().path, "/v1/audio/translations");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_tells_no_times_is_asked_for_the_text() {
    let server = server().await;
    let openai = recognizer(&server, &[("OPENAI_MODEL", "gpt-4o-transcribe")]);
    let heard = hear(&openai, russian(Task::Transcribe)).await.unwrap();
    assert_eq!((heard.text().as_str(), heard.spans.len()), (SAID, 0));
    let asked = server.asked().remove(0);
    assert_eq!(
        (asked.field("response_format"), asked.field("timestamp_granularities[]")),
        (Some("json"), None)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_is_tried_again() {
    let server = server().await;
    let openai = recognizer(&server, &[]);
    server.fail([Hearing::Failing(429, "rate_limit_exceeded", Some(0)), Hearing::Dropped]);
    assert_eq!(hear(&openai, russian(Task::Transcribe)).await.unwrap().text(), SAID);
    assert_eq!(server.asked().len(), 3);
    server.fail([500, 503, 502].map(|status| Hearing::Failing(status, "server_error", None)));
    let (what, fault) = remote(hear(&openai, russian(Task::Transcribe)).await);
    assert_eq!((what, fault, server.asked().len()), ("the recognizer has a fault", FaultKind::Dependency, 6));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_will_not_pass_is_not() {
    let server = server().await;
    let openai = recognizer(&server, &[]);
    let cases = [
        (Hearing::Garbage, "the recognizer's answer is no transcription", FaultKind::Dependency),
        (Hearing::Long(2 << 20), "the recognizer's answer is too long", FaultKind::Dependency),
        (
            Hearing::Failing(429, "insufficient_quota", None),
            "the recognizer's quota is used up",
            FaultKind::Overloaded,
        ),
        (
            Hearing::Failing(429, "rate_limit_exceeded", Some(60)),
            "the recognizer is asked too often",
            FaultKind::Overloaded,
        ),
        (
            Hearing::Failing(400, "invalid_value", None),
            "the recognizer refuses the recording",
            FaultKind::Defect,
        ),
        (
            Hearing::Failing(404, "model_not_found", None),
            "the recognizer knows no such model or path",
            FaultKind::Dependency,
        ),
    ];
    for (index, (fault, what, kind)) in cases.into_iter().enumerate() {
        server.fail([fault]);
        assert_eq!(remote(hear(&openai, russian(Task::Transcribe)).await), (what, kind));
        assert_eq!(server.asked().len(), index + 1, "{what}");
    }
    let stranger = recognizer(&server, &[("OPENAI_API_KEY", "another-key")]);
    let (what, fault) = remote(hear(&stranger, russian(Task::Transcribe)).await);
    assert_eq!((what, fault), ("the recognizer refuses the API key", FaultKind::Dependency));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_answer_in_time_is_asked_again() {
    let server = server().await;
    let openai = recognizer(&server, &[("OPENAI_TIMEOUT_SECONDS", "1"), ("OPENAI_RETRIES", "1")]);
    server.fail([Hearing::Never, Hearing::Never]);
    let (what, fault) = remote(hear(&openai, russian(Task::Transcribe)).await);
    assert_eq!((what, fault), ("the recognizer did not answer in time", FaultKind::Dependency));
    assert_eq!(server.asked().len(), 2);
    server.fail([Hearing::Never]);
    assert_eq!(hear(&openai, russian(Task::Transcribe)).await.unwrap().text(), SAID);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_long_does_not_go_there() {
    let server = server().await;
    let mut openai = recognizer(&server, &[]);
    let pcm = vec![0.0; UTTERANCE_SAMPLES_MAX + 1];
    let refused =
        tokio::task::spawn_blocking(move || openai.recognize(&pcm, &Wanted::default())).await.unwrap();
    assert_eq!(refused, Err(SpeechError::TooLong(UTTERANCE_SAMPLES_MAX + 1)));
    assert!(server.asked().is_empty());

    let nobody = recognizer(&server, &[("OPENAI_RETRIES", "0")]);
    drop(server);
    let (what, fault) = remote(hear(&nobody, russian(Task::Transcribe)).await);
    assert_eq!((what, fault), ("the recognizer cannot be reached", FaultKind::Dependency));
}
