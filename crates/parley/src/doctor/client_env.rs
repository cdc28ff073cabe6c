//! The environment file of an application that uses the server.

use std::{collections::BTreeMap, path::Path};

use reqwest::Url;

use super::{
    check::Check,
    configured::{Configured, is_local},
};

/// Largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Addresses of the server, as the applications of the older systems name them: the name, the schemes it may have, and
/// whether a browser reads it.
const ADDRESSES: [(&str, &[&str], bool); 8] = [
    ("WS_SERVER_URL", &["http", "https"], false),
    ("NEXT_PUBLIC_WS_SERVER_URL", &["http", "https"], true),
    ("NEXT_PUBLIC_SOCKETIO_URL", &["http", "https"], true),
    ("NEXT_PUBLIC_WS_URL", &["ws", "wss"], true),
    ("VITE_FASTER_WHISPER_URL", &["http", "https"], true),
    ("FASTER_WHISPER_URL", &["http", "https"], false),
    ("NEXTJS_BASE_URL", &["http", "https"], false),
    ("WS_API_URL", &["http", "https"], false),
];

/// Secrets that issuer and server must share.
const SHARED: [&str; 5] = [
    "TRANSCRIPTION_JWT_SECRET",
    "NEXTAUTH_SECRET",
    "JWT_SECRET",
    "RTMP_SERVER_SECRET",
    "FASTER_WHISPER_API_TOKEN",
];

/// What a bundler writes into pages that everybody can read.
const PUBLIC_PREFIXES: [&str; 4] = ["NEXT_PUBLIC_", "VITE_", "REACT_APP_", "EXPO_PUBLIC_"];

/// Reads and judges a file. `server` is where the front door is, `configured` what is set here, if anything.
pub fn examine(path: &Path, server: &Url, configured: Option<&Configured>) -> Vec<Check> {
    let variables = match read(path) {
        Ok(variables) => variables,
        Err(why) => {
            return vec![Check::fail(
                "client env",
                format!("{} {why}", path.display()),
                "name a file of NAME=VALUE lines",
            )];
        }
    };
    let mut checks: Vec<Check> = Vec::new();
    checks.extend(host(&variables));
    checks.extend(addresses(&variables, server));
    checks.extend(secrets(&variables, configured));
    if checks.is_empty() {
        checks.push(Check::ok(
            "client env",
            format!("{} variables, none that leads elsewhere", variables.len()),
        ));
    }
    checks
}

fn read(path: &Path) -> Result<BTreeMap<String, String>, String> {
    let size = std::fs::metadata(path).map_err(|error| format!("cannot be read: {error}"))?.len();
    if size > FILE_BYTES_MAX {
        return Err(format!("has {size} bytes"));
    }
    let lines = dotenvy::from_path_iter(path).map_err(|_| "cannot be read".to_owned())?;
    // The library's own message quotes the line, which may hold a secret.
    lines.collect::<Result<_, _>>().map_err(|_| "has a line that is no NAME=VALUE".to_owned())
}

fn host(variables: &BTreeMap<String, String>) -> Vec<Check> {
    let mut checks = Vec::new();
    let name = "NEXT_PUBLIC_WS_HOST";
    if let Some(host) = variables.get(name).filter(|host| !host.is_empty()) {
        let fault = if host.contains("://") {
            Some("it has a scheme, and clients put wss:// in front: the address becomes wss://https://…")
        } else if host.contains('/') {
            Some("it has a path or a slash at its end, which ends up in the middle of the address")
        } else if host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
            Some("it has a port, which the inside of a hosted service listens on, not its domain")
        } else {
            None
        };
        if let Some(fault) = fault {
            checks.push(Check::fail(name, fault, "write the host name alone, such as captions.example"));
        }
    }
    if variables.get("NEXT_PUBLIC_WS_PORT").is_some_and(|port| !port.is_empty()) {
        checks.push(Check::fail(
            "NEXT_PUBLIC_WS_PORT",
            "it is set, and is appended to the address: the domain of a hosted service answers at 443 alone",
            "take it out",
        ));
    }
    checks
}

fn addresses(variables: &BTreeMap<String, String>, server: &Url) -> Vec<Check> {
    let https_page = variables
        .iter()
        .filter(|(name, _)| {
            matches!(name.as_str(), "NEXTAUTH_URL" | "NEXT_PUBLIC_APP_URL" | "NEXT_PUBLIC_BASE_URL")
        })
        .any(|(_, url)| url.starts_with("https://"));
    let mut checks = Vec::new();
    for (name, schemes, in_browser) in ADDRESSES {
        let Some(text) = variables.get(name).filter(|text| !text.is_empty()) else { continue };
        let usual = schemes.join(":// or ");
        let Some(url) = Url::parse(text).ok().filter(|url| schemes.contains(&url.scheme()) && url.has_host())
        else {
            checks.push(Check::fail(
                name,
                format!("it is no {usual}:// URL"),
                format!("write {usual}://HOST"),
            ));
            continue;
        };
        let plain = matches!(url.scheme(), "http" | "ws");
        let secure = if url.scheme().starts_with("ws") { "wss" } else { "https" };
        if is_local(&url) {
            if https_page && in_browser {
                checks.push(Check::fail(
                    name,
                    "it names the visitor's own machine, and the site is a public one",
                    format!("write {secure}://HOST of the server"),
                ));
            }
            continue;
        }
        if plain {
            let seen = if https_page && in_browser {
                "mixed content: a page of https may not connect to it"
            } else {
                "no TLS to a host that is not local"
            };
            checks.push(Check::fail(name, seen, format!("write {secure}://")));
        } else if url.port().is_some() && url.host_str() != server.host_str() {
            let seen = format!(
                "it has port {}, and the domain of a hosted service answers at 443 alone",
                url.port().unwrap_or_default()
            );
            checks.push(Check::fail(name, seen, "take the port out"));
        }
    }
    checks
}

fn secrets(variables: &BTreeMap<String, String>, configured: Option<&Configured>) -> Vec<Check> {
    let mut checks = Vec::new();
    for name in variables.keys() {
        let is_public = PUBLIC_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        if is_public
            && ["SECRET", "SERVICE_KEY", "PRIVATE", "PASSWORD"].iter().any(|word| name.contains(word))
        {
            checks.push(Check::fail(
                name.as_str(),
                "a secret under a name that is written into pages, where everybody reads it",
                "make a new secret, and name it without that prefix",
            ));
        }
    }
    let Some(configured) = configured else { return checks };
    for name in SHARED {
        let Some(theirs) = variables.get(name).filter(|value| !value.is_empty()) else { continue };
        let ours = match name {
            "JWT_SECRET" | "NEXTAUTH_SECRET" => configured.user_secrets.clone(),
            _ => configured.reader.secrets(name),
        };
        if !ours.is_empty() && !ours.iter().any(|secret| secret.expose() == theirs.trim()) {
            checks.push(Check::fail(
                name,
                "the application has another secret than the server: what it signs is refused with 1008",
                "set the same in both; several may be listed here, separated by commas, while you change it",
            ));
        }
    }
    checks
}
