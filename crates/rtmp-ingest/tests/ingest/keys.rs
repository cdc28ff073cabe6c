//! Who may publish, and who may not.

use std::sync::Arc;

use auth::{SessionClaims, SessionTokens};
use model::Clock;
use rtmp::ClientEvent;
use testkit::eventually;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::Mutex,
};

use crate::{
    encoder::Encoder,
    stage::{JWT_SECRET, Setup, Stage},
};

/// Who speaks in the only stream, once there is sound.
async fn speaker(stage: &Stage, name: &str) -> (String, String, Option<String>) {
    let mut encoder = Encoder::publish(stage.address(), name).await;
    encoder.sound(500).await;
    eventually("it is heard", async || !stage.worker.heard().is_empty()).await;
    let source = stage.worker.ears(|ears| ears.sources.remove(0));
    (source.session.to_string(), source.speaker.identity.to_string(), source.speaker.name)
}

async fn refused(stage: &Stage, name: &str) -> String {
    let mut encoder = Encoder::connect(stage.address(), name).await;
    let event = encoder.event().await;
    let Some(ClientEvent::Refused(reason)) = event else { panic!("{name} is refused, not {event:?}") };
    assert_eq!(encoder.event().await, None, "and the connection is closed");
    reason
}

#[tokio::test]
async fn a_registered_key_is_good_until_it_is_revoked() {
    let stage = Setup::new().await.set("RTMP_OPEN_KEYS", "false").start().await;
    let (id, key) = stage.key("Stage camera").await;
    let (session, identity, name) = speaker(&stage, key.reveal()).await;
    assert_eq!((session.as_str(), name.as_deref()), (stage.session.as_str(), Some("Stage camera")));
    assert_eq!(identity, format!("room-{id}"));
    let used = stage.storage.stream_keys(&stage.session).await.unwrap().remove(0).last_used_at;
    assert!(used.is_some());
    let now = Clock::system().now();
    assert!(stage.storage.revoke_stream_key(&stage.session, id, now).await.unwrap());
    assert!(refused(&stage, key.reveal()).await.contains("not known"));
}

#[tokio::test]
async fn a_signed_key_is_a_token_of_the_session() {
    for with_name in [false, true] {
        let stage = Setup::new().await.set("RTMP_OPEN_KEYS", "false").start().await;
        let token = stage.token("alice");
        let name = if with_name { format!("{}?token={token}", stage.session) } else { token };
        let (session, identity, _) = speaker(&stage, &name).await;
        assert_eq!((session.as_str(), identity.as_str()), (stage.session.as_str(), "alice"));
    }
}

#[tokio::test]
async fn keys_that_are_none_are_refused_with_a_reason() {
    let stage = Setup::new().await.set("RTMP_OPEN_KEYS", "false").start().await;
    let tokens = SessionTokens::new(vec![JWT_SECRET.into()], Clock::system());
    let token = |exp: i64, scope: Option<&str>| {
        let claims = SessionClaims {
            session_slug: stage.session.to_string(),
            identity: Some("alice".into()),
            scope: scope.map(str::to_owned),
            exp,
            ..SessionClaims::default()
        };
        tokens.issue(&claims).unwrap()
    };
    let (good, later) = (token(4_000_000_000, None), 4_000_000_000);
    let cases = [
        (stage.session.to_string(), "not known"),
        ("parley_00000000000000000000000000000000".to_owned(), "not known"),
        (token(1_000, None), "expired"),
        (token(later, Some("follow")), "only follow"),
        (format!("{good}x"), "invalid"),
        (format!("other?token={good}"), "another session"),
        (format!("{}?token={good}&track=300", stage.session), "track"),
        (format!("{}?token=", stage.session), "missing"),
    ];
    for (name, reason) in cases {
        let told = refused(&stage, &name).await;
        assert!(told.contains(reason), "{name}: {told}");
        assert!(!told.contains(&good), "no key is quoted");
    }
}

/// An HTTP server that answers every request in the same way; what it was asked.
async fn hook(answer: &'static str) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/publish", listener.local_addr().unwrap());
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = asked.clone();
    tokio::task::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = vec![0; 8_192];
            let mut request = String::new();
            while !request.ends_with('}') {
                let count = stream.read(&mut buffer).await.unwrap();
                request.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
            }
            kept.lock().await.push(request);
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (url, asked)
}

#[tokio::test]
async fn a_hook_decides_about_keys_that_nobody_here_knows() {
    let body = "HTTP/1.1 200 OK\r\nContent-Length: 56\r\n\r\n{\"sessionSlug\":\"mapped\",\"identity\":\"cam\",\"name\":\"Cam 1\"}";
    let (url, asked) = hook(body).await;
    let stage = Setup::new().await.set("RTMP_AUTH_HOOK", &url).start().await;
    let (session, identity, name) = speaker(&stage, "their-key?x=1").await;
    assert_eq!((session.as_str(), identity.as_str(), name.as_deref()), ("mapped", "cam", Some("Cam 1")));
    let asked = asked.lock().await[0].clone();
    let question = asked.rsplit("\r\n\r\n").next().unwrap();
    assert_eq!(question, r#"{"app":"live","key":"their-key","query":"x=1","address":"127.0.0.1"}"#);
}

#[tokio::test]
async fn a_hook_that_refuses_or_is_away_lets_nobody_in() {
    let (url, _) = hook("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await;
    let stage = Setup::new().await.set("RTMP_AUTH_HOOK", &url).start().await;
    assert!(refused(&stage, "their-key").await.contains("refused"));
    let nobody = format!("http://127.0.0.1:{}/", testkit::free_port());
    let stage = Setup::new().await.set("RTMP_AUTH_HOOK", &nobody).start().await;
    assert!(refused(&stage, "their-key").await.contains("try again"));
}
