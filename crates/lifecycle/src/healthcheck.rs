use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// How long a service may take to answer its own health check.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// A service that is not ready, or not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unhealthy {
    /// Nobody answers at the admin listener.
    #[error("no answer from the admin listener at {0}")]
    NoAnswer(SocketAddr),
    /// `/readyz` says no, and why.
    #[error("not ready: {0}")]
    NotReady(String),
}

/// Asks the admin listener at `address` whether its service is ready: the `healthcheck` subcommand of images that
/// hold no other client. An unspecified address means this host.
///
/// # Errors
/// See [`Unhealthy`].
pub async fn healthcheck(address: SocketAddr) -> Result<(), Unhealthy> {
    let ip = if address.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { address.ip() };
    let address = SocketAddr::new(ip, address.port());
    match tokio::time::timeout(ANSWER_LIMIT, readyz(address)).await {
        Ok(Some((StatusCode::OK, _))) => Ok(()),
        Ok(Some((_, body))) => Err(Unhealthy::NotReady(body)),
        Ok(None) | Err(_) => Err(Unhealthy::NoAnswer(address)),
    }
}

async fn readyz(address: SocketAddr) -> Option<(StatusCode, String)> {
    let stream = TcpStream::connect(address).await.ok()?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    let request =
        Request::get("/readyz").header(header::HOST, address.to_string()).body(Empty::<Bytes>::new());
    let answer = async move {
        let response = sender.send_request(request.ok()?).await.ok()?;
        let status = response.status();
        let body = response.into_body().collect().await.ok()?.to_bytes();
        Some((status, String::from_utf8_lossy(&body).into_owned()))
    };
    // The connection does the work of the answer; it may end first when the answer is complete.
    let (answer, _) = tokio::join!(answer, connection);
    answer
}
