//! One real client: connects, speaks, notes when what comes back comes, and comes back itself when it lost its socket.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, stream::SplitSink};
use model::Samples;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tungstenite::Message;

use crate::{
    measure::Heard,
    message::{Caption, FromServer, Resume, ToServer},
    socket::{OPEN_LIMIT, Socket, StreamError, next, open},
    told::Told,
};

/// Sound sent at once: 100 ms (protocols.md section 6 and what browsers do).
const PIECE_SAMPLES: usize = 1_600;

/// Shortest time between two pieces, when some are due already: 100 a second, a quarter of what a participant may send.
const PIECE_GAP: Duration = Duration::from_millis(10);

/// How much sound may be on its way without an acknowledgement. A server keeps 30 s.
const WINDOW: Samples = Samples::from_millis(25_000);

/// Longest time from `stop` to `stopped`. A server that is behind works off its backlog within it.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// Longest time without anything from the server, which pings every 15 s.
const SILENCE_LIMIT: Duration = Duration::from_secs(45);

/// How long after `stopped` nothing must come for a stream to be over. Finals take another way than `stopped`.
const QUIET: Duration = Duration::from_secs(2);

/// Wait before a lost connection is made again, where the server names none; doubled up to eight times of it.
const RETRY: Duration = Duration::from_millis(250);

/// What one client says, and over what kind of network.
#[derive(Debug, Clone, Copy)]
pub struct Speech<'a> {
    /// 16 kHz mono.
    pub pcm: &'a [i16],
    /// How fast.
    pub pace: Pace,
    /// Where it loses its socket, in the order of the stream.
    pub cuts: &'a [Cut],
    /// Longest time without a sign of the server. None: a lost socket is the end.
    pub patience: Option<Duration>,
}

/// How fast sound is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Each piece when its last sample has been spoken.
    Spoken,
    /// As fast as it is acknowledged.
    AsTaken,
}

/// A socket that dies without a word.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cut {
    /// Once so much of the stream was sent.
    pub at: Samples,
    /// How long there is no network afterwards.
    pub away: Duration,
}

/// Everything that a stream said and got.
#[derive(Debug, Default)]
pub struct Conversation {
    /// Captions in the order of their coming.
    pub heard: Vec<Heard>,
    /// The finals of the session.
    pub told: Told,
    /// How much was sent.
    pub sent: Samples,
    /// How much the server says it was.
    pub confirmed: Samples,
    /// Longest time that a piece was sent after its last sample was spoken, while nothing was wrong with the network.
    /// More than some milliseconds means that the measuring side was late.
    pub late_most: Duration,
    /// What the server warned of: it loses something then.
    pub warnings: Vec<String>,
    /// Connections that ended before their time, other than by [`Speech::cuts`], and why.
    pub lost: Vec<String>,
    /// Streams that the server began anew for this one.
    pub streams: usize,
}

/// Says `speech` to the server at `url`, which holds the token and ends in a query.
///
/// # Errors
/// See [`StreamError`]; what was heard until then is lost, since such a stream counts as failed.
pub async fn converse(url: &str, speech: Speech<'_>) -> Result<Conversation, StreamError> {
    let mut speaker = Speaker::new(speech);
    let mut retry = RETRY;
    loop {
        let lively = speaker.lively;
        let error = match speaker.connection(url).await {
            Ok(End::Done) => return Ok(speaker.conversation),
            Ok(End::Cut(away)) => {
                sleep(away).await;
                // Nobody waits for a server while there is no network.
                speaker.lively = Instant::now();
                continue;
            }
            Err(error) => error,
        };
        // A stream that was not begun may be refused; that is an answer.
        let is_answer = speaker.stream.is_none() && matches!(error, StreamError::Refused(_));
        let patience = speech.patience.filter(|_| !is_answer).unwrap_or(Duration::ZERO);
        if speaker.lively.elapsed() >= patience {
            return Err(error);
        }
        speaker.conversation.lost.push(error.to_string());
        retry = if speaker.lively > lively { RETRY } else { (retry * 2).min(RETRY * 8) };
        sleep(speaker.retry_after.take().unwrap_or(retry)).await;
    }
}

/// How a connection ended in good order.
enum End {
    /// All is said and told.
    Done,
    /// The network is away for so long.
    Cut(Duration),
}

enum Phase {
    Opening,
    Speaking,
    Stopping,
    /// All is stored; the last finals may be on their way.
    Stopped,
}

struct Speaker<'a> {
    speech: Speech<'a>,
    /// When the first sample is spoken.
    begun: Instant,
    stream: Option<String>,
    /// Of the stream, by the server's word.
    acked: usize,
    sent: usize,
    piece_sent: Instant,
    cuts: std::slice::Iter<'a, Cut>,
    cut: Option<&'a Cut>,
    /// Pieces are sent late because there was no connection.
    behind: bool,
    /// When the server was last heard.
    lively: Instant,
    retry_after: Option<Duration>,
    conversation: Conversation,
}

impl<'a> Speaker<'a> {
    fn new(speech: Speech<'a>) -> Self {
        let now = Instant::now();
        let mut cuts = speech.cuts.iter();
        Self {
            speech,
            begun: now,
            stream: None,
            acked: 0,
            sent: 0,
            piece_sent: now,
            cut: cuts.next(),
            cuts,
            behind: false,
            lively: now,
            retry_after: None,
            conversation: Conversation::default(),
        }
    }

    /// One connection, from `init` to its end.
    async fn connection(&mut self, url: &str) -> Result<End, StreamError> {
        let (mut sink, mut stream) =
            open(&format!("{url}&since={}", self.conversation.told.newest())).await?.split();
        let resume = self.stream.as_deref().map(|stream| Resume { stream, acked: self.acked as u64 });
        let init = ToServer::Init { encoding: "pcm_s16le", partials: true, resume };
        sink.send(Message::text(init.to_json())).await?;
        let mut phase = Phase::Opening;
        let mut until = Instant::now() + OPEN_LIMIT;
        loop {
            let due = matches!(phase, Phase::Speaking).then(|| self.due()).flatten();
            if matches!(phase, Phase::Speaking) {
                until = self.lively + SILENCE_LIMIT;
            }
            tokio::select! {
                biased;
                said = next(&mut stream) => {
                    let said = match (said, &phase) {
                        // After `stopped` the server may hang up.
                        (Err(_), Phase::Stopped) => return Ok(End::Done),
                        (said, _) => said?,
                    };
                    self.lively = Instant::now();
                    match said.map(|said| self.hear(said)).transpose()?.flatten() {
                        Some(Turn::Speak) => phase = Phase::Speaking,
                        Some(Turn::Stopped) => phase = Phase::Stopped,
                        None => {}
                    }
                    if matches!(phase, Phase::Stopped) {
                        until = Instant::now() + QUIET;
                    }
                }
                () = sleep_until(due.unwrap_or(until)), if due.is_some() => {
                    self.send_piece(&mut sink).await?;
                    if let Some(cut) = self.cut.filter(|cut| self.sent as u64 >= cut.at.0) {
                        self.cut = self.cuts.next();
                        self.behind = true;
                        return Ok(End::Cut(cut.away));
                    }
                }
                () = sleep_until(until) => match phase {
                    Phase::Opening => return Err(StreamError::Silent("init")),
                    Phase::Speaking => return Err(StreamError::Silent("sound")),
                    Phase::Stopping => return Err(StreamError::Silent("stop")),
                    Phase::Stopped => {
                        // A courtesy; everything is here.
                        drop(timeout(Duration::from_secs(1), sink.close()).await);
                        return Ok(End::Done);
                    }
                },
            }
            if matches!(phase, Phase::Speaking) && self.sent == self.speech.pcm.len() {
                sink.send(Message::text(ToServer::Stop.to_json())).await?;
                phase = Phase::Stopping;
                until = Instant::now() + STOP_LIMIT;
            }
        }
    }

    /// When the next piece is to be sent; `None` while too much is on its way.
    fn due(&self) -> Option<Instant> {
        if Samples::of(self.sent.saturating_sub(self.acked)) >= WINDOW {
            return None;
        }
        let gap = self.piece_sent + PIECE_GAP;
        let spoken = (self.sent + PIECE_SAMPLES).min(self.speech.pcm.len());
        Some(match self.speech.pace {
            Pace::Spoken => gap.max(self.begun + Samples::of(spoken).duration()),
            Pace::AsTaken => gap,
        })
    }

    async fn send_piece(&mut self, sink: &mut SplitSink<Socket, Message>) -> Result<(), StreamError> {
        let rest = self.speech.pcm.get(self.sent..).unwrap_or_default();
        let piece = rest.get(..PIECE_SAMPLES).unwrap_or(rest);
        let bytes: Bytes = piece.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        self.piece_sent = Instant::now();
        self.sent += piece.len();
        sink.send(Message::Binary(bytes)).await?;
        self.conversation.sent = self.conversation.sent.max(Samples::of(self.sent));
        let late = (self.begun + Samples::of(self.sent).duration()).elapsed();
        if late < PIECE_GAP {
            self.behind = false;
        } else if !self.behind && self.speech.pace == Pace::Spoken {
            self.conversation.late_most = self.conversation.late_most.max(late);
        }
        Ok(())
    }

    /// Takes what the server says; what to do next, where it changes that.
    fn hear(&mut self, said: FromServer) -> Result<Option<Turn>, StreamError> {
        match said {
            FromServer::Initialized { stream, acked } => {
                self.begin(stream, acked);
                return Ok(Some(Turn::Speak));
            }
            FromServer::Ack { samples } => self.acked = usize::try_from(samples).unwrap_or(usize::MAX),
            FromServer::TranscriptPartial(caption) => self.take(caption, false),
            FromServer::TranscriptFinal(caption) => self.take(caption, true),
            FromServer::Stopped { samples } => {
                self.conversation.confirmed = Samples(samples);
                return if self.sent == self.speech.pcm.len() {
                    Ok(Some(Turn::Stopped))
                } else {
                    Err(StreamError::Early)
                };
            }
            FromServer::Error(trouble) => {
                self.retry_after = trouble.retry_after();
                return Err(StreamError::Refused(trouble));
            }
            FromServer::Reconnect { retry_after_ms } => {
                self.retry_after = retry_after_ms.map(Duration::from_millis);
            }
            FromServer::Warning(trouble) => {
                self.conversation.warnings.push(format!("{}: {}", trouble.code, trouble.message));
            }
            FromServer::Other => {}
        }
        Ok(None)
    }

    fn begin(&mut self, stream: String, acked: u64) {
        if self.stream.is_none() {
            self.begun = Instant::now();
        } else {
            // What was spoken meanwhile is sent late, whoever is to blame.
            self.behind = true;
        }
        if self.stream.as_ref() != Some(&stream) {
            self.conversation.streams += 1;
        }
        self.stream = Some(stream);
        self.acked = usize::try_from(acked).unwrap_or(usize::MAX).min(self.speech.pcm.len());
        self.sent = self.acked;
    }

    fn take(&mut self, caption: Caption, is_final: bool) {
        if let Some(sequence) = caption.sequence.filter(|_| is_final) {
            self.conversation.told.take(sequence, &caption.text);
        }
        self.conversation.heard.push(Heard { at: self.begun.elapsed(), is_final, caption });
    }
}

/// What the server's word lets a client do.
enum Turn {
    Speak,
    Stopped,
}

#[cfg(test)]
mod tests {
    use tokio::{net::TcpListener, task::JoinSet};

    use super::*;

    /// What a scripted server does with one client.
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Script {
        Good,
        RefusesInit,
        HangsUp,
        HangsUpOnce,
        LosesSound,
    }

    /// Lets a client say 350 ms to a server that follows `script`.
    async fn against(
        script: Script,
        patience: Option<Duration>,
        cuts: &[Cut],
    ) -> Result<Conversation, StreamError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/?token=t", listener.local_addr().unwrap());
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut received = 0;
            for turn in 0.. {
                let (socket, _) = listener.accept().await.unwrap();
                let mut socket = tokio_tungstenite::accept_async(socket).await.unwrap();
                let say = |text: String| Message::text(text);
                let init = socket.next().await.unwrap().unwrap();
                assert!(init.to_text().unwrap().contains("pcm_s16le"));
                assert_eq!(init.to_text().unwrap().contains(r#""resume":{"stream":"u","acked":"#), turn > 0);
                socket.send(say(r#"{"type":"connected"}"#.into())).await.unwrap();
                if script == Script::RefusesInit {
                    let busy = r#"{"type":"error","message":"busy","code":"overloaded","retryAfterMs":5}"#;
                    socket.send(say(busy.into())).await.unwrap();
                    return;
                }
                let initialized = format!(r#"{{"type":"initialized","stream":"u","acked":{received}}}"#);
                socket.send(say(initialized)).await.unwrap();
                let mut stopped = false;
                while let Some(Ok(message)) = socket.next().await {
                    match message {
                        Message::Binary(piece) => received += piece.len() / 2,
                        Message::Text(text) => {
                            assert_eq!(text.as_str(), r#"{"type":"stop"}"#);
                            stopped = true;
                            break;
                        }
                        _ => {}
                    }
                    if script == Script::HangsUp || (script == Script::HangsUpOnce && turn == 0) {
                        socket.close(None).await.unwrap();
                        break;
                    }
                    let partial = r#"{"type":"transcript_partial","utteranceId":"u-1","text":"a","start":0,"end":0.1}"#;
                    // The client may have gone.
                    drop(socket.send(say(partial.into())).await);
                }
                if !stopped {
                    continue;
                }
                let lost = if script == Script::LosesSound { 1600 } else { 0 };
                if lost > 0 {
                    let warning = r#"{"type":"warning","message":"audio lost","code":"gap"}"#;
                    socket.send(say(warning.into())).await.unwrap();
                }
                let stopped = format!(r#"{{"type":"stopped","stream":"u","samples":{}}}"#, received - lost);
                socket.send(say(stopped)).await.unwrap();
                let last = r#"{"type":"transcript_final","utteranceId":"u-1","text":"A.","start":0,"end":0.3,"words":[],
                    "sequence":1}"#;
                socket.send(say(last.into())).await.unwrap();
                socket.close(None).await.unwrap();
                return;
            }
        });
        let speech = Speech { pcm: &[100; 5_600], pace: Pace::Spoken, cuts, patience };
        let conversation = converse(&url, speech).await;
        server.abort_all();
        conversation
    }

    #[tokio::test]
    async fn all_is_said_at_its_pace_and_all_that_comes_is_noted() {
        let said = against(Script::Good, None, &[]).await.unwrap();
        assert_eq!((said.sent, said.confirmed), (Samples(5_600), Samples(5_600)));
        assert_eq!(said.heard.len(), 5, "a partial for each piece and a final after `stopped`");
        assert!(said.heard.last().unwrap().is_final && said.warnings.is_empty() && said.lost.is_empty());
        assert_eq!((said.told.newest(), said.streams), (1, 1));
        for (index, heard) in said.heard.iter().take(3).enumerate() {
            let spoken = Duration::from_millis(100 * (index as u64 + 1));
            assert!(heard.at >= spoken, "an answer to a piece that was not spoken yet");
        }
    }

    #[tokio::test]
    async fn a_client_that_lost_its_socket_goes_on() {
        let patience = Some(Duration::from_secs(20));
        let cuts = [Cut { at: Samples(3_200), away: Duration::from_millis(1) }];
        for (script, cuts, lost) in [(Script::Good, &cuts[..], 0), (Script::HangsUpOnce, &[], 1)] {
            let said = against(script, patience, cuts).await.unwrap();
            assert_eq!((said.sent, said.confirmed), (Samples(5_600), Samples(5_600)));
            assert_eq!((said.lost.len(), said.streams), (lost, 1));
        }
    }

    #[tokio::test]
    async fn each_way_to_fail_is_told() {
        let refused = against(Script::RefusesInit, Some(Duration::from_secs(20)), &[]).await.unwrap_err();
        assert_eq!(refused.to_string(), "the server refused: overloaded: busy");
        assert!(matches!(against(Script::HangsUp, None, &[]).await.unwrap_err(), StreamError::Closed(_)));
        let lossy = against(Script::LosesSound, None, &[]).await.unwrap();
        assert_eq!((lossy.confirmed, lossy.warnings), (Samples(4_000), vec!["gap: audio lost".to_owned()]));
        let nothing = Speech { pcm: &[], pace: Pace::Spoken, cuts: &[], patience: None };
        let nobody = converse("ws://127.0.0.1:9/?token=secret", nothing).await.unwrap_err();
        assert!(nobody.to_string().starts_with("cannot connect") && !nobody.to_string().contains("secret"));
    }
}
