//! A transcription worker that hears everything and understands nothing.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{Stream, stream};
use lifecycle::Lifecycle;
use rpc::wire::{
    Acknowledged, Ended, Opened, RecognizeRequest, RecognizeResponse, Request as Incoming,
    Response as Outgoing, Source, TranscribeRequest, TranscribeResponse, Transcription, TranscriptionServer,
    TranslateRequest, TranslateResponse, busy, from_audio,
};
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
}

/// What came of one stream.
#[derive(Default, Clone)]
pub struct Heard {
    pub samples: Vec<i16>,
    pub finalized: usize,
    pub ended: bool,
}

#[derive(Default)]
pub struct Ears {
    pub mood: Mood,
    /// How often it had no capacity.
    pub refused: usize,
    pub sources: Vec<Source>,
    pub streams: Vec<Heard>,
}

/// Clones are the same worker.
#[derive(Clone, Default)]
pub struct Worker(Arc<Mutex<Ears>>);

impl Worker {
    pub async fn start(life: &Lifecycle) -> (Self, SocketAddr) {
        let worker = Self::default();
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

    pub fn ears<T>(&self, read: impl FnOnce(&mut Ears) -> T) -> T {
        read(&mut self.0.lock().unwrap())
    }

    /// What came of the streams so far, in the order in which they were opened.
    pub fn heard(&self) -> Vec<Heard> {
        self.ears(|ears| ears.streams.clone())
    }

    async fn listen(
        self,
        mut messages: Streaming<TranscribeRequest>,
        at: usize,
        answers: mpsc::Sender<Result<TranscribeResponse, Status>>,
    ) {
        let say =
            async |message| answers.send(Ok(TranscribeResponse { message: Some(message) })).await.is_ok();
        let change = |change: &dyn Fn(&mut Heard)| self.ears(|ears| change(&mut ears.streams[at]));
        let mut position = self.ears(|ears| ears.streams[at].samples.len() as u64);
        say(Outgoing::Opened(Opened { resume_at: position, room: 1 })).await;
        while let Ok(Some(TranscribeRequest { message: Some(message) })) = messages.message().await {
            let answer = match message {
                Incoming::Audio(audio) => {
                    let frame = from_audio(&audio).unwrap();
                    // What was given up is missing.
                    assert!(frame.start.0 >= position, "nothing twice");
                    position = frame.end().0;
                    change(&|heard| {
                        heard.samples.resize(usize::try_from(frame.start.0).unwrap(), 0);
                        heard.samples.extend_from_slice(&frame.samples);
                    });
                    Outgoing::Acknowledged(Acknowledged { samples: position, room: 1, filtered: 0 })
                }
                Incoming::Stop(_) => {
                    change(&|heard| heard.ended = true);
                    Outgoing::Ended(Ended { samples: position })
                }
                Incoming::Finalize(_) => {
                    change(&|heard| heard.finalized += 1);
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
        if self.ears(|ears| ears.mood) == Mood::Busy {
            self.ears(|ears| ears.refused += 1);
            return Err(busy(Duration::from_millis(100)));
        }
        let mut messages = request.into_inner();
        let Some(Incoming::Open(open)) = messages.message().await?.and_then(|message| message.message) else {
            panic!("open comes first")
        };
        let (source, first) = Source::from_open(open).unwrap();
        let at = self.ears(|ears| {
            let known = ears.sources.iter().position(|known| known.stream == source.stream);
            known.unwrap_or_else(|| {
                ears.sources.push(source);
                let samples = vec![0; usize::try_from(first.0).unwrap()];
                ears.streams.push(Heard { samples, ..Heard::default() });
                ears.streams.len() - 1
            })
        });
        let (answers, receiver) = mpsc::channel(16);
        tokio::task::spawn(self.clone().listen(messages, at, answers));
        let responses = stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|response| (response, receiver))
        });
        Ok(Response::new(Box::pin(responses)))
    }
}
