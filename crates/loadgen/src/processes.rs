//! The processes of this machine, as `/proc` lists them (proc_pid_stat(5), proc_pid_status(5)).

use std::{collections::BTreeMap, fs, path::Path, process::Command, time::Duration};

/// Longest name that `/proc/PID/stat` gives.
const NAME_BYTES_MAX: usize = 15;

/// One process in `/proc`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub id: u32,
    /// Who started it.
    pub parent: u32,
    /// The name of its program.
    pub name: String,
    /// Processor time used by it and by its children that were waited for, in ticks.
    pub ticks: u64,
}

/// The process id in a launcher's lock file.
pub fn launcher(lock: &Path) -> Option<u32> {
    let id = fs::read_to_string(lock).ok()?.trim().parse().ok()?;
    Path::new("/proc").join(u32::to_string(&id)).exists().then_some(id)
}

/// Every process; `None` where there is no `/proc`.
pub fn list() -> Option<Vec<Process>> {
    let entries = fs::read_dir("/proc").ok()?;
    let read = |entry: fs::DirEntry| {
        let path = entry.path();
        let id = path.file_name()?.to_str()?.parse().ok()?;
        // A process may end between the listing and this.
        let mut process = process(id, &fs::read_to_string(path.join("stat")).ok()?)?;
        if process.name.len() == NAME_BYTES_MAX {
            let command = fs::read(path.join("cmdline")).ok()?;
            process.name = full_name(&process.name, &command);
        }
        Some(process)
    };
    Some(entries.filter_map(|entry| read(entry.ok()?)).collect())
}

/// Every descendant of `launcher` with the child of it that it descends from, but for the child that this process
/// descends from.
pub fn by_child(processes: &[Process], launcher: u32, own: u32) -> Vec<(&Process, &Process)> {
    let by_id: BTreeMap<u32, &Process> = processes.iter().map(|process| (process.id, process)).collect();
    let child_above = |mut id: u32| {
        // A listing that was overtaken by events could go round in circles.
        for _ in 0..processes.len() {
            let process = *by_id.get(&id)?;
            if process.parent == launcher {
                return Some(process);
            }
            id = process.parent;
        }
        None
    };
    let ours = child_above(own).map(|child| child.id);
    let descendants = processes.iter().filter_map(|process| Some((child_above(process.id)?, process)));
    descendants.filter(|(child, _)| Some(child.id) != ours).collect()
}

/// Memory of a process that is its own and in RAM, in KiB: what was allocated, without files and without what
/// processes share, such as the buffers of Postgres.
pub fn own_memory_kib(id: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// Processor time that the threads of a process have used, to the nanosecond where the kernel counts so.
pub fn processor_time(id: u32) -> Option<Duration> {
    let tasks = fs::read_dir(format!("/proc/{id}/task")).ok()?;
    let used = tasks.filter_map(|task| {
        let stat = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        stat.split_whitespace().next()?.parse::<u64>().ok()
    });
    Some(Duration::from_nanos(used.sum()))
}

/// Sends a signal, by its number. Whether it went.
pub fn signal(id: u32, number: u8) -> bool {
    Command::new("kill")
        .args([format!("-{number}"), id.to_string()])
        .status()
        .is_ok_and(|status| status.success())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_proc_is_read_whatever_the_name() {
        let stat = "42 (nginx: (a) b) S 7 1 1 0 -1 4 5 6 7 8 100 20 3 4 20 0 1 0 99";
        let expected = Process { id: 42, parent: 7, name: "nginx: (a) b".to_owned(), ticks: 127 };
        assert_eq!(process(42, stat), Some(expected));
        for broken in ["", "42 nginx", "42 (nginx) S 7", "42 (nginx) S x 1 1 0 -1 4 5 6 7 8 a b c d"] {
            assert_eq!(process(42, broken), None, "{broken}");
        }
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
    fn a_process_belongs_to_the_launchers_child_at_the_root() {
        let process = |id, parent| Process { id, parent, name: String::new(), ticks: 0 };
        let processes = [
            process(1, 0),
            process(10, 1),
            process(11, 10),
            process(12, 11),
            process(13, 12),
            process(14, 10),
            process(15, 10),
            process(16, 15),
            process(17, 1),
            process(18, 19),
            process(20, 20),
        ];
        let ids = |launcher| -> Vec<(u32, u32)> {
            let found = by_child(&processes, launcher, 16);
            found.into_iter().map(|(child, process)| (child.id, process.id)).collect()
        };
        assert_eq!(ids(10), [(11, 11), (11, 12), (11, 13), (14, 14)]);
        assert_eq!(ids(99), []);
    }

    #[test]
    fn this_process_is_there() {
        let own = std::process::id();
        assert!(list().unwrap().iter().any(|process| process.id == own));
        assert!(own_memory_kib(own).unwrap() > 0);
        assert_eq!(launcher(Path::new("/nowhere")), None);
        assert!(signal(own, 0) && own_memory_kib(u32::MAX).is_none());
    }
}
