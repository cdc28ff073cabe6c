//! The routes of system B: what was said in rooms, and who is there.

use std::net::IpAddr;

use bytes::Bytes;
use http::{Method, StatusCode, header, request::Parts};
use hyper::body::Body;
use model::{MessageKind, Refusal, RoomId, Sequence, UserId, notification::PAGE_MAX, room::anonymous};
use serde::{Serialize, Serializer, ser::SerializeMap as _};
use serde_json::{Value, json};

use super::{Refused, body};
use crate::{
    Edge,
    answers::{self, Answer, object},
    chat::{
        chatter::Chatter,
        members::people,
        protocol::{self, ChatMessage, ChatUser, Draft},
    },
    handshake::{bearer, parameter, path_part},
    limits::TooOften,
};

/// Messages in an answer when the request does not say.
const MESSAGES_DEFAULT: u32 = 100;

/// What is behind a path.
pub(super) enum Route<'a> {
    SocketHealth,
    TestCors,
    Users,
    Clients,
    Messages,
    /// The same in another shape.
    RoomMessages,
    /// What somebody has said, whom the answer calls so; the id as the path writes it.
    OfAuthor(&'static str, &'a str),
    OfKind(&'a str),
}

/// The route of a path, on any door.
pub(super) fn route(path: &str) -> Option<Route<'_>> {
    let names = |rest: &&str| !rest.is_empty() && !rest.contains('/');
    match path {
        "/socket-health" => return Some(Route::SocketHealth),
        "/test-cors" => return Some(Route::TestCors),
        "/api/users" => return Some(Route::Users),
        "/api/clients" => return Some(Route::Clients),
        "/api/messages" => return Some(Route::Messages),
        "/api/chat/messages" => return Some(Route::RoomMessages),
        _ => {}
    }
    let after = |prefix: &str| path.strip_prefix(prefix).filter(names);
    let of_chat = path.strip_prefix("/api/chat/users/").and_then(|rest| rest.strip_suffix("/messages"));
    if let Some(user) = of_chat.filter(names) {
        return Some(Route::OfAuthor("userId", user));
    }
    if let Some(user) = after("/api/messages/user/") {
        return Some(Route::OfAuthor("userId", user));
    }
    if let Some(client) = after("/api/messages/client/") {
        return Some(Route::OfAuthor("clientId", client));
    }
    after("/api/messages/type/").map(Route::OfKind)
}

pub(super) async fn answer<B>(
    edge: &Edge,
    client: IpAddr,
    head: &Parts,
    route: Route<'_>,
    body: B,
) -> Result<Answer, Refused>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match (&route, &head.method) {
        (Route::Messages, &Method::POST) => return say(edge, client, head, body).await,
        (_, &Method::GET | &Method::HEAD) => {}
        (Route::Messages, _) => return Err(Refused::Method("GET, POST, OPTIONS")),
        _ => return Err(Refused::Method("GET, OPTIONS")),
    }
    match route {
        Route::SocketHealth => Ok(socket_health(edge)),
        Route::TestCors => Ok(test_cors(edge, head)),
        Route::Users => users(edge, head).await,
        // Of system B's older protocol, which nobody is served here.
        Route::Clients => Ok(object(StatusCode::OK, [("totalClients", 0.into()), ("clients", json!([]))])),
        Route::Messages => messages(edge, head).await,
        Route::RoomMessages => room_messages(edge, head).await,
        Route::OfAuthor(key, id) => of_author(edge, head, key, id).await,
        Route::OfKind(kind) => of_kind(edge, head, kind).await,
    }
}

/// `/` of the chat door.
pub(crate) fn index(edge: &Edge) -> Answer {
    let endpoints = json!({
        "health": "/health", "socketHealth": "/socket-health", "messages": "/api/messages", "users": "/api/users",
        "socketIO": "/socket.io/",
    });
    let fields = [
        ("service", "Parley chat".into()),
        ("status", "running".into()),
        ("version", env!("CARGO_PKG_VERSION").into()),
        ("endpoints", endpoints),
        ("timestamp", edge.clock.now().to_string().into()),
    ];
    object(StatusCode::OK, fields)
}

/// `/health` of the chat door. Users are those of this edge.
pub(crate) fn health(edge: &Edge) -> Answer {
    let fields = [
        ("status", "healthy".into()),
        ("timestamp", edge.clock.now().to_string().into()),
        ("uptime", edge.tally.uptime().as_secs_f64().into()),
        ("connectedUsers", edge.members.users().into()),
        // Of system B's older protocol.
        ("connectedClients", 0.into()),
    ];
    object(StatusCode::OK, fields)
}

/// What the chat door answers where there is nothing.
pub(crate) fn not_found(method: &Method, path: &str) -> Answer {
    let message = format!("Route {method} {path} not found");
    object(StatusCode::NOT_FOUND, [("error", "Not Found".into()), ("message", message.into())])
}

fn socket_health(edge: &Edge) -> Answer {
    let origins = &edge.settings.origins;
    let origins = if origins.is_empty() { vec!["*".to_owned()] } else { origins.clone() };
    let socket_io = json!({
        "connected": edge.tally.guests(), "transports": ["polling", "websocket"], "path": "/socket.io/",
    });
    let fields = [
        ("status", "socket-healthy".into()),
        ("timestamp", edge.clock.now().to_string().into()),
        ("socketIO", socket_io),
        ("cors", json!({ "origins": origins })),
    ];
    object(StatusCode::OK, fields)
}

fn test_cors(edge: &Edge, head: &Parts) -> Answer {
    let origin = head.headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
    let fields = [
        ("message", "CORS is working".into()),
        ("timestamp", edge.clock.now().to_string().into()),
        ("origin", origin.map_or(Value::Null, Value::from)),
    ];
    object(StatusCode::OK, fields)
}

/// Who asks.
fn chatter(edge: &Edge, head: &Parts) -> Result<Chatter, Refused> {
    let query = parameter(head.uri.query().unwrap_or_default(), "token");
    let token = bearer(&head.headers).or(query.as_deref());
    Chatter::of(edge, token).map_err(|_| Refused::Unauthenticated)
}

/// Whoever asks may not know what is said there.
const NOT_FOR_YOU: Refused = Refused::Forbidden("This room is not for you");

/// The room that is asked about, if whoever asks may read it.
fn readable_room(edge: &Edge, head: &Parts) -> Result<RoomId, Refused> {
    let chatter = chatter(edge, head)?;
    let named = parameter(head.uri.query().unwrap_or_default(), "roomId").filter(|room| !room.is_empty());
    let room = match named {
        None => chatter.home(),
        Some(room) => room.parse().map_err(|_| Refusal::RoomInvalid)?,
    };
    if chatter.may_read(&room) { Ok(room) } else { Err(NOT_FOR_YOU) }
}

/// What is said in rooms that are no session's is for whoever may chat in them.
fn may_search(edge: &Edge, head: &Parts) -> Result<(), Refused> {
    if chatter(edge, head)?.may_read(&RoomId::general()) { Ok(()) } else { Err(NOT_FOR_YOU) }
}

fn limit(head: &Parts) -> Result<u32, Refused> {
    match parameter(head.uri.query().unwrap_or_default(), "limit").filter(|limit| !limit.is_empty()) {
        None => Ok(MESSAGES_DEFAULT),
        Some(limit) => {
            let limit = limit.parse().ok().filter(|limit| (1..=PAGE_MAX).contains(limit));
            Ok(limit.ok_or(Refusal::LimitInvalid)?)
        }
    }
}

fn before(head: &Parts) -> Result<Option<Sequence>, Refused> {
    let before =
        parameter(head.uri.query().unwrap_or_default(), "before").filter(|before| !before.is_empty());
    let before = before.map(|before| before.parse().map(Sequence));
    let wrong = Refused::Wrong("before must be a whole number, not negative", "before_invalid");
    before.transpose().map_err(|_| wrong)
}

async fn users(edge: &Edge, head: &Parts) -> Result<Answer, Refused> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Users<'a> {
        total_users: usize,
        online_users: Vec<ChatUser<'a>>,
    }
    let members = people(edge, &readable_room(edge, head)?).await;
    let now = edge.clock.now();
    let online_users: Vec<ChatUser<'_>> = members.iter().map(|member| ChatUser::new(member, now)).collect();
    Ok(answers::json(StatusCode::OK, &Users { total_users: online_users.len(), online_users }))
}

async fn messages(edge: &Edge, head: &Parts) -> Result<Answer, Refused> {
    #[derive(Serialize)]
    struct Messages<'a> {
        messages: Vec<ChatMessage<'a>>,
        total: u64,
        limit: u32,
        offset: u32,
    }
    let (room, limit, before) = (readable_room(edge, head)?, limit(head)?, before(head)?);
    let (messages, _) = edge.storage.messages(&room, before, limit).await?;
    let total = edge.storage.count_messages(&room).await?;
    let messages = protocol::rows(&messages);
    Ok(answers::json(StatusCode::OK, &Messages { messages, total, limit, offset: 0 }))
}

async fn room_messages(edge: &Edge, head: &Parts) -> Result<Answer, Refused> {
    let (room, limit, before) = (readable_room(edge, head)?, limit(head)?, before(head)?);
    let (messages, _) = edge.storage.messages(&room, before, limit).await?;
    Ok(found("roomId", room.as_str(), &protocol::rows(&messages)))
}

async fn of_author(edge: &Edge, head: &Parts, key: &str, id: &str) -> Result<Answer, Refused> {
    may_search(edge, head)?;
    let (id, limit) = (path_part(id), limit(head)?);
    // Whoever has proved nothing is known by its name.
    let authors: [Option<UserId>; 2] = [id.parse().ok(), anonymous(&id)];
    let mut messages = Vec::new();
    for author in authors.into_iter().flatten() {
        messages.extend(edge.storage.messages_of_author(&author, limit).await?);
    }
    messages.sort_by_key(|message| std::cmp::Reverse(message.created_at));
    messages.truncate(limit as usize);
    Ok(found(key, &id, &protocol::rows(&messages)))
}

async fn of_kind(edge: &Edge, head: &Parts, kind: &str) -> Result<Answer, Refused> {
    may_search(edge, head)?;
    let (kind, limit) = (path_part(kind), limit(head)?);
    let messages = match MessageKind::from_label(&kind) {
        Some(kind) => edge.storage.messages_of_kind(kind, limit).await?,
        None => Vec::new(),
    };
    Ok(found("messageType", &kind, &protocol::rows(&messages)))
}

/// Messages, under what was asked for.
fn found(key: &str, name: &str, messages: &[ChatMessage<'_>]) -> Answer {
    struct Found<'a>(&'a str, &'a str, &'a [ChatMessage<'a>]);
    impl Serialize for Found<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let Self(key, name, messages) = self;
            let mut fields = serializer.serialize_map(Some(3))?;
            fields.serialize_entry(key, name)?;
            fields.serialize_entry("messages", messages)?;
            fields.serialize_entry("count", &messages.len())?;
            fields.end()
        }
    }
    answers::json(StatusCode::OK, &Found(key, name, messages))
}

/// `POST /api/messages`.
async fn say<B>(edge: &Edge, client: IpAddr, head: &Parts, body: B) -> Result<Answer, Refused>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let chatter = chatter(edge, head)?;
    if !chatter.may_write() {
        return Err(Refused::Forbidden("This token only reads"));
    }
    let user = chatter.user();
    edge.limits
        .post(user.as_ref(), client)
        .map_err(|TooOften { retry_after }| Refused::Often(retry_after))?;
    let fields = body::read(body).await?;
    let name = fields.text("username").map(str::to_owned).or_else(|| chatter.name());
    let (Some(_), Some(name)) = (fields.text("content"), name) else {
        return Err(Refused::Wrong("Content and username are required", "fields_missing"));
    };
    let name = protocol::name(&name).ok_or(Refusal::NameInvalid)?;
    let author = match (user, fields.get("userId")) {
        // A trusted back end may say for whom it speaks.
        (Some(_), Some(user)) if matches!(chatter, Chatter::Service) => {
            user.as_str().and_then(|user| user.parse().ok()).ok_or(Refusal::UserInvalid)?
        }
        (Some(user), _) => user,
        (None, _) => anonymous(&name).ok_or(Refusal::NameInvalid)?,
    };
    let draft = Draft::read(fields.all())?;
    let room = draft.room.clone().unwrap_or_else(|| chatter.home());
    if !chatter.may_read(&room) {
        return Err(NOT_FOR_YOU);
    }
    let message = edge.hub.send_message(&draft.by(author, name, room)?).await?;
    Ok(answers::json(StatusCode::OK, &ChatMessage::from(&message)))
}
