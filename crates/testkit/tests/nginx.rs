//! The real nginx with the project's configuration.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, net::Ipv4Addr};

use testkit::{HandshakeLimit, Nginx, free_port};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    task::{AbortHandle, JoinSet},
};

const UPGRADE: &str = "Connection: Upgrade, close\r\nUpgrade: websocket\r\n";

const CLOSE: &str = "Connection: close\r\n";

/// Asks nginx from an address of this machine; head and body of the answer.
async fn ask(port: u16, from: Ipv4Addr, target: &str, headers: &str) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let mut stream = socket.connect((Ipv4Addr::LOCALHOST, port).into()).await.unwrap();
    let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Something in the place of an edge that answers every request with its name.
async fn edge(edges: &mut JoinSet<()>, name: &'static str) -> (u16, AbortHandle) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = edges.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{name}",
                name.len()
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (port, serving)
}

#[tokio::test]
async fn nginx_starts_and_says_when_the_edge_is_down() {
    let nginx = Nginx::start(&[free_port()], free_port(), HandshakeLimit::NONE).await;
    let answer = ask(nginx.http_port, Ipv4Addr::LOCALHOST, "/ws?token=hunter2", CLOSE).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("Retry-After: "), "{answer}");
    assert!(!nginx.everything_it_said().contains("hunter2"));
    let requests = std::fs::read_to_string(nginx.access_log()).unwrap();
    assert!(requests.contains("/ws") && !requests.contains("hunter2"), "{requests}");
}

#[tokio::test]
async fn long_polling_keeps_to_one_edge_and_websockets_go_to_any() {
    let mut edges = JoinSet::new();
    let (one, _) = edge(&mut edges, "one").await;
    let (other, of_other) = edge(&mut edges, "other").await;
    let nginx = Nginx::start(&[one, other], free_port(), HandshakeLimit::NONE).await;
    let served = async |from, target: &str, headers| {
        let answer = ask(nginx.http_port, from, target, headers).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        answer.rsplit("\r\n").next().unwrap().to_owned()
    };
    let polls = "/socket.io/?EIO=4&transport=polling";
    let addresses: Vec<_> = (2..32).map(|last| Ipv4Addr::new(127, 0, 0, last)).collect();
    let mut homes = Vec::new();
    for &from in &addresses {
        let home = served(from, polls, CLOSE).await;
        for target in [polls, "/socket.io/?EIO=3&transport=polling&t=x&sid=s", "/socket.io?sid=s"] {
            assert_eq!(served(from, target, CLOSE).await, home, "{target}");
        }
        let upgrade = served(from, "/socket.io/?EIO=4&transport=websocket&sid=s", UPGRADE).await;
        assert_eq!(upgrade, home, "an upgrade of a session that polls");
        homes.push(home);
    }
    let everywhere = BTreeSet::from(["one", "other"].map(str::to_owned));
    assert_eq!(homes.iter().cloned().collect::<BTreeSet<_>>(), everywhere, "{homes:?}");
    for target in ["/socket.io/?EIO=4&transport=websocket", "/ws?sid=s"] {
        let mut seen = BTreeSet::new();
        for _ in 0..4 {
            seen.insert(served(Ipv4Addr::LOCALHOST, target, UPGRADE).await);
        }
        assert_eq!(seen, everywhere, "{target}");
    }

    of_other.abort();
    testkit::eventually("it is away", async || {
        TcpStream::connect((Ipv4Addr::LOCALHOST, other)).await.is_err()
    })
    .await;
    for &from in &addresses {
        assert_eq!(served(from, polls, CLOSE).await, "one");
    }
}
