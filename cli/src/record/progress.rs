//! Shows on standard error how a recording goes: a moving line on a terminal, a plain line now and then elsewhere,
//! nothing while the guest owns the terminal.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{DecimalBytes, HumanCount, ProgressBar, ProgressStyle};

/// How often plain lines come.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Over how long the shown rate is averaged, at least.
const RATE_INTERVAL: Duration = Duration::from_secs(1);

/// The progress of one recording.
#[derive(Debug)]
pub struct Progress {
    display: Display,
    stop_after: Option<u64>,
    rate: Rate,
    /// What was to be said while the guest had the terminal.
    held_back: Vec<String>,
}

#[derive(Debug)]
enum Display {
    Bar(ProgressBar),
    Lines { last: Instant },
    Silent,
}

#[derive(Debug)]
struct Rate {
    since: Instant,
    instructions: u64,
    per_second: f64,
}

impl Progress {
    /// Starts to show progress; with `stop_after`, towards that number of instructions.
    pub fn new(stop_after: Option<u64>, terminal_belongs_to_guest: bool) -> Self {
        let display = if terminal_belongs_to_guest {
            Display::Silent
        } else if stderr().is_terminal() {
            let bar = stop_after.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
            let template =
                if stop_after.is_some() { "{bar:30} {percent:>3}%  {msg}" } else { "{spinner} {msg}" };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(200));
            Display::Bar(bar)
        } else {
            Display::Lines { last: Instant::now() }
        };
        let rate = Rate { since: Instant::now(), instructions: 0, per_second: 0.0 };
        Progress { display, stop_after, rate, held_back: Vec::new() }
    }

    /// Something other than recording goes on.
    pub fn phase(&mut self, what: &str) {
        if let Display::Bar(bar) = &self.display {
            bar.set_message(what.to_owned());
        }
    }

    /// So much was recorded.
    pub fn update(&mut self, instructions: u64, bytes: u64) {
        self.rate.update(Instant::now(), instructions);
        let text = format!(
            "{} instructions, {}/s, {}",
            HumanCount(instructions),
            metric(self.rate.per_second),
            DecimalBytes(bytes)
        );
        match &mut self.display {
            Display::Bar(bar) => {
                if self.stop_after.is_some() {
                    bar.set_position(instructions);
                }
                bar.set_message(text);
            }
            Display::Lines { last } if last.elapsed() >= LINE_INTERVAL => {
                *last = Instant::now();
                eprintln!("ktracer: {text}");
            }
            Display::Lines { .. } | Display::Silent => {}
        }
    }

    /// Tells the user something, as soon as the terminal is free.
    pub fn note(&mut self, text: &str) {
        match &self.display {
            Display::Bar(bar) => bar.suspend(|| eprintln!("ktracer: {text}")),
            Display::Lines { .. } => eprintln!("ktracer: {text}"),
            Display::Silent => self.held_back.push(text.to_owned()),
        }
    }

    /// Stops showing progress; QEMU still runs, or not.
    pub fn stop(&mut self) {
        if let Display::Bar(bar) = &self.display {
            bar.finish_and_clear();
            self.display = Display::Lines { last: Instant::now() };
        }
    }

    /// QEMU has ended, and the terminal is free.
    pub fn finish(mut self) {
        self.stop();
        if matches!(self.display, Display::Silent) {
            // The guest's console rarely ends with a whole line.
            eprintln!();
        }
        for text in self.held_back {
            eprintln!("ktracer: {text}");
        }
    }
}

impl Rate {
    fn update(&mut self, now: Instant, instructions: u64) {
        let elapsed = now.duration_since(self.since);
        if elapsed >= RATE_INTERVAL {
            self.per_second = instructions.saturating_sub(self.instructions) as f64 / elapsed.as_secs_f64();
            (self.since, self.instructions) = (now, instructions);
        }
    }
}

/// Three digits or so and a letter: `1.23 G`, `45.6 M`, `789 k`, `12`.
pub fn metric(number: f64) -> String {
    let (scaled, unit) = match number {
        n if n >= 0.9995e9 => (n / 1e9, " G"),
        n if n >= 0.9995e6 => (n / 1e6, " M"),
        n if n >= 0.9995e3 => (n / 1e3, " k"),
        n => return format!("{n:.0}"),
    };
    let decimals = match scaled {
        n if n >= 99.95 => 0,
        n if n >= 9.995 => 1,
        _ => 2,
    };
    format!("{scaled:.decimals$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let cases = [
            (0.0, "0"),
            (999.0, "999"),
            (999.9, "1.00 k"),
            (12_345.0, "12.3 k"),
            (999_999.0, "1.00 M"),
            (123_456_789.0, "123 M"),
            (3.32e9, "3.32 G"),
        ];
        for (number, text) in cases {
            assert_eq!(metric(number), text);
        }
    }

    #[test]
    fn the_rate_is_that_of_the_last_stretch() {
        let start = Instant::now();
        let mut rate = Rate { since: start, instructions: 0, per_second: 0.0 };
        rate.update(start + Duration::from_secs(2), 100);
        assert_eq!(rate.per_second, 50.0);
        rate.update(start + Duration::from_millis(2500), 1_000_000);
        assert_eq!(rate.per_second, 50.0);
        rate.update(start + Duration::from_secs(4), 300);
        assert_eq!(rate.per_second, 100.0);
    }
}
