//! Translations of finals, beside the captions: none of them waits for any of this.
//!
//! What is wanted was stored with its final, so that a worker that dies loses nothing: whoever is free claims it, holds it
//! while the translator is asked, and stores the text, or why there is none, once. What could not be had within its budget
//! is told as a failure by whoever notices.

use std::{collections::HashSet, sync::Arc, time::Duration};

use lifecycle::Lifecycle;
use model::{Clock, Timestamp, Untranslated};
use outbox::Bell;
use rpc::Source;
use settings::Reader;
use storage::{NewTranslation, Storage, StorageError, WantedTranslation};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use translate::{
    ClientError, Served, TEXT_BYTES_MAX, Text, TranslateSettings, Translated, Translator, Untranslatable,
    primary,
};

/// How long a claim lasts without being renewed.
const LEASE: Duration = Duration::from_secs(6);

/// Longest wait without a look: claims are renewed then, and what workers left that are gone is found.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Shortest wait between two looks that nobody rang for.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// How often it is looked whether the translator's languages are due.
const REFRESH_INTERVAL: Duration = Duration::from_secs(10);

/// Failures that are told in one go.
const EXPIRED_MAX: u32 = 100;

/// Wait while Postgres is away: doubles from the first to the last.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));

/// Longest list of languages in the settings, as in `open`.
const TARGETS_MAX: usize = rpc::wire::TRANSLATIONS_MAX;

/// Translations by what became of them.
const TRANSLATIONS_TOTAL: &str = "worker_translations_total";
/// Seconds from the final to its translation.
const TRANSLATION_SECONDS: &str = "worker_translation_seconds";
/// Translations that are wanted and not there yet, in all of the database.
const WAITING: &str = "worker_translations_waiting";
/// The label `outcome` of a text.
const TRANSLATED: &str = "translated";

pub(crate) fn register_metrics() {
    translate::describe_metrics();
    metrics::describe_counter!(TRANSLATIONS_TOTAL, "Translations of finals by what became of them");
    metrics::describe_histogram!(
        TRANSLATION_SECONDS,
        metrics::Unit::Seconds,
        "From a final to its translation"
    );
    metrics::describe_gauge!(WAITING, "Translations of finals that are wanted and not there yet");
    metrics::gauge!(WAITING).set(0.0);
    for outcome in [TRANSLATED].into_iter().chain(Untranslated::ALL.map(Untranslated::label)) {
        metrics::counter!(TRANSLATIONS_TOTAL, "outcome" => outcome).absolute(0);
    }
}

/// How finals are translated.
#[derive(Debug, Clone)]
pub struct TranslatingSettings {
    /// By whom.
    by: TranslatorName,
    /// How texts are, when they are.
    texts: Option<TranslateSettings>,
    /// Languages for sources that do not ask for any.
    targets: Vec<String>,
    /// How long after its final a translation is still of use.
    budget: Duration,
}

/// Who translates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TranslatorName {
    Nobody,
    /// A recognizer that understands speech of any language in English.
    Speech,
    /// A service that is given texts.
    Texts,
}

impl TranslatingSettings {
    /// Reads `TRANSLATOR`, `TRANSLATE_TO`, `TRANSLATION_BUDGET_MS` and what [`TranslateSettings`] reads.
    pub(crate) fn read(reader: &mut Reader) -> Self {
        let name = reader.text("TRANSLATOR").unwrap_or_else(|| "none".to_owned());
        let texts = TranslateSettings::read(reader, &name);
        let by = match name.as_str() {
            "none" => TranslatorName::Nobody,
            "libretranslate" | "openai" => TranslatorName::Texts,
            "whisper" => {
                if !cfg!(feature = "whisper") {
                    reader.problem(
                        "TRANSLATOR",
                        "this build has no Whisper; `make run WHISPER=1` makes one that has (cargo feature whisper)",
                    );
                }
                TranslatorName::Speech
            }
            _ => {
                reader.problem("TRANSLATOR", "expected none, whisper, libretranslate or openai");
                TranslatorName::Nobody
            }
        };
        let targets = reader.list("TRANSLATE_TO");
        if targets.len() > TARGETS_MAX || targets.iter().any(|target| primary(target).is_none()) {
            reader.problem("TRANSLATE_TO", "expected at most 8 languages such as ar,es");
        }
        let budget = reader.millis("TRANSLATION_BUDGET_MS", Duration::from_secs(10));
        Self { by, texts, targets, budget }
    }
}

/// What streams and calls know of translations. Clones are the same.
#[derive(Clone)]
pub(crate) struct Translations {
    by: By,
    targets: Arc<[String]>,
    budget: Duration,
    /// Rung when a final was stored whose translations are wanted.
    ring: Arc<Notify>,
}

#[derive(Clone)]
enum By {
    Nobody,
    Speech,
    Texts { translator: Translator, concurrency: usize },
}

impl Translations {
    /// # Errors
    /// The translator cannot be asked from here.
    pub(crate) fn new(settings: &TranslatingSettings) -> Result<Self, ClientError> {
        let by = match (settings.by, &settings.texts) {
            (TranslatorName::Texts, Some(texts)) => {
                By::Texts { translator: Translator::new(texts)?, concurrency: texts.concurrency }
            }
            (TranslatorName::Speech, _) => By::Speech,
            _ => By::Nobody,
        };
        let targets = settings.targets.clone().into();
        Ok(Self { by, targets, budget: settings.budget, ring: Arc::default() })
    }

    /// Why a language is not translated into another, for the user; `None` when it is, or may be.
    fn unserved(&self, source: Option<&str>, target: &str) -> Option<String> {
        match &self.by {
            By::Nobody => Some(format!("no translator is set here: captions do not come in {target}")),
            By::Speech if primary(target).as_deref() == Some("en") => None,
            By::Speech => Some(format!("no translator here serves {target}; choose one of: en")),
            By::Texts { translator, .. } => match translator.serves(source, target) {
                Served::Yes | Served::Perhaps => None,
                Served::No(served) => Some(translate::unserved(source, target, &served)),
            },
        }
    }

    /// Translates a text that is no caption, within the budget of one.
    ///
    /// # Errors
    /// See [`Untranslatable`].
    pub(crate) async fn translate(&self, text: Text<'_>) -> Result<Arc<Translated>, Untranslatable> {
        if text.source.and_then(primary).is_some_and(|source| primary(text.target) == Some(source)) {
            let source = text.source.map(str::to_owned);
            return Ok(Arc::new(Translated { text: text.text.to_owned(), source }));
        }
        match &self.by {
            By::Texts { translator, .. } => translator.translate(text, Instant::now() + self.budget).await,
            By::Nobody => Err(Untranslatable::Unserved("no translator is set".to_owned())),
            By::Speech => {
                Err(Untranslatable::Unserved("only speech is translated here, no texts".to_owned()))
            }
        }
    }
}

/// Into which languages the finals of one stream are translated.
pub(crate) struct Targets {
    translations: Translations,
    wanted: Vec<String>,
    /// What its source was told that nobody serves.
    told: HashSet<String>,
    /// What it is to be told.
    unserved: Vec<String>,
}

impl Targets {
    pub(crate) fn new(translations: &Translations, source: &Source) -> Self {
        let asked = &source.translate_to;
        let wanted = if asked.is_empty() { translations.targets.to_vec() } else { asked.clone() };
        let mut targets =
            Self { translations: translations.clone(), wanted, told: HashSet::new(), unserved: Vec::new() };
        // Before anybody has spoken, as far as it is known by then.
        targets.of(source.language.as_deref().and_then(primary).as_deref());
        targets
    }

    /// Those that a final in this language is translated into.
    pub(crate) fn of(&mut self, language: Option<&str>) -> Vec<String> {
        let mut targets = Vec::new();
        for target in &self.wanted {
            if language.and_then(primary).is_some_and(|language| primary(target) == Some(language)) {
                continue;
            }
            match self.translations.unserved(language, target) {
                None => targets.push(target.clone()),
                Some(text) => {
                    if self.told.insert(text.clone()) {
                        self.unserved.push(text);
                    }
                }
            }
        }
        targets
    }

    /// English, as it was asked for, when speech is translated to it.
    pub(crate) fn english(&self) -> Option<&str> {
        let spoken = matches!(self.translations.by, By::Speech);
        let english = || self.wanted.iter().find(|target| primary(target).as_deref() == Some("en"));
        spoken.then(english).flatten().map(String::as_str)
    }

    /// What nobody serves, for the user; each is told once.
    pub(crate) fn unserved(&mut self) -> Option<String> {
        let told = std::mem::take(&mut self.unserved);
        (!told.is_empty()).then(|| told.join("; "))
    }

    /// A final was stored.
    pub(crate) fn ring(&self) {
        if !self.wanted.is_empty() {
            self.translations.ring.notify_one();
        }
    }
}

/// Stores what became of translations.
#[derive(Clone)]
pub(crate) struct Teller {
    pub(crate) storage: Storage,
    pub(crate) bell: Bell,
    pub(crate) clock: Clock,
}

impl Teller {
    /// Stores it and has it announced, unless that was done before.
    ///
    /// # Errors
    /// As any operation of Postgres. Repeating it is safe.
    pub(crate) async fn tell(
        &self,
        wanted: &WantedTranslation,
        outcome: Result<String, Untranslated>,
    ) -> Result<(), StorageError> {
        let label = outcome.as_ref().map_or_else(|failure| failure.label(), |_| TRANSLATED);
        let at = self.clock.now();
        let told = NewTranslation {
            session: wanted.session.clone(),
            utterance: wanted.utterance.clone(),
            revision: wanted.revision,
            target: wanted.target.clone(),
            outcome,
            at,
        };
        if self.storage.tell_translation(&told).await?.is_some() {
            self.bell.ring();
            metrics::counter!(TRANSLATIONS_TOTAL, "outcome" => label).increment(1);
            metrics::histogram!(TRANSLATION_SECONDS).record(at.since(wanted.wanted_at));
        }
        Ok(())
    }
}

/// Translates what is wanted, whoever wants it.
pub(crate) struct Translating {
    translations: Translations,
    teller: Teller,
    asking: JoinSet<i64>,
    /// Claimed, and being asked for.
    held: HashSet<i64>,
}

impl Translating {
    /// Starts it. It ends at the hard stop and gives back what it has claimed by then.
    pub(crate) fn start(translations: &Translations, teller: Teller, life: &Lifecycle) {
        let translating =
            Self { translations: translations.clone(), teller, asking: JoinSet::new(), held: HashSet::new() };
        life.spawn_companion("translations", translating.run(life.stopping().clone()));
        if let By::Texts { translator, .. } = &translations.by {
            let (translator, stopping) = (translator.clone(), life.stopping().clone());
            life.spawn_companion("languages of the translator", async move {
                loop {
                    tokio::select! {
                        () = stopping.cancelled() => return,
                        () = async {
                            translator.refresh().await;
                            sleep(REFRESH_INTERVAL).await;
                        } => {}
                    }
                }
            });
        }
    }

    async fn run(mut self, stopping: CancellationToken) {
        let mut back_off = None;
        loop {
            let wait = match self.look().await {
                Ok(wait) => {
                    back_off = None;
                    wait
                }
                Err(error) => {
                    if back_off.is_none() {
                        tracing::warn!(%error, "translations wait");
                    }
                    *back_off.insert(back_off.map_or(BACK_OFF.0, |wait: Duration| (wait * 2).min(BACK_OFF.1)))
                }
            };
            tokio::select! {
                () = stopping.cancelled() => break,
                Some(asked) = self.asking.join_next() => {
                    // One that died of a defect is not held any longer either: its claim lapses.
                    match asked {
                        Ok(id) => drop(self.held.remove(&id)),
                        Err(error) => {
                            tracing::error!(%error, "translate a final");
                            self.held.clear();
                        }
                    }
                }
                () = self.translations.ring.notified(), if back_off.is_none() => {}
                () = sleep(wait) => {}
            }
        }
        self.asking.shutdown().await;
        let held: Vec<i64> = self.held.into_iter().collect();
        if !held.is_empty()
            && let Err(error) = self.teller.storage.hold_translations(&held, self.teller.clock.now()).await
        {
            tracing::warn!(%error, "give translations back");
        }
    }

    /// Tells what is too late, asks for as much of the rest as there are places, and holds on to it; how long until there
    /// may be more to do.
    async fn look(&mut self) -> Result<Duration, StorageError> {
        let (storage, clock) = (self.teller.storage.clone(), self.teller.clock.clone());
        let held: Vec<i64> = self.held.iter().copied().collect();
        if !held.is_empty() {
            storage.hold_translations(&held, clock.now().after(LEASE)).await?;
        }
        self.expire().await?;
        let away = match &self.translations.by {
            By::Texts { translator, .. } => translator.away_until(),
            By::Nobody | By::Speech => None,
        };
        let mut free = 0;
        if let By::Texts { translator, concurrency } = &self.translations.by {
            free = concurrency.saturating_sub(self.asking.len());
            if free > 0 && away.is_none() {
                let limit = u32::try_from(free).unwrap_or(u32::MAX);
                for wanted in storage.claim_translations(None, limit, LEASE, clock.now()).await? {
                    free = free.saturating_sub(1);
                    self.held.insert(wanted.id);
                    let (translator, teller) = (translator.clone(), self.teller.clone());
                    self.asking.spawn(ask(translator, teller, wanted, self.translations.budget));
                }
            }
        }
        let waiting = storage.waiting_translations().await?;
        metrics::gauge!(WAITING).set(waiting.count as f64);
        Ok(match waiting.next {
            Some(next) if free > 0 => {
                let away =
                    away.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
                next.since(clock.now()).max(away).clamp(LOOK_INTERVAL, POLL_INTERVAL)
            }
            _ => POLL_INTERVAL,
        })
    }

    /// Tells what nobody has translated in time.
    async fn expire(&self) -> Result<(), StorageError> {
        let Teller { storage, clock, .. } = &self.teller;
        loop {
            let now = clock.now();
            let before = now.before(self.translations.budget);
            let expired = storage.claim_translations(Some(before), EXPIRED_MAX, LEASE, now).await?;
            for wanted in &expired {
                self.teller.tell(wanted, Err(self.lateness())).await?;
            }
            if expired.len() < EXPIRED_MAX as usize {
                return Ok(());
            }
        }
    }

    /// Why a translation did not come in time.
    fn lateness(&self) -> Untranslated {
        match &self.translations.by {
            By::Texts { translator, .. } if translator.away_until().is_some() => Untranslated::Unavailable,
            By::Nobody | By::Speech | By::Texts { .. } => Untranslated::TooLate,
        }
    }
}

/// Has a final translated that was claimed; its row.
async fn ask(translator: Translator, teller: Teller, wanted: WantedTranslation, budget: Duration) -> i64 {
    let id = wanted.id;
    if let Err(error) = try_ask(&translator, &teller, &wanted, budget).await {
        // The claim lapses, and it is asked for again; what the translator said is in the cache.
        tracing::warn!(%error, "store a translation");
    }
    id
}

async fn try_ask(
    translator: &Translator,
    teller: &Teller,
    wanted: &WantedTranslation,
    budget: Duration,
) -> Result<(), StorageError> {
    let left = budget.saturating_sub(teller.clock.now().since(wanted.wanted_at));
    let deadline = Instant::now() + left;
    let text = Text { text: &wanted.text, source: wanted.source.as_deref(), target: &wanted.target };
    let asked = if wanted.text.len() > TEXT_BYTES_MAX {
        Err(Untranslatable::Refused)
    } else {
        translator.translate(text, deadline).await
    };
    match asked {
        Ok(translated) => teller.tell(wanted, Ok(translated.text.trim().to_owned())).await,
        // There is time left for when it is tried again.
        Err(Untranslatable::Away { until }) if until < deadline => {
            let pause = until.saturating_duration_since(Instant::now());
            let until: Timestamp = teller.clock.now().after(pause);
            teller.storage.hold_translations(&[wanted.id], until).await
        }
        Err(failure) => teller.tell(wanted, Err(failure.reason())).await,
    }
}
