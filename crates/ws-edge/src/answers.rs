//! HTTP answers: JSON with its keys in the order that clients know, and the CORS headers (Fetch standard section 3.2)
//! on all of them.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::BoxStream};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::{Either, Full, StreamBody};
use hyper::body::Frame;
use serde::{Serialize, Serializer};
use serde_json::Value;

/// What the edge answers.
pub(crate) type Answer = Response<Content>;

/// What an answer holds: all at once, or as it comes.
pub(crate) type Content =
    Either<Full<Bytes>, StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>>;

/// A flat JSON object whose keys stay in order.
pub(crate) struct Object<'a, const FIELDS: usize>(pub(crate) [(&'a str, Value); FIELDS]);

impl<const FIELDS: usize> Serialize for Object<'_, FIELDS> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

/// JSON.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    text(status, "application/json", serde_json::to_string(body).unwrap_or_default())
}

/// A flat JSON object.
pub(crate) fn object<const FIELDS: usize>(status: StatusCode, fields: [(&str, Value); FIELDS]) -> Answer {
    json(status, &Object(fields))
}

/// `{"error":…}`.
pub(crate) fn error(status: StatusCode, text: &str) -> Answer {
    object(status, [("error", text.into())])
}

/// Text of another kind.
pub(crate) fn text(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Either::Left(Full::new(Bytes::from(body))));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

/// No body.
pub(crate) fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Either::Left(Full::default()));
    *answer.status_mut() = status;
    answer
}

/// Server-sent events, each with its end, as they come.
pub(crate) fn events(events: BoxStream<'static, Bytes>) -> Answer {
    let frames = events.map(|event| Ok(Frame::data(event))).boxed();
    let mut answer = Response::new(Either::Right(StreamBody::new(frames)));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx hands them on at once.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    answer
}

/// Adds when to try again, in whole seconds (RFC 9110 section 10.2.3).
pub(crate) fn retry_after(mut answer: Answer, span: std::time::Duration) -> Answer {
    let seconds = span.as_secs_f64().ceil().max(1.0) as u64;
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    answer
}

/// Whether pages of this origin may use the edge. `listed` is in lower case; empty means that any may. Who sends no
/// origin is no page.
pub(crate) fn is_allowed(listed: &[String], origin: Option<&HeaderValue>) -> bool {
    let Some(origin) = origin else { return true };
    let Ok(origin) = origin.to_str() else { return false };
    listed.is_empty()
        || listed.iter().any(|allowed| origin.trim_end_matches('/').eq_ignore_ascii_case(allowed))
}

/// What pages may ask with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowed {
    methods: &'static str,
    headers: &'static str,
}

/// As system A says it, to the letter.
pub(crate) const OF_SYSTEM_A: Allowed =
    Allowed { methods: "GET, POST, OPTIONS", headers: "Content-Type, Authorization" };

/// What the routes of notifications take besides.
pub(crate) const OF_SYSTEM_C: Allowed = Allowed {
    methods: "GET, POST, PUT, PATCH, DELETE, OPTIONS",
    headers: "Content-Type, Authorization, X-Requested-With",
};

/// What the page that asks wants to send.
pub(crate) struct Asking {
    origin: Option<HeaderValue>,
    headers: Option<HeaderValue>,
    has_cookie: bool,
}

impl Asking {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        Self {
            origin: headers.get(header::ORIGIN).cloned(),
            headers: headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned(),
            has_cookie: headers.contains_key(header::COOKIE),
        }
    }

    /// The page, as a browser names it.
    pub(crate) const fn origin(&self) -> Option<&HeaderValue> {
        self.origin.as_ref()
    }
}

/// As system D says it: any page may read the answer, send credentials, and ask with any method and header; as long as
/// no origins are `listed`. A browser takes `*` for neither where credentials are sent, so these are named then.
pub(crate) fn allow_anything(headers: &mut HeaderMap, listed: &[String], asking: &Asking) {
    let methods = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
    let allowed = Allowed { methods, headers: OF_SYSTEM_C.headers };
    allow_origin(headers, listed, asking.origin(), allowed);
    if listed.is_empty() {
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        if let Some(origin) = asking.origin.as_ref().filter(|_| asking.has_cookie || asking.headers.is_some())
        {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.append(header::VARY, HeaderValue::from_static("Origin"));
        }
    }
    if let Some(asked) = &asking.headers {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
    }
}

/// Says which pages may read the answer. With origins listed, the one that asks is named and may send credentials;
/// without, any may read and none may send credentials.
pub(crate) fn allow_origin(
    headers: &mut HeaderMap,
    listed: &[String],
    origin: Option<&HeaderValue>,
    allowed: Allowed,
) {
    if listed.is_empty() {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    } else {
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
        if let Some(origin) = origin.filter(|_| is_allowed(listed, origin)) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(allowed.methods));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(allowed.headers));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed_origin(listed: &[&str], origin: Option<&'static str>) -> (Option<String>, bool) {
        let listed: Vec<String> = listed.iter().map(|origin| (*origin).to_owned()).collect();
        let mut headers = HeaderMap::new();
        let origin = origin.map(HeaderValue::from_static);
        allow_origin(&mut headers, &listed, origin.as_ref(), OF_SYSTEM_A);
        let named = headers.get(header::ACCESS_CONTROL_ALLOW_ORIGIN);
        let credentials = headers.contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS);
        (named.map(|value| value.to_str().unwrap().to_owned()), credentials)
    }

    #[test]
    fn any_origin_may_read_unless_some_are_listed() {
        let app = Some("https://app.example");
        assert_eq!(allowed_origin(&[], app), (Some("*".into()), false));
        assert_eq!(allowed_origin(&[], None), (Some("*".into()), false));
        assert_eq!(allowed_origin(&["https://app.example"], app), (Some("https://app.example".into()), true));
        assert_eq!(allowed_origin(&["https://app.example"], Some("https://evil.example")), (None, false));
        assert_eq!(allowed_origin(&["https://app.example"], Some("https://app.example.evil")), (None, false));
        assert_eq!(allowed_origin(&["https://app.example"], None), (None, false));
    }

    #[test]
    fn system_d_lets_any_page_send_credentials() {
        let allowed = |listed: &[&str], sent: &[(header::HeaderName, &'static str)]| {
            let listed: Vec<String> = listed.iter().map(|origin| (*origin).to_owned()).collect();
            let sent = sent.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
            let mut headers = HeaderMap::new();
            allow_anything(&mut headers, &listed, &Asking::of(&sent.collect()));
            let text = |name| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
            let credentials = headers.contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS);
            let origin = text(header::ACCESS_CONTROL_ALLOW_ORIGIN);
            (origin, credentials, text(header::ACCESS_CONTROL_ALLOW_HEADERS).unwrap())
        };
        let page = (header::ORIGIN, "https://app.example");
        let usual = "Content-Type, Authorization, X-Requested-With".to_owned();
        assert_eq!(allowed(&[], &[]), (Some("*".into()), true, usual.clone()));
        assert_eq!(allowed(&[], std::slice::from_ref(&page)), (Some("*".into()), true, usual.clone()));
        let named = Some("https://app.example".to_owned());
        assert_eq!(
            allowed(&[], &[page.clone(), (header::COOKIE, "a=b")]),
            (named.clone(), true, usual.clone())
        );
        let asked = (header::ACCESS_CONTROL_REQUEST_HEADERS, "x-a");
        assert_eq!(allowed(&[], &[page.clone(), asked.clone()]), (named.clone(), true, "x-a".into()));
        assert_eq!(allowed(&["https://app.example"], std::slice::from_ref(&page)), (named, true, usual));
        assert_eq!(allowed(&["https://other.example"], &[page, asked]), (None, false, "x-a".into()));
    }

    #[test]
    fn keys_stay_in_order() {
        let body = serde_json::to_string(&Object([("ok", true.into()), ("error", "x".into())])).unwrap();
        assert_eq!(body, r#"{"ok":true,"error":"x"}"#);
    }
}
