//! One question over HTTP, and what its answer means.

use std::time::Duration;

use reqwest::{Client, RequestBuilder, Response, StatusCode, header, redirect};

use crate::translator::ClientError;

/// Longest answer that is read, in bytes: the longest text in the widest script, escaped.
const ANSWER_BYTES_MAX: usize = 512 * 1024;

/// How long a connection may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// Longest pause that a service may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// Why a question got no answer that can be used.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It may get one later: after a pause, when the service asks for one.
    Passing(&'static str, Option<Duration>),
    /// Not by asking again soon: the service does not want us (a wrong key, a wrong path).
    Shut(StatusCode),
    /// The service does not want this text.
    Refused,
}

pub(crate) fn client() -> Result<Client, ClientError> {
    // The cryptography of TLS. Whoever chose it before has chosen well.
    drop(rustls::crypto::ring::default_provider().install_default());
    // Redirected, a text would go to somebody whom nobody configured.
    let client = Client::builder().connect_timeout(CONNECT_LIMIT).redirect(redirect::Policy::none()).build();
    client.map_err(|error| ClientError(error.without_url().to_string()))
}

/// The body of a good answer. The caller limits how long it takes.
pub(crate) async fn ask(question: RequestBuilder) -> Result<Vec<u8>, Failure> {
    let answer = question.send().await.map_err(away)?;
    let (status, retry_after) = (answer.status(), retry_after(&answer));
    if status.is_success() {
        return read(answer).await;
    }
    Err(match status {
        StatusCode::TOO_MANY_REQUESTS => Failure::Passing("too many requests", retry_after),
        StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT | StatusCode::TOO_EARLY => {
            Failure::Passing("not now", retry_after)
        }
        status if status.is_server_error() => Failure::Passing("a fault of the service", retry_after),
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
            Failure::Refused
        }
        status => Failure::Shut(status),
    })
}

async fn read(mut answer: Response) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(away)? {
        if body.len() + part.len() > ANSWER_BYTES_MAX {
            return Err(Failure::Passing("an answer that is too long", None));
        }
        body.extend_from_slice(&part);
    }
    Ok(body)
}

/// In seconds; dates are not read.
fn retry_after(answer: &Response) -> Option<Duration> {
    let seconds = answer.headers().get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

fn away(error: reqwest::Error) -> Failure {
    let what = if error.is_connect() { "no connection" } else { "a connection that broke" };
    Failure::Passing(what, None)
}
