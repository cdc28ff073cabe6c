//! The real nginx with the project's configuration.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use testkit::{HandshakeLimit, Nginx, free_port};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

async fn get(port: u16, target: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn nginx_starts_and_says_when_the_edge_is_down() {
    let nginx = Nginx::start(&[free_port()], free_port(), HandshakeLimit::NONE).await;
    let answer = get(nginx.http_port, "/ws?token=hunter2").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("Retry-After: "), "{answer}");
    assert!(!nginx.everything_it_said().contains("hunter2"));
    let requests = std::fs::read_to_string(nginx.access_log()).unwrap();
    assert!(requests.contains("/ws") && !requests.contains("hunter2"), "{requests}");
}
