//! A stand-in for Gladia's live API (version 2).

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{SinkExt as _, StreamExt as _};
use model::{SAMPLE_RATE_HZ, Samples};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};
use tungstenite::{
    Message,
    handshake::server::{ErrorResponse, Request, Response},
    http::StatusCode,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

/// Samples of a frame of the endpointer: 20 ms.
const FRAME: usize = 320;

/// Mean power of a frame with a voice, above -46 dB of full scale.
const VOICED_POWER: f64 = 160.0 * 160.0;

/// Sound kept from before a voice, in frames: 300 ms.
const PREROLL_FRAMES: usize = 15;

/// Longest utterance, in frames: 10 s.
const UTTERANCE_FRAMES_MAX: usize = 500;

/// Sound between two partials, in frames: 600 ms.
const PARTIAL_FRAMES: usize = 30;

/// How long a client may take to see that its connection is gone.
const LEAVE_LIMIT: Duration = Duration::from_secs(5);

type Recognize = dyn Fn(&[i16]) -> String + Send + Sync;

/// Hears like Gladia does, over real sockets on 127.0.0.1, and has faults when a test asks for some.
///
/// It counts the bytes of a session across its sockets and takes them when it acknowledges them: what it received and
/// has not acknowledged when a socket is lost is as if it had never come. Voices, utterances and messages that could
/// not be sent outlive a socket. An endpointer by loudness cuts utterances, which are the same however the sound comes.
pub struct GladiaServer {
    address: SocketAddr,
    world: Arc<World>,
    _tasks: JoinSet<()>,
}

struct World {
    address: SocketAddr,
    recognize: Arc<Recognize>,
    sessions: Mutex<HashMap<String, Arc<Session>>>,
    newest: Mutex<Option<Arc<Session>>>,
    faults: Mutex<Faults>,
    sockets: AtomicUsize,
    requests: AtomicUsize,
}

#[derive(Default)]
struct Faults {
    refusals: Option<(u16, usize)>,
    drops: Option<(usize, usize)>,
    delay: Duration,
    silent: bool,
}

impl Faults {
    /// Whether a socket that has received so many bytes is to be dropped.
    fn drops_at(&mut self, received: usize) -> bool {
        let drop = self.drops.as_mut().filter(|(limit, times)| *times > 0 && received > *limit);
        drop.map(|(_, times)| *times -= 1).is_some()
    }
}

struct Session {
    init: Value,
    state: Mutex<State>,
    /// Something is to be sent, or to be dropped.
    news: Notify,
}

#[derive(Default)]
struct State {
    /// Taken sound.
    bytes: Vec<u8>,
    /// Bytes that came, also those that were lost again.
    received: usize,
    /// The connection that counts; older ones are dropped.
    connection: usize,
    /// To be dropped: abruptly, or with a code.
    drop: Option<Option<u16>>,
    outgoing: VecDeque<Value>,
    ear: Ear,
    jobs: VecDeque<Job>,
    /// Whether somebody works on the jobs.
    working: bool,
    stopping: bool,
    finished: bool,
    last_final: Option<Value>,
}

/// An utterance, or what there is of one, to be recognized.
struct Job {
    number: usize,
    is_final: bool,
    /// In frames of the session.
    start: usize,
    pcm: Vec<i16>,
}

#[derive(Default)]
struct Ear {
    frames: usize,
    /// Frame at which the last utterance ended.
    closed: usize,
    number: usize,
    /// First frame, sound, frames since the last voice.
    open: Option<(usize, Vec<i16>, usize)>,
}

impl GladiaServer {
    /// The key that it knows.
    pub const KEY: &'static str = "gladia-stand-in-key";

    /// Starts it. `recognize` says what it hears in an utterance (16 kHz mono), off the async threads.
    ///
    /// # Panics
    /// When there is no port for it.
    pub async fn start(recognize: impl Fn(&[i16]) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port for Gladia");
        let address = listener.local_addr().expect("a bound address");
        let world = Arc::new(World {
            address,
            recognize: Arc::new(recognize),
            sessions: Mutex::default(),
            newest: Mutex::default(),
            faults: Mutex::default(),
            sockets: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, world.clone()));
        Self { address, world, _tasks: tasks }
    }

    /// Value of `GLADIA_API_URL`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Drops the newest session's socket: with a close code, or abruptly.
    ///
    /// # Panics
    /// When there is no session.
    pub fn drop_socket(&self, code: Option<u16>) {
        let session = self.newest();
        lock(&session.state).drop = Some(code);
        session.news.notify_one();
    }

    /// Drops sockets abruptly, each after so many bytes, as many as `times`. The message that crosses the limit is lost.
    pub fn drop_after_bytes(&self, bytes: usize, times: usize) {
        lock(&self.world.faults).drops = Some((bytes, times));
    }

    /// Acknowledges, and takes, sound so much later than it came.
    pub fn delay(&self, delay: Duration) {
        lock(&self.world.faults).delay = delay;
    }

    /// Answers the next requests for a session with this status, such as 402 for a quota.
    pub fn refuse_next(&self, status: u16, times: usize) {
        lock(&self.world.faults).refusals = Some((status, times));
    }

    /// Says nothing any more, acknowledges nothing.
    pub fn silent(&self) {
        lock(&self.world.faults).silent = true;
    }

    /// Sends the newest session's last final again, with another text.
    ///
    /// # Panics
    /// When there is none.
    pub fn correct_last(&self, text: &str) {
        let session = self.newest();
        let mut state = lock(&session.state);
        let mut last = state.last_final.clone().expect("a final to correct");
        if let Some(said) = last.pointer_mut("/data/utterance/text") {
            *said = text.into();
        }
        state.outgoing.push_back(last);
        drop(state);
        session.news.notify_one();
    }

    /// Requests for a session so far, also refused ones.
    pub fn requests(&self) -> usize {
        self.world.requests.load(Ordering::Relaxed)
    }

    /// Sessions so far.
    pub fn sessions(&self) -> usize {
        lock(&self.world.sessions).len()
    }

    /// Sockets so far.
    pub fn sockets(&self) -> usize {
        self.world.sockets.load(Ordering::Relaxed)
    }

    /// Whether the newest session was ended as it should be.
    pub fn finished(&self) -> bool {
        lock(&self.newest().state).finished
    }

    /// The request for the newest session.
    pub fn init(&self) -> Value {
        self.newest().init.clone()
    }

    /// The sound that the newest session took.
    pub fn sound(&self) -> Vec<i16> {
        samples(&lock(&self.newest().state).bytes)
    }

    /// Bytes that the newest session received and lost again with a socket.
    pub fn lost_bytes(&self) -> usize {
        let session = self.newest();
        let state = lock(&session.state);
        state.received - state.bytes.len()
    }

    fn newest(&self) -> Arc<Session> {
        lock(&self.world.newest).clone().expect("a session")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn samples(bytes: &[u8]) -> Vec<i16> {
    bytes.as_chunks().0.iter().map(|pair| i16::from_le_bytes(*pair)).collect()
}

async fn accept(listener: TcpListener, world: Arc<World>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                connections.spawn(serve(stream, world.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, world: Arc<World>) {
    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(1) if first == *b"G" => socket(stream, &world).await,
        Ok(1) => drop(request(stream, &world).await),
        _ => {}
    }
}

/// One HTTP request for a session.
async fn request(stream: TcpStream, world: &World) -> std::io::Result<()> {
    world.requests.fetch_add(1, Ordering::Relaxed);
    let mut stream = BufReader::new(stream);
    let (mut line, mut length, mut key) = (String::new(), 0, String::new());
    stream.read_line(&mut line).await?;
    let known = line.starts_with("POST /v2/live ") || line.starts_with("POST /v2/live?region=");
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 || line.trim().is_empty() {
            break;
        }
        let Some((name, value)) = line.trim().split_once(':') else { continue };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().unwrap_or(0),
            "x-gladia-key" => value.trim().clone_into(&mut key),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let refusal = {
        let mut faults = lock(&world.faults);
        faults.refusals.as_mut().filter(|(_, times)| *times > 0).map(|(status, times)| {
            *times -= 1;
            *status
        })
    };
    let (status, answer) = match (refusal, serde_json::from_slice::<Value>(&body)) {
        (Some(status), _) => (status, json!({"message": "refused"})),
        _ if !known => (404, json!({"message": "not found"})),
        _ if key != GladiaServer::KEY => (401, json!({"message": "gladia key not found"})),
        (_, Ok(init)) if init.is_object() => (201, session(init, world)),
        _ => (400, json!({"message": "no JSON"})),
    };
    let answer = answer.to_string();
    let length = answer.len();
    let head = format!(
        "HTTP/1.1 {status} Answer\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

fn session(init: Value, world: &World) -> Value {
    let (id, token) = (uuid::Uuid::new_v4().to_string(), uuid::Uuid::new_v4().simple().to_string());
    let url = format!("ws://{}/v2/live?token={token}", world.address);
    let session = Arc::new(Session { init, state: Mutex::default(), news: Notify::new() });
    lock(&world.sessions).insert(token, session.clone());
    *lock(&world.newest) = Some(session);
    json!({"id": id, "created_at": "2026-01-01T12:00:00.000Z", "url": url})
}

/// One WebSocket of a session.
#[expect(clippy::result_large_err, reason = "the callback's type is tungstenite's")]
async fn socket(stream: TcpStream, world: &Arc<World>) {
    let mut found = None;
    let find = |request: &Request, response: Response| {
        let token = request.uri().query().and_then(|query| query.strip_prefix("token="));
        found = token.and_then(|token| lock(&world.sessions).get(token).cloned());
        match &found {
            Some(session) if !lock(&session.state).finished => Ok(response),
            _ => {
                let mut refused = ErrorResponse::new(None);
                *refused.status_mut() = StatusCode::FORBIDDEN;
                Err(refused)
            }
        }
    };
    let accepted = accept_hdr_async(stream, find).await;
    let (Ok(socket), Some(session)) = (accepted, found) else { return };
    let connection = world.sockets.fetch_add(1, Ordering::Relaxed) + 1;
    {
        let mut state = lock(&session.state);
        (state.connection, state.drop) = (connection, None);
    }
    // Whoever came before has its place taken.
    session.news.notify_waiters();
    talk(socket, world, &session, connection).await;
}

async fn talk(
    mut socket: WebSocketStream<TcpStream>,
    world: &Arc<World>,
    session: &Arc<Session>,
    connection: usize,
) {
    let mut received = 0;
    // Sound that is not acknowledged yet, and when it will be.
    let mut pending: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    loop {
        let due = pending.front().map(|(due, _)| *due);
        let (outgoing, dropped, finished) = {
            let state = lock(&session.state);
            if state.connection != connection {
                return;
            }
            let silent = lock(&world.faults).silent;
            (state.outgoing.front().filter(|_| !silent).cloned(), state.drop, state.finished)
        };
        if let Some(code) = dropped {
            return leave(socket, code).await;
        }
        if let Some(message) = outgoing {
            if socket.send(Message::text(message.to_string())).await.is_err() {
                return;
            }
            lock(&session.state).outgoing.pop_front();
            continue;
        }
        if finished {
            return leave(socket, Some(1000)).await;
        }
        tokio::select! {
            () = session.news.notified() => {}
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                if let Some((_, bytes)) = pending.pop_front() {
                    take(world, session, &bytes);
                }
            }
            message = socket.next() => match message {
                Some(Ok(Message::Binary(bytes))) => {
                    received += bytes.len();
                    lock(&session.state).received += bytes.len();
                    if lock(&world.faults).drops_at(received) {
                        return leave(socket, None).await;
                    }
                    let delay = lock(&world.faults).delay;
                    pending.push_back((Instant::now() + delay, bytes.to_vec()));
                }
                Some(Ok(Message::Text(text))) => {
                    let message = serde_json::from_str::<Value>(&text).unwrap_or_default();
                    if message.get("type").is_some_and(|kind| kind == "stop_recording") {
                        for (_, bytes) in pending.drain(..) {
                            take(world, session, &bytes);
                        }
                        stop(world, session);
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
        }
    }
}

/// Ends a connection so that the other side reads all that was sent before.
async fn leave(mut socket: WebSocketStream<TcpStream>, code: Option<u16>) {
    match code {
        Some(code) => {
            let frame = CloseFrame { code: CloseCode::from(code), reason: "".into() };
            drop(socket.close(Some(frame)).await);
        }
        None => drop(socket.get_mut().shutdown().await),
    }
    let read_on = async {
        let mut buffer = [0; 16 * 1024];
        while let Ok(1..) = socket.get_mut().read(&mut buffer).await {}
    };
    drop(timeout(LEAVE_LIMIT, read_on).await);
}

/// Takes sound into the session, acknowledges it, and hears it.
fn take(world: &Arc<World>, session: &Arc<Session>, bytes: &[u8]) {
    let mut state = lock(&session.state);
    let from = state.bytes.len();
    state.bytes.extend_from_slice(bytes);
    let to = state.bytes.len();
    if switched_on(session, "receive_acknowledgments") {
        let second = 2.0 * f64::from(SAMPLE_RATE_HZ);
        let data = json!({
            "byte_range": [from, to],
            "time_range": [from as f64 / second, to as f64 / second],
        });
        state.outgoing.push_back(acknowledged("audio_chunk", data));
    }
    hear(session, &mut state);
    work(world, session, &mut state);
    drop(state);
    session.news.notify_one();
}

fn stop(world: &Arc<World>, session: &Arc<Session>) {
    let mut state = lock(&session.state);
    if !state.stopping {
        state.stopping = true;
        close_utterance(session, &mut state);
    }
    let duration = state.bytes.len() as f64 / 2.0 / f64::from(SAMPLE_RATE_HZ);
    let data = json!({"recording_duration": duration, "recording_left_to_process": 0.0});
    state.outgoing.push_back(acknowledged("stop_recording", data));
    work(world, session, &mut state);
    drop(state);
    session.news.notify_one();
}

/// Hears the frames that are whole.
fn hear(session: &Session, state: &mut State) {
    loop {
        let at = state.ear.frames * FRAME;
        let Some(frame) = state.bytes.get(at * 2..(at + FRAME) * 2).map(samples) else { return };
        let power = frame.iter().map(|sample| f64::from(*sample).powi(2)).sum::<f64>() / FRAME as f64;
        let (voiced, index) = (power > VOICED_POWER, state.ear.frames);
        state.ear.frames += 1;
        match &mut state.ear.open {
            None if voiced => {
                let start = index.saturating_sub(PREROLL_FRAMES).max(state.ear.closed);
                let sound = state.bytes.get(start * FRAME * 2..(index + 1) * FRAME * 2).map(samples);
                state.ear.open = Some((start, sound.unwrap_or_default(), 0));
                say_speech(session, state, "speech_start", start);
            }
            None => {}
            Some((start, sound, silence)) => {
                sound.extend(frame);
                *silence = if voiced { 0 } else { *silence + 1 };
                let frames = sound.len() / FRAME;
                if *silence >= endpointing(session) || frames >= UTTERANCE_FRAMES_MAX {
                    close_utterance(session, state);
                } else if frames.is_multiple_of(PARTIAL_FRAMES) && state.jobs.is_empty() {
                    let (number, start, pcm) = (state.ear.number, *start, sound.clone());
                    state.jobs.push_back(Job { number, is_final: false, start, pcm });
                }
            }
        }
    }
}

fn close_utterance(session: &Session, state: &mut State) {
    let Some((start, pcm, _)) = state.ear.open.take() else { return };
    say_speech(session, state, "speech_end", state.ear.frames);
    state.jobs.push_back(Job { number: state.ear.number, is_final: true, start, pcm });
    state.ear.number += 1;
    state.ear.closed = state.ear.frames;
}

/// Frames of silence that end an utterance.
fn endpointing(session: &Session) -> usize {
    let seconds = session.init.get("endpointing").and_then(Value::as_f64).unwrap_or(0.05);
    ((seconds * f64::from(SAMPLE_RATE_HZ)) as usize / FRAME).max(1)
}

/// Has the jobs done, one after another, by one thread at a time.
fn work(world: &Arc<World>, session: &Arc<Session>, state: &mut State) {
    if std::mem::replace(&mut state.working, true) {
        return;
    }
    let (recognize, session) = (world.recognize.clone(), session.clone());
    tokio::task::spawn_blocking(move || {
        loop {
            let job = lock(&session.state).jobs.pop_front();
            let text = job.as_ref().map(|job| recognize(&job.pcm));
            let mut state = lock(&session.state);
            match job.zip(text) {
                Some((job, text)) => say(&session, &mut state, &job, &text),
                None if state.jobs.is_empty() => {
                    state.working = false;
                    if state.stopping && !state.finished {
                        state.finished = true;
                        if switched_on(&session, "receive_lifecycle_events") {
                            let duration = state.bytes.len() as f64 / 2.0 / f64::from(SAMPLE_RATE_HZ);
                            let data = json!({"recording_duration": duration});
                            state.outgoing.push_back(message("end_recording", data));
                            state.outgoing.push_back(message("end_session", Value::Null));
                        }
                    }
                    drop(state);
                    session.news.notify_one();
                    return;
                }
                None => {}
            }
            drop(state);
            session.news.notify_one();
        }
    });
}

/// A transcript, with the times of its words spread over it.
fn say(session: &Session, state: &mut State, job: &Job, text: &str) {
    let start = Samples::of(job.start * FRAME).seconds();
    let end = start + Samples::of(job.pcm.len()).seconds();
    let words: Vec<&str> = text.split_whitespace().collect();
    let step = (end - start) / words.len().max(1) as f64;
    let word = |(index, word): (usize, &&str)| {
        let begin = start + step * index as f64;
        json!({"word": format!(" {word}"), "start": begin, "end": begin + step, "confidence": 0.9})
    };
    let words: Vec<Value> = words.iter().enumerate().map(word).collect();
    let language =
        session.init.pointer("/language_config/languages/0").and_then(Value::as_str).unwrap_or("en");
    let data = json!({"id": format!("00_{:08}", job.number), "is_final": job.is_final, "utterance": {
        "text": text, "start": start, "end": end, "language": language, "confidence": 0.9, "channel": 0,
        "words": words
    }});
    let transcript = message("transcript", data);
    let switch = if job.is_final { "receive_final_transcripts" } else { "receive_partial_transcripts" };
    if switched_on(session, switch) {
        state.outgoing.push_back(transcript.clone());
    }
    if job.is_final {
        state.last_final = Some(transcript);
    }
}

fn say_speech(session: &Session, state: &mut State, kind: &str, frame: usize) {
    if switched_on(session, "receive_speech_events") {
        let time = Samples::of(frame * FRAME).seconds();
        state.outgoing.push_back(message(kind, json!({"time": time, "channel": 0})));
    }
}

fn message(kind: &str, data: Value) -> Value {
    json!({"type": kind, "session_id": "stand-in", "created_at": "2026-01-01T12:00:00.000Z", "data": data})
}

fn acknowledged(kind: &str, data: Value) -> Value {
    let mut message = message(kind, data);
    if let Some(message) = message.as_object_mut() {
        message.insert("acknowledged".to_owned(), true.into());
        message.insert("error".to_owned(), Value::Null);
    }
    message
}

/// Whether the client asked for such messages; as Gladia has it by default otherwise.
fn switched_on(session: &Session, switch: &str) -> bool {
    let default = !matches!(switch, "receive_partial_transcripts" | "receive_lifecycle_events");
    session.init.pointer(&format!("/messages_config/{switch}")).and_then(Value::as_bool).unwrap_or(default)
}
