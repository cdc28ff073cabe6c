use std::{str::FromStr, time::Duration};

use crate::{Problems, Secret};

/// Turns loose strings into types that cannot be wrong, and remembers every fault on the way.
///
/// ```
/// let mut reader = settings::of([("PORT", "3001"), ("SERVICE_KEY", "a,b")]);
/// let port = reader.or("PORT", 3000_u16, "a port number");
/// let keys = reader.secrets("SERVICE_KEY");
/// let both = reader.finish(|| Some((port, keys.len()))).unwrap();
/// assert_eq!(both, (3001, 2));
/// ```
#[derive(Debug, Clone)]
pub struct Reader {
    config: config::Config,
    problems: Vec<String>,
}

impl Reader {
    pub(crate) fn new(config: config::Config) -> Self {
        Self { config, problems: Vec::new() }
    }

    /// The value as text, trimmed; `None` when no layer has it.
    pub fn text(&self, name: &str) -> Option<String> {
        let value = self.config.get_string(&name.to_ascii_lowercase()).ok()?;
        Some(value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    /// A setting that may be absent. `expected` completes the sentence "expected …".
    pub fn optional<T: FromStr>(&mut self, name: &str, expected: &str) -> Option<T> {
        let text = self.text(name)?;
        let value = text.parse().ok();
        if value.is_none() {
            self.problem(name, format_args!("expected {expected}"));
        }
        value
    }

    /// A setting with a default.
    pub fn or<T: FromStr>(&mut self, name: &str, default: T, expected: &str) -> T {
        self.optional(name, expected).unwrap_or(default)
    }

    /// A setting without which the service cannot run.
    pub fn required<T: FromStr>(&mut self, name: &str, expected: &str) -> Option<T> {
        if self.text(name).is_none() {
            self.problem(name, format_args!("missing; expected {expected}"));
        }
        self.optional(name, expected)
    }

    /// A switch: true/false, 1/0, yes/no, on/off in any case; false when absent.
    pub fn flag(&mut self, name: &str) -> bool {
        self.flag_or(name, false)
    }

    /// A switch with a default.
    pub fn flag_or(&mut self, name: &str, default: bool) -> bool {
        match self.text(name).map(|text| text.to_ascii_lowercase()).as_deref() {
            None => default,
            Some("true" | "1" | "yes" | "on") => true,
            Some("false" | "0" | "no" | "off") => false,
            Some(_) => {
                self.problem(name, format_args!("expected true or false"));
                default
            }
        }
    }

    /// A span in milliseconds.
    pub fn millis(&mut self, name: &str, default: Duration) -> Duration {
        self.optional(name, "a number of milliseconds").map_or(default, Duration::from_millis)
    }

    /// A span in seconds.
    pub fn seconds(&mut self, name: &str, default: Duration) -> Duration {
        self.optional(name, "a number of seconds").map_or(default, Duration::from_secs)
    }

    /// A list, separated by commas; empty when absent.
    pub fn list(&self, name: &str) -> Vec<String> {
        let text = self.text(name).unwrap_or_default();
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
    }

    /// Secrets, separated by commas so that a new one can be added before the old one is taken away.
    pub fn secrets(&self, name: &str) -> Vec<Secret> {
        self.list(name).into_iter().map(Secret::from).collect()
    }

    /// As [`Reader::secrets`], with at least one.
    pub fn required_secrets(&mut self, name: &str) -> Vec<Secret> {
        let secrets = self.secrets(name);
        if secrets.is_empty() {
            self.problem(name, format_args!("missing; expected a secret, or several separated by commas"));
        }
        secrets
    }

    /// Notes a fault that concerns `name`, for rules between settings.
    pub fn problem(&mut self, name: &str, what: impl std::fmt::Display) {
        self.problems.push(format!("{name}: {what}"));
    }

    /// What was read, if nothing was wrong.
    ///
    /// # Errors
    /// Every problem noted so far, when there is one.
    pub fn finish<S>(self, make: impl FnOnce() -> Option<S>) -> Result<S, Problems> {
        let mut problems = self.problems;
        // One setting that two sections read is one problem.
        let mut seen = std::collections::HashSet::new();
        problems.retain(|line| seen.insert(line.clone()));
        match make() {
            Some(settings) if problems.is_empty() => Ok(settings),
            _ => Err(Problems(problems)),
        }
    }
}
