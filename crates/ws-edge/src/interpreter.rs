//! System D's WebSockets, `/ws` of the door `TRANSLATE_PORT`: clients of its faster-whisper service and of the server
//! before that, told apart by their `init`. One task each.
//!
//! A binary message is sniffed. A complete WAV, Ogg, FLAC or MP3 file is a recording, heard at once and answered with
//! one `transcription`. Anything else is a piece of what is being said: samples without a header, or WebM as
//! `MediaRecorder` cuts it, of which only the first piece has a header.

mod protocol;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use audio::{Encoding, Format};
use bytes::Bytes;
use futures_util::future::{BoxFuture, OptionFuture};
use http::{HeaderMap, header};
use model::{Caption, FaultKind, Speaker, Timestamp};
use rpc::{
    WhenFull,
    recognition::{self, Recognition, RecognizeError, Wanted},
};
use tokio::time::Instant;
use tungstenite::Utf8Bytes;
use uuid::Uuid;

use crate::{
    Edge, answers,
    close::Close,
    ending::{End, Flow, end, end_with, go_on},
    limits::TooOften,
    metrics::Refused,
    proof::{self, Caller, NotAdmitted},
    pulse::{Beat, Leaving, Pulse, Rhythm},
    recording,
    socket::{Received, Socket},
    source::Command,
    speaking::{self, Owner, Speaking, Told, Wish},
};

use protocol::{Init, Message};

/// Largest message, in bytes: a whole recording, as over HTTP, or its base64.
pub(crate) const MESSAGE_BYTES_MAX: usize = 25 * 1024 * 1024 * 4 / 3 + 1024;

/// What waits to be done one after the other; a client that asks for more is not read.
const JOBS_MAX: usize = 16;

/// The same in bytes; one larger recording may be among them.
const JOBS_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How long a client may take to say what it wants, or to send sound without saying it.
const INIT_LIMIT: Duration = Duration::from_secs(30);

/// After so long without a piece a WebM recording is over, as far as anybody knows.
const WEBM_QUIET: Duration = Duration::from_secs(1);

/// The same for samples, of which clients send a second's worth at a time.
const SAMPLES_QUIET: Duration = Duration::from_millis(2_500);

/// How long a WebM recording that is over may have nothing to show before the client is told that nobody spoke.
const NOTHING_AFTER: Duration = Duration::from_secs(5);

/// When sound is offered to the workers again after they had no room.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Messages in a row that cannot be followed before the socket closes.
const BAD_MESSAGES_MAX: u32 = 20;

const PINGS_UNANSWERED_MAX: u32 = 3;

/// What a handshake settled.
pub(crate) struct Permit {
    owner: Owner,
    expires_at: Timestamp,
}

/// Decides about an upgrade by its headers and `token`.
pub(crate) fn decide(edge: &Edge, headers: &HeaderMap, token: Option<&str>) -> Result<Permit, NotAdmitted> {
    if !answers::is_allowed(&edge.settings.origins, headers.get(header::ORIGIN)) {
        return Err(NotAdmitted::Wrong);
    }
    proof::admit_translating(edge, headers, token)?;
    if let Ok(Caller::Participant(principal)) = proof::caller(edge, headers, token) {
        if !principal.may_speak(principal.session()) {
            return Err(NotAdmitted::Wrong);
        }
        edge.sessions.present(&principal);
        let speaker =
            Speaker { identity: principal.identity().clone(), name: principal.name().map(str::to_owned) };
        let owner =
            Owner { session: principal.session().clone(), speaker, user: Some(principal.user().clone()) };
        return Ok(Permit { owner, expires_at: principal.expires_at() });
    }
    let name = format!("live-{}", Uuid::new_v4());
    let (Ok(session), Ok(identity)) = (name.parse(), name.parse()) else { return Err(NotAdmitted::Wrong) };
    let owner = Owner { session, speaker: Speaker { identity, name: None }, user: None };
    Ok(Permit { owner, expires_at: Timestamp(i64::MAX) })
}
/// Serves a client until it ends.
pub(crate) async fn serve(edge: Arc<Edge>, socket: Socket, permit: Permit) {
    let _open = edge.tally.connection();
    let began = Instant::now();
    let rhythm = Rhythm { interval: edge.settings.ping_interval, unanswered_max: PINGS_UNANSWERED_MAX };
    let Permit { owner, expires_at } = permit;
    let mut interpreter = Box::new(Interpreter {
        speaking: Speaking::new(&edge, owner.clone()),
        pulse: Pulse::new(rhythm, expires_at, &edge.clock),
        edge: edge.clone(),
        socket,
        owner,
        init: Init::default(),
        init_by: Some(began + INIT_LIMIT),
        is_webm: false,
        quiet_at: None,
        nothing_at: None,
        is_unserved: false,
        again_at: None,
        jobs: VecDeque::new(),
        job: None,
        early_until: None,
        bad: 0,
    });
    let outcome = interpreter.run().await;
    // What is being decoded for it is given up with it; what it has said is finished.
    let Interpreter { socket, speaking, .. } = *interpreter;
    drop(speaking);
    let code = outcome.code();
    if let End::Close(close, last) = outcome {
        edge.tally.closed(close);
        Box::pin(socket.close(last, close, edge.life.stopping())).await;
    }
    tracing::info!(code, seconds = began.elapsed().as_secs(), "interpreting ended");
}

struct Interpreter {
    edge: Arc<Edge>,
    socket: Socket,
    owner: Owner,
    speaking: Speaking,
    pulse: Pulse,
    init: Init,
    /// When a client that has said nothing is sent away.
    init_by: Option<Instant>,
    /// Whether what is being said comes as WebM.
    is_webm: bool,
    /// When what was said is taken for all.
    quiet_at: Option<Instant>,
    /// When a client is told that nobody spoke in its recording.
    nothing_at: Option<Instant>,
    /// Nobody serves the language: sound is passed over until the next `init`.
    is_unserved: bool,
    /// No worker has room until then.
    again_at: Option<Instant>,
    jobs: VecDeque<Job>,
    /// What is being done: its answers.
    job: Option<BoxFuture<'static, Vec<Utf8Bytes>>>,
    /// The client has sent too much; it is not read until then.
    early_until: Option<Instant>,
    bad: u32,
}

/// What is done apart from what is being said, one after the other.
enum Job {
    /// Hears a whole recording.
    Recording(Bytes),
    /// Finds out whether a language is served.
    Language(Option<String>),
}

impl Job {
    fn bytes(&self) -> usize {
        match self {
            Self::Recording(bytes) => bytes.len(),
            Self::Language(_) => 0,
        }
    }
}

impl Interpreter {
    async fn run(&mut self) -> End {
        if let Flow::Break(end) = self.send(protocol::connected()).await {
            return end;
        }
        loop {
            let reads = self.reads();
            let next_at = self.next_at();
            let Self { edge, socket, speaking, pulse, job, .. } = self;
            let leaving = pulse.leaving;
            let flow = tokio::select! {
                received = socket.receive(), if reads => self.hear(received).await,
                told = speaking.next() => self.told(told).await,
                Some(answers) = OptionFuture::from(job.as_mut()) => {
                    self.job = None;
                    self.begin_job();
                    let flow = self.send_all(answers).await;
                    if flow.is_continue() { self.leave_when_done() } else { flow }
                }
                () = pulse.wait(next_at) => self.time().await,
                () = edge.life.draining().cancelled(), if leaving == Leaving::No => {
                    self.pulse.leaving = Leaving::Draining;
                    self.speaking.stop();
                    self.leave_when_done()
                }
                () = edge.life.stopping().cancelled() => return End::Close(Close::GoingAway, None),
            };
            if let Flow::Break(end) = flow {
                return end;
            }
        }
    }

    fn reads(&self) -> bool {
        let waiting: usize = self.jobs.iter().map(Job::bytes).sum();
        let has_room = self.jobs.len() < JOBS_MAX && waiting < JOBS_BYTES_MAX;
        has_room && !self.speaking.is_blocked() && self.early_until.is_none()
    }

    fn next_at(&self) -> Option<Instant> {
        let due = [self.init_by, self.quiet_at, self.nothing_at, self.early_until];
        due.into_iter().flatten().min()
    }

    async fn hear(&mut self, received: Received) -> Flow {
        self.pulse.heard();
        match &received {
            Received::Text(_) | Received::Binary(_) => {
                self.edge.tally.received();
                let allowed = self.edge.limits.frame(&self.owner.session, &self.owner.speaker.identity);
                if let Err(TooOften { retry_after }) = allowed {
                    self.early_until = Some(Instant::now() + retry_after);
                }
            }
            _ => {}
        }
        match received {
            Received::Alive => go_on(),
            Received::Gone => Flow::Break(End::Gone),
            Received::Broken(close) => {
                let error = match close {
                    Close::TooBig => Some("File too large. Maximum size is 25MB"),
                    _ => None,
                };
                let error = error.map(|text| protocol::error(&self.init, FaultKind::TooLarge.label(), text));
                Flow::Break(End::Close(close, error))
            }
            Received::Binary(bytes) => self.sound(bytes).await,
            Received::Text(text) => match Message::parse(&text) {
                Ok(message) => {
                    self.bad = 0;
                    self.message(message).await
                }
                Err(error) => self.refuse(&error.to_string()).await,
            },
        }
    }

    async fn refuse(&mut self, text: &str) -> Flow {
        self.edge.tally.refused(Refused::Invalid);
        self.bad += 1;
        let error = protocol::error(&self.init, FaultKind::Caller.label(), text);
        if self.bad > BAD_MESSAGES_MAX {
            return end_with(Close::Policy, error);
        }
        self.send(error).await
    }

    async fn message(&mut self, message: Message) -> Flow {
        match message {
            Message::Init(init) => self.init(init).await,
            Message::Audio(bytes) => self.sound(bytes).await,
            Message::Ping => self.send(protocol::pong()).await,
            Message::LanguageTest(language) => {
                self.jobs.push_back(Job::Language(language));
                self.begin_job();
                go_on()
            }
            Message::Other => {
                self.edge.tally.refused(Refused::Unknown);
                go_on()
            }
        }
    }

    /// The first `init`, or another on the same socket: what is being said goes on in another language, or as another
    /// stream where that cannot be changed.
    async fn init(&mut self, init: Init) -> Flow {
        if format(&init).is_none() {
            return self.refuse(&protocol::BadMessage::Config.to_string()).await;
        }
        let before = std::mem::replace(&mut self.init, init);
        (self.init_by, self.is_unserved, self.again_at) = (None, false, None);
        if self.speaking.is_open() {
            let same = |init: &Init| (init.target.clone(), init.sample_rate_hz, init.channels);
            if same(&before) != same(&self.init) {
                self.speaking.let_go();
                self.is_webm = false;
            } else if before.language != self.init.language {
                let language = self.init.language.clone().unwrap_or_else(|| "auto".to_owned());
                self.speaking.command(Command::Speak(language));
            }
        }
        self.send(protocol::ready(&self.init)).await
    }

    async fn sound(&mut self, bytes: Bytes) -> Flow {
        self.init_by = None;
        if bytes.is_empty() || self.pulse.leaving != Leaving::No {
            return go_on();
        }
        let goes_on = self.is_webm && self.speaking.is_open();
        match audio::guess(&bytes, goes_on) {
            Some(Encoding::Wav | Encoding::Ogg | Encoding::Flac | Encoding::Mp3)
                if self.init.dialect == protocol::Dialect::One =>
            {
                self.bad = 0;
                self.jobs.push_back(Job::Recording(bytes));
                self.begin_job();
                return go_on();
            }
            Some(Encoding::Webm) if !goes_on && !bytes.starts_with(EBML) => {
                let text = "a piece of a WebM recording without its beginning: record anew";
                return self.refuse(text).await;
            }
            Some(Encoding::Webm) => self.is_webm = true,
            _ if goes_on => {}
            _ => self.is_webm = false,
        }
        self.speak(bytes);
        go_on()
    }

    fn speak(&mut self, bytes: Bytes) {
        let now = Instant::now();
        if self.is_unserved || self.again_at.is_some_and(|at| now < at) {
            return;
        }
        self.again_at = None;
        self.nothing_at = None;
        self.quiet_at = Some(now + if self.is_webm { WEBM_QUIET } else { SAMPLES_QUIET });
        let wish = Wish {
            format: format(&self.init).unwrap_or_default(),
            language: Some(self.init.language.clone().unwrap_or_else(|| "auto".to_owned())),
            translate_to: self.init.target.iter().cloned().collect(),
            endpointing_ms: None,
            // These clients have a microphone, and go on whatever we do.
            when_full: WhenFull::DropOldest,
        };
        self.speaking.sound(bytes, &wish);
    }

    /// Begins what waits, if nothing is being done.
    fn begin_job(&mut self) {
        if self.job.is_some() {
            return;
        }
        let Some(job) = self.jobs.pop_front() else { return };
        let (edge, init) = (self.edge.clone(), self.init.clone());
        self.job = Some(match job {
            Job::Recording(bytes) => Box::pin(hear_recording(edge, init, bytes)),
            Job::Language(language) => Box::pin(test_language(edge, init, language)),
        });
    }

    fn leave_when_done(&self) -> Flow {
        let is_done = self.job.is_none() && self.jobs.is_empty() && !self.speaking.is_open();
        if self.pulse.leaving != Leaving::No && is_done { end(Close::GoingAway) } else { go_on() }
    }

    async fn told(&mut self, told: Told) -> Flow {
        match told {
            Told::Caption(update) => match update.as_caption() {
                Some(caption) => self.caption(caption).await,
                None => go_on(),
            },
            Told::Acknowledged(_) => go_on(),
            Told::Lost(lost) => self.send(protocol::error(&self.init, "gap", &speaking::lost(lost))).await,
            Told::Unserved(message) => self.send(protocol::error(&self.init, "unserved", &message)).await,
            Told::Ended(_) if self.pulse.leaving == Leaving::No => go_on(),
            Told::Ended(_) => end(Close::GoingAway),
            Told::TooSlow => end(Close::SlowFollower),
            Told::Failed { fault, message, retry_after } => {
                (self.quiet_at, self.nothing_at, self.is_webm) = (None, None, false);
                match fault {
                    FaultKind::BadData => return self.refuse(&message).await,
                    FaultKind::Caller => self.is_unserved = true,
                    _ => self.again_at = Some(Instant::now() + retry_after.unwrap_or(RETRY_AFTER)),
                }
                self.send(protocol::error(&self.init, fault.label(), &message)).await?;
                self.leave_when_done()
            }
        }
    }

    async fn caption(&mut self, caption: &Caption) -> Flow {
        let text = match caption {
            Caption::Partial(partial) => {
                // Somebody does speak.
                if self.nothing_at.is_some() && !partial.text.is_empty() {
                    self.nothing_at = Some(Instant::now() + NOTHING_AFTER);
                }
                protocol::partial(&self.init, partial)
            }
            Caption::Final(segment) if segment.revision > 0 => None,
            Caption::Final(segment) => {
                self.bad = 0;
                self.nothing_at = None;
                Some(protocol::finished(&self.init, segment))
            }
            Caption::Translation(translation) => {
                let text = translation.outcome.as_ref().ok();
                let source = self.init.language.as_deref();
                text.map(|text| protocol::translation(text, source, &translation.language))
            }
        };
        self.edge.tally.delivered(u64::from(text.is_some()));
        self.send_all(text).await
    }

    async fn time(&mut self) -> Flow {
        let now = Instant::now();
        let is_due = |at: &mut Instant| *at <= now;
        if self.pulse.has_expired(&self.edge.clock) {
            let error = protocol::error(&self.init, FaultKind::Expired.label(), "the token has expired");
            return end_with(Close::Expired, error);
        }
        if self.init_by.take_if(is_due).is_some() {
            return end(Close::NoInit);
        }
        self.early_until.take_if(is_due);
        if !self.speaking.is_blocked() && self.quiet_at.take_if(is_due).is_some() {
            self.speaking.command(Command::Finalize);
            self.nothing_at = self.is_webm.then(|| now + NOTHING_AFTER);
        } else if let Some(at) = &mut self.quiet_at
            && *at <= now
        {
            *at = now + WEBM_QUIET;
        }
        if self.nothing_at.take_if(is_due).is_some() {
            self.send(protocol::nothing(&self.init)).await?;
        }
        match self.pulse.beat(!self.reads()) {
            None => go_on(),
            Some(Beat::Dead) => end(Close::Heartbeat),
            Some(Beat::Ping) => match self.socket.ping().await {
                Ok(()) => go_on(),
                Err(unsent) => Flow::Break(unsent.into()),
            },
        }
    }

    async fn send(&mut self, text: Utf8Bytes) -> Flow {
        self.send_all([text]).await
    }

    async fn send_all(&mut self, texts: impl IntoIterator<Item = Utf8Bytes>) -> Flow {
        match self.socket.send(texts).await {
            Ok(()) => go_on(),
            Err(unsent) => {
                self.edge.tally.undelivered();
                Flow::Break(unsent.into())
            }
        }
    }
}

/// How a WebM recording begins (RFC 8794).
const EBML: &[u8] = &[0x1a, 0x45, 0xdf, 0xa3];

/// What samples without a header are, unless the sound says itself; `None` for what no sound can be.
fn format(init: &Init) -> Option<Format> {
    let rate = init.sample_rate_hz.unwrap_or(model::SAMPLE_RATE_HZ);
    Format::new(Encoding::Auto, rate, init.channels.unwrap_or(1)).ok()
}

/// Hears a whole recording: one `transcription`, or one `error`; and its translation.
async fn hear_recording(edge: Arc<Edge>, init: Init, bytes: Bytes) -> Vec<Utf8Bytes> {
    let heard = match recording::transcribe(&edge, bytes, init.language.clone()).await {
        Ok(heard) => heard,
        Err((fault, message)) => return vec![protocol::error(&init, fault.label(), &message)],
    };
    let mut answers = vec![protocol::recording(&heard)];
    let source = heard.language.as_deref();
    if let Some(target) =
        init.target.as_deref().filter(|target| source != Some(*target) && !heard.text.is_empty())
    {
        answers.push(match recognition::translate(&edge.workers, &heard.text, source, target).await {
            Ok(translated) => protocol::translation(&translated.text, source, target),
            Err(error) => protocol::error(&init, error.fault().label(), &error.to_string()),
        });
    }
    answers
}

/// Asks a worker whether a language is served.
async fn test_language(edge: Arc<Edge>, init: Init, language: Option<String>) -> Vec<Utf8Bytes> {
    let wanted = Wanted { language: language.clone(), ..Wanted::default() };
    let begun = Recognition::begin(&edge.workers, &wanted).await;
    vec![match begun {
        Ok(_) => protocol::language_support(true, language.as_deref()),
        Err(RecognizeError::Unserved(_)) => protocol::language_support(false, language.as_deref()),
        Err(error) => protocol::error(&init, error.fault().label(), &error.to_string()),
    }]
}
