//! The uplink against a scripted worker on a real socket: what it keeps, re-sends, and when it gives up.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{Stream, stream};
use lifecycle::Lifecycle;
use model::{Samples, Speaker, StreamId, StreamState, Timestamp};
use rpc::{
    AudioUplink, Source, UplinkError, UplinkEvent, UplinkEvents, WINDOW, WhenFull, Workers, WorkersSettings,
    wire::{
        Acknowledged, Ended, Opened, RecognizeRequest, RecognizeResponse, Request as Incoming,
        Response as Outgoing, TranscribeRequest, TranscribeResponse, Transcription, TranscriptionServer,
        TranslateRequest, TranslateResponse, busy, from_audio,
    },
};
use tokio::sync::{Notify, mpsc};
use tonic::{Request, Response, Status, Streaming, transport::server::TcpIncoming};

/// What the worker does with a call, one entry for each, the last for all that follow.
#[derive(Clone)]
enum Play {
    Refuse(Status),
    /// Takes the stream from `resume_at`, acknowledges all it hears up to `dies_at`, then breaks the call.
    DieAt {
        resume_at: u64,
        dies_at: u64,
    },
    /// Takes the stream and acknowledges nothing until `stop`.
    Finish {
        resume_at: u64,
    },
    /// Takes the stream and reads nothing.
    Deaf,
}

#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<Vec<i16>>>>);

struct Script {
    plays: Vec<Play>,
    calls: Mutex<usize>,
    heard: Heard,
    never: Arc<Notify>,
    life: Lifecycle,
}

type Answers = mpsc::Sender<Result<TranscribeResponse, Status>>;

async fn say(answers: &Answers, message: Outgoing) {
    let _ = answers.send(Ok(TranscribeResponse { message: Some(message) })).await;
}

async fn play(
    play: Play,
    mut calls: Streaming<TranscribeRequest>,
    answers: Answers,
    heard: Heard,
    never: Arc<Notify>,
) {
    let resume_at = match play {
        Play::DieAt { resume_at, .. } | Play::Finish { resume_at } => resume_at,
        _ => 0,
    };
    say(&answers, Outgoing::Opened(Opened { resume_at, room: 1 })).await;
    if matches!(play, Play::Deaf) {
        never.notified().await;
    }
    while let Ok(Some(message)) = calls.message().await {
        match message.message.unwrap() {
            Incoming::Audio(audio) => {
                let frame = from_audio(&audio).unwrap();
                {
                    // As the contract says: what is left out is silence.
                    let mut heard = heard.0.lock().unwrap();
                    let heard = heard.last_mut().unwrap();
                    let place = usize::try_from(frame.start.0.saturating_sub(resume_at)).unwrap();
                    heard.resize(heard.len().max(place), 0);
                    heard.extend_from_slice(&frame.samples);
                }
                if let Play::DieAt { dies_at, .. } = play {
                    if frame.end() >= Samples(dies_at) {
                        return;
                    }
                    say(
                        &answers,
                        Outgoing::Acknowledged(Acknowledged { samples: frame.end().0, room: 1, filtered: 0 }),
                    )
                    .await;
                }
            }
            Incoming::Stop(_) => {
                let samples = heard.0.lock().unwrap().last().unwrap().len() as u64 + resume_at;
                say(&answers, Outgoing::Ended(Ended { samples })).await;
                return;
            }
            Incoming::Open(_) | Incoming::Finalize(_) | Incoming::Speak(_) => {}
        }
    }
}

#[tonic::async_trait]
impl Transcription for Script {
    type RecognizeStream = std::pin::Pin<Box<dyn Stream<Item = Result<RecognizeResponse, Status>> + Send>>;
    type TranscribeStream = std::pin::Pin<Box<dyn Stream<Item = Result<TranscribeResponse, Status>> + Send>>;

    async fn recognize(
        &self,
        _: Request<Streaming<RecognizeRequest>>,
    ) -> Result<Response<Self::RecognizeStream>, Status> {
        Err(Status::unimplemented("a script plays streams"))
    }

    async fn translate(&self, _: Request<TranslateRequest>) -> Result<Response<TranslateResponse>, Status> {
        Err(Status::unimplemented("a script plays streams"))
    }

    async fn transcribe(
        &self,
        request: Request<Streaming<TranscribeRequest>>,
    ) -> Result<Response<Self::TranscribeStream>, Status> {
        let turn = {
            let mut calls = self.calls.lock().unwrap();
            *calls += 1;
            *calls - 1
        };
        let part = self.plays.get(turn).or(self.plays.last()).unwrap().clone();
        if let Play::Refuse(status) = part {
            return Err(status);
        }
        self.heard.0.lock().unwrap().push(Vec::new());
        let mut calls = request.into_inner();
        let Some(Incoming::Open(_)) = calls.message().await?.unwrap().message else {
            panic!("open comes first")
        };
        let (answers, receiver) = mpsc::channel(16);
        let (heard, never) = (self.heard.clone(), self.never.clone());
        self.life.spawn(play(part, calls, answers, heard, never));
        let responses = stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|response| (response, receiver))
        });
        Ok(Response::new(Box::pin(responses)))
    }
}

/// A worker that plays `plays`, and an uplink to it.
struct Stage {
    life: Lifecycle,
    heard: Heard,
    uplink: AudioUplink,
    events: UplinkEvents,
}

async fn worker(life: &Lifecycle, plays: Vec<Play>) -> (SocketAddr, Heard) {
    let listener = lifecycle::listen("test", ([127, 0, 0, 1], 0).into()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let heard = Heard::default();
    let script = Script {
        plays,
        calls: Mutex::default(),
        heard: heard.clone(),
        never: Arc::default(),
        life: life.clone(),
    };
    let server = tonic::transport::Server::builder();
    let stopping = life.stopping().clone();
    life.spawn(async move {
        let (service, incoming) = (TranscriptionServer::new(script), TcpIncoming::from(listener));
        server.serve_with_incoming_shutdown(service, incoming, stopping.cancelled_owned()).await.unwrap();
    });
    (address, heard)
}

async fn stage(plays: Vec<Play>, when_full: WhenFull) -> Stage {
    let life = Lifecycle::default();
    let (address, heard) = worker(&life, plays).await;
    let settings = WorkersSettings { addresses: vec![format!("http://{address}")], internal_token: None };
    let (uplink, events) = AudioUplink::open(&Workers::new(&settings).unwrap(), &life, source(), when_full);
    Stage { life, heard, uplink, events }
}

fn source() -> Source {
    Source {
        stream: StreamId(uuid::Uuid::new_v4()),
        session: "demo".parse().unwrap(),
        speaker: Speaker { identity: "alice".parse().unwrap(), name: None },
        language: None,
        endpointing_ms: None,
        partials: true,
        started_at: Timestamp(0),
        user: None,
        is_room: false,
        translate_to: Vec::new(),
    }
}

/// A ramp, so that every sample shows its place.
fn ramp(from: i16, to: i16) -> Vec<i16> {
    (from..to).collect()
}

/// The last event, and the states on the way.
async fn outcome(events: &mut UplinkEvents) -> (UplinkEvent, Vec<StreamState>) {
    let (mut last, mut states) = (None, Vec::new());
    let all = async {
        while let Some(event) = events.next().await {
            if let UplinkEvent::State(state) = event {
                states.push(state);
            }
            last = Some(event);
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("the uplink ends");
    (last.unwrap(), states)
}

#[tokio::test]
async fn what_a_dead_worker_had_not_acknowledged_is_sent_to_the_next() {
    let plays = vec![Play::DieAt { resume_at: 0, dies_at: 3000 }, Play::Finish { resume_at: 0 }];
    let Stage { heard, uplink, mut events, .. } = stage(plays, WhenFull::Wait).await;
    for part in 0..5 {
        uplink.send(&ramp(part * 1000, (part + 1) * 1000)).await.unwrap();
    }
    uplink.stop().await.unwrap();
    let (last, states) = outcome(&mut events).await;
    let calls = heard.0.lock().unwrap().clone();
    let (first, second) = (calls.first().unwrap(), calls.get(1).unwrap());
    assert!(first.starts_with(&ramp(0, 3000)));
    // The second call begins at an acknowledged place of the first and has everything after it.
    let resumed = *second.first().unwrap();
    assert!((0..=3000).contains(&resumed), "{resumed}");
    assert_eq!(*second, ramp(resumed, 5000));
    assert!(matches!(last, UplinkEvent::Ended(_)), "{last:?}");
    assert_eq!(
        states,
        [StreamState::Connecting, StreamState::Ready, StreamState::Connecting, StreamState::Ready]
    );
}

#[tokio::test]
async fn what_is_stored_is_not_sent_again() {
    let plays = vec![Play::Finish { resume_at: 1500 }];
    let Stage { heard, uplink, mut events, .. } = stage(plays, WhenFull::Wait).await;
    uplink.send(&ramp(0, 4000)).await.unwrap();
    drop(uplink);
    assert_eq!(outcome(&mut events).await.0, UplinkEvent::Ended(Samples(4000)));
    assert_eq!(heard.0.lock().unwrap().concat(), ramp(1500, 4000));
}

#[tokio::test]
async fn a_stream_that_comes_back_is_told_what_is_stored_and_sends_the_rest() {
    let life = Lifecycle::default();
    let (address, heard) = worker(&life, vec![Play::Finish { resume_at: 1500 }]).await;
    let settings = WorkersSettings { addresses: vec![format!("http://{address}")], internal_token: None };
    let workers = Workers::new(&settings).unwrap();
    let (uplink, mut events) = AudioUplink::resume(&workers, &life, source(), WhenFull::Wait, Samples(1000));
    let mut first = Vec::new();
    while first.last() != Some(&UplinkEvent::State(StreamState::Ready)) {
        first.push(events.next().await.unwrap());
    }
    assert!(first.contains(&UplinkEvent::Acknowledged(Samples(1500))), "{first:?}");
    // From 1000 to 1200 it sends again, then it goes on at 1600: what is not stored of that is silence.
    uplink.send(&ramp(1000, 1200)).await.unwrap();
    uplink.go_on_at(Samples(1600)).await.unwrap();
    uplink.send(&ramp(1600, 2000)).await.unwrap();
    uplink.stop().await.unwrap();
    assert_eq!(outcome(&mut events).await.0, UplinkEvent::Ended(Samples(2000)));
    assert_eq!(heard.0.lock().unwrap().concat(), [vec![0; 100], ramp(1600, 2000)].concat());
}

#[tokio::test]
async fn a_refusal_for_want_of_capacity_is_told_with_its_hint() {
    let plays = vec![Play::Refuse(busy(Duration::from_millis(700)))];
    let Stage { mut events, .. } = stage(plays, WhenFull::Wait).await;
    let (last, _) = outcome(&mut events).await;
    let UplinkEvent::Failed(UplinkError::Busy { retry_after }) = last else { panic!("{last:?}") };
    assert!(retry_after <= Duration::from_millis(700) && !retry_after.is_zero(), "{retry_after:?}");
}

#[tokio::test]
async fn a_stream_that_was_taken_over_ends() {
    let plays = vec![Play::Refuse(Status::aborted("newer"))];
    let Stage { mut events, uplink, .. } = stage(plays, WhenFull::Wait).await;
    assert_eq!(outcome(&mut events).await.0, UplinkEvent::Failed(UplinkError::TakenOver));
    assert!(uplink.send(&[0]).await.is_err());
}

#[tokio::test]
async fn a_source_that_can_wait_waits_when_the_window_is_full() {
    let Stage { uplink, .. } = stage(vec![Play::Deaf], WhenFull::Wait).await;
    let second = vec![1_i16; 16_000];
    let sent = tokio::time::timeout(Duration::from_secs(2), async {
        for _ in 0..100 {
            uplink.send(&second).await.unwrap();
        }
    });
    assert!(sent.await.is_err(), "a hundred seconds do not fit into a window of {WINDOW}");
}

#[tokio::test]
async fn a_source_that_cannot_wait_is_told_what_it_lost() {
    let Stage { uplink, mut events, .. } = stage(vec![Play::Deaf], WhenFull::DropOldest).await;
    for _ in 0..40 {
        uplink.send(&[1_i16; 16_000]).await.unwrap();
    }
    let gap = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            if let UplinkEvent::Gap { start, end } = events.next().await.unwrap() {
                break (start, end);
            }
        }
    });
    let (start, end) = gap.await.expect("a gap is reported");
    assert!(start < end, "{start}..{end}");
}

#[tokio::test]
async fn a_stopping_service_ends_its_uplinks() {
    let Stage { life, mut events, .. } = stage(vec![Play::Deaf], WhenFull::Wait).await;
    life.stopping().cancel();
    assert_eq!(outcome(&mut events).await.0, UplinkEvent::Failed(UplinkError::Stopping));
}
