//! Captions that back ends hand in.

use std::time::Duration;

use reqwest::{Client as Http, Method};
use serde_json::{Value, json};
use testkit::{Cable, Database, eventually, with_address};

use crate::{
    client::{Client, Read},
    http::{get, post},
    stage::{SERVICE_KEY, Setup, Stage},
};

const BROADCAST: &str = "/api/realtime/transcribe/broadcast";

const TRANSCRIPTS: &str = "/api/transcripts";

const RTMP_SERVER_SECRET: &str = "a secret of the tests' RTMP servers";

async fn broadcast(stage: &Stage, body: Value) -> (u16, Value) {
    post(stage, BROADCAST, Some(SERVICE_KEY), body).await
}

/// A caption with what every caption needs, and more.
fn caption(stage: &Stage, utterance: &str, text: &str, more: Value) -> Value {
    let mut body = json!({"sessionSlug": stage.session, "utteranceId": utterance, "text": text});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// A follower that is told whatever comes from now on.
pub async fn live(stage: &Stage, identity: &str, more: &str) -> Client {
    let mut client = stage.connect(identity, more).await;
    let mut tried = 0;
    eventually("it is told what comes", async || {
        tried += 1;
        let more = json!({"isFinal": true});
        broadcast(stage, caption(stage, "warm-up", &format!("{identity} {tried}"), more)).await;
        client.say(json!({"type": "ping"})).await;
        let mut told = false;
        loop {
            match client.said().await {
                pong if pong["type"] == "pong" => return told,
                said => told |= said["utteranceId"] == "warm-up",
            }
        }
    })
    .await;
    client
}

/// The next message about an utterance.
async fn about(client: &mut Client, utterance: &str) -> Value {
    loop {
        let said = client.said().await;
        if said["utteranceId"] == utterance {
            return said;
        }
    }
}

/// What is stored, without what [`live`] said.
async fn stored(stage: &Stage) -> Vec<(String, String, u32)> {
    stage.transcript().await.into_iter().filter(|(utterance, ..)| utterance != "warm-up").collect()
}

async fn duplicates(stage: &Stage) -> u64 {
    get(stage, "/metrics").await.1["counters"]["ws.duplicate_final_transcripts_skipped"].as_u64().unwrap()
}

#[tokio::test]
async fn a_broadcast_is_checked_field_by_field() {
    let stage = Stage::start().await;
    let slug = stage.session.as_str();
    let (status, answer) = post(&stage, BROADCAST, None, "{").await;
    assert_eq!((status, &answer["error"]), (400, &json!("Invalid JSON")));
    assert!(answer["details"].is_string(), "{answer}");
    assert_eq!(post(&stage, BROADCAST, None, "null").await.1["error"], "Invalid JSON");
    assert_eq!(post(&stage, BROADCAST, None, "[]").await.1["error"], "Missing sessionSlug");
    for (body, error) in [
        (json!({}), "Missing sessionSlug"),
        (json!({"sessionSlug": 7, "text": "a", "utteranceId": "u"}), "Missing sessionSlug"),
        (json!({"sessionSlug": " "}), "Missing sessionSlug"),
        (json!({"sessionSlug": slug}), "Missing or invalid text"),
        (json!({"sessionSlug": slug, "text": ["a"], "utteranceId": "u"}), "Missing or invalid text"),
        (json!({"sessionSlug": slug, "text": "\n", "utteranceId": "u"}), "Missing or invalid text"),
        (json!({"sessionSlug": slug, "text": "\0 \0", "utteranceId": "u"}), "Missing or invalid text"),
        (json!({"sessionSlug": slug, "text": "a"}), "Missing utteranceId"),
        (json!({"sessionSlug": slug, "text": "a", "utteranceId": 5}), "Missing utteranceId"),
    ] {
        assert_eq!(post(&stage, BROADCAST, None, &body).await, (400, json!({"error": error})), "{body}");
    }
    for more in [
        json!({"utteranceId": "u\0"}),
        json!({"utteranceId": "u".repeat(257)}),
        json!({"userId": "u\u{1}"}),
        json!({"speakerId": "s".repeat(257)}),
        json!({"sessionSlug": "s".repeat(129)}),
    ] {
        let body = caption(&stage, "u", "a", more);
        let (status, answer) = broadcast(&stage, body.clone()).await;
        assert_eq!(status, 400, "{body}: {answer}");
        assert!(answer["error"].as_str().unwrap().contains("without control characters"), "{answer}");
    }
    let long = broadcast(&stage, caption(&stage, "u", &"x".repeat(16 * 1024 + 1), json!({}))).await;
    assert_eq!(long, (413, json!({"error": "text is longer than 16 KiB"})));
    let body = caption(&stage, "u", &"x".repeat(1024 * 1024), json!({}));
    assert_eq!(broadcast(&stage, body).await.0, 413, "the body is too large");
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep =
        format!(r#"{{"sessionSlug":"{slug}","text":"a","utteranceId":"u","isFinal":true,"x":{deep}}}"#);
    assert_eq!(post(&stage, BROADCAST, Some(SERVICE_KEY), deep).await.1["error"], "Invalid JSON");
    assert_eq!(stored(&stage).await, []);
    stage.end().await;
}

#[tokio::test]
async fn a_partial_reaches_every_shape_as_it_was_given() {
    let stage = Stage::start().await;
    let mut split = live(&stage, "split", "").await;
    let mut old = live(&stage, "old", "&messages=transcript").await;
    let mut both = live(&stage, "both", "&messages=both").await;
    let id = "Utt/1 ü-0007";
    let more = json!({"isFinal": false, "userId": "u7", "speaker": "Al", "ts": 1_700_000_000_123_i64});
    assert_eq!(
        broadcast(&stage, caption(&stage, id, "hel", more)).await,
        (200, json!({"ok": true, "sent": 3}))
    );
    let expected = json!({
        "type": "transcript_partial", "sessionSlug": stage.session, "utteranceId": id, "text": "hel",
        "isFinal": false, "speaker": "Al", "speakerId": "Al", "userId": "u7", "ts": 1_700_000_000_123_i64,
        "stable": 0,
    });
    let mut transcript = expected.clone();
    transcript["type"] = "transcript".into();
    assert_eq!(about(&mut split, id).await, expected);
    assert_eq!(about(&mut old, id).await, transcript);
    assert_eq!((about(&mut both, id).await, about(&mut both, id).await), (expected, transcript));

    // Name and id stand in for each other, and nobody for neither.
    for (more, speaker, speaker_id) in [
        (json!({"speakerId": "al-1"}), Some("al-1"), Some("al-1")),
        (json!({"speaker": "Al", "speakerId": "al-1"}), Some("Al"), Some("al-1")),
        (json!({"speaker": "", "speakerId": 5}), None, None),
        (json!({}), None, None),
    ] {
        assert_eq!(broadcast(&stage, caption(&stage, id, "hello", more.clone())).await.0, 200);
        let said = about(&mut split, id).await;
        assert_eq!((said["speaker"].as_str(), said["speakerId"].as_str()), (speaker, speaker_id), "{more}");
        assert_eq!(said.get("speaker").is_some(), speaker.is_some(), "absent, not null");
        assert!(said.get("userId").is_none() && said["ts"].as_i64().unwrap() > 1_700_000_000_123, "{said}");
    }
    assert_eq!(stored(&stage).await, [], "no partial is kept");
    stage.end().await;
}

#[tokio::test]
async fn nobody_there_is_said() {
    let stage = Stage::start().await;
    let nobody = (200, json!({"ok": true, "sent": 0, "message": "no clients for sessionSlug"}));
    for is_final in [json!(false), json!(true), json!("true")] {
        let body = caption(&stage, "u", "hello", json!({"isFinal": is_final}));
        assert_eq!(broadcast(&stage, body).await, nobody);
    }
    assert_eq!(stored(&stage).await, [("u".into(), "hello".into(), 0)]);
    let _one = stage.connect("bob", "").await;
    let _two = stage.connect("carol", "").await;
    let body = caption(&stage, "u", "hello again", json!({}));
    assert_eq!(broadcast(&stage, body).await, (200, json!({"ok": true, "sent": 2})));
    stage.end().await;
}

#[tokio::test]
async fn a_final_is_stored_told_once_and_corrected() {
    let stage = Stage::start().await;
    let mut follower = live(&stage, "bob", "").await;
    let id = "gladia-1";
    let more = json!({"isFinal": true, "userId": "u7", "speaker": "Al", "speakerId": "al-1", "ts": 1_700_000_000_123_i64});
    assert_eq!(broadcast(&stage, caption(&stage, id, " Helo wrld. ", more)).await.0, 200);
    let first = about(&mut follower, id).await;
    let sequence = first["sequence"].as_u64().unwrap();
    let expected = json!({
        "type": "transcript_final", "sessionSlug": stage.session, "utteranceId": id, "text": "Helo wrld.",
        "isFinal": true, "speaker": "Al", "speakerId": "al-1", "userId": "u7", "ts": 1_700_000_000_123_i64,
        "stable": 10, "sequence": sequence,
    });
    assert_eq!(first, expected);

    let before = duplicates(&stage).await;
    for more in [json!({"isFinal": true}), json!({"isFinal": true, "speaker": "Bo"})] {
        assert_eq!(broadcast(&stage, caption(&stage, id, "Helo wrld.", more)).await.0, 200);
    }
    assert_eq!(duplicates(&stage).await, before + 2);
    broadcast(&stage, caption(&stage, "gladia-2", "Next.", json!({"isFinal": true}))).await;
    broadcast(&stage, caption(&stage, id, "Hello world.", json!({"isFinal": true}))).await;
    assert_eq!(about(&mut follower, "gladia-2").await["sequence"], sequence + 1, "nothing came between");
    // Text of an utterance that is finished is old.
    broadcast(&stage, caption(&stage, id, "Hel", json!({}))).await;
    let second = about(&mut follower, id).await;
    assert_eq!(
        (&second["text"], &second["revision"], &second["sequence"], &second["isFinal"]),
        (&json!("Hello world."), &json!(1), &json!(sequence + 2), &json!(true))
    );
    assert_eq!((&second["speaker"], &second["speakerId"]), (&json!("Al"), &json!("al-1")), "as it was");
    follower.say(json!({"type": "ping"})).await;
    assert_eq!(follower.said().await["type"], "pong", "and nothing more of it");
    assert_eq!(
        stored(&stage).await,
        [(id.into(), "Hello world.".into(), 1), ("gladia-2".into(), "Next.".into(), 0)]
    );

    let mut late = stage.connect("carol", "&since=0").await;
    let read = [about(&mut late, id).await, about(&mut late, "gladia-2").await, about(&mut late, id).await];
    assert_eq!((&read[0], &read[2]), (&expected, &second), "just as those who were there");
    stage.end().await;
}

#[tokio::test]
async fn a_correction_of_what_we_heard_keeps_its_place() {
    let stage = Stage::start().await;
    let mut voice = stage.voice().await;
    let mut follower = live(&stage, "bob", "").await;
    for text in ["Frist.", "Second."] {
        voice.say(&stage, text).await;
    }
    let (first, second) = (format!("{}-1", voice.id), format!("{}-2", voice.id));
    let heard = about(&mut follower, &first).await;
    let body = caption(&stage, &first, "First.", json!({"isFinal": true, "ts": 1}));
    assert_eq!(broadcast(&stage, body).await.0, 200);
    let corrected = about(&mut follower, &first).await;
    assert_eq!((&corrected["text"], &corrected["revision"]), (&json!("First."), &json!(1)));
    for field in ["stream", "start", "end", "speaker", "speakerId"] {
        assert!(!heard[field].is_null() && corrected[field] == heard[field], "{field}: {corrected}");
    }
    assert!(corrected["sequence"].as_u64() > heard["sequence"].as_u64());
    let expected = [(first, "First.".to_owned(), 1), (second, "Second.".to_owned(), 0)];
    // The warm-up lies before or after by the clock.
    assert_eq!(stored(&stage).await, expected);
    stage.end().await;
}

#[tokio::test]
async fn odd_moments_do_no_harm() {
    let stage = Stage::start().await;
    for (number, ts) in
        [json!(i64::MIN), json!(-1), json!(i64::MAX), json!(1.5), json!("x"), json!(null)].iter().enumerate()
    {
        let body = caption(&stage, &format!("u{number}"), "hello", json!({"isFinal": true, "ts": ts}));
        assert_eq!(broadcast(&stage, body).await.0, 200, "{ts}");
    }
    assert_eq!(stored(&stage).await.len(), 6);
    stage.end().await;
}

async fn transcripts(stage: &Stage, body: impl ToString) -> (u16, Value) {
    post(stage, TRANSCRIPTS, Some(RTMP_SERVER_SECRET), body).await
}

#[tokio::test]
async fn messages_of_rtmp_servers_are_sent_on_as_they_are() {
    let stage = Setup::new().await.set("RTMP_SERVER_SECRET", RTMP_SERVER_SECRET).start().await;
    let mut follower = live(&stage, "bob", "").await;
    let mut old = live(&stage, "carol", "&messages=both").await;
    let done = (200, json!({"ok": true, "status": "ok"}));
    let partial = json!({"type": "transcription", "utteranceId": "u1", "text": "Hel", "is_final": false,
                         "odd": [1, 2.5, {"x": null}], "isFinal": "no"});
    let last = json!({"type": "transcription", "text": "Hello.", "is_final": true, "utterance_id": "u1",
                      "speakerId": "room", "speakerName": "Meeting", "sessionId": "s1"});
    let other = json!({"type": "ai_insights", "insights": {"aiTitle": "T"}, "utteranceId": "u1"});
    for message in [&partial, &other, &last] {
        let mut body = message.clone();
        body["sessionSlug"] = stage.session.as_str().into();
        assert_eq!(transcripts(&stage, body).await, done);
        for client in [&mut follower, &mut old] {
            let said = loop {
                let said = client.said().await;
                if said["utteranceId"] != "warm-up" {
                    break said;
                }
            };
            assert_eq!(said, *message, "verbatim, and once in every shape");
        }
    }
    assert_eq!(stored(&stage).await, [("u1".into(), "Hello.".into(), 0)]);
    // The same final again, and a corrected one of every spelling.
    let before = duplicates(&stage).await;
    let slug = stage.session.as_str();
    let again =
        json!({"sessionSlug": slug, "type": "transcript_final", "utteranceId": "u1", "text": "Hello."});
    assert_eq!(transcripts(&stage, again).await, done);
    assert_eq!(duplicates(&stage).await, before + 1);
    for (spelling, text) in [
        (json!({"isFinal": true, "utteranceId": "u1"}), "one"),
        (json!({"is_final": true, "utterance_id": "u1"}), "two"),
        (json!({"type": "transcript_final", "utteranceId": "u1"}), "three"),
    ] {
        let mut body = spelling.clone();
        body["sessionSlug"] = slug.into();
        body["text"] = text.into();
        assert_eq!(transcripts(&stage, body).await, done);
        let mut expected = spelling;
        expected["text"] = text.into();
        assert_eq!(follower.said().await, expected);
    }
    assert_eq!(stored(&stage).await, [("u1".into(), "three".into(), 3)]);
    let mut late = stage.connect("dave", "&since=0").await;
    let first = loop {
        let said = late.said().await;
        if said["utteranceId"] != "warm-up" {
            break said;
        }
    };
    assert_eq!(first, last, "late followers, too");
    stage.end().await;
}

#[tokio::test]
async fn transcripts_are_refused_with_their_reasons() {
    let unset = Stage::start().await;
    let body = json!({"sessionSlug": "x"});
    for key in [None, Some(RTMP_SERVER_SECRET)] {
        let answer = post(&unset, TRANSCRIPTS, key, &body).await;
        assert_eq!(answer, (500, json!({"error": "Server configuration error"})));
    }
    unset.end().await;

    let stage = Setup::new().await.set("RTMP_SERVER_SECRET", RTMP_SERVER_SECRET).start().await;
    let token = stage.token("alice");
    for key in [None, Some(""), Some("wrong"), Some(token.as_str())] {
        let answer = post(&stage, TRANSCRIPTS, key, "{").await;
        assert_eq!(answer, (401, json!({"error": "Unauthorized"})), "before the body is looked at");
    }
    let (status, answer) = transcripts(&stage, "{").await;
    assert_eq!((status, &answer["error"]), (400, &json!("Invalid JSON")));
    assert!(answer["details"].is_string());
    for body in [json!({}), json!({"sessionSlug": null}), json!({"sessionSlug": [], "text": "a"})] {
        assert_eq!(transcripts(&stage, body).await, (400, json!({"error": "Missing sessionSlug"})));
    }
    let slug = stage.session.as_str();
    let nested = (0..20).fold(json!(1), |inner, _| json!([inner]));
    for (body, status) in [
        (json!({"sessionSlug": slug, "x": "\0"}), 400),
        (json!({"sessionSlug": slug, "x\0": 1}), 400),
        (json!({"sessionSlug": slug, "x": nested}), 400),
        (json!({"sessionSlug": slug, "x": "x".repeat(64 * 1024)}), 413),
        (json!({"sessionSlug": slug, "x": "x".repeat(1024 * 1024)}), 413),
        (json!({"sessionSlug": slug, "isFinal": true, "text": "a", "utteranceId": "u".repeat(300)}), 400),
        (json!({"sessionSlug": slug, "isFinal": true, "text": "a", "utteranceId": "u", "ts": -5}), 200),
    ] {
        let (answered, answer) = transcripts(&stage, &body).await;
        assert_eq!(answered, status, "{answer}");
    }
    assert_eq!(post(&stage, TRANSCRIPTS, Some(SERVICE_KEY), json!({"sessionSlug": slug})).await.0, 200);
    assert_eq!(stored(&stage).await, [("u".into(), "a".into(), 0)]);
    stage.end().await;
}

#[tokio::test]
async fn what_is_away_is_said_with_when_to_come_again() {
    let database = Database::scratch().await;
    let cable = Cable::to(database.host()).await;
    let url = with_address(&database.url(), cable.address());
    let setup = Setup::with(database).set("DATABASE_URL", url.expose());
    let stage = setup.set("RTMP_SERVER_SECRET", RTMP_SERVER_SECRET).start().await;
    let ask = async |path: &str, body: &Value| {
        let request = Http::new().request(Method::POST, stage.http(path)).bearer_auth(SERVICE_KEY);
        let response = request.body(body.to_string()).send().await.unwrap();
        let retry = response.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
        let status = response.status().as_u16();
        (status, retry, response.json::<Value>().await.unwrap())
    };
    let last = caption(&stage, "u", "hello", json!({"isFinal": true}));
    cable.cut();
    for path in [BROADCAST, TRANSCRIPTS] {
        let (status, retry, answer) = ask(path, &last).await;
        assert_eq!((status, retry.as_deref()), (503, Some("5")), "{answer}");
        assert_eq!(answer, json!({"error": "The database is away, try again"}));
    }
    let open = caption(&stage, "u", "hel", json!({}));
    assert_eq!(ask(BROADCAST, &open).await.0, 200, "a partial needs no database");
    cable.mend();
    eventually("it is stored when it comes again", async || ask(BROADCAST, &last).await.0 == 200).await;
    assert_eq!(stored(&stage).await, [("u".into(), "hello".into(), 0)]);
    stage.end().await;

    let stage = Setup::new().await.set("REDIS_URL", "redis://127.0.0.1:1/").start().await;
    let (status, answer) = broadcast(&stage, caption(&stage, "u", "hel", json!({}))).await;
    assert_eq!((status, answer), (503, json!({"error": "Redis is away, try again"})));
    let last = caption(&stage, "u", "hello", json!({"isFinal": true}));
    assert_eq!(broadcast(&stage, last).await.0, 200, "a final needs no Redis");
    assert_eq!(stored(&stage).await.len(), 1);
    assert_eq!(stage.life.end(Duration::from_millis(100)).await, Ok(()));
}

#[tokio::test]
async fn a_follower_who_went_is_not_counted() {
    let stage = Stage::start().await;
    let mut follower = stage.connect("bob", "").await;
    let other = stage.connect("carol", "").await;
    other.close().await;
    eventually("one is left", async || {
        broadcast(&stage, caption(&stage, "u", "hello", json!({}))).await.1["sent"] == 1
    })
    .await;
    follower.say(json!({"type": "ping"})).await;
    assert!(matches!(follower.read().await, Read::Said(_)));
    stage.end().await;
}
