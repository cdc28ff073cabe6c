//! Programs that stand where Parley should, or between it and its clients.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
};

use testkit::{ScratchFolder, eventually, free_port};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Serves whoever connects, until it is dropped.
pub struct Listening {
    /// Where.
    pub port: u16,
    _tasks: JoinSet<()>,
}

impl Listening {
    async fn start<F: Future<Output = std::io::Result<()>> + Send + 'static>(
        serve: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let serving = serve(stream);
                // A connection that ends early is what some of these are about.
                connections.spawn(async move { drop(serving.await) });
            }
        });
        Self { port, _tasks: tasks }
    }

    /// Answers everybody with the same bytes, whatever is asked.
    pub async fn answering(answer: &str) -> Self {
        let answer = answer.as_bytes().to_vec();
        Self::start(move |mut stream| {
            let answer = answer.clone();
            async move {
                let mut request = vec![0; 4096];
                let asked = stream.read(&mut request).await?;
                if asked == 0 { Ok(()) } else { stream.write_all(&answer).await }
            }
        })
        .await
    }
}

/// Says a line and waits for an answer.
pub async fn say(address: &str, line: &str) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(line.as_bytes()).await.unwrap();
    let mut answer = vec![0; 64];
    let length = stream.read(&mut answer).await.unwrap();
    assert_eq!(answer.get(..length), Some(&b"+OK\r\n"[..]));
}

/// A proxy that does one thing wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Middleman {
    WithoutUpgrade,
    WithoutQuery,
    WrongPath,
    Forbids,
    TextAfterUpgrade,
    CompressionBit,
    Deflate,
    Masks,
    BadCloseCode,
    CutsAfterUpgrade,
    WrongAccept,
    OtherServer,
    FastClock,
}

impl Middleman {
    /// Each with its name, and that of the check that must find it.
    pub const KINDS: [(&'static str, Self, &'static str); 13] = [
        ("a proxy without upgrade", Self::WithoutUpgrade, "upgrade"),
        ("a proxy that cuts queries off", Self::WithoutQuery, "query"),
        ("a proxy that changes the path", Self::WrongPath, "upgrade"),
        ("a firewall that knows no WebSocket", Self::Forbids, "upgrade"),
        ("text before frames", Self::TextAfterUpgrade, "frames"),
        ("a compressed frame", Self::CompressionBit, "compression"),
        ("deflate is on", Self::Deflate, "compression"),
        ("a masked frame", Self::Masks, "frames"),
        ("a close code that may not be sent", Self::BadCloseCode, "frames"),
        ("a proxy that cuts what is upgraded", Self::CutsAfterUpgrade, "upgrade"),
        ("a wrong Sec-WebSocket-Accept", Self::WrongAccept, "upgrade"),
        ("another WebSocket server", Self::OtherServer, "upgrade"),
        ("clocks that differ", Self::FastClock, "clock"),
    ];

    /// In front of `server`.
    pub async fn start(self, server: u16) -> Listening {
        Listening::start(move |client| self.pass_on(client, server)).await
    }

    async fn pass_on(self, mut client: TcpStream, server: u16) -> std::io::Result<()> {
        let mut request = head(&mut client).await?;
        let upgrades = request.contains("Upgrade: websocket");
        match self {
            Self::WithoutUpgrade => {
                request =
                    request.replace("Upgrade: websocket\r\n", "").replace("Connection: Upgrade\r\n", "");
            }
            Self::WithoutQuery if upgrades => {
                let (before, after) = request.split_once("?token=").unwrap_or((&request, ""));
                let rest = after.split_once(' ').map_or("", |(_, rest)| rest);
                request = if rest.is_empty() { request } else { format!("{before} {rest}") };
            }
            Self::WrongPath if upgrades => request = request.replacen("GET /", "GET /elsewhere/", 1),
            Self::Forbids if upgrades => {
                return client.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await;
            }
            _ => {}
        }
        let mut behind = TcpStream::connect(("127.0.0.1", server)).await?;
        behind.write_all(request.as_bytes()).await?;
        let mut answer = head(&mut behind).await?;
        let upgraded = answer.starts_with("HTTP/1.1 101");
        if self == Self::FastClock {
            let lines = answer.split_inclusive("\r\n");
            let changed = |line: &str| {
                let is_date = line.to_ascii_lowercase().starts_with("date:");
                if is_date { "Date: Fri, 01 Jan 2100 00:00:00 GMT\r\n".to_owned() } else { line.to_owned() }
            };
            answer = lines.map(changed).collect();
        }
        if !upgraded {
            client.write_all(answer.as_bytes()).await?;
            return both(&mut client, &mut behind).await;
        }
        let instead: Option<&[u8]> = match self {
            Self::TextAfterUpgrade => Some(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
            Self::CompressionBit => Some(b"\xc1\x02\x4a\x01"),
            Self::Masks => Some(b"\x81\x82\x00\x00\x00\x00{}"),
            Self::BadCloseCode => Some(b"\x88\x02\xe8\x4d"),
            Self::CutsAfterUpgrade => Some(b""),
            Self::OtherServer => Some(b"\x81\x07welcome"),
            _ => None,
        };
        match self {
            Self::Deflate => {
                answer = answer.replacen(
                    "\r\n\r\n",
                    "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
                    1,
                );
            }
            Self::WrongAccept => {
                let lines = answer.split_inclusive("\r\n");
                let changed = |line: &str| {
                    let is_accept = line.to_ascii_lowercase().starts_with("sec-websocket-accept:");
                    if is_accept {
                        "Sec-WebSocket-Accept: bm9uc2Vuc2U=\r\n".to_owned()
                    } else {
                        line.to_owned()
                    }
                };
                answer = lines.map(changed).collect();
            }
            _ => {}
        }
        client.write_all(answer.as_bytes()).await?;
        match instead {
            Some(bytes) => client.write_all(bytes).await,
            None => both(&mut client, &mut behind).await,
        }
    }
}

async fn both(client: &mut TcpStream, server: &mut TcpStream) -> std::io::Result<()> {
    tokio::io::copy_bidirectional(client, server).await.map(|_| ())
}

/// Up to the empty line, and nothing of what follows.
async fn head(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A real nginx with a configuration as people write it.
pub struct Front {
    /// Where.
    pub port: u16,
    process: Child,
    _folder: ScratchFolder,
}

impl Drop for Front {
    fn drop(&mut self) {
        // SIGKILL would leave its workers behind.
        let _asked = Command::new("kill").args(["-TERM", &self.process.id().to_string()]).status();
        let _ended = self.process.wait();
    }
}

/// Passes everything to `edge` without upgrades; with TLS and HTTP/2 also upgrades. `more` are other locations.
pub async fn front(edge: u16, http2: bool, more: &str) -> Front {
    let folder = ScratchFolder::new("front");
    let path = folder.path();
    let port = free_port();
    let (tls, upgrade) = if http2 {
        certificate(path);
        let upgrade = "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;";
        (" ssl http2", upgrade)
    } else {
        ("", "")
    };
    let keys = if http2 { "ssl_certificate certificate.pem; ssl_certificate_key key.pem;" } else { "" };
    let configuration = format!(
        "pid nginx.pid; error_log error.log; events {{}}
        http {{
            access_log off;
            client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
            server {{
                listen 127.0.0.1:{port}{tls}; {keys}
                {more}
                location / {{ proxy_pass http://127.0.0.1:{edge}; {upgrade} }}
            }}
        }}"
    );
    std::fs::write(path.join("nginx.conf"), configuration).unwrap();
    let process = Command::new("nginx")
        .args(["-g", "daemon off;", "-c", "nginx.conf", "-p"])
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("nginx listens", async || TcpStream::connect(("127.0.0.1", port)).await.is_ok()).await;
    Front { port, process, _folder: folder }
}

fn certificate(folder: &Path) {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
        .args(["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"])
        .arg("-keyout")
        .arg(folder.join("key.pem"))
        .arg("-out")
        .arg(folder.join("certificate.pem"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
}
