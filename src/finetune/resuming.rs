//! Where an interrupted run resumes.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::data::{ImageSource as _, Position};
use crate::error::{Error, Result};
use crate::eval::wilson_interval;
use crate::files::checkpoint::{Checkpoint, FORMAT, Manifest};
use crate::finetune::config::FinetuneConfig;
use crate::finetune::labeled::LabeledImages;
use crate::finetune::observer::{EpochMetrics, Exported, FinetuneReport};
use crate::finetune::setup::Origin;
use crate::finetune::trainer::ClassifierTrainer;
use crate::kernels::TrainBackend;

/// The place in a run: epochs that are complete, and batches of the next one with what they measured.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Place {
    /// Complete epochs.
    pub epoch: usize,
    /// Batches of the next one that are done.
    pub batch: usize,
    /// Sums over their images.
    pub sums: Sums,
}

impl Place {
    /// The same for a loader.
    pub fn position(&self) -> Position {
        Position {
            epoch: self.epoch,
            batch: self.batch,
        }
    }
}

/// Sums over the images of an epoch so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Sums {
    /// Losses.
    pub loss: f64,
    /// Images whose class was the first guess.
    pub correct: usize,
    /// Images.
    pub images: usize,
}

/// What a checkpoint keeps besides tensors.
#[derive(Debug, Serialize, Deserialize)]
struct LoopState {
    #[serde(flatten)]
    sums: Sums,
    /// The complete epochs, so that a checkpoint needs no other file; checkpoints of earlier versions have none.
    #[serde(default)]
    epochs: Vec<EpochMetrics>,
}

/// The checkpoint of a trainer at a place, behind these epochs.
pub(super) fn checkpoint<B: TrainBackend>(
    trainer: &ClassifierTrainer<B>,
    place: &Place,
    epochs: &[EpochMetrics],
    config: &FinetuneConfig,
    settings: &str,
) -> Result<Checkpoint> {
    let state = LoopState {
        sums: place.sums,
        epochs: epochs.to_vec(),
    };
    let state = serde_json::to_value(state)
        .map_err(|error| Error::Training(format!("the checkpoint cannot be written: {error}")))?;
    Ok(Checkpoint {
        manifest: Manifest {
            format: FORMAT,
            ibot: env!("CARGO_PKG_VERSION").into(),
            step: trainer.steps(),
            epoch: place.epoch,
            batch: place.batch,
            seed: config.seed,
            config: settings.to_owned(),
            knn: None,
            learning_rate_factor: 1.0,
            rollbacks: 0,
            loop_state: state,
        },
        tensors: trainer.tensors(),
    })
}

/// The place of a checkpoint, and the epochs before it, unless an earlier version wrote it.
///
/// # Errors
/// [`Error::Checkpoint`] where it is none of fine-tuning.
pub(super) fn place_of(manifest: &Manifest, folder: &Path) -> Result<(Place, Vec<EpochMetrics>)> {
    let state = LoopState::deserialize(&manifest.loop_state).map_err(|error| {
        let reason = format!(
            "holds a fine-tuning that another version of ibot began ({error}), or none; resume it with that version, or choose another folder with `out`"
        );
        Error::checkpoint(folder, reason)
    })?;
    let place = Place {
        epoch: manifest.epoch,
        batch: manifest.batch,
        sums: state.sums,
    };
    Ok((place, state.epochs))
}

/// Whether epochs are the first `count`, in order.
pub(super) fn are_first(epochs: &[EpochMetrics], count: usize) -> bool {
    epochs.iter().map(|metrics| metrics.epoch).eq(1..=count)
}

/// The best and the last of complete epochs, whose classifiers are in these files; none without an epoch.
fn exported(epochs: &[EpochMetrics], files: [PathBuf; 2]) -> Option<[Exported; 2]> {
    let [best_file, last_file] = files;
    let of = |metrics: &EpochMetrics, file: PathBuf| Exported {
        file,
        epoch: metrics.epoch,
        top1: metrics.top1,
        top1_interval: wilson_interval(metrics.top1, metrics.tested),
        top5: metrics.top5,
    };
    let (best, last) = (best_of(epochs)?, epochs.last()?);
    Some([of(best, best_file), of(last, last_file)])
}

/// The best of complete epochs, the first of equal ones; none without an epoch.
pub(super) fn best_of(epochs: &[EpochMetrics]) -> Option<&EpochMetrics> {
    epochs
        .iter()
        .reduce(|best, next| if next.top1 > best.top1 { next } else { best })
}

/// The results of complete epochs, whose classifiers are in `files`.
pub(super) fn report(
    origin: &Origin,
    images: &LabeledImages,
    epochs: Vec<EpochMetrics>,
    files: [PathBuf; 2],
) -> Result<FinetuneReport> {
    let none = || Error::config("epochs", 0, "must be at least 1");
    let [best, last] = exported(&epochs, files).ok_or_else(none)?;
    Ok(FinetuneReport {
        classes: origin.classes.clone(),
        images: images.train.len(),
        held_out: images.held_out.len(),
        epochs,
        best,
        last,
    })
}
