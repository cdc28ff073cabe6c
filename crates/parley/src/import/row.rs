//! Values of rows of which nothing is known.

use model::Timestamp;
use storage::{OldRow, Unreadable};

/// Longest id of a row that is remembered, in bytes.
const ID_BYTES_MAX: usize = 256;

/// A row that can be kept.
pub struct Taken<P, R> {
    /// What the other system calls it.
    pub id: String,
    /// The topic that it belongs to.
    pub place: P,
    /// What it becomes.
    pub row: R,
}

/// Why a row is not taken over.
#[derive(Debug, PartialEq, Eq)]
pub enum LeftOut {
    /// We keep nothing of its kind, in the words of a summary.
    OnPurpose(&'static str),
    /// It cannot be kept. The text holds no value of the row.
    Unfit(String),
}

impl LeftOut {
    /// For what reads a field and says why it cannot.
    pub fn unfit(field: &'static str) -> impl Fn(&dyn std::fmt::Display) -> Self {
        move |why| Self::Unfit(format!("its {field}: {why}"))
    }
}

/// A field that may be absent.
pub fn optional<'a>(row: &'a OldRow, field: &'static str) -> Result<Option<&'a str>, LeftOut> {
    row.get(field).map_err(|why: Unreadable| LeftOut::Unfit(format!("its {field} {why}")))
}

/// A field that must not be.
pub fn needed<'a>(row: &'a OldRow, field: &'static str) -> Result<&'a str, LeftOut> {
    optional(row, field)?.ok_or_else(|| LeftOut::Unfit(format!("it has no {field}")))
}

/// A field with a rule of its own.
pub fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
    row: &OldRow,
    field: &'static str,
) -> Result<T, LeftOut> {
    needed(row, field)?.parse().map_err(|why| LeftOut::unfit(field)(&why))
}

/// The id of a row.
pub fn id(row: &OldRow) -> Result<String, LeftOut> {
    let id = needed(row, "id")?;
    if id.is_empty() || id.len() > ID_BYTES_MAX {
        return Err(LeftOut::Unfit(format!("its id must have 1 to {ID_BYTES_MAX} bytes")));
    }
    Ok(id.to_owned())
}

/// A moment, as Postgres writes it in UTC, or as ISO 8601.
pub fn moment(row: &OldRow, field: &'static str) -> Result<Option<Timestamp>, LeftOut> {
    let Some(text) = optional(row, field)? else { return Ok(None) };
    match text.parse::<jiff::Timestamp>() {
        Ok(moment) => Ok(Some(moment.into())),
        Err(_) => Err(LeftOut::Unfit(format!("its {field} is no date that can be kept"))),
    }
}

/// Yes or no, and `absent` where nothing is said.
pub fn flag(row: &OldRow, field: &'static str, absent: bool) -> Result<bool, LeftOut> {
    match optional(row, field)? {
        None => Ok(absent),
        Some("true" | "t" | "1") => Ok(true),
        Some("false" | "f" | "0") => Ok(false),
        Some(_) => Err(LeftOut::Unfit(format!("its {field} is neither true nor false"))),
    }
}
