use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::{Value, value::RawValue};

/// A JSON object that an application hands through us: metadata of a notification, an event of its own. Kept as
/// compact text, cheap to clone. Nothing in it is more deeply nested than [`JsonObject::DEPTH_MAX`], and no text in
/// it holds U+0000, which Postgres cannot keep.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct JsonObject(Arc<str>);

/// Why a text is no [`JsonObject`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidJson {
    /// Longer than the caller allows.
    #[error("more than {0} bytes")]
    TooLong(usize),
    /// Nested more deeply than [`JsonObject::DEPTH_MAX`].
    #[error("nested more deeply than {} levels", JsonObject::DEPTH_MAX)]
    TooDeep,
    /// No JSON, no object, or with a text that holds U+0000.
    #[error("not a JSON object (or one with U+0000 in a text)")]
    NotAnObject,
}

impl JsonObject {
    /// Levels of objects and arrays, the outermost among them. Deep documents cost every reader recursion.
    pub const DEPTH_MAX: usize = 16;

    /// Reads a text of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// See [`InvalidJson`].
    pub fn parse(text: &str, bytes_max: usize) -> Result<Self, InvalidJson> {
        if text.len() > bytes_max {
            return Err(InvalidJson::TooLong(bytes_max));
        }
        // Before the parser, which would call depths beyond its own limit a mistake of grammar.
        if nesting(text) > Self::DEPTH_MAX {
            return Err(InvalidJson::TooDeep);
        }
        let value = serde_json::from_str(text).map_err(|_| InvalidJson::NotAnObject)?;
        Self::from_value(&value, bytes_max)
    }

    /// Takes a value that was read before; its text may have at most `bytes_max` bytes.
    ///
    /// # Errors
    /// See [`InvalidJson`].
    pub fn from_value(value: &Value, bytes_max: usize) -> Result<Self, InvalidJson> {
        if !value.is_object() || holds_nul(value) {
            return Err(InvalidJson::NotAnObject);
        }
        let text = value.to_string();
        if text.len() > bytes_max {
            return Err(InvalidJson::TooLong(bytes_max));
        }
        if nesting(&text) > Self::DEPTH_MAX {
            return Err(InvalidJson::TooDeep);
        }
        Ok(Self(text.into()))
    }

    /// The compact text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The parsed object.
    pub fn to_value(&self) -> Value {
        // It was written from a value.
        serde_json::from_str(&self.0).unwrap_or_default()
    }
}

/// The deepest nesting of brackets outside of strings.
fn nesting(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut quoted, mut escaped) = (false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Whether any text in it holds U+0000. As deep as the value, which the parser has bounded.
fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(holds_nul),
        Value::Object(fields) => fields.iter().any(|(name, value)| name.contains('\0') || holds_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// What applications send stays out of logs.
impl fmt::Debug for JsonObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JsonObject({} bytes)", self.0.len())
    }
}

impl Serialize for JsonObject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue = serde_json::from_str(&self.0).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

/// For what we wrote ourselves: no limit of bytes.
impl<'de> Deserialize<'de> for JsonObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Self::from_value(&value, usize::MAX).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_objects_of_bounded_size_and_depth_are_taken() {
        let deep = |levels: usize| format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
        assert_eq!(JsonObject::parse(r#" {"a": [1, "}{"]} "#, 100).unwrap().as_str(), r#"{"a":[1,"}{"]}"#);
        assert!(JsonObject::parse(&deep(JsonObject::DEPTH_MAX), 1000).is_ok());
        for (text, why) in [
            (deep(JsonObject::DEPTH_MAX + 1), InvalidJson::TooDeep),
            (deep(5000), InvalidJson::TooDeep),
            (r#"{"a":"0123456789"}"#.repeat(100), InvalidJson::TooLong(50_000)),
            (format!(r#"{{"a":"{}"}}"#, "x".repeat(50_001)), InvalidJson::TooLong(50_000)),
            (r#"{"a":"\u0000"}"#.to_owned(), InvalidJson::NotAnObject),
            (r#"{"\u0000":1}"#.to_owned(), InvalidJson::NotAnObject),
            ("[1]".to_owned(), InvalidJson::NotAnObject),
            ("{".to_owned(), InvalidJson::NotAnObject),
            (r#"{"a":1e999}"#.to_owned(), InvalidJson::NotAnObject),
        ] {
            let limit = if text.len() < 50_000 && why == InvalidJson::TooLong(50_000) { 10 } else { 50_000 };
            let expected = if limit == 10 { InvalidJson::TooLong(10) } else { why };
            assert_eq!(JsonObject::parse(&text, limit), Err(expected), "{:.40}", text);
        }
    }

    #[test]
    fn it_is_json_inside_of_json() {
        let object = JsonObject::parse(r#"{"a":{"b":"\"\\"}}"#, 100).unwrap();
        let text = serde_json::to_string(&[&object]).unwrap();
        assert_eq!(text, r#"[{"a":{"b":"\"\\"}}]"#);
        assert_eq!(serde_json::from_str::<[JsonObject; 1]>(&text).unwrap(), [object]);
    }
}
