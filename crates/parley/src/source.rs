use std::{
    fs::File,
    io::{self, IsTerminal, Read},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use clap::ValueEnum;
use tokio::sync::{mpsc, oneshot};

use crate::sound::{Kind, Measure, Sniffed, sniff};

/// Bytes read at once; also the largest message that is sent, which every server of the contract takes.
pub const CHUNK_BYTES_MAX: usize = 32_000;

/// Chunks read ahead. Enough to never starve the socket; when full, reading (and so a pipe's writer) waits.
const CHUNKS_AHEAD: usize = 4;

/// Names that raw samples are usually given.
const RAW_EXTENSIONS: [&str; 8] = ["raw", "pcm", "s16", "s16le", "f32", "f32le", "ulaw", "alaw"];

/// How the sound is written; the names are the protocol's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Encoding {
    Auto,
    #[value(name = "pcm_s16le", alias = "s16le", alias = "pcm")]
    PcmS16le,
    #[value(name = "f32le", alias = "pcm_f32le")]
    F32le,
    Mulaw,
    Alaw,
    Wav,
    Flac,
    Mp3,
    Ogg,
    Webm,
}

/// What the user says about the sound.
#[derive(Debug, Clone, Copy)]
pub struct Declared {
    /// Its encoding.
    pub encoding: Encoding,
    /// Samples a second, for samples without a header.
    pub rate_hz: u32,
    /// Interleaved channels, for samples without a header.
    pub channels: u16,
}

/// Why sound cannot be read or understood.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file cannot be opened.
    #[error("{name} cannot be opened: {error}")]
    Open {
        /// The file.
        name: String,
        /// Why.
        error: io::Error,
    },
    /// Standard input is a keyboard.
    #[error(
        "standard input is the terminal; pipe sound into it: arecord -q -f S16_LE -r 16000 -c 1 -t raw | parley stream - …"
    )]
    Terminal,
    /// Reading failed.
    #[error("{name} cannot be read: {error}")]
    Read {
        /// The file.
        name: String,
        /// Why.
        error: io::Error,
    },
    /// There is nothing in it.
    #[error("{0} is empty")]
    Empty(String),
    /// A container that the server does not read.
    #[error(
        "{name} is {container}, which the server does not read; convert it: ffmpeg -v error -i {name} -f wav - | parley stream - …"
    )]
    Foreign {
        /// The file.
        name: String,
        /// What it is.
        container: &'static str,
    },
    /// A container with a bad beginning.
    #[error("{name} begins like a WAV, but {what}")]
    Broken {
        /// The file.
        name: String,
        /// What is wrong.
        what: &'static str,
    },
    /// Neither a container nor declared as raw.
    #[error(
        "{0} is no WAV, FLAC, MP3, Ogg or WebM; for samples without a header say --encoding pcm_s16le (and --rate, --channels)"
    )]
    Unknown(String),
    /// Declared as one thing, is another.
    #[error("{name} is not {declared}; leave --encoding out to have it recognized")]
    Mismatch {
        /// The file.
        name: String,
        /// What it was said to be.
        declared: &'static str,
    },
    /// `--realtime` for a container that only the server looks into.
    #[error(
        "--realtime needs WAV or raw samples, and {name} is {encoding}; let ffmpeg open it: ffmpeg -v error -i {name} -f wav - | parley stream - --realtime …"
    )]
    Unpaced {
        /// The file.
        name: String,
        /// What it is.
        encoding: &'static str,
    },
}

/// An open source of sound. A thread of its own reads it, since a pipe may block for ever.
pub struct Source {
    /// What to call it.
    pub name: String,
    /// What it holds.
    pub kind: Kind,
    /// What stands before the samples of a WAV; empty otherwise.
    pub header: Bytes,
    /// Bytes of sound after the header, when that is known.
    pub length_bytes: Option<u64>,
    chunks: mpsc::Receiver<io::Result<Bytes>>,
}

struct Opened {
    kind: Kind,
    header: Bytes,
    length_bytes: Option<u64>,
}

impl Source {
    /// Opens `path` (`-` is standard input) and looks at its beginning.
    ///
    /// # Errors
    /// See [`SourceError`].
    pub async fn open(path: &Path, declared: Declared) -> Result<Self, SourceError> {
        let piped = path.as_os_str() == "-";
        if piped && io::stdin().is_terminal() {
            return Err(SourceError::Terminal);
        }
        let name = if piped { "standard input".to_owned() } else { path.display().to_string() };
        let (opened_to, opened) = oneshot::channel();
        let (chunks_to, chunks) = mpsc::channel(CHUNKS_AHEAD);
        let (path, thread_name): (PathBuf, String) = (path.to_owned(), name.clone());
        let thread = std::thread::Builder::new().name("read".to_owned()).spawn(move || {
            let mut reader: Box<dyn Read> = if piped {
                Box::new(io::stdin().lock())
            } else {
                match open_file(&path) {
                    Ok(file) => Box::new(file),
                    Err(error) => {
                        // Nobody waits any more when the command was interrupted.
                        drop(opened_to.send(Err(SourceError::Open { name: thread_name, error })));
                        return;
                    }
                }
            };
            let length = if piped {
                None
            } else {
                std::fs::metadata(&path).ok().filter(|it| it.is_file()).map(|it| it.len())
            };
            match begin(&mut reader, &thread_name, piped, &path, declared, length) {
                Ok((opened, sound)) => {
                    let limit = match opened.kind {
                        Kind::Wav { data_bytes, .. } => data_bytes,
                        Kind::Raw { .. } | Kind::Packed { .. } => None,
                    };
                    if opened_to.send(Ok(opened)).is_ok() {
                        pump(&mut reader, sound, limit.unwrap_or(u64::MAX), &chunks_to);
                    }
                }
                Err(error) => drop(opened_to.send(Err(error))),
            }
        });
        let closed = || SourceError::Open { name: name.clone(), error: io::ErrorKind::Other.into() };
        thread.map_err(|error| SourceError::Open { name: name.clone(), error })?;
        let Opened { kind, header, length_bytes } = opened.await.map_err(|_| closed())??;
        Ok(Self { name, kind, header, length_bytes, chunks })
    }

    /// The next bytes of sound; `None` after the last. May be awaited again after it was abandoned.
    pub async fn next(&mut self) -> Option<io::Result<Bytes>> {
        self.chunks.recv().await
    }
}

/// Opens a file, and says plainly when it is a folder.
fn open_file(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    if file.metadata()?.is_dir() { Err(io::ErrorKind::IsADirectory.into()) } else { Ok(file) }
}

/// Reads until the kind is known. Gives what was opened and the bytes of sound read so far.
fn begin(
    reader: &mut dyn Read,
    name: &str,
    piped: bool,
    path: &Path,
    declared: Declared,
    length: Option<u64>,
) -> Result<(Opened, Bytes), SourceError> {
    let mut head = Vec::new();
    let mut ended = false;
    let found = loop {
        match sniff(&head, ended) {
            Sniffed::More if !ended => {
                ended = read_some(reader, &mut head)
                    .map_err(|error| SourceError::Read { name: name.to_owned(), error })?;
            }
            found => break found,
        }
    };
    if head.is_empty() {
        return Err(SourceError::Empty(name.to_owned()));
    }
    let raw_name = path.extension().and_then(|it| it.to_str()).is_some_and(|it| RAW_EXTENSIONS.contains(&it));
    let kind = kind(found, declared, piped || raw_name, name)?;
    let header_bytes = match kind {
        Kind::Wav { header_bytes, .. } => header_bytes,
        Kind::Raw { .. } | Kind::Packed { .. } => 0,
    };
    let mut head = Bytes::from(head);
    let header = head.split_to(header_bytes.min(head.len()));
    let rest = length.map(|length| length.saturating_sub(header.len() as u64));
    let length_bytes = match kind {
        Kind::Wav { data_bytes: Some(data), .. } => Some(rest.map_or(data, |rest| rest.min(data))),
        _ => rest,
    };
    Ok((Opened { kind, header, length_bytes }, head))
}

/// Weighs what the bytes look like against what the user says.
fn kind(found: Sniffed, declared: Declared, raw_expected: bool, name: &str) -> Result<Kind, SourceError> {
    let name = || name.to_owned();
    let raw = |encoding, bytes: u32| Kind::Raw {
        encoding,
        channels: declared.channels,
        measure: Measure { rate_hz: declared.rate_hz, sample_bytes: bytes * u32::from(declared.channels) },
    };
    let packed = match declared.encoding {
        Encoding::PcmS16le => return Ok(raw("pcm_s16le", 2)),
        Encoding::F32le => return Ok(raw("f32le", 4)),
        Encoding::Mulaw => return Ok(raw("mulaw", 1)),
        Encoding::Alaw => return Ok(raw("alaw", 1)),
        Encoding::Auto => {
            return match found {
                Sniffed::Kind(kind) => Ok(kind),
                Sniffed::Foreign(container) => Err(SourceError::Foreign { name: name(), container }),
                Sniffed::Broken(what) => Err(SourceError::Broken { name: name(), what }),
                Sniffed::Unknown | Sniffed::More if raw_expected => Ok(raw("pcm_s16le", 2)),
                Sniffed::Unknown | Sniffed::More => Err(SourceError::Unknown(name())),
            };
        }
        Encoding::Wav => "wav",
        Encoding::Flac => "flac",
        Encoding::Mp3 => "mp3",
        Encoding::Ogg => "ogg",
        Encoding::Webm => "webm",
    };
    match found {
        Sniffed::Kind(kind) if kind.encoding() == packed => Ok(kind),
        // An MP3 may begin with anything before its first frame.
        Sniffed::Unknown if packed == "mp3" => Ok(Kind::Packed { encoding: packed }),
        Sniffed::Broken(what) if packed == "wav" => Err(SourceError::Broken { name: name(), what }),
        _ => Err(SourceError::Mismatch { name: name(), declared: packed }),
    }
}

/// Hands on what was read and what follows, up to `left` bytes, until the end or until nobody wants more.
fn pump(reader: &mut dyn Read, first: Bytes, mut left: u64, chunks: &mpsc::Sender<io::Result<Bytes>>) {
    let mut pending = first;
    loop {
        pending.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        left = left.saturating_sub(pending.len() as u64);
        while !pending.is_empty() {
            let chunk = pending.split_to(pending.len().min(CHUNK_BYTES_MAX));
            if chunks.blocking_send(Ok(chunk)).is_err() {
                return;
            }
        }
        if left == 0 {
            // A pipe may stay open after the last sample; nobody waits for it.
            return;
        }
        let mut buffer = Vec::new();
        match read_some(reader, &mut buffer) {
            Ok(false) => pending = Bytes::from(buffer),
            Ok(true) => return,
            Err(error) => {
                drop(chunks.blocking_send(Err(error)));
                return;
            }
        }
    }
}

/// Appends what one read gives; true at the end.
fn read_some(reader: &mut dyn Read, buffer: &mut Vec<u8>) -> io::Result<bool> {
    let filled = buffer.len();
    buffer.resize(filled + CHUNK_BYTES_MAX, 0);
    let outcome = loop {
        match reader.read(buffer.get_mut(filled..).unwrap_or_default()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => break outcome,
        }
    };
    buffer.truncate(filled + *outcome.as_ref().unwrap_or(&0));
    outcome.map(|count| count == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTO: Declared = Declared { encoding: Encoding::Auto, rate_hz: 16_000, channels: 1 };

    fn decide(found: Sniffed, encoding: Encoding, raw_expected: bool) -> Result<&'static str, String> {
        let declared = Declared { encoding, ..AUTO };
        kind(found, declared, raw_expected, "x")
            .map(|kind| kind.encoding())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn bytes_and_declaration_are_weighed() {
        let flac = || Sniffed::Kind(Kind::Packed { encoding: "flac" });
        assert_eq!(decide(flac(), Encoding::Auto, false), Ok("flac"));
        assert_eq!(decide(flac(), Encoding::Flac, false), Ok("flac"));
        assert_eq!(decide(flac(), Encoding::PcmS16le, false), Ok("pcm_s16le"));
        assert_eq!(decide(Sniffed::Unknown, Encoding::Auto, true), Ok("pcm_s16le"));
        assert_eq!(decide(Sniffed::Unknown, Encoding::Mulaw, false), Ok("mulaw"));
        assert_eq!(decide(Sniffed::Unknown, Encoding::Mp3, false), Ok("mp3"));
        for (found, encoding, says) in [
            (flac(), Encoding::Ogg, "is not ogg"),
            (Sniffed::Unknown, Encoding::Auto, "--encoding pcm_s16le"),
            (Sniffed::Unknown, Encoding::Wav, "is not wav"),
            (Sniffed::Foreign("MP4 or M4A"), Encoding::Auto, "ffmpeg"),
            (Sniffed::Broken("its header is too long"), Encoding::Auto, "too long"),
        ] {
            let error = decide(found, encoding, false).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[tokio::test]
    async fn a_wav_ends_with_its_samples() {
        let mut wav =
            b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0data".to_vec();
        wav.extend(70_000_u32.to_le_bytes());
        wav.extend(vec![7; 70_000]);
        wav.extend(b"LIST\x04\0\0\0abcd");
        let path = std::env::temp_dir().join(format!("parley-source-{}.wav", std::process::id()));
        std::fs::write(&path, &wav).unwrap();
        let mut source = Source::open(&path, AUTO).await.unwrap();
        assert_eq!((source.header.len(), source.length_bytes), (44, Some(70_000)));
        let mut sound = Vec::new();
        while let Some(chunk) = source.next().await {
            let chunk = chunk.unwrap();
            assert!(chunk.len() <= CHUNK_BYTES_MAX);
            sound.extend(chunk);
        }
        assert_eq!(sound, vec![7; 70_000]);
        std::fs::remove_file(path).unwrap();
    }

    #[tokio::test]
    async fn what_cannot_be_opened_is_named() {
        for (path, says) in [("/nowhere/x.wav", "/nowhere/x.wav cannot be opened"), ("/", "cannot be opened")]
        {
            let error = Source::open(Path::new(path), AUTO).await.err().unwrap();
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
