//! What a client sends: a form with a file, read as it comes, or a JSON object with the file in base64.

use std::{borrow::Cow, future::ready, time::Duration};

use base64ct::{Base64Unpadded, Encoding as _};
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, header};
use http_body_util::{BodyExt as _, BodyStream, Limited};
use hyper::body::Body;
use multer::{Constraints, Multipart, SizeLimit};
use serde::Deserialize;
use tokio::time::timeout;

use super::problem::Problem;
use crate::Edge;

/// Largest body of JSON, in bytes: system D's limit.
const JSON_BYTES_MAX: usize = 50 * 1024 * 1024;

/// Longest value of a field that is no file, in bytes.
const FIELD_BYTES_MAX: u64 = 64 * 1024;

/// Most parts of a form.
const PARTS_MAX: usize = 100;

/// What is read of a form beyond its largest file, so that whoever sends too much reads that it is too much.
const EXCESS_BYTES_MAX: u64 = 25 * 1024 * 1024;

/// How long a refused client may go on sending.
const DISCARD_LIMIT: Duration = Duration::from_secs(10);

/// What was sent.
#[derive(Debug, Default)]
pub(super) struct Upload {
    fields: Vec<(String, String)>,
    /// The recording.
    pub(super) file: Option<File>,
    /// A file came under a name that is not the one for it.
    pub(super) has_stray_file: bool,
}

/// A recording as it was sent. Clones share it.
#[derive(Clone)]
pub(super) struct File {
    /// Its bytes, in order.
    pub(super) pieces: Vec<Bytes>,
    /// What its sender says it is: a media type.
    pub(super) media_type: Option<String>,
}

impl Upload {
    /// What a field says; `None` when it is absent or empty.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.all(name).find(|value| !value.is_empty())
    }

    /// What every field of this name says.
    pub(super) fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.fields.iter().filter(move |(field, _)| field == name).map(|(_, value)| value.trim())
    }

    /// The recording.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn take_file(&mut self) -> Result<File, Problem> {
        self.file.take().ok_or(Problem::NoFile)
    }
}

impl File {
    /// Of how many bytes it is.
    pub(super) fn bytes(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }
}

/// Says nothing of what was said.
impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "File({} bytes)", self.bytes())
    }
}

/// How requests of a route are written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// The fields of a form that may hold the recording.
    pub(super) file: &'static str,
    /// JSON will do as well.
    pub(super) takes_json: bool,
}

/// Reads a request, within the limits of size and time.
///
/// # Errors
/// See [`Problem`]; those of sound and of workers cannot happen here.
pub(super) async fn read<B>(
    edge: &Edge,
    headers: &HeaderMap,
    body: B,
    shape: Shape,
) -> Result<Upload, Problem>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let media_type =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_json =
        media_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json");
    let reading = async {
        match multer::parse_boundary(media_type) {
            Ok(boundary) => form(body, boundary, shape.file, edge.settings.file_bytes_max).await,
            Err(_) if is_json && shape.takes_json => json(body).await,
            Err(_) => {
                discard(body).await;
                Err(Problem::NotAForm(if shape.takes_json { ", or a JSON object" } else { "" }))
            }
        }
    };
    timeout(edge.settings.upload_limit, reading).await.unwrap_or(Err(Problem::TooSlow))
}

/// Reads what a refused client still sends, as far as that is reasonable: one that is cut off while it sends does not
/// read why.
pub(super) async fn discard<B: Body<Data = Bytes>>(body: B) {
    let mut body = Box::pin(BodyStream::new(body));
    let reading = async {
        let mut left = JSON_BYTES_MAX;
        while let Some(Ok(frame)) = body.next().await {
            match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    let _ = timeout(DISCARD_LIMIT, reading).await;
}

async fn form<B>(body: B, boundary: String, file_field: &str, file_bytes_max: u64) -> Result<Upload, Problem>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let frames = BodyStream::new(body)
        .filter_map(|frame| ready(frame.map(|frame| frame.into_data().ok()).map_err(Into::into).transpose()));
    let all = SizeLimit::new().whole_stream(file_bytes_max.saturating_add(EXCESS_BYTES_MAX));
    let mut form = Multipart::with_constraints(frames, boundary, Constraints::new().size_limit(all));
    let mut upload = Upload::default();
    let mut too_large = false;
    let mut parts = 0;
    let problem = |error| form_problem(&error, file_bytes_max);
    while let Some(mut part) = form.next_field().await.map_err(problem)? {
        parts += 1;
        if parts > PARTS_MAX {
            return Err(Problem::FormBroken("it has too many parts"));
        }
        let name = part.name().unwrap_or_default().to_owned();
        if name == file_field && upload.file.is_none() {
            let media_type = part.content_type().map(ToString::to_string);
            let mut file = File { pieces: Vec::new(), media_type };
            let mut length = 0_u64;
            while let Some(piece) = part.chunk().await.map_err(problem)? {
                length += piece.len() as u64;
                if length > file_bytes_max {
                    too_large = true;
                    file.pieces.clear();
                } else if !piece.is_empty() {
                    file.pieces.push(piece);
                }
            }
            upload.file = Some(file);
        } else if part.file_name().is_some() {
            upload.has_stray_file = true;
            while part.chunk().await.map_err(problem)?.is_some() {}
        } else {
            let mut value = Vec::new();
            while let Some(piece) = part.chunk().await.map_err(problem)? {
                value.extend_from_slice(&piece);
                if value.len() as u64 > FIELD_BYTES_MAX {
                    return Err(Problem::FormBroken("a field is too long"));
                }
            }
            let value = String::from_utf8(value).map_err(|_| Problem::FormBroken("a field is not UTF-8"))?;
            upload.fields.push((name, value));
        }
    }
    if too_large { Err(Problem::TooLarge(file_bytes_max)) } else { Ok(upload) }
}

fn form_problem(error: &multer::Error, file_bytes_max: u64) -> Problem {
    use multer::Error;
    match error {
        Error::StreamSizeExceeded { .. } | Error::FieldSizeExceeded { .. } => {
            Problem::TooLarge(file_bytes_max)
        }
        Error::IncompleteFieldData { .. }
        | Error::IncompleteHeaders
        | Error::IncompleteStream
        | Error::StreamReadFailed(_) => Problem::CutOff,
        _ => Problem::FormBroken("its parts do not follow RFC 7578"),
    }
}

/// The fields that any of the routes knows.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Json<'a> {
    #[serde(borrow)]
    audio: Option<Cow<'a, str>>,
    audio_type: Option<String>,
    text: Option<String>,
    language: Option<String>,
    source_language: Option<String>,
    target_language: Option<String>,
}

async fn json<B>(body: B) -> Result<Upload, Problem>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let collected = Limited::new(Box::pin(body), JSON_BYTES_MAX).collect().await;
    let bytes = collected.map_err(|error| {
        let is_too_large = error.is::<http_body_util::LengthLimitError>();
        if is_too_large { Problem::TooLarge(JSON_BYTES_MAX as u64) } else { Problem::CutOff }
    })?;
    let bytes = bytes.to_bytes();
    // Megabytes of text: not on a thread that others wait for.
    tokio::task::spawn_blocking(move || read_json(&bytes)).await.unwrap_or(Err(Problem::Defect))
}

fn read_json(bytes: &[u8]) -> Result<Upload, Problem> {
    let wrong = "expected an object whose audio, audioType, text and languages are texts";
    let json: Json<'_> = serde_json::from_slice(bytes).map_err(|_| Problem::JsonBroken(wrong))?;
    let file = match json.audio.filter(|audio| !audio.is_empty()) {
        None => None,
        Some(audio) => {
            // A data URL says it twice.
            let base64 = match audio.strip_prefix("data:").and_then(|url| url.split_once(',')) {
                Some((_, base64)) => base64,
                None => &audio,
            };
            let sound = Base64Unpadded::decode_vec(base64.trim().trim_end_matches('='));
            let sound = sound.map_err(|_| Problem::JsonBroken("audio is not base64"))?;
            Some(File { pieces: vec![sound.into()], media_type: json.audio_type })
        }
    };
    let fields = [
        ("text", json.text),
        ("language", json.language),
        ("sourceLanguage", json.source_language),
        ("targetLanguage", json.target_language),
    ];
    let fields = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    Ok(Upload { fields, file, has_stray_file: false })
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body_util::StreamBody;

    use super::*;

    /// Reads a form that comes in pieces of so many bytes; the largest file has ten.
    async fn read_form(text: &str, piece: usize) -> Result<Upload, Problem> {
        let pieces: Vec<Bytes> = text.as_bytes().chunks(piece).map(Bytes::copy_from_slice).collect();
        let frames =
            stream::iter(pieces).map(|piece| Ok::<_, std::io::Error>(hyper::body::Frame::data(piece)));
        form(StreamBody::new(frames), "b".to_owned(), "file", 10).await
    }

    const HEAD: &str = "--b\r\nContent-Disposition: form-data; name=\"language\"\r\n\r\n ru\r\n\
        --b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\n";

    #[tokio::test]
    async fn a_form_is_read_in_any_pieces() {
        for piece in [1, 7, 1000] {
            let upload = read_form(&format!("{HEAD}0123456789\r\n--b--\r\n"), piece).await.unwrap();
            assert_eq!((upload.field("language"), upload.field("task")), (Some("ru"), None));
            let file = upload.file.unwrap();
            assert_eq!(
                (file.pieces.concat(), file.media_type.as_deref()),
                (b"0123456789".to_vec(), Some("audio/wav"))
            );
        }
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_form_is_told() {
        let problem = async |text: &str| read_form(text, 50).await.unwrap_err();
        assert!(matches!(problem(&format!("{HEAD}0123456789a\r\n--b--\r\n")).await, Problem::TooLarge(10)));
        for text in [format!("{HEAD}0123"), HEAD.to_owned(), "--b\r\nContent-".to_owned(), String::new()] {
            assert!(matches!(problem(&text).await, Problem::CutOff), "{text}");
        }
        let long = "x".repeat(70_000);
        let field = format!("--b\r\nContent-Disposition: form-data; name=\"x\"\r\n\r\n{long}\r\n--b--\r\n");
        assert!(matches!(problem(&field).await, Problem::FormBroken(_)));
        let many = "--b\r\nContent-Disposition: form-data; name=\"x\"\r\n\r\n1\r\n".repeat(101) + "--b--\r\n";
        assert!(matches!(problem(&many).await, Problem::FormBroken(_)));
        let audio = HEAD.replace("\"file\"", "\"audio\"");
        let upload = read_form(&format!("{audio}0123456789a\r\n--b--\r\n"), 50).await.unwrap();
        assert!(upload.has_stray_file && upload.file.is_none());
    }

    #[test]
    fn json_holds_base64_with_and_without_padding() {
        for audio in ["AQI=", "AQI", "data:audio/wav;base64,AQI=", "AQ\\u0049="] {
            let body = format!(r#"{{"audio":"{audio}","audioType":"audio/wav","language":"ar","size":2}}"#);
            let upload = read_json(body.as_bytes()).unwrap();
            assert_eq!(upload.field("language"), Some("ar"));
            assert_eq!(upload.file.unwrap().pieces.concat(), [1, 2]);
        }
        assert!(read_json(br#"{"text":"a","audio":null}"#).unwrap().file.is_none());
        for body in [r#"{"audio":"*"}"#, r#"{"audio":1}"#, "[]", "", "{"] {
            assert!(matches!(read_json(body.as_bytes()), Err(Problem::JsonBroken(_))), "{body}");
        }
    }
}
