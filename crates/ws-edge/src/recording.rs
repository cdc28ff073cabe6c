//! Recordings and texts that are done at once, for programs written for other services: system D's HTTP on its own door
//! (`faster_whisper`).

mod faster_whisper;

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode, request::Parts};
use hyper::body::Body;

use crate::{
    Edge,
    answers::{Answer, object},
    door::Door,
};

/// One of these routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// System D says what it is.
    Index,
    Health,
    Docs,
}

/// Which of these routes a path of this door is, if any.
pub(crate) fn route(door: Door, path: &str) -> Option<Route> {
    match (door, path) {
        (Door::Translate, "/") => Some(Route::Index),
        (Door::Translate, "/health") => Some(Route::Health),
        (Door::Translate, "/docs") => Some(Route::Docs),
        _ => None,
    }
}

/// Answers a request for one of these routes.
pub(crate) async fn answer<B>(edge: &Arc<Edge>, route: Route, head: &Parts, _body: B) -> Answer
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if head.method != Method::GET && head.method != Method::HEAD {
        return object(StatusCode::METHOD_NOT_ALLOWED, [("detail", "Method Not Allowed".into())]);
    }
    match route {
        Route::Index => faster_whisper::index(),
        Route::Health => faster_whisper::health(edge).await,
        Route::Docs => faster_whisper::docs(),
    }
}

/// What FastAPI says of a path that it does not know.
pub(crate) fn not_found() -> Answer {
    object(StatusCode::NOT_FOUND, [("detail", "Not Found".into())])
}
