//! Bodies of requests and queries, as far as they make sense.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Body;
use model::{
    JsonObject, NewNotification, NotificationId, NotificationType, Priority, Refusal, Timestamp, UserId,
    notification::{METADATA_BYTES_MAX, RECIPIENTS_MAX},
};
use serde_json::{Map, Value};

use super::Refused;

/// Largest request body, in bytes. What may be said is far smaller; up to here it is told which field is too long.
const BODY_BYTES_MAX: usize = 2 * 1024 * 1024;

/// How long a request body may take.
const BODY_LIMIT: Duration = Duration::from_secs(10);

/// A JSON object.
pub(super) struct Fields(Map<String, Value>);

/// Reads a body that must be a JSON object.
pub(super) async fn read<B>(body: B) -> Result<Fields, Refused>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let reading = Limited::new(Box::pin(body), BODY_BYTES_MAX).collect();
    let bytes = match tokio::time::timeout(BODY_LIMIT, reading).await {
        Ok(Ok(collected)) => collected.to_bytes(),
        Ok(Err(_)) => {
            let text = "Request body too large or cut off";
            return Err(Refused::Status(StatusCode::PAYLOAD_TOO_LARGE, text, "body_too_large"));
        }
        Err(_) => {
            let text = "Request body took too long";
            return Err(Refused::Status(StatusCode::REQUEST_TIMEOUT, text, "body_too_slow"));
        }
    };
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(fields)) => Ok(Fields(fields)),
        _ => Err(Refused::Wrong("Request body must be a JSON object", "body_invalid")),
    }
}

impl Fields {
    /// All of them.
    pub(super) fn all(&self) -> &Map<String, Value> {
        &self.0
    }

    /// A field; null is the same as absent.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// A text that is there and not empty.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
    }

    /// Whether a switch is set.
    pub(super) fn is_true(&self, name: &str) -> bool {
        self.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    /// A list of texts; anything else in it becomes an empty text, which is nothing's name.
    pub(super) fn texts(&self, name: &str) -> Option<Vec<&str>> {
        let list = self.get(name)?.as_array()?;
        Some(list.iter().map(|item| item.as_str().unwrap_or_default()).collect())
    }

    /// Whoever it is for: `userId`, `userIds` or both.
    pub(super) fn recipients(&self) -> Result<Vec<UserId>, Refused> {
        let many = match self.get("userIds") {
            None => Vec::new(),
            Some(_) => self.texts("userIds").ok_or(Refusal::UserInvalid)?,
        };
        if many.len() > RECIPIENTS_MAX {
            return Err(Refusal::RecipientsTooMany.into());
        }
        let one = match self.get("userId") {
            None => None,
            Some(user) => Some(user.as_str().ok_or(Refusal::UserInvalid)?),
        };
        let users = one.into_iter().chain(many).map(|user| user.parse().map_err(|_| Refusal::UserInvalid));
        Ok(users.collect::<Result<Vec<UserId>, Refusal>>()?)
    }

    /// What is to be told.
    pub(super) fn notification(&self) -> Result<NewNotification, Refused> {
        Ok(NewNotification {
            kind: self.kind()?,
            title: self.title()?.to_owned(),
            message: self.message()?.to_owned(),
            metadata: self.metadata()?,
            priority: match self.get("priority") {
                None => Priority::Normal,
                Some(label) => {
                    label.as_str().and_then(Priority::from_label).ok_or(Refusal::PriorityInvalid)?
                }
            },
            expires_at: self.moment("expiresAt", Refusal::ExpiresAtInvalid)?,
            deliver_at: self.moment("deliverAt", Refusal::DeliverAtInvalid)?,
            collapse_key: match self.get("collapseKey") {
                None => None,
                Some(key) => Some(key.as_str().ok_or(Refusal::CollapseKeyInvalid)?.to_owned()),
            },
        })
    }

    pub(super) fn kind(&self) -> Result<NotificationType, Refused> {
        Ok(self.text("type").unwrap_or_default().parse().map_err(|_| Refusal::TypeInvalid)?)
    }

    pub(super) fn title(&self) -> Result<&str, Refused> {
        match self.get("title") {
            None => Ok(""),
            Some(title) => title.as_str().ok_or(Refused::Wrong("title must be a string", "title_invalid")),
        }
    }

    pub(super) fn message(&self) -> Result<&str, Refused> {
        match self.get("message") {
            None => Ok(""),
            Some(message) => {
                message.as_str().ok_or(Refused::Wrong("message must be a string", "message_invalid"))
            }
        }
    }

    pub(super) fn metadata(&self) -> Result<Option<JsonObject>, Refused> {
        let metadata = self.get("metadata").map(|value| JsonObject::from_value(value, METADATA_BYTES_MAX));
        Ok(metadata.transpose().map_err(Refusal::from)?)
    }

    /// ISO 8601, or milliseconds since 1970.
    fn moment(&self, name: &str, refusal: Refusal) -> Result<Option<Timestamp>, Refused> {
        let Some(value) = self.get(name) else { return Ok(None) };
        Ok(Some(moment(value).ok_or(refusal)?))
    }
}

/// ISO 8601, or milliseconds since 1970.
pub(super) fn moment(value: &Value) -> Option<Timestamp> {
    match value {
        Value::String(text) => text.parse::<jiff::Timestamp>().ok().map(Timestamp::from),
        value => value.as_i64().map(Timestamp),
    }
}

/// Ids of notifications among texts. What is no id names nothing, as one that nobody has.
pub(super) fn ids(texts: &[&str]) -> Vec<NotificationId> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}
