//! A recording on its way through a worker: sound up, segments down, both at once.

use std::{pin::Pin, time::Duration};

use model::Samples;
use rpc::recognition::{Done, Recognition, RecognizeError, Recognized, Segment, Wanted};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use super::{problem::Problem, sound::Sound};
use crate::Edge;

/// Longest recording that is heard at once, in hours.
pub(super) const RECORDING_HOURS_MAX: u64 = 6;

const LONGEST: Samples = Samples::from_millis(RECORDING_HOURS_MAX * 3_600_000);

/// How long a request waits for a place.
const PLACE_LIMIT: Duration = Duration::from_secs(5);

/// Leave to read an upload and have it heard, of which an edge has a number: what is uploaded is kept in memory.
pub(super) struct Place(#[expect(dead_code, reason = "held, not read")] OwnedSemaphorePermit);

/// Takes a place, when there is one.
///
/// # Errors
/// All are taken.
pub(super) async fn place(edge: &Edge) -> Result<Place, Problem> {
    match timeout(PLACE_LIMIT, edge.recording_places.clone().acquire_owned()).await {
        Ok(Ok(permit)) => Ok(Place(permit)),
        _ => Err(Problem::Full),
    }
}

type Sending = Pin<Box<dyn Future<Output = Result<(), Problem>> + Send>>;

/// A recording that is being heard. Dropping it ends the work.
pub(super) struct Hearing {
    /// Decodes the sound and sends it; `None` once all is sent.
    sending: Option<Sending>,
    recognition: Recognition,
    _place: Place,
}

/// What was heard in all.
pub(super) struct Heard {
    pub(super) segments: Vec<Segment>,
    pub(super) done: Done,
}

impl Hearing {
    /// Finds a worker for a recording that can be decoded, as far as that shows at its beginning.
    ///
    /// # Errors
    /// See [`Problem`].
    pub(super) async fn begin(
        edge: &Edge,
        place: Place,
        mut sound: Sound,
        wanted: &Wanted,
    ) -> Result<Self, Problem> {
        let mut samples = sound.next().await?;
        let (recording, recognition) = Recognition::begin(&edge.workers, wanted).await?;
        let sending = async move {
            while let Some(some) = samples {
                if sound.length() > LONGEST {
                    return Err(Problem::TooLong);
                }
                // A worker that takes no more says why in its answers.
                if recording.send(&some).await.is_err() {
                    return Ok(());
                }
                samples = sound.next().await?;
            }
            Ok(())
        };
        Ok(Self { sending: Some(Box::pin(sending)), recognition, _place: place })
    }

    /// What comes next; nothing comes after [`Recognized::Done`].
    ///
    /// # Errors
    /// See [`Problem`]; the work has ended then.
    pub(super) async fn next(&mut self) -> Result<Recognized, Problem> {
        loop {
            let answer = match &mut self.sending {
                None => self.recognition.next().await?,
                Some(sending) => tokio::select! {
                    sent = sending => {
                        self.sending = None;
                        sent?;
                        continue;
                    }
                    answer = self.recognition.next() => answer?,
                },
            };
            // A worker that ends without a word has gone away.
            return answer.ok_or(Problem::Recognize(RecognizeError::Unreachable));
        }
    }

    /// All that comes.
    ///
    /// # Errors
    /// As [`Hearing::next`].
    pub(super) async fn all(mut self) -> Result<Heard, Problem> {
        let mut segments = Vec::new();
        loop {
            match self.next().await? {
                Recognized::Segment(segment) => segments.push(segment),
                Recognized::Done(done) => return Ok(Heard { segments, done }),
            }
        }
    }
}

impl Heard {
    /// Everything that was said.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for segment in &self.segments {
            text.push_str(between(&text, segment));
            text.push_str(&segment.text);
        }
        text
    }
}

/// What stands between what was said before and a segment.
pub(super) fn between(before: &str, segment: &Segment) -> &'static str {
    // Languages that are written without spaces.
    let language = segment.language.as_deref().unwrap_or_default();
    let is_spaced = !matches!(language, "zh" | "yue" | "ja" | "th" | "lo" | "my" | "km" | "bo");
    if is_spaced && !before.is_empty() { " " } else { "" }
}
