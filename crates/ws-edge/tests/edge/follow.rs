//! The captions of a session, live and from the past.

use event_bus::BusSettings;
use model::{Caption, Samples, Untranslated, UtteranceId};
use serde_json::{Value, json};
use testkit::{Cable, Database, RedisServer, eventually, with_address};

use crate::{
    client::{Client, Read},
    stage::{Setup, Stage, Voice},
};

/// Makes sure that the edge tells this follower every final from now on. Returns the sequence of the last that it
/// took to find out.
async fn tuned(stage: &Stage, voice: &mut Voice, follower: &mut Client) -> u64 {
    eventually("the follower hears", async || {
        let sequence = voice.say(stage, TUNING).await;
        follower.say(json!({"type": "ping"})).await;
        let mut heard = false;
        loop {
            let said = follower.said().await;
            heard |= said["text"] == TUNING;
            if said["type"] == "pong" {
                return heard.then_some(sequence.0);
            }
        }
    })
    .await
}

const TUNING: &str = "tuning";

/// The texts of the next `count` finals, and that their sequences rise by one.
async fn finals(follower: &mut Client, count: usize) -> Vec<String> {
    let mut texts = Vec::new();
    let mut last: Option<u64> = None;
    while texts.len() < count {
        let said = follower.expect("transcript_final").await;
        if said["text"] == TUNING {
            continue;
        }
        let sequence = said["sequence"].as_u64().unwrap();
        assert!(last.is_none_or(|last| sequence == last + 1), "{last:?} then {sequence}");
        last = Some(sequence);
        texts.push(said["text"].as_str().unwrap().to_owned());
    }
    texts
}

fn texts(range: std::ops::RangeInclusive<usize>) -> Vec<String> {
    range.map(|n| format!("text {n}")).collect()
}

#[tokio::test]
async fn followers_read_partials_and_finals() {
    let stage = Stage::start().await;
    let mut voice = stage.voice().await;
    let mut follower = stage.connect("bob", "").await;
    let tuning = tuned(&stage, &mut voice, &mut follower).await;
    stage.publish(voice.partial(&stage, "So it")).await;
    let partial = loop {
        let partial = follower.expect("transcript_partial").await;
        if partial["text"] == "So it" {
            break partial;
        }
    };
    assert_eq!(partial["sessionSlug"], stage.session.as_str());
    assert_eq!(
        (&partial["isFinal"], &partial["speaker"], &partial["speakerId"]),
        (&json!(false), &json!("Alice"), &json!("alice"))
    );
    assert_eq!((&partial["stable"], &partial["sequence"]), (&json!(1), &Value::Null));
    let late = voice.partial(&stage, "late");
    voice.say(&stage, "So it goes.").await;
    let last = follower.expect("transcript_final").await;
    assert_eq!(
        (&last["text"], &last["isFinal"], &last["sequence"]),
        (&json!("So it goes."), &json!(true), &json!(tuning + 1))
    );
    assert_eq!((&last["utteranceId"], &last["start"]), (&partial["utteranceId"], &partial["start"]));
    // A partial of a finished utterance is old news.
    stage.publish(late).await;
    stage.publish(voice.partial(&stage, "Next")).await;
    assert_eq!(follower.expect("transcript_partial").await["text"], "Next");
    stage.end().await;
}

#[tokio::test]
async fn connections_choose_their_messages() {
    let stage = Stage::start().await;
    let mut voice = stage.voice().await;
    let mut plain = stage.connect("a", "").await;
    let mut old = stage.connect("b", "&messages=transcript").await;
    let mut both = stage.connect("c", "&messages=both").await;
    let mut calm = stage.connect("d", "&partials=false").await;
    let mut native = stage.connect("e", "").await;
    native.say(json!({"type": "init", "partials": false, "messages": "transcript"})).await;
    native.expect("initialized").await;
    for client in [&mut plain, &mut old, &mut both, &mut calm, &mut native] {
        tuned(&stage, &mut voice, client).await;
    }
    stage.publish(voice.partial(&stage, "One")).await;
    voice.say(&stage, "One.").await;
    let kinds = async |client: &mut Client| {
        let mut kinds = Vec::new();
        loop {
            let said = client.said().await;
            if said["text"] == "One." || said["text"] == "One" {
                kinds.push(format!("{} {}", said["type"].as_str().unwrap(), said["text"].as_str().unwrap()));
                let enough = said["text"] == "One." && (kinds.len() % 2 == 0 || kinds.len() == 1);
                if enough {
                    return kinds;
                }
            }
        }
    };
    assert_eq!(kinds(&mut plain).await, ["transcript_partial One", "transcript_final One."]);
    assert_eq!(kinds(&mut old).await, ["transcript One", "transcript One."]);
    assert_eq!(
        kinds(&mut both).await,
        ["transcript_partial One", "transcript One", "transcript_final One.", "transcript One."]
    );
    assert_eq!(kinds(&mut calm).await, ["transcript_final One."]);
    assert_eq!(kinds(&mut native).await, ["transcript One."]);
    stage.end().await;
}

#[tokio::test]
async fn a_replay_joins_the_live_captions_without_gap_or_overlap() {
    let stage = Stage::start().await;
    let mut voice = stage.voice().await;
    let mut early = stage.connect("bob", "").await;
    let tuning = tuned(&stage, &mut voice, &mut early).await;
    // More than one page of the past.
    for n in 1..=450 {
        voice.store(&stage, &format!("text {n}")).await;
    }
    let speaking = async {
        for n in 451..=500 {
            voice.say(&stage, &format!("text {n}")).await;
        }
    };
    let following = async {
        let mut late = stage.connect("carol", "&since=0").await;
        let mut later = stage.connect("dave", "").await;
        later.say(json!({"type": "follow", "since": tuning + 440})).await;
        assert_eq!(finals(&mut late, 500).await, texts(1..=500));
        assert_eq!(finals(&mut later, 60).await, texts(441..=500));
    };
    tokio::join!(speaking, following);
    // The one that was there all along had a gap, which was refilled.
    assert_eq!(finals(&mut early, 500).await, texts(1..=500));
    stage.end().await;
}

#[tokio::test]
async fn finals_come_in_order_and_once_whatever_the_bus_does() {
    let stage = Stage::start().await;
    let mut voice = stage.voice().await;
    let mut follower = stage.connect("bob", "").await;
    tuned(&stage, &mut voice, &mut follower).await;
    let mut stored = Vec::new();
    for n in 1..=6 {
        stored.push(voice.store(&stage, &format!("text {n}")).await);
    }
    // 2 before 1, 3 never, 4 twice, 6 before 5.
    for n in [2, 1, 4, 4, 6, 5, 1] {
        stage.publish(Caption::Final(stored[n - 1].clone())).await;
    }
    assert_eq!(finals(&mut follower, 6).await, texts(1..=6));
    follower.settled().await;
    voice.say(&stage, "text 7").await;
    assert_eq!(finals(&mut follower, 1).await, ["text 7"]);
    stage.end().await;
}

#[tokio::test]
async fn after_redis_was_away_the_captions_catch_up() {
    let mut redis = RedisServer::start().await;
    let mut stage = Setup::new().await.set("REDIS_URL", redis.url().expose()).start().await;
    let settings = BusSettings { url: redis.url(), prefix: stage.prefix.clone(), others: None };
    stage.bus = event_bus::EventBus::connect(&settings).unwrap();
    let mut voice = stage.voice().await;
    let mut follower = stage.connect("bob", "").await;
    tuned(&stage, &mut voice, &mut follower).await;
    voice.say(&stage, "text 1").await;
    assert_eq!(finals(&mut follower, 1).await, texts(1..=1));
    redis.kill().await;
    for n in 2..=5 {
        voice.store(&stage, &format!("text {n}")).await;
    }
    redis.restart().await;
    assert_eq!(finals(&mut follower, 4).await, texts(2..=5));
    stage.end().await;
}

#[tokio::test]
async fn while_postgres_is_away_partials_go_on_and_finals_wait() {
    let database = Database::scratch().await;
    let cable = Cable::to(database.host()).await;
    let url = with_address(&database.url(), cable.address());
    let setup = Setup::with(database).set("DATABASE_URL", url.expose()).set("DATABASE_CONNECT_MS", "300");
    let stage = setup.start().await;
    let mut voice = stage.voice().await;
    let mut follower = stage.connect("bob", "").await;
    tuned(&stage, &mut voice, &mut follower).await;
    cable.cut();
    // 2 is announced and 1 is not, so that the edge must ask.
    voice.store(&stage, "text 1").await;
    voice.say(&stage, "text 2").await;
    let mut late = stage.connect("carol", "&since=0").await;
    stage.publish(voice.partial(&stage, "still")).await;
    loop {
        let said = follower.said().await;
        assert_ne!(said["text"], "text 2", "out of order");
        if said["text"] == "still" {
            break;
        }
    }
    assert_eq!(late.expect("transcript_partial").await["text"], "still", "its replay waits, it does not");
    cable.mend();
    assert_eq!(finals(&mut follower, 2).await, texts(1..=2));
    assert_eq!(finals(&mut late, 2).await, texts(1..=2));
    stage.end().await;
}

#[tokio::test]
async fn a_follower_that_does_not_read_is_given_up_and_the_others_are_not_delayed() {
    let setup = Setup::new().await.set("FOLLOWER_QUEUE", "8").set("WRITE_LIMIT_MS", "500");
    let stage = setup.start().await;
    let mut voice = stage.voice().await;
    let mut quick = stage.connect("bob", "").await;
    tuned(&stage, &mut voice, &mut quick).await;
    let mut slow = stage.connect("carol", "").await;
    // The kernel's buffers take megabytes before the slow one counts as slow.
    // One word, which is quickly indexed.
    let long = "x".repeat(200_000);
    for _ in 0..100 {
        voice.say(&stage, &long).await;
        quick.expect("transcript_final").await;
    }
    eventually("only the quick one is left", async || {
        let metrics = reqwest::get(stage.http("/metrics")).await.unwrap();
        metrics.json::<Value>().await.unwrap()["activeConnections"] == 1
    })
    .await;
    // What was sent before it was given up; then the code, unless it read so little that no word got through.
    let code = loop {
        match slow.read().await {
            Read::Said(_) => {}
            Read::Closed(code, _) => break Some(code),
            Read::Lost => break None,
        }
    };
    assert!(code.is_none_or(|code| code == 4013), "{code:?}");
    quick.settled().await;
    stage.end().await;
}

#[tokio::test]
async fn a_follower_that_claims_to_have_what_was_never_there_hears_what_comes() {
    let stage = Stage::start().await;
    let mut voice = stage.voice().await;
    voice.say(&stage, "text 1").await;
    let mut ahead = stage.connect("bob", "&since=1000000").await;
    tuned(&stage, &mut voice, &mut ahead).await;
    stage.end().await;
}

#[tokio::test]
async fn nothing_of_another_session_is_told() {
    let stage = Stage::start().await;
    let mut voice = stage.voice().await;
    let mut follower = stage.connect("bob", "").await;
    tuned(&stage, &mut voice, &mut follower).await;
    let other =
        testkit::tokens::good(&stage.secret, &format!("{}-other", stage.session).parse().unwrap(), "eve");
    let mut eve = Client::connect(&stage.url(&format!("token={other}&since=0")), &[]).await;
    eve.expect("connected").await;
    voice.say(&stage, "text 1").await;
    assert_eq!(finals(&mut follower, 1).await, texts(1..=1));
    eve.say(json!({"type": "ping"})).await;
    assert_eq!(eve.said().await["type"], "pong", "nothing before it");
    stage.end().await;
}

#[tokio::test]
async fn a_follower_that_reads_too_late_learns_why_it_was_closed() {
    let stage = Setup::new().await.set("FOLLOWER_QUEUE", "4").start().await;
    let mut voice = stage.voice().await;
    let mut quick = stage.connect("bob", "").await;
    tuned(&stage, &mut voice, &mut quick).await;
    let mut slow = stage.connect("carol", "").await;
    // One word, which is quickly indexed.
    let long = "x".repeat(200_000);
    for _ in 0..100 {
        voice.say(&stage, &long).await;
        quick.expect("transcript_final").await;
    }
    // Within the time that one message may take to leave, it reads again: first what was queued, then the reason.
    let (error, code, _) = slow.ended().await;
    assert_eq!((error.unwrap()["code"].as_str(), code), (Some("overloaded"), 4013));
    stage.end().await;
}

#[tokio::test]
async fn how_long_captions_take_is_told_of_streams_that_this_edge_carries() {
    let stage = Stage::start().await;
    let mut voice = stage.voice().await;
    let mut alice = stage.connect("alice", "").await;
    alice.say(json!({"type": "init", "encoding": "pcm_s16le"})).await;
    let stream = alice.expect("initialized").await["stream"].as_str().unwrap().parse().unwrap();
    tuned(&stage, &mut voice, &mut alice).await;
    alice.send(vec![0; 32_000]).await;
    let heard = || stage.worker.heard(|heard| heard.samples.len());
    eventually("the sound is with the worker", async || heard() == 16_000).await;
    let latency = async || {
        let metrics: Value = reqwest::get(stage.http("/metrics")).await.unwrap().json().await.unwrap();
        metrics["latency"].clone()
    };
    let before = latency().await;
    assert!(before["stt.end_to_transcript_ms"].is_null(), "those of another edge: {before}");
    assert!(before["ws.session_broadcast_lag_ms"]["count"].as_u64() >= Some(1), "{before}");
    assert_eq!(before["audio.chunk_size_bytes"]["maxMs"], 32_000.0);
    assert_eq!(before["ingest.processing_latency_ms"]["count"], 1);

    // One whose sound has come, and one that claims sound which has not.
    for (end, text) in [(8_000, "one"), (16_001, "two")] {
        let Caption::Partial(mut partial) = voice.partial(&stage, text) else { panic!("a partial") };
        partial.utterance = UtteranceId::Heard { stream, number: 1 };
        partial.end = Samples(end);
        stage.publish(Caption::Partial(partial)).await;
        assert_eq!(alice.expect("transcript_partial").await["text"], text);
    }
    let after = latency().await;
    assert_eq!(after["stt.end_to_transcript_ms"]["count"], 1, "{after}");
    let prometheus = reqwest::Client::new().get(stage.http("/metrics")).header("accept", "text/plain");
    let prometheus = prometheus.send().await.unwrap().text().await.unwrap();
    for part in ["_bucket{kind=\"partial\",le=\"0.7\"}", "_count{kind=\"partial\"} "] {
        assert!(prometheus.contains(&format!("ws_edge_end_to_caption_seconds{part}")), "{part}");
    }
    stage.end().await;
}

#[tokio::test]
async fn translations_come_in_their_place_live_and_later() {
    let stage = Stage::start().await;
    let mut voice = stage.voice().await;
    let mut follower = stage.connect("bob", "").await;
    tuned(&stage, &mut voice, &mut follower).await;
    let first = voice.store(&stage, "text 1").await;
    let arabic = voice.translate(&stage, "ar", Ok("[ar] text 1")).await;
    let german = voice.translate(&stage, "de", Err(Untranslated::TooLate)).await;
    let second = voice.store(&stage, "text 2").await;
    // The Arabic one twice and before its final, the German one never.
    for caption in [
        Caption::Translation(arabic.clone()),
        Caption::Final(first.clone()),
        Caption::Translation(arabic.clone()),
        Caption::Final(second.clone()),
    ] {
        stage.publish(caption).await;
    }
    let mut late = stage.connect("late", &format!("&since={}", first.sequence.0 - 1)).await;
    let mut socket = stage.connect("older", &format!("&since={}&messages=both", first.sequence.0 - 1)).await;
    for (client, who) in [(&mut follower, "live"), (&mut late, "late"), (&mut socket, "older")] {
        let mut told = Vec::new();
        while told.len() < 4 {
            let message = client.said().await;
            let is_stored = matches!(message["type"].as_str(), Some("transcript_final" | "translation"));
            if is_stored && message["text"] != TUNING {
                told.push(message);
            }
        }
        let places: Vec<_> = told.iter().map(|message| message["sequence"].as_u64().unwrap()).collect();
        let expected = [first.sequence, arabic.sequence, german.sequence, second.sequence];
        assert_eq!(places, expected.map(|sequence| sequence.0), "{who}");
        assert_eq!(
            (&told[1]["utteranceId"], &told[1]["language"], &told[1]["text"], &told[1]["speaker"]),
            (&told[0]["utteranceId"], &json!("ar"), &json!("[ar] text 1"), &json!("Alice")),
            "{who}"
        );
        assert_eq!((&told[2]["error"], &told[2]["text"]), (&json!("too_late"), &Value::Null), "{who}");
        // Whoever reads the past has them in the transcript, too.
        let known = if who == "live" { Value::Null } else { json!({"ar": "[ar] text 1"}) };
        assert_eq!((&told[0]["translations"], &told[3]["translations"]), (&known, &Value::Null), "{who}");
    }
    stage.end().await;
}
