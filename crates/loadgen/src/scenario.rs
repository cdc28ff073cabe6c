use std::{ops::Range, path::Path, sync::Arc, time::Duration};

use auth::AuthError;
use model::Samples;
use serde::Deserialize;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use uuid::Uuid;

use crate::{
    baseline::{Baseline, Comparison},
    client::{Conversation, Cut, Pace, Speech, converse},
    cpu,
    fault::{self, Fault},
    follower::follow,
    measure::{Measures, drift_s, measure},
    memory::Memory,
    playlist::Playlist,
    recording::Recording,
    report::Level,
    socket::StreamError,
    target::Target,
    told::Told,
};

/// Time between the first words of two streams. Long enough that their utterances lie apart and that a worker of two
/// engines takes one after the other, and no multiple of any interval of the server.
const STAGGER: Duration = Duration::from_millis(830);

/// How long a client that comes back waits for the server.
const PATIENCE: Duration = Duration::from_secs(40);

/// The beginning and the end of a long run that are compared.
const WINDOW_S: f64 = 300.0;

/// How a stream of a session is called, and whoever follows it.
const SPEAKER: &str = "speaker";

/// People speaking at the same time, each into a session of their own, what happens meanwhile, and what must hold.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What happens, in a sentence.
    #[serde(default)]
    pub about: String,
    /// How many speak.
    pub streams: usize,
    /// Least length of each, seconds; every recording once when absent.
    pub seconds: Option<u32>,
    /// How many follow each of them.
    #[serde(default)]
    pub followers: usize,
    /// Whether clients that lose their connection come back and resume.
    #[serde(default)]
    pub resume: bool,
    /// Streams are offered, up to `streams`, until as many were refused as accepted: twice the capacity.
    #[serde(default)]
    pub until_refused: bool,
    /// A bad network.
    pub disconnects: Option<Disconnects>,
    /// What is done to the services.
    #[serde(default)]
    pub faults: Vec<Fault>,
    /// What must hold, besides that nothing is lost.
    #[serde(default)]
    pub bars: Bars,
    /// Seconds until memory is to be flat; watched when set.
    pub warm_up_s: Option<u32>,
}

/// Sockets that die, at moments that are the same in every run.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disconnects {
    /// How many in each stream.
    pub count: usize,
    /// The shortest and the longest time without a network, seconds.
    pub away_s: (f64, f64),
}

/// What must hold.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bars {
    /// Words of the first hearing that may be missing: at the seams the model may hear otherwise.
    #[serde(default)]
    pub words_lost: usize,
    /// Words that may be there besides.
    #[serde(default)]
    pub words_added: usize,
    /// Followers that may come back within the same tenth of a second.
    pub returns_at_once: Option<usize>,
    /// Delay of stable words, 95 of 100, ms.
    pub stable_p95_ms: Option<u64>,
    /// Longest wait for a refusal, ms.
    pub refused_ms: Option<u64>,
    /// Memory that a process may gain, MB an hour.
    pub growth_mb_per_hour: Option<f64>,
    /// How far the median delay of stable words may move from the first to the last five minutes, ms.
    pub delay_moves_ms: Option<u64>,
    /// How far timestamps may move over the run, ms.
    pub drift_ms: Option<u64>,
}

/// Why a file is no scenario.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// It cannot be read.
    #[error("{0} cannot be read: {1}")]
    Unreadable(String, std::io::Error),
    /// It does not say what a scenario says.
    #[error("{0}: {1}")]
    Wrong(String, Box<toml::de::Error>),
}

/// How a stream ended.
struct Ended {
    number: usize,
    /// From its first attempt to its end.
    took: Duration,
    outcome: Result<Conversation, StreamError>,
}

/// What happened in a scenario.
struct Played {
    /// What each stream said.
    lists: Vec<Arc<Playlist>>,
    ended: Vec<Ended>,
    /// What was done to the services, or why not.
    faults: Vec<Result<String, String>>,
    /// What followers of which stream were told.
    followed: Vec<(usize, Told)>,
}

impl Scenario {
    /// Reads it from a TOML file.
    ///
    /// # Errors
    /// See [`ScenarioError`].
    pub fn read(path: &Path) -> Result<Self, ScenarioError> {
        let name = path.display().to_string();
        let text =
            std::fs::read_to_string(path).map_err(|error| ScenarioError::Unreadable(name.clone(), error))?;
        toml::from_str(&text).map_err(|error| ScenarioError::Wrong(name, Box::new(error)))
    }

    /// So many people speak for so long, and nothing happens.
    pub fn calm(streams: usize, seconds: Option<u32>) -> Self {
        Self {
            about: String::new(),
            streams,
            seconds,
            followers: 0,
            resume: false,
            until_refused: false,
            disconnects: None,
            faults: Vec::new(),
            bars: Bars::default(),
            warm_up_s: None,
        }
    }

    /// How long it takes, about.
    pub fn about(&self, recordings: &[Recording]) -> Duration {
        self.playlist(recordings, 0).length().duration()
    }

    /// Each begins elsewhere, so that they do not all pause together.
    fn playlist(&self, recordings: &[Recording], number: usize) -> Playlist {
        let length = self.seconds.map(|seconds| Samples::from_millis(u64::from(seconds) * 1000));
        Playlist::new(recordings, number * recordings.len() / self.streams.max(1), length)
    }

    /// Plays it.
    ///
    /// # Errors
    /// When no token can be made. A stream that fails is reported, not an error.
    pub async fn run(
        &self,
        target: &Target,
        recordings: &[Recording],
        baseline: &mut Baseline,
    ) -> Result<Level, AuthError> {
        let before = cpu::used(target.launcher);
        let mut memory = Memory::default();
        let watched = target.launcher.filter(|_| self.warm_up_s.is_some());
        let Played { lists, ended, faults, followed } = tokio::select! {
            played = self.play(target, recordings) => played?,
            () = async { memory.watch(watched.unwrap_or_default()).await }, if watched.is_some() => unreachable!(),
        };
        let spent = before.zip(cpu::used(target.launcher)).map(|(before, after)| cpu::spent(&before, &after));

        let mut level = Level::new(self.streams);
        for fault in faults {
            match fault {
                Ok(done) => level.faults.push(done),
                Err(missed) => level.failures.push(missed),
            }
        }
        let mut measures = Measures::default();
        let (mut early, mut late) = (Measures::default(), Measures::default());
        for Ended { number, took, outcome } in ended {
            let Some(list) = lists.get(number) else { continue };
            let conversation = match outcome {
                Ok(conversation) => conversation,
                Err(StreamError::Refused(trouble)) if self.until_refused && trouble.code == "overloaded" => {
                    level.refused(took, trouble.retry_after());
                    continue;
                }
                Err(error) => {
                    level.failures.push(format!("stream {number}: {error}"));
                    continue;
                }
            };
            level.audio_s += list.length().seconds();
            level.streams_heard += 1;
            let (measured, transcripts) = measure(&conversation.heard, list, recordings);
            measures.add(&measured);
            for Comparison { recording, lost, added } in baseline.compare(list, transcripts) {
                let name = recordings.get(recording).map_or("", |recording| recording.name.as_str());
                level.compare(&format!("stream {number}, {name}"), lost, added);
            }
            let length_s = list.length().seconds();
            if self.warm_up_s.is_some() && length_s > 2.0 * WINDOW_S {
                let of = |span: Range<f64>| measure(&conversation.heard, &list.part(span), recordings).0;
                early.add(&of(0.0..WINDOW_S));
                late.add(&of(length_s - WINDOW_S..length_s));
                level.drift_ms =
                    level.drift_ms.max(drift_s(&conversation.heard, list).map(|s| (s * 1000.0) as u64));
            }
            level.conversed(number, &conversation);
            for told in followed.iter().filter(|(of, _)| *of == number).map(|(_, told)| told) {
                level.followed(number, &conversation.told, told);
            }
        }
        level
            .returned(followed.iter().flat_map(|(_, told)| told.connected.iter().skip(1).copied()).collect());
        level.measured(&measures);
        level.stable_early = early.stable.percentiles();
        level.stable_late = late.stable.percentiles();
        if let Some(warm_up_s) = self.warm_up_s {
            level.memory = memory.courses(Duration::from_secs(u64::from(warm_up_s)));
        }
        if let Some(spent) = spent {
            level.spent(&spent);
        }
        level.judge(&self.bars);
        Ok(level)
    }

    /// Lets everybody speak and follow while everything happens.
    async fn play(&self, target: &Target, recordings: &[Recording]) -> Result<Played, AuthError> {
        let run = Uuid::new_v4().simple().to_string();
        let begun = Instant::now();
        let mut streams = JoinSet::new();
        let mut followers = JoinSet::new();
        let mut troubles = JoinSet::new();
        for fault in self.faults.clone() {
            let launcher = target.launcher;
            troubles.spawn(async move {
                sleep_until(begun + Duration::from_secs(u64::from(fault.at_s))).await;
                fault::strike(&fault, launcher)
            });
        }
        let (mut lists, mut ended) = (Vec::new(), Vec::new());
        while lists.len() < self.streams {
            while let Some(one) = streams.try_join_next() {
                ended.extend(one);
            }
            // Whoever ends so early was refused.
            if self.until_refused && !ended.is_empty() && 2 * ended.len() >= lists.len() {
                break;
            }
            let number = lists.len();
            let list = Arc::new(self.playlist(recordings, number));
            let session = format!("load-{run}-{number}");
            let (last, known) = watch::channel(None);
            // One more than was asked for comes when all is over, and reads what is stored.
            for follower in 0..=self.followers {
                let url = target.address(&session, &format!("follower-{follower}"), list.length())?;
                let mut known = known.clone();
                let late = follower == self.followers;
                if self.followers == 0 {
                    break;
                }
                followers.spawn(async move {
                    if late {
                        // Its sender sets it before it goes.
                        let _ = known.wait_for(Option::is_some).await;
                    }
                    (number, follow(&url, known).await)
                });
            }
            let url = target.address(&session, SPEAKER, list.length())?;
            let cuts = self.disconnects.as_ref().map(|disconnects| disconnects.cuts(number, list.length()));
            let patience = self.resume.then_some(PATIENCE);
            lists.push(Arc::clone(&list));
            streams.spawn(async move {
                let cuts = cuts.unwrap_or_default();
                let speech = Speech { pcm: &list.pcm, pace: Pace::Spoken, cuts: &cuts, patience };
                let asked = Instant::now();
                let outcome = converse(&url, speech).await;
                let newest = outcome.as_ref().map_or(0, |conversation| conversation.told.newest());
                last.send_replace(Some(newest));
                Ended { number, took: asked.elapsed(), outcome }
            });
            sleep(STAGGER).await;
        }
        ended.extend(streams.join_all().await);
        ended.sort_by_key(|ended| ended.number);
        let followed = followers.join_all().await;
        let faults = troubles.join_all().await;
        Ok(Played { lists, ended, faults, followed })
    }
}

/// Hears every recording once, as fast as it is taken: what an undisturbed run has.
///
/// # Errors
/// When no token can be made, or the stream fails.
pub async fn hear(
    target: &Target,
    recordings: &[Recording],
    baseline: &mut Baseline,
) -> Result<Result<(), StreamError>, AuthError> {
    let list = Playlist::new(recordings, 0, None);
    let session = format!("load-{}", Uuid::new_v4().simple());
    let url = target.address(&session, SPEAKER, list.length())?;
    let speech = Speech { pcm: &list.pcm, pace: Pace::AsTaken, cuts: &[], patience: None };
    Ok(converse(&url, speech).await.map(|conversation| {
        let (_, transcripts) = measure(&conversation.heard, &list, recordings);
        baseline.compare(&list, transcripts);
    }))
}

impl Disconnects {
    /// The moments for one stream, spread over its length by chance that is the same in every run.
    fn cuts(&self, stream: usize, length: Samples) -> Vec<Cut> {
        let mut chance = Chance(stream as u64 + 1);
        let mut at: Vec<u64> = (0..self.count).map(|_| (chance.next() * length.0 as f64) as u64).collect();
        at.sort_unstable();
        let (least_s, most_s) = self.away_s;
        let away =
            |chance: &mut Chance| Duration::from_secs_f64(least_s + chance.next() * (most_s - least_s));
        at.into_iter().map(|at| Cut { at: Samples(at), away: away(&mut chance) }).collect()
    }
}

/// Values from 0 to 1 (a linear congruential generator with the constants of Knuth's MMIX).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scenarios_of_this_crate_are_sound() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let mut count = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let scenario = Scenario::read(&entry.unwrap().path()).unwrap();
            assert!(scenario.streams > 0 && !scenario.about.is_empty());
            count += 1;
        }
        assert!(count >= 4, "{count}");
    }

    #[test]
    fn a_wrong_scenario_says_where() {
        let error = toml::from_str::<Scenario>("streams = 1\nfollower = 2").unwrap_err();
        assert!(error.to_string().contains("follower"), "{error}");
        assert!(matches!(Scenario::read(Path::new("/nowhere")), Err(ScenarioError::Unreadable(..))));
    }

    #[test]
    fn cuts_are_the_same_in_every_run_and_within_their_limits() {
        let disconnects = Disconnects { count: 20, away_s: (0.5, 20.0) };
        let length = Samples::from_millis(300_000);
        let cuts = disconnects.cuts(0, length);
        assert_eq!(cuts, disconnects.cuts(0, length));
        assert_ne!(cuts, disconnects.cuts(1, length));
        assert!(cuts.len() == 20 && cuts.is_sorted_by_key(|cut| cut.at));
        for cut in cuts {
            assert!(cut.at < length && (0.5..=20.0).contains(&cut.away.as_secs_f64()), "{cut:?}");
        }
    }
}
