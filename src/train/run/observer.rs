//! What a run tells whoever watches it: a terminal, a test, a desktop app.

use std::path::{Path, PathBuf};

use image::RgbImage;

use crate::train::health::Sickness;
use crate::train::run::evaluation::{Evaluation, When};
use crate::train::run::metrics::StepMetrics;

/// A run before its first step.
#[derive(Debug, Clone)]
pub struct RunStart {
    /// Steps of the run.
    pub steps: usize,
    /// Steps that were made before, where the run goes on.
    pub made: usize,
    /// Epochs of the run.
    pub epochs: usize,
    /// Steps of each.
    pub steps_per_epoch: usize,
    /// Pictures of the folder.
    pub pictures: usize,
    /// Parameters that the optimizer trains.
    pub parameters: usize,
    /// The run folder.
    pub out: PathBuf,
}

/// Receives the events of a run; each does nothing unless overridden.
pub trait Observer {
    /// Something worth a line: the backend, a skipped picture.
    fn note(&mut self, _line: &str) {}

    /// The first step is about to run.
    fn started(&mut self, _start: &RunStart) {}

    /// A step is done.
    fn step(&mut self, _metrics: &StepMetrics) {}

    /// The teacher was evaluated.
    fn evaluated(&mut self, _when: When, _evaluation: &Evaluation) {}

    /// The run is sick in a way that it was not before.
    fn sick(&mut self, _step: usize, _sick: &[Sickness]) {}

    /// The run went back to a checkpoint.
    fn rolled_back(&mut self, _to: usize) {}

    /// A checkpoint of this step is taken; it is written beside the training.
    fn checkpoint(&mut self, _step: usize) {}

    /// After each reading of metrics (`metrics_every` steps, or a second), before the run looks whether it is to stop: it
    /// stands still for as long as this takes.
    fn between_steps(&mut self, _step: usize) {}

    /// Whether [`Observer::patches`] is worth its forward of a few pictures after this step, which may end an epoch.
    fn wants_patches(&self, _ends_epoch: bool) -> bool {
        false
    }

    /// What the teacher's patches of a few training pictures look like: each picture beside the colors of its patches'
    /// three main directions.
    fn patches(&mut self, _step: usize, _picture: &RgbImage) {}

    /// The run is over; its files are written.
    fn finished(&mut self, _out: &Path) {}
}

/// Watches nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {}
