//! Deepgram's live protocol, `GET /v1/listen`: a program written for that service needs another base URL and a key of
//! ours. One task each.
//!
//! Each connection is one stream, stored like any other: in the session of its token, or with a service key in one of
//! its own or the one that `extra=session:SLUG` names.

mod params;
mod results;
mod words;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use model::{Caption, FaultKind, Samples, SessionSlug, Speaker, Timestamp, UtteranceId};
use rpc::WhenFull;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use tungstenite::Utf8Bytes;
use uuid::Uuid;

use crate::{
    Edge,
    answers::{self, Answer},
    close::Close,
    ending::{End, Flow, end, end_with, go_on},
    limits::TooOften,
    metrics::Refused,
    pulse::{Beat, Leaving, Pulse, Rhythm},
    socket::{Received, Socket},
    source::Command,
    speaking::{self, Owner, Speaking, Told, Wish},
    update::Update,
};

use params::Params;

/// Where clients of Deepgram connect.
pub(crate) const LISTEN_PATH: &str = "/v1/listen";

/// Largest message, in bytes: as much as is decoded at once.
pub(crate) const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// Longest text message that is read, in bytes.
const TEXT_BYTES_MAX: usize = 4 * 1024;

/// How long nothing may come, neither sound nor `KeepAlive` (Deepgram).
const SILENCE_LIMIT: Duration = Duration::from_secs(10);

/// How long a `Finalize` waits for a final before it is answered with none.
const FINALIZE_LIMIT: Duration = Duration::from_secs(2);

/// How long what was said last may take to be told once the client wants no more.
const CLOSE_LIMIT: Duration = Duration::from_secs(30);

/// Text messages in a row that cannot be followed before the socket closes.
const BAD_MESSAGES_MAX: u32 = 20;

const PINGS_UNANSWERED_MAX: u32 = 3;

/// The header that names a connection in whatever is said about it.
const REQUEST_ID: &str = "dg-request-id";

/// The header that says why there is none.
pub(crate) const ERROR: &str = "dg-error";

/// What a handshake settled.
pub(crate) struct Permit {
    request: Uuid,
    /// What to name in the answer of those that a client offered.
    subprotocol: Option<&'static str>,
    owner: Owner,
    params: Params,
    expires_at: Timestamp,
    created: String,
}

/// Why there is none.
pub(crate) struct Denied {
    pub(crate) fault: FaultKind,
    pub(crate) answer: Answer,
}

/// How a client proves who it is.
struct Key<'a> {
    text: &'a str,
    subprotocol: Option<&'static str>,
}

/// The key in `Authorization: Token KEY` or `Bearer JWT`; browsers offer `token, KEY` or `bearer, JWT` as subprotocols.
fn key(headers: &HeaderMap) -> Option<Key<'_>> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let (scheme, text) = value.to_str().ok()?.trim().split_once(' ')?;
        let is_known = scheme.eq_ignore_ascii_case("token") || scheme.eq_ignore_ascii_case("bearer");
        return is_known.then(|| Key { text: text.trim(), subprotocol: None });
    }
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).into_iter();
    let mut offered = offered.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    loop {
        let subprotocol = match offered.next()?.trim() {
            "token" => "token",
            "bearer" => "bearer",
            _ => continue,
        };
        return Some(Key { text: offered.next()?.trim(), subprotocol: Some(subprotocol) });
    }
}

/// Decides about an upgrade by its headers and query.
pub(crate) fn decide(edge: &Edge, headers: &HeaderMap, query: &str) -> Result<Permit, Box<Denied>> {
    let request = Uuid::new_v4();
    let denied = |fault, status, code, text: &str| Box::new(denied(request, fault, status, code, text));
    if !answers::is_allowed(&edge.settings.origins, headers.get(header::ORIGIN)) {
        let text = "Pages of this origin may not connect.";
        return Err(denied(FaultKind::Forbidden, StatusCode::FORBIDDEN, "FORBIDDEN", text));
    }
    let wrong = || {
        let text = "Invalid credentials.";
        denied(FaultKind::Unauthenticated, StatusCode::UNAUTHORIZED, "INVALID_AUTH", text)
    };
    let Key { text, subprotocol } = key(headers).ok_or_else(wrong)?;
    let params = Params::read(query).map_err(|error| {
        denied(FaultKind::Caller, StatusCode::BAD_REQUEST, "INVALID_QUERY_PARAMETER", &error.to_string())
    })?;
    let forbidden = |text| denied(FaultKind::Forbidden, StatusCode::FORBIDDEN, "FORBIDDEN", text);
    let (owner, expires_at) = if edge.keys.accepts(text) {
        let session = match &params.session {
            Some(session) => session.clone(),
            None => format!("listen-{request}").parse::<SessionSlug>().map_err(|_| wrong())?,
        };
        let identity = format!("listen-{request}").parse().map_err(|_| wrong())?;
        (Owner { session, speaker: Speaker { identity, name: None }, user: None }, Timestamp(i64::MAX))
    } else {
        let principal = edge.tokens.verify(text).map_err(|_| wrong())?;
        let session = params.session.as_ref().unwrap_or(principal.session());
        if !principal.may_speak(session) {
            return Err(forbidden("This token may not speak in that session."));
        }
        if let Err(TooOften { retry_after }) =
            edge.limits.identity_handshake(principal.session(), principal.identity())
        {
            let text = "This participant connects too often.";
            let status = StatusCode::TOO_MANY_REQUESTS;
            let mut denied = denied(FaultKind::Overloaded, status, "TOO_MANY_REQUESTS", text);
            denied.answer = answers::retry_after(denied.answer, retry_after);
            return Err(denied);
        }
        edge.sessions.present(&principal);
        let speaker =
            Speaker { identity: principal.identity().clone(), name: principal.name().map(str::to_owned) };
        let owner = Owner { session: session.clone(), speaker, user: Some(principal.user().clone()) };
        (owner, principal.expires_at())
    };
    let created = edge.clock.now().to_string();
    Ok(Permit { request, subprotocol, owner, params, expires_at, created })
}

fn denied(request: Uuid, fault: FaultKind, status: StatusCode, code: &str, text: &str) -> Denied {
    let fields =
        [("err_code", code.into()), ("err_msg", text.into()), ("request_id", request.to_string().into())];
    let mut answer = answers::object(status, fields);
    name(&mut answer, request);
    if let Ok(text) = HeaderValue::from_str(text) {
        answer.headers_mut().insert(ERROR, text);
    }
    Denied { fault, answer }
}

fn name(answer: &mut Answer, request: Uuid) {
    if let Ok(request) = HeaderValue::from_str(&request.to_string()) {
        answer.headers_mut().insert(REQUEST_ID, request);
    }
}

impl Permit {
    /// Adds what Deepgram says to the answer to an upgrade.
    pub(crate) fn mark(&self, answer: &mut Answer) {
        name(answer, self.request);
        if let Some(subprotocol) = self.subprotocol {
            let value = HeaderValue::from_static(subprotocol);
            answer.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, value);
        }
    }
}

/// Serves a client until it ends.
pub(crate) async fn serve(edge: Arc<Edge>, socket: Socket, permit: Permit) {
    let _open = edge.tally.connection();
    let began = Instant::now();
    let rhythm = Rhythm { interval: edge.settings.ping_interval, unanswered_max: PINGS_UNANSWERED_MAX };
    let Permit { request, owner, params, expires_at, created, .. } = permit;
    let mut listener = Box::new(Listener {
        speaking: Speaking::new(&edge, owner),
        wish: Wish {
            format: params.format,
            language: params.language.clone(),
            translate_to: Vec::new(),
            endpointing_ms: params.endpointing_ms,
            when_full: WhenFull::Wait,
        },
        pulse: Pulse::new(rhythm, expires_at, &edge.clock),
        edge: edge.clone(),
        socket,
        request,
        params,
        created,
        sha256: Sha256::new(),
        alive_at: began,
        finalize_by: None,
        close_by: None,
        open: None,
        last_word_end: None,
        acknowledged_to: Samples(0),
        told_to: Samples(0),
        bad: 0,
    });
    let outcome = listener.run().await;
    let Listener { socket, speaking, .. } = *listener;
    drop(speaking);
    let code = outcome.code();
    if let End::Close(close, last) = outcome {
        edge.tally.closed(close);
        Box::pin(socket.close(last, close, edge.life.stopping())).await;
    }
    tracing::info!(%request, code, seconds = began.elapsed().as_secs(), "listening ended");
}

struct Listener {
    edge: Arc<Edge>,
    socket: Socket,
    request: Uuid,
    params: Params,
    created: String,
    speaking: Speaking,
    wish: Wish,
    pulse: Pulse,
    /// Of all sound that came.
    sha256: Sha256,
    /// When sound or `KeepAlive` came last.
    alive_at: Instant,
    /// When a `Finalize` is answered although no final came.
    finalize_by: Option<Instant>,
    /// When the connection ends although not all was told, once the client wants no more.
    close_by: Option<Instant>,
    /// The utterance whose beginning was told last.
    open: Option<UtteranceId>,
    /// Where the last word ended that no gap was told after.
    last_word_end: Option<Samples>,
    /// Nothing more will be said of what lies before.
    acknowledged_to: Samples,
    /// Where what was told last ends.
    told_to: Samples,
    bad: u32,
}

#[derive(Deserialize)]
struct Said {
    r#type: String,
}

impl Listener {
    async fn run(&mut self) -> End {
        loop {
            let reads = !self.speaking.is_blocked();
            let next_at = self.next_at();
            let Self { edge, socket, speaking, pulse, .. } = self;
            let leaving = pulse.leaving;
            let flow = tokio::select! {
                received = socket.receive(), if reads => self.hear(received).await,
                told = speaking.next() => self.told(told).await,
                () = pulse.wait(next_at) => self.time(!reads).await,
                () = edge.life.draining().cancelled(), if leaving == Leaving::No => {
                    self.pulse.leaving = Leaving::Draining;
                    self.finish().await
                }
                () = edge.life.stopping().cancelled() => return End::Close(Close::GoingAway, None),
            };
            // What came meanwhile waits to be read.
            if !reads {
                self.alive_at = Instant::now();
            }
            if let Flow::Break(end) = flow {
                return end;
            }
        }
    }

    /// When something is due beside the pulse.
    fn next_at(&self) -> Option<Instant> {
        let silent_at = self.close_by.is_none().then(|| self.alive_at + SILENCE_LIMIT);
        [silent_at, self.finalize_by, self.close_by].into_iter().flatten().min()
    }

    async fn hear(&mut self, received: Received) -> Flow {
        self.pulse.heard();
        match received {
            Received::Alive => go_on(),
            Received::Gone => Flow::Break(End::Gone),
            Received::Broken(close) => Flow::Break(End::Close(close, None)),
            Received::Text(text) => {
                self.edge.tally.received();
                self.hear_text(&text).await
            }
            Received::Binary(bytes) => {
                self.edge.tally.received();
                self.hear_sound(bytes).await
            }
        }
    }

    async fn hear_sound(&mut self, bytes: Bytes) -> Flow {
        self.alive_at = Instant::now();
        if self.close_by.is_some() {
            return go_on();
        }
        if bytes.is_empty() {
            return self.finish().await;
        }
        self.bad = 0;
        self.sha256.update(&bytes);
        self.speaking.sound(bytes, &self.wish);
        go_on()
    }

    async fn hear_text(&mut self, text: &str) -> Flow {
        let said = (text.len() <= TEXT_BYTES_MAX).then(|| serde_json::from_str::<Said>(text).ok()).flatten();
        let kind = said.as_ref().map(|said| said.r#type.as_str());
        match kind {
            Some("KeepAlive") => self.alive_at = Instant::now(),
            Some("Finalize") if self.close_by.is_some() => {}
            Some("Finalize") => {
                self.speaking.command(Command::Finalize);
                self.finalize_by = Some(Instant::now() + FINALIZE_LIMIT);
            }
            Some("CloseStream") => return self.finish().await,
            _ => {
                self.edge.tally.refused(Refused::Invalid);
                self.bad += 1;
                let text = "a text message must be KeepAlive, Finalize or CloseStream";
                let error = results::error("INVALID_MESSAGE", text);
                if self.bad > BAD_MESSAGES_MAX {
                    return end_with(Close::Policy, error);
                }
                return self.send(error).await;
            }
        }
        self.bad = 0;
        go_on()
    }

    /// The client wants no more, or the edge drains: what was said is told.
    async fn finish(&mut self) -> Flow {
        if self.close_by.is_some() {
            return go_on();
        }
        self.close_by = Some(Instant::now() + CLOSE_LIMIT);
        if self.speaking.stop() {
            return go_on();
        }
        self.farewell(Samples(0)).await
    }

    async fn farewell(&mut self, length: Samples) -> Flow {
        if self.finalize_by.take().is_some() {
            let nothing = results::nothing(self.request, &self.params, length);
            self.send(nothing).await?;
        }
        let hash: String = self.sha256.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let metadata = results::metadata(self.request, &self.params, &self.created, length, &hash);
        let close = if self.pulse.leaving == Leaving::No { Close::Finished } else { Close::GoingAway };
        end_with(close, metadata)
    }

    async fn told(&mut self, told: Told) -> Flow {
        match told {
            Told::Caption(update) => self.caption(&update).await,
            Told::Acknowledged(position) => self.acknowledged(position).await,
            Told::Lost(lost) => self.send(results::warning("AUDIO_LOST", &speaking::lost(lost))).await,
            Told::Unserved(message) => self.send(results::warning("LANGUAGE", &message)).await,
            Told::Ended(length) => self.farewell(length).await,
            Told::TooSlow => end(Close::SlowFollower),
            Told::Failed { fault: FaultKind::BadData, message, .. } => {
                end_with(Close::NotAudio, results::error("DATA-0000", &message))
            }
            Told::Failed { fault, message, .. } => {
                end_with(Close::after(fault), results::error(fault.label(), &message))
            }
        }
    }

    async fn caption(&mut self, update: &Update) -> Flow {
        let Some(caption) = update.as_caption() else { return go_on() };
        let mut texts = Vec::new();
        let (utterance, start) = match caption {
            Caption::Partial(partial) => (&partial.utterance, partial.start),
            Caption::Final(segment) if segment.revision > 0 => return go_on(),
            Caption::Final(segment) => (&segment.utterance, segment.start),
            Caption::Translation(_) => return go_on(),
        };
        if self.params.vad_events && self.open.as_ref() != Some(utterance) {
            texts.push(results::speech_started(start));
        }
        let mut from_finalize = false;
        let is_told = match caption {
            Caption::Final(segment) => {
                from_finalize = self.finalize_by.take().is_some();
                self.told_to = segment.end;
                self.last_word_end = Some(segment.words.last().map_or(segment.end, |word| word.end));
                true
            }
            _ => {
                self.last_word_end = None;
                self.params.interim
            }
        };
        self.open = Some(utterance.clone());
        if is_told {
            texts.extend(results::results(self.request, &self.params, caption, from_finalize));
        }
        self.edge.tally.delivered(texts.len() as u64);
        self.send_all(texts).await?;
        // Of sound that came faster than it was spoken, that was known before its words were.
        self.acknowledged(self.acknowledged_to).await
    }

    /// Nothing more will be said of what lies before a position: perhaps that is the gap after a word.
    async fn acknowledged(&mut self, position: Samples) -> Flow {
        self.acknowledged_to = position;
        let Some((gap, end)) = self.params.utterance_end.zip(self.last_word_end) else { return go_on() };
        let gap = Samples::from_millis(u64::try_from(gap.as_millis()).unwrap_or(u64::MAX));
        if position < end + gap {
            return go_on();
        }
        self.last_word_end = None;
        self.send(results::utterance_end(end)).await
    }

    /// Something is due. A client that is not read is excused from saying anything.
    async fn time(&mut self, excused: bool) -> Flow {
        let now = Instant::now();
        if self.pulse.has_expired(&self.edge.clock) {
            return end_with(Close::Expired, results::error("EXPIRED", "the token has expired"));
        }
        if self.close_by.is_some_and(|by| by <= now) {
            let text = "what was said last could not be transcribed in time";
            return end_with(Close::Busy, results::error("NET-0000", text));
        }
        if self.finalize_by.take_if(|by| *by <= now).is_some() {
            let nothing = results::nothing(self.request, &self.params, self.told_to);
            self.send(nothing).await?;
        }
        if excused {
            self.alive_at = now;
        } else if self.close_by.is_none() && self.alive_at + SILENCE_LIMIT <= now {
            let text = "neither audio nor KeepAlive came for 10 s";
            return end_with(Close::NoAudio, results::error("NET-0001", text));
        }
        match self.pulse.beat(excused) {
            None => go_on(),
            Some(Beat::Dead) => end(Close::Heartbeat),
            Some(Beat::Ping) => match self.socket.ping().await {
                Ok(()) => go_on(),
                Err(unsent) => Flow::Break(unsent.into()),
            },
        }
    }

    async fn send(&mut self, text: Utf8Bytes) -> Flow {
        self.send_all([text]).await
    }

    async fn send_all(&mut self, texts: impl IntoIterator<Item = Utf8Bytes>) -> Flow {
        match self.socket.send(texts).await {
            Ok(()) => go_on(),
            Err(unsent) => {
                self.edge.tally.undelivered();
                Flow::Break(unsent.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_shown_in_either_header() {
        let shown = |headers: &[(&'static str, &str)]| {
            let headers = headers.iter().map(|(name, value)| {
                (http::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
            });
            let headers: HeaderMap = headers.collect();
            key(&headers).map(|key| (key.text.to_owned(), key.subprotocol))
        };
        let (authorization, protocol) = ("authorization", "sec-websocket-protocol");
        let plain = |text: &str| Some((text.to_owned(), None));
        assert_eq!(shown(&[(authorization, "Token k")]), plain("k"));
        assert_eq!(shown(&[(authorization, "bearer  k ")]), plain("k"));
        assert_eq!(shown(&[(authorization, "Basic k")]), None);
        assert_eq!(shown(&[(protocol, "token, k")]), Some(("k".to_owned(), Some("token"))));
        let more = "x-deepgram-session-id, 1, bearer,a.b.c";
        assert_eq!(shown(&[(protocol, more)]), Some(("a.b.c".to_owned(), Some("bearer"))));
        assert_eq!(shown(&[(protocol, "token")]), None);
        assert_eq!(shown(&[]), None);
    }
}
