//! The door of system D's clients.

use reqwest::Url;
use serde_json::{Value, json};
use tungstenite::handshake::client::generate_key;

use super::{
    check::Check,
    configured::is_local,
    front::{CERTIFICATE_MEND, at, shown},
    wire::{self, Offer, Said},
};

const NAME: &str = "system d";

/// Looks at `/`, `/ws` and `/api/translate`.
pub async fn examine(url: &Url, token: Option<&str>) -> Check {
    match look(url, token).await {
        Ok(seen) => Check::ok(NAME, format!("{}: {seen}", shown(url))),
        Err((seen, mend)) => Check::fail(NAME, format!("{}: {seen}", shown(url)), mend),
    }
}

async fn look(url: &Url, token: Option<&str>) -> Result<&'static str, (String, &'static str)> {
    const START: &str = "set TRANSLATE_PORT (7860), publish it, and give clients that port on a host of yours; a hosted domain has no :7860";
    let authorization = token.map(|token| format!("Authorization: Bearer {token}"));
    let mut connection =
        wire::connect(url, Offer::Http1).await.map_err(|error| (error.to_string(), START))?;
    if let Some(why) = connection.untrusted.take().filter(|_| !is_local(url)) {
        return Err((format!("browsers refuse the certificate: {why}"), CERTIFICATE_MEND));
    }
    let mut answer = connection
        .ask("GET", &at(url, "/", ""), &["Connection: close".to_owned()], b"")
        .await
        .map_err(|garbled| (garbled.to_string(), START))?;
    connection.body(&mut answer).await;
    let ours = answer.json().is_some_and(|json| {
        json.get("message")
            .and_then(Value::as_str)
            .is_some_and(|message| message.starts_with("Faster Whisper"))
    });
    if !ours {
        return Err((format!("another program answers ({})", answer.status), START));
    }

    let mut connection =
        wire::connect(url, Offer::Http1).await.map_err(|error| (error.to_string(), START))?;
    let mut headers = wire::upgrade_headers(&generate_key());
    headers.extend(authorization.clone());
    let upgraded = connection.ask("GET", &at(url, "/ws", ""), &headers, b"").await;
    let answer = upgraded.map_err(|garbled| (format!("/ws: {garbled}"), START))?;
    let refused = |status: u16| matches!(status, 401 | 403);
    if refused(answer.status) {
        return Ok(if token.is_some() {
            "/ws wants another token"
        } else {
            "/ws wants a token, and none is known here"
        });
    }
    if answer.status != 101 {
        return Err((
            format!("/ws: {} came instead of 101", answer.status),
            "pass the upgrade on to ws-edge's TRANSLATE_PORT",
        ));
    }
    let mut bytes = answer.rest;
    match wire::next_message(&mut connection, &mut bytes).await {
        Ok(Said::Text(text)) if text.contains("\"connection\"") || text.contains("\"error\"") => {}
        Ok(Said::Close(1008, _)) => {}
        Ok(_) => {
            return Err((
                "/ws: its first message is no `connection`".to_owned(),
                "leave ws-edge alone on this path",
            ));
        }
        Err(frame) => return Err((format!("/ws: {frame}"), "pass upgraded connections on byte by byte")),
    }

    let mut connection =
        wire::connect(url, Offer::Http1).await.map_err(|error| (error.to_string(), START))?;
    let mut headers = vec!["Content-Type: application/json".to_owned(), "Connection: close".to_owned()];
    headers.extend(authorization);
    let body = json!({ "text": "Hello", "sourceLanguage": "en", "targetLanguage": "ru" }).to_string();
    let asked = connection.ask("POST", &at(url, "/api/translate", ""), &headers, body.as_bytes()).await;
    let mut answer = asked.map_err(|garbled| (format!("/api/translate: {garbled}"), START))?;
    connection.body(&mut answer).await;
    let json = answer.json().unwrap_or_default();
    match answer.status {
        200 if json.get("success") == Some(&Value::Bool(true)) => Ok("answers, upgrades, and translates"),
        401 | 403 => Ok("answers and upgrades; /api/translate wants another token"),
        200..=299 | 400..=503 if json.get("success").is_some() || json.get("detail").is_some() => {
            Ok("answers and upgrades; nobody translates English into Russian here")
        }
        status => Err((
            format!("/api/translate: {status}, which is none of ours"),
            "send /api/translate to ws-edge as well",
        )),
    }
}
