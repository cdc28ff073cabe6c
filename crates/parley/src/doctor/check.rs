//! What was looked at, what was seen, and the one thing to do about it.

use std::io::{self, Write};

use console::style;
use serde::Serialize;

use crate::screen::{Screen, printable};

/// How it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, and somebody may regret it.
    Warn,
    /// It does not work, or lets in whom it should not.
    Fail,
    /// Not tried: what it needs is missing or has failed.
    Skip,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at: a setting's name, or a part.
    pub name: String,
    /// How it stands.
    pub verdict: Verdict,
    /// What was seen; never a secret.
    pub seen: String,
    /// What to do; empty when nothing is to be done.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mend: String,
}

impl Check {
    /// As it should be.
    pub fn ok(name: impl Into<String>, seen: impl Into<String>) -> Self {
        Self { name: name.into(), verdict: Verdict::Ok, seen: seen.into(), mend: String::new() }
    }

    /// Not tried, and why.
    pub fn skip(name: impl Into<String>, why: impl Into<String>) -> Self {
        Self { name: name.into(), verdict: Verdict::Skip, seen: why.into(), mend: String::new() }
    }

    /// Works, with a reservation.
    pub fn warn(name: impl Into<String>, seen: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { name: name.into(), verdict: Verdict::Warn, seen: seen.into(), mend: mend.into() }
    }

    /// Does not work.
    pub fn fail(name: impl Into<String>, seen: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { name: name.into(), verdict: Verdict::Fail, seen: seen.into(), mend: mend.into() }
    }
}

/// Tells checks as they are made.
pub struct Report {
    checks: Vec<Check>,
    screen: Screen,
    json: bool,
    /// Why nobody reads the report any more.
    unread: Option<io::Error>,
}

impl Report {
    /// For people, line by line, or as one JSON document at the end.
    pub fn new(json: bool) -> Self {
        Self { checks: Vec::new(), screen: Screen::new(false), json, unread: None }
    }

    /// Shows what is being looked at, where somebody watches.
    pub fn looking(&mut self, at: &str) {
        if !self.json {
            self.screen.end_bar();
            self.screen.show_bar(None);
            self.screen.progress(0, format!("{at} …"));
        }
    }

    /// Adds checks.
    pub fn tell(&mut self, checks: impl IntoIterator<Item = Check>) {
        self.screen.end_bar();
        for check in checks {
            if !self.json
                && self.unread.is_none()
                && let Err(error) = self.print(&check)
            {
                self.unread = Some(error);
            }
            self.checks.push(check);
        }
    }

    /// Whether one of this name has failed.
    pub fn failed(&self, name: &str) -> bool {
        self.checks.iter().any(|check| check.name == name && check.verdict == Verdict::Fail)
    }

    /// How many failed.
    pub fn failures(&self) -> usize {
        self.count(Verdict::Fail)
    }

    /// How many checks there were, without those that were not tried.
    pub fn tried(&self) -> usize {
        self.checks.len() - self.count(Verdict::Skip)
    }

    /// Ends the report: the sum, or the document.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn end(&mut self) -> io::Result<()> {
        self.screen.end_bar();
        if let Some(error) = self.unread.take() {
            return Err(error);
        }
        let mut out = io::stdout();
        if self.json {
            serde_json::to_writer_pretty(
                &mut out,
                &serde_json::json!({ "failures": self.failures(), "checks": self.checks }),
            )?;
            return writeln!(out);
        }
        let count = |verdict| self.count(verdict);
        writeln!(
            out,
            "\n{} ok, {} to look at, {} failed, {} not tried",
            count(Verdict::Ok),
            count(Verdict::Warn),
            count(Verdict::Fail),
            count(Verdict::Skip)
        )
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.checks.iter().filter(|check| check.verdict == verdict).count()
    }

    fn print(&self, check: &Check) -> io::Result<()> {
        let mark = match check.verdict {
            Verdict::Ok => style("ok  ").green(),
            Verdict::Warn => style("warn").yellow(),
            Verdict::Fail => style("FAIL").red().bold(),
            Verdict::Skip => style("-   ").dim(),
        };
        let seen = printable(&check.seen);
        self.screen.line(&format!("{mark}  {}: {seen}", style(&check.name).bold()))?;
        if !check.mend.is_empty() {
            self.screen.line(&format!("      {} {}", style("→").dim(), check.mend))?;
        }
        Ok(())
    }
}
