//! What is wrong with a server, from the outside and from the inside, in one line each with the mend.
//!
//! The checks go from what others depend on to what depends on them, and what cannot be tried since its ground is missing is
//! not counted against anybody: a cause is named once.

mod check;
mod client_env;
mod configured;
mod front;
mod given_token;
mod model_files;
mod ports;
mod providers;
mod speech;
mod stores;
mod system_d;
mod wire;

use std::{path::PathBuf, time::Duration};

use auth::{SessionTokens, UserClaims, UserTokens};
use model::{Clock, SessionSlug};
use reqwest::Url;
use rtmp::Address;
use settings::{Reader, Secret};
use storage::{Erasing, Storage};

use crate::{
    doctor::{
        check::{Check, Report},
        configured::{Configured, is_local},
        given_token::{Kind, Secrets},
    },
    failure::Failure,
    notify::http_url,
    token::{Request, Scope, sign},
};

/// Find out what is wrong with a server.
///
/// Looks at the settings that are here, at Postgres and Redis, and at the server through its front door as a client would: the
/// upgrade of each path byte by byte, tokens, CORS, a spoken recording, and RTMP with a stream key. Prints a line for each, with what
/// to do. No secret is printed. Without the settings of a server here (DATABASE_URL, TRANSCRIPTION_JWT_SECRET) only the client's side is
/// tried; give a token then.
///
/// A recording is spoken into a session of its own, parley-doctor-…, which is erased afterwards where DATABASE_URL is set.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  parley doctor
  parley doctor https://captions.example --origin https://app.example
  parley doctor https://captions.example --token \"$TOKEN\" --client-only
  parley doctor --client-env ../web/.env.production
  parley doctor --rtmp rtmp://ingest.example/live/KEY
  parley doctor --json | jq -r '.checks[] | select(.verdict == \"fail\") | .name'

Exit codes: 0 nothing failed, 1 something did, 64 the settings cannot be read.")]
pub struct Args {
    /// The front door: http:// or https:// [default: PARLEY_URL, else PUBLIC_URL, else http://127.0.0.1 with HTTP_PORT or 8080].
    #[arg(value_name = "URL")]
    url: Option<String>,
    /// A token that somebody has trouble with, of a session or of a user.
    #[arg(long, value_name = "JWT", hide_env_values = true)]
    token: Option<String>,
    /// The origin of your web page, such as https://app.example: is it let in?
    #[arg(long, value_name = "ORIGIN")]
    origin: Option<String>,
    /// The environment file of your application, which is looked through for addresses and secrets that lead elsewhere.
    #[arg(long, value_name = "FILE")]
    client_env: Option<PathBuf>,
    /// Where an encoder publishes, with its key [default: port RTMP_EXTERNAL_PORT or 1935 of a local front door].
    #[arg(long, value_name = "RTMP-URL")]
    rtmp: Option<String>,
    /// The door of system D's clients [default: port TRANSLATE_PORT of a local front door].
    #[arg(long, value_name = "URL")]
    translate: Option<String>,
    /// A WAV of one channel and 16 bits to speak [default: the one that comes with the model].
    #[arg(long, value_name = "FILE")]
    sample: Option<PathBuf>,
    /// Speak no recording and publish none.
    #[arg(long)]
    no_speech: bool,
    /// Leave out the settings, ports, stores and keys of this machine.
    #[arg(long)]
    client_only: bool,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// How long the tokens are good that are made here.
const TOKEN_SPAN: Duration = Duration::from_secs(600);

/// Looks at everything.
pub async fn run(args: Args) -> Result<(), Failure> {
    let reader = settings::load()?;
    let url = front_door(args.url.as_deref(), &reader)?;
    let mut doctor = Doctor { clock: Clock::system(), report: Report::new(args.json), reader, url, args };
    doctor.examine().await;
    doctor.report.end()?;
    match (doctor.report.failures(), doctor.report.tried()) {
        (0, _) => Ok(()),
        (failed, tried) => Err(Failure::Unwell { failed, tried }),
    }
}

fn front_door(given: Option<&str>, reader: &Reader) -> Result<Url, Failure> {
    let mut reader = reader.clone();
    let (name, text) = match given {
        Some(text) => ("URL", text.to_owned()),
        None => {
            match ["PARLEY_URL", "PUBLIC_URL"].iter().find_map(|name| Some((*name, reader.text(name)?))) {
                Some(set) => set,
                None => (
                    "HTTP_PORT",
                    format!(
                        "http://127.0.0.1:{}",
                        reader.text("HTTP_PORT").unwrap_or_else(|| "8080".to_owned())
                    ),
                ),
            }
        }
    };
    let url = server_url(&text);
    if url.is_none() {
        reader.problem(name, "expected http://HOST or https://HOST, with a port where it is needed");
    }
    Ok(reader.finish(|| url)?)
}

/// Where a server is, without anything that could be a secret.
fn server_url(text: &str) -> Option<Url> {
    let mut url = http_url(text)?;
    url.set_fragment(None);
    (url.has_host() && url.username().is_empty()).then_some(url)
}

struct Doctor {
    clock: Clock,
    report: Report,
    reader: Reader,
    url: Url,
    args: Args,
}

impl Doctor {
    async fn examine(&mut self) {
        let (configured, storage) = self.server_side().await;
        let none = Vec::new();
        let secrets = Secrets {
            session: configured.as_ref().map_or(&none, |configured| &configured.session_secrets),
            user: configured.as_ref().map_or(&none, |configured| &configured.user_secrets),
        };
        let given = self.args.token.clone().and_then(|token| {
            let (check, kind) = given_token::examine(&token, secrets, &self.clock);
            let good = check.verdict == check::Verdict::Ok;
            self.report.tell([check]);
            kind.filter(|_| good).map(|kind| (token.trim().to_owned(), kind))
        });
        if let Some(path) = self.args.client_env.clone() {
            let checks = client_env::examine(&path, &self.url, configured.as_ref());
            self.report.tell(checks);
        }
        self.report.looking("the front door");
        let (checks, reached) = front::reach(&self.url, &self.clock).await;
        self.report.tell(checks);
        if !reached {
            self.report.tell([Check::skip("upgrade", "nobody answers at the front door")]);
            return;
        }
        let checks = front::page(&self.url, self.args.origin.as_deref()).await;
        self.report.tell(checks);
        // Whoever is in the middle shall not have what somebody uses.
        let trusted = !self.report.failed(front::TLS);
        if given.is_some() && !trusted {
            self.report.tell([Check::skip("token", "not sent to whoever has that certificate")]);
        }
        self.client_side(secrets, given.filter(|_| trusted), storage.as_ref()).await;
    }

    /// What can be seen on the machine of a server, when this is one.
    async fn server_side(&mut self) -> (Option<Configured>, Option<Storage>) {
        if self.args.client_only || !configured::is_server(&self.reader) {
            self.report
                .tell([Check::skip("settings", "none of a server here: only a client's side is tried")]);
            return (None, None);
        }
        let (configured, checks) = configured::examine(&self.reader);
        let ports_differ =
            !checks.iter().any(|check| check.verdict == check::Verdict::Fail && check.name.ends_with("PORT"));
        self.report.tell(checks);
        if is_local(&self.url) && ports_differ {
            self.report.looking("ports");
            let checks = ports::examine(&self.reader).await;
            self.report.tell(checks);
        }
        let mut storage = None;
        if let Some(settings) = &configured.storage {
            self.report.looking("Postgres");
            let (check, connected) = stores::postgres(settings).await;
            storage = connected;
            self.report.tell([check]);
        }
        if let Some(settings) = &configured.bus {
            self.report.looking("Redis");
            let check = stores::redis(settings).await;
            self.report.tell([check]);
        }
        self.report.looking("the model");
        let check = model_files::examine(&self.reader);
        self.report.tell(check);
        if let Some(settings) = &configured.livekit {
            self.report.looking("LiveKit");
            let check = providers::livekit(settings).await;
            self.report.tell([check]);
        }
        let check = providers::gladia(&self.reader).await;
        self.report.tell(check);
        (Some(configured), storage)
    }

    async fn client_side(
        &mut self,
        secrets: Secrets<'_>,
        given: Option<(String, Kind)>,
        storage: Option<&Storage>,
    ) {
        let Ok(session) = format!("parley-doctor-{}", uuid::Uuid::new_v4().simple()).parse::<SessionSlug>()
        else {
            return;
        };
        let minted = self.session_token(secrets.session, &session);
        let of = |wanted| given.as_ref().filter(|(_, kind)| *kind == wanted).map(|(token, _)| token.clone());
        let given_session = of(Kind::Session);
        let visitor = front::Visitor {
            origin: self.args.origin.as_deref(),
            given: given.as_ref().map(|(_, kind)| *kind),
            session_token: given_session.clone().or_else(|| minted.clone()),
            user_token: of(Kind::User).or_else(|| self.user_token(secrets.user)),
        };
        self.report.looking("upgrades");
        let mut checks = front::sockets(&self.url, &visitor).await;
        let stores_fail = self.report.failed(stores::POSTGRES) || self.report.failed(stores::REDIS);
        for check in &mut checks {
            // Nobody else is known to be at fault.
            if check.verdict == check::Verdict::Skip && !stores_fail {
                check.verdict = check::Verdict::Fail;
                "see /readyz of ws-edge (port 9101): it names what is away".clone_into(&mut check.mend);
            }
        }
        let upgraded = checks.iter().all(|check| check.verdict == check::Verdict::Ok);
        self.report.tell(checks);
        self.system_d(minted.as_deref()).await;
        // A token that was given is for a session of somebody's, in which no recording belongs.
        match minted.filter(|_| upgraded && !self.args.no_speech) {
            Some(token) => self.speech(&token).await,
            None => self.rtmp(None, None).await,
        }
        if let Some(storage) = storage {
            // What stays when this fails is a session without people, with a public-domain text in it.
            drop(storage.delete_session(&session, Erasing::ForGood).await);
        }
    }

    async fn speech(&mut self, token: &str) {
        let recording = speech::recording(self.args.sample.as_deref(), Some(&self.reader));
        self.report.looking("a spoken recording");
        let check = match &recording {
            Ok(recording) => speech::through_front_door(&self.url, token, recording).await,
            Err(check) => check.clone(),
        };
        let understood = check.verdict == check::Verdict::Ok;
        self.report.tell([check]);
        self.rtmp(Some(token), recording.ok().filter(|_| understood)).await;
    }

    /// Publishes with the key that was given, or with a token as the key where the front door is on this machine.
    async fn rtmp(&mut self, token: Option<&str>, recording: Option<speech::Recording>) {
        let given = self.args.rtmp.clone();
        let local = || {
            let port = ["RTMP_EXTERNAL_PORT", "RTMP_PORT"].iter().find_map(|name| self.reader.text(name));
            let token = token.filter(|_| is_local(&self.url))?;
            Some(format!(
                "rtmp://{}:{}/live/{token}",
                self.url.host_str()?,
                port.unwrap_or_else(|| "1935".to_owned())
            ))
        };
        let Some(text) = given.clone().or_else(local) else { return };
        let address = match Address::parse(&text) {
            Ok(address) => address,
            Err(error) => {
                self.report.tell([Check::fail(
                    speech::RTMP,
                    error.to_string(),
                    "write rtmp://HOST:PORT/live/KEY",
                )]);
                return;
            }
        };
        self.report.looking("RTMP");
        // Captions of somebody else's key cannot be followed with our token.
        let follower = token.filter(|_| given.is_none()).map(|token| (&self.url, token));
        let check = speech::through_rtmp(&address, recording.as_ref(), follower).await;
        self.report.tell([check]);
    }

    async fn system_d(&mut self, token: Option<&str>) {
        let port = self.reader.text("TRANSLATE_PORT").unwrap_or_else(|| "7860".to_owned());
        let text = match &self.args.translate {
            Some(text) => text.clone(),
            None if is_local(&self.url) && !self.args.client_only && port != "0" => {
                format!("http://{}:{port}", self.url.host_str().unwrap_or_default())
            }
            None => return,
        };
        let Some(url) = server_url(&text) else {
            self.report.tell([Check::fail(
                "system d",
                "it is no http:// or https:// URL",
                "write http://HOST:7860",
            )]);
            return;
        };
        self.report.looking("system D's door");
        let check = system_d::examine(&url, token).await;
        self.report.tell([check]);
    }

    fn session_token(&self, secrets: &[Secret], session: &SessionSlug) -> Option<String> {
        if secrets.is_empty() {
            return None;
        }
        let identity = "parley-doctor".parse().ok()?;
        let request = Request {
            session,
            identity: &identity,
            user: None,
            name: None,
            ttl: TOKEN_SPAN,
            scope: Scope::All,
        };
        sign(&SessionTokens::new(secrets.to_vec(), self.clock.clone()), &self.clock, &request).ok()
    }

    fn user_token(&self, secrets: &[Secret]) -> Option<String> {
        let now_s = self.clock.now().0 / 1000;
        let claims = UserClaims {
            sub: Some("parley-doctor".to_owned()),
            iat: Some(now_s),
            exp: now_s.saturating_add(i64::try_from(TOKEN_SPAN.as_secs()).unwrap_or_default()),
            ..UserClaims::default()
        };
        UserTokens::new(secrets.to_vec(), self.clock.clone()).issue(&claims).ok()
    }
}
