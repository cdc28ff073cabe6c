//! People at the pages of the edge, and the client that the pages are made of: a real Chromium, driven by Playwright, whose
//! microphone is a recording.

use e2e::{JWT_SECRET, Room, Script, Stack, run, sound, text};
use reqwest::{RequestBuilder, StatusCode, header};
use serde_json::{Value, json};
use settings::Secret;
use testkit::{ScratchFolder, recording, tokens, wer::WordErrors};

/// The last words of the recording.
const LAST_WORDS: &str = "do for your country";

/// As `make run` starts it: who sits at the machine signs in with one click.
async fn stack() -> Stack {
    Stack::set(&[("PARLEY_DEV", "true"), ("RTMP_OPEN_KEYS", "true")]).await
}

/// Starts somebody at a page.
fn somebody(story: &str, stack: &Stack, room: &Room, more: Value) -> Script {
    let mut argument = json!({"story": story, "base": stack.http(""), "session": room.slug.as_str()});
    let fields = argument.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    Script::start("pages.js", &argument)
}

/// What the page has shown in the end.
async fn shown(script: Script) -> Value {
    script.end().await.into_iter().rev().find_map(|line| line.get("shown").cloned()).expect("a page")
}

/// Speaks the recording into a page; what it showed as finals.
async fn speak(story: &str, stack: &Stack, room: &Room) -> String {
    let folder = ScratchFolder::new("pages");
    let path = folder.path().join("microphone.wav");
    // A breath before and after, as people do, and because a microphone takes a moment to open.
    let samples = [sound::silence(1), recording("jfk").samples(), sound::silence(2)].concat();
    std::fs::write(&path, sound::wav(&samples)).unwrap();
    let more = json!({"recording": path, "words": LAST_WORDS, "secret": JWT_SECRET});
    let shown = shown(somebody(story, stack, room, more)).await;
    let finals = shown["finals"].as_array().unwrap().iter().map(|text| text.as_str().unwrap());
    finals.collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn assert_said(heard: &str, most: f64) {
    let errors = WordErrors::between(&recording("jfk").text, heard);
    assert!(errors.rate() <= most, "{errors:?}: {heard}");
}

#[tokio::test]
async fn the_client_does_as_it_is_documented() {
    let told = Script::start("client.js", &json!({})).end().await;
    assert!(told.iter().any(|line| line["checks"].as_u64() > Some(0)), "{told:?}");
}

/// Of 22 words. Heard without any disturbance, by a browser's microphone, the recognizer mistakes two or three, as the samples
/// fall; a cut in the middle of them would cost more.
const MISTAKEN_MOST: f64 = 4.0 / 22.0;

/// Somebody speaks, whatever happens meanwhile: all of it is shown, and all of it is kept.
async fn everything_is_heard(story: &str) {
    let stack = stack().await;
    let room = stack.room();
    assert_said(&speak(story, &stack, &room).await, MISTAKEN_MOST);
    assert_said(&text(&room.finals().await), MISTAKEN_MOST);
}

#[tokio::test]
async fn one_button_and_the_words_are_there() {
    everything_is_heard("speak").await;
}

#[tokio::test]
async fn five_seconds_without_a_network_lose_nothing() {
    everything_is_heard("cut").await;
}

#[tokio::test]
async fn a_token_that_ends_ends_nothing() {
    everything_is_heard("expire").await;
}

#[tokio::test]
async fn a_microphone_is_free_when_nobody_is_heard() {
    let stack = stack().await;
    let room = stack.room();
    let token = tokens::follow_only(&Secret::from(JWT_SECRET), &room.slug, "reader");
    shown(somebody("free", &stack, &room, json!({"token": token}))).await;
}

#[tokio::test]
async fn a_wrong_token_can_be_mended() {
    let stack = Stack::start().await;
    let room = stack.room();
    let token = tokens::follow_only(&Secret::from(JWT_SECRET), &room.slug, "reader");
    shown(somebody("sign", &stack, &room, json!({"token": token}))).await;
}

#[tokio::test]
async fn without_websockets_the_words_come_over_http() {
    let stack = stack().await;
    let room = stack.room();
    // Cut every few seconds, wherever that is.
    assert_said(&speak("fallback", &stack, &room).await, 0.3);
    assert!(room.finals().await.is_empty(), "it is told to whoever spoke, and to nobody else");
}

#[tokio::test]
async fn an_overlay_shows_what_an_encoder_pushes() {
    let stack = stack().await;
    let room = stack.room();
    let token = tokens::follow_only(&Secret::from(JWT_SECRET), &room.slug, "overlay");
    let mut overlay =
        somebody("overlay", &stack, &room, json!({"token": token, "words": "ask what you can do"}));
    overlay.until("the overlay listens", |line| line["ready"] == true).await;
    let path = recording("jfk").path.display().to_string();
    let url = stack.rtmp(room.slug.as_str());
    let push =
        ["-nostdin", "-v", "error", "-re", "-i", &path, "-c:a", "aac", "-ar", "44100", "-f", "flv", &url];
    let (shown, ()) = tokio::join!(shown(overlay), async {
        run("ffmpeg", push).await;
    });
    assert!(shown["text"].as_str().unwrap().to_lowercase().contains("ask what you can do"), "{shown}");
}

#[tokio::test]
async fn a_transcript_is_read_while_it_grows() {
    let stack = stack().await;
    let room = stack.room();
    let say = async |identity: &str, name: &str| {
        let mut client = room.join(identity).await;
        client.pour(&sound::pcm(&recording(name).samples()), 3_200).await;
        client.stop().await;
    };
    say("alice", "jfk").await;
    let before = room.finals().await.len();
    let token = tokens::follow_only(&Secret::from(JWT_SECRET), &room.slug, "reader");
    let mut reader =
        somebody("transcript", &stack, &room, json!({"token": token, "words": LAST_WORDS, "lines": before}));
    reader.until("what is stored is there", |line| line["ready"] == true).await;
    say("bob", "LJ001-0002").await;
    let shown = shown(reader).await;
    let lines = shown["lines"].as_array().unwrap();
    assert!(lines.len() > before, "{lines:?}");
}

#[tokio::test]
async fn three_tabs_share_a_connection() {
    let stack = stack().await;
    let token = stack.user().token();
    let shown = shown(somebody("tabs", &stack, &stack.room(), json!({"userToken": token}))).await;
    assert_eq!(shown["left"], 2);
}

#[tokio::test]
async fn every_page_is_for_everybody() {
    let stack = stack().await;
    let room = stack.room();
    for story in ["access", "diagnose", "hour"] {
        shown(somebody(story, &stack, &room, json!({}))).await;
    }
}

#[tokio::test]
async fn pages_are_cached_and_shut_in() {
    let stack = Stack::start().await;
    let http = reqwest::Client::new();
    for port in stack.doors() {
        let url = |path: &str| format!("http://127.0.0.1:{port}{path}");
        let page = http.get(url("/console")).send().await.unwrap();
        assert_eq!(page.status(), StatusCode::OK);
        let headers = page.headers().clone();
        assert_eq!(headers[header::CONTENT_TYPE], "text/html; charset=utf-8");
        assert_eq!(headers[header::REFERRER_POLICY], "no-referrer");
        assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(
            policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
            "{policy}"
        );
        let known = http.get(url("/console")).header(header::IF_NONE_MATCH, &headers[header::ETAG]);
        assert_eq!(known.send().await.unwrap().status(), StatusCode::NOT_MODIFIED);
        let client = http.get(url("/parley.js")).header(header::ORIGIN, "https://app.example");
        let client = client.send().await.unwrap();
        assert_eq!(client.headers()[header::CONTENT_TYPE], "text/javascript; charset=utf-8");
        assert_eq!(client.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*", "pages elsewhere import it");
        assert!(client.text().await.unwrap().contains("export class Captions"));
        for path in ["/pages/nothing.js", "/pages/", "/overlay/a/b", "/api/dev/token"] {
            assert_eq!(http.get(url(path)).send().await.unwrap().status(), StatusCode::NOT_FOUND, "{path}");
        }
    }
}

#[tokio::test]
async fn only_pages_on_this_machine_get_tokens() {
    let stack = stack().await;
    let room = stack.room();
    for port in stack.doors() {
        let origin = format!("http://127.0.0.1:{port}");
        let ask = || {
            let body = json!({"session": room.slug.as_str(), "identity": "alice"});
            reqwest::Client::new().post(format!("{origin}/api/dev/token")).json(&body)
        };
        let status = async |request: RequestBuilder| request.send().await.unwrap().status();
        for wrong in [
            ask().header(header::ORIGIN, "https://evil.example"),
            ask().header(header::ORIGIN, "http://127.0.0.1:1"),
            ask().header("sec-fetch-site", "cross-site"),
            ask().header("sec-fetch-site", "same-site"),
            ask().header(header::HOST, "evil.example"),
            ask().header("x-real-ip", "10.0.0.7").header(header::HOST, "10.0.0.1"),
        ] {
            assert_eq!(status(wrong).await, StatusCode::FORBIDDEN);
        }
        let good = ask().header(header::ORIGIN, &origin).header("sec-fetch-site", "same-origin");
        let answer: Value = good.send().await.unwrap().json().await.unwrap();
        let mut client = room.open(&format!("token={}", answer["token"].as_str().unwrap())).await;
        assert_eq!(client.said().await["type"], "connected");
        assert!(answer["userToken"].is_string());
    }
}
