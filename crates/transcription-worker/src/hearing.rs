//! What hears a stream: the embedded engine or Gladia, driven the same way by the stream's task.

use std::{
    collections::VecDeque,
    future::Future,
    mem,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use model::{EngineName, Fallback, Samples};
use speech::{
    Answer, Decode, DecodeKind, Detected, EnginePool, Gladia, GladiaEvent, GladiaSession, GladiaTrouble,
    Listener, ListenerSettings, Spoken, Task, Wanted,
};

use crate::{
    capacity::{Capacity, Place, Who},
    languages::{Languages, Unserved},
};

/// An account that was refused is not tried again for so long: another stream would be refused as well.
const REFUSED_LIFE: Duration = Duration::from_secs(60);

/// Sound after which an engine without partials is asked which language is spoken: enough to be sure, in most cases.
const DETECT_INTERVAL: Duration = Duration::from_secs(3);

/// Under such a load of the second pass finals are those of the first.
const SECOND_PASS_WAIT_MAX: Duration = Duration::from_secs(3);

/// Streams that had to go on with another engine, by `reason`.
const FALLBACKS_TOTAL: &str = "worker_fallbacks_total";
/// Finals of streams with two passes, by the `pass` that made them.
const FINALS_TOTAL: &str = "worker_passes_total";

pub(crate) fn register_metrics() {
    metrics::describe_counter!(FALLBACKS_TOTAL, "Streams that had to go on with an engine of this worker");
    for reason in GladiaTrouble::LABELS {
        metrics::counter!(FALLBACKS_TOTAL, "reason" => reason).absolute(0);
    }
    metrics::describe_counter!(FINALS_TOTAL, "Finals of streams with two passes, by the pass that made them");
    for pass in ["first", "second"] {
        metrics::counter!(FINALS_TOTAL, "pass" => pass).absolute(0);
    }
}

/// The engines of a worker. Clones are the same.
#[derive(Clone)]
pub(crate) struct Engines {
    pub(crate) moonshine: Capacity,
    pub(crate) whisper: Option<Capacity>,
    pub(crate) openai: Option<Capacity>,
    pub(crate) gladia: Option<Gladia>,
    /// Why Gladia refuses us, and since when.
    pub(crate) refused: Arc<Mutex<Option<(Instant, GladiaTrouble)>>>,
    pub(crate) languages: Arc<Languages>,
    /// What hears the finals of Moonshine's streams again.
    pub(crate) second_pass: Option<EngineName>,
}

impl Engines {
    /// A place for a stream in this language, when there is room.
    pub(crate) fn take(&self, language: Option<&str>) -> Option<Place> {
        let (capacity, who) = self.capacity(language);
        capacity.take(who)
    }

    /// How many more streams in the default language could be taken now.
    pub(crate) fn room(&self) -> u32 {
        let (capacity, who) = self.capacity(None);
        capacity.room(who)
    }

    /// Whether an engine hears a language.
    pub(crate) fn serve(&self, language: Option<&str>) -> Result<(), Unserved> {
        self.chosen(language).map(drop)
    }

    /// Begins to hear a stream with the engine of its language; and why that is not Gladia, when it should be.
    pub(crate) fn hear(
        &self,
        settings: &ListenerSettings,
        language: Option<&str>,
        to_english: bool,
    ) -> Result<(Hearing, Option<Fallback>), Unserved> {
        let (engine, language) = self.chosen(language)?;
        let settings = ListenerSettings { language, ..settings.clone() };
        let (Some(gladia), EngineName::Gladia) = (&self.gladia, engine) else {
            let embedded = Embedded { to_english, ..self.embedded(&settings, engine) };
            return Ok((Hearing::Embedded(Box::new(embedded)), None));
        };
        if let Some(trouble) = self.refusal() {
            let embedded = self.embedded(&settings, self.instead_of_gladia(settings.language.as_deref()));
            let embedded = Embedded { to_english, ..embedded };
            return Ok((Hearing::Embedded(Box::new(embedded)), Some(fallback(trouble))));
        }
        let session = GladiaSession::open(gladia, &settings, settings.language.as_deref());
        let engines = self.clone();
        Ok((Hearing::Gladia(Box::new(Remote { session, engines, settings, to_english, ended: false })), None))
    }

    /// Begins to hear a recording, or to translate it to English; always with an engine of this worker.
    pub(crate) fn hear_recording(
        &self,
        settings: &ListenerSettings,
        language: Option<&str>,
    ) -> Result<Embedded, Unserved> {
        let (engine, language) = match language {
            // Nobody who hands in a recording of unknown language means the default of live streams.
            None => (self.detector(), (self.detector() == EngineName::Moonshine).then(|| "en".to_owned())),
            language => self.chosen(language)?,
        };
        let engine = match engine {
            EngineName::Gladia => self.instead_of_gladia(language.as_deref()),
            engine => engine,
        };
        let engine = match (settings.task, engine) {
            (Task::Translate, EngineName::Moonshine) => self.translator().ok_or(Unserved::Translation)?,
            (_, engine) => engine,
        };
        Ok(self.embedded(&ListenerSettings { language, ..settings.clone() }, engine))
    }

    /// What translates speech to English.
    pub(crate) fn translator(&self) -> Option<EngineName> {
        let whisper = self.whisper.as_ref().map(|_| EngineName::Whisper);
        whisper.or_else(|| self.openai.as_ref().map(|_| EngineName::OpenAi))
    }

    /// The engine of a language, and the language as it is called inside; none when it has to be detected.
    fn chosen(&self, asked: Option<&str>) -> Result<(EngineName, Option<String>), Unserved> {
        match self.languages.wanted(asked) {
            Some(language) => Ok((self.languages.engine(&language)?, Some(language))),
            None => match self.detector() {
                EngineName::Moonshine => Ok((EngineName::Moonshine, Some("en".to_owned()))),
                detector => Ok((detector, None)),
            },
        }
    }

    /// What finds out which language is spoken; Moonshine, which takes everything for English, when nobody can.
    fn detector(&self) -> EngineName {
        if self.languages.uses(EngineName::Gladia) && self.gladia.is_some() {
            EngineName::Gladia
        } else {
            self.translator().unwrap_or(EngineName::Moonshine)
        }
    }

    /// What hears a stream that Gladia should hear and does not.
    fn instead_of_gladia(&self, language: Option<&str>) -> EngineName {
        match (language, self.translator()) {
            (Some("en"), _) | (_, None) => EngineName::Moonshine,
            (_, Some(engine)) => engine,
        }
    }

    /// The places of the engine that would hear a language.
    fn capacity(&self, language: Option<&str>) -> (&Capacity, Who) {
        let engine = self.chosen(language).map_or(EngineName::Moonshine, |(engine, _)| engine);
        match engine {
            EngineName::Gladia if self.refusal().is_none() => (&self.moonshine, Who::Provider),
            EngineName::Gladia => {
                let engine = self.instead_of_gladia(self.languages.wanted(language).as_deref());
                (self.pool_of(engine), Who::Embedded)
            }
            engine => (self.pool_of(engine), Who::Embedded),
        }
    }

    /// An engine's own places; Moonshine's for one that is not here.
    fn pool_of(&self, engine: EngineName) -> &Capacity {
        let own = match engine {
            EngineName::Whisper => self.whisper.as_ref(),
            EngineName::OpenAi => self.openai.as_ref(),
            EngineName::Moonshine | EngineName::Gladia => None,
        };
        own.unwrap_or(&self.moonshine)
    }

    fn embedded(&self, settings: &ListenerSettings, engine: EngineName) -> Embedded {
        let road = self.road(engine);
        let mut listener = Listener::new(settings.clone());
        listener.pace(road.partial_interval(settings), road.second.is_some());
        Embedded {
            listener: Some(Box::new(listener)),
            answer: None,
            asked: SystemTime::UNIX_EPOCH,
            decoded: None,
            road,
            settings: settings.clone(),
            engines: self.clone(),
            to_english: false,
            with_final: None,
            translating: VecDeque::new(),
        }
    }

    fn road(&self, engine: EngineName) -> Road {
        let second = (engine == EngineName::Moonshine).then_some(self.second_pass).flatten();
        Road {
            engine,
            first: Arc::clone(self.pool_of(engine).engines()),
            second: second.map(|second| Arc::clone(self.pool_of(second).engines())),
        }
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

/// Which engines decode what a listener asks for.
struct Road {
    engine: EngineName,
    first: Arc<EnginePool>,
    /// Finals once more, from another engine.
    second: Option<Arc<EnginePool>>,
}

impl Road {
    /// How often the open utterance is decoded. Only Moonshine is fast enough for partials; the others hear the beginning
    /// of an utterance while they have to find out its language.
    fn partial_interval(&self, settings: &ListenerSettings) -> Option<Duration> {
        match (self.engine, &settings.language) {
            (EngineName::Moonshine, _) => settings.partial_interval,
            (_, None) if !settings.recording => Some(DETECT_INTERVAL),
            (_, _) => None,
        }
    }

    fn submit(&self, decode: Decode) -> Answer {
        let Some(second) = self.second.as_ref().filter(|_| decode.kind() != DecodeKind::Partial) else {
            return self.first.submit(decode);
        };
        let spared = second.load().oldest_wait > SECOND_PASS_WAIT_MAX;
        metrics::counter!(FINALS_TOTAL, "pass" => if spared { "first" } else { "second" }).increment(1);
        if spared { self.first.submit(decode) } else { second.submit(decode) }
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
    Embedded(Box<Embedded>),
    Gladia(Box<Remote>),
    /// Gladia has failed, and the embedded engine is hearing what it has left.
    FallingBack(Box<FallingBack>),
}

/// A session at Gladia, and what goes on when it fails.
pub(crate) struct Remote {
    session: GladiaSession,
    engines: Engines,
    settings: ListenerSettings,
    to_english: bool,
    ended: bool,
}

pub(crate) struct FallingBack {
    work: Pin<Box<dyn Future<Output = Result<Hearing, Defect>> + Send>>,
    engine: EngineName,
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
            engine: EngineName::Moonshine,
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
        let Self { session, engines, settings, to_english, ended } = self;
        engines.note(trouble);
        let (settled, heard) = (session.settled(), session.heard());
        let left = session.into_unsettled();
        let settings = ListenerSettings { first: settled, next_number: left.next_number, ..settings };
        let engine = engines.instead_of_gladia(settings.language.as_deref());
        let embedded = Embedded { to_english, ..engines.embedded(&settings, engine) };
        let mut hearing = Hearing::Embedded(Box::new(embedded));
        let work = Box::pin(async move {
            for (start, sound) in left.sound {
                hearing.skip_to(start);
                hearing.hear(sound).await?;
            }
            hearing.skip_to(heard);
            Ok(hearing)
        });
        FallingBack { work, engine, why: fallback(trouble), heard, settled, ended }
    }
}

/// A listener with the engines of this worker.
pub(crate) struct Embedded {
    /// Away while it works on a thread of its own.
    listener: Option<Box<Listener>>,
    answer: Option<Answer>,
    /// When the last of them was asked for.
    asked: SystemTime,
    decoded: Option<Decoded>,
    road: Road,
    /// As its source wants to be heard, in whatever language.
    settings: ListenerSettings,
    engines: Engines,
    /// Whether finals in other languages are wanted in English as well.
    to_english: bool,
    /// The translation of the final that is being decoded.
    with_final: Option<Answer>,
    /// Translations of finals that were told, by their numbers. As many as wait for the engine.
    translating: VecDeque<(u32, Answer)>,
}

/// How long an engine had what was spoken last, its queue included.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decoded {
    pub(crate) asked: SystemTime,
    pub(crate) answered: SystemTime,
}

/// What came of waiting.
pub(crate) enum Heard {
    /// Something was said; the sound before `settled` was dealt with before.
    Spoken(Spoken, Samples),
    /// A final that was told before, in English; `None` when the engine has failed.
    Translated(u32, Option<String>),
    /// Nothing to tell; positions may have moved.
    Settled,
    /// Another engine goes on.
    FellBack(Fallback),
    Defect,
}

impl Hearing {
    pub(crate) fn engine(&self) -> EngineName {
        match self {
            Self::Embedded(embedded) => embedded.road.engine,
            Self::FallingBack(falling) => falling.engine,
            Self::Gladia(_) => EngineName::Gladia,
        }
    }

    /// How what was told last was decoded; `None` when that was elsewhere.
    pub(crate) fn decoded(&self) -> Option<Decoded> {
        match self {
            Self::Embedded(embedded) => embedded.decoded,
            Self::Gladia(_) | Self::FallingBack(_) => None,
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
                embedded.hear(&samples).await?;
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

    /// Another language is spoken from here on. A session of Gladia keeps the one that it was opened with.
    pub(crate) fn speak(&mut self, language: &str) -> Result<(), Unserved> {
        match self {
            Self::Embedded(embedded) => embedded.speak(language),
            Self::Gladia(_) | Self::FallingBack(_) => Ok(()),
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
            Self::Embedded(embedded) => embedded.heard(),
        }
    }

    /// Everything before this is silence or covered by a final that was told; `None` after a defect.
    pub(crate) fn settled(&self) -> Option<Samples> {
        match self {
            Self::Gladia(remote) => Some(remote.session.settled()),
            Self::FallingBack(falling) => Some(falling.settled),
            Self::Embedded(embedded) => embedded.settled(),
        }
    }

    /// Whether an utterance is over and its final was not told.
    pub(crate) fn awaits_final(&self) -> bool {
        match self {
            Self::Gladia(remote) => remote.session.awaits_final(),
            Self::FallingBack(_) => true,
            Self::Embedded(embedded) => {
                embedded.listener.as_ref().is_some_and(|listener| listener.awaits_final())
            }
        }
    }

    /// Nobody speaks and every final was told.
    pub(crate) fn idle(&self) -> bool {
        match self {
            Self::Gladia(remote) => remote.session.idle(),
            Self::FallingBack(_) => false,
            Self::Embedded(embedded) => embedded.idle(),
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
    /// Hears the samples that follow those heard before.
    pub(crate) async fn hear(&mut self, samples: &[i16]) -> Result<(), Defect> {
        for second in samples.chunks(rpc::AUDIO_SAMPLES_MAX) {
            let second = second.to_vec();
            self.off_thread(move |listener| listener.hear(&second)).await?;
            self.ask();
        }
        Ok(())
    }

    /// No more sound will come.
    pub(crate) fn end(&mut self) {
        self.tell(Listener::end);
    }

    /// See [`Hearing::heard`].
    pub(crate) fn heard(&self) -> Option<Samples> {
        self.listener.as_ref().map(|listener| listener.heard())
    }

    /// See [`Hearing::settled`].
    pub(crate) fn settled(&self) -> Option<Samples> {
        self.listener.as_ref().map(|listener| listener.settled())
    }

    /// See [`Hearing::idle`].
    pub(crate) fn idle(&self) -> bool {
        self.listener.as_ref().is_none_or(|listener| listener.idle()) && self.translating.is_empty()
    }

    /// What hears now.
    pub(crate) fn engine(&self) -> EngineName {
        self.road.engine
    }

    /// The language that was found out, and how sure that is.
    pub(crate) fn detected(&self) -> Option<Detected> {
        self.listener.as_ref()?.detected().cloned()
    }

    /// The language that is spoken, once it is known.
    pub(crate) fn language(&self) -> Option<String> {
        self.listener.as_ref()?.language().map(str::to_owned)
    }

    /// See [`Hearing::speak`].
    fn speak(&mut self, language: &str) -> Result<(), Unserved> {
        let (engine, language) = self.engines.chosen(Some(language))?;
        let engine = match engine {
            EngineName::Gladia => self.engines.instead_of_gladia(language.as_deref()),
            engine => engine,
        };
        self.tell(|listener| listener.speak(language));
        self.take(engine);
        Ok(())
    }

    /// Goes on with the engine of the language that was found out.
    fn follow_language(&mut self) {
        let Some(language) = self.listener.as_ref().and_then(|listener| listener.language()) else { return };
        if self.settings.language.as_deref() == Some(language) {
            return;
        }
        tracing::info!(language, "language detected");
        // A recording stays where it is: whoever detects hears as well.
        let engine = match self.engines.languages.engine(language) {
            Ok(engine @ (EngineName::Moonshine | EngineName::Whisper | EngineName::OpenAi))
                if !self.settings.recording =>
            {
                engine
            }
            _ => self.road.engine,
        };
        self.take(engine);
    }

    /// Goes on with an engine, in the language that the listener knows.
    fn take(&mut self, engine: EngineName) {
        let Some(listener) = &mut self.listener else { return };
        self.settings.language = listener.language().map(str::to_owned);
        self.road = self.engines.road(engine);
        listener.pace(self.road.partial_interval(&self.settings), self.road.second.is_some());
    }

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
            self.with_final = self.translation(&decode);
            self.asked = telemetry::now();
            self.answer = Some(self.road.submit(decode));
        }
    }

    /// Has a final translated to English, when that is wanted and it is not English already.
    fn translation(&self, decode: &Decode) -> Option<Answer> {
        let wanted = Wanted { language: decode.wanted.language.clone(), task: Task::Translate };
        if !self.to_english || decode.kind() != DecodeKind::Final || wanted.language.as_deref() == Some("en")
        {
            return None;
        }
        let engine = self.engines.translator()?;
        Some(self.engines.pool_of(engine).engines().submit(decode.again(wanted)))
    }

    /// See [`Hearing::next`].
    pub(crate) async fn next(&mut self) -> Heard {
        let (ticket, result) = tokio::select! {
            answered = awaited(&mut self.answer) => answered,
            (number, text) = translated(&mut self.translating) => {
                self.translating.pop_front();
                return Heard::Translated(number, text);
            }
        };
        self.answer = None;
        self.decoded = Some(Decoded { asked: self.asked, answered: telemetry::now() });
        let Some(listener) = &mut self.listener else { return Heard::Settled };
        let settled = listener.settled();
        let spoken = listener.decoded(ticket, result, Instant::now());
        if let (Some(Spoken::Final { number, .. }), Some(answer)) = (&spoken, self.with_final.take()) {
            self.translating.push_back((*number, answer));
        }
        self.follow_language();
        self.ask();
        spoken.map_or(Heard::Settled, |spoken| Heard::Spoken(spoken, settled))
    }
}

/// The oldest of the translations. Pending when there is none. Cancel-safe: it stays where it is.
async fn translated(translating: &mut VecDeque<(u32, Answer)>) -> (u32, Option<String>) {
    match translating.front_mut() {
        Some((number, answer)) => {
            let (_, result) = answer.await;
            (*number, result.ok().map(|hypothesis| hypothesis.text()))
        }
        None => std::future::pending().await,
    }
}

/// The answer when there is one to wait for. Cancel-safe: it stays where it is.
async fn awaited(answer: &mut Option<Answer>) -> <Answer as Future>::Output {
    match answer {
        Some(answer) => answer.await,
        None => std::future::pending().await,
    }
}
