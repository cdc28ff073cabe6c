//! What hears a stream: the embedded engine or Gladia, driven the same way by the stream's task.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use model::{EngineName, Fallback, Samples};
use speech::{Answer, Gladia, GladiaEvent, GladiaSession, GladiaTrouble, Listener, ListenerSettings, Spoken};

use crate::capacity::{Capacity, Place, Who};

/// The language that the embedded engine writes.
pub(crate) const EMBEDDED_LANGUAGE: &str = "en";

/// An account that was refused is not tried again for so long: another stream would be refused as well.
const REFUSED_LIFE: Duration = Duration::from_secs(60);

/// Streams that had to go on with another engine, by `reason`.
const FALLBACKS_TOTAL: &str = "worker_fallbacks_total";

pub(crate) fn register_metrics() {
    metrics::describe_counter!(FALLBACKS_TOTAL, "Streams that had to go on with the embedded engine");
    for reason in GladiaTrouble::LABELS {
        metrics::counter!(FALLBACKS_TOTAL, "reason" => reason).absolute(0);
    }
}

/// The engines of a worker.
#[derive(Clone)]
pub(crate) struct Engines {
    embedded: Capacity,
    gladia: Option<Gladia>,
    refused: Arc<Mutex<Option<(Instant, GladiaTrouble)>>>,
}

impl Engines {
    pub(crate) fn new(embedded: Capacity, gladia: Option<Gladia>) -> Self {
        Self { embedded, gladia, refused: Arc::default() }
    }

    /// A place for a stream, when there is room.
    pub(crate) fn take(&self) -> Option<Place> {
        self.embedded.take(self.who())
    }

    /// How many more streams could be taken now.
    pub(crate) fn room(&self) -> u32 {
        self.embedded.room(self.who())
    }

    fn who(&self) -> Who {
        if self.gladia.is_some() && self.refusal().is_none() { Who::Provider } else { Who::Embedded }
    }

    /// Begins to hear a stream with the engine that is preferred; and why that is not Gladia, when it should be.
    pub(crate) fn hear(
        &self,
        settings: &ListenerSettings,
        language: Option<&str>,
    ) -> (Hearing, Option<Fallback>) {
        let Some(gladia) = &self.gladia else { return (self.embedded(settings), None) };
        match self.refusal() {
            None => {
                let session = GladiaSession::open(gladia, settings, language);
                let (engines, settings) = (self.clone(), settings.clone());
                (Hearing::Gladia(Box::new(Remote { session, engines, settings, ended: false })), None)
            }
            Some(trouble) => (self.embedded(settings), Some(fallback(trouble))),
        }
    }

    /// Whether an engine knows a language (BCP 47, any region).
    pub(crate) fn speaks(&self, language: &str) -> bool {
        let primary = language.split('-').next().unwrap_or_default();
        self.gladia.is_some() || primary.eq_ignore_ascii_case(EMBEDDED_LANGUAGE)
    }

    fn embedded(&self, settings: &ListenerSettings) -> Hearing {
        Hearing::Embedded(Embedded {
            listener: Some(Box::new(Listener::new(settings.clone()))),
            answer: None,
            engines: self.embedded.clone(),
        })
    }

    fn refusal(&self) -> Option<GladiaTrouble> {
        let refused = *self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.filter(|(at, _)| at.elapsed() < REFUSED_LIFE).map(|(_, trouble)| trouble)
    }

    fn note(&self, trouble: GladiaTrouble) {
        if matches!(trouble, GladiaTrouble::Unauthorized | GladiaTrouble::Quota) {
            *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), trouble));
        }
        metrics::counter!(FALLBACKS_TOTAL, "reason" => trouble.label()).increment(1);
    }
}

fn fallback(trouble: GladiaTrouble) -> Fallback {
    Fallback { from: EngineName::Gladia, reason: trouble.label().to_owned() }
}

/// A thread of ours died; the hook has logged it.
#[derive(Debug)]
pub(crate) struct Defect;

/// What hears one stream.
pub(crate) enum Hearing {
    Embedded(Embedded),
    Gladia(Box<Remote>),
    /// Gladia has failed, and the embedded engine is hearing what it has left.
    FallingBack(Box<FallingBack>),
}

/// A session at Gladia, and what goes on when it fails.
pub(crate) struct Remote {
    session: GladiaSession,
    engines: Engines,
    settings: ListenerSettings,
    ended: bool,
}

pub(crate) struct FallingBack {
    work: Pin<Box<dyn Future<Output = Result<Hearing, Defect>> + Send>>,
    why: Fallback,
    heard: Samples,
    settled: Samples,
    /// No more sound will come.
    ended: bool,
}

impl FallingBack {
    fn nothing() -> Self {
        Self {
            work: Box::pin(std::future::pending()),
            why: fallback(GladiaTrouble::Unavailable),
            heard: Samples(0),
            settled: Samples(0),
            ended: false,
        }
    }
}

impl Remote {
    /// Has the embedded engine hear what Gladia has left: no word is lost, and none doubled.
    fn fail(self, trouble: GladiaTrouble) -> FallingBack {
        let Self { session, engines, settings, ended } = self;
        engines.note(trouble);
        let (settled, heard) = (session.settled(), session.heard());
        let left = session.into_unsettled();
        let settings = ListenerSettings { first: settled, next_number: left.next_number, ..settings };
        let mut hearing = engines.embedded(&settings);
        let work = Box::pin(async move {
            for (start, sound) in left.sound {
                hearing.skip_to(start);
                hearing.hear(sound).await?;
            }
            hearing.skip_to(heard);
            Ok(hearing)
        });
        FallingBack { work, why: fallback(trouble), heard, settled, ended }
    }
}

/// A listener with the engines of this worker.
pub(crate) struct Embedded {
    /// Away while it works on a thread of its own.
    listener: Option<Box<Listener>>,
    answer: Option<Answer>,
    engines: Capacity,
}

/// What came of waiting.
pub(crate) enum Heard {
    /// Something was said; the sound before `settled` was dealt with before.
    Spoken(Spoken, Samples),
    /// Nothing to tell; positions may have moved.
    Settled,
    /// Another engine goes on.
    FellBack(Fallback),
    Defect,
}

impl Hearing {
    pub(crate) fn engine(&self) -> EngineName {
        match self {
            Self::Embedded(_) | Self::FallingBack(_) => EngineName::Moonshine,
            Self::Gladia(_) => EngineName::Gladia,
        }
    }

    /// Whether sound may come now.
    pub(crate) fn has_room(&self) -> bool {
        !matches!(self, Self::FallingBack(_))
    }

    /// Hears the samples that follow those heard before. Only when it [has room](Self::has_room).
    pub(crate) async fn hear(&mut self, samples: Vec<i16>) -> Result<(), Defect> {
        match self {
            Self::FallingBack(_) => return Err(Defect),
            Self::Gladia(remote) => remote.session.hear(&samples),
            Self::Embedded(embedded) => {
                for second in samples.chunks(rpc::AUDIO_SAMPLES_MAX) {
                    let second = second.to_vec();
                    embedded.off_thread(move |listener| listener.hear(&second)).await?;
                    embedded.ask();
                }
            }
        }
        Ok(())
    }

    /// Goes on at a later position, as what lies before it is lost.
    pub(crate) fn skip_to(&mut self, position: Samples) {
        match self {
            Self::Gladia(remote) => remote.session.skip_to(position),
            Self::Embedded(embedded) => embedded.tell(|listener| listener.skip_to(position)),
            Self::FallingBack(_) => {}
        }
    }

    /// Ends the open utterance.
    pub(crate) fn finalize(&mut self) {
        match self {
            Self::Gladia(remote) => remote.session.finalize(),
            Self::Embedded(embedded) => embedded.tell(Listener::finalize),
            Self::FallingBack(_) => {}
        }
    }

    /// Another voice begins near there: the open utterance is cut at a quiet place. Gladia ends utterances by silence
    /// alone.
    pub(crate) fn cut_near(&mut self, position: Samples) {
        if let Self::Embedded(embedded) = self {
            embedded.tell(|listener| listener.cut_near(position));
        }
    }

    /// Where the open utterance begins, when there is one that could be cut.
    pub(crate) fn open_since(&self) -> Option<Samples> {
        match self {
            Self::Gladia(_) | Self::FallingBack(_) => None,
            Self::Embedded(embedded) => embedded.listener.as_ref()?.open_since(),
        }
    }

    /// No more sound will come.
    pub(crate) fn end(&mut self) {
        match self {
            Self::Gladia(remote) => {
                remote.ended = true;
                remote.session.end();
            }
            Self::Embedded(embedded) => embedded.tell(Listener::end),
            Self::FallingBack(falling) => falling.ended = true,
        }
    }

    /// The position after the last sample heard; `None` after a defect.
    pub(crate) fn heard(&self) -> Option<Samples> {
        match self {
            Self::Gladia(remote) => Some(remote.session.heard()),
            Self::FallingBack(falling) => Some(falling.heard),
            Self::Embedded(Embedded { listener, .. }) => listener.as_ref().map(|listener| listener.heard()),
        }
    }

    /// Everything before this is silence or covered by a final that was told; `None` after a defect.
    pub(crate) fn settled(&self) -> Option<Samples> {
        match self {
            Self::Gladia(remote) => Some(remote.session.settled()),
            Self::FallingBack(falling) => Some(falling.settled),
            Self::Embedded(Embedded { listener, .. }) => listener.as_ref().map(|listener| listener.settled()),
        }
    }

    /// Whether an utterance is over and its final was not told.
    pub(crate) fn awaits_final(&self) -> bool {
        match self {
            Self::Gladia(remote) => remote.session.awaits_final(),
            Self::FallingBack(_) => true,
            Self::Embedded(Embedded { listener, .. }) => {
                listener.as_ref().is_some_and(|listener| listener.awaits_final())
            }
        }
    }

    /// Nobody speaks and every final was told.
    pub(crate) fn idle(&self) -> bool {
        match self {
            Self::Gladia(remote) => remote.session.idle(),
            Self::FallingBack(_) => false,
            Self::Embedded(Embedded { listener, .. }) => {
                listener.as_ref().is_none_or(|listener| listener.idle())
            }
        }
    }

    /// Waits for what is said next. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Heard {
        let trouble = match self {
            Self::Embedded(embedded) => return embedded.next().await,
            Self::Gladia(remote) => {
                let settled = remote.session.settled();
                match remote.session.next().await {
                    GladiaEvent::Spoken(spoken) => return Heard::Spoken(spoken, settled),
                    GladiaEvent::Settled | GladiaEvent::Ended => return Heard::Settled,
                    GladiaEvent::Failed(trouble) => trouble,
                }
            }
            Self::FallingBack(falling) => {
                let Ok(mut hearing) = falling.work.as_mut().await else { return Heard::Defect };
                if falling.ended {
                    hearing.end();
                }
                let why = falling.why.clone();
                *self = hearing;
                return Heard::FellBack(why);
            }
        };
        self.fall_back(trouble);
        Heard::Settled
    }

    fn fall_back(&mut self, trouble: GladiaTrouble) {
        // The placeholder is replaced at once.
        let placeholder = FallingBack::nothing();
        *self = match mem::replace(self, Self::FallingBack(Box::new(placeholder))) {
            Self::Gladia(remote) => Self::FallingBack(Box::new(remote.fail(trouble))),
            other => other,
        };
    }
}

impl Embedded {
    async fn off_thread(&mut self, work: impl FnOnce(&mut Listener) + Send + 'static) -> Result<(), Defect> {
        let mut listener = self.listener.take().ok_or(Defect)?;
        let worked = tokio::task::spawn_blocking(move || {
            work(&mut listener);
            listener
        });
        self.listener = Some(worked.await.map_err(|_| Defect)?);
        Ok(())
    }

    fn tell(&mut self, what: impl FnOnce(&mut Listener)) {
        if let Some(listener) = &mut self.listener {
            what(listener);
        }
        self.ask();
    }

    /// Gives the engines what should be decoded next.
    fn ask(&mut self) {
        if let Some(decode) = self.listener.as_mut().and_then(|listener| listener.next(Instant::now())) {
            self.answer = Some(self.engines.engines().submit(decode));
        }
    }

    async fn next(&mut self) -> Heard {
        let (ticket, result) = awaited(&mut self.answer).await;
        self.answer = None;
        let Some(listener) = &mut self.listener else { return Heard::Settled };
        let settled = listener.settled();
        let spoken = listener.decoded(ticket, result, Instant::now());
        self.ask();
        spoken.map_or(Heard::Settled, |spoken| Heard::Spoken(spoken, settled))
    }
}

/// The answer when there is one to wait for. Cancel-safe: it stays where it is.
async fn awaited(answer: &mut Option<Answer>) -> <Answer as Future>::Output {
    match answer {
        Some(answer) => answer.await,
        None => std::future::pending().await,
    }
}
