use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use auth::ServiceKeys;
use event_bus::BusSettings;
use model::EngineName;
use settings::Reader;
use speech::{GladiaSettings, OpenAiSettings};
use storage::{StorageSettings, StreamLimits};
use telemetry::TelemetrySettings;

use crate::{languages::Languages, translating::TranslatingSettings};

/// Streams that one worker takes at most, whatever its speed: each may hold a minute of sound in memory.
const STREAMS_MAX: usize = 256;

/// Longest lag that speakers may have, in milliseconds.
const LAG_MS_MAX: i64 = 10_000;

/// Everything that a worker can be told.
///
/// | setting | default | meaning |
/// |-|-|-|
/// | `DATABASE_URL` | required | Postgres |
/// | `REDIS_URL` | `redis://127.0.0.1:6379` | Redis |
/// | `BIND_ADDR` | `127.0.0.1` | address of both listeners |
/// | `WORKER_PORT` | 50051 | gRPC |
/// | `WORKER_METRICS_PORT` | 9102 | `/livez`, `/readyz`, `/metrics` |
/// | `INTERNAL_TOKEN` | none | token that callers must present, when set |
/// | `PARLEY_MODEL_DIR` | nearest `.parley/model` | folder of the speech model |
/// | `ENGINE_THREADS` | cores | decodes at a time |
/// | `STREAMS_MAX` | 256 | streams at a time |
/// | `ENGINE` | `auto` | `moonshine` (English), `whisper`, `gladia` or `openai` for every language that it knows, or `auto`: Gladia when its key is set, else Moonshine for English and Whisper or OpenAI's for the others |
/// | `LANGUAGE_ENGINES` | by `ENGINE` | which engine hears which language: `en=moonshine,ru=openai,*=whisper` |
/// | `LANGUAGE` | `en` | language of streams that do not say; `auto` to have it detected |
/// | `SECOND_PASS` | none | `whisper` or `openai`: hears the finals of Moonshine's streams again |
/// | `WHISPER_MODEL_DIR` | nearest `.parley/model-whisper` | folder of a multilingual Whisper in CTranslate2's format; a build with the feature `whisper` |
/// | `WHISPER_THREADS` | 1 | utterances that Whisper decodes at a time |
/// | `OPENAI_API_KEY` and others | see `speech` | a server with OpenAI's `/v1/audio/transcriptions` |
/// | `GLADIA_API_KEY` and others | see `speech` | Gladia |
/// | `TRANSLATOR` | `none` | who translates finals: `libretranslate`, `openai`, or `whisper` (speech, to English) |
/// | `TRANSLATE_TO` | none | languages (BCP 47, at most 8) for sources that do not ask for any: `ar,es` |
/// | `TRANSLATION_BUDGET_MS` | 10000 | how long after its final a translation is still of use; then it is told as `too_late` |
/// | `TRANSLATE_CONCURRENCY` | 4 | texts that the translator is given at a time |
/// | `TRANSLATE_CACHE_BYTES` | 16777216 | what is remembered of what was translated; 0 for nothing |
/// | `LIBRETRANSLATE_URL` | required by it | a server with LibreTranslate's API |
/// | `LIBRETRANSLATE_API_KEY` | none | its key, if it asks for one |
/// | `OPENAI_TRANSLATE_MODEL` | `gpt-4o-mini` | model of chat completions at `OPENAI_API_URL` (`https://api.openai.com/v1`) with `OPENAI_API_KEY` |
/// | `SPEAKER_LAG_MS` | 250 | how much later than the sound of a room its active speakers are told; below 0 when the sound comes later |
/// | `USER_STREAMS_MAX` | 5 | active streams of one user; 0 for any number |
/// | `SESSION_STREAMS_MAX` | 10 | active streams of users in one session; 0 for any number |
/// | `LINGER_SECONDS` | 30 | how long an open utterance waits for a source that vanished |
/// | `DRAIN_SECONDS` | 25 | how long a drain may take |
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// Logs.
    pub telemetry: TelemetrySettings,
    /// Postgres.
    pub storage: StorageSettings,
    /// Redis.
    pub bus: BusSettings,
    /// Where gRPC is served.
    pub address: SocketAddr,
    /// Where the admin listener is.
    pub admin_address: SocketAddr,
    /// Tokens that callers may present; none means that nobody is asked.
    pub internal_tokens: ServiceKeys,
    /// Folder of the speech model.
    pub model_dir: Option<PathBuf>,
    /// Decodes at a time.
    pub engine_threads: usize,
    /// Streams at a time.
    pub streams_max: usize,
    /// Gladia, when it is used.
    pub gladia: Option<GladiaSettings>,
    /// Which engine hears which language.
    pub languages: Languages,
    /// What hears the finals of Moonshine's streams again.
    pub second_pass: Option<EngineName>,
    /// Whisper, when this build has it and its model is there.
    pub whisper: Option<WhisperSettings>,
    /// A server of OpenAI's kind, when it is used.
    pub openai: Option<OpenAiSettings>,
    /// How finals are translated.
    pub translating: TranslatingSettings,
    /// How much later than the sound of a room its active speakers are told.
    pub speaker_lag_ms: i64,
    /// How many streams a user, and the users of a session, may have active at a time.
    pub limits: StreamLimits,
    /// How long the open utterance of a lost call waits for its source to come back, here or at another worker, before
    /// it is ended as it is. By default as long as a native client may take to resume.
    pub linger: Duration,
    /// How long a drain may take.
    pub drain_limit: Duration,
}

impl WorkerSettings {
    /// Reads its section.
    ///
    /// # Errors
    /// Every setting that is missing or wrong.
    pub fn read(mut reader: Reader) -> Result<Self, settings::Problems> {
        let telemetry = TelemetrySettings::read(&mut reader);
        let storage = StorageSettings::read(&mut reader);
        let bus = BusSettings::read(&mut reader);
        let bind = reader.or("BIND_ADDR", IpAddr::V4(Ipv4Addr::LOCALHOST), "an IP address");
        let port = reader.or("WORKER_PORT", 50051_u16, "a port number");
        let admin_port = reader.or("WORKER_METRICS_PORT", 9102_u16, "a port number");
        let internal_tokens = ServiceKeys::new(reader.secrets("INTERNAL_TOKEN"));
        let model_dir = reader.optional("PARLEY_MODEL_DIR", "a folder");
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let engine_threads = reader.or("ENGINE_THREADS", cores, "a number of threads").max(1);
        let streams_max = reader.or("STREAMS_MAX", STREAMS_MAX, "a number of streams").clamp(1, STREAMS_MAX);
        let hearing = HearingSettings::read(&mut reader);
        let translating = TranslatingSettings::read(&mut reader);
        let speaker_lag_ms = reader.or("SPEAKER_LAG_MS", 250_i64, "a number of milliseconds");
        let mut most = |name, default| {
            let most: u32 = reader.or(name, default, "a number of streams, or 0 for any number");
            (most > 0).then_some(most)
        };
        let limits =
            StreamLimits { user: most("USER_STREAMS_MAX", 5), session: most("SESSION_STREAMS_MAX", 10) };
        let linger = reader.seconds("LINGER_SECONDS", Duration::from_secs(30));
        let drain_limit = reader.seconds("DRAIN_SECONDS", Duration::from_secs(25));
        reader.finish(|| {
            Some(Self {
                telemetry,
                storage: storage?,
                bus,
                address: SocketAddr::new(bind, port),
                admin_address: SocketAddr::new(bind, admin_port),
                internal_tokens,
                model_dir,
                engine_threads,
                streams_max,
                gladia: hearing.gladia,
                languages: hearing.languages?,
                second_pass: hearing.second_pass,
                whisper: hearing.whisper,
                openai: hearing.openai,
                translating,
                speaker_lag_ms: speaker_lag_ms.clamp(-LAG_MS_MAX, LAG_MS_MAX),
                limits,
                linger,
                drain_limit,
            })
        })
    }
}

/// The embedded Whisper.
#[derive(Debug, Clone)]
pub struct WhisperSettings {
    /// Folder of its model.
    pub dir: PathBuf,
    /// Utterances that it decodes at a time.
    pub threads: usize,
}

impl WhisperSettings {
    /// Whether this build has the engine.
    const BUILT: bool = cfg!(feature = "whisper");

    fn read(reader: &mut Reader) -> Option<Self> {
        let setting: Option<PathBuf> = reader.optional("WHISPER_MODEL_DIR", "a folder");
        let threads = reader.or("WHISPER_THREADS", 1_usize, "a number of threads").max(1);
        let here = std::env::current_dir().unwrap_or_default();
        let dir = speech::find_whisper(setting.as_deref(), &here);
        if setting.is_some() && dir.is_none() {
            reader.problem("WHISPER_MODEL_DIR", "holds no model.bin; `make model-whisper` fetches one");
        }
        dir.filter(|_| Self::BUILT).map(|dir| Self { dir, threads })
    }
}

/// What hears.
struct HearingSettings {
    gladia: Option<GladiaSettings>,
    /// None after a problem.
    languages: Option<Languages>,
    second_pass: Option<EngineName>,
    whisper: Option<WhisperSettings>,
    openai: Option<OpenAiSettings>,
}

impl HearingSettings {
    fn read(reader: &mut Reader) -> Self {
        let gladia = GladiaSettings::read(reader);
        let whisper = WhisperSettings::read(reader);
        let openai = OpenAiSettings::read(reader);
        let here = |engine: EngineName| match engine {
            EngineName::Moonshine => true,
            EngineName::Gladia => gladia.is_some(),
            EngineName::Whisper => whisper.is_some(),
            EngineName::OpenAi => openai.is_some(),
        };
        let others = [EngineName::Whisper, EngineName::OpenAi].into_iter().find(|engine| here(*engine));
        let others = others.map(|engine| format!("*={}", engine.label()));
        let named = reader.text("ENGINE");
        let table: Vec<String> = match named.as_deref() {
            None | Some("auto") if gladia.is_some() => vec!["*=gladia".to_owned()],
            None | Some("auto") => std::iter::once("en=moonshine".to_owned()).chain(others).collect(),
            Some("moonshine") => vec!["en=moonshine".to_owned()],
            Some(engine) if EngineName::from_label(engine).is_some() => vec![format!("*={engine}")],
            Some(_) => {
                reader.problem("ENGINE", "expected auto, moonshine, whisper, gladia or openai");
                vec!["en=moonshine".to_owned()]
            }
        };
        let given = reader.list("LANGUAGE_ENGINES");
        let table = if given.is_empty() { table } else { given };
        let default = reader.text("LANGUAGE").unwrap_or_else(|| "en".to_owned());
        let languages = Languages::new(table.iter().map(String::as_str), &default);
        let languages = languages.map_err(|problem| reader.problem("LANGUAGE_ENGINES", problem)).ok();

        let second_pass = reader.text("SECOND_PASS").and_then(|name| match name.as_str() {
            "none" => None,
            "whisper" => Some(EngineName::Whisper),
            "openai" => Some(EngineName::OpenAi),
            _ => {
                reader.problem("SECOND_PASS", "expected none, whisper or openai");
                None
            }
        });
        let used = |engine| {
            second_pass == Some(engine) || languages.as_ref().is_some_and(|languages| languages.uses(engine))
        };
        for engine in EngineName::ALL.into_iter().filter(|engine| used(*engine) && !here(*engine)) {
            match engine {
                EngineName::Gladia => reader.problem("GLADIA_API_KEY", "required, as Gladia is to hear"),
                EngineName::OpenAi => {
                    reader.problem("OPENAI_API_KEY", "required, as a server of OpenAI's kind is to hear")
                }
                EngineName::Whisper if WhisperSettings::BUILT => {
                    reader.problem("WHISPER_MODEL_DIR", "no model of Whisper is here; `make model-whisper` fetches one");
                }
                EngineName::Whisper => reader.problem(
                    "ENGINE",
                    "this build has no Whisper; `make run WHISPER=1` makes one that has (cargo feature whisper)",
                ),
                EngineName::Moonshine => {}
            }
        }
        Self { gladia, languages, second_pass, whisper, openai }
    }
}
