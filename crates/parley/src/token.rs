use std::{
    io::{self, Write},
    time::Duration,
};

use auth::{AuthError, SessionClaims, SessionTokens};
use clap::ValueEnum;
use model::{Clock, Identity, SessionSlug, UserId};
use settings::Reader;

use crate::{failure::Failure, span};

/// The setting whose first secret signs tokens.
pub const SECRET: &str = "TRANSCRIPTION_JWT_SECRET";

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scope {
    /// Speak, follow, start and stop.
    All,
    /// Read captions only.
    Follow,
}

/// Print a token for a session.
///
/// A JWT on one line, for ?token= of the WebSocket and for --token of the other commands, signed with
/// TRANSCRIPTION_JWT_SECRET.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  parley token --session demo --identity alice --name 'Alice B.' --ttl 8h
  parley token --session demo --identity overlay --scope follow --ttl 30d
  wscat -c \"ws://127.0.0.1:8080/api/realtime/transcribe?token=$(parley token --session demo --identity alice)\"")]
pub struct Args {
    /// Slug of the session that the token is good for.
    #[arg(long, value_name = "SLUG")]
    session: SessionSlug,
    /// Who the participant is.
    #[arg(long, value_name = "ID")]
    identity: Identity,
    /// The user behind the participant; the identity when absent.
    #[arg(long, value_name = "ID")]
    user: Option<UserId>,
    /// Name to show with captions.
    #[arg(long)]
    name: Option<String>,
    /// How long it is good: 90s, 15m, 1h30m, 7d.
    #[arg(long, value_name = "SPAN", default_value = "1h", value_parser = span::parse)]
    ttl: Duration,
    /// What it allows.
    #[arg(long, value_enum, default_value = "all")]
    scope: Scope,
}

/// Who a token is made for, and for how long.
pub struct Request<'a> {
    /// The session.
    pub session: &'a SessionSlug,
    /// The participant.
    pub identity: &'a Identity,
    /// The user; the identity when absent.
    pub user: Option<&'a UserId>,
    /// The name to show.
    pub name: Option<&'a str>,
    /// How long it is good.
    pub ttl: Duration,
    /// What it allows.
    pub scope: Scope,
}

/// Prints the token.
pub fn run(args: &Args) -> Result<(), Failure> {
    let mut reader = settings::load()?;
    let signer = signer(&reader);
    if signer.is_none() {
        reader.problem(SECRET, "missing; use the server's (`make run` writes one to .parley/env)");
    }
    let signer = reader.finish(|| signer)?;
    let request = Request {
        session: &args.session,
        identity: &args.identity,
        user: args.user.as_ref(),
        name: args.name.as_deref(),
        ttl: args.ttl,
        scope: args.scope,
    };
    writeln!(io::stdout(), "{}", sign(&signer, &Clock::system(), &request)?)?;
    Ok(())
}

/// Who signs with the secret that is configured here, when one is.
pub fn signer(reader: &Reader) -> Option<SessionTokens> {
    let secrets = reader.secrets(SECRET);
    (!secrets.is_empty()).then(|| SessionTokens::new(secrets, Clock::system()))
}

/// Makes a token.
///
/// # Errors
/// As [`SessionTokens::issue`].
pub fn sign(signer: &SessionTokens, clock: &Clock, request: &Request<'_>) -> Result<String, AuthError> {
    let now_s = clock.now().0 / 1000;
    signer.issue(&SessionClaims {
        sub: Some(request.user.map_or_else(|| request.identity.to_string(), UserId::to_string)),
        session_id: None,
        session_slug: request.session.to_string(),
        identity: Some(request.identity.to_string()),
        name: request.name.map(str::to_owned),
        scope: matches!(request.scope, Scope::Follow).then(|| "follow".to_owned()),
        track: None,
        iat: Some(now_s),
        exp: now_s.saturating_add(i64::try_from(request.ttl.as_secs()).unwrap_or(i64::MAX)),
    })
}
