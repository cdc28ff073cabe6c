//! A stream is sent on to another server, which may be away.

use testkit::{Cable, eventually};
use tokio::net::TcpListener;

use crate::{
    encoder::Encoder,
    stage::{Setup, Stage},
};

async fn heard(stage: &Stage, millis: usize) {
    let enough =
        async || stage.worker.heard().first().is_some_and(|heard| heard.samples.len() >= millis * 16);
    eventually("it is heard", enough).await;
}

#[tokio::test]
async fn what_comes_goes_on_to_another_server_also_after_it_was_away() {
    let other = Stage::start().await;
    let cable = Cable::to(other.address().to_string()).await;
    let url = format!("rtmp://{}/live/{{session}}", cable.address());
    let stage = Setup::new().await.set("RTMP_FORWARD_URL", &url).start().await;
    let mut encoder = Encoder::publish(stage.address(), stage.session.as_str()).await;
    encoder.sound(1_000).await;
    heard(&stage, 900).await;
    heard(&other, 900).await;
    let source = other.worker.ears(|ears| ears.sources[0].clone());
    assert_eq!(source.session, stage.session, "under the name of the session");
    let same = |heard: &[i16]| heard[..14_400].to_vec();
    assert_eq!(same(&stage.worker.heard()[0].samples), same(&other.worker.heard()[0].samples), "unchanged");

    cable.cut();
    encoder.sound(1_000).await;
    heard(&stage, 1_900).await;
    cable.mend();
    let again = async || {
        encoder.sound(100).await;
        other.metric("rtmp_ingest_publishes_total{outcome=\"continued\"}").await >= 1.0
    };
    eventually("the other server is found again", again).await;
    encoder.sound(1_000).await;
    heard(&other, 2_000).await;
    encoder.leave().await;
}

#[tokio::test]
async fn a_publisher_that_is_refused_or_gone_is_not_sent_on() {
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("rtmp://{}/live/{{key}}", other.local_addr().unwrap());
    let stage = Setup::new().await;
    let stage = stage.set("RTMP_FORWARD_URL", &url).set("RTMP_TAKEOVER", "refuse").start().await;
    let encoder = Encoder::publish(stage.address(), stage.session.as_str()).await;
    let first = other.accept().await.unwrap();
    let mut second = Encoder::connect(stage.address(), stage.session.as_str()).await;
    while second.event().await.is_some() {}
    // The other server hangs up; before it is asked again, the publisher goes.
    drop(first);
    let lost = async || stage.metric("rtmp_ingest_relay_reconnects_total").await >= 1.0;
    eventually("the other server is lost", lost).await;
    encoder.leave().await;
    eventually("the relay ends", async || stage.metric("rtmp_ingest_relays").await < 1.0).await;
    stage.end().await;
    let another = tokio::select! {
        biased;
        another = other.accept() => another.is_ok(),
        () = std::future::ready(()) => false,
    };
    assert!(!another, "one publisher was sent on, once");
}

#[tokio::test]
async fn nobody_notices_that_the_other_server_is_away() {
    let url = format!("rtmp://127.0.0.1:{}/live/{{key}}", testkit::free_port());
    let stage = Setup::new().await.set("RTMP_FORWARD_URL", &url).start().await;
    let mut encoder = Encoder::publish(stage.address(), stage.session.as_str()).await;
    encoder.sound(3_000).await;
    heard(&stage, 2_900).await;
}
