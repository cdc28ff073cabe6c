//! `parley.session.v1`: what back ends do with sessions over gRPC, the same as over HTTP.

use std::sync::Arc;

use auth::ServiceKeys;
use model::{FaultKind, Topic};
use rpc::{
    KEEP_ALIVE, MESSAGE_BYTES_MAX, Traced,
    session::{
        GetStatusRequest, GetStatusResponse, SetActiveSpeakerRequest, SetActiveSpeakerResponse, StartRequest,
        StartResponse, State, StopRequest, StopResponse, session_id, session_slug, speaker,
    },
    wire,
};
use storage::{SessionStatus, StorageError};
use tokio::net::TcpListener;
use tonic::{
    Request, Response, Status,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Server, server::TcpIncoming},
};

use crate::Edge;

/// Serves calls until the edge drains.
pub(crate) async fn serve(edge: Arc<Edge>, listener: TcpListener) {
    let door = Door { keys: edge.keys.clone() };
    let (draining, tracer) = (edge.life.draining().clone(), edge.tracer.clone());
    let service = rpc::session::SessionsServer::new(Service { edge })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let service = Traced::new(InterceptedService::new(service, door), tracer);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let served = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .serve_with_incoming_shutdown(service, incoming, draining.cancelled_owned())
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "gRPC server");
    }
}

/// Lets back ends in that have a service key.
#[derive(Clone)]
struct Door {
    keys: ServiceKeys,
}

impl Interceptor for Door {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let shown = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        if shown.is_some_and(|shown| self.keys.accepts_header(shown)) {
            return Ok(request);
        }
        Err(Status::unauthenticated("a service key is required: authorization: Bearer SERVICE_KEY"))
    }
}

struct Service {
    edge: Arc<Edge>,
}

fn away() -> Status {
    Status::unavailable("the database has been away for too long")
}

fn failed(error: &StorageError) -> Status {
    tracing::warn!(%error, "ask how a session does");
    match error.fault() {
        FaultKind::Dependency => Status::unavailable("the database is away"),
        fault => wire::status(fault, "the session cannot be read"),
    }
}

#[tonic::async_trait]
impl rpc::session::Sessions for Service {
    async fn start(&self, request: Request<StartRequest>) -> Result<Response<StartResponse>, Status> {
        let StartRequest { session_id: id, session_slug: slug, language } = request.into_inner();
        let (session, id) = (session_slug(&slug)?, session_id(&id)?.to_owned());
        self.edge.sessions.start(session, id, rpc::session::language(language)?).map_err(|_| away())?;
        Ok(Response::new(StartResponse {}))
    }

    async fn stop(&self, request: Request<StopRequest>) -> Result<Response<StopResponse>, Status> {
        let id = session_id(&request.into_inner().session_id)?.to_owned();
        self.edge.sessions.stop(id).map_err(|_| away())?;
        Ok(Response::new(StopResponse {}))
    }

    async fn set_active_speaker(
        &self,
        request: Request<SetActiveSpeakerRequest>,
    ) -> Result<Response<SetActiveSpeakerResponse>, Status> {
        let request = request.into_inner();
        self.edge.sessions.speaks(&session_slug(&request.session_slug)?, speaker(&request)?);
        Ok(Response::new(SetActiveSpeakerResponse {}))
    }

    async fn get_status(
        &self,
        request: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        let slug = session_slug(&request.into_inner().session_slug)?;
        let storage = &self.edge.storage;
        let session = storage.session(&slug).await.map_err(|error| failed(&error))?;
        let session = session.ok_or_else(|| Status::not_found("no session of this name"))?;
        let topic = Topic::Session(slug);
        let (active, last) = tokio::try_join!(
            storage.active_streams(session.id, self.edge.clock.now()),
            storage.last_sequence(&topic),
        )
        .map_err(|error| failed(&error))?;
        let state = match session.status {
            SessionStatus::Created => State::Created,
            SessionStatus::Live => State::Live,
            SessionStatus::Ended => State::Ended,
        };
        Ok(Response::new(GetStatusResponse {
            state: state.into(),
            session_id: session.external_id.unwrap_or_default(),
            ended_at_ms: session.ended_at.map_or(0, |at| at.0),
            last_activity_at_ms: session.last_activity_at.0,
            last_sequence: last.0,
            active_streams: active,
        }))
    }
}
