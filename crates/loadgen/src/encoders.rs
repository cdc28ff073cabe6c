//! Many encoders at once: what a pushed stream costs in `rtmp-ingest`, and what one costs that is idle. Pushed is loud
//! noise, the dearest sound for a decoder and the cheapest for a transcription worker, which is another's bench.

use std::{
    io,
    net::SocketAddr,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use rtmp::{Address, ClientEvent, ClientSession};
use serde::Serialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::Command,
    task::JoinSet,
    time::{sleep, sleep_until, timeout},
};

use crate::processes::{list, own_memory_kib};

/// Before processor time or memory is read, what began should have begun.
const SETTLE: Duration = Duration::from_secs(3);

/// How long an encoder may take until it publishes.
const PUBLISH_LIMIT: Duration = Duration::from_secs(20);

/// Clock ticks of `/proc` in a second (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// The system under load.
pub struct Ingest {
    /// Where encoders connect.
    pub address: SocketAddr,
    /// The process of rtmp-ingest.
    pub process: u32,
    /// Makes a stream key.
    pub key: Box<dyn Fn(usize) -> String>,
}

/// How much of it.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Encoders that push at once.
    pub streams: usize,
    /// For so long.
    pub seconds: u64,
    /// Encoders that publish and send nothing.
    pub idle: usize,
}

/// What they took.
#[derive(Debug, Clone, Serialize)]
pub struct Costs {
    streams: usize,
    seconds: f64,
    /// Processor time for each second of each stream, decoding and resampling included, milliseconds.
    cpu_ms: f64,
    idle: usize,
    /// Memory for each idle publisher, KiB.
    idle_kib: f64,
}

impl Costs {
    /// For people.
    pub fn table(&self) -> String {
        format!(
            "RTMP: {} encoders (AAC, 44.1 kHz stereo, 128 kbit/s) for {:.0} s: {:.2} ms of processor time for each second of a stream\n\
             RTMP: {} idle publishers: {:.1} KiB each\n",
            self.streams, self.seconds, self.cpu_ms, self.idle, self.idle_kib
        )
    }
}

/// An audio tag and when it is due, in milliseconds.
type Tag = (u32, Vec<u8>);

/// The process of rtmp-ingest below a launcher.
pub fn process(launcher: u32) -> Option<u32> {
    list()?
        .into_iter()
        .find(|process| process.parent == launcher && process.name == "rtmp-ingest")
        .map(|it| it.id)
}

fn ticks(process: u32) -> io::Result<u64> {
    let found = list().into_iter().flatten().find(|it| it.id == process);
    found.map(|it| it.ticks).ok_or_else(|| io::Error::other("rtmp-ingest has ended"))
}

/// Ten seconds of noise as ffmpeg encodes it.
async fn noise() -> io::Result<Vec<Tag>> {
    let source = "anoisesrc=amplitude=0.5:color=pink:sample_rate=44100:duration=10";
    let output = Command::new("ffmpeg")
        .args([
            "-nostdin", "-v", "error", "-f", "lavfi", "-i", source, "-ac", "2", "-c:a", "aac", "-b:a", "128k",
        ])
        .args(["-f", "flv", "pipe:1"])
        .stdin(Stdio::null())
        .output()
        .await?;
    let tags = tags(&output.stdout);
    if tags.is_empty() { Err(io::Error::other("ffmpeg made no sound")) } else { Ok(tags) }
}

/// The audio tags of an FLV file (FLV v10.1 annex E.4.1): type, size, timestamp, stream, the tag, its size again.
fn tags(mut flv: &[u8]) -> Vec<Tag> {
    let mut tags = Vec::new();
    flv = flv.get(13..).unwrap_or_default();
    while let Some((&[kind, a, b, c, t1, t2, t3, t0, _, _, _], rest)) = flv.split_first_chunk::<11>() {
        let size = u32::from_be_bytes([0, a, b, c]) as usize;
        let (Some(data), Some(next)) = (rest.get(..size), rest.get(size + 4..)) else { break };
        if kind == 8 {
            tags.push((u32::from_be_bytes([t0, t1, t2, t3]), data.to_vec()));
        }
        flv = next;
    }
    tags
}

struct Encoder {
    stream: TcpStream,
    session: ClientSession,
}

impl Encoder {
    async fn publish(address: SocketAddr, key: &str) -> io::Result<Self> {
        let target = Address::parse(&format!("rtmp://{address}/live/{key}")).map_err(io::Error::other)?;
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut encoder = Self { stream, session: ClientSession::new(target, true, 1) };
        let publishing = async {
            let mut buffer = vec![0; 4_096];
            loop {
                encoder.write().await?;
                let count = encoder.stream.read(&mut buffer).await?;
                let mut input = buffer.get(..count).filter(|read| !read.is_empty());
                let input = input.as_mut().ok_or(io::ErrorKind::UnexpectedEof)?;
                match encoder.session.receive(input).map_err(io::Error::other)? {
                    Some(ClientEvent::Publishing) => return Ok(()),
                    Some(other) => return Err(io::Error::other(format!("{other:?}"))),
                    None => {}
                }
            }
        };
        timeout(PUBLISH_LIMIT, publishing).await.map_err(|_| io::ErrorKind::TimedOut)??;
        Ok(encoder)
    }

    async fn write(&mut self) -> io::Result<()> {
        let output = self.session.take_output();
        self.stream.write_all(&output).await
    }

    /// Pushes the tags again and again at their pace.
    async fn push(mut self, tags: Arc<Vec<Tag>>, length_ms: u32) -> io::Result<()> {
        let began = tokio::time::Instant::now();
        for round in 0_u32.. {
            for (at, (timestamp, data)) in tags.iter().enumerate() {
                if at == 0 && round > 0 {
                    // The configuration was sent.
                    continue;
                }
                let due_ms = round * length_ms + timestamp;
                sleep_until(began + Duration::from_millis(due_ms.into())).await;
                self.session.send_audio(due_ms, data).map_err(io::Error::other)?;
                self.write().await?;
            }
        }
        Ok(())
    }
}

/// Measures both.
pub async fn measure(ingest: &Ingest, plan: Plan) -> io::Result<Costs> {
    let before = own_memory_kib(ingest.process).unwrap_or_default();
    let mut idle = Vec::new();
    for number in 0..plan.idle {
        idle.push(Encoder::publish(ingest.address, &(ingest.key)(number)).await?);
    }
    sleep(SETTLE).await;
    let after = own_memory_kib(ingest.process).unwrap_or_default();
    let idle_kib = after.saturating_sub(before) as f64 / plan.idle.max(1) as f64;
    drop(idle);

    let tags = Arc::new(noise().await?);
    let length_ms = tags.last().map_or(0, |(at, _)| *at);
    let mut pushes = JoinSet::new();
    for number in 0..plan.streams {
        let encoder = Encoder::publish(ingest.address, &(ingest.key)(plan.idle + number)).await?;
        pushes.spawn(encoder.push(tags.clone(), length_ms));
        // Encoders do not tick together.
        sleep(Duration::from_millis(7)).await;
    }
    sleep(SETTLE).await;
    let (used, began) = (ticks(ingest.process)?, Instant::now());
    sleep(Duration::from_secs(plan.seconds)).await;
    let (used, seconds) = (ticks(ingest.process)? - used, began.elapsed().as_secs_f64());
    if let Some(ended) = pushes.try_join_next() {
        return Err(ended.map_err(io::Error::other)?.err().unwrap_or(io::ErrorKind::UnexpectedEof.into()));
    }
    let cpu_ms = used as f64 / TICKS_PER_SECOND * 1_000.0 / seconds / plan.streams.max(1) as f64;
    Ok(Costs { streams: plan.streams, seconds, cpu_ms, idle: plan.idle, idle_kib })
}
