//! Where a piece of work stands in a trace, as services hand it on.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest text that is read as one: the 55 characters of version 00, and room for what later versions add.
const BYTES_MAX: usize = 512;

/// The place of a span, in the form in which it travels: `traceparent` of W3C Trace Context (level 1, section 3.2). In gRPC
/// metadata, HTTP headers, the Redis envelope and outbox rows it is the same text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// What all spans of the trace share; never 0.
    pub trace: u128,
    /// The span that whoever receives this goes on from; never 0.
    pub span: u64,
    /// Whether the trace is recorded.
    pub is_sampled: bool,
}

/// Not a `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a traceparent of W3C Trace Context")]
pub struct TraceContextInvalid;

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.is_sampled))
    }
}

impl FromStr for TraceContext {
    type Err = TraceContextInvalid;

    fn from_str(text: &str) -> Result<Self, TraceContextInvalid> {
        if text.len() > BYTES_MAX {
            return Err(TraceContextInvalid);
        }
        let mut parts = text.split('-');
        let version = hex(parts.next(), 2)?;
        let trace = hex(parts.next(), 32)?;
        let span = hex(parts.next(), 16)?;
        let flags = hex(parts.next(), 2)?;
        // Later versions may add fields; 255 is forbidden (section 3.2.2.1).
        if version == 0xff || (version == 0 && parts.next().is_some()) || trace == 0 || span == 0 {
            return Err(TraceContextInvalid);
        }
        let span = u64::try_from(span).map_err(|_| TraceContextInvalid)?;
        Ok(Self { trace, span, is_sampled: flags & 1 == 1 })
    }
}

/// A number in lower-case hexadecimal digits, exactly so many.
fn hex(digits: Option<&str>, length: usize) -> Result<u128, TraceContextInvalid> {
    let digits = digits.filter(|digits| digits.len() == length).ok_or(TraceContextInvalid)?;
    if !digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(TraceContextInvalid);
    }
    u128::from_str_radix(digits, 16).map_err(|_| TraceContextInvalid)
}

impl Serialize for TraceContext {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TraceContext {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_text_of_a_context_is_read_as_it_is_written() {
        let context: TraceContext = TEXT.parse().unwrap();
        let expected = TraceContext {
            trace: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
            span: 0x00f0_67aa_0ba9_02b7,
            is_sampled: true,
        };
        assert_eq!((context, context.to_string().as_str()), (expected, TEXT));
        let unsampled = TraceContext { is_sampled: false, ..context };
        assert_eq!(unsampled.to_string().parse(), Ok(unsampled));
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        let later = format!("cc{}-more-of-it", &TEXT[2..]);
        assert_eq!(later.parse::<TraceContext>(), TEXT.parse());
        // Flags that are not known yet.
        assert!(!format!("{}fe", &TEXT[..53]).parse::<TraceContext>().unwrap().is_sampled);
    }

    #[test]
    fn anything_else_is_refused() {
        let zeros = |from: usize, to: usize| {
            let mut text = TEXT.to_owned();
            text.replace_range(from..to, &"0".repeat(to - from));
            text
        };
        for text in [
            String::new(),
            "00".to_owned(),
            TEXT.to_uppercase(),
            format!("{TEXT}-00"),
            format!("ff{}", &TEXT[2..]),
            TEXT[..54].to_owned(),
            TEXT.replace("00-4bf", "00-+bf"),
            zeros(3, 35),
            zeros(36, 52),
            format!("cc{}-{}", &TEXT[2..], "x".repeat(600)),
            "00-é".to_owned(),
        ] {
            assert_eq!(text.parse::<TraceContext>(), Err(TraceContextInvalid), "{text}");
        }
    }
}
