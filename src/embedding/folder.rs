//! All pictures of a folder.

use std::sync::Arc;

use crate::data::{ImageFolder, PictureSource as _, eval_batches};
use crate::embedding::embedded::{Embedded, FeatureKind};
use crate::embedding::embedder::Embedder;
use crate::embedding::engine::Wanted;
use crate::error::{Error, Result};
use crate::eval::FeatureSet;

/// How a folder is embedded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FolderRequest {
    /// Which feature.
    pub kind: FeatureKind,
    /// Number of final blocks to concatenate, last block last; 1 to the depth.
    pub layers: usize,
    /// Pictures a batch.
    pub batch_size: usize,
    /// Threads that decode; 0 for one a core.
    pub workers: usize,
}

impl Default for FolderRequest {
    fn default() -> Self {
        Self {
            kind: FeatureKind::Cls,
            layers: 1,
            batch_size: 32,
            workers: 0,
        }
    }
}

impl FolderRequest {
    /// The requested features in words: two tables of one model can be compared if these agree.
    pub fn recipe(&self, embedder: &Embedder) -> String {
        let kind = match self.kind {
            FeatureKind::Cls => "cls",
            FeatureKind::Patch => "mean patch",
            FeatureKind::Both => "cls and mean patch",
        };
        let blocks = if self.layers == 1 { "block" } else { "blocks" };
        let side = embedder.preprocessing().image_size;
        format!("{kind} of {} {blocks} at {side} pixels", self.layers)
    }
}

/// Features of all pictures of a folder, in its order. `progress` gets the number of pictures after each batch; if it
/// returns false, the features so far are the result, and [`Embedded::is_cut_short`] is set.
///
/// # Errors
/// A number of layers that the model does not have, no usable picture, a device that failed, or a feature that is not finite.
pub fn embed_folder(
    embedder: &Embedder,
    folder: &Arc<ImageFolder>,
    request: &FolderRequest,
    progress: &mut dyn FnMut(usize) -> bool,
) -> Result<Embedded> {
    let width = embedder.width();
    check_layers(embedder, request.layers)?;
    let wanted = Wanted {
        layers: request.layers,
        patch_means: request.kind != FeatureKind::Cls,
        ..Wanted::CLS
    };
    let mut embedded = Embedded {
        set: FeatureSet {
            features: Vec::new(),
            width: width * request.layers * request.kind.parts(),
            labels: Vec::new(),
        },
        classes: folder.classes().to_vec(),
        recipe: request.recipe(embedder),
        ..Embedded::default()
    };
    let augment = embedder.preprocessing().augment();
    let mut batches = eval_batches(
        folder.clone(),
        &augment,
        request.batch_size,
        request.workers,
    )?;
    while let Some(batch) = batches.next() {
        let batch = batch?;
        let made = embedder.run_pixels(batch.pixels, wanted)?;
        let features = &mut embedded.set.features;
        match request.kind {
            FeatureKind::Cls => features.extend(made.cls),
            FeatureKind::Patch => features.extend(made.patch_means),
            FeatureKind::Both => {
                let cls = made.cls.chunks_exact(width);
                let pairs = cls.zip(made.patch_means.chunks_exact(width));
                pairs.for_each(|(cls, patch)| features.extend(cls.iter().chain(patch)));
            }
        }
        embedded.set.labels.extend(batch.labels);
        for sample in batch.samples {
            let path = folder.name(sample);
            let absolute = std::path::absolute(&path).map_err(Error::io(&path))?;
            embedded.paths.push(absolute);
        }
        embedded.skipped.extend(batches.take_skipped());
        if !progress(embedded.paths.len()) {
            embedded.is_cut_short = embedded.paths.len() < folder.len();
            break;
        }
    }
    embedded.skipped.extend(batches.take_skipped());
    refuse_not_finite(embedded)
}

/// Refuses a number of final blocks that the model does not have.
pub(super) fn check_layers(embedder: &Embedder, layers: usize) -> Result<()> {
    let depth = embedder.architecture().depth;
    if (1..=depth).contains(&layers) {
        return Ok(());
    }
    let remedy = format!("must be from 1 to {depth}, the model's number of blocks");
    Err(Error::config("layers", layers, remedy))
}

fn refuse_not_finite(embedded: Embedded) -> Result<Embedded> {
    let row = embedded.set.width;
    let wrong = embedded
        .set
        .features
        .iter()
        .position(|value| !value.is_finite());
    match wrong.and_then(|at| embedded.paths.get(at / row)) {
        None => Ok(embedded),
        Some(path) => Err(Error::data(path, "its features are not finite")),
    }
}
