use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use model::{SAMPLE_RATE_HZ, Samples};

use crate::{
    backoff::{Backoff, chance},
    door::{Door, DoorArgs},
    failure::Failure,
    message::Caption,
    screen::{Screen, printable},
    sequences::Sequences,
    signals::Signals,
    source::{Declared, Encoding, Source, SourceError},
    span::clock,
    token::Scope,
    trouble::{Remedy, Trouble},
    uplink::Uplink,
};

mod connection;

/// Failures in a row, without a caption or an acknowledgement in between, after which nobody waits any more: about
/// a minute and a half.
const FAILURES_MAX: u32 = 10;

/// Send sound to a session and print its captions as they come.
///
/// Finished captions are lines with their time, the open one is rewritten in place (what may still change is dim),
/// and the whole text comes at the end.
///
/// WAV, FLAC, MP3, Ogg and WebM are recognized; a pipe may also carry samples without a header. Without --realtime
/// the sound goes as fast as the server takes it, at most 25 s ahead of what it has acknowledged. A lost connection
/// is made again and the stream goes on where it was (WAV and raw samples; other containers cannot be continued in
/// the middle). Ctrl-C ends the sound and waits for the last captions.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  parley stream talk.wav --session demo --realtime
  parley stream podcast.mp3 --session demo --json > captions.jsonl
  arecord -q -f S16_LE -r 16000 -c 1 -t raw | parley stream - --session demo
  ffmpeg -v error -i talk.m4a -f wav - | parley stream - --session demo
  parley stream call.raw --encoding mulaw --rate 8000 --session demo --url wss://captions.example.org")]
pub struct Args {
    /// The sound, or - for standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    door: DoorArgs,
    /// Send no faster than it was spoken (WAV and raw samples only).
    #[arg(long)]
    realtime: bool,
    /// Language of the speech (BCP 47, such as en), or auto.
    #[arg(long, value_name = "LANGUAGE")]
    language: Option<String>,
    /// How the sound is written; auto recognizes containers, and takes a pipe without one for pcm_s16le.
    #[arg(long, value_enum, default_value = "auto")]
    encoding: Encoding,
    /// Samples a second, for samples without a header.
    #[arg(long, value_name = "HZ", default_value_t = SAMPLE_RATE_HZ, value_parser = clap::value_parser!(u32).range(8000..=192_000))]
    rate: u32,
    /// Channels, for samples without a header.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=8))]
    channels: u16,
    /// Print every caption, partial or final, as the JSON object that the server sent, and a summary object last.
    #[arg(long)]
    json: bool,
    /// Show no progress bar.
    #[arg(long)]
    no_progress: bool,
}

/// Streams until the sound is over, or Ctrl-C.
pub async fn run(args: Args) -> Result<(), Failure> {
    let door = args.door.resolve(Scope::All)?;
    let declared = Declared { encoding: args.encoding, rate_hz: args.rate, channels: args.channels };
    let source = Source::open(&args.file, declared).await?;
    if args.realtime && source.kind.measure().is_none() {
        return Err(SourceError::Unpaced { name: source.name, encoding: source.kind.encoding() }.into());
    }
    let mut signals = Signals::catch()?;
    let mut screen = Screen::new(!args.json);
    if !args.no_progress {
        let measure = source.kind.measure();
        screen.show_bar(
            source.length_bytes.map(|bytes| measure.map_or(bytes, |measure| measure.samples(bytes).0)),
        );
    }
    let uplink = Uplink::new(source.kind.measure());
    let mut streaming = Streaming {
        door,
        source,
        uplink,
        screen,
        language: args.language,
        realtime: args.realtime,
        json: args.json,
        streams: HashMap::new(),
        current: None,
        sequences: Sequences::after(None),
        finals: Vec::new(),
        heard_end: Samples(0),
        sound_began: None,
        first_caption: None,
        progressed: Instant::now(),
        source_ended: false,
        source_error: None,
        interrupted: false,
    };
    let outcome = streaming.until_done(&mut signals).await;
    streaming.conclude()?;
    match (outcome, streaming.source_error.take()) {
        (Err(failure), _) => Err(failure),
        (Ok(()), Some(error)) => Err(SourceError::Read { name: streaming.source.name, error }.into()),
        (Ok(()), None) => Ok(()),
    }
}

/// A final of ours.
struct Spoken {
    utterance: String,
    /// Where it begins, in seconds of the source.
    start_s: f64,
    text: String,
}

/// Everything that outlives a single connection.
struct Streaming {
    door: Door,
    source: Source,
    uplink: Uplink,
    screen: Screen,
    language: Option<String>,
    realtime: bool,
    json: bool,
    /// Our streams, one unless the server forgets it while a connection is lost, and where in the source each began, in seconds.
    streams: HashMap<String, f64>,
    /// The newest of them.
    current: Option<String>,
    sequences: Sequences,
    /// Grows with what is said; it is what is printed at the end.
    finals: Vec<Spoken>,
    /// How much sound the server says it has had, of the newest stream.
    heard_end: Samples,
    sound_began: Option<Instant>,
    first_caption: Option<Duration>,
    /// When the server last acknowledged or captioned something of ours.
    progressed: Instant,
    source_ended: bool,
    source_error: Option<io::Error>,
    interrupted: bool,
}

impl Streaming {
    /// Keeps a connection until everything is sent and captioned.
    async fn until_done(&mut self, signals: &mut Signals) -> Result<(), Failure> {
        let mut backoff = Backoff::default();
        loop {
            let before = self.progressed;
            let trouble = match self.connection(signals).await {
                Ok(()) => return Ok(()),
                Err(Failure::Connection(trouble)) => trouble,
                Err(failure) => return Err(failure),
            };
            if self.interrupted {
                return Err(Failure::Incomplete(trouble.words));
            }
            if self.progressed > before {
                backoff.reset();
            }
            let asked = match trouble.remedy {
                Remedy::Stop => return Err(trouble.into()),
                Remedy::NewToken if !self.door.renews_tokens() => {
                    return Err(Trouble::lasting(format!("{trouble}; give a new one with --token")).into());
                }
                Remedy::NewToken => None,
                // Before anything worked, waiting helps only where the server says so.
                Remedy::Retry(None) if self.streams.is_empty() => return Err(trouble.into()),
                Remedy::Retry(asked) => asked,
            };
            if !self.uplink.can_restart() {
                return Err(Trouble::lasting(format!(
                    "{trouble}; {} cannot be continued in the middle of {}. WAV can: ffmpeg -v error -i {} -f wav - | \
                     parley stream - …",
                    self.source.kind.encoding(),
                    self.source.name,
                    self.source.name,
                ))
                .into());
            }
            if backoff.failures() >= FAILURES_MAX {
                return Err(Trouble::lasting(format!("{trouble}; gave up after {FAILURES_MAX} tries")).into());
            }
            let wait = backoff.next(asked, chance());
            self.screen.close_all();
            self.screen.remark(&format!("{trouble}; trying again in {:.1} s", wait.as_secs_f64()));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = signals.next() => return Err(Failure::Incomplete(trouble.words)),
            }
        }
    }

    /// Takes a caption of anybody in the session; ours are shown and kept.
    fn caption(&mut self, caption: &Caption, is_final: bool, raw: &str) -> io::Result<()> {
        let fresh = match caption.sequence.filter(|_| is_final) {
            Some(sequence) => self.sequences.note(sequence),
            None => true,
        };
        let of_utterance = caption.utterance_id.rsplit_once('-').map(|(stream, _)| stream);
        let stream = caption.stream.as_deref().or(of_utterance).unwrap_or_default();
        let Some(began_s) = self.streams.get(stream).copied() else { return Ok(()) };
        if !fresh {
            return Ok(());
        }
        self.progressed = Instant::now();
        if !caption.text.trim().is_empty() && self.first_caption.is_none() {
            self.first_caption = self.sound_began.map(|began| began.elapsed());
        }
        if self.json {
            // Line breaks can stand between the tokens of JSON only, where a space is as good.
            self.screen.line(&raw.replace(['\n', '\r'], " "))?;
        }
        if !is_final {
            self.screen.partial(&caption.utterance_id, "", &caption.text, caption.stable.unwrap_or(0));
            return Ok(());
        }
        self.screen.close(&caption.utterance_id);
        if let Some(end) = caption.end.filter(|_| self.current.as_deref() == Some(stream)) {
            // Stored up to here. Seconds were rounded somewhere, hence a millisecond less.
            let samples = ((end - 0.001).max(0.0) * f64::from(SAMPLE_RATE_HZ)) as u64;
            self.uplink.acknowledge(Samples(samples));
        }
        let start_s = began_s + caption.start.unwrap_or(0.0);
        let text = printable(caption.text.trim());
        if !self.json {
            self.screen.line(&format!("{:>8}  {text}", clock(start_s)))?;
        }
        let spoken = Spoken { utterance: caption.utterance_id.clone(), start_s, text };
        match self.finals.iter_mut().find(|known| known.utterance == spoken.utterance) {
            Some(known) => *known = spoken,
            None => self.finals.push(spoken),
        }
        Ok(())
    }

    /// The whole text and the summary.
    fn conclude(&mut self) -> io::Result<()> {
        self.screen.close_all();
        self.screen.end_bar();
        if self.streams.is_empty() {
            // Nothing was ever sent; the failure says why.
            return Ok(());
        }
        self.finals.sort_by(|a, b| a.start_s.total_cmp(&b.start_s));
        let texts: Vec<&str> = self.finals.iter().map(|spoken| spoken.text.as_str()).collect();
        let transcript = texts.join(" ");
        let audio_s = self.uplink.sent().max(self.heard_end).seconds();
        if self.json {
            let summary = serde_json::json!({
                "type": "summary",
                "transcript": transcript,
                "audioSeconds": (audio_s * 1000.0).round() / 1000.0,
                "segments": texts.len(),
                "firstCaptionMs": self.first_caption.map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)),
            });
            return self.screen.line(&summary.to_string());
        }
        if !transcript.is_empty() {
            self.screen.line(&format!("\n{transcript}"))?;
        }
        let first = match self.first_caption {
            Some(delay) => format!("first caption {:.1} s after the sound began", delay.as_secs_f64()),
            None => "no captions".to_owned(),
        };
        let segments =
            if texts.len() == 1 { "1 segment".to_owned() } else { format!("{} segments", texts.len()) };
        self.screen.remark(&format!("{audio_s:.1} s of sound, {segments}, {first}"));
        Ok(())
    }
}
