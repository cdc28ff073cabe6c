//! HTTP answers: JSON with its keys in the order that clients know, and the CORS headers (Fetch standard section 3.2)
//! on all of them.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde::{Serialize, Serializer};
use serde_json::Value;

/// What the edge answers.
pub(crate) type Answer = Response<Full<Bytes>>;

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
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

/// No body.
pub(crate) fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
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
    fn keys_stay_in_order() {
        let body = serde_json::to_string(&Object([("ok", true.into()), ("error", "x".into())])).unwrap();
        assert_eq!(body, r#"{"ok":true,"error":"x"}"#);
    }
}
