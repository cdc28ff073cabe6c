//! The pages for people and the JavaScript client: files of `web/`, compiled in, so that an edge is one binary and what
//! it serves fits what it speaks. They hold nothing of anybody; what they show they ask for like any other client.

use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body_util::{Either, Full};
use sha2::{Digest as _, Sha256};

use crate::answers::{self, Answer};

/// A file as it is served.
struct File {
    path: &'static str,
    kind: Kind,
    body: &'static [u8],
    /// Strong (RFC 9110 section 8.8.3): of the bytes.
    tag: HeaderValue,
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A page that nobody may frame.
    Page,
    /// A page that our own pages show in a frame, as a preview.
    Framed,
    Script,
    /// Types of a script, for editors.
    Types,
    Style,
    Image,
}

impl Kind {
    const fn content_type(self) -> &'static str {
        match self {
            Self::Page | Self::Framed => "text/html; charset=utf-8",
            Self::Script => "text/javascript; charset=utf-8",
            Self::Types => "text/plain; charset=utf-8",
            Self::Style => "text/css; charset=utf-8",
            Self::Image => "image/svg+xml",
        }
    }

    /// Content Security Policy, level 3. Everything comes from here and goes here: no inline script or style, no frame
    /// but our own, no plugin, no form that leaves, no HTML made of text.
    const fn policy(self) -> &'static str {
        match self {
            Self::Framed => concat!(
                "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; ",
                "base-uri 'none'; form-action 'none'; frame-ancestors 'self'; require-trusted-types-for 'script'"
            ),
            Self::Page => concat!(
                "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; ",
                "frame-src 'self'; base-uri 'none'; form-action 'none'; ",
                "frame-ancestors 'none'; require-trusted-types-for 'script'"
            ),
            // Nothing that would run when somebody opens it as a document.
            Self::Script | Self::Types | Self::Style | Self::Image => {
                "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox"
            }
        }
    }

    /// Headers beside the policy. `Referrer-Policy` matters most: a token may stand in the address of a page until its
    /// script has taken it from there.
    fn headers(self) -> impl Iterator<Item = (HeaderName, &'static str)> {
        let page: &[_] = match self {
            Self::Page => &[
                (header::X_FRAME_OPTIONS, "DENY"),
                (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
                (PERMISSIONS_POLICY, "microphone=(self), display-capture=(self), camera=(), geolocation=()"),
            ],
            Self::Framed => &[
                (header::X_FRAME_OPTIONS, "SAMEORIGIN"),
                (PERMISSIONS_POLICY, "microphone=(), display-capture=(), camera=(), geolocation=()"),
            ],
            // Pages elsewhere import the client from here.
            Self::Script | Self::Types => &[(RESOURCE_POLICY, "cross-origin")],
            Self::Style | Self::Image => &[(RESOURCE_POLICY, "same-origin")],
        };
        let always = [
            (header::CONTENT_SECURITY_POLICY, self.policy()),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
            // Asked for anew each time, and answered with 304 unless the edge was upgraded.
            (header::CACHE_CONTROL, "no-cache"),
            (header::CONTENT_TYPE, self.content_type()),
        ];
        always.into_iter().chain(page.to_vec())
    }
}

const PERMISSIONS_POLICY: HeaderName = HeaderName::from_static("permissions-policy");

const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// A file of `web/` under a path.
macro_rules! file {
    ($path:literal, $kind:ident, $name:literal) => {
        File::new($path, Kind::$kind, include_bytes!(concat!("../web/", $name)))
    };
}

static FILES: LazyLock<Vec<File>> = LazyLock::new(|| {
    vec![
        file!("/parley.js", Script, "parley.js"),
        file!("/parley.d.ts", Types, "parley.d.ts"),
        file!("/console", Page, "console.html"),
        file!("/pages/console.js", Script, "console.js"),
        file!("/overlay", Page, "builder.html"),
        file!("/pages/builder.js", Script, "builder.js"),
        file!("/overlay/", Framed, "overlay.html"),
        file!("/pages/overlay.js", Script, "overlay.js"),
        file!("/pages/overlay.css", Style, "overlay.css"),
        file!("/transcript", Page, "transcript.html"),
        file!("/pages/transcript.js", Script, "transcript.js"),
        file!("/diagnose", Page, "diagnose.html"),
        file!("/pages/diagnose.js", Script, "diagnose.js"),
        file!("/pages/page.js", Script, "page.js"),
        file!("/pages/captions.js", Script, "captions.js"),
        file!("/pages/texts.js", Script, "texts.js"),
        file!("/pages/page.css", Style, "page.css"),
        file!("/pages/icon.svg", Image, "icon.svg"),
    ]
});

impl File {
    fn new(path: &'static str, kind: Kind, body: &'static [u8]) -> Self {
        let hash = Sha256::digest(body);
        let hex: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        // Quotes and hexadecimal digits are good in a header.
        let tag = HeaderValue::try_from(format!("\"{hex}\"")).unwrap_or(HeaderValue::from_static("\"\""));
        Self { path, kind, body, tag }
    }
}

/// The file at a path. A session's overlay and its transcript are one file for all sessions: the page reads its slug
/// from its address. System C's clients look for the diagnosis under another name.
fn file(path: &str) -> Option<&'static File> {
    let of_session =
        |prefix| path.strip_prefix(prefix).is_some_and(|slug: &str| !slug.is_empty() && !slug.contains('/'));
    let path = match path {
        "/test-websocket-notifications.html" => "/diagnose",
        _ if of_session("/overlay/") => "/overlay/",
        _ if of_session("/transcript/") => "/transcript",
        _ => path.strip_suffix('/').unwrap_or(path),
    };
    FILES.iter().find(|file| file.path == path)
}

/// Answers a GET or HEAD for one of these files.
pub(crate) fn answer(path: &str, asking: &HeaderMap) -> Option<Answer> {
    let file = file(path)?;
    let mut answer = if knows(asking, &file.tag) {
        answers::empty(StatusCode::NOT_MODIFIED)
    } else {
        Answer::new(Either::Left(Full::new(Bytes::from_static(file.body))))
    };
    let headers = answer.headers_mut();
    headers.insert(header::ETAG, file.tag.clone());
    for (name, value) in file.kind.headers() {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Some(answer)
}

/// Whether whoever asks has this state already (RFC 9110 section 13.1.2). A proxy that has compressed it calls its tag
/// weak, which makes no difference here.
fn knows(asking: &HeaderMap, tag: &HeaderValue) -> bool {
    let listed = asking.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut tags = listed.flat_map(|value| value.split(',')).map(str::trim);
    tags.any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known).as_bytes() == tag.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_pages() {
        for (path, found) in [
            ("/console", "/console"),
            ("/console/", "/console"),
            ("/overlay", "/overlay"),
            ("/overlay/", "/overlay"),
            ("/overlay/demo", "/overlay/"),
            ("/overlay/a%2Fb", "/overlay/"),
            ("/transcript/demo", "/transcript"),
            ("/test-websocket-notifications.html", "/diagnose"),
            ("/parley.js", "/parley.js"),
        ] {
            assert_eq!(file(path).map(|file| file.path), Some(found), "{path}");
        }
        for path in
            ["/", "/pages", "/pages/", "/pages/../parley.js", "/overlay/a/b", "/consolex", "/web/parley.js"]
        {
            assert!(file(path).is_none(), "{path}");
        }
    }

    #[test]
    fn a_page_that_is_known_is_not_sent_again() {
        let fresh = answer("/console", &HeaderMap::new()).unwrap();
        assert_eq!(fresh.status(), StatusCode::OK);
        let tag = fresh.headers()[header::ETAG].to_str().unwrap().to_owned();
        assert!(tag.starts_with('"'), "a strong one");
        let asked = |text: &str| {
            let headers =
                [(header::IF_NONE_MATCH, HeaderValue::from_str(text).unwrap())].into_iter().collect();
            answer("/console", &headers).unwrap().status()
        };
        for known in [&tag, &format!("W/{tag}"), &format!("\"x\", {tag}"), "*"] {
            assert_eq!(asked(known), StatusCode::NOT_MODIFIED, "{known}");
        }
        assert_eq!(asked("\"x\""), StatusCode::OK);
    }

    #[test]
    fn every_file_is_there_once_and_safe_to_open() {
        let mut paths: Vec<_> = FILES.iter().map(|file| file.path).collect();
        paths.sort_unstable();
        paths.dedup();
        assert_eq!(paths.len(), FILES.len());
        for file in FILES.iter() {
            assert!(!file.body.is_empty(), "{}", file.path);
            let headers: HeaderMap =
                file.kind.headers().map(|(name, value)| (name, HeaderValue::from_static(value))).collect();
            let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
            assert!(
                policy.starts_with("default-src 'none';") && policy.contains("frame-ancestors"),
                "{}",
                file.path
            );
            assert_eq!(headers[header::REFERRER_POLICY], "no-referrer", "{}", file.path);
            if matches!(file.kind, Kind::Page | Kind::Framed) {
                assert!(!policy.contains("unsafe"), "{}", file.path);
                let text = std::str::from_utf8(file.body).unwrap();
                assert!(
                    !text.contains("style=\"") && !text.contains("<style"),
                    "{} has inline style",
                    file.path
                );
                assert!(!text.contains("://"), "{} asks somebody else", file.path);
            }
        }
    }
}
