//! The events and results of fine-tuning.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::finetune::trainer::ClassifierStep;

/// A run before its first step.
#[derive(Debug, Clone)]
pub struct FinetuneStart {
    /// Steps of the run.
    pub steps: usize,
    /// Steps that were made before; 0 for a run that begins.
    pub made: usize,
    /// Epochs of the run.
    pub epochs: usize,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Images to train on.
    pub images: usize,
    /// Images that are held out.
    pub held_out: usize,
    /// Parameters that the optimizer trains.
    pub parameters: usize,
    /// The run folder.
    pub out: PathBuf,
}

/// One line of `metrics.jsonl`: an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EpochMetrics {
    /// Epochs made, this one included.
    pub epoch: usize,
    /// Steps made.
    pub step: usize,
    /// Mean loss of the images, against smoothed labels.
    pub loss: f64,
    /// Training accuracy: fraction of the images whose class was the first guess, on random crops and before each step.
    pub train_accuracy: f64,
    /// Share of the held-out images whose class is the first guess.
    pub top1: f64,
    /// Share of them whose class is among the first five guesses.
    pub top5: f64,
    /// How many of them could be read.
    pub tested: usize,
    /// Share of the held-out images in their most frequent class: what always guessing that one is right on. 0 in runs of earlier
    /// versions.
    #[serde(default)]
    pub most_frequent_class: f64,
    /// Learning rate of the last step.
    pub learning_rate: f64,
    /// Images per second while training, waiting for data included.
    pub images_per_s: f64,
    /// Seconds of the epoch, the held-out images included.
    pub epoch_s: f64,
}

/// An exported classifier.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Exported {
    /// The file.
    #[serde(serialize_with = "crate::path_text::serialize")]
    pub file: PathBuf,
    /// Epochs made.
    pub epoch: usize,
    /// [`EpochMetrics::top1`] of that epoch.
    pub top1: f64,
    /// 95 % interval of it (Wilson). Of the best epoch it is too high: it was chosen by these images.
    pub top1_interval: [f64; 2],
    /// [`EpochMetrics::top5`].
    pub top5: f64,
}

/// Results of a complete run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FinetuneReport {
    /// Names of the classes, in the order of the head.
    pub classes: Vec<String>,
    /// Images trained on.
    pub images: usize,
    /// Images held out.
    pub held_out: usize,
    /// Each epoch.
    pub epochs: Vec<EpochMetrics>,
    /// The first of the epochs with the highest `top1`.
    pub best: Exported,
    /// The last epoch.
    pub last: Exported,
}

/// Receives the events of a run; each does nothing unless overridden.
pub trait FinetuneObserver {
    /// A log line: the backend, a skipped image.
    fn note(&mut self, _line: &str) {}

    /// The first step is about to run.
    fn started(&mut self, _start: &FinetuneStart) {}

    /// A step is done.
    fn step(&mut self, _steps: usize, _measured: &ClassifierStep) {}

    /// An epoch is done, and measured.
    fn epoch(&mut self, _metrics: &EpochMetrics) {}
}

/// An observer that ignores all events.
impl FinetuneObserver for crate::train::NoObserver {}
