//! What is kept of sessions: transcripts, search, deletion, usage.

use model::{EngineName, Samples, Timestamp};
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use storage::Revision;
use testkit::tokens;

use crate::stage::{SERVICE_KEY, Setup, Stage, Voice};

async fn ask(stage: &Stage, method: Method, path: &str, key: Option<&str>) -> Response {
    let mut request = Client::new().request(method, stage.http(path));
    if let Some(key) = key {
        request = request.bearer_auth(key);
    }
    request.send().await.unwrap()
}

async fn json_of(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!(response.headers()["access-control-allow-origin"], "*");
    assert_eq!(response.headers()["cache-control"], "private, no-cache");
    (status, response.json().await.unwrap())
}

async fn get(stage: &Stage, path: &str, key: Option<&str>) -> (u16, Value) {
    json_of(ask(stage, Method::GET, path, key).await).await
}

async fn text(stage: &Stage, path: &str) -> (String, String) {
    let response = ask(stage, Method::GET, path, Some(SERVICE_KEY)).await;
    assert_eq!(response.status(), 200);
    let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
    (kind, response.text().await.unwrap())
}

/// The path of something of the stage's session.
fn of(stage: &Stage, rest: &str) -> String {
    format!("/api/sessions/{}{rest}", stage.session)
}

/// A text from outside, in the stage's session.
async fn hand_in(stage: &Stage, id: &str, who: &str, text: &str, said_at: i64) {
    let revision = Revision {
        session: stage.session.clone(),
        utterance: id.parse().unwrap(),
        speaker: Some(model::Speaker { identity: who.parse().unwrap(), name: None }),
        text: text.to_owned(),
        language: Some("ru".to_owned()),
        outside: Some(model::Outside::default()),
        said_at: Timestamp(said_at),
        at: Timestamp(said_at),
    };
    stage.storage.revise(&revision).await.unwrap().unwrap();
}

#[tokio::test]
async fn who_may_read_what_is_kept() {
    let stage = Stage::start().await;
    stage.voice().await.store(&stage, "Hello.").await;
    let other = tokens::good(&stage.secret, &"other".parse().unwrap(), "alice");
    let expired = tokens::expired(&stage.secret, &stage.session, "alice");
    let user = stage.user_token("alice");
    let bob = stage.token("bob");
    let follower = tokens::follow_only(&stage.secret, &stage.session, "alice");
    let egress = auth::SessionClaims {
        session_id: Some("id-1".to_owned()),
        scope: Some("egress".to_owned()),
        track: Some("TR_1".to_owned()),
        ..tokens::claims(&stage.session, "alice")
    };
    let egress = tokens::sign(&stage.secret, &egress);
    for path in ["/api/transcripts/search?q=hello", "/api/transcription/stats"] {
        assert_eq!(get(&stage, path, Some(&egress)).await.0, 403, "a token for sound alone: {path}");
    }
    let search = format!("/api/transcripts/search?q=hello&sessionSlug={}", stage.session);
    for path in [of(&stage, "/transcript"), of(&stage, "/transcription/usage"), search] {
        for (key, expected) in [
            (None, 401),
            (Some("wrong"), 401),
            (Some(expired.as_str()), 401),
            (Some(&user), 401),
            (Some(&other), 403),
            (Some(&egress), 403),
            (Some(&follower), 200),
            (Some(&bob), 200),
            (Some(SERVICE_KEY), 200),
        ] {
            let (status, answer) = get(&stage, &path, key).await;
            assert_eq!((status, answer["error"].is_string()), (expected, expected != 200), "{path} {key:?}");
        }
        let mark = if path.contains('?') { '&' } else { '?' };
        assert_eq!(get(&stage, &format!("{path}{mark}token={follower}"), None).await.0, 200);
        assert_eq!(get(&stage, &format!("{path}{mark}token={other}"), None).await.0, 403);
        assert_eq!(json_of(ask(&stage, Method::PUT, &path, Some(SERVICE_KEY)).await).await.0, 405);
    }
    for path in ["/api/sessions/none/transcript", "/api/sessions/none/transcription/usage"] {
        assert_eq!(
            get(&stage, path, Some(SERVICE_KEY)).await,
            (404, json!({"error": "Session not found", "code": "not_found"}))
        );
        // Whether a session exists is nobody else's business.
        assert_eq!(get(&stage, path, Some(&stage.token("bob"))).await.0, 403);
    }
    let long = format!("/api/sessions/{}/transcript", "x".repeat(200));
    assert_eq!(get(&stage, &long, Some(SERVICE_KEY)).await.0, 404);
    stage.end().await;
}

#[tokio::test]
async fn what_is_open_to_older_clients_reads_and_deletes_nothing() {
    let stage = Setup::new().await.set("LEGACY_OPEN_ROUTES", "true").start().await;
    stage.voice().await.store(&stage, "Hello.").await;
    for path in [
        of(&stage, "/transcript"),
        of(&stage, "/transcription/usage"),
        "/api/transcripts/search?q=hello".to_owned(),
        "/api/transcription/stats".to_owned(),
    ] {
        assert_eq!(get(&stage, &path, None).await.0, 401, "{path}");
    }
    assert_eq!(json_of(ask(&stage, Method::DELETE, &of(&stage, ""), None).await).await.0, 401);
    let report = report(&stage);
    let saved = Client::new().post(stage.http("/api/transcription/usage/save")).json(&report).send().await;
    assert_eq!(json_of(saved.unwrap()).await, (200, json!({"success": true})));
    stage.end().await;
}

#[tokio::test]
async fn a_transcript_comes_in_every_format() {
    let stage = Stage::start().await;
    stage.storage.touch_session(&stage.session, Timestamp(1)).await.unwrap();
    let (status, empty) = get(&stage, &of(&stage, "/transcript"), Some(SERVICE_KEY)).await;
    assert_eq!((status, empty), (200, json!({"sessionSlug": stage.session, "segments": []})));
    let mut alice = stage.voice().await;
    for text in ["Hello <there>.", "How are you?"] {
        alice.store(&stage, text).await;
    }
    let session = stage.session.to_string();
    let (status, answer) = get(&stage, &of(&stage, "/transcript"), Some(SERVICE_KEY)).await;
    assert_eq!((status, &answer["sessionSlug"]), (200, &json!(session)));
    let segments = answer["segments"].as_array().unwrap();
    assert_eq!(segments.len(), 2);
    assert_eq!(
        (&segments[0]["text"], &segments[0]["speaker"], &segments[0]["speakerId"], &segments[0]["isFinal"]),
        (&json!("Hello <there>."), &json!("Alice"), &json!("alice"), &json!(true))
    );
    assert!(segments[0]["startedAt"].as_str().unwrap().ends_with('Z'));
    for (format, kind, expected) in [
        ("txt", "text/plain; charset=utf-8", "Alice: Hello <there>.\nAlice: How are you?\n"),
        (
            "srt",
            "application/x-subrip; charset=utf-8",
            "1\n00:00:00,000 --> 00:00:01,000\nHello <there>.\n\n2\n00:00:01,000 --> 00:00:02,000\nHow are you?\n\n",
        ),
        (
            "vtt",
            "text/vtt; charset=utf-8",
            "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\nHello &lt;there&gt;.\n\n\
             00:00:01.000 --> 00:00:02.000\nHow are you?\n\n",
        ),
    ] {
        let answer = text(&stage, &of(&stage, &format!("/transcript?format={format}"))).await;
        assert_eq!(answer, (kind.to_owned(), expected.to_owned()), "{format}");
    }
    let head = ask(&stage, Method::HEAD, &of(&stage, "/transcript?format=txt"), Some(SERVICE_KEY)).await;
    assert_eq!((head.status().as_u16(), &head.headers()["vary"]), (200, &"Authorization".parse().unwrap()));
    stage.end().await;
}

#[tokio::test]
async fn a_transcript_is_narrowed_and_bounded() {
    let stage = Stage::start().await;
    for (number, (who, text)) in (1..).zip([("alice", "One."), ("bob b", "Two."), ("alice", "Three.")]) {
        hand_in(&stage, &format!("x-{number}"), who, text, 1_700_000_000_000 + 1000 * number).await;
    }
    let txt = async |narrowed: &str| {
        text(&stage, &of(&stage, &format!("/transcript?format=txt{narrowed}"))).await.1
    };
    assert_eq!(txt("").await, "alice: One.\nbob b: Two.\nalice: Three.\n");
    assert_eq!(txt("&speaker=alice").await, "alice: One.\nalice: Three.\n");
    assert_eq!(txt("&speaker=bob%20b").await, "bob b: Two.\n");
    assert_eq!(txt("&speaker=carol").await, "");
    assert_eq!(txt("&from=1700000002000").await, "bob b: Two.\nalice: Three.\n");
    assert_eq!(txt("&to=2023-11-14T22:13:22Z").await, "alice: One.\n");
    assert_eq!(txt("&from=2023-11-15T00:13:22%2B02:00&to=1700000003000").await, "bob b: Two.\n");
    for (wrong, code) in [
        ("format=doc", "format_invalid"),
        ("from=yesterday", "moment_invalid"),
        ("to=1.5", "moment_invalid"),
        (&format!("speaker={}", "x".repeat(300)), "speaker_invalid"),
    ] {
        let (status, answer) =
            get(&stage, &of(&stage, &format!("/transcript?{wrong}")), Some(SERVICE_KEY)).await;
        assert_eq!((status, &answer["code"]), (400, &json!(code)), "{wrong}");
    }
    stage
        .database
        .run(
            "INSERT INTO segments (session_id, sequence, outside_id, revision, speaker_identity, text, start_sample,
                 end_sample, words, started_at, ended_at, stored_at)
             SELECT id, 10 + n, 'y-' || n, 0, 'carol', 'Word.', 0, 0, '[]', now(), now(), now()
             FROM sessions, generate_series(1, 50001) AS n",
        )
        .await;
    let (status, answer) = get(&stage, &of(&stage, "/transcript?speaker=carol"), Some(SERVICE_KEY)).await;
    assert_eq!((status, &answer["code"]), (413, &json!("too_large")));
    assert!(answer["error"].as_str().unwrap().contains("from, to and speaker"));
    assert_eq!(txt("&speaker=alice").await, "alice: One.\nalice: Three.\n");
    stage.end().await;
}

#[tokio::test]
async fn a_slug_is_what_its_path_decodes_to() {
    let stage = Stage::start().await;
    for slug in ["a/b", "a b+c", "комната"] {
        stage.storage.touch_session(&slug.parse().unwrap(), Timestamp(1)).await.unwrap();
    }
    for path in ["a%2Fb", "a%20b+c", "%D0%BA%D0%BE%D0%BC%D0%BD%D0%B0%D1%82%D0%B0"] {
        let path = format!("/api/sessions/{path}/transcript");
        assert_eq!(get(&stage, &path, Some(SERVICE_KEY)).await.0, 200, "{path}");
    }
    let (status, _) =
        json_of_any(ask(&stage, Method::GET, "/api/sessions/a/b/transcript", Some(SERVICE_KEY)).await).await;
    assert_eq!(status, 404);
    stage.end().await;
}

/// Of a path that is none of these.
async fn json_of_any(response: Response) -> (u16, Value) {
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test]
async fn words_are_found_by_their_stems() {
    let stage = Stage::start().await;
    let mut alice: Voice = stage.voice().await;
    alice.store(&stage, "The servers were restarted.").await;
    hand_in(&stage, "x-1", "bob", "Мы перезапустили серверы.", 1_700_000_000_000).await;
    let other = Voice::store(&mut stage.voice().await, &stage, "Nothing of that kind.").await;
    assert_eq!(other.sequence.0, 3);
    let texts = |answer: &Value| -> Vec<String> {
        let results = answer["results"].as_array().unwrap().iter();
        results.map(|result| result["text"].as_str().unwrap().to_owned()).collect()
    };
    for (query, expected) in [
        ("server", &["The servers were restarted."][..]),
        ("restart", &["The servers were restarted."]),
        ("%D1%81%D0%B5%D1%80%D0%B2%D0%B5%D1%80", &["Мы перезапустили серверы."]),
        (
            "server+or+%D1%81%D0%B5%D1%80%D0%B2%D0%B5%D1%80",
            &["The servers were restarted.", "Мы перезапустили серверы."],
        ),
        ("absent", &[]),
    ] {
        let path = format!("/api/transcripts/search?q={query}");
        for key in [SERVICE_KEY, &stage.token("carol")] {
            let (status, answer) = get(&stage, &path, Some(key)).await;
            assert_eq!(
                (status, texts(&answer)),
                (200, expected.iter().map(ToString::to_string).collect()),
                "{query}"
            );
            assert_eq!(answer["next"], Value::Null);
        }
    }
    let (_, answer) = get(&stage, "/api/transcripts/search?q=server", Some(SERVICE_KEY)).await;
    let found = &answer["results"][0];
    assert_eq!(found["snippet"], "The **servers** were restarted.");
    assert_eq!(
        (
            &found["sessionSlug"],
            &found["sequence"],
            &found["speaker"],
            &found["speakerId"],
            &found["language"]
        ),
        (&json!(stage.session), &json!(1), &json!("Alice"), &json!("alice"), &json!("en"))
    );
    assert_eq!(found["utteranceId"], format!("{}-1", alice.id));
    assert!(found["startedAt"].as_str().unwrap() < found["endedAt"].as_str().unwrap());

    // Page by page.
    let both = "/api/transcripts/search?q=server+or+kind&limit=1";
    let (_, first) = get(&stage, both, Some(SERVICE_KEY)).await;
    assert_eq!(first["results"].as_array().unwrap().len(), 1);
    let next = first["next"].as_str().unwrap();
    let (_, second) = get(&stage, &format!("{both}&before={next}"), Some(SERVICE_KEY)).await;
    let mut all = [texts(&first), texts(&second)].concat();
    all.sort();
    assert_eq!(all, ["Nothing of that kind.", "The servers were restarted."]);

    for (wrong, code) in [
        ("", "query_invalid"),
        ("q=", "query_invalid"),
        (&format!("q={}", "x".repeat(401)), "query_invalid"),
        ("q=x&limit=0", "limit_invalid"),
        ("q=x&limit=101", "limit_invalid"),
        ("q=x&before=1.2.3", "before_invalid"),
        (&format!("q=x&sessionSlug={}", "x".repeat(200)), "session_invalid"),
    ] {
        let (status, answer) =
            get(&stage, &format!("/api/transcripts/search?{wrong}"), Some(SERVICE_KEY)).await;
        assert_eq!((status, &answer["code"]), (400, &json!(code)), "{wrong}");
    }
    stage.end().await;
}

#[tokio::test]
async fn another_session_is_not_found_with_a_token() {
    let stage = Stage::start().await;
    stage.voice().await.store(&stage, "A secret word.").await;
    let other = tokens::good(&stage.secret, &"other".parse().unwrap(), "mallory");
    let (status, answer) = get(&stage, "/api/transcripts/search?q=secret", Some(&other)).await;
    assert_eq!((status, answer), (200, json!({"results": [], "next": null})));
    stage.end().await;
}

#[tokio::test]
async fn a_session_is_deleted_by_a_back_end_alone() {
    let stage = Stage::start().await;
    let mut voice = stage.voice().await;
    for text in ["One.", "Two."] {
        voice.store(&stage, text).await;
    }
    let delete = async |key| json_of(ask(&stage, Method::DELETE, &of(&stage, ""), key).await).await;
    assert_eq!(delete(None).await.0, 401);
    assert_eq!(delete(Some("wrong")).await.0, 401);
    let alice = stage.token("alice");
    let (status, answer) = delete(Some(&alice)).await;
    assert_eq!((status, &answer["code"]), (403, &json!("forbidden")));
    assert_eq!(get(&stage, &of(&stage, ""), Some(SERVICE_KEY)).await.0, 405);
    let (status, answer) = delete(Some(SERVICE_KEY)).await;
    assert_eq!(
        (status, &answer["success"], &answer["sessionSlug"]),
        (200, &json!(true), &json!(stage.session))
    );
    assert_eq!(
        (
            &answer["deleted"]["segments"],
            &answer["deleted"]["streams"],
            &answer["deleted"]["usageWithoutNames"]
        ),
        (&json!(2), &json!(1), &json!(0))
    );
    assert_eq!(
        delete(Some(SERVICE_KEY)).await,
        (404, json!({"error": "Session not found", "code": "not_found"}))
    );
    assert_eq!(get(&stage, &of(&stage, "/transcript"), Some(SERVICE_KEY)).await.0, 404);
    let (_, found) = get(&stage, "/api/transcripts/search?q=one", Some(SERVICE_KEY)).await;
    assert_eq!(found["results"], json!([]));
    assert_eq!(stage.voice().await.store(&stage, "Three.").await.sequence.0, 3, "sequences go on");
    stage.end().await;
}

fn report(stage: &Stage) -> Value {
    json!({
        "sessionSlug": stage.session, "participantIdentity": "alice", "userId": "u1",
        "startedAt": "2023-11-14T22:13:20.000Z", "endedAt": 1_700_000_090_500_i64, "durationSeconds": 90.5,
        "durationMinutes": 2, "audioChunksSent": 7, "transcriptsReceived": 6, "finalTranscripts": 2,
        "partialTranscripts": 4, "errorsCount": 0,
    })
}

#[tokio::test]
async fn what_a_client_says_of_its_use_is_kept_and_not_billed() {
    let stage = Stage::start().await;
    let save = async |key: Option<&str>, body: &Value| {
        let mut request = Client::new().post(stage.http("/api/transcription/usage/save")).json(body);
        if let Some(key) = key {
            request = request.bearer_auth(key);
        }
        json_of(request.send().await.unwrap()).await
    };
    let said = report(&stage);
    assert_eq!(save(Some(SERVICE_KEY), &said).await.0, 404, "no such session");
    stage.storage.touch_session(&stage.session, Timestamp(1)).await.unwrap();
    let other = tokens::good(&stage.secret, &"other".parse().unwrap(), "alice");
    let follower = tokens::follow_only(&stage.secret, &stage.session, "alice");
    for (key, expected) in
        [(None, 401), (Some("wrong"), 401), (Some(other.as_str()), 403), (Some(&follower), 403)]
    {
        assert_eq!(save(key, &said).await.0, expected);
    }
    for (field, value, names) in [
        ("sessionSlug", json!(7), "sessionSlug"),
        ("participantIdentity", json!(""), "participantIdentity"),
        ("userId", json!(7), "userId"),
        ("startedAt", json!("yesterday"), "startedAt"),
        ("endedAt", Value::Null, "endedAt"),
        ("endedAt", json!(1), "endedAt"),
        ("durationSeconds", json!(-1), "durationSeconds"),
        ("durationSeconds", Value::Null, "durationSeconds"),
        ("durationMinutes", json!("two"), "durationMinutes"),
        ("audioChunksSent", json!(1.5), "audioChunksSent"),
        ("transcriptsReceived", json!(-1), "transcriptsReceived"),
        ("finalTranscripts", json!("1"), "finalTranscripts"),
        ("partialTranscripts", json!(1e30), "partialTranscripts"),
        ("errorsCount", json!([]), "errorsCount"),
    ] {
        let mut wrong = said.clone();
        wrong[field] = value;
        let (status, answer) = save(Some(SERVICE_KEY), &wrong).await;
        assert_eq!(status, 400, "{field}: {answer}");
        assert!(answer["error"].as_str().unwrap().contains(names), "{field}: {answer}");
    }
    assert_eq!(save(Some(SERVICE_KEY), &said).await, (200, json!({"success": true})));
    // A participant reports for itself, whatever it says.
    let bob = stage.token("bob");
    assert_eq!(save(Some(&bob), &said).await, (200, json!({"success": true})));
    let (_, answer) = get(&stage, &of(&stage, "/transcription/usage"), Some(SERVICE_KEY)).await;
    let reports = answer["reports"].as_array().unwrap();
    assert_eq!(reports.len(), 2);
    assert_eq!(
        reports[0],
        json!({
            "participantIdentity": "alice", "userId": "u1", "startedAt": "2023-11-14T22:13:20.000Z",
            "endedAt": "2023-11-14T22:14:50.500Z", "durationSeconds": 90.5, "durationMinutes": 2,
            "audioChunksSent": 7, "transcriptsReceived": 6, "finalTranscripts": 2, "partialTranscripts": 4,
            "errorsCount": 0,
        })
    );
    assert_eq!((&reports[1]["participantIdentity"], &reports[1]["userId"]), (&json!("bob"), &json!("bob")));
    assert_eq!(answer["usage"], json!([]));
    assert_eq!(answer["stats"]["totalMinutes"], 0);
    stage.end().await;
}

#[tokio::test]
async fn usage_is_what_was_metered() {
    let stage = Setup::new().await.set("TRANSCRIPTION_COST_PER_MINUTE", "0.02").start().await;
    for (who, seconds) in [("alice", 61), ("bob", 5)] {
        let stream = storage::NewStream {
            id: model::StreamId(uuid::Uuid::new_v4()),
            session: stage.session.clone(),
            speaker: model::Speaker { identity: who.parse().unwrap(), name: None },
            started_at: Timestamp(1),
            user: Some(who.parse().unwrap()),
            limits: storage::StreamLimits::default(),
            now: Timestamp(1_700_000_000_000),
        };
        let open = stage.storage.open_stream(&stream).await.unwrap();
        let sound = Samples(seconds * 16_000);
        let metered = storage::Metered {
            stream: stream.id,
            epoch: open.epoch,
            engine: EngineName::Moonshine,
            heard_end: sound,
            sound,
            at: Timestamp(1_700_000_000_000),
        };
        stage.storage.meter(&metered).await.unwrap();
    }
    let (status, answer) =
        get(&stage, &of(&stage, "/transcription/usage"), Some(&stage.token("carol"))).await;
    assert_eq!(status, 200);
    let usage = answer["usage"].as_array().unwrap();
    let alice = usage.iter().find(|row| row["participantIdentity"] == "alice").unwrap();
    assert_eq!(
        *alice,
        json!({
            "sessionSlug": stage.session, "participantIdentity": "alice", "userId": "alice", "engine": "moonshine",
            "startedAt": "2023-11-14T22:12:19.000Z", "endedAt": "2023-11-14T22:13:20.000Z", "durationSeconds": 61.0,
            "durationMinutes": 2, "cost": 0.04,
        })
    );
    let all =
        json!({"totalMinutes": 3, "totalCost": 0.06, "totalSessions": 2, "averageDurationMinutes": 1.5});
    assert_eq!((usage.len(), &answer["stats"]), (2, &all));

    let stats = "/api/transcription/stats";
    let alices =
        json!({"totalMinutes": 2, "totalCost": 0.04, "totalSessions": 1, "averageDurationMinutes": 2.0});
    let none =
        json!({"totalMinutes": 0, "totalCost": 0.0, "totalSessions": 0, "averageDurationMinutes": 0.0});
    let (alice, carol) = (stage.token("alice"), stage.token("carol"));
    for (path, key, expected) in [
        (stats, SERVICE_KEY, (200, all)),
        ("/api/transcription/stats?userId=alice", SERVICE_KEY, (200, alices.clone())),
        ("/api/transcription/stats?userId=nobody", SERVICE_KEY, (200, none.clone())),
        (stats, &alice, (200, alices.clone())),
        ("/api/transcription/stats?userId=alice", &alice, (200, alices)),
        (stats, &carol, (200, none)),
    ] {
        assert_eq!(get(&stage, path, Some(key)).await, expected, "{path}");
    }
    assert_eq!(get(&stage, "/api/transcription/stats?userId=alice", Some(&carol)).await.0, 403);
    assert_eq!(get(&stage, stats, None).await.0, 401);
    assert_eq!(get(&stage, &format!("{stats}?userId={}", "x".repeat(300)), Some(SERVICE_KEY)).await.0, 400);
    stage.end().await;
}
