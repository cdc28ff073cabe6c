//! Who listens at the ports of this machine that are ours.

use std::{fs, net::Ipv4Addr, time::Duration};

use reqwest::Url;
use settings::Reader;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{check::Check, wire};

const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// Ports that clients come to, the default, and how ours answers there.
const DOORS: [(&str, u16, Answers); 4] = [
    ("PORT", 3001, Answers::Json(&["/service", "/status"])),
    ("CHAT_PORT", 3002, Answers::Json(&["/message", "/status", "/service", "/name"])),
    ("TRANSLATE_PORT", 7860, Answers::Json(&["/message"])),
    ("RTMP_PORT", 1935, Answers::Rtmp),
];

#[derive(Debug, Clone, Copy)]
enum Answers {
    /// `/` is a JSON object with one of these.
    Json(&'static [&'static str]),
    /// Version 3 of the handshake (RTMP 1.0 section 5.2.2).
    Rtmp,
}

/// Looks at each that somebody listens at.
pub async fn examine(reader: &Reader) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut held = Vec::new();
    for (name, default, answers) in DOORS {
        let port = reader.text(name).and_then(|text| text.parse().ok()).unwrap_or(default);
        if port == 0 || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err() {
            continue;
        }
        let holder = holder(port);
        if is_ours(port, answers).await {
            held.push(format!("{port} {}", holder.unwrap_or_else(|| "Parley".to_owned())));
            continue;
        }
        let who = holder.unwrap_or_else(|| "another program".to_owned());
        checks.push(Check::fail(
            name,
            format!("port {port} is held by {who}, which does not answer as Parley does"),
            format!("stop it, or give {name} another number"),
        ));
    }
    if checks.is_empty() && !held.is_empty() {
        checks.push(Check::ok("ports", held.join(", ")));
    }
    checks
}

async fn is_ours(port: u16, answers: Answers) -> bool {
    let asking = async {
        match answers {
            Answers::Json(fields) => {
                let url = Url::parse(&format!("http://127.0.0.1:{port}/")).ok()?;
                let mut connection = wire::connect(&url, wire::Offer::Http1).await.ok()?;
                let close = ["Connection: close".to_owned()];
                let mut answer = connection.ask("GET", &url, &close, b"").await.ok()?;
                connection.body(&mut answer).await;
                let json = answer.json()?;
                // While it starts or is drained, nginx in front of it says so.
                let away = answer.status == 503;
                Some(away || fields.iter().any(|field| json.pointer(field).is_some()))
            }
            Answers::Rtmp => {
                let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
                let mut hello = vec![0_u8; 1537];
                if let Some(version) = hello.first_mut() {
                    *version = 3;
                }
                stream.write_all(&hello).await.ok()?;
                Some(stream.read_u8().await.ok()? == 3)
            }
        }
    };
    timeout(ANSWER_LIMIT, asking).await.ok().flatten().unwrap_or(false)
}

/// `NAME (PID)` of the process that listens there, as far as this user may see it; Linux tells in `/proc`.
fn holder(port: u16) -> Option<String> {
    let sockets: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| table.lines().filter_map(|line| listener(line, port)).collect::<Vec<_>>())
        .collect();
    for process in fs::read_dir("/proc").ok()?.filter_map(Result::ok) {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(files) = fs::read_dir(process.path().join("fd")) else { continue };
        let holds = files.filter_map(Result::ok).any(|file| {
            let link = fs::read_link(file.path()).ok();
            let target = link.as_deref().and_then(|link| link.to_str());
            target.is_some_and(|target| sockets.iter().any(|inode| target == format!("socket:[{inode}]")))
        });
        if holds {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (process {pid})", name.trim()));
        }
    }
    None
}

/// The inode of a listening socket at that port, in a line of `/proc/net/tcp` (proc(5)).
fn listener(line: &str, port: u16) -> Option<String> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, local, _, state, _, _, _, _, _, inode, ..] = fields.as_slice() else { return None };
    let (_, hex) = local.rsplit_once(':')?;
    let listens = *state == LISTEN && u16::from_str_radix(hex, 16) == Ok(port);
    listens.then(|| (*inode).to_owned())
}
