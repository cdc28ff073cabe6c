//! Sessions over gRPC.

use rpc::session::{
    GetStatusRequest, GetStatusResponse, SessionsClient, SetActiveSpeakerRequest, StartRequest, State,
    StopRequest,
};
use testkit::{eventually, free_port};
use tonic::{Code, Request, Status, transport::Channel};

use crate::stage::{SERVICE_KEY, Setup, Stage};

async fn stage() -> (Stage, SessionsClient<Channel>) {
    let stage = Setup::new().await.set("SESSION_PORT", &free_port().to_string()).start().await;
    let address = stage.running.session_address.unwrap();
    let client = SessionsClient::connect(format!("http://{address}")).await.unwrap();
    (stage, client)
}

/// With a service key.
fn keyed<T>(message: T) -> Request<T> {
    with(message, &format!("Bearer {SERVICE_KEY}"))
}

fn with<T>(message: T, authorization: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", authorization.parse().unwrap());
    request
}

fn start(id: &str, slug: &str) -> StartRequest {
    StartRequest { session_id: id.into(), session_slug: slug.into(), language: String::new() }
}

async fn status(stage: &Stage, client: &mut SessionsClient<Channel>) -> Result<GetStatusResponse, Status> {
    let request = GetStatusRequest { session_slug: stage.session.to_string() };
    client.get_status(keyed(request)).await.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn sessions_are_started_asked_after_and_stopped() {
    let (stage, mut client) = stage().await;
    assert_eq!(status(&stage, &mut client).await.unwrap_err().code(), Code::NotFound);
    for _ in 0..3 {
        client.start(keyed(start("s1", stage.session.as_str()))).await.unwrap();
    }
    let live = eventually("it is live", async || status(&stage, &mut client).await.ok()).await;
    assert_eq!((live.state(), live.session_id.as_str()), (State::Live, "s1"));
    assert_eq!((live.ended_at_ms, live.last_sequence, live.active_streams), (0, 0, 0));
    assert!(live.last_activity_at_ms > 0);

    let mut voice = stage.voice().await;
    let sequence = voice.store(&stage, "hello").await.sequence;
    let heard = status(&stage, &mut client).await.unwrap();
    assert_eq!((heard.last_sequence, heard.active_streams), (sequence.0, 1));

    let speaks = |identity: &str, name: &str| {
        keyed(SetActiveSpeakerRequest {
            session_slug: stage.session.to_string(),
            identity: identity.into(),
            name: name.into(),
        })
    };
    for (identity, name) in [("bob", "Bob"), ("carol", ""), ("", "")] {
        client.set_active_speaker(speaks(identity, name)).await.unwrap();
    }
    let told = [Some(("bob".to_owned(), Some("Bob".to_owned()))), Some(("carol".to_owned(), None)), None];
    eventually("the speakers are noted", async || stage.turns().await == told).await;

    for id in ["s1", "s1", "never started"] {
        client.stop(keyed(StopRequest { session_id: id.into() })).await.unwrap();
    }
    let ended = eventually("it has ended", async || {
        status(&stage, &mut client).await.ok().filter(|status| status.state() == State::Ended)
    })
    .await;
    assert!(ended.ended_at_ms > 0);
    stage.end().await;
}

#[tokio::test]
async fn whoever_has_no_service_key_is_refused_and_nothing_is_done() {
    let (stage, mut client) = stage().await;
    let slug = stage.session.as_str();
    let mut refused = Vec::new();
    for authorization in
        ["", "Bearer ", "Bearer wrong", SERVICE_KEY, &format!("Bearer {}", stage.token("alice"))]
    {
        let speaks = SetActiveSpeakerRequest {
            session_slug: slug.into(),
            identity: "bob".into(),
            ..SetActiveSpeakerRequest::default()
        };
        let asked = GetStatusRequest { session_slug: slug.into() };
        refused.push(client.start(with(start("s1", slug), authorization)).await.map(drop));
        let stop = StopRequest { session_id: "s1".into() };
        refused.push(client.stop(with(stop, authorization)).await.map(drop));
        refused.push(client.set_active_speaker(with(speaks, authorization)).await.map(drop));
        refused.push(client.get_status(with(asked, authorization)).await.map(drop));
    }
    refused.push(client.start(start("s1", slug)).await.map(drop));
    for outcome in refused {
        assert_eq!(outcome.unwrap_err().code(), Code::Unauthenticated);
    }
    stage.noted().await;
    assert_eq!(stage.storage.session(&stage.session).await.unwrap(), None);

    let speaks = |identity: String, name: String| SetActiveSpeakerRequest {
        session_slug: slug.into(),
        identity,
        name,
    };
    let long = "x".repeat(257);
    for (id, slug) in
        [("", slug), (" ", slug), (long.as_str(), slug), ("a\0", slug), ("s1", ""), ("s1", "a\0")]
    {
        let error = client.start(keyed(start(id, slug))).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        assert!(!error.message().contains(long.as_str()));
    }
    let stop = StopRequest { session_id: String::new() };
    assert_eq!(client.stop(keyed(stop)).await.unwrap_err().code(), Code::InvalidArgument);
    for (identity, name) in [(long.clone(), String::new()), ("bob".into(), long.clone())] {
        let error = client.set_active_speaker(keyed(speaks(identity, name))).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    }
    let asked = GetStatusRequest { session_slug: long };
    assert_eq!(client.get_status(keyed(asked)).await.unwrap_err().code(), Code::InvalidArgument);
    stage.noted().await;
    assert_eq!(stage.storage.session(&stage.session).await.unwrap().map(|session| session.status), None);
    stage.end().await;
}

#[tokio::test]
async fn without_a_port_there_is_no_service() {
    let stage = Stage::start().await;
    assert_eq!(stage.running.session_address, None);
    stage.end().await;
}
