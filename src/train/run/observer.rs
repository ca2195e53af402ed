//! The events of a run, for an observer: a terminal, a test, a desktop app.

use std::path::{Path, PathBuf};

use crate::data::ScanSummary;
use crate::device::Selected;
use crate::error::printable;
use crate::train::health::Anomaly;
use crate::train::run::evaluation::{Evaluation, EvaluationTime};
use crate::train::run::metrics::StepMetrics;
use crate::train::run::patches::PatchColors;

/// A run before its first step.
#[derive(Debug, Clone)]
pub struct RunStart {
    /// Steps of the run.
    pub steps: usize,
    /// The step that it starts from: the steps done before, 0 of a new run.
    pub start_step: usize,
    /// Epochs of the run.
    pub epochs: usize,
    /// Steps of each.
    pub steps_per_epoch: usize,
    /// Images of the folder.
    pub images: usize,
    /// Parameters that the optimizer trains.
    pub parameters: usize,
    /// The run folder.
    pub out: PathBuf,
}

/// Receives the events of a run; each does nothing unless overridden.
pub trait Observer {
    /// A log line: the backend, a skipped image.
    fn note(&mut self, _line: &str) {}

    /// The device was opened.
    fn device(&mut self, selected: &Selected) {
        self.note(&selected.to_string());
    }

    /// The images were found, in these folders, files and lists.
    fn scanned(&mut self, sources: &[PathBuf], found: &ScanSummary) {
        let sources: Vec<String> = sources.iter().map(printable).collect();
        self.note(&format!("data {}: {found}", sources.join(", ")));
    }

    /// A part of the images is held out.
    fn held_out(&mut self, held_out: usize, kept: usize) {
        self.note(&format!(
            "{held_out} images are held out for evaluation; {kept} are trained on"
        ));
    }

    /// The first step is about to run.
    fn started(&mut self, _start: &RunStart) {}

    /// A step is done.
    fn step(&mut self, _metrics: &StepMetrics) {}

    /// The teacher is about to be evaluated, which takes a forward pass of many images.
    fn evaluating(&mut self, _when: EvaluationTime) {}

    /// The teacher was evaluated.
    fn evaluated(&mut self, _when: EvaluationTime, _evaluation: &Evaluation) {}

    /// New anomalies, such as a collapse.
    fn anomalies(&mut self, _step: usize, _found: &[Anomaly]) {}

    /// The run went back to a checkpoint.
    fn rolled_back(&mut self, _to: usize) {}

    /// A checkpoint of this step was copied to the host; it is written in the background.
    fn checkpoint(&mut self, _step: usize) {}

    /// Called after each read of metrics (`metrics_every` steps, or a second), before the run checks whether to stop. The run
    /// waits until this returns.
    fn between_steps(&mut self, _step: usize) {}

    /// Whether to call [`Observer::patches`], which costs a forward pass of a few images, after this step; the step may end
    /// an epoch.
    fn wants_patches(&self, _ends_epoch: bool) -> bool {
        false
    }

    /// A few training images, at least one, each with its patch features of the teacher as colors.
    fn patches(&mut self, _step: usize, _images: &[PatchColors]) {}

    /// The run is over; its files are written.
    fn finished(&mut self, _out: &Path) {}
}

/// An observer that ignores all events.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoObserver;

impl Observer for NoObserver {}
