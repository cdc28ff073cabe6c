use std::time::Duration;

use reqwest::Url;
use settings::{Reader, Secret};

/// The account at Gladia, and how to use it.
///
/// | setting | default | meaning |
/// |-|-|-|
/// | `GLADIA_API_KEY` | none | key of the account; without one there is no Gladia |
/// | `GLADIA_API_URL` | `https://api.gladia.io` | where its API is; plain `http` only on this machine |
/// | `GLADIA_REGION` | Gladia's choice | `us-west` or `eu-west` |
/// | `GLADIA_MODEL` | Gladia's choice | such as `solaria-1` |
/// | `GLADIA_CODE_SWITCHING` | false | in streams whose language nobody says, find it out for each utterance anew |
#[derive(Debug, Clone)]
pub struct GladiaSettings {
    /// Key of the account.
    pub api_key: Secret,
    /// Where the API is.
    pub api_url: Url,
    /// Region, when one is wanted.
    pub region: Option<String>,
    /// Model, when one is wanted.
    pub model: Option<String>,
    /// Whether the language is found out for each utterance anew, in streams whose language nobody says.
    pub code_switching: bool,
    /// How long to wait for what; not to be set from outside.
    pub limits: GladiaLimits,
}

/// How long to wait for what.
#[derive(Debug, Clone)]
pub struct GladiaLimits {
    /// For an answer over HTTP, and for TCP, TLS and the upgrade of a socket together.
    pub answer: Duration,
    /// For a sign of life while audio is not acknowledged; then the connection is given up for a new one.
    pub silence: Duration,
    /// For the remaining finals once Gladia was told to stop.
    pub finish: Duration,
    /// Before the second attempt of a kind, and at most; doubles each time.
    pub back_off: (Duration, Duration),
    /// Audio that was acknowledged so long ago, and of which nothing was heard, is silence.
    pub settle: Duration,
    /// An utterance of which nothing more was heard for so long is no utterance.
    pub open: Duration,
}

impl Default for GladiaLimits {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(10),
            silence: Duration::from_secs(10),
            finish: Duration::from_secs(30),
            back_off: (Duration::from_millis(300), Duration::from_secs(2)),
            settle: Duration::from_secs(10),
            open: Duration::from_secs(20),
        }
    }
}

impl GladiaSettings {
    /// Reads its section; `None` when there is no key, or a fault that the reader has noted.
    pub fn read(reader: &mut Reader) -> Option<Self> {
        let api_key = reader.text("GLADIA_API_KEY").map(Secret::from);
        let api_url =
            match Url::parse(&reader.or("GLADIA_API_URL", "https://api.gladia.io".to_owned(), "a URL")) {
                Ok(url) if trusted(&url, "https", "http") => Some(url),
                _ => {
                    reader.problem(
                        "GLADIA_API_URL",
                        "expected https://HOST, or http://HOST on this machine alone",
                    );
                    None
                }
            };
        let region = reader.text("GLADIA_REGION");
        if region.as_deref().is_some_and(|region| !matches!(region, "us-west" | "eu-west")) {
            reader.problem("GLADIA_REGION", "expected us-west or eu-west");
        }
        let model = reader.text("GLADIA_MODEL");
        let code_switching = reader.flag("GLADIA_CODE_SWITCHING");
        Some(Self {
            api_key: api_key?,
            api_url: api_url?,
            region,
            model,
            code_switching,
            limits: GladiaLimits::default(),
        })
    }

    /// Where sessions are made.
    pub(crate) fn live_url(&self) -> Url {
        let mut url = self.api_url.clone();
        let folder = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{folder}/v2/live"));
        url.set_query(None);
        if let Some(region) = &self.region {
            url.query_pairs_mut().append_pair("region", region);
        }
        url
    }
}

/// Whether what people say may go there: over TLS, or without within this machine.
pub(crate) fn trusted(url: &Url, tls: &str, plain: &str) -> bool {
    let Some(host) = url.host_str().filter(|_| url.username().is_empty() && url.password().is_none()) else {
        return false;
    };
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    let loopback = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
    url.scheme() == tls || (url.scheme() == plain && loopback)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_key_there_is_no_gladia() {
        let mut reader = settings::of([("GLADIA_REGION", "us-west")]);
        assert!(GladiaSettings::read(&mut reader).is_none());
        assert!(reader.finish(|| Some(())).is_ok(), "and that is no fault");
    }

    #[test]
    fn all_is_read() {
        let mut reader = settings::of([
            ("GLADIA_API_KEY", "very-secret"),
            ("GLADIA_API_URL", "http://127.0.0.1:9/base/?x=1"),
            ("GLADIA_REGION", "eu-west"),
            ("GLADIA_MODEL", "solaria-1"),
            ("GLADIA_CODE_SWITCHING", "yes"),
        ]);
        let read = GladiaSettings::read(&mut reader).unwrap();
        assert_eq!(read.live_url().as_str(), "http://127.0.0.1:9/base/v2/live?region=eu-west");
        assert!(read.code_switching && read.model.as_deref() == Some("solaria-1"));
        assert!(!format!("{read:?}").contains("very-secret"));
        assert!(reader.finish(|| Some(())).is_ok());
        let mut reader = settings::of([("GLADIA_API_KEY", "k")]);
        let read = GladiaSettings::read(&mut reader).unwrap();
        assert_eq!(read.live_url().as_str(), "https://api.gladia.io/v2/live");
    }

    #[test]
    fn what_is_wrong_is_said() {
        for url in ["http://api.gladia.io", "ftp://localhost", "nothing", "https://user:word@api.gladia.io"] {
            let mut reader =
                settings::of([("GLADIA_API_KEY", "k"), ("GLADIA_API_URL", url), ("GLADIA_REGION", "mars")]);
            assert!(GladiaSettings::read(&mut reader).is_none(), "{url}");
            let problems = reader.finish(|| Some(())).unwrap_err();
            assert_eq!(problems.lines().len(), 2, "{problems}");
        }
    }

    #[test]
    fn sound_goes_where_nobody_listens() {
        let cases = [
            ("wss://api.gladia.io/v2/live?token=4", true),
            ("ws://api.gladia.io/v2/live?token=4", false),
            ("ws://127.0.0.1:81/v2/live", true),
            ("ws://localhost/v2/live", true),
            ("ws://[::1]:80/v2/live", true),
            ("ws://127.evil.example/v2/live", false),
            ("https://api.gladia.io/v2/live", false),
        ];
        for (url, expected) in cases {
            assert_eq!(trusted(&Url::parse(url).unwrap(), "wss", "ws"), expected, "{url}");
        }
    }
}
