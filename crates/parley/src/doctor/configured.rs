//! The settings of the server, as its services would read them here.

use std::collections::BTreeSet;

use event_bus::BusSettings;
use livekit::LiveKitSettings;
use reqwest::Url;
use settings::{Reader, Secret};
use storage::StorageSettings;

use super::check::{Check, Verdict};

/// Secrets that are ours to choose, and what each is for. They sign or open something, so they must not be guessed.
const OUR_SECRETS: [(&str, &str); 8] = [
    ("TRANSCRIPTION_JWT_SECRET", "signs tokens of sessions"),
    ("JWT_SECRET", "signs tokens of users"),
    ("JWT_SECRETS", "signs tokens of users"),
    ("NEXTAUTH_SECRET", "signs tokens of users"),
    ("SERVICE_KEY", "opens everything to back ends"),
    ("INTERNAL_TOKEN", "opens the services to one another"),
    ("RTMP_SERVER_SECRET", "lets others hand in captions"),
    ("FASTER_WHISPER_API_TOKEN", "opens system D's door"),
];

/// Secrets that others have made.
const THEIR_SECRETS: [&str; 5] =
    ["LIVEKIT_API_KEY", "LIVEKIT_API_SECRET", "GLADIA_API_KEY", "OPENAI_API_KEY", "VAPID_PRIVATE_KEY"];

/// Other settings whose value people copy from somewhere.
const COPIED: [&str; 16] = [
    "DATABASE_URL",
    "REDIS_URL",
    "PUBLIC_URL",
    "PARLEY_URL",
    "CORS_ORIGIN",
    "RTMP_HOST",
    "RTMP_PORT",
    "RTMP_EXTERNAL_PORT",
    "PORT",
    "HTTP_PORT",
    "LIVEKIT_WS_URL",
    "NEXT_PUBLIC_LIVEKIT_URL",
    "LIVEKIT_HTTP_URL",
    "EGRESS_WEBSOCKET_BASE_URL",
    "TRANSCRIPTION_WORKERS",
    "NOTIFICATION_HUB",
];

/// What stands in examples and was never meant to be used.
const PLACEHOLDERS: [&str; 12] = [
    "changeme",
    "change-me",
    "change_me",
    "your-",
    "your_",
    "<your",
    "placeholder",
    "example",
    "default-secret",
    "fallback",
    "xxxxxxxx",
    "insert-",
];

/// Shortest secret, in bytes: HS256 wants 32 (RFC 7518 section 3.2).
const SECRET_BYTES_MIN: usize = 32;

/// Below this many bytes a secret is guessed in no time, and services refuse it where they can.
const SECRET_BYTES_GUESSED: usize = 16;

/// Fewer different characters than this in a long secret are a pattern.
const SECRET_CHARACTERS_MIN: usize = 8;

/// Ports that one host gives once.
const PORTS: [&str; 12] = [
    "PORT",
    "RTMP_PORT",
    "HTTP_PORT",
    "HTTPS_PORT",
    "CHAT_PORT",
    "TRANSLATE_PORT",
    "SESSION_PORT",
    "METRICS_PORT",
    "WORKER_PORT",
    "WORKER_METRICS_PORT",
    "HUB_PORT",
    "HUB_METRICS_PORT",
];

/// Switches for a migration or for tests, the value that opens something, and what that is.
const SWITCHES: [(&str, &str, &str); 9] = [
    ("LEGACY_OPEN_ROUTES", "true", "anybody may start, stop and broadcast"),
    ("RTMP_OPEN_KEYS", "true", "whoever knows the name of a session may publish into it"),
    ("CHAT_ANONYMOUS", "true", "anybody may chat"),
    ("FASTER_WHISPER_REQUIRE_AUTH", "false", "anybody may have recordings transcribed"),
    ("WS_TEST_MODE", "true", "everybody reads made-up transcripts"),
    ("WS_ENABLE_TEST_BROADCAST", "true", "everybody reads made-up transcripts"),
    ("UPGRADE_AUTH", "reject", "browsers cannot read why they are refused, and see 1006"),
    ("TRANSCRIPT_MESSAGES", "both", "every caption is sent twice"),
    ("PARLEY_DEV", "true", "this is no setting for a server that others use"),
];

/// Settings of the older systems that do nothing here.
const IGNORED: [(&str, &str); 4] = [
    ("SERVER_MODE", "both halves run as services of their own"),
    ("REALTIME_BROADCAST_MODE", "captions reach every edge through Redis"),
    ("WS_PORT", "ws-edge listens on PORT"),
    ("AZURE_SPEECH_KEY", "Azure hears nothing here"),
];

/// Hosts of web applications, whose names carry HTTP alone.
const HTTP_DOMAINS: [&str; 6] =
    [".up.railway.app", ".vercel.app", ".onrender.com", ".netlify.app", ".herokuapp.com", ".hf.space"];

const MAKE_SECRET: &str =
    "`openssl rand -hex 32` makes a good one; give it to every service and to whoever signs";

/// What is set here.
pub struct Configured {
    /// Every setting.
    pub reader: Reader,
    /// Postgres, when its settings can be used.
    pub storage: Option<StorageSettings>,
    /// Redis, likewise.
    pub bus: Option<BusSettings>,
    /// LiveKit, when it is set and its settings can be used.
    pub livekit: Option<LiveKitSettings>,
    /// Verify tokens of sessions.
    pub session_secrets: Vec<Secret>,
    /// Verify tokens of users.
    pub user_secrets: Vec<Secret>,
}

/// Whether a server's settings are here at all: a client's machine has none.
pub fn is_server(reader: &Reader) -> bool {
    ["DATABASE_URL", "TRANSCRIPTION_JWT_SECRET"].iter().any(|name| reader.text(name).is_some())
}

/// Reads and judges them.
pub fn examine(reader: &Reader) -> (Configured, Vec<Check>) {
    let mut findings = Findings { reader: reader.clone(), told: BTreeSet::new(), checks: Vec::new() };
    findings.spelling();
    findings.secrets();
    findings.ports();
    findings.origins();
    findings.switches();
    findings.engines();
    findings.public_url();
    let (storage, bus, livekit, user_secrets) = findings.sections();
    findings.livekit(livekit.as_ref());
    // With a secret that cannot be right nothing is signed: the server would refuse it, and that is told already.
    let fails =
        |name: &str| findings.checks.iter().any(|check| check.name == name && check.verdict == Verdict::Fail);
    let good = |name: &str, secrets: Vec<Secret>| if fails(name) { Vec::new() } else { secrets };
    let session_secrets = good("TRANSCRIPTION_JWT_SECRET", reader.secrets("TRANSCRIPTION_JWT_SECRET"));
    let user_secrets = good("JWT_SECRET", good("JWT_SECRETS", good("NEXTAUTH_SECRET", user_secrets)));
    if findings.checks.is_empty() {
        findings
            .checks
            .push(Check::ok("settings", "every secret is there, none is quoted, weak or a placeholder"));
    }
    let configured =
        Configured { reader: reader.clone(), storage, bus, livekit, session_secrets, user_secrets };
    (configured, findings.checks)
}

struct Findings {
    reader: Reader,
    /// A setting has one fault: the first that is found explains the others.
    told: BTreeSet<String>,
    checks: Vec<Check>,
}

impl Findings {
    fn tell(&mut self, check: Check) {
        if self.told.insert(check.name.clone()) {
            self.checks.push(check);
        }
    }

    fn text(&self, name: &str) -> Option<String> {
        self.reader.text(name)
    }

    /// Quotes and placeholders. A file that a shell would read may have quotes; whoever hands the same line to a container
    /// hands on the quotes as well.
    fn spelling(&mut self) {
        let ours = OUR_SECRETS.iter().map(|(name, _)| *name);
        for name in ours.chain(THEIR_SECRETS).chain(COPIED) {
            let Some(value) = self.text(name) else { continue };
            let first = value.chars().next().filter(|first| matches!(first, '"' | '\''));
            if first.is_some() && (first == value.chars().last() || value.matches(['"', '\'']).count() == 1) {
                self.tell(Check::fail(
                    name,
                    "its value has quotes around it, which are part of the value here",
                    format!("write {name}=VALUE without quotes where the process gets it (compose, Kubernetes, the platform's page)"),
                ));
            }
            let lower = value.to_ascii_lowercase();
            let is_secret = !COPIED.contains(&name);
            let doubtful = PLACEHOLDERS.iter().any(|placeholder| {
                lower.contains(placeholder) && (is_secret || placeholder.starts_with("<your"))
            });
            if doubtful || (is_secret && matches!(lower.as_str(), "secret" | "password" | "test" | "dev")) {
                self.tell(Check::fail(name, "still holds a placeholder from an example", MAKE_SECRET));
            }
        }
    }

    fn secrets(&mut self) {
        if self.text("TRANSCRIPTION_JWT_SECRET").is_none() {
            self.tell(Check::fail(
                "TRANSCRIPTION_JWT_SECRET",
                "missing: no service starts without it",
                "set the secret with which your application signs tokens of sessions; `make env` makes one",
            ));
        }
        if self
            .text("JWT_SECRET")
            .or_else(|| self.text("NEXTAUTH_SECRET"))
            .or_else(|| self.text("JWT_SECRETS"))
            .is_none()
        {
            self.tell(Check::warn(
                "JWT_SECRET",
                "neither it nor NEXTAUTH_SECRET is set: nobody can read notifications, and only sessions can chat",
                "set the secret with which your application signs tokens of users",
            ));
        }
        for (name, missing) in [
            (
                "SERVICE_KEY",
                "missing: no back end can publish notifications, start sessions or fetch transcripts",
            ),
            ("INTERNAL_TOKEN", "missing: whoever reaches the inner network can speak as a service"),
        ] {
            if self.text(name).is_none() {
                self.tell(Check::warn(name, missing, MAKE_SECRET));
            }
        }
        let mut seen: Vec<(&str, Secret)> = Vec::new();
        for (name, purpose) in OUR_SECRETS {
            for secret in self.reader.secrets(name) {
                let text = secret.expose();
                let characters: BTreeSet<char> = text.chars().collect();
                let bytes = text.len();
                if bytes < SECRET_BYTES_GUESSED {
                    let seen = format!("{bytes} bytes are guessed in no time, and it {purpose}");
                    self.tell(Check::fail(name, seen, MAKE_SECRET));
                } else if bytes < SECRET_BYTES_MIN || characters.len() < SECRET_CHARACTERS_MIN {
                    let seen = format!(
                        "weak: {bytes} bytes, {} different characters, and it {purpose}",
                        characters.len()
                    );
                    self.tell(Check::warn(name, seen, MAKE_SECRET));
                }
                // One web application may sign both kinds of user tokens.
                let twin =
                    seen.iter().find(|(other, known)| *known == secret && purpose_of(other) != purpose);
                if let Some((other, _)) = twin {
                    let seen = format!("the same secret as {other}: who has one has both");
                    self.tell(Check::warn(name, seen, "give each its own"));
                }
                seen.push((name, secret));
            }
        }
    }

    fn ports(&mut self) {
        let mut seen: Vec<(&str, u16)> = Vec::new();
        for name in PORTS {
            let Some(text) = self.text(name) else { continue };
            let Ok(port) = text.parse::<u16>() else {
                self.tell(Check::fail(name, "it is no port number", "write a number from 1 to 65535"));
                continue;
            };
            let twin = seen.iter().find(|(_, known)| *known == port && port != 0).map(|(other, _)| *other);
            match twin {
                Some("PORT") if name == "RTMP_PORT" => self.tell(Check::fail(
                    "PORT",
                    format!("{port}, and RTMP_PORT is the same: only one of them can listen"),
                    "a platform that injects PORT chooses it: leave PORT unset and give RTMP_PORT another number",
                )),
                Some(other) => self.tell(Check::fail(
                    name,
                    format!("{port} is {other} already: only one of them can listen"),
                    format!("give {name} another number"),
                )),
                None => {}
            }
            seen.push((name, port));
        }
    }

    fn origins(&mut self) {
        let origins = self.reader.list("CORS_ORIGIN");
        for origin in &origins {
            let url = Url::parse(origin)
                .ok()
                .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
            let fault = match url {
                _ if origin == "*" && origins.len() > 1 => {
                    Some("`*` beside others opens it to everybody".to_owned())
                }
                _ if origin == "*" => None,
                None => Some(format!("`{origin}` is no origin: the scheme is missing, or it is no http")),
                Some(url) if url.path() != "/" || url.query().is_some() => {
                    Some(format!("`{origin}` has a path, and browsers send none: it never matches"))
                }
                Some(_) => None,
            };
            if let Some(fault) = fault {
                self.tell(Check::fail(
                    "CORS_ORIGIN",
                    fault,
                    "list origins such as https://app.example, separated by commas",
                ));
            }
        }
    }

    fn switches(&mut self) {
        let dev = self.is("PARLEY_DEV", "true");
        for (name, opens, what) in SWITCHES {
            let harmless = match name {
                "PARLEY_DEV" => self.text("PUBLIC_URL").is_none_or(|url| is_local_url(&url)),
                // In dev it is open on purpose.
                "FASTER_WHISPER_REQUIRE_AUTH" => dev,
                "WS_TEST_MODE" | "WS_ENABLE_TEST_BROADCAST" => {
                    self.text("NODE_ENV").as_deref() == Some("production")
                }
                _ => false,
            };
            if self.is(name, opens) && !harmless {
                let seen = format!("{}: {what}", self.text(name).unwrap_or_default());
                self.tell(Check::warn(name, seen, "take it out as soon as no older client needs it"));
            }
        }
        for (name, why) in IGNORED {
            if self.text(name).is_some() {
                self.tell(Check::warn(name, format!("has no effect: {why}"), "take it out"));
            }
        }
    }

    fn is(&self, name: &str, value: &str) -> bool {
        let truth = |text: &str| match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => "true".to_owned(),
            "false" | "0" | "no" | "off" => "false".to_owned(),
            other => other.to_owned(),
        };
        self.text(name).is_some_and(|text| truth(&text) == value)
    }

    fn engines(&mut self) {
        let engine = self.text("ENGINE").unwrap_or_default();
        for (wanted, needed) in [("gladia", "GLADIA_API_KEY"), ("openai", "OPENAI_API_URL")] {
            let have =
                self.text(needed).is_some() || (wanted == "openai" && self.text("OPENAI_API_KEY").is_some());
            if engine == wanted && !have {
                self.tell(Check::fail(
                    needed,
                    format!("missing, and ENGINE={wanted} needs it"),
                    format!("set {needed}, or ENGINE=auto"),
                ));
            }
        }
        let translator = self.text("TRANSLATOR").unwrap_or_default();
        if translator == "libretranslate" && self.text("LIBRETRANSLATE_URL").is_none() {
            self.tell(Check::fail(
                "LIBRETRANSLATE_URL",
                "missing, and TRANSLATOR=libretranslate needs it",
                "set the address of the LibreTranslate server, such as http://libretranslate:5000",
            ));
        }
    }

    fn public_url(&mut self) {
        let Some(text) = self.text("PUBLIC_URL") else { return };
        let url =
            Url::parse(&text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        match url {
            None => self.tell(Check::fail(
                "PUBLIC_URL",
                "it is no http:// or https:// URL",
                "write the address at which clients find the front door, such as https://captions.example",
            )),
            Some(url) if url.scheme() == "http" && !is_local(&url) => self.tell(Check::warn(
                "PUBLIC_URL",
                "http:// to a host that is not local: a page of https may not connect, and tokens travel in the clear",
                "put TLS in front and write https://",
            )),
            Some(_) => {}
        }
    }

    /// Each service's own reading of what several of them share.
    fn sections(
        &mut self,
    ) -> (Option<StorageSettings>, Option<BusSettings>, Option<LiveKitSettings>, Vec<Secret>) {
        let mut reader = self.reader.clone();
        let storage = StorageSettings::read(&mut reader);
        let bus = BusSettings::read(&mut reader);
        let livekit = LiveKitSettings::read(&mut reader);
        let user_secrets = auth::user_secrets(&mut reader);
        let problems = reader.finish(|| Some(())).err();
        let lines = problems.map(|problems| problems.lines().to_vec()).unwrap_or_default();
        for line in &lines {
            let (name, what) = line.split_once(": ").unwrap_or((line, ""));
            self.tell(Check::fail(
                name,
                what,
                "correct it where the process gets its settings (.env.example lists them)",
            ));
        }
        let faulty = |name: &str| self.told.contains(name);
        (
            storage.filter(|_| !faulty("DATABASE_URL")),
            Some(bus).filter(|_| !faulty("REDIS_URL")),
            livekit.filter(|_| {
                !["LIVEKIT_WS_URL", "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET"].into_iter().any(faulty)
            }),
            user_secrets,
        )
    }

    /// Where LiveKit is to send a room's sound to.
    fn livekit(&mut self, livekit: Option<&LiveKitSettings>) {
        let Some(livekit) = livekit else { return };
        if is_local(&livekit.url) {
            return;
        }
        let egress = self.text("EGRESS_WEBSOCKET_BASE_URL");
        if egress.as_deref().is_none_or(is_local_url) {
            self.tell(Check::fail(
                "EGRESS_WEBSOCKET_BASE_URL",
                "it names this machine, where LiveKit's egress is not: no track arrives",
                "write the address of the front door: wss://HOST/egress/audio",
            ));
        }
        let host = self.text("RTMP_HOST");
        let external = self.text("RTMP_EXTERNAL_PORT");
        let internal = self.text("RTMP_PORT").unwrap_or_else(|| "1935".to_owned());
        let public =
            self.text("PUBLIC_URL").and_then(|url| Url::parse(&url).ok()?.host_str().map(str::to_owned));
        match host {
            None => self.tell(Check::fail(
                "RTMP_HOST",
                "missing, so it is localhost, where LiveKit's egress is not",
                RTMP_MEND,
            )),
            Some(host) if is_local_host(&host) => {
                self.tell(Check::fail(
                    "RTMP_HOST",
                    "localhost, where LiveKit's egress is not: it never connects",
                    RTMP_MEND,
                ));
            }
            Some(host)
                if host.contains("://")
                    || host.contains('/')
                    || (host.contains(':') && !host.ends_with(']')) =>
            {
                self.tell(Check::fail(
                    "RTMP_HOST",
                    "it has a scheme, a port or a path",
                    "write the host name alone; the port is RTMP_EXTERNAL_PORT",
                ));
            }
            Some(host)
                if host.contains(".proxy.rlwy.net")
                    && external.as_deref().is_none_or(|port| port == internal) =>
            {
                self.tell(Check::fail(
                    "RTMP_EXTERNAL_PORT",
                    "the port of the inside, and RTMP_HOST is a TCP proxy, which has a port of its own",
                    "write the port that the platform shows beside the TCP proxy's host",
                ));
            }
            Some(host)
                if HTTP_DOMAINS.iter().any(|domain| host.ends_with(domain))
                    || (public.as_deref() == Some(&host) && external.is_none()) =>
            {
                self.tell(Check::warn(
                    "RTMP_HOST",
                    format!("{host} looks like the domain of the web application, which carries HTTP alone"),
                    RTMP_MEND,
                ));
            }
            Some(_) => {}
        }
    }
}

const RTMP_MEND: &str = "write the host name of the TCP proxy or load balancer in front of RTMP, and its port as RTMP_EXTERNAL_PORT";

fn purpose_of(name: &str) -> &'static str {
    OUR_SECRETS.iter().find(|(known, _)| *known == name).map_or("", |(_, purpose)| *purpose)
}

/// Whether a URL's host is this machine, or in its network.
pub fn is_local(url: &Url) -> bool {
    url.host_str().is_some_and(is_local_host)
}

fn is_local_url(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| is_local(&url))
}

/// Whether a host is this machine.
pub fn is_local_host(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback() || address.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [(&str, &str); 10] = [
        ("DATABASE_URL", "postgres://u:p@db/parley"),
        ("REDIS_URL", "redis://cache"),
        ("TRANSCRIPTION_JWT_SECRET", "0f1e2d3c4b5a69788796a5b4c3d2e1f0aa"),
        ("JWT_SECRET", "1f1e2d3c4b5a69788796a5b4c3d2e1f0aa"),
        ("SERVICE_KEY", "2f1e2d3c4b5a69788796a5b4c3d2e1f0aa"),
        ("INTERNAL_TOKEN", "3f1e2d3c4b5a69788796a5b4c3d2e1f0aa"),
        ("LIVEKIT_WS_URL", "wss://rooms.livekit.cloud"),
        ("LIVEKIT_API_KEY", "APIabcdefgh"),
        ("LIVEKIT_API_SECRET", "4f1e2d3c4b5a69788796a5b4c3d2e1f0aa"),
        ("EGRESS_WEBSOCKET_BASE_URL", "wss://captions.test/egress/audio"),
    ];

    fn told(more: &[(&str, &str)]) -> Vec<(String, Verdict)> {
        let settings = settings::of(GOOD.iter().chain(more).copied());
        let (_, checks) = examine(&settings);
        checks
            .into_iter()
            .filter(|check| check.verdict != Verdict::Ok)
            .map(|check| (check.name, check.verdict))
            .collect()
    }

    /// A room's sound has to find its way back from LiveKit, which is elsewhere.
    #[test]
    fn addresses_for_livekit_lead_here_from_elsewhere() {
        let host = ("RTMP_HOST", "tcp.captions.test");
        assert_eq!(told(&[host]), []);
        let fail = |name: &str| vec![(name.to_owned(), Verdict::Fail)];
        assert_eq!(told(&[]), fail("RTMP_HOST"));
        for wrong in ["localhost", "127.0.0.1", "rtmp://tcp.captions.test", "tcp.captions.test:1935", "a/b"] {
            assert_eq!(told(&[("RTMP_HOST", wrong)]), fail("RTMP_HOST"), "{wrong}");
        }
        let proxy = ("RTMP_HOST", "shuttle.proxy.rlwy.net");
        assert_eq!(told(&[proxy]), fail("RTMP_EXTERNAL_PORT"));
        assert_eq!(
            told(&[proxy, ("RTMP_PORT", "1937"), ("RTMP_EXTERNAL_PORT", "1937")]),
            fail("RTMP_EXTERNAL_PORT")
        );
        assert_eq!(told(&[proxy, ("RTMP_EXTERNAL_PORT", "31245")]), []);
        let domain = ("RTMP_HOST", "parley.up.railway.app");
        assert_eq!(told(&[domain]), [("RTMP_HOST".to_owned(), Verdict::Warn)]);
        let egress = ("EGRESS_WEBSOCKET_BASE_URL", "ws://localhost:3001/egress/audio");
        assert_eq!(told(&[host, egress]), fail("EGRESS_WEBSOCKET_BASE_URL"));
    }

    #[test]
    fn what_is_said_holds_no_secret() {
        let secrets = [
            ("TRANSCRIPTION_JWT_SECRET", "hush-hush"),
            ("SERVICE_KEY", "\"hush-hush-hush-hush-hush-hush-hush-hush\""),
            ("DATABASE_URL", "mysql://u:hush@db/parley"),
            ("REDIS_URL", "http://u:hush@cache"),
            ("PUBLIC_URL", "ftp://hush"),
        ];
        let settings = settings::of(GOOD.iter().chain(&secrets).copied());
        let (_, checks) = examine(&settings);
        assert!(checks.len() >= 5, "{checks:?}");
        for check in checks {
            assert!(!format!("{check:?}").contains("hush"), "{check:?}");
        }
    }
}
