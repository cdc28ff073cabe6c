//! Sound in, captions out: a recording through the front door, and through the door of encoders.

use std::{
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use reqwest::Url;
use rtmp::{Address, ClientEvent, ClientSession};
use serde_json::{Value, json};
use settings::Reader;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout},
};
use tokio_tungstenite::{WebSocketStream, client_async};
use tungstenite::Message;

use super::{
    check::Check,
    configured::is_local_host,
    front::{CERTIFICATE_MEND, at},
    wire::{self, Offer, Stream},
};
use crate::sound::{Kind, Sniffed, sniff};

/// The name of the check of the front door's captions.
pub const SPEECH: &str = "speech";

/// The name of the check of encoders.
pub const RTMP: &str = "rtmp";

/// The public-domain recording that comes with the model, and how it begins.
const RECORDING: &str = "two_cities.wav";
const WORDS: [&str; 6] = ["best", "times", "worst", "age", "wisdom", "foolishness"];

/// Rates of recordings, in samples a second.
const RATES_HZ: RangeInclusive<u32> = 8_000..=192_000;

/// How much of a recording is spoken, in seconds.
const SPOKEN_S: usize = 6;

/// Longest wait for captions after the sound was sent, and for the sound to be taken.
const CAPTION_LIMIT: Duration = Duration::from_secs(30);

/// Longest wait for an answer of the other protocols' handshakes.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Rate of linear PCM in a tag of RTMP (FLV v10.1, annex E.4.2.1), and the first byte of such a tag: little endian, this
/// rate, 16 bits, mono.
const RTMP_RATE_HZ: usize = 22_050;
const RTMP_TAG: u8 = 3 << 4 | 2 << 2 | 1 << 1;

/// Samples of one channel.
pub struct Recording {
    samples: Vec<i16>,
    rate_hz: usize,
    /// Words of which some must be heard; without any, every word will do.
    words: &'static [&'static str],
}

/// The recording that was named, or the one that came with the model.
///
/// # Errors
/// What to tell instead: there is none, or it is no WAV of one channel and 16 bits.
pub fn recording(named: Option<&Path>, reader: Option<&Reader>) -> Result<Recording, Check> {
    let path = named.map(Path::to_owned).or_else(|| with_model(reader)).ok_or_else(|| {
        Check::skip(SPEECH, "no recording here: name a WAV of one channel and 16 bits with --sample")
    })?;
    let unusable = |why: String| {
        Check::fail(
            SPEECH,
            format!("{} {why}", path.display()),
            "ffmpeg -i IT -ar 16000 -ac 1 -c:a pcm_s16le sample.wav",
        )
    };
    let bytes = std::fs::read(&path).map_err(|error| unusable(format!("cannot be read: {error}")))?;
    match sniff(&bytes, true) {
        Sniffed::Kind(Kind::Wav { header_bytes, data_bytes, measure })
            if measure.sample_bytes == 2 && RATES_HZ.contains(&measure.rate_hz) =>
        {
            let rate_hz = usize::try_from(measure.rate_hz).unwrap_or_default().max(1);
            let sound = bytes.get(header_bytes..).unwrap_or_default();
            // Other chunks may follow.
            let length = data_bytes.and_then(|length| usize::try_from(length).ok()).unwrap_or(sound.len());
            let sound = sound.get(..length).unwrap_or(sound);
            let samples =
                sound.chunks_exact(2).filter_map(|pair| Some(i16::from_le_bytes(pair.try_into().ok()?)));
            let samples: Vec<i16> = samples.take(SPOKEN_S.saturating_mul(rate_hz)).collect();
            let known = path.file_name().is_some_and(|name| name == RECORDING);
            Ok(Recording { samples, rate_hz, words: if known { &WORDS } else { &[] } })
        }
        _ => Err(unusable(
            "is no WAV of one channel and 16 bits with 8,000 to 192,000 samples a second".to_owned(),
        )),
    }
}

fn with_model(reader: Option<&Reader>) -> Option<PathBuf> {
    let set = reader.and_then(|reader| reader.text("PARLEY_MODEL_DIR")).map(PathBuf::from);
    let here = std::env::current_dir().ok()?;
    let above = here.ancestors().map(|folder| folder.join(".parley/model"));
    set.into_iter().chain(above).map(|folder| folder.join(RECORDING)).find(|path| path.is_file())
}

impl Recording {
    /// Whether it was understood.
    fn recognized(&self, text: &str) -> bool {
        let heard = text.to_lowercase();
        if self.words.is_empty() {
            return heard.chars().any(char::is_alphanumeric);
        }
        let found = self.words.iter().filter(|word| heard.contains(**word)).count();
        found * 2 >= self.words.len()
    }
}

type Socket = WebSocketStream<Box<dyn Stream>>;

async fn open(url: &Url, token: &str, query: &str) -> Result<Socket, String> {
    let address = at(url, "/api/realtime/transcribe", &format!("token={token}{query}"));
    let connection = wire::connect(url, Offer::Http1).await.map_err(|error| error.to_string())?;
    let mut address = address;
    // The library wants a WebSocket's scheme; the connection is encrypted already.
    let scheme = if address.scheme() == "https" { "wss" } else { "ws" };
    if address.set_scheme(scheme).is_err() {
        return Err("no address of a WebSocket".to_owned());
    }
    let upgrading = client_async(address.as_str(), connection.into_stream());
    match timeout(ANSWER_LIMIT, upgrading).await {
        Ok(Ok((socket, _))) => Ok(socket),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer to the upgrade".to_owned()),
    }
}

/// Speaks the recording through the front door.
pub async fn through_front_door(url: &Url, token: &str, recording: &Recording) -> Check {
    let began = Instant::now();
    let fail = |seen: String| {
        Check::fail(
            SPEECH,
            seen,
            "see that a transcription-worker runs, is ready (port 9102, /readyz) and is named in TRANSCRIPTION_WORKERS",
        )
    };
    let mut socket = match open(url, token, "").await {
        Ok(socket) => socket,
        Err(why) => return fail(why),
    };
    let init = json!({ "type": "init", "encoding": "pcm_s16le", "sampleRate": recording.rate_hz, "partials": false });
    let mut messages = vec![Message::text(init.to_string())];
    let bytes: Vec<u8> = recording.samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
    messages.extend(bytes.chunks(16_000).map(|piece| Message::binary(piece.to_vec())));
    messages.push(Message::text(r#"{"type":"stop"}"#));
    let speaking = async {
        for message in messages {
            socket.send(message).await?;
        }
        Ok::<_, tungstenite::Error>(())
    };
    match timeout(CAPTION_LIMIT, speaking).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return fail(format!("the connection ended while we spoke: {error}")),
        Err(_) => return fail("what answers there takes no sound".to_owned()),
    }
    let (mut text, mut trouble) = (String::new(), None::<String>);
    let ended = timeout(CAPTION_LIMIT, async {
        while let Some(Ok(message)) = socket.next().await {
            let Ok(said) = serde_json::from_str::<Value>(message.to_text().unwrap_or_default()) else {
                continue;
            };
            let field = |name: &str| said.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            match field("type").as_str() {
                "transcript_final" | "transcript" => text = format!("{text} {}", field("text")),
                "error" | "warning" if trouble.is_none() => trouble = Some(field("message")),
                "stopped" => break,
                _ => {}
            }
        }
    });
    let in_time = ended.await.is_ok();
    let seconds = began.elapsed().as_secs_f32();
    // It has said what there was to say.
    drop(socket.close(None).await);
    match trouble {
        _ if recording.recognized(&text) => Check::ok(
            SPEECH,
            format!("{SPOKEN_S} s of a recording came back as captions within {seconds:.1} s"),
        ),
        Some(trouble) => fail(format!("no captions: {trouble}")),
        None if !in_time => fail(format!("no captions within {} s", CAPTION_LIMIT.as_secs())),
        None => Check::fail(
            SPEECH,
            "captions came, and their words are others",
            "see that the engine and its model are those for the language that is spoken (ENGINE, LANGUAGE)",
        ),
    }
}

/// Publishes the recording to `address` and waits for its captions, when `follower` can read them.
pub async fn through_rtmp(
    address: &Address,
    recording: Option<&Recording>,
    follower: Option<(&Url, &str)>,
) -> Check {
    let place = format!("{}:{}", address.host, address.port);
    let connection = match wire::connect_to(&address.host, address.port, address.tls, Offer::Nothing).await {
        Ok(connection) => connection,
        Err(error) => {
            return Check::fail(
                RTMP,
                format!("{place}: {error}"),
                "start rtmp-ingest, publish its port (1935; on a platform by a TCP proxy), and open it in the firewall",
            );
        }
    };
    // The key opens a session of somebody's.
    if let Some(why) = connection.untrusted.as_deref().filter(|_| !is_local_host(&address.host)) {
        return Check::fail(
            RTMP,
            format!("{place}: encoders refuse the certificate: {why}"),
            CERTIFICATE_MEND,
        );
    }
    let mut stream = connection.into_stream();
    let mut session = ClientSession::new(address.clone(), false, 0x5041_524c_4559);
    match timeout(ANSWER_LIMIT, publish(&mut stream, &mut session)).await {
        Ok(Ok(())) => {}
        Ok(Err(Refused::Key(why))) => {
            return Check::fail(
                RTMP,
                format!("{place}: the stream key is refused: {why}"),
                "make one with `parley key create --session SLUG`, or publish with a token of the session as the key",
            );
        }
        Ok(Err(Refused::Other(why))) => {
            return Check::fail(
                RTMP,
                format!("{place}: {why}"),
                "see what listens there: RTMP needs a TCP proxy, not an HTTP one",
            );
        }
        Err(_) => {
            return Check::fail(
                RTMP,
                format!("{place}: no answer to the handshake"),
                "see what listens there: RTMP needs a TCP proxy, not an HTTP one",
            );
        }
    }
    let (Some(recording), Some((url, token))) = (recording, follower) else {
        session.unpublish();
        let said = timeout(ANSWER_LIMIT, stream.write_all(&session.take_output())).await;
        return match said.unwrap_or(Err(std::io::ErrorKind::TimedOut.into())) {
            Ok(()) => Check::ok(RTMP, format!("{place}: the key may publish")),
            Err(error) => Check::fail(RTMP, format!("{place}: {error}"), "see what rtmp-ingest logged"),
        };
    };
    let mut socket = match open(url, token, "&partials=false").await {
        Ok(socket) => socket,
        Err(why) => {
            return Check::skip(
                RTMP,
                format!("{place}: the key may publish; captions cannot be followed: {why}"),
            );
        }
    };
    let sending = timeout(CAPTION_LIMIT, send_sound(&mut stream, &mut session, recording));
    if let Err(why) = sending.await.unwrap_or_else(|_| Err("it takes no sound".to_owned())) {
        return Check::fail(
            RTMP,
            format!("{place}: {why} while we published"),
            "see what rtmp-ingest logged",
        );
    }
    let mut text = String::new();
    let following = async {
        while let Some(Ok(message)) = socket.next().await {
            let Ok(said) = serde_json::from_str::<Value>(message.to_text().unwrap_or_default()) else {
                continue;
            };
            if said.get("isFinal") == Some(&Value::Bool(true)) {
                text = format!("{text} {}", said.get("text").and_then(Value::as_str).unwrap_or_default());
                if recording.recognized(&text) {
                    break;
                }
            }
        }
    };
    // What came by then decides.
    let _in_time = timeout(CAPTION_LIMIT, following).await;
    drop(socket.close(None).await);
    if recording.recognized(&text) {
        Check::ok(RTMP, format!("{place}: {SPOKEN_S} s of a recording came back as captions"))
    } else {
        Check::fail(
            RTMP,
            format!("{place}: the sound is taken, and no captions come of it"),
            "see that the key is of the session that is followed, and what rtmp-ingest logged",
        )
    }
}

enum Refused {
    Key(String),
    Other(String),
}

async fn publish(stream: &mut Box<dyn Stream>, session: &mut ClientSession) -> Result<(), Refused> {
    let other = |error: &dyn std::fmt::Display| Refused::Other(error.to_string());
    let mut buffer = vec![0_u8; 4096];
    loop {
        stream.write_all(&session.take_output()).await.map_err(|error| other(&error))?;
        let length = stream.read(&mut buffer).await.map_err(|error| other(&error))?;
        let mut input = buffer
            .get(..length)
            .filter(|input| !input.is_empty())
            .ok_or_else(|| other(&"it hung up during the handshake"))?;
        while let Some(event) = session
            .receive(&mut input)
            .map_err(|error| Refused::Other(format!("no RTMP comes back: {error}")))?
        {
            match event {
                ClientEvent::Publishing => return Ok(()),
                ClientEvent::Refused(why) => return Err(Refused::Key(why)),
                ClientEvent::Unpublished | ClientEvent::ReconnectRequested => {}
            }
        }
    }
}

/// Sends the samples as linear PCM, and a second of silence that ends the last utterance.
async fn send_sound(
    stream: &mut Box<dyn Stream>,
    session: &mut ClientSession,
    recording: &Recording,
) -> Result<(), String> {
    let quiet = std::iter::repeat_n(&0_i16, recording.rate_hz);
    let samples: Vec<i16> = recording.samples.iter().chain(quiet).copied().collect();
    let length = samples.len() * RTMP_RATE_HZ / recording.rate_hz;
    let resampled: Vec<i16> = (0..length).map(|at| between(&samples, recording.rate_hz, at)).collect();
    // A tenth of a second each.
    let piece = RTMP_RATE_HZ / 10;
    for (number, samples) in resampled.chunks(piece).enumerate() {
        let mut tag = vec![RTMP_TAG];
        tag.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
        let timestamp = u32::try_from(number * 100).unwrap_or_default();
        session.send_audio(timestamp, &tag).map_err(|error| error.to_string())?;
        stream.write_all(&session.take_output()).await.map_err(|error| error.to_string())?;
    }
    session.unpublish();
    stream.write_all(&session.take_output()).await.map_err(|error| error.to_string())
}

/// The sample at a position of RTMP's rate, on the line between its neighbours. What lies above the band is no matter for
/// words.
fn between(samples: &[i16], rate_hz: usize, at: usize) -> i16 {
    let (whole, part) = (at * rate_hz / RTMP_RATE_HZ, at * rate_hz % RTMP_RATE_HZ);
    let sample = |index: usize| i64::from(samples.get(index).copied().unwrap_or_default());
    let (part, rate) = (i64::try_from(part).unwrap_or_default(), i64::try_from(RTMP_RATE_HZ).unwrap_or(1));
    i16::try_from(sample(whole) + (sample(whole + 1) - sample(whole)) * part / rate).unwrap_or_default()
}
