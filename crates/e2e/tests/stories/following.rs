//! Following at one's own pace.

use e2e::Stack;
use model::{Samples, Speaker, StreamId};
use serde_json::json;
use storage::{NewFinal, NewStream, Recorded};
use testkit::eventually;
use uuid::Uuid;

#[tokio::test]
async fn a_follower_that_does_not_read_is_sent_away_and_reads_on_where_it_was() {
    let stack = Stack::set(&[("FOLLOWER_QUEUE", "12"), ("WRITE_LIMIT_MS", "60000")]).await;
    let room = stack.room();
    let (mut quick, mut slow) = (room.join("quick").await, room.join("slow").await);
    let speaker = Speaker { identity: "alice".parse().unwrap(), name: None };
    let now = model::Clock::system().now();
    let id = StreamId(Uuid::new_v4());
    let stream = NewStream {
        id,
        session: room.slug.clone(),
        speaker: speaker.clone(),
        started_at: now,
        user: None,
        limits: storage::StreamLimits::default(),
        now,
    };
    let open = stack.storage.open_stream(&stream).await.unwrap();

    // 50 MB of them, since the kernel's buffers on both sides of nginx may grow to 20 MB. The worker's relay announces
    // them.
    let long = "word ".repeat(40_000);
    let count = 250;
    for number in 1..=count {
        let end = Samples(u64::from(number) * 16_000);
        let segment = NewFinal {
            session_id: open.session_id,
            session: room.slug.clone(),
            epoch: open.epoch,
            stream: id,
            number,
            speaker: speaker.clone(),
            text: format!("{number} {long}"),
            language: None,
            start: Samples(end.0 - 16_000),
            end,
            words: Vec::new(),
            translate_to: Vec::new(),
            at: now,
        };
        assert!(matches!(stack.storage.record_final(&segment).await.unwrap(), Recorded::Stored(_)));
        if number % 10 == 0 {
            quick.finals_to(number.into()).await;
        }
    }
    let (error, code) = slow.ended().await;
    assert_eq!((error.unwrap()["code"].clone(), code), (json!("overloaded"), 4013));

    // What it missed is there when it comes back.
    let seen = slow.finals().last().map_or(0, |last| last["sequence"].as_u64().unwrap());
    assert!(seen < count.into(), "it was told everything in time");
    let mut back = room.join_with("slow", &format!("&since={seen}")).await;
    let rest = back.finals_to(count.into()).await;
    let sequences: Vec<u64> = rest.iter().map(|last| last["sequence"].as_u64().unwrap()).collect();
    assert_eq!(sequences, (seen + 1..=count.into()).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_follower_at_another_edge_reads_the_same() {
    let stack = Stack::start().await;
    let room = stack.room();
    let (_edge, port) = stack.another_edge().await;
    let (mut alice, mut bob) = (room.join("alice").await, room.at(port).join("bob").await);
    // Alice speaks here and Carol there, in one session.
    let mut carol = room.at(port).join("carol").await;
    for (speaker, name) in [(&mut alice, "LJ001-0008"), (&mut carol, "LJ001-0002")] {
        speaker.init(json!({"encoding": "wav"})).await;
        speaker.pour(&std::fs::read(testkit::recording(name).path).unwrap(), 10_000).await;
        speaker.stop().await;
    }
    assert_eq!(bob.expect("stt_status").await["sessionSlug"], room.slug.as_str());
    let finals = room.finals().await;
    let stored: Vec<_> = finals.iter().map(|last| (json!(last.sequence.0), json!(last.text))).collect();
    assert!(finals.iter().any(|last| last.speaker.identity.as_str() == "carol"));
    for client in [&mut alice, &mut bob, &mut carol] {
        let told = client.finals_to(finals.last().unwrap().sequence.0).await;
        let told: Vec<_> = told.iter().map(|last| (last["sequence"].clone(), last["text"].clone())).collect();
        assert_eq!(told, stored);
    }
}

#[tokio::test]
async fn a_client_that_answers_no_ping_is_given_up() {
    let stack = Stack::set(&[("PING_INTERVAL_MS", "100")]).await;
    let room = stack.room();
    let mut alive = room.join("alive").await;
    let target = room.target(&format!("token={}", room.token("dead")));
    let mut dead = e2e::RawSocket::open(stack.nginx.http_port, &target).await;
    tokio::select! {
        closed = dead.closed() => assert_eq!(closed, Some((4008, "Heartbeat timeout".to_owned()))),
        end = alive.ended() => panic!("who answers is left alone: {end:?}"),
    }
    alive.settled().await;
}

#[tokio::test]
async fn every_way_to_have_captions_written_is_kept() {
    let stack = Stack::start().await;
    let room = stack.room();
    let mut split = room.join("split").await;
    let mut joined = room.join_with("joined", "&messages=transcript").await;
    let mut both = room.join_with("both", "&messages=both&partials=false").await;
    let mut alice = room.join("alice").await;
    alice.init(json!({})).await;
    alice.pour(&std::fs::read(testkit::recording("LJ001-0008").path).unwrap(), 10_000).await;
    alice.stop().await;
    let last = room.finals().await.last().expect("a final").sequence.0;

    split.finals_to(last).await;
    assert!(split.told("transcript").is_empty());
    let told = eventually("system A's older page has it", async || {
        let told = joined.expect("transcript").await;
        (told["isFinal"] == true && told["sequence"] == last).then_some(told)
    })
    .await;
    assert_eq!(told["sessionSlug"], room.slug.as_str());
    assert!(joined.finals().is_empty());
    both.finals_to(last).await;
    both.expect("transcript").await;
    assert!(both.told("transcript_partial").is_empty());
}
