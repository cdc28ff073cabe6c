//! Whether the services grow: their own memory over a long run.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::processes::{by_child, list, own_memory_kib};

/// Time between two readings.
const INTERVAL: Duration = Duration::from_secs(10);

/// The memory of every process that the launcher keeps, over time.
#[derive(Debug, Default)]
pub struct Memory(BTreeMap<(String, u32), Vec<Reading>>);

#[derive(Debug, Clone, Copy)]
struct Reading {
    at_s: f64,
    kib: f64,
}

/// How the memory of one process went.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Course {
    /// Its program.
    pub name: String,
    /// At the end, MB.
    pub last_mb: f64,
    /// The straight line through all readings after the warm-up (least squares), MB an hour.
    pub slope_mb_per_hour: f64,
}

impl Memory {
    /// Reads it for ever.
    pub async fn watch(&mut self, launcher: u32) {
        let begun = Instant::now();
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            self.read(launcher, begun.elapsed().as_secs_f64());
        }
    }

    fn read(&mut self, launcher: u32, at_s: f64) {
        let processes = list().unwrap_or_default();
        let mut sums: BTreeMap<(String, u32), f64> = BTreeMap::new();
        for (child, process) in by_child(&processes, launcher, std::process::id()) {
            let kib = own_memory_kib(process.id).unwrap_or(0);
            *sums.entry((child.name.clone(), child.id)).or_default() += kib as f64;
        }
        for (child, kib) in sums {
            self.0.entry(child).or_default().push(Reading { at_s, kib });
        }
    }

    /// How each process went from `warm` on. One that was not there at the end is left out.
    pub fn courses(&self, warm: Duration) -> Vec<Course> {
        let end =
            self.0.values().filter_map(|readings| readings.last()).map(|last| last.at_s).fold(0.0, f64::max);
        let alive =
            self.0.iter().filter_map(|((name, _), readings)| Some((name, readings, readings.last()?)));
        alive
            .filter(|(_, _, last)| last.at_s >= end)
            .map(|(name, readings, last)| Course {
                name: name.clone(),
                last_mb: last.kib / 1024.0,
                slope_mb_per_hour: slope(readings, warm.as_secs_f64()) * 3600.0 / 1024.0,
            })
            .collect()
    }
}

/// KiB a second of the readings from `warm_s` on.
fn slope(readings: &[Reading], warm_s: f64) -> f64 {
    let warm: Vec<Reading> = readings.iter().copied().filter(|reading| reading.at_s >= warm_s).collect();
    let count = warm.len().max(1) as f64;
    let mean_s = warm.iter().map(|reading| reading.at_s).sum::<f64>() / count;
    let mean_kib = warm.iter().map(|reading| reading.kib).sum::<f64>() / count;
    let (mut both, mut squares) = (0.0, 0.0);
    for reading in &warm {
        both += (reading.at_s - mean_s) * (reading.kib - mean_kib);
        squares += (reading.at_s - mean_s).powi(2);
    }
    if squares > 0.0 { both / squares } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_course_is_a_line_after_the_warm_up() {
        let mut memory = Memory::default();
        for second in 0..100 {
            let at_s = f64::from(second);
            // 2 KiB a second, after a start that is no line.
            let kib = if second < 10 { 5000.0 } else { 100.0 + 2.0 * at_s };
            memory.0.entry(("edge".to_owned(), 1)).or_default().push(Reading { at_s, kib });
        }
        memory.0.entry(("killed".to_owned(), 2)).or_default().push(Reading { at_s: 5.0, kib: 1.0 });
        let courses = memory.courses(Duration::from_secs(10));
        assert_eq!(courses.len(), 1);
        assert!((courses[0].slope_mb_per_hour - 2.0 * 3600.0 / 1024.0).abs() < 1e-9, "{courses:?}");
        assert!((courses[0].last_mb - 298.0 / 1024.0).abs() < 1e-9, "{courses:?}");
        assert_eq!(slope(&[], 0.0), 0.0);
    }
}
