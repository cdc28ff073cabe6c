//! Takes calls: who may, whether there is room, and the first message.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use auth::ServiceKeys;
use futures_util::{Stream, stream};
use lifecycle::Lifecycle;
use model::{Clock, EngineName, Samples, StreamId};
use outbox::Bell;
use rpc::{
    INTERNAL_TOKEN, MESSAGES_WAITING_MAX, Source, WireError,
    wire::{
        self, Opened, RecognizeIn, RecognizeRequest, RecognizeResponse, Request as Incoming,
        Response as Outgoing, TranscribeRequest, TranscribeResponse, TranslateRequest, TranslateResponse,
    },
};
use storage::{NewStream, OpenStream, Storage, StorageError, StreamLimits};
use telemetry::Tracer;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use translate::{Text, Untranslatable};

use crate::{
    WorkerSettings,
    capacity::{Place, RETRY_AFTER},
    finals::Finals,
    hearing::Engines,
    languages::Unserved,
    meter::Meter,
    partials::Partials,
    recognition,
    speakers::Speakers,
    stream::{Means, StreamTask},
    traces::Traces,
    translating::{Targets, Teller, Translations},
};

/// How long a caller may take to send `open`.
const OPEN_LIMIT: Duration = Duration::from_secs(5);

/// Recordings that are heard at a time; more wait at their senders.
const RECORDINGS_MAX: usize = 8;

/// Streams by how their opening went.
const STREAMS_TOTAL: &str = "worker_streams_opened_total";
/// Values of the label `outcome`.
const OUTCOMES: [&str; 3] = ["opened", "refused", "failed"];

pub(crate) fn register_metrics() {
    metrics::describe_counter!(STREAMS_TOTAL, "Streams by how their opening went");
    for outcome in OUTCOMES {
        metrics::counter!(STREAMS_TOTAL, "outcome" => outcome).absolute(0);
    }
}

/// The handler of `parley.transcription.v1`.
pub(crate) struct Service {
    internal_tokens: ServiceKeys,
    engines: Engines,
    /// Places for recordings.
    recordings: Arc<Semaphore>,
    owners: Owners,
    linger: Duration,
    limits: StreamLimits,
    speaker_lag_ms: i64,
    storage: Storage,
    bell: Bell,
    partials: Partials,
    translations: Translations,
    tracer: Tracer,
    life: Lifecycle,
    clock: Clock,
}

impl Service {
    pub(crate) fn new(
        settings: &WorkerSettings,
        Teller { storage, bell, clock }: Teller,
        partials: Partials,
        engines: Engines,
        translations: Translations,
        tracer: Tracer,
        life: Lifecycle,
    ) -> Self {
        Self {
            internal_tokens: settings.internal_tokens.clone(),
            engines,
            recordings: Arc::new(Semaphore::new(RECORDINGS_MAX)),
            owners: Owners::default(),
            linger: settings.linger,
            limits: settings.limits,
            speaker_lag_ms: settings.speaker_lag_ms,
            storage,
            bell,
            partials,
            translations,
            tracer,
            life,
            clock,
        }
    }

    fn authorize<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let token = request.metadata().get(INTERNAL_TOKEN).and_then(|token| token.to_str().ok());
        if self.internal_tokens.is_empty() || token.is_some_and(|token| self.internal_tokens.accepts(token)) {
            return Ok(());
        }
        Err(Status::unauthenticated("INTERNAL_TOKEN of caller and worker differ"))
    }

    fn admit(&self, language: Option<&str>) -> Result<Place, Status> {
        if self.life.draining().is_cancelled() {
            return Err(Status::unavailable("draining"));
        }
        self.engines.take(language).ok_or_else(|| wire::busy(RETRY_AFTER))
    }

    /// Takes the stream over in the database; from here on nobody else can write to it.
    async fn take_over(&self, source: &Source) -> Result<OpenStream, Status> {
        let row = NewStream {
            id: source.stream,
            session: source.session.clone(),
            speaker: source.speaker.clone(),
            started_at: source.started_at,
            user: source.user.clone(),
            limits: self.limits,
            now: self.clock.now(),
        };
        self.storage.open_stream(&row).await.map_err(|error| storage_status(&error))
    }

    fn means(&self, source: &Source, open: &OpenStream) -> Means {
        let (storage, clock) = (self.storage.clone(), self.clock.clone());
        // Set right once it is known which engine hears.
        let engine = EngineName::Moonshine;
        let speakers = source.is_room.then(|| {
            let (session, room) = (source.session.clone(), source.speaker.clone());
            Speakers::new(storage.clone(), session, open.started_at, self.speaker_lag_ms, room)
        });
        Means {
            engines: self.engines.clone(),
            finals: Finals::new(
                source,
                open,
                storage.clone(),
                self.bell.clone(),
                Targets::new(&self.translations, source),
                self.tracer.clone(),
                clock.clone(),
            ),
            meter: Meter::new(source.stream, open, engine, storage, clock.clone()),
            partials: self.partials.clone(),
            traces: Traces::new(self.tracer.clone()),
            speakers,
            clock,
        }
    }
}

fn storage_status(error: &StorageError) -> Status {
    wire::status(error.fault(), error.to_string())
}

#[tonic::async_trait]
impl wire::Transcription for Service {
    type RecognizeStream = Pin<Box<dyn Stream<Item = Result<RecognizeResponse, Status>> + Send>>;
    type TranscribeStream = Pin<Box<dyn Stream<Item = Result<TranscribeResponse, Status>> + Send>>;

    async fn transcribe(
        &self,
        request: Request<Streaming<TranscribeRequest>>,
    ) -> Result<Response<Self::TranscribeStream>, Status> {
        self.authorize(&request)?;
        let mut incoming = request.into_inner();
        let (mut source, first) = first_message(&mut incoming).await?;
        if source.language.is_none() {
            let session = self.storage.session(&source.session).await;
            let session = session.map_err(|error| storage_status(&error)).inspect_err(|_| count("failed"))?;
            source.language = session.and_then(|session| session.language);
        }
        self.engines.serve(source.language.as_deref()).map_err(unserved)?;
        let place = self.admit(source.language.as_deref()).inspect_err(|_| count("refused"))?;
        let ownership = self.owners.own(source.stream);
        let open = self.take_over(&source).await.inspect_err(|_| count("failed"))?;
        let resume_at = first.max(open.stored_end);
        count("opened");

        let (outgoing, responses) = mpsc::channel(MESSAGES_WAITING_MAX);
        let opened = Outgoing::Opened(Opened { resume_at: resume_at.0, room: self.engines.room() });
        // The channel was just made and has room.
        let _ = outgoing.try_send(Ok(TranscribeResponse { message: Some(opened) }));
        let means = self.means(&source, &open);
        let task = StreamTask::new(source, resume_at, &open, means).map_err(unserved)?;
        let (life, linger) = (self.life.clone(), self.linger);
        self.life.spawn(async move {
            let _place = place;
            task.run(incoming, outgoing, &life, ownership, linger).await;
        });
        Ok(Response::new(answers(responses)))
    }

    async fn recognize(
        &self,
        request: Request<Streaming<RecognizeRequest>>,
    ) -> Result<Response<Self::RecognizeStream>, Status> {
        self.authorize(&request)?;
        let mut incoming = request.into_inner();
        let first = tokio::time::timeout(OPEN_LIMIT, incoming.message()).await;
        let first = first.map_err(|_| WireError::Order("no begin within 5 s"))??;
        let Some(RecognizeRequest { message: Some(RecognizeIn::Begin(begin)) }) = first else {
            return Err(WireError::Order("the first message must be begin").into());
        };
        let wanted = rpc::recognition::Wanted::from_begin(begin)?;
        let settings = recognition::settings(&wanted);
        let hearing = self.engines.hear_recording(&settings, wanted.language.as_deref()).map_err(unserved)?;
        if self.life.draining().is_cancelled() {
            return Err(Status::unavailable("draining"));
        }
        let place = Arc::clone(&self.recordings).try_acquire_owned().map_err(|_| wire::busy(RETRY_AFTER))?;
        let (outgoing, responses) = mpsc::channel(MESSAGES_WAITING_MAX);
        let stopping = self.life.stopping().clone();
        self.life.spawn(async move {
            let _place = place;
            recognition::recognize(hearing, wanted, incoming, outgoing, stopping).await;
        });
        Ok(Response::new(answers(responses)))
    }

    async fn translate(
        &self,
        request: Request<TranslateRequest>,
    ) -> Result<Response<TranslateResponse>, Status> {
        self.authorize(&request)?;
        let TranslateRequest { text, source, target } = request.into_inner();
        if text.len() > rpc::recognition::TEXT_BYTES_MAX || text.trim().is_empty() {
            return Err(WireError::Order("text must have 1 to 16,000 bytes").into());
        }
        let source = Some(source.as_str()).filter(|source| translate::primary(source).is_some());
        let text = Text { text: &text, source, target: &target };
        let translated = self.translations.translate(text).await.map_err(untranslated)?;
        let source = translated.source.clone().unwrap_or_default();
        Ok(Response::new(TranslateResponse { text: translated.text.clone(), source }))
    }
}

fn answers<T: Send + 'static>(
    answers: mpsc::Receiver<Result<T, Status>>,
) -> Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>> {
    Box::pin(stream::unfold(answers, |mut answers| async move {
        answers.recv().await.map(|answer| (answer, answers))
    }))
}

/// A language that nobody serves; the text is for the user.
pub(crate) fn unserved(unserved: Unserved) -> Status {
    Status::out_of_range(unserved.to_string())
}

/// Why a text was not translated; the text is for the user.
fn untranslated(failure: Untranslatable) -> Status {
    let text = failure.to_string();
    match failure {
        Untranslatable::Unserved(_) => Status::out_of_range(text),
        Untranslatable::TooLate => Status::deadline_exceeded(text),
        Untranslatable::Away { .. } => Status::unavailable(text),
        Untranslatable::Refused => Status::invalid_argument(text),
    }
}

async fn first_message(incoming: &mut Streaming<TranscribeRequest>) -> Result<(Source, Samples), Status> {
    let first = tokio::time::timeout(OPEN_LIMIT, incoming.message()).await;
    match first.map_err(|_| WireError::Order("no open within 5 s"))?? {
        Some(TranscribeRequest { message: Some(Incoming::Open(open)) }) => Ok(Source::from_open(open)?),
        _ => Err(WireError::Order("the first message must be open").into()),
    }
}

fn count(outcome: &'static str) {
    metrics::counter!(STREAMS_TOTAL, "outcome" => outcome).increment(1);
}

/// Which call of this process has which stream, so that a newer call ends the older one at once instead of at its
/// next write.
#[derive(Clone, Default)]
struct Owners(Arc<Mutex<HashMap<StreamId, CancellationToken>>>);

/// A call's hold on a stream.
pub(crate) struct Ownership {
    owners: Owners,
    stream: StreamId,
    lost: CancellationToken,
}

impl Owners {
    fn own(&self, stream: StreamId) -> Ownership {
        let lost = CancellationToken::new();
        let mut owners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(older) = owners.insert(stream, lost.clone()) {
            older.cancel();
        }
        Ownership { owners: self.clone(), stream, lost }
    }
}

impl Ownership {
    /// Cancelled when a newer call has the stream.
    pub(crate) fn lost(&self) -> &CancellationToken {
        &self.lost
    }
}

impl Drop for Ownership {
    fn drop(&mut self) {
        if !self.lost.is_cancelled() {
            self.owners.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.stream);
        }
    }
}
