//! A server with OpenAI's `/v1/audio/transcriptions` and `/v1/audio/translations`, with faults.

#![expect(clippy::indexing_slicing, reason = "JSON that lacks what is looked for is null")]

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Collected, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{net::TcpListener, task::JoinSet};

use crate::choose_tls;

/// How a question is dealt with that is not answered well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hearing {
    /// This status, with OpenAI's error of this code, and what is asked for in `Retry-After`, in seconds.
    Failing(u16, &'static str, Option<u32>),
    /// It is never answered.
    Never,
    /// Something that is no JSON.
    Garbage,
    /// An answer of so many bytes.
    Long(usize),
    /// The connection is dropped.
    Dropped,
}

/// A question that came.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Path and query.
    pub path: String,
    /// Its header `Authorization`.
    pub authorization: String,
    /// The fields of its form in their order, but for the file.
    pub fields: Vec<(String, String)>,
    /// The file.
    pub file: Vec<u8>,
}

type Recognize = dyn Fn(&Asked) -> String + Send + Sync;

/// The server. Everything that it does ends when it is dropped.
pub struct TranscriptionServer {
    address: SocketAddr,
    world: Arc<World>,
    _tasks: JoinSet<()>,
}

struct World {
    recognize: Box<Recognize>,
    faults: Mutex<VecDeque<Hearing>>,
    asked: Mutex<Vec<Asked>>,
}

impl TranscriptionServer {
    /// The key that it knows.
    pub const KEY: &'static str = "openai-stand-in-key";

    /// Starts it on a port of its own. `recognize` says what it hears.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn start(recognize: impl Fn(&Asked) -> String + Send + Sync + 'static) -> Self {
        choose_tls();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port for the recognizer");
        let address = listener.local_addr().expect("a bound address");
        let world = Arc::new(World {
            recognize: Box::new(recognize),
            faults: Mutex::default(),
            asked: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, world.clone()));
        Self { address, world, _tasks: tasks }
    }

    /// Where it is, for `OPENAI_API_URL`.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Deals with the next questions so, one each; those after them are answered well.
    pub fn fail(&self, faults: impl IntoIterator<Item = Hearing>) {
        lock(&self.world.faults).extend(faults);
    }

    /// All questions so far.
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.world.asked).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(listener: TcpListener, world: Arc<World>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    let world = world.clone();
                    connections.spawn(async move {
                        let service = service_fn(|request| answer(request, &world));
                        let connection = hyper::server::conn::http1::Builder::new();
                        let _the_client_says_why =
                            connection.serve_connection(TokioIo::new(stream), service).await;
                    });
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// The connection is to be dropped.
#[derive(Debug)]
struct Drop;

impl std::fmt::Display for Drop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("told to drop the connection")
    }
}

impl std::error::Error for Drop {}

async fn answer(request: Request<Incoming>, world: &World) -> Result<Response<Full<Bytes>>, Drop> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(Collected::to_bytes).unwrap_or_default();
    let text = |name: header::HeaderName| {
        head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    let mut asked =
        Asked { path: head.uri.to_string(), authorization: text(header::AUTHORIZATION), ..Asked::default() };
    read_form(&text(header::CONTENT_TYPE), &body, &mut asked);
    lock(&world.asked).push(asked.clone());
    let fault = lock(&world.faults).pop_front();
    match fault {
        Some(Hearing::Failing(status, code, retry_after)) => return Ok(error(status, code, retry_after)),
        Some(Hearing::Never) => std::future::pending::<()>().await,
        Some(Hearing::Garbage) => return Ok(response(200, "<html>502</html>")),
        Some(Hearing::Long(bytes)) => {
            return Ok(response(200, &json!({"text": "a".repeat(bytes)}).to_string()));
        }
        Some(Hearing::Dropped) => return Err(Drop),
        None => {}
    }
    if asked.authorization != format!("Bearer {}", TranscriptionServer::KEY) {
        return Ok(error(401, "invalid_api_key", None));
    }
    let task = match (&head.method, head.uri.path()) {
        (&Method::POST, "/v1/audio/transcriptions") => "transcribe",
        (&Method::POST, "/v1/audio/translations") => "translate",
        _ => return Ok(error(404, "unknown_url", None)),
    };
    if asked.field("model").is_none() || !asked.file.starts_with(b"RIFF") {
        return Ok(error(400, "invalid_value", None));
    }
    Ok(response(200, &transcription(task, &asked, &(world.recognize)(&asked))))
}

/// As OpenAI answers: the words without punctuation, here evenly over the sound.
fn transcription(task: &str, asked: &Asked, text: &str) -> String {
    let seconds = asked.file.len().saturating_sub(44) as f64 / 32_000.0;
    if asked.field("response_format") != Some("verbose_json") {
        return json!({"text": text, "usage": {"type": "duration", "seconds": seconds.ceil()}}).to_string();
    }
    let bare = |word: &str| word.trim_matches(|letter: char| !letter.is_alphanumeric()).to_owned();
    let words: Vec<String> = text.split_whitespace().map(bare).collect();
    let at = |index: usize| seconds * index as f64 / words.len().max(1) as f64;
    let mut answer = json!({
        "task": task, "language": "russian", "duration": seconds, "text": text,
        "segments": [{
            "id": 0, "seek": 0, "start": 0.0, "end": seconds, "text": text, "tokens": [50_364, 1], "temperature": 0.0,
            "avg_logprob": -0.25, "compression_ratio": 1.1, "no_speech_prob": 0.01,
        }],
    });
    if asked.fields.iter().any(|(name, value)| name == "timestamp_granularities[]" && value == "word") {
        let word =
            |(index, word): (usize, &String)| json!({"word": word, "start": at(index), "end": at(index + 1)});
        answer["words"] = words.iter().enumerate().map(word).collect();
    }
    answer.to_string()
}

impl Asked {
    /// The first field of this name.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// `multipart/form-data` as RFC 7578 has it.
fn read_form(content_type: &str, body: &[u8], asked: &mut Asked) {
    let Some(boundary) = content_type.split("boundary=").nth(1) else { return };
    let divider = format!("\r\n--{}", boundary.trim_matches('"'));
    let mut rest = [b"\r\n", body].concat();
    while let Some(at) = find(&rest, divider.as_bytes()) {
        let part: Vec<u8> = rest.drain(..at + divider.len()).take(at).collect();
        let Some(end) = find(&part, b"\r\n\r\n") else { continue };
        let (head, value) = part.split_at(end);
        let (head, value) = (String::from_utf8_lossy(head), value.get(4..).unwrap_or_default());
        let name = head.split("name=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
        if name == "file" {
            asked.file = value.to_vec();
        } else {
            asked.fields.push((name.to_owned(), String::from_utf8_lossy(value).into_owned()));
        }
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

fn error(status: u16, code: &str, retry_after: Option<u32>) -> Response<Full<Bytes>> {
    let body = json!({"error": {"message": "told to fail", "type": "error", "param": null, "code": code}});
    let mut response = response(status, &body.to_string());
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

fn response(status: u16, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *response.status_mut() = StatusCode::from_u16(status).expect("a status of HTTP");
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
