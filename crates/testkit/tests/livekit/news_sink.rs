use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use livekit::{Event, WebhookError, WebhookEvent, Webhooks};
use testkit::eventually;
use tokio::{net::TcpListener, task::JoinSet};

type News = Arc<Mutex<Vec<Result<WebhookEvent, WebhookError>>>>;

/// An HTTP server that reads webhooks, and refuses the first so many with a fault of its own.
pub(crate) struct NewsSink {
    port: u16,
    news: News,
    _tasks: JoinSet<()>,
}

impl NewsSink {
    pub(crate) async fn start(webhooks: Webhooks, faults: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let news = News::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, webhooks, Arc::new(Mutex::new(faults)), news.clone()));
        Self { port, news, _tasks: tasks }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hooks/livekit", self.port)
    }

    /// Waits for so many, good and bad.
    pub(crate) async fn wait(&self, count: usize) -> Vec<Result<WebhookEvent, WebhookError>> {
        let enough = async || Some(self.news.lock().unwrap().clone()).filter(|news| news.len() >= count);
        eventually(&format!("{count} webhooks"), enough).await
    }

    /// Waits for so many good ones.
    pub(crate) async fn events(&self, count: usize) -> Vec<Event> {
        self.wait(count).await.into_iter().map(|event| event.unwrap().event).collect()
    }
}

async fn serve(listener: TcpListener, webhooks: Webhooks, faults: Arc<Mutex<usize>>, news: News) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (webhooks, faults, news) = (webhooks.clone(), faults.clone(), news.clone());
        let answer = move |request: Request<Incoming>| {
            let (webhooks, faults, news) = (webhooks.clone(), faults.clone(), news.clone());
            async move {
                let status = take(request, &webhooks, &faults, &news).await;
                let mut response = Response::new(Empty::<Bytes>::new());
                *response.status_mut() = status;
                Ok::<_, Infallible>(response)
            }
        };
        connections.spawn(async move {
            let builder = hyper::server::conn::http1::Builder::new();
            let _ended = builder.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
        });
    }
}

async fn take(
    request: Request<Incoming>,
    webhooks: &Webhooks,
    faults: &Mutex<usize>,
    news: &News,
) -> StatusCode {
    let header = |name| request.headers().get(name).unwrap().to_str().unwrap().to_owned();
    assert_eq!(header("content-type"), "application/webhook+json");
    let authorization = header("authorization");
    let body = request.into_body().collect().await.unwrap().to_bytes();
    {
        let mut faults = faults.lock().unwrap();
        if *faults > 0 {
            *faults -= 1;
            return StatusCode::SERVICE_UNAVAILABLE;
        }
    }
    let read = webhooks.read(&body, &authorization);
    let status = if read.is_ok() { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
    news.lock().unwrap().push(read);
    status
}
