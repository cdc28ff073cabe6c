//! Processor time of the services, by process, as `/proc` counts it (proc_pid_stat(5), proc_stat(5)).

use std::{collections::BTreeMap, fs, time::Instant};

use crate::processes::{Process, by_child, list};

/// Ticks in a second: `USER_HZ`, 100 on every architecture that Parley runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor time used until a moment, in ticks.
#[derive(Debug, Clone)]
pub struct Used {
    at: Instant,
    /// By the launcher's children, each with all its descendants, also those that ended and were waited for.
    children: BTreeMap<String, u64>,
    /// By this process.
    own: u64,
    /// By the whole machine.
    machine: u64,
}

/// Processor time between two moments, in seconds where nothing else is said.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Spent {
    /// By each service, store and proxy.
    pub services: BTreeMap<String, f64>,
    /// By this process.
    pub own: f64,
    /// How many processors anything else on the machine kept busy on average.
    pub others_cores: f64,
}

/// What was used until now by the children of `launcher`; `None` where there is no `/proc`.
pub fn used(launcher: Option<u32>) -> Option<Used> {
    let machine = machine_ticks(&fs::read_to_string("/proc/stat").ok()?)?;
    let own = std::process::id();
    let processes = list()?;
    let own_ticks = processes.iter().find(|process| process.id == own).map_or(0, |process| process.ticks);
    let children = launcher.map(|launcher| children(&processes, launcher, own)).unwrap_or_default();
    Some(Used { at: Instant::now(), children, own: own_ticks, machine })
}

/// What was spent from `before` to `after`.
pub fn spent(before: &Used, after: &Used) -> Spent {
    let seconds = |from: u64, to: u64| to.saturating_sub(from) as f64 / TICKS_PER_SECOND;
    let services: BTreeMap<String, f64> = after
        .children
        .iter()
        .map(|(name, &to)| (name.clone(), seconds(before.children.get(name).copied().unwrap_or(0), to)))
        .collect();
    let own = seconds(before.own, after.own);
    let others = seconds(before.machine, after.machine) - services.values().sum::<f64>() - own;
    let wall = after.at.duration_since(before.at).as_secs_f64();
    Spent { services, own, others_cores: others.max(0.0) / wall.max(f64::MIN_POSITIVE) }
}

/// The ticks of the children of `launcher`, by name, each with its descendants.
fn children(processes: &[Process], launcher: u32, own: u32) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for (child, process) in by_child(processes, launcher, own) {
        *sums.entry(child.name.clone()).or_insert(0) += process.ticks;
    }
    sums
}

/// The ticks of all processors in `/proc/stat` that were not idle: user, nice, system, irq, softirq, steal.
fn machine_ticks(stat: &str) -> Option<u64> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = fields.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, steal] = ticks.first_chunk()?;
    Some(user + nice + system + irq + softirq + steal)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_processors_are_read() {
        assert_eq!(machine_ticks("cpu  1 2 4 1000 1000 8 16 32 0 0\ncpu0 9"), Some(63));
        assert_eq!(machine_ticks("cpu  1 2"), None);
    }

    #[test]
    fn what_is_spent_is_the_difference() {
        let begun = Instant::now();
        let used = |seconds, postgres, own, machine| Used {
            at: begun + Duration::from_secs(seconds),
            children: BTreeMap::from([("postgres".to_owned(), postgres)]),
            own,
            machine,
        };
        let spent = spent(&used(0, 100, 10, 1000), &used(2, 250, 30, 1500));
        assert_eq!(spent.services, BTreeMap::from([("postgres".to_owned(), 1.5)]));
        assert!((spent.own - 0.2).abs() < 1e-9 && (spent.others_cores - 1.65).abs() < 1e-9);
    }

    #[test]
    fn this_machine_is_read() {
        let used = used(None).unwrap();
        assert!(used.machine > 0 && used.children.is_empty());
    }
}
