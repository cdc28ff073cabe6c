//! An operator looks at one utterance, or one notification, from its first moment to its last, in all services.

use e2e::{Room, SERVICE_KEY, Stack, run, sound, text};
use serde_json::json;
use testkit::{RecordedSpan, TraceCollector, eventually, free_port, recording};

/// A stack that tells everything it does.
async fn traced(collector: &TraceCollector) -> Stack {
    Stack::set(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint()),
        ("OTEL_TRACES_SAMPLER", "always_on"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test"),
        ("RTMP_OPEN_KEYS", "true"),
        ("RTMP_REJOIN_SECONDS", "1"),
    ])
    .await
}

/// The way of something that was delivered to these followers, from its beginning.
async fn delivered(collector: &TraceCollector, first: &str, followers: &str) -> Vec<RecordedSpan> {
    eventually("the trace of a delivery is whole", async || {
        let spans = collector.spans();
        let is_delivery = |span: &&RecordedSpan| {
            span.name == "deliver"
                && span.attributes.get("parley.followers").is_some_and(|count| count == followers)
        };
        let mut ways = spans.iter().filter(is_delivery).filter_map(|span| collector.way_to(span));
        ways.find(|way| way[0].name == first)
    })
    .await
}

fn names(way: &[RecordedSpan]) -> Vec<&str> {
    way.iter().map(|span| span.name.as_str()).collect()
}

/// Whether anything that was told holds a secret of ours.
fn tells(collector: &TraceCollector, secret: &str) -> bool {
    collector.spans().iter().any(|span| {
        span.name.contains(secret)
            || span.attributes.values().chain(span.resource.values()).any(|value| value.contains(secret))
    })
}

/// The trace of an utterance that a service received is the same in all of them, and tells nothing of what was said.
async fn is_the_way_of_an_utterance(collector: &TraceCollector, room: &Room, receiver: &str) {
    let way = delivered(collector, "receive", "1").await;
    assert_eq!(names(&way), ["receive", "recognize", "store", "publish", "deliver"]);
    let services: Vec<_> = way.iter().map(|span| span.service.as_str()).collect();
    // The outbox is anybody's who is there.
    assert_eq!(services[..3], [receiver, "transcription-worker", "transcription-worker"]);
    assert_eq!(services[4], "ws-edge");
    assert!(way.is_sorted_by_key(|span| span.start), "{way:#?}");
    assert!(way.iter().all(|span| span.start <= span.end && !span.failed), "{way:#?}");
    for span in &way {
        assert_eq!(span.resource["deployment.environment.name"], "test");
        assert!(
            span.resource.contains_key("service.version")
                && span.resource.contains_key("service.instance.id")
        );
    }
    // Its parts beside the way, and the trace of the whole stream.
    let parts = eventually("its parts have come", async || {
        let spans = collector.spans();
        let part = |name: &str, of: &RecordedSpan| {
            spans.iter().any(|span| span.name == name && span.parent == of.id && span.trace == of.trace)
        };
        let [receive, recognize, store] = &way[..3] else { return false };
        part("uplink", receive) && part("decode", recognize) && part("record_final", store)
    });
    parts.await;
    let streams = eventually("the stream is over", async || {
        let spans = collector.spans();
        let streams: Vec<_> =
            spans.into_iter().filter(|span| span.name == "stream").map(|span| span.trace).collect();
        Some(streams).filter(|streams| way[0].links.iter().all(|link| streams.contains(link)))
    })
    .await;
    assert!(way[0].links.len() == 1 && streams.contains(&way[0].links[0]));
    assert!(!tells(collector, room.slug.as_str()), "the name of a session");
    let said = text(&room.finals().await);
    let longest = said.split(' ').max_by_key(|word| word.len()).unwrap();
    assert!(longest.len() > 4 && !tells(collector, longest), "{longest}");
}

#[tokio::test]
async fn an_utterance_at_a_microphone_is_one_trace() {
    let collector = TraceCollector::start().await;
    let stack = traced(&collector).await;
    let room = stack.room();
    let mut alice = room.join("alice").await;
    alice.pour(&sound::pcm(&recording("jfk").samples()), 3_200).await;
    alice.stop().await;
    is_the_way_of_an_utterance(&collector, &room, "ws-edge").await;
    assert!(!tells(&collector, &room.token("alice")));
}

#[tokio::test]
async fn an_utterance_of_an_encoder_is_one_trace_of_three_services() {
    let collector = TraceCollector::start().await;
    let stack = traced(&collector).await;
    let room = stack.room();
    let _bob = room.join("bob").await;
    let path = recording("jfk").path.display().to_string();
    let url = stack.rtmp(room.slug.as_str());
    run("ffmpeg", ["-nostdin", "-v", "error", "-i", &path, "-c:a", "aac", "-f", "flv", &url]).await;
    is_the_way_of_an_utterance(&collector, &room, "rtmp-ingest").await;
}

#[tokio::test]
async fn a_notification_is_one_trace_which_its_sender_may_have_begun() {
    let collector = TraceCollector::start().await;
    let stack = traced(&collector).await;
    let user = stack.user();
    let mut tab = user.tab(None).await;
    // What comes before it has read its list would be in that.
    tab.counts(0).await;
    let (theirs, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let body = json!({"userId": user.id, "type": "SYSTEM_ANNOUNCEMENT", "title": "A private matter", "message": "m"});
    let request = reqwest::Client::new().post(stack.http("/api/notifications")).bearer_auth(SERVICE_KEY);
    let request = request.header("traceparent", format!("00-{theirs}-{parent}-01"));
    let answer = request.header("x-request-id", "backend-7").json(&body).send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["x-request-id"]),
        (200, &"backend-7".parse().unwrap())
    );
    tab.titles_to("A private matter").await;

    let way = eventually("the trace of the delivery is whole", async || {
        let spans = collector.spans();
        let deliver = spans.iter().find(|span| span.name == "deliver" && span.trace == theirs)?;
        let mut way = vec![deliver.clone()];
        while way[0].parent != parent {
            let above = spans.iter().find(|span| span.id == way[0].parent && span.trace == theirs)?;
            way.insert(0, above.clone());
        }
        Some(way)
    })
    .await;
    let publish = "parley.notification.v1.Notifications/Publish";
    assert_eq!(names(&way), ["POST /api/notifications", publish, "publish", "deliver"]);
    let services: Vec<_> = way.iter().map(|span| span.service.as_str()).collect();
    assert_eq!((services[0], services[1], services[3]), ("ws-edge", "notification-hub", "ws-edge"));
    assert_eq!(way[0].attributes["http.response.status_code"], "200");
    assert_eq!(way[0].attributes["parley.request.id"], "backend-7");
    eventually("Postgres is a part of the call", async || {
        let stored = |span: &RecordedSpan| {
            span.parent == way[1].id
                && span.attributes.get("db.system.name").is_some_and(|name| name == "postgresql")
        };
        collector.spans().iter().any(stored)
    })
    .await;
    for secret in ["A private matter", SERVICE_KEY, &user.id] {
        assert!(!tells(&collector, secret), "{secret}");
    }
}

#[tokio::test]
async fn every_answer_has_the_id_of_its_request() {
    let stack = Stack::start().await;
    for port in stack.doors() {
        let ask = async |path: &str, id: Option<&str>| {
            let request = reqwest::Client::new().get(format!("http://127.0.0.1:{port}{path}"));
            let request = id.into_iter().fold(request, |request, id| request.header("x-request-id", id));
            let answer = request.send().await.unwrap();
            answer.headers()["x-request-id"].to_str().unwrap().to_owned()
        };
        for path in ["/health", "/nothing", "/api/user/notifications", "/api/realtime/transcribe"] {
            assert_eq!(ask(path, Some("my-id.7")).await, "my-id.7", "{path}");
            let (one, another) = (ask(path, None).await, ask(path, None).await);
            assert!(one != another && one.len() == 32, "{path}: {one} {another}");
        }
        for bad in ["a b", "a;b", &"a".repeat(65)] {
            assert_ne!(ask("/health", Some(bad)).await, bad);
        }
    }
}

#[tokio::test]
async fn a_collector_that_is_away_disturbs_nobody() {
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let stack =
        Stack::set(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &nobody), ("OTEL_TRACES_SAMPLER", "always_on")]).await;
    let room = stack.room();
    let mut bob = room.join("bob").await;
    let mut alice = room.join("alice").await;
    alice.pour(&sound::pcm(&recording("jfk").samples()), 3_200).await;
    alice.stop().await;
    let finals = room.finals().await;
    bob.finals_to(finals.last().unwrap().sequence.0).await;
    let user = stack.user();
    let mut tab = user.tab(None).await;
    tab.counts(0).await;
    user.publish_surely("told").await;
    tab.titles_to("told").await;
    eventually("it is said", async || e2e::logged().contains("the collector of traces does not take them"))
        .await;
}
