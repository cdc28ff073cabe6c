//! Recordings over HTTP, as far as no words are needed: who may send them, and what is wrong with them, each told in the
//! shape of the service that the client was written for.

use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};
use testkit::form;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::stage::{SERVICE_KEY, Setup, Stage};

/// What system D's clients show.
const TOKEN: &str = "a token of system D";

type Part<'a> = (&'a str, Option<&'a str>, &'a [u8]);

/// An edge with system D's door.
async fn stage(settings: &[(&str, &str)]) -> Stage {
    let port = testkit::free_port().to_string();
    let setup = Setup::new().await.set("TRANSLATE_PORT", &port).set("FASTER_WHISPER_API_TOKEN", TOKEN);
    settings.iter().fold(setup, |setup, (name, value)| setup.set(name, value)).start().await
}

fn door(stage: &Stage, path: &str) -> String {
    format!("http://{}{path}", stage.running.translate_address.unwrap())
}

fn post(url: &str, token: &str, parts: &[Part<'_>]) -> RequestBuilder {
    let (content_type, body) = form(parts);
    Client::new().post(url).bearer_auth(token).header("content-type", content_type).body(body)
}

async fn told(request: RequestBuilder) -> (u16, Value) {
    let answer = request.send().await.unwrap();
    assert!(answer.headers().contains_key("access-control-allow-origin"));
    (answer.status().as_u16(), answer.json().await.unwrap())
}

fn header<'a>(answer: &'a Response, name: &str) -> Option<&'a str> {
    answer.headers().get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn system_ds_door_is_open_as_far_as_it_says_how_it_is() {
    let stage = stage(&[]).await;
    let get = |path: &str| Client::new().get(door(&stage, path));
    assert_eq!(told(get("/")).await, (200, json!({"message": "Faster Whisper Service is running"})));
    let (status, health) = told(get("/health")).await;
    assert_eq!(
        (status, &health["status"], &health["service"]),
        (200, &json!("healthy"), &json!("faster-whisper"))
    );
    assert_eq!((&health["auth_required"], &health["auth_configured"]), (&json!(true), &json!(true)));
    assert_eq!((&health["vad_support"], &health["websocket_support"]), (&json!(true), &json!(true)));
    assert_eq!(health["supportedLanguages"], 40);
    let docs = get("/docs").send().await.unwrap();
    assert_eq!(
        (docs.status().as_u16(), header(&docs, "content-type")),
        (200, Some("text/html; charset=utf-8"))
    );
    assert_eq!(told(get("/nowhere")).await, (404, json!({"detail": "Not Found"})));
    assert_eq!(told(get("/transcribe")).await, (405, json!({"detail": "Method Not Allowed"})));
    // On the main door these paths are system A's, or nobody's.
    assert_eq!(told(Client::new().post(stage.http("/transcribe"))).await.0, 404);
    assert!(told(Client::new().get(stage.http("/"))).await.1.get("endpoints").is_some());

    let asked = Client::new()
        .request(Method::OPTIONS, door(&stage, "/transcribe"))
        .header("origin", "https://app.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,x-any")
        .send()
        .await
        .unwrap();
    assert_eq!(asked.status().as_u16(), 204);
    assert_eq!(header(&asked, "access-control-allow-origin"), Some("https://app.example"));
    assert_eq!(header(&asked, "access-control-allow-credentials"), Some("true"));
    assert_eq!(header(&asked, "access-control-allow-headers"), Some("authorization,x-any"));
}

#[tokio::test]
async fn whoever_shows_nothing_or_something_else_is_refused_before_it_is_heard() {
    let stage = stage(&[]).await;
    let alice = stage.token("alice");
    let wav: Part<'_> = ("file", Some("audio/wav"), &[0; 100_000]);
    for path in ["/transcribe", "/detect-language", "/live-translate", "/identify-language", "/api/translate"]
    {
        let url = door(&stage, path);
        let (content_type, body) = form(&[wav]);
        let nothing =
            Client::new().post(&url).header("content-type", content_type).body(body).send().await.unwrap();
        assert_eq!((nothing.status().as_u16(), header(&nothing, "www-authenticate")), (401, Some("Bearer")));
        assert_eq!(nothing.json::<Value>().await.unwrap(), json!({"detail": "API token required"}), "{path}");
        let wrong = told(post(&url, "another", &[wav])).await;
        assert_eq!(wrong, (403, json!({"detail": "Invalid API token"})), "{path}");
        // Each of these opens it: what is wrong is then the recording.
        for token in [TOKEN, SERVICE_KEY, alice.as_str()] {
            assert_eq!(told(post(&url, token, &[])).await.0, 400, "{path}");
        }
    }
    for door in [door(&stage, ""), stage.http("")] {
        let url = format!("{door}/v1/audio/transcriptions");
        for (token, code) in [(None, Value::Null), (Some(TOKEN), json!("invalid_api_key"))] {
            let (content_type, body) = form(&[wav]);
            let mut request = Client::new().post(&url).header("content-type", content_type).body(body);
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            let (status, refused) = told(request).await;
            let error = &refused["error"];
            assert_eq!((status, &error["code"], &error["param"]), (401, &code, &Value::Null), "{refused}");
            assert_eq!(error["type"], "invalid_request_error");
        }
        for token in [SERVICE_KEY, alice.as_str()] {
            let (status, refused) = told(post(&url, token, &[])).await;
            assert_eq!((status, &refused["error"]["param"]), (400, &json!("file")), "{refused}");
        }
        let models = Client::new().get(format!("{door}/v1/models"));
        assert_eq!(told(models).await.0, 401);
    }
}

#[tokio::test]
async fn what_is_no_recording_is_refused_in_the_words_of_each_service() {
    let stage = stage(&[]).await;
    // The middle of a recording of a browser; one of its pieces that holds no sound; and what is no sound.
    let headerless: &[u8] = b"\x1f\x43\xb6\x75\x01\xff\xff\xff\xff\xff\xff\xff\xe7\x81\x00";
    let tiny: &[u8] = b"\x1a\x45\xdf\xa3\x84\x42\x86\x81\x01";
    let text = "It was the best of times. ".repeat(100);
    for (bytes, media_type) in [
        (headerless, "audio/webm"),
        (tiny, "audio/webm"),
        (text.as_bytes(), "audio/wav"),
        (&[7_u8; 9999][..], "image/png"),
    ] {
        let file = |name| [(name, Some(media_type), bytes)];
        for path in ["/transcribe", "/detect-language"] {
            let (status, refused) = told(post(&door(&stage, path), TOKEN, &file("file"))).await;
            assert_eq!((status, &refused["success"]), (400, &json!(false)), "{path}: {refused}");
            assert!(refused["error"].as_str().is_some_and(|text| !text.is_empty()), "{refused}");
        }
        for path in ["/live-translate", "/identify-language"] {
            let (status, refused) = told(post(&door(&stage, path), TOKEN, &file("audio"))).await;
            assert_eq!((status, &refused["error"]), (400, &json!("Unsupported audio format")), "{path}");
        }
        let (status, refused) = told(post(&door(&stage, "/api/translate"), TOKEN, &file("audio"))).await;
        assert_eq!((status, &refused["success"]), (400, &json!(false)), "{refused}");
        let url = stage.http("/v1/audio/transcriptions");
        let (status, refused) = told(post(&url, SERVICE_KEY, &file("file"))).await;
        let error = &refused["error"];
        assert_eq!(
            (status, &error["type"], &error["param"], &error["code"]),
            (400, &json!("invalid_request_error"), &json!("file"), &json!("invalid_audio")),
            "{refused}"
        );
    }
}

#[tokio::test]
async fn what_is_missing_or_broken_off_is_told() {
    let stage = stage(&[]).await;
    let transcribe = door(&stage, "/transcribe");
    let no_file = (400, json!({"error": "No file provided", "success": false}));
    assert_eq!(told(post(&transcribe, TOKEN, &[("language", None, b"en")])).await, no_file);
    assert_eq!(told(post(&transcribe, TOKEN, &[("file", Some("audio/wav"), b"")])).await, no_file);
    assert_eq!(told(Client::new().post(&transcribe).bearer_auth(TOKEN).body("x")).await, no_file);
    let (status, refused) = told(post(&transcribe, TOKEN, &[("audio", Some("audio/wav"), b"RIFF")])).await;
    let missing =
        json!([{"type": "missing", "loc": ["body", "file"], "msg": "Field required", "input": null}]);
    assert_eq!((status, &refused["detail"]), (422, &missing));
    let (status, refused) =
        told(post(&transcribe, TOKEN, &[("task", None, b"sing"), ("file", Some("audio/wav"), b"RIFF")]))
            .await;
    assert_eq!((status, &refused["error"]), (400, &json!("task must be transcribe or translate")));

    let (content_type, body) = form(&[("file", Some("audio/wav"), &[0; 10_000])]);
    for (path, token) in
        [("/transcribe", TOKEN), ("/live-translate", TOKEN), ("/v1/audio/translations", SERVICE_KEY)]
    {
        let cut = body[..body.len() / 2].to_vec();
        let request = Client::new().post(door(&stage, path)).bearer_auth(token);
        let (status, refused) = told(request.header("content-type", &content_type).body(cut)).await;
        assert_eq!(status, 400, "{path}: {refused}");
        let text = refused["error"].as_str().or(refused["error"]["message"].as_str());
        assert_eq!(text, Some("the form breaks off before its end"), "{path}: {refused}");
    }
    for path in ["/live-translate", "/identify-language"] {
        let request = Client::new().post(door(&stage, path)).bearer_auth(TOKEN);
        let missing = (400, json!({"error": "Missing audio data"}));
        assert_eq!(told(request.try_clone().unwrap().json(&json!({"language": "ar"}))).await, missing);
        let (status, refused) = told(request.json(&json!({"audio": "not base64!"}))).await;
        assert_eq!((status, refused["error"].is_string()), (400, true), "{refused}");
    }
    let batch = Client::new().post(door(&stage, "/batch-transcribe")).bearer_auth(TOKEN).json(&json!({}));
    assert_eq!(told(batch).await.0, 501);
    let translate =
        |body: Value| Client::new().post(stage.http("/api/translate")).bearer_auth(TOKEN).json(&body);
    for body in
        [json!({}), json!({"text": "Hello"}), json!({"text": "x".repeat(20_000), "targetLanguage": "ar"})]
    {
        let (status, refused) = told(translate(body)).await;
        assert!([400, 413].contains(&status) && refused["success"] == false, "{status} {refused}");
    }
    let same = json!({"text": "Hello", "sourceLanguage": "en-US", "targetLanguage": "en"});
    let expected = json!({"success": true, "text": "Hello", "translation": "Hello", "sourceLanguage": "en",
        "targetLanguage": "en"});
    assert_eq!(told(translate(same)).await, (200, expected));
}

#[tokio::test]
async fn what_is_larger_than_it_may_be_is_told_so() {
    let stage = stage(&[]).await;
    let file = vec![0; 26_214_401];
    let too_large = json!({"error": "File too large. Maximum size is 25MB", "success": false});
    let request = post(&door(&stage, "/transcribe"), TOKEN, &[("file", Some("audio/wav"), &file)]);
    assert_eq!(told(request).await, (400, too_large));
    let url = stage.http("/v1/audio/transcriptions");
    let (status, refused) = told(post(&url, SERVICE_KEY, &[("file", Some("audio/wav"), &file)])).await;
    assert_eq!((status, &refused["error"]["param"]), (413, &json!("file")), "{refused}");
    let body = format!(r#"{{"audio":"{}"}}"#, "A".repeat(52_428_800));
    let request = Client::new().post(door(&stage, "/live-translate")).bearer_auth(TOKEN);
    let answer = request.header("content-type", "application/json").body(body).send().await;
    // It may be cut off before it has sent all of that.
    if let Ok(answer) = answer {
        assert_eq!(answer.status().as_u16(), 413);
    }
}

#[tokio::test]
async fn slow_uploads_end_and_only_so_many_are_taken_at_a_time() {
    let stage = stage(&[("RECORDINGS_MAX", "1"), ("FASTER_WHISPER_UPLOAD_TIMEOUT", "15000")]).await;
    // It sends its head and no more.
    let mut slow = TcpStream::connect(stage.running.translate_address.unwrap()).await.unwrap();
    let head = format!(
        "POST /transcribe HTTP/1.1\r\nHost: d\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 100\r\n\
         Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    slow.flush().await.unwrap();
    let url = stage.http("/v1/audio/transcriptions");
    testkit::eventually("the only place is taken", async || {
        let answer = post(&url, SERVICE_KEY, &[]).send().await.unwrap();
        answer.status().as_u16() == 429 && header(&answer, "retry-after").is_some()
    })
    .await;
    let mut answer = String::new();
    slow.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(told(post(&url, SERVICE_KEY, &[])).await.0, 400, "its place is free again");
}

#[tokio::test]
async fn a_body_that_breaks_off_disturbs_nobody() {
    let stage = stage(&[("RECORDINGS_MAX", "1")]).await;
    let (content_type, body) = form(&[("file", Some("audio/wav"), &[0; 100_000])]);
    let head = format!(
        "POST /transcribe HTTP/1.1\r\nHost: d\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {}\r\n\
         Content-Type: {content_type}\r\n\r\n",
        body.len()
    );
    let mut gone = TcpStream::connect(stage.running.translate_address.unwrap()).await.unwrap();
    gone.write_all(head.as_bytes()).await.unwrap();
    gone.write_all(&body[..50_000]).await.unwrap();
    drop(gone);
    assert_eq!(told(post(&door(&stage, "/transcribe"), TOKEN, &[])).await.0, 400);
}

#[tokio::test]
async fn without_required_tokens_anybody_is_let_in() {
    let stage = stage(&[("FASTER_WHISPER_REQUIRE_AUTH", "false")]).await;
    let (content_type, body) = form(&[]);
    let request =
        Client::new().post(door(&stage, "/transcribe")).header("content-type", content_type).body(body);
    assert_eq!(told(request).await, (400, json!({"error": "No file provided", "success": false})));
    let health = told(Client::new().get(door(&stage, "/health"))).await.1;
    assert_eq!(health["auth_required"], false);
    assert_eq!(told(Client::new().get(stage.http("/v1/models"))).await.0, 401, "that is another matter");
}
