//! Recordings: heard as fast as the engines can, after the live streams, and never stored.

use std::time::Duration;

use model::Samples;
use rpc::{
    WireError,
    recognition::{Done, Recognized, Segment, Task, Wanted, to_response},
    wire::{self, RecognizeIn, RecognizeRequest, RecognizeResponse},
};
use speech::{ListenerSettings, Spoken};
use tokio::{sync::mpsc::Sender, time::interval};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use crate::hearing::{Embedded, Heard};

/// Sound of a recording that waits to be decoded. What is beyond waits at the sender.
const AHEAD_MAX: Samples = Samples::from_millis(60_000);

/// Silence that ends a segment, unless the caller says.
const ENDPOINTING: Duration = Duration::from_millis(500);

/// How often a caller is told that we live, whatever is heard.
const SIGN_INTERVAL: Duration = Duration::from_secs(10);

/// How a recording is listened to.
pub(crate) fn settings(wanted: &Wanted) -> ListenerSettings {
    ListenerSettings {
        endpointing: wanted.endpointing_ms.map_or(ENDPOINTING, |millis| Duration::from_millis(millis.into())),
        partial_interval: None,
        task: if wanted.task == Task::Translate { speech::Task::Translate } else { speech::Task::Transcribe },
        recording: true,
        ..ListenerSettings::default()
    }
}

/// Serves one recording to its end. Nobody is told when the caller has gone.
pub(crate) async fn recognize(
    hearing: Embedded,
    wanted: Wanted,
    incoming: Streaming<RecognizeRequest>,
    outgoing: Sender<Result<RecognizeResponse, Status>>,
    stopping: CancellationToken,
) {
    let served = tokio::select! {
        served = serve(hearing, wanted, incoming, &outgoing) => served,
        () = outgoing.closed() => return,
        () = stopping.cancelled() => Err(Status::unavailable("draining")),
    };
    if let Err(status) = served {
        let _ = outgoing.send(Err(status)).await;
    }
}

async fn serve(
    mut hearing: Embedded,
    wanted: Wanted,
    mut incoming: Streaming<RecognizeRequest>,
    outgoing: &Sender<Result<RecognizeResponse, Status>>,
) -> Result<(), Status> {
    let mut complete = false;
    let mut sign = interval(SIGN_INTERVAL);
    while !(complete && hearing.idle()) {
        let ahead = hearing.heard().ok_or_else(died)? - hearing.settled().ok_or_else(died)?;
        tokio::select! {
            heard = hearing.next() => match heard {
                Heard::Spoken(spoken, _) => {
                    if wanted.task == Task::Detect {
                        if hearing.detected().is_some() { break }
                    } else if let Some(segment) = segment(spoken)? {
                        let response = to_response(Recognized::Segment(segment));
                        outgoing.send(Ok(response)).await.map_err(|_| Status::cancelled("the caller is gone"))?;
                    }
                }
                Heard::Settled | Heard::FellBack(_) | Heard::Translated(..) => {}
                Heard::Defect => return Err(died()),
            },
            // Somebody may be silent for an hour in it.
            _ = sign.tick() => drop(outgoing.try_send(Ok(RecognizeResponse { message: None }))),
            message = incoming.message(), if !complete && ahead < AHEAD_MAX => match message?.map(|m| m.message) {
                None => {
                    complete = true;
                    hearing.end();
                }
                Some(Some(RecognizeIn::Pcm(pcm))) => {
                    let frame = wire::from_audio(&wire::Audio { start: 0, pcm })?;
                    hearing.hear(&frame.samples).await.map_err(|_| died())?;
                }
                Some(Some(RecognizeIn::Begin(_))) => return Err(WireError::Order("begin may come only once").into()),
                // A kind of message that this version does not know.
                Some(None) => {}
            },
        }
    }
    let detected = hearing.detected().map(|found| (found.language, found.probability));
    // An engine that knows one language detects none, and needs to be asked for none.
    let (language, probability) =
        detected.or_else(|| hearing.language().map(|language| (language, 1.0))).unzip();
    let length = hearing.heard().ok_or_else(died)?;
    let done = Done {
        length,
        language,
        probability: probability.unwrap_or_default(),
        engine: Some(hearing.engine()),
    };
    // A caller that is gone needs no end.
    let _ = outgoing.send(Ok(to_response(Recognized::Done(done)))).await;
    Ok(())
}

/// The segment that was said, if one was.
fn segment(spoken: Spoken) -> Result<Option<Segment>, Status> {
    match spoken {
        Spoken::Final { text, words, language, start, end, logprob, .. } => {
            Ok(Some(Segment { start, end, text, words, language, logprob }))
        }
        Spoken::Lost { error, .. } => {
            tracing::error!(%error, "a segment of a recording could not be decoded");
            Err(wire::status(error.fault(), "a segment could not be decoded"))
        }
        Spoken::Partial { .. } | Spoken::Nothing { .. } => Ok(None),
    }
}

fn died() -> Status {
    Status::internal("a task of the worker died")
}
