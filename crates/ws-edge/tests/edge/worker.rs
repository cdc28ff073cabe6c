//! A transcription worker that hears everything and understands nothing.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{Stream, stream};
use lifecycle::Lifecycle;
use model::Clock;
use rpc::wire::{
    Acknowledged, Ended, Opened, RecognizeRequest, RecognizeResponse, Request as Incoming,
    Response as Outgoing, Source, TranscribeRequest, TranscribeResponse, Transcription, TranscriptionServer,
    TranslateRequest, TranslateResponse, busy, from_audio, status,
};
use storage::{NewStream, Storage};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming, transport::server::TcpIncoming};

/// What it does with streams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mood {
    /// Acknowledges what it hears.
    #[default]
    Willing,
    /// Has no capacity.
    Busy,
    /// Takes the stream and never reads it.
    Deaf,
    /// Hears, and acknowledges nothing until the end.
    Hoarding,
    /// Finds out that another worker has the stream.
    Outrun,
}

#[derive(Default)]
pub struct Heard {
    pub mood: Mood,
    pub sources: Vec<Source>,
    /// Where each call goes on.
    pub resumed_at: Vec<u64>,
    pub samples: Vec<i16>,
    pub finalized: usize,
    pub ended: usize,
}

/// Clones are the same worker.
#[derive(Clone)]
pub struct Worker {
    heard: Arc<Mutex<Heard>>,
    life: Lifecycle,
    storage: Storage,
}

impl Worker {
    pub async fn start(life: &Lifecycle, storage: Storage) -> (Self, SocketAddr) {
        let worker = Self { heard: Arc::default(), life: life.clone(), storage };
        let listener = lifecycle::listen("test", ([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (service, stopping) = (TranscriptionServer::new(worker.clone()), life.stopping().clone());
        life.spawn(async move {
            let incoming = TcpIncoming::from(listener);
            let server = tonic::transport::Server::builder();
            server.serve_with_incoming_shutdown(service, incoming, stopping.cancelled_owned()).await.unwrap();
        });
        (worker, address)
    }

    pub fn heard<T>(&self, read: impl FnOnce(&mut Heard) -> T) -> T {
        read(&mut self.heard.lock().unwrap())
    }

    async fn listen(
        self,
        mut messages: Streaming<TranscribeRequest>,
        mut position: u64,
        answers: mpsc::Sender<Result<TranscribeResponse, Status>>,
    ) {
        let say =
            async |message| answers.send(Ok(TranscribeResponse { message: Some(message) })).await.is_ok();
        say(Outgoing::Opened(Opened { resume_at: position, room: 1 })).await;
        if self.heard(|heard| heard.mood) == Mood::Deaf {
            self.life.stopping().cancelled().await;
        }
        while let Ok(Some(TranscribeRequest { message: Some(message) })) = messages.message().await {
            let answer = match message {
                Incoming::Audio(audio) => {
                    let frame = from_audio(&audio).unwrap();
                    // What is left out is silence.
                    let silence = frame.start.0.checked_sub(position).expect("nothing twice");
                    position = frame.end().0;
                    let mood = self.heard(|heard| {
                        heard.samples.extend(std::iter::repeat_n(0, silence as usize));
                        heard.samples.extend_from_slice(&frame.samples);
                        heard.mood
                    });
                    if mood == Mood::Outrun {
                        let _ = answers.send(Err(Status::aborted("the stream has a newer owner"))).await;
                        return;
                    }
                    if mood == Mood::Hoarding {
                        continue;
                    }
                    Outgoing::Acknowledged(Acknowledged { samples: position, room: 1, filtered: 0 })
                }
                Incoming::Stop(_) => {
                    self.heard(|heard| heard.ended += 1);
                    Outgoing::Ended(Ended { samples: position })
                }
                Incoming::Finalize(_) => {
                    self.heard(|heard| heard.finalized += 1);
                    continue;
                }
                Incoming::Speak(_) => continue,
                Incoming::Open(_) => panic!("open comes once"),
            };
            if !say(answer).await {
                return;
            }
        }
    }
}

#[tonic::async_trait]
impl Transcription for Worker {
    type RecognizeStream = Pin<Box<dyn Stream<Item = Result<RecognizeResponse, Status>> + Send>>;
    type TranscribeStream = Pin<Box<dyn Stream<Item = Result<TranscribeResponse, Status>> + Send>>;

    async fn recognize(
        &self,
        _: Request<Streaming<RecognizeRequest>>,
    ) -> Result<Response<Self::RecognizeStream>, Status> {
        Err(Status::unimplemented("this worker hears streams"))
    }

    async fn translate(&self, _: Request<TranslateRequest>) -> Result<Response<TranslateResponse>, Status> {
        Err(Status::unimplemented("this worker hears streams"))
    }

    async fn transcribe(
        &self,
        request: Request<Streaming<TranscribeRequest>>,
    ) -> Result<Response<Self::TranscribeStream>, Status> {
        if self.heard(|heard| heard.mood) == Mood::Busy {
            return Err(busy(Duration::from_millis(1_500)));
        }
        let mut messages = request.into_inner();
        let Some(Incoming::Open(open)) = messages.message().await?.and_then(|message| message.message) else {
            panic!("open comes first")
        };
        let (source, first) = Source::from_open(open).unwrap();
        let now = Clock::system().now();
        let stream = NewStream {
            id: source.stream,
            session: source.session.clone(),
            speaker: source.speaker.clone(),
            started_at: source.started_at,
            user: None,
            limits: storage::StreamLimits::default(),
            now,
        };
        let opened = self.storage.open_stream(&stream).await;
        let opened = opened.map_err(|error| status(error.fault(), error.to_string()))?;
        let position = first.max(opened.stored_end).0;
        self.heard(|heard| {
            heard.sources.push(source);
            heard.resumed_at.push(position);
        });
        let (answers, receiver) = mpsc::channel(16);
        self.life.spawn(self.clone().listen(messages, position, answers));
        let responses = stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|response| (response, receiver))
        });
        Ok(Response::new(Box::pin(responses)))
    }
}
