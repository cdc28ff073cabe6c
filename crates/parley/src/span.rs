use std::time::Duration;

/// A span that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a span such as 90s, 15m, 1h, 1h30m or 7d, longer than nothing and at most 10 years")]
pub struct InvalidSpan;

/// Longest span: beyond ten years a token is a mistake.
const SPAN_S_MAX: u64 = 3650 * 86_400;

/// Reads `1h30m`: numbers with the units s, m, h and d, in any order.
///
/// # Errors
/// Anything else, nothing, and more than ten years.
pub fn parse(text: &str) -> Result<Duration, InvalidSpan> {
    let mut seconds = 0_u64;
    let mut rest = text.trim();
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or(InvalidSpan)?;
        let (number, tail) = rest.split_at(digits);
        let mut tail = tail.chars();
        let unit_s = match tail.next() {
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3600,
            Some('d') => 86_400,
            _ => return Err(InvalidSpan),
        };
        let number: u64 = number.parse().map_err(|_| InvalidSpan)?;
        seconds = number.checked_mul(unit_s).and_then(|more| seconds.checked_add(more)).ok_or(InvalidSpan)?;
        rest = tail.as_str();
    }
    if (1..=SPAN_S_MAX).contains(&seconds) { Ok(Duration::from_secs(seconds)) } else { Err(InvalidSpan) }
}

/// A place in a recording: `0:03.4`, `1:02:03.4`.
pub fn clock(seconds: f64) -> String {
    let tenths = (seconds.max(0.0) * 10.0).round() as u64;
    let (hours, minutes, seconds, tenth) =
        (tenths / 36_000, tenths / 600 % 60, tenths / 10 % 60, tenths % 10);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}.{tenth}")
    } else {
        format!("{minutes}:{seconds:02}.{tenth}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_numbers_with_units() {
        for (text, seconds) in
            [("90s", 90), ("15m", 900), ("1h", 3600), (" 1h30m ", 5400), ("7d", 604_800), ("1d1s", 86_401)]
        {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "1",
            "h",
            "1w",
            "-1h",
            "1.5h",
            "0s",
            "99999999999999999999h",
            "18446744073709551615d",
            "11000d",
        ] {
            assert_eq!(parse(text), Err(InvalidSpan), "{text}");
        }
    }

    #[test]
    fn places_read_like_a_player() {
        for (seconds, text) in [
            (0.0, "0:00.0"),
            (3.44, "0:03.4"),
            (59.96, "1:00.0"),
            (83.0, "1:23.0"),
            (3723.4, "1:02:03.4"),
            (-1.0, "0:00.0"),
        ] {
            assert_eq!(clock(seconds), text);
        }
    }
}
