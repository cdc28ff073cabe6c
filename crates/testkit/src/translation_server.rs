//! A translator without a model: LibreTranslate's API and chat completions of OpenAI's kind, with faults.
//!
//! `hello` in Arabic is `[ar] hello`.

#![expect(clippy::indexing_slicing, reason = "JSON that lacks what is looked for is null")]

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

use crate::choose_tls;

/// How a question is dealt with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Translating {
    /// It is answered.
    Well,
    /// It waits until the server is told otherwise.
    Held,
    /// This status, and what is asked for in `Retry-After`, in seconds.
    Failing(u16, Option<u32>),
    /// Something that is no JSON.
    Garbage,
    /// Chat completions: this instead of a translation.
    Saying(String),
}

/// The server. Everything that it does ends when it is dropped.
pub struct TranslationServer {
    address: SocketAddr,
    world: Arc<World>,
    _tasks: JoinSet<()>,
}

struct World {
    translating: watch::Sender<Translating>,
    asked: Mutex<Vec<Value>>,
}

impl World {
    fn asked(&self) -> std::sync::MutexGuard<'_, Vec<Value>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TranslationServer {
    /// Starts it on a port of its own.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn start() -> Self {
        choose_tls();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port for the translator");
        let address = listener.local_addr().expect("a bound address");
        let world =
            Arc::new(World { translating: watch::Sender::new(Translating::Well), asked: Mutex::default() });
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, world.clone()));
        Self { address, world, _tasks: tasks }
    }

    /// Where it is, for `LIBRETRANSLATE_URL`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it is, for `OPENAI_API_URL`.
    pub fn openai_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// From now on, and for those that are held.
    pub fn set(&self, translating: Translating) {
        self.world.translating.send_replace(translating);
    }

    /// The bodies of all questions so far, with `authorization` beside what was asked.
    pub fn asked(&self) -> Vec<Value> {
        self.world.asked().clone()
    }
}

async fn serve(listener: TcpListener, world: Arc<World>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    let world = world.clone();
                    connections.spawn(async move {
                        let service = service_fn(|request| answer(request, world.clone()));
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

async fn answer(request: Request<Incoming>, world: Arc<World>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    if head.method == Method::GET && head.uri.path() == "/languages" {
        // From English into three, and back.
        let language = |code: &str, targets: &[&str]| json!({"code": code, "name": code, "targets": targets});
        let languages = json!([
            language("en", &["ar", "de", "en", "es"]),
            language("ar", &["ar", "en"]),
            language("de", &["de", "en"]),
            language("es", &["en", "es"]),
        ]);
        return Ok(response(200, &languages.to_string()));
    }
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let Ok(mut question) = serde_json::from_slice::<Value>(&body) else {
        return Ok(response(400, r#"{"error":"no JSON"}"#));
    };
    if let Some(authorization) = head.headers.get(header::AUTHORIZATION) {
        question["authorization"] = json!(authorization.to_str().unwrap_or_default());
    }
    world.asked().push(question.clone());
    let mut translating = world.translating.subscribe();
    let how = translating.wait_for(|how| *how != Translating::Held).await.map(|how| how.clone());
    let answer = match how.unwrap_or(Translating::Garbage) {
        Translating::Failing(status, retry_after) => {
            let mut response = response(status, r#"{"error":"told to fail"}"#);
            if let Some(seconds) = retry_after {
                response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
            }
            response
        }
        Translating::Garbage => response(200, "<html>"),
        how if head.uri.path() == "/v1/chat/completions" => completion(&question, how),
        _ if head.uri.path() == "/translate" => translation(&question),
        _ => response(404, r#"{"error":"no such route"}"#),
    };
    Ok(answer)
}

fn translation(question: &Value) -> Response<Full<Bytes>> {
    let (Some(text), Some(source), Some(target)) =
        (question["q"].as_str(), question["source"].as_str(), question["target"].as_str())
    else {
        return response(400, r#"{"error":"Invalid request: missing a parameter"}"#);
    };
    let mut answer = json!({"translatedText": format!("[{target}] {text}")});
    if source == "auto" {
        answer["detectedLanguage"] = json!({"confidence": 90, "language": "en"});
    }
    response(200, &answer.to_string())
}

/// The language is the word after `into the language` of the task.
fn completion(question: &Value, how: Translating) -> Response<Full<Bytes>> {
    let task = question["messages"][0]["content"].as_str().unwrap_or_default();
    let target = task.split("into the language ").nth(1).and_then(|rest| rest.split(' ').next());
    let said = question["messages"][1]["content"].as_str().unwrap_or_default();
    let text = serde_json::from_str::<String>(said).unwrap_or_default();
    let content = match how {
        Translating::Saying(content) => content,
        _ => format!("[{}] {text}", target.unwrap_or_default()),
    };
    let choice =
        json!({"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}});
    response(200, &json!({"object": "chat.completion", "choices": [choice]}).to_string())
}

fn response(status: u16, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *response.status_mut() = StatusCode::from_u16(status).expect("a status of HTTP");
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}
