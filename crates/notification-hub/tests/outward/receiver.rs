use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use lifecycle::Lifecycle;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::Semaphore,
};

/// Answers that a receiver gives, unless a test takes them away: more than any asks for.
pub const ANSWERS: usize = 1_000;

/// A request that the receiver got.
#[derive(Clone)]
pub struct Got {
    pub path: String,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Got {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// Answers each request with the next status, then with 201.
#[derive(Clone)]
pub struct Receiver {
    pub address: SocketAddr,
    got: Arc<Mutex<Vec<Got>>>,
    statuses: Arc<Mutex<VecDeque<u16>>>,
    /// Answers that it may give.
    pub answers: Arc<Semaphore>,
}

impl Receiver {
    pub async fn start(life: &Lifecycle, statuses: &[u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let receiver = Self {
            address: listener.local_addr().unwrap(),
            got: Arc::default(),
            statuses: Arc::new(Mutex::new(statuses.iter().copied().collect())),
            answers: Arc::new(Semaphore::new(ANSWERS)),
        };
        let serving = receiver.clone();
        life.spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut bytes = Vec::new();
                let request = loop {
                    if let Some(request) = whole(&bytes) {
                        break Some(request);
                    }
                    let mut part = [0; 4096];
                    match socket.read(&mut part).await {
                        Ok(read @ 1..) => bytes.extend(part.iter().take(read)),
                        _ => break None,
                    }
                };
                let Some(request) = request else { continue };
                serving.got.lock().unwrap().push(request);
                serving.answers.acquire().await.unwrap().forget();
                let status = serving.statuses.lock().unwrap().pop_front().unwrap_or(201);
                let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                let _gone = socket.write_all(answer.as_bytes()).await;
            }
        });
        receiver
    }

    /// Everything so far.
    pub fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }
}

fn whole(bytes: &[u8]) -> Option<Got> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let (head, body) = bytes.split_at(end);
    let head = std::str::from_utf8(head).unwrap();
    let mut lines = head.split("\r\n");
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let header =
        |line: &str| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    let headers: HashMap<_, _> = lines.filter_map(header).collect();
    let length: usize = headers.get("content-length")?.parse().ok()?;
    let body = body.get(4..).filter(|body| body.len() >= length)?.to_vec();
    Some(Got { path, headers, body })
}

/// That a hook's request is signed with `secret`.
pub fn assert_signed(got: &Got) {
    let signed = [got.header("x-parley-timestamp").as_bytes(), b".", &got.body].concat();
    let mut mac = <hmac::Hmac<sha2::Sha256> as hmac::KeyInit>::new_from_slice(b"secret").unwrap();
    hmac::Mac::update(&mut mac, &signed);
    let hex: String =
        hmac::Mac::finalize(mac).into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(got.header("x-parley-signature"), format!("sha256={hex}"));
}
