use std::{
    io,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use jiff::tz::TimeZone;
use model::Timestamp;
use tokio::time::sleep_until;
use tungstenite::{Error, Message};

use crate::{
    backoff::{Backoff, chance},
    door::{Door, DoorArgs, Socket, Wanted},
    failure::Failure,
    message::{Caption, Chat, Fault, FromServer, Translation},
    screen::{Screen, printable},
    sequences::Sequences,
    signals::Signals,
    token::Scope,
    trouble::{Remedy, Trouble},
};

/// A server pings every 15 s; when nothing came for three of them, it is gone.
const SILENCE_LIMIT: Duration = Duration::from_secs(45);

/// Follow the captions and the chat of a session.
///
/// Until Ctrl-C: finished ones as lines, open ones rewritten in place when standard output is a terminal.
/// A lost connection is made again for as long as it takes, and what was missed meanwhile is printed first; nothing
/// is printed twice.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  parley tail --session demo
  parley tail --session demo --since 0 | tee demo.txt      everything from the first caption on
  parley tail --session demo --json | jq -r 'select(.isFinal).text'")]
pub struct Args {
    #[command(flatten)]
    door: DoorArgs,
    /// Print stored captions with a sequence above N first; 0 for all, of captions and of chat.
    #[arg(long, value_name = "N")]
    since: Option<u64>,
    /// Print every caption, partial or final, and every message of chat as the JSON object that the server sent.
    #[arg(long)]
    json: bool,
    /// Captions only, without what is said in the chat of the session.
    #[arg(long)]
    no_chat: bool,
}

/// Follows until Ctrl-C.
pub async fn run(args: Args) -> Result<(), Failure> {
    let door = args.door.resolve(Scope::Follow)?;
    let mut signals = Signals::catch()?;
    let mut following = Following {
        screen: Screen::new(!args.json),
        json: args.json,
        live_only: args.since.is_none(),
        sequences: Sequences::after(args.since),
        chat: !args.no_chat,
        chat_since: args.since.filter(|since| *since == 0),
        began: None,
        backoff: Backoff::default(),
    };
    tokio::select! {
        failure = following.forever(&door) => {
            following.screen.close_all();
            Err(failure)
        }
        () = signals.next() => {
            following.screen.close_all();
            Ok(())
        }
    }
}

struct Following {
    screen: Screen,
    json: bool,
    /// Nothing from before the first connection is wanted.
    live_only: bool,
    sequences: Sequences,
    /// Whether chat is followed, too.
    chat: bool,
    /// The newest of it that was seen.
    chat_since: Option<u64>,
    /// When the first connection was made, by the server's clock.
    began: Option<Timestamp>,
    backoff: Backoff,
}

impl Following {
    /// Connects again and again; returns only what trying again cannot mend.
    async fn forever(&mut self, door: &Door) -> Failure {
        loop {
            let trouble = match self.connection(door).await {
                Failure::Connection(trouble) => trouble,
                failure => return failure,
            };
            let asked = match trouble.remedy {
                Remedy::Stop => return trouble.into(),
                Remedy::NewToken if !door.renews_tokens() => {
                    return Trouble::lasting(format!("{trouble}; give a new one with --token")).into();
                }
                Remedy::NewToken => None,
                Remedy::Retry(asked) => asked,
            };
            let wait = self.backoff.next(asked, chance());
            self.screen.close_all();
            self.screen.remark(&format!("{trouble}; trying again in {:.1} s", wait.as_secs_f64()));
            tokio::time::sleep(wait).await;
        }
    }

    /// One connection; returns why it ended.
    async fn connection(&mut self, door: &Door) -> Failure {
        // A session whose captions nobody has seen yet: ask for all and skip those from before the beginning.
        let since = self.sequences.since().or(self.began.map(|_| 0));
        match door.open(Wanted { since, chat: self.chat, chat_since: self.chat_since }).await {
            Ok(socket) => self.read(socket).await.unwrap_or_else(|failure| failure),
            Err(trouble) => trouble.into(),
        }
    }

    async fn read(&mut self, mut socket: Socket) -> Result<Failure, Failure> {
        let mut heard = Instant::now();
        let mut fault: Option<Fault> = None;
        let mut retry_after = None;
        loop {
            let message = tokio::select! {
                message = socket.next() => message,
                () = sleep_until((heard + SILENCE_LIMIT).into()) => Some(Err(Error::ConnectionClosed)),
            };
            heard = Instant::now();
            let text = match message {
                Some(Ok(Message::Text(text))) => text,
                Some(Ok(Message::Close(frame))) => {
                    let (code, reason) = frame.map_or((1005, String::new()), |frame| {
                        (u16::from(frame.code), frame.reason.as_str().to_owned())
                    });
                    return Ok(Trouble::closed(code, &reason, fault.as_ref(), retry_after).into());
                }
                Some(Ok(_)) => continue,
                Some(Err(error)) => return Ok(Trouble::lost(&error, fault.as_ref(), retry_after).into()),
                None => return Ok(Trouble::closed(1006, "", fault.as_ref(), retry_after).into()),
            };
            // What cannot be read is of a newer server, or of none of our business.
            let Ok(message) = serde_json::from_str::<FromServer>(text.as_str()) else { continue };
            if let Some(remark) = message.remark() {
                self.screen.remark(&remark);
            }
            match message {
                FromServer::Connected { ts } => {
                    self.began = self.began.or(ts.map(Timestamp));
                    self.backoff.reset();
                }
                FromServer::TranscriptPartial(caption) => self.caption(&caption, false, &text)?,
                FromServer::TranscriptFinal(caption) => self.caption(&caption, true, &text)?,
                FromServer::Transcript(caption) => self.caption(&caption, caption.is_final, &text)?,
                FromServer::Translation(translation) => self.translation(&translation, &text)?,
                FromServer::Chat(chat) => self.chat(&chat, &text)?,
                FromServer::Error(said) => fault = Some(said),
                FromServer::Reconnect { retry_after_ms } => {
                    retry_after = retry_after_ms.map(Duration::from_millis).or(retry_after);
                }
                FromServer::Initialized { .. }
                | FromServer::Warning { .. }
                | FromServer::SttStatus { .. }
                | FromServer::TranscriptionError { .. }
                | FromServer::Ack { .. }
                | FromServer::Stopped { .. }
                | FromServer::Other => {}
            }
        }
    }

    fn chat(&mut self, chat: &Chat, raw: &str) -> io::Result<()> {
        let (message, note) = match chat {
            // Nobody has asked for what was before; what comes after it must not be missed.
            Chat::MessageHistory(messages) => {
                let newest = messages.iter().map(|message| message.sequence).max().unwrap_or(0);
                self.chat_since = self.chat_since.max(Some(newest));
                return Ok(());
            }
            Chat::Message(message) => (message, ""),
            Chat::MessageEdited(message) => (message, " (edited)"),
            Chat::MessageDeleted(message) => (message, " (deleted)"),
            Chat::Resync(_) | Chat::Error(_) | Chat::Other => return Ok(()),
        };
        self.chat_since = self.chat_since.max(Some(message.sequence));
        if self.json {
            return self.screen.line(&one_line(raw));
        }
        let at = message.timestamp.parse::<jiff::Timestamp>().ok().map(Timestamp::from);
        let kind = match message.r#type.as_str() {
            "image" => "image: ",
            "file" => "file: ",
            _ => "",
        };
        let (who, said) = (printable(&message.username), printable(message.content.trim()));
        self.screen.line(&format!("{}[chat] {who}{note}: {kind}{said}", clock(at)))
    }

    fn translation(&mut self, translation: &Translation, raw: &str) -> io::Result<()> {
        let at = translation.ts.map(Timestamp);
        if !self.is_news(translation.sequence, at) {
            return Ok(());
        }
        if self.json {
            return self.screen.line(&one_line(raw));
        }
        let (language, who) = (printable(&translation.language), translation.speaker.as_deref());
        let who = who.map(|who| format!("{}: ", printable(who))).unwrap_or_default();
        let said = match (&translation.text, &translation.error) {
            (Some(text), _) => printable(text.trim()),
            (None, error) => {
                format!("(no translation: {})", printable(error.as_deref().unwrap_or("unknown")))
            }
        };
        self.screen.line(&format!("{}[{language}] {who}{said}", clock(at)))
    }

    /// Whether what is stored was not seen before, and is not from before the first connection when only news are wanted.
    fn is_news(&mut self, sequence: Option<u64>, at: Option<Timestamp>) -> bool {
        sequence.is_none_or(|sequence| self.sequences.note(sequence))
            && !(self.live_only && at.zip(self.began).is_some_and(|(at, began)| at < began))
    }

    fn caption(&mut self, caption: &Caption, is_final: bool, raw: &str) -> io::Result<()> {
        let at = caption.ts.map(Timestamp);
        if is_final && !self.is_news(caption.sequence, at) {
            return Ok(());
        }
        if self.json {
            return self.screen.line(&one_line(raw));
        }
        if !is_final {
            let stable = caption.stable.unwrap_or(0);
            self.screen.partial(&caption.utterance_id, caption.who(), &caption.text, stable);
            return Ok(());
        }
        self.screen.close(&caption.utterance_id);
        let time = clock(at);
        let who =
            if caption.who().is_empty() { String::new() } else { format!("{}: ", printable(caption.who())) };
        self.screen.line(&format!("{time}{who}{}", printable(caption.text.trim())))
    }
}

/// The time of day, before a line.
fn clock(at: Option<Timestamp>) -> String {
    at.map_or_else(String::new, |at| {
        at.to_jiff().to_zoned(TimeZone::system()).strftime("%H:%M:%S  ").to_string()
    })
}

/// JSON on one line: breaks can stand between its tokens only, where a space is as good.
fn one_line(raw: &str) -> String {
    raw.replace(['\n', '\r'], " ")
}
