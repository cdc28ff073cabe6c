use serde::Deserialize;

use crate::processes::{list, signal};

/// What is done to a service.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// When, seconds from the beginning.
    pub at_s: u32,
    /// The name of its program; of several, the one that has run longest.
    pub process: String,
    /// What is done.
    pub does: Blow,
}

/// What can be done to a process. The launcher starts it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blow {
    /// It is gone at once (KILL).
    Kill,
    /// It is asked to end (TERM), and finishes what it has to.
    End,
    /// Postgres' fast shutdown (INT): it sends its clients away.
    Interrupt,
}

impl Blow {
    /// Its signal, by number (signal(7)).
    const fn signal(self) -> u8 {
        match self {
            Self::Kill => 9,
            Self::End => 15,
            Self::Interrupt => 2,
        }
    }
}

/// Does it to a child of `launcher`; what was done, in words.
pub fn strike(fault: &Fault, launcher: Option<u32>) -> Result<String, String> {
    let Fault { at_s, process: name, does } = fault;
    let processes = list().unwrap_or_default();
    let child = launcher.and_then(|launcher| {
        let children = processes.iter().filter(|process| process.parent == launcher && process.name == *name);
        children.min_by_key(|process| process.id)
    });
    match child {
        Some(child) if signal(child.id, does.signal()) => {
            Ok(format!("{at_s} s: {name} ({}): {does:?}", child.id))
        }
        _ => Err(format!("{at_s} s: there was no {name} to {does:?}")),
    }
}
