//! Reads settings from their layers and reports every fault at once.
//!
//! Layers, the later winning: the default at the call, `parley.toml` (or the file that `PARLEY_CONFIG` names),
//! the nearest `.parley/env` and `.env` from the working directory upward, the environment. One setting has one
//! name: `DATABASE_URL` in the environment and in `.env` is `database_url` in `parley.toml`.
//!
//! This changes when the way of finding settings does. It owns no section: a crate that needs settings reads its
//! own from a [`Reader`].

mod network;
mod reader;
mod secret;

use std::{collections::HashMap, fmt, path::Path};

pub use network::Network;
pub use reader::Reader;
pub use secret::Secret;

/// Exit code of a process whose settings are wrong (`EX_USAGE` of sysexits.h).
pub const EXIT_CODE: u8 = 64;

/// Everything that is wrong with the settings, one line each. Never holds a value that could be a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(Vec<String>);

impl Problems {
    /// The single problems.
    pub fn lines(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "{count} setting{} cannot be used:", if count == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

impl std::error::Error for Problems {}

/// The layers of this process, from the files and the environment.
///
/// # Errors
/// A file that is named but missing, or one that cannot be parsed.
pub fn load() -> Result<Reader, Problems> {
    let environment: HashMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let working_directory = std::env::current_dir().unwrap_or_default();
    load_from(&working_directory, environment)
}

/// The layers as a process would see them that runs in `working_directory` with this `environment`.
///
/// # Errors
/// As [`load`].
pub fn load_from(working_directory: &Path, environment: HashMap<String, String>) -> Result<Reader, Problems> {
    let mut problems = Vec::new();
    let mut layers = config::Config::builder();
    match environment.get("PARLEY_CONFIG").filter(|path| !path.is_empty()) {
        Some(path) => layers = layers.add_source(config::File::new(path, config::FileFormat::Toml)),
        None => {
            let path = working_directory.join("parley.toml");
            layers =
                layers.add_source(config::File::from(path).format(config::FileFormat::Toml).required(false));
        }
    }
    for file in [".parley/env", ".env"] {
        let Some(path) =
            working_directory.ancestors().map(|folder| folder.join(file)).find(|path| path.is_file())
        else {
            continue;
        };
        match read_env_file(&path) {
            Ok(pairs) => layers = layers.add_source(source(pairs)),
            Err(line) => problems.push(line),
        }
    }
    layers = layers.add_source(source(environment));
    match layers.build() {
        Ok(config) if problems.is_empty() => Ok(Reader::new(config)),
        Ok(_) => Err(Problems(problems)),
        Err(error) => {
            problems.push(format!("PARLEY_CONFIG or parley.toml: {error}"));
            Err(Problems(problems))
        }
    }
}

/// Only these names and values, for tests and for services that are started in another's process.
pub fn of<N: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (N, V)>) -> Reader {
    let pairs = pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    let config = config::Config::builder().add_source(source(pairs)).build();
    Reader::new(config.unwrap_or_default())
}

fn source(pairs: HashMap<String, String>) -> config::Environment {
    // An empty value is an unset one: compose files pass those for every variable that its user left out.
    config::Environment::default().ignore_empty(true).source(Some(pairs))
}

fn read_env_file(path: &Path) -> Result<HashMap<String, String>, String> {
    let unreadable = |error: dotenvy::Error| match error {
        // dotenvy's message quotes the line, which may hold a secret.
        dotenvy::Error::LineParse(_, column) => {
            format!("{}: a line cannot be parsed near column {column}", path.display())
        }
        other => format!("{}: {other}", path.display()),
    };
    dotenvy::from_path_iter(path).map_err(unreadable)?.collect::<Result<_, _>>().map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn later_layers_win_and_names_are_one() {
        let folder = std::env::temp_dir().join(format!("parley-settings-{}", std::process::id()));
        let inner = folder.join("a/b");
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::create_dir_all(folder.join(".parley")).unwrap();
        std::fs::write(inner.join("parley.toml"), "port = 1\nchat_port = 2\nws_port = 3\nmetrics_port = 9\n")
            .unwrap();
        std::fs::write(folder.join(".parley/env"), "CHAT_PORT=20\nWS_PORT=30\nPORT=10\n").unwrap();
        std::fs::write(folder.join("a/.env"), "WS_PORT=300\nPORT=100\n").unwrap();
        let mut reader = load_from(&inner, environment(&[("PORT", "1000"), ("WS_PORT", "")])).unwrap();
        let mut port = |name| reader.optional::<u16>(name, "a port");
        assert_eq!(port("PORT"), Some(1000));
        assert_eq!(port("WS_PORT"), Some(300));
        assert_eq!(port("CHAT_PORT"), Some(20));
        assert_eq!(port("METRICS_PORT"), Some(9));
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_named_file_that_is_missing_is_a_problem() {
        let problems =
            load_from(Path::new("/"), environment(&[("PARLEY_CONFIG", "/nowhere.toml")])).err().unwrap();
        assert!(problems.to_string().contains("PARLEY_CONFIG"), "{problems}");
    }

    #[test]
    fn every_problem_is_in_the_one_report() {
        let mut reader = of([("PORT", "many"), ("PARLEY_DEV", "perhaps")]);
        reader.or("PORT", 3001_u16, "a port number");
        reader.flag("PARLEY_DEV");
        let url = reader.required::<String>("DATABASE_URL", "postgres://user@host/database");
        let problems = reader.finish(|| url).unwrap_err();
        assert_eq!(problems.lines().len(), 3, "{problems}");
        assert!(problems.to_string().contains("PORT: expected a port number"));
        assert!(problems.to_string().contains("DATABASE_URL: missing; expected postgres://"));
        assert!(!problems.to_string().contains("many"), "values may be secrets");
    }
}
