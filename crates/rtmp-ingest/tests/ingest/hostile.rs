//! Whatever somebody sends: the service lives, others are not disturbed, every such connection ends in time, and memory
//! stays flat.

use std::time::Duration;

use testkit::eventually;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::{
    encoder::Encoder,
    stage::{Setup, Stage},
};

/// Limits of the ingest in these tests: short, so that they are reached.
const LIMIT_MS: &str = "1000";

/// Within this a hostile connection has ended: the limits above, and patience with a busy machine.
const END_LIMIT: Duration = Duration::from_secs(20);

/// How much memory all of it may leave behind, in MiB.
const GROWTH_MIB_MAX: usize = 24;

const AUDIO: u8 = 8;
const VIDEO: u8 = 9;
const DATA: u8 = 18;
const COMMAND: u8 = 20;
const AMF3_COMMAND: u8 = 17;
const AGGREGATE: u8 = 22;

/// One message in chunks of 128 bytes (RTMP 1.0 section 5.3), with a length that may be a lie.
fn message_of(length: usize, kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![3, 0, 0, 0];
    bytes.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes()[1..]);
    bytes.push(kind);
    bytes.extend_from_slice(&stream.to_le_bytes());
    for (at, part) in payload.chunks(128).enumerate() {
        if at > 0 {
            bytes.push(0xc3);
        }
        bytes.extend_from_slice(part);
    }
    bytes
}

fn message(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    message_of(payload.len(), kind, stream, payload)
}

fn string(text: &str) -> Vec<u8> {
    [&[2][..], &u16::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat()
}

fn number(value: f64) -> Vec<u8> {
    [&[0][..], &value.to_be_bytes()].concat()
}

fn key(text: &str) -> Vec<u8> {
    string(text)[1..].to_vec()
}

pub fn command(name: &str, arguments: &[&[u8]]) -> Vec<u8> {
    message(COMMAND, 0, &[string(name), number(1.0), arguments.concat()].concat())
}

pub fn connect() -> Vec<u8> {
    let object = [&[3][..], &key("app"), &string("live"), &[0, 0, 9]].concat();
    command("connect", &[&object])
}

pub fn publish(name: &str) -> Vec<u8> {
    let payload = [string("publish"), number(5.0), vec![5], string(name), string("live")].concat();
    message(COMMAND, 1, &payload)
}

/// Values inside values.
fn nested(opening: &[u8], depth: usize) -> Vec<u8> {
    message(COMMAND, 0, &[string("connect"), number(1.0), opening.repeat(depth)].concat())
}

/// What is sent, in order; the answers are read, or not.
struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    /// Sent again and again until the connection ends.
    flood: Vec<u8>,
    reads: bool,
}

pub fn handshake() -> Vec<u8> {
    let mut bytes = vec![0x42; 1 + 2 * 1536];
    bytes[0] = 3;
    bytes[1..9].fill(0);
    bytes
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    let mut add = |name, parts: &[&[u8]], flood: &[u8], reads| {
        all.push(Case { name, bytes: parts.concat(), flood: flood.to_vec(), reads });
    };
    let shaken = handshake();
    let connected = [handshake(), connect()].concat();
    let nothing: &[u8] = &[];
    // Before a word of RTMP.
    add("nothing", &[], nothing, true);
    add("one byte", &[&[3]], nothing, true);
    add("half a handshake", &[&shaken[..700]], nothing, true);
    add("a handshake without its end", &[&shaken[..1 + 1536]], nothing, true);
    add("a handshake byte by byte", &[&[3]], &[0], true);
    add("an unknown version", &[&[6], &shaken[1..]], nothing, true);
    add("encrypted RTMP", &[&[8]], nothing, true);
    add("HTTP", &[b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"], nothing, true);
    add(
        "HTTP tunnel",
        &[b"POST /open/1 HTTP/1.1\r\nContent-Type: application/x-fcs\r\n\r\n\0"],
        nothing,
        true,
    );
    add("TLS", &[b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"], nothing, true);
    add("SSH", &[b"SSH-2.0-OpenSSH_9.2\r\n"], nothing, true);
    add("zeros", &[], &[0; 4_096], true);
    add("all bits", &[], &[0xff; 4_096], true);
    add("a PROXY line that is none", &[b"PROXY TCP4 a b c d\r\n"], nothing, true);
    add("a PROXY line without an end", &[b"PROXY "], b"x", true);
    add("a PROXY block that is too long", &[b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"], &[0; 1_024], true);
    add("two PROXY lines", &[&b"PROXY UNKNOWN\r\n".repeat(2)], nothing, true);
    // Chunks.
    add("a handshake and nothing", &[&shaken], nothing, true);
    add("a continuation of nothing", &[&shaken, &[0xc3, 1, 2, 3]], nothing, true);
    add("a short header of nothing", &[&shaken, &[0x43, 0, 0, 1, 0, 0, 1, 20]], nothing, true);
    add("a message of 16 MiB", &[&shaken, &message_of(0xff_ffff, COMMAND, 0, &[2; 128])], &[0xc3; 129], true);
    add(
        "a video of 16 MiB before connect",
        &[&shaken, &message_of(0xff_ffff, VIDEO, 1, &[0; 128])],
        &[0xc3; 129],
        true,
    );
    add("a sound of 65,537 bytes", &[&connected, &message_of(65_537, AUDIO, 1, &[0; 128])], nothing, true);
    let many: Vec<u8> = (3..63_u8).flat_map(|id| [id, 0, 0, 0, 0, 1, 0, COMMAND, 0, 0, 0, 0, 1]).collect();
    add("sixty chunk streams", &[&shaken, &many], nothing, true);
    add("a chunk stream of three bytes", &[&shaken, &[1, 0xff, 0xff]], nothing, true);
    let header = [3, 0, 0, 0, 0, 1, 0, COMMAND, 0, 0, 0, 0];
    let inside = [&header[..], &[0; 128], &header].concat();
    add("a header inside a message", &[&shaken, &inside], nothing, true);
    add("chunks of no bytes", &[&shaken, &message(1, 0, &[0, 0, 0, 0])], nothing, true);
    add("chunks of 2 GiB", &[&shaken, &message(1, 0, &[0x7f, 0xff, 0xff, 0xff])], &[0; 1_024], true);
    add("a negative chunk size", &[&shaken, &message(1, 0, &[0xff, 0xff, 0xff, 0xff])], nothing, true);
    add("an abort of nothing, for ever", &[&shaken], &message(2, 0, &[0, 0, 0, 9]), true);
    add("a chunk size that is cut", &[&shaken, &message(1, 0, &[0])], nothing, true);
    add("messages of nothing", &[&shaken], &message(COMMAND, 0, &[]), true);
    // Commands.
    add("publish without connect", &[&shaken, &publish("demo")], nothing, true);
    add("sound without publish", &[&connected, &message(AUDIO, 1, &[0xaf, 1, 0])], nothing, true);
    add("sound before connect", &[&shaken, &message(AUDIO, 1, &[0xaf, 1, 0])], nothing, true);
    add("data without publish", &[&connected, &message(DATA, 1, &string("@setDataFrame"))], nothing, true);
    add("connect twice", &[&connected, &connect()], nothing, true);
    add("connect without an application", &[&shaken, &command("connect", &[&[5]])], nothing, true);
    add("connect and nothing", &[&connected], nothing, true);
    add("a name of nothing", &[&connected, &publish("")], nothing, true);
    add("a name of 30,000 bytes", &[&connected, &publish(&"x".repeat(30_000))], nothing, true);
    add("a name with control characters", &[&connected, &publish("a\u{1}b")], nothing, true);
    add("objects in objects", &[&shaken, &nested(b"\x03\x00\x01a", 20_000)], nothing, true);
    add("arrays in arrays", &[&shaken, &nested(&[0x0a, 0, 0, 0, 1], 20_000)], nothing, true);
    add("an array of four milliards", &[&shaken, &nested(&[0x0a, 0xff, 0xff, 0xff, 0xff], 1)], nothing, true);
    add("a string of 4 GiB", &[&shaken, &nested(&[0x0c, 0xff, 0xff, 0xff, 0xff], 1)], nothing, true);
    add("a reference to nothing", &[&shaken, &nested(&[7, 0xff, 0xff], 1)], nothing, true);
    add("AMF3", &[&shaken, &message(AMF3_COMMAND, 0, &[0, 0x11, 0x0a, 0x0b])], nothing, true);
    add("an aggregate before publish", &[&connected, &message(AGGREGATE, 1, &[8, 0, 0, 1])], nothing, true);
    add("a command that nobody knows, for ever", &[&connected], &command("x", &[&[5]]), true);
    add("questions whose answers are not read", &[&connected], &command("createStream", &[&[5]]), false);
    add("play instead", &[&connected, &command("play", &[&[5], &string("demo")])], nothing, true);
    // After publish.
    let published = |name: &str| [connected.clone(), publish(name)].concat();
    add("publish and nothing", &[&published("silent")], nothing, true);
    add("tags that are none", &[&published("broken")], &message(AUDIO, 1, &[0xaf, 9]), true);
    add(
        "sound that is none",
        &[&published("noise"), &message(AUDIO, 1, &[0xaf, 0, 0x12, 0x10])],
        &message(AUDIO, 1, &[0xaf, 1, 0x40, 0x55, 0x55]),
        true,
    );
    add("Speex", &[&published("speex")], &message(AUDIO, 1, &[0xb2, 0, 0]), true);
    add("publish again", &[&published("first"), &publish("second"), &connect()], nothing, true);
    add(
        "an aggregate that lies",
        &[&published("aggregate"), &message(AGGREGATE, 1, &[8, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0])],
        nothing,
        true,
    );
    all
}

/// Sends a case and waits until the server has ended it.
async fn suffer(stage: &Stage, case: Case) {
    let began = Instant::now();
    let mut stream = TcpStream::connect(stage.address()).await.unwrap();
    let (mut reader, mut writer) = stream.split();
    let sending = async {
        let _ = writer.write_all(&case.bytes).await;
        loop {
            if case.flood.is_empty() {
                std::future::pending::<()>().await;
            }
            if writer.write_all(&case.flood).await.is_err() {
                return;
            }
            if case.flood.len() < 16 {
                sleep(Duration::from_millis(1)).await;
            }
        }
    };
    let mut sink = vec![0; 65_536];
    let reading = async {
        if !case.reads {
            std::future::pending::<()>().await;
        }
        while reader.read(&mut sink).await.is_ok_and(|count| count > 0) {}
    };
    let ended = timeout(END_LIMIT, async {
        tokio::select! { () = sending => {}, () = reading => {} }
    })
    .await;
    assert!(ended.is_ok(), "{} is still there after {:?}", case.name, began.elapsed());
}

/// The memory of this process, in MiB.
fn resident_mib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().unwrap() / 1_024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_connections_end_in_time_and_disturb_nobody() {
    let setup = Setup::new().await.set("RTMP_PUBLISH_MS", LIMIT_MS).set("RTMP_IDLE_MS", LIMIT_MS);
    let stage = setup.set("RTMP_WRITE_MS", "500").set("RTMP_REJOIN_SECONDS", "0").start().await;
    assert!(cases().len() >= 40, "{}", cases().len());
    let mut bystander = Encoder::publish(stage.address(), stage.session.as_str()).await;
    let mut spoken = 0;
    let suffering = async {
        let mut before = 0;
        for round in 0..2 {
            for group in cases().chunks(16).map(|group| group.len()).scan(0, |at, count| {
                *at += count;
                Some((*at - count, *at))
            }) {
                let all = cases().into_iter().enumerate().filter(|(at, _)| (group.0..group.1).contains(at));
                let all: Vec<_> = all.map(|(_, case)| suffer(&stage, case)).collect();
                futures_util::future::join_all(all).await;
            }
            if round == 0 {
                before = resident_mib();
            }
        }
        let after = resident_mib();
        assert!(after <= before + GROWTH_MIB_MAX, "{before} MiB became {after}");
    };
    let speaking = async {
        loop {
            bystander.sound(200).await;
            spoken += 200;
            sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::select! {
        () = suffering => {}
        () = speaking => {}
    }
    let whole = async || {
        let heard = stage.worker.ears(|ears| {
            let at = ears.sources.iter().position(|source| source.session == stage.session);
            at.and_then(|at| ears.streams.get(at)).map_or(0, |heard| heard.samples.len())
        });
        heard + 1_600 >= spoken * 16
    };
    eventually("the other publisher was heard all the time", whole).await;
}

#[tokio::test]
async fn an_address_has_its_limit_and_so_has_everybody() {
    let setup = Setup::new().await.set("RTMP_ADDRESS_CONNECTIONS_MAX", "2").set("RTMP_CONNECTIONS_MAX", "4");
    let stage = setup.start().await;
    let proxied = async |address: &str| {
        let mut stream = TcpStream::connect(stage.address()).await.unwrap();
        let line = format!("PROXY TCP4 {address} 127.0.0.1 1 2\r\n");
        stream.write_all(&[line.as_bytes(), &handshake()[..1 + 1536]].concat()).await.unwrap();
        let mut answer = [0];
        let answered = timeout(END_LIMIT, stream.read_exact(&mut answer)).await.unwrap().is_ok();
        (stream, answered)
    };
    let (_one, first) = proxied("10.0.0.1").await;
    let (_two, second) = proxied("10.0.0.1").await;
    let (_three, third) = proxied("10.0.0.1").await;
    assert!(first && second && !third, "two of one address");
    let (_four, other) = proxied("10.0.0.2").await;
    let (_five, another) = proxied("10.0.0.3").await;
    let (_six, sixth) = proxied("10.0.0.4").await;
    assert!(other && another && !sixth, "four of all");
}
