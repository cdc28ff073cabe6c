use reqwest::Url;
use settings::{Reader, Secret};

/// Where LiveKit is, and what proves to it who we are.
#[derive(Debug, Clone)]
pub struct LiveKitSettings {
    /// Its address, http or https, with the path of a proxy if need be.
    pub url: Url,
    /// The name of the key.
    pub key: String,
    /// The key's secret: signs our calls, and its webhooks.
    pub secret: Secret,
}

const API_KEY: &str = "LIVEKIT_API_KEY";

const API_SECRET: &str = "LIVEKIT_API_SECRET";

/// The names of the address, the first one that is set wins, and the schemes that each may have.
const ADDRESSES: [(&str, [&str; 2]); 3] = [
    ("LIVEKIT_WS_URL", ["ws", "wss"]),
    ("NEXT_PUBLIC_LIVEKIT_URL", ["ws", "wss"]),
    ("LIVEKIT_HTTP_URL", ["http", "https"]),
];

impl LiveKitSettings {
    /// Reads `LIVEKIT_WS_URL` (else `NEXT_PUBLIC_LIVEKIT_URL`, else `LIVEKIT_HTTP_URL`), `LIVEKIT_API_KEY` and
    /// `LIVEKIT_API_SECRET`. `None` when none of them is set, or when the reader has a problem to report.
    pub fn read(reader: &mut Reader) -> Option<Self> {
        let address =
            ADDRESSES.into_iter().find_map(|(name, schemes)| Some((name, schemes, reader.text(name)?)));
        if address.is_none() && reader.text(API_KEY).is_none() && reader.text(API_SECRET).is_none() {
            return None;
        }
        let url = match address {
            Some((name, schemes, text)) => {
                let url = over_http(&text, schemes);
                if url.is_none() {
                    let [plain, encrypted] = schemes;
                    reader.problem(name, format_args!("expected a {plain}:// or {encrypted}:// URL"));
                }
                url
            }
            None => {
                reader.problem("LIVEKIT_WS_URL", "missing; expected a ws:// or wss:// URL");
                None
            }
        };
        let key = reader.required(API_KEY, "the key that LiveKit knows us by");
        let secret = reader.required(API_SECRET, "the secret of LIVEKIT_API_KEY");
        Some(Self { url: url?, key: key?, secret: secret? })
    }
}

/// The address for HTTP of a URL with one of these schemes.
fn over_http(text: &str, schemes: [&str; 2]) -> Option<Url> {
    let (scheme, rest) = text.split_once("://")?;
    let [plain, encrypted] = schemes;
    let http = match scheme.to_ascii_lowercase() {
        scheme if scheme == plain => "http",
        scheme if scheme == encrypted => "https",
        _ => return None,
    };
    Url::parse(&format!("{http}://{rest}")).ok().filter(Url::has_host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> (Option<LiveKitSettings>, Vec<String>) {
        let mut reader = settings::of(pairs.iter().copied());
        let read = LiveKitSettings::read(&mut reader);
        let problems = reader.finish(|| Some(())).err();
        (read, problems.map(|problems| problems.lines().to_vec()).unwrap_or_default())
    }

    #[test]
    fn nothing_set_is_no_livekit() {
        let (read, problems) = read(&[]);
        assert!(read.is_none() && problems.is_empty(), "{problems:?}");
    }

    #[test]
    fn each_name_of_the_address_will_do_and_the_first_wins() {
        let keys = [("LIVEKIT_API_KEY", "key"), ("LIVEKIT_API_SECRET", "hush")];
        let cases = [
            (&[("LIVEKIT_WS_URL", "wss://livekit.example")][..], "https://livekit.example/"),
            (
                &[("LIVEKIT_WS_URL", "WS://livekit.example:7880/proxied")],
                "http://livekit.example:7880/proxied",
            ),
            (&[("NEXT_PUBLIC_LIVEKIT_URL", "ws://livekit.example")], "http://livekit.example/"),
            (&[("LIVEKIT_HTTP_URL", "https://livekit.example")], "https://livekit.example/"),
            (
                &[("LIVEKIT_HTTP_URL", "https://other.example"), ("LIVEKIT_WS_URL", "wss://livekit.example")],
                "https://livekit.example/",
            ),
        ];
        for (address, expected) in cases {
            let (settings, problems) = read(&[address, &keys].concat());
            assert!(problems.is_empty(), "{address:?}: {problems:?}");
            let settings = settings.unwrap();
            assert_eq!(settings.url.as_str(), expected);
            assert!(!format!("{settings:?}").contains("hush"));
        }
    }

    #[test]
    fn a_half_is_a_problem_for_each_that_is_missing_or_wrong() {
        let (settings, problems) = read(&[("LIVEKIT_API_KEY", "key")]);
        assert!(settings.is_none());
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems.iter().any(|line| line.starts_with("LIVEKIT_WS_URL: missing")));
        assert!(problems.iter().any(|line| line.starts_with("LIVEKIT_API_SECRET: missing")));
        for (name, wrong) in [
            ("LIVEKIT_WS_URL", "https://livekit.example"),
            ("LIVEKIT_WS_URL", "livekit.example"),
            ("LIVEKIT_WS_URL", "wss://"),
            ("LIVEKIT_HTTP_URL", "wss://livekit.example"),
        ] {
            let (settings, problems) =
                read(&[(name, wrong), ("LIVEKIT_API_KEY", "key"), ("LIVEKIT_API_SECRET", "hush")]);
            assert!(settings.is_none());
            assert!(problems.iter().all(|line| line.starts_with(name)), "{problems:?}");
            assert_eq!(problems.len(), 1, "{wrong}");
        }
    }
}
