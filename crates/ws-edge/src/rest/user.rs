//! What users do with their own notifications.

use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};

use auth::User;
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header, request::Parts};
use hyper::body::Body;
use model::{NotificationType, Refusal, Unread, UserId};
use rpc::notification::{Changed, Filter};
use serde::Serialize;
use serde_json::Value;

use super::{
    Refused,
    body::{self, ids},
    caller, is_service, publish,
};
use crate::{
    Edge,
    answers::{self, Answer, object},
    handshake::parameter,
    tab::protocol::Row,
};

/// Answers what is asked for below [`super::USER_PATH`].
pub(super) async fn answer<B>(edge: &Edge, head: &Parts, rest: &str, body: B) -> Result<Answer, Refused>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let query = head.uri.query().unwrap_or_default();
    let method = &head.method;
    if rest.is_empty() && method == Method::POST {
        return create(edge, head, body).await;
    }
    let user = caller(edge, head)?;
    match rest {
        "" => match *method {
            Method::GET | Method::HEAD => list(edge, head, &user, query).await,
            Method::PUT => mark_many(edge, &user, body).await,
            Method::PATCH => mark_one(edge, &user, body).await,
            Method::DELETE => delete(edge, &user, query).await,
            _ => Err(Refused::Method("GET, POST, PUT, PATCH, DELETE, OPTIONS")),
        },
        "/clear" => match *method {
            Method::DELETE => {
                let changed = edge.hub.clear(user.id()).await?;
                Ok(done(Some(changed), [("clearedCount", changed.changed.into())]))
            }
            _ => Err(Refused::Method("DELETE, OPTIONS")),
        },
        "/preferences" => match *method {
            Method::GET => preferences(edge.hub.muted(user.id()).await?),
            Method::PUT => {
                let types = muted(&body::read(body).await?)?;
                preferences(edge.hub.mute(user.id(), &types).await?)
            }
            _ => Err(Refused::Method("GET, PUT, OPTIONS")),
        },
        "/push" => push(edge, head, &user, query, body).await,
        _ => match rest.strip_prefix('/').and_then(|rest| rest.strip_suffix("/read")) {
            Some(id) if !id.contains('/') => match *method {
                Method::PUT | Method::POST => {
                    let changed = edge.hub.mark_read(user.id(), &ids(&[id])).await;
                    found(changed)
                }
                _ => Err(Refused::Method("PUT, OPTIONS")),
            },
            _ => Err(Refused::Missing("Not found", "not_found")),
        },
    }
}

/// `{"success":true}`, with what else there is to say and how many are unread now.
fn done<const FIELDS: usize>(changed: Option<Changed>, fields: [(&str, Value); FIELDS]) -> Answer {
    let mut answer = serde_json::Map::new();
    answer.insert("success".to_owned(), true.into());
    answer.extend(fields.map(|(name, value)| (name.to_owned(), value)));
    if let Some(Changed { unread: Unread { count, version }, .. }) = changed {
        answer.insert("unreadCount".to_owned(), count.into());
        answer.insert("version".to_owned(), version.0.into());
    }
    answers::json(StatusCode::OK, &answer)
}

/// The answer to a change of one notification.
fn found(changed: Result<Changed, rpc::HubError>) -> Result<Answer, Refused> {
    match changed {
        Ok(changed) if changed.found > 0 => Ok(done(Some(changed), [])),
        // What is no id at all is found as little.
        Ok(_) | Err(rpc::HubError::Refused(Refusal::IdsMissing)) => {
            Err(Refused::Missing("Notification not found", Refusal::NotificationUnknown.code()))
        }
        Err(error) => Err(error.into()),
    }
}

async fn list(edge: &Edge, head: &Parts, user: &User, query: &str) -> Result<Answer, Refused> {
    let filter = filter(query)?;
    let tag = |unread: Unread| {
        // The list is different when the user's topic is, or when another is asked for.
        let asked = BuildHasherDefault::<DefaultHasher>::default().hash_one((user.id(), query));
        format!("W/\"{:x}-{asked:x}\"", unread.version.0)
    };
    let known = head.headers.get(header::IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
    if let Some(known) = known {
        let current = tag(edge.hub.unread(user.id()).await?);
        if known.split(',').any(|known| known.trim() == current || known.trim() == "*") {
            return Ok(tagged(answers::empty(StatusCode::NOT_MODIFIED), &current));
        }
    }
    let page = edge.hub.list(user.id(), &filter).await?;
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct List<'a> {
        notifications: Vec<Row<'a>>,
        unread_count: u64,
        version: model::Sequence,
        #[serde(skip_serializing_if = "Option::is_none")]
        next_cursor: Option<&'a str>,
    }
    let list = List {
        notifications: page.notifications.iter().map(Row::from).collect(),
        unread_count: page.unread.count,
        version: page.unread.version,
        next_cursor: page.next_cursor.as_deref(),
    };
    Ok(tagged(answers::json(StatusCode::OK, &list), &tag(page.unread)))
}

/// Adds an entity tag (RFC 9110 section 8.8.3).
fn tagged(mut answer: Answer, tag: &str) -> Answer {
    if let Ok(tag) = HeaderValue::try_from(tag) {
        answer.headers_mut().insert(header::ETAG, tag);
    }
    answer
}

fn filter(query: &str) -> Result<Filter, Refused> {
    let flag = |name| matches!(parameter(query, name).as_deref(), Some("true" | "1"));
    let limit = match parameter(query, "limit").filter(|limit| !limit.is_empty()) {
        None => None,
        // Also what is negative or far too much for the number.
        Some(limit) => Some(limit.parse().map_err(|_| Refusal::LimitInvalid)?),
    };
    let types = parameter(query, "types").or_else(|| parameter(query, "type")).unwrap_or_default();
    let types = types.split(',').map(str::trim).filter(|kind| !kind.is_empty());
    Ok(Filter {
        unread_only: flag("unreadOnly"),
        archived: flag("archived"),
        types: types.map(|kind| kind.parse().map_err(|_| Refusal::TypeInvalid)).collect::<Result<_, _>>()?,
        limit,
        cursor: parameter(query, "cursor").filter(|cursor| !cursor.is_empty()),
    })
}

async fn create<B>(edge: &Edge, head: &Parts, body: B) -> Result<Answer, Refused>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let is_trusted = is_service(edge, head) || edge.settings.legacy_open_routes;
    let caller = if is_trusted { None } else { Some(caller(edge, head)?) };
    let fields = body::read(body).await?;
    let given = ["userId", "type", "title", "message"].map(|name| fields.get(name));
    if given.iter().any(|field| field.is_none_or(|field| field.as_str() == Some(""))) {
        return Err(Refused::Wrong("Missing required fields", "fields_missing"));
    }
    let user: UserId = match fields.recipients()?.as_slice() {
        [user] => user.clone(),
        _ => return Err(Refusal::UserInvalid.into()),
    };
    if caller.is_some_and(|caller| *caller.id() != user) {
        return Err(Refused::Forbidden("A user may only notify itself; back ends use a service key"));
    }
    let notification = publish::one(edge, head, &fields, user).await?;
    #[derive(Serialize)]
    struct Created<'a> {
        success: bool,
        /// Null when the user has muted the type.
        notification: Option<Row<'a>>,
    }
    Ok(answers::json(
        StatusCode::OK,
        &Created { success: true, notification: notification.as_ref().map(Row::from) },
    ))
}

async fn mark_many<B>(edge: &Edge, user: &User, body: B) -> Result<Answer, Refused>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let fields = body::read(body).await?;
    if fields.is_true("markAllAsRead") {
        return Ok(done(Some(edge.hub.mark_all_read(user.id()).await?), []));
    }
    let Some(texts) = fields.texts("notificationIds") else {
        return Err(Refused::Wrong("notificationIds or markAllAsRead is needed", Refusal::IdsMissing.code()));
    };
    let ids = ids(&texts);
    if ids.is_empty() {
        // Nothing that could be marked: nothing is different.
        return Ok(done(None, []));
    }
    Ok(done(Some(edge.hub.mark_read(user.id(), &ids).await?), []))
}

async fn mark_one<B>(edge: &Edge, user: &User, body: B) -> Result<Answer, Refused>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let fields = body::read(body).await?;
    if fields.is_true("markAllAsRead") {
        return Ok(done(Some(edge.hub.mark_all_read(user.id()).await?), []));
    }
    let Some(id) = fields.text("notificationId") else {
        return Err(Refused::Wrong("notificationId or markAllAsRead is needed", Refusal::IdsMissing.code()));
    };
    let ids = ids(&[id]);
    if let Some(Value::Bool(true)) = fields.get("isArchived") {
        return found(edge.hub.archive(user.id(), &ids).await);
    }
    match fields.get("isRead") {
        Some(Value::Bool(false)) => found(edge.hub.mark_unread(user.id(), &ids).await),
        Some(Value::Bool(true)) | None => found(edge.hub.mark_read(user.id(), &ids).await),
        Some(_) => Err(Refused::Wrong("isRead must be true or false", "is_read_invalid")),
    }
}

/// One, whether or not it was there; or, without an id, everything that is read.
async fn delete(edge: &Edge, user: &User, query: &str) -> Result<Answer, Refused> {
    let Some(id) = parameter(query, "id").filter(|id| !id.is_empty()) else {
        return Ok(done(Some(edge.hub.clear(user.id()).await?), []));
    };
    let ids = ids(&[&id]);
    if ids.is_empty() {
        return Ok(done(None, []));
    }
    Ok(done(Some(edge.hub.delete(user.id(), &ids).await?), []))
}

fn muted(fields: &body::Fields) -> Result<Vec<NotificationType>, Refused> {
    let types = fields.texts("mutedTypes").ok_or(Refusal::TypeInvalid)?;
    Ok(types
        .into_iter()
        .map(|kind| kind.parse().map_err(|_| Refusal::TypeInvalid))
        .collect::<Result<_, _>>()?)
}

#[expect(clippy::unnecessary_wraps, reason = "it ends two roads that may fail")]
fn preferences(muted: Vec<NotificationType>) -> Result<Answer, Refused> {
    let muted: Vec<String> = muted.into_iter().map(String::from).collect();
    Ok(object(StatusCode::OK, [("mutedTypes", muted.into())]))
}

async fn push<B>(edge: &Edge, head: &Parts, user: &User, query: &str, body: B) -> Result<Answer, Refused>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match head.method {
        Method::GET => {
            let key = edge.hub.push_key().await?.ok_or(Refusal::PushOff)?;
            Ok(object(StatusCode::OK, [("publicKey", key.into())]))
        }
        Method::POST => {
            let fields = body::read(body).await?;
            let keys = fields.get("keys");
            let key = |name| keys.and_then(|keys| keys.get(name)).and_then(Value::as_str).unwrap_or_default();
            let endpoint = fields.text("endpoint").unwrap_or_default();
            edge.hub.register_push(user.id(), endpoint, key("p256dh"), key("auth")).await?;
            Ok(done(None, []))
        }
        Method::DELETE => {
            let endpoint = match parameter(query, "endpoint") {
                Some(endpoint) => endpoint,
                None => body::read(body).await?.text("endpoint").unwrap_or_default().to_owned(),
            };
            let removed = edge.hub.remove_push(user.id(), &endpoint).await?;
            Ok(done(None, [("removed", removed.into())]))
        }
        _ => Err(Refused::Method("GET, POST, DELETE, OPTIONS")),
    }
}
