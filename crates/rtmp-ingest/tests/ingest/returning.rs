//! Publishers that are lost and return, that leave, and that come when another is there.

use std::time::Duration;

use rtmp::ClientEvent;
use testkit::eventually;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::{
    encoder::Encoder,
    hostile,
    stage::{Setup, Stage},
    worker::Mood,
};

/// Waits until the worker has heard so many milliseconds of the first stream.
async fn heard(stage: &Stage, millis: usize) {
    let enough =
        async || stage.worker.heard().first().is_some_and(|heard| heard.samples.len() >= millis * 16);
    eventually("it is heard", enough).await;
}

#[tokio::test]
async fn a_publisher_that_returns_goes_on_with_its_stream() {
    let stage = Stage::start().await;
    let mut encoder = Encoder::publish(stage.address(), stage.session.as_str()).await;
    encoder.sound(1_000).await;
    heard(&stage, 900).await;
    encoder.cut();
    let ended = async || stage.worker.heard()[0].finalized == 1;
    eventually("the open utterance is ended", ended).await;

    let mut encoder = Encoder::publish(stage.address(), stage.session.as_str()).await;
    encoder.sound(1_000).await;
    heard(&stage, 1_900).await;
    encoder.leave().await;
    assert_eq!(stage.worker.heard().len(), 1, "one stream");
    assert!(stage.metric("rtmp_ingest_publishes_total{outcome=\"continued\"}").await >= 1.0);
}

#[tokio::test]
async fn a_connection_that_has_ended_its_publication_may_begin_another() {
    let limit = Duration::from_millis(1_000);
    let stage = Setup::new().await.set("RTMP_PUBLISH_MS", "1000").start().await;
    let mut stream = TcpStream::connect(stage.address()).await.unwrap();
    let began = Instant::now();
    let publish = hostile::publish(stage.session.as_str());
    let mut said = Vec::new();
    let mut told = async |bytes: &[u8], what: &str| {
        stream.write_all(bytes).await.unwrap();
        while !said.windows(what.len()).any(|part| part == what.as_bytes()) {
            let read = timeout(Duration::from_secs(30), stream.read_buf(&mut said)).await;
            assert!(read.unwrap().unwrap() > 0, "closed before {what}");
        }
        said.clear();
    };
    let opening = [hostile::handshake(), hostile::connect(), publish.clone()].concat();
    told(&opening, "NetStream.Publish.Start").await;
    eventually("its first deadline is long over", async || began.elapsed() > limit).await;
    told(&hostile::command("closeStream", &[&[5]]), "NetStream.Unpublish.Success").await;
    told(&publish, "NetStream.Publish.Start").await;
    told(&hostile::command("closeStream", &[&[5]]), "NetStream.Unpublish.Success").await;
    // What it says then puts nothing off: each answer is a reason for another word, until none comes.
    let word = hostile::command("_checkbw", &[&[5]]);
    let talk = async {
        while stream.write_all(&word).await.is_ok()
            && stream.read_buf(&mut said).await.is_ok_and(|count| count > 0)
        {
            said.clear();
        }
    };
    timeout(Duration::from_secs(30), talk).await.expect("it is closed when it begins no other");
}

#[tokio::test]
async fn a_second_publisher_takes_over() {
    let stage = Stage::start().await;
    let mut first = Encoder::publish(stage.address(), stage.session.as_str()).await;
    first.sound(1_000).await;
    heard(&stage, 900).await;
    let mut second = Encoder::publish(stage.address(), stage.session.as_str()).await;
    assert_eq!(first.event().await, Some(ClientEvent::Unpublished));
    assert_eq!(first.event().await, None, "and it is closed");
    second.sound(1_000).await;
    heard(&stage, 1_900).await;
    assert_eq!(stage.worker.heard().len(), 1, "one stream");
}

#[tokio::test]
async fn a_second_publisher_is_refused_where_that_is_wanted() {
    let stage = Setup::new().await.set("RTMP_TAKEOVER", "refuse").start().await;
    let mut first = Encoder::publish(stage.address(), stage.session.as_str()).await;
    let mut second = Encoder::connect(stage.address(), stage.session.as_str()).await;
    assert!(matches!(second.event().await, Some(ClientEvent::Refused(_))));
    assert_eq!(second.event().await, None);
    first.sound(1_000).await;
    heard(&stage, 900).await;
    assert!(stage.metric("rtmp_ingest_refusals_total{reason=\"key_in_use\"}").await >= 1.0);
}

#[tokio::test]
async fn a_stream_that_nobody_returns_to_is_finished() {
    let stage = Setup::new().await.set("RTMP_REJOIN_SECONDS", "0").start().await;
    for turn in 1..=2 {
        let mut encoder = Encoder::publish(stage.address(), stage.session.as_str()).await;
        encoder.sound(500).await;
        encoder.leave().await;
        let ended = async || stage.worker.heard().iter().filter(|heard| heard.ended).count() == turn;
        eventually("the stream is finished", ended).await;
    }
    assert_eq!(stage.worker.heard().len(), 2, "another stream");
}

#[tokio::test]
async fn sound_waits_for_a_worker_that_has_room() {
    let stage = Setup::new().await.set("RTMP_REJOIN_SECONDS", "0").start().await;
    stage.worker.ears(|ears| ears.mood = Mood::Busy);
    let mut encoder = Encoder::publish(stage.address(), stage.session.as_str()).await;
    encoder.sound(2_000).await;
    eventually("the worker was asked", async || stage.worker.ears(|ears| ears.refused > 1)).await;
    encoder.sound(1_000).await;
    encoder.leave().await;
    let refused = stage.worker.ears(|ears| ears.refused);
    eventually("it is asked on", async || stage.worker.ears(|ears| ears.refused > refused + 1)).await;
    stage.worker.ears(|ears| ears.mood = Mood::Willing);
    let ended = async || stage.worker.heard().first().is_some_and(|heard| heard.ended);
    eventually("everything is heard in the end", ended).await;
    let heard = stage.worker.heard().remove(0).samples.len();
    assert!((47_900..=48_100).contains(&heard), "{heard}");
}

#[tokio::test]
async fn a_draining_ingest_finishes_what_was_said() {
    let stage = Stage::start().await;
    let mut encoder = Encoder::publish(stage.address(), stage.session.as_str()).await;
    encoder.sound(1_000).await;
    heard(&stage, 900).await;
    stage.end().await;
    let heard = stage.worker.heard().remove(0);
    assert!(heard.ended && heard.samples.len() >= 15_900, "{}", heard.samples.len());
    assert_eq!(encoder.event().await, Some(ClientEvent::Unpublished));
}
