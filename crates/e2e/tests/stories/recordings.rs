//! Recordings and texts over HTTP, by the protocols of OpenAI and of both of system D's services.

use base64ct::{Base64, Encoding as _};
use e2e::{SERVICE_KEY, Script, Stack, sound};
use reqwest::Client;
use serde_json::{Value, json};
use testkit::{form, free_port, recording, wer::WordErrors};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

/// What system D's clients show.
const TOKEN: &str = "a token of system D";

/// A stack with system D's door, and the address of that.
async fn with_door(settings: &[(&'static str, &str)]) -> (Stack, String) {
    let port = free_port();
    let usual = [
        ("TRANSLATE_PORT", port.to_string()),
        ("FASTER_WHISPER_API_TOKEN", TOKEN.to_owned()),
        ("ENGINE_THREADS", "2".to_owned()),
    ];
    let usual = usual.iter().map(|(name, value)| (*name, value.as_str()));
    let stack = Stack::set(&usual.chain(settings.iter().copied()).collect::<Vec<_>>()).await;
    (stack, format!("http://127.0.0.1:{port}"))
}

/// Sends a form with a token; the status and the JSON.
async fn send(url: &str, token: &str, parts: &[(&str, Option<&str>, &[u8])]) -> (u16, Value) {
    let (content_type, body) = form(parts);
    let request = Client::new().post(url).bearer_auth(token).header("content-type", content_type).body(body);
    let answer = request.send().await.expect("an answer");
    (answer.status().as_u16(), answer.json().await.expect("JSON"))
}

fn is_said(what: &str, reference: &str, heard: &Value) {
    let heard = heard.as_str().unwrap_or_else(|| panic!("{what}: {heard}"));
    let errors = WordErrors::between(reference, heard);
    assert!(errors.rate() <= 0.1, "{what}: {errors:?}: {heard}");
}

#[tokio::test]
async fn the_words_are_the_same_in_every_file() {
    let (stack, door) = with_door(&[]).await;
    let recording = recording("jfk");
    for (arguments, media_type) in [
        ("-f wav -ar 44100 -ac 2", "audio/wav"),
        ("-c:a flac -f flac", "audio/flac"),
        ("-c:a libmp3lame -b:a 64k -f mp3", "audio/mpeg"),
        ("-c:a libopus -b:a 32k -f ogg", "application/octet-stream"),
        ("-c:a libopus -b:a 32k -f webm -live 1 -cluster_time_limit 500", "audio/webm;codecs=opus"),
    ] {
        let bytes = sound::converted(&recording.path, &arguments.split(' ').collect::<Vec<_>>()).await;
        let file: [(&str, Option<&str>, &[u8]); 1] = [("file", Some(media_type), &bytes)];
        let (status, heard) = send(&format!("{door}/transcribe"), TOKEN, &file).await;
        assert_eq!(status, 200, "{arguments}: {heard}");
        is_said(arguments, &recording.text, &heard["text"]);
        // The file comes first, as curl sends it when it is asked to.
        let (status, heard) = send(
            &stack.http("/v1/audio/transcriptions"),
            SERVICE_KEY,
            &[file[0], ("model", None, b"whisper-1"), ("language", None, b"English")],
        )
        .await;
        assert_eq!(status, 200, "{arguments}: {heard}");
        is_said(arguments, &recording.text, &heard["text"]);
        // Eleven, and what MP3 puts before and behind.
        let used = &heard["usage"];
        assert!(
            used["type"] == "duration" && [11, 12].map(Some).contains(&used["seconds"].as_u64()),
            "{used}"
        );
    }
}

#[tokio::test]
async fn openais_own_client_needs_only_another_address() {
    let stack = Stack::set(&[("ENGINE_THREADS", "2")]).await;
    let recording = recording("jfk");
    let asked = json!({"base_url": stack.http("/v1"), "key": SERVICE_KEY, "file": recording.path});
    let told = Script::python("openai_client.py", &asked).end().await;
    let of =
        |did: &str| told.iter().find(|line| line["did"] == did).unwrap_or_else(|| panic!("{did}: {told:#?}"));
    let result = |did: &str| &of(did)["result"];
    is_said("json", &recording.text, &result("json")["text"]);
    is_said("text", &recording.text, result("text"));
    let srt = result("srt").as_str().unwrap();
    assert!(srt.starts_with("1\n00:00:0") && srt.contains(" --> "), "{srt}");
    let lines = |text: &str| {
        let is_said = |line: &&str| !line.is_empty() && !line.contains("-->") && line.parse::<u32>().is_err();
        text.lines().filter(is_said).collect::<Vec<_>>().join(" ")
    };
    is_said("srt", &recording.text, &lines(srt).into());
    let vtt = result("vtt").as_str().unwrap().strip_prefix("WEBVTT\n\n").expect("a WebVTT file");
    is_said("vtt", &recording.text, &lines(vtt).into());

    let verbose = result("verbose_json");
    assert_eq!((&verbose["task"], &verbose["language"]), (&json!("transcribe"), &json!("english")));
    assert!((verbose["duration"].as_f64().unwrap() - 11.0).abs() < 0.1, "{verbose}");
    let segments = verbose["segments"].as_array().unwrap();
    let joined: Vec<&str> = segments.iter().map(|segment| segment["text"].as_str().unwrap()).collect();
    assert_eq!(joined.join(" "), verbose["text"].as_str().unwrap());
    assert!(segments.iter().all(|segment| segment["end"].as_f64() > segment["start"].as_f64()), "{verbose}");
    assert!(verbose.get("words").is_none_or(Value::is_null), "nobody has asked for them: {verbose}");
    let words = result("words")["words"].as_array().unwrap();
    let joined: Vec<&str> = words.iter().map(|word| word["word"].as_str().unwrap()).collect();
    is_said("words", &recording.text, &joined.join(" ").into());
    assert!(words.is_sorted_by(|a, b| a["start"].as_f64() <= b["start"].as_f64()), "{words:?}");

    let events: Vec<&Value> =
        told.iter().filter(|line| line["did"] == "stream").map(|line| &line["event"]).collect();
    let (done, deltas) = events.split_last().unwrap();
    assert_eq!(done["type"], "transcript.text.done");
    is_said("stream", &recording.text, &done["text"]);
    let joined: String = deltas
        .iter()
        .inspect(|delta| assert_eq!(delta["type"], "transcript.text.delta"))
        .map(|delta| delta["delta"].as_str().unwrap())
        .collect();
    assert_eq!(joined, done["text"].as_str().unwrap());

    assert!(result("models")["data"].as_array().unwrap().iter().any(|model| model["id"] == "whisper-1"));
    assert_eq!(result("model")["id"], "whisper-1");
    for (did, status, raised, param) in [
        ("text as sound", 400, "BadRequestError", json!("file")),
        ("format", 400, "BadRequestError", json!("response_format")),
        ("language", 400, "BadRequestError", json!("language")),
        // No engine here translates, and none knows that language.
        ("translation", 400, "BadRequestError", Value::Null),
        ("unserved", 400, "BadRequestError", Value::Null),
        ("stranger", 401, "AuthenticationError", Value::Null),
    ] {
        let line = of(did);
        assert_eq!(
            (&line["status"], &line["raised"], &line["param"]),
            (&json!(status), &json!(raised), &param),
            "{line}"
        );
        assert!(line["body"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{line}");
    }
}

#[tokio::test]
async fn system_ds_own_test_passes() {
    let (_stack, door) = with_door(&[("FASTER_WHISPER_REQUIRE_AUTH", "false")]).await;
    let recording = recording("jfk");
    let asked = json!({"url": door, "file": recording.path});
    let told = Script::python("system_d.py", &asked).end().await;
    let statuses: Vec<(&str, u64)> =
        told.iter().map(|line| (line["did"].as_str().unwrap(), line["status"].as_u64().unwrap())).collect();
    assert_eq!(
        statuses,
        [
            ("/", 200),
            ("/health", 200),
            ("/docs", 200),
            ("/transcribe", 200),
            ("/detect-language", 200),
            ("/transcribe", 422)
        ]
    );
    assert_eq!(told[0]["body"], json!({"message": "Faster Whisper Service is running"}));
    let health = &told[1]["body"];
    assert_eq!((&health["status"], &health["model_loaded"]), (&json!("healthy"), &json!(true)));
    assert_eq!((&health["auth_required"], &health["service"]), (&json!(false), &json!("faster-whisper")));
    let heard = &told[3]["body"];
    is_said("/transcribe", &recording.text, &heard["text"]);
    assert_eq!(
        (&heard["success"], &heard["language"], &heard["language_probability"]),
        (&json!(true), &json!("en"), &json!(1.0))
    );
    assert_eq!((&heard["vad_enabled"], &heard["vad_threshold"]), (&json!(true), &json!(0.5)));
    assert_eq!((&told[4]["body"]["success"], &told[4]["body"]["language"]), (&json!(true), &json!("en")));
}

#[tokio::test]
async fn samples_and_base64_are_heard_as_system_ds_clients_send_them() {
    let (stack, door) = with_door(&[]).await;
    let recording = recording("jfk");
    let samples = sound::pcm(&recording.samples());
    let (status, heard) =
        send(&format!("{door}/transcribe"), TOKEN, &[("file", Some("audio/wav"), &samples)]).await;
    assert_eq!(status, 200, "{heard}");
    is_said("samples without a header", &recording.text, &heard["text"]);

    let json_of = async |path: &str, body: Value| {
        let answer = Client::new().post(path).bearer_auth(TOKEN).json(&body).send().await.expect("an answer");
        (answer.status().as_u16(), answer.json::<Value>().await.expect("JSON"))
    };
    let audio = Base64::encode_string(&sound::wav(&recording.samples()));
    let sent = json!({"audio": audio, "audioType": "audio/wav", "language": "en-US"});
    let (status, heard) = json_of(&format!("{door}/live-translate"), sent.clone()).await;
    assert_eq!(status, 200, "{heard}");
    is_said("/live-translate", &recording.text, &heard["transcription"]);
    let (status, heard) = json_of(&format!("{door}/identify-language"), sent).await;
    assert_eq!((status, &heard["detectedLanguage"]), (200, &json!("en-US")), "{heard}");
    is_said("/identify-language", &recording.text, &heard["transcription"]);

    // Its words come without their translation where nobody translates, and it is said why.
    for door in [door, stack.http("")] {
        let path = format!("{door}/api/translate");
        let sent = json!({"audio": audio, "sourceLanguage": "en", "targetLanguage": "ar-SA"});
        let (status, heard) = json_of(&path, sent).await;
        assert_eq!(
            (status, &heard["success"], &heard["translation"]),
            (200, &json!(true), &Value::Null),
            "{heard}"
        );
        assert_eq!((&heard["sourceLanguage"], &heard["targetLanguage"]), (&json!("en"), &json!("ar")));
        assert!(heard["message"].as_str().is_some_and(|text| !text.is_empty()), "{heard}");
        is_said("/api/translate", &recording.text, &heard["text"]);
        let (status, refused) =
            json_of(&path, json!({"text": "Good day", "sourceLanguage": "en", "targetLanguage": "ar"})).await;
        assert_eq!((status, &refused["success"]), (400, &json!(false)), "{refused}");
    }
}

#[tokio::test]
async fn whoever_goes_away_leaves_room_for_others() {
    let (_stack, door) = with_door(&[("RECORDINGS_MAX", "1")]).await;
    let speech = recording("two_cities");
    let (content_type, body) = form(&[("file", Some("audio/wav"), &sound::wav(&speech.samples()))]);
    let address = door.strip_prefix("http://").unwrap();
    // In the middle of its upload, and while it is heard.
    for sent in [body.len() / 2, body.len()] {
        let mut gone = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST /transcribe HTTP/1.1\r\nHost: d\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: {content_type}\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        gone.write_all(head.as_bytes()).await.unwrap();
        gone.write_all(&body[..sent]).await.unwrap();
        drop(gone);
        let short = recording("jfk");
        let wav = sound::wav(&short.samples());
        let (status, heard) =
            send(&format!("{door}/transcribe"), TOKEN, &[("file", Some("audio/wav"), &wav)]).await;
        assert_eq!(status, 200, "{heard}");
        is_said("after one that went away", &short.text, &heard["text"]);
    }
}
