//! Tokens and what people say are in no log.

use e2e::{Client, Plan, Stack, logged, sound};
use serde_json::json;
use testkit::{HandshakeLimit, recording};

#[tokio::test]
async fn no_log_holds_a_token_or_a_word() {
    let plan = Plan { handshakes: HandshakeLimit { rate: 1, burst: 4 }, ..Plan::default() };
    let mut stack = Stack::with(plan).await;
    let room = stack.room();
    let good = room.token("alice");
    let mut alice = room.open(&format!("token={good}")).await;
    alice.init(json!({"encoding": "pcm_s16le"})).await;
    alice.pour(&sound::pcm(&recording("LJ001-0008").samples()), 3_200).await;
    alice.stop().await;
    // Captions of a back end, kept and shown, refused and broken; the address of an egress.
    for is_final in [true, false] {
        let caption =
            json!({"sessionSlug": room.slug, "utteranceId": "u", "text": "MARKER-said", "isFinal": is_final});
        assert_eq!(stack.post("/api/realtime/transcribe/broadcast", &caption).await.0, 200);
    }
    let whole = json!({"sessionSlug": room.slug, "type": "transcript", "text": "MARKER-whole"});
    assert_eq!(stack.post("/api/transcripts", &whole).await.0, 200);
    let broken = json!({"sessionSlug": room.slug, "utteranceId": 7, "text": "MARKER-broken"});
    assert_eq!(stack.post("/api/realtime/transcribe/broadcast", &broken).await.0, 400);
    let egress = format!("ws://127.0.0.1:{}/egress/audio/id/TR_1?token=MARKER-egress", stack.nginx.http_port);
    assert_eq!(Client::connect(&egress, &[]).await.ended().await.1, 1008);
    let search = stack.http("/api/transcripts/search?q=MARKER-searched&token=MARKER-searching");
    assert_eq!(reqwest::get(search).await.unwrap().status(), 401);
    let mut refused = room.open("token=MARKER-refused").await;
    assert_eq!(refused.ended().await.1, 1008);
    assert_eq!(
        reqwest::get(stack.http("/api/realtime/transcribe?token=MARKER-plain")).await.unwrap().status(),
        426
    );
    assert_eq!(reqwest::get(stack.http("/nowhere?token=MARKER-elsewhere")).await.unwrap().status(), 404);
    while reqwest::get(stack.http("/api/realtime/transcribe?token=MARKER-often")).await.unwrap().status()
        != 429
    {}
    stack.edge.kill();
    assert_eq!(reqwest::get(stack.http("/metrics?token=MARKER-down")).await.unwrap().status(), 503);
    let limited = Client::refused(&room.url("token=MARKER-down-upgrade")).await;
    assert!([429, 503].contains(&limited.status().as_u16()));
    drop(alice);

    let requests = std::fs::read_to_string(stack.nginx.access_log()).unwrap();
    assert!(
        requests.contains("/api/realtime/transcribe") && requests.contains("\"status\":429"),
        "{requests}"
    );
    let services = logged();
    assert!(services.contains("upgrade established") && services.contains("upgrade refused"), "{services}");
    let (signature, said) = (good.rsplit('.').next().unwrap(), "surpassed");
    for (name, log) in
        [("nginx", stack.nginx.everything_it_said()), ("requests", requests), ("services", services)]
    {
        for secret in ["MARKER", signature, said, e2e::JWT_SECRET, e2e::SERVICE_KEY] {
            assert!(!log.contains(secret), "{name}: {secret}");
        }
    }
}
