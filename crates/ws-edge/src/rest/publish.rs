//! Publishing, by trusted back ends.

use bytes::Bytes;
use http::{Method, StatusCode, request::Parts};
use hyper::body::Body;
use model::{
    JsonObject, Notification, Refusal, Topic, UserId,
    notification::{IDEMPOTENCY_KEY_BYTES_MAX, METADATA_BYTES_MAX},
};
use rpc::notification::Publish;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    Refused,
    body::{self, Fields},
    is_service,
};
use crate::{
    Edge,
    answers::{self, Answer},
    tab::protocol::Row,
};

/// Header that makes a request safe to repeat.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// `POST /api/notifications`.
pub(super) async fn answer<B>(edge: &Edge, head: &Parts, body: B) -> Result<Answer, Refused>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if head.method != Method::POST {
        return Err(Refused::Method("POST, OPTIONS"));
    }
    if !is_service(edge, head) {
        return Err(Refused::Unauthenticated);
    }
    let fields = body::read(body).await?;
    let publish = match fields.get("topic") {
        None => {
            let users = fields.recipients()?;
            if users.is_empty() {
                return Err(Refusal::RecipientsMissing.into());
            }
            Publish::Users { users, notification: fields.notification()? }
        }
        Some(topic) => to_topic(&fields, topic)?,
    };
    let outcome = edge.hub.publish(&publish, key(head)?).await?;
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Answered<'a> {
        success: bool,
        repeated: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        sequence: Option<model::Sequence>,
        #[serde(skip_serializing_if = "Option::is_none")]
        notification: Option<Row<'a>>,
        notifications: Vec<Told<'a>>,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Told<'a> {
        user_id: &'a UserId,
        /// Null when the user has muted the type.
        notification: Option<Row<'a>>,
    }
    let told = outcome
        .published
        .iter()
        .map(|(user_id, notification)| Told { user_id, notification: notification.as_ref().map(Row::from) });
    let answered = Answered {
        success: true,
        repeated: outcome.repeated,
        sequence: outcome.sequence,
        notification: match outcome.published.as_slice() {
            [(_, Some(notification))] => Some(Row::from(notification)),
            _ => None,
        },
        notifications: told.collect(),
    };
    Ok(answers::json(StatusCode::OK, &answered))
}

/// One notification for one user, as system C's `POST /api/user/notifications` makes it.
pub(super) async fn one(
    edge: &Edge,
    head: &Parts,
    fields: &Fields,
    user: UserId,
) -> Result<Option<Notification>, Refused> {
    let publish = Publish::Users { users: vec![user], notification: fields.notification()? };
    // Keys have one space for all: a user who took one of a back end's would keep its notification from whom it is for.
    let key = if is_service(edge, head) { key(head)? } else { None };
    let outcome = edge.hub.publish(&publish, key).await?;
    Ok(outcome.published.into_iter().find_map(|(_, notification)| notification))
}

fn to_topic(fields: &Fields, topic: &Value) -> Result<Publish, Refused> {
    if fields.get("userId").is_some() || fields.get("userIds").is_some() {
        return Err(Refusal::TopicInvalid.into());
    }
    match topic.as_str().and_then(|topic| topic.parse().ok()) {
        Some(Topic::User(user)) => {
            Ok(Publish::Users { users: vec![user], notification: fields.notification()? })
        }
        Some(topic @ (Topic::Creator(_) | Topic::Post(_) | Topic::Feed(_))) => {
            Ok(Publish::Event { topic, payload: event(fields)? })
        }
        _ => Err(Refusal::TopicInvalid.into()),
    }
}

/// What the followers of a topic read: the metadata, flat, with `type`, and with `title` and `message` where they are.
fn event(fields: &Fields) -> Result<JsonObject, Refused> {
    let mut event = match fields.metadata()?.map(|metadata| metadata.to_value()) {
        Some(Value::Object(metadata)) => metadata,
        _ => Map::new(),
    };
    event.insert("type".to_owned(), fields.kind()?.to_string().into());
    for (name, text) in [("title", fields.title()?), ("message", fields.message()?)] {
        if !text.is_empty() {
            event.insert(name.to_owned(), text.into());
        }
    }
    Ok(JsonObject::from_value(&Value::Object(event), METADATA_BYTES_MAX).map_err(Refusal::from)?)
}

/// The key that makes the request safe to repeat, if there is one.
fn key(head: &Parts) -> Result<Option<&str>, Refused> {
    let Some(key) = head.headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    match key.to_str() {
        Ok(key) if (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&key.len()) => Ok(Some(key)),
        _ => Err(Refusal::IdempotencyKeyInvalid.into()),
    }
}
