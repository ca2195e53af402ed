//! A run on the terminal: a progress bar, or plain lines if stdout is a file or a pipe.

use std::path::Path;
use std::time::{Duration, Instant};

use ibot::error::{counted, printable};
use ibot::train::health::Anomaly;
use ibot::train::{Evaluation, Observer, RunStart, StepMetrics, When};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::flags::in_flags;
use super::output::say;

/// Shortest time between two plain lines.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
/// Weight of the past in the smoothed losses.
const SMOOTHING: f64 = 0.95;

/// Prints the events of a run.
pub struct Progress {
    bar: ProgressBar,
    is_terminal: bool,
    steps: usize,
    made: usize,
    epochs: usize,
    started: Instant,
    last_line: Option<Instant>,
    smooth: Option<[f64; 4]>,
}

impl Progress {
    /// A progress bar if `is_terminal`, else lines.
    pub fn new(is_terminal: bool) -> Self {
        Self {
            bar: ProgressBar::hidden(),
            is_terminal,
            steps: 0,
            made: 0,
            epochs: 0,
            started: Instant::now(),
            last_line: None,
            smooth: None,
        }
    }

    fn line(&self, text: &str) {
        self.bar.suspend(|| say(text));
    }

    fn smoothed(&mut self, metrics: &StepMetrics) -> [f64; 4] {
        let now = [
            f64::from(metrics.losses.loss),
            f64::from(metrics.losses.loss_cls),
            f64::from(metrics.losses.loss_patch),
            metrics.images_per_s,
        ];
        let mut smooth = self.smooth.unwrap_or(now);
        for (smooth, now) in smooth.iter_mut().zip(now) {
            *smooth = *smooth * SMOOTHING + now * (1.0 - SMOOTHING);
        }
        self.smooth = Some(smooth);
        smooth
    }

    fn remaining(&self, step: usize) -> Duration {
        let own = step.saturating_sub(self.made).max(1);
        let left = self.steps.saturating_sub(step) as f64 / own as f64;
        Duration::from_secs_f64((self.started.elapsed().as_secs_f64() * left).round())
    }
}

impl Observer for Progress {
    fn note(&mut self, line: &str) {
        self.line(&in_flags(line));
    }

    fn started(&mut self, start: &RunStart) {
        self.line(&format!(
            "run {}: {}, {}, {:.1} M trained parameters",
            printable(&start.out),
            counted(start.steps, "step"),
            counted(start.epochs, "epoch"),
            start.parameters as f64 / 1e6
        ));
        (self.steps, self.made) = (start.steps, start.made);
        (self.epochs, self.started) = (start.epochs, Instant::now());
        if self.is_terminal {
            self.bar = ProgressBar::new(start.steps as u64).with_position(start.made as u64);
            self.bar.set_draw_target(ProgressDrawTarget::stdout());
            if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} {msg} ETA {eta}")
            {
                self.bar.set_style(style);
            }
        }
    }

    fn step(&mut self, metrics: &StepMetrics) {
        let [loss, cls, patch, images_per_s] = self.smoothed(metrics);
        let text = format!(
            "epoch {}/{} loss {loss:.4} cls {cls:.4} patch {patch:.4} {images_per_s:.1} images/s",
            metrics.rates.epoch + 1,
            self.epochs
        );
        if self.is_terminal {
            self.bar.set_message(text);
            self.bar.set_position(metrics.step as u64);
            return;
        }
        let due = self
            .last_line
            .is_none_or(|last| last.elapsed() >= LINE_INTERVAL);
        if due || metrics.step == self.steps {
            self.last_line = Some(Instant::now());
            let eta = self.remaining(metrics.step);
            say(format_args!(
                "step {}/{} {text} ETA {eta:?}",
                metrics.step, self.steps
            ));
        }
    }

    fn evaluated(&mut self, when: When, evaluation: &Evaluation) {
        if let Some((knn, queries)) = evaluation.knn.zip(evaluation.queries) {
            let percent = 100.0 * knn;
            self.line(&format!(
                "k-NN accuracy of the teacher {when}: {percent:.1} % of {queries} test images"
            ));
        }
        if let (When::After, Some(rank), Some(std)) =
            (when, evaluation.rank_me, evaluation.feature_std)
        {
            let sample = evaluation.sample;
            self.line(&format!(
                "feature rank (RankMe, {sample} images): {rank:.1}; feature std {std:.2}"
            ));
        }
    }

    fn anomalies(&mut self, step: usize, found: &[Anomaly]) {
        for anomaly in found {
            self.line(&in_flags(&format!("WARNING step {step}: {anomaly}")));
        }
    }

    fn finished(&mut self, out: &Path) {
        self.bar.finish_and_clear();
        say(format_args!(
            "done in {:.0} s: {}",
            self.started.elapsed().as_secs_f64(),
            printable(out.join("teacher.safetensors"))
        ));
    }
}
