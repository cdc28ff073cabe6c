use std::{
    io::{self, Write},
    time::Duration,
};

use clap::ValueEnum;
use http::StatusCode;
use model::{NotificationType, Topic, UserId};
use reqwest::Url;
use serde_json::{Map, Value, json};
use settings::Secret;

use crate::{failure::Failure, span};

/// The setting whose first key the server is shown.
const SERVICE_KEY: &str = "SERVICE_KEY";

/// Where notifications are published.
const PATH: &str = "/api/notifications";

/// Longest wait for the answer. Sending the request again after it tells nobody twice.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// Attempts while the server cannot be reached or is overloaded, and the wait between them.
const ATTEMPTS: (u32, Duration) = (4, Duration::from_secs(1));

/// How much a notification matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Importance {
    Low,
    Normal,
    High,
    Urgent,
}

/// Tell users, or the followers of a topic, something.
///
/// Publishes through the server's REST route with SERVICE_KEY, and prints the id of each notification. Whoever is
/// connected hears it at once, others find it when they come back. Interrupted requests are sent again under the same
/// idempotency key, so that nobody is told twice.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  parley notify --user u1 --title 'Your recording is ready' --message 'Open it from the session page'
  parley notify --user u1 --user u2 --type NEW_MESSAGE --title 'Hello' --metadata '{\"room\":\"lobby\"}'
  parley notify --topic post:7 --type post_liked --metadata '{\"postId\":\"7\",\"likesCount\":3}'
  parley notify --user u1 --title 'Stand-up' --in 15m --expires-in 1h --collapse stand-up")]
pub struct Args {
    /// Whom to tell; repeat it for several, at most 1000.
    #[arg(long = "user", value_name = "ID", required_unless_present = "topic", conflicts_with = "topic")]
    users: Vec<UserId>,
    /// A topic whose followers to tell: creator:ID, post:ID or feed:ID. Nothing comes into an inbox.
    #[arg(long, value_name = "TOPIC")]
    topic: Option<Topic>,
    /// What it is about, in the words of the application.
    #[arg(long = "type", value_name = "TYPE", default_value = "SYSTEM_ANNOUNCEMENT")]
    kind: NotificationType,
    /// One line.
    #[arg(long, required_unless_present = "topic")]
    title: Option<String>,
    /// The text.
    #[arg(long, default_value = "")]
    message: String,
    /// A JSON object for the application.
    #[arg(long, value_name = "JSON", value_parser = object)]
    metadata: Option<Map<String, Value>>,
    /// How much it matters.
    #[arg(long, value_enum, default_value = "normal")]
    priority: Importance,
    /// Deliver it so much later: 90s, 15m, 1h30m, 7d.
    #[arg(long = "in", value_name = "SPAN", value_parser = span::parse)]
    later: Option<Duration>,
    /// Take it away so much later.
    #[arg(long, value_name = "SPAN", value_parser = span::parse)]
    expires_in: Option<Duration>,
    /// Replaces unread notifications with the same key.
    #[arg(long, value_name = "KEY")]
    collapse: Option<String>,
    /// Makes the command safe to repeat: the same key and words tell nobody twice [default: a new one].
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// The server: http:// or https:// [default: PARLEY_URL, else http://127.0.0.1 with HTTP_PORT or 8080].
    #[arg(long, value_name = "URL")]
    url: Option<Url>,
}

/// Why nobody was told.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    /// It cannot be reached.
    #[error("{url} cannot be reached: {why}")]
    Unreachable {
        /// The server.
        url: String,
        /// Why.
        why: String,
    },
    /// It said no.
    #[error("the server refused it: {0}")]
    Refused(String),
    /// It does not know our key.
    #[error("the server does not know the SERVICE_KEY that is set here")]
    Key,
}

/// Tells them, and prints the ids.
pub async fn run(args: Args) -> Result<(), Failure> {
    let mut reader = settings::load()?;
    let url = match &args.url {
        Some(url) => Some(url.clone()),
        None => match reader.text("PARLEY_URL") {
            Some(text) => http_url(&text).or_else(|| {
                reader.problem("PARLEY_URL", "expected http://HOST or https://HOST");
                None
            }),
            None => {
                http_url(&format!("http://127.0.0.1:{}", reader.or("HTTP_PORT", 8080_u16, "a port number")))
            }
        },
    };
    let key = reader.secrets(SERVICE_KEY).into_iter().next();
    if key.is_none() {
        reader.problem(SERVICE_KEY, "missing; use the server's (`make run` writes one to .parley/env)");
    }
    let (mut url, key) = reader.finish(|| url.zip(key))?;
    url.set_path(PATH);
    let idempotency_key = args.idempotency_key.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let answer = send(&url, &key, &idempotency_key, &request(&args)).await?;
    print(&answer)?;
    Ok(())
}

fn object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("expected a JSON object: {error}"))
}

/// The address of a server over HTTP, without a query: `PARLEY_URL` may name the WebSocket.
pub fn http_url(text: &str) -> Option<Url> {
    let text = match text.trim().split_once("://") {
        Some(("ws", rest)) => format!("http://{rest}"),
        Some(("wss", rest)) => format!("https://{rest}"),
        _ => text.trim().to_owned(),
    };
    let mut url: Url = text.parse().ok()?;
    url.set_query(None);
    matches!(url.scheme(), "http" | "https").then_some(url)
}

fn request(args: &Args) -> Value {
    let now = model::Clock::system().now();
    let priority = args.priority.to_possible_value().map(|value| value.get_name().to_owned());
    let mut request = json!({
        "type": args.kind,
        "title": args.title.as_deref().unwrap_or_default(),
        "message": args.message,
    });
    let Some(fields) = request.as_object_mut() else { return request };
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            fields.insert(name.to_owned(), value);
        }
    };
    set("metadata", args.metadata.clone().map(Value::Object));
    match &args.topic {
        Some(topic) => set("topic", Some(topic.to_string().into())),
        None => {
            set("userIds", Some(json!(args.users)));
            set("priority", priority.map(Value::String));
            set("deliverAt", args.later.map(|span| now.after(span).to_string().into()));
            set("expiresAt", args.expires_in.map(|span| now.after(span).to_string().into()));
            set("collapseKey", args.collapse.clone().map(Value::String));
        }
    }
    request
}

/// Sends the request, again while the server is away: the key makes that safe.
async fn send(url: &Url, key: &Secret, idempotency_key: &str, request: &Value) -> Result<Value, NotifyError> {
    let unreachable = |why: String| NotifyError::Unreachable { url: url.origin().ascii_serialization(), why };
    // Two TLS back ends in one program leave rustls without a default. Already set is as good.
    drop(rustls::crypto::ring::default_provider().install_default());
    let client = reqwest::Client::builder().timeout(ANSWER_LIMIT).build();
    let client = client.map_err(|error| unreachable(error.to_string()))?;
    let (attempts, pause) = ATTEMPTS;
    for attempt in 1..=attempts {
        let sent = client
            .post(url.clone())
            .bearer_auth(key.expose())
            .header("idempotency-key", idempotency_key)
            .json(request)
            .send()
            .await;
        let why = match sent {
            Ok(answer) if answer.status() == StatusCode::UNAUTHORIZED => return Err(NotifyError::Key),
            Ok(answer) => {
                let status = answer.status();
                let body: Value = answer.json().await.unwrap_or_default();
                if status.is_success() {
                    return Ok(body);
                }
                let said = body.get("error").and_then(Value::as_str).unwrap_or("no reason given");
                let said = format!("{said} (HTTP {})", status.as_u16());
                if !status.is_server_error() && status != StatusCode::TOO_MANY_REQUESTS {
                    return Err(NotifyError::Refused(said));
                }
                said
            }
            Err(error) => innermost(&error),
        };
        if attempt == attempts {
            return Err(unreachable(why));
        }
        tokio::time::sleep(pause).await;
    }
    Err(unreachable("no attempt was made".to_owned()))
}

/// The error that says what happened: those around it say that something did.
fn innermost(error: &reqwest::Error) -> String {
    let mut error: &dyn std::error::Error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// One line for each user: who, and the id or that the type is muted. A topic's event has its sequence.
fn print(answer: &Value) -> io::Result<()> {
    let mut out = io::stdout();
    if let Some(sequence) = answer.get("sequence").and_then(Value::as_u64) {
        writeln!(out, "sequence {sequence}")?;
    }
    for told in answer.get("notifications").and_then(Value::as_array).into_iter().flatten() {
        let user = told.get("userId").and_then(Value::as_str).unwrap_or_default();
        match told.pointer("/notification/id").and_then(Value::as_str) {
            Some(id) => writeln!(out, "{user} {id}")?,
            None => writeln!(out, "{user} has muted this type")?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn asked(line: &str) -> Result<Value, String> {
        let words = std::iter::once("notify").chain(line.split(' '));
        Line::try_parse_from(words).map(|line| request(&line.args)).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_typed_is_what_is_asked() {
        let request = asked(r#"--user u1 --user u2 --title Hi --metadata {"a":1} --priority high"#).unwrap();
        let expected = json!({
            "userIds": ["u1", "u2"], "type": "SYSTEM_ANNOUNCEMENT", "title": "Hi", "message": "",
            "metadata": {"a": 1}, "priority": "high",
        });
        assert_eq!(request, expected);
        let event = asked("--topic post:7 --type post_liked").unwrap();
        assert_eq!(event, json!({"topic": "post:7", "type": "post_liked", "title": "", "message": ""}));
        for wrong in [
            "--title Hi",
            "--user u1",
            "--user u1 --topic post:7 --title x",
            "--user u1 --title x --metadata 5",
        ] {
            assert!(asked(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_server_is_found_under_every_spelling() {
        for (given, expected) in [("ws://h:1/api/x?token=t", "http://h:1/api/x"), ("https://h", "https://h/")]
        {
            assert_eq!(http_url(given).unwrap().as_str(), expected);
        }
        assert_eq!(http_url("ftp://h"), None);
    }
}
