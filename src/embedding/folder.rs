//! All images of a folder.

use std::sync::Arc;

use rayon::prelude::*;

use crate::data::{ImageFolder, ImageSource as _, eval_batches, none_usable};
use crate::embedding::embedded::{Embedded, FeatureKind, NOT_FINITE};
use crate::embedding::embedder::Embedder;
use crate::embedding::engine::{Made, Wanted};
use crate::embedding::stamp::FileStamp;
use crate::error::{Error, Result};
use crate::eval::FeatureSet;
use crate::path_text::absolute;

/// How a folder is embedded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FolderRequest {
    /// Which feature.
    pub kind: FeatureKind,
    /// Number of final blocks to concatenate, last block last; 1 to the depth.
    pub layers: usize,
    /// Images a batch.
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

    /// The kind and the number of blocks in a [`FolderRequest::recipe`]; none for another text.
    pub fn of_recipe(recipe: &str) -> Option<(FeatureKind, usize)> {
        let (kind, blocks) = recipe.split_once(" of ")?;
        let kind = match kind {
            "cls" => FeatureKind::Cls,
            "mean patch" => FeatureKind::Patch,
            "cls and mean patch" => FeatureKind::Both,
            _ => return None,
        };
        Some((kind, blocks.split(' ').next()?.parse().ok()?))
    }

    /// What a model is to compute.
    pub(super) fn wanted(&self) -> Wanted {
        Wanted {
            layers: self.layers,
            patch_means: self.kind != FeatureKind::Cls,
            ..Wanted::CLS
        }
    }

    /// Appends the requested features of a batch, a row an image; `width` is that of one feature.
    pub(super) fn add_features(&self, made: Made, width: usize, features: &mut Vec<f32>) {
        match self.kind {
            FeatureKind::Cls => features.extend(made.cls),
            FeatureKind::Patch => features.extend(made.patch_means),
            FeatureKind::Both => {
                let cls = made.cls.chunks_exact(width);
                let pairs = cls.zip(made.patch_means.chunks_exact(width));
                pairs.for_each(|(cls, patch)| features.extend(cls.iter().chain(patch)));
            }
        }
    }
}

/// Features of all images of a folder, in its order. `progress` gets the number of images after each batch; if it
/// returns false, the features so far are the result, and [`Embedded::is_cut_short`] is set.
///
/// # Errors
/// A number of layers that the model does not have, no usable image, a device that failed, or a feature that is not finite.
pub fn embed_folder(
    embedder: &Embedder,
    folder: &Arc<ImageFolder>,
    request: &FolderRequest,
    progress: &mut dyn FnMut(usize) -> bool,
) -> Result<Embedded> {
    let embedded = embed_images(embedder, folder, request, progress)?;
    if embedded.paths.is_empty() {
        Err(none_usable(folder.len(), embedded.skipped.first()))
    } else {
        Ok(embedded)
    }
}

/// [`embed_folder`], for which it is no error that no image is usable.
pub(super) fn embed_images(
    embedder: &Embedder,
    folder: &Arc<ImageFolder>,
    request: &FolderRequest,
    progress: &mut dyn FnMut(usize) -> bool,
) -> Result<Embedded> {
    check_layers(embedder, request.layers)?;
    let width = embedder.width();
    let wanted = request.wanted();
    let mut embedded = Embedded {
        set: FeatureSet {
            features: Vec::new(),
            width: width * request.layers * request.kind.parts(),
            labels: Vec::new(),
        },
        classes: folder.classes().to_vec(),
        recipe: request.recipe(embedder),
        input: embedder.input(folder.range()),
        ..Embedded::default()
    };
    let stamps = stamps(folder); // before the first is read
    let augment = embedder.preprocessing().augment();
    let mut batches = eval_batches(
        folder.clone(),
        &augment,
        request.batch_size,
        request.workers,
    )?
    .or_none();
    while let Some(batch) = batches.next() {
        let batch = batch?;
        let made = embedder.run_pixels(batch.pixels, wanted)?;
        request.add_features(made, width, &mut embedded.set.features);
        embedded.set.labels.extend(batch.labels);
        for sample in batch.samples {
            let path = folder.name(sample);
            embedded.paths.push(absolute(&path)?);
            embedded.stamps.push(stamps[sample]);
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

/// Size and time of each image's file, and its range of values, in the folder's order.
pub(super) fn stamps(folder: &ImageFolder) -> Vec<Option<FileStamp>> {
    let stamp = |at: usize| {
        let stamp = FileStamp::of(&folder.name(at))?;
        Some(stamp.with_range(folder.range_of(at)))
    };
    (0..folder.len()).into_par_iter().map(stamp).collect()
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
        Some(path) => Err(Error::data(path, NOT_FINITE)),
    }
}
