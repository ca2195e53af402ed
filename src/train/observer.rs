//! What a run tells whoever watches it: a terminal, a test, a desktop app.

use std::path::Path;

use super::StepMetrics;

/// A run before its first step.
#[derive(Debug, Clone)]
pub struct RunStart<'a> {
    /// Steps of the run.
    pub steps: usize,
    /// Epochs of the run.
    pub epochs: usize,
    /// Pictures of the folder.
    pub pictures: usize,
    /// Parameters that the optimizer trains.
    pub parameters: usize,
    /// The run folder.
    pub out: &'a Path,
}

/// Receives the events of a run; each does nothing unless overridden.
pub trait Observer {
    /// Something worth a line: the backend, a skipped picture.
    fn note(&mut self, _line: &str) {}

    /// The first step is about to run.
    fn started(&mut self, _start: &RunStart<'_>) {}

    /// A step is done.
    fn step(&mut self, _metrics: &StepMetrics) {}

    /// The teacher was evaluated: share of the test pictures that k-NN puts into their class.
    fn knn(&mut self, _when: &str, _accuracy: f64, _queries: usize) {}

    /// The run is over; its files are written.
    fn finished(&mut self, _out: &Path) {}
}

/// Watches nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {}
