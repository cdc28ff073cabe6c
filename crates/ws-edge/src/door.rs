//! Accepts connections and speaks HTTP/1.1 on them. A WebSocket exists in no later version the way clients send it.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http::{HeaderMap, Request};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use settings::Network;
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};

use crate::{Edge, handshake::Place, limits::FORGET_INTERVAL, request::Asked, route};

/// How long a peer may take to send the head of a request, and how long it may keep a connection without one. Longer
/// than nginx keeps its connections to us, so that it never sends a request into one that we close.
const HEAD_LIMIT: Duration = Duration::from_secs(30);

/// Largest request head, in bytes: a token that is far too long is to be refused with a reason.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// Headers of a request.
const HEADERS_MAX: usize = 100;

/// Wait after a failed accept: out of file descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// To whoever comes when every place is taken.
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 45\r\n\
    Retry-After: 2\r\nConnection: close\r\n\r\n{\"error\":\"Too many connections, try later\"}\r\n";

/// Which way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// `PORT`: everything by path.
    Main,
    /// `CHAT_PORT`: where clients of system B find their HTTP, and those of system C `/ws`, under any path.
    Chat,
    /// `TRANSLATE_PORT`: where clients of system D find their HTTP and `/ws`.
    Translate,
}

/// Accepts until the edge drains.
pub(crate) async fn accept(edge: Arc<Edge>, door: Door, listener: TcpListener) {
    loop {
        let accepted = tokio::select! {
            () = edge.life.draining().cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accept a connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match edge.places.clone().try_acquire_owned() {
            Ok(place) => edge.life.spawn(serve(edge.clone(), door, stream, peer, Arc::new(place))),
            Err(_) => {
                edge.tally.error("every connection is taken".to_owned(), edge.clock.now());
                // As much as fits into the kernel's buffer, without waiting for anybody.
                let _ = stream.try_write(FULL);
            }
        }
    }
}

/// Forgets what the limits need not know any more, until the edge drains.
pub(crate) async fn forget(edge: Arc<Edge>) {
    loop {
        tokio::select! {
            () = edge.life.draining().cancelled() => return,
            () = sleep(FORGET_INTERVAL) => edge.limits.forget(),
        }
    }
}

async fn serve(edge: Arc<Edge>, door: Door, stream: TcpStream, peer: SocketAddr, place: Place) {
    // Captions are small and awaited.
    let _ = stream.set_nodelay(true);
    let service_edge = edge.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        let edge = service_edge.clone();
        request.extensions_mut().insert(place.clone());
        async move {
            let client = client(&edge.settings.trusted_proxies, peer.ip(), request.headers());
            let asked = Asked::new(&edge.tracer, &request);
            Ok::<_, Infallible>(asked.answer(route::answer(&edge, door, client, request)).await)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = edge.life.draining().cancelled() => {
            // The request that is being answered, if there is one, is the last.
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                outcome = connection => outcome,
                () = edge.life.stopping().cancelled() => return,
            }
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "http connection");
    }
}

/// Who really asks: the peer, or whoever a trusted proxy says.
fn client(trusted: &[Network], peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    if !is_trusted(peer) {
        return peer;
    }
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(address) = text("x-real-ip").and_then(|address| address.trim().parse().ok()) {
        return address;
    }
    // Each proxy adds its peer at the end; only what trusted ones added can be believed.
    let forwarded = text("x-forwarded-for").unwrap_or_default().rsplit(',');
    let addresses = forwarded.map_while(|address| address.trim().parse::<IpAddr>().ok());
    let mut nearest = peer;
    for address in addresses {
        nearest = address;
        if !is_trusted(address) {
            break;
        }
    }
    nearest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_trusted_proxies_are_believed() {
        let trusted: Vec<Network> = ["127.0.0.0/8", "10.0.0.0/8"].map(|text| text.parse().unwrap()).to_vec();
        let client = |peer: &str, headers: &[(&'static str, &str)]| {
            let headers = headers.iter().map(|(name, value)| {
                (http::HeaderName::from_static(name), http::HeaderValue::from_str(value).unwrap())
            });
            client(&trusted, peer.parse().unwrap(), &headers.collect()).to_string()
        };
        let (real, forwarded) = ("x-real-ip", "x-forwarded-for");
        assert_eq!(client("1.2.3.4", &[(real, "5.6.7.8"), (forwarded, "5.6.7.8")]), "1.2.3.4");
        assert_eq!(client("127.0.0.1", &[(real, "5.6.7.8"), (forwarded, "9.9.9.9")]), "5.6.7.8");
        assert_eq!(client("127.0.0.1", &[(forwarded, "6.6.6.6, 5.6.7.8")]), "5.6.7.8");
        assert_eq!(client("127.0.0.1", &[(forwarded, "6.6.6.6, 5.6.7.8, 10.0.0.1")]), "5.6.7.8");
        assert_eq!(client("127.0.0.1", &[(forwarded, "junk, 10.0.0.1")]), "10.0.0.1");
        assert_eq!(client("127.0.0.1", &[(forwarded, "junk")]), "127.0.0.1");
        assert_eq!(client("127.0.0.1", &[]), "127.0.0.1");
    }

    #[test]
    fn the_answer_of_a_full_edge_is_whole() {
        let text = std::str::from_utf8(FULL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{}", body.len());
    }
}
