//! HTTP/1.1 and WebSocket frames byte by byte, since a library only says that something is wrong with them.

use std::{
    fmt, io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use reqwest::Url;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// Longest time for a name, TCP and TLS together.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Longest wait for an answer or a frame.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Largest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Largest body that is read, in bytes; of what is longer this much.
const BODY_BYTES_MAX: usize = 64 << 10;

/// Largest frame that is read, in bytes. Greetings have some hundred.
const FRAME_BYTES_MAX: usize = 64 << 10;

const HEADERS_MAX: usize = 64;

/// Bytes both ways.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Why nobody could be talked to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unreachable {
    /// No address of that name.
    Name,
    /// Nobody listens.
    Refused,
    /// Packets vanish.
    TimedOut,
    /// What listens there speaks no TLS.
    NotTls,
    /// Anything else, in words.
    Other(String),
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => f.write_str("no such host name"),
            Self::Refused => f.write_str("connection refused: nobody listens there"),
            Self::TimedOut => write!(f, "no answer within {} s", CONNECT_LIMIT.as_secs()),
            Self::NotTls => f.write_str("what listens there speaks no TLS"),
            Self::Other(words) => f.write_str(words),
        }
    }
}

impl From<io::Error> for Unreachable {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::TimedOut,
            _ => Self::Other(error.to_string()),
        }
    }
}

/// An open connection.
pub struct Connection {
    stream: Box<dyn Stream>,
    /// What a browser would not accept of the server's certificate. It was accepted here, to see what is behind it.
    pub untrusted: Option<String>,
    /// Whether HTTP/2 was chosen, which was offered beside HTTP/1.1.
    pub http2: bool,
}

/// Which protocols TLS offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// HTTP/1.1 alone, as for a WebSocket.
    Http1,
    /// HTTP/2 as well, as for pages.
    Http2,
    /// None, as for RTMPS.
    Nothing,
}

/// Connects to where a URL points; TLS with `https` and `wss`.
///
/// # Errors
/// Why not.
pub async fn connect(url: &Url, offer: Offer) -> Result<Connection, Unreachable> {
    let (host, tls) = (url.host_str().unwrap_or_default(), matches!(url.scheme(), "https" | "wss"));
    let port = url.port_or_known_default().unwrap_or(if tls { 443 } else { 80 });
    connect_to(host, port, tls, offer).await
}

/// Connects to a host and a port.
///
/// # Errors
/// Why not.
pub async fn connect_to(host: &str, port: u16, tls: bool, offer: Offer) -> Result<Connection, Unreachable> {
    let connecting = async {
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let addresses = tokio::net::lookup_host((name, port)).await.map_err(|_| Unreachable::Name)?;
        let mut refused = Unreachable::Name;
        let mut connected = None;
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    connected = Some(stream);
                    break;
                }
                Err(error) => refused = error.into(),
            }
        }
        let stream = connected.ok_or(refused)?;
        if tls { encrypted(stream, name, offer).await } else { Ok(plain(stream)) }
    };
    timeout(CONNECT_LIMIT, connecting).await.unwrap_or(Err(Unreachable::TimedOut))
}

fn plain(stream: TcpStream) -> Connection {
    Connection { stream: Box::new(stream), untrusted: None, http2: false }
}

async fn encrypted(stream: TcpStream, name: &str, offer: Offer) -> Result<Connection, Unreachable> {
    let other = |error: &dyn fmt::Display| Unreachable::Other(error.to_string());
    let verifier = Arc::new(Lenient::new().map_err(|error| other(&error))?);
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| other(&error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_no_client_auth();
    config.alpn_protocols = match offer {
        Offer::Http1 => vec![b"http/1.1".to_vec()],
        Offer::Http2 => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        Offer::Nothing => Vec::new(),
    };
    let name = ServerName::try_from(name.to_owned()).map_err(|error| other(&error))?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|error| {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match tls {
            Some(rustls::Error::InvalidMessage(_)) => Unreachable::NotTls,
            _ => error.into(),
        }
    })?;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    Ok(Connection { stream: Box::new(stream), untrusted: verifier.found(), http2 })
}

/// Checks a certificate as everybody does, and goes on whatever it finds: a doctor must look behind a bad certificate.
/// Nothing that somebody else made goes there: no given token, no stream key.
#[derive(Debug)]
struct Lenient {
    strict: Option<Arc<WebPkiServerVerifier>>,
    provider: CryptoProvider,
    found: Mutex<Option<String>>,
}

impl Lenient {
    fn new() -> Result<Self, rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = ring::default_provider();
        // Without any root nothing can be checked, and nothing is trusted.
        let strict = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(provider.clone()));
        Ok(Self { strict: strict.build().ok(), provider, found: Mutex::new(None) })
    }

    fn found(&self) -> Option<String> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = match &self.strict {
            Some(strict) => strict
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
                .map_err(|error| error.to_string()),
            None => Err("this machine has no root certificates".to_owned()),
        };
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = verified.err();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Lines that ask for a WebSocket (RFC 6455 section 4.1).
pub fn upgrade_headers(key: &str) -> Vec<String> {
    vec![
        "Connection: Upgrade".to_owned(),
        "Upgrade: websocket".to_owned(),
        "Sec-WebSocket-Version: 13".to_owned(),
        format!("Sec-WebSocket-Key: {key}"),
    ]
}

/// What came instead of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Garbled {
    /// Nothing in time.
    Silence,
    /// The connection ended first.
    Hangup,
    /// Something else than HTTP; how it begins.
    NotHttp(String),
}

impl fmt::Display for Garbled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silence => write!(f, "no answer within {} s", ANSWER_LIMIT.as_secs()),
            Self::Hangup => f.write_str("the connection was closed without an answer"),
            Self::NotHttp(shown) => write!(f, "{shown} came instead of HTTP"),
        }
    }
}

/// The head of an answer, and what has come behind it.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    headers: Vec<(String, String)>,
    /// What came with the head, or the whole body after [`Connection::body`].
    pub rest: Vec<u8>,
}

impl Answer {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.rest).into_owned()
    }

    /// The body as JSON, if it is.
    pub fn json(&self) -> Option<serde_json::Value> {
        serde_json::from_slice(&self.rest).ok()
    }
}

impl Connection {
    /// Sends a request and reads the head of its answer. `headers` are whole lines.
    ///
    /// # Errors
    /// What came instead.
    pub async fn ask(
        &mut self,
        method: &str,
        url: &Url,
        headers: &[String],
        body: &[u8],
    ) -> Result<Answer, Garbled> {
        let target = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let host = url.host_str().unwrap_or_default();
        let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let mut request =
            format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: parley-doctor\r\n");
        for line in headers {
            request.push_str(line);
            request.push_str("\r\n");
        }
        if !body.is_empty() {
            request.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        let mut bytes = request.into_bytes();
        bytes.extend_from_slice(body);
        let answered = async {
            self.send(&bytes).await.map_err(|_| Garbled::Hangup)?;
            self.head().await
        };
        timeout(ANSWER_LIMIT, answered).await.unwrap_or(Err(Garbled::Silence))
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    async fn head(&mut self) -> Result<Answer, Garbled> {
        let mut bytes = Vec::new();
        loop {
            if let Some(answer) = parse_head(&bytes)? {
                return Ok(answer);
            }
            if bytes.len() > HEAD_BYTES_MAX {
                return Err(Garbled::NotHttp("a head without an end".to_owned()));
            }
            match self.stream.read_buf(&mut bytes).await {
                Ok(0) | Err(_) if bytes.is_empty() => return Err(Garbled::Hangup),
                Ok(0) | Err(_) => return Err(Garbled::NotHttp(shown(&bytes))),
                Ok(_) => {}
            }
        }
    }

    /// Reads the body, or its first 64 KiB, of an answer whose request asked for `Connection: close`.
    pub async fn body(&mut self, answer: &mut Answer) {
        let length = answer.header("content-length").and_then(|length| length.parse::<usize>().ok());
        let wanted = length.unwrap_or(BODY_BYTES_MAX).min(BODY_BYTES_MAX);
        let reading = async {
            while answer.rest.len() < wanted {
                match self.stream.read_buf(&mut answer.rest).await {
                    Ok(0) | Err(_) => break,
                    Ok(_) => {}
                }
            }
        };
        // What has come by then is enough to tell what it is.
        let _in_time = timeout(ANSWER_LIMIT, reading).await;
        if answer.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            answer.rest = unchunked(&answer.rest);
        }
    }

    /// Gives the connection to whoever speaks another protocol on it.
    pub fn into_stream(self) -> Box<dyn Stream> {
        self.stream
    }
}

fn parse_head(bytes: &[u8]) -> Result<Option<Answer>, Garbled> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(bytes) {
        Ok(httparse::Status::Partial) => Ok(None),
        Ok(httparse::Status::Complete(length)) => {
            let headers = response.headers.iter().map(|header| {
                (header.name.to_owned(), String::from_utf8_lossy(header.value).trim().to_owned())
            });
            Ok(Some(Answer {
                status: response.code.unwrap_or_default(),
                headers: headers.collect(),
                rest: bytes.get(length..).unwrap_or_default().to_vec(),
            }))
        }
        Err(_) => Err(Garbled::NotHttp(shown(bytes))),
    }
}

/// The data of chunks (RFC 9112 section 7.1), as far as they are whole.
fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    while let Ok(httparse::Status::Complete((begin, length))) = httparse::parse_chunk_size(bytes) {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let end = begin.saturating_add(length);
        let Some(chunk) = bytes.get(begin..end).filter(|chunk| !chunk.is_empty()) else { break };
        data.extend_from_slice(chunk);
        bytes = bytes.get(end.saturating_add(2)..).unwrap_or_default();
    }
    data
}

/// What a server said in a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// A text.
    Text(String),
    /// Bytes.
    Binary,
    /// A close code, and its reason.
    Close(u16, String),
    /// The connection ended without a close frame, which browsers call 1006.
    Hangup,
    /// Nothing in time.
    Silence,
}

/// What came instead of a frame (RFC 6455 section 5.2); most clients call each of them "Invalid frame header".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadFrame {
    /// Text, as of a proxy or a program that does not know that the connection was upgraded.
    Text(String),
    /// A compressed message, although no compression was agreed on.
    Compressed,
    /// Another reserved bit, or an opcode that does not exist; the first byte.
    Reserved(u8),
    /// A masked frame, which only clients send.
    Masked,
    /// A close code that may not be sent (section 7.4).
    CloseCode(u16),
    /// A text that is no UTF-8.
    NotUtf8,
    /// A control frame above 125 bytes, or a greeting above 64 KiB.
    TooLarge(u64),
}

impl fmt::Display for BadFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(shown) => write!(f, "{shown} came instead of a frame"),
            Self::Compressed => {
                f.write_str("a frame has the compression bit, and no compression was agreed on")
            }
            Self::Reserved(first) => write!(f, "a frame begins with the reserved byte 0x{first:02x}"),
            Self::Masked => f.write_str("a frame is masked, which only those of clients are"),
            Self::CloseCode(code) => write!(f, "it closes with {code}, a code that may not be sent"),
            Self::NotUtf8 => f.write_str("a text frame holds no UTF-8"),
            Self::TooLarge(length) => write!(f, "a frame claims {length} bytes"),
        }
    }
}

/// Reads the frames of an upgraded connection until a whole message, the end, or the time-out. `bytes` is what has come
/// already; what follows the message stays in it.
///
/// # Errors
/// What came instead of a frame.
pub async fn next_message(connection: &mut Connection, bytes: &mut Vec<u8>) -> Result<Said, BadFrame> {
    let reading = async {
        loop {
            if let Some((said, length)) = parse_frame(bytes)? {
                bytes.drain(..length.min(bytes.len()));
                match said {
                    // A ping or a pong.
                    None => continue,
                    Some(said) => return Ok(said),
                }
            }
            match connection.stream.read_buf(bytes).await {
                Ok(0) | Err(_) => return Ok(Said::Hangup),
                Ok(_) => {}
            }
        }
    };
    timeout(ANSWER_LIMIT, reading).await.unwrap_or(Ok(Said::Silence))
}

/// A frame at the beginning of `bytes`, and how long it is; `None` until it is whole. Fragments count as texts of their own:
/// greetings have none.
fn parse_frame(bytes: &[u8]) -> Result<Option<(Option<Said>, usize)>, BadFrame> {
    let [first, second, ..] = bytes else { return Ok(None) };
    let (first, second) = (*first, *second);
    // No text frame begins with two characters of ASCII: its first byte has the highest bit.
    if first.is_ascii_graphic() && (second.is_ascii_graphic() || second == b' ') {
        return Err(BadFrame::Text(shown(bytes)));
    }
    let (reserved, opcode) = (first & 0x70, first & 0x0F);
    if reserved == 0x40 && matches!(opcode, 1 | 2) {
        return Err(BadFrame::Compressed);
    }
    if reserved != 0 || !matches!(opcode, 0..=2 | 8..=10) {
        return Err(BadFrame::Reserved(first));
    }
    if second & 0x80 != 0 {
        return Err(BadFrame::Masked);
    }
    let (length, head) = match second {
        126 => match bytes {
            [_, _, a, b, ..] => (u64::from(u16::from_be_bytes([*a, *b])), 4),
            _ => return Ok(None),
        },
        127 => match bytes.get(2..10).and_then(|length| <[u8; 8]>::try_from(length).ok()) {
            Some(length) => (u64::from_be_bytes(length), 10),
            None => return Ok(None),
        },
        short => (u64::from(short), 2),
    };
    if (opcode >= 8 && length > 125) || length > FRAME_BYTES_MAX as u64 {
        return Err(BadFrame::TooLarge(length));
    }
    let end = head + usize::try_from(length).unwrap_or(FRAME_BYTES_MAX);
    let Some(payload) = bytes.get(head..end) else { return Ok(None) };
    let said = match opcode {
        2 => Some(Said::Binary),
        8 => Some(close(payload)?),
        9 | 10 => None,
        _ => Some(Said::Text(String::from_utf8(payload.to_vec()).map_err(|_| BadFrame::NotUtf8)?)),
    };
    Ok(Some((said, end)))
}

fn close(payload: &[u8]) -> Result<Said, BadFrame> {
    let [high, low, reason @ ..] = payload else { return Ok(Said::Close(1005, String::new())) };
    let code = u16::from_be_bytes([*high, *low]);
    match code {
        1000..=1003 | 1007..=1014 | 3000..=4999 => {
            Ok(Said::Close(code, String::from_utf8_lossy(reason).into_owned()))
        }
        _ => Err(BadFrame::CloseCode(code)),
    }
}

/// How bytes begin, fit to be shown: text in quotes, else hexadecimal.
fn shown(bytes: &[u8]) -> String {
    let begin = bytes.get(..bytes.len().min(24)).unwrap_or_default();
    let line = begin.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    if !line.is_empty() && line.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ') {
        return format!("`{}`", String::from_utf8_lossy(line));
    }
    let hex: Vec<String> = begin.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("the bytes {}", hex.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(bytes: &[u8]) -> Result<Option<(Option<Said>, usize)>, BadFrame> {
        parse_frame(bytes)
    }

    #[test]
    fn frames_are_told_from_what_is_none() {
        let text = |text: &str, length| Ok(Some((Some(Said::Text(text.to_owned())), length)));
        assert_eq!(frame(b"\x81\x02hi"), text("hi", 4));
        assert_eq!(frame(b"\x81\x02hi\x88"), text("hi", 4));
        assert_eq!(frame(b"\x89\x00"), Ok(Some((None, 2))));
        assert_eq!(frame(b"\x88\x04\x03\xf0no"), Ok(Some((Some(Said::Close(1008, "no".to_owned())), 6))));
        for partial in
            [&b""[..], b"\x81", b"\x81\x02h", b"\x81\x7e\x00", b"\x81\x7f\x00\x00\x00\x00\x00\x00\x00"]
        {
            assert_eq!(frame(partial), Ok(None), "{partial:?}");
        }
        assert_eq!(frame(b"HTTP/1.1 400 Bad"), Err(BadFrame::Text("`HTTP/1.1 400 Bad`".to_owned())));
        assert_eq!(frame(b"\xc1\x02hi"), Err(BadFrame::Compressed));
        assert_eq!(frame(b"\xa1\x02hi"), Err(BadFrame::Reserved(0xa1)));
        assert_eq!(frame(b"\x83\x00"), Err(BadFrame::Reserved(0x83)));
        assert_eq!(frame(b"\x81\x82"), Err(BadFrame::Masked));
        assert_eq!(frame(b"\x88\x02\xe8\x4d"), Err(BadFrame::CloseCode(59469)));
        assert_eq!(frame(b"\x88\x02\x03\xee"), Err(BadFrame::CloseCode(1006)));
        assert_eq!(frame(b"\x81\x01\xff"), Err(BadFrame::NotUtf8));
        assert_eq!(frame(b"\x89\x7e\x01\x00"), Err(BadFrame::TooLarge(256)));
        assert_eq!(frame(b"\x81\x7f\x00\x00\x00\x01\x00\x00\x00\x00"), Err(BadFrame::TooLarge(1 << 32)));
    }

    #[test]
    fn chunks_are_joined() {
        assert_eq!(unchunked(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"), b"abcde");
        assert_eq!(unchunked(b"3\r\nab"), b"");
        assert_eq!(unchunked(b"nonsense"), b"");
    }
}
