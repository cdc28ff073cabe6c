//! Processor time of the services, by process, as `/proc` counts it (proc_pid_stat(5), proc_stat(5)).

use std::{collections::BTreeMap, fs, path::Path, time::Instant};

/// Ticks in a second: `USER_HZ`, 100 on every architecture that Parley runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Longest name that `/proc/PID/stat` gives.
const NAME_BYTES_MAX: usize = 15;

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

/// One process in `/proc`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    id: u32,
    parent: u32,
    name: String,
    /// Used by it and by its children that were waited for.
    ticks: u64,
}

/// The process id in a launcher's lock file.
pub fn launcher(lock: &Path) -> Option<u32> {
    let id = fs::read_to_string(lock).ok()?.trim().parse().ok()?;
    Path::new("/proc").join(u32::to_string(&id)).exists().then_some(id)
}

/// What was used until now by the children of `launcher`; `None` where there is no `/proc`.
pub fn used(launcher: Option<u32>) -> Option<Used> {
    let machine = machine_ticks(&fs::read_to_string("/proc/stat").ok()?)?;
    let own = std::process::id();
    let processes: Vec<Process> = fs::read_dir("/proc")
        .ok()?
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let id = path.file_name()?.to_str()?.parse().ok()?;
            // A process may end between the listing and this.
            let mut process = process(id, &fs::read_to_string(path.join("stat")).ok()?)?;
            if process.name.len() == NAME_BYTES_MAX {
                let command = fs::read(path.join("cmdline")).ok()?;
                process.name = full_name(&process.name, &command);
            }
            Some(process)
        })
        .collect();
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

/// The ticks of each child of `launcher` with its descendants, but for the child that this process descends from.
fn children(processes: &[Process], launcher: u32, own: u32) -> BTreeMap<String, u64> {
    let parents: BTreeMap<u32, u32> = processes.iter().map(|process| (process.id, process.parent)).collect();
    let child_above = |mut id: u32| {
        // A listing that was overtaken by events could go round in circles.
        for _ in 0..processes.len() {
            match parents.get(&id) {
                Some(&parent) if parent == launcher => return Some(id),
                Some(&parent) => id = parent,
                None => return None,
            }
        }
        None
    };
    let ours = child_above(own);
    let names: BTreeMap<u32, &str> =
        processes.iter().map(|process| (process.id, process.name.as_str())).collect();
    let mut sums = BTreeMap::new();
    for process in processes {
        let child = child_above(process.id).filter(|child| Some(*child) != ours);
        if let Some(name) = child.and_then(|child| names.get(&child)) {
            *sums.entry((*name).to_owned()).or_insert(0) += process.ticks;
        }
    }
    sums
}

/// Reads `/proc/PID/stat`. The name stands in brackets and may hold anything.
fn process(id: u32, stat: &str) -> Option<Process> {
    let (name, fields) = stat.split_once('(')?.1.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    // Counted from `state`, which is field 3: parent 4, utime 14, stime 15, cutime 16, cstime 17.
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let ticks = number(14)? + number(15)? + number(16)? + number(17)?;
    Some(Process { id, parent: u32::try_from(number(4)?).ok()?, name: name.to_owned(), ticks })
}

/// The name of the program where the kernel cut it.
fn full_name(cut: &str, command: &[u8]) -> String {
    let program = command.split(|&byte| byte == 0).next().unwrap_or_default();
    let program = String::from_utf8_lossy(program);
    let name = program.rsplit('/').next().unwrap_or_default();
    if name.starts_with(cut) { name.to_owned() } else { cut.to_owned() }
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
    fn a_line_of_proc_is_read_whatever_the_name() {
        let stat = "42 (nginx: (a) b) S 7 1 1 0 -1 4 5 6 7 8 100 20 3 4 20 0 1 0 99";
        let expected = Process { id: 42, parent: 7, name: "nginx: (a) b".to_owned(), ticks: 127 };
        assert_eq!(process(42, stat), Some(expected));
        for broken in ["", "42 nginx", "42 (nginx) S 7", "42 (nginx) S x 1 1 0 -1 4 5 6 7 8 a b c d"] {
            assert_eq!(process(42, broken), None, "{broken}");
        }
        assert_eq!(machine_ticks("cpu  1 2 4 1000 1000 8 16 32 0 0\ncpu0 9"), Some(63));
        assert_eq!(machine_ticks("cpu  1 2"), None);
    }

    #[test]
    fn cut_names_are_completed() {
        for (command, name) in [
            ("/a/b/transcription-worker\0--x", "transcription-worker"),
            ("postgres: writer", "transcription-w"),
            ("", "transcription-w"),
        ] {
            assert_eq!(full_name("transcription-w", command.as_bytes()), name);
        }
    }

    #[test]
    fn time_belongs_to_the_launchers_child_at_the_root() {
        let process = |id, parent, name: &str, ticks| Process { id, parent, name: name.to_owned(), ticks };
        let processes = [
            process(1, 0, "init", 1000),
            process(10, 1, "parley-up", 500),
            process(11, 10, "postgres", 1),
            process(12, 11, "postgres", 2),
            process(13, 12, "postgres", 4),
            process(14, 10, "ws-edge", 8),
            process(15, 10, "sh", 16),
            process(16, 15, "loadgen", 32),
            process(17, 1, "cargo", 64),
            process(18, 19, "gone", 128),
            process(20, 20, "circle", 256),
        ];
        let expected = BTreeMap::from([("postgres".to_owned(), 7), ("ws-edge".to_owned(), 8)]);
        assert_eq!(children(&processes, 10, 16), expected);
        assert_eq!(children(&processes, 99, 16), BTreeMap::new());
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
        assert_eq!(launcher(Path::new("/nowhere")), None);
    }
}
