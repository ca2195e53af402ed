//! The line of a run that moves: what fits the width of the terminal, the most important first.

use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use console::{Term, measure_text_width, style};
use ibot::memory::in_gib;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::duration::clock;
use super::screen::{dim, good, warning};

/// Time between two drawings where nothing happens.
const TICK: Duration = Duration::from_millis(500);
/// Cells of the bar, where there is room.
const CELLS: usize = 20;
/// Cells that a bar has before the less important parts, in a terminal of so many columns.
const FIRST_CELLS: (usize, usize) = (10, 60);

/// What is known of a run.
#[derive(Debug, Clone)]
pub struct Shown {
    pub step: usize,
    pub steps: usize,
    /// Steps made before this process.
    pub made: usize,
    pub started: Instant,
    pub loss: Option<f64>,
    pub images_per_s: Option<f64>,
    pub memory_bytes: Option<u64>,
    /// Whether steps wait for an evaluation.
    pub is_evaluating: bool,
    /// Whether the last health check found nothing; none before the first one.
    pub is_healthy: Option<bool>,
    /// When the newest step was made.
    newest: Instant,
}

impl Shown {
    pub fn new(steps: usize, made: usize) -> Self {
        Self {
            step: made,
            steps,
            made,
            started: Instant::now(),
            loss: None,
            images_per_s: None,
            memory_bytes: None,
            is_evaluating: false,
            is_healthy: None,
            newest: Instant::now(),
        }
    }

    /// Takes over that so many steps are made.
    pub fn reached(&mut self, step: usize) {
        (self.step, self.newest) = (step, Instant::now());
    }

    /// Seconds that the remaining steps take, by the pace of those that this process made; they count down during a step.
    pub fn remaining_s(&self) -> Option<f64> {
        let own = self.step.checked_sub(self.made).filter(|own| *own > 0)?;
        let left = self.steps.saturating_sub(self.step) as f64;
        let taken = self.newest.saturating_duration_since(self.started);
        let all = taken.as_secs_f64() * left / own as f64;
        Some((all - self.newest.elapsed().as_secs_f64()).max(0.0))
    }

    /// Parts of the line beside the bar, the most important first, and the place of each in it.
    fn parts(&self) -> Vec<(usize, String)> {
        let elapsed = self.started.elapsed().as_secs_f64();
        let mut parts = vec![(0, format!("{}/{}", self.step, self.steps))];
        parts.extend(self.loss.map(|loss| (1, format!("loss {loss:.3}"))));
        match self.remaining_s() {
            _ if self.is_evaluating => parts.push((3, "evaluating".to_owned())),
            Some(left) => parts.push((3, format!("{} left", clock(left)))),
            None => parts.push((3, dim("starting"))),
        }
        let speed = self.images_per_s.map(|speed| format!("{speed:.1} img/s"));
        parts.extend(speed.map(|speed| (2, speed)));
        parts.push((4, dim(clock(elapsed))));
        parts.extend(self.is_healthy.map(|is_healthy| {
            if is_healthy {
                (6, good("healthy"))
            } else {
                (6, warning("unhealthy"))
            }
        }));
        parts.extend(self.memory_bytes.map(|size| (5, dim(in_gib(size)))));
        parts
    }

    /// The line in so many columns.
    fn line(&self, columns: usize) -> String {
        // a run may have made more steps than it is asked for now
        let share = (self.step as f64 / self.steps.max(1) as f64).min(1.0);
        let percent = format!("{:3.0} %", 100.0 * share);
        // the last column stays free: a full line wraps on some terminals
        let mut room = columns.saturating_sub(1 + measure_text_width(&percent));
        let first = if columns >= FIRST_CELLS.1 {
            1 + FIRST_CELLS.0
        } else {
            0
        };
        let mut kept: Vec<(usize, String)> = Vec::new();
        for (place, part) in self.parts() {
            let width = 2 + measure_text_width(&part);
            if width + first > room {
                break;
            }
            room -= width;
            kept.push((place, part));
        }
        kept.sort_by_key(|(place, _)| *place);
        let mut line = percent;
        if let Some(cells) = room
            .checked_sub(1)
            .map(|room| room.min(CELLS))
            .filter(|it| *it > 4)
        {
            let full = (share * cells as f64) as usize;
            let (done, open) = ("█".repeat(full), "░".repeat(cells - full));
            line = format!("{line} {}{}", style(done).cyan(), dim(open));
        }
        for (_, part) in kept {
            line = line + "  " + &part;
        }
        line
    }
}

/// Something that turns until the first step is near; drawn on stdout.
pub fn spinner(text: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(text.to_owned());
    bar.set_draw_target(ProgressDrawTarget::stdout());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(TICK / 5);
    bar
}

/// The bar of a run, which draws what `shown` holds.
pub fn bar(shown: &Arc<Mutex<Shown>>) -> ProgressBar {
    let bar = ProgressBar::new(0);
    bar.set_draw_target(ProgressDrawTarget::stdout());
    let shown = shown.clone();
    let line = move |_: &ProgressState, to: &mut dyn Write| {
        let columns = usize::from(Term::stdout().size().1);
        let shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = to.write_str(&shown.line(columns));
    };
    if let Ok(style) = ProgressStyle::with_template("{line}") {
        bar.set_style(style.with_key("line", line));
    }
    bar.enable_steady_tick(TICK);
    bar
}

/// A bar over so many images, drawn on stderr.
pub fn images_bar(images: usize) -> ProgressBar {
    let bar = ProgressBar::new(images as u64);
    bar.set_draw_target(ProgressDrawTarget::stderr());
    let line = |state: &ProgressState, to: &mut dyn Write| {
        let columns = usize::from(Term::stderr().size().1);
        let now = Instant::now();
        let shown = Shown {
            step: state.pos() as usize,
            started: now.checked_sub(state.elapsed()).unwrap_or(now),
            images_per_s: (state.pos() > 0).then(|| state.per_sec()),
            ..Shown::new(state.len().unwrap_or_default() as usize, 0)
        };
        let _ = to.write_str(&shown.line(columns));
    };
    if let Ok(style) = ProgressStyle::with_template("{line}") {
        bar.set_style(style.with_key("line", line));
    }
    bar.enable_steady_tick(TICK);
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_fits_every_width_and_keeps_what_matters() {
        let mut shown = Shown::new(93_600, 0);
        shown.step = 11_232;
        (shown.loss, shown.images_per_s) = (Some(3.912), Some(178.25));
        (shown.memory_bytes, shown.is_healthy) = (Some(6_000_000_000), Some(true));
        for columns in 20..200 {
            let line = shown.line(columns);
            assert!(measure_text_width(&line) < columns, "{columns}: {line}");
        }
        for columns in 20..200 {
            let line = Shown::new(50, 100).line(columns);
            assert!(line.starts_with("100 %"), "{columns}: {line}");
        }
        let narrow = shown.line(60);
        for part in ["12 %", "11232/93600", "loss 3.912", "left"] {
            assert!(narrow.contains(part), "{part}: {narrow}");
        }
        let wide = shown.line(100);
        for part in ["178.2 img/s", "healthy", "5.6 GiB", "█"] {
            assert!(wide.contains(part), "{part}: {wide}");
        }
    }
}
