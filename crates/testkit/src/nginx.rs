use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tokio::net::TcpStream;

use crate::{ScratchFolder, eventually, free_port, tls::openssl};

/// The real nginx with the project's configuration, in front of one or more edges.
pub struct Nginx {
    /// Plain port.
    pub http_port: u16,
    /// TLS port, with a certificate that nobody signed.
    pub https_port: u16,
    /// Plain port of encoders.
    pub rtmp_port: u16,
    /// Their TLS port.
    pub rtmps_port: u16,
    folder: ScratchFolder,
    process: Child,
}

/// How many new sockets one address may open.
#[derive(Debug, Clone, Copy)]
pub struct HandshakeLimit {
    /// A second, on average.
    pub rate: u32,
    /// At once, above the rate.
    pub burst: u32,
}

impl HandshakeLimit {
    /// More than a test opens.
    pub const NONE: Self = Self { rate: 100_000, burst: 100_000 };
}

impl Nginx {
    /// Starts it in front of the edges at these ports of the loopback interface, and of the ingest at this one, and
    /// waits until it listens.
    ///
    /// # Panics
    /// When there is no `nginx` or `openssl`, or nginx does not start; with its log.
    pub async fn start(edge_ports: &[u16], ingest_port: u16, limit: HandshakeLimit) -> Self {
        let folder = ScratchFolder::new("nginx");
        let path = folder.path();
        let ports = Ports {
            http: free_port(),
            https: free_port(),
            rtmp: free_port(),
            rtmps: free_port(),
            ingest: ingest_port,
        };
        certificate(path);
        let configuration = path.join("nginx.conf");
        std::fs::write(&configuration, render(path, ports, edge_ports, limit))
            .expect("a configuration that can be written");
        let log = std::fs::File::create(path.join("stderr.log")).expect("a log that can be written");
        let process = Command::new("nginx")
            .args(["-g", "daemon off;", "-c"])
            .arg(&configuration)
            .arg("-p")
            .arg(path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("nginx to be installed");
        let Ports { http, https, rtmp, rtmps, .. } = ports;
        let mut nginx =
            Self { http_port: http, https_port: https, rtmp_port: rtmp, rtmps_port: rtmps, folder, process };
        eventually("nginx listens", async || {
            if let Ok(Some(status)) = nginx.process.try_wait() {
                panic!("nginx ended with {status}: {}", nginx.everything_it_said());
            }
            TcpStream::connect(("127.0.0.1", rtmps)).await.is_ok()
        })
        .await;
        nginx
    }

    /// One JSON line per finished request.
    pub fn access_log(&self) -> PathBuf {
        self.folder.path().join("access.log")
    }

    /// Everything in its error log and on its standard error.
    pub fn everything_it_said(&self) -> String {
        let read = |name| std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        read("stderr.log") + &read("error.log")
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // SIGKILL would leave its workers behind.
        let _asked = Command::new("kill").args(["-TERM", &self.process.id().to_string()]).status();
        let _ended = self.process.wait();
    }
}

#[derive(Clone, Copy)]
struct Ports {
    http: u16,
    https: u16,
    rtmp: u16,
    rtmps: u16,
    ingest: u16,
}

/// The line that loads the stream module, or nothing where it is built in.
fn stream_module() -> String {
    let folders = ["/usr/lib/nginx/modules", "/usr/lib64/nginx/modules"];
    let found = folders.map(|folder| Path::new(folder).join("ngx_stream_module.so"));
    let found = found.iter().find(|path| path.exists());
    found.map_or_else(String::new, |path| format!("load_module {};", path.display()))
}

fn render(folder: &Path, ports: Ports, edge_ports: &[u16], limit: HandshakeLimit) -> String {
    let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../nginx/parley.conf.template");
    let template = std::fs::read_to_string(template).expect("nginx/parley.conf.template");
    let file = |name: &str| folder.join(name).display().to_string();
    let edges = edge_ports.iter().fold(String::new(), |mut edges, port| {
        let _infallible = write!(edges, "server 127.0.0.1:{port} max_fails=0;");
        edges
    });
    let values = [
        ("@WORKERS@", "1".to_owned()),
        ("@RUN_DIR@", folder.display().to_string()),
        ("@ERROR_LOG@", file("error.log")),
        ("@ACCESS_LOG@", file("access.log")),
        ("@LISTEN_ADDR@", "127.0.0.1".to_owned()),
        ("@HTTP_PORT@", ports.http.to_string()),
        ("@HTTPS_PORT@", ports.https.to_string()),
        ("@RTMP_PORT@", ports.rtmp.to_string()),
        ("@RTMPS_PORT@", ports.rtmps.to_string()),
        ("@STREAM_MODULE@", stream_module()),
        ("@RTMP_SERVERS@", format!("server 127.0.0.1:{};", ports.ingest)),
        ("@TLS_CERT@", file("certificate.pem")),
        ("@TLS_KEY@", file("key.pem")),
        ("@EDGE_SERVERS@", edges),
        ("@DOORS@", "map $server_port $door { default edge; }".to_owned()),
        ("@MORE_LISTENS@", String::new()),
        ("@RESOLVER@", String::new()),
        ("@SHUTDOWN_TIMEOUT@", "5s".to_owned()),
        ("@TRUSTED_PROXIES@", String::new()),
        ("@HANDSHAKE_RATE@", limit.rate.to_string()),
        ("@HANDSHAKE_BURST@", limit.burst.to_string()),
    ];
    // The comment at the top names the placeholders and is replaced along with them, on one line each.
    values.iter().fold(template, |text, (name, value)| text.replace(name, value))
}

fn certificate(folder: &Path) {
    let names = "subjectAltName=DNS:localhost,IP:127.0.0.1";
    openssl(
        &["-subj", "/CN=localhost", "-addext", names],
        &folder.join("key.pem"),
        &folder.join("certificate.pem"),
    );
}
