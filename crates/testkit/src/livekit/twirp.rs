//! The server API: Twirp over HTTP, protobuf or JSON.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use livekit_api::access_token::{TokenVerifier, VideoGrants};
use livekit_protocol as proto;
use prost::Message;
use proto::{EgressInfo, EgressSourceType, EgressStatus, egress_info};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use super::{
    egress,
    world::{EgressState, Order, State, World, ended, nanoseconds, new_id},
};

/// Codes of Twirp's errors that LiveKit answers with (twirp v7 specification).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the specification says what each means")]
pub enum TwirpCode {
    InvalidArgument,
    Malformed,
    DeadlineExceeded,
    NotFound,
    BadRoute,
    PermissionDenied,
    Unauthenticated,
    ResourceExhausted,
    FailedPrecondition,
    Unimplemented,
    Internal,
    Unavailable,
}

impl TwirpCode {
    fn name_and_status(self) -> (&'static str, u16) {
        match self {
            Self::InvalidArgument => ("invalid_argument", 400),
            Self::Malformed => ("malformed", 400),
            Self::DeadlineExceeded => ("deadline_exceeded", 408),
            Self::NotFound => ("not_found", 404),
            Self::BadRoute => ("bad_route", 404),
            Self::PermissionDenied => ("permission_denied", 403),
            Self::Unauthenticated => ("unauthenticated", 401),
            Self::ResourceExhausted => ("resource_exhausted", 429),
            Self::FailedPrecondition => ("failed_precondition", 412),
            Self::Unimplemented => ("unimplemented", 501),
            Self::Internal => ("internal", 500),
            Self::Unavailable => ("unavailable", 503),
        }
    }
}

type Refusal = (TwirpCode, String);

fn refusal<T>(code: TwirpCode, message: &str) -> Result<T, Refusal> {
    Err((code, message.to_owned()))
}

/// Serves until it is dropped.
pub(super) async fn serve(listener: TcpListener, world: Arc<World>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(connection(stream, world.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, world: Arc<World>) {
    let service = service_fn(|request| answer(request, world.clone()));
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let _the_client_says_why = connection.await;
}

async fn answer(request: Request<Incoming>, world: Arc<World>) -> Result<Response<Full<Bytes>>, Infallible> {
    let of = |name| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (authorization, content) = (of(header::AUTHORIZATION), of(header::CONTENT_TYPE).unwrap_or_default());
    let path = request.uri().path().to_owned();
    let rights = match rights(&world, authorization.as_deref()) {
        Ok(rights) => rights,
        // As the server does: not in Twirp's form, and with the token.
        Err(text) => return Ok(response(StatusCode::UNAUTHORIZED, "text/plain", text.into_bytes())),
    };
    let body = match request.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return Ok(refuse((TwirpCode::Malformed, "no body".to_owned()))),
    };
    let call = Call { world, rights, body, json: content.starts_with("application/json") };
    Ok(call.route(&path).unwrap_or_else(refuse))
}

/// What the token allows; nothing without one. Or what the server says of a bad one.
fn rights(world: &World, authorization: Option<&str>) -> Result<VideoGrants, String> {
    let Some(authorization) = authorization else { return Ok(VideoGrants::default()) };
    let token = authorization
        .strip_prefix("Bearer ")
        .ok_or("missing authorization header. Must start with Bearer ")?;
    let verified = TokenVerifier::with_api_key(&world.keys.key, &world.keys.secret).verify(token);
    let claims = verified.map_err(|_| {
        format!("invalid token: {token}, error: go-jose/go-jose: error in cryptographic primitive")
    })?;
    Ok(claims.video)
}

fn refuse((code, message): Refusal) -> Response<Full<Bytes>> {
    let (name, status) = code.name_and_status();
    let body = serde_json::json!({ "code": name, "msg": message }).to_string();
    let status = StatusCode::from_u16(status).expect("a status of HTTP");
    response(status, "application/json", body.into_bytes())
}

fn response(status: StatusCode, content: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(content));
    response
}

/// One call.
struct Call {
    world: Arc<World>,
    rights: VideoGrants,
    body: Bytes,
    json: bool,
}

impl Call {
    fn route(&self, path: &str) -> Result<Response<Full<Bytes>>, Refusal> {
        let method = path.strip_prefix("/twirp/livekit.").unwrap_or_default();
        self.fail(method.rsplit('/').next().unwrap_or_default())?;
        match method {
            "RoomService/ListRooms" => self.with(Self::list_rooms),
            "RoomService/ListParticipants" => self.with(Self::list_participants),
            "RoomService/GetParticipant" => self.with(Self::get_participant),
            "Egress/StartTrackEgress" => self.with(Self::start_track),
            "Egress/StartRoomCompositeEgress" => self.with(Self::start_room_composite),
            "Egress/StopEgress" => self.with(Self::stop),
            "Egress/ListEgress" => self.with(Self::list_egress),
            _ => refusal(TwirpCode::BadRoute, "no handler for this path"),
        }
    }

    /// The fault that somebody asked for.
    fn fail(&self, method: &str) -> Result<(), Refusal> {
        let mut state = self.world.state();
        match state.failing.iter_mut().find(|failing| failing.method == method && failing.times > 0) {
            Some(failing) => {
                failing.times -= 1;
                refusal(failing.code, "as the test wanted")
            }
            None => Ok(()),
        }
    }

    /// Answers in the form in which it was asked.
    fn with<Q, A>(
        &self,
        does: impl FnOnce(&Self, Q) -> Result<A, Refusal>,
    ) -> Result<Response<Full<Bytes>>, Refusal>
    where
        Q: Message + Default + DeserializeOwned,
        A: Message + Serialize,
    {
        let question = if self.json {
            serde_json::from_slice(&self.body).ok()
        } else {
            Q::decode(self.body.clone()).ok()
        };
        let Some(question) = question else {
            return refusal(TwirpCode::Malformed, "the body cannot be decoded");
        };
        let answer = does(self, question)?;
        Ok(if self.json {
            let body = serde_json::to_vec(&answer).expect("an answer that can be written");
            response(StatusCode::OK, "application/json", body)
        } else {
            response(StatusCode::OK, "application/protobuf", answer.encode_to_vec())
        })
    }

    fn may(&self, allowed: bool) -> Result<(), Refusal> {
        if allowed { Ok(()) } else { refusal(TwirpCode::Unauthenticated, "permissions denied") }
    }

    fn may_administer(&self, room: &str) -> Result<(), Refusal> {
        self.may(self.rights.room_admin && self.rights.room == room)
    }

    fn list_rooms(&self, question: proto::ListRoomsRequest) -> Result<proto::ListRoomsResponse, Refusal> {
        self.may(self.rights.room_list)?;
        let state = self.world.state();
        let rooms = state.rooms.values().map(super::world::RoomState::info);
        let wanted = |room: &proto::Room| question.names.is_empty() || question.names.contains(&room.name);
        Ok(proto::ListRoomsResponse { rooms: rooms.filter(wanted).collect() })
    }

    fn list_participants(
        &self,
        question: proto::ListParticipantsRequest,
    ) -> Result<proto::ListParticipantsResponse, Refusal> {
        self.may_administer(&question.room)?;
        let state = self.world.state();
        let participants = state.rooms.get(&question.room).into_iter().flat_map(|room| &room.participants);
        Ok(proto::ListParticipantsResponse {
            participants: participants.map(super::world::ParticipantState::info).collect(),
        })
    }

    fn get_participant(
        &self,
        question: proto::RoomParticipantIdentity,
    ) -> Result<proto::ParticipantInfo, Refusal> {
        self.may_administer(&question.room)?;
        match self.world.state().participant(&question.room, &question.identity) {
            Some((_, participant)) => Ok(participant.info()),
            None => refusal(TwirpCode::NotFound, "participant does not exist"),
        }
    }

    fn start_track(&self, question: proto::TrackEgressRequest) -> Result<EgressInfo, Refusal> {
        self.may(self.rights.room_record)?;
        let Some(proto::track_egress_request::Output::WebsocketUrl(url)) = question.output.clone() else {
            return refusal(TwirpCode::Unimplemented, "this server sends tracks to WebSockets only");
        };
        if !url.starts_with("ws://") && !url.starts_with("wss://") {
            return refusal(TwirpCode::InvalidArgument, "request has invalid websocket url");
        }
        let mut state = self.world.state();
        let running = |egress: &&Arc<EgressState>| egress.track_id.is_some() && !ended(egress.status());
        let count = state.egresses.iter().filter(running).count();
        if state.track_egress_limit.is_some_and(|limit| count >= limit) {
            return refusal(TwirpCode::ResourceExhausted, "Track egress limit exceeded");
        }
        let (room, track) = (question.room_name.clone(), question.track_id.clone());
        let source = state.track(&room, &track);
        let request = egress_info::Request::Track(question);
        let (egress, info) = self.begin(&mut state, &room, request, Some(track), url)?;
        self.spawn(egress::send_track(self.world.clone(), egress, source));
        Ok(info)
    }

    fn start_room_composite(
        &self,
        mut question: proto::RoomCompositeEgressRequest,
    ) -> Result<EgressInfo, Refusal> {
        self.may(self.rights.room_record)?;
        let Some(url) = question.stream_outputs.first().and_then(|output| output.urls.first()).cloned()
        else {
            return refusal(TwirpCode::InvalidArgument, "request has no stream output");
        };
        if !question.audio_only {
            return refusal(TwirpCode::Unimplemented, "this server composes sound only");
        }
        for shown in question.stream_outputs.iter_mut().flat_map(|output| &mut output.urls) {
            *shown = redacted(shown);
        }
        let room = question.room_name.clone();
        let request = egress_info::Request::RoomComposite(question);
        let mut state = self.world.state();
        let (egress, info) = self.begin(&mut state, &room, request, None, url)?;
        self.spawn(egress::push_room(self.world.clone(), egress, room));
        Ok(info)
    }

    /// Notes an egress of a room and says so.
    fn begin(
        &self,
        state: &mut State,
        room: &str,
        request: egress_info::Request,
        track_id: Option<String>,
        url: String,
    ) -> Result<(Arc<EgressState>, EgressInfo), Refusal> {
        let Some(found) = state.rooms.get(room) else {
            return refusal(TwirpCode::NotFound, "requested room does not exist");
        };
        let started_at = nanoseconds();
        let stream = proto::StreamInfo { url: redacted(&url), started_at, ..proto::StreamInfo::default() };
        let info = EgressInfo {
            egress_id: new_id("EG"),
            room_id: found.info.sid.clone(),
            room_name: room.to_owned(),
            source_type: i32::from(EgressSourceType::Sdk),
            status: i32::from(EgressStatus::EgressStarting),
            started_at,
            updated_at: started_at,
            stream_results: if track_id.is_none() { vec![stream] } else { Vec::new() },
            request: Some(request),
            ..EgressInfo::default()
        };
        let (order, _) = watch::channel(Order::Go);
        let egress = Arc::new(EgressState { info: info.clone().into(), track_id, url, order });
        state.egresses.push(egress.clone());
        self.world.tell_of_egress("egress_started", info.clone());
        Ok((egress, info))
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.world.tasks.lock().expect("the tasks").spawn(task);
    }

    fn stop(&self, question: proto::StopEgressRequest) -> Result<EgressInfo, Refusal> {
        self.may(self.rights.room_record)?;
        let state = self.world.state();
        let id = |egress: &&Arc<EgressState>| {
            egress.info.lock().expect("an egress").egress_id == question.egress_id
        };
        let Some(egress) = state.egresses.iter().find(id).cloned() else {
            return refusal(TwirpCode::NotFound, "egress not found");
        };
        drop(state);
        if ended(egress.status()) {
            return refusal(TwirpCode::FailedPrecondition, "egress has ended and cannot be stopped");
        }
        self.world.egress_is(&egress, EgressStatus::EgressEnding, "");
        egress.order.send_replace(Order::Stop);
        let info = egress.info.lock().expect("an egress").clone();
        Ok(info)
    }

    fn list_egress(&self, question: proto::ListEgressRequest) -> Result<proto::ListEgressResponse, Refusal> {
        self.may(self.rights.room_record)?;
        let state = self.world.state();
        let infos = state.egresses.iter().map(|egress| egress.info.lock().expect("an egress").clone());
        let wanted = |info: &EgressInfo| {
            (question.room_name.is_empty() || info.room_name == question.room_name)
                && (question.egress_id.is_empty() || info.egress_id == question.egress_id)
                && !(question.active && ended(info.status()))
        };
        Ok(proto::ListEgressResponse { items: infos.filter(wanted).collect(), ..Default::default() })
    }
}

/// The URL as LiveKit shows it: of the stream key only its ends, and those only when it is long.
fn redacted(url: &str) -> String {
    let Some((path, key)) = url.rsplit_once('/') else { return String::new() };
    let letters: Vec<char> = key.chars().collect();
    let (first, last): (String, String) = match letters.as_slice() {
        [a, b, c, _, .., x, y, z] => ([a, b, c].into_iter().collect(), [x, y, z].into_iter().collect()),
        _ => (String::new(), String::new()),
    };
    format!("{path}/{{{first}...{last}}}")
}
