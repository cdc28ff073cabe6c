//! Asks the application whether a user may follow something of its own, by one HTTP call to an address of the
//! operator: `POST` with `{"userId","channel":{"type","id"}}`, answered by 200 and `{"allowed":true}` or not, or by 403.

use std::{str::FromStr, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use model::{Topic, UserId};
use serde_json::{Value, json};
use settings::Secret;
use tokio::net::TcpStream;

/// How long the application may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// Largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 4 * 1024;

/// Where the application answers, and how we prove to it who asks.
#[derive(Debug, Clone)]
pub(crate) struct AccessHook {
    uri: Uri,
    authority: String,
    key: Option<Secret>,
}

/// The application did not answer the question.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unanswered {
    #[error("the access hook cannot be reached: {0}")]
    Unreachable(String),
    #[error("the access hook answered {0}")]
    Status(StatusCode),
    #[error("the access hook did not answer with {{\"allowed\":true}} or false")]
    Unreadable,
    #[error("the access hook took longer than {} s", ANSWER_LIMIT.as_secs())]
    TooSlow,
}

impl FromStr for AccessHook {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let uri: Uri = text.parse().map_err(|_| ())?;
        let host = uri.host().filter(|host| !host.is_empty() && uri.scheme_str() == Some("http")).ok_or(())?;
        let authority = format!("{host}:{}", uri.port_u16().unwrap_or(80));
        Ok(Self { authority, uri, key: None })
    }
}

impl AccessHook {
    /// Shows this key as a bearer token.
    pub(crate) fn with(self, key: Option<Secret>) -> Self {
        Self { key, ..self }
    }

    /// Whether `user` may follow `topic`.
    pub(crate) async fn allows(&self, user: &UserId, topic: &Topic) -> Result<bool, Unanswered> {
        let answer = self.ask(user, topic);
        tokio::time::timeout(ANSWER_LIMIT, answer).await.unwrap_or(Err(Unanswered::TooSlow))
    }

    async fn ask(&self, user: &UserId, topic: &Topic) -> Result<bool, Unanswered> {
        let unreachable = |error: &dyn std::fmt::Display| Unanswered::Unreachable(error.to_string());
        let stream = TcpStream::connect(&self.authority).await.map_err(|error| unreachable(&error))?;
        let handshake = http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| unreachable(&error))?;
        let request = self.request(user, topic).map_err(|error| unreachable(&error))?;
        let answer = async {
            let answer = sender.send_request(request).await.map_err(|error| unreachable(&error))?;
            let status = answer.status();
            if status == StatusCode::FORBIDDEN {
                return Ok(false);
            }
            if status != StatusCode::OK {
                return Err(Unanswered::Status(status));
            }
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|_| Unanswered::Unreadable)?.to_bytes();
            let body: Value = serde_json::from_slice(&body).map_err(|_| Unanswered::Unreadable)?;
            body.get("allowed").and_then(Value::as_bool).ok_or(Unanswered::Unreadable)
        };
        // Whoever ends first: the connection is good for nothing without the answer.
        let mut connection = std::pin::pin!(connection);
        let mut answer = std::pin::pin!(answer);
        tokio::select! {
            biased;
            answer = answer.as_mut() => answer,
            ended = connection.as_mut() => match ended {
                // What was read before the end may still hold the answer.
                Ok(()) => answer.await,
                Err(error) => Err(unreachable(&error)),
            },
        }
    }

    fn request(&self, user: &UserId, topic: &Topic) -> Result<Request<Full<Bytes>>, http::Error> {
        let topic = topic.to_string();
        let (kind, id) = topic.split_once(':').unwrap_or((&topic, ""));
        let body = json!({ "userId": user, "channel": { "type": kind, "id": id } });
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, &self.authority)
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(key) = &self.key {
            let mut value = HeaderValue::try_from(format!("Bearer {}", key.expose()))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        request.body(Full::new(body.to_string().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_http_addresses_are_hooks() {
        let hook: AccessHook = "http://app.internal/access?x=1".parse().unwrap();
        assert_eq!(hook.authority, "app.internal:80");
        assert_eq!("http://app:81".parse::<AccessHook>().unwrap().authority, "app:81");
        for wrong in ["", "app", "https://app/", "ftp://app/", "http://", "/access"] {
            assert!(wrong.parse::<AccessHook>().is_err(), "{wrong}");
        }
    }
}
