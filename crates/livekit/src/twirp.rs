//! Calls over Twirp: a POST of protobuf, answered by protobuf, or by an error in JSON.

use std::{sync::Arc, time::Duration};

use livekit_api::access_token::{AccessToken, VideoGrants};
use prost::Message;
use reqwest::{Client, Response, Url, header, redirect};

use crate::{LiveKitError, LiveKitSettings};

/// How long a call may take, its answer included. LiveKit's own clients wait as long.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// How long the token of a call is good: it is made for each.
const TOKEN_LIFETIME: Duration = Duration::from_secs(60);

/// Longest answer that is read, in bytes. A participant with a track takes about 500.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Longest error that is read, in bytes; more is cut.
const ERROR_BYTES_MAX: usize = 16 * 1024;

/// The way to one server. Clones are the same.
#[derive(Clone)]
pub(crate) struct Twirp {
    client: Client,
    settings: Arc<LiveKitSettings>,
}

impl Twirp {
    /// Connects at the first call.
    pub(crate) fn new(settings: &LiveKitSettings) -> Result<Self, LiveKitError> {
        // The cryptography of TLS. Whoever chose it before has chosen well.
        drop(rustls::crypto::ring::default_provider().install_default());
        // Redirected, a call would show its token to somebody whom nobody configured.
        let client = Client::builder().timeout(CALL_LIMIT).redirect(redirect::Policy::none()).build();
        let client = client.map_err(|error| LiveKitError::Client(error.without_url().to_string()))?;
        Ok(Self { client, settings: Arc::new(settings.clone()) })
    }

    /// Calls `Service/Method` with a token of these rights alone.
    pub(crate) async fn call<A: Message + Default>(
        &self,
        method: &str,
        rights: VideoGrants,
        question: &impl Message,
    ) -> Result<A, LiveKitError> {
        let LiveKitSettings { url, key, secret } = self.settings.as_ref();
        let token = AccessToken::with_api_key(key, secret.expose())
            .with_ttl(TOKEN_LIFETIME)
            .with_grants(rights)
            .to_jwt()
            .map_err(|_| LiveKitError::Unauthorized)?;
        let request = self
            .client
            .post(address(url, method))
            .bearer_auth(token)
            .header(header::CONTENT_TYPE, "application/protobuf")
            .body(question.encode_to_vec());
        let answer = request.send().await.map_err(away)?;
        let status = answer.status();
        if !status.is_success() {
            let (body, _) = read(answer, ERROR_BYTES_MAX).await?;
            return Err(LiveKitError::from_answer(status, &body));
        }
        let (body, whole) = read(answer, ANSWER_BYTES_MAX).await?;
        if !whole {
            return Err(LiveKitError::Unavailable(format!("an answer above {ANSWER_BYTES_MAX} bytes")));
        }
        A::decode(body.as_slice())
            .map_err(|_| LiveKitError::Unavailable("an answer that is no protobuf".to_owned()))
    }
}

fn address(base: &Url, method: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/twirp/livekit.{method}", base.path().trim_end_matches('/')));
    url
}

/// As much of the body as is allowed, and whether that is all.
async fn read(mut answer: Response, bytes_max: usize) -> Result<(Vec<u8>, bool), LiveKitError> {
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(away)? {
        body.extend_from_slice(&part);
        if body.len() > bytes_max {
            body.truncate(bytes_max);
            return Ok((body, false));
        }
    }
    Ok((body, true))
}

fn away(error: reqwest::Error) -> LiveKitError {
    let what = if error.is_timeout() {
        format!("no answer within {} s", CALL_LIMIT.as_secs())
    } else if error.is_connect() {
        "no connection".to_owned()
    } else {
        error.without_url().to_string()
    };
    LiveKitError::Unavailable(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_may_serve_it_under_a_path() {
        let of = |base: &str| address(&Url::parse(base).unwrap(), "Egress/StopEgress").to_string();
        assert_eq!(of("http://host:7880"), "http://host:7880/twirp/livekit.Egress/StopEgress");
        assert_eq!(of("https://host/livekit/"), "https://host/livekit/twirp/livekit.Egress/StopEgress");
    }
}
