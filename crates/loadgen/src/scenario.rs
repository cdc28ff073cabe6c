use std::{collections::HashMap, sync::Arc, time::Duration};

use auth::{AuthError, SessionClaims, SessionTokens};
use model::{Clock, Samples};
use tokio::{task::JoinSet, time::sleep};
use uuid::Uuid;

use crate::{
    client::{Conversation, StreamError, converse},
    compare::missing,
    cpu,
    measure::{Measures, Transcripts, measure},
    playlist::Playlist,
    recording::Recording,
    report::Level,
};

/// Path of the WebSocket.
const PATH: &str = "/api/realtime/transcribe";

/// Time between the first words of two streams. Long enough that their utterances lie apart, and no multiple of any
/// interval of the server.
const STAGGER: Duration = Duration::from_millis(370);

/// How long a token is good beyond the sound it is for.
const TOKEN_SPARE_S: u64 = 600;

/// Where the system under load is.
pub struct Target {
    /// `ws://host:port` of the front door.
    pub url: String,
    /// Makes the tokens.
    pub tokens: SessionTokens,
    /// The process whose children are the services, when it runs on this machine.
    pub launcher: Option<u32>,
}

/// People speaking at the same time, each into a session of their own, from their beginning to their end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Live {
    /// How many.
    pub streams: usize,
    /// Least length of each; every recording once when absent.
    pub length: Option<Samples>,
}

/// A recording that was heard again, against its first hearing.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Comparison {
    recording: usize,
    /// Words that it had and has not.
    lost: usize,
    /// Words that it has and had not.
    added: usize,
}

/// What was heard of each recording when it was heard first; later hearings are compared with it.
#[derive(Debug, Default)]
pub struct Baseline(HashMap<usize, Vec<String>>);

impl Baseline {
    /// Compares these transcripts with those before. A recording that was never heard before becomes the baseline itself.
    fn compare(&mut self, list: &Playlist, transcripts: Transcripts) -> Vec<Comparison> {
        let mut comparisons = Vec::new();
        for (item, words) in list.items.iter().zip(transcripts) {
            match self.0.get(&item.recording) {
                Some(first) => {
                    let (lost, added) = (missing(first, &words), missing(&words, first));
                    comparisons.push(Comparison { recording: item.recording, lost, added });
                }
                None => {
                    self.0.insert(item.recording, words);
                }
            }
        }
        comparisons
    }
}

impl Live {
    /// How long it takes, about.
    pub fn about(self, recordings: &[Recording]) -> Duration {
        Playlist::new(recordings, 0, self.length).length().duration()
    }

    /// Plays it.
    ///
    /// # Errors
    /// When no token can be made. A stream that fails is reported, not an error.
    pub async fn run(
        self,
        target: &Target,
        recordings: &[Recording],
        baseline: &mut Baseline,
    ) -> Result<Level, AuthError> {
        let run = Uuid::new_v4().simple().to_string();
        let before = cpu::used(target.launcher);
        let mut streams = JoinSet::new();
        let mut lists = Vec::new();
        for number in 0..self.streams {
            // Each begins elsewhere, so that they do not all pause together.
            let list =
                Arc::new(Playlist::new(recordings, number * recordings.len() / self.streams, self.length));
            let url = target.address(&format!("load-{run}-{number}"), list.length())?;
            lists.push(Arc::clone(&list));
            streams.spawn(async move {
                sleep(STAGGER * u32::try_from(number).unwrap_or(u32::MAX)).await;
                (number, converse(&url, &list.pcm).await)
            });
        }
        let mut conversations: Vec<(usize, Result<Conversation, StreamError>)> = streams.join_all().await;
        let spent = before.zip(cpu::used(target.launcher)).map(|(before, after)| cpu::spent(&before, &after));
        conversations.sort_by_key(|(number, _)| *number);

        let mut level = Level::new(self.streams);
        let mut measures = Measures::default();
        for ((number, conversation), list) in conversations.into_iter().zip(&lists) {
            level.audio_s += list.length().seconds();
            match conversation {
                Ok(conversation) => {
                    let (measured, transcripts) = measure(&conversation.heard, list, recordings);
                    measures.add(&measured);
                    for Comparison { recording, lost, added } in baseline.compare(list, transcripts) {
                        let name = recordings.get(recording).map_or("", |recording| recording.name.as_str());
                        level.compare(&format!("stream {number}, {name}"), lost, added);
                    }
                    level.conversed(&conversation);
                }
                Err(error) => level.failures.push(format!("stream {number}: {error}")),
            }
        }
        level.measured(&measures);
        if let Some(spent) = spent {
            level.spent(&spent);
        }
        Ok(level)
    }
}

impl Target {
    /// The address for a participant of `session` who speaks for `length`. Holds a token: not to be shown.
    fn address(&self, session: &str, length: Samples) -> Result<String, AuthError> {
        let now_s = Clock::system().now().0 / 1000;
        let span_s = length.duration().as_secs() + TOKEN_SPARE_S;
        let token = self.tokens.issue(&SessionClaims {
            sub: Some(session.to_owned()),
            session_slug: session.to_owned(),
            identity: Some(session.to_owned()),
            iat: Some(now_s),
            exp: now_s.saturating_add(i64::try_from(span_s).unwrap_or(i64::MAX)),
            ..SessionClaims::default()
        })?;
        // Neither a slug of ours nor a JWT holds characters that a query must escape.
        Ok(format!("{}{PATH}?sessionSlug={session}&token={token}", self.url.trim_end_matches('/')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_hearing_is_the_baseline_of_the_others() {
        let recording = |name: &str| Recording {
            name: name.to_owned(),
            text: String::new(),
            pcm: vec![0; 16_000],
            runs: Vec::new(),
        };
        let list = Playlist::new(&[recording("a"), recording("b")], 0, None);
        let transcripts = |texts: [&str; 2]| -> Transcripts {
            texts.iter().map(|text| text.split_whitespace().map(str::to_owned).collect()).collect()
        };
        let mut baseline = Baseline::default();
        assert_eq!(baseline.compare(&list, transcripts(["one two", "three"])), []);
        let shorter = Comparison { recording: 0, lost: 1, added: 0 };
        let same = |recording| Comparison { recording, lost: 0, added: 0 };
        assert_eq!(baseline.compare(&list, transcripts(["one", "three"])), [shorter, same(1)]);
        let longer = Comparison { recording: 1, lost: 0, added: 2 };
        assert_eq!(baseline.compare(&list, transcripts(["one two", "three four five"])), [same(0), longer]);
        assert_eq!(
            baseline.compare(&list, transcripts(["one six", "three"])),
            [same(0), same(1)],
            "heard as another"
        );
    }
}
