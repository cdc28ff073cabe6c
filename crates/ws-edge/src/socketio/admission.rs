//! Who may enter a namespace, and what serves whoever does.

use std::{
    fmt::Display,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use auth::User;
use http::HeaderMap;
use model::FaultKind;
use serde_json::{Map, Value};
use socketioxide::{
    adapter::LocalAdapter,
    handler::{ConnectHandler, Value as Packet},
    socket::Socket,
};

use super::{transport::Opening, visitor::Visitor};
use crate::{
    Edge,
    chat::guest::{self, Entrant, Guest},
    connection::{self, Connection, Peer},
    handshake::{self, bearer, parameter},
    line::Line,
    tab::{self, Tab},
};

/// What there is to enter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `/`: chat, as in system B.
    Chat,
    /// `/captions`: a session, as on its WebSocket.
    Captions,
    /// `/notifications`: a user's, as on `/ws`.
    Notifications,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Chat, Self::Captions, Self::Notifications];

    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::Chat => "/",
            Self::Captions => "/captions",
            Self::Notifications => "/notifications",
        }
    }
}

/// What a client says when it enters: `auth` of its packet, or else the query and the headers of the request that opened
/// its connection.
pub(crate) struct Asked<'a> {
    auth: Map<String, Value>,
    query: &'a str,
    pub(crate) headers: &'a HeaderMap,
}

impl<'a> Asked<'a> {
    fn new(socket: &'a Socket, auth: Option<&Packet>) -> Self {
        let auth = auth.and_then(Packet::as_str).and_then(|auth| serde_json::from_str(auth).ok());
        let request = socket.req_parts();
        Self {
            auth: auth.unwrap_or_default(),
            query: request.uri.query().unwrap_or_default(),
            headers: &request.headers,
        }
    }

    /// A value by its name, as text.
    pub(crate) fn value(&self, name: &str) -> Option<String> {
        match self.auth.get(name) {
            Some(Value::String(text)) => Some(text.clone()),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => Some(value.to_string()),
            // What system C's clients keep: the token with its surroundings.
            Some(value @ Value::Object(_)) => Some(value.to_string()),
            Some(Value::Array(_) | Value::Null) | None => parameter(self.query, name),
        }
    }

    /// The token, from wherever it is.
    pub(crate) fn token(&self) -> Option<String> {
        let token = self.value("token").filter(|token| !token.trim().is_empty());
        token.or_else(|| bearer(self.headers).map(str::to_owned))
    }
}

/// Why a client may not enter, as its `connect_error` says it: a stable code, a colon and a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Denied {
    pub(crate) fault: FaultKind,
    pub(crate) text: String,
}

impl Display for Denied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.fault.label(), self.text)
    }
}

/// Who was let in, until it is served.
enum Admitted {
    Chat(Entrant),
    Captions(Peer),
    Notifications(User),
}

/// An [`Admitted`] on its way from the question to the answer.
#[derive(Clone)]
struct Pass(Arc<Mutex<Option<Admitted>>>);

/// What of an edge is behind a namespace.
#[derive(Clone)]
pub(super) struct Namespace {
    pub(super) edge: Weak<Edge>,
    pub(super) kind: Kind,
}

impl Namespace {
    fn admit(&self, edge: &Arc<Edge>, asked: &Asked<'_>) -> Result<Admitted, Denied> {
        if edge.life.draining().is_cancelled() {
            let text = "this server is restarting, reconnect".to_owned();
            return Err(Denied { fault: FaultKind::Overloaded, text });
        }
        match self.kind {
            Kind::Chat => guest::admit(edge, asked).map(Admitted::Chat),
            Kind::Captions => handshake::peer(edge, asked.headers, |name| asked.value(name))
                .map(Admitted::Captions)
                .map_err(Denied::from),
            Kind::Notifications => {
                let user = handshake::user(edge, asked.headers, asked.value("token"));
                user.map(Admitted::Notifications).map_err(|(problem, _)| Denied {
                    fault: problem.fault(),
                    text: problem.text().to_owned(),
                })
            }
        }
    }
}

impl ConnectHandler<LocalAdapter, Self> for Namespace {
    fn call_middleware<'a>(
        &'a self,
        socket: Arc<Socket>,
        auth: &'a Option<Packet>,
    ) -> Pin<Box<dyn Future<Output = Result<(), Box<dyn Display + Send>>> + Send + 'a>> {
        Box::pin(async move {
            let gone = || Denied { fault: FaultKind::Overloaded, text: "this server is gone".to_owned() };
            let edge = self.edge.upgrade().ok_or_else(|| Box::new(gone()) as Box<dyn Display + Send>)?;
            let namespace = self.kind.path();
            let client = socket.req_parts().extensions.get::<Opening>().map(|opening| opening.client);
            match self.admit(&edge, &Asked::new(&socket, auth.as_ref())) {
                Ok(admitted) => {
                    edge.tally.upgrade("established");
                    tracing::info!(namespace, ?client, "Socket.IO client entered");
                    socket.extensions.insert(Pass(Arc::new(Mutex::new(Some(admitted)))));
                    Ok(())
                }
                Err(denied) => {
                    edge.tally.upgrade(denied.fault.label());
                    tracing::info!(namespace, ?client, reason = denied.text, "Socket.IO client refused");
                    Err(Box::new(denied) as Box<dyn Display + Send>)
                }
            }
        })
    }

    fn call(&self, socket: Arc<Socket>, _: Option<Packet>) {
        let pass = socket.extensions.remove::<Pass>();
        let admitted = pass.and_then(|pass| pass.0.lock().unwrap_or_else(PoisonError::into_inner).take());
        let (Some(edge), Some(admitted)) = (self.edge.upgrade(), admitted) else {
            // Unreachable: nobody is called who was not admitted before.
            let _ = socket.disconnect();
            return;
        };
        let visitor = Visitor::new(&edge, socket);
        match admitted {
            Admitted::Chat(entrant) => {
                edge.life.spawn(guest::serve(Guest::new(&edge, visitor, entrant)));
            }
            Admitted::Captions(peer) => {
                edge.life.spawn(connection::serve(Connection::new(&edge, Line::socketio(visitor), peer)));
            }
            Admitted::Notifications(user) => {
                edge.life.spawn(tab::serve(Tab::new(&edge, Line::socketio(visitor), user)));
            }
        }
    }
}
