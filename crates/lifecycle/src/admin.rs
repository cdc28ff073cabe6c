use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

use crate::{Lifecycle, Readiness};

/// Probes and scrapers at a time; more are closed at once.
const CONNECTIONS_MAX: usize = 64;

/// How long a peer may take to send the head of a request.
const HEAD_LIMIT: Duration = Duration::from_secs(5);

/// How often histograms are folded.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// A page of a service's own on its admin listener: its path, and JSON that is made when it is asked for.
#[derive(Clone)]
pub struct AdminPage {
    /// Such as `/stats`.
    pub path: &'static str,
    /// Makes the answer; must not wait for anything.
    pub json: Arc<dyn Fn() -> String + Send + Sync>,
}

/// Answers `/livez`, `/readyz` (200, or 503 naming each dependency that is away) and `/metrics` (Prometheus text)
/// until the hard stop, so that a draining process still says so. Run it with [`Lifecycle::spawn_companion`].
pub async fn serve_admin(listener: TcpListener, readiness: Readiness, life: Lifecycle) {
    serve_admin_with(listener, readiness, life, None).await;
}

/// As [`serve_admin`], with a page of the service's own.
pub async fn serve_admin_with(
    listener: TcpListener,
    readiness: Readiness,
    life: Lifecycle,
    page: Option<AdminPage>,
) {
    let connections = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    let connection_tasks = tokio_util::task::TaskTracker::new();
    let mut upkeep = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        let stream = tokio::select! {
            () = life.stopping().cancelled() => return,
            _ = upkeep.tick() => { telemetry::Metrics::upkeep(); continue; }
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accept on the admin listener");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let Ok(permit) = connections.clone().try_acquire_owned() else { continue };
        let (readiness, page) = (readiness.clone(), page.clone());
        let stopping = life.stopping().clone();
        drop(connection_tasks.spawn(async move {
            let _permit = permit;
            let service = service_fn(move |request| answer(request, readiness.clone(), page.clone()));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_LIMIT)
                // A scraper reconnects; an idle connection would only hold a place.
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                _ = connection => {}
                () = stopping.cancelled() => {}
            }
        }));
    }
}

async fn answer(
    request: Request<Incoming>,
    readiness: Readiness,
    page: Option<AdminPage>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, kind, body) = match request.uri().path() {
        "/livez" => (StatusCode::OK, "text/plain", "ok\n".to_owned()),
        "/readyz" => {
            let faults = readiness.faults().await;
            let status = if faults.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            let faults: serde_json::Map<_, _> =
                faults.into_iter().map(|(name, fault)| (name.to_owned(), fault.into())).collect();
            let body = serde_json::json!({ "ready": status == StatusCode::OK, "faults": faults });
            (status, "application/json", body.to_string())
        }
        "/metrics" => (StatusCode::OK, "text/plain; version=0.0.4", telemetry::Metrics::prometheus()),
        path if page.as_ref().is_some_and(|page| page.path == path) => {
            (StatusCode::OK, "application/json", page.map(|page| (page.json)()).unwrap_or_default())
        }
        _ => (StatusCode::NOT_FOUND, "text/plain", "try /livez, /readyz or /metrics\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    Ok(response)
}
