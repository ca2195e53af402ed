//! A run on the terminal: a progress bar, or plain lines if stdout is a file or a pipe.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ibot::data::ScanSummary;
use ibot::device::Selected;
use ibot::error::printable;
use ibot::memory::in_gib;
use ibot::train::health::Anomaly;
use ibot::train::{Evaluation, EvaluationTime, Observer, RunRecord, RunStart, StepMetrics};
use indicatif::ProgressBar;

use super::bar::{Shown, bar, spinner};
use super::duration::{clock, in_words};
use super::flags::in_flags;
use super::next::{next_commands, teacher_to_use};
use super::opening::{Opening, titled};
use super::output::{say, warn};
use super::python::folder_in_python;
use super::screen::{is_quiet, warning};

/// Shortest and longest time between two lines of a log. In between, a line is printed after 1 / `LINE_SHARE` of the elapsed time.
const LINE_INTERVAL: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
const LINE_SHARE: u32 = 20;
/// Weight of the past in the smoothed losses.
const SMOOTHING: f64 = 0.95;
/// Steps and seconds before the length of the run is told: the first step compiles kernels.
const TIMED: (usize, f64) = (3, 10.0);
/// A run that takes less gets no line about that.
const SHORT_S: f64 = 60.0;
/// A run that takes more is said to be long.
const LONG_S: f64 = 2.0 * 86_400.0;

/// Prints the events of a run.
pub struct Progress {
    opening: Opening,
    bar: ProgressBar,
    is_terminal: bool,
    shown: Arc<Mutex<Shown>>,
    sources: Vec<PathBuf>,
    /// What was found, until it is known what is held out.
    found: Option<ScanSummary>,
    has_classes: bool,
    began: Instant,
    /// Seconds of the first step.
    first_s: Option<f64>,
    /// Steps after the first ones, and their seconds.
    timed: (usize, f64),
    is_timed: bool,
    last_line: Option<Instant>,
    /// k-NN accuracy before training, and of how many images.
    before: Option<(f64, usize)>,
    after: Option<Evaluation>,
}

impl Progress {
    /// A progress bar if `is_terminal`, else lines.
    pub fn new(opening: Opening, is_terminal: bool) -> Self {
        let is_terminal = is_terminal && !is_quiet();
        let bar = if is_terminal {
            spinner("preparing")
        } else {
            ProgressBar::hidden()
        };
        Self {
            opening,
            bar,
            is_terminal,
            shown: Arc::new(Mutex::new(Shown::new(0, 0))),
            sources: Vec::new(),
            found: None,
            has_classes: false,
            began: Instant::now(),
            first_s: None,
            timed: (0, 0.0),
            is_timed: false,
            last_line: None,
            before: None,
            after: None,
        }
    }

    fn line(&self, text: &str) {
        self.bar.suspend(|| say(text));
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say_data(&mut self, held_out: Option<usize>) {
        if let Some(found) = self.found.take() {
            self.line(&self.opening.data(&self.sources, &found, held_out));
        }
        self.bar.set_message("preparing the model");
    }

    /// Tells how long the run takes, once that is known.
    fn time(&mut self, metrics: &StepMetrics) {
        let step_s = metrics.step_s;
        // steps that are read together have one time, and the first ones compile kernels
        let is_first = *self.first_s.get_or_insert(step_s) == step_s;
        if self.timed.0 == 0 && is_first {
            return;
        }
        self.timed = (self.timed.0 + 1, self.timed.1 + step_s);
        let (steps, seconds) = self.timed;
        if self.is_timed || steps < TIMED.0 || seconds < TIMED.1 {
            return;
        }
        self.is_timed = true;
        let step_s = seconds / steps as f64;
        let left = self.shown().steps.saturating_sub(metrics.step);
        let left_s = step_s * left as f64;
        let text = format!("{} a step: {} to go", in_words(step_s), in_words(left_s));
        match left_s {
            ..SHORT_S => {}
            ..LONG_S => self.line(&titled("time", &text)),
            _ => self.line(&warning(format_args!(
                "WARNING {text}; fewer --epochs, a smaller --encoder or --image-size take less"
            ))),
        }
    }

    /// A line for a log, in which the bar cannot move.
    fn plain_line(&mut self, metrics: &StepMetrics) {
        let elapsed = self.began.elapsed();
        let interval = (elapsed / LINE_SHARE).clamp(LINE_INTERVAL.0, LINE_INTERVAL.1);
        let is_due = self.last_line.is_none_or(|last| last.elapsed() >= interval);
        let shown = self.shown().clone();
        if !is_due && metrics.step != shown.steps {
            return;
        }
        self.last_line = Some(Instant::now());
        let mut text = format!("step {}/{}", metrics.step, shown.steps);
        // as they are, so that they add up; the bar has a smoothed one
        let losses = &metrics.losses;
        let (loss, cls, patch) = (losses.loss, losses.loss_cls, losses.loss_patch);
        text += &format!("  loss {loss:.4} (cls {cls:.4}, patch {patch:.4})");
        if let Some(speed) = shown.images_per_s {
            text += &format!("  {speed:.1} images/s");
        }
        text += &format!("  {}", clock(shown.started.elapsed().as_secs_f64()));
        if let Some(left) = shown.remaining_s().filter(|_| metrics.step < shown.steps) {
            text += &format!(", {} left", clock(left));
        }
        text += &shown
            .memory_bytes
            .map_or_else(String::new, |size| format!("  {}", in_gib(size)));
        say(text);
    }

    /// What was learned, in words; none without an evaluation.
    fn learned(&self) -> Option<String> {
        let after = self.after.as_ref()?;
        let knn = after.knn.zip(after.queries).map(|(knn, queries)| {
            let before = self
                .before
                .map(|(before, _)| format!("{:.1} % -> ", 100.0 * before));
            let (before, now) = (before.unwrap_or_default(), 100.0 * knn);
            format!("k-NN accuracy {before}{now:.1} % of {queries} test images")
        });
        let rank = after.rank_me.map(|rank| {
            let sample = after.sample;
            format!("feature rank (RankMe) {rank:.1} on {sample} images")
        });
        let parts: Vec<String> = knn.into_iter().chain(rank).collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

impl Observer for Progress {
    fn note(&mut self, line: &str) {
        self.line(&in_flags(line));
    }

    fn device(&mut self, selected: &Selected) {
        self.line(&Opening::device(selected));
        self.bar.set_message("reading the headers of the images");
    }

    fn scanned(&mut self, sources: &[PathBuf], found: &ScanSummary) {
        self.sources = sources.to_vec();
        self.has_classes = !found.classes.is_empty();
        self.found = Some(found.clone());
        if self.opening.config.held_out.is_none() {
            self.say_data(None);
        }
    }

    fn held_out(&mut self, held_out: usize, _kept: usize) {
        self.say_data(Some(held_out));
    }

    fn started(&mut self, start: &RunStart) {
        self.line(&self.opening.model(start));
        self.line(&self.opening.run(start));
        if let Some((knn, queries)) = self.before {
            let percent = 100.0 * knn;
            let text =
                format!("k-NN accuracy before training: {percent:.1} % of {queries} test images");
            self.line(&titled("teacher", &text));
        }
        *self.shown() = Shown::new(start.steps, start.start_step);
        if self.is_terminal {
            self.bar.finish_and_clear();
            self.bar = bar(&self.shown);
        }
    }

    fn step(&mut self, metrics: &StepMetrics) {
        let smooth = |before: Option<f64>, now: f64| {
            before.map_or(now, |before| before * SMOOTHING + now * (1.0 - SMOOTHING))
        };
        let mut shown = self.shown();
        shown.reached(metrics.step);
        shown.loss = Some(smooth(shown.loss, f64::from(metrics.losses.loss)));
        shown.images_per_s = Some(smooth(shown.images_per_s, metrics.images_per_s));
        let memory = metrics.gpu_in_use_mib.or(metrics.resident_mib);
        shown.memory_bytes = memory.map(|mib| (mib * f64::from(1 << 20)) as u64);
        if metrics.health.is_some() {
            shown.is_healthy = Some(metrics.anomalies.is_empty());
        }
        drop(shown);
        if !self.is_terminal {
            self.plain_line(metrics);
        }
        self.time(metrics);
    }

    fn evaluating(&mut self, when: EvaluationTime) {
        // a log gets the result alone
        self.shown().is_evaluating = true;
        self.bar
            .set_message(format!("evaluating the teacher {when}"));
    }

    fn evaluated(&mut self, when: EvaluationTime, evaluation: &Evaluation) {
        self.shown().is_evaluating = false;
        match when {
            EvaluationTime::Before => self.before = evaluation.knn.zip(evaluation.queries),
            EvaluationTime::After => self.after = Some(evaluation.clone()),
            EvaluationTime::Epoch(_) => {
                if let Some((knn, queries)) = evaluation.knn.zip(evaluation.queries) {
                    let percent = 100.0 * knn;
                    self.line(&format!(
                        "k-NN accuracy of the teacher {when}: {percent:.1} % of {queries} test images"
                    ));
                }
            }
        }
    }

    fn anomalies(&mut self, step: usize, found: &[Anomaly]) {
        for anomaly in found {
            let text = in_flags(&format!("WARNING step {step}: {anomaly}"));
            if is_quiet() {
                warn(text);
            } else {
                self.line(&warning(text));
            }
        }
    }

    fn rolled_back(&mut self, to: usize) {
        self.shown().reached(to);
    }

    fn finished(&mut self, out: &Path) {
        self.bar.finish_and_clear();
        let seconds = self.began.elapsed().as_secs_f64();
        let model = teacher_to_use(out);
        let what = format!("in {}: {}", in_words(seconds), printable(&model));
        say(titled("done", &what));
        if let Some(learned) = self.learned() {
            say(titled("teacher", &learned));
        }
        say(folder_in_python(out));
        if let Some(first) = self.sources.first() {
            let record = RunRecord::read(out).ok().flatten();
            let val = record.and_then(|record| record.val);
            say(next_commands(
                out,
                &model,
                first,
                val.as_deref(),
                self.has_classes,
            ));
        }
    }
}

impl Drop for Progress {
    /// A run that ends with an error leaves no bar behind.
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
