//! The admin listener as a probe and a scraper see it.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{net::SocketAddr, time::Duration};

use lifecycle::{Lifecycle, Readiness, Unhealthy, healthcheck, listen, serve_admin};

async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let response = reqwest::get(format!("http://{address}{path}")).await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test]
async fn a_draining_process_lives_but_is_not_ready() {
    testkit::choose_tls();
    telemetry::Metrics::install();
    let life = Lifecycle::default();
    let readiness = Readiness::new(life.draining().clone());
    let listener = listen("METRICS_PORT", ([127, 0, 0, 1], 0).into()).await.unwrap();
    let address = listener.local_addr().unwrap();
    life.spawn_companion("admin", serve_admin(listener, readiness.clone(), life.clone()));

    assert_eq!(get(address, "/livez").await.0, 200);
    assert_eq!(get(address, "/readyz").await.0, 503);
    assert!(matches!(healthcheck(address).await, Err(Unhealthy::NotReady(_))));
    readiness.started();
    assert_eq!(healthcheck(address).await, Ok(()));
    assert_eq!(get(address, "/readyz").await.0, 200);
    assert_eq!(get(address, "/metrics").await.0, 200);
    assert_eq!(get(address, "/secrets").await.0, 404);

    life.drain();
    let (status, body) = get(address, "/readyz").await;
    assert!(status == 503 && body.contains("draining"), "{status} {body}");
    assert_eq!(get(address, "/livez").await.0, 200);
    assert_eq!(life.end(Duration::from_secs(5)).await, Ok(()));
    assert_eq!(healthcheck(address).await, Err(Unhealthy::NoAnswer(address)));
}
