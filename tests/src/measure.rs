//! What the programs of `benches/` measure, and how they say it: one JSON object a line.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Instant;

use rustix::fs::{Advice, fadvise};
use serde_json::json;

/// What was measured of one thing, in milliseconds: by the clock, and of this process's processors' time.
#[derive(Debug, Default)]
pub struct Measured {
    times: Vec<f64>,
    processor: Option<f64>,
    note: Option<String>,
}

fn processor_ms() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1000.0 + time.tv_nsec as f64 / 1e6
}

/// Milliseconds since then.
pub fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

impl Measured {
    /// Does something, and takes how long that took, and how much processor time in this process.
    pub fn time<R>(&mut self, work: impl FnOnce() -> R) -> R {
        let (start, processor) = (Instant::now(), processor_ms());
        let result = work();
        self.times.push(milliseconds(start));
        *self.processor.get_or_insert_default() += processor_ms() - processor;
        result
    }

    /// Waits for what another process does, and takes how long that took.
    pub fn wait<R>(&mut self, work: impl FnOnce() -> R) -> R {
        let start = Instant::now();
        let result = work();
        self.times.push(milliseconds(start));
        result
    }

    /// Takes a time that somebody else measured.
    pub fn add(&mut self, milliseconds: f64) {
        self.times.push(milliseconds);
    }

    /// How many times were taken.
    pub fn count(&self) -> usize {
        self.times.len()
    }

    /// Milliseconds of all together.
    pub fn total(&self) -> f64 {
        self.times.iter().sum()
    }

    /// Says something more about them.
    pub fn note(&mut self, note: impl Into<String>) {
        self.note = Some(note.into());
    }

    /// Prints median, 99th percentile, worst, mean processor time (null, if another process did the work) and count.
    pub fn print(mut self, what: &str) {
        self.times.sort_by(f64::total_cmp);
        let count = self.times.len();
        let at = |share: f64| self.times.get((count.saturating_sub(1) as f64 * share).round() as usize);
        let line = json!({
            "what": what,
            "median_ms": at(0.5),
            "p99_ms": at(0.99),
            "worst_ms": at(1.0),
            "mean_processor_ms": self.processor.map(|processor| processor / count.max(1) as f64),
            "count": count,
            "note": self.note,
        });
        println!("{line}");
    }
}

/// Says what the lines that follow are about.
pub fn print_heading(text: &str) {
    println!("{}", json!({ "heading": text }));
}

/// The largest resident set of a process (`self` or its number) so far, in MiB, and what of the present one is not mapped from files.
pub fn memory(process: &str) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
    };
    (field("VmHWM:"), field("RssAnon:"))
}

/// Has the system forget what it keeps of the files in a directory in memory, as far as nobody has mapped them.
pub fn drop_cached(directory: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let file = File::open(entry?.path())?;
        if file.metadata()?.is_file() {
            // Only what is on the disk already can be dropped.
            file.sync_all()?;
            fadvise(&file, 0, None, Advice::DontNeed)?;
        }
    }
    Ok(())
}
