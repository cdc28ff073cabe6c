//! System A's own endpoint test, web client and load test, rewritten from its contract as peers that share no code with
//! the server: they find its successor, through nginx and without it, as they found system A.

use std::collections::BTreeMap;

use e2e::{Client, JWT_SECRET, Plan, Room, SERVICE_KEY, Script, Stack, text};
use serde_json::{Value, json};
use testkit::{Recording, eventually, recording, wer::WordErrors};

const RTMP_SECRET: &str = "what RTMP servers show";

fn base(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// Runs the endpoint test at every door.
async fn endpoints(stack: &Stack, more: Value) {
    for port in stack.doors() {
        let mut argument = json!({"base": base(port), "secret": JWT_SECRET});
        if let (Some(argument), Value::Object(more)) = (argument.as_object_mut(), more.clone()) {
            argument.extend(more);
        }
        let told = Script::start("endpoints.js", &argument).end().await;
        let [result] = told.as_slice() else { panic!("one line: {told:?}") };
        assert!(result["checks"].as_u64().unwrap() > 75, "{result}");
    }
}

#[tokio::test]
async fn its_endpoint_test_passes_with_open_routes() {
    let stack = Stack::set(&[("LEGACY_OPEN_ROUTES", "true"), ("RTMP_SERVER_SECRET", RTMP_SECRET)]).await;
    endpoints(&stack, json!({"rtmpSecret": RTMP_SECRET})).await;
}

#[tokio::test]
async fn its_endpoint_test_passes_with_proofs() {
    let stack = Stack::set(&[("UPGRADE_AUTH", "reject")]).await;
    endpoints(&stack, json!({"key": SERVICE_KEY, "reject": true})).await;
}

/// A page of the web app that is open at a door.
fn page(room: &Room, port: u16, identity: &str) -> Script {
    let argument = json!({"base": base(port), "slug": room.slug, "token": room.token(identity)});
    Script::start("webclient.js", &argument)
}

fn shows(what: &'static str) -> impl Fn(&Value) -> bool {
    move |line| line["shows"] == what
}

/// Finals of a room, once all that was said is stored.
async fn said(room: &Room, recording: &Recording) -> Vec<model::Final> {
    eventually("everything is stored", async || {
        let finals = room.finals().await;
        (WordErrors::between(&recording.text, &text(&finals)).rate() <= 0.2).then_some(finals)
    })
    .await
}

/// What a page has shown, in order: its greeting first, how the sound is understood, and then of each utterance texts that
/// replace each other up to one final, all in one bubble.
fn check_page(lines: &[Value], finals: &[model::Final], shape: &str) {
    let shown: Vec<&Value> = lines.iter().filter(|line| line.get("shows").is_some()).collect();
    assert_eq!(shown[0]["shows"], "connected", "the greeting comes first");
    assert!(!shown.iter().any(|line| line["shows"] == "error" || line["shows"] == "warning"), "{shown:#?}");
    let position = |wanted: &dyn Fn(&Value) -> bool| shown.iter().position(|line| wanted(line));
    let ready = position(&|line| line["status"] == "ready").expect("stt_status");
    let first = position(&|line| line["shows"] == shape).expect("captions");
    assert!(ready < first, "it is said that the sound is understood before there are captions");

    let mut utterances: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    // What the page ended by itself is no message of the server.
    for line in shown.iter().filter(|line| line["shows"] == shape && line["auto"] != true) {
        utterances.entry(line["utterance"].as_str().unwrap()).or_default().push(line);
    }
    let stored: BTreeMap<String, &str> =
        finals.iter().map(|one| (one.utterance.to_string(), one.text.as_str())).collect();
    assert_eq!(utterances.keys().copied().collect::<Vec<_>>(), stored.keys().collect::<Vec<_>>());
    for (utterance, lines) in utterances {
        let (last, partials) = lines.split_last().unwrap();
        assert_eq!(
            (&last["isFinal"], &last["text"]),
            (&json!(true), &json!(stored[utterance])),
            "{lines:#?}"
        );
        assert!(partials.iter().all(|line| line["isFinal"] == false), "one final: {lines:#?}");
        if shape == "bubble" {
            let new: Vec<bool> = lines.iter().map(|line| line["isNew"].as_bool().unwrap()).collect();
            assert!(new[0] && !new[1..].contains(&true), "one bubble: {lines:#?}");
        }
        for line in &lines {
            let said = &line["said"];
            let kind = match (shape, line["isFinal"] == true) {
                ("panel", _) => "transcript",
                (_, true) => "transcript_final",
                (_, false) => "transcript_partial",
            };
            assert_eq!(said["type"], kind);
            assert!(
                said["speaker"].is_string() && said["speakerId"].is_string() && said["ts"].is_u64(),
                "{said}"
            );
        }
    }
}

#[tokio::test]
async fn its_web_client_shows_what_is_said_in_a_room() {
    let stack = Stack::set(&[("LEGACY_OPEN_ROUTES", "true"), ("TRANSCRIPT_MESSAGES", "both")]).await;
    let [front, edge] = stack.doors();
    let room = stack.room();
    let (mut bob, mut carol) = (page(&room, front, "bob"), page(&room, edge, "carol"));
    for page in [&mut bob, &mut carol] {
        let said = page.until("the greeting", shows("connected")).await["said"].clone();
        assert_eq!(said["sessionSlug"], room.slug.as_str());
    }

    // The back end starts the session, and LiveKit's egress sends the whole room.
    let id = format!("id-{}", room.slug);
    let start = json!({"sessionId": id, "sessionSlug": room.slug});
    let answer = reqwest::Client::new()
        .post(format!("{}/api/transcription/start", base(front)))
        .body(start.to_string())
        .send()
        .await
        .unwrap();
    assert_eq!(answer.json::<Value>().await.unwrap(), json!({"ok": true, "mode": "live"}));
    let started = async || stack.storage.started_session(&id).await.expect("the sessions").is_some();
    eventually("the session has started", started).await;
    let url = format!("ws://127.0.0.1:{front}/egress/audio/{id}/room?sampleRate=16000&channels=1");
    let mut egress = Client::connect(&url, &[]).await;
    let recording = recording("jfk");
    let samples = recording.samples();
    let (one, other) = samples.split_at(samples.len() / 2);
    let speaks = |identity: &str| json!({"speaks": {"identity": identity, "name": identity.to_uppercase()}});
    bob.order(&speaks("alice")).await;
    let told =
        |identity: &'static str| move |line: &Value| line["does"] == "track" && line["identity"] == identity;
    let answer = bob.until("who speaks is told", told("alice")).await;
    assert_eq!((&answer["status"], &answer["answer"]), (&json!(200), &json!({"success": true})));
    egress.speak(one).await;
    // In the middle of what is being said, somebody else is louder; the older clients say it on the socket.
    carol.until("a caption", shows("bubble")).await;
    bob.order(&json!({"speaks": null})).await;
    carol.order(&json!({"says": {"type": "active_speaker", "identity": "dave", "timestamp": 1}})).await;
    egress.speak(other).await;
    egress.close().await;
    let finals = said(&room, &recording).await;

    let last = finals.last().unwrap().utterance.to_string();
    for mut page in [bob, carol] {
        let is_last = |line: &Value| {
            line["shows"] == "panel"
                && line["utterance"] == last.as_str()
                && line["isFinal"] == true
                && line["auto"] == false
        };
        page.until("the last final", is_last).await;
        page.order(&json!({"leave": true})).await;
        let lines = page.end().await;
        assert_eq!(lines.last().unwrap()["code"], 1000, "{:?}", lines.last());
        check_page(&lines, &finals, "bubble");
        check_page(&lines, &finals, "panel");
    }

    // How long it took is told: to anybody of all, to a trusted back end of the session.
    let metrics = async |key: &str| {
        let request = reqwest::Client::new().get(format!("{}/metrics", base(front))).bearer_auth(key);
        request.send().await.unwrap().json::<Value>().await.unwrap()
    };
    let of_all = metrics("nobody").await;
    let took = &of_all["latency"]["stt.end_to_transcript_ms"];
    assert!(took["count"].as_u64().unwrap() >= finals.len() as u64, "{of_all:#}");
    let of_session = format!("ws.session_broadcast_lag_ms.{}", room.slug);
    assert!(of_all["latency"][&of_session].is_null() && of_all["sessionClients"] == json!({}), "{of_all:#}");
    assert_eq!(of_all["counters"]["ws.queue_drops_total"], 0);
    let all = metrics(SERVICE_KEY).await;
    assert!(all["latency"][&of_session]["count"].as_u64() >= Some(1), "{all:#}");
    eprintln!("{:#}", all["latency"]);
}

#[tokio::test]
async fn its_panel_shows_test_transcripts_and_both_spellings_are_read() {
    let settings =
        [("LEGACY_OPEN_ROUTES", "true"), ("WS_TEST_MODE", "true"), ("RTMP_SERVER_SECRET", RTMP_SECRET)];
    let stack = Stack::set(&settings).await;
    let room = stack.room();
    let mut page = page(&room, stack.doors()[0], "bob");
    page.until("the greeting", shows("connected")).await;
    let post = async |path: &str, body: Value| {
        let request = reqwest::Client::new().post(stack.http(path)).bearer_auth(RTMP_SECRET);
        request.body(body.to_string()).send().await.unwrap().json::<Value>().await.unwrap()
    };
    let start = json!({"sessionId": "x", "sessionSlug": room.slug});
    assert_eq!(post("/api/transcription/start", start).await, json!({"ok": true, "mode": "test"}));
    // The older shape, of system A's way by tracks.
    let older = json!({
        "sessionSlug": room.slug, "type": "transcription", "text": "Older", "is_final": true, "utterance_id": "o-1",
        "speakerId": "room", "speakerName": "Meeting",
    });
    assert_eq!(post("/api/transcripts", older).await, json!({"ok": true, "status": "ok"}));
    let bubble = page.until("the older caption", shows("bubble")).await;
    let expected = json!("room|o-1");
    assert_eq!(
        (&bubble["key"], &bubble["text"], &bubble["isFinal"]),
        (&expected, &json!("Older"), &json!(true))
    );
    let test = page.until("a test transcript", shows("panel")).await;
    assert_eq!((&test["isFinal"], &test["auto"]), (&json!(true), &json!(false)));
    let said = test["said"].as_object().unwrap();
    let id = said["utteranceId"].as_str().unwrap().strip_prefix("test-").unwrap();
    assert!(id.parse::<u64>().is_ok() && said["ts"].is_u64() && said["userId"].is_string(), "{said:?}");
    page.order(&json!({"leave": true})).await;
    page.end().await;
}

#[tokio::test]
async fn its_web_client_comes_back_and_gives_up_as_it_should() {
    let mut stack = Stack::set(&[("LEGACY_OPEN_ROUTES", "true")]).await;
    let [front, edge] = stack.doors();
    let room = stack.room();
    let mut pages = [page(&room, front, "bob"), page(&room, edge, "carol")];
    for page in &mut pages {
        page.until("the greeting", shows("connected")).await;
    }
    stack.edge.end().await;
    stack.restart_edge().await;
    for page in &mut pages {
        let closed = page.until("it was sent away", |line| line["does"] == "close").await;
        assert_eq!(closed["code"], 1001);
        page.until("the greeting", shows("connected")).await;
    }
    let mut caption = json!({"sessionSlug": room.slug, "utteranceId": "u", "text": "Back", "isFinal": false});
    let broadcast = async |caption: &Value| {
        let url = format!("{}/api/realtime/transcribe/broadcast", base(front));
        let answer = reqwest::Client::new().post(url).body(caption.to_string()).send().await.unwrap();
        assert_eq!(answer.json::<Value>().await.unwrap(), json!({"ok": true, "sent": 2}));
    };
    broadcast(&caption).await;
    caption["isFinal"] = json!(true);
    broadcast(&caption).await;
    for mut page in pages {
        page.until("the final", |line| line["isFinal"] == true).await;
        page.order(&json!({"leave": true})).await;
        let lines = page.end().await;
        let bubbles: Vec<&Value> = lines.iter().filter(|line| line["shows"] == "bubble").collect();
        assert_eq!(bubbles.len(), 2, "{lines:#?}");
        assert_eq!((&bubbles[0]["isNew"], &bubbles[1]["isNew"]), (&json!(true), &json!(false)));
    }

    // A token that is no good is not tried again.
    let argument = json!({"base": base(front), "slug": room.slug, "token": "no token"});
    let lines = Script::start("webclient.js", &argument).end().await;
    let done: Vec<&Value> =
        lines.iter().filter_map(|line| line.get("does").or_else(|| line.get("shows"))).collect();
    assert_eq!(done, ["error", "close", "give up"], "{lines:#?}");
    assert_eq!(lines[1]["code"], 1008);
}

/// Sockets of the load test that send as a microphone does.
const SOCKETS: u64 = 30;

/// Engines with room for all of them.
const ENGINES_FOR_ALL: usize = 8;

/// How long they send, in seconds.
const SECONDS: u64 = 5;

/// Runs the load test at one of the doors, with so many engines.
async fn load(door: impl FnOnce(&Stack) -> u16, engines: usize) {
    let settings = vec![("ENGINE_THREADS", engines.to_string()), ("PING_INTERVAL_MS", "2000".to_owned())];
    let stack = Stack::with(Plan { settings, alone: true, ..Plan::default() }).await;
    let argument =
        json!({"base": base(door(&stack)), "secret": JWT_SECRET, "sockets": SOCKETS, "seconds": SECONDS});
    let told = Script::start("load.js", &argument).end().await;
    let [result] = told.as_slice() else { panic!("one line: {told:?}") };
    assert_eq!(result["lost"], json!([]), "nobody is sent away");
    let problems = result["problems"].as_array().unwrap();
    let has_room = engines >= ENGINES_FOR_ALL;
    if has_room {
        assert_eq!(problems, &[] as &[Value], "nobody is warned");
    } else {
        // Whoever is not heard is told so.
        assert!(problems.iter().all(|problem| problem["code"] == "overloaded"), "{problems:?}");
        assert!(!problems.is_empty(), "there are too few engines for all");
    }
    for figure in ["connections", "greeted", "pinged"] {
        assert_eq!(result[figure], SOCKETS + 1, "{figure}: {result:#}");
    }
    assert_eq!(result["codes"], json!([1000]));
    assert_eq!(result["worklet"], 125 * SECONDS, "none of the worklet's small frames is refused");
    let sent = (10 * SOCKETS + 125) * SECONDS;
    assert_eq!(result["sent"], sent);
    let count = |when: &str, name: &str| result[when]["counters"][name].as_u64().unwrap();
    for name in ["ws.queue_drops_total", "ws.heartbeat_timeouts_total", "ws.broadcast_errors_total"] {
        assert_eq!(count("after", name), 0, "{name}: {result:#}");
    }
    let heard = count("after", "audio.chunks_sent") - count("before", "audio.chunks_sent");
    assert!(if has_room { heard == sent } else { heard < sent }, "{heard} of {sent}");
    for figure in ["queueLength", "totalQueued", "totalFlushed"] {
        assert!(result["before"][figure].is_u64() && result["during"][figure].is_u64(), "{figure}");
    }
    let after = &result["after"];
    assert_eq!((&after["queueLength"], &after["totalErrors"]), (&json!(0), &json!(0)));
    assert_eq!(after["totalQueued"], after["totalFlushed"], "all that was queued is written");
    assert!(after["totalQueued"].as_u64() > Some(SOCKETS), "everybody was noted");
    eprintln!("{:#}", result["during"]["latency"]);
}

#[tokio::test]
async fn its_load_test_loses_nothing_through_nginx() {
    load(|stack| stack.doors()[0], ENGINES_FOR_ALL).await;
}

#[tokio::test]
async fn its_load_test_loses_nothing_at_the_edge() {
    load(|stack| stack.doors()[1], ENGINES_FOR_ALL).await;
}

#[tokio::test]
async fn its_load_test_keeps_its_sockets_where_not_all_can_be_heard() {
    load(|stack| stack.doors()[0], 2).await;
}

#[tokio::test]
async fn a_sixth_stream_of_one_user_is_refused_clearly() {
    let stack = Stack::set(&[("ENGINE_THREADS", "3")]).await;
    for port in stack.doors() {
        let argument = json!({"base": base(port), "secret": JWT_SECRET, "streams": 6});
        let told = Script::start("load.js", &argument).end().await;
        let [result] = told.as_slice() else { panic!("one line: {told:?}") };
        assert_eq!(result["codes"], json!(vec![1000; 6]), "whoever may not speak may follow: {result:#}");
        let [refused] = result["refused"].as_array().unwrap().as_slice() else { panic!("one: {result:#}") };
        let [problem] = refused["problems"].as_array().unwrap().as_slice() else { panic!("one: {result:#}") };
        assert_eq!((&refused["number"], &problem["code"]), (&json!(6), &json!("limit_reached")));
        assert!(!problem["message"].as_str().unwrap().is_empty());
    }
}
