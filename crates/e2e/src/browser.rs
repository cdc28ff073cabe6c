use std::process::Stdio;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use testkit::{PATIENCE, ScratchFolder, eventually};
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    time::timeout,
};
use tokio_tungstenite::WebSocketStream;
use tungstenite::{Message, client::IntoClientRequest as _};

use crate::sound::wav;

/// Names under which a Chromium may be installed.
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// What the page does; see the file.
const MICROPHONE: &str = include_str!("microphone.js");

/// How a page takes sound from the microphone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Microphone {
    /// `MediaRecorder`: WebM/Opus.
    Recorder,
    /// An `AudioWorklet`: PCM.
    Worklet,
}

/// A real Chromium without a window, whose microphone is a recording. Driven by the Chrome DevTools protocol.
pub struct Browser {
    process: Child,
    devtools: WebSocketStream<TcpStream>,
    calls: u64,
    seconds: f64,
    _folder: ScratchFolder,
}

impl Browser {
    /// Starts one whose microphone hears these samples (16 kHz mono) once, from when a page first listens.
    ///
    /// # Panics
    /// When none is installed, or it does not start.
    pub async fn hearing(samples: &[i16]) -> Self {
        let folder = ScratchFolder::new("browser");
        let recording = folder.path().join("microphone.wav");
        std::fs::write(&recording, wav(samples)).expect("a recording that can be written");
        let launch = |name: &str| {
            Command::new(name)
                .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
                .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
                .args(["--disable-dev-shm-usage", "--autoplay-policy=no-user-gesture-required"])
                .args(["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"])
                .arg(format!("--use-file-for-fake-audio-capture={}%noloop", recording.display()))
                .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
                .args(["--remote-debugging-port=0", "about:blank"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .kill_on_drop(true)
                .spawn()
        };
        let launched = NAMES.into_iter().find_map(|name| launch(name).ok());
        let process = launched.expect("Chromium is needed: `make test` installs it");
        // Two lines: the port, and the path of the browser's own socket.
        let port_file = folder.path().join("profile/DevToolsActivePort");
        let (port, path) = eventually("the browser listens", async || {
            let text = std::fs::read_to_string(&port_file).ok()?;
            let (port, path) = text.split_once('\n')?;
            Some((port.parse::<u16>().ok()?, path.trim().to_owned()))
        })
        .await;
        let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("a connection to the browser");
        let request = format!("ws://127.0.0.1:{port}{path}").into_client_request().expect("a URL");
        let (devtools, _) =
            tokio_tungstenite::client_async(request, stream).await.expect("a browser that answers");
        let seconds = samples.len() as f64 / crate::sound::RATE as f64;
        Self { process, devtools, calls: 0, seconds, _folder: folder }
    }

    /// Opens a page of the site and speaks from it as long as the recording lasts; what the page was told.
    ///
    /// # Panics
    /// When the page fails; with its message.
    pub async fn speak(&mut self, page: &str, token: &str, microphone: Microphone) -> Vec<Value> {
        let target = self.call("", "Target.createTarget", json!({"url": page})).await;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = self.call("", "Target.attachToTarget", attach).await;
        let session = session["sessionId"].as_str().expect("a session").to_owned();
        let loaded = format!("location.href === {} && document.readyState === 'complete'", json!(page));
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.evaluate(&session, &loaded).await != json!(true) {
            assert!(tokio::time::Instant::now() < deadline, "the page does not load");
        }
        let mode = match microphone {
            Microphone::Recorder => "recorder",
            Microphone::Worklet => "worklet",
        };
        let script = format!("({MICROPHONE})({}, {}, {})", json!(token), json!(mode), self.seconds);
        let told = self.evaluate(&session, &script).await;
        told.as_array().expect("a list of messages").clone()
    }

    async fn evaluate(&mut self, session: &str, expression: &str) -> Value {
        let arguments = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let answer = self.call(session, "Runtime.evaluate", arguments).await;
        let failure = &answer["exceptionDetails"];
        assert!(failure.is_null(), "in the page: {failure}");
        answer["result"]["value"].clone()
    }

    async fn call(&mut self, session: &str, method: &str, arguments: Value) -> Value {
        self.calls += 1;
        let mut call = json!({"id": self.calls, "method": method, "params": arguments});
        if !session.is_empty() {
            call["sessionId"] = json!(session);
        }
        self.devtools.send(Message::text(call.to_string())).await.expect("a browser that listens");
        let answered = async {
            loop {
                let message = self.devtools.next().await.expect("a browser that lives").expect("a message");
                let Message::Text(text) = message else { continue };
                let value: Value = serde_json::from_str(&text).expect("JSON");
                if value["id"] == self.calls {
                    assert!(value["error"].is_null(), "{method}: {}", value["error"]);
                    return value["result"].clone();
                }
            }
        };
        timeout(PATIENCE * 2, answered).await.expect("an answer of the browser")
    }

    /// Closes it.
    pub async fn close(mut self) {
        // It may be gone before it has answered.
        let close = json!({"id": 0, "method": "Browser.close"}).to_string();
        let _asked = self.devtools.send(Message::text(close)).await;
        let _ended = timeout(PATIENCE, self.process.wait()).await;
    }
}
